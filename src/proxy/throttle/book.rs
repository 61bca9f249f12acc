//! All that is kept of one identity's limits: its penalties, and where requests are paced, a window
//! and a queue for each group. PURE: whoever waits is a `T`, and time comes in as an argument.

use std::collections::BTreeMap;
use std::time::Duration;

use super::groups::Group;
use super::penalties::{GRAIN, Penalties};
use super::queue::{Caller, Queue};
use super::share::{Message, Share};
use super::window::{Quota, Window};
use crate::clock::Timestamp;
use crate::store::redis::limits::Grant;

/// One identity's limits.
#[derive(Debug)]
pub struct Book<T> {
    /// What RingCentral has asked for.
    pub penalties: Penalties,
    lanes: BTreeMap<Group, Lane<T>>,
}

/// Those of one group.
#[derive(Debug)]
struct Lane<T> {
    window: Window,
    queue: Queue<T>,
    share: Share,
}

/// Whose the windows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pool {
    /// This process's alone.
    Alone,
    /// Several processes': places are had from the store.
    Shared,
    /// Several processes', and the store is away: each has one of so many parts.
    Part(u32),
}

/// Why a request cannot go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// The end of the penalty, if there is one.
    pub penalty: Option<Timestamp>,
    /// The first moment at which it might go; not known where only an answer will tell.
    pub earliest: Option<Timestamp>,
    /// How long those before it need, at least.
    pub ahead: Duration,
}

impl<T> Default for Book<T> {
    fn default() -> Self {
        Self { penalties: Penalties::default(), lanes: BTreeMap::new() }
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { window: Window::default(), queue: Queue::default(), share: Share::default() }
    }
}

impl<T> Lane<T> {
    fn take(&mut self, pool: Pool, now: Timestamp) -> bool {
        match pool {
            Pool::Alone => self.window.take(now),
            Pool::Part(parts) => self.window.take_part(parts, now),
            Pool::Shared => {
                let free = self.window.is_unlimited() || self.share.take(now);
                if free {
                    self.window.occupy();
                }
                free
            }
        }
    }

    fn opens_at(&mut self, pool: Pool, now: Timestamp) -> Option<Timestamp> {
        match pool {
            Pool::Alone => self.window.opens_at(now),
            Pool::Part(parts) => self.window.part_opens_at(parts, now),
            Pool::Shared if self.window.is_unlimited() || self.share.has(now) => Some(now),
            Pool::Shared => self.share.opens_at(now),
        }
    }

    fn need(&self) -> u32 {
        u32::try_from(self.queue.len()).unwrap_or(u32::MAX)
    }
}

impl<T> Book<T> {
    /// Takes a place for a request of `groups`, the first of which is its own.
    pub fn enter(
        &mut self,
        groups: &[Group; 2],
        pool: Pool,
        now: Timestamp,
    ) -> Result<(), Obstacle> {
        let penalty = self.penalties.end(groups, now);
        let lane = self.lanes.entry(groups[0]).or_default();
        if penalty.is_none() && lane.queue.is_empty() && lane.take(pool, now) {
            return Ok(());
        }
        let opens = lane.opens_at(pool, now);
        let earliest = opens.map(|at| at.max(penalty.map_or(at, |end| end + GRAIN)));
        let earliest = earliest.or(penalty);
        let ahead = lane.window.time_for(lane.queue.len());
        Err(Obstacle { penalty, earliest, ahead })
    }

    /// Lets a request wait.
    pub fn wait(&mut self, group: Group, caller: Caller, ticket: u64, waiting: T) {
        self.lanes.entry(group).or_default().queue.push(caller, ticket, waiting);
    }

    /// Who has this ticket waits no more.
    pub fn leave(&mut self, group: Group, ticket: u64) -> Option<T> {
        self.lanes.get_mut(&group)?.queue.remove(ticket)
    }

    /// A request that had its place in `lane` was answered; `group` is where it belonged.
    pub fn answered(
        &mut self,
        lane: Group,
        group: Group,
        quota: Option<Quota>,
        refused: bool,
        now: Timestamp,
    ) {
        if lane != group {
            self.give_back(lane);
        }
        let here = self.lanes.entry(group).or_default();
        if lane == group {
            here.window.answered(quota, refused, now);
        } else {
            here.window.arrived(quota, refused, now);
        }
        here.share.answered(quota, now);
    }

    /// A request with a place was not sent.
    pub fn give_back(&mut self, group: Group) {
        if let Some(lane) = self.lanes.get_mut(&group) {
            lane.window.give_back();
        }
    }

    /// A request with a place was sent, and nobody knows what became of it.
    pub fn lose(&mut self, group: Group, now: Timestamp) {
        if let Some(lane) = self.lanes.get_mut(&group) {
            lane.window.lose(now);
            lane.share.answered(None, now);
        }
    }

    /// Takes out those who may go now, each of whom has a place from now on.
    pub fn due(&mut self, pool: Pool, now: Timestamp) -> Vec<(Group, T)> {
        let mut due = Vec::new();
        for (group, lane) in &mut self.lanes {
            if lane.queue.is_empty() || self.penalties.end(&[*group], now).is_some() {
                continue;
            }
            while !lane.queue.is_empty() && lane.take(pool, now) {
                due.extend(lane.queue.pop().map(|waiting| (*group, waiting)));
            }
        }
        due
    }

    /// When somebody who waits may go, or the store is to be spoken to if it `hears`, if time alone
    /// decides.
    pub fn next(&mut self, pool: Pool, hears: bool, now: Timestamp) -> Option<Timestamp> {
        let penalties = &mut self.penalties;
        let lanes = self.lanes.iter_mut().filter_map(|(group, lane)| {
            let after_penalty =
                |at: Timestamp, end: Option<Timestamp>| at.max(end.map_or(at, |end| end + GRAIN));
            let waits = (!lane.queue.is_empty()).then(|| {
                let end = penalties.end(&[*group], now);
                let opens = match pool {
                    Pool::Shared => lane.share.due_at(&lane.window, lane.need(), now),
                    Pool::Alone | Pool::Part(_) => lane.opens_at(pool, now),
                };
                opens.map(|at| after_penalty(at, end))
            });
            let speaks = hears.then(|| lane.share.due_at(&lane.window, 0, now));
            waits.flatten().into_iter().chain(speaks.flatten()).min()
        });
        lanes.min()
    }

    /// What is to be said to the store now. Until things have `settled` no places are asked for.
    pub fn messages(
        &mut self,
        session: u32,
        settled: bool,
        now: Timestamp,
    ) -> Vec<(Group, Message)> {
        let penalties = &mut self.penalties;
        let messages = self.lanes.iter_mut().filter_map(|(group, lane)| {
            let is_held = !settled || penalties.end(&[*group], now).is_some();
            let need = if is_held { 0 } else { lane.need() };
            Some((*group, lane.share.speak(&mut lane.window, need, session, now)?))
        });
        messages.collect()
    }

    /// The store's answer, or none. Takes out those who will `miss` the moment at which the next place
    /// opens.
    pub fn heard(
        &mut self,
        group: Group,
        message: &Message,
        grant: Option<&Grant>,
        miss: impl Fn(&T, Timestamp) -> bool,
        now: Timestamp,
    ) -> Vec<T> {
        let Some(lane) = self.lanes.get_mut(&group) else { return Vec::new() };
        let Some(grant) = grant else {
            lane.share.unheard();
            return Vec::new();
        };
        lane.share.heard(&mut lane.window, message, grant, now);
        match lane.share.opens_at(now) {
            Some(at) if !lane.share.has(now) => lane.queue.part(|waiting| miss(waiting, at)),
            _ => Vec::new(),
        }
    }

    /// Forgets what is over; whether nothing is left.
    pub fn is_over(&mut self, now: Timestamp) -> bool {
        self.lanes.retain(|_, lane| {
            !lane.queue.is_empty() || !lane.window.is_idle(now) || !lane.share.is_idle()
        });
        self.lanes.is_empty() && self.penalties.last_end(now).is_none()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::operations::Operations;
    use super::*;

    const ALONE: Pool = Pool::Alone;
    const MINUTE: Duration = Duration::from_secs(60);

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_unix_millis(1_700_000_000_000) + Duration::from_secs(secs)
    }

    fn group(path: &str) -> Group {
        let target = path.parse().unwrap();
        Group::Own(Operations::described().find(&Method::GET, &target, &HeaderMap::new()))
    }

    fn two(remaining: u32) -> Quota {
        Quota { limit: 2, remaining, window: MINUTE }
    }

    /// A book in which `heavy` allows two requests a minute, both of which were answered at 0.
    fn full(heavy: Group) -> Book<char> {
        let mut book = Book::default();
        for remaining in [1, 0] {
            book.enter(&[heavy; 2], ALONE, at(0)).unwrap();
            book.answered(heavy, heavy, Some(two(remaining)), false, at(0));
        }
        book
    }

    #[test]
    fn who_waits_goes_when_the_window_frees_and_two_at_a_time() {
        let heavy = group("/a");
        let mut book = full(heavy);
        let obstacle = book.enter(&[heavy; 2], ALONE, at(1)).unwrap_err();
        let earliest = Some(at(60) + GRAIN);
        assert_eq!(obstacle, Obstacle { penalty: None, earliest, ahead: Duration::ZERO });
        for (ticket, name) in ['a', 'b', 'c', 'd', 'e'].into_iter().enumerate() {
            book.wait(heavy, Caller::ANYBODY, ticket as u64, name);
        }
        assert_eq!(book.leave(heavy, 1), Some('b'));
        assert_eq!(
            (book.next(ALONE, false, at(1)), book.due(ALONE, at(59))),
            (earliest, Vec::new())
        );
        assert_eq!(book.due(ALONE, at(60) + GRAIN), [(heavy, 'a'), (heavy, 'c')]);
        assert_eq!(book.next(ALONE, false, at(61)), None, "an answer has to come first");
        let obstacle = book.enter(&[heavy; 2], ALONE, at(61)).unwrap_err();
        assert_eq!(obstacle.ahead, MINUTE, "two wait already");
    }

    #[test]
    fn nobody_is_let_into_a_penalty() {
        let (heavy, light) = (group("/a"), group("/b"));
        let mut book = full(heavy);
        book.wait(heavy, Caller::ANYBODY, 0, 'a');
        book.penalties.begin(heavy, MINUTE, at(50));
        assert_eq!(book.next(ALONE, false, at(51)), Some(at(110) + GRAIN));
        assert!(book.due(ALONE, at(110)).is_empty());
        let obstacle = book.enter(&[heavy; 2], ALONE, at(110)).unwrap_err();
        assert_eq!((obstacle.penalty, obstacle.earliest), (Some(at(110)), Some(at(110) + GRAIN)));
        assert_eq!(book.enter(&[light; 2], ALONE, at(51)), Ok(()), "another group flows on");
        assert_eq!(book.due(ALONE, at(110) + GRAIN), [(heavy, 'a')]);
    }

    #[test]
    fn a_request_is_counted_where_its_answer_says_it_belongs() {
        let (own, heavy) = (group("/a"), group("/b"));
        let mut book = full(heavy);
        book.enter(&[own; 2], ALONE, at(61)).unwrap();
        book.answered(own, heavy, Some(two(1)), false, at(61));
        assert_eq!(book.enter(&[heavy; 2], ALONE, at(61)), Ok(()));
        assert!(book.enter(&[heavy; 2], ALONE, at(61)).is_err(), "two a minute");
    }

    #[test]
    fn a_book_is_closed_a_minute_after_its_last_line() {
        let heavy = group("/a");
        let mut book = full(heavy);
        assert!(!book.is_over(at(60)));
        assert!(book.is_over(at(60) + GRAIN));
        assert!(book.lanes.is_empty());
    }
}
