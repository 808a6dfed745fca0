//! The one producer of the process: idempotent, acknowledged by all in-sync replicas.

use std::{fmt, sync::Arc, time::Duration};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, Producer, ThreadedProducer},
};
use serde::Serialize;
use tokio::sync::oneshot;

use super::{
    ClientError, Properties, client_config,
    context::{Context, Health},
};
use crate::{metrics::Metrics, record::Record};

/// Publishes records; to be shared by all who do.
pub struct Publisher {
    producer: ThreadedProducer<Context>,
    health: Arc<Health>,
}

/// Where an acknowledged record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// The partition of the topic.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
}

/// Why a record is not in Kafka, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The record is over a limit of the producer or of the topic; a retry cannot help.
    #[error("the record is over Kafka's limit (message.max.bytes)")]
    TooLarge,
    /// librdkafka's queue is full; nothing was sent.
    #[error("the producer's queue is full")]
    QueueFull,
    /// Kafka, or librdkafka for it, refused.
    #[error("Kafka refused: {0}")]
    Refused(RDKafkaErrorCode),
    /// The producer went away without a report.
    #[error("the producer is gone")]
    Gone,
}

impl From<&KafkaError> for PublishError {
    fn from(error: &KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Self::TooLarge,
            Some(RDKafkaErrorCode::QueueFull) => Self::QueueFull,
            code => Self::Refused(code.unwrap_or(RDKafkaErrorCode::Unknown)),
        }
    }
}

/// The delivery report of a record that was enqueued.
#[derive(Debug)]
pub struct Report(oneshot::Receiver<Result<Receipt, PublishError>>);

impl Report {
    /// Waits for the report; the caller bounds the wait.
    ///
    /// # Errors
    /// When the record is, as far as is known, not in Kafka.
    pub async fn wait(self) -> Result<Receipt, PublishError> {
        self.0.await.unwrap_or(Err(PublishError::Gone))
    }
}

impl Publisher {
    /// A producer with these properties on top of the relay's own.
    ///
    /// # Errors
    /// When librdkafka does not take the properties.
    pub fn new(properties: &Properties, metrics: Arc<Metrics>) -> Result<Self, ClientError> {
        let health = Arc::new(Health::default());
        let context = Context { health: Arc::clone(&health), metrics };
        let producer =
            client_config(properties).create_with_context(context).map_err(ClientError)?;
        Ok(Self { producer, health })
    }

    /// Hands a record to the producer without waiting; `timestamp_ms` is milliseconds since 1970.
    ///
    /// Where the producer does not take it, the report says so at once.
    pub fn enqueue(&self, topic: &str, record: &Record, timestamp_ms: i64) -> Report {
        let (report_to, report) = oneshot::channel();
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        let headers = record.headers.iter().fold(headers, |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let message = BaseRecord::with_opaque_to(topic, Box::new(report_to))
            .key(record.key.as_bytes())
            .payload(&record.value)
            .headers(headers)
            .timestamp(timestamp_ms);
        if let Err((error, message)) = self.producer.send(message) {
            let report_to = message.delivery_opaque;
            report_to.send(Err(PublishError::from(&error))).expect("the report is still here");
        }
        Report(report)
    }

    /// What is known of Kafka's health.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Asks the cluster for a topic's metadata and notes the answer; blocks for the time-out at most.
    pub fn probe(&self, topic: &str, timeout: Duration) {
        let metadata = self.producer.client().fetch_metadata(Some(topic), timeout);
        let takes_records = metadata.is_ok_and(|metadata| {
            metadata.topics().iter().all(|topic| {
                let partitions = topic.partitions();
                topic.error().is_none() && partitions.iter().all(|one| one.error().is_none())
            })
        });
        if takes_records { self.health.note_answer() } else { self.health.note_refusal() }
    }

    /// Waits until every record has its report; blocks for the time-out at most. Gives how many
    /// are left.
    pub fn flush(&self, timeout: Duration) -> usize {
        if let Err(error) = self.producer.flush(timeout) {
            tracing::error!(%error, "cannot flush the producer in time");
        }
        usize::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }
}

impl fmt::Debug for Publisher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Publisher").field("health", &self.health).finish_non_exhaustive()
    }
}
