//! The topics at start: made, verified, or an error that names the topic and the act.

use std::{
    collections::HashMap,
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use actix_web::rt::System;
use clickpesa_relay::{
    app::StartError,
    event::kind::Kind,
    kafka::topics::{ALL, REJECTED, TopicsError},
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication},
    client::DefaultClientContext,
};

use crate::harness::{App, PATIENCE, Setup, eventually, payment, provided};

fn admin() -> AdminClient<DefaultClientContext> {
    let servers = provided("RELAY_TEST_KAFKA");
    ClientConfig::new().set("bootstrap.servers", servers).create().unwrap()
}

fn create(names: &[String]) {
    let topic = |name| NewTopic::new(name, 2, TopicReplication::Fixed(1));
    let topics: Vec<_> = names.iter().map(|name| topic(name)).collect();
    let created =
        System::new().block_on(admin().create_topics(&topics, &AdminOptions::new())).unwrap();
    assert!(created.iter().all(Result::is_ok), "{created:?}");
}

/// The partitions of each topic whose name begins so, once there are that many topics.
fn partitions(prefix: &str, count: usize) -> HashMap<String, usize> {
    eventually(&format!("{count} topics {prefix}"), || {
        let metadata = admin().inner().fetch_metadata(None, PATIENCE).unwrap();
        let ours = metadata.topics().iter().filter(|topic| topic.name().starts_with(prefix));
        let found: HashMap<_, _> =
            ours.map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect();
        (found.len() == count).then_some(found)
    })
}

fn retention_ms(topic: &str) -> String {
    let topic = ResourceSpecifier::Topic(topic);
    let described =
        System::new().block_on(admin().describe_configs([&topic], &AdminOptions::new())).unwrap();
    let entries = described.into_iter().next().unwrap().unwrap().entries;
    let entry = entries.into_iter().find(|entry| entry.name == "retention.ms").unwrap();
    entry.value.unwrap()
}

#[test]
fn missing_topics_are_made_as_configured() {
    let app = Setup::new()
        .set("kafka.topics.partitions", "4")
        .set("kafka.topics.all", "true")
        .set("kafka.topics.retention.payment.received", "720h")
        .set("kafka.topics.retention.all", "1h")
        .spawn();
    let found = partitions(&app.topic(""), Kind::ALL.len() + 2);
    assert!(found.values().all(|&count| count == 4), "{found:?}");
    for suffix in Kind::ALL.map(Kind::suffix).into_iter().chain([ALL, REJECTED]) {
        assert!(found.contains_key(&app.topic(suffix)), "{suffix}: {found:?}");
    }
    let hours = |count: u32| (count * 3_600_000).to_string();
    assert_eq!(retention_ms(&app.topic("payment.received")), hours(720));
    assert_eq!(retention_ms(&app.topic("all")), hours(1));
    assert_eq!(retention_ms(&app.topic("payment.failed")), hours(7 * 24), "the broker's own");
}

#[test]
fn topics_that_are_there_stay_as_they_are() {
    let setup = Setup::new().set("kafka.topics.partitions", "4");
    create(&[setup.topic("payment.received")]);
    let app = setup.clone().spawn();
    let found = partitions(&app.topic(""), Kind::ALL.len() + 1);
    assert_eq!(found[&app.topic("payment.received")], 2);
    assert_eq!(found[&app.topic("payment.failed")], 4);
    drop(app);
    assert_eq!(setup.spawn().post_signed(&payment("REF-1")).status, 200, "and again");
}

#[test]
fn two_relays_that_start_at_once_share_their_topics() {
    let setup = Setup::new();
    let apps = [setup.clone().spawn_unready(), setup.spawn_unready()];
    for app in &apps {
        app.await_ready(200);
        assert_eq!(app.post_signed(&payment("REF-1")).status, 200);
    }
    assert_eq!(apps[0].records("payment.received").len(), 2);
}

fn topics_error(mut app: App) -> (TopicsError, String) {
    match app.end() {
        Err(StartError::Topics(error)) => {
            let text = error.to_string();
            (error, text)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn with_creation_off_a_missing_topic_ends_it() {
    let setup = Setup::new().set("kafka.topics.create", "false");
    let missing = setup.topic("payout.reversed");
    let names = Kind::ALL.map(Kind::suffix).into_iter().chain([REJECTED]);
    let names = names.map(|suffix| setup.topic(suffix));
    create(&names.filter(|name| *name != missing).collect::<Vec<_>>());
    partitions(&setup.topic(""), Kind::ALL.len());
    let (error, text) = topics_error(setup.clone().spawn_unready());
    assert!(matches!(&error, TopicsError::Missing { topic } if *topic == missing), "{error:?}");
    assert!(text.contains("clickpesa-relay topics create"), "{text}");
    create(&[missing]);
    partitions(&setup.topic(""), Kind::ALL.len() + 1);
    assert_eq!(setup.spawn().post_signed(&payment("REF-1")).status, 200);
}

/// A user that Kafka lets in, and that may do nothing.
fn limited() -> Setup {
    Setup::at(&provided("RELAY_TEST_KAFKA_SASL_SSL"))
        .set("kafka.properties.security.protocol", "SASL_SSL")
        .set("kafka.properties.ssl.ca.location", &provided("RELAY_TEST_KAFKA_CA"))
        .set("kafka.properties.sasl.mechanism", "PLAIN")
        .set("kafka.properties.sasl.username", "limited")
        .set("kafka.properties.sasl.password", "limited-secret")
}

#[test]
fn a_user_that_may_not_see_the_topics_ends_it() {
    for create in ["true", "false"] {
        let setup = limited().set("kafka.topics.create", create);
        let prefix = setup.topic("");
        let (error, text) = topics_error(setup.spawn_unready());
        assert!(matches!(error, TopicsError::Forbidden { .. }), "{error:?}");
        assert!(text.contains(&prefix), "names the topic: {text}");
        assert!(text.contains("DESCRIBE and WRITE"), "names the act: {text}");
    }
}

#[test]
fn more_replicas_than_brokers_end_it() {
    let setup = Setup::new().set("kafka.topics.replication_factor", "9");
    let prefix = setup.topic("");
    let (error, text) = topics_error(setup.spawn_unready());
    assert!(matches!(error, TopicsError::Create { .. }), "{error:?}");
    assert!(text.starts_with(&format!("cannot create topic `{prefix}")), "{text}");
}

// --- Without Kafka ---------------------------------------------------------------------

/// A port that hangs up on everybody until it is opened, and forwards from then on.
struct Gate {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
}

impl Gate {
    /// A closed gate in front of an address.
    fn before(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let is_open = Arc::new(AtomicBool::new(false));
        let (shared, target) = (Arc::clone(&is_open), target.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if shared.load(Ordering::Acquire)
                    && let Ok(server) = TcpStream::connect(&target)
                {
                    forward(&client, &server);
                    forward(&server, &client);
                }
            }
        });
        Self { address, is_open }
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::Release);
    }
}

fn forward(from: &TcpStream, to: &TcpStream) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    thread::spawn(move || {
        // Either end may hang up at any time; then the other is told.
        io::copy(&mut from, &mut to).ok();
        to.shutdown(Shutdown::Both).ok();
    });
}

#[test]
fn without_kafka_it_serves_and_waits() {
    let gate = Gate::before(&provided("RELAY_TEST_KAFKA"));
    let app = Setup::at(&gate.address.to_string())
        .set("http.answer_within", "300ms")
        .set("http.body_within", "200ms")
        .spawn_unready();
    let reason = app.await_ready(503);
    assert!(reason.starts_with("not ready: Kafka has not been reached yet"), "{reason}");
    assert_eq!(app.get("/live").status, 200, "a restart would not help");
    let answer = app.post_signed(&payment("REF-1"));
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    gate.open();
    app.await_ready(200);
    eventually("webhooks are published", || {
        (app.post_signed(&payment("REF-2")).status == 200).then_some(())
    });
}

#[test]
fn nobody_at_kafkas_port_is_no_reason_to_end() {
    // Bound and closed again, so that nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let app = Setup::at(&port.to_string()).spawn_unready();
    app.await_ready(503);
    assert!(app.stop().is_nothing(), "and it can be stopped");
}
