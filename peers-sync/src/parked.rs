//! Rows that are not in the user's table although they are alive, and cells of columns that the table does not have.

use std::collections::BTreeMap;

use peers_wire::{Reader, Writer};
use rusqlite::{Connection, OptionalExtension, params};

use crate::store::StoreError;
use crate::value::{Value, put_value, take_value};

/// Why a row is not in its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// There is no such table here, or it has another primary key.
    NoTable,
    /// Only edits of it have arrived, its insert has not.
    Incomplete,
    /// An older row holds its value in a UNIQUE index.
    Unique,
    /// A column that must not be NULL has no value.
    NotNull,
    /// A CHECK of the table refuses it.
    Check,
    /// A value does not fit the type of its column in a STRICT table, or the key is not an integer.
    Type,
    /// The table refuses it otherwise.
    Refused,
}

const REASONS: [Reason; 7] =
    [Reason::NoTable, Reason::Incomplete, Reason::Unique, Reason::NotNull, Reason::Check, Reason::Type, Reason::Refused];

/// Cells by number of column.
pub(crate) type Cells = BTreeMap<usize, Value>;

/// The row of `table` kept here: why (`None`: the row is in its table, these are cells of columns it does not have), and its cells.
pub(crate) fn find(db: &Connection, table: i64, key: &[u8]) -> Result<Option<(Option<Reason>, Cells)>, StoreError> {
    db.prepare_cached("SELECT reason, cells FROM _peers_parked WHERE tbl = ?1 AND key = ?2")?
        .query_row(params![table, key], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?
        .map(|(reason, cells): (u8, Vec<u8>)| Ok((reason_of(reason), decode(&cells)?)))
        .transpose()
}

/// Every row of `table` that is not in it.
pub(crate) fn all(db: &Connection, table: i64) -> Result<Vec<(Vec<u8>, Reason, Cells)>, StoreError> {
    let mut rows = db.prepare_cached("SELECT key, reason, cells FROM _peers_parked WHERE tbl = ?1 AND reason <> 0")?;
    let mut rows = rows.query([table])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let (cells, reason): (Vec<u8>, _) = (row.get(2)?, reason_of(row.get(1)?));
        found.push((row.get(0)?, reason.unwrap_or(Reason::Refused), decode(&cells)?));
    }
    Ok(found)
}

/// Keeps a row, or cells; nothing is kept of no cells without a reason.
pub(crate) fn keep(db: &Connection, table: i64, key: &[u8], reason: Option<Reason>, cells: &Cells) -> Result<(), StoreError> {
    if reason.is_none() && cells.is_empty() {
        return drop(db, table, key);
    }
    let mut out = Writer::default();
    for (column, value) in cells {
        out.varint(*column as u64);
        put_value(&mut out, value.as_ref());
    }
    let number = reason.map_or(0, |reason| (1u8..).zip(REASONS).find(|(_, r)| *r == reason).map_or(0, |(number, _)| number));
    db.prepare_cached("INSERT OR REPLACE INTO _peers_parked VALUES (?1, ?2, ?3, ?4)")?.execute(params![
        table,
        key,
        number,
        out.finish()
    ])?;
    Ok(())
}

/// Keeps nothing of a row any more.
pub(crate) fn drop(db: &Connection, table: i64, key: &[u8]) -> Result<(), StoreError> {
    db.prepare_cached("DELETE FROM _peers_parked WHERE tbl = ?1 AND key = ?2")?.execute(params![table, key])?;
    Ok(())
}

fn reason_of(number: u8) -> Option<Reason> {
    number.checked_sub(1).map(|i| REASONS.get(usize::from(i)).copied().unwrap_or(Reason::Refused))
}

fn decode(bytes: &[u8]) -> Result<Cells, StoreError> {
    let mut input = Reader::new(bytes);
    let mut cells = Cells::new();
    while input.remaining() > 0 {
        cells.insert(input.count(crate::columns::MAX_COLUMNS, "column")?, take_value(&mut input)?.into());
    }
    Ok(cells)
}
