//! `peers inbox`.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::socket;
use crate::args::Inbox;
use crate::body::Body;
use crate::control::Request;
use crate::control::answer::{Count, Mail};
use crate::control::client::{Call, Next};
use crate::failure::Failure;
use crate::output::Output;
use crate::signal::interrupted;
use crate::text::{file_name, safe, size, time};

/// A letter, and where it was saved.
#[derive(Serialize)]
struct Received {
    #[serde(flatten)]
    mail: Mail,
    #[serde(skip_serializing_if = "Option::is_none")]
    saved: Option<PathBuf>,
}

#[derive(Serialize)]
struct Letters {
    mail: Vec<Received>,
}

pub(crate) async fn inbox(arguments: &Inbox, output: Output) -> Result<(), Failure> {
    let mut call = Call::new(&socket()?, &Request::Inbox { last: arguments.last, live: arguments.follow }).await?;
    if let Some(folder) = &arguments.save {
        fs::create_dir_all(folder).map_err(|error| Failure::failed(format!("{} cannot be made: {error}", folder.display())))?;
    }
    let mut letters = Vec::new();
    let mut any = false;
    let end = interrupted();
    tokio::pin!(end);
    loop {
        let next = tokio::select! {
            next = call.next::<Mail, Count>() => next?,
            () = &mut end => break,
        };
        let Next::Event(mail) = next else { break };
        any = true;
        let saved = arguments.save.as_deref().map(|folder| save(folder, &mail)).transpose()?;
        let letter = Received { mail, saved };
        if output.is_json() {
            letters.push(letter);
            if letters.len() == MAX_COLLECTED {
                break;
            }
        } else {
            output.say(shown(&letter));
        }
    }
    if !any {
        output.say("nothing was sent to this device");
    }
    output.finish(&Letters { mail: letters });
    Ok(())
}

fn shown(letter: &Received) -> String {
    let Received { mail, saved } = letter;
    let from = mail.from_name.as_deref().unwrap_or_else(|| mail.from.get(..8).unwrap_or_default());
    let what = match (&mail.name, &mail.body) {
        (Some(name), body) => format!("{} ({})", safe(name, false), size(body.len() as u64)),
        (None, Body::Text(text)) => safe(text, true),
        (None, body) => format!("<{}>", size(body.len() as u64)),
    };
    let saved = saved.as_ref().map(|path| format!(" -> {}", path.display())).unwrap_or_default();
    format!("{} {}: {what}{saved}", time(mail.created), safe(from, false))
}

/// Writes the letter into a file of its own; one that is there with the same content is taken as it.
fn save(folder: &Path, mail: &Mail) -> Result<PathBuf, Failure> {
    let body = mail.body.bytes().ok_or_else(|| Failure::failed("the content of a letter is not readable").hint("restart `peers up`"))?;
    let name = mail.name.as_deref().map_or_else(|| format!("letter-{}", mail.id.get(..8).unwrap_or(&mail.id)), file_name);
    let (stem, ending) = match name.rsplit_once('.') {
        Some((stem, ending)) if !stem.is_empty() => (stem.to_owned(), format!(".{ending}")),
        _ => (name, String::new()),
    };
    for number in 1..=MAX_SAME_NAME {
        let suffix = if number == 1 { String::new() } else { format!(" ({number})") };
        let path = folder.join(format!("{stem}{suffix}{ending}"));
        let failed = |error: std::io::Error| {
            Failure::failed(format!("{} cannot be written: {error}", path.display()))
                .hint("free space or choose another folder; the letter stays in the inbox")
        };
        match File::create_new(&path) {
            Ok(mut file) => {
                if let Err(error) = file.write_all(&body).and_then(|()| file.sync_all()) {
                    let _ = fs::remove_file(&path);
                    return Err(failed(error));
                }
                return Ok(path);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if fs::read(&path).is_ok_and(|present| present == body) {
                    return Ok(path);
                }
            }
            Err(error) => return Err(failed(error)),
        }
    }
    Err(Failure::failed(format!("{} holds too many files named {stem}", folder.display())).hint("choose another folder"))
}

/// Letters that one JSON object holds.
const MAX_COLLECTED: usize = 10_000;
/// Files of one name in a folder.
const MAX_SAME_NAME: u32 = 1_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_saved_once_and_overwrites_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let letter = |name: Option<&str>, text: &str| Mail {
            id: "00112233445566".into(),
            from: "x".into(),
            from_name: None,
            created: 0,
            name: name.map(str::to_owned),
            body: Body::Text(text.into()),
        };
        let save = |name, text| save(temp.path(), &letter(name, text)).unwrap();
        assert_eq!(save(Some("a.txt"), "one"), temp.path().join("a.txt"));
        assert_eq!(save(Some("a.txt"), "one"), temp.path().join("a.txt"));
        assert_eq!(save(Some("../a.txt"), "two"), temp.path().join("a (2).txt"));
        assert_eq!(save(None, "three"), temp.path().join("letter-00112233"));
        assert_eq!(fs::read_to_string(temp.path().join("a.txt")).unwrap(), "one");
        assert_eq!(fs::read_dir(temp.path()).unwrap().count(), 3);
    }
}
