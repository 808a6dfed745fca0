//! What is reported of a record: where it stands, or why it is not in Kafka.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use serde::Serialize;
use tokio::sync::oneshot;

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
    /// The producer cannot go on, or was replaced, before it made a report.
    #[error("the producer is replaced")]
    Replaced,
    /// librdkafka calls it acknowledged and does not know where: an earlier request failed and a
    /// later one was acknowledged, which librdkafka takes for both. A broker that knows nothing of
    /// the producer yet takes the later one alone.
    ///
    /// Source: `rd_kafka_dr_implicit_ack` in librdkafka, <https://github.com/confluentinc/confluent-kafka-go/issues/921>.
    #[error("Kafka did not say where the record stands")]
    Unplaced,
}

impl From<&KafkaError> for PublishError {
    fn from(error: &KafkaError) -> Self {
        use RDKafkaErrorCode as Code;
        match error.rdkafka_error_code() {
            Some(Code::MessageSizeTooLarge | Code::MessageBatchTooLarge) => Self::TooLarge,
            Some(Code::QueueFull) => Self::QueueFull,
            // librdkafka purges its queue itself after a fatal error. With idempotence, the two
            // about sequences are reported only where they are fatal.
            Some(
                Code::PurgeQueue
                | Code::PurgeInflight
                | Code::Fatal
                | Code::OutOfOrderSequenceNumber
                | Code::UnknownProducerId,
            ) => Self::Replaced,
            code => Self::Refused(code.unwrap_or(Code::Unknown)),
        }
    }
}

/// The delivery report of a record that was enqueued.
#[derive(Debug)]
pub struct Report(oneshot::Receiver<Result<Receipt, PublishError>>);

/// What a delivery report is sent to.
pub(super) type ReportTo = oneshot::Sender<Result<Receipt, PublishError>>;

impl Report {
    /// One to come, and what it is sent to.
    pub(super) fn to_come() -> (ReportTo, Self) {
        let (report_to, report) = oneshot::channel();
        (report_to, Self(report))
    }

    /// Waits for the report; the caller bounds the wait.
    ///
    /// # Errors
    /// When the record is, as far as is known, not in Kafka.
    pub async fn wait(self) -> Result<Receipt, PublishError> {
        self.0.await.unwrap_or(Err(PublishError::Replaced))
    }
}
