//! HTTP: the one handler, its answers, and the admin pages.

pub mod admin;
pub mod answer;
pub mod body;
pub mod connections;
pub mod receive;
pub mod rejections;
pub mod room;
pub mod tls;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;

use self::{body::Bodies, rejections::Rejections, room::Room};
use crate::{
    application::{Application, Applications},
    delivery::{Delivery, rejected::Rejected},
    metrics::Metrics,
    moment::Moment,
};

/// The path of the application `default`; the others' stand below it.
pub const WEBHOOKS: &str = "/webhooks/clickpesa";

/// What the relay bears from a sender.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the head of a request to its answer.
    pub answer_within: Duration,
    /// From the head of a request to the end of its body.
    pub body_within: Duration,
    /// Bytes of a body.
    pub body_max_bytes: usize,
    /// Lists and objects that stand in each other.
    pub body_depth_max: usize,
    /// Bytes of a head: the target, and the names and values of its headers.
    pub head_max_bytes: usize,
    /// Events in one body.
    pub events_max: usize,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections of one address at once.
    pub connections_per_address_max: usize,
    /// Bytes of bodies that are not yet whole, beyond what is free for each.
    pub bodies_max_bytes: usize,
    /// Requests that may be under way.
    pub in_flight_max: usize,
    /// Rejections that are answered in a second.
    pub rejections_per_second: usize,
}

/// What all workers share.
#[derive(Debug)]
pub struct Relay {
    /// Whom webhooks are for.
    pub applications: Applications,
    /// Where events go.
    pub delivery: Delivery,
    /// Where everything is counted.
    pub metrics: Arc<Metrics>,
    /// What it bears.
    pub limits: Limits,
    /// The memory of bodies that are not yet whole.
    pub bodies: Bodies,
    /// Requests that may be under way.
    pub room: Room,
    /// How fast rejections are answered.
    pub rejections: Rejections,
    /// Where copies of what is rejected go, if they go anywhere.
    pub rejected: Option<Rejected>,
    /// What time it is.
    pub clock: fn() -> Timestamp,
    /// How the process stands.
    pub state: State,
}

impl Relay {
    /// A relay that starts.
    pub fn new(
        applications: Applications,
        delivery: Delivery,
        rejected: Option<Rejected>,
        metrics: Arc<Metrics>,
        limits: Limits,
        clock: fn() -> Timestamp,
    ) -> Self {
        Self {
            applications,
            delivery,
            rejected,
            bodies: Bodies::new(limits.bodies_max_bytes),
            room: Room::new(limits.in_flight_max),
            rejections: Rejections::new(limits.rejections_per_second, Arc::clone(&metrics)),
            metrics,
            limits,
            clock,
            state: State::default(),
        }
    }

    /// The application that a path is for.
    pub fn application(&self, path: &str) -> Option<Arc<Application>> {
        let below = path.strip_prefix(WEBHOOKS)?;
        match below.strip_suffix('/').unwrap_or(below) {
            "" => self.applications.get("default"),
            name => self.applications.get(name.strip_prefix('/')?),
        }
    }
}

/// How the process stands.
#[derive(Debug, Default)]
pub struct State {
    workers: Mutex<Vec<Arc<Moment>>>,
    has_topics: AtomicBool,
    is_draining: AtomicBool,
}

impl State {
    /// What a new worker notes its turns in.
    pub fn add_worker(&self) -> Arc<Moment> {
        let worker = Arc::new(Moment::default());
        self.workers.lock().expect("pushing does not panic").push(Arc::clone(&worker));
        worker
    }

    /// Whether the event loop of every worker turned no longer ago than this.
    pub fn is_turning(&self, within: Duration) -> bool {
        let workers = self.workers.lock().expect("pushing does not panic");
        !workers.is_empty() && workers.iter().all(|worker| worker.is_within(within))
    }

    /// The topics are all there.
    pub fn note_topics(&self) {
        self.has_topics.store(true, Ordering::Release);
    }

    /// Whether the topics were found or made.
    pub fn has_topics(&self) -> bool {
        self.has_topics.load(Ordering::Acquire)
    }

    /// From now on nothing new is taken.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Whether the process is about to end.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }
}
