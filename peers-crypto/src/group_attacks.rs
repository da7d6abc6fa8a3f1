//! What a member, a former member or a thief may try against the log of a user or group.

use super::tests::*;
use super::*;

#[test]
fn a_reader_cannot_remove_an_owner_by_choosing_a_view_in_which_the_owner_was_not_yet_admitted() {
    let [owner, reader, second, _] = keys();
    let [ours, theirs] = [GroupId([1; 32]), GroupId([2; 32])];
    let mut group = Group::create_group(&owner, ours, "Choir", "laptop", WALL).unwrap();
    let consent = group.consent(&reader, theirs);
    let admitted = group.admit(&owner, reader.id(), "d", Role::Reader, theirs, consent, WALL).unwrap();
    let consent = group.consent(&second, ours);
    group.admit(&owner, second.id(), "d", Role::Owner, ours, consent, WALL).unwrap();
    let removal = Action::Remove { device: second.id(), last: StatementId::NONE, sequence: 0 };
    let _ = group.merge([said(&reader, &[admitted], 9, removal)]);
    assert_eq!(group.role_of(second.id()), Some(Role::Owner));
}

#[test]
fn guardians_that_were_replaced_endorse_nobody_also_in_a_view_of_before() {
    let (contacts, new, mut user) = (guardians(), DeviceKey::from_seed(&[5; 32]), guarded());
    let endorsements = vec![endorse(&user, 1, &contacts[0], &new), endorse(&user, 2, &contacts[1], &new)];
    user.recover(&new, "new", endorsements, WALL).unwrap();
    let (old, before) = (user.guardians().unwrap().statement, heads(&user));
    user.set_guardians(&new, 1, vec![vec![contacts[2].id()]], WALL).unwrap();
    let thief = DeviceKey::from_seed(&[6; 32]);
    let stale = [0u8, 1].map(|i| Endorsement::sign(&contacts[usize::from(i)], i + 1, user.id(), old, thief.id()));
    let action = Action::Recover { name: "x".into(), guardians: old, endorsements: stale.to_vec() };
    let _ = user.merge([said(&thief, &before, 1, action)]);
    assert!(!user.contains(thief.id()));
}

#[test]
fn a_junior_device_cannot_void_the_recovery_phrase_by_removing_the_device_that_added_it() {
    let [laptop, _, tablet, _] = keys();
    let phrase = recovery();
    let mut user = alice();
    user.add_recovery(&laptop, &phrase, WALL).unwrap();
    user.remove_after(&tablet, laptop.id(), StatementId::NONE, 0, WALL).unwrap();
    assert_eq!(user.recovery_keys().count(), 1);
    admit(&mut user, &phrase, &DeviceKey::from_seed(&[5; 32]), "new").unwrap();
}

/// A group of an owner and a reader, who was removed, and the statement that admitted it.
fn without_the_reader() -> (Group, StatementId, GroupId) {
    let [owner, reader, ..] = keys();
    let [ours, theirs] = [GroupId([1; 32]), GroupId([2; 32])];
    let mut group = Group::create_group(&owner, ours, "Choir", "laptop", WALL).unwrap();
    let consent = group.consent(&reader, theirs);
    let admitted = group.admit(&owner, reader.id(), "d", Role::Reader, theirs, consent, WALL).unwrap();
    group.remove(&owner, reader.id(), 0, WALL).unwrap();
    (group, admitted, theirs)
}

#[test]
fn what_a_member_was_never_given_the_role_for_is_refused_and_takes_no_room() {
    let (mut group, admitted, _) = without_the_reader();
    let [owner, reader, ..] = keys();
    let guardians: Vec<_> = (0..16).map(|i| (0..8).map(|j| PeerId([16 * j + i; 32])).collect()).collect();
    let rotate = Action::Rotate { topic: peers_wire::TopicId([1; 32]), read: [0; 32] };
    let proof = recovery_proof(&recovery(), group.id());
    let consent = group.consent(&owner, GroupId([1; 32]));
    for action in [
        Action::SetGuardians { threshold: 1, guardians },
        Action::AddRecovery { key: recovery().id(), proof },
        Action::RemoveRecovery { key: recovery().id(), last: StatementId::NONE },
        Action::Admit { device: owner.id(), name: "d".into(), role: Role::Reader, holder: GroupId([1; 32]), consent },
        rotate,
        Action::Rename { name: "x".into() },
    ] {
        assert_eq!(group.merge([said(&reader, &[admitted], 1, action)]), Err(GroupError::NotAllowed(reader.id())));
    }
}

#[test]
fn a_former_reader_cannot_fill_the_log_by_devices_of_its_own() {
    let (mut group, admitted, theirs) = without_the_reader();
    let [owner, reader, ..] = keys();
    for seed in 100..106 {
        let own = DeviceKey::from_seed(&[seed; 32]);
        let consent = group.consent(&own, theirs);
        let action = Action::Admit { device: own.id(), name: "d".into(), role: Role::Reader, holder: theirs, consent };
        let mut all = vec![said(&reader, &[admitted], 0, action)];
        for sequence in 0..99 {
            let action = Action::Remove { device: own.id(), last: StatementId::NONE, sequence };
            all.push(said(&own, &[all[0].id()], 9, action));
        }
        assert_eq!(group.merge(all).is_ok(), seed < 102);
    }
    group.rename(&owner, "Orchestra", WALL).unwrap();
    assert_eq!(group.name(), "Orchestra");
}

#[test]
fn after_guardians_were_replaced_the_next_epoch_is_another() {
    use crate::Keyring;
    let (contacts, new, mut user) = (guardians(), DeviceKey::from_seed(&[5; 32]), guarded());
    let endorsements = vec![endorse(&user, 1, &contacts[0], &new), endorse(&user, 2, &contacts[1], &new)];
    user.recover(&new, "new", endorsements, WALL).unwrap();
    let mut ring = Keyring::default();
    let epoch = ring.rotate(&mut user, &new, WALL, &mut rng()).unwrap();
    assert!(user.is_clean(epoch));
    user.set_guardians(&new, 1, vec![vec![contacts[2].id()]], WALL).unwrap();
    assert!(!user.is_clean(epoch), "those of before have it in their vault");
}

#[test]
fn a_removed_writer_cannot_crowd_out_the_keys_of_the_others_by_epochs_of_its_own() {
    use crate::{Keyring, TopicKey};
    let [owner, writer, ..] = keys();
    let [ours, theirs] = [GroupId([1; 32]), GroupId([2; 32])];
    let (mut group, mut ring) = (Group::create_group(&owner, ours, "Choir", "laptop", WALL).unwrap(), Keyring::default());
    let consent = group.consent(&writer, theirs);
    let admitted = group.admit(&owner, writer.id(), "d", Role::Writer, theirs, consent, WALL).unwrap();
    let mut copy = group.clone();
    let first = ring.rotate(&mut group, &owner, WALL, &mut rng()).unwrap();
    group.remove(&owner, writer.id(), 0, WALL).unwrap();
    let epoch = ring.rotate(&mut group, &owner, WALL, &mut rng()).unwrap();
    // As if made before, and dated to come after all others.
    let rotations = (0..255u8).map(|seed| {
        let topic = TopicKey::from_seed([seed; 32]).read_key();
        said(&writer, &[admitted], 1 << 40, Action::Rotate { topic: topic.topic(), read: topic.commitment() })
    });
    let rotations: Vec<_> = rotations.collect();
    copy.merge(rotations.clone()).unwrap();
    group.merge(rotations.clone()).unwrap();
    let mut grant = Writer::default();
    let mut ids: Vec<_> = rotations.iter().zip(0u8..).map(|(rotation, seed)| (rotation.id(), seed)).collect();
    ids.sort_unstable();
    grant.u8(1).varint(ids.len() as u64);
    ids.iter().for_each(|(id, seed)| _ = grant.bytes(&id.0).u8(2).bytes(&[*seed; 32]));
    let own = Keyring::decode(&grant.finish(), &copy).unwrap();
    let grant = own.grant(&copy, &writer, owner.id(), &[], &mut rng()).unwrap().unwrap();
    ring.accept(&group, &owner, &grant).unwrap();
    assert!(ring.get(first).is_some(), "what was written before stays readable");
    assert_eq!(ring.current(&group).map(|(id, _)| id), Some(epoch));
}

#[test]
fn a_recovery_key_removes_a_stolen_device_also_after_the_thief_has_filled_the_log() {
    let [laptop, phone, ..] = keys();
    let mut user = alice();
    user.add_recovery(&laptop, &recovery(), WALL).unwrap();
    let good = user.last_of(phone.id());
    let before = heads(&user);
    let mut all = Vec::new();
    for seed in 100..105 {
        let own = DeviceKey::from_seed(&[seed; 32]);
        let consent = user.consent(&own, ALICE);
        let action = Action::Admit { device: own.id(), name: "d".into(), role: Role::Owner, holder: ALICE, consent };
        let admission = said(&phone, &before, 0, action);
        let parent = admission.id();
        all.push(admission);
        all.extend((0..250).map(|time| said(&own, &[parent], time, Action::Rename { name: "x".into() })));
    }
    all.truncate(MAX_STATEMENTS - RESERVED_STATEMENTS - user.statements().count());
    user.merge(all).unwrap();
    assert_eq!(user.rename(&laptop, "Alice", WALL), Err(GroupError::TooMany), "it is full");
    user.remove_after(&recovery(), phone.id(), good, 0, WALL).unwrap();
    let new = DeviceKey::from_seed(&[5; 32]);
    admit(&mut user, &recovery(), &new, "new").unwrap();
    crate::Keyring::default().rotate(&mut user, &new, WALL, &mut rng()).unwrap();
    let names: BTreeSet<_> = user.members().map(|member| member.name.as_str()).collect();
    assert_eq!((names, user.name()), (BTreeSet::from(["laptop", "tablet", "new"]), "Alice"));
}
