//! A user: a set of devices, that its own devices add and revoke by signed statements.
//!
//! Who is a device of the user is a function of the set of statements alone: replicas that hold the same statements agree, in whatever order they came.
//!
//! 1. The statements are put in order: parents before children, else by time, then by id.
//! 2. A statement counts if its author is, by the statements before it that count and that it descends from, a device that was added and not revoked.
//! 3. The first revocation that counts takes effect: what the revoked device said that is neither its named last statement nor an ancestor of that does not count.
//!    Then 2 and 3 begin again, until every revocation that counts has taken effect.
//! 4. The devices are those added by statements that count, without those revoked by a revocation that took effect; the name is the last one that counts.

use std::collections::{BTreeMap, BTreeSet};

use peers_wire::{DecodeError, PeerId, Reader, Signature, Timestamp, Writer};
use thiserror::Error;

use crate::keys::{DeviceKey, Forged};
use crate::statement::{Action, MAX_PARENTS, Statement, StatementId, UserId, is_name};

/// Statements that a user may have.
pub const MAX_STATEMENTS: usize = 1024;
/// Bytes of one encoded statement: version, parents, author, time, and the longest action.
const MAX_STATEMENT: usize = 2 + 32 * MAX_PARENTS + 32 + 6 + 256;
const VERSION: u8 = 1;

/// Why statements are not those of a user, or cannot be added to one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UserError {
    /// The bytes are no statements.
    #[error("not the statements of a user: {0}")]
    Malformed(#[from] DecodeError),
    /// A signature in the statement is not genuine.
    #[error("statement {0:.8} is forged")]
    Forged(StatementId),
    /// None of the statements, or more than one, creates a user.
    #[error("there must be exactly one statement that creates the user")]
    Create,
    /// The statement names another that is missing.
    #[error("statement {0:.8} is missing")]
    Missing(StatementId),
    /// The author is no device of the user, or was not when it made the statement.
    #[error("{0:.8} is not a device of this user")]
    NotADevice(PeerId),
    /// The device was in the user already, or was revoked.
    #[error("{0:.8} is or was a device of this user")]
    Known(PeerId),
    /// The name is empty, too long, or has control characters.
    #[error("a name has 1 to 64 bytes and no control characters")]
    Name,
    /// There would be more than [`MAX_STATEMENTS`].
    #[error("a user has at most {MAX_STATEMENTS} statements")]
    TooMany,
}

/// A device of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its key.
    pub id: PeerId,
    /// Its name.
    pub name: String,
    /// When it was added.
    pub added: Timestamp,
}

/// A device that was revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revoked {
    /// Its key.
    pub id: PeerId,
    /// The number of its last change to data that still counts.
    pub sequence: u64,
}

/// A user and all statements about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    id: UserId,
    statements: BTreeMap<StatementId, Statement>,
    state: State,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct State {
    name: String,
    devices: BTreeMap<PeerId, Device>,
    revoked: BTreeMap<PeerId, u64>,
}

impl User {
    /// A new user whose first device is `key`.
    ///
    /// # Errors
    /// [`UserError::Name`]
    pub fn create(key: &DeviceKey, name: &str, device_name: &str, wall: Timestamp) -> Result<Self, UserError> {
        if !is_name(name) || !is_name(device_name) {
            return Err(UserError::Name);
        }
        let action = Action::Create { name: name.to_owned(), device_name: device_name.to_owned() };
        Self::from_statements([Statement::sign(key, Vec::new(), wall, action)])
    }

    /// The user that statements in any order are about.
    ///
    /// # Errors
    /// [`UserError`]
    pub fn from_statements(statements: impl IntoIterator<Item = Statement>) -> Result<Self, UserError> {
        let statements: Vec<_> = statements.into_iter().collect();
        let roots: BTreeSet<_> = statements.iter().filter(|statement| statement.parents().is_empty()).map(Statement::id).collect();
        let (Some(root), 1) = (roots.first(), roots.len()) else { return Err(UserError::Create) };
        let mut this = Self { id: UserId(root.0), statements: BTreeMap::new(), state: State::default() };
        this.merge(statements)?;
        Ok(this)
    }

    /// Takes further statements, in any order; all of them or, with an error, none. Returns how many were new; O(n^2) in the statements held.
    ///
    /// # Errors
    /// [`UserError`]: among them what is not signed by a device of this user.
    pub fn merge(&mut self, statements: impl IntoIterator<Item = Statement>) -> Result<usize, UserError> {
        let mut all = self.statements.clone();
        for statement in statements {
            if all.len() == MAX_STATEMENTS && !all.contains_key(&statement.id()) {
                return Err(UserError::TooMany);
            }
            if statement.parents().is_empty() && statement.id().0 != self.id.0 {
                return Err(UserError::Create);
            }
            all.entry(statement.id()).or_insert(statement);
        }
        let new = all.len() - self.statements.len();
        if new == 0 {
            return Ok(0);
        }
        for statement in all.values().filter(|statement| !self.statements.contains_key(&statement.id())) {
            if let Some(missing) = statement.parents().iter().find(|parent| !all.contains_key(*parent)) {
                return Err(UserError::Missing(*missing));
            }
            statement.check().map_err(|Forged| UserError::Forged(statement.id()))?;
        }
        let history = History::new(&all);
        history.check_authors()?;
        self.state = history.resolve();
        self.statements = all;
        Ok(new)
    }

    /// As [`User::merge`], for what [`User::encode`] wrote elsewhere. Signatures of statements held already are not checked again.
    ///
    /// # Errors
    /// [`UserError`]: [`UserError::Create`] unless the statement that created this user is among them, so that who has never heard from its devices costs us no check.
    pub fn merge_encoded(&mut self, bytes: &[u8]) -> Result<usize, UserError> {
        let statements = read(bytes)?;
        if !statements.iter().any(|statement| statement.id().0 == self.id.0) {
            return Err(UserError::Create);
        }
        self.merge(statements)
    }

    /// Adds a device, with its [`consent`](crate::consent) to be added by `key`.
    ///
    /// # Errors
    /// [`UserError`]
    pub fn add_device(
        &mut self,
        key: &DeviceKey,
        device: PeerId,
        name: &str,
        consent: Signature,
        wall: Timestamp,
    ) -> Result<Statement, UserError> {
        if self.contains(device) || self.state.revoked.contains_key(&device) {
            return Err(UserError::Known(device));
        }
        self.append(key, Action::AddDevice { device, name: name.to_owned(), consent }, name, wall)
    }

    /// Revokes a device. What it stated so far still counts; of its changes to data, those up to number `sequence`.
    ///
    /// # Errors
    /// [`UserError`]
    pub fn revoke_device(&mut self, key: &DeviceKey, device: PeerId, sequence: u64, wall: Timestamp) -> Result<Statement, UserError> {
        if !self.contains(device) {
            return Err(UserError::NotADevice(device));
        }
        let history = History::new(&self.statements);
        let last = history.order.iter().rev().find(|statement| statement.author() == device).map_or(StatementId::NONE, |last| last.id());
        self.append(key, Action::RevokeDevice { device, last, sequence }, "-", wall)
    }

    /// Gives the user another name.
    ///
    /// # Errors
    /// [`UserError`]
    pub fn rename(&mut self, key: &DeviceKey, name: &str, wall: Timestamp) -> Result<Statement, UserError> {
        self.append(key, Action::Rename { name: name.to_owned() }, name, wall)
    }

    fn append(&mut self, key: &DeviceKey, action: Action, name: &str, wall: Timestamp) -> Result<Statement, UserError> {
        if !self.contains(key.id()) {
            return Err(UserError::NotADevice(key.id()));
        }
        if !is_name(name) {
            return Err(UserError::Name);
        }
        let parents: BTreeSet<_> = self.statements.values().flat_map(Statement::parents).collect();
        let mut heads: Vec<_> = self.statements.values().filter(|statement| !parents.contains(&statement.id())).collect();
        heads.sort_unstable_by_key(|head| core::cmp::Reverse((head.time(), head.id())));
        heads.truncate(MAX_PARENTS);
        let after = heads.first().map_or(wall, |head| head.time().plus(1).max(wall)).min(Timestamp::MAX);
        let statement = Statement::sign(key, heads.iter().map(|head| head.id()).collect(), after, action);
        self.merge([statement.clone()])?;
        Ok(statement)
    }

    /// The user's id.
    pub const fn id(&self) -> UserId {
        self.id
    }

    /// The user's name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// The devices, in the order of their ids.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.state.devices.values()
    }

    /// The devices that were revoked, in the order of their ids.
    pub fn revoked(&self) -> impl Iterator<Item = Revoked> {
        self.state.revoked.iter().map(|(id, sequence)| Revoked { id: *id, sequence: *sequence })
    }

    /// Whether it is a device of the user.
    pub fn contains(&self, device: PeerId) -> bool {
        self.state.devices.contains_key(&device)
    }

    /// The name of a device of the user.
    pub fn name_of(&self, device: PeerId) -> Option<&str> {
        self.state.devices.get(&device).map(|device| &*device.name)
    }

    /// All statements, also those that do not count, in the order of their ids.
    pub fn statements(&self) -> impl Iterator<Item = &Statement> {
        self.statements.values()
    }

    /// All statements as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.u8(VERSION).varint(self.statements.len() as u64);
        for statement in self.statements.values() {
            writer.string(&statement.encode());
        }
        writer.finish()
    }

    /// Reads what [`User::encode`] wrote and checks every statement.
    ///
    /// # Errors
    /// [`UserError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, UserError> {
        Self::from_statements(read(bytes)?)
    }
}

/// Statements as [`User::encode`] wrote them, unchecked.
fn read(bytes: &[u8]) -> Result<Vec<Statement>, DecodeError> {
    let mut reader = Reader::new(bytes);
    match reader.u8()? {
        VERSION => {}
        other => return Err(DecodeError::Kind(other)),
    }
    let mut statements: Vec<Statement> = Vec::new();
    for _ in 0..reader.count(MAX_STATEMENTS, "number of statements")? {
        let statement = Statement::decode(reader.string(MAX_STATEMENT, "statement")?)?;
        if statements.last().is_some_and(|last| last.id() >= statement.id()) {
            return Err(DecodeError::NotCanonical("order of statements"));
        }
        statements.push(statement);
    }
    reader.finish()?;
    Ok(statements)
}

/// Statements in order, each with what it descends from.
struct History<'a> {
    order: Vec<&'a Statement>,
    /// For each, the places of its ancestors, as a set of bits.
    ancestors: Vec<Vec<u64>>,
    places: BTreeMap<StatementId, usize>,
}

impl<'a> History<'a> {
    /// Every parent must be there.
    fn new(statements: &'a BTreeMap<StatementId, Statement>) -> Self {
        let mut children: BTreeMap<StatementId, Vec<&Statement>> = BTreeMap::new();
        let mut waiting: BTreeMap<StatementId, usize> = BTreeMap::new();
        let mut ready = BTreeSet::new();
        for statement in statements.values() {
            waiting.insert(statement.id(), statement.parents().len());
            statement.parents().iter().for_each(|parent| children.entry(*parent).or_default().push(statement));
            if statement.parents().is_empty() {
                ready.insert((statement.time(), statement.id()));
            }
        }
        let words = statements.len().div_ceil(64);
        let mut this = Self { order: Vec::new(), ancestors: Vec::new(), places: BTreeMap::new() };
        while let Some((_, id)) = ready.pop_first() {
            let statement = &statements[&id];
            let mut ancestors = vec![0; words];
            for parent in statement.parents() {
                let place = this.places[parent];
                ancestors.iter_mut().zip(&this.ancestors[place]).for_each(|(word, theirs)| *word |= theirs);
                ancestors[place / 64] |= 1 << (place % 64);
            }
            this.places.insert(id, this.order.len());
            this.order.push(statement);
            this.ancestors.push(ancestors);
            for child in children.remove(&id).unwrap_or_default() {
                let left = waiting.entry(child.id()).or_default();
                *left -= 1;
                if *left == 0 {
                    ready.insert((child.time(), child.id()));
                }
            }
        }
        this
    }

    fn descends(&self, place: usize, from: usize) -> bool {
        self.ancestors[place][from / 64] & 1 << (from % 64) != 0
    }

    /// Refuses what a stranger says: the author must be added in the statement's past, whether or not that counts.
    fn check_authors(&self) -> Result<(), UserError> {
        let mut added: BTreeMap<PeerId, Vec<usize>> = BTreeMap::new();
        for (place, statement) in self.order.iter().enumerate() {
            let author = statement.author();
            let member =
                statement.parents().is_empty() || added.get(&author).is_some_and(|all| all.iter().any(|from| self.descends(place, *from)));
            if !member {
                return Err(UserError::NotADevice(author));
            }
            if let Some(device) = added_by(statement) {
                added.entry(device).or_default().push(place);
            }
        }
        Ok(())
    }

    fn resolve(&self) -> State {
        let mut void = vec![false; self.order.len()];
        let mut effective: BTreeSet<usize> = BTreeSet::new();
        loop {
            let counts = self.counting(&void);
            let next = self.order.iter().enumerate().find_map(|(place, statement)| match statement.action() {
                Action::RevokeDevice { device, last, .. } if counts[place] && !effective.contains(&place) => Some((place, *device, *last)),
                _ => None,
            });
            let Some((place, device, last)) = next else { return self.state(&counts, &effective) };
            effective.insert(place);
            let last = self.places.get(&last).copied();
            for (other, statement) in self.order.iter().enumerate() {
                let kept = last.is_some_and(|last| last == other || self.descends(last, other));
                void[other] |= statement.author() == device && !kept && !statement.parents().is_empty();
            }
        }
    }

    /// Which statements count if those of `void` do not.
    fn counting(&self, void: &[bool]) -> Vec<bool> {
        let mut counts = vec![false; self.order.len()];
        let mut added: BTreeMap<PeerId, Vec<usize>> = BTreeMap::new();
        let mut revoked: BTreeMap<PeerId, Vec<usize>> = BTreeMap::new();
        for (place, statement) in self.order.iter().enumerate() {
            let past = |all: &BTreeMap<PeerId, Vec<usize>>| {
                all.get(&statement.author()).is_some_and(|places| places.iter().any(|from| self.descends(place, *from)))
            };
            counts[place] = statement.parents().is_empty() || (!void[place] && past(&added) && !past(&revoked));
            if counts[place] {
                if let Some(device) = added_by(statement) {
                    added.entry(device).or_default().push(place);
                }
                if let Action::RevokeDevice { device, .. } = statement.action() {
                    revoked.entry(*device).or_default().push(place);
                }
            }
        }
        counts
    }

    fn state(&self, counts: &[bool], effective: &BTreeSet<usize>) -> State {
        let mut state = State::default();
        for (place, statement) in self.order.iter().enumerate().filter(|(place, _)| counts[*place] || effective.contains(place)) {
            let mut add = |id: PeerId, name: &String| {
                state.devices.entry(id).or_insert_with(|| Device { id, name: name.clone(), added: statement.time() });
            };
            match statement.action() {
                Action::Create { name, device_name } => {
                    state.name.clone_from(name);
                    add(statement.author(), device_name);
                }
                Action::AddDevice { device, name, .. } => add(*device, name),
                Action::RevokeDevice { device, sequence, .. } if effective.contains(&place) => {
                    // Of two concurrent revocations the stricter holds.
                    state.revoked.entry(*device).and_modify(|known| *known = (*known).min(*sequence)).or_insert(*sequence);
                }
                Action::RevokeDevice { .. } => {}
                Action::Rename { name } => state.name.clone_from(name),
            }
        }
        state.devices.retain(|id, _| !state.revoked.contains_key(id));
        state
    }
}

fn added_by(statement: &Statement) -> Option<PeerId> {
    match statement.action() {
        Action::Create { .. } => Some(statement.author()),
        Action::AddDevice { device, .. } => Some(*device),
        Action::RevokeDevice { .. } | Action::Rename { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statement::consent;
    use proptest::prelude::*;

    const WALL: Timestamp = Timestamp(1_700_000_000_000);

    fn keys() -> [DeviceKey; 4] {
        [1, 2, 3, 4].map(|seed| DeviceKey::from_seed(&[seed; 32]))
    }

    fn add(user: &mut User, by: &DeviceKey, device: &DeviceKey, name: &str) -> Result<Statement, UserError> {
        user.add_device(by, device.id(), name, consent(device, by.id()), WALL)
    }

    /// Alice with laptop, phone and tablet.
    fn alice() -> User {
        let [laptop, phone, tablet, _] = keys();
        let mut user = User::create(&laptop, "Alice", "laptop", WALL).unwrap();
        add(&mut user, &laptop, &phone, "phone").unwrap();
        add(&mut user, &phone, &tablet, "tablet").unwrap();
        user
    }

    #[test]
    fn devices_are_added_named_and_revoked() {
        let [laptop, phone, tablet, stranger] = keys();
        let mut user = alice();
        assert_eq!(user.name_of(phone.id()), Some("phone"));
        assert_eq!(user.devices().count(), 3);
        assert!(!user.contains(stranger.id()));
        user.revoke_device(&phone, laptop.id(), 7, WALL).unwrap();
        assert!(!user.contains(laptop.id()) && user.contains(tablet.id()), "what it stated before still counts");
        assert_eq!(user.revoked().collect::<Vec<_>>(), [Revoked { id: laptop.id(), sequence: 7 }]);
        assert_eq!(user.rename(&laptop, "Mallory", WALL), Err(UserError::NotADevice(laptop.id())));
        assert_eq!(add(&mut user, &phone, &laptop, "again"), Err(UserError::Known(laptop.id())));
        user.rename(&tablet, "Alicia", WALL).unwrap();
        assert_eq!(user.name(), "Alicia");
        assert_eq!(User::decode(&user.encode()), Ok(user));
    }

    #[test]
    fn statements_of_a_stranger_forged_ones_and_ones_with_gaps_are_refused() {
        let [laptop, phone, _, stranger] = keys();
        let mut user = alice();
        let before = user.clone();
        let head = user.statements().map(Statement::id).collect::<Vec<_>>();
        let alien = Statement::sign(&stranger, head.clone(), WALL, Action::Rename { name: "Mallory".into() });
        assert_eq!(user.merge([alien]), Err(UserError::NotADevice(stranger.id())));
        let gap = Statement::sign(&laptop, vec![StatementId([1; 32])], WALL, Action::Rename { name: "x".into() });
        assert_eq!(user.merge([gap]), Err(UserError::Missing(StatementId([1; 32]))));
        let mut bytes = Statement::sign(&phone, head, WALL, Action::Rename { name: "Alicia".into() }).encode();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        let forged = Statement::decode(&bytes).unwrap();
        assert_eq!(user.merge([forged.clone()]), Err(UserError::Forged(forged.id())));
        let other = User::create(&stranger, "Bob", "pc", WALL).unwrap();
        assert_eq!(user.merge(other.statements().cloned()), Err(UserError::Create));
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
        let other = User::create(&stranger, "Bob", "pc", WALL).unwrap();
        assert_eq!(here.merge_encoded(&other.encode()), Err(UserError::Create));
        assert_eq!(here.merge_encoded(&[1, 0]), Err(UserError::Create), "nothing shows that they are of this user");
        there.rename(&laptop, "Al", WALL).unwrap();
        let mut forged = there.encode();
        let last = forged.len() - 1;
        forged[last] ^= 1;
        assert!(here.merge_encoded(&forged).is_err());
    }

    #[test]
    fn what_a_revoked_device_says_concurrently_does_not_count() {
        let [laptop, phone, tablet, thief] = keys();
        let mut here = alice();
        let mut there = here.clone();
        here.revoke_device(&laptop, phone.id(), 0, WALL).unwrap();
        // The stolen phone adds a device, and dates it back; the device adds nothing either.
        let heads: Vec<_> = there.statements().map(Statement::id).collect();
        let action = Action::AddDevice { device: thief.id(), name: "x".into(), consent: consent(&thief, phone.id()) };
        let early = Statement::sign(&phone, heads, Timestamp(1), action);
        there.merge([early.clone()]).unwrap();
        assert!(there.contains(thief.id()), "the revocation is not known there yet");
        there.rename(&thief, "Mallory", WALL).unwrap();
        here.merge(there.statements().cloned()).unwrap();
        there.merge(here.statements().cloned()).unwrap();
        assert_eq!(here, there);
        assert!(!here.contains(thief.id()) && !here.contains(phone.id()));
        assert!(here.contains(laptop.id()) && here.contains(tablet.id()));
        assert_eq!(here.name(), "Alice");
    }

    #[test]
    fn two_devices_that_revoke_each_other_are_settled_alike_everywhere() {
        let [laptop, phone, ..] = keys();
        let (mut here, mut there) = (alice(), alice());
        here.revoke_device(&laptop, phone.id(), 0, WALL).unwrap();
        there.revoke_device(&phone, laptop.id(), 0, WALL.plus(10)).unwrap();
        let theirs: Vec<_> = there.statements().cloned().collect();
        there.merge(here.statements().cloned()).unwrap();
        here.merge(theirs).unwrap();
        assert_eq!(here, there);
        assert!(here.contains(laptop.id()) && !here.contains(phone.id()), "the earlier takes effect, and voids the later");
    }

    #[test]
    fn a_user_has_a_bounded_number_of_statements() {
        let key = &keys()[0];
        let mut statements = vec![Statement::sign(key, Vec::new(), WALL, Action::Create { name: "a".into(), device_name: "b".into() })];
        for i in 0..MAX_STATEMENTS as u64 {
            let action = Action::Rename { name: "a".into() };
            statements.push(Statement::sign(key, vec![statements[0].id()], WALL.plus(i), action));
        }
        assert_eq!(User::from_statements(statements), Err(UserError::TooMany));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn replicas_agree_whatever_they_did_and_in_whatever_order_they_hear_of_it(
            steps in prop::collection::vec((0usize..4, 0usize..4, 0usize..4, 0u64..50), 1..14), order in any::<u64>(),
        ) {
            // Four replicas, each used by its own device, act and sometimes merge from another.
            let keys = keys();
            let mut replicas = vec![alice(); 4];
            for (who, kind, whom, time) in steps {
                let (key, other) = (&keys[who], &keys[whom]);
                let time = WALL.plus(time);
                let replica = &mut replicas[who];
                match kind {
                    0 => { let _ = replica.add_device(key, other.id(), "d", consent(other, key.id()), time); }
                    1 => { let _ = replica.revoke_device(key, other.id(), 1, time); }
                    2 => { let _ = replica.rename(key, &format!("by {who}"), time); }
                    _ => {
                        let theirs: Vec<_> = replicas[whom].statements().cloned().collect();
                        replicas[who].merge(theirs).unwrap();
                    }
                }
            }
            let mut all: BTreeMap<StatementId, Statement> = BTreeMap::new();
            replicas.iter().flat_map(User::statements).for_each(|statement| { all.insert(statement.id(), statement.clone()); });
            let whole = User::from_statements(all.values().cloned()).unwrap();
            // One at a time, in a shuffled order that the parents allow.
            let mut left: Vec<_> = all.into_values().collect();
            let (mut grown, mut state) = (None::<User>, order);
            while !left.is_empty() {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let pick = usize::try_from(state >> 33).unwrap() % left.len();
                let statement = left[pick].clone();
                let taken = match grown.as_mut() {
                    Some(user) => user.merge([statement]).is_ok(),
                    None => User::from_statements([statement]).map(|user| grown = Some(user)).is_ok(),
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
        fn any_bytes_are_a_user_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(User::decode(&bytes).is_err());
        }

        #[test]
        fn an_altered_user_is_refused(at in 0usize..10_000, bit in 0u8..8) {
            let mut bytes = alice().encode();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            prop_assert!(User::decode(&bytes).is_err());
        }
    }
}
