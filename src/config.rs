//! Settings: from `config/default.toml`, a file and the environment to what is meant.
//!
//! The only reader of the environment. Every mistake is collected, so that one run names them all.

mod meaning;
mod section;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use config::{Config, ConfigError, Environment, File, FileFormat, Map, Value, ValueKind};
use rustls::ServerConfig;
use tracing_subscriber::filter::Targets;

use self::{
    meaning::{admin, application, delivery, http, kafka, log, rejected, spool, topics_prefix},
    section::{Notes, Section, flatten, origin, with_dots},
};
use crate::{
    application::{Application, networks::Networks},
    http::{Limits, tls::Certificate},
    kafka::{Properties, check_property, topics::Topics},
    record::EventFormat,
};

/// Every setting with its default and a comment: what `config/default.toml` says.
pub const REFERENCE: &str = include_str!("../config/default.toml");

/// The settings as meant.
#[derive(Debug)]
pub struct Settings {
    /// How long a shutdown may take.
    pub shutdown_within: Duration,
    /// The public listener.
    pub http: Http,
    /// `host:port` of the admin listener.
    pub admin_listen: String,
    /// What is logged, and how.
    pub log: Log,
    /// Kafka.
    pub kafka: Kafka,
    /// What becomes of events.
    pub delivery: Delivery,
    /// What becomes of rejected webhooks.
    pub rejected: Rejected,
    /// The spool, if there is one.
    pub spool: Option<Spool>,
    /// Whom webhooks are for, by name.
    pub applications: BTreeMap<String, Application>,
    /// The files in which all this stands, the applications' keys among them.
    pub files: Vec<PathBuf>,
    /// All this as it was written, secrets masked, sorted by path.
    pub in_force: Vec<InForce>,
}

/// What becomes of events.
#[derive(Debug)]
pub struct Delivery {
    /// Acknowledged webhooks that are known again.
    pub recent_max: usize,
    /// How long Kafka may take before an event goes to the spool.
    pub patience: Duration,
    /// Unacknowledged records from which on further ones are held back for a moment; 0 is off.
    pub hold_above: usize,
}

/// Copies of rejected webhooks.
#[derive(Debug)]
pub struct Rejected {
    /// How many in a second.
    pub per_second: usize,
    /// Bytes of a body that is copied.
    pub max_bytes: usize,
}

/// Where events wait that Kafka cannot take.
#[derive(Debug)]
pub struct Spool {
    /// The directory.
    pub path: PathBuf,
    /// Bytes on disk.
    pub max_bytes: u64,
}

/// The public listener.
#[derive(Debug)]
pub struct Http {
    /// Where it is.
    pub listen: Listen,
    /// Threads that take requests; 0 is one for each core.
    pub workers: usize,
    /// How long the head of a request may take.
    pub head_within: Duration,
    /// How long a connection without a request is kept.
    pub keep_alive: Duration,
    /// From where webhooks may come.
    pub networks: Networks,
    /// TLS, unless somebody before the relay speaks it.
    pub tls: Option<Tls>,
    /// Who may use the socket in the file system: its mode, its owner and its group.
    pub socket: SocketAccess,
    /// What it bears.
    pub limits: Limits,
}

/// TLS as it is set.
#[derive(Debug)]
pub struct Tls {
    /// What new connections are shown.
    pub certificate: Arc<Certificate>,
    /// What the listener is told.
    pub server: ServerConfig,
}

/// Who may use a socket in the file system.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SocketAccess {
    /// Its mode.
    pub mode: u32,
    /// Its owner, by number, if it is to be another than whoever makes it.
    pub owner: Option<u32>,
    /// Its group, likewise.
    pub group: Option<u32>,
}

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`
    Tcp(String),
    /// The path of a socket.
    Unix(PathBuf),
}

/// What is logged, and how.
#[derive(Debug, Default)]
pub struct Log {
    /// What is logged.
    pub filter: Targets,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Kafka.
#[derive(Debug)]
pub struct Kafka {
    /// What librdkafka is told on top of the relay's own properties.
    pub properties: Properties,
    /// Whether delivery may be weaker than the relay promises.
    pub allow_weaker_delivery: bool,
    /// How an event stands in a record.
    pub event_format: EventFormat,
    /// The topics.
    pub topics: Topics,
}

/// A setting in force, as `check-config --print` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// Its path.
    pub key: String,
    /// Its value, or stars for a secret.
    pub value: String,
    /// Where it was set.
    pub origin: String,
}

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The path of the setting.
    pub key: String,
    /// What is wrong, and what is allowed.
    pub problem: String,
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Mistakes(pub Vec<Mistake>);

impl fmt::Display for Mistakes {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.iter().map(|Mistake { key, problem }| format!("`{key}` {problem}"));
        formatter.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

/// What was read, as written, the applications completed from the reference.
pub struct Written {
    table: Map<String, Value>,
    /// Where it stands, beside the reference and the environment.
    file: Option<PathBuf>,
}

/// As `check-config` prints it: without the secrets.
impl fmt::Debug for Written {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.in_force()).finish()
    }
}

impl Written {
    /// Reads the reference, a file if there is one, and the environment: that of the process, or
    /// the one given.
    ///
    /// # Errors
    /// When the file cannot be read, or is no TOML; when a variable is no UTF-8.
    pub fn read(
        file: Option<&Path>,
        environment: Option<HashMap<String, String>>,
    ) -> Result<Self, Mistakes> {
        let environment = environment.map_or_else(read_environment, Ok)?;
        let layers = || {
            let reference = File::from_str(REFERENCE, FileFormat::Toml);
            let reference = Config::builder().add_source(reference).build()?;
            let file = file.map(|path| File::from(path).format(FileFormat::Toml));
            let environment = Environment::with_prefix(PREFIX)
                .prefix_separator(SEPARATOR)
                .separator(SEPARATOR)
                .source(Some(environment));
            let given =
                file.into_iter().fold(Config::builder(), |given, file| given.add_source(file));
            merge(&reference, &given.add_source(environment).build()?)
        };
        let path = file.map(Path::to_owned);
        layers().map(|table| Self { table, file: path }).map_err(|error| {
            let key = file.map_or_else(|| "the environment".into(), Path::to_string_lossy);
            let problem = format!("cannot be read: {}", without_excerpt(&error));
            Mistakes(vec![Mistake { key: key.into_owned(), problem }])
        })
    }

    /// Every setting in force, secrets masked, sorted by path.
    pub fn in_force(&self) -> Vec<InForce> {
        let mut flat = Vec::new();
        flatten("", self.table.clone(), &mut flat);
        // A name that was given with dots gives way to the same one from the environment.
        let (dotted, others): (Vec<_>, Vec<_>) = flat
            .into_iter()
            .partition(|(key, _)| DOTTED.iter().any(|table| key.starts_with(table)));
        let in_tables = DOTTED.iter().flat_map(|table| {
            let names = dotted.iter().filter_map(|(key, value)| {
                Some((key.strip_prefix(table)?.to_owned(), value.clone()))
            });
            with_dots(names).into_iter().map(move |(name, value)| (format!("{table}{name}"), value))
        });
        let known = known_settings();
        let shown = |(key, value): (String, Value)| {
            let origin = origin(&value);
            let value = value.into_string().unwrap_or_default();
            let value = if may_be_shown(&key, &value, &known) { value } else { "***".to_owned() };
            InForce { key, value, origin }
        };
        let mut in_force: Vec<_> = others.into_iter().chain(in_tables).map(shown).collect();
        in_force.sort_by(|a, b| a.key.cmp(&b.key));
        in_force
    }

    /// Reads the settings of Kafka alone, for commands that take no webhooks.
    ///
    /// # Errors
    /// With everything that is wrong with them.
    pub fn understand_kafka(self) -> Result<Kafka, Mistakes> {
        let notes = Notes::default();
        let mut relay = Section::new("", self.table, &notes);
        let mut kafka = kafka(relay.section("kafka"));
        rejected(relay.section("rejected"), &mut kafka.topics);
        let applications = relay.section("applications").sections();
        let prefixes = applications.map(|(_, mut section)| topics_prefix(&mut section));
        let mut names: Vec<_> = prefixes.map(|prefix| kafka.topics.names_for(&prefix)).collect();
        if names.is_empty() {
            names.push(kafka.topics.names.clone());
        }
        kafka.topics.want(&names);
        notes.unless_mistaken(kafka).map(|(kafka, _files)| kafka)
    }

    /// Reads the settings of the spool alone, for commands that take no webhooks.
    ///
    /// # Errors
    /// With everything that is wrong with them.
    pub fn understand_spool(self) -> Result<Option<Spool>, Mistakes> {
        let notes = Notes::default();
        let spool = spool(Section::new("", self.table, &notes).section("spool"));
        notes.unless_mistaken(spool).map(|(spool, _files)| spool)
    }

    /// Reads what was written, and the files it names, as it is meant.
    ///
    /// # Errors
    /// With everything that is wrong.
    pub fn understand(self) -> Result<Settings, Mistakes> {
        let in_force = self.in_force();
        let notes = Notes::default();
        let mut relay = Section::new("", self.table, &notes);
        let http = http(relay.section("http"));
        let mut kafka = kafka(relay.section("kafka"));
        let rejected = rejected(relay.section("rejected"), &mut kafka.topics);
        let understand = |(name, section): (String, _)| {
            (name.clone(), application(name, section, &http.networks, &kafka.topics))
        };
        let applications: BTreeMap<_, _> =
            relay.section("applications").sections().map(understand).collect();
        kafka.topics.want(applications.values().map(|application| &application.topics));
        let settings = Settings {
            shutdown_within: relay.duration("shutdown_within"),
            http,
            admin_listen: admin(relay.section("admin")),
            log: log(relay.section("log")),
            kafka,
            delivery: delivery(relay.section("delivery")),
            rejected,
            spool: spool(relay.section("spool")),
            applications,
            files: Vec::new(),
            in_force,
        };
        if settings.applications.is_empty() {
            relay.mistake(
                "applications",
                "names no application: set `applications.default.checksum_keys.main` to the \
                 checksum key of your ClickPesa account, or \
                 `applications.default.authentication` to none"
                    .to_owned(),
            );
        }
        relay.end();
        let (settings, files) = notes.unless_mistaken(settings)?;
        Ok(Settings { files: self.file.into_iter().chain(files).collect(), ..settings })
    }
}

/// What the names of our variables begin with, and what stands between their parts.
///
/// With one `_` for it, the variables that Kubernetes makes for a service of our name
/// (`CLICKPESA_RELAY_PORT`) would be ours.
const PREFIX: &str = "CLICKPESA_RELAY";
const SEPARATOR: &str = "__";

/// Our variables in the environment of the process.
#[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
fn read_environment() -> Result<HashMap<String, String>, Mistakes> {
    let mut ours = HashMap::new();
    let mut mistakes = Vec::new();
    for (name, value) in std::env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        if !name.to_uppercase().starts_with(PREFIX) {
            continue;
        }
        match value.into_string() {
            Ok(value) => drop(ours.insert(name, value)),
            Err(_secret) => {
                mistakes.push(Mistake { key: name, problem: "is no UTF-8".to_owned() });
            }
        }
    }
    if mistakes.is_empty() { Ok(ours) } else { Err(Mistakes(mistakes)) }
}

/// The reference, what was given on top of it, and in each application what it leaves out.
fn merge(reference: &Config, given: &Config) -> Result<Map<String, Value>, ConfigError> {
    let template = reference.get_table("applications.default")?;
    let complete = |(name, application): (String, Value)| {
        if let ValueKind::Table(table) = application.kind {
            let mut completed = template.clone();
            completed.extend(table);
            return (name, completed.into());
        }
        (name, application)
    };
    let applications = given.cache.clone().into_table()?.remove("applications");
    let applications = match applications {
        Some(Value { kind: ValueKind::Table(table), .. }) => {
            table.into_iter().map(complete).collect::<Map<_, _>>().into()
        }
        Some(no_table) => no_table,
        None => Map::<String, Value>::new().into(),
    };
    let both = Config::builder().add_source(reference.clone()).add_source(given.clone()).build()?;
    let mut relay = both.cache.into_table()?;
    relay.insert("applications".to_owned(), applications);
    Ok(relay)
}

/// What an error says, but for the line of the file that it quotes: a secret may stand there.
fn without_excerpt(error: &ConfigError) -> String {
    let text = if let ConfigError::FileParse { cause, .. } = error {
        cause.to_string()
    } else {
        error.to_string()
    };
    let is_excerpt = |line: &&str| line.contains(" | ") || line.trim_start().starts_with('|');
    text.lines().filter(|line| !is_excerpt(line)).collect::<Vec<_>>().join(": ")
}

/// The tables in whose names the environment writes `_` for `.`.
const DOTTED: [&str; 4] = [
    "kafka.topics.names.",
    "kafka.topics.retention.",
    "kafka.properties.",
    "kafka.property_files.",
];

/// The tables whose names are the user's own, and whose values are no secrets.
const OPEN: [&str; 5] = [
    "applications.default.checksum_headers.",
    "applications.default.checksum_key_files.",
    "kafka.property_files.",
    "kafka.topics.names.",
    "kafka.topics.retention.",
];

/// The paths of all settings that the reference names.
fn known_settings() -> BTreeSet<String> {
    let reference = Config::builder().add_source(File::from_str(REFERENCE, FileFormat::Toml));
    let reference = reference.build().and_then(|reference| reference.cache.into_table());
    let mut flat = Vec::new();
    flatten("", reference.expect("a test reads the reference"), &mut flat);
    flat.into_iter().map(|(key, _)| key).collect()
}

/// Whether the value of a setting is no secret. One that is unknown is taken for one: its name may
/// be that of a secret with a slip in it.
fn may_be_shown(key: &str, value: &str, known: &BTreeSet<String>) -> bool {
    if let Some(property) = key.strip_prefix("kafka.properties.") {
        let secret =
            ["password", "secret", "pem", "token", "jaas", "oauthbearer.config", "passphrase"];
        let is_secret = secret.iter().any(|word| property.contains(word));
        return !is_secret && check_property(property, value).is_ok();
    }
    let of_application = key.strip_prefix("applications.").and_then(|rest| rest.split_once('.'));
    let key = of_application
        .map_or_else(|| key.to_owned(), |(_, setting)| format!("applications.default.{setting}"));
    known.contains(&key) || OPEN.iter().any(|table| key.starts_with(table))
}
