//! `send`: signs a webhook and posts it, as ClickPesa would.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use clap::Args;
use clickpesa_relay::webhook::{checksum::Placement, signing};
use serde_json::json;

use super::{
    Failure,
    keys::{KeyArguments, Place},
    print, read_input,
};

/// How long an answer may take: longer than the relay takes for its own.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// A webhook of every type, without a checksum.
pub(super) const SAMPLES: [(&str, &str); 8] = [
    ("payment.received", include_str!("../samples/payment.received.json")),
    ("payment.failed", include_str!("../samples/payment.failed.json")),
    ("payout.initiated", include_str!("../samples/payout.initiated.json")),
    ("payout.refunded", include_str!("../samples/payout.refunded.json")),
    ("payout.reversed", include_str!("../samples/payout.reversed.json")),
    ("deposit.received", include_str!("../samples/deposit.received.json")),
    ("checkout.completed", include_str!("../samples/checkout.completed.json")),
    ("unrecognized", include_str!("../samples/unrecognized.json")),
];

/// Signs a webhook and posts it.
#[derive(Debug, Args)]
pub(super) struct Send {
    /// File with the body, `-` for standard input
    #[arg(required_unless_present = "sample", conflicts_with = "sample")]
    body: Option<PathBuf>,
    /// A sample instead of a file
    #[arg(long, value_name = "TYPE", value_parser = SAMPLES.map(|(name, _)| name))]
    sample: Option<String>,
    /// Where to
    #[arg(long, default_value = "http://127.0.0.1:8080/webhooks/clickpesa")]
    url: String,
    /// Where the checksum is put
    #[arg(long, value_enum, default_value = "root")]
    placement: Place,
    /// The header for `--placement header`
    #[arg(long, value_name = "NAME", default_value = "x-clickpesa-signature")]
    header: String,
    /// Send it without a checksum
    #[arg(long)]
    unsigned: bool,
    /// Change the body after it was signed
    #[arg(long, conflicts_with = "unsigned")]
    tamper: bool,
    /// Print status and answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    keys: KeyArguments,
}

impl Send {
    pub(super) fn run(self, config: Option<&Path>) -> Result<ExitCode, Failure> {
        let mut body = match (&self.sample, &self.body) {
            (Some(wanted), _) => sample(wanted).into(),
            (None, Some(path)) => read_input(path)?,
            (None, None) => return Err(Failure::Usage("no body to send".to_owned())),
        };
        let mut header = None;
        if !self.unsigned {
            let key = self.keys.signing_key(config)?;
            let failed = |error| Failure::failed("cannot sign the body", error);
            if self.placement == Place::Header {
                let checksum = signing::checksum(&body, &key, Placement::Header).map_err(failed)?;
                header = Some((self.header.as_str(), checksum));
            } else {
                body = signing::sign(&body, &key, self.placement.into()).map_err(failed)?;
            }
        }
        if self.tamper {
            body = tampered(body)?;
        }
        let (status, answer) = post(&self.url, header, &body)?;
        if self.json {
            let answer: serde_json::Value =
                serde_json::from_str(&answer).unwrap_or_else(|_text| answer.clone().into());
            print(&json!({ "status": status, "answer": answer }).to_string())?;
        } else {
            print(&format!("{status} {answer}"))?;
        }
        Ok(if (200..300).contains(&status) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// A sample by its name.
fn sample(wanted: &str) -> &'static str {
    SAMPLES.iter().find(|(name, _)| *name == wanted).map_or("", |(_, body)| body)
}

/// The body with its first digit changed: still JSON, no longer what was signed.
fn tampered(mut body: Vec<u8>) -> Result<Vec<u8>, Failure> {
    let digit = body.iter_mut().find(|byte| byte.is_ascii_digit());
    let digit = digit
        .ok_or_else(|| Failure::Failed("cannot tamper with a body without a digit".to_owned()))?;
    *digit = if *digit == b'9' { b'8' } else { *digit + 1 };
    Ok(body)
}

/// Any answer is an answer. Proxies are not asked: a relay to be tried is near.
pub(super) fn agent() -> ureq::Agent {
    ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .timeout_global(Some(ANSWER_WITHIN))
        .build()
        .into()
}

/// Posts a body; gives the status and the text of the answer.
pub(super) fn post(
    url: &str,
    header: Option<(&str, String)>,
    body: &[u8],
) -> Result<(u16, String), Failure> {
    let request = agent().post(url).header("content-type", "application/json");
    let request =
        header.into_iter().fold(request, |request, (name, value)| request.header(name, value));
    let failed = |error| {
        Failure::Failed(format!(
            "cannot post to {url}: {error}; is there a relay? `--url` says where"
        ))
    };
    let mut response = request.send(body).map_err(failed)?;
    let answer = response.body_mut().read_to_string().map_err(failed)?;
    Ok((response.status().as_u16(), answer))
}
