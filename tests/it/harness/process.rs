//! The relay as a process.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{PATIENCE, Samples, Setup, ask, request};

/// The binary, that is killed with this value.
pub(crate) struct Process {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts `serve`.
    pub(crate) fn serve(setup: &Setup) -> Self {
        Self::start(setup, &[])
    }

    /// Starts `serve` with arguments.
    pub(crate) fn start(setup: &Setup, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_clickpesa-relay"));
        command.arg("serve").args(arguments);
        Self::launch(setup, command)
    }

    /// Starts `serve` where no more than so many files can be open.
    pub(crate) fn serve_with_files(setup: &Setup, files: u32) -> Self {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", &format!("ulimit -n {files}; exec \"$0\" serve")]);
        command.arg(env!("CARGO_BIN_EXE_clickpesa-relay"));
        Self::launch(setup, command)
    }

    fn launch(setup: &Setup, mut command: Command) -> Self {
        let mut child = command
            .env_clear()
            .envs(setup.environment())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        let (shared, stderr) = (Arc::clone(&lines), child.stderr.take().unwrap());
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                shared.lock().unwrap().push(line);
            }
        });
        Self { child, lines }
    }

    /// Starts `serve` and waits until it is ready.
    pub(crate) fn serve_ready(setup: &Setup) -> Self {
        let process = Self::serve(setup);
        process.await_line("the log says ready", |line| line["message"] == "ready");
        process
    }

    /// Reads no line of the log for as long as the guard lives.
    pub(crate) fn read_nothing(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap()
    }

    /// Everything that was logged until now.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    /// Waits for a line of the log.
    #[track_caller]
    pub(crate) fn await_line(&self, awaited: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let started = Instant::now();
        loop {
            let lines = self.lines();
            let found = lines
                .iter()
                .filter_map(|line| serde_json::from_str(line).ok())
                .find(|line: &Value| is_it(line));
            match found {
                Some(line) => return line,
                None => assert!(started.elapsed() < PATIENCE, "{awaited}: {lines:#?}"),
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for a line of the log, whatever its format, that has this text in it.
    #[track_caller]
    pub(crate) fn await_text(&self, text: &str) -> String {
        let started = Instant::now();
        loop {
            let lines = self.lines();
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            assert!(started.elapsed() < PATIENCE, "{text}: {lines:#?}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The port that it says it listens on.
    #[track_caller]
    pub(crate) fn address(&self, key: &str) -> SocketAddr {
        let line = self.await_text(&format!("listening: {key}"));
        let (_, address) = line.split_once("address").unwrap();
        let is_part = |c: char| c.is_ascii_digit() || ".:".contains(c);
        address.split(|c| !is_part(c)).find_map(|part| part.parse().ok()).unwrap()
    }

    /// One of the admin pages.
    #[track_caller]
    pub(crate) fn page(&self, path: &str) -> String {
        ask(self.address("admin.listen"), &request("GET", path, &[], b"")).body
    }

    pub(crate) fn samples(&self) -> Samples {
        Samples::read(&self.page("/metrics"))
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The time that it has had a core, in user and in system mode.
    pub(crate) fn cpu_time(&self) -> Duration {
        let status = fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        // The second field is a name in brackets, which may have blanks in it.
        let (_, fields) = status.rsplit_once(") ").unwrap();
        let ticks = fields.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().unwrap());
        // Linux gives hundredths of a second on all that the relay runs on.
        Duration::from_millis(ticks.sum::<u64>() * 10)
    }

    /// Sends a signal, by its name without `SIG`.
    pub(crate) fn signal(&self, name: &str) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Waits until it has ended by itself.
    #[track_caller]
    pub(crate) fn end(&mut self) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(started.elapsed() < PATIENCE, "it does not end: {:#?}", self.lines());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // By its own id, and harmless where it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
