//! SQL on a database, run on a connection of its own away from the driver.

use peers_node::Node;
use rusqlite::fallible_iterator::FallibleIterator;
use rusqlite::types::ValueRef;
use rusqlite::{Batch, Connection, InterruptHandle};
use serde_json::{Value, json};

use super::database::find;
use super::errors;
use crate::body::hex;
use crate::control::answer::Rows;
use crate::control::request::DatabaseRef;
use crate::failure::Failure;

pub(crate) async fn run(node: &Node, database: &DatabaseRef, sql: String) -> Result<Rows, Failure> {
    let database = find(node, database).await?;
    let path = database.path().to_owned();
    let connection = database.connection().map_err(|error| errors::database(&path, error))?;
    // A client that goes away takes its statement with it.
    let _cancel = Cancel(connection.get_interrupt_handle());
    let work = tokio::task::spawn_blocking(move || execute(&connection, &sql).map_err(|error| errors::sqlite(&path, &error)));
    work.await.map_err(|error| Failure::failed(format!("the statement was given up: {error}")))?
}

struct Cancel(InterruptHandle);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.interrupt();
    }
}

/// Runs every statement, and keeps the rows of the last one that has columns.
fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<Rows> {
    let before = connection.total_changes();
    let mut result = Rows { columns: Vec::new(), rows: Vec::new(), changed: 0, truncated: false };
    let mut batch = Batch::new(connection, sql);
    while let Some(mut statement) = batch.next()? {
        if statement.column_count() == 0 {
            statement.raw_execute()?;
            continue;
        }
        result.columns = statement.column_names().map(str::to_owned).collect();
        (result.rows, result.truncated) = (Vec::new(), false);
        let (width, reads) = (result.columns.len(), statement.readonly());
        let mut size = 0;
        let mut rows = statement.raw_query();
        while let Some(row) = rows.next()? {
            if result.truncated || size > MAX_RESULT {
                result.truncated = true;
                if reads {
                    break;
                }
                // What writes and returns rows runs to its end.
                continue;
            }
            let mut cells = Vec::with_capacity(width);
            for index in 0..width {
                let (cell, bytes) = cell(row.get_ref(index)?);
                size += bytes + 8;
                cells.push(cell);
            }
            result.rows.push(cells);
        }
    }
    result.changed = connection.total_changes() - before;
    if connection.is_autocommit() {
        return Ok(result);
    }
    connection.execute_batch("ROLLBACK")?;
    Err(rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ERROR),
        Some("the statements begin a transaction and do not end it; it was rolled back".to_owned()),
    ))
}

/// A cell as JSON, and about how many bytes that takes.
pub(super) fn cell(value: ValueRef<'_>) -> (Value, usize) {
    match value {
        ValueRef::Null => (Value::Null, 4),
        ValueRef::Integer(number) => (json!(number), 20),
        ValueRef::Real(number) if number.is_finite() => (json!(number), 20),
        ValueRef::Real(number) => (json!({ "real": number.to_string() }), 20),
        ValueRef::Text(bytes) => match core::str::from_utf8(bytes) {
            Ok(text) => (json!(text), bytes.len() * 2),
            Err(_) => (json!({ "text": hex(bytes) }), bytes.len() * 2),
        },
        ValueRef::Blob(bytes) => (json!({ "blob": hex(bytes) }), bytes.len() * 2),
    }
}

/// Bytes of rows that are kept; those after it are counted off as truncated.
const MAX_RESULT: usize = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn on(sql: &str) -> rusqlite::Result<Rows> {
        execute(&Connection::open_in_memory().unwrap(), sql)
    }

    #[test]
    fn rows_of_the_last_query_come_with_their_types() {
        let rows = on("CREATE TABLE t(a); INSERT INTO t VALUES (1), (2.0), ('x'), (x'00ff'), (NULL), (9e999); SELECT 'no'; SELECT a, 5 AS b FROM t; DELETE FROM t")
            .unwrap();
        assert_eq!(rows.columns, ["a", "b"]);
        let cells: Vec<_> = rows.rows.iter().map(|row| row[0].to_string()).collect();
        assert_eq!(cells, ["1", "2.0", "\"x\"", r#"{"blob":"00ff"}"#, "null", r#"{"real":"inf"}"#]);
        assert_eq!((rows.changed, rows.truncated), (12, false));
    }

    #[test]
    fn a_transaction_that_is_left_open_is_an_error_and_undone() {
        assert!(on("BEGIN; CREATE TABLE t(a)").unwrap_err().to_string().contains("rolled back"));
        assert!(on("nonsense").is_err());
        assert_eq!(on("  -- nothing\n").unwrap().columns.len(), 0);
    }

    #[test]
    fn more_rows_than_fit_are_cut_and_said_to_be() {
        let rows = on("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100) SELECT hex(zeroblob(100000)) FROM n")
            .unwrap();
        assert!(rows.truncated && rows.rows.len() < 100 && !rows.rows.is_empty());
    }
}
