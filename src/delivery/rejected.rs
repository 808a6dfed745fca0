//! Copies of what was rejected, in a topic of their own: for whoever mends a key, or looks for a
//! payment that did not come.
//!
//! A copy never delays an answer or changes it, and has no claim to be made: it is dropped where
//! copies come too fast, are too large, or would wait for Kafka.

use std::{net::IpAddr, sync::Arc};

use actix_web::rt;
use jiff::Timestamp;
use leaky_bucket::RateLimiter;
use tokio::sync::Semaphore;

use crate::{kafka::publisher::Publisher, metrics::Metrics, rate::limiter, record::Record};

/// Copies that may wait for their reports.
const UNDER_WAY_MAX: usize = 64;

/// Bytes of a path that are kept.
const PATH_BYTES_MAX: usize = 512;

/// What the name of a record's header begins with that holds one of the request's.
pub const REQUEST_HEADER: &str = "header.";

/// Puts copies of rejected webhooks into their topic.
#[derive(Debug)]
pub struct Rejected {
    topic: String,
    limiter: RateLimiter,
    max_bytes: usize,
    publisher: Arc<Publisher>,
    metrics: Arc<Metrics>,
    /// Room for those that wait for their reports.
    under_way: Arc<Semaphore>,
}

/// A webhook that was rejected.
#[derive(Debug, Clone)]
pub struct Rejection<'r> {
    /// The reason, as the metrics name it.
    pub reason: &'static str,
    /// The application that it was sent to.
    pub application: &'r str,
    /// The path that it was sent to.
    pub path: &'r str,
    /// Who sent it.
    pub sender: Option<IpAddr>,
    /// When it was there.
    pub received: Timestamp,
    /// Headers of the request that may carry a checksum, by their name.
    pub headers: Vec<(&'r str, &'r [u8])>,
    /// The body.
    pub body: &'r [u8],
}

impl Rejected {
    /// Copies to a topic, so many in a second and ten times as many at once, of bodies of so many
    /// bytes at most.
    pub fn new(
        topic: String,
        per_second: usize,
        max_bytes: usize,
        publisher: Arc<Publisher>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let limiter = limiter(per_second, 10 * per_second);
        let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        Self { topic, limiter, max_bytes, publisher, metrics, under_way }
    }

    /// Copies a rejected webhook, if that costs nobody anything.
    pub fn copy(&self, rejection: &Rejection<'_>) {
        if let Err(why) = self.try_copy(rejection) {
            self.metrics.rejected_dropped.with_label_values(&[why]).inc();
        }
    }

    fn try_copy(&self, rejection: &Rejection<'_>) -> Result<(), &'static str> {
        if rejection.body.is_empty() {
            return Err("empty");
        }
        if rejection.body.len() > self.max_bytes {
            return Err("too_large");
        }
        if !self.publisher.health().is_up(&self.topic) {
            return Err("kafka_down");
        }
        if !self.limiter.try_acquire(1) {
            return Err("too_fast");
        }
        let place =
            Arc::clone(&self.under_way).try_acquire_owned().map_err(|_full| "kafka_slow")?;
        let report = self.publisher.send(&rejection.record(&self.topic));
        rt::spawn(async move {
            // What is refused is lost: a copy has no claim to be made.
            report.wait().await.ok();
            drop(place);
        });
        Ok(())
    }
}

impl Rejection<'_> {
    fn record(&self, topic: &str) -> Record {
        let path = self.path.get(..PATH_BYTES_MAX).unwrap_or(self.path);
        let own = [
            ("reason", self.reason.to_owned()),
            ("application", self.application.to_owned()),
            ("path", path.to_owned()),
            ("peer", self.sender.map_or_else(String::new, |sender| sender.to_string())),
            ("time", format!("{:.3}", self.received)),
        ];
        let own = own.map(|(name, text)| (name.into(), text.into())).into_iter();
        let of_request = self.headers.iter().map(|(name, value)| {
            let text = String::from_utf8_lossy(value).into_owned();
            (format!("{REQUEST_HEADER}{name}").into(), text.into())
        });
        Record {
            topic: topic.to_owned(),
            timestamp_ms: self.received.as_millisecond(),
            key: self.application.to_owned(),
            headers: own.chain(of_request).collect(),
            value: self.body.to_vec(),
        }
    }
}
