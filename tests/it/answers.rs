//! The table of answers: a test for each row, through a real socket.

use std::{
    net::{Shutdown, TcpListener},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use actix_web::{App as Actix, HttpServer, rt::System, web};
use clickpesa_relay::{
    application::Applications,
    delivery::{Delivery, recent::Recent},
    http::{Relay, WEBHOOKS, receive::receive},
    kafka::{embedded::EmbeddedBroker, publisher::Publisher},
    metrics::Metrics,
};
use jiff::Timestamp;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::json;

use crate::harness::{
    Answer, App, Connection, KEY, PAYER, PHONE, Setup, ask, eventually, header, list, payment,
    request, signed, signed_with, webhook,
};

/// Checks everything that all answers but 200 have in common.
#[track_caller]
fn check_problem(answer: &Answer, status: u16, reason: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json();
    let members: Vec<_> = problem.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(members, ["status", "title", "type"]);
    assert_eq!(problem["type"], format!("urn:clickpesa-relay:problem:{reason}"));
    assert_eq!(problem["status"], status);
    assert!(!problem["title"].as_str().unwrap().is_empty());
    let retry_after = answer.header("retry-after");
    assert_eq!(retry_after.is_some(), status == 503, "{answer:?}");
    assert!(retry_after.is_none_or(|seconds| seconds.parse::<u32>().unwrap() > 0));
    assert_eq!(answer.header("allow"), (status == 405).then_some("POST"));
    // What bodies here say, where things are inside, and what went wrong in there.
    for leak in [PAYER, PHONE, "REF-", "127.0.0.1", "localhost", "answers-", "panicked", KEY] {
        assert!(!answer.body.contains(leak), "`{leak}` leaks: {answer:?}");
    }
}

/// Checks an answer that is a problem, and that it is in the books, once.
#[track_caller]
fn check(app: &App, answer: &Answer, (status, outcome, reason): (u16, &str, &str)) {
    check_problem(answer, status, reason);
    let samples = app.samples();
    assert!((samples.ended(outcome, reason) - 1.0).abs() < 0.5, "{samples:#?}");
    samples.assert_balanced();
}

/// Checks a rejection: a problem, in the books, and nothing in Kafka.
#[track_caller]
fn check_rejected(app: &App, answer: &Answer, status: u16, reason: &str) {
    check(app, answer, (status, "rejected", reason));
    assert_eq!(app.all_records(), []);
}

// --- 200 ------------------------------------------------------------------------------

#[test]
fn published_is_200_and_says_where_the_record_is() {
    let app = App::spawn();
    let answer = app.post_signed(&payment("REF-1"));
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let body = answer.json();
    let id = body["events"][0]["id"].as_str().unwrap();
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    let expected = json!({ "status": "published", "events": [{
        "id": id,
        "type": "com.clickpesa.payment.received",
        "topic": app.topic("payment.received"),
        "partition": 0,
        "offset": 0,
    }]});
    assert_eq!(body, expected);
    let record = app.record_at(&body["events"][0]);
    assert_eq!(header(&record, "ce_id"), id);
    assert_eq!(app.all_records(), [record]);
    let samples = app.samples();
    assert!((samples.ended("published", "") - 1.0).abs() < 0.5);
    samples.assert_balanced();
}

#[test]
fn a_list_is_200_and_says_where_every_record_is() {
    let app = Setup::new().set("kafka.topics.partitions", "3").spawn();
    let bodies: Vec<_> = (0..5).map(|i| payment(&format!("REF-{i}"))).collect();
    let bodies = [bodies, vec![webhook("PAYMENT FAILED", "REF-F", "")]].concat();
    let answer = app.post(list(&bodies));
    let events = answer.events();
    assert_eq!(events.len(), 6);
    for event in &events {
        let record = app.record_at(event);
        assert_eq!(header(&record, "ce_id"), event["id"]);
        assert_eq!(header(&record, "ce_type"), event["type"]);
    }
    assert_eq!(app.all_records().len(), 6);
}

#[test]
fn the_content_type_is_not_judged() {
    let app = App::spawn();
    let types = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "?"];
    for (count, content_type) in types.iter().enumerate() {
        let body = signed(&payment(&format!("REF-{count}")));
        let answer = app.ask("POST", WEBHOOKS, &[("content-type", content_type)], &body);
        assert_eq!(answer.status, 200, "{content_type}: {answer:?}");
    }
    assert_eq!(app.records("payment.received").len(), types.len());
}

#[test]
fn a_trailing_slash_and_a_query_are_ignored() {
    let app = Setup::new().set("applications.shop.checksum_keys.main", KEY).spawn();
    for path in ["", "/", "?a=b", "/?a=b", "/shop", "/shop/", "/shop?a=b"] {
        let path = format!("{WEBHOOKS}{path}");
        let answer = app.ask("POST", &path, &[], &signed(&payment("REF-1")));
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    }
}

#[test]
fn a_connection_takes_one_webhook_after_another() {
    let app = App::spawn();
    let mut connection = Connection::open(app.http);
    let (good, bad) = (signed(&payment("REF-1")), b"{}");
    for (body, status) in [(&good[..], 200), (bad, 401)].repeat(3) {
        assert!(connection.send(&request("POST", WEBHOOKS, &[], body)));
        assert_eq!(connection.answer().status, status);
    }
}

#[test]
fn a_sender_that_asks_first_is_told_to_go_on() {
    let app = App::spawn();
    let body = signed(&payment("REF-1"));
    let whole = request("POST", WEBHOOKS, &[("expect", "100-continue")], &body);
    let (head, body) = whole.split_at(whole.len() - body.len());
    let mut connection = Connection::open(app.http);
    connection.send(head);
    assert_eq!(connection.answer().status, 100);
    connection.send(body);
    assert_eq!(connection.answer().status, 200);
}

#[test]
fn a_sender_that_closes_its_half_is_still_answered() {
    let app = App::spawn();
    let mut connection = app.send_signed(&payment("REF-1"));
    connection.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.answer().status, 200);
}

// --- 400 ------------------------------------------------------------------------------

#[test]
fn an_empty_body_is_400() {
    let app = App::spawn();
    check_rejected(&app, &app.post(""), 400, "empty");
}

#[test]
fn a_blank_body_is_400() {
    let app = App::spawn();
    check_rejected(&app, &app.post(" \r\n\t"), 400, "empty");
}

#[test]
fn what_is_not_json_is_400() {
    let app = App::spawn();
    let body = format!("{}x", payment("REF-1"));
    check_rejected(&app, &app.post(body), 400, "not_json");
}

#[test]
fn what_is_not_utf8_is_400() {
    let app = App::spawn();
    let body = [br#"{"event":"PAYMENT RECEIVED","data":""#, &[0xC3, 0x28][..], br#""}"#].concat();
    check_rejected(&app, &app.post(body), 400, "not_json");
}

#[test]
fn what_is_too_deep_is_400() {
    let app = Setup::new().set("http.body_depth_max", "8").spawn();
    let nested = |levels: usize| {
        format!(
            r#"{{"event":"PAYMENT RECEIVED","data":{}1{}}}"#,
            "[".repeat(levels),
            "]".repeat(levels)
        )
    };
    assert_eq!(app.post(nested(7)).status, 401, "as deep as allowed, and unsigned");
    check_rejected(&app, &app.post(nested(8)), 400, "not_json");
    // Deep enough to exhaust a stack, if anything here recursed before it counted.
    assert_eq!(app.post(nested(100_000)).status, 400);
}

#[test]
fn a_bare_value_is_400() {
    for body in ["42", r#""REF-1""#, "null", "true"] {
        let app = App::spawn();
        check_rejected(&app, &app.post(body), 400, "not_a_webhook");
    }
}

#[test]
fn a_body_with_broken_chunks_is_400() {
    let app = App::spawn();
    let mut connection = Connection::open(app.http);
    let head = request("PUT", WEBHOOKS, &[("transfer-encoding", "chunked")], b"");
    let head = String::from_utf8(head).unwrap().replacen("PUT", "POST", 1);
    connection.send(head.as_bytes());
    connection.send(b"4\r\n{\"a\"\r\nnot-a-length\r\n");
    check_rejected(&app, &connection.answer(), 400, "body_broken");
}

// --- 401 ------------------------------------------------------------------------------

#[test]
fn a_missing_checksum_is_401() {
    let app = App::spawn();
    check_rejected(&app, &app.post(payment("REF-1")), 401, "checksum_missing");
}

#[test]
fn a_checksum_of_another_key_is_401() {
    let app = App::spawn();
    let answer = app.post(signed_with("another-key", &payment("REF-1")));
    check_rejected(&app, &answer, 401, "checksum_wrong");
}

#[test]
fn a_checksum_that_is_none_is_401() {
    let app = App::spawn();
    let body = payment("REF-1").replacen('{', r#"{"checksum":"REF-1","#, 1);
    check_rejected(&app, &app.post(body), 401, "checksum_wrong");
}

#[test]
fn a_body_changed_after_it_was_signed_is_401() {
    let app = App::spawn();
    let body = String::from_utf8(signed(&payment("REF-1"))).unwrap();
    let tampered = body.replace("1500.50", "9500.50");
    assert_ne!(tampered, body);
    check_rejected(&app, &app.post(tampered), 401, "checksum_wrong");
}

#[test]
fn a_list_with_one_unsigned_element_is_401() {
    let app = App::spawn();
    let signed = String::from_utf8(signed(&payment("REF-1"))).unwrap();
    let answer = app.post(format!("[{signed},{}]", payment("REF-2")));
    check_rejected(&app, &answer, 401, "checksum_missing");
}

// --- 404, 405 -------------------------------------------------------------------------

#[test]
fn an_unknown_application_is_404() {
    let app = App::spawn();
    let answer = app.post_to("REF-shop", signed(&payment("REF-1")));
    check_rejected(&app, &answer, 404, "unknown_path");
    assert!(app.samples().sum("received_total", &[r#"application="<unknown>""#]) > 0.5);
}

#[test]
fn an_unknown_path_is_404() {
    for path in ["/", "/metrics", "/webhooks", "/webhooks/clickpesaREF-", "/webhooks/clickpesa//"] {
        let app = App::spawn();
        let answer = app.ask("POST", path, &[], &signed(&payment("REF-1")));
        check_rejected(&app, &answer, 404, "unknown_path");
    }
}

#[test]
fn another_method_is_405() {
    for method in ["GET", "PUT", "DELETE", "OPTIONS"] {
        let app = App::spawn();
        check_rejected(&app, &app.ask(method, WEBHOOKS, &[], b""), 405, "method_not_allowed");
    }
}

#[test]
fn head_is_405_without_a_body() {
    let app = App::spawn();
    let answer = app.ask("HEAD", WEBHOOKS, &[], b"");
    assert_eq!(answer.status, 405);
    assert_eq!(answer.header("allow"), Some("POST"));
}

// --- 408 ------------------------------------------------------------------------------

#[test]
fn a_body_that_drips_is_408() {
    let app = Setup::new().set("http.body_within", "400ms").spawn();
    let body = signed(&payment("REF-1"));
    let whole = request("POST", WEBHOOKS, &[], &body);
    let (head, body) = whole.split_at(whole.len() - body.len());
    let mut connection = Connection::open(app.http);
    let started = Instant::now();
    connection.send(head);
    for byte in body {
        connection.send(&[*byte]);
        if connection.is_answered(Duration::from_millis(20)) {
            break;
        }
    }
    let took = started.elapsed();
    check_rejected(&app, &connection.answer(), 408, "body_timeout");
    assert!((0.4..3.0).contains(&took.as_secs_f64()), "{took:?}");
}

// --- 413 ------------------------------------------------------------------------------

#[test]
fn a_body_declared_over_the_limit_is_413_before_it_is_sent() {
    let app = Setup::new().set("http.body_max_bytes", "1000").set("http.body_within", "8s").spawn();
    let started = Instant::now();
    let mut connection = Connection::open(app.http);
    connection.send(
        format!("POST {WEBHOOKS} HTTP/1.1\r\nhost: a\r\ncontent-length: 1001\r\n\r\n").as_bytes(),
    );
    check_rejected(&app, &connection.answer(), 413, "body_too_large");
    assert!(started.elapsed() < Duration::from_secs(7), "it waited for the body");
}

#[test]
fn a_body_with_chunks_over_the_limit_is_413() {
    let app = Setup::new().set("http.body_max_bytes", "1000").spawn();
    let mut connection = Connection::open(app.http);
    connection.send(
        format!("POST {WEBHOOKS} HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
            .as_bytes(),
    );
    let chunk = format!("1f4\r\n{}\r\n", "x".repeat(500));
    connection.send(chunk.repeat(3).as_bytes());
    check_rejected(&app, &connection.answer(), 413, "body_too_large");
}

#[test]
fn a_body_at_the_limit_is_taken() {
    let body = signed(&payment("REF-1"));
    let app = Setup::new().set("http.body_max_bytes", &body.len().to_string()).spawn();
    assert_eq!(app.post(&body).status, 200);
    assert_eq!(app.post([&body[..], b" "].concat()).status, 413);
}

#[test]
fn too_many_events_are_413() {
    let app = Setup::new().set("http.events_max", "2").spawn();
    let bodies: Vec<_> = (0..3).map(|i| payment(&format!("REF-{i}"))).collect();
    check_rejected(&app, &app.post(list(&bodies)), 413, "too_many_events");
    assert_eq!(app.post(list(&bodies[..2])).events().len(), 2);
}

#[test]
fn an_event_over_the_producers_limit_is_413() {
    let app = Setup::new().set("kafka.properties.message.max.bytes", "4000").spawn();
    let answer = app.post_signed(&webhook("PAYMENT RECEIVED", "REF-1", &"n".repeat(4000)));
    check_rejected(&app, &answer, 413, "event_too_large");
    assert_eq!(app.get("/ready").status, 200, "Kafka is not to blame");
}

#[test]
fn an_event_over_the_brokers_limit_is_413() {
    let broker = EmbeddedBroker::start().unwrap();
    let app = Setup::on(&broker).spawn();
    let too_large = RDKafkaRespErr::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE;
    broker.mock().request_errors(RDKafkaApiKey::Produce, &[too_large]);
    check_rejected(&app, &app.post_signed(&payment("REF-1")), 413, "event_too_large");
}

#[test]
fn an_event_over_the_limit_does_not_hold_back_its_neighbours() {
    let app = Setup::new().set("kafka.properties.message.max.bytes", "4000").spawn();
    let too_large = webhook("PAYMENT RECEIVED", "REF-1", &"n".repeat(4000));
    let answer = app.post(list(&[payment("REF-0"), too_large, payment("REF-2")]));
    check(&app, &answer, (413, "rejected", "event_too_large"));
    // A sender that is told 413 does not try again.
    let keys: Vec<_> = app.records("payment.received").into_iter().map(|r| r.key).collect();
    assert_eq!(keys, [b"REF-0", b"REF-2"]);
}

// --- 503 ------------------------------------------------------------------------------

#[test]
fn too_many_in_flight_are_503() {
    let broker = EmbeddedBroker::start().unwrap();
    let app = Setup::on(&broker).set("http.in_flight_max", "2").spawn();
    // Connects, so that what follows waits for one round trip.
    assert_eq!(app.post_signed(&payment("REF-0")).status, 200);
    broker.mock().broker_round_trip_time(-1, Duration::from_secs(1)).unwrap();
    let mut under_way = ["REF-1", "REF-2"].map(|reference| app.send_signed(&payment(reference)));
    app.await_in_flight(2);
    check(&app, &app.post_signed(&payment("REF-3")), (503, "failed", "busy"));
    assert_eq!(app.post("no JSON").status, 503, "it is not even read");
    for connection in &mut under_way {
        assert_eq!(connection.answer().status, 200);
    }
    broker.mock().broker_round_trip_time(-1, Duration::ZERO).unwrap();
    assert_eq!(app.post_signed(&payment("REF-3")).status, 200, "there is room again");
}

#[test]
fn a_refusal_of_kafka_is_503() {
    let broker = EmbeddedBroker::start().unwrap();
    let app = Setup::on(&broker).spawn();
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    broker.mock().request_errors(RDKafkaApiKey::Produce, &[refused]);
    check(&app, &app.post_signed(&payment("REF-1")), (503, "failed", "kafka_refused"));
    // librdkafka remembers the refusal until it has looked at the topic again.
    eventually("a retry helps", || {
        (app.post_signed(&payment("REF-1")).status == 200).then_some(())
    });
}

#[test]
fn silence_of_kafka_is_503_at_the_deadline() {
    let broker = EmbeddedBroker::start().unwrap();
    let app = Setup::on(&broker)
        .set("http.answer_within", "700ms")
        .set("http.body_within", "500ms")
        .spawn();
    broker.mock().broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
    let started = Instant::now();
    let answer = app.post_signed(&payment("REF-1"));
    let took = started.elapsed();
    check(&app, &answer, (503, "failed", "kafka_timeout"));
    assert!((0.65..3.0).contains(&took.as_secs_f64()), "{took:?}");
}

/// Of a relay that drains, actix closes every connection that waits for nothing, so only a
/// request that comes at that very moment gets this answer: here, the handler is served alone.
#[test]
fn a_relay_that_drains_answers_503() {
    let settings = Setup::at("127.0.0.1:1").settings();
    let metrics = Arc::new(Metrics::default());
    let properties = &settings.kafka.properties;
    let publisher = Publisher::new(properties, [], Arc::clone(&metrics), 0).unwrap();
    let delivery = Delivery {
        publisher: publisher.into(),
        format: settings.kafka.event_format,
        recent: Recent::new(settings.delivery.recent_max),
        spool: None,
        patience: settings.delivery.patience,
        metrics: Arc::clone(&metrics),
    };
    let applications = Applications::new(settings.applications.into_values());
    let limits = settings.http.limits;
    let relay =
        web::Data::new(Relay::new(applications, delivery, None, metrics, limits, Timestamp::now));
    relay.state.drain();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answer = System::new().block_on(async move {
        let app = move || Actix::new().app_data(relay.clone()).default_service(web::to(receive));
        let server =
            HttpServer::new(app).workers(1).disable_signals().listen(listener).unwrap().run();
        let handle = server.handle();
        actix_web::rt::spawn(server);
        let asked = thread::spawn(move || {
            ask(address, &request("POST", WEBHOOKS, &[], &signed(&payment("REF-1"))))
        });
        let answer = web::block(move || asked.join().unwrap()).await.unwrap();
        handle.stop(false).await;
        answer
    });
    check_problem(&answer, 503, "draining");
}

// --- 500 ------------------------------------------------------------------------------

#[test]
fn a_bug_is_500_and_the_relay_goes_on() {
    let app = Setup::new().clock(|| panic!("REF- a bug, on purpose")).spawn();
    let mut connection = Connection::open(app.http);
    connection.send(&request("POST", WEBHOOKS, &[], &signed(&payment("REF-1"))));
    check(&app, &connection.answer(), (500, "failed", "bug"));
    connection.send(&request("GET", WEBHOOKS, &[], b""));
    assert_eq!(connection.answer().status, 405, "the same connection, the same worker");
}
