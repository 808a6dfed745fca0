//! The normalised event: one vocabulary for every shape that ClickPesa has sent.
//!
//! A CloudEvents 1.0 event. Pure: the time of receipt is given, nothing is read or written.

pub mod amount;
pub mod id;
pub mod kind;
pub mod normalise;

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;

use self::{amount::Amount, id::Id, kind::Kind};

/// A CloudEvents 1.0 event; its JSON is the structured mode's value.
#[derive(Debug, Serialize)]
pub struct Event<'a> {
    /// The version of CloudEvents, `1.0`.
    pub specversion: &'static str,
    /// The same for every repeat of the webhook, on every instance.
    pub id: Id,
    /// `/clickpesa/` and the application.
    pub source: &'a str,
    /// What happened.
    #[serde(rename = "type", serialize_with = "ce_type")]
    pub kind: Kind,
    /// The reference that the event is about; the same text as `partitionkey`.
    pub subject: Cow<'a, str>,
    /// RFC 3339: `updatedAt`, else `createdAt`, else the time of receipt.
    pub time: Cow<'a, str>,
    /// The media type of `data`.
    pub datacontenttype: &'static str,
    /// The schema of `data`.
    pub dataschema: &'static str,
    /// The record's key: events of one key keep their order.
    pub partitionkey: Cow<'a, str>,
    /// RFC 3339: when the relay had the whole webhook.
    pub receivedtime: &'a str,
    /// What vouches for the event.
    pub authentication: Authentication,
    /// What happened, in one vocabulary.
    pub data: Data<'a>,
}

/// What vouches for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Authentication {
    /// A checksum key verified the webhook.
    Checksum,
    /// Nothing: the application accepts unsigned webhooks.
    None,
}

impl Authentication {
    /// The attribute's text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Checksum => "checksum",
            Self::None => "none",
        }
    }
}

fn ce_type<S: serde::Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(kind.ce_type())
}

/// What a webhook says, the same for every shape; what is absent or null there is absent here.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Data<'a> {
    /// Why the event is in `unrecognized`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// ClickPesa's name of an event that is in `unrecognized`, known or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub event: Option<&'a str>,
    /// ClickPesa's id of the transaction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<&'a str>,
    /// The merchant's reference; several transactions may share one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_reference: Option<&'a str>,
    /// The operator's or bank's receipt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment_reference: Option<&'a str>,
    /// ClickPesa's word, such as `SUCCESS`, `SETTLED` or `FAILED`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<&'a str>,
    /// The money that moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<Amount>,
    /// The currency of `amount`, such as `TZS`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub currency: Option<&'a str>,
    /// What ClickPesa took, in the same currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee: Option<Amount>,
    /// The way of the money, an open set: `TIGO-PESA`, `BANK TRANSFER` …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<&'a str>,
    /// The bank or operator.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel_provider: Option<&'a str>,
    /// `ACH` or `RTGS`; `settlementType` in older webhooks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_type: Option<&'a str>,
    /// ClickPesa's or the operator's explanation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    /// The merchant's notes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub notes: Option<&'a str>,
    /// ClickPesa's id of the merchant's application.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_id: Option<&'a str>,
    /// Who paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customer: Option<Customer<'a>>,
    /// Who is paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beneficiary: Option<Beneficiary<'a>>,
    /// Why and when a payout was refunded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refund: Option<Refund<'a>>,
    /// Why and when a payout was reversed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reverse: Option<Reverse<'a>>,
    /// How the money was exchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exchange: Option<Exchange<'a>>,
    /// When ClickPesa made the transaction, as it wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_at: Option<&'a str>,
    /// When ClickPesa last changed the transaction, as it wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub updated_at: Option<&'a str>,
    /// The received `data`, or the flat body, with its text unchanged.
    #[schemars(with = "serde_json::Value")]
    pub original: &'a RawValue,
}

/// Who paid.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Customer<'a> {
    /// Full name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    /// E-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub email: Option<&'a str>,
    /// Phone number with country code and no plus.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phone: Option<&'a str>,
}

/// Who is paid.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Beneficiary<'a> {
    /// Bank account or mobile number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_number: Option<&'a str>,
    /// The name on the account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_name: Option<&'a str>,
    /// SWIFT code of the bank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swift_number: Option<&'a str>,
    /// Routing number of the bank.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub routing_number: Option<&'a str>,
    /// Mobile number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beneficiary_mobile_number: Option<&'a str>,
    /// E-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beneficiary_email: Option<&'a str>,
    /// What the beneficiary gets, without the fee.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub amount: Option<Amount>,
}

/// Why and when a payout was refunded.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Refund<'a> {
    /// The reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refunded_at: Option<&'a str>,
}

/// Why and when a payout was reversed.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reverse<'a> {
    /// The reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reversed_at: Option<&'a str>,
    /// Whether the fee came back too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub with_fee: Option<bool>,
}

/// How the money was exchanged.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Exchange<'a> {
    /// Currency before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_currency: Option<&'a str>,
    /// Currency after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_currency: Option<&'a str>,
    /// Amount before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source_amount: Option<Amount>,
    /// Target currency for one of the source currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Amount>,
}

/// Why an authentic webhook is not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The name of the event is none that the relay knows.
    UnknownEvent,
    /// No event is named, and it is no checkout callback of a successful payment.
    NoEvent,
    /// The list holds no event.
    EmptyList,
    /// What should be an object is something else.
    NotAnObject,
    /// No field of the vocabulary is there.
    NoKnownField,
    /// An amount is no decimal number.
    BadAmount,
}
