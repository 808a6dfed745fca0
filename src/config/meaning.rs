//! What each table of settings means, and what it allows.

use std::{fs, path::PathBuf};

use super::{
    Http, Kafka, Listen, Log, LogFormat,
    section::{Section, parse_duration},
};
use crate::{
    event::kind::Kind,
    http::{Application, Limits},
    kafka::{GUARDED, Properties, topics::Topics},
    record::EventFormat,
    webhook::checksum::{ChecksumHeader, Key, Method, Placement, Policy},
};

pub(super) const ADDRESS: &str = "an address and a port, such as 127.0.0.1:9464";

pub(super) fn parse_address(written: &str) -> Option<String> {
    let (host, port) = written.rsplit_once(':')?;
    (!host.is_empty() && port.parse::<u16>().is_ok()).then(|| written.to_owned())
}

pub(super) fn http(mut section: Section<'_>) -> Http {
    let listen = section.read("listen", "an address and a port, or unix:/path", |written| {
        Some(Some(match written.strip_prefix("unix:") {
            Some("") => return None,
            Some(path) => Listen::Unix(PathBuf::from(path)),
            None => Listen::Tcp(parse_address(written)?),
        }))
    });
    let http = Http {
        listen: listen.unwrap_or(Listen::Tcp(String::new())),
        workers: section.number("workers", 0..=1024),
        head_within: section.duration("head_within"),
        keep_alive: section.duration("keep_alive"),
        limits: Limits {
            answer_within: section.duration("answer_within"),
            body_within: section.duration("body_within"),
            body_max_bytes: section.number("body_max_bytes", 1..=64 << 20),
            body_depth_max: section.number("body_depth_max", 2..=128),
            events_max: section.number("events_max", 1..=10_000),
            in_flight_max: section.number("in_flight_max", 1..=1_000_000),
        },
    };
    if http.limits.body_within > http.limits.answer_within {
        let problem = "is longer than `http.answer_within`: the answer could not wait for it";
        section.mistake("body_within", problem.to_owned());
    }
    section.end();
    http
}

pub(super) fn log(mut section: Section<'_>) -> Log {
    let log = Log {
        filter: section.read(
            "level",
            "error, warn, info, debug or trace, or target=level pairs joined by commas",
            |written| written.parse().ok(),
        ),
        format: section.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
    };
    section.end();
    log
}

pub(super) fn kafka(mut section: Section<'_>) -> Kafka {
    let allow_weaker_delivery = section.flag("allow_weaker_delivery");
    let bootstrap_servers =
        section.read("bootstrap_servers", "host:port, several joined by commas", |written| {
            written
                .split(',')
                .all(|one| parse_address(one.trim()).is_some())
                .then(|| written.to_owned())
        });
    let event_format = section.choice(
        "event_format",
        &[("structured", EventFormat::Structured), ("binary", EventFormat::Binary)],
    );
    let topics = topics(section.section("topics"));
    let mut inline = section.section("properties");
    let mut files = section.section("property_files");
    let mut properties = Properties(inline.dotted());
    for (name, path) in files.dotted() {
        match read_secret(&path) {
            Ok(value) => drop(properties.0.insert(name, value)),
            Err(problem) => files.mistake(&name, problem),
        }
    }
    for name in properties.0.keys() {
        if ["bootstrap.servers", "metadata.broker.list"].contains(&name.as_str()) {
            inline.mistake(name, "is set by `kafka.bootstrap_servers`".to_owned());
        }
        if GUARDED.contains(&name.as_str()) && !allow_weaker_delivery {
            let problem = "is what delivery rests on: remove it, or set \
                           `kafka.allow_weaker_delivery` if you know what is lost";
            inline.mistake(name, problem.to_owned());
        }
    }
    properties.0.insert("bootstrap.servers".to_owned(), bootstrap_servers);
    section.end();
    Kafka { properties, allow_weaker_delivery, event_format, topics }
}

fn topics(mut section: Section<'_>) -> Topics {
    let prefix = section.text("prefix");
    let mut names = section.section("names");
    let mut given = names.dotted();
    let mut retention_section = section.section("retention");
    let mut kept = retention_section.dotted();
    let mut name_of = |suffix: &'static str| {
        let name = given.remove(suffix).unwrap_or_else(|| format!("{prefix}{suffix}"));
        if !is_topic_name(&name) {
            let problem =
                format!("is `{name}`: allowed are 1 to 249 letters, digits, `.`, `_`, `-`");
            names.mistake(suffix, problem);
        }
        name
    };
    let mut retention_of = |suffix: &'static str| {
        let written = kept.remove(suffix)?;
        let duration = parse_duration(&written);
        if duration.is_none() {
            let problem = format!("is `{written}`: allowed is a duration over zero, such as 720h");
            retention_section.mistake(suffix, problem);
        }
        duration.map(|duration| (suffix, duration))
    };
    let suffixes = || Kind::ALL.into_iter().map(Kind::suffix);
    let all = name_of("all");
    let mut topics = Topics {
        names: suffixes().map(|suffix| (suffix, name_of(suffix))).collect(),
        all: None,
        create: section.flag("create"),
        partitions: section.read("partitions", "a whole number from 1 to 10000", |written| {
            written.parse().ok().filter(|partitions| (1..=10_000).contains(partitions))
        }),
        replication_factor: section.read(
            "replication_factor",
            "a whole number from 1 to 100, or -1 for the broker's default",
            |written| written.parse().ok().filter(|n| *n == -1 || (1..=100).contains(n)),
        ),
        retention: suffixes().chain(["all"]).filter_map(&mut retention_of).collect(),
    };
    topics.all = section.flag("all").then_some(all);
    for suffix in given.keys() {
        names.mistake(suffix, "is no topic of the relay".to_owned());
    }
    for suffix in kept.keys() {
        retention_section.mistake(suffix, "is no topic of the relay".to_owned());
    }
    section.end();
    topics
}

fn is_topic_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=249).contains(&name.len()) && name.bytes().all(allowed) && name != "." && name != ".."
}

pub(super) fn application(name: String, mut section: Section<'_>) -> Application {
    if !is_id(&name) {
        section.mistake("", format!("is no name of an application: {ID}"));
    }
    let source = section.read("source", "a URI reference without blanks", |written| {
        (!written.contains(|c: char| c.is_whitespace() || c.is_control()))
            .then(|| written.to_owned())
    });
    let unsigned = section.choice("authentication", &[("checksum", false), ("none", true)]);
    let placement = section.choice(
        "placement",
        &[
            ("any", None),
            ("root", Some(Placement::Root)),
            ("data", Some(Placement::Data)),
            ("header", Some(Placement::Header)),
        ],
    );
    let legacy = section.flag("legacy_checksum");
    let keys = checksum_keys(&mut section);
    let headers = checksum_headers(section.section("checksum_headers"));
    match (unsigned, keys.is_empty()) {
        (false, true) => section.mistake(
            "checksum_keys",
            "is empty: allowed is at least one key (the checksum key of your ClickPesa account), \
             or `authentication = \"none\"` if its checksum option is off"
                .to_owned(),
        ),
        (true, false) => section
            .mistake("checksum_keys", "would never be used: `authentication` is none".to_owned()),
        (true, true) | (false, false) => {}
    }
    if placement == Some(Placement::Header) && headers.is_empty() {
        let problem = "is header: `checksum_headers` has to name one";
        section.mistake("placement", problem.to_owned());
    }
    section.end();
    Application {
        source: if source.is_empty() { format!("/clickpesa/{name}") } else { source },
        name,
        policy: match unsigned {
            true => Policy::None,
            false => Policy::Checksum { keys, placement, headers, legacy },
        },
    }
}

/// What ids and names of applications are made of: the environment knows no capitals.
const ID: &str = "allowed are 1 to 64 lower-case letters, digits, `_`, `-`";

fn is_id(id: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-".contains(&byte);
    (1..=64).contains(&id.len()) && id.bytes().all(allowed)
}

fn checksum_keys(section: &mut Section<'_>) -> Vec<Key> {
    let mut inline = section.section("checksum_keys");
    let mut files = section.section("checksum_key_files");
    let mut secrets = inline.entries();
    for (id, path) in files.entries() {
        match read_secret(&path) {
            Ok(_) if secrets.contains_key(&id) => {
                files.mistake(&id, "is also in `checksum_keys`: give it once".to_owned());
            }
            Ok(secret) => drop(secrets.insert(id, secret)),
            Err(problem) => files.mistake(&id, problem),
        }
    }
    for (id, secret) in &secrets {
        if !is_id(id) {
            inline.mistake(id, format!("is no id of a key: {ID}"));
        }
        if secret.is_empty() {
            inline.mistake(id, "is empty: allowed is the checksum key".to_owned());
        }
    }
    secrets.into_iter().map(|(id, secret)| Key::new(id, &secret)).collect()
}

fn checksum_headers(mut section: Section<'_>) -> Vec<ChecksumHeader> {
    let methods = [("canonical", Method::Canonical), ("raw", Method::Raw)];
    let entries = section.entries();
    let read = |(name, written): (String, String)| {
        let method = methods.iter().find(|(word, _)| *word == written).map(|(_, method)| *method);
        if method.is_none() {
            section.mistake(&name, format!("is `{written}`: allowed is canonical or raw"));
        }
        Some(ChecksumHeader { name: name.to_ascii_lowercase(), method: method? })
    };
    entries.into_iter().filter_map(read).collect()
}

/// The content of a file but for the end of its last line.
fn read_secret(path: &str) -> Result<String, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("`{path}` cannot be read: {error}"))?;
    let secret = text.trim_end_matches(['\r', '\n']);
    if secret.is_empty() { Err(format!("`{path}` is empty")) } else { Ok(secret.to_owned()) }
}
