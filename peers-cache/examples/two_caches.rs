//! Two caches over a transport of one's own, here a queue in memory: one publishes, the other subscribes.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use peers_cache::{Cache, Config, Event};
use peers_crypto::{DeviceKey, Draft, TopicKey};
use peers_wire::{DEFAULT_LIFETIME, Link, MAX_POSTAGE, PeerId, Timestamp};
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

/// Takes out what a cache has to say, and what happened.
fn drain(cache: &mut Cache, from: PeerId, queue: &mut VecDeque<(PeerId, PeerId, Bytes)>) -> Vec<Event> {
    // A message is one datagram: it may be lost, doubled or overtaken, and the caches repair that.
    queue.extend(std::iter::from_fn(|| cache.poll_message()).map(|(to, message)| (from, to, message)));
    std::iter::from_fn(|| cache.poll_event()).collect()
}

#[expect(clippy::disallowed_methods, reason = "a driver is where the clocks are read")]
fn clocks() -> (Instant, Timestamp) {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |wall| wall.as_secs() * 1000);
    (Instant::now(), Timestamp(wall))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // An example may be predictable; a program asks the system for its keys and its seeds.
    let mut rng = ChaCha20Rng::from_seed([1; 32]);
    let (author, topic) = (DeviceKey::generate(&mut rng), TopicKey::generate(&mut rng));
    let ids = [author.id(), DeviceKey::generate(&mut rng).id()];
    // Time is an argument, so this loop need not wait for it.
    let (mut now, wall) = clocks();
    let mut caches = ids.map(|id| Cache::new(now, Config::default(), id, id.0));
    let mut queue = VecDeque::new();

    // A session is up: each is told about the other, by key. Where the other is, the cache never learns.
    caches[0].peer_connected(now, ids[1]);
    caches[1].peer_connected(now, ids[0]);
    caches[1].subscribe(now, topic.id());

    let draft = Draft { created: wall, lifetime: DEFAULT_LIFETIME, previous: Link::NONE, postage: MAX_POSTAGE };
    caches[0].publish(now, wall, topic.seal(&author, draft, b"hello, world", &mut rng)?);

    let (mut received, mut stored) = (None, false);
    while received.is_none() || !stored {
        for (cache, id) in caches.iter_mut().zip(ids) {
            for event in drain(cache, id, &mut queue) {
                match event {
                    Event::Packet(packet) => received = Some(topic.read_key().open(&packet, packet.payload())?),
                    Event::Stored { holders, .. } => stored = holders > 0,
                    // What is to be kept on disk and to be forgotten there, receipts, questions.
                    _ => {}
                }
            }
        }
        match queue.pop_front() {
            Some((from, to, message)) => {
                let to = ids.iter().position(|id| *id == to).ok_or("there are two")?;
                caches[to].handle_message(now, wall, from, message);
            }
            // Nothing under way: on to the next deadline.
            None => {
                now = caches.iter().filter_map(Cache::poll_timeout).min().unwrap_or(now + Duration::from_secs(1)).max(now);
                caches.iter_mut().for_each(|cache| cache.handle_timeout(now, wall));
            }
        }
    }
    assert_eq!(received.map(|message| message.body), Some(b"hello, world".to_vec()));
    Ok(())
}
