//! Transports in pairs on virtual time, over links that delay, lose, reorder and duplicate.

mod hostile;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use super::*;

/// One direction of a path that all flows share: a queue before a line of a given rate, then a delay.
#[derive(Debug, Clone, Copy)]
struct Link {
    /// Bytes per second.
    rate: f64,
    /// Bytes that wait at most.
    queue: f64,
    delay: Duration,
    jitter: Duration,
    loss: f64,
    duplicate: f64,
}

impl Link {
    /// 100 Mbit/s, 20 ms round trip, a queue of one round trip.
    const BROADBAND: Self =
        Self { rate: 12.5e6, queue: 250e3, delay: Duration::from_millis(10), jitter: Duration::ZERO, loss: 0.0, duplicate: 0.0 };
}

/// When, order of sending, pair, side, packet.
type Arrival = (Instant, u64, usize, usize, Vec<u8>);

/// Pairs of transports, each side 0 with its side 1, over one link in each direction.
struct Net {
    now: Instant,
    start: Instant,
    rng: ChaCha20Rng,
    links: [Link; 2],
    /// When the line is free again.
    busy: [Instant; 2],
    pairs: Vec<[Transport; 2]>,
    /// By time and order of sending.
    air: BinaryHeap<Reverse<Arrival>>,
    sent: u64,
    /// Per pair and side: messages by lane, and what was acknowledged.
    received: BTreeMap<(usize, usize, Lane), Vec<Bytes>>,
    acked: BTreeMap<(usize, usize), Vec<MessageId>>,
    consume: bool,
}

impl Net {
    fn new(pairs: usize, link: Link, seed: u64) -> Self {
        let now = origin();
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut transport = || Transport::new(now, Config::default(), rng.random());
        let pairs = (0..pairs).map(|_| [transport(), transport()]).collect();
        let (received, acked) = Default::default();
        Self {
            now,
            start: now,
            rng,
            links: [link; 2],
            busy: [now; 2],
            pairs,
            air: BinaryHeap::new(),
            sent: 0,
            received,
            acked,
            consume: true,
        }
    }

    fn transmit(&mut self) {
        for pair in 0..self.pairs.len() {
            for side in 0..2 {
                let mut out = Writer::default();
                while self.pairs[pair][side].poll_transmit(self.now, &mut out) {
                    let packet = std::mem::take(&mut out).finish();
                    assert!((1..=MAX_FRAMES).contains(&packet.len()));
                    self.carry(pair, side, packet);
                }
            }
        }
    }

    fn carry(&mut self, pair: usize, side: usize, packet: Vec<u8>) {
        let link = self.links[side];
        let waiting = self.busy[side].saturating_duration_since(self.now).as_secs_f64() * link.rate;
        if waiting > link.queue || self.rng.random_bool(link.loss) {
            return;
        }
        let size = packet.len() as f64 + recovery::PACKET_OVERHEAD as f64;
        self.busy[side] = self.busy[side].max(self.now) + Duration::from_secs_f64(size / link.rate);
        for _ in 0..1 + u32::from(self.rng.random_bool(link.duplicate)) {
            let jitter = link.jitter.mul_f64(self.rng.random());
            self.sent += 1;
            self.air.push(Reverse((self.busy[side] + link.delay + jitter, self.sent, pair, 1 - side, packet.clone())));
        }
    }

    /// Takes one step in time; returns false if nothing will ever happen again.
    fn step(&mut self) -> bool {
        self.transmit();
        let arrival = self.air.peek().map(|Reverse((at, ..))| *at);
        let timeout = self.pairs.iter().flatten().filter_map(Transport::poll_timeout).min();
        let Some(next) = arrival.into_iter().chain(timeout).min() else { return false };
        assert!(arrival == Some(next) || next > self.now, "a transport asks to be woken for nothing");
        self.now = next.max(self.now);
        while let Some(Reverse((at, ..))) = self.air.peek()
            && *at <= self.now
        {
            let Some(Reverse((_, _, pair, side, packet))) = self.air.pop() else { unreachable!() };
            self.pairs[pair][side].handle_frames(self.now, &packet);
            self.drain(pair, side);
        }
        for transport in self.pairs.iter_mut().flatten() {
            transport.handle_timeout(self.now);
        }
        true
    }

    fn drain(&mut self, pair: usize, side: usize) {
        while let Some(event) = self.pairs[pair][side].poll_event() {
            match event {
                Event::Message { lane, message } => {
                    if self.consume {
                        self.pairs[pair][side].consume(lane, message.len());
                    }
                    self.received.entry((pair, side, lane)).or_default().push(message);
                }
                Event::Acked(id) => self.acked.entry((pair, side)).or_default().push(id),
                Event::Broken(lane) => panic!("lane {lane:?} of an honest peer is broken"),
            }
        }
    }

    fn run(&mut self) {
        while self.step() {
            assert!(self.elapsed() < 3600.0, "it does not end");
        }
    }

    fn elapsed(&self) -> f64 {
        (self.now - self.start).as_secs_f64()
    }

    fn received(&self, pair: usize, side: usize, lane: Lane) -> &[Bytes] {
        self.received.get(&(pair, side, lane)).map_or(&[], Vec::as_slice)
    }
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin for virtual time")]
fn origin() -> Instant {
    Instant::now()
}

#[expect(clippy::cast_possible_truncation, reason = "any bytes do")]
fn message(length: usize, mark: usize) -> Bytes {
    (0..length).map(|index| (index * 7 + mark * 31 + index / 256) as u8).collect()
}

/// Sends for `seconds` from side 0 of each pair; returns bytes delivered per pair and second after the first tenth.
fn goodput(net: &mut Net, seconds: f64, starts: &[f64]) -> Vec<f64> {
    let pairs = net.pairs.len();
    let chunk = Bytes::from(vec![7; 64 << 10]);
    let mut delivered = vec![0; pairs];
    while net.elapsed() < seconds {
        for (pair, start) in starts.iter().enumerate() {
            if net.elapsed() >= *start {
                while net.pairs[pair][0].stats().queued < 8 << 20 {
                    net.pairs[pair][0].send(Lane::Bulk, chunk.clone()).unwrap();
                }
            }
        }
        assert!(net.step());
        let measured = net.elapsed() > seconds / 10.0;
        for (pair, delivered) in delivered.iter_mut().enumerate() {
            let messages = net.received.remove(&(pair, 1, Lane::Bulk)).unwrap_or_default();
            *delivered += if measured { messages.iter().map(Bytes::len).sum() } else { 0 };
        }
    }
    delivered.iter().map(|bytes| *bytes as f64 / (seconds * 0.9)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn every_message_arrives_once_whole_and_in_the_order_of_its_lane(
        seed: u64,
        loss in 0.0..0.3,
        duplicate in 0.0..0.3,
        jitter_ms in 0u64..60,
        queue in 10e3..300e3,
        lengths in proptest::collection::vec((0usize..2, 0usize..3, prop_oneof![0usize..4, 900usize..1300, 0usize..60_000]), 1..60),
    ) {
        let link = Link { loss, duplicate, queue, jitter: Duration::from_millis(jitter_ms), ..Link::BROADBAND };
        let mut net = Net::new(1, link, seed);
        let mut expected: BTreeMap<(usize, Lane), Vec<Bytes>> = BTreeMap::new();
        let mut ids = [Vec::new(), Vec::new()];
        for (index, (side, lane, length)) in lengths.into_iter().enumerate() {
            let (lane, message) = (Lane::ALL[lane], message(length, index));
            ids[side].push(net.pairs[0][side].send(lane, message.clone()).unwrap());
            expected.entry((1 - side, lane)).or_default().push(message);
            if index % 3 == 0 {
                net.step();
            }
        }
        net.run();
        for (side, ids) in ids.iter().enumerate() {
            for lane in Lane::ALL {
                prop_assert!(net.received(0, side, lane) == expected.get(&(side, lane)).map_or(&[][..], Vec::as_slice));
            }
            let mut acked = net.acked.remove(&(0, side)).unwrap_or_default();
            acked.sort();
            prop_assert_eq!(&acked, ids);
            let stats = net.pairs[0][side].stats();
            prop_assert_eq!((stats.queued, stats.in_flight, stats.held, net.pairs[0][side].poll_timeout()), (0, 0, 0, None));
            prop_assert_eq!((stats.dropped_malformed, stats.dropped_unsent_acks, stats.dropped_beyond_credit), (0, 0, 0));
        }
    }

    #[test]
    fn no_bytes_of_a_peer_panic_or_grow_memory(packets in proptest::collection::vec(hostile_packet(), 1..200)) {
        let mut transport = Transport::new(origin(), Config::default(), [1; 32]);
        let mut now = origin();
        transport.send(Lane::Bulk, message(50_000, 1)).unwrap();
        for (number, frames) in packets.into_iter().enumerate() {
            let mut packet = Writer::default();
            packet.varint(number as u64).bytes(&frames);
            transport.handle_frames(now, packet.as_ref());
            while transport.poll_event().is_some() {}
            while transport.poll_transmit(now, &mut Writer::default()) {}
            now += Duration::from_millis(7);
            transport.handle_timeout(now);
        }
        prop_assert!(transport.stats().held < 24 << 20);
    }
}

fn hostile_packet() -> impl Strategy<Value = Vec<u8>> {
    let varint = prop_oneof![0u64..50, 0u64..10_000_000, 0u64..1 << 62];
    let frame = (0u8..12, proptest::collection::vec(varint, 0..6), proptest::collection::vec(any::<u8>(), 0..40)).prop_map(
        |(kind, integers, tail)| {
            let mut out = Writer::default();
            out.u8(kind);
            for integer in integers {
                out.varint(integer);
            }
            out.bytes(&tail);
            out.finish()
        },
    );
    prop_oneof![frame, proptest::collection::vec(any::<u8>(), 0..60)]
}

#[test]
fn a_clean_link_is_used_to_more_than_70_percent() {
    let mut net = Net::new(1, Link::BROADBAND, 1);
    let share = goodput(&mut net, 20.0, &[0.0])[0] / Link::BROADBAND.rate;
    assert!(share > 0.7, "{share}");
}

#[test]
fn a_link_that_loses_one_percent_is_used_to_more_than_half() {
    let mut net = Net::new(1, Link { loss: 0.01, ..Link::BROADBAND }, 2);
    let share = goodput(&mut net, 20.0, &[0.0])[0] / Link::BROADBAND.rate;
    assert!(share > 0.5, "{share}");
}

#[test]
fn packets_that_overtake_each_other_are_not_taken_for_lost() {
    let mut net = Net::new(1, Link { jitter: Duration::from_millis(5), ..Link::BROADBAND }, 13);
    let share = goodput(&mut net, 20.0, &[0.0])[0] / Link::BROADBAND.rate;
    let stats = net.pairs[0][0].stats();
    assert!(share > 0.7 && stats.packets_lost * 100 < stats.packets_sent, "{share} {stats:?}");
}

#[test]
fn a_short_queue_is_not_flooded() {
    let mut net = Net::new(1, Link { queue: 25e3, ..Link::BROADBAND }, 3);
    let share = goodput(&mut net, 20.0, &[0.0])[0] / Link::BROADBAND.rate;
    let stats = net.pairs[0][0].stats();
    let lost = stats.packets_lost as f64 / stats.packets_sent as f64;
    assert!(share > 0.7 && lost < 0.01, "{share} {lost}");
}

#[test]
fn two_flows_share_a_link() {
    for (seed, queue) in [(4, 250e3), (5, 60e3), (14, 25e3)] {
        let mut net = Net::new(2, Link { queue, ..Link::BROADBAND }, seed);
        let shares = goodput(&mut net, 60.0, &[0.0, 3.0]);
        let ratio = shares[0] / shares[1];
        assert!((0.5..2.0).contains(&ratio) && shares[0] + shares[1] > 0.7 * 12.5e6, "{shares:?}");
    }
}

#[test]
fn a_small_message_passes_a_large_one_on_its_way() {
    let mut net = Net::new(1, Link::BROADBAND, 6);
    net.pairs[0][0].send(Lane::Bulk, message(MAX_MESSAGE_LEN, 1)).unwrap();
    while net.elapsed() < 0.5 {
        net.step();
    }
    net.pairs[0][0].send(Lane::Interactive, message(100, 2)).unwrap();
    while net.received(0, 1, Lane::Interactive).is_empty() {
        net.step();
    }
    assert!(net.elapsed() < 0.56, "{}", net.elapsed());
    assert!(net.received(0, 1, Lane::Bulk).is_empty());
    net.run();
    assert!(net.received(0, 1, Lane::Bulk) == [message(MAX_MESSAGE_LEN, 1)]);
}

#[test]
fn an_urgent_lane_that_is_never_idle_does_not_starve_the_others() {
    let mut net = Net::new(1, Link::BROADBAND, 7);
    net.pairs[0][0].send(Lane::Bulk, message(1 << 20, 1)).unwrap();
    while net.received(0, 1, Lane::Bulk).is_empty() {
        while net.pairs[0][0].stats().queued < 4 << 20 {
            net.pairs[0][0].send(Lane::Interactive, message(100_000, 2)).unwrap();
        }
        net.step();
        assert!(net.elapsed() < 2.0, "an eighth of 100 Mbit/s carries 1 MiB in 0.7 s");
    }
}

#[test]
fn who_does_not_consume_is_sent_no_more_than_a_window() {
    let mut net = Net::new(1, Link::BROADBAND, 8);
    net.consume = false;
    for mark in 0..30 {
        net.pairs[0][0].send(Lane::Interactive, message(100_000, mark)).unwrap();
    }
    net.run();
    let arrived = net.received(0, 1, Lane::Interactive).len();
    assert!((10..=11).contains(&arrived), "{arrived}");
    assert!(net.pairs[0][1].stats().held <= 2 << 20);
    net.consume = true;
    for _ in 0..arrived {
        net.pairs[0][1].consume(Lane::Interactive, 100_000);
    }
    net.run();
    assert!(net.received(0, 1, Lane::Interactive).iter().eq((0..30).map(|mark| message(100_000, mark)).collect::<Vec<_>>().iter()));
}

#[test]
fn an_outage_is_survived_and_ends_with_it() {
    let mut net = Net::new(1, Link::BROADBAND, 9);
    net.pairs[0][0].send(Lane::Bulk, message(4 << 20, 1)).unwrap();
    while net.elapsed() < 0.2 {
        net.step();
    }
    net.links.iter_mut().for_each(|link| link.loss = 1.0);
    while net.elapsed() < 20.0 {
        net.step();
    }
    let sent_in_vain = net.pairs[0][0].stats().packets_repeated;
    assert!(sent_in_vain < 30, "probes back off: {sent_in_vain}");
    net.links.iter_mut().for_each(|link| link.loss = 0.0);
    while net.received(0, 1, Lane::Bulk).is_empty() {
        net.step();
    }
    assert!(net.elapsed() < 32.0, "{}", net.elapsed());
}

#[test]
fn a_new_path_is_probed_from_a_small_window() {
    let mut net = Net::new(1, Link { delay: Duration::from_millis(60), ..Link::BROADBAND }, 10);
    net.pairs[0][0].send(Lane::Bulk, message(8 << 20, 1)).unwrap();
    while net.elapsed() < 1.0 {
        net.step();
    }
    let before = net.pairs[0][0].stats();
    assert!(before.window > 200_000 && before.rtt_us > 110_000, "{before:?}");
    net.links.iter_mut().for_each(|link| link.delay = Duration::from_millis(5));
    let now = net.now;
    net.pairs[0][0].path_changed(now);
    assert!(net.pairs[0][0].stats().window < 15_000);
    while net.elapsed() < 1.5 {
        net.step();
    }
    let after = net.pairs[0][0].stats();
    assert!(after.rtt_us < 40_000 && after.window > 100_000, "{after:?}");
    net.run();
    assert!(net.received(0, 1, Lane::Bulk) == [message(8 << 20, 1)]);
}

#[test]
fn an_answer_carries_the_acknowledgement() {
    let mut net = Net::new(1, Link::BROADBAND, 11);
    for mark in 0..10 {
        net.pairs[0][0].send(Lane::Interactive, message(64, mark)).unwrap();
        while net.received(0, 1, Lane::Interactive).len() <= mark {
            net.step();
        }
        net.pairs[0][1].send(Lane::Interactive, message(64, mark)).unwrap();
        while net.received(0, 0, Lane::Interactive).len() <= mark {
            net.step();
        }
    }
    net.run();
    let sent: u64 = net.pairs[0].iter().map(|transport| transport.stats().packets_sent).sum();
    assert_eq!(sent, 21, "twenty messages, and one acknowledgement of the last");
}

#[test]
fn a_message_that_does_not_fit_is_refused_and_nothing_is_lost() {
    let mut transport = Transport::new(origin(), Config { send_buffer: 100_000, ..Config::default() }, [1; 32]);
    assert_eq!(transport.send(Lane::Control, message(65_537, 0)), Err(SendError::TooLong { length: 65_537, max: 65_536 }));
    assert_eq!(transport.send(Lane::Bulk, message(1 << 20, 0)), Ok(MessageId(0)), "one message is taken whatever its length");
    assert_eq!(transport.send(Lane::Control, Bytes::new()), Err(SendError::Full { queued: (1 << 20) + 64 }));
}

#[test]
fn an_idle_transport_is_small_and_asks_for_nothing() {
    let mut net = Net::new(1, Link::BROADBAND, 12);
    net.pairs[0][0].send(Lane::Bulk, message(2 << 20, 1)).unwrap();
    net.run();
    assert!(net.pairs[0].iter().all(|transport| transport.poll_timeout().is_none()));
    assert!(size_of::<Transport>() <= 2048, "{}", size_of::<Transport>());
}
