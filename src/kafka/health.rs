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

use rdkafka::error::RDKafkaErrorCode;

use super::{overdue::Overdue, report::PublishError};
use crate::moment::Moment;

/// How long an acknowledgement or an answered probe speaks for Kafka.
pub const EVIDENCE_LASTS: Duration = Duration::from_secs(10);

/// How long librdkafka may be silent, whose statistics come twice a second, before it is called
/// stuck.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);

/// How often a topic that is down is tried with a record where no record is under way.
const TRIAL_EVERY: Duration = Duration::from_secs(1);

/// How long a trial may be without a report before it is taken for lost.
const TRIAL_LASTS: Duration = Duration::from_secs(30);

/// How long an acknowledgement speaks for a topic against a record that timed out.
const TIMED_OUT_LASTS: Duration = Duration::from_secs(1);

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
    /// Partitions whose records time out while Kafka answers.
    pub overdue: Overdue,
}

#[derive(Debug, Default)]
struct TopicHealth {
    /// Open while its records are refused or overdue.
    breaker: Breaker<Trial>,
    acknowledged: Moment,
    /// A record was refused, or is overdue; forgotten when the cluster is silent.
    refused: Moment,
}

/// Open while something does not work.
#[derive(Debug, Default)]
struct Breaker<T = ()> {
    /// Whether there is an outage, for those who only ask.
    is_open: AtomicBool,
    outage: Mutex<Option<Outage<T>>>,
}

#[derive(Debug, Default)]
struct Outage<T> {
    /// The causes that the log has named.
    causes: BTreeSet<String>,
    trial: T,
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
            overdue: Overdue::default(),
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
        // Of before: a relay that is not ready may get no further record to find out with.
        self.topics.values().for_each(|topic| topic.refused.forget());
        self.overdue.clear();
        if let Some(cause) = self.cluster.open(|| true, |()| {}, cause) {
            tracing::warn!(cause, "Kafka does not answer");
        }
    }

    /// Kafka acknowledged a record of a topic.
    pub fn note_acknowledgement(&self, topic: &str) {
        self.note_answer();
        if let Some(health) = self.topics.get(topic) {
            health.acknowledged.note();
            if health.breaker.close() {
                tracing::info!(topic, "Kafka takes the records of this topic again");
            }
        }
    }

    /// A record of a topic is, as far as is known, not in Kafka.
    pub fn note_failure(&self, topic: &str, error: PublishError) {
        let Some(health) = self.topics.get(topic) else { return };
        health.breaker.change(|trial| trial.is_under_way = false);
        match error {
            // It may be one partition that is gone.
            PublishError::Refused(code @ RDKafkaErrorCode::MessageTimedOut) => {
                self.note_refusal(topic, || !health.acknowledged.is_within(TIMED_OUT_LASTS), code);
            }
            PublishError::Refused(code) => self.note_refusal(topic, || true, code),
            // These speak of the record, or of the producer.
            PublishError::TooLarge
            | PublishError::QueueFull
            | PublishError::Replaced
            | PublishError::Unplaced => {}
        }
    }

    /// A record of a topic was not acknowledged within this time. Only if no other was either,
    /// the topic is down, and not merely slow.
    pub fn note_overdue(&self, topic: &str, waited: Duration) {
        let Some(health) = self.topics.get(topic) else { return };
        let cause = format_args!("no acknowledgement within {waited:?}");
        self.note_refusal(topic, || !health.acknowledged.is_within(waited), cause);
    }

    fn note_refusal(&self, topic: &str, is_so: impl FnOnce() -> bool, cause: impl Display) {
        let Some(health) = self.topics.get(topic) else { return };
        let answers = self.answers.load(Ordering::Relaxed);
        let refuse = |trial: &mut Trial| {
            health.refused.note();
            trial.answers = answers;
        };
        tell_down(topic, health.breaker.open(is_so, refuse, cause));
    }

    /// Something was found that may be why a topic is down.
    pub fn explain(&self, topic: &str, cause: impl Display) {
        let health = self.topics.get(topic);
        tell_down(topic, health.and_then(|health| health.breaker.explain(cause)));
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
        let of_topics = || topics.iter().filter_map(|topic| self.topics.get(*topic));
        let admits = |trial: &mut Trial| {
            let is_within = |age| trial.began.is_some_and(|began| began.elapsed() < age);
            let is_under_way = trial.is_under_way && is_within(TRIAL_LASTS);
            answers > trial.answers && !is_under_way && !is_within(TRIAL_EVERY)
        };
        // Without an outage of its own there is nothing to find out.
        let all_admit = of_topics().all(|topic| topic.breaker.change(admits).unwrap_or(true));
        let admits = !self.cluster.is_open() && all_admit;
        if admits {
            let begin = |trial: &mut Trial| {
                (trial.began, trial.is_under_way) = (Some(Instant::now()), true);
            };
            of_topics().for_each(|topic| topic.breaker.change(begin).unwrap_or_default());
        }
        admits
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

fn tell_down(topic: &str, new_cause: Option<String>) {
    if let Some(cause) = new_cause {
        tracing::warn!(topic, cause, "Kafka does not take the records of this topic");
    }
}

impl<T: Default> Breaker<T> {
    fn is_open(&self) -> bool {
        self.is_open.load(Ordering::SeqCst)
    }

    /// Opens it if that is so, and changes what is known of the outage; gives the cause if it is
    /// new in this outage.
    fn open(
        &self,
        is_so: impl FnOnce() -> bool,
        change: impl FnOnce(&mut T),
        cause: impl Display,
    ) -> Option<String> {
        let mut outage = self.outage();
        // First, so that who has a reason to close it sees that it is open, or we see the reason.
        self.is_open.store(true, Ordering::SeqCst);
        if !is_so() {
            self.is_open.store(outage.is_some(), Ordering::SeqCst);
            return None;
        }
        let outage = outage.get_or_insert_default();
        change(&mut outage.trial);
        outage.note(cause)
    }

    /// Gives the cause if there is an outage, and it is new in it.
    fn explain(&self, cause: impl Display) -> Option<String> {
        self.outage().as_mut()?.note(cause)
    }

    /// Changes what is known of the outage, if there is one.
    fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> Option<R> {
        // Every report comes by here.
        if !self.is_open() {
            return None;
        }
        self.outage().as_mut().map(|outage| change(&mut outage.trial))
    }

    /// Gives whether it was open.
    fn close(&self) -> bool {
        if !self.is_open() {
            return false;
        }
        let mut outage = self.outage();
        self.is_open.store(false, Ordering::SeqCst);
        outage.take().is_some()
    }

    fn outage(&self) -> MutexGuard<'_, Option<Outage<T>>> {
        self.outage.lock().expect("nothing that is done with it panics")
    }
}

impl<T> Outage<T> {
    fn note(&mut self, cause: impl Display) -> Option<String> {
        let cause = cause.to_string();
        self.causes.insert(cause.clone()).then_some(cause)
    }
}
