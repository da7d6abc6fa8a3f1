//! The `peers` command: everything that Peers does, without writing code.

mod args;
mod body;
mod commands;
mod control;
mod demo;
mod failure;
mod output;
mod service;
mod signal;
mod text;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Arguments;
use crate::failure::Failure;
use crate::output::Output;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return misunderstood(&error),
    };
    let output = Output::new(arguments.json);
    let result = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(commands::run(arguments.command, output)),
        Err(error) => Err(Failure::failed(format!("no threads can be started: {error}"))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                output.fail(&failure);
            }
            ExitCode::from(failure.code.exit())
        }
    }
}

/// Help, the version, or what is wrong with the command line; the latter as the JSON object too, if that was asked for.
fn misunderstood(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.exit_code() == 0 {
        return ExitCode::SUCCESS;
    }
    let json = std::env::args_os().any(|argument| argument == "--json");
    let message = error.to_string();
    let message = message.lines().next().unwrap_or_default().trim_start_matches("error: ");
    Output::new(json).finish(&serde_json::json!({ "error": Failure::usage(message).hint("see `peers --help`") }));
    ExitCode::from(failure::Code::Usage.exit())
}
