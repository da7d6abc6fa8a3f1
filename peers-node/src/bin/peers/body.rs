//! Bytes of a message as JSON: text where they are text, else `{"blob": "<hex>"}`.

use core::fmt::Write as _;

use serde::{Deserialize, Serialize};

/// The content of a message or a file in JSON. Takes at most twice the bytes, plus 11.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum Body {
    /// UTF-8 without control characters other than tab, line feed and carriage return.
    Text(String),
    /// Anything else, in hexadecimal.
    Blob { blob: String },
}

impl Body {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        match core::str::from_utf8(bytes) {
            Ok(text) if !text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n' | '\r')) => Self::Text(text.to_owned()),
            _ => Self::Blob { blob: hex(bytes) },
        }
    }

    /// The bytes; `None` if the hexadecimal is none.
    pub(crate) fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Blob { blob } => unhex(blob),
        }
    }

    /// Size of the content in bytes.
    pub(crate) const fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Blob { blob } => blob.len() / 2,
        }
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of a hexadecimal text; `None` if it is none.
pub(crate) fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some(digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_content_survives_json_and_stays_within_twice_its_size(bytes: Vec<u8>) {
            let json = serde_json::to_string(&Body::new(&bytes)).unwrap();
            prop_assert!(json.len() <= bytes.len() * 2 + 11);
            let body: Body = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(body.len(), bytes.len());
            prop_assert_eq!(body.bytes(), Some(bytes));
        }
    }

    #[test]
    fn what_is_no_hexadecimal_has_no_bytes() {
        assert_eq!(unhex("0g"), None);
        assert_eq!(unhex("abc"), None);
        assert_eq!(unhex("+1"), None);
        assert_eq!(unhex("00fF"), Some(vec![0, 255]));
    }
}
