//! Two that begin sessions with each other at once, over a network that loses, doubles, overtakes and repeats, settle on one.

mod net;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use net::{Nat, Net};
use peers_crypto::{DatagramKind, DeviceKey};
use peers_nat::{Agent, Config, Event};
use peers_wire::Timestamp;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// How long after the faults end both are connected at the latest: a handshake of 8 s that has just failed, the pause after it, and another.
const CONNECTED_WITHIN: Duration = Duration::from_secs(12);
/// How long after that both send on the same session at the latest, if they have anything to say.
const SETTLED_WITHIN: Duration = Duration::from_secs(5);

const fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// The index field of a datagram that begins behind `at` bytes.
fn index(datagram: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(datagram[at..at + 4].try_into().expect("four bytes"))
}

/// The sessions on which `from` and `to` sent data to each other since `since`: the receiver's index of each datagram.
fn in_use(net: &Net, since: usize, from: usize, to: usize) -> BTreeSet<u32> {
    let ends = (net.address(from), net.address(to));
    let data = net.tap[since..].iter().filter(|(source, destination, datagram)| {
        (*source, *destination) == ends && DatagramKind::of(datagram) == Some(DatagramKind::Data)
    });
    data.map(|(.., datagram)| index(datagram, 1)).collect()
}

/// Both talk for `rounds`; what each sent arrives once. Returns the indices of the one session that was used, the one that `a` chose first.
fn talk(net: &mut Net, a: usize, b: usize, rounds: u8) -> Result<(u32, u32), String> {
    let since = net.tap.len();
    let before = (net.data(b, a).len(), net.data(a, b).len());
    for round in 0..rounds {
        net.send(a, b, &[round]);
        net.send(b, a, &[round]);
        net.run(millis(100));
    }
    net.run(millis(500));
    let arrived = (net.data(b, a).len() - before.0, net.data(a, b).len() - before.1);
    if arrived != (usize::from(rounds), usize::from(rounds)) {
        return Err(format!("{arrived:?} of {rounds} messages arrived"));
    }
    let (to_a, to_b) = (in_use(net, since, b, a), in_use(net, since, a, b));
    let (Some(at_a), Some(at_b)) = (to_a.first(), to_b.first()) else { return Err("nothing was sent".into()) };
    if to_a.len() > 1 || to_b.len() > 1 {
        return Err(format!("they use {} and {} sessions", to_a.len(), to_b.len()));
    }
    // A response carries the indices of both ends of its session.
    let same = net.tap.iter().any(|(.., datagram)| {
        DatagramKind::of(datagram) == Some(DatagramKind::IkResponse)
            && [(*at_a, *at_b), (*at_b, *at_a)].contains(&(index(datagram, 1), index(datagram, 5)))
    });
    if same { Ok((*at_a, *at_b)) } else { Err("they send on different sessions".into()) }
}

fn settle(seed: u64) -> Result<(), String> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut net = Net::new(seed);
    net.delay = millis(rng.random_range(1..100));
    net.jitter = millis(rng.random_range(0..400));
    (net.loss, net.duplicates) = (rng.random_range(0.0..0.5), rng.random_range(0.0..0.5));
    let repeats = rng.random_range(0.0..0.5);
    let (a, b) = (net.add(Nat::Open), net.add(Nat::Open));
    net.connect_open(a, b);
    // Within a round trip: each begins before it has heard of the other, or just then.
    net.run(net.delay.mul_f64(rng.random_range(0.0..2.0)));
    net.connect_open(b, a);
    for _ in 0..rng.random_range(0..300) {
        net.run(millis(20));
        for (from, to) in [(a, b), (b, a)] {
            if rng.random_bool(0.1) {
                net.send(from, to, b"meanwhile");
            }
        }
        // Someone on the path sends again what went by at any time.
        if rng.random_bool(repeats) {
            let (source, destination, datagram) = net.tap[rng.random_range(0..net.tap.len())].clone();
            let to = if destination == net.address(a) { a } else { b };
            net.inject(to, source, &datagram);
        }
    }
    (net.loss, net.duplicates) = (0.0, 0.0);
    net.run_until(CONNECTED_WITHIN, |net| net.is_connected(a, b)).ok_or("not connected in time")?;
    // What is said brings them together, and may be lost meanwhile: they would not notice in silence that they mean different sessions.
    for _ in 0..SETTLED_WITHIN.as_millis() / 100 {
        net.send(a, b, b"settling");
        net.send(b, a, b"settling");
        net.run(millis(100));
    }
    net.run(millis(500));
    let session = talk(&mut net, a, b, 20)?;
    net.run(Duration::from_secs(40));
    let later = talk(&mut net, a, b, 3)?;
    if session != later {
        return Err(format!("they left session {session:?} for {later:?}"));
    }
    let told = |n| {
        let connected = net.count(n, |event| matches!(event, Event::Connected { .. }));
        connected - net.count(n, |event| matches!(event, Event::Disconnected { .. }))
    };
    if (told(a), told(b)) == (1, 1) { Ok(()) } else { Err("the layer above was told otherwise".into()) }
}

/// `PEERS_SEED=N` runs one, `PEERS_SEEDS=N` the first N.
#[test]
fn both_ends_that_begin_at_once_over_any_network_settle_on_the_same_session() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let seeds = number("PEERS_SEED").map_or_else(|| 0..number("PEERS_SEEDS").unwrap_or(1000), |seed| seed..seed + 1);
    let broken: Vec<_> = seeds.filter_map(|seed| settle(seed).err().map(|why| (seed, why))).collect();
    if let Some((seed, why)) = broken.first() {
        panic!("{} seeds do not settle; the first: {why}\nPEERS_SEED={seed} cargo test -p peers-nat --test settle", broken.len());
    }
}

/// Carries what two agents say to each other, without delay, handshakes only if `handshakes`.
fn carry(ends: &mut [(Agent, SocketAddr); 2], now: Instant, handshakes: bool) {
    loop {
        let Some((from, transmit)) = (0..2).find_map(|n| Some((n, ends[n].0.poll_transmit()?))) else { return };
        let source = ends[from].1;
        let (to, address) = &mut ends[1 - from];
        let begins = DatagramKind::of(&transmit.payload) != Some(DatagramKind::Data);
        if transmit.destination == *address && (handshakes || !begins) {
            to.handle_datagram(now, Timestamp(1), source, transmit.payload);
        }
    }
}

#[test]
fn keys_that_cannot_be_replaced_are_given_up() {
    #[expect(clippy::disallowed_methods, reason = "a test needs some instant to count from")]
    let start = Instant::now();
    let config = Config { rekey_after: Duration::from_secs(60), ..Net::config() };
    let mut ends = [1, 2].map(|n: u8| {
        let key = DeviceKey::from_seed(&[n; 32]);
        (Agent::new(start, config.clone(), key, [n; 32]), SocketAddr::from(([50, 0, 0, n], 4000)))
    });
    let (ids, address) = ([ends[0].0.id(), ends[1].0.id()], ends[1].1);
    ends[0].0.connect(start, Timestamp(1), ids[1], &[address]).expect("a valid key");
    carry(&mut ends, start, true);
    let mut lost = [None; 2];
    for second in 1..400 {
        let now = start + Duration::from_secs(second);
        for n in 0..2 {
            ends[n].0.handle_timeout(now, Timestamp(1));
            let _ = ends[n].0.send(now, ids[1 - n], b"data still passes");
        }
        carry(&mut ends, now, false);
        for n in 0..2 {
            while let Some(event) = ends[n].0.poll_event() {
                if matches!(event, Event::Disconnected { .. }) {
                    lost[n].get_or_insert(second);
                }
            }
        }
    }
    for second in lost {
        // Looked at no more often than keep-alives are due.
        assert!(second.is_some_and(|second| (180..240).contains(&second)), "{lost:?}");
    }
}

#[test]
fn a_device_whose_clock_was_set_back_is_not_answered_but_can_be_reached() {
    let mut net = Net::new(1);
    let (a, b) = (net.add(Nat::Open), net.add(Nat::Open));
    net.connect_open(a, b);
    net.run(Duration::from_secs(1));
    assert!(net.is_connected(a, b));
    net.restart(a);
    let (now, id, address) = (net.now, net.id(b), net.address(b));
    net.hosts[a].agent.connect(now, Timestamp(1), id, &[address]).expect("a valid key");
    net.drain(a);
    net.run(millis(500));
    assert!(!net.is_connected(a, b) && net.hosts[b].agent.stats().dropped_replayed > 0);
    net.run(Duration::from_secs(20));
    net.connect_open(b, a);
    net.run(Duration::from_secs(2));
    assert!(net.is_connected(a, b), "what the other end begins does not depend on this clock");
}
