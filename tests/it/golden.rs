//! What becomes of every sample, in full: `tests/golden/<sample>.json` is the list of its events.
//!
//! With `UPDATE_GOLDEN=1` in the environment the files are written instead of compared; read the
//! difference before it is committed.

use std::{collections::BTreeSet, fs, path::Path};

use clickpesa_relay::webhook::checksum::{Key, Policy, Unauthentic};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::support::{CIRCUMSTANCES, checksum, with_events};

/// A line of `tests/samples/index.json`.
#[derive(Deserialize)]
struct Sample {
    file: String,
    signature: String,
    key: Option<String>,
}

impl Sample {
    /// The strictest policy that the sample passes.
    fn policy(&self) -> Policy {
        let Some(secret) = &self.key else { return Policy::None };
        Policy::Checksum {
            keys: vec![Key::new("main", secret)],
            placement: None,
            headers: Vec::new(),
            legacy: self.signature == "legacy_data",
        }
    }

    fn body(&self) -> String {
        read("samples", &self.file)
    }
}

fn read(folder: &str, file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every sample that has events, in the order of the index.
fn samples() -> Vec<Sample> {
    let index: Vec<Sample> = serde_json::from_str(&read("samples", "index.json")).unwrap();
    index.into_iter().filter(|sample| sample.signature != "INVALID").collect()
}

#[allow(clippy::disallowed_methods, reason = "a switch of this test, and no setting of the relay")]
fn is_update() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some()
}

#[test]
fn every_sample_becomes_its_golden_events() {
    for sample in samples() {
        let body = sample.body();
        let mut events = with_events(&body, &sample.policy(), CIRCUMSTANCES, |events| {
            serde_json::to_string_pretty(events).unwrap()
        })
        .unwrap_or_else(|error| panic!("{}: {error}", sample.file));
        events.push('\n');
        if is_update() {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
            fs::write(folder.join(&sample.file), events).unwrap();
        } else {
            assert_eq!(events, read("golden", &sample.file), "{}", sample.file);
        }
    }
}

#[test]
fn every_sample_has_a_golden_and_every_golden_a_sample() {
    let files = |folder: &str| -> BTreeSet<String> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
        fs::read_dir(path)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    };
    let indexed: BTreeSet<String> = samples().into_iter().map(|sample| sample.file).collect();
    assert!(!indexed.is_empty(), "the index names no sample");
    assert_eq!(files("golden"), indexed, "goldens against the index");
    let mut stored = files("samples");
    for without_events in ["index.json", "bad_checksum.json"] {
        assert!(stored.remove(without_events), "{without_events} is missing");
    }
    assert_eq!(stored, indexed, "samples against the index");
}

/// Read by `serde_json` alone: it holds however the relay reads, and the files were written.
#[test]
fn the_original_is_the_text_of_the_sample_byte_for_byte() {
    #[derive(Deserialize)]
    struct Event {
        data: Data,
    }
    #[derive(Deserialize)]
    struct Data {
        original: Box<RawValue>,
    }
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        data: Option<&'a RawValue>,
    }
    /// The text of `data`, or of the body where there is no envelope.
    fn payload(body: &RawValue) -> &str {
        let Body { data } = serde_json::from_str(body.get()).unwrap();
        data.unwrap_or(body).get()
    }

    for sample in samples() {
        let body = sample.body();
        let bodies: Vec<&RawValue> = match body.starts_with('[') {
            true => serde_json::from_str(&body).unwrap(),
            false => vec![serde_json::from_str(&body).unwrap()],
        };
        let received: Vec<&str> = bodies.into_iter().map(payload).collect();
        let golden: Vec<Event> = serde_json::from_str(&read("golden", &sample.file)).unwrap();
        let stored: Vec<&str> = golden.iter().map(|event| event.data.original.get()).collect();
        assert_eq!(stored, received, "{}", sample.file);
    }
}

#[test]
fn a_changed_amount_is_refused() {
    let body = read("samples", "bad_checksum.json");
    let refused = with_events(&body, &checksum(), CIRCUMSTANCES, |events| events.len());
    assert_eq!(refused, Err(Unauthentic::Wrong));
}

/// The legacy method must be asked for: its sample is refused by default.
#[test]
fn the_legacy_sample_is_refused_unless_legacy_is_allowed() {
    let sample = samples().into_iter().find(|sample| sample.signature == "legacy_data").unwrap();
    let refused = with_events(&sample.body(), &checksum(), CIRCUMSTANCES, |events| events.len());
    assert_eq!(refused, Err(Unauthentic::Wrong));
}
