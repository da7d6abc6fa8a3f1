//! The conversation of two replicas: hello with the version vector, missing changes in bounded batches, acknowledgements.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_wire::{DecodeError, Reader, Writer};

use crate::clock::{MAX_ORIGINS, Origin, Position, VersionVector};

/// What replicas say to each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// What I have; how far my reach is if you have all that `needs` names.
    Hello { version: VersionVector, ahead: Vec<(Origin, Position)>, needs: VersionVector },
    /// A part of a batch of changes.
    Changes { batch: u64, part: usize, parts: usize, bytes: Bytes },
    /// So many of your batches are dealt with; what I have now.
    Ack { batches: u64, version: VersionVector },
}

impl Message {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = Writer::default();
        match self {
            Self::Hello { version, ahead, needs } => {
                version.put(out.u8(1));
                out.varint(ahead.len() as u64);
                for (origin, position) in ahead {
                    origin.put(&mut out);
                    position.put(&mut out);
                }
                needs.put(&mut out);
            }
            Self::Changes { batch, part, parts, bytes } => {
                out.u8(2).varint(*batch).varint(*part as u64).varint(*parts as u64).bytes(bytes);
            }
            Self::Ack { batches, version } => version.put(out.u8(3).varint(*batches)),
        }
        out.finish().into()
    }

    pub(crate) fn decode(message: &Bytes) -> Result<Self, DecodeError> {
        let mut input = Reader::new(message);
        let decoded = match input.u8()? {
            1 => {
                let version = VersionVector::take(&mut input)?;
                let count = input.count(MAX_ORIGINS, "positions")?;
                let ahead =
                    (0..count).map(|_| Ok((Origin::take(&mut input)?, Position::take(&mut input)?))).collect::<Result<_, DecodeError>>()?;
                Self::Hello { version, ahead, needs: VersionVector::take(&mut input)? }
            }
            2 => {
                let (batch, part, parts) = (input.varint()?, input.count(MAX_PARTS, "part")?, input.count(MAX_PARTS, "parts")?);
                if part >= parts {
                    return Err(DecodeError::Range("part"));
                }
                Self::Changes { batch, part, parts, bytes: message.slice_ref(input.rest()) }
            }
            3 => Self::Ack { batches: input.varint()?, version: VersionVector::take(&mut input)? },
            other => return Err(DecodeError::Kind(other)),
        };
        input.finish()?;
        Ok(decoded)
    }
}

/// What is known of a connected peer.
#[derive(Debug, Default)]
pub(crate) struct Peer {
    /// What it said it has.
    pub(crate) theirs: VersionVector,
    /// How far it was sent what it lacks; beyond `theirs`.
    pub(crate) sent: BTreeMap<Origin, Position>,
    /// How far it was sent ranges ahead of our version vector, by where they begin and end: two may begin at one place.
    pub(crate) sent_ahead: BTreeMap<(Origin, Position, Position), Position>,
    /// It has said hello, so it is known what it lacks.
    pub(crate) greeted: bool,
    /// Hello is to be said.
    pub(crate) hello_due: bool,
    /// Its batches that are dealt with and not acknowledged.
    pub(crate) to_ack: u64,
    /// Our vector changed since it was told.
    pub(crate) tell: bool,
    /// Batches sent and not acknowledged.
    pub(crate) in_flight: u64,
    /// Changes of others may be sent to it; not at once, as it may just be getting them itself.
    pub(crate) forward: bool,
    pub(crate) forward_at: Option<Instant>,
    /// Say hello again then, as a batch of its could not be applied.
    pub(crate) retry_at: Option<Instant>,
    /// Both had equal version vectors when last compared.
    pub(crate) in_step: bool,
    /// Parts of batches to be sent, all of one batch.
    pub(crate) parts: VecDeque<Bytes>,
    /// Batches sent so far.
    pub(crate) batches: u64,
    /// Batches of which parts are missing.
    pub(crate) incomplete: BTreeMap<u64, Vec<Option<Bytes>>>,
}

impl Peer {
    /// Where to go on sending what `origin` wrote.
    pub(crate) fn position(&self, origin: &Origin) -> Position {
        let theirs = self.theirs.get(origin);
        match self.sent.get(origin) {
            Some(sent) if sent.seq > theirs => sent.clone(),
            _ => Position::after(theirs),
        }
    }

    /// Puts a batch in the queue, in parts that fit messages.
    pub(crate) fn send(&mut self, bytes: &Bytes) {
        let parts = bytes.len().div_ceil(PART);
        for part in 0..parts {
            let bytes = bytes.slice(part * PART..bytes.len().min((part + 1) * PART));
            self.parts.push_back(Message::Changes { batch: self.batches, part, parts, bytes }.encode());
        }
        self.batches += 1;
        self.in_flight += 1;
    }

    /// Takes a part of a batch; gives the batch when it is whole. What cannot be kept is dropped, and asked for by the next hello.
    pub(crate) fn receive(&mut self, batch: u64, part: usize, parts: usize, bytes: Bytes) -> Option<Bytes> {
        if parts == 1 {
            return Some(bytes);
        }
        if !self.incomplete.contains_key(&batch) && self.incomplete.len() >= MAX_INCOMPLETE {
            self.incomplete.pop_first();
        }
        let kept = self.incomplete.entry(batch).or_insert_with(|| vec![None; parts]);
        if kept.len() != parts {
            return None;
        }
        kept[part] = Some(bytes);
        if kept.iter().any(Option::is_none) {
            return None;
        }
        let whole: Vec<u8> = self.incomplete.remove(&batch)?.into_iter().flatten().flatten().collect();
        Some(whole.into())
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        [self.forward_at, self.retry_at].into_iter().flatten().min()
    }
}

/// Bytes of a batch in one message.
const PART: usize = 512 * 1024;
/// Parts a batch may come in: 128 MiB.
const MAX_PARTS: usize = 256;
/// Batches kept for each peer while parts of them are missing.
const MAX_INCOMPLETE: usize = 4;
/// Batches sent to a peer and not yet acknowledged.
pub(crate) const MAX_IN_FLIGHT: u64 = 4;
/// How long a change of another device waits before it is passed on: by then the peer has said whether it has it.
pub(crate) const FORWARD_DELAY: Duration = Duration::from_millis(100);
/// When to ask again for what could not be applied.
pub(crate) const RETRY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_decodes_as_a_message_encodes_to_the_same_bytes(kind in 1u8..4, bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let message: Bytes = [vec![kind], bytes].concat().into();
            if let Ok(decoded) = Message::decode(&message) {
                prop_assert_eq!(decoded.encode(), message);
            }
        }
    }

    #[test]
    fn a_batch_in_parts_is_whole_in_any_order() {
        let (mut a, mut b) = (Peer::default(), Peer::default());
        let batch = Bytes::from(vec![7; 3 * PART + 5]);
        a.send(&batch);
        let mut whole = Vec::new();
        for part in a.parts.iter().rev() {
            let Ok(Message::Changes { batch, part, parts, bytes }) = Message::decode(part) else { panic!() };
            whole.extend(b.receive(batch, part, parts, bytes));
        }
        assert_eq!(whole, [batch]);
    }
}
