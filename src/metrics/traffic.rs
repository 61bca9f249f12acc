//! What the worker threads count: a [`Tally`] each, and [`Traffic`], which is all of them.
//!
//! A tally is written by one thread and read by whoever asks, so counting is a load, an addition and
//! a store, neither locked nor shared with another core. Labels are bounded when the process starts:
//! each configured identity has a row, of those added later the first hundred, the rest share one.

mod sums;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::histogram::Histogram;
pub use sums::{Totals, Traffic};

/// Added identities with series of their own.
pub const MOST_ADDED: usize = 100;

/// A number that one thread changes. Gauges go down by [`Count::sub`].
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// So many more. Only the owning thread may call it.
    pub fn add(&self, by: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
    }

    /// So many less. Only the owning thread may call it.
    pub fn sub(&self, by: u64) {
        self.add(by.wrapping_neg());
    }

    /// As it is now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What kind of request: all that RFC 9110 §9.2.1 calls safe, or one that may change something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodClass {
    /// GET, HEAD, OPTIONS.
    Read,
    /// Any other.
    Write,
}

impl MethodClass {
    /// Each of them.
    pub const ALL: [Self; 2] = [Self::Read, Self::Write];

    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// What kind of answer. 401 and 429 stand apart from the other 4xx: this proxy is about them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusClass {
    /// 101, mostly: a WebSocket.
    Informational,
    /// 2xx.
    Success,
    /// 3xx.
    Redirection,
    /// 401.
    Unauthorized,
    /// 429.
    Throttled,
    /// Any other 4xx.
    ClientError,
    /// 5xx.
    ServerError,
}

impl StatusClass {
    /// Each of them.
    pub const ALL: [Self; 7] = [
        Self::Informational,
        Self::Success,
        Self::Redirection,
        Self::Unauthorized,
        Self::Throttled,
        Self::ClientError,
        Self::ServerError,
    ];

    /// Of a status code.
    pub const fn of(status: u16) -> Self {
        match status {
            401 => Self::Unauthorized,
            429 => Self::Throttled,
            ..200 => Self::Informational,
            200..300 => Self::Success,
            300..400 => Self::Redirection,
            400..500 => Self::ClientError,
            500.. => Self::ServerError,
        }
    }

    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Informational => "1xx",
            Self::Success => "2xx",
            Self::Redirection => "3xx",
            Self::Unauthorized => "401",
            Self::Throttled => "429",
            Self::ClientError => "4xx",
            Self::ServerError => "5xx",
        }
    }
}

/// What came of a 401 of RingCentral's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The request was sent once more, with a newer token.
    Replayed,
    /// Not: its content was too long to be kept.
    TooLong,
    /// Not: there was no memory left to keep its content.
    MemoryFull,
    /// Not: its client had broken off.
    ClientBroke,
    /// Not: no new token cures such an error.
    NotCurable,
    /// Not: no newer token could be had.
    NoNewerToken,
    /// Not: a dead connection had made a second send necessary already.
    AlreadyResent,
}

impl Replay {
    /// Each of them.
    pub const ALL: [Self; 7] = [
        Self::Replayed,
        Self::TooLong,
        Self::MemoryFull,
        Self::ClientBroke,
        Self::NotCurable,
        Self::NoNewerToken,
        Self::AlreadyResent,
    ];

    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Replayed => "replayed",
            Self::TooLong => "content_too_long",
            Self::MemoryFull => "memory_full",
            Self::ClientBroke => "client_broke",
            Self::NotCurable => "not_curable",
            Self::NoNewerToken => "no_newer_token",
            Self::AlreadyResent => "already_resent",
        }
    }
}

/// Requests by method and status.
pub type Cells = [[u64; StatusClass::ALL.len()]; MethodClass::ALL.len()];

/// The requests of one identity. Aligned, so that no other thread writes to its cache lines.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Row([[Count; StatusClass::ALL.len()]; MethodClass::ALL.len()]);

impl Row {
    fn read(&self) -> Cells {
        std::array::from_fn(|method| std::array::from_fn(|status| self.0[method][status].get()))
    }
}

/// Refusals of one code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// How many.
    pub count: u64,
    /// What the last one said. It holds nothing that a client has sent.
    pub last: String,
}

/// What one worker thread has counted. Only that thread may change it.
#[derive(Debug)]
#[repr(align(128))]
pub struct Tally {
    /// Nobody's, each identity's that has a row, and all others'.
    rows: Box<[Row]>,
    /// The time spent waiting for RingCentral, per request.
    pub upstream: Histogram,
    /// The rest of the time to an answer's head.
    pub added: Histogram,
    /// Requests whose answers have not been written to their end.
    pub in_progress: Count,
    /// Requests whose clients were gone before an answer began.
    pub abandoned: Count,
    /// Connections of clients, ever.
    pub accepted: Count,
    /// WebSockets now.
    pub websockets: Count,
    /// Connections to RingCentral that were opened, ever.
    pub opened: Count,
    /// Those that are open.
    pub open: Count,
    /// Those that are kept for the next request.
    pub idle: Count,
    /// Requests that were sent again because a kept connection had died.
    pub resent: Count,
    replays: [Count; Replay::ALL.len()],
    refusals: Mutex<BTreeMap<&'static str, Refusals>>,
}

impl Tally {
    /// With a row for each of `named` identities.
    fn new(named: usize) -> Self {
        Self {
            rows: (0..named + 2).map(|_| Row::default()).collect(),
            upstream: Histogram::default(),
            added: Histogram::default(),
            in_progress: Count::default(),
            abandoned: Count::default(),
            accepted: Count::default(),
            websockets: Count::default(),
            opened: Count::default(),
            open: Count::default(),
            idle: Count::default(),
            resent: Count::default(),
            replays: Default::default(),
            refusals: Mutex::default(),
        }
    }

    /// An answer to a request of the identity with this index, if it was anybody's.
    pub fn answered(&self, identity: Option<usize>, method: MethodClass, status: u16) {
        let row = identity.map_or(0, |index| (index + 1).min(self.rows.len() - 1));
        self.rows[row].0[method as usize][StatusClass::of(status) as usize].add(1);
    }

    /// What came of a 401.
    pub fn replay(&self, outcome: Replay) {
        self.replays[outcome as usize].add(1);
    }

    /// The proxy answered by an error of its own. `why` must hold nothing that a client has sent.
    pub fn refused(&self, code: &'static str, why: String) {
        // Only a reader ever competes for it.
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let refusals = refusals.entry(code).or_default();
        refusals.count += 1;
        refusals.last = why;
    }
}

/// Adds cell by cell.
pub fn plus(sum: &mut Cells, more: &Cells) {
    for (sum, more) in sum.iter_mut().flatten().zip(more.iter().flatten()) {
        *sum += more;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_count_apart_and_are_added_up() {
        let traffic = Traffic::new(2, 1);
        for (thread, status) in [(0, 200), (1, 200), (1, 401), (1, 429), (0, 503)] {
            traffic.tally(thread).answered(Some(0), MethodClass::Write, status);
        }
        traffic.tally(0).answered(None, MethodClass::Read, 421);
        traffic.tally(0).open.add(2);
        traffic.tally(1).open.add(3);
        traffic.tally(1).open.sub(1);
        traffic.tally(1).replay(Replay::Replayed);
        let totals = traffic.totals();
        assert_eq!(totals.rows[0], [[0, 0, 0, 0, 0, 1, 0], [0; 7]]);
        assert_eq!(totals.rows[1], [[0; 7], [0, 2, 0, 1, 1, 0, 1]]);
        assert_eq!(totals.statuses(), [0, 2, 0, 1, 1, 1, 1]);
        assert_eq!((totals.open, totals.replays), (4, [1, 0, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn who_has_no_row_shares_the_last() {
        let traffic = Traffic::new(1, 3);
        assert_eq!(traffic.named(), 103);
        for index in [102, 103, 9999] {
            traffic.tally(0).answered(Some(index), MethodClass::Read, 200);
        }
        let rows = traffic.totals().rows;
        assert_eq!((rows.len(), rows[103][0][1], rows[104][0][1]), (105, 1, 2));
    }

    #[test]
    fn refusals_are_kept_by_code_with_the_last_words() {
        let traffic = Traffic::new(2, 0);
        for (thread, code, why) in
            [(0, "RBR-302", "a"), (1, "RBR-302", "b"), (0, "RBR-106", "c"), (0, "RBR-302", "d")]
        {
            traffic.tally(thread).refused(code, why.to_owned());
        }
        let refusals = traffic.totals().refusals;
        assert_eq!(refusals["RBR-302"], Refusals { count: 3, last: "b".into() });
        assert_eq!(refusals["RBR-106"], Refusals { count: 1, last: "c".into() });
    }

    #[test]
    fn no_two_threads_share_a_cache_line() {
        assert_eq!((align_of::<Tally>(), align_of::<Row>(), size_of::<Row>()), (128, 128, 128));
    }

    #[test]
    fn labels_are_distinct() {
        let mut labels = Replay::ALL.map(Replay::as_str).to_vec();
        labels.extend(StatusClass::ALL.map(StatusClass::as_str));
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), 14);
        for (status, class) in
            [(101, "1xx"), (204, "2xx"), (304, "3xx"), (404, "4xx"), (504, "5xx")]
        {
            assert_eq!(StatusClass::of(status).as_str(), class);
        }
    }
}
