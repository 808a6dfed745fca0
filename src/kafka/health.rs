//! What is known of Kafka: whether it answers, and whether it takes the records of a topic.
//!
//! This is the breaker: a topic is down when the newest evidence about it is a refusal, or when
//! the whole cluster is silent. Every report and every probe is evidence, also a late one.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use crate::moment::Moment;

/// How long an acknowledgement or an answered probe speaks for Kafka.
pub const EVIDENCE_LASTS: Duration = Duration::from_secs(10);

/// How long librdkafka may be silent, whose statistics come every second, before it is called
/// stuck.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often a topic that is down is tried with a record where no record is under way.
const TRIAL_EVERY: Duration = Duration::from_secs(1);

/// What is known of Kafka, from the newest evidence of each kind.
#[derive(Debug)]
pub struct Health {
    /// A record was acknowledged or a probe answered.
    answered: Moment,
    /// A probe was not answered, or no broker could be reached.
    silent: Moment,
    /// The record of any topic was refused.
    refused: Moment,
    /// librdkafka's thread called us.
    statistics: Moment,
    /// The producer reported something, or had nothing to report.
    reported: Moment,
    is_fatal: AtomicBool,
    topics: HashMap<String, TopicHealth>,
}

#[derive(Debug)]
struct TopicHealth {
    acknowledged: Moment,
    refused: Moment,
    tried: Moment,
}

impl Health {
    /// Of a cluster with these topics.
    pub fn new(topics: impl IntoIterator<Item = String>) -> Self {
        let origin = Moment::never();
        let never = || origin.clone();
        let now = || {
            let moment = origin.clone();
            moment.note();
            moment
        };
        let topic = || TopicHealth { acknowledged: never(), refused: never(), tried: never() };
        Self {
            answered: never(),
            silent: never(),
            refused: never(),
            // The first come after a second: until then, silence is no sign of anything.
            statistics: now(),
            reported: now(),
            is_fatal: AtomicBool::new(false),
            topics: topics.into_iter().map(|name| (name, topic())).collect(),
        }
    }

    /// Kafka answered a probe.
    pub fn note_answer(&self) {
        self.answered.note();
    }

    /// Kafka did not answer a probe, or no broker can be reached.
    pub fn note_silence(&self) {
        self.silent.note();
    }

    /// Kafka acknowledged a record of a topic.
    pub fn note_acknowledgement(&self, topic: &str) {
        self.answered.note();
        if let Some(topic) = self.topics.get(topic) {
            topic.acknowledged.note();
        }
    }

    /// Kafka refused a record of a topic.
    pub fn note_refusal(&self, topic: &str) {
        self.refused.note();
        if let Some(topic) = self.topics.get(topic) {
            topic.refused.note();
        }
    }

    /// A record of a topic was not acknowledged within this time. Only if no other was either,
    /// the topic is down, and not merely slow.
    pub fn note_overdue(&self, topic: &str, patience: Duration) {
        let is_slow =
            self.topics.get(topic).is_some_and(|topic| topic.acknowledged.is_within(patience));
        if !is_slow {
            self.note_refusal(topic);
        }
    }

    /// Whether the newest evidence is that Kafka takes records.
    pub fn is_ready(&self) -> bool {
        self.answered.is_within(EVIDENCE_LASTS)
            && self.answers()
            && !self.refused.is_after(&self.answered)
    }

    /// Whether records of a topic are to be tried.
    pub fn is_up(&self, topic: &str) -> bool {
        self.answers() && self.topics.get(topic).is_none_or(|topic| !topic.is_down())
    }

    /// A topic that is down, or any if the cluster is silent.
    pub fn down(&self) -> Option<&str> {
        self.topics.keys().map(String::as_str).find(|topic| !self.is_up(topic))
    }

    /// Whether a topic that is down may be tried with a record: Kafka answered since, and nobody
    /// has tried just now.
    pub fn admits_trial(&self, topic: &str) -> bool {
        let Some(topic) = self.topics.get(topic) else { return true };
        let admits = self.answers()
            && self.answered.is_after(&topic.refused)
            && !topic.tried.is_within(TRIAL_EVERY);
        if admits {
            topic.tried.note();
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

    /// The producer cannot go on.
    pub fn note_fatal_error(&self) {
        self.is_fatal.store(true, Ordering::Relaxed);
    }

    /// A new producer starts.
    pub fn note_new_producer(&self) {
        self.is_fatal.store(false, Ordering::Relaxed);
        self.reported.note();
    }

    /// Whether the producer cannot go on, or made its last report longer ago than this.
    pub fn is_stuck(&self, silence_max: Duration) -> bool {
        self.is_fatal.load(Ordering::Relaxed) || !self.reported.is_within(silence_max)
    }
}

impl TopicHealth {
    fn is_down(&self) -> bool {
        self.refused.is_after(&self.acknowledged)
    }
}
