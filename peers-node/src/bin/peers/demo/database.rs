//! The database that the demo makes: a small shop, with every kind of key and value that SQLite has.

use std::path::Path;

use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rusqlite::types::Value;
use rusqlite::{Connection, params};

/// Makes the shop: 5 tables, `ROWS` rows, the same for the same seed.
pub(crate) fn make(path: &Path, seed: u64) -> Result<()> {
    let mut connection = Connection::open(path).with_context(|| format!("{} cannot be made", path.display()))?;
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let transaction = connection.transaction()?;
    transaction.execute_batch(SCHEMA)?;
    customers(&transaction, &mut rng)?;
    products(&transaction, &mut rng)?;
    purchases(&transaction, &mut rng)?;
    settings(&transaction, &mut rng)?;
    transaction.commit()?;
    Ok(())
}

fn customers(connection: &Connection, rng: &mut ChaCha20Rng) -> Result<()> {
    let mut insert = connection.prepare("INSERT INTO customer VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?;
    for id in 1..=CUSTOMERS {
        let (first, last) = (pick(rng, &FIRST_NAMES), pick(rng, &LAST_NAMES));
        let email = maybe(rng, |_| Value::Text(format!("{}.{}{id}@example.org", first.to_lowercase(), last.to_lowercase())));
        let credit = maybe(rng, |rng| Value::Real(f64::from(rng.random_range(-50_000..500_000)) / 128.0));
        let portrait = maybe(rng, |rng| Value::Blob(bytes(rng, 64)));
        let note = maybe(rng, |rng| Value::Text(sentence(rng)));
        insert.execute(params![id, format!("{first} {last}"), email, pick(rng, &CITIES), credit, portrait, note])?;
    }
    Ok(())
}

fn products(connection: &Connection, rng: &mut ChaCha20Rng) -> Result<()> {
    let mut insert = connection.prepare("INSERT INTO product VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    for number in 0..PRODUCTS {
        let title = format!("{} {}", pick(rng, &WORDS), pick(rng, &WORDS));
        let picture = maybe(rng, |rng| Value::Blob(bytes(rng, 512)));
        let weight = maybe(rng, |rng| Value::Integer(rng.random_range(1..100_000)));
        insert.execute(params![sku(number), title, f64::from(rng.random_range(1..40_000)) / 100.0, weight, picture, sentence(rng)])?;
    }
    Ok(())
}

fn purchases(connection: &Connection, rng: &mut ChaCha20Rng) -> Result<()> {
    let mut insert = connection.prepare("INSERT INTO purchase VALUES (?1, ?2, ?3, ?4, ?5)")?;
    let mut line = connection.prepare("INSERT INTO purchase_line VALUES (?1, ?2, ?3, ?4)")?;
    for id in 1..=PURCHASES {
        let placed = 1_600_000_000_000 + i64::from(id) * 86_400;
        let paid = maybe(rng, |rng| Value::Integer(rng.random_range(0..=1)));
        let remark = maybe(rng, |rng| Value::Text(sentence(rng)));
        insert.execute(params![id, rng.random_range(1..=CUSTOMERS), placed, paid, remark])?;
        let first = rng.random_range(0..PRODUCTS);
        for step in 0..LINES_EACH {
            let product = (first + step * 7) % PRODUCTS;
            line.execute(params![id, sku(product), rng.random_range(1..10), f64::from(rng.random_range(1..40_000)) / 100.0])?;
        }
    }
    Ok(())
}

/// Values at the edges of every type.
fn settings(connection: &Connection, rng: &mut ChaCha20Rng) -> Result<()> {
    let edges = [
        Value::Null,
        Value::Integer(i64::MIN),
        Value::Integer(i64::MAX),
        Value::Integer(0),
        Value::Real(0.0),
        Value::Real(f64::MIN_POSITIVE),
        Value::Real(1e308),
        Value::Text(String::new()),
        Value::Text("12".into()),
        Value::Text("grüß dich, 世界 \u{1f30d}".into()),
        Value::Blob(Vec::new()),
        Value::Blob(vec![0, 255, 0]),
    ];
    let mut insert = connection.prepare("INSERT INTO setting VALUES (?1, ?2)")?;
    for number in 0..SETTINGS {
        let value = match edges.get(number) {
            Some(edge) => edge.clone(),
            None => Value::Text(sentence(rng)),
        };
        insert.execute(params![format!("setting/{number:03}"), value])?;
    }
    Ok(())
}

fn sku(number: u32) -> String {
    format!("SKU-{:05}", number * 37 + 11)
}

fn maybe(rng: &mut ChaCha20Rng, value: impl FnOnce(&mut ChaCha20Rng) -> Value) -> Value {
    if rng.random_range(0..4) == 0 { Value::Null } else { value(rng) }
}

fn pick<'a>(rng: &mut ChaCha20Rng, from: &[&'a str]) -> &'a str {
    from[rng.random_range(0..from.len())]
}

fn sentence(rng: &mut ChaCha20Rng) -> String {
    let words: Vec<_> = (0..rng.random_range(4..12)).map(|_| pick(rng, &WORDS)).collect();
    words.join(" ")
}

fn bytes(rng: &mut ChaCha20Rng, max: usize) -> Vec<u8> {
    let mut bytes = vec![0; rng.random_range(1..=max)];
    rng.fill(&mut bytes[..]);
    bytes
}

const CUSTOMERS: u32 = 1500;
const PRODUCTS: u32 = 500;
const PURCHASES: u32 = 2500;
const LINES_EACH: u32 = 2;
const SETTINGS: usize = 500;
/// Rows of all tables.
#[cfg(test)]
const ROWS: u32 = CUSTOMERS + PRODUCTS + PURCHASES * (1 + LINES_EACH) + 500;

const SCHEMA: &str = "
CREATE TABLE customer(id INTEGER PRIMARY KEY, name TEXT NOT NULL, email TEXT, city TEXT, credit REAL, portrait BLOB, note TEXT);
CREATE TABLE product(sku TEXT PRIMARY KEY NOT NULL, title TEXT NOT NULL, price REAL NOT NULL, weight_g INTEGER, picture BLOB, description TEXT);
CREATE TABLE purchase(
  id INTEGER PRIMARY KEY, customer INTEGER NOT NULL REFERENCES customer(id), placed INTEGER NOT NULL, paid INTEGER, remark TEXT);
CREATE TABLE purchase_line(
  purchase INTEGER NOT NULL REFERENCES purchase(id), sku TEXT NOT NULL REFERENCES product(sku),
  quantity INTEGER NOT NULL CHECK (quantity > 0), price REAL NOT NULL, PRIMARY KEY (purchase, sku));
CREATE INDEX purchase_by_customer ON purchase(customer);
CREATE TABLE setting(name TEXT PRIMARY KEY NOT NULL, value) WITHOUT ROWID;
";

const FIRST_NAMES: [&str; 12] = ["Ada", "Björn", "Chloé", "Dmitri", "Eleni", "Farid", "Grace", "Hiro", "Ines", "Jonas", "Kwame", "Łucja"];
const LAST_NAMES: [&str; 12] = [
    "Adeyemi",
    "Bauer",
    "Castellanos",
    "Dubois",
    "Eriksen",
    "Fernández",
    "Grünwald",
    "Hashimoto",
    "Ivanova",
    "Jørgensen",
    "Kowalczyk",
    "Lindqvist",
];
const CITIES: [&str; 10] = ["Aarhus", "Bogotá", "Córdoba", "Dakar", "Évora", "Fukuoka", "Göteborg", "Hà Nội", "İzmir", "Jyväskylä"];
const WORDS: [&str; 28] = [
    "amber", "birch", "copper", "dawn", "ember", "fjord", "granite", "harbour", "indigo", "juniper", "kelp", "lantern", "meadow", "nectar",
    "orchard", "pebble", "quartz", "river", "saffron", "thistle", "umber", "velvet", "willow", "xylem", "yarrow", "zephyr", "naïve",
    "café",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shop_has_ten_thousand_rows_of_every_type_and_holds_its_constraints() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("shop.sqlite");
        make(&path, 1).unwrap();
        let connection = Connection::open(&path).unwrap();
        let count = |sql: &str| connection.query_row(sql, [], |row| row.get::<_, u32>(0)).unwrap();
        let rows: u32 = ["customer", "product", "purchase", "purchase_line", "setting"]
            .iter()
            .map(|t| count(&format!("SELECT count(*) FROM {t}")))
            .sum();
        assert_eq!((rows, ROWS), (10_000, 10_000));
        assert_eq!(count("SELECT count(*) FROM pragma_foreign_key_check"), 0);
        assert_eq!(count("SELECT count(DISTINCT typeof(value)) FROM setting"), 5);
        assert!(count("SELECT count(*) FROM customer WHERE portrait IS NULL AND note IS NOT NULL") > 0);
    }
}
