//! The checksum keys that a command is given, or those of the settings.

use std::path::{Path, PathBuf};

use clap::Args;
use clickpesa_relay::{
    config::Written,
    webhook::checksum::{Key, Placement, Policy},
};

use super::{Failure, read_input};

/// Where the keys of a command come from.
#[derive(Debug, Args)]
pub(super) struct KeyArguments {
    /// The checksum key; other users of this machine can see it while the command runs
    #[arg(long, value_name = "SECRET", conflicts_with = "key_file")]
    key: Option<String>,
    /// File that holds the checksum key
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Application whose keys are taken from the settings if none is given
    #[arg(long, value_name = "NAME", default_value = "default")]
    pub(super) application: String,
}

impl KeyArguments {
    /// What the application accepts; with a key that was given, everything but the legacy method.
    pub(super) fn policy(&self, config: Option<&Path>) -> Result<Policy, Failure> {
        let secret = match (&self.key, &self.key_file) {
            (Some(key), _) => Some(key.clone()),
            (None, Some(file)) => Some(read_text(file)?),
            (None, None) => None,
        };
        if let Some(secret) = secret {
            if secret.is_empty() {
                return Err(Failure::Usage("the checksum key that was given is empty".to_owned()));
            }
            return Ok(Policy::Checksum {
                keys: vec![Key::new("given", &secret)],
                placement: None,
                headers: Vec::new(),
                legacy: false,
            });
        }
        let settings = Written::read(config, None)
            .and_then(Written::understand)
            .map_err(Failure::SettingsOfKeys)?;
        let mut applications = settings.applications;
        applications.remove(&self.application).map(|found| found.policy).ok_or_else(|| {
            let known = applications.into_keys().collect::<Vec<_>>().join(", ");
            let wanted = &self.application;
            Failure::Usage(format!("no application `{wanted}` in the settings: there are {known}"))
        })
    }

    /// Whether a key was given, rather than left to the settings.
    pub(super) fn is_given(&self) -> bool {
        self.key.is_some() || self.key_file.is_some()
    }

    /// The key to sign with: the first in force.
    pub(super) fn signing_key(&self, config: Option<&Path>) -> Result<Key, Failure> {
        match self.policy(config)? {
            Policy::Checksum { keys, .. } => keys.into_iter().next(),
            Policy::None => None,
        }
        .ok_or_else(|| self.no_key())
    }

    /// The application that was named does without keys.
    pub(super) fn no_key(&self) -> Failure {
        let application = &self.application;
        Failure::Usage(format!("application `{application}` has no checksum key: give `--key`"))
    }
}

fn read_text(file: &Path) -> Result<String, Failure> {
    let text = String::from_utf8(read_input(file)?)
        .map_err(|error| Failure::failed(&format!("cannot read `{}`", file.display()), error))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

/// Where a checksum is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Place {
    /// In the body's root
    Root,
    /// In `data`
    Data,
    /// In a header
    Header,
}

impl From<Place> for Placement {
    fn from(place: Place) -> Self {
        match place {
            Place::Root => Self::Root,
            Place::Data => Self::Data,
            Place::Header => Self::Header,
        }
    }
}
