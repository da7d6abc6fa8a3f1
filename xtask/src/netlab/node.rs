//! A node of the lab: a whole [`Node`] with its own home and sockets, driven by lines on standard input.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use bytes::Bytes;
use peers_crypto::TopicKey;
use peers_node::{Bootstrap, Config, Home, Node, NodeEvent, Options};
use peers_tests::scenario::lab;
use peers_wire::PeerId;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::{MissedTickBehavior, interval};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Folder of its state
    #[arg(long)]
    home: PathBuf,
    /// Addresses to bind
    #[arg(long, default_values = ["0.0.0.0:0", "[::]:0"])]
    listen: Vec<SocketAddr>,
    /// Where a peer is that it knows
    #[arg(long)]
    bootstrap: Vec<SocketAddr>,
    /// Looks for as many sessions as nodes do, and follows the topic of the swarm
    #[arg(long)]
    swarm: bool,
}

/// Something that a node says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Milliseconds since the Unix epoch; all nodes of a lab have one clock.
    pub(crate) at: f64,
    pub(crate) what: What,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum What {
    /// It is there.
    Ready { id: String },
    /// It has begun to look for a peer.
    Asked,
    /// It has a session, on a direct path or a relayed one.
    Connected { peer: String, direct: bool },
    /// A session goes another way.
    Path { peer: String, direct: bool },
    /// A session is gone.
    Disconnected,
    /// Application data came, and is stored.
    Data { number: u64 },
    /// Datagrams sent so far.
    Sent { datagrams: u64 },
    /// It publishes a message on the topic of the swarm.
    Published { number: u64 },
    /// A message of the swarm came.
    Heard { number: u64 },
}

#[expect(clippy::print_stdout, reason = "what it says is the output of this command")]
fn say(what: What) -> anyhow::Result<()> {
    #[expect(clippy::disallowed_methods, reason = "measures when something happens")]
    let now = SystemTime::now();
    let said = Said { at: now.duration_since(UNIX_EPOCH)?.as_secs_f64() * 1000.0, what };
    println!("{}", serde_json::to_string(&said)?);
    Ok(())
}

/// Runs until standard input ends. Commands: `connect ID`, which also sends data; `stream ID MS`, data at that interval; `count`; `publish NUMBER`, to the swarm.
///
/// But for `--swarm` it looks for no sessions of its own accord: who is connected to whom is up to the experiment.
pub(crate) async fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let usual = peers_nat::Config::default();
    let nat = peers_nat::Config { target_sessions: if args.swarm { usual.target_sessions } else { 0 }, ..usual };
    let options = Options {
        listen: args.listen.clone(),
        bootstrap: args.bootstrap.iter().map(|address| Bootstrap { id: None, address: *address }).collect(),
        limits: Config { nat, ..Config::default() },
        ..Options::default()
    };
    let node = Node::open(&Home::at(&args.home), options).await?;
    let mut events = node.events();
    let topic = if args.swarm { Some(node.topic(&TopicKey::from_seed(lab::TOPIC)).await?) } else { None };
    say(What::Ready { id: node.id().to_string() })?;
    for peer in node.status().await?.peers {
        say(What::Connected { peer: peer.id.to_string(), direct: peer.path.starts_with("direct") })?;
    }
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let mut stream = None::<(PeerId, u64)>;
    let mut ticks = interval(Duration::from_secs(3600));
    loop {
        tokio::select! {
            line = lines.next_line() => {
                let Some(line) = line? else { break };
                let mut words = line.split_whitespace();
                let command = words.next();
                if let (Some("publish"), Some(topic)) = (command, &topic) {
                    let number = words.next().context("a number")?.parse()?;
                    say(What::Published { number })?;
                    topic.publish(lab::body(number)).await?;
                    continue;
                }
                let peer = words.next().map(str::parse::<PeerId>).transpose()?;
                match (command, peer) {
                    (Some("connect"), Some(peer)) => {
                        say(What::Asked)?;
                        // Whoever is written to is looked for, and first of all.
                        node.send(peer, None, Bytes::from_static(b"0")).await?;
                        node.connect(Some(peer), Vec::new()).await?;
                    }
                    (Some("stream"), Some(peer)) => {
                        let pause = words.next().context("an interval")?.parse()?;
                        stream = Some((peer, 0));
                        ticks = interval(Duration::from_millis(pause));
                        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
                    }
                    (Some("count"), None) => {
                        let datagrams = node.status().await?.counters.get("nat.sent").copied().unwrap_or_default();
                        say(What::Sent { datagrams })?;
                    }
                    _ => anyhow::bail!("not a command: {line}"),
                }
            }
            event = events.next() => match event {
                Some(NodeEvent::Connected { peer, path }) => {
                    say(What::Connected { peer: peer.to_string(), direct: path.starts_with("direct") })?;
                }
                Some(NodeEvent::PathChanged { peer, path }) => {
                    say(What::Path { peer: peer.to_string(), direct: path.starts_with("direct") })?;
                }
                Some(NodeEvent::Disconnected { .. }) => say(What::Disconnected)?,
                Some(NodeEvent::Message(message)) if args.swarm => {
                    let number = std::str::from_utf8(&message.payload)?.parse()?;
                    say(What::Heard { number })?;
                }
                Some(NodeEvent::Mail(mail)) => {
                    let number = std::str::from_utf8(&mail.body)?.parse()?;
                    say(What::Data { number })?;
                }
                Some(_) => {}
                None => break,
            },
            _ = ticks.tick() => if let Some((peer, number)) = &mut stream {
                *number += 1;
                node.send(*peer, None, number.to_string().into()).await?;
            },
        }
    }
    node.close().await;
    Ok(ExitCode::SUCCESS)
}
