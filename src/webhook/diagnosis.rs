//! The nearest reason why a checksum does not hold, for a person who has to find it.

use std::fmt;

use super::{
    Unverified,
    canonical::{canonical, legacy},
    checksum::{ChecksumHeader, Key, Method, Placement, checksum_bytes, claimed_checksum},
};

/// What is the matter with a webhook's checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Diagnosis {
    /// There is none in the root, in `data`, or in a header that was named.
    NoChecksum,
    /// What stands there is not 64 hexadecimal digits.
    NotHexadecimal(Placement),
    /// It holds over something else, or by another method, than the application accepts.
    Near {
        /// The id of the key that gives it.
        key_id: String,
        /// Where the checksum stands.
        placement: Placement,
        /// What it covers.
        scope: Scope,
        /// How it was computed.
        method: Method,
    },
    /// No key gives it over anything: another key, or a changed body.
    Unrelated(Placement),
}

/// What a checksum may cover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole body.
    Body,
    /// `data` alone.
    Data,
}

/// Looks for the nearest reason why no policy of these keys and headers holds.
pub fn diagnose<'h>(
    webhook: &Unverified<'_>,
    keys: &[Key],
    headers: &[ChecksumHeader],
    header: impl Fn(&str) -> Option<&'h [u8]>,
) -> Diagnosis {
    let body = Some(webhook.root());
    let data = webhook.root().as_object().and_then(|root| root.get("data"));
    let mut claims = Vec::new();
    for (json, placement) in [(body, Placement::Root), (data, Placement::Data)] {
        let claimed = json.and_then(|json| claimed_checksum(json.as_object()?).ok());
        claims.extend(claimed.map(|claimed| (claimed, placement)));
    }
    for ChecksumHeader { name, .. } in headers {
        claims.extend(header(name).map(|claimed| (claimed, Placement::Header)));
    }
    let mut texts = vec![(webhook.body().to_vec(), Scope::Body, Method::Raw)];
    for (json, scope) in [(body, Scope::Body), (data, Scope::Data)] {
        if let Some((json, members)) = json.and_then(|json| Some((json, json.as_object()?))) {
            texts.push((canonical(json), scope, Method::Canonical));
            texts.push((legacy(members), scope, Method::Legacy));
        }
    }
    let mut diagnosis = Diagnosis::NoChecksum;
    for (claimed, placement) in claims {
        let Some(checksum) = checksum_bytes(claimed) else {
            diagnosis = Diagnosis::NotHexadecimal(placement);
            continue;
        };
        for key in keys {
            let near = texts.iter().find(|(text, ..)| key.verifies(text, &checksum));
            if let Some(&(_, scope, method)) = near {
                let key_id = key.id().to_owned();
                return Diagnosis::Near { key_id, placement, scope, method };
            }
        }
        diagnosis = Diagnosis::Unrelated(placement);
    }
    diagnosis
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoChecksum => formatter.write_str(
                "no checksum in the root, in `data` or in a named header: \
                 is the checksum option of the ClickPesa account switched on?",
            ),
            Self::NotHexadecimal(placement) => {
                write!(formatter, "the checksum in {placement} is not 64 hexadecimal digits")
            }
            Self::Near { key_id, placement, scope, method } => write!(
                formatter,
                "the {} method would match {scope}, with key `{key_id}` and the checksum in \
                 {placement}: the application does not accept that",
                method.as_str()
            ),
            Self::Unrelated(placement) => write!(
                formatter,
                "the checksum in {placement} matches nothing: the key differs, or the body was \
                 changed after it was signed"
            ),
        }
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Root => "the root",
            Self::Data => "`data`",
            Self::Header => "a header",
        })
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Body => "the whole body",
            Self::Data => "`data` alone",
        })
    }
}
