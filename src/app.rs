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
use futures_util::future::join_all;
use jiff::Timestamp;
use tokio::{
    runtime::Handle,
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{sleep, timeout_at},
};

use crate::{
    config::{Http, Settings},
    delivery::{Delivery, drain::Drain, recent::Recent},
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

/// How often Kafka is asked whether it is there if nothing else shows it, and how long it has to
/// answer; how often a cluster that was not reached is tried again.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// How often Kafka is asked while a topic is down, and the producer is looked at.
const TEND_EVERY: Duration = Duration::from_millis(250);

/// How many times longer than librdkafka lets a record wait the producer may make no report
/// although records wait for theirs.
const STUCK_FACTOR: u32 = 4;

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
    let names = settings.kafka.topics.distinct().into_keys().map(str::to_owned);
    let topics: BTreeSet<String> = names.chain(waiting).collect();
    let publisher =
        Arc::new(Publisher::new(&properties, topics.iter().cloned(), Arc::clone(&metrics))?);
    let (stop_drains, stopped) = watch::channel(());
    let mut drains = Vec::new();
    if let Some(spool) = &spool {
        for topic in topics {
            let (spool, publisher) = (Arc::clone(spool), Arc::clone(&publisher));
            let drain = Drain { topic, spool, publisher, clock, metrics: Arc::clone(&metrics) };
            drains.push(rt::spawn(drain.run(stopped.clone())));
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
        error = watch_kafka(&relay, &admin, stuck_after) => Err(error.into()),
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

/// Sees to the topics, then to the producer, and asks Kafka whether it is there whenever nothing
/// else shows it.
///
/// Ends only with an error that no later try can mend.
async fn watch_kafka(
    relay: &web::Data<Relay>,
    admin: &Arc<TopicAdmin>,
    stuck_after: Duration,
) -> TopicsError {
    loop {
        if relay.state.has_topics() {
            let relay = relay.clone();
            let tend = move || tend_producer(&relay, stuck_after);
            spawn_blocking(tend).await.expect("tending the producer does not panic");
            sleep(TEND_EVERY).await;
            continue;
        }
        match prepare_topics(relay, admin).await {
            Ok(()) => {}
            Err(error) if error.is_transient() => {
                tracing::error!("{error}; trying again");
                sleep(PROBE_EVERY).await;
            }
            Err(error) => return error,
        }
    }
}

/// Replaces a producer that is stuck, and asks Kafka whether it is there unless that is known;
/// blocks meanwhile.
fn tend_producer(relay: &Relay, stuck_after: Duration) {
    let publisher = &relay.delivery.publisher;
    if publisher.is_stuck(stuck_after) {
        tracing::error!("the producer makes no progress and is replaced");
        if let Err(error) = publisher.replace() {
            tracing::error!("{error}");
        }
    }
    let down = publisher.health().topics().filter(|(_, is_up)| !is_up);
    let mut topics: Vec<_> = down.map(|(topic, _)| topic).collect();
    if topics.is_empty() && !publisher.health().is_fresh(PROBE_EVERY) {
        topics.push(relay.delivery.topics.name(Kind::PaymentReceived));
    }
    // Where one gets no answer, none does.
    topics.into_iter().all(|topic| publisher.probe(topic, PROBE_EVERY));
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
