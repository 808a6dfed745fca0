//! What becomes of an event: it is published, spooled, or refused.

pub mod drain;
pub mod recent;
pub mod rejected;

use std::{
    collections::BTreeSet,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::Serialize;
use tokio::time::timeout_at;

use self::recent::{Claim, Digest, Recent, Seen};
use crate::{
    application::Application,
    event::{
        Event,
        id::Id,
        normalise::{Circumstances, normalise},
    },
    kafka::{
        publisher::Publisher,
        report::{PublishError, Receipt},
    },
    metrics::Metrics,
    record::{EventFormat, Record},
    spool::{Spool, SpoolError},
    webhook::Authentic,
};

/// Brings events to where they are safe.
#[derive(Debug)]
pub struct Delivery {
    /// The producer.
    pub publisher: Arc<Publisher>,
    /// How an event stands in a record.
    pub format: EventFormat,
    /// What was acknowledged lately.
    pub recent: Recent,
    /// Where events wait that Kafka cannot take now.
    pub spool: Option<Arc<Spool>>,
    /// How long Kafka may take before an event goes to the spool.
    pub patience: Duration,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// What became of the events of one webhook, as a whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All in-sync replicas have every one of them.
    Published(Arc<[Published]>),
    /// They had them before: a twin of this webhook was acknowledged.
    Duplicate(Arc<[Published]>),
    /// They are on disk, synced, and Kafka will get them.
    Spooled(Vec<Spooled>),
    /// One is over Kafka's limit; a retry cannot help.
    TooLarge,
    /// They are not all safe; a retry can help, and gives the same ids.
    Unavailable(Unavailable),
}

/// An event that Kafka acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Which event it is.
    #[serde(flatten)]
    pub event: Spooled,
    /// Where the record stands in the topic.
    #[serde(flatten)]
    pub receipt: Receipt,
}

/// An event that Kafka will get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Spooled {
    /// The event's id.
    pub id: Id,
    /// The event's CloudEvents type.
    #[serde(rename = "type")]
    pub ce_type: &'static str,
    /// The topic of its record.
    pub topic: Arc<str>,
}

/// Why the events are not safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    /// Kafka refused, or the producer did.
    #[error("{0}")]
    Refused(PublishError),
    /// Kafka did not acknowledge within the time that there is for an answer.
    #[error("Kafka did not acknowledge in time")]
    TimedOut,
    /// Kafka is known not to take records of this topic, so nothing was tried.
    #[error("Kafka is known not to take records of this topic")]
    KnownDown,
    /// Neither Kafka nor the spool took them.
    #[error("{0}")]
    Spool(SpoolError),
    /// Kafka did not take them, nor the spool within the time that there is for an answer.
    #[error("the spool did not sync in time")]
    SpoolTimedOut,
}

/// The events of one webhook, as they go to Kafka.
#[derive(Debug)]
pub struct Batch {
    /// What is to be published: a record an event, and a copy where one topic gets all.
    pub records: Vec<Arc<Record>>,
    /// What the sender is told of each event.
    events: Vec<Spooled>,
}

impl Batch {
    /// What comes of a webhook to an application; `received` is when the webhook was there.
    pub fn new(
        webhook: &Authentic<'_, '_>,
        application: &Application,
        format: EventFormat,
        received: Timestamp,
    ) -> Self {
        let Application { name, source, topics, .. } = application;
        let circumstances =
            Circumstances { application: name, source, received: &format!("{received:.3}") };
        let events = normalise(webhook, circumstances);
        let of =
            |event, topic| Arc::new(Record::new(event, format, topic, received.as_millisecond()));
        let own = events.iter().map(|event| of(event, topics.name(event.kind)));
        let all = topics.all.iter();
        let copies = all.flat_map(|all| events.iter().map(move |event| of(event, all)));
        let name = |event: &Event<'_>| Spooled {
            id: event.id,
            ce_type: event.kind.ce_type(),
            topic: Arc::clone(&topics.of_kinds[event.kind as usize]),
        };
        Self { records: own.chain(copies).collect(), events: events.iter().map(name).collect() }
    }
}

/// How records go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// To Kafka, which takes them as far as is known.
    Straight,
    /// To Kafka, to see whether it takes them again.
    Trial,
    /// To the spool, if there is one.
    Spool,
}

impl Delivery {
    /// Claims a webhook that is new, or says what became of its twin.
    ///
    /// # Errors
    /// When Kafka has it, or may have it and does not say so by the deadline.
    pub async fn claim(&self, digest: Digest, deadline: Instant) -> Result<Claim<'_>, Outcome> {
        loop {
            match self.recent.enter(digest) {
                Seen::Acknowledged(published) => return Err(Outcome::Duplicate(published)),
                Seen::UnderWay(twin) => match timeout_at(deadline.into(), twin.wait()).await {
                    Ok(Some(published)) => return Err(Outcome::Duplicate(published)),
                    // The first has failed: this one may try.
                    Ok(None) => {}
                    Err(_elapsed) => return Err(Outcome::Unavailable(Unavailable::TimedOut)),
                },
                Seen::First(claim) => return Ok(claim),
            }
        }
    }

    /// Brings the events of one webhook to safety, or says by the deadline that they are not.
    ///
    /// Where it ends in `TooLarge` or `Unavailable`, some records may be in Kafka all the same: a
    /// retry gives them again, with the same ids.
    pub async fn deliver(&self, claim: Claim<'_>, batch: Batch, deadline: Instant) -> Outcome {
        let outcome = self.publish_or_spool(batch, deadline).await;
        if let Outcome::Published(published) = &outcome {
            claim.acknowledge(published);
        }
        outcome
    }

    async fn publish_or_spool(&self, batch: Batch, deadline: Instant) -> Outcome {
        let Batch { records, events } = batch;
        let (records, oversized): (Vec<_>, Vec<_>) =
            records.into_iter().partition(|record| !self.publisher.is_too_large(record));
        let way = self.way(&records);
        // What is left is for the spool.
        let left = deadline.saturating_duration_since(Instant::now());
        let patience = self.patience.min(left / 2);
        let published = match way {
            Way::Straight if self.spool.is_none() => self.try_kafka(&records, patience, left).await,
            Way::Straight | Way::Trial => self.try_kafka(&records, patience, patience).await,
            Way::Spool => Err(Unavailable::KnownDown),
        };
        let outcome = match published {
            Ok(receipts) => Outcome::Published(
                events
                    .into_iter()
                    .zip(receipts)
                    .map(|(event, receipt)| Published { event, receipt })
                    .collect(),
            ),
            Err(Unavailable::Refused(PublishError::TooLarge)) => Outcome::TooLarge,
            Err(refusal) => self.spool_instead(events, records, refusal, deadline).await,
        };
        if !oversized.is_empty() && matches!(outcome, Outcome::Published(_) | Outcome::Spooled(_)) {
            // The others of its list are safe, and a retry cannot help this one.
            return Outcome::TooLarge;
        }
        outcome
    }

    /// Publishes records, and waits that long for Kafka. Past `patience`, their topics are down
    /// unless they are merely slow.
    async fn try_kafka(
        &self,
        records: &[Arc<Record>],
        patience: Duration,
        wait: Duration,
    ) -> Result<Vec<Receipt>, Unavailable> {
        let started = Instant::now();
        let mut publish = pin!(self.publish(records));
        let mut published = timeout_at((started + patience).into(), &mut publish).await;
        if published.is_err() {
            for record in records {
                self.publisher.health().note_overdue(&record.topic, patience);
            }
            published = timeout_at((started + wait).into(), publish).await;
        }
        let receipts = published.map_err(|_elapsed| Unavailable::TimedOut)?;
        // What a retry can mend comes first: told 413, a sender would not come again.
        let refusals = receipts.iter().filter_map(|receipt| receipt.err());
        if let Some(error) = refusals.max_by_key(|error| *error != PublishError::TooLarge) {
            return Err(Unavailable::Refused(error));
        }
        self.metrics.publish_seconds.observe(started.elapsed().as_secs_f64());
        Ok(receipts.into_iter().flatten().collect())
    }

    /// Which way records take: around Kafka if anything of their keys waits in the spool, or a
    /// topic is known to be down.
    fn way(&self, records: &[Arc<Record>]) -> Way {
        let health = self.publisher.health();
        let topics = records.iter().map(|record| record.topic.as_str());
        let down: BTreeSet<_> = topics.filter(|topic| !health.is_up(topic)).collect();
        if let Some(spool) = &self.spool {
            let store = spool.store();
            let holds = |record: &Arc<Record>| store.holds(&record.topic, &record.key);
            // Where records wait, the drain tries for all.
            if records.iter().any(holds) || down.iter().any(|topic| store.count(topic) > 0) {
                return Way::Spool;
            }
        }
        match down.is_empty() {
            true => Way::Straight,
            // What cannot go on tells nothing of Kafka.
            false if !self.publisher.has_fault() && health.admits_trial(&down) => Way::Trial,
            false => Way::Spool,
        }
    }

    /// Publishes records, again where it is not known that Kafka has them, and waits for every
    /// report.
    async fn publish(&self, records: &[Arc<Record>]) -> Vec<Result<Receipt, PublishError>> {
        let mut replacements = self.publisher.replacements();
        let mut receipts = self.publisher.publish(records).await;
        loop {
            let is_open = |at: &usize| {
                matches!(receipts[*at], Err(PublishError::Replaced | PublishError::Unplaced))
            };
            let open: Vec<_> = (0..records.len()).filter(is_open).collect();
            if open.is_empty() {
                return receipts;
            }
            if receipts.contains(&Err(PublishError::Replaced)) {
                // What a producer did not report goes out again through the next.
                replacements.changed().await.unwrap_or_default();
            }
            let again = self.publisher.publish(open.iter().map(|at| &records[*at])).await;
            for (at, receipt) in open.into_iter().zip(again) {
                receipts[at] = receipt;
            }
        }
    }

    async fn spool_instead(
        &self,
        events: Vec<Spooled>,
        records: Vec<Arc<Record>>,
        refusal: Unavailable,
        deadline: Instant,
    ) -> Outcome {
        let Some(spool) = &self.spool else { return Outcome::Unavailable(refusal) };
        let records = records.into_iter().map(Arc::unwrap_or_clone).collect();
        match timeout_at(deadline.into(), spool.append(records)).await {
            Ok(Ok(())) => Outcome::Spooled(events),
            Ok(Err(error)) => Outcome::Unavailable(Unavailable::Spool(error)),
            Err(_elapsed) => Outcome::Unavailable(Unavailable::SpoolTimedOut),
        }
    }
}
