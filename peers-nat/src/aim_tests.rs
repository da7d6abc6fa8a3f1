//! Nobody can aim an agent at a third: every message in every state, from everyone who could send it and seemingly from everywhere.
//!
//! `PEERS_TABLE=1 cargo test -p peers-nat every_message_in_every_state -- --nocapture` prints the table.

use core::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use peers_crypto::Initiator;
use peers_wire::PeerId;

use crate::Config;
use crate::control::{self, Control, Route, Test};
use crate::fuzzing::{Rig, strange_datagrams};
use crate::ports::Mapping;
use crate::relay;

/// The state that an agent is in towards the hostile peer 0, and towards bystanders that it named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    Discovering,
    Dialled,
    Answered,
    AnsweredAtABystander,
    EstablishedDirect,
    EstablishedAtABystander,
    EstablishedRelayed,
    Punching,
    Opening,
    WantedThroughARelay,
    Rekeying,
    RekeyingAtABystander,
    Closed,
    Restarted,
    Relaying,
}

const STATES: [State; 16] = [
    State::Unknown,
    State::Discovering,
    State::Dialled,
    State::Answered,
    State::AnsweredAtABystander,
    State::EstablishedDirect,
    State::EstablishedAtABystander,
    State::EstablishedRelayed,
    State::Punching,
    State::Opening,
    State::WantedThroughARelay,
    State::Rekeying,
    State::RekeyingAtABystander,
    State::Closed,
    State::Restarted,
    State::Relaying,
];

/// A route that the hostile relay says there is.
const ROUTE: Route = 77;

fn second() -> Duration {
    Duration::from_secs(1)
}

/// A rig in `state`; peer 3 always has a session, so that there is a wrong sender for everything.
fn rig(state: State) -> Rig {
    let rekey_after = Duration::from_secs(if matches!(state, State::Rekeying | State::RekeyingAtABystander) { 20 } else { 600 });
    let mut rig = Rig::new(Config { lan: true, target_sessions: 0, rekey_after, ..Config::default() });
    rig.establish(3);
    let (now, wall, peer) = (rig.now, rig.wall(), rig.hostile[0].key.id());
    let (own, bystander) = (rig.hostile[0].addresses[0], rig.bystander(0));
    match state {
        State::Unknown => {}
        State::Discovering => {
            rig.hostile[0].answers = false;
            rig.agent.connect_address(now, wall, own);
        }
        State::Dialled => {
            rig.hostile[0].answers = false;
            rig.agent.connect(now, wall, peer, &[own]).expect("room for one");
        }
        State::Answered | State::AnsweredAtABystander => {
            rig.hostile[0].answers = false;
            let initiation = rig.initiation(0, vec![bystander]);
            rig.inject(if state == State::Answered { own } else { bystander }, initiation);
        }
        State::EstablishedDirect => rig.establish(0),
        State::EstablishedAtABystander | State::RekeyingAtABystander => {
            // The handshake goes by its own address; the first word, which settles the path, seems to come from elsewhere.
            rig.hostile[0].answers = false;
            let initiation = rig.initiation(0, Vec::new());
            rig.inject(own, initiation);
            let word = rig.sealed(0, &[Control::Ping { token: 1, association: 9, observed: None }]).expect("the handshake was answered");
            rig.inject(bystander, word);
            // It keeps its keys alive with a word now and then, until they are old.
            for _ in 0..if state == State::RekeyingAtABystander { 16 } else { 0 } {
                rig.run(second() * 2);
                let word = rig.sealed(0, &[Control::Refused { target: peer }]).expect("a session");
                rig.inject(bystander, word);
            }
        }
        State::EstablishedRelayed | State::Punching | State::Opening => {
            rig.establish(1);
            // The other end of a spray, or of ports that we open.
            rig.mapping = if state == State::Opening { Mapping::Independent } else { Mapping::Dependent };
            let candidates = (0..8).map(|n| rig.bystander(n)).collect();
            let initiation = rig.initiation(0, candidates);
            let introduction = rig.sealed(1, &[Control::Introduction { route: ROUTE, address: bystander, initiation: &initiation }]);
            rig.inject(rig.hostile[1].addresses[0], introduction.expect("a session"));
            if state == State::EstablishedRelayed {
                let word =
                    rig.sealed(0, &[Control::Ping { token: 1, association: 9, observed: None }]).expect("the handshake was answered");
                rig.inject(rig.hostile[1].addresses[0], relay::wrap(ROUTE, &word).into());
                assert!(rig.agent.peer(peer).is_some(), "relayed");
                rig.run(second() * 5);
            }
        }
        State::WantedThroughARelay => {
            rig.establish(1);
            rig.agent.connect(now, wall, peer, &[]).expect("room for one");
            rig.drain();
            let introduced = rig.sealed(1, &[Control::Introduced { target: peer, route: ROUTE, address: bystander }]);
            rig.inject(rig.hostile[1].addresses[0], introduced.expect("a session"));
        }
        State::Rekeying => {
            rig.establish(0);
            rig.hostile[0].answers = false;
            rig.run(second() * 19);
            let word = rig.sealed(0, &[Control::PeersRequest]).expect("a session");
            rig.inject(own, word);
            rig.run(second() * 2);
        }
        State::Closed => {
            rig.establish(0);
            let close = rig.sealed(0, &[Control::Close]).expect("a session");
            rig.inject(own, close);
        }
        State::Restarted => {
            rig.establish(0);
            rig.hostile[0].answers = false;
            let initiation = rig.initiation(0, vec![bystander]);
            rig.inject(own, initiation);
        }
        State::Relaying => {
            rig.establish(0);
            rig.establish(1);
            let initiation = rig.kept[0].clone();
            let target = rig.hostile[1].key.id();
            let introduce = rig.sealed(0, &[Control::Introduce { target, initiation: &initiation }]).expect("a session");
            rig.inject(own, introduce);
            assert_eq!(rig.agent.relayed_routes(), 1, "relaying");
        }
    }
    rig.drain();
    rig
}

/// Whose message it is, and where it seems to come from.
#[derive(Debug, Clone, Copy)]
enum Sender {
    /// The peer that the state is about, from its own address.
    Right,
    /// As if from a bystander.
    Spoofed,
    /// Another peer with a session, as if from a bystander.
    WrongSpoofed,
    /// It was delivered from the right address, and comes again as if from a bystander.
    Replayed,
    /// Altered, as if from a bystander.
    Forged,
    /// Behind the route of a relay, as if from a bystander.
    Relayed,
}

const SENDERS: [Sender; 6] = [Sender::Right, Sender::Spoofed, Sender::WrongSpoofed, Sender::Replayed, Sender::Forged, Sender::Relayed];

const MESSAGES: usize = 33;

/// The `n`-th of all messages, made by the hostile peer `who`; none if it needs a session and there is none.
fn message(rig: &mut Rig, n: usize, who: usize) -> Option<(&'static str, Bytes)> {
    if n < 10 {
        return strange_datagrams(rig).into_iter().nth(n);
    }
    let (near, far) = (rig.bystander(0), rig.bystander(n));
    let token = rig.hostile[who].tokens.last().copied().unwrap_or(1);
    let target = rig.hostile[(who + 1) % 4].key.id();
    let route = rig.routes.last().copied().unwrap_or(ROUTE);
    let initiation = if (19..=20).contains(&n) { rig.initiation(2, (0..8).map(|n| rig.bystander(n)).collect()) } else { Bytes::new() };
    let (association, observed) = (9, Some(near));
    let (name, control) = match n {
        10 => return Some(("a handshake", rig.initiation(who, (0..8).map(|n| rig.bystander(n)).collect()))),
        11 => return Some(("a handshake to nobody", Initiator::xx(1, rig.wall(), &mut rig.rng).1.into())),
        12 => return rig.sealed_bytes(who, &[control::DATA; 20]).map(|datagram| ("data", datagram)),
        13 => ("ping", Control::Ping { token, association, observed }),
        14 => ("ping of another connection", Control::Ping { token, association: 10, observed }),
        15 => ("pong", Control::Pong { token, association, observed }),
        16 => ("close", Control::Close),
        17 => ("peers request", Control::PeersRequest),
        18 => ("peers", Control::Peers { ids: (0..16).map(|n| PeerId([n; 32])).collect() }),
        19 => ("introduce", Control::Introduce { target, initiation: &initiation }),
        20 => ("introduction", Control::Introduction { route: ROUTE + 1, address: far, initiation: &initiation }),
        21 => ("introduced", Control::Introduced { target, route, address: far }),
        22 => ("refused", Control::Refused { target }),
        23 => ("route closed", Control::RouteClosed { route }),
        24 => ("candidates", Control::Candidates { addresses: (0..8).map(|n| rig.bystander(n)).collect() }),
        25 => ("reflect", Control::Reflect { token }),
        26 => ("reflected", Control::Reflected { token, observed: far }),
        27 => ("test", Control::Test { token: 5, test: Test::Probe }),
        28 => ("tested", Control::Tested { token, observed: far, second: true, other: true }),
        29 => ("vouch", Control::Vouch { token, address: far }),
        30 => ("second port", Control::SecondPort { token, port: far.port() }),
        31 => ("again", Control::Again { token: 5 }),
        32 => ("opened", Control::Opened { low: 1, high: 60_000, opened: 512 }),
        _ => return None,
    };
    rig.sealed(who, &[control]).map(|datagram| (name, datagram))
}

/// Sends a message again and again, each time anew where it can be made anew, and lets minutes pass; returns its name.
fn attack(rig: &mut Rig, n: usize, sender: Sender) -> Option<&'static str> {
    let (own, bystander): (SocketAddr, SocketAddr) = (rig.hostile[0].addresses[0], rig.bystander(0));
    let mut name = None;
    for _ in 0..12 {
        let who = if matches!(sender, Sender::WrongSpoofed) { 3 } else { 0 };
        let Some((what, datagram)) = message(rig, n, who) else { break };
        name = Some(what);
        match sender {
            Sender::Right => rig.inject(own, datagram),
            Sender::Spoofed | Sender::WrongSpoofed => rig.inject(bystander, datagram),
            Sender::Replayed => {
                rig.inject(own, datagram.clone());
                rig.inject(bystander, datagram);
            }
            Sender::Forged => {
                let mut altered = datagram.to_vec();
                let middle = altered.len() / 2;
                altered[middle] ^= 1;
                rig.inject(bystander, altered.into());
            }
            Sender::Relayed => {
                let route = rig.routes.last().copied().unwrap_or(ROUTE);
                rig.inject(bystander, relay::wrap(route, &datagram).into());
            }
        }
        rig.run(second() / 2);
        rig.check_bystanders();
    }
    rig.run(second() * 90);
    name
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "a number of bytes is small")]
fn every_message_in_every_state_sends_a_bystander_three_bytes_for_one_at_most_and_eight_probes() {
    let print = std::env::var_os("PEERS_TABLE").is_some();
    let mut cells = 0;
    for state in STATES {
        let mut worst = (0.0f64, "", 0, "");
        for n in 0..MESSAGES {
            for sender in SENDERS {
                let mut rig = rig(state);
                let Some(name) = attack(&mut rig, n, sender) else { continue };
                cells += 1;
                rig.check_bystanders();
                for (address, account) in &rig.bystanders {
                    assert!(rig.is_sound(*address), "{state:?}, {name}, {sender:?}: {address} was sent too much: {account:?}");
                    let beyond = account.sent as f64 / account.received.max(1) as f64;
                    if account.received > 0 && account.probes == 0 && beyond > worst.0 {
                        (worst.0, worst.1) = (beyond, name);
                    }
                    if account.probes > worst.2 {
                        (worst.2, worst.3) = (account.probes, name);
                    }
                }
            }
        }
        if print {
            let (ratio, by, probes, probed_by) = worst;
            eprintln!("{state:?}: at most {ratio:.2} bytes for one ({by}), {probes} probes to one address ({probed_by})");
        }
    }
    assert!(cells > 2000, "{cells} cells of the table");
}
