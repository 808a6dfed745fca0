//! Kafka: the only user of `rdkafka`.

pub mod context;
pub mod embedded;
pub mod health;
pub mod hold;
pub mod overdue;
pub mod publisher;
pub mod reader;
pub mod report;
pub mod topics;

use std::{collections::BTreeMap, fmt, time::Duration};

use rdkafka::{
    ClientConfig, ClientContext,
    client::Client,
    error::{KafkaError, RDKafkaErrorCode},
    metadata::Metadata,
};

/// What librdkafka is told unless `kafka.properties` says otherwise.
///
/// `message.timeout.ms` is added by `app`: as long as an answer may take. The back-off decides how
/// soon the return of a broker is noticed. A broker measures a batch by `max.message.bytes`, and
/// refuses all of one that is too large.
pub const PROPERTIES: [(&str, &str); 14] = [
    ("acks", "all"),
    ("enable.idempotence", "true"),
    ("request.timeout.ms", "6000"),
    ("socket.timeout.ms", "10000"),
    ("reconnect.backoff.ms", "100"),
    ("reconnect.backoff.max.ms", "500"),
    ("socket.connection.setup.timeout.ms", "5000"),
    ("socket.keepalive.enable", "true"),
    ("partitioner", "murmur2_random"),
    ("linger.ms", "0"),
    ("batch.size", "65536"),
    ("allow.auto.create.topics", "false"),
    ("client.id", "clickpesa-relay"),
    ("client.software.name", "clickpesa-relay"),
];

/// Properties that delivery rests on: changed only with `kafka.allow_weaker_delivery`.
pub const GUARDED: [&str; 8] = [
    "acks",
    "enable.idempotence",
    "message.timeout.ms",
    "partitioner",
    "request.timeout.ms",
    "socket.timeout.ms",
    "reconnect.backoff.ms",
    "reconnect.backoff.max.ms",
];

/// Properties that cannot be given, and what there is instead. Of two names for one property,
/// chance would decide which counts.
pub const REFUSED: [(&str, &str); 8] = [
    ("bootstrap.servers", "`kafka.bootstrap_servers` sets it"),
    ("metadata.broker.list", "`kafka.bootstrap_servers` sets it"),
    ("request.required.acks", "its name here is `acks`"),
    ("delivery.timeout.ms", "its name here is `message.timeout.ms`"),
    ("queue.buffering.max.ms", "its name here is `linger.ms`"),
    ("delivery.report.only.error", "the relay waits for every report"),
    ("statistics.interval.ms", "the relay has its own, on which `/live` rests"),
    ("transactional.id", "the relay's producer is idempotent, and not transactional"),
];

/// A connection's settings: librdkafka's properties, `bootstrap.servers` among them.
#[derive(Clone, Default)]
pub struct Properties(pub BTreeMap<String, String>);

/// Names only: the values may be secret.
impl fmt::Debug for Properties {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

/// librdkafka does not take the properties.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the Kafka client: {0}; look at [kafka.properties]")]
pub struct ClientError(#[source] KafkaError);

/// Whether librdkafka knows a property and takes its value.
///
/// # Errors
/// With what librdkafka says, in which rdkafka's own error would repeat the value.
pub fn check_property(name: &str, value: &str) -> Result<(), String> {
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(_, description, ..)) => Err(description.trim().to_owned()),
        Err(other) => Err(other.to_string()),
    }
}

/// Asks for the metadata of a topic; blocks for the time-out at most. An answer that lists no broker
/// is none: it knows of no topic either.
fn metadata<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<Metadata, KafkaError> {
    let metadata = client.fetch_metadata(Some(topic), timeout)?;
    match metadata.brokers() {
        [] => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerNotAvailable)),
        _ => Ok(metadata),
    }
}

/// The configuration of a client: what librdkafka is told, with `properties` on top.
fn client_config(properties: &Properties) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (name, value) in PROPERTIES {
        config.set(name, value);
    }
    let is_set = |name: &str| properties.0.contains_key(name);
    if is_set("security.protocol") && !is_set("ssl.ca.location") && !is_set("ssl.ca.pem") {
        // The OpenSSL that is built in does not know where this system keeps its authorities.
        config.set("ssl.ca.location", "probe");
    }
    for (name, value) in &properties.0 {
        config.set(name, value);
    }
    config
}
