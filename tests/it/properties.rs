//! What holds for every webhook, not only for those that somebody thought of.

use clickpesa_relay::{
    event::{Event, Reason, id::Id, kind::Kind, normalise::Circumstances},
    webhook::{
        Unverified,
        canonical::{canonical, legacy},
        checksum::{ChecksumHeader, Method, Placement, Policy, Unauthentic},
        json::Json,
    },
};
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};

use crate::support::{CIRCUMSTANCES, DEPTH_MAX, checksum, key, with_events};

const HEADER: &str = "x-clickpesa-signature";

fn cases(cases: u32) -> ProptestConfig {
    // A failure prints its input, which belongs in a test of its own rather than in a file.
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// What a policy makes of a body and of the header [`HEADER`]: the proofs, or the refusal.
fn proofs(
    body: &str,
    header: Option<&str>,
    policy: &Policy,
) -> Result<Vec<(Placement, Method)>, Unauthentic> {
    let unverified = Unverified::parse(body.as_bytes(), DEPTH_MAX).unwrap();
    let value = |name: &str| header.filter(|_| name == HEADER).map(str::as_bytes);
    let authentic = unverified.authenticate(policy, value)?;
    Ok(authentic.proofs().iter().map(|proof| (proof.placement, proof.method)).collect())
}

/// [`checksum`], with one placement pinned or none, with [`HEADER`], and with or without legacy.
fn policy(placement: Option<Placement>, legacy: bool) -> Policy {
    let headers = vec![ChecksumHeader { name: HEADER.to_owned(), method: Method::Canonical }];
    Policy::Checksum { keys: vec![key()], placement, headers, legacy }
}

fn canonical_checksum(json: &str) -> String {
    key().sign(&canonical(&Json::parse(json.as_bytes(), DEPTH_MAX).unwrap()))
}

fn legacy_checksum(json: &str) -> String {
    key().sign(&legacy(Json::parse(json.as_bytes(), DEPTH_MAX).unwrap().as_object().unwrap()))
}

/// An object with a checksum as its last member.
fn with_checksum(object: &str, checksum: &str) -> String {
    let members = object.strip_suffix('}').expect("an object");
    format!(r#"{members},"checksum":"{checksum}"}}"#)
}

fn signed(object: &str) -> String {
    with_checksum(object, &canonical_checksum(object))
}

/// The one event of a body.
fn with_event<T>(body: &str, policy: &Policy, read: impl FnOnce(&Event<'_>) -> T) -> T {
    with_events(body, policy, CIRCUMSTANCES, |events| {
        let [event] = events else { panic!("{} events: {body}", events.len()) };
        read(event)
    })
    .unwrap_or_else(|error| panic!("{error}: {body}"))
}

// --- Amounts --------------------------------------------------------------------------------

/// A decimal number as it may be written.
#[derive(Debug, Clone)]
struct Decimal {
    sign: &'static str,
    integer: String,
    fraction: Option<String>,
    /// The letter and a sign, and the number.
    exponent: Option<(&'static str, u32)>,
}

impl Decimal {
    /// Every form of a JSON number.
    fn strategy() -> impl Strategy<Value = Self> {
        let markers = select(&["e", "E", "e+", "E+", "e-", "E-", "e-0", "e+000"][..]);
        (
            select(&["", "-"][..]),
            prop_oneof![Just("0".to_owned()), "[1-9][0-9]{0,34}", "[1-9]0{1,40}"],
            proptest::option::of(prop_oneof!["[0-9]{1,40}", "0{1,3}"]),
            proptest::option::of((markers, 0..70_u32)),
        )
            .prop_map(|(sign, integer, fraction, exponent)| Self {
                sign,
                integer,
                fraction,
                exponent,
            })
    }

    fn text(&self) -> String {
        let fraction = self.fraction.as_ref().map(|digits| format!(".{digits}"));
        let exponent = self.exponent.map(|(marker, number)| format!("{marker}{number}"));
        [self.sign, &self.integer, &fraction.unwrap_or_default(), &exponent.unwrap_or_default()]
            .concat()
    }

    /// The same number without an exponent: only the point moves, nothing is computed. `None` if
    /// that takes more than 64 digits.
    fn written_out(&self) -> Option<String> {
        let mut digits = self.integer.clone() + self.fraction.as_deref().unwrap_or_default();
        let mut point = i64::try_from(self.integer.len()).unwrap();
        if let Some((marker, number)) = self.exponent {
            point += if marker.contains('-') { -i64::from(number) } else { i64::from(number) };
        }
        while point < 1 {
            digits.insert(0, '0');
            point += 1;
        }
        let point = usize::try_from(point).unwrap();
        while digits.len() < point {
            digits.push('0');
        }
        let (integer, fraction) = digits.split_at(point);
        let integer = match integer.trim_start_matches('0') {
            "" => "0",
            significant => significant,
        };
        let sign = if digits.contains(|digit| digit != '0') { self.sign } else { "" };
        let point = if fraction.is_empty() { "" } else { "." };
        (integer.len() + fraction.len() <= 64).then(|| [sign, integer, point, fraction].concat())
    }
}

/// The amount of a payment whose amount is this JSON value: none if it went to `unrecognized`
/// for it.
fn amount(json: &str) -> Option<String> {
    let body = format!(r#"{{"event":"PAYMENT RECEIVED","data":{{"id":"T1","amount":{json}}}}}"#);
    with_event(&body, &Policy::None, |event| {
        let amount = event.data.amount.as_ref().map(|amount| amount.as_str().to_owned());
        let (kind, reason) = match amount {
            Some(_) => (Kind::PaymentReceived, None),
            None => (Kind::Unrecognized, Some(Reason::BadAmount)),
        };
        assert_eq!((event.kind, event.data.reason), (kind, reason), "{json}");
        assert_eq!(event.data.original.get(), format!(r#"{{"id":"T1","amount":{json}}}"#));
        amount
    })
}

/// Whether a text is a decimal number: digits, at most one point among or beside them, a sign in
/// front, an exponent behind.
fn is_decimal(text: &str) -> bool {
    let unsigned = |text: &str| text.strip_prefix(['+', '-']).unwrap_or(text).to_owned();
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (unsigned(mantissa), Some(unsigned(exponent))),
        None => (unsigned(text), None),
    };
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((&mantissa, ""));
    is_digits(integer)
        && is_digits(fraction)
        && integer.len() + fraction.len() > 0
        && exponent.is_none_or(|digits| !digits.is_empty() && is_digits(&digits))
}

proptest! {
    #![proptest_config(cases(5_000))]

    #[test]
    fn an_amount_is_the_exact_decimal_or_none(decimal in Decimal::strategy()) {
        let text = decimal.text();
        let expected = decimal.written_out();
        prop_assert_eq!(amount(&text), expected.clone(), "the number {}", text);
        prop_assert_eq!(amount(&json!(text).to_string()), expected, "the string {}", text);
    }

    #[test]
    fn a_string_is_an_amount_only_if_it_is_a_decimal(text in "[-+.eE0-9_, a]{0,7}[-+.eE0-9_,a]") {
        let is_amount = amount(&json!(text).to_string()).is_some();
        // With an exponent, a decimal may be too long.
        if is_amount || !text.contains(['e', 'E']) {
            prop_assert_eq!(is_amount, is_decimal(text.trim()), "`{}`", text);
        }
    }
}

#[test]
fn amounts_keep_their_decimals() {
    let kept = [
        (r#""10000.00""#, "10000.00"),
        (r#""10000""#, "10000"),
        (r#"" 10000.50 ""#, "10000.50"),
        (r#""+7""#, "7"),
        ("10000.00", "10000.00"),
        ("1e4", "10000"),
        ("1.50E1", "15.0"),
        ("-0.00", "0.00"),
        ("0e9", "0"),
        ("0.00e-1", "0.000"),
        ("-0E999999999", "0"),
        ("12345678901234567890.123456789", "12345678901234567890.123456789"),
    ];
    for (json, expected) in kept {
        assert_eq!(amount(json).as_deref(), Some(expected), "{json}");
    }
    let digits_63 = "123456789".repeat(7);
    let digits_64 = format!("7{digits_63}");
    let one_point = format!("-7.{digits_63}");
    for (text, expected) in [
        (digits_64.clone(), digits_64.clone()),
        (one_point.clone(), one_point.clone()),
        (format!("{one_point}e+063"), format!("-{digits_64}")),
        (format!("{digits_64}e-00063"), one_point.replace('-', "")),
    ] {
        assert_eq!(amount(&text), Some(expected), "{text}");
    }
}

#[test]
fn what_is_no_amount_goes_to_unrecognized() {
    let digits_65 = "9".repeat(65);
    let junk = [
        digits_65.as_str(),
        "1e64",
        "1e-64",
        // Written out, any of these would take a gigabyte or more.
        "1e999999999",
        "1e-999999999",
        "-1e9223372036854775807",
        "1e-9223372036854775808",
        "1e99999999999999999999999",
        "0.1e-9223372036854775807",
        "0e-999999999",
        r#""1e999999999""#,
        r#""10,000""#,
        r#""TZS 10""#,
        r#""0x10""#,
        r#""1_000""#,
        r#""NaN""#,
        r#""Infinity""#,
        r#""-""#,
        r#"".""#,
        r#""e5""#,
        r#"".-5""#,
        r#"".+5""#,
        r#""+-5""#,
        r#""5-""#,
        r#""\u0661""#,
        r#""\ud800""#,
        "true",
        "[]",
        "{}",
        r#"["1"]"#,
    ];
    for json in junk {
        assert_eq!(amount(json), None, "{json}");
    }
}

// --- Ids ------------------------------------------------------------------------------------

type Members = Vec<(&'static str, String)>;

fn write(members: &Members, blank: &str) -> String {
    let members: Vec<String> = members
        .iter()
        .map(|(name, value)| format!(r#"{blank}"{name}"{blank}:{blank}{value}{blank}"#))
        .collect();
    format!("{{{}}}", members.join(","))
}

/// Puts a checksum, and a method that must not matter, in front of the member at a position.
fn sign_members(members: &mut Members, position: usize) {
    let checksum = canonical_checksum(&write(members, ""));
    members.insert(position % (members.len() + 1), ("checksum", format!(r#""{checksum}""#)));
    members.insert(0, ("checksumMethod", r#""legacy""#.to_owned()));
}

fn id(body: &str, header: Option<&str>, policy: &Policy, circumstances: Circumstances<'_>) -> Id {
    let unverified = Unverified::parse(body.as_bytes(), DEPTH_MAX).unwrap();
    let value = |name: &str| header.filter(|_| name == HEADER).map(str::as_bytes);
    let authentic = unverified.authenticate(policy, value).unwrap();
    let events = clickpesa_relay::event::normalise::normalise(&authentic, circumstances);
    let [event] = events.as_slice() else { panic!("{} events: {body}", events.len()) };
    event.id
}

/// A payment with all that its id comes from, one without, and one of an event that is not known.
fn payments() -> Vec<(&'static str, Members)> {
    let member = |name, text: &str| (name, format!(r#""{text}""#));
    let complete = vec![
        member("id", "ORD1LCP2"),
        member("status", "SUCCESS"),
        member("orderReference", "ORD1"),
        member("collectedAmount", "10000.00"),
        ("customer", r#"{"customerName":"Asha Sa\u00efd","n":[1.50,null]}"#.to_owned()),
        member("updatedAt", "2026-05-21T10:57:56.153Z"),
    ];
    let mut without_update = complete.clone();
    without_update.pop();
    vec![
        (r#""PAYMENT RECEIVED""#, complete.clone()),
        (r#""PAYMENT RECEIVED""#, without_update),
        (r#""PAYMENT REVERSED""#, complete),
    ]
}

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn an_id_does_not_depend_on_how_the_webhook_was_written_signed_or_received(
        (event, members, shuffled) in select(payments()).prop_flat_map(|(event, members)| {
            (Just(event), Just(members.clone()), Just(members).prop_shuffle())
        }),
        data_first in any::<bool>(),
        blank in select(&["", " ", "\n", "\r\n\t"][..]),
        placement in select(&[Placement::Root, Placement::Data, Placement::Header][..]),
        position in 0..8_usize,
        received in select(&["2026-01-05T09:30:00.123Z", "2027-12-31T23:59:59.999Z"][..]),
    ) {
        let envelope = |data: String, data_first: bool| {
            let mut envelope = vec![("event", event.to_owned()), ("data", data)];
            envelope.rotate_left(usize::from(data_first));
            envelope
        };
        let plain = write(&envelope(write(&members, ""), false), "");
        let expected = id(&plain, None, &Policy::None, CIRCUMSTANCES);

        let mut data = shuffled;
        if placement == Placement::Data {
            sign_members(&mut data, position);
        }
        let mut root = envelope(write(&data, blank), data_first);
        if placement == Placement::Root {
            sign_members(&mut root, position);
        }
        let body = write(&root, blank);
        let header = (placement == Placement::Header).then(|| canonical_checksum(&body));
        let later = Circumstances { received, ..CIRCUMSTANCES };
        let actual = id(&body, header.as_deref(), &policy(Some(placement), false), later);
        prop_assert_eq!(actual, expected, "{}", body);
    }

    /// Texts of two letters, so that pairs that differ only in where one ends are frequent.
    #[test]
    fn ids_are_the_same_only_for_the_same_state_of_the_same_transaction(
        [one, other] in proptest::array::uniform2((
            select(&["PAYMENT RECEIVED", "PAYMENT FAILED"][..]),
            "[ab]{1,2}", "[ab]{1,2}", "[ab]{1,2}", "[ab]{1,2}",
        ))
    ) {
        let id = |(event, application, transaction, status, updated): &(&str, _, _, _, _)| {
            let application: &String = application;
            let body = json!({ "event": event, "data": {
                "id": transaction, "status": status, "updatedAt": updated,
            }});
            id(&body.to_string(), None, &Policy::None, Circumstances { application, ..CIRCUMSTANCES })
        };
        prop_assert_eq!(id(&one) == id(&other), one == other);
    }
}

#[test]
fn every_part_of_a_state_makes_another_id() {
    let state = |event: &str, transaction: &str, status: &str, updated: &str, application| {
        let body = json!({ "event": event, "data": {
            "id": transaction, "status": status, "updatedAt": updated, "amount": "1",
        }});
        id(&body.to_string(), None, &Policy::None, Circumstances { application, ..CIRCUMSTANCES })
    };
    let update = "2026-05-21T10:57:56.153Z";
    let ids = [
        state("PAYMENT RECEIVED", "T1", "SUCCESS", update, "default"),
        state("PAYMENT RECEIVED", "T2", "SUCCESS", update, "default"),
        state("PAYMENT RECEIVED", "T1", "SETTLED", update, "default"),
        state("PAYMENT RECEIVED", "T1", "SUCCESS", "2026-05-21T10:57:56.154Z", "default"),
        state("PAYMENT FAILED", "T1", "SUCCESS", update, "default"),
        state("PAYMENT RECEIVED", "T1", "SUCCESS", update, "shop"),
    ];
    for (position, id) in ids.iter().enumerate() {
        assert_eq!(ids.iter().position(|other| other == id), Some(position), "{ids:?}");
        let id = id.to_string();
        assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
}

/// Otherwise all deposits of one moment that lack the same part would be one.
#[test]
fn a_part_of_the_state_that_says_nothing_is_as_good_as_absent() {
    for nothing in [r#""""#, r#"" ""#, "null"] {
        for part in ["id", "status", "updatedAt"] {
            let id_of = |reference: &str| {
                let mut members = vec![
                    ("id", r#""T1""#.to_owned()),
                    ("status", r#""SUCCESS""#.to_owned()),
                    ("updatedAt", r#""2026-05-21T10:57:56.153Z""#.to_owned()),
                    ("paymentReference", format!(r#""{reference}""#)),
                ];
                members.iter_mut().find(|(name, _)| *name == part).unwrap().1 = nothing.to_owned();
                let data = write(&members, "");
                let body = format!(r#"{{"event":"DEPOSIT RECEIVED","data":{data}}}"#);
                id(&body, None, &Policy::None, CIRCUMSTANCES)
            };
            assert_ne!(id_of("FT1"), id_of("FT2"), "{part}: {nothing}");
        }
    }
}

/// The checksum covers what JavaScript reads: 1, 1.0 and 10e-1 are one value to it.
#[test]
fn an_id_does_not_depend_on_how_a_number_is_spelled() {
    for part in ["id", "status", "updatedAt"] {
        let id_of = |number: &str| {
            let mut members = vec![
                ("id", r#""T1""#.to_owned()),
                ("status", r#""SUCCESS""#.to_owned()),
                ("updatedAt", r#""2026-05-21T10:57:56.153Z""#.to_owned()),
            ];
            members.iter_mut().find(|(name, _)| *name == part).unwrap().1 = number.to_owned();
            let data = write(&members, "");
            let signed = signed(&format!(r#"{{"event":"PAYMENT RECEIVED","data":{data}}}"#));
            id(&signed, None, &checksum(), CIRCUMSTANCES)
        };
        assert_eq!(id_of("1"), id_of("10e-1"), "{part}");
        assert_eq!(id_of("1"), id_of("1.00000000000000000001"), "{part}");
        assert_ne!(id_of("1"), id_of("2"), "{part}");
    }
}

// --- Shapes ---------------------------------------------------------------------------------

proptest! {
    #![proptest_config(cases(1_000))]

    #[test]
    fn the_shape_of_2025_and_todays_say_the_same(
        transaction in ".{0,8}",
        order in ".{0,8}",
        amount in "[0-9]{1,9}(\\.[0-9]{2})?",
        status in select(&["SUCCESS", "SETTLED"][..]),
        customer in proptest::option::of((".{0,8}", ".{0,8}", "[0-9]{0,12}")),
        updated in "2026-0[1-9]-1[0-9]T10:57:56.[0-9]{3}Z",
    ) {
        let mut old = json!({
            "paymentId": transaction, "orderReference": order, "amount": amount,
            "currency": "TZS", "status": status, "updatedAt": updated, "createdAt": updated,
        });
        let mut new = json!({
            "id": transaction, "orderReference": order, "collectedAmount": amount,
            "collectedCurrency": "TZS", "status": status, "updatedAt": updated,
            "createdAt": updated,
        });
        if let Some((name, email, phone)) = customer {
            old["customer"] = json!({ "name": name, "email": email, "phone": phone });
            new["customer"] = json!({
                "customerName": name, "customerEmail": email, "customerPhoneNumber": phone,
            });
        }
        let data = |payload: &Value| {
            let body = json!({ "event": "PAYMENT RECEIVED", "data": payload }).to_string();
            with_event(&body, &Policy::None, |event| {
                let mut data = serde_json::to_value(&event.data).unwrap();
                let original = data.as_object_mut().unwrap().remove("original");
                assert_eq!(original.as_ref(), Some(payload));
                data
            })
        };
        prop_assert_eq!(data(&old), data(&new));
    }
}

// --- Authenticity ---------------------------------------------------------------------------

/// With escapes, characters of every width, a list and numbers. The checksum stands first, so
/// that no damage behind it can hide it.
const COVERED: &str = r#""id":"ORD1LCP2","status":"SUCCESS","collectedAmount":"35280","n":[35280.5,true],"orderReference":"A\/\u0041\"","customer":{"customerName":"Asha Saïd 🙏","customerEmail":"a@b.c"}"#;

fn front_signed(covered: &str) -> String {
    format!(r#"{{"checksum":"{}",{covered}}}"#, canonical_checksum(&format!("{{{covered}}}")))
}

/// Replaces every byte of the covered part by many others; where the result is still JSON with
/// another meaning, to a parser that is not ours, it has to be refused.
fn every_change_is_refused(body: &str, covered: &str, meaning: fn(Value) -> Value) {
    let start = body.find(covered).unwrap();
    let before = meaning(serde_json::from_str(body).unwrap());
    let mut changed = 0;
    for position in start..start + covered.len() {
        let original = body.as_bytes()[position];
        let flips = (0..8).map(|bit| original ^ 1 << bit);
        for byte in flips.chain(*b" \"\\/{}[]:,0129.eEabtnuZ\x00\x1f\x7f\x80\xa0\xff") {
            let mut bytes = body.as_bytes().to_vec();
            bytes[position] = byte;
            let Ok(text) = String::from_utf8(bytes) else { continue };
            let Ok(after) = serde_json::from_str(&text) else { continue };
            if meaning(after) == before {
                continue;
            }
            changed += 1;
            assert_eq!(proofs(&text, None, &checksum()), Err(Unauthentic::Wrong), "{text}");
        }
    }
    assert!(changed > 1000, "only {changed} changes tried");
}

#[test]
fn every_change_of_a_byte_under_a_checksum_in_the_root_is_refused() {
    let covered = format!(r#""event":"PAYMENT RECEIVED","data":{{{COVERED}}}"#);
    let body = front_signed(&covered);
    assert_eq!(proofs(&body, None, &checksum()), Ok(vec![(Placement::Root, Method::Canonical)]));
    every_change_is_refused(&body, &covered, |body| body);
}

#[test]
fn every_change_of_a_byte_under_a_checksum_in_data_is_refused() {
    let body = format!(r#"{{"event":"PAYMENT RECEIVED","data":{}}}"#, front_signed(COVERED));
    assert_eq!(proofs(&body, None, &checksum()), Ok(vec![(Placement::Data, Method::Canonical)]));
    every_change_is_refused(&body, COVERED, |mut body| body["data"].take());
}

#[test]
fn a_changed_checksum_is_refused() {
    let body = front_signed(r#""event":"PAYMENT FAILED","data":{"id":"T1"}"#);
    let checksum_text = canonical_checksum(&body);
    let upper = body.replace(&checksum_text, &checksum_text.to_uppercase());
    assert_eq!(proofs(&upper, None, &checksum()).map(|proofs| proofs.len()), Ok(1), "upper case");
    let wrong = [
        checksum_text.replace(|digit: char| digit.is_ascii_digit(), "0"),
        checksum_text.split_at(62).0.to_owned(),
        format!("0x{}", checksum_text.split_at(2).1),
        format!("0x{checksum_text}"),
        format!(" {checksum_text}"),
        format!("{checksum_text}00"),
        "true".to_owned(),
    ];
    for wrong in wrong {
        let body = body.replace(&checksum_text, &wrong);
        assert_eq!(proofs(&body, None, &checksum()), Err(Unauthentic::Wrong), "{wrong}");
    }
    for none in [r#""""#, "null"] {
        let body = body.replace(&format!(r#""{checksum_text}""#), none);
        assert_eq!(proofs(&body, None, &checksum()), Err(Unauthentic::Missing), "{none}");
    }
    for no_text in ["5", "true", "[]", "{}"] {
        let body = body.replace(&format!(r#""{checksum_text}""#), no_text);
        assert_eq!(proofs(&body, None, &checksum()), Err(Unauthentic::Wrong), "{no_text}");
    }
}

const PLACEMENTS: [Placement; 3] = [Placement::Root, Placement::Data, Placement::Header];

/// A body, and the header beside it, with these checksums in the three placements.
fn claims(of: impl Fn(Placement, &str) -> Option<String>) -> (String, Option<String>) {
    let with = |placement, json: String| match of(placement, &json) {
        Some(checksum) => with_checksum(&json, &checksum),
        None => json,
    };
    let data = with(Placement::Data, r#"{"id":"T1","status":"SUCCESS"}"#.to_owned());
    let body = with(Placement::Root, format!(r#"{{"event":"PAYMENT RECEIVED","data":{data}}}"#));
    let header = of(Placement::Header, &body);
    (body, header)
}

#[test]
fn a_pinned_placement_is_the_only_one_that_counts() {
    for true_in in PLACEMENTS {
        let (body, header) =
            claims(|placement, json| (placement == true_in).then(|| canonical_checksum(json)));
        let found = proofs(&body, header.as_deref(), &policy(None, false));
        assert_eq!(found, Ok(vec![(true_in, Method::Canonical)]), "{true_in:?}, none pinned");
        for pinned in PLACEMENTS {
            let found = proofs(&body, header.as_deref(), &policy(Some(pinned), true));
            let expected = match pinned == true_in {
                true => Ok(vec![(true_in, Method::Canonical)]),
                false => Err(Unauthentic::Missing),
            };
            assert_eq!(found, expected, "in {true_in:?}, pinned to {pinned:?}");
        }
    }
}

#[test]
fn a_wrong_checksum_in_the_pinned_placement_is_not_rescued_by_a_right_one_elsewhere() {
    for pinned in PLACEMENTS {
        let (body, header) = claims(|placement, json| {
            Some(if placement == pinned { "0".repeat(64) } else { canonical_checksum(json) })
        });
        let found = proofs(&body, header.as_deref(), &policy(Some(pinned), true));
        assert_eq!(found, Err(Unauthentic::Wrong), "pinned to {pinned:?}");
    }
}

/// Bodies signed by the legacy method, and where: what it covers is in them.
fn legacy_signed() -> Vec<(Placement, String)> {
    let flat = r#"{"id":"T1","status":"SUCCESS","checksumMethod":"legacy"}"#;
    let signed = with_checksum(flat, &legacy_checksum(flat));
    vec![
        (Placement::Root, signed.clone()),
        (Placement::Root, format!("[{signed}]")),
        (Placement::Data, format!(r#"{{"event":"PAYMENT RECEIVED","data":{signed}}}"#)),
        (Placement::Data, format!(r#"{{"event":"PAYMENT RECEIVED","data":[{signed}]}}"#)),
    ]
}

#[test]
fn the_legacy_method_passes_only_where_it_is_allowed() {
    for (placement, body) in legacy_signed() {
        for pinned in [None, Some(placement)] {
            let refused = proofs(&body, None, &policy(pinned, false));
            assert_eq!(refused, Err(Unauthentic::Wrong), "{body}");
            let allowed = proofs(&body, None, &policy(pinned, true));
            assert_eq!(allowed, Ok(vec![(placement, Method::Legacy)]), "{body}");
        }
    }
}

/// Its text over an envelope is `[object Object]PAYMENT RECEIVED`, whatever the data.
#[test]
fn the_legacy_method_never_passes_over_an_envelope() {
    let envelopes = [
        r#"{"event":"PAYMENT RECEIVED","data":{"id":"T1"}}"#,
        r#"{"eventType":"PAYMENT RECEIVED","data":{"id":"T1"}}"#,
        r#"{"event":"PAYMENT RECEIVED","id":"T1"}"#,
        r#"{"eventType":"PAYMENT RECEIVED","id":"T1"}"#,
        r#"{"data":{"id":"T1"}}"#,
        r#"{"event":null,"data":null,"id":"T1"}"#,
    ];
    for envelope in envelopes {
        let checksum = legacy_checksum(envelope);
        let body = with_checksum(envelope, &checksum);
        for body in [body.clone(), format!("[{body}]"), format!("[[{body}]]")] {
            assert_eq!(proofs(&body, None, &policy(None, true)), Err(Unauthentic::Wrong), "{body}");
        }
        let by_header = proofs(envelope, Some(&checksum), &policy(None, true));
        assert_eq!(by_header, Err(Unauthentic::Wrong), "in a header: {envelope}");
    }
}

// --- Lists ----------------------------------------------------------------------------------

#[test]
fn a_list_passes_only_if_every_element_does() {
    let good = signed(r#"{"event":"PAYMENT RECEIVED","data":{"id":"T1"}}"#);
    let bare = r#"{"event":"PAYMENT RECEIVED","data":{"id":"T2"}}"#;
    let wrong = good.replace("T1", "T2");
    let good_data = signed(r#"{"id":"T1"}"#);
    let wrong_data = good_data.replace("T1", "T2");
    let in_data = |elements: &str| format!(r#"{{"event":"PAYMENT RECEIVED","data":[{elements}]}}"#);
    let missing = Err(Unauthentic::Missing);
    let refused = Err(Unauthentic::Wrong);
    let table = [
        (format!("[{good}]"), Ok(1)),
        (format!("[{good},{good}]"), Ok(2)),
        (format!("[[{good}],{good}]"), Ok(2)),
        (format!("[{good},{bare}]"), missing),
        (format!("[{bare},{good}]"), missing),
        (format!("[{good},{wrong}]"), refused),
        (format!("[{wrong},{good}]"), refused),
        (format!("[{good},[{wrong}]]"), refused),
        (format!("[{good},[]]"), missing),
        (format!("[{good},null]"), missing),
        (format!("[{good},\"text\"]"), missing),
        (in_data(&good_data), Ok(1)),
        (in_data(&format!("{good_data},{good_data}")), Ok(2)),
        (in_data(&format!(r#"{good_data},{{"id":"T2"}}"#)), missing),
        (in_data(&format!("{good_data},{wrong_data}")), refused),
        (in_data(&format!("{good_data},[]")), missing),
        (in_data(&format!("{good_data},5")), missing),
        (in_data(&format!("[{good_data}]")), missing),
        (format!("[{},{}]", in_data(&good_data), in_data(&good_data)), Ok(2)),
        // Each is proven, but no placement proves both.
        (format!("[{good},{}]", in_data(&good_data)), missing),
        (signed(&in_data(r#"{"id":"T1"},{"id":"T2"}"#)), Ok(1)),
    ];
    for (body, expected) in table {
        let found = proofs(&body, None, &checksum()).map(|proofs| proofs.len());
        assert_eq!(found, expected, "{body}");
    }
}

#[test]
fn an_empty_list_proves_nothing() {
    for placement in [None, Some(Placement::Root), Some(Placement::Data), Some(Placement::Header)] {
        for body in ["[]", "[[]]", "[[],[]]", r#"{"data":[]}"#, r#"[{"event":"X","data":[]}]"#] {
            let found = proofs(body, None, &policy(placement, true));
            assert_eq!(found, Err(Unauthentic::Missing), "{body}, pinned to {placement:?}");
        }
    }
}

#[test]
fn a_checksum_in_a_header_covers_a_whole_list() {
    let body = r#"[ {"event":"PAYMENT FAILED","data":{"id":"T1"}} , [] ]"#;
    let checksum = canonical_checksum(body);
    let found = proofs(body, Some(&checksum), &policy(None, false));
    assert_eq!(found, Ok(vec![(Placement::Header, Method::Canonical)]));
    let changed = body.replace("T1", "T2");
    let refused = proofs(&changed, Some(&checksum), &policy(None, false));
    assert_eq!(refused, Err(Unauthentic::Wrong));
}

/// In every form, so that nothing authentic is dropped and nothing is counted twice.
#[test]
fn a_list_has_an_event_for_every_element() {
    let table = [
        ("[]", 1),
        (r#"{"event":"PAYMENT FAILED","data":[]}"#, 1),
        (r#"{"event":"PAYMENT FAILED","data":[{"id":"T1"},{"id":"T2"},null]}"#, 3),
        (r#"[{"event":"PAYMENT FAILED","data":{"id":"T1"}},5,[]]"#, 3),
        (r#"[{"event":"PAYMENT FAILED","data":[{"id":"T1"},{"id":"T2"}]},{"data":[]}]"#, 3),
        (r#"[[{"event":"PAYMENT FAILED","data":{"id":"T1"}}]]"#, 1),
    ];
    for (body, expected) in table {
        let ids = with_events(body, &Policy::None, CIRCUMSTANCES, |events| {
            events.iter().map(|event| event.id).collect::<std::collections::BTreeSet<_>>()
        });
        assert_eq!(ids.unwrap().len(), expected, "different events of {body}");
    }
}
