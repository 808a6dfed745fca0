//! An entry as a row of the table: what is read is what was written, or an error.

use rusqlite::{Connection, Row, params, types::Type};
use sha2::{Digest, Sha256};

use super::{Spooled, damage::damaged};
use crate::record::Record;

pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS event (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        topic TEXT NOT NULL,
        timestamp_ms INTEGER NOT NULL,
        key TEXT NOT NULL,
        headers TEXT NOT NULL,
        value BLOB NOT NULL,
        sum BLOB NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS event_by_topic ON event (topic, sequence, key);";

/// Every column, in the order in which an entry is read.
pub(super) const COLUMNS: &str = "sequence, topic, timestamp_ms, key, headers, value, sum";

/// Writes a record behind all others.
pub(super) fn insert(connection: &Connection, record: &Record) -> rusqlite::Result<()> {
    let Record { topic, timestamp_ms, key, headers, value } = record;
    let headers = serde_json::to_string(headers).expect("texts always serialise");
    let sum = sum(topic, *timestamp_ms, key, &headers, value);
    let mut insert = connection.prepare_cached(
        "INSERT INTO event (topic, timestamp_ms, key, headers, value, sum)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    insert.execute(params![topic, timestamp_ms, key, headers, value, sum])?;
    Ok(())
}

/// Reads an entry out of a row of all columns.
///
/// # Errors
/// Also when a column is not as it was written, of which SQLite knows nothing.
pub(super) fn spooled(row: &Row<'_>) -> rusqlite::Result<Spooled> {
    let (topic, timestamp_ms, key): (String, i64, String) = (row.get(1)?, row.get(2)?, row.get(3)?);
    let (headers, value): (String, Vec<u8>) = (row.get(4)?, row.get(5)?);
    let sequence = row.get(0)?;
    if row.get::<_, Vec<u8>>(6)? != sum(&topic, timestamp_ms, &key, &headers, &value) {
        return Err(damaged(format!("entry {sequence} is not as it was written")));
    }
    let headers = serde_json::from_str(&headers)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(4, Type::Text, error.into()))?;
    Ok(Spooled { sequence, record: Record { topic, timestamp_ms, key, headers, value } })
}

/// What tells a row that has changed: the beginning of a hash of all its columns.
fn sum(topic: &str, timestamp_ms: i64, key: &str, headers: &str, value: &[u8]) -> [u8; 8] {
    let mut hash = Sha256::new_with_prefix(timestamp_ms.to_be_bytes());
    for text in [topic.as_bytes(), key.as_bytes(), headers.as_bytes(), value] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    let hash: [u8; 32] = hash.finalize().into();
    *hash.first_chunk().expect("a hash is longer than that")
}
