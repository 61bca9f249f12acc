//! Notices what stands still, at next to no cost while it moves.
//!
//! Whoever moves says how far it has come each time it has to wait; that is compared a few times in
//! the time allowed. Nothing has to be set back when a piece passes, and no clock is read for it.

use std::task::{Context, Poll};
use std::time::Duration;

use super::{Deadline, Timers};

/// How often one looks within the time allowed: it comes late by no more than one look.
pub const LOOKS: u8 = 4;

/// What counts as standing still: fewer than `bytes` in `timeout`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The time allowed.
    pub timeout: Duration,
    /// What has to pass within it. 1 is content with any progress.
    pub bytes: u64,
}

/// Watches one thing that moves.
#[derive(Debug, Default)]
pub struct Watch {
    deadline: Option<Deadline>,
    /// Looks at which it had not moved enough; the first one only remembers where it was.
    looks: u8,
    seen: u64,
}

impl Watch {
    /// Ready when it has moved too slowly for the whole time allowed, never earlier. Wants to be
    /// called whenever the thing that has come so far has to wait.
    pub fn poll(
        &mut self,
        timers: &Timers,
        pace: Pace,
        progress: u64,
        cx: &Context<'_>,
    ) -> Poll<()> {
        let look = pace.timeout / u32::from(LOOKS);
        let deadline = self.deadline.get_or_insert_with(|| timers.rough_deadline(look));
        while deadline.poll(cx).is_ready() {
            if self.looks == 0 || progress.saturating_sub(self.seen) >= pace.bytes {
                (self.looks, self.seen) = (1, progress);
            } else if self.looks == LOOKS {
                return Poll::Ready(());
            } else {
                self.looks += 1;
            }
            deadline.reset(look);
        }
        Poll::Pending
    }

    /// It has nothing to wait for at the moment.
    pub fn rest(&mut self) {
        if self.deadline.is_some() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::super::TICK;
    use super::super::tests::{settle, with_timers};
    use super::*;

    const SLOW: Pace = Pace { timeout: Duration::from_secs(60), bytes: 100 };

    async fn is_late(watch: &mut Watch, timers: &Timers, progress: u64) -> bool {
        poll_fn(|cx| Poll::Ready(watch.poll(timers, SLOW, progress, cx).is_ready())).await
    }

    /// How many ticks pass until it is noticed, if `progress` tells how far it is at each.
    async fn ticks(timers: &Timers, clock: &crate::clock::Clock, moves: u64) -> Option<u32> {
        let mut watch = Watch::default();
        for tick in 0..1000 {
            if is_late(&mut watch, timers, u64::from(tick) * moves).await {
                return Some(tick);
            }
            settle().await;
            clock.advance(TICK);
            settle().await;
        }
        None
    }

    #[test]
    fn what_stands_still_is_noticed_after_its_time_and_a_quarter_at_most() {
        with_timers(async |timers, clock| {
            let late = TICK * ticks(&timers, &clock, 0).await.expect("it stands still");
            assert!(late >= SLOW.timeout && late <= SLOW.timeout * 5 / 4 + TICK, "{late:?}");
        });
    }

    #[test]
    fn less_than_the_least_in_the_time_is_standing_still_and_more_is_not() {
        with_timers(async |timers, clock| {
            // 120 ticks of a unit each are more than 100, of nothing are less.
            assert_eq!(ticks(&timers, &clock, 1).await, None);
            assert!(ticks(&timers, &clock, 0).await.is_some());
        });
    }

    #[test]
    fn what_rests_is_not_late_and_waits_for_nothing() {
        with_timers(async |timers, clock| {
            let mut watch = Watch::default();
            for _ in 0..1000 {
                assert!(!is_late(&mut watch, &timers, 0).await);
                settle().await;
                clock.advance(TICK);
                settle().await;
                watch.rest();
            }
            assert!(timers.0.waiting.borrow().is_empty());
        });
    }
}
