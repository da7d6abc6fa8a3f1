//! The key file: a device's secrets at rest, sealed under a passphrase.
//!
//! It is replaced, never rewritten: a torn write leaves the old file as it was.

use core::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use peers_wire::Reader;
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::keys::{DeviceKey, hash};
use crate::sodium::{self, Locked, POLY_TAG, XCHACHA};

/// Bytes of a key file.
pub const KEY_FILE: usize = HEADER + SECRETS + POLY_TAG + CHECKSUM;

const MAGIC: &[u8; 8] = b"peerskey";
const VERSION: u8 = 1;
/// Magic 8, version 1, passphrase 1, passes 4, memory 4, salt 16, nonce 24.
const HEADER: usize = 58;
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

/// Why a key file was not opened or written.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// There is no file.
    #[error("there is no key file {0}: make one, or restore it from a copy")]
    Missing(PathBuf),
    /// There is one already.
    #[error("{0} exists already: a new key would replace an identity; move the file away first")]
    Exists(PathBuf),
    /// The passphrase is not that of the file.
    #[error("the passphrase is wrong: try again, the file is intact")]
    WrongPassphrase,
    /// The file ends early.
    #[error("{path} is truncated to {length} bytes: restore it from a copy")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Bytes that are left.
        length: usize,
    },
    /// The file was altered.
    #[error("{0} is damaged: restore it from a copy")]
    Corrupted(PathBuf),
    /// The file is something else.
    #[error("{0} is not a key file: name the right one")]
    NotAKeyFile(PathBuf),
    /// The file is of a later version of this program.
    #[error("{path} has version {version}, this program knows up to {VERSION}: use a newer one")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u8,
    },
    /// There is not as much memory as the file's parameters ask for.
    #[error("the passphrase needs {0} KiB of memory that cannot be had: close other programs")]
    Memory(u32),
    /// The file system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The secrets of a device, opened; in locked memory, zeroed when dropped.
pub struct KeyFile {
    path: PathBuf,
    key: DeviceKey,
    storage: Locked<32>,
}

impl KeyFile {
    /// Makes new secrets and the file for them, readable by its owner alone. An empty passphrase protects nothing beyond that.
    ///
    /// # Errors
    /// [`KeyFileError::Exists`], [`KeyFileError::Io`], [`KeyFileError::Memory`]
    pub fn create(path: &Path, passphrase: &[u8], cost: PassphraseCost, rng: &mut impl CryptoRng) -> Result<Self, KeyFileError> {
        if path.try_exists().map_err(|source| KeyFileError::Io { path: path.to_owned(), source })? {
            return Err(KeyFileError::Exists(path.to_owned()));
        }
        let mut storage = Locked::zeroed();
        rng.fill_bytes(&mut *storage);
        let this = Self { path: path.to_owned(), key: DeviceKey::generate(rng), storage };
        this.change_passphrase(passphrase, cost, rng)?;
        Ok(this)
    }

    /// Opens the file; some 100 ms if it has a passphrase.
    ///
    /// # Errors
    /// [`KeyFileError`]: each says what to do.
    pub fn open(path: &Path, passphrase: &[u8]) -> Result<Self, KeyFileError> {
        let (bytes, header) = read(path)?;
        let sealing = sealing_key(passphrase, &header)?;
        let mut sealed = Zeroizing::new([0; SECRETS + POLY_TAG]);
        sealed.copy_from_slice(&bytes[HEADER..HEADER + SECRETS + POLY_TAG]);
        let secrets = XCHACHA.open(&sealing, &header.nonce, &bytes[..HEADER], &mut *sealed).ok_or(KeyFileError::WrongPassphrase)?;
        let [seed, stored] = secrets.as_chunks::<32>().0 else { return Err(KeyFileError::Corrupted(path.to_owned())) };
        let mut storage = Locked::zeroed();
        storage.copy_from_slice(stored);
        Ok(Self { path: path.to_owned(), key: DeviceKey::from_seed(seed), storage })
    }

    /// Opens the file, or makes one of the default cost if there is none.
    ///
    /// # Errors
    /// [`KeyFileError`]
    pub fn open_or_create(path: &Path, passphrase: &[u8], rng: &mut impl CryptoRng) -> Result<Self, KeyFileError> {
        match Self::open(path, passphrase) {
            Err(KeyFileError::Missing(_)) => Self::create(path, passphrase, PassphraseCost::default(), rng),
            result => result,
        }
    }

    /// Whether a passphrase is needed to open the file.
    ///
    /// # Errors
    /// [`KeyFileError`], as [`KeyFile::open`] before the passphrase matters.
    pub fn needs_passphrase(path: &Path) -> Result<bool, KeyFileError> {
        read(path).map(|(_, header)| header.has_passphrase)
    }

    /// Seals the same secrets under another passphrase: writes a new file, then puts it in the place of the old one.
    ///
    /// # Errors
    /// [`KeyFileError::Io`], [`KeyFileError::Memory`]; the old file is then as it was.
    pub fn change_passphrase(&self, passphrase: &[u8], cost: PassphraseCost, rng: &mut impl CryptoRng) -> Result<(), KeyFileError> {
        let has_passphrase = !passphrase.is_empty();
        // Nothing is gained by making it expensive to guess what is known to be empty.
        let cost = if has_passphrase { cost } else { PassphraseCost { passes: 1, memory_kib: 8 } };
        let mut header = Header { has_passphrase, cost, salt: [0; 16], nonce: [0; 24] };
        rng.fill_bytes(&mut header.salt);
        rng.fill_bytes(&mut header.nonce);
        let sealing = sealing_key(passphrase, &header)?;
        let mut secrets = Zeroizing::new([0; SECRETS]);
        secrets[..32].copy_from_slice(self.key.seed());
        secrets[32..].copy_from_slice(&*self.storage);
        let mut bytes = header.encode();
        let data = bytes.clone();
        XCHACHA.seal(&sealing, &header.nonce, &data, &*secrets, &mut bytes);
        bytes.extend_from_slice(&hash(&[&bytes]));
        replace(&self.path, &bytes)
    }

    /// The key of the device.
    pub const fn device_key(&self) -> &DeviceKey {
        &self.key
    }

    /// The key under which everything else that is kept on disk is sealed.
    pub fn storage_key(&self) -> &[u8; 32] {
        &self.storage
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for KeyFile {
    /// Path and id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("path", &self.path).field("id", &self.key.id()).finish_non_exhaustive()
    }
}

struct Header {
    has_passphrase: bool,
    cost: PassphraseCost,
    salt: [u8; 16],
    nonce: [u8; 24],
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(KEY_FILE);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[VERSION, u8::from(self.has_passphrase)]);
        bytes.extend_from_slice(&self.cost.passes.to_be_bytes());
        bytes.extend_from_slice(&self.cost.memory_kib.to_be_bytes());
        bytes.extend_from_slice(&self.salt);
        bytes.extend_from_slice(&self.nonce);
        bytes
    }

    /// `None` if a field is outside of its range.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::new(bytes.get(MAGIC.len() + 1..)?);
        let has_passphrase = match reader.u8().ok()? {
            0 => false,
            1 => true,
            _ => return None,
        };
        let cost = PassphraseCost { passes: reader.u32().ok()?, memory_kib: reader.u32().ok()? };
        let sensible = (1..=MAX_PASSES).contains(&cost.passes) && (8..=MAX_MEMORY_KIB).contains(&cost.memory_kib);
        sensible.then_some(Self { has_passphrase, cost, salt: reader.array().ok()?, nonce: reader.array().ok()? })
    }
}

/// The whole file, if it is an intact key file of this version.
fn read(path: &Path) -> Result<(Vec<u8>, Header), KeyFileError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing(path.to_owned()),
        _ => KeyFileError::Io { path: path.to_owned(), source },
    };
    let mut bytes = Vec::new();
    // A later version may be longer; something else may be endless.
    File::open(path).and_then(|file| file.take(1 << 16).read_to_end(&mut bytes)).map_err(failed)?;
    let shared = bytes.len().min(MAGIC.len());
    if bytes[..shared] != MAGIC[..shared] {
        return Err(KeyFileError::NotAKeyFile(path.to_owned()));
    }
    let truncated = KeyFileError::Truncated { path: path.to_owned(), length: bytes.len() };
    let Some((content, checksum)) = bytes.split_last_chunk::<CHECKSUM>().filter(|(content, _)| content.len() > MAGIC.len()) else {
        return Err(truncated);
    };
    // Every version ends with this checksum.
    let intact = hash(&[content]) == *checksum;
    match bytes[MAGIC.len()] {
        version if intact && version > VERSION => Err(KeyFileError::Newer { path: path.to_owned(), version }),
        VERSION if !intact && bytes.len() < KEY_FILE => Err(truncated),
        VERSION if intact && bytes.len() == KEY_FILE => match Header::decode(&bytes) {
            Some(header) => Ok((bytes, header)),
            None => Err(KeyFileError::Corrupted(path.to_owned())),
        },
        _ => Err(KeyFileError::Corrupted(path.to_owned())),
    }
}

fn sealing_key(passphrase: &[u8], header: &Header) -> Result<Locked<32>, KeyFileError> {
    let cost = header.cost;
    sodium::argon2id(passphrase, &header.salt, cost.passes, u64::from(cost.memory_kib) << 10).ok_or(KeyFileError::Memory(cost.memory_kib))
}

/// Puts `bytes` in the place of `path` at once: a reader sees the old content or the new, also after a power cut.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), KeyFileError> {
    let temporary = path.with_extension("new");
    let failed = |source| KeyFileError::Io { path: path.to_owned(), source };
    let written = (|| {
        // What an interrupted write left is of no use.
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        #[cfg(unix)]
        File::open(path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new(".")))?.sync_all()?;
        Ok(())
    })();
    if written.is_err() {
        // It holds sealed secrets only, but serves nobody.
        let _ = std::fs::remove_file(&temporary);
    }
    written.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;
    use tempfile::TempDir;

    const CHEAP: PassphraseCost = PassphraseCost { passes: 1, memory_kib: 8 };

    struct Place {
        _folder: TempDir,
        path: PathBuf,
        rng: ChaCha20Rng,
    }

    fn place() -> Place {
        let folder = TempDir::new().unwrap();
        Place { path: folder.path().join("key"), _folder: folder, rng: ChaCha20Rng::seed_from_u64(5) }
    }

    fn made() -> (Place, KeyFile) {
        let mut place = place();
        let made = KeyFile::create(&place.path, b"correct horse", CHEAP, &mut place.rng).unwrap();
        (place, made)
    }

    #[test]
    fn the_secrets_come_back_with_the_passphrase_and_only_with_it() {
        let (place, made) = made();
        let opened = KeyFile::open(&place.path, b"correct horse").unwrap();
        assert_eq!(opened.device_key().id(), made.device_key().id());
        assert_eq!(opened.storage_key(), made.storage_key());
        assert!(matches!(KeyFile::open(&place.path, b"battery staple"), Err(KeyFileError::WrongPassphrase)));
        assert!(matches!(KeyFile::open(&place.path, b""), Err(KeyFileError::WrongPassphrase)));
        assert!(KeyFile::needs_passphrase(&place.path).unwrap());
    }

    #[test]
    fn the_file_holds_no_secret_in_the_clear_and_is_its_owners_alone() {
        let (place, made) = made();
        let bytes = std::fs::read(&place.path).unwrap();
        assert_eq!(bytes.len(), KEY_FILE);
        for secret in [made.key.seed(), made.storage_key()] {
            assert!(!bytes.windows(32).any(|window| window == secret));
        }
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&place.path).unwrap().permissions()) & 0o777, 0o600);
    }

    #[test]
    fn a_key_file_is_never_overwritten_by_a_new_key() {
        let (mut place, made) = made();
        assert!(matches!(KeyFile::create(&place.path, b"", CHEAP, &mut place.rng), Err(KeyFileError::Exists(_))));
        let again = KeyFile::open_or_create(&place.path, b"correct horse", &mut place.rng).unwrap();
        assert_eq!(again.device_key().id(), made.device_key().id());
    }

    #[test]
    fn without_a_passphrase_it_opens_at_once_and_says_so() {
        let mut place = place();
        assert!(matches!(KeyFile::open(&place.path, b""), Err(KeyFileError::Missing(_))));
        let made = KeyFile::open_or_create(&place.path, b"", &mut place.rng).unwrap();
        assert!(!KeyFile::needs_passphrase(&place.path).unwrap());
        assert_eq!(KeyFile::open(&place.path, b"").unwrap().device_key().id(), made.device_key().id());
    }

    #[test]
    fn a_file_truncated_anywhere_says_so() {
        let (place, _) = made();
        let bytes = std::fs::read(&place.path).unwrap();
        for length in 0..bytes.len() {
            std::fs::write(&place.path, &bytes[..length]).unwrap();
            let error = KeyFile::open(&place.path, b"correct horse").unwrap_err();
            assert!(matches!(&error, KeyFileError::Truncated { length: found, .. } if *found == length), "{length}: {error}");
            assert!(error.to_string().contains("restore it from a copy"));
        }
    }

    #[test]
    fn a_file_with_any_bit_flipped_is_damaged_and_not_a_wrong_passphrase() {
        let (place, _) = made();
        let bytes = std::fs::read(&place.path).unwrap();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 0x10;
            std::fs::write(&place.path, &altered).unwrap();
            let error = KeyFile::open(&place.path, b"correct horse").unwrap_err();
            let expected = if at < MAGIC.len() { "is not a key file" } else { "is damaged" };
            assert!(error.to_string().contains(expected), "byte {at}: {error}");
        }
        std::fs::write(&place.path, [&bytes[..], b"x"].concat()).unwrap();
        assert!(matches!(KeyFile::open(&place.path, b"correct horse"), Err(KeyFileError::Corrupted(_))));
    }

    #[test]
    fn a_file_of_a_newer_version_asks_for_a_newer_program() {
        let (place, _) = made();
        let mut bytes = [&MAGIC[..], &[2], &[7; 300]].concat();
        bytes.extend_from_slice(&hash(&[&bytes]));
        std::fs::write(&place.path, &bytes).unwrap();
        let error = KeyFile::open(&place.path, b"").unwrap_err();
        assert!(matches!(error, KeyFileError::Newer { version: 2, .. }), "{error}");
        assert!(error.to_string().contains("use a newer one"));
    }

    #[test]
    fn a_torn_write_never_loses_the_key() {
        let (mut place, made) = made();
        // Killed at any point before the rename, the write leaves some of the new file beside the old one.
        let other = place.path.with_file_name("other");
        std::fs::copy(&place.path, &other).unwrap();
        let kept = KeyFile { path: other.clone(), key: made.key.clone(), storage: Locked::zeroed() };
        kept.change_passphrase(b"new", CHEAP, &mut place.rng).unwrap();
        let new = std::fs::read(&other).unwrap();
        for length in 0..=new.len() {
            std::fs::write(place.path.with_extension("new"), &new[..length]).unwrap();
            let opened = KeyFile::open(&place.path, b"correct horse").unwrap();
            assert_eq!(opened.device_key().id(), made.device_key().id());
        }
        // And the next change is not hindered by it.
        made.change_passphrase(b"new", CHEAP, &mut place.rng).unwrap();
        assert!(!place.path.with_extension("new").exists());
        assert!(matches!(KeyFile::open(&place.path, b"correct horse"), Err(KeyFileError::WrongPassphrase)));
        let opened = KeyFile::open(&place.path, b"new").unwrap();
        assert_eq!((opened.device_key().id(), opened.storage_key()), (made.device_key().id(), made.storage_key()));
    }

    #[test]
    fn a_write_that_fails_leaves_the_old_file() {
        let (mut place, made) = made();
        // A folder in the way of the temporary file stands for a disk that refuses.
        std::fs::create_dir_all(place.path.with_extension("new").join("x")).unwrap();
        assert!(matches!(made.change_passphrase(b"new", CHEAP, &mut place.rng), Err(KeyFileError::Io { .. })));
        KeyFile::open(&place.path, b"correct horse").unwrap();
    }

    #[test]
    fn debug_shows_path_and_id_alone() {
        let (place, made) = made();
        assert_eq!(format!("{made:?}"), format!("KeyFile {{ path: {:?}, id: {:.8}, .. }}", place.path, made.device_key().id()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_file_is_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), magic: bool, checksum: bool) {
            let place = place();
            let mut bytes = if magic { [&MAGIC[..], &[1], &bytes].concat() } else { bytes };
            if checksum {
                bytes.extend_from_slice(&hash(&[&bytes]));
            }
            std::fs::write(&place.path, &bytes).unwrap();
            prop_assert!(KeyFile::open(&place.path, b"").is_err());
        }
    }
}
