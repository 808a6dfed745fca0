//! `serve`: the relay itself.

use std::{
    fs,
    future::pending,
    io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::FileTypeExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::ExitCode,
};

use actix_web::rt::{self, System};
use clickpesa_relay::{
    app::{self, HttpListener, Left, Listeners},
    config::{Listen, Log, Settings},
    telemetry,
};
use jiff::Timestamp;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{Failure, settings};

pub(super) fn run(config: Option<&Path>) -> Result<ExitCode, Failure> {
    let settings = settings(config)?;
    start_log(&settings.log)?;
    let listeners = bind(&settings)?;
    let left = serve(settings, listeners, pending())?;
    if left.is_nothing() {
        tracing::info!("stopped");
        return Ok(ExitCode::SUCCESS);
    }
    let Left { requests, records } = left;
    tracing::error!(requests, records, "stopped at the deadline, with work left");
    Ok(ExitCode::FAILURE)
}

pub(super) fn start_log(log: &Log) -> Result<(), Failure> {
    tracing::subscriber::set_global_default(telemetry::subscriber(log))
        .map_err(|error| Failure::failed("cannot start the log", error))
}

/// Runs the relay until a signal, or something else, ends it.
pub(super) fn serve(
    settings: Settings,
    listeners: Listeners,
    something_else: impl Future<Output = ()>,
) -> Result<Left, Failure> {
    System::new()
        .block_on(async {
            let signals = Signals::listen()?;
            let shutdown = async {
                tokio::select! {
                    () = signals.first() => {}
                    () = something_else => {}
                }
            };
            Ok::<_, io::Error>(app::run(settings, listeners, Timestamp::now, shutdown).await)
        })
        .map_err(|error| Failure::failed("cannot listen for signals", error))?
        .map_err(|error| Failure::Failed(error.to_string()))
}

fn bind(settings: &Settings) -> Result<Listeners, Failure> {
    let http = match &settings.http.listen {
        Listen::Tcp(address) => HttpListener::Tcp(bind_tcp("http.listen", address)?.0),
        Listen::Unix(path) => HttpListener::Unix(bind_unix(path)?),
    };
    let (admin, _) = bind_tcp("admin.listen", &settings.admin_listen)?;
    Ok(Listeners { http, admin })
}

/// Opens a port, and says which.
pub(super) fn bind_tcp(key: &str, address: &str) -> Result<(TcpListener, SocketAddr), Failure> {
    let act = format!("cannot listen on {address} (`{key}`)");
    let bound = TcpListener::bind(address)
        .and_then(|listener| listener.local_addr().map(|address| (listener, address)));
    let (listener, address) = bound.map_err(|error| Failure::failed(&act, error))?;
    tracing::info!(%address, "listening: {key}");
    Ok((listener, address))
}

fn bind_unix(path: &Path) -> Result<UnixListener, Failure> {
    // A socket that nobody listens on was left by a process that was killed. A file that is no
    // socket refuses connections as well, and is somebody's.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        fs::remove_file(path)
            .map_err(|error| Failure::failed("cannot remove the old socket", error))?;
    }
    let act = format!("cannot listen on unix:{} (`http.listen`)", path.display());
    let listener = UnixListener::bind(path).map_err(|error| Failure::failed(&act, error))?;
    tracing::info!(path = %path.display(), "listening: http.listen");
    Ok(listener)
}

/// The signals that end the relay.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the first signal; the second ends the process at once.
    async fn first(mut self) {
        self.next().await;
        rt::spawn(async move {
            self.next().await;
            end_now();
        });
    }
}

#[expect(clippy::exit, reason = "whoever signals twice does not want to wait for a drain")]
fn end_now() {
    tracing::error!("ended by a second signal, without finishing what was under way");
    std::process::exit(1);
}
