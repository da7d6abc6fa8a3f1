//! The errors of the layers as failures of a command: which exit code, and what they are about.

use std::path::Path;

use peers_crypto::{GroupError, KeyFileError, KeyFormError, LinkRefusal};
use peers_node::{Closed, DatabaseError, LinkError, LinkFailure, MembershipError, OpenError, PublishError, RecoverError};
use rusqlite::ErrorCode;

use crate::failure::{Code, Failure};

impl From<Closed> for Failure {
    fn from(_: Closed) -> Self {
        Self::new(Code::Unreachable, "the node is closing").hint("start it again with `peers up`")
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Key(error) => error.into(),
            other => Self::failed(other.to_string()),
        }
    }
}

impl From<KeyFileError> for Failure {
    fn from(error: KeyFileError) -> Self {
        match error {
            KeyFileError::Form { path, source: KeyFormError::WrongPassphrase } => {
                Self::new(Code::Refused, format!("{} does not open with this passphrase; it is intact", path.display()))
                    .hint("try again: at the prompt, with --passphrase-fd or with --passphrase-command")
            }
            KeyFileError::Form { path, source: KeyFormError::NoPassphrase } => {
                Self::new(Code::Refused, format!("{} has no passphrase, but one was given", path.display()))
                    .hint("leave the passphrase out, or set one with `peers key change-passphrase`")
            }
            KeyFileError::Io { ref source, .. } => {
                let hint = match source.kind() {
                    std::io::ErrorKind::StorageFull => "free space on the disk, then try again",
                    std::io::ErrorKind::NotFound => "make its folder, or name another one",
                    std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                        "make the file and its folder readable and writable for you, or name another one"
                    }
                    _ => "check the file and the disk",
                };
                Self::failed(error.to_string()).hint(hint)
            }
            other => Self::failed(other.to_string()),
        }
    }
}

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Closed(closed) => closed.into(),
            PublishError::Group(error) => error.into(),
            other => Self::failed(other.to_string()),
        }
    }
}

impl From<LinkError> for Failure {
    fn from(error: LinkError) -> Self {
        let code = match &error {
            LinkError::Failed { failure: LinkFailure::Refused(LinkRefusal::Nobody), .. } | LinkError::Closed(_) => Code::Unreachable,
            LinkError::Failed { .. } | LinkError::Refused(_) => Code::Refused,
            LinkError::State(_) => Code::Failed,
        };
        Self::new(code, error.to_string())
    }
}

impl From<GroupError> for Failure {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::NotAMember(_) => Self::new(Code::Refused, format!("nothing was changed: {error}"))
                .hint("see `peers group members`, and for your own devices `peers id list`"),
            GroupError::NotAllowed(_) => {
                Self::new(Code::Refused, format!("nothing was done: {error}")).hint("see `peers group members` for who may do what")
            }
            GroupError::Name => Self::usage(error.to_string()),
            other => Self::failed(other.to_string()),
        }
    }
}

impl From<MembershipError> for Failure {
    fn from(error: MembershipError) -> Self {
        match error {
            MembershipError::Group(error) => error.into(),
            MembershipError::Closed(closed) => closed.into(),
            MembershipError::Refused(_) => Self::new(Code::Refused, error.to_string()),
            MembershipError::State(_) => Self::failed(error.to_string()),
        }
    }
}

impl From<RecoverError> for Failure {
    fn from(error: RecoverError) -> Self {
        match error {
            RecoverError::Closed(closed) => closed.into(),
            RecoverError::Refused(_) => Self::new(Code::Refused, error.to_string()),
            RecoverError::State(_) => Self::failed(error.to_string()),
            RecoverError::Failed(failure) => Self::new(Code::Unreachable, failure.to_string()),
        }
    }
}

/// What went wrong with the database at `path`.
pub(super) fn database(path: &Path, error: DatabaseError) -> Failure {
    match error {
        DatabaseError::Sqlite { source, .. } => sqlite(path, &source),
        DatabaseError::Closed(closed) => closed.into(),
        DatabaseError::Refused(text) => Failure::failed(text),
        other => Failure::failed(format!("{}: {other}", path.display())),
    }
}

/// What SQLite says of the database at `path`.
pub(super) fn sqlite(path: &Path, error: &rusqlite::Error) -> Failure {
    let place = path.display();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            Failure::failed(format!("{place} is locked by another program; nothing was changed"))
                .hint("let that program finish or close it, then try again")
        }
        Some(ErrorCode::DiskFull) => {
            Failure::failed(format!("there is no space for {place}; nothing was changed")).hint("free space on the disk, then try again")
        }
        Some(ErrorCode::SystemIoFailure) => Failure::failed(format!("{place}: the disk failed to read or write: {error}"))
            .hint("see whether it is full, free space on it, then try again"),
        _ => Failure::failed(format!("{place}: {error}")),
    }
}
