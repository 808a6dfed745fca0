//! Settings: what the reference says, what is refused and in which words, what is never shown.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use ::config::{Config, File, FileFormat, Map, Value, ValueKind};
use clickpesa_relay::{
    application::{Application, networks::ForwardedHeader},
    config::{
        Kafka, Listen, LogFormat, Mistake, Mistakes, REFERENCE, Settings, SocketAccess, Written,
    },
    event::kind::Kind,
    kafka::{GUARDED, REFUSED},
    record::EventFormat,
    webhook::checksum::{Key, Method, Placement, Policy},
};

/// What no mistake, no `Debug` and no list of settings may show.
const SECRET: &str = "hunter2-Zq9";

/// How the names of our files begin: the origin of what stands in them.
const FILE: &str = "settings-of-test-";

/// The one thing that has no default.
const KEYED: &str = "applications.default.checksum_keys.main = \"k\"\n";

// --- Files and readings ---------------------------------------------------------------

/// A file that is gone with the test.
struct TestFile(PathBuf);

impl TestFile {
    fn new(content: impl AsRef<[u8]>) -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{FILE}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::write(&path, content).expect("Cargo made the directory");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("Cargo's directory is UTF-8")
    }
}

impl Drop for TestFile {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

fn environment(variables: &[(&str, &str)]) -> HashMap<String, String> {
    let named =
        |(name, value): &(&str, &str)| (format!("CLICKPESA_RELAY__{name}"), (*value).to_owned());
    variables.iter().map(named).collect()
}

fn written(file: &str, variables: &[(&str, &str)]) -> Result<Written, Mistakes> {
    let file = TestFile::new(file);
    Written::read(Some(&file.0), Some(environment(variables)))
}

fn understood(file: &str, variables: &[(&str, &str)]) -> Result<Settings, Mistakes> {
    written(file, variables)?.understand()
}

fn settings(file: &str, variables: &[(&str, &str)]) -> Settings {
    understood(file, variables).unwrap_or_else(|mistakes| panic!("{file}{variables:?}: {mistakes}"))
}

fn mistakes(file: &str, variables: &[(&str, &str)]) -> Vec<Mistake> {
    match understood(file, variables) {
        Ok(_) => panic!("nothing is wrong with:\n{file}\n{variables:?}"),
        Err(Mistakes(mistakes)) => mistakes,
    }
}

/// The only mistake, which must be of this key.
#[track_caller]
fn mistake(key: &str, file: &str, variables: &[(&str, &str)]) -> String {
    let mistakes = mistakes(file, variables);
    match mistakes.as_slice() {
        [Mistake { key: named, problem }] if named == key => problem.clone(),
        _ => panic!("not the one mistake of `{key}`: {mistakes:#?}"),
    }
}

#[track_caller]
fn assert_says(problem: &str, words: &[&str]) {
    for word in words {
        assert!(problem.contains(word), "`{word}` is not in: {problem}");
    }
}

// --- The reference --------------------------------------------------------------------

/// The keys of the reference, and its tables that hold names of the user's own.
fn reference() -> (BTreeSet<String>, BTreeSet<String>) {
    fn walk(
        path: &str,
        table: Map<String, Value>,
        keys: &mut BTreeSet<String>,
        tables: &mut BTreeSet<String>,
    ) {
        for (name, value) in table {
            let path = if path.is_empty() { name } else { format!("{path}.{name}") };
            if let ValueKind::Table(table) = value.kind {
                if table.is_empty() {
                    tables.insert(path);
                } else {
                    walk(&path, table, keys, tables);
                }
            } else {
                keys.insert(path);
            }
        }
    }
    let file = File::from_str(REFERENCE, FileFormat::Toml);
    let config = Config::builder().add_source(file).build().expect("the reference is TOML");
    let (mut keys, mut tables) = Default::default();
    let whole = config.cache.into_table().expect("TOML is a table");
    walk("", whole, &mut keys, &mut tables);
    (keys, tables)
}

fn variable(key: &str) -> String {
    key.to_uppercase().replace('.', "__")
}

/// A key that is missing in the reference would be a mistake here, as would one that nobody reads.
#[test]
fn reference_is_complete() {
    let settings = settings("", &[("APPLICATIONS__DEFAULT__CHECKSUM_KEYS__MAIN", "k")]);
    assert_eq!(settings.applications.len(), 1);
}

#[test]
fn reference_is_what_is_meant() {
    let settings = settings(KEYED, &[]);
    assert_eq!(settings.shutdown_within, Duration::from_secs(30));
    assert_eq!(settings.http.listen, Listen::Tcp("0.0.0.0:8080".to_owned()));
    assert_eq!(settings.http.workers, 0);
    assert_eq!(settings.http.head_within, Duration::from_secs(5));
    assert_eq!(settings.http.keep_alive, Duration::from_secs(75));
    let limits = settings.http.limits;
    assert_eq!(limits.answer_within, Duration::from_secs(8));
    assert_eq!(limits.body_within, Duration::from_secs(5));
    assert_eq!((limits.body_max_bytes, limits.body_depth_max), (262_144, 32));
    assert_eq!((limits.events_max, limits.in_flight_max), (100, 1024));
    assert_eq!((limits.head_max_bytes, limits.bodies_max_bytes), (16_384, 64 << 20));
    assert_eq!((limits.connections_max, limits.connections_per_address_max), (16_384, 8192));
    assert_eq!(limits.rejections_per_second, 1000);
    assert_eq!(settings.http.networks.header, ForwardedHeader::XForwardedFor);
    assert!(settings.http.tls.is_none());
    assert_eq!(settings.http.socket, SocketAccess { mode: 0o660, owner: None, group: None });
    assert_eq!(settings.admin_listen, "127.0.0.1:9464");
    assert_eq!(settings.log.filter.to_string(), "actix_http=off,info");
    assert_eq!(settings.log.format, LogFormat::Text);
    let Kafka { properties, allow_weaker_delivery, event_format, topics } = settings.kafka;
    let servers = ("bootstrap.servers".to_owned(), "127.0.0.1:9092".to_owned());
    assert_eq!(properties.0, BTreeMap::from([servers]));
    assert_eq!((allow_weaker_delivery, event_format), (false, EventFormat::Structured));
    assert_eq!(topics.names.name(Kind::PaymentReceived), "clickpesa.payment.received");
    assert_eq!(topics.names.all, None);
    assert_eq!(topics.rejected.as_deref(), Some("clickpesa.rejected"));
    assert_eq!(topics.wanted.len(), 9);
    assert_eq!((topics.create, topics.partitions, topics.replication_factor), (true, 6, -1));
    assert_eq!(topics.retention, BTreeMap::new());
    let Application { name, source, policy, networks, topics: own, in_flight_max, .. } =
        &settings.applications["default"];
    assert_eq!((name.as_str(), source.as_str()), ("default", "/clickpesa/default"));
    assert!(networks.allow_from.is_empty() && networks.trusted_proxies.is_empty());
    assert_eq!((own, *in_flight_max), (&topics.names, usize::MAX));
    let Policy::Checksum { keys, placement, headers, legacy } = policy else {
        panic!("{policy:?}");
    };
    assert_eq!(keys.iter().map(Key::id).collect::<Vec<_>>(), ["main"]);
    assert_eq!((*placement, headers.len(), *legacy), (None, 0, false));
}

#[test]
fn nothing_else_is_accepted() {
    let (keys, tables) = reference();
    let tables_of_names = ["checksum_keys", "checksum_key_files", "checksum_headers", "propert"];
    let parents = keys.iter().map(|key| key.rsplit_once('.').map_or("", |(parent, _)| parent));
    let mut parents: BTreeSet<_> = parents.chain(tables.iter().map(String::as_str)).collect();
    parents.retain(|table| !tables_of_names.iter().any(|open| table.contains(open)));
    let expected = ["", "admin", "applications.default", "delivery", "http", "http.tls", "kafka"];
    let names = [
        "kafka.topics",
        "kafka.topics.names",
        "kafka.topics.retention",
        "log",
        "rejected",
        "spool",
    ];
    assert_eq!(parents, expected.into_iter().chain(names).collect());
    for table in parents {
        let key = [table, "bogus"].iter().filter(|s| !s.is_empty()).copied().collect::<Vec<_>>();
        let key = key.join(".");
        let problem = mistake(&key, &format!("{KEYED}{key} = 1\n"), &[]);
        assert_says(&problem, &[FILE, " is no "]);
        let problem = mistake(&key, KEYED, &[(&variable(&key), "1")]);
        assert_says(&problem, &["the environment", " is no "]);
    }
    // A table where there is none, too.
    let problem = mistake("http.log.level", &format!("{KEYED}[http.log]\nlevel = 1\n"), &[]);
    assert_says(&problem, &["no setting of the relay"]);
}

/// The comments' examples: `NAME = "VALUE"` above a table of names, and variables.
#[test]
fn examples_of_the_reference_work() {
    let mut examples = Vec::new();
    let mut comment = String::new();
    for line in REFERENCE.lines() {
        if let Some(text) = line.strip_prefix('#') {
            comment.push_str(text);
            continue;
        }
        if let Some(table) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            for (before, after) in comment
                .match_indices(" = \"")
                .map(|(at, equals)| (comment.split_at(at).0, comment.split_at(at + equals.len()).1))
            {
                let name = before.rsplit_once(' ').map_or(before, |(_, name)| name);
                let value = after.split_once('"').map_or(after, |(value, _)| value);
                examples.push((table.to_owned(), name.to_owned(), value.to_owned()));
            }
        }
        comment.clear();
    }
    let tables: BTreeSet<_> = examples.iter().map(|(table, ..)| table.clone()).collect();
    assert_eq!(tables, reference().1, "each table of names has an example");
    for (table, name, value) in &examples {
        let file = TestFile::new(SECRET);
        let value = if value.starts_with("/run/secrets/") { file.path() } else { value };
        let keyed = if table.contains("checksum_key") { "" } else { KEYED };
        settings(&format!("{keyed}[{table}]\n{name} = \"{value}\"\n"), &[]);
    }

    let values = [
        ("HTTP__LISTEN", "127.0.0.1:0"),
        ("KAFKA__PROPERTIES__SASL_PASSWORD", SECRET),
        ("KAFKA__TOPICS__NAMES__PAYMENT_RECEIVED", "payments"),
    ];
    let words = REFERENCE.split(|c: char| !c.is_ascii_uppercase() && c != '_');
    let variables: BTreeSet<_> =
        words.filter_map(|word| word.strip_prefix("CLICKPESA_RELAY__")).collect();
    assert_eq!(variables, values.iter().map(|(name, _)| *name).collect());
    settings(KEYED, &values);
    for listen in ["unix:/run/relay.sock", "127.0.0.1:0", "[::1]:8080", "localhost:80"] {
        settings(KEYED, &[("HTTP__LISTEN", listen)]);
    }
    for level in ["error", "warn", "info", "debug", "trace", "info,librdkafka=debug", "INFO"] {
        settings(KEYED, &[("LOG__LEVEL", level)]);
    }
}

// --- Wrong values ---------------------------------------------------------------------

const DURATION: &str = "allowed is a duration over zero, such as 250ms, 8s or 1h 30m";
const FLAG: &str = "allowed is true or false";
const TOPIC: &str = "allowed are 1 to 249 letters, digits, `.`, `_`, `-`";
const NETWORKS: &str = "allowed is networks such as 10.0.0.0/8, joined by commas";
const LEVEL: &str =
    "allowed is error, warn, info, debug or trace, or target=level pairs joined by commas";

/// A key, values that it does not take, and the words for what it does. Of the files of TLS any text
/// is a path.
const WRONG: [(&str, &[&str], &str); 60] = [
    ("shutdown_within", &["0s", "soon", ""], DURATION),
    (
        "http.listen",
        &["8080", "nowhere", "unix:", "host:65536"],
        "allowed is an address and a port, or unix:/path",
    ),
    ("http.socket_mode", &["0660", "66", "668", "rw"], "allowed is three octal digits"),
    ("http.socket_owner", &["nobody-we-know", ":no-such-group"], "allowed is a user and a group"),
    ("http.tls.certificate_file", &[], "the path of a file in PEM"),
    ("http.tls.key_file", &[], "the path of a file in PEM"),
    ("http.tls.client_ca_file", &[], "the path of a file in PEM"),
    ("admin.public", &["yes"], FLAG),
    ("http.workers", &["1025", "-1", "1.5", "many"], "allowed is a whole number from 0 to 1024"),
    ("http.answer_within", &["8", "-8s"], DURATION),
    ("http.body_within", &["true", "1 month"], DURATION),
    ("http.head_within", &["0ms"], DURATION),
    ("http.keep_alive", &["forever"], DURATION),
    (
        "http.body_max_bytes",
        &["0", "67108865", "1e5"],
        "allowed is a whole number from 1 to 67108864",
    ),
    ("http.body_depth_max", &["1", "129"], "allowed is a whole number from 2 to 128"),
    ("http.events_max", &["0", "10001"], "allowed is a whole number from 1 to 10000"),
    ("http.in_flight_max", &["0", "1000001"], "allowed is a whole number from 1 to 1000000"),
    ("http.head_max_bytes", &["255", "131073"], "allowed is a whole number from 256 to 131072"),
    ("http.connections_max", &["0", "1000001"], "a whole number from 1 to 1000000"),
    ("http.connections_per_address_max", &["0", "x"], "a whole number from 1 to 1000000"),
    ("http.bodies_max_bytes", &["1", "x"], "a whole number from 1048576"),
    ("http.rejections_per_second", &["0", "x"], "a whole number from 1 to 1000000"),
    ("http.allow_from", &["everywhere", "10.0.0.0/33", "10.0.0.0/8;::/0"], NETWORKS),
    ("http.trusted_proxies", &["proxy.example.com"], NETWORKS),
    ("http.forwarded_header", &["X-Real-IP"], "allowed is x-forwarded-for or forwarded"),
    (
        "admin.listen",
        &[":9464", "9464", "unix:/run/admin"],
        "allowed is an address and a port, such as 127.0.0.1:9464",
    ),
    ("log.level", &["inf", "info,librdkafka=loud", "librdkafka=", ""], LEVEL),
    ("log.format", &["xml", "JSON"], "allowed is text or json"),
    (
        "kafka.bootstrap_servers",
        &["kafka", "a:1,b", "a:1,", ""],
        "allowed is host:port, several joined by commas",
    ),
    ("kafka.event_format", &["avro"], "allowed is structured or binary"),
    ("kafka.allow_weaker_delivery", &["yes"], FLAG),
    ("kafka.topics.prefix", &["a b", "a/"], "allowed is up to 200 letters, digits, `.`, `_`, `-`"),
    ("kafka.topics.create", &["maybe"], FLAG),
    ("kafka.topics.partitions", &["0", "10001"], "allowed is a whole number from 1 to 10000"),
    (
        "kafka.topics.replication_factor",
        &["0", "-2", "101"],
        "allowed is a whole number from 1 to 100, or -1 for the broker's default",
    ),
    ("kafka.topics.all", &["1"], FLAG),
    ("delivery.recent_max", &["-1", "x", "10000001"], "a whole number from 0 to 10000000"),
    ("delivery.hold_above", &["-1", "x", "1000001"], "a whole number from 0 to 1000000"),
    ("delivery.patience", &["0s", "soon"], "a duration over zero"),
    ("rejected.enabled", &["yes"], FLAG),
    ("rejected.per_second", &["0", "10001"], "a whole number from 1 to 10000"),
    ("rejected.max_bytes", &["0", "900001"], "a whole number from 1 to 900000"),
    ("spool.path", &["relative/directory"], "an absolute path"),
    ("spool.max_bytes", &["1", "x"], "a whole number from 16777216"),
    ("kafka.topics.names.unrecognized", &["a/b", "", ".."], TOPIC),
    ("kafka.topics.names.all", &["a b"], TOPIC),
    (
        "kafka.topics.retention.unrecognized",
        &["7", "0s", "-1h"],
        "allowed is a duration over zero, such as 720h",
    ),
    ("kafka.property_files.debug", &["/nowhere/at/all"], "cannot be read: No such file"),
    ("applications.default.authentication", &["maybe"], "allowed is checksum or none"),
    ("applications.default.source", &["a b"], "allowed is a URI reference without blanks"),
    (
        "applications.default.topics_prefix",
        &["a b", "a/"],
        "allowed is up to 200 letters, digits, `.`, `_`, `-`",
    ),
    ("applications.default.in_flight_max", &["-1", "x"], "a whole number from 0 to 1000000"),
    ("applications.default.allow_from", &["nobody"], NETWORKS),
    ("applications.default.trusted_proxies", &["1.2.3"], NETWORKS),
    ("applications.default.placement", &["body"], "allowed is any or root or data or header"),
    ("applications.default.legacy_checksum", &["yes"], FLAG),
    ("applications.default.checksum_key_files.old", &["/nowhere/at/all"], "No such file"),
    ("applications.default.checksum_headers.signature", &["md5", ""], "is canonical or raw"),
    // Without the value, which may be secret.
    ("applications.default.checksum_keys.main", &[""], "is empty"),
    ("kafka.properties.debug", &["everything"], "is not taken by librdkafka: Invalid value"),
];

#[test]
fn every_key_has_wrong_values() {
    let (keys, tables) = reference();
    for key in keys {
        assert!(WRONG.iter().any(|(wrong, ..)| **wrong == key), "`{key}` is not in the table");
    }
    for table in tables {
        let is_tried = WRONG.iter().any(|(key, ..)| key.starts_with(&format!("{table}.")));
        assert!(is_tried, "`{table}` is not in the table");
    }
}

#[test]
fn wrong_values_are_named() {
    for (key, values, allowed) in WRONG {
        for value in values {
            let is_shown = !key.contains(".checksum_keys.") && !key.contains(".properties.");
            let shown = if is_shown { format!("is `{value}` in ") } else { String::new() };
            let keyed = if key.contains(".checksum_keys.") { "" } else { KEYED };
            let problem = mistake(key, &format!("{keyed}{key} = \"{value}\"\n"), &[]);
            assert_says(&problem, &[&shown, FILE, allowed]);
            let problem = mistake(key, keyed, &[(&variable(key), value)]);
            assert_says(&problem, &[&shown, "in the environment", allowed]);
        }
    }
}

#[test]
fn a_list_is_no_value() {
    for (key, ..) in WRONG {
        let keyed = if key.contains(".checksum_keys.") { "" } else { KEYED };
        let mistakes = mistakes(&format!("{keyed}{key} = [\"{SECRET}\"]\n"), &[]);
        let [Mistake { key: named, problem }, ..] = mistakes.as_slice() else {
            panic!("{key}: {mistakes:?}");
        };
        assert_eq!(named, key);
        assert_says(problem, &["is a list in ", FILE, "allowed is "]);
    }
}

#[test]
fn a_value_is_no_table() {
    for table in ["http", "admin", "log", "kafka", "kafka.topics", "kafka.topics.names"] {
        let problem = mistake(table, &format!("{table} = 3\n{KEYED}"), &[]);
        assert_says(&problem, &["is a number or a flag in ", "allowed is a table of settings"]);
        let problem = mistake(table, KEYED, &[(&variable(table), "3")]);
        assert_says(&problem, &["is a text in the environment: allowed is a table of settings"]);
    }
    let problem = mistake("http.listen", &format!("{KEYED}[http.listen]\nport = 1\n"), &[]);
    assert_says(&problem, &["is a table in ", FILE, "an address and a port"]);
}

#[test]
fn all_mistakes_are_named_at_once() {
    let wrong = WRONG.iter().filter_map(|(key, values, _)| Some((*key, *values.first()?)));
    let file =
        wrong.clone().map(|(key, value)| format!("{key} = \"{value}\"\n")).collect::<String>();
    let mistakes = mistakes(&file, &[]);
    let named: BTreeSet<_> = mistakes.iter().map(|mistake| mistake.key.as_str()).collect();
    assert_eq!(named, wrong.clone().map(|(key, _)| key).collect());
    assert_eq!(mistakes.len(), wrong.clone().count());
    let text = Mistakes(mistakes).to_string();
    assert_eq!(text.lines().count(), wrong.count(), "a line each: {text}");
    assert!(text.lines().all(|line| line.starts_with('`')), "{text}");
}

#[test]
fn a_body_cannot_take_longer_than_its_answer() {
    let problem = mistake("http.body_within", &format!("{KEYED}http.body_within = \"9s\""), &[]);
    assert_says(&problem, &["is longer than `http.answer_within`"]);
    settings(&format!("{KEYED}http.body_within = \"8s\""), &[]);
}

#[test]
fn admin_is_public_only_where_that_is_said() {
    for address in ["0.0.0.0:9464", "10.0.0.1:9464", "[::]:9464", "relay:9464", "127.1:9464"] {
        let problem = mistake("admin.listen", KEYED, &[("ADMIN__LISTEN", address)]);
        assert_says(&problem, &["no address of this machine alone", "`admin.public`"]);
        settings(KEYED, &[("ADMIN__LISTEN", address), ("ADMIN__PUBLIC", "true")]);
    }
    for address in ["127.0.0.1:9464", "127.8.8.8:9464", "[::1]:9464", "localhost:9464"] {
        settings(KEYED, &[("ADMIN__LISTEN", address)]);
    }
}

#[test]
fn the_files_of_tls() {
    let (certificate, key) = ("http.tls.certificate_file", "HTTP__TLS__KEY_FILE");
    let no_pem = TestFile::new(SECRET);
    for (given, variables) in [
        ("HTTP__TLS__CERTIFICATE_FILE", &[][..]),
        (key, &[]),
        ("HTTP__TLS__CLIENT_CA_FILE", &[]),
        ("HTTP__TLS__CERTIFICATE_FILE", &[("HTTP__TLS__CLIENT_CA_FILE", "/nowhere")]),
    ] {
        let variables = [variables, &[(given, no_pem.path())]].concat();
        assert_says(&mistake(certificate, KEYED, &variables), &["TLS needs both"]);
    }
    for path in [no_pem.path(), "/nowhere"] {
        let variables = [("HTTP__TLS__CERTIFICATE_FILE", path), (key, no_pem.path())];
        let problem = mistake(certificate, KEYED, &variables);
        assert_says(&problem, &["cannot be used", path]);
        assert!(!problem.contains(SECRET), "{problem}");
    }
    let issued = rcgen::generate_simple_self_signed(["relay.test".to_owned()]).unwrap();
    let issued = [issued.cert.pem(), issued.signing_key.serialize_pem()].map(TestFile::new);
    let files = [("HTTP__TLS__CERTIFICATE_FILE", issued[0].path()), (key, issued[1].path())];
    assert!(settings(KEYED, &files).http.tls.is_some());
    let socket = [&files[..], &[("HTTP__LISTEN", "unix:/run/relay.sock")]].concat();
    assert_says(&mistake("http.listen", KEYED, &socket), &["TLS is not spoken"]);
    let other = rcgen::KeyPair::generate().unwrap().serialize_pem();
    let other = TestFile::new(other);
    let problem = mistake(certificate, KEYED, &[files[0], (key, other.path())]);
    assert_says(&problem, &["cannot be used", "the certificate and its key"]);
}

#[test]
fn a_file_that_is_no_settings_is_named() {
    let read = |path: &str| match Written::read(Some(Path::new(path)), Some(HashMap::new())) {
        Ok(_) => panic!("{path} was read"),
        Err(mistakes) => mistakes.to_string(),
    };
    assert_says(
        &read("/nowhere/relay.toml"),
        &["`/nowhere/relay.toml` cannot be read", "not found"],
    );
    let file = TestFile::new(format!("[http]\nlisten = {SECRET}\n"));
    let text = read(file.path());
    assert_says(&text, &[file.path(), "line 2, column ", "must be quoted"]);
    assert!(!text.contains(SECRET) && text.lines().count() == 1, "{text}");
    let file = TestFile::new(b"\xff\xfe = 1");
    assert_says(&read(file.path()), &[file.path(), "cannot be read"]);
}

// --- Where a value comes from -----------------------------------------------------------

#[test]
fn environment_beats_file_beats_default() {
    let of = |file: &str, variables| {
        let written = written(&format!("{KEYED}{file}"), variables).expect("it is TOML");
        let in_force = written.in_force().into_iter().find(|one| one.key == "http.workers");
        let in_force = in_force.expect("there is a default");
        let settings = written.understand().expect("it can be used");
        (settings.http.workers, in_force.value, in_force.origin)
    };
    assert_eq!(of("", &[]), (0, "0".to_owned(), "the defaults".to_owned()));
    let (workers, value, origin) = of("http.workers = 2", &[]);
    assert_eq!((workers, value.as_str()), (2, "2"));
    assert!(origin.contains(FILE), "{origin}");
    let expected = (3, "3".to_owned(), "the environment".to_owned());
    assert_eq!(of("http.workers = 2", &[("HTTP__WORKERS", "3")]), expected);
    assert_eq!(of("", &[("HTTP__WORKERS", "3")]), expected);
}

#[test]
fn a_variable_of_another_is_not_ours() {
    // Kubernetes makes these for every service that is called `clickpesa-relay`.
    let names = ["CLICKPESA_RELAY_PORT", "CLICKPESA_RELAY_SERVICE_HOST", "CLICKPESA_RELAYS__HTTP"];
    let mut environment = environment(&[("APPLICATIONS__DEFAULT__CHECKSUM_KEYS__MAIN", "k")]);
    environment.extend(names.map(|name| (name.to_owned(), "tcp://10.0.0.1:80".to_owned())));
    let written = Written::read(None, Some(environment)).expect("nothing is read from a file");
    written.understand().expect("they are not looked at");
}

#[test]
fn names_with_dots_can_be_written_in_any_way() {
    let quoted = "[kafka.properties]\n\"client.rack\" = \"a\"\n";
    let unquoted = "[kafka.properties]\nclient.rack = \"a\"\n";
    let nested = "[kafka.properties.client]\nrack = \"a\"\n";
    let variables = [("KAFKA__PROPERTIES__CLIENT_RACK", "b")];
    for file in [quoted, unquoted, nested] {
        let of = |variables| {
            let file = format!("{KEYED}{file}");
            let in_force = written(&file, variables).expect("it is TOML").in_force();
            let shown = in_force.into_iter().filter(|one| one.key.starts_with("kafka.properties."));
            let shown: Vec<_> = shown.map(|one| (one.key, one.value)).collect();
            (settings(&file, variables).kafka.properties.0["client.rack"].clone(), shown)
        };
        let shown =
            |value: &str| vec![("kafka.properties.client.rack".to_owned(), value.to_owned())];
        assert_eq!(of(&[]), ("a".to_owned(), shown("a")), "{file}");
        assert_eq!(of(&variables), ("b".to_owned(), shown("b")), "{file}");
    }
    let properties = settings(KEYED, &variables).kafka.properties;
    assert_eq!(properties.0["client.rack"], "b");

    let variables = [
        ("KAFKA__TOPICS__NAMES__PAYMENT_RECEIVED", "paid"),
        ("KAFKA__TOPICS__RETENTION__PAYMENT_RECEIVED", "30d"),
        ("KAFKA__TOPICS__ALL", "true"),
        ("KAFKA__TOPICS__PREFIX", ""),
    ];
    let topics = settings(&format!("{KEYED}[kafka.topics.names]\nall = \"every\""), &variables);
    let topics = topics.kafka.topics;
    assert_eq!(topics.names.name(Kind::PaymentReceived), "paid");
    assert_eq!(topics.names.name(Kind::PaymentFailed), "payment.failed");
    assert_eq!(topics.names.all.as_deref(), Some("every"));
    let retention = BTreeMap::from([("payment.received", Duration::from_hours(720))]);
    assert_eq!(topics.retention, retention);
}

#[test]
fn numbers_and_flags_can_stand_in_properties() {
    let file = "[kafka.properties]\nlinger.ms = 5\nsocket.nagle.disable = true\n";
    let properties = settings(&format!("{KEYED}{file}"), &[]).kafka.properties.0;
    assert_eq!(properties["linger.ms"], "5");
    assert_eq!(properties["socket.nagle.disable"], "true");
}

#[test]
fn durations() {
    let cases = [
        ("250ms", 250),
        ("8s", 8_000),
        ("1h 30m", 5_400_000),
        ("1h30m", 5_400_000),
        ("2d", 172_800_000),
        ("PT8S", 8_000),
        ("1.5s", 1_500),
    ];
    for (written, milliseconds) in cases {
        let settings = settings(KEYED, &[("SHUTDOWN_WITHIN", written)]);
        assert_eq!(settings.shutdown_within, Duration::from_millis(milliseconds), "{written}");
    }
}

// --- Secrets ----------------------------------------------------------------------------

/// Whether the application has this secret as its only key.
#[track_caller]
fn assert_key(settings: &Settings, application: &str, secret: &str) {
    let Policy::Checksum { keys, .. } = &settings.applications[application].policy else {
        panic!("no key is asked for");
    };
    let signs: Vec<_> = keys.iter().map(|key| key.sign(b"text")).collect();
    assert_eq!(signs, [Key::new("same", secret).sign(b"text")], "{secret:?}");
}

const KEY_VARIABLE: &str = "APPLICATIONS__DEFAULT__CHECKSUM_KEYS__MAIN";

#[test]
fn a_secret_stays_the_text_that_it_is() {
    for secret in ["1e5", "0123", "true", " a b ", "ключ", "a,b", "\"q\"", "9007199254740993", "\n"]
    {
        assert_key(&settings("", &[(KEY_VARIABLE, secret)]), "default", secret);
        let file = format!("applications.default.checksum_keys.main = {}\n", toml_text(secret));
        assert_key(&settings(&file, &[]), "default", secret);
    }
    // In a file, without quotes, they would be read as a number or a flag.
    for literal in ["1e5", "123", "true"] {
        let key = "applications.default.checksum_keys.main";
        let mistakes = mistakes(&format!("{key} = {literal}\n"), &[]);
        assert_eq!(mistakes[0].key, key);
        assert_says(&mistakes[0].problem, &["is a number or a flag in ", "a text in quotes"]);
        assert!(!mistakes[0].problem.contains(literal) || literal == "true", "{mistakes:?}");
    }
}

fn toml_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[test]
fn the_file_of_a_key() {
    let variable = "APPLICATIONS__DEFAULT__CHECKSUM_KEY_FILES__MAIN";
    for (content, secret) in [
        ("k3y", "k3y"),
        ("k3y\n", "k3y"),
        ("k3y\r\n", "k3y"),
        (" k3y \n\n", " k3y "),
        ("1e5", "1e5"),
    ] {
        let file = TestFile::new(content);
        assert_key(&settings("", &[(variable, file.path())]), "default", secret);
        let given = format!("applications.default.checksum_key_files.main = \"{}\"\n", file.path());
        assert_key(&settings(&given, &[]), "default", secret);
    }
    let key = "applications.default.checksum_key_files.main";
    for content in ["", "\n", "\r\n\n"] {
        let file = TestFile::new(content);
        let problem = mistake(key, "", &[(variable, file.path())]);
        assert_says(&problem, &[file.path(), "in the environment: the file is empty"]);
    }
    let file = TestFile::new(b"\xff");
    assert_says(&mistake(key, "", &[(variable, file.path())]), &["valid UTF-8"]);
    let file = TestFile::new(SECRET);
    let twice = mistake(key, "", &[(variable, file.path()), (KEY_VARIABLE, SECRET)]);
    assert_says(&twice, &["is also in `checksum_keys`: give it once"]);
}

#[test]
fn several_keys_overlap() {
    let file = TestFile::new("new secret\n");
    let new = format!("new = \"{}\"", file.path());
    let given = format!(
        "[applications.default.checksum_keys]\nold-2025 = \"a\"\n1 = \"b\"\n\
         [applications.default.checksum_key_files]\n{new}\n"
    );
    let settings = settings(&given, &[]);
    let Policy::Checksum { keys, .. } = &settings.applications["default"].policy else {
        panic!("no key is asked for");
    };
    assert_eq!(keys.iter().map(Key::id).collect::<Vec<_>>(), ["1", "new", "old-2025"]);
}

#[test]
fn property_files() {
    let file = TestFile::new(format!("{SECRET}\n"));
    let variable = ("KAFKA__PROPERTY_FILES__SASL_PASSWORD", file.path());
    let properties = settings(KEYED, &[variable]).kafka.properties;
    assert_eq!(properties.0["sasl.password"], SECRET);
    let written = format!("{KEYED}[kafka.property_files]\n\"sasl.password\" = \"{}\"", file.path());
    assert_eq!(settings(&written, &[]).kafka.properties.0["sasl.password"], SECRET);

    let key = "kafka.property_files.sasl.password";
    let empty = TestFile::new("\n");
    let problem = mistake(key, KEYED, &[(variable.0, empty.path())]);
    assert_says(&problem, &[empty.path(), "the file is empty"]);
    let twice = mistake(key, KEYED, &[variable, ("KAFKA__PROPERTIES__SASL_PASSWORD", SECRET)]);
    assert_says(&twice, &["is also in `kafka.properties`: give it once"]);
}

#[test]
fn secrets_are_never_shown() {
    let file = TestFile::new(SECRET);
    let good = format!(
        "[applications.default.checksum_keys]\nmain = \"{SECRET}\"\n\
         [applications.shop.checksum_key_files]\nmain = \"{path}\"\n\
         [kafka.properties]\n\"sasl.password\" = \"{SECRET}\"\n\
         \"ssl.key.password\" = \"{SECRET}\"\n\"ssl.key.pem\" = \"{SECRET}\"\n\
         \"sasl.oauthbearer.config\" = \"{SECRET}\"\n\
         \"sasl.username\" = \"relay\"\n\
         [kafka.property_files]\n\"ssl.keystore.password\" = \"{path}\"\n",
        path = file.path()
    );
    let variables = [("KAFKA__PROPERTIES__SASL_PASSWORD", SECRET)];
    let as_written = written(&good, &variables).expect("it is TOML");
    let in_force = as_written.in_force();
    let masked: BTreeSet<_> =
        in_force.iter().filter(|one| one.value == "***").map(|one| one.key.as_str()).collect();
    let secrets = [
        "applications.default.checksum_keys.main",
        "kafka.properties.sasl.oauthbearer.config",
        "kafka.properties.sasl.password",
        "kafka.properties.ssl.key.password",
        "kafka.properties.ssl.key.pem",
    ];
    assert_eq!(masked, BTreeSet::from(secrets));
    let username = in_force.iter().find(|one| one.key == "kafka.properties.sasl.username");
    assert_eq!(username.map(|one| one.value.as_str()), Some("relay"));
    let in_force = format!("{in_force:?}");
    let as_written = format!("{as_written:?}");
    let settings = format!("{:#?}", settings(&good, &variables));
    for shown in [in_force, as_written, settings] {
        assert!(shown.contains("sasl.password") && !shown.contains(SECRET), "{shown}");
    }
}

#[test]
fn secrets_are_in_no_mistake() {
    let secret = |name: &str| format!("{name} = \"{SECRET}\"\n");
    let files = [
        secret("applications.default"),
        secret("applications.default.checksum_keys"),
        secret("applications.default.checksum_keys.Main"),
        secret("applications.default.checksum_key"),
        secret("applications.default.checksum_keys.main.value"),
        format!("applications.default.checksum_keys.main = [\"{SECRET}\"]\n"),
        format!("applications.default.checksum_keys.main = {SECRET}\n"),
        format!("applications.default.checksum_keys.main = \"{SECRET}\n"),
        secret("applications"),
        secret("kafka.properties"),
        secret("kafka.properties.sasl.pasword"),
        secret("kafka.properties.SASL.password"),
        format!("kafka.properties.sasl.password = [\"{SECRET}\"]\n"),
        secret("sasl.password"),
    ];
    for file in files {
        let text = Mistakes(mistakes(&file, &[])).to_string();
        assert!(!text.is_empty() && !text.contains(SECRET), "{text}");
    }
    for variable in ["APPLICATIONS", "APPLICATIONS__DEFAULT", "KAFKA__PROPERTIES__SASL_PASWORD"] {
        let text = Mistakes(mistakes("", &[(variable, SECRET)])).to_string();
        assert!(!text.is_empty() && !text.contains(SECRET), "{text}");
    }
}

// --- What delivery rests on -------------------------------------------------------------

#[test]
fn what_delivery_rests_on_is_guarded() {
    for name in GUARDED {
        let value = match name {
            "enable.idempotence" => "false",
            "acks" => "1",
            "partitioner" => "random",
            _ => "7000",
        };
        let key = format!("kafka.properties.{name}");
        let variable = format!("KAFKA__PROPERTIES__{}", name.replace('.', "_").to_uppercase());
        let variables = [(variable.as_str(), value)];
        let problem = mistake(&key, KEYED, &variables);
        assert_says(&problem, &["what delivery rests on", "`kafka.allow_weaker_delivery`"]);
        let in_file = format!("{KEYED}[kafka.properties]\n\"{name}\" = \"{value}\"\n");
        mistake(&key, &in_file, &[]);
        let held = TestFile::new(value);
        let file = format!("{KEYED}kafka.property_files.{name} = \"{}\"\n", held.path());
        mistake(&format!("kafka.property_files.{name}"), &file, &[]);

        let allowed = settings(&format!("{KEYED}kafka.allow_weaker_delivery = true\n"), &variables);
        assert!(allowed.kafka.allow_weaker_delivery);
        assert_eq!(allowed.kafka.properties.0[name], value);
    }
}

#[test]
fn there_is_no_relay_without_acknowledgements() {
    let file = format!("{KEYED}kafka.allow_weaker_delivery = true\n");
    let variables = [("KAFKA__PROPERTIES__ACKS", "0")];
    let problem = mistake("kafka.properties.acks", &file, &variables);
    assert_says(&problem, &["cannot be 0: Kafka then acknowledges nothing"]);
}

#[test]
fn what_would_count_by_chance_is_refused() {
    for (name, instead) in REFUSED {
        let file = format!("{KEYED}[kafka.properties]\n\"{name}\" = \"a:1\"\n");
        let problem = mistake(&format!("kafka.properties.{name}"), &file, &[]);
        assert_says(&problem, &["cannot be set: ", instead]);
    }
    let servers = "a:9092, [::1]:9093";
    let properties = settings(KEYED, &[("KAFKA__BOOTSTRAP_SERVERS", servers)]).kafka.properties;
    assert_eq!(properties.0["bootstrap.servers"], servers);
}

#[test]
fn a_property_that_librdkafka_does_not_take_is_named() {
    for (name, value, words) in [
        ("sasl.pasword", "x", "No such configuration property"),
        ("linger.ms", "soon", "Invalid value"),
        ("linger.ms", "-1", "outside allowed range"),
        ("security.protocol", "TLS", "Invalid value"),
    ] {
        let file = format!("{KEYED}[kafka.properties]\n\"{name}\" = \"{value}\"\n");
        let problem = mistake(&format!("kafka.properties.{name}"), &file, &[]);
        assert_says(&problem, &["is not taken by librdkafka", words]);
        assert_eq!(problem.lines().count(), 1, "{problem:?}");
    }
}

/// `topics` and `tail` need no application.
#[test]
fn kafka_can_be_understood_alone() {
    let kafka = written("kafka.topics.prefix = \"p.\"", &[]).expect("it is TOML");
    let kafka = kafka.understand_kafka().expect("nothing is wrong with it");
    assert_eq!(kafka.topics.names.name(Kind::Unrecognized), "p.unrecognized");
    let wrong = written("kafka.topics.create = \"no\"\nhttp.workers = -1", &[]);
    let Err(Mistakes(mistakes)) = wrong.expect("it is TOML").understand_kafka() else {
        panic!("`no` is no flag");
    };
    assert_eq!(mistakes.iter().map(|one| &one.key).collect::<Vec<_>>(), ["kafka.topics.create"]);
}

// --- Applications -----------------------------------------------------------------------

#[test]
fn without_an_application_nothing_can_be_taken() {
    for file in ["", "[applications]\n"] {
        let problem = mistake("applications", file, &[]);
        let key = "`applications.default.checksum_keys.main`";
        assert_says(&problem, &["no application", key, "`applications.default.authentication`"]);
    }
}

#[test]
fn applications_are_those_that_are_named() {
    let names = |file: &str| settings(file, &[]).applications.into_keys().collect::<Vec<_>>();
    let shop = "[applications.shop-1]\nchecksum_keys.main = \"s\"\n";
    assert_eq!(names(KEYED), ["default"]);
    assert_eq!(names(shop), ["shop-1"], "then there is no default");
    assert_eq!(names(&format!("{KEYED}{shop}")), ["default", "shop-1"]);

    let both = settings(
        &format!("{KEYED}{shop}source = \"urn:shop\"\nplacement = \"data\"\n"),
        &[("APPLICATIONS__TILL_2__AUTHENTICATION", "none")],
    );
    assert_key(&both, "default", "k");
    assert_key(&both, "shop-1", "s");
    let shop = &both.applications["shop-1"];
    assert_eq!((shop.name.as_str(), shop.source.as_str()), ("shop-1", "urn:shop"));
    assert!(matches!(shop.policy, Policy::Checksum { placement: Some(Placement::Data), .. }));
    let till = &both.applications["till_2"];
    assert_eq!(till.source, "/clickpesa/till_2");
    assert!(matches!(till.policy, Policy::None));
    // What one says is not said for the others.
    let default = &both.applications["default"];
    assert_eq!(default.source, "/clickpesa/default");
    assert!(matches!(default.policy, Policy::Checksum { placement: None, .. }));
}

#[test]
fn bad_names_are_refused() {
    let long = "a".repeat(65);
    for name in ["Shop", "a b", "a/b", "ü", "", "a.b", &long] {
        let file = format!("[applications.{}]\nauthentication = \"none\"\n", toml_text(name));
        let mistakes = mistakes(&file, &[]);
        let problems: String = mistakes.into_iter().map(|one| one.problem).collect();
        let allowed = "allowed are 1 to 64 lower-case letters, digits, `_`, `-`";
        assert_says(&problems, &["is no name of an application", allowed]);

        let keys = format!("[applications.a.checksum_keys]\n{} = \"s\"\n", toml_text(name));
        let text = Mistakes(self::mistakes(&keys, &[])).to_string();
        assert_says(&text, &["applications.a.checksum_keys", "is no id of a key", allowed]);
    }
    let exactly = "a".repeat(64);
    settings(&format!("[applications.{exactly}.checksum_keys]\n{exactly} = \"s\"\n"), &[]);
    let file = format!("{KEYED}[applications.default.checksum_headers]\n\"a b\" = \"raw\"\n");
    let problem = mistake("applications.default.checksum_headers.a b", &file, &[]);
    assert_says(&problem, &["no name of a header"]);
}

#[test]
fn authentication_and_keys_agree() {
    let problem = mistake("applications.a.checksum_keys", "[applications.a]\n", &[]);
    assert_says(&problem, &["is empty", "at least one key", "`authentication = \"none\"`"]);
    let none = "[applications.a]\nauthentication = \"none\"\n";
    let problem =
        mistake("applications.a.checksum_keys", &format!("{none}checksum_keys.x = \"s\"\n"), &[]);
    assert_says(&problem, &["would never be used", "`authentication` is none"]);
    let file = TestFile::new("s");
    let problem = mistake(
        "applications.a.checksum_keys",
        &format!("{none}checksum_key_files.x = \"{}\"\n", file.path()),
        &[],
    );
    assert_says(&problem, &["would never be used"]);
    assert!(matches!(settings(none, &[]).applications["a"].policy, Policy::None));
}

#[test]
fn headers() {
    let pinned = format!("{KEYED}applications.default.placement = \"header\"\n");
    let problem = mistake("applications.default.placement", &pinned, &[]);
    assert_says(&problem, &["is header", "`checksum_headers` has to name one"]);
    let file = format!(
        "{pinned}[applications.default.checksum_headers]\nX-Signature = \"raw\"\nx-other = \
         \"canonical\"\n"
    );
    let settings = settings(&file, &[]);
    let Policy::Checksum { headers, placement, .. } = &settings.applications["default"].policy
    else {
        panic!("no key is asked for");
    };
    let headers: BTreeMap<_, _> =
        headers.iter().map(|header| (header.name.as_str(), header.method)).collect();
    let expected = [("x-signature", Method::Raw), ("x-other", Method::Canonical)];
    assert_eq!((headers.len(), *placement), (2, Some(Placement::Header)));
    assert!(expected.iter().all(|(name, method)| headers[name] == *method), "{headers:?}");
}
