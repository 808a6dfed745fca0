//! Wiring and life cycle: start, serve, drain, stop.

use std::{
    collections::BTreeSet,
    io,
    net::TcpListener,
    os::unix::net::UnixListener,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    App, HttpServer,
    dev::{Server, ServerHandle},
    rt, web,
};
use jiff::Timestamp;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{sleep, timeout_at},
};

use crate::{
    config::{Http, Settings},
    delivery::{Delivery, drain::drain, recent::Recent},
    event::kind::Kind,
    http::{Relay, State, admin::routes, receive::receive},
    kafka::{
        ClientError,
        publisher::Publisher,
        topics::{Finding, TopicAdmin, TopicState, TopicsError},
    },
    metrics::Metrics,
    moment::Moment,
    spool::{OpenError, Spool},
};

/// How often Kafka is asked whether it is there, and a cluster that was not reached is tried again.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// How often Kafka is asked while a topic is down.
const PROBE_EVERY_WHILE_DOWN: Duration = Duration::from_millis(250);

/// How long the producer may make no report although records wait for theirs: longer than
/// `message.timeout.ms` lets any wait.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// How often a worker shows that its event loop turns.
const BEAT_EVERY: Duration = Duration::from_secs(1);

/// The sockets, opened by whoever owns the process.
#[derive(Debug)]
pub struct Listeners {
    /// For webhooks.
    pub http: HttpListener,
    /// For the admin pages.
    pub admin: TcpListener,
}

/// The socket for webhooks.
#[derive(Debug)]
pub enum HttpListener {
    /// A port.
    Tcp(TcpListener),
    /// A socket in the file system.
    Unix(UnixListener),
}

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

/// Serves until `shutdown` resolves, then drains.
///
/// To be run in an actix system.
///
/// # Errors
/// When the relay cannot start.
pub async fn run(
    settings: Settings,
    listeners: Listeners,
    clock: fn() -> Timestamp,
    shutdown: impl Future<Output = ()>,
) -> Result<Left, StartError> {
    let metrics = Arc::new(Metrics::default());
    let mut properties = settings.kafka.properties;
    // A record that outlives its answer would be sent for a sender who was told to try again.
    let answer_within = settings.http.limits.answer_within.as_millis().to_string();
    properties.0.entry("message.timeout.ms".to_owned()).or_insert(answer_within);
    let spool = match &settings.spool {
        Some(spool) => Some(Arc::new(Spool::open(&spool.path, spool.max_bytes, &metrics)?)),
        None => None,
    };
    let waiting = spool.as_ref().map_or_else(Vec::new, |spool| spool.topics());
    let names = settings.kafka.topics.distinct().into_keys().map(str::to_owned);
    let topics: BTreeSet<String> = names.chain(waiting).collect();
    let publisher =
        Arc::new(Publisher::new(&properties, topics.iter().cloned(), Arc::clone(&metrics))?);
    let (stop, stopped) = watch::channel(());
    let mut drains = JoinSet::new();
    if let Some(spool) = &spool {
        for topic in topics {
            let (publisher, spool) = (Arc::clone(&publisher), Arc::clone(spool));
            drains.spawn_local(drain(publisher, spool, topic, stopped.clone()));
        }
    }
    if settings.kafka.allow_weaker_delivery {
        tracing::warn!("kafka.allow_weaker_delivery is on: a 2xx may be worth less than promised");
    }
    let admin = Arc::new(TopicAdmin::new(&properties)?);
    let relay = web::Data::new(Relay {
        applications: settings.applications,
        delivery: Delivery {
            publisher,
            topics: settings.kafka.topics,
            format: settings.kafka.event_format,
            recent: Recent::new(settings.delivery.recent_max),
            spool,
            patience: settings.delivery.patience,
            metrics: Arc::clone(&metrics),
        },
        metrics,
        limits: settings.http.limits,
        clock,
        state: State::default(),
    });
    let within = settings.shutdown_within;
    let public =
        serve_public(&settings.http, listeners.http, &relay, within).map_err(StartError::Serve)?;
    let private = serve_admin(listeners.admin, &relay).map_err(StartError::Serve)?;
    let ended = tokio::select! {
        error = watch_kafka(&relay, &admin) => Err(error.into()),
        () = shutdown => {
            let stop_drains = async {
                drop(stop);
                drains.join_all().await;
            };
            Ok(shut_down(&relay, &public, stop_drains, within).await)
        }
    };
    public.stop(false).await;
    private.stop(false).await;
    ended
}

fn serve_public(
    settings: &Http,
    listener: HttpListener,
    relay: &web::Data<Relay>,
    shutdown_within: Duration,
) -> io::Result<ServerHandle> {
    let relay = relay.clone();
    let server = HttpServer::new(move || {
        rt::spawn(beat(relay.state.add_worker()));
        App::new().app_data(relay.clone()).default_service(web::to(receive))
    })
    .client_request_timeout(settings.head_within)
    .keep_alive(settings.keep_alive)
    .tcp_nodelay(true)
    // Bounded by the drain itself; this only must not be shorter.
    .shutdown_timeout(shutdown_within.as_secs() + 1)
    .disable_signals();
    let server = match settings.workers {
        0 => server,
        workers => server.workers(workers),
    };
    let server = match listener {
        HttpListener::Tcp(listener) => server.listen(listener)?,
        HttpListener::Unix(listener) => server.listen_uds(listener)?,
    };
    Ok(start(server.run()))
}

fn serve_admin(listener: TcpListener, relay: &web::Data<Relay>) -> io::Result<ServerHandle> {
    let relay = relay.clone();
    let server = HttpServer::new(move || App::new().app_data(relay.clone()).configure(routes))
        .workers(1)
        .disable_signals()
        .listen(listener)?;
    Ok(start(server.run()))
}

fn start(server: Server) -> ServerHandle {
    let handle = server.handle();
    rt::spawn(server);
    handle
}

/// Shows for as long as the worker's event loop turns that it does.
async fn beat(worker: Arc<Moment>) {
    loop {
        worker.note();
        sleep(BEAT_EVERY).await;
    }
}

/// Sees to the topics, then asks Kafka whether it is there whenever nothing else shows it.
///
/// Ends only with an error that no later try can mend.
async fn watch_kafka(relay: &web::Data<Relay>, admin: &Arc<TopicAdmin>) -> TopicsError {
    loop {
        if !relay.state.has_topics() {
            match prepare_topics(relay, admin).await {
                Ok(()) => {}
                Err(error) if error.is_transient() => tracing::error!("{error}; trying again"),
                Err(error) => return error,
            }
        } else {
            let relay = relay.clone();
            let tend = move || tend_producer(&relay);
            spawn_blocking(tend).await.expect("tending the producer does not panic");
        }
        let is_down = relay.delivery.publisher.health().down().is_some();
        sleep(if is_down { PROBE_EVERY_WHILE_DOWN } else { PROBE_EVERY }).await;
    }
}

/// Replaces a producer that is stuck, and asks Kafka whether it is there unless that is known;
/// blocks meanwhile.
fn tend_producer(relay: &Relay) {
    let publisher = &relay.delivery.publisher;
    if publisher.is_stuck(STUCK_AFTER) {
        tracing::error!("the producer makes no progress and is replaced");
        if let Err(error) = publisher.replace() {
            tracing::error!("{error}");
        }
    }
    let down = publisher.health().down();
    if down.is_some() || !publisher.health().is_fresh(PROBE_EVERY) {
        let topic = down.unwrap_or_else(|| relay.delivery.topics.name(Kind::PaymentReceived));
        publisher.probe(topic, PROBE_EVERY);
    }
}

async fn prepare_topics(
    relay: &web::Data<Relay>,
    admin: &Arc<TopicAdmin>,
) -> Result<(), TopicsError> {
    let (shared, admin, runtime) = (relay.clone(), Arc::clone(admin), Handle::current());
    let prepare = move || runtime.block_on(admin.prepare(&shared.delivery.topics));
    let topics = spawn_blocking(prepare).await.expect("looking at topics does not panic")?;
    for TopicState { name, partitions, finding } in topics {
        match finding {
            Finding::Created => tracing::info!(topic = name, partitions, "topic created"),
            Finding::Exists | Finding::Missing => {
                tracing::debug!(topic = name, partitions, ?finding, "topic");
            }
        }
    }
    relay.delivery.publisher.health().note_answer();
    relay.state.note_topics();
    tracing::info!("ready");
    Ok(())
}

/// Takes nothing new, finishes what is under way, and sees that every record has its report.
async fn shut_down(
    relay: &web::Data<Relay>,
    public: &ServerHandle,
    stop_drains: impl Future<Output = ()>,
    within: Duration,
) -> Left {
    let deadline = Instant::now() + within;
    tracing::info!(in_flight = relay.metrics.in_flight(), "shutting down");
    relay.state.drain();
    if timeout_at(deadline.into(), public.stop(true)).await.is_err() {
        tracing::error!("requests are still under way at the deadline of the shutdown");
    }
    // What is left of the spool is for the next process; what is under way gets its report below.
    timeout_at(deadline.into(), stop_drains).await.ok();
    let shared = relay.clone();
    let left = deadline.saturating_duration_since(Instant::now());
    let flush = spawn_blocking(move || shared.delivery.publisher.flush(left));
    let records = flush.await.expect("flushing does not panic");
    Left { requests: relay.metrics.in_flight(), records }
}
