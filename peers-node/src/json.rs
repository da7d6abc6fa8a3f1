//! How payloads look in JSON: text where they are text, else `{"hex": ".."}`.

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Payload {
    Text(String),
    Bytes { hex: String },
}

pub(crate) fn serialize<S: Serializer>(payload: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
    let shown = match core::str::from_utf8(payload) {
        Ok(text) => Payload::Text(text.to_owned()),
        Err(_) => Payload::Bytes { hex: payload.iter().map(|byte| format!("{byte:02x}")).collect() },
    };
    shown.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    match Payload::deserialize(deserializer)? {
        Payload::Text(text) => Ok(text.into_bytes().into()),
        Payload::Bytes { hex } => from_hex(&hex).map(Bytes::from).ok_or_else(|| serde::de::Error::custom("not hexadecimal")),
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    if !rest.is_empty() {
        return None;
    }
    pairs.iter().map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct Holder(#[serde(with = "super")] Bytes);

    #[test]
    fn text_stays_text_and_bytes_survive() {
        assert_eq!(serde_json::to_string(&Holder(Bytes::from_static("grüß".as_bytes()))).unwrap(), "\"grüß\"");
        for payload in [&b"text"[..], &[0xff, 0x00, 0x7f], b""] {
            let holder = Holder(Bytes::copy_from_slice(payload));
            assert_eq!(serde_json::from_str::<Holder>(&serde_json::to_string(&holder).unwrap()).unwrap(), holder);
        }
        assert!(serde_json::from_str::<Holder>(r#"{"hex":"0g"}"#).is_err());
    }
}
