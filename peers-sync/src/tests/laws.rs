//! The merge laws, over random histories, against a naive model.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;
use crate::{Hlc, Origin};

/// What one statement of a random program does to the table `item(id INTEGER PRIMARY KEY, a, b, u UNIQUE)`.
#[derive(Debug, Clone)]
enum Op {
    Insert(i64, [i64; 3]),
    Replace(i64, [i64; 3]),
    Upsert(i64, [i64; 3]),
    Update(i64, usize, i64),
    UpdateOrReplace(i64, i64),
    Move(i64, i64),
    Delete(i64),
}

#[derive(Debug, Clone)]
enum Step {
    /// A transaction at a replica; rolled back or not.
    Write { at: usize, ops: Vec<Op>, commit: bool },
    /// Two replicas talk until they are in step.
    Meet(usize, usize),
    /// A replica applies some of the batches that another could give, in another order, some of them twice.
    Carry { from: usize, to: usize, limit: usize, picks: Vec<u64> },
}

const REPLICAS: usize = 3;
const COLUMNS: [&str; 3] = ["a", "b", "u"];

fn op() -> impl Strategy<Value = Op> {
    let (id, cell) = (0i64..5, 0i64..4);
    let cells = || [0i64..4, 0i64..4, 0i64..6];
    prop_oneof![
        4 => (id.clone(), cells()).prop_map(|(id, cells)| Op::Insert(id, cells)),
        1 => (id.clone(), cells()).prop_map(|(id, cells)| Op::Replace(id, cells)),
        1 => (id.clone(), cells()).prop_map(|(id, cells)| Op::Upsert(id, cells)),
        4 => (id.clone(), 0usize..3, cell).prop_map(|(id, column, value)| Op::Update(id, column, value)),
        1 => (id.clone(), 0i64..6).prop_map(|(id, value)| Op::UpdateOrReplace(id, value)),
        1 => (id.clone(), id.clone()).prop_map(|(from, to)| Op::Move(from, to)),
        2 => id.prop_map(Op::Delete),
    ]
}

fn steps(carry: u32) -> impl Strategy<Value = Vec<Step>> {
    let replica = 0..REPLICAS;
    let write = (replica.clone(), prop::collection::vec(op(), 1..5), prop::bool::weighted(0.9)).prop_map(|(at, ops, commit)| Step::Write {
        at,
        ops,
        commit,
    });
    let meet = (replica.clone(), replica.clone()).prop_map(|(a, b)| Step::Meet(a, b));
    let picks = prop::collection::vec(any::<u64>(), 0..8);
    let carried = (replica.clone(), replica, prop_oneof![Just(1usize), Just(40), Just(1 << 20)], picks)
        .prop_map(|(from, to, limit, picks)| Step::Carry { from, to, limit, picks });
    prop::collection::vec(prop_oneof![6 => write, 2 => meet, carry => carried], 1..30)
}

/// The naive model: a map of rows, each a map of cells with their clocks.
type Stamp = (Hlc, Origin);

#[derive(Debug, Clone, Default, PartialEq)]
struct Row {
    life: u64,
    born: Option<Stamp>,
    cells: BTreeMap<usize, (Stamp, i64)>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Model {
    rows: BTreeMap<i64, Row>,
}

impl Model {
    fn join(&mut self, other: &Self) {
        for (id, theirs) in &other.rows {
            let ours = self.rows.entry(*id).or_default();
            if theirs.life > ours.life {
                *ours = theirs.clone();
            } else if theirs.life == ours.life {
                ours.born = ours.born.max(theirs.born);
                for (column, cell) in &theirs.cells {
                    let ours = ours.cells.entry(*column).or_insert(*cell);
                    if cell.0 > ours.0 {
                        *ours = *cell;
                    }
                }
            }
        }
    }

    /// Rows in the table: in order of birth, all whose UNIQUE value is not taken.
    fn visible(&self) -> BTreeMap<i64, [i64; 3]> {
        let mut order: Vec<_> = self.rows.iter().filter(|(_, row)| row.life % 2 == 1).collect();
        order.sort_by_key(|(id, row)| (row.born, crate::value::encode_key(&[Value::Integer(**id)])));
        let (mut taken, mut rows) = (BTreeSet::new(), BTreeMap::new());
        for (id, row) in order {
            let cells = [0, 1, 2].map(|column| row.cells[&column].1);
            if taken.insert(cells[2]) {
                rows.insert(*id, cells);
            }
        }
        rows
    }

    fn write(&mut self, stamp: Stamp, id: i64, cells: impl IntoIterator<Item = (usize, i64)>) {
        let row = self.rows.entry(id).or_default();
        if row.life.is_multiple_of(2) {
            *row = Row { life: row.life + 1, born: Some(stamp), cells: BTreeMap::new() };
        }
        row.cells.extend(cells.into_iter().map(|(column, value)| (column, (stamp, value))));
    }

    fn delete(&mut self, stamp: Stamp, id: i64) {
        let row = self.rows.entry(id).or_default();
        *row = Row { life: row.life + 1, born: Some(stamp), cells: BTreeMap::new() };
    }

    /// Plays a transaction as SQLite would; gives the statements that it ran. `visible` is the table as the transaction sees it.
    fn play(&mut self, stamp: Stamp, ops: &[Op]) -> Vec<String> {
        let before = self.clone();
        let mut visible = self.visible();
        // Rows that an OR REPLACE took; they are not touched again in this transaction.
        let mut taken: BTreeSet<i64> = BTreeSet::new();
        let mut sql = Vec::new();
        for op in ops {
            let holder = |visible: &BTreeMap<i64, [i64; 3]>, u: i64, but: i64| {
                visible.iter().find(|(id, cells)| cells[2] == u && **id != but).map(|(id, _)| *id)
            };
            let ids: &[i64] = match op {
                Op::Insert(id, _)
                | Op::Replace(id, _)
                | Op::Upsert(id, _)
                | Op::Update(id, ..)
                | Op::UpdateOrReplace(id, _)
                | Op::Delete(id) => &[*id],
                Op::Move(from, to) => &[*from, *to],
            };
            if ids.iter().any(|id| taken.contains(id)) {
                continue;
            }
            match *op {
                Op::Insert(id, cells) if !visible.contains_key(&id) && holder(&visible, cells[2], id).is_none() => {
                    self.write(stamp, id, (0..).zip(cells));
                    visible.insert(id, cells);
                    sql.push(format!("INSERT INTO item VALUES ({id}, {}, {}, {})", cells[0], cells[1], cells[2]));
                }
                Op::Replace(id, cells) => {
                    if let Some(holder) = holder(&visible, cells[2], id) {
                        self.delete(stamp, holder);
                        visible.remove(&holder);
                        taken.insert(holder);
                    }
                    self.write(stamp, id, (0..).zip(cells));
                    visible.insert(id, cells);
                    sql.push(format!("INSERT OR REPLACE INTO item VALUES ({id}, {}, {}, {})", cells[0], cells[1], cells[2]));
                }
                Op::Upsert(id, cells) if holder(&visible, cells[2], id).is_none() => {
                    if let Some(row) = visible.get_mut(&id) {
                        if row[0] != cells[0] {
                            self.write(stamp, id, [(0, cells[0])]);
                            row[0] = cells[0];
                        }
                    } else {
                        self.write(stamp, id, (0..).zip(cells));
                        visible.insert(id, cells);
                    }
                    sql.push(format!(
                        "INSERT INTO item VALUES ({id}, {}, {}, {}) ON CONFLICT (id) DO UPDATE SET a = excluded.a",
                        cells[0], cells[1], cells[2]
                    ));
                }
                Op::Update(id, column, value) if visible.contains_key(&id) && (column != 2 || holder(&visible, value, id).is_none()) => {
                    if visible[&id][column] != value {
                        self.write(stamp, id, [(column, value)]);
                    }
                    visible.entry(id).and_modify(|cells| cells[column] = value);
                    sql.push(format!("UPDATE item SET {} = {value} WHERE id = {id}", COLUMNS[column]));
                }
                Op::UpdateOrReplace(id, value) if visible.contains_key(&id) => {
                    if let Some(holder) = holder(&visible, value, id) {
                        self.delete(stamp, holder);
                        visible.remove(&holder);
                        taken.insert(holder);
                    }
                    if visible[&id][2] != value {
                        self.write(stamp, id, [(2, value)]);
                    }
                    visible.entry(id).and_modify(|cells| cells[2] = value);
                    sql.push(format!("UPDATE OR REPLACE item SET u = {value} WHERE id = {id}"));
                }
                Op::Move(from, to) if visible.contains_key(&from) && !visible.contains_key(&to) && from != to => {
                    let cells = visible[&from];
                    self.delete(stamp, from);
                    self.write(stamp, to, (0..).zip(cells));
                    visible.remove(&from);
                    visible.insert(to, cells);
                    sql.push(format!("UPDATE item SET id = {to} WHERE id = {from}"));
                }
                Op::Delete(id) => {
                    if visible.remove(&id).is_some() {
                        self.delete(stamp, id);
                    }
                    sql.push(format!("DELETE FROM item WHERE id = {id}"));
                }
                _ => {}
            }
        }
        // What nobody else ever saw leaves no tombstone.
        self.rows.retain(|id, row| row.life % 2 == 1 || before.rows.contains_key(id));
        sql
    }
}

struct Histories {
    world: World,
    models: Vec<Model>,
}

impl Histories {
    fn new() -> Self {
        let mut world = World::new(u8::try_from(REPLICAS).unwrap());
        world.write(0, "CREATE TABLE item (id INTEGER PRIMARY KEY, a, b, u UNIQUE)");
        world.replicas[0].track("item").unwrap();
        world.write(0, "");
        for other in 1..REPLICAS {
            world.meet(0, other);
        }
        Self { world, models: vec![Model::default(); REPLICAS] }
    }

    /// A transaction, here and in the model.
    fn write(&mut self, at: usize, ops: &[Op], commit: bool) {
        let wall = self.world.tick();
        let replica = &mut self.world.replicas[at];
        let stamp = (Hlc(crate::clocks::meta(&replica.db, "hlc").unwrap().unwrap().cast_unsigned()).tick(wall), replica.origin());
        let mut played = self.models[at].clone();
        let sql = played.play(stamp, ops);
        replica.connection().execute_batch(&format!("BEGIN; {}; {}", sql.join("; "), if commit { "COMMIT" } else { "ROLLBACK" })).unwrap();
        if commit {
            self.models[at] = played;
        }
        replica.refresh(wall).unwrap();
    }

    fn meet(&mut self, a: usize, b: usize) {
        if a != b {
            self.world.meet(a, b);
            let other = self.models[b].clone();
            self.models[a].join(&other);
            self.models[b] = self.models[a].clone();
        }
    }

    fn check(&self, at: usize) {
        let visible = rows(&self.world.replicas[at], "SELECT id, a, b, u FROM item ORDER BY id");
        let wanted: Vec<_> = self.models[at].visible().iter().map(|(id, [a, b, u])| format!("[{id}, {a}, {b}, {u}]")).collect();
        assert_eq!(visible, wanted, "replica {at}\n{:#?}", self.models[at]);
        let alive = self.models[at].rows.values().filter(|row| row.life % 2 == 1).count();
        assert_eq!(self.world.replicas[at].parked().unwrap().len(), alive - wanted.len());
    }
}

/// Histories to try: 150, the same in every run; or as many others as `PEERS_HISTORIES` says.
fn histories() -> ProptestConfig {
    let more = std::env::var("PEERS_HISTORIES").ok().and_then(|cases| cases.parse().ok());
    let rng_seed = if more.is_some() { RngSeed::Random } else { RngSeed::Fixed(1) };
    ProptestConfig { cases: more.unwrap_or(150), rng_seed, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(histories())]

    #[test]
    fn replicas_that_meet_hold_what_the_naive_model_holds(steps in steps(0)) {
        let mut histories = Histories::new();
        for step in &steps {
            match step {
                Step::Write { at, ops, commit } => {
                    histories.write(*at, ops, *commit);
                    histories.check(*at);
                }
                Step::Meet(a, b) => {
                    histories.meet(*a, *b);
                    histories.check(*a);
                    histories.check(*b);
                }
                Step::Carry { .. } => {}
            }
        }
        for _ in 0..2 {
            (1..REPLICAS).for_each(|other| histories.meet(0, other));
        }
        (0..REPLICAS).for_each(|at| histories.check(at));
        histories.world.assert_equal();
    }

    #[test]
    fn batches_in_any_order_and_number_merge_to_the_same(steps in steps(3), order in any::<prop::sample::Index>(), seed: u64) {
        merge_in_any_order(&steps, order.index(REPLICAS), seed);
    }
}

fn statement(op: &Op) -> String {
    match op {
        Op::Insert(id, [a, b, u]) => format!("INSERT INTO item VALUES ({id}, {a}, {b}, {u})"),
        Op::Replace(id, [a, b, u]) => format!("REPLACE INTO item VALUES ({id}, {a}, {b}, {u})"),
        Op::Upsert(id, [a, b, u]) => format!("INSERT INTO item VALUES ({id}, {a}, {b}, {u}) ON CONFLICT DO UPDATE SET a = excluded.a"),
        Op::Update(id, column, value) => format!("UPDATE item SET {} = {value} WHERE id = {id}", COLUMNS[*column]),
        Op::UpdateOrReplace(id, value) => format!("UPDATE OR REPLACE item SET u = {value} WHERE id = {id}"),
        Op::Move(from, to) => format!("UPDATE item SET id = {to} WHERE id = {from}"),
        Op::Delete(id) => format!("DELETE FROM item WHERE id = {id}"),
    }
}

fn shuffle<T>(items: &mut [T], seed: u64) {
    use rand::{RngExt, SeedableRng};
    let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(seed);
    for i in (1..items.len()).rev() {
        items.swap(i, rng.random_range(0..=i));
    }
}

/// Writes, meetings and batches carried by hand; then a stranger gets everything from `source` in pieces, shuffled by `seed`, some twice.
fn merge_in_any_order(steps: &[Step], source: usize, seed: u64) {
    let mut histories = Histories::new();
    for step in steps {
        match step {
            // The model does not follow half-delivered changes: the statements are tried, and fail where they do not fit.
            Step::Write { at, ops, commit } => {
                let wall = histories.world.tick();
                let replica = &mut histories.world.replicas[*at];
                replica.connection().execute_batch("BEGIN").unwrap();
                for op in ops {
                    let _ = replica.connection().execute_batch(&statement(op));
                }
                replica.connection().execute_batch(if *commit { "COMMIT" } else { "ROLLBACK" }).unwrap();
                replica.refresh(wall).unwrap();
            }
            Step::Meet(a, b) => {
                if a != b {
                    histories.world.meet(*a, *b)
                }
            }
            Step::Carry { from, to, limit, picks } => {
                let batches = batches(&mut histories.world.replicas[*from], *limit);
                let wall = histories.world.tick();
                for pick in picks.iter().filter(|_| !batches.is_empty()) {
                    histories.world.replicas[*to].apply(wall, at(&batches, *pick)).unwrap();
                }
            }
        }
    }
    // A stranger gets everything from one of them in pieces, shuffled, some twice.
    let mut pieces = batches(&mut histories.world.replicas[source], 30);
    let version = histories.world.replicas[source].version();
    let extra = pieces.len() / 2;
    pieces.extend_from_within(..extra);
    shuffle(&mut pieces, seed);
    let mut stranger = open(&histories.world.dir.path().join("stranger.sqlite"), 100);
    for piece in &pieces {
        stranger.apply(histories.world.wall, piece).unwrap();
    }
    // In which order parts of one transaction came decides whether it is counted yet: one of the two may be behind, and gets it again below.
    assert!(stranger.version().covers(&version) || version.covers(&stranger.version()));
    histories.world.meet_all();
    histories.world.assert_equal();
    histories.world.replicas.push(stranger);
    let version = histories.world.replicas[REPLICAS].version();
    let all: Vec<_> = histories.world.replicas[0].changes_since(&version, usize::MAX).unwrap();
    for batch in all.iter().rev() {
        histories.world.replicas[REPLICAS].apply(histories.world.wall, batch).unwrap();
    }
    histories.world.assert_equal();
}

#[test]
fn parts_that_came_before_what_they_follow_do_not_keep_a_conversation_going() {
    let steps = [
        Step::Write { at: 0, ops: vec![Op::Insert(3, [0, 0, 1]), Op::Insert(0, [0, 0, 0])], commit: true },
        Step::Write { at: 0, ops: vec![Op::UpdateOrReplace(3, 0)], commit: true },
        Step::Carry { from: 0, to: 1, limit: 1, picks: vec![10_540_996_613_548_315_210, 13_176_245_766_935_394_012] },
        Step::Meet(2, 1),
    ];
    merge_in_any_order(&steps, 0, 0);
}

/// The element at that share, of 2^64, of the way through.
fn at(batches: &[Changes], share: u64) -> &Changes {
    &batches[usize::try_from((batches.len() as u128 * u128::from(share)) >> 64).unwrap()]
}
