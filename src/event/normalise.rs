//! From what ClickPesa wrote, in any of its shapes, to events.

use std::{borrow::Cow, slice};

use jiff::Timestamp;
use sha2::{Digest, Sha256};

use super::{
    Authentication, Beneficiary, Customer, Data, Event, Exchange, Reason, Refund, Reverse,
    amount::{Amount, NotAnAmount},
    id::Id,
    kind::Kind,
};
use crate::webhook::{
    Authentic,
    canonical::canonical,
    json::{Json, Object, Value},
};

/// What an event has to know beside the webhook itself.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The application that the webhook was sent to.
    pub application: &'a str,
    /// The CloudEvents `source`.
    pub source: &'a str,
    /// When the whole webhook was there, in RFC 3339.
    pub received: &'a str,
}

/// The events of a webhook: one, or one for every element of a list.
pub fn normalise<'a>(
    webhook: &'a Authentic<'_, '_>,
    circumstances: Circumstances<'a>,
) -> Vec<Event<'a>> {
    let authentication = match webhook.proofs() {
        [] => Authentication::None,
        [..] => Authentication::Checksum,
    };
    occurrences(webhook.root())
        .map(|occurrence| occurrence.into_event(circumstances, authentication))
        .collect()
}

/// How many events a webhook has, without making them.
pub fn count(webhook: &Authentic<'_, '_>) -> usize {
    occurrences(webhook.root()).count()
}

/// One thing that happened, as received.
struct Occurrence<'a> {
    /// The name of the event, if the envelope has one.
    name: Option<&'a str>,
    /// What says what happened.
    payload: &'a Json<'a>,
    /// Where the payload stood.
    form: Form,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// In `data`.
    Wrapped,
    /// It is the body, or an element of the body.
    Flat,
    /// Nowhere: the payload is a list without elements.
    EmptyList,
}

/// Takes lists apart, as body and as `data`.
fn occurrences<'a>(root: &'a Json<'a>) -> impl Iterator<Item = Occurrence<'a>> {
    let (empty, bodies) = match root.as_array() {
        None => (None, slice::from_ref(root)),
        Some([]) => {
            (Some(Occurrence { name: None, payload: root, form: Form::EmptyList }), &[][..])
        }
        Some(elements) => (None, elements),
    };
    empty.into_iter().chain(bodies.iter().flat_map(in_envelope))
}

fn in_envelope<'a>(body: &'a Json<'a>) -> impl Iterator<Item = Occurrence<'a>> {
    let name = body.as_object().and_then(|envelope| {
        let named = |member| text(envelope, &[member]).filter(|name| !name.trim().is_empty());
        named("event").or_else(|| named("eventType"))
    });
    let data = body.as_object().and_then(|envelope| envelope.get("data"));
    let data = data.filter(|data| !matches!(data.value, Value::Null));
    let (payloads, form) = match data.map(|data| (data, data.as_array())) {
        None => (slice::from_ref(body), Form::Flat),
        Some((data, None)) => (slice::from_ref(data), Form::Wrapped),
        Some((data, Some([]))) => (slice::from_ref(data), Form::EmptyList),
        Some((_, Some(elements))) => (elements, Form::Wrapped),
    };
    payloads.iter().map(move |payload| Occurrence { name, payload, form })
}

impl<'a> Occurrence<'a> {
    fn into_event(
        self,
        circumstances: Circumstances<'a>,
        authentication: Authentication,
    ) -> Event<'a> {
        let mut data = Reader::default().data(self.payload);
        let kind = match self.kind(&data) {
            Ok(kind) => kind,
            Err(reason) => {
                data.reason = Some(reason);
                data.event = self.name;
                Kind::Unrecognized
            }
        };
        let id = id(circumstances.application, kind, &data, self.payload);
        let references = [data.order_reference, data.payment_reference, data.transaction_id];
        let reference = references.into_iter().flatten().find(|text| is_subject(text));
        let key = reference.map_or_else(|| Cow::Owned(id.to_string()), Cow::Borrowed);
        Event {
            specversion: "1.0",
            id,
            source: circumstances.source,
            kind,
            subject: key.clone(),
            time: time(&data).unwrap_or(Cow::Borrowed(circumstances.received)),
            datacontenttype: "application/json",
            dataschema: kind.dataschema(),
            partitionkey: key,
            receivedtime: circumstances.received,
            authentication,
            data,
        }
    }

    fn kind(&self, data: &Data<'_>) -> Result<Kind, Reason> {
        if self.form == Form::EmptyList {
            return Err(Reason::EmptyList);
        }
        let kind = match self.name {
            Some(name) => Kind::of_event(name).ok_or(Reason::UnknownEvent)?,
            None if self.is_callback() && is_success(data) => Kind::CheckoutCompleted,
            None => return Err(Reason::NoEvent),
        };
        data.reason.map_or(Ok(kind), Err)
    }

    /// Whether this has the form of a checkout's callback, which has no word of an event: one
    /// that cannot be read is still one.
    fn is_callback(&self) -> bool {
        let has = |body: &Object<'_>, name| {
            body.get(name).is_some_and(|json| !matches!(json.value, Value::Null))
        };
        let body = self.payload.as_object().filter(|_| self.form == Form::Flat);
        body.is_some_and(|body| !has(body, "event") && !has(body, "eventType"))
    }
}

/// Whether money arrived: a `callbackUrl` is told of nothing else, so a flat body that says
/// anything else must not be taken for a completed checkout.
fn is_success(data: &Data<'_>) -> bool {
    let status = data.status.unwrap_or_default();
    ["SUCCESS", "SETTLED"].iter().any(|success| status.eq_ignore_ascii_case(success))
}

/// The members that may hold the transaction's id, the best one first.
const TRANSACTION_ID: [&str; 3] = ["id", "paymentId", "transactionId"];

/// The id: of the transaction's state where ClickPesa names it, of the whole content otherwise.
/// Nothing else goes in, so that a repeat has the same id for ever, on every instance.
fn id(application: &str, kind: Kind, data: &Data<'_>, payload: &Json<'_>) -> Id {
    let mut hash = Sha256::new();
    // The length in front keeps two neighbouring parts from being read as two others.
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    add(application.as_bytes());
    add(kind.suffix().as_bytes());
    match state(data, payload) {
        Some(state) if kind != Kind::Unrecognized => {
            for part in state {
                add(part.as_bytes());
            }
        }
        _ => {
            add(data.event.unwrap_or_default().as_bytes());
            add(&canonical(payload));
        }
    }
    Id::of(hash.finalize().into())
}

/// Transaction id, status and time of update, if each says something: what lacks one of them
/// must not be taken for another that lacks the same one.
fn state<'a>(data: &Data<'a>, payload: &Json<'_>) -> Option<[&'a str; 3]> {
    let said = |part: Option<&'a str>| part.filter(|text| !text.trim().is_empty());
    let state = [said(data.transaction_id)?, said(data.status)?, said(data.updated_at)?];
    // A checksum covers the value of a number and not its digits, so 1 and 1.0 may not differ.
    let is_number = |name| {
        let member = payload.as_object().and_then(|members| members.get(name));
        member.is_some_and(|json| matches!(json.value, Value::Number(_)))
    };
    let has_number = TRANSACTION_ID.into_iter().chain(["status", "updatedAt"]).any(is_number);
    (!has_number).then_some(state)
}

/// Whether a reference can be a CloudEvents attribute: not blank, no control characters.
fn is_subject(reference: &str) -> bool {
    !reference.trim().is_empty() && !reference.contains(char::is_control)
}

/// The time of what happened as RFC 3339, kept as it was written where it was written so.
fn time<'a>(data: &Data<'a>) -> Option<Cow<'a, str>> {
    [data.updated_at, data.created_at].into_iter().flatten().find_map(|text| {
        // RFC 3339 has no years before 0000, jiff has, with a minus.
        let utc = text.parse::<Timestamp>().ok()?.to_string();
        if utc.starts_with('-') {
            return None;
        }
        let to_the_second = utc.get(.."2024-04-10T18:22:56".len())?;
        let is_rfc3339 =
            text.starts_with(to_the_second) && text.ends_with('Z') && !text.contains(',');
        Some(if is_rfc3339 { Cow::Borrowed(text) } else { Cow::Owned(utc) })
    })
}

/// Reads the vocabulary, and notes what keeps it from being an event.
#[derive(Default)]
struct Reader {
    found: usize,
    bad_amounts: usize,
}

/// An object that may be missing.
type Fields<'a> = Option<&'a Object<'a>>;

impl Reader {
    fn data<'a>(mut self, payload: &'a Json<'a>) -> Data<'a> {
        let of = payload.as_object();
        let mut data = Data {
            reason: None,
            event: None,
            transaction_id: self.text(of, &TRANSACTION_ID),
            order_reference: self.text(of, &["orderReference"]),
            payment_reference: self.text(of, &["paymentReference"]),
            status: self.text(of, &["status"]),
            amount: self.amount(of, &["collectedAmount", "amount", "depositAmount"]),
            currency: self.text(of, &["collectedCurrency", "currency", "depositCurrency"]),
            fee: self.amount(of, &["fee"]),
            channel: self.text(of, &["channel"]),
            channel_provider: self.text(of, &["channelProvider"]),
            transfer_type: self.text(of, &["transferType", "settlementType"]),
            message: self.text(of, &["message"]),
            notes: self.text(of, &["notes"]),
            client_id: self.text(of, &["clientId"]),
            customer: self.child(of, "customer", Self::customer),
            beneficiary: self.child(of, "beneficiary", Self::beneficiary),
            refund: self.child(of, "refund", Self::refund),
            reverse: self.child(of, "reverse", Self::reverse),
            exchange: self.child(of, "exchange", Self::exchange),
            created_at: self.text(of, &["createdAt"]),
            updated_at: self.text(of, &["updatedAt"]),
            original: serde_json::from_str(payload.raw).expect("it was read as JSON"),
        };
        data.reason = match (of, self.found, self.bad_amounts) {
            (None, ..) => Some(Reason::NotAnObject),
            (_, _, 1..) => Some(Reason::BadAmount),
            (_, 0, _) => Some(Reason::NoKnownField),
            _ => None,
        };
        data
    }

    fn customer<'a>(&mut self, of: Fields<'a>) -> Customer<'a> {
        Customer {
            name: self.text(of, &["customerName", "name"]),
            email: self.text(of, &["customerEmail", "email"]),
            phone: self.text(of, &["customerPhoneNumber", "phone"]),
        }
    }

    fn beneficiary<'a>(&mut self, of: Fields<'a>) -> Beneficiary<'a> {
        Beneficiary {
            account_number: self.text(of, &["accountNumber"]),
            account_name: self.text(of, &["accountName"]),
            swift_number: self.text(of, &["swiftNumber"]),
            routing_number: self.text(of, &["routingNumber"]),
            beneficiary_mobile_number: self.text(of, &["beneficiaryMobileNumber"]),
            beneficiary_email: self.text(of, &["beneficiaryEmail"]),
            amount: self.amount(of, &["amount"]),
        }
    }

    fn refund<'a>(&mut self, of: Fields<'a>) -> Refund<'a> {
        Refund { message: self.text(of, &["message"]), refunded_at: self.text(of, &["refundedAt"]) }
    }

    fn reverse<'a>(&mut self, of: Fields<'a>) -> Reverse<'a> {
        Reverse {
            message: self.text(of, &["message"]),
            reversed_at: self.text(of, &["reversedAt"]),
            with_fee: self.flag(of, "reversedWithFee"),
        }
    }

    fn exchange<'a>(&mut self, of: Fields<'a>) -> Exchange<'a> {
        Exchange {
            source_currency: self.text(of, &["sourceCurrency"]),
            target_currency: self.text(of, &["targetCurrency"]),
            source_amount: self.amount(of, &["sourceAmount"]),
            rate: self.amount(of, &["rate"]),
        }
    }

    /// Reads an object inside the object; one without a known field is left out.
    fn child<'a, T>(
        &mut self,
        of: Fields<'a>,
        name: &str,
        read: impl Fn(&mut Self, Fields<'a>) -> T,
    ) -> Option<T> {
        let child = of?.get(name)?.as_object()?;
        let before = self.found;
        let value = read(self, Some(child));
        (self.found > before).then_some(value)
    }

    fn text<'a>(&mut self, of: Fields<'a>, names: &[&str]) -> Option<&'a str> {
        self.count(text(of?, names))
    }

    fn flag(&mut self, of: Fields<'_>, name: &str) -> Option<bool> {
        let Value::Bool(flag) = of?.get(name)?.value else { return None };
        self.count(Some(flag))
    }

    fn amount(&mut self, of: Fields<'_>, names: &[&str]) -> Option<Amount> {
        for json in names.iter().filter_map(|name| of?.get(name)) {
            match Amount::read(json) {
                Ok(None) => {}
                Ok(amount) => return self.count(amount),
                Err(NotAnAmount) => {
                    self.bad_amounts += 1;
                    return None;
                }
            }
        }
        None
    }

    fn count<T>(&mut self, field: Option<T>) -> Option<T> {
        self.found += usize::from(field.is_some());
        field
    }
}

/// The text of the first of these members that has one, preferably not an empty one. A number
/// is as good as a string, by its digits.
fn text<'a>(of: &'a Object<'a>, names: &[&str]) -> Option<&'a str> {
    let texts = || {
        names.iter().filter_map(|name| match &of.get(name)?.value {
            Value::String(text) => text.to_str(),
            Value::Number(digits) => Some(*digits),
            Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        })
    };
    texts().find(|text| !text.is_empty()).or_else(|| texts().next())
}
