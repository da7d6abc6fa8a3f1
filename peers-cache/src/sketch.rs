//! Rateless sketches: what two sets differ in, at about 1.4 cells for each difference, whatever the size of the sets.
//!
//! A set is a sequence of cells without end. Each packet is in the first, and in cell i with a probability of 2 / (i + 2); a cell is the
//! sum of the short ids in it and of their checks. The cells of one set less those of another are the cells of the difference; a cell
//! that holds one packet names it, which is then taken out of its other cells.
//!
//! Sources: Yang, Gilad, Alizadeh, "Practical Rateless Set Reconciliation", SIGCOMM 2024, arXiv:2402.02668; Aumasson, Bernstein, "SipHash: a fast
//! short-input PRF"; Mitzenmacher, Pagh, Pham, "Efficient Estimation for High Similarities using Odd Sketches", WWW 2014.

use peers_wire::Timestamp;

use crate::message::{Key, Tag};

/// Cells of a sketch that is kept up to date.
pub(crate) const KEPT: usize = 320;
/// Cells of any sketch.
pub(crate) const MAX_CELLS: usize = 1024;
/// Words of a [`Parity`].
const WORDS: usize = 8;
const BITS: f64 = (WORDS * 64) as f64;

/// Names packets by short ids, under a key made of a salt and the set: who does not know the salt cannot find two packets of one short id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Naming {
    salt: u64,
    tag: Tag,
}

impl Naming {
    pub(crate) const fn new(salt: u64, tag: Tag) -> Self {
        Self { salt, tag }
    }

    /// SipHash-2-4 of the key's 16 bytes, under the salt and the tag, both little-endian.
    pub(crate) fn short(&self, key: Key) -> u64 {
        let mut v = [
            self.salt ^ 0x736f_6d65_7073_6575,
            self.tag.0 ^ 0x646f_7261_6e64_6f6d,
            self.salt ^ 0x6c79_6765_6e65_7261,
            self.tag.0 ^ 0x7465_6462_7974_6573,
        ];
        for word in [key.0[0].swap_bytes(), key.0[1].swap_bytes(), 16 << 56] {
            v[3] ^= word;
            round(&mut v);
            round(&mut v);
            v[0] ^= word;
        }
        v[2] ^= 0xff;
        (0..4).for_each(|_| round(&mut v));
        v[0] ^ v[1] ^ v[2] ^ v[3]
    }
}

const fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

/// The salt that all peers use on the same day, so that one sketch serves all.
pub(crate) const fn epoch(wall: Timestamp) -> u64 {
    wall.0 / 86_400_000
}

/// The first half of a short id, by which one of the packets that differ is asked for.
pub(crate) const fn name(short: u64) -> u32 {
    let [a, b, c, d, ..] = short.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
}

/// What tells the sum of one short id from that of several: 24 bits.
const fn check(short: u64) -> u32 {
    let mixed = (short ^ short >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    let [a, b, c, ..] = mixed.to_be_bytes();
    u32::from_be_bytes([0, a, b, c])
}

/// The sums of the short ids in a cell, modulo 2^64, and of their checks, modulo 2^24.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Cell {
    pub(crate) sum: u64,
    pub(crate) check: u32,
}

impl Cell {
    /// Bytes in a message.
    pub(crate) const LEN: usize = 11;

    const fn of(short: u64) -> Self {
        Self { sum: short, check: check(short) }
    }

    pub(crate) const fn add(&mut self, other: Self) {
        self.sum = self.sum.wrapping_add(other.sum);
        self.check = self.check.wrapping_add(other.check) & 0xff_ffff;
    }

    pub(crate) const fn subtract(&mut self, other: Self) {
        self.sum = self.sum.wrapping_sub(other.sum);
        self.check = self.check.wrapping_sub(other.check) & 0xff_ffff;
    }
}

/// The cells below `end` that a short id is in, in order.
///
/// After cell i comes the least j > i for which (j + 1)(j + 2) r > (i + 1)(i + 2) 2^32, r being random in 1..=2^32: so j is one of them with a
/// probability of 2 / (j + 2), whatever came before.
#[derive(Debug, Clone, Copy)]
struct Cells {
    state: u64,
    next: u64,
    end: u64,
}

impl Cells {
    const fn of(short: u64, end: usize) -> Self {
        Self { state: short, next: 0, end: end as u64 }
    }
}

impl Iterator for Cells {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.next >= self.end {
            return None;
        }
        let index = self.next;
        // Knuth's generator of MMIX; its upper half is the better one.
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let random = (self.state >> 32) + 1;
        let least = ((index + 1) * (index + 2)) << 32;
        if self.end * (self.end + 1) * random <= least {
            self.next = self.end;
        } else {
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a guess, put right below"
            )]
            let guess = ((least as f64 / random as f64 + 0.25).sqrt() - 1.5) as u64;
            let mut next = guess.clamp(index + 1, self.end - 1);
            while (next + 1) * (next + 2) * random <= least {
                next += 1;
            }
            while next > index + 1 && next * (next + 1) * random > least {
                next -= 1;
            }
            self.next = next;
        }
        usize::try_from(index).ok()
    }
}

/// Whether the number of packets in each of 512 classes is odd: how many two sets differ in, within about a tenth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Parity(pub(crate) [u64; WORDS]);

impl Parity {
    pub(crate) const fn toggle(&mut self, short: u64) {
        self.0[(short >> 6) as usize % WORDS] ^= 1 << (short & 63);
    }

    /// About how many packets the two sets differ in, up to 590; `None` if there are too many to say.
    pub(crate) fn differ(&self, other: &Self) -> Option<usize> {
        let odd: u32 = self.0.iter().zip(&other.0).map(|(a, b)| (a ^ b).count_ones()).sum();
        let free = 1.0 - 2.0 * f64::from(odd) / BITS;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, and a thousand at most")]
        (free > 0.1).then(|| (-free.ln() * BITS / 2.0).round() as usize)
    }
}

/// How many cells to send for a difference that is estimated: enough in nine of ten cases.
pub(crate) fn cells_for(differ: usize) -> usize {
    differ + differ / 2 + differ.isqrt() + 6
}

/// The first cells of a set.
#[derive(Debug, Clone)]
pub(crate) struct Sketch {
    pub(crate) naming: Naming,
    pub(crate) parity: Parity,
    cells: Vec<Cell>,
}

impl Sketch {
    /// Of the empty set.
    pub(crate) fn new(naming: Naming, cells: usize) -> Self {
        Self { naming, parity: Parity::default(), cells: vec![Cell::default(); cells] }
    }

    /// Bytes that a sketch of so many cells allocates.
    pub(crate) const fn cost(cells: usize) -> usize {
        size_of::<Self>() + cells * size_of::<Cell>() + 32
    }

    pub(crate) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    /// Adds a packet that is not in it; O(log cells).
    pub(crate) fn insert(&mut self, key: Key) {
        let short = self.naming.short(key);
        self.parity.toggle(short);
        let cell = Cell::of(short);
        Cells::of(short, self.cells.len()).for_each(|index| self.cells[index].add(cell));
    }

    /// Takes out a packet that is in it.
    pub(crate) fn remove(&mut self, key: Key) {
        let short = self.naming.short(key);
        self.parity.toggle(short);
        let cell = Cell::of(short);
        Cells::of(short, self.cells.len()).for_each(|index| self.cells[index].subtract(cell));
    }
}

/// The short ids of what only one of two sets has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Difference {
    pub(crate) ours: Vec<u64>,
    pub(crate) theirs: Vec<u64>,
}

/// Finds what two sets differ in.
///
/// - `cells`: theirs less ours, the first of them; `None` where theirs did not come
/// - returns: `None` if the cells do not tell; O(n log n) for n cells, whatever they hold
pub(crate) fn decode(mut cells: Vec<Option<Cell>>) -> Option<Difference> {
    let mut found = Difference::default();
    let mut open: Vec<usize> = (0..cells.len()).collect();
    while let Some(index) = open.pop() {
        let Some((short, theirs)) = cells[index].and_then(lone) else { continue };
        // What is no packet but looks like one is hardly ever where it would be.
        if !Cells::of(short, cells.len()).any(|other| other == index) {
            continue;
        }
        if found.ours.len() + found.theirs.len() >= cells.len() {
            return None;
        }
        if theirs { &mut found.theirs } else { &mut found.ours }.push(short);
        for index in Cells::of(short, cells.len()) {
            if let Some(cell) = &mut cells[index] {
                if theirs {
                    cell.subtract(Cell::of(short));
                } else {
                    cell.add(Cell::of(short));
                }
                open.push(index);
            }
        }
    }
    cells.iter().flatten().all(|cell| *cell == Cell::default()).then_some(found)
}

/// Adds a packet to cells, or takes it out.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn toss(cells: &mut [Cell], short: u64, out: bool) {
    for index in Cells::of(short, cells.len()) {
        if out {
            cells[index].subtract(Cell::of(short));
        } else {
            cells[index].add(Cell::of(short));
        }
    }
}

/// The only packet in a cell of a difference, and whether it is theirs.
fn lone(cell: Cell) -> Option<(u64, bool)> {
    let negated = Cell { sum: cell.sum.wrapping_neg(), check: cell.check.wrapping_neg() & 0xff_ffff };
    if cell == Cell::default() {
        None
    } else if check(cell.sum) == cell.check {
        Some((cell.sum, true))
    } else if check(negated.sum) == negated.check {
        Some((negated.sum, false))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_chacha::ChaCha20Rng;
    use std::collections::BTreeSet;

    const NAMING: Naming = Naming::new(20_000, Tag(7));

    fn keys(rng: &mut ChaCha20Rng, count: usize) -> Vec<Key> {
        (0..count).map(|_| Key(rng.random())).collect()
    }

    fn sketch(keys: &[Key], cells: usize) -> Sketch {
        let mut sketch = Sketch::new(NAMING, cells);
        keys.iter().for_each(|key| sketch.insert(*key));
        sketch
    }

    fn less(theirs: &Sketch, ours: &Sketch) -> Vec<Option<Cell>> {
        let cells = theirs.cells().iter().zip(ours.cells());
        cells
            .map(|(theirs, ours)| {
                let mut cell = *theirs;
                cell.subtract(*ours);
                Some(cell)
            })
            .collect()
    }

    fn shorts(keys: &[Key]) -> BTreeSet<u64> {
        keys.iter().map(|key| NAMING.short(*key)).collect()
    }

    #[test]
    fn a_short_id_is_the_published_vector_of_siphash() {
        // Key 00..0f, message 00..0f: vector 16 of the reference implementation.
        let naming = Naming::new(u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7]), Tag(u64::from_le_bytes([8, 9, 10, 11, 12, 13, 14, 15])));
        let key = Key([0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f]);
        assert_eq!(naming.short(key).to_le_bytes(), [0xdb, 0x9b, 0xc2, 0x57, 0x7f, 0xcc, 0x2a, 0x3f]);
    }

    #[test]
    fn cells_are_those_of_the_specification() {
        let naming = Naming::new(20_000, Tag(0x0102_0304_0506_0708));
        let key = |first: u8| {
            let word = |at: u8| (0..8).fold(0, |word, i| word << 8 | u64::from(first + at + i));
            Key([word(0), word(8)])
        };
        let expected = [
            (0x7ade_f774_0d00_ec7f, 0x7d_9a40, vec![0, 1, 3, 25, 28]),
            (0x58e1_562e_9bcb_8d2c, 0x0b_eeee, vec![0, 1, 3, 4, 8, 9, 11, 13, 21, 35]),
            (0x0547_5f93_7c9c_4a1d, 0x9a_af8b, vec![0, 3, 21, 22]),
        ];
        let mut sketch = Sketch::new(naming, 64);
        for (first, expected) in [0, 16, 32].into_iter().zip(expected) {
            let short = naming.short(key(first));
            assert_eq!((short, check(short), Cells::of(short, 64).collect::<Vec<_>>()), expected);
            sketch.insert(key(first));
        }
        let cells: Vec<(u64, u32)> = sketch.cells()[..5].iter().map(|cell| (cell.sum, cell.check)).collect();
        let [first, second, last] =
            [(0xd907_ad36_2568_c3c8, 0x24_38b9), (0xd3c0_4da2_a8cc_79ab, 0x89_892e), (0x58e1_562e_9bcb_8d2c, 0x0b_eeee)];
        assert_eq!(cells, [first, second, (0, 0), first, last]);
        assert_eq!(sketch.parity, Parity([1 << 29, 1 << 63, 0, 0, 1 << 44, 0, 0, 0]));
    }

    #[test]
    fn a_packet_is_in_cell_i_with_a_probability_of_two_in_i_plus_two() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let mut counts = [0u32; 200];
        for _ in 0..100_000 {
            Cells::of(rng.random(), 200).for_each(|index| counts[index] += 1);
        }
        for (index, count) in counts.into_iter().enumerate() {
            let expected = 200_000.0 / (index as f64 + 2.0);
            assert!((f64::from(count) - expected).abs() <= 5.0 * expected.sqrt(), "cell {index}: {count}, not {expected}");
        }
    }

    #[test]
    fn a_shorter_sketch_is_the_beginning_of_a_longer() {
        let keys = keys(&mut ChaCha20Rng::seed_from_u64(2), 500);
        let (short, long) = (sketch(&keys, 37), sketch(&keys, MAX_CELLS));
        assert_eq!(short.cells(), &long.cells()[..37]);
    }

    proptest! {
        #[test]
        fn what_is_decoded_is_the_difference_of_the_sets(seed: u64, both in 0..300usize, ours in 0..90usize, theirs in 0..90usize) {
            let rng = &mut ChaCha20Rng::seed_from_u64(seed);
            let (both, ours, theirs) = (keys(rng, both), keys(rng, ours), keys(rng, theirs));
            let (a, b) = (sketch(&[&both[..], &ours].concat(), MAX_CELLS), sketch(&[&theirs[..], &both].concat(), MAX_CELLS));
            let cells = less(&b, &a);
            let mut needed = 1;
            let found = loop {
                if let Some(found) = decode(cells[..needed].to_vec()) {
                    break found;
                }
                needed += 1;
            };
            prop_assert_eq!(found.ours.into_iter().collect::<BTreeSet<_>>(), shorts(&ours));
            prop_assert_eq!(found.theirs.into_iter().collect::<BTreeSet<_>>(), shorts(&theirs));
            let differ = ours.len() + theirs.len();
            // Mostly 1.5 times as many; seldom, two are in the same cells for long.
            prop_assert!(needed <= 12 * differ + 60, "{} cells for {}", needed, differ);
        }

        #[test]
        fn cells_that_got_lost_only_cost_further_cells(seed: u64, ours in 0..60usize, theirs in 0..60usize) {
            let rng = &mut ChaCha20Rng::seed_from_u64(seed);
            let (ours, theirs) = (keys(rng, ours), keys(rng, theirs));
            let mut cells = less(&sketch(&theirs, MAX_CELLS), &sketch(&ours, MAX_CELLS));
            cells[40..80].fill(None);
            let found = decode(cells).unwrap();
            prop_assert_eq!(found.ours.into_iter().collect::<BTreeSet<_>>(), shorts(&ours));
            prop_assert_eq!(found.theirs.into_iter().collect::<BTreeSet<_>>(), shorts(&theirs));
        }

        #[test]
        fn a_sketch_kept_up_to_date_is_that_of_the_set(ops in proptest::collection::vec((any::<bool>(), 0..200u64), 0..600)) {
            let (mut kept, mut set) = (Sketch::new(NAMING, KEPT), BTreeSet::new());
            for (insert, n) in ops {
                let key = Key([n, n * n]);
                if insert && set.insert(key) {
                    kept.insert(key);
                } else if !insert && set.remove(&key) {
                    kept.remove(key);
                }
            }
            let anew = sketch(&set.into_iter().collect::<Vec<_>>(), KEPT);
            prop_assert_eq!((kept.cells(), kept.parity), (anew.cells(), anew.parity));
        }

        #[test]
        fn whatever_the_cells_hold_decoding_ends(cells in proptest::collection::vec(proptest::option::of((any::<u64>(), 0..1u32 << 24)), 0..300), lone in any::<bool>()) {
            let cell = |(sum, noise)| if lone { Cell::of(sum) } else { Cell { sum, check: noise } };
            let cells: Vec<Option<Cell>> = cells.into_iter().map(|pair| pair.map(cell)).collect();
            let count = cells.len();
            if let Some(found) = decode(cells) {
                prop_assert!(found.ours.len() + found.theirs.len() <= count);
            }
        }
    }

    #[test]
    fn the_estimate_is_near_and_the_cells_for_it_mostly_enough() {
        let rng = &mut ChaCha20Rng::seed_from_u64(3);
        for differ in [1, 2, 4, 8, 16, 32, 66, 132, 260, 500] {
            let runs = 200;
            let (mut enough, mut squares) = (0, 0.0);
            for _ in 0..runs {
                let keys = keys(rng, differ);
                let (ours, theirs) = keys.split_at(differ / 2);
                let (a, b) = (sketch(ours, MAX_CELLS), sketch(theirs, MAX_CELLS));
                let estimate = a.parity.differ(&b.parity).unwrap_or(590);
                squares += (estimate as f64 - differ as f64).powi(2);
                let cells = cells_for(estimate);
                enough += u32::from(decode(less(&a, &b)[..cells].to_vec()).is_some());
            }
            let error = (squares / f64::from(runs)).sqrt() / differ as f64;
            assert!(error < 0.15, "{differ}: off by {error}");
            assert!(enough * 10 >= runs * if differ <= 260 { 8 } else { 7 }, "{differ}: {enough} of {runs}");
        }
    }
}
