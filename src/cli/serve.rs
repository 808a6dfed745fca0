//! `serve`: the relay itself.

use std::{
    fs::{self, Permissions},
    future::pending,
    io,
    net::{SocketAddr, TcpListener},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt, chown},
        net::{UnixListener, UnixStream},
    },
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use actix_web::rt::{self, System};
use clickpesa_relay::{
    app::{self, HttpListener, Left, Listeners, Reload},
    config::{Listen, Log, Settings, SocketAccess, Written},
    telemetry,
};
use jiff::Timestamp;
use nix::sys::{
    resource::{Resource, getrlimit, setrlimit},
    stat::{Mode, umask},
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use super::{Failure, settings};

/// Files that may be open beside connections: to brokers, of the spool, of event loops.
const FILES_BESIDE: u64 = 256;

pub(super) fn run(config: Option<&Path>) -> Result<ExitCode, Failure> {
    let mut settings = settings(config)?;
    start_log(&settings.log)?;
    fit_connections(&mut settings.http.limits.connections_max);
    let listeners = bind(&settings)?;
    let config = config.map(Path::to_owned);
    System::new().block_on(async {
        let read = move || Written::read(config.as_deref(), None)?.understand();
        let reload = Reload { read: Arc::new(read), signals: hangups()? };
        let left = serve(settings, listeners, Some(reload), pending()).await?;
        if left.is_nothing() {
            tracing::info!("stopped");
            leave(0);
        }
        let Left { requests, records } = left;
        tracing::error!(requests, records, "stopped at the deadline, with work left");
        leave(1);
    })
}

#[expect(clippy::exit, reason = "the runtime would wait for calls that block, of no use any more")]
fn leave(code: i32) -> ! {
    telemetry::flush();
    std::process::exit(code)
}

pub(super) fn start_log(log: &Log) -> Result<(), Failure> {
    tracing::subscriber::set_global_default(telemetry::subscriber(log))
        .map_err(|error| Failure::failed("cannot start the log", error))
}

/// Runs the relay until a signal, or something else, ends it; to be run in an actix system.
pub(super) async fn serve(
    settings: Settings,
    listeners: Listeners,
    reload: Option<Reload>,
    something_else: impl Future<Output = ()>,
) -> Result<Left, Failure> {
    let signals =
        Signals::listen().map_err(|error| Failure::failed("cannot listen for signals", error))?;
    let shutdown = async {
        tokio::select! {
            () = signals.first() => {}
            () = something_else => {}
        }
    };
    let ended = app::run(settings, listeners, Timestamp::now, reload, shutdown).await;
    ended.map_err(|error| Failure::Failed(error.to_string()))
}

/// Raises the limit of open files as far as it goes. Where that is too little, connections are
/// fewer than set: without files of its own the relay could neither publish nor spool.
fn fit_connections(connections_max: &mut usize) {
    let wanted = *connections_max as u64 + FILES_BESIDE;
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let limit = soft.max(wanted.min(hard));
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).map(|()| limit)
    });
    let limit = match raised {
        Ok(limit) => limit,
        Err(error) => return tracing::warn!(%error, "cannot raise the limit of open files"),
    };
    if limit < wanted {
        let left = limit.saturating_sub(FILES_BESIDE).max(limit / 2);
        *connections_max = usize::try_from(left).unwrap_or(usize::MAX);
        tracing::warn!(
            limit,
            wanted,
            connections_max,
            "the limit of open files is too low for `http.connections_max`, which is lowered: \
             raise `ulimit -n`"
        );
    }
}

fn bind(settings: &Settings) -> Result<Listeners, Failure> {
    let http = match &settings.http.listen {
        Listen::Tcp(address) => HttpListener::Tcp(bind_tcp("http.listen", address)?.0),
        Listen::Unix(path) => HttpListener::Unix(bind_unix(path, settings.http.socket)?),
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

fn bind_unix(path: &Path, access: SocketAccess) -> Result<UnixListener, Failure> {
    // A socket that nobody listens on was left by a process that was killed. A file that is no
    // socket refuses connections as well, and is somebody's.
    let is_socket = fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket());
    let refused = |error: io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
    if is_socket && UnixStream::connect(path).is_err_and(refused) {
        fs::remove_file(path)
            .map_err(|error| Failure::failed("cannot remove the old socket", error))?;
    }
    let act = format!("cannot listen on unix:{} (`http.listen`)", path.display());
    // Nobody else may connect before it has its owner.
    let before = umask(Mode::from_bits_truncate(0o177));
    let bound = UnixListener::bind(path);
    umask(before);
    let SocketAccess { mode, owner, group } = access;
    let listener = bound
        .and_then(|listener| chown(path, owner, group).map(|()| listener))
        .and_then(|listener| {
            fs::set_permissions(path, Permissions::from_mode(mode)).map(|()| listener)
        })
        .map_err(|error| Failure::failed(&act, error))?;
    tracing::info!(path = %path.display(), "listening: http.listen");
    Ok(listener)
}

/// Tells of every SIGHUP from now on.
fn hangups() -> Result<mpsc::Receiver<()>, Failure> {
    let mut hangup = signal(SignalKind::hangup())
        .map_err(|error| Failure::failed("cannot listen for signals", error))?;
    let (tell, hangups) = mpsc::channel(1);
    rt::spawn(async move {
        while hangup.recv().await.is_some() {
            // One that is not yet attended to stands for this one too.
            tell.try_send(()).ok();
        }
    });
    Ok(hangups)
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
            tracing::error!("ended by a second signal, without finishing what was under way");
            leave(1);
        });
    }
}
