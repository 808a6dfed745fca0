//! Help, usage errors, completions, `check-config` and `schema`: what needs no Kafka.

use std::{collections::BTreeSet, process::Stdio};

use serde_json::{Value, json};

use super::process::{command, relay, relay_ends, run, variable};

/// Every command, with what it cannot do without.
const COMMANDS: [(&str, &[&str]); 13] = [
    ("serve", &[]),
    ("dev", &["--once", "--json", "--bootstrap-servers", "--listen", "--admin-listen"]),
    ("send", &["--sample", "--url", "--placement", "--header", "--unsigned", "--tamper", "--key"]),
    ("sign", &["--placement", "--embed", "--key", "--key-file", "--application"]),
    ("verify", &["--header", "--json", "--key", "--key-file", "--application"]),
    ("check-config", &["--print"]),
    ("topics", &["list", "create", "verify", "--json", "--bootstrap-servers"]),
    ("topics list", &["--json", "--bootstrap-servers"]),
    ("topics create", &["--json", "--bootstrap-servers"]),
    ("topics verify", &["--json", "--bootstrap-servers"]),
    ("tail", &["--from", "--key", "--json", "--stop-at-end", "--bootstrap-servers"]),
    ("schema", &[]),
    ("completions", &["bash", "zsh", "fish"]),
];

#[test]
fn every_command_has_help() {
    let overview = relay_ends(0, &["--help"], "").out;
    for (name, mentions) in COMMANDS {
        let mut arguments: Vec<_> = name.split(' ').collect();
        assert!(overview.contains(&format!("\n  {} ", arguments[0])), "{name} in {overview}");
        arguments.push("--help");
        let help = relay_ends(0, &arguments, "");
        assert_eq!(help.err, "");
        assert!(help.out.contains(&format!("Usage: clickpesa-relay {name}")), "{}", help.out);
        for mention in ["--config <FILE>"].iter().chain(mentions) {
            assert!(help.out.contains(mention), "{name}: {mention} in {}", help.out);
        }
    }
    assert_eq!(relay_ends(2, &[], "").out, "");
    let version = relay_ends(0, &["--version"], "").out;
    assert_eq!(version, concat!("clickpesa-relay ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn what_is_unknown_is_a_usage_error() {
    let cases: [(&[&str], &str); 13] = [
        (&["sreve"], "a similar subcommand exists: 'serve'"),
        (&["serve", "--port", "1"], "'--port'"),
        (&["dev", "--config", "relay.toml"], "`dev` has settings of its own"),
        (&["send"], "<BODY>"),
        (&["send", "--sample", "payment"], "payment.received"),
        (&["send", "body.json", "--sample", "payment.received"], "cannot be used with"),
        (&["send", "--sample", "payment.received", "--tamper", "--unsigned"], "cannot be used"),
        (&["sign", "--placement", "body"], "root"),
        (&["sign", "--key", "k", "--key-file", "f"], "cannot be used with"),
        (&["verify", "--header", "x-signature"], "there is no `:`"),
        (&["topics"], "list"),
        (&["tail", "--from", "middle"], "start"),
        (&["completions", "tcsh"], "bash"),
    ];
    for (arguments, words) in cases {
        let ended = relay_ends(2, arguments, "");
        assert!(ended.err.contains(words), "{words} in {}", ended.err);
        assert_eq!(ended.out, "", "{arguments:?}");
    }
}

/// The keys of a command that has none come from settings, which are wrong here.
#[test]
fn without_a_key_a_command_says_how_to_give_one() {
    for arguments in [&["sign"][..], &["verify"], &["send", "--sample", "payment.received"]] {
        let ended = relay_ends(78, arguments, "{}");
        let expected = "no key was given: `--key` or `--key-file` does without the settings";
        assert!(ended.err.contains("`applications` names no application"), "{}", ended.err);
        assert!(ended.err.contains(expected), "{}", ended.err);
        assert_eq!(ended.out, "");
    }
    let in_settings = |name: &str, value: &str, application: &str| {
        let mut command = relay(&["sign", "--application", application]);
        command.env(format!("CLICKPESA_RELAY__APPLICATIONS__SHOP__{name}"), value);
        run(&mut command, b"{}")
    };
    let signed = in_settings("CHECKSUM_KEYS__MAIN", "k", "shop");
    assert_eq!(signed.out, relay_ends(0, &["sign", "--key", "k"], "{}").out);
    let other = in_settings("CHECKSUM_KEYS__MAIN", "k", "default");
    assert_eq!((other.code, other.out.as_str()), (Some(2), ""));
    let expected = "no application `default` in the settings: there are shop";
    assert!(other.err.contains(expected), "{}", other.err);
    let unsigned = in_settings("AUTHENTICATION", "none", "shop");
    assert_eq!(unsigned.code, Some(2));
    assert!(unsigned.err.contains("`shop` has no checksum key: give `--key`"), "{}", unsigned.err);
}

// --- check-config -----------------------------------------------------------------------

#[test]
fn check_config_names_every_mistake() {
    let mut command = relay(&["check-config"]);
    command.env("CLICKPESA_RELAY__HTTP__WORKERS", "many");
    command.env("CLICKPESA_RELAY__KAFKA__PROPERTIES__ACKS", "0");
    command.env("CLICKPESA_RELAY__BOGUS", "1");
    let ended = run(&mut command, b"");
    assert_eq!((ended.code, ended.out.as_str()), (Some(78), ""));
    let lines: Vec<_> = ended.err.lines().collect();
    for key in ["http.workers", "kafka.properties.acks", "bogus", "applications"] {
        let begin = format!("error: `{key}` ");
        assert!(lines.iter().any(|line| line.starts_with(&begin)), "{key} in {lines:#?}");
    }
    assert_eq!(lines.len(), 4, "{lines:#?}");

    let ended = relay_ends(78, &["check-config", "--config", "/nowhere/relay.toml"], "");
    assert!(ended.err.contains("`/nowhere/relay.toml` cannot be read"), "{}", ended.err);
    // A command that takes no webhooks asks for the settings of Kafka only.
    for arguments in [&["tail", "--stop-at-end"][..], &["topics", "list"]] {
        let mut command = relay(arguments);
        command.env("CLICKPESA_RELAY__KAFKA__EVENT_FORMAT", "avro");
        let ended = run(&mut command, b"");
        assert_eq!((ended.code, ended.out.as_str()), (Some(78), ""));
        assert!(ended.err.starts_with("error: `kafka.event_format` is `avro` "), "{}", ended.err);
        assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
    }
    let mut command = relay(&["serve"]);
    let ended = run(&mut command, b"");
    assert_eq!(ended.code, Some(78));
    assert!(ended.err.contains("`applications` names no application"), "{}", ended.err);
}

#[test]
fn check_config_prints_what_is_in_force() {
    const SECRET: &str = "hunter2-Zq9";
    let mut command = relay(&["check-config"]);
    command.env("CLICKPESA_RELAY__APPLICATIONS__DEFAULT__CHECKSUM_KEYS__MAIN", SECRET);
    let ended = run(&mut command, b"");
    assert_eq!(ended.code, Some(0));
    assert_eq!((ended.out.as_str(), ended.err.as_str()), ("the settings can be used\n", ""));

    command.env("CLICKPESA_RELAY__KAFKA__PROPERTIES__SASL_PASSWORD", SECRET).arg("--print");
    let ended = run(&mut command, b"");
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    for line in [
        "http.listen = \"0.0.0.0:8080\"  # the defaults",
        "applications.default.placement = \"any\"  # the defaults",
        "applications.default.checksum_keys.main = \"***\"  # the environment",
        "kafka.properties.sasl.password = \"***\"  # the environment",
    ] {
        assert!(ended.out.lines().any(|printed| printed == line), "{line} in {}", ended.out);
    }
    assert!(!ended.out.contains(SECRET), "{}", ended.out);

    // What is wrong is printed too, and then named.
    command.env("CLICKPESA_RELAY__HTTP__WORKERS", "many");
    let ended = run(&mut command, b"");
    assert_eq!(ended.code, Some(78));
    assert!(ended.out.contains("http.workers = \"many\"  # the environment"), "{}", ended.out);
    assert!(ended.err.starts_with("error: `http.workers` is `many`"), "{}", ended.err);
}

/// A secret that is no UTF-8 cannot be used, and is not shown.
#[test]
fn a_variable_that_is_no_utf_8_is_named() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    let name = "CLICKPESA_RELAY__APPLICATIONS__DEFAULT__CHECKSUM_KEYS__MAIN";
    let mut command = relay(&["check-config"]);
    command.env(name, OsStr::from_bytes(b"hunter2\xff")).env("OTHERS", OsStr::from_bytes(b"\xff"));
    let ended = run(&mut command, b"");
    assert_eq!(ended.code, Some(78));
    assert_eq!(ended.err, format!("error: `{name}` is no UTF-8\n"));
}

// --- Completions ------------------------------------------------------------------------

#[test]
fn completions_name_every_command() {
    for shell in ["bash", "zsh", "fish"] {
        let script = relay_ends(0, &["completions", shell], "");
        assert_eq!(script.err, "");
        for (name, _) in COMMANDS {
            let last = name.rsplit(' ').next().unwrap_or(name);
            assert!(script.out.contains(last), "{name} for {shell}");
        }
    }
    let script = relay_ends(0, &["completions", "bash"], "").out;
    let checked = run(command("bash").arg("-n"), script.as_bytes());
    assert_eq!((checked.code, checked.err.as_str()), (Some(0), ""));
    // What bash offers behind `clickpesa-relay topics `.
    let ask = "function=$(complete -p clickpesa-relay | sed 's/.* -F \\([^ ]*\\).*/\\1/'); \
               COMP_WORDS=(clickpesa-relay topics ''); COMP_CWORD=2; \
               $function clickpesa-relay '' topics; echo \"${COMPREPLY[@]}\"";
    let offered = run(command("bash").arg("-c").arg(format!("{script}\n{ask}")), b"");
    assert_eq!(offered.err, "");
    let offered: BTreeSet<_> = offered.out.split_whitespace().collect();
    assert!(["list", "create", "verify"].iter().all(|act| offered.contains(act)), "{offered:?}");
}

/// Whoever pipes into `head` wants no complaint.
#[test]
fn a_reader_that_goes_away_is_no_failure() {
    for arguments in [&["completions", "bash"][..], &["schema"], &["check-config", "--print"]] {
        let mut command = relay(arguments);
        command.env("CLICKPESA_RELAY__APPLICATIONS__DEFAULT__CHECKSUM_KEYS__MAIN", "k");
        let (reader, writer) = std::io::pipe().expect("there are pipes");
        drop(reader);
        let child = command.stdout(writer).stderr(Stdio::piped()).spawn();
        let ended = child.and_then(std::process::Child::wait_with_output);
        let ended = ended.expect("it was started");
        let complaint = String::from_utf8_lossy(&ended.stderr);
        assert_eq!((ended.status.code(), complaint.as_ref()), (Some(0), ""), "{arguments:?}");
    }
}

// --- schema -----------------------------------------------------------------------------

/// What the Python package says of each document: null, or what is wrong.
fn validate(schema: &Value, documents: &[Value]) -> Vec<Value> {
    let program = "import json, sys\n\
                   from jsonschema import Draft202012Validator as Validator\n\
                   given = json.load(sys.stdin)\n\
                   Validator.check_schema(given['schema'])\n\
                   errors = Validator(given['schema']).iter_errors\n\
                   print(json.dumps([next((e.message for e in errors(d)), None)\n\
                   \x20                 for d in given['documents']]))\n";
    let input = json!({ "schema": schema, "documents": documents }).to_string();
    let python = variable("RELAY_TEST_PYTHON");
    let ended = run(command(&python).arg("-c").arg(program), input.as_bytes());
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    serde_json::from_str(&ended.out).expect("Python prints JSON")
}

#[test]
fn schema_describes_the_data_of_events() {
    let schema = relay_ends(0, &["schema"], "");
    assert_eq!(schema.err, "");
    let schema: Value = serde_json::from_str(&schema.out).expect("it is JSON");
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");

    let events = relay_ends(0, &["dev", "--once", "--json"], "").out;
    let data = |line: &str| {
        let record: Value = serde_json::from_str(line).expect("each line is JSON");
        record["value"]["data"].clone()
    };
    let documents: Vec<_> = events.lines().map(data).collect();
    assert_eq!(documents.len(), 8);
    // Every field of an event has to be described, or the schema says nothing of it.
    for document in &documents {
        for field in document.as_object().expect("data is an object").keys() {
            assert!(schema["properties"].get(field).is_some(), "{field} in {schema:#}");
        }
    }
    assert_eq!(validate(&schema, &documents), vec![Value::Null; 8]);

    // And it refuses what no event may be.
    let with = |field: &str, value: Value| {
        let mut document = documents[0].clone();
        document[field] = value;
        document
    };
    let wrong = [
        with("amount", json!(10_000)),
        with("customer", json!("Zuhura")),
        with("reason", json!("no such reason")),
        with("exchange", json!({ "rate": 2300.5 })),
        json!({ "amount": "1" }),
        json!([]),
    ];
    let said = validate(&schema, &wrong);
    assert!(said.iter().all(Value::is_string), "{said:#?}");
}
