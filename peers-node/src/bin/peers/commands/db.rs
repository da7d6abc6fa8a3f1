//! `peers db`.

use std::path::Path;

use peers_node::DatabaseStatus;
use serde::Serialize;
use serde_json::Value;

use super::{absolute, content, database, socket};
use crate::args::Database;
use crate::control::Request;
use crate::control::answer::{Change, Rows, Tracked};
use crate::control::client::ask;
use crate::failure::Failure;
use crate::output::Output;
use crate::text::{columns, count, plural, safe, time};

pub(crate) async fn db(command: Database, output: Output) -> Result<(), Failure> {
    match command {
        Database::Track { file, tables, name, plain } => {
            let request = Request::Track { file: absolute(&file)?, tables, name, plain };
            tracked(&ask(&socket()?, &request).await?, output);
        }
        Database::Untrack { database: name, tables } => {
            tracked(&ask(&socket()?, &Request::Untrack { database: database(name)?, tables }).await?, output)
        }
        Database::Status { database: name } => {
            status(ask(&socket()?, &Request::Databases { database: name.map(database).transpose()? }).await?, output)
        }
        Database::Log { database: name, last } => log(ask(&socket()?, &Request::Log { database: database(name)?, last }).await?, output),
        Database::Sql { database: name, sql } => {
            let sql = if sql == "-" {
                String::from_utf8(content(Path::new("-"))?).map_err(|_| Failure::usage("the SQL on standard input is not UTF-8"))?
            } else {
                sql
            };
            rows(&ask(&socket()?, &Request::Sql { database: database(name)?, sql }).await?, output);
        }
    }
    Ok(())
}

fn tracked(tracked: &Tracked, output: Output) {
    if tracked.made {
        let kind = if tracked.sealed { "an encrypted one: `peers db sql` opens it" } else { "a plain one" };
        output.say(format!("made {}, {kind}", tracked.path.display()));
    }
    let tables = if tracked.tables.is_empty() { "no table yet".to_owned() } else { safe(&tracked.tables.join(", "), false) };
    output.say(format!("{} ({}) is kept in step: {tables}", safe(&tracked.name, false), tracked.path.display()));
    for left in &tracked.left_out {
        output.say(format!("left out: {}", safe(&left.reason, false)));
    }
    output.finish(tracked);
}

#[derive(Serialize)]
struct Databases {
    databases: Vec<DatabaseStatus>,
}

fn status(databases: Vec<DatabaseStatus>, output: Output) {
    if databases.is_empty() {
        output.say("no database is kept in step; add one with `peers db track FILE`");
    }
    for database in &databases {
        let [name, place, state] = summary(database);
        output.say(format!("{}: {place}", name.trim_start()));
        if database.path.is_none() {
            output.say(format!("  bring it here with `peers db track FILE --name {}`", name.trim_start()));
            continue;
        }
        output.say(format!("  {state}"));
        output.say(columns(
            &database.tables.iter().map(|table| [format!("  {}", safe(&table.name, false)), rows_of(table.rows)]).collect::<Vec<_>>(),
        ));
    }
    output.finish(&Databases { databases });
}

/// A database in one line: its name, where it is, how it is.
pub(super) fn summary(database: &DatabaseStatus) -> [String; 3] {
    let place = database.path.as_ref().map_or_else(|| "on your other devices only".to_owned(), |path| path.display().to_string());
    let rows = rows_of(database.tables.iter().map(|table| table.rows).sum());
    let in_step = database.devices.iter().filter(|device| device.in_step).count();
    let state = match &database.trouble {
        Some(trouble) => format!("trouble: {}", safe(trouble, false)),
        None if database.path.is_none() => String::new(),
        None => format!(
            "{}, {rows}{}, in step with {in_step} of {}{}",
            plural(database.tables.len(), "table", "tables"),
            if database.sealed { ", encrypted" } else { "" },
            plural(database.devices.len(), "other device", "other devices"),
            if database.pending == 0 { String::new() } else { format!(", {} edits not yet taken up", database.pending) },
        ),
    };
    [format!("  {}", safe(&database.name, false)), place, state]
}

fn rows_of(rows: u64) -> String {
    plural(usize::try_from(rows).unwrap_or(usize::MAX), "row", "rows")
}

#[derive(Serialize)]
struct Log {
    changes: Vec<Change>,
}

fn log(changes: Vec<Change>, output: Output) {
    let lines = changes.iter().map(|change| {
        let author = change.author_name.as_deref().unwrap_or_else(|| change.author.get(..8).unwrap_or_default());
        let key: Vec<_> = change.key.iter().map(cell).collect();
        let what = match &change.columns[..] {
            _ if change.deleted => "deleted".to_owned(),
            // Nothing but its key, or all of it was written again since.
            [] => "inserted".to_owned(),
            columns => safe(&columns.join(", "), false),
        };
        let when = if change.time == 0 { "before it was tracked".to_owned() } else { time(change.time) };
        [when, safe(author, false), safe(&format!("{} {}", change.table, key.join(", ")), false), what]
    });
    output.say(columns(&lines.collect::<Vec<_>>()));
    output.finish(&Log { changes });
}

fn rows(rows: &Rows, output: Output) {
    for row in &rows.rows {
        let cells: Vec<_> = row.iter().map(cell).collect();
        output.say(cells.join(" | "));
    }
    if rows.truncated {
        output.say("... and more rows than are shown");
    }
    if rows.columns.is_empty() {
        output.say(format!("{} rows changed", count(rows.changed)));
    }
    output.finish(rows);
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => safe(text, true),
        other => other.to_string(),
    }
}
