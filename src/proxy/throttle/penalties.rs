//! For how long RingCentral has asked one identity for silence, and in which groups. PURE.
//!
//! A request inside a penalty starts it again, so its end is never guessed early: it counts from when
//! the 429 was *read*, later than RingCentral's own count, and a grain of the clock is added.

use std::time::Duration;

use super::groups::Group;
use crate::clock::Timestamp;

/// The coarsest grain of the clock, and more: what was read at 12.000 may have come at 12.004.
pub(super) const GRAIN: Duration = Duration::from_millis(10);

/// Silence that lasts no longer than this is worth no more memory.
const MOST: usize = 64;

/// What a 429 is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The group of the request.
    Group,
    /// Everything that the identity sends.
    Everything,
    /// This one request: nothing else is kept from being sent.
    Request,
}

impl Scope {
    /// By the code in the answer's content. Codes that are not known are about the group.
    pub fn of(code: Option<&str>) -> Self {
        match code {
            // The limit over everything.
            Some("CMN-310") => Self::Everything,
            // The same request is being answered already.
            Some("CMN-304") => Self::Request,
            _ => Self::Group,
        }
    }
}

/// The penalties of one identity.
#[derive(Debug, Default)]
pub struct Penalties {
    everything: Option<Penalty>,
    of: Vec<(Group, Penalty)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Penalty {
    since: Timestamp,
    until: Timestamp,
}

impl Penalty {
    /// When it ends; `None` if it is over. A clock that was set back does not make it longer.
    fn end(&mut self, now: Timestamp) -> Option<Timestamp> {
        if now < self.since {
            let length = self.since.until(self.until);
            *self = Self { since: now, until: now + length };
        }
        Some(self.until).filter(|until| now < *until + GRAIN)
    }
}

/// A penalty that was begun on the word of a status alone, before its code was read.
#[derive(Debug)]
pub struct Begun {
    group: Group,
    penalty: Penalty,
    before: Option<Penalty>,
}

impl Begun {
    /// What it holds.
    pub const fn group(&self) -> Group {
        self.group
    }

    /// When it ends.
    pub const fn until(&self) -> Timestamp {
        self.penalty.until
    }
}

impl Penalties {
    /// When a group of any of these names may be sent to again; `None` if it may now.
    pub fn end(&mut self, groups: &[Group], now: Timestamp) -> Option<Timestamp> {
        let everything = self.everything.as_mut().and_then(|penalty| penalty.end(now));
        let of = self.of.iter_mut().filter(|(group, _)| groups.contains(group));
        let of = of.filter_map(|(_, penalty)| penalty.end(now)).max();
        everything.max(of)
    }

    /// A 429 of this group was read, which asks for so much silence.
    pub fn begin(&mut self, group: Group, length: Duration, now: Timestamp) -> Begun {
        let new = Penalty { since: now, until: now + length };
        let known = self.of.iter_mut().find(|(known, _)| *known == group);
        let before = known.as_ref().map(|(_, penalty)| *penalty);
        let before = before.and_then(|mut penalty| penalty.end(now).map(|_| penalty));
        let penalty = match before {
            Some(before) if before.until > new.until => before,
            _ => new,
        };
        if let Some((_, known)) = known {
            *known = penalty;
        } else {
            self.make_room();
            self.of.push((group, penalty));
        }
        Begun { group, penalty, before }
    }

    /// All groups are to be silent for so long.
    pub fn begin_all(&mut self, length: Duration, now: Timestamp) {
        self.hold_all(Penalty { since: now, until: now + length });
    }

    fn hold_all(&mut self, penalty: Penalty) {
        let longer = |known: &Penalty| known.until > penalty.until;
        self.everything = Some(self.everything.filter(longer).unwrap_or(penalty));
    }

    /// The code of that 429 was read.
    pub fn rescope(&mut self, begun: &Begun, scope: Scope) {
        if scope == Scope::Group {
            return;
        }
        if scope == Scope::Everything {
            self.hold_all(begun.penalty);
        }
        // Somebody else's 429 may have prolonged it meanwhile: then it stays.
        let is_ours = |entry: &(Group, Penalty)| *entry == (begun.group, begun.penalty);
        let Some(at) = self.of.iter().position(is_ours) else { return };
        match begun.before {
            Some(before) => self.of[at].1 = before,
            None => drop(self.of.swap_remove(at)),
        }
    }

    /// Forgets what is over; when the last of the rest is over, too.
    pub fn last_end(&mut self, now: Timestamp) -> Option<Timestamp> {
        self.of.retain_mut(|(_, penalty)| penalty.end(now).is_some());
        if self.everything.as_mut().is_some_and(|penalty| penalty.end(now).is_none()) {
            self.everything = None;
        }
        let of = self.of.iter().map(|(_, penalty)| penalty.until).max();
        of.max(self.everything.map(|penalty| penalty.until)).map(|until| until + GRAIN)
    }

    /// What is held now, and until when; no group stands for everything.
    pub fn ends(&mut self, now: Timestamp) -> Vec<(Option<Group>, Timestamp)> {
        let everything = self.everything.as_mut().map(|penalty| (None, penalty));
        let of = self.of.iter_mut().map(|(group, penalty)| (Some(*group), penalty));
        let all = everything.into_iter().chain(of);
        all.filter_map(|(group, penalty)| Some((group, penalty.end(now)?))).collect()
    }

    fn make_room(&mut self) {
        if self.of.len() < MOST {
            return;
        }
        let soonest = self.of.iter().enumerate().min_by_key(|(_, (_, penalty))| penalty.until);
        if let Some((at, _)) = soonest {
            self.of.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::super::operations::Operations;
    use super::*;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_unix_millis(1_700_000_000_000) + Duration::from_secs(secs)
    }

    fn group(path: &str) -> Group {
        let target = path.parse().unwrap();
        Group::Own(Operations::described().find(&Method::GET, &target, &HeaderMap::new()))
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn a_penalty_holds_its_group_to_the_end_and_no_other() {
        let (mut penalties, heavy, light) = (Penalties::default(), group("/a"), group("/b"));
        penalties.begin(heavy, MINUTE, at(0));
        assert_eq!(penalties.end(&[heavy], at(0)), Some(at(60)));
        assert_eq!(penalties.end(&[light, heavy], at(59)), Some(at(60)));
        assert_eq!(penalties.end(&[heavy], at(60)), Some(at(60)), "within the clock's grain");
        assert_eq!(penalties.end(&[heavy], at(60) + GRAIN), None);
        assert_eq!(penalties.end(&[light], at(0)), None);
        assert_eq!(penalties.last_end(at(59)), Some(at(60) + GRAIN));
        assert_eq!(penalties.last_end(at(60) + GRAIN), None);
        assert!(penalties.of.is_empty(), "forgotten");
    }

    #[test]
    fn a_later_429_prolongs_a_penalty_and_none_shortens_it() {
        let (mut penalties, heavy) = (Penalties::default(), group("/a"));
        penalties.begin(heavy, MINUTE, at(0));
        penalties.begin(heavy, Duration::from_secs(5), at(1));
        assert_eq!(penalties.end(&[heavy], at(2)), Some(at(60)));
        penalties.begin(heavy, MINUTE, at(3));
        assert_eq!(penalties.end(&[heavy], at(4)), Some(at(63)));
    }

    #[test]
    fn a_global_limit_holds_everything_and_a_duplicate_nothing() {
        let (mut penalties, heavy, light) = (Penalties::default(), group("/a"), group("/b"));
        let begun = penalties.begin(heavy, MINUTE, at(0));
        penalties.rescope(&begun, Scope::of(Some("CMN-304")));
        assert_eq!(penalties.end(&[heavy], at(0)), None);

        penalties.begin(heavy, MINUTE, at(0));
        let begun = penalties.begin(heavy, MINUTE, at(10));
        penalties.rescope(&begun, Scope::of(Some("CMN-304")));
        assert_eq!(penalties.end(&[heavy], at(11)), Some(at(60)), "as before the duplicate");

        let begun = penalties.begin(heavy, MINUTE, at(20));
        penalties.begin(heavy, MINUTE, at(21));
        penalties.rescope(&begun, Scope::of(Some("CMN-304")));
        assert_eq!(penalties.end(&[heavy], at(22)), Some(at(81)), "another's 429 stands");

        let begun = penalties.begin(light, MINUTE, at(30));
        penalties.rescope(&begun, Scope::of(Some("CMN-310")));
        assert_eq!(penalties.end(&[group("/c")], at(31)), Some(at(90)));
    }

    #[test]
    fn other_codes_and_none_are_about_the_group() {
        for code in [None, Some("CMN-301"), Some("CMN-302"), Some("CMN-303"), Some("MSG-305")] {
            assert_eq!(Scope::of(code), Scope::Group, "{code:?}");
        }
    }

    #[test]
    fn a_clock_that_is_set_back_by_an_hour_adds_no_hour() {
        let (mut penalties, heavy) = (Penalties::default(), group("/a"));
        penalties.begin(heavy, MINUTE, at(7200));
        assert_eq!(penalties.end(&[heavy], at(3600)), Some(at(3660)));
        assert_eq!(penalties.end(&[heavy], at(3661)), None);
    }

    #[test]
    fn the_memory_of_penalties_is_bounded_and_the_longest_stay() {
        let mut penalties = Penalties::default();
        let word = |n: u8| format!("/{}{}", char::from(b'a' + n % 26), char::from(b'a' + n / 26));
        for n in 0..100 {
            penalties.begin(group(&word(n)), MINUTE, at(u64::from(n)));
        }
        assert_eq!(penalties.of.len(), MOST);
        assert_eq!(penalties.end(&[group(&word(99))], at(100)), Some(at(159)));
    }
}
