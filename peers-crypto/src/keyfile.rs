//! The key file on disk: a device's secrets at rest, sealed under a passphrase.
//!
//! It is replaced, never rewritten: a torn write leaves the old file as it was.

use core::fmt;
use std::io;
use std::path::{Path, PathBuf};

use rand::CryptoRng;
use thiserror::Error;

use crate::keyform::{DeviceSecrets, KeyFormError, MAX_KEY_FILE, PassphraseCost, SealedKeys};
use crate::keys::DeviceKey;
use crate::replace::{self, Step};

/// Why a key file was not opened or written.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// There is no file.
    #[error("there is no key file {0}: make one, or restore it from a copy")]
    Missing(PathBuf),
    /// There is one already.
    #[error("{0} exists already: a new key would replace an identity; move the file away first")]
    Exists(PathBuf),
    /// Another program changed the file since it was opened, or is changing it.
    #[error("{0} was changed by another program in the meantime, and is as that program left it: try again")]
    Changed(PathBuf),
    /// The content is no key file, or does not open.
    #[error("{path} {source}")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KeyFormError,
    },
    /// The file system refuses.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A key file, opened.
pub struct KeyFile {
    path: PathBuf,
    secrets: DeviceSecrets,
    /// As it is on disk.
    sealed: SealedKeys,
}

impl KeyFile {
    /// Makes new secrets and the file for them, readable by its owner alone. An empty passphrase protects nothing beyond that.
    ///
    /// # Errors
    /// [`KeyFileError::Exists`], [`KeyFileError::Io`], [`KeyFormError::Memory`]
    pub fn create(path: &Path, passphrase: &[u8], cost: PassphraseCost, rng: &mut impl CryptoRng) -> Result<Self, KeyFileError> {
        let secrets = DeviceSecrets::generate(rng);
        Self::create_with(path, secrets, passphrase, cost, rng)
    }

    /// As [`KeyFile::create`], for secrets that there are already.
    ///
    /// # Errors
    /// As there: a file that is there is never replaced.
    pub fn create_with(
        path: &Path,
        secrets: DeviceSecrets,
        passphrase: &[u8],
        cost: PassphraseCost,
        rng: &mut impl CryptoRng,
    ) -> Result<Self, KeyFileError> {
        let sealed = SealedKeys::seal(&secrets, &[], passphrase, cost, rng).map_err(|source| form(path, source))?;
        sealed.write_new(path, rng)?;
        Ok(Self { path: path.to_owned(), secrets, sealed })
    }

    /// Opens the file; some 100 ms if it has a passphrase. What it costs to guess stays as it is.
    ///
    /// # Errors
    /// [`KeyFileError`]: each says what to do.
    pub fn open(path: &Path, passphrase: &[u8]) -> Result<Self, KeyFileError> {
        let sealed = SealedKeys::read(path)?;
        let secrets = sealed.open(passphrase).map_err(|source| form(path, source))?;
        Ok(Self { path: path.to_owned(), secrets, sealed })
    }

    /// Opens the file, or makes one of the default cost if there is none.
    ///
    /// # Errors
    /// [`KeyFileError`]
    pub fn open_or_create(path: &Path, passphrase: &[u8], rng: &mut impl CryptoRng) -> Result<Self, KeyFileError> {
        let made = match Self::open(path, passphrase) {
            Err(KeyFileError::Missing(_)) => Self::create(path, passphrase, PassphraseCost::default(), rng),
            result => return result,
        };
        match made {
            // Another program was faster: its key is the device's.
            Err(KeyFileError::Exists(_)) => Self::open(path, passphrase),
            result => result,
        }
    }

    /// Whether a passphrase is needed to open the file.
    ///
    /// # Errors
    /// [`KeyFileError`], as [`KeyFile::open`] before the passphrase matters.
    pub fn needs_passphrase(path: &Path) -> Result<bool, KeyFileError> {
        SealedKeys::read(path).map(|sealed| sealed.needs_passphrase())
    }

    /// Seals the same secrets under another passphrase, which costs at least as much to guess as before: writes a new file, then puts it in the
    /// place of the old one. Copies of the old file still open with the old passphrase.
    ///
    /// # Errors
    /// [`KeyFileError::Changed`], [`KeyFileError::Io`], [`KeyFormError::Memory`]; the old file is then as it was.
    pub fn change_passphrase(&mut self, passphrase: &[u8], cost: PassphraseCost, rng: &mut impl CryptoRng) -> Result<(), KeyFileError> {
        self.change(passphrase, cost, rng, &mut |_| Ok(()))
    }

    fn change(
        &mut self,
        passphrase: &[u8],
        cost: PassphraseCost,
        rng: &mut impl CryptoRng,
        at: &mut dyn FnMut(Step) -> io::Result<()>,
    ) -> Result<(), KeyFileError> {
        let account = self.sealed.account(&self.secrets).map_err(|source| form(&self.path, source))?.unwrap_or_default();
        let cost = if self.sealed.needs_passphrase() { cost.max(self.sealed.cost()) } else { cost };
        let new = SealedKeys::seal(&self.secrets, &account, passphrase, cost, rng).map_err(|source| form(&self.path, source))?;
        let replaced = replace::replace(&self.path, self.sealed.as_bytes(), new.as_bytes(), rng.next_u32(), at);
        match replaced.map_err(|source| failed(&self.path, source))? {
            true => self.sealed = new,
            false => return Err(KeyFileError::Changed(self.path.clone())),
        }
        Ok(())
    }

    /// The key of the device.
    pub const fn device_key(&self) -> &DeviceKey {
        self.secrets.device_key()
    }

    /// The key under which everything else that is kept on disk is sealed.
    pub fn storage_key(&self) -> &[u8; 32] {
        self.secrets.storage_key()
    }

    /// Both keys, to seal them in another file.
    pub const fn secrets(&self) -> &DeviceSecrets {
        &self.secrets
    }

    /// What is on disk.
    pub const fn sealed(&self) -> &SealedKeys {
        &self.sealed
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl fmt::Debug for KeyFile {
    /// Path and id.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFile").field("path", &self.path).field("id", &self.secrets.device_key().id()).finish_non_exhaustive()
    }
}

impl SealedKeys {
    /// Reads a file.
    ///
    /// # Errors
    /// [`KeyFileError::Missing`], [`KeyFileError::Io`], [`KeyFileError::Form`]
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = replace::read(path, MAX_KEY_FILE + 1).map_err(|source| failed(path, source))?;
        Self::parse(bytes).map_err(|source| form(path, source))
    }

    /// Writes a new file, readable by its owner alone, whole or not at all.
    ///
    /// # Errors
    /// [`KeyFileError::Exists`], [`KeyFileError::Io`]
    pub fn write_new(&self, path: &Path, rng: &mut impl CryptoRng) -> Result<(), KeyFileError> {
        replace::create(path, self.as_bytes(), rng.next_u32(), &mut |_| Ok(())).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists(path.to_owned()),
            _ => KeyFileError::Io { path: path.to_owned(), source },
        })
    }
}

fn form(path: &Path, source: KeyFormError) -> KeyFileError {
    KeyFileError::Form { path: path.to_owned(), source }
}

/// Of a file that should be there.
fn failed(path: &Path, source: io::Error) -> KeyFileError {
    match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing(path.to_owned()),
        _ => KeyFileError::Io { path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replace::tests::STEPS;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;
    use tempfile::TempDir;

    const CHEAP: PassphraseCost = PassphraseCost { passes: 1, memory_kib: 8 };
    const RIGHT: &[u8] = b"correct horse";

    struct Place {
        folder: TempDir,
        path: PathBuf,
        rng: ChaCha20Rng,
    }

    fn place() -> Place {
        let folder = TempDir::new().unwrap();
        Place { path: folder.path().join("key"), folder, rng: ChaCha20Rng::seed_from_u64(5) }
    }

    fn made() -> (Place, KeyFile) {
        let mut place = place();
        let made = KeyFile::create(&place.path, RIGHT, CHEAP, &mut place.rng).unwrap();
        (place, made)
    }

    fn opens(path: &Path, passphrase: &[u8], secrets: &DeviceSecrets) -> bool {
        match KeyFile::open(path, passphrase) {
            Ok(opened) => {
                assert_eq!(opened.secrets(), secrets);
                true
            }
            Err(KeyFileError::Form { source: KeyFormError::WrongPassphrase | KeyFormError::NoPassphrase, .. }) => false,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_file_is_its_owners_alone() {
        let (place, made) = made();
        assert_eq!(std::fs::read(&place.path).unwrap(), made.sealed.as_bytes());
        #[cfg(unix)]
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&place.path).unwrap().permissions()) & 0o777, 0o600);
    }

    #[test]
    fn a_key_file_is_never_overwritten_by_a_new_key() {
        let (mut place, made) = made();
        assert!(matches!(KeyFile::create(&place.path, b"", CHEAP, &mut place.rng), Err(KeyFileError::Exists(_))));
        assert!(matches!(made.sealed.write_new(&place.path, &mut place.rng), Err(KeyFileError::Exists(_))));
        let again = KeyFile::open_or_create(&place.path, RIGHT, &mut place.rng).unwrap();
        assert_eq!(again.secrets(), made.secrets());
        // Damaged, it may still be saved by somebody.
        std::fs::write(&place.path, b"").unwrap();
        assert!(KeyFile::open_or_create(&place.path, RIGHT, &mut place.rng).is_err());
        assert_eq!(std::fs::read(&place.path).unwrap(), b"");
    }

    #[test]
    fn without_a_passphrase_it_opens_at_once_and_says_so() {
        let mut place = place();
        assert!(matches!(KeyFile::open(&place.path, b""), Err(KeyFileError::Missing(_))));
        let made = KeyFile::open_or_create(&place.path, b"", &mut place.rng).unwrap();
        assert!(!KeyFile::needs_passphrase(&place.path).unwrap());
        assert!(opens(&place.path, b"", made.secrets()));
    }

    #[test]
    fn an_error_names_the_file_and_what_to_do() {
        let (place, made) = made();
        let bytes = made.sealed.as_bytes();
        for (content, expected) in [
            (&bytes[..50], "is truncated to 50 bytes: restore it from a copy"),
            (&[bytes, b"x"].concat(), "is damaged: restore it from a copy"),
            (b"{}", "is not a key file: name the right one"),
            (bytes, "does not open with this passphrase: try again, it is intact"),
        ] {
            std::fs::write(&place.path, content).unwrap();
            let error = KeyFile::open(&place.path, b"wrong").unwrap_err();
            assert_eq!(error.to_string(), format!("{} {expected}", place.path.display()));
        }
        let nowhere = place.folder.path().join("no/key");
        assert!(matches!(KeyFile::open(&nowhere, b""), Err(KeyFileError::Missing(_))));
        assert!(matches!(made.sealed.write_new(&nowhere, &mut rand::rng()), Err(KeyFileError::Io { .. })));
        assert!(matches!(KeyFile::open(place.folder.path(), b""), Err(KeyFileError::Io { .. })), "a folder is no file");
    }

    #[test]
    fn another_passphrase_opens_the_same_secrets_and_the_old_one_does_not() {
        let (mut place, mut made) = made();
        for (old, new) in [(RIGHT, &b"battery staple"[..]), (b"battery staple", b""), (b"", RIGHT)] {
            assert!(opens(&place.path, old, made.secrets()));
            made.change_passphrase(new, CHEAP, &mut place.rng).unwrap();
            assert!(opens(&place.path, new, made.secrets()));
            assert!(!opens(&place.path, old, made.secrets()));
        }
    }

    #[test]
    fn a_weak_cost_is_raised_when_the_passphrase_changes_and_not_before() {
        let (mut place, mut made) = made();
        let cost = |place: &Place| SealedKeys::read(&place.path).unwrap().cost();
        drop(KeyFile::open(&place.path, RIGHT).unwrap());
        assert_eq!(cost(&place), CHEAP);
        let better = PassphraseCost { passes: 2, memory_kib: 16 };
        made.change_passphrase(RIGHT, better, &mut place.rng).unwrap();
        assert_eq!(cost(&place), better);
        made.change_passphrase(RIGHT, PassphraseCost { passes: 1, memory_kib: 64 }, &mut place.rng).unwrap();
        assert_eq!(cost(&place), PassphraseCost { passes: 2, memory_kib: 64 }, "no parameter gets less");
        assert!(opens(&place.path, RIGHT, made.secrets()));
    }

    #[test]
    fn an_export_put_in_the_place_of_the_key_file_works_and_keeps_its_account() {
        let (mut place, made) = made();
        let export = SealedKeys::seal(made.secrets(), b"account", b"other", CHEAP, &mut place.rng).unwrap();
        let copy = place.folder.path().join("copy");
        export.write_new(&copy, &mut place.rng).unwrap();
        let mut opened = KeyFile::open(&copy, b"other").unwrap();
        opened.change_passphrase(RIGHT, CHEAP, &mut place.rng).unwrap();
        let again = KeyFile::open(&copy, RIGHT).unwrap();
        assert_eq!(again.secrets(), made.secrets());
        assert_eq!(again.sealed().account(again.secrets()).unwrap().unwrap().as_slice(), b"account");
    }

    #[test]
    fn a_torn_write_never_loses_the_key() {
        // Cut at any step, and at any byte of the write itself: the old passphrase opens the file or the new one does.
        let (mut place, made) = made();
        let sealed = made.sealed.as_bytes();
        for cut in 0..STEPS.len() + sealed.len() {
            std::fs::write(&place.path, sealed).unwrap();
            let mut opened = KeyFile::open(&place.path, RIGHT).unwrap();
            if let Some(step) = STEPS.get(cut) {
                let mut at = |now| if now == *step { Err(io::Error::other("cut")) } else { Ok(()) };
                assert!(matches!(opened.change(b"new", CHEAP, &mut place.rng, &mut at), Err(KeyFileError::Io { .. })));
            } else {
                let left = place.path.with_file_name("key.00c0ffee.new");
                std::fs::write(&left, &sealed[..cut - STEPS.len()]).unwrap();
            }
            let new = opens(&place.path, b"new", made.secrets());
            assert_ne!(new, opens(&place.path, RIGHT, made.secrets()));
            // And the next change is not hindered by what was left.
            let mut opened = KeyFile::open(&place.path, if new { b"new" } else { RIGHT }).unwrap();
            opened.change_passphrase(b"third", CHEAP, &mut place.rng).unwrap();
            assert!(opens(&place.path, b"third", made.secrets()));
            assert_eq!(std::fs::read_dir(place.folder.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn of_two_changes_at_a_time_the_second_is_told_and_changes_nothing() {
        let (mut place, mut first) = made();
        let mut second = KeyFile::open(&place.path, RIGHT).unwrap();
        first.change_passphrase(b"first", CHEAP, &mut place.rng).unwrap();
        assert!(matches!(second.change_passphrase(b"second", CHEAP, &mut place.rng), Err(KeyFileError::Changed(_))));
        assert!(opens(&place.path, b"first", first.secrets()));
        first.change_passphrase(b"again", CHEAP, &mut place.rng).unwrap();
        assert!(opens(&place.path, b"again", first.secrets()));
    }

    #[test]
    fn a_file_that_vanished_is_not_made_anew_by_a_change() {
        let (mut place, mut made) = made();
        std::fs::remove_file(&place.path).unwrap();
        assert!(matches!(made.change_passphrase(b"new", CHEAP, &mut place.rng), Err(KeyFileError::Missing(_))));
        assert!(!place.path.exists());
    }

    #[test]
    fn debug_shows_path_and_id_alone() {
        let (place, made) = made();
        assert_eq!(format!("{made:?}"), format!("KeyFile {{ path: {:?}, id: {:.8}, .. }}", place.path, made.device_key().id()));
    }
}
