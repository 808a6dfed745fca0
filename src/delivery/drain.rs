//! From the spool to Kafka: in order of each key, many in flight, deleted after the acknowledgement.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use tokio::{sync::watch, task::spawn_blocking, time::sleep};

use crate::{
    kafka::{
        publisher::Publisher,
        report::{PublishError, Receipt},
    },
    metrics::Metrics,
    spool::{Busy, Spool, Spooled, Store},
};

/// Entries under way at once. They go in bursts, and after each the drain rests as long as it took:
/// a burst makes few requests of many records, and live records meet none half of the time
/// (`scripts/measure-spool`).
const IN_FLIGHT_MAX: usize = 128;

/// A burst is over when no more than these are left of it, so that one late report does not keep
/// the next from beginning.
const LEFT_OF_BURST_MAX: usize = IN_FLIGHT_MAX / 8;

/// How long an entry counts as one of these: one that waits longer does not keep others waiting,
/// whose partition may well be there.
const IN_FLIGHT_LASTS: Duration = Duration::from_secs(1);

/// Entries under way in all, those that wait longer among them.
const UNDER_WAY_MAX: usize = 1024;

/// Entries that are read at once.
const READ_AT_ONCE: usize = IN_FLIGHT_MAX;

/// How long the drain rests after a refusal. The end of an outage is found by the record that is
/// under way; this bounds how often one that is refused at once is tried.
const REST: Duration = Duration::from_millis(200);

/// Entries under way at once that were refused before. Their partition may be gone: one of them
/// that is acknowledged says that it is there again.
const AGAIN_MAX: usize = 8;

/// How long a key rests whose event is too large for the topic: until somebody raises its limit.
const REST_OF_TOO_LARGE: Duration = Duration::from_secs(10);

/// The drain of a topic.
#[derive(Debug)]
pub struct Drain {
    /// The topic.
    pub topic: String,
    /// From where.
    pub spool: Arc<Spool>,
    /// To where.
    pub publisher: Arc<Publisher>,
    /// What time it is.
    pub clock: fn() -> Timestamp,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// What became of an entry that was under way.
struct Reported {
    store: Arc<Store>,
    spooled: Spooled,
    /// Whether it was refused before.
    is_again: bool,
    receipt: Result<Receipt, PublishError>,
}

/// What a drain has begun.
struct Work {
    /// Entries that were read and are not under way: of each key the oldest, of one store.
    ready: VecDeque<Spooled>,
    store: Arc<Store>,
    reports: FuturesUnordered<LocalBoxFuture<'static, Reported>>,
    /// Keys that an entry of is under way, since then. Only one of each: of two, the first could
    /// fail and the second not.
    under_way: HashMap<String, Instant>,
    /// Keys that rest, until then.
    resting: HashMap<String, Instant>,
    /// Keys, and the sequences of their oldest entries, that were refused and are not under way.
    refused: VecDeque<(String, i64)>,
    /// How many are under way that were refused before.
    again: usize,
    /// When the burst began that is not over.
    burst_began: Option<Instant>,
    /// Nothing is begun until then.
    rests_until: Instant,
    /// Counts how often a topic was tried that is down: each time with another key.
    trials: usize,
}

impl Work {
    fn in_flight(&self) -> usize {
        let began = self.under_way.values();
        began.filter(|began| began.elapsed() < IN_FLIGHT_LASTS).count()
    }

    /// Keys whose entries are not to be read.
    fn busy(&self) -> Busy {
        let ready = self.ready.iter().map(|spooled| &spooled.record.key);
        let refused = self.refused.iter().map(|(key, _)| key);
        Busy {
            resting: self.resting.keys().chain(refused).cloned().collect(),
            under_way: self.under_way.keys().chain(ready).cloned().collect(),
        }
    }
}

impl Drain {
    /// Publishes what the spool holds for the topic, until the other end of `stop` is dropped:
    /// then what is under way is finished, so that none is left that Kafka has and the file too.
    pub async fn run(self, mut stop: watch::Receiver<()>) {
        let mut work = Work {
            ready: VecDeque::new(),
            store: self.spool.store(),
            reports: FuturesUnordered::new(),
            under_way: HashMap::new(),
            resting: HashMap::new(),
            refused: VecDeque::new(),
            again: 0,
            burst_began: None,
            rests_until: Instant::now(),
            trials: 0,
        };
        loop {
            let changed = self.spool.changed();
            self.begin(&mut work).await;
            let waits = self.spool.store().count(&self.topic) > 0;
            let rest = work.rests_until.checked_duration_since(Instant::now()).unwrap_or(REST);
            tokio::select! {
                _ = stop.changed() => break,
                Some(reported) = work.reports.next() => {
                    let _removed = self.finish(&mut work, reported);
                }
                () = changed => {}
                // Something may have stopped to rest, or to count as in flight.
                () = sleep(rest), if waits => {}
            }
        }
        while let Some(reported) = work.reports.next().await {
            self.finish(&mut work, reported).await;
        }
    }

    /// Hands over what may be under way now.
    async fn begin(&self, work: &mut Work) {
        let room = self.room(work);
        if room > work.ready.len() || !Arc::ptr_eq(&work.store, &self.spool.store()) {
            self.read(work).await;
        }
        if room > 0 && !self.publisher.health().is_up(&self.topic) {
            return self.try_one(work).await;
        }
        let size = room.min(work.ready.len());
        // Few do not keep live records waiting: a key alone goes on at once.
        if size > IN_FLIGHT_MAX / 2 {
            work.burst_began = Some(Instant::now());
        }
        for spooled in work.ready.drain(..size).collect::<Vec<_>>() {
            self.hand_over(work, spooled, false);
        }
        while room > 0 && work.again < AGAIN_MAX && self.try_again(work).await {}
    }

    fn hand_over(&self, work: &mut Work, mut spooled: Spooled, is_again: bool) {
        // Kafka takes no record of the future, which is what one is if the clock was put back.
        let now = (self.clock)().as_millisecond();
        spooled.record.timestamp_ms = spooled.record.timestamp_ms.min(now);
        work.under_way.insert(spooled.record.key.clone(), Instant::now());
        work.again += usize::from(is_again);
        let report = self.publisher.send(&spooled.record);
        let store = Arc::clone(&work.store);
        let reported =
            async move { Reported { store, spooled, is_again, receipt: report.wait().await } };
        work.reports.push(reported.boxed_local());
    }

    /// Tries a topic that is down with one entry: each time of another key, an old one and a new one
    /// in turns. The partition of many old ones may be gone, and all others be there.
    async fn try_one(&self, work: &mut Work) {
        let turn = work.trials;
        work.trials += 1;
        let newest = match turn % 2 {
            0 => None,
            _ => self.read_newest(work).await,
        };
        match newest.or_else(|| work.ready.remove(turn % work.ready.len().max(1))) {
            Some(spooled) => self.hand_over(work, spooled, false),
            None => drop(self.try_again(work).await),
        }
    }

    /// Hands over the entry that was refused longest ago; gives whether there is one.
    async fn try_again(&self, work: &mut Work) -> bool {
        let Some((_key, sequence)) = work.refused.pop_front() else { return false };
        let reading = Arc::clone(&work.store);
        match blocking(move || reading.read_one(sequence)).await {
            Ok(entry) => entry.into_iter().for_each(|spooled| self.hand_over(work, spooled, true)),
            Err(error) => tracing::error!(%error, "cannot read the spool"),
        }
        true
    }

    async fn read_newest(&self, work: &Work) -> Option<Spooled> {
        let Busy { mut resting, under_way } = work.busy();
        resting.extend(under_way);
        let (reading, topic) = (Arc::clone(&work.store), self.topic.clone());
        let newest = blocking(move || reading.read_newest(&topic, &resting)).await;
        newest.inspect_err(|error| tracing::error!(%error, "cannot read the spool")).ok()?
    }

    /// How many more entries may be under way.
    fn room(&self, work: &Work) -> usize {
        if Instant::now() < work.rests_until {
            return 0;
        }
        let in_flight = work.in_flight();
        let left = UNDER_WAY_MAX.saturating_sub(work.under_way.len());
        match self.publisher.health().is_up(&self.topic) {
            true if in_flight <= LEFT_OF_BURST_MAX => left.min(IN_FLIGHT_MAX - in_flight),
            // One alone finds out when the topic is up.
            false if in_flight == 0 => left.min(1),
            true | false => 0,
        }
    }

    /// Makes the oldest entries of the topic ready, one of each key that is free.
    async fn read(&self, work: &mut Work) {
        let store = self.spool.store();
        if !Arc::ptr_eq(&work.store, &store) {
            work.ready.clear();
            work.refused.clear();
            work.store = Arc::clone(&store);
        }
        if store.count(&self.topic) == 0 {
            return;
        }
        let now = Instant::now();
        work.resting.retain(|_, until| now < *until);
        let but = work.busy();
        let (reading, topic) = (Arc::clone(&store), self.topic.clone());
        match blocking(move || reading.read(&topic, &but, READ_AT_ONCE)).await {
            Ok(entries) => work.ready.extend(entries),
            Err(error) => {
                tracing::error!(%error, "cannot read the spool");
                if !store.is_damaged() || self.spool.replace(store).await.is_err() {
                    work.rests_until = Instant::now() + REST;
                }
            }
        }
    }

    /// Notes what was reported, of this entry and of all others that have their reports; what
    /// comes of it tells whether the file is without them.
    fn finish(&self, work: &mut Work, first: Reported) -> impl Future<Output = bool> + use<> {
        let from = Arc::clone(&first.store);
        let (mut published, mut refused) = (Vec::new(), None);
        let mut next = Some(first);
        while let Some(Reported { store, spooled, is_again, receipt }) = next {
            let key = &spooled.record.key;
            work.under_way.remove(key);
            work.again -= usize::from(is_again);
            if is_again && receipt.is_ok() {
                work.refused.clear();
            }
            match receipt {
                Ok(_) if Arc::ptr_eq(&store, &from) => published.push(spooled),
                // Of two stores, one was replaced: nothing comes of it.
                Ok(_) => drop(store.remove(&[spooled])),
                Err(PublishError::TooLarge) => self.note_too_large(work, &spooled),
                Err(error) => {
                    refused = Some(error);
                    work.rests_until = Instant::now() + REST;
                    if Arc::ptr_eq(&store, &work.store) {
                        work.refused.push_back((key.clone(), spooled.sequence));
                    }
                }
            }
            next = work.reports.next().now_or_never().flatten();
        }
        if let Some(error) = refused {
            tracing::warn!(topic = self.topic, %error, "events wait in the spool");
        }
        if work.in_flight() <= LEFT_OF_BURST_MAX
            && let Some(began) = work.burst_began.take()
        {
            work.rests_until = work.rests_until.max(Instant::now() + began.elapsed().min(REST));
        }
        from.remove(&published)
    }

    /// The topic's limit was lowered since it was spooled: it waits, and so does its key.
    fn note_too_large(&self, work: &mut Work, spooled: &Spooled) {
        let (topic, id) = (&self.topic, spooled.record.id());
        tracing::error!(topic, id, "an event in the spool is too large: raise `max.message.bytes`");
        self.metrics.spool_too_large.inc();
        let until = Instant::now() + REST_OF_TOO_LARGE;
        work.resting.insert(spooled.record.key.clone(), until);
    }
}

/// Reads where it keeps nobody waiting.
async fn blocking<T: Send + 'static>(read: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(read).await.expect("reading does not panic")
}
