//! Guardians: contacts of whom a threshold together bring back a user who has lost every device, and fewer have nothing.
//!
//! The user seals what a new device needs into a [`Vault`], and gives each guardian the vault and a share of its key: a [`GuardianPackage`]. A new
//! device asks; each guardian, once sure of whom it speaks to, gives its package and an [`Endorsement`] of the device's key: a [`GuardianAnswer`],
//! sealed for the device. The device collects them in a [`Recovery`].
//!
//! What is in a package is sealed on the way by others; here, only the contents of the vault are.

use core::fmt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use peers_wire::{DecodeError, PeerId, Reader, Signature, Timestamp, Writer};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::keys::{DeviceKey, Forged, hash};
use crate::shamir::{Key, combine, split};
use crate::sodium::{POLY_TAG, XCHACHA};
use crate::statement::{Endorsement, GroupId, MAX_GUARDIANS, StatementId};

/// Bytes of the contents of a vault: a log of the greatest length, and its keys.
pub const MAX_VAULT: usize = 1 << 20;
/// Vaults that one guardian may answer with in one recovery: several versions, of which other guardians may have an older one.
pub const MAX_VERSIONS: usize = 4;

const VERSION: u8 = 1;

/// Why a vault was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum VaultError {
    /// There must be 2 to [`MAX_GUARDIANS`] guardians, and a threshold of 1 to all of them.
    #[error("{threshold} of {count} guardians is not possible: choose 2 to {MAX_GUARDIANS} guardians, and how many of them are needed")]
    Threshold {
        /// How many are needed.
        threshold: u8,
        /// How many there are.
        count: u8,
    },
    /// The contents are longer than [`MAX_VAULT`].
    #[error("the vault for the guardians would hold {0} bytes, and at most {MAX_VAULT} fit")]
    TooLong(usize),
}

/// What a user leaves with the guardians, sealed under a key that they share; every guardian has all of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Vault {
    user: GroupId,
    guardians: StatementId,
    time: Timestamp,
    threshold: u8,
    share_hashes: Vec<[u8; 32]>,
    sealed: Vec<u8>,
}

impl Vault {
    /// Seals `contents` (at most [`MAX_VAULT`] bytes) for `count` guardians, of whom `threshold` together can open it: a package for each, in the order
    /// in which the statement `guardians` of `user` names them.
    ///
    /// `time`: now; of several vaults that can be opened, a recovery takes that of the latest time. At most 0.3 ms, and 1 us for each kilobyte.
    ///
    /// # Errors
    /// [`VaultError`]
    pub fn seal(
        contents: &[u8],
        user: GroupId,
        guardians: StatementId,
        time: Timestamp,
        threshold: u8,
        count: u8,
        rng: &mut impl CryptoRng,
    ) -> Result<Vec<GuardianPackage>, VaultError> {
        if !is_possible(threshold, count.into()) {
            return Err(VaultError::Threshold { threshold, count });
        }
        if contents.len() > MAX_VAULT {
            return Err(VaultError::TooLong(contents.len()));
        }
        let mut key = Key::default();
        rng.fill_bytes(&mut *key);
        let shares = split(&key, threshold, count, rng);
        let share_hashes = (1..).zip(&shares).map(|(index, share)| share_hash(index, share)).collect();
        let mut vault = Self { user, guardians, time, threshold, share_hashes, sealed: Vec::new() };
        XCHACHA.seal(&key, &NONCE, &vault.header(), contents, &mut vault.sealed);
        let vault = Arc::new(vault);
        Ok((1..).zip(shares).map(|(index, share)| GuardianPackage { vault: Arc::clone(&vault), index, share }).collect())
    }

    /// Whose it is.
    pub const fn user(&self) -> GroupId {
        self.user
    }

    /// The statement that names the guardians.
    pub const fn guardians(&self) -> StatementId {
        self.guardians
    }

    /// When it was sealed, by the clock of the device that sealed it.
    pub const fn time(&self) -> Timestamp {
        self.time
    }

    /// How many guardians are needed.
    pub const fn threshold(&self) -> u8 {
        self.threshold
    }

    /// How many guardians there are.
    pub fn count(&self) -> usize {
        self.share_hashes.len()
    }

    fn open(&self, shares: &[(u8, &Key)]) -> Option<Zeroizing<Vec<u8>>> {
        let mut contents = Zeroizing::new(self.sealed.clone());
        let length = XCHACHA.open(&combine(shares), &NONCE, &self.header(), &mut contents)?.len();
        contents.truncate(length);
        Some(contents)
    }

    /// All that is not sealed: authenticated with the contents.
    fn header(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(1 + 32 + 32 + 6 + 2 + 32 * self.share_hashes.len());
        writer.u8(VERSION).bytes(&self.user.0).bytes(&self.guardians.0).timestamp(self.time);
        writer.u8(self.threshold).varint(self.share_hashes.len() as u64);
        for hash in &self.share_hashes {
            writer.bytes(hash);
        }
        writer.finish()
    }

    fn id(&self) -> [u8; 32] {
        hash(&[b"peers vault", &self.header(), &self.sealed])
    }

    fn decode(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match reader.u8()? {
            VERSION => {}
            other => return Err(DecodeError::Kind(other)),
        }
        let (user, guardians, time) = (GroupId(reader.array()?), StatementId(reader.array()?), reader.timestamp()?);
        let (threshold, count) = (reader.u8()?, reader.count(MAX_GUARDIANS, "number of guardians")?);
        if !is_possible(threshold, count) {
            return Err(DecodeError::Range("number of guardians"));
        }
        let share_hashes = (0..count).map(|_| reader.array()).collect::<Result<_, _>>()?;
        let sealed = reader.string(MAX_VAULT + POLY_TAG, "length of the vault")?.to_vec();
        Ok(Self { user, guardians, time, threshold, share_hashes, sealed })
    }
}

/// The key of a vault is used once.
const NONCE: [u8; 24] = [0; 24];

fn is_possible(threshold: u8, count: usize) -> bool {
    (2..=MAX_GUARDIANS).contains(&count) && (1..=count).contains(&usize::from(threshold))
}

/// A share is as hard to guess as a key: its hash gives nothing away.
fn share_hash(index: u8, share: &Key) -> [u8; 32] {
    hash(&[b"peers guardian share", &[index], &**share])
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, guardians, time, threshold, .. } = self;
        write!(f, "Vault({user:?}, {guardians:?}, {time:?}, {threshold} of {})", self.count())
    }
}

/// What one guardian keeps: the vault, and its share of the vault's key.
#[derive(Clone, PartialEq, Eq)]
pub struct GuardianPackage {
    vault: Arc<Vault>,
    index: u8,
    share: Key,
}

impl GuardianPackage {
    /// Reads a package; whether the share is intact is left to [`GuardianPackage::check`].
    ///
    /// # Errors
    /// [`DecodeError`] if `bytes` are anything else than the one encoding of a package.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let this = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(this)
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let vault = Arc::new(Vault::decode(reader)?);
        let index = reader.u8()?;
        if !(1..=vault.count()).contains(&usize::from(index)) {
            return Err(DecodeError::Range("number of the guardian"));
        }
        Ok(Self { vault, index, share: Key::new(reader.array()?) })
    }

    /// Its one encoding: secret, as the share is.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let header = self.vault.header();
        let mut writer = Writer::with_capacity(header.len() + 8 + self.vault.sealed.len() + 1 + 32 + ENDORSED);
        writer.bytes(&header).string(&self.vault.sealed).u8(self.index).bytes(&*self.share);
        Zeroizing::new(writer.finish())
    }

    /// Checks that the share is one of this vault.
    ///
    /// # Errors
    /// [`GarbledShare`]
    pub fn check(&self) -> Result<(), GarbledShare> {
        let expected = self.vault.share_hashes.get(usize::from(self.index) - 1);
        if expected == Some(&share_hash(self.index, &self.share)) { Ok(()) } else { Err(GarbledShare(self.index)) }
    }

    /// The vault.
    pub fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Which guardian's it is, from 1, in the order of the statement that names them.
    pub const fn index(&self) -> u8 {
        self.index
    }

    /// The guardian's word that `device` is the new device of the user; to be given only once sure of it.
    pub fn endorse(&self, guardian: &DeviceKey, device: PeerId) -> Endorsement {
        Endorsement::sign(guardian, self.index, self.vault.user, self.vault.guardians, device)
    }
}

impl fmt::Debug for GuardianPackage {
    /// All but the share.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuardianPackage({}, {:?})", self.index, self.vault)
    }
}

/// The share in a package is not the one that was made for this guardian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the share of guardian {0} was altered or damaged, and is of no use: another guardian's is needed in its place")]
pub struct GarbledShare(pub u8);

/// What a guardian gives a new device; to be sealed for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuardianAnswer {
    package: GuardianPackage,
    endorsement: Endorsement,
}

/// Bytes of an endorsement in an answer.
const ENDORSED: usize = PeerId::LEN + Signature::LEN;

impl GuardianAnswer {
    /// Gives the package to `device` and endorses it; to be done only once sure of whose it is.
    pub fn new(guardian: &DeviceKey, package: GuardianPackage, device: PeerId) -> Self {
        let endorsement = package.endorse(guardian, device);
        Self { package, endorsement }
    }

    /// Reads an answer; whether share and signature are genuine is left to [`Recovery::insert`].
    ///
    /// # Errors
    /// [`DecodeError`] if `bytes` are anything else than the one encoding of an answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let package = GuardianPackage::read(&mut reader)?;
        let endorsement = Endorsement { index: package.index, key: PeerId(reader.array()?), signature: Signature(reader.array()?) };
        reader.finish()?;
        Ok(Self { package, endorsement })
    }

    /// Its one encoding: secret, as the share is.
    pub fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = self.package.encode();
        bytes.extend_from_slice(&self.endorsement.key.0);
        bytes.extend_from_slice(&self.endorsement.signature.0);
        bytes
    }

    /// The package.
    pub const fn package(&self) -> &GuardianPackage {
        &self.package
    }

    /// The endorsement.
    pub const fn endorsement(&self) -> &Endorsement {
        &self.endorsement
    }
}

/// Why a guardian's answer does not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum AnswerError {
    /// It is about another user.
    #[error("this guardian answered for another user, {0}")]
    AnotherUser(GroupId),
    /// It came from another device than the one that endorses.
    #[error("this answer was passed on by another than the guardian {0}: ask the guardian")]
    PassedOn(PeerId),
    /// The share is garbled.
    #[error(transparent)]
    Share(#[from] GarbledShare),
    /// The endorsement is not for this device, user and statement.
    #[error("this guardian's endorsement is not for this device: ask the guardian again")]
    Endorsement(#[from] Forged),
    /// More than [`MAX_GUARDIANS`] have answered, or one of them with more than [`MAX_VERSIONS`] vaults.
    #[error("more answers have come than a user has guardians: begin anew, and ask only those whom you trust")]
    TooMany,
}

/// How far one vault is from being opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Guardians whose answer counts.
    pub have: usize,
    /// Guardians that are needed.
    pub need: usize,
}

/// What a new device gets of its guardians.
#[derive(Clone, PartialEq, Eq)]
pub struct Recovered {
    /// The statement that names the guardians.
    pub guardians: StatementId,
    /// When the vault was sealed.
    pub time: Timestamp,
    /// What the user put into the vault.
    pub contents: Zeroizing<Vec<u8>>,
    /// The guardians' endorsements of the new device, each genuine, by different keys.
    pub endorsements: Vec<Endorsement>,
}

impl fmt::Debug for Recovered {
    /// All but the contents.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { guardians, time, contents, endorsements } = self;
        write!(f, "Recovered({guardians:?}, {time:?}, {} bytes, {endorsements:?})", contents.len())
    }
}

/// The new device's side: collects the guardians' answers until a vault opens.
///
/// Holds at most [`MAX_GUARDIANS`] times [`MAX_VERSIONS`] vaults, and one if all guardians are honest and up to date.
#[derive(Debug)]
pub struct Recovery {
    device: PeerId,
    user: GroupId,
    /// By vault id: answers that agree in all but share and guardian.
    vaults: BTreeMap<[u8; 32], Gathered>,
}

#[derive(Debug)]
struct Gathered {
    vault: Arc<Vault>,
    /// By the guardian's key.
    answers: BTreeMap<PeerId, (Key, Endorsement)>,
}

impl Gathered {
    /// The shares by index.
    fn shares(&self) -> BTreeMap<u8, &Key> {
        self.answers.values().map(|(share, endorsement)| (endorsement.index, share)).collect()
    }

    fn progress(&self) -> Progress {
        Progress { have: self.shares().len(), need: self.vault.threshold.into() }
    }
}

impl Recovery {
    /// Begins to bring back `user` on `device`.
    ///
    /// Who answers first could name any user: `user` must come from the person, or be confirmed by them.
    pub const fn new(device: PeerId, user: GroupId) -> Self {
        Self { device, user, vaults: BTreeMap::new() }
    }

    /// Takes an answer that `from` has sealed for this device; tells how far its vault is. About 45 us, and 2 us for each kilobyte of the vault.
    ///
    /// # Errors
    /// [`AnswerError`]; what was collected stays as it is.
    pub fn insert(&mut self, from: PeerId, answer: GuardianAnswer) -> Result<Progress, AnswerError> {
        let GuardianAnswer { package, endorsement } = answer;
        let vault = package.vault();
        if vault.user != self.user {
            return Err(AnswerError::AnotherUser(vault.user));
        }
        if from != endorsement.key {
            return Err(AnswerError::PassedOn(endorsement.key));
        }
        package.check()?;
        endorsement.check(vault.user, vault.guardians, self.device)?;
        let id = vault.id();
        let known = |gathered: &&Gathered| gathered.answers.contains_key(&from);
        let keys: BTreeSet<_> = self.vaults.values().flat_map(|gathered| gathered.answers.keys()).collect();
        let versions = self.vaults.iter().filter(|(other, gathered)| **other != id && known(gathered)).count();
        if versions >= MAX_VERSIONS || keys.len() >= MAX_GUARDIANS && !keys.contains(&from) {
            return Err(AnswerError::TooMany);
        }
        let gathered = self.vaults.entry(id).or_insert_with(|| Gathered { vault: package.vault, answers: BTreeMap::new() });
        gathered.answers.insert(from, (package.share, endorsement));
        Ok(gathered.progress())
    }

    /// The contents of each vault for which enough guardians have answered, the latest first.
    ///
    /// A lying guardian can make a vault of its own, which needs nobody but itself: take the first whose contents are the log of this user, in which
    /// the statement `guardians` counts, and names as many of the endorsing keys as it demands.
    pub fn open(&self) -> impl Iterator<Item = Recovered> {
        let mut complete: Vec<_> = self.vaults.values().filter(|gathered| gathered.progress().have >= gathered.progress().need).collect();
        complete.sort_by_key(|gathered| core::cmp::Reverse(gathered.vault.time));
        complete.into_iter().filter_map(|gathered| {
            let vault = &gathered.vault;
            let shares: Vec<_> = gathered.shares().into_iter().take(vault.threshold.into()).collect();
            let endorsements = gathered.answers.values().map(|(_, endorsement)| *endorsement).collect();
            Some(Recovered { guardians: vault.guardians, time: vault.time, contents: vault.open(&shares)?, endorsements })
        })
    }
}

#[cfg(test)]
#[path = "guardian_tests.rs"]
mod tests;
