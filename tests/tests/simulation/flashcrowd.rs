//! The scenario `flashcrowd`, small.

use peers_tests::scenario::flashcrowd::Flashcrowd;

#[test]
fn a_crowd_that_comes_at_once_is_ready_in_half_a_second_and_costs_nobody_a_message() {
    let scenario = Flashcrowd { peers: 12, crowd: 60, within: 3, ..Flashcrowd::default() };
    let outcome = scenario.run(1);
    assert_eq!((outcome.ready.part, outcome.ready.whole), (60, 60), "{outcome:?}");
    assert!(outcome.ready_in.iter().all(|took| *took < 0.6), "{:?}", outcome.ready_in);
    assert!(outcome.delivered.iter().all(|share| share.whole > 0 && share.part == share.whole), "{:?}", outcome.delivered);
    assert_eq!(scenario.run(1), outcome, "the same seed gives the same outcome");
}
