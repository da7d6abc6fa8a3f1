//! `cargo xtask`: simulations, benches, fuzzing, the NAT lab and the checks of continuous integration.

mod bench;
mod bench_cache;
mod bench_crypto;
mod bench_nat;
mod bench_sync;
mod bench_wire;
mod ci;
mod fuzz;
mod netlab;
mod plot;
mod reconciling;
mod sim;
mod sweep;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    about = "Simulations, benches, fuzzing, the NAT lab and the checks of continuous integration"
)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Formatting, layer edges, lints, tests and documentation
    Ci,
    /// A simulation of real node stacks on virtual time
    Sim(sim::Args),
    /// A figure of a simulation over a parameter: table and plot
    Sweep(sweep::Args),
    /// The figures of a layer
    Bench(bench::Args),
    /// Real nodes behind real Linux NATs (needs root)
    Netlab(netlab::Args),
    /// Coverage-guided fuzzing of one target
    Fuzz {
        /// A file of fuzz/fuzz_targets, without its ending
        target: String,
        /// How long to search
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Ci => ci::run(),
        Task::Sim(args) => sim::run(&args),
        Task::Sweep(args) => sweep::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Netlab(args) => netlab::run(args),
        Task::Fuzz { target, seconds } => fuzz::run(&target, seconds).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Exit code of a command that was used wrongly.
const USAGE: u8 = 2;
