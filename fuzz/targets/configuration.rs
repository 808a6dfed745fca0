//! Settings, from a file and a variable.

#![no_main]

use std::{path::PathBuf, process, sync::LazyLock};

use clickpesa_relay_fuzz as checks;
use libfuzzer_sys::fuzz_target;

/// In memory: it is written for every input.
static SCRATCH: LazyLock<PathBuf> =
    LazyLock::new(|| PathBuf::from(format!("/dev/shm/relay-fuzz-{}", process::id())));

fuzz_target!(|input: &[u8]| checks::check_configuration(&SCRATCH, input));
