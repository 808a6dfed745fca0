//! What must hold for any input: called by the fuzz targets, and by the tests for every input that
//! is kept.

use std::{collections::HashMap, fs, net::IpAddr, path::Path};

use clickpesa_relay::{
    application::networks::{ForwardedHeader, Networks},
    config::{InForce, Written},
    event::{
        Event,
        kind::Kind,
        normalise::{Circumstances, normalise},
    },
    kafka::topics::TopicNames,
    record::{EventFormat, Record},
    webhook::{
        Unverified,
        canonical::{canonical, legacy},
        checksum::{ChecksumHeader, Key, Method, Placement, Policy},
        json::{Json, Value},
        signing,
    },
};
use rquickjs::{Context, Function, Runtime};
use serde_json::value::RawValue;

/// As in the reference.
const DEPTH_MAX: usize = 32;

/// A key that signed no input that is kept.
const SECRET: &str = "a key that has signed nothing";

// --- Canonical ------------------------------------------------------------------------

/// ClickPesa's published JavaScript, in an engine that is neither ours nor V8.
pub struct Sender {
    context: Context,
}

impl Sender {
    /// Starts the engine.
    pub fn new() -> Self {
        let context = Context::full(&Runtime::new().expect("memory")).expect("memory");
        let script = concat!(
            include_str!("../tests/sender.js"),
            r#"
            function texts(text) {
                let document;
                try { document = JSON.parse(text); } catch { return null; }
                const legacy = isObject(document) ? legacyText(document) : "";
                return [canonicalText(document), legacy.isWellFormed() ? legacy : ""];
            }"#
        );
        context.with(|engine| engine.eval::<(), _>(script)).expect("the script is JavaScript");
        Self { context }
    }

    /// The canonical and the legacy text, unless the document is no JSON.
    fn texts(&self, document: &str) -> Option<[String; 2]> {
        self.context.with(|engine| {
            let texts: Function<'_> = engine.globals().get("texts").expect("it is defined");
            let texts: Option<Vec<String>> = texts.call((document,)).expect("it throws nothing");
            texts.map(|texts| texts.try_into().expect("two texts"))
        })
    }
}

/// JSON is what `JSON.parse` takes, and its texts are those that the sender signs.
pub fn check_canonical(sender: &Sender, body: &[u8]) {
    let ours = Json::parse(body, DEPTH_MAX);
    let Ok(text) = std::str::from_utf8(body) else {
        assert!(ours.is_err(), "it is no UTF-8");
        return;
    };
    // Deeper than we take, the engine may overflow its stack.
    let depth = body.iter().filter(|byte| b"[{".contains(byte)).count();
    if depth > DEPTH_MAX {
        return;
    }
    match (ours, sender.texts(text)) {
        (Ok(json), Some([canonical_text, legacy_text])) => {
            assert_eq!(String::from_utf8_lossy(&canonical(&json)), canonical_text);
            if let Some(object) = json.as_object().filter(|_| !legacy_text.is_empty()) {
                assert_eq!(String::from_utf8_lossy(&legacy(object)), legacy_text);
            }
            check_source(&json, text);
        }
        (Err(_), None) => {}
        (ours, theirs) => panic!("{ours:?}, and JavaScript has {theirs:?}"),
    }
}

/// Every value has its own part of the text as its source.
fn check_source(json: &Json<'_>, text: &str) {
    let raw = json.raw;
    let start = raw.as_ptr().addr() - text.as_ptr().addr();
    assert_eq!(text.get(start..start + raw.len()), Some(raw), "it is a part of the text");
    assert_eq!(raw, raw.trim(), "without blanks around it");
    match &json.value {
        Value::Array(elements) => elements.iter().for_each(|one| check_source(one, text)),
        Value::Object(object) => object.members().for_each(|(_, one)| check_source(one, text)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            let again = Json::parse(raw.as_bytes(), 1).expect("it was read before");
            assert_eq!(canonical(&again), canonical(json));
        }
    }
}

// --- Verify ---------------------------------------------------------------------------

fn policies() -> impl Iterator<Item = Policy> {
    let places =
        [None, Some(Placement::Root), Some(Placement::Data), Some(Placement::Header)].into_iter();
    places.flat_map(|placement| [false, true].map(|legacy| policy(placement, legacy)))
}

fn policy(placement: Option<Placement>, legacy: bool) -> Policy {
    let header = |name: &str, method| ChecksumHeader { name: name.to_owned(), method };
    let headers = vec![header("canonical", Method::Canonical), header("raw", Method::Raw)];
    Policy::Checksum { keys: vec![Key::new("k", SECRET)], placement, headers, legacy }
}

/// Nothing passes that the key has not signed; what it signs passes where it is looked for, and
/// nowhere else.
pub fn check_verify(input: &[u8]) {
    let (header, body) = split(input);
    let parse = || Unverified::parse(body, DEPTH_MAX);
    for policy in policies() {
        if let Ok(webhook) = parse() {
            let forged = webhook.authenticate(&policy, |_| Some(header));
            assert!(forged.is_err(), "forged: {policy:?}");
        }
    }
    let key = Key::new("k", SECRET);
    for placement in [Placement::Root, Placement::Data] {
        let Ok(signed) = signing::sign(body, &key, placement) else { continue };
        for policy in policies() {
            let Policy::Checksum { placement: pinned, .. } = &policy else { continue };
            let Ok(webhook) = Unverified::parse(&signed, DEPTH_MAX) else { continue };
            let proven = webhook.authenticate(&policy, |_| None);
            let Some(pinned) = pinned else { continue };
            // What a list in `data` or a checksum that was there already make of it is left open.
            if *pinned == placement {
                let proofs = proven.as_ref().map(|webhook| webhook.proofs()).expect("it is signed");
                assert!(proofs.iter().all(|proof| proof.placement == placement), "{proofs:?}");
            } else {
                assert!(proven.is_err(), "signed in {placement:?}, passes in {pinned:?}");
            }
        }
    }
    let raw = key.sign(body);
    if let Ok(webhook) = parse() {
        let by_header = policy(Some(Placement::Header), false);
        let proven =
            webhook.authenticate(&by_header, |name| (name == "raw").then_some(raw.as_bytes()));
        assert!(proven.is_ok(), "a checksum over the bytes passes");
    }
}

/// The first line, and what follows.
fn split(input: &[u8]) -> (&[u8], &[u8]) {
    let end = input.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (first, rest) = input.split_at(end);
    (first, rest.strip_prefix(b"\n").unwrap_or(rest))
}

// --- Normalise ------------------------------------------------------------------------

const CIRCUMSTANCES: Circumstances<'static> = Circumstances {
    application: "default",
    source: "/clickpesa/default",
    received: "2026-01-05T09:30:00.123Z",
};

/// The events of a body that nothing is asked of.
fn with_events(body: &[u8], check: impl Fn(&[Event<'_>])) {
    let Ok(webhook) = Unverified::parse(body, DEPTH_MAX) else { return };
    let authentic = webhook.authenticate(&Policy::None, |_| None).expect("nothing is asked for");
    check(&normalise(&authentic, CIRCUMSTANCES));
}

/// Every body has events, and they are CloudEvents.
pub fn check_normalise(body: &[u8]) {
    with_events(body, |events| {
        assert!(!events.is_empty(), "no webhook is without an event");
        for event in events {
            let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
            let id = event.id.to_string();
            assert!(id.len() == 32 && id.bytes().all(is_digit), "{id}");
            assert_eq!(event.subject, event.partitionkey);
            for attribute in [&event.subject, &event.time] {
                assert!(!attribute.trim().is_empty() && !attribute.contains(char::is_control));
            }
            assert!(event.time.parse::<jiff::Timestamp>().is_ok(), "{}", event.time);
            assert_eq!(event.data.reason.is_some(), event.kind == Kind::Unrecognized);
            let amounts = [&event.data.amount, &event.data.fee];
            for amount in amounts.into_iter().flatten().map(|amount| amount.as_str()) {
                let digits = amount.strip_prefix('-').unwrap_or(amount);
                let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
                let is_number =
                    |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
                assert!(is_number(whole) && is_number(part), "{amount}");
            }
            let original = event.data.original.get();
            let start = original.as_ptr().addr() - body.as_ptr().addr();
            assert_eq!(body.get(start..start + original.len()), Some(original.as_bytes()));
        }
    });
    // Blanks around it make no other webhook of it.
    let padded = [b" ", body, b"\n"].concat();
    with_events(body, |events| {
        with_events(&padded, |again| {
            let ids = |events: &[Event<'_>]| events.iter().map(|e| e.id).collect::<Vec<_>>();
            assert_eq!(ids(again), ids(events));
        });
    });
}

// --- Receive to record ----------------------------------------------------------------

/// An address of the head, and the records of the body.
pub fn check_receive(input: &[u8]) {
    let (head, body) = split(input);
    if let Ok(line) = std::str::from_utf8(head) {
        check_sender(line);
    }
    let names = TopicNames::with_prefix("clickpesa.", false);
    with_events(body, |events| {
        for event in events {
            for format in [EventFormat::Structured, EventFormat::Binary] {
                check_record(event, &Record::new(event, format, names.name(event.kind), 1), format);
            }
        }
    });
}

fn check_record(event: &Event<'_>, record: &Record, format: EventFormat) {
    assert_eq!(record.key, event.partitionkey);
    assert_eq!(record.id(), Some(&*event.id.to_string()));
    let names = record.headers.iter().map(|(name, _)| name);
    assert!(names.clone().all(|name| names.clone().filter(|other| *other == name).count() == 1));
    assert!(record.headers.iter().all(|(_, value)| !value.contains(char::is_control)));
    let header = |name: &str| {
        let found = record.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| &**value).unwrap_or_else(|| panic!("no {name}"))
    };
    let value: HashMap<&str, &RawValue> =
        serde_json::from_slice(&record.value).expect("the value is a JSON object");
    let text = |name: &str| serde_json::from_str::<String>(value[name].get()).expect("a text");
    let data: HashMap<&str, &RawValue> = match format {
        EventFormat::Binary => value,
        EventFormat::Structured => {
            for name in ["id", "source", "type", "subject", "time", "partitionkey"] {
                assert_eq!(text(name), header(&format!("ce_{name}")), "{name}");
            }
            serde_json::from_str(value["data"].get()).expect("data is an object")
        }
    };
    assert_eq!(data["original"].get(), event.data.original.get());
    let bytes = record.key.len() + record.value.len();
    assert!(record.bytes_max() > bytes, "{} for {bytes}", record.bytes_max());
}

/// Whatever proxies are said to have written, only one that is trusted is believed.
fn check_sender(line: &str) {
    let [peer, proxy, stranger] = ["192.0.2.1", "192.0.2.2", "203.0.113.9"]
        .map(|address| address.parse::<IpAddr>().expect("an address"));
    for header in [ForwardedHeader::XForwardedFor, ForwardedHeader::Forwarded] {
        let networks = Networks {
            allow_from: vec![proxy.into()],
            trusted_proxies: vec![peer.into(), proxy.into()],
            header,
        };
        assert_eq!(networks.sender(Some(stranger), [line].into_iter()), Some(stranger));
        let said = match header {
            ForwardedHeader::XForwardedFor => format!("{line}, {stranger}"),
            ForwardedHeader::Forwarded => format!("{line}, for={stranger}"),
        };
        let sender = networks.sender(Some(peer), [said.as_str()].into_iter());
        assert_eq!(sender, Some(stranger), "the last proxy says who it is");
        assert!(!networks.allow(sender));
    }
}

// --- Configuration --------------------------------------------------------------------

/// What no message may repeat. A word of it is enough: a mistake may quote a part.
const VALUE: &str = "hunter2";

/// A file of settings is understood, or each mistake is named in a line that has no secret in it.
///
/// `scratch` is the path of a file to write to.
pub fn check_configuration(scratch: &Path, input: &[u8]) {
    let (variable, file) = split(input);
    // Files that settings name are read, and some never end.
    if input.windows(5).any(|bytes| bytes == b"/dev/" || bytes == b"/proc") {
        return;
    }
    let with_secret = [
        b"applications.default.checksum_keys.secret = \"",
        VALUE.as_bytes(),
        b"\"\nkafka.properties.sasl_password = \"",
        VALUE.as_bytes(),
        b"\"\n",
        file,
    ]
    .concat();
    fs::write(scratch, with_secret).expect("the scratch file can be written");
    let variables = std::str::from_utf8(variable).ok().and_then(|line| line.split_once('='));
    let environment = variables
        .map(|(name, value)| (format!("CLICKPESA_RELAY__{name}"), value.to_owned()))
        .filter(|(name, value)| !name.contains('\0') && !value.contains('\0'));
    let written = Written::read(Some(scratch), Some(environment.into_iter().collect()));
    let is_clean = |text: &str| !text.contains(VALUE);
    let understood = written.and_then(|written| {
        for InForce { key, value, .. } in written.in_force() {
            assert!(is_clean(&value), "{key} shows the secret");
        }
        written.understand()
    });
    match understood {
        Ok(settings) => assert!(is_clean(&format!("{settings:?}")), "`Debug` shows the secret"),
        Err(mistakes) => {
            assert!(!mistakes.0.is_empty(), "a mistake without a word");
            for mistake in mistakes.0 {
                let line = format!("{}: {}", mistake.key, mistake.problem);
                assert!(is_clean(&line), "{line}");
            }
        }
    }
}
