//! How fast rejections are answered: a flood of false webhooks must leave the processor to others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use leaky_bucket::RateLimiter;
use tokio::time::timeout_at;

use crate::{metrics::Metrics, rate::limiter};

/// How long a rejection is held back at most.
const HOLD_WITHIN: Duration = Duration::from_secs(1);

/// Holds rejections back that are above a rate.
#[derive(Debug)]
pub struct Rejections {
    limiter: RateLimiter,
    metrics: Arc<Metrics>,
}

impl Rejections {
    /// With that many answered in a second, of which a tenth may come at once.
    pub fn new(per_second: usize, metrics: Arc<Metrics>) -> Self {
        Self { limiter: limiter(per_second, per_second.div_ceil(10)), metrics }
    }

    /// Waits for the turn of one more, for a second at most, and not past a deadline: late, it is
    /// answered all the same.
    pub async fn hold_back(&self, deadline: Instant) {
        if !self.limiter.try_acquire(1) {
            self.metrics.rejections_held.inc();
            let until = deadline.min(Instant::now() + HOLD_WITHIN);
            timeout_at(until.into(), self.limiter.acquire_one()).await.unwrap_or_default();
        }
    }
}
