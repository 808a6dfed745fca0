//! Brokers that a test may stop, kill and reconfigure, a proxy before them, and the relay as a
//! process: never the Kafka of the run, which others use meanwhile.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fs,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    ops::Deref,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use crate::harness::{
    Answer, Connection, KEY, PATIENCE, Process, Samples, Setup, ask, eventually, request, run,
    signed, unique,
};
use clickpesa_relay::{
    event::kind::Kind,
    kafka::{
        Properties,
        reader::{From, Reader, StoredRecord},
        topics::REJECTED,
    },
};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
};

/// How long a relay may take to see that an outage is over.
pub(crate) const NOTICED_WITHIN: Duration = Duration::from_secs(2);

// --- Brokers --------------------------------------------------------------------------

/// The rights of user `limited` on the topics of a prefix; they end with this value.
pub(crate) struct Rights<'c> {
    pub(crate) cluster: &'c Cluster,
    pub(crate) prefix: String,
}

impl Drop for Rights<'_> {
    fn drop(&mut self) {
        // A test that fails already has something to say.
        self.cluster.acl("--remove", &[], &self.prefix).output().ok();
    }
}

/// Brokers of the tests' own. They end with this process, however that ends.
pub(crate) struct Cluster {
    directory: PathBuf,
    environment: HashMap<String, String>,
    brokers: usize,
    pub(crate) proxy: Proxy,
    admin: AdminClient<DefaultClientContext>,
}

static ONE: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(1));
static THREE: LazyLock<Cluster> = LazyLock::new(|| Cluster::start(3));

/// A cluster and, for as long as this value lives, the machine: no other test has either.
pub(crate) struct Alone {
    cluster: &'static Cluster,
    _machine: MutexGuard<'static, ()>,
}

impl Deref for Alone {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        self.cluster
    }
}

impl Cluster {
    /// A single broker behind a proxy.
    pub(crate) fn one() -> Alone {
        Self::healthy(&ONE)
    }

    /// Three brokers, replication 3, `min.insync.replicas=2`.
    pub(crate) fn three() -> Alone {
        Self::healthy(&THREE)
    }

    /// As it was at first, whatever a test that failed has left.
    fn healthy(cluster: &'static LazyLock<Self>) -> Alone {
        static MACHINE: Mutex<()> = Mutex::new(());
        let machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let cluster = LazyLock::force(cluster);
        cluster.proxy.pass();
        for id in 1..=cluster.brokers {
            if cluster.is_running(id) {
                cluster.signal(id, "CONT");
            } else {
                cluster.restart(id);
            }
        }
        cluster.await_brokers();
        Alone { cluster, _machine: machine }
    }

    fn start(brokers: usize) -> Self {
        let directory = scratch("kafka");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka");
        let mut proxy = Proxy::bind();
        let port = proxy.address.port().to_string();
        let mut start = Command::new(script);
        start.arg("start").arg(&directory).args(["--brokers", &brokers.to_string()]);
        // A broker that is killed or stopped is missed after this long.
        start.args(["--property", "broker.session.timeout.ms=3000"]);
        if brokers == 1 {
            start.args(["--proxies", &port]);
        }
        // Ends the brokers when this process closes the pipe, which it does in every end.
        let mut reaper = Command::new("sh");
        reaper.args(["-c", "read -r _; exec \"$0\" stop \"$1\"", script]).arg(&directory);
        let reaper = reaper
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::mem::forget(reaper);
        run(&mut start, "");
        let environment: HashMap<String, String> = fs::read_to_string(directory.join("env"))
            .unwrap()
            .lines()
            .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.trim_matches('\'').to_owned()))
            .collect();
        if let Some(target) = environment.get("RELAY_TEST_KAFKA_PROXIED") {
            proxy.serve(target);
        }
        let admin = client(&environment["RELAY_TEST_KAFKA"]).create().unwrap();
        Self { directory, environment, brokers, proxy, admin }
    }

    pub(crate) fn bootstrap_servers(&self) -> String {
        self.environment["RELAY_TEST_KAFKA"].clone()
    }

    /// The settings of a relay that logs in as a user who may do only what an ACL allows.
    pub(crate) fn limited(&self, setup: Setup) -> Setup {
        setup
            .set("kafka.bootstrap_servers", &self.environment["RELAY_TEST_KAFKA_SASL_SSL"])
            .set("kafka.properties.security_protocol", "SASL_SSL")
            .set("kafka.properties.ssl_ca_location", &self.environment["RELAY_TEST_KAFKA_CA"])
            .set("kafka.properties.sasl_mechanisms", "SCRAM-SHA-256")
            .set("kafka.properties.sasl_username", "limited")
            .set("kafka.properties.sasl_password", "limited-secret")
    }

    // Processes

    fn pid(&self, id: usize) -> String {
        let file = self.directory.join(format!("broker-{id}/pid"));
        fs::read_to_string(file).unwrap().trim().to_owned()
    }

    fn is_running(&self, id: usize) -> bool {
        let ours = self.directory.join("broker-").display().to_string();
        fs::read_to_string(format!("/proc/{}/cmdline", self.pid(id)))
            .is_ok_and(|command| command.contains(&ours))
    }

    /// Sends a signal to a broker, by its name without `SIG`.
    pub(crate) fn signal(&self, id: usize, name: &str) {
        assert!(self.is_running(id));
        run(Command::new("kill").args(["-s", name, &self.pid(id)]), "");
    }

    /// Ends a broker, and waits until it is gone.
    pub(crate) fn end(&self, id: usize, signal: &str) {
        self.signal(id, signal);
        eventually("the broker ends", || (!self.is_running(id)).then_some(()));
    }

    /// Starts a broker that has ended; does not wait.
    pub(crate) fn restart(&self, id: usize) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/kafka");
        run(Command::new(script).arg("restart").arg(&self.directory).arg(id.to_string()), "");
    }

    pub(crate) fn await_brokers(&self) {
        eventually("all brokers are there", || {
            let metadata = self.admin.inner().fetch_metadata(None, Duration::from_secs(1)).ok()?;
            (metadata.brokers().len() == self.brokers).then_some(())
        });
    }

    /// Cuts the one partition of a topic on a broker that has ended down to its first batch.
    pub(crate) fn lose_all_but_first(&self, id: usize, topic: &str) {
        let segment = format!("broker-{id}/data/{topic}-0/00000000000000000000.log");
        let segment = self.directory.join(segment);
        let log = fs::read(&segment).unwrap();
        // Eight bytes of offset, four of length, then as many.
        let length = u32::from_be_bytes(log[8..12].try_into().unwrap());
        let first = 12 + u64::from(length);
        assert!(first < log.len() as u64, "there is more than one batch");
        fs::File::options().write(true).open(segment).unwrap().set_len(first).unwrap();
    }

    // Topics

    /// The broker that leads the one partition of a topic.
    pub(crate) fn leader(&self, topic: &str) -> Option<usize> {
        let timeout = Duration::from_millis(500);
        let metadata = self.admin.inner().fetch_metadata(Some(topic), timeout).ok()?;
        let partition = metadata.topics().first()?.partitions().first()?;
        usize::try_from(partition.leader()).ok()
    }

    /// How many replicas of the one partition of a topic are in sync.
    pub(crate) fn in_sync(&self, topic: &str) -> usize {
        let timeout = Duration::from_millis(500);
        let metadata = self.admin.inner().fetch_metadata(Some(topic), timeout).ok();
        metadata.map_or(0, |metadata| metadata.topics()[0].partitions()[0].isr().len())
    }

    /// Waits until a topic has a leader that answers; gives when that was seen.
    pub(crate) fn await_leader(&self, topic: &str) -> Instant {
        eventually("the topic has a leader", || self.leader(topic));
        Instant::now()
    }

    /// Every topic that a relay wants.
    pub(crate) fn create_topics(&self, setup: &Setup) {
        for suffix in Kind::ALL.map(Kind::suffix).into_iter().chain([REJECTED]) {
            self.create_topic(&setup.topic(suffix));
        }
    }

    pub(crate) fn create_topic(&self, name: &str) {
        self.create_topic_with(name, 1, i32::try_from(self.brokers).unwrap());
    }

    pub(crate) fn create_topic_with(&self, name: &str, partitions: i32, replicas: i32) {
        self.make_topic(&NewTopic::new(name, partitions, TopicReplication::Fixed(replicas)));
    }

    /// With one partition, on one broker.
    pub(crate) fn create_topic_on(&self, id: usize, name: &str) {
        let broker = i32::try_from(id).unwrap();
        self.make_topic(&NewTopic::new(name, 1, TopicReplication::Variable(&[&[broker]])));
    }

    fn make_topic(&self, topic: &NewTopic<'_>) {
        eventually("the topic can be made", || {
            let made = self.admin.create_topics([topic], &AdminOptions::new());
            block_on(made).unwrap().pop().unwrap().ok()
        });
        self.await_leader(topic.name);
    }

    pub(crate) fn delete_topic(&self, name: &str) {
        let deleted = block_on(self.admin.delete_topics(&[name], &AdminOptions::new()));
        deleted.unwrap().pop().unwrap().unwrap();
        eventually("the topic is gone", || self.leader(name).is_none().then_some(()));
    }

    /// Every record of a topic, even while a broker is gone.
    pub(crate) fn records(&self, topic: &str) -> Vec<StoredRecord> {
        let servers = ("bootstrap.servers".to_owned(), self.bootstrap_servers());
        let properties = Properties(BTreeMap::from([servers]));
        eventually("the topic is read to its end", || {
            let mut reader = Reader::open(&properties, &[topic.to_owned()], From::Start).ok()?;
            let (mut records, deadline) = (Vec::new(), Instant::now() + NOTICED_WITHIN);
            while !reader.is_at_end() && Instant::now() < deadline {
                // A broker that is not there is an error, also where another has the topic.
                records.extend(reader.next(Duration::from_millis(100)).ok().flatten());
            }
            reader.is_at_end().then_some(records)
        })
    }

    /// The ids in a topic in the order in which they first stand there.
    pub(crate) fn first_ids(&self, topic: &str) -> Vec<String> {
        let mut ids = Vec::new();
        for record in self.records(topic) {
            let id = crate::harness::header(&record, "ce_id").to_owned();
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    // Kafka's own tools

    fn tool(&self, class: &str, arguments: &[&str]) -> Command {
        let libs = format!("{}/*", self.environment["RELAY_TEST_KAFKA_LIBS"]);
        let mut tool = Command::new("java");
        tool.args(["-Xshare:auto", "-XX:TieredStopAtLevel=1", "-cp", &libs, class]);
        tool.args(["--bootstrap-server", &self.bootstrap_servers()]).args(arguments);
        tool
    }

    /// Lets user `limited` do operations on the topics of a prefix.
    pub(crate) fn allow(&self, operations: &[&str], prefix: &str) {
        run(&mut self.acl("--add", operations, prefix), "");
    }

    /// Lets user `limited` no longer do operations on the topics of a prefix; of none, any.
    pub(crate) fn forbid(&self, operations: &[&str], prefix: &str) {
        run(&mut self.acl("--remove", operations, prefix), "");
    }

    fn acl(&self, act: &str, operations: &[&str], prefix: &str) -> Command {
        let mut arguments = vec![act, "--topic", prefix, "--resource-pattern-type", "prefixed"];
        if act == "--remove" {
            arguments.push("--force");
        }
        if !operations.is_empty() {
            arguments.extend(["--allow-principal", "User:limited"]);
        }
        operations.iter().for_each(|operation| arguments.extend(["--operation", operation]));
        self.tool("org.apache.kafka.tools.AclCommand", &arguments)
    }

    /// Changes how large a batch of a topic may be, in bytes.
    pub(crate) fn limit_batches(&self, topic: &str, bytes: usize) {
        let limit = format!("max.message.bytes={bytes}");
        let topic = ["--entity-type", "topics", "--entity-name", topic];
        let change = ["--alter", "--add-config", &limit];
        run(&mut self.tool("kafka.admin.ConfigCommand", &[&change[..], &topic[..]].concat()), "");
    }

    /// Changes the SCRAM password of user `limited`.
    pub(crate) fn set_password(&self, password: &str) {
        let credential = format!("SCRAM-SHA-256=[password={password}]");
        let user = ["--entity-type", "users", "--entity-name", "limited"];
        let change = ["--alter", "--add-config", &credential];
        run(&mut self.tool("kafka.admin.ConfigCommand", &[&change[..], &user[..]].concat()), "");
    }
}

fn client(bootstrap_servers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", bootstrap_servers);
    client.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "50");
    client
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

// --- A proxy --------------------------------------------------------------------------

/// A port before a broker, which can hold back acknowledgements, and say that there is no broker.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    listener: Option<TcpListener>,
    fault: Arc<Fault>,
}

#[derive(Default)]
struct Fault {
    state: Mutex<FaultState>,
    changed: Condvar,
}

#[derive(Default)]
struct FaultState {
    /// How long every acknowledgement is held back.
    delay: Duration,
    /// Connections up to this number get no acknowledgement.
    deaf: usize,
    connections: usize,
    /// Acknowledgements that were held back, or are.
    held: usize,
    hides_brokers: bool,
}

/// Numbers of Kafka's protocol.
const PRODUCE: i16 = 0;
const METADATA: i16 = 3;

impl Proxy {
    fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        Self { address, listener: Some(listener), fault: Arc::default() }
    }

    fn serve(&mut self, target: &str) {
        let (listener, target) = (self.listener.take().unwrap(), target.to_owned());
        let fault = Arc::clone(&self.fault);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if let Ok(server) = TcpStream::connect(&target) {
                    Fault::stand_between(&fault, client, server);
                }
            }
        });
    }

    /// Holds back every acknowledgement for this long.
    pub(crate) fn delay(&self, delay: Duration) {
        self.change(|state| state.delay = delay);
    }

    /// Holds back the acknowledgements of the connections that there are, for ever; new ones pass.
    pub(crate) fn deafen(&self) {
        self.change(|state| state.deaf = state.connections);
    }

    /// Takes the brokers out of every answer that lists them.
    pub(crate) fn hide_brokers(&self) {
        self.change(|state| state.hides_brokers = true);
    }

    /// Lets everything through, as it is.
    pub(crate) fn pass(&self) {
        self.change(|state| {
            (state.delay, state.deaf, state.hides_brokers) = (Duration::ZERO, 0, false);
        });
    }

    /// Waits until acknowledgements were held back, this many since the proxy is there.
    pub(crate) fn await_held(&self, held: usize) {
        eventually("acknowledgements are held back", || (self.held() >= held).then_some(()));
    }

    pub(crate) fn held(&self) -> usize {
        self.fault.state.lock().unwrap().held
    }

    fn change(&self, change: impl FnOnce(&mut FaultState)) {
        change(&mut self.fault.state.lock().unwrap());
        self.fault.changed.notify_all();
    }
}

impl Fault {
    fn stand_between(fault: &Arc<Self>, client: TcpStream, server: TcpStream) {
        let number = {
            let mut state = fault.state.lock().unwrap();
            state.connections += 1;
            state.connections
        };
        let kinds = Arc::new(Mutex::new(VecDeque::new()));
        let (to_client, to_server) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let asked = Arc::clone(&kinds);
        thread::spawn(move || {
            forward(client, to_server, |request| {
                let kind = i16::from_be_bytes([request[4], request[5]]);
                asked.lock().unwrap().push_back(kind);
            });
        });
        let fault = Arc::clone(fault);
        thread::spawn(move || {
            forward(server, to_client, |reply| {
                // A broker answers the requests of a connection one after the other.
                let kind = kinds.lock().unwrap().pop_front();
                let hides_brokers = fault.state.lock().unwrap().hides_brokers;
                match kind {
                    Some(PRODUCE) => fault.hold_back(number),
                    Some(METADATA) if hides_brokers => hide_brokers(reply),
                    _ => {}
                }
            });
        });
    }

    fn hold_back(&self, connection: usize) {
        let mut state = self.state.lock().unwrap();
        let started = Instant::now();
        let is_free =
            |state: &FaultState| connection > state.deaf && started.elapsed() >= state.delay;
        if is_free(&state) {
            return;
        }
        state.held += 1;
        while !is_free(&state) {
            let rest = state.delay.saturating_sub(started.elapsed());
            let rest = if connection > state.deaf { rest } else { Duration::from_secs(3600) };
            (state, _) = self.changed.wait_timeout(state, rest).unwrap();
        }
    }
}

/// Forwards whole messages of Kafka's protocol: four bytes of length, then as many.
fn forward(mut from: TcpStream, mut to: TcpStream, mut before: impl FnMut(&mut Vec<u8>)) {
    let mut message = Vec::new();
    loop {
        message.resize(4, 0);
        if from.read_exact(&mut message).is_err() {
            break;
        }
        let length = u32::from_be_bytes([message[0], message[1], message[2], message[3]]);
        message.resize(4 + length as usize, 0);
        if from.read_exact(&mut message[4..]).is_err() {
            break;
        }
        before(&mut message);
        if to.write_all(&message).is_err() {
            break;
        }
    }
    from.shutdown(Shutdown::Both).ok();
    to.shutdown(Shutdown::Both).ok();
}

/// Empties the list of brokers in an answer about metadata, of version 9 or later.
fn hide_brokers(answer: &mut Vec<u8>) {
    // Length, correlation id, tagged fields, throttle time.
    let list = 4 + 4 + 1 + 4;
    let mut end = list + 1;
    // Lengths are one more than they are, 0 for none, and short here.
    for _ in 1..answer[list] {
        end += 4;
        end += usize::from(answer[end]);
        end += 4;
        end += usize::from(answer[end].max(1));
        end += 1;
    }
    answer.splice(list..end, [1]);
    let length = u32::try_from(answer.len() - 4).unwrap();
    answer[..4].copy_from_slice(&length.to_be_bytes());
}

// --- The relay as a process -----------------------------------------------------------

/// A relay whose log can be read.
pub(crate) struct Relay {
    pub(crate) process: Process,
    pub(crate) http: SocketAddr,
    pub(crate) admin: SocketAddr,
}

impl Relay {
    /// Starts it, and waits until it is ready.
    pub(crate) fn start(setup: &Setup) -> Self {
        Self::of(Process::serve_ready(setup))
    }

    /// Starts it, and does not wait.
    pub(crate) fn start_unready(setup: &Setup) -> Self {
        Self::of(Process::serve(setup))
    }

    fn of(process: Process) -> Self {
        let [http, admin] = ["http.listen", "admin.listen"].map(|key| process.address(key));
        Self { process, http, admin }
    }

    pub(crate) fn post(&self, body: &str) -> Answer {
        ask(self.http, &post(body))
    }

    pub(crate) fn ready(&self) -> Answer {
        ask(self.admin, &request("GET", "/ready", &[], b""))
    }

    #[track_caller]
    pub(crate) fn await_ready(&self, status: u16) {
        eventually(&format!("/ready is {status}"), || {
            (self.ready().status == status).then_some(())
        });
    }

    pub(crate) fn samples(&self) -> Samples {
        self.process.samples()
    }

    pub(crate) fn spooled(&self) -> f64 {
        self.samples().sum("spool_events", &[])
    }

    /// Waits until nothing is in the spool.
    #[track_caller]
    pub(crate) fn await_drained(&self) {
        eventually("the spool is empty", || (self.spooled() == 0.0).then_some(()));
    }

    /// Waits for a line of the log that names a cause.
    #[track_caller]
    pub(crate) fn await_cause(&self, word: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.process.lines().iter().any(|line| line.contains(word)) {
            let mut lines = self.process.lines();
            lines.retain(|line| !line.contains("\"outcome\""));
            assert!(Instant::now() < deadline, "the log says {word}: {lines:#?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Posts that many webhooks one after the other over one connection, whose answers must all
    /// have a status. Gives how long 99 of 100 took at most, answers and syncs of a file on the
    /// same disk in between.
    #[track_caller]
    pub(crate) fn time_posts(&self, name: &str, count: usize, status: u16) -> (Duration, Duration) {
        let mut connection = Connection::open(self.http);
        let mut file = tempfile();
        let (mut answers, mut syncs) = (Vec::new(), Vec::new());
        for number in 0..count {
            let request = post(&webhook(&format!("{name}-{number}"), number));
            let started = Instant::now();
            assert!(connection.send(&request));
            let answer = connection.answer();
            answers.push(started.elapsed());
            assert_eq!(answer.status, status, "{answer:?}");
            let started = Instant::now();
            file.write_all(&[7; 4096]).unwrap();
            file.sync_data().unwrap();
            syncs.push(started.elapsed());
        }
        let [answer, sync] = [answers, syncs].map(|mut times| {
            times.sort_unstable();
            times[count * 99 / 100]
        });
        println!("{name}: p99 of {count} answers {status}: {answer:?}, of syncs {sync:?}");
        (answer, sync)
    }
}

/// A file without a name on the disk of the spools.
fn tempfile() -> fs::File {
    let path = scratch("file");
    let file = fs::File::create(&path).unwrap();
    fs::remove_file(path).unwrap();
    file
}

/// The request that posts a webhook, signed.
pub(crate) fn post(body: &str) -> Vec<u8> {
    request("POST", clickpesa_relay::http::WEBHOOKS, &[], &signed(body))
}

/// A webhook about a payment, of any number for one key.
pub(crate) fn webhook(key: &str, number: usize) -> String {
    webhook_of("PAYMENT RECEIVED", key, number)
}

pub(crate) fn webhook_of(event: &str, key: &str, number: usize) -> String {
    format!(
        r#"{{"event":"{event}","data":{{"id":"{key}-{number}","status":"SUCCESS",
        "orderReference":"{key}","collectedAmount":"{number}.50","collectedCurrency":"TZS",
        "updatedAt":"2026-01-05T09:30:00.000Z"}}}}"#
    )
}

/// The ids that an answer names, published or spooled.
pub(crate) fn ids(answer: &Answer) -> Vec<String> {
    let events = answer.json()["events"].as_array().unwrap().clone();
    events.iter().map(|event| event["id"].as_str().unwrap().to_owned()).collect()
}

/// The settings of a relay with deadlines that suit a test, and the prefix of its topics.
pub(crate) fn setup(bootstrap_servers: &str) -> Setup {
    Setup::at(bootstrap_servers)
        .set("applications.default.checksum_keys.main", KEY)
        .set("http.answer_within", "3s")
        .set("http.body_within", "2s")
        .set("delivery.patience", "300ms")
}

/// The same with a spool of its own.
pub(crate) fn with_spool(setup: Setup) -> Setup {
    let path = scratch("spool");
    setup.set("spool.path", path.to_str().unwrap())
}

/// A path for files of this use alone.
fn scratch(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{}{name}", unique()))
}
