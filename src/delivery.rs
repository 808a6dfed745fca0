//! What becomes of an event: it is published, or it is refused.

use std::{sync::Arc, time::Instant};

use futures_util::future::join_all;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::timeout_at;

use crate::{
    event::Event,
    kafka::{
        publisher::{PublishError, Publisher, Receipt},
        topics::Topics,
    },
    metrics::Metrics,
    record::{EventFormat, Record},
};

/// Brings events to where they are safe.
#[derive(Debug)]
pub struct Delivery {
    /// The producer.
    pub publisher: Publisher,
    /// Where the events of each kind go.
    pub topics: Topics,
    /// How an event stands in a record.
    pub format: EventFormat,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// What became of the events of one webhook, as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All in-sync replicas have every one of them.
    Published(Vec<Published>),
    /// One is over Kafka's limit; a retry cannot help.
    TooLarge,
    /// Kafka did not take them all; a retry can help, and gives the same ids.
    Unavailable(Unavailable),
}

/// An event that Kafka acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// The event's id.
    pub id: String,
    /// The event's CloudEvents type.
    #[serde(rename = "type")]
    pub ce_type: &'static str,
    /// The topic of the record.
    pub topic: String,
    /// Where the record stands in it.
    #[serde(flatten)]
    pub receipt: Receipt,
}

/// Why Kafka did not take the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// It refused, or the producer did.
    #[error("{0}")]
    Refused(PublishError),
    /// It did not acknowledge within the time that there is for an answer.
    #[error("Kafka did not acknowledge in time")]
    TimedOut,
}

impl From<PublishError> for Outcome {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::TooLarge => Self::TooLarge,
            PublishError::QueueFull | PublishError::Refused(_) | PublishError::Gone => {
                Self::Unavailable(Unavailable::Refused(error))
            }
        }
    }
}

impl Delivery {
    /// Publishes the events of one webhook, and waits until the deadline for all reports.
    ///
    /// Where it ends in anything but `Published`, some records may be in Kafka all the same: a
    /// retry gives them again, with the same ids.
    pub async fn deliver(
        &self,
        events: &[Event<'_>],
        received: Timestamp,
        deadline: Instant,
    ) -> Outcome {
        let started = Instant::now();
        let mut reports = Vec::with_capacity(events.len());
        let mut copies = Vec::new();
        for event in events {
            let record = Record::new(event, self.format);
            let enqueue =
                |topic| self.publisher.enqueue(topic, &record, received.as_millisecond()).wait();
            reports.push(enqueue(self.topics.name(event.kind)));
            copies.extend(self.topics.all.as_deref().map(enqueue));
        }
        let all_reports = async { (join_all(reports).await, join_all(copies).await) };
        let Ok((receipts, copies)) = timeout_at(deadline.into(), all_reports).await else {
            return Outcome::Unavailable(Unavailable::TimedOut);
        };
        for (event, _) in events.iter().zip(&receipts).filter(|(_, receipt)| receipt.is_ok()) {
            let kind = event.kind.suffix();
            self.metrics.published_events.with_label_values(&[kind]).inc();
        }
        // What a retry can mend comes first: told 413, a sender would not come again.
        let failures = receipts.iter().chain(&copies).filter_map(|result| result.err());
        if let Some(error) = failures.max_by_key(|error| *error != PublishError::TooLarge) {
            return error.into();
        }
        self.metrics.publish_seconds.observe(started.elapsed().as_secs_f64());
        let published =
            events.iter().zip(receipts.into_iter().flatten()).map(|(event, receipt)| {
                let topic = self.topics.name(event.kind).to_owned();
                Published { id: event.id.clone(), ce_type: event.kind.ce_type(), topic, receipt }
            });
        Outcome::Published(published.collect())
    }
}
