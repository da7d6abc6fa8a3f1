//! `peers netcheck`.

use core::fmt::Write as _;
use core::time::Duration;

use peers_node::{Bootstrap, Netcheck, Node, Options};

use super::home;
use super::id::passphrase;
use crate::args;
use crate::control::Request;
use crate::control::client::ask;
use crate::failure::{Code, Failure};
use crate::output::Output;
use crate::text::{columns, plural, safe};

pub(crate) async fn netcheck(arguments: &args::Netcheck, output: Output) -> Result<(), Failure> {
    let home = home()?;
    let wait = Duration::from_secs(arguments.wait.min(3600));
    let request = Request::Netcheck { wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX) };
    let found = match ask::<Netcheck>(&home.control_socket(), &request).await {
        Err(failure) if failure.code == Code::Unreachable => {
            let bootstrap = arguments.peer.iter().map(|peer| Bootstrap { id: peer.id, address: peer.address }).collect();
            let passphrase = passphrase(&arguments.passphrase, &home.key_file())?;
            output.progress("no node runs here: one is started for as long as this takes");
            let node = Node::open(&home, Options { bootstrap, passphrase, port_mapping: false, ..Options::default() }).await?;
            let found = node.netcheck(wait).await;
            node.close().await;
            found?
        }
        found => found?,
    };
    output.say(shown(&found));
    output.finish(&found);
    if found.kind == "unknown" { Err(Failure::told(Code::Unreachable)) } else { Ok(()) }
}

fn shown(found: &Netcheck) -> String {
    let mut out = found.means.join("\n");
    out.push('\n');
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "not known".to_owned());
    let mut rows = vec![["  network".to_owned(), found.kind.clone()]];
    if let Some(external) = found.external {
        rows.push(["  seen from outside at".to_owned(), external.to_string()]);
    }
    rows.push(["  mapping".to_owned(), text(&found.mapping)]);
    rows.push(["  filtering".to_owned(), text(&found.filtering)]);
    if let Some(ports) = &found.ports {
        let detail = match (found.step, found.block) {
            (Some(step), _) => format!("{ports}, in steps of {step}"),
            (_, Some((low, high))) => format!("{ports}, seen from {low} to {high}"),
            _ => ports.clone(),
        };
        rows.push(["  ports".to_owned(), detail]);
    }
    if let Some(hairpin) = found.hairpin {
        rows.push(["  hairpin".to_owned(), if hairpin { "yes" } else { "no" }.to_owned()]);
    }
    for (what, known) in [("  silent, answered flow", found.replied), ("  silent, unanswered flow", found.unreplied)] {
        let state = match (known.proven_s, known.expired_s) {
            (Some(proven), Some(expired)) => format!("there after {proven:.0} s, gone after {expired:.0} s"),
            (Some(proven), None) => format!("there after {proven:.0} s"),
            (None, Some(expired)) => format!("gone after {expired:.0} s"),
            (None, None) => continue,
        };
        rows.push([what.to_owned(), state]);
    }
    let _ = write!(out, "\n{}", columns(&rows));
    let _ = writeln!(out, "\n{}, of which {} fit together", plural(found.reporters.len(), "report", "reports"), found.agreed);
    let reporters = found.reporters.iter().map(|reporter| {
        let name = reporter.name.as_ref().map_or_else(|| format!("{:.8}", reporter.id), |name| safe(name, false));
        [format!("  {name}"), format!("saw {}", reporter.seen), if reporter.agrees { "" } else { "not believed" }.to_owned()]
    });
    out.push_str(&columns(&reporters.collect::<Vec<_>>()));
    out
}
