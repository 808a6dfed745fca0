//! Connections: how many there are, and which one is one too many.

use std::{
    any::Any,
    cell::Cell,
    collections::HashMap,
    net::{IpAddr, Shutdown},
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use actix_tls::accept::rustls_0_23::TlsStream;
use actix_web::{dev::Extensions, rt::net::TcpStream};
use socket2::SockRef;
use tokio::time::sleep;

use super::Limits;
use crate::metrics::Metrics;

/// The connections of the public listener.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    per_address_max: usize,
    metrics: Arc<Metrics>,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    count: usize,
    of_address: HashMap<IpAddr, usize>,
}

/// Rejections in a row on a connection, before it is told to end.
pub const REJECTIONS_MAX: u32 = 64;

/// How long each further one waits: the server answers what was sent behind the last one too,
/// and what nobody reads piles up in our memory.
pub const REJECTION_WAITS: Duration = Duration::from_secs(1);

/// A connection, for as long as it is there.
#[derive(Debug)]
pub struct Connection {
    connections: Arc<Connections>,
    address: Option<IpAddr>,
    has_request: Cell<bool>,
    /// Requests in a row that were rejected.
    rejections: Cell<u32>,
}

impl Connections {
    /// None yet.
    pub fn new(limits: &Limits, metrics: Arc<Metrics>) -> Self {
        Self {
            max: limits.connections_max,
            per_address_max: limits.connections_per_address_max,
            metrics,
            open: Mutex::default(),
        }
    }

    /// Notes a new connection in its own data, or ends it if it is one too many.
    pub fn note(self: &Arc<Self>, stream: &dyn Any, data: &mut Extensions) {
        let of_tls = || stream.downcast_ref::<TlsStream<TcpStream>>().map(|tls| tls.get_ref().0);
        let stream = stream.downcast_ref::<TcpStream>().or_else(of_tls);
        let address = stream.and_then(|stream| stream.peer_addr().ok()).map(|peer| peer.ip());
        let mut open = self.open();
        open.count += 1;
        let of_address = address.map_or(0, |address| {
            let count = open.of_address.entry(address).or_default();
            *count += 1;
            *count
        });
        let excess = if open.count > self.max {
            Some("all")
        } else if of_address > self.per_address_max {
            Some("address")
        } else {
            None
        };
        drop(open);
        self.metrics.connections.inc();
        if let (Some(excess), Some(stream)) = (excess, stream) {
            self.metrics.connections_refused.with_label_values(&[excess]).inc();
            // Where the sender was faster, there is nothing to end.
            SockRef::from(&stream.as_fd()).shutdown(Shutdown::Both).ok();
        }
        let has_request = Cell::new(excess.is_some());
        let rejections = Cell::new(0);
        let connections = Arc::clone(self);
        data.insert(Connection { connections, address, has_request, rejections });
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().expect("counting does not panic")
    }
}

impl Connection {
    /// It brought the whole head of a request.
    pub fn note_request(&self) {
        self.has_request.set(true);
    }

    /// Its request is rejected or not; gives whether it is to end with that.
    pub async fn note_answer(&self, is_rejection: bool) -> bool {
        let count = if is_rejection { self.rejections.get().saturating_add(1) } else { 0 };
        self.rejections.set(count);
        if count > REJECTIONS_MAX {
            sleep(REJECTION_WAITS).await;
        }
        count >= REJECTIONS_MAX
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut open = self.connections.open();
        open.count -= 1;
        if let Some(address) = self.address
            && let Some(count) = open.of_address.get_mut(&address)
        {
            *count -= 1;
            if *count == 0 {
                open.of_address.remove(&address);
            }
        }
        drop(open);
        let metrics = &self.connections.metrics;
        metrics.connections.dec();
        if !self.has_request.get() {
            metrics.connections_unused.inc();
        }
    }
}
