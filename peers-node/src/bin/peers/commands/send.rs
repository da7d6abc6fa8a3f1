//! `peers send`.

use super::{content, socket};
use crate::args::{Send, SendWait};
use crate::body::Body;
use crate::control::Request;
use crate::control::answer::Progress;
use crate::control::client::{Call, Next};
use crate::control::request::Until;
use crate::failure::Failure;
use crate::output::{Output, has_screen, note};
use crate::text::{plural, safe};

pub(crate) async fn send(arguments: Send, output: Output) -> Result<(), Failure> {
    let (name, body) = match (arguments.text, arguments.file) {
        (Some(text), _) => (None, text.into_bytes()),
        (None, Some(file)) => (file.file_name().map(|name| name.to_string_lossy().into_owned()), content(&file)?),
        (None, None) => return Err(Failure::usage("there is nothing to send").hint("name a file, or give --text")),
    };
    let name = name.filter(|name| name != "-");
    let until = match arguments.wait {
        SendWait::Queued => Until::Queued,
        SendWait::Stored => Until::Stored,
        SendWait::Delivered => Until::Delivered,
    };
    let timeout_ms = u64::try_from(arguments.stored.timeout.as_millis()).unwrap_or(u64::MAX);
    let to = arguments.to;
    let request = Request::Send { to: to.clone(), name, body: Body::new(&body), until, copies: arguments.stored.copies, timeout_ms };
    let mut call = Call::new(&socket()?, &request).await?;
    let progress = loop {
        match call.next::<Progress, Progress>().await? {
            Next::Event(step) if has_screen() => note(shown(&step)),
            Next::Event(_) => {}
            Next::Done(progress) => break progress,
        }
    };
    let fate = match until {
        _ if progress.delivered == Some(true) => "delivered to",
        Until::Queued => "queued for",
        _ => "stored for",
    };
    let copies = if progress.copies > 0 {
        format!(", held by {}", plural(progress.copies as usize, "other peer", "other peers"))
    } else {
        String::new()
    };
    output.say(format!("{fate} {}{copies}", safe(&to, false)));
    output.finish(&progress);
    Ok(())
}

/// How far it has come, while it is waited for.
fn shown(step: &Progress) -> String {
    match step {
        Progress { delivered: Some(true), .. } => "  delivered".to_owned(),
        Progress { copies: 0, .. } => "  kept here".to_owned(),
        Progress { copies, .. } => format!("  held by {}", plural(*copies as usize, "other peer", "other peers")),
    }
}
