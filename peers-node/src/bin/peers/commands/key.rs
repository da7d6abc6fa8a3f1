//! `peers key`: the secrets of this device, in their file and in copies of it.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use peers_crypto::{KeyFile, KeyFileError, PassphraseCost, SealedKeys};
use peers_node::{Home, ImportError};
use serde_json::json;

use super::home;
use super::secret::{Sources, shut};
use crate::args::{Export, Import, Key, NewPassphrase, Passphrase};
use crate::failure::{Code, Failure};
use crate::output::{Output, note};
use crate::text::size;

pub(crate) async fn key(command: Key, output: Output) -> Result<(), Failure> {
    // Deriving a key from a passphrase takes a while, and SQLite may wait for a node.
    let work = move || match command {
        Key::Show { file } => show(file, output),
        Key::Export(arguments) => export(&arguments, output),
        Key::Import(arguments) => import(&arguments, output),
        Key::ChangePassphrase { passphrase, new } => change_passphrase(&passphrase, &new, output),
    };
    tokio::task::spawn_blocking(work).await.map_err(|error| Failure::failed(format!("the command was cut short: {error}")))?
}

fn show(file: Option<PathBuf>, output: Output) -> Result<(), Failure> {
    let path = match file {
        Some(path) => path,
        None => home()?.key_file(),
    };
    let sealed = SealedKeys::read(&path)?;
    let (cost, passphrase) = (sealed.cost(), sealed.needs_passphrase());
    let weak = passphrase && cost != cost.max(PassphraseCost::default());
    output.say(format!("{}: version {}", path.display(), sealed.version()));
    if passphrase {
        let passes = crate::text::plural(cost.passes as usize, "pass", "passes");
        output.say(format!("sealed under a passphrase; a guess costs {passes} over {}", size(u64::from(cost.memory_kib) << 10)));
    } else {
        output.say("sealed under no passphrase: whoever has the file is this device; `peers key change-passphrase` sets one");
    }
    if weak {
        output.say("that is less than is used today: `peers key change-passphrase` raises it, also to the same passphrase");
    }
    let holds = if sealed.has_account() { "an export: the keys of a device, and its user's account" } else { "the keys of a device" };
    output.say(holds);
    output.finish(&json!({
        "path": path, "version": sealed.version(), "passphrase": passphrase, "passes": cost.passes, "memory_kib": cost.memory_kib,
        "weak": weak, "account": sealed.has_account(),
    }));
    Ok(())
}

fn export(arguments: &Export, output: Output) -> Result<(), Failure> {
    let to_output = arguments.out.as_deref() == Some(Path::new("-"));
    if to_output && (output.is_json() || std::io::stdout().is_terminal()) {
        return Err(Failure::usage("an export cannot go to a terminal, nor beside JSON").hint("name a file: `peers key export --out FILE`"));
    }
    let home = home()?;
    let mut sources = Sources::default();
    let keys = open(&home, &arguments.passphrase, &mut sources)?;
    let account = if arguments.key_only {
        Default::default()
    } else {
        peers_node::export(&home, keys.secrets()).map_err(|error| {
            Failure::failed(error.to_string()).hint("`peers key export --key-only` leaves out the account, which is what could not be read")
        })?
    };
    let id = keys.device_key().id();
    let path = arguments.out.clone().unwrap_or_else(|| format!("peers-{id:.8}.key").into());
    if !to_output && path.exists() {
        return Err(Failure::from(KeyFileError::Exists(path)));
    }
    let passphrase = sources.chosen(&arguments.new, "the export")?;
    shut();
    let cost = PassphraseCost::default();
    let form = |source| KeyFileError::Form { path: path.clone(), source };
    let sealed = SealedKeys::seal(keys.secrets(), &account, passphrase.as_bytes(), cost, &mut rand::rng()).map_err(form)?;
    if to_output {
        note(ONE_AT_A_TIME);
        let written = std::io::stdout().lock().write_all(sealed.as_bytes());
        return written.map_err(|error| Failure::failed(format!("the export could not be written to standard output: {error}")));
    }
    sealed.write_new(&path, &mut rand::rng())?;
    output.say(format!("{id} is in {}", path.display()));
    output.progress(if sealed.has_account() {
        "It holds the keys of this device and its user's account, and no messages, mail or databases."
    } else {
        "It holds the keys of this device, and no account: imported alone, it is a device without its user."
    });
    output.progress(ONE_AT_A_TIME);
    if passphrase.is_empty() {
        output.progress("It has no passphrase: whoever reads it is this device.");
    }
    output.finish(&json!({ "id": id, "path": path, "account": sealed.has_account(), "passphrase": sealed.needs_passphrase() }));
    Ok(())
}

fn import(arguments: &Import, output: Output) -> Result<(), Failure> {
    let home = home()?;
    let mut sources = Sources::default();
    let sealed = SealedKeys::read(&arguments.file)?;
    let what = arguments.file.display();
    let opened_with = sources.given(&arguments.passphrase, sealed.needs_passphrase(), &what.to_string())?;
    // A wrong passphrase is told before a new one is asked for.
    let form = |source| KeyFileError::Form { path: arguments.file.clone(), source };
    let id = sealed.open(opened_with.as_bytes()).map_err(form)?.device_key().id();
    let passphrase =
        if arguments.new.is_given() { sources.chosen(&arguments.new, "the key file of this device")? } else { opened_with.clone() };
    shut();
    let imported = peers_node::import(&home, &sealed, &opened_with, &passphrase, &mut rand::rng())
        .map_err(|error| why_not(error, &arguments.file, &home))?;
    let path = home.key_file();
    if imported.key {
        output.say(format!("this is {id} from now on; its keys are in {}", path.display()));
        output.progress(ONE_AT_A_TIME);
        output.progress(MEET_FIRST);
    } else if imported.account {
        output.say(format!("this is {id} already; its account was missing, and is back"));
    } else {
        output.say(format!("this is {id} already; nothing was changed"));
    }
    if !sealed.has_account() {
        output.progress("The file holds no account: unless the state of the device is here too, it begins as a new user.");
    }
    if imported.key && passphrase.is_empty() {
        output.progress("The key file has no passphrase: `peers key change-passphrase` sets one.");
    }
    output.finish(&json!({ "id": id, "path": path, "key": imported.key, "account": imported.account }));
    Ok(())
}

fn change_passphrase(passphrase: &Passphrase, new: &NewPassphrase, output: Output) -> Result<(), Failure> {
    let home = home()?;
    let mut sources = Sources::default();
    let mut keys = open(&home, passphrase, &mut sources)?;
    let chosen = sources.chosen(new, "the key file")?;
    shut();
    keys.change_passphrase(chosen.as_bytes(), PassphraseCost::default(), &mut rand::rng())?;
    let (id, path) = (keys.device_key().id(), keys.path());
    output.say(format!("{} has {}", path.display(), if chosen.is_empty() { "no passphrase any more" } else { "a new passphrase" }));
    output.progress("Exports and copies of the file made before still open with the old one. A node that runs here goes on.");
    output.finish(&json!({ "id": id, "path": path, "passphrase": !chosen.is_empty() }));
    Ok(())
}

/// Opens the key file of this device, which must be there.
fn open(home: &Home, passphrase: &Passphrase, sources: &mut Sources) -> Result<KeyFile, Failure> {
    let path = home.key_file();
    let needed = KeyFile::needs_passphrase(&path)?;
    let given = sources.given(passphrase, needed, "the key file")?;
    Ok(KeyFile::open(&path, given.as_bytes())?)
}

fn why_not(error: ImportError, file: &Path, home: &Home) -> Failure {
    let folder = home.key_file();
    let elsewhere = format!("set PEERS_HOME to another folder, or move what is in {} away", folder.parent().unwrap_or(&folder).display());
    match error {
        ImportError::OtherKey { .. } | ImportError::OtherState { .. } => {
            Failure::new(Code::Refused, format!("{} was not imported: {error}; nothing was changed", file.display())).hint(elsewhere)
        }
        ImportError::Account => Failure::failed(format!("{} was not imported: {error}", file.display()))
            .hint("use the version of peers that wrote it, or restore it from a copy"),
        ImportError::Home(error) => error.into(),
        ImportError::Key(error) => error.into(),
        other => Failure::failed(other.to_string()),
    }
}

const ONE_AT_A_TIME: &str = "\
Run this device in one place at a time. In two, they take each other's sessions and mail, and when both change
who is in the account the others are told that the key was stolen. To have a second device, link one: `peers invite`.";

const MEET_FIRST: &str = "\
It knows what it knew when it was exported. Let it meet another of your devices before you link or remove devices from it.";
