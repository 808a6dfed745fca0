//! What librdkafka tells us: delivery reports, statistics, errors, its log.

use std::{sync::Arc, time::Duration};

use rdkafka::{
    ClientContext, Message, Statistics,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
};
use tokio::sync::oneshot;

use super::publisher::{PublishError, Receipt};
use crate::{metrics::Metrics, moment::Moment};

/// How long an acknowledgement or an answered probe speaks for Kafka's health.
pub const EVIDENCE_LASTS: Duration = Duration::from_secs(10);

/// How long librdkafka may be silent, whose statistics come every second, before it is called
/// stuck.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// When Kafka was last heard of.
#[derive(Debug)]
pub struct Health {
    answered: Moment,
    refused: Moment,
    statistics: Moment,
}

impl Default for Health {
    fn default() -> Self {
        let never = Moment::never();
        let statistics = never.clone();
        // The first come after a second: until then, silence is no sign of anything.
        statistics.note();
        Self { answered: never.clone(), refused: never, statistics }
    }
}

impl Health {
    /// Kafka acknowledged a record or answered a probe.
    pub fn note_answer(&self) {
        self.answered.note();
    }

    /// Kafka refused a record or a probe, or did not answer in time.
    pub fn note_refusal(&self) {
        self.refused.note();
    }

    /// Whether the newest evidence is that Kafka takes records.
    pub fn is_ready(&self) -> bool {
        self.answered.is_after(&self.refused) && self.answered.is_within(EVIDENCE_LASTS)
    }

    /// Whether Kafka answered no longer ago than this.
    pub fn is_fresh(&self, age: Duration) -> bool {
        self.answered.is_within(age)
    }

    /// Whether librdkafka's thread still calls us.
    pub fn is_live(&self) -> bool {
        self.statistics.is_within(SILENCE_MAX)
    }
}

/// What a delivery report is sent to.
pub(super) type ReportTo = oneshot::Sender<Result<Receipt, PublishError>>;

/// The receiver of librdkafka's calls.
#[derive(Debug, Clone)]
pub struct Context {
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel as Level;
        match level {
            Level::Emerg | Level::Alert | Level::Critical | Level::Error => {
                tracing::error!(target: "librdkafka", facility, "{message}");
            }
            Level::Warning => tracing::warn!(target: "librdkafka", facility, "{message}"),
            Level::Notice | Level::Info => {
                tracing::info!(target: "librdkafka", facility, "{message}");
            }
            Level::Debug => tracing::debug!(target: "librdkafka", facility, "{message}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        self.health.statistics.note();
        self.metrics.note_statistics(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::AllBrokersDown)) {
            self.health.note_refusal();
        }
        tracing::warn!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<ReportTo>;

    fn delivery(&self, result: &DeliveryResult<'_>, report_to: Self::DeliveryOpaque) {
        let report = match result {
            Ok(message) => {
                self.health.note_answer();
                Ok(Receipt { partition: message.partition(), offset: message.offset() })
            }
            Err((error, _)) => {
                let error = PublishError::from(error);
                if error != PublishError::TooLarge {
                    self.health.note_refusal();
                }
                Err(error)
            }
        };
        // Nobody waits any longer where the request was answered or given up on.
        report_to.send(report).ok();
    }
}
