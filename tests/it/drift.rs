//! Every deviation from the documented shape that was seen in the wild or can be expected: the
//! body, what it becomes, and under which key.

use clickpesa_relay::webhook::checksum::Policy;
use serde_json::{Value, json};

use crate::support::{CIRCUMSTANCES, with_events};

/// What an event has to be: the end of its type, its key, and members by their JSON pointers,
/// where null stands for one that is absent.
struct Expected {
    suffix: &'static str,
    /// `ID` stands for the event's own id.
    key: &'static str,
    members: Value,
}

const ID: &str = "its own id";

/// An event that is understood.
fn event(suffix: &'static str, key: &'static str, members: Value) -> Expected {
    Expected { suffix, key, members }
}

/// An event that is not understood.
fn unrecognized(reason: &str, key: &'static str, mut members: Value) -> Expected {
    members["/data/reason"] = json!(reason);
    Expected { suffix: "unrecognized", key, members }
}

fn check(body: &str, expected: &[Expected]) {
    let events: Vec<Value> = with_events(body, &Policy::None, CIRCUMSTANCES, |events| {
        events.iter().map(|event| serde_json::to_value(event).unwrap()).collect()
    })
    .unwrap();
    assert_eq!(events.len(), expected.len(), "events of {body}");
    for (event, Expected { suffix, key, members }) in events.iter().zip(expected) {
        let key = if *key == ID { &event["id"] } else { &json!(key) };
        assert_eq!(event["type"], format!("com.clickpesa.{suffix}"), "type of {body}");
        assert_eq!(&event["partitionkey"], key, "key of {body}");
        assert_eq!(&event["subject"], key, "subject of {body}");
        let reason = event.pointer("/data/reason");
        assert_eq!(reason.is_some(), *suffix == "unrecognized", "reason in {body}");
        for (pointer, value) in members.as_object().unwrap() {
            let found = event.pointer(pointer).unwrap_or(&Value::Null);
            assert_eq!(found, value, "{pointer} of {body}");
        }
    }
}

/// One event a body.
fn check_all(table: Vec<(&str, Expected)>) {
    for (body, expected) in table {
        check(body, &[expected]);
    }
}

#[test]
fn event_names_in_every_spelling() {
    let named = |event: &str| format!(r#"{{"event":"{event}","data":{{"orderReference":"A1"}}}}"#);
    let table = [
        ("PAYMENT RECEIVED", "payment.received"),
        ("payment received", "payment.received"),
        ("Payment Received", "payment.received"),
        ("  PAYMENT \\t RECEIVED\\n", "payment.received"),
        ("PAYMENT_RECEIVED", "payment.received"),
        ("payment.received", "payment.received"),
        ("PAYMENT-FAILED", "payment.failed"),
        ("PAYOUT INITIATED", "payout.initiated"),
        ("PAYOUT REFUNDED", "payout.refunded"),
        ("PAYOUT REVERSED", "payout.reversed"),
        ("DEPOSIT RECEIVED", "deposit.received"),
    ];
    for (name, suffix) in table {
        check(&named(name), &[event(suffix, "A1", json!({ "/data/event": null }))]);
    }
    let unknown = [
        "PAYMENT",
        "PAYMENTRECEIVED",
        "PAYMENT RECEIVED TWICE",
        "PAYMENT REVERSED",
        "PAYOUT RECEIVED",
        "PAYMENT ON-HOLD",
        // Kinds of the relay's own, and no names of ClickPesa's.
        "CHECKOUT COMPLETED",
        "unrecognized",
        "rejected",
        "PAYMENT RECEIVED; DROP TOPIC",
        "é",
    ];
    for name in unknown {
        let members = json!({ "/data/event": name, "/data/orderReference": "A1" });
        check(&named(name), &[unrecognized("unknown_event", "A1", members)]);
    }
}

#[test]
fn the_name_of_the_event_in_every_place() {
    check_all(vec![
        (
            r#"{"eventType":"PAYMENT FAILED","data":{"orderReference":"A1"}}"#,
            event("payment.failed", "A1", json!({})),
        ),
        (
            r#"{"event":"PAYMENT RECEIVED","eventType":"PAYMENT FAILED","data":{"orderReference":"A1"}}"#,
            event("payment.received", "A1", json!({})),
        ),
        (
            r#"{"event":null,"eventType":"PAYMENT FAILED","data":{"orderReference":"A1"}}"#,
            event("payment.failed", "A1", json!({})),
        ),
        (
            r#"{"event":" ","eventType":"PAYMENT FAILED","data":{"orderReference":"A1"}}"#,
            event("payment.failed", "A1", json!({})),
        ),
        (
            r#"{"event":"PAYMENT FAILED","event":"PAYMENT RECEIVED","data":{"orderReference":"A1"}}"#,
            event("payment.received", "A1", json!({})),
        ),
        (
            r#"{"data":{"event":"PAYMENT RECEIVED","orderReference":"A1","status":"SUCCESS"}}"#,
            unrecognized("no_event", "A1", json!({ "/data/status": "SUCCESS" })),
        ),
        (
            r#"{"event":5,"data":{"orderReference":"A1"}}"#,
            unrecognized("unknown_event", "A1", json!({ "/data/event": "5" })),
        ),
    ]);
}

#[test]
fn data_in_every_place_and_of_every_type() {
    check_all(vec![
        // Beside the name of the event.
        (
            r#"{"event":"PAYMENT FAILED","id":"T1","orderReference":"A1"}"#,
            event("payment.failed", "A1", json!({ "/data/original/event": "PAYMENT FAILED" })),
        ),
        (
            r#"{"event":"PAYMENT FAILED","data":null,"orderReference":"A1"}"#,
            event("payment.failed", "A1", json!({ "/data/original/data": null })),
        ),
        (
            r#"{"event":"PAYMENT FAILED","data":null}"#,
            unrecognized("no_known_field", ID, json!({ "/data/event": "PAYMENT FAILED" })),
        ),
        (r#"{"event":"PAYMENT FAILED"}"#, unrecognized("no_known_field", ID, json!({}))),
        (
            r#"{"event":"PAYMENT FAILED","data":"text"}"#,
            unrecognized("not_an_object", ID, json!({ "/data/original": "text" })),
        ),
        (
            r#"{"event":"PAYMENT FAILED","data":17}"#,
            unrecognized("not_an_object", ID, json!({ "/data/original": 17 })),
        ),
        (
            r#"{"event":"PAYMENT FAILED","data":false,"orderReference":"A1"}"#,
            unrecognized("not_an_object", ID, json!({ "/data/original": false })),
        ),
        (
            r#"{"event":"PAYMENT FAILED","data":{}}"#,
            unrecognized("no_known_field", ID, json!({ "/data/original": {} })),
        ),
        (
            r#"{"event":"PAYMENT FAILED","data":{"order_reference":"A1"}}"#,
            unrecognized("no_known_field", ID, json!({ "/data/original/order_reference": "A1" })),
        ),
        ("{}", unrecognized("no_event", ID, json!({ "/data/original": {} }))),
    ]);
}

#[test]
fn a_flat_body_is_a_checkout_only_if_it_was_paid() {
    let flat = |status: &str| {
        format!(
            r#"{{"status":{status},"paymentReference":"P1","orderReference":"A1","collectedAmount":"35280","collectedCurrency":"TZS"}}"#
        )
    };
    for status in [r#""SUCCESS""#, r#""SETTLED""#, r#""success""#] {
        let members = json!({ "/data/amount": "35280", "/data/currency": "TZS",
            "/data/paymentReference": "P1", "/time": CIRCUMSTANCES.received });
        check(&flat(status), &[event("checkout.completed", "A1", members)]);
    }
    for status in [
        r#""PROCESSING""#,
        r#""PENDING""#,
        r#""FAILED""#,
        r#""ON-HOLD""#,
        r#""REFUNDED""#,
        r#""REVERSED""#,
        r#""UNSUCCESSFUL""#,
        r#""""#,
        "null",
        "true",
        r#"{"name":"SUCCESS"}"#,
    ] {
        let members = json!({ "/data/amount": "35280", "/data/event": null });
        check(&flat(status), &[unrecognized("no_event", "A1", members)]);
    }
    // It names an event, if not one that can be read: a checkout names none.
    for name in [r#""event":{"name":"PAYMENT FAILED"}"#, r#""eventType":["PAYMENT FAILED"]"#] {
        let body = flat(r#""SUCCESS""#).replacen('{', &format!("{{{name},"), 1);
        check(&body, &[unrecognized("no_event", "A1", json!({}))]);
    }
    let bad_amount = flat(r#""SUCCESS""#).replace("35280", "much");
    check(&bad_amount, &[unrecognized("bad_amount", "A1", json!({ "/data/amount": null }))]);
}

#[test]
fn lists_as_body_and_as_data() {
    check(
        r#"[{"event":"PAYMENT RECEIVED","data":{"orderReference":"A1"}},
            {"eventType":"PAYMENT FAILED","data":{"orderReference":"A2"}},
            {"status":"SUCCESS","orderReference":"A3"},
            {"event":"PAYMENT SPLIT","data":{"orderReference":"A4"}}]"#,
        &[
            event("payment.received", "A1", json!({})),
            event("payment.failed", "A2", json!({})),
            event("checkout.completed", "A3", json!({})),
            unrecognized("unknown_event", "A4", json!({ "/data/event": "PAYMENT SPLIT" })),
        ],
    );
    check(
        r#"{"event":"PAYMENT RECEIVED","data":[{"orderReference":"A1"},null,"text",[{"orderReference":"A2"}],{"amount":"x","orderReference":"A3"}]}"#,
        &[
            event("payment.received", "A1", json!({ "/data/original/orderReference": "A1" })),
            unrecognized("not_an_object", ID, json!({ "/data/original": null })),
            unrecognized("not_an_object", ID, json!({ "/data/original": "text" })),
            unrecognized("not_an_object", ID, json!({ "/data/original/0/orderReference": "A2" })),
            unrecognized("bad_amount", "A3", json!({ "/data/event": "PAYMENT RECEIVED" })),
        ],
    );
    check_all(vec![
        ("[]", unrecognized("empty_list", ID, json!({ "/data/original": [] }))),
        (
            r#"{"event":"PAYMENT RECEIVED","data":[]}"#,
            unrecognized("empty_list", ID, json!({ "/data/event": "PAYMENT RECEIVED" })),
        ),
        ("[[]]", unrecognized("no_event", ID, json!({ "/data/original": [] }))),
        ("[5]", unrecognized("no_event", ID, json!({ "/data/original": 5 }))),
        (
            r#"[{"event":"PAYMENT RECEIVED","data":[{"orderReference":"A1"}]}]"#,
            event("payment.received", "A1", json!({})),
        ),
    ]);
}

/// A payment with these members; the others that an event needs are there.
fn payment(members: &str) -> String {
    format!(r#"{{"event":"PAYMENT RECEIVED","data":{{"status":"SUCCESS",{members}}}}}"#)
}

#[test]
fn the_key_falls_back_to_the_next_reference_that_can_be_one() {
    let table = [
        (r#""id":"T1","paymentReference":"P1","orderReference":"A1""#, "A1"),
        (r#""id":"T1","paymentReference":"P1","orderReference":null"#, "P1"),
        (r#""id":"T1","paymentReference":"P1","orderReference":"""#, "P1"),
        (r#""id":"T1","paymentReference":"P1","orderReference":"  ""#, "P1"),
        (r#""id":"T1","paymentReference":"P1","orderReference":"A\n1""#, "P1"),
        (r#""id":"T1","paymentReference":"P1","orderReference":"A\u00001""#, "P1"),
        (r#""id":"T1","paymentReference":"P1","orderReference":"A\u0085""#, "P1"),
        (r#""id":"T1","paymentReference":"P1","orderReference":{"a":1}"#, "P1"),
        (r#""id":"T1","paymentReference":"","orderReference":["A1"]"#, "T1"),
        (r#""id":"T1""#, "T1"),
        (r#""paymentId":"T1""#, "T1"),
        (r#""transactionId":"T1""#, "T1"),
        (r#""id":"","paymentId":null,"transactionId":"T1""#, "T1"),
        (r#""id":"T\u007f","paymentReference":"\t","orderReference":"\u001b""#, ID),
        (r#""channel":"M-PESA""#, ID),
        // Kept as they are: only what cannot be a key is passed over.
        (r#""orderReference":" A1 ""#, " A1 "),
        (r#""orderReference":"Saïd 🙏🏾/..""#, "Saïd 🙏🏾/.."),
        (r#""orderReference":"A1","orderReference":"A2""#, "A2"),
    ];
    for (members, key) in table {
        check(&payment(members), &[event("payment.received", key, json!({}))]);
    }
}

#[test]
fn control_characters_stay_in_the_data() {
    let members =
        json!({ "/data/orderReference": "A\n1", "/data/original/orderReference": "A\n1" });
    let body = payment(r#""orderReference":"A\n1""#);
    check(&body, &[event("payment.received", ID, members)]);
}

/// JavaScript can send half a surrogate pair, and UTF-8 cannot: it stays where its escape does.
#[test]
fn a_lone_surrogate_stays_in_the_original_alone() {
    let body = payment(r#""orderReference":"A\ud800","paymentReference":"P1""#);
    with_events(&body, &Policy::None, CIRCUMSTANCES, |events| {
        let [event] = events else { panic!("{} events", events.len()) };
        assert_eq!(event.kind.suffix(), "payment.received");
        assert_eq!((event.partitionkey.as_ref(), event.data.order_reference), ("P1", None));
        assert!(event.data.original.get().contains(r#""orderReference":"A\ud800""#));
    })
    .unwrap();
}

#[test]
fn numbers_null_and_empty_strings_in_fields() {
    let table = [
        (r#""id":123"#, "123", json!({ "/data/transactionId": "123" })),
        (
            r#""orderReference":55042914871931,"collectedAmount":35280.50"#,
            "55042914871931",
            json!({ "/data/orderReference": "55042914871931", "/data/amount": "35280.50" }),
        ),
        (
            r#""id":"T1","amount":1e4,"fee":2360"#,
            "T1",
            json!({ "/data/amount": "10000", "/data/fee": "2360" }),
        ),
        (
            r#""id":"T1","collectedAmount":null,"amount":"7.00""#,
            "T1",
            json!({ "/data/amount": "7.00" }),
        ),
        (
            r#""id":"T1","collectedAmount":"","depositAmount":"7""#,
            "T1",
            json!({ "/data/amount": "7" }),
        ),
        (r#""id":"T1","collectedAmount":"""#, "T1", json!({ "/data/amount": null })),
        (
            r#""id":"T1","collectedAmount":"5","amount":"junk""#,
            "T1",
            json!({ "/data/amount": "5" }),
        ),
        (
            r#""id":"T1","channel":null,"message":"","notes":true,"clientId":{}"#,
            "T1",
            json!({ "/data/channel": null, "/data/message": "", "/data/notes": null,
                "/data/clientId": null, "/data/original/notes": true }),
        ),
        (
            r#""id":"T1","customer":null,"beneficiary":"Asha","refund":[],"reverse":{},"exchange":{"rate":null}"#,
            "T1",
            json!({ "/data/customer": null, "/data/beneficiary": null, "/data/refund": null,
                "/data/reverse": null, "/data/exchange": null }),
        ),
        (
            r#""id":"T1","customer":{"customerName":"","name":"Asha","customerPhoneNumber":255712000001}"#,
            "T1",
            json!({ "/data/customer": { "name": "Asha", "phone": "255712000001" } }),
        ),
        (
            r#""id":"T1","settlementType":"ACH","transferType":null"#,
            "T1",
            json!({ "/data/transferType": "ACH" }),
        ),
        (
            r#""id":"T1","reverse":{"reversedWithFee":false}"#,
            "T1",
            json!({ "/data/reverse": { "withFee": false } }),
        ),
        (
            r#""id":"T1","exchange":{"sourceCurrency":"USD","targetCurrency":"TZS","sourceAmount":10,"rate":2550.125}"#,
            "T1",
            json!({ "/data/exchange": { "sourceCurrency": "USD", "targetCurrency": "TZS",
                "sourceAmount": "10", "rate": "2550.125" } }),
        ),
    ];
    for (members, key, expected) in table {
        check(&payment(members), &[event("payment.received", key, expected)]);
    }
    for bad in [
        r#""fee":"free""#,
        r#""beneficiary":{"amount":[]}"#,
        r#""exchange":{"rate":"1:2"}"#,
        r#""collectedAmount":"junk","amount":"5""#,
    ] {
        let body = payment(&format!(r#""id":"T1",{bad}"#));
        let members = json!({ "/data/event": "PAYMENT RECEIVED", "/data/transactionId": "T1" });
        check(&body, &[unrecognized("bad_amount", "T1", members)]);
    }
}

#[test]
fn the_time_falls_back_to_the_next_that_is_one() {
    let updated = "2026-05-21T10:57:56.153Z";
    let table = [
        (r#""2026-05-21T10:57:56.153Z""#, updated),
        (r#""2026-05-21T10:57:56Z""#, "2026-05-21T10:57:56Z"),
        (r#""2026-05-21T10:57:56.100Z""#, "2026-05-21T10:57:56.100Z"),
        // Times, in other forms than RFC 3339.
        (r#""2026-05-21T13:57:56.153+03:00""#, updated),
        (r#""2026-05-21 10:57:56.153Z""#, updated),
        (r#""2026-05-21t10:57:56,153z""#, updated),
        (r#""20260521T105756.153Z""#, updated),
        (r#""2026-05-21T13:57:56.153+03:00[Africa/Dar_es_Salaam]""#, updated),
        // No times, or not of one moment.
        (r#""2026-05-21T10:57:56.153""#, "2026-01-01T00:00:00.000Z"),
        (r#""2026-05-21""#, "2026-01-01T00:00:00.000Z"),
        (r#""2026-02-30T10:57:56Z""#, "2026-01-01T00:00:00.000Z"),
        (r#""-000001-01-01T00:00:00Z""#, "2026-01-01T00:00:00.000Z"),
        (r#""Thu, 21 May 2026 10:57:56 GMT""#, "2026-01-01T00:00:00.000Z"),
        (r#""2026-05-21T10:57:56Z\n""#, "2026-01-01T00:00:00.000Z"),
        ("1779361076153", "2026-01-01T00:00:00.000Z"),
        (r#""""#, "2026-01-01T00:00:00.000Z"),
        ("null", "2026-01-01T00:00:00.000Z"),
        ("{}", "2026-01-01T00:00:00.000Z"),
    ];
    for (text, time) in table {
        let body = payment(&format!(
            r#""id":"T1","createdAt":"2026-01-01T00:00:00.000Z","updatedAt":{text}"#
        ));
        check(&body, &[event("payment.received", "T1", json!({ "/time": time }))]);
    }
    let neither = payment(r#""id":"T1","createdAt":"yesterday","updatedAt":"today""#);
    let members = json!({ "/time": CIRCUMSTANCES.received,
        "/data/createdAt": "yesterday", "/data/updatedAt": "today" });
    check(&neither, &[event("payment.received", "T1", members)]);
}
