//! The scenario `flood`, small.

use peers_tests::scenario::flood::{Flood, Outcome};

#[test]
fn a_flood_by_a_tenth_of_the_peers_costs_honest_delivery_less_than_five_points() {
    let scenario = Flood { peers: 20, minutes: 4, cache: 256 << 10, ..Flood::default() };
    let outcome = scenario.run(1);
    assert!(outcome.flooded[1] > 20 * outcome.flooded[0], "{:?}", outcome.flooded);
    let report = Flood::report(core::slice::from_ref(&outcome), core::time::Duration::ZERO);
    assert!(report.without.delivered.is_some_and(|share| share > 0.99), "{report:?}");
    assert!(report.cost_points.is_some_and(|points| points < 5.0), "{report:?}");
    assert!(report.cost_points_returned.is_some_and(|points| points < 5.0), "{report:?}");
    assert_ne!(outcome, Outcome::default());
}
