//! What is sent to the token endpoint: a grant and the wishes that go with it, as a form
//! (RFC 6749 §4, RFC 7523 §2.1). Pure: text in, text out.

use std::time::Duration;

use form_urlencoded::Serializer;

use crate::secret::Secret;
use crate::settings::{ApplicationSettings, Credential, IdentitySettings};
use crate::token::RefreshToken;

/// What buys a token set.
#[derive(Clone, Copy, Debug)]
pub enum Grant<'a> {
    /// The configured credential: opens a session.
    Open(&'a Credential),
    /// The configured second credential: opens a new session when the first one's is lost.
    Fallback(&'a Credential),
    /// A refresh token: carries a session on (RFC 6749 §6).
    Refresh(&'a RefreshToken),
    /// A device code: opens a session as soon as somebody has agreed (RFC 8628 §3.4).
    Device(&'a Secret),
}

impl Grant<'_> {
    /// The `grant_type` it is sent with.
    pub fn grant_type(&self) -> &'static str {
        match self {
            Self::Open(credential) | Self::Fallback(credential) => credential.grant_type(),
            Self::Device(_) => "urn:ietf:params:oauth:grant-type:device_code",
            Self::Refresh(_) => "refresh_token",
        }
    }
}

/// The encoded form that asks for a token set.
///
/// A confidential client authenticates in the `Authorization` field; a public one has nothing but
/// its `client_id`, which goes into the form (RFC 6749 §3.2.1).
pub fn form(grant: Grant<'_>, identity: &IdentitySettings) -> Secret {
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", grant.grant_type());
    match grant {
        Grant::Open(credential) | Grant::Fallback(credential) => {
            append_credential(&mut form, credential);
        }
        Grant::Refresh(token) => {
            form.append_pair("refresh_token", token.expose());
        }
        Grant::Device(code) => {
            form.append_pair("device_code", code.expose());
        }
    }
    append_wishes(&mut form, grant, identity);
    if identity.application.client_secret.is_none() {
        form.append_pair("client_id", &identity.application.client_id);
    }
    Secret::new(form.finish())
}

/// The encoded form that begins a login on a device (RFC 8628 §3.1).
pub fn device_authorization(identity: &IdentitySettings) -> Secret {
    let mut form = Serializer::new(String::new());
    form.append_pair("client_id", &identity.application.client_id);
    if let Some(scope) = &identity.scope {
        form.append_pair("scope", scope);
    }
    Secret::new(form.finish())
}

/// The encoded form that ends the session of `token` (RFC 7009 §2.1).
pub fn revocation(token: &str, application: &ApplicationSettings) -> Secret {
    let mut form = Serializer::new(String::new());
    form.append_pair("token", token);
    if application.client_secret.is_none() {
        form.append_pair("client_id", &application.client_id);
    }
    Secret::new(form.finish())
}

fn append_credential(form: &mut Serializer<'_, String>, credential: &Credential) {
    match credential {
        Credential::Jwt(jwt) => {
            form.append_pair("assertion", jwt.expose());
        }
        Credential::RefreshToken(token) => {
            form.append_pair("refresh_token", token.expose());
        }
        Credential::AuthorizationCode { code, redirect_uri, code_verifier } => {
            form.append_pair("code", code.expose()).append_pair("redirect_uri", redirect_uri);
            if let Some(verifier) = code_verifier {
                form.append_pair("code_verifier", verifier.expose());
            }
        }
        Credential::Password { username, extension, password } => {
            form.append_pair("username", username);
            if let Some(extension) = extension {
                form.append_pair("extension", extension);
            }
            form.append_pair("password", password.expose());
        }
        // Nothing opens a session of a login but another login; the lifecycle knows.
        Credential::ClientCredentials | Credential::Login => {}
    }
}

fn append_wishes(form: &mut Serializer<'_, String>, grant: Grant<'_>, identity: &IdentitySettings) {
    if let Some(ttl) = identity.access_token_ttl {
        form.append_pair("access_token_ttl", &ttl.as_secs().to_string());
    }
    if let Some(ttl) = refresh_token_ttl(grant, identity) {
        form.append_pair("refresh_token_ttl", &ttl.as_secs().to_string());
    }
    if let Some(id) = &identity.endpoint_id {
        form.append_pair("endpoint_id", id);
    }
    if let Some(scope) = &identity.scope {
        form.append_pair("scope", scope);
    }
}

/// A credential that opens a new session any time needs no refresh token, so none is asked for
/// unless configured: the session then ends with its access token, and of the five that RingCentral
/// allows in parallel never more than two are in use, without a single request for revocation.
/// What is configured beside a second credential is meant for the first one's session.
fn refresh_token_ttl(grant: Grant<'_>, identity: &IdentitySettings) -> Option<Duration> {
    match grant {
        Grant::Fallback(_) => Some(Duration::ZERO),
        _ => identity.refresh_token_ttl.or(identity.credential.reopens().then_some(Duration::ZERO)),
    }
}

impl Credential {
    /// The `grant_type` it is sent with.
    pub fn grant_type(&self) -> &'static str {
        match self {
            Self::Jwt(_) => "urn:ietf:params:oauth:grant-type:jwt-bearer",
            Self::AuthorizationCode { .. } => "authorization_code",
            Self::Password { .. } => "password",
            Self::ClientCredentials => "client_credentials",
            Self::RefreshToken(_) | Self::Login => "refresh_token",
        }
    }

    /// Whether it opens a new session any time, rather than once.
    pub fn reopens(&self) -> bool {
        match self {
            Self::Jwt(_) | Self::Password { .. } | Self::ClientCredentials => true,
            Self::RefreshToken(_) | Self::AuthorizationCode { .. } | Self::Login => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn identity(credential: Credential, client_secret: Option<&str>) -> IdentitySettings {
        IdentitySettings {
            name: "sales".into(),
            application: Arc::new(ApplicationSettings {
                name: "app".into(),
                client_id: "client".into(),
                client_secret: client_secret.map(Secret::new),
                token_url: "https://host/token".parse().unwrap(),
                revoke_url: "https://host/revoke".parse().unwrap(),
                authorize_url: "https://host/authorize".parse().unwrap(),
                device_authorization_url: "https://host/device_authorization".parse().unwrap(),
                redirect_uri: "http://127.0.0.1:8765/callback".into(),
                token_requests_per_minute: 5.try_into().unwrap(),
            }),
            credential,
            hosts: Vec::new(),
            listen: Vec::new(),
            fallback: None,
            endpoint_id: None,
            access_token_ttl: None,
            refresh_token_ttl: None,
            scope: None,
        }
    }

    fn opened_by(credential: Credential) -> String {
        let identity = identity(credential, Some("secret"));
        form(Grant::Open(&identity.credential), &identity).expose().to_owned()
    }

    #[test]
    fn writes_each_credential_as_its_rfc_has_it() {
        let jwt = Credential::Jwt(Secret::new("a.b+c"));
        assert_eq!(
            opened_by(jwt),
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=a.b%2Bc&refresh_token_ttl=0"
        );
        let code = Credential::AuthorizationCode {
            code: Secret::new("c0de"),
            redirect_uri: "http://127.0.0.1:1/cb".into(),
            code_verifier: Some(Secret::new("v")),
        };
        assert_eq!(
            opened_by(code),
            "grant_type=authorization_code&code=c0de&redirect_uri=http%3A%2F%2F127.0.0.1%3A1%2Fcb&code_verifier=v"
        );
        let password = Credential::Password {
            username: "+15550100".into(),
            extension: Some("101".into()),
            password: Secret::new("p&w"),
        };
        assert_eq!(
            opened_by(password),
            "grant_type=password&username=%2B15550100&extension=101&password=p%26w&refresh_token_ttl=0"
        );
        let refresh = Credential::RefreshToken(Secret::new("r1"));
        assert_eq!(opened_by(refresh), "grant_type=refresh_token&refresh_token=r1");
        assert_eq!(
            opened_by(Credential::ClientCredentials),
            "grant_type=client_credentials&refresh_token_ttl=0"
        );
    }

    #[test]
    fn a_second_credential_asks_for_no_refresh_token_whatever_the_first_one_wants() {
        let mut identity = identity(Credential::RefreshToken(Secret::new("r1")), Some("secret"));
        identity.refresh_token_ttl = Some(Duration::from_secs(604_800));
        let jwt = Credential::Jwt(Secret::new("j"));
        assert_eq!(
            form(Grant::Fallback(&jwt), &identity).expose(),
            "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=j&refresh_token_ttl=0"
        );
        assert_eq!(
            form(Grant::Open(&identity.credential), &identity).expose(),
            "grant_type=refresh_token&refresh_token=r1&refresh_token_ttl=604800"
        );
    }

    #[test]
    fn sends_every_wish_as_configured_and_a_public_clients_id() {
        let mut identity = identity(Credential::Jwt(Secret::new("j")), None);
        identity.access_token_ttl = Some(Duration::from_secs(600));
        identity.refresh_token_ttl = Some(Duration::from_secs(604_800));
        identity.endpoint_id = Some("box-1".into());
        identity.scope = Some("SMS ReadMessages".into());
        let token = RefreshToken::new("r2");
        assert_eq!(
            form(Grant::Refresh(&token), &identity).expose(),
            "grant_type=refresh_token&refresh_token=r2&access_token_ttl=600&refresh_token_ttl=604800\
             &endpoint_id=box-1&scope=SMS+ReadMessages&client_id=client"
        );
    }
}
