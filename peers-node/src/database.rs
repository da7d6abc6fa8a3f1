//! A database's own thread: SQLite may block, packets may not.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use peers_sync::{Changes, Replica};
use peers_wire::{PeerId, Timestamp};
use tokio::sync::mpsc;

use crate::account::DatabaseId;
use crate::clock::Clock;
use crate::message::{Letter, LetterId};
use crate::stack::DatabaseInput;

/// What the threads beside the driver tell it.
#[derive(Debug)]
pub(crate) enum Output {
    /// From the thread of a database.
    Database(DatabaseId, DatabaseOutput),
    /// A letter is on disk.
    MailStored { from: PeerId, letter: LetterId },
    /// A letter of the outbox for a peer that has come.
    SendAgain { to: PeerId, letter: Letter },
}

/// What the thread of a database tells the driver.
#[derive(Debug)]
pub(crate) enum DatabaseOutput {
    /// For another device.
    Message { to: PeerId, message: Bytes },
    /// New local changes, for the relay cache.
    Publish(Bytes),
    /// A table changed.
    Changed { table: String, author: PeerId },
    /// Equal with another device.
    InStep(PeerId),
    /// The thread has ended.
    Closed,
}

type Call = Box<dyn FnOnce(&mut Replica, Timestamp) + Send>;

enum Input {
    Stack(DatabaseInput),
    Call(Call),
}

/// Handle to the thread that owns the replica of one database.
pub(crate) struct DatabaseThread {
    inputs: SyncSender<Input>,
    thread: JoinHandle<()>,
    path: PathBuf,
    pub(crate) sealed: bool,
    trouble: Arc<Mutex<Option<String>>>,
}

impl DatabaseThread {
    /// Runs `replica`, the file at `path`, until closed.
    pub(crate) fn start(
        id: DatabaseId,
        path: PathBuf,
        sealed: bool,
        replica: Replica,
        clock: Arc<Clock>,
        outputs: mpsc::Sender<Output>,
    ) -> std::io::Result<Self> {
        let (inputs, queue) = sync_channel(MAX_INPUTS);
        let trouble = Arc::new(Mutex::new(None));
        let worker = Worker { id, replica, clock, outputs, trouble: Arc::clone(&trouble) };
        let thread = std::thread::Builder::new().name("peers-database".into()).spawn(move || worker.run(&queue))?;
        Ok(Self { inputs, thread, path, sealed, trouble })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }

    /// Gives the replica an input. Where the thread is far behind, a message is dropped: the conversation asks again.
    pub(crate) fn input(&self, input: DatabaseInput) {
        if let Err(TrySendError::Full(_)) = self.inputs.try_send(Input::Stack(input)) {
            tracing::warn!("{}: the disk is behind, a message of another device is dropped", self.path.display());
        }
    }

    /// Runs `call` on the replica.
    pub(crate) fn call(&self, call: Call) {
        // Without room the call is dropped, and whoever waits for its answer is told that the node is busy.
        let _ = self.inputs.try_send(Input::Call(call));
    }

    /// Lets the thread end after what is queued; it says [`DatabaseOutput::Closed`] when it has.
    pub(crate) fn close(self) -> JoinHandle<()> {
        self.thread
    }
}

struct Worker {
    id: DatabaseId,
    replica: Replica,
    clock: Arc<Clock>,
    outputs: mpsc::Sender<Output>,
    trouble: Arc<Mutex<Option<String>>>,
}

impl Worker {
    fn run(mut self, queue: &Receiver<Input>) {
        loop {
            self.drain();
            let (now, _) = self.clock.now();
            let wait = self.replica.poll_timeout().map_or(POLL_INTERVAL, |at| at.saturating_duration_since(now).min(POLL_INTERVAL));
            let input = queue.recv_timeout(wait);
            let (now, wall) = self.clock.now();
            match input {
                Ok(Input::Stack(input)) => self.on_input(input),
                Ok(Input::Call(call)) => call(&mut self.replica, wall),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    self.refresh(wall);
                    self.drain();
                    return;
                }
            }
            self.replica.handle_timeout(now);
            self.refresh(wall);
        }
    }

    fn on_input(&mut self, input: DatabaseInput) {
        let (now, wall) = self.clock.now();
        match input {
            DatabaseInput::PeerConnected(peer) => self.replica.peer_connected(now, peer),
            DatabaseInput::PeerDisconnected(peer) => self.replica.peer_disconnected(now, peer),
            DatabaseInput::Message { from, message } => self.replica.handle_message(now, wall, from, message),
            DatabaseInput::Changes { from, changes } => self.on_changes(wall, from, changes),
        }
    }

    /// Changes from the relay cache; what cannot be applied comes again when the devices meet.
    fn on_changes(&mut self, wall: Timestamp, from: PeerId, changes: Bytes) {
        let applied = Changes::decode(changes)
            .map_err(|error| error.to_string())
            .and_then(|changes| self.replica.apply(wall, &changes).map_err(|error| error.to_string()));
        if let Err(error) = applied {
            tracing::warn!("database {}: changes published by {from} are not applied: {error}", self.id);
        }
    }

    /// Stamps what programs wrote since the last look; next to nothing where there is nothing.
    fn refresh(&mut self, wall: Timestamp) {
        let trouble = self.replica.refresh(wall).err().map(|error| error.to_string());
        let mut shown = self.trouble.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(text) = &trouble
            && shown.as_ref() != Some(text)
        {
            tracing::warn!("database {}: {text}", self.id);
        }
        *shown = trouble;
    }

    fn drain(&mut self) {
        while let Some((to, message)) = self.replica.poll_message() {
            self.say(DatabaseOutput::Message { to, message });
        }
        while let Some(event) = self.replica.poll_event() {
            match event {
                peers_sync::Event::Changed(change) => self.say(DatabaseOutput::Changed { table: change.table, author: change.author }),
                peers_sync::Event::Local(changes) => self.say(DatabaseOutput::Publish(changes.as_bytes().clone())),
                peers_sync::Event::InStep { peer } => self.say(DatabaseOutput::InStep(peer)),
                peers_sync::Event::ClockAhead { author, time } => {
                    tracing::warn!(
                        "database {}: a change of {author} is from the future ({} ms); it waits: one of the two clocks is wrong",
                        self.id,
                        time.0
                    );
                }
                peers_sync::Event::Failed { peer, error } => {
                    tracing::warn!("database {}: changes of {peer} are not applied: {error}", self.id)
                }
                peers_sync::Event::Restored => {
                    tracing::warn!("database {}: the file is a restored backup; it goes on under a new history", self.id)
                }
                _ => {}
            }
        }
    }

    fn say(&self, output: DatabaseOutput) {
        // This thread may wait for the driver; the driver never waits for this thread.
        let _ = self.outputs.blocking_send(Output::Database(self.id, output));
    }
}

/// However the thread ends, a panic included: whoever closes the node waits for this.
impl Drop for Worker {
    fn drop(&mut self) {
        self.say(DatabaseOutput::Closed);
    }
}

const MAX_INPUTS: usize = 1024;
/// How often the file is looked at for writes of other programs.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
