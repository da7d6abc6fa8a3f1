//! Letters received, on disk.

use peers_wire::PeerId;
use rusqlite::{Connection, OptionalExtension, params};

use crate::message::Letter;
use crate::stack::TopicMessage;

/// What became of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kept {
    New,
    /// It was here already.
    Again,
    /// Letters of strangers take all the room they may: it is not acknowledged.
    Refused,
}

/// Adds a message to its topic's history unless it is there: as this packet, or in another, as who may write to a topic can wrap again what an author signed.
pub(crate) fn add_message(c: &Connection, message: &TopicMessage) -> rusqlite::Result<bool> {
    let TopicMessage { topic, id, author, created, previous, payload } = message;
    let sql = "INSERT OR IGNORE INTO message(id, topic, author, created, previous, payload) SELECT ?1, ?2, ?3, ?4, ?5, ?6
         WHERE NOT EXISTS (SELECT 1 FROM message WHERE topic = ?2 AND author = ?3 AND created = ?4 AND previous = ?5 AND payload = ?6)";
    let row = params![id.0, topic.0, author.0, created.0.cast_signed(), previous.0, payload.as_ref()];
    Ok(c.prepare_cached(sql)?.execute(row)? > 0)
}

/// Keeps a letter. Anyone may write to us: those that we never wrote to share a space of their own, so that they cannot fill the disk.
pub(crate) fn keep(c: &Connection, from: PeerId, letter: &Letter) -> rusqlite::Result<Kept> {
    let exists = |sql: &str, id: &[u8]| c.prepare_cached(sql)?.query_row([id], |_| Ok(())).optional().map(|row| row.is_some());
    if exists("SELECT 1 FROM mail WHERE id = ?1", &letter.id)? {
        return Ok(Kept::Again);
    }
    if !exists("SELECT 1 FROM contact WHERE id = ?1", &from.0)? {
        let used = "SELECT count(*), total(length(body)) FROM mail WHERE sender NOT IN (SELECT id FROM contact)";
        let (letters, bytes) = c.prepare_cached(used)?.query_row([], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, f64>(1)?)))?;
        #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
        let full = bytes + letter.body.len() as f64 > MAX_STRANGERS_BYTES;
        if letters >= MAX_STRANGERS_LETTERS || full {
            return Ok(Kept::Refused);
        }
    }
    c.execute(
        "INSERT INTO mail(id, sender, created, name, body) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![letter.id, from.0, letter.created.0.cast_signed(), letter.name, letter.body.as_ref()],
    )?;
    Ok(Kept::New)
}

/// Letters kept of senders that nothing was sent to.
const MAX_STRANGERS_LETTERS: i64 = 4096;
/// Bytes of these letters.
const MAX_STRANGERS_BYTES: f64 = 256.0 * 1024.0 * 1024.0;

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use peers_wire::Timestamp;

    use super::*;

    #[test]
    fn what_an_author_signed_is_in_the_history_once_whoever_publishes_it_again() {
        let c = Connection::open_in_memory().unwrap();
        c.execute_batch(crate::store::SCHEMA).unwrap();
        let said = TopicMessage {
            topic: peers_wire::TopicId([1; 32]),
            id: peers_wire::PacketId([2; 32]),
            author: PeerId([3; 32]),
            created: Timestamp(4),
            previous: peers_wire::Link([5; 24]),
            payload: Bytes::from_static(b"hello"),
        };
        let wrapped = TopicMessage { id: peers_wire::PacketId([9; 32]), ..said.clone() };
        let other = TopicMessage { created: Timestamp(5), ..wrapped.clone() };
        assert_eq!([&said, &said, &wrapped, &other].map(|message| add_message(&c, message).unwrap()), [true, false, false, true]);
    }

    fn letter(number: u32, bytes: usize) -> Letter {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        Letter { id, created: Timestamp(1), name: None, body: Bytes::from(vec![7; bytes]) }
    }

    fn state() -> Connection {
        let c = Connection::open_in_memory().unwrap();
        c.execute_batch(crate::store::SCHEMA).unwrap();
        c.execute("INSERT INTO contact VALUES (?1, 0)", [[1u8; 32]]).unwrap();
        c
    }

    #[test]
    fn letters_of_strangers_cannot_fill_the_disk_nor_the_space_of_others() {
        let c = state();
        let (friend, stranger) = (PeerId([1; 32]), |number: u32| PeerId(std::array::from_fn(|i| number.to_be_bytes()[i % 4])));
        let kept = (10..5000).filter(|number| keep(&c, stranger(*number), &letter(*number, 10)).unwrap() == Kept::New).count();
        assert_eq!(kept, 4096);
        assert_eq!(keep(&c, friend, &letter(1, 10)).unwrap(), Kept::New);
        assert_eq!(keep(&c, stranger(10), &letter(10, 10)).unwrap(), Kept::Again, "what is here is acknowledged");
        assert_eq!(keep(&c, stranger(10), &letter(6000, 10)).unwrap(), Kept::Refused);
    }

    #[test]
    fn large_letters_of_strangers_are_bounded_in_bytes() {
        let c = state();
        c.execute("INSERT INTO mail(id, sender, created, body) VALUES (x'01', x'02', 1, zeroblob(?1))", [(256 << 20) - 100]).unwrap();
        assert_eq!(keep(&c, PeerId([9; 32]), &letter(1, 101)).unwrap(), Kept::Refused);
        assert_eq!(keep(&c, PeerId([9; 32]), &letter(2, 100)).unwrap(), Kept::New);
        assert_eq!(keep(&c, PeerId([1; 32]), &letter(3, 1 << 20)).unwrap(), Kept::New);
    }
}
