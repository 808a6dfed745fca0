//! Runs the binary, and whatever else a person would type, with a deadline on everything.

use std::{
    io::{self, BufRead, BufReader, Write},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take: far more than it needs, on a machine with other work.
const WITHIN: Duration = Duration::from_secs(60);

/// The binary.
pub(super) const RELAY: &str = env!("CARGO_BIN_EXE_clickpesa-relay");

/// A variable of the test run.
#[expect(clippy::disallowed_methods, reason = "what the run of the tests says is no setting")]
pub(super) fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| {
        panic!("{name}: run scripts/test, or source the env file of scripts/kafka start")
    })
}

/// A command whose environment is empty but for PATH.
pub(super) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", variable("PATH"));
    command
}

/// The relay with these arguments.
pub(super) fn relay(arguments: &[&str]) -> Command {
    let mut command = command(RELAY);
    command.args(arguments);
    command
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Option<i32>,
    pub(super) out: String,
    pub(super) err: String,
}

/// Runs a command to its end.
pub(super) fn run(command: &mut Command, input: &[u8]) -> Ended {
    let mut running = Running::start(command);
    running.write(input);
    running.end()
}

/// Runs the relay to its end, and asserts its exit code.
#[track_caller]
pub(super) fn relay_ends(code: i32, arguments: &[&str], input: &str) -> Ended {
    let ended = run(&mut relay(arguments), input.as_bytes());
    assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:#?}");
    ended
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stream {
    Out,
    Err,
}

/// A command that runs; killed if it is dropped before its end.
pub(super) struct Running {
    child: Child,
    lines: Receiver<(Stream, String)>,
    out: String,
    err: String,
}

impl Running {
    pub(super) fn start(command: &mut Command) -> Self {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("the program is there");
        let (to, lines) = mpsc::channel();
        let out = child.stdout.take().expect("it is piped");
        let err = child.stderr.take().expect("it is piped");
        let err_to = to.clone();
        thread::spawn(move || read_lines(out, |line| to.send((Stream::Out, line)).is_ok()));
        thread::spawn(move || read_lines(err, |line| err_to.send((Stream::Err, line)).is_ok()));
        Self { child, lines, out: String::new(), err: String::new() }
    }

    /// Writes all of the command's input.
    pub(super) fn write(&mut self, input: &[u8]) {
        let mut stdin = self.child.stdin.take().expect("it is written once");
        match stdin.write_all(input) {
            // Some commands end without reading it.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            written => written.expect("a pipe can be written to"),
        }
    }

    /// Waits for a line.
    #[track_caller]
    pub(super) fn until(&mut self, stream: Stream, is_wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + WITHIN;
        while let Some((from, line)) = self.next_line(deadline) {
            if from == stream && is_wanted(&line) {
                return line;
            }
        }
        panic!("it ended without the line: {}\n{}", self.out, self.err);
    }

    /// Waits for the end of both outputs and of the command.
    pub(super) fn end(mut self) -> Ended {
        let deadline = Instant::now() + WITHIN;
        while self.next_line(deadline).is_some() {}
        let code = self.child.wait().expect("it was started").code();
        Ended { code, out: self.out.clone(), err: self.err.clone() }
    }

    pub(super) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let status = command("kill").args([&format!("-{name}"), &id]).status();
        assert!(status.as_ref().is_ok_and(ExitStatus::success), "{status:?}");
    }

    fn next_line(&mut self, deadline: Instant) -> Option<(Stream, String)> {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok((stream, line)) => {
                let all = if stream == Stream::Out { &mut self.out } else { &mut self.err };
                all.push_str(&line);
                Some((stream, line))
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                panic!("it took too long:\n{}\n{}", self.out, self.err)
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Passes on every line with its end, for as long as somebody listens.
fn read_lines(stream: impl io::Read, send: impl Fn(String) -> bool) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
        if !send(String::from_utf8_lossy(&line).into_owned()) {
            return;
        }
        line.clear();
    }
}
