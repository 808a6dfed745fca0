//! The thread that writes: what waits together is committed together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, params};
use tokio::sync::{Notify, oneshot};

use super::{Entry, SpoolError, file::SpoolFile, held::Held};
use crate::metrics::Metrics;

/// Acts in one commit: enough that a sync is cheap for each, few enough that none waits long.
const COMMIT_MAX: usize = 1024;

/// Bytes of entries in one commit, so that the write-ahead log stays about as long as it is.
const COMMIT_BYTES_MAX: usize = 1 << 20;

/// How soon it is tried again what failed, if nobody asks before.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the thread is asked for.
#[derive(Debug)]
pub(super) enum Act {
    /// Write entries, and say when they are durable.
    Append { entries: Vec<Entry>, done: oneshot::Sender<Result<(), SpoolError>> },
    /// Delete the entries of these sequences, and say whether none is left that should be deleted.
    Remove { sequences: Vec<i64>, done: oneshot::Sender<bool> },
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    acts: mpsc::Sender<Act>,
    is_well: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn start(
        file: Arc<SpoolFile>,
        held: Arc<Held>,
        committed: Arc<Notify>,
        metrics: Arc<Metrics>,
    ) -> rusqlite::Result<Self> {
        let (sender, acts) = mpsc::channel();
        let connection = Some(file.connect()?);
        let is_well = Arc::new(AtomicBool::new(true));
        let mut thread = WriterThread {
            connection,
            unremoved: Vec::new(),
            trouble: None,
            is_well: Arc::clone(&is_well),
            file,
            held,
            committed,
            metrics,
        };
        thread::spawn(move || {
            // So that what cannot be written is known before the first event comes.
            thread.carry_out(Vec::new());
            while let Ok(next) = thread.gather(&acts) {
                thread.carry_out(next);
            }
        });
        Ok(Self { acts: sender, is_well })
    }

    /// Whether the last commit went well.
    pub(super) fn is_well(&self) -> bool {
        self.is_well.load(Ordering::Relaxed)
    }

    pub(super) fn send(&self, act: Act) {
        // A thread that is gone drops the act, and its end of `done` with it.
        self.acts.send(act).ok();
    }
}

impl Act {
    fn bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => {
                entries.iter().map(|entry| entry.record.value.len()).sum()
            }
            Self::Remove { .. } => 0,
        }
    }
}

/// Entries to write, and who waits for that.
type Append = (Vec<Entry>, oneshot::Sender<Result<(), SpoolError>>);

struct WriterThread {
    /// None after an error, until it can be opened anew: what SQLite believed of the failed
    /// commit goes with the connection.
    connection: Option<Connection>,
    /// Entries that are published and still in the file.
    unremoved: Vec<i64>,
    /// What was wrong at the last commit.
    trouble: Option<String>,
    is_well: Arc<AtomicBool>,
    file: Arc<SpoolFile>,
    held: Arc<Held>,
    committed: Arc<Notify>,
    metrics: Arc<Metrics>,
}

impl WriterThread {
    /// Waits for acts, and gives those of one commit; none when it is time to try again.
    fn gather(&self, acts: &mpsc::Receiver<Act>) -> Result<Vec<Act>, RecvTimeoutError> {
        let first = if self.trouble.is_none() && self.unremoved.is_empty() {
            acts.recv()?
        } else {
            match acts.recv_timeout(RETRY_AFTER) {
                Err(RecvTimeoutError::Timeout) => return Ok(Vec::new()),
                received => received?,
            }
        };
        let mut bytes = first.bytes();
        let mut gathered = vec![first];
        while gathered.len() < COMMIT_MAX && bytes < COMMIT_BYTES_MAX {
            let Ok(next) = acts.try_recv() else { break };
            bytes += next.bytes();
            gathered.push(next);
        }
        Ok(gathered)
    }

    fn carry_out(&mut self, acts: Vec<Act>) {
        let (mut appends, mut removals) = (Vec::<Append>::new(), Vec::new());
        for act in acts {
            match act {
                Act::Append { entries, done } => appends.push((entries, done)),
                Act::Remove { sequences, done } => {
                    self.unremoved.extend(sequences);
                    removals.push(done);
                }
            }
        }
        let written = self.commit(&appends).map_err(|error| self.explain(&error));
        if written.is_ok() && self.file.has_room() && self.trouble.take().is_some() {
            tracing::info!("the spool can be written again");
        }
        if written.is_err() && !appends.is_empty() && !self.unremoved.is_empty() {
            // What is to go must not wait for room for what is to come.
            if let Err(error) = self.commit(&[]) {
                self.explain(&error);
            }
        }
        self.is_well.store(written.is_ok(), Ordering::Relaxed);
        // Whoever waited may have gone at its deadline.
        for done in removals {
            done.send(self.unremoved.is_empty()).ok();
        }
        for (entries, done) in appends {
            if written.is_err() {
                entries.iter().for_each(|entry| self.held.remove(&entry.topic, &entry.record.key));
            }
            done.send(written).ok();
        }
        self.committed.notify_waiters();
    }

    /// Writes and deletes in one transaction, durable when this returns `Ok`.
    fn commit(&mut self, appends: &[Append]) -> rusqlite::Result<()> {
        let timer = self.metrics.spool_commit_seconds.start_timer();
        let connection = match &mut self.connection {
            Some(connection) => connection,
            closed => closed.insert(self.file.connect()?),
        };
        let transaction = connection.transaction()?;
        let mut insert = transaction.prepare(
            "INSERT INTO event (topic, timestamp_ms, key, headers, value)
             VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for Entry { topic, timestamp_ms, record } in appends.iter().flat_map(|(entries, _)| entries)
        {
            let headers = serde_json::to_string(&record.headers).expect("texts always serialise");
            insert.execute(params![topic, timestamp_ms, record.key, headers, record.value])?;
        }
        let mut delete = transaction.prepare("DELETE FROM event WHERE sequence = ?1")?;
        for sequence in &self.unremoved {
            delete.execute([sequence])?;
        }
        drop((insert, delete));
        if appends.is_empty() && self.unremoved.is_empty() {
            // Only something that is written shows that something can be.
            transaction.pragma_update(None, "user_version", 0)?;
        }
        transaction.commit()?;
        self.unremoved.clear();
        timer.observe_duration();
        self.file.note_use(connection, &self.metrics);
        Ok(())
    }

    /// Says what is wrong, and what that means for whoever waits.
    fn explain(&mut self, error: &rusqlite::Error) -> SpoolError {
        self.metrics.spool_errors.inc();
        let is_full = error.sqlite_error_code() == Some(ErrorCode::DiskFull);
        let (outcome, trouble) = if is_full && !self.file.has_room() {
            (SpoolError::Full, SpoolError::Full.to_string())
        } else {
            self.connection = None;
            (SpoolError::Unwritable, error.to_string())
        };
        // Every commit would say so, and there are hundreds a second.
        if self.trouble.as_ref() != Some(&trouble) {
            tracing::error!(error = trouble, "cannot write the spool; what comes is answered 503");
            self.trouble = Some(trouble);
        }
        outcome
    }
}
