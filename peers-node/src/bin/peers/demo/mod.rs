//! The demo: three peers in separate processes of this program show and check what Peers does.

mod burst;
mod compare;
mod database;
mod edits;
mod peer;
mod report;
mod scan;
mod story;

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use rand::TryRng;
use rand::rngs::SysRng;
use rusqlite::backup::Backup;

use crate::args;
use crate::failure::Failure;
use crate::output::{Output, note};
use report::{Report, Summary};
use story::Story;

/// Runs the demo; the failure is that a check did not hold.
pub(crate) async fn run(arguments: &args::Demo, output: Output) -> Result<Summary, Failure> {
    let folder = tempfile::Builder::new().prefix("peers-demo-").tempdir().map_err(|error| {
        Failure::failed(format!("no folder can be made in {}: {error}", std::env::temp_dir().display()))
            .hint("set TMPDIR to a folder with 200 MiB of room")
    })?;
    let file = folder.path().join("laptop").join("shop.sqlite");
    prepare(&file, arguments.db.as_deref())?;
    let mark = SysRng.try_next_u64().map_err(|error| Failure::failed(format!("the system gives no random numbers: {error}")))?;
    let mut story = Story::new(folder.path(), file, format!("{mark:016x}"))?;
    let mut report = Report::new(output);
    let told = tokio::select! {
        result = story.run(&mut report) => result,
        () = crate::signal::interrupted() => Err(anyhow!("interrupted")),
    };
    if told.is_err() {
        note(story.last_words());
    }
    let summary = report.finish(3, story.rows, told.as_ref().err());
    // The processes end before their folders go.
    drop(story);
    if let Err(error) = folder.close() {
        note(format!("peers: the demo's folder could not be removed: {error}"));
    }
    Ok(summary)
}

/// The laptop's database: a copy of `original`, else one made for the demo.
fn prepare(file: &Path, original: Option<&Path>) -> Result<()> {
    std::fs::create_dir_all(file.parent().context("the file has no folder")?)?;
    let Some(original) = original else { return database::make(file, 1) };
    // SQLite's own copy: right even while another program writes to it.
    let source = compare::read_only(original)?;
    source
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get::<_, i64>(0))
        .with_context(|| format!("{} is no SQLite database that can be read: give a plain one", original.display()))?;
    let mut copy = rusqlite::Connection::open(file)?;
    let backup = Backup::new(&source, &mut copy)?;
    backup.run_to_completion(1000, core::time::Duration::ZERO, None).with_context(|| format!("{} cannot be copied", original.display()))
}
