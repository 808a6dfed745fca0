//! What is seen to while the relay serves: the topics, the producer, whether Kafka is there.

use std::{sync::Arc, time::Duration};

use actix_web::web;
use tokio::{runtime::Handle, task::spawn_blocking, time::sleep};

use crate::{
    http::Relay,
    kafka::topics::{Finding, TopicAdmin, TopicState, Topics, TopicsError},
};

/// How often Kafka is asked whether it is there if nothing else shows it, and how long it has to
/// answer; how often a cluster that was not reached is tried again.
const PROBE_EVERY: Duration = Duration::from_secs(2);

/// How often Kafka is asked while a topic is down, and the producer is looked at.
const TEND_EVERY: Duration = Duration::from_millis(250);

/// Sees to the topics, then to the producer, and asks Kafka whether it is there whenever nothing
/// else shows it.
///
/// Ends only with an error that no later try can mend.
pub(super) async fn watch_kafka(
    relay: &web::Data<Relay>,
    admin: &Arc<TopicAdmin>,
    topics: &Topics,
    stuck_after: Duration,
) -> TopicsError {
    loop {
        if relay.state.has_topics() {
            let relay = relay.clone();
            let tend = move || tend_producer(&relay, stuck_after);
            spawn_blocking(tend).await.expect("tending the producer does not panic");
            sleep(TEND_EVERY).await;
            continue;
        }
        match prepare_topics(relay, admin, topics).await {
            Ok(()) => {}
            Err(error) if error.is_transient() => {
                tracing::error!("{error}; trying again");
                sleep(PROBE_EVERY).await;
            }
            Err(error) => return error,
        }
    }
}

/// Replaces a producer that is stuck, and asks Kafka whether it is there unless that is known;
/// blocks meanwhile.
fn tend_producer(relay: &Relay, stuck_after: Duration) {
    let publisher = &relay.delivery.publisher;
    if publisher.is_stuck(stuck_after) {
        tracing::error!("the producer makes no progress and is replaced");
        if let Err(error) = publisher.replace() {
            tracing::error!("{error}");
        }
    }
    let health = publisher.health();
    let down = health.topics().filter(|(_, is_up)| !is_up);
    let mut topics: Vec<_> = down.map(|(topic, _)| topic).collect();
    if topics.is_empty() && !health.is_fresh(PROBE_EVERY) {
        topics.extend(health.topics().map(|(topic, _)| topic).next());
    }
    // Where one gets no answer, none does.
    topics.into_iter().all(|topic| publisher.probe(topic, PROBE_EVERY));
}

async fn prepare_topics(
    relay: &web::Data<Relay>,
    admin: &Arc<TopicAdmin>,
    topics: &Topics,
) -> Result<(), TopicsError> {
    let (topics, admin, runtime) = (topics.clone(), Arc::clone(admin), Handle::current());
    let prepare = move || runtime.block_on(admin.prepare(&topics));
    let states = spawn_blocking(prepare).await.expect("looking at topics does not panic")?;
    for TopicState { name, partitions, finding } in states {
        match finding {
            Finding::Created => tracing::info!(topic = name, partitions, "topic created"),
            Finding::Exists | Finding::Missing => {
                tracing::debug!(topic = name, partitions, ?finding, "topic");
            }
        }
    }
    relay.delivery.publisher.health().note_answer();
    relay.state.note_topics();
    tracing::info!("ready");
    Ok(())
}
