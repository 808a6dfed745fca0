//! `sign`: the checksum of a body.

use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use clickpesa_relay::webhook::signing;

use super::{
    Failure,
    keys::{KeyArguments, Place},
    print, read_input,
};

/// Prints the checksum of a body, or the body with its checksum.
#[derive(Debug, Args)]
pub(super) struct Sign {
    /// File with the body, `-` for standard input
    #[arg(default_value = "-")]
    body: PathBuf,
    /// What the checksum covers: the body, or `data` alone
    #[arg(long, value_enum, default_value = "root")]
    placement: Place,
    /// Print the body with its checksum in it
    #[arg(long)]
    embed: bool,
    #[command(flatten)]
    keys: KeyArguments,
}

impl Sign {
    pub(super) fn run(self, config: Option<&Path>) -> Result<ExitCode, Failure> {
        if self.embed && self.placement == Place::Header {
            let problem = "a header is no part of the body: leave out `--embed`";
            return Err(Failure::Usage(problem.to_owned()));
        }
        let key = self.keys.signing_key(config)?;
        let body = read_input(&self.body)?;
        let failed = |error| Failure::failed("cannot sign the body", error);
        if self.embed {
            let signed = signing::sign(&body, &key, self.placement.into()).map_err(failed)?;
            std::io::stdout().write_all(&signed)?;
            return Ok(ExitCode::SUCCESS);
        }
        print(&signing::checksum(&body, &key, self.placement.into()).map_err(failed)?)
    }
}
