//! The one handler: from a request to an answer, step by step.

use std::{collections::BTreeSet, net::IpAddr, panic::AssertUnwindSafe, time::Instant};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        ConnectionType, Method,
        header::{CONTENT_ENCODING, CONTENT_LENGTH, HeaderValue, UPGRADE},
    },
    web,
};
use futures_util::FutureExt;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::{
    Relay,
    answer::{Answer, Level, Row},
    body::Holding,
    connections::Connection,
};
use crate::{
    application::{Application, networks::Networks},
    delivery::{Batch, recent::Digest, rejected::Rejection},
    event::normalise::count,
    webhook::{Authentic, Unverified, checksum::Proof},
};

/// Headers in which integrators have seen checksums: kept with what is rejected, for an operator
/// who does not know yet that there is one.
const SIGNATURE_HEADERS: [&str; 5] =
    ["x-clickpesa-signature", "x-clickpesa-checksum", "checksum", "x-checksum", "x-signature"];

/// Takes any request to the public listener.
pub async fn receive(
    request: HttpRequest,
    mut body: web::Payload,
    relay: web::Data<Relay>,
) -> HttpResponse<Holding> {
    let connection = request.conn_data::<Connection>();
    connection.inspect(|connection| connection.note_request());
    let application = relay.application(request.path());
    let application = application.as_deref();
    let entry = Entry::open(&relay, application);
    let started = entry.started;
    let steps = AssertUnwindSafe(take(&relay, application, &request, &mut body, started));
    let answer = match steps.catch_unwind().await {
        Ok(Ok(answer) | Err(answer)) => answer,
        Err(_panic) => Answer::Bug,
    };
    entry.close(&answer);
    if answer.is_rejection() {
        relay.rejections.hold_back(started + relay.limits.answer_within).await;
    }
    let is_enough = match connection {
        Some(connection) => connection.note_answer(answer.is_rejection()).await,
        None => false,
    };
    let mut response = answer.into_response();
    if is_enough || request.head().upgrade() {
        // To an upgrade, the answer would else say that the protocol is changed.
        response.head_mut().set_connection_type(ConnectionType::Close);
    }
    response.map_body(|_, answer| Holding { answer, _request: body })
}

async fn take(
    relay: &Relay,
    application: Option<&Application>,
    request: &HttpRequest,
    body: &mut web::Payload,
    started: Instant,
) -> Result<Answer, Answer> {
    let application = application.ok_or(Answer::UnknownPath)?;
    require_post(request)?;
    require_head(request, relay.limits.head_max_bytes)?;
    require_http(request)?;
    let sender = sender(request, &application.networks)?;
    require_service(relay)?;
    require_size(request, relay.limits.body_max_bytes)?;
    let body = relay.bodies.read(body, &relay.limits, started).await?;
    // Before anything dear: who is refused must cost less than who is served.
    let _place = relay.room.enter(application, relay.applications.count()).ok_or(Answer::Busy)?;
    let received = (relay.clock)();
    let webhook = verify(&body, application, request, relay.limits.body_depth_max);
    let webhook = webhook.inspect_err(|answer| {
        let Some(rejected) = &relay.rejected else { return };
        rejected.copy(&Rejection {
            reason: answer.row().reason,
            application: &application.name,
            path: request.path(),
            sender,
            received,
            headers: signature_headers(application, request),
            body: &body,
        });
    })?;
    note_proofs(relay, application, webhook.proofs(), received);
    if count(&webhook) > relay.limits.events_max {
        return Err(Answer::TooManyEvents);
    }
    let deadline = started + relay.limits.answer_within;
    let claim = match relay.delivery.claim(digest(&application.name, &body), deadline).await {
        Ok(claim) => claim,
        Err(outcome) => return Ok(outcome.into()),
    };
    let batch = Batch::new(&webhook, application, relay.delivery.format, received);
    // Memory that is free again while Kafka is waited for is still in the processor's cache.
    drop(webhook);
    drop(body);
    Ok(relay.delivery.deliver(claim, batch, deadline).await.into())
}

fn require_post(request: &HttpRequest) -> Result<(), Answer> {
    if request.method() == Method::POST { Ok(()) } else { Err(Answer::MethodNotAllowed) }
}

fn require_head(request: &HttpRequest, bytes_max: usize) -> Result<(), Answer> {
    let fields = request.headers().iter();
    let bytes: usize = fields.map(|(name, value)| name.as_str().len() + value.len()).sum();
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if bytes + target > bytes_max { Err(Answer::HeadTooLarge) } else { Ok(()) }
}

/// To a WebSocket's request the server gives what follows as its body, whatever length it says.
fn require_http(request: &HttpRequest) -> Result<(), Answer> {
    let upgrade = request.headers().get(UPGRADE);
    let is_websocket = upgrade.is_some_and(|to| to.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if is_websocket { Err(Answer::UpgradeRefused) } else { Ok(()) }
}

/// The address that the request comes from, as far as somebody trusted says it.
fn sender(request: &HttpRequest, networks: &Networks) -> Result<Option<IpAddr>, Answer> {
    let lines = request.headers().get_all(networks.header.name());
    // A line that is no text must not be left out: what stands before it would be believed.
    let lines = lines.map(|line| String::from_utf8_lossy(line.as_bytes()));
    let sender = networks.sender(request.peer_addr().map(|peer| peer.ip()), lines);
    if networks.allow(sender) { Ok(sender) } else { Err(Answer::AddressNotAllowed) }
}

fn require_service(relay: &Relay) -> Result<(), Answer> {
    if relay.state.is_draining() { Err(Answer::Draining) } else { Ok(()) }
}

/// A body that is declared too large is not waited for.
fn require_size(request: &HttpRequest, bytes_max: usize) -> Result<(), Answer> {
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|text| text.to_str().ok());
    let is_over = |length: usize| length > bytes_max;
    match declared.and_then(|digits| digits.parse().ok()).is_some_and(is_over) {
        true => Err(Answer::BodyTooLarge),
        false => Ok(()),
    }
}

fn verify<'b, 'p>(
    body: &'b [u8],
    application: &'p Application,
    request: &HttpRequest,
    depth_max: usize,
) -> Result<Authentic<'b, 'p>, Answer> {
    require_identity(request)?;
    let webhook = Unverified::parse(body, depth_max)?;
    Ok(webhook.authenticate(&application.policy, |name| header(request, name))?)
}

/// What somebody else would decode is not read as it is.
fn require_identity(request: &HttpRequest) -> Result<(), Answer> {
    let mut encodings = request.headers().get_all(CONTENT_ENCODING);
    let is_identity = |name: &HeaderValue| name.as_bytes().eq_ignore_ascii_case(b"identity");
    if encodings.all(is_identity) { Ok(()) } else { Err(Answer::Encoded) }
}

/// The headers of the request that may carry a checksum.
fn signature_headers<'r>(
    application: &'r Application,
    request: &'r HttpRequest,
) -> Vec<(&'r str, &'r [u8])> {
    let names: BTreeSet<_> = application.policy.header_names().chain(SIGNATURE_HEADERS).collect();
    names.into_iter().filter_map(|name| Some((name, header(request, name)?))).collect()
}

fn header<'r>(request: &'r HttpRequest, name: &str) -> Option<&'r [u8]> {
    request.headers().get(name).map(HeaderValue::as_bytes)
}

/// What two posts of one webhook have in common.
fn digest(application: &str, body: &[u8]) -> Digest {
    let hash = Sha256::new().chain_update(application).chain_update([0]).chain_update(body);
    hash.finalize().into()
}

fn note_proofs(
    relay: &Relay,
    application: &Application,
    proofs: &[Proof<'_>],
    received: Timestamp,
) {
    for proof in proofs {
        let key = [&application.name, proof.key_id];
        let last_verified = relay.metrics.checksum_key_last_verified.with_label_values(&key);
        last_verified.set(received.as_millisecond() as f64 / 1e3);
        let labels =
            [&application.name, proof.key_id, proof.placement.as_str(), proof.method.as_str()];
        relay.metrics.verified.with_label_values(&labels).inc();
    }
}

/// A request's line in the books, from its head to its answer.
///
/// Closed in `drop` if nowhere else: actix drops a handler whose client went away.
struct Entry<'r> {
    relay: &'r Relay,
    application: &'r str,
    started: Instant,
    is_closed: bool,
}

impl<'r> Entry<'r> {
    fn open(relay: &'r Relay, application: Option<&'r Application>) -> Self {
        let application = application.map_or("<unknown>", |application| &application.name);
        relay.metrics.in_flight.inc();
        relay.metrics.received.with_label_values(&[application]).inc();
        Self { relay, application, started: Instant::now(), is_closed: false }
    }

    fn close(mut self, answer: &Answer) {
        let Row { status, outcome, reason, level, .. } = answer.row();
        self.count(outcome, reason);
        let application = self.application;
        let took_ms = self.started.elapsed().as_secs_f64() * 1e3;
        match level {
            Level::Info => tracing::info!(
                application, status = status.as_u16(), outcome, reason, took_ms,
                events = %answer, "webhook {outcome}"
            ),
            Level::Warn => tracing::warn!(
                application, status = status.as_u16(), outcome, reason, took_ms, cause = %answer,
                "webhook {outcome}"
            ),
            Level::Error => tracing::error!(
                application, status = status.as_u16(), outcome, reason, took_ms, cause = %answer,
                "webhook {outcome}"
            ),
        }
    }

    fn count(&mut self, outcome: &str, reason: &str) {
        self.is_closed = true;
        let metrics = &self.relay.metrics;
        metrics.outcomes.with_label_values(&[self.application, outcome, reason]).inc();
        let seconds = self.started.elapsed().as_secs_f64();
        metrics.answer_seconds.with_label_values(&[outcome]).observe(seconds);
    }
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.is_closed {
            self.count("abandoned", "client_gone");
            let application = self.application;
            tracing::warn!(application, outcome = "abandoned", "the sender went away unanswered");
        }
        self.relay.metrics.in_flight.dec();
    }
}
