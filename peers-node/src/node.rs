//! [`Node`]: the facade over one driver task.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use peers_crypto::{GroupError, GroupId, KeyFile, KeyFileError, Passphrase, Role, Ticket, TopicKey};
use peers_wire::{Packet, PeerId, Timestamp, TopicId};
use rand::RngExt;
use rusqlite::{Connection, params};
use thiserror::Error;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use zeroize::Zeroizing;

use crate::account::{Account, DatabaseId};
use crate::clock::Clock;
use crate::driver::{Command, Driver, LetterState, LinkWatch, Parts, describe};
use crate::handles::{Acceptance, Invitation, Sending, Topic, TopicSource};
use crate::home::Home;
use crate::linking::{LinkFailure, LinkOptions};
use crate::message::{Letter, LetterId, MAX_LETTER, MAX_NAME};
use crate::packets::PacketFile;
use crate::portmap::PortMapping;
use crate::sockets::{BindError, Sockets};
use crate::stack::{self, Stack};
use crate::store::{Store, StoreError};
use crate::types::{CacheStatus, DeviceStatus, Mail, NodeEvent, PeerStatus, Status, TopicStatus, UserStatus};

/// How to open a node.
#[derive(Debug, Clone)]
pub struct Options {
    /// Addresses to bind; port 0 takes the port of the last time where it is free. Bound to loopback only, nothing leaves the machine.
    pub listen: Vec<SocketAddr>,
    /// Find peers on the local network, and be found.
    pub lan: bool,
    /// Ask the router to let others in (PCP, NAT-PMP, UPnP).
    pub port_mapping: bool,
    /// Keep to the LAN: nothing is sent beyond the subnets of this host's interfaces, by no relay, and no router is asked. Peers are found on the LAN whatever `lan` says.
    pub lan_only: bool,
    /// Peers to begin with; none is needed.
    pub bootstrap: Vec<Bootstrap>,
    /// Name of this device, as the user's other devices show it.
    pub name: String,
    /// Passphrase of the key file; may be empty.
    pub passphrase: Passphrase,
    /// Limits of the layers.
    pub limits: stack::Config,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()],
            lan: true,
            port_mapping: true,
            lan_only: false,
            bootstrap: Vec::new(),
            name: "device".into(),
            passphrase: Passphrase::default(),
            limits: stack::Config::default(),
        }
    }
}

/// A peer to begin with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    /// Its key; without it whoever answers at the address is taken.
    pub id: Option<PeerId>,
    /// Where it is.
    pub address: SocketAddr,
}

/// Why a node did not open.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process runs a node on the same home.
    #[error("a node is already running on {home}: stop it first, or set PEERS_HOME to another folder")]
    AlreadyRunning {
        /// The folder of its state.
        home: String,
    },
    /// A folder or the lock cannot be made.
    #[error("{path}: {source}; make the folder writable for you, or set PEERS_HOME to another one")]
    Home {
        /// The folder.
        path: String,
        /// What the system says.
        source: std::io::Error,
    },
    /// The key file does not open.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The state file does not open.
    #[error(transparent)]
    State(#[from] StoreError),
    /// What the state file holds cannot be read.
    #[error(
        "the state file holds {what} that this version cannot read: restore a backup, or move {path} away to start with an empty state"
    )]
    Damaged {
        /// Which part.
        what: &'static str,
        /// The state file.
        path: String,
    },
    /// The device cannot be called that.
    #[error("a device cannot be named {0:?}: give it a name of 1 to 64 bytes of text")]
    Name(String),
    /// No socket.
    #[error(transparent)]
    Bind(#[from] BindError),
}

/// The node is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the node is closed")]
pub struct Closed;

/// Why a message was not published.
#[derive(Debug, Error)]
pub enum PublishError {
    /// It is larger than a message may be.
    #[error("the message has {size} bytes, at most {max} are possible: send it in parts")]
    TooLarge {
        /// Its bytes.
        size: usize,
        /// Most possible.
        max: usize,
    },
    /// This device may not write there, or is in it no more.
    #[error(transparent)]
    Group(GroupError),
    /// It could not be stored here, and so is not acknowledged.
    #[error("the message could not be stored on this device: {0}")]
    State(StoreError),
    /// The node is closed.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Why two devices were not linked.
#[derive(Debug, Error)]
pub enum LinkError {
    /// The attempt failed.
    #[error("{failure}{}", tried(*attempts))]
    Failed {
        /// Why.
        failure: LinkFailure,
        /// Devices that came to the invitation; 0 on the side that accepts.
        attempts: usize,
    },
    /// This device is linked to others already, or another linking is under way.
    #[error("{0}")]
    Refused(&'static str),
    /// The new account could not be stored.
    #[error("the account could not be stored on this device: {0}")]
    State(StoreError),
    /// The node is closed.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// Says so if more than one device came to an invitation.
fn tried(attempts: usize) -> String {
    if attempts > 1 { format!(" ({attempts} devices tried it)") } else { String::new() }
}

/// A running node; cheap to clone. It runs until [`Node::close`] or until every handle is gone.
#[derive(Debug, Clone)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    id: PeerId,
    name: String,
    pub(crate) keys: KeyFile,
    commands: mpsc::Sender<Command>,
    pub(crate) store: Arc<Store>,
    pub(crate) clock: Arc<Clock>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    driver: tokio::sync::Mutex<Option<tokio::task::JoinHandle<()>>>,
    _lock: File,
}

impl Node {
    /// Opens the node that lives in `home`, making keys and files that are missing; resumes its topics, mail and databases.
    ///
    /// # Errors
    /// [`OpenError`]; nothing on disk is changed by a failure.
    pub async fn open(home: &Home, options: Options) -> Result<Self, OpenError> {
        home.create().map_err(|source| OpenError::Home { path: home.state_file().display().to_string(), source })?;
        let lock = lock(home)?;
        let (key_path, passphrase) = (home.key_file(), options.passphrase.clone());
        let keys = tokio::task::spawn_blocking(move || KeyFile::open_or_create(&key_path, passphrase.as_bytes(), &mut rand::rng())).await;
        let keys =
            keys.map_err(|error| OpenError::Home { path: home.key_file().display().to_string(), source: std::io::Error::other(error) })??;
        let store = Arc::new(Store::open(&home.state_file(), keys.storage_key())?);
        let clock = Arc::new(Clock::new());
        let device_name = options.name.clone();

        let damaged = |what| OpenError::Damaged { what, path: home.state_file().display().to_string() };
        let saved = store.run(Saved::load).await.map_err(|_| damaged("tables"))?;
        let lan = options.lan || options.lan_only;
        let sockets = Sockets::bind(&with_last_port(&options.listen, saved.port), lan, options.lan_only)
            .or_else(|_| Sockets::bind(&options.listen, lan, options.lan_only))?;

        let (path, key) = (home.cache_file(), Zeroizing::new(*keys.storage_key()));
        let limit = options.limits.cache.budget.max(options.limits.cache.wanted_budget + options.limits.cache.budget / 4);
        let opened = tokio::task::spawn_blocking(move || PacketFile::open(&path, &key, limit)).await;
        let (packet_file, packets) = opened
            .map_err(|error| OpenError::Home { path: home.cache_file().display().to_string(), source: std::io::Error::other(error) })?;

        let (now, wall) = clock.now();
        let device = keys.device_key().clone();
        let account = match &saved.account {
            Some(bytes) => Account::decode(bytes).map_err(|_| damaged("an account"))?,
            None => Account::create(wall, &device, &device_name, &mut rand::rng()).map_err(|_| OpenError::Name(device_name.clone()))?,
        };
        let mut limits = options.limits.clone();
        (limits.nat.lan, limits.nat.lan_only) = (lan, options.lan_only);
        // A stream would leave the LAN unseen.
        limits.nat.streams = !options.lan_only;
        let id = device.id();
        let mut stack = Stack::new(now, wall, limits, device, account, rand::rng().random());
        let labels = saved.resume(packets, &mut stack, now, wall);
        for Bootstrap { id, address } in &options.bootstrap {
            match id {
                Some(id) => drop(stack.connect(now, wall, *id, &[*address])),
                None => stack.connect_address(now, wall, *address),
            }
        }

        let (commands, queue) = mpsc::channel(MAX_COMMANDS);
        let (events, _) = broadcast::channel(MAX_EVENTS);
        let port_mapping = (options.port_mapping && !options.lan_only).then(|| {
            let key = peers_crypto::derive(keys.storage_key(), "port mapping", &[]);
            PortMapping::start(key, &clock, &commands.downgrade())
        });
        let driver = Driver::new(Parts {
            stack,
            store: Arc::clone(&store),
            packets: packet_file,
            clock: Arc::clone(&clock),
            sockets,
            commands: queue,
            events: events.clone(),
            labels,
            port_mapping,
        });
        driver.store_account(|stored| {
            if let Err(error) = stored {
                tracing::error!("the account could not be stored: {error}");
            }
        });
        driver.remember_port();
        let driver = tokio::spawn(driver.run());
        let shared = Shared { id, name: device_name, keys, commands, store, clock, events, driver: Some(driver).into(), _lock: lock };
        let node = Self { shared: Arc::new(shared) };
        node.resume_databases(saved.databases).await;
        Ok(node)
    }

    /// This device.
    pub fn id(&self) -> PeerId {
        self.shared.id
    }

    /// The name of this device.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// Everything about the node that a person asks for.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn status(&self) -> Result<Status, Closed> {
        let counts = self.shared.store.run(message_counts).await.unwrap_or_default();
        let name = self.shared.name.clone();
        let mut status = self.call(move |driver, _, _| driver.status(name, &counts)).await?;
        status.databases = self.databases().await?;
        Ok(status)
    }

    /// Everything that happens from now on. A reader that is too slow is told how much it missed.
    pub fn events(&self) -> Events {
        Events { receiver: self.shared.events.subscribe() }
    }

    /// Seeks a session: with `peer` at the addresses given, on the LAN and through common peers; without a key with whoever answers.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn connect(&self, peer: Option<PeerId>, addresses: Vec<SocketAddr>) -> Result<(), Closed> {
        self.call(move |driver, now, wall| match peer {
            Some(peer) => drop(driver.stack.connect(now, wall, peer, &addresses)),
            None => addresses.iter().for_each(|address| driver.stack.connect_address(now, wall, *address)),
        })
        .await
    }

    /// Follows the topic that `key` writes and reads; remembered across restarts.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn topic(&self, key: &TopicKey) -> Result<Topic, Closed> {
        self.labelled_topic(&format!("{:.8}", key.id()), key).await
    }

    /// As [`Node::topic`], under a name for this device.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn labelled_topic(&self, label: &str, key: &TopicKey) -> Result<Topic, Closed> {
        let (id, label) = (key.id(), label.to_owned());
        self.remember_topic(id, &label, Zeroizing::new(key.seed().to_vec())).await;
        let (kept, name) = (key.clone(), label.clone());
        self.call(move |driver, now, wall| {
            let read = kept.read_key();
            if driver.labels.insert(id, (name, Some(kept))).is_none() {
                driver.stack.subscribe(now, wall, read);
            }
        })
        .await?;
        Ok(Topic { node: self.clone(), id, label, source: TopicSource::Key(key.clone()) })
    }

    async fn remember_topic(&self, id: TopicId, label: &str, seed: Zeroizing<Vec<u8>>) {
        let stored = label.to_owned();
        let stored = self
            .shared
            .store
            .run(move |c| c.execute("INSERT OR REPLACE INTO topic VALUES (?1, ?2, ?3)", params![id.0, stored, seed.as_slice()]))
            .await;
        if let Err(error) = stored {
            tracing::error!("the topic {label} is followed until the node ends, and not after that: {error}");
        }
    }

    /// A topic of the user's own: the same label is the same topic on all their devices, and nobody else's.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn user_topic(&self, label: &str) -> Result<Topic, Closed> {
        let wanted = label.to_owned();
        let id = self
            .call(move |driver, now, wall| {
                let id = driver.stack.subscribe_label(now, wall, &wanted);
                driver.labels.insert(id, (wanted, None));
                id
            })
            .await?;
        self.remember_topic(id, label, Zeroizing::default()).await;
        Ok(Topic { node: self.clone(), id, label: label.to_owned(), source: TopicSource::User })
    }

    /// The messages of a group: what its writers publish, and its members follow; `None` if this device is not in it.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn group_topic(&self, group: GroupId) -> Result<Option<Topic>, Closed> {
        let find = move |driver: &mut Driver, _, _| driver.stack.account().membership(group).map(|known| known.group().name().to_owned());
        let label = self.call(find).await?;
        Ok(label.map(|label| Topic { node: self.clone(), id: TopicId(group.0), label, source: TopicSource::Group(group) }))
    }

    /// The topic that was followed under `label` with a key of its own, if there is one.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn joined_topic(&self, label: &str) -> Result<Option<Topic>, Closed> {
        let wanted = label.to_owned();
        let found = self
            .call(move |driver, _, _| {
                driver.labels.iter().find_map(|(id, (label, key))| (*label == wanted).then(|| Some((*id, key.clone()?)))?)
            })
            .await?;
        Ok(found.map(|(id, key)| Topic { node: self.clone(), id, label: label.to_owned(), source: TopicSource::Key(key) }))
    }

    /// Sends a letter to `to`, directly or through the relay cache; returns once it is stored here.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn send(&self, to: PeerId, name: Option<&str>, body: Bytes) -> Result<Sending, PublishError> {
        let size = body.len() + name.map_or(0, str::len);
        if size > MAX_LETTER || name.is_some_and(|name| name.len() > MAX_NAME) {
            return Err(PublishError::TooLarge { size, max: MAX_LETTER });
        }
        let id: LetterId = rand::rng().random();
        let letter = Letter { id, created: self.shared.clock.now().1, name: name.map(str::to_owned), body };
        let encoded = crate::message::MailBody::Letter(letter.clone()).encode();
        let created = letter.created;
        let outbox = move |c: &Connection| {
            c.execute("INSERT INTO outbox VALUES (?1, ?2, ?3, ?4)", params![id, to.0, created.0.cast_signed(), encoded])
        };
        let (sender, state) = watch::channel(LetterState::Queued);
        // It leaves while it is being written: what the recipient says comes to the disk after it.
        let stored = self.shared.store.run(outbox);
        let sent = self.call(move |driver, now, wall| {
            driver.letters.retain(|_, watched| !watched.is_closed());
            driver.letters.insert(id, sender);
            driver.stack.send(now, wall, to, letter);
        });
        let (stored, sent) = tokio::join!(biased; stored, sent);
        stored.map_err(PublishError::State)?;
        sent?;
        Ok(Sending { node: self.clone(), id, state })
    }

    /// The last `limit` letters received, oldest first.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn inbox(&self, limit: usize) -> Result<Vec<Mail>, Closed> {
        let rows = self.shared.store.run(move |c| load_mail(c, limit)).await.map_err(|_| Closed)?;
        self.call(move |driver, _, _| rows.into_iter().map(|mail| Mail { from_name: driver.name_of(mail.from), ..mail }).collect()).await
    }

    /// Invites another device: whoever takes the ticket there within ten minutes becomes a device of this user.
    ///
    /// # Errors
    /// [`LinkError::Refused`] while another linking is under way.
    pub async fn invite(&self, options: LinkOptions) -> Result<Invitation, LinkError> {
        self.invite_into(None, options).await
    }

    pub(crate) async fn invite_into(&self, to: Option<(GroupId, Role)>, options: LinkOptions) -> Result<Invitation, LinkError> {
        let (ticket, acceptance) = self.link(move |driver, now, wall| driver.stack.invite(now, wall, to, options)).await?;
        Ok(Invitation { ticket, under_way: acceptance })
    }

    /// Begins to make this device one of the user who was given `ticket` by [`Node::invite`].
    ///
    /// # Errors
    /// [`LinkError::Refused`] if this device has a user with several devices already, or another linking is under way.
    pub async fn accept(&self, ticket: Ticket, options: LinkOptions) -> Result<Acceptance, LinkError> {
        let name = self.shared.name.clone();
        let begun = self.link(move |driver, now, wall| driver.stack.accept(now, wall, &ticket, &name, options));
        Ok(begun.await?.1)
    }

    /// Says whether the words that [`LinkMatch`](crate::LinkMatch) names are the same on both devices, where [`LinkOptions::confirm`] asks for it.
    ///
    /// # Errors
    /// [`LinkError::Refused`] if nothing waits for that.
    pub async fn confirm_linking(&self, same: bool) -> Result<(), LinkError> {
        self.call(move |driver, now, wall| driver.stack.confirm_linking(now, wall, same)).await?.map_err(LinkError::Refused)
    }

    async fn link<T: Send + 'static>(
        &self,
        begin: impl FnOnce(&mut Driver, Instant, Timestamp) -> Result<T, &'static str> + Send + 'static,
    ) -> Result<(T, Acceptance), LinkError> {
        let ((matched, found), (sender, outcome)) = (oneshot::channel(), oneshot::channel());
        let begun = self.call(move |driver, now, wall| {
            driver.end_abandoned_linking(now, wall);
            let begun = begin(driver, now, wall)?;
            driver.linking = Some(LinkWatch { matched: Some(matched), outcome: sender });
            Ok(begun)
        });
        let begun = begun.await?.map_err(LinkError::Refused)?;
        Ok((begun, Acceptance { node: self.clone(), matched: Some(found), outcome }))
    }

    /// Ends the node; everything acknowledged is on disk when this returns.
    pub async fn close(self) {
        let _ = self.call(|driver, _, _| driver.closing = true).await;
        if let Some(driver) = self.shared.driver.lock().await.take() {
            let _ = driver.await;
        }
        // The storage thread ends with the last handle; what is queued before this is written.
        let _ = self.shared.store.run(|_| Ok(())).await;
    }

    /// Has `work` run on the driver some time, unless it has too much to do.
    pub(crate) fn post(&self, work: impl FnOnce(&mut Driver, Instant, Timestamp) + Send + 'static) {
        let _ = self.shared.commands.try_send(Box::new(work));
    }

    /// Runs `work` on the driver and gives its result.
    pub(crate) async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Driver, Instant, Timestamp) -> T + Send + 'static,
    ) -> Result<T, Closed> {
        let (sender, receiver) = oneshot::channel();
        let command: Command = Box::new(move |driver, now, wall| {
            let _ = sender.send(work(driver, now, wall));
        });
        self.shared.commands.send(command).await.map_err(|_| Closed)?;
        receiver.await.map_err(|_| Closed)
    }
}

/// Everything that happens on a node; see [`Node::events`].
#[derive(Debug)]
pub struct Events {
    receiver: broadcast::Receiver<NodeEvent>,
}

impl Events {
    /// The next event; none when the node is closed.
    pub async fn next(&mut self) -> Option<NodeEvent> {
        match self.receiver.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(count)) => Some(NodeEvent::Lagged { count }),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

impl Driver {
    fn status(&self, name: String, counts: &BTreeMap<TopicId, u64>) -> Status {
        let account = self.stack.account();
        let own = self.stack.id();
        let devices = account.user().members().map(|device| DeviceStatus {
            id: device.id,
            name: device.name.clone(),
            this: device.id == own,
            connected: self.stack.is_connected(device.id),
        });
        let peers = self.stack.peers().map(|peer| PeerStatus {
            id: peer.id,
            name: self.name_of(peer.id),
            path: describe(&peer.path),
            rtt_ms: peer.rtt.map(|rtt| rtt.as_secs_f64() * 1000.0),
        });
        let topics = self.labels.iter().map(|(id, (label, _))| TopicStatus {
            label: label.clone(),
            id: *id,
            messages: counts.get(id).copied().unwrap_or(0),
        });
        let groups = account.groups().map(|membership| membership.group()).map(|group| {
            let id = TopicId(group.id().0);
            TopicStatus { label: group.name().to_owned(), id, messages: counts.get(&id).copied().unwrap_or(0) }
        });
        let stats = self.stack.stats();
        Status {
            id: own,
            name,
            user: UserStatus { id: account.id().to_string(), devices: devices.collect() },
            listen: self.local_addresses(),
            reflexive: self.reflexive.clone(),
            port_mapping: self.port_mapping(),
            peers: peers.collect(),
            cache: CacheStatus { packets: stats.cache.held, bytes: stats.cache.used, budget: self.stack.cache_budget() },
            topics: topics.collect(),
            groups: groups.collect(),
            databases: Vec::new(),
            counters: stats.counters(),
        }
    }

    /// Whoever restarts is found where it was, if the port is still free.
    fn remember_port(&self) {
        if let Some(address) = self.local_addresses().first() {
            let port = i64::from(address.port());
            self.store.write_behind("the port", move |c| c.execute("INSERT OR REPLACE INTO setting VALUES ('port', ?1)", [port]).map(drop));
        }
    }
}

/// What the state file holds at start.
#[derive(Debug, Default)]
struct Saved {
    account: Option<Zeroizing<Vec<u8>>>,
    port: Option<u16>,
    topics: Vec<(String, Zeroizing<Vec<u8>>)>,
    contacts: Vec<(PeerId, bool)>,
    peers: Vec<(PeerId, SocketAddr)>,
    outbox: Vec<(PeerId, Vec<u8>)>,
    databases: Vec<SavedDatabase>,
}

/// A database that was open.
#[derive(Debug, Clone)]
pub(crate) struct SavedDatabase {
    pub(crate) id: DatabaseId,
    pub(crate) name: String,
    pub(crate) path: String,
    pub(crate) sealed: bool,
}

impl Saved {
    fn load(c: &Connection) -> rusqlite::Result<Self> {
        let account = c.query_row("SELECT bytes FROM account", [], |row| row.get(0).map(Zeroizing::new));
        let port = c.query_row("SELECT value FROM setting WHERE name = 'port'", [], |row| row.get(0));
        let all = |sql: &str| c.prepare(sql);
        Ok(Self {
            account: optional(account)?,
            port: optional(port)?,
            topics: all("SELECT label, seed FROM topic")?
                .query_map([], |row| Ok((row.get(0)?, Zeroizing::new(row.get(1)?))))?
                .collect::<Result<_, _>>()?,
            contacts: all("SELECT id, established FROM contact")?
                .query_map([], |row| Ok((PeerId(row.get(0)?), row.get(1)?)))?
                .collect::<Result<_, _>>()?,
            peers: (all(REMEMBERED)?.query_map([], |row| Ok((PeerId(row.get(0)?), row.get::<_, String>(1)?)))?)
                .filter_map(|row| row.map(|(id, address)| Some((id, address.parse().ok()?))).transpose())
                .collect::<Result<_, _>>()?,
            outbox: all("SELECT recipient, letter FROM outbox ORDER BY created")?
                .query_map([], |row| Ok((PeerId(row.get(0)?), row.get(1)?)))?
                .collect::<Result<_, _>>()?,
            databases: all("SELECT id, name, path, sealed FROM database")?
                .query_map([], |row| {
                    Ok(SavedDatabase { id: DatabaseId(row.get(0)?), name: row.get(1)?, path: row.get(2)?, sealed: row.get(3)? })
                })?
                .collect::<Result<_, _>>()?,
        })
    }

    /// Gives the stack what it had.
    fn resume(
        &self,
        packets: Vec<Packet>,
        stack: &mut Stack,
        now: Instant,
        wall: Timestamp,
    ) -> BTreeMap<TopicId, (String, Option<TopicKey>)> {
        let mut labels = BTreeMap::new();
        for (label, seed) in &self.topics {
            // The user's own topics have no key of their own.
            let Ok(seed) = <[u8; 32]>::try_from(seed.as_slice()) else {
                labels.insert(stack.subscribe_label(now, wall, label), (label.clone(), None));
                continue;
            };
            let key = TopicKey::from_seed(seed);
            stack.subscribe(now, wall, key.read_key());
            labels.insert(key.id(), (label.clone(), Some(key)));
        }
        for (peer, established) in &self.contacts {
            stack.add_contact(now, *peer, *established);
        }
        for (peer, address) in &self.peers {
            stack.remember(now, wall, *peer, &[*address]);
        }
        // What is subscribed to is known by now, so that it is not taken for a stranger's.
        for packet in packets {
            stack.load(now, wall, packet);
        }
        for (to, letter) in &self.outbox {
            if let Ok(crate::message::MailBody::Letter(letter)) = crate::message::MailBody::decode(letter) {
                stack.send(now, wall, *to, letter);
            }
        }
        labels
    }
}

/// Whom to look for after a start: the user's contacts, then those met last, and some of the others by chance, so that nobody who came in numbers just before takes all places.
const REMEMBERED: &str = "SELECT id, address FROM (
    SELECT id, address, id IN (SELECT id FROM contact) AS chosen, row_number() OVER (ORDER BY seen DESC) AS place FROM peer
) ORDER BY chosen DESC, place > 16, CASE WHEN place > 16 THEN random() ELSE place END LIMIT 32";

fn optional<T>(row: rusqlite::Result<T>) -> rusqlite::Result<Option<T>> {
    match row {
        Err(rusqlite::Error::QueryReturnedNoRows) => Ok(None),
        other => other.map(Some),
    }
}

fn message_counts(c: &Connection) -> rusqlite::Result<BTreeMap<TopicId, u64>> {
    let mut statement = c.prepare("SELECT topic, count(*) FROM message GROUP BY topic")?;
    statement.query_map([], |row| Ok((TopicId(row.get(0)?), row.get::<_, i64>(1)?.cast_unsigned())))?.collect()
}

fn load_mail(c: &Connection, limit: usize) -> rusqlite::Result<Vec<Mail>> {
    let mut statement = c.prepare(
        "SELECT * FROM (SELECT position, id, sender, created, name, body FROM mail ORDER BY position DESC LIMIT ?1) ORDER BY position",
    )?;
    let rows = statement.query_map([i64::try_from(limit).unwrap_or(i64::MAX)], |row| {
        let id: LetterId = row.get(1)?;
        Ok(Mail {
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            from: PeerId(row.get(2)?),
            from_name: None,
            created: Timestamp(row.get::<_, i64>(3)?.cast_unsigned()),
            name: row.get(4)?,
            body: row.get::<_, Vec<u8>>(5)?.into(),
        })
    })?;
    rows.collect()
}

/// Keeps other nodes away from `home` while the file is open.
pub(crate) fn lock(home: &Home) -> Result<File, OpenError> {
    let path = home.lock_file();
    let failed = |source| OpenError::Home { path: path.display().to_string(), source };
    let file = crate::store::private_file(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::AlreadyRunning { home: path.parent().unwrap_or(&path).display().to_string() }),
        Err(TryLockError::Error(source)) => Err(failed(source)),
    }
}

fn with_last_port(listen: &[SocketAddr], last: Option<u16>) -> Vec<SocketAddr> {
    listen.iter().map(|address| if address.port() == 0 { SocketAddr::new(address.ip(), last.unwrap_or(0)) } else { *address }).collect()
}

const MAX_COMMANDS: usize = 256;
const MAX_EVENTS: usize = 4096;
