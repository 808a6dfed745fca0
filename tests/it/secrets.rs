//! What the relay prints, shows and answers has no key, no body and no personal data in it: at the
//! loudest level, whatever fails.

use std::{fs, net::Shutdown, process::Command, time::Duration};

use clickpesa_relay::{http::WEBHOOKS, kafka::embedded::EmbeddedBroker};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::harness::{
    Answer, Connection, Directory, KEY, PAYER, PHONE, Process, Setup, ask, eventually, list,
    payment, request, signed, signed_with,
};

/// The checksum key from a file, as it is and as it becomes.
const KEYS: [&str; 2] = ["key-7Qz-before", "key-7Qz-after"];

/// The password of a broker that asks for none.
const PASSWORD: &str = "password-7Qz";

/// All of what must never be seen, and words of bodies that no line of ours has.
const SECRETS: [&str; 10] = [
    KEY,
    KEYS[0],
    KEYS[1],
    PASSWORD,
    PAYER,
    PHONE,
    "REF-7Qz",
    "1500.50",
    "collectedAmount",
    "customerPhoneNumber",
];

#[track_caller]
fn assert_clean(whose: &str, text: &str) {
    for secret in SECRETS {
        let at = text.find(secret);
        let around = at.map(|at| &text.as_bytes()[at.saturating_sub(300)..at]);
        assert_eq!(at, None, "{secret} is in {whose}: {}", around.unwrap().escape_ascii());
    }
}

/// A webhook that must not be seen.
fn secret_payment(number: usize) -> String {
    payment(&format!("REF-7Qz-{number}"))
}

fn setup(directory: &Directory, broker: &EmbeddedBroker) -> Setup {
    directory.put("key", KEYS[0]);
    Setup::on(broker)
        .set("log.level", "trace,actix_http=trace")
        .set("kafka.properties.debug", "all")
        .set("kafka.properties.sasl_password", PASSWORD)
        .set("applications.default.checksum_key_files.file", &directory.path("key"))
        .set("applications.default.checksum_headers.x-my-checksum", "raw")
        .set("http.body_within", "300ms")
        .set("http.events_max", "2")
        .set("http.body_max_bytes", "20000")
        .set("delivery.patience", "300ms")
}

/// Sends what is taken, what is refused and what breaks off, and gives the answers.
fn drive(process: &Process, from: usize) -> Vec<Answer> {
    let address = process.address("http.listen");
    let body = |number: usize| secret_payment(from + number);
    let good = signed(&body(0));
    let post = |headers: &[(&str, &str)], body: &[u8]| request("POST", WEBHOOKS, headers, body);
    let path = |path: &str| format!("{WEBHOOKS}/{path}");
    let cut = post(&[], &good);
    let requests = [
        post(&[("x-my-checksum", KEY), ("authorization", PASSWORD)], &good),
        post(&[], &good),
        post(&[], &list(&[body(1), body(2)])),
        post(&[], &list(&[body(1), body(2), body(3)])),
        post(&[], body(4).as_bytes()),
        post(&[], &signed_with(KEYS[1], &body(5))),
        post(&[("content-encoding", PHONE)], &good),
        post(&[("upgrade", "websocket")], &good),
        post(&[], &[&good[..], PHONE.as_bytes()].concat()),
        post(&[], format!("\"{PAYER} {PHONE}\"").as_bytes()),
        post(&[], format!("{{\"{PHONE}\": {}", "[".repeat(50)).as_bytes()),
        post(&[], &[PHONE.as_bytes(), b"\xff"].concat()),
        post(&[], &PHONE.repeat(3000).into_bytes()),
        request("POST", &path(PHONE), &[], &good),
        request("POST", &format!("{WEBHOOKS}?phone={PHONE}&key={KEY}"), &[], &good),
        request(PHONE, WEBHOOKS, &[], b""),
        cut[..cut.len() - 9].to_vec(),
        format!("POST /{PHONE}\r\n{PAYER}: {KEY}\r\n\r\n").into_bytes(),
    ];
    let answer = |request: &Vec<u8>| {
        let mut connection = Connection::open(address);
        connection.send(request);
        connection.try_answer(true).expect("an answer")
    };
    let answers = requests.iter().map(answer).collect();
    // And one who does not wait for it.
    let mut gone = Connection::open(address);
    gone.send(&post(&[], &good));
    gone.0.shutdown(Shutdown::Both).unwrap();
    answers
}

#[test]
fn no_line_has_a_secret() {
    let (directory, broker) = (Directory::new(), EmbeddedBroker::start().unwrap());
    let spool = directory.spool();
    let spool = spool.to_str().unwrap();
    let process = Process::serve(&setup(&directory, &broker).set("spool.path", spool));
    let address = process.address("http.listen");
    process.await_line("the log says ready", |line| line["message"] == "ready");
    let mut answers = drive(&process, 0);
    let statuses: Vec<_> = answers.iter().map(|answer| answer.status).collect();
    let expected =
        [200, 200, 200, 413, 401, 401, 415, 400, 400, 400, 400, 400, 413, 404, 200, 405, 408, 400];
    assert_eq!(statuses, expected);

    // Kafka refuses, then is silent, then back, with webhooks in the spool, then gone.
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    broker.mock().request_errors(RDKafkaApiKey::Produce, &[refused]);
    answers.extend(drive(&process, 10));
    broker.mock().broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
    answers.extend(drive(&process, 20));
    eventually("webhooks are spooled", || {
        answers.push(ask(address, &request("POST", WEBHOOKS, &[], &signed(&secret_payment(30)))));
        (answers.last().unwrap().status == 202).then_some(())
    });
    let spooled = Command::new(env!("CARGO_BIN_EXE_clickpesa-relay"))
        .env_clear()
        .env("CLICKPESA_RELAY__SPOOL__PATH", spool)
        .args(["spool", "list"])
        .output()
        .unwrap();
    assert!(spooled.status.success());
    // References are what an operator looks for there.
    let spooled = String::from_utf8(spooled.stdout).unwrap();
    assert!(spooled.contains("REF-7Qz-"));
    assert_clean("spool list", &spooled.replace("REF-7Qz-", ""));

    // A key that cannot be read, and one that can.
    fs::write(directory.0.join("key"), [KEYS[1].as_bytes(), b"\xff"].concat()).unwrap();
    process.await_text("stay as they were");
    directory.put("key", KEYS[1]);
    process.await_text("the applications were read again");
    broker.mock().broker_round_trip_time(-1, Duration::ZERO).unwrap();
    eventually("the spool is empty", || {
        (process.samples().sum("spool_events", &[]) == 0.0).then_some(())
    });
    answers.extend(drive(&process, 40));
    drop(broker);
    process.await_text("Connection refused");
    answers.extend(drive(&process, 50));

    for page in ["/metrics", "/ready", "/live", "/"] {
        assert_clean(page, &process.page(page));
    }
    for answer in answers {
        assert_clean("an answer", &format!("{answer:?}"));
    }
    for file in ["cmdline", "comm"] {
        let text = fs::read(format!("/proc/{}/{file}", process.id())).unwrap();
        assert_clean(file, &String::from_utf8(text).unwrap());
    }
    process.signal("TERM");
    process.await_text("stopped");
    let lines = process.lines();
    for target in ["librdkafka", "actix_http", "actix_server", "clickpesa_relay"] {
        assert!(lines.iter().any(|line| line.contains(target)), "{target} logs at that level");
    }
    for line in lines {
        assert_clean("the log", &line);
    }
}

#[test]
fn what_cannot_start_says_no_secret() {
    let (directory, broker) = (Directory::new(), EmbeddedBroker::start().unwrap());
    let base = || setup(&directory, &broker);
    for (key, value) in [
        ("applications.default.checksum_keys.main2.x", KEY),
        ("applications.default.checksum_key", KEY),
        ("applications.default.placement", "x"),
        ("kafka.properties.sasl_pasword", PASSWORD),
        ("kafka.properties.ssl_truststore_location", PASSWORD),
        ("http.tls.key_file", &directory.path("key")),
        ("http.listen", "192.0.2.1:1"),
        ("spool.path", "/proc/spool"),
    ] {
        let setup = base().without("kafka.properties.debug").set(key, value);
        let tls = key.starts_with("http.tls");
        let key_file = directory.path("key");
        let setup = if tls { setup.set("http.tls.certificate_file", &key_file) } else { setup };
        let ended = |arguments: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_clickpesa-relay"))
                .env_clear()
                .envs(setup.environment())
                .args(arguments)
                .output()
                .unwrap();
            for printed in [&output.stdout, &output.stderr] {
                assert_clean(key, std::str::from_utf8(printed).unwrap());
            }
            output
        };
        let output = ended(&["serve"]);
        assert!(!output.status.success(), "{key}: {output:?}");
        ended(&["check-config", "--print"]);
    }
}

/// A core dump or a debugger sees memory; what others see of a process has no variables in it.
#[test]
fn a_key_from_a_file_is_not_in_the_environment() {
    let (directory, broker) = (Directory::new(), EmbeddedBroker::start().unwrap());
    let setup = setup(&directory, &broker)
        .without("kafka.properties.debug")
        .without("applications.default.checksum_keys.main")
        .without("kafka.properties.sasl_password");
    let process = Process::serve_ready(&setup);
    let environment = fs::read(format!("/proc/{}/environ", process.id())).unwrap();
    assert_clean("environ", &String::from_utf8(environment).unwrap());
    let body = signed_with(KEYS[0], &secret_payment(1));
    let answer = ask(process.address("http.listen"), &request("POST", WEBHOOKS, &[], &body));
    assert_eq!(answer.status, 200);
}
