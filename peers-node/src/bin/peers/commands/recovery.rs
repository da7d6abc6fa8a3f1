//! `peers recovery`.

use peers_crypto::{PHRASE_WORDS, RecoveryPhrase};
use peers_node::{AuditReport, GroupStatus, Progress, Ward};
use rand::RngExt;
use serde::Serialize;
use zeroize::Zeroizing;

use super::secret::shut;
use super::{ask_line, socket, sure};
use crate::args::{Guardians, Recovery};
use crate::control::Request;
use crate::control::answer::RecoveryKey;
use crate::control::client::{Call, Next, ask};
use crate::control::request::Secret;
use crate::failure::{Code, Failure};
use crate::output::{Output, has_keyboard};
use crate::service::mistyped_phrase;
use crate::text::{columns, plural, safe, time};

pub(crate) async fn recovery(command: Recovery, output: Output) -> Result<(), Failure> {
    // Words of a phrase are in this process from here on.
    shut();
    match command {
        Recovery::Phrase { replace } => phrase(replace, output).await,
        Recovery::List => list(output).await,
        Recovery::Remove { id } => {
            let _: AuditReport = you().await?;
            let by = Secret(typed("Words of the phrase, or of another one of yours")?.to_string());
            let removed: RecoveryKey = ask(&socket()?, &Request::RemoveRecovery { id, by }).await?;
            output.say(format!("{} can recover you no more: its words are void", removed.key));
            output.finish(&removed);
            Ok(())
        }
        Recovery::Restore => {
            let _: AuditReport = you().await?;
            let words = Secret(typed("Recovery phrase")?.to_string());
            output.progress("looking for what your devices, your friends or other peers hold for you; Ctrl-C ends it");
            back(&ask(&socket()?, &Request::Restore { words }).await?, output);
            Ok(())
        }
        Recovery::Guardians(Guardians::Set { need, contacts }) => {
            let words = if you().await?.recovery.is_empty() { None } else { Some(Secret(typed("Your recovery phrase")?.to_string())) };
            let now: AuditReport = ask(&socket()?, &Request::SetGuardians { need, contacts, by: words }).await?;
            guardians(&now, output);
            output.say("each of them has been sent a sealed package; it arrives when they are online");
            if need == 1 {
                output.say("each of them alone can now make a device yours: with --need 2 no one of them could");
            }
            output.finish(&Own { recovery: &now.recovery, guardians: now.guardians.as_ref() });
            Ok(())
        }
        Recovery::Guardians(Guardians::List) => {
            let you = you().await?;
            guardians(&you, output);
            output.finish(&Own { recovery: &you.recovery, guardians: you.guardians.as_ref() });
            Ok(())
        }
        Recovery::Ask { user } => wait(user, output).await,
        Recovery::Endorse { device, user, sure: given } => {
            let meaning = format!(
                "You are about to vouch that the device {device}\n\
                 belongs to {}, whose guardian you are. With the word of enough guardians it becomes one of that user's devices:\n\
                 it can read what they wrote, write as them, and take out their other devices.\n\
                 Be sure that it is your friend who asks: meet or call them, and let them read the id of the device to you. A message is not enough.",
                safe(&user, false)
            );
            sure(&meaning, "Do you vouch for this device?", given, output)?;
            let ward: Ward = ask(&socket()?, &Request::Endorse { device, user }).await?;
            output.say(format!("vouched for {device} as one of {}; it is told when it is online", ward.user));
            output.finish(&Endorsed { device: device.to_string(), user: ward.user });
            Ok(())
        }
    }
}

#[derive(Serialize)]
struct Endorsed {
    device: String,
    user: String,
}

#[derive(Serialize)]
struct Own<'a> {
    recovery: &'a [peers_node::RecoveryKeyStatus],
    guardians: Option<&'a peers_node::GuardiansStatus>,
}

#[derive(Serialize)]
struct All<'a> {
    #[serde(flatten)]
    own: Own<'a>,
    wards: &'a [Ward],
}

/// What can be said of this user; nobody is to type words only to hear that no node runs.
async fn you() -> Result<AuditReport, Failure> {
    ask(&socket()?, &Request::Audit { group: None }).await
}

async fn phrase(replace: bool, output: Output) -> Result<(), Failure> {
    let known = you().await?.recovery;
    let by = match (replace, known.is_empty()) {
        (false, true) => None,
        (true, false) => Some(Secret(typed("Recovery phrase that you have")?.to_string())),
        (false, false) => {
            return Err(Failure::new(Code::Refused, format!("you have a recovery phrase since {}", time(known[0].since.0)))
                .hint("`peers recovery phrase --replace` puts a new one in its place, by the word of the old one"));
        }
        (true, true) => {
            return Err(Failure::failed("there is no recovery phrase to be replaced").hint("make one with `peers recovery phrase`"));
        }
    };
    let phrase = RecoveryPhrase::generate(&mut rand::rng());
    let words = Zeroizing::new(phrase.to_string());
    show(&words, output);
    if has_keyboard() && !output.is_json() {
        check(&words, output)?;
    }
    let request = Request::AddRecovery { words: Secret(words.to_string()), by, replace };
    let mut made: RecoveryKey = ask(&socket()?, &request).await?;
    output.say(format!("These words can recover you from now on. Their key: {}", made.key));
    if let Some(old) = made.replaced {
        output.say(format!("The old ones are void ({old}): destroy that paper."));
    }
    made.words = Some(words.to_string());
    output.finish(&made);
    Ok(())
}

/// Four columns of words, each with its number.
fn show(words: &str, output: Output) {
    output.say("Write these 24 words on paper, with their numbers. They are shown this once. Whoever has them, has all that you have.\n\n");
    let words: Vec<_> = words.split(' ').enumerate().map(|(at, word)| format!("{:2} {word}", at + 1)).collect();
    let rows = words.len().div_ceil(4);
    let lines: Vec<[String; 4]> =
        (0..rows).map(|row| core::array::from_fn(|column| words.get(column * rows + row).cloned().unwrap_or_default())).collect();
    output.say(columns(&lines));
}

/// Lets a person type back two of the words: only what is on paper counts.
fn check(words: &str, output: Output) -> Result<(), Failure> {
    let words: Vec<_> = words.split(' ').collect();
    let first = rand::rng().random_range(0..words.len() / 2);
    for at in [first, first + words.len() / 2] {
        loop {
            let typed = Zeroizing::new(ask_line(&format!("Word {}: ", at + 1), false)?);
            match typed.trim() {
                right if right.eq_ignore_ascii_case(words[at]) => break,
                "" => {
                    return Err(Failure::new(Code::Refused, "the words are not made yours: they were not typed back")
                        .hint("begin again with `peers recovery phrase`"));
                }
                _ => output.progress(format!("That is not word {} as it was shown: look at your paper again (nothing gives up).", at + 1)),
            }
        }
    }
    Ok(())
}

/// The words of a phrase: typed unseen, or read from a pipe; on one line or on several.
fn typed(what: &str) -> Result<Zeroizing<String>, Failure> {
    let mut words = Zeroizing::new(ask_line(&format!("{what} (24 words): "), true)?);
    for _ in 0..PHRASE_WORDS {
        let count = words.split([' ', '\t', '-']).filter(|word| !word.is_empty()).count();
        if count == 0 || count >= PHRASE_WORDS {
            break;
        }
        match ask_line(&format!("{} more words: ", PHRASE_WORDS - count), true) {
            Ok(more) if !more.trim().is_empty() => {
                words.push(' ');
                words.push_str(&Zeroizing::new(more));
            }
            _ => break,
        }
    }
    words.parse::<RecoveryPhrase>().map_err(mistyped_phrase)?;
    Ok(words)
}

async fn list(output: Output) -> Result<(), Failure> {
    let you = you().await?;
    let wards: Vec<Ward> = ask(&socket()?, &Request::Wards {}).await?;
    if you.recovery.is_empty() {
        output.say("no recovery phrase: if all your devices are lost, no words bring you back (`peers recovery phrase` makes some)");
    }
    for key in &you.recovery {
        output.say(format!("a recovery phrase since {}: {}", time(key.since.0), key.key));
    }
    guardians(&you, output);
    if !wards.is_empty() {
        output.say("\nYou are a guardian of");
        let rows: Vec<_> = wards
            .iter()
            .map(|ward| {
                let from = ward.from_name.as_ref().map_or_else(|| format!("{:.8}", ward.from), |name| safe(name, false));
                [format!("  {}", ward.user), format!("from {from}"), time(ward.made.0), format!("{} of {} are needed", ward.need, ward.of)]
            })
            .collect();
        output.say(columns(&rows));
    }
    output.finish(&All { own: Own { recovery: &you.recovery, guardians: you.guardians.as_ref() }, wards: &wards });
    Ok(())
}

fn guardians(you: &AuditReport, output: Output) {
    let Some(guardians) = &you.guardians else {
        return output.say("no guardians: no friends can bring you back (`peers recovery guardians set` chooses some)");
    };
    output.say(format!("{} of these {} can bring you back:", guardians.need, plural(guardians.keys.len(), "guardian", "guardians")));
    for keys in &guardians.keys {
        let keys: Vec<_> = keys.iter().map(ToString::to_string).collect();
        output.say(format!("  {}", keys.join(", ")));
    }
}

async fn wait(user: String, output: Output) -> Result<(), Failure> {
    let status: peers_node::Status = ask(&socket()?, &Request::Status {}).await?;
    let mut call = Call::new(&socket()?, &Request::AskGuardians { user }).await?;
    output.progress("Meet or call your guardians, and read them the id of this device:\n\n");
    output.progress(format!("    {}\n\n", status.id));
    output.progress("Each of them runs `peers recovery endorse` with it. Waiting; Ctrl-C ends it.");
    loop {
        match call.next::<Progress, GroupStatus>().await? {
            Next::Event(Progress { user, have, need }) => {
                output.progress(format!("{have} of {need} guardians have vouched for this device as one of {user}"));
            }
            Next::Done(you) => {
                back(&you, output);
                return Ok(());
            }
        }
    }
}

/// The user is back on this device.
fn back(you: &GroupStatus, output: Output) {
    output.say(format!("You are back: {} ({}). See that this is you.", safe(&you.name, false), you.id));
    let others: Vec<_> = you.members.iter().filter(|member| !member.this).map(|member| safe(&member.name, false)).collect();
    if !others.is_empty() {
        output.say(format!("Your other devices: {}. Take out each that is lost: `peers id revoke DEVICE`.", others.join(", ")));
    }
    output.finish(you);
}
