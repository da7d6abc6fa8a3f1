//! Values and keys, and their one encoding: the serial types of SQLite's record format, shortest form only.

use core::fmt;

use peers_wire::{DecodeError, Reader, Writer};
use rusqlite::types::{FromSql, FromSqlResult, ToSql, ToSqlOutput, ValueRef};

/// A value as SQLite stores it.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// A signed 64-bit integer.
    Integer(i64),
    /// An IEEE 754 double; never NaN, which SQLite stores as NULL.
    Real(f64),
    /// Text in the bytes SQLite holds: UTF-8 by convention, but nothing enforces it.
    Text(Vec<u8>),
    /// Bytes.
    Blob(Vec<u8>),
}

impl Value {
    /// Text from a Rust string.
    pub fn text(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }

    pub(crate) fn as_ref(&self) -> ValueRef<'_> {
        match self {
            Self::Null => ValueRef::Null,
            Self::Integer(v) => ValueRef::Integer(*v),
            Self::Real(v) => ValueRef::Real(*v),
            Self::Text(v) => ValueRef::Text(v),
            Self::Blob(v) => ValueRef::Blob(v),
        }
    }

    /// The form a key has: SQLite finds 1 and 1.0 equal, so an integral real becomes the integer.
    pub(crate) fn into_key(self) -> Self {
        match self {
            Self::Real(v) => real_as_integer(v).map_or(Self::Real(v), Self::Integer),
            other => other,
        }
    }
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(v) => Self::Integer(v),
            ValueRef::Real(v) => Self::Real(v),
            ValueRef::Text(v) => Self::Text(v.to_vec()),
            ValueRef::Blob(v) => Self::Blob(v.to_vec()),
        }
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(self.as_ref()))
    }
}

impl FromSql for Value {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        Ok(value.into())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Value {
    /// As an SQL literal; text and blobs are cut after 40 characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("NULL"),
            Self::Integer(v) => write!(f, "{v}"),
            Self::Real(v) => write!(f, "{v:?}"),
            Self::Text(v) => write!(f, "'{:.40}'", String::from_utf8_lossy(v)),
            Self::Blob(v) => {
                f.write_str("x'")?;
                v.iter().take(20).try_for_each(|byte| write!(f, "{byte:02x}"))?;
                f.write_str(if v.len() > 20 { "..'" } else { "'" })
            }
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
fn real_as_integer(v: f64) -> Option<i64> {
    (v.fract() == 0.0 && v.abs() < 9.0e15).then_some(v as i64)
}

/// Appends the encoding of a value: its serial type as a variable-length integer, then its bytes.
///
/// Source: SQLite "Database File Format", section 2.1, record format.
pub(crate) fn put_value(out: &mut Writer, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => {
            out.u8(0);
        }
        ValueRef::Integer(0) => {
            out.u8(8);
        }
        ValueRef::Integer(1) => {
            out.u8(9);
        }
        ValueRef::Integer(v) => {
            let (serial, size) = integer_form(v);
            out.u8(serial).bytes(&v.to_be_bytes()[8 - size..]);
        }
        ValueRef::Real(v) => {
            out.u8(7).bytes(&v.to_bits().to_be_bytes());
        }
        ValueRef::Blob(v) => {
            out.varint(v.len() as u64 * 2 + 12).bytes(v);
        }
        ValueRef::Text(v) => {
            out.varint(v.len() as u64 * 2 + 13).bytes(v);
        }
    }
}

/// The shortest serial type that holds `v`, and its size in bytes.
const fn integer_form(v: i64) -> (u8, usize) {
    match if v < 0 { !v } else { v } {
        0..=0x7f => (1, 1),
        0x80..=0x7fff => (2, 2),
        0x8000..=0x7f_ffff => (3, 3),
        0x80_0000..=0x7fff_ffff => (4, 4),
        0x8000_0000..=0x7fff_ffff_ffff => (5, 6),
        _ => (6, 8),
    }
}

/// Reads a value without copying its bytes.
pub(crate) fn take_value<'a>(input: &mut Reader<'a>) -> Result<ValueRef<'a>, DecodeError> {
    let serial = input.varint()?;
    let size = match serial {
        0 => return Ok(ValueRef::Null),
        8 => return Ok(ValueRef::Integer(0)),
        9 => return Ok(ValueRef::Integer(1)),
        1 => 1,
        2 => 2,
        3 => 3,
        4 => 4,
        5 => 6,
        6 => 8,
        7 => {
            let v = f64::from_bits(input.u64()?);
            return if v.is_nan() { Err(DecodeError::Range("real")) } else { Ok(ValueRef::Real(v)) };
        }
        10 | 11 => return Err(DecodeError::Range("serial type")),
        _ => {
            let length = usize::try_from((serial - 12) / 2).map_err(|_| DecodeError::Range("value"))?;
            let bytes = input.bytes(length)?;
            return Ok(if serial % 2 == 0 { ValueRef::Blob(bytes) } else { ValueRef::Text(bytes) });
        }
    };
    let bytes = input.bytes(size)?;
    let mut wide = [if bytes[0] & 0x80 == 0 { 0 } else { 0xff }; 8];
    wide[8 - size..].copy_from_slice(bytes);
    let v = i64::from_be_bytes(wide);
    if v == 0 || v == 1 || u64::from(integer_form(v).0) != serial {
        return Err(DecodeError::NotCanonical("integer"));
    }
    Ok(ValueRef::Integer(v))
}

/// Reads the values of a key: no NULL, no integral real.
pub(crate) fn take_key(input: &mut Reader<'_>, columns: usize) -> Result<Vec<Value>, DecodeError> {
    (0..columns)
        .map(|_| match take_value(input)? {
            ValueRef::Null => Err(DecodeError::Range("key")),
            ValueRef::Real(v) if real_as_integer(v).is_some() => Err(DecodeError::NotCanonical("key")),
            value => Ok(value.into()),
        })
        .collect()
}

/// The encoding of a key: its values one after the other.
pub(crate) fn encode_key(key: &[Value]) -> Vec<u8> {
    let mut out = Writer::with_capacity(32);
    key.iter().for_each(|value| put_value(&mut out, value.as_ref()));
    out.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            (0u32..64, any::<i64>()).prop_map(|(shift, v)| Value::Integer(v >> shift)),
            any::<f64>().prop_filter("SQLite has no NaN", |v| !v.is_nan()).prop_map(Value::Real),
            prop::collection::vec(any::<u8>(), 0..80).prop_map(Value::Text),
            prop::collection::vec(any::<u8>(), 0..80).prop_map(Value::Blob),
        ]
    }

    proptest! {
        #[test]
        fn a_value_reads_back(value in any_value()) {
            let mut out = Writer::default();
            put_value(&mut out, value.as_ref());
            let mut input = Reader::new(out.as_ref());
            prop_assert_eq!(Value::from(take_value(&mut input).unwrap()), value);
            prop_assert_eq!(input.finish(), Ok(()));
        }

        #[test]
        fn what_decodes_as_a_value_encodes_to_the_same_bytes(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut input = Reader::new(&bytes);
            if let Ok(value) = take_value(&mut input) {
                let mut out = Writer::default();
                put_value(&mut out, value);
                prop_assert_eq!(out.as_ref(), &bytes[..bytes.len() - input.remaining()]);
            }
        }
    }

    #[test]
    fn an_integral_real_is_the_integer_in_a_key() {
        assert_eq!(Value::Real(-3.0).into_key(), Value::Integer(-3));
        assert_eq!(Value::Real(0.5).into_key(), Value::Real(0.5));
        let mut out = Writer::default();
        put_value(&mut out, ValueRef::Real(2.0));
        assert_eq!(take_key(&mut Reader::new(out.as_ref()), 1), Err(DecodeError::NotCanonical("key")));
    }
}
