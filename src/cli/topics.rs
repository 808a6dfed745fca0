//! `topics`: the topics, listed, created or verified.

use std::{path::Path, process::ExitCode};

use actix_web::rt::System;
use clap::{Args, Subcommand};
use clickpesa_relay::kafka::topics::{Finding, TopicAdmin, TopicState, Topics};
use serde_json::json;

use super::{Failure, connection::Connection, print};

/// Looks at the topics that the settings name.
#[derive(Debug, Args)]
pub(super) struct TopicsCommand {
    #[command(subcommand)]
    act: Act,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
enum Act {
    /// Say of every topic whether it is there
    List,
    /// Create what is missing
    Create,
    /// Fail if one is missing
    Verify,
}

impl TopicsCommand {
    pub(super) fn run(self, config: Option<&Path>) -> Result<ExitCode, Failure> {
        let kafka = self.connection.kafka(config)?;
        let failed = |error| Failure::Failed(format!("{error}"));
        let admin = TopicAdmin::new(&kafka.properties)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        let topics = Topics { create: true, ..kafka.topics };
        let states = match self.act {
            Act::List | Act::Verify => admin.look(&topics).map_err(failed)?,
            Act::Create => System::new().block_on(admin.prepare(&topics)).map_err(failed)?,
        };
        for state in &states {
            print(&self.line(state))?;
        }
        let is_missing = |state: &&TopicState| state.finding == Finding::Missing;
        match states.iter().filter(is_missing).count() {
            missing if missing > 0 && self.act == Act::Verify => Err(Failure::Failed(format!(
                "{missing} of {} topics missing; create them, or run `clickpesa-relay topics \
                 create`",
                states.len()
            ))),
            _ => Ok(ExitCode::SUCCESS),
        }
    }

    fn line(&self, TopicState { name, partitions, finding }: &TopicState) -> String {
        let finding = match finding {
            Finding::Exists => "exists",
            Finding::Created => "created",
            Finding::Missing => "missing",
        };
        if self.json {
            json!({ "topic": name, "partitions": partitions, "finding": finding }).to_string()
        } else if *partitions == 0 {
            format!("{finding:8} {name}")
        } else {
            format!("{finding:8} {name} ({partitions} partitions)")
        }
    }
}
