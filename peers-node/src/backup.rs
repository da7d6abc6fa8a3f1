//! A device as one sealed file: what it takes to be this device again on another disk.
//!
//! It holds the device's key, the storage key and the account: who the user's devices are and the secrets that they share. Messages, mail and rows are not
//! in it. They are in the state file and the databases, which may be copied as they are, sealed under the storage key; and the user's other devices have them.

use std::path::PathBuf;

use peers_crypto::{DeviceSecrets, KeyFile, KeyFileError, KeyFormError, Passphrase, PassphraseCost, SealedKeys};
use peers_wire::PeerId;
use rand::CryptoRng;
use rusqlite::ErrorCode;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::account::Account;
use crate::home::Home;
use crate::node::{OpenError, lock};
use crate::store::{StoreError, add_account, saved_account};

/// Why a device was not imported; nothing was changed.
#[derive(Debug, Error)]
pub enum ImportError {
    /// The home has a key, of another device or under another passphrase.
    #[error("{path} is there already, and it is another device or has another passphrase")]
    OtherKey {
        /// The key file.
        path: PathBuf,
    },
    /// The home has the state of another device.
    #[error("{path} belongs to another key file")]
    OtherState {
        /// The state file.
        path: PathBuf,
    },
    /// The account in the export is none, or is not that of the device.
    #[error("the export holds an account that this version cannot read")]
    Account,
    /// A node runs on the home, or the home cannot be made.
    #[error(transparent)]
    Home(#[from] OpenError),
    /// The key file cannot be read or written.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The state file cannot be read or written.
    #[error(transparent)]
    State(#[from] StoreError),
}

/// What an import did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Imported {
    /// The device.
    pub id: PeerId,
    /// The key was put into the home; else it was there.
    pub key: bool,
    /// The account was put into the home; else it was there, or the export has none.
    pub account: bool,
}

/// The account of the device that lives in `home`, to be sealed beside its keys; empty if it never ran. A node may run there.
///
/// # Errors
/// [`StoreError`].
pub fn export(home: &Home, secrets: &DeviceSecrets) -> Result<Zeroizing<Vec<u8>>, StoreError> {
    Ok(saved_account(&home.state_file(), secrets.storage_key())?.unwrap_or_default())
}

/// Makes `home` that of an exported device. A key, a state or an account that is there is never replaced: it may be that of the same device, and then stays.
///
/// - `export`: opened with the passphrase `opened_with`
/// - `passphrase`: that of the key file from now on
///
/// # Errors
/// [`ImportError`]
pub fn import(
    home: &Home,
    export: &SealedKeys,
    opened_with: &Passphrase,
    passphrase: &Passphrase,
    rng: &mut impl CryptoRng,
) -> Result<Imported, ImportError> {
    let path = home.key_file();
    let form = |source| KeyFileError::Form { path: PathBuf::from("the export"), source };
    let secrets = export.open(opened_with.as_bytes()).map_err(form)?;
    let account = export.account(&secrets).map_err(form)?;
    let id = secrets.device_key().id();
    if let Some(account) = &account {
        let account = Account::decode(account).map_err(|_| ImportError::Account)?;
        account.has_device(id).then_some(()).ok_or(ImportError::Account)?;
    }
    let key = !is_there(&path, &secrets, &[opened_with, passphrase])?;
    let state = home.state_file();
    let saved = || {
        saved_account(&state, secrets.storage_key()).map_err(|error| match error {
            StoreError::Sqlite { source, .. } if source.sqlite_error_code() == Some(ErrorCode::NotADatabase) => {
                ImportError::OtherState { path: state.clone() }
            }
            other => other.into(),
        })
    };
    if !key && (account.is_none() || saved()?.is_some()) {
        return Ok(Imported { id, key, account: false });
    }
    home.create().map_err(|source| OpenError::Home { path: path.display().to_string(), source })?;
    let _lock = lock(home)?;
    let present = saved()?;
    // The account first: with a key alone the next start would make a new user of the device.
    let account = account.filter(|_| present.is_none());
    if let Some(account) = &account {
        add_account(&state, secrets.storage_key(), account)?;
    }
    if key {
        let cost = if export.needs_passphrase() { export.cost().max(PassphraseCost::default()) } else { PassphraseCost::default() };
        KeyFile::create_with(&path, secrets, passphrase.as_bytes(), cost, rng)?;
    }
    Ok(Imported { id, key, account: account.is_some() })
}

/// Whether the key file at `path` has these secrets.
///
/// # Errors
/// [`ImportError::OtherKey`] if it has others, or does not open with any of `passphrases`.
fn is_there(path: &std::path::Path, secrets: &DeviceSecrets, passphrases: &[&Passphrase]) -> Result<bool, ImportError> {
    let sealed = match SealedKeys::read(path) {
        Err(KeyFileError::Missing(_)) => return Ok(false),
        result => result?,
    };
    let empty = Passphrase::default();
    for passphrase in passphrases.iter().chain(&[&empty]).filter(|passphrase| passphrase.is_empty() != sealed.needs_passphrase()) {
        match sealed.open(passphrase.as_bytes()) {
            Ok(found) if found == *secrets => return Ok(true),
            Ok(_) => break,
            Err(KeyFormError::WrongPassphrase) => {}
            Err(source) => return Err(KeyFileError::Form { path: path.to_owned(), source }.into()),
        }
    }
    Err(ImportError::OtherKey { path: path.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use peers_wire::Timestamp;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;
    use std::fs;
    use tempfile::TempDir;

    struct Device {
        _temp: TempDir,
        home: Home,
        keys: KeyFile,
        rng: ChaCha20Rng,
    }

    fn passphrase(text: &str) -> Passphrase {
        Passphrase::try_from(text.as_bytes()).unwrap()
    }

    fn home() -> (TempDir, Home) {
        let temp = TempDir::new().unwrap();
        let home = Home::at(temp.path().join("home"));
        (temp, home)
    }

    /// A device that has an account.
    fn device(seed: u64) -> Device {
        let (temp, home) = home();
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        home.create().unwrap();
        let keys = KeyFile::create(&home.key_file(), b"", PassphraseCost::default(), &mut rng).unwrap();
        let account = Account::create(Timestamp(1), keys.device_key(), "laptop", &mut rng).unwrap().encode();
        add_account(&home.state_file(), keys.storage_key(), &account).unwrap();
        Device { _temp: temp, home, keys, rng }
    }

    fn exported(device: &mut Device, text: &str) -> SealedKeys {
        let account = export(&device.home, device.keys.secrets()).unwrap();
        let cost = PassphraseCost { passes: 1, memory_kib: 8 };
        SealedKeys::seal(device.keys.secrets(), &account, text.as_bytes(), cost, &mut device.rng).unwrap()
    }

    fn take(to: &Home, export: &SealedKeys, text: &str) -> Result<Imported, ImportError> {
        import(to, export, &passphrase(text), &passphrase(text), &mut rand::rng())
    }

    fn content(home: &Home) -> Vec<(PathBuf, Vec<u8>)> {
        let files = fs::read_dir(home.key_file().parent().unwrap()).into_iter().flatten().flatten();
        let mut content: Vec<_> = files.filter_map(|file| Some((file.path(), fs::read(file.path()).ok()?))).collect();
        content.sort();
        content
    }

    #[test]
    fn an_imported_device_is_the_same_with_its_account_and_a_second_import_changes_nothing() {
        let mut old = device(1);
        let file = exported(&mut old, "horse");
        let (_temp, new) = home();
        let id = old.keys.device_key().id();
        assert_eq!(take(&new, &file, "horse").unwrap(), Imported { id, key: true, account: true });
        let keys = KeyFile::open(&new.key_file(), b"horse").unwrap();
        assert_eq!(keys.secrets(), old.keys.secrets());
        assert_eq!(keys.sealed().cost(), PassphraseCost::default(), "a cheap export makes no cheap key file");
        assert_eq!(export(&new, keys.secrets()).unwrap(), export(&old.home, old.keys.secrets()).unwrap());
        let before = content(&new);
        assert_eq!(take(&new, &file, "horse").unwrap(), Imported { id, key: false, account: false });
        assert_eq!(content(&new), before);
    }

    #[test]
    fn an_import_over_another_device_changes_nothing() {
        let (mut one, mut other) = (device(1), device(2));
        let file = exported(&mut one, "");
        let before = content(&other.home);
        assert!(matches!(take(&other.home, &file, ""), Err(ImportError::OtherKey { .. })));
        assert_eq!(content(&other.home), before);
        other.keys.change_passphrase(b"horse", PassphraseCost { passes: 1, memory_kib: 8 }, &mut other.rng).unwrap();
        assert!(matches!(take(&other.home, &file, ""), Err(ImportError::OtherKey { .. })), "nobody can tell whose it is");
        fs::remove_file(other.home.key_file()).unwrap();
        assert!(matches!(take(&other.home, &file, ""), Err(ImportError::OtherState { .. })));
        assert!(!other.home.key_file().exists());
        assert!(saved_account(&other.home.state_file(), other.keys.storage_key()).unwrap().is_some());
    }

    #[test]
    fn a_lost_key_file_comes_back_to_its_own_state_which_stays() {
        let mut device = device(1);
        let file = exported(&mut device, "");
        // What the device learned after the export.
        let newer = Account::create(Timestamp(2), device.keys.device_key(), "renamed", &mut device.rng).unwrap().encode();
        fs::remove_file(device.home.state_file()).unwrap();
        add_account(&device.home.state_file(), device.keys.storage_key(), &newer).unwrap();
        fs::remove_file(device.home.key_file()).unwrap();
        let imported = take(&device.home, &file, "").unwrap();
        assert!(imported.key && !imported.account);
        assert_eq!(*export(&device.home, device.keys.secrets()).unwrap(), *newer);
    }

    #[test]
    fn a_damaged_key_file_is_not_replaced() {
        let mut device = device(1);
        let file = exported(&mut device, "");
        fs::write(device.home.key_file(), b"peersk").unwrap();
        assert!(matches!(take(&device.home, &file, ""), Err(ImportError::Key(KeyFileError::Form { .. }))));
        assert_eq!(fs::read(device.home.key_file()).unwrap(), b"peersk");
    }

    #[test]
    fn an_account_of_somebody_else_beside_the_keys_is_refused() {
        let (one, mut other) = (device(1), device(2));
        let foreign = export(&one.home, one.keys.secrets()).unwrap();
        let (_temp, new) = home();
        for account in [&foreign[..], b"no account"] {
            let file = SealedKeys::seal(other.keys.secrets(), account, b"", PassphraseCost::default(), &mut other.rng).unwrap();
            assert!(matches!(take(&new, &file, ""), Err(ImportError::Account)));
            assert!(!new.key_file().exists());
        }
    }

    #[test]
    fn nothing_is_imported_while_a_node_runs_on_the_home() {
        let mut old = device(1);
        let file = exported(&mut old, "");
        let (_temp, new) = home();
        new.create().unwrap();
        let held = lock(&new).unwrap();
        assert!(matches!(take(&new, &file, ""), Err(ImportError::Home(OpenError::AlreadyRunning { .. }))));
        drop(held);
        take(&new, &file, "").unwrap();
        let _held = lock(&new).unwrap();
        assert!(!take(&new, &file, "").unwrap().key, "what is there needs no waiting for the node");
    }

    #[test]
    fn a_device_that_never_ran_is_exported_without_an_account() {
        let mut device = device(1);
        fs::remove_file(device.home.state_file()).unwrap();
        let file = exported(&mut device, "");
        assert!(!file.has_account());
        let (_temp, new) = home();
        let imported = take(&new, &file, "").unwrap();
        assert!(imported.key && !imported.account);
    }
}
