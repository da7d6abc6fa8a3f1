//! The scenario `eclipse`, small.

use peers_tests::scenario::eclipse::Eclipse;

#[test]
fn messages_of_honest_peers_arrive_though_every_second_peer_lets_them_fall() {
    let scenario = Eclipse { peers: 20, publishes: 10, ..Eclipse::default() };
    let outcome = scenario.run(1);
    assert_eq!(outcome.attackers, 20);
    assert!(outcome.hostile_sessions.ratio().is_some_and(|share| share > 0.2), "they are met: {outcome:?}");
    assert!(outcome.reached[1].ratio().is_some_and(|share| share >= 0.99), "{outcome:?}");
    assert_eq!(scenario.run(1), outcome, "the same seed gives the same outcome");
}
