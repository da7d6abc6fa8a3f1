//! The whole node as one sans-IO state machine: every layer composed, no clock, no socket, no thread.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use peers_cache::{Cache, QueryId};
use peers_crypto::{DeviceKey, GroupId};
use peers_nat::{Agent, Path, SocketId, Transmit};
use peers_wire::{Link, Packet, PacketId, PeerId, Timestamp, TopicId, Writer};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::account::{Account, DatabaseId, database_topic};
use crate::asking::Asking;
use crate::linking::{LinkFailure, LinkMatch, Linkings};
use crate::mail::Mailroom;
use crate::message::{Letter, LetterId, MailBody, PeerMessage};
use crate::recovery::{Recovering, RestoreFailure};
use crate::topics::Topics;
use crate::transport::{self, Lane, Transport};

/// What a [`Stack`] can be told; the defaults are those of the layers.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Sessions, paths, LAN discovery.
    pub nat: peers_nat::Config,
    /// The cache lent to everyone.
    pub cache: peers_cache::Config,
    /// Reliable messages between connected peers.
    pub transport: transport::Config,
}

/// What happened that a user of the node cares for.
#[derive(Debug, Clone)]
pub enum Event {
    /// On a topic that is followed in order, this message did not come in time: those that link to it do now.
    Missing {
        /// The topic.
        topic: TopicId,
        /// The message, named as others link to it.
        link: Link,
    },
    /// A session with a peer began.
    Connected {
        /// The peer.
        peer: PeerId,
        /// How it is reached.
        path: Path,
    },
    /// A peer is reached another way now.
    PathChanged {
        /// The peer.
        peer: PeerId,
        /// How it is reached.
        path: Path,
    },
    /// A session with a peer ended.
    Disconnected {
        /// The peer.
        peer: PeerId,
    },
    /// A message on a subscribed topic; its author and publisher are checked.
    Message(TopicMessage),
    /// That many other peers have proven to hold a message published here; fewer than before, if one failed a check.
    Stored {
        /// The packet: a message's head.
        id: PacketId,
        /// Origins, such as address prefixes, of peers that signed receipts.
        holders: u32,
    },
    /// Mail; to be answered by [`Stack::acknowledge`] once it is stored. May come more than once.
    Mail {
        /// The sender, proven by its signature.
        from: PeerId,
        /// What it sent.
        letter: Letter,
    },
    /// A letter sent here waits in the caches of that many peers.
    MailStored {
        /// The letter.
        id: LetterId,
        /// Origins, such as address prefixes, of peers that signed receipts.
        holders: u32,
    },
    /// A letter left in the caches of others has expired there undelivered: it waits for a meeting with its recipient.
    MailExpired {
        /// The letter.
        id: LetterId,
    },
    /// The recipient has stored a letter sent here.
    MailDelivered {
        /// The letter.
        id: LetterId,
    },
    /// A peer became someone to exchange mail with (`established`: it has written to us as well); to be kept on disk.
    Contact {
        /// The peer.
        peer: PeerId,
        /// It has written to us.
        established: bool,
    },
    /// Something for the replica of an open database.
    Database {
        /// Which database.
        database: DatabaseId,
        /// What its replica is to be given.
        input: DatabaseInput,
    },
    /// The account changed and is to be kept on disk: devices, databases, or all of it after linking.
    AccountChanged,
    /// The other device has the same code: the words to show, before anything secret is sent.
    LinkMatched(LinkMatch),
    /// Linking ended well: this device and `device` are of one user now.
    Linked {
        /// The other device.
        device: PeerId,
        /// Its name.
        name: String,
        /// The same words are shown on both devices.
        words: String,
        /// Other devices that came to the invitation.
        others: usize,
    },
    /// Linking ended without success.
    LinkFailed {
        /// Why.
        failure: LinkFailure,
        /// Devices that came to the invitation; 0 on the side that accepts.
        attempts: usize,
    },
    /// A device came to an invitation that is over, and was told so.
    LinkAttempt {
        /// The device.
        device: PeerId,
        /// Devices that came to that invitation in all.
        attempts: usize,
    },
    /// The user was restored: this device is one of theirs now.
    Restored {
        /// The user.
        user: GroupId,
        /// Its name.
        name: String,
    },
    /// The user was not restored.
    RestoreFailed(RestoreFailure),
    /// So many guardians have answered, of those needed.
    RecoveryProgress {
        /// Whose they say they are: to be confirmed by the person.
        user: GroupId,
        /// Answers that fit together.
        have: usize,
        /// Answers that it takes.
        need: usize,
    },
    /// A contact chose this device's user as guardian: to be kept on disk, in the place of an older one of the same user.
    GuardianPackage {
        /// The device that sent it.
        from: PeerId,
        /// A [`GuardianPackage`](peers_crypto::GuardianPackage), encoded.
        package: Bytes,
    },
    /// Somebody who follows a topic asks everyone who does; to be answered by [`Stack::answer`], or not.
    Query {
        /// The topic, as an application knows it.
        topic: TopicId,
        /// The question.
        query: QueryId,
        /// Who asks, proven by a signature.
        from: PeerId,
        /// What is asked.
        body: Bytes,
    },
    /// An answer to a question asked here: the first of that device.
    Answer {
        /// The question.
        query: QueryId,
        /// Who answers, proven by a signature.
        from: PeerId,
        /// What was answered.
        body: Bytes,
    },
    /// The time of a question asked here is over, or it was cancelled.
    QueryEnded {
        /// The question.
        query: QueryId,
    },
    /// Somebody is there, or says so again.
    Present {
        /// The topic, as an application knows it.
        topic: TopicId,
        /// Who.
        peer: PeerId,
        /// How long that is good.
        until: Timestamp,
    },
    /// Somebody who was there has said that it leaves, or has not said for too long that it is there.
    Absent {
        /// The topic.
        topic: TopicId,
        /// Who.
        peer: PeerId,
    },
    /// A packet to be kept on disk.
    Keep(Packet),
    /// A packet to be removed from disk.
    Forget(PacketId),
    /// Our address as others see it.
    Reflexive(SocketAddr),
}

/// What the replica of a database is to be given; the caller runs it, as SQLite may block.
#[derive(Debug, Clone)]
pub enum DatabaseInput {
    /// A device that keeps the database can be talked to.
    PeerConnected(PeerId),
    /// It no longer can.
    PeerDisconnected(PeerId),
    /// It says something.
    Message {
        /// The device.
        from: PeerId,
        /// Its message.
        message: Bytes,
    },
    /// Changes that waited in the relay cache.
    Changes {
        /// The device that published them.
        from: PeerId,
        /// As the replica of that device encoded them.
        changes: Bytes,
    },
}

/// A message on a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMessage {
    /// The topic.
    pub topic: TopicId,
    /// The packet, the message's head where it has fragments.
    pub id: PacketId,
    /// The device that wrote it.
    pub author: PeerId,
    /// When it was written, by its author's clock.
    pub created: Timestamp,
    /// The message that its author had seen last on this topic.
    pub previous: Link,
    /// The content.
    pub payload: Bytes,
}

/// Counters since the start, of every layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stats {
    /// Sessions and paths.
    pub nat: peers_nat::Stats,
    /// Cache and gossip.
    pub cache: peers_cache::Stats,
    /// Messages of connected peers that did not decode, or that the sender may not send.
    pub refused_messages: u64,
    /// Topic messages that did not open under the topic's key, or whose author is forged.
    pub refused_topic_messages: u64,
    /// Fragments of unfinished messages that were asked for by id.
    pub repairs: u64,
    /// Devices that came to an invitation after it was over.
    pub late_links: u64,
    /// Messages that could not be queued for a peer that is too slow.
    pub overflowed: u64,
}

#[derive(Debug)]
pub(crate) struct Peer {
    transport: Transport,
    /// When the transport wants to be called.
    due: Option<Instant>,
    /// It is a device of the user and knows that we are: it has told us of its account in this session.
    pub(crate) greeted: bool,
    /// Databases that it keeps open.
    pub(crate) databases: BTreeSet<DatabaseId>,
    /// Messages whose order matters and none of which may be missing, for which the transport has no room yet.
    waiting: VecDeque<Bytes>,
    pub(crate) waiting_bytes: usize,
}

impl Peer {
    fn send(&mut self, message: &PeerMessage) -> bool {
        let lane = match message {
            PeerMessage::Mail(MailBody::Letter(letter)) if letter.body.len() > MAX_INTERACTIVE_LETTER => Lane::Bulk,
            PeerMessage::Mail(_) => Lane::Interactive,
            // One lane, as their order matters: who we are, which databases, what they say.
            _ => {
                let message = message.encode();
                let fits = self.waiting_bytes + message.len() <= MAX_WAITING;
                if fits {
                    self.waiting_bytes += message.len();
                    self.waiting.push_back(message);
                    self.send_waiting();
                }
                return fits;
            }
        };
        self.transport.send(lane, message.encode()).is_ok()
    }

    fn send_waiting(&mut self) {
        while let Some(message) = self.waiting.front()
            && self.transport.send(Lane::Bulk, message.clone()).is_ok()
        {
            self.waiting_bytes -= message.len();
            self.waiting.pop_front();
        }
    }
}

/// A whole node. Give it one input, then drain [`Stack::poll_transmit`] and [`Stack::poll_event`] to `None`, then sleep until [`Stack::poll_timeout`].
#[derive(Debug)]
pub struct Stack {
    pub(crate) key: Arc<DeviceKey>,
    pub(crate) rng: ChaCha20Rng,
    transport_config: transport::Config,
    cache_budget: usize,
    pub(crate) agent: Agent,
    pub(crate) cache: Cache,
    pub(crate) peers: BTreeMap<PeerId, Peer>,
    /// Peers whose transport may have something to say.
    busy: BTreeSet<PeerId>,
    /// When the transports want to be called, and the same by peer: of those that do.
    due: BTreeSet<(Instant, PeerId)>,
    pub(crate) topics: Topics,
    pub(crate) mail: Mailroom,
    pub(crate) account: Account,
    pub(crate) linking: Linkings,
    local: Vec<SocketAddr>,
    pub(crate) databases: BTreeSet<DatabaseId>,
    /// Topics of the user's own that an application follows.
    pub(crate) labels: BTreeSet<String>,
    pub(crate) recovery: Recovering,
    pub(crate) asking: Asking,
    transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) stats: Stats,
}

impl Stack {
    /// A node that owns `key` and acts for `account`. Nothing is sent before it has an address or a peer.
    pub fn new(now: Instant, wall: Timestamp, config: Config, key: DeviceKey, account: Account, seed: [u8; 32]) -> Self {
        let key = Arc::new(key);
        let mut rng = ChaCha20Rng::from_seed(seed);
        let agent = Agent::new(now, config.nat, DeviceKey::clone(&key), rng.random());
        let cache_budget = config.cache.budget;
        let mut cache = Cache::new(now, config.cache, key.id(), rng.random());
        cache.sign_with(DeviceKey::clone(&key));
        let mut stack = Self {
            key,
            rng,
            transport_config: config.transport,
            cache_budget,
            agent,
            cache,
            peers: BTreeMap::new(),
            busy: BTreeSet::new(),
            due: BTreeSet::new(),
            topics: Topics::new(),
            mail: Mailroom::default(),
            account,
            linking: Linkings::default(),
            local: Vec::new(),
            databases: BTreeSet::new(),
            labels: BTreeSet::new(),
            recovery: Recovering::new(now),
            asking: Asking::default(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            stats: Stats::default(),
        };
        stack.follow_inbox(now);
        stack.follow_account(now, wall);
        stack
    }

    /// This device.
    pub fn id(&self) -> PeerId {
        self.key.id()
    }

    /// The user this device acts for.
    pub const fn account(&self) -> &Account {
        &self.account
    }

    /// Peers with a session.
    pub fn sessions(&self) -> usize {
        self.peers.len()
    }

    /// Whether there is a session with `peer`.
    pub fn is_connected(&self, peer: PeerId) -> bool {
        self.peers.contains_key(&peer)
    }

    /// Every peer with a session and how it is reached.
    pub fn peers(&self) -> impl Iterator<Item = peers_nat::PeerInfo> + '_ {
        self.agent.peers()
    }

    /// The cache, to look into.
    pub const fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Bytes that the cache may take.
    pub const fn cache_budget(&self) -> u64 {
        self.cache_budget as u64
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        Stats { nat: self.agent.stats(), cache: self.cache.stats(), ..self.stats }
    }

    /// The addresses of our own sockets; again when they change.
    pub fn set_local_addresses(&mut self, now: Instant, wall: Timestamp, addresses: &[SocketAddr]) {
        self.agent.set_local_addresses(now, addresses);
        self.local = addresses.to_vec();
        self.settle(now, wall);
    }

    /// The network under the node is not what it was, though its addresses may be: a link came back, there is another default route, or time passed while the node was suspended.
    pub fn network_changed(&mut self, now: Instant, wall: Timestamp) {
        self.agent.network_changed(now);
        self.settle(now, wall);
    }

    /// The addresses that were told last.
    pub(crate) fn local_addresses(&self) -> &[SocketAddr] {
        &self.local
    }

    /// Announces this device on the LAN again: there is a link that it was not announced on.
    pub fn announce(&mut self, now: Instant, wall: Timestamp) {
        self.agent.announce(now);
        self.settle(now, wall);
    }

    /// The addresses outside that routers map to our sockets; again when they change.
    pub fn set_mapped_addresses(&mut self, now: Instant, wall: Timestamp, addresses: &[SocketAddr]) {
        self.agent.set_mapped_addresses(now, addresses);
        self.settle(now, wall);
    }

    /// How our own NAT behaves, and how long a path may be silent before it is used again.
    pub fn behaviour(&self) -> (peers_nat::Behaviour, std::time::Duration) {
        (self.agent.behaviour(), self.agent.keep_alive())
    }

    /// Looks at our own NAT again, as soon as there are two peers to ask.
    pub fn check_nat(&mut self, now: Instant, wall: Timestamp) {
        self.agent.check_nat(now);
        self.settle(now, wall);
    }

    /// Where others may find this device: what routers map to it, where two others see it, then its own addresses.
    pub(crate) fn own_addresses(&self) -> Vec<SocketAddr> {
        let outside = self.agent.mapped_addresses().iter().copied().chain(self.agent.reflexive_addresses().take(2));
        outside.chain(self.local.iter().copied()).collect()
    }

    /// Seeks a session with `peer` until there is one: at `addresses`, on the LAN, through common peers.
    ///
    /// # Errors
    /// [`peers_nat::ConnectError`] if it is this device itself, or too many are sought.
    pub fn connect(
        &mut self,
        now: Instant,
        wall: Timestamp,
        peer: PeerId,
        addresses: &[SocketAddr],
    ) -> Result<(), peers_nat::ConnectError> {
        self.agent.connect(now, wall, peer, addresses)?;
        self.settle(now, wall);
        Ok(())
    }

    /// Seeks a session with a peer that was at `addresses` when we last met.
    pub fn remember(&mut self, now: Instant, wall: Timestamp, peer: PeerId, addresses: &[SocketAddr]) {
        self.agent.remember(now, wall, peer, addresses);
        self.settle(now, wall);
    }

    /// Seeks a session with whoever answers at `address`.
    pub fn connect_address(&mut self, now: Instant, wall: Timestamp, address: SocketAddr) {
        self.agent.connect_address(now, wall, address);
        self.settle(now, wall);
    }

    /// Takes a packet that was kept on disk back into the cache.
    pub fn load(&mut self, now: Instant, wall: Timestamp, packet: Packet) {
        self.cache.load(now, wall, packet);
    }

    /// A database is open here: its changes are followed, and devices that keep it are told.
    pub fn open_database(&mut self, now: Instant, wall: Timestamp, database: DatabaseId, name: &str) {
        if self.account.catalogue.add(database, name) {
            self.on_catalogue_changed();
        }
        if self.databases.insert(database) {
            self.refollow(now);
            for peer in self.connected_devices() {
                self.send_to(peer, &PeerMessage::Open { database, open: true });
                if self.peers.get(&peer).is_some_and(|peer| peer.databases.contains(&database)) {
                    self.events.push_back(Event::Database { database, input: DatabaseInput::PeerConnected(peer) });
                }
            }
        }
        self.settle(now, wall);
    }

    /// A database is no longer open here.
    pub fn close_database(&mut self, now: Instant, wall: Timestamp, database: DatabaseId) {
        if self.databases.remove(&database) {
            self.refollow(now);
            for peer in self.connected_devices() {
                self.send_to(peer, &PeerMessage::Open { database, open: false });
            }
        }
        self.settle(now, wall);
    }

    /// Sends what the replica of an open database says to another device of the user.
    pub fn send_database(&mut self, now: Instant, wall: Timestamp, database: DatabaseId, to: PeerId, message: Bytes) {
        self.send_to(to, &PeerMessage::Database { database, message });
        self.settle(now, wall);
    }

    /// Leaves changes of an open database in the relay cache, for the user's devices that are offline.
    ///
    /// Nothing is published while the user has no other device. Changes that do not fit a message are left to the direct way.
    pub fn publish_changes(&mut self, now: Instant, wall: Timestamp, database: DatabaseId, changes: &[u8]) -> Option<PacketId> {
        if self.account.user().members().count() < 2 {
            return None;
        }
        let epoch = self.epoch_key(now, wall, self.account.id()).ok()?;
        self.publish(now, wall, &database_topic(&epoch, database), changes).ok()
    }

    /// A datagram arrived.
    pub fn handle_datagram(&mut self, now: Instant, wall: Timestamp, remote: SocketAddr, datagram: Bytes) {
        self.agent.handle_datagram(now, wall, remote, datagram);
        self.settle(now, wall);
    }

    /// A datagram arrived by an auxiliary socket.
    pub fn handle_auxiliary(&mut self, now: Instant, wall: Timestamp, socket: SocketId, remote: SocketAddr, datagram: Bytes) {
        self.agent.handle_auxiliary(now, wall, socket, remote, datagram);
        self.settle(now, wall);
    }

    /// The time that [`Stack::poll_timeout`] named has come; early or repeated calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant, wall: Timestamp) {
        self.agent.handle_timeout(now, wall);
        self.cache.handle_timeout(now, wall);
        while let Some((at, id)) = self.due.first().copied()
            && at <= now
        {
            self.due.pop_first();
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.due = None;
                peer.transport.handle_timeout(now);
                self.busy.insert(id);
            }
        }
        self.repair_messages(now, wall);
        self.pass_over(now);
        self.expire_seeking(now, wall);
        self.expire_mail(now);
        self.keep_present(now, wall);
        self.expire_linking(now, wall);
        self.on_recovery_timeout(now, wall);
        self.settle(now, wall);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// The stream to `address` has ended, or could not be connected.
    pub fn stream_closed(&mut self, address: SocketAddr) {
        self.agent.stream_closed(address);
    }

    /// The next auxiliary socket to close; to be called when there is nothing more to send.
    pub fn poll_closed(&mut self) -> Option<SocketId> {
        self.agent.poll_closed()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// When [`Stack::handle_timeout`] is to be called next.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let transports = self.due.first().map(|(at, _)| *at);
        [
            self.agent.poll_timeout(),
            self.cache.poll_timeout(),
            transports,
            self.topics.next_repair(),
            self.topics.next_passed_over(),
            self.mail.deadline(),
            self.link_deadline(),
            self.recovery.deadline(),
            self.asking.deadline(),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Moves everything between the layers until none has anything to say.
    pub(crate) fn settle(&mut self, now: Instant, wall: Timestamp) {
        loop {
            let mut moved = false;
            while let Some(event) = self.agent.poll_event() {
                moved = true;
                self.on_agent_event(now, wall, event);
            }
            while let Some((peer, message)) = self.cache.poll_message() {
                moved = true;
                let mut data = Writer::with_capacity(message.len() + 1);
                data.u8(GOSSIP).bytes(&message);
                // As above: a loss, which the cache repairs.
                let _ = self.agent.send(now, peer, data.as_ref());
            }
            while let Some(event) = self.cache.poll_event() {
                moved = true;
                self.on_cache_event(now, wall, event);
            }
            while let Some(packet) = self.topics.held.pop_front() {
                moved = true;
                self.on_packet(now, wall, packet);
            }
            while let Some(id) = self.busy.pop_first() {
                moved = true;
                self.pump(now, wall, id);
            }
            while let Some(transmit) = self.agent.poll_transmit() {
                self.transmits.push_back(transmit);
            }
            if !moved {
                return;
            }
        }
    }

    fn on_agent_event(&mut self, now: Instant, wall: Timestamp, event: peers_nat::Event) {
        match event {
            peers_nat::Event::Connected { peer, path } => self.on_connected(now, wall, peer, path),
            peers_nat::Event::PathChanged { peer, path } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.transport.path_changed(now);
                    self.busy.insert(peer);
                }
                self.tell_rtt(peer);
                self.tell_origin(peer, &path);
                self.events.push_back(Event::PathChanged { peer, path });
            }
            peers_nat::Event::Doubt { peer } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.transport.path_in_doubt();
                    self.busy.insert(peer);
                }
            }
            peers_nat::Event::Suspect { peer } => self.cache.peer_silent(peer),
            peers_nat::Event::Disconnected { peer, .. } => self.on_disconnected(now, wall, peer),
            peers_nat::Event::Data { peer, data } => self.on_data(now, wall, peer, &data),
            peers_nat::Event::Early { peer, data } => self.on_early(now, wall, peer, &data),
            peers_nat::Event::EarlyTaken { peer } => self.on_early_taken(peer),
            peers_nat::Event::EarlyLost { peer } => self.on_early_lost(now, wall, peer),
            peers_nat::Event::Reflexive(address) => self.events.push_back(Event::Reflexive(address)),
        }
    }

    fn on_connected(&mut self, now: Instant, wall: Timestamp, peer: PeerId, path: Path) {
        // A session that replaces another begins anew: nothing of the old one is on its way any more.
        self.on_disconnected(now, wall, peer);
        let transport = Transport::new(now, self.transport_config.clone(), self.rng.random());
        let state = Peer { transport, due: None, greeted: false, databases: BTreeSet::new(), waiting: VecDeque::new(), waiting_bytes: 0 };
        self.peers.insert(peer, state);
        self.cache.peer_connected(now, peer);
        self.tell_rtt(peer);
        self.tell_origin(peer, &path);
        self.events.push_back(Event::Connected { peer, path });
        match self.account.has_device(peer) {
            true => self.greet(peer),
            false => self.greet_groups(peer),
        }
        self.send_waiting_mail(now, wall, peer);
    }

    fn on_disconnected(&mut self, now: Instant, wall: Timestamp, peer: PeerId) {
        let Some(gone) = self.peers.remove(&peer) else { return };
        if let Some(at) = gone.due {
            self.due.remove(&(at, peer));
        }
        self.cache.peer_disconnected(now, peer);
        self.events.push_back(Event::Disconnected { peer });
        for database in gone.databases.intersection(&self.databases) {
            self.events.push_back(Event::Database { database: *database, input: DatabaseInput::PeerDisconnected(peer) });
        }
        self.repost_mail(now, wall, peer);
    }

    fn on_data(&mut self, now: Instant, wall: Timestamp, peer: PeerId, data: &Bytes) {
        match data.first() {
            Some(&GOSSIP) => self.cache.handle_message(now, wall, peer, data.slice(1..)),
            Some(&FRAMES) => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.transport.handle_frames(now, &data[1..]);
                    self.busy.insert(peer);
                }
            }
            _ => self.stats.refused_messages += 1,
        }
    }

    /// Lets the transport of one peer send and deliver.
    fn pump(&mut self, now: Instant, wall: Timestamp, id: PeerId) {
        let (mut messages, mut broken) = (Vec::new(), false);
        let Some(peer) = self.peers.get_mut(&id) else { return };
        while let Some(event) = peer.transport.poll_event() {
            match event {
                transport::Event::Message { lane, message } => {
                    peer.transport.consume(lane, message.len());
                    messages.push(message);
                }
                transport::Event::Acked(_) => {}
                transport::Event::Broken(_) => broken = true,
            }
        }
        peer.send_waiting();
        loop {
            let mut data = Writer::with_capacity(peers_nat::MAX_DATA);
            data.u8(FRAMES);
            if !self.peers.get_mut(&id).is_some_and(|peer| peer.transport.poll_transmit(now, &mut data)) {
                break;
            }
            // A peer that is gone by now is a loss to the transport, which repairs it.
            let _ = self.agent.send_asking(now, id, data.as_ref());
        }
        self.schedule(id);
        if broken {
            self.stats.refused_messages += 1;
            self.agent.disconnect(now, id);
        }
        for message in messages {
            self.on_message(now, wall, id, &message);
        }
    }

    /// Notes when the transport of a peer, which has nothing more to say now, wants to be called.
    fn schedule(&mut self, id: PeerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let due = peer.transport.poll_timeout();
        let before = core::mem::replace(&mut peer.due, due);
        if due != before {
            before.map(|at| self.due.remove(&(at, id)));
            due.map(|at| self.due.insert((at, id)));
        }
    }

    fn on_message(&mut self, now: Instant, wall: Timestamp, from: PeerId, message: &Bytes) {
        let trusted = self.account.has_device(from);
        match PeerMessage::decode(message) {
            Ok(PeerMessage::Catalogue(catalogue)) if trusted => {
                if self.account.catalogue.merge(&catalogue) {
                    self.events.push_back(Event::AccountChanged);
                }
            }
            Ok(PeerMessage::Group { group, known }) => {
                if self.on_group(now, wall, from, &group, &known) && self.account.has_device(from) {
                    self.on_greeting(from);
                }
            }
            Ok(PeerMessage::Grant { group, grant }) => self.take_grant(now, group, &grant),
            Ok(PeerMessage::Consent { group, consent }) if trusted => self.on_consent(now, wall, from, group, consent),
            Ok(PeerMessage::Open { database, open }) if trusted => self.on_open(from, database, open),
            Ok(PeerMessage::Mail(mail)) => self.on_mail(now, wall, from, mail),
            Ok(PeerMessage::Database { database, message }) if trusted => {
                // One that was closed a moment ago may still be written about.
                if self.databases.contains(&database) {
                    self.events.push_back(Event::Database { database, input: DatabaseInput::Message { from, message } });
                }
            }
            _ => self.stats.refused_messages += 1,
        }
    }

    fn on_cache_event(&mut self, now: Instant, wall: Timestamp, event: peers_cache::Event) {
        match event {
            peers_cache::Event::Packet(packet) => self.on_packet(now, wall, packet),
            // What they merely say is for the cache to act on.
            peers_cache::Event::Stored { .. } => {}
            peers_cache::Event::Attested { id, holders } => match self.mail.letter_of(&id) {
                Some(id) => self.events.push_back(Event::MailStored { id, holders }),
                None => self.events.push_back(Event::Stored { id, holders }),
            },
            peers_cache::Event::Query { id, topic, payload } => self.on_question(now, wall, id, topic, &payload),
            peers_cache::Event::Answer { id, payload } => self.on_query_answer(now, wall, id, &payload),
            peers_cache::Event::QueryEnded { id } => self.on_query_ended(now, id),
            peers_cache::Event::Kept(packet) => self.events.push_back(Event::Keep(packet)),
            peers_cache::Event::Dropped(id) => self.events.push_back(Event::Forget(id)),
        }
    }

    /// Queues a reliable message; `false` if there is no session or its queue is full.
    pub(crate) fn send_to(&mut self, to: PeerId, message: &PeerMessage) -> bool {
        let Some(peer) = self.peers.get_mut(&to) else { return false };
        self.busy.insert(to);
        let queued = peer.send(message);
        if !queued {
            self.stats.overflowed += 1;
        }
        queued
    }

    /// The cache prefers near peers.
    fn tell_rtt(&mut self, peer: PeerId) {
        if let Some(rtt) = self.agent.peer(peer).and_then(|info| info.rtt) {
            self.cache.set_rtt(peer, rtt);
        }
    }

    fn connected_devices(&self) -> Vec<PeerId> {
        self.peers.keys().filter(|peer| self.account.has_device(**peer)).copied().collect()
    }

    /// Tells a device of the user of the account and of the databases that are open here.
    fn greet(&mut self, device: PeerId) {
        self.greet_groups(device);
        self.send_to(device, &PeerMessage::Catalogue(self.account.catalogue.clone()));
        for database in self.databases.clone() {
            self.send_to(device, &PeerMessage::Open { database, open: true });
        }
    }

    /// The first word of a device in a session: what we said before, it may have refused, not knowing yet that we are of one user.
    fn on_greeting(&mut self, from: PeerId) {
        if let Some(peer) = self.peers.get_mut(&from)
            && !core::mem::replace(&mut peer.greeted, true)
        {
            self.greet(from);
        }
    }

    fn on_open(&mut self, from: PeerId, database: DatabaseId, open: bool) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let input = match open {
            true if peer.databases.len() >= crate::account::MAX_DATABASES => return,
            true if peer.databases.insert(database) => DatabaseInput::PeerConnected(from),
            false if peer.databases.remove(&database) => DatabaseInput::PeerDisconnected(from),
            _ => return,
        };
        if self.databases.contains(&database) {
            self.events.push_back(Event::Database { database, input });
        }
    }

    /// A database was added: keep it, and tell the others.
    fn on_catalogue_changed(&mut self) {
        self.events.push_back(Event::AccountChanged);
        for peer in self.connected_devices() {
            self.send_to(peer, &PeerMessage::Catalogue(self.account.catalogue.clone()));
        }
    }

    pub(crate) fn device_ids(&self) -> BTreeSet<PeerId> {
        self.account.user().members().map(|device| device.id).collect()
    }

    /// Devices that became the user's, which were strangers until now: seek them, and treat those connected as devices.
    pub(crate) fn meet_devices(&mut self, now: Instant, wall: Timestamp, before: &BTreeSet<PeerId>) {
        let own = self.id();
        for device in self.device_ids() {
            if device == own || before.contains(&device) {
                continue;
            }
            self.add_contact(now, device, true);
            let _ = self.agent.connect(now, wall, device, &[]);
            if self.is_connected(device) {
                self.greet(device);
            }
        }
    }

    /// Follows the topics of the account, and seeks the user's other devices and the members of its groups.
    pub(crate) fn follow_account(&mut self, now: Instant, wall: Timestamp) {
        self.refollow(now);
        self.meet_devices(now, wall, &BTreeSet::new());
        for group in self.account.groups().map(|membership| membership.group.id()).collect::<Vec<_>>() {
            self.meet_members(now, wall, group);
        }
    }

    /// Acts for another user from now on: what linking and recovery do. Databases that are open stay so, and become the new user's.
    pub(crate) fn replace_account(&mut self, now: Instant, wall: Timestamp, account: Account) {
        self.account = account;
        self.follow_account(now, wall);
        self.events.push_back(Event::AccountChanged);
    }
}

/// First byte of session data: one message of the cache.
const GOSSIP: u8 = 0;
/// First byte of session data: frames of the transport.
const FRAMES: u8 = 1;
/// Bytes that wait for room in the transport to one peer: the few batches of a database that are on their way at a time, of rows as large as they get.
const MAX_WAITING: usize = 512 << 20;
/// Letters above this many bytes do not keep others waiting.
const MAX_INTERACTIVE_LETTER: usize = 256 << 10;
