//! The file of the spool, as it is used: opened, read, checked, closed.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
};

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;

use super::{
    Busy, Spooled,
    damage::{
        Damage, Identity, abandon, aside, damaged, identity, is_damage, set_aside, with_ending,
    },
    log,
    row::{COLUMNS, TABLES, spooled},
};
use crate::metrics::Metrics;

/// The database in its directory.
pub(super) const FILE_NAME: &str = "spool.sqlite";

/// Bytes of a page of the database: SQLite's own default, which `spool.max_bytes` is counted in.
pub(super) const PAGE_BYTES: usize = 4096;

/// Pages of the write-ahead log at which it is copied back; a commit may double it.
const CHECKPOINT_PAGES: i64 = 1000;

/// Pages that have to be free for the spool to have room: those of a large commit.
const ROOM_PAGES: i64 = 512;

/// The oldest entries of a topic that are looked at for some that can be published: a few keys that
/// have more must not cost a walk through all of them.
const LOOKED_AT: i64 = 4096;

/// Of these, how many of keys that are free are sorted by key.
const SORTED: i64 = 1024;

/// Why the spool cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error(
        "the spool `{path}` is in use by process {holder}; \
         give every relay a `spool.path` of its own"
    )]
    InUse {
        /// The directory.
        path: String,
        /// What the holder wrote into the lock.
        holder: String,
    },
    /// The directory or the lock cannot be used.
    #[error("cannot use the spool `{path}`: {cause}")]
    Directory {
        /// The directory.
        path: String,
        /// Why.
        cause: io::Error,
    },
    /// SQLite cannot use the file, which it does not call damaged.
    #[error("cannot use the spool `{path}`: {cause}")]
    Database {
        /// The directory.
        path: String,
        /// Why.
        cause: rusqlite::Error,
    },
}

/// The file, locked for this process.
#[derive(Debug)]
pub(super) struct SpoolFile {
    path: PathBuf,
    identity: Identity,
    /// Of the write-ahead log, from the first commit on.
    log_identity: OnceLock<Option<Identity>>,
    max_pages: i64,
    /// Pages that hold something: those of deleted entries are used again.
    used_pages: AtomicI64,
    damage: OnceLock<Damage>,
    has_made_way: OnceLock<()>,
    /// None once the file is closed.
    reader: Mutex<Option<Connection>>,
    /// Held for as long as the file is used.
    _lock: Arc<File>,
}

impl SpoolFile {
    /// Opens the file, or makes it; one that is damaged goes `aside`.
    pub(super) fn open(
        directory: &Path,
        max_bytes: u64,
        metrics: &Metrics,
        lock: &Arc<File>,
        aside: &mut Vec<PathBuf>,
    ) -> Result<Self, OpenError> {
        let path = directory.join(FILE_NAME);
        let reader = match open_sound(&path) {
            Err(error) if is_damage(&error) => {
                let put = set_aside(&path, &error, metrics);
                aside.extend(put.map_err(|cause| failed(directory, cause))?);
                open_sound(&path)
            }
            opened => opened,
        };
        let reader = reader.map_err(|cause| unusable(directory, cause))?;
        // The write-ahead log is on disk too.
        let pages = i64::try_from(max_bytes / PAGE_BYTES as u64).unwrap_or(i64::MAX);
        let max_pages = pages.saturating_sub(2 * CHECKPOINT_PAGES).max(2 * ROOM_PAGES);
        metrics.spool_bytes_max.set(max_pages.saturating_mul(PAGE_BYTES as i64));
        let file = Self {
            identity: identity(&path).map_err(|cause| failed(directory, cause))?,
            log_identity: OnceLock::new(),
            path,
            max_pages,
            used_pages: AtomicI64::default(),
            damage: OnceLock::new(),
            has_made_way: OnceLock::new(),
            reader: Mutex::new(Some(reader)),
            _lock: Arc::clone(lock),
        };
        let noted = file.with_reader(|reader| file.note_use(reader, metrics));
        noted.map_err(|cause| unusable(directory, cause))?;
        Ok(file)
    }

    /// A connection to write with.
    pub(super) fn connect(&self) -> rusqlite::Result<Connection> {
        let connection = open(&self.path)?;
        connection.pragma_update(None, "max_page_count", self.max_pages)?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        let log_bytes = CHECKPOINT_PAGES * PAGE_BYTES as i64;
        connection.pragma_update(None, "journal_size_limit", log_bytes)?;
        Ok(connection)
    }

    /// Notes how much is in use.
    pub(super) fn note_use(
        &self,
        connection: &Connection,
        metrics: &Metrics,
    ) -> rusqlite::Result<()> {
        let pages =
            |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let used = pages("page_count")? - pages("freelist_count")?;
        self.used_pages.store(used, Ordering::Relaxed);
        metrics.spool_bytes.set(used * PAGE_BYTES as i64);
        Ok(())
    }

    /// Whether the limit is not near.
    pub(super) fn has_room(&self) -> bool {
        self.used_pages.load(Ordering::Relaxed) + ROOM_PAGES <= self.max_pages
    }

    /// Goes through the topics and keys of all entries.
    pub(super) fn each_key(&self, mut with: impl FnMut(&str, &str)) -> rusqlite::Result<()> {
        self.with_reader(|reader| {
            let mut statement = reader.prepare("SELECT topic, key FROM event")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                with(&row.get::<_, String>(0)?, &row.get::<_, String>(1)?);
            }
            Ok(())
        })
    }

    /// Goes through all entries.
    pub(super) fn each(&self, mut with: impl FnMut(Spooled)) -> rusqlite::Result<()> {
        self.with_reader(|reader| {
            let mut statement = reader.prepare(&format!("SELECT {COLUMNS} FROM event"))?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                with(spooled(row)?);
            }
            Ok(())
        })
    }

    /// The oldest entry of each key, the oldest first, of a topic: but for those keys, and these
    /// sequences.
    pub(super) fn read(
        &self,
        topic: &str,
        but: &Busy,
        sequences: &[i64],
        limit: usize,
    ) -> rusqlite::Result<Vec<Spooled>> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.with_reader(|reader| {
            let mut statement = reader.prepare_cached(&format!(
                "WITH oldest AS (
                     SELECT sequence, key FROM event
                     WHERE topic = ?1 AND key NOT IN (SELECT value FROM json_each(?2))
                         AND sequence NOT IN (SELECT value FROM json_each(?3))
                     ORDER BY sequence LIMIT ?4
                 ), free AS (
                     SELECT sequence, key FROM oldest
                     WHERE key NOT IN (SELECT value FROM json_each(?5))
                     ORDER BY sequence LIMIT ?6
                 ), first AS (
                     SELECT min(sequence) AS sequence FROM free
                     GROUP BY key ORDER BY 1 LIMIT ?7
                 )
                 SELECT {COLUMNS} FROM first JOIN event USING (sequence) ORDER BY sequence"
            ))?;
            let given = params![
                topic,
                list(&but.resting),
                list(sequences),
                LOOKED_AT,
                list(&but.under_way),
                SORTED,
                limit
            ];
            statement.query_map(given, spooled)?.collect()
        })
    }

    /// The entry with a sequence, if it is there.
    pub(super) fn read_one(&self, sequence: i64) -> rusqlite::Result<Option<Spooled>> {
        self.with_reader(|reader| {
            let one = format!("SELECT {COLUMNS} FROM event WHERE sequence = ?1");
            reader.prepare_cached(&one)?.query_row([sequence], spooled).optional()
        })
    }

    /// The newest entries of a topic, the newest first: but for those keys, and these sequences.
    pub(super) fn read_newest(
        &self,
        topic: &str,
        but: &[String],
        sequences: &[i64],
        limit: i64,
    ) -> rusqlite::Result<Vec<Spooled>> {
        self.with_reader(|reader| {
            let mut statement = reader.prepare_cached(&format!(
                "SELECT {COLUMNS} FROM event
                 WHERE topic = ?1 AND key NOT IN (SELECT value FROM json_each(?2))
                     AND sequence NOT IN (SELECT value FROM json_each(?3))
                 ORDER BY sequence DESC LIMIT ?4"
            ))?;
            let given = params![topic, list(but), list(sequences), limit];
            statement.query_map(given, spooled)?.collect()
        })
    }

    fn with_reader<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<T> {
        let reader = self.reader.lock().expect("reading does not panic");
        let closed = || damaged("it is closed".to_owned());
        let read = reader.as_ref().ok_or_else(closed).and_then(read);
        if let Err(error) = &read {
            self.note_damage(error);
        }
        read
    }

    /// Notes an error that speaks of damage; gives whether it does.
    pub(super) fn note_damage(&self, error: &rusqlite::Error) -> bool {
        let is_damage = is_damage(error);
        if is_damage {
            // The first finding is the one that counts.
            self.damage.set(Damage::Corrupt(error.to_string())).ok();
        }
        is_damage
    }

    /// What was found to be wrong since it was opened.
    pub(super) fn damage(&self) -> Option<&Damage> {
        self.damage.get()
    }

    /// Fails if the file is damaged, or it or its log no longer has its name: what is written would
    /// not be read by the next process.
    pub(super) fn check(&self) -> rusqlite::Result<()> {
        let log = identity(&with_ending(&self.path, "-wal")).ok();
        let is_there = identity(&self.path).is_ok_and(|found| found == self.identity)
            && *self.log_identity.get_or_init(|| log) == log;
        if !is_there {
            self.damage.set(Damage::Gone).ok();
        }
        self.damage().map_or(Ok(()), |damage| Err(damaged(damage.to_string())))
    }

    /// Makes way for another file of this name, which nobody may be writing to; gives where what
    /// was in it is now.
    ///
    /// # Errors
    /// When it cannot be renamed; it is closed all the same.
    pub(super) fn make_way(&self, metrics: &Metrics) -> io::Result<Option<PathBuf>> {
        let reader = self.reader.lock().expect("reading does not panic").take();
        if self.has_made_way.get().is_some() {
            return Ok(None);
        }
        let copy = match (self.damage(), &reader) {
            (Some(Damage::Gone), Some(reader)) => self.copy_aside(reader, metrics),
            _ => None,
        };
        reader.into_iter().for_each(abandon);
        let put = match self.damage() {
            Some(Damage::Corrupt(verdict)) => set_aside(&self.path, verdict, metrics)?,
            Some(Damage::Gone) | None => copy,
        };
        self.has_made_way.set(()).ok();
        Ok(put)
    }

    /// Copies what is in a file that is still open and has no name.
    fn copy_aside(&self, reader: &Connection, metrics: &Metrics) -> Option<PathBuf> {
        metrics.spool_damaged.inc();
        let (path, copy) = (self.path.display(), aside(&self.path));
        let copied = reader.execute("VACUUM INTO ?1", [copy.to_string_lossy()]);
        match copied {
            Ok(_) => tracing::error!(
                "`{path}`: {}; what waited in it is set aside as {}",
                Damage::Gone,
                copy.display()
            ),
            Err(error) => {
                tracing::error!(%error, "`{path}`: {}; what waited in it is lost", Damage::Gone);
                return None;
            }
        }
        Some(copy)
    }
}

pub(super) fn failed(directory: &Path, cause: io::Error) -> OpenError {
    OpenError::Directory { path: directory.display().to_string(), cause }
}

pub(super) fn unusable(directory: &Path, cause: rusqlite::Error) -> OpenError {
    OpenError::Database { path: directory.display().to_string(), cause }
}

/// A parameter that stands for several.
fn list(values: &[impl Serialize]) -> String {
    serde_json::to_string(values).expect("texts and numbers always serialise")
}

/// Opens the file and makes its tables.
fn open(path: &Path) -> rusqlite::Result<Connection> {
    // For its owner alone; SQLite gives the files beside it the same mode. Where this cannot make
    // it, SQLite cannot open it, and says why. One that is there is let alone: whoever closes a
    // file loses all locks that the process has on it, those of another connection too.
    OpenOptions::new().append(true).create_new(true).mode(0o600).open(path).ok();
    let connection = Connection::open(path)?;
    if connection.is_readonly("main")? {
        let read_only = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_READONLY);
        return Err(rusqlite::Error::SqliteFailure(read_only, Some("it is read-only".to_owned())));
    }
    // What is not durable must not be told: every commit is synced.
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.execute_batch(TABLES)?;
    Ok(connection)
}

/// Opens the file if it is sound.
fn open_sound(path: &Path) -> rusqlite::Result<Connection> {
    // SQLite takes a log that is damaged for one that ends, and deletes that of an empty file.
    if let Some(verdict) = log::damage(path) {
        return Err(damaged(verdict));
    }
    let connection = open(path)?;
    let checked = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    let damage = match checked {
        Ok(verdict) if verdict == "ok" => return Ok(connection),
        Ok(verdict) => damaged(verdict),
        Err(error) => error,
    };
    abandon(connection);
    Err(damage)
}
