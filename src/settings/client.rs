//! Clients: who may call, shown by a key of which only the digest is configured, or by the connection
//! that a call comes in by.
//!
//! Each way is enough by itself. What would fit two clients is refused, so that nobody is ever taken
//! for somebody else.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::str::FromStr;

use super::identity::check_name;
use super::policy::policy;
use super::resolve::{non_empty, within};
use super::{
    Bound, ClientSettings, IdentitySettings, InboundTls, Network, PeerSettings, SettingsError,
    SubjectName, Warning,
};
use crate::config::{ClientConfig, PolicyConfig};
use crate::key::KeyDigest;

/// What else the clients hang on.
pub(super) struct Surroundings<'a> {
    /// The configured identities.
    pub(super) identities: &'a [&'a str],
    /// `[proxy.tls]`.
    pub(super) tls: Option<&'a InboundTls>,
    /// Whether an address is listened on.
    pub(super) has_address: bool,
    /// Whether a Unix socket is listened on.
    pub(super) has_socket: bool,
    /// Whether apps reach the proxy by another address than its own.
    pub(super) has_public_url: bool,
}

/// Every `[client.NAME]`, by name.
pub(super) fn clients(
    written: BTreeMap<String, ClientConfig>,
    surroundings: &Surroundings<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<ClientSettings>, SettingsError> {
    let mut clients: Vec<ClientSettings> = Vec::new();
    for (name, config) in written {
        let client = client(&name, config, warnings)
            .and_then(|client| refuse_unchecked(client, surroundings.tls))
            .and_then(|client| refuse_same(client, &clients))
            .map_err(|error| error.within("client", &name))?;
        warnings.extend(strangers(&client, surroundings.identities));
        warnings.extend(doubts(&client, surroundings));
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
    let digest = |text: &String| {
        KeyDigest::parse(text).ok_or(SettingsError::KeyDigest { key: "key_sha256" })
    };
    let keys = config.key_sha256.unwrap_or_default();
    let keys: Vec<_> = keys.iter().map(digest).collect::<Result<_, _>>()?;
    let peers = PeerSettings {
        subjects: parsed(config.tls_subject, |text, ()| SettingsError::TlsSubject { text })?,
        users: config.uid.unwrap_or_default(),
        groups: config.gid.unwrap_or_default(),
        networks: parsed(config.networks, |network, problem| SettingsError::Network {
            network,
            problem,
        })?,
    };
    if keys.is_empty() && peers == PeerSettings::default() {
        return Err(SettingsError::Unknowable);
    }
    let priority = config.priority.unwrap_or(NonZeroU32::MIN);
    within("priority", &priority.get(), &1, &1000, ToString::to_string)?;
    let ClientConfig { preset, allow, deny, .. } = config;
    let written = PolicyConfig { preset, allow, deny };
    Ok(ClientSettings {
        name: name.to_owned(),
        keys,
        peers,
        identities: bound(config.identities)?,
        client_id: non_empty("client_id", config.client_id)?,
        rewrite_links: config.rewrite_links.unwrap_or(true),
        policy: policy(written, &format!("client {name:?}"), warnings)?,
        priority,
    })
}

fn parsed<T: FromStr>(
    written: Option<Vec<String>>,
    refuse: impl Fn(String, T::Err) -> SettingsError,
) -> Result<Vec<T>, SettingsError> {
    let parse = |text: String| text.parse().map_err(|problem| refuse(text, problem));
    written.unwrap_or_default().into_iter().map(parse).collect()
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

/// What is allowed, and perhaps not what was meant.
fn doubts(client: &ClientSettings, around: &Surroundings<'_>) -> Vec<Warning> {
    let PeerSettings { users, groups, networks, .. } = &client.peers;
    let name = || client.name.clone();
    let by_user = !users.is_empty() || !groups.is_empty();
    let by_network = !networks.is_empty();
    let mut doubts = Vec::new();
    if by_user && !around.has_socket {
        doubts.push(Warning::NoSocketFor { client: name() });
    }
    if by_network && !around.has_address {
        doubts.push(Warning::NoAddressFor { client: name() });
    }
    if by_network && !client.keys.is_empty() {
        doubts.push(Warning::KeyOrNetwork { client: name() });
    }
    if by_network && around.has_public_url {
        doubts.push(Warning::NetworkBehind { client: name() });
    }
    doubts
}

/// A name that nobody has verified says nothing.
fn refuse_unchecked(
    client: ClientSettings,
    tls: Option<&InboundTls>,
) -> Result<ClientSettings, SettingsError> {
    let is_checked = tls.is_some_and(|tls| tls.client_ca.is_some());
    if is_checked || client.peers.subjects.is_empty() {
        return Ok(client);
    }
    Err(SettingsError::UselessWithout { key: "tls_subject", with: "proxy.tls.client_ca_file" })
}

fn refuse_same(
    new: ClientSettings,
    clients: &[ClientSettings],
) -> Result<ClientSettings, SettingsError> {
    for client in clients {
        let other = client.name.clone();
        if client.keys.iter().any(|key| new.keys.iter().any(|ours| ours.matches(key))) {
            return Err(SettingsError::SameKey { other });
        }
        if let Some(mark) = shared_mark(&client.peers, &new.peers) {
            return Err(SettingsError::SameMark { other, mark });
        }
    }
    Ok(new)
}

/// What two clients would both be known by.
fn shared_mark(one: &PeerSettings, other: &PeerSettings) -> Option<String> {
    fn shared<'a, T: PartialEq>(one: &'a [T], other: &[T]) -> Option<&'a T> {
        one.iter().find(|mark| other.contains(mark))
    }
    let subject = shared::<SubjectName>(&one.subjects, &other.subjects);
    let network = shared::<Network>(&one.networks, &other.networks);
    subject
        .map(|subject| format!("the tls_subject {subject}"))
        .or_else(|| shared(&one.users, &other.users).map(|user| format!("the uid {user}")))
        .or_else(|| shared(&one.groups, &other.groups).map(|group| format!("the gid {group}")))
        .or_else(|| network.map(|network| format!("the network {network}")))
}
