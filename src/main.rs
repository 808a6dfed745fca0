//! The command line of clickpesa-relay.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::run()
}
