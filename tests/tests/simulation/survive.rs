//! The scenario `survive`, small.

use peers_tests::scenario::survive::Survive;

#[test]
fn messages_wait_in_the_caches_of_strangers_until_their_recipient_returns() {
    let scenario = Survive { peers: 24, messages: 4, load: 20.0, hours: 1, session: 600.0, ..Survive::default() };
    let outcome = scenario.run(1);
    assert_eq!((outcome.survived.part, outcome.survived.whole), (4, 4), "{outcome:?}");
    assert_eq!((outcome.delivered.part, outcome.delivered.whole), (4, 4), "{outcome:?}");
    assert!(outcome.cache_bytes_max > 0 && outcome.bytes.part > 0);
    assert_eq!(scenario.run(1), outcome, "the same seed gives the same outcome");
}
