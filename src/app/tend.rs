//! What is seen to while the relay serves: the topics, the producer, whether Kafka is there.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::web;
use tokio::{
    runtime::Handle,
    task::{JoinHandle, spawn_blocking},
    time::sleep,
};

use crate::{
    http::Relay,
    kafka::{
        Properties,
        topics::{Finding, TopicAdmin, TopicState, Topics, TopicsError},
    },
    spool::{Salvage, Spool},
};

/// How often Kafka is asked whether it is there if nothing else shows it, and how long it has to
/// answer; how often a cluster that was not reached is tried again.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// How long a cluster may say what is not so, once it answers: that a topic is missing, or that
/// there are too few brokers for its replicas.
const SETTLES_WITHIN: Duration = Duration::from_secs(10);

/// How often Kafka is asked while a topic is down, and the producer is looked at.
const TEND_EVERY: Duration = Duration::from_millis(250);

/// Sees to the topics, then to the producer, and asks Kafka whether it is there whenever nothing
/// else shows it.
///
/// Ends only with an error that no later try can mend.
pub(super) async fn watch_kafka(
    relay: &web::Data<Relay>,
    properties: Properties,
    topics: Topics,
    stuck_after: Duration,
) -> TopicsError {
    if let Err(error) = see_to_topics(properties, topics).await {
        return error;
    }
    relay.delivery.publisher.health().note_answer();
    relay.state.note_topics();
    tracing::info!("ready");
    let mut probing = None;
    loop {
        let tended = relay.clone();
        let tend = move || replace_stuck(&tended, stuck_after);
        if spawn_blocking(tend).await.expect("replacing the producer does not panic") {
            // Of the old producer; it may wait for what does not come.
            probing = None;
        }
        if let Some(ended) = probing.take_if(|probing: &mut JoinHandle<_>| probing.is_finished()) {
            ended.await.expect("probing does not panic");
        }
        probing.get_or_insert_with(|| {
            let relay = relay.clone();
            spawn_blocking(move || probe(&relay))
        });
        sleep(TEND_EVERY).await;
    }
}

/// Gets back what can be read out of damaged files that were set aside, now and later.
pub(super) async fn get_back(spool: Arc<Spool>) {
    loop {
        while let Some(file) = spool.take_aside() {
            let (spool, runtime) = (Arc::clone(&spool), Handle::current());
            let salvage = move || (runtime.block_on(spool.salvage(&file)), file);
            let (salvaged, file) = spawn_blocking(salvage).await.expect("reading does not panic");
            let file = file.display();
            match salvaged {
                Ok(Salvage { appended, unreadable, .. }) => tracing::warn!(
                    appended,
                    unreadable,
                    "what can be read out of {file} is in the spool again; the file is kept"
                ),
                Err(error) => tracing::error!(
                    %error,
                    "nothing more is got back out of {file}; try `clickpesa-relay spool recover`"
                ),
            }
        }
        sleep(TEND_EVERY).await;
    }
}

/// Tries until the topics are there, with a new client each time: an old one may have forgotten the
/// brokers, as a producer does.
async fn see_to_topics(properties: Properties, topics: Topics) -> Result<(), TopicsError> {
    let shared = Arc::new((properties, topics));
    let mut answers_since = Instant::now();
    loop {
        let (shared, runtime) = (Arc::clone(&shared), Handle::current());
        let prepare = move || {
            let (properties, topics) = &*shared;
            runtime.block_on(TopicAdmin::new(properties)?.prepare(topics))
        };
        match spawn_blocking(prepare).await.expect("looking at topics does not panic") {
            Ok(states) => {
                states.iter().for_each(tell);
                return Ok(());
            }
            Err(error) => {
                if error.is_transient() {
                    answers_since = Instant::now();
                } else if answers_since.elapsed() > SETTLES_WITHIN {
                    return Err(error);
                }
                tracing::error!("{error}; trying again");
                sleep(PROBE_EVERY).await;
            }
        }
    }
}

fn tell(TopicState { name, partitions, finding }: &TopicState) {
    match finding {
        Finding::Created => tracing::info!(topic = name, partitions, "topic created"),
        Finding::Exists | Finding::Missing => {
            tracing::debug!(topic = name, partitions, ?finding, "topic");
        }
    }
}

/// Replaces a producer that is stuck; gives whether it was.
fn replace_stuck(relay: &Relay, stuck_after: Duration) -> bool {
    let publisher = &relay.delivery.publisher;
    let is_stuck = publisher.is_stuck(stuck_after);
    if is_stuck {
        tracing::error!("the producer makes no progress and is replaced");
        if let Err(error) = publisher.replace() {
            tracing::error!("{error}");
        }
    }
    is_stuck
}

/// Asks Kafka whether it is there unless that is known; blocks meanwhile.
fn probe(relay: &Relay) {
    let publisher = &relay.delivery.publisher;
    let health = publisher.health();
    let down = health.topics().filter(|(_, is_up)| !is_up);
    let mut topics: Vec<_> = down.map(|(topic, _)| topic).collect();
    if topics.is_empty() && !health.is_fresh(PROBE_EVERY) {
        topics.extend(health.topics().map(|(topic, _)| topic).next());
    }
    // Where one gets no answer, none does.
    topics.into_iter().all(|topic| publisher.probe(topic, PROBE_EVERY));
}
