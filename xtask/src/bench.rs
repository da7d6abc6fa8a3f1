//! `cargo xtask bench`: the figures of a layer, as docs/BENCHMARKS.md names them.

use std::process::ExitCode;

use clap::ValueEnum;

use crate::{USAGE, bench_cache, bench_crypto, bench_nat, bench_sync, bench_wire};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Whose figures
    layer: Layer,
    /// Measures the layer's published peers beside it
    #[arg(long)]
    versus: bool,
    /// Prints one JSON object as the last line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Layer {
    /// The frame
    Wire,
    /// Sessions
    Crypto,
    /// Agents and paths
    Nat,
    /// Store and reconciliation
    Cache,
    /// The database
    Sync,
}

#[expect(clippy::print_stdout, reason = "the figures are the output of this command")]
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let versus = match args.layer {
        Layer::Crypto => Some("crypto"),
        Layer::Cache => Some("cache"),
        Layer::Wire | Layer::Nat | Layer::Sync => None,
    };
    if args.versus && versus.is_none() {
        eprintln!("error: --versus is not available for this layer: nothing to measure beside it is built in this workspace");
        return Ok(ExitCode::from(USAGE));
    }
    let mut figures = match args.layer {
        Layer::Wire => bench_wire::run(),
        Layer::Crypto => bench_crypto::run(),
        Layer::Nat => bench_nat::run()?,
        Layer::Cache => bench_cache::run(),
        Layer::Sync => bench_sync::run(),
    };
    if let Some(layer) = versus.filter(|_| args.versus) {
        figures["versus"] = bench_crypto::versus(layer)?;
    }
    match figures.as_object() {
        Some(figures) if !args.json => figures.iter().for_each(|(figure, value)| println!("{figure:24} {value}")),
        _ => println!("{figures}"),
    }
    Ok(ExitCode::SUCCESS)
}
