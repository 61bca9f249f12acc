//! What the stand-in believes: who may log in, how long tokens live, which limits apply.
//!
//! [`Rules::default`] is RingCentral as its developer guide describes it. Tests and demonstrations
//! change single figures, in process or over the control surface, while the sandbox runs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Everything about the sandbox's behaviour that can be changed while it runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[allow(clippy::struct_excessive_bools, reason = "each switch turns one habit of RingCentral's")]
pub struct Rules {
    /// The applications that may ask for tokens.
    pub applications: Vec<Application>,
    /// The users that may log in by password. A JWT of the form `sandbox-jwt-N` makes up user N.
    pub users: Vec<User>,
    /// The default and the longest life of an access token.
    #[serde(with = "seconds")]
    pub access_token_ttl: Duration,
    /// The shortest life an application may ask for. RingCentral's is 600 s; a demo wants less.
    #[serde(with = "seconds")]
    pub access_token_ttl_min: Duration,
    /// The default and the longest life of a refresh token.
    #[serde(with = "seconds")]
    pub refresh_token_ttl: Duration,
    /// The least length of an access token. RingCentral's are JWTs of several hundred characters.
    pub access_token_length: usize,
    /// By how many seconds `expires_in` understates the true life; RingCentral often answers 3599.
    pub expires_in_less: u64,
    /// Whether a refresh leaves the old access token alive until its own expiry.
    pub old_access_token_lives: bool,
    /// For how long a killed access token is "corrupted" before it is "not found".
    #[serde(with = "seconds")]
    pub corrupted_for: Duration,
    /// Whether a refresh token that comes a second time ends its session (RFC 9700 §4.14.2).
    pub strict_rotation: bool,
    /// How long a used refresh token answers the same pair once the new access token was used.
    #[serde(with = "seconds")]
    pub old_refresh_token_after_use: Duration,
    /// How long a used refresh token answers the same pair while the new access token is unused.
    #[serde(with = "seconds")]
    pub old_refresh_token_unused: Duration,
    /// Parallel sessions of one user in one application; one more ends the oldest.
    pub max_sessions: usize,
    /// When a session ends whatever its tokens say.
    #[serde(with = "optional_seconds")]
    pub absolute_session_timeout: Option<Duration>,
    /// Whether one application may make only `limits["Auth"]` token requests per window.
    pub token_budget: bool,
    /// Whether API requests are counted against `limits`.
    pub rate_limits: bool,
    /// Requests per window by group name. A group that is not listed has no limit.
    pub limits: BTreeMap<String, u32>,
    /// The sliding window of all limits.
    #[serde(with = "seconds")]
    pub limit_window: Duration,
    /// The penalty after a 429, which every request inside it starts again.
    #[serde(with = "seconds")]
    pub limit_penalty: Duration,
    /// How long a WebSocket token is good.
    #[serde(with = "seconds")]
    pub ws_token_ttl: Duration,
    /// How many records every list holds.
    pub list_total: u64,
    /// The size of a media file for which the request names none, in bytes.
    pub media_size: u64,
    /// Whether absolute links lead back to the sandbox; else they keep RingCentral's hosts.
    pub own_links: bool,
    /// The name of the host in links to media, which RingCentral keeps on one of their own; without,
    /// the one that the caller used.
    pub media_host: Option<String>,
    /// Whether a login shows a page on which the user agrees or does not, instead of agreeing at once.
    pub consent_page: bool,
    /// Whether a 401 or 429 is answered before the request's content has arrived.
    pub early_refusal: bool,
    /// After how many requests a connection is closed without a word; never when absent.
    pub requests_per_connection: Option<u64>,
    /// How many arrivals the log keeps; with 0 nothing is logged.
    pub log_capacity: usize,
}

/// A registered application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Application {
    /// Its client id.
    pub client_id: String,
    /// Its secret; a public client has none and proves itself by PKCE.
    #[serde(default)]
    pub client_secret: Option<String>,
    /// Whether it is issued refresh tokens.
    #[serde(default = "yes")]
    pub refresh_tokens: bool,
    /// The grant types it may use; all when absent.
    #[serde(default)]
    pub grants: Option<Vec<String>>,
    /// Where an authorization code may be sent; anywhere when empty.
    #[serde(default)]
    pub redirect_uris: Vec<String>,
}

/// Someone who can log in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The number that tells users apart; also the end of the `owner_id`.
    pub id: u64,
    /// The telephone number that serves as user name.
    pub username: String,
    /// The extension within the account.
    #[serde(default)]
    pub extension: Option<String>,
    /// The password.
    pub password: String,
    /// The JWT credential; `sandbox-jwt-{id}` is always good as well.
    #[serde(default)]
    pub jwt: Option<String>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            applications: vec![Application::demo(), Application::public()],
            users: vec![User::demo()],
            access_token_ttl: Duration::from_secs(3600),
            access_token_ttl_min: Duration::from_secs(600),
            refresh_token_ttl: Duration::from_secs(604_800),
            access_token_length: 0,
            expires_in_less: 0,
            old_access_token_lives: false,
            corrupted_for: Duration::from_secs(10),
            strict_rotation: false,
            old_refresh_token_after_use: Duration::from_secs(10),
            old_refresh_token_unused: Duration::from_secs(3600),
            max_sessions: 5,
            absolute_session_timeout: None,
            token_budget: true,
            rate_limits: true,
            limits: [("Light", 50), ("Medium", 40), ("Heavy", 10), ("Auth", 5)]
                .map(|(group, limit)| (group.to_owned(), limit))
                .into(),
            limit_window: Duration::from_secs(60),
            limit_penalty: Duration::from_secs(60),
            ws_token_ttl: Duration::from_secs(30),
            list_total: 95,
            media_size: 100_000,
            own_links: true,
            media_host: None,
            consent_page: false,
            early_refusal: false,
            requests_per_connection: None,
            log_capacity: 10_000,
        }
    }
}

impl Rules {
    /// RingCentral's behaviour without any limit on how often it is asked: for benches and tests.
    pub fn unlimited() -> Self {
        Self { token_budget: false, rate_limits: false, ..Self::default() }
    }

    /// These rules with `patch`, a JSON object, laid over them.
    pub(super) fn patched(&self, patch: &serde_json::Value) -> Result<Self, serde_json::Error> {
        let mut whole = serde_json::to_value(self)?;
        merge(&mut whole, patch);
        serde_json::from_value(whole)
    }

    pub(super) fn application(&self, client_id: &str) -> Option<&Application> {
        self.applications.iter().find(|application| application.client_id == client_id)
    }

    /// Whose JWT credential `assertion` is.
    pub(super) fn user_of_jwt(&self, assertion: &str) -> Option<u64> {
        let listed = self.users.iter().find(|user| user.jwt.as_deref() == Some(assertion));
        let numbered = || assertion.strip_prefix("sandbox-jwt-")?.parse().ok();
        listed.map(|user| user.id).or_else(numbered)
    }

    /// Who logs in with this name, extension and password.
    pub(super) fn user_of_password(
        &self,
        username: &str,
        extension: Option<&str>,
        password: &str,
    ) -> Option<u64> {
        let fits = |user: &&User| {
            let extension = extension.filter(|extension| !extension.is_empty());
            digits(&user.username) == digits(username)
                && user.password == password
                && extension.is_none_or(|extension| user.extension.as_deref() == Some(extension))
        };
        self.users.iter().find(fits).map(|user| user.id)
    }
}

impl Application {
    /// The confidential application of the demonstration.
    pub fn demo() -> Self {
        Self {
            client_id: "sandbox-client".into(),
            client_secret: Some("sandbox-secret".into()),
            refresh_tokens: true,
            grants: None,
            redirect_uris: Vec::new(),
        }
    }

    /// The public client of the demonstration, which has no secret.
    pub fn public() -> Self {
        Self { client_id: "sandbox-public".into(), client_secret: None, ..Self::demo() }
    }
}

impl User {
    /// The user of the demonstration.
    pub fn demo() -> Self {
        Self {
            id: 1,
            username: "+15551230001".into(),
            extension: Some("101".into()),
            password: "sandbox-password".into(),
            jwt: Some("sandbox-jwt".into()),
        }
    }
}

/// Objects are merged, except `limits`' members are merged too; everything else is replaced.
fn merge(whole: &mut serde_json::Value, patch: &serde_json::Value) {
    match (whole.as_object_mut(), patch.as_object()) {
        (Some(members), Some(changes)) => {
            for (name, change) in changes {
                merge(members.entry(name).or_insert(serde_json::Value::Null), change);
            }
        }
        _ => *whole = patch.clone(),
    }
}

fn digits(text: &str) -> &str {
    text.trim_start_matches('+')
}

const fn yes() -> bool {
    true
}

/// A duration as a JSON number of seconds.
mod seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(value.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }
}

/// A duration as a JSON number of seconds, or null.
mod optional_seconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[allow(clippy::ref_option, reason = "serde prescribes the signature")]
    pub(super) fn serialize<S: Serializer>(
        value: &Option<Duration>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(|value| value.as_secs_f64()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Duration>, D::Error> {
        let seconds = Option::<f64>::deserialize(from)?;
        seconds.map(Duration::try_from_secs_f64).transpose().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_changes_only_what_it_names() {
        let patch =
            json!({"access_token_ttl": 20, "limits": {"Heavy": 2}, "strict_rotation": true});
        let patched = Rules::default().patched(&patch).unwrap();
        let mut expected = Rules {
            access_token_ttl: Duration::from_secs(20),
            strict_rotation: true,
            ..Rules::default()
        };
        expected.limits.insert("Heavy".into(), 2);
        assert_eq!(patched, expected);
    }

    #[test]
    fn a_misspelt_rule_is_refused_by_name() {
        let error = Rules::default().patched(&json!({"acces_token_ttl": 20})).unwrap_err();
        assert!(error.to_string().contains("acces_token_ttl"), "{error}");
    }

    #[test]
    fn jwts_and_passwords_lead_to_their_users() {
        let rules = Rules::default();
        assert_eq!(rules.user_of_jwt("sandbox-jwt"), Some(1));
        assert_eq!(rules.user_of_jwt("sandbox-jwt-37"), Some(37));
        assert_eq!(rules.user_of_jwt("other"), None);
        let login = |name, extension| rules.user_of_password(name, extension, "sandbox-password");
        assert_eq!(login("15551230001", Some("101")), Some(1));
        assert_eq!(login("+15551230001", Some("")), Some(1));
        assert_eq!(login("+15551230001", Some("102")), None);
    }
}
