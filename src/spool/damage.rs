//! Damage: how it is told, and how a damaged file is put where nobody writes to it.

use std::{
    fmt::Display,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use rusqlite::{Connection, Error, config::DbConfig};

use crate::metrics::Metrics;

/// What stands in the name of a damaged file, before the time.
const DAMAGED: &str = ".damaged-";

/// How the name of a file ends that says that nothing more is to be got out of a damaged one.
const RECOVERED: &str = "~recovered";

/// Why a file that was sound when it was opened is no longer used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damage {
    /// SQLite calls it damaged, or an entry is not as it was written.
    #[error("{0}")]
    Corrupt(String),
    /// Its name, or that of its log, is another file's, or nobody's.
    #[error("the file was moved or deleted by somebody else")]
    Gone,
}

/// The error of a file that is damaged, in SQLite's own form.
pub(super) fn damaged(verdict: String) -> Error {
    let damaged = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
    Error::SqliteFailure(damaged, Some(verdict))
}

/// Whether an error means that the file is damaged, or no database at all.
pub(super) fn is_damage(error: &Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    // What a column holds is nothing that was written there.
    let is_foreign = matches!(
        error,
        Error::FromSqlConversionFailure(..) | Error::InvalidColumnType(..) | Error::Utf8Error(..)
    );
    is_foreign || matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// Closes a connection without a change to the file: the last one that is closed would otherwise
/// copy the log back, and delete the file that has the log's name.
pub(super) fn abandon(connection: Connection) {
    if let Err(error) = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true) {
        tracing::error!(%error, "the spool's file may change while it is closed");
    }
    drop(connection);
}

/// What tells a file from another of its name: device and number.
pub(super) type Identity = (u64, u64);

/// Which file has a name.
pub(super) fn identity(path: &Path) -> io::Result<Identity> {
    fs::metadata(path).map(|file| (file.dev(), file.ino()))
}

/// The path at which a file that is damaged now is put aside.
pub(super) fn aside(path: &Path) -> PathBuf {
    let time = Timestamp::now().strftime("%Y%m%dT%H%M%S%.6fZ");
    with_ending(path, &format!("{DAMAGED}{time}"))
}

/// Renames a damaged file and its log, so that what is in them can be recovered, and tells of it;
/// gives its new path, if there was a file.
pub(super) fn set_aside(
    path: &Path,
    damage: impl Display,
    metrics: &Metrics,
) -> io::Result<Option<PathBuf>> {
    let aside = aside(path);
    let mut is_renamed = false;
    for ending in ["", "-wal", "-shm"] {
        match fs::rename(with_ending(path, ending), with_ending(&aside, ending)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            renamed => is_renamed |= renamed.map(|()| true)?,
        }
    }
    if is_renamed {
        metrics.spool_damaged.inc();
        tracing::error!(%damage, "the spool was damaged and is set aside as {}", aside.display());
    }
    Ok(is_renamed.then_some(aside))
}

/// The damaged files that were set aside in the directory of this one, the oldest first.
pub(super) fn all_aside(path: &Path) -> io::Result<Vec<PathBuf>> {
    let beginning = with_ending(path, DAMAGED);
    let mut all = Vec::new();
    for file in fs::read_dir(path.parent().unwrap_or(path))? {
        let found = file?.path();
        let time = found.as_os_str().as_bytes().strip_prefix(beginning.as_os_str().as_bytes());
        // Its log, its index and what else belongs to it have the same name, and an ending.
        if time.is_some_and(|time| !time.iter().any(|byte| b"-~".contains(byte))) {
            all.push(found);
        }
    }
    all.sort();
    Ok(all)
}

/// Whether all that could be got out of a damaged file was.
pub(super) fn is_recovered(aside: &Path) -> bool {
    with_ending(aside, RECOVERED).exists()
}

/// Notes that all that could be got out of a damaged file was.
pub(super) fn note_recovered(aside: &Path) -> io::Result<()> {
    fs::write(with_ending(aside, RECOVERED), [])
}

/// The path of a file whose name begins with that of another.
pub(super) fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
