//! Control messages: what two agents say to each other inside a session, and what their handshake carries.
//!
//! A control datagram is plaintext whose first byte is [`CONTROL`], followed by one or more messages. docs/PROTOCOL.md, chapter "Reaching peers", gives them byte by byte.

use core::net::SocketAddr;

use bytes::Bytes;
use peers_crypto::IK_INITIATION;
use peers_wire::{DecodeError, PeerId, Reader, Writer};

use crate::address;
use crate::early::MAX_EARLY;
use crate::ports::Mapping;
use crate::probe::Tag;

/// First plaintext byte of a datagram that carries control messages.
pub(crate) const CONTROL: u8 = 0;
/// First plaintext byte of a datagram that carries data of the layer above.
pub(crate) const DATA: u8 = 1;

/// Most candidates that a handshake names.
pub(crate) const MAX_CANDIDATES: usize = 8;
/// Most ids in one [`Control::Peers`].
pub(crate) const MAX_SAMPLE: usize = 16;
/// Longest handshake initiation that an introduction carries: any that there is.
pub(crate) const MAX_INITIATION: usize = IK_INITIATION + peers_crypto::MAX_EARLY;
/// Most messages in one control datagram; more is malformed.
const MAX_MESSAGES: usize = 8;

/// Names one probe on one path; whoever can repeat it has received what was sent there.
pub(crate) type Token = u64;
/// Names the sender's side of a connection: it changes when the sender has forgotten the last one, so that both ends know whether the other remembers.
pub(crate) type Association = u32;
/// Names an entry in a relay's table.
pub(crate) type Route = u64;

/// One control message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Control<'a> {
    /// Answer me on the path this came by. `observed`: the address this was sent to, that is, where the sender sees the receiver; none through a relay.
    Ping { token: Token, association: Association, observed: Option<SocketAddr> },
    /// The answer. `observed`: the address the ping came from; none through a relay.
    Pong { token: Token, association: Association, observed: Option<SocketAddr> },
    /// The sender has forgotten this session and everything about it.
    Close,
    /// Name some of the peers you are connected to.
    PeersRequest,
    /// Some of the peers the sender is connected to.
    Peers { ids: Vec<PeerId> },
    /// Pass `initiation` on to `target` and open a route to it.
    Introduce { target: PeerId, initiation: &'a [u8] },
    /// Someone, seen by the sender at `address`, wants a session with the receiver and can be answered on `route`.
    Introduction { route: Route, address: SocketAddr, initiation: &'a [u8] },
    /// `initiation` was passed on to `target`, which the sender sees at `address` and which can be reached on `route`.
    Introduced { target: PeerId, route: Route, address: SocketAddr },
    /// The sender cannot introduce to `target`.
    Refused { target: PeerId },
    /// The sender no longer relays on `route`.
    RouteClosed { route: Route },
    /// Where the sender may be reached.
    Candidates { addresses: Vec<SocketAddr> },
    /// From which address did this come? It says nothing of the sender's paths.
    Reflect { token: Token },
    /// The answer to a [`Control::Reflect`] that came from `observed`.
    Reflected { token: Token, observed: SocketAddr },
    /// How much of what the sender, a relay, grants to others is in use: on its own routes and bytes, 0 to 255. It follows what names the route.
    Load { route: Route, load: u8 },
    /// Remember where this came from, by the name `token`, and do what `test` says.
    Test { token: Token, test: Test },
    /// The answer to a [`Control::Test`] that came from `observed`. `second`: a probe was sent there from another port of the sender; `other`: another peer was asked to send one.
    Tested { token: Token, observed: SocketAddr, second: bool, other: bool },
    /// Send one probe with `token` to `address`, where the sender sees a socket of a peer.
    Vouch { token: Token, address: SocketAddr },
    /// The port of the sender that the probe of the test `token` came from can be spoken to.
    SecondPort { token: Token, port: u16 },
    /// Send one probe with `token` to where you saw the socket of that name.
    Again { token: Token },
    /// The sender has opened `opened` ports of its NAT to the receiver, between `low` and `high`; none: it steps through its ports as it sends, and `low` was the last.
    Opened { low: u16, high: u16, opened: u16 },
}

/// What is to be done for a socket that asks for a test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    /// It is answered.
    Answer = 0,
    /// It is answered, and probed from a second port and by another peer.
    Probe = 1,
    /// It is answered by the session's own path, so that nothing goes to the socket.
    Aside = 2,
}

/// Zeros at the end of a [`Control::Test`], so that what it causes is less than three times as long.
const TEST_PADDING: [u8; 24] = [0; 24];

impl Control<'_> {
    /// Appends the message.
    pub(crate) fn encode(&self, writer: &mut Writer) {
        match self {
            Self::Ping { token, association, observed } => address::write(writer.u8(1).u64(*token).u32(*association), *observed),
            Self::Pong { token, association, observed } => address::write(writer.u8(2).u64(*token).u32(*association), *observed),
            Self::Close => drop(writer.u8(3)),
            Self::PeersRequest => drop(writer.u8(4)),
            Self::Peers { ids } => {
                writer.u8(5).varint(ids.len() as u64);
                for id in ids {
                    writer.bytes(&id.0);
                }
            }
            Self::Introduce { target, initiation } => drop(writer.u8(6).bytes(&target.0).string(initiation)),
            Self::Introduction { route, address, initiation } => {
                address::write(writer.u8(7).u64(*route), Some(*address));
                writer.string(initiation);
            }
            Self::Introduced { target, route, address } => address::write(writer.u8(8).bytes(&target.0).u64(*route), Some(*address)),
            Self::Refused { target } => drop(writer.u8(9).bytes(&target.0)),
            Self::RouteClosed { route } => drop(writer.u8(10).u64(*route)),
            Self::Candidates { addresses } => write_candidates(writer.u8(11), addresses),
            Self::Reflect { token } => drop(writer.u8(12).u64(*token)),
            Self::Reflected { token, observed } => address::write(writer.u8(13).u64(*token), Some(*observed)),
            Self::Load { route, load } => drop(writer.u8(15).u64(*route).u8(*load)),
            Self::Test { token, test } => drop(writer.u8(16).u64(*token).u8(*test as u8).bytes(&TEST_PADDING)),
            Self::Tested { token, observed, second, other } => {
                address::write(writer.u8(17).u64(*token), Some(*observed));
                writer.u8(u8::from(*second) | u8::from(*other) << 1);
            }
            Self::Vouch { token, address } => address::write(writer.u8(18).u64(*token), Some(*address)),
            Self::SecondPort { token, port } => drop(writer.u8(19).u64(*token).u16(*port)),
            Self::Again { token } => drop(writer.u8(20).u64(*token)),
            Self::Opened { low, high, opened } => drop(writer.u8(14).u16(*low).u16(*high).u16(*opened)),
        }
    }
}

/// The plaintext of a control datagram.
pub(crate) fn plaintext(messages: &[Control<'_>]) -> Vec<u8> {
    let mut writer = Writer::with_capacity(64);
    writer.u8(CONTROL);
    for message in messages {
        message.encode(&mut writer);
    }
    writer.finish()
}

/// The messages behind the [`CONTROL`] byte: all of them, or none if one is malformed.
pub(crate) fn decode(bytes: &[u8]) -> Result<Vec<Control<'_>>, DecodeError> {
    let mut reader = Reader::new(bytes);
    let mut messages = Vec::with_capacity(2);
    while reader.remaining() > 0 {
        if messages.len() == MAX_MESSAGES {
            return Err(DecodeError::Range("number of control messages"));
        }
        messages.push(decode_one(&mut reader)?);
    }
    Ok(messages)
}

fn decode_one<'a>(reader: &mut Reader<'a>) -> Result<Control<'a>, DecodeError> {
    Ok(match reader.u8()? {
        1 => Control::Ping { token: reader.u64()?, association: reader.u32()?, observed: address::read(reader)? },
        2 => Control::Pong { token: reader.u64()?, association: reader.u32()?, observed: address::read(reader)? },
        3 => Control::Close,
        4 => Control::PeersRequest,
        5 => {
            let count = reader.count(MAX_SAMPLE, "number of peers")?;
            Control::Peers { ids: (0..count).map(|_| id(reader)).collect::<Result<_, _>>()? }
        }
        6 => Control::Introduce { target: id(reader)?, initiation: reader.string(MAX_INITIATION, "initiation")? },
        7 => Control::Introduction {
            route: reader.u64()?,
            address: some_address(reader)?,
            initiation: reader.string(MAX_INITIATION, "initiation")?,
        },
        8 => Control::Introduced { target: id(reader)?, route: reader.u64()?, address: some_address(reader)? },
        9 => Control::Refused { target: id(reader)? },
        10 => Control::RouteClosed { route: reader.u64()? },
        11 => Control::Candidates { addresses: read_candidates(reader)? },
        12 => Control::Reflect { token: reader.u64()? },
        13 => Control::Reflected { token: reader.u64()?, observed: some_address(reader)? },
        15 => Control::Load { route: reader.u64()?, load: reader.u8()? },
        16 => Control::Test { token: reader.u64()?, test: test(reader)? },
        17 => {
            let (token, observed, flags) = (reader.u64()?, some_address(reader)?, reader.u8()?);
            if flags > 3 {
                return Err(DecodeError::Range("flags of a test"));
            }
            Control::Tested { token, observed, second: flags & 1 != 0, other: flags & 2 != 0 }
        }
        18 => Control::Vouch { token: reader.u64()?, address: some_address(reader)? },
        19 => Control::SecondPort { token: reader.u64()?, port: reader.u16()? },
        20 => Control::Again { token: reader.u64()? },
        14 => {
            let (low, high, opened) = (reader.u16()?, reader.u16()?, reader.u16()?);
            if low == 0 || low > high {
                return Err(DecodeError::Range("ports"));
            }
            Control::Opened { low, high, opened }
        }
        kind => return Err(DecodeError::Kind(kind)),
    })
}

fn test(reader: &mut Reader<'_>) -> Result<Test, DecodeError> {
    let test = match reader.u8()? {
        0 => Test::Answer,
        1 => Test::Probe,
        2 => Test::Aside,
        _ => return Err(DecodeError::Range("test")),
    };
    if reader.array()? != TEST_PADDING {
        return Err(DecodeError::NotCanonical("padding of a test"));
    }
    Ok(test)
}

fn id(reader: &mut Reader<'_>) -> Result<PeerId, DecodeError> {
    Ok(PeerId(reader.array()?))
}

fn some_address(reader: &mut Reader<'_>) -> Result<SocketAddr, DecodeError> {
    address::read(reader)?.ok_or(DecodeError::Range("address"))
}

/// What a handshake initiation carries, sealed to the responder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Offer {
    /// Names the initiator's side of the connection.
    pub(crate) association: Association,
    /// Of the probes that both ends send.
    pub(crate) tag: Tag,
    /// What the initiator's NAT does.
    pub(crate) mapping: Mapping,
    /// The initiator's user asked for the responder.
    pub(crate) wanted: bool,
    /// Where the initiator may be reached.
    pub(crate) candidates: Vec<SocketAddr>,
    /// For the layer above; to the end.
    pub(crate) early: Bytes,
}

impl Offer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(64);
        writer.u32(self.association).u64(self.tag).u8(self.mapping as u8).u8(self.wanted.into());
        write_candidates(&mut writer, &self.candidates);
        writer.bytes(&self.early);
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let (association, tag, mapping) = (reader.u32()?, reader.u64()?, Mapping::read(&mut reader)?);
        let wanted = match reader.u8()? {
            0 => false,
            1 => true,
            _ => return Err(DecodeError::Range("wanted")),
        };
        let candidates = read_candidates(&mut reader)?;
        let early = reader.rest();
        if early.len() > MAX_EARLY {
            return Err(DecodeError::Range("early data"));
        }
        Ok(Self { association, tag, mapping, wanted, candidates, early: Bytes::copy_from_slice(early) })
    }
}

/// What a handshake response carries, sealed to the initiator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Answer {
    /// To be returned in a [`Control::Pong`]: proves the address that the response was sent to, if it was sent to one alone.
    pub(crate) token: Token,
    /// Where the responder saw the initiation come from; none through a relay.
    pub(crate) observed: Option<SocketAddr>,
    /// What the responder's NAT does.
    pub(crate) mapping: Mapping,
}

impl Answer {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(32);
        address::write(writer.u64(self.token), self.observed);
        writer.u8(self.mapping as u8);
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let answer = Self { token: reader.u64()?, observed: address::read(&mut reader)?, mapping: Mapping::read(&mut reader)? };
        reader.finish().map(|()| answer)
    }
}

fn write_candidates(writer: &mut Writer, candidates: &[SocketAddr]) {
    let candidates = &candidates[..candidates.len().min(MAX_CANDIDATES)];
    writer.varint(candidates.len() as u64);
    for candidate in candidates {
        address::write(writer, Some(*candidate));
    }
}

fn read_candidates(reader: &mut Reader<'_>) -> Result<Vec<SocketAddr>, DecodeError> {
    let count = reader.count(MAX_CANDIDATES, "number of candidates")?;
    (0..count).map(|_| some_address(reader)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn addresses() -> impl Strategy<Value = SocketAddr> {
        any::<(core::net::IpAddr, u16)>().prop_map(|(ip, port)| SocketAddr::new(ip.to_canonical(), port))
    }

    fn ids() -> impl Strategy<Value = PeerId> {
        any::<[u8; 32]>().prop_map(PeerId)
    }

    fn messages() -> impl Strategy<Value = Control<'static>> {
        let initiations = vec(any::<u8>(), 0..MAX_INITIATION).prop_map(|bytes| &*bytes.leak());
        prop_oneof![
            (any::<(u64, u32)>(), proptest::option::of(addresses())).prop_map(|((token, association), observed)| Control::Ping {
                token,
                association,
                observed
            }),
            (any::<(u64, u32)>(), proptest::option::of(addresses())).prop_map(|((token, association), observed)| Control::Pong {
                token,
                association,
                observed
            }),
            Just(Control::Close),
            Just(Control::PeersRequest),
            vec(ids(), 0..=MAX_SAMPLE).prop_map(|ids| Control::Peers { ids }),
            (ids(), initiations.clone()).prop_map(|(target, initiation)| Control::Introduce { target, initiation }),
            (any::<u64>(), addresses(), initiations).prop_map(|(route, address, initiation)| Control::Introduction {
                route,
                address,
                initiation
            }),
            (ids(), any::<u64>(), addresses()).prop_map(|(target, route, address)| Control::Introduced { target, route, address }),
            ids().prop_map(|target| Control::Refused { target }),
            any::<u64>().prop_map(|route| Control::RouteClosed { route }),
            vec(addresses(), 0..=MAX_CANDIDATES).prop_map(|addresses| Control::Candidates { addresses }),
            any::<u64>().prop_map(|token| Control::Reflect { token }),
            any::<(u64, u8)>().prop_map(|(route, load)| Control::Load { route, load }),
            (any::<u64>(), addresses()).prop_map(|(token, observed)| Control::Reflected { token, observed }),
            (any::<u64>(), prop_oneof![Just(Test::Answer), Just(Test::Probe), Just(Test::Aside)])
                .prop_map(|(token, test)| Control::Test { token, test }),
            (any::<(u64, bool, bool)>(), addresses()).prop_map(|((token, second, other), observed)| Control::Tested {
                token,
                observed,
                second,
                other
            }),
            (any::<u64>(), addresses()).prop_map(|(token, address)| Control::Vouch { token, address }),
            any::<(u64, u16)>().prop_map(|(token, port)| Control::SecondPort { token, port }),
            any::<u64>().prop_map(|token| Control::Again { token }),
            (1..=u16::MAX, any::<u16>(), any::<u16>()).prop_map(|(a, b, opened)| Control::Opened {
                low: a.min(b.max(1)),
                high: a.max(b),
                opened
            }),
        ]
    }

    proptest! {
        #[test]
        fn control_messages_read_back(sent in vec(messages(), 1..=MAX_MESSAGES)) {
            let bytes = plaintext(&sent);
            prop_assert_eq!(bytes[0], CONTROL);
            prop_assert_eq!(decode(&bytes[1..]), Ok(sent));
        }

        #[test]
        fn any_bytes_decode_to_themselves_or_fail(bytes in vec(any::<u8>(), 0..200)) {
            if let Ok(messages) = decode(&bytes) {
                prop_assert_eq!(&plaintext(&messages)[1..], &bytes);
            }
            if let Ok(offer) = Offer::decode(&bytes) {
                prop_assert_eq!(offer.encode(), &bytes[..]);
            }
            if let Ok(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(answer.encode(), &bytes[..]);
            }
        }

        #[test]
        fn a_truncated_message_is_refused(message in messages()) {
            let bytes = plaintext(&[message]);
            for end in 2..bytes.len() {
                prop_assert!(decode(&bytes[1..end]).is_err());
            }
        }

        #[test]
        fn a_handshakes_payloads_read_back(association: u32, token: u64, observed in proptest::option::of(addresses()), candidates in vec(addresses(), 0..=MAX_CANDIDATES), early in vec(any::<u8>(), 0..=MAX_EARLY), tag: u64) {
            let offer = Offer { association, tag, mapping: Mapping::Sequential, wanted: true, candidates, early: early.into() };
            prop_assert!(offer.encode().len() <= peers_crypto::MAX_EARLY);
            prop_assert_eq!(Offer::decode(&offer.encode()), Ok(offer));
            let answer = Answer { token, observed, mapping: Mapping::Dependent };
            prop_assert_eq!(Answer::decode(&answer.encode()), Ok(answer));
        }
    }

    #[test]
    fn more_early_data_than_is_agreed_is_refused() {
        let offer = |early: usize| {
            Offer { association: 1, tag: 2, mapping: Mapping::Unknown, wanted: false, candidates: vec![], early: vec![7; early].into() }
                .encode()
        };
        assert!(Offer::decode(&offer(MAX_EARLY)).is_ok());
        assert_eq!(Offer::decode(&offer(MAX_EARLY + 1)), Err(DecodeError::Range("early data")));
    }

    #[test]
    fn more_messages_than_a_datagram_may_hold_are_refused() {
        assert_eq!(decode(&[3; MAX_MESSAGES + 1]), Err(DecodeError::Range("number of control messages")));
    }
}
