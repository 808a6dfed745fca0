//! The table of answers: the one place where what happened becomes HTTP, labels and a log level.

use std::{
    fmt::{self, Write},
    sync::Arc,
};

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
};
use http_api_problem::HttpApiProblem;
use serde::Serialize;

use crate::{
    delivery::{Outcome, Published, Spooled, Unavailable},
    spool::SpoolError,
    webhook::{Malformed, checksum::Unauthentic},
};

/// What a sender is told to wait before it tries again, in seconds.
pub const RETRY_AFTER_SECONDS: u32 = 5;

/// What happened to a request.
#[derive(Debug)]
pub enum Answer {
    /// Kafka acknowledged every event of it.
    Published(Arc<[Published]>),
    /// Kafka acknowledged a twin of it before.
    Duplicate(Arc<[Published]>),
    /// Every event of it is on disk, synced.
    Spooled(Vec<Spooled>),
    /// The body cannot be a webhook.
    Malformed(Malformed),
    /// The body is compressed, or otherwise encoded.
    Encoded,
    /// The body did not arrive whole.
    BodyBroken,
    /// Another protocol is asked for, so that nobody knows where the body ends.
    UpgradeRefused,
    /// It is not proven.
    Unauthentic(Unauthentic),
    /// No application is at this path.
    UnknownPath,
    /// Only POST is taken.
    MethodNotAllowed,
    /// The sender's address is not allowed.
    AddressNotAllowed,
    /// The head is too large.
    HeadTooLarge,
    /// The body took too long.
    BodyTimeout,
    /// The body is too large.
    BodyTooLarge,
    /// The body has too many events.
    TooManyEvents,
    /// An event is over Kafka's limit.
    EventTooLarge,
    /// Too many requests are under way.
    Busy,
    /// Bodies that are not yet whole take too much memory.
    BodiesTooMany,
    /// Kafka did not take the events.
    Unavailable(Unavailable),
    /// The relay is about to end.
    Draining,
    /// A handler panicked.
    Bug,
}

/// A line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The status.
    pub status: StatusCode,
    /// The label `outcome` of the metrics.
    pub outcome: &'static str,
    /// The label `reason` of the metrics, and the end of the problem's `type`.
    pub reason: &'static str,
    /// The problem's `title`: what is wrong, and what would mend it.
    pub title: &'static str,
    /// How loud the log is.
    pub level: Level,
}

/// How loud the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// As it should be.
    Info,
    /// The sender's fault.
    Warn,
    /// Ours, or Kafka's.
    Error,
}

impl Answer {
    /// The table.
    pub fn row(&self) -> Row {
        let rejected = |status, reason, title| Row {
            status,
            outcome: "rejected",
            reason,
            title,
            level: Level::Warn,
        };
        let failed = |reason, title| Row {
            status: StatusCode::SERVICE_UNAVAILABLE,
            outcome: "failed",
            reason,
            title,
            level: Level::Error,
        };
        let taken =
            |status, outcome| Row { status, outcome, reason: "", title: "", level: Level::Info };
        match self {
            Self::Published(_) => taken(StatusCode::OK, "published"),
            Self::Duplicate(_) => taken(StatusCode::OK, "duplicate"),
            Self::Spooled(_) => taken(StatusCode::ACCEPTED, "spooled"),
            Self::Malformed(Malformed::Empty) => {
                rejected(StatusCode::BAD_REQUEST, "empty", "The body is empty")
            }
            Self::Malformed(Malformed::Json(_)) => rejected(
                StatusCode::BAD_REQUEST,
                "not_json",
                "The body is not JSON in UTF-8, or nested too deep",
            ),
            Self::Malformed(Malformed::Scalar) => rejected(
                StatusCode::BAD_REQUEST,
                "not_a_webhook",
                "The body is neither an object nor a list",
            ),
            Self::Encoded => rejected(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "body_encoded",
                "The body has a Content-Encoding: send it as it is",
            ),
            Self::UpgradeRefused => rejected(
                StatusCode::BAD_REQUEST,
                "upgrade_refused",
                "Protocols are not changed here: send the webhook without Upgrade",
            ),
            Self::BodyBroken => {
                rejected(StatusCode::BAD_REQUEST, "body_broken", "The body did not arrive whole")
            }
            Self::Unauthentic(Unauthentic::Missing) => rejected(
                StatusCode::UNAUTHORIZED,
                "checksum_missing",
                "The webhook carries no checksum where this application expects it",
            ),
            Self::Unauthentic(Unauthentic::Wrong) => rejected(
                StatusCode::UNAUTHORIZED,
                "checksum_wrong",
                "No checksum key of this application verifies the webhook",
            ),
            Self::UnknownPath => rejected(
                StatusCode::NOT_FOUND,
                "unknown_path",
                "No application is configured at this path",
            ),
            Self::MethodNotAllowed => rejected(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "Webhooks are sent with POST",
            ),
            Self::AddressNotAllowed => rejected(
                StatusCode::FORBIDDEN,
                "address_not_allowed",
                "Webhooks are not taken from this address",
            ),
            Self::HeadTooLarge => rejected(
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "head_too_large",
                "The head is over the limit",
            ),
            Self::BodyTimeout => rejected(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                "The body did not arrive in time",
            ),
            Self::BodyTooLarge => rejected(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "The body is over the limit",
            ),
            Self::TooManyEvents => rejected(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too_many_events",
                "The body has more events than the limit",
            ),
            Self::EventTooLarge => rejected(
                StatusCode::PAYLOAD_TOO_LARGE,
                "event_too_large",
                "An event is over the limit of Kafka",
            ),
            Self::Busy => failed("busy", "Too many requests are under way; try again"),
            Self::BodiesTooMany => {
                failed("bodies_too_many", "Bodies under way take too much memory; try again")
            }
            Self::Unavailable(Unavailable::Refused(_)) => {
                failed("kafka_refused", "The event could not be stored; try again")
            }
            Self::Unavailable(Unavailable::TimedOut) => {
                failed("kafka_timeout", "The event could not be stored in time; try again")
            }
            Self::Unavailable(Unavailable::KnownDown) => {
                failed("kafka_down", "The event cannot be stored now; try again")
            }
            Self::Unavailable(Unavailable::Spool(SpoolError::Full)) => {
                failed("spool_full", "The event cannot be stored now; try again")
            }
            Self::Unavailable(Unavailable::Spool(SpoolError::Unwritable)) => {
                failed("spool_unwritable", "The event cannot be stored now; try again")
            }
            Self::Unavailable(Unavailable::Spool(SpoolError::Damaged)) => {
                failed("spool_damaged", "The event cannot be stored now; try again")
            }
            Self::Unavailable(Unavailable::SpoolTimedOut) => {
                failed("spool_timeout", "The event could not be stored in time; try again")
            }
            Self::Draining => failed("draining", "The relay is shutting down; try again"),
            Self::Bug => {
                Row { status: StatusCode::INTERNAL_SERVER_ERROR, ..failed("bug", "Internal error") }
            }
        }
    }

    /// Whether the request is at fault.
    pub fn is_rejection(&self) -> bool {
        self.row().outcome == "rejected"
    }

    /// The response.
    pub fn into_response(self) -> HttpResponse {
        let Row { status, outcome, reason, title, .. } = self.row();
        let mut response = HttpResponse::build(status);
        if let Self::Published(events) | Self::Duplicate(events) = &self {
            return response.json(Taken { status: outcome, events });
        }
        if let Self::Spooled(events) = &self {
            return response.json(Taken { status: outcome, events });
        }
        if status == StatusCode::METHOD_NOT_ALLOWED {
            response.insert_header((header::ALLOW, "POST"));
        }
        if status == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            response.insert_header((header::ACCEPT_ENCODING, "identity"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.insert_header((header::RETRY_AFTER, RETRY_AFTER_SECONDS.to_string()));
        }
        let problem = HttpApiProblem::try_new(status.as_u16())
            .expect("every status of the table is a valid one")
            .type_url(format!("urn:clickpesa-relay:problem:{reason}"))
            .title(title);
        response.content_type("application/problem+json").body(problem.json_bytes())
    }
}

/// The body of a 2xx.
#[derive(Serialize)]
struct Taken<'a, E> {
    status: &'static str,
    events: &'a [E],
}

/// What the log says beyond outcome and reason: ids and places, causes; never what a body says.
impl fmt::Display for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published(events) | Self::Duplicate(events) => {
                join(formatter, events, |formatter, Published { event, receipt }| {
                    let Spooled { id, topic, .. } = event;
                    write!(formatter, "{id}@{topic}/{}/{}", receipt.partition, receipt.offset)
                })
            }
            Self::Spooled(events) => join(formatter, events, |formatter, event| {
                let Spooled { id, topic, .. } = event;
                write!(formatter, "{id}@{topic}")
            }),
            Self::Malformed(cause) => cause.fmt(formatter),
            Self::Unauthentic(cause) => cause.fmt(formatter),
            Self::Unavailable(cause) => cause.fmt(formatter),
            Self::Encoded
            | Self::UpgradeRefused
            | Self::BodyBroken
            | Self::UnknownPath
            | Self::MethodNotAllowed
            | Self::AddressNotAllowed
            | Self::HeadTooLarge
            | Self::BodyTimeout
            | Self::BodyTooLarge
            | Self::TooManyEvents
            | Self::EventTooLarge
            | Self::Busy
            | Self::BodiesTooMany
            | Self::Draining
            | Self::Bug => formatter.write_str(self.row().title),
        }
    }
}

fn join<T>(
    formatter: &mut fmt::Formatter<'_>,
    items: &[T],
    show: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            formatter.write_char(',')?;
        }
        show(formatter, item)?;
    }
    Ok(())
}

impl From<Malformed> for Answer {
    fn from(cause: Malformed) -> Self {
        Self::Malformed(cause)
    }
}

impl From<Unauthentic> for Answer {
    fn from(cause: Unauthentic) -> Self {
        Self::Unauthentic(cause)
    }
}

impl From<Outcome> for Answer {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Published(events) => Self::Published(events),
            Outcome::Duplicate(events) => Self::Duplicate(events),
            Outcome::Spooled(events) => Self::Spooled(events),
            Outcome::TooLarge => Self::EventTooLarge,
            Outcome::Unavailable(cause) => Self::Unavailable(cause),
        }
    }
}
