//! Which rate-limit group an operation belongs to: what the descriptions say, until an answer of
//! RingCentral's says otherwise.
//!
//! Names are opaque; only their case is folded. Every answer is compared with what is known, on every
//! thread, so reading takes no lock; only a name that was never heard before does. Memory is bounded:
//! so many names, and so many operations that nobody describes, of which the last ones are remembered.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::operations::{Operation, Operations};
use crate::metrics::MOST_GROUPS;

/// A longer name is none.
const LONGEST_NAME: usize = 32;

/// Undescribed operations that are remembered.
const MOST_STRANGE: usize = 1024;

/// Places that each of them may have.
const PROBES: usize = 4;

/// The last byte of an operation's entry is its group.
const GROUP_BITS: u64 = 0xff;

/// Stands for none.
const NONE: u8 = u8::MAX;

/// A name that was heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(u8);

impl GroupId {
    /// Its place among all names.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// What is limited together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Group {
    /// All operations of this name.
    Named(GroupId),
    /// One operation, of which no group is known.
    Own(Operation),
}

/// What is known of groups.
#[derive(Debug)]
pub struct Groups {
    names: boxcar::Vec<Box<str>>,
    naming: Mutex<()>,
    /// By an operation's place in the table.
    described: Box<[AtomicU8]>,
    /// By an operation's number: all but its last byte, which gives way to the group and one.
    strange: Box<[AtomicU64]>,
}

impl Groups {
    /// What the descriptions say.
    pub(super) fn new(operations: &Operations) -> Self {
        let strange = (0..MOST_STRANGE).map(|_| AtomicU64::new(0)).collect();
        let (names, naming) = (boxcar::Vec::new(), Mutex::default());
        let mut groups = Self { names, naming, described: Box::default(), strange };
        let described = operations.groups().map(|name| {
            let id = name.and_then(|name| groups.named(name.as_bytes()));
            AtomicU8::new(id.map_or(NONE, |id| id.0))
        });
        groups.described = described.collect();
        groups
    }

    /// The group that an operation belongs to.
    pub fn of(&self, operation: Operation) -> Group {
        self.known(operation).map_or(Group::Own(operation), Group::Named)
    }

    /// The name of a group; none where one operation is alone.
    pub fn name(&self, group: Group) -> Option<&str> {
        match group {
            Group::Named(id) => self.names.get(id.index()).map(|name| &**name),
            Group::Own(_) => None,
        }
    }

    /// All names that were heard.
    pub fn names(&self) -> impl Iterator<Item = (GroupId, &str)> {
        (0..).map(GroupId).zip(self.names.iter().map(|(_, name)| &**name))
    }

    /// An answer to this operation has named its group.
    #[inline]
    pub(super) fn learn(&self, operation: Operation, name: &[u8]) -> Group {
        if let Some(known) = self.known(operation)
            && self.names[known.index()].as_bytes().eq_ignore_ascii_case(name)
        {
            return Group::Named(known);
        }
        self.note(operation, name)
    }

    #[cold]
    fn note(&self, operation: Operation, name: &[u8]) -> Group {
        let Some(id) = self.named(name) else { return self.of(operation) };
        match operation.place() {
            Some(place) => self.described[place].store(id.0, Ordering::Relaxed),
            None => self.remember(operation, id),
        }
        Group::Named(id)
    }

    fn known(&self, operation: Operation) -> Option<GroupId> {
        if let Some(place) = operation.place() {
            return Some(self.described[place].load(Ordering::Relaxed))
                .filter(|id| *id != NONE)
                .map(GroupId);
        }
        let key = operation.number() & !GROUP_BITS;
        let entry = self.places(operation).find_map(|place| {
            let entry = self.strange[place].load(Ordering::Relaxed);
            (entry & !GROUP_BITS == key && entry & GROUP_BITS != 0).then_some(entry)
        })?;
        u8::try_from((entry & GROUP_BITS) - 1).ok().map(GroupId)
    }

    fn remember(&self, operation: Operation, id: GroupId) {
        let key = operation.number() & !GROUP_BITS;
        let is_ours_or_free = |place: &usize| {
            let entry = self.strange[*place].load(Ordering::Relaxed);
            entry == 0 || entry & !GROUP_BITS == key
        };
        let mut places = self.places(operation);
        let first = places.next().expect("there are four");
        let place = std::iter::once(first).chain(places).find(is_ours_or_free).unwrap_or(first);
        self.strange[place].store(key | (u64::from(id.0) + 1), Ordering::Relaxed);
    }

    fn places(&self, operation: Operation) -> impl Iterator<Item = usize> + use<> {
        let count = self.strange.len();
        let home = usize::try_from(operation.number() % count as u64).expect("less than the count");
        (0..PROBES).map(move |step| (home + step) % count)
    }

    /// The group of that name; none if it is no name, or there are too many.
    pub(super) fn named(&self, name: &[u8]) -> Option<GroupId> {
        let name = std::str::from_utf8(name.trim_ascii()).ok()?;
        let is_name = (1..=LONGEST_NAME).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_name {
            return None;
        }
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.names().find(|(_, known)| known.eq_ignore_ascii_case(name));
        if let Some((id, _)) = known {
            return Some(id);
        }
        if self.names.count() >= MOST_GROUPS {
            return None;
        }
        let index = self.names.push(name.to_ascii_lowercase().into());
        Some(GroupId(u8::try_from(index).expect("there are few")))
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, Method};

    use super::*;

    fn operation(all: &Operations, path: &str) -> Operation {
        all.find(&Method::GET, &path.parse().unwrap(), &HeaderMap::new())
    }

    const CALL_LOG: &str = "/restapi/v1.0/account/~/call-log";

    #[test]
    fn the_table_speaks_until_an_answer_does() {
        let all = Operations::described();
        let groups = Groups::new(&all);
        let names: Vec<_> = groups.names().map(|(_, name)| name.to_owned()).collect();
        assert_eq!(names, ["light", "auth", "heavy", "medium"], "as they come in the table");
        let call_log = operation(&all, CALL_LOG);
        assert_eq!(groups.name(groups.of(call_log)), Some("heavy"));
        let same = groups.learn(call_log, b"Heavy");
        assert_eq!(same, groups.of(call_log));
        let other = groups.learn(call_log, b"analytics");
        assert_eq!((groups.name(other), groups.of(call_log)), (Some("analytics"), other));
    }

    #[test]
    fn what_has_no_limit_or_is_not_described_is_alone_until_an_answer_names_its_group() {
        let all = Operations::described();
        let groups = Groups::new(&all);
        let (free, strange) = (operation(&all, "/restapi"), operation(&all, "/new/v2/things/1"));
        assert_eq!(groups.of(free), Group::Own(free));
        assert_eq!(groups.of(strange), Group::Own(strange));
        let light = groups.of(operation(&all, "/restapi/v1.0/account/~"));
        assert_eq!(groups.learn(strange, b"LIGHT"), light);
        assert_eq!(groups.of(operation(&all, "/new/v2/things/2")), light);
        assert_eq!(groups.of(free), Group::Own(free));
    }

    #[test]
    fn what_is_no_name_teaches_nothing_and_names_are_bounded() {
        let all = Operations::described();
        let groups = Groups::new(&all);
        let call_log = operation(&all, CALL_LOG);
        let before = groups.of(call_log);
        for name in [&b""[..], b"two words", b"\xff", &[b'x'; LONGEST_NAME + 1]] {
            assert_eq!(groups.learn(call_log, name), before, "{name:?}");
        }
        for n in 0..1000 {
            groups.learn(call_log, format!("group-{n}").as_bytes());
        }
        assert_eq!(groups.names().count(), MOST_GROUPS);
        assert_eq!(groups.name(groups.of(call_log)), Some("group-27"), "the last that was taken");
    }

    #[test]
    fn a_hundred_thousand_strange_paths_take_the_room_of_a_thousand() {
        let all = Operations::described();
        let groups = Groups::new(&all);
        let words = |n: usize| {
            let letter = |n: usize| char::from(b'a' + u8::try_from(n % 26).unwrap());
            [n, n / 26, n / 676, n / 17576].map(letter).iter().collect::<String>()
        };
        for n in 0..100_000 {
            let strange = operation(&all, &format!("/new/{}", words(n)));
            let learnt = groups.learn(strange, b"light");
            assert_eq!(groups.of(strange), learnt, "{n}: just learnt");
        }
        assert_eq!((groups.strange.len(), groups.names().count()), (MOST_STRANGE, 4));
    }
}
