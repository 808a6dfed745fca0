//! The log: one line an event, on standard error.

use std::{
    fmt::{Debug, Result},
    io::{self, Write},
    mem,
    sync::{Mutex, MutexGuard, OnceLock, mpsc},
    thread::{self, Thread},
    time::Duration,
};

use jiff::Timestamp;
use tracing::{Level, Metadata, Subscriber, field::Field};
use tracing_subscriber::{
    Layer, Registry,
    field::MakeExt,
    fmt::{
        self, MakeWriter,
        format::{self, Writer},
        time::FormatTime,
    },
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
        LogFormat::Text => {
            let fields = format::debug_fn(write_field).delimited(" ");
            lines.with_ansi(false).with_timer(Clock).fmt_fields(fields).boxed()
        }
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    Registry::default().with(layer.with_filter(log.filter.clone()))
}

/// The time as `tracing_subscriber` writes it, for a third of the instructions.
struct Clock;

impl FormatTime for Clock {
    fn format_time(&self, writer: &mut Writer<'_>) -> Result {
        write!(writer, "{:.6}", Timestamp::now())
    }
}

/// Writes a field as `tracing_subscriber` does without colours, whose own way takes nearly twice the
/// instructions, for styles that are off.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> Result {
    match field.name() {
        "message" => write!(writer, "{value:?}"),
        name => write!(writer, "{name}={value:?}"),
    }
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
            add_one_line(&mut waiting.text, line);
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

/// Adds a line whose end is its only control character: what Kafka or a sender says in it makes no
/// other line, and moves no cursor. What is written instead is an escape in JSON too.
fn add_one_line(text: &mut Vec<u8>, line: &[u8]) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    // 0xC2 is what control characters beyond ASCII begin with, and others.
    let may_have_control = |byte: u8| byte < b' ' || byte == 0x7F || byte == 0xC2;
    if line.iter().fold(false, |any, &byte| any | may_have_control(byte)) {
        for character in String::from_utf8_lossy(line).chars() {
            match character.is_control() {
                true => text.extend(format!("\\u{:04x}", u32::from(character)).bytes()),
                false => text.extend(character.encode_utf8(&mut [0; 4]).bytes()),
            }
        }
    } else {
        text.extend_from_slice(line);
    }
    text.push(b'\n');
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
