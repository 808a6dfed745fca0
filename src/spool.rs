//! Events on disk, synced, for as long as Kafka cannot take them: the only user of SQLite.
//!
//! One thread writes: all that waits is committed together, so one sync serves all. The promise
//! of [`Spool::append`] is that of `synchronous=FULL` with a write-ahead log: what it returned
//! `Ok` for is there after a crash of the process, the kernel or the power.

mod file;
mod held;
mod log;
mod salvage;
mod view;
mod writer;

use std::{path::Path, sync::Arc};

use tokio::sync::{Notify, futures::Notified, oneshot};

pub use self::{
    file::OpenError,
    salvage::{Salvage, SalvageError},
    view::{View, Waiting},
};
use self::{
    file::SpoolFile,
    held::Held,
    writer::{Act, Writer},
};
use crate::{metrics::Metrics, record::Record};

/// A record with all that is needed to publish it later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name of the topic.
    pub topic: String,
    /// Milliseconds since 1970: when the webhook was there.
    pub timestamp_ms: i64,
    /// Key, headers and value.
    pub record: Record,
}

/// An entry and its place in the order of the spool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spooled {
    /// Its place.
    pub sequence: i64,
    /// What is to be published.
    pub entry: Entry,
}

/// Why an event is not on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SpoolError {
    /// It would be larger than `spool.max_bytes`.
    #[error("the spool is full (`spool.max_bytes`)")]
    Full,
    /// The disk is full, read-only or broken, or the file is damaged.
    #[error("the spool cannot be written; see the log")]
    Unwritable,
}

/// Why entries cannot be read.
pub type ReadError = rusqlite::Error;

/// The events that wait for Kafka.
#[derive(Debug)]
pub struct Spool {
    held: Arc<Held>,
    file: Arc<SpoolFile>,
    writer: Writer,
    committed: Arc<Notify>,
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
    ) -> Result<Self, OpenError> {
        let file = Arc::new(SpoolFile::open(directory, max_bytes, metrics)?);
        let held = Arc::new(Held::new(Arc::clone(metrics)));
        let unusable = |cause| file::unusable(directory, cause);
        file.each_key(|topic, key| held.add(topic, key)).map_err(unusable)?;
        let committed = Arc::new(Notify::new());
        let writer = Writer::start(
            Arc::clone(&file),
            Arc::clone(&held),
            Arc::clone(&committed),
            Arc::clone(metrics),
        )
        .map_err(unusable)?;
        Ok(Self { held, file, writer, committed })
    }

    /// Writes entries; all are durable when it returns `Ok`, and none is promised otherwise.
    ///
    /// # Errors
    /// When the disk did not take them.
    pub async fn append(&self, entries: Vec<Entry>) -> Result<(), SpoolError> {
        // Held from here on, so that no later event of a key can go past it.
        entries.iter().for_each(|entry| self.held.add(&entry.topic, &entry.record.key));
        let (done, is_done) = oneshot::channel();
        self.writer.send(Act::Append { entries, done });
        is_done.await.unwrap_or(Err(SpoolError::Unwritable))
    }

    /// Whether an event of this key in this topic has to go behind one that waits.
    pub fn holds(&self, topic: &str, key: &str) -> bool {
        self.held.contains(topic, key)
    }

    /// How many entries wait for a topic.
    pub fn count(&self, topic: &str) -> usize {
        self.held.count(topic)
    }

    /// The topics that entries wait, or waited, for.
    pub fn topics(&self) -> Vec<String> {
        self.held.topics()
    }

    /// The first entries of a topic, in order; blocks while it reads.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, topic: &str, limit: usize) -> Result<Vec<Spooled>, ReadError> {
        self.file.read(topic, limit)
    }

    /// Deletes entries that Kafka has acknowledged; gives whether no such entry is left in the
    /// file. What is left is deleted with a later commit.
    pub async fn remove(&self, entries: &[Spooled]) -> bool {
        for Spooled { entry, .. } in entries {
            self.held.remove(&entry.topic, &entry.record.key);
        }
        let sequences = entries.iter().map(|spooled| spooled.sequence).collect();
        let (done, is_done) = oneshot::channel();
        self.writer.send(Act::Remove { sequences, done });
        is_done.await.unwrap_or(false)
    }

    /// Whether an event can be added: the last commit went well, and the limit is not reached.
    pub fn has_room(&self) -> bool {
        self.writer.is_well() && self.file.has_room()
    }

    /// Waits for the next commit, from the call on.
    pub fn changed(&self) -> Notified<'_> {
        self.committed.notified()
    }
}
