//! Databases through the command.

use crate::harness::{Home, database};

#[test]
fn a_database_that_peers_makes_is_sealed_and_used_by_sql() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    let file = home.file("diary.sqlite");
    let made = home.ok(&["db", "track", file.to_str().unwrap()]);
    assert_eq!((&made["made"], &made["sealed"], &made["name"]), (&true.into(), &true.into(), &"diary".into()));
    home.ok(&["db", "sql", "diary", "CREATE TABLE entry(day TEXT PRIMARY KEY NOT NULL, text TEXT, mood REAL, photo BLOB)"]);
    let changed =
        home.ok(&["db", "sql", "diary", "INSERT INTO entry VALUES ('monday', 'heliotrope', 0.5, x'00ff'), ('tuesday', NULL, 1, NULL)"]);
    assert_eq!(changed["changed"], 2);
    home.ok(&["db", "track", "diary.sqlite", "entry"]);
    let rows = home.ok(&["db", "sql", file.to_str().unwrap(), "SELECT * FROM entry ORDER BY day"]);
    assert_eq!(rows["columns"].to_string(), r#"["day","text","mood","photo"]"#);
    assert_eq!(rows["rows"].to_string(), r#"[["monday","heliotrope",0.5,{"blob":"00ff"}],["tuesday",null,1.0,null]]"#);
    home.run(&["db", "sql", "diary", "SELECT * FROM absent"]).fails(1, &["absent"]);
    let status = home.ok(&["db", "status", "diary"]);
    assert_eq!(status["databases"][0]["tables"][0]["rows"], 2);
    assert!(!home.ok(&["db", "log", "diary"])["changes"].as_array().unwrap().is_empty());
    node.stop();
    let bytes = std::fs::read(&file).unwrap();
    assert!(!bytes.starts_with(b"SQLite format 3") && !bytes.windows(10).any(|part| part == b"heliotrope"));
}

#[test]
fn tracking_follows_a_plain_file_and_ends_with_untrack() {
    let home = Home::new();
    let node = home.up_alone("laptop");
    let file = home.file("notes.sqlite");
    let program = database(&file, "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT); CREATE TABLE tag(name TEXT PRIMARY KEY NOT NULL)");
    let tracked = home.ok(&["db", "track", file.to_str().unwrap()]);
    assert_eq!(
        (&tracked["made"], &tracked["sealed"], tracked["tables"].to_string()),
        (&false.into(), &false.into(), r#"["note","tag"]"#.to_owned())
    );
    program.execute_batch("INSERT INTO note VALUES (1, 'written by another program')").unwrap();
    let untracked = home.ok(&["db", "untrack", "notes", "tag"]);
    assert_eq!(untracked["tables"].to_string(), r#"["note"]"#);
    home.ok(&["db", "untrack", "notes"]);
    let rows: i64 = program.query_row("SELECT count(*) FROM note", [], |row| row.get(0)).unwrap();
    assert_eq!(rows, 1, "the rows stay");
    node.stop();
}
