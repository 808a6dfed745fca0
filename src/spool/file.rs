//! The file of the spool: its lock, its tables, and what becomes of a damaged one.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
    thread,
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, Row, params};

use super::{Entry, Spooled, log};
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

/// How long somebody who only asks for the holder's name may have the lock.
const LOCK_WITHIN: Duration = Duration::from_millis(200);

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

/// The file, locked for this process.
#[derive(Debug)]
pub(super) struct SpoolFile {
    path: PathBuf,
    max_pages: i64,
    /// Pages that hold something: those of deleted entries are used again.
    used_pages: AtomicI64,
    reader: Mutex<Connection>,
    /// Held for as long as the process lives.
    _lock: File,
}

impl SpoolFile {
    pub(super) fn open(
        directory: &Path,
        max_bytes: u64,
        metrics: &Metrics,
    ) -> Result<Self, OpenError> {
        let lock = lock(directory)?;
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
        let used_pages = AtomicI64::default();
        let file = Self { path, max_pages, used_pages, reader: Mutex::new(reader), _lock: lock };
        file.note_use(&file.reader(), metrics);
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

    /// Notes how much is in use; what cannot be read is left as it was.
    pub(super) fn note_use(&self, connection: &Connection, metrics: &Metrics) {
        let pages =
            |pragma| connection.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        if let (Ok(all), Ok(free)) = (pages("page_count"), pages("freelist_count")) {
            self.used_pages.store(all - free, Ordering::Relaxed);
            metrics.spool_bytes.set((all - free) * PAGE_BYTES as i64);
        }
    }

    /// Whether the limit is not near.
    pub(super) fn has_room(&self) -> bool {
        self.used_pages.load(Ordering::Relaxed) + ROOM_PAGES <= self.max_pages
    }

    /// Goes through the topics and keys of all entries.
    pub(super) fn each_key(&self, mut with: impl FnMut(&str, &str)) -> rusqlite::Result<()> {
        let reader = self.reader();
        let mut statement = reader.prepare("SELECT topic, key FROM event")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            with(&row.get::<_, String>(0)?, &row.get::<_, String>(1)?);
        }
        Ok(())
    }

    /// Goes through all entries.
    pub(super) fn each(&self, mut with: impl FnMut(Spooled)) -> rusqlite::Result<()> {
        let reader = self.reader();
        let mut statement = reader
            .prepare("SELECT sequence, topic, timestamp_ms, key, headers, value FROM event")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            with(spooled(row)?);
        }
        Ok(())
    }

    pub(super) fn read(&self, topic: &str, limit: usize) -> rusqlite::Result<Vec<Spooled>> {
        let reader = self.reader();
        let mut statement = reader.prepare(
            "SELECT sequence, topic, timestamp_ms, key, headers, value FROM event
             WHERE topic = ?1 ORDER BY sequence LIMIT ?2",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        statement.query_map(params![topic, limit], spooled)?.collect()
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        self.reader.lock().expect("reading does not panic")
    }
}

/// Reads an entry out of a row of all columns.
pub(super) fn spooled(row: &Row<'_>) -> rusqlite::Result<Spooled> {
    let headers: String = row.get(4)?;
    Ok(Spooled {
        sequence: row.get(0)?,
        entry: Entry {
            topic: row.get(1)?,
            timestamp_ms: row.get(2)?,
            record: Record {
                key: row.get(3)?,
                headers: serde_json::from_str(&headers).map_err(|error| {
                    let kind = rusqlite::types::Type::Text;
                    rusqlite::Error::FromSqlConversionFailure(4, kind, error.into())
                })?,
                value: row.get(5)?,
            },
        },
    })
}

/// Takes the lock, and writes into it who has it.
fn lock(directory: &Path) -> Result<File, OpenError> {
    let open = || {
        create_synced(directory)?;
        let path = directory.join("lock");
        OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
    };
    let mut lock = open().map_err(|cause| failed(directory, cause))?;
    let mut locked = lock.try_lock();
    if let Err(TryLockError::WouldBlock) = locked {
        thread::sleep(LOCK_WITHIN);
        locked = lock.try_lock();
    }
    match locked {
        Ok(()) => {}
        Err(TryLockError::Error(cause)) => return Err(failed(directory, cause)),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            lock.read_to_string(&mut holder).map_err(|cause| failed(directory, cause))?;
            let path = directory.display().to_string();
            return Err(OpenError::InUse { path, holder: holder.trim().to_owned() });
        }
    }
    let mut write = || {
        lock.set_len(0)?;
        lock.rewind()?;
        writeln!(lock, "{}", std::process::id())
    };
    write().map_err(|cause| failed(directory, cause))?;
    Ok(lock)
}

/// Gives the process that has the lock, if one has.
pub(super) fn holder(directory: &Path) -> io::Result<Option<String>> {
    let mut lock = match File::open(directory.join("lock")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match lock.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::Error(cause)) => Err(cause),
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            lock.read_to_string(&mut holder)?;
            Ok(Some(holder.trim().to_owned()))
        }
    }
}

/// Makes a directory and those above it that are missing, so that a power loss does not take them
/// with what is synced in them. SQLite syncs what is in it.
fn create_synced(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let above = match directory.parent() {
        None => return fs::create_dir(directory),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    create_synced(above)?;
    match fs::create_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    File::open(above)?.sync_all()
}

fn failed(directory: &Path, cause: io::Error) -> OpenError {
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

/// Renames a damaged file and its log, so that what is in them can be recovered.
fn set_aside(path: &Path, damage: &rusqlite::Error, metrics: &Metrics) -> io::Result<()> {
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
