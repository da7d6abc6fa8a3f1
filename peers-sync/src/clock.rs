//! Hybrid logical clocks, origins, version vectors, and positions in what an origin wrote.

use core::fmt;
use std::collections::BTreeMap;

use peers_wire::{DecodeError, PeerId, Reader, Timestamp, Writer};

/// A hybrid logical clock: milliseconds since the Unix epoch in the high 48 bits, a counter in the low 16.
///
/// Source: Kulkarni et al., "Logical Physical Clocks and Consistent Snapshots in Globally Distributed Databases" (2014).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Hlc(pub u64);

impl Hlc {
    /// The first reading of a millisecond.
    pub const fn at(time: Timestamp) -> Self {
        Self(if time.0 > Timestamp::MAX.0 { Timestamp::MAX.0 } else { time.0 } << 16)
    }

    /// The wall time part.
    pub const fn time(self) -> Timestamp {
        Timestamp(self.0 >> 16)
    }

    /// The reading for something written at `time` by who has seen this one: later than both.
    #[must_use]
    pub fn tick(self, time: Timestamp) -> Self {
        Self::at(time).max(Self(self.0 + 1))
    }
}

/// Who wrote a change: a device, and which of its histories of this database.
///
/// A device that starts over (a new file, a restored backup) writes under a new incarnation, so that no sequence number is used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    /// The device.
    pub peer: PeerId,
    /// Its history, 48 bits.
    pub incarnation: u64,
}

impl Origin {
    pub(crate) fn put(&self, out: &mut Writer) {
        out.bytes(self.peer.as_bytes()).timestamp(Timestamp(self.incarnation));
    }

    pub(crate) fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self { peer: PeerId(input.array()?), incarnation: input.timestamp()?.0 })
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}.{:x}", self.peer, self.incarnation)
    }
}

/// For each origin, the number of its transactions that are applied without a gap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VersionVector(pub(crate) BTreeMap<Origin, u64>);

impl VersionVector {
    /// Transactions of `origin` seen; 0 if it is unknown.
    pub fn get(&self, origin: &Origin) -> u64 {
        self.0.get(origin).copied().unwrap_or(0)
    }

    /// Each origin with the number of its transactions seen, in order of origin.
    pub fn iter(&self) -> impl Iterator<Item = (&Origin, u64)> {
        self.0.iter().map(|(origin, seen)| (origin, *seen))
    }

    /// Everything in `other` is in this one.
    pub fn covers(&self, other: &Self) -> bool {
        other.iter().all(|(origin, seen)| self.get(origin) >= seen)
    }

    /// Takes what `other` has more.
    pub fn merge(&mut self, other: &Self) {
        other.iter().for_each(|(origin, seen)| self.raise(*origin, seen));
    }

    pub(crate) fn raise(&mut self, origin: Origin, seen: u64) {
        if seen > 0 {
            let entry = self.0.entry(origin).or_insert(0);
            *entry = seen.max(*entry);
        }
    }

    /// Appends the vector: the number of origins, then each with its count.
    pub(crate) fn put(&self, out: &mut Writer) {
        out.varint(self.0.len() as u64);
        for (origin, seen) in &self.0 {
            origin.put(out);
            out.varint(*seen);
        }
    }

    pub(crate) fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = input.count(MAX_ORIGINS, "version vector")?;
        let mut vector = BTreeMap::new();
        for _ in 0..count {
            let (origin, seen) = (Origin::take(input)?, input.varint()?);
            if seen == 0 || vector.last_key_value().is_some_and(|(last, _)| *last >= origin) {
                return Err(DecodeError::NotCanonical("version vector"));
            }
            vector.insert(origin, seen);
        }
        Ok(Self(vector))
    }

    /// The vector as bytes, to be kept or carried elsewhere.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.put(&mut out);
        out.finish()
    }

    /// Reads what [`VersionVector::encode`] wrote.
    ///
    /// # Errors
    /// Anything else is a [`DecodeError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let vector = Self::take(&mut input)?;
        input.finish()?;
        Ok(vector)
    }
}

/// How far in what an origin wrote: every transaction before `seq`, and of `seq` everything (`row` empty) or all up to and with a row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Position {
    pub(crate) seq: u64,
    /// The table's name behind its length, then the encoded key; empty when the transaction is whole.
    pub(crate) row: Vec<u8>,
}

impl Position {
    pub(crate) const fn after(seq: u64) -> Self {
        Self { seq, row: Vec::new() }
    }

    /// Transactions that lie wholly before this position.
    pub(crate) const fn whole(&self) -> u64 {
        if self.row.is_empty() { self.seq } else { self.seq - 1 }
    }

    /// Everything up to here is also before `other`. Two rows of one transaction are only comparable when equal.
    pub(crate) fn reaches(&self, other: &Self) -> bool {
        self.seq < other.seq || self.seq == other.seq && (other.row.is_empty() || self.row == other.row)
    }

    pub(crate) fn put(&self, out: &mut Writer) {
        out.varint(self.seq).string(&self.row);
    }

    pub(crate) fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let position = Self { seq: input.varint()?, row: input.string(MAX_ROW_POSITION, "position")?.to_vec() };
        if position.seq == 0 && !position.row.is_empty() {
            return Err(DecodeError::Range("position"));
        }
        Ok(position)
    }
}

/// What overwrote the parts that a batch leaves out: a version vector, and ranges beyond it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Needs {
    pub(crate) version: VersionVector,
    pub(crate) ahead: Vec<(Origin, Position, Position)>,
}

impl Needs {
    pub(crate) fn is_empty(&self) -> bool {
        self.version.0.is_empty() && self.ahead.is_empty()
    }

    /// Names nothing that `other` does not.
    pub(crate) fn within(&self, other: &Self) -> bool {
        other.version.covers(&self.version) && self.ahead.iter().all(|range| other.ahead.contains(range))
    }

    pub(crate) fn put(&self, out: &mut Writer) {
        self.version.put(out);
        out.varint(self.ahead.len() as u64);
        for (origin, first, last) in &self.ahead {
            origin.put(out);
            first.put(out);
            last.put(out);
        }
    }

    pub(crate) fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let version = VersionVector::take(input)?;
        let ahead = (0..input.count(MAX_AHEAD, "ranges")?)
            .map(|_| Ok((Origin::take(input)?, Position::take(input)?, Position::take(input)?)))
            .collect::<Result<_, DecodeError>>()?;
        Ok(Self { version, ahead })
    }
}

/// Ranges kept ahead of the version vector, each a gap or a conversation that was cut.
pub(crate) const MAX_AHEAD: usize = 256;
/// Origins a version vector may name; past it a replica refuses changes of new ones.
pub const MAX_ORIGINS: usize = 4096;
/// Bytes of a table's name and a row's key together.
pub(crate) const MAX_ROW_POSITION: usize = 65_536;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_tick_is_later_than_both(last in 0u64..1 << 60, time in 0u64..1 << 44) {
            let next = Hlc(last).tick(Timestamp(time));
            prop_assert!(next > Hlc(last) && next >= Hlc::at(Timestamp(time)));
            prop_assert!(next.time().0 <= time.max(last >> 16) + 1);
        }

        #[test]
        fn a_version_vector_reads_back(entries in prop::collection::btree_map((any::<[u8; 32]>(), 0u64..1 << 48), 1u64..1 << 60, 0..10)) {
            let vector = VersionVector(entries.into_iter().map(|((peer, incarnation), seen)| (Origin { peer: PeerId(peer), incarnation }, seen)).collect());
            prop_assert_eq!(VersionVector::decode(&vector.encode()), Ok(vector));
        }
    }
}
