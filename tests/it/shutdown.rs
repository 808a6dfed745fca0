//! The end of the process: in order, within its deadline, or at once.

use std::{
    collections::BTreeSet,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use clickpesa_relay::{
    http::WEBHOOKS,
    kafka::{
        embedded::EmbeddedBroker,
        reader::{From, Reader},
    },
};

use crate::harness::{
    Answer, App, Connection, Process, Setup, ask, eventually, payment, request, signed,
};

fn post(reference: &str) -> Vec<u8> {
    request("POST", WEBHOOKS, &[], &signed(&payment(reference)))
}

/// A process and a Kafka that will not answer, with a webhook that waits for it.
fn process_that_waits(setup: &Setup, broker: &EmbeddedBroker) -> (Process, Connection) {
    let process = Process::serve_ready(setup);
    let address = process.address("http.listen");
    assert_eq!(ask(address, &post("REF-0")).status, 200);
    broker.mock().broker_round_trip_time(-1, Duration::from_secs(60)).unwrap();
    let mut waiting = Connection::open(address);
    assert!(waiting.send(&post("REF-1")));
    eventually("a webhook is in flight", || {
        (process.samples().sum("in_flight", &[]) > 0.5).then_some(())
    });
    (process, waiting)
}

/// Posts webhooks over one connection until it ends.
fn post_until_it_ends(
    mut connection: Connection,
    sender: usize,
    count: &AtomicUsize,
) -> Vec<Answer> {
    let mut answers = Vec::new();
    for number in 0.. {
        connection.send(&post(&format!("REF-{sender}-{number}")));
        let Some(answer) = connection.try_answer(true) else { break };
        answers.push(answer);
        count.fetch_add(1, Ordering::Relaxed);
    }
    answers
}

#[test]
fn under_load_every_webhook_that_was_taken_gets_its_true_answer() {
    let setup = Setup::new().set("http.workers", "2");
    let mut process = Process::serve_ready(&setup.clone());
    let address = process.address("http.listen");
    let count = AtomicUsize::new(0);
    let answers: Vec<Answer> = thread::scope(|scope| {
        let (process, count) = (&process, &count);
        let senders: Vec<_> = (0..8)
            .map(|sender| {
                scope.spawn(move || post_until_it_ends(Connection::open(address), sender, count))
            })
            .collect();
        eventually("100 answers", || (count.load(Ordering::Relaxed) >= 100).then_some(()));
        process.signal("TERM");
        senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect()
    });
    assert_eq!(process.end().code(), Some(0), "{:#?}", process.lines());
    let log = process.lines();
    let logged = |outcome: &str| {
        let field = format!("\"outcome\":\"{outcome}\"");
        log.iter().filter(|line| line.contains(&field)).count()
    };
    let published: BTreeSet<_> =
        answers.iter().filter(|answer| answer.status == 200).flat_map(Answer::ids).collect();
    assert_eq!(logged("published"), published.len(), "each that was published was told so");
    assert_eq!(logged("abandoned"), 0);
    assert!(answers.iter().all(|answer| [200, 503].contains(&answer.status)), "{answers:?}");
    // Each of them is in Kafka, and nothing that nobody was told of.
    let properties = setup.settings().kafka.properties;
    let topics = [setup.topic("payment.received")];
    let mut reader = Reader::open(&properties, &topics, From::Start).unwrap();
    let mut stored = BTreeSet::new();
    while !reader.is_at_end() {
        let Some(record) = reader.next(Duration::from_secs(10)).unwrap() else { break };
        let id = record.headers.iter().find(|(name, _)| name == "ce_id").unwrap().1.clone();
        stored.insert(String::from_utf8(id).unwrap());
    }
    assert_eq!(stored, published);
}

#[test]
fn what_waits_for_kafka_is_finished_first() {
    let broker = EmbeddedBroker::start().unwrap();
    let mut app = Setup::on(&broker).set("shutdown_within", "20s").spawn();
    assert_eq!(app.post_signed(&payment("REF-0")).status, 200);
    broker.mock().broker_round_trip_time(-1, Duration::from_secs(1)).unwrap();
    let mut waiting =
        ["REF-1", "REF-2", "REF-3"].map(|reference| app.send_signed(&payment(reference)));
    app.await_in_flight(3);
    app.begin_stop();
    assert_eq!(app.await_ready(503), "not ready: shutting down\n");
    for connection in &mut waiting {
        let answer = connection.answer();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection"), Some("close"));
    }
    assert!(app.stop().is_nothing());
}

#[test]
fn a_body_under_way_is_finished_first() {
    let mut app = Setup::new().set("shutdown_within", "20s").spawn();
    let whole = post("REF-1");
    let (first, second) = whole.split_at(whole.len() - 100);
    let mut connection = Connection::open(app.http);
    connection.send(first);
    app.await_in_flight(1);
    app.begin_stop();
    app.await_ready(503);
    connection.send(second);
    assert_eq!(connection.answer().status, 200);
    assert!(app.stop().is_nothing());
}

#[test]
fn a_connection_without_a_request_does_not_hold_it_up() {
    let app = Setup::new().set("shutdown_within", "25s").spawn();
    let [unused, mut used] = [(); 2].map(|()| Connection::open(app.http));
    used.send(&post("REF-1"));
    assert_eq!(used.answer().status, 200);
    let started = Instant::now();
    assert!(app.stop().is_nothing());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    drop(unused);
}

#[test]
fn at_its_deadline_it_ends_and_says_what_is_left() {
    let broker = EmbeddedBroker::start().unwrap();
    let setup = Setup::on(&broker).set("shutdown_within", "1s");
    let (mut process, mut waiting) = process_that_waits(&setup, &broker);
    let started = Instant::now();
    process.signal("TERM");
    assert_eq!(process.end().code(), Some(1), "{:#?}", process.lines());
    let took = started.elapsed();
    assert!((0.9..6.0).contains(&took.as_secs_f64()), "{took:?}");
    let line = process.await_line("what is left", |line| line.get("requests").is_some());
    assert_eq!((&line["requests"], &line["records"]), (&1.into(), &1.into()), "{line}");
    assert_eq!(line["level"], "ERROR");
    assert!(waiting.try_answer(true).is_none(), "no answer is better than a false one");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let broker = EmbeddedBroker::start().unwrap();
    let setup = Setup::on(&broker).set("shutdown_within", "25s");
    let (mut process, _waiting) = process_that_waits(&setup, &broker);
    process.signal("INT");
    process.await_line("the drain", |line| line["message"] == "shutting down");
    let started = Instant::now();
    process.signal("INT");
    assert_eq!(process.end().code(), Some(1));
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    process.await_line("a reason", |line| {
        line["message"].as_str().unwrap_or_default().contains("second signal")
    });
}

#[test]
fn without_work_it_ends_at_once_with_0() {
    for signal in ["TERM", "INT"] {
        let mut process = Process::serve_ready(&Setup::new());
        process.signal(signal);
        assert_eq!(process.end().code(), Some(0), "{signal}: {:#?}", process.lines());
    }
}

#[test]
fn what_was_acknowledged_before_it_ended_is_read_by_the_next() {
    let app = App::spawn();
    let id = app.post_signed(&payment("REF-1")).ids();
    let (properties, topic) = (app.properties.clone(), app.topic("payment.received"));
    assert!(app.stop().is_nothing());
    let mut reader = Reader::open(&properties, &[topic], From::Start).unwrap();
    let record = eventually("the record", || reader.next(Duration::from_millis(100)).unwrap());
    assert!(record.headers.contains(&("ce_id".to_owned(), id[0].clone().into_bytes())));
}
