//! How many in a second.

use std::time::Duration;

use leaky_bucket::RateLimiter;

/// How often a rate is paid out, if it is high enough.
const PAY_EVERY: Duration = Duration::from_millis(10);

/// A token bucket of that rate, which holds so many.
pub fn limiter(per_second: usize, burst: usize) -> RateLimiter {
    let of_one = Duration::from_secs(1) / u32::try_from(per_second).unwrap_or(u32::MAX);
    let every = PAY_EVERY.max(of_one);
    let refill = (every.as_secs_f64() * per_second as f64).round() as usize;
    RateLimiter::builder().initial(burst).max(burst).refill(refill).interval(every).build()
}
