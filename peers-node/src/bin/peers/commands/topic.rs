//! `peers topic`.

use std::path::Path;

use serde::Serialize;

use super::{ask_line, asking, content, socket};
use crate::args::{PublishWait, Stored, Topic};
use crate::body::Body;
use crate::control::Request;
use crate::control::answer::{Count, Message, Progress};
use crate::control::client::{Call, Next, ask};
use crate::control::request::{TopicName, Until};
use crate::failure::{Code, Failure};
use crate::output::{Output, note};
use crate::signal::interrupted;
use crate::text::{plural, safe, size, time};

pub(crate) async fn topic(command: Topic, output: Output) -> Result<(), Failure> {
    match command {
        Topic::Publish { topic, text, wait, stored, passphrase } => {
            let topic = name(topic, passphrase)?;
            let body = match text {
                Some(text) if text != "-" => text.into_bytes(),
                _ => content(Path::new("-"))?,
            };
            publish(topic, Body::new(&body), wait, &stored, output).await
        }
        Topic::Query { topic, text, timeout, count, passphrase } => {
            asking::query(name(topic, passphrase)?, &text, timeout, count, output).await
        }
        Topic::Answer { topic, text, count, passphrase } => asking::answer(name(topic, passphrase)?, &text, count, output).await,
        Topic::Who { topic, timeout, passphrase } => asking::who(name(topic, passphrase)?, timeout, output).await,
        Topic::Announce { topic, passphrase } => asking::announce(name(topic, passphrase)?, output).await,
        Topic::Follow { topic, last, count, no_wait, passphrase } => {
            let topic = name(topic, passphrase)?;
            follow(&Request::Follow { topic, last, live: !no_wait, count }, count, output).await
        }
    }
}

/// Publishes, and tells how far it got.
pub(super) async fn publish(topic: TopicName, body: Body, wait: PublishWait, stored: &Stored, output: Output) -> Result<(), Failure> {
    let until = match wait {
        PublishWait::Queued => Until::Queued,
        PublishWait::Stored => Until::Stored,
    };
    let timeout_ms = u64::try_from(stored.timeout.as_millis()).unwrap_or(u64::MAX);
    let request = Request::Publish { topic, body, until, copies: stored.copies, timeout_ms };
    let progress: Progress = ask(&socket()?, &request).await?;
    let copies = if until == Until::Stored {
        format!(", held by {}", plural(progress.copies as usize, "other peer", "other peers"))
    } else {
        String::new()
    };
    output.say(format!("published {}{copies}", progress.id));
    output.finish(&progress);
    Ok(())
}

#[derive(Serialize)]
struct Messages {
    messages: Vec<Message>,
}

pub(super) async fn follow(request: &Request, count: Option<usize>, output: Output) -> Result<(), Failure> {
    let mut call = Call::new(&socket()?, request).await?;
    let mut messages = Vec::new();
    let mut shown = 0;
    let end = interrupted();
    tokio::pin!(end);
    loop {
        let next = tokio::select! {
            next = call.next::<Message, Count>() => next?,
            () = &mut end => break,
        };
        let Next::Event(message) = next else { break };
        shown += 1;
        if output.is_json() {
            messages.push(message);
            if messages.len() == MAX_COLLECTED {
                break;
            }
        } else {
            output.say(line(&message));
        }
    }
    output.finish(&Messages { messages });
    match count {
        Some(wanted) if shown < wanted && matches!(request, Request::Follow { live: true, .. }) => {
            note(format!("peers: {shown} of {wanted} messages had come when it was interrupted"));
            Err(Failure::told(Code::Failed))
        }
        _ => Ok(()),
    }
}

fn line(message: &Message) -> String {
    let author = message.author_name.as_deref().unwrap_or_else(|| message.author.get(..8).unwrap_or_default());
    let body = match &message.body {
        Body::Text(text) => safe(text, true),
        blob @ Body::Blob { .. } => format!("<{}>", size(blob.len() as u64)),
    };
    format!("{} {}: {body}", time(message.created), safe(author, false))
}

pub(super) fn name(label: String, passphrase: bool) -> Result<TopicName, Failure> {
    if label.is_empty() {
        return Err(Failure::usage("a topic needs a name"));
    }
    let passphrase = if passphrase { Some(ask_line("Passphrase of the topic: ", true)?) } else { None };
    Ok(TopicName { label, passphrase, group: false })
}

/// Messages that one JSON object holds.
const MAX_COLLECTED: usize = 100_000;
