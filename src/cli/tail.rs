//! `tail`: the events of the topics as they come.

use std::{collections::BTreeSet, path::Path, process::ExitCode, time::Duration};

use clap::Args;
use clickpesa_relay::kafka::{
    reader::{From, ReadError, Reader},
    topics::Topics,
};

use super::{Failure, connection::Connection, print, show};

/// How long one look for a record takes; how often the end is checked.
const LOOK: Duration = Duration::from_millis(100);

/// Prints the events of the topics as they come.
#[derive(Debug, Args)]
pub(super) struct Tail {
    /// Types such as payment.received; all types if none is named
    #[arg(value_name = "TYPE")]
    types: Vec<String>,
    /// Where to begin
    #[arg(long, value_enum, default_value = "end")]
    from: Begin,
    /// Print the events of this key alone
    #[arg(long)]
    key: Option<String>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
    /// End once everything that was there is printed
    #[arg(long)]
    stop_at_end: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Begin {
    /// The oldest event that is kept
    Start,
    /// The next event
    End,
}

impl Tail {
    pub(super) fn run(self, config: Option<&Path>) -> Result<ExitCode, Failure> {
        let kafka = self.connection.kafka(config)?;
        let names = self.names(&kafka.topics)?;
        let from = match self.from {
            Begin::Start => From::Start,
            Begin::End => From::End,
        };
        let failed = |error: ReadError| Failure::Failed(error.to_string());
        let mut reader = Reader::open(&kafka.properties, &names, from).map_err(failed)?;
        while !(self.stop_at_end && reader.is_at_end()) {
            let Some(record) = reader.next(LOOK).map_err(failed)? else { continue };
            if self.key.as_ref().is_none_or(|key| key.as_bytes() == record.key) {
                print(&if self.json { show::as_json(&record) } else { show::as_line(&record) })?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn names(&self, topics: &Topics) -> Result<Vec<String>, Failure> {
        if self.types.is_empty() {
            let names: BTreeSet<_> = topics.names.values().cloned().collect();
            return Ok(names.into_iter().collect());
        }
        let name = |suffix: &String| {
            let all = topics.all.as_ref().filter(|_| suffix == "all");
            topics.names.get(suffix.as_str()).or(all).cloned().ok_or_else(|| {
                let all = topics.all.iter().map(|_| "all");
                let known: Vec<_> = topics.names.keys().copied().chain(all).collect();
                Failure::Usage(format!("no type `{suffix}`: there are {}", known.join(", ")))
            })
        };
        self.types.iter().map(name).collect()
    }
}
