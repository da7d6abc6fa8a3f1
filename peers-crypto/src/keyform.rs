//! The key file as bytes: what is in it, and how it is sealed. No file system here.

use core::fmt;

use peers_wire::{PeerId, Reader, Writer};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::keys::{DeviceKey, derive, hash};
use crate::sodium::{self, Locked, POLY_TAG, XCHACHA};

/// Bytes of a key file without an account.
pub const KEY_FILE: usize = HEADER + SECRETS + POLY_TAG + CHECKSUM;
/// Most bytes of an account in a key file.
pub const MAX_ACCOUNT: usize = 16 << 20;
/// Most bytes of a key file.
pub const MAX_KEY_FILE: usize = KEY_FILE + MAX_ACCOUNT + POLY_TAG;

pub(crate) const MAGIC: &[u8; 8] = b"peerskey";
/// The version that is written; version 1, which is read too, has no account and no field for its length.
const VERSION: u8 = 2;
/// Magic 8, version 1, passphrase 1, passes 4, memory 4, salt 16, nonce 24, and from version 2 on length of the account 4.
const HEADER: usize = HEADER_1 + 4;
const HEADER_1: usize = 58;
/// Seed of the device's key 32, storage key 32.
const SECRETS: usize = 64;
const CHECKSUM: usize = 32;
/// A file that asks for more was not made by us: 4 GiB.
const MAX_MEMORY_KIB: u32 = 4 << 20;
const MAX_PASSES: u32 = 64;

/// What a guess of the passphrase costs: parameters of Argon2id, which the file carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Passes over the memory, 1 to 64.
    pub passes: u32,
    /// Memory in KiB, 8 to 4 Mi.
    pub memory_kib: u32,
}

impl Default for PassphraseCost {
    /// 3 passes over 64 MiB: some 100 ms (RFC 9106, section 4, second recommendation, in one lane).
    fn default() -> Self {
        Self { passes: 3, memory_kib: 64 << 10 }
    }
}

impl PassphraseCost {
    /// Where there is no passphrase: nothing is gained by making it expensive to guess what is known to be empty.
    const NONE: Self = Self { passes: 1, memory_kib: 8 };

    /// The greater of each parameter: no file gets cheaper to guess.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { passes: self.passes.max(other.passes), memory_kib: self.memory_kib.max(other.memory_kib) }
    }
}

/// Why bytes are no key file, or do not open; reads on behind the name of the file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum KeyFormError {
    /// The passphrase is another one.
    #[error("does not open with this passphrase: try again, it is intact")]
    WrongPassphrase,
    /// A passphrase was given, and there is none: what seems protected is not.
    #[error("has no passphrase, but one was given: leave it out, or set one with `peers key change-passphrase`")]
    NoPassphrase,
    /// They end early.
    #[error("is truncated to {length} bytes: restore it from a copy")]
    Truncated {
        /// Bytes that are left.
        length: usize,
    },
    /// They were altered.
    #[error("is damaged: restore it from a copy")]
    Corrupted,
    /// They are something else.
    #[error("is not a key file: name the right one")]
    NotAKeyFile,
    /// They are of a later version of this program.
    #[error("has version {version}, this program knows up to {VERSION}: use a newer one")]
    Newer {
        /// Their version.
        version: u8,
    },
    /// There is not as much memory as the parameters ask for.
    #[error("needs {0} KiB of memory for its passphrase, which cannot be had: close other programs")]
    Memory(u32),
    /// The account is larger than a key file holds.
    #[error("cannot hold an account of {0} bytes, only of {MAX_ACCOUNT}")]
    Account(usize),
}

/// A key file that is intact and still sealed.
#[derive(Debug, Clone)]
pub struct SealedKeys {
    bytes: Vec<u8>,
    header: Header,
}

impl SealedKeys {
    /// Checks form and checksum; O(n), no key is derived.
    ///
    /// - `bytes`: a whole file; of one that is longer than [`MAX_KEY_FILE`] the first `MAX_KEY_FILE + 1` bytes will do
    ///
    /// # Errors
    /// [`KeyFormError`]: what is wrong with them, as precisely as can be told without the passphrase.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, KeyFormError> {
        let shared = bytes.len().min(MAGIC.len());
        if bytes[..shared] != MAGIC[..shared] {
            return Err(KeyFormError::NotAKeyFile);
        }
        let truncated = KeyFormError::Truncated { length: bytes.len() };
        let Some((content, checksum)) = bytes.split_last_chunk::<CHECKSUM>().filter(|(content, _)| content.len() > MAGIC.len()) else {
            return Err(truncated);
        };
        // Every version ends with this checksum.
        let intact = hash(&[content]) == *checksum;
        let version = bytes[MAGIC.len()];
        if intact && version > VERSION {
            return Err(KeyFormError::Newer { version });
        }
        let header = match Header::decode(&bytes) {
            Ok(header) => header,
            Err(true) if !intact => return Err(truncated),
            Err(_) => return Err(KeyFormError::Corrupted),
        };
        match bytes.len().cmp(&header.file()) {
            core::cmp::Ordering::Less if !intact => Err(truncated),
            core::cmp::Ordering::Equal if intact => Ok(Self { bytes, header }),
            _ => Err(KeyFormError::Corrupted),
        }
    }

    /// Seals `secrets` under `passphrase`, with an account beside them unless that is empty; some 100 ms at the default cost.
    ///
    /// # Errors
    /// [`KeyFormError::Memory`], [`KeyFormError::Account`]
    pub fn seal(
        secrets: &DeviceSecrets,
        account: &[u8],
        passphrase: &[u8],
        cost: PassphraseCost,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, KeyFormError> {
        let has_passphrase = !passphrase.is_empty();
        let cost = if has_passphrase { cost } else { PassphraseCost::NONE };
        if account.len() > MAX_ACCOUNT {
            return Err(KeyFormError::Account(account.len()));
        }
        let mut header = Header { version: VERSION, has_passphrase, cost, salt: [0; 16], nonce: [0; 24], account: account.len() };
        rng.fill_bytes(&mut header.salt);
        rng.fill_bytes(&mut header.nonce);
        let sealing = header.sealing_key(passphrase)?;
        let mut plain = Locked::<SECRETS>::zeroed();
        plain[..32].copy_from_slice(secrets.key.seed());
        plain[32..].copy_from_slice(&*secrets.storage);
        let mut bytes = header.encode();
        let data = bytes.clone();
        XCHACHA.seal(&sealing, &header.nonce, &data, &*plain, &mut bytes);
        if !account.is_empty() {
            let data = bytes.clone();
            XCHACHA.seal(&secrets.account_key(), &header.nonce, &data, account, &mut bytes);
        }
        bytes.extend_from_slice(&hash(&[&bytes]));
        Ok(Self { bytes, header })
    }

    /// Opens the secrets; some 100 ms if there is a passphrase.
    ///
    /// # Errors
    /// [`KeyFormError::WrongPassphrase`], [`KeyFormError::NoPassphrase`], [`KeyFormError::Memory`]
    pub fn open(&self, passphrase: &[u8]) -> Result<DeviceSecrets, KeyFormError> {
        if !self.header.has_passphrase && !passphrase.is_empty() {
            return Err(KeyFormError::NoPassphrase);
        }
        let (data, sealed) = self.bytes.split_at(self.header.length());
        let sealing = self.header.sealing_key(passphrase)?;
        let mut plain = Locked::<{ SECRETS + POLY_TAG }>::zeroed();
        plain.copy_from_slice(&sealed[..SECRETS + POLY_TAG]);
        let secrets = XCHACHA.open(&sealing, &self.header.nonce, data, &mut *plain).ok_or(KeyFormError::WrongPassphrase)?;
        let [seed, stored] = secrets.as_chunks::<32>().0 else { return Err(KeyFormError::Corrupted) };
        let mut storage = Locked::zeroed();
        storage.copy_from_slice(stored);
        Ok(DeviceSecrets { key: DeviceKey::from_seed(seed), storage })
    }

    /// The account beside the secrets, which are those of this file; `None` if there is none.
    ///
    /// # Errors
    /// [`KeyFormError::Corrupted`] if the secrets are not those of this file, or the account was altered together with the checksum.
    pub fn account(&self, secrets: &DeviceSecrets) -> Result<Option<Zeroizing<Vec<u8>>>, KeyFormError> {
        if self.header.account == 0 {
            return Ok(None);
        }
        let (data, rest) = self.bytes.split_at(self.header.length() + SECRETS + POLY_TAG);
        let mut account = Zeroizing::new(rest[..self.header.account + POLY_TAG].to_vec());
        XCHACHA.open(&secrets.account_key(), &self.header.nonce, data, &mut account).ok_or(KeyFormError::Corrupted)?;
        account.truncate(self.header.account);
        Ok(Some(account))
    }

    /// Whether a passphrase is needed to open it.
    pub const fn needs_passphrase(&self) -> bool {
        self.header.has_passphrase
    }

    /// What a guess of the passphrase costs.
    pub const fn cost(&self) -> PassphraseCost {
        self.header.cost
    }

    /// The version of its format, 1 or 2.
    pub const fn version(&self) -> u8 {
        self.header.version
    }

    /// Whether it is an export: an account is beside the secrets.
    pub const fn has_account(&self) -> bool {
        self.header.account > 0
    }

    /// The whole file.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// The secrets of a device, opened; in locked memory, zeroed when dropped.
pub struct DeviceSecrets {
    key: DeviceKey,
    storage: Locked<32>,
}

impl DeviceSecrets {
    /// Those of a new device.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        let mut storage = Locked::zeroed();
        rng.fill_bytes(&mut *storage);
        Self { key: DeviceKey::generate(rng), storage }
    }

    /// The key of the device.
    pub const fn device_key(&self) -> &DeviceKey {
        &self.key
    }

    /// The key under which everything else that is kept on disk is sealed.
    pub fn storage_key(&self) -> &[u8; 32] {
        &self.storage
    }

    fn account_key(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(derive(&self.storage, "peers key file account", &[]))
    }
}

impl PartialEq for DeviceSecrets {
    /// Both keys, in constant time.
    fn eq(&self, other: &Self) -> bool {
        sodium::equal(self.key.seed(), other.key.seed()) & sodium::equal(&*self.storage, &*other.storage)
    }
}

impl Eq for DeviceSecrets {}

impl fmt::Debug for DeviceSecrets {
    /// The id alone.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id: PeerId = self.key.id();
        f.debug_struct("DeviceSecrets").field("id", &id).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone)]
struct Header {
    version: u8,
    has_passphrase: bool,
    cost: PassphraseCost,
    salt: [u8; 16],
    nonce: [u8; 24],
    /// Bytes of the account.
    account: usize,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(self.file());
        writer.bytes(MAGIC).u8(self.version).u8(u8::from(self.has_passphrase));
        writer.u32(self.cost.passes).u32(self.cost.memory_kib).bytes(&self.salt).bytes(&self.nonce);
        if self.version > 1 {
            writer.u32(u32::try_from(self.account).expect("at most MAX_ACCOUNT"));
        }
        writer.finish()
    }

    /// The header of a whole file, or whether it is cut short, and not impossible.
    fn decode(bytes: &[u8]) -> Result<Self, bool> {
        let short = |_| true;
        let mut reader = Reader::new(bytes.get(MAGIC.len()..).ok_or(true)?);
        let version = reader.u8().map_err(short)?;
        let passphrase = reader.u8().map_err(short)?;
        let cost = PassphraseCost { passes: reader.u32().map_err(short)?, memory_kib: reader.u32().map_err(short)? };
        let (salt, nonce) = (reader.array().map_err(short)?, reader.array().map_err(short)?);
        let account = if version > 1 { reader.u32().map_err(short)? as usize } else { 0 };
        let sensible = (1..=VERSION).contains(&version)
            && passphrase <= 1
            && (1..=MAX_PASSES).contains(&cost.passes)
            && (8..=MAX_MEMORY_KIB).contains(&cost.memory_kib)
            && account <= MAX_ACCOUNT;
        sensible.then_some(Self { version, has_passphrase: passphrase == 1, cost, salt, nonce, account }).ok_or(false)
    }

    /// Bytes of the header itself.
    const fn length(&self) -> usize {
        if self.version > 1 { HEADER } else { HEADER_1 }
    }

    /// Bytes of the file.
    const fn file(&self) -> usize {
        let account = if self.account > 0 { self.account + POLY_TAG } else { 0 };
        self.length() + SECRETS + POLY_TAG + account + CHECKSUM
    }

    fn sealing_key(&self, passphrase: &[u8]) -> Result<Locked<32>, KeyFormError> {
        let cost = self.cost;
        sodium::argon2id(passphrase, &self.salt, cost.passes, u64::from(cost.memory_kib) << 10).ok_or(KeyFormError::Memory(cost.memory_kib))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    const CHEAP: PassphraseCost = PassphraseCost { passes: 1, memory_kib: 8 };
    const RIGHT: &[u8] = b"correct horse";

    fn rng() -> ChaCha20Rng {
        ChaCha20Rng::seed_from_u64(5)
    }

    fn made(account: &[u8]) -> (DeviceSecrets, SealedKeys) {
        let secrets = DeviceSecrets::generate(&mut rng());
        let sealed = SealedKeys::seal(&secrets, account, RIGHT, CHEAP, &mut ChaCha20Rng::seed_from_u64(7)).unwrap();
        (secrets, sealed)
    }

    /// `bytes` with a checksum that fits, as only somebody who means it makes them.
    fn forged(mut bytes: Vec<u8>) -> Vec<u8> {
        let content = bytes.len() - CHECKSUM;
        let checksum = hash(&[&bytes[..content]]);
        bytes[content..].copy_from_slice(&checksum);
        bytes
    }

    /// As version 1 of the program sealed them.
    fn version_1(secrets: &DeviceSecrets, cost: PassphraseCost) -> Vec<u8> {
        let header = Header { version: 1, has_passphrase: true, cost, salt: [1; 16], nonce: [2; 24], account: 0 };
        let mut bytes = header.encode();
        let data = bytes.clone();
        let plain = [&secrets.key.seed()[..], &secrets.storage[..]].concat();
        XCHACHA.seal(&header.sealing_key(RIGHT).unwrap(), &header.nonce, &data, &plain, &mut bytes);
        bytes.extend_from_slice(&hash(&[&bytes]));
        bytes
    }

    #[test]
    fn the_secrets_come_back_with_the_passphrase_and_only_with_it() {
        let (secrets, sealed) = made(b"");
        assert_eq!(sealed.as_bytes().len(), KEY_FILE);
        let parsed = SealedKeys::parse(sealed.as_bytes().to_vec()).unwrap();
        assert_eq!(parsed.open(RIGHT).unwrap(), secrets);
        for wrong in [&b"battery staple"[..], b"", b"correct horse ", b"Correct horse"] {
            assert_eq!(parsed.open(wrong), Err(KeyFormError::WrongPassphrase));
        }
        assert!(parsed.needs_passphrase() && !parsed.has_account());
        assert_eq!(parsed.account(&secrets), Ok(None));
    }

    #[test]
    fn a_passphrase_given_for_a_file_without_one_is_an_error_and_not_believed() {
        let secrets = DeviceSecrets::generate(&mut rng());
        let sealed = SealedKeys::seal(&secrets, b"", b"", PassphraseCost::default(), &mut rng()).unwrap();
        assert_eq!((sealed.needs_passphrase(), sealed.cost()), (false, PassphraseCost::NONE));
        assert_eq!(sealed.open(b""), Ok(secrets));
        assert_eq!(sealed.open(RIGHT), Err(KeyFormError::NoPassphrase));
    }

    #[test]
    fn no_secret_is_in_the_clear_and_no_two_sealings_are_alike() {
        let (secrets, sealed) = made(b"the secret of a user");
        let clear = |secret: &[u8]| sealed.as_bytes().windows(secret.len()).any(|window| window == secret);
        assert!(!clear(secrets.key.seed()) && !clear(secrets.storage_key()) && !clear(&secrets.key.id().0) && !clear(b"the secret"));
        let again = SealedKeys::seal(&secrets, b"", RIGHT, CHEAP, &mut ChaCha20Rng::seed_from_u64(6)).unwrap();
        assert_ne!(again.as_bytes()[HEADER..], made(b"").1.as_bytes()[HEADER..]);
    }

    #[test]
    fn an_account_comes_back_and_only_with_the_secrets_of_its_own_file() {
        let (secrets, sealed) = made(b"account");
        assert!(sealed.has_account());
        assert_eq!(sealed.account(&secrets).unwrap().unwrap().as_slice(), b"account");
        let other = DeviceSecrets::generate(&mut ChaCha20Rng::seed_from_u64(6));
        assert_eq!(sealed.account(&other), Err(KeyFormError::Corrupted));
        let large = vec![0; MAX_ACCOUNT + 1];
        assert_eq!(SealedKeys::seal(&secrets, &large, b"", CHEAP, &mut rng()).unwrap_err(), KeyFormError::Account(large.len()));
        let largest = SealedKeys::seal(&secrets, &large[1..], b"", CHEAP, &mut rng()).unwrap();
        assert_eq!(largest.as_bytes().len(), MAX_KEY_FILE);
        assert!(SealedKeys::parse(largest.as_bytes().to_vec()).is_ok());
    }

    #[test]
    fn an_account_cannot_be_moved_into_another_sealing_of_the_same_secrets() {
        let (secrets, old) = made(b"account");
        let new = SealedKeys::seal(&secrets, b"ACCOUNT", RIGHT, CHEAP, &mut ChaCha20Rng::seed_from_u64(6)).unwrap();
        let secret_part = HEADER + SECRETS + POLY_TAG;
        let mixed = forged([&new.as_bytes()[..secret_part], &old.as_bytes()[secret_part..]].concat());
        let mixed = SealedKeys::parse(mixed).unwrap();
        assert_eq!(mixed.account(&mixed.open(RIGHT).unwrap()), Err(KeyFormError::Corrupted));
    }

    #[test]
    fn a_file_of_version_1_and_of_any_cost_opens() {
        let secrets = DeviceSecrets::generate(&mut rng());
        for (passes, memory_kib) in [(1, 8), (2, 64), (5, 1024), (64, 8)] {
            let cost = PassphraseCost { passes, memory_kib };
            let old = SealedKeys::parse(version_1(&secrets, cost)).unwrap();
            assert_eq!((old.version(), old.cost(), old.open(RIGHT)), (1, cost, Ok(DeviceSecrets::generate(&mut rng()))));
            assert_eq!(old.account(&secrets), Ok(None));
            let new = SealedKeys::seal(&secrets, b"x", RIGHT, cost, &mut rng()).unwrap();
            assert_eq!((new.version(), new.cost()), (2, cost));
            assert!(new.open(RIGHT).is_ok());
        }
    }

    #[test]
    fn parameters_that_were_made_cheaper_open_nothing() {
        let (_, sealed) = made(b"");
        // Passes, memory, passphrase, version, salt and nonce are under the seal.
        for at in [8, 9, 13, 17, 18, 40] {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[at] ^= 1;
            match SealedKeys::parse(forged(bytes)) {
                Ok(altered) => assert!(altered.open(RIGHT).is_err(), "byte {at}"),
                Err(error) => assert!(matches!(error, KeyFormError::Corrupted | KeyFormError::Newer { .. }), "byte {at}: {error}"),
            }
        }
    }

    #[test]
    fn parameters_out_of_range_are_damage_and_cost_nothing() {
        let (_, sealed) = made(b"");
        for (at, value) in [(10, u32::MAX), (10, 0), (10, 65), (14, 7), (14, MAX_MEMORY_KIB + 1), (58, 17 << 20)] {
            let mut bytes = sealed.as_bytes().to_vec();
            bytes[at..at + 4].copy_from_slice(&value.to_be_bytes());
            assert_eq!(SealedKeys::parse(forged(bytes)).unwrap_err(), KeyFormError::Corrupted, "{at} {value}");
        }
    }

    #[test]
    fn truncated_anywhere_it_says_so() {
        let secrets = DeviceSecrets::generate(&mut rng());
        for bytes in [version_1(&secrets, CHEAP), made(b"").1.bytes, made(b"account").1.bytes] {
            for length in 0..bytes.len() {
                let error = SealedKeys::parse(bytes[..length].to_vec()).unwrap_err();
                assert_eq!(error, KeyFormError::Truncated { length });
            }
            assert_eq!(SealedKeys::parse([&bytes[..], b"x"].concat()).unwrap_err(), KeyFormError::Corrupted);
        }
    }

    #[test]
    fn with_any_bit_flipped_it_is_damaged_and_not_a_wrong_passphrase() {
        let bytes = made(b"account").1.bytes;
        for at in 0..bytes.len() * 8 {
            let mut altered = bytes.clone();
            altered[at / 8] ^= 1 << (at % 8);
            let error = SealedKeys::parse(altered).unwrap_err();
            match at / 8 {
                0..8 => assert_eq!(error, KeyFormError::NotAKeyFile),
                // A length that grew is one that the file does not reach.
                58..62 => assert!(matches!(error, KeyFormError::Corrupted | KeyFormError::Truncated { .. })),
                byte => assert_eq!(error, KeyFormError::Corrupted, "byte {byte}"),
            }
        }
    }

    #[test]
    fn a_newer_version_asks_for_a_newer_program() {
        for version in 3..=255 {
            let bytes = forged([&MAGIC[..], &[version], &[7; 300]].concat());
            let error = SealedKeys::parse(bytes).unwrap_err();
            assert_eq!(error, KeyFormError::Newer { version });
            assert!(error.to_string().contains("use a newer one"));
        }
        let bytes = forged([&MAGIC[..], &[0], &[1; 300]].concat());
        assert_eq!(SealedKeys::parse(bytes).unwrap_err(), KeyFormError::Corrupted);
    }

    #[test]
    fn other_files_are_not_key_files() {
        for bytes in [&b"-----BEGIN OPENSSH PRIVATE KEY-----"[..], b"SQLite format 3\0", b"PEERSKEY", b"x"] {
            assert_eq!(SealedKeys::parse(bytes.to_vec()).unwrap_err(), KeyFormError::NotAKeyFile);
        }
    }

    #[test]
    fn debug_shows_the_id_and_no_secret() {
        let (secrets, _) = made(b"");
        assert_eq!(format!("{secrets:?}"), format!("DeviceSecrets {{ id: {:?}, .. }}", secrets.key.id()));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn secrets_are_in_memory_that_is_neither_swapped_out_nor_dumped() {
        let secrets = DeviceSecrets::generate(&mut rng());
        for secret in [secrets.storage_key().as_ptr(), secrets.key.seed().as_ptr()] {
            let flags = memory_flags(secret.addr());
            assert!(flags.contains(" dd"), "not in a core dump: {flags}");
            let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
            let limit = limits.lines().find_map(|line| line.strip_prefix("Max locked memory")).unwrap();
            if limit.split_whitespace().next().unwrap().parse().is_ok_and(|limit: u64| limit < 1 << 20) {
                let _ = std::io::Write::write_all(
                    &mut std::io::stderr(),
                    b"SKIPPED: this system lets a process lock little memory (ulimit -l)\n",
                );
                return;
            }
            assert!(flags.contains(" lo"), "locked: {flags}");
        }
    }

    /// The flags that the kernel shows of the memory at `address`.
    #[cfg(target_os = "linux")]
    fn memory_flags(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = maps.lines();
        let holds = |line: &str| {
            let (from, to) = line.split_once(' ')?.0.split_once('-')?;
            let [from, to] = [from, to].map(|bound| usize::from_str_radix(bound, 16));
            Some((from.ok()?..to.ok()?).contains(&address))
        };
        lines.find(|line| holds(line) == Some(true)).unwrap();
        lines.find(|line| line.starts_with("VmFlags")).unwrap().to_owned()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn what_was_sealed_opens_whatever_it_is(
            seed: u64, account in prop::collection::vec(any::<u8>(), 0..2000), passphrase in prop::collection::vec(any::<u8>(), 0..100), passes in 1u32..4, memory_kib in 8u32..64
        ) {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let secrets = DeviceSecrets::generate(&mut rng);
            let sealed = SealedKeys::seal(&secrets, &account, &passphrase, PassphraseCost { passes, memory_kib }, &mut rng).unwrap();
            let parsed = SealedKeys::parse(sealed.as_bytes().to_vec()).unwrap();
            let opened = parsed.open(&passphrase).unwrap();
            prop_assert_eq!(parsed.account(&opened).unwrap().map(|account| account.to_vec()).unwrap_or_default(), account);
            prop_assert_eq!(opened, secrets);
            prop_assert_eq!(parsed.header.encode(), &sealed.as_bytes()[..HEADER]);
        }

        #[test]
        fn any_bytes_are_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), version in 0u8..4, magic: bool, checksum: bool) {
            let mut bytes = if magic { [&MAGIC[..], &[version], &bytes].concat() } else { bytes };
            if checksum {
                bytes.extend_from_slice(&hash(&[&bytes]));
            }
            prop_assert!(SealedKeys::parse(bytes).is_err());
        }

        #[test]
        fn an_altered_file_with_a_fitting_checksum_opens_to_nothing(at in 10usize..KEY_FILE - CHECKSUM, bit in 0u8..8) {
            let mut bytes = made(b"account").1.bytes;
            bytes[at] ^= 1 << bit;
            if let Ok(altered) = SealedKeys::parse(forged(bytes)) && altered.cost().memory_kib <= 1024 {
                prop_assert_eq!(altered.open(RIGHT), Err(KeyFormError::WrongPassphrase));
            }
        }
    }
}
