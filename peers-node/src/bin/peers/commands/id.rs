//! `peers id`.

use std::path::Path;

use peers_crypto::{KeyFile, Passphrase};
use peers_node::Status;
use serde_json::json;

use super::home;
use super::secret::{Sources, shut};
use crate::args;
use crate::control::Request;
use crate::control::client::ask;
use crate::failure::{Code, Failure};
use crate::output::Output;

pub(crate) async fn id(arguments: args::Id, output: Output) -> Result<(), Failure> {
    if let Some(command) = arguments.command {
        return super::group::identity(command, output).await;
    }
    let home = home()?;
    let id = match ask::<Status>(&home.control_socket(), &Request::Status {}).await {
        Ok(status) => status.id,
        Err(failure) if failure.code == Code::Unreachable => {
            home.create().map_err(|error| {
                Failure::failed(format!("the home cannot be made: {error}")).hint("set PEERS_HOME to a folder that you may write to")
            })?;
            let path = home.key_file();
            let passphrase = passphrase(&arguments.passphrase, &path)?;
            KeyFile::open_or_create(&path, passphrase.as_bytes(), &mut rand::rng())?.device_key().id()
        }
        Err(failure) => return Err(failure),
    };
    output.say(id.to_string());
    output.finish(&json!({ "id": id }));
    Ok(())
}

/// The passphrase of the key file: from the source that is named; typed, if the key file is there and needs one; else empty.
pub(crate) fn passphrase(arguments: &args::Passphrase, key_file: &Path) -> Result<Passphrase, Failure> {
    let needed = KeyFile::needs_passphrase(key_file).unwrap_or(false);
    let given = Sources::default().given(arguments, needed, "the key file")?;
    shut();
    Ok(given)
}
