//! The Kafka that a command talks to.

use std::path::Path;

use clap::Args;
use clickpesa_relay::config::{Kafka, Written};

use super::Failure;

/// Which Kafka a command talks to.
#[derive(Debug, Args)]
pub(super) struct Connection {
    /// Brokers to begin with, instead of those in the settings
    #[arg(long, value_name = "HOST:PORT,…", global = true)]
    pub(super) bootstrap_servers: Option<String>,
}

impl Connection {
    pub(super) fn kafka(&self, config: Option<&Path>) -> Result<Kafka, Failure> {
        let mut kafka = Written::read(config, None)?.understand_kafka()?;
        if let Some(servers) = &self.bootstrap_servers {
            kafka.properties.0.insert("bootstrap.servers".to_owned(), servers.clone());
        }
        Ok(kafka)
    }
}
