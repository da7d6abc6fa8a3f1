//! `cargo xtask sweep`: a figure over a parameter, as a table and as a plot.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::ValueEnum;
use peers_tests::scenario::replicate::Replicate;
use peers_tests::scenario::survive::Survive;
use peers_tests::scenario::{SetError, theory};
use serde::Serialize;

use crate::plot::{Axis, Line, lines};
use crate::sim::{key_value, misused, run_all};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What is varied
    sweep: Sweep,
    /// Its values [default: those of docs/BENCHMARKS.md]
    #[arg(long, value_delimiter = ',')]
    points: Vec<f64>,
    /// Runs of each value, whose figures are pooled; run i uses seed S + i
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    runs: u64,
    /// Seed of the first run
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A parameter of the scenario, `replicate` or for `load` `survive`; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    set: Vec<(String, String)>,
    /// Writes a plot into this folder, as NAME.svg
    #[arg(long, value_name = "FOLDER")]
    plot: Option<PathBuf>,
    /// Prints one JSON object as the last line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Sweep {
    /// Time to all against the number of peers, 32 to 10,000
    Peers,
    /// Time to all, and what is reached, against departures of each peer per minute
    Churn,
    /// Time to all, and what is reached, against lost datagrams
    Loss,
    /// Messages that survive half a day in small caches against the load, beside theory
    Load,
    /// Copies and time to all against the neighbours that a packet is pushed to
    Redundancy,
}

/// A value of what is varied, and the figures there.
#[derive(Debug, Serialize)]
struct Point<R> {
    at: f64,
    report: R,
}

#[derive(Debug, Serialize)]
struct Table<R> {
    sweep: String,
    points: Vec<Point<R>>,
    /// What theory says of each point, where there is one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    theory: Vec<f64>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let done = match args.sweep {
        Sweep::Peers => replicate(args, "peers", &[32.0, 100.0, 316.0, 1000.0, 3162.0, 10_000.0], |scenario, peers| {
            scenario.set("peers", &peers.to_string())?;
            // A public peer takes 4,096 sessions; everyone knows four of those that there are.
            let publics = f64::max(4.0, (peers / 1000.0).ceil() * 2.0);
            scenario.set("publics", &publics.to_string())
        }),
        Sweep::Churn => {
            replicate(args, "churn", &[0.0, 0.25, 0.5, 0.95, 2.0, 4.0, 10.0], |scenario, churn| scenario.set("churn", &churn.to_string()))
        }
        Sweep::Loss => {
            replicate(args, "loss", &[0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3], |scenario, loss| scenario.set("loss", &loss.to_string()))
        }
        Sweep::Redundancy => replicate(args, "redundancy", &[0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0], |scenario, to| {
            scenario.set("relay_to", &to.to_string())
        }),
        Sweep::Load => load(args),
    };
    match done {
        Ok(code) => Ok(code),
        Err(error) => match error.downcast::<SetError>() {
            Ok(error) => Ok(misused(&error)),
            Err(error) => Err(error),
        },
    }
}

/// The values asked for, or `usual`.
fn points(args: &Args, usual: &[f64]) -> Vec<f64> {
    if args.points.is_empty() { usual.to_vec() } else { args.points.clone() }
}

fn replicate(
    args: &Args,
    name: &str,
    usual: &[f64],
    vary: impl Fn(&mut Replicate, f64) -> Result<(), SetError>,
) -> anyhow::Result<ExitCode> {
    let mut table = Table { sweep: name.to_owned(), points: Vec::new(), theory: Vec::new() };
    for at in points(args, usual) {
        let mut scenario = Replicate::default();
        vary(&mut scenario, at)?;
        args.set.iter().try_for_each(|(key, value)| scenario.set(key, value))?;
        let (outcomes, wall) = run_all(args.runs, args.seed, false, |seed| scenario.run(seed));
        let report = Replicate::report(&outcomes, wall);
        eprintln!(
            "{name} {at}: reached all {}, time to all {} s (mean), {} copies, {:.1} s",
            shown(report.reached_all),
            shown(report.time_to_all_s.mean),
            shown(report.payload_copies_per_peer),
            report.wall_s
        );
        table.points.push(Point { at, report });
    }
    let line = |label: &str, of: fn(&peers_tests::scenario::replicate::Report) -> Option<f64>| {
        let points = table.points.iter().filter_map(|point| Some((point.at, of(&point.report)?)));
        Line { label: label.to_owned(), points: points.collect(), dashed: false }
    };
    let times = [
        line("the last of all, 99 of 100 publishes", |report| report.time_to_all_s.p99),
        line("the last of all, mean", |report| report.time_to_all_s.mean),
        line("anyone, median", |report| report.delivery_s.p50),
    ];
    let seconds = Axis { label: "seconds".to_owned(), log: false };
    let (title, axis) = match name {
        "peers" => ("Seconds until a message is at every subscriber", "peers"),
        "churn" => ("Seconds until a message is at every subscriber", "departures of each peer per minute"),
        "loss" => ("Seconds until a message is at every subscriber", "probability that a datagram is lost"),
        _ => ("Seconds until a message is at every subscriber", "neighbours that a first receiver pushes a packet on to"),
    };
    let x = Axis { label: axis.to_owned(), log: name == "peers" };
    write_plot(args, &format!("{name}-time"), &lines(title, &x, &seconds, &times)?)?;
    let shares = match name {
        "redundancy" => [line("copies of a packet that a peer receives", |report| report.payload_copies_per_peer)].to_vec(),
        _ => [
            line("publishes that reach all", |report| report.reached_all),
            line("deliveries within 2.5 s", |report| report.reached.s2_5),
            line("held 60 s later by ready subscribers", |report| report.held_60s.ready),
        ]
        .to_vec(),
    };
    let title = if name == "redundancy" { "Copies of a packet that a peer receives" } else { "Shares of publishes and deliveries" };
    let y = Axis { label: if name == "redundancy" { "copies" } else { "share" }.to_owned(), log: false };
    write_plot(args, &format!("{name}-share"), &lines(title, &x, &y, &shares)?)?;
    print(args, &table)
}

/// Small caches and few peers, so that the caches overflow at loads that can be simulated.
fn load(args: &Args) -> anyhow::Result<ExitCode> {
    let mut table = Table { sweep: "load".to_owned(), points: Vec::new(), theory: Vec::new() };
    for at in points(args, &[0.0, 100.0, 200.0, 400.0, 800.0, 1600.0, 3200.0]) {
        let mut scenario = Survive { peers: 64, hours: 6, cache: 64 << 10, load: at, ..Survive::default() };
        args.set.iter().try_for_each(|(key, value)| scenario.set(key, value))?;
        let (outcomes, wall) = run_all(args.runs, args.seed, false, |seed| scenario.run(seed));
        let report = Survive::report(&outcomes, wall);
        let theory = theory::survival(&scenario);
        eprintln!("load {at}: survived {}, theory {theory:.3}, {:.1} s", shown(report.survived), report.wall_s);
        table.points.push(Point { at, report });
        table.theory.push(theory);
    }
    let line = |label: &str, of: fn(&peers_tests::scenario::survive::Report) -> Option<f64>| Line {
        label: label.to_owned(),
        points: table.points.iter().filter_map(|point| Some((point.at, of(&point.report)?))).collect(),
        dashed: false,
    };
    let theory = table.points.iter().zip(&table.theory).map(|(point, theory)| (point.at, *theory)).collect();
    let shown = [
        line("survived", |report| report.survived),
        line("delivered on return", |report| report.delivered_on_return),
        Line { label: "theory: min(1, n B / (k s l t))".to_owned(), points: theory, dashed: true },
    ];
    let x = Axis { label: "messages of others per hour".to_owned(), log: false };
    let y = Axis { label: "share".to_owned(), log: false };
    write_plot(args, "load", &lines("Messages that wait for their recipient in small caches", &x, &y, &shown)?)?;
    print(args, &table)
}

fn shown(value: Option<f64>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| format!("{value:.3}"))
}

fn write_plot(args: &Args, name: &str, svg: &str) -> anyhow::Result<()> {
    let Some(folder) = &args.plot else { return Ok(()) };
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))?;
    let path = folder.join(format!("{name}.svg"));
    fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("plotted {}", path.display());
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the figures are the output of this command")]
fn print(args: &Args, table: &impl Serialize) -> anyhow::Result<ExitCode> {
    println!("{}", if args.json { serde_json::to_string(table)? } else { serde_json::to_string_pretty(table)? });
    Ok(ExitCode::SUCCESS)
}
