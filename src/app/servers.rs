//! The two HTTP servers: the public one, and that of the admin pages.

use std::{io, net::TcpListener, os::unix::net::UnixListener, sync::Arc, time::Duration};

use actix_web::{
    App, HttpServer,
    dev::{Server, ServerHandle},
    rt, web,
};
use tokio::time::sleep;

use crate::{
    config::Http,
    http::{Relay, admin::routes, connections::Connections, receive::receive},
    moment::Moment,
};

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

pub(super) fn serve_public(
    settings: &Http,
    listener: HttpListener,
    relay: &web::Data<Relay>,
    shutdown_within: Duration,
) -> io::Result<ServerHandle> {
    let connections = Arc::new(Connections::new(&relay.limits, Arc::clone(&relay.metrics)));
    // Of each worker. At this limit no more are accepted; one that is too many is rather closed.
    let accepted_max = 2 * relay.limits.connections_max;
    let relay = relay.clone();
    let server = HttpServer::new(move || {
        rt::spawn(beat(relay.state.add_worker()));
        App::new().app_data(relay.clone()).default_service(web::to(receive))
    })
    .on_connect(move |stream, data| connections.note(stream, data))
    .max_connections(accepted_max)
    // Handshakes at once: of TLS, these are connections that nobody has counted yet.
    .max_connection_rate(accepted_max)
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
    let server = match (listener, &settings.tls) {
        (HttpListener::Tcp(listener), Some(tls)) => server
            .tls_handshake_timeout(settings.head_within)
            .listen_rustls_0_23(listener, tls.server.clone())?,
        (HttpListener::Tcp(listener), None) => server.listen(listener)?,
        (HttpListener::Unix(listener), _) => server.listen_uds(listener)?,
    };
    Ok(start(server.run()))
}

pub(super) fn serve_admin(
    listener: TcpListener,
    relay: &web::Data<Relay>,
) -> io::Result<ServerHandle> {
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
