//! Every published or computed checksum vector.

use clickpesa_relay::webhook::{
    canonical::{canonical, legacy},
    checksum::Key,
    json::Json,
};

#[derive(serde::Deserialize)]
struct Vector {
    name: String,
    key: String,
    payload_json: String,
    method: String,
    expected_hex: String,
    signing_string: String,
}

#[test]
fn every_vector_holds() {
    let vectors: Vec<Vector> =
        serde_json::from_str(include_str!("../vectors/checksum.json")).unwrap();
    assert_eq!(vectors.len(), 46);
    for vector in vectors {
        let json = Json::parse(vector.payload_json.as_bytes(), 32).unwrap();
        let data = json.as_object().unwrap().get("data");
        let text = match vector.method.as_str() {
            "canonical_body" => canonical(&json),
            "canonical_data" => canonical(data.unwrap()),
            "legacy_body" => legacy(json.as_object().unwrap()),
            "legacy_data" => legacy(data.unwrap().as_object().unwrap()),
            "raw_body" => vector.payload_json.into_bytes(),
            other => panic!("{}: unknown method {other}", vector.name),
        };
        assert_eq!(String::from_utf8_lossy(&text), vector.signing_string, "{}", vector.name);
        assert_eq!(Key::new("k", &vector.key).sign(&text), vector.expected_hex, "{}", vector.name);
    }
}
