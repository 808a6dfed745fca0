//! `check-config`: whether the settings can be used.

use std::{path::Path, process::ExitCode};

use clap::Args;
use clickpesa_relay::config::{InForce, Written};

use super::{Failure, print};

/// Names every mistake in the settings.
#[derive(Debug, Args)]
pub(super) struct CheckConfig {
    /// Print every setting in force and where it was set, secrets masked
    #[arg(long)]
    print: bool,
}

impl CheckConfig {
    pub(super) fn run(self, config: Option<&Path>) -> Result<ExitCode, Failure> {
        let written = Written::read(config, None)?;
        if self.print {
            for InForce { key, value, origin } in written.in_force() {
                print(&format!("{key} = {value:?}  # {origin}"))?;
            }
        }
        written.understand()?;
        if self.print { Ok(ExitCode::SUCCESS) } else { print("the settings can be used") }
    }
}
