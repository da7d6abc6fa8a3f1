//! The codec that every layer writes its messages with: big-endian integers, RFC 9000 variable-length integers, byte strings.
//!
//! There is one encoding per value: a variable-length integer that is not the shortest is rejected, and [`Reader::finish`] rejects what is left over.

use thiserror::Error;

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The bytes end inside a field.
    #[error("the bytes end inside a field")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("{0} bytes are left after the last field")]
    Trailing(usize),
    /// The kind, version or flag byte has a value that means nothing.
    #[error("{0} is not a known kind")]
    Kind(u8),
    /// The field has an encoding that an encoder never writes.
    #[error("the {0} has more than one encoding and this is not the one")]
    NotCanonical(&'static str),
    /// The field is outside of its range.
    #[error("the {0} is out of range")]
    Range(&'static str),
}

/// Reads fields from the front of a byte slice; allocates nothing, never panics.
#[derive(Debug, Clone, Copy)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Bytes not yet read.
    pub const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next `count` bytes.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// The next `N` bytes as an array.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    /// One byte.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if none is left.
    pub fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    /// Two bytes, big-endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    /// Three bytes, big-endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn u24(&mut self) -> Result<u32, DecodeError> {
        let [a, b, c] = self.array()?;
        Ok(u32::from_be_bytes([0, a, b, c]))
    }

    /// Four bytes, big-endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// Six bytes, big-endian: a [`Timestamp`](crate::Timestamp).
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn timestamp(&mut self) -> Result<crate::Timestamp, DecodeError> {
        let mut bytes = [0; 8];
        bytes[2..].copy_from_slice(&self.array::<6>()?);
        Ok(crate::Timestamp(u64::from_be_bytes(bytes)))
    }

    /// Eight bytes, big-endian.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`] if fewer are left.
    pub fn u64(&mut self) -> Result<u64, DecodeError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// A variable-length integer of 1, 2, 4 or 8 bytes, below 2^62.
    ///
    /// # Errors
    /// [`DecodeError::Truncated`], or [`DecodeError::NotCanonical`] if a shorter form exists.
    ///
    /// Source: RFC 9000, section 16.
    pub fn varint(&mut self) -> Result<u64, DecodeError> {
        let first = *self.rest.first().ok_or(DecodeError::Truncated)?;
        let length = 1usize << (first >> 6);
        let mut value = u64::from(first & 0x3f);
        for byte in &self.bytes(length)?[1..] {
            value = value << 8 | u64::from(*byte);
        }
        if length > 1 && value < 1 << (8 * (length / 2) - 2) {
            return Err(DecodeError::NotCanonical("integer"));
        }
        Ok(value)
    }

    /// A variable-length integer that counts something of which at most `max` are allowed.
    ///
    /// # Errors
    /// As [`Reader::varint`], and [`DecodeError::Range`] with `what` if it is more than `max`.
    pub fn count(&mut self, max: usize, what: &'static str) -> Result<usize, DecodeError> {
        match usize::try_from(self.varint()?) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(DecodeError::Range(what)),
        }
    }

    /// A byte string of at most `max` bytes behind its length.
    ///
    /// # Errors
    /// As [`Reader::count`].
    pub fn string(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        let length = self.count(max, what)?;
        self.bytes(length)
    }

    /// UTF-8 text of at most `max` bytes behind its length.
    ///
    /// # Errors
    /// As [`Reader::string`], and [`DecodeError::Range`] if it is not UTF-8.
    pub fn text(&mut self, max: usize, what: &'static str) -> Result<&'a str, DecodeError> {
        core::str::from_utf8(self.string(max, what)?).map_err(|_| DecodeError::Range(what))
    }

    /// Everything not yet read.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.rest)
    }

    /// Ends reading.
    ///
    /// # Errors
    /// [`DecodeError::Trailing`] if bytes are left.
    pub const fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(DecodeError::Trailing(left)),
        }
    }
}

/// Appends fields to a buffer; the counterpart of [`Reader`].
#[derive(Debug, Default, Clone)]
pub struct Writer {
    buffer: Vec<u8>,
}

impl Writer {
    /// Starts empty, with room for `capacity` bytes.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { buffer: Vec::with_capacity(capacity) }
    }

    /// Bytes written.
    pub const fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Nothing is written yet.
    pub const fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Appends bytes as they are: an array, or the last field.
    pub fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.buffer.extend_from_slice(bytes);
        self
    }

    /// Appends one byte.
    pub fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// Appends two bytes, big-endian.
    pub fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends the low three bytes, big-endian.
    pub fn u24(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes()[1..])
    }

    /// Appends four bytes, big-endian.
    pub fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends the low six bytes of a time, big-endian.
    pub fn timestamp(&mut self, value: crate::Timestamp) -> &mut Self {
        self.bytes(&value.0.to_be_bytes()[2..])
    }

    /// Appends eight bytes, big-endian.
    pub fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_be_bytes())
    }

    /// Appends the shortest variable-length integer. Only the low 62 bits are kept.
    pub fn varint(&mut self, value: u64) -> &mut Self {
        let value = value & ((1 << 62) - 1);
        let bytes = value.to_be_bytes();
        let (length, mark) = match value {
            0..0x40 => (1, 0),
            0x40..0x4000 => (2, 0x40),
            0x4000..0x4000_0000 => (4, 0x80),
            _ => (8, 0xc0),
        };
        let start = self.buffer.len();
        self.bytes(&bytes[8 - length..]);
        self.buffer[start] |= mark;
        self
    }

    /// Appends a byte string behind its length.
    pub fn string(&mut self, bytes: &[u8]) -> &mut Self {
        self.varint(bytes.len() as u64).bytes(bytes)
    }

    /// The bytes written.
    pub fn finish(self) -> Vec<u8> {
        self.buffer
    }
}

impl AsRef<[u8]> for Writer {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_varint_reads_back_and_is_the_shortest(value in (0u32..62).prop_flat_map(|bits| 0..1u64 << bits)) {
            let mut writer = Writer::default();
            writer.varint(value);
            let mut reader = Reader::new(writer.as_ref());
            prop_assert_eq!(reader.varint(), Ok(value));
            prop_assert_eq!(reader.finish(), Ok(()));
        }

        #[test]
        fn what_decodes_as_a_varint_encodes_to_the_same_bytes(bytes: [u8; 8]) {
            let mut reader = Reader::new(&bytes);
            if let Ok(value) = reader.varint() {
                let mut writer = Writer::default();
                writer.varint(value);
                prop_assert_eq!(writer.as_ref(), &bytes[..8 - reader.remaining()]);
            }
        }
    }

    #[test]
    fn rfc_9000_appendix_a_1_vectors() {
        let vectors: [(&[u8], u64); 4] = [
            (&[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c], 151_288_809_941_952_652),
            (&[0x9d, 0x7f, 0x3e, 0x7d], 494_878_333),
            (&[0x7b, 0xbd], 15_293),
            (&[0x25], 37),
        ];
        for (bytes, value) in vectors {
            assert_eq!(Reader::new(bytes).varint(), Ok(value));
        }
        assert_eq!(Reader::new(&[0x40, 0x25]).varint(), Err(DecodeError::NotCanonical("integer")));
    }

    #[test]
    fn a_count_over_its_bound_is_refused_before_anything_is_read() {
        let mut writer = Writer::default();
        writer.varint(1 << 40);
        assert_eq!(Reader::new(writer.as_ref()).string(1000, "name"), Err(DecodeError::Range("name")));
    }
}
