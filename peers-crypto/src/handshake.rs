//! The Noise handshakes that begin a session, in their datagrams: IK when the other's key is known, XX when it is not.
//!
//! The static keys are the X25519 forms of device keys; each side's first encrypted payload names its [`PeerId`], which must convert to the static key that the
//! handshake proves. Payloads also carry the ciphers that the initiator can do and the one that the responder picks, so that nobody between them can choose a worse one.
//!
//! Source: Perrin, "The Noise Protocol Framework", revision 34: `Noise_IK_25519_ChaChaPoly_BLAKE2b` and `Noise_XX_25519_ChaChaPoly_BLAKE2b`.

use core::fmt;

use peers_wire::{DecodeError, PeerId, Reader, Timestamp};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::cookie::{self, ANYONE, MACS};
use crate::datagram::DatagramKind;
use crate::keys::{DeviceKey, exchange_key};
use crate::noise::Symmetric;
use crate::session::{Cipher, Session};
use crate::sodium;

/// Bytes of early data in an IK initiation: the datagram then fits, beside the frame of an introduction, into a data datagram.
pub const MAX_EARLY: usize = 700;
/// Bytes of a responder's payload: its datagram then stays within three times what it answers.
pub const MAX_REPLY: usize = 64;
/// Bytes of an IK initiation without early data: kind 1, index 4, ephemeral key 32, static key 48, payload 39 + 16, codes 32.
pub const IK_INITIATION: usize = 5 + 32 + 48 + IDENTITY + 7 + TAG + MACS;
/// Bytes of a first XX datagram: kind 1, index 4, ephemeral key 32, ciphers 1, codes 32.
pub const XX_FIRST: usize = 5 + 32 + 1 + MACS;

pub(crate) const IK: &str = "Noise_IK_25519_ChaChaPoly_BLAKE2b";
pub(crate) const XX: &str = "Noise_XX_25519_ChaChaPoly_BLAKE2b";
pub(crate) const PROLOGUE: &[u8] = b"peers 1";
pub(crate) const IDENTITY: usize = 32;
pub(crate) const TAG: usize = 16;

/// Why a handshake did not begin, or a datagram of it was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum HandshakeError {
    /// The datagram does not have the form that its kind has.
    #[error("malformed handshake: {0}")]
    Malformed(#[from] DecodeError),
    /// The datagram is of a kind or for an index that this handshake does not wait for.
    #[error("the datagram does not belong to this handshake")]
    Unexpected,
    /// A code or tag does not fit: altered, for someone else, or from someone else.
    #[error("the handshake is not genuine")]
    Forged,
    /// The id is not a valid public key, or is not that of the key that the handshake proves.
    #[error("the identity does not belong to the key of the handshake")]
    Identity,
    /// The other end is this device.
    #[error("a device does not begin a session with itself")]
    Myself,
    /// No cipher in common, or one picked that was not offered.
    #[error("no common cipher")]
    Cipher,
    /// More than [`MAX_EARLY`] bytes of early data, or [`MAX_REPLY`] of payload.
    #[error("{0} bytes are too many for this handshake datagram")]
    TooLong(usize),
}

/// An initiator's handshake under way; repeat its datagram until an answer comes.
pub struct Initiator {
    /// Gone once the handshake is finished: a second session of the same keys would use their counters again.
    state: Option<Symmetric>,
    pattern: Pattern,
    ephemeral: Zeroizing<[u8; 32]>,
    index: u32,
    wall: Timestamp,
    offers: u8,
    datagram: Vec<u8>,
}

#[derive(Clone, Copy)]
enum Pattern {
    Ik { remote: PeerId },
    Xx,
}

/// An initiator's finished handshake.
#[derive(Debug)]
pub struct Finished {
    /// Who answered: proven.
    pub remote: PeerId,
    /// The session; it may be used at once.
    pub session: Session,
    /// The third datagram of an XX handshake, to be sent before any data and repeated until the other end sends some.
    pub third: Option<Vec<u8>>,
    /// What the responder gave with its answer.
    pub payload: Vec<u8>,
}

impl Initiator {
    /// Begins a session with a device whose key is known; returns the datagram to send. About 130 us.
    ///
    /// - `index`: by which the other end will address the session; random, and not in use
    /// - `wall`: must be later for each initiation of this key ([`Freshness`](crate::Freshness))
    /// - `early`: at most [`MAX_EARLY`] bytes for the responder alone; may be replayed, and opened by who steals its key later
    ///
    /// # Errors
    /// [`HandshakeError::Identity`] if `remote` is no valid key, [`HandshakeError::Myself`], [`HandshakeError::TooLong`].
    pub fn ik(
        key: &DeviceKey,
        remote: PeerId,
        index: u32,
        wall: Timestamp,
        early: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        Self::ik_offering(offers(), key, remote, index, wall, early, rng)
    }

    fn ik_offering(
        offers: u8,
        key: &DeviceKey,
        remote: PeerId,
        index: u32,
        wall: Timestamp,
        early: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, Vec<u8>), HandshakeError> {
        if early.len() > MAX_EARLY {
            return Err(HandshakeError::TooLong(early.len()));
        }
        if remote == key.id() {
            return Err(HandshakeError::Myself);
        }
        let remote_static = exchange_key(&remote).ok_or(HandshakeError::Identity)?;
        let mut state = Symmetric::new(IK, &[PROLOGUE, &remote.0]);
        state.mix_hash(&remote_static);

        let mut datagram = header(DatagramKind::IkInitiation, &[index], IK_INITIATION + early.len());
        let ephemeral = write_ephemeral(&mut state, &mut datagram, rng);
        state.mix_key(&*agree(&ephemeral, &remote_static)?);
        state.encrypt(key.exchange_public(), &mut datagram);
        state.mix_key(&*key.exchange(&remote_static).ok_or(HandshakeError::Identity)?);
        let mut payload = Vec::with_capacity(IDENTITY + 7 + early.len());
        payload.extend_from_slice(&key.id().0);
        payload.extend_from_slice(&wall.0.to_be_bytes()[2..]);
        payload.push(offers);
        payload.extend_from_slice(early);
        state.encrypt(&payload, &mut datagram);
        cookie::append_macs(&remote, &mut datagram);

        let this = Self { state: Some(state), pattern: Pattern::Ik { remote }, ephemeral, index, wall, offers, datagram: datagram.clone() };
        Ok((this, datagram))
    }

    /// Begins a session with whoever answers; returns the datagram to send. About 10 us.
    ///
    /// `index` and `wall` as for [`Initiator::ik`]. The responder tells its identity first, to anybody; this side's is told to it alone.
    pub fn xx(index: u32, wall: Timestamp, rng: &mut impl CryptoRng) -> (Self, Vec<u8>) {
        Self::xx_offering(offers(), index, wall, rng)
    }

    fn xx_offering(offers: u8, index: u32, wall: Timestamp, rng: &mut impl CryptoRng) -> (Self, Vec<u8>) {
        let mut state = Symmetric::new(XX, &[PROLOGUE]);
        let mut datagram = header(DatagramKind::XxFirst, &[index], XX_FIRST);
        let ephemeral = write_ephemeral(&mut state, &mut datagram, rng);
        state.encrypt(&[offers], &mut datagram);
        cookie::append_macs(&ANYONE, &mut datagram);
        (Self { state: Some(state), pattern: Pattern::Xx, ephemeral, index, wall, offers, datagram: datagram.clone() }, datagram)
    }

    /// The datagram that began this handshake, as it is to be sent now: with a cookie's code once there was one.
    pub fn datagram(&self) -> &[u8] {
        &self.datagram
    }

    /// The index that the answer carries.
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// Takes a cookie reply; [`Initiator::datagram`] then carries the code made with it and is to be sent again.
    ///
    /// # Errors
    /// [`HandshakeError`] if it is not a reply to this datagram.
    pub fn cookie(&mut self, reply: &[u8]) -> Result<(), HandshakeError> {
        let responder = match self.pattern {
            Pattern::Ik { remote } => remote,
            Pattern::Xx => ANYONE,
        };
        cookie::answer(&responder, &mut self.datagram, reply)
    }

    /// Takes the responder's answer, once; about 60 us for IK, 150 us for XX.
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake is unchanged and waits on: anybody may send a false answer.
    pub fn finish(&mut self, key: &DeviceKey, datagram: &[u8]) -> Result<Finished, HandshakeError> {
        let mut reader = Reader::new(datagram);
        let (kind, index, responder_index) = (reader.u8()?, reader.u32()?, reader.u32()?);
        let kind_expected = match self.pattern {
            Pattern::Ik { .. } => DatagramKind::IkResponse,
            Pattern::Xx => DatagramKind::XxSecond,
        };
        if kind != kind_expected as u8 || index != self.index {
            return Err(HandshakeError::Unexpected);
        }
        let indices = (self.index, responder_index);
        let mut state = self.state.clone().ok_or(HandshakeError::Unexpected)?;
        let remote_ephemeral = read_ephemeral(&mut state, &mut reader)?;
        state.mix_key(&*agree(&self.ephemeral, &remote_ephemeral)?);
        match self.pattern {
            Pattern::Ik { remote } => {
                state.mix_key(&*key.exchange(&remote_ephemeral).ok_or(HandshakeError::Forged)?);
                let payload = state.decrypt(reader.rest()).ok_or(HandshakeError::Forged)?;
                let (cipher, payload) = self.chosen(&payload)?;
                self.state = None;
                Ok(Finished { remote, session: initiator_session(&state, cipher, indices), third: None, payload })
            }
            Pattern::Xx => {
                let remote_static = read_static(&mut state, &mut reader)?;
                state.mix_key(&*agree(&self.ephemeral, &remote_static)?);
                let payload = state.decrypt(reader.rest()).ok_or(HandshakeError::Forged)?;
                let (remote, rest) = proven_identity(key, &payload, &remote_static)?;
                let (cipher, payload) = self.chosen(rest)?;

                let mut third = header(DatagramKind::XxThird, &[responder_index], 5 + 48 + IDENTITY + 6 + TAG);
                state.encrypt(key.exchange_public(), &mut third);
                state.mix_key(&*key.exchange(&remote_ephemeral).ok_or(HandshakeError::Forged)?);
                let mut identity = [0; IDENTITY + 6];
                identity[..IDENTITY].copy_from_slice(&key.id().0);
                identity[IDENTITY..].copy_from_slice(&self.wall.0.to_be_bytes()[2..]);
                state.encrypt(&identity, &mut third);
                self.state = None;
                Ok(Finished { remote, session: initiator_session(&state, cipher, indices), third: Some(third), payload })
            }
        }
    }

    /// The cipher that the responder picked, and what follows it.
    fn chosen(&self, payload: &[u8]) -> Result<(Cipher, Vec<u8>), HandshakeError> {
        let (chosen, payload) = payload.split_first().ok_or(DecodeError::Truncated)?;
        let cipher = match chosen {
            1 => Cipher::ChaCha20Poly1305,
            2 => Cipher::Aegis128l,
            _ => return Err(HandshakeError::Cipher),
        };
        if self.offers & cipher as u8 == 0 { Err(HandshakeError::Cipher) } else { Ok((cipher, payload.to_vec())) }
    }
}

impl fmt::Debug for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Initiator").field("index", &self.index).finish_non_exhaustive()
    }
}

pub(crate) fn header(kind: DatagramKind, indices: &[u32], capacity: usize) -> Vec<u8> {
    let mut datagram = Vec::with_capacity(capacity);
    datagram.push(kind as u8);
    indices.iter().for_each(|index| datagram.extend_from_slice(&index.to_be_bytes()));
    datagram
}

/// The token `e`, written.
pub(crate) fn write_ephemeral(state: &mut Symmetric, datagram: &mut Vec<u8>, rng: &mut impl CryptoRng) -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    rng.fill_bytes(&mut *secret);
    let public = sodium::x25519_public(&secret);
    datagram.extend_from_slice(&public);
    state.mix_hash(&public);
    secret
}

/// The token `e`, read.
pub(crate) fn read_ephemeral(state: &mut Symmetric, reader: &mut Reader<'_>) -> Result<[u8; 32], HandshakeError> {
    let public = reader.array()?;
    state.mix_hash(&public);
    Ok(public)
}

/// The token `s`, read; always under a key.
pub(crate) fn read_static(state: &mut Symmetric, reader: &mut Reader<'_>) -> Result<[u8; 32], HandshakeError> {
    let text = state.decrypt(reader.bytes(32 + TAG)?).ok_or(HandshakeError::Forged)?;
    text.first_chunk().copied().ok_or(HandshakeError::Forged)
}

/// X25519; a key of small order is refused.
pub(crate) fn agree(secret: &[u8; 32], public: &[u8; 32]) -> Result<Zeroizing<[u8; 32]>, HandshakeError> {
    sodium::x25519(secret, public).map(Zeroizing::new).ok_or(HandshakeError::Forged)
}

/// The id at the front of a payload, if it is that of the static key and not our own; and what follows it.
pub(crate) fn proven_identity<'a>(
    me: &DeviceKey,
    payload: &'a [u8],
    remote_static: &[u8; 32],
) -> Result<(PeerId, &'a [u8]), HandshakeError> {
    let (id, rest) = payload.split_first_chunk::<IDENTITY>().ok_or(DecodeError::Truncated)?;
    let remote = PeerId(*id);
    if exchange_key(&remote) != Some(*remote_static) {
        return Err(HandshakeError::Identity);
    }
    if remote_static == me.exchange_public() {
        return Err(HandshakeError::Myself);
    }
    Ok((remote, rest))
}

fn initiator_session(state: &Symmetric, cipher: Cipher, indices: (u32, u32)) -> Session {
    let (sending, receiving) = state.split();
    Session::new(cipher, indices, &sending, &receiving, true)
}

/// The ciphers this processor does well, as a set of bits.
pub(crate) fn offers() -> u8 {
    if sodium::has_hardware_aes() { Cipher::ChaCha20Poly1305 as u8 | Cipher::Aegis128l as u8 } else { Cipher::ChaCha20Poly1305 as u8 }
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
pub(crate) mod tests;
