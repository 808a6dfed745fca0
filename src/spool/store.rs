//! The entries of one file: on disk, and in memory what has to be known of each at once.

use std::{
    collections::BTreeSet,
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::{Notify, oneshot};

use super::{
    ReadError, SpoolError, Spooled,
    file::{self, OpenError, SpoolFile},
    held::Held,
    writer::{Act, Writer},
};
use crate::{metrics::Metrics, record::Record};

/// The newest entries that are looked at for one that is its key's only one.
const NEWEST: i64 = 32;

/// The entries of one file.
///
/// One thread writes: all that waits is committed together, so one sync serves all.
#[derive(Debug)]
pub struct Store {
    held: Arc<Held>,
    file: Arc<SpoolFile>,
    unremoved: Arc<Unremoved>,
    writer: Writer,
}

/// Keys whose entries are not to be read.
#[derive(Debug, Clone, Default)]
pub struct Busy {
    /// Keys that rest, with any number of entries.
    pub resting: Vec<String>,
    /// Keys that an entry of is under way.
    pub under_way: Vec<String>,
}

/// Sequences of entries that Kafka has and the file too.
#[derive(Debug, Default)]
pub(super) struct Unremoved(Mutex<BTreeSet<i64>>);

impl Store {
    pub(super) fn open(
        directory: &Path,
        max_bytes: u64,
        metrics: &Arc<Metrics>,
        changed: &Arc<Notify>,
        lock: &Arc<File>,
        aside: &mut Vec<PathBuf>,
    ) -> Result<Self, OpenError> {
        let mut open = || SpoolFile::open(directory, max_bytes, metrics, lock, aside);
        let (mut file, mut held) = (open()?, Held::new(Arc::clone(metrics)));
        let unusable = |cause| file::unusable(directory, cause);
        let read = file.each_key(|topic, key| held.add(topic, key));
        if file.damage().is_some() {
            let put = file.make_way(metrics).map_err(|cause| file::failed(directory, cause))?;
            (file, held) = (open()?, Held::new(Arc::clone(metrics)));
            aside.extend(put);
        } else {
            read.map_err(unusable)?;
        }
        let (file, held) = (Arc::new(file), Arc::new(held));
        let unremoved = Arc::default();
        let writer = Writer::start(&file, &held, &unremoved, changed, metrics).map_err(unusable)?;
        Ok(Self { held, file, unremoved, writer })
    }

    pub(super) async fn append(&self, records: Arc<[Record]>) -> Result<(), SpoolError> {
        // Held from here on, so that no later event of a key can go past it.
        records.iter().for_each(|record| self.held.add(&record.topic, &record.key));
        let (done, is_done) = oneshot::channel();
        self.writer.send(Act::Append { records, done });
        is_done.await.unwrap_or(match self.file.damage() {
            Some(_) => Err(SpoolError::Damaged),
            None => Err(SpoolError::Unwritable),
        })
    }

    /// Whether an event of this key in this topic has to go behind one that waits.
    pub fn holds(&self, topic: &str, key: &str) -> bool {
        self.held.count_of(topic, key) > 0
    }

    /// How many entries wait for a topic.
    pub fn count(&self, topic: &str) -> usize {
        self.held.count(topic)
    }

    /// The topics that entries wait, or waited, for.
    pub fn topics(&self) -> Vec<String> {
        self.held.topics()
    }

    /// The oldest entry of each key, the oldest first, of a topic: but for those keys. Blocks while
    /// it reads.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(&self, topic: &str, but: &Busy, limit: usize) -> Result<Vec<Spooled>, ReadError> {
        let unremoved: Vec<_> = self.unremoved.lock().iter().copied().collect();
        self.file.read(topic, but, &unremoved, limit)
    }

    /// The entry with a sequence, if it is there. Blocks while it reads.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_one(&self, sequence: i64) -> Result<Option<Spooled>, ReadError> {
        self.file.read_one(sequence)
    }

    /// One of the newest entries of a topic that is its key's only one: but for those keys. Blocks
    /// while it reads.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read_newest(&self, topic: &str, but: &[String]) -> Result<Option<Spooled>, ReadError> {
        let unremoved: Vec<_> = self.unremoved.lock().iter().copied().collect();
        let newest = self.file.read_newest(topic, but, &unremoved, NEWEST)?;
        let is_only = |each: &Spooled| self.held.count_of(topic, &each.record.key) == 1;
        Ok(newest.into_iter().find(is_only))
    }

    /// Goes through all entries; blocks while it reads.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn each(&self, with: impl FnMut(Spooled)) -> Result<(), ReadError> {
        self.file.each(with)
    }

    /// Removes entries that Kafka has acknowledged: they are not read again. What comes of it tells
    /// whether the file is without them too; if not, that is for a later commit.
    pub fn remove(&self, entries: &[Spooled]) -> impl Future<Output = bool> + use<> {
        self.unremoved.lock().extend(entries.iter().map(|each| each.sequence));
        for Spooled { record, .. } in entries {
            self.held.remove(&record.topic, &record.key);
        }
        let (done, is_done) = oneshot::channel();
        self.writer.send(Act::Remove { done });
        async { is_done.await.unwrap_or(false) }
    }

    /// Whether an event can be added: the last commit went well, and the limit is not reached.
    pub fn has_room(&self) -> bool {
        self.writer.is_well() && self.file.has_room()
    }

    /// Whether the file was found damaged: then another store has to take its place.
    pub fn is_damaged(&self) -> bool {
        self.file.damage().is_some()
    }

    /// Ends the use of the file, and makes way for another of its name; gives where what was in it
    /// is now.
    pub(super) fn make_way(&self, metrics: &Metrics) -> io::Result<Option<PathBuf>> {
        self.writer.end();
        self.file.make_way(metrics)
    }
}

impl Unremoved {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeSet<i64>> {
        self.0.lock().expect("adding does not panic")
    }
}
