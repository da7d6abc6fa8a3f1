//! Compares two SQLite files, table by table, row by row, cell by cell, types included.

use core::fmt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use rusqlite::types::{Value, ValueRef};
use rusqlite::{Connection, OpenFlags};

/// What was compared and found equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Equal {
    pub(crate) tables: usize,
    pub(crate) rows: u64,
    pub(crate) cells: u64,
}

impl fmt::Display for Equal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tables, rows, cells } = *self;
        write!(
            f,
            "equal in {}, {} rows, {} cells",
            crate::text::plural(tables, "table", "tables"),
            crate::text::count(rows),
            crate::text::count(cells)
        )
    }
}

/// Compares `tables` of two files: columns, declared types, primary keys, and every cell with its type.
///
/// # Errors
/// The first difference, in words.
pub(crate) fn equal(left: &Path, right: &Path, tables: &[String]) -> Result<Equal> {
    let (left, right) = (read_only(left)?, read_only(right)?);
    // One snapshot each: nobody's write falls between two tables.
    left.execute_batch("BEGIN")?;
    right.execute_batch("BEGIN")?;
    let mut equal = Equal::default();
    for table in tables {
        let columns = columns(&left, table)?;
        ensure!(!columns.is_empty(), "{table} is missing on the left");
        let other = self::columns(&right, table)?;
        ensure!(!other.is_empty(), "{table} is missing on the right");
        ensure!(columns == other, "{table} has different columns: {columns:?} and {other:?}");
        let rows = rows(&left, &right, table, &columns)?;
        equal.tables += 1;
        equal.rows += rows;
        equal.cells += rows * columns.len() as u64;
    }
    Ok(equal)
}

/// Compares the rows of one table in the order of its key.
fn rows(left: &Connection, right: &Connection, table: &str, columns: &[Column]) -> Result<u64> {
    let names: Vec<_> = columns.iter().map(|column| quoted(&column.name)).collect();
    let mut key: Vec<_> = columns.iter().filter(|column| column.key > 0).collect();
    key.sort_by_key(|column| column.key);
    let order: Vec<_> = if key.is_empty() { names.clone() } else { key.iter().map(|column| quoted(&column.name)).collect() };
    let sql = format!("SELECT {} FROM {} ORDER BY {}", names.join(", "), quoted(table), order.join(", "));
    let (mut left, mut right) = (left.prepare(&sql)?, right.prepare(&sql)?);
    let (mut left, mut right) = (left.query([])?, right.query([])?);
    let mut count = 0;
    loop {
        let (a, b) = match (left.next()?, right.next()?) {
            (Some(a), Some(b)) => (a, b),
            (None, None) => return Ok(count),
            (Some(a), None) => bail!("{table}: the row {} is missing on the right", shown_key(a, columns)?),
            (None, Some(b)) => bail!("{table}: the row {} is missing on the left", shown_key(b, columns)?),
        };
        for (index, column) in columns.iter().enumerate() {
            let (x, y) = (a.get_ref(index)?, b.get_ref(index)?);
            if !same(x, y) {
                bail!("{table}, row {}, {}: {} and {}", shown_key(a, columns)?, column.name, shown(x), shown(y));
            }
        }
        count += 1;
    }
}

/// Equal in type and in every bit.
fn same(a: ValueRef<'_>, b: ValueRef<'_>) -> bool {
    match (a, b) {
        (ValueRef::Real(a), ValueRef::Real(b)) => a.to_bits() == b.to_bits(),
        (a, b) => a == b,
    }
}

fn shown_key(row: &rusqlite::Row<'_>, columns: &[Column]) -> Result<String> {
    let mut parts = Vec::new();
    for (index, _) in columns.iter().enumerate().filter(|(_, column)| column.key > 0) {
        parts.push(shown(row.get_ref(index)?));
    }
    Ok(parts.join(", "))
}

fn shown(value: ValueRef<'_>) -> String {
    let text = format!("{:?}", Value::try_from(value).unwrap_or(Value::Null));
    if text.len() <= 80 { text } else { format!("{}...", text.chars().take(77).collect::<String>()) }
}

/// A column, as `PRAGMA table_xinfo` tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// The declared type.
    pub(crate) kind: String,
    /// One-based position in the primary key; 0 if it is not part of it.
    pub(crate) key: u32,
    /// Computed from other columns.
    pub(crate) generated: bool,
}

/// The columns of a table; none if there is no such table.
pub(crate) fn columns(connection: &Connection, table: &str) -> Result<Vec<Column>> {
    let mut statement = connection.prepare_cached("SELECT name, type, pk, hidden FROM pragma_table_xinfo(?1) ORDER BY cid")?;
    let columns = statement.query_map([table], |row| {
        Ok(Column { name: row.get(0)?, kind: row.get(1)?, key: row.get(2)?, generated: row.get::<_, u32>(3)? != 0 })
    })?;
    Ok(columns.collect::<Result<_, _>>()?)
}

/// The user's tables of a file, by name.
pub(crate) fn tables(connection: &Connection) -> Result<Vec<String>> {
    let sql = "SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name";
    Ok(connection.prepare(sql)?.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?)
}

/// An identifier in SQL.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Opens a file that other programs write to.
pub(crate) fn read_only(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).with_context(|| format!("{} cannot be read", path.display()))?;
    connection.busy_timeout(BUSY)?;
    Ok(connection)
}

/// How long to wait for another program that writes.
pub(crate) const BUSY: core::time::Duration = core::time::Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(left: &str, right: &str) -> Result<Equal> {
        let temp = tempfile::tempdir().unwrap();
        let paths = [temp.path().join("left"), temp.path().join("right")];
        for (path, sql) in paths.iter().zip([left, right]) {
            Connection::open(path).unwrap().execute_batch(sql).unwrap();
        }
        equal(&paths[0], &paths[1], &["t".to_owned()])
    }

    const T: &str = "CREATE TABLE t(a, b, PRIMARY KEY (b, a)); ";

    #[test]
    fn the_order_of_insertion_is_no_difference() {
        let found = pair(&format!("{T} INSERT INTO t VALUES (1, 2), (2, 1)"), &format!("{T} INSERT INTO t VALUES (2, 1), (1, 2)"));
        assert_eq!(found.unwrap(), Equal { tables: 1, rows: 2, cells: 4 });
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let cases = [
            ("INSERT INTO t VALUES (1, 1)", "INSERT INTO t VALUES (1, '1')"),
            ("INSERT INTO t VALUES (1, 1)", "INSERT INTO t VALUES (1, 1.0)"),
            ("INSERT INTO t VALUES (NULL, 1)", "INSERT INTO t VALUES ('', 1)"),
            ("INSERT INTO t VALUES ('a', 1)", "INSERT INTO t VALUES (x'61', 1)"),
            ("INSERT INTO t VALUES (0.0, 1)", "INSERT INTO t VALUES (1e-320, 1)"),
            ("INSERT INTO t VALUES (1, 1)", ""),
            ("", "INSERT INTO t VALUES (1, 1)"),
            ("", "DROP TABLE t"),
            ("", "ALTER TABLE t ADD COLUMN c"),
            ("", "DROP TABLE t; CREATE TABLE t(a, b, PRIMARY KEY (a, b))"),
            ("", "DROP TABLE t; CREATE TABLE t(a TEXT, b, PRIMARY KEY (b, a))"),
        ];
        for (left, right) in cases {
            assert!(pair(&format!("{T}{left}"), &format!("{T}{right}")).is_err(), "{left} | {right}");
        }
    }
}
