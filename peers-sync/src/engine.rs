//! The state behind a replica, and the folding of the journal into clocks.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use peers_wire::{PeerId, Timestamp};
use rusqlite::{Connection, params_from_iter};

use crate::clocks::Clocks;
use crate::columns::Columns;
use crate::parked;
use crate::progress::Ahead;
use crate::record::{RowClock, Shape, Txn};
use crate::schema::{DELETED, DOUBTED, INSERTED, Table};
use crate::store::StoreError;
use crate::value::{Value, encode_key};

/// A row that changed, here or elsewhere.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// The table.
    pub table: String,
    /// The row's key, in the order of the primary key.
    pub key: Vec<Value>,
    /// Columns written; empty for a delete, and for a row of nothing but its key.
    pub columns: Vec<String>,
    /// The device that wrote it.
    pub author: PeerId,
    /// When, by the writer's clock.
    pub time: Timestamp,
    /// The row was deleted.
    pub deleted: bool,
}

/// Everything of a replica but its connections and its conversations. After a rollback it is stale: load anew.
#[derive(Debug, Default)]
pub(crate) struct Core {
    pub(crate) clocks: Clocks,
    pub(crate) tables: Vec<Table>,
    pub(crate) ahead: Ahead,
    /// Changes not yet told, at most [`MAX_TOLD`].
    pub(crate) told: Vec<Change>,
    /// Changes that were not told, as there were too many.
    pub(crate) untold: u64,
    /// Records that rows have left, by table: they may be unused now.
    pub(crate) left: BTreeSet<(usize, i64)>,
    /// Tables whose parked rows must be looked at again.
    pub(crate) dirty: BTreeSet<usize>,
}

/// One entry of the journal.
struct Entry {
    op: Op,
    at: u64,
    record: Option<i64>,
    key: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Op {
    Insert,
    Delete,
    Doubt,
    Update(Columns),
}

impl Core {
    pub(crate) fn load(db: &Connection) -> Result<Self, StoreError> {
        Ok(Self { clocks: Clocks::load(db)?, tables: Table::load_all(db)?, ahead: Ahead::load(db)?, ..Self::default() })
    }

    pub(crate) fn table_named(&self, name: &str) -> Option<usize> {
        self.tables.iter().position(|table| table.attached && table.name.eq_ignore_ascii_case(name))
    }

    pub(crate) fn tell(&mut self, change: impl FnOnce(&Self) -> Change) {
        if self.told.len() < MAX_TOLD {
            let change = change(self);
            self.told.push(change);
        } else {
            self.untold += 1;
        }
    }

    /// Moves up to [`FOLD`] entries of each table's journal into clocks; true if there are more.
    pub(crate) fn fold(&mut self, db: &Connection, wall: Timestamp) -> Result<bool, StoreError> {
        let mut more = false;
        let mut pending = Vec::new();
        for (i, table) in self.tables.iter().enumerate().filter(|(_, table)| table.attached) {
            let (last, count) = pending_in(db, table.id)?;
            if let Some(last) = last {
                more |= count >= FOLD;
                pending.push((i, last, journal(db, table, last, wall)?));
            }
        }
        if pending.is_empty() {
            return Ok(false);
        }
        let times: BTreeSet<u64> = pending.iter().flat_map(|(_, _, entries)| entries.iter().map(|entry| entry.at)).collect();
        let count = times.len();
        let mut txns = BTreeMap::new();
        for (i, time) in times.into_iter().enumerate() {
            txns.insert(time, self.clocks.local_txn(db, Timestamp(time), more || i + 1 < count)?);
        }
        for (table, last, entries) in pending {
            self.fold_table(db, table, &entries, &txns)?;
            db.execute(&format!("DELETE FROM _peers_journal_{} WHERE id <= ?1", self.tables[table].id), [last])?;
        }
        self.place_dirty(db)?;
        self.sweep(db)?;
        self.clocks.save(db)?;
        Ok(more)
    }

    fn fold_table(&mut self, db: &Connection, table: usize, entries: &[Entry], txns: &BTreeMap<u64, Txn>) -> Result<(), StoreError> {
        let mut memo: HashMap<(Option<i64>, &Op, u64), Option<i64>> = HashMap::new();
        let id = self.tables[table].id;
        for group in entries.chunk_by(|a, b| a.key == b.key) {
            let (key, old) = (&group[0].key, group[0].record);
            let one = (group.len() == 1 && group[0].op != Op::Doubt).then(|| (old, &group[0].op, group[0].at));
            let new = match one.as_ref().and_then(|one| memo.get(one)) {
                Some(new) => *new,
                None => {
                    let before = match old {
                        Some(record) => self.clocks.record(db, record)?,
                        None => RowClock::default().into(),
                    };
                    let after = self.replay(db, table, &before, group, txns)?;
                    // Nobody has heard of a row that came and went; of one that was there before it was tracked, another copy may.
                    let unknown = old.is_none() && !after.alive() && group[0].at != 0;
                    let new = if unknown || after == *before { None } else { Some(self.clocks.intern(db, id, &after)?) };
                    if let Some(one) = one {
                        memo.insert(one, new);
                    }
                    new
                }
            };
            let Some(new) = new else { continue };
            db.prepare_cached(&self.tables[table].sql.clock_put)?.execute(params_from_iter(key.iter().chain([&Value::Integer(new)])))?;
            self.left.extend(old.map(|record| (table, record)));
            if self.tables[table].kept {
                let life = self.clocks.record(db, new)?.life;
                let same_life = old.is_none_or(|old| self.clocks.record(db, old).is_ok_and(|clock| clock.life == life));
                self.unpark(db, table, key, life % 2 == 1, same_life)?;
            }
            self.tell(|core| core.local_change(table, key, group));
        }
        Ok(())
    }

    /// The clock of a row after the entries of its journal.
    fn replay(
        &mut self,
        db: &Connection,
        table: usize,
        before: &RowClock,
        group: &[Entry],
        txns: &BTreeMap<u64, Txn>,
    ) -> Result<RowClock, StoreError> {
        let all = self.tables[table].here.clone();
        let mut clock = before.clone();
        let mut last = 0;
        for entry in group {
            // A clock set back between two writes must not turn their order around.
            let txn = txns[&entry.at].max(last);
            last = txn;
            let gone = entry.op == Op::Doubt && !exists(db, &self.tables[table], &entry.key)?;
            let shape = match &entry.op {
                Op::Insert if clock.alive() => Shape { life: clock.life, born: false, columns: all.clone() },
                Op::Insert => Shape { life: clock.life + 1, born: true, columns: all.clone() },
                Op::Update(columns) if clock.alive() => Shape { life: clock.life, born: false, columns: columns.clone() },
                // An update of a row that was never inserted: its insert was before the table was tracked.
                Op::Update(_) if exists(db, &self.tables[table], &entry.key)? => {
                    Shape { life: clock.life + 1, born: true, columns: all.clone() }
                }
                Op::Delete if clock.alive() => Shape { life: clock.life + 1, born: true, columns: Columns::default() },
                Op::Doubt if gone && clock.alive() => Shape { life: clock.life + 1, born: true, columns: Columns::default() },
                Op::Update(_) | Op::Delete | Op::Doubt => continue,
            };
            for txn in clock.txns() {
                self.clocks.txn(db, txn)?;
            }
            let join = clock.join(txn, &shape, |a, b| self.clocks.rank(a) > self.clocks.rank(b));
            for loser in join.beaten {
                self.clocks.beat(db, loser, txn)?;
            }
            clock = join.clock;
        }
        Ok(clock)
    }

    /// A row was written here: what was parked under its key is overwritten, cells kept of a deleted one go, and what it gave up may let others in.
    fn unpark(&mut self, db: &Connection, table: usize, key: &[Value], alive: bool, same_life: bool) -> Result<(), StoreError> {
        let (id, key_bytes) = (self.tables[table].id, encode_key(key));
        if let Some((reason, _)) = parked::find(db, id, &key_bytes)?
            && (!alive || if reason.is_some() { exists(db, &self.tables[table], key)? } else { !same_life })
        {
            parked::drop(db, id, &key_bytes)?;
            self.tables[table].parked -= u64::from(reason.is_some());
        }
        if self.tables[table].parked > 0 {
            self.dirty.insert(table);
        }
        Ok(())
    }

    fn local_change(&self, table: usize, key: &[Value], group: &[Entry]) -> Change {
        let table = &self.tables[table];
        let mut columns = Columns::default();
        for entry in group {
            match &entry.op {
                Op::Insert => columns.add(&table.here),
                Op::Update(changed) => columns.add(changed),
                Op::Delete | Op::Doubt => {}
            }
        }
        let last = &group[group.len() - 1];
        let deleted = matches!(last.op, Op::Delete | Op::Doubt);
        Change {
            table: table.name.clone(),
            key: key.to_vec(),
            columns: columns.iter().filter(|_| !deleted).map(|i| table.columns[i].clone()).collect(),
            author: self.clocks.own().peer,
            time: Timestamp(last.at),
            deleted,
        }
    }

    /// Forgets the records that no row has any more.
    pub(crate) fn sweep(&mut self, db: &Connection) -> Result<(), StoreError> {
        for (table, record) in core::mem::take(&mut self.left) {
            if !db.prepare_cached(&self.tables[table].sql.used)?.exists([record])? {
                self.clocks.forget(db, self.tables[table].id, record)?;
            }
        }
        Ok(())
    }
}

/// The last of the first [`FOLD`] entries of a journal, and how many there are up to it.
fn pending_in(db: &Connection, table: i64) -> Result<(Option<i64>, u32), StoreError> {
    let sql = format!("SELECT max(id), count(*) FROM (SELECT id FROM _peers_journal_{table} ORDER BY id LIMIT {FOLD})");
    Ok(db.prepare_cached(&sql)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// The row is in the user's table.
pub(crate) fn exists(db: &Connection, table: &Table, key: &[Value]) -> Result<bool, StoreError> {
    Ok(db.prepare_cached(&table.sql.exists)?.exists(params_from_iter(key))?)
}

/// The journal of a table up to entry `last`, in order of key and of writing.
fn journal(db: &Connection, table: &Table, last: i64, wall: Timestamp) -> Result<Vec<Entry>, StoreError> {
    let mut rows = db.prepare_cached(&table.sql.journal)?;
    let mut rows = rows.query([last])?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let op = match Value::from(row.get_ref(0)?) {
            Value::Integer(INSERTED) => Op::Insert,
            Value::Integer(DELETED) => Op::Delete,
            Value::Integer(DOUBTED) => Op::Doubt,
            Value::Integer(bits) => Op::Update(Columns::from_bits(bits.cast_unsigned())),
            Value::Text(digits) => Op::Update(digits.iter().enumerate().filter(|(_, digit)| **digit == b'1').map(|(i, _)| i).collect()),
            _ => Op::Update(table.here.clone()),
        };
        // Only columns that the table has: the journal is in a file that anyone may have written to.
        let op = match op {
            Op::Update(columns) => Op::Update(columns.common(&table.here)),
            other => other,
        };
        if matches!(&op, Op::Update(columns) if columns.is_empty()) {
            continue;
        }
        // The writer's clock, unless it is ahead of the one we are given.
        let at = row.get::<_, Option<i64>>(1)?.map_or(wall.0, |at| at.max(0).cast_unsigned().min(wall.0));
        let key = (0..table.keys.len()).map(|i| Ok(Value::from(row.get_ref(3 + i)?).into_key())).collect::<Result<_, StoreError>>()?;
        entries.push(Entry { op, at, record: row.get(2)?, key });
    }
    Ok(entries)
}

/// Entries of one table's journal that are folded in one go.
pub(crate) const FOLD: u32 = 5000;
/// Changes kept for telling.
pub(crate) const MAX_TOLD: usize = 4096;
