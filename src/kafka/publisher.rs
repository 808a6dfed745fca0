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
use tokio::sync::watch;

use super::{
    ClientError, Properties, client_config,
    context::Context,
    health::Health,
    hold::Hold,
    metadata,
    report::{PublishError, Receipt, Report, ReportTo},
};
use crate::{metrics::Metrics, record::Record};

/// librdkafka's default of `message.max.bytes`.
const MESSAGE_MAX_BYTES: usize = 1_000_000;

/// How often librdkafka gives its statistics, in milliseconds.
const STATISTICS_EVERY_MS: &str = "500";

/// How long a broker may take to say who leads a partition.
const METADATA_WITHIN: Duration = Duration::from_secs(2);

/// How long the reports of purged records may take before they are purged again.
const PURGE_WITHIN: Duration = Duration::from_secs(1);

/// Publishes records; to be shared by all who do.
pub struct Publisher {
    config: ClientConfig,
    record_bytes_max: usize,
    current: Arc<Current>,
    replaced: watch::Sender<()>,
    hold: Option<Hold<(Arc<Record>, ReportTo)>>,
}

/// The producer, which may be replaced.
struct Current {
    context: Context,
    producer: RwLock<Arc<ThreadedProducer<Context>>>,
}

impl Publisher {
    /// A producer with these properties on top of the relay's own, for these topics; while so many
    /// records are unacknowledged, further ones are held back for some milliseconds (0: none is).
    ///
    /// # Errors
    /// When librdkafka does not take the properties.
    pub fn new(
        properties: &Properties,
        topics: impl IntoIterator<Item = String>,
        metrics: Arc<Metrics>,
        hold_above: usize,
    ) -> Result<Self, ClientError> {
        let context = Context::new(Arc::new(Health::new(topics)), metrics);
        let mut config = client_config(properties);
        // Also the sign that librdkafka's thread lives. Of the producer alone: what another client
        // had to say would pile up, as nobody listens.
        config.set("statistics.interval.ms", STATISTICS_EVERY_MS);
        let producer = config.create_with_context(context.clone()).map_err(ClientError)?;
        let given = config.get("message.max.bytes").and_then(|bytes| bytes.parse().ok());
        let record_bytes_max = given.unwrap_or(MESSAGE_MAX_BYTES);
        context.health.note_new_producer();
        let current = Arc::new(Current { context, producer: RwLock::new(Arc::new(producer)) });
        let (asked, sent_to) = (Arc::clone(&current), Arc::clone(&current));
        let is_busy = move || in_flight(&asked.producer()) >= hold_above;
        let send = move |(record, report_to): (Arc<Record>, _)| sent_to.send(&record, report_to);
        let hold = (hold_above > 0).then(|| Hold::start(is_busy, send));
        Ok(Self { config, record_bytes_max, current, replaced: watch::Sender::new(()), hold })
    }

    /// Puts a new producer in the place of one that makes no progress. What the old one did not
    /// report is reported as [`PublishError::Replaced`].
    ///
    /// # Errors
    /// When librdkafka does not make a new one.
    pub fn replace(&self) -> Result<(), ClientError> {
        let new = self
            .config
            .create_with_context(self.current.context.successor())
            .map_err(ClientError)?;
        self.health().note_new_producer();
        let old = std::mem::replace(
            &mut *self.current.producer.write().expect("replacing does not panic"),
            Arc::new(new),
        );
        self.health().overdue.clear();
        self.current.context.metrics.kafka_producers_replaced.inc();
        self.replaced.send_replace(());
        // On a thread of its own: it waits for threads of the old one, which may hang in a look-up
        // of a name. The reports of what was purged come while it is flushed; what was between two
        // queues is purged the next time.
        thread::spawn(move || {
            loop {
                old.purge(PurgeConfig::default().queue().inflight());
                if old.flush(PURGE_WITHIN).is_ok() {
                    break;
                }
            }
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
        let is_idle = in_flight(&self.current.producer()) == 0;
        if is_idle {
            self.health().note_report();
        }
        self.health().is_stuck(self.has_fault(), silence_max) || self.misses_leader(silence_max)
    }

    /// Whether records of a partition time out for that long although Kafka says that it has a
    /// leader and all replicas: librdkafka keeps to the leader of a topic that was deleted, where
    /// the epoch of the same topic's new leader is lower
    /// (<https://github.com/confluentinc/librdkafka/issues/4898>). Blocks while it asks.
    fn misses_leader(&self, age: Duration) -> bool {
        let overdue = &self.health().overdue;
        overdue.longer_than(age).into_iter().any(|(topic, partition)| {
            let is_led = self.is_led(&topic, partition);
            if !is_led {
                overdue.forget(&topic, partition);
            }
            is_led
        })
    }

    fn is_led(&self, topic: &str, partition: i32) -> bool {
        let metadata = metadata(self.current.producer().client(), topic, METADATA_WITHIN);
        let is_led = |topic: &MetadataTopic| {
            let found = topic.partitions().iter().find(|found| found.id() == partition);
            found.is_some_and(|found| found.leader() >= 0 && fault_of(found).is_none())
        };
        metadata.is_ok_and(|metadata| metadata.topics().iter().any(is_led))
    }

    /// Whether the producer cannot go on.
    pub fn has_fault(&self) -> bool {
        let producer = self.current.producer();
        producer.client().fatal_error().is_some() || producer.context().is_lost()
    }

    /// Publishes records, all handed over before the first report is waited for; the caller bounds
    /// the wait. Gives what was reported of each.
    pub async fn publish(
        &self,
        records: impl IntoIterator<Item = &Arc<Record>>,
    ) -> Vec<Result<Receipt, PublishError>> {
        let reports: Vec<_> = records.into_iter().map(|record| self.enqueue(record)).collect();
        join_all(reports.into_iter().map(Report::wait)).await
    }

    fn enqueue(&self, record: &Arc<Record>) -> Report {
        let (report_to, report) = Report::to_come();
        let item = (Arc::clone(record), report_to);
        let not_held = match &self.hold {
            Some(hold) => hold.take(item),
            None => Some(item),
        };
        match not_held {
            Some((record, report_to)) => self.current.send(&record, report_to),
            None => self.current.context.metrics.kafka_records_held.inc(),
        }
        report
    }

    /// Hands a record to the producer now; where it does not take it, the report says so at once.
    pub fn send(&self, record: &Record) -> Report {
        let (report_to, report) = Report::to_come();
        self.current.send(record, report_to);
        report
    }

    /// Whether the producer refuses a record as too large, without asking Kafka.
    pub fn is_too_large(&self, record: &Record) -> bool {
        record.bytes_max() > self.record_bytes_max
    }

    /// What is known of Kafka's health.
    pub fn health(&self) -> &Health {
        &self.current.context.health
    }

    /// Asks the cluster for a topic's metadata, which also makes the producer's own fresh; blocks
    /// for the time-out at most. Gives whether it answered.
    pub fn probe(&self, topic: &str, timeout: Duration) -> bool {
        let producer = self.current.producer();
        match metadata(producer.client(), topic, timeout) {
            Ok(metadata) => {
                self.health().note_answer();
                let faults = metadata.topics().iter().flat_map(faults);
                faults.for_each(|fault| self.health().explain(topic, fault));
                true
            }
            Err(error) => {
                // A producer that was replaced meanwhile speaks of what is past.
                if Arc::ptr_eq(&producer, &self.current.producer()) {
                    self.health().note_silence(error);
                }
                false
            }
        }
    }

    /// Waits until every record has its report; blocks for the time-out at most. Gives how many
    /// are left.
    pub fn flush(&self, timeout: Duration) -> usize {
        let producer = self.current.producer();
        let Err(error) = producer.flush(timeout) else { return 0 };
        tracing::error!(%error, "cannot flush the producer in time");
        in_flight(&producer)
    }
}

impl Current {
    fn producer(&self) -> Arc<ThreadedProducer<Context>> {
        Arc::clone(&self.producer.read().expect("replacing does not panic"))
    }

    fn send(&self, record: &Record, report_to: ReportTo) {
        let Record { topic, timestamp_ms, key, headers, value } = record;
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
            self.context.health.note_failure(topic, error);
            let report_to = message.delivery_opaque;
            // Nobody waits any longer where it was given up on.
            report_to.send(Err(error)).ok();
        }
    }
}

/// Records that a producer has, and that have no report yet.
fn in_flight(producer: &ThreadedProducer<Context>) -> usize {
    usize::try_from(producer.in_flight_count()).unwrap_or(0)
}

/// What the metadata of a topic says that may be why records of it are refused.
fn faults(topic: &MetadataTopic) -> Vec<String> {
    let error = topic.error().map(|error| RDKafkaErrorCode::from(error).to_string());
    error.into_iter().chain(topic.partitions().iter().filter_map(fault_of)).collect()
}

fn fault_of(partition: &MetadataPartition) -> Option<String> {
    let (in_sync, all) = (partition.isr().len(), partition.replicas().len());
    match partition.error() {
        _ if in_sync < all => Some(format!("only {in_sync} of {all} replicas are in sync")),
        Some(error) => Some(RDKafkaErrorCode::from(error).to_string()),
        None => None,
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Publisher").field("health", self.health()).finish_non_exhaustive()
    }
}
