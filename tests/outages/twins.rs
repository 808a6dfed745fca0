//! The same webhook more than once: what is called a duplicate, who waits, and who tries again.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    cluster::{Cluster, Relay, ids, post, setup, webhook, with_spool},
    harness::{Answer, Connection, eventually, request, signed},
};

/// Long enough that whoever is early can be told from who is late.
const LONG: Duration = Duration::from_secs(3600);

#[track_caller]
fn place(answer: &Answer, status: &str) -> Value {
    assert_eq!((answer.status, &answer.json()["status"]), (200, &status.into()), "{answer:?}");
    answer.json()["events"].clone()
}

fn send(relay: &Relay, body: &str) -> Connection {
    let mut connection = Connection::open(relay.http);
    assert!(connection.send(&post(body)));
    connection
}

fn await_in_flight(relay: &Relay, count: f64) {
    eventually("requests are in flight", || {
        (relay.samples().sum("in_flight", &[]) == count).then_some(())
    });
}

#[test]
fn a_repeat_is_told_where_the_first_stands() {
    let cluster = Cluster::one();
    let setup = setup(&cluster.bootstrap_servers())
        .set("delivery.recent_max", "2")
        .set("applications.other.checksum_keys.main", crate::harness::KEY);
    let relay = Relay::start(&setup);
    let topic = setup.topic("payment.received");

    let first = place(&relay.post(&webhook("key", 0)), "published");
    assert_eq!(place(&relay.post(&webhook("key", 0)), "duplicate"), first);
    assert_eq!(cluster.records(&topic).len(), 1);

    // Another application's is another webhook.
    let path = format!("{}/other", clickpesa_relay::http::WEBHOOKS);
    let others = request("POST", &path, &[], &signed(&webhook("key", 0)));
    let others = place(&crate::harness::ask(relay.http, &others), "published");
    assert_ne!(others[0]["offset"], first[0]["offset"]);
    assert_eq!(cluster.records(&topic).len(), 2);

    // The window knows two: now the third pushes the first out.
    place(&relay.post(&webhook("key", 1)), "published");
    let again = place(&relay.post(&webhook("key", 0)), "published");
    assert_eq!(again[0]["id"], first[0]["id"]);
    assert_eq!(place(&relay.post(&webhook("key", 1)), "duplicate")[0]["offset"], 2);
    assert_eq!(relay.samples().ended("duplicate", ""), 2.0);
    relay.samples().assert_balanced();
}

#[test]
fn twins_under_way_are_one_record() {
    let cluster = Cluster::one();
    let setup = setup(&cluster.proxy.address.to_string());
    let relay = Relay::start(&setup);
    place(&relay.post(&webhook("key", 0)), "published");

    cluster.proxy.delay(LONG);
    let held = cluster.proxy.held();
    let first = send(&relay, &webhook("key", 1));
    cluster.proxy.await_held(held + 1);
    let twins = [(); 8].map(|()| send(&relay, &webhook("key", 1)));
    await_in_flight(&relay, 9.0);
    cluster.proxy.pass();
    let mut connections: Vec<_> = [first].into_iter().chain(twins).collect();
    let answers: Vec<_> = connections.iter_mut().map(Connection::answer).collect();
    let first = place(&answers[0], "published");
    for twin in &answers[1..] {
        assert_eq!(place(twin, "duplicate"), first);
    }
    assert_eq!(cluster.records(&setup.topic("payment.received")).len(), 2);
}

#[test]
fn a_twin_waits_no_longer_than_its_own_deadline() {
    let cluster = Cluster::one();
    let setup = setup(&cluster.proxy.address.to_string());
    let relay = Relay::start(&setup);
    place(&relay.post(&webhook("key", 0)), "published");

    cluster.proxy.delay(LONG);
    let twins: Vec<_> = (0..4)
        .map(|_| {
            let http = relay.http;
            thread::spawn(move || {
                let started = Instant::now();
                let answer = crate::harness::ask(http, &post(&webhook("key", 1)));
                (answer, started.elapsed())
            })
        })
        .collect();
    for twin in twins {
        let (answer, took) = twin.join().unwrap();
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(took < Duration::from_millis(3500), "{took:?}");
    }
    cluster.proxy.pass();
    // None is durable as far as is known, so none is a twin: the next is tried.
    let answer = eventually("it is taken", || {
        let answer = relay.post(&webhook("key", 1));
        (answer.status == 200).then_some(answer)
    });
    place(&answer, "published");
}

#[test]
fn a_twin_of_a_first_that_fails_is_tried() {
    let cluster = Cluster::one();
    let setup = setup(&cluster.proxy.address.to_string());
    let relay = Relay::start(&setup);
    place(&relay.post(&webhook("key", 0)), "published");

    cluster.proxy.delay(LONG);
    let held = cluster.proxy.held();
    // Its answer to the first request is not read, so that the socket is reset when it is closed.
    let mut first = Connection::open(relay.http);
    assert!(first.send(&request("GET", "/nothing", &[], b"")));
    assert!(first.is_answered(Duration::from_secs(5)));
    assert!(first.send(&post(&webhook("key", 1))));
    cluster.proxy.await_held(held + 1);
    let mut twin = send(&relay, &webhook("key", 1));
    await_in_flight(&relay, 2.0);
    drop(first);
    eventually("the first is abandoned", || {
        (relay.samples().ended("abandoned", "client_gone") == 1.0).then_some(())
    });
    cluster.proxy.pass();
    place(&twin.answer(), "published");
    relay.samples().assert_balanced();
}

#[test]
fn what_is_spooled_is_no_duplicate() {
    let cluster = Cluster::one();
    let setup = with_spool(setup(&cluster.proxy.address.to_string()));
    let relay = Relay::start(&setup);
    cluster.proxy.delay(LONG);
    let (first, second) = (relay.post(&webhook("key", 1)), relay.post(&webhook("key", 1)));
    for answer in [&first, &second] {
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.json()["status"], "spooled");
    }
    assert_eq!(ids(&first), ids(&second));
    cluster.proxy.pass();
    relay.await_drained();
    assert_eq!(cluster.first_ids(&setup.topic("payment.received")), ids(&first));
}
