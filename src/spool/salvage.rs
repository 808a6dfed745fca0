//! What can be read out of a damaged file.
//!
//! The file is left as it is: a copy gets what its log still holds, the header that every spool
//! has, and is then read forward; where that fails, row by row until it goes on.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rusqlite::{Connection, Error::QueryReturnedNoRows, params};

use super::{
    ReadError, Spool, SpoolError, Spooled,
    damage::{note_recovered, with_ending},
    file::PAGE_BYTES,
    log,
    row::{COLUMNS, TABLES, spooled},
};
use crate::record::Record;

/// Rows that are read, and appended, at once.
const BATCH: usize = 500;

/// Bytes of the header, at the beginning of the first page.
const HEADER_BYTES: usize = 100;

/// Pages of a spool that is empty.
const PAGES_MIN: u64 = 4;

/// What was got out of a damaged file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Salvage {
    /// Entries that are in the spool now, and were not before.
    pub appended: u64,
    /// Entries that were in the spool already.
    pub present: u64,
    /// Places where an entry was, or may have been, that cannot be read.
    pub unreadable: u64,
}

/// Why not everything readable is in the spool.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// The damaged file cannot be copied.
    #[error("cannot copy `{path}` beside itself: {cause}")]
    Copy {
        /// The damaged file.
        path: String,
        /// Why.
        cause: io::Error,
    },
    /// The spool, or not even the copy's repaired head, can be read.
    #[error("cannot read: {0}")]
    Read(#[from] ReadError),
    /// The spool did not take an entry.
    #[error("{0}")]
    Append(#[from] SpoolError),
}

impl Spool {
    /// Appends what can be read out of a damaged file, but for what is there already.
    ///
    /// # Errors
    /// When the file cannot be copied or the spool cannot take it; what was appended stays, and
    /// the next try skips it.
    pub async fn salvage(self: &Arc<Self>, damaged: &Path) -> Result<Salvage, SalvageError> {
        let mut known = HashSet::new();
        let name = |record: &Record| record.id().map(|id| (record.topic.clone(), id.to_owned()));
        self.store().each(|Spooled { record, .. }| known.extend(name(&record)))?;
        let mut remains = Remains::open(damaged)?;
        let mut salvage = Salvage::default();
        while let Some(mut records) = remains.next_batch()? {
            let readable = records.len();
            records.retain(|record| name(record).is_none_or(|name| known.insert(name)));
            let appended = records.len();
            self.append(records.into()).await?;
            salvage.appended += appended as u64;
            salvage.present += (readable - appended) as u64;
        }
        if let Err(error) = note_recovered(damaged) {
            tracing::warn!(%error, "the next start tries the damaged file again");
        }
        Ok(Salvage { unreadable: remains.unreadable, ..salvage })
    }
}

/// The copy of a damaged file.
struct Remains {
    connection: Connection,
    /// The last place that was looked at.
    at: i64,
    /// The last place that something was written to, or 0 if that cannot be read.
    last: i64,
    unreadable: u64,
    is_at_end: bool,
    /// Deletes the copy at the end.
    _scratch: Scratch,
}

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // There may be none yet.
        fs::remove_file(&self.0).ok();
    }
}

impl Remains {
    fn open(damaged: &Path) -> Result<Self, SalvageError> {
        let scratch = Scratch(with_ending(damaged, "~recovering"));
        let connection = copy(damaged, &scratch.0)?;
        let last = ["SELECT max(sequence) FROM event", "SELECT max(seq) FROM sqlite_sequence"]
            .into_iter()
            .filter_map(|query| connection.query_row(query, [], |row| row.get(0)).ok())
            .max()
            .unwrap_or(0);
        Ok(Self { connection, at: 0, last, unreadable: 0, is_at_end: false, _scratch: scratch })
    }

    /// The next readable entries, in order.
    fn next_batch(&mut self) -> Result<Option<Vec<Record>>, ReadError> {
        let mut batch = Vec::new();
        while batch.is_empty() && !self.is_at_end {
            if !self.read_on(&mut batch)? {
                self.read_next(&mut batch)?;
            }
        }
        Ok((!batch.is_empty()).then_some(batch))
    }

    /// Reads entries until damage; gives whether there was none.
    fn read_on(&mut self, batch: &mut Vec<Record>) -> Result<bool, ReadError> {
        let mut statement = self.connection.prepare(&format!(
            "SELECT {COLUMNS} FROM event WHERE sequence > ?1 ORDER BY sequence LIMIT ?2"
        ))?;
        let mut rows = statement.query(params![self.at, BATCH as i64])?;
        for _ in 0..BATCH {
            let Ok(row) = rows.next() else { return Ok(false) };
            let Some(row) = row else {
                self.is_at_end = true;
                break;
            };
            self.at = row.get(0)?;
            match spooled(row) {
                Ok(spooled) => batch.push(spooled.record),
                Err(_damage) => self.unreadable += 1,
            }
        }
        Ok(true)
    }

    /// Reads the next entry that is not damaged.
    fn read_next(&mut self, batch: &mut Vec<Record>) -> Result<(), ReadError> {
        let mut statement =
            self.connection.prepare(&format!("SELECT {COLUMNS} FROM event WHERE sequence = ?1"))?;
        if self.at >= self.last {
            self.unreadable += 1;
        }
        while self.at < self.last {
            self.at += 1;
            match statement.query_row([self.at], spooled) {
                Err(QueryReturnedNoRows) => {}
                Ok(spooled) => {
                    batch.push(spooled.record);
                    return Ok(());
                }
                Err(_damage) => self.unreadable += 1,
            }
        }
        self.is_at_end = true;
        Ok(())
    }
}

/// Makes a copy that can be opened, if need be with the first page of a fresh spool.
fn copy(damaged: &Path, to: &Path) -> Result<Connection, SalvageError> {
    let failed = |cause| SalvageError::Copy { path: damaged.display().to_string(), cause };
    let first_page = fresh_page(to)?.map_err(failed)?;
    let file = copy_with_log(damaged, to).map_err(failed)?;
    file.write_all_at(&first_page[..HEADER_BYTES], 0).map_err(failed)?;
    match open_copy(to) {
        Err(_damage) => {
            file.write_all_at(&first_page, 0).map_err(failed)?;
            Ok(open_copy(to)?)
        }
        opened => Ok(opened?),
    }
}

fn open_copy(path: &Path) -> Result<Connection, ReadError> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    drop(connection.prepare(&format!("SELECT {COLUMNS} FROM event"))?);
    Ok(connection)
}

/// Copies the database, and what its log holds into it.
fn copy_with_log(damaged: &Path, to: &Path) -> io::Result<File> {
    let log = fs::read(with_ending(damaged, "-wal"));
    match fs::copy(damaged, to) {
        // Somebody has deleted it, and left its log.
        Err(error) if error.kind() == io::ErrorKind::NotFound && log.is_ok() => {
            fs::write(to, [])?;
        }
        copied => drop(copied?),
    }
    let file = OpenOptions::new().read(true).write(true).open(to)?;
    let log = match log {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        read => read?,
    };
    for frame in log::committed(&log) {
        file.write_all_at(frame.content, (u64::from(frame.page) - 1) * PAGE_BYTES as u64)?;
    }
    let pages = file.metadata()?.len().div_ceil(PAGE_BYTES as u64).max(PAGES_MIN);
    file.set_len(pages * PAGE_BYTES as u64)?;
    Ok(file)
}

/// The first page of a spool that was just made, without what says how long it is.
fn fresh_page(scratch: &Path) -> Result<io::Result<Vec<u8>>, ReadError> {
    fs::remove_file(scratch).ok();
    Connection::open(scratch)?.execute_batch(TABLES)?;
    Ok(fs::read(scratch).map(|mut file| {
        file.truncate(PAGE_BYTES);
        file[28..32].fill(0);
        file
    }))
}
