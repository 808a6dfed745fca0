//! Money: an exact decimal, never a float.

use std::str::FromStr;

use bigdecimal::{BigDecimal, Zero};
use schemars::JsonSchema;
use serde::Serialize;

use crate::webhook::json::{Json, Value};

/// The most digits that an amount may have when written out: an exponent must not be able to
/// ask for gigabytes of zeros.
pub const AMOUNT_DIGITS_MAX: usize = 64;

/// The longest text that is looked at: room for all digits, and for an exponent of any form.
const TEXT_MAX: usize = 2 * AMOUNT_DIGITS_MAX;

/// An exact decimal written without an exponent, with the decimals that it came with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(transparent, extend("pattern" = r"^-?[0-9]+(\.[0-9]+)?$"))]
pub struct Amount(String);

/// The text is not a decimal number of at most [`AMOUNT_DIGITS_MAX`] digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a decimal number of at most {AMOUNT_DIGITS_MAX} digits")]
pub struct NotAnAmount;

impl Amount {
    /// Reads an amount from a JSON string or number; null and blank strings are no amount.
    ///
    /// # Errors
    /// For any other value that is no decimal number of at most [`AMOUNT_DIGITS_MAX`] digits.
    pub fn read(json: &Json<'_>) -> Result<Option<Self>, NotAnAmount> {
        match &json.value {
            Value::Null => Ok(None),
            Value::Number(digits) => Self::parse(digits).map(Some),
            Value::String(text) => match text.to_str().map(str::trim) {
                Some("") => Ok(None),
                Some(text) => Self::parse(text).map(Some),
                None => Err(NotAnAmount),
            },
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => Err(NotAnAmount),
        }
    }

    /// Reads an amount from its text.
    ///
    /// # Errors
    /// For a text that is no decimal number of at most [`AMOUNT_DIGITS_MAX`] digits.
    pub fn parse(text: &str) -> Result<Self, NotAnAmount> {
        let numeric = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
        // BigDecimal would read `.-5` as `-.5`.
        let has_sign_inside = [".-", ".+"].iter().any(|inside| text.contains(inside));
        if text.len() > TEXT_MAX || !text.bytes().all(numeric) || has_sign_inside {
            return Err(NotAnAmount);
        }
        let mut decimal = BigDecimal::from_str(text).map_err(|_not_a_number| NotAnAmount)?;
        if decimal.is_zero() {
            // 0e9 is one digit, not ten; 0.00 keeps its decimals.
            decimal = decimal.with_scale(decimal.fractional_digit_count().max(0));
        }
        let scale = decimal.fractional_digit_count();
        let integer_digits = (decimal.digits() as i64).saturating_sub(scale).max(1);
        if integer_digits.saturating_add(scale.max(0)) > AMOUNT_DIGITS_MAX as i64 {
            return Err(NotAnAmount);
        }
        Ok(Self(decimal.to_plain_string()))
    }

    /// The decimal as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
