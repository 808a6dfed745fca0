//! `tail`: the events of the topics as they come.

use std::{collections::BTreeSet, path::Path, process::ExitCode, time::Duration};

use clap::Args;
use clickpesa_relay::kafka::{
    reader::{From, ReadError, Reader},
    topics::{ALL, REJECTED, Topics},
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

    /// The topics of all applications that are for these types.
    fn names(&self, topics: &Topics) -> Result<Vec<String>, Failure> {
        let events = topics.wanted.iter().filter(|(_, suffix)| **suffix != REJECTED);
        let known: BTreeSet<_> = events.clone().map(|(_, suffix)| *suffix).collect();
        if let Some(unknown) = self.types.iter().find(|wanted| !known.contains(wanted.as_str())) {
            let known = known.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Failure::Usage(format!("no type `{unknown}`: there are {known}")));
        }
        let is_wanted = |suffix: &str| match &self.types[..] {
            // Every event in it is in another, too.
            [] => suffix != ALL,
            types => types.iter().any(|wanted| wanted == suffix),
        };
        let names = events.filter(|(_, suffix)| is_wanted(suffix)).map(|(name, _)| name.clone());
        Ok(names.collect())
    }
}
