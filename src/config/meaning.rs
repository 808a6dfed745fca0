//! What each table of settings means, and what it allows.

use std::{collections::BTreeMap, fs, net::IpAddr, path::PathBuf, sync::Arc};

use actix_web::http::header::HeaderName;
use ipnet::IpNet;
use nix::unistd::{Group, User};
use tracing::Level;
use tracing_subscriber::filter::{LevelFilter, Targets};
use zeroize::{Zeroize, Zeroizing};

use super::{
    Delivery, Http, Kafka, Listen, Log, LogFormat, Rejected, SocketAccess, Spool, Tls,
    section::{Entry, Section, parse_duration},
};
use crate::{
    application::{
        Application,
        networks::{ForwardedHeader, Networks},
    },
    event::kind::Kind,
    http::{
        Limits,
        tls::{Certificate, Files, TlsError, server_config},
    },
    kafka::{
        GUARDED, Properties, REFUSED, check_property,
        topics::{ALL, REJECTED, TopicNames, Topics},
    },
    record::EventFormat,
    webhook::checksum::{ChecksumHeader, Key, Method, Placement, Policy},
};

const ADDRESS: &str = "an address and a port, such as 127.0.0.1:9464";

fn parse_address(written: &str) -> Option<String> {
    let (host, port) = written.rsplit_once(':')?;
    (!host.is_empty() && port.parse::<u16>().is_ok()).then(|| written.to_owned())
}

/// The address of the admin listener, which is of this machine alone unless it is said to be public.
pub(super) fn admin(mut section: Section<'_>) -> String {
    let listen = section.read("listen", ADDRESS, parse_address);
    let is_public = section.flag("public");
    let host = listen.rsplit_once(':').map_or("", |(host, _)| host);
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let is_local = host == "localhost" || address.is_ok_and(|address| address.is_loopback());
    if !is_local && !is_public && !listen.is_empty() {
        let problem = "is no address of this machine alone: whoever reaches it sees all metrics; \
                       set `admin.public` to true if that is meant";
        section.mistake("listen", problem.to_owned());
    }
    section.end();
    listen
}

pub(super) fn http(mut section: Section<'_>) -> Http {
    let listen = section.read("listen", "an address and a port, or unix:/path", |written| {
        Some(Some(match written.strip_prefix("unix:") {
            Some("") => return None,
            Some(path) => Listen::Unix(PathBuf::from(path)),
            None => Listen::Tcp(parse_address(written)?),
        }))
    });
    let tls = tls(section.section("tls"));
    let socket = socket_access(&mut section);
    let http = Http {
        tls,
        socket,
        listen: listen.unwrap_or(Listen::Tcp(String::new())),
        workers: section.number("workers", 0..=1024),
        head_within: section.duration("head_within"),
        keep_alive: section.duration("keep_alive"),
        networks: Networks {
            allow_from: networks(&mut section, "allow_from"),
            trusted_proxies: networks(&mut section, "trusted_proxies"),
            header: section.choice(
                "forwarded_header",
                &[
                    ("x-forwarded-for", ForwardedHeader::XForwardedFor),
                    ("forwarded", ForwardedHeader::Forwarded),
                ],
            ),
        },
        limits: Limits {
            answer_within: section.duration("answer_within"),
            body_within: section.duration("body_within"),
            body_max_bytes: section.number("body_max_bytes", 1..=64 << 20),
            body_depth_max: section.number("body_depth_max", 2..=128),
            head_max_bytes: section.number("head_max_bytes", 256..=131_072),
            events_max: section.number("events_max", 1..=10_000),
            connections_max: section.number("connections_max", 1..=1_000_000),
            connections_per_address_max: section
                .number("connections_per_address_max", 1..=1_000_000),
            bodies_max_bytes: section.number("bodies_max_bytes", 1 << 20..=1 << 40),
            in_flight_max: section.number("in_flight_max", 1..=1_000_000),
            rejections_per_second: section.number("rejections_per_second", 1..=1_000_000),
        },
    };
    let Limits { answer_within, body_within, .. } = http.limits;
    // Zero is what stands for a duration that could not be read, and was complained of.
    if body_within > answer_within && !answer_within.is_zero() {
        let problem = "is longer than `http.answer_within`: the answer could not wait for it";
        section.mistake("body_within", problem.to_owned());
    }
    if http.tls.is_some() && matches!(http.listen, Listen::Unix(_)) {
        let problem =
            "is a socket in the file system, where TLS is not spoken: leave `http.tls` empty";
        section.mistake("listen", problem.to_owned());
    }
    section.end();
    http
}

fn tls(mut section: Section<'_>) -> Option<Tls> {
    let mut file = |name| {
        section.read(name, "the path of a file in PEM, or \"\"", |written| {
            Some((!written.is_empty()).then(|| PathBuf::from(written)))
        })
    };
    let [certificate, key, client_ca] =
        ["certificate_file", "key_file", "client_ca_file"].map(&mut file);
    let tls = match (certificate, key) {
        (Some(certificate), Some(key)) => {
            let files = Files { certificate, key, client_ca };
            section.file(&files.certificate.to_string_lossy());
            section.file(&files.key.to_string_lossy());
            let read = || {
                let certificate = Arc::new(Certificate::read(&files)?);
                let server = server_config(Arc::clone(&certificate), &files)?;
                Ok::<_, TlsError>((certificate, server))
            };
            match read() {
                Ok((certificate, server)) => Some(Tls { certificate, server }),
                Err(error) => {
                    section.mistake("certificate_file", format!("cannot be used: {error}"));
                    None
                }
            }
        }
        (None, None) if client_ca.is_none() => None,
        (Some(_) | None, _) => {
            let problem = "is not given, or its `key_file` is not: TLS needs both";
            section.mistake("certificate_file", problem.to_owned());
            None
        }
    };
    section.end();
    tls
}

fn socket_access(section: &mut Section<'_>) -> SocketAccess {
    let mode = section.read("socket_mode", "three octal digits, such as 660", |written| {
        let is_octal = written.len() == 3 && written.bytes().all(|b| (b'0'..b'8').contains(&b));
        u32::from_str_radix(written, 8).ok().filter(|_| is_octal)
    });
    let name_or_number = |name: &str, found: fn(&str) -> Option<u32>| match name {
        "" => Some(None),
        name => name.parse().ok().or_else(|| found(name)).map(Some),
    };
    let user = |name: &str| Some(User::from_name(name).ok()??.uid.as_raw());
    let group = |name: &str| Some(Group::from_name(name).ok()??.gid.as_raw());
    let allowed = "a user and a group that there are, such as relay:www-data, or \"\"";
    let (owner, group) = section.read("socket_owner", allowed, |written| {
        let (owner, owning_group) = written.split_once(':').unwrap_or((written, ""));
        Some((name_or_number(owner, user)?, name_or_number(owning_group, group)?))
    });
    SocketAccess { mode, owner, group }
}

/// Networks joined by commas.
fn networks(section: &mut Section<'_>, name: &str) -> Vec<IpNet> {
    let allowed = "networks such as 10.0.0.0/8, joined by commas, or \"\" for none";
    section.read(name, allowed, |written| {
        let parse = |one: &str| one.parse().or_else(|_| one.parse().map(|one: IpAddr| one.into()));
        let parts = written.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(parse).collect::<Result<_, _>>().ok()
    })
}

pub(super) fn log(mut section: Section<'_>) -> Log {
    let log = Log {
        filter: section.read(
            "level",
            "error, warn, info, debug or trace, or target=level pairs joined by commas",
            parse_filter,
        ),
        format: section.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
    };
    section.end();
    log
}

/// The target of the server's own complaints about what is no HTTP.
const HTTP_PARSER: &str = "actix_http";

/// `Targets` alone would take a misspelt level for the name of a target.
fn parse_filter(written: &str) -> Option<Targets> {
    let has_level = |directive: &str| {
        let level = directive.rsplit_once('=').map_or(directive, |(_target, level)| level);
        level.parse::<Level>().is_ok()
    };
    let filter: Targets = written.split(',').all(has_level).then(|| written.parse().ok())??;
    let names_http = written.split(',').any(|directive| directive.starts_with(HTTP_PARSER));
    // Whoever can connect could fill the disk with a line for each thing that is no HTTP.
    Some(if names_http { filter } else { filter.with_target(HTTP_PARSER, LevelFilter::OFF) })
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
    let mut properties = Properties::default();
    let mut take = |table: &Section<'_>, name: String, value: String, origin: &str| {
        let refused = REFUSED.iter().find(|(refused, _)| *refused == name);
        if let Some((_, instead)) = refused {
            table.mistake(&name, format!("in {origin} cannot be set: {instead}"));
        } else if GUARDED.contains(&name.as_str()) && !allow_weaker_delivery {
            let advice = "remove it, or set `kafka.allow_weaker_delivery` if you know what is lost";
            table.mistake(&name, format!("in {origin} is what delivery rests on: {advice}"));
        } else if name == "acks" && value.parse() == Ok(0) {
            let why = "Kafka then acknowledges nothing that the relay could answer for";
            table.mistake(&name, format!("in {origin} cannot be 0: {why}"));
        } else if let Err(problem) = check_property(&name, &value) {
            table.mistake(&name, format!("in {origin} is not taken by librdkafka: {problem}"));
        }
        if properties.0.insert(name.clone(), value).is_some() {
            table.mistake(&name, "is also in `kafka.properties`: give it once".to_owned());
        }
    };
    for (name, Entry { text, origin }) in inline.dotted() {
        take(&inline, name, text, &origin);
    }
    for (name, path) in files.dotted() {
        if let Some(value) = read_secret(&files, &name, &path) {
            take(&files, name, value.to_string(), &path.origin);
        }
    }
    properties.0.insert("bootstrap.servers".to_owned(), bootstrap_servers);
    section.end();
    Kafka { properties, allow_weaker_delivery, event_format, topics }
}

pub(super) fn delivery(mut section: Section<'_>) -> Delivery {
    let delivery = Delivery {
        recent_max: section.number("recent_max", 0..=10_000_000),
        patience: section.duration("patience"),
        hold_above: section.number("hold_above", 0..=1_000_000),
    };
    section.end();
    delivery
}

/// Without copies, there is no topic for them either.
pub(super) fn rejected(mut section: Section<'_>, topics: &mut Topics) -> Rejected {
    if !section.flag("enabled") {
        topics.rejected = None;
    }
    let rejected = Rejected {
        per_second: section.number("per_second", 1..=10_000),
        max_bytes: section.number("max_bytes", 1..=900_000),
    };
    section.end();
    rejected
}

pub(super) fn spool(mut section: Section<'_>) -> Option<Spool> {
    let path = section.read("path", "an absolute path, or \"\" for no spool", |written| {
        let path = PathBuf::from(written);
        (written.is_empty() || path.is_absolute()).then_some(path)
    });
    let max_bytes = section.number("max_bytes", 16 << 20..=1 << 50);
    section.end();
    (path != PathBuf::new()).then_some(Spool { path, max_bytes: max_bytes as u64 })
}

/// What names of topics may begin with.
fn prefix(section: &mut Section<'_>, name: &str) -> String {
    section.read(name, "up to 200 letters, digits, `.`, `_`, `-`", |written| {
        (written.len() <= 200 && has_topic_letters(written)).then(|| written.to_owned())
    })
}

/// What the names of an application's topics begin with, or "".
pub(super) fn topics_prefix(application: &mut Section<'_>) -> String {
    prefix(application, "topics_prefix")
}

fn topics(mut section: Section<'_>) -> Topics {
    let prefix = prefix(&mut section, "prefix");
    let mut names = section.section("names");
    let mut given = names.dotted();
    let mut retention_section = section.section("retention");
    let mut kept = retention_section.dotted();
    let mut name_of = |suffix: &'static str| match given.remove(suffix) {
        None => format!("{prefix}{suffix}"),
        Some(Entry { text, origin }) => {
            if !is_topic_name(&text) {
                let allowed = "allowed are 1 to 249 letters, digits, `.`, `_`, `-`";
                names.mistake(suffix, format!("is `{text}` in {origin}: {allowed}"));
            }
            text
        }
    };
    let mut retention_of = |suffix: &'static str| {
        let Entry { text, origin } = kept.remove(suffix)?;
        let duration = parse_duration(&text);
        if duration.is_none() {
            let allowed = "allowed is a duration over zero, such as 720h";
            retention_section.mistake(suffix, format!("is `{text}` in {origin}: {allowed}"));
        }
        duration.map(|duration| (suffix, duration))
    };
    let suffixes = || Kind::ALL.into_iter().map(Kind::suffix).chain([ALL, REJECTED]);
    let (all, rejected) = (name_of(ALL), name_of(REJECTED));
    let mut topics = Topics {
        names: TopicNames {
            of_kinds: Kind::ALL.map(|kind| name_of(kind.suffix()).into()),
            all: None,
        },
        rejected: Some(rejected),
        wanted: BTreeMap::new(),
        create: section.flag("create"),
        partitions: section.read("partitions", "a whole number from 1 to 10000", |written| {
            written.parse().ok().filter(|partitions| (1..=10_000).contains(partitions))
        }),
        replication_factor: section.read(
            "replication_factor",
            "a whole number from 1 to 100, or -1 for the broker's default",
            |written| written.parse().ok().filter(|n| *n == -1 || (1..=100).contains(n)),
        ),
        retention: suffixes().filter_map(&mut retention_of).collect(),
    };
    topics.names.all = section.flag("all").then_some(all);
    for (table, unknown) in [(&names, &given), (&retention_section, &kept)] {
        for (suffix, Entry { origin, .. }) in unknown {
            let known = suffixes().collect::<Vec<_>>().join(", ");
            let problem = format!("in {origin} is no type of event: there are {known}");
            table.mistake(suffix, problem);
        }
    }
    section.end();
    topics
}

fn is_topic_name(name: &str) -> bool {
    (1..=249).contains(&name.len()) && has_topic_letters(name) && name != "." && name != ".."
}

fn has_topic_letters(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

pub(super) fn application(
    name: String,
    mut section: Section<'_>,
    networks_of_all: &Networks,
    topics: &Topics,
) -> Application {
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
    let own = |networks: Vec<IpNet>, of_all: &Vec<IpNet>| match networks.is_empty() {
        true => of_all.clone(),
        false => networks,
    };
    let networks = Networks {
        allow_from: own(networks(&mut section, "allow_from"), &networks_of_all.allow_from),
        trusted_proxies: own(
            networks(&mut section, "trusted_proxies"),
            &networks_of_all.trusted_proxies,
        ),
        header: networks_of_all.header,
    };
    let topics = topics.names_for(&topics_prefix(&mut section));
    let in_flight_max = section.number("in_flight_max", 0..=1_000_000);
    section.end();
    Application {
        networks,
        topics,
        in_flight_max: if in_flight_max == 0 { usize::MAX } else { in_flight_max },
        in_flight: Arc::default(),
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
    let mut keys = BTreeMap::new();
    let mut take = |table: &Section<'_>, id: String, secret: &str| {
        if !is_id(&id) {
            table.mistake(&id, format!("is no id of a key: {ID}"));
        }
        if keys.insert(id.clone(), Key::new(id.clone(), secret)).is_some() {
            table.mistake(&id, "is also in `checksum_keys`: give it once".to_owned());
        }
    };
    for (id, Entry { mut text, origin }) in inline.entries() {
        if text.is_empty() {
            inline.mistake(&id, format!("is empty in {origin}: allowed is the checksum key"));
        }
        take(&inline, id, &text);
        text.zeroize();
    }
    for (id, path) in files.entries() {
        files.file(&path.text);
        // A key that could not be read counts as given: what is wrong with it was said.
        let secret = read_secret(&files, &id, &path).unwrap_or_default();
        take(&files, id, &secret);
    }
    keys.into_values().collect()
}

fn checksum_headers(mut section: Section<'_>) -> Vec<ChecksumHeader> {
    let methods = [("canonical", Method::Canonical), ("raw", Method::Raw)];
    let entries = section.entries();
    let read = |(name, Entry { text, origin }): (String, Entry)| {
        if HeaderName::try_from(&name).is_err() {
            section.mistake(&name, format!("in {origin} is no name of a header"));
        }
        let method = methods.iter().find(|(word, _)| *word == text).map(|(_, method)| *method);
        if method.is_none() {
            let problem = format!("is `{text}` in {origin}: allowed is canonical or raw");
            section.mistake(&name, problem);
        }
        Some(ChecksumHeader { name: name.to_ascii_lowercase(), method: method? })
    };
    entries.into_iter().filter_map(read).collect()
}

/// The content of the file that a setting names, but for the end of its last line.
fn read_secret(table: &Section<'_>, name: &str, path: &Entry) -> Option<Zeroizing<String>> {
    let Entry { text: path, origin } = path;
    let problem = match fs::read_to_string(path).map(Zeroizing::new) {
        Ok(mut text) => match text.trim_end_matches(['\r', '\n']).len() {
            0 => "the file is empty".to_owned(),
            length => {
                text.truncate(length);
                return Some(text);
            }
        },
        Err(error) => format!("the file cannot be read: {error}"),
    };
    table.mistake(name, format!("is `{path}` in {origin}: {problem}"));
    None
}
