//! `[facade]`: the OAuth endpoints that the proxy answers itself.

use std::time::Duration;

use super::resolve::{duration, within};
use super::{FacadeSettings, SettingsError};
use crate::config::FacadeConfig;
use crate::secret::{SecretKey, Sources};

/// Defaults applied, keys read.
pub(super) fn facade(
    config: FacadeConfig,
    sources: &mut Sources<'_>,
) -> Result<FacadeSettings, SettingsError> {
    let answers = match config.mode.as_deref() {
        None | Some("answer") => true,
        Some("refuse") => false,
        Some(_) => return Err(SettingsError::FacadeMode),
    };
    let (access, refresh) = ("facade.access_token_ttl", "facade.refresh_token_ttl");
    Ok(FacadeSettings {
        answers,
        keys: keys(config.keys.unwrap_or_default().as_slice(), sources)?,
        access_token_ttl: ttl(access, config.access_token_ttl, DAY, WEEK)?,
        refresh_token_ttl: ttl(refresh, config.refresh_token_ttl, WEEK, YEAR)?,
        redirect_uris: redirect_uris(config.redirect_uris.unwrap_or_default())?,
    })
}

fn keys(
    written: &[crate::secret::SecretSource],
    sources: &mut Sources<'_>,
) -> Result<Vec<SecretKey>, SettingsError> {
    let key = |source| {
        let text = sources.read("facade.keys", source)?;
        SecretKey::parse(&text).map_err(SettingsError::FacadeKey)
    };
    written.iter().map(key).collect()
}

fn redirect_uris(written: Vec<String>) -> Result<Vec<String>, SettingsError> {
    let is_absolute = |uri: &String| {
        let rest = uri.split_once(':').map_or("", |(_, rest)| rest);
        !rest.is_empty() && uri.bytes().all(|byte| byte.is_ascii_graphic()) && !uri.contains('#')
    };
    match written.iter().find(|uri| !is_absolute(uri)) {
        Some(uri) => Err(SettingsError::RedirectUri { uri: uri.clone() }),
        None => Ok(written),
    }
}

fn ttl(
    key: &'static str,
    value: Option<Duration>,
    default: Duration,
    max: Duration,
) -> Result<Duration, SettingsError> {
    let value = value.unwrap_or(default);
    within(key, &value, &LEAST, &max, duration)?;
    Ok(value)
}

/// Shorter lives would have SDKs log in all the time.
const LEAST: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
/// As humantime counts it.
const YEAR: Duration = Duration::from_secs(31_557_600);
