//! The change format: what one origin wrote in a range of its transactions, as bytes that any carrier may bring, in any order, any number of times.

use bytes::Bytes;
use peers_wire::{DecodeError, Reader, Writer};
use rusqlite::types::ValueRef;

use crate::clock::{Hlc, Needs, Origin, Position};
use crate::columns::{Columns, MAX_COLUMNS};
use crate::value::{Value, put_value, take_key, take_value};

/// A batch of changes of one origin, checked in form.
///
/// It tells all that is left of the origin's transactions in a range: what later transactions overwrote is left out, and the batch then names
/// the version vector that has those. So a receiver may apply it at once, and count the range as seen when its own vector covers that one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    bytes: Bytes,
    origin: Origin,
    first: Position,
    last: Position,
    needs: Needs,
    tables: Vec<TableNames>,
    latest: Hlc,
    rows: u64,
    body: usize,
}

/// A table as a batch names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TableNames {
    pub(crate) name: String,
    pub(crate) keys: Vec<String>,
    pub(crate) columns: Vec<String>,
}

/// What [`Changes::walk`] meets.
pub(crate) enum Item<'a> {
    Txn {
        seq: u64,
        hlc: Hlc,
        more: bool,
    },
    /// Rows of one table follow, of which the transaction says the same.
    Section {
        table: usize,
        life: u64,
        born: bool,
        columns: Columns,
    },
    Row {
        key: Vec<Value>,
        values: &'a [ValueRef<'a>],
    },
}

impl Changes {
    /// Reads a batch; every byte is checked, so that applying it cannot fail for its form.
    ///
    /// # Errors
    /// Whatever [`Changes::as_bytes`] would not have written is a [`DecodeError`].
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_CHANGES {
            return Err(DecodeError::Range("batch"));
        }
        let mut input = Reader::new(&bytes);
        match input.u8()? {
            VERSION => {}
            other => return Err(DecodeError::Kind(other)),
        }
        let origin = Origin::take(&mut input)?;
        let (first, last) = (Position::take(&mut input)?, Position::take(&mut input)?);
        // Both may lie inside one transaction, if that is large: there a batch begins and ends at a row.
        if first.seq > last.seq || first == last || first.seq == last.seq && first.row.is_empty() {
            return Err(DecodeError::Range("range"));
        }
        let needs = Needs::take(&mut input)?;
        let tables = (0..input.count(MAX_TABLES, "tables")?).map(|_| TableNames::take(&mut input)).collect::<Result<Vec<_>, _>>()?;
        let body = bytes.len() - input.remaining();
        let (mut latest, mut rows) = (Hlc::default(), 0);
        walk(&mut input, &tables, first.whole(), |item| {
            match item {
                Item::Txn { seq, hlc, .. } if seq > last.seq || hlc <= latest => return Err(DecodeError::Range("transaction")),
                Item::Txn { hlc, .. } => latest = hlc,
                Item::Section { .. } => {}
                Item::Row { .. } => rows += 1,
            }
            Ok(())
        })?;
        input.finish()?;
        Ok(Self { origin, first, last, needs, tables, latest, rows, body, bytes })
    }

    /// The batch as it travels.
    pub const fn as_bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Who wrote the changes.
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// The first and the last transaction of the range.
    pub const fn range(&self) -> (u64, u64) {
        (self.first.whole() + 1, self.last.seq)
    }

    /// The latest clock in the batch; zero if all it wrote is overwritten.
    pub const fn latest(&self) -> Hlc {
        self.latest
    }

    /// Rows the batch says something of.
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    pub(crate) const fn first(&self) -> &Position {
        &self.first
    }

    pub(crate) const fn last(&self) -> &Position {
        &self.last
    }

    pub(crate) const fn needs(&self) -> &Needs {
        &self.needs
    }

    pub(crate) fn tables(&self) -> &[TableNames] {
        &self.tables
    }

    /// Visits transactions, sections and rows in order.
    pub(crate) fn walk<E: From<DecodeError>>(&self, visit: impl FnMut(Item<'_>) -> Result<(), E>) -> Result<(), E> {
        walk(&mut Reader::new(&self.bytes[self.body..]), &self.tables, self.first.whole(), visit)
    }
}

impl TableNames {
    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = input.text(MAX_NAME, "table name")?.to_owned();
        if input.u8()? != 0 {
            return Err(DecodeError::Range("table flags"));
        }
        let mut names = |what| -> Result<Vec<String>, DecodeError> {
            (0..input.count(MAX_COLUMNS, what)?).map(|_| input.text(MAX_NAME, what).map(str::to_owned)).collect()
        };
        let table = Self { name, keys: names("key")?, columns: names("column")? };
        if table.keys.is_empty() { Err(DecodeError::Range("key")) } else { Ok(table) }
    }

    fn put(&self, out: &mut Writer) {
        out.string(self.name.as_bytes()).u8(0);
        for names in [&self.keys, &self.columns] {
            out.varint(names.len() as u64);
            names.iter().for_each(|name| {
                out.string(name.as_bytes());
            });
        }
    }
}

fn walk<E: From<DecodeError>>(
    input: &mut Reader<'_>,
    tables: &[TableNames],
    mut seq: u64,
    mut visit: impl FnMut(Item<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let txns = input.count(MAX_CHANGES, "transactions")?;
    for _ in 0..txns {
        let step = input.varint()?;
        seq = seq.checked_add(step).filter(|_| step > 0).ok_or(DecodeError::Range("sequence number"))?;
        let (hlc, flags) = (Hlc(input.u64()?), input.u8()?);
        if flags > 1 {
            return Err(DecodeError::Range("transaction flags").into());
        }
        if !input.string(64, "signature")?.is_empty() {
            return Err(DecodeError::Range("signature").into());
        }
        visit(Item::Txn { seq, hlc, more: flags == 1 })?;
        for _ in 0..input.count(MAX_CHANGES, "sections")? {
            let table = input.count(tables.len().saturating_sub(1), "table")?;
            let names = tables.get(table).ok_or(DecodeError::Range("table"))?;
            let (life, born, columns) = (input.varint()?, input.u8()?, Columns::take(input)?);
            let dead = life % 2 == 0;
            if life == 0 || born > 1 || dead && (born == 0 || !columns.is_empty()) || columns.iter().any(|c| c >= names.columns.len()) {
                return Err(DecodeError::Range("section").into());
            }
            let width = columns.iter().count();
            visit(Item::Section { table, life, born: born == 1, columns })?;
            let mut values = Vec::with_capacity(width);
            for _ in 0..input.count(MAX_CHANGES, "rows")? {
                let key = take_key(input, names.keys.len())?;
                values.clear();
                for _ in 0..width {
                    values.push(take_value(input)?);
                }
                visit(Item::Row { key, values: &values })?;
            }
        }
    }
    Ok(())
}

/// Writes a batch, row by row.
#[derive(Debug)]
pub(crate) struct Builder {
    origin: Origin,
    first: Position,
    /// Sequence number of the last transaction begun.
    seq: u64,
    tables: Vec<(i64, TableNames)>,
    txns: Part,
    sections: Part,
    rows: Part,
    section: Option<(usize, u64, bool, Columns)>,
    txn: Option<(u64, Hlc, bool)>,
}

/// Things written one after the other, and how many.
#[derive(Debug, Default, Clone)]
struct Part {
    bytes: Writer,
    count: u64,
}

/// A state of a [`Builder`] to fall back to.
#[derive(Debug)]
pub(crate) struct Mark {
    txns: Part,
    seq: u64,
}

impl Builder {
    pub(crate) fn new(origin: Origin, first: Position) -> Self {
        let seq = first.whole();
        Self {
            origin,
            first,
            seq,
            tables: Vec::new(),
            txns: Part::default(),
            sections: Part::default(),
            rows: Part::default(),
            section: None,
            txn: None,
        }
    }

    /// Bytes so far, about.
    pub(crate) fn len(&self) -> usize {
        self.txns.bytes.len() + self.sections.bytes.len() + self.rows.bytes.len()
    }

    pub(crate) fn begin(&mut self, seq: u64, hlc: Hlc, more: bool) {
        self.txn = Some((seq, hlc, more));
    }

    /// Appends a row: its key, and the values of `columns`, which are numbered as [`Builder::column`] says and in that order.
    pub(crate) fn row<'v>(
        &mut self,
        table: usize,
        (life, born, columns): (u64, bool, &Columns),
        key: &'v [Value],
        values: impl Iterator<Item = ValueRef<'v>>,
    ) {
        if self.section.as_ref().is_none_or(|(t, l, b, c)| (*t, *l, *b) != (table, life, born) || c != columns) {
            self.end_section();
            self.section = Some((table, life, born, columns.clone()));
        }
        self.rows.count += 1;
        key.iter().map(Value::as_ref).chain(values).for_each(|value| put_value(&mut self.rows.bytes, value));
    }

    /// The number of a table in the batch.
    pub(crate) fn table(&mut self, id: i64, name: &str, keys: &[String]) -> usize {
        self.tables.iter().position(|(known, _)| *known == id).unwrap_or_else(|| {
            self.tables.push((id, TableNames { name: name.to_owned(), keys: keys.to_vec(), columns: Vec::new() }));
            self.tables.len() - 1
        })
    }

    /// The number of a column in the batch.
    pub(crate) fn column(&mut self, table: usize, name: &str) -> usize {
        let columns = &mut self.tables[table].1.columns;
        columns.iter().position(|known| known == name).unwrap_or_else(|| {
            columns.push(name.to_owned());
            columns.len() - 1
        })
    }

    fn end_section(&mut self) {
        let Some((table, life, born, columns)) = self.section.take() else { return };
        let rows = core::mem::take(&mut self.rows);
        self.sections.count += 1;
        self.sections.bytes.varint(table as u64).varint(life).u8(u8::from(born));
        columns.put(&mut self.sections.bytes);
        self.sections.bytes.varint(rows.count).bytes(rows.bytes.as_ref());
    }

    /// Ends the transaction begun; one without rows leaves no trace.
    pub(crate) fn end(&mut self) {
        self.end_section();
        let sections = core::mem::take(&mut self.sections);
        let Some((seq, hlc, more)) = self.txn.take() else { return };
        if sections.count > 0 {
            self.txns.count += 1;
            self.txns.bytes.varint(seq - self.seq).u64(hlc.0).u8(u8::from(more)).string(&[]);
            self.txns.bytes.varint(sections.count).bytes(sections.bytes.as_ref());
            self.seq = seq;
        }
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark { txns: self.txns.clone(), seq: self.seq }
    }

    pub(crate) fn fall_back(&mut self, mark: Mark) {
        (self.txns, self.seq) = (mark.txns, mark.seq);
        (self.sections, self.rows, self.section, self.txn) = Default::default();
    }

    /// The batch, up to `last`.
    pub(crate) fn finish(mut self, last: &Position, needs: &Needs) -> Result<Changes, DecodeError> {
        self.end();
        let mut out = Writer::with_capacity(self.txns.bytes.len() + 1024);
        out.u8(VERSION);
        self.origin.put(&mut out);
        self.first.put(&mut out);
        last.put(&mut out);
        needs.put(&mut out);
        out.varint(self.tables.len() as u64);
        self.tables.iter().for_each(|(_, table)| table.put(&mut out));
        out.varint(self.txns.count).bytes(self.txns.bytes.as_ref());
        Changes::decode(out.finish().into())
    }
}

/// Version of the format.
const VERSION: u8 = 1;
/// Bytes of a batch; only a single row that is itself larger than [`BATCH`](crate::BATCH) makes a batch larger than that.
pub const MAX_CHANGES: usize = 1 << 30;
/// Tables a batch may name.
const MAX_TABLES: usize = 4096;
/// Bytes of a table's or column's name.
const MAX_NAME: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BATCH, Config, Replica};
    use peers_wire::{PeerId, Timestamp};

    #[test]
    fn a_transaction_of_many_batches_arrives_whole() {
        let temp = tempfile::tempdir().unwrap();
        let open = |name: &str, author: u8| {
            Replica::open(temp.path().join(name), Config { author: PeerId([author; 32]), ..Config::default() }).unwrap()
        };
        let (mut a, mut b) = (open("a", 1), open("b", 2));
        a.connection().execute_batch(
            "CREATE TABLE t (id INTEGER PRIMARY KEY, v BLOB);
             WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) INSERT INTO t SELECT i, randomblob(200) FROM n",
        ).unwrap();
        a.track("t").unwrap();
        a.refresh(Timestamp(1000)).unwrap();
        let batches = a.changes_since(&b.version(), usize::MAX).unwrap();
        assert!(batches.len() >= 5000 * 200 / BATCH, "{} batches", batches.len());
        for batch in &batches {
            b.apply(Timestamp(1000), &Changes::decode(batch.as_bytes().clone()).unwrap()).unwrap();
        }
        let sum = |replica: &Replica| {
            replica
                .connection()
                .query_row("SELECT count(*), total(id), hex(max(v)) FROM t", [], |row| {
                    Ok((row.get::<_, i64>(0)?, row.get::<_, f64>(1)?, row.get::<_, String>(2)?))
                })
                .unwrap()
        };
        assert_eq!(sum(&a), sum(&b));
    }
}
