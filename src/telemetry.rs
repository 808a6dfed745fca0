//! The log: one line an event, on standard error.

use std::io;

use tracing::Subscriber;
use tracing_subscriber::{Layer, Registry, fmt, layer::SubscriberExt};

use crate::config::{Log, LogFormat};

/// What takes the log; whoever owns the process makes it the global one.
pub fn subscriber(log: &Log) -> impl Subscriber + Send + Sync {
    let lines = fmt::layer().with_writer(io::stderr);
    let layer = match log.format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    Registry::default().with(layer.with_filter(log.filter.clone()))
}
