//! What is in Kafka once the answer is 200.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};

use actix_web::rt::System;

use clickpesa_relay::{
    application::Application,
    event::{
        kind::Kind,
        normalise::{Circumstances, normalise},
    },
    kafka::{
        Properties, embedded::EmbeddedBroker, publisher::Publisher, reader::StoredRecord,
        report::PublishError,
    },
    record::{EventFormat, Record},
    webhook::Unverified,
};
use jiff::Timestamp;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use serde_json::Value;

use crate::harness::{
    Answer, App, Setup, eventually, header, list, payment, signed, signed_with, webhook,
};

/// A clock that stands still, at a time that Kafka's retention does not mind.
fn still() -> Timestamp {
    static NOW: LazyLock<Timestamp> =
        LazyLock::new(|| Timestamp::from_millisecond(Timestamp::now().as_millisecond()).unwrap());
    *NOW
}

/// The records that the library makes of a body.
fn records_of(body: &[u8], application: &Application, format: EventFormat) -> Vec<(Kind, Record)> {
    let webhook = Unverified::parse(body, 32).unwrap();
    let webhook = webhook.authenticate(&application.policy, |_| None).unwrap();
    let circumstances = Circumstances {
        application: &application.name,
        source: &application.source,
        received: &format!("{:.3}", still()),
    };
    let events = normalise(&webhook, circumstances);
    events.iter().map(|event| (event.kind, Record::new(event, format, "topic", 0))).collect()
}

#[track_caller]
fn check_stored(app: &App, stored: &StoredRecord, (kind, record): &(Kind, Record)) {
    assert_eq!(stored.topic, app.topic(kind.suffix()));
    assert_eq!(String::from_utf8_lossy(&stored.key), record.key);
    let headers = stored.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let expected = record.headers.iter().map(|(name, value)| (&**name, value.as_bytes()));
    assert!(headers.eq(expected), "{:?}\n{:?}", stored.headers, record.headers);
    assert_eq!(String::from_utf8_lossy(&stored.value), String::from_utf8_lossy(&record.value));
    assert_eq!(stored.timestamp_ms, Some(still().as_millisecond()), "the time of receipt");
}

/// Name, body and kind of signature of every sample.
fn samples() -> Vec<(String, Vec<u8>, String)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    let index: Vec<HashMap<String, Value>> =
        serde_json::from_slice(&fs::read(folder.join("index.json")).unwrap()).unwrap();
    let text = |entry: &HashMap<String, Value>, name| entry[name].as_str().unwrap().to_owned();
    let read = |entry: &HashMap<String, Value>| {
        let file = text(entry, "file");
        (file.clone(), fs::read(folder.join(file)).unwrap(), text(entry, "signature"))
    };
    index.iter().map(read).collect()
}

/// Signed samples go to `default`, unsigned ones to an application that asks for nothing.
fn check_samples(format: EventFormat, word: &str) {
    let setup = Setup::new()
        .set("applications.default.legacy_checksum", "true")
        .set("applications.open.authentication", "none")
        .set("kafka.event_format", word)
        .clock(still);
    let applications = setup.settings().applications;
    let app = setup.spawn();
    let mut posted = Vec::new();
    for (file, body, signature) in samples() {
        let name = if signature == "none" { "open" } else { "default" };
        let answer = if name == "open" { app.post_to("open", &body) } else { app.post(&body) };
        if signature == "INVALID" {
            assert_eq!(answer.status, 401, "{file}: {answer:?}");
            continue;
        }
        let records = records_of(&body, &applications[name], format);
        assert_eq!(answer.events().len(), records.len(), "{file}");
        posted.extend(answer.events().into_iter().zip(records));
    }
    assert!(posted.len() >= 25, "{}", posted.len());
    let kinds: std::collections::HashSet<_> = posted.iter().map(|(_, (kind, _))| kind).collect();
    assert_eq!(kinds.len(), Kind::ALL.len(), "samples of every type");
    let stored = app.all_records();
    assert_eq!(stored.len(), posted.len());
    for (event, record) in &posted {
        let is_there = |stored: &&StoredRecord| {
            event["topic"] == stored.topic
                && event["partition"] == stored.partition
                && event["offset"] == stored.offset
        };
        check_stored(&app, stored.iter().find(is_there).unwrap(), record);
    }
}

#[test]
fn every_sample_is_the_record_that_the_library_makes() {
    check_samples(EventFormat::Structured, "structured");
}

#[test]
fn every_sample_is_the_record_that_the_library_makes_in_binary_mode() {
    check_samples(EventFormat::Binary, "binary");
}

const HEADERS: [&str; 11] = [
    "content-type",
    "ce_specversion",
    "ce_id",
    "ce_source",
    "ce_type",
    "ce_subject",
    "ce_time",
    "ce_dataschema",
    "ce_partitionkey",
    "ce_receivedtime",
    "ce_authentication",
];

#[test]
fn structured_mode_repeats_every_attribute_in_a_header() {
    let app = Setup::new().clock(still).spawn();
    let answer = app.post_signed(&payment("REF-ü"));
    let record = app.record_at(&answer.events()[0]);
    let names: Vec<_> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, HEADERS);
    let content_type = "application/cloudevents+json; charset=UTF-8";
    assert_eq!(header(&record, "content-type"), content_type);
    let event: Value = serde_json::from_slice(&record.value).unwrap();
    for name in &HEADERS[1..] {
        let attribute = name.strip_prefix("ce_").unwrap();
        assert_eq!(event[attribute], header(&record, name), "{attribute}");
    }
    assert_eq!(event["datacontenttype"], "application/json");
    assert_eq!(event["id"], answer.ids()[0]);
    assert_eq!(event["receivedtime"], format!("{:.3}", still()));
    assert_eq!(event["time"], "2026-01-05T09:30:00.000Z");
    assert_eq!(event["subject"], "REF-ü");
    assert_eq!(record.key, "REF-ü".as_bytes());
    assert_eq!(event["data"]["amount"], "1500.50");
}

#[test]
fn binary_mode_has_the_data_alone_as_value() {
    let app = Setup::new().set("kafka.event_format", "binary").spawn();
    let record = app.record_at(&app.post_signed(&payment("REF-1")).events()[0]);
    let names: Vec<_> = record.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, HEADERS);
    assert_eq!(header(&record, "content-type"), "application/json");
    let data: Value = serde_json::from_slice(&record.value).unwrap();
    assert_eq!(data["orderReference"], "REF-1");
    assert_eq!(data.get("specversion"), None);
}

#[test]
fn every_event_is_also_in_the_topic_all_if_there_is_one() {
    let app = Setup::new().set("kafka.topics.all", "true").spawn();
    app.post_signed(&payment("REF-1")).events();
    app.post_signed(&webhook("PAYOUT REFUNDED", "REF-2", "")).events();
    let all = app.records("all");
    let [received, refunded] =
        ["payment.received", "payout.refunded"].map(|suffix| app.records(suffix));
    let contents = |records: &[StoredRecord]| -> Vec<_> {
        records.iter().map(|r| (r.key.clone(), r.headers.clone(), r.value.clone())).collect()
    };
    assert_eq!(contents(&all), contents(&[received, refunded].concat()));
    assert_eq!(all.len(), 2);
}

#[test]
fn a_topic_can_have_a_name_of_its_own() {
    let setup = Setup::new();
    let name = format!("{}-money", setup.topic("x"));
    let app = setup.set("kafka.topics.names.payment.received", &name).spawn();
    assert_eq!(app.post_signed(&payment("REF-1")).events()[0]["topic"], name);
    assert_eq!(app.all_records()[0].topic, name);
}

#[test]
fn applications_have_keys_and_sources_of_their_own() {
    let app = Setup::new()
        .set("applications.shop.checksum_keys.old", "shop-secret-1")
        .set("applications.shop.checksum_keys.new", "shop-secret-2")
        .set("applications.bank.checksum_keys.main", "bank-secret")
        .set("applications.bank.source", "urn:bank")
        .spawn();
    let body = payment("REF-1");
    let mut ids = vec![app.post_signed(&body).ids()];
    for (application, secret, source) in [
        ("shop", "shop-secret-1", "/clickpesa/shop"),
        ("shop", "shop-secret-2", "/clickpesa/shop"),
        ("bank", "bank-secret", "urn:bank"),
    ] {
        let answer = app.post_to(application, signed_with(secret, &body));
        let record = app.record_at(&answer.events()[0]);
        assert_eq!(header(&record, "ce_source"), source);
        ids.push(answer.ids());
    }
    assert_eq!(ids[1], ids[2], "which key verified it makes no difference");
    ids.dedup();
    assert_eq!(ids.len(), 3, "the same webhook for another application is another event");
    let taken = app.all_records().len();
    for (application, secret) in
        [("shop", "bank-secret"), ("bank", "shop-secret-1"), ("shop", crate::harness::KEY)]
    {
        let answer = app.post_to(application, signed_with(secret, &body));
        assert_eq!(answer.status, 401, "{application} {secret}");
    }
    assert_eq!(app.all_records().len(), taken);
    let samples = app.samples();
    for (application, key) in
        [("default", "main"), ("shop", "old"), ("shop", "new"), ("bank", "main")]
    {
        let labels = [format!("application=\"{application}\""), format!("key=\"{key}\"")];
        let verified = samples.sum("verified_total", &[&labels[0], &labels[1]]);
        assert!((verified - 1.0).abs() < 0.5, "{application} {key}: {verified}");
    }
}

#[test]
fn an_application_without_a_key_takes_anything_and_says_so() {
    let app = Setup::new().set("applications.open.authentication", "none").spawn();
    let authentication = |answer: &Answer| {
        header(&app.record_at(&answer.events()[0]), "ce_authentication").to_owned()
    };
    assert_eq!(authentication(&app.post_to("open", payment("REF-1"))), "none");
    assert_eq!(
        authentication(&app.post_to("open", signed_with("whatever", &payment("REF-1")))),
        "none"
    );
    assert_eq!(authentication(&app.post_signed(&payment("REF-1"))), "checksum");
}

#[test]
fn what_is_not_understood_is_published_with_the_reason() {
    let app = App::spawn();
    for (body, reason) in [
        (webhook("PAYMENT EXPLODED", "REF-1", ""), "unknown_event"),
        (r#"{"orderReference":"REF-1","status":"PENDING"}"#.to_owned(), "no_event"),
        (r#"{"event":"PAYMENT RECEIVED","data":[]}"#.to_owned(), "empty_list"),
        (r#"{"event":"PAYMENT RECEIVED","data":7}"#.to_owned(), "not_an_object"),
        (r#"{"event":"PAYMENT RECEIVED","data":{"x":1}}"#.to_owned(), "no_known_field"),
        (payment("REF-1").replace("1500.50", "a lot"), "bad_amount"),
    ] {
        let event = &app.post_signed(&body).events()[0];
        assert_eq!(event["type"], "com.clickpesa.unrecognized");
        let record = app.record_at(event);
        assert_eq!(record.topic, app.topic("unrecognized"));
        let value: Value = serde_json::from_slice(&record.value).unwrap();
        assert_eq!(value["data"]["reason"], reason);
    }
}

#[test]
fn a_repeat_has_the_same_id_and_key_on_every_instance() {
    let instances = [App::spawn(), App::spawn()];
    let compact = payment("REF-1").replace(['\n', ' '], "");
    let answers = [
        instances[0].post_signed(&payment("REF-1")),
        instances[0].post_signed(&payment("REF-1")),
        instances[1].post_signed(&payment("REF-1")),
        instances[1].post_signed(&compact.replace("PAYMENTRECEIVED", "payment_received")),
    ];
    let ids: Vec<_> = answers.iter().map(Answer::ids).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let records = instances.iter().flat_map(|instance| instance.records("payment.received"));
    let keys: Vec<_> = records.map(|record| record.key).collect();
    // The second of the first instance is known to be a repeat.
    assert_eq!(keys, [b"REF-1"; 3]);
    let settled = payment("REF-1").replace("SUCCESS", "SETTLED");
    assert_ne!(instances[0].post_signed(&settled).ids(), ids[0], "another state, another event");
}

#[test]
fn a_list_is_an_event_an_element() {
    let app = App::spawn();
    let bodies: Vec<_> = (0..4).map(|i| payment(&format!("REF-{i}"))).collect();
    let alone: Vec<_> = bodies.iter().flat_map(|body| app.post_signed(body).ids()).collect();
    assert_eq!(app.post(list(&bodies)).ids(), alone, "as body");
    let data: Vec<_> = bodies
        .iter()
        .map(|body| serde_json::from_str::<Value>(body).unwrap()["data"].to_string())
        .collect();
    let body = format!(r#"{{"event":"PAYMENT RECEIVED","data":[{}]}}"#, data.join(","));
    assert_eq!(app.post_signed(&body).ids(), alone, "as `data`");
    let keys: Vec<_> = app.records("payment.received").into_iter().map(|r| r.key).collect();
    assert_eq!(keys, [[b"REF-0", b"REF-1", b"REF-2", b"REF-3"]; 3].concat(), "in order");
}

#[test]
fn a_list_that_fails_in_part_is_503_and_a_repeat_has_the_same_ids() {
    let broker = EmbeddedBroker::start().unwrap();
    let app = Setup::on(&broker).spawn();
    let body = list(&[payment("REF-1"), webhook("PAYMENT FAILED", "REF-2", "")]);
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    broker.mock().request_errors(RDKafkaApiKey::Produce, &[refused]);
    assert_eq!(app.post(&body).status, 503);
    let before = app.all_records();
    assert_eq!(before.len(), 1, "one of the two is there");
    assert!((app.samples().sum("published_events_total", &[]) - 1.0).abs() < 0.5);
    let answer = eventually("a retry helps", || {
        let answer = app.post(&body);
        (answer.status == 200).then_some(answer)
    });
    assert!(answer.ids().iter().any(|id| id == header(&before[0], "ce_id")));
    let records = app.all_records();
    let ids: std::collections::HashSet<_> = records.iter().map(|r| header(r, "ce_id")).collect();
    assert_eq!(ids, answer.ids().iter().map(String::as_str).collect());
}

#[test]
fn what_is_sent_at_once_is_all_there() {
    let app = Setup::new().set("http.workers", "2").set("kafka.topics.partitions", "3").spawn();
    let (senders, each) = (8, 25);
    let events: Vec<_> = std::thread::scope(|scope| {
        let app = &app;
        let send = |sender| {
            scope.spawn(move || {
                let bodies = (0..each).map(|i| payment(&format!("REF-{sender}-{i}")));
                bodies.flat_map(|body| app.post(signed(&body)).events()).collect::<Vec<_>>()
            })
        };
        let senders: Vec<_> = (0..senders).map(send).collect();
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    });
    let records = app.records("payment.received");
    for event in &events {
        let is_it = |record: &&StoredRecord| header(record, "ce_id") == event["id"];
        let record = records.iter().find(is_it).unwrap_or_else(|| panic!("not there: {event}"));
        let place = [i64::from(record.partition), record.offset];
        assert_eq!(place.map(Value::from), [event["partition"].clone(), event["offset"].clone()]);
    }
    assert_eq!((events.len(), records.len()), (senders * each, senders * each));
}

/// A broker that is new to a partition may refuse a request and take the next, whose
/// acknowledgement librdkafka takes for that of both.
#[test]
fn what_only_a_later_request_acknowledged_is_sent_again() {
    let broker = EmbeddedBroker::start().unwrap();
    // Several requests under way.
    let app = Setup::on(&broker).set("kafka.properties.batch.num.messages", "1").spawn();
    broker.mock().broker_round_trip_time(-1, Duration::from_millis(300)).unwrap();
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION;
    broker.mock().request_errors(RDKafkaApiKey::Produce, &[refused]);
    let senders: Vec<_> =
        (0..10).map(|number| app.send_signed(&payment(&format!("REF-{number}")))).collect();
    let answers: Vec<_> = senders.into_iter().map(|mut sender| sender.answer()).collect();
    broker.mock().broker_round_trip_time(-1, Duration::ZERO).unwrap();
    let samples = app.samples();
    assert!(samples.sum("kafka_records_unplaced_total", &[]) > 0.5, "it was so");
    assert!((samples.sum("published_events_total", &[]) - 10.0).abs() < 0.5);
    for event in answers.iter().flat_map(Answer::events) {
        assert_eq!(header(&app.record_at(&event), "ce_id"), event["id"]);
    }
    assert_eq!(app.records("payment.received").len(), 10);
}

/// Asked before Kafka is, so that what it will never take is not put into the spool for it.
#[test]
fn what_librdkafka_calls_too_large_is_too_large() {
    let broker = EmbeddedBroker::start().unwrap();
    broker.create_topic("sizes", 1).unwrap();
    let properties = [
        ("bootstrap.servers".to_owned(), broker.bootstrap_servers()),
        ("message.max.bytes".to_owned(), "2000".to_owned()),
        // Else the one that is judged waits for others.
        ("message.timeout.ms".to_owned(), "10000".to_owned()),
    ];
    let topics = ["sizes".to_owned()];
    let properties = Properties(properties.into());
    let publisher = Publisher::new(&properties, topics, Arc::default(), 0).unwrap();
    let mut judged = [0, 0];
    for (length, of_header) in
        (1500..2000).zip([0, 1, 60, 63, 64, 65, 127, 128, 129].iter().cycle())
    {
        let record = Arc::new(Record {
            topic: "sizes".to_owned(),
            timestamp_ms: 0,
            key: "key".to_owned(),
            headers: vec![
                ("name".into(), "h".repeat(*of_header).into()),
                ("ce_id".into(), "".into()),
            ],
            value: vec![b'v'; length],
        });
        let is_too_large = publisher.is_too_large(&record);
        let receipts = System::new().block_on(publisher.publish([&record]));
        assert_eq!(
            receipts[0] == Err(PublishError::TooLarge),
            is_too_large,
            "{length}, {of_header}"
        );
        judged[usize::from(is_too_large)] += 1;
    }
    assert!(judged.iter().all(|count| *count > 20), "{judged:?}");
}
