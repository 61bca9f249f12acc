//! `[admin]`: where the proxy is watched and operated, and who may change something there.

use std::net::SocketAddr;
use std::path::Path;

use super::socket::Access;
use super::{AdminSettings, Place, SettingsError, Warning};
use crate::config::AdminConfig;
use crate::key::KeyDigest;

/// Nothing unless it listens somewhere; and then not where apps are served.
pub(super) fn admin(
    config: AdminConfig,
    proxy: &[SocketAddr],
    access: Access,
    directory: &Path,
    warnings: &mut Vec<Warning>,
) -> Result<Option<AdminSettings>, SettingsError> {
    let key = config.key_sha256.as_deref().map(digest).transpose()?;
    let hosts = config.hosts.unwrap_or_default();
    if let Some(host) = hosts.iter().find(|host| !is_host(host)) {
        return Err(SettingsError::AdminHost { host: host.escape_debug().to_string() });
    }
    let places = config.listen.unwrap_or_default();
    if places.is_empty() {
        let useless = [("admin.key_sha256", key.is_some()), ("admin.hosts", !hosts.is_empty())];
        return match useless.into_iter().find(|(_, is_given)| *is_given) {
            Some((key, _)) => Err(SettingsError::UselessWithout { key, with: "admin.listen" }),
            None => Ok(None),
        };
    }
    let allow_remote = config.allow_remote.unwrap_or(false);
    let listen: Vec<_> = places.iter().filter_map(Place::address).collect();
    for &address in &listen {
        check_address(address, allow_remote, proxy, warnings)?;
    }
    let sockets = places.iter().filter_map(Place::path);
    let sockets = sockets.map(|path| access.socket(path, directory, None));
    let sockets = sockets.collect::<Result<_, _>>()?;
    Ok(Some(AdminSettings { listen, sockets, key, hosts }))
}

fn check_address(
    address: SocketAddr,
    allow_remote: bool,
    proxy: &[SocketAddr],
    warnings: &mut Vec<Warning>,
) -> Result<(), SettingsError> {
    if address.port() != 0 && proxy.contains(&address) {
        return Err(SettingsError::AdminAddress { address });
    }
    if address.ip().to_canonical().is_loopback() {
        return Ok(());
    }
    if !allow_remote {
        return Err(SettingsError::RemoteAdmin { address });
    }
    warnings.push(Warning::RemoteAdmin { address });
    Ok(())
}

fn digest(text: &str) -> Result<KeyDigest, SettingsError> {
    KeyDigest::parse(text).ok_or(SettingsError::KeyDigest { key: "admin.key_sha256" })
}

/// A host alone: what a port says is no matter of trust.
fn is_host(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    !host.is_empty() && (host.chars().all(is_name) || bare.parse::<std::net::Ipv6Addr>().is_ok())
}
