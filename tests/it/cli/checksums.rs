//! `sign` and `verify`: offline.

use std::{fs, path::Path};

use clickpesa_relay::webhook::{canonical::legacy, checksum::Key, json::Json};
use serde_json::{Value, json};

use super::process::{command, relay_ends, run};

const KEY: &str = "CHK-k3y";
const BODY: &str =
    r#" {"event":"PAYMENT RECEIVED","data":{"b":"2","a":{"d":"é\u00e9","c":[1,2.50]}}} "#;

fn sign(arguments: &[&str], body: &str) -> String {
    let arguments = [&["sign", "--key", KEY], arguments].concat();
    let ended = relay_ends(0, &arguments, body);
    assert_eq!(ended.err, "");
    ended.out
}

fn verify(code: i32, arguments: &[&str], body: &str) -> String {
    let arguments = [&["verify", "--key", KEY], arguments].concat();
    let ended = relay_ends(code, &arguments, body);
    assert_eq!(ended.err, "");
    ended.out
}

/// As ClickPesa's own example computes it, by Node's HMAC.
fn signed_by_node(body: &str) -> String {
    let program = "const sorted = (v) => Array.isArray(v) ? v.map(sorted)\n\
                   : v === null || typeof v !== 'object' ? v\n\
                   : Object.fromEntries(Object.keys(v).sort().map((k) => [k, sorted(v[k])]));\n\
                   const body = require('fs').readFileSync(0, 'utf8');\n\
                   const text = JSON.stringify(sorted(JSON.parse(body)));\n\
                   const hmac = require('crypto').createHmac('sha256', process.argv[1]);\n\
                   console.log(hmac.update(text).digest('hex'));";
    let ended = run(command("node").args(["-e", program, KEY]), body.as_bytes());
    assert_eq!((ended.code, ended.err.as_str()), (Some(0), ""));
    ended.out
}

#[test]
fn a_checksum_is_what_node_computes() {
    assert_eq!(sign(&[], BODY), signed_by_node(BODY));
    let data = json!({ "b": "2", "a": { "d": "éé", "c": [1, 2.5] } }).to_string();
    assert_eq!(sign(&["--placement", "data"], BODY), signed_by_node(&data));
    assert_eq!(sign(&["--placement", "header"], BODY), sign(&[], BODY));
}

#[test]
fn an_embedded_checksum_leaves_the_text_as_it_is() {
    for (placement, [before, after]) in [("root", ["}}", "} "]), ("data", ["[1,2.50]}", "}} "])] {
        let signed = sign(&["--embed", "--placement", placement], BODY);
        let checksum = sign(&["--placement", placement], BODY);
        let members =
            format!(",\"checksum\":\"{}\",\"checksumMethod\":\"canonical\"", checksum.trim());
        let without = signed.replace(&members, "");
        assert_eq!(without, BODY, "nothing but the members was put in");
        assert!(signed.ends_with(&format!("{before}{members}{after}")), "{signed}");
        let verified = verify(0, &[], &signed);
        let expected = format!("authentic: key `given`, placement {placement}, method canonical\n");
        assert_eq!(verified, expected);
    }
    assert!(sign(&["--embed"], "{}").starts_with("{\"checksum\":"));
    let ended = relay_ends(2, &["sign", "--key", KEY, "--embed", "--placement", "header"], "{}");
    assert!(ended.err.contains("leave out `--embed`"), "{}", ended.err);
}

#[test]
fn what_cannot_be_signed_is_named() {
    let cases = [
        ("", &[][..], "the body is empty"),
        ("{", &[], "not JSON"),
        ("3", &[], "neither an object nor a list"),
        ("[]", &["--embed"], "no object in the root"),
        ("{\"data\":[]}", &["--placement", "data"], "no object in `data`"),
    ];
    for (body, arguments, words) in cases {
        let arguments = [&["sign", "--key", KEY], arguments].concat();
        let ended = relay_ends(1, &arguments, body);
        let expected = ["error: cannot sign the body: ", words];
        assert!(expected.iter().all(|words| ended.err.contains(words)), "{}", ended.err);
        assert_eq!(ended.out, "");
    }
    let ended = relay_ends(1, &["sign", "--key", KEY, "/nowhere/body.json"], "");
    assert!(ended.err.contains("cannot read `/nowhere/body.json`: No such file"), "{}", ended.err);
    for arguments in [["--key", ""], ["--key-file", "/dev/null"]] {
        let ended = relay_ends(2, &["sign", arguments[0], arguments[1]], "{}");
        assert!(ended.err.contains("the checksum key that was given is empty"), "{}", ended.err);
    }
}

#[test]
fn a_key_and_a_body_can_be_files() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (key, body) = (directory.join("cli-sign-key"), directory.join("cli-sign-body"));
    fs::write(&key, format!("{KEY}\n")).expect("Cargo made the directory");
    fs::write(&body, BODY).expect("Cargo made the directory");
    let [key, body] = [&key, &body].map(|path| path.to_str().expect("Cargo's names are UTF-8"));
    assert_eq!(relay_ends(0, &["sign", "--key-file", key, body], "").out, sign(&[], BODY));
    assert_eq!(relay_ends(0, &["sign", "--key-file", key, "-"], BODY).out, sign(&[], BODY));
}

#[test]
fn a_checksum_in_a_header_is_verified() {
    let canonical = format!("X-Signature: {}", sign(&[], BODY).to_uppercase());
    let raw = format!("x-raw:{}", Key::new("k", KEY).sign(BODY.as_bytes()));
    for (header, method) in [(&canonical, "canonical"), (&raw, "raw")] {
        let said = verify(0, &["--header", header], BODY);
        assert_eq!(said, format!("authentic: key `given`, placement header, method {method}\n"));
    }
}

#[test]
fn verify_says_the_nearest_reason() {
    let embed = |checksum: &str| {
        let body = BODY.trim_end().strip_suffix('}').unwrap_or_default();
        format!("{body},\"checksum\":\"{}\"}}", checksum.trim())
    };
    let flat = r#"{"a":"1","b":"2"}"#;
    let members = Json::parse(flat.as_bytes(), 8).expect("it is JSON");
    let text = legacy(members.as_object().expect("it is an object"));
    let legacy = Key::new("k", KEY).sign(&text);
    let other_key = relay_ends(0, &["sign", "--key", "other", "--embed"], BODY).out;
    let changed = sign(&["--embed"], BODY).replace("2.50", "2.51");
    let cases = [
        (
            format!(r#"{{"a":"1","b":"2","checksum":"{legacy}"}}"#),
            "the legacy method would match the whole body, with key `given`",
        ),
        (
            embed(&sign(&["--placement", "data"], BODY)),
            "the canonical method would match `data` alone, with key `given` and the checksum in \
             the root",
        ),
        (
            embed(&Key::new("k", KEY).sign(format!("{} ", "x").as_bytes())),
            "the checksum in the root matches nothing",
        ),
        (other_key, "the key differs, or the body was changed after it was signed"),
        (changed, "the key differs, or the body was changed after it was signed"),
        (BODY.to_owned(), "no checksum in the root, in `data` or in a named header"),
        (embed(""), "no checksum in the root"),
        (embed("0x12"), "the checksum in the root is not 64 hexadecimal digits"),
    ];
    for (body, reason) in cases {
        let said = verify(1, &[], &body);
        assert!(said.starts_with("not authentic: "), "{said}");
        assert!(said.contains(reason), "`{reason}` for {body}: {said}");
        let said: Value = serde_json::from_str(&verify(1, &["--json"], &body)).expect("JSON");
        assert_eq!(said["authentic"], false);
        assert!(said["diagnosis"].as_str().is_some_and(|text| text.contains(reason)), "{said}");
        assert!(said["refusal"].is_string(), "{said}");
    }
    let ended = relay_ends(1, &["verify", "--key", KEY], "{");
    assert!(ended.err.contains("cannot verify: the body is not JSON"), "{}", ended.err);
    assert_eq!(ended.out, "");
}

#[test]
fn verify_speaks_json() {
    let signed = sign(&["--embed", "--placement", "data"], BODY);
    let said: Value = serde_json::from_str(&verify(0, &["--json"], &signed)).expect("JSON");
    let proof = json!({ "key": "given", "placement": "data", "method": "canonical" });
    assert_eq!(said, json!({ "authentic": true, "proofs": [proof] }));
}

/// With the settings, the application's own policy counts, and its key is named.
#[test]
fn verify_by_the_settings() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = directory.join("cli-verify.toml");
    let file = format!(
        "[applications.shop]\nplacement = \"data\"\nchecksum_keys = {{ may-2026 = \"{KEY}\" }}\n"
    );
    fs::write(&path, file).expect("Cargo made the directory");
    let config = path.to_str().expect("Cargo's names are UTF-8");
    let arguments = ["verify", "--application", "shop", "--config", config];
    let in_data = sign(&["--embed", "--placement", "data"], BODY);
    let said = relay_ends(0, &arguments, &in_data).out;
    assert_eq!(said, "authentic: key `may-2026`, placement data, method canonical\n");
    let said = relay_ends(1, &arguments, &sign(&["--embed"], BODY)).out;
    assert!(said.contains("with key `may-2026` and the checksum in the root"), "{said}");
}
