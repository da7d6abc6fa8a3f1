//! Beginning and ending to track, and keeping up with schema changes that others make.

use peers_wire::Timestamp;
use rusqlite::{Connection, params};

use crate::clocks::Beaten;
use crate::engine::Core;
use crate::replica::Replica;
use crate::schema::{DELETED, INSERTED, NOW, SCHEMA, Table, TrackError, describe, is_reserved, key_list, quote};
use crate::store::StoreError;

impl Core {
    /// Registers the table in which the schema travels.
    pub(crate) fn know_schema_table(&mut self, db: &Connection) -> Result<(), StoreError> {
        if self.tables.iter().all(|table| table.name != SCHEMA) {
            let mut table = Table::register(db, SCHEMA, &["name".to_owned()])?;
            match describe(db, SCHEMA) {
                Ok(found) => table.attach(db, &found)?,
                Err(TrackError::Store(error)) => return Err(error),
                Err(_) => {}
            }
            self.tables.push(table);
        }
        Ok(())
    }

    pub(crate) fn track(&mut self, db: &Connection, name: &str) -> Result<(), TrackError> {
        if is_reserved(name) {
            return Err(TrackError::NotATable(name.to_owned()));
        }
        let found = describe(db, name)?;
        let name: String =
            db.query_row("SELECT name FROM sqlite_master WHERE type = 'table' AND name = ?1 COLLATE NOCASE", [name], |row| row.get(0))?;
        if self.table_named(&name).is_some() {
            return Ok(());
        }
        let null = found.keys.iter().map(|key| format!("{} IS NULL", quote(key))).collect::<Vec<_>>().join(" OR ");
        let rows: i64 = db.query_row(&format!("SELECT count(*) FROM {} WHERE {null}", quote(&name)), [], |row| row.get(0))?;
        if rows > 0 {
            return Err(TrackError::NullKey { table: name, rows: rows.cast_unsigned() });
        }
        let table = match self.tables.iter().position(|table| table.name == name && table.keys == found.keys) {
            Some(table) => table,
            None => {
                self.tables.push(Table::register(db, &name, &found.keys)?);
                self.tables.len() - 1
            }
        };
        self.attach(db, table, &found)?;
        self.journal_schema(db, &name)?;
        Ok(())
    }

    pub(crate) fn untrack(&mut self, db: &Connection, name: &str) -> Result<(), TrackError> {
        let table = self.table_named(name).ok_or_else(|| TrackError::NotTracked(name.to_owned()))?;
        self.forget_table(db, table)?;
        let own = self.clocks.own();
        Ok(self.clocks.begin_history(db, own.peer, own.incarnation + 1)?)
    }

    /// Ends tracking a table. What is known of its rows cannot be given on any more, which its transactions say from now on.
    fn forget_table(&mut self, db: &Connection, table: usize) -> Result<(), StoreError> {
        self.tables[table].detach(db)?;
        let id = self.tables[table].id;
        let used = "SELECT DISTINCT u.txn FROM _peers_use u JOIN _peers_record r ON r.id = u.record WHERE r.tbl = ?1";
        let txns = db.prepare(used)?.query_map([id], |row| row.get::<_, i64>(0))?.collect::<Result<Vec<_>, _>>()?;
        for txn in txns {
            self.clocks.mark(db, txn.cast_unsigned(), Beaten::Withheld)?;
        }
        self.clocks.save(db)?;
        db.execute("DELETE FROM _peers_use WHERE record IN (SELECT id FROM _peers_record WHERE tbl = ?1)", [id])?;
        for table in ["_peers_record", "_peers_column", "_peers_parked"] {
            db.execute(&format!("DELETE FROM {table} WHERE tbl = ?1"), [id])?;
        }
        db.execute("DELETE FROM _peers_table WHERE id = ?1", [id])?;
        db.execute_batch(&format!("DROP TABLE IF EXISTS _peers_journal_{id}; DROP TABLE _peers_clock_{id};"))?;
        *self = Self { told: core::mem::take(&mut self.told), untold: self.untold, ..Self::load(db)? };
        Ok(())
    }

    /// Writes the statements that make a table and its indexes where they travel, if they changed.
    fn journal_schema(&self, db: &Connection, name: &str) -> Result<(), StoreError> {
        let Some(schema) = self.tables.iter().find(|table| table.name == SCHEMA) else { return Ok(()) };
        let statements =
            "SELECT name, sql FROM sqlite_master m WHERE tbl_name = ?1 COLLATE NOCASE AND type IN ('table', 'index') AND sql IS NOT NULL
            AND NOT EXISTS (SELECT 1 FROM _peers_schema s WHERE s.name = m.name AND s.sql = m.sql)";
        let mut statements = db.prepare(statements)?;
        let mut rows = statements.query([name])?;
        while let Some(row) = rows.next()? {
            let (name, sql): (String, String) = (row.get(0)?, row.get(1)?);
            db.execute("INSERT OR REPLACE INTO _peers_schema VALUES (?1, ?2)", params![name, sql])?;
            db.execute(&format!("INSERT INTO _peers_journal_{} (k0, op, at) VALUES (?1, {INSERTED}, {NOW})", schema.id), [name])?;
        }
        Ok(())
    }

    /// Something is in a journal.
    pub(crate) fn pending(&self, db: &Connection) -> Result<bool, StoreError> {
        for table in self.tables.iter().filter(|table| table.attached) {
            if db.prepare_cached(&format!("SELECT 1 FROM _peers_journal_{} LIMIT 1", table.id))?.exists([])? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks at every tracked table after the schema changed: dropped, rebuilt, or with other columns.
    fn look_again(&mut self, db: &Connection, wall: Timestamp) -> Result<(), StoreError> {
        let attached: Vec<_> = self.tables.iter().filter(|table| table.attached && table.name != SCHEMA).map(|table| table.id).collect();
        for id in attached {
            let Some(table) = self.tables.iter().position(|table| table.id == id) else { continue };
            let name = self.tables[table].name.clone();
            let found = match describe(db, &name) {
                Ok(found) if found.keys == self.tables[table].keys => found,
                Err(TrackError::Store(error)) => return Err(error),
                // The table is gone, or its rows are told apart in another way.
                _ => {
                    self.forget_table(db, table)?;
                    let own = self.clocks.own();
                    self.clocks.begin_history(db, own.peer, own.incarnation + 1)?;
                    continue;
                }
            };
            let first = self.tables[table].columns.len();
            for (column, _) in &found.columns {
                self.tables[table].column(db, column)?;
            }
            let columns = self.tables[table].columns.len();
            if columns > first {
                // The old triggers did not see whether the new columns changed.
                let bits = (first..columns).filter(|i| *i < 62).fold(0i64, |bits, i| bits | 1 << i);
                let journal = format!("_peers_journal_{id}");
                if columns <= 62 {
                    db.execute(&format!("UPDATE {journal} SET op = op | ?1 WHERE op >= 0"), [bits])?;
                } else {
                    db.execute(&format!("UPDATE {journal} SET op = NULL WHERE op >= 0 OR typeof(op) = 'text'"), [])?;
                }
            }
            if !self.tables[table].triggers_hold(db, &found)? {
                let rebuilt = !db
                    .prepare("SELECT 1 FROM sqlite_master WHERE type = 'trigger' AND name = ?1")?
                    .exists([format!("_peers_insert_{id}")])?;
                self.attach(db, table, &found)?;
                if rebuilt {
                    self.journal_missing(db, table)?;
                }
                self.settle(db, table)?;
            }
            self.journal_schema(db, &name)?;
        }
        // Only with the journal folded it is known which rows there are.
        while self.pending(db)? && !self.dirty.is_empty() {
            self.fold(db, wall)?;
        }
        self.place_dirty(db)
    }

    /// Puts cells that were kept for columns that the table now has into it.
    fn settle(&mut self, db: &Connection, table: usize) -> Result<(), StoreError> {
        let kept = "SELECT key FROM _peers_parked WHERE tbl = ?1 AND reason = 0";
        let keys = db.prepare(kept)?.query_map([self.tables[table].id], |row| row.get::<_, Vec<u8>>(0))?.collect::<Result<Vec<_>, _>>()?;
        for key in keys {
            let key = crate::value::take_key(&mut peers_wire::Reader::new(&key), self.tables[table].keys.len())?;
            self.park(db, table, &key)?;
        }
        self.dirty.insert(table);
        Ok(())
    }

    /// Journals rows as deleted that live by their clocks, but are neither in the table nor parked.
    fn journal_missing(&mut self, db: &Connection, table: usize) -> Result<(), StoreError> {
        let t = &self.tables[table];
        let keys = t.keys.len();
        let sql = format!(
            "SELECT c.rec, {} FROM _peers_clock_{} c WHERE NOT EXISTS (SELECT 1 FROM {} t WHERE {})",
            key_list(keys, "c."),
            t.id,
            quote(&t.name),
            t.key_match("t.", |i| format!("c.k{i}"))
        );
        let insert = format!(
            "INSERT INTO _peers_journal_{} ({}, op, at) VALUES ({}, {DELETED}, {NOW})",
            t.id,
            key_list(keys, ""),
            (1..=keys).map(|i| format!("?{i}")).collect::<Vec<_>>().join(", ")
        );
        let mut statement = db.prepare(&sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let key = (0..keys).map(|i| Ok(row.get_ref(1 + i)?.into())).collect::<rusqlite::Result<Vec<crate::Value>>>()?;
            let parked = crate::parked::find(db, self.tables[table].id, &crate::value::encode_key(&key))?
                .is_some_and(|(reason, _)| reason.is_some());
            if self.clocks.record(db, row.get(0)?)?.alive() && !parked {
                db.prepare_cached(&insert)?.execute(rusqlite::params_from_iter(&key))?;
            }
        }
        Ok(())
    }
}

impl Replica {
    /// Notices what others did to the schema.
    pub(crate) fn check_schema(&mut self, wall: Timestamp) -> Result<(), StoreError> {
        let schema = |db: &Connection| db.prepare_cached("PRAGMA schema_version")?.query_row([], |row| row.get::<_, i64>(0));
        if self.checked != Some(schema(&self.db)?) {
            Self::in_transaction(&self.db, &mut self.core, |db, core| core.look_again(db, wall))?;
            self.checked = Some(schema(&self.db)?);
        }
        Ok(())
    }
}

/// Every ordinary table of the user's, by name.
pub(crate) fn ordinary_tables(db: &Connection) -> Result<Vec<String>, StoreError> {
    let mut tables = db.prepare("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' ORDER BY name")?;
    let names = tables.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(names.into_iter().filter(|name| !is_reserved(name)).collect())
}
