//! How many requests of one identity and group may be sent now. PURE.
//!
//! RingCentral's window slides: it counts what arrived within the last minute. When a request arrives
//! there is not known here, only when it was sent and when its answer was read, so a place is taken
//! from before the send until a window *after the answer*: a round trip longer than necessary, and
//! never too short. What other programs send as the same user and application shows in
//! `X-Rate-Limit-Remaining`, and takes places too, until a window after it was last seen.
//!
//! As long as the limit is not known, one request at a time is sent to find it out.

use std::collections::VecDeque;
use std::time::Duration;

use super::penalties::GRAIN;
use crate::clock::Timestamp;

/// A limit beyond this is none: nobody sends so much through one process.
const MOST: u32 = 10_000;

/// What an answer says of its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Requests per window.
    pub limit: u32,
    /// How many of them are left.
    pub remaining: u32,
    /// How long it is.
    pub window: Duration,
}

/// One identity's requests in one group.
#[derive(Debug, Default)]
pub struct Window {
    allowance: Allowance,
    in_flight: u32,
    /// When answers were read, within the window.
    done: VecDeque<Timestamp>,
    /// The number of the first of them.
    first: u64,
    /// Other programs' requests, and until when they count.
    others: Option<(u32, Timestamp)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Allowance {
    #[default]
    Unknown,
    None,
    Limit {
        requests: u32,
        window: Duration,
    },
}

impl Window {
    /// Takes a place if there is one.
    pub fn take(&mut self, now: Timestamp) -> bool {
        let free = self.is_free(now);
        self.in_flight += u32::from(free);
        free
    }

    /// Takes a place that was had elsewhere.
    pub fn occupy(&mut self) {
        self.in_flight += 1;
    }

    /// Takes a place if there is one in this process's part, of so many equal parts.
    pub fn take_part(&mut self, parts: u32, now: Timestamp) -> bool {
        let free = self.is_part_free(parts, now);
        self.in_flight += u32::from(free);
        free
    }

    /// A request with a place was not sent after all.
    pub fn give_back(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// A request with a place was sent, and what became of it is not known.
    pub fn lose(&mut self, now: Timestamp) {
        self.give_back();
        self.count(now);
    }

    /// The answer to a request with a place was read. `refused` ones are not counted there.
    pub fn answered(&mut self, quota: Option<Quota>, refused: bool, now: Timestamp) {
        self.give_back();
        self.arrived(quota, refused, now);
    }

    /// The same for a request that had its place elsewhere, because its group was not known.
    pub fn arrived(&mut self, quota: Option<Quota>, refused: bool, now: Timestamp) {
        match quota {
            Some(quota) if quota.limit <= MOST => {
                let (requests, window) = (quota.limit.max(1), quota.window);
                self.allowance = Allowance::Limit { requests, window };
            }
            Some(_) => self.allowance = Allowance::None,
            // An answer to anything else than a refusal, and no limit in it.
            None if !refused && self.allowance == Allowance::Unknown => {
                self.allowance = Allowance::None;
            }
            None => {}
        }
        if !refused {
            self.count(now);
        }
        if let (Some(quota), Allowance::Limit { window, .. }) = (quota, self.allowance) {
            self.forget(now);
            let there = quota.limit.saturating_sub(quota.remaining);
            let others = there.saturating_sub(self.own());
            self.others = (others > 0).then_some((others, now + window + GRAIN));
        }
    }

    /// When a place may be free: now, later, or when an answer comes (`None`).
    pub fn opens_at(&mut self, now: Timestamp) -> Option<Timestamp> {
        if self.is_free(now) {
            return Some(now);
        }
        let Allowance::Limit { window, .. } = self.allowance else { return None };
        let ours = self.done.front().map(|at| *at + window + GRAIN);
        let others = self.others.map(|(_, until)| until);
        ours.into_iter().chain(others).min()
    }

    /// The same in one of so many parts.
    pub fn part_opens_at(&mut self, parts: u32, now: Timestamp) -> Option<Timestamp> {
        if self.is_part_free(parts, now) {
            return Some(now);
        }
        let Allowance::Limit { requests, window } = self.allowance else { return None };
        let goes = |over: u32| match over.checked_sub(1) {
            None => Some(now),
            Some(last) => Some(*self.done.get(last as usize)? + window + GRAIN),
        };
        let next = self.own() + 1;
        let over_part = next.saturating_sub(part(requests, parts));
        let over_all = (next + self.foreign()).saturating_sub(requests);
        let with_others = goes(over_part.max(over_all));
        let without = self.others.and_then(|(_, until)| Some(goes(over_part)?.max(until)));
        with_others.into_iter().chain(without).min().filter(|at| *at > now)
    }

    /// Requests that are under way.
    pub const fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Requests per window, if there is a limit and it is known.
    pub const fn limit(&self) -> Option<u32> {
        match self.allowance {
            Allowance::Limit { requests, .. } => Some(requests),
            Allowance::Unknown | Allowance::None => None,
        }
    }

    /// Whether there is none.
    pub fn is_unlimited(&self) -> bool {
        self.allowance == Allowance::None
    }

    /// Whether any request counts still, or is under way.
    pub fn has_any(&self) -> bool {
        self.own() > 0
    }

    /// Somebody else has found the limit out; 0 is none.
    pub fn adopt(&mut self, limit: u32, window: Duration) {
        self.allowance = match limit {
            1..=MOST => Allowance::Limit { requests: limit, window },
            _ => Allowance::None,
        };
    }

    /// How many were answered before now.
    pub fn answered_count(&self) -> u64 {
        self.first + self.done.len() as u64
    }

    /// How long ago those were answered that have this number or a later one and count still, and the
    /// number of the first of them.
    pub fn answered_since(&mut self, number: u64, now: Timestamp) -> (u64, Vec<Duration>) {
        self.forget(now);
        let first = number.max(self.first);
        let skipped = usize::try_from(first - self.first).unwrap_or(usize::MAX);
        (first, self.done.iter().skip(skipped).map(|at| at.until(now)).collect())
    }

    /// How long `count` requests take at least.
    pub fn time_for(&self, count: usize) -> Duration {
        match self.allowance {
            Allowance::Limit { requests, window } => {
                let rounds = count / requests as usize;
                window * u32::try_from(rounds).unwrap_or(u32::MAX)
            }
            Allowance::Unknown | Allowance::None => Duration::ZERO,
        }
    }

    /// Whether nothing of it is worth remembering.
    pub fn is_idle(&mut self, now: Timestamp) -> bool {
        self.forget(now);
        self.own() == 0 && self.others.is_none()
    }

    fn is_free(&mut self, now: Timestamp) -> bool {
        self.forget(now);
        match self.allowance {
            Allowance::Unknown => self.in_flight == 0,
            Allowance::None => true,
            Allowance::Limit { requests, .. } => self.own() + self.foreign() < requests,
        }
    }

    /// Others have the other parts. What they use is not known but by answers, so that after a
    /// minute without any the next one is waited for.
    fn is_part_free(&mut self, parts: u32, now: Timestamp) -> bool {
        self.forget(now);
        let Allowance::Limit { requests, .. } = self.allowance else { return self.is_free(now) };
        let is_informed = !self.done.is_empty() || self.in_flight == 0;
        is_informed && self.own() < part(requests, parts) && self.own() + self.foreign() < requests
    }

    fn foreign(&self) -> u32 {
        self.others.map_or(0, |(count, _)| count)
    }

    fn own(&self) -> u32 {
        self.in_flight + u32::try_from(self.done.len()).unwrap_or(u32::MAX)
    }

    fn count(&mut self, now: Timestamp) {
        if matches!(self.allowance, Allowance::Limit { .. }) {
            self.done.push_back(now);
        }
    }

    fn forget(&mut self, now: Timestamp) {
        let Allowance::Limit { window, .. } = self.allowance else {
            self.first += self.done.len() as u64;
            self.done.clear();
            self.others = None;
            return;
        };
        // The clock was set back: what lies ahead of it was just now.
        self.done.iter_mut().rev().take_while(|at| **at > now).for_each(|at| *at = now);
        let whole = window + GRAIN;
        while self.done.front().is_some_and(|at| *at + whole <= now) {
            self.done.pop_front();
            self.first += 1;
        }
        self.others = self.others.filter(|(_, until)| now < *until);
        self.others = self.others.map(|(count, until)| (count, until.min(now + whole)));
    }
}

/// One of so many equal parts of a limit, and at least one request.
fn part(requests: u32, parts: u32) -> u32 {
    (requests / parts.max(1)).max(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_unix_millis(1_700_000_000_000) + Duration::from_millis(millis)
    }

    fn quota(limit: u32, remaining: u32) -> Quota {
        Quota { limit, remaining, window: MINUTE }
    }

    /// A window of ten that one request has found out about.
    fn ten() -> Window {
        let mut window = Window::default();
        assert!(window.take(at(0)));
        window.answered(Some(quota(10, 9)), false, at(0));
        window
    }

    #[test]
    fn one_request_finds_the_limit_out_and_the_others_wait_for_it() {
        let mut window = Window::default();
        assert!(window.take(at(0)));
        assert!(!window.take(at(1)), "one at a time");
        assert_eq!(window.opens_at(at(1)), None, "nobody knows");
        window.answered(Some(quota(10, 9)), false, at(200));
        assert_eq!((0..20).filter(|_| window.take(at(200))).count(), 9);
        assert_eq!(window.opens_at(at(201)), Some(at(60_210)), "a minute after the answer");
    }

    #[test]
    fn a_request_that_failed_finds_nothing_out_and_one_without_limit_opens_the_way() {
        let mut window = Window::default();
        assert!(window.take(at(0)));
        window.lose(at(0));
        assert!(window.take(at(1)) && !window.take(at(1)), "one at a time still");
        window.answered(None, true, at(2));
        assert!(window.take(at(3)) && !window.take(at(3)), "a refusal says nothing either");
        window.answered(None, false, at(4));
        assert_eq!((0..1000).filter(|_| window.take(at(5))).count(), 1000);
        window.answered(Some(quota(10, 0)), false, at(6));
        assert!(!window.take(at(7)), "now there is a limit");
    }

    #[test]
    fn places_are_free_a_minute_after_the_answers_and_not_after_the_sends() {
        let mut window = ten();
        assert_eq!((0..20).filter(|_| window.take(at(1000))).count(), 9);
        for _ in 0..9 {
            window.answered(Some(quota(10, 0)), false, at(5000));
        }
        assert!(!window.take(at(60_009)));
        assert!(window.take(at(60_010)), "the first of all");
        assert!(!window.take(at(65_009)));
        assert_eq!((0..20).filter(|_| window.take(at(65_010))).count(), 9);
    }

    #[test]
    fn a_lost_answer_counts_and_a_request_that_was_not_sent_does_not() {
        let mut window = ten();
        (0..9).for_each(|_| assert!(window.take(at(0))));
        window.give_back();
        assert!(window.take(at(1)), "it was not sent");
        window.lose(at(2));
        assert!(!window.take(at(3)), "it may have arrived");
        window.answered(None, true, at(4));
        assert!(window.take(at(5)), "it was refused");
        window.answered(Some(quota(10, 0)), true, at(6));
        assert!(!window.take(at(7)), "refused, and nothing is left: somebody else had it");
    }

    #[test]
    fn what_other_programs_send_takes_places_for_a_minute() {
        let mut window = Window::default();
        assert!(window.take(at(0)));
        window.answered(Some(quota(10, 3)), false, at(0));
        assert_eq!((0..20).filter(|_| window.take(at(1))).count(), 3, "six are others'");
        for _ in 0..3 {
            window.answered(Some(quota(10, 0)), false, at(30_000));
        }
        assert_eq!(window.opens_at(at(30_001)), Some(at(60_010)));
        assert_eq!((0..20).filter(|_| window.take(at(60_010))).count(), 1, "ours that came first");
        window.answered(Some(quota(10, 6)), false, at(60_020));
        assert_eq!((0..20).filter(|_| window.take(at(60_030))).count(), 6, "theirs are gone");
    }

    #[test]
    fn one_of_four_parts_of_ten_is_two_and_after_a_silent_minute_one_request_looks_first() {
        let mut window = ten();
        let taken = |window: &mut Window, now| (0..9).filter(|_| window.take_part(4, now)).count();
        assert_eq!(taken(&mut window, at(10)), 1, "one was sent before");
        assert_eq!(window.part_opens_at(4, at(10)), Some(at(60_010)));
        window.answered(Some(quota(10, 3)), false, at(500));
        assert_eq!(window.part_opens_at(4, at(60_009)), Some(at(60_010)));
        assert_eq!(taken(&mut window, at(60_010)), 1);
        window.answered(Some(quota(10, 0)), false, at(60_020));
        assert_eq!(taken(&mut window, at(60_509)), 0, "its part is used up, and all of it");
        assert_eq!(window.part_opens_at(4, at(60_509)), Some(at(60_510)));
        assert_eq!(taken(&mut window, at(60_510)), 1);
        window.answered(Some(quota(10, 0)), false, at(60_520));
        assert_eq!(window.part_opens_at(4, at(60_530)), Some(at(120_030)));
        assert_eq!(taken(&mut window, at(180_000)), 1, "one looks");
        assert_eq!(window.part_opens_at(4, at(180_000)), None, "and its answer will tell");
        window.answered(Some(quota(10, 9)), false, at(180_010));
        assert_eq!(taken(&mut window, at(180_020)), 1);
        assert_eq!(part(10, 16), 1, "a part is never nothing");
    }

    #[test]
    fn a_clock_that_is_set_back_holds_nobody_for_longer_than_a_minute() {
        let mut window = ten();
        let late = at(3_600_000);
        (0..10).for_each(|_| assert!(window.take(late)));
        (0..10).for_each(|_| window.answered(Some(quota(10, 0)), false, late));
        assert!(!window.take(at(0)));
        assert!(window.take(at(60_010)));
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut window = ten();
        assert!(!window.is_idle(at(60_009)));
        assert!(window.is_idle(at(60_010)));
    }

    proptest! {
        /// RingCentral counts each request somewhere between its send and its answer.
        #[test]
        fn no_window_there_ever_counts_more_than_its_limit(
            steps in prop::collection::vec((0u64..9000, 0u64..9000, any::<bool>()), 1..200),
            limit in 2u32..12,
        ) {
            let (mut window, mut now, mut flying) = (Window::default(), 0, Vec::new());
            let mut counted: Vec<u64> = Vec::new();
            for (gap, trip, early) in steps {
                now += gap;
                flying.sort_unstable();
                while let Some(&(answer, arrival)) = flying.first().filter(|(end, _)| *end <= now) {
                    flying.remove(0);
                    let there = counted.iter().filter(|t| **t <= arrival && **t + 60_000 > arrival);
                    let used = u32::try_from(there.count()).unwrap();
                    prop_assert!(used <= limit, "{used} of {limit}");
                    window.answered(Some(quota(limit, limit - used)), false, at(answer));
                }
                if window.take(at(now)) {
                    let arrival = if early { now } else { now + trip };
                    counted.push(arrival);
                    flying.push((now + trip, arrival));
                }
            }
        }
    }
}
