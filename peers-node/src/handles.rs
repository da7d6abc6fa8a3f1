//! What [`Node`] hands out: topics, what was sent, invitations, databases.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use peers_crypto::{GroupId, Ticket, TopicKey};
use peers_sync::Replica;
use peers_wire::{Link, Packet, PacketId, PeerId, Timestamp, TopicId};
use rand::RngExt;
use rusqlite::{Connection, params};
use thiserror::Error;
use tokio::sync::{broadcast, oneshot, watch};
use zeroize::Zeroizing;

use crate::account::DatabaseId;
use crate::database::DatabaseThread;
use crate::driver::LetterState;
use crate::groups::GroupPublishError;
use crate::message::LetterId;
use crate::node::{Closed, LinkError, Node, PublishError, SavedDatabase};
use crate::stack;
use crate::types::{DatabaseStatus, DeviceSync, Linked, Matched, Message, NodeEvent, TableStatus};

/// A topic that is followed.
#[derive(Debug, Clone)]
pub struct Topic {
    pub(crate) node: Node,
    pub(crate) id: TopicId,
    pub(crate) label: String,
    pub(crate) source: TopicSource,
}

/// Whose key a topic is sealed under.
#[derive(Debug, Clone)]
pub(crate) enum TopicSource {
    /// Its own.
    Key(TopicKey),
    /// That of the user's present epoch, and the topic's label.
    User,
    /// That of a group's present epoch.
    Group(GroupId),
}

impl Topic {
    /// The topic.
    pub fn id(&self) -> TopicId {
        self.id
    }

    /// Its name on this device.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Publishes a message; returns once it is queued: on disk here, and on its way to the peers that are connected.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(&self, body: impl Into<Bytes>) -> Result<Publication, PublishError> {
        let (topic, source, label, body) = (self.id, self.source.clone(), self.label.clone(), body.into());
        let size = body.len();
        let (sender, queued) = oneshot::channel();
        let (kept_sender, kept) = oneshot::channel();
        let (holders_sender, holders) = watch::channel(0);
        let published = self.node.call(move |driver, now, wall| {
            let id = match source {
                TopicSource::Key(key) => driver.stack.publish(now, wall, &key, &body)?,
                TopicSource::User => driver.stack.publish_to_label(now, wall, &label, &body)?,
                TopicSource::Group(group) => driver.stack.publish_to_group(now, wall, group, &body)?,
            };
            driver.publications.retain(|_, watched| !watched.is_closed());
            driver.publications.insert(id, holders_sender);
            driver.drain(now, wall);
            driver.packets.sync(now, kept_sender);
            let previous = driver.stack.cache().get(&id).and_then(Packet::previous).unwrap_or(Link::NONE);
            let message = stack::TopicMessage { topic, id, author: driver.stack.id(), created: wall, previous, payload: body };
            driver.store_message(message, |stored| drop(sender.send(stored)));
            Ok(id)
        });
        let id = published.await?.map_err(|error: GroupPublishError| match error {
            GroupPublishError::Group(error) => PublishError::Group(error),
            GroupPublishError::Seal(_) => PublishError::TooLarge { size, max: peers_wire::MAX_MESSAGE },
        })?;
        let stored = queued.await;
        // Whether or not the cache can be written: the history is. If that is not, the cache has given way by now.
        let _ = kept.await;
        stored.map_err(|_| Closed)?.map_err(PublishError::State)?;
        Ok(Publication { node: self.node.clone(), id, holders })
    }

    /// The messages that arrive from now on, own ones too.
    pub fn subscribe(&self) -> Messages {
        Messages { topic: self.id, receiver: self.node.shared.events.subscribe() }
    }

    /// Has the messages of this topic come each after the one it links to, from now on and until the node is closed; see [`Stack::order`](crate::Stack::order).
    /// Those of the user's own topics and of groups come in the order of their arrival all the same.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn in_order(&self) -> Result<(), Closed> {
        let topic = self.id;
        self.node.call(move |driver, _, _| driver.stack.order(topic)).await
    }

    /// The last `limit` messages that are kept here, in the order they arrived.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn history(&self, limit: usize) -> Result<Vec<Message>, Closed> {
        let topic = self.id;
        let rows = self.node.shared.store.run(move |c| load_history(c, topic, limit)).await.map_err(|_| Closed)?;
        self.node
            .call(move |driver, _, _| {
                rows.into_iter().map(|message| Message { author_name: driver.name_in(topic, message.author), ..message }).collect()
            })
            .await
    }

    /// Ends following the topic; its history stays. That of a group is followed as long as this device is in the group.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn leave(self) -> Result<(), Closed> {
        let id = self.id;
        let _ = self.node.shared.store.run(move |c| c.execute("DELETE FROM topic WHERE id = ?1", [id.0])).await;
        self.node
            .call(move |driver, now, wall| {
                if let Some((label, None)) = driver.labels.remove(&id) {
                    driver.stack.unsubscribe_label(now, wall, &label);
                }
                driver.stack.unsubscribe(now, wall, id);
            })
            .await
    }
}

fn load_history(c: &Connection, topic: TopicId, limit: usize) -> rusqlite::Result<Vec<Message>> {
    let mut statement = c.prepare(
        "SELECT * FROM (SELECT position, id, author, created, previous, payload FROM message WHERE topic = ?1 ORDER BY position DESC LIMIT ?2) ORDER BY position",
    )?;
    let rows = statement.query_map(params![topic.0, i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        Ok(Message {
            topic,
            id: PacketId(row.get(1)?),
            author: PeerId(row.get(2)?),
            author_name: None,
            created: Timestamp(row.get::<_, i64>(3)?.cast_unsigned()),
            previous: Some(Link(row.get(4)?)).filter(|link| *link != Link::NONE),
            payload: row.get::<_, Vec<u8>>(5)?.into(),
        })
    })?;
    rows.collect()
}

/// The messages of a topic as they arrive.
#[derive(Debug)]
pub struct Messages {
    topic: TopicId,
    receiver: broadcast::Receiver<NodeEvent>,
}

impl Messages {
    /// The next message; none when the node is closed. A reader that is too slow misses messages here; [`Topic::history`] has them.
    pub async fn next(&mut self) -> Option<Message> {
        loop {
            match self.receiver.recv().await {
                Ok(NodeEvent::Message(message)) if message.topic == self.topic => return Some(message),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// A message that was published.
#[derive(Debug)]
pub struct Publication {
    node: Node,
    id: PacketId,
    holders: watch::Receiver<u32>,
}

impl Publication {
    /// Its packet; the head, where it has fragments.
    pub fn id(&self) -> PacketId {
        self.id
    }

    /// How many other peers signed that they hold it and have failed no check since; those of one address prefix count once.
    pub fn holders(&self) -> u32 {
        *self.holders.borrow()
    }

    /// Waits until `copies` other peers hold it, and gives how many do; at most 32 are counted.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn stored(&mut self, copies: u32) -> Result<u32, Closed> {
        let id = self.id;
        self.node.call(move |driver, now, wall| driver.stack.watch(now, wall, id, copies)).await?;
        self.holders.wait_for(|holders| *holders >= copies).await.map(|holders| *holders).map_err(|_| Closed)
    }
}

/// A letter that was sent.
#[derive(Debug)]
pub struct Sending {
    pub(crate) node: Node,
    pub(crate) id: LetterId,
    pub(crate) state: watch::Receiver<LetterState>,
}

impl Sending {
    /// Its id, in hexadecimal.
    pub fn id(&self) -> String {
        self.id.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// What became of it, as far as is known.
    pub fn state(&mut self) -> LetterState {
        *self.state.borrow_and_update()
    }

    /// Waits until more is known of it, and gives that.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn changed(&mut self) -> Result<LetterState, Closed> {
        self.state.changed().await.map_err(|_| Closed)?;
        Ok(self.state())
    }

    /// Wants to know when `copies` other peers hold it, beyond the three or so that are asked anyway; at most 32 are counted.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn want(&self, copies: u32) -> Result<(), Closed> {
        let id = self.id;
        self.node.call(move |driver, now, wall| driver.stack.watch_letter(now, wall, id, copies)).await
    }

    /// Waits until `copies` other peers hold it, the recipient has it, or it has expired.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn stored(&mut self, copies: u32) -> Result<LetterState, Closed> {
        loop {
            match self.state() {
                LetterState::Queued => {}
                LetterState::Stored(holders) if holders < copies => self.want(copies).await?,
                state => return Ok(state),
            }
            self.changed().await?;
        }
    }

    /// Waits until the recipient has stored it, or it has expired.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn delivered(&mut self) -> Result<LetterState, Closed> {
        let last = |state: &LetterState| matches!(state, LetterState::Delivered | LetterState::Expired);
        self.state.wait_for(last).await.map(|state| *state).map_err(|_| Closed)
    }
}

/// An invitation to link another device; it ends when this is dropped.
#[derive(Debug)]
pub struct Invitation {
    pub(crate) ticket: Ticket,
    pub(crate) under_way: Acceptance,
}

impl Invitation {
    /// What to give to the other device: four words to type, or a link; good for one guess and ten minutes.
    pub const fn ticket(&self) -> &Ticket {
        &self.ticket
    }

    /// As [`Acceptance::matched`].
    pub async fn matched(&mut self) -> Option<Matched> {
        self.under_way.matched().await
    }

    /// As [`Acceptance::confirm`].
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn confirm(&self, same: bool) -> Result<(), LinkError> {
        self.under_way.confirm(same).await
    }

    /// As [`Acceptance::wait`].
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn wait(self) -> Result<Linked, LinkError> {
        self.under_way.wait().await
    }
}

/// A linking under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Acceptance {
    pub(crate) node: Node,
    pub(crate) matched: Option<oneshot::Receiver<Matched>>,
    pub(crate) outcome: oneshot::Receiver<Result<Linked, LinkError>>,
}

impl Acceptance {
    /// Waits for a device at the other end that has the same code: what to show, once. `None` if it ended before; [`Acceptance::wait`] says why.
    pub async fn matched(&mut self) -> Option<Matched> {
        let found = self.matched.as_mut()?.await.ok();
        self.matched = None;
        found
    }

    /// Goes on if a person found the `same` words on both devices, else ends it; only where [`LinkOptions::confirm`](crate::LinkOptions) asks for it.
    ///
    /// # Errors
    /// [`LinkError`] if it has ended.
    pub async fn confirm(&self, same: bool) -> Result<(), LinkError> {
        self.node.confirm_linking(same).await
    }

    /// Waits until the devices are linked, or it ends.
    ///
    /// # Errors
    /// [`LinkError`].
    pub async fn wait(self) -> Result<Linked, LinkError> {
        self.outcome.await.unwrap_or(Err(LinkError::Closed(Closed)))
    }
}

/// How to open a database.
#[derive(Debug, Clone, Default)]
pub struct DatabaseOptions {
    /// Its name among the user's databases; none: the file's, without its ending.
    pub name: Option<String>,
    /// Leave a file that does not exist yet unencrypted, for other programs to open.
    pub plain: bool,
}

/// Why a database cannot be used.
#[derive(Debug, Error)]
pub enum DatabaseError {
    /// The file does not open as a replica.
    #[error(transparent)]
    Open(#[from] peers_sync::OpenError),
    /// A table cannot be tracked.
    #[error(transparent)]
    Track(#[from] peers_sync::TrackError),
    /// The replica cannot read or write its file.
    #[error(transparent)]
    Store(#[from] peers_sync::StoreError),
    /// SQLite refused.
    #[error("{path}: {source}")]
    Sqlite {
        /// The file.
        path: String,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// What is tracked could not be stored on this device.
    #[error(transparent)]
    State(crate::store::StoreError),
    /// The path has no name to call the database by, or is taken by another database.
    #[error("{0}")]
    Refused(String),
    /// Its thread is busy with too much.
    #[error("the database is busy with a long operation: try again in a while")]
    Busy,
    /// The node is closed.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// A database that is kept in step with the user's other devices: an ordinary SQLite file.
#[derive(Debug, Clone)]
pub struct Database {
    node: Node,
    id: DatabaseId,
    name: String,
    path: PathBuf,
    sealed: bool,
}

impl Node {
    /// Opens the database file at `path` and keeps it in step: joins the user's database of that name, or makes a new one. Remembered across restarts.
    ///
    /// An existing file is used as it is; a file that does not exist is made, encrypted under this device's storage key unless `plain`.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn database(&self, path: &Path, options: DatabaseOptions) -> Result<Database, DatabaseError> {
        let path = std::path::absolute(path).map_err(|error| DatabaseError::Refused(format!("{}: {error}", path.display())))?;
        let name = options.name.or_else(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        let name = name.filter(|name| !name.is_empty() && name.len() <= crate::message::MAX_NAME);
        let name =
            name.ok_or_else(|| DatabaseError::Refused(format!("{}: give the database a name of at most 255 bytes", path.display())))?;
        let fresh: [u8; 32] = rand::rng().random();
        let (wanted, file) = (name.clone(), path.clone());
        let found = self
            .call(move |driver, _, _| {
                if let Some((id, thread)) = driver.databases.iter().find(|(_, thread)| thread.path() == file) {
                    return Ok((*id, true, thread.sealed));
                }
                let id = driver.stack.account().catalogue().find(&wanted).unwrap_or(DatabaseId(fresh));
                match driver.path_of(id) {
                    Some(other) => Err(other),
                    None => Ok((id, false, false)),
                }
            })
            .await?;
        let (id, open, sealed) = found.map_err(|other| {
            DatabaseError::Refused(format!(
                "a database named {name} is kept in {} already: use that file, or give this one another name",
                other.display()
            ))
        })?;
        let sealed = if open { sealed } else { seals(&path, options.plain)? };
        let database = Database { node: self.clone(), id, name: name.clone(), path: path.clone(), sealed };
        if !open {
            let saved = SavedDatabase { id, name, path: path.display().to_string(), sealed };
            let row = saved.clone();
            let remember = move |c: &Connection| {
                c.execute("INSERT OR REPLACE INTO database VALUES (?1, ?2, ?3, ?4)", params![row.id.0, row.name, row.path, row.sealed])
            };
            // What cannot be opened is not remembered, and what cannot be remembered is not begun.
            let replica = self.open_replica(&saved).await?;
            self.shared.store.run(remember).await.map_err(DatabaseError::State)?;
            self.start_database(saved, replica).await?;
        }
        Ok(database)
    }

    /// The database of that name or id, if it is open here.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn open_database(&self, name: &str) -> Result<Option<Database>, Closed> {
        let wanted = name.to_owned();
        let found = self.call(move |driver, _, _| {
            let by_name = driver
                .stack
                .account()
                .catalogue()
                .iter()
                .find(|(id, name)| *name == wanted && driver.databases.contains_key(id))
                .map(|(id, _)| id);
            let id = by_name.or_else(|| wanted.parse().ok())?;
            let name = driver.stack.account().catalogue().name_of(id).unwrap_or(&wanted).to_owned();
            driver.databases.get(&id).map(|thread| (id, name, thread.path().to_owned(), thread.sealed))
        });
        Ok(found.await?.map(|(id, name, path, sealed)| Database { node: self.clone(), id, name, path, sealed }))
    }

    /// Every database of the user; those that are kept on other devices only have no path.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn databases(&self) -> Result<Vec<DatabaseStatus>, Closed> {
        let known = self.call(|driver, _, _| {
            let catalogue = driver.stack.account().catalogue();
            let known = catalogue.iter().map(|(id, name)| {
                let thread = driver.databases.get(&id);
                (id, name.to_owned(), thread.map(|thread| (thread.path().to_owned(), thread.sealed)))
            });
            known.collect::<Vec<_>>()
        });
        let mut all = Vec::new();
        for (id, name, open) in known.await? {
            let elsewhere = DatabaseStatus {
                id,
                name: name.clone(),
                path: None,
                sealed: false,
                tables: Vec::new(),
                pending: 0,
                devices: Vec::new(),
                trouble: None,
            };
            all.push(match open {
                Some((path, sealed)) => {
                    let database = Database { node: self.clone(), id, name, path: path.clone(), sealed };
                    match database.status().await {
                        Ok(status) => status,
                        Err(error) => DatabaseStatus { path: Some(path), sealed, trouble: Some(error.to_string()), ..elsewhere },
                    }
                }
                None => elsewhere,
            });
        }
        Ok(all)
    }

    async fn open_replica(&self, saved: &SavedDatabase) -> Result<Replica, DatabaseError> {
        let config = peers_sync::Config {
            author: self.id(),
            key: saved.sealed.then(|| *self.shared.keys.storage_key()),
            ..peers_sync::Config::default()
        };
        let file = PathBuf::from(&saved.path);
        Ok(tokio::task::spawn_blocking(move || Replica::open(&file, config)).await.map_err(|_| DatabaseError::Busy)??)
    }

    async fn start_database(&self, saved: SavedDatabase, replica: Replica) -> Result<(), DatabaseError> {
        let clock = Arc::clone(&self.shared.clock);
        let started = self.call(move |driver, now, wall| {
            let path = PathBuf::from(&saved.path);
            let thread = DatabaseThread::start(saved.id, path, saved.sealed, replica, clock, driver.outputs.clone())?;
            driver.databases.insert(saved.id, thread);
            driver.stack.open_database(now, wall, saved.id, &saved.name);
            Ok::<_, std::io::Error>(())
        });
        started.await?.map_err(|error| DatabaseError::Refused(format!("the database's thread did not start: {error}")))
    }

    /// Opens the databases that were open when the node last ran; one that fails stays listed with its trouble in the log.
    pub(crate) async fn resume_databases(&self, saved: Vec<SavedDatabase>) {
        for database in saved {
            let path = database.path.clone();
            let started = match self.open_replica(&database).await {
                Ok(replica) => self.start_database(database, replica).await,
                Err(error) => Err(error),
            };
            if let Err(error) = started {
                tracing::error!("{path} is not kept in step: {error}");
            }
        }
    }
}

/// Whether the file at `path` is (or is to be) encrypted. One that is neither SQLite's nor made of whole pages is left to be refused as no database.
fn seals(path: &Path, plain: bool) -> Result<bool, DatabaseError> {
    let look = || {
        let mut file = std::fs::File::open(path)?;
        let mut head = Vec::new();
        Read::take(&mut file, 16).read_to_end(&mut head)?;
        Ok((head, file.metadata()?.len()))
    };
    match look() {
        Ok((_, 0)) => Ok(!plain),
        Ok((head, length)) => Ok(head != b"SQLite format 3\0" && length % SEALED_PAGE == 0),
        Err(error) if std::io::Error::kind(&error) == std::io::ErrorKind::NotFound => Ok(!plain),
        Err(error) => Err(DatabaseError::Refused(format!("{}: {error}", path.display()))),
    }
}

/// Bytes of SQLCipher's pages.
const SEALED_PAGE: u64 = 4096;

impl Database {
    /// The database.
    pub fn id(&self) -> DatabaseId {
        self.id
    }

    /// Its name among the user's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Tracks a table; its rows are sent to the user's other devices.
    ///
    /// # Errors
    /// [`DatabaseError::Track`], for one a table without a primary key.
    pub async fn track(&self, table: &str) -> Result<(), DatabaseError> {
        let table = table.to_owned();
        self.with_replica(move |replica, _| replica.track(&table)).await?.map_err(DatabaseError::Track)
    }

    /// Tracks every table that can be; gives those that cannot, and why.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn track_all(&self) -> Result<Vec<(String, peers_sync::TrackError)>, DatabaseError> {
        self.with_replica(|replica, _| replica.track_all()).await?.map_err(DatabaseError::Store)
    }

    /// Ends tracking a table and leaves it as it is.
    ///
    /// # Errors
    /// [`DatabaseError::Track`] if it is not tracked.
    pub async fn untrack(&self, table: &str) -> Result<(), DatabaseError> {
        let table = table.to_owned();
        self.with_replica(move |replica, wall| replica.untrack(wall, &table)).await?.map_err(DatabaseError::Track)
    }

    /// An ordinary connection to the file, with its key where it is sealed. Writes made on it are noticed like those of any program.
    ///
    /// # Errors
    /// [`DatabaseError::Sqlite`].
    pub fn connection(&self) -> Result<Connection, DatabaseError> {
        let open = || {
            let connection = Connection::open(&self.path)?;
            if self.sealed {
                let hex: Zeroizing<String> =
                    self.node.shared.keys.storage_key().iter().map(|byte| format!("{byte:02x}")).collect::<String>().into();
                connection.execute_batch(&Zeroizing::new(format!("PRAGMA key = \"x'{}'\"", *hex)))?;
            }
            connection.busy_timeout(std::time::Duration::from_secs(5))?;
            connection.execute_batch("PRAGMA foreign_keys = ON")?;
            Ok(connection)
        };
        open().map_err(|source| self.failed(source))
    }

    /// Its state here, and how far the user's other devices have it.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn status(&self) -> Result<DatabaseStatus, DatabaseError> {
        let (id, name, path, sealed) = (self.id, self.name.clone(), self.path.clone(), self.sealed);
        let others = self.node.call(move |driver, _, _| {
            let own = driver.stack.id();
            let devices: Vec<PeerId> =
                driver.stack.account().user().members().map(|device| device.id).filter(|device| *device != own).collect();
            (devices, driver.databases.get(&id).and_then(DatabaseThread::trouble))
        });
        let (devices, trouble) = others.await?;
        let status = self.with_replica(move |replica, _| {
            replica.status().map(|status| (status, devices.iter().map(|peer| replica.in_step(*peer)).collect::<Vec<_>>(), devices))
        });
        let (status, in_step, devices) = status.await??;
        let pending = status.tables.iter().map(|table| table.pending).sum();
        let tables =
            status.tables.into_iter().map(|table| TableStatus { name: table.name, rows: table.rows, parked: table.parked }).collect();
        let devices = devices.into_iter().zip(in_step).map(|(id, in_step)| DeviceSync { id, in_step }).collect();
        Ok(DatabaseStatus { id, name, path: Some(path), sealed, tables, pending, devices, trouble })
    }

    /// The last `limit` changes, newest first.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub async fn log(&self, limit: usize) -> Result<Vec<peers_sync::Change>, DatabaseError> {
        Ok(self.with_replica(move |replica, _| replica.log(limit)).await??)
    }

    /// Changes of this database as they happen, here or elsewhere.
    pub fn changes(&self) -> Changes {
        Changes { database: self.id, receiver: self.node.shared.events.subscribe() }
    }

    async fn with_replica<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Replica, Timestamp) -> T + Send + 'static,
    ) -> Result<T, DatabaseError> {
        let (sender, receiver) = oneshot::channel();
        let id = self.id;
        self.node
            .call(move |driver, _, _| {
                if let Some(thread) = driver.databases.get(&id) {
                    thread.call(Box::new(move |replica, wall| drop(sender.send(work(replica, wall)))));
                }
            })
            .await?;
        receiver.await.map_err(|_| DatabaseError::Busy)
    }

    fn failed(&self, source: rusqlite::Error) -> DatabaseError {
        DatabaseError::Sqlite { path: self.path.display().to_string(), source }
    }
}

/// Changes of a database as they happen; see [`Database::changes`].
#[derive(Debug)]
pub struct Changes {
    database: DatabaseId,
    receiver: broadcast::Receiver<NodeEvent>,
}

impl Changes {
    /// The next change: a table, and the device that wrote it; none when the node is closed.
    pub async fn next(&mut self) -> Option<(String, PeerId)> {
        loop {
            match self.receiver.recv().await {
                Ok(NodeEvent::DatabaseChanged { database, table, author }) if database == self.database => return Some((table, author)),
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}
