//! What a RingCentral session consists of: access token, refresh token, and the generation that
//! counts an identity's token sets.
//!
//! The types here know no IO. [`slot`] is how a set reaches the threads that serve requests.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::clock::Timestamp;
use crate::secret::Secret;

pub mod budget;
pub mod identities;
pub mod keeper;
pub mod ledger;
pub mod lifecycle;
pub mod names;
pub mod queue;
pub mod roster;
pub mod slot;

/// The bearer credential of API requests (RFC 6749 §1.4), kept as the field value it is sent as, so
/// that tens of thousands of them are in memory once only and not twice.
#[derive(Clone)]
pub struct AccessToken(Bytes);

impl AccessToken {
    /// Wraps the text of the token.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self(Bytes::from([SCHEME, text.as_ref()].concat().into_boxed_str().into_boxed_bytes()))
    }

    /// The token itself. Every call is a place where it may leak.
    pub fn expose(&self) -> &str {
        std::str::from_utf8(&self.0[SCHEME.len()..]).expect("made of a text")
    }

    /// `Bearer` and the token; shares its memory.
    fn field_value(&self) -> Bytes {
        self.0.clone()
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AccessToken(***)")
    }
}

const SCHEME: &str = "Bearer ";

/// The credential that buys the next [`TokenSet`] (RFC 6749 §1.5). At RingCentral it is good for one use.
#[derive(Clone, Debug)]
pub struct RefreshToken(Secret);

impl RefreshToken {
    /// Wraps the text of the token.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Secret::new(text))
    }

    /// The token itself. Every call is a place where it may leak.
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

/// Counts the token sets of one identity, from 1. A later set has the greater number, in the store
/// and across restarts too, so "has somebody renewed since?" is a comparison of two integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u64);

impl Generation {
    /// Before the first token set.
    pub const NONE: Self = Self(0);

    /// The generation with this number.
    pub const fn new(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// Everything the token endpoint said in one answer, with its lifetimes turned into deadlines.
#[derive(Clone, Debug)]
pub struct TokenSet {
    /// Which set of its identity this is.
    pub generation: Generation,
    /// The bearer credential.
    pub access_token: AccessToken,
    /// When the answer arrived.
    pub issued_at: Timestamp,
    /// When the access token ends (`issued_at` plus `expires_in`).
    pub expires_at: Timestamp,
    /// The refresh token and its end; absent where the application is not set to issue them.
    pub refresh: Option<Refresh>,
    /// The refresh token that bought this set, kept until the new access token has been accepted
    /// once: till then RingCentral answers it with this same set again, should the answer be lost.
    pub previous_refresh: Option<RefreshToken>,
    /// The granted scope, space-separated.
    pub scope: Option<String>,
    /// The extension that owns the session.
    pub owner_id: Option<String>,
    /// The application instance, as RingCentral knows it.
    pub endpoint_id: Option<String>,
}

/// What the token endpoint says of a session besides its tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Particulars {
    /// The granted scope, space-separated.
    pub scope: Option<String>,
    /// The extension that owns the session.
    pub owner_id: Option<String>,
    /// The application instance.
    pub endpoint_id: Option<String>,
}

/// A refresh token with its deadline.
#[derive(Clone, Debug)]
pub struct Refresh {
    /// The token.
    pub token: RefreshToken,
    /// When it ends, if the server said so.
    pub expires_at: Option<Timestamp>,
}

impl TokenSet {
    /// Whether the access token is still within its lifetime.
    pub fn is_live(&self, now: Timestamp) -> bool {
        now < self.expires_at
    }

    /// Moves its deadlines with a clock that was set back.
    pub fn set_back(&mut self, by: Duration) {
        self.issued_at = self.issued_at - by;
        self.expires_at = self.expires_at - by;
        if let Some(Refresh { expires_at: Some(end), .. }) = &mut self.refresh {
            *end = *end - by;
        }
    }

    /// Taken as issued now, if it seems to come from the future: the clock was ahead then, and a
    /// deadline that it noted would be believed for too long.
    #[must_use]
    pub fn not_after(mut self, now: Timestamp) -> Self {
        self.set_back(now.until(self.issued_at));
        self
    }

    /// The lifetime the access token was issued with.
    pub fn lifetime(&self) -> Duration {
        self.issued_at.until(self.expires_at)
    }
}
