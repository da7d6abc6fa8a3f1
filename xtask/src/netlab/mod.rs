//! `cargo xtask netlab`: real nodes behind real Linux NATs, in network namespaces that tests/netlab/netlab builds.

mod lab;
mod matrix;
mod node;
mod silence;
mod swarm;

use std::process::ExitCode;

use clap::Subcommand;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use lab::Unsupported;

/// Exit code where no network namespace with NATs can be made; the one by which test drivers know that a test was skipped.
pub(crate) const UNSUPPORTED: u8 = 77;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Two nodes behind every pair of kinds of NAT: how they reach each other, how soon, at what cost
    Matrix(matrix::Args),
    /// A swarm of real nodes behind NATs beside the same swarm in the simulator; fails if the two disagree
    Swarm(swarm::Args),
    /// Checks that each NAT of the lab is of the kind it claims to be
    Selftest,
    /// A node of the matrix: commands on standard input, events on standard output
    #[command(hide = true)]
    Node(node::Args),
}

pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(async {
        let (mut interrupt, mut end) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        // What is dropped here takes its lab down.
        tokio::select! {
            done = async { match args.task {
                Task::Matrix(args) => matrix::run(&args).await,
                Task::Swarm(args) => swarm::run(&args).await,
                Task::Selftest => lab::selftest().await,
                Task::Node(args) => node::run(&args).await,
            }} => done,
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
            _ = end.recv() => anyhow::bail!("ended"),
        }
    });
    match done.map_err(anyhow::Error::downcast::<Unsupported>) {
        Ok(code) => Ok(code),
        Err(Ok(unsupported)) => {
            eprintln!("skipped: {unsupported}");
            Ok(ExitCode::from(UNSUPPORTED))
        }
        Err(Err(error)) => Err(error),
    }
}
