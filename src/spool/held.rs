//! Which keys the spool holds events of: what comes later has to go behind them.

use std::{
    collections::{BTreeMap, HashMap, hash_map::RandomState},
    hash::BuildHasher,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::metrics::Metrics;

/// How many entries there are of each key, by topic.
#[derive(Debug)]
pub(super) struct Held {
    topics: Mutex<BTreeMap<String, Keys>>,
    hasher: RandomState,
    metrics: Arc<Metrics>,
}

/// The entries of a topic.
#[derive(Debug, Default)]
struct Keys {
    entries: usize,
    /// By the hash of the key: two that share one only wait for each other.
    of_key: HashMap<u64, usize>,
}

impl Held {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self { topics: Mutex::default(), hasher: RandomState::new(), metrics }
    }

    pub(super) fn add(&self, topic: &str, key: &str) {
        let mut topics = self.lock();
        if !topics.contains_key(topic) {
            topics.insert(topic.to_owned(), Keys::default());
        }
        let keys = topics.get_mut(topic).expect("it was put there if it was not");
        keys.entries += 1;
        *keys.of_key.entry(self.hasher.hash_one(key)).or_default() += 1;
        self.metrics.spool_events.inc();
    }

    pub(super) fn remove(&self, topic: &str, key: &str) {
        let mut topics = self.lock();
        let Some(keys) = topics.get_mut(topic) else { return };
        let hash = self.hasher.hash_one(key);
        let Some(count) = keys.of_key.get_mut(&hash) else { return };
        *count -= 1;
        if *count == 0 {
            keys.of_key.remove(&hash);
        }
        keys.entries -= 1;
        self.metrics.spool_events.dec();
    }

    /// How many entries there are of a key, and of any that share its hash.
    pub(super) fn count_of(&self, topic: &str, key: &str) -> usize {
        let topics = self.lock();
        let count = |keys: &Keys| keys.of_key.get(&self.hasher.hash_one(key)).copied();
        topics.get(topic).and_then(count).unwrap_or(0)
    }

    pub(super) fn count(&self, topic: &str) -> usize {
        self.lock().get(topic).map_or(0, |keys| keys.entries)
    }

    pub(super) fn topics(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Keys>> {
        self.topics.lock().expect("counting does not panic")
    }
}

/// What is no longer held is not counted either.
impl Drop for Held {
    fn drop(&mut self) {
        let entries: usize = self.lock().values().map(|keys| keys.entries).sum();
        self.metrics.spool_events.sub(i64::try_from(entries).unwrap_or(i64::MAX));
    }
}
