//! What is known of Kafka: whether it answers, and whether it takes the records of a topic.
//!
//! This is the breaker, of the cluster and of each topic: what was heard last decides. A report,
//! also a late one, is evidence about its topic; a probe only tells silence from an answer. Each
//! cause is logged once in an outage, and the end of it.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Display,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
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

/// What is known of Kafka.
#[derive(Debug)]
pub struct Health {
    /// Open while no broker can be reached or a probe was not answered.
    cluster: Breaker,
    /// A record was acknowledged or a probe answered.
    answered: Moment,
    /// How often that was.
    answers: AtomicU64,
    /// librdkafka's thread called us.
    statistics: Moment,
    /// The producer reported something, or had nothing to report.
    reported: Moment,
    /// The producer was made.
    made: Moment,
    topics: HashMap<String, TopicHealth>,
    /// Of topics that are down.
    trials: Mutex<HashMap<String, Trial>>,
}

#[derive(Debug, Default)]
struct TopicHealth {
    /// Open while its records are refused or overdue.
    breaker: Breaker,
    acknowledged: Moment,
    /// A record was refused, or is overdue; forgotten when the cluster is silent.
    refused: Moment,
}

/// Open while something does not work, with the causes that the log has named.
#[derive(Debug, Default)]
struct Breaker {
    is_open: AtomicBool,
    causes: Mutex<BTreeSet<String>>,
}

/// What is known of trying a topic that is down.
#[derive(Debug, Default)]
struct Trial {
    /// How often Kafka had answered when the topic was refused last.
    answers: u64,
    began: Option<Instant>,
    is_under_way: bool,
}

impl Health {
    /// Of a cluster with these topics.
    pub fn new(topics: impl IntoIterator<Item = String>) -> Self {
        let statistics = Moment::default();
        // The first come after a second: until then, silence is no sign of anything.
        statistics.note();
        Self {
            cluster: Breaker::default(),
            answered: Moment::default(),
            answers: AtomicU64::default(),
            statistics,
            reported: Moment::default(),
            made: Moment::default(),
            topics: topics.into_iter().map(|name| (name, TopicHealth::default())).collect(),
            trials: Mutex::default(),
        }
    }

    /// Kafka answered a probe.
    pub fn note_answer(&self) {
        self.answered.note();
        self.answers.fetch_add(1, Ordering::Relaxed);
        if self.cluster.close() {
            tracing::info!("Kafka answers again");
        }
    }

    /// Kafka did not answer a probe, or no broker can be reached.
    pub fn note_silence(&self, cause: impl Display) {
        self.cluster.open();
        // Of before: a relay that is not ready may get no further record to find out with.
        self.topics.values().for_each(|topic| topic.refused.forget());
        if let Some(cause) = self.cluster.explain(cause) {
            tracing::warn!(cause, "Kafka does not answer");
        }
    }

    /// Kafka acknowledged a record of a topic.
    pub fn note_acknowledgement(&self, topic: &str) {
        self.note_answer();
        if let Some(health) = self.topics.get(topic) {
            health.acknowledged.note();
            if health.breaker.close() {
                self.trials().remove(topic);
                tracing::info!(topic, "Kafka takes the records of this topic again");
            }
        }
    }

    /// A record of a topic is, as far as is known, not in Kafka.
    pub fn note_failure(&self, topic: &str, error: PublishError) {
        if let Some(trial) = self.trials().get_mut(topic) {
            trial.is_under_way = false;
        }
        // Anything else speaks of the record, or of the producer.
        if let PublishError::Refused(code) = error {
            self.note_refusal(topic, code);
        }
    }

    /// A record of a topic was not acknowledged within this time. Only if no other was either,
    /// the topic is down, and not merely slow.
    pub fn note_overdue(&self, topic: &str, patience: Duration) {
        if self.topics.get(topic).is_some_and(|health| !health.acknowledged.is_within(patience)) {
            self.note_refusal(topic, format_args!("no acknowledgement within {patience:?}"));
        }
    }

    fn note_refusal(&self, topic: &str, cause: impl Display) {
        let Some(health) = self.topics.get(topic) else { return };
        health.refused.note();
        health.breaker.open();
        let answers = self.answers.load(Ordering::Relaxed);
        self.trials().entry(topic.to_owned()).or_default().answers = answers;
        self.explain(topic, cause);
    }

    /// Something was found that may be why a topic is down.
    pub fn explain(&self, topic: &str, cause: impl Display) {
        let health = self.topics.get(topic);
        if let Some(cause) = health.and_then(|health| health.breaker.explain(cause)) {
            tracing::warn!(topic, cause, "Kafka does not take the records of this topic");
        }
    }

    /// Whether Kafka answers, and took a record of any topic lately if it was given one.
    pub fn is_ready(&self) -> bool {
        let is_tried = |topic: &&TopicHealth| {
            [&topic.acknowledged, &topic.refused]
                .iter()
                .any(|tried| tried.is_within(EVIDENCE_LASTS))
        };
        let mut tried = self.topics.values().filter(is_tried);
        let takes_any = tried.clone().any(|topic| !topic.breaker.is_open());
        let answers = self.is_fresh(EVIDENCE_LASTS) && !self.cluster.is_open();
        answers && (takes_any || tried.next().is_none())
    }

    /// Whether records of a topic are to be tried.
    pub fn is_up(&self, topic: &str) -> bool {
        let is_down = |health: &TopicHealth| health.breaker.is_open();
        !self.cluster.is_open() && !self.topics.get(topic).is_some_and(is_down)
    }

    /// Every topic, and whether its records are to be tried.
    pub fn topics(&self) -> impl Iterator<Item = (&str, bool)> {
        self.topics.keys().map(|topic| (topic.as_str(), self.is_up(topic)))
    }

    /// Whether topics that are down may be tried with a record each: Kafka answered since, and no
    /// other trial is under way, or was just now.
    pub fn admits_trial(&self, topics: &BTreeSet<&str>) -> bool {
        let answers = self.answers.load(Ordering::Relaxed);
        let mut trials = self.trials();
        let admits = |topic: &&str| {
            let Some(trial) = trials.get(*topic) else { return true };
            let is_within = |age| trial.began.is_some_and(|began| began.elapsed() < age);
            let is_under_way = trial.is_under_way && is_within(TRIAL_LASTS);
            answers > trial.answers && !is_under_way && !is_within(TRIAL_EVERY)
        };
        let admits = !self.cluster.is_open() && topics.iter().all(admits);
        if admits {
            for topic in topics {
                if let Some(trial) = trials.get_mut(*topic) {
                    (trial.began, trial.is_under_way) = (Some(Instant::now()), true);
                }
            }
        }
        admits
    }

    fn trials(&self) -> MutexGuard<'_, HashMap<String, Trial>> {
        self.trials.lock().expect("trying does not panic")
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

impl Breaker {
    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::Relaxed)
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::Relaxed);
    }

    /// Gives the cause if it is new in this outage.
    fn explain(&self, cause: impl Display) -> Option<String> {
        let mut causes = self.causes();
        let cause = self.is_open().then(|| cause.to_string())?;
        causes.insert(cause.clone()).then_some(cause)
    }

    /// Gives whether it was open.
    fn close(&self) -> bool {
        // Every acknowledgement comes by here.
        if !self.is_open() {
            return false;
        }
        let mut causes = self.causes();
        causes.clear();
        self.is_open.swap(false, Ordering::Relaxed)
    }

    fn causes(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.causes.lock().expect("naming does not panic")
    }
}
