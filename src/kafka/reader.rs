//! Reads topics from their start or their end, without a consumer group.

use std::{
    fmt, thread,
    time::{Duration, Instant},
};

use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::Headers,
};

use super::{ClientError, Properties, client_config};

/// How long a broker may take to say what is there.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a topic may take, once it is made, to be known and led; how often it is asked for.
const SETTLES_WITHIN: Duration = Duration::from_secs(5);
const SETTLES_POLL: Duration = Duration::from_millis(20);

/// Where reading begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum From {
    /// At the oldest record that is kept.
    Start,
    /// Behind the newest record.
    End,
}

/// A record as it stands in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRecord {
    /// Name of the topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// The record's timestamp, in milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Vec<u8>,
    /// Names and values.
    pub headers: Vec<(String, Vec<u8>)>,
    /// The value.
    pub value: Vec<u8>,
}

/// Why topics cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// librdkafka does not take the settings.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Kafka cannot be reached, or the topic is not there.
    #[error("cannot read topic `{topic}`: {cause}")]
    Topic {
        /// The topic.
        topic: String,
        /// What librdkafka says.
        cause: KafkaError,
    },
    /// Reading had begun, or nearly so.
    #[error("cannot read the topics: {0}")]
    Topics(#[from] KafkaError),
}

/// A reader of topics.
pub struct Reader {
    consumer: BaseConsumer,
    /// The partitions not yet read to the offset at which they ended when reading began.
    unread: Vec<(String, i32, i64)>,
}

impl Reader {
    /// Begins to read every partition of these topics; blocks until it is known where they end.
    ///
    /// # Errors
    /// When Kafka cannot be reached, or a topic is not there.
    pub fn open(properties: &Properties, topics: &[String], from: From) -> Result<Self, ReadError> {
        let consumer: BaseConsumer = client_config(properties)
            .set("group.id", "clickpesa-relay-tail")
            .set("enable.auto.commit", "false")
            .set("fetch.wait.max.ms", "100")
            .create()
            .map_err(ClientError)?;
        let mut assignment = TopicPartitionList::new();
        let mut unread = Vec::new();
        for topic in topics {
            let failed = |cause| ReadError::Topic { topic: topic.clone(), cause };
            for (partition, low, high) in settled_partitions(&consumer, topic).map_err(failed)? {
                let offset = match from {
                    From::Start => low,
                    From::End => high,
                };
                if offset < high {
                    unread.push((topic.clone(), partition, high));
                }
                assignment.add_partition_offset(topic, partition, Offset::Offset(offset))?;
            }
        }
        consumer.assign(&assignment)?;
        Ok(Self { consumer, unread })
    }

    /// The next record, if there is one within the time; blocks that long.
    ///
    /// # Errors
    /// When librdkafka reports one.
    pub fn next(&mut self, within: Duration) -> Result<Option<StoredRecord>, ReadError> {
        let message = match self.consumer.poll(within) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            Some(message) => message?,
        };
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        self.unread.retain(|(unread, id, end)| {
            unread != topic || *id != partition || offset.saturating_add(1) < *end
        });
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            let header = |header: rdkafka::message::Header<'_, &[u8]>| {
                (header.key.to_owned(), header.value.unwrap_or_default().to_vec())
            };
            headers.iter().map(header).collect()
        });
        Ok(Some(StoredRecord {
            topic: topic.to_owned(),
            partition,
            offset,
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().unwrap_or_default().to_vec(),
            headers,
            value: message.payload().unwrap_or_default().to_vec(),
        }))
    }

    /// Whether everything was read that was there when reading began.
    pub fn is_at_end(&self) -> bool {
        self.unread.is_empty()
    }
}

/// The partitions of a topic, once the brokers agree on them if it was made a moment ago.
fn settled_partitions(
    consumer: &BaseConsumer,
    topic: &str,
) -> Result<Vec<(i32, i64, i64)>, KafkaError> {
    let deadline = Instant::now() + SETTLES_WITHIN;
    loop {
        match partitions(consumer, topic) {
            Err(error) if is_settling(&error) && Instant::now() < deadline => {
                thread::sleep(SETTLES_POLL);
            }
            found => return found,
        }
    }
}

/// Whether the error is what a broker says of a topic that was made a moment ago.
fn is_settling(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::UnknownTopicOrPartition | Code::LeaderNotAvailable | Code::NotLeaderForPartition
        )
    )
}

/// Each partition of a topic, its oldest offset and the one behind its newest.
fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<(i32, i64, i64)>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), REQUEST_TIMEOUT)?;
    let mut partitions = Vec::new();
    for found in metadata.topics() {
        if let Some(error) = found.error() {
            return Err(KafkaError::MetadataFetch(error.into()));
        }
        for partition in found.partitions().iter().map(|partition| partition.id()) {
            let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST_TIMEOUT)?;
            partitions.push((partition, low, high));
        }
    }
    Ok(partitions)
}

impl fmt::Debug for Reader {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Reader").field("unread", &self.unread).finish_non_exhaustive()
    }
}
