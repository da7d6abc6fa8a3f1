//! Pairs of NATs: whether two nodes behind them reach each other directly, how soon, at what cost.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use peers_tests::scenario::matrix::{self, MEETING, Outcome, PATIENCE, REST, Row};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use super::lab::{Lab, Nodes};
use super::node::{Said, What};
use super::silence::{self, Silence};
use crate::sim::milliseconds;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One-way delay between each node and the internet, in milliseconds; a round trip between any two is four times that
    #[arg(long, value_name = "MS", default_value = "20ms", value_parser = milliseconds)]
    pub(crate) delay: Duration,
    /// Runs of each pair, whose medians are told
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// Only a part: `pairs`, `others`, `silence`, or pairs whose two kinds are given as A/B; may be repeated
    #[arg(long, value_name = "PART")]
    only: Vec<String>,
    /// Simulates the same pairs on the model of NATs, and fails if the two disagree on which of them go direct
    #[arg(long)]
    compare: bool,
    /// Compares these figures, the output of an earlier run with `--json`, instead of measuring anew
    #[arg(long, value_name = "FILE", requires = "compare")]
    results: Option<PathBuf>,
    /// Fails if a pair that must go direct did not in every run: all of the 25 but symmetric / symmetric
    #[arg(long)]
    check: bool,
    /// Prints one JSON object as the last line
    #[arg(long)]
    json: bool,
}

/// All that is measured.
#[derive(Debug, Serialize, Deserialize)]
struct Report {
    pairs: Vec<Row>,
    others: Vec<Row>,
    silence: Silence,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let report = match &args.results {
        Some(file) => {
            serde_json::from_str(last_line(&fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?))?
        }
        None => measure_all(args).await?,
    };
    print(args, &report)?;
    ensure!(!args.check || !report.pairs.is_empty(), "none of the 25 pairs was measured, so that there is nothing to check");
    let failures = if args.check { unreached(&report) } else { Vec::new() };
    for failure in &failures {
        eprintln!("not direct: {failure}");
    }
    let agree = !args.compare || compare(args, &report)?;
    Ok(if failures.is_empty() && agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn last_line(text: &str) -> &str {
    text.trim_end().rsplit('\n').next().unwrap_or_default()
}

/// The pairs that must go direct in every run and did not.
fn unreached(report: &Report) -> Vec<&Row> {
    let must = |row: &&Row| !(row.a == "symmetric" && row.b == "symmetric");
    report.pairs.iter().filter(must).filter(|row| row.direct_share < 1.0).collect()
}

/// Simulates the pairs of `report` and tells of each whether the two agree; returns whether all do.
fn compare(args: &Args, report: &Report) -> anyhow::Result<bool> {
    let mut agree = true;
    // The model knows no TCP, by which those without UDP are reached.
    let modelled = |row: &&Row| !row.a.contains("blocked-udp");
    for row in report.pairs.iter().chain(&report.others).filter(modelled) {
        let outcomes: Vec<_> = (1..=u64::from(row.runs)).map(|seed| matrix::once(&row.a, &row.b, args.delay, seed)).collect();
        let simulated = Row::new(&row.a, &row.b, &outcomes);
        let same = simulated.agrees(row);
        agree &= same;
        let share = |row: &Row| {
            format!("{:.0} % ({})", row.direct_share * 100.0, row.direct_ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms:.0} ms")))
        };
        let word = if same { "agree   " } else { "DISAGREE" };
        eprintln!("{word} {} / {}: direct in {} of real runs, {} of simulated ones", row.a, row.b, share(row), share(&simulated));
    }
    Ok(agree)
}

async fn measure_all(args: &Args) -> anyhow::Result<Report> {
    let is_chosen = |part: &str| args.only.is_empty() || args.only.iter().any(|only| only == part);
    let chosen = |part: &str, pairs: Vec<(&'static str, &'static str)>| -> Vec<_> {
        let all = is_chosen(part);
        pairs.into_iter().filter(|(a, b)| all || args.only.contains(&format!("{a}/{b}"))).collect()
    };
    let pairs = measure(args, &chosen("pairs", matrix::pairs().collect())).await?;
    let (v6, v4): (Vec<_>, Vec<_>) = chosen("others", matrix::OTHERS.to_vec()).into_iter().partition(|(a, _)| a.contains("v6"));
    let mut others = measure(args, &v4).await?;
    others.extend(measure(args, &v6).await?);
    let silence = if is_chosen("silence") { silence::run(args).await? } else { Silence::default() };
    Ok(Report { pairs, others, silence })
}

#[expect(clippy::print_stdout, reason = "the figures are the output of this command")]
fn print(args: &Args, report: &Report) -> anyhow::Result<()> {
    println!("{}", if args.json { serde_json::to_string(report)? } else { serde_json::to_string_pretty(report)? });
    Ok(())
}

/// The hosts of the public peers: several, as one alone cannot tell how a NAT chooses ports.
const PUBLIC: [&str; matrix::PUBLIC] = ["pub", "pub2", "pub3"];
/// The port of the public peers.
const PUBLIC_PORT: u16 = 4000;

/// Measures each pair in turn, in one lab.
async fn measure(args: &Args, pairs: &[(&str, &str)]) -> anyhow::Result<Vec<Row>> {
    if pairs.is_empty() {
        return Ok(Vec::new());
    }
    let (mut spec, mut delayed) = (vec![format!("host {}", PUBLIC.join(" "))], PUBLIC.map(str::to_owned).to_vec());
    let (mut lossy, mut routers) = (Vec::new(), BTreeMap::new());
    for (side, label) in pairs.iter().flat_map(|(a, b)| [("a", *a), ("b", *b)]) {
        if routers.contains_key(&(side, label)) {
            continue;
        }
        let name = format!("{side}{}", routers.len());
        let mut words: Vec<&str> = label.split(' ').collect();
        if words.contains(&"v6") && !spec.iter().any(|line| line == "v6") {
            spec.push("v6".to_owned());
        }
        let loss = words.iter().find_map(|word| word.strip_prefix("loss="));
        lossy.extend(loss.map(|loss| (name.clone(), loss)));
        words.retain(|word| *word != "v6" && !word.starts_with("loss="));
        spec.push(format!("nat {name} {} h{name} {}", words[0], words[1..].join(" ")));
        delayed.push(name.clone());
        routers.insert((side, label), format!("h{name}"));
    }
    let lab = Lab::up(&spec.join("\n"), args.delay, &delayed).await?;
    for (router, loss) in lossy {
        lab.call(&["loss", &router, loss]).await?;
    }
    let mut public = Nodes::new();
    let (mut bootstrap, mut relays) = (Vec::new(), Vec::new());
    for host in PUBLIC {
        let address = lab.call(&["addr", host]).await?;
        relays.push(public.start(&lab, host, &["--listen", &format!("0.0.0.0:{PUBLIC_PORT}")]).await?.1);
        bootstrap.push(format!("{address}:{PUBLIC_PORT}"));
    }
    let mut rows = Vec::new();
    for (a, b) in pairs {
        let mut outcomes = Vec::new();
        for _ in 0..args.runs {
            outcomes.push(once(&lab, [&routers[&("a", *a)], &routers[&("b", *b)]], &bootstrap, &relays).await?);
        }
        let row = Row::new(a, b, &outcomes);
        eprintln!("{row}");
        rows.push(row);
    }
    Ok(rows)
}

/// Two fresh nodes that know the public ones: the first wants the second.
async fn once(lab: &Lab, hosts: [&str; 2], bootstrap: &[String], relays: &[String]) -> anyhow::Result<Outcome> {
    let mut nodes = Nodes::new();
    let Some([(a, _), (b, b_id)]) = nodes.start_pair(lab, hosts, bootstrap, relays).await? else { return Ok(Outcome::default()) };
    let before = nodes.datagrams(a).await? + nodes.datagrams(b).await?;
    nodes.tell(a, &format!("connect {b_id}")).await?;
    let (mut asked, mut first_byte, mut direct) = (None, None, [None; 2]);
    let mut deadline = Instant::now() + PATIENCE;
    while let Some((who, Said { at, what })) = nodes.next(deadline).await {
        match what {
            What::Asked => asked = Some(at),
            What::Data { .. } if who == b => first_byte = first_byte.or(Some(at)),
            What::Connected { peer, direct: is } | What::Path { peer, direct: is } if !relays.contains(&peer) => {
                direct[usize::from(who == b)] = is.then_some(at);
            }
            _ => {}
        }
        if first_byte.is_some() && direct.iter().all(Option::is_some) {
            deadline = Instant::now();
        }
    }
    let asked = asked.context("a node does what it is told")?;
    let after = nodes.datagrams(a).await? + nodes.datagrams(b).await?;
    let [a_direct, b_direct] = direct;
    #[expect(clippy::cast_precision_loss, reason = "a count of datagrams is small")]
    let packets = Some((after - before) as f64);
    Ok(Outcome { first_byte: first_byte.map(|at| at - asked), direct: a_direct.zip(b_direct).map(|(a, b)| a.max(b) - asked), packets })
}

impl Nodes {
    /// Starts a node on each of two hosts that know the peers at `bootstrap`, whose ids are `relays`; none if they do not meet those.
    pub(crate) async fn start_pair(
        &mut self,
        lab: &Lab,
        hosts: [&str; 2],
        bootstrap: &[String],
        relays: &[String],
    ) -> anyhow::Result<Option<[(usize, String); 2]>> {
        let arguments: Vec<&str> = bootstrap.iter().flat_map(|address| ["--bootstrap", address.as_str()]).collect();
        let first = self.start(lab, hosts[0], &arguments).await?;
        if !self.knows(first.0, relays, MEETING).await {
            return Ok(None);
        }
        let second = self.start(lab, hosts[1], &arguments).await?;
        if !self.knows(second.0, relays, MEETING).await {
            return Ok(None);
        }
        sleep(REST).await;
        Ok(Some([first, second]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pairs_that_must_go_direct_and_did_not_are_told() {
        let row = |a, b, direct| Row::new(a, b, &[Outcome { direct, ..Outcome::default() }]);
        let pairs = vec![row("symmetric", "symmetric", None), row("open", "symmetric", None), row("open", "open", Some(1.0))];
        let report = Report { pairs, others: vec![row("blocked-udp", "open", None)], silence: Silence::default() };
        assert_eq!(unreached(&report).iter().map(|row| row.b.as_str()).collect::<Vec<_>>(), ["symmetric"]);
        let text = format!("noise\n{}\n", serde_json::to_string(&report).expect("it is JSON"));
        assert_eq!(serde_json::from_str::<Report>(last_line(&text)).expect("it reads back").pairs.len(), 3);
    }
}
