use super::*;
use crate::{EpochKey, Keyring};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

pub(super) const WALL: Timestamp = Timestamp(1_700_000_000_000);
pub(super) const ALICE: GroupId = GroupId::NONE;

pub(super) fn keys() -> [DeviceKey; 4] {
    [1, 2, 3, 4].map(|seed| DeviceKey::from_seed(&[seed; 32]))
}

pub(super) fn recovery() -> DeviceKey {
    DeviceKey::from_seed(&[99; 32])
}

pub(super) fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(7)
}

pub(super) fn admit(user: &mut Group, by: &DeviceKey, device: &DeviceKey, name: &str) -> Result<StatementId, GroupError> {
    let consent = user.consent(device, ALICE);
    user.admit(by, device.id(), name, Role::Owner, ALICE, consent, WALL)
}

/// Alice with laptop, phone and tablet.
pub(super) fn alice() -> Group {
    let [laptop, phone, tablet, _] = keys();
    let mut user = Group::create_user(&laptop, "Alice", "laptop", WALL).unwrap();
    admit(&mut user, &laptop, &phone, "phone").unwrap();
    admit(&mut user, &phone, &tablet, "tablet").unwrap();
    user
}

fn statement(group: &Group, id: StatementId) -> Statement {
    group.statement(id).unwrap().clone()
}

/// A statement by who says what it likes, in knowledge of `parents`.
pub(super) fn said(key: &DeviceKey, parents: &[StatementId], time: u64, action: Action) -> Statement {
    Statement::sign(key, parents.to_vec(), WALL.plus(time), action)
}

pub(super) fn heads(group: &Group) -> Vec<StatementId> {
    let parents: BTreeSet<_> = group.statements().flat_map(Statement::parents).copied().collect();
    group.statements().map(Statement::id).filter(|id| !parents.contains(id)).collect()
}

pub(super) fn both(one: &mut Group, other: &mut Group) {
    one.merge(other.statements().cloned().collect::<Vec<_>>()).unwrap();
    other.merge(one.statements().cloned().collect::<Vec<_>>()).unwrap();
    assert_eq!(one, other);
}

#[test]
fn devices_are_added_named_and_removed() {
    let [laptop, phone, tablet, stranger] = keys();
    let mut user = alice();
    assert_eq!((user.kind(), user.name_of(phone.id()), user.members().count()), (Kind::User, Some("phone"), 3));
    assert!(!user.contains(stranger.id()));
    user.remove(&phone, laptop.id(), 7, WALL).unwrap();
    assert!(!user.contains(laptop.id()) && user.contains(tablet.id()), "what it stated before still counts");
    assert_eq!(user.removed().collect::<Vec<_>>(), [Removed { id: laptop.id(), sequence: 7 }]);
    assert_eq!(user.rename(&laptop, "Mallory", WALL), Err(GroupError::NotAMember(laptop.id())));
    user.rename(&tablet, "Alicia", WALL).unwrap();
    assert_eq!(user.name(), "Alicia");
    assert_eq!(Group::decode(&user.encode()), Ok(user));
}

#[test]
fn a_removed_device_comes_back_only_by_an_admission_made_in_knowledge_of_the_removal() {
    let [laptop, phone, tablet, _] = keys();
    let (mut here, mut there) = (alice(), alice());
    here.remove(&laptop, phone.id(), 0, WALL).unwrap();
    // Another device, which has not heard of it, admits the phone again.
    let action =
        Action::Admit { device: phone.id(), name: "p".into(), role: Role::Owner, holder: ALICE, consent: there.consent(&phone, ALICE) };
    there.merge([said(&tablet, &heads(&there), 50, action)]).unwrap();
    both(&mut here, &mut there);
    assert!(!here.contains(phone.id()), "the removal wins over what is concurrent");
    admit(&mut here, &tablet, &phone, "phone again").unwrap();
    assert_eq!(here.name_of(phone.id()), Some("phone again"));
    assert_eq!(here.removed().count(), 0);
    here.rename(&phone, "Alicia", WALL).unwrap();
    assert_eq!(here.name(), "Alicia", "what it says from now on counts");
}

#[test]
fn statements_of_a_stranger_forged_ones_and_ones_with_gaps_are_refused() {
    let [laptop, phone, _, stranger] = keys();
    let mut user = alice();
    let before = user.clone();
    let head = heads(&user);
    let rename = |name: &str| Action::Rename { name: name.into() };
    assert_eq!(user.merge([said(&stranger, &head, 0, rename("Mallory"))]), Err(GroupError::NotAMember(stranger.id())));
    let gap = said(&laptop, &[StatementId([1; 32])], 0, rename("x"));
    assert_eq!(user.merge([gap]), Err(GroupError::Missing(StatementId([1; 32]))));
    let mut bytes = said(&phone, &head, 0, rename("Alicia")).encode();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    let forged = Statement::decode(&bytes).unwrap();
    assert_eq!(user.merge([forged.clone()]), Err(GroupError::Forged(forged.id())));
    let other = Group::create_user(&stranger, "Bob", "pc", WALL).unwrap();
    assert_eq!(user.merge(other.statements().cloned()), Err(GroupError::Create));
    assert_eq!(user, before);
}

#[test]
fn encoded_statements_merge_if_they_are_of_the_same_user() {
    let [laptop, phone, _, stranger] = keys();
    let (mut here, mut there) = (alice(), alice());
    there.rename(&phone, "Alicia", WALL).unwrap();
    assert_eq!(here.merge_encoded(&there.encode()), Ok(1));
    assert_eq!(here.merge_encoded(&there.encode()), Ok(0));
    assert_eq!(here, there);
    let other = Group::create_user(&stranger, "Bob", "pc", WALL).unwrap();
    assert_eq!(here.merge_encoded(&other.encode()), Err(GroupError::Create));
    assert_eq!(here.merge_encoded(&[VERSION, 0]), Err(GroupError::Create), "nothing shows that they are of this user");
    there.rename(&laptop, "Al", WALL).unwrap();
    let mut forged = there.encode();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert!(here.merge_encoded(&forged).is_err());
}

#[test]
fn what_a_removed_device_says_concurrently_does_not_count() {
    let [laptop, phone, tablet, thief] = keys();
    let mut here = alice();
    let mut there = here.clone();
    here.remove(&laptop, phone.id(), 0, WALL).unwrap();
    // The stolen phone adds a device, and dates it back; the device adds nothing either.
    let action =
        Action::Admit { device: thief.id(), name: "x".into(), role: Role::Owner, holder: ALICE, consent: there.consent(&thief, ALICE) };
    let early = Statement::sign(&phone, heads(&there), Timestamp(1), action);
    there.merge([early]).unwrap();
    assert!(there.contains(thief.id()), "the removal is not known there yet");
    there.rename(&thief, "Mallory", WALL).unwrap();
    both(&mut here, &mut there);
    assert!(!here.contains(thief.id()) && !here.contains(phone.id()));
    assert!(here.contains(laptop.id()) && here.contains(tablet.id()));
    assert_eq!(here.name(), "Alice");
}

#[test]
fn what_a_stolen_device_said_since_it_was_stolen_is_undone_by_naming_its_last_good_statement() {
    let [laptop, phone, _, thief] = keys();
    let mut user = alice();
    let good = user.last_of(phone.id());
    admit(&mut user, &phone, &thief, "thief").unwrap();
    user.remove_after(&laptop, phone.id(), good, 3, WALL).unwrap();
    assert!(!user.contains(phone.id()) && !user.contains(thief.id()));
    assert_eq!(user.members().count(), 2, "the tablet was admitted before");
}

#[test]
fn nobody_can_undo_what_its_own_membership_rests_on() {
    let [laptop, phone, tablet, _] = keys();
    let mut user = alice();
    user.remove_after(&tablet, laptop.id(), StatementId::NONE, 0, WALL).unwrap();
    assert!(!user.contains(laptop.id()));
    assert!(user.contains(phone.id()) && user.contains(tablet.id()), "the laptop admitted the phone, which admitted the tablet");
}

#[test]
fn of_two_devices_that_remove_each_other_the_senior_stays_whatever_the_dates() {
    let [laptop, phone, ..] = keys();
    for (senior, junior) in [(0, 10), (10, 0)] {
        let (mut here, mut there) = (alice(), alice());
        here.remove(&laptop, phone.id(), 0, WALL.plus(senior)).unwrap();
        there.remove(&phone, laptop.id(), 0, WALL.plus(junior)).unwrap();
        both(&mut here, &mut there);
        assert!(here.contains(laptop.id()) && !here.contains(phone.id()));
    }
}

#[test]
fn a_recovery_key_is_stronger_than_any_device_and_removable_only_by_a_recovery_key() {
    let [laptop, phone, tablet, thief] = keys();
    let (phrase, other) = (recovery(), DeviceKey::from_seed(&[98; 32]));
    let mut user = alice();
    user.add_recovery(&phone, &phrase, WALL).unwrap();
    assert_eq!(user.recovery_keys().map(|(key, _)| key).collect::<Vec<_>>(), [phrase.id()]);
    // A stolen laptop, the senior of all, can do nothing against it, nor add one of its own.
    assert_eq!(user.remove_recovery(&laptop, phrase.id(), WALL), Err(GroupError::NotAllowed(laptop.id())));
    assert_eq!(user.remove(&laptop, phrase.id(), 0, WALL), Err(GroupError::NotAMember(phrase.id())));
    assert_eq!(user.add_recovery(&laptop, &other, WALL), Err(GroupError::NotAllowed(laptop.id())));
    assert_eq!(user.set_guardians(&laptop, 1, vec![vec![thief.id()]], WALL), Err(GroupError::NotAllowed(laptop.id())));
    let mut there = user.clone();
    there.remove(&laptop, phone.id(), 0, WALL).unwrap();
    there.remove(&laptop, tablet.id(), 0, WALL).unwrap();
    // Whoever has the words admits a new machine, and removes the laptop, as it was before the theft.
    let new = DeviceKey::from_seed(&[5; 32]);
    admit(&mut user, &phrase, &new, "new").unwrap();
    user.remove(&phrase, laptop.id(), 0, WALL).unwrap();
    both(&mut user, &mut there);
    let names: BTreeSet<_> = user.members().map(|member| member.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["phone", "tablet", "new"]), "what the thief did concurrently is undone");
    user.add_recovery(&phrase, &other, WALL).unwrap();
    user.remove_recovery(&other, phrase.id(), WALL).unwrap();
    assert_eq!(user.recovery_keys().count(), 1);
    assert_eq!(user.rename(&phrase, "x", WALL), Err(GroupError::NotAMember(phrase.id())));
}

pub(super) fn guardians() -> Vec<DeviceKey> {
    (50..54).map(|seed| DeviceKey::from_seed(&[seed; 32])).collect()
}

/// Alice, whose guardians are three contacts, the last with two devices; two are needed.
pub(super) fn guarded() -> Group {
    let ids: Vec<_> = guardians().iter().map(DeviceKey::id).collect();
    let mut user = alice();
    user.set_guardians(&keys()[0], 2, vec![vec![ids[0]], vec![ids[1]], vec![ids[2], ids[3]]], WALL).unwrap();
    user
}

pub(super) fn endorse(user: &Group, index: u8, guardian: &DeviceKey, device: &DeviceKey) -> Endorsement {
    Endorsement::sign(guardian, index, user.id(), user.guardians().unwrap().statement, device.id())
}

#[test]
fn enough_guardians_bring_back_a_user_and_fewer_do_nothing() {
    let (contacts, new, user) = (guardians(), DeviceKey::from_seed(&[5; 32]), guarded());
    let good = [endorse(&user, 1, &contacts[0], &new), endorse(&user, 3, &contacts[3], &new)];
    let mut recovered = user.clone();
    recovered.recover(&new, "new laptop", good.to_vec(), WALL).unwrap();
    assert_eq!(recovered.role_of(new.id()), Some(Role::Owner));
    for bad in [
        vec![],
        vec![good[0]],
        vec![good[0], good[0]],
        vec![good[1], endorse(&user, 2, &contacts[2], &new)], // the same contact twice
        vec![good[0], endorse(&user, 2, &new, &new)],
        vec![good[0], endorse(&user, 8, &contacts[1], &new)],
        vec![good[0], endorse(&user, 3, &contacts[2], &keys()[3])], // for another device
    ] {
        let mut user = user.clone();
        assert!(user.recover(&new, "new", bad, WALL).is_err());
        assert!(!user.contains(new.id()));
    }
}

#[test]
fn a_recovered_device_is_stronger_than_those_that_were_lost_and_its_endorsements_serve_once() {
    let ([laptop, phone, tablet, _], contacts, new) = (keys(), guardians(), DeviceKey::from_seed(&[5; 32]));
    let (mut here, mut there) = (guarded(), guarded());
    let endorsements = vec![endorse(&here, 1, &contacts[0], &new), endorse(&here, 2, &contacts[1], &new)];
    here.recover(&new, "new", endorsements.clone(), WALL).unwrap();
    here.remove(&new, laptop.id(), 0, WALL).unwrap();
    there.remove(&laptop, phone.id(), 0, WALL).unwrap();
    both(&mut here, &mut there);
    assert!(here.contains(phone.id()) && !here.contains(laptop.id()));
    // The new device is stolen in turn, and removed: what the guardians signed for it is used up.
    here.remove(&tablet, new.id(), 0, WALL).unwrap();
    assert!(here.recover(&new, "again", endorsements, WALL).is_err());
    assert!(!here.contains(new.id()));
}

#[test]
fn guardians_of_before_a_change_endorse_nobody() {
    let (contacts, new, mut user) = (guardians(), DeviceKey::from_seed(&[5; 32]), guarded());
    let endorsements = vec![endorse(&user, 1, &contacts[0], &new), endorse(&user, 2, &contacts[1], &new)];
    user.recover(&new, "new", endorsements.clone(), WALL).unwrap();
    let old = user.guardians().unwrap().statement;
    user.set_guardians(&new, 1, vec![vec![contacts[2].id()]], WALL).unwrap();
    let newer = DeviceKey::from_seed(&[6; 32]);
    let stale = [0u8, 1].map(|i| Endorsement::sign(&contacts[usize::from(i)], i + 1, user.id(), old, newer.id()));
    let action = Action::Recover { name: "x".into(), guardians: old, endorsements: stale.to_vec() };
    assert!(user.append(&newer, action, WALL).is_err());
    assert!(!user.contains(newer.id()));
}

#[test]
fn roles_of_a_group_bound_what_its_members_may_state() {
    let [owner, writer, reader, other] = keys();
    let [ours, theirs] = [GroupId([1; 32]), GroupId([2; 32])];
    let mut group = Group::create_group(&owner, ours, "Choir", "laptop", WALL).unwrap();
    let join = |group: &mut Group, by: &DeviceKey, device: &DeviceKey, role, holder| {
        let consent = group.consent(device, holder);
        group.admit(by, device.id(), "d", role, holder, consent, WALL)
    };
    join(&mut group, &owner, &writer, Role::Writer, theirs).unwrap();
    join(&mut group, &owner, &reader, Role::Reader, theirs).unwrap();
    let refused = |key: &DeviceKey| Err(GroupError::NotAllowed(key.id()));
    assert_eq!(group.rename(&writer, "x", WALL), refused(&writer));
    assert_eq!(group.remove(&writer, owner.id(), 0, WALL), refused(&writer));
    assert_eq!(group.remove(&reader, writer.id(), 0, WALL), refused(&reader), "of the same holder, but it can do more");
    assert_eq!(group.set_role(&reader, reader.id(), Role::Owner, WALL), refused(&reader));
    assert_eq!(join(&mut group, &writer, &other, Role::Writer, ours), refused(&writer), "as if of another holder");
    assert_eq!(join(&mut group, &writer, &other, Role::Owner, theirs), refused(&writer));
    assert_eq!(Keyring::default().rotate(&mut group, &reader, WALL, &mut rng()).unwrap_err(), GroupError::NotAllowed(reader.id()));
    // Its own devices a member admits and removes.
    join(&mut group, &writer, &other, Role::Reader, theirs).unwrap();
    group.remove(&writer, other.id(), 0, WALL).unwrap();
    group.set_role(&owner, writer.id(), Role::Reader, WALL).unwrap();
    assert_eq!(group.role_of(writer.id()), Some(Role::Reader));
    group.remove(&reader, reader.id(), 0, WALL).unwrap();
    assert_eq!(group.members().count(), 2, "whoever wants to go, goes");
}

#[test]
fn of_concurrent_roles_the_lesser_holds() {
    let [owner, second, member, _] = keys();
    let holder = GroupId([1; 32]);
    let mut group = Group::create_group(&owner, holder, "Choir", "laptop", WALL).unwrap();
    for (device, role) in [(&second, Role::Owner), (&member, Role::Writer)] {
        let consent = group.consent(device, holder);
        group.admit(&owner, device.id(), "d", role, holder, consent, WALL).unwrap();
    }
    let mut other = group.clone();
    group.set_role(&owner, member.id(), Role::Reader, WALL).unwrap();
    other.set_role(&second, member.id(), Role::Owner, WALL).unwrap();
    both(&mut group, &mut other);
    assert_eq!(group.role_of(member.id()), Some(Role::Reader));
}

#[test]
fn a_fork_by_a_copied_key_is_detected_and_shown_and_honest_devices_make_none() {
    let [laptop, phone, ..] = keys();
    let (mut here, mut there) = (alice(), alice());
    here.rename(&laptop, "here", WALL).unwrap();
    there.rename(&phone, "there", WALL).unwrap();
    both(&mut here, &mut there);
    here.rename(&laptop, "both", WALL).unwrap();
    assert_eq!(here.forks(), []);
    // A copy of the phone's key speaks where the phone has not been heard.
    let mut copy = alice();
    copy.rename(&phone, "copy", WALL.plus(9)).unwrap();
    both(&mut here, &mut copy);
    let [fork] = here.forks() else { panic!("one fork") };
    assert_eq!(fork.key, phone.id());
    assert!(fork.statements.iter().all(|id| statement(&here, *id).author() == phone.id()));
}

#[test]
fn a_device_among_more_heads_than_it_can_name_makes_no_fork() {
    let [laptop, phone, ..] = keys();
    let base = alice();
    let mut user = base.clone();
    user.rename(&phone, "mine", WALL).unwrap();
    for i in 0..40 {
        let mut other = base.clone();
        other.rename(&laptop, &format!("{i}"), WALL.plus(100 + i)).unwrap();
        user.merge(other.statements().cloned()).unwrap();
    }
    user.rename(&phone, "mine again", WALL).unwrap();
    assert!(user.forks().iter().all(|fork| fork.key == laptop.id()));
}

#[test]
fn a_user_has_a_bounded_number_of_statements_in_all_and_by_one_key() {
    let [laptop, phone, ..] = keys();
    let user = alice();
    let renames = |key: &DeviceKey, count: u64| -> Vec<_> {
        (0..count).map(|i| said(key, &heads(&user), i, Action::Rename { name: "a".into() })).collect()
    };
    assert_eq!(user.clone().merge(renames(&laptop, MAX_STATEMENTS_BY_ONE as u64)), Err(GroupError::TooMany));
    let mut full = user.clone();
    full.merge(renames(&laptop, 200)).unwrap();
    full.merge(renames(&phone, 200)).unwrap();
    assert_eq!(full.name(), "a");
}

/// A member's own replica, with the keys it was given.
#[derive(Clone)]
struct Replica {
    key: DeviceKey,
    group: Group,
    ring: Keyring,
}

impl Replica {
    /// Grants the other replica what it may have in our view.
    fn grant(&self, other: &mut Self) {
        let known: Vec<_> = other.ring.iter().filter(|(_, key)| matches!(key, EpochKey::Write(_))).map(|(id, _)| id).collect();
        if let Some(grant) = self.ring.grant(&self.group, &self.key, other.key.id(), &known, &mut rng()).unwrap() {
            let _ = other.ring.accept(&other.group, &other.key, &grant);
        }
    }

    /// Takes over all that the other knows, then keys are exchanged, each in its own view.
    fn meet(&mut self, other: &mut Self) {
        let theirs: Vec<_> = other.group.statements().cloned().collect();
        let ours: Vec<_> = self.group.statements().cloned().collect();
        self.group.merge(theirs).unwrap();
        other.group.merge(ours).unwrap();
        self.grant(other);
        other.grant(self);
    }

    /// The epoch that it seals under, begun if need be.
    fn seal(&mut self, seed: u64) -> Option<StatementId> {
        if let Some((id, _)) = self.ring.current(&self.group) {
            return Some(id);
        }
        self.ring.rotate(&mut self.group, &self.key, WALL, &mut ChaCha20Rng::seed_from_u64(seed)).ok()
    }
}

/// An owner with `others` in the roles given, each with its own replica and keys.
fn replicas(others: &[Role]) -> Vec<Replica> {
    let key = |i: usize| DeviceKey::from_seed(&[u8::try_from(i).unwrap() + 1; 32]);
    let holder = |i: usize| GroupId([u8::try_from(i).unwrap() + 1; 32]);
    let mut group = Group::create_group(&key(0), holder(0), "Choir", "founder", WALL).unwrap();
    let mut ring = Keyring::default();
    ring.rotate(&mut group, &key(0), WALL, &mut rng()).unwrap();
    for (i, role) in others.iter().enumerate() {
        let consent = group.consent(&key(i + 1), holder(i + 1));
        group.admit(&key(0), key(i + 1).id(), "d", *role, holder(i + 1), consent, WALL).unwrap();
    }
    let founder = Replica { key: key(0), group: group.clone(), ring };
    let rest = (1..=others.len()).map(|i| {
        let mut replica = Replica { key: key(i), group: group.clone(), ring: Keyring::default() };
        founder.grant(&mut replica);
        replica
    });
    let mut all: Vec<_> = rest.collect();
    all.insert(0, founder);
    all
}

#[test]
fn adding_is_instant_and_gives_writers_and_readers_what_is_theirs() {
    let mut all = replicas(&[Role::Writer, Role::Reader]);
    let epoch = all[0].seal(1).unwrap();
    assert!(matches!(all[1].ring.get(epoch), Some(EpochKey::Write(_))));
    assert!(matches!(all[2].ring.get(epoch), Some(EpochKey::Read(_))), "a reader cannot publish");
    assert_eq!(all[1].seal(2), Some(epoch));
    assert_eq!(all[2].seal(3), None);
}

#[test]
fn removing_begins_an_epoch_that_the_removed_device_is_not_given() {
    let mut all = replicas(&[Role::Writer, Role::Writer]);
    let before = all[0].seal(1).unwrap();
    let [founder, writer, removed] = &mut all[..] else { panic!("three") };
    founder.group.remove(&founder.key, removed.key.id(), 0, WALL).unwrap();
    let after = founder.seal(2).unwrap();
    assert_ne!(after, before);
    founder.meet(removed);
    founder.meet(writer);
    writer.meet(removed);
    assert!(writer.ring.get(after).is_some() && removed.ring.get(after).is_none());
    assert_eq!(writer.seal(3), Some(after));
}

#[test]
fn after_two_concurrent_removals_neither_removed_device_reads_even_if_both_work_together() {
    let mut all = replicas(&[Role::Owner, Role::Writer, Role::Writer, Role::Writer]);
    let [founder, second, one, two, witness] = &mut all[..] else { panic!("five") };
    founder.group.remove(&founder.key, one.key.id(), 0, WALL).unwrap();
    second.group.remove(&second.key, two.key.id(), 0, WALL).unwrap();
    let (without_one, without_two) = (founder.seal(1).unwrap(), second.seal(2).unwrap());
    founder.meet(two);
    second.meet(one);
    assert!(two.ring.get(without_one).is_some() && one.ring.get(without_two).is_some(), "each was a member to who removed the other");
    witness.meet(founder);
    witness.meet(second);
    let both = witness.seal(3).unwrap();
    assert!(both != without_one && both != without_two);
    for other in [&mut *founder, &mut *second, &mut *one, &mut *two] {
        witness.meet(other);
    }
    for removed in [one, two] {
        assert!(removed.ring.get(both).is_none());
    }
    assert_eq!((founder.seal(4), second.seal(5)), (Some(both), Some(both)));
}

#[test]
fn a_writer_who_becomes_a_reader_can_no_longer_publish() {
    let mut all = replicas(&[Role::Writer]);
    let [founder, writer] = &mut all[..] else { panic!("two") };
    founder.group.set_role(&founder.key, writer.key.id(), Role::Reader, WALL).unwrap();
    let after = founder.seal(2).unwrap();
    founder.meet(writer);
    assert!(matches!(writer.ring.get(after), Some(EpochKey::Read(_))));
    assert_eq!(writer.seal(3), None);
}

#[test]
fn a_wrong_key_in_a_grant_is_refused_and_a_grant_for_another_group_or_device_is_void() {
    let mut all = replicas(&[Role::Writer]);
    let [founder, writer] = &mut all[..] else { panic!("two") };
    let epoch = founder.seal(1).unwrap();
    let grant = founder.ring.grant(&founder.group, &founder.key, writer.key.id(), &[], &mut rng()).unwrap().unwrap();
    assert!(Keyring::default().accept(&founder.group, &founder.key, &grant).is_err(), "sealed for the writer");
    let other = Group::create_user(&writer.key, "Bob", "pc", WALL).unwrap();
    assert_eq!(Keyring::default().accept(&other, &writer.key, &grant), Err(crate::GrantError::OtherGroup(founder.group.id())));
    // The founder's ring lies about a key: every bit of the secret counts.
    let mut lying = Keyring::decode(&founder.ring.encode(), &founder.group).unwrap();
    assert_eq!(lying.iter().count(), 1);
    let mut bytes = founder.ring.encode().to_vec();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    assert!(Keyring::decode(&bytes, &founder.group).is_err());
    lying.accept(&founder.group, &writer.key, &grant).unwrap();
    assert!(lying.get(epoch).is_some());
}

#[test]
fn a_recovery_key_is_granted_every_epoch() {
    let mut rng = rng();
    let [laptop, ..] = keys();
    let (mut user, mut ring) = (Group::create_user(&laptop, "Alice", "laptop", WALL).unwrap(), Keyring::default());
    ring.rotate(&mut user, &laptop, WALL, &mut rng).unwrap();
    user.add_recovery(&laptop, &recovery(), WALL).unwrap();
    let grant = ring.grant(&user, &laptop, recovery().id(), &[], &mut rng).unwrap().unwrap();
    assert_eq!(Keyring::group_of(&recovery(), &grant), Ok(user.id()));
    let mut restored = Keyring::default();
    assert_eq!(restored.accept(&user, &recovery(), &grant), Ok(2));
    assert!(restored.current(&user).is_some());
    // Without it the next epoch is another, which it is not given.
    let (phrase, other) = (recovery(), DeviceKey::from_seed(&[98; 32]));
    user.add_recovery(&phrase, &other, WALL).unwrap();
    user.remove_recovery(&other, phrase.id(), WALL).unwrap();
    assert!(ring.current(&user).is_none());
    ring.rotate(&mut user, &laptop, WALL, &mut rng).unwrap();
    assert_eq!(ring.grant(&user, &laptop, phrase.id(), &[], &mut rng), Ok(None));
}

proptest! {
    #[test]
    fn replicas_agree_whatever_they_did_and_in_whatever_order_they_hear_of_it(
        steps in prop::collection::vec((0usize..5, 0usize..8, 0usize..5, 0u64..50), 1..16), order in any::<u64>(),
    ) {
        // Five replicas, four each used by its own device and one by a recovery key, act and sometimes merge from another.
        let keys: Vec<_> = keys().into_iter().chain([recovery()]).collect();
        let contacts = guardians();
        let mut replicas = vec![alice(); 5];
        for (who, kind, whom, time) in steps {
            let (key, other) = (&keys[who], &keys[whom]);
            let time = WALL.plus(time);
            let replica = &mut replicas[who];
            let consent = replica.consent(other, ALICE);
            let role = [Role::Reader, Role::Writer, Role::Owner][whom % 3];
            let _ = match kind {
                0 => replica.admit(key, other.id(), "d", role, ALICE, consent, time),
                1 => replica.remove(key, other.id(), 1, time),
                2 => replica.remove_after(key, other.id(), StatementId::NONE, 1, time),
                3 => replica.rename(key, &format!("by {who}"), time),
                4 => replica.add_recovery(key, &recovery(), time),
                5 if who % 2 == 0 => replica.set_guardians(key, 1, vec![vec![contacts[whom % 4].id()]], time),
                5 => match replica.guardians().map(|guardians| guardians.statement) {
                    Some(chosen) => {
                        let by = contacts.iter().find(|contact| replica.guardians().unwrap().keys[0].contains(&contact.id())).unwrap();
                        let endorsement = Endorsement::sign(by, 1, replica.id(), chosen, key.id());
                        replica.recover(key, "back", vec![endorsement], time)
                    }
                    None => replica.remove_recovery(key, recovery().id(), time),
                },
                _ => {
                    let theirs: Vec<_> = replicas[whom].statements().cloned().collect();
                    replicas[who].merge(theirs).unwrap();
                    continue;
                }
            };
        }
        let mut all: BTreeMap<StatementId, Statement> = BTreeMap::new();
        replicas.iter().flat_map(Group::statements).for_each(|statement| { all.insert(statement.id(), statement.clone()); });
        let whole = Group::from_statements(all.values().cloned()).unwrap();
        // One at a time, in a shuffled order that the parents allow.
        let mut left: Vec<_> = all.into_values().collect();
        let (mut grown, mut state) = (None::<Group>, order);
        while !left.is_empty() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let pick = usize::try_from(state >> 33).unwrap() % left.len();
            let statement = left[pick].clone();
            let taken = match grown.as_mut() {
                Some(user) => user.merge([statement]).is_ok(),
                None => Group::from_statements([statement]).map(|user| grown = Some(user)).is_ok(),
            };
            if !taken {
                continue;
            }
            left.remove(pick);
        }
        prop_assert_eq!(grown.unwrap(), whole.clone());
        for mut replica in replicas {
            replica.merge(whole.statements().cloned()).unwrap();
            prop_assert_eq!(&replica, &whole);
        }
    }

    #[test]
    fn what_is_sealed_in_knowledge_of_a_removal_no_removed_device_can_read(
        steps in prop::collection::vec((0usize..6, 0usize..8, 0usize..6, any::<u64>()), 1..40),
    ) {
        // Honest members act in their own views, meet, and seal; whoever was removed in the view of who seals must not have the key, nor get it later. All who were
        // ever removed work together: it is enough that one of them has it.
        let mut all = replicas(&[Role::Owner, Role::Owner, Role::Writer, Role::Writer, Role::Reader]);
        let ids: Vec<_> = all.iter().map(|replica| replica.key.id()).collect();
        let mut sealed: Vec<(StatementId, BTreeSet<PeerId>)> = Vec::new();
        let mut excused = BTreeSet::new();
        for (who, kind, whom, seed) in steps {
            match kind {
                0 => { let (key, wall) = (all[who].key.clone(), WALL.plus(seed % 50)); let _ = all[who].group.remove(&key, ids[whom], 0, wall); }
                1 => {
                    let key = all[who].key.clone();
                    let last = all[who].group.last_of(ids[whom]);
                    let known = all[who].group.statement(last).and_then(|statement| statement.parents().first().copied());
                    let _ = all[who].group.remove_after(&key, ids[whom], known.unwrap_or(StatementId::NONE), 0, WALL);
                }
                2 => {
                    let key = all[who].key.clone();
                    let role = [Role::Reader, Role::Writer, Role::Owner][usize::try_from(seed % 3).unwrap()];
                    let (device, holder) = (all[whom].key.clone(), GroupId([u8::try_from(whom).unwrap() + 1; 32]));
                    let consent = all[who].group.consent(&device, holder);
                    let _ = all[who].group.admit(&key, ids[whom], "d", role, holder, consent, WALL);
                }
                3 | 4 => {
                    if let Some(epoch) = all[who].seal(seed) {
                        let members: BTreeSet<_> = all[who].group.members().map(|member| member.id).collect();
                        sealed.push((epoch, ids.iter().copied().filter(|id| !members.contains(id)).collect()));
                    }
                }
                _ if who != whom => {
                    let (low, high) = (who.min(whom), who.max(whom));
                    let (left, right) = all.split_at_mut(high);
                    left[low].meet(&mut right[0]);
                }
                _ => {}
            }
            for (epoch, out) in &sealed {
                for replica in all.iter().filter(|replica| out.contains(&replica.key.id())) {
                    // Unless the removal was undone, by a stronger one or a new admission, in the view of someone who has the key.
                    let back = all.iter().any(|other| other.group.contains(replica.key.id()) && other.group.statement(*epoch).is_some());
                    if back {
                        excused.insert((*epoch, replica.key.id()));
                    }
                    let has = replica.ring.get(*epoch).is_some() && !excused.contains(&(*epoch, replica.key.id()));
                    prop_assert!(!has, "{:?} has {epoch:?}", replica.key.id());
                }
            }
        }
    }

    #[test]
    fn any_bytes_are_a_group_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Group::decode(&bytes).is_err());
    }

    #[test]
    fn an_altered_user_is_refused(at in 0usize..10_000, bit in 0u8..8) {
        let mut bytes = alice().encode();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        prop_assert!(Group::decode(&bytes).is_err());
    }

    #[test]
    fn any_bytes_are_a_grant_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(Keyring::default().accept(&alice(), &keys()[0], &bytes).is_err());
    }
}
