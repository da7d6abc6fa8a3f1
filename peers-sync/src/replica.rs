//! The replica: one SQLite file, what is done with it, and its conversations.

use std::collections::{BTreeMap, VecDeque};
use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use peers_wire::{PeerId, Timestamp};
use rusqlite::{Connection, OptionalExtension, params};

use crate::changes::Changes;
use crate::clock::{Origin, Position, VersionVector};
use crate::clocks::{meta, set_meta};
use crate::engine::{Change, Core};
use crate::merge::ApplyError;
use crate::schema::TrackError;
use crate::store::{OpenError, StoreError, begin, connect, file_identity, make_private};
use crate::talk::{FORWARD_DELAY, MAX_IN_FLIGHT, Message, Peer, RETRY};

/// How a replica is opened.
#[derive(Debug, Clone)]
pub struct Config {
    /// The device that writes here. Must be set.
    pub author: PeerId,
    /// The raw SQLCipher key of the file (feature `sqlcipher`); none for a plain file.
    pub key: Option<[u8; 32]>,
    /// The number of a history that begins with this opening, if one does (a new file, or one that another device wrote): any number that this
    /// device never used for this database; 48 bits. None: drawn at random by SQLite.
    pub incarnation: Option<u64>,
    /// Milliseconds to wait for other programs that have the file locked. Default 5,000, as many programs use.
    pub busy_timeout: u32,
    /// Page cache of each of the two connections, in KiB. Default 16,384.
    pub cache_kib: u32,
    /// Milliseconds that a change may be ahead of our clock; it waits until it is not. Default 10 minutes.
    pub max_skew: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { author: PeerId([0; 32]), key: None, incarnation: None, busy_timeout: 5000, cache_kib: 16_384, max_skew: 600_000 }
    }
}

/// What happened.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// A row changed, by a write here or by a merge.
    Changed(Change),
    /// More rows changed than are told one by one: look at the tables again.
    ManyChanged {
        /// Rows that were not told.
        rows: u64,
    },
    /// New local changes, at most [`MAX_LOCAL`] bytes, for publication where others find them while this device is away.
    Local(Changes),
    /// This replica and the peer's have seen the same changes.
    InStep {
        /// The peer.
        peer: PeerId,
    },
    /// A change lies in the future of our clock; it waits until its time. One of the two clocks is wrong.
    ClockAhead {
        /// The device whose change it is.
        author: PeerId,
        /// The time it was written, by its clock.
        time: Timestamp,
    },
    /// The device's number of transactions was lower than what others have of it: the file is a restored backup. It goes on under a new history.
    Restored,
    /// A change of this peer could not be applied.
    Failed {
        /// The peer that sent it.
        peer: PeerId,
        /// Why.
        error: ApplyError,
    },
}

/// Counters since opening.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Batches applied.
    pub batches: u64,
    /// Rows that changed by merging.
    pub rows: u64,
    /// Messages dropped: not decodable, or of a peer that is not connected.
    pub dropped: u64,
    /// Local batches not offered for publication as they are larger than [`MAX_LOCAL`].
    pub too_large: u64,
}

/// What applying a batch did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Rows that changed.
    pub rows: u64,
    /// The batch lies in the future of our clock and is kept until its time.
    pub waiting: bool,
}

/// One SQLite file whose tracked tables merge with those of other replicas. All its methods may read or write the file.
#[derive(Debug)]
pub struct Replica {
    pub(crate) db: Connection,
    user: Connection,
    config: Config,
    pub(crate) core: Core,
    /// `PRAGMA data_version` when the journal was last folded whole.
    folded: Option<i64>,
    /// `PRAGMA schema_version` when the triggers were last checked.
    pub(crate) checked: Option<i64>,
    /// How far local changes were given out by [`Event::Local`].
    published: Position,
    peers: BTreeMap<PeerId, Peer>,
    events: VecDeque<Event>,
    now: Option<Instant>,
    stats: Stats,
}

impl Replica {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// [`OpenError`] in words for people: locked, full, read-only, damaged, not a database, wrong key.
    ///
    /// # Panics
    /// If [`Config::author`] is not set.
    pub fn open(path: impl AsRef<Path>, config: Config) -> Result<Self, OpenError> {
        assert!(config.author != PeerId([0; 32]), "Config::author must be set");
        let db = connect(path.as_ref(), &config)?;
        make_private(&db)?;
        let user = connect(path.as_ref(), &config)?;
        let mut core = Core::load(&db)?;
        let tx = begin(&db)?;
        let incarnation = match config.incarnation {
            Some(incarnation) => incarnation,
            None => tx.query_row("SELECT random()", [], |row| row.get::<_, i64>(0))?.cast_unsigned(),
        };
        core.clocks.adopt(&tx, config.author, incarnation, file_identity(path.as_ref()))?;
        core.know_schema_table(&tx)?;
        tx.commit()?;
        let published = Position::after(meta(&db, &published_key(&core))?.unwrap_or(0).cast_unsigned());
        Ok(Self {
            db,
            user,
            config,
            core,
            folded: None,
            checked: None,
            published,
            peers: BTreeMap::new(),
            events: VecDeque::new(),
            now: None,
            stats: Stats::default(),
        })
    }

    /// Tracks a table: from now on its rows merge. Those it has are its first changes.
    ///
    /// # Errors
    /// [`TrackError`] if it cannot be tracked; nothing was changed.
    pub fn track(&mut self, table: &str) -> Result<(), TrackError> {
        let done = Self::in_transaction(&self.db, &mut self.core, |db, core| core.track(db, table));
        self.folded = None;
        done
    }

    /// Tracks every ordinary table; gives those that cannot be tracked, with the reason.
    ///
    /// # Errors
    /// [`StoreError`] if SQLite could not.
    pub fn track_all(&mut self) -> Result<Vec<(String, TrackError)>, StoreError> {
        let mut refused = Vec::new();
        for name in crate::track::ordinary_tables(&self.db)? {
            match self.track(&name) {
                Ok(()) => {}
                Err(TrackError::Store(error)) => return Err(error),
                Err(error) => refused.push((name, error)),
            }
        }
        Ok(refused)
    }

    /// Stops tracking a table and leaves it as it is. Its changes are no longer given to others; the device writes on under a new history.
    ///
    /// # Errors
    /// [`TrackError::NotTracked`], or that SQLite could not.
    pub fn untrack(&mut self, wall: Timestamp, table: &str) -> Result<(), TrackError> {
        self.refresh(wall)?;
        let done = Self::in_transaction(&self.db, &mut self.core, |db, core| core.untrack(db, table));
        self.published = Position::default();
        done
    }

    /// The tables tracked, by name.
    pub fn tables(&self) -> Vec<&str> {
        let tables = self.core.tables.iter().filter(|table| table.attached && table.name != crate::schema::SCHEMA);
        tables.map(|table| table.name.as_str()).collect()
    }

    /// A connection of the same process for reading and writing the tables; any other connection or program may as well.
    pub const fn connection(&self) -> &Connection {
        &self.user
    }

    /// Takes in what was written to the tables since the last call, by whichever program; true if there was something.
    ///
    /// - `wall`: writes stamped later than this were stamped by a wrong clock and count as of now
    /// - cost: one read of the file's change counter if nobody wrote; else O(rows written), in transactions of a few thousand rows
    ///
    /// # Errors
    /// [`StoreError`]; what was not taken in stays in the journal.
    pub fn refresh(&mut self, wall: Timestamp) -> Result<bool, StoreError> {
        let version: i64 = self.db.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))?;
        let mut found = false;
        if self.folded != Some(version) {
            self.check_schema(wall)?;
            while self.core.pending(&self.db)? {
                found = true;
                let published = (published_key(&self.core), self.published.whole().cast_signed());
                Self::in_transaction(&self.db, &mut self.core, |db, core| {
                    set_meta(db, &published.0, published.1)?;
                    core.fold(db, wall)
                })?;
            }
            self.folded = Some(version);
        }
        if found {
            self.peers.values_mut().for_each(|peer| (peer.tell, peer.in_step) = (true, false));
        }
        self.apply_due(wall)?;
        self.tell_changes();
        Ok(found)
    }

    /// What has been seen of each origin, without a gap.
    pub fn version(&self) -> VersionVector {
        self.core.clocks.version().clone()
    }

    /// The origin under which this replica writes.
    pub fn origin(&self) -> Origin {
        self.core.clocks.own()
    }

    /// What a replica at `version` lacks, in batches of about [`BATCH`] bytes.
    ///
    /// - `max_bytes`: no further batch is begun past this; call again with what the receiver then has
    /// - cost: O(difference)
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn changes_since(&mut self, version: &VersionVector, max_bytes: usize) -> Result<Vec<Changes>, StoreError> {
        let (mut batches, mut bytes) = (Vec::new(), 0);
        let origins: Vec<_> = self.core.clocks.version().iter().map(|(origin, _)| *origin).collect();
        for origin in origins {
            let mut position = Position::after(version.get(&origin));
            while bytes < max_bytes {
                let Some(batch) = self.extract(&origin, &position, BATCH)? else { break };
                bytes += batch.as_bytes().len();
                position = batch.last().clone();
                batches.push(batch);
            }
        }
        for range in self.core.ahead.ranges().to_vec() {
            let mut position = range.first.clone();
            while bytes < max_bytes && position != range.last {
                let Some(batch) = self.core.extract_ahead(&self.db, &range, &position, BATCH)? else { break };
                bytes += batch.as_bytes().len();
                position = batch.last().clone();
                batches.push(batch);
            }
        }
        Ok(batches)
    }

    /// Merges a batch, however it came, in one transaction. A batch from the future is kept and applied by [`Replica::refresh`] at its time.
    ///
    /// # Errors
    /// [`ApplyError`]; the tables are as before.
    pub fn apply(&mut self, wall: Timestamp, changes: &Changes) -> Result<Applied, ApplyError> {
        if changes.origin() == self.origin() && changes.last().whole() > self.version().get(&changes.origin()) {
            self.restored()?;
        }
        let applied = if changes.latest().time() > wall.plus(self.config.max_skew) {
            self.events.push_back(Event::ClockAhead { author: changes.origin().peer, time: changes.latest().time() });
            self.keep_waiting(changes)?;
            Applied { rows: 0, waiting: true }
        } else {
            Applied { rows: self.merge(wall, changes)?, waiting: false }
        };
        // Whoever wrote a change has it: it may have come through others, and then its author has no reason to say so. Not so if the author has
        // begun a new file since: then it has not heard of that history.
        let author = changes.origin().peer;
        if let Some(peer) = self.peers.get_mut(&author).filter(|peer| peer.theirs.get(&changes.origin()) > 0) {
            peer.theirs.raise(changes.origin(), changes.last().whole());
            self.compare(author);
        }
        self.tell_changes();
        Ok(applied)
    }

    fn merge(&mut self, wall: Timestamp, changes: &Changes) -> Result<u64, ApplyError> {
        let before = self.core.clocks.version().clone();
        let rows = loop {
            // What was written here goes first, so that it is not stamped later than what it did not know.
            self.check_schema(wall)?;
            let rows = Self::in_transaction(&self.db, &mut self.core, |db, core| {
                if core.fold(db, wall)? { Ok::<_, ApplyError>(None) } else { core.merge(db, wall, changes).map(Some) }
            })?;
            if let Some(rows) = rows {
                break rows;
            }
        };
        self.stats.batches += 1;
        self.stats.rows += rows;
        if *self.core.clocks.version() != before {
            let forward_at = self.now.map(|now| now + FORWARD_DELAY);
            for peer in self.peers.values_mut() {
                (peer.tell, peer.in_step) = (true, false);
                peer.forward_at = peer.forward_at.or(forward_at);
            }
        }
        Ok(rows)
    }

    fn keep_waiting(&self, changes: &Changes) -> Result<(), StoreError> {
        let kept: i64 = self.db.query_row("SELECT coalesce(sum(length(changes)), 0) FROM _peers_waiting", [], |row| row.get(0))?;
        if kept < MAX_WAITING {
            let due = changes.latest().time().0.saturating_sub(self.config.max_skew);
            self.db.execute(
                "INSERT OR IGNORE INTO _peers_waiting (due, changes) VALUES (?1, ?2)",
                params![due.cast_signed(), &changes.as_bytes()[..]],
            )?;
        }
        Ok(())
    }

    /// Applies what waited for its time.
    fn apply_due(&mut self, wall: Timestamp) -> Result<(), StoreError> {
        while let Some((id, bytes)) = self.next_due(wall)? {
            match Changes::decode(bytes.into()).map_err(StoreError::from).map(|changes| self.merge(wall, &changes)) {
                Ok(Err(ApplyError::Store(error))) => return Err(error),
                // One that cannot be applied ever is given up.
                _ => self.db.execute("DELETE FROM _peers_waiting WHERE id = ?1", [id])?,
            };
        }
        Ok(())
    }

    fn next_due(&self, wall: Timestamp) -> Result<Option<(i64, Vec<u8>)>, StoreError> {
        let due = "SELECT id, changes FROM _peers_waiting WHERE due <= ?1 ORDER BY due, id LIMIT 1";
        let mut due = self.db.prepare_cached(due)?;
        Ok(due.query_row([wall.0.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    /// Others have more of this device's changes than the file: it continues under a new history.
    fn restored(&mut self) -> Result<(), StoreError> {
        let peer = self.config.author;
        Self::in_transaction(&self.db, &mut self.core, |db, core| {
            let incarnation = core.clocks.own().incarnation + 1;
            core.clocks.begin_history(db, peer, incarnation)
        })?;
        self.published = Position::default();
        self.events.push_back(Event::Restored);
        Ok(())
    }

    fn extract(&mut self, origin: &Origin, from: &Position, limit: usize) -> Result<Option<Changes>, StoreError> {
        match self.core.clocks.origin_id(origin) {
            Some(id) => self.core.extract(&self.db, id, from, limit),
            None => Ok(None),
        }
    }

    /// Runs `work` in one transaction; if it fails nothing of it remains, in the file or in memory.
    pub(crate) fn in_transaction<T, E: From<rusqlite::Error> + From<StoreError>>(
        db: &Connection,
        core: &mut Core,
        work: impl FnOnce(&Connection, &mut Core) -> Result<T, E>,
    ) -> Result<T, E> {
        let tx = begin(db)?;
        let told = core.told.len();
        let done = work(&tx, core).and_then(|value| tx.commit().map(|()| value).map_err(E::from));
        if done.is_err() {
            let mut told_before = core::mem::take(&mut core.told);
            told_before.truncate(told);
            let untold = core.untold;
            *core = Core { told: told_before, untold, ..Core::load(db)? };
        }
        done
    }

    fn tell_changes(&mut self) {
        let changes = self.core.told.drain(..).filter(|change| change.table != crate::schema::SCHEMA);
        self.events.extend(changes.map(Event::Changed));
        if self.core.untold > 0 {
            self.events.push_back(Event::ManyChanged { rows: core::mem::take(&mut self.core.untold) });
        }
        while self.events.len() > MAX_EVENTS {
            self.events.pop_front();
            self.core.untold += 1;
        }
    }

    /// A peer with a replica of this database is there.
    pub fn peer_connected(&mut self, now: Instant, peer: PeerId) {
        self.now = Some(now);
        self.peers.insert(peer, Peer { hello_due: true, ..Peer::default() });
    }

    /// A peer is gone.
    pub fn peer_disconnected(&mut self, now: Instant, peer: PeerId) {
        self.now = Some(now);
        self.peers.remove(&peer);
    }

    /// A message came from a peer's replica.
    pub fn handle_message(&mut self, now: Instant, wall: Timestamp, from: PeerId, message: Bytes) {
        self.now = Some(now);
        let (Some(_), Ok(message)) = (self.peers.get(&from), Message::decode(&message)) else {
            self.stats.dropped += 1;
            return;
        };
        match message {
            Message::Hello { version, ahead, needs } => self.on_hello(from, version, ahead, &needs),
            Message::Changes { batch, part, parts, bytes } => self.on_changes(now, wall, from, batch, part, parts, bytes),
            Message::Ack { batches, version } => self.on_ack(from, batches, version),
        }
        self.compare(from);
    }

    fn on_hello(&mut self, from: PeerId, version: VersionVector, ahead: Vec<(Origin, Position)>, needs: &VersionVector) {
        if version.get(&self.origin()) > self.version().get(&self.origin())
            && let Err(error) = self.restored()
        {
            self.events.push_back(Event::Failed { peer: from, error: error.into() });
        }
        let covered = self.core.clocks.version().covers(needs);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.sent = if covered { ahead.into_iter().collect() } else { BTreeMap::new() };
        (peer.theirs, peer.greeted, peer.forward, peer.tell) = (version, true, true, true);
        (peer.in_flight, peer.forward_at) = (0, None);
        peer.parts.clear();
        peer.sent_ahead.clear();
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of the message")]
    fn on_changes(&mut self, now: Instant, wall: Timestamp, from: PeerId, batch: u64, part: usize, parts: usize, bytes: Bytes) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let Some(bytes) = peer.receive(batch, part, parts, bytes) else { return };
        let Ok(changes) = Changes::decode(bytes) else {
            self.stats.dropped += 1;
            return;
        };
        let outcome = self.apply(wall, &changes);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        match outcome {
            Ok(_) => {
                peer.to_ack += 1;
                peer.theirs.raise(changes.origin(), changes.last().whole());
            }
            Err(error) => {
                peer.retry_at = Some(now + RETRY);
                self.events.push_back(Event::Failed { peer: from, error });
            }
        }
    }

    fn on_ack(&mut self, from: PeerId, batches: u64, version: VersionVector) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.in_flight = peer.in_flight.saturating_sub(batches);
        peer.theirs.merge(&version);
    }

    /// Tells when the peer's version vector is the same as ours.
    fn compare(&mut self, from: PeerId) {
        let equal = self.core.ahead.is_empty();
        let Some(peer) = self.peers.get_mut(&from) else { return };
        let equal = equal && peer.greeted && peer.theirs == *self.core.clocks.version();
        if equal && !peer.in_step {
            self.events.push_back(Event::InStep { peer: from });
        }
        peer.in_step = equal;
    }

    /// Passes on what waited to be, and asks again for what failed. Early calls do nothing.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = Some(now);
        for peer in self.peers.values_mut() {
            if peer.forward_at.is_some_and(|at| at <= now) {
                (peer.forward, peer.forward_at) = (true, None);
            }
            if peer.retry_at.is_some_and(|at| at <= now) {
                (peer.hello_due, peer.retry_at) = (true, None);
            }
        }
    }

    /// The next message to a peer's replica, at most 1 MiB. Batches are read from the file when they are asked for.
    pub fn poll_message(&mut self) -> Option<(PeerId, Bytes)> {
        let peers: Vec<_> = self.peers.keys().copied().collect();
        peers.into_iter().find_map(|id| self.poll_peer(id).map(|message| (id, message)))
    }

    fn poll_peer(&mut self, id: PeerId) -> Option<Bytes> {
        let peer = self.peers.get_mut(&id)?;
        let version = self.core.clocks.version();
        if core::mem::take(&mut peer.hello_due) {
            let (ahead, needs) = self.core.ahead.resume(&self.core.clocks);
            let ahead = ahead.into_iter().map(|(origin, position)| (self.core.clocks.origin(origin), position)).collect();
            return Some(Message::Hello { version: version.clone(), ahead, needs }.encode());
        }
        if peer.greeted && (peer.to_ack > 0 || peer.tell) {
            peer.tell = false;
            return Some(Message::Ack { batches: core::mem::take(&mut peer.to_ack), version: version.clone() }.encode());
        }
        if let Some(part) = peer.parts.pop_front() {
            return Some(part);
        }
        if !peer.greeted || peer.in_flight >= MAX_IN_FLIGHT {
            return None;
        }
        let own = self.core.clocks.own();
        let others = version.iter().map(|(origin, _)| *origin).filter(|origin| *origin != own && peer.forward);
        let lacking: Vec<_> = core::iter::once(own).chain(others).map(|origin| (origin, peer.position(&origin))).collect();
        for (origin, position) in lacking {
            match self.extract(&origin, &position, BATCH) {
                Ok(Some(changes)) => {
                    let peer = self.peers.get_mut(&id)?;
                    peer.sent.insert(origin, changes.last().clone());
                    peer.send(changes.as_bytes());
                    return peer.parts.pop_front();
                }
                Ok(None) => {}
                Err(error) => {
                    let now = self.now;
                    let peer = self.peers.get_mut(&id)?;
                    peer.retry_at = now.map(|now| now + RETRY);
                    self.events.push_back(Event::Failed { peer: id, error: error.into() });
                    return None;
                }
            }
        }
        self.poll_ahead(id)
    }

    /// Passes on what is ahead of the version vector: whoever wrote it may never come back with what is missing before.
    fn poll_ahead(&mut self, id: PeerId) -> Option<Bytes> {
        let peer = self.peers.get_mut(&id).filter(|peer| peer.forward)?;
        for range in self.core.ahead.ranges().to_vec() {
            let origin = self.core.clocks.origin(range.origin);
            let at = peer.sent_ahead.entry((origin, range.first.clone(), range.last.clone())).or_insert_with(|| range.first.clone());
            if *at == range.last || range.last.reaches(&Position::after(peer.theirs.get(&origin))) {
                continue;
            }
            if let Ok(Some(changes)) = self.core.extract_ahead(&self.db, &range, at, BATCH) {
                *at = changes.last().clone();
                peer.send(changes.as_bytes());
                return peer.parts.pop_front();
            }
        }
        None
    }

    /// Whether the peer, if it is connected, is known to have seen the same changes as this replica.
    pub fn in_step(&self, peer: PeerId) -> bool {
        self.peers.get(&peer).is_some_and(|peer| peer.in_step)
    }

    /// The next event. Local batches are read from the file when they are asked for.
    pub fn poll_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            let (own, from) = (self.origin(), self.published.clone());
            let changes = self.extract(&own, &from, BATCH).ok()??;
            self.published = changes.last().clone();
            if changes.as_bytes().len() <= MAX_LOCAL {
                return Some(Event::Local(changes));
            }
            self.stats.too_large += 1;
        }
    }

    /// When [`Replica::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers.values().filter_map(Peer::poll_timeout).min()
    }

    /// Counters since opening.
    pub const fn stats(&self) -> Stats {
        self.stats
    }
}

fn published_key(core: &Core) -> String {
    let own = core.clocks.own();
    format!("published.{}.{}", own.peer, own.incarnation)
}

/// Bytes of a batch, about.
pub const BATCH: usize = 240 * 1024;
/// Bytes of a batch that [`Event::Local`] gives out, at most.
pub const MAX_LOCAL: usize = 512 * 1024;
/// Bytes of batches that wait for their time.
const MAX_WAITING: i64 = 64 << 20;
/// Events kept until they are asked for.
const MAX_EVENTS: usize = 8192;
