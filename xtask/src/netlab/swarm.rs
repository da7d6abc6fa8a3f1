//! A small swarm of real nodes in the lab, beside the same swarm in the simulator.

use std::process::ExitCode;
use std::time::Duration;

use peers_tests::scenario::lab::{Compared, EVERY, Figures, IDLE, KINDS, LAST, Outcome, PUBLICS, SETTLE, START_PAUSE, Setting, simulate};
use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::lab::{Lab, Nodes};
use super::node::{Said, What};
use crate::sim::milliseconds;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One-way delay between each node and the internet, in milliseconds; a round trip between any two is four times that
    #[arg(long, value_name = "MS", default_value = "20ms", value_parser = milliseconds)]
    delay: Duration,
    /// Share of datagrams lost on the uplink of each node behind a NAT, each way, from 0 to 0.5
    #[arg(long, default_value_t = 0.0, value_parser = share)]
    loss: f64,
    /// Messages published
    #[arg(long, default_value_t = 18, value_parser = clap::value_parser!(u32).range(1..=600))]
    publishes: u32,
    /// Runs in the lab, of about 80 s each; as many times 5 are simulated
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Prints one JSON object as the last line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    lab: Figures,
    simulated: Figures,
    compared: Vec<Compared>,
    agree: bool,
}

fn share(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|share| (0.0..=0.5).contains(share)).ok_or_else(|| format!("{text} is not a share from 0 to 0.5"))
}

/// Exit code 1 if a figure of the lab and its simulated one are further apart than their tolerance.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let setting = Setting { delay: args.delay, loss: args.loss, publishes: args.publishes };
    let mut outcomes = Vec::new();
    for _ in 0..args.runs {
        outcomes.push(once(&setting).await?);
    }
    let lab = Figures::of(&setting, &outcomes);
    let simulated: Vec<_> = (1..=u64::from(args.runs) * 5).map(|seed| simulate(&setting, seed)).collect();
    let simulated = Figures::of(&setting, &simulated);
    let compared = lab.compare(&simulated);
    for Compared { figure, lab, simulated, agree } in &compared {
        let shown = |value: &Option<f64>| value.map_or_else(|| "none".to_owned(), |value| format!("{value:.3}"));
        eprintln!("{} {figure}: {} in the lab, {} simulated", if *agree { "agree   " } else { "DISAGREE" }, shown(lab), shown(simulated));
    }
    let agree = compared.iter().all(|row| row.agree);
    print(args, &Report { lab, simulated, compared, agree })?;
    Ok(if agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[expect(clippy::print_stdout, reason = "the figures are the output of this command")]
fn print(args: &Args, report: &Report) -> anyhow::Result<()> {
    println!("{}", if args.json { serde_json::to_string(report)? } else { serde_json::to_string_pretty(report)? });
    Ok(())
}

/// The port of the public nodes.
const PUBLIC_PORT: u16 = 4000;

async fn once(setting: &Setting) -> anyhow::Result<Outcome> {
    let publics: Vec<String> = (0..PUBLICS).map(|i| format!("pub{i}")).collect();
    let routers: Vec<String> = (0..KINDS.len()).map(|i| format!("r{i}")).collect();
    let mut spec = vec![format!("host {}", publics.join(" "))];
    spec.extend(KINDS.iter().enumerate().map(|(i, kind)| format!("nat r{i} {kind} h{i}")));
    let delayed: Vec<String> = publics.iter().chain(&routers).cloned().collect();
    let lab = Lab::up(&spec.join("\n"), setting.delay, &delayed).await?;
    if setting.loss > 0.0 {
        for router in &routers {
            lab.call(&["loss", router, &format!("{}%", setting.loss * 100.0)]).await?;
        }
    }
    let mut nodes = Nodes::new();
    let mut bootstrap: Vec<String> = Vec::new();
    for host in &publics {
        let mut arguments = vec!["--swarm".to_owned(), "--listen".to_owned(), format!("0.0.0.0:{PUBLIC_PORT}")];
        arguments.extend(bootstrap.iter().flat_map(|address| ["--bootstrap".to_owned(), address.clone()]));
        nodes.start(&lab, host, &arguments.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        bootstrap.push(format!("{}:{PUBLIC_PORT}", lab.call(&["addr", host]).await?));
        sleep(START_PAUSE).await;
    }
    let mut arguments = vec!["--swarm"];
    arguments.extend(bootstrap.iter().flat_map(|address| ["--bootstrap", address.as_str()]));
    for i in 0..KINDS.len() {
        nodes.start(&lab, &format!("h{i}"), &arguments).await?;
        sleep(START_PAUSE).await;
    }
    sleep(SETTLE).await;
    let before = total(&mut nodes).await?;
    sleep(IDLE).await;
    let idle = total(&mut nodes).await?;
    publish(&mut nodes, setting, idle, idle - before).await
}

/// Who publishes the message of that number.
const fn publisher(number: usize) -> usize {
    PUBLICS + number % KINDS.len()
}

/// Datagrams that all nodes have sent.
async fn total(nodes: &mut Nodes) -> anyhow::Result<u64> {
    let mut total = 0;
    for node in 0..PUBLICS + KINDS.len() {
        total += nodes.datagrams(node).await?;
    }
    Ok(total)
}

async fn publish(nodes: &mut Nodes, setting: &Setting, before: u64, idle: u64) -> anyhow::Result<Outcome> {
    let count = setting.publishes as usize;
    let (mut published, mut heard) = (vec![None; count], vec![Vec::new(); count]);
    let start = Instant::now();
    for i in 0..=setting.publishes {
        let until = start + EVERY * i + if i == setting.publishes { LAST } else { Duration::ZERO };
        while let Some((who, Said { at, what })) = nodes.next(until).await {
            match what {
                What::Published { number } => published[usize::try_from(number)?] = Some(at),
                What::Heard { number } => {
                    let number = usize::try_from(number)?;
                    // A node tells of its own messages, too.
                    if who != publisher(number) {
                        heard[number].push(at);
                    }
                }
                _ => {}
            }
        }
        sleep_until(until).await;
        if i < setting.publishes {
            nodes.tell(publisher(i as usize), &format!("publish {i}")).await?;
        }
    }
    let publishing = total(nodes).await? - before;
    let times = |(at, heard): (Option<f64>, Vec<f64>)| {
        at.map(|published| heard.into_iter().map(|heard| heard - published).collect()).unwrap_or_default()
    };
    Ok(Outcome { deliveries: published.into_iter().zip(heard).map(times).collect(), idle, publishing })
}
