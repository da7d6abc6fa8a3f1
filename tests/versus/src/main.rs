//! Peers beside the published implementations of the same things: taken in turns in one run, in time of the processor, medians.

mod cache;
mod crypto;
#[path = "../../../xtask/src/reconciling.rs"]
mod reconciling;

use std::process::ExitCode;

use rustix::time::{ClockId, clock_gettime};

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("cache") => println!("{}", cache::run()),
        Some("crypto") => println!("{}", crypto::run()),
        _ => {
            eprintln!("error: name a layer: cache or crypto");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Seconds of this thread on the processor that one of `calls` calls takes.
fn time(calls: u32, mut operation: impl FnMut()) -> f64 {
    let start = processor_time();
    for _ in 0..calls {
        operation();
    }
    (processor_time() - start) / f64::from(calls)
}

fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn rounded(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}
