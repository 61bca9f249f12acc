//! A person's login by the authorization code grant (RFC 6749 §4.1) with PKCE (RFC 7636): where the
//! browser is sent, and what it brings back. PURE but for the random bytes of [`Authorization::begin`].
//!
//! Nothing that comes back is believed without the `state` that was sent: any page can make a browser
//! ask for the redirect address. A code that somebody types in is bound by the PKCE verifier.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use form_urlencoded::Serializer;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};

use crate::secret::Secret;
use crate::settings::{Credential, IdentitySettings};

/// As many random octets as RFC 7636 §4.1 recommends for a verifier.
const RANDOM_BYTES: usize = 32;

/// One login: what only it knows.
#[derive(Clone, Debug)]
pub struct Authorization {
    state: Secret,
    verifier: Secret,
    redirect_uri: String,
}

/// What a browser brought to the redirect address.
#[derive(Debug)]
pub enum Callback {
    /// The code.
    Code(Secret),
    /// RingCentral says no.
    Refused(Refusal),
    /// It belongs to no login that is waited for.
    Stranger,
}

impl Authorization {
    /// A login that comes back to `redirect_uri`.
    pub fn begin(redirect_uri: &str) -> Self {
        let random = || {
            let mut bytes = [0; RANDOM_BYTES];
            SystemRandom::new().fill(&mut bytes).expect("the system gives random bytes");
            bytes
        };
        Self::from_random(redirect_uri, &random(), &random())
    }

    fn from_random(redirect_uri: &str, state: &[u8], verifier: &[u8]) -> Self {
        let text = |bytes| Secret::new(BASE64_URL_SAFE_NO_PAD.encode(bytes));
        let redirect_uri = redirect_uri.to_owned();
        Self { state: text(state), verifier: text(verifier), redirect_uri }
    }

    /// The address that the person opens (RFC 6749 §4.1.1). It holds no secret that is of use to whoever
    /// sees it: the verifier stays here.
    pub fn url(&self, identity: &IdentitySettings) -> String {
        let mut query = Serializer::new(String::new());
        query
            .append_pair("response_type", "code")
            .append_pair("client_id", &identity.application.client_id)
            .append_pair("redirect_uri", &self.redirect_uri)
            .append_pair("state", self.state.expose())
            .append_pair("code_challenge", &challenge(&self.verifier))
            .append_pair("code_challenge_method", "S256");
        if let Some(scope) = &identity.scope {
            query.append_pair("scope", scope);
        }
        format!("{}?{}", identity.application.authorize_url, query.finish())
    }

    /// Reads the query that the browser came with (RFC 6749 §4.1.2).
    pub fn read(&self, query: &str) -> Callback {
        let Answer { state, code, error } = Answer::parse(query);
        if !state.is_some_and(|state| self.is_state(&state)) {
            return Callback::Stranger;
        }
        match (error, code) {
            (Some(error), _) => Callback::Refused(Refusal::of(&error)),
            (None, Some(code)) => Callback::Code(code),
            (None, None) => Callback::Stranger,
        }
    }

    /// Reads what a person has pasted: the whole address that the browser was sent to, or the code.
    pub fn read_pasted(&self, text: &str) -> Result<Secret, PasteError> {
        let text = text.trim();
        let Some((_, query)) = text.split_once('?') else {
            return bare_code(text);
        };
        let query = query.split('#').next().unwrap_or_default();
        match self.read(query) {
            Callback::Code(code) => Ok(code),
            Callback::Refused(refusal) => Err(PasteError::Refused(refusal)),
            Callback::Stranger => Err(PasteError::Stranger),
        }
    }

    /// What buys the session.
    pub fn credential(&self, code: Secret) -> Credential {
        Credential::AuthorizationCode {
            code,
            redirect_uri: self.redirect_uri.clone(),
            code_verifier: Some(self.verifier.clone()),
        }
    }

    /// By their digests, so that the time it takes tells nothing.
    fn is_state(&self, given: &str) -> bool {
        Sha256::digest(given) == Sha256::digest(self.state.expose())
    }
}

/// The S256 challenge of a verifier (RFC 7636 §4.2).
fn challenge(verifier: &Secret) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.expose()))
}

fn bare_code(text: &str) -> Result<Secret, PasteError> {
    if text.is_empty() {
        return Err(PasteError::Nothing);
    }
    let is_code = text.len() <= MAX_CODE_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_code || text.contains("://") {
        return Err(PasteError::NoCode);
    }
    Ok(Secret::new(text))
}

/// The parameters that matter; one that comes twice counts as none (RFC 6749 §3.1).
#[derive(Default)]
struct Answer {
    state: Option<String>,
    code: Option<Secret>,
    error: Option<String>,
}

impl Answer {
    fn parse(query: &str) -> Self {
        let only = |wanted: &str| {
            let pairs = form_urlencoded::parse(query.as_bytes());
            let mut values = pairs.filter(|(name, _)| name == wanted).map(|(_, value)| value);
            let first = values.next().filter(|value| !value.is_empty());
            first.filter(|_| values.next().is_none()).map(std::borrow::Cow::into_owned)
        };
        Self { state: only("state"), code: only("code").map(Secret::new), error: only("error") }
    }
}

/// RingCentral has sent the browser back without a code (RFC 6749 §4.1.2.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    code: String,
}

impl Refusal {
    /// Of an `error`, reduced to harmless characters.
    pub fn of(code: &str) -> Self {
        let plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        Self { code: code.chars().filter(plain).take(40).collect() }
    }

    /// The `error`.
    pub fn code(&self) -> &str {
        &self.code
    }

    fn meaning(&self) -> &'static str {
        match self.code.as_str() {
            "access_denied" => {
                "the login was cancelled, or an administrator does not let this user use the app"
            }
            "unauthorized_client" => {
                "the app may not log in this way: enable the authorization code grant for it in the \
                 RingCentral developer console"
            }
            "unsupported_response_type" => {
                "the server knows no authorization codes: check authorize_url"
            }
            "invalid_scope" => "the app does not have the scope that is asked for: correct scope",
            "invalid_request" => {
                "the request is not understood: check that redirect_uri is registered for the app, \
                 letter by letter"
            }
            "server_error" | "temporarily_unavailable" => {
                "RingCentral has trouble: try again later"
            }
            _ => "see RingCentral's page in the browser",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code, self.meaning())
    }
}

/// What was pasted does not do. Never holds any of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasteError {
    /// Nothing.
    #[error("nothing was pasted: paste the address that the browser shows after the login")]
    Nothing,
    /// It is neither an address with a query nor a code.
    #[error(
        "what was pasted is neither the address that the browser shows after the login, with its \
         ?code=…, nor a code"
    )]
    NoCode,
    /// It is of another login.
    #[error("what was pasted belongs to another login: use the address of this one, whole")]
    Stranger,
    /// It says no.
    #[error("RingCentral refused the login ({0})")]
    Refused(Refusal),
}

/// A longer code is something else.
const MAX_CODE_BYTES: usize = 4096;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::settings::ApplicationSettings;

    /// RFC 7636, appendix B.
    const OCTETS: [u8; 32] = [
        116, 24, 223, 180, 151, 153, 224, 37, 79, 250, 96, 125, 216, 173, 187, 186, 22, 212, 37,
        77, 105, 214, 191, 240, 91, 88, 5, 88, 83, 132, 141, 121,
    ];

    fn authorization() -> Authorization {
        Authorization::from_random("http://127.0.0.1:8765/callback", &[0; 32], &OCTETS)
    }

    fn identity(scope: Option<&str>) -> IdentitySettings {
        let application = ApplicationSettings {
            name: "app".into(),
            client_id: "the id".into(),
            client_secret: None,
            token_url: "https://host/token".parse().unwrap(),
            revoke_url: "https://host/revoke".parse().unwrap(),
            authorize_url: "https://host/authorize".parse().unwrap(),
            device_authorization_url: "https://host/device_authorization".parse().unwrap(),
            redirect_uri: "http://127.0.0.1:8765/callback".into(),
            token_requests_per_minute: 5.try_into().unwrap(),
        };
        let mut identity = IdentitySettings::enrolled("sales", Arc::new(application), None);
        identity.scope = scope.map(str::to_owned);
        identity
    }

    #[test]
    fn verifier_and_challenge_are_those_of_rfc_7636() {
        let verifier = authorization().verifier;
        assert_eq!(verifier.expose(), "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(challenge(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn the_address_has_everything_and_not_the_verifier() {
        let state = "A".repeat(43);
        let expected = format!(
            "https://host/authorize?response_type=code&client_id=the+id\
             &redirect_uri=http%3A%2F%2F127.0.0.1%3A8765%2Fcallback&state={state}\
             &code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM&code_challenge_method=S256"
        );
        assert_eq!(authorization().url(&identity(None)), expected);
        assert_eq!(authorization().url(&identity(Some("SMS"))), format!("{expected}&scope=SMS"));
    }

    #[test]
    fn two_logins_share_neither_state_nor_verifier() {
        let (one, two) = (Authorization::begin("http://x"), Authorization::begin("http://x"));
        assert_eq!((one.state.expose().len(), one.verifier.expose().len()), (43, 43));
        assert_ne!(one.state.expose(), two.state.expose());
        assert_ne!(one.verifier.expose(), two.verifier.expose());
        assert_ne!(one.state.expose(), one.verifier.expose());
    }

    #[test]
    fn only_the_right_state_is_listened_to() {
        let (login, state) = (authorization(), "A".repeat(43));
        let read = |query: String| match login.read(&query) {
            Callback::Code(code) => format!("code {}", code.expose()),
            Callback::Refused(refusal) => format!("refused {}", refusal.code()),
            Callback::Stranger => "stranger".to_owned(),
        };
        for (query, expected) in [
            (format!("code=a%2Bb&state={state}&expires_in=60"), "code a+b"),
            (format!("error=access_denied&state={state}"), "refused access_denied"),
            (format!("code=c&error=access_denied&state={state}"), "refused access_denied"),
            ("code=c".into(), "stranger"),
            ("error=access_denied".into(), "stranger"),
            (format!("code=c&state={}", "B".repeat(43)), "stranger"),
            (format!("code=c&state=x&state={state}"), "stranger"),
            (format!("code=c&code=d&state={state}"), "stranger"),
            (format!("code=&state={state}"), "stranger"),
            (String::new(), "stranger"),
        ] {
            assert_eq!(read(query.clone()), expected, "{query}");
        }
    }

    #[test]
    fn an_address_or_a_code_may_be_pasted() {
        let (login, state) = (authorization(), "A".repeat(43));
        let pasted = |text: &str| login.read_pasted(text).map(|code| code.expose().to_owned());
        let address = format!(" http://127.0.0.1:8765/callback?code=c0de&state={state}#top \n");
        assert_eq!(pasted(&address), Ok("c0de".to_owned()));
        assert_eq!(pasted("U0pDMTFQMDFQQVMwMXxB\n"), Ok("U0pDMTFQMDFQQVMwMXxB".to_owned()));
        assert_eq!(pasted(" \n"), Err(PasteError::Nothing));
        assert_eq!(pasted("https://example.com/"), Err(PasteError::NoCode));
        assert_eq!(pasted("two words"), Err(PasteError::NoCode));
        assert_eq!(pasted("http://127.0.0.1:8765/callback?code=c"), Err(PasteError::Stranger));
        let denied = format!("http://127.0.0.1:8765/callback?error=access_denied&state={state}");
        assert_eq!(
            pasted(&denied).unwrap_err().to_string(),
            "RingCentral refused the login (access_denied: the login was cancelled, or an \
             administrator does not let this user use the app)"
        );
    }

    #[test]
    fn a_refusal_repeats_harmless_characters_only() {
        let refusal = Refusal::of("bad\u{1b}[2J<script>");
        assert_eq!(refusal.to_string(), "bad2Jscript: see RingCentral's page in the browser");
    }

    #[test]
    fn the_credential_carries_what_the_code_is_bound_to() {
        let Credential::AuthorizationCode { code, redirect_uri, code_verifier: Some(verifier) } =
            authorization().credential(Secret::new("c0de"))
        else {
            panic!("an authorization code")
        };
        assert_eq!((code.expose(), &*redirect_uri), ("c0de", "http://127.0.0.1:8765/callback"));
        assert_eq!(verifier.expose(), "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    }
}
