//! Whom webhooks are for: what each application asks of them, may take up, and where its events go.

pub mod networks;

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock, atomic::AtomicUsize},
};

use self::networks::Networks;
use crate::{kafka::topics::TopicNames, webhook::checksum::Policy};

/// Whom webhooks are for.
#[derive(Debug)]
pub struct Application {
    /// Its name in the path and in metrics.
    pub name: String,
    /// The CloudEvents `source` of its events.
    pub source: String,
    /// What a webhook has to prove.
    pub policy: Policy,
    /// From where.
    pub networks: Networks,
    /// Where its events go.
    pub topics: TopicNames,
    /// Requests of it that may be under way, however much room there is.
    pub in_flight_max: usize,
    /// Requests of it that are under way; the same through all changes of its settings.
    pub in_flight: Arc<AtomicUsize>,
}

/// The applications in force.
#[derive(Debug)]
pub struct Applications(RwLock<Table>);

type Table = BTreeMap<String, Arc<Application>>;

impl Applications {
    /// These applications, by their names.
    pub fn new(applications: impl IntoIterator<Item = Application>) -> Self {
        let by_name = |application: Application| (application.name.clone(), Arc::new(application));
        Self(RwLock::new(applications.into_iter().map(by_name).collect()))
    }

    /// The application of a name; it stays as it is for whoever has it.
    pub fn get(&self, name: &str) -> Option<Arc<Application>> {
        self.table().get(name).cloned()
    }

    /// Puts others in their place; requests that are under way go on with what they have.
    pub fn replace(&self, applications: impl IntoIterator<Item = Application>) {
        let mut table = self.0.write().expect("replacing does not panic");
        let with_count = |mut application: Application| {
            if let Some(before) = table.get(&application.name) {
                application.in_flight = Arc::clone(&before.in_flight);
            }
            (application.name.clone(), Arc::new(application))
        };
        *table = applications.into_iter().map(with_count).collect();
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.table().len()
    }

    fn table(&self) -> std::sync::RwLockReadGuard<'_, Table> {
        self.0.read().expect("looking up does not panic")
    }
}
