//! `peers up`: the node of this device, in the foreground.

use std::io::IsTerminal;

use peers_node::{Bootstrap, Node, NodeEvent, Options, Status};
use serde_json::json;
use tracing_subscriber::EnvFilter;

use super::home;
use super::id::passphrase;
use crate::args::Up;
use crate::control::server::Server;
use crate::failure::Failure;
use crate::output::Output;
use crate::signal::interrupted;
use crate::text::{plural, safe};

pub(crate) async fn up(arguments: Up, output: Output) -> Result<(), Failure> {
    let filter = EnvFilter::try_from_env("PEERS_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    let logging = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    logging.try_init().map_err(|error| Failure::failed(format!("logging cannot be set up: {error}")))?;

    let home = home()?;
    let mut options =
        Options { lan: !arguments.no_lan, passphrase: passphrase(&arguments.passphrase, &home.key_file())?, ..Options::default() };
    (options.port_mapping, options.lan_only) = (!arguments.no_port_mapping, arguments.lan_only);
    options.name = arguments.name.unwrap_or_else(host_name);
    options.bootstrap = arguments.peer.iter().map(|peer| Bootstrap { id: peer.id, address: peer.address }).collect();
    if !arguments.listen.is_empty() {
        options.listen = arguments.listen;
    }
    // Signals count from here on: none is lost while the node opens.
    let mut end = Box::pin(interrupted());
    let node = tokio::select! {
        node = Node::open(&home, options) => node?,
        () = &mut end => return Err(Failure::failed("interrupted before the node was open")),
    };
    let server = Server::bind(&home.control_socket())?;
    let mut events = node.events();
    let status = node.status().await?;
    introduce(&status, output);
    let begun = tokio::time::Instant::now();
    {
        let mut serve = Box::pin(server.serve(&node));
        loop {
            tokio::select! {
                () = &mut end => break,
                () = &mut serve => break,
                event = events.next() => match event {
                    Some(event) => tell(&event, output),
                    None => break,
                },
            }
        }
    }
    output.progress("closing");
    drop(server);
    node.close().await;
    output.finish(&json!({ "id": status.id, "listen": status.listen, "uptime_s": begun.elapsed().as_secs() }));
    Ok(())
}

fn introduce(status: &Status, output: Output) {
    output.progress(format!("{} is up: {}", safe(&status.name, false), status.id));
    for address in &status.listen {
        output.progress(format!("listening on {address}"));
    }
    let devices = status.user.devices.len();
    output.progress(format!("user {} with {}", status.user.id, plural(devices, "device", "devices")));
    for database in &status.databases {
        let place = database.path.as_ref().map_or_else(|| "on your other devices".to_owned(), |path| path.display().to_string());
        output.progress(format!("database {}: {place}", safe(&database.name, false)));
    }
}

/// What people want to see while it runs; everything else is in `peers status`.
fn tell(event: &NodeEvent, output: Output) {
    match event {
        NodeEvent::Connected { peer, path } => output.progress(format!("connected to {peer:.8}, {path}")),
        NodeEvent::Disconnected { peer } => output.progress(format!("disconnected from {peer:.8}")),
        NodeEvent::Mail(mail) => {
            let from = mail.from_name.clone().unwrap_or_else(|| format!("{:.8}", mail.from));
            output.progress(format!("mail from {}: see `peers inbox`", safe(&from, false)));
        }
        NodeEvent::Linked(linked) => output.progress(format!("linked with {} ({:.8})", safe(&linked.name, false), linked.device)),
        NodeEvent::LinkMatched(found) => output.progress(format!("{} has the code; both show: {}", safe(&found.name, false), found.words)),
        NodeEvent::LinkFailed { reason, .. } => output.progress(format!("linking failed: {}", safe(reason, false))),
        NodeEvent::LinkAttempt { device, attempts } => output
            .progress(format!("{device} came to an invitation that is over: {} tried it in all", plural(*attempts, "device", "devices"))),
        NodeEvent::Restored { name, .. } => output.progress(format!("you are back: {}", safe(name, false))),
        NodeEvent::RestoreFailed { reason } => output.progress(format!("recovery failed: {}", safe(reason, false))),
        NodeEvent::GuardianPackage { from, user } => {
            output.progress(format!("you are a guardian of {user}, says their device {from:.8}: see `peers recovery list`"));
        }
        NodeEvent::KeyForked { group_name, key, name, .. } => {
            let name = name.as_ref().map_or_else(|| format!("{key:.8}"), |name| safe(name, false));
            let group_name = safe(group_name, false);
            output.progress(format!(
                "WARNING: the key of {name} in {group_name} is in two places, a copy or a thief's: see `peers id audit`"
            ));
        }
        _ => {}
    }
}

fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    if name.is_empty() { "device".to_owned() } else { name }
}
