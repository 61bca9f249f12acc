//! When an identity renews, with which credential, and what a failure means: RingCentral's guide
//! as a state machine. PURE: time and the answers of others come in, an [`Action`] goes out.
//!
//! It refuses to repeat what was refused for good, to send anything inside a penalty, and to offer
//! a token that has expired or was refused. Make before break: an identity whose credential opens a
//! new session any time never refreshes, because a refresh kills the old access token at once,
//! under the requests in flight. Refresh is for identities that have nothing else, or that keep a
//! second credential for the day on which the session is lost.

use std::time::Duration;

use super::Generation;
use super::budget::Class;
use crate::clock::Timestamp;

mod forecast;
mod pace;
mod words;

pub use forecast::{Dying, Notices, RefreshLife};
use pace::Forced;
pub use pace::{Pace, keep_alive_due, renew_at};
pub use words::{Action, Event, Failure, Known, Lost, Means, Signal, Source, Standing};

/// The state of one identity.
#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a note of its own, in any combination")]
pub struct Lifecycle {
    means: Means,
    /// Another credential opens a new session any time, should this one be lost.
    fallback: bool,
    pace: Pace,
    phase: Phase,
    current: Option<Current>,
    spent: Spent,
    forced: Forced,
    /// The end of the last penalty: it outlives a session that another process has opened meanwhile.
    silent_until: Timestamp,
    failures: u32,
    /// How many of them were no answer.
    unanswered: u32,
    /// Somebody has asked for a token since the last one came.
    wanted: bool,
    /// The first token is obtained whether or not anybody has asked.
    prefetch: bool,
    /// A renewal was ordered, whether or not one is due.
    ordered: bool,
    /// The store is said to have changed.
    told: bool,
    /// What a look at the changed store has interrupted.
    interrupted: Option<Phase>,
    /// That look is for a token that was refused, and whoever has it refused waits for it.
    doubted: bool,
}

#[derive(Clone, Copy, Debug)]
struct Current {
    known: Known,
    accepted: bool,
    refused: bool,
    /// The renewal that its refusal calls for has been counted.
    struck: bool,
}

/// Credentials that are not presented again.
#[derive(Clone, Copy, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "one for each source")]
struct Spent {
    open: bool,
    refresh: bool,
    previous: bool,
    fallback: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Reading(Why),
    Resting,
    Renewing(Source),
    Waiting { until: Timestamp, cause: Cause, then: Then },
    Lost(Lost, Timestamp),
}

/// Why the store is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    Start,
    /// This source was refused: perhaps somebody else had used it.
    Refused(Source, Lost),
    /// The identity is lost: perhaps somebody has logged in.
    Lost(Lost),
    /// The store is said to have changed.
    Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    Penalty,
    Failure,
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Read(Why),
    Renew,
}

impl Lifecycle {
    /// Of an identity that is about to read the store. Its first [`step`](Self::step) says so.
    /// `fallback` tells whether it has a second credential, which opens a new session any time.
    pub fn new(means: Means, fallback: bool, pace: Pace, now: Timestamp) -> Self {
        Self {
            means,
            fallback,
            pace,
            phase: Phase::at_once(Then::Read(Why::Start), now),
            current: None,
            spent: Spent { open: means == Means::Login, fallback: !fallback, ..Spent::default() },
            forced: Forced::default(),
            silent_until: Timestamp::from_unix_millis(0),
            failures: 0,
            unanswered: 0,
            wanted: false,
            prefetch: true,
            ordered: false,
            told: false,
            interrupted: None,
            doubted: false,
        }
    }

    /// Takes note of a signal; the next step acts on it.
    pub fn note(&mut self, signal: Signal, now: Timestamp) {
        let current = self.current.as_mut();
        match signal {
            Signal::Wanted => self.wanted = true,
            Signal::Changed => self.told = true,
            Signal::Accepted(generation) => {
                let current = current.filter(|c| c.known.generation == generation && !c.refused);
                if let Some(current) = current {
                    current.accepted = true;
                }
            }
            Signal::Refused(generation) => self.refuse(generation, now),
            Signal::Ordered => self.order(now),
            Signal::ClockSetBack(by) => self.set_back(by),
        }
    }

    /// Takes what came of the last action, says what to do next.
    pub fn step(&mut self, event: Event, now: Timestamp) -> Action {
        match (event, self.phase) {
            (Event::Read(found), Phase::Reading(why)) => self.read(found, why, now),
            (Event::Obtained(known), Phase::Renewing(_)) => {
                self.install(known);
                self.ordered = false;
            }
            (Event::Failed(failure), Phase::Renewing(source)) => self.fail(failure, source, now),
            (Event::Erased(_), Phase::Reading(_) | Phase::Renewing(_)) => self.log_out(now),
            (Event::Failed(_), Phase::Reading(Why::Told)) => self.resume(),
            (Event::Failed(_), Phase::Reading(why)) => self.wait_for_store(Then::Read(why), now),
            _ => {}
        }
        self.decide(now)
    }

    /// The set whose access token may be sent now.
    pub fn offered(&self, now: Timestamp) -> Option<Known> {
        let live = |c: &&Current| !c.refused && now < c.known.expires_at;
        self.current.as_ref().filter(live).map(|current| current.known)
    }

    /// The latest set there was, usable or not.
    pub fn latest(&self) -> Option<Known> {
        self.current.map(|current| current.known)
    }

    /// How urgent a renewal is.
    ///
    /// An idle session comes by its own end: far behind all tokens in use, until the end is near.
    /// Then it goes before them, because a token that expires costs a wait, and a session that ends
    /// costs a login.
    pub fn class(&self, now: Timestamp) -> Class {
        match &self.current {
            _ if self.wanted => Class::Waiting,
            Some(current) if current.refused => Class::Waiting,
            Some(current) if current.accepted => Class::Expiring(current.known.expires_at),
            Some(Current { known, .. }) => match self.session_ends(known) {
                Some(ends) => pace::keep_alive_class(known.issued_at, ends, now),
                None => Class::Idle,
            },
            None => Class::Idle,
        }
    }

    /// Where the identity stands.
    pub fn standing(&self, now: Timestamp) -> Standing {
        match self.interrupted.filter(|_| !self.doubted).unwrap_or(self.phase) {
            Phase::Reading(Why::Lost(lost)) | Phase::Lost(lost, _) => Standing::NeedsLogin(lost),
            Phase::Reading(Why::Start) => Standing::Starting,
            Phase::Waiting { then: Then::Read(Why::Start), cause: Cause::Nothing, .. } => {
                Standing::Starting
            }
            Phase::Waiting { cause: Cause::Penalty, until, .. } => Standing::Penalised(until),
            Phase::Waiting { cause: Cause::Failure, until, .. } => Standing::BackingOff(until),
            Phase::Waiting { .. }
            | Phase::Renewing(_)
            | Phase::Reading(Why::Refused(..) | Why::Told) => Standing::Renewing,
            Phase::Resting => match self.due() {
                Some(at) if self.refused() && now < at => Standing::CoolingDown(at),
                _ => Standing::Resting,
            },
        }
    }

    /// Whether an order to renew has not been carried out yet.
    pub fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// The refresh token that everything hangs on, if it is so: nothing else could open a session.
    pub fn lives_by(&self) -> Option<RefreshLife> {
        let can_open = self.means == Means::Reopens && !self.spent.open;
        let known = self.latest().filter(|_| !can_open && self.spent.fallback)?;
        Some(RefreshLife::new(known.issued_at, known.refresh?))
    }

    /// When the next renewal may be forced by a refusal; past if it may be now.
    pub fn cool_until(&self) -> Timestamp {
        self.forced.until()
    }

    fn decide(&mut self, now: Timestamp) -> Action {
        match self.phase {
            Phase::Reading(_) | Phase::Renewing(_) => Action::Continue,
            // Reading the store asks nothing of RingCentral, so it is done inside a penalty too.
            Phase::Resting | Phase::Waiting { .. } | Phase::Lost(..)
                if std::mem::take(&mut self.told) =>
            {
                self.interrupted = Some(self.phase);
                self.begin_reading(Why::Told)
            }
            Phase::Waiting { until, .. } | Phase::Lost(_, until) if now < until => {
                Action::Rest(Some(until))
            }
            Phase::Waiting { then: Then::Read(why), .. } => self.begin_reading(why),
            Phase::Lost(lost, _) => self.begin_reading(Why::Lost(lost)),
            Phase::Waiting { then: Then::Renew, .. } | Phase::Resting => self.plan(now),
        }
    }

    fn begin_reading(&mut self, why: Why) -> Action {
        self.phase = Phase::Reading(why);
        Action::Read
    }

    fn plan(&mut self, now: Timestamp) -> Action {
        self.phase = Phase::Resting;
        let Some(due) = self.due() else { return Action::Rest(None) };
        if now < due {
            return Action::Rest(Some(due));
        }
        if now < self.silent_until {
            let until = self.silent_until;
            self.phase = Phase::Waiting { until, cause: Cause::Penalty, then: Then::Renew };
            return Action::Rest(Some(until));
        }
        let Some(source) = self.source() else {
            self.lose(Lost::NothingLeft, now);
            return Action::Rest(Some(now + pace::RECHECK_WHEN_LOST));
        };
        if let Some(current) = self.current.as_mut().filter(|c| c.refused && !c.struck) {
            current.struck = true;
            self.forced.strike(now);
        }
        self.phase = Phase::Renewing(source);
        Action::Renew(source)
    }

    /// When the next renewal is due; `None` if nobody needs one.
    fn due(&self) -> Option<Timestamp> {
        let at_once = Timestamp::from_unix_millis(0);
        if self.ordered {
            return Some(at_once);
        }
        let Some(current) = &self.current else {
            return (self.wanted || self.prefetch).then_some(at_once);
        };
        let known = &current.known;
        if current.refused {
            // Once begun, only back-off delays it.
            return Some(if current.struck { known.issued_at } else { self.forced.until() });
        }
        if current.accepted || self.wanted || self.prefetch {
            return Some(renew_at(known.issued_at, known.expires_at, self.pace.spread(0)));
        }
        // An idle identity lets its access token lapse, and only keeps its session from ending.
        let ends = self.session_ends(known)?;
        Some(pace::keep_alive_at(known.issued_at, ends, self.pace.spread(0)))
    }

    /// When the session ends, if it is one that has to be refreshed.
    fn session_ends(&self, known: &Known) -> Option<Timestamp> {
        let refresh_ends = known.refresh.filter(|_| self.means != Means::Reopens)?;
        Some(refresh_ends.unwrap_or(known.issued_at + pace::USUAL_REFRESH_LIFETIME))
    }

    /// Which credential comes next, if any is left.
    fn source(&self) -> Option<Source> {
        let known = self.current.map(|current| current.known);
        let has_refresh = known.is_some_and(|known| known.refresh.is_some());
        let has_previous = known.is_some_and(|known| known.previous_refresh);
        let fallback = (!self.spent.fallback).then_some(Source::Fallback);
        if self.unanswered > pace::UNANSWERED_STEPS && fallback.is_some() {
            return fallback;
        }
        if self.means == Means::Reopens && !self.spent.open {
            return Some(Source::Open);
        }
        if has_refresh && !self.spent.refresh {
            return Some(Source::Refresh);
        }
        if has_previous && !self.spent.previous && !self.accepted() {
            return Some(Source::PreviousRefresh);
        }
        (!self.spent.open).then_some(Source::Open).or(fallback)
    }

    /// What is not presented again in a session that has just begun.
    fn spent_at_first(&self) -> Spent {
        let (open, fallback) = (self.means != Means::Reopens, !self.fallback);
        Spent { open, fallback, ..Spent::default() }
    }

    /// Every moment that was noted by the clock as it went before.
    fn set_back(&mut self, by: Duration) {
        if let Some(current) = &mut self.current {
            current.known.set_back(by);
        }
        self.forced.set_back(by);
        self.silent_until = self.silent_until - by;
        for phase in [Some(&mut self.phase), self.interrupted.as_mut()].into_iter().flatten() {
            phase.set_back(by);
        }
    }

    fn accepted(&self) -> bool {
        self.current.is_some_and(|current| current.accepted)
    }

    fn refused(&self) -> bool {
        self.current.is_some_and(|current| current.refused)
    }

    /// Inside the cool-down a token that others were let in with is kept: it is the request, then,
    /// that RingCentral dislikes, and one odd client must not take the token from all. Or another
    /// process has renewed a moment ago and the news is on its way: the store knows.
    fn refuse(&mut self, generation: Generation, now: Timestamp) {
        let cooling = now < self.forced.until();
        let Some(current) = self.current.as_mut().filter(|c| c.known.generation == generation)
        else {
            return;
        };
        current.refused |= !(cooling && current.accepted);
        if cooling {
            (self.told, self.doubted) = (true, true);
        }
    }

    fn read(&mut self, found: Option<Known>, why: Why, now: Timestamp) {
        let newest = self.current.map_or(Generation::NONE, |current| current.known.generation);
        if let Some(known) = found.filter(|known| known.generation > newest) {
            self.install(known);
            self.prefetch = why == Why::Start && now >= known.expires_at;
            // Whoever looked for a way out has found one.
            self.ordered &= matches!(why, Why::Start | Why::Told);
            return;
        }
        match why {
            Why::Start => self.phase = Phase::Resting,
            Why::Refused(source, lost) => self.give_up(source, lost, now),
            Why::Lost(lost) => self.lose(lost, now),
            Why::Told => self.resume(),
        }
    }

    fn install(&mut self, known: Known) {
        let newest = self.current.map_or(Generation::NONE, |current| current.known.generation);
        debug_assert!(known.generation > newest, "generations only rise");
        self.current = Some(Current { known, accepted: false, refused: false, struck: false });
        self.spent = self.spent_at_first();
        (self.interrupted, self.doubted) = (None, false);
        (self.failures, self.unanswered) = (0, 0);
        (self.wanted, self.prefetch) = (false, false);
        self.phase = Phase::Resting;
    }

    /// Goes on with what the look at the store has interrupted.
    fn resume(&mut self) {
        self.phase = self.interrupted.take().unwrap_or(Phase::Resting);
        // Refused meanwhile: that look is still to come.
        self.doubted &= self.told;
    }

    /// The session was ended on purpose. A credential that opens sessions any time opens the next
    /// one when somebody asks for it.
    fn log_out(&mut self, now: Timestamp) {
        (self.current, self.interrupted, self.doubted) = (None, None, false);
        (self.failures, self.unanswered) = (0, 0);
        (self.wanted, self.prefetch, self.ordered) = (false, false, false);
        self.spent = self.spent_at_first();
        match self.means {
            Means::Once | Means::Login if !self.fallback => self.lose(Lost::LoggedOut, now),
            _ => self.phase = Phase::Resting,
        }
    }

    fn fail(&mut self, failure: Failure, source: Source, now: Timestamp) {
        let lost = match failure {
            Failure::Store => return self.wait_for_store(Then::Renew, now),
            Failure::LeaseHeld => {
                let until = now + pace::LEASE_POLL;
                self.phase = Phase::Waiting { until, cause: Cause::Nothing, then: Then::Renew };
                return;
            }
            Failure::ClientRefused => Lost::ClientRefused,
            Failure::GrantRefused => Lost::GrantRefused,
            Failure::GrantNotAllowed => Lost::GrantNotAllowed,
            Failure::Penalty(_) | Failure::Unreachable | Failure::Unexpected => {
                return self.back_off(failure, now);
            }
            Failure::Unanswered => {
                self.back_off(failure, now);
                return self.change_over(source, now);
            }
        };
        match lost {
            Lost::ClientRefused => self.lose(lost, now),
            lost => self.phase = Phase::at_once(Then::Read(Why::Refused(source, lost)), now),
        }
    }

    fn back_off(&mut self, failure: Failure, now: Timestamp) {
        self.failures += 1;
        // One attempt was ordered; what follows is ours.
        self.ordered = false;
        let until = now + self.pace.back_off(failure, self.failures);
        let cause = match failure {
            Failure::Penalty(_) => {
                self.silent_until = until;
                Cause::Penalty
            }
            _ => Cause::Failure,
        };
        self.phase = Phase::Waiting { until, cause, then: Then::Renew };
    }

    /// The guide: after three repetitions without an answer, the original grant, at once.
    fn change_over(&mut self, source: Source, now: Timestamp) {
        self.unanswered += 1;
        if source != Source::Fallback && self.source() == Some(Source::Fallback) {
            self.phase = Phase::at_once(Then::Renew, now);
        }
    }

    fn wait_for_store(&mut self, then: Then, now: Timestamp) {
        self.back_off(Failure::Store, now);
        if let Phase::Waiting { then: planned, .. } = &mut self.phase {
            *planned = then;
        }
    }

    fn give_up(&mut self, source: Source, lost: Lost, now: Timestamp) {
        match source {
            Source::Open => self.spent.open = true,
            Source::Refresh => self.spent.refresh = true,
            Source::PreviousRefresh => self.spent.previous = true,
            Source::Fallback => self.spent.fallback = true,
        }
        match self.source() {
            Some(_) => self.phase = Phase::at_once(Then::Renew, now),
            None => self.lose(lost, now),
        }
    }

    fn lose(&mut self, lost: Lost, now: Timestamp) {
        self.phase = Phase::Lost(lost, now + pace::RECHECK_WHEN_LOST);
        self.ordered = false;
    }

    /// An order outdoes back-off and cool-down, and has what was refused for good tried once more:
    /// whoever gives it may have cured that. It does not outdo a penalty, which every request inside
    /// it would start anew.
    fn order(&mut self, now: Timestamp) {
        let phase = match self.interrupted.unwrap_or(self.phase) {
            Phase::Waiting { cause: Cause::Penalty, until, .. } if now < until => return,
            Phase::Waiting { cause: Cause::Failure, then, .. } => Phase::at_once(then, now),
            Phase::Lost(lost, _) => Phase::at_once(self.way_out(lost), now),
            phase => phase,
        };
        *self.interrupted.as_mut().unwrap_or(&mut self.phase) = phase;
        self.ordered = true;
    }

    /// A refresh token that was refused stays refused, and so does a code; where there is nothing
    /// else, the store may have a new session.
    fn way_out(&mut self, lost: Lost) -> Then {
        let at_first = self.spent_at_first();
        self.spent.open &= at_first.open;
        self.spent.fallback &= at_first.fallback;
        self.spent.refresh &= lost != Lost::GrantNotAllowed;
        if self.source().is_some() { Then::Renew } else { Then::Read(Why::Lost(lost)) }
    }
}

impl Phase {
    const fn at_once(then: Then, now: Timestamp) -> Self {
        Self::Waiting { until: now, cause: Cause::Nothing, then }
    }

    fn set_back(&mut self, by: Duration) {
        if let Self::Waiting { until, .. } | Self::Lost(_, until) = self {
            *until = *until - by;
        }
    }
}

#[cfg(test)]
mod tests;
