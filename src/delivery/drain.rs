//! From the spool to Kafka: in order, many in flight, deleted after the acknowledgement.

use std::{collections::HashSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{
    kafka::{
        publisher::Publisher,
        report::{PublishError, Report},
    },
    spool::{Entry, ReadError, Spool, Spooled},
};

/// Entries under way at once: enough to hide the round trip to a broker, few enough that live
/// records do not wait long behind them (`scripts/measure-spool`).
const IN_FLIGHT_MAX: usize = 64;

/// How long a topic rests after a refusal. The end of an outage is found by the record that is
/// under way; this bounds how often one that is refused at once is tried.
const REST: Duration = Duration::from_millis(200);

/// Publishes what the spool holds for a topic, until the other end of `stop` is dropped: then what
/// is under way is finished, so that none is left that Kafka has and the file too.
pub async fn drain(
    publisher: Arc<Publisher>,
    spool: Arc<Spool>,
    topic: String,
    mut stop: watch::Receiver<()>,
) {
    // Sequences of entries that are in Kafka, and in the file for want of a disk that works.
    let mut undeleted = HashSet::new();
    loop {
        let batch = tokio::select! {
            _ = stop.changed() => return,
            batch = wait_for_batch(&publisher, &spool, &topic, &undeleted) => batch,
        };
        let (published, refusal) = publish(&publisher, batch).await;
        if spool.remove(&published).await {
            undeleted.clear();
        } else {
            undeleted.extend(published.iter().map(|spooled| spooled.sequence));
        }
        if let Some(error) = refusal {
            tracing::warn!(topic, %error, "events wait in the spool");
            sleep(REST).await;
        }
    }
}

async fn wait_for_batch(
    publisher: &Publisher,
    spool: &Arc<Spool>,
    topic: &str,
    undeleted: &HashSet<i64>,
) -> Vec<Spooled> {
    loop {
        let changed = spool.changed();
        if spool.count(topic) == 0 {
            changed.await;
            continue;
        }
        match next_batch(publisher, spool, topic, undeleted).await {
            // What is counted is not yet committed.
            Ok(batch) if batch.is_empty() => changed.await,
            Ok(batch) => return batch,
            Err(error) => {
                tracing::error!(%error, "cannot read the spool");
                sleep(REST).await;
            }
        }
    }
}

/// The first entries of a topic, one of a key: of two under way, the first could fail and the
/// second not. While the topic is down, one entry alone finds out when it is not.
async fn next_batch(
    publisher: &Publisher,
    spool: &Arc<Spool>,
    topic: &str,
    undeleted: &HashSet<i64>,
) -> Result<Vec<Spooled>, ReadError> {
    let (reading, name) = (Arc::clone(spool), topic.to_owned());
    let read = spawn_blocking(move || reading.read(&name, 2 * IN_FLIGHT_MAX));
    let mut batch = read.await.expect("reading does not panic")?;
    let mut keys = HashSet::new();
    batch.retain(|spooled| {
        !undeleted.contains(&spooled.sequence) && keys.insert(spooled.entry.record.key.clone())
    });
    batch.truncate(if publisher.health().is_up(topic) { IN_FLIGHT_MAX } else { 1 });
    Ok(batch)
}

/// Publishes entries; gives those that Kafka acknowledged, and why others are not among them.
async fn publish(
    publisher: &Publisher,
    batch: Vec<Spooled>,
) -> (Vec<Spooled>, Option<PublishError>) {
    let reports: Vec<_> = batch
        .iter()
        .map(|Spooled { entry: Entry { topic, timestamp_ms, record }, .. }| {
            publisher.enqueue(topic, record, *timestamp_ms)
        })
        .collect();
    let receipts = join_all(reports.into_iter().map(Report::wait)).await;
    let refusal = receipts.iter().find_map(|receipt| receipt.err());
    let kept = batch.into_iter().zip(receipts).filter(|(_, receipt)| receipt.is_ok());
    (kept.map(|(spooled, _)| spooled).collect(), refusal)
}
