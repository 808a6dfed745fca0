//! `rejected replay`: what was rejected, verified with the keys in force now, and published.

use std::{path::Path, process::ExitCode, sync::Arc};

use actix_web::rt::System;
use clap::Args;
use clickpesa_relay::{
    config::{Kafka, Settings},
    delivery::{Batch, rejected::REQUEST_HEADER},
    kafka::publisher::Publisher,
    metrics::Metrics,
    record::Record,
    webhook::Unverified,
};
use serde_json::json;

use super::{
    super::{Failure, print, settings},
    Copy, Filter, Place, copies, fits, parse_place,
};

/// Publishes the rejected webhooks that hold after all.
#[derive(Debug, Args)]
pub(super) struct Replay {
    /// Which: PARTITION/OFFSET, as `list` prints them; all if none is named
    #[arg(value_parser = parse_place)]
    places: Vec<Place>,
    #[command(flatten)]
    filter: Filter,
    /// Say what would be published, and publish nothing
    #[arg(long)]
    dry_run: bool,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

/// What became of one.
enum Verdict {
    /// Where each of its events is, or would be.
    Holds(Vec<Published>),
    /// It does not hold now either.
    Rejected(String),
    /// It holds, and Kafka did not take it.
    Failed(String),
}

struct Published {
    id: String,
    topic: String,
    /// Partition and offset, unless nothing was to be published.
    place: Option<Place>,
}

/// How many became what.
#[derive(Default)]
struct Sum {
    published: usize,
    rejected: usize,
    failed: usize,
}

impl Replay {
    pub(super) fn run(&self, config: Option<&Path>, kafka: &Kafka) -> Result<ExitCode, Failure> {
        let settings = settings(config)?;
        let mut properties = kafka.properties.clone();
        let within = settings.http.limits.answer_within.as_millis().to_string();
        properties.0.entry("message.timeout.ms".to_owned()).or_insert(within);
        let publisher = Publisher::new(&properties, [], Arc::new(Metrics::default()), 0)
            .map_err(|error| Failure::Failed(error.to_string()))?;
        let is_named = |copy: &Copy| self.places.is_empty() || self.places.contains(&copy.place());
        let mut sum = Sum::default();
        for copy in copies(kafka)?.filter(|copy| fits(copy, &self.filter)) {
            let copy = copy?;
            if !is_named(&copy) {
                continue;
            }
            let verdict = match records(&copy, &settings) {
                Err(why) => Verdict::Rejected(why),
                Ok(records) if self.dry_run => Verdict::holds(&records, &[]),
                Ok(records) => publish(&publisher, &records),
            };
            match verdict {
                Verdict::Holds(_) => sum.published += 1,
                Verdict::Rejected(_) => sum.rejected += 1,
                Verdict::Failed(_) => sum.failed += 1,
            }
            print(&self.line(&copy, &verdict))?;
        }
        self.sum_up(&sum)
    }

    fn line(&self, copy: &Copy, verdict: &Verdict) -> String {
        let (partition, offset) = copy.place();
        let (word, why, events) = match verdict {
            Verdict::Holds(events) if self.dry_run => ("holds", "", &events[..]),
            Verdict::Holds(events) => ("published", "", &events[..]),
            Verdict::Rejected(why) => ("rejected", why.as_str(), &[][..]),
            Verdict::Failed(why) => ("failed", why.as_str(), &[][..]),
        };
        if self.json {
            let events = events.iter().map(|Published { id, topic, place }| {
                let (partition, offset) = place.unzip();
                json!({"id": id, "topic": topic, "partition": partition, "offset": offset})
            });
            return json!({
                "partition": partition,
                "offset": offset,
                "verdict": word,
                "why": why,
                "events": events.collect::<Vec<_>>(),
            })
            .to_string();
        }
        let events = events.iter().map(|Published { id, topic, place }| match place {
            Some((partition, offset)) => format!(" {id}@{topic}/{partition}/{offset}"),
            None => format!(" {id}@{topic}"),
        });
        let because = if why.is_empty() { String::new() } else { format!(": {why}") };
        format!("{partition}/{offset} {word}{because}{}", events.collect::<String>())
    }

    fn sum_up(&self, sum: &Sum) -> Result<ExitCode, Failure> {
        let Sum { published, rejected, failed } = sum;
        print(&match self.json {
            true => json!({"published": published, "rejected": rejected, "failed": failed,
                "dry_run": self.dry_run})
            .to_string(),
            false => {
                let held = if self.dry_run { "hold" } else { "published" };
                format!("{published} {held}, {rejected} still rejected, {failed} failed")
            }
        })?;
        Ok(if *failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Verdict {
    fn holds(records: &[Arc<Record>], places: &[Place]) -> Self {
        let places = places.iter().copied().map(Some).chain(std::iter::repeat(None));
        let published = records.iter().zip(places).map(|(record, place)| Published {
            id: record.id().unwrap_or_default().to_owned(),
            topic: record.topic.clone(),
            place,
        });
        Self::Holds(published.collect())
    }
}

/// The records of a copy, as if it came now; or why there are none.
fn records(copy: &Copy, settings: &Settings) -> Result<Vec<Arc<Record>>, String> {
    let name = copy.header("application");
    let application = settings
        .applications
        .get(&name)
        .ok_or_else(|| format!("there is no application `{name}` in the settings"))?;
    let sent = |wanted: &str| {
        let mut headers = copy.0.headers.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix(REQUEST_HEADER)?, value.as_slice()))
        });
        headers.find(|(name, _)| *name == wanted).map(|(_, value)| value)
    };
    let depth_max = settings.http.limits.body_depth_max;
    let webhook = Unverified::parse(&copy.0.value, depth_max).map_err(|error| error.to_string())?;
    let webhook =
        webhook.authenticate(&application.policy, sent).map_err(|error| error.to_string())?;
    Ok(Batch::new(&webhook, application, settings.kafka.event_format, copy.time()).records)
}

fn publish(publisher: &Publisher, records: &[Arc<Record>]) -> Verdict {
    let receipts = System::new().block_on(publisher.publish(records));
    let places: Result<Vec<_>, _> = receipts.into_iter().collect();
    match places {
        Ok(receipts) => {
            let places: Vec<_> =
                receipts.iter().map(|receipt| (receipt.partition, receipt.offset)).collect();
            Verdict::holds(records, &places)
        }
        Err(error) => Verdict::Failed(error.to_string()),
    }
}
