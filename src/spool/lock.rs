//! The lock of a spool's directory: one process each, which is named in it.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::Path,
    thread,
    time::Duration,
};

use super::{
    damage::identity,
    file::{OpenError, failed},
};

/// The file in the directory.
const FILE_NAME: &str = "lock";

/// How long somebody who only asks for the holder's name may have the lock.
const LOCK_WITHIN: Duration = Duration::from_millis(200);

/// Takes the lock, and writes into it who has it.
pub(super) fn take(directory: &Path) -> Result<File, OpenError> {
    let open = || {
        create_synced(directory)?;
        let path = directory.join(FILE_NAME);
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
    if let Err(error) = write() {
        // On a full disk, say: the lock holds without the name.
        tracing::warn!(%error, "the lock of the spool does not say who has it");
    }
    Ok(lock)
}

/// Whether the lock is still that of the directory: somebody may have deleted both.
pub(super) fn is_of(lock: &File, directory: &Path) -> bool {
    let found = identity(&directory.join(FILE_NAME));
    lock.metadata().is_ok_and(|lock| found.is_ok_and(|found| found == (lock.dev(), lock.ino())))
}

/// Gives the process that has the lock, if one has.
pub(super) fn holder(directory: &Path) -> io::Result<Option<String>> {
    let mut lock = match File::open(directory.join(FILE_NAME)) {
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

/// What is in it is customers' data, and for its owner alone.
fn create(directory: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(directory)
}

/// Makes a directory and those above it that are missing, so that a power loss does not take them
/// with what is synced in them. SQLite syncs what is in it.
fn create_synced(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let above = match directory.parent() {
        None => return create(directory),
        Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
        Some(parent) => parent,
    };
    create_synced(above)?;
    match create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    File::open(above)?.sync_all()
}
