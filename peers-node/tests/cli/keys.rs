//! `peers key`, and the sources of passphrases: a device exported is the same device when imported, no key is ever lost or replaced, no secret is shown.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit, setrlimit};

use crate::devices::code;
use crate::harness::{Disk, Home, Ran, database, until};

const FIRST: &[u8] = b"correct horse\n";
/// A user of the system that owns nothing.
const NOBODY: u32 = 65_534;
const UP: [&str; 4] = ["up", "--no-lan", "--listen", "127.0.0.1:0"];

/// A home with a key under the passphrase of [`FIRST`], and its id.
fn protected() -> (Home, String) {
    let home = Home::new();
    let ran = home.run_with(&["id", "--passphrase-fd", "0"], FIRST);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let id = ran.json["id"].as_str().unwrap().to_owned();
    (home, id)
}

/// A script, run by the shell with the command as `peers`: to open descriptors.
fn script(home: &Home, script: &str) -> Ran {
    home.shell(&script.replace("peers ", concat!("\"", env!("CARGO_BIN_EXE_peers"), "\" --json ")))
}

#[test]
fn an_exported_device_is_the_same_device_elsewhere_with_its_user_and_its_database_opens() {
    let (old, id) = protected();
    fs::write(old.file("pass"), FIRST).unwrap();
    let command = format!("cat {}", old.file("pass").display());
    let given = ["--passphrase-command", command.as_str()];
    let node = old.up("laptop", &["--no-lan", given[0], given[1]]);
    let sealed = old.file("notes.sqlite");
    old.ok(&["db", "track", sealed.to_str().unwrap()]);
    old.ok(&["db", "sql", "notes", "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT)"]);
    old.ok(&["db", "sql", "notes", "INSERT INTO note VALUES (1, 'one')"]);
    let user = old.ok(&["status"])["user"].clone();
    // While the node runs.
    let file = old.file("export.key");
    let out = file.to_str().unwrap();
    let ran = old
        .run_with(&["key", "export", "--out", out, "--passphrase-fd", "0", "--new-passphrase-fd", "0"], b"correct horse\nbattery staple\n");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!((&ran.json["id"], &ran.json["account"], &ran.json["passphrase"]), (&id.as_str().into(), &true.into(), &true.into()));
    assert!(ran.stderr.contains("in one place at a time"), "{}", ran.stderr);
    node.stop();

    let new = Home::new();
    new.run_with(&["key", "import", out, "--passphrase-fd", "0"], FIRST).fails(4, &["export.key", "passphrase"]);
    assert!(!new.path().exists(), "a wrong passphrase makes nothing");
    let imported = new.run_with(&["key", "import", out, "--passphrase-fd", "0"], b"battery staple\n");
    assert_eq!(imported.code, 0, "{}", imported.stderr);
    assert_eq!((&imported.json["key"], &imported.json["account"]), (&true.into(), &true.into()));
    let again = new.run_with(&["key", "import", out, "--passphrase-fd", "0"], b"battery staple\n");
    assert_eq!((again.code, &again.json["key"], &again.json["account"]), (0, &false.into(), &false.into()));
    fs::write(new.file("pass"), "battery staple\n").unwrap();
    let command = format!("cat {}", new.file("pass").display());
    let node = new.up("laptop", &["--no-lan", "--passphrase-command", &command]);
    let status = new.ok(&["status"]);
    assert_eq!((status["id"].as_str(), &status["user"]["id"]), (Some(id.as_str()), &user["id"]));
    // The sealed file of the old disk opens under the same storage key.
    fs::copy(&sealed, new.file("notes.sqlite")).unwrap();
    new.ok(&["db", "track", new.file("notes.sqlite").to_str().unwrap()]);
    let rows = new.ok(&["db", "sql", "notes", "SELECT text FROM note"]);
    assert_eq!(rows["rows"].to_string(), r#"[["one"]]"#);
    node.stop();
}

#[test]
fn an_import_never_replaces_another_identity() {
    let (one, id) = protected();
    let file = one.file("export.key");
    let out = file.to_str().unwrap();
    let ran = one.run_with(&["key", "export", "--out", out, "--passphrase-fd", "0", "--no-passphrase"], FIRST);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stderr.contains("no passphrase"));
    let other = Home::new();
    other.up_alone("phone").stop();
    let before = other.ok(&["id"]);
    other.run(&["key", "import", out]).fails(4, &["was not imported", "nothing was changed", "PEERS_HOME"]);
    assert_eq!(other.ok(&["id"]), before);
    // Also where only the state of the other is left.
    fs::remove_file(other.path().join("key")).unwrap();
    other.run(&["key", "import", out]).fails(4, &["state.sqlite", "belongs to another key file"]);
    assert!(!other.path().join("key").exists());
    // Into an empty home it works, and the key file can get a passphrase of its own at once.
    let new = Home::new();
    let imported = new.run_with(&["key", "import", out, "--new-passphrase-fd", "0"], b"third\n");
    assert_eq!((imported.code, imported.json["id"].as_str()), (0, Some(id.as_str())), "{}", imported.stderr);
    assert_eq!(new.run_with(&["id", "--passphrase-fd", "0"], b"third\n").json["id"], id.as_str());
    new.run(&["id"]).fails(2, &["passphrase"]);
}

#[test]
fn the_passphrase_changes_while_a_node_runs_and_while_none_does() {
    let (home, id) = protected();
    let open = |passphrase: &[u8]| home.run_with(&["id", "--passphrase-fd", "0"], passphrase);
    let change = |lines: &[u8]| home.run_with(&["key", "change-passphrase", "--passphrase-fd", "0", "--new-passphrase-fd", "0"], lines);
    change(b"wrong\nnew\n").fails(4, &["does not open with this passphrase"]);
    assert_eq!(change(b"correct horse\nsecond\n").code, 0);
    open(FIRST).fails(4, &["passphrase"]);
    assert_eq!(open(b"second\n").json["id"], id.as_str());
    let node = home.up("laptop", &["--no-lan", "--passphrase-command", "echo second"]);
    assert_eq!(change(b"second\nthird\n").code, 0);
    assert_eq!(home.ok(&["status"])["id"], id.as_str(), "the node goes on");
    node.stop();
    home.run(&[&UP[..], &["--passphrase-command", "echo second"]].concat()).fails(4, &["passphrase"]);
    home.up("laptop", &["--no-lan", "--passphrase-command", "echo third"]).stop();
    change(b"third\n\n").fails(2, &["empty passphrase", "--no-passphrase"]);
    change(b"third\n").fails(2, &["empty passphrase"]);
    assert_eq!(open(b"third\n").json["id"], id.as_str());
    let ran = home.run_with(&["key", "change-passphrase", "--no-passphrase", "--passphrase-fd", "0"], b"third\n");
    assert_eq!((ran.code, &ran.json["passphrase"]), (0, &false.into()));
    assert_eq!(home.ok(&["id"])["id"], id.as_str());
    open(b"third\n").fails(4, &["has no passphrase, but one was given"]);
    // None to begin with: only the new one is asked for.
    assert_eq!(home.run_with(&["key", "change-passphrase"], b"fourth\n").code, 0);
    assert_eq!(open(b"fourth\n").json["id"], id.as_str());
}

#[test]
fn show_tells_how_a_file_is_protected_without_a_passphrase() {
    let (home, id) = protected();
    let shown = home.ok(&["key", "show"]);
    assert_eq!((&shown["version"], &shown["passphrase"], &shown["weak"]), (&2.into(), &true.into(), &false.into()));
    assert_eq!((&shown["passes"], &shown["memory_kib"], &shown["account"]), (&3.into(), &65536.into(), &false.into()));
    let people = home.spawn(&["key", "show"], b"").end().1;
    assert!(people.contains("3 passes over 64.0 MiB") && !people.contains(&id[..8]), "{people}");
    let plain = Home::new();
    plain.run(&["key", "show"]).fails(1, &["there is no key file"]);
    plain.ok(&["id"]);
    assert_eq!(plain.ok(&["key", "show"])["passphrase"], false);
    let photo = plain.file("photo.jpg");
    fs::write(&photo, vec![0xab; 20_000]).unwrap();
    plain.run(&["key", "show", photo.to_str().unwrap()]).fails(1, &["photo.jpg", "is not a key file"]);
}

#[test]
fn an_export_overwrites_nothing_and_goes_to_standard_output_if_told_so() {
    let home = Home::new();
    let id = home.ok(&["id"])["id"].as_str().unwrap().to_owned();
    home.run(&["key", "export"]).fails(2, &["passphrase"]);
    let ran = home.run_with(&["key", "export"], b"horse\n");
    let path = format!("peers-{}.key", &id[..8]);
    assert_eq!((ran.code, ran.json["path"].as_str()), (0, Some(path.as_str())), "{}", ran.stderr);
    let written = fs::read(home.file(&path)).unwrap();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(home.file(&path)).unwrap().permissions()) & 0o777, 0o600);
    home.run_with(&["key", "export"], b"horse\n").fails(1, &[&path, "exists already"]);
    assert_eq!(fs::read(home.file(&path)).unwrap(), written);
    home.run_with(&["key", "export", "--out", "no/folder/x.key"], b"horse\n").fails(1, &["no/folder", "make its folder"]);
    home.run_with(&["key", "export", "--out", "-"], b"horse\n").fails(2, &["--out FILE"]);
    let ran = home.shell(concat!("echo horse | \"", env!("CARGO_BIN_EXE_peers"), "\" key export --out - > piped.key"));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(home.ok(&["key", "show", "piped.key"])["passphrase"], true);
    let new = Home::new();
    let imported = new.run_with(&["key", "import", home.file("piped.key").to_str().unwrap()], b"horse\n");
    assert_eq!(imported.json["id"], id.as_str(), "{}", imported.stderr);
    assert_eq!(imported.json["account"], false, "this device never ran");
}

#[test]
fn damaged_newer_and_foreign_files_are_named_and_change_nothing() {
    let home = Home::new();
    home.ok(&["id"]);
    let good = home.file("good.key");
    assert_eq!(home.run(&["key", "export", "--no-passphrase", "--out", good.to_str().unwrap()]).code, 0);
    let bytes = fs::read(&good).unwrap();
    let mut flipped = bytes.clone();
    flipped[70] ^= 1;
    let mut newer = [&b"peerskey\x09"[..], &[7; 300]].concat();
    newer.extend_from_slice(&peers_crypto::hash(&[&newer]));
    let new = Home::new();
    for (content, says) in [
        (&bytes[..100], "is truncated to 100 bytes"),
        (&flipped, "is damaged"),
        (&newer, "has version 9"),
        (b"", "is truncated to 0 bytes"),
        (b"SQLite format 3\0", "is not a key file"),
    ] {
        let file = home.file("bad.key");
        fs::write(&file, content).unwrap();
        new.run(&["key", "import", file.to_str().unwrap()]).fails(1, &["bad.key", says]);
        assert!(!new.path().exists());
        fs::write(home.path().join("key"), content).unwrap();
        for arguments in [
            &["key", "change-passphrase", "--no-passphrase"][..],
            &["key", "export", "--no-passphrase"],
            &["key", "import", good.to_str().unwrap()],
        ] {
            home.run(arguments).fails(1, &[home.path().join("key").to_str().unwrap(), says]);
            assert_eq!(fs::read(home.path().join("key")).unwrap(), *content);
        }
    }
    new.run(&["key", "import", "absent.key"]).fails(1, &["absent.key"]);
    new.run(&["key", "export", "--no-passphrase"]).fails(1, &["there is no key file"]);
}

#[test]
fn a_change_that_is_killed_at_any_byte_or_step_leaves_a_key_file_that_opens() {
    let (home, id) = protected();
    let key = home.path().join("key");
    let original = fs::read(&key).unwrap();
    let opens = |passphrase: &[u8]| home.run_with(&["id", "--passphrase-fd", "0"], passphrase).json["id"] == id.as_str();
    for bytes in [0, 1, 57, 100, original.len() as u64 - 1] {
        let mut child = home.start(&["key", "change-passphrase", "--passphrase-fd", "0", "--new-passphrase-fd", "0"]);
        // The kernel ends a process that writes beyond this: in the middle of the new file.
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        prlimit(Some(Pid::from_child(&child)), Resource::Fsize, limit).unwrap();
        child.stdin.take().unwrap().write_all(b"correct horse\nnew\n").unwrap();
        let status = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(Signal::XFSZ.as_raw()), "{bytes}: {status}");
        assert_eq!(fs::read(&key).unwrap(), original);
    }
    assert!(opens(FIRST));
    assert!(fs::read_dir(home.path()).unwrap().count() > 2, "the writes that were cut left something");
    assert_eq!(
        home.run_with(&["key", "change-passphrase", "--passphrase-fd", "0", "--new-passphrase-fd", "0"], b"correct horse\nnew\n").code,
        0
    );
    let left: Vec<_> = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.ends_with(".new")), "and the next change cleans it: {left:?}");
    assert!(opens(b"new\n"));
    killed_at_each_call(&home, &id);
}

/// The process is killed as it enters each system call that matters.
fn killed_at_each_call(home: &Home, id: &str) {
    let key = home.path().join("key");
    let original = fs::read(&key).unwrap();
    for call in ["fsync:signal=KILL:when=1", "?rename,?renameat,renameat2:signal=KILL:when=1", "fsync:signal=KILL:when=2"] {
        fs::write(&key, &original).unwrap();
        let inject = format!("inject={call}");
        let traced = Command::new("strace")
            .args([
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                "trace=fsync,?rename,?renameat,renameat2",
                "-e",
                &inject,
                env!("CARGO_BIN_EXE_peers"),
            ])
            .args(["key", "change-passphrase", "--passphrase-command", "echo new", "--new-passphrase-command", "echo newer"])
            .env("PEERS_HOME", home.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .output();
        let Ok(traced) = traced else {
            eprintln!("SKIPPED: there is no strace here, so the process is not killed at system calls");
            return;
        };
        if String::from_utf8_lossy(&traced.stderr).contains("ptrace") {
            eprintln!("SKIPPED: this system lets no process be traced");
            return;
        }
        assert!(!traced.status.success(), "{call}");
        let opens = |passphrase: &[u8]| home.run_with(&["id", "--passphrase-fd", "0"], passphrase).json["id"] == id;
        assert!(opens(b"new\n") != opens(b"newer\n"), "{call}: one of the two passphrases opens the file");
    }
}

#[test]
fn of_changes_at_the_same_time_one_wins_and_the_others_say_so() {
    let (home, id) = protected();
    let changes: Vec<_> = (0..4)
        .map(|i| {
            let mut child = home.start(&["--json", "key", "change-passphrase", "--passphrase-fd", "0", "--new-passphrase-fd", "0"]);
            child.stdin.take().unwrap().write_all(format!("correct horse\nnew {i}\n").as_bytes()).unwrap();
            child
        })
        .collect();
    let codes: Vec<_> = changes.into_iter().map(|child| child.wait_with_output().unwrap().status.code().unwrap()).collect();
    let winners: Vec<_> = (0..4).filter(|i| codes[*i] == 0).collect();
    assert_eq!(winners.len(), 1, "{codes:?}");
    let line = format!("new {}\n", winners[0]);
    assert_eq!(home.run_with(&["id", "--passphrase-fd", "0"], line.as_bytes()).json["id"], id.as_str());
    // The others were late: the file had changed, or did not open with the old passphrase any more.
    assert!(codes.iter().all(|code| [0, 1, 4].contains(code)), "{codes:?}");
}

#[test]
fn of_several_first_commands_at_the_same_time_all_name_the_same_device() {
    for _ in 0..5 {
        let home = Home::new();
        let commands: Vec<_> = (0..6).map(|_| home.start(&["id"])).collect();
        let ids: Vec<_> = commands.into_iter().map(|child| child.wait_with_output().unwrap().stdout).collect();
        assert!(!ids[0].is_empty() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
}

#[test]
fn a_full_or_read_only_folder_is_named_and_the_key_file_stays() {
    let (home, _) = protected();
    let key = fs::read(home.path().join("key")).unwrap();
    let Some(disk) = Disk::mount(&home.file("disk")) else {
        eprintln!("SKIPPED: no file system can be mounted here (needs root), so none can be filled");
        return;
    };
    fs::write(disk.path().join("key"), &key).unwrap();
    fs::create_dir(disk.path().join("databases")).unwrap();
    let change = |path: &Path| {
        home.run_at_with(path, &["key", "change-passphrase", "--passphrase-fd", "0", "--new-passphrase-fd", "0"], b"correct horse\nnew\n")
    };
    File::create(disk.path().join("filler")).unwrap().write_all(&vec![7; 64 << 20]).unwrap_err();
    change(disk.path()).fails(1, &[disk.path().join("key").to_str().unwrap(), "free space"]);
    assert_eq!(fs::read(disk.path().join("key")).unwrap(), key);
    let export = disk.path().join("export.key");
    home.run_with(&["key", "export", "--out", export.to_str().unwrap(), "--passphrase-fd", "0", "--no-passphrase"], FIRST)
        .fails(1, &["export.key", "free space"]);
    assert!(!export.exists());
    fs::remove_file(disk.path().join("filler")).unwrap();
    assert_eq!(fs::read_dir(disk.path()).unwrap().count(), 2, "nothing is left beside it");
    disk.read_only();
    change(disk.path()).fails(1, &[disk.path().join("key").to_str().unwrap(), "writable"]);
    assert_eq!(fs::read(disk.path().join("key")).unwrap(), key);
    let opened = home.run_at_with(disk.path(), &["id", "--passphrase-fd", "0"], FIRST);
    assert_eq!(opened.code, 0, "a key file that cannot be written can be read: {}", opened.stderr);
}

#[test]
fn passphrases_come_from_descriptors_and_commands_and_never_from_the_environment() {
    let (home, id) = protected();
    fs::write(home.file("pass"), "correct horse\nsecond\n").unwrap();
    let ran = script(&home, "peers id --passphrase-fd 3 3<pass");
    assert_eq!((ran.code, ran.json["id"].as_str()), (0, Some(id.as_str())), "{}", ran.stderr);
    // Two lines of one file, two files, and a pipe.
    assert_eq!(script(&home, "peers key change-passphrase --passphrase-fd 3 --new-passphrase-fd 3 3<pass").code, 0);
    assert_eq!(script(&home, "echo second | peers id --passphrase-fd 7 7<&0").code, 0);
    fs::write(home.file("third"), "third").unwrap();
    let ran = script(&home, "tail -n 1 pass | peers key change-passphrase --passphrase-fd 0 --new-passphrase-fd 4 4<third");
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(script(&home, "peers id --passphrase-command 'cat third'").code, 0);
    home.run(&["id", "--passphrase-command", "exit 7"]).fails(1, &["`exit 7`", "exit status: 7", "by hand"]);
    home.run(&["id", "--passphrase-command", "true"]).fails(1, &["printed nothing"]);
    home.run(&["id", "--passphrase-command", "echo x", "--passphrase-fd", "3"]).fails(2, &["cannot be used with"]);
    home.run_with(&["id", "--passphrase-fd", "0"], &[b'x'; 2000]).fails(2, &["at most 1024 bytes"]);
    for name in ["PEERS_PASSPHRASE", "PASSPHRASE", "PEERS_PASSPHRASE_COMMAND"] {
        let ran = script(&home, &format!("{name}=third peers id </dev/null"));
        ran.fails(2, &["passphrase", "missing"]);
    }
}

#[test]
fn the_stores_of_this_system_give_the_passphrase() {
    let (home, id) = protected();
    // What the service manager keeps sealed under the key of this machine, or of its security chip.
    let stored = home.shell("printf 'correct horse' | systemd-creds encrypt --with-key=host --name=key - key.cred 2>&1");
    if stored.code == 0 {
        let ran = script(&home, "peers id --passphrase-command 'systemd-creds decrypt --name=key key.cred -'");
        assert_eq!((ran.code, ran.json["id"].as_str()), (0, Some(id.as_str())), "{}", ran.stderr);
    } else {
        eprintln!("SKIPPED: systemd-creds keeps nothing here: {}", stored.stdout.trim());
    }
    // A program that is not there is told, and no prompt appears in its place.
    home.run(&["id", "--passphrase-command", "no-such-secret-tool lookup app peers"])
        .fails(1, &["no-such-secret-tool", "exit status: 127"]);
}

#[test]
fn at_a_terminal_passphrases_are_asked_for_twice_and_not_shown() {
    let (home, id) = protected();
    if home.shell("script -qec true /dev/null </dev/null").code != 0 {
        eprintln!("SKIPPED: there is no `script` here to make a terminal");
        return;
    }
    const OLD: &str = "Passphrase of the key file: ";
    const NEW: &str = "New passphrase for the key file: ";
    let shown = typed(&home, "id", &[(OLD, "wronx\x7fg\x15correct horse\r")]);
    assert!(shown.contains(&id) && !shown.contains("horse"), "{shown}");
    let shown = typed(&home, "key change-passphrase", &[(OLD, "correct horse\r"), (NEW, "second\r"), ("Once more: ", "other\r")]);
    assert!(shown.contains("differ"), "{shown}");
    let shown = typed(&home, "key change-passphrase", &[(OLD, "correct horse\r"), (NEW, "second\r"), ("Once more: ", "second\r")]);
    assert!(shown.contains("has a new passphrase") && !shown.contains("second"), "{shown}");
    let shown = typed(&home, "id; stty -a", &[(OLD, "sec\x03")]);
    assert!(shown.contains("interrupted") && !shown.contains("-echo "), "the terminal shows again what is typed: {shown}");
    assert_eq!(home.run_with(&["id", "--passphrase-fd", "0"], b"second\n").json["id"], id.as_str());
}

/// Runs a command at a terminal of its own; types each text when its prompt is there. What the terminal showed.
fn typed(home: &Home, command: &str, keys: &[(&str, &str)]) -> String {
    let mut child = Command::new("script")
        .args(["-qec", &format!("'{}' {command}", env!("CARGO_BIN_EXE_peers")), "/dev/null"])
        .env("PEERS_HOME", home.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut shown = Vec::new();
    for (prompt, text) in keys {
        while !shown.windows(prompt.len()).any(|window| window == prompt.as_bytes()) {
            let mut byte = [0];
            assert!(screen.read(&mut byte).unwrap() > 0, "{prompt:?} was never shown: {}", String::from_utf8_lossy(&shown));
            shown.push(byte[0]);
        }
        keyboard.write_all(text.as_bytes()).unwrap();
    }
    screen.read_to_end(&mut shown).unwrap();
    child.wait().unwrap();
    String::from_utf8_lossy(&shown).into_owned()
}

#[test]
fn a_node_with_open_keys_is_closed_to_other_programs_and_writes_no_core() {
    let home = Home::new();
    if let Some(node) = home.up_alone_as(NOBODY) {
        // The kernel gives what shows a process from within to root, and so to none of its user, where it may not be traced.
        let owner = std::os::unix::fs::MetadataExt::uid(&fs::metadata(format!("/proc/{}/fd", node.id())).unwrap());
        assert_eq!(owner, 0);
        node.stop();
    } else {
        eprintln!("SKIPPED: no node can be run as another user here (needs root)");
    }
    let allowed = getrlimit(Resource::Core).maximum;
    if allowed == Some(0) {
        eprintln!("SKIPPED: nothing writes a core file here");
        return;
    }
    setrlimit(Resource::Core, Rlimit { current: allowed, maximum: allowed }).unwrap();
    let home = Home::new();
    let node = home.up_alone("laptop");
    let limits = fs::read_to_string(format!("/proc/{}/limits", node.id())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    node.stop();
}

#[test]
fn a_database_sealed_before_an_export_opens_after_its_import_in_the_same_place() {
    // The key file is lost, everything else is there.
    let home = Home::new();
    let node = home.up_alone("laptop");
    let file = home.file("notes.sqlite");
    home.ok(&["db", "track", file.to_str().unwrap()]);
    home.ok(&["db", "sql", "notes", "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT)"]);
    home.ok(&["db", "sql", "notes", "INSERT INTO note VALUES (1, 'one')"]);
    let user = home.ok(&["status"])["user"].clone();
    assert_eq!(home.run_with(&["key", "export", "--out", "x.key"], b"horse\n").code, 0);
    node.stop();
    fs::remove_file(home.path().join("key")).unwrap();
    let imported = home.run_with(&["key", "import", "x.key"], b"horse\n");
    assert_eq!((imported.code, &imported.json["key"], &imported.json["account"]), (0, &true.into(), &false.into()), "{}", imported.stderr);
    let node = home.up("laptop", &["--no-lan", "--passphrase-command", "echo horse"]);
    assert_eq!(home.ok(&["status"])["user"], user);
    assert_eq!(home.ok(&["db", "sql", "notes", "SELECT text FROM note"])["rows"].to_string(), r#"[["one"]]"#);
    assert!(!fs::read(&file).unwrap().starts_with(b"SQLite format 3"), "the database is sealed");
    node.stop();
}

#[test]
fn a_device_that_runs_here_and_there_in_turn_is_one_device_and_loses_no_row() {
    let (laptop, phone) = (Home::new(), Home::new());
    let (first, second) = (laptop.up_alone("laptop"), phone.up_beside("phone", &laptop));
    let mut invite = laptop.spawn(&["invite"], b"");
    let code = code(&mut invite);
    assert_eq!(phone.run_with(&["accept"], format!("{code}\n").as_bytes()).code, 0);
    assert_eq!(invite.end().0, 0);
    let rows = |home: &Home| home.run(&["db", "sql", "notes", "SELECT text FROM note ORDER BY id"]).json["rows"].to_string();
    let write = |home: &Home, id: u8, text: &str| {
        home.ok(&["db", "sql", "notes", &format!("INSERT INTO note VALUES ({id}, '{text}')")]);
    };
    let track = |home: &Home| home.ok(&["db", "track", home.file("notes.sqlite").to_str().unwrap()]);
    database(&laptop.file("notes.sqlite"), "CREATE TABLE note(id INTEGER PRIMARY KEY, text TEXT)");
    track(&laptop);
    write(&laptop, 1, "here");
    until("the phone hears of the database", || phone.ok(&["db", "status"])["databases"][0]["name"] == "notes");
    track(&phone);
    until("the phone has the row", || rows(&phone) == r#"[["here"]]"#);
    assert_eq!(laptop.run(&["key", "export", "--out", "x.key", "--no-passphrase"]).code, 0);
    let (id, user) = (laptop.ok(&["id"])["id"].clone(), laptop.ok(&["status"])["user"]["id"].clone());
    first.stop();

    // There, from the export alone: everything else comes from the phone.
    let there = Home::new();
    assert_eq!(there.run(&["key", "import", laptop.file("x.key").to_str().unwrap()]).code, 0);
    let third = there.up_beside("laptop", &phone);
    let status = there.ok(&["status"]);
    assert_eq!((&status["id"], &status["user"]["id"], status["user"]["devices"].as_array().unwrap().len()), (&id, &user, 2));
    track(&there);
    until("the rows are there", || rows(&there) == r#"[["here"]]"#);
    write(&there, 2, "there");
    until("the phone has both rows", || rows(&phone) == r#"[["here"],["there"]]"#);
    third.stop();

    // And here again, where nothing is known of what was written there.
    let first = laptop.up_beside("laptop", &phone);
    write(&laptop, 3, "here again");
    let all = r#"[["here"],["there"],["here again"]]"#;
    until("both have all rows", || rows(&laptop) == all && rows(&phone) == all);
    assert_eq!(phone.ok(&["status"])["user"]["devices"].as_array().unwrap().len(), 2);
    first.stop();
    second.stop();
}
