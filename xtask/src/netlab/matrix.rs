//! Pairs of NATs: whether two nodes behind them reach each other directly, how soon, at what cost.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use serde::Serialize;
use tokio::time::{Instant, sleep};

use super::lab::{Lab, Nodes};
use super::node::{Said, What};
use super::silence::{self, Silence};

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
    /// Prints one JSON object as the last line
    #[arg(long)]
    json: bool,
}

fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("ms").unwrap_or(text).parse::<u16>();
    number.map(|number| Duration::from_millis(number.into())).map_err(|_| format!("{text} is no number of milliseconds, for instance 20ms"))
}

/// The kinds of NAT of RFC 4787's terms that are common.
const KINDS: [&str; 5] = ["open", "full-cone", "addr-restricted", "port-restricted", "symmetric"];

/// Pairs beside the 25: what stands before each node, as netlab has it; `loss=` and `v6` beyond that are applied by us.
const OTHERS: [(&str, &str); 18] = [
    ("symmetric-sequential", "full-cone"),
    ("symmetric-sequential", "port-restricted"),
    ("symmetric-sequential", "symmetric-sequential"),
    ("symmetric-sequential", "symmetric"),
    ("symmetric ports=20000-20511", "port-restricted"),
    ("symmetric ports=20000-20511", "symmetric ports=20000-20511"),
    ("double", "port-restricted"),
    ("double outer=port-restricted", "port-restricted"),
    ("firewall", "firewall"),
    ("firewall", "symmetric"),
    ("blocked-udp", "open"),
    ("port-restricted stray=accept", "port-restricted"),
    ("port-restricted stray=accept", "port-restricted stray=accept"),
    ("symmetric stray=accept", "port-restricted stray=accept"),
    ("port-restricted remap=1", "port-restricted remap=1"),
    ("port-restricted loss=5%", "port-restricted loss=5%"),
    ("symmetric loss=5%", "port-restricted loss=5%"),
    ("symmetric v6", "symmetric v6"),
];

/// All that is measured.
#[derive(Debug, Serialize)]
struct Report {
    pairs: Vec<Row>,
    others: Vec<Row>,
    silence: Silence,
}

/// A pair of NATs; times are medians in milliseconds, from the wish to connect, of the runs in which it came to that.
#[derive(Debug, Serialize)]
struct Row {
    a: String,
    b: String,
    runs: u32,
    /// Share of the runs in which both ends used a direct path.
    direct_share: f64,
    /// Until application data of `a` was stored at `b`.
    first_byte_ms: Option<f64>,
    /// Until both ends used a direct path.
    direct_ms: Option<f64>,
    /// Datagrams that both ends sent until then; where they never did, while it was waited for.
    packets: Option<f64>,
}

/// What came of one run.
#[derive(Debug, Default)]
struct Outcome {
    first_byte: Option<f64>,
    direct: Option<f64>,
    packets: Option<f64>,
}

pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let is_chosen = |part: &str| args.only.is_empty() || args.only.iter().any(|only| only == part);
    let chosen = |part: &str, pairs: Vec<(&'static str, &'static str)>| -> Vec<_> {
        let all = is_chosen(part);
        pairs.into_iter().filter(|(a, b)| all || args.only.contains(&format!("{a}/{b}"))).collect()
    };
    let all = KINDS.iter().flat_map(|a| KINDS.iter().map(|b| (*a, *b))).collect();
    let pairs = measure(args, &chosen("pairs", all)).await?;
    let (v6, v4): (Vec<_>, Vec<_>) = chosen("others", OTHERS.to_vec()).into_iter().partition(|(a, _)| a.contains("v6"));
    let mut others = measure(args, &v4).await?;
    others.extend(measure(args, &v6).await?);
    let silence = if is_chosen("silence") { silence::run(args).await? } else { Silence::default() };
    print(args, &Report { pairs, others, silence })
}

#[expect(clippy::print_stdout, reason = "the figures are the output of this command")]
fn print(args: &Args, report: &Report) -> anyhow::Result<ExitCode> {
    println!("{}", if args.json { serde_json::to_string(report)? } else { serde_json::to_string_pretty(report)? });
    Ok(ExitCode::SUCCESS)
}

/// Hosts of the public peers: as many as it takes for nobody to be believed alone.
const PUBLIC: [&str; 3] = ["pub", "pub2", "pub3"];
/// The port of each.
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
    let (mut public, mut relays, mut bootstrap) = (Nodes::new(), Vec::new(), Vec::new());
    for host in PUBLIC {
        let (_, id) = public.start(&lab, host, &["--listen", &format!("0.0.0.0:{PUBLIC_PORT}")]).await?;
        relays.push(id);
        bootstrap.push(format!("{}:{PUBLIC_PORT}", lab.call(&["addr", host]).await?));
    }
    let mut rows = Vec::new();
    for (a, b) in pairs {
        let mut outcomes = Vec::new();
        for _ in 0..args.runs {
            outcomes.push(once(&lab, [&routers[&("a", *a)], &routers[&("b", *b)]], &bootstrap, &relays).await?);
        }
        let row = Row::new(a, b, args.runs, &outcomes);
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

/// How long a pair may take to become direct.
const PATIENCE: Duration = Duration::from_secs(6);
/// How long a node may take to meet the public one.
const MEETING: Duration = Duration::from_secs(5);
/// Time for what follows a meeting to come to rest.
const REST: Duration = Duration::from_millis(700);

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

impl Row {
    fn new(a: &str, b: &str, runs: u32, outcomes: &[Outcome]) -> Self {
        let all = |of: fn(&Outcome) -> Option<f64>| median(outcomes.iter().filter_map(of).collect());
        let direct = outcomes.iter().filter(|outcome| outcome.direct.is_some()).count();
        #[expect(clippy::cast_precision_loss, reason = "a number of runs is small")]
        let direct_share = direct as f64 / outcomes.len() as f64;
        Self {
            a: a.to_owned(),
            b: b.to_owned(),
            runs,
            direct_share,
            first_byte_ms: all(|outcome| outcome.first_byte),
            direct_ms: all(|outcome| outcome.direct),
            packets: all(|outcome| outcome.packets),
        }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Option<f64>| time.map_or_else(|| "never".to_owned(), |time| format!("{time:.0} ms"));
        let Self { a, b, direct_share, .. } = self;
        let (first, direct) = (ms(self.first_byte_ms), ms(self.direct_ms));
        let packets = self.packets.map_or_else(|| "no".to_owned(), |packets| format!("{packets:.0}"));
        write!(f, "{a} / {b}: first byte {first}, direct {direct} in {:.0} % of runs, {packets} packets", direct_share * 100.0)
    }
}

/// The middle one, or the mean of the middle two, to a tenth; none of none.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = values.get(middle)?;
    let lower = if values.len().is_multiple_of(2) { values[middle - 1] } else { *upper };
    Some(((upper + lower) * 5.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_median_is_the_middle_one_or_between_the_middle_two() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn a_row_tells_the_share_of_direct_runs_and_the_medians_of_those() {
        let run = |direct| Outcome { first_byte: Some(100.0), direct, packets: Some(20.0) };
        let row = Row::new("a", "b", 4, &[run(Some(300.0)), run(None), run(Some(100.0)), run(Some(200.0))]);
        assert_eq!((row.direct_share, row.direct_ms), (0.75, Some(200.0)));
        let none = Row::new("a", "b", 1, &[run(None)]);
        assert_eq!(serde_json::to_value(none).expect("it is JSON")["direct_ms"], serde_json::Value::Null);
    }

    #[test]
    fn a_delay_is_a_number_of_milliseconds() {
        assert_eq!(milliseconds("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(milliseconds("0"), Ok(Duration::ZERO));
        assert!(milliseconds("20s").is_err());
    }
}
