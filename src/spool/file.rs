//! The file of the spool: its tables, and what becomes of a damaged one.

use std::{
    fmt::Display,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
};

use jiff::Timestamp;
use rusqlite::{Connection, Row, config::DbConfig, params};

use super::{Spooled, log};
use crate::{metrics::Metrics, record::Record};

/// The database in its directory.
pub(super) const FILE_NAME: &str = "spool.sqlite";

/// What stands in the name of a damaged file, before the time.
pub(super) const DAMAGED: &str = ".damaged-";

/// Bytes of a page of the database: SQLite's own default, which `spool.max_bytes` is counted in.
pub(super) const PAGE_BYTES: usize = 4096;

/// Pages of the write-ahead log at which it is copied back; a commit may double it.
const CHECKPOINT_PAGES: i64 = 1000;

/// Pages that have to be free for the spool to have room: those of a large commit.
const ROOM_PAGES: i64 = 512;

pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS event (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        topic TEXT NOT NULL,
        timestamp_ms INTEGER NOT NULL,
        key TEXT NOT NULL,
        headers TEXT NOT NULL,
        value BLOB NOT NULL
    ) STRICT;
    CREATE INDEX IF NOT EXISTS event_by_topic ON event (topic, sequence);";

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

/// Why a file that was sound when it was opened is no longer used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    /// SQLite calls it damaged.
    #[error("{0}")]
    Corrupt(String),
    /// Its name is another file's, or nobody's.
    #[error("the file was moved or deleted by somebody else")]
    Gone,
}

/// The file, locked for this process.
#[derive(Debug)]
pub(super) struct SpoolFile {
    path: PathBuf,
    /// Device and number: what tells it from another of its name.
    identity: (u64, u64),
    max_pages: i64,
    /// Pages that hold something: those of deleted entries are used again.
    used_pages: AtomicI64,
    damage: OnceLock<Damage>,
    /// None once the file is closed.
    reader: Mutex<Option<Connection>>,
    /// Held for as long as the file is used.
    _lock: Arc<File>,
}

impl SpoolFile {
    pub(super) fn open(
        directory: &Path,
        max_bytes: u64,
        metrics: &Metrics,
        lock: &Arc<File>,
    ) -> Result<Self, OpenError> {
        let path = directory.join(FILE_NAME);
        let reader = match open_sound(&path) {
            Err(error) if is_damage(&error) => {
                set_aside(&path, &error, metrics).map_err(|cause| failed(directory, cause))?;
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
            path,
            max_pages,
            used_pages: AtomicI64::default(),
            damage: OnceLock::new(),
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
        self.check_identity()?;
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
            let mut statement = reader
                .prepare("SELECT sequence, topic, timestamp_ms, key, headers, value FROM event")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                with(spooled(row)?);
            }
            Ok(())
        })
    }

    pub(super) fn read(&self, topic: &str, limit: usize) -> rusqlite::Result<Vec<Spooled>> {
        self.with_reader(|reader| {
            let mut statement = reader.prepare(
                "SELECT sequence, topic, timestamp_ms, key, headers, value FROM event
                 WHERE topic = ?1 ORDER BY sequence LIMIT ?2",
            )?;
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            statement.query_map(params![topic, limit], spooled)?.collect()
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

    /// Fails if the file no longer has its name: what is written would be lost with the process.
    pub(super) fn check_identity(&self) -> rusqlite::Result<()> {
        match identity(&self.path) {
            Ok(identity) if identity == self.identity => Ok(()),
            Ok(_) | Err(_) => {
                self.damage.set(Damage::Gone).ok();
                Err(damaged(Damage::Gone.to_string()))
            }
        }
    }

    /// Ends the use of the file, which stays as it is; nobody may be writing.
    pub(super) fn close(&self) {
        let reader = self.reader.lock().expect("reading does not panic").take();
        reader.into_iter().for_each(abandon);
    }

    /// Makes way for another file of this name, and says so.
    pub(super) fn make_way(&self, metrics: &Metrics) -> io::Result<()> {
        match self.damage() {
            Some(Damage::Corrupt(verdict)) => set_aside(&self.path, verdict, metrics),
            Some(gone @ Damage::Gone) => {
                metrics.spool_damaged.inc();
                let path = self.path.display();
                tracing::error!("`{path}`: {gone}; what waited in it is not published");
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// Reads an entry out of a row of all columns.
pub(super) fn spooled(row: &Row<'_>) -> rusqlite::Result<Spooled> {
    let headers: String = row.get(4)?;
    Ok(Spooled {
        sequence: row.get(0)?,
        record: Record {
            topic: row.get(1)?,
            timestamp_ms: row.get(2)?,
            key: row.get(3)?,
            headers: serde_json::from_str(&headers).map_err(|error| {
                let kind = rusqlite::types::Type::Text;
                rusqlite::Error::FromSqlConversionFailure(4, kind, error.into())
            })?,
            value: row.get(5)?,
        },
    })
}

pub(super) fn failed(directory: &Path, cause: io::Error) -> OpenError {
    OpenError::Directory { path: directory.display().to_string(), cause }
}

pub(super) fn unusable(directory: &Path, cause: rusqlite::Error) -> OpenError {
    OpenError::Database { path: directory.display().to_string(), cause }
}

/// Opens the file and makes its tables.
fn open(path: &Path) -> rusqlite::Result<Connection> {
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
    let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" { Ok(connection) } else { Err(damaged(verdict)) }
}

fn damaged(verdict: String) -> rusqlite::Error {
    let damaged = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    rusqlite::Error::SqliteFailure(damaged, Some(verdict))
}

/// Whether SQLite calls the file damaged, or no database at all.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// Closes a connection without a change to the file: the last one that is closed would otherwise
/// copy the log back, and delete the file that has the log's name.
pub(super) fn abandon(connection: Connection) {
    if let Err(error) = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
        tracing::error!(%error, "the spool's file may change while it is closed");
    }
    drop(connection);
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Renames a damaged file and its log, so that what is in them can be recovered.
fn set_aside(path: &Path, damage: impl Display, metrics: &Metrics) -> io::Result<()> {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%S%.6fZ");
    for ending in ["", "-wal", "-shm"] {
        let to = with_ending(path, &format!("{DAMAGED}{time}{ending}"));
        let from = with_ending(path, ending);
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => renamed?,
        }
    }
    metrics.spool_damaged.inc();
    tracing::error!(
        %damage,
        "the spool was damaged and is set aside as {}{DAMAGED}{time}; \
         `clickpesa-relay spool recover` gets back what can be read out of it",
        path.display()
    );
    Ok(())
}

/// The path of a file whose name begins with that of another.
pub(super) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
