//! The NAT Port Mapping Protocol: its messages.
//!
//! Source: RFC 6886, sections 3.2 (external address), 3.3 (mappings), 3.5 (result codes).

use core::net::Ipv4Addr;

use peers_wire::{DecodeError, Reader, Writer};

use super::output::Failure;

/// The version of NAT-PMP.
pub(super) const VERSION: u8 = 0;
/// The bit of the opcode that marks a response.
const RESPONSE: u8 = 128;
const ADDRESS: u8 = 0;
const MAP_UDP: u8 = 1;

/// Result codes.
pub(super) const SUCCESS: u16 = 0;
pub(super) const NETWORK_FAILURE: u16 = 3;
pub(super) const OUT_OF_RESOURCES: u16 = 4;

/// A request for the external address: 2 bytes.
pub(super) fn address_request() -> Vec<u8> {
    vec![VERSION, ADDRESS]
}

/// A request to make, renew or (with `external` and `lifetime` 0) delete the mapping of a UDP port: 12 bytes.
pub(super) fn map_request(internal: u16, external: u16, lifetime: u32) -> Vec<u8> {
    let mut writer = Writer::with_capacity(12);
    writer.u8(VERSION).u8(MAP_UDP).u16(0).u16(internal).u16(external).u32(lifetime);
    writer.finish()
}

/// What a gateway says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) result: u16,
    /// Seconds since the gateway lost its mappings.
    pub(super) epoch: u32,
    pub(super) body: Body,
}

/// What a response is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// The external address; also announced where it changes.
    Address(Ipv4Addr),
    /// A mapping; `lifetime` in seconds, 0 if it was deleted.
    Map { internal: u16, external: u16, lifetime: u32 },
    /// A request was refused.
    Error,
}

impl Response {
    /// Reads a response: of 12 bytes, of 16, or an error of at least 8.
    pub(super) fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(datagram);
        let (version, opcode) = (reader.u8()?, reader.u8()?);
        if version != VERSION || opcode & RESPONSE == 0 {
            return Err(DecodeError::Kind(opcode));
        }
        let (result, epoch) = (reader.u16()?, reader.u32()?);
        let body = match opcode & !RESPONSE {
            _ if result != SUCCESS => Body::Error,
            ADDRESS => Body::Address(reader.array::<4>()?.into()),
            MAP_UDP => Body::Map { internal: reader.u16()?, external: reader.u16()?, lifetime: reader.u32()? },
            opcode => return Err(DecodeError::Kind(opcode)),
        };
        if result == SUCCESS && !reader.rest().is_empty() {
            return Err(DecodeError::Range("length of a NAT-PMP message"));
        }
        Ok(Self { result, epoch, body })
    }
}

/// What a result code means. Who knows neither the version nor the opcode is as good as silent.
pub(super) const fn failure(result: u16) -> Failure {
    let reason = match result {
        1 | 5 => return Failure::Silent,
        2 => "not authorized",
        NETWORK_FAILURE => "network failure",
        OUT_OF_RESOURCES => "out of resources",
        _ => "unknown error",
    };
    Failure::Refused { reason }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Responses written from the diagrams of sections 3.2 and 3.3.
    #[rustfmt::skip]
    const ADDRESS_IS: [u8; 12] = [
        0, 128, 0, 0, // version, opcode, result
        0, 1, 0xe2, 0x40, // seconds since the start of the epoch: 123456
        203, 0, 113, 7, // external address
    ];
    #[rustfmt::skip]
    const MAPPED: [u8; 16] = [
        0, 129, 0, 0, // version, opcode, result
        0, 1, 0xe2, 0x40, // seconds since the start of the epoch
        0xb9, 0x72, 0x30, 0x39, // internal port 47474, external port 12345
        0, 0, 0x0e, 0x10, // lifetime: 3600
    ];

    #[test]
    fn requests_have_the_bytes_of_the_rfc() {
        assert_eq!(address_request(), [0, 0]);
        assert_eq!(map_request(47474, 12345, 3600), [0, 1, 0, 0, 0xb9, 0x72, 0x30, 0x39, 0, 0, 0x0e, 0x10]);
        assert_eq!(map_request(47474, 0, 0), [0, 1, 0, 0, 0xb9, 0x72, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn responses_of_the_rfc_read() {
        let address = Response { result: 0, epoch: 123_456, body: Body::Address(Ipv4Addr::new(203, 0, 113, 7)) };
        assert_eq!(Response::decode(&ADDRESS_IS), Ok(address));
        let mapped = Response { result: 0, epoch: 123_456, body: Body::Map { internal: 47474, external: 12345, lifetime: 3600 } };
        assert_eq!(Response::decode(&MAPPED), Ok(mapped));
        let refused = Response { result: 1, epoch: 5, body: Body::Error };
        assert_eq!(Response::decode(&[0, 129, 0, 1, 0, 0, 0, 5]), Ok(refused), "what answers a request of PCP");
    }

    #[test]
    fn what_is_no_response_is_refused() {
        for cut in 0..12 {
            assert_eq!(Response::decode(&ADDRESS_IS[..cut]), Err(DecodeError::Truncated));
        }
        for cut in 8..16 {
            assert_eq!(Response::decode(&MAPPED[..cut]), Err(DecodeError::Truncated));
        }
        assert!(Response::decode(&[MAPPED.as_slice(), &[0]].concat()).is_err());
        assert!(Response::decode(&[0, 1, 0, 0, 0, 0, 0, 0]).is_err(), "a request");
        assert!(Response::decode(&[0, 130, 0, 0, 0, 0, 0, 0]).is_err(), "of another opcode");
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(mut datagram in proptest::collection::vec(any::<u8>(), 0..20), opcode in 128..130u8) {
            datagram.splice(..datagram.len().min(4), [0, opcode, 0, 0]);
            if let Ok(response) = Response::decode(&datagram) {
                let length = match response.body { Body::Address(_) => 12, Body::Map { .. } => 16, Body::Error => datagram.len() };
                prop_assert_eq!(datagram.len(), length);
            }
        }
    }
}
