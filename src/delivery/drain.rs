//! From the spool to Kafka: in order, many in flight, deleted after the acknowledgement.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{
    kafka::{publisher::Publisher, report::PublishError},
    metrics::Metrics,
    spool::{ReadError, Spool, Spooled, Store},
};

/// Entries under way at once: enough to hide the round trip to a broker, few enough that live
/// records do not wait long behind them (`scripts/measure-spool`).
const IN_FLIGHT_MAX: usize = 32;

/// How long a topic rests after a refusal. The end of an outage is found by the record that is
/// under way; this bounds how often one that is refused at once is tried.
const REST: Duration = Duration::from_millis(200);

/// How long a key rests whose event is too large for the topic: until somebody raises its limit.
const REST_OF_TOO_LARGE: Duration = Duration::from_secs(10);

/// The drain of a topic.
#[derive(Debug)]
pub struct Drain {
    /// The topic.
    pub topic: String,
    /// From where.
    pub spool: Arc<Spool>,
    /// To where.
    pub publisher: Arc<Publisher>,
    /// What time it is.
    pub clock: fn() -> Timestamp,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// Keys that rest, and since when.
type Resting = HashMap<String, Instant>;

impl Drain {
    /// Publishes what the spool holds for the topic, until the other end of `stop` is dropped:
    /// then what is under way is finished, so that none is left that Kafka has and the file too.
    pub async fn run(self, mut stop: watch::Receiver<()>) {
        let mut resting = Resting::new();
        loop {
            let (store, batch) = tokio::select! {
                _ = stop.changed() => return,
                batch = self.wait_for_batch(&mut resting) => batch,
            };
            let receipts =
                self.publisher.publish(batch.iter().map(|spooled| &spooled.record)).await;
            let (mut published, mut refusal) = (Vec::with_capacity(batch.len()), None);
            for (spooled, receipt) in batch.into_iter().zip(receipts) {
                match receipt {
                    Ok(_) => published.push(spooled),
                    Err(PublishError::TooLarge) => self.note_too_large(spooled, &mut resting),
                    Err(error) => refusal = Some(error),
                }
            }
            store.remove(&published).await;
            if let Some(error) = refusal {
                tracing::warn!(topic = self.topic, %error, "events wait in the spool");
                sleep(REST).await;
            }
        }
    }

    /// The topic's limit was lowered since it was spooled: it waits, and so does its key.
    fn note_too_large(&self, spooled: Spooled, resting: &mut Resting) {
        let (topic, id) = (&self.topic, spooled.record.id());
        tracing::error!(topic, id, "an event in the spool is too large: raise `max.message.bytes`");
        self.metrics.spool_too_large.inc();
        resting.insert(spooled.record.key, Instant::now());
    }

    async fn wait_for_batch(&self, resting: &mut Resting) -> (Arc<Store>, Vec<Spooled>) {
        loop {
            let changed = self.spool.changed();
            let store = self.spool.store();
            if store.count(&self.topic) == 0 {
                changed.await;
                continue;
            }
            resting.retain(|_, since| since.elapsed() < REST_OF_TOO_LARGE);
            match self.next_batch(&store, resting).await {
                // What is counted is not yet committed, or rests.
                Ok(batch) if batch.is_empty() => drop(timeout(REST_OF_TOO_LARGE, changed).await),
                Ok(batch) => return (store, batch),
                Err(error) => {
                    tracing::error!(%error, "cannot read the spool");
                    if !store.is_damaged() || self.spool.replace(store).await.is_err() {
                        sleep(REST).await;
                    }
                }
            }
        }
    }

    /// The first entries of the topic, one of a key: of two under way, the first could fail and
    /// the second not. While the topic is down, one entry alone finds out when it is not.
    async fn next_batch(
        &self,
        store: &Arc<Store>,
        resting: &Resting,
    ) -> Result<Vec<Spooled>, ReadError> {
        let (reading, topic) = (Arc::clone(store), self.topic.clone());
        let limit = 2 * IN_FLIGHT_MAX + resting.len();
        let read = spawn_blocking(move || reading.read(&topic, limit));
        let mut batch = read.await.expect("reading does not panic")?;
        let mut keys: HashSet<_> = resting.keys().cloned().collect();
        batch.retain(|spooled| keys.insert(spooled.record.key.clone()));
        batch.truncate(if self.publisher.health().is_up(&self.topic) { IN_FLIGHT_MAX } else { 1 });
        // Kafka takes no record of the future, which is what one is if the clock was put back.
        let now = (self.clock)().as_millisecond();
        batch.iter_mut().for_each(|Spooled { record, .. }| {
            record.timestamp_ms = record.timestamp_ms.min(now);
        });
        Ok(batch)
    }
}
