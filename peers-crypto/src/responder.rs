//! The responder's side of the handshakes that `handshake.rs` describes.

use core::fmt;

use peers_wire::{PeerId, Reader, Timestamp};
use rand::CryptoRng;
use zeroize::Zeroizing;

use crate::cookie;
use crate::datagram::DatagramKind;
use crate::handshake::{
    HandshakeError, IDENTITY, IK, MAX_EARLY, MAX_REPLY, PROLOGUE, TAG, XX, agree, header, offers, proven_identity, read_ephemeral,
    read_static, write_ephemeral,
};
use crate::keys::DeviceKey;
use crate::noise::Symmetric;
use crate::session::{Cipher, Session};

/// What a first handshake datagram led to.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "taken apart where it is made, never stored")]
pub enum Response {
    /// An IK handshake is done.
    Ik {
        /// Who initiated it: proven, unless the datagram is a replay ([`Session::confirmed`]).
        remote: PeerId,
        /// The initiator's time, for [`Freshness`](crate::Freshness): check it before anything else is done.
        timestamp: Timestamp,
        /// Early data: idempotent, as it may be a replay.
        early: Vec<u8>,
        /// The session; nothing may be sent before it is confirmed.
        session: Session,
        /// The datagram to send back.
        reply: Vec<u8>,
    },
    /// An XX handshake waits for its third datagram.
    Xx {
        /// Waits for it, under the index given.
        pending: XxResponder,
        /// The datagram to send back.
        reply: Vec<u8>,
    },
}

/// Answers a first handshake datagram (IK initiation or XX first); about 170 us for IK, 90 us for XX. Ask a [`Gate`](crate::Gate) first.
///
/// - `index`: by which the other end will address the session; random, and not in use
/// - `payload`: at most [`MAX_REPLY`] bytes for the initiator; with XX anybody can read it who asks
///
/// # Errors
/// [`HandshakeError`]: drop the datagram and count.
pub fn respond(key: &DeviceKey, datagram: &[u8], index: u32, payload: &[u8], rng: &mut impl CryptoRng) -> Result<Response, HandshakeError> {
    respond_offering(offers(), key, datagram, index, payload, rng)
}

pub(crate) fn respond_offering(
    mine: u8,
    key: &DeviceKey,
    datagram: &[u8],
    index: u32,
    payload: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Response, HandshakeError> {
    if payload.len() > MAX_REPLY {
        return Err(HandshakeError::TooLong(payload.len()));
    }
    let kind = DatagramKind::of(datagram).ok_or(HandshakeError::Unexpected)?;
    let mut reader = Reader::new(cookie::checked_body(&key.id(), datagram)?);
    let (_kind, initiator_index) = (reader.u8()?, reader.u32()?);
    let indices = (index, initiator_index);
    match kind {
        DatagramKind::IkInitiation => {
            let mut state = Symmetric::new(IK, &[PROLOGUE, &key.id().0]);
            state.mix_hash(key.exchange_public());
            let remote_ephemeral = read_ephemeral(&mut state, &mut reader)?;
            state.mix_key(&*key.exchange(&remote_ephemeral).ok_or(HandshakeError::Forged)?);
            let remote_static = read_static(&mut state, &mut reader)?;
            state.mix_key(&*key.exchange(&remote_static).ok_or(HandshakeError::Identity)?);
            let first = state.decrypt(reader.rest()).ok_or(HandshakeError::Forged)?;
            let (remote, rest) = proven_identity(key, &first, &remote_static)?;
            let mut reader = Reader::new(rest);
            let (timestamp, theirs, early) = (reader.timestamp()?, reader.u8()?, reader.rest());
            if early.len() > MAX_EARLY {
                return Err(HandshakeError::TooLong(early.len()));
            }
            let cipher = choose(mine & theirs)?;

            let mut reply = header(DatagramKind::IkResponse, &[initiator_index, index], 9 + 32 + 1 + payload.len() + TAG);
            let ephemeral = write_ephemeral(&mut state, &mut reply, rng);
            state.mix_key(&*agree(&ephemeral, &remote_ephemeral)?);
            state.mix_key(&*agree(&ephemeral, &remote_static)?);
            state.encrypt(&[&[cipher as u8], payload].concat(), &mut reply);
            let (receiving, sending) = state.split();
            let session = Session::new(cipher, indices, &sending, &receiving, false);
            Ok(Response::Ik { remote, timestamp, early: early.to_vec(), session, reply })
        }
        DatagramKind::XxFirst => {
            let mut state = Symmetric::new(XX, &[PROLOGUE]);
            let remote_ephemeral = read_ephemeral(&mut state, &mut reader)?;
            let offered = state.decrypt(reader.rest()).ok_or(HandshakeError::Forged)?;
            let [theirs] = offered[..] else { return Err(HandshakeError::Unexpected) };
            let cipher = choose(mine & theirs)?;

            let capacity = 9 + 32 + 48 + IDENTITY + 1 + payload.len() + TAG;
            let mut reply = header(DatagramKind::XxSecond, &[initiator_index, index], capacity);
            let ephemeral = write_ephemeral(&mut state, &mut reply, rng);
            state.mix_key(&*agree(&ephemeral, &remote_ephemeral)?);
            state.encrypt(key.exchange_public(), &mut reply);
            state.mix_key(&*key.exchange(&remote_ephemeral).ok_or(HandshakeError::Forged)?);
            state.encrypt(&[&key.id().0[..], &[cipher as u8], payload].concat(), &mut reply);
            Ok(Response::Xx { pending: XxResponder { state: Some(state), key: key.clone(), ephemeral, indices, cipher }, reply })
        }
        _ => Err(HandshakeError::Unexpected),
    }
}

/// A responder's XX handshake that waits for the third datagram.
pub struct XxResponder {
    /// Gone once the handshake is finished: a second session of the same keys would use their counters again.
    state: Option<Symmetric>,
    key: DeviceKey,
    ephemeral: Zeroizing<[u8; 32]>,
    indices: (u32, u32),
    cipher: Cipher,
}

impl XxResponder {
    /// Takes the third datagram, once: who initiated, the session (confirmed), and the initiator's time; about 60 us.
    ///
    /// # Errors
    /// [`HandshakeError`]; the handshake is unchanged and waits on.
    pub fn finish(&mut self, datagram: &[u8]) -> Result<(PeerId, Session, Timestamp), HandshakeError> {
        let mut reader = Reader::new(datagram);
        let (kind, index) = (reader.u8()?, reader.u32()?);
        if kind != DatagramKind::XxThird as u8 || index != self.indices.0 {
            return Err(HandshakeError::Unexpected);
        }
        let mut state = self.state.clone().ok_or(HandshakeError::Unexpected)?;
        let remote_static = read_static(&mut state, &mut reader)?;
        state.mix_key(&*agree(&self.ephemeral, &remote_static)?);
        let payload = state.decrypt(reader.rest()).ok_or(HandshakeError::Forged)?;
        let (remote, rest) = proven_identity(&self.key, &payload, &remote_static)?;
        let mut reader = Reader::new(rest);
        let timestamp = reader.timestamp()?;
        reader.finish()?;
        let (receiving, sending) = state.split();
        self.state = None;
        Ok((remote, Session::new(self.cipher, self.indices, &sending, &receiving, true), timestamp))
    }

    /// The index that the third datagram carries.
    pub const fn index(&self) -> u32 {
        self.indices.0
    }
}

impl fmt::Debug for XxResponder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("XxResponder").field("indices", &self.indices).finish_non_exhaustive()
    }
}

/// The better of the ciphers in common.
fn choose(common: u8) -> Result<Cipher, HandshakeError> {
    [Cipher::Aegis128l, Cipher::ChaCha20Poly1305].into_iter().find(|cipher| common & *cipher as u8 != 0).ok_or(HandshakeError::Cipher)
}
