//! The admin pages, on a listener of their own: metrics, liveness, readiness.

use actix_web::{HttpResponse, web};

use super::Relay;
use crate::kafka::health::SILENCE_MAX;

/// Adds the pages.
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/metrics", web::get().to(metrics))
        .route("/live", web::get().to(live))
        .route("/ready", web::get().to(ready));
}

async fn metrics(relay: web::Data<Relay>) -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(relay.metrics.render())
}

/// Whether the process works at all; if not, restart it.
async fn live(relay: web::Data<Relay>) -> HttpResponse {
    let hindrance = if !relay.delivery.publisher.health().is_live() {
        Some("librdkafka's thread is stuck")
    } else if !relay.state.is_turning(SILENCE_MAX) {
        Some("a worker's event loop is stuck")
    } else {
        None
    };
    page("live", hindrance)
}

/// Whether it can take an event; if not, send it none.
async fn ready(relay: web::Data<Relay>) -> HttpResponse {
    let hindrance = if relay.state.is_draining() {
        Some("shutting down")
    } else if relay.delivery.spool.as_ref().is_some_and(|spool| spool.store().has_room()) {
        None
    } else if !relay.state.has_topics() {
        Some("Kafka has not been reached yet to see to the topics")
    } else if !relay.delivery.publisher.health().is_ready() {
        Some("Kafka does not take records")
    } else {
        None
    };
    page("ready", hindrance)
}

fn page(name: &str, hindrance: Option<&str>) -> HttpResponse {
    match hindrance {
        None => HttpResponse::Ok().content_type("text/plain").body(format!("{name}\n")),
        Some(hindrance) => HttpResponse::ServiceUnavailable()
            .content_type("text/plain")
            .body(format!("not {name}: {hindrance}\n")),
    }
}
