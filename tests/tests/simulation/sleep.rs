//! The scenario `sleep`, small.

use peers_tests::scenario::sleep::Sleep;

#[test]
fn a_laptop_that_is_opened_has_what_it_missed_within_seconds() {
    let scenario = Sleep { peers: 16, minutes: 20, every: 15, ..Sleep::default() };
    let outcome = scenario.run(1);
    assert!(outcome.missed[1].whole > 50, "{outcome:?}");
    assert!(outcome.missed[1].ratio().is_some_and(|share| share >= 0.97), "{:?}", outcome.missed);
    assert!(outcome.delivered.ratio().is_some_and(|share| share >= 0.99), "{:?}", outcome.delivered);
    assert_eq!(scenario.run(1), outcome, "the same seed gives the same outcome");
}
