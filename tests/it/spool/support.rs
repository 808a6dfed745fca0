//! A spool in a directory of its own, in this process or in one that can be killed and traced.

use std::{
    fs,
    future::Future,
    io::{BufRead, BufReader, Lines, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
};

use clickpesa_relay::{
    config::Log,
    metrics::Metrics,
    record::Record,
    spool::{Spool, SpoolError, Spooled},
    telemetry,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tracing_subscriber::filter::Targets;

/// The limit of every spool whose test does not vary it.
pub(crate) const MAX_BYTES: u64 = 64 << 20;

/// The topic of every entry whose test does not vary it.
pub(crate) const TOPIC: &str = "payments";

/// Names the directory of the spool that a driven process is to open.
pub(crate) const DIRECTORY: &str = "RELAY_TEST_SPOOL";

pub(crate) fn open(directory: &Path, max_bytes: u64) -> (Arc<Spool>, Arc<Metrics>) {
    let metrics = Arc::new(Metrics::default());
    (Spool::open(directory, max_bytes, &metrics).unwrap(), metrics)
}

/// Closes a spool, and waits until its thread has let go of the file.
pub(crate) fn close(spool: Arc<Spool>, directory: &Path) {
    drop(spool);
    let lock = fs::File::open(directory.join("lock")).unwrap();
    lock.lock().unwrap();
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    actix_web::rt::System::new().block_on(future)
}

/// The record of a number, which decides all that is in it.
pub(crate) fn record(number: u64) -> Record {
    // From a hundred bytes to six pages.
    let fill = "ab".repeat(50 << (number.wrapping_mul(0x9e37_79b9) >> 7 & 7));
    Record {
        topic: TOPIC.to_owned(),
        timestamp_ms: 1_700_000_000_000 + i64::try_from(number).unwrap(),
        key: format!("key-{}", number % 10),
        headers: vec![("ce_id".into(), format!("event-{number}").into())],
        value: format!(r#"{{"number":{number},"customer":"{fill}"}}"#).into_bytes(),
    }
}

/// The number of a record that is whole.
pub(crate) fn number(record: &Record) -> u64 {
    let id = record.id().expect("it has an id");
    let number = id.strip_prefix("event-").expect("it is one of ours").parse().unwrap();
    assert_eq!(*record, self::record(number), "what is read is not what was written");
    number
}

/// The first entries of a topic, in order, whatever their keys.
pub(crate) fn oldest(spool: &Spool, topic: &str, count: usize) -> Vec<Spooled> {
    let mut entries = Vec::new();
    spool.store().each(|spooled| entries.push(spooled)).unwrap();
    entries.retain(|spooled| spooled.record.topic == topic);
    entries.sort_by_key(|spooled| spooled.sequence);
    entries.truncate(count);
    entries
}

/// The numbers of all that waits, in order.
pub(crate) fn numbers(spool: &Spool) -> Vec<u64> {
    oldest(spool, TOPIC, usize::MAX).iter().map(|spooled| number(&spooled.record)).collect()
}

pub(crate) async fn append(spool: &Arc<Spool>, numbers: impl IntoIterator<Item = u64>) {
    let records = numbers.into_iter().map(record).collect();
    spool.append(records).await.unwrap();
}

/// Another process with a spool, which does as it is told.
#[derive(Debug)]
pub(crate) struct Driven {
    child: Child,
    stdin: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Driven {
    /// Starts a process behind the words of a command, such as `strace`.
    pub(crate) fn start(behind: &[&str], spool: &Path, environment: &[(&str, &Path)]) -> Self {
        let this = std::env::current_exe().unwrap();
        let this = this.to_str().unwrap();
        let driven =
            [this, "--exact", "spool::does_as_it_is_told", "--nocapture", "--test-threads=1"];
        let mut words = behind.iter().copied().chain(driven);
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .env(DIRECTORY, spool)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(log_of(spool)).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", behind.first()));
        let stdin = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, stdin, answers }
    }

    /// Tells it something, and gives the first answer.
    pub(crate) fn ask(&mut self, command: &str) -> String {
        writeln!(self.stdin, "{command}").unwrap();
        self.answer()
    }

    pub(crate) fn answer(&mut self) -> String {
        loop {
            let line = self.answers.next().expect("it answers").unwrap();
            if let Some((_, answer)) = line.split_once('@') {
                return answer.to_owned();
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it without a chance to tidy up.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Lets it end.
    pub(crate) fn end(self) {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        child.wait().unwrap();
    }
}

/// Where a driven process logs.
pub(crate) fn log_of(spool: &Path) -> PathBuf {
    spool.ancestors().skip(1).find(|above| above.is_dir()).unwrap().join("log")
}

/// Does what the lines of standard input say, and answers in lines that begin with `@`.
pub(crate) fn do_as_told(directory: &Path) {
    let log = Log { filter: Targets::new().with_default(tracing::Level::INFO), ..Log::default() };
    tracing::subscriber::set_global_default(telemetry::subscriber(&log)).unwrap();
    let metrics = Arc::new(Metrics::default());
    let spool = match Spool::open(directory, MAX_BYTES, &metrics) {
        Ok(spool) => spool,
        Err(error) => return println!("\n@{error}"),
    };
    println!("\n@open");
    block_on(async {
        for line in std::io::stdin().lines() {
            let line = line.unwrap();
            let mut words = line.split(' ');
            let act = words.next().unwrap();
            let numbers: Vec<u64> = words.map(|word| word.parse().unwrap()).collect();
            match act {
                "append" => {
                    let all = numbers.iter().map(|number| {
                        let appended = spool.append([record(*number)].into());
                        async move { (number, appended.await) }
                    });
                    let mut all: FuturesUnordered<_> = all.collect();
                    while let Some((number, appended)) = all.next().await {
                        match appended {
                            Ok(()) => println!("@ok {number}"),
                            Err(SpoolError::Full) => println!("@full {number}"),
                            Err(SpoolError::Unwritable) => println!("@unwritable {number}"),
                            Err(SpoolError::Damaged) => println!("@damaged {number}"),
                        }
                    }
                }
                "remove" => {
                    let count = usize::try_from(numbers[0]).unwrap();
                    let first = oldest(&spool, TOPIC, count);
                    for spooled in &first {
                        println!("@removing {}", number(&spooled.record));
                    }
                    println!("@removed {}", spool.store().remove(&first).await);
                }
                "room" => println!("@{}", spool.store().has_room()),
                "fill" => {
                    let mut filler = fs::File::create(directory.join("filler")).unwrap();
                    while filler.write_all(&[7; 512]).is_ok() {}
                    println!("@filled");
                }
                "clear" => {
                    fs::remove_file(directory.join("filler")).unwrap();
                    println!("@cleared");
                }
                "read" => println!("@{:?}", self::numbers(&spool)),
                _ => panic!("what is `{act}`"),
            }
        }
    });
    close(spool, directory);
}
