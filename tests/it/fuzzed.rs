//! What must hold for any input, tried on the samples and on the inputs that are kept: those with
//! which the fuzzer reaches most, and those that once failed (`scripts/fuzz`).

use std::{fs, path::Path};

use crate::harness::Directory;

#[path = "../../fuzz/checks.rs"]
#[allow(unreachable_pub, reason = "a crate of its own to the fuzzer")]
mod checks;

/// Inputs of a target that are kept at least: a file that is lost must not look like one that holds.
const KEPT_MIN: usize = 100;

fn each_kept(target: &str, check: impl Fn(&[u8])) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = fs::read_to_string(root.join("fuzz/kept").join(target)).unwrap();
    assert!(kept.lines().count() >= KEPT_MIN, "{target}: {} inputs", kept.lines().count());
    kept.lines().for_each(|line| check(&const_hex::decode(line).unwrap()));
}

/// What is kept, and the samples behind a first line that the target takes for something else.
fn each_body(target: &str, first: &str, check: impl Fn(&[u8])) {
    each_kept(target, &check);
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples");
    for sample in fs::read_dir(samples).unwrap() {
        let body = fs::read(sample.unwrap().path()).unwrap();
        check(&[first.as_bytes(), &body].concat());
    }
}

#[test]
fn canonical_texts_are_those_of_another_engine() {
    let sender = checks::Sender::new();
    each_body("canonical", "", |body| checks::check_canonical(&sender, body));
}

#[test]
fn nothing_passes_that_is_not_signed() {
    each_body("verify", "00\n", checks::check_verify);
}

#[test]
fn every_body_has_events() {
    each_body("normalise", "", checks::check_normalise);
}

#[test]
fn every_event_has_a_record() {
    each_body("receive", "192.0.2.1\n", checks::check_receive);
}

#[test]
fn settings_are_understood_or_mistakes_are_named() {
    let directory = Directory::in_memory();
    let scratch = directory.0.join("settings.toml");
    each_kept("configuration", |input| checks::check_configuration(&scratch, input));
}
