//! Where a node keeps its state on disk.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The folders of one node: configuration (the key file), data (databases) and state (what may be rebuilt, and the control socket).
///
/// Folders are made on demand with mode 0700.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Home {
    config: PathBuf,
    data: PathBuf,
    state: PathBuf,
}

impl Home {
    /// `PEERS_HOME` if it is set, else `peers` in the XDG folders of the user.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if neither `PEERS_HOME`, the XDG variables nor `HOME` are set.
    ///
    /// Source: XDG Base Directory Specification 0.8.
    pub fn from_env() -> io::Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        if let Some(home) = variable("PEERS_HOME") {
            return Ok(Self::at(home));
        }
        let folder = |name: &str, fallback: &str| {
            variable(name)
                .filter(|path| path.is_absolute())
                .or_else(|| variable("HOME").map(|home| home.join(fallback)))
                .map(|path| path.join("peers"))
                .ok_or_else(|| {
                    io::Error::new(io::ErrorKind::NotFound, format!("set PEERS_HOME, {name} or HOME: there is no folder to keep state in"))
                })
        };
        Ok(Self {
            config: folder("XDG_CONFIG_HOME", ".config")?,
            data: folder("XDG_DATA_HOME", ".local/share")?,
            state: folder("XDG_STATE_HOME", ".local/state")?,
        })
    }

    /// Everything under one folder.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { config: path.clone(), data: path.clone(), state: path }
    }

    /// The sealed key file.
    pub fn key_file(&self) -> PathBuf {
        self.config.join("key")
    }

    /// The sealed database of everything else the node remembers.
    pub fn state_file(&self) -> PathBuf {
        self.state.join("state.sqlite")
    }

    /// The sealed database of packets that the node keeps for others and for itself; it may be deleted while the node does not run.
    pub fn cache_file(&self) -> PathBuf {
        self.state.join("cache.sqlite")
    }

    /// Held locked while a node runs on this home.
    pub fn lock_file(&self) -> PathBuf {
        self.state.join("lock")
    }

    /// The socket on which a running node takes commands.
    pub fn control_socket(&self) -> PathBuf {
        self.state.join("control.sock")
    }

    /// Where databases go that have no path of their own.
    pub fn databases_dir(&self) -> PathBuf {
        self.data.join("databases")
    }

    /// Makes the folders that are missing, readable by their owner only.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(&self) -> io::Result<()> {
        for path in [&self.config, &self.data, &self.state, &self.databases_dir()] {
            create_private_dir(path)?;
        }
        Ok(())
    }
}

fn create_private_dir(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_made_for_their_owner_only() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("a/b"));
        home.create().unwrap();
        home.create().unwrap();
        assert!(home.databases_dir().is_dir());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(home.databases_dir()).unwrap().permissions().mode() & 0o777, 0o700);
            assert_eq!(fs::metadata(temp.path().join("a/b")).unwrap().permissions().mode() & 0o777, 0o700);
        }
    }
}
