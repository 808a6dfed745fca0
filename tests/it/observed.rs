//! What an operator sees: metrics, liveness, readiness, the log.

use std::{
    net::SocketAddr,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use clickpesa_relay::{http::WEBHOOKS, kafka::embedded::EmbeddedBroker};
use jiff::Timestamp;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::Value;

use crate::harness::{
    App, Connection, KEY, PATIENCE, PAYER, PHONE, Process, Samples, Setup, ask, eventually, list,
    payment, provided, request, run, signed, signed_with,
};

static IS_CLOCK_BROKEN: AtomicBool = AtomicBool::new(false);

fn breakable_clock() -> Timestamp {
    assert!(!IS_CLOCK_BROKEN.load(Ordering::Acquire), "a bug, on purpose");
    Timestamp::now()
}

/// Every outcome with its reason, but for `draining`, which no open connection lives to see.
const ENDINGS: [(&str, &str); 19] = [
    ("published", ""),
    ("duplicate", ""),
    ("rejected", "empty"),
    ("rejected", "not_json"),
    ("rejected", "not_a_webhook"),
    ("rejected", "body_broken"),
    ("rejected", "checksum_missing"),
    ("rejected", "checksum_wrong"),
    ("rejected", "unknown_path"),
    ("rejected", "method_not_allowed"),
    ("rejected", "body_timeout"),
    ("rejected", "body_too_large"),
    ("rejected", "too_many_events"),
    ("rejected", "event_too_large"),
    ("failed", "bug"),
    ("failed", "busy"),
    ("failed", "kafka_refused"),
    ("failed", "kafka_down"),
    ("failed", "kafka_timeout"),
];

/// Makes every ending happen, and leaves Kafka silent; gives how many requests that took.
fn drive_every_ending(app: &App, broker: &EmbeddedBroker) -> usize {
    let good = signed(&payment("REF-1"));
    let post = |head: &str| format!("POST {WEBHOOKS} HTTP/1.1\r\nhost: relay\r\n{head}\r\n\r\n");
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    broker.mock().request_errors(RDKafkaApiKey::Produce, &[refused]);
    let mut count = 1;
    assert_eq!(app.post(&good).status, 503);
    eventually("the refusal is forgotten", || {
        count += 1;
        (app.post(&good).status == 200).then_some(())
    });
    let mut statuses = vec![
        app.post("").status,
        app.post("{").status,
        app.post("7").status,
        ask(app.http, post("transfer-encoding: chunked\r\n\r\nx").as_bytes()).status,
        app.post(payment("REF-1")).status,
        app.post(signed_with("another", &payment("REF-1"))).status,
        app.ask("POST", "/", &[], &good).status,
        app.ask("GET", WEBHOOKS, &[], b"").status,
        ask(app.http, post("content-length: 9").as_bytes()).status,
        ask(app.http, post("content-length: 99999999").as_bytes()).status,
        app.post(list(&[payment("REF-1"), payment("REF-2"), payment("REF-3")])).status,
    ];
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    broker.mock().request_errors(RDKafkaApiKey::Produce, &[too_large]);
    statuses.push(app.post_signed(&payment("REF-4")).status);
    IS_CLOCK_BROKEN.store(true, Ordering::Release);
    statuses.push(app.post(&good).status);
    IS_CLOCK_BROKEN.store(false, Ordering::Release);
    broker.mock().broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
    let mut waiting = app.send_signed(&payment("REF-5"));
    app.await_in_flight(1);
    let busy = app.post(&good).status;
    statuses.extend([busy, waiting.answer().status, app.post(&good).status]);
    let expected = [400, 400, 400, 400, 401, 401, 404, 405, 408, 413, 413, 413, 500, 503, 503, 200];
    assert_eq!(statuses, expected);
    count + statuses.len()
}

/// The one test whose clock breaks: the switch is shared by all tests.
#[test]
fn the_books_balance_over_every_ending() {
    let broker = EmbeddedBroker::start().unwrap();
    let app = Setup::on(&broker)
        .set("http.answer_within", "900ms")
        .set("http.body_within", "300ms")
        .set("http.events_max", "2")
        .set("http.in_flight_max", "1")
        .clock(breakable_clock)
        .spawn();
    let count = drive_every_ending(&app, &broker);
    let samples = app.samples();
    samples.assert_balanced();
    assert!(
        (samples.sum("received_total", &[]) - count as f64).abs() < 0.5,
        "{count} {samples:#?}"
    );
    let ended = ENDINGS.map(|(outcome, reason)| samples.ended(outcome, reason));
    for ((outcome, reason), ended) in ENDINGS.iter().zip(ended) {
        assert!(ended > 0.5, "{outcome} {reason}: {samples:#?}");
    }
    let all: f64 = ended.iter().sum();
    assert!((all - samples.sum("outcomes_total", &[])).abs() < 0.5, "another: {samples:#?}");
    for application in ["default", "<unknown>"] {
        let label = format!("application=\"{application}\"");
        let [received, ended] =
            ["received_total", "outcomes_total"].map(|name| samples.sum(name, &[&label]));
        assert!(received > 0.5 && (received - ended).abs() < 0.5, "{application}: {samples:#?}");
    }
    check_histograms(&samples);
}

fn check_histograms(samples: &Samples) {
    for outcome in ["published", "duplicate", "rejected", "failed"] {
        let label = format!("outcome=\"{outcome}\"");
        let ended = samples.sum("outcomes_total", &[&label]);
        let observed = samples.sum("answer_seconds_count", &[&label]);
        let in_buckets = samples.sum("answer_seconds_bucket", &[&label, "le=\"+Inf\""]);
        assert!((ended - observed).abs() < 0.5 && (ended - in_buckets).abs() < 0.5, "{samples:#?}");
        for bound in ["0.00025", "0.001", "0.01", "0.1", "1", "10"] {
            assert!(
                samples.has_series("answer_seconds_bucket", &[&label, &format!("le=\"{bound}\"")]),
                "{bound}"
            );
        }
        assert!(
            samples.sum("answer_seconds_bucket", &[&label, "le=\"10\""]) > ended - 0.5,
            "no answer takes longer"
        );
    }
    let published = samples.sum("outcomes_total", &["outcome=\"published\""]);
    assert!((samples.sum("publish_seconds_count", &[]) - published).abs() < 0.5);
    let copies = samples.sum("published_events_total", &["rejected\""]);
    let events = samples.sum("published_events_total", &["topic="]) - copies;
    assert!((events - published).abs() < 0.5);
}

#[test]
fn the_books_balance_for_each_application() {
    let app = Setup::new().set("applications.shop.checksum_keys.main", KEY).spawn();
    for count in 0..3 {
        app.post_to("shop", signed(&payment(&format!("REF-{count}"))));
    }
    app.post_to("shop", "{}");
    app.post_signed(&payment("REF-1"));
    let samples = app.samples();
    for (application, received, published) in [("shop", 4.0, 3.0), ("default", 1.0, 1.0)] {
        let label = format!("application=\"{application}\"");
        let sum = |name, more: &[&str]| samples.sum(name, &[&[&*label], more].concat());
        assert!((sum("received_total", &[]) - received).abs() < 0.5, "{samples:#?}");
        assert!((sum("outcomes_total", &[]) - received).abs() < 0.5, "{samples:#?}");
        assert!((sum("outcomes_total", &["outcome=\"published\""]) - published).abs() < 0.5);
    }
}

/// Sends a webhook over a connection with an answer that was never read, so that the system resets
/// it when it is dropped. (One that was merely closed may still be waiting for its answer.)
fn send_to_reset(address: SocketAddr) -> Connection {
    let mut connection = Connection::open(address);
    connection.send(&request("GET", WEBHOOKS, &[], b""));
    assert!(connection.is_answered(PATIENCE));
    connection.send(&request("POST", WEBHOOKS, &[], &signed(&payment("REF-1"))));
    connection
}

#[test]
fn a_sender_that_goes_away_is_in_the_books() {
    let broker = EmbeddedBroker::start().unwrap();
    let app = Setup::on(&broker).spawn();
    broker.mock().broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
    let connection = send_to_reset(app.http);
    app.await_in_flight(1);
    app.samples().assert_balanced();
    drop(connection);
    app.await_in_flight(0);
    let samples = app.samples();
    assert!((samples.ended("abandoned", "client_gone") - 1.0).abs() < 0.5, "{samples:#?}");
    samples.assert_balanced();
}

#[test]
fn promtool_is_content() {
    let app = App::spawn();
    app.post_signed(&payment("REF-1"));
    app.post("{}");
    let page = eventually("a round trip was measured", || {
        let page = app.get("/metrics").body;
        Samples::read(&page)
            .has_series("kafka_broker_round_trip_seconds", &["broker=\"1\""])
            .then_some(page)
    });
    run(Command::new(provided("RELAY_TEST_PROMTOOL")).args(["check", "metrics"]), &page);
}

#[test]
fn librdkafkas_own_numbers_are_there() {
    let broker = EmbeddedBroker::start().unwrap();
    let app = Setup::on(&broker).spawn();
    assert_eq!(app.post_signed(&payment("REF-0")).status, 200);
    eventually("the broker is up", || {
        (app.samples().sum("kafka_broker_up", &["broker=\"1\""]) > 0.5).then_some(())
    });
    assert!(app.samples().sum("kafka_queue_records", &[]) < 0.5);
    broker.mock().broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
    let _connection = app.send_signed(&payment("REF-1"));
    eventually("a record is queued", || {
        let samples = app.samples();
        let [records, bytes] =
            ["kafka_queue_records", "kafka_queue_bytes"].map(|name| samples.sum(name, &[]));
        (records > 0.5 && bytes > 500.0).then_some(())
    });
    drop(broker);
    eventually("the broker is down", || {
        let samples = app.samples();
        assert!(samples.has_series("kafka_broker_up", &["broker=\"1\""]));
        (samples.sum("kafka_broker_up", &["broker=\"1\""]) < 0.5).then_some(())
    });
}

#[test]
fn it_is_ready_while_kafka_is_there() {
    let broker = EmbeddedBroker::start().unwrap();
    let app = Setup::on(&broker).spawn();
    assert_eq!(app.get("/live").body, "live\n");
    assert_eq!(app.get("/ready").body, "ready\n");
    broker.mock().broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
    assert_eq!(app.await_ready(503), "not ready: Kafka does not take records\n");
    assert_eq!(app.get("/live").status, 200, "a restart would not help");
    broker.mock().broker_round_trip_time(-1, Duration::ZERO).unwrap();
    app.await_ready(200);
    assert_eq!(app.post_signed(&payment("REF-1")).status, 200);
    drop(broker);
    app.await_ready(503);
}

#[test]
fn the_admin_pages_are_not_on_the_public_port() {
    let app = App::spawn();
    for page in ["/metrics", "/live", "/ready"] {
        assert_eq!(app.ask("GET", page, &[], b"").status, 404, "{page}");
        assert_eq!(app.get(page).status, 200, "{page}");
    }
    assert_eq!(app.get(WEBHOOKS).status, 404);
    let content_type = app.get("/metrics").header("content-type").unwrap().to_owned();
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
}

#[test]
fn the_log_has_a_line_a_webhook_and_no_secret() {
    let process = Process::serve_ready(&Setup::new().set("log.level", "debug"));
    let address = process.address("http.listen");
    let post = |body: &[u8]| ask(address, &request("POST", WEBHOOKS, &[("x-secret", KEY)], body));
    let answer = post(&signed(&payment("REF-1")));
    let id = answer.ids().remove(0);
    let two = post(&list(&[payment("REF-2"), payment("REF-3")])).ids();
    post(b"");
    post(format!("{PAYER} {PHONE}").as_bytes());
    post(payment("REF-4").as_bytes());
    post(&signed_with("other", &payment("REF-5")));
    ask(address, &request("GET", &format!("/{PHONE}"), &[], b""));
    process.signal("TERM");
    process.await_line("the end", |line| line["message"] == "stopped");
    let lines = process.lines();
    let parsed: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let webhooks: Vec<_> = parsed.iter().filter(|line| line.get("outcome").is_some()).collect();
    let field = |name| webhooks.iter().map(|line| line[name].as_str().unwrap()).collect::<Vec<_>>();
    assert_eq!(
        field("outcome"),
        ["published", "published", "rejected", "rejected", "rejected", "rejected", "rejected"]
    );
    assert_eq!(
        field("reason")[2..],
        ["empty", "not_json", "checksum_missing", "checksum_wrong", "unknown_path"]
    );
    assert_eq!(field("level"), ["INFO", "INFO", "WARN", "WARN", "WARN", "WARN", "WARN"]);
    let statuses: Vec<_> = webhooks.iter().map(|line| line["status"].as_u64().unwrap()).collect();
    assert_eq!(statuses, [200, 200, 400, 400, 401, 401, 404]);
    let events = |index: usize| webhooks[index]["events"].as_str().unwrap();
    assert!(events(0).starts_with(&format!("{id}@")), "{}", events(0));
    assert!(two.iter().all(|id| events(1).contains(id)), "{}", events(1));
    for line in &lines {
        for secret in [PAYER, PHONE, KEY, "REF-", "1500.50", "checksumMethod", "collectedAmount"] {
            assert!(!line.contains(secret), "`{secret}` is in the log: {line}");
        }
    }
}

#[test]
fn an_abandoned_webhook_is_in_the_log() {
    let broker = EmbeddedBroker::start().unwrap();
    let process = Process::serve_ready(&Setup::on(&broker));
    broker.mock().broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
    let connection = send_to_reset(process.address("http.listen"));
    eventually("it is in flight", || (process.samples().sum("in_flight", &[]) > 0.5).then_some(()));
    drop(connection);
    let line = process.await_line("abandoned", |line| line["outcome"] == "abandoned");
    assert_eq!(line["application"], "default");
}
