//! What was acknowledged lately, and what is under way: so that a twin is not sent again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::watch;

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
    UnderWay(watch::Receiver<Option<Arc<[Published]>>>),
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
    tell: watch::Sender<Option<Arc<[Published]>>>,
}

/// The wait for the first of twins.
#[derive(Debug)]
pub struct Twin(watch::Receiver<Option<Arc<[Published]>>>);

impl Recent {
    /// A window of that many acknowledged webhooks.
    pub fn new(acknowledged_max: usize) -> Self {
        Self { window: Mutex::default(), acknowledged_max }
    }

    /// Looks a webhook up, and claims it if it is new.
    pub fn enter(&self, digest: Digest) -> Seen<'_> {
        let mut window = self.lock();
        match window.webhooks.get(&digest) {
            Some(Webhook::UnderWay(twin)) => Seen::UnderWay(Twin(twin.clone())),
            Some(Webhook::Acknowledged(published)) => Seen::Acknowledged(Arc::clone(published)),
            None => {
                let (tell, twin) = watch::channel(None);
                window.webhooks.insert(digest, Webhook::UnderWay(twin));
                Seen::First(Claim { recent: self, digest, is_settled: false, tell })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().expect("looking up does not panic")
    }
}

impl Claim<'_> {
    /// Kafka has it.
    pub fn acknowledge(mut self, published: Arc<[Published]>) {
        self.is_settled = true;
        let mut window = self.recent.lock();
        window.webhooks.insert(self.digest, Webhook::Acknowledged(Arc::clone(&published)));
        window.order.push_back(self.digest);
        if window.order.len() > self.recent.acknowledged_max {
            let oldest = window.order.pop_front().expect("it has just grown");
            window.webhooks.remove(&oldest);
        }
        drop(window);
        self.tell.send_replace(Some(published));
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
    pub async fn wait(mut self) -> Option<Arc<[Published]>> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}
