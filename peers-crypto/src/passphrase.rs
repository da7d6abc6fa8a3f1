//! Passphrases: in locked memory from the first byte that is read to the last use.

use core::fmt;
use std::io::{self, Read};

use crate::sodium::{Locked, equal};

/// Most bytes of a passphrase.
pub const MAX_PASSPHRASE: usize = 1024;

/// A passphrase: at most [`MAX_PASSPHRASE`] bytes, taken as they come, in locked memory that is zeroed when dropped. May be empty.
pub struct Passphrase {
    bytes: Locked<MAX_PASSPHRASE>,
    length: usize,
}

/// The passphrase has more than [`MAX_PASSPHRASE`] bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a passphrase has at most {MAX_PASSPHRASE} bytes")]
pub struct TooLong;

impl Passphrase {
    /// The empty passphrase, to which bytes are added as they are typed.
    pub fn new() -> Self {
        Self { bytes: Locked::zeroed(), length: 0 }
    }

    /// Reads up to the first line feed and no further, a byte at a time and straight into locked memory; a carriage return before it is left out.
    ///
    /// - returns: `None` if the input has ended
    ///
    /// # Errors
    /// Those of `input`, which should not buffer; [`io::ErrorKind::InvalidData`] with [`TooLong`].
    pub fn read_line(mut input: impl Read) -> io::Result<Option<Self>> {
        let mut line = Self::new();
        let mut byte = Locked::<1>::zeroed();
        let mut any = false;
        loop {
            match input.read(&mut *byte) {
                Ok(0) if !any => return Ok(None),
                Ok(0) => break,
                Ok(_) if byte[0] == b'\n' => break,
                Ok(_) => line.push(byte[0]).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            any = true;
        }
        if line.as_bytes().last() == Some(&b'\r') {
            line.pop();
        }
        Ok(Some(line))
    }

    /// Adds a byte at the end.
    ///
    /// # Errors
    /// [`TooLong`]
    pub fn push(&mut self, byte: u8) -> Result<(), TooLong> {
        *self.bytes.get_mut(self.length).ok_or(TooLong)? = byte;
        self.length += 1;
        Ok(())
    }

    /// Takes away the last character: its bytes, where it is UTF-8.
    pub fn pop(&mut self) {
        while self.length > 0 {
            self.length -= 1;
            let byte = core::mem::take(&mut self.bytes[self.length]);
            if byte & 0xc0 != 0x80 {
                break;
            }
        }
    }

    /// Takes away all of it.
    pub fn clear(&mut self) {
        self.bytes.fill(0);
        self.length = 0;
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Whether it has no byte, and so protects nothing.
    pub const fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl TryFrom<&[u8]> for Passphrase {
    type Error = TooLong;

    /// A copy in locked memory; the original is the caller's to forget.
    fn try_from(bytes: &[u8]) -> Result<Self, TooLong> {
        let mut copy = Self::new();
        copy.bytes.get_mut(..bytes.len()).ok_or(TooLong)?.copy_from_slice(bytes);
        copy.length = bytes.len();
        Ok(copy)
    }
}

impl Default for Passphrase {
    /// The empty one.
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for Passphrase {
    fn clone(&self) -> Self {
        let mut copy = Self::new();
        copy.bytes.copy_from_slice(&*self.bytes);
        copy.length = self.length;
        copy
    }
}

impl PartialEq for Passphrase {
    /// In time that depends only on the lengths.
    fn eq(&self, other: &Self) -> bool {
        equal(self.as_bytes(), other.as_bytes())
    }
}

impl Eq for Passphrase {}

impl fmt::Debug for Passphrase {
    /// Nothing of it, not even its length.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passphrase")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(bytes: &[u8]) -> Option<Vec<u8>> {
        Passphrase::read_line(bytes).unwrap().map(|line| line.as_bytes().to_vec())
    }

    #[test]
    fn one_line_is_read_and_what_follows_is_left() {
        let mut input: &[u8] = b"correct horse\r\nnext\n";
        assert_eq!(Passphrase::read_line(&mut input).unwrap().unwrap().as_bytes(), b"correct horse");
        assert_eq!(Passphrase::read_line(&mut input).unwrap().unwrap().as_bytes(), b"next");
        assert!(Passphrase::read_line(&mut input).unwrap().is_none());
        assert_eq!(line(b"\nx"), Some(Vec::new()), "an empty line is an empty passphrase, and no end");
        assert_eq!(line(b"a\rb"), Some(b"a\rb".to_vec()));
        assert_eq!(line(b"\xff\x00"), Some(b"\xff\x00".to_vec()), "any bytes will do");
    }

    #[test]
    fn one_that_is_too_long_is_refused_and_never_cut() {
        assert_eq!(line(&[b'a'; MAX_PASSPHRASE]).unwrap().len(), MAX_PASSPHRASE);
        let error = Passphrase::read_line(&[b'a'; MAX_PASSPHRASE + 1][..]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(Passphrase::try_from(&[b'a'; MAX_PASSPHRASE + 1][..]), Err(TooLong));
    }

    #[test]
    fn a_character_is_taken_back_whole() {
        let mut typed = Passphrase::try_from("a\u{fc}\u{1f511}".as_bytes()).unwrap();
        for left in ["a\u{fc}", "a", "", ""] {
            typed.pop();
            assert_eq!(typed.as_bytes(), left.as_bytes());
        }
        assert!(typed.bytes.iter().all(|byte| *byte == 0), "what was taken back is zeroed");
    }

    #[test]
    fn debug_shows_nothing_of_it() {
        assert_eq!(format!("{:?}", Passphrase::try_from(&b"correct horse"[..]).unwrap()), "Passphrase");
    }

    proptest! {
        #[test]
        fn typing_and_taking_back_is_what_a_string_does(keys in prop::collection::vec(prop::option::weighted(0.7, any::<char>()), 0..60)) {
            let (mut typed, mut model) = (Passphrase::new(), String::new());
            for key in keys {
                if let Some(c) = key {
                    model.push(c);
                    c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| typed.push(byte).unwrap());
                } else {
                    model.pop();
                    typed.pop();
                }
                prop_assert_eq!(typed.as_bytes(), model.as_bytes());
            }
        }
    }
}
