//! The command line.

mod cache;
mod groups;

use core::net::SocketAddr;
use core::str::FromStr;
use core::time::Duration;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use peers_wire::PeerId;

pub(crate) use cache::Cache;
pub(crate) use groups::{Group, Guardians, Id, Identity, Recovery, RoleName, Sure};

/// Your devices keep databases in step and pass messages, with no server in the middle.
#[derive(Debug, Parser)]
#[command(name = "peers", version, max_term_width = 110, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// Print exactly one JSON object, as the last line of standard output.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  the command line has no meaning
  3  unreachable: the other peer, or no node runs here (start it with `peers up`)
  4  refused: wrong code, wrong passphrase, not allowed
  5  stored by other peers, but not yet delivered

Environment:
  PEERS_HOME  one folder for keys, state and databases (default: the XDG folders of this user)
  PEERS_LOG   what `peers up` logs to standard error: error, warn (default), info, debug, trace";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print the id of this device, and make its key on first use; or see to your devices.
    Id(Id),
    /// Keep the secrets of this device: its passphrase, and copies of them.
    #[command(subcommand)]
    Key(Key),
    /// Run the node of this device until it is interrupted.
    Up(Up),
    /// Show this device, who it is connected to, and what it keeps.
    Status,
    /// Find out how this network treats you: what your router or firewall does, and what that means for who can reach you.
    Netcheck(Netcheck),
    /// Let a new device join you: prints a code of four words, or a link, and waits for `peers accept` there.
    Invite(Invite),
    /// Join what another device invites to, you or a group: asks for the code or link that `peers invite` or `peers group invite` printed there.
    Accept(Accept),
    /// Groups of people: who reads, who writes, who decides.
    #[command(subcommand)]
    Group(Group),
    /// Come back after all devices are lost: a phrase on paper, or friends.
    #[command(subcommand)]
    Recovery(Recovery),
    /// Publish to a topic, or follow one.
    #[command(subcommand)]
    Topic(Topic),
    /// Send a file or a text to one peer, who need not be online.
    Send(Send),
    /// Show what was sent to this device.
    Inbox(Inbox),
    /// Keep SQLite databases in step on all of your devices.
    #[command(subcommand)]
    Db(Database),
    /// The cache that this device lends to everyone: what it holds, where a packet is, and packets in files.
    #[command(subcommand)]
    Cache(Cache),
    /// Run three peers on this machine, and check that all of this holds.
    Demo(Demo),
    /// Print a completion script for a shell.
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, Args)]
pub(crate) struct Passphrase {
    /// Read the passphrase from this file descriptor, up to its end or the first line break.
    #[arg(long, value_name = "N")]
    pub(crate) passphrase_fd: Option<u32>,
    /// Take what this command prints, up to the first line break: `secret-tool lookup app peers`.
    #[arg(long, value_name = "COMMAND", conflicts_with = "passphrase_fd")]
    pub(crate) passphrase_command: Option<String>,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub(crate) struct NewPassphrase {
    /// Read the new passphrase from this file descriptor: its next line, if it is the one of --passphrase-fd.
    #[arg(long, value_name = "N")]
    pub(crate) new_passphrase_fd: Option<u32>,
    /// Take the first line that this command prints as the new passphrase.
    #[arg(long, value_name = "COMMAND")]
    pub(crate) new_passphrase_command: Option<String>,
    /// Use no passphrase: whoever has the file is this device.
    #[arg(long)]
    pub(crate) no_passphrase: bool,
}

impl NewPassphrase {
    /// Whether a new passphrase was asked for.
    pub(crate) const fn is_given(&self) -> bool {
        self.new_passphrase_fd.is_some() || self.new_passphrase_command.is_some() || self.no_passphrase
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Key {
    /// Show how the key file is protected. Needs no passphrase, shows no secret.
    Show {
        /// A key file or an export [default: the key file of this device]
        file: Option<PathBuf>,
    },
    /// Write a sealed copy of all that it takes to be this device again, under a passphrase of its own.
    Export(Export),
    /// Be the device of an export. A key that is here is never replaced.
    Import(Import),
    /// Seal the key file under another passphrase; a node may run meanwhile.
    ChangePassphrase {
        #[command(flatten)]
        passphrase: Passphrase,
        #[command(flatten)]
        new: NewPassphrase,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// Where to write it; no file is overwritten, and `-` is standard output [default: peers-ID.key]
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// Leave out the account: who the devices of the user are, and what they share.
    #[arg(long = "key-only")]
    pub(crate) key_only: bool,
    #[command(flatten)]
    pub(crate) passphrase: Passphrase,
    #[command(flatten)]
    pub(crate) new: NewPassphrase,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// What `peers key export` wrote.
    pub(crate) file: PathBuf,
    #[command(flatten)]
    pub(crate) passphrase: Passphrase,
    /// The key file gets the passphrase of the export unless another is given.
    #[command(flatten)]
    pub(crate) new: NewPassphrase,
}

#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Bind a UDP socket here; may be given several times [default: every address, a free port]
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Vec<SocketAddr>,
    /// Do not announce this device on the local network.
    #[arg(long)]
    pub(crate) no_lan: bool,
    /// Keep to the local network: send nothing to any address beyond it, use no relay, ask no router.
    #[arg(long, conflicts_with = "no_lan")]
    pub(crate) lan_only: bool,
    /// Do not ask the router to let others in (PCP, NAT-PMP, UPnP).
    #[arg(long)]
    pub(crate) no_port_mapping: bool,
    /// Connect to this peer; may be given several times.
    #[arg(long, value_name = "[ID@]ADDR")]
    pub(crate) peer: Vec<Bootstrap>,
    /// The name of this device that your other devices see [default: the host's name]
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) passphrase: Passphrase,
}

#[derive(Debug, Args)]
pub(crate) struct Netcheck {
    /// Wait so many seconds for two peers outside of this network to be connected and to have answered.
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(crate) wait: u64,
    /// Where no node runs: connect to this peer; may be given several times.
    #[arg(long, value_name = "[ID@]ADDR")]
    pub(crate) peer: Vec<Bootstrap>,
    #[command(flatten)]
    pub(crate) passphrase: Passphrase,
}

#[derive(Debug, Args)]
#[group(id = "invitation")]
pub(crate) struct Invite {
    /// Print a link instead of a code: it carries a full secret, to be sent where nobody else reads.
    #[arg(long)]
    pub(crate) link: bool,
    /// Show the link as a QR code, or write it to FILE as SVG.
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    pub(crate) qr: Option<Option<PathBuf>>,
    #[command(flatten)]
    pub(crate) confirm: Confirm,
}

#[derive(Debug, Args)]
pub(crate) struct Accept {
    #[command(flatten)]
    pub(crate) confirm: Confirm,
}

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Confirm {
    /// Ask whether both devices show the same words before anything secret is sent (a line of standard input if that is no terminal).
    #[arg(long)]
    pub(crate) confirm: bool,
}

/// A peer to connect to: whoever answers at the address, or nobody but `id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bootstrap {
    pub(crate) id: Option<PeerId>,
    pub(crate) address: SocketAddr,
}

impl FromStr for Bootstrap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (id, address) = match text.split_once('@') {
            Some((id, address)) => (Some(id.parse().map_err(|error| format!("{id} is no peer id: {error}"))?), address),
            None => (None, text),
        };
        let address =
            address.parse().map_err(|_| format!("{address} is no address and port, such as 192.0.2.7:4000 or [2001:db8::7]:4000"))?;
        Ok(Self { id, address })
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Topic {
    /// Publish a text to a topic, or what comes on standard input.
    Publish {
        /// A topic of your own devices; with --passphrase, of everyone who knows the passphrase.
        topic: String,
        /// The text; `-` or nothing reads standard input.
        text: Option<String>,
        /// Return when the message is durable here (queued), or when other peers hold it (stored).
        #[arg(long, value_enum, default_value_t = PublishWait::Queued)]
        wait: PublishWait,
        #[command(flatten)]
        stored: Stored,
        /// Ask for the passphrase of a shared topic (read from standard input if that is no terminal: its first line).
        #[arg(long)]
        passphrase: bool,
    },
    /// Ask everyone who follows a topic now, and print their answers.
    Query {
        /// A topic of your own devices; with --passphrase, of everyone who knows the passphrase.
        topic: String,
        /// What to ask: at most 861 bytes.
        text: String,
        /// Wait so long for answers, at most a minute: 500ms, 30s.
        #[arg(long, default_value = "3s", value_parser = duration)]
        timeout: Duration,
        /// Stop after N answers.
        #[arg(long, value_name = "N")]
        count: Option<usize>,
        /// Ask for the passphrase of a shared topic (read from standard input if that is no terminal: its first line).
        #[arg(long)]
        passphrase: bool,
    },
    /// Answer the questions of others with a text, and print them, until interrupted.
    Answer {
        /// A topic of your own devices; with --passphrase, of everyone who knows the passphrase.
        topic: String,
        /// The answer.
        text: String,
        /// Stop after N questions.
        #[arg(long, value_name = "N")]
        count: Option<usize>,
        /// Ask for the passphrase of a shared topic (read from standard input if that is no terminal: its first line).
        #[arg(long)]
        passphrase: bool,
    },
    /// Show who is there: devices that announce themselves on a topic.
    Who {
        /// A topic of your own devices; with --passphrase, of everyone who knows the passphrase.
        topic: String,
        /// Wait so long for answers, at most a minute: 500ms, 30s.
        #[arg(long, default_value = "2s", value_parser = duration)]
        timeout: Duration,
        /// Ask for the passphrase of a shared topic (read from standard input if that is no terminal: its first line).
        #[arg(long)]
        passphrase: bool,
    },
    /// Announce this device on a topic until interrupted, and print who comes and goes.
    Announce {
        /// A topic of your own devices; with --passphrase, of everyone who knows the passphrase.
        topic: String,
        /// Ask for the passphrase of a shared topic (read from standard input if that is no terminal: its first line).
        #[arg(long)]
        passphrase: bool,
    },
    /// Print the messages of a topic as they come.
    Follow {
        /// A topic of your own devices; with --passphrase, of everyone who knows the passphrase.
        topic: String,
        /// Begin with the last N messages that are known here.
        #[arg(long, default_value_t = 0, value_name = "N")]
        last: usize,
        /// Stop after N messages.
        #[arg(long, value_name = "N")]
        count: Option<usize>,
        /// Stop after those that are known here.
        #[arg(long)]
        no_wait: bool,
        /// Ask for the passphrase of a shared topic (read from standard input if that is no terminal: its first line).
        #[arg(long)]
        passphrase: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PublishWait {
    Queued,
    Stored,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SendWait {
    Queued,
    Stored,
    Delivered,
}

#[derive(Debug, Args)]
pub(crate) struct Stored {
    /// How many other peers must hold it before it counts as stored.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) copies: u32,
    /// Give up waiting after this time: 500ms, 30s, 5m.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub(crate) timeout: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct Send {
    /// The id of a peer, or the name of one of your devices.
    pub(crate) to: String,
    /// The file; `-` reads standard input.
    #[arg(required_unless_present = "text", conflicts_with = "text")]
    pub(crate) file: Option<PathBuf>,
    /// A text instead of a file.
    #[arg(long)]
    pub(crate) text: Option<String>,
    /// Return when it is durable here (queued), when other peers hold it (stored), or when it has arrived (delivered).
    #[arg(long, value_enum, default_value_t = SendWait::Queued)]
    pub(crate) wait: SendWait,
    #[command(flatten)]
    pub(crate) stored: Stored,
}

#[derive(Debug, Args)]
pub(crate) struct Inbox {
    /// How many of the newest to show.
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) last: usize,
    /// Go on with what comes from now on, until interrupted.
    #[arg(long)]
    pub(crate) follow: bool,
    /// Write what was sent into files in this folder; overwrites none.
    #[arg(long, value_name = "DIR")]
    pub(crate) save: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Database {
    /// Keep tables of a database in step: all of them, or those named.
    Track {
        /// An SQLite file; made if there is none. One that exists stays as it is (plain, or sealed).
        file: PathBuf,
        /// Tables to track [default: every table that has a primary key]
        tables: Vec<String>,
        /// The name by which your devices know the database [default: the file's name without its ending]
        #[arg(long)]
        name: Option<String>,
        /// If the file has to be made, make it a plain one that any SQLite program opens, instead of a sealed one.
        #[arg(long)]
        plain: bool,
    },
    /// Stop keeping tables in step: all of a database, or those named. The rows stay.
    Untrack {
        /// The name of a database, or its file.
        database: String,
        tables: Vec<String>,
    },
    /// Show every database, or one: its tables, what waits to be sent, who has all of it.
    Status {
        /// The name of a database, or its file.
        database: Option<String>,
    },
    /// Show the last changes of a database: when, by whom, to which row and columns.
    Log {
        /// The name of a database, or its file.
        database: String,
        #[arg(long, default_value_t = 20, value_name = "N")]
        last: usize,
    },
    /// Run SQL on a database: the way to use a sealed one by hand.
    Sql {
        /// The name of a database, or its file.
        database: String,
        /// One or more statements; the rows of the last one that has any are printed. `-` reads standard input.
        sql: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Use a copy of this SQLite database instead of the one that the demo makes.
    #[arg(long, value_name = "FILE")]
    pub(crate) db: Option<PathBuf>,
}

/// Parses `500ms`, `30s`, `5m`, `2h`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let scale = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("a time is a number and a unit: 500ms, 30s, 5m, 2h".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "a time is a number and a unit: 500ms, 30s, 5m, 2h".to_owned())?;
    Ok(Duration::from_millis(number.saturating_mul(scale)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_are_read_with_their_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("30"), Ok(Duration::from_secs(30)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        assert!(duration("").is_err() && duration("s").is_err() && duration("3 weeks").is_err());
        assert!(duration("99999999999999999999s").is_err());
    }

    #[test]
    fn a_peer_to_connect_to_is_an_address_with_or_without_an_id() {
        let id = PeerId([7; 32]);
        assert_eq!("127.0.0.1:4000".parse(), Ok(Bootstrap { id: None, address: ([127, 0, 0, 1], 4000).into() }));
        assert_eq!(format!("{id}@[::1]:5").parse::<Bootstrap>().map(|b| b.id), Ok(Some(id)));
        assert!("somewhere".parse::<Bootstrap>().is_err());
        assert!("abc@127.0.0.1:4000".parse::<Bootstrap>().is_err());
    }

    #[test]
    fn no_secret_is_an_argument() {
        fn walk(command: &clap::Command, found: &mut Vec<String>) {
            let takes = |arg: &&clap::Arg| arg.get_action().takes_values();
            found.extend(command.get_arguments().filter(takes).map(|arg| arg.get_id().to_string()));
            command.get_subcommands().for_each(|sub| walk(sub, found));
        }
        let mut found = Vec::new();
        walk(&Arguments::command(), &mut found);
        // Where a secret comes from, and not the secret.
        let sources = ["passphrase_fd", "passphrase_command", "new_passphrase_fd", "new_passphrase_command"];
        let secret = |id: &&String| {
            !sources.contains(&id.as_str()) && ["pass", "code", "secret", "key", "phrase"].iter().any(|word| id.contains(word))
        };
        assert_eq!(found.iter().find(secret), None);
    }

    #[test]
    fn a_file_and_a_text_are_not_sent_together() {
        assert!(Arguments::try_parse_from(["peers", "send", "bob", "x", "--text", "y"]).is_err());
        assert!(Arguments::try_parse_from(["peers", "send", "bob"]).is_err());
        assert!(Arguments::try_parse_from(["peers", "send", "bob", "--text", "y", "--json"]).is_ok());
    }
}
