//! A socket in the file system, for a sidecar: who may use it, and what is already at its path.

use std::{
    fs, io,
    os::unix::{
        fs::{MetadataExt, PermissionsExt},
        net::UnixListener,
    },
    path::PathBuf,
};

use clickpesa_relay::http::WEBHOOKS;

use crate::harness::{Answer, Connection, Process, Setup, eventually, payment, request, signed};

/// A path short enough for a socket, removed with this value.
struct SocketPath(PathBuf);

impl SocketPath {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("relay-{}-{name}", std::process::id())))
    }

    fn setup(&self) -> Setup {
        Setup::new().set("http.listen", &format!("unix:{}", self.0.display()))
    }

    fn post(&self, reference: &str) -> Answer {
        let mut connection = Connection::open_unix(&self.0);
        connection.send(&request("POST", WEBHOOKS, &[], &signed(&payment(reference))));
        connection.answer()
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        fs::remove_file(&self.0).ok();
    }
}

#[test]
fn it_listens_on_a_socket_in_the_file_system() {
    let path = SocketPath::new("listen");
    let mut process = Process::serve_ready(&path.setup());
    assert_eq!(path.post("REF-1").status, 200);
    process.signal("TERM");
    assert_eq!(process.end().code(), Some(0));
    // A second start works, whatever the first left.
    let _process = Process::serve_ready(&path.setup());
    assert_eq!(path.post("REF-2").status, 200);
}

#[test]
fn a_socket_left_by_a_killed_process_is_replaced() {
    let path = SocketPath::new("killed");
    let mut process = Process::serve_ready(&path.setup());
    process.signal("KILL");
    process.end();
    assert!(path.0.exists(), "nobody could tidy up");
    let _process = Process::serve_ready(&path.setup());
    assert_eq!(path.post("REF-1").status, 200);
}

#[test]
fn a_socket_that_somebody_listens_on_is_left_alone() {
    let path = SocketPath::new("taken");
    let listener = UnixListener::bind(&path.0).unwrap();
    let mut process = Process::serve(&path.setup());
    assert_eq!(process.end().code(), Some(1));
    let log = eventually("the reason", || {
        let log = process.lines().join("\n");
        log.contains("http.listen").then_some(log)
    });
    assert!(log.contains("cannot listen on unix:"), "{log}");
    assert!(path.0.exists());
    drop(listener);
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let path = SocketPath::new("file");
    fs::write(&path.0, "precious").unwrap();
    let mut process = Process::serve(&path.setup());
    assert_eq!(process.end().code(), Some(1));
    assert_eq!(io::read_to_string(fs::File::open(&path.0).unwrap()).unwrap(), "precious");
}

#[test]
fn its_mode_is_as_set() {
    let path = SocketPath::new("mode");
    let mode = || fs::metadata(&path.0).unwrap().permissions().mode() & 0o777;
    let process = Process::serve_ready(&path.setup());
    assert_eq!(mode(), 0o660);
    drop(process);
    let _process = Process::serve_ready(&path.setup().set("http.socket_mode", "600"));
    assert_eq!(mode(), 0o600);
}

/// Only root gives files away; anybody else is told that it cannot be done.
#[test]
fn its_owner_is_as_set() {
    let path = SocketPath::new("owner");
    let owner = || fs::metadata(&path.0).map(|file| (file.uid(), file.gid())).unwrap();
    let process = Process::serve_ready(&path.setup());
    let own = owner();
    drop(process);
    let given = path.setup().set("http.socket_owner", "1:1");
    let mut process = Process::serve(&given);
    if own.0 == 0 {
        process.await_line("the log says ready", |line| line["message"] == "ready");
        assert_eq!(owner(), (1, 1));
    } else {
        assert_eq!(process.end().code(), Some(1));
        eventually("the reason", || {
            let log = process.lines().join("\n");
            log.contains("cannot listen on unix:").then_some(())
        });
    }
}
