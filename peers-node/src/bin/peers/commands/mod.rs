//! The commands. Each asks the node that runs here, and shows what it answers.

mod asking;
mod audit;
mod cache;
mod db;
mod group;
mod id;
mod inbox;
mod key;
mod link;
mod netcheck;
mod recovery;
mod secret;
mod send;
mod status;
mod topic;
mod up;

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use peers_node::Home;

use crate::args::{Arguments, Command, Sure};
use crate::control::request::DatabaseRef;
use crate::failure::{Code, Failure};
use crate::output::{Output, has_keyboard};

/// Runs one command to its end.
pub(crate) async fn run(command: Command, output: Output) -> Result<(), Failure> {
    match command {
        Command::Id(arguments) => id::id(arguments, output).await,
        Command::Key(key) => key::key(key, output).await,
        Command::Up(up) => up::up(up, output).await,
        Command::Status => status::status(output).await,
        Command::Netcheck(arguments) => netcheck::netcheck(&arguments, output).await,
        Command::Invite(invite) => link::invite(&invite, None, output).await,
        Command::Accept(accept) => link::accept(&accept, output).await,
        Command::Group(command) => group::group(command, output).await,
        Command::Recovery(command) => recovery::recovery(command, output).await,
        Command::Topic(topic) => topic::topic(topic, output).await,
        Command::Send(send) => send::send(send, output).await,
        Command::Inbox(inbox) => inbox::inbox(&inbox, output).await,
        Command::Db(database) => db::db(database, output).await,
        Command::Cache(command) => cache::cache(command, output).await,
        Command::Demo(demo) => {
            let summary = crate::demo::run(&demo, output).await?;
            output.finish(&summary);
            // The report has named the checks that do not hold.
            if summary.ok { Ok(()) } else { Err(Failure::told(Code::Failed)) }
        }
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "peers", &mut script);
            let script = String::from_utf8_lossy(&script);
            output.say(&script);
            output.finish(&serde_json::json!({ "shell": shell.to_string(), "script": script }));
            Ok(())
        }
    }
}

/// The home of this user, or the one that `PEERS_HOME` names.
fn home() -> Result<Home, Failure> {
    Home::from_env().map_err(|error| Failure::failed(format!("there is no home for the node: {error}")))
}

fn socket() -> Result<PathBuf, Failure> {
    Ok(home()?.control_socket())
}

/// A line that a person types at a prompt, or the first of standard input.
///
/// - `secret`: what is typed is not shown
fn ask_line(prompt: &str, secret: bool) -> Result<String, Failure> {
    let what = prompt.trim_end_matches([':', ' ']);
    let failed = |error: std::io::Error| Failure::failed(format!("{what} could not be read: {error}"));
    if secret && has_keyboard() {
        let typed = secret::line(prompt, &what.to_lowercase())?;
        let text = core::str::from_utf8(typed.as_bytes()).map_err(|_| failed(std::io::ErrorKind::InvalidData.into()))?;
        return Ok(text.to_owned());
    }
    if has_keyboard() {
        let mut screen = std::io::stderr().lock();
        write!(screen, "{prompt}").and_then(|()| screen.flush()).map_err(failed)?;
    }
    let line = first_line(std::io::stdin().lock()).map_err(failed)?;
    line.ok_or_else(|| {
        Failure::usage(format!("{what} is missing: standard input is empty")).hint("type it at the prompt, or pipe it in as one line")
    })
}

/// Asks a person whether to go on with what `meaning` says; without a terminal `--yes` says so.
fn sure(meaning: &str, question: &str, given: Sure, output: Output) -> Result<(), Failure> {
    if given.yes {
        return Ok(());
    }
    if !has_keyboard() {
        return Err(Failure::usage("this cannot be undone, and nobody is there to ask").hint("give --yes if you are sure"));
    }
    output.progress(meaning);
    match ask_line(&format!("{question} [y/N] "), false)?.trim().to_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::new(Code::Refused, "nothing was changed")),
    }
}

/// Reads up to the first line break and no further, at most [`MAX_TYPED`] bytes; `None` at the end.
fn first_line(mut input: impl Read) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < MAX_TYPED {
        if input.read(&mut byte)? == 0 {
            if line.is_empty() {
                return Ok(None);
            }
            break;
        }
        if byte[0] == b'\n' {
            break;
        }
        line.push(byte[0]);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    String::from_utf8(line).map(Some).map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "it is not UTF-8"))
}

/// All of a file, or of standard input for `-`, at most what a message holds.
fn content(path: &Path) -> Result<Vec<u8>, Failure> {
    let shown = if path == Path::new("-") { "standard input".to_owned() } else { path.display().to_string() };
    let failed = |error: std::io::Error| Failure::failed(format!("{shown} cannot be read: {error}"));
    let mut content = Vec::new();
    let limit = peers_wire::MAX_MESSAGE as u64 + 1;
    if path == Path::new("-") {
        std::io::stdin().lock().take(limit).read_to_end(&mut content).map_err(failed)?;
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut content)).map_err(failed)?;
    }
    if content.len() as u64 == limit {
        return Err(Failure::failed(format!("{shown} is larger than {}", crate::text::size(limit - 1))).hint("send it in parts"));
    }
    Ok(content)
}

/// A database that was named on the command line.
fn database(name: String) -> Result<DatabaseRef, Failure> {
    let path = absolute(Path::new(&name))?;
    Ok(DatabaseRef { name, path })
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    let absolute = std::path::absolute(path).map_err(|error| Failure::usage(format!("{} is no path: {error}", path.display())))?;
    if absolute.to_str().is_none() {
        return Err(Failure::usage(format!("{} is not UTF-8", absolute.display())).hint("rename the file or its folder"));
    }
    Ok(absolute)
}

/// Longest passphrase or code.
const MAX_TYPED: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_read_and_what_follows_is_left() {
        let mut input: &[u8] = b"four words\r\nbody";
        assert_eq!(first_line(&mut input).unwrap().as_deref(), Some("four words"));
        assert_eq!(input, b"body");
        assert_eq!(first_line(&b""[..]).unwrap(), None);
        assert_eq!(first_line(&b"\nx"[..]).unwrap().as_deref(), Some(""));
        assert_eq!(first_line(&[b'a'; 10_000][..]).unwrap().map(|line| line.len()), Some(MAX_TYPED));
        assert!(first_line(&b"\xff\n"[..]).is_err());
    }
}
