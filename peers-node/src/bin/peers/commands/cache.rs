//! `peers cache`.

use core::fmt::Write as _;
use core::time::Duration;
use std::collections::BTreeMap;
use std::path::PathBuf;

use peers_node::{PacketsExported, PacketsImported, Status, TraceStatus};
use serde::Serialize;

use super::{absolute, socket, topic};
use crate::args::Cache;
use crate::control::Request;
use crate::control::client::ask;
use crate::control::request::TopicName;
use crate::failure::{Code, Failure};
use crate::output::{Output, note};
use crate::text::{columns, count, plural, safe, size, time};

pub(crate) async fn cache(command: Cache, output: Output) -> Result<(), Failure> {
    match command {
        Cache::Status => status(output).await,
        Cache::Trace { id, timeout } => trace(id, timeout, output).await,
        Cache::Export { file, topic: label, group, passphrase } => {
            let topic = match (label, group) {
                (Some(label), _) => Some(topic::name(label, passphrase)?),
                (None, Some(label)) => Some(TopicName { label, passphrase: None, group: true }),
                (None, None) => None,
            };
            export(file, topic, output).await
        }
        Cache::Import { file } => {
            let file = absolute(&file)?;
            let imported: PacketsImported = ask(&socket()?, &Request::Import { file }).await?;
            output.say(shown_import(&imported));
            output.finish(&imported);
            Ok(())
        }
    }
}

#[derive(Serialize)]
struct CacheState {
    packets: u64,
    bytes: u64,
    budget: u64,
    neighbours: u64,
    counters: BTreeMap<String, u64>,
}

async fn status(output: Output) -> Result<(), Failure> {
    let status: Status = ask(&socket()?, &Request::Status {}).await?;
    let counters = status.counters.into_iter().filter_map(|(name, value)| Some((name.strip_prefix("cache.")?.to_owned(), value)));
    let mut counters: BTreeMap<String, u64> = counters.collect();
    for gauge in ["held", "used"] {
        counters.remove(gauge);
    }
    let neighbours = counters.remove("neighbours").unwrap_or(0);
    let state = CacheState { packets: status.cache.packets, bytes: status.cache.bytes, budget: status.cache.budget, neighbours, counters };
    let mut out = format!(
        "{}, {} of {}; {} connected\n\nSince the start\n",
        plural(usize::try_from(state.packets).unwrap_or(usize::MAX), "packet", "packets"),
        size(state.bytes),
        size(state.budget),
        plural(usize::try_from(neighbours).unwrap_or(usize::MAX), "peer", "peers"),
    );
    out.push_str(&columns(&state.counters.iter().map(|(name, value)| [format!("  {name}"), count(*value)]).collect::<Vec<_>>()));
    output.say(out);
    output.finish(&state);
    Ok(())
}

async fn trace(id: String, timeout: Duration, output: Output) -> Result<(), Failure> {
    let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let trace: TraceStatus = ask(&socket()?, &Request::Trace { id, timeout_ms }).await?;
    output.say(shown_trace(&trace));
    output.finish(&trace);
    if trace.held.is_some() || !trace.holders.is_empty() || !trace.receipts.is_empty() {
        return Ok(());
    }
    note("peers: no peer that can be reached holds it: it has expired, or its holders are offline");
    Err(Failure::told(Code::Unreachable))
}

fn shown_trace(trace: &TraceStatus) -> String {
    let mut out = format!("{}\n", trace.id);
    match &trace.held {
        Some(held) => {
            let came = if trace.hops > 0 { "found and now held here" } else { "held here" };
            let parts =
                if held.fragments > 0 { format!(", the head of {} parts", count(u64::from(held.fragments))) } else { String::new() };
            let _ = writeln!(
                out,
                "{came}: {}{parts}, created {}, expires {}",
                size(held.bytes as u64),
                time(held.created.0),
                time(held.expires.0)
            );
            let _ = writeln!(out, "topic {}, postage {}", held.topic, held.postage);
        }
        None => {
            let _ = writeln!(out, "not held here; sought {} beyond the neighbours", plural(trace.hops.into(), "hop", "hops"));
        }
    }
    let _ = writeln!(out, "\n{} of {} answered", trace.answered, plural(trace.asked, "neighbour", "neighbours"));
    let name = |id: &peers_wire::PeerId, name: &Option<String>| name.as_ref().map_or_else(|| format!("{id:.8}"), |name| safe(name, false));
    let holders = trace.holders.iter().map(|holder| {
        [format!("  {}", name(&holder.id, &holder.name)), if holder.proven { "holds it" } else { "says that it holds it" }.to_owned()]
    });
    out.push_str(&columns(&holders.collect::<Vec<_>>()));
    if !trace.receipts.is_empty() {
        out.push_str("\nReceipts\n");
        let receipts = trace.receipts.iter().map(|receipt| [format!("  {}", name(&receipt.id, &receipt.name)), time(receipt.signed.0)]);
        out.push_str(&columns(&receipts.collect::<Vec<_>>()));
    }
    out
}

async fn export(file: PathBuf, topic: Option<TopicName>, output: Output) -> Result<(), Failure> {
    let file = absolute(&file)?;
    let shown = file.display().to_string();
    let exported: PacketsExported = ask(&socket()?, &Request::Export { file, topic }).await?;
    output.say(format!("{} in {shown}, {}", packets(exported.packets), size(exported.bytes)));
    output.finish(&exported);
    Ok(())
}

fn shown_import(imported: &PacketsImported) -> String {
    let mut out = format!("{} of {} taken in", count(imported.taken), packets(imported.packets));
    let others = [
        (imported.held, "held already"),
        (imported.untimely, "expired or dated in the future"),
        (imported.forged, "not genuine"),
        (imported.orphaned, "parts of messages that are not here"),
        (imported.without_room, "without room"),
    ];
    for (number, what) in others.into_iter().filter(|(number, _)| *number > 0) {
        let _ = write!(out, "\n  {} {what}", count(number));
    }
    out
}

fn packets(number: u64) -> String {
    plural(usize::try_from(number).unwrap_or(usize::MAX), "packet", "packets")
}
