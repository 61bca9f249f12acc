//! The OAuth endpoints as the proxy answers them itself, so that an SDK logs in unchanged.
//!
//! It hands out tokens of its own and never RingCentral's, and asks RingCentral nothing: a login
//! succeeds while RingCentral is away, which SDKs want that forget their login when one refresh
//! fails. A login is worth what the client's secret is worth. With `[client.NAME]` that is a client's
//! key; without, whoever reaches a listener may call anyway, and any login succeeds. What is sent
//! besides (a JWT, a password) is not looked at.
//!
//! Decisions are pure; the sibling module `login` is the shell.

pub mod authorize;
mod fault;
mod form;
pub mod pass;

use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, PRAGMA,
};
use http::{Response, StatusCode};

pub use fault::Fault;
pub use form::{Form, Grant, Redeemed};

use super::access::Endpoint;
use super::headers::Found;
use crate::clock::Timestamp;
use crate::secret::SecretKey;
use crate::settings::FacadeSettings;
use crate::token::Particulars;
use authorize::Spent;
use pass::{Keys, Kind, PREFIX, Pass};

/// The endpoints' answers, and what they are sealed with.
#[derive(Debug)]
pub struct Facade {
    settings: FacadeSettings,
    keys: OnceLock<Keys>,
    /// Codes that were redeemed and are not over yet: a code is good once (RFC 6749 §4.1.2). Each
    /// process knows its own.
    spent: Mutex<Vec<Spent>>,
}

/// For whom a pair of tokens is issued.
#[derive(Clone, Copy, Debug)]
pub struct Holder<'a> {
    /// The client; none where clients show no key.
    pub client: Option<&'a str>,
    /// The identity.
    pub identity: &'a str,
}

impl Facade {
    /// With the configured keys; without any, the store's has to be [set](Self::set_key).
    pub fn new(settings: FacadeSettings) -> Self {
        let keys = Keys::of(&settings.keys).map_or_else(OnceLock::new, OnceLock::from);
        Self { settings, keys, spent: Mutex::default() }
    }

    /// Whether this endpoint is answered here. The device flow would need a page for its user.
    pub fn answers(&self, endpoint: Endpoint) -> bool {
        self.settings.answers && endpoint != Endpoint::DeviceAuthorization
    }

    /// What tokens are sealed with, once it is known.
    pub fn keys(&self) -> Option<&Keys> {
        self.keys.get()
    }

    /// The key from the store, unless another thread was faster.
    pub fn set_key(&self, key: SecretKey) -> &Keys {
        self.keys.get_or_init(|| Keys::of(&[key]).expect("there is one"))
    }

    /// The token of the facade's that a request shows, good or not. To be asked of every request:
    /// where there is no `Authorization` it is not looked for.
    pub fn shown<'a>(&self, fields: &'a HeaderMap, found: &Found) -> Option<&'a [u8]> {
        if !found.has_authorization() || !self.settings.answers {
            return None;
        }
        let (scheme, rest) = fields.get(AUTHORIZATION)?.as_bytes().split_at_checked(7)?;
        let token = rest.trim_ascii();
        let is_ours = scheme.eq_ignore_ascii_case(b"bearer ") && is_ours(token);
        is_ours.then_some(token)
    }

    /// Where the browser goes with the answer to a query of `authorize`.
    pub fn authorize(&self, query: &str, keys: &Keys, now: Timestamp) -> Result<String, Fault> {
        authorize::answer(query, &self.settings.redirect_uris, keys, now)
    }

    /// Where RingCentral Embeddable goes on: it wants no code, because its requests need no token.
    pub fn welcome(&self, query: &str) -> Result<String, Fault> {
        authorize::welcome(query, &self.settings.redirect_uris)
    }

    /// Takes a code, once.
    pub fn redeem(
        &self,
        redeemed: &Redeemed<'_>,
        client_id: &str,
        keys: &Keys,
        now: Timestamp,
    ) -> Result<(), Fault> {
        let code = authorize::redeem(redeemed, client_id, keys, now)?;
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        spent.retain(|other| other.expires_at > now);
        if spent.contains(&code) {
            return Err(Fault::Grant("the code was redeemed before"));
        }
        spent.push(code);
        Ok(())
    }

    /// A pair of tokens (RFC 6749 §5.1), with everything that SDKs read.
    pub fn issue(
        &self,
        holder: Holder<'_>,
        known: Particulars,
        keys: &Keys,
        now: Timestamp,
    ) -> Response<Bytes> {
        let issue = |kind, ttl| {
            let pass = Pass {
                client: holder.client.map(str::to_owned),
                identity: holder.identity.to_owned(),
                expires_at: now + ttl,
            };
            keys.issue(kind, &pass)
        };
        let FacadeSettings { access_token_ttl, refresh_token_ttl, .. } = self.settings;
        json(&serde_json::json!({
            "access_token": issue(Kind::Access, access_token_ttl).expose(),
            "token_type": "bearer",
            "expires_in": access_token_ttl.as_secs(),
            "refresh_token": issue(Kind::Refresh, refresh_token_ttl).expose(),
            "refresh_token_expires_in": refresh_token_ttl.as_secs(),
            "scope": known.scope.unwrap_or_default(),
            // RingCentral's own word for "whoever is logged in", good in any path.
            "owner_id": known.owner_id.as_deref().unwrap_or("~"),
            "endpoint_id": known.endpoint_id.as_deref().unwrap_or(holder.identity),
        }))
    }

    /// Whether a token is good, and for whom (RFC 7662); only its own client is told.
    pub fn introspect(
        token: &str,
        client: Option<&str>,
        keys: &Keys,
        now: Timestamp,
    ) -> Response<Bytes> {
        let read = |kind| keys.read(kind, token.as_bytes());
        let pass = read(Kind::Access).or_else(|| read(Kind::Refresh));
        let pass = pass.filter(|pass| pass.expires_at > now && pass.client.as_deref() == client);
        let Some(pass) = pass else { return json(&serde_json::json!({ "active": false })) };
        let mut answer = serde_json::json!({
            "active": true,
            "sub": pass.identity,
            "exp": pass.expires_at.unix_secs(),
            "token_type": "bearer",
        });
        if let Some(client) = pass.client {
            answer["client_id"] = client.into();
        }
        json(&answer)
    }

    /// The answer to a logout. A token ends by itself: to end one here would take a list that every
    /// replica keeps, and an SDK that is disposed of revokes what another process may use.
    pub fn revoked() -> Response<Bytes> {
        json(&serde_json::json!({}))
    }

    /// The answer to the logout of RingCentral Embeddable. The session is everybody's here.
    pub fn farewell() -> Response<Bytes> {
        json(&serde_json::json!({ "result": "success" }))
    }

    /// Sends the browser on.
    pub fn redirect(to: &str) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::FOUND;
        let to = HeaderValue::from_str(to).expect("it was checked, and what was added is encoded");
        response.headers_mut().insert(LOCATION, to);
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        response
    }
}

/// Whether a text is meant to be a token of the facade's.
pub fn is_ours(token: &[u8]) -> bool {
    token.starts_with(PREFIX.as_bytes())
}

fn json(content: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(content.to_string()));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/json;charset=utf-8"));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(PRAGMA, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::secret::Secret;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    fn facade() -> Facade {
        Facade::new(FacadeSettings {
            answers: true,
            keys: vec![SecretKey::parse(&Secret::new("A".repeat(43))).unwrap()],
            access_token_ttl: Duration::from_secs(600),
            refresh_token_ttl: Duration::from_secs(6000),
            redirect_uris: Vec::new(),
        })
    }

    fn content(response: &Response<Bytes>) -> serde_json::Value {
        serde_json::from_slice(response.body()).unwrap()
    }

    #[test]
    fn a_pair_has_what_every_sdk_reads() {
        let (facade, holder) = (facade(), Holder { client: Some("app"), identity: "sales" });
        let keys = facade.keys().unwrap();
        let answer = facade.issue(holder, Particulars::default(), keys, NOW);
        assert_eq!(
            (answer.status(), &answer.headers()["cache-control"]),
            (StatusCode::OK, &"no-store".parse().unwrap())
        );
        let mut answer = content(&answer);
        let pass = |expires| Pass {
            client: Some("app".into()),
            identity: "sales".into(),
            expires_at: NOW + Duration::from_secs(expires),
        };
        for (name, kind, expires) in
            [("access_token", Kind::Access, 600), ("refresh_token", Kind::Refresh, 6000)]
        {
            let token = answer[name].take();
            assert_eq!(keys.read(kind, token.as_str().unwrap().as_bytes()), Some(pass(expires)));
        }
        assert_eq!(
            answer,
            serde_json::json!({
                "access_token": null, "token_type": "bearer", "expires_in": 600,
                "refresh_token": null, "refresh_token_expires_in": 6000,
                "scope": "", "owner_id": "~", "endpoint_id": "sales",
            })
        );
        let known = Particulars {
            scope: Some("SMS".into()),
            owner_id: Some("102".into()),
            endpoint_id: Some("box".into()),
        };
        let answer = content(&facade.issue(holder, known, keys, NOW));
        let said = ["scope", "owner_id", "endpoint_id"].map(|name| answer[name].as_str().unwrap());
        assert_eq!(said, ["SMS", "102", "box"]);
    }

    #[test]
    fn a_token_is_explained_to_its_own_client_until_its_end() {
        let (facade, holder) = (facade(), Holder { client: Some("app"), identity: "sales" });
        let keys = facade.keys().unwrap();
        let pair = content(&facade.issue(holder, Particulars::default(), keys, NOW));
        let token = |name: &str| pair[name].as_str().unwrap();
        let ask = |token, client, seconds| {
            content(&Facade::introspect(token, client, keys, NOW + Duration::from_secs(seconds)))
        };
        let active = serde_json::json!({
            "active": true, "sub": "sales", "client_id": "app", "token_type": "bearer",
            "exp": 1_700_000_600,
        });
        assert_eq!(ask(token("access_token"), Some("app"), 599), active);
        assert_eq!(ask(token("refresh_token"), Some("app"), 5999)["exp"], 1_700_006_000);
        let none = serde_json::json!({ "active": false });
        assert_eq!(ask(token("access_token"), Some("app"), 600), none);
        assert_eq!(ask(token("access_token"), Some("other"), 0), none);
        assert_eq!(ask(token("access_token"), None, 0), none);
        assert_eq!(ask("junk", Some("app"), 0), none);
    }

    #[test]
    fn a_code_is_good_once() {
        let (facade, query) =
            (facade(), "response_type=code&client_id=a&redirect_uri=http://localhost/");
        let keys = facade.keys().unwrap();
        let new = || facade.authorize(query, keys, NOW).unwrap();
        let redeem = |url: &str, seconds| {
            let code = url.split_once("code=").unwrap().1;
            let redeemed = Redeemed { code, redirect_uri: None, verifier: None };
            facade.redeem(&redeemed, "a", keys, NOW + Duration::from_secs(seconds))
        };
        let (one, other) = (new(), new());
        assert_eq!(redeem(&one, 0), Ok(()));
        assert_eq!(redeem(&one, 30), Err(Fault::Grant("the code was redeemed before")));
        assert_eq!(redeem(&other, 59), Ok(()));
        assert!(redeem(&one, 60).is_err(), "it is over, and need not be remembered");
    }

    #[test]
    fn a_token_of_the_facades_is_looked_for_in_bearer_only() {
        let shown = |facade: &Facade, value: &str| {
            let mut fields = HeaderMap::new();
            fields.insert(AUTHORIZATION, value.parse().unwrap());
            let found = Found::in_request(&fields);
            facade.shown(&fields, &found).map(<[u8]>::to_vec)
        };
        let answering = facade();
        assert_eq!(shown(&answering, "Bearer rbx1_a"), Some(b"rbx1_a".to_vec()));
        assert_eq!(shown(&answering, "bearer  rbx1_"), Some(b"rbx1_".to_vec()));
        for value in ["Bearer undefined", "Basic rbx1_a", "rbx1_a", "Bearer", "Bearer "] {
            assert_eq!(shown(&answering, value), None, "{value}");
        }
        let settings = FacadeSettings { answers: false, ..answering.settings.clone() };
        assert_eq!(shown(&Facade::new(settings), "Bearer rbx1_a"), None);
        assert!(answering.shown(&HeaderMap::new(), &Found::default()).is_none());
    }
}
