//! Databases that are kept in step.

use std::path::Path;

use peers_node::{Database, DatabaseOptions, DatabaseStatus, Node};
use rusqlite::types::ValueRef;

use super::errors;
use super::sql::cell;
use crate::control::answer::{Change, LeftOut, Tracked};
use crate::control::request::DatabaseRef;
use crate::failure::Failure;

pub(crate) async fn track(node: &Node, file: &Path, tables: &[String], name: Option<String>, plain: bool) -> Result<Tracked, Failure> {
    let made = !file.exists();
    let failed = |error| errors::database(file, error);
    let database = node.database(file, DatabaseOptions { name, plain }).await.map_err(failed)?;
    let mut left_out = Vec::new();
    if tables.is_empty() {
        let refused = database.track_all().await.map_err(failed)?;
        left_out.extend(refused.into_iter().map(|(table, reason)| LeftOut { table, reason: reason.to_string() }));
    }
    for table in tables {
        database.track(table).await.map_err(failed)?;
    }
    let tracked = tracked(&database, made, left_out).await?;
    match &tracked.left_out[..] {
        [first, ..] if tracked.tables.is_empty() => {
            Err(Failure::failed(format!("{}: no table can be tracked: {}", file.display(), first.reason)))
        }
        _ => Ok(tracked),
    }
}

pub(crate) async fn untrack(node: &Node, database: &DatabaseRef, tables: &[String]) -> Result<Tracked, Failure> {
    let database = find(node, database).await?;
    let all: Vec<String>;
    let tables = if tables.is_empty() {
        all = state(&database).await?.tables.into_iter().map(|table| table.name).collect();
        &all
    } else {
        tables
    };
    for table in tables {
        database.untrack(table).await.map_err(|error| errors::database(database.path(), error))?;
    }
    tracked(&database, false, Vec::new()).await
}

pub(crate) async fn status(node: &Node, database: Option<&DatabaseRef>) -> Result<Vec<DatabaseStatus>, Failure> {
    let all = node.databases().await?;
    let Some(wanted) = database else { return Ok(all) };
    let found: Vec<_> = all.into_iter().filter(|status| names(wanted, status)).collect();
    if found.is_empty() { Err(unknown(wanted)) } else { Ok(found) }
}

pub(crate) async fn log(node: &Node, database: &DatabaseRef, last: usize) -> Result<Vec<Change>, Failure> {
    let database = find(node, database).await?;
    let changes = database.log(last).await.map_err(|error| errors::database(database.path(), error))?;
    let devices = node.status().await?.user.devices;
    let shown = changes.into_iter().rev().map(|change| Change {
        time: change.time.0,
        author_name: devices.iter().find(|device| device.id == change.author).map(|device| device.name.clone()),
        author: change.author.to_string(),
        table: change.table,
        key: change.key.iter().map(|value| cell(borrowed(value)).0).collect(),
        columns: change.columns,
        deleted: change.deleted,
    });
    Ok(shown.collect())
}

fn borrowed(value: &peers_sync::Value) -> ValueRef<'_> {
    match value {
        peers_sync::Value::Null => ValueRef::Null,
        peers_sync::Value::Integer(number) => ValueRef::Integer(*number),
        peers_sync::Value::Real(number) => ValueRef::Real(*number),
        peers_sync::Value::Text(text) => ValueRef::Text(text),
        peers_sync::Value::Blob(bytes) => ValueRef::Blob(bytes),
    }
}

/// The database of that name, else the one at that path.
///
/// # Errors
/// One that is not known, or is kept on other devices only.
pub(super) async fn find(node: &Node, wanted: &DatabaseRef) -> Result<Database, Failure> {
    if let Some(database) = node.open_database(&wanted.name).await? {
        return Ok(database);
    }
    let all = node.databases().await?;
    let found = all.iter().find(|status| names(wanted, status)).ok_or_else(|| unknown(wanted))?;
    match node.open_database(&found.id.to_string()).await? {
        Some(database) => Ok(database),
        None => Err(Failure::failed(format!("the database {} is kept on your other devices and not on this one", found.name))
            .hint(format!("bring it here with `peers db track FILE --name {}`", found.name))),
    }
}

fn names(wanted: &DatabaseRef, status: &DatabaseStatus) -> bool {
    status.name == wanted.name || status.path.as_deref() == Some(&wanted.path)
}

fn unknown(wanted: &DatabaseRef) -> Failure {
    Failure::failed(format!("no database is known as {}", wanted.name))
        .hint("see `peers db status` for those that are, or add it with `peers db track FILE`")
}

async fn state(database: &Database) -> Result<DatabaseStatus, Failure> {
    database.status().await.map_err(|error| errors::database(database.path(), error))
}

async fn tracked(database: &Database, made: bool, left_out: Vec<LeftOut>) -> Result<Tracked, Failure> {
    let status = state(database).await?;
    Ok(Tracked {
        id: status.id.to_string(),
        name: status.name,
        path: database.path().to_owned(),
        sealed: status.sealed,
        made,
        tables: status.tables.into_iter().map(|table| table.name).collect(),
        left_out,
    })
}
