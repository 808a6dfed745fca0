//! `spool`: the events that wait for Kafka, and those of a damaged file.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use actix_web::rt::System;
use clap::{Args, Subcommand};
use clickpesa_relay::{
    config::{Log, Spool as Settings, Written},
    metrics::Metrics,
    record::Record,
    spool::{OpenError, Salvage, Spool, Spooled, View, Waiting},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tracing::Level;
use tracing_subscriber::filter::Targets;

use super::{Failure, print, serve::start_log, show::printable};

/// Entries that are read at once.
const BATCH: usize = 500;

/// Looks at the spool, also while a relay has it, or gets back what a damaged file holds.
#[derive(Debug, Args)]
pub(super) struct SpoolCommand {
    #[command(subcommand)]
    act: Act,
    /// Print JSON, one object a line
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Say how much waits, since when, who has the spool, and which damaged files are beside it
    Status,
    /// Print which events wait, without what is in them
    List,
    /// Print the waiting records whole, as JSON, one a line
    Export,
    /// Put what can be read of a damaged file back into the spool; no relay may have it
    Recover {
        /// The file that was set aside: `spool.sqlite.damaged-…`
        file: PathBuf,
    },
}

impl SpoolCommand {
    pub(super) fn run(self, config: Option<&Path>) -> Result<ExitCode, Failure> {
        let spool = Written::read(config, None)?.understand_spool()?.ok_or_else(|| {
            Failure::Usage("there is no spool: `spool.path` is not set".to_owned())
        })?;
        if let Act::Recover { file } = &self.act {
            return self.recover(&spool, file);
        }
        let view = View::open(&spool.path).map_err(|error| Failure::Failed(error.to_string()))?;
        match &self.act {
            Act::Status => self.status(&spool, &view),
            Act::List => each(&view, |spooled| self.line(spooled)),
            Act::Export | Act::Recover { .. } => each(&view, whole),
        }
    }

    fn status(&self, spool: &Settings, view: &View) -> Result<ExitCode, Failure> {
        let failed =
            |error: &dyn std::error::Error| Failure::failed("cannot read the spool", error);
        let waiting = view.waiting().map_err(|error| failed(&error))?;
        let holder = view.holder().map_err(|error| failed(&error))?;
        let damaged = view.damaged().map_err(|error| failed(&error))?;
        let damaged: Vec<_> = damaged.iter().map(|file| file.display().to_string()).collect();
        let oldest = waiting.iter().map(|waiting| age_seconds(waiting.oldest_ms)).max();
        let entries: i64 = waiting.iter().map(|waiting| waiting.entries).sum();
        let (path, bytes, bytes_max) = (spool.path.display(), view.bytes(), spool.max_bytes);
        if self.json {
            let topics: serde_json::Map<String, Value> = waiting
                .into_iter()
                .map(|waiting| (waiting.topic, waiting.entries.into()))
                .collect();
            let status = json!({
                "path": path.to_string(),
                "entries": entries,
                "topics": topics,
                "oldest_age_seconds": oldest,
                "bytes": bytes,
                "bytes_max": bytes_max,
                "holder": holder,
                "damaged": damaged,
            });
            return print(&status.to_string());
        }
        print(&format!("path     {path}"))?;
        let since = oldest.map(|seconds| format!(", the oldest for {}", age(seconds)));
        print(&format!("entries  {entries}{}", since.unwrap_or_default()))?;
        for Waiting { topic, entries, .. } in waiting {
            print(&format!("         {entries} for {topic}"))?;
        }
        print(&format!("bytes    {bytes} of {bytes_max}"))?;
        print(&match holder {
            Some(process) => format!("in use   by process {process}"),
            None => "in use   by nobody".to_owned(),
        })?;
        for file in damaged {
            print(&format!("damaged  {file}"))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn line(&self, Spooled { sequence, record }: &Spooled) -> String {
        let Record { topic, timestamp_ms, key, .. } = record;
        let (id, seconds) = (record.id().unwrap_or_default(), age_seconds(*timestamp_ms));
        if self.json {
            return json!({
                "sequence": sequence,
                "id": id,
                "topic": topic,
                "key": key,
                "age_seconds": seconds,
            })
            .to_string();
        }
        format!("{:36} {topic:30} {:20} {}", printable(id), printable(key), age(seconds))
    }

    fn recover(&self, settings: &Settings, file: &Path) -> Result<ExitCode, Failure> {
        start_log(&Log { filter: Targets::new().with_default(Level::WARN), ..Log::default() })?;
        let metrics = Arc::new(Metrics::default());
        let spool = Spool::open(&settings.path, settings.max_bytes, &metrics);
        let spool = spool.map_err(|error| match error {
            OpenError::InUse { path, holder } => Failure::Failed(format!(
                "the spool `{path}` is in use by process {holder}\n\
                 stop it first; what is recovered is published when it starts again"
            )),
            OpenError::Directory { .. } | OpenError::Database { .. } => {
                Failure::Failed(error.to_string())
            }
        })?;
        let act = format!("cannot recover `{}`", file.display());
        let Salvage { appended, present, unreadable } = System::new()
            .block_on(spool.salvage(file))
            .map_err(|error| Failure::failed(&act, error))?;
        print(&if self.json {
            json!({ "appended": appended, "present": present, "unreadable": unreadable })
                .to_string()
        } else {
            format!(
                "{appended} events put into the spool, {present} were in it already, \
                 {unreadable} places cannot be read; `{}` is kept",
                file.display()
            )
        })
    }
}

/// Prints a line for every entry.
fn each(view: &View, line: impl Fn(&Spooled) -> String) -> Result<ExitCode, Failure> {
    let mut at = 0;
    loop {
        let batch = view
            .after(at, BATCH)
            .map_err(|error| Failure::failed("cannot read the spool", error))?;
        let Some(last) = batch.last() else { return Ok(ExitCode::SUCCESS) };
        at = last.sequence;
        for spooled in &batch {
            print(&line(spooled))?;
        }
    }
}

/// The record as one JSON object. The value is a text: as JSON, it would not be kept to the byte.
fn whole(Spooled { sequence, record }: &Spooled) -> String {
    let Record { topic, timestamp_ms, key, headers, value } = record;
    let headers: serde_json::Map<String, Value> =
        headers.iter().map(|(name, text)| (name.to_string(), text.to_string().into())).collect();
    json!({
        "sequence": sequence,
        "topic": topic,
        "timestamp": timestamp_ms,
        "key": key,
        "headers": headers,
        "value": String::from_utf8_lossy(value),
    })
    .to_string()
}

fn age_seconds(timestamp_ms: i64) -> i64 {
    (Timestamp::now().as_millisecond() - timestamp_ms) / 1000
}

fn age(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..7200 => format!("{} min", seconds / 60),
        7200.. => format!("{} h", seconds / 3600),
    }
}
