//! Which rows are in the user's tables and which are parked, as a function of the changes alone.
//!
//! Rows are taken in order of (clock of their insert, origin, key). A row is in its table unless the table refuses it by itself, or a row before it
//! holds one of its UNIQUE values.

use std::collections::BTreeMap;

use rusqlite::{Connection, ErrorCode, ffi, params_from_iter};

use crate::clock::{Hlc, Origin};
use crate::engine::{Change, Core};
use crate::parked::{self, Cells, Reason};
use crate::schema::quote;
use crate::store::StoreError;
use crate::value::{Value, encode_key, take_key};

/// The order in which rows are let into a table.
type Precedence = (Hlc, Origin, Vec<u8>);

impl Core {
    /// Looks again at the parked rows of every table where something changed.
    pub(crate) fn place_dirty(&mut self, db: &Connection) -> Result<(), StoreError> {
        for table in core::mem::take(&mut self.dirty) {
            if self.tables[table].attached {
                self.place(db, table)?;
            }
        }
        Ok(())
    }

    fn place(&mut self, db: &Connection, table: usize) -> Result<(), StoreError> {
        let id = self.tables[table].id;
        self.tables[table].kept = true;
        let mut queue: BTreeMap<Precedence, (Vec<Value>, Option<Reason>, Cells)> = BTreeMap::new();
        let mut parked = 0;
        for (key_bytes, reason, cells) in parked::all(db, id)? {
            let key = take_key(&mut peers_wire::Reader::new(&key_bytes), self.tables[table].keys.len())?;
            match self.precedence(db, table, &key)? {
                Some(precedence) => {
                    queue.insert(precedence, (key, Some(reason), cells));
                }
                None => {
                    parked += 1;
                    parked::keep(db, id, &key_bytes, Some(Reason::Incomplete), &cells)?;
                }
            }
        }
        while let Some((precedence, (key, was, cells))) = queue.pop_first() {
            let outcome = loop {
                match self.insert_or_holder(db, table, &key, &cells)? {
                    Ok(None) => break None,
                    Ok(Some(holder)) => match self.precedence(db, table, &holder)? {
                        Some(other) if other > precedence => {
                            let evicted = self.take_out(db, table, &holder)?;
                            queue.insert(other, (holder, None, evicted));
                        }
                        _ => break Some(Reason::Unique),
                    },
                    Err(reason) => break Some(reason),
                }
            };
            match outcome {
                None => {
                    let here = &self.tables[table].here;
                    let absent = cells.into_iter().filter(|(column, _)| !here.contains(*column)).collect();
                    parked::keep(db, id, &precedence.2, None, &absent)?;
                }
                Some(reason) => {
                    parked += 1;
                    parked::keep(db, id, &precedence.2, Some(reason), &cells)?;
                }
            }
            if was.is_some() != outcome.is_some() {
                self.tell(|core| {
                    let table = &core.tables[table];
                    let columns = table.here.iter().filter(|_| outcome.is_none()).map(|i| table.columns[i].clone()).collect();
                    let (name, time) = (table.name.clone(), precedence.0.time());
                    Change { table: name, key, columns, author: precedence.1.peer, time, deleted: outcome.is_some() }
                });
            }
        }
        self.tables[table].parked = parked;
        Ok(())
    }

    /// Takes every row out of a table, to be let in again under other rules.
    pub(crate) fn park_all(&mut self, db: &Connection, table: usize) -> Result<(), StoreError> {
        let t = &self.tables[table];
        let keys = t.keys.iter().map(|key| quote(key)).collect::<Vec<_>>().join(", ");
        let mut rows = db.prepare(&format!("SELECT {keys} FROM {}", quote(&t.name)))?;
        let rows = rows
            .query_map([], |row| (0..t.keys.len()).map(|i| Ok(Value::from(row.get_ref(i)?).into_key())).collect::<Result<Vec<_>, _>>())?;
        for key in rows.collect::<Result<Vec<_>, _>>()? {
            self.park(db, table, &key)?;
        }
        Ok(())
    }

    /// Takes a row out of its table, to be let in again if it can be.
    pub(crate) fn park(&mut self, db: &Connection, table: usize, key: &[Value]) -> Result<(), StoreError> {
        let cells = self.take_out(db, table, key)?;
        parked::keep(db, self.tables[table].id, &encode_key(key), Some(Reason::Refused), &cells)?;
        (self.tables[table].kept, self.tables[table].parked) = (true, self.tables[table].parked + 1);
        self.dirty.insert(table);
        Ok(())
    }

    /// When a living row was inserted; `None` while that is not known.
    fn precedence(&mut self, db: &Connection, table: usize, key: &[Value]) -> Result<Option<Precedence>, StoreError> {
        let Some(record) = self.record_of(db, table, key)? else { return Ok(None) };
        let clock = self.clocks.record(db, record)?;
        if clock.born == 0 || !clock.alive() {
            return Ok(None);
        }
        self.clocks.txn(db, clock.born)?;
        let (hlc, origin) = self.clocks.rank(clock.born);
        Ok(Some((hlc, origin, encode_key(key))))
    }

    /// Takes a row out of its table, with all its cells.
    pub(crate) fn take_out(&mut self, db: &Connection, table: usize, key: &[Value]) -> Result<Cells, StoreError> {
        let cells = self.cells_of(db, table, key)?;
        db.prepare_cached(&self.tables[table].sql.delete)?.execute(params_from_iter(key))?;
        Ok(cells)
    }

    /// The cells of a row, wherever they are.
    pub(crate) fn cells_of(&self, db: &Connection, table: usize, key: &[Value]) -> Result<Cells, StoreError> {
        let table = &self.tables[table];
        let mut cells = Cells::new();
        if table.attached {
            let mut row = db.prepare_cached(&table.sql.select)?;
            let mut row = row.query(params_from_iter(key))?;
            if let Some(row) = row.next()? {
                for (i, column) in table.sql.order.iter().enumerate() {
                    cells.insert(*column, row.get_ref(i)?.into());
                }
            }
        }
        // After those of the table: a column that it got since has a default in it, what was kept for it is its value.
        if table.kept {
            cells.extend(parked::find(db, table.id, &encode_key(key))?.map(|(_, cells)| cells).unwrap_or_default());
        }
        Ok(cells)
    }

    /// Inserts a row; gives the key of a row that holds one of its UNIQUE values, or why the table refuses it by itself.
    fn insert_or_holder(
        &self,
        db: &Connection,
        table: usize,
        key: &[Value],
        cells: &Cells,
    ) -> Result<Result<Option<Vec<Value>>, Reason>, StoreError> {
        let table = &self.tables[table];
        let here: Vec<_> = cells.iter().filter(|(column, _)| table.here.contains(**column)).collect();
        let keys = || table.keys.iter().map(|key| quote(key));
        let names: Vec<_> = keys().chain(here.iter().map(|(column, _)| quote(&table.columns[**column]))).collect();
        let marks: Vec<_> = (1..=names.len()).map(|i| format!("?{i}")).collect();
        let first = quote(&table.keys[0]);
        // The upsert changes nothing: it makes SQLite name a row in the way, by any UNIQUE index there may be.
        let sql = format!(
            "INSERT OR ABORT INTO {} ({}) VALUES ({}) ON CONFLICT DO UPDATE SET {first} = {first} RETURNING {}",
            quote(&table.name),
            names.join(", "),
            marks.join(", "),
            keys().collect::<Vec<_>>().join(", ")
        );
        let mut insert = db.prepare_cached(&sql)?;
        let found = insert.query_row(params_from_iter(key.iter().chain(here.iter().map(|(_, value)| *value))), |row| {
            (0..key.len()).map(|i| Ok(Value::from(row.get_ref(i)?).into_key())).collect::<rusqlite::Result<Vec<_>>>()
        });
        match found {
            Ok(found) if found == key => Ok(Ok(None)),
            Ok(holder) => Ok(Ok(Some(holder))),
            Err(error) => reason(error).map(Err),
        }
    }
}

/// The reason for which a table refuses a row, or the error if it is of another kind.
pub(crate) fn reason(error: rusqlite::Error) -> Result<Reason, StoreError> {
    match &error {
        rusqlite::Error::SqliteFailure(code, _) if matches!(code.code, ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => {
            Ok(match code.extended_code {
                ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY | ffi::SQLITE_CONSTRAINT_ROWID => Reason::Unique,
                ffi::SQLITE_CONSTRAINT_NOTNULL => Reason::NotNull,
                ffi::SQLITE_CONSTRAINT_CHECK => Reason::Check,
                ffi::SQLITE_CONSTRAINT_DATATYPE | ffi::SQLITE_MISMATCH => Reason::Type,
                _ => Reason::Refused,
            })
        }
        _ => Err(error.into()),
    }
}
