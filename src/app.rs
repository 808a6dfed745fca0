//! Wiring and life cycle: start, serve, drain, stop.

mod reload;
mod servers;
mod tend;

use std::{
    collections::BTreeSet,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{dev::ServerHandle, rt, web};
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::timeout_at,
};

pub use self::reload::Reload;
pub use self::servers::{HttpListener, Listeners};
use self::{
    reload::{Current, follow},
    servers::{serve_admin, serve_public},
    tend::{get_back, watch_kafka},
};
use crate::{
    application::Applications,
    config::{self, Settings},
    delivery::{Delivery, drain::Drain, recent::Recent, rejected::Rejected},
    http::Relay,
    kafka::{
        ClientError,
        publisher::Publisher,
        topics::{Topics, TopicsError},
    },
    metrics::Metrics,
    spool::{OpenError, Spool},
};

/// How many times longer than librdkafka lets a record wait the producer may make no report
/// although records wait for theirs.
const STUCK_FACTOR: u32 = 4;

/// Why the relay did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// librdkafka does not take the settings.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The topics are not as they have to be.
    #[error(transparent)]
    Topics(#[from] TopicsError),
    /// The spool cannot be used.
    #[error(transparent)]
    Spool(#[from] OpenError),
    /// The HTTP server does not take the listener.
    #[error("cannot serve: {0}")]
    Serve(#[source] io::Error),
}

/// What was left when the relay stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Left {
    /// Requests without an answer.
    pub requests: usize,
    /// Records without a delivery report.
    pub records: usize,
}

impl Left {
    /// Whether nothing was left.
    pub fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// Serves until `shutdown` resolves, then drains; `reload` is for settings that change meanwhile.
///
/// To be run in an actix system.
///
/// # Errors
/// When the relay cannot start.
pub async fn run(
    settings: Settings,
    listeners: Listeners,
    clock: fn() -> Timestamp,
    reload: Option<Reload>,
    shutdown: impl Future<Output = ()>,
) -> Result<Left, StartError> {
    let metrics = Arc::new(Metrics::default());
    let mut properties = settings.kafka.properties;
    // A record that outlives its answer would be sent for a sender who was told to try again.
    let answer_within = settings.http.limits.answer_within;
    let message_timeout = properties.0.entry("message.timeout.ms".to_owned());
    let message_timeout = message_timeout.or_insert(answer_within.as_millis().to_string());
    let stuck_after = STUCK_FACTOR
        * match message_timeout.parse() {
            // For ever.
            Ok(0) | Err(_) => answer_within,
            Ok(milliseconds) => Duration::from_millis(milliseconds),
        };
    let spool = match &settings.spool {
        Some(spool) => Some(Spool::open(&spool.path, spool.max_bytes, &metrics)?),
        None => None,
    };
    let waiting = spool.as_ref().map_or_else(Vec::new, |spool| spool.store().topics());
    let Topics { wanted, rejected, .. } = &settings.kafka.topics;
    let of_events = wanted.keys().filter(|name| Some(*name) != rejected.as_ref()).cloned();
    let topics: BTreeSet<String> = of_events.chain(waiting).collect();
    let publisher = Arc::new(Publisher::new(
        &properties,
        topics.iter().cloned(),
        Arc::clone(&metrics),
        settings.delivery.hold_above,
    )?);
    let (stop_drains, stopped) = watch::channel(());
    let mut drains = Vec::new();
    if let Some(spool) = &spool {
        rt::spawn(get_back(Arc::clone(spool)));
        for topic in topics {
            let (spool, publisher) = (Arc::clone(spool), Arc::clone(&publisher));
            let drain = Drain { topic, spool, publisher, clock, metrics: Arc::clone(&metrics) };
            drains.push(rt::spawn(drain.run(stopped.clone())));
        }
    }
    if settings.kafka.allow_weaker_delivery {
        tracing::warn!("kafka.allow_weaker_delivery is on: a 2xx may be worth less than promised");
    }
    let delivery = Delivery {
        publisher,
        format: settings.kafka.event_format,
        recent: Recent::new(settings.delivery.recent_max),
        spool,
        patience: settings.delivery.patience,
        metrics: Arc::clone(&metrics),
    };
    let rejected = settings.kafka.topics.rejected.clone().map(|topic| {
        let config::Rejected { per_second, max_bytes } = settings.rejected;
        let publisher = Arc::clone(&delivery.publisher);
        Rejected::new(topic, per_second, max_bytes, publisher, Arc::clone(&metrics))
    });
    let applications = Applications::new(settings.applications.into_values());
    let limits = settings.http.limits;
    let relay =
        web::Data::new(Relay::new(applications, delivery, rejected, metrics, limits, clock));
    let current = Current {
        files: settings.files,
        in_force: settings.in_force,
        topics: settings.kafka.topics.wanted.keys().cloned().collect(),
        certificate: settings.http.tls.as_ref().map(|tls| Arc::clone(&tls.certificate)),
    };
    if let Some(reload) = reload {
        rt::spawn(follow(relay.clone(), current, reload));
    }
    let within = settings.shutdown_within;
    let public =
        serve_public(&settings.http, listeners.http, &relay, within).map_err(StartError::Serve)?;
    let private = serve_admin(listeners.admin, &relay).map_err(StartError::Serve)?;
    let ended = tokio::select! {
        error = watch_kafka(&relay, properties, settings.kafka.topics, stuck_after) => {
            Err(error.into())
        }
        () = shutdown => {
            let deadline = Instant::now() + within;
            let requests = finish_requests(&relay, &public, deadline).await;
            drop(stop_drains);
            let records = finish_records(&relay, drains, deadline).await;
            Ok(Left { requests, records })
        }
    };
    public.stop(false).await;
    private.stop(false).await;
    ended
}

/// Takes nothing new, and finishes what is under way; gives how many requests are left.
async fn finish_requests(
    relay: &web::Data<Relay>,
    public: &ServerHandle,
    deadline: Instant,
) -> usize {
    tracing::info!(in_flight = relay.metrics.in_flight(), "shutting down");
    relay.state.drain();
    if timeout_at(deadline.into(), public.stop(true)).await.is_err() {
        tracing::error!("requests are still under way at the deadline of the shutdown");
    }
    relay.metrics.in_flight()
}

/// Sees that every record has its report; gives how many have none and are nowhere else.
async fn finish_records(
    relay: &web::Data<Relay>,
    drains: Vec<JoinHandle<()>>,
    deadline: Instant,
) -> usize {
    let has_spool = relay.delivery.spool.is_some();
    let deadline = match has_spool {
        // All that was answered is in Kafka or on disk: only repeats are saved by waiting.
        true => deadline.min(Instant::now() + relay.delivery.patience),
        false => deadline,
    };
    timeout_at(deadline.into(), join_all(drains)).await.unwrap_or_default();
    let shared = relay.clone();
    let left = deadline.saturating_duration_since(Instant::now());
    let flush = spawn_blocking(move || shared.delivery.publisher.flush(left));
    let records = flush.await.expect("flushing does not panic");
    if has_spool { 0 } else { records }
}
