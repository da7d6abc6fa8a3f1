//! Reading what an origin wrote back out of the tables, as batches.

use peers_wire::Reader;
use rusqlite::{Connection, params_from_iter};

use crate::changes::{Builder, Changes};
use crate::clock::{Needs, Position, VersionVector};
use crate::clocks::{Beaten, OriginId, TxnInfo};
use crate::engine::Core;
use crate::progress::Range;
use crate::record::{Shape, Txn};
use crate::schema::{SCHEMA, quote};
use crate::store::StoreError;
use crate::value::{Value, encode_key, take_key};

impl Core {
    /// The next batch of what `origin` wrote after `from` and the version vector counts, of about `limit` bytes at most; `None` if there is
    /// nothing that can be given.
    pub(crate) fn extract(
        &mut self,
        db: &Connection,
        origin: OriginId,
        from: &Position,
        limit: usize,
    ) -> Result<Option<Changes>, StoreError> {
        let seen = Position::after(self.clocks.version().get(&self.clocks.origin(origin)));
        self.extract_to(db, origin, from, &seen, &Needs::default(), limit)
    }

    /// As [`Core::extract`], of a range ahead of the version vector: who lacks what is before it can still use it.
    pub(crate) fn extract_ahead(
        &mut self,
        db: &Connection,
        range: &Range,
        from: &Position,
        limit: usize,
    ) -> Result<Option<Changes>, StoreError> {
        self.extract_to(db, range.origin, from, &range.last, &range.needs, limit)
    }

    fn extract_to(
        &mut self,
        db: &Connection,
        origin: OriginId,
        from: &Position,
        to: &Position,
        also: &Needs,
        limit: usize,
    ) -> Result<Option<Changes>, StoreError> {
        let name = self.clocks.origin(origin);
        if to.reaches(from) {
            return Ok(None);
        }
        let mut builder = Builder::new(name, from.clone());
        let mut last = from.clone();
        let mut worst = Beaten::Whole;
        // Where the last unit of transactions that belong together ended.
        let mut unit = None;
        let mut statement =
            db.prepare_cached("SELECT id, seq FROM _peers_txn WHERE origin = ?1 AND seq > ?2 AND seq <= ?3 ORDER BY seq")?;
        let mut txns = statement.query([origin, from.whole().cast_signed(), to.seq.cast_signed()])?;
        let mut full = false;
        while let Some(row) = txns.next()? {
            let txn = row.get::<_, i64>(0)?.cast_unsigned();
            let info = self.clocks.txn(db, txn)?;
            if info.beaten == Beaten::Withheld {
                last = if last.seq < info.seq - 1 { Position::after(info.seq - 1) } else { last };
                full = true;
                break;
            }
            if builder.len() >= limit {
                full = true;
                break;
            }
            let part = |position: &'_ Position| if position.seq == info.seq { position.row.clone() } else { Vec::new() };
            let span = Span { after: part(from), until: part(to), limit };
            let cut = self.extract_txn(db, &mut builder, txn, info, &span)?;
            if let Some(row) = cut {
                // What belongs together travels together, unless it alone is too large.
                match unit.take() {
                    Some((mark, at, before)) => {
                        builder.fall_back(mark);
                        (last, worst) = (at, before);
                    }
                    None => {
                        last = Position { seq: info.seq, row };
                        worst = worst.max(info.beaten);
                    }
                }
                full = true;
                break;
            }
            last = Position::after(info.seq);
            worst = worst.max(info.beaten);
            if !info.more {
                unit = Some((builder.mark(), last.clone(), worst));
            }
        }
        if !full {
            last = to.clone();
        }
        if last == *from {
            return Ok(None);
        }
        let mut needs = match worst {
            Beaten::Whole => Needs::default(),
            Beaten::ByOwn(seq) if seq <= self.clocks.version().get(&name) => {
                Needs { version: VersionVector([(name, seq)].into()), ahead: Vec::new() }
            }
            Beaten::ByOwn(_) | Beaten::ByOthers | Beaten::Withheld => self.ahead.applied(&self.clocks),
        };
        needs.version.merge(&also.version);
        needs.ahead.extend(also.ahead.iter().filter(|range| !needs.ahead.contains(range)).cloned().collect::<Vec<_>>());
        Ok(Some(builder.finish(&last, &needs)?))
    }

    /// Appends the rows of a transaction in a span; stops when its limit is reached and gives the row it stopped at.
    fn extract_txn(
        &mut self,
        db: &Connection,
        builder: &mut Builder,
        txn: Txn,
        info: TxnInfo,
        span: &Span,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        builder.begin(info.seq, info.hlc, info.more);
        let mut uses = db.prepare_cached(
            "SELECT r.tbl, count(*), min(r.id) FROM _peers_use u JOIN _peers_record r ON r.id = u.record WHERE u.txn = ?1 GROUP BY r.tbl",
        )?;
        let uses = uses.query_map([txn.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        let mut uses: Vec<(i64, i64, i64)> = uses.collect::<Result<_, _>>()?;
        let tables: Vec<i64> = self.tables.iter().map(|table| table.id).collect();
        let index = |id: i64| tables.iter().position(|known| *known == id);
        // The schema first, then by name: an order that any replica gives.
        uses.sort_by_cached_key(|(id, ..)| index(*id).map(|i| (self.tables[i].name != SCHEMA, self.tables[i].name.clone())));
        for (id, records, record) in uses {
            let Some(table) = index(id) else { continue };
            let prefix = row_prefix(&self.tables[table].name);
            let start = span.after.strip_prefix(prefix.as_slice());
            let end = span.until.strip_prefix(prefix.as_slice());
            if start.is_none() && !span.after.is_empty() && !self.is_after(table, &span.after)
                || end.is_none() && !span.until.is_empty() && self.is_after(table, &span.until)
            {
                continue;
            }
            let rows = Rows { txn, table, one: (records == 1).then_some(record), start, end, limit: span.limit };
            if let Some(key) = self.extract_table(db, builder, &rows)? {
                return Ok(Some([prefix, key].concat()));
            }
        }
        builder.end();
        Ok(None)
    }

    /// The table comes after the one that a row's position names.
    fn is_after(&self, table: usize, position: &[u8]) -> bool {
        let mut input = Reader::new(position);
        let Ok(name) = input.text(usize::MAX, "name") else { return true };
        let of = |name: &str| (name != SCHEMA, name.to_owned());
        of(&self.tables[table].name) > of(name)
    }

    fn extract_table(&mut self, db: &Connection, builder: &mut Builder, which: &Rows<'_>) -> Result<Option<Vec<u8>>, StoreError> {
        let Rows { txn, table, one, limit, .. } = *which;
        let t = &self.tables[table];
        let width = t.keys.len();
        // A position that another replica named may be no key: then it excludes nothing.
        let key = |bytes: Option<&[u8]>| bytes.and_then(|bytes| take_key(&mut Reader::new(bytes), width).ok());
        let (start, end) = (key(which.start), key(which.end));
        let sql = self.extract_sql(table, one.is_some(), start.is_some(), end.is_some());
        let params: Vec<_> = [Value::Integer(one.unwrap_or_else(|| txn.cast_signed()))]
            .into_iter()
            .chain(start.into_iter().flatten())
            .chain(end.into_iter().flatten())
            .collect();
        let number = builder.table(t.id, &t.name, &t.keys);
        let columns_here = t.sql.order.clone();
        let mut statement = db.prepare_cached(&sql)?;
        let mut rows = statement.query(params_from_iter(&params))?;
        let mut shapes: Vec<(i64, Section)> = Vec::new();
        while let Some(row) = rows.next()? {
            let record: i64 = row.get(0)?;
            let known = shapes.iter().position(|(r, _)| *r == record);
            let at = match known {
                Some(at) => at,
                None => {
                    if shapes.len() >= 64 {
                        shapes.clear();
                    }
                    let shape = self.clocks.record(db, record)?.shape_of(txn);
                    shapes.push((record, self.section(builder, number, table, shape, &columns_here)));
                    shapes.len() - 1
                }
            };
            let section = &shapes[at].1;
            let key = (0..width).map(|i| Ok(row.get_ref(1 + i)?.into())).collect::<Result<Vec<Value>, rusqlite::Error>>()?;
            let in_table: bool = row.get(1 + width)?;
            let head = (section.shape.life, section.shape.born, &section.columns);
            if section.shape.columns.is_empty() || in_table && section.order.iter().all(|(_, place)| place.is_some()) {
                let values = section
                    .order
                    .iter()
                    .map(|(_, place)| row.get_ref(2 + width + place.unwrap_or(0)).unwrap_or(rusqlite::types::ValueRef::Null));
                builder.row(number, head, &key, values);
            } else {
                let cells = self.cells_of(db, table, &key)?;
                // A cell that is nowhere belonged to a column that was dropped here.
                let (mut found, mut columns) = (Vec::new(), crate::columns::Columns::default());
                for (column, _) in &section.order {
                    if let Some(value) = cells.get(column) {
                        columns.insert(builder.column(number, &self.tables[table].columns[*column]));
                        found.push(value);
                    }
                }
                builder.row(number, (head.0, head.1, &columns), &key, found.iter().map(|value| value.as_ref()));
            }
            if builder.len() >= limit {
                return Ok(Some(encode_key(&key)));
            }
        }
        Ok(None)
    }

    /// How rows of a shape are written.
    fn section(&self, builder: &mut Builder, number: usize, table: usize, shape: Shape, here: &[usize]) -> Section {
        let mut order: Vec<_> =
            shape.columns.iter().map(|column| (builder.column(number, &self.tables[table].columns[column]), column)).collect();
        order.sort_unstable();
        let columns = order.iter().map(|(named, _)| *named).collect();
        let order = order.into_iter().map(|(_, column)| (column, here.iter().position(|c| *c == column))).collect();
        Section { shape, columns, order }
    }

    /// Rows of one record, or of all that a transaction uses, in order of key: record, key, whether the row is in the table, its cells.
    fn extract_sql(&self, table: usize, one: bool, start: bool, end: bool) -> String {
        let t = &self.tables[table];
        let keys = crate::schema::key_list(t.keys.len(), "c.");
        let which = if one { "c.rec = ?1" } else { "c.rec IN (SELECT record FROM _peers_use WHERE txn = ?1)" };
        let mut next = 2;
        let mut bound = |given: bool, than: &str| {
            if !given {
                return String::new();
            }
            let marks: Vec<_> = (next..next + t.keys.len()).map(|i| format!("?{i}")).collect();
            next += t.keys.len();
            format!(" AND ({keys}) {than} ({})", marks.join(", "))
        };
        let span = bound(start, ">") + &bound(end, "<=");
        if !t.attached {
            return format!("SELECT c.rec, {keys}, 0 FROM _peers_clock_{} c WHERE {which}{span} ORDER BY {keys}", t.id);
        }
        let same = t.key_match("t.", |i| format!("c.k{i}"));
        let columns: String = t.sql.order.iter().map(|i| format!(", t.{}", quote(&t.columns[*i]))).collect();
        format!(
            "SELECT c.rec, {keys}, t.{} IS NOT NULL{columns} FROM _peers_clock_{} c LEFT JOIN {} t ON {same} WHERE {which}{span} ORDER BY {keys}",
            quote(&t.keys[0]),
            t.id,
            quote(&t.name)
        )
    }
}

/// A part of a transaction: rows after one, up to another (empty: all), and how many bytes the batch may have.
struct Span {
    after: Vec<u8>,
    until: Vec<u8>,
    limit: usize,
}

/// Rows of a table that a transaction wrote: those of one record or of all, between two keys.
struct Rows<'a> {
    txn: Txn,
    table: usize,
    one: Option<i64>,
    start: Option<&'a [u8]>,
    end: Option<&'a [u8]>,
    limit: usize,
}

/// How the rows of one shape are written in a batch.
struct Section {
    shape: Shape,
    /// Columns as the batch numbers them.
    columns: crate::columns::Columns,
    /// Columns in the batch's order: number here, place in the statement.
    order: Vec<(usize, Option<usize>)>,
}

/// A table's part of a row's position.
fn row_prefix(name: &str) -> Vec<u8> {
    let mut out = peers_wire::Writer::default();
    out.string(name.as_bytes());
    out.finish()
}
