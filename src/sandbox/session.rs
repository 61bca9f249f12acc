//! Sessions and their tokens: who lives, who has died, and what is said of the dead.
//!
//! Pure: time and rules come as arguments. A session has one current pair of tokens. A refresh
//! makes a new pair and remembers the refresh token it was made with, because RingCentral answers
//! that one again, with the same new pair, until the new access token has been in use for a while.

use std::collections::HashMap;
use std::time::Duration;

use self::life::{Access, Pair, Presented, Previous, Session};
use super::rules::Rules;
use crate::clock::Timestamp;

mod life;

/// All sessions of the sandbox.
#[derive(Debug)]
pub(super) struct Sessions {
    seed: u64,
    serial: u64,
    opened: u64,
    alive: HashMap<u64, Session>,
    access: HashMap<String, Access>,
    refresh: HashMap<String, u64>,
    purge_at: usize,
}

/// What a grant asks of a new session.
#[derive(Clone, Debug)]
pub(super) struct Opening {
    pub(super) application: String,
    pub(super) user: u64,
    pub(super) endpoint_id: Option<String>,
    pub(super) scope: Option<String>,
    pub(super) lives: Lives,
}

/// How long the tokens of a pair live; no refresh token is issued when it has no life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lives {
    pub(super) access: Duration,
    pub(super) refresh: Option<Duration>,
}

/// A pair of tokens as it is handed to an application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) session: u64,
    pub(super) serial: u64,
    pub(super) user: u64,
    pub(super) access: String,
    pub(super) expires_in: Duration,
    pub(super) refresh: Option<(String, Duration)>,
    pub(super) endpoint_id: String,
    pub(super) scope: String,
    /// Whether this pair was handed out before.
    pub(super) repeated: bool,
}

/// Who an API request comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) session: u64,
    pub(super) serial: u64,
    pub(super) user: u64,
    pub(super) application: String,
}

/// Why a token is no good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lost {
    /// Its own life is over.
    Expired,
    /// It died a moment ago: replaced, revoked, or its session ended.
    Corrupted,
    /// Nothing is known of it, or no longer.
    NotFound,
    /// It does not even look like a token.
    Unparsable,
}

impl Sessions {
    /// No session yet; `seed` makes the tokens differ from those of every other sandbox.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            serial: 0,
            opened: 0,
            alive: HashMap::new(),
            access: HashMap::new(),
            refresh: HashMap::new(),
            purge_at: 1024,
        }
    }

    /// Opens a session, ending the oldest of the same user and application if there are too many.
    pub(super) fn open(&mut self, opening: Opening, rules: &Rules, now: Timestamp) -> Granted {
        self.purge(rules, now);
        self.make_room(&opening, rules, now);
        self.opened += 1;
        let id = self.opened;
        let current = self.mint(id, opening.lives, rules, now);
        let endpoint_id = opening.endpoint_id.unwrap_or_else(|| format!("sandbox-endpoint-{id}"));
        let session = Session {
            application: opening.application,
            user: opening.user,
            endpoint_id,
            scope: opening.scope.unwrap_or_else(|| SCOPE.into()),
            opened: now,
            current,
            first_used: None,
            previous: None,
        };
        let granted = session.granted(id, now);
        self.alive.insert(id, session);
        granted
    }

    /// Exchanges a refresh token for a new pair, or for the same new pair once more.
    pub(super) fn refresh(
        &mut self,
        token: &str,
        application: &str,
        lives: Lives,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<Granted, Lost> {
        let id = *self.refresh.get(token).ok_or(Lost::NotFound)?;
        let session = self.alive.get(&id).ok_or(Lost::NotFound)?;
        if session.application != application {
            return Err(Lost::NotFound);
        }
        match session.judge(token, rules, now) {
            Presented::Current => Ok(self.rotate(id, token, lives, rules, now)),
            Presented::Again => Ok(Granted { repeated: true, ..session.granted(id, now) }),
            Presented::Reused => {
                self.end(id, now);
                Err(Lost::NotFound)
            }
            Presented::Over(lost) => Err(lost),
        }
    }

    /// Whose access token this is; its first use starts the end of the previous refresh token.
    pub(super) fn authenticate(
        &mut self,
        token: &str,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<Caller, Lost> {
        if !token.starts_with(MARK) {
            return Err(Lost::Unparsable);
        }
        let access = self.access.get(token).ok_or(Lost::NotFound)?;
        access.judge(rules, now)?;
        let (id, serial) = (access.session, access.serial);
        let session = self.alive.get_mut(&id).ok_or(Lost::NotFound)?;
        if session.timed_out(rules, now) {
            self.end(id, now);
            return Err(Lost::NotFound);
        }
        if session.current.serial == serial {
            session.first_used.get_or_insert(now);
        }
        let application = session.application.clone();
        Ok(Caller { session: id, serial, user: session.user, application })
    }

    /// Ends the session that `token`, of either kind, belongs to. False if there is none.
    pub(super) fn revoke(&mut self, token: &str, now: Timestamp) -> bool {
        let by_access = self.access.get(token).map(|access| access.session);
        let id = by_access.or_else(|| self.refresh.get(token).copied());
        id.is_some_and(|id| self.end(id, now))
    }

    /// Ends one session: all its tokens die. False if it was over already.
    pub(super) fn end(&mut self, id: u64, now: Timestamp) -> bool {
        self.refresh.retain(|_, session| *session != id);
        for access in self.access.values_mut().filter(|access| access.session == id) {
            access.died.get_or_insert(now);
        }
        self.alive.remove(&id).is_some()
    }

    /// Ends every session.
    pub(super) fn end_all(&mut self, now: Timestamp) {
        self.alive.clear();
        self.refresh.clear();
        self.kill_access(now);
    }

    /// Kills every access token; sessions and refresh tokens live on.
    pub(super) fn kill_access(&mut self, now: Timestamp) {
        for access in self.access.values_mut() {
            access.died.get_or_insert(now);
        }
    }

    /// Makes every access token expire now.
    pub(super) fn expire_access(&mut self, now: Timestamp) {
        for access in self.access.values_mut() {
            access.until = access.until.min(now);
        }
        for session in self.alive.values_mut() {
            session.current.access_until = session.current.access_until.min(now);
        }
    }

    /// How many sessions still hold a token that is good for something.
    pub(super) fn alive(&self, rules: &Rules, now: Timestamp) -> usize {
        self.alive.values().filter(|session| session.alive(rules, now)).count()
    }

    fn rotate(
        &mut self,
        id: u64,
        token: &str,
        lives: Lives,
        rules: &Rules,
        now: Timestamp,
    ) -> Granted {
        let fresh = self.mint(id, lives, rules, now);
        let session = self.alive.get_mut(&id).expect("the caller has just found it");
        let old = std::mem::replace(&mut session.current, fresh);
        let previous = Previous { refresh: token.to_owned(), rotated: now };
        let forgotten = session.previous.replace(previous);
        session.first_used = None;
        let granted = session.granted(id, now);
        // In strict mode an old token must stay known, so that its reuse can end the session.
        if let Some(forgotten) = forgotten.filter(|f| f.refresh != token && !rules.strict_rotation)
        {
            self.refresh.remove(&forgotten.refresh);
        }
        if !rules.old_access_token_lives {
            self.access.get_mut(&old.access).map(|access| access.died.get_or_insert(now));
        }
        granted
    }

    fn mint(&mut self, session: u64, lives: Lives, rules: &Rules, now: Timestamp) -> Pair {
        self.serial += 1;
        let serial = self.serial;
        let secret = mix(self.seed, serial * 2);
        let access = format!(
            "{:x<1$}",
            format!("{MARK}access-{session}-{serial}-{secret:016x}"),
            rules.access_token_length
        );
        let until = now + lives.access;
        self.access.insert(access.clone(), Access { session, serial, until, died: None });
        let refresh = lives.refresh.map(|life| {
            let secret = mix(self.seed, serial * 2 + 1);
            (format!("{MARK}refresh-{session}-{serial}-{secret:016x}"), now + life)
        });
        if let Some((token, _)) = &refresh {
            self.refresh.insert(token.clone(), session);
        }
        Pair { serial, access, access_until: until, refresh }
    }

    fn make_room(&mut self, opening: &Opening, rules: &Rules, now: Timestamp) {
        if self.alive.len() < rules.max_sessions {
            return;
        }
        loop {
            let mine = self.alive.iter().filter(|(_, session)| {
                session.user == opening.user
                    && session.application == opening.application
                    && session.alive(rules, now)
            });
            let ids: Vec<u64> = mine.map(|(id, _)| *id).collect();
            let Some(oldest) = ids.iter().min().filter(|_| ids.len() >= rules.max_sessions) else {
                return;
            };
            self.end(*oldest, now);
        }
    }

    /// Forgets what can make no difference any more; amortised over the sessions opened.
    fn purge(&mut self, rules: &Rules, now: Timestamp) {
        if self.access.len() < self.purge_at {
            return;
        }
        self.alive.retain(|_, session| session.alive(rules, now));
        let alive = &self.alive;
        self.refresh.retain(|_, id| alive.contains_key(id));
        self.access.retain(|_, access| {
            let over = access.died.unwrap_or(access.until);
            over + rules.corrupted_for.max(REMEMBERED) > now
        });
        self.purge_at = 1024 + self.access.len() * 2;
    }
}

/// The finaliser of `SplitMix64`: serial numbers become words that nobody mistakes for each other.
fn mix(seed: u64, n: u64) -> u64 {
    let mut z = seed.wrapping_add(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const MARK: &str = "sandbox-";
const SCOPE: &str = "ReadAccounts EditExtensions ReadCallLog ReadMessages SMS Faxes Contacts \
                     ReadPresence RingOut SubscriptionWebhook WebSocketsSubscriptions";
/// How long an expired access token is told apart from an unknown one.
const REMEMBERED: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests;
