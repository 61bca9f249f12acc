//! The token endpoint: who the application is, what it asks for, what it gets.
//!
//! Pure: a form and an Authorization field go in, an [`Outcome`] comes out. Nothing here is shared
//! with the proxy's own OAuth code, so that one misreading cannot hide on both sides.
//!
//! The OAU codes 112, 120, 121, 146, 151 and 213 are RingCentral's; where its guide names no code
//! for a case (the 2xx and 3xx besides 213, and 100, 109 and 140) the number is a stand-in too.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::StatusCode;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::codes::{Approval, Codes, Device};
use super::rules::{Application, Rules};
use super::session::{Granted, Lives, Lost, Opening, Sessions};
use crate::clock::Timestamp;

/// A form-encoded content as pairs.
#[derive(Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    pub(super) fn parse(content: &[u8]) -> Self {
        Self(form_urlencoded::parse(content).into_owned().collect())
    }

    /// The first value of `name`, unless it is empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        let mut named = self.0.iter().filter(|(key, _)| key == name);
        named.next().map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Everything in order.
    pub(super) fn pairs(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn must(&self, name: &str) -> Result<&str, Refusal> {
        self.get(name).ok_or_else(|| {
            Refusal::bad("invalid_request", "OAU-100", &format!("Parameter [{name}] is missing"))
        })
    }
}

/// Why the token endpoint says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) error: &'static str,
    pub(super) code: &'static str,
    pub(super) message: String,
}

impl Refusal {
    fn bad(error: &'static str, code: &'static str, message: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, code, message: message.into() }
    }

    fn client(code: &'static str, message: &str) -> Self {
        let status = StatusCode::UNAUTHORIZED;
        Self { status, error: "invalid_client", code, message: message.into() }
    }

    fn grant(code: &'static str, message: &str) -> Self {
        Self::bad("invalid_grant", code, message)
    }

    /// Both shapes at once, RFC 6749 §5.2 and RingCentral's own, as RingCentral does.
    pub(super) fn body(&self) -> Value {
        json!({
            "error": self.error,
            "error_description": self.message,
            "errorCode": self.code,
            "message": self.message,
            "errors": [{"errorCode": self.code, "message": self.message}],
        })
    }
}

/// The stores that a grant reads and changes.
pub(super) struct Desk<'a> {
    pub(super) sessions: &'a mut Sessions,
    pub(super) codes: &'a mut Codes,
    pub(super) rules: &'a Rules,
    pub(super) now: Timestamp,
}

impl Desk<'_> {
    /// Answers one token request of an application that has proved who it is.
    pub(super) fn grant(
        &mut self,
        application: &Application,
        form: &Form,
    ) -> Result<Granted, Refusal> {
        let grant = form.must("grant_type")?;
        let allowed = application.grants.as_ref();
        if allowed.is_some_and(|grants| !grants.iter().any(|allowed| allowed == grant)) {
            let message = format!("Grant type [{grant}] is not allowed for the application");
            let refusal = Refusal::bad("unauthorized_client", "OAU-112", &message);
            return Err(Refusal { status: StatusCode::FORBIDDEN, ..refusal });
        }
        let user = match grant {
            "refresh_token" => return self.refresh(application, form),
            "authorization_code" => return self.code(application, form),
            JWT_BEARER => self.jwt(form)?,
            "password" => self.password(form)?,
            "client_credentials" => client_credentials(application)?,
            DEVICE_CODE => self.device(application, form)?,
            other => {
                let message = format!("Unsupported grant type [{other}]");
                return Err(Refusal::bad("unsupported_grant_type", "OAU-250", &message));
            }
        };
        Ok(self.open(application, form, user))
    }

    fn open(&mut self, application: &Application, form: &Form, user: u64) -> Granted {
        let opening = Opening {
            application: application.client_id.clone(),
            user,
            endpoint_id: form.get("endpoint_id").map(str::to_owned),
            scope: form.get("scope").map(str::to_owned),
            lives: lives(application, form, self.rules),
        };
        self.sessions.open(opening, self.rules, self.now)
    }

    fn refresh(&mut self, application: &Application, form: &Form) -> Result<Granted, Refusal> {
        let token = form.must("refresh_token")?;
        let lives = lives(application, form, self.rules);
        let client_id = &application.client_id;
        self.sessions.refresh(token, client_id, lives, self.rules, self.now).map_err(|lost| {
            match lost {
                Lost::Expired => Refusal::grant("OAU-210", "Refresh token has expired"),
                _ => Refusal::grant("OAU-213", "Token not found"),
            }
        })
    }

    fn jwt(&self, form: &Form) -> Result<u64, Refusal> {
        let assertion = form.must("assertion")?;
        self.rules
            .user_of_jwt(assertion)
            .ok_or_else(|| Refusal::grant("OAU-251", "Invalid or expired JWT assertion"))
    }

    fn password(&self, form: &Form) -> Result<u64, Refusal> {
        let (name, password) = (form.must("username")?, form.must("password")?);
        self.rules
            .user_of_password(name, form.get("extension"), password)
            .ok_or_else(|| Refusal::grant("OAU-140", "Invalid resource owner credentials"))
    }

    fn code(&mut self, application: &Application, form: &Form) -> Result<Granted, Refusal> {
        let code = form.must("code")?;
        let invalid = || Refusal::grant("OAU-262", "Authorization code is invalid or expired");
        let approval = match self.codes.redeem(code, self.now) {
            Ok(approval) => approval,
            Err(reused) => {
                // RFC 6749 §4.1.2: what a code was exchanged for dies when the code comes again.
                reused.map(|session| self.sessions.end(session, self.now));
                return Err(invalid());
            }
        };
        if approval.application != application.client_id {
            return Err(invalid());
        }
        if approval.redirect_uri.as_deref() != form.get("redirect_uri") {
            return Err(Refusal::grant("OAU-109", "Redirect URIs do not match"));
        }
        check_verifier(&approval, application, form)?;
        let granted = self.open(application, form, approval.user);
        self.codes.redeemed(code, granted.session);
        Ok(granted)
    }

    fn device(&mut self, application: &Application, form: &Form) -> Result<u64, Refusal> {
        let code = form.must("device_code")?;
        match self.codes.device(code, &application.client_id, self.now) {
            Device::Approved(user) => Ok(user),
            Device::Pending => Err(Refusal::bad(
                "authorization_pending",
                "OAU-300",
                "The user has not approved the request yet",
            )),
            Device::Unknown => {
                Err(Refusal::bad("expired_token", "OAU-301", "Device code is invalid or expired"))
            }
        }
    }
}

/// Which application speaks, and that it really does.
pub(super) fn authenticate_client<'a>(
    rules: &'a Rules,
    authorization: Option<&str>,
    form: &Form,
) -> Result<&'a Application, Refusal> {
    if let Some((id, secret)) = authorization.and_then(basic) {
        let application = known(rules, &id)?;
        return match &application.client_secret {
            Some(expected) if *expected != secret => Err(wrong_secret()),
            _ => Ok(application),
        };
    }
    if let Some(assertion) = form.get("client_assertion") {
        return by_assertion(rules, form, assertion);
    }
    let id = form.get("client_id").ok_or_else(|| {
        Refusal::client("OAU-146", "Client is not authenticated: neither Basic nor client_id")
    })?;
    let application = known(rules, id)?;
    match &application.client_secret {
        Some(expected) if form.get("client_secret") != Some(expected) => Err(wrong_secret()),
        _ => Ok(application),
    }
}

/// The client id that a request claims, proved or not: whose token budget it spends.
pub(super) fn claimed_client(authorization: Option<&str>, form: &Form) -> String {
    let basic = authorization.and_then(basic).map(|(id, _)| id);
    let asserted =
        || assertion_claims(form.get("client_assertion")?)?.get("sub")?.as_str().map(str::to_owned);
    basic.or_else(|| form.get("client_id").map(str::to_owned)).or_else(asserted).unwrap_or_default()
}

/// The answer to a grant that was good.
pub(super) fn token_body(granted: &Granted, rules: &Rules) -> Value {
    let secs = granted.expires_in.as_secs();
    let mut body = json!({
        "access_token": granted.access,
        "token_type": "bearer",
        "expires_in": secs.saturating_sub(rules.expires_in_less),
        "scope": granted.scope,
        "owner_id": owner_id(granted.user),
        "endpoint_id": granted.endpoint_id,
    });
    if let Some((token, life)) = &granted.refresh {
        body["refresh_token"] = json!(token);
        body["refresh_token_expires_in"] = json!(life.as_secs());
    }
    body
}

/// The extension id of a user.
pub(super) fn owner_id(user: u64) -> String {
    (256_440_016 + user).to_string()
}

/// RFC 7636 §4.6, and §4.4.1: a public client never goes without.
fn check_verifier(
    approval: &Approval,
    application: &Application,
    form: &Form,
) -> Result<(), Refusal> {
    let Some(challenge) = &approval.challenge else {
        let public = application.client_secret.is_none();
        let refusal = Refusal::grant("OAU-260", "A public client must use PKCE");
        return if public { Err(refusal) } else { Ok(()) };
    };
    let verifier = form.must("code_verifier")?;
    let derived = if approval.plain {
        verifier.to_owned()
    } else {
        URL_SAFE_NO_PAD.encode(Sha256::digest(verifier))
    };
    if derived == *challenge {
        Ok(())
    } else {
        Err(Refusal::grant("OAU-261", "code_verifier does not match code_challenge"))
    }
}

fn client_credentials(application: &Application) -> Result<u64, Refusal> {
    match application.client_secret {
        Some(_) => Ok(0),
        None => Err(Refusal::bad(
            "unauthorized_client",
            "OAU-112",
            "A public client may not use client_credentials",
        )),
    }
}

fn by_assertion<'a>(
    rules: &'a Rules,
    form: &Form,
    assertion: &str,
) -> Result<&'a Application, Refusal> {
    let invalid = || Refusal::client("OAU-151", "client_assertion is invalid");
    if form.get("client_assertion_type") != Some(ASSERTION_TYPE) {
        return Err(invalid());
    }
    let claims = assertion_claims(assertion).ok_or_else(invalid)?;
    known(rules, claims.get("sub").and_then(Value::as_str).ok_or_else(invalid)?)
}

/// The claims of a JWT. The signature is not checked: the sandbox knows no keys.
fn assertion_claims(assertion: &str) -> Option<Value> {
    let mut parts = assertion.split('.');
    let (_, claims, _) = (parts.next()?, parts.next()?, parts.next()?);
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
}

fn known<'a>(rules: &'a Rules, id: &str) -> Result<&'a Application, Refusal> {
    rules.application(id).ok_or_else(|| {
        Refusal::client("OAU-120", &format!("Invalid client: application [{id}] is unknown"))
    })
}

fn wrong_secret() -> Refusal {
    Refusal::client("OAU-121", "Invalid client credentials")
}

fn basic(authorization: &str) -> Option<(String, String)> {
    let (scheme, credentials) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(credentials.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(id, secret)| (id.to_owned(), secret.to_owned()))
}

/// The lives that an application asks for, clamped to what the rules allow.
fn lives(application: &Application, form: &Form, rules: &Rules) -> Lives {
    let wish = |name| form.get(name).and_then(|text| text.trim().parse::<i64>().ok());
    let clamp = |secs: i64, min: Duration, max: Duration| {
        Duration::from_secs(u64::try_from(secs).unwrap_or(0)).clamp(min.min(max), max)
    };
    let longest = rules.access_token_ttl;
    let access = wish("access_token_ttl")
        .map_or(longest, |secs| clamp(secs, rules.access_token_ttl_min, longest));
    let refresh = match wish("refresh_token_ttl") {
        Some(0) => None,
        Some(secs) if secs > 0 => Some(clamp(secs, Duration::ZERO, rules.refresh_token_ttl)),
        _ => Some(rules.refresh_token_ttl),
    };
    Lives { access, refresh: refresh.filter(|_| application.refresh_tokens) }
}

const JWT_BEARER: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[cfg(test)]
mod tests;
