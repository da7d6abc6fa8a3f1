//! The scenario `partition`, small.

use peers_tests::scenario::partition::Partition;

#[test]
fn two_halves_that_meet_again_have_everything_within_half_a_minute() {
    let scenario = Partition { peers: 24, apart: 120, messages: 30, ..Partition::default() };
    let outcome = scenario.run(1);
    assert_eq!(outcome.within_half.ratio(), Some(1.0), "{outcome:?}");
    assert!(outcome.crossed.whole >= 30 * 12, "what was said in one half was missing in the other: {outcome:?}");
    assert_eq!(outcome.crossed.ratio(), Some(1.0), "{outcome:?}");
    assert!(outcome.caught_up.len() == 24 && outcome.caught_up.iter().all(|took| *took <= 30.0), "{outcome:?}");
    assert_eq!(scenario.run(1), outcome, "the same seed gives the same outcome");
}
