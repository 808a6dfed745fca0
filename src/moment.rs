//! When something last happened, to be noted and asked from any thread.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// The last time that something happened; by default it has not happened yet.
#[derive(Debug)]
pub struct Moment {
    origin: Instant,
    /// Microseconds after `origin`; 0 is never.
    at: AtomicU64,
}

impl Default for Moment {
    fn default() -> Self {
        Self { origin: Instant::now(), at: AtomicU64::new(0) }
    }
}

impl Moment {
    /// It happens now.
    pub fn note(&self) {
        self.at.store(self.now(), Ordering::SeqCst);
    }

    /// It is as if it had not happened.
    pub fn forget(&self) {
        self.at.store(0, Ordering::SeqCst);
    }

    /// Whether it happened, and no longer ago than this.
    pub fn is_within(&self, age: Duration) -> bool {
        let at = self.at.load(Ordering::SeqCst);
        at > 0 && u128::from(self.now().saturating_sub(at)) <= age.as_micros()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX).max(1)
    }
}
