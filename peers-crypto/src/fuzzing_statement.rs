//! The bodies of the fuzz targets of statements, users and groups.

use std::collections::BTreeMap;

use peers_wire::{PeerId, Timestamp};

use crate::{DeviceKey, Endorsement, Group, GroupId, GuardianAnswer, GuardianPackage, Keyring, Role, Statement, StatementId};

const WALL: Timestamp = Timestamp(1_700_000_000_000);

/// What decodes is the one encoding of what it says; a group is the same whatever the order of its statements, and hears nothing new from itself.
pub fn crypto_statement(data: &[u8]) {
    if let Ok(statement) = Statement::decode(data) {
        assert_eq!(statement.encode(), data);
        assert_eq!(Statement::decode(&statement.encode()), Ok(statement));
    }
    if let Ok(mut group) = Group::decode(data) {
        assert_eq!(group.encode(), data);
        assert_eq!(Group::id_of(data), Some(group.id()));
        let mut statements: Vec<_> = group.statements().cloned().collect();
        statements.reverse();
        assert_eq!(Group::from_statements(statements).expect("a group").encode(), data);
        assert_eq!(group.merge_encoded(data), Ok(0));
        assert_eq!(group.encode(), data);
        // Keys of a group are those of its epochs, whatever else the bytes say.
        if let Ok(keys) = Keyring::decode(data, &group) {
            assert!(keys.iter().all(|(id, _)| group.statement(id).is_some()));
        }
    }
    if let Ok(package) = GuardianPackage::decode(data) {
        assert_eq!(*package.encode(), data);
    }
    if let Ok(answer) = GuardianAnswer::decode(data) {
        assert_eq!(*answer.encode(), data);
    }
}

/// Members act in views of their own and sometimes meet: three bytes a step. In the end all agree, whatever the order; nobody is left without a reason; and nobody's
/// removal by a stronger one is undone by a weaker one that did not know of it.
pub fn crypto_group(data: &[u8]) {
    let keys: [DeviceKey; 5] = [1, 2, 3, 4, 99].map(|seed| DeviceKey::from_seed(&[seed; 32]));
    let guardian = DeviceKey::from_seed(&[50; 32]);
    let founded = Group::create_user(&keys[0], "Alice", "laptop", WALL).expect("a name");
    let mut replicas = vec![founded; keys.len()];
    for step in data.as_chunks::<3>().0.iter().take(MAX_STEPS) {
        let (who, whom) = (usize::from(step[0] & 7) % 5, usize::from(step[0] >> 3 & 7) % 5);
        let (key, other, time) = (&keys[who], &keys[whom], WALL.plus(u64::from(step[2])));
        if step[1] & 15 == 9 || step[1] & 15 > 10 {
            let theirs: Vec<_> = replicas[whom].statements().cloned().collect();
            replicas[who].merge(theirs).expect("statements of a replica");
            continue;
        }
        let group = &mut replicas[who];
        let (consent, role) =
            (group.consent(other, GroupId::NONE), [Role::Reader, Role::Writer, Role::Owner][usize::from(step[1] >> 4) % 3]);
        let before = group.clone();
        let done = match step[1] & 15 {
            0 | 10 => group.admit(key, other.id(), "d", role, GroupId::NONE, consent, time),
            1 => group.remove(key, other.id(), 1, time),
            2 => group.remove_after(key, other.id(), StatementId::NONE, 1, time),
            3 => group.rename(key, "x", time),
            4 => group.add_recovery(key, other, time),
            5 => group.remove_recovery(key, other.id(), time),
            6 => group.set_guardians(key, 1, vec![vec![guardian.id()]], time),
            7 => group.set_role(key, other.id(), role, time),
            _ => {
                let chosen = group.guardians().map_or(StatementId::NONE, |guardians| guardians.statement);
                let endorsement = Endorsement::sign(&guardian, 1, group.id(), chosen, key.id());
                group.recover(key, "back", vec![endorsement], time)
            }
        };
        match done {
            Ok(id) => assert!(group.counts(id)),
            Err(_) => assert_eq!(*group, before, "what is refused changes nothing"),
        }
    }
    let all: BTreeMap<_, _> = replicas.iter().flat_map(Group::statements).map(|statement| (statement.id(), statement.clone())).collect();
    let whole = Group::from_statements(all.into_values()).expect("statements of replicas");
    for replica in &mut replicas {
        replica.merge(whole.statements().cloned()).expect("statements of replicas");
        assert_eq!(*replica, whole);
    }
    assert_eq!(Group::decode(&whole.encode()).as_ref(), Ok(&whole));
    let admitted = |device: PeerId| whole.statements().any(|statement| whole.counts(statement.id()) && grants(statement) == Some(device));
    assert!(whole.members().all(|member| admitted(member.id)) && whole.recovery_keys().all(|(key, _)| admitted(key)));
    assert!(whole.removed().all(|removed| !whole.contains(removed.id)));
}

fn grants(statement: &Statement) -> Option<PeerId> {
    crate::history::admits(statement).map(|(key, _)| key)
}

const MAX_STEPS: usize = 48;
