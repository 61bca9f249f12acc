//! A login that begins in a browser (RFC 6749 §4.1, RFC 7636). PURE.
//!
//! Nobody is asked anything: the code that the browser carries to the app is worth no more than what
//! the app shows when it redeems it. What has to be right is where the browser is sent, because an
//! open redirect would lend the proxy's name to any site.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::uri::Authority;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::fault::Fault;
use super::form::{Form, Redeemed};
use super::pass::{Keys, Kind};
use crate::clock::Timestamp;

/// How long a code is good; an app redeems it at once.
const CODE_TTL: Duration = Duration::from_secs(60);

/// What a redeemed code is known by, and when it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spent {
    pub(super) id: [u8; 12],
    pub(super) expires_at: Timestamp,
}

/// Where the browser goes with the answer to `query`.
pub fn answer(
    query: &str,
    redirect_uris: &[String],
    keys: &Keys,
    now: Timestamp,
) -> Result<String, Fault> {
    let form = Form::parse(query.as_bytes());
    let target = target(&form, redirect_uris)?;
    let client_id = form.get("client_id")?.ok_or(Fault::Request("client_id is missing"))?;
    let method = form.get("code_challenge_method")?.unwrap_or("plain");
    let challenge = form.get("code_challenge")?.unwrap_or_default();
    // From here on the app itself is told what is wrong.
    let refusal = match form.get("response_type")? {
        Some("code") if matches!(method, "S256" | "plain") => None,
        Some("code") => Some("invalid_request"),
        _ => Some("unsupported_response_type"),
    };
    let code = || keys.seal(Kind::Code, now + CODE_TTL, &[client_id, target, method, challenge]);
    let mut answer = form_urlencoded::Serializer::new(String::new());
    match refusal {
        Some(error) => answer.append_pair("error", error),
        None => answer.append_pair("code", code().expose()),
    };
    with_state(&form, target, answer)
}

/// Where the browser of RingCentral Embeddable goes: it looks for `error` only, and then asks the
/// proxy who is logged in.
pub(super) fn welcome(query: &str, redirect_uris: &[String]) -> Result<String, Fault> {
    let form = Form::parse(query.as_bytes());
    let target = target(&form, redirect_uris)?;
    let mut answer = form_urlencoded::Serializer::new(String::new());
    answer.append_pair("result", "success");
    with_state(&form, target, answer)
}

/// The redirect URI, if a browser may be sent there.
fn target<'a>(form: &'a Form, redirect_uris: &[String]) -> Result<&'a str, Fault> {
    let target = form.get("redirect_uri")?.ok_or(Fault::Request("redirect_uri is missing"))?;
    let is_allowed = is_local(target) || redirect_uris.iter().any(|allowed| allowed == target);
    is_allowed.then_some(target).ok_or(Fault::RedirectUri)
}

fn with_state(
    form: &Form,
    target: &str,
    mut answer: form_urlencoded::Serializer<'_, String>,
) -> Result<String, Fault> {
    if let Some(state) = form.get("state")? {
        answer.append_pair("state", state);
    }
    let joint = if target.contains('?') { '&' } else { '?' };
    Ok(format!("{target}{joint}{}", answer.finish()))
}

/// Whether the code is for this client, and the app proves that it began this login.
pub(super) fn redeem(
    redeemed: &Redeemed<'_>,
    client_id: &str,
    keys: &Keys,
    now: Timestamp,
) -> Result<Spent, Fault> {
    let opened = keys.open(Kind::Code, redeemed.code.as_bytes()).ok_or(Fault::Grant(NO_CODE))?;
    let [for_client, redirect_uri, method, challenge] =
        <[String; 4]>::try_from(opened.parts).map_err(|_| Fault::Grant(NO_CODE))?;
    if opened.expires_at <= now {
        return Err(Fault::Grant("the code is over: it is good for a minute"));
    }
    if for_client != client_id {
        return Err(Fault::Grant("the code was issued to another client_id"));
    }
    if redeemed.redirect_uri.is_some_and(|uri| uri != redirect_uri) {
        return Err(Fault::Grant("the code was issued for another redirect_uri"));
    }
    match redeemed.verifier {
        None if challenge.is_empty() => {}
        // RFC 9700 §4.8.2: a verifier without a challenge is a sign of an attack.
        Some(verifier) if !challenge.is_empty() && proves(verifier, &method, &challenge) => {}
        _ => return Err(Fault::Grant("code_verifier does not fit the code_challenge")),
    }
    Ok(Spent { id: opened.id, expires_at: opened.expires_at })
}

fn proves(verifier: &str, method: &str, challenge: &str) -> bool {
    let shown = match method {
        "S256" => BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(verifier)),
        _ => verifier.to_owned(),
    };
    shown.as_bytes().ct_eq(challenge.as_bytes()).into()
}

/// Whether a redirect URI leads to this machine in every reading, a browser's included.
fn is_local(uri: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#' | b'@');
    let rest = uri.strip_prefix("http://").or_else(|| uri.strip_prefix("https://"));
    let Some(rest) = rest.filter(|rest| rest.bytes().all(is_plain)) else { return false };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let Ok(authority) = rest[..end].parse::<Authority>() else { return false };
    let host = authority.host().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

const NO_CODE: &str = "the code was not issued here";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::SecretKey;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
    /// RFC 7636, appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn keys() -> Keys {
        Keys::of(&[SecretKey::parse(&SecretKey::generate()).unwrap()]).unwrap()
    }

    fn asked(redirect_uri: &str, more: &str) -> String {
        let uri: String = form_urlencoded::byte_serialize(redirect_uri.as_bytes()).collect();
        format!("response_type=code&client_id=app&redirect_uri={uri}{more}")
    }

    const LOCAL: &str = "http://127.0.0.1:5000/callback";

    #[test]
    fn a_browser_is_sent_to_this_machine_or_where_the_configuration_says() {
        let allowed = ["https://app.test/callback".to_owned(), "myapp:callback".to_owned()];
        for (uri, leads) in [
            (LOCAL, true),
            ("http://localhost", true),
            ("http://localhost:1?x=1", true),
            ("https://[::1]:80/", true),
            ("http://127.9.9.9/", true),
            ("https://app.test/callback", true),
            ("myapp:callback", true),
            ("https://app.test/callback/", false),
            ("https://app.test/callback?x", false),
            ("https://APP.test/callback", false),
            ("http://evil.test/", false),
            ("http://localhost.evil.test/", false),
            ("http://127.0.0.1.evil.test/", false),
            ("http://127.0.0.1@evil.test/", false),
            ("http://127.0.0.1:80@evil.test/", false),
            ("http://evil.test\\@127.0.0.1/", false),
            ("http://127.0.0.1\\.evil.test/", false),
            ("http://127.0.0.1 .evil.test/", false),
            ("http://127.0.0.1/#fragment", false),
            ("http://127.0.0.1/\r\nset-cookie: a", false),
            ("//127.0.0.1/", false),
            ("/callback", false),
            ("javascript:alert(1)//127.0.0.1", false),
            ("http://0.0.0.0/", false),
            ("http://2130706433/", false),
            ("http://[::1/", false),
            ("http:///127.0.0.1/", false),
            ("", false),
        ] {
            let answer = answer(&asked(uri, ""), &allowed, &keys(), NOW);
            match answer {
                Ok(to) => assert!(leads && to.starts_with(uri), "{uri}: {to}"),
                Err(fault) => assert!(!leads && fault == Fault::RedirectUri, "{uri}: {fault}"),
            }
        }
    }

    #[test]
    fn the_answer_carries_the_state_or_the_error() {
        let keys = keys();
        let to = |query: &str| answer(query, &[], &keys, NOW).unwrap();
        let granted = to(&asked("http://localhost/?a=1", "&state=x%26y"));
        assert!(granted.starts_with("http://localhost/?a=1&code=rbx1_"), "{granted}");
        assert!(granted.ends_with("&state=x%26y"), "{granted}");
        let implicit = asked(LOCAL, "&state=s").replace("=code", "=token");
        assert_eq!(to(&implicit), format!("{LOCAL}?error=unsupported_response_type&state=s"));
        let odd = asked(LOCAL, "&code_challenge=x&code_challenge_method=S512");
        assert_eq!(to(&odd), format!("{LOCAL}?error=invalid_request"));
        let missing = |query| answer(query, &[], &keys, NOW).unwrap_err();
        assert_eq!(missing("client_id=x"), Fault::Request("redirect_uri is missing"));
        let uri = "redirect_uri=http://localhost/";
        assert_eq!(missing(uri), Fault::Request("client_id is missing"));
        assert_eq!(missing(&format!("{uri}&{uri}")), Fault::Request("a parameter is there twice"));
    }

    #[test]
    fn embeddable_is_sent_back_without_a_code() {
        let to = |uri, more| welcome(&asked(uri, more), &["https://app.test/r".to_owned()]);
        assert_eq!(
            to(LOCAL, "&state=x%26y").unwrap(),
            format!("{LOCAL}?result=success&state=x%26y")
        );
        assert_eq!(to("https://app.test/r", "").unwrap(), "https://app.test/r?result=success");
        assert_eq!(to("https://evil.test/r", ""), Err(Fault::RedirectUri));
        let missing = welcome("client_id=a", &[]);
        assert_eq!(missing, Err(Fault::Request("redirect_uri is missing")));
    }

    fn code(keys: &Keys, more: &str) -> String {
        let to = answer(&asked(LOCAL, more), &[], keys, NOW).unwrap();
        to.split_once("code=").unwrap().1.to_owned()
    }

    #[test]
    fn a_code_is_redeemed_by_the_app_that_began_and_within_a_minute() {
        let keys = keys();
        let plain = code(&keys, "");
        let challenged =
            code(&keys, &format!("&code_challenge_method=S256&code_challenge={CHALLENGE}"));
        let open = code(&keys, "&code_challenge=verifier");
        let (app, uri, unfit) =
            ("app", Some(LOCAL), "code_verifier does not fit the code_challenge");
        let second = Duration::from_secs(1);
        for (code, client_id, redirect_uri, verifier, after, expected) in [
            (&plain, app, uri, None, 59, Ok(())),
            (&plain, app, None, None, 0, Ok(())),
            (&plain, app, uri, None, 60, Err("the code is over: it is good for a minute")),
            (&plain, "other", uri, None, 0, Err("the code was issued to another client_id")),
            (
                &plain,
                app,
                Some("http://127.0.0.1:5001/callback"),
                None,
                0,
                Err("the code was issued for another redirect_uri"),
            ),
            (&plain, app, uri, Some(""), 0, Err(unfit)),
            (&plain, app, uri, Some(VERIFIER), 0, Err(unfit)),
            (&challenged, app, uri, Some(VERIFIER), 0, Ok(())),
            (&challenged, app, uri, None, 0, Err(unfit)),
            (&challenged, app, uri, Some(CHALLENGE), 0, Err(unfit)),
            (&open, app, uri, Some("verifier"), 0, Ok(())),
            (&open, app, uri, Some("other"), 0, Err(unfit)),
            (&"rbx1_code".to_owned(), app, uri, None, 0, Err(NO_CODE)),
        ] {
            let redeemed = Redeemed { code, redirect_uri, verifier };
            let result = redeem(&redeemed, client_id, &keys, NOW + second * after);
            assert_eq!(result.map(|_| ()), expected.map_err(Fault::Grant), "{redeemed:?}");
        }
    }
}
