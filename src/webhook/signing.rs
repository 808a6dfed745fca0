//! Signs a body as ClickPesa does, for trying a relay and for tests.

use super::{
    Malformed, Unverified,
    canonical::canonical,
    checksum::{Key, Placement},
    json::Json,
};

/// Why a body cannot be signed in a placement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// It is no webhook at all.
    #[error("{0}")]
    Malformed(#[from] Malformed),
    /// There is no object where the checksum should go.
    #[error("there is no object in {0} to put the checksum in")]
    NoObject(Placement),
}

/// The checksum of a body by the canonical method: over `data` alone for that placement, over
/// the whole body otherwise.
///
/// # Errors
/// When the body is no webhook, or has no object in that placement.
pub fn checksum(body: &[u8], key: &Key, placement: Placement) -> Result<String, SignError> {
    let webhook = Unverified::parse(body, usize::MAX)?;
    Ok(key.sign(&canonical(signed_part(&webhook, placement)?)))
}

/// The body with its checksum in it, its text otherwise unchanged.
///
/// # Errors
/// When the body is no webhook, or has no object in that placement.
pub fn sign(body: &[u8], key: &Key, placement: Placement) -> Result<Vec<u8>, SignError> {
    let webhook = Unverified::parse(body, usize::MAX)?;
    let part = signed_part(&webhook, placement)?;
    let object = part.as_object().ok_or(SignError::NoObject(placement))?;
    let checksum = key.sign(&canonical(part));
    let comma = if object.is_empty() { "" } else { "," };
    let members = format!("{comma}\"checksum\":\"{checksum}\",\"checksumMethod\":\"canonical\"");
    // The part is a slice of the body, so its end in the body is known by its address.
    let text = part.raw;
    let end = text.as_ptr().addr() - body.as_ptr().addr() + text.len() - "}".len();
    let (before, after) = body.split_at(end);
    Ok([before, members.as_bytes(), after].concat())
}

fn signed_part<'w, 'a>(
    webhook: &'w Unverified<'a>,
    placement: Placement,
) -> Result<&'w Json<'a>, SignError> {
    match placement {
        Placement::Root | Placement::Header => Ok(webhook.root()),
        Placement::Data => {
            let data = webhook.root().as_object().and_then(|root| root.get("data"));
            data.filter(|data| data.as_object().is_some()).ok_or(SignError::NoObject(placement))
        }
    }
}
