//! Tests of whole replicas.

mod errors;
mod laws;
mod talking;
mod tracking;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_wire::{PeerId, Timestamp};

use crate::schema::SCHEMA;
use crate::{Changes, Config, Event, Replica, Value};

/// A wall time before any that the writers' own clock shows, so that it alone stamps.
pub(crate) const WALL: Timestamp = Timestamp(1_700_000_000_000);

/// Replicas in a folder that goes away with them, on virtual time.
pub(crate) struct World {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) now: Instant,
    pub(crate) wall: Timestamp,
    pub(crate) events: Vec<Vec<Event>>,
}

impl World {
    pub(crate) fn new(replicas: u8) -> Self {
        #[expect(clippy::disallowed_methods, reason = "an origin for virtual time")]
        let now = Instant::now();
        let dir = tempfile::tempdir().unwrap();
        let replicas: Vec<_> = (0..replicas).map(|n| open(&dir.path().join(format!("{n}.sqlite")), n)).collect();
        let events = replicas.iter().map(|_| Vec::new()).collect();
        Self { dir, replicas, now, wall: WALL, events }
    }

    pub(crate) fn path(&self, replica: usize) -> PathBuf {
        self.dir.path().join(format!("{replica}.sqlite"))
    }

    /// One millisecond later.
    pub(crate) fn tick(&mut self) -> Timestamp {
        self.now += Duration::from_millis(1);
        self.wall = self.wall.plus(1);
        self.wall
    }

    /// Runs statements as a program would, then takes them in.
    pub(crate) fn write(&mut self, replica: usize, sql: &str) {
        let wall = self.tick();
        self.replicas[replica].connection().execute_batch(sql).unwrap();
        self.replicas[replica].refresh(wall).unwrap();
    }

    pub(crate) fn connect(&mut self, a: usize, b: usize) {
        let (id_a, id_b) = (id(a), id(b));
        self.replicas[a].peer_connected(self.now, id_b);
        self.replicas[b].peer_connected(self.now, id_a);
    }

    pub(crate) fn disconnect(&mut self, a: usize, b: usize) {
        let (id_a, id_b) = (id(a), id(b));
        self.replicas[a].peer_disconnected(self.now, id_b);
        self.replicas[b].peer_disconnected(self.now, id_a);
    }

    /// Delivers up to `messages` messages between all replicas that are connected; gives how many there were.
    pub(crate) fn deliver(&mut self, messages: usize) -> usize {
        let mut delivered = 0;
        loop {
            let mut quiet = true;
            for from in 0..self.replicas.len() {
                while let Some((to, message)) = self.replicas[from].poll_message() {
                    assert!(message.len() <= 1 << 20);
                    if delivered >= messages {
                        return delivered;
                    }
                    quiet = false;
                    delivered += 1;
                    assert!(delivered < 5000, "the conversation has no end");
                    let to = usize::from(to.0[0]) - 1;
                    self.replicas[to].handle_message(self.now, self.wall, id(from), message);
                }
            }
            self.drain();
            if quiet {
                let Some(next) = self.replicas.iter().filter_map(Replica::poll_timeout).min() else { return delivered };
                self.now = self.now.max(next);
                self.replicas.iter_mut().for_each(|replica| replica.handle_timeout(self.now));
            }
        }
    }

    pub(crate) fn drain(&mut self) {
        for (replica, events) in self.replicas.iter_mut().zip(&mut self.events) {
            events.extend(std::iter::from_fn(|| replica.poll_event()));
            if let Some(Event::Failed { error, .. }) = events.iter().find(|event| matches!(event, Event::Failed { .. })) {
                panic!("{error}");
            }
        }
    }

    /// Lets two replicas talk until both are in step.
    pub(crate) fn meet(&mut self, a: usize, b: usize) {
        self.connect(a, b);
        self.deliver(usize::MAX);
        let (id_a, id_b) = (id(a), id(b));
        let in_step = |events: &[Event], with: PeerId| events.iter().any(|event| matches!(event, Event::InStep { peer } if *peer == with));
        let partial = |replica: usize| !self.replicas[replica].core.ahead.is_empty();
        assert!(in_step(&self.events[a], id_b) || partial(a), "{a} in step with {b}");
        assert!(in_step(&self.events[b], id_a) || partial(b), "{b} in step with {a}");
        let partial = partial(a) || partial(b);
        self.events.iter_mut().for_each(Vec::clear);
        assert!(partial || self.replicas[a].version() == self.replicas[b].version());
        self.disconnect(a, b);
    }

    /// Every replica meets every other, twice round.
    pub(crate) fn meet_all(&mut self) {
        for _ in 0..2 {
            for a in 0..self.replicas.len() {
                for b in 0..a {
                    self.meet(a, b);
                }
            }
        }
    }

    pub(crate) fn assert_equal(&mut self) {
        let (first, rest) = self.replicas.split_first_mut().unwrap();
        let (state, clocks) = (state(first), clocks(first));
        for replica in rest {
            pretty_eq(&state, &self::state(replica));
            pretty_eq(&clocks, &self::clocks(replica));
        }
    }
}

fn pretty_eq(a: &[String], b: &[String]) {
    if a != b {
        let only = |a: &[String], b: &[String]| a.iter().filter(|line| !b.contains(line)).cloned().collect::<Vec<_>>().join("\n");
        panic!("only here:\n{}\nonly there:\n{}", only(a, b), only(b, a));
    }
}

pub(crate) fn id(replica: usize) -> PeerId {
    PeerId([u8::try_from(replica).unwrap() + 1; 32])
}

pub(crate) fn open(path: &Path, replica: u8) -> Replica {
    let config = Config { author: id(usize::from(replica)), incarnation: Some(1), busy_timeout: 200, ..Config::default() };
    Replica::open(path, config).unwrap()
}

/// The rows a query gives, as text.
pub(crate) fn rows(replica: &Replica, sql: &str) -> Vec<String> {
    let mut statement = replica.connection().prepare(sql).unwrap();
    let columns = statement.column_count();
    let rows = statement.query_map([], |row| (0..columns).map(|i| row.get::<_, Value>(i)).collect::<Result<Vec<_>, _>>()).unwrap();
    rows.map(|row| format!("{:?}", row.unwrap())).collect()
}

/// Every cell of every tracked table, and every parked row.
pub(crate) fn state(replica: &Replica) -> Vec<String> {
    let mut lines = Vec::new();
    for table in replica.tables() {
        let info =
            format!("SELECT name FROM pragma_table_xinfo('{}') WHERE hidden = 0 ORDER BY pk = 0, pk, name", table.replace('\'', "''"));
        let mut info = replica.connection().prepare(&info).unwrap();
        let columns: Vec<String> =
            info.query_map([], |row| row.get::<_, String>(0)).unwrap().map(|name| crate::schema::quote(&name.unwrap())).collect();
        let sql = format!("SELECT {} FROM {} ORDER BY {}", columns.join(", "), crate::schema::quote(table), columns.join(", "));
        lines.extend(rows(replica, &sql).into_iter().map(|row| format!("{table} {row}")));
    }
    lines.extend(replica.parked().unwrap().into_iter().map(|parked| {
        let mut values = parked.values;
        values.sort_by(|a, b| a.0.cmp(&b.0));
        format!("parked {} {:?} {:?} {values:?}", parked.table, parked.key, parked.reason)
    }));
    lines.sort_unstable();
    lines
}

/// The bookkeeping in terms that do not depend on the replica: for each row its life and who wrote which column.
pub(crate) fn clocks(replica: &mut Replica) -> Vec<String> {
    let mut lines: Vec<_> = replica.version().iter().map(|(origin, seen)| format!("{origin:?} {seen}")).collect();
    for table in replica.core.tables.clone() {
        let mut all = replica.db.prepare(&format!("SELECT * FROM _peers_clock_{}", table.id)).unwrap();
        let mut all = all.query([]).unwrap();
        while let Some(row) = all.next().unwrap() {
            let key: Vec<Value> = (0..table.keys.len()).map(|i| row.get(i).unwrap()).collect();
            let clock = replica.core.clocks.record(&replica.db, row.get(table.keys.len()).unwrap()).unwrap();
            let clocks = &mut replica.core.clocks;
            let mut name = |txn: u64| {
                if txn == 0 {
                    return "none".to_owned();
                }
                let info = clocks.txn(&replica.db, txn).unwrap();
                format!("{:?}:{}@{}", clocks.origin(info.origin), info.seq, info.hlc.0)
            };
            let mut cells: Vec<_> = Vec::new();
            for (txn, columns) in &clock.cells {
                cells.extend(columns.iter().map(|i| (table.columns[i].clone(), name(*txn))));
            }
            cells.sort_unstable();
            lines.push(format!("{} {key:?} life {} born {} {cells:?}", table.name, clock.life, name(clock.born)));
        }
    }
    lines.sort_unstable();
    lines
}

/// All that a replica can give, in batches of about `limit` bytes.
pub(crate) fn batches(replica: &mut Replica, limit: usize) -> Vec<Changes> {
    let mut batches = Vec::new();
    let origins: Vec<_> = replica.version().iter().map(|(origin, _)| *origin).collect();
    for origin in origins {
        let id = replica.core.clocks.origin_id(&origin).unwrap();
        let mut at = crate::clock::Position::default();
        while let Some(batch) = replica.core.extract(&replica.db, id, &at, limit).unwrap() {
            assert!(at.reaches(batch.last()) && at != *batch.last() || at.seq == batch.last().seq, "goes forward");
            at = batch.last().clone();
            batches.push(Changes::decode(Bytes::copy_from_slice(batch.as_bytes())).unwrap());
        }
    }
    for range in replica.core.ahead.ranges().to_vec() {
        let mut at = range.first.clone();
        while at != range.last {
            let Some(batch) = replica.core.extract_ahead(&replica.db, &range, &at, limit).unwrap() else { break };
            at = batch.last().clone();
            batches.push(batch);
        }
    }
    batches
}

#[test]
fn a_new_replica_gets_the_schema_and_every_row() {
    let mut world = World::new(2);
    world.write(
        0,
        "CREATE TABLE note (id INTEGER PRIMARY KEY, title TEXT NOT NULL, body BLOB, n REAL, big INTEGER GENERATED ALWAYS AS (n * 2));
         CREATE UNIQUE INDEX note_title ON note (title);
         INSERT INTO note (id, title, body, n) VALUES (1, 'x', x'00', 1.5), (2, 'y', NULL, NULL);",
    );
    world.replicas[0].track("note").unwrap();
    world.write(0, "INSERT INTO note VALUES (3, 'z', 'text', -1)");
    world.meet(0, 1);
    world.assert_equal();
    let schema = "SELECT name, sql FROM sqlite_master WHERE tbl_name = 'note' AND type <> 'trigger' ORDER BY name";
    assert_eq!(rows(&world.replicas[0], schema), rows(&world.replicas[1], schema));
    assert_eq!(rows(&world.replicas[1], "SELECT id, title, n, big FROM note WHERE id <> 2"), ["[1, 'x', 1.5, 3]", "[3, 'z', -1.0, -2]"]);
    assert!(!world.replicas[1].core.tables.iter().any(|table| table.name == SCHEMA && !table.attached));
}
