//! The Port Control Protocol: its messages, as far as a client of the opcodes MAP and ANNOUNCE needs them.
//!
//! Source: RFC 6887, sections 7 (common header), 11 (MAP), 14.1 (ANNOUNCE).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use peers_wire::{DecodeError, Reader, Writer};

use super::output::Failure;

/// The version of PCP.
pub(super) const VERSION: u8 = 2;
/// Most bytes of a message. Source: section 7.
const MAX_MESSAGE: usize = 1100;
/// Bytes of the header.
const HEADER: usize = 24;
/// Bytes that MAP adds to the header.
const MAP_DATA: usize = 36;
/// The bit of the opcode's byte that marks a response.
const RESPONSE: u8 = 0x80;
const ANNOUNCE: u8 = 0;
const MAP: u8 = 1;
/// Protocol number of UDP (IANA).
const UDP: u8 = 17;

/// Result codes. Source: section 7.4.
pub(super) const SUCCESS: u8 = 0;
pub(super) const UNSUPPORTED_VERSION: u8 = 1;

/// Names a mapping; who does not know it cannot change the mapping. Source: section 11.1.
pub(super) type Nonce = [u8; 12];

/// A request to make, renew or (with a `lifetime` of 0) delete the mapping of a UDP port: 60 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MapRequest {
    /// Seconds.
    pub(super) lifetime: u32,
    /// The address that the request is sent from.
    pub(super) client: IpAddr,
    pub(super) nonce: Nonce,
    pub(super) port: u16,
    /// The address hoped for; unspecified for any.
    pub(super) suggested: SocketAddr,
}

impl MapRequest {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(HEADER + MAP_DATA);
        writer.u8(VERSION).u8(MAP).u16(0).u32(self.lifetime).bytes(&wide(self.client));
        writer.bytes(&self.nonce).u8(UDP).bytes(&[0; 3]).u16(self.port).u16(self.suggested.port()).bytes(&wide(self.suggested.ip()));
        writer.finish()
    }
}

/// What a server says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Response {
    /// The version of the server; other than [`VERSION`] only where `result` is [`UNSUPPORTED_VERSION`].
    pub(super) version: u8,
    pub(super) result: u8,
    /// Seconds: of the mapping, or, in an error, for which the error will last.
    pub(super) lifetime: u32,
    /// Seconds since the server lost its mappings.
    pub(super) epoch: u32,
    pub(super) body: Body,
}

/// What a response is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// The server has begun anew, or says that it has not.
    Announce,
    /// A mapping: made, renewed, deleted or refused.
    Map { nonce: Nonce, port: u16, external: SocketAddr },
    /// An error that does not say about which mapping.
    Error,
}

impl Response {
    /// Reads a response of at most [`MAX_MESSAGE`] bytes; options behind it are ignored.
    pub(super) fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        if datagram.len() > MAX_MESSAGE {
            return Err(DecodeError::Range("length of a PCP message"));
        }
        let mut reader = Reader::new(datagram);
        let version = reader.u8()?;
        let opcode = reader.u8()?;
        let _reserved = reader.u8()?;
        let result = reader.u8()?;
        if opcode & RESPONSE == 0 || (version != VERSION && result != UNSUPPORTED_VERSION) {
            return Err(DecodeError::Kind(opcode));
        }
        let (lifetime, epoch) = (reader.u32()?, reader.u32()?);
        let _reserved = reader.array::<12>()?;
        let body = match opcode & !RESPONSE {
            _ if version != VERSION => Body::Error,
            ANNOUNCE if result == SUCCESS => Body::Announce,
            MAP if datagram.len() >= HEADER + MAP_DATA => {
                let nonce = reader.array()?;
                if reader.u8()? != UDP {
                    return Err(DecodeError::Range("protocol of a mapping"));
                }
                let _reserved = reader.array::<3>()?;
                let (port, external_port) = (reader.u16()?, reader.u16()?);
                let ip = Ipv6Addr::from(reader.array::<16>()?);
                Body::Map { nonce, port, external: SocketAddr::new(IpAddr::V6(ip).to_canonical(), external_port) }
            }
            _ if result != SUCCESS => Body::Error,
            MAP => return Err(DecodeError::Truncated),
            opcode => return Err(DecodeError::Kind(opcode)),
        };
        Ok(Self { version, result, lifetime, epoch, body })
    }
}

/// What a result code means. Who knows neither the version, nor MAP, nor UDP is as good as silent.
pub(super) const fn failure(result: u8) -> Failure {
    let reason = match result {
        UNSUPPORTED_VERSION | 4 | 9 => return Failure::Silent,
        2 => "not authorized",
        3 => "malformed request",
        5 => "unsupported option",
        6 => "malformed option",
        7 => "network failure",
        8 => "no resources",
        10 => "quota exceeded",
        11 => "cannot provide the external address",
        12 => "address mismatch: another router is between",
        13 => "too many remote peers",
        _ => "unknown error",
    };
    Failure::Refused { reason }
}

/// An address in 16 bytes: IPv4 is mapped. Source: section 5.
const fn wide(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Any address of the family of `like`, at `port`.
pub(super) const fn any_of(like: IpAddr, port: u16) -> SocketAddr {
    match like {
        IpAddr::V4(_) => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
        IpAddr::V6(_) => SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A response to MAP, written from the diagrams of sections 7.2 and 11.1.
    #[rustfmt::skip]
    const MAPPED: [u8; 60] = [
        2, 0x81, 0, 0, // version, R and opcode, reserved, result
        0, 0, 0x0e, 0x10, // lifetime: 3600
        0, 1, 0xe2, 0x40, // epoch: 123456
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, // reserved
        1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, // nonce
        17, 0, 0, 0, // UDP, reserved
        0xb9, 0x72, 0x30, 0x39, // internal port 47474, external port 12345
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 7, // external address
    ];

    #[test]
    fn a_request_for_a_mapping_has_the_bytes_of_the_rfc() {
        let request = MapRequest {
            lifetime: 3600,
            client: "192.168.1.20".parse().unwrap(),
            nonce: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
            port: 47474,
            suggested: "0.0.0.0:47474".parse().unwrap(),
        };
        #[rustfmt::skip]
        let expected = [
            2, 1, 0, 0, // version, R and opcode, reserved
            0, 0, 0x0e, 0x10, // lifetime
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 20, // the client's address
            1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, // nonce
            17, 0, 0, 0, // UDP, reserved
            0xb9, 0x72, 0xb9, 0x72, // internal port, suggested external port
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0, // suggested external address: any of IPv4
        ];
        assert_eq!(request.encode(), expected);
    }

    #[test]
    fn a_request_for_a_pinhole_of_ipv6_has_the_bytes_of_the_rfc() {
        let client = "2001:db8::7".parse().unwrap();
        let request = MapRequest { lifetime: 0, client, nonce: [9; 12], port: 1, suggested: any_of(client, 0) };
        let mut expected = vec![2, 1, 0, 0, 0, 0, 0, 0, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        expected.extend([9; 12]);
        expected.extend([17, 0, 0, 0, 0, 1, 0, 0]);
        expected.extend([0; 16]);
        assert_eq!(request.encode(), expected);
    }

    #[test]
    fn a_mapping_that_was_granted_reads() {
        let body =
            Body::Map { nonce: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], port: 47474, external: "203.0.113.7:12345".parse().unwrap() };
        let expected = Response { version: 2, result: SUCCESS, lifetime: 3600, epoch: 123_456, body };
        assert_eq!(Response::decode(&MAPPED), Ok(expected));
        let mut with_option = MAPPED.to_vec();
        with_option.extend([2, 0, 0, 0]);
        assert_eq!(Response::decode(&with_option), Ok(expected), "options are ignored");
    }

    #[test]
    fn an_announcement_and_errors_read() {
        let mut announce = MAPPED[..24].to_vec();
        announce[1] = 0x80;
        announce[4..8].fill(0);
        assert_eq!(Response::decode(&announce).unwrap().body, Body::Announce);
        let mut refused = MAPPED;
        refused[3] = 2;
        let response = Response::decode(&refused).unwrap();
        assert!(response.result == 2 && matches!(response.body, Body::Map { port: 47474, .. }));
        refused[0] = 3;
        refused[3] = UNSUPPORTED_VERSION;
        assert_eq!(Response::decode(&refused[..24]).unwrap().body, Body::Error);
        assert_eq!(Response::decode(&refused[..24]).unwrap().version, 3);
    }

    #[test]
    fn what_is_no_response_is_refused() {
        assert_eq!(Response::decode(&MAPPED[..59]), Err(DecodeError::Truncated));
        assert_eq!(Response::decode(&MAPPED[..23]), Err(DecodeError::Truncated));
        for (index, byte) in [(0, 1), (1, 1), (1, 0x82), (24 + 12, 6)] {
            let mut datagram = MAPPED;
            datagram[index] = byte;
            assert!(Response::decode(&datagram).is_err(), "byte {index} is {byte}");
        }
        assert!(Response::decode(&[MAPPED.as_slice(), &[0; 1041]].concat()).is_err(), "longer than any message");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(mut datagram in proptest::collection::vec(any::<u8>(), 0..80), begins in 0..3) {
            if begins > 0 {
                datagram.splice(..datagram.len().min(4), MAPPED[..4].iter().copied());
            }
            if let Ok(response) = Response::decode(&datagram) {
                prop_assert!(datagram.len() >= HEADER && (response.version == VERSION || response.result == UNSUPPORTED_VERSION));
            }
        }
    }
}
