//! `cargo xtask sim`: runs a scenario, on every core, and prints its figures.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::ValueEnum;
use peers_tests::scenario::SetError;
use peers_tests::scenario::chaos::Chaos;
use peers_tests::scenario::eclipse::Eclipse;
use peers_tests::scenario::flashcrowd::Flashcrowd;
use peers_tests::scenario::flood::Flood;
use peers_tests::scenario::matrix::{self, Row};
use peers_tests::scenario::partition::Partition;
use peers_tests::scenario::replicate::Replicate;
use peers_tests::scenario::sleep::Sleep;
use peers_tests::scenario::slowlinks::Slowlinks;
use peers_tests::scenario::survive::Survive;
use serde::Serialize;

use crate::{USAGE, plot};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to simulate
    scenario: Scenario,
    /// Peers, those that the scenario adds not counted [default: the scenario's]
    #[arg(long)]
    peers: Option<usize>,
    /// Runs whose figures are pooled; run i uses seed S + i
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Seed of the first run; the same seed gives the same figures
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One-way delay between each peer and the internet, for `matrix`; a round trip between any two is four times that
    #[arg(long, value_name = "MS", default_value = "20ms", value_parser = milliseconds)]
    delay: Duration,
    /// A parameter of the scenario; may be repeated. `matrix` takes `pair=A/B`: only those pairs
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Draws the distribution of the scenario's times
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Prints one JSON object as the last line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Scenario {
    /// Every publish to every subscriber: how many, how soon, at what cost
    Replicate,
    /// Messages that wait a day in the caches of strangers
    Survive,
    /// Two peers behind every pair of kinds of NAT: how they reach each other, how soon, at what cost; as `netlab matrix`
    Matrix,
    /// Faults of every kind, then peace: nothing untrue is delivered, and everyone converges
    Chaos,
    /// Two halves of a swarm that meet again: what is exchanged, how soon
    Partition,
    /// A thousand peers that come within ten seconds
    Flashcrowd,
    /// Attackers that name each other and let every message fall
    Eclipse,
    /// A tenth of the peers that publish a hundred times as much as the others
    Flood,
    /// Peers with slow links: whether anybody else is slowed
    Slowlinks,
    /// Laptops that are closed and opened: how soon they have what they missed
    Sleep,
}

/// Runs a scenario with the parameters given, draws the samples of its outcomes where that is asked for, and prints its report.
macro_rules! simulate {
    ($args:expr, $scenario:ident, $label:expr, |$outcome:ident| $samples:expr) => {{
        let mut scenario = $scenario::default();
        if let Err(error) = settings($args).try_for_each(|(key, value)| scenario.set(key, &value)) {
            return Ok(misused(&error));
        }
        let (outcomes, wall) = run_all($args.runs, $args.seed, true, |seed| scenario.run(seed));
        write_plot($args, $label, outcomes.iter().flat_map(|$outcome| $samples.clone()))?;
        print($args, &$scenario::report(&outcomes, wall))
    }};
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match args.scenario {
        Scenario::Replicate => simulate!(args, Replicate, "replicate: seconds to a delivery", |outcome| outcome.delivery),
        Scenario::Survive => simulate!(args, Survive, "survive: seconds from the return to a delivery", |outcome| outcome.delivery),
        Scenario::Matrix => matrix(args),
        Scenario::Chaos => simulate!(args, Chaos, "chaos: seconds to convergence", |outcome| [outcome.converged]),
        Scenario::Partition => simulate!(args, Partition, "partition: seconds until a peer holds everything", |outcome| outcome.caught_up),
        Scenario::Flashcrowd => simulate!(args, Flashcrowd, "flashcrowd: seconds until a newcomer is ready", |outcome| outcome.ready_in),
        Scenario::Eclipse => simulate!(args, Eclipse, "eclipse: seconds to a delivery", |outcome| outcome.delivery),
        Scenario::Flood => {
            simulate!(args, Flood, "flood: seconds to a delivery of an honest message, with the flood", |outcome| outcome.delivery[1])
        }
        Scenario::Slowlinks => simulate!(args, Slowlinks, "slowlinks: seconds to a delivery to a fast peer", |outcome| outcome.delivery[1]),
        Scenario::Sleep => simulate!(args, Sleep, "sleep: seconds from waking until nothing is missing", |outcome| outcome.caught_up),
    }
}

/// Goes through the pairs, or those that were asked for.
fn matrix(args: &Args) -> anyhow::Result<ExitCode> {
    let mut chosen = Vec::new();
    for (key, value) in settings(args) {
        let known = |(a, b): &(&str, &str)| value == format!("{a}/{b}");
        let error = match key {
            "pair" if matrix::pairs().chain(matrix::OTHERS).any(|pair| known(&pair)) => {
                chosen.push(value);
                continue;
            }
            "pair" => SetError::Value { key: key.to_owned(), value },
            _ => SetError::Unknown { key: key.to_owned(), known: &["pair"] },
        };
        return Ok(misused(&error));
    }
    let rows = |pairs: Vec<(&str, &str)>| -> Vec<Row> {
        let pairs = pairs.into_iter().filter(|(a, b)| chosen.is_empty() || chosen.contains(&format!("{a}/{b}")));
        let row = |(a, b)| {
            let row = Row::new(a, b, &run_all(args.runs, args.seed, false, |seed| matrix::once(a, b, args.delay, seed)).0);
            eprintln!("{row}");
            row
        };
        pairs.map(row).collect()
    };
    let (pairs, others) = (rows(matrix::pairs().collect()), rows(matrix::OTHERS.to_vec()));
    print(args, &matrix::Report { pairs, others })
}

pub(crate) fn misused(error: &SetError) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(USAGE)
}

/// Every parameter given, `--peers` first.
fn settings(args: &Args) -> impl Iterator<Item = (&str, String)> {
    let peers = args.peers.map(|peers| ("peers", peers.to_string()));
    peers.into_iter().chain(args.set.iter().map(|(key, value)| (key.as_str(), value.clone())))
}

/// Runs a scenario with each seed, on every core; the outcomes are in the order of the seeds. `aloud`: tells of each run.
pub(crate) fn run_all<T: Send>(runs: u64, seed: u64, aloud: bool, run: impl Fn(u64) -> T + Sync) -> (Vec<T>, Duration) {
    #[expect(clippy::disallowed_methods, reason = "measures how long the simulation takes")]
    let start = Instant::now();
    let runs = usize::try_from(runs).unwrap_or(usize::MAX);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(runs);
    let next = AtomicUsize::new(0);
    let mut outcomes: Vec<(usize, T)> = thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            loop {
                let i = next.fetch_add(1, Ordering::Relaxed);
                if i >= runs {
                    return done;
                }
                done.push((i, run(seed.wrapping_add(i as u64))));
                if aloud {
                    eprintln!("run {} of {runs} done after {:.1} s", i + 1, start.elapsed().as_secs_f64());
                }
            }
        };
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    outcomes.sort_by_key(|(i, _)| *i);
    (outcomes.into_iter().map(|(_, outcome)| outcome).collect(), start.elapsed())
}

/// Draws `samples` where `--plot` says, if it is given.
fn write_plot(args: &Args, label: &str, samples: impl Iterator<Item = f64>) -> anyhow::Result<()> {
    let Some(path) = &args.plot else { return Ok(()) };
    let samples: Vec<_> = samples.collect();
    fs::write(path, plot::cumulative(label, &samples)?).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("plotted {}", path.display());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the figures are the output of this command")]
fn print(args: &Args, report: &impl Serialize) -> anyhow::Result<ExitCode> {
    println!("{}", if args.json { serde_json::to_string(report)? } else { serde_json::to_string_pretty(report)? });
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or_else(|| format!("{text} is not KEY=VALUE"))?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Reads a delay, with or without its unit.
pub(crate) fn milliseconds(text: &str) -> Result<Duration, String> {
    let number = text.strip_suffix("ms").unwrap_or(text).parse::<u16>();
    number.map(|number| Duration::from_millis(number.into())).map_err(|_| format!("{text} is no number of milliseconds, for instance 20ms"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_a_number_of_milliseconds() {
        assert_eq!(milliseconds("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(milliseconds("0"), Ok(Duration::ZERO));
        assert!(milliseconds("20s").is_err());
    }
}
