//! `peers id`.

use std::io::Read;

use peers_crypto::KeyFile;
use peers_node::Status;
use serde_json::json;

use super::{ask_line, first_line, home};
use crate::args::Passphrase;
use crate::control::Request;
use crate::control::client::ask;
use crate::failure::{Code, Failure};
use crate::output::Output;

pub(crate) async fn id(arguments: &Passphrase, output: Output) -> Result<(), Failure> {
    let home = home()?;
    let id = match ask::<Status>(&home.control_socket(), &Request::Status {}).await {
        Ok(status) => status.id,
        Err(failure) if failure.code == Code::Unreachable => {
            home.create().map_err(|error| {
                Failure::failed(format!("the home cannot be made: {error}")).hint("set PEERS_HOME to a folder that you may write to")
            })?;
            let path = home.key_file();
            let open = |passphrase: &str| KeyFile::open_or_create(&path, passphrase.as_bytes(), &mut rand::rng()).map_err(Failure::from);
            open(&passphrase(arguments, &path)?)?.device_key().id()
        }
        Err(failure) => return Err(failure),
    };
    output.say(id.to_string());
    output.finish(&json!({ "id": id }));
    Ok(())
}

/// The passphrase of the key file: from the descriptor that is named; typed, if the key file is there and needs one; else empty.
pub(crate) fn passphrase(arguments: &Passphrase, key_file: &std::path::Path) -> Result<String, Failure> {
    let Some(number) = arguments.passphrase_fd else {
        let needed = KeyFile::needs_passphrase(key_file).unwrap_or(false);
        return if needed { ask_line("Passphrase of the key file: ", true) } else { Ok(String::new()) };
    };
    let failed = |error: std::io::Error| {
        Failure::usage(format!("the passphrase cannot be read from file descriptor {number}: {error}"))
            .hint("open it for this command, for example `peers up --passphrase-fd 3 3<FILE`")
    };
    let input: Box<dyn Read> = match number {
        0 => Box::new(std::io::stdin().lock()),
        _ => Box::new(std::fs::File::open(format!("/dev/fd/{number}")).map_err(failed)?),
    };
    Ok(first_line(input).map_err(failed)?.unwrap_or_default())
}
