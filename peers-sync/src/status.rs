//! What a replica says of itself: status, recent changes, parked rows.

use peers_wire::Reader;

use crate::clock::{Origin, VersionVector};
use crate::engine::Change;
use crate::parked::{self, Reason};
use crate::replica::Replica;
use crate::schema::{SCHEMA, quote};
use crate::store::StoreError;
use crate::value::{Value, take_key};

/// The state of a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Under which origin it writes.
    pub origin: Origin,
    /// What it has seen, without a gap.
    pub version: VersionVector,
    /// The tables it knows.
    pub tables: Vec<TableStatus>,
    /// Batches that wait for their time.
    pub waiting: u64,
}

/// The state of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStatus {
    /// Its name.
    pub name: String,
    /// It is in the file; otherwise what was received of it is kept and passed on.
    pub present: bool,
    /// Rows in it.
    pub rows: u64,
    /// Rows that live but are not in it.
    pub parked: u64,
    /// Journal entries not yet taken in.
    pub pending: u64,
}

/// A row that lives but is not in its table.
#[derive(Debug, Clone, PartialEq)]
pub struct Parked {
    /// The table.
    pub table: String,
    /// The row's key.
    pub key: Vec<Value>,
    /// Why it is not in the table.
    pub reason: Reason,
    /// Its values by column.
    pub values: Vec<(String, Value)>,
}

impl Replica {
    /// The state of the replica; counts rows, so O(rows).
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn status(&self) -> Result<Status, StoreError> {
        let count = |sql: &str| self.db.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::cast_unsigned);
        let mut tables = Vec::new();
        for table in self.core.tables.iter().filter(|table| table.name != SCHEMA) {
            let (rows, pending) = if table.attached {
                let rows = count(&format!("SELECT count(*) FROM {}", quote(&table.name)))?;
                (rows, count(&format!("SELECT count(*) FROM _peers_journal_{}", table.id))?)
            } else {
                (0, 0)
            };
            tables.push(TableStatus { name: table.name.clone(), present: table.attached, rows, parked: table.parked, pending });
        }
        let waiting = count("SELECT count(*) FROM _peers_waiting")?;
        Ok(Status { origin: self.origin(), version: self.version(), tables, waiting })
    }

    /// The last changes that still stand, latest first: who wrote what when.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn log(&mut self, limit: usize) -> Result<Vec<Change>, StoreError> {
        let mut log = Vec::new();
        let mut txns = self.db.prepare_cached("SELECT id, hlc FROM _peers_txn ORDER BY (hlc < 0) DESC, hlc DESC, id DESC")?;
        let mut txns = txns.query([])?;
        while log.len() < limit {
            let Some(row) = txns.next()? else { break };
            let txn = row.get::<_, i64>(0)?.cast_unsigned();
            let (origin, time) = (self.core.clocks.txn(&self.db, txn)?.origin, self.core.clocks.txn(&self.db, txn)?.hlc.time());
            let author = self.core.clocks.origin(origin).peer;
            for i in 0..self.core.tables.len() {
                let table = &self.core.tables[i];
                if table.name == SCHEMA || log.len() >= limit {
                    continue;
                }
                let keys = table.keys.len();
                let rows = format!(
                    "SELECT rec, {} FROM _peers_clock_{} WHERE rec IN (SELECT record FROM _peers_use WHERE txn = ?1) LIMIT ?2",
                    crate::schema::key_list(keys, ""),
                    table.id
                );
                let mut rows = self.db.prepare_cached(&rows)?;
                let mut rows =
                    rows.query(rusqlite::params![row.get::<_, i64>(0)?, i64::try_from(limit - log.len()).unwrap_or(i64::MAX)])?;
                while let Some(row) = rows.next()? {
                    let shape = self.core.clocks.record(&self.db, row.get(0)?)?.shape_of(txn);
                    let key = (0..keys).map(|k| Ok(row.get_ref(1 + k)?.into())).collect::<rusqlite::Result<_>>()?;
                    let columns = shape.columns.iter().map(|c| self.core.tables[i].columns[c].clone()).collect();
                    let table = self.core.tables[i].name.clone();
                    log.push(Change { table, key, columns, author, time, deleted: shape.life % 2 == 0 });
                }
            }
        }
        Ok(log)
    }

    /// The rows that live but are not in their tables. One comes back when what keeps it out is gone: delete or change the row in its way, or
    /// write a row of its key.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn parked(&self) -> Result<Vec<Parked>, StoreError> {
        let mut found = Vec::new();
        for table in &self.core.tables {
            for (key, reason, cells) in parked::all(&self.db, table.id)? {
                let key = take_key(&mut Reader::new(&key), table.keys.len())?;
                let values = cells.into_iter().map(|(column, value)| (table.columns[column].clone(), value)).collect();
                found.push(Parked { table: table.name.clone(), key, reason, values });
            }
        }
        Ok(found)
    }
}
