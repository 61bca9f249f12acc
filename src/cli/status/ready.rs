//! `status --ready`: whether a running proxy should get requests, as it says itself. For health checks
//! where there is no other client, such as in an image of this binary alone.

use std::io::{self, Write};

use serde::Deserialize;

use super::{PATIENCE, address};
use crate::cli::Failure;
use crate::oauth::endpoint::http_client;
use crate::service::StartError;
use crate::settings::AdminSettings;
use crate::upstream::{Trust, client_config};

#[derive(Deserialize)]
struct Answer {
    status: String,
    #[serde(default)]
    reasons: Vec<String>,
}

/// Says so if it is, and fails with the reasons if it is not.
pub(super) async fn ask(
    admin: Option<&AdminSettings>,
    out: &mut impl Write,
) -> Result<(), Failure> {
    let url = admin.and_then(address).ok_or(Failure::NobodyToAsk)?;
    let tls = client_config(&Trust::Nobody).map_err(StartError::from)?;
    let http = http_client(tls, None, PATIENCE).map_err(StartError::from)?;
    let silent = || Failure::Silent { url: url.clone() };
    let answer = http.get(format!("{url}/readyz")).send().await.map_err(|_| silent())?;
    let is_ready = answer.status().is_success();
    let content = answer.bytes().await.map_err(|_| silent())?;
    let Answer { status, reasons } = serde_json::from_slice(&content).map_err(|_| silent())?;
    if !is_ready {
        return Err(Failure::Unready { reasons: reasons.join("; ") });
    }
    match writeln!(out, "{status}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::Output(error)),
        _ => Ok(()),
    }
}
