//! What RingCentral's limits do to requests.

use std::sync::atomic::{AtomicU64, Ordering};

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A penalty runs.
    Penalty,
    /// It would not have had its turn in time.
    Turn,
    /// Too many wait already.
    Queue,
}

impl Hold {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Penalty, Self::Turn, Self::Queue];

    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Penalty => "penalty",
            Self::Turn => "max_wait",
            Self::Queue => "max_queue",
        }
    }
}

/// Rate-limit groups that are told apart; RingCentral has half a dozen.
pub const MOST_GROUPS: usize = 32;

/// A remaining count that was seen longer ago says nothing.
const FRESH_SECS: u64 = 60;

/// The low bits of an entry are the count, the others when it was seen.
const COUNT_BITS: u32 = 24;

/// What rate limits do to one identity's requests.
#[derive(Debug, Default)]
pub struct Throttling {
    penalties: AtomicU64,
    held: [AtomicU64; Hold::ALL.len()],
    waiting: AtomicU64,
    remaining: [AtomicU64; MOST_GROUPS],
    /// The low bits are the limit, the others the window's seconds; zero if it was never told.
    limits: [AtomicU64; MOST_GROUPS],
}

impl Throttling {
    /// RingCentral answered 429.
    pub fn begin(&self) {
        self.penalties.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it did.
    pub fn penalties(&self) -> u64 {
        self.penalties.load(Ordering::Relaxed)
    }

    /// A request was not sent.
    pub fn hold(&self, why: Hold) {
        self.held[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were not.
    pub fn held(&self, why: Hold) -> u64 {
        self.held[why as usize].load(Ordering::Relaxed)
    }

    /// One more or one fewer waits for its turn.
    pub fn wait(&self, begins: bool) {
        if begins {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// An answer said how many requests are left in a group, the one with this place.
    pub fn remains(&self, group: usize, count: u32, unix_secs: u64) {
        if let Some(entry) = self.remaining.get(group) {
            let count = u64::from(count).min((1 << COUNT_BITS) - 1);
            entry.store((unix_secs << COUNT_BITS) | count, Ordering::Relaxed);
        }
    }

    /// An answer said how many requests a group may have in how many seconds.
    pub fn is_limited(&self, group: usize, limit: u32, window_secs: u64) {
        if let Some(entry) = self.limits.get(group) {
            let limit = u64::from(limit).min((1 << COUNT_BITS) - 1);
            entry.store((window_secs << COUNT_BITS) | limit, Ordering::Relaxed);
        }
    }

    /// How many, and in how many seconds, as the last answer that told it said.
    pub fn limit(&self, group: usize) -> Option<(u64, u64)> {
        let entry = self.limits.get(group)?.load(Ordering::Relaxed);
        (entry != 0).then_some((entry & ((1 << COUNT_BITS) - 1), entry >> COUNT_BITS))
    }

    /// What the last answer within a minute said.
    pub fn remaining(&self, group: usize, unix_secs: u64) -> Option<u64> {
        let entry = self.remaining.get(group)?.load(Ordering::Relaxed);
        let (seen, count) = (entry >> COUNT_BITS, entry & ((1 << COUNT_BITS) - 1));
        (seen.abs_diff(unix_secs) <= FRESH_SECS).then_some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_remains_is_forgotten_after_a_minute_and_outside_the_bound() {
        let figures = Throttling::default();
        assert_eq!(figures.remaining(3, 1_700_000_000), None, "never seen");
        figures.remains(3, 7, 1_700_000_000);
        figures.remains(MOST_GROUPS, 7, 1_700_000_000);
        assert_eq!(figures.remaining(3, 1_700_000_060), Some(7));
        assert_eq!(figures.remaining(3, 1_700_000_061), None);
        assert_eq!(figures.remaining(2, 1_700_000_000), None);
        assert_eq!(figures.remaining(MOST_GROUPS, 1_700_000_000), None);
    }

    #[test]
    fn a_limit_is_known_once_it_was_told() {
        let figures = Throttling::default();
        assert_eq!((figures.limit(3), figures.limit(MOST_GROUPS)), (None, None));
        figures.is_limited(3, 10, 60);
        figures.is_limited(MOST_GROUPS, 10, 60);
        assert_eq!((figures.limit(3), figures.limit(2)), (Some((10, 60)), None));
        assert_eq!(figures.limit(MOST_GROUPS), None);
    }

    #[test]
    fn each_hold_is_counted_apart() {
        let figures = Throttling::default();
        for (times, why) in Hold::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| figures.hold(why));
        }
        assert_eq!(Hold::ALL.map(|why| figures.held(why)), [0, 1, 2]);
        assert_eq!(Hold::ALL.map(Hold::as_str), ["penalty", "max_wait", "max_queue"]);
    }
}
