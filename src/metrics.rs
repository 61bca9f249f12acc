//! Figures for Prometheus: counters, counted where things happen, and the text they are shown in.
//!
//! A leaf of plain atomics: counting costs one addition and no lock. Whoever writes a [`Page`] sees to
//! it that labels are bounded; nothing here takes a path, a query or a client's word for a label.

pub mod limits;

use std::fmt::{self, Display, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hold {
    /// A penalty runs.
    Penalty,
    /// It would not have had its turn in time.
    Turn,
    /// Too many wait already.
    Queue,
}

impl Hold {
    /// Each of them.
    pub const ALL: [Self; 3] = [Self::Penalty, Self::Turn, Self::Queue];

    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Penalty => "penalty",
            Self::Turn => "max_wait",
            Self::Queue => "max_queue",
        }
    }
}

/// Rate-limit groups that are told apart; RingCentral has half a dozen.
pub const MOST_GROUPS: usize = 32;

/// A remaining count that was seen longer ago says nothing.
const FRESH_SECS: u64 = 60;

/// The low bits of an entry are the count, the others when it was seen.
const COUNT_BITS: u32 = 24;

/// What rate limits do to one identity's requests.
#[derive(Debug, Default)]
pub struct Throttling {
    penalties: AtomicU64,
    held: [AtomicU64; Hold::ALL.len()],
    waiting: AtomicU64,
    remaining: [AtomicU64; MOST_GROUPS],
}

impl Throttling {
    /// RingCentral answered 429.
    pub fn begin(&self) {
        self.penalties.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it did.
    pub fn penalties(&self) -> u64 {
        self.penalties.load(Ordering::Relaxed)
    }

    /// A request was not sent.
    pub fn hold(&self, why: Hold) {
        self.held[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many were not.
    pub fn held(&self, why: Hold) -> u64 {
        self.held[why as usize].load(Ordering::Relaxed)
    }

    /// One more or one fewer waits for its turn.
    pub fn wait(&self, begins: bool) {
        if begins {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> u64 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// An answer said how many requests are left in a group, the one with this place.
    pub fn remains(&self, group: usize, count: u32, unix_secs: u64) {
        if let Some(entry) = self.remaining.get(group) {
            let count = u64::from(count).min((1 << COUNT_BITS) - 1);
            entry.store((unix_secs << COUNT_BITS) | count, Ordering::Relaxed);
        }
    }

    /// What the last answer within a minute said.
    pub fn remaining(&self, group: usize, unix_secs: u64) -> Option<u64> {
        let entry = self.remaining.get(group)?.load(Ordering::Relaxed);
        let (seen, count) = (entry >> COUNT_BITS, entry & ((1 << COUNT_BITS) - 1));
        (seen.abs_diff(unix_secs) <= FRESH_SECS).then_some(count)
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

/// What a figure does over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises.
    Counter,
    /// It goes up and down.
    Gauge,
}

/// A page in Prometheus' text format, version 0.0.4.
#[derive(Debug, Default)]
pub struct Page(String);

impl Page {
    /// What the format calls itself.
    pub const CONTENT_TYPE: &'static str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family: all samples of one name stand together, below its description.
    pub fn family(&mut self, name: &'static str, kind: Kind, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.write(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        Family { page: self, name }
    }

    /// The text.
    pub fn into_text(self) -> String {
        self.0
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        self.0.write_fmt(text).expect("writing to a String cannot fail");
    }
}

/// A family that samples are added to.
#[derive(Debug)]
pub struct Family<'p> {
    page: &'p mut Page,
    name: &'static str,
}

impl Family<'_> {
    /// Adds a sample with its labels.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.page.write(format_args!("{}", self.name));
        for (index, (label, text)) in labels.iter().enumerate() {
            let opening = if index == 0 { '{' } else { ',' };
            self.page.write(format_args!("{opening}{label}=\"{}\"", escaped(text)));
        }
        let closing = if labels.is_empty() { "" } else { "}" };
        self.page.write(format_args!("{closing} {value}\n"));
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_says_what_it_is_before_its_samples() {
        let mut page = Page::default();
        page.family("up", Kind::Gauge, "Whether it is.").sample(&[], 1);
        let mut family = page.family("done_total", Kind::Counter, "What was done.");
        family.sample(&[("by", "a\"b\\c\nd"), ("how", "well")], 2.5);
        assert_eq!(
            page.into_text(),
            "# HELP up Whether it is.\n# TYPE up gauge\nup 1\n\
             # HELP done_total What was done.\n# TYPE done_total counter\n\
             done_total{by=\"a\\\"b\\\\c\\nd\",how=\"well\"} 2.5\n"
        );
    }

    #[test]
    fn what_remains_is_forgotten_after_a_minute_and_outside_the_bound() {
        let figures = Throttling::default();
        assert_eq!(figures.remaining(3, 1_700_000_000), None, "never seen");
        figures.remains(3, 7, 1_700_000_000);
        figures.remains(MOST_GROUPS, 7, 1_700_000_000);
        assert_eq!(figures.remaining(3, 1_700_000_060), Some(7));
        assert_eq!(figures.remaining(3, 1_700_000_061), None);
        assert_eq!(figures.remaining(2, 1_700_000_000), None);
        assert_eq!(figures.remaining(MOST_GROUPS, 1_700_000_000), None);
    }

    #[test]
    fn each_hold_is_counted_apart() {
        let figures = Throttling::default();
        for (times, why) in Hold::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| figures.hold(why));
        }
        assert_eq!(Hold::ALL.map(|why| figures.held(why)), [0, 1, 2]);
        assert_eq!(Hold::ALL.map(Hold::as_str), ["penalty", "max_wait", "max_queue"]);
    }

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
