//! The link that links a new device: `peers:` and what it takes to meet the inviting device, a secret of 128 bits among it.
//!
//! Nobody who has not seen the link can find the place where the two meet, watch it, or spend its guess.

use core::fmt;
use core::str::FromStr;
use std::net::{IpAddr, SocketAddr};

use peers_wire::{DecodeError, PeerId, Reader, Writer};
use rand::CryptoRng;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::keys::{derive, hash};
use crate::topic::TopicKey;

/// How a link begins.
pub const LINK_SCHEME: &str = "peers:";
/// Addresses in a link; more are left out.
pub const MAX_LINK_ADDRESSES: usize = 6;

const VERSION: u8 = 1;
const SECRET: usize = 16;
const CHECKSUM: usize = 4;
/// Version and length.
const HEAD: usize = 2;
const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// A link. `Display` shows it: for the user's eyes alone.
#[derive(Clone, PartialEq, Eq)]
pub struct LinkUri {
    secret: Zeroizing<[u8; SECRET]>,
    inviter: PeerId,
    addresses: Vec<SocketAddr>,
}

/// Why a text is not a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseLinkError {
    /// It does not begin with [`LINK_SCHEME`].
    #[error("a link begins with \"{LINK_SCHEME}\"")]
    Scheme,
    /// A character that no link has.
    #[error("character {position} of the link is {found:?}, which no link has: copy it again")]
    Character {
        /// Which one, from 1, white space not counted.
        position: usize,
        /// The character.
        found: char,
    },
    /// It ends too early.
    #[error("the link is cut off: it has {found} of {expected} characters; copy all of it")]
    Truncated {
        /// Characters that it should have.
        expected: usize,
        /// Characters that it has.
        found: usize,
    },
    /// Something follows it.
    #[error("the link has {found} characters instead of {expected}: copy nothing but the link")]
    TooLong {
        /// Characters that it should have.
        expected: usize,
        /// Characters that it has.
        found: usize,
    },
    /// It is not as it was made.
    #[error("the link is damaged: a character of it was changed; copy it again")]
    Damaged,
    /// A newer program made it.
    #[error("the link is of version {0}, which this program does not know: update it")]
    Version(u8),
}

impl LinkUri {
    /// A new link to `inviter`, who is at `addresses`: the first [`MAX_LINK_ADDRESSES`] of those that mean the same to another host.
    pub fn generate(inviter: PeerId, addresses: &[SocketAddr], rng: &mut impl CryptoRng) -> Self {
        let mut secret = Zeroizing::new([0; SECRET]);
        rng.fill_bytes(&mut *secret);
        let mut kept = Vec::new();
        for address in addresses.iter().filter(|address| travels(address)) {
            // The scope of an address of IPv6 is this host's.
            let address = SocketAddr::new(address.ip(), address.port());
            if kept.len() < MAX_LINK_ADDRESSES && !kept.contains(&address) {
                kept.push(address);
            }
        }
        Self { secret, inviter, addresses: kept }
    }

    /// The topic where both sides meet: found by nobody who has not seen the link.
    pub fn rendezvous(&self) -> TopicKey {
        TopicKey::from_seed(derive(&self.root(), "peers link uri rendezvous", &[]))
    }

    pub(crate) fn password(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(derive(&self.root(), "peers link uri password", &[]).to_vec())
    }

    fn root(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(hash(&[b"peers link uri root", &*self.secret]))
    }

    /// The device that made it.
    pub const fn inviter(&self) -> PeerId {
        self.inviter
    }

    /// Where that device was, at most [`MAX_LINK_ADDRESSES`].
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Whether a text is meant to be a link: it begins as one, as far as it goes.
    pub fn is_meant(text: &str) -> bool {
        let begin: String = significant(text).take(LINK_SCHEME.len()).collect();
        begin.eq_ignore_ascii_case(LINK_SCHEME)
    }

    fn encode(&self) -> Zeroizing<Vec<u8>> {
        let mut writer = Writer::default();
        writer.u8(VERSION).u8(0).bytes(&*self.secret).bytes(&self.inviter.0);
        for address in &self.addresses {
            match address.ip() {
                IpAddr::V4(ip) => writer.u8(4).bytes(&ip.octets()),
                IpAddr::V6(ip) => writer.u8(6).bytes(&ip.octets()),
            };
            writer.u16(address.port());
        }
        let mut bytes = Zeroizing::new(writer.finish());
        // At most 168, as there are at most six addresses.
        bytes[1] = (bytes.len() + CHECKSUM).to_le_bytes()[0];
        let checksum = checksum(&bytes);
        bytes.extend_from_slice(&checksum);
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes);
        let mut addresses = Vec::new();
        let (secret, inviter) = (Zeroizing::new(reader.array()?), PeerId(reader.array()?));
        let mut rest = Reader::new(reader.rest());
        while let Ok(family) = rest.u8() {
            let ip: IpAddr = match family {
                4 => rest.array::<4>()?.into(),
                6 => rest.array::<16>()?.into(),
                other => return Err(DecodeError::Kind(other)),
            };
            addresses.push(SocketAddr::new(ip, rest.u16()?));
        }
        if addresses.len() > MAX_LINK_ADDRESSES {
            return Err(DecodeError::Range("addresses"));
        }
        Ok(Self { secret, inviter, addresses })
    }
}

/// An address that is the same host's for others: of loopback only those who share it have any use, and they are told no other.
fn travels(address: &SocketAddr) -> bool {
    let scoped = matches!(address.ip(), IpAddr::V6(ip) if ip.is_unicast_link_local());
    !scoped && !address.ip().is_unspecified() && !address.ip().is_multicast() && address.port() != 0
}

fn checksum(bytes: &[u8]) -> [u8; CHECKSUM] {
    *hash(&[b"peers link uri checksum", bytes]).first_chunk().expect("32 bytes begin with 4")
}

/// The characters of a text that copying, wrapping and quoting did not add.
fn significant(text: &str) -> impl Iterator<Item = char> {
    let quotes = ['<', '>', '"', '\'', '`', '(', ')', '\u{201c}', '\u{201d}'];
    let invisible = ['\u{200b}', '\u{2060}', '\u{feff}', '\u{ad}'];
    let text = text.trim_matches(move |c: char| c.is_whitespace() || quotes.contains(&c));
    text.chars().filter(move |c| !c.is_whitespace() && !invisible.contains(c))
}

/// Characters of base32 for that many bytes.
const fn characters(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

impl FromStr for LinkUri {
    type Err = ParseLinkError;

    /// Takes letters of any case; white space, line breaks and quotation marks around it are nothing.
    fn from_str(text: &str) -> Result<Self, ParseLinkError> {
        if !Self::is_meant(text) {
            return Err(ParseLinkError::Scheme);
        }
        let (mut bytes, mut buffer, mut bits, mut found) = (Zeroizing::new(Vec::with_capacity(256)), 0u32, 0, 0);
        for c in significant(text).skip(LINK_SCHEME.len()) {
            found += 1;
            if found > characters(usize::from(u8::MAX)) {
                continue;
            }
            let digit = ALPHABET.iter().position(|digit| *digit == c.to_ascii_lowercase() as u8 && c.is_ascii());
            let digit = digit.ok_or(ParseLinkError::Character { position: LINK_SCHEME.len() + found, found: c })?;
            buffer = ((buffer << 5) | u32::try_from(digit).unwrap_or_default()) & 0xfff;
            bits += 5;
            if bits >= 8 {
                bits -= 8;
                bytes.push((buffer >> bits).to_be_bytes()[3]);
            }
        }
        let expected = characters(bytes.get(1).map_or(HEAD + SECRET + PeerId::LEN + CHECKSUM, |length| usize::from(*length)));
        match found {
            _ if found < expected => return Err(ParseLinkError::Truncated { expected, found }),
            _ if found > expected => return Err(ParseLinkError::TooLong { expected, found }),
            _ => {}
        }
        let (content, sum) = bytes.split_last_chunk::<CHECKSUM>().ok_or(ParseLinkError::Damaged)?;
        if buffer & ((1 << bits) - 1) != 0 || *sum != checksum(content) {
            return Err(ParseLinkError::Damaged);
        }
        match content.split_first_chunk::<HEAD>() {
            Some(([VERSION, _], content)) => Self::decode(content).map_err(|_| ParseLinkError::Damaged),
            Some(([version, _], _)) => Err(ParseLinkError::Version(*version)),
            None => Err(ParseLinkError::Damaged),
        }
    }
}

impl fmt::Display for LinkUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(LINK_SCHEME)?;
        let bytes = self.encode();
        for i in 0..characters(bytes.len()) {
            let bit = i * 5;
            let low = bytes.get(bit / 8 + 1).map_or(0, |byte| u16::from(*byte));
            let digit = (((u16::from(bytes[bit / 8]) << 8) | low) >> (11 - bit % 8)) & 31;
            fmt::Write::write_char(f, char::from(ALPHABET[usize::from(digit)]))?;
        }
        Ok(())
    }
}

impl fmt::Debug for LinkUri {
    /// The inviter, who is not secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkUri({:?} ..)", self.inviter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn link(addresses: &[&str]) -> LinkUri {
        let addresses: Vec<SocketAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
        LinkUri::generate(PeerId([7; 32]), &addresses, &mut ChaCha20Rng::seed_from_u64(1))
    }

    fn example() -> LinkUri {
        link(&["192.0.2.7:4000", "[2001:db8::7]:4000"])
    }

    #[test]
    fn a_link_survives_wrapping_quoting_and_a_change_of_case() {
        let text = example().to_string();
        assert!(text.starts_with(LINK_SCHEME) && text.len() < 140, "{text}");
        let wrapped: Vec<String> = text.as_bytes().chunks(40).map(|line| String::from_utf8(line.to_vec()).unwrap()).collect();
        for spoiled in [
            text.clone(),
            format!("  {text}\r\n"),
            text.to_uppercase(),
            format!("<{text}>"),
            format!("\"{text}\""),
            wrapped.join("\r\n  "),
            wrapped.join("\u{200b}"),
        ] {
            assert_eq!(spoiled.parse::<LinkUri>(), Ok(example()), "{spoiled}");
        }
        assert_eq!(text.parse::<LinkUri>().unwrap().to_string(), text);
    }

    #[test]
    fn a_link_damaged_in_any_character_is_refused() {
        let text = example().to_string();
        for at in 0..text.len() {
            for other in "abcdefghijklmnopqrstuvwxyz2345670189-_.:/é".chars() {
                let (before, after) = (&text[..at], &text[at + 1..]);
                if !text[at..].starts_with(other) {
                    assert!(format!("{before}{other}{after}").parse::<LinkUri>().is_err(), "{other} at {at}");
                }
                let inserted = format!("{before}{other}{}", &text[at..]);
                assert!(inserted.parse::<LinkUri>().is_err() || inserted == text, "{other} before {at}");
            }
            let (cut, left_out) = (&text[..at], format!("{}{}", &text[..at], &text[at + 1..]));
            assert!(cut.parse::<LinkUri>().is_err() && left_out.parse::<LinkUri>().is_err(), "without {at}");
            let mut swapped = text.clone().into_bytes();
            swapped.swap(at, (at + 1) % text.len());
            let swapped = String::from_utf8(swapped).unwrap();
            assert!(swapped == text || swapped.parse::<LinkUri>().is_err(), "{at} and the next swapped");
        }
    }

    #[test]
    fn what_is_wrong_with_a_link_is_named() {
        let text = example().to_string();
        let parse = |text: &str| text.parse::<LinkUri>().unwrap_err();
        assert_eq!(parse("four words it is"), ParseLinkError::Scheme);
        assert_eq!(parse(&text.replace(':', ":0")), ParseLinkError::Character { position: 7, found: '0' });
        let expected = text.len() - LINK_SCHEME.len();
        assert_eq!(parse(&text[..text.len() - 20]), ParseLinkError::Truncated { expected, found: expected - 20 });
        assert_eq!(parse(&format!("{text}aaa")), ParseLinkError::TooLong { expected, found: expected + 3 });
        assert!(matches!(parse(LINK_SCHEME), ParseLinkError::Truncated { found: 0, .. }));
        let last = if text.ends_with('q') { "a" } else { "q" };
        assert_eq!(parse(&format!("{}{last}", &text[..text.len() - 1])), ParseLinkError::Damaged);
        let mut newer = example().encode().to_vec();
        newer.truncate(newer.len() - CHECKSUM);
        newer[0] = 2;
        let sum = checksum(&newer);
        newer.extend_from_slice(&sum);
        assert_eq!(parse(&written(&newer)), ParseLinkError::Version(2));
    }

    #[test]
    fn a_link_names_at_most_six_addresses_and_none_that_means_another_host_elsewhere() {
        let many: Vec<String> = (1..20).map(|i| format!("192.0.2.{i}:4000")).collect();
        assert_eq!(link(&many.iter().map(String::as_str).collect::<Vec<_>>()).addresses().len(), MAX_LINK_ADDRESSES);
        let kept = link(&["[fe80::1%3]:1", "0.0.0.0:1", "192.0.2.1:0", "224.0.0.1:5", "127.0.0.1:9", "127.0.0.1:9"]);
        assert_eq!(kept.addresses(), ["127.0.0.1:9".parse().unwrap()]);
        let longest =
            vec!["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "[2001:db8::4]:1", "[2001:db8::5]:1", "[2001:db8::6]:1"];
        assert_eq!(link(&longest).to_string().parse(), Ok(link(&longest)));
    }

    #[test]
    fn nobody_finds_the_meeting_place_of_a_link_without_its_secret() {
        let rng = &mut ChaCha20Rng::seed_from_u64(2);
        let [one, other] = [(); 2].map(|()| LinkUri::generate(PeerId([7; 32]), &[], rng));
        assert_ne!(one.rendezvous().id(), other.rendezvous().id());
        assert_ne!(one.password(), other.password());
        assert_eq!(format!("{one:?}"), format!("LinkUri({:?} ..)", PeerId([7; 32])));
    }

    fn written(bytes: &[u8]) -> String {
        let mut text = LINK_SCHEME.to_owned();
        let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
        for digit in bits.as_bytes().chunks(5) {
            let digit = format!("{:0<5}", core::str::from_utf8(digit).unwrap());
            text.push(char::from(ALPHABET[usize::from_str_radix(&digit, 2).unwrap()]));
        }
        text
    }

    proptest! {
        #[test]
        fn any_link_reads_back(seed: u64, inviter: [u8; 32], addresses in prop::collection::vec(any::<SocketAddr>(), 0..9)) {
            let link = LinkUri::generate(PeerId(inviter), &addresses, &mut ChaCha20Rng::seed_from_u64(seed));
            prop_assert_eq!(link.to_string(), written(&link.encode()));
            prop_assert_eq!(link.to_string().parse::<LinkUri>(), Ok(link));
        }

        #[test]
        fn any_text_is_a_link_or_refused_without_panic(text in ".{0,300}", tail in "[a-z2-7]{0,500}") {
            let _ = text.parse::<LinkUri>();
            for text in [format!("peers:{text}"), format!("peers:{tail}")] {
                prop_assert!(text.parse::<LinkUri>().is_err());
            }
        }

        #[test]
        fn any_bytes_with_a_checksum_are_a_link_that_is_written_so_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 40..200)) {
            bytes[0] = VERSION;
            bytes[1] = (bytes.len() + CHECKSUM).to_le_bytes()[0];
            let sum = checksum(&bytes);
            bytes.extend_from_slice(&sum);
            if let Ok(link) = written(&bytes).parse::<LinkUri>() {
                prop_assert_eq!(link.to_string(), written(&bytes));
            }
        }
    }
}
