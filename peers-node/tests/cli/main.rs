//! The `peers` command as real processes, each with its own home, on 127.0.0.1 only.
#![expect(clippy::unwrap_used, reason = "a failed step of the harness fails its test")]

mod asking;
mod bad_input;
mod cache;
mod control;
mod devices;
mod groups;
mod harness;
mod keys;
mod linking;
mod mail_and_topics;
mod recovery;
mod sqlite;
