//! Packets that come and go other than by neighbours, and where a packet is.

use std::collections::BTreeMap;
use std::time::Instant;

use peers_crypto::check_publisher;
use peers_wire::{Header, Packet, PacketId, PeerId, Timestamp};
use thiserror::Error;

use crate::cache::Cache;
use crate::message::Key;
use crate::tree::{self, Vouched};

/// The number of a neighbour that is none: who brought what was imported.
const NOBODY: u32 = u32::MAX;
/// The origin of what no neighbour of now brought: all of it has the share of one.
pub(crate) const STRANGER: u64 = u64::MAX;
/// Packets that are sought among the neighbours at a time.
const MAX_TRACES: usize = 16;
/// Neighbours that are asked about one.
const MAX_TRACED: usize = 256;

/// Why a packet was not taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ImportError {
    /// It is held already.
    #[error("it is held already")]
    Held,
    /// It has expired.
    #[error("it has expired")]
    Expired,
    /// It was created too far in the future.
    #[error("it is dated in the future")]
    Future,
    /// Its signature is not that of its topic, or its head does not name it.
    #[error("it is not genuine")]
    Forged,
    /// It is a part of a message whose head, or the part that vouches for it, is not held.
    #[error("the head of its message is missing")]
    Orphan,
    /// It takes more room than there is.
    #[error("there is no room for it")]
    NoRoom,
}

/// What neighbours said of a packet; see [`Cache::trace`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Trace {
    /// Neighbours that were asked.
    pub asked: usize,
    /// Those of them that answered.
    pub answered: usize,
    /// Those that hold it, and whether they have proven it: that can be judged only where it is held here.
    pub holders: Vec<(PeerId, bool)>,
}

/// Packets that are being traced.
#[derive(Debug, Default)]
pub(crate) struct Traces(BTreeMap<Key, Trace>);

impl Traces {
    pub(crate) fn answer(&mut self, key: Key, holder: Option<(PeerId, bool)>) {
        if let Some(trace) = self.0.get_mut(&key) {
            trace.answered += 1;
            trace.holders.extend(holder);
        }
    }
}

impl Cache {
    /// All packets held, in no order.
    pub fn held(&self) -> impl Iterator<Item = &Packet> {
        self.store.all()
    }

    /// Takes in a packet that came by other ways than a neighbour, as if from a stranger: checked, within the share of the budget that one neighbour has, then spread as any other.
    /// A part of a message comes after what vouches for it: the head first, then parts of higher index before those of lower.
    ///
    /// # Errors
    /// [`ImportError`]; nothing has changed then.
    pub fn import(&mut self, now: Instant, wall: Timestamp, packet: &Packet) -> Result<(), ImportError> {
        let key = Key::from(packet.id());
        if self.store.contains(key) {
            return Err(ImportError::Held);
        }
        if packet.expires() <= wall {
            return Err(ImportError::Expired);
        }
        if packet.created().since(wall) > self.config.max_skew.as_millis().try_into().unwrap_or(u64::MAX) {
            return Err(ImportError::Future);
        }
        let vouched = match packet.header() {
            Header::Message(_) if check_publisher(packet).is_ok() => Vouched::Yes,
            Header::Message(_) => Vouched::No,
            Header::Fragment(_) => tree::vouched(&self.store, packet),
        };
        match vouched {
            Vouched::Yes => self.accept(now, wall, NOBODY, 0, &packet.to_owned_copy()),
            Vouched::No => return Err(ImportError::Forged),
            Vouched::Unknown => return Err(ImportError::Orphan),
        }
        let taken = self.store.contains(key);
        self.finish();
        if taken { Ok(()) } else { Err(ImportError::NoRoom) }
    }

    /// Asks all neighbours, at most 256, whether they hold a packet, and if it is not held here, for the packet, up to three hops away. [`Cache::traced`] tells what is known by now.
    pub fn trace(&mut self, now: Instant, wall: Timestamp, id: PacketId) {
        let key = Key::from(id);
        while self.traces.0.len() >= MAX_TRACES {
            self.traces.0.pop_first();
        }
        let asked = self.sample(MAX_TRACED, |_| true);
        self.traces.0.insert(key, Trace { asked: asked.len(), ..Trace::default() });
        for neighbour in asked {
            self.ask_holder(now, neighbour, key);
        }
        self.request(now, wall, id);
    }

    /// What neighbours have said since [`Cache::trace`].
    pub fn traced(&self, id: &PacketId) -> Option<&Trace> {
        self.traces.0.get(&Key::from(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{WALL, start};
    use crate::{Config, Event};
    use peers_crypto::{DeviceKey, Draft, TopicKey};
    use peers_wire::{Link, MAX_POSTAGE};
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn seal(topic: u8, number: u64, size: usize) -> Vec<Packet> {
        let draft = Draft { created: WALL.plus(number), lifetime: 60, previous: Link::NONE, postage: MAX_POSTAGE };
        let mut rng = ChaCha20Rng::seed_from_u64(number);
        TopicKey::from_seed([topic; 32]).seal(&DeviceKey::from_seed(&[1; 32]), draft, &vec![0; size], &mut rng).unwrap()
    }

    fn cache(now: Instant, budget: usize) -> Cache {
        Cache::new(now, Config { budget, ..Config::default() }, PeerId([2; 32]), [5; 32])
    }

    #[test]
    fn an_imported_packet_is_checked_as_if_from_a_stranger() {
        let now = start();
        let mut cache = cache(now, 1 << 20);
        let (whole, parts) = (seal(1, 0, 100).remove(0), seal(1, 1, 90_000));
        let mut bytes = whole.as_bytes().to_vec();
        *bytes.last_mut().unwrap() ^= 1;
        let forged = Packet::decode(bytes.into()).unwrap();
        let import = |cache: &mut Cache, packet: &Packet, wall| cache.import(now, wall, packet);
        assert_eq!(import(&mut cache, &forged, WALL), Err(ImportError::Forged));
        assert_eq!(import(&mut cache, &whole, WALL.plus(3_600_001)), Err(ImportError::Expired));
        assert_eq!(import(&mut cache, &whole, Timestamp(WALL.0 - 3_600_000)), Err(ImportError::Future));
        assert_eq!(import(&mut cache, &parts[1], WALL), Err(ImportError::Orphan));
        assert_eq!((cache.stats().held, cache.poll_event()), (0, None));
        assert_eq!(import(&mut cache, &whole, WALL), Ok(()));
        assert_eq!(import(&mut cache, &whole, WALL), Err(ImportError::Held));
        assert_eq!(import(&mut cache, &parts[0], WALL), Ok(()));
        let mut others = parts[1..].to_vec();
        others.sort_by_key(|part| match part.header() {
            Header::Fragment(fragment) => core::cmp::Reverse(fragment.index),
            Header::Message(_) => unreachable!("a head is first"),
        });
        assert!(others.iter().all(|part| import(&mut cache, part, WALL) == Ok(())));
        assert_eq!(cache.stats().held, 1 + parts.len() as u64);
    }

    #[test]
    fn what_is_imported_has_the_share_of_one_neighbour_and_is_spread_and_raised() {
        let now = start();
        let mut cache = cache(now, 256 << 10);
        let (own, wanted) = (seal(9, 1, 10).remove(0), seal(8, 2, 10).remove(0));
        cache.subscribe(now, wanted.topic());
        cache.publish(now, WALL, vec![own.clone()]);
        cache.peer_connected(now, PeerId([7; 32]));
        cache.import(now, WALL, &wanted).unwrap();
        assert!(core::iter::from_fn(|| cache.poll_event()).any(|event| event == Event::Packet(wanted.clone())));
        while cache.poll_message().is_some() {}
        cache.handle_timeout(now + core::time::Duration::from_millis(10), WALL);
        assert!(cache.poll_message().is_some(), "it is announced");
        for number in 0..2000 {
            let _ = cache.import(now, WALL, &seal(u8::try_from(number % 7 + 10).unwrap(), number, 800).remove(0));
        }
        assert!(cache.get(&own.id()).is_some() && cache.get(&wanted.id()).is_some());
        assert!(cache.used() <= 256 << 10 && cache.stats().dropped > 500, "it makes room among its own");
    }
}
