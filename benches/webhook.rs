//! What one webhook costs on its way, step by step, beside a plain `serde_json` parse of the same
//! bytes.

#![allow(missing_docs, reason = "criterion's macro makes a public function")]

use std::hint::black_box;

use clickpesa_relay::{
    event::normalise::{Circumstances, normalise},
    record::{EventFormat, Record},
    webhook::{
        Unverified,
        canonical::canonical,
        checksum::{Key, Placement, Policy},
        json::Json,
        signing::sign,
    },
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use serde_json::Value;

const DEPTH_MAX: usize = 16;

const CIRCUMSTANCES: Circumstances<'static> = Circumstances {
    application: "default",
    source: "/clickpesa/default",
    received: "2026-01-05T09:30:00.123Z",
};

/// Bodies by their size: a flat callback, a payout, and a payout whose notes are as long as a body
/// may be.
fn bodies(key: &Key) -> [(&'static str, Vec<u8>); 3] {
    let sample = |text: &str| sign(text.as_bytes(), key, Placement::Root).expect("it is an object");
    let payout = include_str!("../tests/samples/payout_reversed.json");
    let notes = format!(r#"{{"notes": "{}","#, "n".repeat(64 * 1024));
    [
        ("small", sample(include_str!("../tests/samples/checkout_callback_flat.json"))),
        ("typical", sample(payout)),
        ("64 KB", sample(&payout.replacen('{', &notes, 1))),
    ]
}

fn steps(criterion: &mut Criterion) {
    let key = Key::new("main", "a secret");
    let policy = Policy::Checksum {
        keys: vec![key.clone()],
        placement: None,
        headers: Vec::new(),
        legacy: false,
    };
    for (name, body) in bodies(&key) {
        let verify = || {
            let webhook = Unverified::parse(black_box(&body), DEPTH_MAX).expect("it is JSON");
            webhook.authenticate(&policy, |_| None).expect("it is signed")
        };
        let webhook = verify();
        let events = normalise(&webhook, CIRCUMSTANCES);
        let record = || Record::new(&events[0], EventFormat::Structured, "topic", 0);
        let json = Json::parse(&body, DEPTH_MAX).expect("it is JSON");

        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function("floor: serde_json", |b| {
            b.iter(|| serde_json::from_slice::<Value>(black_box(&body)).expect("it is JSON"));
        });
        group.bench_function("parse", |b| {
            b.iter(|| Json::parse(black_box(&body), DEPTH_MAX).expect("it is JSON"));
        });
        group.bench_function("canonical and HMAC", |b| {
            b.iter(|| key.sign(&canonical(black_box(&json))));
        });
        group.bench_function("verify", |b| b.iter(verify));
        group.bench_function("normalise", |b| {
            b.iter(|| normalise(black_box(&webhook), CIRCUMSTANCES));
        });
        group.bench_function("record", |b| b.iter(record));
        group.finish();
    }
}

criterion_group!(benches, steps);
criterion_main!(benches);
