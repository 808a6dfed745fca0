//! A look at the spool for those who do not have it: the process that does goes on.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rusqlite::{Connection, OpenFlags, params};

use super::{
    OpenError, ReadError, Spooled,
    damage::{all_aside, with_ending},
    file::{FILE_NAME, unusable},
    lock::holder,
    row::{COLUMNS, spooled},
};

/// A spool that is only read.
#[derive(Debug)]
pub struct View {
    directory: PathBuf,
    connection: Connection,
}

/// What waits for a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The name of the topic.
    pub topic: String,
    /// How many entries.
    pub entries: i64,
    /// Milliseconds since 1970: when the webhook of the first was there.
    pub oldest_ms: i64,
}

impl View {
    /// Opens the spool in a directory.
    ///
    /// # Errors
    /// When there is none, or it cannot be read.
    pub fn open(directory: &Path) -> Result<Self, OpenError> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(directory.join(FILE_NAME), flags)
            .map_err(|cause| unusable(directory, cause))?;
        Ok(Self { directory: directory.to_owned(), connection })
    }

    /// The process that has the spool, if one has.
    ///
    /// # Errors
    /// When its lock cannot be read.
    pub fn holder(&self) -> io::Result<Option<String>> {
        holder(&self.directory)
    }

    /// What waits, by topic.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn waiting(&self) -> Result<Vec<Waiting>, ReadError> {
        let mut statement = self.connection.prepare(
            "SELECT topic, entries, (SELECT timestamp_ms FROM event WHERE sequence = first)
             FROM (SELECT topic, count(*) AS entries, min(sequence) AS first
                   FROM event GROUP BY topic)",
        )?;
        let waiting = statement.query_map([], |row| {
            Ok(Waiting { topic: row.get(0)?, entries: row.get(1)?, oldest_ms: row.get(2)? })
        })?;
        waiting.collect()
    }

    /// The entries behind a place in the order, the first so many of them: whoever reads all at
    /// once keeps the write-ahead log from beginning anew.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn after(&self, sequence: i64, limit: usize) -> Result<Vec<Spooled>, ReadError> {
        let mut statement = self.connection.prepare(&format!(
            "SELECT {COLUMNS} FROM event WHERE sequence > ?1 ORDER BY sequence LIMIT ?2"
        ))?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        statement.query_map(params![sequence, limit], spooled)?.collect()
    }

    /// Bytes on disk, the write-ahead log among them.
    pub fn bytes(&self) -> u64 {
        let size = |ending| {
            let path = with_ending(&self.directory.join(FILE_NAME), ending);
            fs::metadata(path).map_or(0, |file| file.len())
        };
        size("") + size("-wal")
    }

    /// The damaged files that were set aside, the oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn damaged(&self) -> io::Result<Vec<PathBuf>> {
        all_aside(&self.directory.join(FILE_NAME))
    }
}
