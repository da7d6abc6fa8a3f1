//! The control socket: how commands reach the node that runs on this home.
//!
//! A Unix socket in the home, for its owner only. One connection carries one request: a line of JSON with a [`Request`], answered by
//! lines of JSON, each a [`Reply`]: any number of events, then exactly one `ok` or `error`. Closing the connection cancels the request.

pub(crate) mod answer;
pub(crate) mod client;
pub(crate) mod request;
pub(crate) mod server;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt};

pub(crate) use request::Request;

use crate::failure::Failure;

/// One line from the node to a client.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reply {
    /// Something happened; the request goes on.
    Event(Value),
    /// The request is done.
    Ok(Value),
    /// The request failed.
    Error(Failure),
}

/// Reads one line of at most `max` bytes without its line break; `None` at the end.
///
/// # Errors
/// Those of the socket, and [`std::io::ErrorKind::InvalidData`] for a longer line or one that ends without a line break.
pub(crate) async fn read_line(reader: &mut (impl AsyncBufRead + Unpin), max: usize) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read = reader.take(max as u64 + 1).read_until(b'\n', &mut line).await?;
    if read == 0 {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        let what = if read > max { format!("a line is longer than {max} bytes") } else { "the last line has no end".to_owned() };
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, what));
    }
    Ok(Some(line))
}

/// Longest line in either direction: the largest message, escaped, and what surrounds it.
pub(crate) const MAX_LINE: usize = 2 * peers_wire::MAX_MESSAGE + (64 << 10);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_line_over_the_bound_is_refused_without_reading_on() {
        let mut input: &[u8] = b"12345\n123456\nrest\n";
        assert_eq!(read_line(&mut input, 5).await.unwrap(), Some(b"12345".to_vec()));
        assert!(read_line(&mut input, 5).await.is_err());
        let mut cut: &[u8] = b"no end";
        assert!(read_line(&mut cut, 100).await.is_err());
        let mut empty: &[u8] = b"";
        assert_eq!(read_line(&mut empty, 100).await.unwrap(), None);
    }

    #[test]
    fn replies_have_the_documented_shape() {
        let lines = [
            (Reply::Event(serde_json::json!({"copies": 2})), r#"{"event":{"copies":2}}"#),
            (Reply::Ok(serde_json::json!({})), r#"{"ok":{}}"#),
            (Reply::Error(Failure::usage("what").hint("this")), r#"{"error":{"code":"usage","message":"what","hint":"this"}}"#),
        ];
        for (reply, line) in lines {
            assert_eq!(serde_json::to_string(&reply).unwrap(), line);
            assert_eq!(serde_json::from_str::<Reply>(line).unwrap(), reply);
        }
    }
}
