//! Merging a batch: each row's clock joins what the transaction says of it, and what wins is written to the user's table.

use std::sync::Arc;

use hashbrown::HashMap;
use peers_wire::{DecodeError, Timestamp};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params_from_iter};
use thiserror::Error;

use crate::changes::{Changes, Item, TableNames};
use crate::clock::Origin;
use crate::clocks::{Beaten, OriginId, TxnInfo};
use crate::columns::Columns;
use crate::engine::{Change, Core};
use crate::parked::{self, Reason};
use crate::place::reason;
use crate::progress::Range;
use crate::record::{Join, RowClock, Shape, Txn};
use crate::schema::{SCHEMA, Table, TrackError, describe, quote};
use crate::store::StoreError;
use crate::value::{Value, encode_key};
use crate::vet::{Made, vet};

/// Why a batch could not be applied. The replica is as before.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// SQLite could not.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The origin wrote two different transactions under one sequence number.
    #[error("{origin:?} wrote transaction {seq} twice, differently: its file was copied or restored without beginning a new history")]
    Equivocation {
        /// The origin.
        origin: Origin,
        /// The sequence number.
        seq: u64,
    },
    /// There are as many gaps in what was received as can be kept; what fills them must come first.
    #[error("too much is missing before these changes")]
    TooManyGaps,
    /// The replica knows as many origins as it can.
    #[error("the changes are of one origin more than a database can have")]
    TooManyOrigins,
}

impl From<rusqlite::Error> for ApplyError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

impl From<DecodeError> for ApplyError {
    fn from(error: DecodeError) -> Self {
        Self::Store(error.into())
    }
}

/// What joining a section's shape to rows of one record gives.
type Step = Arc<(Join, RowClock, Option<i64>)>;

/// Where the walk over a batch is.
struct At {
    origin: OriginId,
    beaten: Beaten,
    txn: Txn,
    /// The batch's tables here: which, and the numbers of the columns.
    tables: Vec<(usize, Vec<usize>)>,
    table: usize,
    shape: Shape,
    /// Columns in the order of a row's values.
    order: Vec<usize>,
    /// By record before: the step of the present section.
    steps: HashMap<Option<i64>, Step>,
    rows: u64,
}

impl Core {
    /// Applies a batch inside the caller's transaction, with the journal folded; gives the number of rows that changed.
    pub(crate) fn merge(&mut self, db: &Connection, wall: Timestamp, changes: &Changes) -> Result<u64, ApplyError> {
        let origin = self.clocks.know_origin(db, changes.origin())?.ok_or(ApplyError::TooManyOrigins)?;
        let mut tables = Vec::with_capacity(changes.tables().len());
        for names in changes.tables() {
            tables.push(self.find_table(db, wall, names)?);
        }
        if !self.ahead.has_room(self.clocks.version().get(&changes.origin()), changes.first()) {
            return Err(ApplyError::TooManyGaps);
        }
        let needs = changes.needs();
        let beaten = match needs.version.get(&changes.origin()) {
            _ if needs.is_empty() => Beaten::Whole,
            seq if needs.ahead.is_empty() && seq > 0 && needs.version.iter().count() == 1 => Beaten::ByOwn(seq),
            _ => Beaten::ByOthers,
        };
        let shape = Shape { life: 0, born: false, columns: Columns::default() };
        let mut at = At { origin, beaten, txn: 0, tables, table: 0, shape, order: Vec::new(), steps: HashMap::new(), rows: 0 };
        changes.walk(|item| match item {
            Item::Txn { seq, hlc, more } => {
                let info = TxnInfo { origin, seq, hlc, beaten: at.beaten, more };
                at.txn = self.remote_txn(db, changes.origin(), info)?;
                Ok(())
            }
            Item::Section { table, life, born, columns } => {
                at.order = columns.iter().map(|i| at.tables[table].1[i]).collect();
                at.table = at.tables[table].0;
                at.shape = Shape { life, born, columns: at.order.iter().copied().collect() };
                at.steps.clear();
                Ok(())
            }
            Item::Row { key, values } => self.merge_row(db, wall, &mut at, &key, values),
        })?;
        self.place_dirty(db)?;
        self.sweep(db)?;
        self.clocks.observe(changes.latest());
        let range =
            Range { origin: at.origin, first: changes.first().clone(), last: changes.last().clone(), needs: changes.needs().clone() };
        self.ahead.received(db, &mut self.clocks, range)?;
        self.clocks.save(db)?;
        Ok(at.rows)
    }

    fn remote_txn(&mut self, db: &Connection, origin: Origin, info: TxnInfo) -> Result<Txn, ApplyError> {
        let Some(txn) = self.clocks.find_txn(db, info.origin, info.seq)? else { return Ok(self.clocks.insert_txn(db, info)?) };
        if self.clocks.txn(db, txn)?.hlc != info.hlc {
            return Err(ApplyError::Equivocation { origin, seq: info.seq });
        }
        Ok(txn)
    }

    fn merge_row(
        &mut self,
        db: &Connection,
        wall: Timestamp,
        at: &mut At,
        key: &[Value],
        values: &[ValueRef<'_>],
    ) -> Result<(), ApplyError> {
        let table = at.table;
        let old = self.record_of(db, table, key)?;
        let step = match at.steps.get(&old) {
            Some(step) => step.clone(),
            None => {
                let step = Arc::new(self.step(db, at, old)?);
                at.steps.insert(old, step.clone());
                step
            }
        };
        let (join, before, new) = &*step;
        let Some(new) = new else { return Ok(()) };
        db.prepare_cached(&self.tables[table].sql.clock_put)?.execute(params_from_iter(key.iter().chain([&Value::Integer(*new)])))?;
        self.left.extend(old.map(|record| (table, record)));
        let cells: Vec<_> = at.order.iter().copied().zip(values.iter().copied()).filter(|(column, _)| join.won.contains(*column)).collect();
        self.write(db, table, key, before, &join.clock, &cells)?;
        at.rows += 1;
        let txn = at.txn;
        self.tell(|core| core.remote_change(table, key, join, txn));
        if self.tables[table].name == SCHEMA {
            self.build(db, wall, key, &cells)?;
        }
        Ok(())
    }

    /// What the transaction at hand does to rows whose clock is in record `old`.
    fn step(&mut self, db: &Connection, at: &At, old: Option<i64>) -> Result<(Join, RowClock, Option<i64>), StoreError> {
        let before = match old {
            Some(record) => (*self.clocks.record(db, record)?).clone(),
            None => RowClock::default(),
        };
        self.clocks.txn(db, at.txn)?;
        for txn in before.txns() {
            self.clocks.txn(db, txn)?;
        }
        let join = before.join(at.txn, &at.shape, |a, b| self.clocks.rank(a) > self.clocks.rank(b));
        for loser in &join.beaten {
            self.clocks.beat(db, *loser, at.txn)?;
        }
        for winner in &join.lost_to {
            self.clocks.beat(db, at.txn, *winner)?;
        }
        let new = if join.clock == before { None } else { Some(self.clocks.intern(db, self.tables[at.table].id, &join.clock)?) };
        Ok((join, before, new))
    }

    /// Brings a row to its new clock.
    fn write(
        &mut self,
        db: &Connection,
        table: usize,
        key: &[Value],
        before: &RowClock,
        after: &RowClock,
        cells: &[(usize, ValueRef<'_>)],
    ) -> Result<(), StoreError> {
        let t = &self.tables[table];
        if !after.alive() {
            if t.attached && before.alive() {
                db.prepare_cached(&t.sql.delete)?.execute(params_from_iter(key))?;
            }
            return self.unkeep(db, table, key);
        }
        let plain = t.attached && t.parked == 0 && after.born != 0 && cells.iter().all(|(column, _)| t.here.contains(*column));
        if !plain || (before.alive() && before.born == 0) {
            return self.set_aside(db, table, key, before, after, cells);
        }
        let same_life = before.life == after.life;
        if before.alive() && !same_life {
            self.unkeep(db, table, key)?;
            let t = &self.tables[table];
            db.prepare_cached(&t.sql.delete)?.execute(params_from_iter(key))?;
        }
        if same_life && cells.is_empty() {
            return Ok(());
        }
        let t = &self.tables[table];
        let sql = if same_life { update_sql(t, cells) } else { insert_sql(t, cells) };
        let mut statement = db.prepare_cached(&sql)?;
        for (i, (_, value)) in cells.iter().enumerate() {
            statement.raw_bind_parameter(i + 1, Borrowed(*value))?;
        }
        for (i, value) in key.iter().enumerate() {
            statement.raw_bind_parameter(cells.len() + i + 1, value)?;
        }
        match statement.raw_execute() {
            Ok(1) => Ok(()),
            // The row is gone although its clock says that it lives: what is known of it is parked until the rest is there again.
            Ok(_) => self.set_aside(db, table, key, before, after, cells),
            Err(error) => {
                reason(error)?;
                self.set_aside(db, table, key, before, after, cells)
            }
        }
    }

    /// Parks a row with its new cells, to be let in, if it can be, when the batch is through.
    fn set_aside(
        &mut self,
        db: &Connection,
        table: usize,
        key: &[Value],
        before: &RowClock,
        after: &RowClock,
        new: &[(usize, ValueRef<'_>)],
    ) -> Result<(), StoreError> {
        let (id, key_bytes) = (self.tables[table].id, encode_key(key));
        let parked = parked::find(db, id, &key_bytes)?.is_some_and(|(reason, _)| reason.is_some());
        let mut cells = if self.tables[table].attached { self.take_out(db, table, key)? } else { self.cells_of(db, table, key)? };
        if before.life != after.life {
            cells.clear();
        }
        cells.extend(new.iter().map(|(column, value)| (*column, Value::from(*value))));
        let reason = if !self.tables[table].attached {
            Reason::NoTable
        } else if after.born == 0 {
            Reason::Incomplete
        } else {
            Reason::Refused
        };
        parked::keep(db, id, &key_bytes, Some(reason), &cells)?;
        self.tables[table].parked += u64::from(!parked);
        self.tables[table].kept = true;
        self.dirty.insert(table);
        Ok(())
    }

    /// Keeps nothing of a row that was deleted.
    pub(crate) fn unkeep(&mut self, db: &Connection, table: usize, key: &[Value]) -> Result<(), StoreError> {
        if !self.tables[table].kept {
            return Ok(());
        }
        let (id, key_bytes) = (self.tables[table].id, encode_key(key));
        if let Some((reason, _)) = parked::find(db, id, &key_bytes)? {
            parked::drop(db, id, &key_bytes)?;
            self.tables[table].parked -= u64::from(reason.is_some());
        }
        if self.tables[table].parked > 0 {
            self.dirty.insert(table);
        }
        Ok(())
    }

    fn remote_change(&self, table: usize, key: &[Value], join: &Join, txn: Txn) -> Change {
        let (hlc, origin) = self.clocks.rank(txn);
        let table = &self.tables[table];
        Change {
            table: table.name.clone(),
            key: key.to_vec(),
            columns: join.won.iter().map(|i| table.columns[i].clone()).collect(),
            author: origin.peer,
            time: hlc.time(),
            deleted: !join.clock.alive(),
        }
    }

    /// The record of a row's clock.
    pub(crate) fn record_of(&self, db: &Connection, table: usize, key: &[Value]) -> Result<Option<i64>, StoreError> {
        Ok(db.prepare_cached(&self.tables[table].sql.clock_get)?.query_row(params_from_iter(key), |row| row.get(0)).optional()?)
    }

    /// The table a batch names, and its columns; one never heard of is registered, and tracked if it is there.
    fn find_table(&mut self, db: &Connection, wall: Timestamp, names: &TableNames) -> Result<(usize, Vec<usize>), StoreError> {
        let known = self.tables.iter().position(|table| table.name == names.name && table.keys == names.keys);
        let table = match known {
            Some(table) => table,
            None => {
                self.tables.push(Table::register(db, &names.name, &names.keys)?);
                let table = self.tables.len() - 1;
                self.attach_if_there(db, wall, table)?;
                table
            }
        };
        let columns = names.columns.iter().map(|name| self.tables[table].column(db, name)).collect::<Result<_, _>>()?;
        Ok((table, columns))
    }

    /// Tracks a registered table if the file has it with the same key.
    fn attach_if_there(&mut self, db: &Connection, wall: Timestamp, table: usize) -> Result<(), StoreError> {
        let name = self.tables[table].name.clone();
        match describe(db, &name) {
            Ok(found) if found.keys == self.tables[table].keys && self.table_named(&name).is_none() => {
                self.attach(db, table, &found)?;
                while self.fold(db, wall)? {}
                Ok(())
            }
            Err(TrackError::Store(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the table or index that a row of the schema table describes, if there is none of its name.
    fn build(&mut self, db: &Connection, wall: Timestamp, key: &[Value], cells: &[(usize, ValueRef<'_>)]) -> Result<(), StoreError> {
        let ([Value::Text(name)], Some((_, ValueRef::Text(sql)))) = (key, cells.first()) else { return Ok(()) };
        let (Ok(name), Ok(sql)) = (core::str::from_utf8(name), core::str::from_utf8(sql)) else { return Ok(()) };
        let there = "SELECT 1 FROM sqlite_master WHERE name = ?1 COLLATE NOCASE";
        if db.prepare_cached(there)?.exists([name])? {
            return Ok(());
        }
        // A statement that does not pass, or fails here, leaves the rows of its table parked.
        let Some(made) = vet(name, sql) else { return Ok(()) };
        if let Made::Index { table } = made {
            let Some(table) = self.table_named(&table) else { return Ok(()) };
            if db.execute_batch(sql).is_err() {
                // Rows that are there have equal values: which of them stay is decided as for rows that arrive.
                self.park_all(db, table)?;
                let _ = db.execute_batch(sql);
            }
        } else if db.execute_batch(sql).is_ok() {
            if let Ok(found) = describe(db, name)
                && !self.tables.iter().any(|table| table.name == name && table.keys == found.keys)
            {
                self.tables.push(Table::register(db, name, &found.keys)?);
            }
            let waiting: Vec<_> = (0..self.tables.len()).filter(|i| self.tables[*i].name == name && !self.tables[*i].attached).collect();
            for table in waiting {
                self.attach_if_there(db, wall, table)?;
                self.dirty.insert(table);
            }
        }
        Ok(())
    }

    /// Puts a table under tracking; rows it has that have no clock yet are journaled as of no time.
    pub(crate) fn attach(&mut self, db: &Connection, table: usize, found: &crate::schema::Description) -> Result<(), StoreError> {
        self.tables[table].attach(db, found)?;
        let t = &self.tables[table];
        let same = t.keys.iter().enumerate().map(|(i, key)| format!("c.k{i} = t.{}", quote(key))).collect::<Vec<_>>().join(" AND ");
        let keys = t.keys.iter().map(|key| format!("t.{}", quote(key))).collect::<Vec<_>>().join(", ");
        db.execute_batch(&format!(
            "INSERT INTO _peers_journal_{id} ({}, op, at) SELECT {keys}, {}, 0 FROM {} t
             WHERE NOT EXISTS (SELECT 1 FROM _peers_clock_{id} c WHERE {same}) ORDER BY {keys}",
            crate::schema::key_list(t.keys.len(), ""),
            crate::schema::INSERTED,
            quote(&t.name),
            id = t.id,
        ))?;
        Ok(())
    }
}

fn insert_sql(table: &Table, cells: &[(usize, ValueRef<'_>)]) -> String {
    let columns = cells.iter().map(|(column, _)| quote(&table.columns[*column]));
    let names: Vec<_> = columns.chain(table.keys.iter().map(|key| quote(key))).collect();
    let marks: Vec<_> = (1..=names.len()).map(|i| format!("?{i}")).collect();
    format!("INSERT OR ABORT INTO {} ({}) VALUES ({})", quote(&table.name), names.join(", "), marks.join(", "))
}

fn update_sql(table: &Table, cells: &[(usize, ValueRef<'_>)]) -> String {
    let sets: Vec<_> = (1..).zip(cells).map(|(i, (column, _))| format!("{} = ?{i}", quote(&table.columns[*column]))).collect();
    format!("UPDATE OR ABORT {} SET {} WHERE {}", quote(&table.name), sets.join(", "), table.key_condition(cells.len() + 1))
}

/// A value bound without a copy.
struct Borrowed<'a>(ValueRef<'a>);

impl rusqlite::ToSql for Borrowed<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(rusqlite::types::ToSqlOutput::Borrowed(self.0))
    }
}
