//! Every metric, as one struct with a registry of its own.
//!
//! The books balance: received = the sum of the outcomes + in flight.

use std::collections::BTreeSet;

use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder, core::Collector, proto::Metric,
};

/// Seconds, from a quarter of a millisecond to the ten seconds past every deadline.
const SECONDS: [f64; 15] =
    [0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Every metric of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Requests that came in, by application.
    pub received: IntCounterVec,
    /// Requests that ended, by application, outcome and reason.
    pub outcomes: IntCounterVec,
    /// Requests that came in and have not ended.
    pub in_flight: IntGauge,
    /// Connections to the public listener.
    pub connections: IntGauge,
    /// Connections that were one too many, of all or of one address.
    pub connections_refused: IntCounterVec,
    /// Connections that ended without the whole head of a request.
    pub connections_unused: IntCounter,
    /// Rejections that had to wait for their turn.
    pub rejections_held: IntCounter,
    /// Rejected webhooks of which no copy was made, by why.
    pub rejected_dropped: IntCounterVec,
    /// Seconds from the head of the request to the answer, by outcome.
    pub answer_seconds: HistogramVec,
    /// Seconds from handing records to the producer to the last delivery report.
    pub publish_seconds: Histogram,
    /// Records that Kafka acknowledged, by topic.
    pub published_events: IntCounterVec,
    /// Checksums that held, by application, key, placement and method.
    pub verified: IntCounterVec,
    /// When a key last verified a webhook, in seconds since 1970, by application and key.
    pub checksum_key_last_verified: GaugeVec,
    /// Times that the settings were read again, by whether they are in force.
    pub settings_reloads: IntCounterVec,
    /// Events that are on disk and not in Kafka.
    pub spool_events: IntGauge,
    /// Bytes of the spool's file that hold something.
    pub spool_bytes: IntGauge,
    /// Bytes that the spool may take.
    pub spool_bytes_max: IntGauge,
    /// Seconds that a commit of the spool takes, its sync included.
    pub spool_commit_seconds: Histogram,
    /// Commits that failed.
    pub spool_errors: IntCounter,
    /// Files that were damaged and set aside.
    pub spool_damaged: IntCounter,
    /// Refusals of events in the spool that are too large for their topic.
    pub spool_too_large: IntCounter,
    /// Producers that made no progress and were replaced.
    pub kafka_producers_replaced: IntCounter,
    /// Records that were called acknowledged without an offset, and are sent again.
    pub kafka_records_unplaced: IntCounter,
    /// Records that were held back for a moment, as many were unacknowledged.
    pub kafka_records_held: IntCounter,
    /// Records that librdkafka holds.
    pub kafka_queue_records: IntGauge,
    /// Bytes of the records that librdkafka holds.
    pub kafka_queue_bytes: IntGauge,
    /// Whether Kafka takes the records of a topic, as far as is known.
    pub kafka_topic_up: IntGaugeVec,
    /// Whether the connection to a broker stands, by its id.
    pub kafka_broker_up: IntGaugeVec,
    /// Seconds of the round trip to a broker, by its id.
    pub kafka_broker_round_trip: GaugeVec,
}

impl Default for Metrics {
    fn default() -> Self {
        let registry = Registry::new();
        let counter = |name, help, labels: &[&str]| {
            register(&registry, IntCounterVec::new(options(name, help), labels))
        };
        let gauge = |name, help| register(&registry, IntGauge::with_opts(options(name, help)));
        let count = |name, help| register(&registry, IntCounter::with_opts(options(name, help)));
        let gauge_vec = |name, help, labels: &[&str]| {
            register(&registry, IntGaugeVec::new(options(name, help), labels))
        };
        let histogram =
            |name, help| HistogramOpts::from(options(name, help)).buckets(SECONDS.to_vec());
        Self {
            received: counter(
                "received_total",
                "Requests that came in, by application",
                &["application"],
            ),
            outcomes: counter(
                "outcomes_total",
                "Requests that ended: published, rejected, failed or abandoned, with the reason",
                &["application", "outcome", "reason"],
            ),
            in_flight: gauge("in_flight", "Requests that came in and have not ended"),
            connections: gauge("connections", "Connections to the public listener"),
            connections_refused: counter(
                "connections_refused_total",
                "Connections that were one too many: of all, or of one address",
                &["of"],
            ),
            connections_unused: count(
                "connections_unused_total",
                "Connections that ended without the whole head of a request",
            ),
            rejections_held: count(
                "rejections_held_total",
                "Rejections that waited for their turn, as there were too many",
            ),
            rejected_dropped: counter(
                "rejected_dropped_total",
                "Rejected webhooks of which no copy was made, by why: their size, their rate, Kafka",
                &["why"],
            ),
            answer_seconds: register(
                &registry,
                HistogramVec::new(
                    histogram("answer_seconds", "From the head of a request to its answer"),
                    &["outcome"],
                ),
            ),
            publish_seconds: register(
                &registry,
                Histogram::with_opts(histogram(
                    "publish_seconds",
                    "From handing a webhook's records to the producer to their last report",
                )),
            ),
            published_events: counter(
                "published_events_total",
                "Records that Kafka acknowledged, by topic: at once, late, or from the spool",
                &["topic"],
            ),
            verified: counter(
                "verified_total",
                "Checksums that held, by application, key, placement and method",
                &["application", "key", "placement", "method"],
            ),
            checksum_key_last_verified: register(
                &registry,
                GaugeVec::new(
                    options(
                        "checksum_key_last_verified_timestamp_seconds",
                        "When a key last verified a webhook, by application and key",
                    ),
                    &["application", "key"],
                ),
            ),
            settings_reloads: counter(
                "settings_reloads_total",
                "Times that the settings were read again: applied or refused",
                &["outcome"],
            ),
            spool_events: gauge("spool_events", "Events that are on disk and not in Kafka"),
            spool_bytes: gauge("spool_bytes", "Bytes of the spool's file that hold something"),
            spool_bytes_max: gauge(
                "spool_bytes_max",
                "Bytes of the spool's file that may hold something; the log has the rest",
            ),
            spool_commit_seconds: register(
                &registry,
                Histogram::with_opts(histogram(
                    "spool_commit_seconds",
                    "A commit of the spool, its sync included",
                )),
            ),
            spool_errors: count("spool_errors_total", "Commits of the spool that failed"),
            spool_damaged: count("spool_damaged_total", "Spools that were damaged and set aside"),
            spool_too_large: count(
                "spool_too_large_total",
                "Refusals of events in the spool that are too large for their topic",
            ),
            kafka_producers_replaced: count(
                "kafka_producers_replaced_total",
                "Producers that made no progress and were replaced",
            ),
            kafka_records_unplaced: count(
                "kafka_records_unplaced_total",
                "Records that were called acknowledged without an offset, and are sent again",
            ),
            kafka_records_held: count(
                "kafka_records_held_total",
                "Records that were held back for a moment, as many were unacknowledged",
            ),
            kafka_queue_records: gauge(
                "kafka_queue_records",
                "Records that librdkafka holds, waiting or under way",
            ),
            kafka_queue_bytes: gauge(
                "kafka_queue_bytes",
                "Bytes of the records that librdkafka holds",
            ),
            kafka_topic_up: gauge_vec(
                "kafka_topic_up",
                "Whether Kafka takes the records of a topic, as far as is known, by topic",
                &["topic"],
            ),
            kafka_broker_up: gauge_vec(
                "kafka_broker_up",
                "Whether the connection to a broker stands, by broker id",
                &["broker"],
            ),
            kafka_broker_round_trip: register(
                &registry,
                GaugeVec::new(
                    options(
                        "kafka_broker_round_trip_seconds",
                        "99th percentile of the round trip to a broker in the last second",
                    ),
                    &["broker"],
                ),
            ),
            registry,
        }
    }
}

impl Metrics {
    /// Requests that came in and have not ended.
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.in_flight.get()).unwrap_or(0)
    }

    /// Drops what is known of keys that are no longer in force: all but these, each by its
    /// application and its id.
    pub fn forget_keys_but(&self, keys: &BTreeSet<(String, String)>) {
        let label = |metric: &Metric, name: &str| {
            let labels = metric.get_label().iter();
            let mut values = labels.filter(|label| label.name() == name).map(|label| label.value());
            values.next().unwrap_or_default().to_owned()
        };
        let families = self.checksum_key_last_verified.collect();
        for metric in families.iter().flat_map(|family| family.get_metric()) {
            let key = (label(metric, "application"), label(metric, "key"));
            if !keys.contains(&key) {
                // Where a request was faster, it is there no more.
                self.checksum_key_last_verified.remove_label_values(&[&key.0, &key.1]).ok();
            }
        }
    }

    /// Everything, in Prometheus' text format.
    pub fn render(&self) -> Vec<u8> {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("a text of our own metrics can be written to memory");
        text
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("clickpesa_relay")
}

fn register<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: prometheus::Result<C>,
) -> C {
    let collector = collector.expect("names and labels are constants, and valid");
    registry.register(Box::new(collector.clone())).expect("every name is registered once");
    collector
}
