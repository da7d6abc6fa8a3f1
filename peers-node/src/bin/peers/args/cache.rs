//! The arguments of `peers cache`.

use core::time::Duration;
use std::path::PathBuf;

use clap::Subcommand;

use super::duration;

#[derive(Debug, Subcommand)]
pub(crate) enum Cache {
    /// Show how full the cache is, and what it did since the node started.
    Status,
    /// Look where a packet is: here, at the peers that are connected, and up to three hops beyond them.
    Trace {
        /// The id of a packet, as `peers topic publish` prints it, or of a letter, as `peers --json send` prints it.
        id: String,
        /// Wait so long for answers, at most a minute: 500ms, 30s.
        #[arg(long, default_value = "5s", value_parser = duration)]
        timeout: Duration,
    },
    /// Write packets into a file, for another network: all that are held, or those of one topic.
    Export {
        /// The file; one that is there is replaced.
        file: PathBuf,
        /// Only a topic of your own devices; with --passphrase, of everyone who knows the passphrase.
        #[arg(long, value_name = "TOPIC")]
        topic: Option<String>,
        /// Only the topic of the group of that name or id.
        #[arg(long, value_name = "GROUP", conflicts_with = "topic")]
        group: Option<String>,
        /// Ask for the passphrase of a shared topic (read from standard input if that is no terminal: its first line).
        #[arg(long, requires = "topic")]
        passphrase: bool,
    },
    /// Take in the packets of a file; each is checked, and passed on as if a stranger had brought it.
    Import {
        /// What `peers cache export` wrote.
        file: PathBuf,
    },
}
