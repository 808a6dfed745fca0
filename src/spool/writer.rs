//! The thread that writes: what waits together is committed together.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{Notify, oneshot};

use super::{
    SpoolError, damage::abandon, file::SpoolFile, held::Held, row::insert, store::Unremoved,
};
use crate::{metrics::Metrics, record::Record};

/// Acts in one commit: enough that a sync is cheap for each, few enough that none waits long.
const COMMIT_MAX: usize = 1024;

/// Bytes of values in one commit, so that the write-ahead log stays about as long as it is.
const COMMIT_BYTES_MAX: usize = 1 << 20;

/// How long entries that are published may stay in the file for want of company: each commit is a
/// sync, and a crash meanwhile only repeats them.
const REMOVE_WITHIN: Duration = Duration::from_millis(20);

/// How soon it is tried again what failed, if nobody asks before.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What the thread is asked for.
#[derive(Debug)]
pub(super) enum Act {
    /// Write records, and say when they are durable.
    Append { records: Arc<[Record]>, done: oneshot::Sender<Result<(), SpoolError>> },
    /// Delete what is to be removed, and say whether nothing of it is left.
    Remove { done: oneshot::Sender<bool> },
    /// End the thread.
    End,
}

/// The way to the thread.
#[derive(Debug)]
pub(super) struct Writer {
    acts: mpsc::Sender<Act>,
    is_well: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    pub(super) fn start(
        file: &Arc<SpoolFile>,
        held: &Arc<Held>,
        unremoved: &Arc<Unremoved>,
        changed: &Arc<Notify>,
        metrics: &Arc<Metrics>,
    ) -> rusqlite::Result<Self> {
        let (sender, acts) = mpsc::channel();
        let connection = Some(file.connect()?);
        let is_well = Arc::new(AtomicBool::new(true));
        let mut thread = WriterThread {
            connection,
            trouble: None,
            is_well: Arc::clone(&is_well),
            file: Arc::clone(file),
            held: Arc::clone(held),
            unremoved: Arc::clone(unremoved),
            changed: Arc::clone(changed),
            metrics: Arc::clone(metrics),
        };
        let thread = thread::spawn(move || {
            // So that what cannot be written is known before the first event comes.
            thread.carry_out(Vec::new());
            while let Some(next) = thread.gather(&acts) {
                thread.carry_out(next);
            }
            thread.connection.into_iter().for_each(abandon);
        });
        Ok(Self { acts: sender, is_well, thread: Mutex::new(Some(thread)) })
    }

    /// Ends the thread, and waits for that; what it was asked for and has not done is refused.
    pub(super) fn end(&self) {
        self.send(Act::End);
        if let Some(thread) = self.thread.lock().expect("ending does not panic").take() {
            thread.join().expect("the thread that writes does not panic");
        }
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
    fn is_remove(&self) -> bool {
        matches!(self, Self::Remove { .. })
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Append { records, .. } => records.iter().map(|record| record.value.len()).sum(),
            Self::Remove { .. } | Self::End => 0,
        }
    }
}

/// Records to write, and who waits for that.
type Append = (Arc<[Record]>, oneshot::Sender<Result<(), SpoolError>>);

struct WriterThread {
    /// None after an error, until it can be opened anew: what SQLite believed of the failed
    /// commit goes with the connection.
    connection: Option<Connection>,
    /// What was wrong at the last commit.
    trouble: Option<String>,
    is_well: Arc<AtomicBool>,
    file: Arc<SpoolFile>,
    held: Arc<Held>,
    unremoved: Arc<Unremoved>,
    changed: Arc<Notify>,
    metrics: Arc<Metrics>,
}

impl WriterThread {
    /// Waits for acts, and gives those of one commit: an empty one when it is time to try again,
    /// none when it is time to end.
    fn gather(&self, acts: &mpsc::Receiver<Act>) -> Option<Vec<Act>> {
        if self.file.damage().is_some() {
            return None;
        }
        let first = if self.trouble.is_none() && self.unremoved.lock().is_empty() {
            acts.recv().ok()?
        } else {
            match acts.recv_timeout(RETRY_AFTER) {
                Err(RecvTimeoutError::Timeout) => return Some(Vec::new()),
                received => received.ok()?,
            }
        };
        let remove_at = Instant::now() + REMOVE_WITHIN;
        let mut bytes = first.bytes();
        let mut gathered = vec![first];
        let mut only_removes = gathered.iter().all(Act::is_remove);
        while gathered.len() < COMMIT_MAX && bytes < COMMIT_BYTES_MAX {
            let next = match only_removes {
                true => acts.recv_timeout(remove_at.saturating_duration_since(Instant::now())).ok(),
                false => acts.try_recv().ok(),
            };
            let Some(next) = next else { break };
            bytes += next.bytes();
            only_removes &= next.is_remove();
            gathered.push(next);
        }
        let ends = gathered.iter().any(|act| matches!(act, Act::End));
        (!ends).then_some(gathered)
    }

    fn carry_out(&mut self, acts: Vec<Act>) {
        let (mut appends, mut removals) = (Vec::<Append>::new(), Vec::new());
        for act in acts {
            match act {
                Act::Append { records, done } => appends.push((records, done)),
                Act::Remove { done } => removals.push(done),
                Act::End => {}
            }
        }
        let written = self.commit(&appends).map_err(|error| self.explain(&error));
        if written.is_ok() && self.file.has_room() && self.trouble.take().is_some() {
            tracing::info!("the spool can be written again");
        }
        if written.is_err() && !appends.is_empty() && !self.unremoved.lock().is_empty() {
            // What is to go must not wait for room for what is to come.
            if let Err(error) = self.commit(&[]) {
                self.explain(&error);
            }
        }
        self.is_well.store(written.is_ok(), Ordering::Relaxed);
        // Whoever waited may have gone at its deadline.
        for done in removals {
            done.send(self.unremoved.lock().is_empty()).ok();
        }
        for (records, done) in appends {
            if written.is_err() {
                records.iter().for_each(|record| self.held.remove(&record.topic, &record.key));
            }
            done.send(written).ok();
        }
        self.changed.notify_waiters();
    }

    /// Writes and deletes in one transaction, durable when this returns `Ok`.
    fn commit(&mut self, appends: &[Append]) -> rusqlite::Result<()> {
        let timer = self.metrics.spool_commit_seconds.start_timer();
        let connection = match &mut self.connection {
            Some(connection) => connection,
            closed => closed.insert(self.file.connect()?),
        };
        let transaction = connection.transaction()?;
        for record in appends.iter().flat_map(|(records, _)| &**records) {
            insert(&transaction, record)?;
        }
        let unremoved = self.unremoved.lock().clone();
        let mut delete = transaction.prepare("DELETE FROM event WHERE sequence = ?1")?;
        for sequence in &unremoved {
            delete.execute([sequence])?;
        }
        drop(delete);
        if appends.is_empty() && unremoved.is_empty() {
            // Only something that is written shows that something can be.
            transaction.pragma_update(None, "user_version", 0)?;
        }
        transaction.commit()?;
        self.file.check()?;
        self.unremoved.lock().retain(|sequence| !unremoved.contains(sequence));
        timer.observe_duration();
        // What is written is written, whether its size can be read or not.
        self.file.note_use(connection, &self.metrics).ok();
        Ok(())
    }

    /// Says what is wrong, and what that means for whoever waits.
    fn explain(&mut self, error: &rusqlite::Error) -> SpoolError {
        self.metrics.spool_errors.inc();
        if self.file.note_damage(error) {
            // What is to be done is done by whoever puts another file in its place.
            return SpoolError::Damaged;
        }
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
