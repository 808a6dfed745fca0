//! SASL and TLS, by librdkafka's properties alone.

use std::{fs, path::Path, time::Instant};

use crate::harness::{Process, Setup, ask, header, payment, provided, request, signed, unique};

/// The listener with passwords, and the password in a file.
fn secured(mechanism: &str, password: &str) -> Setup {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(unique());
    fs::write(&file, format!("{password}\n")).unwrap();
    Setup::at(&provided("RELAY_TEST_KAFKA_SASL_SSL"))
        .set("kafka.properties.security.protocol", "SASL_SSL")
        .set("kafka.properties.sasl.mechanism", mechanism)
        .set("kafka.properties.sasl.username", "relay")
        .set("kafka.property_files.sasl.password", file.to_str().unwrap())
        .set("http.answer_within", "2s")
        .set("http.body_within", "1s")
}

/// The same, with the authority that signed the brokers' certificate.
fn trusting(mechanism: &str, password: &str) -> Setup {
    let authority = provided("RELAY_TEST_KAFKA_CA");
    secured(mechanism, password).set("kafka.properties.ssl.ca.location", &authority)
}

fn check_published(mechanism: &str) {
    let app = trusting(mechanism, "relay-secret").spawn();
    let answer = app.post_signed(&payment("REF-1"));
    let record = app.record_at(&answer.events()[0]);
    assert_eq!(header(&record, "ce_id"), answer.ids()[0]);
}

#[test]
fn plain_over_tls() {
    check_published("PLAIN");
}

#[test]
fn scram_over_tls() {
    check_published("SCRAM-SHA-256");
}

/// Runs the binary, whose log has to say what is wrong; the answer must not wait for ever.
fn check_refused(setup: &Setup, cause: &str) {
    let process = Process::serve(setup);
    let started = Instant::now();
    let post = request("POST", "/webhooks/clickpesa", &[], &signed(&payment("REF-1")));
    let answer = ask(process.address("http.listen"), &post);
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(started.elapsed().as_secs() < 6, "{:?}", started.elapsed());
    process.await_line(cause, |line| line["message"].as_str().unwrap_or("").contains(cause));
    let ready = ask(process.address("admin.listen"), &request("GET", "/ready", &[], b""));
    assert_eq!(ready.status, 503);
    let log = process.lines().join("\n");
    assert!(!log.contains("wrong-secret"), "{log}");
}

#[test]
fn a_wrong_password_is_503_and_in_the_log() {
    check_refused(&trusting("PLAIN", "wrong-secret"), "Authentication failed");
    check_refused(&trusting("SCRAM-SHA-256", "wrong-secret"), "Authentication failed");
}

#[test]
fn a_broker_with_an_unknown_certificate_is_503_and_in_the_log() {
    check_refused(&secured("PLAIN", "relay-secret"), "certificate verify failed");
}
