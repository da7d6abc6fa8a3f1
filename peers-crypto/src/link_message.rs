//! The messages of linking, and the keys that seal them.

use bip39::Language;
use peers_wire::{DecodeError, PeerId, Reader};
use zeroize::Zeroizing;

use crate::keys::{derive, hash};
use crate::link::MAX_TRIED_INVITERS;
use crate::sodium::{CHACHA, POLY_TAG};
use crate::statement::MAX_NAME;

/// CPace's channel identifier: the version of this conversation.
pub(crate) const CHANNEL: &[u8] = b"peers link 3";

/// The number of one attempt, chosen by the acceptor at random.
pub(crate) type LinkSession = [u8; 16];

/// What a key is derived for.
pub(crate) const PROOF: &str = "proof";
pub(crate) const NAME: &str = "name";
pub(crate) const OFFER: &str = "offer";
pub(crate) const CONSENT: &str = "consent";
pub(crate) const WELCOME: &str = "welcome";

/// What a hello says of each share that the acceptor may come to use, one for each inviter that it tries.
pub(crate) type Commitments = [[u8; 32]; MAX_TRIED_INVITERS];

/// What a hello says of a share of the acceptor. The inviter says its own before it sees that one: so neither can choose its share for the words that come of it.
pub(crate) fn commitment(session: &LinkSession, share: &[u8; 32]) -> [u8; 32] {
    hash(&[b"peers link commitment", session, share])
}

/// What is derived from the key that CPace gave: each use has its own.
pub(crate) struct Keys(Zeroizing<[u8; 32]>);

impl Keys {
    pub(crate) fn new(key: &[u8; 64]) -> Self {
        Self(Zeroizing::new(hash(&[b"peers link key", key])))
    }

    /// Shows that the key is known. A hash and not the cipher's own tag, which can be made to fit many keys at once: that would be many guesses.
    pub(crate) fn tag(&self, of: &str) -> [u8; 32] {
        derive(&self.0, "peers link tag", &[of.as_bytes()])
    }

    fn cipher(&self, of: &str) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(derive(&self.0, "peers link cipher", &[of.as_bytes()]))
    }

    /// Each key seals one message: its nonce is zero.
    pub(crate) fn seal(&self, of: &str, plaintext: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        CHACHA.seal(&self.cipher(of), &[0; 12], &[], plaintext, &mut out);
        out
    }

    pub(crate) fn open(&self, of: &str, sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
        let mut text = Zeroizing::new(sealed.to_vec());
        let length = CHACHA.open(&self.cipher(of), &[0; 12], &[], &mut text)?.len();
        text.truncate(length);
        Some(text)
    }

    /// The short authentication string: three words, 33 bits.
    pub(crate) fn words(&self) -> String {
        let bytes = derive(&self.0, "peers link words", &[]);
        let word = |at: usize| Language::English.word_list()[usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]) % 2048)];
        [word(0), word(2), word(4)].join(" ")
    }
}

/// The one at the other end, once the key is confirmed.
pub(crate) struct Partner {
    pub(crate) peer: PeerId,
    pub(crate) session: LinkSession,
    pub(crate) keys: Keys,
}

impl Partner {
    pub(crate) fn is(&self, peer: PeerId, session: &LinkSession) -> bool {
        self.peer == peer && self.session == *session
    }
}

/// What a refusal says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Reason {
    Wrong = 1,
    Spent = 2,
    Declined = 3,
    Expired = 4,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message<'a> {
    Hello { session: LinkSession, commitments: Commitments },
    Answer { session: LinkSession, share: [u8; 32] },
    Proof { session: LinkSession, share: [u8; 32], inviter: PeerId, tag: [u8; 32], sealed: &'a [u8] },
    Offer { session: LinkSession, tag: [u8; 32], sealed: &'a [u8] },
    Consent { session: LinkSession, sealed: &'a [u8] },
    Welcome { session: LinkSession, sealed: &'a [u8] },
    Refusal { session: LinkSession, reason: Reason },
}

impl<'a> Message<'a> {
    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (kind, session) = (reader.u8()?, reader.array()?);
        let message = match kind {
            1 => {
                let mut commitments = Commitments::default();
                for commitment in &mut commitments {
                    *commitment = reader.array()?;
                }
                Self::Hello { session, commitments }
            }
            2 => Self::Answer { session, share: reader.array()? },
            3 => {
                let (share, inviter, tag, sealed) = (reader.array()?, PeerId(reader.array()?), reader.array()?, reader.rest());
                if sealed.len() > MAX_NAME + POLY_TAG {
                    return Err(DecodeError::Range("name"));
                }
                Self::Proof { session, share, inviter, tag, sealed }
            }
            4 => Self::Offer { session, tag: reader.array()?, sealed: reader.rest() },
            5 => Self::Consent { session, sealed: reader.rest() },
            6 => Self::Welcome { session, sealed: reader.rest() },
            7 => {
                let reasons = [Reason::Wrong, Reason::Spent, Reason::Declined, Reason::Expired];
                let number = reader.u8()?;
                let reason = reasons.into_iter().find(|reason| *reason as u8 == number).ok_or(DecodeError::Range("reason"))?;
                Self::Refusal { session, reason }
            }
            other => return Err(DecodeError::Kind(other)),
        };
        reader.finish()?;
        Ok(message)
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello { session, commitments } => [&[1][..], session, commitments.as_flattened()].concat(),
            Self::Answer { session, share } => [&[2][..], session, share].concat(),
            Self::Proof { session, share, inviter, tag, sealed } => [&[3][..], session, share, &inviter.0, tag, sealed].concat(),
            Self::Offer { session, tag, sealed } => [&[4][..], session, tag, sealed].concat(),
            Self::Consent { session, sealed } => [&[5][..], session, sealed].concat(),
            Self::Welcome { session, sealed } => [&[6][..], session, sealed].concat(),
            Self::Refusal { session, reason } => [&[7][..], session, &[*reason as u8]].concat(),
        }
    }
}
