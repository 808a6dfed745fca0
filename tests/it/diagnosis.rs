//! What a person is told who has to find out why a checksum does not hold.

use clickpesa_relay::webhook::{
    Unverified,
    canonical::{canonical, legacy},
    checksum::{ChecksumHeader, Key, Method, Placement},
    diagnosis::{Diagnosis, Scope, diagnose},
    json::Json,
};

use crate::support::{DEPTH_MAX, key};

const HEADER: &str = "x-clickpesa-signature";
const DATA: &str = r#"{"id":"T1","status":"SUCCESS","customer":{"customerName":"Asha"}}"#;

fn diagnosis(body: &str, header: Option<&str>) -> Diagnosis {
    let webhook = Unverified::parse(body.as_bytes(), DEPTH_MAX).unwrap();
    let keys = [Key::new("old", "another-key"), key()];
    let headers = [ChecksumHeader { name: HEADER.to_owned(), method: Method::Canonical }];
    let value = |name: &str| header.filter(|_| name == HEADER).map(str::as_bytes);
    diagnose(&webhook, &keys, &headers, value)
}

fn sign(json: &str, method: Method) -> String {
    let parsed = Json::parse(json.as_bytes(), DEPTH_MAX).unwrap();
    key().sign(&match method {
        Method::Canonical => canonical(&parsed),
        Method::Legacy => legacy(parsed.as_object().unwrap()),
        Method::Raw => json.as_bytes().to_vec(),
    })
}

/// An object with a member more.
fn with_checksum(object: &str, checksum: &str) -> String {
    format!(r#"{},"checksum":{checksum}}}"#, object.strip_suffix('}').unwrap())
}

fn envelope(data: &str) -> String {
    format!(r#"{{"event":"PAYMENT RECEIVED", "data":{data}}}"#)
}

#[test]
fn no_checksum() {
    let bodies = [
        envelope(DATA),
        with_checksum(&envelope(DATA), "null"),
        with_checksum(&envelope(DATA), r#""""#),
        envelope("[]"),
        "[]".to_owned(),
    ];
    for body in bodies {
        assert_eq!(diagnosis(&body, None), Diagnosis::NoChecksum, "{body}");
    }
    assert_eq!(
        Diagnosis::NoChecksum.to_string(),
        "no checksum in the root, in `data` or in a named header: is the checksum option of the \
         ClickPesa account switched on?"
    );
}

#[test]
fn no_hexadecimal_digits() {
    let cases = [
        (with_checksum(&envelope(DATA), r#""yes""#), None, Placement::Root),
        (with_checksum(&envelope(DATA), "17"), None, Placement::Root),
        (envelope(&with_checksum(DATA, r#""yes""#)), None, Placement::Data),
        (envelope(&with_checksum(DATA, "true")), None, Placement::Data),
        (envelope(DATA), Some("sha256=00"), Placement::Header),
    ];
    for (body, header, placement) in cases {
        let expected = Diagnosis::NotHexadecimal(placement);
        assert_eq!(diagnosis(&body, header), expected, "{body}, header {header:?}");
    }
    let words = |placement| Diagnosis::NotHexadecimal(placement).to_string();
    let expected = "the checksum in the root is not 64 hexadecimal digits";
    assert_eq!(words(Placement::Root), expected);
    assert_eq!(words(Placement::Data), expected.replace("the root", "`data`"));
    assert_eq!(words(Placement::Header), expected.replace("the root", "a header"));
}

/// Every placement with every scope and method: whichever the application does not accept, this
/// finds it.
#[test]
fn near() {
    let plain = envelope(DATA);
    let scopes = [
        (Scope::Body, Method::Canonical, sign(&plain, Method::Canonical)),
        (Scope::Body, Method::Legacy, sign(&plain, Method::Legacy)),
        (Scope::Data, Method::Canonical, sign(DATA, Method::Canonical)),
        (Scope::Data, Method::Legacy, sign(DATA, Method::Legacy)),
    ];
    for (scope, method, checksum) in scopes {
        let quoted = format!(r#""{checksum}""#);
        let near =
            |placement| Diagnosis::Near { key_id: "main".to_owned(), placement, scope, method };
        let in_root = diagnosis(&with_checksum(&plain, &quoted), None);
        assert_eq!(in_root, near(Placement::Root), "{scope:?} {method:?}");
        let in_header = diagnosis(&plain, Some(&checksum));
        assert_eq!(in_header, near(Placement::Header), "{scope:?} {method:?}");
        // In `data` a checksum of the whole body would have to cover itself.
        if scope == Scope::Data {
            let in_data = diagnosis(&envelope(&with_checksum(DATA, &quoted)), None);
            assert_eq!(in_data, near(Placement::Data), "{scope:?} {method:?}");
        }
    }
    let raw = diagnosis(&plain, Some(&sign(&plain, Method::Raw)));
    let expected = Diagnosis::Near {
        key_id: "main".to_owned(),
        placement: Placement::Header,
        scope: Scope::Body,
        method: Method::Raw,
    };
    assert_eq!(raw, expected);
    assert_eq!(
        raw.to_string(),
        "the raw method would match the whole body, with key `main` and the checksum in a \
         header: the application does not accept that"
    );
    let data = Diagnosis::Near {
        key_id: "old".to_owned(),
        placement: Placement::Data,
        scope: Scope::Data,
        method: Method::Legacy,
    };
    assert_eq!(
        data.to_string(),
        "the legacy method would match `data` alone, with key `old` and the checksum in `data`: \
         the application does not accept that"
    );
}

/// Lists are judged element by element, so their checksums are looked for there.
#[test]
fn in_lists() {
    let checksum = sign(&envelope(DATA), Method::Legacy);
    let legacy = with_checksum(&envelope(DATA), &format!(r#""{checksum}""#));
    let near = |placement, scope, method| Diagnosis::Near {
        key_id: "main".to_owned(),
        placement,
        scope,
        method,
    };
    assert_eq!(
        diagnosis(&format!("[{legacy}]"), None),
        near(Placement::Root, Scope::Body, Method::Legacy)
    );
    let data = with_checksum(DATA, &format!(r#""{}""#, sign(DATA, Method::Legacy)));
    assert_eq!(
        diagnosis(&envelope(&format!("[{data}]")), None),
        near(Placement::Data, Scope::Data, Method::Legacy)
    );
    let list = format!("[{}]", envelope(DATA));
    assert_eq!(
        diagnosis(&list, Some(&sign(&list, Method::Canonical))),
        near(Placement::Header, Scope::Body, Method::Canonical)
    );
    let unrelated = with_checksum(DATA, &format!(r#""{}""#, "0".repeat(64)));
    assert_eq!(diagnosis(&format!("[{unrelated}]"), None), Diagnosis::Unrelated(Placement::Root));
}

#[test]
fn unrelated() {
    let checksum = key().sign(b"something else");
    let quoted = format!(r#""{checksum}""#);
    let cases = [
        (with_checksum(&envelope(DATA), &quoted), None, Placement::Root),
        (envelope(&with_checksum(DATA, &quoted)), None, Placement::Data),
        (envelope(DATA), Some(checksum.as_str()), Placement::Header),
    ];
    for (body, header, placement) in cases {
        assert_eq!(diagnosis(&body, header), Diagnosis::Unrelated(placement), "{body}");
    }
    assert_eq!(
        Diagnosis::Unrelated(Placement::Root).to_string(),
        "the checksum in the root matches nothing: the key differs, or the body was changed after \
         it was signed"
    );
}

/// One that is near says more than one that is unrelated, wherever they stand.
#[test]
fn the_nearest_of_several() {
    let data = with_checksum(DATA, &format!(r#""{}""#, sign(DATA, Method::Legacy)));
    let body = with_checksum(&envelope(&data), &format!(r#""{}""#, "0".repeat(64)));
    let Diagnosis::Near { placement, .. } = diagnosis(&body, Some("junk")) else {
        panic!("{:?}", diagnosis(&body, Some("junk")));
    };
    assert_eq!(placement, Placement::Data);
}
