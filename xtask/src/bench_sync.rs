//! Figures of the database: what tracking, merging and extracting cost beside plain SQLite.

use std::path::{Path, PathBuf};

use peers_sync::rusqlite::{Connection, params};
use peers_sync::{Changes, Config, Replica, VersionVector};
use peers_wire::{PeerId, Timestamp};
use serde_json::{Map, Value, json};

/// Measures 100,000 rows (`PEERS_BENCH_ROWS`) of
/// `item(id BLOB PRIMARY KEY NOT NULL, title 20 B, body 60 B, qty INT, price REAL, state INT)` with random keys: WAL, `synchronous` NORMAL, 64 MB of
/// cache, temporary tables in files and in memory. CPU time, each beside plain SQLite doing the same, medians of 5.
///
/// - returns: `S1_own` and so on as docs/BENCHMARKS.md names them (`temp_store` default), the same under `memory` with temporary tables in memory
pub(crate) fn run() -> Value {
    let rows = std::env::var("PEERS_BENCH_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(100_000);
    let mut figures = measure(rows, 0);
    figures.insert("memory".to_owned(), Value::Object(measure(rows, 2)));
    figures.insert("rows".to_owned(), json!(rows));
    Value::Object(figures)
}

const ROUNDS: usize = 5;
const WALL: Timestamp = Timestamp(1_700_000_000_000);

fn measure(rows: usize, temp_store: i64) -> Map<String, Value> {
    let mut samples: Map<String, Value> = Map::new();
    for round in 0..ROUNDS {
        let mut add = |figure: &str, value: f64| {
            let values = samples.entry(figure).or_insert_with(|| json!([]));
            values.as_array_mut().expect("made above").push(json!(value));
        };
        let items = Items::new(rows, round as u64);
        let dir = tempfile::tempdir().expect("a folder for the databases");
        write_figures(&items, dir.path(), temp_store, &mut add);
        merge_figures(&items, dir.path(), temp_store, &mut add);
    }
    let median = |values: &Value| {
        let mut values: Vec<f64> = values.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        values.sort_by(f64::total_cmp);
        json!((values[values.len() / 2] * 1000.0).round() / 1000.0)
    };
    samples.iter().map(|(figure, values)| (figure.clone(), median(values))).collect()
}

/// S1 and S2: what writers pay, and the folding of the journal; S5: the disk.
fn write_figures(items: &Items, dir: &Path, temp_store: i64, add: &mut impl FnMut(&str, f64)) {
    let plain = plain(&dir.join("plain.sqlite"), temp_store);
    let mut own = replica(&dir.join("own.sqlite"), 1, temp_store);
    own.connection().execute_batch(TABLE).expect("a new table");
    own.track("item").expect("a table with a key");
    own.refresh(WALL).expect("an open file");
    let any_path = dir.join("any.sqlite");
    let mut any = replica(&any_path, 2, temp_store);
    any.connection().execute_batch(TABLE).expect("a new table");
    any.track("item").expect("a table with a key");
    any.refresh(WALL).expect("an open file");
    let client = connect(&any_path, temp_store);
    type Work<'a> = (&'a str, &'a dyn Fn(&Connection));
    let works: [Work<'_>; 5] = [
        ("S1", &|db| items.insert(db)),
        ("S2_update_all", &|db| run_sql(db, "UPDATE item SET qty = qty + 1")),
        ("S2_update_points", &|db| items.update_points(db)),
        ("S2_two_columns", &|db| run_sql(db, "UPDATE item SET price = price + 1, state = state + 1")),
        ("S2_delete", &|db| items.delete(db)),
    ];
    for (figure, work) in works {
        let bare = cpu(|| work(&plain));
        let writer = cpu(|| work(&client));
        let folding = cpu(|| assert!(any.refresh(WALL).expect("an open file")));
        let ours = cpu(|| work(own.connection()));
        own.refresh(WALL).expect("an open file");
        match figure {
            "S1" => {
                add("S1_own", ours / bare);
                add("S1_any", writer / bare);
                add("S1_total", (writer + folding) / bare);
                add("S5_disk_fresh", size(&any_path) / size(&dir.join("plain.sqlite")));
            }
            "S2_two_columns" => add("S5_disk_updated", size(&any_path) / size(&dir.join("plain.sqlite"))),
            _ => {
                add(figure, writer / bare);
                add(&figure.replacen("S2_", "S2_total_", 1), (writer + folding) / bare);
            }
        }
    }
    run_sql(&client, "DELETE FROM item");
    any.refresh(WALL).expect("an open file");
    run_sql(&client, "VACUUM");
    let empty = replica(&dir.join("empty.sqlite"), 3, temp_store);
    empty.connection().execute_batch(TABLE).expect("a new table");
    let count = items.rows.len();
    add("S5_tombstone_bytes", (size(&any_path) - size(&dir.join("empty.sqlite"))) / count as f64);
}

/// S3, S4 and S6: what travels.
fn merge_figures(items: &Items, dir: &Path, temp_store: i64, add: &mut impl FnMut(&str, f64)) {
    let mut source = replica(&dir.join("source.sqlite"), 4, temp_store);
    source.connection().execute_batch(TABLE).expect("a new table");
    source.track("item").expect("a table with a key");
    source.refresh(WALL).expect("an open file");
    let schema = source.changes_since(&VersionVector::default(), usize::MAX).expect("an open file");
    let begun = source.version();
    items.insert(source.connection());
    source.refresh(WALL).expect("an open file");

    let scanned = connect(&dir.join("source.sqlite"), temp_store);
    scan(&scanned);
    let scan_time = cpu(|| scan(&scanned));
    let mut all = Vec::new();
    let extract = cpu(|| all = source.changes_since(&begun, usize::MAX).expect("an open file"));
    add("S4_extract_all", extract / scan_time);
    let wire: usize = all.iter().map(|batch| batch.as_bytes().len()).sum();
    add("S6_wire_bytes_per_cell", (wire - items.payload()) as f64 / (items.rows.len() * 5) as f64);

    let plain = plain(&dir.join("merged-plain.sqlite"), temp_store);
    let mut target = replica(&dir.join("target.sqlite"), 5, temp_store);
    apply(&mut target, &schema);
    let bare = cpu(|| items.insert(&plain));
    add("S3_merge_empty", cpu(|| apply(&mut target, &all)) / bare);
    add("S3_merge_noop", cpu(|| apply(&mut target, &all)) / bare);

    let before = source.version();
    items.update_delta(source.connection());
    source.refresh(WALL).expect("an open file");
    let mut delta = Vec::new();
    add("S4_extract_delta_ms", cpu(|| delta = source.changes_since(&before, usize::MAX).expect("an open file")) * 1e3);
    let bare = cpu(|| items.update_delta(&plain));
    add("S3_merge_delta", cpu(|| apply(&mut target, &delta)) / bare);
}

fn apply(target: &mut Replica, batches: &[Changes]) {
    for batch in batches {
        target.apply(WALL, batch).expect("an open file");
    }
    while target.poll_event().is_some() {}
}

const TABLE: &str = "CREATE TABLE item (id BLOB PRIMARY KEY NOT NULL, title TEXT, body TEXT, qty INT, price REAL, state INT)";

struct Items {
    rows: Vec<([u8; 16], String, String, i64, f64, i64)>,
}

impl Items {
    fn new(count: usize, seed: u64) -> Self {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def0;
        // xorshift64*: keys need be no better than spread.
        let mut next = move || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            state.wrapping_mul(0x2545_f491_4f6c_dd1d)
        };
        let rows = (0..count).map(|i| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&next().to_be_bytes());
            id[8..].copy_from_slice(&next().to_be_bytes());
            let (title, body) = (format!("title {:014}", next() % 100_000_000_000_000), format!("{:060}", next()));
            (id, title, body, (next() % 1000).cast_signed(), i as f64 + 0.25, (next() % 5).cast_signed())
        });
        Self { rows: rows.collect() }
    }

    fn insert(&self, db: &Connection) {
        run_sql(db, "BEGIN");
        let mut insert = db.prepare("INSERT INTO item VALUES (?1, ?2, ?3, ?4, ?5, ?6)").expect("the table is there");
        for (id, title, body, qty, price, state) in &self.rows {
            insert.execute(params![id, title, body, qty, price, state]).expect("a new row");
        }
        run_sql(db, "COMMIT");
    }

    /// Every tenth row.
    fn update_points(&self, db: &Connection) {
        self.each(db, 10, "UPDATE item SET price = price + 1 WHERE id = ?1");
    }

    /// Every hundredth row.
    fn update_delta(&self, db: &Connection) {
        self.each(db, 100, "UPDATE item SET title = title || '.', qty = qty + 1 WHERE id = ?1");
    }

    fn delete(&self, db: &Connection) {
        self.each(db, 10, "DELETE FROM item WHERE id = ?1");
    }

    fn each(&self, db: &Connection, step: usize, sql: &str) {
        run_sql(db, "BEGIN");
        let mut statement = db.prepare(sql).expect("the table is there");
        for row in self.rows.iter().step_by(step) {
            statement.execute([&row.0]).expect("an open file");
        }
        run_sql(db, "COMMIT");
    }

    /// Bytes of keys and values in their shortest form.
    fn payload(&self) -> usize {
        let integer = |v: i64| match v {
            0 | 1 => 0,
            2..=0x7f => 1,
            _ => 2,
        };
        self.rows
            .iter()
            .map(|(id, title, body, qty, _, state)| id.len() + title.len() + body.len() + integer(*qty) + 8 + integer(*state))
            .sum()
    }
}

fn scan(db: &Connection) {
    let mut all = db.prepare_cached("SELECT * FROM item").expect("the table is there");
    let mut rows = all.query([]).expect("the table is there");
    let mut bytes = 0;
    while let Some(row) = rows.next().expect("an open file") {
        for column in 0..6 {
            bytes += row.get_ref(column).ok().and_then(|value| value.as_bytes().ok()).map_or(8, <[u8]>::len);
        }
    }
    std::hint::black_box(bytes);
}

fn plain(path: &Path, temp_store: i64) -> Connection {
    let db = connect(path, temp_store);
    db.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(())).expect("a new file");
    run_sql(&db, TABLE);
    db
}

fn connect(path: &Path, temp_store: i64) -> Connection {
    let db = Connection::open(path).expect("a file in a folder of ours");
    db.execute_batch(&format!("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -65536; PRAGMA temp_store = {temp_store}"))
        .expect("an open file");
    db
}

fn replica(path: &Path, author: u8, temp_store: i64) -> Replica {
    let config = Config { author: PeerId([author; 32]), incarnation: Some(1), cache_kib: 65_536, ..Config::default() };
    let replica = Replica::open(path, config).expect("a file in a folder of ours");
    replica.connection().execute_batch(&format!("PRAGMA synchronous = NORMAL; PRAGMA temp_store = {temp_store}")).expect("an open file");
    replica
}

fn run_sql(db: &Connection, sql: &str) {
    db.execute_batch(sql).expect("a statement that fits the table");
}

/// Bytes of a database, its log written back.
fn size(path: &Path) -> f64 {
    let db = Connection::open(path).expect("a file in a folder of ours");
    db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).expect("an open file");
    std::fs::metadata(PathBuf::from(path)).expect("a file in a folder of ours").len() as f64
}

/// Seconds of CPU that this thread spends in `work`; wall time where the system does not tell.
fn cpu(work: impl FnOnce()) -> f64 {
    #[expect(clippy::disallowed_methods, reason = "measures")]
    let start = std::time::Instant::now();
    let before = on_cpu();
    work();
    let elapsed = start.elapsed().as_secs_f64();
    match (before, on_cpu()) {
        // The kernel brings its count up to date at its own ticks only: too coarse for short work.
        (Some(before), Some(after)) if elapsed > 0.05 => (after - before) as f64 / 1e9,
        _ => elapsed,
    }
}

/// Nanoseconds this thread was on a CPU, on Linux.
fn on_cpu() -> Option<u64> {
    std::fs::read_to_string("/proc/thread-self/schedstat").ok()?.split_whitespace().next()?.parse().ok()
}
