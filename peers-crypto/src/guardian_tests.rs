use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use super::*;
use crate::keys::Domain;

const USER: GroupId = GroupId([0x55; 32]);
const GUARDIANS: StatementId = StatementId([0x66; 32]);
const NOW: Timestamp = Timestamp(1_700_000_000_000);
const CONTENTS: &[u8] = b"the log and the keys";

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(8)
}

/// The key of the guardian with this index.
fn guardian(index: u8) -> DeviceKey {
    DeviceKey::from_seed(&[index; 32])
}

fn device() -> PeerId {
    DeviceKey::from_seed(&[99; 32]).id()
}

fn packages(threshold: u8, count: u8) -> Vec<GuardianPackage> {
    Vault::seal(CONTENTS, USER, GUARDIANS, NOW, threshold, count, &mut rng()).unwrap()
}

/// What the guardian whose package it is sends, and from whom.
fn answer(package: &GuardianPackage) -> (PeerId, GuardianAnswer) {
    let guardian = guardian(package.index());
    (guardian.id(), GuardianAnswer::new(&guardian, package.clone(), device()))
}

fn insert(recovery: &mut Recovery, package: &GuardianPackage) -> Result<(usize, usize), AnswerError> {
    let (from, answer) = answer(package);
    recovery.insert(from, answer).map(|progress| (progress.have, progress.need))
}

fn contents(recovery: &Recovery) -> Vec<Vec<u8>> {
    recovery.open().map(|recovered| recovered.contents.to_vec()).collect()
}

proptest! {
    #[test]
    fn any_threshold_of_the_guardians_bring_the_contents_back_and_fewer_do_not(
        (count, threshold) in (2u8..=16).prop_flat_map(|count| (Just(count), 1..=count)), seed: u64,
        order in Just((0..16).collect::<Vec<usize>>()).prop_shuffle(), secret in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let packages = Vault::seal(&secret, USER, GUARDIANS, NOW, threshold, count, &mut rng).unwrap();
        let mut recovery = Recovery::new(device(), USER);
        let answering: Vec<_> = order.into_iter().filter(|at| *at < packages.len()).take(threshold.into()).collect();
        for (have, at) in answering.iter().enumerate() {
            prop_assert_eq!(recovery.open().count(), 0);
            prop_assert_eq!(insert(&mut recovery, &packages[*at]), Ok((have + 1, threshold.into())));
        }
        let opened: Vec<_> = recovery.open().collect();
        prop_assert_eq!(opened.len(), 1);
        prop_assert_eq!((&opened[0].contents[..], opened[0].guardians, opened[0].time), (&secret[..], GUARDIANS, NOW));
        prop_assert_eq!(opened[0].endorsements.len(), answering.len());
        for endorsement in &opened[0].endorsements {
            prop_assert_eq!(endorsement.key, guardian(endorsement.index).id());
            prop_assert_eq!(endorsement.check(USER, GUARDIANS, device()), Ok(()));
        }
    }

    #[test]
    fn any_bytes_decode_to_what_encodes_to_them_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(package) = GuardianPackage::decode(&bytes) {
            prop_assert_eq!(&package.encode()[..], &bytes[..]);
        }
        if let Ok(answer) = GuardianAnswer::decode(&bytes) {
            prop_assert_eq!(&answer.encode()[..], &bytes[..]);
        }
    }

    #[test]
    fn an_answer_with_bytes_overwritten_decodes_to_what_encodes_to_it_or_is_refused(at in 0usize..400, with in prop::collection::vec(any::<u8>(), 1..9)) {
        let (from, answer) = answer(&packages(2, 3)[0]);
        let mut bytes = answer.encode().to_vec();
        for (offset, byte) in with.iter().enumerate() {
            let at = (at + offset) % bytes.len();
            bytes[at] = *byte;
        }
        if let Ok(answer) = GuardianAnswer::decode(&bytes) {
            prop_assert_eq!(&answer.encode()[..], &bytes[..]);
            let mut recovery = Recovery::new(device(), USER);
            let _ = recovery.insert(from, answer);
            prop_assert!(contents(&recovery).is_empty());
        }
    }
}

#[test]
fn packages_and_answers_read_back_and_truncated_or_longer_ones_are_refused() {
    for package in packages(2, 3) {
        let bytes = package.encode();
        assert_eq!(GuardianPackage::decode(&bytes), Ok(package.clone()));
        assert_eq!(package.check(), Ok(()));
        let (_, answer) = answer(&package);
        let answered = answer.encode();
        assert_eq!(GuardianAnswer::decode(&answered), Ok(answer));
        for at in 0..answered.len() {
            assert!(
                GuardianAnswer::decode(&answered[..at]).is_err() && (at >= bytes.len() || GuardianPackage::decode(&bytes[..at]).is_err())
            );
        }
        assert!(GuardianAnswer::decode(&[&answered[..], &[0]].concat()).is_err() && GuardianPackage::decode(&answered).is_err());
    }
}

#[test]
fn an_answer_with_any_bit_flipped_stops_nobody_and_never_opens_to_something_else() {
    let packages = packages(2, 3);
    let (from, whole) = answer(&packages[0]);
    let bytes = whole.encode();
    for bit in 0..8 * bytes.len() {
        let mut altered = bytes.to_vec();
        altered[bit / 8] ^= 1 << (bit % 8);
        let mut recovery = Recovery::new(device(), USER);
        insert(&mut recovery, &packages[1]).unwrap();
        if let Ok(answer) = GuardianAnswer::decode(&altered) {
            let _ = recovery.insert(from, answer);
        }
        assert!(contents(&recovery).is_empty(), "bit {bit}");
        insert(&mut recovery, &packages[2]).unwrap();
        assert_eq!(contents(&recovery), [CONTENTS], "bit {bit}");
    }
}

#[test]
fn a_lying_guardian_is_found_out_and_does_not_stop_the_honest_ones() {
    let packages = packages(3, 5);
    let mut recovery = Recovery::new(device(), USER);
    // A garbled share, which the guardian itself could have noticed.
    let mut garbled = packages[0].clone();
    garbled.share[7] ^= 1;
    assert_eq!(garbled.check(), Err(GarbledShare(1)));
    assert_eq!(insert(&mut recovery, &garbled), Err(AnswerError::Share(GarbledShare(1))));
    // The share of another index.
    assert_eq!(insert(&mut recovery, &GuardianPackage { index: 2, ..packages[0].clone() }), Err(AnswerError::Share(GarbledShare(2))));
    // Another vault, in which its garbled share is as it should be, and fewer are needed.
    let mut vault = (*garbled.vault).clone();
    vault.share_hashes[0] = share_hash(1, &garbled.share);
    vault.threshold = 1;
    assert_eq!(insert(&mut recovery, &GuardianPackage { vault: Arc::new(vault), ..garbled }), Ok((1, 1)));
    assert!(contents(&recovery).is_empty());
    // A vault of its own, of a later time.
    let forged = Vault::seal(b"lies", USER, GUARDIANS, NOW.plus(1), 1, 5, &mut rng()).unwrap();
    assert_eq!(insert(&mut recovery, &forged[0]), Ok((1, 1)));
    // The honest ones.
    for (have, package) in packages[1..4].iter().enumerate() {
        assert_eq!(contents(&recovery), [b"lies"]);
        assert_eq!(insert(&mut recovery, package), Ok((have + 1, 3)));
    }
    // Whoever knows the log sees that the first is not endorsed by three.
    let opened: Vec<_> = recovery.open().collect();
    assert_eq!((&opened[0].contents[..], opened[0].endorsements.len()), (&b"lies"[..], 1));
    assert_eq!((&opened[1].contents[..], opened[1].endorsements.len()), (CONTENTS, 3));
}

#[test]
fn a_guardian_who_gives_the_share_and_endorses_with_another_key_opens_but_does_not_vouch() {
    let packages = packages(2, 3);
    let mut recovery = Recovery::new(device(), USER);
    let stranger = guardian(77);
    recovery.insert(stranger.id(), GuardianAnswer::new(&stranger, packages[0].clone(), device())).unwrap();
    insert(&mut recovery, &packages[1]).unwrap();
    let keys: Vec<_> = recovery.open().next().unwrap().endorsements.iter().map(|endorsement| endorsement.key).collect();
    assert!(keys.len() == 2 && keys.contains(&stranger.id()) && !keys.contains(&guardian(1).id()));
    // The third makes up for it.
    insert(&mut recovery, &packages[2]).unwrap();
    let endorsements = recovery.open().next().unwrap().endorsements;
    assert!([2, 3].iter().all(|index| endorsements.iter().any(|endorsement| endorsement.key == guardian(*index).id())));
}

#[test]
fn one_share_counts_once_however_often_and_by_whomever_it_is_given() {
    let packages = packages(2, 3);
    let mut recovery = Recovery::new(device(), USER);
    let thief = guardian(77);
    for _ in 0..3 {
        assert_eq!(insert(&mut recovery, &packages[0]), Ok((1, 2)));
        assert_eq!(
            recovery.insert(thief.id(), GuardianAnswer::new(&thief, packages[0].clone(), device())),
            Ok(Progress { have: 1, need: 2 })
        );
    }
    assert!(contents(&recovery).is_empty());
}

#[test]
fn an_endorsement_for_another_device_user_or_statement_is_void() {
    let package = &packages(2, 3)[0];
    let endorsement = package.endorse(&guardian(1), device());
    assert_eq!(endorsement.check(USER, GUARDIANS, device()), Ok(()));
    assert_eq!(endorsement.check(USER, GUARDIANS, guardian(1).id()), Err(Forged));
    assert_eq!(endorsement.check(GroupId([1; 32]), GUARDIANS, device()), Err(Forged));
    assert_eq!(endorsement.check(USER, StatementId([1; 32]), device()), Err(Forged));
    assert_eq!(Endorsement { key: guardian(2).id(), ..endorsement }.check(USER, GUARDIANS, device()), Err(Forged));
    // The bytes under it, signed for another purpose, are no endorsement.
    let signature = guardian(1).sign(Domain::STATEMENT, &[&USER.0, &GUARDIANS.0, &device().0]);
    assert_eq!(Endorsement { signature, ..endorsement }.check(USER, GUARDIANS, device()), Err(Forged));

    let mut recovery = Recovery::new(device(), USER);
    let key = guardian(1);
    let for_another = GuardianAnswer::new(&key, package.clone(), guardian(5).id());
    assert_eq!(recovery.insert(key.id(), for_another), Err(AnswerError::Endorsement(Forged)));
    let other_user = Vault::seal(CONTENTS, GroupId([1; 32]), GUARDIANS, NOW, 2, 3, &mut rng()).unwrap();
    assert_eq!(insert(&mut recovery, &other_user[0]), Err(AnswerError::AnotherUser(GroupId([1; 32]))));
    let other_statement = Vault::seal(CONTENTS, USER, StatementId([1; 32]), NOW, 2, 3, &mut rng()).unwrap();
    let moved = GuardianAnswer { package: other_statement[0].clone(), endorsement };
    assert_eq!(recovery.insert(key.id(), moved), Err(AnswerError::Endorsement(Forged)));
}

#[test]
fn an_answer_counts_from_its_guardian_alone() {
    let mut recovery = Recovery::new(device(), USER);
    let (from, answer) = answer(&packages(2, 3)[0]);
    assert_eq!(recovery.insert(guardian(2).id(), answer.clone()), Err(AnswerError::PassedOn(from)));
    assert!(recovery.insert(from, answer).is_ok());
}

#[test]
fn the_latest_vault_for_which_enough_guardians_answer_comes_first() {
    let version = |contents: &[u8], after| Vault::seal(contents, USER, GUARDIANS, NOW.plus(after), 2, 3, &mut rng()).unwrap();
    let [old, new, newest] = [(&b"old"[..], 0), (b"new", 1), (b"newest", 2)].map(|(contents, after)| version(contents, after));
    let mut recovery = Recovery::new(device(), USER);
    for package in [&newest[0], &old[0], &old[1]] {
        insert(&mut recovery, package).unwrap();
    }
    assert_eq!(contents(&recovery), [b"old"]);
    for package in [&new[0], &new[2]] {
        insert(&mut recovery, package).unwrap();
    }
    assert_eq!(contents(&recovery), [b"new", b"old"]);
    insert(&mut recovery, &newest[1]).unwrap();
    assert_eq!(contents(&recovery), [&b"newest"[..], b"new", b"old"]);
}

#[test]
fn a_flood_of_answers_is_taken_up_to_a_bound_and_others_still_count() {
    let package = |after| Vault::seal(b"lies", USER, GUARDIANS, NOW.plus(after), 2, 16, &mut rng()).unwrap();
    let mut recovery = Recovery::new(device(), USER);
    for after in 0..100 {
        let taken = insert(&mut recovery, &package(after)[0]);
        assert_eq!(taken, if after < 4 { Ok((1, 2)) } else { Err(AnswerError::TooMany) });
    }
    // What it has said it may say again.
    assert_eq!(insert(&mut recovery, &package(3)[0]), Ok((1, 2)));
    // Everybody else, up to the number of guardians that there can be.
    let packages = packages(15, 16);
    for (have, package) in packages[1..].iter().enumerate() {
        assert_eq!(insert(&mut recovery, package), Ok((have + 1, 15)));
    }
    assert_eq!(contents(&recovery), [CONTENTS]);
    let more = guardian(77);
    let answer = GuardianAnswer::new(&more, packages[1].clone(), device());
    assert_eq!(recovery.insert(more.id(), answer), Err(AnswerError::TooMany));
    assert_eq!(recovery.vaults.len(), MAX_VERSIONS + 1);
}

#[test]
fn impossible_thresholds_and_contents_too_long_are_refused() {
    for (threshold, count) in [(0, 3), (4, 3), (1, 1), (1, 0), (1, 17), (17, 16)] {
        let refused = Vault::seal(CONTENTS, USER, GUARDIANS, NOW, threshold, count, &mut rng());
        assert_eq!(refused, Err(VaultError::Threshold { threshold, count }));
        // Nor are they read.
        let mut vault = (*packages(2, 16)[0].vault).clone();
        vault.threshold = threshold;
        vault.share_hashes.resize(count.into(), [0; 32]);
        let package = GuardianPackage { vault: Arc::new(vault), index: 1, share: Key::default() };
        assert!(matches!(GuardianPackage::decode(&package.encode()), Err(DecodeError::Range(_))), "{threshold} of {count}");
    }
    for index in [0, 4, 255] {
        let package = GuardianPackage { index, ..packages(2, 3)[0].clone() };
        assert_eq!(GuardianPackage::decode(&package.encode()), Err(DecodeError::Range("number of the guardian")));
    }
    let longest = vec![7; MAX_VAULT];
    let packages = Vault::seal(&longest, USER, GUARDIANS, NOW, 1, 2, &mut rng()).unwrap();
    let mut recovery = Recovery::new(device(), USER);
    let (from, answer) = answer(&packages[1]);
    recovery.insert(from, GuardianAnswer::decode(&answer.encode()).unwrap()).unwrap();
    assert!(contents(&recovery) == [longest]);
    let refused = Vault::seal(&vec![7; MAX_VAULT + 1], USER, GUARDIANS, NOW, 1, 2, &mut rng());
    assert_eq!(refused, Err(VaultError::TooLong(MAX_VAULT + 1)));
}

#[test]
fn guardians_see_nothing_of_the_contents_and_debug_shows_neither_share_nor_contents() {
    let package = &packages(2, 3)[0];
    assert!(!package.encode().windows(CONTENTS.len()).any(|window| window == CONTENTS));
    let shown = format!("GuardianPackage(1, Vault({USER:?}, {GUARDIANS:?}, {NOW:?}, 2 of 3))");
    assert_eq!(format!("{package:?}"), shown);
    assert!(format!("{:?}", answer(package).1).starts_with(&format!("GuardianAnswer {{ package: {shown}, endorsement: ")));
    let recovered = Recovered { guardians: GUARDIANS, time: NOW, contents: Zeroizing::new(CONTENTS.to_vec()), endorsements: Vec::new() };
    assert_eq!(format!("{recovered:?}"), format!("Recovered({GUARDIANS:?}, {NOW:?}, 20 bytes, [])"));
}
