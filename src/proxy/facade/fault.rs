//! What is wrong with a login (RFC 6749 §4.1.2.1, §5.2).

use http::StatusCode;

/// Why a call of an OAuth endpoint is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The request cannot be read, or lacks something.
    #[error("{0}")]
    Request(&'static str),
    /// No such grant.
    #[error("the proxy knows no such grant_type")]
    GrantType,
    /// The client id and secret are nobody's.
    #[error(
        "no client has this id and secret: the secret is the key of a [client.NAME], see `ringbearer keygen`"
    )]
    Client,
    /// The refresh token or the code is not good, or not any more.
    #[error("{0}")]
    Grant(&'static str),
    /// The endpoint takes another method.
    #[error("this endpoint takes {0}")]
    Method(&'static str),
    /// `authorize` must not lead there.
    #[error(
        "redirect_uri leads to another machine, or nowhere: list it in facade.redirect_uris if it is an app's of yours"
    )]
    RedirectUri,
}

impl Fault {
    /// Status and code.
    pub const fn status_and_code(self) -> (StatusCode, &'static str) {
        match self {
            Self::Client => (StatusCode::UNAUTHORIZED, "RBR-114"),
            Self::Grant(_) => (StatusCode::BAD_REQUEST, "RBR-115"),
            Self::Request(_) | Self::GrantType => (StatusCode::BAD_REQUEST, "RBR-116"),
            Self::Method(_) => (StatusCode::METHOD_NOT_ALLOWED, "RBR-117"),
            Self::RedirectUri => (StatusCode::BAD_REQUEST, "RBR-118"),
        }
    }

    /// `error` of the answer.
    pub const fn error(self) -> &'static str {
        match self {
            Self::Client => "invalid_client",
            Self::Grant(_) => "invalid_grant",
            Self::GrantType => "unsupported_grant_type",
            Self::Request(_) | Self::Method(_) | Self::RedirectUri => "invalid_request",
        }
    }
}
