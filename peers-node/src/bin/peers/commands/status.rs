//! `peers status`.

use core::fmt::Write as _;

use peers_node::Status;

use super::db::summary;
use super::socket;
use crate::control::Request;
use crate::control::client::ask;
use crate::failure::Failure;
use crate::output::Output;
use crate::text::{columns, plural, safe, size};

pub(crate) async fn status(output: Output) -> Result<(), Failure> {
    let status: Status = ask(&socket()?, &Request::Status {}).await?;
    output.say(shown(&status));
    output.finish(&status);
    Ok(())
}

fn shown(status: &Status) -> String {
    let mut out = String::new();
    let list = |addresses: &[core::net::SocketAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let _ = writeln!(out, "{} ({})", safe(&status.name, false), status.id);
    let _ = writeln!(out, "listening on {}", list(&status.listen));
    if !status.reflexive.is_empty() {
        let _ = writeln!(out, "seen by others as {}", list(&status.reflexive));
    }
    for mapped in &status.port_mapping.mapped {
        let _ = writeln!(out, "mapped by the router to {} ({})", mapped.address, mapped.by);
    }
    if let Some(trouble) = &status.port_mapping.trouble {
        let _ = writeln!(out, "no port is mapped: {}", safe(trouble, false));
    }
    let _ = writeln!(out, "\nYou: {}, {}", status.user.id, plural(status.user.devices.len(), "device", "devices"));
    let mut devices: Vec<_> = status.user.devices.iter().collect();
    devices.sort_by_key(|device| (!device.this, &device.name));
    let devices = devices.into_iter().map(|device| {
        let state = if device.this {
            "this device"
        } else if device.connected {
            "connected"
        } else {
            "not connected"
        };
        [format!("  {}", safe(&device.name, false)), state.to_owned(), device.id.to_string()]
    });
    out.push_str(&columns(&devices.collect::<Vec<_>>()));
    let _ = writeln!(out, "\n{}", plural(status.peers.len(), "peer", "peers"));
    let peers = status.peers.iter().map(|peer| {
        let name = peer.name.as_ref().map_or_else(|| format!("{:.8}", peer.id), |name| safe(name, false));
        let rtt = peer.rtt_ms.map(|rtt| format!("{rtt:.1} ms")).unwrap_or_default();
        [format!("  {name}"), peer.path.clone(), rtt]
    });
    out.push_str(&columns(&peers.collect::<Vec<_>>()));
    let cache = &status.cache;
    let _ = writeln!(
        out,
        "\nCache for everyone: {}, {} of {}",
        plural(usize::try_from(cache.packets).unwrap_or(usize::MAX), "packet", "packets"),
        size(cache.bytes),
        size(cache.budget)
    );
    for (title, topics) in [("Topics", &status.topics), ("Groups", &status.groups)] {
        if topics.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{title}");
        let topics = topics.iter().map(|topic| {
            [
                format!("  {}", safe(&topic.label, false)),
                plural(usize::try_from(topic.messages).unwrap_or(usize::MAX), "message", "messages"),
            ]
        });
        out.push_str(&columns(&topics.collect::<Vec<_>>()));
    }
    if !status.databases.is_empty() {
        out.push_str("\nDatabases\n");
        out.push_str(&columns(&status.databases.iter().map(summary).collect::<Vec<_>>()));
    }
    out
}
