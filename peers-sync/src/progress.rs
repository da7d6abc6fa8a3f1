//! What has been received ahead of the version vector, and when the vector advances.

use std::collections::BTreeMap;

use peers_wire::{Reader, Writer};
use rusqlite::{Connection, params};

use crate::clock::{MAX_AHEAD, Needs, Origin, Position, VersionVector};
use crate::clocks::{Clocks, OriginId};
use crate::store::StoreError;

/// A range of an origin's transactions that is applied, but not yet counted as seen: there is a gap before it, or what overwrote parts of it is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) origin: OriginId,
    pub(crate) first: Position,
    pub(crate) last: Position,
    pub(crate) needs: Needs,
}

impl Range {
    /// Covers all that `other` covers and needs no more.
    fn says(&self, other: &Self) -> bool {
        self.origin == other.origin && self.first.reaches(&other.first) && other.last.reaches(&self.last) && self.needs.within(&other.needs)
    }
}

/// The ranges ahead of the version vector.
#[derive(Debug, Default)]
pub(crate) struct Ahead {
    ranges: Vec<Range>,
}

impl Ahead {
    pub(crate) fn load(db: &Connection) -> Result<Self, StoreError> {
        let mut rows = db.prepare("SELECT origin, first, last, needs FROM _peers_range")?;
        let mut rows = rows.query([])?;
        let mut ranges = Vec::new();
        while let Some(row) = rows.next()? {
            let position = |i| -> Result<Position, StoreError> { Ok(Position::take(&mut Reader::new(&row.get::<_, Vec<u8>>(i)?))?) };
            let needs = Needs::take(&mut Reader::new(&row.get::<_, Vec<u8>>(3)?))?;
            ranges.push(Range { origin: row.get(0)?, first: position(1)?, last: position(2)?, needs });
        }
        Ok(Self { ranges })
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Takes note of a range that was applied and advances the version vector as far as it goes.
    ///
    /// The vector takes the greatest set of gap-free ranges that need nothing outside of themselves and the vector.
    pub(crate) fn received(&mut self, db: &Connection, clocks: &mut Clocks, range: Range) -> Result<(), StoreError> {
        let seen = Position::after(clocks.version().get(&clocks.origin(range.origin)));
        if !range.last.reaches(&seen) {
            self.add(range);
        }
        let mut usable = vec![true; self.ranges.len()];
        let reach = loop {
            let reach = self.reach(clocks, &usable);
            let mut vector = clocks.version().clone();
            reach.iter().for_each(|(origin, position)| vector.raise(clocks.origin(*origin), position.whole()));
            let mut unmet = false;
            for (i, range) in self.ranges.iter().enumerate() {
                // A range beyond the reach is not counted on, so what it needs does not matter yet.
                let counted = reach.get(&range.origin).is_some_and(|reach| range.last.reaches(reach));
                if usable[i] && counted && !self.meets(clocks, &vector, &range.needs) {
                    usable[i] = false;
                    unmet = true;
                }
            }
            if !unmet {
                break reach;
            }
        };
        for (origin, position) in reach {
            if position.whole() > clocks.version().get(&clocks.origin(origin)) {
                clocks.advance(db, origin, position.whole())?;
            }
        }
        self.ranges.retain(|r| !r.last.reaches(&Position::after(clocks.version().get(&clocks.origin(r.origin)))));
        self.save(db)
    }

    /// Adds a range to the list, which stays short: no range in it says less than another.
    fn add(&mut self, mut range: Range) {
        if let Some(before) = self.ranges.iter().find(|r| r.origin == range.origin && r.last == range.first && r.needs == range.needs) {
            range.first = before.first.clone();
        }
        if !self.ranges.iter().any(|r| r.says(&range)) {
            self.ranges.retain(|r| !range.says(r));
            self.ranges.push(range);
        }
    }

    /// A range can still be taken: it follows what is seen without a gap, or there is room for one more ahead.
    pub(crate) fn has_room(&self, seen: u64, first: &Position) -> bool {
        self.ranges.len() < MAX_AHEAD || first.reaches(&Position::after(seen))
    }

    /// What a range needs is applied, if `vector` is.
    fn meets(&self, clocks: &Clocks, vector: &VersionVector, needs: &Needs) -> bool {
        let applied = |origin: &Origin, first: &Position, last: &Position| {
            last.reaches(&Position::after(vector.get(origin)))
                || self.ranges.iter().any(|r| clocks.origin(r.origin) == *origin && r.first.reaches(first) && last.reaches(&r.last))
        };
        vector.covers(&needs.version) && needs.ahead.iter().all(|(origin, first, last)| applied(origin, first, last))
    }

    /// What is applied here, for others to know what they need.
    pub(crate) fn applied(&self, clocks: &Clocks) -> Needs {
        let ahead = self.ranges.iter().map(|r| (clocks.origin(r.origin), r.first.clone(), r.last.clone()));
        Needs { version: clocks.version().clone(), ahead: ahead.collect() }
    }

    /// The ranges ahead of the version vector.
    pub(crate) fn ranges(&self) -> &[Range] {
        &self.ranges
    }

    /// How far each origin goes without a gap over the usable ranges.
    fn reach(&self, clocks: &Clocks, usable: &[bool]) -> BTreeMap<OriginId, Position> {
        // Rows of one transaction have no order here, so ranges that begin at one place may lead apart: every place that is reached counts.
        let mut reached: BTreeMap<OriginId, Vec<Position>> = BTreeMap::new();
        // Each range is walked over at most once: a forged circle of ranges would have no end.
        let mut left: Vec<&Range> = self.ranges.iter().zip(usable).filter(|(_, usable)| **usable).map(|(range, _)| range).collect();
        loop {
            let before = left.len();
            left.retain(|range| {
                let places = reached
                    .entry(range.origin)
                    .or_insert_with(|| vec![Position::after(clocks.version().get(&clocks.origin(range.origin)))]);
                let follows = places.iter().any(|at| range.first == *at || range.first.reaches(at));
                if follows {
                    places.push(range.last.clone());
                }
                !follows
            });
            if left.len() == before {
                let farthest = |places: Vec<Position>| {
                    places.into_iter().reduce(|best, at| if best.reaches(&at) || best.whole() < at.whole() { at } else { best })
                };
                return reached.into_iter().filter_map(|(origin, places)| Some((origin, farthest(places)?))).collect();
            }
        }
    }

    /// Where each origin's ranges reach without regard to what they need, and all that they need: to resume a conversation that was cut.
    pub(crate) fn resume(&self, clocks: &Clocks) -> (BTreeMap<OriginId, Position>, VersionVector) {
        let mut needs = VersionVector::default();
        self.ranges.iter().for_each(|range| needs.merge(&range.needs.version));
        (self.reach(clocks, &vec![true; self.ranges.len()]), needs)
    }

    fn save(&self, db: &Connection) -> Result<(), StoreError> {
        db.prepare_cached("DELETE FROM _peers_range")?.execute([])?;
        for range in &self.ranges {
            let position = |position: &Position| {
                let mut out = Writer::default();
                position.put(&mut out);
                out.finish()
            };
            let mut needs = Writer::default();
            range.needs.put(&mut needs);
            db.prepare_cached("INSERT INTO _peers_range VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                range.origin,
                position(&range.first),
                position(&range.last),
                needs.finish()
            ])?;
        }
        Ok(())
    }
}
