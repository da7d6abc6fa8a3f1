//! How long two nodes hear nothing of each other when the path between them dies.

use std::time::Duration;

use anyhow::bail;
use peers_tests::scenario::matrix::median;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::lab::{Lab, Nodes};
use super::matrix::Args;
use super::node::{Said, What};

/// The longest silence in either direction, in milliseconds, between two nodes behind port-restricted NATs that send each other data all the time; medians. None where they never
/// heard each other again, or it was not measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Silence {
    /// The NAT of one forgets its mappings and chooses other ports.
    rebind_ms: Option<f64>,
    /// Nothing passes any more between the two NATs.
    cut_ms: Option<f64>,
    /// One moves to another LAN, with another address, behind another NAT.
    roam_ms: Option<f64>,
}

/// Pause between two pieces of data, in milliseconds.
const INTERVAL: u32 = 20;
/// How long the two may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// Data that comes again for so long is there to stay.
const AGAIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: &Args) -> anyhow::Result<Silence> {
    let spec = "host pub; nat ra port-restricted a; nat rb port-restricted b; nat rc port-restricted c";
    let faults: [(&str, &[&str]); 3] =
        [("the NAT reboots", &["rebind", "ra"]), ("the direct path dies", &["cut", "ra", "rb"]), ("roaming", &["move", "a", "rc"])];
    let mut medians = Vec::new();
    for (name, fault) in faults {
        let mut silences = Vec::new();
        for _ in 0..args.runs {
            let lab = Lab::up(spec, args.delay, &["pub", "ra", "rb", "rc"].map(str::to_owned)).await?;
            silences.extend(once(&lab, fault).await?);
        }
        let times: Vec<_> = silences.iter().map(|ms| format!("{ms:.0}")).collect();
        eprintln!("silence when {name}, ms: {}", if times.is_empty() { "for ever".to_owned() } else { times.join(", ") });
        medians.push(median(silences));
    }
    Ok(Silence { rebind_ms: medians[0], cut_ms: medians[1], roam_ms: medians[2] })
}

async fn once(lab: &Lab, fault: &[&str]) -> anyhow::Result<Option<f64>> {
    let address = lab.call(&["addr", "pub"]).await?;
    let mut public = Nodes::new();
    let (_, relay) = public.start(lab, "pub", &["--listen", "0.0.0.0:4000"]).await?;
    let mut nodes = Nodes::new();
    let Some([(a, a_id), (b, b_id)]) =
        nodes.start_pair(lab, ["a", "b"], &[format!("{address}:4000")], std::slice::from_ref(&relay)).await?
    else {
        bail!("the nodes do not meet the public one");
    };
    nodes.tell(a, &format!("connect {b_id}")).await?;
    let mut direct = [false; 2];
    let deadline = Instant::now() + PATIENCE;
    while direct != [true; 2] {
        match nodes.next(deadline).await {
            Some((who, Said { what: What::Connected { peer, direct: is } | What::Path { peer, direct: is }, .. })) if peer != relay => {
                direct[usize::from(who == b)] = is;
            }
            Some(_) => {}
            None => bail!("two nodes behind port-restricted NATs do not become direct"),
        }
    }
    nodes.tell(a, &format!("stream {b_id} {INTERVAL}")).await?;
    nodes.tell(b, &format!("stream {a_id} {INTERVAL}")).await?;
    // Long enough for all that follows a new path to be over.
    sleep(AGAIN).await;
    let mut heard = [f64::NAN; 2];
    let settled = Instant::now() + AGAIN;
    while let Some((who, said)) = nodes.next(settled).await {
        if let What::Data { .. } = said.what {
            heard[usize::from(who == b)] = said.at;
        }
    }
    if heard.iter().any(|at| at.is_nan()) {
        bail!("two connected nodes do not hear each other");
    }
    lab.call(fault).await?;
    let (mut longest, mut resumed) = ([0.0f64; 2], [None::<Instant>; 2]);
    let deadline = Instant::now() + PATIENCE;
    while let Some((who, said)) = nodes.next(deadline).await {
        let end = usize::from(who == b);
        if let What::Data { .. } = said.what {
            let silent = said.at - heard[end];
            heard[end] = said.at;
            if silent > longest[end] {
                (longest[end], resumed[end]) = (silent, Some(Instant::now()));
            }
        }
        if resumed.iter().all(|at| at.is_some_and(|at| at.elapsed() > AGAIN)) {
            return Ok(Some(longest[0].max(longest[1])));
        }
    }
    Ok(None)
}
