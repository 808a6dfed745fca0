//! What librdkafka tells us: delivery reports, statistics, errors, its log.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use super::{
    health::Health,
    report::{PublishError, Receipt, ReportTo},
};
use crate::metrics::Metrics;
use rdkafka::{
    ClientContext, Message, Statistics,
    config::RDKafkaLogLevel,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{DeliveryResult, ProducerContext},
};

/// The receiver of the calls of one producer.
#[derive(Debug, Clone)]
pub struct Context {
    pub(super) health: Arc<Health>,
    pub(super) metrics: Arc<Metrics>,
    is_lost: Arc<AtomicBool>,
}

impl Context {
    pub(super) fn new(health: Arc<Health>, metrics: Arc<Metrics>) -> Self {
        Self { health, metrics, is_lost: Arc::default() }
    }

    /// For a producer that takes the place of this one's.
    pub(super) fn successor(&self) -> Self {
        Self { is_lost: Arc::default(), ..self.clone() }
    }

    /// Whether the producer knows no broker that it could ask for others.
    ///
    /// librdkafka 2.12.1 forgets all of them where Kafka answers that there is none, as a single
    /// broker does that was away for longer than its session; by a race of that answer with
    /// `rd_kafka_rebootstrap` it may never go back to the bootstrap servers.
    pub(super) fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Relaxed)
    }
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
        self.health.note_statistics();
        if statistics.brokers.is_empty() && !self.is_lost.swap(true, Ordering::Relaxed) {
            tracing::error!("the producer has forgotten every broker: Kafka said there was none");
        }
        let gauge = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.kafka_queue_records.set(gauge(statistics.msg_cnt));
        self.metrics.kafka_queue_bytes.set(gauge(statistics.msg_size));
        for (topic, is_up) in self.health.topics() {
            self.metrics.kafka_topic_up.with_label_values(&[topic]).set(i64::from(is_up));
        }
        // Bootstrap connections have no id of their own.
        for broker in statistics.brokers.values().filter(|broker| broker.nodeid >= 0) {
            let id = broker.nodeid.to_string();
            let is_up = i64::from(broker.state == "UP");
            self.metrics.kafka_broker_up.with_label_values(&[&id]).set(is_up);
            if let Some(round_trip) = broker.rtt.as_ref().filter(|window| window.cnt > 0) {
                let gauge = &self.metrics.kafka_broker_round_trip;
                let microseconds = round_trip.p99 as f64;
                gauge.with_label_values(&[&id]).set(microseconds / 1e6);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.health.note_silence(RDKafkaErrorCode::AllBrokersDown);
        }
        // What is worth a line comes to `log` too.
        tracing::debug!(target: "librdkafka", %error, "{reason}");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<ReportTo>;

    fn delivery(&self, result: &DeliveryResult<'_>, report_to: Self::DeliveryOpaque) {
        let report = match result {
            Ok(message) if message.offset() < 0 => {
                self.metrics.kafka_records_unplaced.inc();
                Err(PublishError::Unplaced)
            }
            Ok(message) => {
                self.health.note_acknowledgement(message.topic());
                self.health.overdue.forget(message.topic(), message.partition());
                self.metrics.published_events.with_label_values(&[message.topic()]).inc();
                Ok(Receipt { partition: message.partition(), offset: message.offset() })
            }
            Err((error, message)) => {
                let error = PublishError::from(error);
                self.health.note_failure(message.topic(), error);
                if error == PublishError::Refused(RDKafkaErrorCode::MessageTimedOut) {
                    self.health.overdue.note(message.topic(), message.partition());
                }
                Err(error)
            }
        };
        self.health.note_report();
        // Nobody waits any longer where the request was answered or given up on.
        report_to.send(report).ok();
    }
}
