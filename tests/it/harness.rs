//! A relay in this process or as a process, the Kafka behind it, and verbs for both.

use std::{
    collections::{BTreeMap, HashMap},
    io::Write,
    net::{SocketAddr, TcpListener},
    process::{Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use actix_web::rt::System;
use clickpesa_relay::{
    app::{self, HttpListener, Left, Listeners, StartError},
    config::{Settings, Written},
    event::kind::Kind,
    http::WEBHOOKS,
    kafka::{
        Properties,
        embedded::EmbeddedBroker,
        reader::{From, Reader, StoredRecord},
        topics::{REJECTED, Topics},
    },
    webhook::{
        checksum::{Key, Placement},
        signing,
    },
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::oneshot;

#[path = "harness/directory.rs"]
mod directory;
#[path = "harness/http.rs"]
mod http;
#[path = "harness/process.rs"]
mod process;
#[path = "harness/samples.rs"]
mod samples;

#[allow(unused_imports, reason = "not every binary needs all of it")]
pub(crate) use self::{
    directory::Directory,
    http::{Answer, Connection, ask, request},
    process::Process,
    samples::Samples,
};

/// The checksum key of the application `default`; the samples are signed with it.
pub(crate) const KEY: &str = "test-checksum-key";

/// How long anything may take that is not itself about time.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Personal data in every body made here; no answer and no log line may repeat it.
pub(crate) const PAYER: &str = "Neema Mushi-Ødegård";
pub(crate) const PHONE: &str = "255712345678";

// --- Waiting --------------------------------------------------------------------------

/// Looks again and again until there is something; fails, saying for what it waited.
#[track_caller]
pub(crate) fn eventually<T>(awaited: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain: {awaited}");
        thread::sleep(Duration::from_millis(5));
    }
}

// --- What scripts/test provides -------------------------------------------------------

/// A variable that `scripts/test` or the env file of `scripts/kafka start` sets.
#[expect(clippy::disallowed_methods, reason = "these are the tests' own settings, not the relay's")]
pub(crate) fn provided(variable: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| {
        panic!(
            "{variable} is not set: run scripts/test, or source the env file of scripts/kafka start"
        )
    })
}

/// Runs a program of somebody else; gives what it prints.
pub(crate) fn run(command: &mut Command, input: &str) -> String {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    let feeder = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {}\n{errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

/// A prefix that no other test has, in this run or another, that Kafka takes in a topic's name.
pub(crate) fn unique() -> String {
    static RUN: LazyLock<u128> =
        LazyLock::new(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis());
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let name = thread::current().name().unwrap_or("unnamed").replace("::", "-").replace('_', "-");
    format!("{name}.{}.{}.", *RUN, NEXT.fetch_add(1, Ordering::Relaxed))
}

// --- Bodies ---------------------------------------------------------------------------

/// An unsigned webhook about a payment.
pub(crate) fn payment(reference: &str) -> String {
    webhook("PAYMENT RECEIVED", reference, "")
}

/// An unsigned webhook, with notes of any length.
pub(crate) fn webhook(event: &str, reference: &str, notes: &str) -> String {
    format!(
        r#"{{"event":"{event}","data":{{"id":"{reference}-T","status":"SUCCESS",
        "orderReference":"{reference}","collectedAmount":"1500.50","collectedCurrency":"TZS",
        "notes":"{notes}","updatedAt":"2026-01-05T09:30:00.000Z",
        "customer":{{"customerName":"{PAYER}","customerPhoneNumber":"{PHONE}"}}}}}}"#
    )
}

/// The body with a checksum in its root.
pub(crate) fn signed(body: &str) -> Vec<u8> {
    signed_with(KEY, body)
}

pub(crate) fn signed_with(secret: &str, body: &str) -> Vec<u8> {
    signing::sign(body.as_bytes(), &Key::new("k", secret), Placement::Root).unwrap()
}

/// A list of signed webhooks.
pub(crate) fn list(bodies: &[String]) -> Vec<u8> {
    let signed: Vec<_> =
        bodies.iter().map(|body| String::from_utf8(signed(body)).unwrap()).collect();
    format!("[{}]", signed.join(",")).into_bytes()
}

// --- A relay in this process ----------------------------------------------------------

/// What a relay is told before it starts.
#[derive(Clone)]
pub(crate) struct Setup {
    settings: BTreeMap<String, String>,
    prefix: String,
    clock: fn() -> Timestamp,
}

impl Setup {
    /// A relay with the real Kafka behind it, one key, topics of its own with one partition.
    pub(crate) fn new() -> Self {
        Self::at(&provided("RELAY_TEST_KAFKA"))
    }

    /// A relay with a Kafka that a test can break; its topics are made here.
    pub(crate) fn on(broker: &EmbeddedBroker) -> Self {
        let setup = Self::at(&broker.bootstrap_servers()).set("kafka.topics.create", "false");
        for suffix in Kind::ALL.map(Kind::suffix).into_iter().chain([REJECTED]) {
            broker.create_topic(&setup.topic(suffix), 1).unwrap();
        }
        setup
    }

    /// A relay with a Kafka at an address.
    pub(crate) fn at(bootstrap_servers: &str) -> Self {
        let prefix = unique();
        let setup =
            Self { settings: BTreeMap::new(), prefix: prefix.clone(), clock: Timestamp::now };
        setup
            .set("kafka.bootstrap_servers", bootstrap_servers)
            .set("kafka.topics.prefix", &prefix)
            .set("kafka.topics.partitions", "1")
            .set("applications.default.checksum_keys.main", KEY)
            .set("http.listen", "127.0.0.1:0")
            .set("http.workers", "1")
            .set("admin.listen", "127.0.0.1:0")
            .set("shutdown_within", "2s")
            .set("log.format", "json")
            // On a busy machine Kafka may be slow, which is not what most tests are about.
            .set("delivery.patience", "5s")
    }

    pub(crate) fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.insert(key.to_owned(), value.to_owned());
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.settings.remove(key);
        self
    }

    pub(crate) fn clock(mut self, clock: fn() -> Timestamp) -> Self {
        self.clock = clock;
        self
    }

    /// The name of a topic of this relay.
    pub(crate) fn topic(&self, suffix: &str) -> String {
        format!("{}{suffix}", self.prefix)
    }

    /// The settings as variables of the environment.
    pub(crate) fn environment(&self) -> HashMap<String, String> {
        let variable = |key: &str| format!("CLICKPESA_RELAY__{}", key.replace('.', "__"));
        self.settings
            .iter()
            .map(|(key, value)| (variable(key).to_uppercase(), value.clone()))
            .collect()
    }

    pub(crate) fn settings(&self) -> Settings {
        Written::read(None, Some(self.environment())).unwrap().understand().unwrap()
    }

    /// Starts the relay and waits until it is ready.
    pub(crate) fn spawn(self) -> App {
        let app = self.spawn_unready();
        eventually("/ready is 200", || {
            assert!(!app.has_ended(), "{:?}", app.thread);
            (app.get("/ready").status == 200).then_some(())
        });
        app
    }

    /// Starts the relay.
    pub(crate) fn spawn_unready(self) -> App {
        let settings = self.settings();
        let [http, admin] = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let addresses = [&http, &admin].map(|listener| listener.local_addr().unwrap());
        let (properties, topics) =
            (settings.kafka.properties.clone(), settings.kafka.topics.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let clock = self.clock;
        let thread = thread::spawn(move || {
            let listeners = Listeners { http: HttpListener::Tcp(http), admin };
            let until_stopped = async {
                stopped.await.ok();
            };
            System::new().block_on(app::run(settings, listeners, clock, None, until_stopped))
        });
        let [http, admin] = addresses;
        App { http, admin, properties, topics, setup: self, stop: Some(stop), thread: Some(thread) }
    }
}

/// A relay in this process, that ends with this value.
pub(crate) struct App {
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) properties: Properties,
    pub(crate) topics: Topics,
    setup: Setup,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<Left, StartError>>>,
}

impl App {
    /// Starts a relay with the real Kafka behind it.
    pub(crate) fn spawn() -> Self {
        Setup::new().spawn()
    }

    // Verbs: webhooks

    /// Posts a body as it is to the application `default`.
    pub(crate) fn post(&self, body: impl AsRef<[u8]>) -> Answer {
        self.ask("POST", WEBHOOKS, &[], body.as_ref())
    }

    /// Signs a body and posts it to the application `default`.
    pub(crate) fn post_signed(&self, body: &str) -> Answer {
        self.post(signed(body))
    }

    /// Posts a body to a named application.
    pub(crate) fn post_to(&self, application: &str, body: impl AsRef<[u8]>) -> Answer {
        self.ask("POST", &format!("{WEBHOOKS}/{application}"), &[], body.as_ref())
    }

    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        ask(self.http, &request(method, path, headers, body))
    }

    /// A connection over which a signed webhook was sent whose answer is not read.
    pub(crate) fn send_signed(&self, body: &str) -> Connection {
        let mut connection = Connection::open(self.http);
        assert!(connection.send(&request("POST", WEBHOOKS, &[], &signed(body))));
        connection
    }

    // Verbs: admin pages

    pub(crate) fn get(&self, page: &str) -> Answer {
        ask(self.admin, &request("GET", page, &[], b""))
    }

    pub(crate) fn samples(&self) -> Samples {
        Samples::read(&self.get("/metrics").body)
    }

    #[track_caller]
    pub(crate) fn await_ready(&self, status: u16) -> String {
        let mut last = String::new();
        eventually(&format!("/ready is {status}"), || {
            let answer = self.get("/ready");
            last = answer.body;
            (answer.status == status).then_some(())
        });
        last
    }

    #[track_caller]
    pub(crate) fn await_in_flight(&self, count: u32) {
        eventually(&format!("{count} requests are in flight"), || {
            let now = self.samples().sum("in_flight", &[]);
            ((now - f64::from(count)).abs() < 0.5).then_some(())
        });
    }

    // Verbs: Kafka

    pub(crate) fn topic(&self, suffix: &str) -> String {
        self.setup.topic(suffix)
    }

    /// Every record that is in a topic now. What was answered with 200 is among them, since it
    /// was acknowledged before.
    #[track_caller]
    pub(crate) fn records(&self, suffix: &str) -> Vec<StoredRecord> {
        read_all(&self.properties, &[self.topic(suffix)])
    }

    /// Every event that is in any topic now.
    #[track_caller]
    pub(crate) fn all_records(&self) -> Vec<StoredRecord> {
        let of_events = self.topics.wanted.iter().filter(|(_, suffix)| **suffix != REJECTED);
        let names: Vec<_> = of_events.map(|(name, _)| name.clone()).collect();
        assert!(names.len() >= Kind::ALL.len());
        read_all(&self.properties, &names)
    }

    /// The record where an event of an answer is said to be.
    #[track_caller]
    pub(crate) fn record_at(&self, event: &Value) -> StoredRecord {
        let topic = event["topic"].as_str().unwrap();
        let records = read_all(&self.properties, &[topic.to_owned()]);
        let place = (event["partition"].as_i64().unwrap(), event["offset"].as_i64().unwrap());
        let found = records.into_iter().find(|r| (i64::from(r.partition), r.offset) == place);
        found.unwrap_or_else(|| panic!("no record at {event}"))
    }

    // The end

    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Asks the relay to end, without waiting for it.
    pub(crate) fn begin_stop(&mut self) {
        drop(self.stop.take());
    }

    /// Ends the relay; gives what it left.
    #[track_caller]
    pub(crate) fn stop(mut self) -> Left {
        self.begin_stop();
        self.end().expect("it had started")
    }

    /// Waits until the relay has ended by itself.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Result<Left, StartError> {
        eventually("the relay ends", || self.has_ended().then_some(()));
        self.thread.take().unwrap().join().unwrap()
    }
}

impl Drop for App {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A test that fails already has something to say.
            drop(thread.join());
        }
    }
}

#[track_caller]
pub(crate) fn read_all(properties: &Properties, topics: &[String]) -> Vec<StoredRecord> {
    let mut reader = Reader::open(properties, topics, From::Start).unwrap();
    let mut records = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while !reader.is_at_end() {
        assert!(Instant::now() < deadline, "the end of {topics:?} was not reached");
        records.extend(reader.next(Duration::from_millis(100)).unwrap());
    }
    records
}

/// A record's header, as text.
#[track_caller]
pub(crate) fn header<'r>(record: &'r StoredRecord, name: &str) -> &'r str {
    let mut headers = record.headers.iter().filter(|(found, _)| found == name);
    let (_, value) = headers.next().unwrap_or_else(|| panic!("no header {name}: {record:?}"));
    assert!(headers.next().is_none(), "header {name} is repeated");
    std::str::from_utf8(value).unwrap()
}
