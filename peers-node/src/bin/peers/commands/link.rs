//! `peers invite` and `peers accept`.

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use peers_crypto::{ParseLinkError, ParseTicketError, Ticket};
use peers_node::{GroupKind, Matched};
use qrcode::{EcLevel, QrCode};

use super::{ask_line, socket};
use crate::args;
use crate::control::Request;
use crate::control::answer::{LinkEvent, Linked};
use crate::control::client::{Call, Next, ask};
use crate::control::request::Place;
use crate::failure::Failure;
use crate::output::{Output, has_keyboard};
use crate::service::mistyped;
use crate::text::{plural, safe};

/// - `to`: a group and the role there; else the new device becomes one of the user's
pub(crate) async fn invite(invite: &args::Invite, to: Option<Place>, output: Output) -> Result<(), Failure> {
    let (link, confirm) = (invite.link || invite.qr.is_some(), invite.confirm.confirm);
    if let Some(Some(file)) = &invite.qr
        && file.exists()
    {
        return Err(
            Failure::failed(format!("{} exists already", file.display())).hint("name a file that does not, as it will hold a secret")
        );
    }
    let mut call = Call::new(&socket()?, &Request::Invite { link, confirm, to }).await?;
    let mut group = None;
    let linked = follow(&mut call, confirm, output, |event| match event {
        LinkEvent::Code(code) => {
            output.progress("On the new device, run `peers accept` and type this code:\n\n");
            output.progress(format!("    {code}\n\n"));
            output.progress("It is good for one guess and ten minutes. Waiting; Ctrl-C ends it.");
            Ok(())
        }
        LinkEvent::Link(link) => {
            output.progress("On the new device, run `peers accept` and give it this link, which is a secret:\n\n");
            output.progress(format!("{link}\n\n"));
            match &invite.qr {
                Some(Some(file)) => write_svg(&link, file).map(|()| output.progress(format!("As a QR code: {}", file.display())))?,
                Some(None) => output.progress(drawn(&link, std::io::stdout().is_terminal())?),
                None => {}
            }
            output.progress("It is good for one device and ten minutes. Waiting; Ctrl-C ends it.");
            Ok(())
        }
        LinkEvent::Matched(matched) => {
            let (name, joins) = (safe(&matched.name, false), place(&matched));
            output.progress(format!("{name} ({}) wants to join {joins}. Both devices show: {}", matched.device, matched.words));
            group = (matched.kind == GroupKind::Group).then_some(joins);
            Ok(())
        }
    });
    let linked = linked.await?;
    show(&linked, group.map(|group| format!("{} ({}) is in {group} now.", safe(&linked.name, false), linked.device)), output);
    Ok(())
}

pub(crate) async fn accept(accept: &args::Accept, output: Output) -> Result<(), Failure> {
    let socket = socket()?;
    // Nobody is to type a code only to hear that no node runs.
    let _: serde_json::Value = ask(&socket, &Request::Status {}).await?;
    let (code, confirm) = (ask_ticket()?.to_string(), accept.confirm.confirm);
    output.progress("looking for the other device");
    let mut call = Call::new(&socket, &Request::Accept { code, confirm }).await?;
    let mut group = None;
    let linked = follow(&mut call, confirm, output, |event| {
        if let LinkEvent::Matched(matched) = event {
            let (name, joins) = (safe(&matched.name, false), place(&matched));
            output.progress(format!("{name} ({}) invites to join {joins}. Both devices show: {}", matched.device, matched.words));
            group = (matched.kind == GroupKind::Group).then_some(joins);
        }
        Ok(())
    });
    let linked = linked.await?;
    show(&linked, group.map(|group| format!("You are in {group} now.")), output);
    Ok(())
}

/// What is joined, and as what.
fn place(matched: &Matched) -> String {
    let name = safe(&matched.group, false);
    match matched.kind {
        GroupKind::User => format!("{name} as one of their devices"),
        GroupKind::Group => format!("the group {name} as {}", super::group::role_name(matched.role)),
    }
}

/// Follows a linking to its end; asks for the word of the person at the keyboard where that is wanted.
async fn follow(
    call: &mut Call,
    confirm: bool,
    output: Output,
    mut shown: impl FnMut(LinkEvent) -> Result<(), Failure>,
) -> Result<Linked, Failure> {
    let mut answer: Option<tokio::sync::oneshot::Receiver<bool>> = None;
    loop {
        let next = match &mut answer {
            None => call.next::<LinkEvent, Linked>().await?,
            // The other side may end it meanwhile.
            Some(said) => tokio::select! {
                next = call.next::<LinkEvent, Linked>() => next?,
                same = &mut *said => {
                    answer = None;
                    let same = same.unwrap_or(false);
                    if same {
                        output.progress("Going on.");
                    }
                    // If that fails the linking has ended meanwhile: how, its own reply says.
                    let _ = ask::<serde_json::Value>(&socket()?, &Request::Confirm { same }).await;
                    continue;
                }
            },
        };
        match next {
            Next::Event(event) => {
                let matched = matches!(event, LinkEvent::Matched(_));
                shown(event)?;
                if matched && confirm {
                    answer = Some(ask_same());
                }
            }
            Next::Done(linked) => return Ok(linked),
        }
    }
}

/// Asks on a thread of its own, which the end of the process does not wait for.
fn ask_same() -> tokio::sync::oneshot::Receiver<bool> {
    let (sender, said) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let line = ask_line("Do both show the same words? [y/N] ", false).unwrap_or_default();
        let _ = sender.send(matches!(line.trim().to_lowercase().as_str(), "y" | "yes"));
    });
    said
}

/// The code or link that a person types, pastes or pipes in; a link that something broke into lines is put together.
fn ask_ticket() -> Result<Ticket, Failure> {
    let mut typed = zeroize::Zeroizing::new(ask_line("Code or link: ", false)?);
    for _ in 0..MAX_LINES {
        match typed.parse::<Ticket>() {
            Err(error @ ParseTicketError::Link(ParseLinkError::Truncated { .. })) => {
                let prompt =
                    if has_keyboard() { "The link goes on; the rest of it, or nothing to give up: " } else { "The rest of the link" };
                match ask_line(prompt, false) {
                    Ok(more) if !more.trim().is_empty() => typed.push_str(&more),
                    _ => return Err(mistyped(error)),
                }
            }
            other => return other.map_err(mistyped),
        }
    }
    typed.parse().map_err(mistyped)
}

/// Lines that a link may be broken into.
const MAX_LINES: usize = 16;

fn code_of(link: &str) -> Result<QrCode, Failure> {
    // In capital letters it takes fewer dots, and is the same link.
    QrCode::with_error_correction_level(link.to_uppercase(), EcLevel::L)
        .map_err(|error| Failure::failed(format!("the link does not fit a QR code: {error}")).hint("use --link without --qr"))
}

/// The QR code in half blocks; dark on light whatever the colours of the terminal are.
fn drawn(link: &str, terminal: bool) -> Result<String, Failure> {
    let drawn = code_of(link)?.render::<qrcode::render::unicode::Dense1x2>().build();
    Ok(match terminal {
        true => drawn.lines().map(|line| format!("\x1b[38;5;16;48;5;231m{line}\x1b[0m\n")).collect(),
        false => drawn + "\n",
    })
}

fn write_svg(link: &str, file: &Path) -> Result<(), Failure> {
    let svg = code_of(link)?.render::<qrcode::render::svg::Color<'_>>().min_dimensions(512, 512).build();
    let failed = |error: std::io::Error| {
        Failure::failed(format!("{} cannot be written: {error}", file.display()))
            .hint("name a file that does not exist, in a folder of yours")
    };
    let mut opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    opened.write_all(svg.as_bytes()).map_err(failed)
}

/// - `joined`: what came of it, where it was a group that was joined
fn show(linked: &Linked, joined: Option<String>, output: Output) {
    output.say(joined.unwrap_or_else(|| format!("Linked with {} ({}).", safe(&linked.name, false), linked.device)));
    output.say(format!("Both devices show: {}", linked.words));
    if linked.others > 0 {
        let came = plural(linked.others, "other device", "other devices");
        output.say(format!("{came} came to this invitation and got nothing: its code was watched, or tried."));
    }
    output.finish(linked);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_drawn_as_wide_as_a_terminal_is_and_written_for_its_owner_only() {
        let link = format!("peers:{}", "abcdefg234567".repeat(10));
        for (terminal, escapes) in [(true, true), (false, false)] {
            let drawn = drawn(&link, terminal).unwrap();
            assert_eq!(drawn.contains('\x1b'), escapes);
            // Black on white: a full block is two dark dots, one above the other.
            let dots: Vec<Vec<char>> =
                drawn.lines().map(|line| line.chars().filter(|c| " \u{2580}\u{2584}\u{2588}".contains(*c)).collect()).collect();
            let code = code_of(&link).unwrap();
            let (width, quiet) = (code.width(), 4);
            assert!(dots.len() <= 24 && dots.iter().all(|line| line.len() == width + 2 * quiet));
            for (at, colour) in code.to_colors().into_iter().enumerate() {
                let (x, y) = (at % width + quiet, at / width + quiet);
                let halves = if y % 2 == 0 { "\u{2580}\u{2588}" } else { "\u{2584}\u{2588}" };
                assert_eq!(halves.contains(dots[y / 2][x]), colour == qrcode::Color::Dark, "{x} {y}");
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("link.svg");
        write_svg(&link, &file).unwrap();
        assert!(std::fs::read_to_string(&file).unwrap().contains("<svg"));
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions()) & 0o777, 0o600);
        assert!(write_svg(&link, &file).unwrap_err().message.contains("link.svg"), "never over a file");
    }
}
