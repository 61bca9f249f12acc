//! Applications and identities: names resolved, secrets fetched, one credential each, or a second one
//! for when the session of the first is lost.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use super::resolve::{duration, non_empty, within};
use super::{
    ApplicationSettings, Credential, IdentitySettings, Origin, Place, SettingsError, UrlProblem,
    Warning, origin,
};
use crate::config::{ApplicationConfig, IdentityConfig};
use crate::secret::{Secret, Sources};

/// What the URLs of an application have to agree with.
pub(super) struct Endpoints<'a> {
    pub(super) upstream: &'a Origin,
    pub(super) allow_plain_http: bool,
    pub(super) refuse_own: &'a dyn Fn(&'static str, &Origin) -> Result<(), SettingsError>,
}

type Applications = BTreeMap<String, Arc<ApplicationSettings>>;

/// Every `[application.NAME]`.
pub(super) fn applications(
    written: BTreeMap<String, ApplicationConfig>,
    endpoints: &Endpoints<'_>,
    sources: &mut Sources<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Applications, SettingsError> {
    let mut applications = Applications::new();
    for (name, config) in written {
        let application = application(&name, config, endpoints, sources, warnings)
            .and_then(|application| refuse_same_client_id(application, &applications))
            .map_err(|error| error.within("application", &name))?;
        applications.insert(name, Arc::new(application));
    }
    Ok(applications)
}

/// Every `[identity.NAME]`, by name; without one there has to be an application to log in with.
pub(super) fn identities(
    written: BTreeMap<String, IdentityConfig>,
    applications: &Applications,
    sources: &mut Sources<'_>,
) -> Result<Vec<Arc<IdentitySettings>>, SettingsError> {
    if written.is_empty() && applications.is_empty() {
        return Err(SettingsError::NoIdentity);
    }
    let mut identities = Vec::new();
    for (name, config) in written {
        let identity = identity(&name, config, applications, sources)
            .and_then(|identity| refuse_same_credential(identity, &identities))
            .and_then(|identity| refuse_same_host(identity, &identities))
            .map_err(|error| error.within("identity", &name))?;
        identities.push(Arc::new(identity));
    }
    Ok(identities)
}

fn application(
    name: &str,
    config: ApplicationConfig,
    endpoints: &Endpoints<'_>,
    sources: &mut Sources<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<ApplicationSettings, SettingsError> {
    check_name(name)?;
    let client_id = config.client_id.ok_or(SettingsError::Missing {
        key: "client_id",
        cure: "it stands in the developer console beside the client secret",
    })?;
    let per_minute = config.token_requests_per_minute.unwrap_or(DEFAULT_BUDGET);
    within(
        "token_requests_per_minute",
        &per_minute,
        &NonZeroU32::MIN,
        &MAX_BUDGET,
        ToString::to_string,
    )?;
    let mut url = |key, written, default| endpoints.url(key, written, default, warnings);
    Ok(ApplicationSettings {
        name: name.to_owned(),
        client_id: sources.read("client_id", &client_id)?.expose().to_owned(),
        client_secret: sources.read_given("client_secret", config.client_secret.as_ref())?,
        token_url: url("token_url", config.token_url, "/restapi/oauth/token")?,
        revoke_url: url("revoke_url", config.revoke_url, "/restapi/oauth/revoke")?,
        authorize_url: url("authorize_url", config.authorize_url, "/restapi/oauth/authorize")?,
        device_authorization_url: url(
            "device_authorization_url",
            config.device_authorization_url,
            "/restapi/oauth/device_authorization",
        )?,
        redirect_uri: redirect_uri(config.redirect_uri)?,
        token_requests_per_minute: per_minute,
    })
}

/// Where a login sends the browser. It is kept as it was written: RingCentral compares it letter by
/// letter with what is registered.
fn redirect_uri(written: Option<String>) -> Result<String, SettingsError> {
    let text = written.unwrap_or_else(|| REDIRECT_URI.to_owned());
    if origin::is_redirect(&text) {
        return Ok(text);
    }
    Err(SettingsError::Url { key: "redirect_uri", problem: UrlProblem::Redirect })
}

impl Endpoints<'_> {
    fn url(
        &self,
        key: &'static str,
        written: Option<String>,
        default: &'static str,
        warnings: &mut Vec<Warning>,
    ) -> Result<Uri, SettingsError> {
        let Some(text) = written else {
            return Ok(self.upstream.uri(default));
        };
        let refuse = |problem| SettingsError::Url { key, problem };
        let (uri, origin) = origin::endpoint(&text).map_err(refuse)?;
        if origin.is_clear_text_to_another_machine() {
            if !self.allow_plain_http {
                return Err(refuse(UrlProblem::PlainHttp));
            }
            warnings.push(Warning::PlainHttp { key, url: uri.to_string() });
        }
        (self.refuse_own)(key, &origin)?;
        Ok(uri)
    }
}

fn refuse_same_client_id(
    new: ApplicationSettings,
    applications: &Applications,
) -> Result<ApplicationSettings, SettingsError> {
    match applications.values().find(|other| other.client_id == new.client_id) {
        Some(other) => Err(SettingsError::SameClientId { other: other.name.clone() }),
        None => Ok(new),
    }
}

fn identity(
    name: &str,
    config: IdentityConfig,
    applications: &Applications,
    sources: &mut Sources<'_>,
) -> Result<IdentitySettings, SettingsError> {
    check_name(name)?;
    let application = choose(applications, config.application.as_deref())?;
    let (credential, fallback) = credentials(&config, &application, sources)?;
    let access_token_ttl =
        ttl("access_token_ttl", config.access_token_ttl, MIN_ACCESS_TTL, MAX_ACCESS_TTL)?;
    let refresh_token_ttl =
        ttl("refresh_token_ttl", config.refresh_token_ttl, Duration::ZERO, MAX_REFRESH_TTL)?;
    if matches!(credential, Credential::RefreshToken(_) | Credential::Login)
        && fallback.is_none()
        && refresh_token_ttl == Some(Duration::ZERO)
    {
        return Err(SettingsError::NoRefreshToRenewWith);
    }
    Ok(IdentitySettings {
        name: name.to_owned(),
        application,
        credential,
        hosts: hosts(config.hosts)?,
        listen: config.listen.iter().flatten().filter_map(Place::address).collect(),
        fallback,
        endpoint_id: non_empty("endpoint_id", config.endpoint_id)?,
        access_token_ttl,
        refresh_token_ttl,
        scope: non_empty("scope", config.scope)?,
    })
}

/// Host names as they are compared: in lower case.
pub(super) fn hosts(written: Option<Vec<String>>) -> Result<Vec<String>, SettingsError> {
    let is_host = |host: &String| {
        let authority: Result<http::uri::Authority, _> = host.parse();
        authority.is_ok_and(|authority| !authority.as_str().contains('@'))
    };
    let hosts = written.unwrap_or_default();
    match hosts.iter().find(|host| !is_host(host)) {
        Some(host) => Err(SettingsError::HostName { host: host.clone() }),
        None => Ok(hosts.iter().map(|host| host.to_ascii_lowercase()).collect()),
    }
}

fn choose(
    applications: &Applications,
    name: Option<&str>,
) -> Result<Arc<ApplicationSettings>, SettingsError> {
    let known = || applications.keys().cloned().collect();
    let mut all = applications.values();
    match (name, all.next(), all.next()) {
        (_, None, _) => Err(SettingsError::NoApplication),
        (None, Some(only), None) => Ok(only.clone()),
        (None, ..) => Err(SettingsError::WhichApplication { known: known() }),
        (Some(name), ..) => applications.get(name).cloned().ok_or_else(|| {
            SettingsError::UnknownApplication { name: name.to_owned(), known: known() }
        }),
    }
}

/// What opens the session, and what opens a new one when that is lost: a JWT beside a credential
/// that does so only once. Companions of another credential are refused.
fn credentials(
    config: &IdentityConfig,
    application: &ApplicationSettings,
    sources: &mut Sources<'_>,
) -> Result<(Credential, Option<Credential>), SettingsError> {
    refuse_all_but_one(config)?;
    refuse_stray_companions(config)?;
    let jwt = sources.read_given("jwt", config.jwt.as_ref())?.map(Credential::Jwt);
    match (good_once(config, sources)?, jwt) {
        (Some(once), fallback) => Ok((once, fallback)),
        (None, Some(jwt)) => Ok((jwt, None)),
        (None, None) => Ok((good_any_time(config, application, sources)?, None)),
    }
}

fn good_once(
    config: &IdentityConfig,
    sources: &mut Sources<'_>,
) -> Result<Option<Credential>, SettingsError> {
    if let Some(token) = &config.refresh_token {
        return Ok(Some(Credential::RefreshToken(sources.read("refresh_token", token)?)));
    }
    if config.login == Some(true) {
        return Ok(Some(Credential::Login));
    }
    let Some(code) = &config.authorization_code else { return Ok(None) };
    Ok(Some(Credential::AuthorizationCode {
        code: sources.read("authorization_code", code)?,
        redirect_uri: required("redirect_uri", config.redirect_uri.as_ref(), CODE_NEEDS_IT)?,
        code_verifier: sources.read_given("code_verifier", config.code_verifier.as_ref())?,
    }))
}

/// Besides a JWT.
fn good_any_time(
    config: &IdentityConfig,
    application: &ApplicationSettings,
    sources: &mut Sources<'_>,
) -> Result<Credential, SettingsError> {
    if config.client_credentials == Some(true) {
        client_credentials(application)
    } else {
        let password = sources.read_given("password", config.password.as_ref())?;
        Ok(Credential::Password {
            username: required("username", config.username.as_ref(), "password needs it")?,
            extension: non_empty("extension", config.extension.clone())?,
            password: password
                .ok_or(SettingsError::Missing { key: "password", cure: "username needs it" })?,
        })
    }
}

/// RFC 6749 §4.4: only for clients that have a secret.
fn client_credentials(application: &ApplicationSettings) -> Result<Credential, SettingsError> {
    if application.client_secret.is_some() {
        return Ok(Credential::ClientCredentials);
    }
    Err(SettingsError::PublicClientCredentials { application: application.name.clone() })
}

/// A JWT may stand beside what is good once.
fn refuse_all_but_one(config: &IdentityConfig) -> Result<(), SettingsError> {
    let once = config.refresh_token.is_some()
        || config.authorization_code.is_some()
        || config.login == Some(true);
    let given: Vec<_> = [
        ("jwt", config.jwt.is_some() && !once),
        ("refresh_token", config.refresh_token.is_some()),
        ("authorization_code", config.authorization_code.is_some()),
        ("username with password", config.username.is_some() || config.password.is_some()),
        ("client_credentials", config.client_credentials == Some(true)),
        ("login", config.login == Some(true)),
    ]
    .into_iter()
    .filter_map(|(credential, is_given)| is_given.then_some(credential))
    .collect();
    match given.len() {
        0 => Err(SettingsError::NoCredential),
        1 => Ok(()),
        _ => Err(SettingsError::SeveralCredentials { given }),
    }
}

fn refuse_stray_companions(config: &IdentityConfig) -> Result<(), SettingsError> {
    let code = ("authorization_code", config.authorization_code.is_some());
    let user = ("username", config.username.is_some() || config.password.is_some());
    for (key, is_given, (with, has_it)) in [
        ("redirect_uri", config.redirect_uri.is_some(), code),
        ("code_verifier", config.code_verifier.is_some(), code),
        ("extension", config.extension.is_some(), user),
    ] {
        if is_given && !has_it {
            return Err(SettingsError::UselessWithout { key, with });
        }
    }
    Ok(())
}

/// Two identities that each use up the same single-use credential would end each other's session.
fn refuse_same_credential(
    new: IdentitySettings,
    identities: &[Arc<IdentitySettings>],
) -> Result<IdentitySettings, SettingsError> {
    let Some((credential, text)) = single_use(&new.credential) else {
        return Ok(new);
    };
    match identities
        .iter()
        .find(|other| single_use(&other.credential).is_some_and(|it| it.1 == text))
    {
        Some(other) => Err(SettingsError::SameCredential { credential, other: other.name.clone() }),
        None => Ok(new),
    }
}

fn refuse_same_host(
    new: IdentitySettings,
    identities: &[Arc<IdentitySettings>],
) -> Result<IdentitySettings, SettingsError> {
    let shared = identities.iter().find_map(|other| {
        let host = other.hosts.iter().find(|host| new.hosts.contains(host))?;
        Some(SettingsError::SameHost { host: host.clone(), other: other.name.clone() })
    });
    shared.map_or(Ok(new), Err)
}

fn single_use(credential: &Credential) -> Option<(&'static str, &str)> {
    match credential {
        Credential::RefreshToken(token) => Some(("refresh_token", token.expose())),
        Credential::AuthorizationCode { code, .. } => Some(("authorization_code", code.expose())),
        Credential::Jwt(_)
        | Credential::Password { .. }
        | Credential::ClientCredentials
        | Credential::Login => None,
    }
}

fn required(
    key: &'static str,
    value: Option<&String>,
    cure: &'static str,
) -> Result<String, SettingsError> {
    non_empty(key, value.cloned())?.ok_or(SettingsError::Missing { key, cure })
}

fn ttl(
    key: &'static str,
    value: Option<Duration>,
    min: Duration,
    max: Duration,
) -> Result<Option<Duration>, SettingsError> {
    let Some(ttl) = value else { return Ok(None) };
    within(key, &ttl, &min, &max, duration)?;
    if ttl.subsec_nanos() != 0 {
        return Err(SettingsError::PartOfSecond { key, value: duration(&ttl) });
    }
    Ok(value)
}

/// A name becomes a file name in the store and a word in logs.
pub(super) fn check_name(name: &str) -> Result<(), SettingsError> {
    if IdentitySettings::is_name(name) { Ok(()) } else { Err(SettingsError::Name) }
}

impl IdentitySettings {
    /// Of an identity that was added while the proxy ran, by a JWT or by a login.
    pub fn enrolled(
        name: &str,
        application: Arc<ApplicationSettings>,
        jwt: Option<Secret>,
    ) -> Self {
        Self {
            name: name.to_owned(),
            application,
            credential: jwt.map_or(Credential::Login, Credential::Jwt),
            fallback: None,
            hosts: Vec::new(),
            listen: Vec::new(),
            endpoint_id: None,
            access_token_ttl: None,
            refresh_token_ttl: None,
            scope: None,
        }
    }

    /// Whether an identity may be called so.
    pub fn is_name(name: &str) -> bool {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let fits = name.len() <= 64 && name.starts_with(|c: char| c.is_ascii_alphanumeric());
        fits && name.chars().all(is_plain)
    }
}

/// On this machine; nobody else may listen on loopback for a code (RFC 8252 §7.3).
const REDIRECT_URI: &str = "http://127.0.0.1:8765/callback";

const CODE_NEEDS_IT: &str = "authorization_code was issued to one";

/// What RingCentral allows an application unless agreed otherwise ("Auth" group).
const DEFAULT_BUDGET: NonZeroU32 = NonZeroU32::new(5).unwrap();
const MAX_BUDGET: NonZeroU32 = NonZeroU32::new(1000).unwrap();

/// RingCentral clamps what is outside; that would be a surprise.
const MIN_ACCESS_TTL: Duration = Duration::from_secs(600);
const MAX_ACCESS_TTL: Duration = Duration::from_secs(3600);
const MAX_REFRESH_TTL: Duration = Duration::from_secs(7 * 24 * 3600);
