//! The log: one line an event, on standard error.

use std::{
    io::{self, Write},
    mem,
    sync::{Mutex, MutexGuard, OnceLock, mpsc},
    thread::{self, Thread},
    time::Duration,
};

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{
    Layer, Registry,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
};

use crate::config::{Log, LogFormat};

/// How long a line waits for others, so that many are written at once.
const LINES_WAIT: Duration = Duration::from_millis(10);

/// Bytes of lines that wait at most: what comes while nobody reads standard error is lost, and the
/// relay goes on.
const BYTES_MAX: usize = 1024 * 1024;

/// How long the end of the process waits for somebody to read the last lines.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// Of the process, as standard error is; there once it has a log.
static LINES: OnceLock<Lines> = OnceLock::new();

/// What takes the log; whoever owns the process makes it the global one, and flushes it at the end.
pub fn subscriber(log: &Log) -> impl Subscriber + Send + Sync {
    let lines = fmt::layer().with_writer(ToLines(LINES.get_or_init(Lines::start)));
    let layer = match log.format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    Registry::default().with(layer.with_filter(log.filter.clone()))
}

/// Writes the lines that wait, if there are any and somebody reads them.
pub fn flush() {
    let Some(lines) = LINES.get() else { return };
    let (done, written) = mpsc::channel();
    thread::spawn(move || {
        lines.write_out();
        // Nobody waits any longer where it took too long.
        done.send(()).ok();
    });
    written.recv_timeout(FLUSH_WITHIN).ok();
}

/// Lines that wait to be written, and the thread that writes them.
struct Lines {
    waiting: Mutex<Waiting>,
    /// Whoever has it writes, so that lines keep their order.
    writing: Mutex<()>,
    writer: Thread,
}

#[derive(Default)]
struct Waiting {
    text: Vec<u8>,
    lost: usize,
}

impl Lines {
    fn start() -> Self {
        let writer = thread::Builder::new().name("log".to_owned()).spawn(|| {
            let lines = LINES.wait();
            loop {
                thread::park();
                thread::sleep(LINES_WAIT);
                lines.write_out();
            }
        });
        let writer = writer.expect("a thread can be started").thread().clone();
        Self { waiting: Mutex::default(), writing: Mutex::default(), writer }
    }

    fn add(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock().expect("adding does not panic");
        if waiting.text.is_empty() {
            self.writer.unpark();
        }
        if waiting.text.len() + line.len() > BYTES_MAX {
            waiting.lost += 1;
        } else {
            waiting.text.extend_from_slice(line);
        }
    }

    fn write_out(&self) {
        self.write_as(&self.writing.lock().expect("writing does not panic"));
    }

    /// Writes while others add: somebody may read slowly, or not at all.
    fn write_as(&self, _writing: &MutexGuard<'_, ()>) {
        let Waiting { text, lost } =
            mem::take(&mut *self.waiting.lock().expect("adding does not panic"));
        // Nobody can be told where standard error is gone.
        io::stderr().write_all(&text).ok();
        if lost > 0 {
            tracing::warn!(lost, "lines of the log were lost: standard error is read too slowly");
        }
    }
}

/// Gives each line the writer for its level.
struct ToLines(&'static Lines);

/// Writes a line; an error at once, unless others are being written, as a crash may follow.
struct Line {
    lines: &'static Lines,
    is_error: bool,
}

impl<'a> MakeWriter<'a> for ToLines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { lines: self.0, is_error: true }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { lines: self.0, is_error: *metadata.level() == Level::ERROR }
    }
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.lines.add(line);
        if self.is_error
            && let Ok(writing) = self.lines.writing.try_lock()
        {
            self.lines.write_as(&writing);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
