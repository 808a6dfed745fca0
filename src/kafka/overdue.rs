//! Partitions whose records time out.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// A partition, by the name of its topic and its number.
pub type Partition = (String, i32);

/// Partitions whose records time out, and since when: none was acknowledged in between.
#[derive(Debug, Default)]
pub struct Overdue {
    /// Whether there are any, for every acknowledgement.
    any: AtomicBool,
    since: Mutex<HashMap<Partition, Instant>>,
}

impl Overdue {
    /// A record of a partition timed out.
    pub fn note(&self, topic: &str, partition: i32) {
        let mut since = self.since();
        self.any.store(true, Ordering::SeqCst);
        since.entry((topic.to_owned(), partition)).or_insert_with(Instant::now);
    }

    /// A record of a partition was acknowledged, or it is known why none is.
    pub fn forget(&self, topic: &str, partition: i32) {
        if self.any.load(Ordering::SeqCst) {
            let mut since = self.since();
            since.remove(&(topic.to_owned(), partition));
            self.any.store(!since.is_empty(), Ordering::SeqCst);
        }
    }

    /// It is known why none is acknowledged, of any partition.
    pub fn clear(&self) {
        self.since().clear();
        self.any.store(false, Ordering::SeqCst);
    }

    /// The partitions whose records time out for longer than this.
    pub fn longer_than(&self, age: Duration) -> Vec<Partition> {
        let since = self.since();
        let old = since.iter().filter(|(_, since)| since.elapsed() > age);
        old.map(|(partition, _)| partition.clone()).collect()
    }

    fn since(&self) -> MutexGuard<'_, HashMap<Partition, Instant>> {
        self.since.lock().expect("nothing that is done with it panics")
    }
}
