//! What was acknowledged lately, and what is under way: so that a twin is not sent again.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::oneshot;

use super::Published;

/// What tells one webhook from another: a hash of its application and its content.
pub type Digest = [u8; 32];

/// A bounded window of webhooks.
#[derive(Debug)]
pub struct Recent {
    window: Mutex<Window>,
    acknowledged_max: usize,
}

#[derive(Debug, Default)]
struct Window {
    webhooks: HashMap<Digest, Webhook>,
    /// The acknowledged ones, the oldest first.
    order: VecDeque<Digest>,
}

#[derive(Debug)]
enum Webhook {
    /// With the twins that wait for it.
    UnderWay(Vec<oneshot::Sender<Arc<[Published]>>>),
    Acknowledged(Arc<[Published]>),
}

/// What a webhook is to the window.
#[derive(Debug)]
pub enum Seen<'r> {
    /// New: to be delivered, and the result told.
    First(Claim<'r>),
    /// A twin of one that is under way.
    UnderWay(Twin),
    /// Kafka has it.
    Acknowledged(Arc<[Published]>),
}

/// The duty to deliver a webhook. Dropped without an acknowledgement, it lets the next twin try.
#[derive(Debug)]
pub struct Claim<'r> {
    recent: &'r Recent,
    digest: Digest,
    is_settled: bool,
}

/// The wait for the first of twins.
#[derive(Debug)]
pub struct Twin(oneshot::Receiver<Arc<[Published]>>);

impl Recent {
    /// A window of that many acknowledged webhooks.
    pub fn new(acknowledged_max: usize) -> Self {
        Self { window: Mutex::default(), acknowledged_max }
    }

    /// Looks a webhook up, and claims it if it is new.
    pub fn enter(&self, digest: Digest) -> Seen<'_> {
        match self.lock().webhooks.entry(digest) {
            Entry::Occupied(mut seen) => match seen.get_mut() {
                Webhook::UnderWay(twins) => {
                    let (tell, told) = oneshot::channel();
                    twins.push(tell);
                    Seen::UnderWay(Twin(told))
                }
                Webhook::Acknowledged(published) => Seen::Acknowledged(Arc::clone(published)),
            },
            Entry::Vacant(new) => {
                new.insert(Webhook::UnderWay(Vec::new()));
                Seen::First(Claim { recent: self, digest, is_settled: false })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().expect("looking up does not panic")
    }
}

impl Claim<'_> {
    /// Kafka has it.
    pub fn acknowledge(mut self, published: &Arc<[Published]>) {
        self.is_settled = true;
        let mut window = self.recent.lock();
        let acknowledged = Webhook::Acknowledged(Arc::clone(published));
        let under_way = window.webhooks.insert(self.digest, acknowledged);
        window.order.push_back(self.digest);
        if window.order.len() > self.recent.acknowledged_max {
            let oldest = window.order.pop_front().expect("it has just grown");
            window.webhooks.remove(&oldest);
        }
        drop(window);
        let Some(Webhook::UnderWay(twins)) = under_way else { return };
        for twin in twins {
            // Some wait no longer.
            twin.send(Arc::clone(published)).ok();
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.recent.lock().webhooks.remove(&self.digest);
        }
    }
}

impl Twin {
    /// Waits for the first: what it published, or nothing if it failed.
    pub async fn wait(self) -> Option<Arc<[Published]>> {
        self.0.await.ok()
    }
}
