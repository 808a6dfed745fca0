//! `dev`, and `send` and `tail` against it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    process::Stdio,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::process::{RELAY, Running, Stream, command, relay, relay_ends, run};

/// Under a second is what a release build promises; this one is not optimised, nor alone.
const FIRST_EVENT_WITHIN: Duration = Duration::from_secs(15);

const TYPES: [&str; 8] = [
    "checkout.completed",
    "deposit.received",
    "payment.failed",
    "payment.received",
    "payout.initiated",
    "payout.refunded",
    "payout.reversed",
    "unrecognized",
];

fn topics() -> BTreeSet<String> {
    TYPES.iter().map(|suffix| format!("clickpesa.{suffix}")).collect()
}

/// A `dev` that goes on, and where its parts are.
struct Dev {
    running: Running,
    webhooks: String,
    broker: String,
    /// The lines it prints to try.
    tries: Vec<String>,
}

impl Dev {
    fn start() -> Self {
        let mut running = Running::start(&mut relay(&["dev"]));
        let mut said = Vec::new();
        while !said.last().is_some_and(|line: &String| line.starts_with("Ctrl-C ends it")) {
            said.push(running.until(Stream::Err, |_| true));
        }
        let value = |name: &str| {
            let mut words = said.iter().map(|line| line.split_whitespace());
            let found =
                words.find_map(|mut words| (words.next() == Some(name)).then(|| words.next())?);
            found.unwrap_or_else(|| panic!("no {name} in {said:#?}")).to_owned()
        };
        let (webhooks, broker) = (value("webhooks"), value("Kafka"));
        let is_heading = |line: &String| line.starts_with("In another terminal:");
        let tries = said.iter().skip_while(|line| !is_heading(line)).skip(1);
        let tries = tries.filter(|line| line.starts_with("  "));
        let tries = tries.map(|line| line.trim().to_owned()).collect();
        Self { running, webhooks, broker, tries }
    }

    fn send(&self, code: i32, arguments: &[&str], input: &str) -> Value {
        let base = ["send", "--json", "--key", "dev-checksum-key", "--url", &self.webhooks];
        let ended = relay_ends(code, &[&base[..], arguments].concat(), input);
        assert_eq!(ended.err, "");
        serde_json::from_str(&ended.out).expect("`--json` prints JSON")
    }

    fn tail(&self, arguments: &[&str]) -> Vec<String> {
        let base = ["tail", "--bootstrap-servers", &self.broker, "--stop-at-end"];
        let ended = relay_ends(0, &[&base[..], arguments].concat(), "");
        assert_eq!(ended.err, "");
        ended.out.lines().map(str::to_owned).collect()
    }
}

#[test]
fn once_shows_one_event_of_each_type() {
    let started = Instant::now();
    let mut dev = Running::start(&mut relay(&["dev", "--once"]));
    dev.until(Stream::Out, |_| true);
    let took = started.elapsed();
    assert!(took < FIRST_EVENT_WITHIN, "the first event took {took:?}");
    let ended = dev.end();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    let shown: Vec<_> =
        ended.out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).collect();
    assert_eq!(shown.len(), 8, "{}", ended.out);
    let shown_topics: BTreeSet<_> = shown.iter().map(|words| words[0].to_owned()).collect();
    assert_eq!(shown_topics, topics());
    let paid = shown.iter().find(|words| words[0] == "clickpesa.payment.received");
    let paid = paid.expect("every type is there");
    assert_eq!(paid[1..5], ["SHULE48213", "SUCCESS", "35280", "TZS"]);
    assert!(paid[5].len() == 32 && paid[5].bytes().all(|b| b.is_ascii_hexdigit()), "{paid:?}");
    // No colours where nobody sees them, and the introduction beside the output.
    assert!(!ended.out.contains('\u{1b}') && !ended.err.contains('\u{1b}'));
    assert!(ended.err.contains("an embedded toy, in memory"), "{}", ended.err);
    assert!(!ended.err.contains("In another terminal"), "it has ended: {}", ended.err);
}

#[test]
fn once_speaks_json() {
    let out = relay_ends(0, &["dev", "--once", "--json"], "").out;
    let records: Vec<Value> =
        out.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    let by_topic: BTreeMap<_, _> =
        records.iter().map(|record| (record["topic"].as_str().unwrap_or("none"), record)).collect();
    assert_eq!(records.len(), 8);
    assert_eq!(by_topic.keys().map(ToString::to_string).collect::<BTreeSet<_>>(), topics());
    for (topic, record) in by_topic {
        let event = &record["value"];
        assert_eq!(event["type"], format!("com.{topic}"));
        assert_eq!(record["key"], event["partitionkey"]);
        assert_eq!(record["headers"]["ce_id"], event["id"]);
        assert!(record["partition"].is_u64() && record["offset"].is_u64(), "{record}");
        assert!(record["timestamp"].as_i64().is_some_and(|ms| ms > 1_700_000_000_000), "{record}");
    }
}

/// It posts to itself, which no proxy can.
#[test]
fn proxies_are_not_asked() {
    let mut command = relay(&["dev", "--once"]);
    for name in ["http_proxy", "HTTP_PROXY", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:1");
    }
    let ended = run(&mut command, b"");
    assert_eq!((ended.code, ended.out.lines().count()), (Some(0), 8), "{ended:#?}");
}

#[test]
fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| {
        let address = port.local_addr()?;
        Ok((port, address.to_string()))
    });
    let (_port, address) = taken.expect("there are free ports");
    for (flag, key) in [("--listen", "http.listen"), ("--admin-listen", "admin.listen")] {
        let ended = relay_ends(1, &["dev", "--once", flag, &address], "");
        let expected = format!("cannot listen on {address} (`{key}`): Address already in use");
        assert!(ended.err.contains(&expected), "{}", ended.err);
    }
}

/// Each line under “In another terminal”, as it is written.
#[test]
fn what_it_says_to_try_works() {
    let dev = Dev::start();
    let shell = |line: &str| {
        let mut shell = command("bash");
        shell.args(["-o", "pipefail", "-c", line]);
        shell
    };
    let begins: Vec<_> =
        dev.tries.iter().map(|line| line.strip_prefix(RELAY).unwrap_or(line).trim()).collect();
    let expected = ["send", "send", "echo", "tail", "kcat", "curl"];
    let first_words: Vec<_> = begins.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(first_words, expected, "{:#?}", dev.tries);
    let [send, tamper, sign, tail, kcat, curl] = dev.tries.as_slice() else {
        panic!("{:#?}", dev.tries);
    };

    let sent = run(&mut shell(send), b"");
    assert_eq!(sent.code, Some(0), "{sent:#?}");
    assert!(sent.out.starts_with("200 {") && sent.out.contains("\"published\""), "{}", sent.out);
    let refused = run(&mut shell(tamper), b"");
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(refused.out.starts_with("401 {"), "{}", refused.out);
    let signed = run(&mut shell(sign), b"");
    assert_eq!(signed.code, Some(0), "{signed:#?}");
    assert!(signed.out.contains("\"published\"") && signed.out.contains("payment.failed"));

    // The eight samples, and the two of above.
    let mut tail = Running::start(&mut shell(&format!("exec {tail}")));
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        let line = tail.until(Stream::Out, |_| true);
        seen.extend(line.split_whitespace().next().map(str::to_owned));
    }
    assert_eq!(seen, topics());
    let read = run(&mut shell(kcat), b"");
    assert_eq!(read.code, Some(0), "{read:#?}");
    // Not a line each: `original` is as it was received, with its line breaks.
    let events = serde_json::Deserializer::from_str(&read.out).into_iter::<Value>();
    let ids: Vec<_> =
        events.map(|event| event.expect("kcat prints the values")["id"].to_string()).collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "sent twice, the same id: {ids:?}");
    let metrics = run(&mut shell(curl), b"");
    assert_eq!(metrics.code, Some(0), "{metrics:#?}");
    let expected = ["outcome=\"published\"", "outcome=\"rejected\""];
    assert!(expected.iter().all(|label| metrics.out.contains(label)), "{}", metrics.out);

    dev.running.signal("INT");
    let ended = dev.running.end();
    assert_eq!(ended.code, Some(0), "{ended:#?}");
    assert_eq!(ended.out.lines().count(), 10, "all were printed as they came: {}", ended.out);
}

#[test]
fn send() {
    let dev = Dev::start();
    let body = r#"{"event":"PAYMENT FAILED","data":{"id":"S1","status":"FAILED"}}"#;
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli-send-body.json");
    std::fs::write(&path, body).expect("Cargo made the directory");
    let path = path.to_str().expect("Cargo's names are UTF-8");
    let ids: BTreeSet<_> = [
        dev.send(0, &[path], ""),
        dev.send(0, &["-"], body),
        dev.send(0, &["-", "--placement", "data"], body),
    ]
    .map(|sent| {
        assert_eq!(
            (&sent["status"], &sent["answer"]["status"]),
            (&json!(200), &json!("published"))
        );
        assert_eq!(sent["answer"]["events"][0]["topic"], "clickpesa.payment.failed");
        sent["answer"]["events"][0]["id"].to_string()
    })
    .into();
    assert_eq!(ids.len(), 1, "one webhook, however it was signed");
    for name in TYPES {
        let sent = dev.send(0, &["--sample", name], "");
        assert_eq!(sent["answer"]["events"][0]["topic"], format!("clickpesa.{name}"));
    }
    for (status, arguments) in [
        (401, &["-", "--tamper"][..]),
        (401, &["-", "--tamper", "--placement", "data"]),
        (401, &["-", "--unsigned"]),
        // The application of `dev` looks at no header.
        (401, &["-", "--placement", "header"]),
    ] {
        let sent = dev.send(1, arguments, body);
        assert_eq!(sent["status"], status, "{arguments:?}: {sent}");
        assert!(sent["answer"]["type"].is_string(), "a problem: {sent}");
    }
}

#[test]
fn what_cannot_be_sent_is_named() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|port| port.local_addr());
    let nobody = format!("http://{}/webhooks/clickpesa", free.expect("there are free ports"));
    for (url, words) in [(nobody.as_str(), "Connection refused"), ("relay", "missing scheme")] {
        let base = ["send", "--sample", "payment.received", "--key", "k", "--url", url];
        let ended = relay_ends(1, &base, "");
        let expected = format!("error: cannot post to {url}: ");
        assert!(ended.err.starts_with(&expected), "{}", ended.err);
        assert!(ended.err.contains(words) && ended.err.contains("`--url`"), "{}", ended.err);
        assert_eq!(ended.out, "");
    }
    let tamper = ["send", "-", "--key", "k", "--placement", "header", "--tamper"];
    let ended = relay_ends(1, &tamper, "{\"a\":\"b\"}");
    assert!(ended.err.contains("cannot tamper with a body without a digit"), "{}", ended.err);
    let ended = relay_ends(1, &["send", "/nowhere/body.json", "--key", "k"], "");
    assert!(ended.err.contains("cannot read `/nowhere/body.json`"), "{}", ended.err);
}

#[test]
fn tail() {
    let dev = Dev::start();
    let all = dev.tail(&["--from", "start"]);
    let shown: BTreeSet<_> =
        all.iter().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert_eq!((all.len(), shown), (8, topics()));
    assert_eq!(dev.tail(&[]), [""; 0], "from the end there is nothing yet");

    let payouts = dev.tail(&["payout.initiated", "payout.reversed", "--from", "start"]);
    assert_eq!(payouts.len(), 2, "{payouts:?}");
    let of_key = dev.tail(&["--from", "start", "--key", "MSHAHARA0526001", "--json"]);
    let of_key: BTreeSet<_> = of_key
        .iter()
        .map(|line| {
            let record: Value = serde_json::from_str(line).expect("`--json` prints JSON");
            assert_eq!(record["key"], "MSHAHARA0526001");
            record["value"]["data"]["status"].to_string()
        })
        .collect();
    let expected = ["\"REFUNDED\"", "\"REVERSED\"", "\"SUCCESS\""];
    assert_eq!(of_key, expected.map(str::to_owned).into());
    assert_eq!(dev.tail(&["--from", "start", "--key", "nobody"]), [""; 0]);

    // What comes later is shown as it comes.
    let follow = ["tail", "payment.failed", "--bootstrap-servers", &dev.broker, "--from", "start"];
    let mut following = Running::start(&mut relay(&follow));
    following.until(Stream::Out, |line| line.contains("0969231256"));
    dev.send(0, &["-"], r#"{"event":"PAYMENT FAILED","data":{"id":"LATE"}}"#);
    following.until(Stream::Out, |line| line.contains(" LATE "));
}

#[test]
fn an_unknown_type_is_a_usage_error() {
    let ended = relay_ends(2, &["tail", "payment.recieved"], "");
    let known = TYPES.join(", ");
    assert_eq!(ended.err, format!("error: no type `payment.recieved`: there are {known}\n"));
    let mut with_all = relay(&["tail", "payments"]);
    with_all.env("CLICKPESA_RELAY__KAFKA__TOPICS__ALL", "true");
    let ended = run(&mut with_all, b"");
    assert_eq!(ended.code, Some(2));
    assert!(ended.err.ends_with(&format!("there are all, {known}\n")), "{}", ended.err);
}

/// As `tail | head -1`: the next line has no reader.
#[test]
fn tail_ends_quietly_when_its_reader_does() {
    let dev = Dev::start();
    let follow = ["tail", "payment.failed", "--bootstrap-servers", &dev.broker, "--from", "start"];
    let mut tail = relay(&follow);
    let tail = tail.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut tail = tail.spawn().expect("it was built");
    let mut line = String::new();
    let out = tail.stdout.take().expect("it is piped");
    BufReader::new(out).read_line(&mut line).expect("there is an event");
    assert!(line.contains("0969231256"), "{line}");
    dev.send(0, &["--sample", "payment.failed"], "");
    let ended = tail.wait_with_output().expect("it was started");
    let complaint = String::from_utf8_lossy(&ended.stderr);
    assert_eq!((ended.status.code(), complaint.as_ref()), (Some(0), ""));
}
