//! Kafka fails in every way it can: what is answered meanwhile, and how its return is noticed.

use std::{
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    cluster::{
        Cluster, NOTICED_WITHIN, Relay, Rights, ids, post, setup, webhook, webhook_of, with_spool,
    },
    harness::{Answer, Connection, Setup, eventually, header},
};

/// What 99 of 100 answers may take once Kafka is known to be down, beside the sync of a disk.
const AT_ONCE: Duration = Duration::from_millis(10);

/// Answers that are timed.
const TIMED: usize = 300;

/// Two relays with the same fault: with a spool, and without.
pub(crate) struct Pair {
    pub(crate) spooling: Relay,
    pub(crate) plain: Relay,
    topic: String,
    plain_topic: String,
    /// The ids of one key's events, in the order of their answers.
    answered: Vec<String>,
    number: AtomicUsize,
}

impl Pair {
    pub(crate) fn start(setup: impl Fn() -> Setup) -> Self {
        let (plain, spooling) = (setup(), with_spool(setup()));
        let [topic, plain_topic] = [&spooling, &plain].map(|setup| setup.topic("payment.received"));
        let [spooling, plain] = [&spooling, &plain].map(Relay::start);
        let (answered, number) = (Vec::new(), AtomicUsize::new(0));
        Self { spooling, plain, topic, plain_topic, answered, number }
    }

    fn next(&self) -> usize {
        self.number.fetch_add(1, Ordering::Relaxed)
    }

    /// Both take an event, and Kafka has it; on a busy machine the first may come too late.
    #[track_caller]
    pub(crate) fn publish(&mut self) {
        for is_spooling in [true, false] {
            eventually("an event is published", || {
                let relay = if is_spooling { &self.spooling } else { &self.plain };
                let answer = relay.post(&webhook("key", self.next()));
                if is_spooling {
                    self.answered.extend(ids(&answer));
                    relay.await_drained();
                }
                (answer.status == 200).then_some(())
            });
        }
    }

    /// An event of the key goes to the spool.
    #[track_caller]
    fn spool(&mut self) {
        let answer = self.spooling.post(&webhook("key", self.next()));
        assert_eq!(answer.status, 202, "{answer:?}");
        assert_eq!(answer.json()["status"], "spooled");
        self.answered.extend(ids(&answer));
    }

    /// What both do while Kafka is down, with its cause in the log.
    #[track_caller]
    pub(crate) fn assert_down(&mut self, name: &str, cause: &str) {
        self.spool();
        let answer = self.plain.post(&webhook("key", self.next()));
        assert_unavailable(&answer, &["kafka_timeout", "kafka_refused", "kafka_down"]);
        for relay in [&self.spooling, &self.plain] {
            relay.await_cause(cause);
        }
        let (answer, sync) = self.spooling.time_posts(&format!("{name}, spool"), TIMED, 202);
        assert!(answer < sync + AT_ONCE, "{answer:?}, {sync:?}");
        let (answer, sync) = self.plain.time_posts(&format!("{name}, no spool"), TIMED, 503);
        assert!(answer < sync + AT_ONCE, "{answer:?}, {sync:?}");
        self.spool();
        self.assert_books();
    }

    #[track_caller]
    fn assert_books(&self) {
        let samples = self.spooling.samples();
        samples.assert_balanced();
        assert!(samples.ended("spooled", "") >= TIMED as f64, "{samples:?}");
        assert!(samples.sum("spool_events", &[]) >= TIMED as f64, "{samples:?}");
        let samples = self.plain.samples();
        samples.assert_balanced();
        assert!(samples.ended("failed", "kafka_down") >= TIMED as f64 * 0.9, "{samples:?}");
    }

    /// The outage is noticed to be over, and nothing is lost, doubled in a new order, or late.
    #[track_caller]
    pub(crate) fn assert_recovers(
        &mut self,
        name: &str,
        cluster: &Cluster,
        answers_since: Instant,
    ) {
        let late = |what: &str| {
            let took = answers_since.elapsed();
            println!("{name}: {what} after {took:?}");
            assert!(took < NOTICED_WITHIN, "{name}: {what} only after {took:?}");
        };
        eventually("the relay without a spool publishes again", || {
            let answer = self.plain.post(&webhook("key", self.next()));
            (answer.status == 200).then_some(())
        });
        late("published again");
        self.spooling.await_drained();
        late("spool empty");
        self.plain.await_ready(200);
        late("ready");
        self.publish();
        let ids = cluster.first_ids(&self.topic);
        let known = |id: &&String| self.answered.contains(id);
        assert_eq!(ids.iter().filter(known).collect::<Vec<_>>(), {
            self.answered.iter().collect::<Vec<_>>()
        });
        for relay in [&self.spooling, &self.plain] {
            // The plain one may have had no webhook while its leader was gone.
            if relay.process.lines().iter().any(|line| line.contains("Kafka does not")) {
                relay.await_cause(" again\"");
            }
            relay.samples().assert_balanced();
        }
    }
}

#[track_caller]
fn assert_unavailable(answer: &Answer, reasons: &[&str]) {
    assert_eq!(answer.status, 503, "{answer:?}");
    assert_eq!(answer.header("retry-after"), Some("5"));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem = answer.json()["type"].as_str().unwrap().to_owned();
    let reason = problem.strip_prefix("urn:clickpesa-relay:problem:").unwrap();
    assert!(reasons.contains(&reason), "{answer:?}");
}

#[test]
fn a_broker_that_is_stopped() {
    let cluster = Cluster::one();
    let mut pair = Pair::start(|| setup(&cluster.bootstrap_servers()));
    pair.publish();
    cluster.signal(1, "STOP");
    pair.assert_down("stopped", "no acknowledgement within 300ms");
    pair.plain.await_ready(503);
    assert_eq!(pair.spooling.ready().status, 200);
    pair.plain.await_cause("Kafka does not answer");
    cluster.signal(1, "CONT");
    let answers = cluster.await_leader(&pair.topic);
    pair.assert_recovers("stopped", &cluster, answers);
}

#[test]
fn a_broker_that_is_killed_and_comes_back() {
    let cluster = Cluster::one();
    let mut pair = Pair::start(|| setup(&cluster.bootstrap_servers()));
    pair.publish();
    cluster.end(1, "KILL");
    pair.assert_down("killed", "Kafka does not answer");
    pair.plain.await_ready(503);
    assert_eq!(pair.spooling.ready().status, 200);
    assert_eq!(pair.spooling.samples().sum("kafka_broker_up", &[]), 0.0);
    cluster.restart(1);
    let answers = cluster.await_leader(&pair.topic);
    pair.assert_recovers("killed", &cluster, answers);
}

#[test]
fn acknowledgements_that_come_late() {
    let cluster = Cluster::one();
    let patient = || {
        let setup = setup(&cluster.proxy.address.to_string()).set("http.answer_within", "8s");
        setup.set("delivery.patience", "1s")
    };
    let mut pair = Pair::start(patient);
    pair.publish();

    // Within the patience: slow, and nothing else.
    cluster.proxy.delay(Duration::from_millis(250));
    for relay in [&pair.spooling, &pair.plain] {
        for number in 0..3 {
            let answer = relay.post(&webhook("slow", number));
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }

    // Beyond it: the spool has it, and who has none waits longer.
    cluster.proxy.delay(Duration::from_secs(2));
    let answer = pair.plain.post(&webhook("late", 0));
    assert_eq!(answer.status, 200, "{answer:?}");
    pair.spool();
    for relay in [&pair.spooling, &pair.plain] {
        relay.await_cause("no acknowledgement within 1s");
    }
    for _ in 0..20 {
        pair.spool();
    }
    cluster.proxy.pass();
    pair.assert_recovers("late", &cluster, Instant::now());
    // What was acknowledged late stands there twice, once from the spool.
    let records = cluster.records(&pair.topic).len();
    assert!(records > cluster.first_ids(&pair.topic).len(), "{records}");
}

#[test]
fn too_few_replicas_in_sync() {
    let cluster = Cluster::three();
    let mut pair = Pair::start(|| setup(&cluster.bootstrap_servers()));
    pair.publish();
    let leader = cluster.leader(&pair.plain_topic).unwrap();
    let others: Vec<_> = (1..=3).filter(|id| *id != leader).collect();
    // In order, so that the cluster takes them off the list of replicas in sync.
    others.iter().for_each(|id| cluster.end(*id, "TERM"));
    pair.assert_down("too few replicas", "only 1 of 3 replicas are in sync");
    assert_eq!(pair.plain.ready().status, 503);
    assert_eq!(pair.spooling.ready().status, 200);
    others.iter().for_each(|id| cluster.restart(*id));
    let answers = eventually("two replicas are in sync", || {
        let topics = [&pair.topic, &pair.plain_topic];
        topics.iter().all(|topic| cluster.in_sync(topic) >= 2).then(Instant::now)
    });
    pair.assert_recovers("too few replicas", &cluster, answers);
}

#[test]
fn a_leader_that_is_killed() {
    let cluster = Cluster::three();
    let mut pair = Pair::start(|| setup(&cluster.bootstrap_servers()));
    pair.publish();
    let leader = cluster.leader(&pair.topic).unwrap();
    cluster.end(leader, "KILL");
    // With a spool every answer is a 2xx, and comes before its deadline.
    for _ in 0..10 {
        let started = Instant::now();
        let answer = pair.spooling.post(&webhook("key", pair.next()));
        assert!([200, 202].contains(&answer.status), "{answer:?}");
        assert!(started.elapsed() < Duration::from_secs(3));
        pair.answered.extend(ids(&answer));
    }
    let answers = eventually("others lead", || {
        let mut topics = [&pair.topic, &pair.plain_topic].into_iter();
        let has_other = |topic: &String| cluster.leader(topic).is_some_and(|now| now != leader);
        topics.all(has_other).then(Instant::now)
    });
    pair.assert_recovers("leader killed", &cluster, answers);
    cluster.restart(leader);
}

#[test]
fn a_topic_that_is_deleted() {
    let cluster = Cluster::one();
    let servers = cluster.bootstrap_servers();
    let setups = [setup(&servers), with_spool(setup(&servers))];
    let [plain, spooling] = [0, 1].map(|index| Relay::start(&setups[index]));
    let failed = |number| webhook_of("PAYMENT FAILED", "key", number);
    for relay in [&plain, &spooling] {
        assert_eq!(relay.post(&failed(0)).status, 200);
        assert_eq!(relay.post(&webhook("other", 0)).status, 200);
    }
    setups.iter().for_each(|setup| cluster.delete_topic(&setup.topic("payment.failed")));

    let answer = plain.post(&failed(1));
    assert_unavailable(&answer, &["kafka_refused", "kafka_timeout", "kafka_down"]);
    let answer = spooling.post(&failed(1));
    assert_eq!(answer.status, 202, "{answer:?}");
    for relay in [&plain, &spooling] {
        relay.await_cause("Unknown topic");
        // The other topics go on, and at once; a busy machine may now and then exceed the patience.
        let mut published = 0;
        for number in 1..50 {
            let started = Instant::now();
            let answer = relay.post(&webhook("other", number));
            assert!([200, 202].contains(&answer.status), "{answer:?}");
            assert!(started.elapsed() < Duration::from_millis(1000));
            published += usize::from(answer.status == 200);
        }
        assert!(published > 40, "{published} of 49");
        assert_eq!(relay.ready().status, 200);
    }
    for number in 2..50 {
        let started = Instant::now();
        // One of them is tried, and not for longer than the patience.
        let reasons = ["kafka_refused", "kafka_timeout", "kafka_down"];
        assert_unavailable(&plain.post(&failed(number)), &reasons);
        assert!(started.elapsed() < Duration::from_millis(1000));
        assert_eq!(spooling.post(&failed(number)).status, 202);
    }
    assert_eq!(spooling.spooled(), 49.0);

    setups.iter().for_each(|setup| cluster.create_topic(&setup.topic("payment.failed")));
    let made = Instant::now();
    spooling.await_drained();
    eventually("the topic is used again", || (plain.post(&failed(99)).status == 200).then_some(()));
    println!("deleted: healed after {:?}", made.elapsed());
    assert!(made.elapsed() < NOTICED_WITHIN, "{:?}", made.elapsed());
    assert_eq!(cluster.first_ids(&setups[1].topic("payment.failed")).len(), 49);
}

#[test]
fn a_right_or_a_password_that_is_taken_away() {
    let cluster = Cluster::one();
    let secured = || cluster.limited(setup(&cluster.bootstrap_servers()));
    let prefix = secured().topic("");
    let (prefix, _) = prefix.split_once('.').unwrap();
    let _rights = Rights { cluster: &cluster, prefix: prefix.to_owned() };
    cluster.allow(&["Describe", "Write", "Create"], prefix);
    let mut pair = Pair::start(secured);
    pair.publish();

    cluster.forbid(&["Write"], prefix);
    pair.assert_down("no right", "Topic authorization failed");
    assert_eq!(pair.plain.ready().status, 503);
    assert_eq!(pair.spooling.ready().status, 200);
    cluster.allow(&["Write"], prefix);
    pair.assert_recovers("no right", &cluster, Instant::now());

    // Connections that stand are not asked again.
    cluster.set_password("another-secret");
    pair.publish();
    cluster.end(1, "KILL");
    cluster.restart(1);
    cluster.await_leader(&pair.topic);
    pair.assert_down("wrong password", "SASL authentication error");
    pair.plain.await_ready(503);
    assert_eq!(pair.spooling.ready().status, 200);
    cluster.set_password("limited-secret");
    pair.assert_recovers("wrong password", &cluster, Instant::now());
}

#[test]
fn a_shutdown_under_load_while_kafka_is_down() {
    let cluster = Cluster::one();
    let setup = with_spool(setup(&cluster.bootstrap_servers()));
    let topic = setup.topic("payment.received");
    let mut relay = Relay::start(&setup);
    assert_eq!(relay.post(&webhook("before", 0)).status, 200);
    cluster.end(1, "KILL");

    let (http, go_on) = (relay.http, std::sync::atomic::AtomicBool::new(true));
    let spooled: Vec<String> = thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let go_on = &go_on;
                scope.spawn(move || {
                    let mut spooled = Vec::new();
                    for number in 0.. {
                        let Some(answer) = try_post(http, &format!("load-{client}"), number) else {
                            break;
                        };
                        match answer.status {
                            202 => spooled.extend(ids(&answer)),
                            _ => assert_unavailable(&answer, &["draining"]),
                        }
                        if !go_on.load(Ordering::Relaxed) && answer.status != 202 {
                            break;
                        }
                    }
                    spooled
                })
            })
            .collect();
        eventually("some are spooled", || (relay.spooled() > 200.0).then_some(()));
        go_on.store(false, Ordering::Relaxed);
        relay.process.signal("TERM");
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    let status = relay.process.end();
    assert!(status.success(), "{status}: {:#?}", relay.process.lines());
    assert!(spooled.len() > 200);
    cluster.restart(1);
    cluster.await_leader(&topic);

    // What was answered 202 is there at the next start, and goes to Kafka.
    let relay = Relay::start(&setup);
    relay.await_drained();
    let published = cluster.first_ids(&topic);
    assert!(spooled.iter().all(|id| published.contains(id)));
}

#[test]
fn a_spool_that_is_deleted_while_it_is_used() {
    let cluster = Cluster::one();
    let setup = with_spool(setup(&cluster.bootstrap_servers()));
    let topic = setup.topic("payment.received");
    let relay = Relay::start(&setup);
    assert_eq!(relay.post(&webhook("key", 0)).status, 200);
    cluster.end(1, "KILL");
    let before = relay.post(&webhook("key", 1));
    assert_eq!(before.status, 202, "{before:?}");
    let file = std::path::Path::new(&setup.settings().spool.unwrap().path).join("spool.sqlite");
    std::fs::remove_file(file).unwrap();
    let answers: Vec<_> = (2..10).map(|number| relay.post(&webhook("key", number))).collect();
    assert!(answers.iter().all(|answer| answer.status == 202), "{answers:?}");
    relay.await_cause("the file was moved or deleted by somebody else");
    cluster.restart(1);
    cluster.await_leader(&topic);
    relay.await_drained();
    let mut published = cluster.first_ids(&topic);
    let [before] = &ids(&before)[..] else { panic!("{before:?}") };
    let got_back = published.iter().position(|id| id == before).expect("it is got back");
    published.remove(got_back);
    let expected: Vec<_> = answers.iter().flat_map(ids).collect();
    assert_eq!(published[1..], expected);
    relay.samples().assert_balanced();
}

#[test]
fn a_topic_whose_limit_was_lowered() {
    let cluster = Cluster::one();
    let setup = with_spool(setup(&cluster.bootstrap_servers()));
    let topic = setup.topic("payment.received");
    let relay = Relay::start(&setup);
    assert_eq!(relay.post(&webhook("small", 0)).status, 200);
    cluster.limit_batches(&topic, 4000);
    cluster.end(1, "KILL");
    let large = crate::harness::webhook("PAYMENT RECEIVED", "large", &"n".repeat(4000));
    let behind = webhook("large", 1);
    let answers = [&large, &behind, &webhook("small", 1)].map(|body| relay.post(body));
    assert!(answers.iter().all(|answer| answer.status == 202), "{answers:?}");
    cluster.restart(1);

    // It waits, and what has its key: nobody else does.
    relay.await_cause("an event in the spool is too large");
    eventually("the others are published", || (relay.spooled() == 2.0).then_some(()));
    let [large, behind, small] = answers.map(|answer| ids(&answer).remove(0));
    assert_eq!(cluster.first_ids(&topic)[1..], *std::slice::from_ref(&small));
    assert!(relay.samples().sum("spool_too_large_total", &[]) >= 1.0);
    assert_eq!(relay.post(&webhook("small", 2)).status, 200);
    cluster.limit_batches(&topic, 1_000_000);
    relay.await_drained();
    assert_eq!(cluster.first_ids(&topic)[3..], [large, behind]);
    relay.samples().assert_balanced();
}

#[test]
fn a_partition_without_a_leader() {
    // Of the partition that is gone, more than the drain reads at once.
    const KEYS: usize = 720;
    const SENDERS: usize = 32;
    let cluster = Cluster::three();
    let setup = with_spool(setup(&cluster.bootstrap_servers()));
    let topic = setup.topic("payment.received");
    // One partition on each broker.
    cluster.create_topic_with(&topic, 3, 1);
    let relay = Relay::start(&setup);
    let post_all = |number: usize| {
        let post = |key| relay.post(&webhook(&format!("key-{key}"), number));
        let keys = |sender| sender * KEYS / SENDERS..(sender + 1) * KEYS / SENDERS;
        let post_some = |sender| keys(sender).map(post).collect::<Vec<_>>();
        thread::scope(|scope| {
            let senders: Vec<_> =
                (0..SENDERS).map(|sender| scope.spawn(move || post_some(sender))).collect();
            senders.into_iter().flat_map(|sender| sender.join().unwrap()).collect::<Vec<_>>()
        })
    };
    // On a busy machine the first may come too late.
    let mut tries = 0;
    let before = eventually("all are published", || {
        tries += 1;
        let answers = post_all(3 + tries);
        relay.await_drained();
        answers.iter().all(|answer| answer.status == 200).then_some(answers)
    });
    let partition_of =
        |answer: &Answer| answer.json()["events"][0]["partition"].as_i64().unwrap_or(-1);
    let leader = cluster.leader(&topic).unwrap();
    cluster.end(leader, "KILL");
    // Those of the partition that is gone wait, and none of the others behind them.
    let (gone, there): (Vec<_>, Vec<_>) =
        (0..KEYS).partition(|key| partition_of(&before[*key]) == 0);
    assert!(gone.len() > 130 && !there.is_empty(), "{}", gone.len());
    let during = post_all(1);
    assert!(during.iter().all(|answer| [200, 202].contains(&answer.status)), "{during:?}");
    let mut live = 0;
    let mut await_others = |number: usize| {
        eventually("the others are published, with what comes meanwhile", || {
            live += 1;
            let answer =
                relay.post(&webhook(&format!("key-{}", there[live % there.len()]), 100 + live));
            assert!([200, 202].contains(&answer.status), "{answer:?}");
            (relay.spooled() == (gone.len() * number) as f64).then_some(())
        });
    };
    await_others(1);
    for number in 2..4 {
        // Whatever is tried first is of that partition, and times out.
        eventually("the topic is down", || {
            let is_up = relay.samples().sum("kafka_topic_up", &[&topic]);
            (is_up == 0.0).then_some(())
        });
        post_all(number);
        await_others(number);
    }
    cluster.restart(leader);
    relay.await_drained();
    assert_eq!(cluster.first_ids(&topic).len(), (3 + tries) * KEYS + live);
    relay.samples().assert_balanced();
}

#[test]
fn a_clock_that_was_ahead() {
    static AHEAD_HOURS: AtomicI64 = AtomicI64::new(2);
    let clock = || {
        let ahead = SignedDuration::from_hours(AHEAD_HOURS.load(Ordering::Relaxed));
        Timestamp::now() + ahead
    };
    let cluster = Cluster::one();
    let app = with_spool(setup(&cluster.bootstrap_servers())).clock(clock).spawn();
    // Kafka takes no record from more than an hour ahead.
    let early = app.post_signed(&webhook("key", 0));
    assert_eq!(early.status, 202, "{early:?}");
    AHEAD_HOURS.store(0, Ordering::Relaxed);
    eventually("the spool is empty", || {
        (app.samples().sum("spool_events", &[]) == 0.0).then_some(())
    });
    let late = app.post_signed(&webhook("key", 1));
    assert_eq!(late.status, 200, "{late:?}");
    let records = app.records("payment.received");
    let stored: Vec<_> = records.iter().map(|record| header(record, "ce_id")).collect();
    assert_eq!(stored, [ids(&early), ids(&late)].concat());
    let now = Timestamp::now().as_millisecond();
    assert!(records.iter().all(|record| record.timestamp_ms.unwrap() <= now), "{records:?}");
}

#[test]
fn a_batch_that_would_be_too_large() {
    let cluster = Cluster::one();
    let setup = with_spool(setup(&cluster.bootstrap_servers()));
    let relay = Relay::start(&setup);
    // Of one event, a tenth; of those that the drain sends at once, more.
    cluster.limit_batches(&setup.topic("payment.received"), 70_000);
    cluster.signal(1, "STOP");
    let spooled: Vec<_> =
        (0..128).map(|number| relay.post(&webhook(&format!("key-{number}"), 0))).collect();
    assert!(spooled.iter().all(|answer| answer.status == 202), "{spooled:?}");
    cluster.signal(1, "CONT");
    relay.await_drained();
    assert_eq!(relay.samples().sum("spool_too_large_total", &[]), 0.0);
}

/// The answer to a webhook, unless the port is closed.
fn try_post(http: std::net::SocketAddr, key: &str, number: usize) -> Option<Answer> {
    let stream = std::net::TcpStream::connect(http).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut connection = Connection(stream);
    connection.send(&post(&webhook(key, number)));
    connection.try_answer(true)
}
