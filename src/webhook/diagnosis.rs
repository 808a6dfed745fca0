//! The nearest reason why a checksum does not hold, for a person who has to find it.

use std::fmt;

use super::{
    Unverified,
    canonical::{canonical, legacy},
    checksum::{
        ChecksumHeader, Key, Method, Placement, Unauthentic, checksum_bytes, claimed_checksum,
    },
    json::Json,
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
    let root = webhook.root();
    let bodies: Vec<_> = elements(root).iter().collect();
    let data: Vec<_> =
        bodies.iter().filter_map(|body| body.as_object()?.get("data")).flat_map(elements).collect();
    let mut texts = vec![
        (webhook.body().to_vec(), Scope::Body, Method::Raw),
        (canonical(root), Scope::Body, Method::Canonical),
    ];
    for (parts, scope) in [(&bodies, Scope::Body), (&data, Scope::Data)] {
        for (json, members) in parts.iter().filter_map(|json| Some((json, json.as_object()?))) {
            texts.push((canonical(json), scope, Method::Canonical));
            texts.push((legacy(members), scope, Method::Legacy));
        }
    }
    let judge = |claimed, placement| {
        let checksum = match claimed {
            Err(Unauthentic::Missing) => return Diagnosis::NoChecksum,
            Err(Unauthentic::Wrong) => None,
            Ok(claimed) => checksum_bytes(claimed),
        };
        let Some(checksum) = checksum else { return Diagnosis::NotHexadecimal(placement) };
        let near = keys.iter().find_map(|key| {
            let &(_, scope, method) =
                texts.iter().find(|(text, ..)| key.verifies(text, &checksum))?;
            Some(Diagnosis::Near { key_id: key.id().to_owned(), placement, scope, method })
        });
        near.unwrap_or(Diagnosis::Unrelated(placement))
    };
    // In a placement every element of a list has to hold, so the farthest is the reason; and one
    // placement is enough, so the nearest is.
    let mut placements = Vec::new();
    for (parts, placement) in [(&bodies, Placement::Root), (&data, Placement::Data)] {
        let claims = parts
            .iter()
            .map(|json| json.as_object().ok_or(Unauthentic::Missing).and_then(claimed_checksum));
        placements.extend(claims.map(|claimed| judge(claimed, placement)).min_by_key(nearness));
    }
    let claims = headers.iter().filter_map(|ChecksumHeader { name, .. }| header(name));
    placements.extend(claims.map(|claimed| judge(Ok(claimed), Placement::Header)));
    placements.into_iter().rev().max_by_key(nearness).unwrap_or(Diagnosis::NoChecksum)
}

/// The elements of a list, or the one thing that is no list.
fn elements<'j, 'a>(json: &'j Json<'a>) -> &'j [Json<'a>] {
    json.as_array().unwrap_or(std::slice::from_ref(json))
}

/// How much a diagnosis explains.
fn nearness(diagnosis: &Diagnosis) -> u8 {
    match diagnosis {
        Diagnosis::NoChecksum => 0,
        Diagnosis::NotHexadecimal(_) => 1,
        Diagnosis::Unrelated(_) => 2,
        Diagnosis::Near { .. } => 3,
    }
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
