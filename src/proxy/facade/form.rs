//! What an SDK sends to log in. PURE: content in, grant or fault out.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::HeaderMap;
use http::header::AUTHORIZATION;

use super::fault::Fault;

/// Decoded parameters of a form or a query.
#[derive(Debug)]
pub struct Form(Vec<(String, String)>);

/// By what an app logs in.
#[derive(Debug, PartialEq, Eq)]
pub enum Grant<'a> {
    /// Something that RingCentral would judge: a JWT, a password, the app's own id and secret, a
    /// device. Here the client's secret counts alone.
    Fresh,
    /// A refresh token.
    Refresh(&'a str),
    /// An authorization code.
    Code(Redeemed<'a>),
}

/// An authorization code with what proves that the app may have it.
#[derive(Debug, PartialEq, Eq)]
pub struct Redeemed<'a> {
    /// The code.
    pub code: &'a str,
    /// The redirect URI that the app gave before.
    pub redirect_uri: Option<&'a str>,
    /// The PKCE verifier.
    pub verifier: Option<&'a str>,
}

impl Form {
    /// Of `application/x-www-form-urlencoded` content.
    pub fn parse(content: &[u8]) -> Self {
        Self(form_urlencoded::parse(content).into_owned().collect())
    }

    /// The parameter of that name. RFC 6749 §3.2: none occurs twice.
    pub fn get(&self, name: &str) -> Result<Option<&str>, Fault> {
        let mut values = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| &**value);
        let first = values.next();
        if values.next().is_some() {
            return Err(Fault::Request("a parameter is there twice"));
        }
        Ok(first)
    }

    /// The grant. Lifetimes and scope that an app asks for are not looked at: SDKs send `-1`, `0`
    /// and worse, and the proxy's own lifetimes are configured.
    pub fn grant(&self) -> Result<Grant<'_>, Fault> {
        let required = |name, missing| self.get(name)?.ok_or(Fault::Request(missing));
        let kind = required("grant_type", NO_GRANT_TYPE)?;
        match kind.strip_prefix("urn:ietf:params:oauth:grant-type:").unwrap_or(kind) {
            "jwt-bearer" => required("assertion", "assertion is missing").map(|_| Grant::Fresh),
            "device_code" => {
                required("device_code", "device_code is missing").map(|_| Grant::Fresh)
            }
            "password" => required("username", "username is missing").map(|_| Grant::Fresh),
            "client_credentials" => Ok(Grant::Fresh),
            "refresh_token" => {
                required("refresh_token", "refresh_token is missing").map(Grant::Refresh)
            }
            "authorization_code" => Ok(Grant::Code(Redeemed {
                code: required("code", "code is missing")?,
                redirect_uri: self.get("redirect_uri")?,
                verifier: self.get("code_verifier")?,
            })),
            _ => Err(Fault::GrantType),
        }
    }

    /// The client id, from Basic or from the form.
    pub fn client_id(&self, fields: &HeaderMap) -> Result<Option<String>, Fault> {
        match basic_user(fields) {
            Some(user) => Ok(Some(user)),
            None => Ok(self.get("client_id")?.map(str::to_owned)),
        }
    }
}

const NO_GRANT_TYPE: &str =
    "grant_type is missing: the content is to be application/x-www-form-urlencoded";

fn basic_user(fields: &HeaderMap) -> Option<String> {
    let credentials = fields.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = credentials.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let pair = String::from_utf8(BASE64_STANDARD.decode(rest.trim()).ok()?).ok()?;
    Some(pair.split_once(':')?.0.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(content: &str) -> Result<String, Fault> {
        Form::parse(content.as_bytes()).grant().map(|grant| format!("{grant:?}"))
    }

    #[test]
    fn every_grant_of_the_sdks_is_understood() {
        let jwt = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=e";
        for content in [
            jwt,
            &format!("{jwt}&access_token_ttl=-1&refresh_token_ttl=junk&client_id=x&scope=&scope="),
            "grant_type=password&username=%2B1&extension=101&password=p",
            "grant_type=client_credentials",
            "grant_type=urn:ietf:params:oauth:grant-type:device_code&device_code=x",
        ] {
            assert_eq!(grant(content), Ok("Fresh".into()), "{content}");
        }
        assert_eq!(grant("grant_type=refresh_token&refresh_token="), Ok("Refresh(\"\")".into()));
        let form = Form::parse(b"grant_type=authorization_code&code=a+b&code_verifier=v");
        let redeemed = Redeemed { code: "a b", redirect_uri: None, verifier: Some("v") };
        assert_eq!(form.grant(), Ok(Grant::Code(redeemed)));
    }

    #[test]
    fn junk_is_told_from_a_login() {
        let missing = Fault::Request(NO_GRANT_TYPE);
        for (content, fault) in [
            ("", missing),
            ("{\"grant_type\": \"password\"}", missing),
            ("\u{0}%ff%&&==", missing),
            ("grant_type=implicit", Fault::GrantType),
            ("grant_type=", Fault::GrantType),
            (
                "grant_type=password&grant_type=password",
                Fault::Request("a parameter is there twice"),
            ),
            ("grant_type=password", Fault::Request("username is missing")),
            ("grant_type=refresh_token", Fault::Request("refresh_token is missing")),
            ("grant_type=authorization_code", Fault::Request("code is missing")),
        ] {
            assert_eq!(grant(content), Err(fault), "{content}");
        }
    }

    #[test]
    fn the_client_id_comes_from_basic_or_from_the_form() {
        let id = |basic: Option<&str>, form: &[u8]| {
            let mut fields = HeaderMap::new();
            if let Some(pair) = basic {
                let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
                fields.insert(AUTHORIZATION, value.parse().unwrap());
            }
            Form::parse(form).client_id(&fields)
        };
        assert_eq!(id(Some("app:secret"), b"client_id=other"), Ok(Some("app".into())));
        assert_eq!(id(None, b"client_id=app"), Ok(Some("app".into())));
        assert_eq!(id(None, b""), Ok(None));
        assert!(id(None, b"client_id=a&client_id=b").is_err());
    }
}
