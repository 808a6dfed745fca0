//! An embedded broker for `dev` and for injected errors: librdkafka's own mock cluster.
//!
//! In memory, one broker, on a free port of the loopback; any client can join. A toy by design.

use std::fmt;

use rdkafka::{error::KafkaError, mocking::MockCluster, producer::DefaultProducerContext};

/// A broker that lives as long as this value.
pub struct EmbeddedBroker(MockCluster<'static, DefaultProducerContext>);

impl EmbeddedBroker {
    /// Starts a broker.
    ///
    /// # Errors
    /// When librdkafka cannot start it.
    pub fn start() -> Result<Self, KafkaError> {
        MockCluster::new(1).map(Self)
    }

    /// `host:port`
    pub fn bootstrap_servers(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Makes a topic: the mock answers no requests to create one.
    ///
    /// # Errors
    /// When the topic cannot be made.
    pub fn create_topic(&self, name: &str, partitions: i32) -> Result<(), KafkaError> {
        self.0.create_topic(name, partitions, 1)
    }

    /// The cluster itself, to inject errors.
    ///
    /// `broker_down` aborts a process that starts others meanwhile: the cluster binds its port
    /// again, which a child that has not come to its exec still holds. Drop the broker, or delay its
    /// answers.
    pub fn mock(&self) -> &MockCluster<'static, DefaultProducerContext> {
        &self.0
    }
}

impl fmt::Debug for EmbeddedBroker {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("EmbeddedBroker").field(&self.bootstrap_servers()).finish()
    }
}
