//! clickpesa-relay: ClickPesa's webhooks, verified, normalised, and on Kafka before the 2xx.
//!
//! Rooms, each of which may use those to its right: `app` → `http` → `delivery` → `kafka` →
//! `record` → `event` → `webhook`. The command line stands in front of them, in the binary.

pub mod app;
pub mod application;
pub mod config;
pub mod delivery;
pub mod event;
pub mod http;
pub mod kafka;
pub mod metrics;
pub mod moment;
pub mod rate;
pub mod record;
pub mod spool;
pub mod telemetry;
pub mod webhook;
