//! Chooses rows of any database to edit, delete and insert, and does so as an ordinary SQLite program.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};

use super::compare::{BUSY, Column, columns, quoted};

/// One row, by its key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Row {
    table: String,
    key: Vec<(String, Value)>,
}

/// A field that may be edited: no key, no reference, not unique.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) row: Row,
    column: String,
    text: bool,
}

/// What the demo does to a database.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Two fields of one row, each edited on another device.
    pub(crate) apart: [Field; 2],
    /// Two fields, each edited on both devices.
    pub(crate) same: [Field; 2],
    /// A field of a row that is deleted on one device and edited later on the other.
    pub(crate) edited_last: Field,
    /// A field of a row that is edited on one device and deleted later on the other.
    pub(crate) deleted_last: Field,
    /// How new rows are made.
    pub(crate) insert: Insert,
}

impl Plan {
    /// Chooses among `tables`. Where they have no fitting rows, a table `demo_note` is added to them.
    pub(crate) fn new(connection: &Connection, tables: &mut Vec<String>) -> Result<Self> {
        if let Some(plan) = Self::among(connection, tables)? {
            return Ok(plan);
        }
        connection.execute_batch(NOTES).context("no row of this database can be edited, and no table can be added")?;
        tables.push("demo_note".to_owned());
        Self::among(connection, &["demo_note".to_owned()])?.context("the rows of demo_note cannot be edited")
    }

    fn among(connection: &Connection, tables: &[String]) -> Result<Option<Self>> {
        let mut edit = None;
        let mut removable = Vec::new();
        let mut insert = None;
        for table in tables {
            let fields = editable(connection, table)?;
            let rows = rows(connection, table)?;
            let texts: Vec<_> = fields.iter().filter(|(_, text)| *text).collect();
            if let ([first, second, ..], [row, other, third, ..]) = (&texts[..], &rows[..])
                && edit.is_none()
            {
                let field = |row: &Row, (column, text): &(String, bool)| Field { row: row.clone(), column: column.clone(), text: *text };
                let chosen = ([field(row, first), field(row, second)], [field(other, first), field(third, first)]);
                if trial(connection, || chosen.0.iter().chain(&chosen.1).try_for_each(|field| field.set(connection, "tried"))) {
                    edit = Some(chosen);
                }
            }
            if let Some((column, text)) = fields.first() {
                for row in rows.iter().rev() {
                    if removable.len() == 2 {
                        break;
                    }
                    let field = Field { row: row.clone(), column: column.clone(), text: *text };
                    let used = edit.as_ref().is_some_and(|(apart, same)| apart.iter().chain(same).any(|field| field.row == *row));
                    if !used && trial(connection, || field.set(connection, "7").and_then(|()| row.delete(connection))) {
                        removable.push(field);
                    }
                }
            }
            if let (None, Some((text, _)), [template, ..]) = (&insert, texts.first(), &rows[..]) {
                insert = Insert::new(connection, template, text)?;
            }
        }
        let [deleted_last, edited_last] = &removable[..] else { return Ok(None) };
        Ok(edit.zip(insert).map(|((apart, same), insert)| Self {
            apart,
            same,
            edited_last: edited_last.clone(),
            deleted_last: deleted_last.clone(),
            insert,
        }))
    }
}

impl Row {
    fn condition(&self) -> String {
        self.key.iter().enumerate().map(|(i, (column, _))| format!("{} = ?{}", quoted(column), i + 1)).collect::<Vec<_>>().join(" AND ")
    }

    fn values(&self) -> impl Iterator<Item = &Value> {
        self.key.iter().map(|(_, value)| value)
    }

    /// Deletes the row.
    pub(crate) fn delete(&self, connection: &Connection) -> Result<()> {
        let sql = format!("DELETE FROM {} WHERE {}", quoted(&self.table), self.condition());
        let changed = connection.execute(&sql, params_from_iter(self.values()))?;
        ensure!(changed == 1, "{} rows were deleted from {} instead of one", changed, self.table);
        Ok(())
    }
}

impl Field {
    /// Writes a value; `text` becomes a number where the column is one.
    pub(crate) fn set(&self, connection: &Connection, text: &str) -> Result<()> {
        let Row { table, key } = &self.row;
        let sql = format!("UPDATE {} SET {} = ?{} WHERE {}", quoted(table), quoted(&self.column), key.len() + 1, self.row.condition());
        let value = self.value(text);
        let changed = connection.execute(&sql, params_from_iter(self.row.values().chain([&value])))?;
        ensure!(changed == 1, "{changed} rows of {table} were updated instead of one");
        Ok(())
    }

    /// What [`Field::set`] writes for `text`.
    fn value(&self, text: &str) -> Value {
        if self.text {
            return Value::Text(text.to_owned());
        }
        Value::Integer(text.bytes().fold(0, |sum, byte| (sum * 31 + i64::from(byte)) % 10_000))
    }

    /// The row is there, and the field holds what [`Field::set`] writes for `text`.
    pub(crate) fn holds(&self, connection: &Connection, text: &str) -> Result<bool> {
        Ok(self.read(connection)?.is_some_and(|found| match (found, self.value(text)) {
            #[expect(clippy::cast_precision_loss, reason = "below 10,000")]
            (Value::Real(found), Value::Integer(value)) => found == value as f64,
            (found, value) => found == value,
        }))
    }

    /// The row is there.
    pub(crate) fn exists(&self, connection: &Connection) -> Result<bool> {
        Ok(self.read(connection)?.is_some())
    }

    fn read(&self, connection: &Connection) -> Result<Option<Value>> {
        let sql = format!("SELECT {} FROM {} WHERE {}", quoted(&self.column), quoted(&self.row.table), self.row.condition());
        let mut statement = connection.prepare(&sql)?;
        let mut rows = statement.query(params_from_iter(self.row.values()))?;
        Ok(rows.next()?.map(|row| row.get(0)).transpose()?)
    }
}

impl core::fmt::Display for Field {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}.{}", self.row.table, self.column)
    }
}

/// Makes rows like one that is there, under new keys.
#[derive(Debug)]
pub(crate) struct Insert {
    pub(crate) table: String,
    key: String,
    /// The least new key if keys are integers, else keys are texts.
    first: Option<i64>,
    text: String,
    template: Row,
    others: Vec<String>,
}

impl Insert {
    fn new(connection: &Connection, template: &Row, text: &str) -> Result<Option<Self>> {
        let [(key, value)] = &template.key[..] else { return Ok(None) };
        let table = &template.table;
        let first = match value {
            Value::Integer(_) => {
                let highest: i64 =
                    connection.query_row(&format!("SELECT max({}) FROM {}", quoted(key), quoted(table)), [], |row| row.get(0))?;
                let Some(first) = highest.checked_add(1_000) else { return Ok(None) };
                Some(first)
            }
            Value::Text(_) => None,
            _ => return Ok(None),
        };
        let columns = columns(connection, table)?;
        let others = columns
            .into_iter()
            .filter(|column| column.key == 0 && column.name != text && !column.generated)
            .map(|column| column.name)
            .collect();
        let insert = Self { table: table.clone(), key: key.clone(), first, text: text.to_owned(), template: template.clone(), others };
        let works = trial(connection, || (0..2).try_for_each(|number| Ok(connection.execute_batch(&insert.sql(number, "tried"))?)));
        Ok(works.then_some(insert))
    }

    /// The statement that inserts row `number` with `text` in it. Numbers must differ.
    pub(crate) fn sql(&self, number: u32, text: &str) -> String {
        let others: Vec<_> = self.others.iter().map(|column| quoted(column)).collect();
        let list = |first: String, second: String| [first, second].into_iter().chain(others.iter().cloned()).collect::<Vec<_>>().join(", ");
        let target = list(quoted(&self.key), quoted(&self.text));
        let source = list(literal(&self.key_of(number)), literal(&Value::Text(text.to_owned())));
        let (key, value) = &self.template.key[0];
        let table = quoted(&self.table);
        format!("INSERT INTO {table}({target}) SELECT {source} FROM {table} WHERE {} = {}", quoted(key), literal(value))
    }

    /// The field of row `number` that holds its text.
    pub(crate) fn field(&self, number: u32) -> Field {
        let row = Row { table: self.table.clone(), key: vec![(self.key.clone(), self.key_of(number))] };
        Field { row, column: self.text.clone(), text: true }
    }

    fn key_of(&self, number: u32) -> Value {
        match self.first {
            Some(first) => Value::Integer(first + i64::from(number)),
            None => Value::Text(format!("demo-{number:05}")),
        }
    }
}

/// Opens a database as any other program does.
pub(crate) fn open(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path).with_context(|| format!("{} cannot be opened", path.display()))?;
    connection.busy_timeout(BUSY)?;
    connection.execute_batch("PRAGMA foreign_keys = ON")?;
    Ok(connection)
}

/// Columns of `table` that hold plain data, and whether they are texts.
fn editable(connection: &Connection, table: &str) -> Result<Vec<(String, bool)>> {
    let list = |sql: &str| -> Result<Vec<String>> {
        Ok(connection.prepare(sql)?.query_map([table], |row| row.get(0))?.collect::<Result<_, _>>()?)
    };
    let mut bound = list("SELECT \"from\" FROM pragma_foreign_key_list(?1)")?;
    bound.extend(list(
        "SELECT i.name FROM pragma_index_list(?1) l JOIN pragma_index_info(l.name) i WHERE l.\"unique\" AND i.name IS NOT NULL",
    )?);
    let free = |column: &Column| column.key == 0 && !column.generated && !bound.contains(&column.name);
    let columns = columns(connection, table)?.into_iter().filter(free);
    Ok(columns.filter_map(|column| kind(&column.kind).map(|text| (column.name, text))).collect())
}

/// Whether a declared type has text affinity, else numeric; `None` for blobs and what holds anything.
///
/// Source: SQLite, "Datatypes", section 3.1.
fn kind(declared: &str) -> Option<bool> {
    let declared = declared.to_ascii_uppercase();
    let has = |parts: &[&str]| parts.iter().any(|part| declared.contains(part));
    if has(&["INT"]) {
        Some(false)
    } else if has(&["CHAR", "CLOB", "TEXT"]) {
        Some(true)
    } else if declared.is_empty() || has(&["BLOB", "DATE", "TIME"]) {
        None
    } else {
        Some(false)
    }
}

/// The first and last rows of a table that has a primary key; none if it has not.
fn rows(connection: &Connection, table: &str) -> Result<Vec<Row>> {
    let mut key = columns(connection, table)?;
    key.retain(|column| column.key > 0);
    key.sort_by_key(|column| column.key);
    if key.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<_> = key.iter().map(|column| quoted(&column.name)).collect();
    let mut found = Vec::new();
    for direction in ["ASC", "DESC"] {
        let order: Vec<_> = names.iter().map(|name| format!("{name} {direction}")).collect();
        let sql = format!("SELECT {} FROM {} ORDER BY {} LIMIT 50", names.join(", "), quoted(table), order.join(", "));
        let mut statement = connection.prepare(&sql)?;
        let mut part = statement
            .query_map([], |row| {
                let key =
                    key.iter().enumerate().map(|(i, column)| Ok((column.name.clone(), row.get(i)?))).collect::<rusqlite::Result<_>>()?;
                Ok(Row { table: table.to_owned(), key })
            })?
            .collect::<Result<Vec<_>, _>>()?;
        if direction == "DESC" {
            part.reverse();
        }
        found.extend(part.into_iter().filter(|row| !found.contains(row)).collect::<Vec<_>>());
    }
    Ok(found)
}

/// Whether `action` works; undoes it.
fn trial(connection: &Connection, action: impl FnOnce() -> Result<()>) -> bool {
    let before = connection.total_changes();
    let begun = connection.execute_batch("SAVEPOINT trial").is_ok();
    let worked = begun && action().is_ok();
    let undone = connection.execute_batch("ROLLBACK TO trial; RELEASE trial").is_ok();
    // A statement that set off others (a cascade, a trigger) is not what we look for.
    worked && undone && connection.total_changes() - before <= 4
}

fn literal(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Text(text) => format!("'{}'", text.replace('\'', "''")),
        _ => "NULL".to_owned(),
    }
}

const NOTES: &str = "
CREATE TABLE demo_note(id TEXT PRIMARY KEY NOT NULL, title TEXT, body TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 10)
INSERT INTO demo_note SELECT 'note-' || i, 'title ' || i, 'body ' || i FROM n;
";

#[cfg(test)]
mod tests {
    use super::super::compare::tables;
    use super::*;

    fn plan_for(sql: &str) -> (Connection, Plan, Vec<String>) {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch("PRAGMA foreign_keys = ON").unwrap();
        connection.execute_batch(sql).unwrap();
        let mut names = tables(&connection).unwrap();
        let plan = Plan::new(&connection, &mut names).unwrap();
        (connection, plan, names)
    }

    fn works(connection: &Connection, plan: &Plan) {
        let [first, second] = &plan.apart;
        assert_eq!(first.row, second.row);
        assert_ne!(first.column, second.column);
        for field in [first, second, &plan.same[0], &plan.same[1], &plan.edited_last, &plan.deleted_last] {
            assert!(field.exists(connection).unwrap(), "planning changes nothing");
            field.set(connection, "later").unwrap();
            assert!(field.holds(connection, "later").unwrap() && !field.holds(connection, "other").unwrap());
        }
        for field in [&plan.edited_last, &plan.deleted_last] {
            field.row.delete(connection).unwrap();
            assert!(!field.exists(connection).unwrap());
        }
        for number in 0..3 {
            connection.execute_batch(&plan.insert.sql(number, "it's new")).unwrap();
            assert!(plan.insert.field(number).holds(connection, "it's new").unwrap());
        }
    }

    #[test]
    fn rows_of_the_shop_can_be_edited_as_planned() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("shop");
        super::super::database::make(&path, 3).unwrap();
        let connection = open(&path).unwrap();
        let mut names = tables(&connection).unwrap();
        let plan = Plan::new(&connection, &mut names).unwrap();
        assert_eq!(names.len(), 5, "no table is added");
        works(&connection, &plan);
    }

    #[test]
    fn references_unique_fields_and_checks_are_respected() {
        let (connection, plan, names) = plan_for(
            "CREATE TABLE parent(id INTEGER PRIMARY KEY, a TEXT UNIQUE, b TEXT, c VARCHAR(10), n REAL CHECK (n < 0));
             CREATE TABLE child(p INTEGER REFERENCES parent(id), q INTEGER, n NUMERIC, PRIMARY KEY (p, q));
             CREATE TABLE own(id TEXT PRIMARY KEY, t TEXT);
             INSERT INTO own VALUES ('x', 'y');
             INSERT INTO parent VALUES (1, 'u', 'v', 'w', -1), (2, 'x', 'y', 'z', -2), (3, 'a', 'b', 'c', -3);
             INSERT INTO child VALUES (1, 1, 1), (2, 1, 1), (3, 1, 1);",
        );
        assert_eq!(names.len(), 3);
        works(&connection, &plan);
    }

    #[test]
    fn a_database_without_fitting_rows_gets_a_table_of_the_demos_own() {
        let (connection, plan, names) = plan_for("CREATE TABLE only_key(id INTEGER PRIMARY KEY); INSERT INTO only_key VALUES (1)");
        assert_eq!(names, ["only_key", "demo_note"]);
        works(&connection, &plan);
    }
}
