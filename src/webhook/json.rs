//! A JSON text as JavaScript's `JSON.parse` reads it, with the source of every value kept.
//!
//! `serde_json` does the reading. What its own `Value` would lose is kept here: the digits of
//! numbers, repeated and unordered members, lone surrogates, and the text of each value, which
//! goes unchanged into the event's `original`.

use std::{borrow::Cow, cmp::Ordering, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

/// A JSON value and its source text.
#[derive(Debug)]
pub struct Json<'a> {
    /// The text of this value as received, without the blanks around it.
    pub raw: &'a RawValue,
    /// What the text says.
    pub value: Value<'a>,
}

/// What a JSON text says.
#[derive(Debug)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, by its text.
    Number(&'a str),
    /// A string.
    String(Text<'a>),
    /// A list.
    Array(Vec<Json<'a>>),
    /// An object.
    Object(Object<'a>),
}

/// The members of an object in the order received, repeated names included.
#[derive(Debug, Default)]
pub struct Object<'a>(Vec<(Text<'a>, Json<'a>)>);

/// A JSON string without its escapes, in WTF-8: UTF-8, and surrogates that have lost their twin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text<'a>(Cow<'a, [u8]>);

/// Why a body is not a JSON value that the relay takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not a JSON text (RFC 8259), at this byte offset of the line and column given.
    #[error("not JSON, at line {line} column {column}")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The bytes are not UTF-8 from this offset on.
    #[error("not UTF-8, at byte {0}")]
    Encoding(usize),
    /// Lists and objects stand in each other deeper than allowed.
    #[error("nested deeper than {0} levels")]
    Depth(usize),
}

impl From<serde_json::Error> for JsonError {
    fn from(error: serde_json::Error) -> Self {
        Self::Syntax { line: error.line(), column: error.column() }
    }
}

impl<'a> Json<'a> {
    /// Reads a whole body; `depth_max` is how many lists and objects may stand in each other.
    ///
    /// # Errors
    /// When the body is no JSON text in UTF-8, or deeper than `depth_max`.
    pub fn parse(body: &'a [u8], depth_max: usize) -> Result<Self, JsonError> {
        let text =
            std::str::from_utf8(body).map_err(|error| JsonError::Encoding(error.valid_up_to()))?;
        Self::read(serde_json::from_str(text)?, depth_max, depth_max)
    }

    fn read(raw: &'a RawValue, depth_left: usize, depth_max: usize) -> Result<Self, JsonError> {
        let text = raw.get();
        let deeper = || depth_left.checked_sub(1).ok_or(JsonError::Depth(depth_max));
        let value = match text.as_bytes().first() {
            Some(b'{') => {
                let left = deeper()?;
                let Members(members) = serde_json::from_str(text)?;
                let read = |(name, raw)| Ok((name, Self::read(raw, left, depth_max)?));
                Value::Object(Object(
                    members.into_iter().map(read).collect::<Result<_, JsonError>>()?,
                ))
            }
            Some(b'[') => {
                let left = deeper()?;
                let elements: Vec<&RawValue> = serde_json::from_str(text)?;
                let read = |raw| Self::read(raw, left, depth_max);
                Value::Array(elements.into_iter().map(read).collect::<Result<_, _>>()?)
            }
            Some(b'"') => Value::String(serde_json::from_str(text)?),
            Some(b't') => Value::Bool(true),
            Some(b'f') => Value::Bool(false),
            Some(b'n') => Value::Null,
            _ => Value::Number(text),
        };
        Ok(Self { raw, value })
    }

    /// The members, if this is an object.
    pub fn as_object(&self) -> Option<&Object<'a>> {
        if let Value::Object(object) = &self.value { Some(object) } else { None }
    }

    /// The elements, if this is a list.
    pub fn as_array(&self) -> Option<&[Json<'a>]> {
        if let Value::Array(elements) = &self.value { Some(elements) } else { None }
    }

    /// The characters, if this is a string without lone surrogates.
    pub fn as_str(&self) -> Option<&str> {
        if let Value::String(text) = &self.value { text.to_str() } else { None }
    }
}

impl<'a> Object<'a> {
    /// The value of a member; as in JavaScript, of the last one where a name is repeated.
    pub fn get(&self, name: &str) -> Option<&Json<'a>> {
        self.0.iter().rev().find(|(member, _)| &*member.0 == name.as_bytes()).map(|(_, v)| v)
    }

    /// The members in the order received.
    pub fn members(&self) -> impl Iterator<Item = (&Text<'a>, &Json<'a>)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// How many members there are, repeated names counted each time.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no member.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Text<'_> {
    /// The bytes, in WTF-8.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The characters, unless there is a lone surrogate among them.
    pub fn to_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Compares by UTF-16 code units, as JavaScript's `sort` does.
    pub fn cmp_utf16(&self, other: &Self) -> Ordering {
        if self.0.is_ascii() && other.0.is_ascii() {
            self.0.cmp(&other.0)
        } else {
            code_units(&self.0).cmp(code_units(&other.0))
        }
    }
}

/// The UTF-16 code units of a WTF-8 text.
fn code_units(wtf8: &[u8]) -> impl Iterator<Item = u16> {
    let mut rest = wtf8;
    let mut low_surrogate = None;
    std::iter::from_fn(move || {
        if let Some(unit) = low_surrogate.take() {
            return Some(unit);
        }
        let (&lead, _) = rest.split_first()?;
        let (width, bits) = match lead {
            0x00..0x80 => (1, lead),
            0x80..0xE0 => (2, lead & 0x1F),
            0xE0..0xF0 => (3, lead & 0x0F),
            0xF0.. => (4, lead & 0x07),
        };
        let (character, after) = rest.split_at(width);
        rest = after;
        let code = character[1..]
            .iter()
            .fold(u32::from(bits), |code, byte| code << 6 | u32::from(byte & 0x3F));
        match u16::try_from(code) {
            Ok(unit) => Some(unit),
            Err(_) => {
                let astral = code - 0x1_0000;
                low_surrogate = Some(0xDC00 | (astral & 0x3FF) as u16);
                Some(0xD800 | (astral >> 10) as u16)
            }
        }
    })
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextVisitor;

        impl<'de> Visitor<'de> for TextVisitor {
            type Value = Text<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a string")
            }

            fn visit_borrowed_bytes<E>(self, bytes: &'de [u8]) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(bytes)))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(bytes.to_vec())))
            }
        }

        // Asked for bytes, serde_json keeps lone surrogates; asked for a string, it refuses them.
        deserializer.deserialize_bytes(TextVisitor)
    }
}

/// The members of an object, their values not yet read.
struct Members<'a>(Vec<(Text<'a>, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MembersVisitor;

        impl<'de> Visitor<'de> for MembersVisitor {
            type Value = Members<'de>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::with_capacity(16);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(MembersVisitor)
    }
}
