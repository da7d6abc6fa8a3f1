//! Origins, transactions and row clock records in the file, with the caches that make them quick.
//!
//! Every method that writes runs inside a transaction of the caller's. After a rollback the caches are stale: [`Clocks::load`] anew.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use peers_wire::{PeerId, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use crate::clock::{Hlc, MAX_ORIGINS, Origin, VersionVector};
use crate::record::{RowClock, Txn};
use crate::store::StoreError;

/// Local number of an origin.
pub(crate) type OriginId = i64;

/// What is known of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TxnInfo {
    pub(crate) origin: OriginId,
    pub(crate) seq: u64,
    pub(crate) hlc: Hlc,
    pub(crate) beaten: Beaten,
    /// The next transaction of the same origin belongs to the same unit.
    pub(crate) more: bool,
}

/// What a transaction lost of what it wrote, as far as this file knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Beaten {
    /// Nothing.
    Whole,
    /// Only to transactions of the same origin up to this sequence number.
    ByOwn(u64),
    /// To transactions of other origins as well.
    ByOthers,
    /// Its rows are of a table that is no longer tracked: they cannot be given to others.
    Withheld,
}

impl Beaten {
    const fn to_sql(self) -> i64 {
        match self {
            Self::Whole => 0,
            Self::ByOwn(seq) => seq.cast_signed(),
            Self::ByOthers => -1,
            Self::Withheld => -2,
        }
    }

    const fn from_sql(value: i64) -> Self {
        match value {
            0 => Self::Whole,
            -1 => Self::ByOthers,
            -2 => Self::Withheld,
            seq => Self::ByOwn(seq.cast_unsigned()),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct Clocks {
    origins: HashMap<OriginId, Origin>,
    ids: HashMap<Origin, OriginId>,
    /// The origin under which local changes are written.
    own: OriginId,
    version: VersionVector,
    last: Hlc,
    /// The clock of the last local transaction.
    own_last: Hlc,
    txns: HashMap<Txn, TxnInfo>,
    records: HashMap<i64, Arc<RowClock>>,
    interned: HashMap<(i64, Vec<u8>), i64>,
    changed: HashSet<Txn>,
}

impl Clocks {
    /// Reads the origins and the clock.
    pub(crate) fn load(db: &Connection) -> Result<Self, StoreError> {
        let mut clocks = Self::default();
        let mut rows = db.prepare("SELECT id, peer, incarnation, seen FROM _peers_origin")?;
        let mut rows = rows.query([])?;
        while let Some(row) = rows.next()? {
            let (id, origin) = (row.get(0)?, Origin { peer: PeerId(row.get(1)?), incarnation: row.get::<_, i64>(2)?.cast_unsigned() });
            clocks.origins.insert(id, origin);
            clocks.ids.insert(origin, id);
            clocks.version.raise(origin, row.get::<_, i64>(3)?.cast_unsigned());
        }
        clocks.own = meta(db, "own")?.unwrap_or(0);
        clocks.last = Hlc(meta(db, "hlc")?.unwrap_or(0).cast_unsigned());
        let own_last = "SELECT hlc FROM _peers_txn WHERE origin = ?1 ORDER BY seq DESC LIMIT 1";
        let own_last: Option<i64> = db.query_row(own_last, [clocks.own], |row| row.get(0)).optional()?;
        clocks.own_last = Hlc(own_last.unwrap_or(0).cast_unsigned());
        Ok(clocks)
    }

    /// Continues as `peer`: the history in the file if this device wrote it in this very file, else a new one. A copy of a file, a restored
    /// backup too, is another file, and others may have what was written in the first one since.
    pub(crate) fn adopt(&mut self, db: &Connection, peer: PeerId, incarnation: u64, file: i64) -> Result<(), StoreError> {
        let known = self.origins.get(&self.own).is_some_and(|own| own.peer == peer);
        if known && meta(db, "file")? == Some(file) {
            return Ok(());
        }
        set_meta(db, "file", file)?;
        self.begin_history(db, peer, incarnation)
    }

    /// Writes under a new origin from now on.
    pub(crate) fn begin_history(&mut self, db: &Connection, peer: PeerId, incarnation: u64) -> Result<(), StoreError> {
        let mut origin = Origin { peer, incarnation: incarnation & Timestamp::MAX.0 };
        while self.ids.contains_key(&origin) {
            origin.incarnation = (origin.incarnation + 1) & Timestamp::MAX.0;
        }
        self.own = self.insert_origin(db, origin)?;
        self.own_last = Hlc::default();
        set_meta(db, "own", self.own)
    }

    pub(crate) fn own(&self) -> Origin {
        self.origins[&self.own]
    }

    pub(crate) const fn version(&self) -> &VersionVector {
        &self.version
    }

    pub(crate) fn origin(&self, id: OriginId) -> Origin {
        self.origins[&id]
    }

    pub(crate) fn origin_id(&self, origin: &Origin) -> Option<OriginId> {
        self.ids.get(origin).copied()
    }

    /// The number of `origin`; `None` if there are too many origins to take one more.
    pub(crate) fn know_origin(&mut self, db: &Connection, origin: Origin) -> Result<Option<OriginId>, StoreError> {
        match self.ids.get(&origin) {
            Some(id) => Ok(Some(*id)),
            None if self.ids.len() >= MAX_ORIGINS => Ok(None),
            None => self.insert_origin(db, origin).map(Some),
        }
    }

    fn insert_origin(&mut self, db: &Connection, origin: Origin) -> Result<OriginId, StoreError> {
        db.prepare_cached("INSERT INTO _peers_origin (peer, incarnation, seen) VALUES (?1, ?2, 0)")?
            .execute(params![origin.peer.as_bytes(), origin.incarnation.cast_signed()])?;
        let id = db.last_insert_rowid();
        self.origins.insert(id, origin);
        self.ids.insert(origin, id);
        Ok(id)
    }

    /// Writes that everything of `origin` up to `seen` is applied.
    pub(crate) fn advance(&mut self, db: &Connection, origin: OriginId, seen: u64) -> Result<(), StoreError> {
        self.version.raise(self.origins[&origin], seen);
        db.prepare_cached("UPDATE _peers_origin SET seen = ?2 WHERE id = ?1")?.execute(params![origin, seen.cast_signed()])?;
        Ok(())
    }

    /// Makes the clock run ahead of `seen`.
    pub(crate) fn observe(&mut self, seen: Hlc) {
        self.last = self.last.max(seen);
    }

    /// The next local transaction, of something written at `time`: later than all that was seen. What was there before it was tracked has no time
    /// (`Timestamp(0)`) and is only later than what this origin wrote.
    pub(crate) fn local_txn(&mut self, db: &Connection, time: Timestamp, more: bool) -> Result<Txn, StoreError> {
        let seq = self.version.get(&self.own()) + 1;
        let seen = if time.0 == 0 { self.own_last } else { self.last };
        self.own_last = seen.tick(time);
        self.observe(self.own_last);
        self.advance(db, self.own, seq)?;
        self.insert_txn(db, TxnInfo { origin: self.own, seq, hlc: self.own_last, beaten: Beaten::Whole, more })
    }

    pub(crate) fn insert_txn(&mut self, db: &Connection, info: TxnInfo) -> Result<Txn, StoreError> {
        db.prepare_cached("INSERT INTO _peers_txn (origin, seq, hlc, beaten, more) VALUES (?1, ?2, ?3, ?4, ?5)")?.execute(params![
            info.origin,
            info.seq.cast_signed(),
            info.hlc.0.cast_signed(),
            info.beaten.to_sql(),
            info.more
        ])?;
        let txn = db.last_insert_rowid().cast_unsigned();
        self.txns.insert(txn, info);
        Ok(txn)
    }

    /// The transaction numbered `seq` of `origin`.
    pub(crate) fn find_txn(&mut self, db: &Connection, origin: OriginId, seq: u64) -> Result<Option<Txn>, StoreError> {
        let id: Option<i64> = db
            .prepare_cached("SELECT id FROM _peers_txn WHERE origin = ?1 AND seq = ?2")?
            .query_row(params![origin, seq.cast_signed()], |row| row.get(0))
            .optional()?;
        Ok(id.map(i64::cast_unsigned))
    }

    pub(crate) fn txn(&mut self, db: &Connection, txn: Txn) -> Result<TxnInfo, StoreError> {
        if let Some(info) = self.txns.get(&txn) {
            return Ok(*info);
        }
        let info = db.prepare_cached("SELECT origin, seq, hlc, beaten, more FROM _peers_txn WHERE id = ?1")?.query_row(
            [txn.cast_signed()],
            |row| {
                Ok(TxnInfo {
                    origin: row.get(0)?,
                    seq: row.get::<_, i64>(1)?.cast_unsigned(),
                    hlc: Hlc(row.get::<_, i64>(2)?.cast_unsigned()),
                    beaten: Beaten::from_sql(row.get(3)?),
                    more: row.get(4)?,
                })
            },
        )?;
        self.txns.insert(txn, info);
        Ok(info)
    }

    /// The order of last write wins: clock, then origin. The transaction must have been asked for by [`Clocks::txn`] before.
    pub(crate) fn rank(&self, txn: Txn) -> (Hlc, Origin) {
        let info = self.txns[&txn];
        (info.hlc, self.origins[&info.origin])
    }

    /// Notes that `loser` lost something to `winner`.
    pub(crate) fn beat(&mut self, db: &Connection, loser: Txn, winner: Txn) -> Result<(), StoreError> {
        let winner = self.txn(db, winner)?;
        let by = if self.txn(db, loser)?.origin == winner.origin { Beaten::ByOwn(winner.seq) } else { Beaten::ByOthers };
        self.mark(db, loser, by)
    }

    /// Notes that `txn` is no better than `beaten`.
    pub(crate) fn mark(&mut self, db: &Connection, txn: Txn, beaten: Beaten) -> Result<(), StoreError> {
        let info = self.txn(db, txn)?;
        if beaten > info.beaten {
            self.txns.insert(txn, TxnInfo { beaten, ..info });
            self.changed.insert(txn);
        }
        Ok(())
    }

    /// The clock in a record.
    pub(crate) fn record(&mut self, db: &Connection, id: i64) -> Result<Arc<RowClock>, StoreError> {
        if let Some(clock) = self.records.get(&id) {
            return Ok(clock.clone());
        }
        let bytes: Vec<u8> = db.prepare_cached("SELECT clock FROM _peers_record WHERE id = ?1")?.query_row([id], |row| row.get(0))?;
        let clock = Arc::new(RowClock::decode(&bytes)?);
        if self.records.len() >= MAX_CACHED {
            self.records.clear();
        }
        self.records.insert(id, clock.clone());
        Ok(clock)
    }

    /// A record of `table` that holds `clock`.
    pub(crate) fn intern(&mut self, db: &Connection, table: i64, clock: &RowClock) -> Result<i64, StoreError> {
        let key = (table, clock.encode());
        if let Some(id) = self.interned.get(&key) {
            return Ok(*id);
        }
        db.prepare_cached("INSERT INTO _peers_record (tbl, clock) VALUES (?1, ?2)")?.execute(params![table, key.1])?;
        let id = db.last_insert_rowid();
        for txn in clock.txns() {
            db.prepare_cached("INSERT INTO _peers_use VALUES (?1, ?2)")?.execute([txn.cast_signed(), id])?;
        }
        if self.interned.len() >= MAX_CACHED {
            self.interned.clear();
        }
        self.interned.insert(key, id);
        Ok(id)
    }

    /// Forgets a record that no row has.
    pub(crate) fn forget(&mut self, db: &Connection, table: i64, id: i64) -> Result<(), StoreError> {
        let clock = self.record(db, id)?;
        for txn in clock.txns() {
            db.prepare_cached("DELETE FROM _peers_use WHERE txn = ?1 AND record = ?2")?.execute([txn.cast_signed(), id])?;
        }
        db.prepare_cached("DELETE FROM _peers_record WHERE id = ?1")?.execute([id])?;
        self.records.remove(&id);
        self.interned.remove(&(table, clock.encode()));
        Ok(())
    }

    /// Writes what methods above left to write; call before a commit.
    pub(crate) fn save(&mut self, db: &Connection) -> Result<(), StoreError> {
        for txn in self.changed.drain() {
            let beaten = self.txns[&txn].beaten.to_sql();
            db.prepare_cached("UPDATE _peers_txn SET beaten = ?2 WHERE id = ?1")?.execute(params![txn.cast_signed(), beaten])?;
        }
        // Only here: between, callers count on those they asked for.
        if self.txns.len() >= MAX_CACHED {
            self.txns.clear();
        }
        set_meta(db, "hlc", self.last.0.cast_signed())
    }
}

/// A number kept in the file.
pub(crate) fn meta(db: &Connection, name: &str) -> Result<Option<i64>, StoreError> {
    Ok(db.prepare_cached("SELECT value FROM _peers_meta WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()?)
}

pub(crate) fn set_meta(db: &Connection, name: &str, value: i64) -> Result<(), StoreError> {
    db.prepare_cached("INSERT OR REPLACE INTO _peers_meta VALUES (?1, ?2)")?.execute(params![name, value])?;
    Ok(())
}

/// Transactions, records and their numbers kept in memory, each.
const MAX_CACHED: usize = 16_384;
