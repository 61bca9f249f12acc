//! Holds RingCentral's line: after a 429 nothing of that identity and group is sent until the penalty
//! is over, and where requests are paced, nothing is sent that would meet one.
//!
//! All worker threads share one [`Board`], for the penalty holds whoever met it; a [`Throttle`] is how
//! one configuration uses it. A request that
//! nothing is held against takes no lock: it finds its operation, and looks at one number that tells
//! until when anything of its identity is held. What is remembered of an identity is pure and stands
//! in a [`Book`](book::Book), behind a lock that few identities share and no wait ever holds.
//! Where requests are paced, each of them looks into the book.

pub mod answer;
pub mod board;
pub mod book;
pub mod groups;
pub mod operations;
pub mod penalties;
pub mod queue;
pub mod share;
mod sharing;
mod turn;
pub mod window;

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::clock::Timestamp;
use crate::metrics::Hold;
use crate::settings::{PacingSettings, ThrottleSettings};
use crate::token::names::IdentityNumber;
use board::{Board, Waiter, retry_after};
use operations::Operation;
use queue::Caller;
pub use sharing::SharingFigures;
pub use turn::{Turn, Waiting};

/// The limits of all identities, and what is done about them.
#[derive(Debug)]
pub struct Throttle {
    board: Arc<Board>,
    pacing: Option<PacingSettings>,
}

impl Deref for Throttle {
    type Target = Arc<Board>;

    fn deref(&self) -> &Arc<Board> {
        &self.board
    }
}

/// A request, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// What it asks for.
    pub operation: Operation,
    /// Whose it is.
    pub caller: Caller,
    /// How long it may wait for its turn.
    pub max_wait: Duration,
}

/// A request that is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Why.
    pub why: Hold,
    /// The group, if the operation is in one.
    pub group: Option<String>,
    /// When it may be otherwise.
    pub retry_after: Duration,
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Verdict {
    /// It may be sent.
    Send(Turn),
    /// It has a place in the queue.
    Wait(Waiting),
}

impl Throttle {
    /// Does about what the board says what `settings` say.
    pub fn new(settings: &ThrottleSettings, board: Arc<Board>) -> Self {
        let pacing = settings.pacing.clone();
        if pacing.is_some() {
            board.pace();
        }
        Self { board, pacing }
    }

    /// How long a request waits for its turn unless it says otherwise; `None` if none ever waits.
    pub fn max_wait(&self) -> Option<Duration> {
        self.pacing.as_ref().map(|pacing| pacing.max_wait)
    }

    /// Whether nothing is held against anything of this identity. Where requests are paced, each of
    /// them is looked at.
    #[inline]
    pub fn is_quiet(&self, identity: IdentityNumber, now: Timestamp) -> bool {
        self.pacing.is_none()
            && self.ward(identity).until.load(Ordering::Acquire) <= now.unix_millis()
    }

    /// Whether the request may be sent now; `None` if it may wait for that.
    pub fn at_once(
        &self,
        identity: IdentityNumber,
        want: &Want,
        now: Timestamp,
    ) -> Result<Option<Turn>, Held> {
        if self.pacing.is_some() {
            let groups = self.groups_of(want.operation);
            let entered = self.books(identity).entry(identity).or_default().enter(
                &groups,
                self.pool(now),
                now,
            );
            return Ok(entered.ok().map(|()| Turn::new(&self.board, identity, groups[0])));
        }
        if self.is_quiet(identity, now) {
            return Ok(Some(Turn::free()));
        }
        self.unless_held(identity, want.operation, now).map(|()| Some(Turn::free()))
    }

    /// Whether the request may be sent, waits for that until `deadline`, or is not sent at all.
    pub fn before(
        &self,
        identity: IdentityNumber,
        want: &Want,
        deadline: Timestamp,
        now: Timestamp,
    ) -> Result<Verdict, Held> {
        let Some(pacing) = &self.pacing else {
            let turn = self.at_once(identity, want, now)?;
            return Ok(Verdict::Send(turn.expect("without pacing nobody waits")));
        };
        let groups = self.groups_of(want.operation);
        let mut books = self.books(identity);
        let book = books.entry(identity).or_default();
        let Err(obstacle) = book.enter(&groups, self.pool(now), now) else {
            drop(books);
            return Ok(Verdict::Send(Turn::new(&self.board, identity, groups[0])));
        };
        let why = if obstacle.earliest.is_some_and(|earliest| earliest > deadline) {
            Some(if obstacle.penalty.is_some() { Hold::Penalty } else { Hold::Turn })
        } else if self.waiting.load(Ordering::Relaxed) >= pacing.max_queue {
            Some(Hold::Queue)
        } else {
            None
        };
        if let Some(why) = why {
            return Err(self.held(identity, why, groups[0], retry_after(&obstacle, now)));
        }
        let (number, (turn, given)) =
            (self.tickets.fetch_add(1, Ordering::Relaxed), oneshot::channel());
        book.wait(groups[0], want.caller, number, Waiter { turn, deadline });
        drop(books);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.meter(identity).wait(true);
        self.changed.notify_one();
        Ok(Verdict::Wait(Waiting::new(&self.board, identity, groups[0], number, given)))
    }
}
