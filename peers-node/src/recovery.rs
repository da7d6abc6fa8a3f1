//! Bringing back a user whose devices are lost: by a recovery phrase, or by the word of guardians.
//!
//! Each device publishes, on the public inbox topic of every recovery key, what the holder of the phrase needs, sealed for that key: on every change, once a day, and when
//! it is called there. A machine that has the phrase calls in the name of the key. Guardians get their packages by mail, and answer by mail.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use peers_crypto::{
    DeviceKey, Group, GroupError, GroupId, GuardianAnswer, GuardianPackage, Keyring, RecoveryPhrase, Role, TopicKey, Vault, open_from,
    seal_to,
};
use peers_wire::{DEFAULT_LIFETIME, DecodeError, PeerId, Reader, Timestamp, Writer};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::account::{Account, Catalogue, Membership};
use crate::message::{MAX_ENCODED_GROUP, MailBody};
use crate::stack::{Event, Stack};
use crate::topics::Purpose;

/// Why a user was not restored.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RestoreFailure {
    /// Nobody answered the call.
    #[error(
        "nothing was found for this phrase: see that this machine reaches other peers (`peers status`), and that one of your devices is online, or was within three days"
    )]
    Nothing,
    /// What was found is not good for it.
    #[error("the user found for it cannot be restored: {0}")]
    Group(#[from] GroupError),
}

/// Recovery on this node, in either role.
#[derive(Debug)]
pub(crate) struct Recovering {
    /// When the user's own recovery keys and guardians are given what they need again.
    refresh_at: Instant,
    answered: Option<Instant>,
    restoring: Option<Restoring>,
    asking: Option<Asking>,
}

#[derive(Debug)]
struct Restoring {
    key: DeviceKey,
    name: String,
    found: Option<Found>,
    /// When it is over, or what was found is taken.
    until: Instant,
    call_at: Instant,
}

/// What letters for a recovery key say: several devices may have written, and know differently much.
#[derive(Debug)]
struct Found {
    group: Group,
    catalogue: Catalogue,
    grants: Vec<Vec<u8>>,
    /// Who wrote: of each one letter counts, so that none crowds out the others.
    writers: BTreeSet<PeerId>,
}

#[derive(Debug)]
struct Asking {
    name: String,
    user: GroupId,
    answers: peers_crypto::Recovery,
}

impl Recovering {
    pub(crate) const fn new(now: Instant) -> Self {
        Self { refresh_at: now, answered: None, restoring: None, asking: None }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let restoring = self.restoring.as_ref().map(|restoring| restoring.until.min(restoring.call_at));
        [Some(self.refresh_at), restoring].into_iter().flatten().min()
    }
}

impl Stack {
    /// Makes a phrase one more key of the user.
    ///
    /// - `by`: an older phrase; needed where there is one, or guardians
    ///
    /// # Errors
    /// [`GroupError::NotAllowed`] without the older phrase.
    pub fn add_recovery(
        &mut self,
        now: Instant,
        wall: Timestamp,
        phrase: &RecoveryPhrase,
        by: Option<&RecoveryPhrase>,
    ) -> Result<(), GroupError> {
        let (recovery, by) = (phrase.key(), by.map(RecoveryPhrase::key));
        let user = self.account.id();
        self.change_group(now, wall, user, |group, key| group.add_recovery(by.as_ref().unwrap_or(key), &recovery, wall).map(drop))?;
        self.settle(now, wall);
        Ok(())
    }

    /// Removes a recovery key, with the phrase of that or of another one.
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn remove_recovery(&mut self, now: Instant, wall: Timestamp, recovery: PeerId, by: &RecoveryPhrase) -> Result<(), GroupError> {
        let (user, by) = (self.account.id(), by.key());
        self.change_group(now, wall, user, |group, _| group.remove_recovery(&by, recovery, wall).map(drop))?;
        let _ = self.epoch_key(now, wall, user);
        self.settle(now, wall);
        Ok(())
    }

    /// Chooses the guardians of the user, in the place of those before, and sends each its package.
    ///
    /// - `guardians`: for each the keys of its devices
    /// - `by`: a phrase; needed where there is one, or guardians
    ///
    /// # Errors
    /// [`GroupError`]
    pub fn set_guardians(
        &mut self,
        now: Instant,
        wall: Timestamp,
        threshold: u8,
        guardians: Vec<Vec<PeerId>>,
        by: Option<&RecoveryPhrase>,
    ) -> Result<(), GroupError> {
        if guardians.iter().flatten().any(|key| self.account.has_device(*key)) {
            return Err(GroupError::Malformed(DecodeError::Range("guardians: your own devices cannot be")));
        }
        let (user, by) = (self.account.id(), by.map(RecoveryPhrase::key));
        self.change_group(now, wall, user, |group, key| {
            group.set_guardians(by.as_ref().unwrap_or(key), threshold, guardians, wall).map(drop)
        })?;
        self.settle(now, wall);
        Ok(())
    }

    /// Begins to bring back the user of a phrase on this device, called `name`; [`Event::Restored`] or [`Event::RestoreFailed`] ends it.
    ///
    /// # Errors
    /// Says what is in the way.
    pub fn restore(&mut self, now: Instant, wall: Timestamp, phrase: &RecoveryPhrase, name: &str) -> Result<(), &'static str> {
        self.must_be_alone()?;
        let key = phrase.key();
        let inbox = TopicKey::inbox(key.id()).read_key();
        let (until, name) = (now + RESTORE_PATIENCE, name.to_owned());
        self.recovery.restoring = Some(Restoring { key, name, found: None, until, call_at: now });
        self.follow(now, inbox, Purpose::Restore);
        self.on_recovery_timeout(now, wall);
        self.settle(now, wall);
        Ok(())
    }

    /// Takes the answers of guardians from now on, to bring back a user on this device, called `name`: [`Event::RecoveryProgress`], then [`Event::Restored`].
    ///
    /// - `user`: whose guardians they are, which the person has to say: who answers could name any
    ///
    /// # Errors
    /// Says what is in the way.
    pub fn ask_guardians(&mut self, user: GroupId, name: &str) -> Result<(), &'static str> {
        self.must_be_alone()?;
        self.recovery.asking = Some(Asking { name: name.to_owned(), user, answers: peers_crypto::Recovery::new(self.key.id(), user) });
        Ok(())
    }

    /// Ends what [`Stack::restore`] or [`Stack::ask_guardians`] began.
    pub fn cancel_recovery(&mut self, now: Instant, wall: Timestamp) {
        self.recovery.asking = None;
        if let Some(restoring) = self.recovery.restoring.take() {
            self.unfollow(now, TopicKey::inbox(restoring.key.id()).id());
        }
        self.settle(now, wall);
    }

    /// As a guardian: vouches that `device` is the new device of the user of `package`, and sends it the share. To be done only once sure of it.
    pub fn endorse(&mut self, now: Instant, wall: Timestamp, package: GuardianPackage, device: PeerId) {
        let answer = GuardianAnswer::new(&self.key, package, device).encode();
        self.mail(now, wall, device, &MailBody::Answer(Bytes::copy_from_slice(&answer)));
        self.settle(now, wall);
    }

    fn must_be_alone(&self) -> Result<(), &'static str> {
        if self.account.user().members().count() > 1 {
            return Err("this device belongs to a user with other devices: restore on a device with an empty PEERS_HOME");
        }
        Ok(())
    }

    /// What brings back the user: its log, and its databases' names; for guardians also the keys.
    fn essentials(&self) -> Writer {
        let mut writer = Writer::default();
        writer.string(&self.account.user.group.encode());
        self.account.catalogue.encode(&mut writer);
        writer
    }

    /// Gives the user's recovery keys and guardians what they need now.
    pub(crate) fn refresh_recovery(&mut self, now: Instant, wall: Timestamp) {
        self.recovery.refresh_at = now + REFRESH_EVERY;
        for (key, _) in self.account.user().recovery_keys().collect::<Vec<_>>() {
            self.post_recovery_letter(now, wall, key);
        }
        let Some(guardians) = self.account.user().guardians().cloned() else { return };
        let mut contents = self.essentials();
        contents.string(&self.account.user.keys.encode());
        let contents = Zeroizing::new(contents.finish());
        let count = u8::try_from(guardians.keys.len()).unwrap_or(u8::MAX);
        let (user, chosen, threshold) = (self.account.id(), guardians.statement, guardians.threshold);
        match Vault::seal(&contents, user, chosen, wall, threshold, count, &mut self.rng) {
            Ok(packages) => {
                for (package, keys) in packages.iter().zip(&guardians.keys) {
                    let body = MailBody::Package(Bytes::copy_from_slice(&package.encode()));
                    keys.iter().for_each(|guardian| self.mail(now, wall, *guardian, &body));
                }
            }
            Err(error) => tracing::error!("the guardians get nothing: {error}"),
        }
    }

    fn post_recovery_letter(&mut self, now: Instant, wall: Timestamp, key: PeerId) {
        let user = &self.account.user;
        let Ok(Some(grant)) = user.keys.grant(&user.group, &self.key, key, &[], &mut self.rng) else { return };
        let mut letter = self.essentials();
        letter.bytes(&grant);
        if let Ok(sealed) = seal_to(&self.key, key, LETTER_CONTEXT, letter.as_ref(), &mut self.rng) {
            let _ = self.say(now, wall, &TopicKey::inbox(key), &sealed, DEFAULT_LIFETIME);
        }
    }

    /// Somebody wrote on the public inbox of one of the user's recovery keys: if it has that key, it is answered.
    pub(crate) fn on_recovery_call(&mut self, now: Instant, wall: Timestamp, key: PeerId, author: PeerId) {
        let due = self.recovery.answered.is_none_or(|last| now >= last + ANSWER_EVERY);
        if author == key && due {
            self.recovery.answered = Some(now);
            self.post_recovery_letter(now, wall, key);
        }
    }

    /// A letter for the recovery key from which this machine restores.
    pub(crate) fn on_recovery_letter(&mut self, now: Instant, from: PeerId, sealed: &[u8]) {
        let Some(restoring) = &mut self.recovery.restoring else { return };
        let opened = open_from(&restoring.key, LETTER_CONTEXT, sealed).ok().filter(|(sender, _)| *sender == from);
        let Some(Ok(mut found)) = opened.map(|(_, letter)| Found::read(&Zeroizing::new(letter))) else { return };
        found.writers.insert(from);
        // The key's own proof is in the log: nobody else can make it the key of a user.
        let (recovers, writes) = (found.group.recovery_keys().any(|(key, _)| key == restoring.key.id()), found.group.contains(from));
        if !recovers || !writes {
            self.stats.refused_topic_messages += 1;
            return;
        }
        match &mut restoring.found {
            None => {
                restoring.found = Some(found);
                restoring.until = restoring.until.min(now + GATHER);
            }
            Some(known) if known.writers.contains(&from) => {}
            Some(known) if known.group.id() == found.group.id() && known.grants.len() < MAX_LETTERS => known.merge(found),
            Some(_) => self.stats.refused_topic_messages += 1,
        }
    }

    /// Calls, gathers, restores; and refreshes what recovery keys and guardians have.
    pub(crate) fn on_recovery_timeout(&mut self, now: Instant, wall: Timestamp) {
        if self.recovery.refresh_at <= now {
            self.refresh_recovery(now, wall);
        }
        let Some(mut restoring) = self.recovery.restoring.take() else { return };
        if restoring.call_at <= now {
            restoring.call_at = now + CALL_EVERY;
            // Too short to be refused.
            let _ = self.say_as(now, wall, &restoring.key, &TopicKey::inbox(restoring.key.id()), CALL, CALL_LIFETIME);
        }
        if restoring.until > now {
            self.recovery.restoring = Some(restoring);
            return;
        }
        self.unfollow(now, TopicKey::inbox(restoring.key.id()).id());
        let outcome = match restoring.found.take() {
            Some(found) => self.restore_from(now, wall, &restoring, found).map_err(RestoreFailure::from),
            None => Err(RestoreFailure::Nothing),
        };
        match outcome {
            Ok(()) => self.tell_restored(),
            Err(failure) => self.events.push_back(Event::RestoreFailed(failure)),
        }
    }

    fn restore_from(&mut self, now: Instant, wall: Timestamp, restoring: &Restoring, found: Found) -> Result<(), GroupError> {
        let Found { mut group, catalogue, grants, writers: _ } = found;
        let mut keys = Keyring::default();
        for grant in &grants {
            let _ = keys.accept(&group, &restoring.key, grant);
        }
        let consent = group.consent(&self.key, GroupId::NONE);
        group.admit(&restoring.key, self.key.id(), &restoring.name, Role::Owner, GroupId::NONE, consent, wall)?;
        self.act_for(now, wall, group, keys, catalogue);
        Ok(())
    }

    /// A guardian sends what this device is to keep for a contact, or what it asked for.
    pub(crate) fn on_package(&mut self, from: PeerId, package: Bytes) {
        // A friend need never have had mail of us: whoever keeps packages bounds those of strangers.
        if GuardianPackage::decode(&package).is_ok_and(|package| package.check().is_ok()) {
            self.events.push_back(Event::GuardianPackage { from, package });
        } else {
            self.stats.refused_messages += 1;
        }
    }

    /// A guardian's answer to a device that asks.
    pub(crate) fn on_answer(&mut self, now: Instant, wall: Timestamp, from: PeerId, answer: &[u8]) {
        let (Some(asking), Ok(answer)) = (&mut self.recovery.asking, GuardianAnswer::decode(answer)) else {
            self.stats.refused_messages += 1;
            return;
        };
        let Asking { user, answers, .. } = asking;
        let user = *user;
        let Ok(progress) = answers.insert(from, answer) else {
            self.stats.refused_messages += 1;
            return;
        };
        self.events.push_back(Event::RecoveryProgress { user, have: progress.have, need: progress.need });
        let name = asking.name.clone();
        let restored = answers.open().find_map(|recovered| {
            let (found, keys) = Found::read_vault(&recovered.contents).ok()?;
            let mut group = found.group;
            let right = group.id() == user && group.guardians().is_some_and(|guardians| guardians.statement == recovered.guardians);
            let mine = right && group.recover(&self.key, &name, recovered.endorsements, wall).is_ok();
            mine.then_some((group, keys, found.catalogue))
        });
        if let Some((group, keys, catalogue)) = restored {
            self.recovery.asking = None;
            self.act_for(now, wall, group, keys, catalogue);
            self.tell_restored();
        }
    }

    /// This device is one of that user from now on, and says so.
    fn act_for(&mut self, now: Instant, wall: Timestamp, group: Group, keys: Keyring, mut catalogue: Catalogue) {
        catalogue.merge(&self.account.catalogue);
        let groups = core::mem::take(&mut self.account.groups);
        self.replace_account(now, wall, Account { user: Membership::new(group, keys), groups, catalogue });
        let user = self.account.id();
        if self.epoch_key(now, wall, user).is_ok() {
            self.on_group_changed(now, wall, user);
        }
    }

    fn tell_restored(&mut self) {
        let (user, name) = (self.account.id(), self.account.user().name().to_owned());
        self.events.push_back(Event::Restored { user, name });
    }
}

impl Found {
    fn read(letter: &[u8]) -> Result<Self, GroupError> {
        let mut reader = Reader::new(letter);
        let mut this = Self::read_essentials(&mut reader)?;
        this.grants.push(reader.rest().to_vec());
        Ok(this)
    }

    fn read_vault(contents: &[u8]) -> Result<(Self, Keyring), GroupError> {
        let mut reader = Reader::new(contents);
        let this = Self::read_essentials(&mut reader)?;
        let keys = Keyring::decode(reader.string(contents.len(), "keys")?, &this.group)?;
        reader.finish()?;
        Ok((this, keys))
    }

    fn read_essentials(reader: &mut Reader<'_>) -> Result<Self, GroupError> {
        let group = Group::decode(reader.string(MAX_ENCODED_GROUP, "group")?)?;
        Ok(Self { group, catalogue: Catalogue::decode(reader)?, grants: Vec::new(), writers: BTreeSet::new() })
    }

    fn merge(&mut self, other: Self) {
        // What does not fit is of a device that was removed, or too much.
        let _ = self.group.merge(other.group.statements().cloned());
        self.catalogue.merge(&other.catalogue);
        self.writers.extend(other.writers);
        self.grants.extend(other.grants);
    }
}

const LETTER_CONTEXT: &str = "peers recovery letter 1";
/// What a machine says on the public inbox of its recovery key; that it can say it in the key's name is what counts.
const CALL: &[u8] = b"restore";
/// Minutes that a call lives.
const CALL_LIFETIME: u16 = 10;
/// How often it calls.
const CALL_EVERY: Duration = Duration::from_secs(10);
/// How long it waits for a first letter.
const RESTORE_PATIENCE: Duration = Duration::from_secs(60);
/// How long it waits for more, once one has come.
const GATHER: Duration = Duration::from_secs(3);
/// Letters that are gathered.
const MAX_LETTERS: usize = 16;
/// Calls are answered at most so often.
const ANSWER_EVERY: Duration = Duration::from_secs(5);
/// Caches keep a letter for three days.
const REFRESH_EVERY: Duration = Duration::from_secs(24 * 3600);
