//! A webhook as it arrives, and as it is once it is believed.
//!
//! [`Unverified`] becomes [`Authentic`] only through [`Unverified::authenticate`], so nothing
//! false can reach the code behind. Pure: no clock, no HTTP, no settings.

pub mod canonical;
pub mod checksum;
pub mod diagnosis;
pub mod json;
pub mod signing;

use self::{
    checksum::{Policy, Proof, Unauthentic},
    json::{Json, JsonError, Value},
};

/// A body that is JSON and could be a webhook, of which nothing is proven.
#[derive(Debug)]
pub struct Unverified<'a> {
    body: &'a [u8],
    root: Json<'a>,
}

/// A webhook that its application believes.
#[derive(Debug)]
pub struct Authentic<'a, 'p> {
    root: Json<'a>,
    proofs: Vec<Proof<'p>>,
}

/// Why a body cannot be a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// There is no body.
    #[error("the body is empty")]
    Empty,
    /// The body is no JSON text, or one that is nested too deep.
    #[error("the body is {0}")]
    Json(#[from] JsonError),
    /// The body is JSON, but a bare string, number, boolean or null.
    #[error("the body is neither an object nor a list")]
    Scalar,
}

impl<'a> Unverified<'a> {
    /// Reads a body; `depth_max` is how many lists and objects may stand in each other.
    ///
    /// # Errors
    /// When the body cannot be a webhook of anybody.
    pub fn parse(body: &'a [u8], depth_max: usize) -> Result<Self, Malformed> {
        if body.trim_ascii().is_empty() {
            return Err(Malformed::Empty);
        }
        let root = Json::parse(body, depth_max)?;
        match root.value {
            Value::Object(_) | Value::Array(_) => Ok(Self { body, root }),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                Err(Malformed::Scalar)
            }
        }
    }

    /// Proves the webhook by an application's policy. `header` gives the value of the header of
    /// a name in lower case.
    ///
    /// # Errors
    /// When the policy asks for a checksum and none of the keys verifies one.
    pub fn authenticate<'p, 'h>(
        self,
        policy: &'p Policy,
        header: impl Fn(&str) -> Option<&'h [u8]>,
    ) -> Result<Authentic<'a, 'p>, Unauthentic> {
        let proofs = policy.check(self.body, &self.root, header)?;
        Ok(Authentic { root: self.root, proofs })
    }

    /// What the body says.
    pub fn root(&self) -> &Json<'a> {
        &self.root
    }

    /// The body as received.
    pub fn body(&self) -> &'a [u8] {
        self.body
    }
}

impl<'a, 'p> Authentic<'a, 'p> {
    /// What the webhook says.
    pub fn root(&self) -> &Json<'a> {
        &self.root
    }

    /// What proved it: nothing where the application asks for nothing.
    pub fn proofs(&self) -> &[Proof<'p>] {
        &self.proofs
    }
}
