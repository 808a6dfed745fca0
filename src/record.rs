//! From an event to the record that goes to Kafka, by the CloudEvents Kafka protocol binding 1.0.
//!
//! Pure. Source: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::event::Event;

/// How an event stands in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EventFormat {
    /// The value is the whole event; the attributes stand in `ce_*` headers as well.
    #[default]
    Structured,
    /// The value is `data` alone; the attributes stand in `ce_*` headers.
    Binary,
}

/// Bytes that a record takes in a batch beside its key, value and headers, at most.
const OVERHEAD_BYTES_MAX: usize = 36;

/// Bytes of a value beside the original, as a rule: room for it is made at once.
const VALUE_BYTES: usize = 1536;

/// A record as it is given to a producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The name of the topic.
    pub topic: String,
    /// Milliseconds since 1970: when the webhook was there.
    pub timestamp_ms: i64,
    /// What decides the partition.
    pub key: String,
    /// Names and values, in UTF-8.
    pub headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    /// The value, JSON.
    pub value: Vec<u8>,
}

impl Record {
    /// The record of an event in a topic; `timestamp_ms` is milliseconds since 1970.
    pub fn new(event: &Event<'_>, format: EventFormat, topic: &str, timestamp_ms: i64) -> Self {
        let mut value = Vec::with_capacity(VALUE_BYTES + event.data.original.get().len());
        let (content_type, written) = match format {
            EventFormat::Structured => (
                "application/cloudevents+json; charset=UTF-8",
                serde_json::to_writer(&mut value, event),
            ),
            EventFormat::Binary => {
                (event.datacontenttype, serde_json::to_writer(&mut value, &event.data))
            }
        };
        written.expect("strings, flags and raw JSON always serialise");
        let owned = |text: &str| Cow::Owned(text.to_owned());
        let headers = [
            ("content-type", Cow::Borrowed(content_type)),
            ("ce_specversion", Cow::Borrowed(event.specversion)),
            ("ce_id", Cow::Owned(event.id.to_string())),
            ("ce_source", owned(event.source)),
            ("ce_type", Cow::Borrowed(event.kind.ce_type())),
            ("ce_subject", owned(&event.subject)),
            ("ce_time", owned(&event.time)),
            ("ce_dataschema", Cow::Borrowed(event.dataschema)),
            ("ce_partitionkey", owned(&event.partitionkey)),
            ("ce_receivedtime", owned(event.receivedtime)),
            ("ce_authentication", Cow::Borrowed(event.authentication.as_str())),
        ];
        Self {
            topic: topic.to_owned(),
            timestamp_ms,
            key: event.partitionkey.clone().into_owned(),
            headers: headers.map(|(name, text)| (Cow::Borrowed(name), text)).into(),
            value,
        }
    }

    /// How many bytes it takes in a batch at most, as librdkafka counts them before it takes one.
    ///
    /// Source: `rd_kafka_msg_max_wire_size` in librdkafka.
    pub fn bytes_max(&self) -> usize {
        let with_length = |text: &str| varint_bytes(text.len()) + text.len();
        let headers = self.headers.iter().map(|(name, text)| with_length(name) + with_length(text));
        OVERHEAD_BYTES_MAX + self.key.len() + self.value.len() + headers.sum::<usize>()
    }

    /// The id of the event.
    pub fn id(&self) -> Option<&str> {
        self.headers.iter().find(|(name, _)| name == "ce_id").map(|(_, id)| &**id)
    }
}

/// Bytes of a length as Kafka writes it: zigzag, seven bits a byte.
fn varint_bytes(length: usize) -> usize {
    let bits = usize::BITS - (length << 1 | 1).leading_zeros();
    bits.div_ceil(7) as usize
}
