//! Files that are there whole or not at all, whatever is cut short: the process, the write, the power.
//!
//! A file is written beside its place under a name of its own, synced, put in its place at once, and the folder synced. Who reads sees the old content or
//! the new. What a cut leaves beside it is ignored, and removed by the next change.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// What is about to be done; tests cut here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// The new file is made beside the old one.
    Make,
    /// Its content is written.
    Write,
    /// It is synced.
    Sync,
    /// It is put in its place.
    Publish,
    /// The folder is synced: from here on the new content is what a power cut leaves.
    SyncFolder,
}

/// Makes the file `path`, which must not be there, for its owner only.
///
/// - `tag`: random, so that two at a time do not meet
/// - `at`: told of each step; its error stands for one of the file system
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] if there is one, also if it was made at the same time: exactly one of several succeeds.
pub(crate) fn create(path: &Path, bytes: &[u8], tag: u32, at: &mut dyn FnMut(Step) -> io::Result<()>) -> io::Result<()> {
    if path.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    let beside = beside(path, tag);
    let made = write(&beside, bytes, at).and_then(|()| {
        at(Step::Publish)?;
        publish_new(&beside, path)
    });
    // Its content has its place, or serves nobody.
    let _ = fs::remove_file(&beside);
    made?;
    at(Step::SyncFolder)?;
    sync_folder(path)
}

/// Puts `bytes` in the place of the file `path`, which must still hold `expected`.
///
/// - returns: `false` if another program changed the file, or is about to; it is then as that program left it
///
/// # Errors
/// Those of the file system; the old file is then as it was.
pub(crate) fn replace(
    path: &Path,
    expected: &[u8],
    bytes: &[u8],
    tag: u32,
    at: &mut dyn FnMut(Step) -> io::Result<()>,
) -> io::Result<bool> {
    // A link stays one, and the file that it leads to is replaced.
    let path = &fs::canonicalize(path)?;
    let current = File::open(path)?;
    // Held until the new file is in its place. Who locks a file that is replaced meanwhile finds other content below.
    match current.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(false),
        // Without locks the last of two changes at a time stays, and no key is lost.
        Ok(()) | Err(TryLockError::Error(_)) => {}
    }
    if read(path, expected.len() + 1)? != expected {
        return Ok(false);
    }
    remove_leftovers(path);
    let beside = beside(path, tag);
    let replaced = write(&beside, bytes, at).and_then(|()| {
        at(Step::Publish)?;
        fs::rename(&beside, path)
    });
    if replaced.is_err() {
        let _ = fs::remove_file(&beside);
    }
    replaced?;
    at(Step::SyncFolder)?;
    sync_folder(path)?;
    Ok(true)
}

/// At most `limit` bytes of a file: something else than we look for may be endless.
pub(crate) fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn write(path: &Path, bytes: &[u8], at: &mut dyn FnMut(Step) -> io::Result<()>) -> io::Result<()> {
    at(Step::Make)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    at(Step::Write)?;
    file.write_all(bytes)?;
    at(Step::Sync)?;
    file.sync_all()
}

/// Gives a file its name, if nothing has it.
fn publish_new(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        // FAT and some others know no second name: the name is taken first, and the content moved there.
        Err(error) if !matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound | io::ErrorKind::StorageFull) => {
            OpenOptions::new().write(true).create_new(true).open(to)?;
            fs::rename(from, to)
        }
        result => result,
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    File::open(folder(path))?.sync_all()?;
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."))
}

/// The name of a new file beside its place: `NAME.XXXXXXXX.new`.
fn beside(path: &Path, tag: u32) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{tag:08x}.new"));
    path.with_file_name(name)
}

/// Removes what changes of `path` that were cut short left; only while the lock on `path` is held, so that nobody is still writing them.
fn remove_leftovers(path: &Path) {
    let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return };
    let Ok(entries) = fs::read_dir(folder(path)) else { return };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let tag = found.to_str().and_then(|found| found.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(".new"));
        if tag.is_some_and(|tag| tag.len() == 8 && tag.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::sync::Barrier;
    use tempfile::TempDir;

    pub(crate) const STEPS: [Step; 5] = [Step::Make, Step::Write, Step::Sync, Step::Publish, Step::SyncFolder];
    const OLD: &[u8] = b"the old content";
    const NEW: &[u8] = b"the new content, longer";

    pub(crate) fn no_cut(_: Step) -> io::Result<()> {
        Ok(())
    }

    fn files(folder: &Path) -> usize {
        fs::read_dir(folder).unwrap().count()
    }

    #[test]
    fn the_steps_are_taken_in_the_order_that_makes_a_write_whole() {
        let temp = TempDir::new().unwrap();
        let path = temp.path().join("file");
        for replaces in [false, true] {
            let mut taken = Vec::new();
            let mut at = |step| {
                taken.push(step);
                Ok(())
            };
            if replaces {
                assert!(replace(&path, OLD, NEW, 1, &mut at).unwrap());
            } else {
                create(&path, OLD, 1, &mut at).unwrap();
            }
            assert_eq!(taken, STEPS);
        }
        assert_eq!((fs::read(&path).unwrap(), files(temp.path())), (NEW.to_vec(), 1));
    }

    #[test]
    fn a_failure_at_any_step_leaves_the_old_content_or_the_new_and_nothing_beside() {
        for failing in STEPS {
            let temp = TempDir::new().unwrap();
            let path = temp.path().join("file");
            let mut fail = |step| if step == failing { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
            let error = create(&path, OLD, 1, &mut fail).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::StorageFull);
            assert_eq!(files(temp.path()), usize::from(failing == Step::SyncFolder), "{failing:?}");
            fs::write(&path, OLD).unwrap();
            replace(&path, OLD, NEW, 1, &mut fail).unwrap_err();
            let expected = if failing == Step::SyncFolder { NEW } else { OLD };
            assert_eq!((fs::read(&path).unwrap(), files(temp.path())), (expected.to_vec(), 1), "{failing:?}");
        }
    }

    /// Does nothing unless it is the process that [`a_process_killed_at_any_step_leaves_the_old_content_or_the_new`] started.
    #[test]
    fn child_that_is_killed() {
        let Some(job) = std::env::var_os("PEERS_TEST_REPLACE") else { return };
        let job = job.into_string().unwrap();
        let (step, path) = job.split_once(' ').unwrap();
        let step: usize = step.parse().unwrap();
        let path = Path::new(path);
        let mut kill = |at: Step| if STEPS[step % 5] == at { std::process::abort() } else { Ok(()) };
        if step < 5 {
            create(path, NEW, 7, &mut kill).unwrap();
        } else {
            replace(path, OLD, NEW, 7, &mut kill).unwrap();
        }
    }

    #[test]
    fn a_process_killed_at_any_step_leaves_the_old_content_or_the_new() {
        for (i, step) in STEPS.iter().chain(&STEPS).enumerate() {
            let temp = TempDir::new().unwrap();
            let path = temp.path().join("file");
            let creates = i < 5;
            if !creates {
                fs::write(&path, OLD).unwrap();
            }
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["replace::tests::child_that_is_killed", "--exact", "--nocapture"])
                .env("PEERS_TEST_REPLACE", format!("{i} {}", path.display()))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .unwrap();
            assert_eq!(status.code(), None, "{step:?}: the process was killed");
            let found = fs::read(&path).ok();
            let expected = match (step, creates) {
                (Step::SyncFolder, _) => Some(NEW),
                (_, true) => None,
                (_, false) => Some(OLD),
            };
            assert_eq!(found.as_deref(), expected, "{step:?}");
            // What is left beside hinders nobody, and goes with the next change.
            if found.is_none() {
                create(&path, OLD, 8, &mut no_cut).unwrap();
            }
            let before = fs::read(&path).unwrap();
            assert!(replace(&path, &before, b"third", 9, &mut no_cut).unwrap());
            assert_eq!((fs::read(&path).unwrap(), files(temp.path())), (b"third".to_vec(), 1), "{step:?}");
        }
    }

    #[test]
    fn of_many_that_create_or_replace_at_once_exactly_one_succeeds() {
        let temp = TempDir::new().unwrap();
        let path = temp.path().join("file");
        let at_once = |write: &(dyn Fn(u8) -> bool + Sync)| {
            let barrier = Barrier::new(8);
            std::thread::scope(|scope| {
                let writers: Vec<_> = (0..8u8)
                    .map(|i| {
                        let barrier = &barrier;
                        scope.spawn(move || {
                            barrier.wait();
                            write(i)
                        })
                    })
                    .collect();
                writers.into_iter().enumerate().filter_map(|(i, writer)| writer.join().unwrap().then_some(i)).collect::<Vec<_>>()
            })
        };
        for _ in 0..50 {
            let created = at_once(&|i| match create(&path, &[i; 100], i.into(), &mut no_cut) {
                Ok(()) => true,
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
                    false
                }
            });
            let content = fs::read(&path).unwrap();
            assert_eq!(created.len(), 1);
            assert_eq!(content, [u8::try_from(created[0]).unwrap(); 100]);
            let replaced = at_once(&|i| replace(&path, &content, &[100 + i; 100], i.into(), &mut no_cut).unwrap());
            assert_eq!(replaced.len(), 1);
            assert_eq!(fs::read(&path).unwrap(), [100 + u8::try_from(replaced[0]).unwrap(); 100]);
            assert_eq!(files(temp.path()), 1);
            fs::remove_file(&path).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_file_is_its_owners_alone_and_a_link_to_it_stays_one() {
        use std::os::unix::fs::PermissionsExt;
        let temp = TempDir::new().unwrap();
        let (stick, link) = (temp.path().join("stick"), temp.path().join("key"));
        fs::create_dir(&stick).unwrap();
        let path = stick.join("key");
        create(&path, OLD, 1, &mut no_cut).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(replace(&link, OLD, NEW, 1, &mut no_cut).unwrap());
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read(&path).unwrap(), NEW);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(create(&link, NEW, 2, &mut no_cut).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn only_leftovers_of_this_file_are_removed() {
        let temp = TempDir::new().unwrap();
        let path = temp.path().join("key");
        fs::write(&path, OLD).unwrap();
        let others = ["key.new", "key.0123456.new", "key.01234567.old", "key.0123456g.new", "keys.01234567.new", "x.key.01234567.new"];
        for name in others.iter().chain(&["key.01234567.new", "key.deadbeef.new"]) {
            fs::write(temp.path().join(name), b"").unwrap();
        }
        assert!(replace(&path, OLD, NEW, 1, &mut no_cut).unwrap());
        assert_eq!(files(temp.path()), 1 + others.len());
        assert!(others.iter().all(|name| temp.path().join(name).exists()));
    }
}
