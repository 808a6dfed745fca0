//! The text that ClickPesa signs: what its published JavaScript makes of a value.
//!
//! Source: <https://docs.clickpesa.com/home/checksum>. `Object.keys(o).sort().reduce(…)` sorts the
//! members of every object, `JSON.stringify` prints them, and both have rules of their own that
//! are copied here: the order of integer-like names, the loss of `__proto__`, ECMAScript numbers.

use super::json::{Json, Object, Text, Value};

/// The two members that are left out of the object that is signed (not of those inside it).
pub const UNSIGNED: [&str; 2] = ["checksum", "checksumMethod"];

/// The canonical text of a value: what the canonical method signs.
pub fn canonical(json: &Json<'_>) -> Vec<u8> {
    let mut text = Vec::with_capacity(json.raw.len());
    if let Value::Object(object) = &json.value {
        write_object(&mut text, &signed_members(object));
    } else {
        write_value(&mut text, &json.value);
    }
    text
}

/// The values of an object, joined as JavaScript joins them: what the legacy method signs.
pub fn legacy(object: &Object<'_>) -> Vec<u8> {
    let mut text = Vec::new();
    for (_, json) in signed_members(object) {
        write_joined(&mut text, &json.value);
    }
    text
}

fn signed_members<'o, 'a>(object: &'o Object<'a>) -> Vec<(&'o Text<'a>, &'o Json<'a>)> {
    let mut members = sorted(object);
    members.retain(|(name, _)| {
        !UNSIGNED.iter().any(|unsigned| name.as_bytes() == unsigned.as_bytes())
    });
    members
}

/// The members as a JavaScript object holds them once they were assigned in sorted order: array
/// indices first, by number; then names by UTF-16 code units; of repeated names the last;
/// `__proto__` sets the prototype and is no member.
fn sorted<'o, 'a>(object: &'o Object<'a>) -> Vec<(&'o Text<'a>, &'o Json<'a>)> {
    let mut members: Vec<_> = object.members().collect();
    // Reversed before a stable sort, so that the last of a repeated name is the one that stays.
    members.reverse();
    members.sort_by(|(a, _), (b, _)| a.cmp_utf16(b));
    members.dedup_by(|(later, _), (kept, _)| later.as_bytes() == kept.as_bytes());
    members.retain(|(name, _)| name.as_bytes() != b"__proto__");
    members.sort_by_key(|(name, _)| array_index(name).unwrap_or(u32::MAX));
    members
}

/// The number that a name stands for, if it is an array index as ECMAScript defines it:
/// 0 to 2³² − 2, written without leading zeros.
fn array_index(name: &Text<'_>) -> Option<u32> {
    let digits = name.as_bytes();
    let plain = matches!(digits, [b'0'] | [b'1'..=b'9', ..]);
    let index = plain.then(|| name.to_str()?.parse().ok())??;
    (index < u32::MAX).then_some(index)
}

fn write_value(text: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Null => text.extend_from_slice(b"null"),
        Value::Bool(true) => text.extend_from_slice(b"true"),
        Value::Bool(false) => text.extend_from_slice(b"false"),
        Value::Number(number) => match finite(number) {
            Some(number) => write_number(text, number),
            // JSON.parse reads 1e999 as Infinity, and JSON.stringify writes that as null.
            None => text.extend_from_slice(b"null"),
        },
        Value::String(string) => write_string(text, string),
        Value::Array(elements) => {
            text.push(b'[');
            for (position, element) in elements.iter().enumerate() {
                if position > 0 {
                    text.push(b',');
                }
                write_value(text, &element.value);
            }
            text.push(b']');
        }
        Value::Object(object) => write_object(text, &sorted(object)),
    }
}

fn write_object(text: &mut Vec<u8>, members: &[(&Text<'_>, &Json<'_>)]) {
    text.push(b'{');
    for (position, (name, json)) in members.iter().enumerate() {
        if position > 0 {
            text.push(b',');
        }
        write_string(text, name);
        text.push(b':');
        write_value(text, &json.value);
    }
    text.push(b'}');
}

/// The number as JavaScript holds it, unless it is beyond what a double can hold.
fn finite(number: &str) -> Option<f64> {
    number.parse().ok().filter(|number: &f64| number.is_finite())
}

fn write_number(text: &mut Vec<u8>, number: f64) {
    text.extend_from_slice(ryu_js::Buffer::new().format_finite(number).as_bytes());
}

/// Writes a string as the well-formed `JSON.stringify` of ES2019 does.
fn write_string(text: &mut Vec<u8>, string: &Text<'_>) {
    text.push(b'"');
    match string {
        Text::Plain(plain) => text.extend_from_slice(plain.as_bytes()),
        Text::Unescaped(bytes) => write_with_escapes(text, bytes),
    }
    text.push(b'"');
}

/// Writes WTF-8 with an escape for what needs one.
fn write_with_escapes(text: &mut Vec<u8>, bytes: &[u8]) {
    let mut copied = 0;
    for (position, &byte) in bytes.iter().enumerate() {
        let (width, code_unit) = match (byte, bytes.get(position + 1..position + 3)) {
            (0x00..0x20 | b'"' | b'\\', _) => (1, u16::from(byte)),
            // A lone surrogate, U+D800 to U+DFFF, is ED A0..BF 80..BF in WTF-8.
            (0xED, Some(&[second @ 0xA0..=0xFF, third])) => {
                (3, 0xD000 | u16::from(second & 0x3F) << 6 | u16::from(third & 0x3F))
            }
            _ => continue,
        };
        text.extend_from_slice(&bytes[copied..position]);
        copied = position + width;
        write_escape(text, code_unit);
    }
    text.extend_from_slice(&bytes[copied..]);
}

fn write_escape(text: &mut Vec<u8>, code_unit: u16) {
    let escape: &[u8] = match code_unit {
        0x08 => br"\b",
        0x09 => br"\t",
        0x0A => br"\n",
        0x0C => br"\f",
        0x0D => br"\r",
        0x22 => br#"\""#,
        0x5C => br"\\",
        _ => return text.extend_from_slice(format!("\\u{code_unit:04x}").as_bytes()),
    };
    text.extend_from_slice(escape);
}

/// Writes a value as `Array.prototype.join` does: null as nothing, lists with commas, objects
/// by their class.
fn write_joined(text: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Null => {}
        Value::Bool(_) => write_value(text, value),
        Value::Number(number) => match number.parse() {
            Ok(f64::INFINITY) => text.extend_from_slice(b"Infinity"),
            Ok(f64::NEG_INFINITY) => text.extend_from_slice(b"-Infinity"),
            Ok(number) => write_number(text, number),
            Err(_) => {}
        },
        Value::String(string) => text.extend_from_slice(string.as_bytes()),
        Value::Array(elements) => {
            for (position, element) in elements.iter().enumerate() {
                if position > 0 {
                    text.push(b',');
                }
                write_joined(text, &element.value);
            }
        }
        Value::Object(_) => text.extend_from_slice(b"[object Object]"),
    }
}
