//! When something last happened, to be noted and asked from any thread.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The last time that something happened.
#[derive(Debug)]
pub struct Moment {
    origin: Instant,
    /// Microseconds after `origin`; 0 is never.
    at: AtomicU64,
}

impl Moment {
    /// Something that has not happened yet.
    pub fn never() -> Self {
        Self { origin: Instant::now(), at: AtomicU64::new(0) }
    }

    /// It happens now.
    pub fn note(&self) {
        self.at.store(self.now(), Ordering::Relaxed);
    }

    /// Whether it happened, and no longer ago than this.
    pub fn is_within(&self, age: Duration) -> bool {
        let at = self.at.load(Ordering::Relaxed);
        at > 0 && u128::from(self.now().saturating_sub(at)) <= age.as_micros()
    }

    /// Whether it happened after the other; the two have to be clones of one.
    pub fn is_after(&self, other: &Self) -> bool {
        self.at.load(Ordering::Relaxed) > other.at.load(Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

impl Clone for Moment {
    fn clone(&self) -> Self {
        Self { origin: self.origin, at: AtomicU64::new(self.at.load(Ordering::Relaxed)) }
    }
}
