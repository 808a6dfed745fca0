//! The log: one line an event, on standard error.

use std::{
    io::{self, Write},
    sync::{LazyLock, Mutex, MutexGuard},
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

/// How long a line waits for others, so that many are written at once. Errors do not wait.
const LINES_WAIT: Duration = Duration::from_millis(10);

/// Bytes of lines that wait, before they are written at once.
const BYTES_MAX: usize = 64 * 1024;

/// Of the process, as standard error is.
static LINES: LazyLock<Lines> = LazyLock::new(Lines::start);

/// What takes the log; whoever owns the process makes it the global one, and flushes it at the end.
pub fn subscriber(log: &Log) -> impl Subscriber + Send + Sync {
    let lines = fmt::layer().with_writer(ToLines);
    let layer = match log.format {
        LogFormat::Text => lines.with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    Registry::default().with(layer.with_filter(log.filter.clone()))
}

/// Writes the lines that wait.
pub fn flush() {
    LINES.write_out(LINES.waiting());
}

/// Lines that wait to be written, and the thread that writes them.
struct Lines {
    waiting: Mutex<Vec<u8>>,
    writer: Thread,
}

impl Lines {
    fn start() -> Self {
        let writer = thread::Builder::new().name("log".to_owned()).spawn(|| {
            loop {
                thread::park();
                thread::sleep(LINES_WAIT);
                flush();
            }
        });
        let writer = writer.expect("a thread can be started").thread().clone();
        Self { waiting: Mutex::default(), writer }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<u8>> {
        self.waiting.lock().expect("writing does not panic")
    }

    /// Under the lock, so that lines keep their order.
    fn write_out(&self, mut waiting: MutexGuard<'_, Vec<u8>>) {
        // Nobody can be told where standard error is gone.
        io::stderr().write_all(&waiting).ok();
        waiting.clear();
    }
}

/// Gives each line the writer for its level.
struct ToLines;

/// Writes a line; one that is urgent at once.
struct Line {
    is_urgent: bool,
}

impl<'a> MakeWriter<'a> for ToLines {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { is_urgent: true }
    }

    fn make_writer_for(&'a self, metadata: &Metadata<'_>) -> Line {
        Line { is_urgent: *metadata.level() == Level::ERROR }
    }
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut waiting = LINES.waiting();
        if waiting.is_empty() && !self.is_urgent {
            LINES.writer.unpark();
        }
        waiting.extend_from_slice(line);
        if self.is_urgent || waiting.len() > BYTES_MAX {
            LINES.write_out(waiting);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
