//! Newtypes for what must not be mixed.

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// A text was not the base32 form of an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseIdError {
    /// An id of this kind has `expected` characters, the text has `found`.
    #[error("an id of this kind has {expected} characters, this text has {found}")]
    Length {
        /// Characters an id of this kind has.
        expected: usize,
        /// Characters the text has.
        found: usize,
    },
    /// The character at `position` is not one of `a-z2-7`, or the last one carries bits beyond the id.
    #[error("character {position} does not belong into an id (only a-z and 2-7 do)")]
    Character {
        /// Zero-based position in the text.
        position: usize,
    },
}

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// Writes `bytes` as unpadded lower-case base32 (RFC 4648, section 6), at most `limit` characters.
fn write_base32(f: &mut fmt::Formatter<'_>, bytes: &[u8], limit: usize) -> fmt::Result {
    let characters = (bytes.len() * 8).div_ceil(5).min(limit);
    for i in 0..characters {
        let bit = i * 5;
        let high = u16::from(bytes[bit / 8]) << 8;
        let low = bytes.get(bit / 8 + 1).map_or(0, |b| u16::from(*b));
        let digit = ((high | low) >> (11 - bit % 8)) & 31;
        fmt::Write::write_char(f, char::from(ALPHABET[usize::from(digit)]))?;
    }
    Ok(())
}

fn parse_base32<const N: usize>(text: &str) -> Result<[u8; N], ParseIdError> {
    let expected = (N * 8).div_ceil(5);
    let found = text.chars().count();
    if found != expected {
        return Err(ParseIdError::Length { expected, found });
    }
    let mut bytes = [0u8; N];
    let (mut buffer, mut bits, mut next) = (0u32, 0, 0);
    for (position, c) in text.bytes().enumerate() {
        let digit = match c {
            b'a'..=b'z' => c - b'a',
            b'A'..=b'Z' => c - b'A',
            b'2'..=b'7' => c - b'2' + 26,
            _ => return Err(ParseIdError::Character { position }),
        };
        buffer = ((buffer << 5) | u32::from(digit)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes[next] = (buffer >> bits).to_be_bytes()[3];
            next += 1;
        }
    }
    if buffer & ((1 << bits) - 1) != 0 {
        return Err(ParseIdError::Character { position: expected - 1 });
    }
    Ok(bytes)
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// Size in bytes.
            pub const LEN: usize = $bytes;

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            /// Unpadded lower-case base32; with a precision, only that many characters.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_base32(f, &self.0, f.precision().unwrap_or(usize::MAX))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_base32(f, &self.0, 8)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_base32(text).map(Self)
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                <std::borrow::Cow<'de, str>>::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

id! {
    /// A device: its Ed25519 public key.
    PeerId, 32
}
id! {
    /// A packet: the BLAKE2b-256 of everything in it that does not change in flight.
    PacketId, 32
}
id! {
    /// A topic: the Ed25519 public key under which its packets are signed.
    TopicId, 32
}
id! {
    /// A link to a preceding packet: the first 24 bytes of its [`PacketId`].
    Link, 24
}
id! {
    /// An Ed25519 signature.
    Signature, 64
}

impl PacketId {
    /// The truncated form under which a successor names this packet.
    pub fn link(&self) -> Link {
        let mut link = [0; Link::LEN];
        link.copy_from_slice(&self.0[..Link::LEN]);
        Link(link)
    }
}

impl Link {
    /// Names no packet: the packet that carries it starts a list.
    pub const NONE: Self = Self([0; Self::LEN]);
}

/// Wall time in milliseconds since the Unix epoch; 48 bits on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Timestamp(pub u64);

impl Timestamp {
    /// The latest time that fits a frame (the year 10889).
    pub const MAX: Self = Self((1 << 48) - 1);

    /// This time `millis` later, saturating.
    #[must_use]
    pub const fn plus(self, millis: u64) -> Self {
        Self(self.0.saturating_add(millis))
    }

    /// Milliseconds from `earlier` to this time, 0 if it is not earlier.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_id_survives_its_text_form(bytes: [u8; 32], link: [u8; 24]) {
            prop_assert_eq!(PeerId(bytes).to_string().parse(), Ok(PeerId(bytes)));
            prop_assert_eq!(Link(link).to_string().to_uppercase().parse(), Ok(Link(link)));
        }

        #[test]
        fn any_text_parses_or_fails_without_panic(text in ".{0,60}") {
            if let Ok(id) = text.parse::<PeerId>() {
                prop_assert_eq!(id.to_string(), text.to_ascii_lowercase());
            }
        }
    }

    #[test]
    fn rfc_4648_vector() {
        assert_eq!(Link(*b"foobarfoobarfoobarfoobar").to_string()[..8], *"mzxw6ytb");
        assert_eq!(format!("{:.4}", PacketId([0xff; 32])), "7777");
    }

    #[test]
    fn a_wrong_length_or_character_is_named() {
        assert_eq!("abc".parse::<PeerId>(), Err(ParseIdError::Length { expected: 52, found: 3 }));
        let text = format!("{}1{}", "a".repeat(10), "a".repeat(41));
        assert_eq!(text.parse::<PeerId>(), Err(ParseIdError::Character { position: 10 }));
        assert_eq!("b".repeat(52).parse::<PeerId>(), Err(ParseIdError::Character { position: 51 }));
    }
}
