//! A JSON text as JavaScript's `JSON.parse` reads it, with the source of every value kept.
//!
//! `serde_json` says whether it is JSON, and reads what is escaped. What its own `Value` would lose
//! is kept here: the digits of numbers, repeated and unordered members, lone surrogates, and the
//! text of each value, which goes unchanged into the event's `original`.

use std::cmp::Ordering;

use serde::de::IgnoredAny;
use serde_bytes::ByteBuf;

/// A JSON value and its source text.
#[derive(Debug)]
pub struct Json<'a> {
    /// The text of this value as received, without the blanks around it.
    pub raw: &'a str,
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

/// A JSON string without its escapes.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// As it stands in the source, where it has no escape: nothing in it needs one.
    Plain(&'a str),
    /// In WTF-8: UTF-8, and surrogates that have lost their twin.
    Unescaped(Vec<u8>),
}

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
        serde_json::from_str::<IgnoredAny>(text)?;
        Walk { text, at: 0, depth_max }.value(depth_max)
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
        self.0.iter().rev().find(|(member, _)| member.as_bytes() == name.as_bytes()).map(|(_, v)| v)
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
        match self {
            Self::Plain(text) => text.as_bytes(),
            Self::Unescaped(bytes) => bytes,
        }
    }

    /// The characters, unless there is a lone surrogate among them.
    pub fn to_str(&self) -> Option<&str> {
        match self {
            Self::Plain(text) => Some(text),
            Self::Unescaped(bytes) => std::str::from_utf8(bytes).ok(),
        }
    }

    /// Compares by UTF-16 code units, as JavaScript's `sort` does.
    pub fn cmp_utf16(&self, other: &Self) -> Ordering {
        let (mine, theirs) = (self.as_bytes(), other.as_bytes());
        match mine.iter().zip(theirs).find(|(a, b)| a != b) {
            // Surrogates, and what comes behind them, stand in another order in WTF-8.
            Some((0xED.., 0xED..)) => code_units(mine).cmp(code_units(theirs)),
            Some((a, b)) => a.cmp(b),
            None => mine.len().cmp(&theirs.len()),
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

/// A walk through a text that is known to be JSON, so that blanks, commas and colons say nothing.
struct Walk<'a> {
    text: &'a str,
    at: usize,
    depth_max: usize,
}

impl<'a> Walk<'a> {
    fn value(&mut self, depth_left: usize) -> Result<Json<'a>, JsonError> {
        let first = self.token();
        let begin = self.at;
        let value = match first {
            b'{' => {
                let left = self.enter(depth_left)?;
                let mut members = Vec::new();
                while self.token() != b'}' {
                    members.push((self.string()?, self.value(left)?));
                }
                self.at += 1;
                Value::Object(Object(members))
            }
            b'[' => {
                let left = self.enter(depth_left)?;
                let mut elements = Vec::new();
                while self.token() != b']' {
                    elements.push(self.value(left)?);
                }
                self.at += 1;
                Value::Array(elements)
            }
            b'"' => Value::String(self.string()?),
            _ => match self.word() {
                "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                number => Value::Number(number),
            },
        };
        Ok(Json { raw: self.since(begin), value })
    }

    /// Goes into a list or an object; gives how many may stand in it.
    fn enter(&mut self, depth_left: usize) -> Result<usize, JsonError> {
        self.at += 1;
        depth_left.checked_sub(1).ok_or(JsonError::Depth(self.depth_max))
    }

    fn string(&mut self) -> Result<Text<'a>, JsonError> {
        let is_plain = |byte| !matches!(byte, b'"' | b'\\');
        let begin = self.at;
        self.at += 1;
        self.pass(is_plain);
        let plain = self.since(begin + 1);
        let has_escape = self.byte() == b'\\';
        while self.byte() == b'\\' {
            self.at += 2;
            self.pass(is_plain);
        }
        self.at += 1;
        if !has_escape {
            return Ok(Text::Plain(plain));
        }
        // Asked for bytes, serde_json keeps lone surrogates; asked for a string, it refuses them.
        let bytes: ByteBuf = serde_json::from_str(self.since(begin))?;
        Ok(Text::Unescaped(bytes.into_vec()))
    }

    /// A number, or one of the three names.
    fn word(&mut self) -> &'a str {
        let begin = self.at;
        self.pass(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
        self.since(begin)
    }

    /// Goes to the next token, and gives its first byte.
    fn token(&mut self) -> u8 {
        self.pass(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':'));
        self.byte()
    }

    fn byte(&self) -> u8 {
        self.text.as_bytes()[self.at]
    }

    fn pass(&mut self, passes: impl Fn(u8) -> bool) {
        let rest = &self.text.as_bytes()[self.at..];
        self.at += rest.iter().position(|&byte| !passes(byte)).unwrap_or(rest.len());
    }

    fn since(&self, begin: usize) -> &'a str {
        self.text.get(begin..self.at).expect("tokens begin and end with ASCII")
    }
}
