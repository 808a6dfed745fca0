//! What is known of Kafka: whether it answers, and whether it takes the records of a topic.
//!
//! This is the breaker: a topic is down when the newest evidence about it is a refusal, or when
//! the whole cluster is silent. A report, also a late one, is evidence about its topic; a probe
//! only tells silence from an answer. Each cause is logged once in an outage, and the end of it.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Display,
    sync::Mutex,
    time::Duration,
};

use super::report::PublishError;
use crate::moment::Moment;

/// How long an acknowledgement or an answered probe speaks for Kafka.
pub const EVIDENCE_LASTS: Duration = Duration::from_secs(10);

/// How long librdkafka may be silent, whose statistics come every second, before it is called
/// stuck.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often a topic that is down is tried with a record where no record is under way.
const TRIAL_EVERY: Duration = Duration::from_secs(1);

/// How long a trial may be without a report before it is taken for lost.
const TRIAL_LASTS: Duration = Duration::from_secs(30);

/// How often a producer is replaced that cannot go on, whatever it is that ends every one.
const REPLACE_EVERY: Duration = Duration::from_secs(1);

/// What is known of Kafka, from the newest evidence of each kind.
#[derive(Debug)]
pub struct Health {
    /// A record was acknowledged or a probe answered.
    answered: Moment,
    /// A probe was not answered, or no broker could be reached.
    silent: Moment,
    silence: Causes,
    /// librdkafka's thread called us.
    statistics: Moment,
    /// The producer reported something, or had nothing to report.
    reported: Moment,
    /// The producer was made.
    made: Moment,
    topics: HashMap<String, TopicHealth>,
}

#[derive(Debug)]
struct TopicHealth {
    acknowledged: Moment,
    /// A record was refused, or is overdue.
    refused: Moment,
    /// A record has its report, whichever.
    reported: Moment,
    tried: Moment,
    causes: Causes,
}

/// The causes of an outage that the log has named.
#[derive(Debug, Default)]
struct Causes(Mutex<BTreeSet<String>>);

impl Health {
    /// Of a cluster with these topics.
    pub fn new(topics: impl IntoIterator<Item = String>) -> Self {
        let origin = Moment::never();
        let never = || origin.clone();
        let statistics = never();
        // The first come after a second: until then, silence is no sign of anything.
        statistics.note();
        let topic = || TopicHealth {
            acknowledged: never(),
            refused: never(),
            reported: never(),
            tried: never(),
            causes: Causes::default(),
        };
        Self {
            answered: never(),
            silent: never(),
            silence: Causes::default(),
            statistics,
            reported: never(),
            made: never(),
            topics: topics.into_iter().map(|name| (name, topic())).collect(),
        }
    }

    /// Kafka answered a probe.
    pub fn note_answer(&self) {
        self.answered.note();
        if self.silence.end() {
            tracing::info!("Kafka answers again");
        }
    }

    /// Kafka did not answer a probe, or no broker can be reached.
    pub fn note_silence(&self, cause: impl Display) {
        self.silent.note();
        if let Some(cause) = self.silence.add(cause) {
            tracing::warn!(cause, "Kafka does not answer");
        }
    }

    /// Kafka acknowledged a record of a topic.
    pub fn note_acknowledgement(&self, topic: &str) {
        self.note_answer();
        if let Some(health) = self.topics.get(topic) {
            health.reported.note();
            health.acknowledged.note();
            if health.causes.end() {
                tracing::info!(topic, "Kafka takes the records of this topic again");
            }
        }
    }

    /// A record of a topic is, as far as is known, not in Kafka.
    pub fn note_failure(&self, topic: &str, error: PublishError) {
        let Some(health) = self.topics.get(topic) else { return };
        health.reported.note();
        // Anything else speaks of the record, or of the producer.
        if let PublishError::Refused(code) = error {
            health.refused.note();
            self.explain(topic, code);
        }
    }

    /// A record of a topic was not acknowledged within this time. Only if no other was either,
    /// the topic is down, and not merely slow.
    pub fn note_overdue(&self, topic: &str, patience: Duration) {
        if let Some(health) = self.topics.get(topic)
            && !health.acknowledged.is_within(patience)
        {
            health.refused.note();
            self.explain(topic, format_args!("no acknowledgement within {patience:?}"));
        }
    }

    /// Something was found that may be why a topic is down.
    pub fn explain(&self, topic: &str, cause: impl Display) {
        if let Some(health) = self.topics.get(topic)
            && health.is_down()
            && let Some(cause) = health.causes.add(cause)
        {
            tracing::warn!(topic, cause, "Kafka does not take the records of this topic");
        }
    }

    /// Whether Kafka answers, and took a record of any topic lately if it was given one.
    ///
    /// A refusal speaks for a while only, and not if Kafka was silent since: a relay that is not
    /// ready may get no further record to find out with.
    pub fn is_ready(&self) -> bool {
        let takes = |topic: &TopicHealth| topic.acknowledged.is_within(EVIDENCE_LASTS);
        let refuses = |topic: &TopicHealth| {
            topic.refused.is_within(EVIDENCE_LASTS) && !self.silent.is_after(&topic.refused)
        };
        let mut tried = self.topics.values().filter(|topic| takes(topic) || refuses(topic));
        let takes_any = tried.clone().any(|topic| !topic.is_down());
        self.is_fresh(EVIDENCE_LASTS) && self.answers() && (takes_any || tried.next().is_none())
    }

    /// Whether records of a topic are to be tried.
    pub fn is_up(&self, topic: &str) -> bool {
        self.answers() && self.topics.get(topic).is_none_or(|topic| !topic.is_down())
    }

    /// The topics that are down: all if the cluster is silent.
    pub fn down(&self) -> impl Iterator<Item = &str> {
        self.topics.keys().map(String::as_str).filter(|topic| !self.is_up(topic))
    }

    /// Whether topics that are down may be tried with a record each: Kafka answered since, and no
    /// other trial is under way, or was just now.
    pub fn admits_trial(&self, topics: &BTreeSet<&str>) -> bool {
        let topics = topics.iter().filter_map(|topic| self.topics.get(*topic));
        let admits = |topic: &TopicHealth| {
            let is_under_way =
                topic.tried.is_after(&topic.reported) && topic.tried.is_within(TRIAL_LASTS);
            self.answered.is_after(&topic.refused)
                && !is_under_way
                && !topic.tried.is_within(TRIAL_EVERY)
        };
        let admits = self.answers() && topics.clone().all(admits);
        if admits {
            topics.for_each(|topic| topic.tried.note());
        }
        admits
    }

    fn answers(&self) -> bool {
        !self.silent.is_after(&self.answered)
    }

    /// Whether Kafka answered no longer ago than this.
    pub fn is_fresh(&self, age: Duration) -> bool {
        self.answered.is_within(age)
    }

    /// librdkafka's thread called us.
    pub fn note_statistics(&self) {
        self.statistics.note();
    }

    /// Whether librdkafka's thread still calls us.
    pub fn is_live(&self) -> bool {
        self.statistics.is_within(SILENCE_MAX)
    }

    /// The producer reported something, or had nothing to report.
    pub fn note_report(&self) {
        self.reported.note();
    }

    /// A new producer starts.
    pub fn note_new_producer(&self) {
        self.reported.note();
        self.made.note();
    }

    /// Whether the producer, which has a fault or not, is to be replaced: one with a fault after
    /// a while, and any that made its last report longer ago than this.
    pub fn is_stuck(&self, has_fault: bool, silence_max: Duration) -> bool {
        has_fault && !self.made.is_within(REPLACE_EVERY) || !self.reported.is_within(silence_max)
    }
}

impl TopicHealth {
    fn is_down(&self) -> bool {
        self.refused.is_after(&self.acknowledged)
    }
}

impl Causes {
    /// Gives the cause if it is new in this outage.
    fn add(&self, cause: impl Display) -> Option<String> {
        let cause = cause.to_string();
        let mut named = self.0.lock().expect("adding does not panic");
        named.insert(cause.clone()).then_some(cause)
    }

    /// Ends the outage; gives whether there was one.
    fn end(&self) -> bool {
        let mut named = self.0.lock().expect("adding does not panic");
        !std::mem::take(&mut *named).is_empty()
    }
}
