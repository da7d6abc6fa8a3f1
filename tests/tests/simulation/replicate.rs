//! The scenario `replicate`, small.

use core::time::Duration;

use peers_tests::scenario::SetError;
use peers_tests::scenario::replicate::{Outcome, Replicate};

fn small() -> Replicate {
    Replicate { peers: 24, publishes: 5, ..Replicate::default() }
}

fn all_reached(outcome: &Outcome) -> bool {
    outcome.reached_all.whole == 5 && outcome.reached_all.part == 5
}

#[test]
fn the_same_seed_gives_the_same_outcome_and_another_seed_another() {
    let scenario = Replicate { churn: 5.0, loss: 0.05, skew: 1000, ..small() };
    let outcome = scenario.run(7);
    assert_eq!(scenario.run(7), outcome);
    assert_ne!(scenario.run(8), outcome);
}

#[test]
fn every_publish_reaches_every_subscriber() {
    let outcome = small().run(1);
    assert!(all_reached(&outcome), "{outcome:?}");
    assert_eq!(outcome.ready.len(), 24, "everyone became ready");
    assert_eq!(outcome.time_to_all.len(), 5);
}

/// The idle budget, with all that keep-alives, gossip and looks at the own NAT cost: G5 of docs/BENCHMARKS.md.
#[test]
fn who_has_nothing_to_say_sends_no_more_than_the_idle_budget() {
    let idle = small().run(4).idle_datagrams.ratio();
    assert!(idle.is_some_and(|idle| idle <= 1.2), "{idle:?} datagrams per peer and second");
}

#[test]
fn every_publish_reaches_every_subscriber_through_loss() {
    let outcome = Replicate { loss: 0.1, ..small() }.run(2);
    assert!(all_reached(&outcome), "{outcome:?}");
}

#[test]
fn wrong_clocks_stop_nobody() {
    let outcome = Replicate { skew: 120_000, ..small() }.run(3);
    assert!(all_reached(&outcome), "{outcome:?}");
}

#[test]
fn the_report_has_every_key_in_its_order() {
    let report = Replicate::report(&[Outcome::default()], Duration::from_secs(1));
    let text = serde_json::to_string(&report).expect("a report is plain data");
    assert_eq!(
        text,
        "{\"publishes\":0,\"reached_all\":null,\"time_to_all_s\":{\"mean\":null,\"p50\":null,\"p99\":null,\"max\":null},\
         \"delivery_s\":{\"p50\":null,\"p99\":null},\"reached\":{\"s2_5\":null,\"s10\":null,\"end\":null},\
         \"held_60s\":{\"online\":null,\"ready\":null},\"payload_copies_per_peer\":null,\"datagrams_per_publish\":null,\
         \"idle_datagrams_per_peer_per_s\":null,\"ready_s\":{\"mean\":null,\"p99\":null},\"public_share\":null,\"wall_s\":1.0}"
    );
}

#[test]
fn a_parameter_that_is_unknown_or_out_of_range_is_refused_by_name() {
    let mut scenario = Replicate::default();
    assert_eq!(scenario.set("churn", "0.95"), Ok(()));
    assert_eq!(scenario.churn, 0.95);
    assert!(matches!(scenario.set("chrun", "1"), Err(SetError::Unknown { .. })));
    for (key, value) in [("loss", "1.5"), ("loss", "much"), ("peers", "0"), ("churn", "-1"), ("churn", "inf")] {
        assert!(matches!(scenario.set(key, value), Err(SetError::Value { .. })), "{key}={value}");
    }
    assert_eq!(scenario, Replicate { churn: 0.95, ..Replicate::default() });
}
