//! `topics`, `serve` and `dev` with a real Kafka.

use std::{
    collections::BTreeSet,
    process::{self, Command},
    sync::atomic::{AtomicUsize, Ordering},
};

use serde_json::Value;

use super::process::{Ended, Running, Stream, relay, relay_ends, run, variable};

/// A prefix that no other test, and no earlier run, has.
fn prefix() -> String {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    format!("cli-{}-{}.", process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// The relay with topics of its own.
fn with_topics(prefix: &str, arguments: &[&str]) -> Command {
    let mut command = relay(arguments);
    command.env("CLICKPESA_RELAY__KAFKA__BOOTSTRAP_SERVERS", variable("RELAY_TEST_KAFKA"));
    command.env("CLICKPESA_RELAY__KAFKA__TOPICS__PREFIX", prefix);
    command.env("CLICKPESA_RELAY__KAFKA__TOPICS__PARTITIONS", "2");
    command
}

#[track_caller]
fn topics(prefix: &str, code: i32, arguments: &[&str]) -> Ended {
    let ended = run(&mut with_topics(prefix, &[&["topics"], arguments].concat()), b"");
    assert_eq!(ended.code, Some(code), "{ended:#?}");
    ended
}

/// The finding and the partitions of each topic, all of which have the prefix.
fn findings(prefix: &str, out: &str) -> Vec<(String, u64)> {
    let finding = |line: &str| {
        let state: Value = serde_json::from_str(line).expect("`--json` prints JSON");
        assert!(state["topic"].as_str().is_some_and(|name| name.starts_with(prefix)), "{state}");
        let finding = state["finding"].as_str().unwrap_or_default().to_owned();
        (finding, state["partitions"].as_u64().unwrap_or_default())
    };
    out.lines().map(finding).collect()
}

#[test]
fn topics_are_listed_made_and_verified() {
    let prefix = prefix();
    let all = |finding: &str, partitions| vec![(finding.to_owned(), partitions); 9];
    let json = |code, act| {
        let ended = topics(&prefix, code, &[act, "--json"]);
        (findings(&prefix, &ended.out), ended.err)
    };
    assert_eq!(json(0, "list"), (all("missing", 0), String::new()));
    let (found, complaint) = json(1, "verify");
    assert_eq!(found, all("missing", 0));
    assert!(complaint.starts_with("error: 9 of 9 topics missing; create them"), "{complaint}");
    let readable = topics(&prefix, 1, &["verify"]).out;
    assert!(readable.contains(&format!("missing  {prefix}payment.received\n")), "{readable}");

    assert_eq!(json(0, "create"), (all("created", 2), String::new()));
    assert_eq!(json(0, "create"), (all("exists", 2), String::new()));
    assert_eq!(json(0, "verify"), (all("exists", 2), String::new()));
    let readable = topics(&prefix, 0, &["list"]).out;
    assert_eq!(readable.lines().count(), 9);
    let line = format!("exists   {prefix}payment.received (2 partitions)\n");
    assert!(readable.contains(&line), "{readable}");
}

#[test]
fn the_flag_names_the_brokers() {
    let (servers, prefix) = (variable("RELAY_TEST_KAFKA"), prefix());
    for arguments in [
        ["topics", "list", "--bootstrap-servers", &servers],
        ["topics", "--bootstrap-servers", &servers, "list"],
    ] {
        let mut command = relay(&arguments);
        command.env("CLICKPESA_RELAY__KAFKA__TOPICS__PREFIX", &prefix);
        command.env("CLICKPESA_RELAY__KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1");
        let ended = run(&mut command, b"");
        assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
        assert_eq!(ended.out.matches(&format!("missing  {prefix}")).count(), 9, "{}", ended.out);
    }
}

#[test]
fn what_kafka_refuses_is_named() {
    let prefix = prefix();
    let mut command = with_topics(&prefix, &["topics", "create"]);
    command.env("CLICKPESA_RELAY__KAFKA__TOPICS__REPLICATION_FACTOR", "7");
    let ended = run(&mut command, b"");
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    let expected = [&format!("cannot create topic `{prefix}"), "InvalidReplicationFactor"];
    assert!(expected.iter().all(|words| ended.err.contains(*words)), "{}", ended.err);

    // No topic was made, so there is none to read.
    let ended = run(&mut with_topics(&prefix, &["tail", "payment.failed"]), b"");
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), ""));
    let expected = format!("error: cannot read topic `{prefix}payment.failed`: ");
    assert!(ended.err.starts_with(&expected), "{}", ended.err);

    let ended = relay_ends(1, &["topics", "list", "--bootstrap-servers", "127.0.0.1:1"], "");
    assert!(ended.err.contains("cannot reach Kafka to look at topic `"), "{}", ended.err);
    let ended = relay_ends(1, &["tail", "--bootstrap-servers", "127.0.0.1:1"], "");
    assert!(ended.err.contains("cannot read topic `clickpesa."), "{}", ended.err);
}

/// Only named applications, one of which takes its checksum from a header.
#[test]
fn serve_takes_what_send_sends() {
    let prefix = prefix();
    let application = "CLICKPESA_RELAY__APPLICATIONS__SHOP";
    let mut command = with_topics(&prefix, &["serve"]);
    command.env("CLICKPESA_RELAY__HTTP__LISTEN", "127.0.0.1:0");
    command.env("CLICKPESA_RELAY__ADMIN__LISTEN", "127.0.0.1:0");
    command.env("CLICKPESA_RELAY__LOG__FORMAT", "json");
    command.env(format!("{application}__CHECKSUM_KEYS__MAIN"), "1e5");
    command.env(format!("{application}__CHECKSUM_HEADERS__SIGNATURE"), "canonical");
    command.env(format!("{application}__PLACEMENT"), "header");
    let mut serve = Running::start(&mut command);
    let line = serve.until(Stream::Err, |line| line.contains("listening: http.listen"));
    let log: Value = serde_json::from_str(&line).expect("the log is JSON");
    let address = log["address"].as_str().expect("the log says where").to_owned();
    serve.until(Stream::Err, |line| line.contains("\"ready\""));

    let webhooks = format!("http://{address}/webhooks/clickpesa");
    let shop = format!("{webhooks}/shop");
    let send = |code, url: &str, arguments: &[&str]| {
        let base = ["send", "--sample", "payment.received", "--key", "1e5", "--url", url];
        let ended = relay_ends(code, &[&base[..], arguments].concat(), "");
        ended.out.split(' ').next().map(str::to_owned).unwrap_or_default()
    };
    let in_header = ["--placement", "header", "--header", "Signature"];
    assert_eq!(send(0, &shop, &in_header), "200");
    assert_eq!(send(1, &shop, &["--placement", "header"]), "401", "another header");
    assert_eq!(send(1, &shop, &["--placement", "root"]), "401", "the placement is pinned");
    let tampered = [&in_header[..], &["--tamper"]].concat();
    assert_eq!(send(1, &shop, &tampered), "401");
    assert_eq!(send(1, &webhooks, &in_header), "404", "there is no default application");

    let tail = ["tail", "--from", "start", "--stop-at-end", "--json"];
    let ended = run(&mut with_topics(&prefix, &tail), b"");
    let record: Value = serde_json::from_str(&ended.out).expect("one event, as JSON");
    assert_eq!(record["topic"], format!("{prefix}payment.received"));
    assert_eq!(record["value"]["source"], "/clickpesa/shop");

    serve.signal("TERM");
    let ended = serve.end();
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), ""), "{}", ended.err);
}

#[test]
fn dev_uses_a_kafka_that_is_there() {
    let servers = variable("RELAY_TEST_KAFKA");
    let arguments = ["dev", "--once", "--json", "--bootstrap-servers", &servers];
    let ended = relay_ends(0, &arguments, "");
    let event = |line: &str| {
        let record: Value = serde_json::from_str(line).expect("`--json` prints JSON");
        record["topic"].to_string()
    };
    let seen: BTreeSet<_> = ended.out.lines().map(event).collect();
    assert_eq!(seen.len(), 8, "{}", ended.out);
    assert!(ended.err.contains(&format!("{servers} (yours")), "{}", ended.err);
}
