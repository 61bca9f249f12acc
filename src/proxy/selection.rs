//! Who calls, and as which identity. PURE over what a request says and where it came in.
//!
//! Without clients in the configuration whoever reaches a listener may call. With them, a request
//! shows a key: as Bearer, as the password of Basic, or in `X-Api-Key`; or a token that the facade
//! gave for one; or it comes in by a connection that is known ([`peers`](super::peers)). A key says
//! more exactly who calls than a connection does, so it decides where both are there. Then, in this order: the identity of the listener, which nothing a client sends can
//! change; that of the path (`/.ringbearer/as/NAME/`, for clients that keep the path of their base
//! URL; several SDKs drop it); `X-Ringbearer-Identity`; the identity that the token is for; that of
//! the host; at a login, the one that the client id names; the client's usual one; the only one there
//! is. Where two of the first four are there, they have to agree.

use std::borrow::Cow;
use std::collections::HashMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, Uri};
use zeroize::Zeroizing;

use super::facade::pass::Pass;
use super::headers::{Found, IDENTITY_FIELD};
use super::peers::{Caller, Peers};
use super::routes::AS;
use super::throttle::queue::Caller as Line;
use crate::key::KeyDigest;
use crate::settings::{Bound, ClientSettings, IdentitySettings};

/// Another field that carries a key. It never goes further.
pub const API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The rules by which a request finds its identity.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    clients: Vec<ClientSettings>,
    peers: Peers,
    /// Whether any of them has a key.
    has_keys: bool,
    hosts: HashMap<String, String>,
}

/// What a request says, and where it came in.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The identity of the listener, if it has one.
    pub fixed: Option<&'a str>,
    /// The identity that its path has named.
    pub path: Option<&'a str>,
    /// The request's target.
    pub uri: &'a Uri,
    /// Its fields.
    pub fields: &'a HeaderMap,
    /// What was seen of them.
    pub found: &'a Found,
}

/// What else says as whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint<'a> {
    /// Nothing.
    None,
    /// A token of the facade's is for this identity and no other.
    Sealed(&'a str),
    /// A login would like this one, unless something else decides.
    Wished(&'a str),
}

/// As whom a request is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen<'a> {
    /// The identity of this name.
    Named(Cow<'a, str>),
    /// The only one there is.
    Only,
}

/// Why a request is sent as nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Clients are configured, and the request shows no key.
    #[error(
        "this proxy asks for a client key: send it as Bearer, as the password of Basic, or in X-Api-Key"
    )]
    NoKey,
    /// The connection is no client's, and no client has a key.
    #[error(
        "this proxy knows its clients by certificate, Unix user or network, and this connection is \
         none of theirs: see [client.NAME]"
    )]
    Stranger,
    /// The certificate has the names of two clients.
    #[error(
        "the client certificate has the names of two clients: see tls_subject of [client.NAME]"
    )]
    Ambiguous,
    /// The key is nobody's.
    #[error("the client key is not known here: see [client.NAME] and `ringbearer keygen`")]
    UnknownKey,
    /// The facade's token is over.
    #[error("the access token is over: refresh it, or log in again, at this proxy")]
    PassExpired,
    /// The facade's token is none, or for somebody who may not call any more.
    #[error("the access token is not good here, or not any more: log in again, at this proxy")]
    PassVoid,
    /// The client, or the listener, is another identity's.
    #[error("{who} may not call as identity \"{identity}\"")]
    NotBound {
        /// Who wanted to.
        who: String,
        /// As whom.
        identity: String,
    },
}

impl Selection {
    /// From the configuration.
    pub fn new<'a>(
        clients: &[ClientSettings],
        identities: impl IntoIterator<Item = &'a IdentitySettings>,
    ) -> Self {
        let hosts = identities.into_iter().flat_map(|identity| {
            identity.hosts.iter().map(|host| (host.clone(), identity.name.clone()))
        });
        Self {
            clients: clients.to_vec(),
            peers: Peers::new(clients),
            has_keys: clients.iter().any(|client| !client.keys.is_empty()),
            hosts: hosts.collect(),
        }
    }

    /// Whether callers have to be known, by a key or otherwise.
    pub fn asks_for_key(&self) -> bool {
        !self.clients.is_empty()
    }

    /// The clients by their connections.
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// As whom the request is to be sent. `pass` is the facade's token that it shows, if it does.
    pub fn choose<'a>(
        &'a self,
        asked: Asked<'a>,
        pass: Option<&'a Pass>,
        by: Caller,
    ) -> Result<Chosen<'a>, Denied> {
        let hint = pass.map_or(Hint::None, |pass| Hint::Sealed(&pass.identity));
        self.choose_for(self.caller(asked.fields, pass, by)?, asked, hint)
    }

    /// Who calls; none where anybody may. `pass` is the facade's token that is shown, `by` whose the
    /// connection is.
    pub fn caller(
        &self,
        fields: &HeaderMap,
        pass: Option<&Pass>,
        by: Caller,
    ) -> Result<Option<&ClientSettings>, Denied> {
        if let Some(pass) = pass {
            return self.holder(pass, by);
        }
        if !self.asks_for_key() {
            return Ok(None);
        }
        let key = if self.has_keys { shown_key(fields) } else { None };
        self.known(key.as_deref().map(Vec::as_slice), fields, by).map(Some)
    }

    /// Whose pass it is, if they may still call as its identity; none where anybody may. Who is known
    /// by connections only is it by no other.
    pub fn holder(&self, pass: &Pass, by: Caller) -> Result<Option<&ClientSettings>, Denied> {
        let client = match &pass.client {
            None if !self.asks_for_key() => return Ok(None),
            None => None,
            Some(name) => self.clients.iter().find(|client| client.name == *name),
        };
        let is_here = |client: &&ClientSettings| {
            let connected = || self.connected(by).ok().flatten();
            !client.keys.is_empty() || connected().is_some_and(|it| it.name == client.name)
        };
        let client = client.filter(|client| client.identities.includes(&pass.identity));
        client.filter(is_here).map(Some).ok_or(Denied::PassVoid)
    }

    /// Whose the key is, or else the connection. What was sent as a key on purpose has to be one; a
    /// Bearer or a password may be whatever an app has, where it needs none.
    fn known(
        &self,
        key: Option<&[u8]>,
        fields: &HeaderMap,
        by: Caller,
    ) -> Result<&ClientSettings, Denied> {
        let denied = match key {
            Some(key) => match self.client(key) {
                Some(client) => return Ok(client),
                None if fields.contains_key(API_KEY) => return Err(Denied::UnknownKey),
                None => Denied::UnknownKey,
            },
            None if self.has_keys => Denied::NoKey,
            None => Denied::Stranger,
        };
        self.connected(by)?.ok_or(denied)
    }

    /// Whose the connection is.
    fn connected(&self, by: Caller) -> Result<Option<&ClientSettings>, Denied> {
        match by {
            Caller::Unknown => Ok(None),
            Caller::Known(id) => Ok(self.peers.index(id).and_then(|index| self.clients.get(index))),
            Caller::Ambiguous => Err(Denied::Ambiguous),
        }
    }

    /// Who logs in with this id and this secret, or with the key that the fields show, or by their
    /// connection; `None` if that is nobody. Where there are no clients, anybody may.
    pub fn log_in(
        &self,
        fields: &HeaderMap,
        client_id: Option<&str>,
        secret: Option<&str>,
        by: Caller,
    ) -> Option<Option<&ClientSettings>> {
        if !self.asks_for_key() {
            return Some(None);
        }
        let shown = secret.map(|secret| Zeroizing::new(secret.as_bytes().to_vec()));
        let shown = shown_key(fields).or(shown);
        let client = self.known(shown.as_deref().map(Vec::as_slice), fields, by).ok()?;
        let demanded = client.client_id.as_deref();
        demanded.is_none_or(|demanded| client_id == Some(demanded)).then_some(Some(client))
    }

    /// As whom a client, or anybody, calls.
    pub fn choose_for<'a>(
        &'a self,
        client: Option<&'a ClientSettings>,
        asked: Asked<'a>,
        hint: Hint<'a>,
    ) -> Result<Chosen<'a>, Denied> {
        let chosen = named(asked)?;
        let chosen = match (hint, chosen) {
            (Hint::Sealed(identity), Some(other)) if other != identity => {
                let who = format!("the access token of \"{identity}\"");
                return Err(Denied::NotBound { who, identity: other.into_owned() });
            }
            (Hint::Sealed(identity), _) => Some(Cow::Borrowed(identity)),
            (_, chosen) => chosen.or_else(|| self.of_host(asked)),
        };
        let bound = client.map_or(&Bound::Any, |client| &client.identities);
        let chosen = chosen.or(match hint {
            Hint::Wished(identity) if bound.includes(identity) => Some(Cow::Borrowed(identity)),
            _ => None,
        });
        let Some(client) = client else { return Ok(chosen.map_or(Chosen::Only, Chosen::Named)) };
        match (chosen, &client.identities) {
            (None, Bound::Any) => Ok(Chosen::Only),
            (None, Bound::To(identities)) => {
                Ok(Chosen::Named(identities.first().map_or_else(Cow::default, Cow::from)))
            }
            (Some(name), bound) if bound.includes(&name) => Ok(Chosen::Named(name)),
            (Some(name), _) => Err(Denied::NotBound {
                who: format!("client \"{}\"", client.name),
                identity: name.into_owned(),
            }),
        }
    }

    /// Whose line a caller's requests wait in.
    pub fn line(&self, caller: Option<&ClientSettings>) -> Line {
        let place =
            caller.and_then(|caller| self.clients.iter().position(|it| it.name == caller.name));
        let number = place.and_then(|place| u32::try_from(place).ok());
        let weight = caller.map_or(1, |caller| caller.priority.get());
        number.map_or(Line::ANYBODY, |number| Line { number, weight })
    }

    fn client(&self, key: &[u8]) -> Option<&ClientSettings> {
        let shown = KeyDigest::of(key);
        // All of them are compared, so that the time tells nothing.
        self.clients.iter().fold(None, |found, client| {
            let fits = client.keys.iter().fold(false, |fits, key| fits | key.matches(&shown));
            if fits { Some(client) } else { found }
        })
    }

    fn of_host<'a>(&'a self, asked: Asked<'a>) -> Option<Cow<'a, str>> {
        if self.hosts.is_empty() {
            return None;
        }
        let authority = asked.uri.authority().map(http::uri::Authority::as_str);
        let field = || asked.fields.get(http::header::HOST)?.to_str().ok();
        let host = authority.or_else(field)?.to_ascii_lowercase();
        let bare = host.rsplit_once(':').map_or(host.as_str(), |(bare, _)| bare);
        let identity = self.hosts.get(&host).or_else(|| self.hosts.get(bare));
        identity.map(|name| Cow::Borrowed(name.as_str()))
    }
}

impl Bound {
    /// Whether a client bound so may call as this identity.
    pub fn includes(&self, identity: &str) -> bool {
        match self {
            Self::Any => true,
            Self::To(names) => names.iter().any(|name| name == identity),
        }
    }
}

/// The identity that the listener, the path or the field names, on which they have to agree.
fn named(asked: Asked<'_>) -> Result<Option<Cow<'_, str>>, Denied> {
    // Every line: a gateway may have added its own to one that the client has sent.
    let lines = asked.found.identity(asked.fields).map(|_| asked.fields.get_all(IDENTITY_FIELD));
    let lines = lines.into_iter().flatten().map(|name| String::from_utf8_lossy(name.as_bytes()));
    let mut chosen = asked.fixed.map(Cow::Borrowed);
    for name in asked.path.map(Cow::Borrowed).into_iter().chain(lines) {
        match chosen {
            Some(other) if other != name => {
                let who = match asked.fixed {
                    Some(fixed) => format!("whoever comes in where \"{fixed}\" listens"),
                    None if asked.path.is_some() => format!("whoever calls under {AS}{other}/"),
                    None => format!("whoever also names \"{other}\""),
                };
                return Err(Denied::NotBound { who, identity: name.into_owned() });
            }
            _ => chosen = Some(name),
        }
    }
    Ok(chosen)
}

/// The key that a request shows, wherever it does.
fn shown_key(fields: &HeaderMap) -> Option<Zeroizing<Vec<u8>>> {
    if let Some(key) = fields.get(API_KEY) {
        return Some(Zeroizing::new(key.as_bytes().trim_ascii().to_vec()));
    }
    let credentials = fields.get(AUTHORIZATION)?.as_bytes();
    let (scheme, rest) = credentials.split_at(credentials.iter().position(|byte| *byte == b' ')?);
    let rest = rest.trim_ascii();
    if scheme.eq_ignore_ascii_case(b"bearer") {
        return Some(Zeroizing::new(rest.to_vec()));
    }
    if !scheme.eq_ignore_ascii_case(b"basic") {
        return None;
    }
    let pair = Zeroizing::new(BASE64_STANDARD.decode(rest).ok()?);
    let (user, password) = pair.split_at(pair.iter().position(|byte| *byte == b':')?);
    let password = &password[1..];
    // `curl -u KEY:` has it in the other place.
    Some(Zeroizing::new(if password.is_empty() { user } else { password }.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::num::NonZeroU32;

    use http::HeaderValue;

    use super::super::peers::{Peer, Place};
    use super::*;
    use crate::settings::PeerSettings;

    fn client(name: &str, keys: &[&str], identities: Bound) -> ClientSettings {
        let keys = keys.iter().map(|key| KeyDigest::of(key.as_bytes())).collect();
        let peers = PeerSettings::default();
        ClientSettings {
            name: name.into(),
            keys,
            peers,
            identities,
            client_id: None,
            rewrite_links: true,
            policy: None,
            priority: NonZeroU32::MIN,
        }
    }

    fn with(clients: &[ClientSettings]) -> Selection {
        let hosts = [("sales.test", "sales"), ("hr.test:8080", "hr")];
        let hosts = hosts.map(|(host, name)| (host.into(), name.into())).into();
        Selection { hosts, ..Selection::new(clients, []) }
    }

    fn selection() -> Selection {
        let bound = Bound::To(vec!["sales".into(), "support".into()]);
        let operator = client("operator", &["key-3"], Bound::Any);
        with(&[client("billing", &["key-1", "key-2"], bound), operator])
    }

    /// `gateway` has a key and a network, `cron` is user 1000 and nothing else.
    fn connected() -> Selection {
        let mut gateway = client("gateway", &["key-1"], Bound::To(vec!["sales".into()]));
        gateway.peers.networks = vec!["10.0.0.0/8".parse().unwrap()];
        let mut cron = client("cron", &[], Bound::To(vec!["hr".into()]));
        cron.peers.users = vec![1000];
        with(&[gateway, cron])
    }

    fn by(selection: &Selection, place: Place) -> Caller {
        selection.peers().find(Peer { place, names: &[] }).0
    }

    const USER: Place = Place::Unix { uid: 1000, gid: 1000 };
    const INSIDE: Place = Place::Address(IpAddr::V4(Ipv4Addr::new(10, 1, 2, 3)));

    fn choose(
        selection: &Selection,
        fixed: Option<&str>,
        lines: &[(&'static str, &str)],
    ) -> Result<String, Denied> {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(*name, HeaderValue::from_str(value).unwrap());
        }
        let (uri, found) = (Uri::from_static("/restapi"), Found::in_request(&fields));
        let asked = Asked { fixed, path: None, uri: &uri, fields: &fields, found: &found };
        selection.choose(asked, None, Caller::Unknown).map(name)
    }

    fn name(chosen: Chosen<'_>) -> String {
        match chosen {
            Chosen::Named(name) => name.into_owned(),
            Chosen::Only => "(only)".to_owned(),
        }
    }

    fn pass(client: Option<&str>, identity: &str) -> Pass {
        let expires_at = crate::clock::Timestamp::from_unix_millis(0);
        Pass { client: client.map(Into::into), identity: identity.into(), expires_at }
    }

    fn open() -> Selection {
        with(&[])
    }

    #[test]
    fn listener_then_field_then_host_decide_and_else_there_is_only_one() {
        let (field, host) = (("x-ringbearer-identity", "hr"), ("host", "Sales.Test:80"));
        let chosen = |fixed, lines: &[_]| choose(&open(), fixed, lines).unwrap();
        assert_eq!(chosen(None, &[("host", "127.0.0.1:8080")]), "(only)");
        assert_eq!(chosen(None, &[host]), "sales");
        assert_eq!(chosen(None, &[("host", "hr.test")]), "(only)", "another port");
        assert_eq!(chosen(None, &[("host", "hr.test:8080")]), "hr");
        assert_eq!(chosen(None, &[host, field]), "hr");
        assert_eq!(chosen(Some("support"), &[host]), "support");
        assert_eq!(chosen(None, &[field, field]), "hr", "the same twice");
        let two = [field, ("x-ringbearer-identity", "sales")];
        let denied = choose(&open(), None, &two).unwrap_err().to_string();
        assert_eq!(denied, "whoever also names \"hr\" may not call as identity \"sales\"");
        let denied = choose(&open(), Some("support"), &[field]).unwrap_err().to_string();
        assert_eq!(
            denied,
            "whoever comes in where \"support\" listens may not call as identity \"hr\""
        );
    }

    #[test]
    fn a_path_has_to_agree_with_listener_field_token_and_client() {
        let selection = selection();
        let chosen =
            |fixed, lines: &[(&'static str, &'static str)], hint, client: Option<usize>| {
                let mut fields = HeaderMap::new();
                for (name, value) in lines {
                    fields.append(*name, HeaderValue::from_static(value));
                }
                let (uri, found) = (Uri::from_static("/restapi"), Found::in_request(&fields));
                let path = Some("sales");
                let asked = Asked { fixed, path, uri: &uri, fields: &fields, found: &found };
                let client = client.map(|index| &selection.clients[index]);
                let chosen = selection.choose_for(client, asked, hint);
                chosen.map(name).map_err(|denied| denied.to_string())
            };
        let (sales, hr) = (("x-ringbearer-identity", "sales"), ("x-ringbearer-identity", "hr"));
        let ok = Ok("sales".to_owned());
        for hint in [Hint::None, Hint::Sealed("sales"), Hint::Wished("hr")] {
            assert_eq!(chosen(None, &[], hint, None), ok);
            assert_eq!(chosen(Some("sales"), &[sales], hint, Some(0)), ok);
            assert_eq!(chosen(None, &[("host", "hr.test:8080")], hint, Some(1)), ok);
        }
        let denied = |who: &str, identity: &str| -> Result<String, String> {
            Err(format!("{who} may not call as identity \"{identity}\""))
        };
        assert_eq!(
            chosen(None, &[hr], Hint::None, None),
            denied("whoever calls under /.ringbearer/as/sales/", "hr")
        );
        assert_eq!(
            chosen(Some("support"), &[], Hint::None, None),
            denied("whoever comes in where \"support\" listens", "sales")
        );
        assert_eq!(
            chosen(None, &[], Hint::Sealed("hr"), None),
            denied("the access token of \"hr\"", "sales")
        );
        let bound = client("hr-only", &["key"], Bound::To(vec!["hr".into()]));
        let (uri, fields) = (Uri::from_static("/restapi"), HeaderMap::new());
        let found = Found::in_request(&fields);
        let asked =
            Asked { fixed: None, path: Some("sales"), uri: &uri, fields: &fields, found: &found };
        let refused = selection.choose_for(Some(&bound), asked, Hint::None).unwrap_err();
        assert_eq!(Err(refused.to_string()), denied("client \"hr-only\"", "sales"));
    }

    #[test]
    fn a_key_is_taken_from_wherever_apps_put_one() {
        let basic = |pair: &str| format!("Basic {}", BASE64_STANDARD.encode(pair));
        for (name, value) in [
            ("authorization", "Bearer key-1".to_owned()),
            ("authorization", "bearer  key-2".to_owned()),
            ("authorization", basic("anyone:key-1")),
            ("authorization", basic("key-1:")),
            ("x-api-key", "key-1".to_owned()),
        ] {
            assert_eq!(
                choose(&selection(), None, &[(name, &value)]),
                Ok("sales".into()),
                "{value}"
            );
        }
        for value in ["", "Bearer", "Digest key-1", "Basic key-1", "key-1"] {
            let denied = choose(&selection(), None, &[("authorization", value)]);
            assert_eq!(denied, Err(Denied::NoKey), "{value:?}");
        }
        let denied = choose(&selection(), None, &[("authorization", "Bearer key-4")]);
        assert_eq!(denied, Err(Denied::UnknownKey));
        assert_eq!(choose(&selection(), None, &[]), Err(Denied::NoKey));
    }

    #[test]
    fn a_client_calls_as_those_it_is_bound_to_and_nobody_else() {
        let (billing, operator) = (("x-api-key", "key-1"), ("x-api-key", "key-3"));
        let as_identity = |name| ("x-ringbearer-identity", name);
        let chosen = |lines: &[_]| choose(&selection(), None, lines);
        assert_eq!(chosen(&[billing, as_identity("support")]), Ok("support".into()));
        assert_eq!(chosen(&[operator, as_identity("hr")]), Ok("hr".into()));
        assert_eq!(chosen(&[operator]), Ok("(only)".into()));
        let denied = chosen(&[billing, as_identity("hr")]).unwrap_err().to_string();
        assert_eq!(denied, "client \"billing\" may not call as identity \"hr\"");
        let by_host = chosen(&[billing, ("host", "hr.test:8080")]);
        assert!(matches!(by_host, Err(Denied::NotBound { .. })), "{by_host:?}");
        assert!(choose(&selection(), Some("hr"), &[billing]).is_err());
        assert_eq!(choose(&selection(), Some("support"), &[billing]), Ok("support".into()));
    }

    #[test]
    fn a_token_of_the_facades_is_its_clients_for_its_identity_and_as_long_as_both_fit() {
        let through =
            |selection: &Selection, fixed, pass: &Pass, lines: &[(&'static str, &str)]| {
                let mut fields = HeaderMap::new();
                for (name, value) in lines {
                    fields.append(*name, HeaderValue::from_str(value).unwrap());
                }
                let (uri, found) = (Uri::from_static("/restapi"), Found::in_request(&fields));
                let asked = Asked { fixed, path: None, uri: &uri, fields: &fields, found: &found };
                selection.choose(asked, Some(pass), Caller::Unknown).map(name)
            };
        let billing = pass(Some("billing"), "support");
        let (asking, field) = (selection(), "x-ringbearer-identity");
        assert_eq!(through(&asking, None, &billing, &[]), Ok("support".into()));
        let host = [("host", "hr.test:8080")];
        assert_eq!(through(&asking, None, &billing, &host), Ok("support".into()), "not the host's");
        assert_eq!(through(&asking, Some("support"), &billing, &[]), Ok("support".into()));
        assert_eq!(through(&asking, None, &billing, &[(field, "support")]), Ok("support".into()));
        for (fixed, lines) in [(Some("sales"), &[][..]), (None, &[(field, "sales")])] {
            let denied = through(&asking, fixed, &billing, lines).unwrap_err().to_string();
            assert_eq!(
                denied,
                "the access token of \"support\" may not call as identity \"sales\""
            );
        }
        for (selection, pass) in [
            (&asking, pass(Some("billing"), "hr")),
            (&asking, pass(Some("gone"), "support")),
            (&asking, pass(None, "support")),
            (&open(), pass(Some("billing"), "support")),
        ] {
            assert_eq!(through(selection, None, &pass, &[]), Err(Denied::PassVoid), "{pass:?}");
        }
        assert_eq!(through(&open(), None, &pass(None, "hr"), &[]), Ok("hr".into()));
    }

    #[test]
    fn a_login_shows_the_key_as_its_secret_and_the_id_if_one_is_demanded() {
        let mut asking = selection();
        asking.clients[1].client_id = Some("the-id".into());
        let log_in = |id, secret, authorization: &str| {
            let mut fields = HeaderMap::new();
            if !authorization.is_empty() {
                fields.insert(AUTHORIZATION, authorization.parse().unwrap());
            }
            asking
                .log_in(&fields, id, secret, Caller::Unknown)
                .map(|client| client.unwrap().name.clone())
        };
        let basic = format!("Basic {}", BASE64_STANDARD.encode("junk:key-1"));
        assert_eq!(log_in(Some("junk"), None, &basic), Some("billing".into()));
        assert_eq!(log_in(Some("junk"), Some("key-1"), ""), Some("billing".into()));
        assert_eq!(log_in(Some("the-id"), Some("key-3"), ""), Some("operator".into()));
        assert_eq!(log_in(Some("operator"), Some("key-3"), ""), None);
        assert_eq!(log_in(None, Some("key-3"), ""), None);
        assert_eq!(log_in(Some("billing"), Some("key-9"), ""), None);
        assert_eq!(log_in(Some("billing"), None, ""), None);
        assert_eq!(
            open().log_in(&HeaderMap::new(), None, None, Caller::Unknown).map(|it| it.is_none()),
            Some(true)
        );
    }

    #[test]
    fn a_connection_that_is_known_needs_no_key_and_a_key_that_is_known_says_more() {
        let selection = connected();
        let called = |place, lines: &[(&'static str, &'static str)]| {
            let mut fields = HeaderMap::new();
            for (name, value) in lines {
                fields.append(*name, HeaderValue::from_static(value));
            }
            let client = selection.caller(&fields, None, by(&selection, place));
            client.map(|client| client.unwrap().name.clone())
        };
        let gateway = Ok("gateway".to_owned());
        let cron = Ok("cron".to_owned());
        let (key, wrong) = (("x-api-key", "key-1"), ("x-api-key", "key-9"));
        let junk = ("authorization", "Bearer undefined");
        assert_eq!(called(INSIDE, &[]), gateway);
        assert_eq!(called(INSIDE, &[key]), gateway);
        assert_eq!(called(INSIDE, &[junk]), gateway);
        assert_eq!(called(INSIDE, &[wrong]), Err(Denied::UnknownKey));
        assert_eq!(called(USER, &[]), cron);
        assert_eq!(called(USER, &[junk]), cron);
        assert_eq!(called(USER, &[wrong]), Err(Denied::UnknownKey));
        assert_eq!(called(USER, &[key]), gateway, "the key says more");
        assert_eq!(called(USER, &[("authorization", "Bearer key-1")]), gateway);
        assert_eq!(called(Place::Unknown, &[]), Err(Denied::NoKey));
        assert_eq!(called(Place::Unknown, &[junk]), Err(Denied::UnknownKey));
    }

    #[test]
    fn where_no_client_has_a_key_none_is_looked_for() {
        let selection = with(&connected().clients[1..]);
        let called = |place, key: &'static str| {
            let mut fields = HeaderMap::new();
            fields.insert(API_KEY, HeaderValue::from_static(key));
            let client = selection.caller(&fields, None, by(&selection, place));
            client.map(|client| client.unwrap().name.clone())
        };
        assert_eq!(called(USER, "any"), Ok("cron".to_owned()));
        assert_eq!(called(INSIDE, "any"), Err(Denied::Stranger));
        let other = with(&connected().clients[1..]);
        let elsewhere = selection.caller(&HeaderMap::new(), None, by(&other, USER));
        assert_eq!(elsewhere.map(|_| ()), Err(Denied::Stranger), "of another configuration");
        let ambiguous = selection.caller(&HeaderMap::new(), None, Caller::Ambiguous);
        assert_eq!(ambiguous.map(|_| ()), Err(Denied::Ambiguous));
    }

    #[test]
    fn a_token_of_somebody_without_a_key_is_good_on_their_connection_only() {
        let selection = connected();
        let holds = |client, identity, place| {
            let pass = pass(Some(client), identity);
            selection.holder(&pass, by(&selection, place)).map(|it| it.unwrap().name.clone())
        };
        assert_eq!(holds("cron", "hr", USER), Ok("cron".into()));
        assert_eq!(holds("cron", "hr", INSIDE), Err(Denied::PassVoid));
        assert_eq!(holds("cron", "hr", Place::Unknown), Err(Denied::PassVoid));
        assert_eq!(holds("cron", "sales", USER), Err(Denied::PassVoid));
        assert_eq!(holds("gateway", "sales", Place::Unknown), Ok("gateway".into()));
        assert_eq!(holds("gateway", "sales", USER), Ok("gateway".into()));
    }

    #[test]
    fn a_login_over_a_known_connection_may_show_any_secret() {
        let selection = connected();
        let log_in = |secret, place| {
            let client =
                selection.log_in(&HeaderMap::new(), Some("any"), secret, by(&selection, place));
            client.map(|client| client.unwrap().name.clone())
        };
        assert_eq!(log_in(Some("any"), USER), Some("cron".into()));
        assert_eq!(log_in(None, USER), Some("cron".into()));
        assert_eq!(log_in(Some("key-1"), USER), Some("gateway".into()));
        assert_eq!(log_in(Some("any"), Place::Unknown), None);
    }

    #[test]
    fn a_login_gets_the_identity_it_wishes_where_nothing_else_decides() {
        let asking = selection();
        let chosen = |fixed, host: &'static str, client: Option<usize>, wished| {
            let mut fields = HeaderMap::new();
            fields.insert("host", HeaderValue::from_static(host));
            let (uri, found) = (Uri::from_static("/restapi"), Found::in_request(&fields));
            let asked = Asked { fixed, path: None, uri: &uri, fields: &fields, found: &found };
            let client = client.map(|index| &asking.clients[index]);
            asking.choose_for(client, asked, Hint::Wished(wished)).map(name)
        };
        assert_eq!(chosen(None, "any", None, "hr"), Ok("hr".into()));
        assert_eq!(chosen(None, "sales.test", None, "hr"), Ok("sales".into()));
        assert_eq!(chosen(Some("sales"), "any", None, "hr"), Ok("sales".into()));
        assert_eq!(chosen(None, "any", Some(0), "support"), Ok("support".into()));
        assert_eq!(chosen(None, "any", Some(0), "hr"), Ok("sales".into()), "its usual one");
        assert_eq!(chosen(None, "any", Some(1), "hr"), Ok("hr".into()));
    }

    #[test]
    fn each_client_has_a_line_of_its_own_and_turns_by_its_priority() {
        let mut selection = selection();
        selection.clients[1].priority = NonZeroU32::new(5).unwrap();
        let caller = |key: &'static str| {
            let fields = [(API_KEY, HeaderValue::from_static(key))].into_iter().collect();
            selection.line(selection.caller(&fields, None, Caller::Unknown).unwrap())
        };
        assert_eq!(caller("key-1"), caller("key-2"), "both are billing's");
        assert_eq!(caller("key-1"), Line { number: 0, weight: 1 });
        assert_eq!(caller("key-3"), Line { number: 1, weight: 5 });
        assert_eq!(open().line(None), Line::ANYBODY);
        let pass = pass(Some("operator"), "hr");
        let holder = selection.caller(&HeaderMap::new(), Some(&pass), Caller::Unknown).unwrap();
        assert_eq!(selection.line(holder), Line { number: 1, weight: 5 }, "by a token");
    }
}
