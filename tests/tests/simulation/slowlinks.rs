//! The scenario `slowlinks`, small.

use peers_tests::scenario::slowlinks::Slowlinks;

#[test]
fn peers_with_slow_links_get_everything_and_slow_nobody_else() {
    let scenario = Slowlinks { peers: 24, publishes: 20, ..Slowlinks::default() };
    let outcome = scenario.run(1);
    assert!(outcome.delivered.iter().all(|share| share.whole > 0 && share.part == share.whole), "{:?}", outcome.delivered);
    let report = Slowlinks::report(&[outcome], core::time::Duration::ZERO);
    assert!(report.slowdown_p50.is_some_and(|times| times < 1.3), "{report:?}");
}
