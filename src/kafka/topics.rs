//! The topics: their names, and whether they are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    error::{KafkaError, RDKafkaErrorCode},
};
use tokio::time::sleep;

use super::{ClientError, Properties, client_config, metadata};
use crate::event::kind::Kind;

/// How long a broker may take for one request about topics.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the brokers are asked about a topic that was made a moment ago.
const SETTLES_POLL: Duration = Duration::from_millis(20);

/// Where events go.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicNames {
    /// The name of each kind's topic, in the order of [`Kind::ALL`].
    pub of_kinds: [Arc<str>; Kind::ALL.len()],
    /// The topic that gets every event as well.
    pub all: Option<String>,
}

/// Which topics there have to be, and how a missing one is made.
#[derive(Debug, Clone)]
pub struct Topics {
    /// Where events go of applications that do not say otherwise.
    pub names: TopicNames,
    /// Where copies of webhooks go that were rejected, if they go anywhere.
    pub rejected: Option<String>,
    /// Every topic, and the suffix that stands for what it is for.
    pub wanted: BTreeMap<String, &'static str>,
    /// Whether a missing topic is created.
    pub create: bool,
    /// Partitions of a created topic.
    pub partitions: i32,
    /// Replicas of a created topic; -1 leaves it to the broker.
    pub replication_factor: i32,
    /// Retention of a created topic, by the suffix; the broker's own where none is given.
    pub retention: BTreeMap<&'static str, Duration>,
}

/// A topic as it was found or made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicState {
    /// Its name.
    pub name: String,
    /// Its partitions, 0 where it is missing.
    pub partitions: usize,
    /// What was found or done.
    pub finding: Finding,
}

impl TopicState {
    fn is_missing(&self) -> bool {
        self.finding == Finding::Missing
    }
}

/// What was found or done about a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It was there.
    Exists,
    /// It was made.
    Created,
    /// It is not there.
    Missing,
}

/// Why the topics are not as they have to be.
#[derive(Debug, thiserror::Error)]
pub enum TopicsError {
    /// librdkafka does not take the properties.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// No broker answered; a later try may work.
    #[error("cannot reach Kafka to look at topic `{topic}`: {cause}")]
    Unreachable {
        /// The topic asked for.
        topic: String,
        /// What librdkafka says.
        cause: KafkaError,
    },
    /// The broker does not let us see the topic.
    #[error(
        "cannot look at topic `{topic}`: {code}; allow this user to DESCRIBE and WRITE the topic"
    )]
    Forbidden {
        /// The topic.
        topic: String,
        /// The broker's answer.
        code: RDKafkaErrorCode,
    },
    /// The topic is not there, and creation is off.
    #[error(
        "topic `{topic}` does not exist and `kafka.topics.create` is off; \
         create it, or run `clickpesa-relay topics create`"
    )]
    Missing {
        /// The topic.
        topic: String,
    },
    /// The broker did not create the topic.
    #[error(
        "cannot create topic `{topic}`: {code}; \
         create it yourself and set `kafka.topics.create = false`, or mend `kafka.topics`"
    )]
    Create {
        /// The topic.
        topic: String,
        /// The broker's answer.
        code: RDKafkaErrorCode,
    },
}

impl TopicsError {
    /// Whether a later try may work with nothing changed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

impl Topics {
    /// Where the events of an application go whose topics' names begin with a prefix of its own,
    /// or with none: "".
    pub fn names_for(&self, prefix: &str) -> TopicNames {
        match prefix {
            "" => self.names.clone(),
            prefix => TopicNames::with_prefix(prefix, self.names.all.is_some()),
        }
    }

    /// Wants the topics of all applications, and that of what was rejected.
    pub fn want<'n>(&mut self, names: impl IntoIterator<Item = &'n TopicNames>) {
        let of_applications = names.into_iter().flat_map(TopicNames::with_suffixes);
        let rejected = self.rejected.clone().map(|name| (name, REJECTED));
        self.wanted = of_applications.chain(rejected).collect();
    }
}

impl TopicNames {
    /// Names that begin with a prefix.
    pub fn with_prefix(prefix: &str, has_all: bool) -> Self {
        Self {
            of_kinds: Kind::ALL.map(|kind| format!("{prefix}{}", kind.suffix()).into()),
            all: has_all.then(|| format!("{prefix}{ALL}")),
        }
    }

    /// The name of a kind's topic.
    pub fn name(&self, kind: Kind) -> &str {
        &self.of_kinds[kind as usize]
    }

    /// Every name, and the suffix that stands for what it is for.
    pub fn with_suffixes(&self) -> impl Iterator<Item = (String, &'static str)> {
        let kinds = Kind::ALL.map(|kind| (self.name(kind).to_owned(), kind.suffix()));
        kinds.into_iter().chain(self.all.clone().map(|name| (name, ALL)))
    }
}

/// The suffix of the topic that gets every event.
pub const ALL: &str = "all";

/// The suffix of the topic of what was rejected.
pub const REJECTED: &str = "rejected";

/// Asks a cluster about topics, and makes them.
pub struct TopicAdmin(AdminClient<DefaultClientContext>);

impl TopicAdmin {
    /// A client with these properties on top of the relay's own.
    ///
    /// # Errors
    /// When librdkafka does not take the properties.
    pub fn new(properties: &Properties) -> Result<Self, ClientError> {
        client_config(properties).create().map(Self).map_err(ClientError)
    }

    /// Looks at every topic, and makes what is missing where that is allowed.
    ///
    /// # Errors
    /// At the first topic that is not there in the end.
    pub async fn prepare(&self, topics: &Topics) -> Result<Vec<TopicState>, TopicsError> {
        let mut states = self.look(topics)?;
        if topics.create && states.iter().any(TopicState::is_missing) {
            let created = self.create_missing(topics, &states).await?;
            states = self.look_until_settled(topics).await?;
            for state in states.iter_mut().filter(|state| created.contains(&state.name)) {
                state.finding = Finding::Created;
            }
        }
        match states.iter().find(|state| state.is_missing()) {
            Some(state) => Err(TopicsError::Missing { topic: state.name.clone() }),
            None => Ok(states),
        }
    }

    /// Looks at every topic until the brokers agree on those that were made a moment ago.
    async fn look_until_settled(&self, topics: &Topics) -> Result<Vec<TopicState>, TopicsError> {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let states = self.look(topics);
            let is_settled = match &states {
                Ok(states) => !states.iter().any(TopicState::is_missing),
                Err(error) => !error.is_transient(),
            };
            if is_settled || Instant::now() > deadline {
                return states;
            }
            sleep(SETTLES_POLL).await;
        }
    }

    /// Looks at every topic; blocks for the time of the requests.
    ///
    /// # Errors
    /// When the cluster does not answer, or does not let us look.
    pub fn look(&self, topics: &Topics) -> Result<Vec<TopicState>, TopicsError> {
        topics.wanted.keys().map(|name| self.look_at(name)).collect()
    }

    fn look_at(&self, name: &str) -> Result<TopicState, TopicsError> {
        let topic = name.to_owned();
        let metadata = metadata(self.0.inner(), name, REQUEST_TIMEOUT)
            .map_err(|cause| TopicsError::Unreachable { topic: topic.clone(), cause })?;
        let found = metadata.topics().iter().find(|found| found.name() == name);
        let state = |partitions, finding| TopicState { name: topic.clone(), partitions, finding };
        match found.map(|found| (found, found.error().map(RDKafkaErrorCode::from))) {
            Some((found, None)) => Ok(state(found.partitions().len(), Finding::Exists)),
            None | Some((_, Some(RDKafkaErrorCode::UnknownTopicOrPartition))) => {
                Ok(state(0, Finding::Missing))
            }
            Some((_, Some(RDKafkaErrorCode::TopicAuthorizationFailed))) => {
                let code = RDKafkaErrorCode::TopicAuthorizationFailed;
                Err(TopicsError::Forbidden { topic: topic.clone(), code })
            }
            Some((_, Some(code))) => {
                let cause = KafkaError::MetadataFetch(code);
                Err(TopicsError::Unreachable { topic: topic.clone(), cause })
            }
        }
    }

    /// Gives the names of the topics that it made.
    async fn create_missing(
        &self,
        topics: &Topics,
        states: &[TopicState],
    ) -> Result<BTreeSet<String>, TopicsError> {
        let missing: Vec<_> =
            states.iter().filter(|state| state.is_missing()).map(|state| &state.name).collect();
        let retention: BTreeMap<_, _> = topics
            .retention
            .iter()
            .map(|(suffix, kept)| (*suffix, kept.as_millis().to_string()))
            .collect();
        let wanted: Vec<_> = missing
            .iter()
            .map(|name| {
                let replication = TopicReplication::Fixed(topics.replication_factor);
                let topic = NewTopic::new(name, topics.partitions, replication);
                let kept = topics.wanted.get(*name).and_then(|suffix| retention.get(suffix));
                match kept {
                    Some(milliseconds) => topic.set("retention.ms", milliseconds),
                    None => topic,
                }
            })
            .collect();
        let options = AdminOptions::new()
            .request_timeout(Some(REQUEST_TIMEOUT))
            .operation_timeout(Some(REQUEST_TIMEOUT));
        let results = self.0.create_topics(&wanted, &options).await.map_err(|cause| {
            let topic = missing.first().map_or_else(String::new, |name| (*name).clone());
            TopicsError::Unreachable { topic, cause }
        })?;
        let mut created = BTreeSet::new();
        for result in results {
            match result {
                Ok(topic) => {
                    created.insert(topic);
                }
                // Another instance that starts at the same time was faster.
                Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                Err((topic, code)) => return Err(TopicsError::Create { topic, code }),
            }
        }
        Ok(created)
    }
}

impl fmt::Debug for TopicAdmin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TopicAdmin")
    }
}
