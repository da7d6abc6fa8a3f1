//! `peers topic query`, `answer`, `who` and `announce`.

use core::time::Duration;

use peers_node::PresentStatus;
use serde::Serialize;

use super::socket;
use crate::body::Body;
use crate::control::Request;
use crate::control::answer::{Coming, Count, Said};
use crate::control::client::{Call, Next, ask};
use crate::control::request::TopicName;
use crate::failure::{Code, Failure};
use crate::output::{Output, note};
use crate::signal::interrupted;
use crate::text::{columns, safe, size, time};

#[derive(Serialize)]
struct Answers {
    answers: Vec<Said>,
}

#[derive(Serialize)]
struct Questions {
    questions: Vec<Said>,
}

#[derive(Serialize)]
struct Who {
    present: Vec<PresentStatus>,
}

#[derive(Serialize)]
struct Changes {
    changes: Vec<Coming>,
}

/// Asks, and shows the answers as they come.
pub(super) async fn query(topic: TopicName, text: &str, timeout: Duration, count: Option<usize>, output: Output) -> Result<(), Failure> {
    let request = Request::Query { topic, body: Body::new(text.as_bytes()), timeout_ms: millis(timeout), count };
    let answers = listen(&request, output, line).await?;
    let found = !answers.is_empty();
    output.finish(&Answers { answers });
    if found {
        return Ok(());
    }
    note("peers: nobody has answered: no program that answers follows this topic and can be reached now");
    note("  see `peers status` for the peers that are connected; `peers topic answer` answers, on another device");
    Err(Failure::told(Code::Unreachable))
}

/// Answers what is asked, and shows it.
pub(super) async fn answer(topic: TopicName, text: &str, count: Option<usize>, output: Output) -> Result<(), Failure> {
    let request = Request::Answer { topic, body: Body::new(text.as_bytes()), count };
    let questions = listen(&request, output, line).await?;
    output.finish(&Questions { questions });
    Ok(())
}

pub(super) async fn who(topic: TopicName, timeout: Duration, output: Output) -> Result<(), Failure> {
    let present: Vec<PresentStatus> = ask(&socket()?, &Request::Who { topic, timeout_ms: millis(timeout) }).await?;
    let rows = present.iter().map(|present| {
        let until = present.until.map_or_else(|| "this device".to_owned(), |until| format!("until {}", time(until.0)));
        [shown(&present.id.to_string(), present.name.as_deref()), until, present.id.to_string()]
    });
    let rows = columns(&rows.collect::<Vec<_>>());
    output.say(if present.is_empty() { "nobody is there" } else { &rows });
    output.finish(&Who { present });
    Ok(())
}

pub(super) async fn announce(topic: TopicName, output: Output) -> Result<(), Failure> {
    output.progress("this device is there until you interrupt this");
    let line =
        |change: &Coming| format!("{} {}", shown(&change.id, change.name.as_deref()), if change.here { "is there" } else { "has left" });
    let changes = listen(&Request::Announce { topic }, output, line).await?;
    output.finish(&Changes { changes });
    Ok(())
}

/// Shows what comes, or collects it for JSON, until the request ends or is interrupted.
async fn listen<E: serde::de::DeserializeOwned>(request: &Request, output: Output, line: impl Fn(&E) -> String) -> Result<Vec<E>, Failure> {
    let mut call = Call::new(&socket()?, request).await?;
    let mut events = Vec::new();
    let end = interrupted();
    tokio::pin!(end);
    loop {
        let next = tokio::select! {
            next = call.next::<E, Count>() => next?,
            () = &mut end => break,
        };
        let Next::Event(event) = next else { break };
        output.say(line(&event));
        events.push(event);
        if events.len() == MAX_COLLECTED {
            break;
        }
    }
    Ok(events)
}

fn line(said: &Said) -> String {
    let body = match &said.body {
        Body::Text(text) => safe(text, true),
        blob @ Body::Blob { .. } => format!("<{}>", size(blob.len() as u64)),
    };
    format!("{}: {body}", shown(&said.from, said.from_name.as_deref()))
}

fn shown(id: &str, name: Option<&str>) -> String {
    name.map_or_else(|| id.get(..8).unwrap_or(id).to_owned(), |name| safe(name, false))
}

fn millis(timeout: Duration) -> u64 {
    u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)
}

/// Events that one JSON object holds.
const MAX_COLLECTED: usize = 100_000;
