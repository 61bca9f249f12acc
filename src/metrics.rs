//! Figures for Prometheus: counters, counted where things happen, and the text they are shown in.
//!
//! A leaf of plain atomics: counting costs one addition and no lock. Whoever writes a [`Page`] sees to
//! it that labels are bounded; nothing here takes a path, a query or a client's word for a label.

pub mod histogram;
pub mod limits;
pub mod page;
pub mod process;
pub mod throttling;
pub mod traffic;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub use page::{Family, Kind, Page};
pub use throttling::{Hold, MOST_GROUPS, Throttling};

/// What came of a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new token set.
    Renewed,
    /// Another process had renewed meanwhile.
    Adopted,
    /// The credential, the application or the grant was refused.
    Refused,
    /// 429 or 503: silence was asked for.
    Penalty,
    /// 408, 500, a timeout, a lost answer.
    Unanswered,
    /// Nothing was sent.
    Unreachable,
    /// The store failed, and nothing was requested or nothing could be kept.
    Store,
    /// Anything else.
    Unexpected,
}

impl Outcome {
    /// Each of them.
    pub const ALL: [Self; 8] = [
        Self::Renewed,
        Self::Adopted,
        Self::Refused,
        Self::Penalty,
        Self::Unanswered,
        Self::Unreachable,
        Self::Store,
        Self::Unexpected,
    ];

    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Renewed => "renewed",
            Self::Adopted => "adopted",
            Self::Refused => "refused",
            Self::Penalty => "penalty",
            Self::Unanswered => "unanswered",
            Self::Unreachable => "unreachable",
            Self::Store => "store",
            Self::Unexpected => "unexpected",
        }
    }
}

/// Renewals of one identity, by what came of them.
#[derive(Debug, Default)]
pub struct Renewals([AtomicU64; Outcome::ALL.len()]);

impl Renewals {
    /// One more.
    pub fn count(&self, outcome: Outcome) {
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were since the start.
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.0[outcome as usize].load(Ordering::Relaxed)
    }
}

/// How often something was read anew, and whether what is in use is what there is to read.
#[derive(Debug, Default)]
pub struct Reloads {
    loaded: AtomicU64,
    refused: AtomicU64,
    is_stale: AtomicBool,
}

impl Reloads {
    /// It was read, and is in use.
    pub fn loaded(&self) {
        self.loaded.fetch_add(1, Ordering::Relaxed);
        self.is_stale.store(false, Ordering::Relaxed);
    }

    /// It could not be used, so what was there before still is.
    pub fn refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.is_stale.store(true, Ordering::Relaxed);
    }

    /// How often it was read, and how often in vain.
    pub fn counts(&self) -> (u64, u64) {
        (self.loaded.load(Ordering::Relaxed), self.refused.load(Ordering::Relaxed))
    }

    /// Whether something older than what there is to read is in use.
    pub fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_is_counted_apart() {
        let renewals = Renewals::default();
        for (times, outcome) in Outcome::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| renewals.count(outcome));
        }
        let counts = Outcome::ALL.map(|outcome| renewals.get(outcome));
        assert_eq!(counts, [0, 1, 2, 3, 4, 5, 6, 7]);
        let mut labels = Outcome::ALL.map(Outcome::as_str).to_vec();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), 8);
    }
}
