//! JSON and its canonical text, against the sender's JavaScript.

#![no_main]

use clickpesa_relay_fuzz as checks;
use libfuzzer_sys::fuzz_target;

thread_local!(static SENDER: checks::Sender = checks::Sender::new());

fuzz_target!(|body: &[u8]| SENDER.with(|sender| checks::check_canonical(sender, body)));
