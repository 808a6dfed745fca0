//! Settings that change while the relay serves: the applications, and with them their keys; the
//! certificate.
//!
//! They are read again when one of their files has changed, and when somebody says so (SIGHUP). The
//! new ones take the place of the old ones as a whole, or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, fs,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use actix_web::web;
use tokio::{sync::mpsc, task::spawn_blocking, time::sleep};

use crate::{
    application::Application,
    config::{InForce, Mistakes, Settings},
    http::{Relay, tls::Certificate},
};

/// How often the files are looked at. Nothing else sees a change on every file system, and behind
/// the links that Kubernetes swaps.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How settings are read again, and when.
pub struct Reload {
    /// Reads them as they are now.
    pub read: Arc<dyn Fn() -> Result<Settings, Mistakes> + Send + Sync>,
    /// Says when.
    pub signals: mpsc::Receiver<()>,
}

impl fmt::Debug for Reload {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Reload")
    }
}

/// What is in force.
pub(super) struct Current {
    /// The files in which it stands.
    pub(super) files: Vec<PathBuf>,
    /// As it was written.
    pub(super) in_force: Vec<InForce>,
    /// The topics that there are.
    pub(super) topics: BTreeSet<String>,
    /// The certificate that new connections are shown.
    pub(super) certificate: Option<Arc<Certificate>>,
}

/// What tells one state of a file from another: its device, number, length, and time of change.
type State = (u64, u64, u64, i64, i64);

/// Reads the settings again whenever that is due, for as long as the relay serves.
pub(super) async fn follow(relay: web::Data<Relay>, mut current: Current, mut reload: Reload) {
    let mut known = states(&current.files);
    // A file that is just being written changes twice: it is read once it has come to rest.
    let mut unsettled = None;
    loop {
        let is_asked = tokio::select! {
            Some(()) = reload.signals.recv() => true,
            () = sleep(LOOK_EVERY) => false,
        };
        let now = states(&current.files);
        let has_settled = now != known && unsettled.as_ref() == Some(&now);
        unsettled = Some(now.clone());
        if !is_asked && !has_settled {
            continue;
        }
        known = now;
        let read = Arc::clone(&reload.read);
        match spawn_blocking(move || read()).await.expect("reading settings does not panic") {
            Ok(settings) => {
                if apply(&relay, &mut current, settings) {
                    known = states(&current.files);
                }
            }
            Err(mistakes) => refuse(&relay, &mistakes.to_string()),
        }
    }
}

fn states(files: &[PathBuf]) -> BTreeMap<PathBuf, Option<State>> {
    let state = |path: &PathBuf| {
        let file = fs::metadata(path).ok()?;
        Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
    };
    files.iter().map(|path| (path.clone(), state(path))).collect()
}

/// Puts the new applications in force; gives whether they are.
fn apply(relay: &Relay, current: &mut Current, settings: Settings) -> bool {
    let topics = settings.applications.values().flat_map(|one| one.topics.with_suffixes());
    let new_topics: BTreeSet<_> =
        topics.map(|(name, _)| name).filter(|name| !current.topics.contains(name)).collect();
    if let Some(topic) = new_topics.first() {
        let count = new_topics.len();
        refuse(relay, &format!("{count} topics are new, such as `{topic}`: that needs a restart"));
        return false;
    }
    for setting in changed(&current.in_force, &settings.in_force) {
        tracing::warn!(setting, "changed in the settings: counts from the next start on");
    }
    if let (Some(certificate), Some(tls)) = (&current.certificate, &settings.http.tls) {
        certificate.replace(&tls.certificate);
    }
    (current.files, current.in_force) = (settings.files, settings.in_force);
    let applications = settings.applications.values();
    let of_one = |one: &'_ Application| {
        let id = |id: &str| (one.name.clone(), id.to_owned());
        one.policy.key_ids().map(id).collect::<Vec<_>>()
    };
    let keys: BTreeSet<_> = applications.flat_map(of_one).collect();
    relay.applications.replace(settings.applications.into_values());
    relay.metrics.forget_keys_but(&keys);
    relay.metrics.settings_reloads.with_label_values(&["applied"]).inc();
    let keys = keys.len();
    tracing::info!(keys, "the applications were read again, and are in force");
    true
}

fn refuse(relay: &Relay, why: &str) {
    relay.metrics.settings_reloads.with_label_values(&["refused"]).inc();
    tracing::error!(
        "the settings were read again and stay as they were: {}",
        why.replace('\n', "; ")
    );
}

/// Settings other than the applications' that are not as they were.
fn changed<'s>(before: &'s [InForce], now: &'s [InForce]) -> BTreeSet<&'s str> {
    let values = |settings: &'s [InForce]| {
        let others = settings.iter().filter(|one| !one.key.starts_with("applications."));
        others.map(|one| (one.key.as_str(), one.value.as_str())).collect::<BTreeSet<_>>()
    };
    let (before, now) = (values(before), values(now));
    before.symmetric_difference(&now).map(|(key, _)| *key).collect()
}
