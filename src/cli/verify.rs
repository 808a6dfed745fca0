//! `verify`: whether a body's checksum holds, and if not, why.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Args;
use clickpesa_relay::webhook::{
    Unverified,
    checksum::{ChecksumHeader, Method, Policy, Proof},
    diagnosis::diagnose,
};
use serde_json::{Value, json};

use super::{Failure, keys::KeyArguments, print, read_input};

/// Says which key, placement and method verified a body, or why none did.
#[derive(Debug, Args)]
pub(super) struct Verify {
    /// File with the body, `-` for standard input
    #[arg(default_value = "-")]
    body: PathBuf,
    /// A header that came with it
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keys: KeyArguments,
}

impl Verify {
    pub(super) fn run(self, config: Option<&Path>) -> Result<ExitCode, Failure> {
        let Policy::Checksum { keys, placement, mut headers, legacy } = self.keys.policy(config)?
        else {
            return Err(self.keys.no_key());
        };
        let body = read_input(&self.body)?;
        let sent = &self.headers;
        if self.keys.is_given() {
            let methods = [Method::Canonical, Method::Raw];
            headers.extend(sent.iter().flat_map(|(name, _)| {
                methods.map(|method| ChecksumHeader { name: name.clone(), method })
            }));
        }
        let header = |wanted: &str| {
            sent.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_bytes())
        };
        let parse = || {
            Unverified::parse(&body, usize::MAX)
                .map_err(|error| Failure::failed("cannot verify", error))
        };
        let diagnosis = diagnose(&parse()?, &keys, &headers, header);
        let policy = Policy::Checksum { keys, placement, headers, legacy };
        let report = match parse()?.authenticate(&policy, header) {
            Ok(webhook) => {
                let proofs = webhook.proofs().iter();
                json!({ "authentic": true, "proofs": proofs.map(as_json).collect::<Vec<_>>() })
            }
            Err(refusal) => json!({
                "authentic": false,
                "refusal": refusal.to_string(),
                "diagnosis": diagnosis.to_string(),
            }),
        };
        let is_authentic = report["authentic"] == true;
        print(&if self.json { report.to_string() } else { readable(&report) })?;
        Ok(if is_authentic { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn parse_header(written: &str) -> Result<(String, String), String> {
    let (name, value) = written.split_once(':').ok_or("there is no `:` between name and value")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

fn as_json(proof: &Proof<'_>) -> Value {
    let (placement, method) = (proof.placement.as_str(), proof.method.as_str());
    json!({ "key": proof.key_id, "placement": placement, "method": method })
}

fn readable(report: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    match report["proofs"].as_array() {
        Some(proofs) => proofs
            .iter()
            .map(|proof| {
                let [key, placement, method] =
                    ["key", "placement", "method"].map(|name| text(&proof[name]));
                format!("authentic: key `{key}`, placement {placement}, method {method}")
            })
            .collect::<Vec<_>>()
            .join("\n"),
        None => {
            format!("not authentic: {}\n{}", text(&report["refusal"]), text(&report["diagnosis"]))
        }
    }
}
