//! The messages by which two caches find what large sets differ in. Byte by byte in `docs/PROTOCOL.md`, chapter 6.

use peers_wire::{DecodeError, Reader, Writer};

use crate::message::{MAX_MESSAGE, Summary, Tag};
use crate::sketch::{Cell, MAX_CELLS, Naming, Parity};

/// Bytes of set and salt at most.
const HEADER: usize = 1 + Tag::LEN + 8;
/// Cells that fit one message.
pub(crate) const MAX_CELLS_PER_MESSAGE: usize = (MAX_MESSAGE - 1 - HEADER - 4 - 2 - 2) / Cell::LEN;
/// Names that fit one message.
pub(crate) const MAX_NAMES: usize = (MAX_MESSAGE - 1 - HEADER - 2) / 4;

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Set {
    /// All packets of a topic.
    Topic(Tag),
}

/// What the sender has: asks for cells, if that is not what the receiver has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Probe {
    pub(crate) set: Set,
    pub(crate) salt: u64,
    pub(crate) summary: Summary,
    pub(crate) parity: Parity,
}

/// Cells of what the sender has, from `start` on; those up to `until` were sent together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cells {
    pub(crate) set: Set,
    pub(crate) salt: u64,
    /// The end of the sum of the set that the cells are of.
    pub(crate) state: u32,
    pub(crate) start: usize,
    pub(crate) until: usize,
    pub(crate) cells: Vec<Cell>,
}

/// Asks for cells from `start` to `until`; for all up to `until`, if the set is another by now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct More {
    pub(crate) set: Set,
    pub(crate) salt: u64,
    pub(crate) state: u32,
    pub(crate) start: usize,
    pub(crate) until: usize,
}

/// Packets by the first halves of their short ids: those that the sender asks for, and those that it offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) set: Set,
    pub(crate) salt: u64,
    pub(crate) wants: Vec<u32>,
    pub(crate) offers: Vec<u32>,
}

impl Set {
    pub(crate) const FIRST: Self = Self::Topic(Tag(0));
    pub(crate) const LAST: Self = Self::Topic(Tag(u64::MAX));

    /// How packets of this set are named under a salt.
    pub(crate) const fn naming(self, salt: u64) -> Naming {
        let Self::Topic(tag) = self;
        Naming::new(salt, tag)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            0 => Ok(Self::Topic(Tag(reader.u64()?))),
            kind => Err(DecodeError::Kind(kind)),
        }
    }

    fn write(self, writer: &mut Writer) -> &mut Writer {
        let Self::Topic(tag) = self;
        writer.u8(0).u64(tag.0)
    }
}

impl Probe {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (set, salt, summary) = (Set::read(reader)?, reader.varint()?, Summary::read(reader)?);
        let mut parity = Parity::default();
        for word in &mut parity.0 {
            *word = reader.u64()?;
        }
        Ok(Self { set, salt, summary, parity })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        self.summary.write(self.set.write(writer.u8(10)).varint(self.salt));
        for word in self.parity.0 {
            writer.u64(word);
        }
    }
}

impl Cells {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (set, salt, state) = (Set::read(reader)?, reader.varint()?, reader.u32()?);
        let (start, until) = read_range(reader)?;
        let mut cells = Vec::with_capacity(reader.remaining() / Cell::LEN);
        while cells.is_empty() || reader.remaining() > 0 {
            cells.push(Cell { sum: reader.u64()?, check: reader.u24()? });
        }
        if cells.len() > until - start {
            return Err(DecodeError::Range("cells"));
        }
        Ok(Self { set, salt, state, start, until, cells })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        self.set.write(writer.u8(11)).varint(self.salt).u32(self.state);
        writer.varint(self.start as u64).varint(self.until as u64);
        for cell in &self.cells {
            writer.u64(cell.sum).u24(cell.check);
        }
    }
}

impl More {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (set, salt, state) = (Set::read(reader)?, reader.varint()?, reader.u32()?);
        let (start, until) = read_range(reader)?;
        Ok(Self { set, salt, state, start, until })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        self.set.write(writer.u8(12)).varint(self.salt).u32(self.state);
        writer.varint(self.start as u64).varint(self.until as u64);
    }
}

impl Names {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (set, salt) = (Set::read(reader)?, reader.varint()?);
        let wants = reader.count(MAX_NAMES, "names")?;
        let wants = (0..wants).map(|_| reader.u32()).collect::<Result<Vec<_>, _>>()?;
        let mut offers = Vec::with_capacity(reader.remaining() / 4);
        while wants.is_empty() && offers.is_empty() || reader.remaining() > 0 {
            offers.push(reader.u32()?);
        }
        Ok(Self { set, salt, wants, offers })
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        self.set.write(writer.u8(13)).varint(self.salt).varint(self.wants.len() as u64);
        for name in self.wants.iter().chain(&self.offers) {
            writer.u32(*name);
        }
    }

    /// Cuts names into messages that fit.
    pub(crate) fn messages(set: Set, salt: u64, wants: &[u32], offers: &[u32]) -> Vec<Self> {
        let mut names = wants.iter().map(|name| (true, *name)).chain(offers.iter().map(|name| (false, *name))).peekable();
        let mut messages = Vec::new();
        while names.peek().is_some() {
            let (wants, offers): (Vec<_>, Vec<_>) = names.by_ref().take(MAX_NAMES).partition(|(want, _)| *want);
            let only = |names: Vec<(bool, u32)>| names.into_iter().map(|(_, name)| name).collect();
            messages.push(Self { set, salt, wants: only(wants), offers: only(offers) });
        }
        messages
    }
}

fn read_range(reader: &mut Reader<'_>) -> Result<(usize, usize), DecodeError> {
    let (start, until) = (reader.count(MAX_CELLS, "cells")?, reader.count(MAX_CELLS, "cells")?);
    if start >= until {
        return Err(DecodeError::Range("cells"));
    }
    Ok((start, until))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Any message of this file.
    pub(crate) fn message() -> impl Strategy<Value = Message> {
        let header = || (any::<u64>().prop_map(|tag| Set::Topic(Tag(tag))), 0..1u64 << 62);
        let cell = (any::<u64>(), 0..1u32 << 24).prop_map(|(sum, check)| Cell { sum, check });
        let range = || (0..MAX_CELLS, 0..MAX_CELLS).prop_map(|(start, more)| (start, (start + 1 + more).min(MAX_CELLS)));
        prop_oneof![
            (header(), 1..1u32 << 30, any::<u128>(), any::<[u64; 8]>()).prop_map(|((set, salt), count, sum, parity)| {
                Message::Probe(Probe { set, salt, summary: Summary { count, sum }, parity: Parity(parity) })
            }),
            (header(), any::<u32>(), range(), vec(cell, 1..=MAX_CELLS_PER_MESSAGE)).prop_map(
                |((set, salt), state, (start, until), mut cells)| {
                    cells.truncate(until - start);
                    Message::Cells(Cells { set, salt, state, start, until, cells })
                }
            ),
            (header(), any::<u32>(), range()).prop_map(|((set, salt), state, (start, until))| Message::More(More {
                set,
                salt,
                state,
                start,
                until
            })),
            (header(), vec(any::<u32>(), 1..=MAX_NAMES), 0..=MAX_NAMES).prop_map(|((set, salt), mut wants, at)| {
                let offers = wants.split_off(at.min(wants.len()));
                Message::Names(Names { set, salt, wants, offers })
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_message_about_differences_reads_back_and_fits_a_datagram(message in message()) {
            let bytes = message.encode();
            prop_assert!(bytes.len() <= MAX_MESSAGE);
            prop_assert_eq!(Message::decode(&bytes), Ok(message));
        }

        #[test]
        fn names_are_cut_into_messages_that_fit_and_none_is_lost(wants in vec(any::<u32>(), 0..700), offers in vec(any::<u32>(), 0..700)) {
            let (mut asked, mut offered) = (Vec::new(), Vec::new());
            for names in Names::messages(Set::Topic(Tag(1)), u64::MAX >> 2, &wants, &offers) {
                prop_assert!(Message::Names(names.clone()).encode().len() <= MAX_MESSAGE);
                asked.extend(names.wants);
                offered.extend(names.offers);
            }
            prop_assert_eq!((asked, offered), (wants, offers));
        }
    }

    #[test]
    fn an_unknown_set_an_empty_range_and_cells_beyond_the_last_are_refused() {
        let more = |start, until| Message::More(More { set: Set::Topic(Tag(1)), salt: 1, state: 2, start, until }).encode();
        assert_eq!(Message::decode(&more(5, 5)), Err(DecodeError::Range("cells")));
        assert_eq!(Message::decode(&more(5, MAX_CELLS + 1)), Err(DecodeError::Range("cells")));
        let mut unknown = more(1, 2).to_vec();
        unknown[1] = 9;
        assert_eq!(Message::decode(&unknown.into()), Err(DecodeError::Kind(9)));
        let cells = Cells { set: Set::Topic(Tag(1)), salt: 1, state: 2, start: 4, until: 5, cells: vec![Cell::default(); 2] };
        assert_eq!(Message::decode(&Message::Cells(cells).encode()), Err(DecodeError::Range("cells")));
    }
}
