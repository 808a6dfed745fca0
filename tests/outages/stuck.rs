//! A producer that makes no progress is replaced, and what it did not report goes out again.

use std::time::{Duration, Instant};

use crate::{
    cluster::{Cluster, Relay, Rights, ids, setup, webhook, with_spool},
    harness::eventually,
    outage::Pair,
};

/// How long a cluster may say that topics are missing: the relay's own.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

fn replaced(relay: &Relay) -> f64 {
    relay.samples().sum("kafka_producers_replaced_total", &[])
}

#[test]
fn a_producer_that_may_not_begin() {
    // A real fatal error: who may write no topic gets no id as an idempotent producer.
    let cluster = Cluster::one();
    let limited = || cluster.limited(setup(&cluster.bootstrap_servers()));
    let limited = || limited().set("kafka.topics.create", "false");
    let plain = limited().set("http.answer_within", "30s");
    let spooling = with_spool(limited());
    let prefix = plain.topic("");
    let (prefix, _) = prefix.split_once('.').unwrap();
    let _rights = Rights { cluster: &cluster, prefix: prefix.to_owned() };
    for setup in [&plain, &spooling] {
        cluster.create_topics(setup);
    }
    cluster.allow(&["Describe"], prefix);
    let [plain_relay, spooling_relay] = [&plain, &spooling].map(Relay::start);

    let mut waiting = crate::harness::Connection::open(plain_relay.http);
    assert!(waiting.send(&crate::cluster::post(&webhook("key", 0))));
    let spooled: Vec<_> =
        (0..20).map(|number| spooling_relay.post(&webhook("key", number))).collect();
    assert!(spooled.iter().all(|answer| answer.status == 202), "{spooled:?}");
    for relay in [&plain_relay, &spooling_relay] {
        relay.await_cause("Fatal error");
        relay.await_cause("the producer makes no progress and is replaced");
        eventually("it is replaced again", || (replaced(relay) >= 2.0).then_some(()));
    }

    let before = replaced(&plain_relay);
    let started = Instant::now();
    cluster.allow(&["Write"], prefix);
    // The one that waited goes out through a new producer.
    let answer = waiting.answer();
    assert_eq!(answer.status, 200, "{answer:?}");
    spooling_relay.await_drained();
    let expected: Vec<_> = spooled.iter().flat_map(ids).collect();
    assert_eq!(cluster.first_ids(&spooling.topic("payment.received")), expected);
    // No more often than once a second.
    let replaced = replaced(&plain_relay) - before;
    assert!(replaced <= started.elapsed().as_secs_f64() + 1.0, "{replaced}");
    assert_eq!(plain_relay.post(&webhook("key", 1)).status, 200);
}

#[test]
fn a_producer_whose_records_the_broker_has_lost() {
    // As after a power loss, with one replica: what the broker has no longer is a gap in the
    // producer's sequence, and a fatal error to librdkafka.
    let cluster = Cluster::one();
    let bare = setup(&cluster.bootstrap_servers()).set("http.answer_within", "30s");
    let (plain, spooling) = (bare, with_spool(setup(&cluster.bootstrap_servers())));
    let relays =
        [&plain, &spooling].map(|setup| (setup.topic("payment.received"), Relay::start(setup)));
    for (_, relay) in &relays {
        let answers: Vec<_> = (0..5).map(|number| relay.post(&webhook("key", number))).collect();
        assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    }
    cluster.end(1, "KILL");
    relays.iter().for_each(|(topic, _)| cluster.lose_all_but_first(1, topic));
    cluster.restart(1);
    for (topic, relay) in &relays {
        cluster.await_leader(topic);
        // Until it knows, the answer is 503 where there is no spool.
        relay.await_ready(200);
        let first = cluster.first_ids(topic);
        assert_eq!(first.len(), 1);
        let answers: Vec<_> = (5..10).map(|number| relay.post(&webhook("key", number))).collect();
        assert!(answers.iter().all(|answer| [200, 202].contains(&answer.status)), "{answers:?}");
        relay.await_cause("Fatal error");
        relay.await_cause("the producer makes no progress and is replaced");
        assert!(replaced(relay) >= 1.0);
        relay.await_drained();
        let expected: Vec<_> = first.into_iter().chain(answers.iter().flat_map(ids)).collect();
        assert_eq!(cluster.first_ids(topic), expected);
        relay.samples().assert_balanced();
    }
}

#[test]
fn a_producer_without_a_report() {
    let cluster = Cluster::one();
    // No time-out of librdkafka's own ends the wait: what is left is the relay's, 4 s.
    let setup = with_spool(setup(&cluster.proxy.address.to_string()))
        .set("kafka.allow_weaker_delivery", "true")
        .set("kafka.properties.message_timeout_ms", "0")
        .set("kafka.properties.socket_timeout_ms", "300000")
        .set("http.answer_within", "1s")
        .set("http.body_within", "1s");
    let relay = Relay::start(&setup);
    assert_eq!(relay.post(&webhook("key", 0)).status, 200);

    cluster.proxy.deafen();
    let spooled: Vec<_> = (1..20).map(|number| relay.post(&webhook("key", number))).collect();
    assert!(spooled.iter().all(|answer| answer.status == 202), "{spooled:?}");
    assert_eq!(replaced(&relay), 0.0);
    let started = Instant::now();
    relay.await_drained();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(replaced(&relay), 1.0);
    relay.await_cause("the producer makes no progress and is replaced");
    let published = cluster.first_ids(&setup.topic("payment.received"));
    assert_eq!(published[1..], spooled.iter().flat_map(ids).collect::<Vec<_>>()[..]);
    assert_eq!(relay.post(&webhook("key", 20)).status, 200);
    relay.samples().assert_balanced();
}

#[test]
fn a_producer_that_has_forgotten_its_brokers() {
    let cluster = Cluster::one();
    // As it may also do by itself, it does not go back to the bootstrap servers.
    let mut pair = Pair::start(|| {
        let setup = setup(&cluster.proxy.address.to_string());
        setup.set("kafka.properties.metadata_recovery_strategy", "none")
    });
    pair.publish();
    cluster.proxy.hide_brokers();
    for relay in [&pair.spooling, &pair.plain] {
        relay.await_cause("Kafka does not answer");
    }
    pair.assert_down("no brokers", "the producer has forgotten every broker");
    // A new one has learned of none that it could forget.
    pair.assert_down("still none", "Broker not available");
    cluster.proxy.pass();
    pair.assert_recovers("no brokers", &cluster, Instant::now());
    assert_eq!([&pair.spooling, &pair.plain].map(replaced), [1.0; 2]);
}

#[test]
fn a_producer_that_keeps_to_a_leader_of_before() {
    let cluster = Cluster::three();
    let setup = setup(&cluster.bootstrap_servers());
    let topic = setup.topic("payment.received");
    cluster.create_topic_on(1, &topic);
    let relay = Relay::start(&setup);
    let mut number = 0;
    let mut publish = || {
        number += 1;
        (relay.post(&webhook("key", number)).status == 200).then_some(())
    };
    publish().unwrap();
    // The leader's epoch is higher after this, and the producer knows.
    cluster.end(1, "TERM");
    cluster.restart(1);
    cluster.await_leader(&topic);
    eventually("it is published again", &mut publish);
    // To this producer, the new topic's metadata is older than what it knows.
    cluster.delete_topic(&topic);
    cluster.create_topic_on(2, &topic);
    eventually("it is published to the new topic", &mut publish);
    relay.await_cause("the producer makes no progress and is replaced");
    assert!(!cluster.first_ids(&topic).is_empty());
}

#[test]
fn a_start_that_is_told_of_no_broker() {
    let cluster = Cluster::one();
    let setup = setup(&cluster.proxy.address.to_string())
        .set("kafka.topics.create", "false")
        .set("kafka.properties.metadata_recovery_strategy", "none");
    let relay = Relay::start_unready(&setup);
    let said =
        |words: &str| relay.process.lines().iter().filter(|line| line.contains(words)).count();
    // It has learned of brokers, and then forgets them.
    relay.await_cause("does not exist");
    cluster.proxy.hide_brokers();
    // For longer than a cluster may take to find its topics.
    let started = Instant::now();
    eventually("it has tried for long", || {
        (said("cannot reach Kafka") > 1 && started.elapsed() > SETTLES_WITHIN).then_some(())
    });
    let before = said("does not exist");
    cluster.proxy.pass();
    eventually("it looks for the topics again", || (said("does not exist") > before).then_some(()));
    cluster.create_topics(&setup);
    relay.await_ready(200);
    assert_eq!(relay.post(&webhook("key", 0)).status, 200);
}
