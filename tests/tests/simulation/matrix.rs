//! The pairs of `cargo xtask sim matrix` that leave nothing to chance.

use core::time::Duration;

use peers_tests::scenario::matrix::once;

const DELAY: Duration = Duration::from_millis(20);

#[test]
fn pairs_of_open_cone_and_restricted_nats_go_direct_within_half_a_second() {
    let kinds = ["open", "full-cone", "addr-restricted", "port-restricted"];
    for (a, b) in kinds.iter().flat_map(|a| kinds.iter().map(move |b| (*a, *b))) {
        let outcome = once(a, b, DELAY, 1);
        assert!(outcome.first_byte.is_some_and(|ms| ms < 400.0), "{a} / {b}: {outcome:?}");
        assert!(outcome.direct.is_some_and(|ms| ms < 500.0), "{a} / {b}: {outcome:?}");
    }
}

#[test]
fn two_random_symmetric_nats_are_relayed() {
    let outcome = once("symmetric", "symmetric", DELAY, 1);
    assert!(outcome.first_byte.is_some() && outcome.direct.is_none(), "{outcome:?}");
}

#[test]
fn one_run_of_a_pair_is_a_function_of_its_seed() {
    let run = |seed| once("symmetric loss=5%", "port-restricted loss=5%", DELAY, seed);
    assert_eq!(run(3), run(3));
}
