//! The one producer of the process: idempotent, acknowledged by all in-sync replicas.

use std::{
    fmt,
    sync::{Arc, RwLock},
    thread,
    time::Duration,
};

use futures_util::future::join_all;
use rdkafka::{
    ClientConfig,
    error::RDKafkaErrorCode,
    message::{Header, OwnedHeaders},
    metadata::{MetadataPartition, MetadataTopic},
    producer::{BaseRecord, Producer, PurgeConfig, ThreadedProducer},
};
use tokio::sync::{oneshot, watch};

use super::{
    ClientError, Properties, client_config,
    context::Context,
    health::Health,
    report::{PublishError, Receipt, Report},
};
use crate::{metrics::Metrics, record::Record};

/// librdkafka's default of `message.max.bytes`.
const MESSAGE_MAX_BYTES: usize = 1_000_000;

/// How long the reports of purged records may take.
const PURGE_WITHIN: Duration = Duration::from_secs(1);

/// Publishes records; to be shared by all who do.
pub struct Publisher {
    config: ClientConfig,
    context: Context,
    record_bytes_max: usize,
    producer: RwLock<Arc<ThreadedProducer<Context>>>,
    replaced: watch::Sender<()>,
}

impl Publisher {
    /// A producer with these properties on top of the relay's own, for these topics.
    ///
    /// # Errors
    /// When librdkafka does not take the properties.
    pub fn new(
        properties: &Properties,
        topics: impl IntoIterator<Item = String>,
        metrics: Arc<Metrics>,
    ) -> Result<Self, ClientError> {
        let context = Context { health: Arc::new(Health::new(topics)), metrics };
        let mut config = client_config(properties);
        // Also the sign that librdkafka's thread lives. Of the producer alone: what another client
        // had to say would pile up, as nobody listens.
        config.set("statistics.interval.ms", "1000");
        let producer = config.create_with_context(context.clone()).map_err(ClientError)?;
        let given = config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        let record_bytes_max = given.unwrap_or(MESSAGE_MAX_BYTES);
        context.health.note_new_producer();
        Ok(Self {
            config,
            context,
            record_bytes_max,
            producer: RwLock::new(Arc::new(producer)),
            replaced: watch::Sender::new(()),
        })
    }

    /// Puts a new producer in the place of one that makes no progress. What the old one did not
    /// report is reported as [`PublishError::Replaced`].
    ///
    /// # Errors
    /// When librdkafka does not make a new one.
    pub fn replace(&self) -> Result<(), ClientError> {
        let new = self.config.create_with_context(self.context.clone()).map_err(ClientError)?;
        self.health().note_new_producer();
        let old = std::mem::replace(
            &mut *self.producer.write().expect("replacing does not panic"),
            Arc::new(new),
        );
        self.context.metrics.kafka_producers_replaced.inc();
        self.replaced.send_replace(());
        // On a thread of its own: it waits for threads of the old one, which may hang in a look-up
        // of a name. The reports of what was purged come while it is flushed.
        thread::spawn(move || {
            old.purge(PurgeConfig::default().queue().inflight());
            old.flush(PURGE_WITHIN).ok();
        });
        Ok(())
    }

    /// Tells of every replacement from now on.
    pub fn replacements(&self) -> watch::Receiver<()> {
        self.replaced.subscribe()
    }

    /// Whether the producer is to be replaced: it cannot go on, or made no report for that long
    /// although records wait for theirs.
    pub fn is_stuck(&self, silence_max: Duration) -> bool {
        let is_idle = self.producer().in_flight_count() == 0;
        if is_idle {
            self.health().note_report();
        }
        self.health().is_stuck(self.has_fault(), silence_max)
    }

    /// Whether the producer cannot go on, by librdkafka's own word.
    pub fn has_fault(&self) -> bool {
        self.producer().client().fatal_error().is_some()
    }

    fn producer(&self) -> Arc<ThreadedProducer<Context>> {
        Arc::clone(&self.producer.read().expect("replacing does not panic"))
    }

    /// Publishes records, all handed over before the first report is waited for; the caller bounds
    /// the wait. Gives what was reported of each.
    pub async fn publish(
        &self,
        records: impl IntoIterator<Item = &Record>,
    ) -> Vec<Result<Receipt, PublishError>> {
        let reports: Vec<_> = records.into_iter().map(|record| self.enqueue(record)).collect();
        join_all(reports.into_iter().map(Report::wait)).await
    }

    /// Hands a record to the producer; where it does not take it, the report says so at once.
    pub fn enqueue(&self, record: &Record) -> Report {
        let Record { topic, timestamp_ms, key, headers, value } = record;
        let (report_to, report) = oneshot::channel();
        let empty = OwnedHeaders::new_with_capacity(headers.len());
        let headers = headers
            .iter()
            .fold(empty, |all, (key, value)| all.insert(Header { key, value: Some(&**value) }));
        let message = BaseRecord::with_opaque_to(topic, Box::new(report_to))
            .key(key.as_bytes())
            .payload(value)
            .headers(headers)
            .timestamp(*timestamp_ms);
        // Under the lock: what a replaced producer has queued is purged, and nothing follows.
        let producer = self.producer.read().expect("replacing does not panic");
        if let Err((error, message)) = producer.send(message) {
            let error = PublishError::from(&error);
            self.health().note_failure(topic, error);
            let report_to = message.delivery_opaque;
            report_to.send(Err(error)).expect("the report is still here");
        }
        Report::new(report)
    }

    /// Whether the producer refuses a record as too large, without asking Kafka.
    pub fn is_too_large(&self, record: &Record) -> bool {
        record.bytes_max() > self.record_bytes_max
    }

    /// What is known of Kafka's health.
    pub fn health(&self) -> &Health {
        &self.context.health
    }

    /// Asks the cluster for a topic's metadata, which also makes the producer's own fresh; blocks
    /// for the time-out at most. Gives whether it answered.
    pub fn probe(&self, topic: &str, timeout: Duration) -> bool {
        match self.producer().client().fetch_metadata(Some(topic), timeout) {
            Ok(metadata) => {
                self.health().note_answer();
                let faults = metadata.topics().iter().flat_map(faults);
                faults.for_each(|fault| self.health().explain(topic, fault));
                true
            }
            Err(error) => {
                self.health().note_silence(error);
                false
            }
        }
    }

    /// Waits until every record has its report; blocks for the time-out at most. Gives how many
    /// are left.
    pub fn flush(&self, timeout: Duration) -> usize {
        let producer = self.producer();
        let Err(error) = producer.flush(timeout) else { return 0 };
        tracing::error!(%error, "cannot flush the producer in time");
        usize::try_from(producer.in_flight_count()).unwrap_or(0)
    }
}

/// What the metadata of a topic says that may be why records of it are refused.
fn faults(topic: &MetadataTopic) -> Vec<String> {
    let error = topic.error().map(|error| RDKafkaErrorCode::from(error).to_string());
    let of_partition = |partition: &MetadataPartition| {
        let (in_sync, all) = (partition.isr().len(), partition.replicas().len());
        match partition.error() {
            _ if in_sync < all => Some(format!("only {in_sync} of {all} replicas are in sync")),
            Some(error) => Some(RDKafkaErrorCode::from(error).to_string()),
            None => None,
        }
    };
    error.into_iter().chain(topic.partitions().iter().filter_map(of_partition)).collect()
}

impl fmt::Debug for Publisher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Publisher")
            .field("health", &self.context.health)
            .finish_non_exhaustive()
    }
}
