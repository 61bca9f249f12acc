//! One process's part in a window that several share. PURE.
//!
//! Places are had from the store a few at a time, as they are waited for, and some more while there
//! are plenty; what is not used within seconds goes back. So a request nearly always finds a place in
//! the hand, and the store is asked when the hand is empty, not by each request. What was answered is
//! told later, with its age. Nothing is used that the store may believe to be lost.

use std::time::Duration;

use super::window::{Quota, Window};
use crate::clock::Timestamp;
use crate::store::redis::limits::{Grant, HOLD, Told};

/// Unused places are kept for so long.
const KEPT: Duration = Duration::from_secs(2);

/// Answered requests are told of within this time.
const REPORT: Duration = Duration::from_secs(1);

/// How often the store is asked anew where places are waited for: others may give some back.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// The same where nobody knows when one opens.
const LOOK_SOON: Duration = Duration::from_millis(500);

/// What the store has said of the next place is believed for so long.
const BELIEVED: Duration = Duration::from_secs(1);

/// What is held is not relied on up to the last moment.
const MARGIN: Duration = Duration::from_secs(5);

/// Spare places are a tenth of the limit, and no more than this.
const MOST_SPARE: u32 = 8;

/// One process's part.
#[derive(Debug, Default)]
pub struct Share {
    /// Places that are not used yet.
    hand: u32,
    /// What is held is good until then.
    good_until: Option<Timestamp>,
    used_at: Option<Timestamp>,
    /// A contact is under way.
    is_asking: bool,
    /// Not to be asked for places before then.
    look_at: Option<Timestamp>,
    report_at: Option<Timestamp>,
    /// Requests before this number have been told of.
    told_of: u64,
    /// What the last answer has said, and when, until that has been told.
    news: Option<(Quota, Timestamp)>,
    /// Counts what answers have said: two of them may come within a grain of the clock.
    news_count: u64,
    /// When the next place opens, and until when that is believed.
    opens: Option<(Timestamp, Timestamp)>,
    /// Whether the store knows the limit.
    is_known: bool,
    life: Option<Timestamp>,
    session: u32,
}

/// What is to be told to the store, and asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Tells this life of the window from others.
    pub life: u64,
    /// Places for requests under way, and unused ones.
    pub held: u32,
    /// The number of the first in `ages`.
    pub first: u64,
    /// How long ago requests were answered.
    pub ages: Vec<Duration>,
    /// What an answer has said.
    pub told: Option<Told>,
    /// How many of them had said something.
    pub news_count: u64,
    /// Places that are waited for.
    pub need: u32,
    /// Places that would be welcome.
    pub spare: u32,
    /// When it was written.
    pub at: Timestamp,
}

impl Share {
    /// Takes a place out of the hand.
    pub fn take(&mut self, now: Timestamp) -> bool {
        let has = self.has(now);
        if has {
            self.hand -= 1;
            self.used_at = Some(now);
        }
        has
    }

    /// Whether there is one.
    pub fn has(&self, now: Timestamp) -> bool {
        self.hand > 0 && self.good_until.is_some_and(|until| now < until)
    }

    /// When the next place opens, if the store has just said so.
    pub fn opens_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.opens.filter(|(_, believed)| now < *believed).map(|(at, _)| at)
    }

    /// An answer has come.
    pub fn answered(&mut self, quota: Option<Quota>, now: Timestamp) {
        if let Some(quota) = quota {
            self.news = Some((quota, now));
            self.news_count += 1;
        }
        if !self.is_known {
            // What it says is what the others wait for.
            (self.look_at, self.report_at) = (None, Some(now));
        }
        self.report_at.get_or_insert(now + REPORT);
    }

    /// When the store is next to be spoken to, with so many waiting.
    pub fn due_at(&self, window: &Window, need: u32, now: Timestamp) -> Option<Timestamp> {
        if self.is_asking || (window.is_unlimited() && self.is_known) {
            return None;
        }
        let asks = (need > 0).then(|| self.look_at.unwrap_or(now));
        let returns = self.used_at.filter(|_| self.hand > 0).map(|at| at + KEPT);
        let holds = self.hand > 0 || window.in_flight() > 0;
        let renews = self.good_until.filter(|_| holds).map(|until| (until + MARGIN) - HOLD / 2);
        [asks, returns, renews, self.report_at].into_iter().flatten().min()
    }

    /// What to say to the store now, if it is time. In a new `session` with it all is told again.
    pub fn speak(
        &mut self,
        window: &mut Window,
        need: u32,
        session: u32,
        now: Timestamp,
    ) -> Option<Message> {
        if self.session != session && !self.is_asking {
            (self.session, self.hand, self.is_known) = (session, 0, false);
            (self.told_of, self.look_at, self.opens) = (0, None, None);
            self.report_at = window.has_any().then_some(now);
        }
        self.due_at(window, need, now).filter(|at| *at <= now)?;
        self.is_asking = true;
        if self.used_at.is_none_or(|at| at + KEPT <= now) {
            self.hand = 0;
        }
        let (first, ages) = window.answered_since(self.told_of, now);
        let life = self.life.get_or_insert(now).unix_millis();
        let limit = window.limit();
        let told = self.news.map(|(quota, at)| Told {
            limit: if window.is_unlimited() { 0 } else { quota.limit },
            remaining: quota.remaining,
            window: quota.window,
            age: at.until(now),
        });
        let unlimited = Told { limit: 0, remaining: 0, window: REPORT, age: Duration::ZERO };
        let told = told.or_else(|| window.is_unlimited().then_some(unlimited));
        let spare = if need > 0 { (limit.unwrap_or(0) / 10).min(MOST_SPARE) } else { 0 };
        let held = window.in_flight() + self.hand;
        let news_count = self.news_count;
        Some(Message { life, held, first, ages, told, news_count, need, spare, at: now })
    }

    /// The store has answered.
    pub fn heard(&mut self, window: &mut Window, message: &Message, grant: &Grant, now: Timestamp) {
        self.is_asking = false;
        self.told_of = message.first + message.ages.len() as u64;
        if self.news_count == message.news_count {
            self.news = None;
        }
        let has_more = window.answered_count() > self.told_of || self.news.is_some();
        let is_known = grant.limit.is_some();
        let is_awaited = !is_known && self.news.is_some();
        self.report_at = has_more.then(|| if is_awaited { now } else { now + REPORT });
        self.good_until = Some((message.at + HOLD) - MARGIN);
        if grant.places > 0 {
            self.hand += grant.places;
            self.used_at = Some(now);
        }
        self.is_known = is_known;
        if let Some((limit, length)) = grant.limit {
            window.adopt(limit, length);
        }
        (self.look_at, self.opens) = (None, None);
        if grant.places < message.need && !window.is_unlimited() {
            let opens = grant.opens_in.map(|wait| now + wait);
            self.opens = opens.map(|at| (at, now + BELIEVED));
            let soon = opens.unwrap_or(now + LOOK_SOON);
            self.look_at = Some(soon.min(now + LOOK_AGAIN));
        }
    }

    /// The store has not answered.
    pub fn unheard(&mut self) {
        (self.is_asking, self.hand) = (false, 0);
    }

    /// Whether nothing of it is worth remembering.
    pub fn is_idle(&self) -> bool {
        self.hand == 0 && !self.is_asking
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_unix_millis(1_700_000_000_000) + Duration::from_millis(millis)
    }

    fn grant(places: u32, opens_in: Option<u64>) -> Grant {
        let opens_in = opens_in.map(Duration::from_millis);
        Grant { places, limit: Some((50, MINUTE)), opens_in }
    }

    fn take(share: &mut Share, window: &mut Window, now: Timestamp) -> bool {
        let has = share.take(now);
        if has {
            window.occupy();
        }
        has
    }

    /// A part that has asked for three places at 0, and has five.
    fn with_five() -> (Share, Window) {
        let (mut share, mut window) = (Share::default(), Window::default());
        let message = share.speak(&mut window, 3, 0, at(0)).unwrap();
        assert_eq!((message.held, message.need, message.spare), (0, 3, 0));
        assert_eq!(share.speak(&mut window, 3, 0, at(0)), None, "one contact at a time");
        share.heard(&mut window, &message, &grant(5, None), at(1));
        (share, window)
    }

    #[test]
    fn the_store_is_asked_when_the_hand_is_empty_and_gets_back_what_is_not_used() {
        let (mut share, mut window) = with_five();
        assert_eq!((0..3).filter(|_| take(&mut share, &mut window, at(2))).count(), 3);
        assert_eq!(share.due_at(&window, 0, at(3)), Some(at(2002)));
        assert_eq!(share.speak(&mut window, 0, 0, at(2001)), None);
        let message = share.speak(&mut window, 0, 0, at(2002)).unwrap();
        assert_eq!(message.held, 3, "those under way");
        assert!(!take(&mut share, &mut window, at(2002)), "given back");
        share.heard(&mut window, &message, &grant(0, None), at(2003));
        let message = share.speak(&mut window, 9, 0, at(2004)).unwrap();
        assert_eq!((message.held, message.need, message.spare), (3, 9, 5));
    }

    #[test]
    fn what_was_answered_is_told_within_a_second_and_once_and_in_a_new_session_again() {
        let (mut share, mut window) = with_five();
        for _ in 0..2 {
            assert!(take(&mut share, &mut window, at(10)));
        }
        let quota = Quota { limit: 50, remaining: 48, window: MINUTE };
        let answered = |share: &mut Share, window: &mut Window, now| {
            window.answered(Some(quota), false, now);
            share.answered(Some(quota), now);
        };
        answered(&mut share, &mut window, at(100));
        assert_eq!(share.speak(&mut window, 0, 0, at(1099)), None);
        let message = share.speak(&mut window, 0, 0, at(1100)).unwrap();
        let age = Duration::from_secs(1);
        assert_eq!((message.held, message.first, &message.ages[..]), (4, 0, &[age][..]));
        let told = Told { limit: 50, remaining: 48, window: MINUTE, age };
        assert_eq!(message.told, Some(told));
        answered(&mut share, &mut window, at(1101));
        share.heard(&mut window, &message, &grant(0, None), at(1102));
        let message = share.speak(&mut window, 0, 0, at(2102)).unwrap();
        assert_eq!((message.first, message.ages.len()), (1, 1), "it came meanwhile");
        share.unheard();
        let message = share.speak(&mut window, 0, 0, at(2103)).unwrap();
        assert_eq!((message.first, message.ages.len()), (1, 1), "nobody has heard it");
        share.heard(&mut window, &message, &grant(0, None), at(2104));
        assert!(share.is_idle());
        let message = share.speak(&mut window, 0, 1, at(3000)).unwrap();
        assert_eq!((message.first, message.ages.len()), (0, 2), "the store may have lost them");
    }

    #[test]
    fn what_is_found_out_while_the_store_is_spoken_to_is_told_next_and_at_once() {
        let (mut share, mut window) = (Share::default(), Window::default());
        let message = share.speak(&mut window, 2, 0, at(0)).unwrap();
        let one = Grant { places: 1, limit: None, opens_in: None };
        share.heard(&mut window, &message, &one, at(0));
        assert!(take(&mut share, &mut window, at(0)));
        share.look_at = None;
        let message = share.speak(&mut window, 1, 0, at(0)).unwrap();
        assert_eq!(message.told, None);
        // In the same millisecond.
        let quota = Quota { limit: 50, remaining: 49, window: MINUTE };
        window.answered(Some(quota), false, at(0));
        share.answered(Some(quota), at(0));
        share.heard(&mut window, &message, &Grant { places: 0, ..one }, at(0));
        let due = share.due_at(&window, 1, at(0));
        assert_eq!(due, Some(at(0)), "it is what the others wait for");
        let message = share.speak(&mut window, 1, 0, at(0)).unwrap();
        assert_eq!(message.told.map(|told| told.limit), Some(50));
    }

    #[test]
    fn nothing_is_used_that_the_store_may_believe_to_be_lost() {
        let (mut share, mut window) = with_five();
        assert!(take(&mut share, &mut window, at(24_999)));
        assert!(!take(&mut share, &mut window, at(25_000)), "HOLD less a margin");
    }

    #[test]
    fn who_waits_looks_again_when_a_place_opens_and_every_two_seconds() {
        let (mut share, mut window) = (Share::default(), Window::default());
        let mut ask = |now, opens_in| {
            let message = share.speak(&mut window, 1, 0, now).unwrap();
            share.heard(&mut window, &message, &grant(0, opens_in), now);
            (share.due_at(&window, 1, now), share.opens_at(now))
        };
        assert_eq!(ask(at(0), Some(1500)), (Some(at(1500)), Some(at(1500))));
        assert_eq!(ask(at(5000), Some(40_000)), (Some(at(7000)), Some(at(45_000))));
        assert_eq!(ask(at(7000), None), (Some(at(7500)), None), "others have it in their hands");
        assert_eq!(ask(at(7500), Some(0)), (Some(at(7500)), Some(at(7500))), "there are more");
        assert_eq!(share.opens_at(at(8500)), None, "believed for a second");
    }

    #[test]
    fn where_there_is_no_limit_the_store_is_told_so_once() {
        let (mut share, mut window) = (Share::default(), Window::default());
        let message = share.speak(&mut window, 1, 0, at(0)).unwrap();
        let unknown = Grant { places: 1, limit: None, opens_in: None };
        share.heard(&mut window, &message, &unknown, at(1));
        assert!(take(&mut share, &mut window, at(1)));
        window.answered(None, false, at(50));
        share.answered(None, at(50));
        let message = share.speak(&mut window, 1, 0, at(50)).unwrap();
        assert_eq!(message.told.map(|told| told.limit), Some(0));
        let none = Grant { places: 0, limit: Some((0, MINUTE)), opens_in: None };
        share.heard(&mut window, &message, &none, at(51));
        assert_eq!(share.due_at(&window, 100, at(52)), None);
        assert!(window.is_unlimited());
    }
}
