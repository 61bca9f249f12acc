//! Clients: who may call, shown by a key of which only the digest is configured.

use std::collections::BTreeMap;

use super::identity::check_name;
use super::policy::policy;
use super::resolve::non_empty;
use super::{Bound, ClientSettings, IdentitySettings, SettingsError, Warning};
use crate::config::{ClientConfig, PolicyConfig};
use crate::key::KeyDigest;

/// Every `[client.NAME]`, by name. `known` are the configured identities.
pub(super) fn clients(
    written: BTreeMap<String, ClientConfig>,
    known: &[&str],
    warnings: &mut Vec<Warning>,
) -> Result<Vec<ClientSettings>, SettingsError> {
    let mut clients: Vec<ClientSettings> = Vec::new();
    for (name, config) in written {
        let client = client(&name, config, warnings)
            .and_then(|client| refuse_same_key(client, &clients))
            .map_err(|error| error.within("client", &name))?;
        warnings.extend(strangers(&client, known));
        clients.push(client);
    }
    Ok(clients)
}

fn client(
    name: &str,
    config: ClientConfig,
    warnings: &mut Vec<Warning>,
) -> Result<ClientSettings, SettingsError> {
    check_name(name)?;
    let digests = config.key_sha256.unwrap_or_default();
    let keys: Vec<_> = digests
        .iter()
        .map(|text| KeyDigest::parse(text).ok_or(SettingsError::KeyDigest { key: "key_sha256" }))
        .collect::<Result<_, _>>()?;
    if keys.is_empty() {
        return Err(SettingsError::Missing {
            key: "key_sha256",
            cure: "it is the digest of the key that the client shows; `ringbearer keygen` makes both",
        });
    }
    let ClientConfig { preset, allow, deny, .. } = config;
    let written = PolicyConfig { preset, allow, deny };
    Ok(ClientSettings {
        name: name.to_owned(),
        keys,
        identities: bound(config.identities)?,
        client_id: non_empty("client_id", config.client_id)?,
        rewrite_links: config.rewrite_links.unwrap_or(true),
        policy: policy(written, &format!("client {name:?}"), warnings)?,
    })
}

fn bound(written: Option<Vec<String>>) -> Result<Bound, SettingsError> {
    let names = written.filter(|names| !names.is_empty()).ok_or(SettingsError::Missing {
        key: "identities",
        cure: "name those that it may call as, the usual one first, or \"*\" for all",
    })?;
    if names == ["*"] {
        return Ok(Bound::Any);
    }
    match names.iter().find(|name| !IdentitySettings::is_name(name)) {
        Some(name) => Err(SettingsError::BoundName { name: name.clone() }),
        None => Ok(Bound::To(names)),
    }
}

/// An identity may be added later; more often its name is misspelt.
fn strangers(client: &ClientSettings, known: &[&str]) -> Vec<Warning> {
    let Bound::To(names) = &client.identities else { return Vec::new() };
    let strangers = names.iter().filter(|name| !known.contains(&name.as_str()));
    strangers
        .map(|identity| Warning::StrangeIdentity {
            client: client.name.clone(),
            identity: identity.clone(),
        })
        .collect()
}

fn refuse_same_key(
    new: ClientSettings,
    clients: &[ClientSettings],
) -> Result<ClientSettings, SettingsError> {
    let shares = |other: &&ClientSettings| {
        other.keys.iter().any(|key| new.keys.iter().any(|ours| ours.matches(key)))
    };
    match clients.iter().find(shares) {
        Some(other) => Err(SettingsError::SameKey { other: other.name.clone() }),
        None => Ok(new),
    }
}
