//! HTTP that somebody before the relay could read in another way: each with its one answer, and
//! nothing but whole webhooks in Kafka.

use std::net::Shutdown;

use clickpesa_relay::http::WEBHOOKS;

use crate::harness::{App, Connection, Setup, payment, request, signed};

/// What comes back for bytes on a connection of their own: the status of each answer, and whether
/// the connection then ends.
fn exchange(app: &App, bytes: &[u8]) -> (Vec<u16>, bool) {
    let mut connection = Connection::open(app.http);
    connection.send(bytes);
    // Sent last, so that its answer tells that there is no other.
    connection.send(&request("PUT", WEBHOOKS, &[("connection", "close")], b""));
    let mut statuses = Vec::new();
    while let Some(answer) = connection.try_answer(true) {
        statuses.push(answer.status);
    }
    let is_open = statuses.last() == Some(&405);
    statuses.truncate(statuses.len() - usize::from(is_open));
    (statuses, is_open)
}

/// A signed webhook that no other call has given.
fn body(app: &App, case: &str) -> Vec<u8> {
    signed(&payment(&format!("{}{}", app.topic(""), const_hex::encode(case))))
}

/// A webhook with this head; `{length}` is that of its body.
fn posted(head: &str, body: &[u8]) -> Vec<u8> {
    let head = head.replace("{length}", &body.len().to_string());
    [format!("POST {WEBHOOKS} HTTP/1.1\r\nhost: relay\r\n{head}\r\n").as_bytes(), body].concat()
}

/// A body in one chunk, whose line of length is given but for the number.
fn chunked(line: &str, body: &[u8], end: &str) -> Vec<u8> {
    let line = line.replace("{length}", &format!("{:x}", body.len()));
    let chunk = [line.as_bytes(), body, end.as_bytes()].concat();
    posted("transfer-encoding: chunked\r\n", &chunk)
}

/// Asserts what comes back, and that as many webhooks are in Kafka as were answered with 200.
#[track_caller]
fn check(app: &App, case: &str, bytes: &[u8], expected: &[u16], is_open: bool) {
    let before = app.records("payment.received").len();
    assert_eq!(exchange(app, bytes), (expected.to_vec(), is_open), "{case:?}");
    let taken = app.records("payment.received").len() - before;
    let answered = expected.iter().filter(|status| **status == 200).count();
    assert_eq!(taken, answered, "{case:?}");
}

#[test]
fn where_a_body_ends_is_said_once() {
    let app = App::spawn();
    let length = "content-length: {length}\r\n";
    for (head, status) in [
        (length, 200),
        ("content-length:   {length}  \r\n", 200),
        ("content-length: 00{length}\r\n", 200),
        ("content-length: {length}\r\ncontent-length: {length}\r\n", 400),
        ("content-length: {length}\r\ncontent-length: 5\r\n", 400),
        ("content-length: {length}, {length}\r\n", 400),
        ("content-length: +{length}\r\n", 400),
        ("content-length: -{length}\r\n", 400),
        ("content-length: 0x{length}\r\n", 400),
        ("content-length: {length}.0\r\n", 400),
        ("content-length: {length}x\r\n", 400),
        ("content-length:\r\n", 400),
        ("content-length: 99999999999999999999\r\n", 400),
        ("content-length : {length}\r\n", 400),
        ("content-length: {length}\r\ntransfer-encoding: chunked\r\n", 400),
        ("transfer-encoding: chunked\r\ncontent-length: {length}\r\n", 400),
        ("content-length: {length}\r\ntransfer-encoding: identity\r\n", 400),
        ("content-length: {length}\r\ntransfer-encoding: x\r\n", 400),
    ] {
        check(&app, head, &posted(head, &body(&app, head)), &[status], status == 200);
    }
    for coding in ["chunked", "Chunked", "\tchunked"] {
        let chunks = chunked("{length}\r\n", &body(&app, coding), "\r\n0\r\n\r\n");
        let head = format!("transfer-encoding: {coding}");
        let bytes = String::from_utf8(chunks).unwrap();
        let bytes = bytes.replace("transfer-encoding: chunked", &head).into_bytes();
        check(&app, coding, &bytes, &[200], true);
    }
    for coding in [
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "xchunked",
        "\"chunked\"",
        "chunked;a=b",
        "identity",
        "chunked\r\ntransfer-encoding: chunked",
        "chunked\r\ntransfer-encoding: identity",
    ] {
        let chunks = chunked("{length}\r\n", &body(&app, coding), "\r\n0\r\n\r\n");
        let head = format!("transfer-encoding: {coding}");
        let bytes = String::from_utf8(chunks).unwrap();
        let bytes = bytes.replace("transfer-encoding: chunked", &head).into_bytes();
        check(&app, coding, &bytes, &[400], false);
    }
}

#[test]
fn chunks_are_read_strictly() {
    let app = App::spawn();
    for (line, end, status) in [
        ("{length}\r\n", "\r\n0\r\n\r\n", 200),
        ("0000{length}\r\n", "\r\n0\r\n\r\n", 200),
        ("{length};a=b\r\n", "\r\n0\r\n\r\n", 200),
        ("{length}\r\n", "\r\n0;a=b\r\n\r\n", 200),
        // Trailers say nothing.
        ("{length}\r\n", "\r\n0\r\nchecksum: x\r\n\r\n", 200),
        ("{length}\r\n", "\r\n0\r\ncontent-length: 3\r\nhost: x\r\n\r\n", 200),
        ("{length};a=\"\r\n\"\r\n", "\r\n0\r\n\r\n", 400),
        ("{length}\n", "\n0\n\n", 400),
        (" {length}\r\n", "\r\n0\r\n\r\n", 400),
        ("0x{length}\r\n", "\r\n0\r\n\r\n", 400),
        ("+{length}\r\n", "\r\n0\r\n\r\n", 400),
        ("-{length}\r\n", "\r\n0\r\n\r\n", 400),
        ("{length}_0\r\n", "\r\n0\r\n\r\n", 400),
        ("\r\n", "\r\n0\r\n\r\n", 400),
        ("ffffffffffffffffff\r\n", "\r\n0\r\n\r\n", 400),
        // One byte more, and one less, than there is.
        ("{length}\r\n", "0\r\n\r\n", 400),
        ("{length}\r\n", "x\r\n0\r\n\r\n", 400),
    ] {
        let case = format!("{line}{end}");
        let bytes = chunked(line, &body(&app, &case), end);
        check(&app, &case, &bytes, &[status], status == 200);
    }
}

#[test]
fn heads_are_read_strictly() {
    let app = App::spawn();
    for (head, status) in [
        // RFC 9112, 2.2: a line may end in a line feed alone.
        ("a: b\nc: d\r\n", 200),
        ("a: b\r\n c: d\r\n", 400),
        ("a: b\r\n\tc\r\n", 400),
        (" a: b\r\n", 400),
        ("a: b\rc: d\r\n", 400),
        ("a: b\0\r\n", 400),
        ("a b: c\r\n", 400),
        ("a\r\n", 400),
        (": a\r\n", 400),
        ("host: other\r\n", 400),
        ("expect: something-else\r\n", 200),
        ("connection: keep-alive, te\r\nte: trailers\r\n", 200),
    ] {
        let head = format!("content-length: {{length}}\r\n{head}");
        check(&app, &head, &posted(&head, &body(&app, &head)), &[status], status == 200);
    }
    let mut after_blank_lines = b"\r\n\r\n".to_vec();
    after_blank_lines.extend(request("POST", WEBHOOKS, &[], &body(&app, "blank lines")));
    check(&app, "blank lines", &after_blank_lines, &[200], true);
    let mut proxied = b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n".to_vec();
    proxied.extend(request("POST", WEBHOOKS, &[], &body(&app, "proxied")));
    check(&app, "proxied", &proxied, &[400], false);
    let all_bytes: Vec<_> = (0..=255).collect();
    check(&app, "all bytes", &all_bytes, &[400], false);
}

#[test]
fn targets_are_read_strictly() {
    let app = App::spawn();
    for (target, status) in [
        ("http://elsewhere.example/webhooks/clickpesa", 200),
        ("/webhooks/clickpesa#fragment", 200),
        ("//webhooks/clickpesa", 404),
        ("/webhooks//clickpesa", 404),
        ("/webhooks/../webhooks/clickpesa", 404),
        ("/webhooks/clickpesa/../clickpesa", 404),
        ("/./webhooks/clickpesa", 404),
        ("/WEBHOOKS/clickpesa", 404),
        ("/webhooks/click%70esa", 404),
        ("/webhooks/clickpesa%2fdefault", 404),
        ("/webhooks/clickpesa/%64efault", 404),
        ("/webhooks/clickpesa/default%00", 404),
        ("/webhooks/clickpesa/default%0d%0aa:b", 404),
        ("/webhooks/clickpesa;a=b", 404),
        ("*", 404),
    ] {
        let answer = app.ask("POST", target, &[], &body(&app, target));
        assert_eq!(answer.status, status, "{target}");
    }
    assert_eq!(app.records("payment.received").len(), 2, "those that were answered with 200");
    for target in ["webhooks/clickpesa", "/webhooks/clickpesa\u{1}", "/webhooks/clickpesa x", ""] {
        let bytes = request("POST", target, &[], &body(&app, target));
        check(&app, target, &bytes, &[400], false);
    }
}

#[test]
fn other_versions_and_protocols_are_not_spoken() {
    let app = App::spawn();
    let with = |version: &str, head: &str| {
        let body = body(&app, &format!("{version}{head}"));
        let bytes = posted(&format!("content-length: {{length}}\r\n{head}"), &body);
        let bytes = String::from_utf8(bytes).unwrap();
        bytes.replacen("HTTP/1.1", version, 1).into_bytes()
    };
    // What was sent before the answer ends the connection is answered too.
    check(&app, "1.0", &with("HTTP/1.0", ""), &[200], true);
    check(&app, "1.0 on", &with("HTTP/1.0", "connection: keep-alive\r\n"), &[200], true);
    for version in ["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "HTTP/1", "http/1.1", "HTTP/1.1 x", "ICY"] {
        check(&app, version, &with(version, ""), &[400], false);
    }
    check(&app, "0.9", format!("POST {WEBHOOKS}\r\n\r\n").as_bytes(), &[400], false);
    check(&app, "2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", &[400], false);
    let upgrade = |to: &str| format!("connection: upgrade\r\nupgrade: {to}\r\n");
    check(&app, "h2c", &with("HTTP/1.1", &upgrade("h2c")), &[200], true);
    check(&app, "websocket", &with("HTTP/1.1", &upgrade("WebSocket")), &[400], false);
    // What many a proxy adds to every request.
    check(&app, "upgrade alone", &with("HTTP/1.1", "connection: upgrade\r\n"), &[200], true);
}

#[test]
fn an_encoded_body_is_415() {
    let app = App::spawn();
    for (encoding, status) in
        [("identity", 200), ("Identity", 200), ("gzip", 415), ("br", 415), ("identity, gzip", 415)]
    {
        let head = format!("content-encoding: {encoding}\r\ncontent-length: {{length}}\r\n");
        check(&app, &head, &posted(&head, &body(&app, &head)), &[status], true);
    }
    let twice = [("content-encoding", "identity"), ("content-encoding", "gzip")];
    let answer = app.ask("POST", WEBHOOKS, &twice, &body(&app, "twice"));
    assert_eq!(answer.status, 415);
    assert_eq!(answer.header("accept-encoding"), Some("identity"));
    assert_eq!(answer.json()["type"], "urn:clickpesa-relay:problem:body_encoded");
    assert_eq!(app.samples().ended("rejected", "body_encoded"), 4.0);
}

#[test]
fn requests_in_a_row_are_answered_in_order() {
    let app = App::spawn();
    let good = |case: &str| request("POST", WEBHOOKS, &[], &body(&app, case));
    let bad = request("POST", WEBHOOKS, &[], b"{}");
    let three = [good("1"), bad.clone(), good("2")].concat();
    check(&app, "three", &three, &[200, 401, 200], true);
    // Behind what is no HTTP nothing is read.
    let broken = [good("3"), b"no HTTP\r\n\r\n".to_vec(), good("4")].concat();
    check(&app, "broken", &broken, &[200, 400], false);
    // A request inside a body is a body.
    let inside = request("POST", WEBHOOKS, &[], &good("5"));
    check(&app, "inside", &inside, &[400], true);
    let half = good("6");
    let mut connection = Connection::open(app.http);
    connection.send(&half[..half.len() - 5]);
    connection.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(connection.answer().status, 400);
}

/// A header that only a proxy may send counts by its last line, however many there are.
#[test]
fn who_forwards_is_read_from_the_right() {
    let app = Setup::new()
        .set("http.trusted_proxies", "127.0.0.0/8")
        .set("http.allow_from", "192.0.2.0/24")
        .spawn();
    for (head, status) in [
        ("x-forwarded-for: 192.0.2.1\r\n", 200),
        ("x-forwarded-for: 203.0.113.9, 192.0.2.1\r\n", 200),
        ("x-forwarded-for: 203.0.113.9\r\nx-forwarded-for: 192.0.2.1\r\n", 200),
        ("x-forwarded-for: 192.0.2.1, 203.0.113.9\r\n", 403),
        ("x-forwarded-for: 192.0.2.1\r\nx-forwarded-for: 203.0.113.9\r\n", 403),
        ("x-forwarded-for: 192.0.2.1, nonsense\r\n", 403),
        ("forwarded: for=192.0.2.1\r\n", 403),
        ("", 403),
    ] {
        let head = format!("{head}content-length: {{length}}\r\n");
        let mut connection = Connection::open(app.http);
        connection.send(&posted(&head, &body(&app, &head)));
        assert_eq!(connection.answer().status, status, "{head:?}");
    }
    // A line that is no text counts like any other.
    let body = body(&app, "no text");
    for (lines, status) in [
        (&b"x-forwarded-for: \xFF, 203.0.113.9\r\n"[..], 403),
        (b"x-forwarded-for: 192.0.2.1\r\nx-forwarded-for: \xFF, 203.0.113.9\r\n", 403),
        (b"x-forwarded-for: 192.0.2.1\r\nx-forwarded-for: \xFF\r\n", 403),
        (b"x-forwarded-for: \xFF, 192.0.2.1\r\n", 200),
    ] {
        let posted = request("POST", WEBHOOKS, &[], &body);
        let end = posted.windows(2).position(|two| two == b"\r\n").unwrap() + 2;
        let mut connection = Connection::open(app.http);
        connection.send(&[&posted[..end], lines, &posted[end..]].concat());
        assert_eq!(connection.answer().status, status, "{lines:?}");
    }
}
