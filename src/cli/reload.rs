//! `reload`: have a running proxy read its configuration again, and say what came of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;

use super::{ConfigurationFlags, Failure, secret_file, serve, warn_of};
use crate::oauth::endpoint::http_client;
use crate::secret::{Environment, Secret};
use crate::service::StartError;
use crate::settings::{AdminSettings, Settings};
use crate::upstream::{Trust, client_config};

/// A new proxy may wait for its tokens that long, and a little longer for the answer.
const PATIENCE: Duration = Duration::from_secs(45);

/// The variable with the key, where there is no file.
const KEY: &str = "RINGBEARER_ADMIN_KEY";

/// Whom to ask, and by which right.
#[derive(Debug, Args)]
pub(super) struct ReloadFlags {
    /// A file with the key of `admin.key_sha256`, `-` for standard input
    /// [default: the variable `RINGBEARER_ADMIN_KEY`]
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    #[command(flatten)]
    configuration: ConfigurationFlags,
}

/// Why a running proxy has not read its configuration again.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// There is nobody to ask.
    #[error(
        "there is no admin listener to ask: configure admin.listen, or send SIGHUP to the process \
         (systemctl reload ringbearer)"
    )]
    NoAdmin,
    /// There is no right to ask.
    #[error("the admin listener wants its key: give it by --key-file or in RINGBEARER_ADMIN_KEY")]
    NoKey,
    /// Nobody is there.
    #[error("no proxy answers at {url} (admin.listen): is it running?")]
    Silent {
        /// Where it was looked for.
        url: String,
        /// What happened instead.
        #[source]
        source: reqwest::Error,
    },
    /// It says no.
    #[error("{0}")]
    Refused(String),
}

/// What the admin listener answers when it refuses.
#[derive(Debug, Deserialize)]
struct Refusal {
    message: String,
}

/// Checks the configuration here first: what is wrong with it is then told without asking anybody.
pub(super) fn run(flags: ReloadFlags, environment: Environment<'_>) -> Result<(), Failure> {
    let (source, overrides) = flags.configuration.split();
    // The proxy warns in its own log.
    let (settings, _) = Settings::load(&source, overrides, environment)?;
    let mut warnings = Vec::new();
    let admin = settings.admin.as_ref().ok_or(ReloadError::NoAdmin)?;
    let key = match &flags.key_file {
        Some(path) => secret_file("--key-file", path, environment, &mut warnings)?,
        None => Secret::new(environment(KEY).ok_or(ReloadError::NoKey)?),
    };
    warn_of(&warnings);
    serve::runtime()?.block_on(order(admin, &key))?;
    Ok(())
}

async fn order(admin: &AdminSettings, key: &Secret) -> Result<(), Failure> {
    let url = format!("http://{}/reload", admin.listen[0]);
    let silent = |source: reqwest::Error| {
        let url = url.trim_end_matches("/reload").to_owned();
        ReloadError::Silent { url, source: source.without_url() }
    };
    // Nothing speaks TLS here.
    let tls = client_config(&Trust::Nobody).map_err(StartError::from)?;
    let client = http_client(tls, None, PATIENCE).map_err(StartError::from)?;
    let request = client.post(&url).bearer_auth(key.expose());
    let answer = request.send().await.map_err(silent)?;
    if answer.status().is_success() {
        return Ok(());
    }
    let status = answer.status();
    let content = answer.bytes().await.map_err(silent)?;
    let message = serde_json::from_slice(&content).map(|Refusal { message }| message);
    Err(Failure::Reload(ReloadError::Refused(
        message.unwrap_or_else(|_| format!("{url} answers {status}")),
    )))
}
