//! Checksums: the keys, where a checksum may stand, what it may cover, and whether one holds.
//!
//! ClickPesa documents the canonical method and not where the checksum stands, so every placement
//! seen in the wild is looked at; an application can pin one. `checksumMethod` is never read.

use std::{borrow::Cow, fmt};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::{
    canonical::{canonical, legacy},
    json::{Json, Object, Value},
};

/// A checksum key with its id, ready to compute.
#[derive(Clone)]
pub struct Key {
    id: String,
    mac: Hmac<Sha256>,
}

/// Where a checksum stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// In the body's root, or that of a list's element.
    Root,
    /// In `data`, or in every element of it.
    Data,
    /// In a configured header.
    Header,
}

/// What a checksum is computed over, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// HMAC-SHA256 over the canonical JSON text.
    Canonical,
    /// HMAC-SHA256 over the joined values, ClickPesa's default until January 2026.
    Legacy,
    /// HMAC-SHA256 over the bytes of the body.
    Raw,
}

/// A header that may carry a checksum.
#[derive(Debug, Clone)]
pub struct ChecksumHeader {
    /// Its name, in lower case.
    pub name: String,
    /// What it covers: `Method::Canonical` or `Method::Raw`.
    pub method: Method,
}

/// What an application asks of a webhook before it is believed.
#[derive(Debug, Clone)]
pub enum Policy {
    /// A checksum that one of the keys verifies.
    Checksum {
        /// The keys in force.
        keys: Vec<Key>,
        /// The only placement to look at, or `None` for root, then data, then headers.
        placement: Option<Placement>,
        /// Headers to look at.
        headers: Vec<ChecksumHeader>,
        /// Whether the legacy method is accepted; never over an event-wrapped body.
        legacy: bool,
    },
    /// Nothing: the account has checksums switched off.
    None,
}

/// What proved a webhook authentic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof<'p> {
    /// The id of the key that verified it.
    pub key_id: &'p str,
    /// Where the checksum stood.
    pub placement: Placement,
    /// How it was computed.
    pub method: Method,
}

/// Why a webhook is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unauthentic {
    /// No checksum in any placement that the application looks at.
    #[error("no checksum in any placement that is allowed")]
    Missing,
    /// There is one, and no key verifies it.
    #[error("the checksum does not match")]
    Wrong,
}

impl Key {
    /// A key from its id and its secret, whose UTF-8 bytes are used.
    pub fn new(id: impl Into<String>, secret: &str) -> Self {
        let mac = Hmac::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        Self { id: id.into(), mac }
    }

    /// The id, which is not secret.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The checksum of a text, in lower-case hexadecimal digits.
    pub fn sign(&self, text: &[u8]) -> String {
        const_hex::encode(self.mac.clone().chain_update(text).finalize().into_bytes())
    }

    /// Whether this key gives that checksum; takes the same time for any checksum.
    pub(super) fn verifies(&self, text: &[u8], checksum: &[u8; 32]) -> bool {
        self.mac.clone().chain_update(text).verify_slice(checksum).is_ok()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Key").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Placement {
    /// The word for it in labels and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Data => "data",
            Self::Header => "header",
        }
    }
}

impl Method {
    /// The word for it in labels and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Canonical => "canonical",
            Self::Legacy => "legacy",
            Self::Raw => "raw",
        }
    }
}

impl Policy {
    /// The headers that are looked at.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        let headers = match self {
            Self::Checksum { headers, .. } => &headers[..],
            Self::None => &[],
        };
        headers.iter().map(|header| header.name.as_str())
    }

    /// The ids of the keys in force.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        let keys = match self {
            Self::Checksum { keys, .. } => &keys[..],
            Self::None => &[],
        };
        keys.iter().map(Key::id)
    }

    /// Checks a webhook; the proofs are one, or one an element where each has a checksum of its own.
    pub(super) fn check<'p, 'h>(
        &'p self,
        body: &[u8],
        root: &Json<'_>,
        header: impl Fn(&str) -> Option<&'h [u8]>,
    ) -> Result<Vec<Proof<'p>>, Unauthentic> {
        let Self::Checksum { keys, placement, headers, legacy } = self else {
            return Ok(Vec::new());
        };
        let allowed = |place| placement.is_none_or(|pinned| pinned == place);
        let judge = Judge { keys, legacy: *legacy };
        let mut refusal = Unauthentic::Missing;
        for place in [Placement::Root, Placement::Data].into_iter().filter(|&place| allowed(place))
        {
            match judge.body(root, place) {
                Ok(proofs) => return Ok(proofs),
                Err(Unauthentic::Wrong) => refusal = Unauthentic::Wrong,
                Err(Unauthentic::Missing) => {}
            }
        }
        for ChecksumHeader { name, method } in headers.iter().filter(|_| allowed(Placement::Header))
        {
            let Some(claimed) = header(name) else { continue };
            let text = match method {
                Method::Raw => Cow::Borrowed(body),
                Method::Canonical | Method::Legacy => Cow::Owned(canonical(root)),
            };
            match judge.claim(claimed, &text, Placement::Header, *method) {
                Ok(proof) => return Ok(vec![proof]),
                Err(_) => refusal = Unauthentic::Wrong,
            }
        }
        Err(refusal)
    }
}

/// Holds checksums against the keys of one application.
struct Judge<'p> {
    keys: &'p [Key],
    legacy: bool,
}

impl<'p> Judge<'p> {
    /// Checks a body, or an element of a list as body, in one placement.
    fn body(&self, body: &Json<'_>, place: Placement) -> Result<Vec<Proof<'p>>, Unauthentic> {
        match (&body.value, place) {
            (Value::Array(elements), _) => each(elements, |element| self.body(element, place)),
            (Value::Object(envelope), Placement::Data) => match envelope.get("data") {
                Some(Json { value: Value::Array(elements), .. }) => {
                    each(elements, |element| self.object(element, place, true))
                }
                Some(data) => self.object(data, place, true),
                None => Err(Unauthentic::Missing),
            },
            // Over an event-wrapped body the legacy text is `[object Object]PAYMENT RECEIVED`,
            // which says nothing of the data.
            (Value::Object(envelope), _) => self.object(body, place, !is_wrapped(envelope)),
            _ => Err(Unauthentic::Missing),
        }
    }

    /// Checks an object that carries its own checksum.
    fn object(
        &self,
        signed: &Json<'_>,
        place: Placement,
        legacy_covers: bool,
    ) -> Result<Vec<Proof<'p>>, Unauthentic> {
        let members = signed.as_object().ok_or(Unauthentic::Missing)?;
        let claimed = claimed_checksum(members)?;
        self.claim(claimed, &canonical(signed), place, Method::Canonical)
            .or_else(|wrong| match self.legacy && legacy_covers {
                true => self.claim(claimed, &legacy(members), place, Method::Legacy),
                false => Err(wrong),
            })
            .map(|proof| vec![proof])
    }

    /// Checks one checksum over one text against every key.
    fn claim(
        &self,
        claimed: &[u8],
        text: &[u8],
        placement: Placement,
        method: Method,
    ) -> Result<Proof<'p>, Unauthentic> {
        let checksum = checksum_bytes(claimed).ok_or(Unauthentic::Wrong)?;
        let key = self.keys.iter().find(|key| key.verifies(text, &checksum));
        key.map(|key| Proof { key_id: &key.id, placement, method }).ok_or(Unauthentic::Wrong)
    }
}

/// Checks the elements of a list, all of which have to hold; an empty list proves nothing.
fn each<'p>(
    elements: &[Json<'_>],
    check: impl Fn(&Json<'_>) -> Result<Vec<Proof<'p>>, Unauthentic>,
) -> Result<Vec<Proof<'p>>, Unauthentic> {
    let mut proofs = Vec::with_capacity(elements.len());
    for element in elements {
        proofs.extend(check(element)?);
    }
    if proofs.is_empty() { Err(Unauthentic::Missing) } else { Ok(proofs) }
}

/// The checksum that an object claims; null and the empty string claim nothing.
pub(super) fn claimed_checksum<'o>(object: &'o Object<'_>) -> Result<&'o [u8], Unauthentic> {
    match object.get("checksum").map(|claimed| &claimed.value) {
        None | Some(Value::Null) => Err(Unauthentic::Missing),
        Some(Value::String(text)) if text.as_bytes().is_empty() => Err(Unauthentic::Missing),
        Some(Value::String(text)) => Ok(text.as_bytes()),
        Some(_) => Err(Unauthentic::Wrong),
    }
}

/// The 32 bytes of a checksum of 64 hexadecimal digits, in either case.
pub(super) fn checksum_bytes(claimed: &[u8]) -> Option<[u8; 32]> {
    // The length is checked here because the decoder would also take `0x` in front.
    (claimed.len() == 64).then(|| const_hex::decode_to_array(claimed).ok())?
}

/// Whether a body is an envelope around its data, rather than the data itself.
pub(super) fn is_wrapped(body: &Object<'_>) -> bool {
    ["event", "eventType", "data"].iter().any(|name| body.get(name).is_some())
}
