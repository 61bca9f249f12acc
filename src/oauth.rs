//! The client side of RingCentral's token endpoint: [`grant`] writes requests, [`response`] reads
//! answers, [`endpoint`] carries them. Nothing here decides what to do next; a [`TokenError`] only
//! tells apart what calls for a different reaction.

use std::io;
use std::time::Duration;

use http::StatusCode;

use crate::store::StoreError;

pub mod authorization;
pub mod device;
pub mod endpoint;
pub mod grant;
pub mod response;

/// Why there is no new token. Codes are the server's, reduced to harmless characters; its free
/// texts are left out, because they may repeat what was sent.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// 400: this credential buys nothing any more.
    #[error(
        "the token endpoint refused the credential ({code}): log in again, or configure another one"
    )]
    GrantRefused {
        /// The server's codes.
        code: String,
    },
    /// 401: the application is not known.
    #[error(
        "the token endpoint refused the application ({code}): correct client_id and client_secret, then reload"
    )]
    ClientRefused {
        /// The server's codes.
        code: String,
    },
    /// 403: the application may not use this grant.
    #[error(
        "the application may not use this grant ({code}): enable it in the RingCentral developer console, then reload"
    )]
    GrantNotAllowed {
        /// The server's codes.
        code: String,
    },
    /// 429 or 503: nothing may be sent for a while.
    #[error("the token endpoint answered {status} and asked for {} s of silence: nothing is sent till then", retry_after.as_secs())]
    Penalty {
        /// 429 or 503.
        status: StatusCode,
        /// How long.
        retry_after: Duration,
    },
    /// 408 or 500: it may work in a moment.
    #[error("the token endpoint answered {status}: it is tried again")]
    ServerFault {
        /// The answer's status.
        status: StatusCode,
    },
    /// Any other status.
    #[error(
        "the token endpoint answered {status} ({code}): check token_url; it is tried again, ever more slowly"
    )]
    Unexpected {
        /// The answer's status.
        status: StatusCode,
        /// The server's codes.
        code: String,
    },
    /// 200 with something that is not a token set.
    #[error("the token endpoint's answer is not a token set: {fault}; check token_url")]
    Malformed {
        /// What is wrong with it.
        fault: &'static str,
    },
    /// The request may have arrived, but no answer came.
    #[error("the token endpoint's answer was lost: the same request is safe to send again")]
    NoAnswer(#[source] io::Error),
    /// The request was never sent.
    #[error("the token endpoint cannot be reached: check token_url, the network and its proxy")]
    Unreachable(#[source] io::Error),
    /// The store failed; without it no token is asked for.
    #[error("the token store failed, and without it no token is requested")]
    Store(#[from] StoreError),
    /// Another process renews this identity just now.
    #[error("another process is renewing this identity: its result is awaited")]
    LeaseHeld,
    /// New tokens were refused again and again.
    #[error("RingCentral refused a new token too: the next renewal waits, so that none are wasted")]
    CoolingDown,
    /// There is no refresh token, and the configured credential was good for one use.
    #[error(
        "the session cannot be renewed: the application issues no refresh token; enable that, or configure a JWT"
    )]
    NothingLeft,
    /// Somebody ended the session on purpose.
    #[error("the session was ended by a logout: log in again")]
    LoggedOut,
    /// Nobody has logged in yet.
    #[error("nobody has logged in: run `ringbearer login`")]
    NotLoggedIn,
    /// 400: the login that a device waits for is not over (RFC 8628 §3.5).
    #[error("nobody has agreed to the login yet: it is asked again")]
    Pending {
        /// Whether the server wants to be asked more seldom.
        slow_down: bool,
    },
    /// Nothing is known yet.
    #[error("no token has been obtained yet: one is on its way")]
    Starting,
}
