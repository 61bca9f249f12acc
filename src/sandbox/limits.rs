//! Sliding windows and the penalty that every request inside it starts again.
//!
//! Pure: no clock, no lock. One [`Windows`] serves API groups and the token budget alike; the key
//! says whose window it is.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use crate::clock::Timestamp;

/// One limit: so many requests per window, and what follows when it is passed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit {
    pub(super) requests: u32,
    pub(super) window: Duration,
    pub(super) penalty: Duration,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It may pass, and so many more may follow within the window.
    Pass { remaining: u32 },
    /// It is refused, and so is everything until this much time has passed in silence.
    Refused { retry_after: Duration },
}

impl Verdict {
    pub(super) const fn is_refusal(self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

/// The windows of all keys.
#[derive(Debug)]
pub(super) struct Windows<K>(HashMap<K, Window>);

#[derive(Debug, Default)]
struct Window {
    passed: VecDeque<Timestamp>,
    penalty_until: Option<Timestamp>,
}

impl<K: Eq + Hash> Windows<K> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Counts one request of `key` at `now`.
    pub(super) fn count(&mut self, key: K, limit: Limit, now: Timestamp) -> Verdict {
        self.0.entry(key).or_default().count(limit, now)
    }

    /// Forgets every window and penalty.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Window {
    fn count(&mut self, limit: Limit, now: Timestamp) -> Verdict {
        let in_penalty = self.penalty_until.is_some_and(|until| now < until);
        while self.passed.front().is_some_and(|&at| at + limit.window <= now) {
            self.passed.pop_front();
        }
        if in_penalty || self.passed.len() >= limit.requests as usize {
            self.penalty_until = Some(now + limit.penalty);
            return Verdict::Refused { retry_after: limit.penalty };
        }
        self.passed.push_back(now);
        let used = u32::try_from(self.passed.len()).unwrap_or(u32::MAX);
        Verdict::Pass { remaining: limit.requests - used }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAVY: Limit =
        Limit { requests: 10, window: Duration::from_secs(60), penalty: Duration::from_secs(60) };

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_unix_millis(1_700_000_000_000) + Duration::from_secs(secs)
    }

    #[test]
    fn ten_pass_and_the_eleventh_waits_a_minute() {
        let mut windows = Windows::new();
        for n in 0..10 {
            let verdict = windows.count("a", HEAVY, at(n));
            assert_eq!(verdict, Verdict::Pass { remaining: 9 - u32::try_from(n).unwrap() });
        }
        let refused = Verdict::Refused { retry_after: Duration::from_secs(60) };
        assert_eq!(windows.count("a", HEAVY, at(10)), refused);
        assert_eq!(windows.count("b", HEAVY, at(10)), Verdict::Pass { remaining: 9 });
    }

    #[test]
    fn every_request_inside_the_penalty_starts_it_again() {
        let mut windows = Windows::new();
        for _ in 0..11 {
            windows.count((), HEAVY, at(0));
        }
        for n in 1..=20 {
            let verdict = windows.count((), HEAVY, at(n * 59));
            assert!(matches!(verdict, Verdict::Refused { .. }), "after {} s: {verdict:?}", n * 59);
        }
        assert_eq!(windows.count((), HEAVY, at(20 * 59 + 60)), Verdict::Pass { remaining: 9 });
    }

    proptest! {
        #[test]
        fn no_window_ever_passes_more_than_its_limit(
            gaps in prop::collection::vec(0u64..40, 1..300),
            requests in 1u32..12,
        ) {
            let limit = Limit { requests, ..HEAVY };
            let (mut windows, mut now, mut passed) = (Windows::new(), 0, Vec::new());
            for gap in gaps {
                now += gap;
                if matches!(windows.count((), limit, at(now)), Verdict::Pass { .. }) {
                    passed.push(now);
                }
            }
            for &start in &passed {
                let inside = passed.iter().filter(|&&t| t >= start && t < start + 60).count();
                prop_assert!(inside <= requests as usize, "{inside} passed within 60 s");
            }
        }
    }
}
