//! Events on disk, synced, for as long as Kafka cannot take them: the only room with SQLite.
//!
//! The promise of [`Spool::append`] is that of `synchronous=FULL` with a write-ahead log: what it
//! returned `Ok` for is there after a crash of the process, the kernel or the power. A file that
//! turns out to be damaged, at the start or later, is set aside and another takes its place.

mod damage;
mod file;
mod held;
mod lock;
mod log;
mod row;
mod salvage;
mod store;
mod view;
mod writer;

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
};

use tokio::{
    sync::{Notify, futures::Notified},
    task::spawn_blocking,
};

use self::{
    damage::{all_aside, is_recovered},
    file::{FILE_NAME, failed},
};
pub use self::{
    file::OpenError,
    salvage::{Salvage, SalvageError},
    store::{Busy, Store},
    view::{View, Waiting},
};
use crate::{metrics::Metrics, record::Record};

/// A record and its place in the order of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    /// Its place.
    pub sequence: i64,
    /// What is to be published.
    pub record: Record,
}

/// Why an event is not on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// It would be larger than `spool.max_bytes`.
    #[error("the spool is full (`spool.max_bytes`)")]
    Full,
    /// The disk is full, read-only or broken.
    #[error("the spool cannot be written; see the log")]
    Unwritable,
    /// The file is damaged, and no other could take its place.
    #[error("the spool is damaged; see the log")]
    Damaged,
}

/// Why entries cannot be read.
pub type ReadError = rusqlite::Error;

/// The events that wait for Kafka, in a directory that no other process uses.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    max_bytes: u64,
    metrics: Arc<Metrics>,
    changed: Arc<Notify>,
    store: RwLock<Arc<Store>>,
    /// Whoever has it may put another store in the place of a damaged one.
    replacing: Mutex<Replacing>,
}

#[derive(Debug)]
struct Replacing {
    lock: Arc<File>,
    /// Damaged files from which not everything was got back yet.
    aside: Vec<PathBuf>,
}

impl Spool {
    /// Opens the spool in a directory, and makes it where there is none.
    ///
    /// A file that SQLite calls damaged is set aside under a name with the time, and told of.
    ///
    /// # Errors
    /// When another process has the spool, or the directory cannot be used.
    pub fn open(
        directory: &Path,
        max_bytes: u64,
        metrics: &Arc<Metrics>,
    ) -> Result<Arc<Self>, OpenError> {
        let lock = Arc::new(lock::take(directory)?);
        let changed = Arc::new(Notify::new());
        // Also those that the process before this one did not come to the end of.
        let mut aside =
            all_aside(&directory.join(FILE_NAME)).map_err(|cause| failed(directory, cause))?;
        aside.retain(|file| !is_recovered(file));
        let store = Store::open(directory, max_bytes, metrics, &changed, &lock, &mut aside)?;
        Ok(Arc::new(Self {
            directory: directory.to_owned(),
            max_bytes,
            metrics: Arc::clone(metrics),
            changed,
            store: RwLock::new(Arc::new(store)),
            replacing: Mutex::new(Replacing { lock, aside }),
        }))
    }

    /// Writes records; all are durable when it returns `Ok`, and none is promised otherwise.
    ///
    /// # Errors
    /// When the disk did not take them.
    pub async fn append(self: &Arc<Self>, records: Arc<[Record]>) -> Result<(), SpoolError> {
        let store = self.store();
        match store.append(Arc::clone(&records)).await {
            Err(SpoolError::Damaged) => self.replace(store).await?.append(records).await,
            appended => appended,
        }
    }

    /// Where the records are now: what was read from a store is to be removed from it too.
    pub fn store(&self) -> Arc<Store> {
        Arc::clone(&self.store.read().expect("replacing does not panic"))
    }

    /// Waits for the next commit or another store, from the call on.
    pub fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    /// A damaged file that was set aside, each once: what can be read out of it is for
    /// [`Self::salvage`].
    pub fn take_aside(&self) -> Option<PathBuf> {
        self.replacing.lock().expect("replacing does not panic").aside.pop()
    }

    /// Sets a damaged store aside; gives the one in its place.
    ///
    /// # Errors
    /// When none can be opened in its place.
    pub async fn replace(self: &Arc<Self>, damaged: Arc<Store>) -> Result<Arc<Store>, SpoolError> {
        let spool = Arc::clone(self);
        let replaced = spawn_blocking(move || spool.replace_blocking(&damaged)).await;
        replaced.expect("replacing does not panic").map_err(|error| {
            tracing::error!(%error, "no other file can take the place of a damaged spool");
            SpoolError::Damaged
        })
    }

    fn replace_blocking(&self, damaged: &Arc<Store>) -> Result<Arc<Store>, OpenError> {
        let mut replacing = self.replacing.lock().expect("replacing does not panic");
        let store = self.store();
        if !Arc::ptr_eq(&store, damaged) {
            return Ok(store);
        }
        let Self { directory, max_bytes, metrics, changed, .. } = self;
        if !lock::is_of(&replacing.lock, directory) {
            replacing.lock = Arc::new(lock::take(directory)?);
        }
        let made_way = damaged.make_way(metrics).map_err(|cause| failed(directory, cause))?;
        replacing.aside.extend(made_way);
        let Replacing { lock, aside } = &mut *replacing;
        let store = Arc::new(Store::open(directory, *max_bytes, metrics, changed, lock, aside)?);
        *self.store.write().expect("replacing does not panic") = Arc::clone(&store);
        changed.notify_waiters();
        Ok(store)
    }
}
