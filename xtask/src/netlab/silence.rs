//! How long two nodes hear nothing of each other when the path between them dies.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use peers_tests::scenario::matrix::median;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::lab::{Lab, Nodes};
use super::matrix::Args;
use super::node::{Said, What};

/// The longest silence in either direction, in milliseconds, between two nodes behind port-restricted NATs that send each other data all the time; or, where one was away, until both hear new data; medians. None where they never
/// heard each other again, or it was not measured.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Silence {
    /// The NAT of one forgets its mappings and chooses other ports.
    rebind_ms: Option<f64>,
    /// Nothing passes any more between the two NATs.
    cut_ms: Option<f64>,
    /// One moves to another LAN, with another address, behind another NAT.
    roam_ms: Option<f64>,
    /// The link of one was down for 3 s: from when it is up.
    link_ms: Option<f64>,
    /// One was asleep for 45 s, longer than any peer waits: from when it wakes.
    sleep_ms: Option<f64>,
}

/// What happens to the two.
#[derive(Debug, Clone, Copy)]
enum Fault {
    /// A command of netlab.
    Command(&'static [&'static str]),
    Link,
    Sleep,
}

/// Pause between two pieces of data, in milliseconds.
const INTERVAL: u32 = 20;
/// How long the two may be silent.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a link is down, and a node asleep.
const DOWN: Duration = Duration::from_secs(3);
const ASLEEP: Duration = Duration::from_secs(45);
/// Data that comes again for so long is there to stay.
const AGAIN: Duration = Duration::from_secs(2);

pub(crate) async fn run(args: &Args) -> anyhow::Result<Silence> {
    let spec = "host pub; nat ra port-restricted a; nat rb port-restricted b; nat rc port-restricted c";
    let faults = [
        ("the NAT reboots", Fault::Command(&["rebind", "ra"])),
        ("the direct path dies", Fault::Command(&["cut", "ra", "rb"])),
        ("roaming", Fault::Command(&["move", "a", "rc"])),
        ("the link comes back", Fault::Link),
        ("waking", Fault::Sleep),
    ];
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
    Ok(Silence { rebind_ms: medians[0], cut_ms: medians[1], roam_ms: medians[2], link_ms: medians[3], sleep_ms: medians[4] })
}

async fn once(lab: &Lab, fault: Fault) -> anyhow::Result<Option<f64>> {
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
    let (mut heard, mut last) = ([f64::NAN; 2], [0; 2]);
    let settled = Instant::now() + AGAIN;
    while let Some((who, said)) = nodes.next(settled).await {
        if let What::Data { number } = said.what {
            let end = usize::from(who == b);
            (heard[end], last[end]) = (said.at, number);
        }
    }
    if heard.iter().any(|at| at.is_nan()) {
        bail!("two connected nodes do not hear each other");
    }
    let away = match fault {
        Fault::Command(command) => {
            lab.call(command).await?;
            return longest(&mut nodes, b, heard).await;
        }
        Fault::Link => {
            lab.call(&["link", "a", "down"]).await?;
            sleep(DOWN).await;
            lab.call(&["link", "a", "up"]).await?;
            DOWN
        }
        Fault::Sleep => {
            nodes.suspend(a, true).await?;
            sleep(ASLEEP).await;
            nodes.suspend(a, false).await?;
            ASLEEP
        }
    };
    // What the other end said meanwhile may come at once: it is not what counts.
    let meanwhile = u64::try_from(away.as_millis())? / u64::from(INTERVAL) * 9 / 10;
    first(&mut nodes, b, [last[0] + meanwhile, last[1]]).await
}

/// Milliseconds until both ends hear data of a number beyond `last`.
async fn first(nodes: &mut Nodes, b: usize, last: [u64; 2]) -> anyhow::Result<Option<f64>> {
    #[expect(clippy::disallowed_methods, reason = "measures when something happens")]
    let begin = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0;
    let (deadline, mut heard) = (Instant::now() + PATIENCE, [None::<f64>; 2]);
    while let Some((who, said)) = nodes.next(deadline).await {
        let end = usize::from(who == b);
        if let What::Data { number } = said.what
            && number > last[end]
            && said.at > begin
        {
            heard[end] = heard[end].or(Some(said.at - begin));
        }
        if let [Some(a), Some(b)] = heard {
            return Ok(Some(a.max(b)));
        }
    }
    Ok(None)
}

/// The longest silence of either end, in milliseconds, until there is no more for [`AGAIN`]; `heard`: when each heard the other last.
async fn longest(nodes: &mut Nodes, b: usize, mut heard: [f64; 2]) -> anyhow::Result<Option<f64>> {
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
