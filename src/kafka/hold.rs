//! Records that are held back under load, so that a request to a broker carries many.
//!
//! librdkafka sends what it has as soon as it can, so that most of its work, and of the broker's,
//! is requests of a few records. Its own `linger.ms` would mend that, and make a lone sender wait.

use std::{
    fmt, mem,
    sync::{Arc, Mutex, MutexGuard},
    thread::{self, Thread},
    time::{Duration, Instant},
};

/// How long it is until a look whether what was held back can go (`scripts/bench`).
const LOOK_EVERY: Duration = Duration::from_millis(1);

/// How long something is held back at most, however busy the producer is: what it waits for may be
/// a partition that is gone.
const HOLD_MAX: Duration = Duration::from_millis(5);

/// Holds back what comes while the producer is busy, and lets it go in the order in which it came.
pub struct Hold<T> {
    shared: Arc<Shared<T>>,
    thread: Thread,
}

struct Shared<T> {
    held: Mutex<Held<T>>,
    is_busy: Box<dyn Fn() -> bool + Send + Sync>,
}

struct Held<T> {
    items: Vec<T>,
    /// What comes goes behind the others, also while these are let go.
    is_holding: bool,
    is_over: bool,
}

impl<T: Send + 'static> Hold<T> {
    /// Holds back while it `is_busy`, and lets go to `send`, on a thread of its own.
    pub fn start(
        is_busy: impl Fn() -> bool + Send + Sync + 'static,
        send: impl Fn(T) + Send + 'static,
    ) -> Self {
        let held = Held { items: Vec::new(), is_holding: false, is_over: false };
        let shared = Arc::new(Shared { held: Mutex::new(held), is_busy: Box::new(is_busy) });
        let of_thread = Arc::clone(&shared);
        let thread = thread::Builder::new().name("hold".to_owned());
        let thread = thread.spawn(move || of_thread.let_go(send));
        let thread = thread.expect("a thread can be started").thread().clone();
        Self { shared, thread }
    }

    /// Holds an item back, or returns it: then it is to be sent now.
    pub fn take(&self, item: T) -> Option<T> {
        let mut held = self.shared.held();
        if !held.is_holding {
            if !(self.shared.is_busy)() {
                return Some(item);
            }
            held.is_holding = true;
            self.thread.unpark();
        }
        held.items.push(item);
        None
    }
}

impl<T> Shared<T> {
    fn held(&self) -> MutexGuard<'_, Held<T>> {
        self.held.lock().expect("adding does not panic")
    }

    fn let_go(&self, send: impl Fn(T)) {
        loop {
            let mut held = self.held();
            let items = mem::take(&mut held.items);
            held.is_holding = !items.is_empty();
            let is_over = held.is_over;
            drop(held);
            if items.is_empty() {
                if is_over {
                    return;
                }
                thread::park();
            } else {
                items.into_iter().for_each(&send);
            }
            let began = Instant::now();
            thread::sleep(LOOK_EVERY);
            while (self.is_busy)() && began.elapsed() < HOLD_MAX {
                thread::sleep(LOOK_EVERY);
            }
        }
    }
}

/// What is held is let go, and the thread ends.
impl<T> Drop for Hold<T> {
    fn drop(&mut self) {
        self.shared.held().is_over = true;
        self.thread.unpark();
    }
}

impl<T> fmt::Debug for Hold<T> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hold").finish_non_exhaustive()
    }
}
