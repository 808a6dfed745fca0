//! From a body to events.

#![no_main]

use clickpesa_relay_fuzz as checks;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| checks::check_normalise(input));
