//! Writing to a tracked table, folding, extracting, merging: 10,000 rows each.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use peers_sync::{Config, Replica, VersionVector};
use peers_wire::{PeerId, Timestamp};

const ROWS: u64 = 10_000;
const WALL: Timestamp = Timestamp(1_700_000_000_000);

fn replica(dir: &tempfile::TempDir, author: u8) -> Replica {
    let config = Config { author: PeerId([author; 32]), ..Config::default() };
    Replica::open(dir.path().join(format!("{author}.sqlite")), config).expect("a new file")
}

fn tracked(dir: &tempfile::TempDir) -> Replica {
    let mut replica = replica(dir, 1);
    let table = "CREATE TABLE item (id BLOB PRIMARY KEY NOT NULL, title TEXT, qty INT, price REAL)";
    replica.connection().execute_batch(table).expect("a new table");
    replica.track("item").expect("a table with a key");
    replica.refresh(WALL).expect("an open file");
    replica
}

fn insert(replica: &Replica) {
    let rows = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {ROWS})
         INSERT INTO item SELECT randomblob(16), 'title ' || i, i, i * 0.5 FROM n"
    );
    replica.connection().execute_batch(&rows).expect("new rows");
}

fn benches(c: &mut Criterion) {
    let mut group = c.benchmark_group("sync");
    group.throughput(Throughput::Elements(ROWS)).sample_size(10);
    let dir = || tempfile::tempdir().expect("a folder");
    let fresh = || {
        let dir = dir();
        (tracked(&dir), dir)
    };
    group.bench_function(format!("insert/{ROWS}"), |b| {
        b.iter_batched(fresh, |(replica, dir)| (insert(&replica), dir), BatchSize::PerIteration)
    });
    let written = || {
        let (replica, dir) = fresh();
        insert(&replica);
        (replica, dir)
    };
    group.bench_function(format!("refresh/{ROWS}"), |b| {
        b.iter_batched(written, |(mut replica, dir)| (replica.refresh(WALL).expect("an open file"), dir), BatchSize::PerIteration);
    });
    let (mut source, _kept) = written();
    source.refresh(WALL).expect("an open file");
    group.bench_function(format!("changes_since/{ROWS}"), |b| {
        b.iter(|| source.changes_since(&VersionVector::default(), usize::MAX).expect("an open file"));
    });
    let batches = source.changes_since(&VersionVector::default(), usize::MAX).expect("an open file");
    let empty = || {
        let dir = dir();
        (replica(&dir, 2), dir)
    };
    group.bench_function(format!("apply/{ROWS}"), |b| {
        b.iter_batched(
            empty,
            |(mut replica, dir)| {
                for batch in &batches {
                    replica.apply(WALL, batch).expect("an open file");
                }
                (replica, dir)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(all, benches);
criterion_main!(all);
