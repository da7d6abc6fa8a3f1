//! Linking a new device to a user by a short code: the inviter shows it, the acceptor types it.
//!
//! Both publish on [`LinkCode::rendezvous`], which strangers read and write as well. They agree on a key with CPace over the three secret words, confirm it (the
//! acceptor first), and send what is secret under it: a recording of the conversation is of no use to anybody, whatever code they try on it.
//!
//! 1. hello, acceptor to all: its share.
//! 2. answer, inviter to acceptor: its share. It tells nothing about the words, so that every hello may be answered, and none ends the invitation.
//! 3. proof, acceptor to inviter: shows that it has the same key; with it, sealed, the name of the device and its consent to be added. This is the guess: a wrong
//!    one ends the invitation.
//! 4. welcome, inviter to acceptor: shows the same; with it, sealed, the statements of the user, the new device added, and the user's secret.
//! 5. refusal, inviter to acceptor, instead of 4.

use core::fmt;

use bip39::Language;
use peers_wire::{DecodeError, PeerId, Reader, Signature, Timestamp, Writer};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::code::LinkCode;
use crate::cpace::{self, Said};
use crate::keys::{DeviceKey, derive, hash};
use crate::sodium::{self, CHACHA};
use crate::statement::{consent, is_name, name};
use crate::user::{User, UserError};

/// Milliseconds that an invitation lasts: ten minutes.
pub const INVITATION_LIFETIME: u64 = 600_000;
/// Hellos that an inviter answers; later ones are ignored.
pub const MAX_ANSWERED_HELLOS: usize = 256;
/// Inviters that an acceptor tries its code on: whoever has the same first word, or pretends to.
pub const MAX_TRIED_INVITERS: usize = 3;

const CHANNEL: &[u8] = b"peers link 1";
const HELLO: u8 = 1;
const ANSWER: u8 = 2;
const PROOF: u8 = 3;
const WELCOME: u8 = 4;
const REFUSAL: u8 = 5;
const SESSION: usize = 16;

/// What a message led to.
#[derive(Debug)]
pub enum LinkStep<T> {
    /// Publish this on the rendezvous topic.
    Reply(Vec<u8>),
    /// It is done: further messages are ignored.
    Done(T),
    /// It is over without success: further messages are ignored.
    Refused {
        /// Why.
        reason: LinkRefusal,
        /// To be published, so that the other side learns of it.
        reply: Option<Vec<u8>>,
    },
    /// Nothing: the message is someone else's, or comes late.
    Ignore,
}

/// Why linking ended without success.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LinkRefusal {
    /// To the inviter: someone tried, with other words. To the acceptor: the words are not those of the invitation.
    #[error("the code was wrong, and one guess is all there is: make a new code")]
    WrongCode,
    /// [`INVITATION_LIFETIME`] has passed.
    #[error("the code has expired: make a new one")]
    Expired,
    /// The inviter, who knows the code, sent what makes no sense.
    #[error("the inviting device sent no valid user: {0}")]
    Invalid(#[from] UserError),
}

/// The side that shows the code.
pub struct Inviter {
    words: Zeroizing<String>,
    me: PeerId,
    expires: Timestamp,
    seed: Zeroizing<[u8; 32]>,
    answered: usize,
    over: bool,
}

/// A device that knew the code. Once both users have compared the words, or at once, [`Newcomer::welcome`] it.
pub struct Newcomer {
    /// Its key.
    pub device: PeerId,
    /// Its name.
    pub name: String,
    /// Its consent to be added by the inviter.
    pub consent: Signature,
    /// Three words that both devices show: equal, if nobody is between them.
    pub words: String,
    session: [u8; SESSION],
    keys: Keys,
}

impl Inviter {
    /// Begins an invitation by `me`, at `wall`; subscribe to the code's rendezvous topic.
    pub fn new(code: &LinkCode, me: &DeviceKey, wall: Timestamp, rng: &mut impl CryptoRng) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rng.fill_bytes(&mut *seed);
        Self { words: code.secret(), me: me.id(), expires: wall.plus(INVITATION_LIFETIME), seed, answered: 0, over: false }
    }

    /// Takes a message that `from` wrote (proven) on the rendezvous topic; some 100 us.
    ///
    /// `Done` means: `from` proved to know the code; publish [`Newcomer::welcome`] next. `Refused` with [`LinkRefusal::WrongCode`] means that someone tried: show it.
    pub fn handle(&mut self, wall: Timestamp, from: PeerId, message: &[u8]) -> LinkStep<Newcomer> {
        if self.over || from == self.me {
            return LinkStep::Ignore;
        }
        if wall >= self.expires {
            self.over = true;
            return LinkStep::Refused { reason: LinkRefusal::Expired, reply: None };
        }
        match Message::decode(message) {
            Ok(Message::Hello { session, share }) if self.answered < MAX_ANSWERED_HELLOS => {
                self.answered += 1;
                match self.exchange(from, &session, &share) {
                    Some((mine, _)) => LinkStep::Reply(Message::Answer { session, share: mine }.encode()),
                    None => LinkStep::Ignore,
                }
            }
            Ok(Message::Proof { session, share, inviter, tag, sealed }) if inviter == self.me => {
                match self.exchange(from, &session, &share) {
                    Some((_, keys)) => self.on_proof(from, session, keys, &tag, sealed),
                    None => LinkStep::Ignore,
                }
            }
            _ => LinkStep::Ignore,
        }
    }

    fn on_proof(&mut self, from: PeerId, session: [u8; SESSION], keys: Keys, tag: &[u8; 32], sealed: &[u8]) -> LinkStep<Newcomer> {
        self.over = true;
        let genuine = sodium::equal(tag, &*keys.tag("proof"));
        let opened = genuine.then(|| keys.open("newcomer", sealed)).flatten().and_then(|inner| {
            let mut reader = Reader::new(&inner);
            let consent = Signature(reader.array().ok()?);
            let name = name(&mut reader).ok()?;
            reader.finish().ok()?;
            Some((consent, name))
        });
        match opened {
            Some((consent, name)) => LinkStep::Done(Newcomer { device: from, name, consent, words: keys.words(), session, keys }),
            None => LinkStep::Refused { reason: LinkRefusal::WrongCode, reply: Some(Message::Refusal { session }.encode()) },
        }
    }

    /// Our share for this hello and the keys that follow. Nothing is kept of a hello: the scalar is derived again for the proof.
    fn exchange(&self, from: PeerId, session: &[u8; SESSION], theirs: &[u8; 32]) -> Option<([u8; 32], Keys)> {
        let mut uniform = Zeroizing::new([0; 64]);
        for (half, label) in uniform.chunks_mut(32).zip(["peers link scalar 1", "peers link scalar 2"]) {
            half.copy_from_slice(&derive(&self.seed, label, &[session, theirs, &from.0]));
        }
        let scalar = cpace::scalar_of(&uniform);
        let mine = cpace::share(&scalar, self.words.as_bytes(), CHANNEL, session)?;
        let initiator = Said { share: theirs, data: &from.0 };
        let key = cpace::shared_key(&scalar, theirs, session, initiator, Said { share: &mine, data: &self.me.0 })?;
        Some((mine, Keys::new(&key)))
    }

    /// When the invitation ends: [`LinkRefusal::Expired`] is then to be shown.
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }
}

impl fmt::Debug for Inviter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inviter").field("expires", &self.expires).field("over", &self.over).finish_non_exhaustive()
    }
}

impl Newcomer {
    /// Adds the device to `user`, unless it is there, and seals for it all statements and the user's secret: publish what this returns on the rendezvous topic.
    ///
    /// - `key`: of the device that invited
    ///
    /// # Errors
    /// [`UserError`], for example if the device was revoked: nothing is then sent.
    pub fn welcome(&self, key: &DeviceKey, user: &mut User, secret: &[u8; 32], wall: Timestamp) -> Result<Vec<u8>, UserError> {
        if !user.contains(self.device) {
            user.add_device(key, self.device, &self.name, self.consent, wall)?;
        }
        let mut inner = Zeroizing::new(secret.to_vec());
        inner.extend_from_slice(&user.encode());
        let sealed = self.keys.seal("welcome", &inner);
        Ok(Message::Welcome { session: self.session, tag: *self.keys.tag("welcome"), sealed: &sealed }.encode())
    }
}

impl fmt::Debug for Newcomer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Newcomer").field("device", &self.device).field("name", &self.name).finish_non_exhaustive()
    }
}

/// The side that types the code.
pub struct Acceptor {
    me: DeviceKey,
    name: String,
    expires: Timestamp,
    session: [u8; SESSION],
    scalar: Zeroizing<[u8; 32]>,
    share: [u8; 32],
    tried: Vec<Tried>,
    over: bool,
}

/// An inviter that the acceptor sent its proof to.
struct Tried {
    inviter: PeerId,
    keys: Keys,
    refused: bool,
}

/// What the acceptor has at the end.
pub struct Welcome {
    /// The device that invited.
    pub inviter: PeerId,
    /// The user, with the acceptor among the devices.
    pub user: User,
    /// The secret that the user's devices share.
    pub secret: Zeroizing<[u8; 32]>,
    /// Three words that both devices show: equal, if nobody is between them.
    pub words: String,
}

impl Acceptor {
    /// Begins to accept an invitation at `wall`: the hello, to be published on the code's rendezvous topic.
    ///
    /// # Errors
    /// [`UserError::Name`] if `name` is no name for a device.
    pub fn new(
        code: &LinkCode,
        me: &DeviceKey,
        name: &str,
        wall: Timestamp,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Vec<u8>), UserError> {
        if !is_name(name) {
            return Err(UserError::Name);
        }
        let words = code.secret();
        let mut session = [0; SESSION];
        rng.fill_bytes(&mut session);
        let (scalar, share) = loop {
            let scalar = cpace::scalar(rng);
            if let Some(share) = cpace::share(&scalar, words.as_bytes(), CHANNEL, &session) {
                break (scalar, share);
            }
        };
        let (me, name, expires) = (me.clone(), name.to_owned(), wall.plus(INVITATION_LIFETIME));
        let hello = Message::Hello { session, share }.encode();
        Ok((Self { me, name, expires, session, scalar, share, tried: Vec::new(), over: false }, hello))
    }

    /// Takes a message that `from` wrote (proven) on the rendezvous topic; some 100 us.
    pub fn handle(&mut self, wall: Timestamp, from: PeerId, message: &[u8]) -> LinkStep<Welcome> {
        if self.over || from == self.me.id() {
            return LinkStep::Ignore;
        }
        if wall >= self.expires {
            self.over = true;
            return LinkStep::Refused { reason: LinkRefusal::Expired, reply: None };
        }
        match Message::decode(message) {
            Ok(Message::Answer { session, share }) if session == self.session => self.on_answer(from, &share),
            Ok(Message::Welcome { session, tag, sealed }) if session == self.session => self.on_welcome(from, &tag, sealed),
            Ok(Message::Refusal { session }) if session == self.session => self.on_refusal(from),
            _ => LinkStep::Ignore,
        }
    }

    fn on_answer(&mut self, from: PeerId, theirs: &[u8; 32]) -> LinkStep<Welcome> {
        if self.tried.len() == MAX_TRIED_INVITERS || self.tried.iter().any(|tried| tried.inviter == from) {
            return LinkStep::Ignore;
        }
        let me = self.me.id();
        let (initiator, responder) = (Said { share: &self.share, data: &me.0 }, Said { share: theirs, data: &from.0 });
        let Some(key) = cpace::shared_key(&self.scalar, theirs, &self.session, initiator, responder) else { return LinkStep::Ignore };
        let keys = Keys::new(&key);
        let mut inner = Writer::default();
        inner.bytes(&consent(&self.me, from).0).string(self.name.as_bytes());
        let (tag, sealed) = (*keys.tag("proof"), keys.seal("newcomer", inner.as_ref()));
        self.tried.push(Tried { inviter: from, keys, refused: false });
        LinkStep::Reply(Message::Proof { session: self.session, share: self.share, inviter: from, tag, sealed: &sealed }.encode())
    }

    fn on_welcome(&mut self, from: PeerId, tag: &[u8; 32], sealed: &[u8]) -> LinkStep<Welcome> {
        let Some(tried) = self.tried.iter().find(|tried| tried.inviter == from) else { return LinkStep::Ignore };
        if !sodium::equal(tag, &*tried.keys.tag("welcome")) {
            return LinkStep::Ignore;
        }
        let Some(inner) = tried.keys.open("welcome", sealed) else { return LinkStep::Ignore };
        let words = tried.keys.words();
        self.over = true;
        match self.read_welcome(from, &inner) {
            Ok((user, secret)) => LinkStep::Done(Welcome { inviter: from, user, secret, words }),
            Err(error) => LinkStep::Refused { reason: error.into(), reply: None },
        }
    }

    fn read_welcome(&self, from: PeerId, inner: &[u8]) -> Result<(User, Zeroizing<[u8; 32]>), UserError> {
        let (secret, statements) = inner.split_first_chunk::<32>().ok_or(DecodeError::Truncated)?;
        let user = User::decode(statements)?;
        match [from, self.me.id()].into_iter().find(|device| !user.contains(*device)) {
            Some(missing) => Err(UserError::NotADevice(missing)),
            None => Ok((user, Zeroizing::new(*secret))),
        }
    }

    /// It is over when all that were tried have refused: another who has the same first word, or pretends to, does not end it alone.
    fn on_refusal(&mut self, from: PeerId) -> LinkStep<Welcome> {
        let Some(tried) = self.tried.iter_mut().find(|tried| tried.inviter == from && !tried.refused) else { return LinkStep::Ignore };
        tried.refused = true;
        self.over = self.tried.iter().all(|tried| tried.refused);
        if self.over { LinkStep::Refused { reason: LinkRefusal::WrongCode, reply: None } } else { LinkStep::Ignore }
    }

    /// When to stop waiting: [`LinkRefusal::Expired`] is then to be shown.
    pub const fn expires(&self) -> Timestamp {
        self.expires
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("name", &self.name).field("over", &self.over).finish_non_exhaustive()
    }
}

impl fmt::Debug for Welcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Welcome").field("inviter", &self.inviter).field("user", &self.user.id()).finish_non_exhaustive()
    }
}

/// What is derived from the key that CPace gave: each use has its own.
struct Keys(Zeroizing<[u8; 32]>);

impl Keys {
    fn new(key: &[u8; 64]) -> Self {
        Self(Zeroizing::new(hash(&[b"peers link", key])))
    }

    /// Shows that the key is known. A hash and not the cipher's own tag, which can be made to fit many keys at once: that would be many guesses.
    fn tag(&self, of: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(derive(&self.0, "peers link tag", &[of.as_bytes()]))
    }

    fn cipher(&self, of: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(derive(&self.0, "peers link cipher", &[of.as_bytes()]))
    }

    /// Each key seals one message: its nonce is zero.
    fn seal(&self, of: &str, plaintext: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        CHACHA.seal(&self.cipher(of), &[0; 12], &[], plaintext, &mut out);
        out
    }

    fn open(&self, of: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut text = Zeroizing::new(sealed.to_vec());
        let length = CHACHA.open(&self.cipher(of), &[0; 12], &[], &mut text)?.len();
        text.truncate(length);
        Some(text)
    }

    /// The short authentication string: three words, 33 bits.
    fn words(&self) -> String {
        let bytes = derive(&self.0, "peers link words", &[]);
        let word = |at: usize| Language::English.word_list()[usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]) % 2048)];
        [word(0), word(2), word(4)].join(" ")
    }
}

enum Message<'a> {
    Hello { session: [u8; SESSION], share: [u8; 32] },
    Answer { session: [u8; SESSION], share: [u8; 32] },
    Proof { session: [u8; SESSION], share: [u8; 32], inviter: PeerId, tag: [u8; 32], sealed: &'a [u8] },
    Welcome { session: [u8; SESSION], tag: [u8; 32], sealed: &'a [u8] },
    Refusal { session: [u8; SESSION] },
}

impl<'a> Message<'a> {
    fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (kind, session) = (reader.u8()?, reader.array()?);
        let message = match kind {
            HELLO => Self::Hello { session, share: reader.array()? },
            ANSWER => Self::Answer { session, share: reader.array()? },
            PROOF => Self::Proof {
                session,
                share: reader.array()?,
                inviter: PeerId(reader.array()?),
                tag: reader.array()?,
                sealed: reader.rest(),
            },
            WELCOME => Self::Welcome { session, tag: reader.array()?, sealed: reader.rest() },
            REFUSAL => Self::Refusal { session },
            other => return Err(DecodeError::Kind(other)),
        };
        reader.finish()?;
        Ok(message)
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello { session, share } => [&[HELLO][..], session, share].concat(),
            Self::Answer { session, share } => [&[ANSWER][..], session, share].concat(),
            Self::Proof { session, share, inviter, tag, sealed } => [&[PROOF][..], session, share, &inviter.0, tag, sealed].concat(),
            Self::Welcome { session, tag, sealed } => [&[WELCOME][..], session, tag, sealed].concat(),
            Self::Refusal { session } => [&[REFUSAL][..], session].concat(),
        }
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
pub(crate) mod tests;
