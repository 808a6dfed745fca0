//! JSON from somebody who means harm: what is refused, what is taken as JavaScript takes it, what
//! costs no more than its length, and what cannot break out of its place.

use std::time::{Duration, Instant};

use clickpesa_relay::http::WEBHOOKS;
use serde_json::{Value, json};

use crate::harness::{App, Process, Setup, ask, header, payment, request, signed};

/// A relay that asks for no checksum: what is JSON is taken, so that JSON is what is judged.
fn open() -> App {
    Setup::new()
        .without("applications.default.checksum_keys.main")
        .set("applications.default.authentication", "none")
        .spawn()
}

/// A webhook with this as a member of its data.
fn with(member: &[u8]) -> Vec<u8> {
    let (front, end) = (br#"{"event":"PAYMENT RECEIVED","data":{"id":"T-1","x":"#, b"}}");
    [front, member, end].concat()
}

#[test]
fn what_javascript_would_not_parse_is_refused() {
    let app = open();
    let members: [&[u8]; 31] = [
        b"NaN",
        b"Infinity",
        b"-Infinity",
        b"undefined",
        b"01",
        b"+1",
        b".5",
        b"1.",
        b"1e",
        b"- 1",
        b"0x1F",
        b"1_000",
        b"'a'",
        b"\"a",
        b"\"\\x41\"",
        b"\"\\u12\"",
        b"\"\\u{41}\"",
        b"\"a\nb\"",
        b"\"a\tb\"",
        b"\"a\0b\"",
        b"\0",
        b"[1,]",
        b"[,1]",
        b"{\"a\":1,}",
        b"{a:1}",
        b"{\"a\" 1}",
        b"1/* one */",
        b"True",
        // Bytes that are no UTF-8: cut off, overlong, a surrogate, beyond Unicode.
        b"\"\xC3\"",
        b"\"\xC0\xAF\"",
        b"\"\xED\xA0\x80\"",
    ];
    for member in members {
        assert_eq!(app.post(with(member)).status, 400, "{}", member.escape_ascii());
    }
    let whole = with(b"1");
    for body in [
        [b"\xEF\xBB\xBF", &whole[..]].concat(),
        [&whole[..], b"\0"].concat(),
        [&whole[..], b"x"].concat(),
        [&whole[..], &whole[..]].concat(),
        [b",", &whole[..]].concat(),
        [b"\x0B", &whole[..]].concat(),
        whole.iter().flat_map(|byte| [*byte, 0]).collect(),
        whole[..whole.len() - 1].to_vec(),
    ] {
        assert_eq!(app.post(&body).status, 400, "{}", body.escape_ascii());
    }
    assert_eq!(app.records("payment.received").len(), 0);
}

/// What is odd and allowed reaches consumers as it came.
#[test]
fn what_javascript_would_parse_is_taken_as_it_is() {
    let app = open();
    let long = format!("1{}", "0".repeat(5000));
    let members = [
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#""\u0000""#,
        r#""\u2028 \/ <script>""#,
        "1e999",
        "-1e-999",
        "-0",
        "0.1e1",
        &long,
        r#"{"a":1,"a":2}"#,
        r#"{"__proto__":{"a":1},"constructor":2}"#,
        r#"{"":{"":[[],{}]}}"#,
        "[ 1 ,\t2,\r\n3 ]",
    ];
    for (number, member) in members.iter().enumerate() {
        let answer = app.post(with(member.as_bytes()));
        let text = String::from_utf8(app.record_at(&answer.events()[0]).value).unwrap();
        let end = format!(r#""original":{{"id":"T-1","x":{member}}}}}}}"#);
        assert!(text.ends_with(&end), "{number}: {text}");
    }
}

/// Of a repeated name the last counts, for the checksum and for the event, as in JavaScript.
#[test]
fn of_a_repeated_name_the_last_counts() {
    let app = App::spawn();
    let twice = |first: &str| {
        let body = String::from_utf8(signed(&payment("REF-1"))).unwrap();
        body.replacen(r#""data":{"#, &format!(r#""data":{{{first},"#), 1).into_bytes()
    };
    let event = &app.post(twice(r#""collectedAmount":"9","status":"FAILED""#)).events()[0];
    let event: Value = serde_json::from_slice(&app.record_at(event).value).unwrap();
    assert_eq!(event["data"]["amount"], "1500.50");
    assert_eq!(event["data"]["status"], "SUCCESS");
    // In the other order the false one would count, and does not verify.
    let body = String::from_utf8(signed(&payment("REF-2"))).unwrap();
    let last = body.replacen(r#""customer":"#, r#""status":"FAILED","customer":"#, 1);
    assert_ne!(last, body);
    assert_eq!(app.post(last).status, 401);
    let last = body.replacen(r#""event":"#, r#""event":"PAYMENT FAILED","event":"#, 1);
    assert_eq!(app.post(&last).status, 200);
    let last = body.replacen(r#""data":"#, r#""event":"PAYMENT FAILED","data":"#, 1);
    assert_eq!(app.post(last).status, 401);
}

/// Bodies of the largest size, made to cost more than their length.
#[test]
fn bombs_cost_no_more_than_their_length() {
    const BYTES: usize = 262_144 - 200;
    let app = App::spawn();
    let plain = with(format!("\"{}\"", "a".repeat(BYTES)).as_bytes());
    let repeat = |unit: &str| unit.repeat(BYTES / unit.len());
    let list = |unit: &str| format!("[{}0]", repeat(&format!("{unit},")));
    // Names that many a hash puts in one bucket, names that are one, and names that sort slowly.
    let colliding: String = (0..BYTES / 40)
        .map(|number| format!("{number:016b}").replace('0', "Aa").replace('1', "BB"))
        .map(|name| format!(r#""{name}":0,"#))
        .collect();
    let descending: String =
        (0..BYTES / 14).rev().map(|number| format!(r#""{number:09}":0,"#)).collect();
    let bombs = [
        list("{}"),
        list("[]"),
        list(r#"{"a":1}"#),
        list("[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]"),
        list("1e308"),
        list(r#""\ud800""#),
        format!("{{{}\"z\":0}}", repeat(r#""a":0,"#)),
        format!("{{{colliding}\"z\":0}}"),
        format!("{{{descending}\"z\":0}}"),
        format!("{{{}\"z\":0}}", repeat(r#""\u0061\u00e9":0,"#)),
        "9".repeat(BYTES),
        format!("0.{}1", "0".repeat(BYTES)),
        format!("\"{}\"", repeat(r"\u001f")),
        format!("\"{}\"", "😀".repeat(BYTES / 4)),
        format!("{}1{}", "[".repeat(29), "]".repeat(29)),
    ];
    let time = |body: &[u8], status: u16| {
        let started = Instant::now();
        let answer = app.post(body);
        assert_eq!(answer.status, status, "{answer:?}");
        started.elapsed()
    };
    // A checksum that has to be compared, and so a text that has to be made.
    let claimed = |body: &[u8]| {
        let front = format!(r#"{{"checksum":"{}","#, "0".repeat(64));
        [front.as_bytes(), &body[1..]].concat()
    };
    time(&claimed(&plain), 401);
    let plain = time(&claimed(&plain), 401);
    for bomb in bombs {
        let took = time(&claimed(&with(bomb.as_bytes())), 401);
        let start = bomb.get(..20.min(bomb.len())).unwrap_or("😀");
        println!("{start:20} {took:?}, plain {plain:?}");
        // This build is not optimised; what is quadratic takes minutes.
        assert!(took < Duration::from_secs(2), "{start}: {took:?}, and {plain:?} for plain text");
    }
}

/// An amount that would take gigabytes when written out, and other texts where a number is.
#[test]
fn amounts_are_bounded() {
    let app = open();
    for amount in ["1e999999999", "1e-999999999", "9e99999999999999999999", "0x10", "١٥٠٠", "NaN"]
    {
        let body = json!({ "event": "PAYMENT RECEIVED",
            "data": { "id": amount, "collectedAmount": amount } });
        let event = &app.post(body.to_string()).events()[0];
        assert_eq!(event["topic"], app.topic("unrecognized"), "{amount}");
    }
}

/// Texts that would be more than text in a log, a header, a terminal or a label.
const BREAKOUTS: [&str; 8] = [
    "x\r\nINJECTED: 1",
    "x\nINJECTED",
    "x\"} INJECTED{a=\"",
    "x\u{1b}[2JINJECTED",
    "x\0INJECTED",
    "x\u{2028}INJECTED\u{85}",
    "\",\"level\":\"ERROR\",\"INJECTED\":\"",
    "%0d%0aINJECTED",
];

#[test]
fn texts_stay_texts() {
    for format in ["text", "json"] {
        let process =
            Process::serve(&Setup::new().set("log.level", "debug").set("log.format", format));
        let address = process.address("http.listen");
        let mut posts = 0;
        for text in BREAKOUTS {
            let members = ["id", "orderReference", "status", "updatedAt", "channel", text];
            let data: serde_json::Map<_, _> =
                members.iter().map(|name| ((*name).to_owned(), json!(text))).collect();
            for event in [text, "PAYMENT RECEIVED"] {
                let body = json!({ "event": event, "data": data }).to_string();
                for body in [signed(&body), body.into_bytes()] {
                    let headers =
                        [("x-clickpesa-signature", "INJECTED"), ("user-agent", "INJECTED")];
                    let answer = ask(address, &request("POST", WEBHOOKS, &headers, &body));
                    assert!([200, 401].contains(&answer.status), "{answer:?}");
                    assert!(!answer.body.contains("INJECTED") && !answer.head.contains("INJECTED"));
                    posts += 1;
                }
            }
        }
        ask(address, &request("POST", "/INJECTED?INJECTED", &[], b"INJECTED"));
        ask(address, &request("INJECTED", WEBHOOKS, &[], b""));
        let page = process.page("/metrics");
        assert!(!page.contains("INJECTED"), "{page}");
        process.signal("TERM");
        process.await_text("stopped");
        let lines = process.lines();
        let of_webhooks = lines
            .iter()
            .filter(|line| line.contains("webhook published") || line.contains("webhook rejected"));
        assert_eq!(of_webhooks.count(), posts + 2);
        for line in &lines {
            assert!(!line.contains("INJECTED") && !line.contains(char::is_control), "{line:?}");
        }
    }
}

#[test]
fn what_librdkafka_says_is_one_line() {
    for format in ["text", "json"] {
        let setup = Setup::at("x\u{1b}[2J\ny\u{85}é:1").set("log.format", format);
        let process = Process::serve(&setup);
        process.await_text("Failed to resolve");
        process.signal("TERM");
        process.await_text("stopped");
        let lines = process.lines();
        let told = lines.iter().find(|line| line.contains("Failed to resolve")).unwrap();
        let newline = if format == "json" { r"\n" } else { r"\u000a" };
        let shown = format!(r"x\u001b[2J{newline}y\u0085é:1");
        assert!(told.contains(&shown), "{told}");
        for line in &lines {
            assert!(!line.contains(char::is_control), "{line:?}");
            assert!(format == "text" || serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
    }
}

#[test]
fn headers_of_records_are_one_line_each() {
    let app = open();
    for text in BREAKOUTS {
        let body = json!({ "event": "PAYMENT RECEIVED",
            "data": { "id": text, "orderReference": text, "updatedAt": text, "createdAt": text } });
        let record = app.record_at(&app.post(body.to_string()).events()[0]);
        for (name, value) in &record.headers {
            let value = std::str::from_utf8(value).unwrap();
            assert!(!value.contains(char::is_control), "{name}: {value:?}");
        }
        assert_eq!(header(&record, "ce_subject"), header(&record, "ce_partitionkey"));
        let event: Value = serde_json::from_slice(&record.value).unwrap();
        assert_eq!(event["data"]["orderReference"], text, "the text itself is kept");
    }
}
