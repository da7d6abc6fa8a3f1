//! What this device keeps as a guardian of others, on disk.

use peers_crypto::{GroupId, GuardianPackage};
use peers_wire::PeerId;
use rusqlite::{Connection, OptionalExtension, params};

use crate::mailbox::Kept;

/// Keeps a package: of each device of each user the newest. Anyone may make us a guardian: those that we never wrote to share a space of their own, and cannot
/// displace what others left here.
pub(crate) fn keep(c: &Connection, from: PeerId, package: &GuardianPackage) -> rusqlite::Result<Kept> {
    let (user, made) = (package.vault().user(), package.vault().time().0.cast_signed());
    let count = |sql: &str, id: &[u8]| c.prepare_cached(sql)?.query_row([id], |row| row.get::<_, i64>(0));
    let known = c
        .prepare_cached("SELECT made FROM package WHERE user = ?1 AND sender = ?2")?
        .query_row(params![user.0, from.0], |row| row.get::<_, i64>(0))
        .optional()?;
    match known {
        Some(known) if known >= made => return Ok(Kept::Again),
        Some(_) => {}
        None if count("SELECT count(*) FROM contact WHERE id = ?1", &from.0)? > 0 => {
            let of_strangers =
                "SELECT position FROM package WHERE user = ?1 AND sender NOT IN (SELECT id FROM contact) ORDER BY position DESC LIMIT 1";
            let full = count("SELECT count(*) FROM package WHERE user = ?1", &user.0)? >= MAX_SENDERS;
            let displaced = if full { c.query_row(of_strangers, [user.0], |row| row.get::<_, i64>(0)).optional()? } else { None };
            match displaced {
                Some(position) => drop(c.execute("DELETE FROM package WHERE position = ?1", [position])?),
                None if full || c.query_row("SELECT count(*) FROM package", [], |row| row.get::<_, i64>(0))? >= MAX_PACKAGES => {
                    return Ok(Kept::Refused);
                }
                None => {}
            }
        }
        None => {
            let used = "SELECT count(*) FROM package WHERE sender NOT IN (SELECT id FROM contact)";
            let used: i64 = c.query_row(used, [], |row| row.get(0))?;
            if used >= MAX_STRANGERS_PACKAGES || count("SELECT count(*) FROM package WHERE user = ?1", &user.0)? >= MAX_SENDERS {
                return Ok(Kept::Refused);
            }
        }
    }
    let bytes = package.encode();
    c.execute(
        "INSERT INTO package(user, sender, made, bytes) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT(user, sender) DO UPDATE SET made = excluded.made, bytes = excluded.bytes",
        params![user.0, from.0, made, bytes.as_slice()],
    )?;
    Ok(Kept::New)
}

/// Every package with the device that it came from, the first to come first.
pub(crate) fn all(c: &Connection) -> rusqlite::Result<Vec<(PeerId, GuardianPackage)>> {
    read(c, "SELECT sender, bytes FROM package ORDER BY position LIMIT ?1", params![MAX_PACKAGES])
}

/// The packages of a user, those of contacts first, of these the newest: the time of a package is what its sender says.
pub(crate) fn of(c: &Connection, user: GroupId) -> rusqlite::Result<Vec<(PeerId, GuardianPackage)>> {
    read(
        c,
        "SELECT sender, bytes FROM package WHERE user = ?1 ORDER BY sender IN (SELECT id FROM contact) DESC, made DESC",
        params![user.0],
    )
}

fn read(c: &Connection, sql: &str, arguments: &[&dyn rusqlite::ToSql]) -> rusqlite::Result<Vec<(PeerId, GuardianPackage)>> {
    let mut statement = c.prepare(sql)?;
    let rows = statement.query_map(arguments, |row| Ok((PeerId(row.get(0)?), row.get::<_, Vec<u8>>(1)?)))?;
    // What another version wrote and this one cannot read stays for that one.
    let readable = rows.filter_map(|row| row.map(|(from, bytes)| Some((from, GuardianPackage::decode(&bytes).ok()?))).transpose());
    readable.collect()
}

/// Packages kept, each of at most 1 MiB.
const MAX_PACKAGES: i64 = 256;
/// Of these, of senders that nothing was sent to.
const MAX_STRANGERS_PACKAGES: i64 = 32;
/// Devices of one user of which packages are kept.
const MAX_SENDERS: i64 = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use peers_crypto::{StatementId, Vault};
    use peers_wire::Timestamp;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    fn package(user: u8, time: u64) -> GuardianPackage {
        let mut rng = ChaCha20Rng::seed_from_u64(time);
        let packages = Vault::seal(b"log and keys", GroupId([user; 32]), StatementId([9; 32]), Timestamp(time), 2, 3, &mut rng);
        packages.unwrap().remove(0)
    }

    fn state() -> Connection {
        let c = Connection::open_in_memory().unwrap();
        c.execute_batch(crate::store::SCHEMA).unwrap();
        c.execute("INSERT INTO contact VALUES (?1, 0)", [[1u8; 32]]).unwrap();
        c
    }

    #[test]
    fn of_each_device_the_newest_package_stays() {
        let c = state();
        let friend = PeerId([1; 32]);
        assert_eq!(keep(&c, friend, &package(7, 10)).unwrap(), Kept::New);
        assert_eq!(keep(&c, friend, &package(7, 30)).unwrap(), Kept::New);
        assert_eq!(keep(&c, friend, &package(7, 20)).unwrap(), Kept::Again, "what comes late is old");
        assert_eq!(of(&c, GroupId([7; 32])).unwrap(), vec![(friend, package(7, 30))]);
        assert_eq!(keep(&c, friend, &package(8, 10)).unwrap(), Kept::New);
        assert_eq!(all(&c).unwrap().len(), 2);
    }

    #[test]
    fn packages_of_strangers_that_date_forward_come_after_those_of_friends() {
        let c = state();
        let friend = PeerId([1; 32]);
        for stranger in 10..16 {
            assert_eq!(keep(&c, PeerId([stranger; 32]), &package(7, 1 << 40)).unwrap(), Kept::New);
        }
        assert_eq!(keep(&c, friend, &package(7, 10)).unwrap(), Kept::New);
        assert_eq!(of(&c, GroupId([7; 32])).unwrap().first(), Some(&(friend, package(7, 10))));
    }

    #[test]
    fn packages_of_strangers_neither_fill_the_disk_nor_displace_those_of_friends() {
        let c = state();
        let (friend, stranger) = (PeerId([1; 32]), |number: u8| PeerId([number; 32]));
        let kept = (10..200).filter(|number| keep(&c, stranger(*number), &package(*number, 10)).unwrap() == Kept::New).count();
        assert_eq!(kept, 32);
        assert_eq!(keep(&c, friend, &package(7, 10)).unwrap(), Kept::New);
        c.execute("DELETE FROM package WHERE sender <> ?1", [friend.0]).unwrap();
        let kept = (10..100).filter(|number| keep(&c, stranger(*number), &package(7, 90)).unwrap() == Kept::New).count();
        assert_eq!(kept, 7, "for one user");
        c.execute("INSERT INTO contact VALUES (?1, 0)", [[2u8; 32]]).unwrap();
        assert_eq!(keep(&c, PeerId([2; 32]), &package(7, 5)).unwrap(), Kept::New, "a friend displaces a stranger");
        assert!(all(&c).unwrap().iter().any(|(from, _)| *from == friend));
    }
}
