//! Where a command writes: answers for people or the one JSON object to standard output, progress to standard error.

use std::io::{IsTerminal, Write};

use serde::Serialize;

use crate::failure::Failure;

/// The output of one command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Only the one object goes to standard output.
    pub(crate) const fn is_json(self) -> bool {
        self.json
    }

    /// A part of the answer for people. A reader that has gone away is no failure.
    pub(crate) fn say(self, text: impl AsRef<str>) {
        if !self.json {
            write_to(std::io::stdout().lock(), text.as_ref());
        }
    }

    /// Progress: on standard output for people, on standard error beside JSON.
    pub(crate) fn progress(self, text: impl AsRef<str>) {
        if self.json { note(text) } else { self.say(text) }
    }

    /// Ends the command: the JSON object.
    pub(crate) fn finish(self, answer: &impl Serialize) {
        if self.json {
            match serde_json::to_string(answer) {
                Ok(line) => write_to(std::io::stdout().lock(), &line),
                Err(error) => note(format!("peers: the answer cannot be written as JSON: {error}")),
            }
        }
    }

    /// Ends the command that failed: the failure on standard error, and as the JSON object.
    pub(crate) fn fail(self, failure: &Failure) {
        note(format!("peers: {failure}"));
        self.finish(&Failed { error: failure });
    }
}

#[derive(Serialize)]
struct Failed<'a> {
    error: &'a Failure,
}

/// One line to standard error.
pub(crate) fn note(text: impl AsRef<str>) {
    write_to(std::io::stderr().lock(), text.as_ref());
}

/// Standard input is a person's keyboard.
pub(crate) fn has_keyboard() -> bool {
    std::io::stdin().is_terminal()
}

/// Somebody sees standard error as it is written.
pub(crate) fn has_screen() -> bool {
    std::io::stderr().is_terminal()
}

fn write_to(mut out: impl Write, text: &str) {
    let end = if text.ends_with('\n') { "" } else { "\n" };
    let _ = write!(out, "{text}{end}").and_then(|()| out.flush());
}
