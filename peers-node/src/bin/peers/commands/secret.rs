//! Where passphrases come from: a prompt, a file descriptor, or a command; never an argument, and never the environment.
//!
//! They are read without a buffer into locked memory.

use std::fs::File;
use std::io::{self, Read, Stdin, Write};
use std::process::{Command, Stdio};

use peers_crypto::Passphrase;
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::args;
use crate::failure::Failure;
use crate::output::{has_keyboard, note};

/// The sources of one command. A descriptor that is named twice gives two lines.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    descriptors: Vec<(u32, File)>,
}

impl Sources {
    /// The passphrase that opens `what`: from the source that was named; else typed, if one is needed; else empty.
    pub(crate) fn given(&mut self, arguments: &args::Passphrase, needed: bool, what: &str) -> Result<Passphrase, Failure> {
        match self.named(arguments.passphrase_fd, arguments.passphrase_command.as_deref())? {
            Some(passphrase) => Ok(passphrase),
            None if needed => line(&format!("Passphrase of {what}: "), &format!("passphrase of {what}")),
            None => Ok(Passphrase::default()),
        }
    }

    /// The passphrase that is to protect `what`: from the source that was named, else typed twice. Empty only if that was asked for.
    pub(crate) fn chosen(&mut self, arguments: &args::NewPassphrase, what: &str) -> Result<Passphrase, Failure> {
        if arguments.no_passphrase {
            return Ok(Passphrase::default());
        }
        let chosen = match self.named(arguments.new_passphrase_fd, arguments.new_passphrase_command.as_deref())? {
            Some(passphrase) => passphrase,
            None => {
                let first = line(&format!("New passphrase for {what}: "), "new passphrase")?;
                if has_keyboard() && !first.is_empty() && line("Once more: ", "new passphrase")? != first {
                    return Err(Failure::usage("the two passphrases differ; nothing was changed").hint("try again"));
                }
                first
            }
        };
        if chosen.is_empty() {
            let hint = "give one, or say --no-passphrase if whoever has the file may be this device";
            return Err(Failure::usage("an empty passphrase protects nothing; nothing was changed").hint(hint));
        }
        Ok(chosen)
    }

    fn named(&mut self, descriptor: Option<u32>, command: Option<&str>) -> Result<Option<Passphrase>, Failure> {
        match (descriptor, command) {
            (Some(number), _) => self.descriptor(number).map(Some),
            (None, Some(command)) => printed_by(command).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn descriptor(&mut self, number: u32) -> Result<Passphrase, Failure> {
        let failed = |error: io::Error| {
            Failure::usage(format!("the passphrase cannot be read from file descriptor {number}: {error}"))
                .hint("open it for this command, for example `peers up --passphrase-fd 3 3<FILE`")
        };
        let read = match number {
            0 => Passphrase::read_line(Unbuffered(io::stdin())),
            _ => {
                let file = match self.descriptors.iter().position(|(open, _)| *open == number) {
                    Some(place) => &self.descriptors[place].1,
                    None => {
                        self.descriptors.push((number, File::open(format!("/dev/fd/{number}")).map_err(failed)?));
                        &self.descriptors[self.descriptors.len() - 1].1
                    }
                };
                Passphrase::read_line(file)
            }
        };
        Ok(read.map_err(failed)?.unwrap_or_default())
    }
}

/// The first line that a command prints; it must succeed, and print one that is not empty.
fn printed_by(command: &str) -> Result<Passphrase, Failure> {
    let failed = |why: &dyn core::fmt::Display| {
        Failure::failed(format!("the command that gives the passphrase, `{command}`, {why}")).hint("run it by hand to see what it does")
    };
    let input = if has_keyboard() { Stdio::inherit() } else { Stdio::null() };
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(input)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&format_args!("cannot be run: {error}")))?;
    let mut passphrase = Ok(None);
    if let Some(mut output) = child.stdout.take() {
        passphrase = Passphrase::read_line(&mut output);
        // What follows the first line is not ours, may be secret too, and the command shall be able to print it.
        let mut rest = Zeroizing::new([0; 4096]);
        while output.read(&mut *rest).is_ok_and(|read| read > 0) {}
    }
    let status = child.wait().map_err(|error| failed(&error))?;
    if !status.success() {
        return Err(failed(&format_args!("failed: {status}")));
    }
    match passphrase {
        Ok(Some(passphrase)) if !passphrase.is_empty() => Ok(passphrase),
        Ok(_) => Err(failed(&"printed nothing")),
        Err(error) => Err(failed(&format_args!("printed no passphrase: {error}"))),
    }
}

/// A line that a person types at a prompt and that is not shown, or the next of standard input: `what` says which, in a failure.
pub(crate) fn line(prompt: &str, what: &str) -> Result<Passphrase, Failure> {
    let read = if has_keyboard() { typed(prompt) } else { Passphrase::read_line(Unbuffered(io::stdin())) };
    let read = read.map_err(|error| Failure::failed(format!("the {what} could not be read: {error}")))?;
    read.ok_or_else(|| {
        Failure::usage(format!("the {what} is missing: standard input is empty"))
            .hint("type it at the prompt, pipe it in as one line, or name its source with --passphrase-fd or --passphrase-command")
    })
}

fn typed(prompt: &str) -> io::Result<Option<Passphrase>> {
    let mut screen = io::stderr().lock();
    // Before the prompt: who types as soon as it is there types unseen.
    let keyboard = Quiet::new(io::stdin())?;
    write!(screen, "{prompt}").and_then(|()| screen.flush())?;
    let typed = edited(Unbuffered(io::stdin()));
    drop(keyboard);
    let _ = writeln!(screen);
    typed
}

/// A line from a keyboard that sends each key as it is pressed; `None` if it ends at once.
fn edited(mut keys: impl Read) -> io::Result<Option<Passphrase>> {
    let mut typed = Passphrase::new();
    let mut key = Zeroizing::new([0]);
    loop {
        match keys.read(&mut *key) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
            Ok(0) if typed.is_empty() => return Ok(None),
            Ok(0) => return Ok(Some(typed)),
            Ok(_) => {}
        }
        match key[0] {
            b'\n' | b'\r' => return Ok(Some(typed)),
            INTERRUPT => return Err(io::Error::other("interrupted")),
            END if typed.is_empty() => return Ok(None),
            END => {}
            ERASE | BACKSPACE => typed.pop(),
            KILL_LINE => typed.clear(),
            byte => typed.push(byte).map_err(io::Error::other)?,
        }
    }
}

/// A terminal that shows nothing and hands over each key; as it was before when dropped.
struct Quiet {
    terminal: Stdin,
    before: Termios,
}

impl Quiet {
    fn new(terminal: Stdin) -> io::Result<Self> {
        let before = tcgetattr(&terminal)?;
        let mut quiet = before.clone();
        // Without signals too: an interrupt would end us before the terminal shows again what is typed.
        quiet.local_modes.remove(LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&terminal, OptionalActions::Now, &quiet)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Standard input without the buffer that the standard library puts before it, which nothing zeroes.
struct Unbuffered(Stdin);

impl Read for Unbuffered {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, bytes)?)
    }
}

/// Lets no other program of the user look into this process, and the system write no image of its memory. After descriptors were read: they cannot be
/// opened by name then.
pub(crate) fn shut() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = Rlimit { current: Some(0), ..getrlimit(Resource::Core) };
    let done = setrlimit(Resource::Core, limit);
    #[cfg(target_os = "linux")]
    let done = done.and_then(|()| rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable));
    if let Err(error) = done {
        note(format!("peers: this process cannot be closed to debuggers: {error}"));
    }
}

const INTERRUPT: u8 = 0x03;
const END: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const KILL_LINE: u8 = 0x15;
const ERASE: u8 = 0x7f;

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(keys: &[u8]) -> Option<Vec<u8>> {
        edited(keys).unwrap().map(|typed| typed.as_bytes().to_vec())
    }

    #[test]
    fn typing_errors_can_be_taken_back() {
        assert_eq!(typed("corr\u{fc}\x7fect\rx".as_bytes()), Some(b"correct".to_vec()));
        assert_eq!(typed(b"wrong\x15right\n"), Some(b"right".to_vec()));
        assert_eq!(typed(b"a\x04b\n"), Some(b"ab".to_vec()), "an end within a line is no end");
        assert_eq!(typed(b"\x08\x7f\n"), Some(Vec::new()));
    }

    #[test]
    fn an_end_is_no_empty_passphrase_and_an_interrupt_is_an_error() {
        assert_eq!(typed(b"\x04"), None);
        assert_eq!(typed(b""), None);
        assert!(edited(&b"abc\x03\n"[..]).is_err());
    }

    #[test]
    fn a_command_gives_its_first_line_and_nothing_else_is_taken_for_one() {
        let given = |command: &str| printed_by(command).map(|passphrase| passphrase.as_bytes().to_vec());
        assert_eq!(given("printf 'correct horse\\nlogin: alice\\n'"), Ok(b"correct horse".to_vec()));
        assert_eq!(given("printf 'no line feed'"), Ok(b"no line feed".to_vec()));
        assert!(given("echo horse; yes | head -c 1000000").is_ok(), "what follows is read to its end");
        for (command, why) in [
            ("exit 3", "exit status: 3"),
            ("echo horse; exit 1", "exit status: 1"),
            ("true", "printed nothing"),
            ("echo", "printed nothing"),
            ("/no/such/program 2>/dev/null", "exit status: 127"),
            ("head -c 5000 /dev/zero | tr '\\0' x", "at most 1024 bytes"),
        ] {
            let failure = given(command).unwrap_err();
            assert!(failure.message.contains(why) && failure.message.contains(command), "{failure}");
        }
    }
}
