//! One session and its tokens at a given time: which live, and what a presented one means.

use std::time::Duration;

use super::{Granted, Lost};
use crate::clock::Timestamp;
use crate::sandbox::rules::Rules;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) application: String,
    pub(super) user: u64,
    pub(super) endpoint_id: String,
    pub(super) scope: String,
    pub(super) opened: Timestamp,
    pub(super) current: Pair,
    pub(super) first_used: Option<Timestamp>,
    pub(super) previous: Option<Previous>,
}

#[derive(Clone, Debug)]
pub(super) struct Pair {
    pub(super) serial: u64,
    pub(super) access: String,
    pub(super) access_until: Timestamp,
    pub(super) refresh: Option<(String, Timestamp)>,
}

/// The refresh token that the current pair was made with.
#[derive(Debug)]
pub(super) struct Previous {
    pub(super) refresh: String,
    pub(super) rotated: Timestamp,
}

#[derive(Debug)]
pub(super) struct Access {
    pub(super) session: u64,
    pub(super) serial: u64,
    pub(super) until: Timestamp,
    pub(super) died: Option<Timestamp>,
}

/// What a presented refresh token is to its session.
pub(super) enum Presented {
    Current,
    Again,
    Reused,
    Over(Lost),
}

impl Session {
    pub(super) fn judge(&self, token: &str, rules: &Rules, now: Timestamp) -> Presented {
        if self.timed_out(rules, now) {
            return Presented::Over(Lost::NotFound);
        }
        match &self.current.refresh {
            Some((current, until)) if current == token && now >= *until => {
                return Presented::Over(Lost::Expired);
            }
            Some((current, _)) if current == token => return Presented::Current,
            _ if rules.strict_rotation => return Presented::Reused,
            _ => {}
        }
        match &self.previous {
            Some(previous) if previous.refresh == token && self.again(previous, rules, now) => {
                // A pair whose access token is over, or has less than the second in which its life
                // is told, would help nobody.
                let left = now.until(self.current.access_until);
                if left >= Duration::from_secs(1) { Presented::Again } else { Presented::Current }
            }
            _ => Presented::Over(Lost::NotFound),
        }
    }

    /// Whether the refresh token that made the current pair may still ask for it again.
    fn again(&self, previous: &Previous, rules: &Rules, now: Timestamp) -> bool {
        match self.first_used {
            Some(used) => now < used + rules.old_refresh_token_after_use,
            None => now < previous.rotated + rules.old_refresh_token_unused,
        }
    }

    pub(super) fn timed_out(&self, rules: &Rules, now: Timestamp) -> bool {
        rules.absolute_session_timeout.is_some_and(|timeout| now >= self.opened + timeout)
    }

    pub(super) fn alive(&self, rules: &Rules, now: Timestamp) -> bool {
        let refresh = self.current.refresh.as_ref().map(|(_, until)| *until);
        let until = refresh.max(Some(self.current.access_until));
        until.is_some_and(|until| now < until) && !self.timed_out(rules, now)
    }

    pub(super) fn granted(&self, id: u64, now: Timestamp) -> Granted {
        let refresh = self.current.refresh.as_ref();
        Granted {
            session: id,
            serial: self.current.serial,
            user: self.user,
            access: self.current.access.clone(),
            expires_in: now.until(self.current.access_until),
            refresh: refresh.map(|(token, until)| (token.clone(), now.until(*until))),
            endpoint_id: self.endpoint_id.clone(),
            scope: self.scope.clone(),
            repeated: false,
        }
    }
}

impl Access {
    pub(super) fn judge(&self, rules: &Rules, now: Timestamp) -> Result<(), Lost> {
        match self.died {
            Some(died) if now < died + rules.corrupted_for => Err(Lost::Corrupted),
            Some(_) => Err(Lost::NotFound),
            None if now >= self.until => Err(Lost::Expired),
            None => Ok(()),
        }
    }
}
