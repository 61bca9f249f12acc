//! What the sandbox knows at one instant, behind one lock that no IO ever holds.
//!
//! Pure but for its inputs: every method takes the time. [`Counts`] are never bounded, the log is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde::Serialize;

use super::codes::Codes;
use super::fault::Faults;
use super::limits::{Limit, Verdict, Windows};
use super::rules::Rules;
use super::session::Sessions;
use crate::clock::Timestamp;

/// Everything that changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) rules: Arc<Rules>,
    pub(super) sessions: Sessions,
    pub(super) codes: Codes,
    pub(super) faults: Faults,
    pub(super) counts: Counts,
    pub(super) log: VecDeque<Arrival>,
    pub(super) serial: u64,
    /// Counts (user, application, group).
    api_windows: Windows<(u64, String, String)>,
    /// Counts client ids.
    token_windows: Windows<String>,
}

/// What has happened since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Connections accepted by the sandbox's own listeners.
    pub connections_accepted: u64,
    /// Connections that are open now.
    pub connections_open: u64,
    /// All requests, as soon as their head has arrived.
    pub requests: u64,
    /// Requests that have arrived and have not been answered.
    pub in_flight: u64,
    /// Requests to the token endpoint.
    pub token_requests: u64,
    /// The same, by grant type, as far as one could be read.
    pub token_requests_by_grant: BTreeMap<String, u64>,
    /// Token requests that were granted.
    pub token_answers: u64,
    /// Of these, repeats of a pair that was handed out before.
    pub token_repeats: u64,
    /// Token requests over the budget.
    pub token_429: u64,
    /// Token requests refused for another reason.
    pub token_refusals: u64,
    /// Revocations of a session that was alive.
    pub revocations: u64,
    /// Requests to the API (everything outside `/restapi/oauth/`, but `wstoken` too).
    pub api_requests: u64,
    /// API requests answered 401.
    pub api_401: u64,
    /// API requests answered 429.
    pub api_429: u64,
    /// Messages sent and faxes taken: the things that must not happen twice.
    pub messages_sent: u64,
    /// WebSocket connections opened.
    pub websockets: u64,
    /// Requests that met a fault on order.
    pub faults: u64,
    /// Sessions that hold a good token now.
    pub sessions_alive: u64,
}

/// One request, as it arrived and as it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Arrival {
    /// Counts arrivals, from 1.
    pub number: u64,
    /// When its head had arrived, in milliseconds since the Unix epoch.
    pub at_unix_millis: u64,
    /// Which connection it came on, from 1.
    pub connection: u64,
    /// The method.
    pub method: String,
    /// The request target as it was received; over h2, the path and query.
    pub target: String,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub version: String,
    /// All fields in the order in which their names first appeared, names in lower case.
    pub fields: Vec<(String, String)>,
    /// The length of the content.
    pub body_bytes: u64,
    /// The digest of the content, in hex.
    pub body_sha256: String,
    /// The trailer fields.
    pub trailers: Vec<(String, String)>,
    /// The status answered; absent when no answer was sent.
    pub status: Option<u16>,
    /// The session that authenticated it, or was opened or renewed by it.
    pub session: Option<u64>,
    /// The serial number of that access token.
    pub token_serial: Option<u64>,
    /// The user of that session.
    pub user: Option<u64>,
    /// The error code of a refused token.
    pub refused: Option<&'static str>,
    /// The answer's `RCRequestId`.
    pub request_id: String,
}

impl Arrival {
    /// The first value of a field, by its name in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The group and limit that an API request was counted against.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) group: String,
    pub(super) limit: Limit,
    pub(super) verdict: Verdict,
}

impl State {
    pub(super) fn new(rules: Rules, seed: u64) -> Self {
        Self {
            rules: Arc::new(rules),
            sessions: Sessions::new(seed),
            codes: Codes::default(),
            faults: Faults::default(),
            counts: Counts::default(),
            log: VecDeque::new(),
            serial: 0,
            api_windows: Windows::new(),
            token_windows: Windows::new(),
        }
    }

    /// The counters, with what has to be counted afresh.
    pub(super) fn counts(&self, now: Timestamp) -> Counts {
        let alive = self.sessions.alive(&self.rules, now);
        Counts { sessions_alive: alive as u64, ..self.counts.clone() }
    }

    /// Replaces the rules; windows and penalties start anew, so that a changed limit holds at once.
    pub(super) fn set_rules(&mut self, rules: Rules) {
        self.rules = Arc::new(rules);
        self.api_windows.clear();
        self.token_windows.clear();
        self.trim_log();
    }

    pub(super) fn record(&mut self, arrival: Arrival) {
        self.log.push_back(arrival);
        self.trim_log();
    }

    /// Counts an API request; none if its group has no limit, or none are kept.
    pub(super) fn count_api(
        &mut self,
        user: u64,
        application: &str,
        group: &str,
        now: Timestamp,
    ) -> Option<Counted> {
        let limit = self.limit(group).filter(|_| self.rules.rate_limits)?;
        let key = (user, application.to_owned(), group.to_owned());
        let verdict = self.api_windows.count(key, limit, now);
        Some(Counted { group: group.to_owned(), limit, verdict })
    }

    /// Counts a token request of an application.
    pub(super) fn count_token(&mut self, client_id: &str, now: Timestamp) -> Option<Counted> {
        let limit = self.limit("Auth").filter(|_| self.rules.token_budget)?;
        let verdict = self.token_windows.count(client_id.to_owned(), limit, now);
        Some(Counted { group: "Auth".to_owned(), limit, verdict })
    }

    fn limit(&self, group: &str) -> Option<Limit> {
        let requests = *self.rules.limits.get(group)?;
        let (window, penalty) = (self.rules.limit_window, self.rules.limit_penalty);
        Some(Limit { requests, window, penalty })
    }

    fn trim_log(&mut self) {
        while self.log.len() > self.rules.log_capacity {
            self.log.pop_front();
        }
    }
}
