//! The words that the lifecycle and its shell exchange. None carries a secret.

use std::time::Duration;

use crate::clock::Timestamp;
use crate::settings::Credential;
use crate::token::{Generation, TokenSet};

/// What the configured credential can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// Open a new session any time (JWT, password, client credentials).
    Reopens,
    /// Open one session, which then has to be refreshed (authorization code, refresh token).
    Once,
    /// Nothing: somebody logs in, and the session is found in the store.
    Login,
}

impl Means {
    /// What this credential can do.
    pub fn of(credential: &Credential) -> Self {
        match credential {
            Credential::Login => Self::Login,
            credential if credential.reopens() => Self::Reopens,
            _ => Self::Once,
        }
    }
}

/// Which credential a renewal presents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The configured one.
    Open,
    /// The session's refresh token.
    Refresh,
    /// The refresh token before that, which answers with the current set again while that is unused.
    PreviousRefresh,
    /// The other configured one, which opens a new session any time when this one is lost.
    Fallback,
}

/// What the machine knows of a token set: no secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Which set.
    pub generation: Generation,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// When its access token ends.
    pub expires_at: Timestamp,
    /// Whether it has a refresh token, and till when.
    pub refresh: Option<Option<Timestamp>>,
    /// Whether the refresh token that bought it is still known.
    pub previous_refresh: bool,
}

impl Known {
    /// Of a token set.
    pub fn of(set: &TokenSet) -> Self {
        Self {
            generation: set.generation,
            issued_at: set.issued_at,
            expires_at: set.expires_at,
            refresh: set.refresh.as_ref().map(|refresh| refresh.expires_at),
            previous_refresh: set.previous_refresh.is_some(),
        }
    }

    /// Moves its deadlines with a clock that was set back.
    pub(super) fn set_back(&mut self, by: Duration) {
        self.issued_at = self.issued_at - by;
        self.expires_at = self.expires_at - by;
        self.refresh = self.refresh.map(|end| end.map(|end| end - by));
    }
}

/// What the threads that serve requests have to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Somebody waits for a token.
    Wanted,
    /// A request with this generation was refused because of its token.
    Refused(Generation),
    /// A request with this generation was let in.
    Accepted(Generation),
    /// Another process has saved or ended the session, or the store was away.
    Changed,
    /// The wall clock was set back by this much.
    ClockSetBack(Duration),
    /// Somebody who may has ordered a renewal now.
    Ordered,
}

/// What came of the last action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing: time has passed or a signal was noted.
    Time,
    /// The store was read; the session there, if it fits the configuration.
    Read(Option<Known>),
    /// The session was ended on purpose, and this generation marks its end.
    Erased(Generation),
    /// A newer set is in the store: our own, or another process's that was found there.
    Obtained(Known),
    /// It did not work.
    Failed(Failure),
}

/// How a renewal or a look at the store failed, by what it calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// 400: this credential is used up.
    GrantRefused,
    /// 401: the application's own credentials are wrong.
    ClientRefused,
    /// 403: the application may not use this grant.
    GrantNotAllowed,
    /// 429, 503: silence for so long.
    Penalty(Duration),
    /// 408, 500, timeout, lost answer: three more tries, ten seconds apart, then ever slower.
    Unanswered,
    /// Nothing was sent.
    Unreachable,
    /// Anything else: ever slower.
    Unexpected,
    /// The store is down: nothing is requested without it.
    Store,
    /// Another process is renewing.
    LeaseHeld,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read the store, then report [`Event::Read`] or [`Event::Failed`].
    Read,
    /// Obtain a token set, then report.
    Renew(Source),
    /// Nothing until then, or until a signal.
    Rest(Option<Timestamp>),
    /// What was begun is still under way.
    Continue,
}

/// Why there will be no further token without somebody's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Every credential was refused.
    GrantRefused,
    /// The application's own credentials are wrong.
    ClientRefused,
    /// The application may not use the grant.
    GrantNotAllowed,
    /// No refresh token, and the configured credential is used up.
    NothingLeft,
    /// The session was ended on purpose.
    LoggedOut,
}

/// Where an identity stands, for status and for requests without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The store has not been read yet.
    Starting,
    /// There is a token, or none because nobody needs one.
    Resting,
    /// A token is being obtained.
    Renewing,
    /// Silence was asked for until then.
    Penalised(Timestamp),
    /// A failure is slept on until then.
    BackingOff(Timestamp),
    /// New tokens were refused; the next renewal is due then.
    CoolingDown(Timestamp),
    /// Somebody has to log in or correct the configuration.
    NeedsLogin(Lost),
}
