//! What a command says when it did not do what it was asked: what happened, to what, and what to do next.

use core::fmt;

use serde::{Deserialize, Serialize};

/// Why a command ends with an exit code other than 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Code {
    /// It was tried and did not work.
    Failed,
    /// The command line or the request has no meaning.
    Usage,
    /// The other peer, or the node of this home, could not be reached.
    Unreachable,
    /// The other side, or a rule, said no.
    Refused,
    /// Stored by other peers, but not yet with its recipient.
    Stored,
}

impl Code {
    /// The exit code of the process.
    pub(crate) const fn exit(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Unreachable => 3,
            Self::Refused => 4,
            Self::Stored => 5,
        }
    }
}

/// A failed command; also the `error` of a reply on the control socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) code: Code,
    /// What happened, and to what.
    pub(crate) message: String,
    /// What to do next; empty if nothing helps.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) hint: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: String::new() }
    }

    /// A failure that the user has been told of, beside the answer.
    pub(crate) fn told(code: Code) -> Self {
        Self::new(code, "")
    }

    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Code::Failed, message)
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::Usage, message)
    }

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if self.hint.is_empty() { Ok(()) } else { write!(f, "\n  {}", self.hint) }
    }
}

impl core::error::Error for Failure {}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        match error.downcast::<Self>() {
            Ok(failure) => failure,
            Err(error) => Self::failed(format!("{error:#}")),
        }
    }
}
