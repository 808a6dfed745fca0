//! Shows a record as a line, for people or for programs.

use anstyle::{AnsiColor, Style};
use clickpesa_relay::kafka::reader::StoredRecord;
use serde_json::{Map, Value, json};

const TOPIC: Style = AnsiColor::Cyan.on_default();
const AMOUNT: Style = AnsiColor::Green.on_default().bold();
const FAINT: Style = Style::new().dimmed();

/// The record as one JSON object: its place, key, headers and value.
pub(super) fn as_json(record: &StoredRecord) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Map<String, Value> =
        record.headers.iter().map(|(name, value)| (name.clone(), text(value).into())).collect();
    let value: Value =
        serde_json::from_slice(&record.value).unwrap_or_else(|_raw| text(&record.value).into());
    json!({
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "key": text(&record.key),
        "headers": headers,
        "value": value,
    })
    .to_string()
}

/// The record as a line of topic, key, status, amount and id.
pub(super) fn as_line(record: &StoredRecord) -> String {
    let header = |wanted: &str| {
        let value = record.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        printable(&String::from_utf8_lossy(value.map_or(&[][..], Vec::as_slice)))
    };
    let value: Value = serde_json::from_slice(&record.value).unwrap_or_default();
    // In binary mode the value is the data itself.
    let data = value.get("specversion").and(value.get("data")).unwrap_or(&value);
    let field = |name: &str| printable(data[name].as_str().unwrap_or_default());
    let (topic, partition, offset) = (&record.topic, record.partition, record.offset);
    let key = printable(&String::from_utf8_lossy(&record.key));
    let amount = format!("{} {}", field("amount"), field("currency"));
    let (status, id) = (field("status"), header("ce_id"));
    format!(
        "{TOPIC}{topic:30}{TOPIC:#} {key:20} {status:9} {AMOUNT}{:>14}{AMOUNT:#}  \
         {FAINT}{id} {partition}/{offset}{FAINT:#}",
        amount.trim()
    )
}

/// A text from outside, without what could command a terminal; its lines stay.
pub(super) fn printable_lines(text: &str) -> String {
    text.split('\n').map(printable).collect::<Vec<_>>().join("\n")
}

/// A text from outside, without what could command a terminal.
pub(super) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}
