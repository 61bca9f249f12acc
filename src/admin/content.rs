//! Contents of answers and of requests, bounded in size and time.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use super::error::AdminError;
use crate::clock::Clock;
use crate::secret::Secret;

/// What an operator may send.
const MOST_BYTES: usize = 64 * 1024;

/// How long it may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

const NOSNIFF: HeaderName = HeaderName::from_static("x-content-type-options");

/// An answer that nobody keeps.
pub(super) fn answer(
    status: StatusCode,
    kind: &'static str,
    content: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(content.into()));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    fields.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(NOSNIFF, HeaderValue::from_static("nosniff"));
    response
}

/// The same in JSON.
pub(super) fn json(status: StatusCode, content: &serde_json::Value) -> Response<Full<Bytes>> {
    answer(status, "application/json", content.to_string())
}

/// An identity to be added.
#[derive(Debug)]
pub(super) struct NewIdentity {
    pub(super) name: String,
    /// The application's name in the configuration.
    pub(super) application: String,
    pub(super) jwt: Option<Secret>,
}

/// Reads the whole content.
pub(super) async fn read(content: Incoming, clock: &Clock) -> Result<Bytes, AdminError> {
    let whole = Limited::new(content, MOST_BYTES).collect();
    let late = AdminError::Late(PATIENCE);
    tokio::select! {
        read = whole => match read {
            Ok(read) => Ok(read.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(AdminError::TooLong),
            Err(_) => Err(late),
        },
        () = clock.sleep(PATIENCE) => Err(late),
    }
}

impl NewIdentity {
    /// From JSON. Nothing of what was sent is repeated: it may be the JWT in the wrong place.
    pub(super) fn parse(content: &[u8]) -> Result<Self, AdminError> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Written {
            name: String,
            application: String,
            jwt: Option<String>,
        }
        let written: Written = serde_json::from_slice(content)
            .map_err(|error| AdminError::Content { line: error.line(), column: error.column() })?;
        let jwt = written.jwt.map(Secret::new);
        let odd = |c: char| c.is_control() || c.is_whitespace();
        if jwt.as_ref().is_some_and(|jwt| jwt.is_empty() || jwt.expose().contains(odd)) {
            return Err(AdminError::Jwt);
        }
        Ok(Self { name: written.name, application: written.application, jwt })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_with_or_without_a_jwt() {
        let with = br#"{"name":"bot","application":"crm","jwt":"the-jwt"}"#;
        let identity = NewIdentity::parse(with).expect("good");
        assert_eq!((&*identity.name, &*identity.application), ("bot", "crm"));
        assert_eq!(identity.jwt.expect("given").expose(), "the-jwt");
        let without = br#"{"name":"bot","application":"crm"}"#;
        assert!(NewIdentity::parse(without).expect("good").jwt.is_none());
    }

    #[test]
    fn what_is_not_understood_is_not_repeated() {
        for (content, place) in [
            (r#"{"name":"bot","application":"crm","jtw":"canary"}"#, "(line 1, column 39)"),
            (r#"{"name":"bot","application":5}"#, "(line 1, column 29)"),
            ("canary", "(line 1, column 1)"),
            ("", "(line 1, column 0)"),
            ("[\"canary\"]", "(line 1, column 10)"),
        ] {
            let error = NewIdentity::parse(content.as_bytes()).expect_err("refused");
            assert_eq!(
                error.to_string(),
                format!(
                    "the content is not {{\"name\", \"application\", \"jwt\"}}, each a text, jwt \
                     optional {place}"
                ),
                "{content}"
            );
        }
        let blank = br#"{"name":"bot","application":"crm","jwt":"canary\n"}"#;
        let error = NewIdentity::parse(blank).expect_err("refused");
        assert_eq!(error.to_string(), "jwt is empty or has a blank or control character in it");
    }
}
