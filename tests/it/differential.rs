//! The canonical and the legacy text against the sender's own JavaScript, run by Node.
//!
//! From the environment: `RELAY_TEST_SEED` repeats a run, `RELAY_TEST_DOCUMENTS` sets how many
//! documents there are, `RELAY_TEST_NODE` names the program.

use std::{
    fmt::Write as _,
    hash::{BuildHasher, RandomState},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use clickpesa_relay::webhook::{
    canonical::{canonical, legacy},
    checksum::Key,
    json::Json,
};
use proptest::{
    prelude::RngExt,
    test_runner::{RngAlgorithm, TestRng},
};

use crate::support::DEPTH_MAX;

const SECRET: &str = "ufunguo wa siri 🔑";
const DOCUMENTS: usize = 5_000;

#[allow(clippy::disallowed_methods, reason = "a switch of this test, and no setting of the relay")]
fn environment<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}: `{text}` is no value for it")))
}

#[test]
fn texts_and_checksums_are_those_of_the_senders_javascript() {
    // Each `RandomState` has keys of its own, so this is another seed at every run.
    let seed = environment("RELAY_TEST_SEED").unwrap_or_else(|| RandomState::new().hash_one(()));
    let count = environment("RELAY_TEST_DOCUMENTS").unwrap_or(DOCUMENTS);
    println!("RELAY_TEST_SEED={seed} RELAY_TEST_DOCUMENTS={count}");

    let mut generator = Generator::new(seed);
    let documents: Vec<Document> = (0..count).map(|_| generator.document()).collect();
    let answers = ask_node(&documents);
    assert_eq!(answers.lines().count(), count, "answers from Node");

    let key = Key::new("main", SECRET);
    let mut legacy_compared = 0;
    for (index, (document, answer)) in documents.iter().zip(answers.lines()).enumerate() {
        let columns: Vec<&str> = answer.split(' ').collect();
        let &[js_canonical, js_hmac, js_legacy] = columns.as_slice() else {
            panic!("an answer of Node is not three columns: {answer}");
        };
        let compare = |what: &str, ours: &[u8], theirs: &str| {
            let theirs = const_hex::decode(theirs).unwrap();
            assert!(
                ours == theirs,
                "{what} text differs: RELAY_TEST_SEED={seed}, index {index}\n\
                 document: {}\nours: {}\ntheirs: {}",
                document.text,
                String::from_utf8_lossy(ours),
                String::from_utf8_lossy(&theirs),
            );
        };
        let json = Json::parse(document.text.as_bytes(), DEPTH_MAX).unwrap_or_else(|error| {
            panic!("RELAY_TEST_SEED={seed}, index {index}: {error}: {}", document.text)
        });
        let text = canonical(&json);
        compare("canonical", &text, js_canonical);
        assert_eq!(key.sign(&text), js_hmac, "HMAC: RELAY_TEST_SEED={seed}, index {index}");
        // Joined, two lone surrogates may meet, and the rest are lost in UTF-8: such a text
        // cannot be signed in a way worth copying.
        if let Some(members) = json.as_object().filter(|_| !document.has_lone_surrogate) {
            compare("legacy", &legacy(members), js_legacy);
            legacy_compared += 1;
        }
    }
    assert!(legacy_compared * 4 > count, "only {legacy_compared} of {count} legacy texts compared");
}

/// One process for all documents: to start Node takes longer than to sign a thousand.
fn ask_node(documents: &[Document]) -> String {
    let node = environment("RELAY_TEST_NODE").unwrap_or_else(|| "node".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential.mjs");
    let mut process = Command::new(&node)
        .arg(script)
        .arg(SECRET)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("this test needs Node, and `{node}` does not run: {error}"));
    let mut stdin = process.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        // Written beside the reading, or both sides could wait for the other with full pipes.
        scope.spawn(move || {
            for Document { text, .. } in documents {
                writeln!(stdin, "{}", const_hex::encode(text)).expect("Node reads to the end");
            }
        });
        process.wait_with_output().unwrap()
    });
    assert!(output.status.success(), "Node failed: {}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

struct Document {
    text: String,
    has_lone_surrogate: bool,
}

/// Writes JSON texts in which everything occurs that JavaScript treats in a way of its own.
struct Generator {
    rng: TestRng,
    text: String,
    /// How many values the document may still have: bounds its size.
    values_left: u32,
    /// Whether the document may have lone surrogates.
    lone_surrogates: bool,
    has_lone_surrogate: bool,
}

/// Names that JavaScript orders or assigns in a way of its own, and names that are left out.
const NAMES: &[&str] = &[
    "",
    "0",
    "00",
    "1",
    "2",
    "10",
    "01",
    "-1",
    "-0",
    "1.5",
    "1e3",
    "+1",
    " 1",
    "4294967293",
    "4294967294",
    "4294967295",
    "4294967296",
    "9007199254740991",
    "18446744073709551616",
    "__proto__",
    "__proto_",
    "constructor",
    "length",
    "toJSON",
    "checksum",
    "checksumMethod",
    "Checksum",
    "data",
    "a",
    "b",
    "Z",
    "é",
    "e\u{301}",
    "\u{7f}",
    "\u{2028}",
    "\u{e000}",
    "\u{ffff}",
    "\u{10000}",
    "🙏",
    "a\u{e000}",
    "a\u{10000}",
];

/// Where rounding, the choice of notation or the range of a double is at its limit.
const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "-0.0",
    "0e5",
    "-0E-5",
    "0.10",
    "1e0",
    "1E+2",
    "10000.50",
    "1e400",
    "-1e400",
    "1e-400",
    "1e99999999999999999999",
    "-1e-99999999999999999999",
    "0e99999999999999999999",
    "1e20",
    "1e21",
    "999999999999999999999",
    "999999999999999934464",
    "123456789012345680000",
    "0.000001",
    "0.0000001",
    "1.5e-6",
    "1.5e-7",
    "9007199254740992",
    "9007199254740993",
    "-9007199254740995",
    "9007199254740993.00000000000000000001",
    "5e-324",
    "2.5e-324",
    "2.4703282292062327e-324",
    "2.4703282292062328e-324",
    "2.2250738585072014e-308",
    "1.7976931348623157e308",
    "1.7976931348623158e308",
    "1.7976931348623159e308",
];

/// Pieces of strings, as they are spelled in JSON.
const PIECES: &[&str] = &[
    "a",
    "Z",
    "9",
    " ",
    "/",
    "<",
    ">",
    "&",
    "'",
    "é",
    "ß",
    "中",
    "\u{7f}",
    "\u{85}",
    "\u{2028}",
    "\u{2029}",
    "\u{feff}",
    "\u{d7ff}",
    "\u{e000}",
    "\u{fffd}",
    "\u{ffff}",
    "\u{10000}",
    "🙏🏾",
    "\u{10ffff}",
    r"\n",
    r"\t",
    r"\r",
    r"\b",
    r"\f",
    r"\/",
    r"\\",
    r#"\""#,
    r"\u0000",
    r"\u001f",
    r"\u001F",
    r"\u0008",
    r"\u0041",
    r"\u007f",
    r"\u00e9",
    r"\u2028",
    r"\ufeff",
    r"\uFFFF",
    r"\ud83d\ude4f",
    r"\uD800\uDC00",
    r"\udbff\udfff",
];

/// Halves of surrogate pairs, alone and together; side by side some of them become pairs again.
const LONE_SURROGATES: &[&str] = &[
    r"\ud800",
    r"\uDBFF",
    r"\udc00",
    r"\uDFFF",
    r"\ud83d",
    r"\ude4f",
    r"\ud83d\ud83d\ude4f",
    r"\ude4f\ud83d",
    r"\ud83d\ud83d",
    r"\udc00\udc00",
];

impl Generator {
    fn new(seed: u64) -> Self {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&seed.to_le_bytes());
        Self {
            rng: TestRng::from_seed(RngAlgorithm::ChaCha, &bytes),
            text: String::new(),
            values_left: 0,
            lone_surrogates: false,
            has_lone_surrogate: false,
        }
    }

    fn document(&mut self) -> Document {
        self.values_left = self.rng.random_range(1..40);
        self.lone_surrogates = self.one_in(2);
        self.has_lone_surrogate = false;
        self.blank();
        match self.rng.random_range(0..16) {
            0 => self.value(4),
            1 => self.array(4),
            2 | 3 => self.nest(24),
            _ => self.object(5),
        }
        self.blank();
        Document {
            text: std::mem::take(&mut self.text),
            has_lone_surrogate: self.has_lone_surrogate,
        }
    }

    fn one_in(&mut self, of: u32) -> bool {
        self.rng.random_ratio(1, of)
    }

    fn pick(&mut self, from: &[&'static str]) -> &'static str {
        from[self.rng.random_range(0..from.len())]
    }

    fn blank(&mut self) {
        let blank = self.pick(&["", "", "", "", " ", "\n", "\t", "\r\n  "]);
        self.text.push_str(blank);
    }

    /// A value inside as many as `deepest` lists and objects, with up to five more inside it.
    fn nest(&mut self, deepest: u32) {
        if deepest == 0 || self.one_in(20) {
            return self.value(5);
        }
        self.blank();
        if self.one_in(2) {
            self.text.push('[');
            self.nest(deepest - 1);
            self.text.push(']');
        } else {
            self.text.push('{');
            self.name();
            self.text.push(':');
            self.nest(deepest - 1);
            self.text.push('}');
        }
        self.blank();
    }

    fn value(&mut self, depth_left: u32) {
        self.values_left = self.values_left.saturating_sub(1);
        let kinds = if depth_left == 0 || self.values_left == 0 { 8 } else { 12 };
        match self.rng.random_range(0..kinds) {
            0 => self.text.push_str("null"),
            1 => self.text.push_str("true"),
            2 => self.text.push_str("false"),
            3..=5 => self.number(),
            6 | 7 => self.string(),
            8 | 9 => self.array(depth_left - 1),
            _ => self.object(depth_left - 1),
        }
    }

    fn array(&mut self, depth_left: u32) {
        self.separated('[', ']', |generator| generator.value(depth_left));
    }

    fn object(&mut self, depth_left: u32) {
        self.separated('{', '}', |generator| {
            generator.name();
            generator.blank();
            generator.text.push(':');
            generator.blank();
            generator.value(depth_left);
        });
    }

    fn separated(&mut self, open: char, close: char, mut item: impl FnMut(&mut Self)) {
        self.text.push(open);
        self.blank();
        for position in 0..self.rng.random_range(0..8) {
            if position > 0 {
                self.text.push(',');
                self.blank();
            }
            item(self);
            self.blank();
        }
        self.text.push(close);
    }

    /// A name from the list, so that names are repeated, with some of its characters escaped, so
    /// that repeated names are not spelled alike; or any string.
    fn name(&mut self) {
        if self.one_in(4) {
            return self.string();
        }
        let name = self.pick(NAMES);
        let escape_all = self.one_in(8);
        self.text.push('"');
        for character in name.chars() {
            if escape_all || self.one_in(16) {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(self.text, "\\u{unit:04x}").unwrap();
                }
            } else {
                self.text.push(character);
            }
        }
        self.text.push('"');
    }

    fn string(&mut self) {
        self.text.push('"');
        for _ in 0..self.rng.random_range(0..7) {
            let piece = if self.lone_surrogates && self.one_in(4) {
                self.has_lone_surrogate = true;
                self.pick(LONE_SURROGATES)
            } else {
                self.pick(PIECES)
            };
            self.text.push_str(piece);
        }
        self.text.push('"');
    }

    fn number(&mut self) {
        match self.rng.random_range(0..6) {
            0 => {
                let number = self.pick(NUMBERS);
                self.text.push_str(number);
            }
            1 => write!(self.text, "{}", self.rng.random_range(-1000..100_000)).unwrap(),
            2 => write!(self.text, "{}", self.rng.random::<i64>()).unwrap(),
            // Any double, with an exponent or as long as it takes without.
            3 | 4 => {
                let number = f64::from_bits(self.rng.random());
                if !number.is_finite() {
                    self.text.push_str("1e309");
                } else if self.one_in(2) {
                    write!(self.text, "{number:e}").unwrap();
                } else {
                    write!(self.text, "{number}").unwrap();
                }
            }
            _ => self.digits(),
        }
    }

    /// A number of every form that the grammar allows, with more digits than a double holds.
    fn digits(&mut self) {
        if self.one_in(3) {
            self.text.push('-');
        }
        if self.one_in(4) {
            self.text.push('0');
        } else {
            write!(self.text, "{}", self.rng.random_range(1..10)).unwrap();
            self.some_digits(0, 40);
        }
        if self.one_in(2) {
            self.text.push('.');
            self.some_digits(1, 40);
        }
        if self.one_in(2) {
            let exponent = self.pick(&["e", "E", "e+", "E-", "e-", "e00", "e-0"]);
            self.text.push_str(exponent);
            self.some_digits(1, 3);
        }
    }

    fn some_digits(&mut self, least: u32, most: u32) {
        for _ in 0..self.rng.random_range(least..=most) {
            write!(self.text, "{}", self.rng.random_range(0..10)).unwrap();
        }
    }
}
