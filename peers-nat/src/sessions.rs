//! The sessions with one peer: the one in use, and those that are beginning or ending beside it.
//!
//! Both ends may begin a session at once, and either may replace one at any time; both must settle on the same. The end with the smaller id decides: for [`GLARE`] it stays with a
//! session that it initiated. The other follows: it sends on whichever session was last chosen by the other end, which says so by any datagram but a mere pong.

use std::time::{Duration, Instant};

use peers_crypto::Session;

use crate::control::Association;

/// How long the deciding end holds on to a session of its own against one that the other end began at the same time.
const GLARE: Duration = Duration::from_secs(3);
/// A session not in use is forgotten after so much silence: longer than idle ends are silent, as the other end may take it for the one in use.
const LINGER: Duration = Duration::from_secs(150);
/// One that was never heard is forgotten sooner: its initiation may have been a replay.
const HALF_OPEN: Duration = Duration::from_secs(10);
/// Between two questions which connection a session belongs to.
const ASK_PAUSE: Duration = Duration::from_millis(300);
/// Most sessions beside the one in use.
const MAX_OTHERS: usize = 4;

/// A session and what is known of it.
#[derive(Debug)]
pub(crate) struct Keyed {
    pub(crate) session: Session,
    /// Whether we initiated it.
    pub(crate) initiated: bool,
    pub(crate) since: Instant,
    /// When a datagram was last opened.
    pub(crate) heard: Option<Instant>,
    /// Which connection the other end takes it to belong to, once it has said so.
    pub(crate) association: Option<Association>,
    /// Whether it was in use and is being left.
    left: bool,
    /// When the other end was last asked which connection it belongs to.
    asked: Option<Instant>,
}

impl Keyed {
    pub(crate) const fn new(now: Instant, session: Session, initiated: bool, association: Option<Association>) -> Self {
        Self { session, initiated, since: now, heard: None, association, left: false, asked: None }
    }

    fn expires(&self) -> Instant {
        self.heard.map_or(self.since + HALF_OPEN, |heard| heard + LINGER)
    }
}

/// The sessions with one peer.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    pub(crate) current: Option<Keyed>,
    others: Vec<Keyed>,
}

/// What hearing a session led to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The same session stays in use.
    Same,
    /// It is in use from now on.
    Switched,
    /// It is in use from now on, and belongs to another connection than the one before: these sessions (their indices) are forgotten.
    Replaced(Vec<u32>),
    /// What connection it belongs to is not known yet: its data cannot be taken.
    Unknown,
}

impl Sessions {
    /// Adds a session. One that we initiated is used at once if there is no other, as its other end has proven itself. Returns the index of one that had to go.
    pub(crate) fn add(&mut self, keyed: Keyed) -> Option<u32> {
        if self.current.is_none() && keyed.initiated {
            self.current = Some(keyed);
            return None;
        }
        self.others.push(keyed);
        (self.others.len() > MAX_OTHERS).then(|| self.others.remove(0).session.local_index())
    }

    /// The session with this local index.
    pub(crate) fn get(&mut self, index: u32) -> Option<&mut Keyed> {
        self.current.iter_mut().chain(&mut self.others).find(|keyed| keyed.session.local_index() == index)
    }

    /// The session in use, or else the one that began last.
    pub(crate) fn newest(&mut self) -> Option<&mut Keyed> {
        self.current.as_mut().or_else(|| self.others.last_mut())
    }

    /// The session `index` is the one in use.
    pub(crate) fn is_current(&self, index: u32) -> bool {
        self.current.as_ref().is_some_and(|current| current.session.local_index() == index)
    }

    /// A datagram was opened by the session `index`; returns whether it is the one in use.
    pub(crate) fn heard_current(&mut self, now: Instant, index: u32) -> bool {
        match &mut self.current {
            Some(current) if current.session.local_index() == index => {
                current.heard = Some(now);
                true
            }
            _ => false,
        }
    }

    /// A datagram was opened by the session `index`. `chosen`: it was not a mere answer; `decides`: our id is the smaller one.
    pub(crate) fn heard(&mut self, now: Instant, index: u32, chosen: bool, decides: bool) -> Heard {
        if self.heard_current(now, index) {
            return Heard::Same;
        }
        let Some(position) = self.others.iter().position(|keyed| keyed.session.local_index() == index) else {
            return Heard::Unknown;
        };
        self.others[position].heard = Some(now);
        let Keyed { association, left, initiated, .. } = self.others[position];
        let Some(current) = &self.current else {
            self.current = Some(self.others.swap_remove(position));
            return Heard::Switched;
        };
        if association.is_none() {
            return Heard::Unknown;
        }
        if current.association.is_some() && association != current.association {
            let fresh = self.others.swap_remove(position);
            let mut gone = self.indices();
            gone.retain(|gone| *gone != index);
            self.others.clear();
            self.current = Some(fresh);
            return Heard::Replaced(gone);
        }
        let silent = now.duration_since(current.heard.unwrap_or(current.since));
        let stays = if left { silent < 2 * GLARE } else { current.initiated && now.duration_since(current.since) < GLARE };
        let ours = initiated && !left;
        if !(chosen || ours) || (decides && stays) {
            return Heard::Same;
        }
        let mut fresh = self.others.swap_remove(position);
        fresh.left = false;
        if let Some(mut old) = self.current.replace(fresh) {
            old.left = true;
            self.others.push(old);
        }
        Heard::Switched
    }

    /// Whether to ask, by a ping, which connection the session `index` belongs to: the other end uses it, and what told us was lost. Once per [`ASK_PAUSE`].
    pub(crate) fn should_ask(&mut self, now: Instant, index: u32) -> bool {
        let unknown = self.get(index).filter(|keyed| keyed.association.is_none());
        let Some(keyed) = unknown.filter(|keyed| keyed.asked.is_none_or(|at| now.duration_since(at) >= ASK_PAUSE)) else { return false };
        keyed.asked = Some(now);
        true
    }

    /// Forgets sessions beside the one in use that are silent; returns their indices.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<u32> {
        self.others.extract_if(.., |keyed| keyed.expires() <= now).map(|keyed| keyed.session.local_index()).collect()
    }

    /// When the next session beside the one in use has been silent for long enough.
    pub(crate) fn expires(&self) -> Option<Instant> {
        self.others.iter().map(Keyed::expires).min()
    }

    /// The local indices of all.
    pub(crate) fn indices(&self) -> Vec<u32> {
        self.current.iter().chain(&self.others).map(|keyed| keyed.session.local_index()).collect()
    }

    /// There is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.current.is_none() && self.others.is_empty()
    }
}
