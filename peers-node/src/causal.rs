//! Messages of a topic, each after the one it links to; what is missing is waited for within bounds, and then passed over, visibly.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use peers_wire::Link;

use crate::stack::TopicMessage;

/// What comes next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Next {
    Message(TopicMessage),
    /// This message did not come in time; those that follow it do now.
    Missing(Link),
}

/// The order of one topic.
#[derive(Debug, Default)]
pub(crate) struct Causal {
    /// What was passed on, or given up, and when it was in their number.
    known: BTreeSet<Link>,
    order: VecDeque<Link>,
    waiting: BTreeMap<Link, (Instant, TopicMessage)>,
    by_time: BTreeSet<(Instant, Link)>,
    by_previous: BTreeSet<(Link, Link)>,
    bytes: usize,
}

impl Causal {
    /// Takes a message and gives what can be passed on now; O(log n) for each message.
    ///
    /// - returns: also the message to ask for, if one is missing before it
    pub(crate) fn insert(&mut self, now: Instant, message: TopicMessage) -> (Vec<Next>, Option<Link>) {
        let (link, previous) = (message.id.link(), message.previous);
        if self.known.contains(&link) || self.waiting.contains_key(&link) {
            return (Vec::new(), None);
        }
        self.bytes += message.payload.len();
        self.waiting.insert(link, (now, message));
        self.by_time.insert((now, link));
        self.by_previous.insert((previous, link));
        let mut next = Vec::new();
        if previous == Link::NONE || self.known.contains(&previous) {
            self.release(link, &mut next);
            return (next, None);
        }
        while self.waiting.len() > MAX_WAITING || self.bytes > MAX_WAITING_BYTES {
            self.pass_over(&mut next);
        }
        (next, (!self.waiting.contains_key(&previous) && self.waiting.contains_key(&link)).then_some(previous))
    }

    /// A message of our own, which others follow.
    pub(crate) fn wrote(&mut self, link: Link) -> Vec<Next> {
        let mut next = Vec::new();
        self.know(link);
        self.release_after(link, &mut next);
        next
    }

    /// Passes over what did not come in time.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<Next> {
        let mut next = Vec::new();
        while self.deadline().is_some_and(|deadline| deadline <= now) {
            self.pass_over(&mut next);
        }
        next
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.by_time.first().map(|(since, _)| *since + PATIENCE)
    }

    /// Gives up what is missing before the message that waits longest.
    fn pass_over(&mut self, next: &mut Vec<Next>) {
        let Some((_, mut first)) = self.by_time.first().copied() else { return };
        // Links cannot be in a circle: each is under the hash of the next.
        let previous = |link: &Link| self.waiting.get(link).map(|(_, message)| message.previous);
        while let Some(before) = previous(&first).filter(|before| self.waiting.contains_key(before)) {
            first = before;
        }
        if let Some(missing) = previous(&first) {
            next.push(Next::Missing(missing));
            self.know(missing);
            self.release_after(missing, next);
        }
    }

    fn release_after(&mut self, link: Link, next: &mut Vec<Next>) {
        let after: Vec<Link> = self.by_previous.range((link, Link::NONE)..=(link, LAST)).map(|(_, link)| *link).collect();
        after.into_iter().for_each(|link| self.release(link, next));
    }

    /// Passes a message on, and all that waited for it.
    fn release(&mut self, link: Link, next: &mut Vec<Next>) {
        let mut ready = VecDeque::from([link]);
        while let Some(link) = ready.pop_front() {
            let Some((since, message)) = self.waiting.remove(&link) else { continue };
            self.by_time.remove(&(since, link));
            self.by_previous.remove(&(message.previous, link));
            self.bytes -= message.payload.len();
            self.know(link);
            next.push(Next::Message(message));
            ready.extend(self.by_previous.range((link, Link::NONE)..=(link, LAST)).map(|(_, after)| *after));
        }
    }

    fn know(&mut self, link: Link) {
        if self.known.insert(link) {
            self.order.push_back(link);
        }
        if self.order.len() > MAX_KNOWN
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// How long a message waits for one before it.
const PATIENCE: Duration = Duration::from_secs(10);
/// Messages of a topic that wait, and their bytes.
const MAX_WAITING: usize = 1024;
const MAX_WAITING_BYTES: usize = 32 << 20;
/// Messages passed on that are remembered; one that links to an older one waits in vain.
const MAX_KNOWN: usize = 65_536;
/// The greatest link.
const LAST: Link = Link([0xff; 24]);

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use peers_wire::{PacketId, PeerId, Timestamp, TopicId};
    use proptest::prelude::*;

    fn message(number: u8, previous: Link) -> TopicMessage {
        let (topic, author) = (TopicId([1; 32]), PeerId([2; 32]));
        TopicMessage { topic, id: PacketId([number; 32]), author, created: Timestamp(1), previous, payload: Bytes::from(vec![0; 10]) }
    }

    fn now() -> Instant {
        #[expect(clippy::disallowed_methods, reason = "std has no other way to make an Instant")]
        Instant::now()
    }

    proptest! {
        #[test]
        fn each_message_comes_once_and_after_its_predecessor_in_whatever_order_they_arrive(
            links in prop::collection::vec(any::<prop::sample::Index>(), 1..60), arrival in Just((0..60usize).collect::<Vec<_>>()).prop_shuffle(), lost in 0..80usize,
        ) {
            let mut all: Vec<TopicMessage> = Vec::new();
            for (i, link) in links.iter().enumerate() {
                let previous = match link.index(i + 1) { 0 => Link::NONE, earlier => all[earlier - 1].id.link() };
                all.push(message(u8::try_from(i + 1).unwrap(), previous));
            }
            let (start, mut causal, mut came) = (now(), Causal::default(), Vec::new());
            for at in arrival.iter().filter(|at| **at < all.len() && **at != lost) {
                came.extend(causal.insert(start, all[*at].clone()).0);
                came.extend(causal.insert(start, all[*at].clone()).0);
            }
            let in_time = came.len();
            came.extend(causal.expire(start + PATIENCE));
            prop_assert!(causal.waiting.is_empty() && causal.by_previous.is_empty() && causal.bytes == 0);
            let (mut known, mut count) = (BTreeSet::from([Link::NONE]), 0);
            for next in &came {
                match next {
                    Next::Message(message) => {
                        prop_assert!(known.contains(&message.previous));
                        prop_assert!(known.insert(message.id.link()));
                        count += 1;
                    }
                    Next::Missing(link) => {
                        prop_assert_eq!(Some(*link), all.get(lost).map(|lost| lost.id.link()));
                        known.insert(*link);
                    }
                }
            }
            let missing = usize::from(lost < all.len());
            prop_assert_eq!(count, all.len() - missing);
            prop_assert!(missing == 1 || in_time == all.len(), "nothing waits without need");
        }
    }

    #[test]
    fn who_links_to_what_nobody_has_fills_a_bounded_place() {
        let (start, mut causal) = (now(), Causal::default());
        let mut passed = 0;
        for number in 0..3 * u32::try_from(MAX_WAITING).expect("few") {
            let mut id = [9; 32];
            id[..4].copy_from_slice(&number.to_le_bytes());
            let liar = TopicMessage {
                id: PacketId(id),
                ..message(
                    0,
                    Link({
                        let mut link = [7; 24];
                        link[..4].copy_from_slice(&number.to_le_bytes());
                        link
                    }),
                )
            };
            passed += causal.insert(start, liar).0.iter().filter(|next| matches!(next, Next::Message(_))).count();
            assert!(causal.waiting.len() <= MAX_WAITING);
        }
        assert_eq!(passed, 2 * MAX_WAITING);
        let kept = causal.wrote(Link([8; 24]));
        assert!(kept.is_empty());
    }
}
