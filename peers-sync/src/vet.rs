//! Whether a statement that came from another device does no more than make the table or index it is said to make.

use rusqlite::Connection;
use rusqlite::hooks::{AuthAction, AuthContext, Authorization};

use crate::schema::is_reserved;

/// Runs the statement on an empty database of its own, where it may do nothing but create, and looks what came of it.
///
/// `None` if it does anything else.
pub(crate) fn vet(name: &str, sql: &str) -> Option<Made> {
    if sql.len() > MAX_STATEMENT || is_reserved(name) {
        return None;
    }
    let words: Vec<String> = sql.split_whitespace().take(3).map(str::to_ascii_uppercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["CREATE", "TABLE", ..] => makes_table(name, sql).unwrap_or(false).then_some(Made::Table),
        ["CREATE", "INDEX", ..] | ["CREATE", "UNIQUE", "INDEX"] => index_table(name, sql).map(|table| Made::Index { table }),
        _ => None,
    }
}

/// What a statement makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Made {
    Table,
    Index { table: String },
}

fn makes_table(name: &str, sql: &str) -> rusqlite::Result<bool> {
    let mut db = Connection::open_in_memory()?;
    db.authorizer(Some(|context: AuthContext<'_>| match context.action {
        AuthAction::CreateTable { .. }
        | AuthAction::CreateIndex { .. }
        | AuthAction::Insert { .. }
        | AuthAction::Update { .. }
        | AuthAction::Read { .. }
        | AuthAction::Function { .. }
        | AuthAction::Reindex { .. } => Authorization::Allow,
        _ => Authorization::Deny,
    }))?;
    // Not `execute_batch`: a second statement is an error.
    db.execute(sql, [])?;
    db.authorizer(None::<fn(AuthContext<'_>) -> Authorization>)?;
    db.query_row(
        "SELECT count(*) = 1 AND max(name = ?1) FROM sqlite_master WHERE type = 'table' AND name <> 'sqlite_sequence'",
        [name],
        |row| row.get(0),
    )
}

/// The table that a single CREATE INDEX statement is on; the index must be of this name.
fn index_table(name: &str, sql: &str) -> Option<String> {
    let rest = &sql[sql.to_ascii_uppercase().find("INDEX")? + 5..];
    let (found, rest) = identifier(rest)?;
    let on = rest.trim_start();
    if found != name || !on.get(..2)?.eq_ignore_ascii_case("ON") {
        return None;
    }
    let (table, rest) = identifier(&on[2..])?;
    // One statement: nothing after a semicolon outside of quotes. An index statement has no body that could hold one.
    (rest.trim_start().starts_with('(') && !rest.contains(';')).then_some(table)
}

/// A name at the front, bare or in any of the quotes SQLite knows.
fn identifier(text: &str) -> Option<(String, &str)> {
    let text = text.trim_start();
    let first = text.chars().next()?;
    let close = match first {
        '"' | '`' | '\'' => first,
        '[' => ']',
        _ => {
            let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
            return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
        }
    };
    let mut name = String::new();
    let mut rest = text[1..].char_indices().peekable();
    while let Some((i, c)) = rest.next() {
        if c != close {
            name.push(c);
        } else if close != ']' && rest.peek().is_some_and(|(_, next)| *next == close) {
            name.push(close);
            rest.next();
        } else {
            return Some((name, &text[1 + i + c.len_utf8()..]));
        }
    }
    None
}

/// Bytes of a statement.
const MAX_STATEMENT: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    fn passes(name: &str, sql: &str) -> bool {
        vet(name, sql).is_some_and(|made| made == Made::Table || made == Made::Index { table: "note".to_owned() })
    }

    #[test]
    fn tables_and_indexes_pass() {
        assert!(passes(
            "note",
            "CREATE TABLE note (id INTEGER PRIMARY KEY, body TEXT DEFAULT ('a' || 'b') CHECK (length(body) < 9), n AS (id + 1))"
        ));
        assert!(passes("no te", "CREATE TABLE \"no te\" (a, b REFERENCES other (x) ON DELETE CASCADE, PRIMARY KEY (a, b)) WITHOUT ROWID"));
        assert!(passes("note_body", "CREATE INDEX note_body ON note (body COLLATE NOCASE) WHERE body IS NOT NULL"));
        assert!(passes("by \"x\"", "CREATE UNIQUE INDEX \"by \"\"x\"\"\" ON [note] (lower(body))"));
    }

    #[test]
    fn a_statement_that_does_anything_else_does_not_pass() {
        for sql in [
            "CREATE TABLE note AS SELECT * FROM sqlite_master",
            "CREATE TABLE note (id); DROP TABLE other",
            "CREATE TABLE other (id)",
            "CREATE TRIGGER note AFTER INSERT ON x BEGIN DELETE FROM y; END",
            "CREATE VIEW note AS SELECT 1",
            "CREATE VIRTUAL TABLE note USING fts5 (a)",
            "DROP TABLE note",
            "ATTACH 'x' AS y",
            "CREATE INDEX note ON secret (a)",
            "CREATE INDEX note ON note (a); DELETE FROM note",
            "",
        ] {
            assert!(!passes("note", sql), "{sql}");
        }
        assert!(!passes("_peers_meta", "CREATE TABLE _peers_meta (a)"));
    }
}
