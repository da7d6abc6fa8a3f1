//! The task that owns the [`Stack`]: sockets, clocks and disk on one side, the state machine on the other.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use peers_cache::QueryId;
use peers_crypto::TopicKey;
use peers_nat::{Path, SocketId};
use peers_wire::{PacketId, PeerId, Timestamp, TopicId};
use rusqlite::params;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::account::DatabaseId;
use crate::clock::Clock;
use crate::database::{DatabaseOutput, DatabaseThread, Output};
use crate::handles_query::Waiting;
use crate::interfaces::{Change, Changes, Interfaces};
use crate::linking::LinkMatch;
use crate::mailbox::{self, Kept};
use crate::message::{Letter, LetterId, MailBody};
use crate::node_recovery::{Progress, Recovered, RecoveryWatch};
use crate::packets::PacketFile;
use crate::portmap::{self, PortMapping};
use crate::sockets::Sockets;
use crate::stack::{self, DatabaseInput, Stack};
use crate::store::{Store, StoreError};
use crate::streams::{Arrival, Streams};
use crate::types::{Linked, Mail, Matched, Message, NodeEvent, PortMappingStatus};

/// Work for the driver: it runs with the stack in hand.
pub(crate) type Command = Box<dyn FnOnce(&mut Driver, Instant, Timestamp) + Send>;

/// What became of a letter, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LetterState {
    /// It is on disk here.
    Queued,
    /// So many other peers, counted once for each origin, proved to hold it for the recipient.
    Stored(u32),
    /// The recipient has stored it, and signed that.
    Delivered,
    /// The caches of others have let go of it undelivered: it is kept here, and goes when the recipient is met.
    Expired,
}

/// Who waits for a linking.
pub(crate) struct LinkWatch {
    pub(crate) matched: Option<oneshot::Sender<Matched>>,
    pub(crate) outcome: oneshot::Sender<Result<Linked, crate::node::LinkError>>,
}

pub(crate) struct Driver {
    pub(crate) stack: Stack,
    pub(crate) store: Arc<Store>,
    pub(crate) packets: PacketFile,
    clock: Arc<Clock>,
    sockets: Sockets,
    streams: Streams,
    commands: mpsc::Receiver<Command>,
    pub(crate) outputs: mpsc::Sender<Output>,
    thread_outputs: mpsc::Receiver<Output>,
    pub(crate) databases: BTreeMap<DatabaseId, DatabaseThread>,
    pub(crate) labels: BTreeMap<TopicId, (String, Option<TopicKey>)>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    pub(crate) publications: HashMap<PacketId, watch::Sender<u32>>,
    pub(crate) letters: HashMap<LetterId, watch::Sender<LetterState>>,
    /// Who waits for answers.
    pub(crate) queries: HashMap<QueryId, Waiting>,
    /// How often this device is there, by topic.
    pub(crate) present: BTreeMap<TopicId, usize>,
    pub(crate) linking: Option<LinkWatch>,
    pub(crate) recovering: Option<RecoveryWatch>,
    /// Keys in two places that have been told of.
    pub(crate) forks: BTreeSet<[[u8; 32]; 2]>,
    pub(crate) reflexive: Vec<SocketAddr>,
    port_mapping: Option<PortMapping>,
    /// What became of the mappings: of IPv4, of IPv6.
    mapped: [Option<portmap::Outcome>; 2],
    pub(crate) closing: bool,
    addresses_at: Instant,
    interfaces: Interfaces,
    changes: Changes,
    /// Bytes of letters on their way to the disk.
    pub(crate) unstored_mail: Arc<AtomicUsize>,
}

pub(crate) struct Parts {
    pub(crate) stack: Stack,
    pub(crate) store: Arc<Store>,
    pub(crate) packets: PacketFile,
    pub(crate) clock: Arc<Clock>,
    pub(crate) sockets: Sockets,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) events: broadcast::Sender<NodeEvent>,
    pub(crate) labels: BTreeMap<TopicId, (String, Option<TopicKey>)>,
    pub(crate) port_mapping: Option<PortMapping>,
}

impl Driver {
    pub(crate) fn new(parts: Parts) -> Self {
        let (outputs, thread_outputs) = mpsc::channel(MAX_OUTPUTS);
        let addresses_at = parts.clock.now().0;
        Self {
            stack: parts.stack,
            store: parts.store,
            packets: parts.packets,
            clock: parts.clock,
            streams: Streams::listen(&parts.sockets.for_streams()),
            sockets: parts.sockets,
            commands: parts.commands,
            outputs,
            thread_outputs,
            databases: BTreeMap::new(),
            labels: parts.labels,
            events: parts.events,
            publications: HashMap::new(),
            letters: HashMap::new(),
            queries: HashMap::new(),
            present: BTreeMap::new(),
            linking: None,
            recovering: None,
            forks: BTreeSet::new(),
            reflexive: Vec::new(),
            port_mapping: parts.port_mapping,
            mapped: [None, None],
            closing: false,
            addresses_at,
            interfaces: Interfaces::new(),
            changes: Changes::default(),
            unstored_mail: Arc::default(),
        }
    }

    /// Runs until the node is closed or every handle to it is gone.
    pub(crate) async fn run(mut self) {
        while !self.closing {
            let (now, wall) = self.clock.now();
            self.tell_addresses(now, wall);
            self.end_abandoned_linking(now, wall);
            self.end_abandoned_recovery(now, wall);
            self.drain(now, wall);
            self.packets.handle_timeout(now);
            let wake = [self.stack.poll_timeout(), self.packets.poll_timeout()].into_iter().flatten().fold(self.addresses_at, Instant::min);
            let timer = tokio::time::sleep_until(self.clock.system_time(wake).into());
            tokio::select! {
                biased;
                () = timer => {
                    let (now, wall) = self.woken(wake);
                    self.stack.handle_timeout(now, wall);
                }
                command = self.commands.recv() => match command {
                    Some(command) => {
                        let (now, wall) = self.woken(wake);
                        command(&mut self, now, wall);
                    }
                    None => self.closing = true,
                },
                Some(output) = self.thread_outputs.recv() => {
                    let (now, wall) = self.woken(wake);
                    self.on_output(now, wall, output);
                }
                change = self.interfaces.changed() => {
                    let (now, wall) = self.woken(wake);
                    self.on_change(now, wall, change);
                }
                () = self.sockets.readable() => drop(self.woken(wake)),
                arrival = self.streams.next() => {
                    let (now, wall) = self.woken(wake);
                    self.on_arrival(now, wall, arrival);
                }
            }
            self.take_batches();
        }
        let port_mapping = self.port_mapping.take();
        let give_back = async move {
            if let Some(port_mapping) = port_mapping {
                port_mapping.close().await;
            }
        };
        tokio::join!(give_back, self.close_databases());
        let (now, wall) = self.clock.now();
        self.stack.post_waiting(now, wall);
        self.drain(now, wall);
    }

    /// Takes what has come from threads and sockets, whatever the driver was woken by: who commands without pause does not keep it from listening.
    fn take_batches(&mut self) {
        let (now, wall) = self.clock.now();
        for _ in 0..MAX_BATCH {
            let Ok(output) = self.thread_outputs.try_recv() else { break };
            self.on_output(now, wall, output);
        }
        for _ in 0..MAX_BATCH {
            let Some((socket, remote, datagram)) = self.sockets.try_recv() else { break };
            match socket {
                SocketId::MAIN => self.stack.handle_datagram(now, wall, remote, datagram),
                auxiliary => self.stack.handle_auxiliary(now, wall, auxiliary, remote, datagram),
            }
        }
        for _ in 0..MAX_BATCH {
            let Some(arrival) = self.streams.try_next() else { break };
            self.on_arrival(now, wall, arrival);
        }
    }

    /// Takes what has come by a stream.
    fn on_arrival(&mut self, now: Instant, wall: Timestamp, arrival: Arrival) {
        match arrival {
            Arrival::Datagram(remote, datagram) => self.stack.handle_auxiliary(now, wall, SocketId::STREAM, remote, datagram),
            Arrival::Ended(remote) => self.stack.stream_closed(remote),
            Arrival::Accepted(..) => {}
        }
    }

    /// A code that nobody waits for any more is void.
    pub(crate) fn end_abandoned_linking(&mut self, now: Instant, wall: Timestamp) {
        if self.linking.as_ref().is_some_and(|watch| watch.outcome.is_closed()) {
            self.linking = None;
            self.stack.cancel_linking(now, wall);
        }
    }

    /// Ends the threads; what they still publish is part of what was acknowledged.
    async fn close_databases(&mut self) {
        let threads: Vec<_> = std::mem::take(&mut self.databases).into_values().map(DatabaseThread::close).collect();
        let mut running = threads.len();
        while running > 0
            && let Some(output) = self.thread_outputs.recv().await
        {
            if let Output::Database(_, DatabaseOutput::Closed) = output {
                running -= 1;
            }
            let (now, wall) = self.clock.now();
            self.on_output(now, wall, output);
        }
        for thread in threads {
            let _ = thread.join();
        }
    }

    /// Passes on everything the stack has to say.
    pub(crate) fn drain(&mut self, now: Instant, wall: Timestamp) {
        loop {
            while let Some(transmit) = self.stack.poll_transmit() {
                match transmit.socket {
                    SocketId::STREAM => self.streams.send(transmit.destination, transmit.payload),
                    _ => self.sockets.send(&transmit),
                }
            }
            while let Some(socket) = self.stack.poll_closed() {
                self.sockets.close(socket);
            }
            let Some(event) = self.stack.poll_event() else { return };
            self.on_event(now, wall, event);
        }
    }

    /// The time. If it is long after `due`, the machine or this process was suspended, and the network may have forgotten it.
    fn woken(&mut self, due: Instant) -> (Instant, Timestamp) {
        let (now, wall) = self.clock.now();
        if now.saturating_duration_since(due) >= SUSPENDED {
            self.addresses_at = now;
            self.streams.end_all();
            self.stack.network_changed(now, wall);
        }
        (now, wall)
    }

    /// The system says that its network has changed.
    fn on_change(&mut self, now: Instant, wall: Timestamp, change: Change) {
        let new_link = self.sockets.look();
        let addresses = self.sockets.local_addresses();
        let same = addresses == self.stack.local_addresses();
        if (same && change == Change::Addresses && !new_link) || !self.changes.take(now) {
            return;
        }
        if !same || change == Change::Way {
            self.streams.end_all();
        }
        match (same, change) {
            (true, Change::Addresses) => self.stack.announce(now, wall),
            (true, Change::Way) => self.stack.network_changed(now, wall),
            (false, _) => self.stack.set_local_addresses(now, wall, &addresses),
        }
        if let Some(port_mapping) = &self.port_mapping {
            port_mapping.tell(&addresses, change == Change::Way);
        }
    }

    fn tell_addresses(&mut self, now: Instant, wall: Timestamp) {
        if now >= self.addresses_at {
            self.addresses_at = now + ADDRESS_INTERVAL;
            let new_link = self.sockets.look();
            let addresses = self.sockets.local_addresses();
            self.stack.set_local_addresses(now, wall, &addresses);
            if new_link {
                self.stack.announce(now, wall);
            }
            if let Some(port_mapping) = &self.port_mapping {
                port_mapping.tell(&addresses, false);
            }
        }
    }

    /// What became of the mapping of a family of addresses.
    pub(crate) fn set_port_mapping(&mut self, now: Instant, wall: Timestamp, v6: bool, outcome: Option<portmap::Outcome>) {
        self.mapped[usize::from(v6)] = outcome;
        let addresses: Vec<_> = self.port_mapping().mapped.into_iter().map(|mapped| mapped.address).collect();
        self.stack.set_mapped_addresses(now, wall, &addresses);
    }

    pub(crate) fn port_mapping(&self) -> PortMappingStatus {
        let mapped = self.mapped.iter().flatten().filter_map(|outcome| outcome.clone().ok()).collect();
        let trouble = self.mapped[0].clone().and_then(Result::err);
        PortMappingStatus { mapped, trouble }
    }

    pub(crate) fn local_addresses(&self) -> Vec<SocketAddr> {
        self.sockets.local_addresses()
    }

    pub(crate) fn name_of(&self, peer: PeerId) -> Option<String> {
        self.stack.account().user().name_of(peer).map(str::to_owned)
    }

    fn on_event(&mut self, now: Instant, wall: Timestamp, event: stack::Event) {
        match event {
            stack::Event::Connected { peer, path } => {
                self.remember_peer(peer, &path, wall);
                if self.stack.is_contact(peer) {
                    self.send_outbox(peer);
                }
                self.tell(NodeEvent::Connected { peer, path: describe(&path) });
            }
            stack::Event::PathChanged { peer, path } => {
                self.remember_peer(peer, &path, wall);
                self.tell(NodeEvent::PathChanged { peer, path: describe(&path) });
            }
            stack::Event::Disconnected { peer } => self.tell(NodeEvent::Disconnected { peer }),
            stack::Event::Missing { topic, link } => tracing::info!("a message on topic {topic} did not come: {link:?}"),
            stack::Event::Message(message) => self.store_message(message, |_| {}),
            stack::Event::Stored { id, holders } => {
                if let Some(publication) = self.publications.get(&id) {
                    publication.send_replace(holders);
                }
            }
            stack::Event::Mail { from, letter } => self.on_mail(from, letter),
            stack::Event::MailStored { id, holders } => {
                self.on_letter(id, LetterState::Stored(holders));
            }
            stack::Event::MailExpired { id } => self.on_letter(id, LetterState::Expired),
            stack::Event::MailDelivered { id } => {
                self.on_letter(id, LetterState::Delivered);
                self.store.write_behind("the outbox", move |c| c.execute("DELETE FROM outbox WHERE id = ?1", [id]).map(drop));
            }
            stack::Event::Contact { peer, established } => self.store.write_behind("a contact", move |c| {
                c.execute(
                    "INSERT INTO contact VALUES (?1, ?2) ON CONFLICT DO UPDATE SET established = max(established, excluded.established)",
                    params![peer.0, established],
                )
                .map(drop)
            }),
            stack::Event::Database { database, input } => self.on_database_input(database, input),
            stack::Event::AccountChanged => {
                self.store_account(|_| {});
                self.tell_forks();
                self.tell(NodeEvent::AccountChanged);
            }
            stack::Event::LinkMatched(found) => {
                let LinkMatch { device, name, joins, kind, group, role, words } = found;
                let matched = Matched { device, name, joins: joins.to_string(), kind: kind.into(), group, role: role.into(), words };
                if let Some(sender) = self.linking.as_mut().and_then(|watch| watch.matched.take()) {
                    let _ = sender.send(matched.clone());
                }
                self.tell(NodeEvent::LinkMatched(matched));
            }
            stack::Event::Linked { device, name, words, others } => self.on_linked(Linked { device, name, words, others }),
            stack::Event::LinkFailed { failure, attempts } => {
                self.tell(NodeEvent::LinkFailed { reason: failure.to_string(), attempts });
                if let Some(watch) = self.linking.take() {
                    let _ = watch.outcome.send(Err(crate::node::LinkError::Failed { failure, attempts }));
                }
            }
            stack::Event::LinkAttempt { device, attempts } => {
                tracing::warn!("{device} came to an invitation that is over: {attempts} devices in all have tried it");
                self.tell(NodeEvent::LinkAttempt { device, attempts });
            }
            stack::Event::Restored { user, name } => self.on_restored(Recovered { user: user.to_string(), name }),
            stack::Event::RestoreFailed(failure) => {
                self.tell(NodeEvent::RestoreFailed { reason: failure.to_string() });
                if let Some(watch) = self.recovering.take() {
                    let _ = watch.outcome.send(Err(failure.into()));
                }
            }
            stack::Event::RecoveryProgress { user, have, need } => {
                let user = user.to_string();
                if let Some(watch) = &self.recovering {
                    watch.progress.send_replace(Progress { user: user.clone(), have, need });
                }
                self.tell(NodeEvent::RecoveryProgress { user, have, need });
            }
            stack::Event::GuardianPackage { from, package } => self.on_package(from, &package),
            stack::Event::Query { topic, query, from, body } => {
                let from_name = self.name_in(topic, from);
                self.tell(NodeEvent::Query(crate::types::Query { topic, id: query.0, from, from_name, body }));
            }
            stack::Event::Answer { query, from, body } => self.on_answer(query, from, body),
            stack::Event::QueryEnded { query } => drop(self.queries.remove(&query)),
            stack::Event::Present { topic, peer, .. } => self.tell(NodeEvent::Present { topic, peer }),
            stack::Event::Absent { topic, peer } => self.tell(NodeEvent::Absent { topic, peer }),
            stack::Event::Keep(packet) => self.packets.keep(now, packet),
            stack::Event::Forget(id) => self.packets.forget(now, id),
            stack::Event::Reflexive(address) => {
                if !self.reflexive.contains(&address) {
                    self.reflexive.insert(0, address);
                    self.reflexive.truncate(MAX_REFLEXIVE);
                }
            }
        }
        let _ = now;
    }

    /// A device is linked only once the account is on disk.
    fn on_linked(&mut self, linked: Linked) {
        let (events, waiting) = (self.events.clone(), self.linking.take().map(|watch| watch.outcome));
        self.store_account(move |stored| {
            if let Err(error) = &stored {
                tracing::error!("the new account could not be stored: {error}");
            }
            if stored.is_ok() {
                let _ = events.send(NodeEvent::Linked(linked.clone()));
            }
            if let Some(waiting) = waiting {
                let _ = waiting.send(stored.map(|()| linked).map_err(crate::node::LinkError::State));
            }
        });
    }

    pub(crate) fn store_account(&self, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        let bytes = self.stack.account().encode();
        self.store.write(move |c| c.execute("INSERT OR REPLACE INTO account VALUES (1, ?1)", [bytes.as_slice()]).map(drop), done);
    }

    /// Adds a message to its topic's history; it is announced, and `done` called, when it is on disk.
    pub(crate) fn store_message(&self, message: stack::TopicMessage, done: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        let events = self.events.clone();
        let shown = Message {
            topic: message.topic,
            id: message.id,
            author: message.author,
            author_name: self.name_in(message.topic, message.author),
            created: message.created,
            previous: Some(message.previous).filter(|link| *link != peers_wire::Link::NONE),
            payload: message.payload.clone(),
        };
        let (sender, receiver) = std::sync::mpsc::channel();
        self.store.write(
            move |c| {
                let added = mailbox::add_message(c, &message)?;
                let _ = sender.send(added);
                Ok(())
            },
            move |stored| {
                if stored.is_ok() && receiver.recv() == Ok(true) {
                    let _ = events.send(NodeEvent::Message(shown));
                }
                done(stored);
            },
        );
    }

    /// A letter is acknowledged to its sender once it is on disk; a second copy is acknowledged again and shown once.
    fn on_mail(&self, from: PeerId, letter: Letter) {
        let (id, size) = (letter.id, letter.body.len());
        let unstored = Arc::clone(&self.unstored_mail);
        if unstored.fetch_add(size, Ordering::Relaxed) + size > MAX_UNSTORED_MAIL {
            unstored.fetch_sub(size, Ordering::Relaxed);
            tracing::warn!("the disk is behind: a letter of {from} is not taken now");
            return;
        }
        let mail = Mail {
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            from,
            from_name: self.name_of(from),
            created: letter.created,
            name: letter.name.clone(),
            body: letter.body.clone(),
        };
        let events = self.events.clone();
        let acknowledge = self.handle_for_acknowledging();
        let (sender, receiver) = std::sync::mpsc::channel();
        self.store.write(
            move |c| {
                let _ = sender.send(mailbox::keep(c, from, &letter)?);
                Ok(())
            },
            move |stored| {
                unstored.fetch_sub(size, Ordering::Relaxed);
                let kept = stored.map(|()| receiver.recv().unwrap_or(Kept::Refused));
                match kept {
                    Ok(Kept::New | Kept::Again) => acknowledge(from, id),
                    Ok(Kept::Refused) => tracing::warn!("a letter of {from} is refused: those of strangers take all the room they may"),
                    Err(_) => {}
                }
                if matches!(kept, Ok(Kept::New)) {
                    let _ = events.send(NodeEvent::Mail(mail));
                }
            },
        );
    }

    /// Sends what `peer` has not acknowledged; at most so much at a time.
    fn send_outbox(&self, peer: PeerId) {
        let outputs = self.outputs.clone();
        self.store.write_behind("the outbox", move |c| {
            let mut statement = c.prepare_cached("SELECT letter FROM outbox WHERE recipient = ?1 ORDER BY created LIMIT ?2")?;
            let mut rows = statement.query(params![peer.0, MAX_SENT_AGAIN])?;
            let mut bytes = 0;
            while let Some(row) = rows.next()?
                && bytes < MAX_SENT_AGAIN_BYTES
            {
                let letter: Vec<u8> = row.get(0)?;
                bytes += letter.len();
                if let Ok(MailBody::Letter(letter)) = MailBody::decode(&letter) {
                    // Without room it goes when they meet again.
                    let _ = outputs.try_send(Output::SendAgain { to: peer, letter });
                }
            }
            Ok(())
        });
    }

    fn handle_for_acknowledging(&self) -> impl FnOnce(PeerId, LetterId) + Send + use<> {
        let outputs = self.outputs.clone();
        move |from, letter| {
            // Without room the receipt is lost; the sender posts the letter again, and that one is acknowledged.
            let _ = outputs.try_send(Output::MailStored { from, letter });
        }
    }

    fn on_letter(&mut self, id: LetterId, state: LetterState) {
        if let Some(letter) = self.letters.get(&id) {
            letter.send_if_modified(|present| {
                let later = !matches!((*present, state), (LetterState::Delivered, _));
                if later {
                    *present = state;
                }
                later
            });
        }
    }

    fn on_database_input(&mut self, database: DatabaseId, input: DatabaseInput) {
        if let Some(thread) = self.databases.get(&database) {
            thread.input(input);
        }
    }

    fn on_output(&mut self, now: Instant, wall: Timestamp, output: Output) {
        match output {
            Output::Database(database, output) => self.on_database_output(now, wall, database, output),
            Output::MailStored { from, letter } => self.stack.acknowledge(now, wall, from, letter),
            Output::SendAgain { to, letter } => self.stack.send_again(now, wall, to, letter),
        }
    }

    fn on_database_output(&mut self, now: Instant, wall: Timestamp, database: DatabaseId, output: DatabaseOutput) {
        match output {
            DatabaseOutput::Message { to, message } => self.stack.send_database(now, wall, database, to, message),
            DatabaseOutput::Publish(changes) => {
                if changes.len() <= MAX_PUBLISHED_CHANGES {
                    self.stack.publish_changes(now, wall, database, &changes);
                }
            }
            DatabaseOutput::Changed { table, author } => self.tell(NodeEvent::DatabaseChanged { database, table, author }),
            DatabaseOutput::InStep(peer) => self.tell(NodeEvent::DatabaseInStep { database, peer }),
            DatabaseOutput::Closed => {}
        }
    }

    fn remember_peer(&self, peer: PeerId, path: &Path, wall: Timestamp) {
        if let Path::Direct(address) = path {
            let address = address.to_string();
            self.store.write_behind("a peer's address", move |c| {
                c.execute("INSERT OR REPLACE INTO peer VALUES (?1, ?2, ?3)", params![peer.0, address, wall.0.cast_signed()])?;
                // Contacts stay, however many others come.
                let oldest = "DELETE FROM peer WHERE id NOT IN (SELECT id FROM peer ORDER BY id IN (SELECT id FROM contact) DESC, seen DESC LIMIT ?1)";
                c.execute(oldest, [MAX_REMEMBERED_PEERS]).map(drop)
            });
        }
    }

    pub(crate) fn tell(&self, event: NodeEvent) {
        // Nobody may be listening.
        let _ = self.events.send(event);
    }

    /// Files of open databases.
    pub(crate) fn path_of(&self, database: DatabaseId) -> Option<PathBuf> {
        self.databases.get(&database).map(|thread| thread.path().to_owned())
    }
}

/// How a path reads.
pub(crate) fn describe(path: &Path) -> String {
    match path {
        Path::Direct(address) => format!("direct {address}"),
        Path::Relayed(relay) => format!("relayed by {relay}"),
    }
}

/// Datagrams and outputs taken per wake.
const MAX_BATCH: usize = 64;
const MAX_OUTPUTS: usize = 1024;
const MAX_REFLEXIVE: usize = 8;
/// Bytes of letters on their way to the disk; more are not taken, and come again as they are not acknowledged.
pub(crate) const MAX_UNSTORED_MAIL: usize = 64 << 20;
/// Letters sent again to a peer that has come, and their bytes, about.
const MAX_SENT_AGAIN: i64 = 64;
const MAX_SENT_AGAIN_BYTES: usize = 16 << 20;
const MAX_REMEMBERED_PEERS: i64 = 256;
/// Whoever wakes so long after the time was asleep.
const SUSPENDED: Duration = Duration::from_secs(3);
/// How often the machine's addresses are looked at, whatever the system tells.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(5);
/// Changes larger than this wait for a direct meeting: the caches of strangers are for news, not for copies of databases.
const MAX_PUBLISHED_CHANGES: usize = 256 << 10;
