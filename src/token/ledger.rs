//! What all processes of one application have asked the token endpoint lately, and who is next
//! among them. PURE: the store gives it to one process at a time.
//!
//! Each process has its own [`Budget`](super::budget) for the order among its identities. Whoever
//! is first there asks here for all: an entry occupies the ledger from its permission until 60 s
//! after the request's end. A process that died leaves an entry and a place that lapse by themselves.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::budget::{Class, SET_BACK, WINDOW};
use crate::clock::Timestamp;

/// A request that has not been reported for so long is over: its process has died.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(180);

/// A place is kept for so long after its holder was last heard of. Holders ask every [`ASK_AGAIN`].
const PLACE_KEPT: Duration = Duration::from_secs(5);

/// How often the holder of a place has to ask.
pub const ASK_AGAIN: Duration = Duration::from_secs(1);

/// No penalty lasts longer; one that seems to is seen through a clock that was set back.
const LONGEST_PENALTY: Duration = Duration::from_secs(3600);

/// The accounts of one application over all processes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// Requests that occupy the window, each until then.
    entries: Vec<Post>,
    /// Processes that want to send.
    places: Vec<Place>,
    /// The end of the silence that the server asked for, in Unix milliseconds.
    silent_until: Option<u64>,
    /// When it was last looked at, likewise.
    #[serde(default)]
    seen: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Post {
    by: String,
    until: u64,
    sent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    of: String,
    rank: u64,
    since: u64,
    heard: u64,
}

/// What the ledger answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// The request may be sent, and is to be settled.
    Granted,
    /// Not before then.
    At(Timestamp),
    /// Another process goes first.
    Behind,
}

impl Ledger {
    /// Asks for `process` to send a request of that class, which it will settle as `request`.
    /// At most `limit` occupy the window. Who is not granted keeps a place, if it asks again within
    /// seconds.
    pub fn ask(
        &mut self,
        process: &str,
        request: &str,
        class: Class,
        limit: usize,
        now: Timestamp,
    ) -> Leave {
        self.forget(now);
        // The answer to the same question was lost.
        if self.entries.iter().any(|entry| entry.by == request && !entry.sent) {
            return Leave::Granted;
        }
        self.take_place(process, rank(class), now);
        if let Some(at) = self.opens_at(limit) {
            return Leave::At(at);
        }
        let first = self.places.iter().min_by_key(|place| (place.rank, place.since, &place.of));
        if first.is_some_and(|place| place.of != process) {
            return Leave::Behind;
        }
        self.give_way(process);
        let until = (now + FORGOTTEN_AFTER).unix_millis();
        self.entries.push(Post { by: request.to_owned(), until, sent: false });
        Leave::Granted
    }

    /// Gives up the place of a process.
    pub fn give_way(&mut self, process: &str) {
        self.places.retain(|place| place.of != process);
    }

    /// A granted request has ended at `now`, or was never sent.
    pub fn settle(&mut self, request: &str, sent: bool, now: Timestamp) {
        let Some(at) = self.entries.iter().position(|entry| entry.by == request && !entry.sent)
        else {
            return;
        };
        if sent {
            let entry = &mut self.entries[at];
            (entry.sent, entry.until) = (true, (now + WINDOW).unix_millis());
        } else {
            self.entries.swap_remove(at);
        }
    }

    /// Nothing is sent until then: every request inside a penalty would start it anew.
    pub fn silence(&mut self, until: Timestamp) {
        self.silent_until = self.silent_until.max(Some(until.unix_millis()));
    }

    /// The end of the silence, if there is one.
    pub fn silent_until(&self, now: Timestamp) -> Option<Timestamp> {
        self.silent_until.map(Timestamp::from_unix_millis).filter(|until| now < *until)
    }

    /// Requests left of `limit` in the current window.
    pub fn left(&self, limit: usize, now: Timestamp) -> usize {
        let mut current = self.clone();
        current.forget(now);
        match current.silent_until {
            Some(_) => 0,
            None => limit.saturating_sub(current.entries.len()),
        }
    }

    fn take_place(&mut self, process: &str, rank: u64, now: Timestamp) {
        let now = now.unix_millis();
        if let Some(place) = self.places.iter_mut().find(|place| place.of == process) {
            (place.rank, place.heard) = (rank, now);
        } else {
            let of = process.to_owned();
            self.places.push(Place { of, rank, since: now, heard: now });
        }
    }

    fn opens_at(&self, limit: usize) -> Option<Timestamp> {
        let full = self.entries.len() >= limit;
        let soonest = self.entries.iter().map(|entry| entry.until).min().filter(|_| full);
        self.silent_until.or(soonest).map(Timestamp::from_unix_millis)
    }

    /// Drops what is over. What lies too far ahead was noted before the clock was set back.
    fn forget(&mut self, now: Timestamp) {
        for entry in &mut self.entries {
            let longest = if entry.sent { WINDOW } else { FORGOTTEN_AFTER };
            entry.until = entry.until.min((now + longest).unix_millis());
        }
        self.entries.retain(|entry| now.unix_millis() < entry.until);
        let kept = u64::try_from(PLACE_KEPT.as_millis()).unwrap_or(u64::MAX);
        self.places.retain(|place| {
            place.heard <= now.unix_millis() && now.unix_millis() - place.heard < kept
        });
        let back = now.until(Timestamp::from_unix_millis(self.seen));
        if back >= SET_BACK {
            let back = u64::try_from(back.as_millis()).unwrap_or(u64::MAX);
            self.silent_until = self.silent_until.map(|until| until.saturating_sub(back));
            self.seen = 0;
        }
        self.seen = self.seen.max(now.unix_millis());
        let ahead = self.silent_until.filter(|until| now.unix_millis() < *until);
        self.silent_until = ahead.map(|until| until.min((now + LONGEST_PENALTY).unix_millis()));
    }
}

/// Classes as numbers: lesser goes earlier.
const fn rank(class: Class) -> u64 {
    match class {
        Class::Waiting => 0,
        Class::Expiring(at) => at.unix_millis(),
        Class::Idle => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
    const LIMIT: usize = 5;

    fn ask(ledger: &mut Ledger, process: &str, class: Class, now: Timestamp) -> Leave {
        static ASKED: AtomicU64 = AtomicU64::new(0);
        let number = ASKED.fetch_add(1, Ordering::Relaxed);
        ledger.ask(process, &format!("{process}-{number}"), class, LIMIT, now)
    }

    #[test]
    fn grants_five_and_then_one_for_each_that_is_a_minute_old() {
        let mut ledger = Ledger::default();
        for n in 0..5 {
            let request = format!("a-{n}");
            let now = NOW + Duration::from_secs(n);
            let granted = ledger.ask("a", &request, Class::Waiting, LIMIT, now);
            assert_eq!(granted, Leave::Granted, "{n}");
            ledger.settle(&request, true, now);
        }
        let opens = NOW + WINDOW;
        let later = NOW + Duration::from_secs(4);
        assert_eq!(ask(&mut ledger, "b", Class::Waiting, later), Leave::At(opens));
        assert_eq!(ledger.left(LIMIT, later), 0);
        assert_eq!(ask(&mut ledger, "b", Class::Waiting, opens), Leave::Granted);
        assert_eq!(
            ask(&mut ledger, "b", Class::Waiting, opens),
            Leave::At(opens + Duration::from_secs(1))
        );
    }

    #[test]
    fn processes_take_turns_by_class_and_then_by_age() {
        let mut ledger = Ledger::default();
        ledger.silence(NOW + Duration::from_secs(4));
        let later = |s| NOW + Duration::from_secs(s);
        ask(&mut ledger, "idle", Class::Idle, NOW);
        ask(&mut ledger, "late", Class::Expiring(later(900)), later(1));
        ask(&mut ledger, "soon", Class::Expiring(later(300)), later(2));
        ask(&mut ledger, "waiting", Class::Waiting, later(3));
        let then = later(4);
        for process in ["idle", "late", "soon"] {
            let class = match process {
                "idle" => Class::Idle,
                "late" => Class::Expiring(later(900)),
                _ => Class::Expiring(later(300)),
            };
            assert_eq!(ask(&mut ledger, process, class, then), Leave::Behind, "{process}");
        }
        assert_eq!(ask(&mut ledger, "waiting", Class::Waiting, then), Leave::Granted);
        assert_eq!(ask(&mut ledger, "soon", Class::Expiring(later(300)), then), Leave::Granted);
        assert_eq!(ask(&mut ledger, "idle", Class::Idle, then), Leave::Behind);
        assert_eq!(ask(&mut ledger, "late", Class::Expiring(later(900)), then), Leave::Granted);
    }

    #[test]
    fn the_place_and_the_request_of_a_dead_process_lapse() {
        let mut ledger = Ledger::default();
        assert_eq!(ask(&mut ledger, "dead", Class::Waiting, NOW), Leave::Granted);
        ledger.silence(NOW + Duration::from_secs(1));
        ask(&mut ledger, "dead", Class::Waiting, NOW);
        let then = NOW + Duration::from_secs(1);
        assert_eq!(ask(&mut ledger, "alive", Class::Idle, then), Leave::Behind);
        assert_eq!(ask(&mut ledger, "alive", Class::Idle, NOW + PLACE_KEPT), Leave::Granted);
        ledger.settle("alive-0", false, NOW);
        assert_eq!(ledger.left(LIMIT, NOW + PLACE_KEPT), LIMIT - 2);
        assert_eq!(ledger.left(LIMIT, NOW + PLACE_KEPT + FORGOTTEN_AFTER), LIMIT);
    }

    #[test]
    fn an_unsent_request_costs_nothing_and_is_settled_once() {
        let mut ledger = Ledger::default();
        assert_eq!(ledger.ask("a", "1", Class::Idle, LIMIT, NOW), Leave::Granted);
        ledger.settle("1", false, NOW);
        ledger.settle("1", true, NOW);
        assert_eq!(ledger, Ledger { seen: NOW.unix_millis(), ..Ledger::default() });
    }

    #[test]
    fn a_question_that_is_asked_twice_is_granted_once() {
        let mut ledger = Ledger::default();
        for _ in 0..2 {
            assert_eq!(ledger.ask("a", "1", Class::Waiting, LIMIT, NOW), Leave::Granted);
        }
        assert_eq!(ledger.left(LIMIT, NOW), LIMIT - 1);
        ledger.settle("1", false, NOW);
        assert_eq!(ledger, Ledger { seen: NOW.unix_millis(), ..Ledger::default() });
    }

    #[test]
    fn a_clock_that_was_set_back_blocks_nobody_for_longer_than_a_window() {
        let mut ledger = Ledger::default();
        for n in 0..5 {
            let request = n.to_string();
            assert_eq!(ledger.ask("a", &request, Class::Idle, LIMIT, NOW), Leave::Granted);
            ledger.settle(&request, true, NOW);
        }
        let before = NOW - Duration::from_secs(86_400);
        assert_eq!(ask(&mut ledger, "a", Class::Idle, before), Leave::At(before + WINDOW));
        assert_eq!(ask(&mut ledger, "a", Class::Idle, before + WINDOW), Leave::Granted);
    }

    #[test]
    fn a_silence_lasts_as_long_as_was_asked_when_the_clock_is_set_back_or_trembles() {
        let mut ledger = Ledger::default();
        let (hour, silence) = (Duration::from_secs(3600), Duration::from_secs(60));
        assert_eq!(ask(&mut ledger, "a", Class::Idle, NOW), Leave::Granted);
        ledger.silence(NOW + silence);
        let slip = NOW - Duration::from_millis(999);
        assert_eq!(ask(&mut ledger, "a", Class::Idle, slip), Leave::At(NOW + silence));
        let before = NOW - hour;
        assert_eq!(ask(&mut ledger, "a", Class::Idle, before), Leave::At(before + silence));
        let kept = serde_json::to_vec(&ledger).unwrap();
        let mut ledger: Ledger = serde_json::from_slice(&kept).unwrap();
        assert_eq!(ask(&mut ledger, "a", Class::Idle, before + silence), Leave::Granted);
    }
}
