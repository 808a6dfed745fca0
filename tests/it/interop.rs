//! What comes out of Kafka, as read by software that is not ours.

use std::{path::Path, process::Command};

use serde_json::{Map, Value, json};

use crate::harness::{App, PAYER, Setup, header, payment, provided, run, webhook};

/// A file beside the tests.
fn beside(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}

#[test]
fn kcat_reads_topic_key_headers_and_value() {
    let app = App::spawn();
    let id = &app.post_signed(&payment("REF-ü")).ids()[0];
    let (servers, topic) = (provided("RELAY_TEST_KAFKA"), app.topic("payment.received"));
    let output = run(
        Command::new("kcat")
            .args(["-C", "-e", "-q", "-J", "-o", "beginning"])
            .args(["-b", &servers, "-t", &topic]),
        "",
    );
    let record: Value = serde_json::from_str(&output).unwrap();
    assert_eq!(record["topic"], topic);
    assert_eq!(record["partition"], 0);
    assert_eq!(record["offset"], 0);
    assert_eq!(record["tstype"], "create");
    assert_eq!(record["key"], "REF-ü");
    // Names and values in turn.
    let headers: Vec<_> = record["headers"].as_array().unwrap().chunks(2).collect();
    assert_eq!(headers.len(), 11);
    assert_eq!(headers[0], ["content-type", "application/cloudevents+json; charset=UTF-8"]);
    assert!(headers.contains(&&[json!("ce_id"), json!(id)][..]), "{headers:?}");
    let event: Value = serde_json::from_str(record["payload"].as_str().unwrap()).unwrap();
    assert_eq!(event["id"], *id);
    assert_eq!(event["data"]["customer"]["name"], PAYER);
}

fn check_sdk(mode: &str) {
    let app = Setup::new().set("kafka.event_format", mode).spawn();
    let bodies = [
        payment("REF-ü"),
        webhook("PAYMENT FAILED", "REF-2", r#"\"quoted\" 😀"#),
        webhook("SOMETHING NEW", "REF-3", ""),
        r#"{"event":"PAYOUT REVERSED","data":{"amount":1e4,"updatedAt":"yesterday"}}"#.to_owned(),
    ];
    let mut input = String::new();
    let mut records = Vec::new();
    for body in &bodies {
        let event = app.post_signed(body).events()[0].clone();
        let record = app.record_at(&event);
        let headers: Map<String, Value> = record
            .headers
            .iter()
            .map(|(name, value)| (name.clone(), String::from_utf8_lossy(value).into()))
            .collect();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (key, value) = (text(&record.key), text(&record.value));
        let line = json!({ "mode": mode, "headers": headers, "key": key, "value": value });
        input += &format!("{line}\n");
        records.push((event, record));
    }
    let python = provided("RELAY_TEST_PYTHON");
    let output = run(Command::new(python).arg(beside("cloudevents_sdk.py")), &input);
    let read: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(read.len(), bodies.len());
    for (read, (event, record)) in read.iter().zip(&records) {
        assert_eq!(read["id"], event["id"]);
        assert_eq!(read["type"], event["type"]);
        let attributes = [
            "specversion",
            "id",
            "source",
            "type",
            "subject",
            "dataschema",
            "partitionkey",
            "receivedtime",
            "authentication",
        ];
        for name in attributes {
            assert_eq!(read[name], header(record, &format!("ce_{name}")), "{name}");
        }
        let time = |text: &str| text.parse::<jiff::Timestamp>().unwrap();
        assert_eq!(time(read["time"].as_str().unwrap()), time(header(record, "ce_time")));
        assert_eq!(read["datacontenttype"], "application/json");
        let value: Value = serde_json::from_slice(&record.value).unwrap();
        let data = if mode == "structured" { &value["data"] } else { &value };
        assert_eq!(read["data"], *data);
        assert!(data["original"].is_object());
    }
}

#[test]
fn the_cloudevents_sdk_reads_structured_mode() {
    check_sdk("structured");
}

#[test]
fn the_cloudevents_sdk_reads_binary_mode() {
    check_sdk("binary");
}

#[test]
fn kafkas_own_producer_chooses_the_same_partitions() {
    let app = Setup::new().set("kafka.topics.partitions", "7").spawn();
    let suffixes = ["", "-ü", "-日本語", "-😀", "-é"];
    let keys: Vec<_> =
        (0..100).map(|i| format!("REF-{i}{}", suffixes[i % suffixes.len()])).collect();
    let partition =
        |key: &String| app.post_signed(&payment(key)).events()[0]["partition"].to_string();
    let ours: Vec<_> = keys.iter().map(partition).collect();
    let libs = format!("{}/*", provided("RELAY_TEST_KAFKA_LIBS"));
    let java = run(
        Command::new("java").args(["-cp", &libs]).arg(beside("Murmur2.java")).arg("7"),
        &format!("{}\n", keys.join("\n")),
    );
    assert_eq!(java.lines().collect::<Vec<_>>(), ours);
    let distinct: std::collections::HashSet<_> = ours.iter().collect();
    assert_eq!(distinct.len(), 7, "keys in every partition");
}
