//! Sets of columns.

use peers_wire::{DecodeError, Reader, Writer};

/// A set of column numbers of one table; SQLite allows up to 32,767 columns.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Columns {
    /// Bit `i % 64` of word `i / 64` says whether column `i` is in; no zero word at the end.
    words: Vec<u64>,
}

impl Columns {
    pub(crate) fn from_bits(bits: u64) -> Self {
        let mut set = Self { words: vec![bits] };
        set.trim();
        set
    }

    pub(crate) fn insert(&mut self, column: usize) {
        if self.words.len() <= column / 64 {
            self.words.resize(column / 64 + 1, 0);
        }
        self.words[column / 64] |= 1 << (column % 64);
    }

    pub(crate) fn contains(&self, column: usize) -> bool {
        self.words.get(column / 64).is_some_and(|word| word >> (column % 64) & 1 == 1)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.words.iter().enumerate().flat_map(|(i, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| i * 64 + bit))
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a |= b);
    }

    pub(crate) fn remove(&mut self, other: &Self) {
        self.words.iter_mut().zip(&other.words).for_each(|(a, b)| *a &= !b);
        self.trim();
    }

    #[must_use]
    pub(crate) fn common(&self, other: &Self) -> Self {
        let mut set = Self { words: self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect() };
        set.trim();
        set
    }

    fn trim(&mut self) {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
    }

    /// Appends the set: the number of bytes, then the bits, least significant first.
    pub(crate) fn put(&self, out: &mut Writer) {
        let bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        out.string(&bytes[..used]);
    }

    pub(crate) fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bytes = input.string(MAX_COLUMNS / 8, "column set")?;
        if bytes.last() == Some(&0) {
            return Err(DecodeError::NotCanonical("column set"));
        }
        let words = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        Ok(Self { words: words.collect() })
    }
}

impl FromIterator<usize> for Columns {
    fn from_iter<I: IntoIterator<Item = usize>>(columns: I) -> Self {
        let mut set = Self::default();
        columns.into_iter().for_each(|column| set.insert(column));
        set
    }
}

/// Columns a table may have (`SQLITE_MAX_COLUMN` can be raised to this).
pub(crate) const MAX_COLUMNS: usize = 32_768;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_reads_back(columns in prop::collection::btree_set(0usize..300, 0..20)) {
            let set: Columns = columns.iter().copied().collect();
            let mut out = Writer::default();
            set.put(&mut out);
            prop_assert_eq!(Columns::take(&mut Reader::new(out.as_ref())).unwrap(), set.clone());
            prop_assert!(set.iter().eq(columns.iter().copied()));
        }
    }
}
