//! clickpesa-relay: ClickPesa's webhooks, verified, normalised, and on Kafka before the 2xx.
pub mod event;
pub mod record;
pub mod webhook;
