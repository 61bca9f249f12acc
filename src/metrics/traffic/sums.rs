//! What all threads have counted together, and their predecessors in the same process.
//!
//! After a reload two proxies count at the same time, each in tallies of its own; the sums are those of
//! both, and stay when the threads of the old one have ended. Its rows go by name then.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Cells, MOST_ADDED, Refusals, Replay, StatusClass, Tally, plus};
use crate::metrics::histogram::Distribution;

/// Identities that are told apart after a successor has come, however often one does.
const MOST_EARLIER: usize = 1000;

/// The tallies of all worker threads, and what came before them in the same process.
#[derive(Debug)]
pub struct Traffic {
    tallies: Box<[Arc<Tally>]>,
    named: usize,
    before: Mutex<Before>,
}

/// What predecessors count: each tally has one writer, so a successor has others.
#[derive(Clone, Debug)]
struct Before {
    /// Of threads that have ended.
    ended: Totals,
    retiring: Vec<Retiring>,
    /// Whose requests are told apart.
    names: BTreeSet<String>,
}

/// The threads of a proxy that finishes what it has begun.
#[derive(Clone, Debug)]
struct Retiring {
    tallies: Vec<Arc<Tally>>,
    /// By row, where they are told apart.
    names: Arc<[Option<String>]>,
}

/// What all threads have counted together.
#[derive(Clone, Debug, Default)]
#[allow(missing_docs, reason = "they are the fields of `Tally`")]
pub struct Totals {
    pub upstream: Distribution,
    pub added: Distribution,
    pub in_progress: u64,
    pub abandoned: u64,
    pub accepted: u64,
    pub websockets: u64,
    pub opened: u64,
    pub open: u64,
    pub idle: u64,
    pub resent: u64,
    pub replays: [u64; Replay::ALL.len()],
    pub refusals: BTreeMap<&'static str, Refusals>,
    /// Requests of nobody, of each identity that has a row, and of all others.
    pub rows: Vec<Cells>,
    /// Requests of identities by name, as counted before the configuration was read anew.
    pub earlier: BTreeMap<String, Cells>,
}

impl Traffic {
    /// For so many threads, where so many identities are configured.
    pub fn new(threads: usize, configured: usize) -> Self {
        let ended = Totals { rows: vec![Cells::default(); 2], ..Totals::default() };
        let before = Before { ended, retiring: Vec::new(), names: BTreeSet::new() };
        Self::after(before, threads, configured)
    }

    /// The same for a successor, which goes on with these sums. `names` are the identities by index
    /// as these threads know them: the successor may have others.
    #[must_use]
    pub fn succeed<'n>(
        &self,
        threads: usize,
        configured: usize,
        names: impl IntoIterator<Item = (usize, &'n str)>,
    ) -> Self {
        let mut before = self.before().clone();
        let mut rows = vec![None; self.named];
        for (index, name) in names.into_iter().filter(|(index, _)| *index < self.named) {
            if before.names.len() < MOST_EARLIER || before.names.contains(name) {
                before.names.insert(name.to_owned());
                rows[index] = Some(name.to_owned());
            }
        }
        before.retiring.push(Retiring { tallies: self.tallies.to_vec(), names: rows.into() });
        Self::after(before, threads, configured)
    }

    fn after(before: Before, threads: usize, configured: usize) -> Self {
        let named = configured + MOST_ADDED;
        let tallies = (0..threads).map(|_| Arc::new(Tally::new(named))).collect();
        Self { tallies, named, before: Mutex::new(before) }
    }

    fn before(&self) -> MutexGuard<'_, Before> {
        let mut before = self.before.lock().unwrap_or_else(PoisonError::into_inner);
        before.fold();
        before
    }

    /// The tally of a thread.
    pub fn tally(&self, thread: usize) -> &Arc<Tally> {
        &self.tallies[thread]
    }

    /// How many identities have a row.
    pub const fn named(&self) -> usize {
        self.named
    }

    /// The sums.
    pub fn totals(&self) -> Totals {
        let before = self.before();
        let mut totals = before.ended.clone();
        for Retiring { tallies, names } in &before.retiring {
            for tally in tallies {
                totals.add_earlier(tally, names);
            }
        }
        drop(before);
        let others = totals.rows.pop().expect("all others' is the last");
        totals.rows.resize(self.named + 1, Cells::default());
        totals.rows.push(others);
        for tally in &self.tallies {
            totals.add(tally);
            for (sum, row) in totals.rows.iter_mut().zip(&tally.rows) {
                plus(sum, &row.read());
            }
        }
        totals
    }
}

impl Before {
    /// Keeps the sums of threads that have ended, and not their tallies.
    fn fold(&mut self) {
        let Self { ended, retiring, .. } = self;
        for Retiring { tallies, names } in &mut *retiring {
            tallies.retain_mut(|tally| {
                // Nobody else has it, so nobody counts in it any more.
                let Some(tally) = Arc::get_mut(tally) else { return true };
                ended.add_earlier(tally, names);
                false
            });
        }
        retiring.retain(|it| !it.tallies.is_empty());
        // Of threads that are no more, nothing is under way.
        for gauge in
            [&mut ended.in_progress, &mut ended.websockets, &mut ended.open, &mut ended.idle]
        {
            *gauge = 0;
        }
    }
}

impl Totals {
    /// All but the rows.
    fn add(&mut self, tally: &Tally) {
        self.upstream.add(&tally.upstream.read());
        self.added.add(&tally.added.read());
        for (sum, count) in [
            (&mut self.in_progress, &tally.in_progress),
            (&mut self.abandoned, &tally.abandoned),
            (&mut self.accepted, &tally.accepted),
            (&mut self.websockets, &tally.websockets),
            (&mut self.opened, &tally.opened),
            (&mut self.open, &tally.open),
            (&mut self.idle, &tally.idle),
            (&mut self.resent, &tally.resent),
        ] {
            *sum += count.get();
        }
        for (sum, count) in self.replays.iter_mut().zip(&tally.replays) {
            *sum += count.get();
        }
        for (code, refusals) in &*tally.refusals.lock().unwrap_or_else(PoisonError::into_inner) {
            let sum = self.refusals.entry(code).or_default();
            sum.count += refusals.count;
            sum.last.clone_from(&refusals.last);
        }
    }

    /// The same with the rows, where these are but nobody's and all others'.
    fn add_earlier(&mut self, tally: &Tally, names: &[Option<String>]) {
        self.add(tally);
        let (first, last) = (0, tally.rows.len() - 1);
        for (index, row) in tally.rows.iter().enumerate() {
            let name = index.checked_sub(1).and_then(|index| names.get(index)?.as_ref());
            let sum = match name {
                Some(name) if index != last => self.earlier.entry(name.clone()).or_default(),
                _ => &mut self.rows[usize::from(index != first)],
            };
            plus(sum, &row.read());
        }
    }

    /// Requests by what was answered, whosever they were.
    pub fn statuses(&self) -> [u64; StatusClass::ALL.len()] {
        let mut all = Cells::default();
        let earlier = self.earlier.values();
        self.rows.iter().chain(earlier).for_each(|row| plus(&mut all, row));
        std::array::from_fn(|status| all.iter().map(|row| row[status]).sum())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::metrics::traffic::MethodClass;

    #[test]
    fn a_successor_goes_on_with_the_sums() {
        let old = Traffic::new(2, 2);
        let busy = [Arc::clone(old.tally(0)), Arc::clone(old.tally(1))];
        for (thread, identity) in [(0, Some(0)), (1, Some(1)), (1, Some(50)), (0, None)] {
            busy[thread].answered(identity, MethodClass::Read, 200);
        }
        busy[0].open.add(1);
        busy[1].websockets.add(3);
        busy[1].accepted.add(3);
        busy[1].refused("RBR-302", "old".to_owned());
        busy[0].upstream.observe(Duration::from_secs(1));
        let new = old.succeed(1, 1, [(0, "sales"), (1, "support"), (9999, "later")]);
        let reads = |count| [[0, count, 0, 0, 0, 0, 0], [0; 7]];
        let check = |sales, gauges, accepted| {
            let totals = new.totals();
            assert_eq!(
                totals.earlier,
                BTreeMap::from([("sales".into(), reads(sales)), ("support".into(), reads(1))])
            );
            assert_eq!((totals.rows.len(), totals.rows[0]), (103, reads(1)));
            assert_eq!((totals.rows[1], totals.rows[102]), (reads(1), reads(1)));
            assert_eq!((totals.open, totals.websockets), gauges);
            assert_eq!((totals.accepted, totals.upstream.count()), (accepted, 1));
            assert_eq!(totals.refusals["RBR-302"], Refusals { count: 2, last: "new".into() });
            assert_eq!(totals.statuses()[StatusClass::Success as usize], sales + 4);
        };
        new.tally(0).answered(Some(0), MethodClass::Read, 200);
        new.tally(0).refused("RBR-302", "new".to_owned());
        check(1, (1, 3), 3);
        busy[0].answered(Some(0), MethodClass::Read, 200);
        check(2, (1, 3), 3);
        // What it has begun is cut off.
        drop((old, busy));
        check(2, (0, 0), 3);
        assert!(new.before().retiring.is_empty());
        let third = new.succeed(1, 0, [(0, "sales")]);
        let totals = third.totals();
        assert_eq!((totals.earlier["sales"], totals.accepted), (reads(3), 3));
    }

    #[test]
    fn names_of_the_past_are_bounded() {
        let mut traffic = Traffic::new(1, 300);
        for round in 0..5 {
            (0..300).for_each(|it| traffic.tally(0).answered(Some(it), MethodClass::Read, 200));
            let names: Vec<_> = (0..300).map(|it| format!("{round}-{it}")).collect();
            traffic = traffic.succeed(1, 300, names.iter().map(String::as_str).enumerate());
        }
        let totals = traffic.totals();
        assert_eq!((totals.earlier.len(), totals.rows[401][0][1]), (1000, 500));
    }
}
