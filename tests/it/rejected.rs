//! Copies of what was rejected: what is in them, when there are none, and what becomes of them.

use std::{
    fs,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use clickpesa_relay::{http::WEBHOOKS, kafka::embedded::EmbeddedBroker};
use serde_json::Value;

use crate::harness::{
    App, KEY, PAYER, PHONE, Process, Setup, ask, eventually, header, payment, request, signed,
    signed_with, unique,
};

/// The copies, once there are that many.
#[track_caller]
fn copies(app: &App, count: usize) -> Vec<clickpesa_relay::kafka::reader::StoredRecord> {
    eventually(&format!("{count} copies"), || {
        let copies = app.records("rejected");
        assert!(copies.len() <= count, "{copies:?}");
        (copies.len() == count).then_some(copies)
    })
}

fn dropped(app: &App, why: &str) -> f64 {
    app.samples().sum("rejected_dropped_total", &[&format!("why=\"{why}\"")])
}

#[test]
fn what_is_rejected_is_kept_byte_for_byte() {
    let app = Setup::new()
        .set("applications.shop.checksum_keys.main", "other")
        .set("applications.shop.checksum_headers.my-checksum", "raw")
        .set("http.trusted_proxies", "127.0.0.1")
        .spawn();
    let wrong = signed_with("wrong", &payment("REF-1"));
    let before = jiff::Timestamp::now();
    assert_eq!(app.post(&wrong).status, 401);
    assert_eq!(app.post(b"\xff\x00 not JSON").status, 400);
    let headers = [
        ("my-checksum", "abc"),
        ("x-clickpesa-signature", "def"),
        ("authorization", "Bearer secret"),
        ("x-forwarded-for", "192.0.2.7"),
    ];
    let path = format!("{WEBHOOKS}/shop?token=secret");
    assert_eq!(app.ask("POST", &path, &headers, b"{}").status, 401);
    // These are not copied: nobody knows for whom they are, or there is nothing in them.
    assert_eq!(app.post_to("nobody", b"{}").status, 404);
    assert_eq!(app.post(b"").status, 400);
    assert_eq!(app.post_signed(&payment("REF-2")).status, 200);

    let copies = copies(&app, 3);
    let reasons: Vec<_> = copies.iter().map(|copy| header(copy, "reason")).collect();
    assert_eq!(reasons, ["checksum_wrong", "not_json", "checksum_wrong"]);
    assert_eq!(copies[0].value, wrong);
    assert_eq!(copies[1].value, b"\xff\x00 not JSON");
    for (copy, application) in copies.iter().zip(["default", "default", "shop"]) {
        assert_eq!(header(copy, "application"), application);
        assert_eq!(copy.key, application.as_bytes());
        let time: jiff::Timestamp = header(copy, "time").parse().unwrap();
        assert!(time.as_millisecond() >= before.as_millisecond(), "{time}");
        assert_eq!(copy.timestamp_ms, Some(time.as_millisecond()));
    }
    assert_eq!(header(&copies[0], "path"), WEBHOOKS);
    assert_eq!(header(&copies[0], "peer"), "127.0.0.1");
    let names: Vec<_> = copies[2].headers.iter().map(|(name, _)| name.as_str()).collect();
    let own = ["reason", "application", "path", "peer", "time"];
    assert_eq!(names, [&own[..], &["header.my-checksum", "header.x-clickpesa-signature"]].concat());
    assert_eq!(header(&copies[2], "path"), format!("{WEBHOOKS}/shop"), "without its query");
    assert_eq!(header(&copies[2], "peer"), "192.0.2.7");
    assert_eq!(dropped(&app, "empty"), 1.0);
}

#[test]
fn copies_are_bounded_by_rate_and_by_size() {
    let app =
        Setup::new().set("rejected.per_second", "1").set("rejected.max_bytes", "1000").spawn();
    let mut large = b"{\"a\":\"".to_vec();
    large.extend(vec![b'x'; 1000]);
    large.extend(b"\"}");
    assert_eq!(app.post(&large).status, 401);
    assert_eq!(dropped(&app, "too_large"), 1.0);
    let started = Instant::now();
    for _ in 0..30 {
        assert_eq!(app.post(b"{}").status, 401);
    }
    // Ten at once, and one more in each second since.
    let seconds = started.elapsed().as_secs_f64() + 1.0;
    let (too_fast, copied) = (dropped(&app, "too_fast"), app.records("rejected").len() as f64);
    assert!((30.0 - 10.0 - seconds..=20.0).contains(&too_fast), "{too_fast}");
    assert!(copied <= 30.0 - too_fast, "{copied}, {too_fast}");
    eventually("all others are there", || {
        (app.records("rejected").len() as f64 == 30.0 - too_fast).then_some(())
    });
}

#[test]
fn copies_are_never_in_the_way_of_an_answer() {
    let broker = EmbeddedBroker::start().unwrap();
    let app = Setup::on(&broker).set("rejected.per_second", "1000").spawn();
    // Kafka takes its time.
    broker.mock().broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
    let mut slowest = Duration::ZERO;
    for _ in 0..300 {
        let started = Instant::now();
        assert_eq!(app.post(b"{}").status, 401);
        slowest = slowest.max(started.elapsed());
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert!(dropped(&app, "kafka_slow") > 200.0, "{:?}", app.samples());
    assert!(app.samples().sum("kafka_queue_records", &[]) <= 64.0);
}

#[test]
fn without_copies_there_is_no_topic_for_them() {
    let app = Setup::new().set("rejected.enabled", "false").spawn();
    assert!(!app.topics.wanted.contains_key(&app.topic("rejected")));
    assert_eq!(app.post(b"{}").status, 401);
    assert_eq!(app.samples().sum("rejected_dropped_total", &[]), 0.0);
}

// --- The command line -----------------------------------------------------------------

/// The settings of a relay and of the commands beside it: a file with its key.
struct Operator {
    setup: Setup,
    key_file: String,
}

impl Operator {
    fn new(key: &str) -> Self {
        let key_file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}key", unique()));
        fs::write(&key_file, key).unwrap();
        let key_file = key_file.to_str().unwrap().to_owned();
        let setup = Setup::new()
            .without("applications.default.checksum_keys.main")
            .set("applications.default.checksum_key_files.main", &key_file)
            .set("applications.shop.checksum_keys.main", KEY);
        Self { setup, key_file }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_clickpesa-relay"))
            .arg("rejected")
            .args(arguments)
            .env_clear()
            .envs(self.setup.environment())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    #[track_caller]
    fn lines(&self, arguments: &[&str]) -> Vec<String> {
        let output = self.run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let lines = self.lines(&[arguments, &["--json"]].concat());
        lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[test]
fn a_key_is_mended_and_what_was_rejected_is_published() {
    // The key was copied wrongly.
    let operator = Operator::new("mistyped");
    let process = Process::serve_ready(&operator.setup.clone());
    let post = |application: &str, body: &[u8]| {
        let path = format!("{WEBHOOKS}{application}");
        ask(process.address("http.listen"), &request("POST", &path, &[], body)).status
    };
    let bodies: Vec<_> = (0..3).map(|n| signed(&payment(&format!("REF-{n}")))).collect();
    for body in &bodies {
        assert_eq!(post("", body), 401);
    }
    assert_eq!(post("/shop", &signed_with("forged", &payment("REF-F"))), 401);
    assert_eq!(post("", b"no JSON"), 400);
    eventually("five copies", || (operator.json(&["list"]).len() == 5).then_some(()));

    // Looked for.
    let of = |arguments: &[&str]| operator.json(&[&["list"], arguments].concat()).len();
    assert_eq!(of(&["--reason", "checksum_wrong"]), 4);
    assert_eq!(of(&["--of-application", "shop"]), 1);
    assert_eq!(of(&["--reason", "checksum_wrong", "--of-application", "default"]), 3);
    assert_eq!((of(&["--since", "1h"]), of(&["--until", "1h"])), (5, 0));
    assert_eq!(of(&["--since", "2999-01-01T00:00:00Z"]), 0);
    let listed = operator.lines(&["list"]);
    assert_eq!(listed.len(), 5);
    assert!(
        listed.iter().all(|line| !line.contains("REF-") && !line.contains(PAYER)),
        "{listed:?}"
    );

    // Shown, personal data only if asked for.
    let place = |line: &Value| format!("{}/{}", line["partition"], line["offset"]);
    let places: Vec<_> = operator.json(&["list"]).iter().map(place).collect();
    let masked = operator.lines(&["show", &places[0]]).join("\n");
    assert!(masked.contains("reason: checksum_wrong") && masked.contains("REF-0"), "{masked}");
    assert!(masked.contains("\"customerName\": \"***\""), "{masked}");
    assert!(!masked.contains(PAYER) && !masked.contains(PHONE), "{masked}");
    let revealed = operator.lines(&["show", &places[0], "--reveal"]).join("\n");
    assert!(revealed.contains(&String::from_utf8_lossy(&bodies[0]).into_owned()), "{revealed}");
    assert_eq!(operator.run(&["show", &places[0], "--raw"]).stdout, bodies[0]);
    let last = operator.lines(&["show", &places[4]]).join("\n");
    assert!(last.contains("7 bytes that are no JSON"), "{last}");

    // Replayed with the wrong key still, and then with the right one.
    let sum = |lines: Vec<Value>| {
        let sum = lines.last().unwrap().clone();
        ["published", "rejected", "failed"].map(|word| sum[word].as_u64().unwrap())
    };
    assert_eq!(sum(operator.json(&["replay"])), [0, 5, 0]);
    fs::write(&operator.key_file, KEY).unwrap();
    let dry = operator.json(&["replay", "--dry-run"]);
    assert_eq!(sum(dry.clone()), [3, 2, 0]);
    let topic = operator.setup.topic("payment.received");
    let properties = operator.setup.settings().kafka.properties;
    let stored = || crate::harness::read_all(&properties, std::slice::from_ref(&topic));
    assert_eq!(stored(), []);
    let first = operator.json(&["replay", &places[1]]);
    assert_eq!(sum(first), [1, 0, 0]);
    let all = operator.lines(&["replay", "--of-application", "default"]);
    assert_eq!(all.last().unwrap(), "3 published, 1 still rejected, 0 failed");
    assert_eq!(all.iter().filter(|line| line.contains(" published ")).count(), 3);
    assert!(all.iter().any(|line| line.contains("rejected: the body is not JSON")), "{all:?}");

    // The same ids, each time, and those that the relay itself would have given.
    eventually("the relay has the key too", || (post("", &bodies[0]) == 200).then_some(()));
    let ids: Vec<_> = stored().iter().map(|record| header(record, "ce_id").to_owned()).collect();
    assert_eq!(ids.len(), 5);
    assert_eq!(ids.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
    let dry_ids = dry.iter().filter_map(|line| line["events"][0]["id"].as_str());
    assert!(dry_ids.clone().count() == 3 && dry_ids.clone().all(|id| ids.iter().any(|i| i == id)));
    let received = stored().into_iter().next().unwrap();
    let event: Value = serde_json::from_slice(&received.value).unwrap();
    assert!(event["receivedtime"].as_str().unwrap().starts_with("20"), "when it came first");
}

#[test]
fn what_cannot_be_shown_is_said() {
    let operator = Operator::new(KEY);
    let _process = Process::serve_ready(&operator.setup.clone());
    let output = operator.run(&["show", "0/7"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no copy at 0/7"));
    for (arguments, words) in [
        (&["show", "first"][..], "PARTITION/OFFSET"),
        (&["list", "--since", "yesterday"], "a duration such as 2h"),
        (&["replay", "1-2"], "PARTITION/OFFSET"),
    ] {
        let output = operator.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{arguments:?}");
    }
    let mut without = operator;
    without.setup = without.setup.set("rejected.enabled", "false");
    let output = without.run(&["list"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("`rejected.enabled` is false"));
}
