//! `rejected`: the copies of webhooks that were rejected; looked at, and published after all.

mod replay;

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Subcommand};
use clickpesa_relay::{
    config::Kafka,
    kafka::reader::{From, ReadError, Reader, StoredRecord},
};
use jiff::{Span, Timestamp};
use serde_json::{Value, json};

use self::replay::Replay;
use super::{
    Failure,
    connection::Connection,
    print,
    show::{printable, printable_lines},
};

/// How long one look for a record takes.
const LOOK: Duration = Duration::from_millis(100);

/// Members whose values say nothing of a person.
const IMPERSONAL: [&str; 22] = [
    "event",
    "eventType",
    "id",
    "paymentId",
    "transactionId",
    "orderReference",
    "paymentReference",
    "status",
    "collectedAmount",
    "collectedCurrency",
    "amount",
    "currency",
    "depositAmount",
    "depositCurrency",
    "fee",
    "channel",
    "channelProvider",
    "transferType",
    "createdAt",
    "updatedAt",
    "checksum",
    "checksumMethod",
];

/// Looks at the copies of rejected webhooks, and publishes those that hold after all.
#[derive(Debug, Args)]
pub(super) struct RejectedCommand {
    #[command(subcommand)]
    act: Act,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Act {
    /// Print which webhooks were rejected, without what is in them
    List {
        #[command(flatten)]
        filter: Filter,
        /// Print JSON, one object a line
        #[arg(long)]
        json: bool,
    },
    /// Print one, personal data masked
    Show {
        /// Where it stands: PARTITION/OFFSET, as `list` prints it
        #[arg(value_parser = parse_place)]
        place: Place,
        /// Print the body as it came, personal data and all
        #[arg(long)]
        reveal: bool,
        /// Print the bytes of the body and nothing else, for `verify`
        #[arg(long)]
        raw: bool,
    },
    /// Verify them again, with the keys in force now, and publish those that hold
    Replay(Replay),
}

/// Where a copy stands: partition and offset.
type Place = (i32, i64);

/// Which copies are meant: all that fit everything that is said.
#[derive(Debug, Args)]
struct Filter {
    /// Those that were rejected for this reason, such as `checksum_wrong`
    #[arg(long)]
    reason: Option<String>,
    /// Those that were sent to this application
    #[arg(long, value_name = "NAME")]
    of_application: Option<String>,
    /// Those that came then or later: 2026-01-05T09:30:00Z, or 2h for two hours ago
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    since: Option<Timestamp>,
    /// Those that came before then
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    until: Option<Timestamp>,
}

fn parse_place(written: &str) -> Result<Place, String> {
    let place = written
        .split_once('/')
        .and_then(|(partition, offset)| Some((partition.parse().ok()?, offset.parse().ok()?)));
    place.ok_or_else(|| "allowed is PARTITION/OFFSET, such as 0/12".to_owned())
}

fn parse_time(written: &str) -> Result<Timestamp, String> {
    let ago = || Timestamp::now().checked_sub(written.parse::<Span>().ok()?).ok();
    let time = written.parse().ok().or_else(ago);
    time.ok_or_else(|| "allowed is 2026-01-05T09:30:00Z, or a duration such as 2h".to_owned())
}

/// A copy of a rejected webhook.
struct Copy(StoredRecord);

impl RejectedCommand {
    pub(super) fn run(self, config: Option<&Path>) -> Result<ExitCode, Failure> {
        let kafka = self.connection.kafka(config)?;
        match &self.act {
            Act::List { filter, json } => {
                for copy in copies(&kafka)?.filter(|copy| fits(copy, filter)) {
                    print(&if *json { copy?.as_json().to_string() } else { copy?.as_line() })?;
                }
                Ok(ExitCode::SUCCESS)
            }
            Act::Show { place, reveal, raw } => {
                let is_it = |copy: &Result<Copy, _>| {
                    copy.as_ref().map_or(true, |copy| copy.place() == *place)
                };
                let (partition, offset) = place;
                match copies(&kafka)?.find(is_it) {
                    Some(copy) if *raw => {
                        io::stdout().write_all(&copy?.0.value)?;
                        Ok(ExitCode::SUCCESS)
                    }
                    Some(copy) => print(&copy?.whole(*reveal)),
                    None => {
                        Err(Failure::Failed(format!("there is no copy at {partition}/{offset}")))
                    }
                }
            }
            Act::Replay(replay) => replay.run(config, &kafka),
        }
    }
}

/// Every copy that there is, the oldest of each partition first.
fn copies(kafka: &Kafka) -> Result<impl Iterator<Item = Result<Copy, Failure>>, Failure> {
    let topic = kafka.topics.rejected.clone().ok_or_else(|| {
        Failure::Usage("there are no copies: `rejected.enabled` is false".to_owned())
    })?;
    let failed = |error: ReadError| Failure::Failed(error.to_string());
    let mut reader = Reader::open(&kafka.properties, &[topic], From::Start).map_err(failed)?;
    Ok(std::iter::from_fn(move || {
        while !reader.is_at_end() {
            match reader.next(LOOK) {
                Ok(None) => {}
                Ok(Some(record)) => return Some(Ok(Copy(record))),
                Err(error) => return Some(Err(failed(error))),
            }
        }
        None
    }))
}

fn fits(copy: &Result<Copy, Failure>, filter: &Filter) -> bool {
    // An error is for whoever reads on.
    let Ok(copy) = copy else { return true };
    let is = |wanted: &Option<String>, name| {
        wanted.as_ref().is_none_or(|wanted| copy.header(name) == *wanted)
    };
    let time = copy.time();
    is(&filter.reason, "reason")
        && is(&filter.of_application, "application")
        && filter.since.is_none_or(|since| since <= time)
        && filter.until.is_none_or(|until| time < until)
}

impl Copy {
    fn place(&self) -> Place {
        (self.0.partition, self.0.offset)
    }

    fn header(&self, wanted: &str) -> String {
        let mut headers = self.0.headers.iter().filter(|(name, _)| name == wanted);
        headers
            .next()
            .map_or_else(String::new, |(_, value)| String::from_utf8_lossy(value).into_owned())
    }

    /// When it came.
    fn time(&self) -> Timestamp {
        let stamp = Timestamp::from_millisecond(self.0.timestamp_ms.unwrap_or_default());
        self.header("time").parse().or(stamp).unwrap_or_default()
    }

    fn as_json(&self) -> Value {
        json!({
            "partition": self.0.partition,
            "offset": self.0.offset,
            "time": self.header("time"),
            "application": self.header("application"),
            "reason": self.header("reason"),
            "path": self.header("path"),
            "peer": self.header("peer"),
            "bytes": self.0.value.len(),
        })
    }

    fn as_line(&self) -> String {
        let [time, application, reason, peer] =
            ["time", "application", "reason", "peer"].map(|name| printable(&self.header(name)));
        let (partition, offset) = self.place();
        let (place, bytes) = (format!("{partition}/{offset}"), self.0.value.len());
        format!("{place:>8} {time} {application:12} {reason:16} {peer:15} {bytes} bytes")
    }

    /// All its headers, and its body.
    fn whole(&self, reveal: bool) -> String {
        let header = |(name, value): &(String, Vec<u8>)| {
            format!("{}: {}\n", printable(name), printable(&String::from_utf8_lossy(value)))
        };
        let headers: String = self.0.headers.iter().map(header).collect();
        let body = match serde_json::from_slice::<Value>(&self.0.value) {
            _ if reveal => printable_lines(&String::from_utf8_lossy(&self.0.value)),
            Ok(mut body) => {
                mask(&mut body);
                printable_lines(&format!("{body:#}"))
            }
            Err(_) => {
                let bytes = self.0.value.len();
                format!("{bytes} bytes that are no JSON; `--reveal` prints them")
            }
        };
        format!("{headers}\n{body}")
    }
}

/// Masks every value that may say something of a person.
fn mask(value: &mut Value) {
    match value {
        Value::Array(elements) => elements.iter_mut().for_each(mask),
        Value::Object(members) => {
            for (name, value) in members {
                let is_plain = !value.is_object() && !value.is_array();
                if !(is_plain && IMPERSONAL.contains(&name.as_str())) {
                    mask(value);
                }
            }
        }
        Value::String(_) | Value::Number(_) => *value = "***".into(),
        Value::Null | Value::Bool(_) => {}
    }
}
