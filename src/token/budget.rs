//! Token requests of one application: at most so many in any 60 seconds, and who goes next. PURE.
//!
//! A request occupies the budget from its [`Permit`] until 60 s after its *end*: the server counts
//! by arrival, which lies somewhere in between, so whatever the network does to the distance of two
//! requests, the server never sees more than allowed. At five a minute, and a second or less for each
//! request, that is enough for 295 identities in use with tokens of an hour: `simulation` has what
//! becomes of more, and of idle sessions beside them. Only [`Budget::take`] mints permits.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::clock::Timestamp;

/// The server's window.
pub const WINDOW: Duration = Duration::from_secs(60);

/// A clock that goes back by less is being corrected in a time daemon's ordinary work.
pub(super) const SET_BACK: Duration = Duration::from_secs(1);

/// No penalty lasts longer; one that seems to is seen through a clock that was set back.
const LONGEST_PENALTY: Duration = Duration::from_secs(3600);

/// Who goes first: lesser goes earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Requests are waiting for this token.
    Waiting,
    /// A token in use ends then, or a session that nobody uses has to be refreshed by then.
    Expiring(Timestamp),
    /// Nobody has asked yet.
    Idle,
}

/// A place in the queue.
#[derive(Debug, PartialEq, Eq)]
pub struct Ticket {
    number: u64,
    class: Class,
}

/// The right to send one token request.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "settle it, or the budget stays occupied for ever"]
pub struct Permit(());

/// Whether it is a ticket's turn.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn {
    /// Yes: its place in the queue is given up.
    Go(Permit),
    /// Not before then.
    At(Timestamp),
    /// Not before another permit is settled or the queue has moved.
    Behind,
}

/// The accounts of one application.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    /// When the requests of the last window ended, oldest first.
    ended: VecDeque<Timestamp>,
    in_flight: usize,
    silent_until: Option<Timestamp>,
    /// When the accounts were last looked at.
    seen: Timestamp,
    queue: BTreeSet<(Class, u64)>,
    tickets: u64,
}

impl Budget {
    /// `limit` requests in any [`WINDOW`].
    pub const fn new(limit: usize) -> Self {
        Self {
            limit,
            ended: VecDeque::new(),
            in_flight: 0,
            silent_until: None,
            seen: Timestamp::from_unix_millis(0),
            queue: BTreeSet::new(),
            tickets: 0,
        }
    }

    /// Joins the queue, behind those of its class.
    pub fn join(&mut self, class: Class) -> Ticket {
        self.tickets += 1;
        self.queue.insert((class, self.tickets));
        Ticket { number: self.tickets, class }
    }

    /// Moves a ticket to another class; returns whether that changed anything.
    pub fn reclass(&mut self, ticket: &mut Ticket, class: Class) -> bool {
        if ticket.class == class {
            return false;
        }
        self.leave(ticket);
        ticket.class = class;
        self.queue.insert((class, ticket.number))
    }

    /// Gives a place up.
    pub fn leave(&mut self, ticket: &Ticket) {
        self.queue.remove(&(ticket.class, ticket.number));
    }

    /// A permit, if it is this ticket's turn.
    pub fn take(&mut self, ticket: &Ticket, now: Timestamp) -> Turn {
        match self.blocked(ticket, now) {
            Some(turn) => turn,
            None => Turn::Go(self.grant(ticket)),
        }
    }

    /// What keeps this ticket from its turn, if anything does.
    pub fn blocked(&mut self, ticket: &Ticket, now: Timestamp) -> Option<Turn> {
        self.forget(now);
        if self.queue.first() != Some(&(ticket.class, ticket.number)) {
            return Some(Turn::Behind);
        }
        if let Some(at) = self.opens_at(now) {
            return Some(Turn::At(at));
        }
        (self.in_flight == self.limit).then_some(Turn::Behind)
    }

    /// A permit for a ticket that was not [`blocked`](Self::blocked) a moment ago.
    pub fn grant(&mut self, ticket: &Ticket) -> Permit {
        self.leave(ticket);
        self.in_flight += 1;
        Permit(())
    }

    /// When the silence or a full window is over; `None` if neither is in the way.
    pub fn opens_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.forget(now);
        let full = self.in_flight + self.ended.len() >= self.limit;
        let oldest = self.ended.front().filter(|_| full);
        self.silent_until.or(oldest.map(|ended| *ended + WINDOW))
    }

    /// The request was sent, and ended at `now`, answered or not.
    pub fn settle_sent(&mut self, permit: Permit, now: Timestamp) {
        self.settle_unsent(permit);
        self.ended.push_back(now);
    }

    /// No request was sent.
    #[allow(clippy::needless_pass_by_value, reason = "a permit is good for one settlement")]
    pub fn settle_unsent(&mut self, _permit: Permit) {
        self.in_flight -= 1;
    }

    /// Nothing is sent until then: the server asked for silence, and every request inside it would
    /// start the silence anew.
    pub fn silence(&mut self, until: Timestamp) {
        self.silent_until = self.silent_until.max(Some(until));
    }

    /// Requests left in the current window.
    pub fn left(&mut self, now: Timestamp) -> usize {
        self.forget(now);
        match self.silent_until {
            Some(_) => 0,
            None => self.limit.saturating_sub(self.in_flight + self.ended.len()),
        }
    }

    /// Drops what is over. A moment that lies ahead was noted before the clock was set back.
    fn forget(&mut self, now: Timestamp) {
        for ended in &mut self.ended {
            *ended = (*ended).min(now);
        }
        while self.ended.front().is_some_and(|ended| *ended + WINDOW <= now) {
            self.ended.pop_front();
        }
        let back = now.until(self.seen);
        if back >= SET_BACK {
            self.silent_until = self.silent_until.map(|until| until - back);
        }
        self.seen = if back >= SET_BACK { now } else { self.seen.max(now) };
        let ahead = self.silent_until.filter(|until| now < *until);
        self.silent_until = ahead.map(|until| until.min(now + LONGEST_PENALTY));
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
