//! Tracked tables: what SQLite says of a table, the triggers and bookkeeping tables that come with it, and the statements on it.

use std::fmt::Write as _;

use peers_wire::{Reader, Writer};
use rusqlite::{Connection, OptionalExtension, params};
use thiserror::Error;

use crate::columns::Columns;
use crate::store::StoreError;

/// Why a table cannot be tracked.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrackError {
    /// There is no table of this name.
    #[error("there is no table {0:?}")]
    NoSuchTable(String),
    /// The name belongs to SQLite, to this crate, or to a view or virtual table.
    #[error("{0:?} is not an ordinary table; only ordinary tables can be tracked")]
    NotATable(String),
    /// The table has no primary key, so a row of it is not the same row on another device.
    #[error(
        "the table {0:?} has no primary key, so its rows cannot be told apart on another device; give it one, for example \
         `CREATE TABLE new (id BLOB PRIMARY KEY NOT NULL DEFAULT (randomblob(16)), ...)`, copy the rows over and rename"
    )]
    NoPrimaryKey(String),
    /// The table holds rows whose key is NULL, which SQLite allows by an old mistake.
    #[error("{rows} rows of the table {table:?} have NULL in their primary key; give them a key or delete them")]
    NullKey {
        /// The table.
        table: String,
        /// Rows with a NULL in the key.
        rows: u64,
    },
    /// The table is not tracked.
    #[error("the table {0:?} is not tracked")]
    NotTracked(String),
    /// SQLite could not.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<rusqlite::Error> for TrackError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error.into())
    }
}

/// What SQLite says of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) keys: Vec<String>,
    /// The key is one column of type INTEGER: it may be a name of the rowid, and change under other names of it.
    integer_key: bool,
    /// Columns beside the key that are stored and not generated, with whether they take any type.
    pub(crate) columns: Vec<(String, bool)>,
    /// The plain columns of each UNIQUE index beside the primary key.
    unique: Vec<Vec<String>>,
}

/// Asks SQLite for a table.
pub(crate) fn describe(db: &Connection, name: &str) -> Result<Description, TrackError> {
    let kind: Option<String> = db
        .prepare_cached("SELECT type FROM pragma_table_list WHERE schema = 'main' AND name = ?1 COLLATE NOCASE")?
        .query_row([name], |row| row.get(0))
        .optional()?;
    match kind.as_deref() {
        None => return Err(TrackError::NoSuchTable(name.to_owned())),
        Some("table") if !is_reserved(name) || name == SCHEMA => {}
        Some(_) => return Err(TrackError::NotATable(name.to_owned())),
    }
    let (mut keys, mut columns) = (Vec::new(), Vec::new());
    let mut info = db.prepare_cached("SELECT name, upper(type), pk FROM pragma_table_xinfo(?1) WHERE hidden = 0")?;
    let mut rows = info.query([name])?;
    while let Some(row) = rows.next()? {
        let (column, kind, pk): (String, String, u32) = (row.get(0)?, row.get(1)?, row.get(2)?);
        if pk > 0 {
            keys.push((pk, column, kind))
        } else {
            columns.push((column, kind.is_empty() || kind.contains("BLOB") || kind == "ANY"))
        }
    }
    if keys.is_empty() {
        return Err(TrackError::NoPrimaryKey(name.to_owned()));
    }
    keys.sort_unstable();
    let integer_key = keys.len() == 1 && keys[0].2 == "INTEGER";
    let mut unique = Vec::new();
    let mut indexes = db.prepare_cached("SELECT name FROM pragma_index_list(?1) WHERE \"unique\" AND origin <> 'pk'")?;
    for index in indexes.query_map([name], |row| row.get::<_, String>(0))? {
        let mut info = db.prepare_cached("SELECT name FROM pragma_index_info(?1) WHERE name IS NOT NULL")?;
        let plain = info.query_map([index?], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        if !plain.is_empty() {
            unique.push(plain);
        }
    }
    unique.sort_unstable();
    Ok(Description { keys: keys.into_iter().map(|(_, name, _)| name).collect(), integer_key, columns, unique })
}

/// A table known to the bookkeeping.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) id: i64,
    pub(crate) name: String,
    pub(crate) keys: Vec<String>,
    /// Columns by number: all that were ever heard of.
    pub(crate) columns: Vec<String>,
    /// Numbers of the columns that the user's table has.
    pub(crate) here: Columns,
    /// The user's table exists and its triggers are in place; otherwise its rows are all parked.
    pub(crate) attached: bool,
    /// Numbers of the key columns that compare by another collation than byte by byte.
    loose_keys: Columns,
    /// Rows that are parked; while there are any, merges look at them.
    pub(crate) parked: u64,
    /// Something may be kept of its rows: parked ones, or cells of columns it does not have.
    pub(crate) kept: bool,
    pub(crate) sql: Statements,
}

/// The statements used on every row of a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Statements {
    pub(crate) clock_get: String,
    pub(crate) clock_put: String,
    pub(crate) used: String,
    pub(crate) delete: String,
    pub(crate) exists: String,
    pub(crate) select: String,
    pub(crate) journal: String,
    /// Column numbers in the order `select` gives them.
    pub(crate) order: Vec<usize>,
}

impl Table {
    /// Reads all tables.
    pub(crate) fn load_all(db: &Connection) -> Result<Vec<Self>, StoreError> {
        let mut rows = db.prepare("SELECT id, name, keys, attached FROM _peers_table ORDER BY id")?;
        let mut rows = rows.query([])?;
        let mut tables = Vec::new();
        while let Some(row) = rows.next()? {
            let id: i64 = row.get(0)?;
            let columns = db
                .prepare_cached("SELECT name FROM _peers_column WHERE tbl = ?1 ORDER BY num")?
                .query_map([id], |row| row.get(0))?
                .collect::<Result<_, _>>()?;
            let parked: i64 = db
                .prepare_cached("SELECT count(*) FROM _peers_parked WHERE tbl = ?1 AND reason <> 0")?
                .query_row([id], |row| row.get(0))?;
            let keys = decode_names(&row.get::<_, Vec<u8>>(2)?)?;
            let mut table = Self::new(id, row.get(1)?, keys, columns, row.get(3)?);
            table.parked = parked.cast_unsigned();
            table.kept = db.prepare_cached("SELECT 1 FROM _peers_parked WHERE tbl = ?1")?.exists([id])?;
            table.look(db)?;
            tables.push(table);
        }
        Ok(tables)
    }

    fn new(id: i64, name: String, keys: Vec<String>, columns: Vec<String>, attached: bool) -> Self {
        Self {
            id,
            name,
            keys,
            columns,
            here: Columns::default(),
            attached,
            loose_keys: Columns::default(),
            parked: 0,
            kept: false,
            sql: Statements::default(),
        }
    }

    /// Registers a table by name and key, with the bookkeeping table for its rows' clocks.
    pub(crate) fn register(db: &Connection, name: &str, keys: &[String]) -> Result<Self, StoreError> {
        db.execute("INSERT INTO _peers_table (name, keys, attached) VALUES (?1, ?2, 0)", params![name, encode_names(keys)])?;
        let id = db.last_insert_rowid();
        let list = key_list(keys.len(), "");
        db.execute_batch(&format!(
            "CREATE TABLE _peers_clock_{id} ({list}, rec INTEGER NOT NULL, PRIMARY KEY ({list})) WITHOUT ROWID;
             CREATE INDEX _peers_clock_{id}_rec ON _peers_clock_{id} (rec);"
        ))?;
        let mut table = Self::new(id, name.to_owned(), keys.to_vec(), Vec::new(), false);
        table.prepare();
        Ok(table)
    }

    /// The number of a column, a new one if it was never heard of.
    pub(crate) fn column(&mut self, db: &Connection, name: &str) -> Result<usize, StoreError> {
        if let Some(known) = self.columns.iter().position(|column| column.eq_ignore_ascii_case(name)) {
            return Ok(known);
        }
        let number = self.columns.len();
        db.execute("INSERT INTO _peers_column VALUES (?1, ?2, ?3)", params![self.id, number as u64 as i64, name])?;
        self.columns.push(name.to_owned());
        Ok(number)
    }

    /// Puts the triggers in place that capture every write to the user's table, with any client.
    pub(crate) fn attach(&mut self, db: &Connection, found: &Description) -> Result<(), StoreError> {
        let id = self.id;
        for (column, _) in &found.columns {
            self.column(db, column)?;
        }
        self.detach(db)?;
        db.execute_batch(&format!(
            "CREATE TABLE IF NOT EXISTS _peers_journal_{id} (id INTEGER PRIMARY KEY, {}, op, at);",
            key_list(self.keys.len(), "")
        ))?;
        if self.name != SCHEMA {
            db.execute_batch(&self.triggers(found))?;
        }
        db.execute("UPDATE _peers_table SET attached = 1 WHERE id = ?1", [id])?;
        self.attached = true;
        self.look(db)
    }

    /// Takes the triggers away.
    pub(crate) fn detach(&mut self, db: &Connection) -> Result<(), StoreError> {
        for trigger in TRIGGERS {
            db.execute_batch(&format!("DROP TRIGGER IF EXISTS _peers_{trigger}_{}", self.id))?;
        }
        db.execute("UPDATE _peers_table SET attached = 0 WHERE id = ?1", [self.id])?;
        self.attached = false;
        Ok(())
    }

    /// The triggers as they ought to be in `sqlite_master`, for comparison.
    pub(crate) fn triggers_hold(&self, db: &Connection, found: &Description) -> Result<bool, StoreError> {
        let wanted = if self.name == SCHEMA { String::new() } else { self.triggers(found) };
        let mut held =
            db.prepare("SELECT sql FROM sqlite_master WHERE type = 'trigger' AND name LIKE '\\_peers\\_%\\_' || ?1 ESCAPE '\\'")?;
        let held = held.query_map([self.id], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
        Ok(held.len() == wanted.matches("CREATE TRIGGER").count() && held.iter().all(|sql| wanted.contains(sql.as_str())))
    }

    /// Looks which of the known columns the user's table has, and prepares the statements.
    fn look(&mut self, db: &Connection) -> Result<(), StoreError> {
        let mut info = db.prepare_cached("SELECT name FROM pragma_table_xinfo(?1) WHERE hidden = 0 AND pk = 0")?;
        let names = info.query_map([&self.name], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        self.here = (0..self.columns.len()).filter(|i| names.iter().any(|name| name.eq_ignore_ascii_case(&self.columns[*i]))).collect();
        let mut collations = db.prepare_cached(
            "SELECT x.name FROM pragma_index_list(?1) l, pragma_index_xinfo(l.name) x WHERE l.origin = 'pk' AND x.key AND x.coll <> 'BINARY'",
        )?;
        let loose = collations.query_map([&self.name], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()?;
        self.loose_keys = (0..self.keys.len()).filter(|i| loose.contains(&self.keys[*i])).collect();
        self.prepare();
        Ok(())
    }

    fn prepare(&mut self) {
        let (id, keys) = (self.id, self.keys.len());
        let params: Vec<String> = (1..=keys).map(|i| format!("?{i}")).collect();
        let by_clock_key = (0..keys).map(|i| format!("k{i} = ?{}", i + 1)).collect::<Vec<_>>().join(" AND ");
        let by_key = self.key_condition(1);
        let name = quote(&self.name);
        let order: Vec<usize> = self.here.iter().collect();
        let columns = order.iter().map(|i| format!("t.{}", quote(&self.columns[*i]))).collect::<Vec<_>>();
        let join = (0..keys).map(|i| format!("c.k{i} = j.k{i}")).collect::<Vec<_>>().join(" AND ");
        self.sql = Statements {
            clock_get: format!("SELECT rec FROM _peers_clock_{id} WHERE {by_clock_key}"),
            clock_put: format!("INSERT OR REPLACE INTO _peers_clock_{id} VALUES ({}, ?{})", params.join(", "), keys + 1),
            used: format!("SELECT 1 FROM _peers_clock_{id} WHERE rec = ?1 LIMIT 1"),
            delete: format!("DELETE FROM {name} WHERE {by_key}"),
            exists: format!("SELECT 1 FROM {name} WHERE {by_key}"),
            select: format!("SELECT {} FROM {name} t WHERE {by_key}", if columns.is_empty() { "1".to_owned() } else { columns.join(", ") }),
            journal: format!(
                "SELECT j.op, j.at, c.rec, {} FROM _peers_journal_{id} j LEFT JOIN _peers_clock_{id} c ON {join} WHERE j.id <= ?1 ORDER BY {}, j.id",
                key_list(keys, "j."),
                key_list(keys, "j.")
            ),
            order,
        };
    }

    /// The row with the key in parameters from `?first` on.
    pub(crate) fn key_condition(&self, first: usize) -> String {
        self.key_match("", |i| format!("?{}", first + i))
    }

    /// The key columns behind `prefix` equal `other`, byte by byte.
    pub(crate) fn key_match(&self, prefix: &str, other: impl Fn(usize) -> String) -> String {
        let one = |(i, key): (usize, &String)| {
            let (key, other) = (quote(key), other(i));
            let exact = if self.loose_keys.contains(i) { format!(" AND {prefix}{key} = {other} COLLATE BINARY") } else { String::new() };
            format!("{prefix}{key} = {other}{exact}")
        };
        self.keys.iter().enumerate().map(one).collect::<Vec<_>>().join(" AND ")
    }

    fn triggers(&self, found: &Description) -> String {
        let (id, name) = (self.id, quote(&self.name));
        let row = |of: &str| self.keys.iter().map(|key| format!("{of}.{}", quote(key))).collect::<Vec<_>>().join(", ");
        let append = format!("INSERT INTO _peers_journal_{id} ({}, op, at)", key_list(self.keys.len(), ""));
        let keyed = |of: &str| self.keys.iter().map(|key| format!("{of}.{} IS NULL", quote(key))).collect::<Vec<_>>().join(" OR ");
        let refuse =
            format!("SELECT RAISE(ABORT, 'a row of a table that Peers tracks needs a key that is not NULL') WHERE {};", keyed("NEW"));
        let refuse = if found.integer_key { String::new() } else { refuse };
        let moved =
            self.keys.iter().map(|key| format!("OLD.{0} IS NOT NEW.{0} COLLATE BINARY", quote(key))).collect::<Vec<_>>().join(" OR ");
        let of_keys = self.keys.iter().map(|key| quote(key)).collect::<Vec<_>>().join(", ");
        let of_keys = if found.integer_key { String::new() } else { format!(" OF {of_keys}") };
        let mut sql = format!(
            "CREATE TRIGGER _peers_insert_{id} AFTER INSERT ON {name} BEGIN {refuse} {append} VALUES ({new}, {INSERTED}, {NOW}); END;\n\
             CREATE TRIGGER _peers_delete_{id} AFTER DELETE ON {name} BEGIN {append} VALUES ({old}, {DELETED}, {NOW}); END;\n\
             CREATE TRIGGER _peers_move_{id} AFTER UPDATE{of_keys} ON {name} WHEN {moved} BEGIN {refuse} {append} VALUES ({old}, {DELETED}, {NOW}); \
             {append} VALUES ({new}, {INSERTED}, {NOW}); END;\n",
            new = row("NEW"),
            old = row("OLD"),
        );
        if !found.columns.is_empty() {
            let _ = writeln!(
                sql,
                "CREATE TRIGGER _peers_update_{id} AFTER UPDATE ON {name} BEGIN {append} VALUES ({}, {}, {NOW}); END;",
                row("NEW"),
                self.mask(found)
            );
        }
        // OR REPLACE deletes the holders of UNIQUE values without firing a delete trigger: they are looked at when the journal is folded.
        let mut holders = String::new();
        for columns in &found.unique {
            let held = columns.iter().map(|column| format!("{0} = NEW.{0}", quote(column))).collect::<Vec<_>>().join(" AND ");
            // Not the row itself: doubted and then deleted, it would seem to have lived twice more.
            let same = self.keys.iter().map(|key| format!("{0} IS NEW.{0}", quote(key))).collect::<Vec<_>>().join(" AND ");
            let of = self.key_names();
            let _ = write!(holders, "{append} SELECT {of}, {DOUBTED}, {NOW} FROM {name} WHERE {held} AND NOT ({same}); ");
        }
        if !holders.is_empty() {
            let _ = writeln!(sql, "CREATE TRIGGER _peers_replace_{id} BEFORE INSERT ON {name} BEGIN {holders}END;");
            let mut columns: Vec<_> = found.unique.iter().flatten().map(|column| quote(column)).collect();
            columns.sort_unstable();
            columns.dedup();
            let _ =
                writeln!(sql, "CREATE TRIGGER _peers_displace_{id} BEFORE UPDATE OF {} ON {name} BEGIN {holders}END;", columns.join(", "));
        }
        sql
    }

    fn key_names(&self) -> String {
        self.keys.iter().map(|key| quote(key)).collect::<Vec<_>>().join(", ")
    }

    /// An SQL expression for the set of changed columns: an integer of bits, or, beyond 62 columns, text of digits.
    fn mask(&self, found: &Description) -> String {
        let changed = |number: usize| {
            let (name, loose) = found.columns.iter().find(|(name, _)| name.eq_ignore_ascii_case(&self.columns[number]))?;
            let name = quote(name);
            let by_type = if *loose { format!(" OR typeof(OLD.{name}) <> typeof(NEW.{name})") } else { String::new() };
            Some(format!("(OLD.{name} IS NOT NEW.{name} COLLATE BINARY{by_type})"))
        };
        if self.columns.len() <= 62 {
            let bits = (0..self.columns.len()).filter_map(|i| changed(i).map(|c| format!("({c} << {i})")));
            bits.collect::<Vec<_>>().join(" | ")
        } else {
            let digits = (0..self.columns.len()).map(|i| changed(i).unwrap_or_else(|| "0".to_owned()));
            digits.collect::<Vec<_>>().join(" || ")
        }
    }
}

/// A name as SQL writes it.
pub(crate) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The name belongs to SQLite or to this crate.
pub(crate) fn is_reserved(name: &str) -> bool {
    let starts = |prefix: &str| name.get(..prefix.len()).is_some_and(|head| head.eq_ignore_ascii_case(prefix));
    starts("sqlite_") || starts("_peers_")
}

/// `k0, k1, ..`, the columns of a key in bookkeeping tables: without type or collation, so that keys compare byte by byte.
pub(crate) fn key_list(keys: usize, prefix: &str) -> String {
    (0..keys).map(|i| format!("{prefix}k{i}")).collect::<Vec<_>>().join(", ")
}

fn encode_names(names: &[String]) -> Vec<u8> {
    let mut out = Writer::default();
    names.iter().for_each(|name| {
        out.string(name.as_bytes());
    });
    out.finish()
}

fn decode_names(bytes: &[u8]) -> Result<Vec<String>, StoreError> {
    let mut input = Reader::new(bytes);
    let mut names = Vec::new();
    while input.remaining() > 0 {
        names.push(input.text(usize::MAX, "name")?.to_owned());
    }
    Ok(names)
}

/// The table in which the statements that make the others travel.
pub(crate) const SCHEMA: &str = "_peers_schema";
/// Journal mark of an insert; a mask of columns is not negative.
pub(crate) const INSERTED: i64 = -1;
/// Journal mark of a delete.
pub(crate) const DELETED: i64 = -2;
/// Journal mark of a row that an OR REPLACE may have deleted.
pub(crate) const DOUBTED: i64 = -3;
/// Milliseconds since the epoch, in every SQLite that can run triggers (`unixepoch('subsec')` is NULL in older ones).
pub(crate) const NOW: &str = "CAST((julianday('now') - 2440587.5) * 86400000.0 AS INTEGER)";
const TRIGGERS: [&str; 6] = ["insert", "delete", "move", "update", "replace", "displace"];
