//! What the admin listener refuses, in the shape of all refusals, with codes `RBR-4xx`.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::content;
use crate::proxy::error::ERROR_FIELD;
use crate::store::StoreError;
use crate::telemetry::chain;
use crate::token::identities::EnrolError;
use crate::token::keeper::Unavailable;

/// Why an operator does not get what was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdminError {
    #[error("Host is not an address or a name of this listener: add the name to admin.hosts")]
    Host,
    #[error("web pages do not get in: the request has Origin or a cross-site Sec-Fetch-Site")]
    CrossSite,
    #[error(
        "changes are refused: set admin.key_sha256; `ringbearer keygen` prints a key and its digest"
    )]
    ChangesOff,
    #[error("changes need the key of admin.key_sha256: send Authorization: Bearer KEY")]
    Key,
    #[error(
        "there is no such resource: there are /, /state, /healthz, /readyz, /metrics, /identities and \
         /reload"
    )]
    Unknown,
    #[error("this resource has no such method: it has {0}")]
    Method(&'static str),
    #[error("there is no identity of that name: GET /identities lists them")]
    NoIdentity,
    #[error("the query is not understood: it may have limit=1 to 1000, and after=NAME")]
    Query,
    #[error(
        "the content is not {{\"name\", \"application\", \"jwt\"}}, each a text, jwt optional (line {line}, column {column})"
    )]
    Content { line: usize, column: usize },
    #[error("the content is longer than 64 KiB")]
    TooLong,
    #[error("the content did not arrive whole within {} s", .0.as_secs())]
    Late(Duration),
    #[error("jwt is empty or has a blank or control character in it")]
    Jwt,
    #[error("no identity of the configuration uses an application of that name: there are {}", known.join(", "))]
    NoApplication { known: Vec<String> },
    #[error(transparent)]
    Enrol(EnrolError),
    #[error("the store failed: {}", chain(.0))]
    Store(StoreError),
    #[error("the store does not answer: it was given {} s", .0.as_secs())]
    StoreSilent(Duration),
    #[error("no later token for \"{identity}\": {}", chain(&*.why.reason))]
    NotRenewed { identity: String, why: Unavailable },
    #[error("the old configuration stays: {0}")]
    NotReloaded(String),
    #[error("a reload is under way, or this proxy is ending: try again")]
    NoReload,
}

impl From<EnrolError> for AdminError {
    fn from(error: EnrolError) -> Self {
        match error {
            EnrolError::Store(error) => Self::Store(error),
            error => Self::Enrol(error),
        }
    }
}

impl From<StoreError> for AdminError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl AdminError {
    /// Status and code: whose fault it was.
    pub(super) fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::Query
            | Self::Content { .. }
            | Self::Late(_)
            | Self::Jwt
            | Self::NoApplication { .. }
            | Self::Enrol(EnrolError::Name | EnrolError::UnknownApplication) => {
                (StatusCode::BAD_REQUEST, "RBR-400")
            }
            Self::Key => (StatusCode::UNAUTHORIZED, "RBR-401"),
            Self::ChangesOff => (StatusCode::FORBIDDEN, "RBR-403"),
            Self::Unknown | Self::NoIdentity => (StatusCode::NOT_FOUND, "RBR-404"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "RBR-405"),
            Self::Enrol(_) => (StatusCode::CONFLICT, "RBR-409"),
            Self::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, "RBR-413"),
            Self::Host => (StatusCode::MISDIRECTED_REQUEST, "RBR-421"),
            Self::CrossSite => (StatusCode::FORBIDDEN, "RBR-422"),
            Self::Store(_) | Self::StoreSilent(_) => (StatusCode::SERVICE_UNAVAILABLE, "RBR-450"),
            Self::NotRenewed { why, .. } if why.terminal => {
                (StatusCode::SERVICE_UNAVAILABLE, "RBR-452")
            }
            Self::NotRenewed { .. } => (StatusCode::SERVICE_UNAVAILABLE, "RBR-451"),
            Self::NotReloaded(_) => (StatusCode::CONFLICT, "RBR-453"),
            Self::NoReload => (StatusCode::SERVICE_UNAVAILABLE, "RBR-454"),
        }
    }

    /// The answer in RingCentral's shape.
    pub(super) fn into_response(self) -> Response<Full<Bytes>> {
        let (status, code) = self.status_and_code();
        let message = self.to_string();
        let mut response = content::json(
            status,
            &json!({
                "errorCode": code,
                "message": message,
                "errors": [{ "errorCode": code, "message": message }],
            }),
        );
        let fields = response.headers_mut();
        fields.insert(ERROR_FIELD, HeaderValue::from_static(code));
        match self {
            Self::Key => {
                let scheme = HeaderValue::from_static("Bearer realm=\"ringbearer admin\"");
                fields.insert(WWW_AUTHENTICATE, scheme);
            }
            Self::Method(methods) => drop(fields.insert(ALLOW, HeaderValue::from_static(methods))),
            Self::NotRenewed { why, .. } => {
                let seconds = why.retry_after.as_millis().div_ceil(1000).max(1).to_string();
                fields.insert(RETRY_AFTER, seconds.parse().expect("a number"));
            }
            Self::Store(_) | Self::StoreSilent(_) | Self::NoReload => {
                fields.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            _ => {}
        }
        response
    }
}
