//! The id of an event.

use std::fmt;

use serde::{Serialize, Serializer};

/// What tells an event from every other, the same for every repeat of the webhook, on every
/// instance; written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id([u8; 16]);

impl Id {
    /// The first half of a hash.
    pub fn of(hash: [u8; 32]) -> Self {
        Self(*hash.first_chunk().expect("a half is less than the whole"))
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(const_hex::Buffer::<16>::new().format(&self.0))
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
