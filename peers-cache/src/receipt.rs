//! Who can be shown to hold our packets: receipts that holders sign, and proofs asked for at random times that they hold them still.
//!
//! Gossip goes by what neighbours say; what a person is told goes by what they proved. A proof is a keyed hash over whole packets under a key made for the one question, so that nobody can
//! answer without the bytes; it holds the prover's id, so that nobody can pass the question on and the answer back.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use hashbrown::{HashMap, HashSet};
use peers_crypto::{DeviceKey, Domain, derive, verify};
use peers_wire::{DecodeError, Packet, PacketId, PeerId, Reader, Signature, Timestamp, Writer};
use rand::RngExt;
use rand::seq::{IndexedRandom, SliceRandom};

use crate::cache::{Cache, Timer};
use crate::config::Event;
use crate::message::{Key, Message};

/// A holder's signature: over the ids of the packets, 32 bytes each, and the time.
const STORED: Domain = Domain::new("peers stored 1");
/// Packets that one question is about.
pub(crate) const MAX_PROVED: usize = 32;
/// Messages whose receipts are counted.
const MAX_WATCHED: usize = 1024;
/// Packets of these together.
const MAX_WATCHED_PACKETS: usize = 32_768;
/// Holders of a message that are counted.
const MAX_HOLDERS: usize = 32;
/// Questions under way.
const MAX_ASKS: usize = 1024;
/// Of these, for receipts of one neighbour: the others wait, as it answers at a bounded rate.
const MAX_ASKS_OF_NEIGHBOUR: usize = 4;
/// Neighbours whose claims wait to be asked about; each waits with at most the packets that are watched.
const MAX_CLAIMANTS: usize = 64;
/// Times that a question is asked.
const MAX_TRIES: u32 = 3;
/// Times that a holder may lack what it claims before it is asked no more.
const MAX_FAILURES: u8 = 3;
/// Packets of one check, and of one message in it.
const MAX_CHECKED: usize = 16;
const MAX_CHECKED_OF_MESSAGE: usize = 2;
/// Between two checks, in seconds.
const CHECK_INTERVAL: core::ops::Range<f64> = 30.0..90.0;

/// Questions and answers about holding. Kinds 20 to 23.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proving {
    /// Shows that these packets are held; if `signed`, by a receipt.
    Prove { signed: bool, challenge: [u8; 32], keys: Vec<Key> },
    /// Of the question with this reference, the packets of the bits in `held` are held, lowest bit first.
    Proof { reference: u64, held: u32, proof: [u8; 32], receipt: Option<(Timestamp, Signature)> },
}

impl Proving {
    pub(crate) fn read(kind: u8, reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        if kind < 22 {
            let challenge = reader.array()?;
            let mut keys = vec![Key::read(reader)?];
            while reader.remaining() > 0 {
                keys.push(Key::read(reader)?);
            }
            if keys.len() > MAX_PROVED {
                return Err(DecodeError::Range("keys"));
            }
            return Ok(Self::Prove { signed: kind == 21, challenge, keys });
        }
        let (reference, held, proof) = (reader.u64()?, reader.u32()?, reader.array()?);
        let receipt = if kind == 23 { Some((reader.timestamp()?, Signature(reader.array()?))) } else { None };
        Ok(Self::Proof { reference, held, proof, receipt })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        match self {
            Self::Prove { signed, challenge, keys } => {
                writer.u8(20 + u8::from(*signed)).bytes(challenge);
                keys.iter().for_each(|key| key.write(writer));
            }
            Self::Proof { reference, held, proof, receipt } => {
                writer.u8(22 + u8::from(receipt.is_some())).u64(*reference).u32(*held).bytes(proof);
                if let Some((time, signature)) = receipt {
                    writer.timestamp(*time).bytes(&signature.0);
                }
            }
        }
    }
}

/// Messages of our own whose receipts are counted.
#[derive(Debug, Default)]
pub(crate) struct Receipts {
    /// What our own receipts are signed with.
    key: Option<DeviceKey>,
    watched: BTreeMap<u32, Watched>,
    packets: HashMap<Key, (u32, usize)>,
    next: u32,
    asks: BTreeMap<u64, Ask>,
    /// Packets that neighbours were asked for, and not yet answered.
    asked: HashSet<(PeerId, Key)>,
    /// Questions for receipts under way, by neighbour.
    under_way: BTreeMap<u32, usize>,
    /// Claims that are still to be asked about, by neighbour.
    claims: BTreeMap<u32, BTreeSet<Key>>,
    checking: bool,
}

#[derive(Debug)]
struct Watched {
    head: PacketId,
    wanted: u32,
    /// Each packet, and as bits those of the holders that proved to have it.
    packets: Vec<(Key, u32)>,
    holders: Vec<Holder>,
    /// The count that was told last.
    told: u32,
}

#[derive(Debug)]
struct Holder {
    peer: PeerId,
    origin: u64,
    /// Below 32; the same for those of one origin.
    class: u8,
    failures: u8,
    /// The time that it signed last.
    signed: Timestamp,
}

#[derive(Debug, Clone)]
struct Ask {
    neighbour: u32,
    peer: PeerId,
    origin: u64,
    challenge: [u8; 32],
    keys: Vec<Key>,
    purpose: Purpose,
    tries: u32,
}

/// What a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// To count who signs.
    Receipt,
    /// To see whether who has signed holds it still.
    Check,
    /// To find one packet.
    Trace,
}

impl Watched {
    /// Holders of a packet, those of one origin once.
    fn count(&self, holders: u32) -> u32 {
        let bits = self.holders.iter().enumerate().filter(|(at, _)| holders >> at & 1 == 1);
        bits.fold(0u32, |classes, (_, holder)| classes | 1 << (holder.class % 32)).count_ones()
    }

    /// What was proven of the packet that has fewest holders.
    fn least(&self) -> u32 {
        let mut least = u32::MAX;
        for (_, holders) in &self.packets {
            least = least.min(self.count(*holders));
            if least == 0 {
                break;
            }
        }
        least
    }

    fn position(&self, peer: PeerId) -> Option<usize> {
        self.holders.iter().position(|holder| holder.peer == peer)
    }

    /// The place of a holder, new ones included; `None` if there is no room.
    fn holder(&mut self, peer: PeerId, origin: u64) -> Option<usize> {
        if let Some(at) = self.position(peer) {
            return Some(at);
        }
        let same = self.holders.iter().find(|holder| holder.origin == origin).map(|holder| holder.class);
        let unused = || (0..=u8::MAX).find(|class| self.holders.iter().all(|holder| holder.class != *class));
        let holder = Holder { peer, origin, class: same.or_else(unused)?, failures: 0, signed: Timestamp(0) };
        if self.holders.len() < MAX_HOLDERS {
            self.holders.push(holder);
            return Some(self.holders.len() - 1);
        }
        // Who failed and has nothing to show makes room.
        let holding = self.packets.iter().fold(0, |holding, (_, holders)| holding | holders);
        let at = (0..MAX_HOLDERS).find(|at| self.holders[*at].failures > 0 && holding >> at & 1 == 0)?;
        self.holders[at] = holder;
        Some(at)
    }
}

impl Receipts {
    fn remove(&mut self, message: u32) {
        if let Some(watched) = self.watched.remove(&message) {
            for (key, _) in watched.packets {
                self.packets.remove(&key);
            }
        }
    }

    /// A packet is gone: its message is no longer watched.
    pub(crate) fn forget(&mut self, key: Key) {
        if let Some((message, _)) = self.packets.get(&key) {
            self.remove(*message);
        }
    }

    /// Takes a packet from a holder, or all of its packets if it `lied`.
    fn disprove(&mut self, ask: &Ask, keys: &[Key], lied: bool) {
        let peer = ask.peer;
        for watched in self.watched.values_mut().filter(|_| lied) {
            if let Some(at) = watched.position(peer) {
                watched.holders[at].failures = MAX_FAILURES;
                watched.packets.iter_mut().for_each(|(_, holders)| *holders &= !(1 << at));
            }
        }
        let mut failed = BTreeSet::new();
        for key in keys {
            if let Some((message, packet)) = self.packets.get(key)
                && let Some(watched) = self.watched.get_mut(message)
                && let Some(at) = watched.holder(peer, ask.origin)
            {
                let failures = &mut watched.holders[at].failures;
                // A question is one failure, however many packets it is about.
                match lied {
                    true => *failures = MAX_FAILURES,
                    false if failed.insert(*message) => *failures = failures.saturating_add(1),
                    false => {}
                }
                watched.packets[*packet].1 &= !(1 << at);
            }
        }
    }

    /// Counts a holder that signed for a packet.
    fn attest(&mut self, ask: &Ask, signed: Timestamp, key: Key) {
        if let Some((message, packet)) = self.packets.get(&key)
            && let Some(watched) = self.watched.get_mut(message)
            && let Some(at) = watched.holder(ask.peer, ask.origin)
        {
            watched.holders[at].signed = signed;
            watched.packets[*packet].1 |= 1 << at;
        }
    }
}

impl Cache {
    /// Gives the key of this device, which signs receipts for what is held here: without it this peer proves what it holds and is counted by nobody.
    pub fn sign_with(&mut self, key: DeviceKey) {
        self.receipts.key = Some(key);
    }

    /// Asks those who say to hold a message just published for signed receipts, until `copies` origins (at least those of the configuration, at most 32) have proven to hold each of its
    /// packets; [`Event::Attested`] tells how many do. At random times some are asked to prove it again. Of more than 1024 messages the oldest are no longer watched.
    ///
    /// - `id`: its head
    pub fn watch(&mut self, now: Instant, id: PacketId, copies: u32) {
        let keys = self.published.keys_of(Key::from(id)).to_vec();
        let receipts = &mut self.receipts;
        if keys.is_empty() || keys.len() > MAX_WATCHED_PACKETS {
            return;
        }
        let wanted = copies.max(u32::try_from(self.config.copies).unwrap_or(u32::MAX));
        if let Some(watched) = receipts.packets.get(&keys[0]).and_then(|(message, _)| receipts.watched.get_mut(message)) {
            if watched.wanted < wanted {
                watched.wanted = wanted;
                self.ask_claimants(now, &keys);
            }
            return;
        }
        while (receipts.watched.len() >= MAX_WATCHED || receipts.packets.len() + keys.len() > MAX_WATCHED_PACKETS)
            && let Some((oldest, _)) = receipts.watched.first_key_value()
        {
            let oldest = *oldest;
            receipts.remove(oldest);
        }
        let message = receipts.next;
        receipts.next += 1;
        receipts.packets.extend(keys.iter().enumerate().map(|(at, key)| (*key, (message, at))));
        let packets = keys.into_iter().map(|key| (key, 0)).collect();
        receipts.watched.insert(message, Watched { head: id, wanted, packets, holders: Vec::new(), told: 0 });
    }

    /// Asks those who said to hold these packets before.
    fn ask_claimants(&mut self, now: Instant, keys: &[Key]) {
        for key in keys {
            for peer in self.published.holders_of(*key).to_vec() {
                if let Some(neighbour) = self.serials.get(&peer) {
                    self.claimed(*neighbour, *key);
                }
            }
        }
        self.ask_receipts(now);
    }

    /// The peers that proved to hold all packets of a watched message, and when each signed so last, by its clock.
    ///
    /// - `id`: its head
    pub fn receipts(&self, id: &PacketId) -> Vec<(PeerId, Timestamp)> {
        let Some(watched) = self.receipts.packets.get(&Key::from(*id)).and_then(|(message, _)| self.receipts.watched.get(message)) else {
            return Vec::new();
        };
        let all = watched.packets.iter().fold(u32::MAX, |all, (_, holders)| all & holders);
        let holders = watched.holders.iter().enumerate().filter(|(at, _)| all >> at & 1 == 1);
        holders.map(|(_, holder)| (holder.peer, holder.signed)).collect()
    }

    /// A neighbour says that it holds a packet of ours: it is asked to prove it at the end of this call.
    pub(crate) fn claimed(&mut self, from: u32, key: Key) {
        let Some(peer) = self.neighbours.get(&from).map(|neighbour| neighbour.peer) else { return };
        let receipts = &mut self.receipts;
        let Some((message, packet)) = receipts.packets.get(&key) else { return };
        let Some(watched) = receipts.watched.get(message) else { return };
        let holders = watched.packets[*packet].1;
        if watched.count(holders) >= watched.wanted || receipts.asked.contains(&(peer, key)) {
            return;
        }
        let known = watched.position(peer);
        if known.is_some_and(|at| holders >> at & 1 == 1 || watched.holders[at].failures >= MAX_FAILURES) {
            return;
        }
        if receipts.claims.len() < MAX_CLAIMANTS || receipts.claims.contains_key(&from) {
            receipts.claims.entry(from).or_default().insert(key);
        }
    }

    /// Asks for receipts of what was claimed, as many at a time as a neighbour may be asked.
    pub(crate) fn ask_receipts(&mut self, now: Instant) {
        let receipts = &mut self.receipts;
        let mut questions = Vec::new();
        receipts.claims.retain(|neighbour, claims| {
            let mut under_way = receipts.under_way.get(neighbour).copied().unwrap_or(0);
            while under_way < MAX_ASKS_OF_NEIGHBOUR && !claims.is_empty() && self.neighbours.contains_key(neighbour) {
                let rest = claims.iter().nth(MAX_PROVED).copied().map(|key| claims.split_off(&key)).unwrap_or_default();
                questions.push((*neighbour, core::mem::replace(claims, rest)));
                under_way += 1;
            }
            !claims.is_empty() && self.neighbours.contains_key(neighbour)
        });
        for (neighbour, keys) in questions {
            self.ask_proof(now, neighbour, keys.into_iter().collect(), Purpose::Receipt);
        }
    }

    /// Asks a neighbour about one packet, for [`Cache::trace`].
    pub(crate) fn ask_holder(&mut self, now: Instant, neighbour: u32, key: Key) {
        self.ask_proof(now, neighbour, vec![key], Purpose::Trace);
    }

    fn ask_proof(&mut self, now: Instant, neighbour: u32, keys: Vec<Key>, purpose: Purpose) {
        let Some((peer, origin)) = self.neighbours.get(&neighbour).map(|neighbour| (neighbour.peer, neighbour.origin)) else { return };
        if self.receipts.asks.len() >= MAX_ASKS {
            self.stats.overflowed += 1;
            return;
        }
        let challenge: [u8; 32] = self.rng.random();
        if purpose == Purpose::Receipt {
            *self.receipts.under_way.entry(neighbour).or_default() += 1;
        }
        if purpose != Purpose::Trace {
            self.receipts.asked.extend(keys.iter().map(|key| (peer, *key)));
        }
        let ask = Ask { neighbour, peer, origin, challenge, keys, purpose, tries: 0 };
        self.receipts.asks.insert(reference(&challenge), ask);
        self.ask_again(now, reference(&challenge));
    }

    /// The time of a question came, or it is new: it is asked once more, or has failed.
    pub(crate) fn ask_again(&mut self, now: Instant, reference: u64) {
        let Some(ask) = self.receipts.asks.get_mut(&reference) else { return };
        let Some(patience) = self.neighbours.get(&ask.neighbour).map(|neighbour| neighbour.patience()) else {
            self.end_ask(reference);
            return;
        };
        if ask.tries >= MAX_TRIES {
            // It claims and does not show: whatever the reason, nobody can count on it.
            if let Some(ask) = self.end_ask(reference)
                && ask.purpose != Purpose::Trace
            {
                self.receipts.disprove(&ask, &ask.keys, false);
                self.tell_attested(&ask.keys, false);
                self.ask_receipts(now);
            }
            return;
        }
        ask.tries += 1;
        let due = now + patience * (1 << ask.tries);
        let message = Proving::Prove { signed: ask.purpose == Purpose::Receipt, challenge: ask.challenge, keys: ask.keys.clone() };
        let neighbour = ask.neighbour;
        self.timers.insert((due, Timer::Proof(reference)));
        self.send(neighbour, &Message::Proving(message));
    }

    fn end_ask(&mut self, reference: u64) -> Option<Ask> {
        let ask = self.receipts.asks.remove(&reference)?;
        if ask.purpose == Purpose::Receipt
            && let Some(under_way) = self.receipts.under_way.get_mut(&ask.neighbour)
        {
            *under_way -= 1;
            if *under_way == 0 {
                self.receipts.under_way.remove(&ask.neighbour);
            }
        }
        for key in &ask.keys {
            self.receipts.asked.remove(&(ask.peer, *key));
        }
        Some(ask)
    }

    pub(crate) fn on_proving(&mut self, now: Instant, wall: Timestamp, from: u32, message: Proving) {
        match message {
            Proving::Prove { signed, challenge, keys } => self.on_prove(wall, from, signed, &challenge, &keys),
            Proving::Proof { reference, held, proof, receipt } => self.on_proof(now, from, reference, held, &proof, receipt),
        }
    }

    /// Shows what is held here.
    fn on_prove(&mut self, wall: Timestamp, from: u32, signed: bool, challenge: &[u8; 32], keys: &[Key]) {
        let mut held = 0;
        let mut packets = Vec::with_capacity(keys.len());
        for (at, key) in keys.iter().enumerate() {
            if let Some(packet) = self.store.get(*key) {
                held |= 1 << at;
                packets.push(packet);
            }
        }
        let proof = prove(challenge, self.id, &packets);
        let key = self.receipts.key.as_ref().filter(|_| signed && held != 0);
        let receipt = key.map(|key| (wall, key.sign(STORED, &[&time(wall), &ids(&packets)])));
        self.send(from, &Message::Proving(Proving::Proof { reference: reference(challenge), held, proof, receipt }));
    }

    fn on_proof(&mut self, now: Instant, from: u32, reference: u64, held: u32, proof: &[u8; 32], receipt: Option<(Timestamp, Signature)>) {
        if self.receipts.asks.get(&reference).is_none_or(|ask| ask.neighbour != from) {
            self.stats.unfounded += 1;
            return;
        }
        let Some(ask) = self.end_ask(reference) else { return };
        let is_held = |at: usize| held >> at & 1 == 1;
        let packets: Option<Vec<&Packet>> =
            ask.keys.iter().enumerate().filter(|(at, _)| is_held(*at)).map(|(_, key)| self.store.get(*key)).collect();
        let genuine = |packets: &[&Packet]| {
            (ask.keys.len() == MAX_PROVED || held >> ask.keys.len() == 0) && prove(&ask.challenge, ask.peer, packets) == *proof
        };
        if ask.purpose == Purpose::Trace {
            let proven = packets.as_deref().is_some_and(genuine);
            let holds = is_held(0) && (proven || packets.is_none());
            self.traces.answer(ask.keys[0], holds.then_some((ask.peer, proven)));
            return;
        }
        // What is no longer here cannot be compared.
        let Some(packets) = packets else { return };
        let genuine = genuine(&packets);
        let signed = receipt.is_none_or(|(at, signature)| verify(&ask.peer, STORED, &[&time(at), &ids(&packets)], &signature).is_ok());
        if !genuine || !signed {
            self.stats.unfounded += 1;
            self.receipts.disprove(&ask, &ask.keys, true);
            self.tell_attested(&ask.keys, true);
            return;
        }
        let of = |wanted: bool| ask.keys.iter().enumerate().filter(move |(at, _)| is_held(*at) == wanted).map(|(_, key)| *key);
        let lacking: Vec<Key> = of(false).collect();
        self.receipts.disprove(&ask, &lacking, false);
        if let (Purpose::Receipt, Some((at, _))) = (ask.purpose, receipt) {
            self.stats.receipts += 1;
            for key in of(true) {
                self.receipts.attest(&ask, at, key);
            }
        }
        self.tell_attested(&ask.keys, false);
        self.check_later(now);
    }

    /// Raises the counts that have changed: of the messages that these packets belong to, or of all.
    fn tell_attested(&mut self, keys: &[Key], all: bool) {
        let receipts = &mut self.receipts;
        let touched: BTreeSet<u32> = match all {
            true => receipts.watched.keys().copied().collect(),
            false => keys.iter().filter_map(|key| receipts.packets.get(key)).map(|(message, _)| *message).collect(),
        };
        let mut changed = Vec::new();
        for message in touched {
            let Some(watched) = receipts.watched.get_mut(&message) else { continue };
            let least = watched.least();
            if core::mem::replace(&mut watched.told, least) != least {
                changed.push(Event::Attested { id: watched.head, holders: least });
            }
        }
        changed.into_iter().for_each(|event| self.raise(event));
    }

    fn check_later(&mut self, now: Instant) {
        if !core::mem::replace(&mut self.receipts.checking, true) {
            let delay = Duration::from_secs_f64(self.rng.random_range(CHECK_INTERVAL));
            self.timers.insert((now + delay, Timer::Check));
        }
    }

    /// Asks one holder to prove some of what it is counted for.
    pub(crate) fn check_holder(&mut self, now: Instant) {
        self.receipts.checking = false;
        let watched = self.receipts.watched.values().filter(|watched| watched.told > 0);
        let holders: BTreeSet<PeerId> = watched.flat_map(|watched| watched.holders.iter().map(|holder| holder.peer)).collect();
        if holders.is_empty() {
            return;
        }
        self.check_later(now);
        let present: Vec<(PeerId, u32)> = holders.into_iter().filter_map(|peer| Some((peer, *self.serials.get(&peer)?))).collect();
        let Some((peer, neighbour)) = present.choose(&mut self.rng).copied() else { return };
        let mut keys = Vec::new();
        for watched in self.receipts.watched.values() {
            let Some(at) = watched.position(peer) else { continue };
            let mut of_message = BTreeSet::new();
            for _ in 0..4 * MAX_CHECKED_OF_MESSAGE {
                let (key, holders) = watched.packets[self.rng.random_range(0..watched.packets.len())];
                if holders >> at & 1 == 1 && of_message.len() < MAX_CHECKED_OF_MESSAGE {
                    of_message.insert(key);
                }
            }
            keys.extend(of_message);
        }
        keys.shuffle(&mut self.rng);
        keys.truncate(MAX_CHECKED);
        if !keys.is_empty() {
            self.ask_proof(now, neighbour, keys, Purpose::Check);
        }
    }
}

/// The name of a question in its answer.
fn reference(challenge: &[u8; 32]) -> u64 {
    challenge.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte))
}

/// The keyed hash that only who holds the packets can compute: over the prover and every byte but the postage, which differs between copies.
fn prove(challenge: &[u8; 32], prover: PeerId, packets: &[&Packet]) -> [u8; 32] {
    let mut parts: Vec<&[u8]> = vec![&prover.0];
    for packet in packets {
        let bytes = packet.as_bytes();
        parts.extend([&bytes[..1], &bytes[2..]]);
    }
    derive(challenge, "peers cache proof", &parts)
}

fn time(at: Timestamp) -> [u8; 6] {
    let mut time = [0; 6];
    time.copy_from_slice(&at.0.to_be_bytes()[2..]);
    time
}

fn ids(packets: &[&Packet]) -> Vec<u8> {
    packets.iter().flat_map(|packet| packet.id().0).collect()
}
