//! The scenario `chaos` with a few seeds; `cargo xtask sim chaos --runs N` tries many.

use peers_tests::scenario::chaos::Chaos;

#[test]
fn safety_holds_through_faults_and_everyone_converges_after_them() {
    for seed in 1..=4 {
        let outcome = Chaos::default().run(seed);
        assert!(outcome.messages > 0 && outcome.received_during > 0, "seed {seed}: {outcome:?}");
    }
}

#[test]
fn a_run_of_chaos_repeats_exactly() {
    assert_eq!(Chaos::default().run(99), Chaos::default().run(99));
}
