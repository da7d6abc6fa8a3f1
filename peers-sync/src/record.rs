//! The packed clock of a row, and how what a transaction says of the row joins it.

use peers_wire::{DecodeError, Reader, Writer};

use crate::columns::Columns;

/// Local number of a transaction; 0 is none.
pub(crate) type Txn = u64;

/// The clock of a row: how often it was inserted and deleted, and which transaction wrote which column last.
///
/// Rows written together have equal clocks and share one record of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct RowClock {
    /// Inserts and deletes so far: odd is alive, even is deleted, 0 never existed.
    pub(crate) life: u64,
    /// The transaction of the last insert or delete; 0 while only edits of this life are known.
    pub(crate) born: Txn,
    /// Disjoint column sets by the transaction that wrote them last, in order of transaction; empty when deleted.
    pub(crate) cells: Vec<(Txn, Columns)>,
}

/// What one transaction says of one row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Shape {
    /// The life of the row that the transaction wrote in.
    pub(crate) life: u64,
    /// The transaction began this life: it inserted the row (odd) or deleted it (even).
    pub(crate) born: bool,
    /// Columns written.
    pub(crate) columns: Columns,
}

/// The outcome of [`RowClock::join`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Join {
    pub(crate) clock: RowClock,
    /// Columns whose value is now the transaction's.
    pub(crate) won: Columns,
    /// Transactions that lost something to this one.
    pub(crate) beaten: Vec<Txn>,
    /// Transactions that this one lost something to.
    pub(crate) lost_to: Vec<Txn>,
}

impl RowClock {
    pub(crate) const fn alive(&self) -> bool {
        self.life % 2 == 1
    }

    /// What `txn` still says of the row.
    pub(crate) fn shape_of(&self, txn: Txn) -> Shape {
        let columns = self.cells.iter().find(|(t, _)| *t == txn).map(|(_, columns)| columns.clone()).unwrap_or_default();
        Shape { life: self.life, born: self.born == txn, columns }
    }

    /// Every transaction the clock names.
    pub(crate) fn txns(&self) -> impl Iterator<Item = Txn> {
        let born = (self.born != 0 && !self.cells.iter().any(|(t, _)| *t == self.born)).then_some(self.born);
        born.into_iter().chain(self.cells.iter().map(|(txn, _)| *txn))
    }

    /// The clock after `txn` has said `shape`: a later life replaces an earlier one whole; in the same life each column, and the
    /// birth, belong to the later transaction. `later(a, b)` says whether `a` is after `b` in (clock, origin).
    ///
    /// A join semilattice: idempotent, commutative, associative.
    pub(crate) fn join(&self, txn: Txn, shape: &Shape, later: impl Fn(Txn, Txn) -> bool) -> Join {
        if shape.life < self.life {
            return Join { clock: self.clone(), lost_to: self.txns().collect(), ..Join::default() };
        }
        if shape.life > self.life {
            let cells = if shape.columns.is_empty() { Vec::new() } else { vec![(txn, shape.columns.clone())] };
            let clock = Self { life: shape.life, born: if shape.born { txn } else { 0 }, cells };
            return Join { clock, won: shape.columns.clone(), beaten: self.txns().collect(), lost_to: Vec::new() };
        }
        let mut join = Join { clock: self.clone(), won: shape.columns.clone(), ..Join::default() };
        if shape.born && self.born != txn {
            if self.born == 0 {
                join.clock.born = txn;
            } else if later(txn, self.born) {
                join.clock.born = txn;
                join.beaten.push(self.born);
            } else {
                join.lost_to.push(self.born);
            }
        }
        for (owner, columns) in &mut join.clock.cells {
            let common = columns.common(&shape.columns);
            if common.is_empty() {
                continue;
            }
            if *owner != txn && later(txn, *owner) {
                columns.remove(&common);
                join.beaten.push(*owner);
            } else {
                join.won.remove(&common);
                if *owner != txn {
                    join.lost_to.push(*owner);
                }
            }
        }
        if !join.won.is_empty() {
            match join.clock.cells.binary_search_by_key(&txn, |(owner, _)| *owner) {
                Ok(i) => join.clock.cells[i].1.add(&join.won),
                Err(i) => join.clock.cells.insert(i, (txn, join.won.clone())),
            }
            join.clock.cells.retain(|(_, columns)| !columns.is_empty());
        }
        join
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Writer::with_capacity(24);
        out.varint(self.life).varint(self.born);
        for (txn, columns) in &self.cells {
            out.varint(*txn);
            columns.put(&mut out);
        }
        out.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut input = Reader::new(bytes);
        let mut clock = Self { life: input.varint()?, born: input.varint()?, cells: Vec::new() };
        while input.remaining() > 0 {
            clock.cells.push((input.varint()?, Columns::take(&mut input)?));
        }
        Ok(clock)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a transaction says of a row, of which each transaction says one thing.
    fn said() -> impl Strategy<Value = Vec<(Txn, Shape)>> {
        let shape = (1u64..5, any::<bool>(), 0u64..16).prop_map(|(life, born, bits)| {
            let columns = if life % 2 == 1 { Columns::from_bits(bits) } else { Columns::default() };
            Shape { life, born: born || life % 2 == 0, columns }
        });
        prop::collection::vec(shape, 0..8).prop_map(|shapes| (1..).zip(shapes).collect())
    }

    fn joined(said: &[(Txn, Shape)]) -> RowClock {
        said.iter().fold(RowClock::default(), |clock, (txn, shape)| clock.join(*txn, shape, |a, b| a > b).clock)
    }

    proptest! {
        #[test]
        fn joining_in_any_order_and_twice_gives_the_same_clock(
            (said, shuffled) in said().prop_flat_map(|said| {
                let twice: Vec<_> = said.iter().chain(&said).cloned().collect();
                (Just(said), Just(twice).prop_shuffle())
            })
        ) {
            let clock = joined(&said);
            prop_assert_eq!(&joined(&shuffled), &clock);
            prop_assert_eq!(RowClock::decode(&clock.encode()), Ok(clock));
        }

        #[test]
        fn each_column_belongs_to_the_last_of_the_last_life(said in said()) {
            let clock = joined(&said);
            let life = said.iter().map(|(_, shape)| shape.life).max().unwrap_or(0);
            prop_assert_eq!(clock.life, life);
            for column in 0..4 {
                let last = said.iter().filter(|(_, shape)| shape.life == life && shape.columns.contains(column)).map(|(txn, _)| *txn).max();
                let owner = clock.cells.iter().find(|(_, columns)| columns.contains(column)).map(|(txn, _)| *txn);
                prop_assert_eq!(owner, last);
            }
        }
    }
}
