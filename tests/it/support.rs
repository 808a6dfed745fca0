//! What the tests of the pure core share.

use clickpesa_relay::{
    event::{
        Event,
        normalise::{Circumstances, normalise},
    },
    webhook::{
        Unverified,
        checksum::{Key, Policy, Unauthentic},
    },
};

/// How deep the bodies of tests may be.
pub(crate) const DEPTH_MAX: usize = 32;

/// The circumstances of every event whose test does not vary them.
pub(crate) const CIRCUMSTANCES: Circumstances<'static> = Circumstances {
    application: "default",
    source: "/clickpesa/default",
    received: "2026-01-05T09:30:00.123Z",
};

/// The key that signs the webhooks of tests.
pub(crate) fn key() -> Key {
    Key::new("main", "test-checksum-key")
}

/// Asks for a checksum by [`key`], anywhere in the body, by the canonical method.
pub(crate) fn checksum() -> Policy {
    Policy::Checksum { keys: vec![key()], placement: None, headers: Vec::new(), legacy: false }
}

/// Reads the events of a body that has no checksum in a header.
pub(crate) fn with_events<T>(
    body: &str,
    policy: &Policy,
    circumstances: Circumstances<'_>,
    read: impl FnOnce(&[Event<'_>]) -> T,
) -> Result<T, Unauthentic> {
    let unverified = Unverified::parse(body.as_bytes(), DEPTH_MAX)
        .unwrap_or_else(|malformed| panic!("{malformed}: {body}"));
    let authentic = unverified.authenticate(policy, |_| None)?;
    Ok(read(&normalise(&authentic, circumstances)))
}
