//! What has happened lately: a look every two seconds, kept in a bounded memory for the status page.
//!
//! Looking is cheaper than being told: nothing on the way of a request knows of this, and a thousand
//! refusals in two seconds are one event. What no look has seen, the log has.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::Instruments;
use super::health::Seen;
use crate::clock::{Clock, Timestamp};
use crate::metrics::Outcome;
use crate::metrics::histogram::Distribution;
use crate::metrics::traffic::{StatusClass, Totals};
use crate::telemetry::chain;
use crate::token::Generation;
use crate::token::identities::Identities;
use crate::token::keeper::Keeper;
use crate::token::lifecycle::Standing;
use crate::token::roster::Moment;

/// How often it looks.
pub(super) const EVERY: Duration = Duration::from_secs(2);

/// Five minutes.
const MOST_SAMPLES: usize = 150;

const MOST_EVENTS: usize = 100;

/// Among so many of the latest events the same one is not told again, but counted.
const RECENT: usize = 10;

/// Looks, and remembers.
pub(super) struct Observer {
    started: Timestamp,
    memory: Mutex<Memory>,
}

struct Memory {
    known: HashMap<String, Known>,
    refusals: HashMap<&'static str, u64>,
    fault: Option<String>,
    /// Of the configuration: in use, and refused.
    reloads: (u64, u64),
    totals: Totals,
    looked: Timestamp,
    history: VecDeque<Sample>,
    events: VecDeque<Event>,
}

/// An identity at the last look.
#[derive(Default)]
struct Known {
    counts: [u64; Outcome::ALL.len()],
    needs_login: bool,
}

/// What went through in the time between two looks.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Sample {
    pub(super) at_ms: u64,
    pub(super) took_ms: u64,
    /// 1xx to 3xx.
    pub(super) ok: u64,
    /// 4xx but 429.
    pub(super) refused: u64,
    /// 429.
    pub(super) throttled: u64,
    /// 5xx.
    pub(super) failed: u64,
    pub(super) upstream_ms: Option<Spread>,
    pub(super) added_ms: Option<Spread>,
}

/// How long requests took, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    pub(super) p50: f64,
    pub(super) p99: f64,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Info,
    Warning,
    Error,
}

/// Something that happened, once or several times.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Event {
    /// When it happened last.
    pub(super) at: Moment,
    pub(super) level: Level,
    pub(super) what: &'static str,
    pub(super) identity: Option<String>,
    pub(super) text: String,
    pub(super) times: u64,
}

impl Observer {
    /// What `instruments` show by now is no news.
    pub(super) fn new(instruments: &Instruments, clock: &Clock) -> Self {
        let totals = instruments.counters.traffic.totals();
        Self::after(instruments.configuration.counts(), totals, clock)
    }

    fn after(reloads: (u64, u64), totals: Totals, clock: &Clock) -> Self {
        let started = clock.now();
        let memory = Memory {
            known: HashMap::new(),
            refusals: totals.refusals.iter().map(|(code, it)| (*code, it.count)).collect(),
            fault: None,
            reloads,
            totals,
            looked: started,
            history: VecDeque::new(),
            events: VecDeque::new(),
        };
        Self { started, memory: Mutex::new(memory) }
    }

    /// Since when it looks.
    pub(super) const fn started(&self) -> Timestamp {
        self.started
    }

    /// Looks at everything.
    pub(super) fn look(
        &self,
        identities: &Identities,
        instruments: &Instruments,
        store: &Seen,
        clock: &Clock,
    ) {
        let now = clock.now();
        let mut memory = self.memory();
        memory.look_at_store(store, now);
        let all = || identities.configured().chain(identities.added());
        for (_, keeper) in all() {
            memory.look_at_identity(keeper, now);
        }
        if memory.known.len() > all().count() {
            memory.known.retain(|name, _| identities.find(name).is_some());
        }
        memory.look_at_reloads(instruments.configuration.counts(), now);
        memory.look_at_traffic(instruments.counters.traffic.totals(), now);
    }

    /// An operator has done something, to one identity or to the whole.
    pub(super) fn operated(&self, identity: Option<&str>, text: &str, clock: &Clock) {
        let at = Moment(clock.now());
        let (identity, text) = (identity.map(str::to_owned), text.to_owned());
        let event = Event { at, level: Level::Info, what: "operator", identity, text, times: 1 };
        self.memory().tell(event);
    }

    /// The latest samples, oldest first.
    pub(super) fn history(&self) -> Vec<Sample> {
        self.memory().history.iter().cloned().collect()
    }

    /// The latest events, newest first.
    pub(super) fn events(&self) -> Vec<Event> {
        self.memory().events.iter().cloned().collect()
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    fn look_at_store(&mut self, seen: &Seen, now: Timestamp) {
        let (level, text) = match (&self.fault, &seen.fault) {
            (None, Some(fault)) => (Level::Error, fault.clone()),
            (Some(_), None) => (Level::Info, "the store answers again".to_owned()),
            _ => return,
        };
        self.fault.clone_from(&seen.fault);
        self.tell(Event { at: Moment(now), level, what: "store", identity: None, text, times: 1 });
    }

    fn look_at_identity(&mut self, keeper: &Keeper, now: Timestamp) {
        let (status, counts) =
            (keeper.status(), Outcome::ALL.map(|outcome| keeper.renewals().get(outcome)));
        let known = self.known.entry(keeper.name().to_owned()).or_default();
        let before = std::mem::replace(&mut known.counts, counts);
        let needs_login = matches!(status.state, Standing::NeedsLogin(_));
        let is_lost = needs_login && !std::mem::replace(&mut known.needs_login, needs_login);
        known.needs_login = needs_login;
        let mut news = Vec::new();
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            let times = counts[index].saturating_sub(before[index]);
            if times == 0 {
                continue;
            }
            let generation = status.generation.map_or(0, Generation::number);
            let (level, at, text) = match outcome {
                Outcome::Renewed => {
                    let at = status.issued_at.unwrap_or(now).min(now);
                    let life = at.until(status.expires_at.unwrap_or(at)).as_secs().div_ceil(60);
                    let text = format!("renewed: generation {generation}, good for {life} min");
                    (Level::Info, at, text)
                }
                Outcome::Adopted => {
                    let text = format!("another process has renewed: generation {generation}");
                    (Level::Info, now, text)
                }
                _ => {
                    let level = if needs_login { Level::Error } else { Level::Warning };
                    let error = status.last_error.as_deref().map(|error| chain(error));
                    let text = error.unwrap_or_else(|| format!("no token: {}", outcome.as_str()));
                    (level, now, text)
                }
            };
            news.push((level, at, text, times));
        }
        if is_lost && news.is_empty() {
            let why = chain(&*keeper.unavailable().reason);
            news.push((Level::Error, now, why, 1));
        }
        for (level, at, text, times) in news {
            let (at, identity) = (Moment(at), Some(keeper.name().to_owned()));
            self.tell(Event { at, level, what: "token", identity, text, times });
        }
    }

    fn look_at_reloads(&mut self, reloads: (u64, u64), now: Timestamp) {
        let before = std::mem::replace(&mut self.reloads, reloads);
        let loaded = (Level::Info, "the configuration was read anew and is in use");
        let refused =
            (Level::Error, "the configuration was refused and the old one stays: the log says why");
        let all = [(reloads.0 - before.0, loaded), (reloads.1 - before.1, refused)];
        for (times, (level, text)) in all.into_iter().filter(|(times, _)| *times > 0) {
            let (at, text) = (Moment(now), text.to_owned());
            self.tell(Event { at, level, what: "reload", identity: None, text, times });
        }
    }

    fn look_at_traffic(&mut self, totals: Totals, now: Timestamp) {
        for (code, refusals) in &totals.refusals {
            let before = self.refusals.insert(code, refusals.count).unwrap_or(0);
            let times = refusals.count.saturating_sub(before);
            if times > 0 {
                let failed = code.starts_with("RBR-2") || code.starts_with("RBR-3");
                let level = if failed { Level::Error } else { Level::Warning };
                let text = refusals.last.clone();
                let at = Moment(now);
                self.tell(Event { at, level, what: code, identity: None, text, times });
            }
        }
        if now > self.looked {
            let sample = Sample::between(&self.totals, &totals, self.looked, now);
            self.history.push_back(sample);
            if self.history.len() > MOST_SAMPLES {
                self.history.pop_front();
            }
        }
        self.looked = now;
        self.totals = totals;
    }

    fn tell(&mut self, mut event: Event) {
        let same = |it: &Event| {
            it.what == event.what && it.identity == event.identity && it.text == event.text
        };
        if let Some(index) = self.events.iter().take(RECENT).position(same) {
            let before = self.events.remove(index).expect("it was found");
            event.times += before.times;
        }
        self.events.push_front(event);
        self.events.truncate(MOST_EVENTS);
    }
}

impl Sample {
    fn between(before: &Totals, after: &Totals, from: Timestamp, to: Timestamp) -> Self {
        let (before_statuses, after_statuses) = (before.statuses(), after.statuses());
        let of = |class: StatusClass| {
            after_statuses[class as usize].saturating_sub(before_statuses[class as usize])
        };
        Self {
            at_ms: to.unix_millis(),
            took_ms: to.unix_millis().saturating_sub(from.unix_millis()),
            ok: of(StatusClass::Informational)
                + of(StatusClass::Success)
                + of(StatusClass::Redirection),
            refused: of(StatusClass::Unauthorized) + of(StatusClass::ClientError),
            throttled: of(StatusClass::Throttled),
            failed: of(StatusClass::ServerError),
            upstream_ms: Spread::of(&after.upstream.since(&before.upstream)),
            added_ms: Spread::of(&after.added.since(&before.added)),
        }
    }
}

impl Spread {
    fn of(distribution: &Distribution) -> Option<Self> {
        let millis = |share| {
            let took = distribution.quantile(share)?;
            Some((took.as_secs_f64() * 1e6).round() / 1e3)
        };
        Some(Self { p50: millis(0.5)?, p99: millis(0.99)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::traffic::{MethodClass, Traffic};

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    fn memory() -> Observer {
        Observer::after((0, 0), Totals::default(), &Clock::manual(NOW))
    }

    fn event(text: &str) -> Event {
        let at = Moment(NOW);
        let text = text.to_owned();
        Event { at, level: Level::Info, what: "token", identity: None, text, times: 1 }
    }

    #[test]
    fn a_sample_is_what_came_between_two_looks() {
        let (observer, traffic) = (memory(), Traffic::new(1, 1));
        let tally = traffic.tally(0);
        let look = |seconds| {
            observer.memory().look_at_traffic(traffic.totals(), NOW + Duration::from_secs(seconds));
        };
        look(0);
        assert!(observer.history().is_empty(), "no time has passed");
        for status in [101, 200, 302, 401, 404, 429, 500, 503] {
            tally.answered(Some(0), MethodClass::Read, status);
        }
        tally.upstream.observe(Duration::from_millis(1));
        look(2);
        tally.answered(Some(0), MethodClass::Read, 200);
        look(5);
        let history = observer.history();
        let counts = |it: &Sample| (it.took_ms, it.ok, it.refused, it.throttled, it.failed);
        assert_eq!(
            history.iter().map(counts).collect::<Vec<_>>(),
            [(2000, 3, 2, 1, 2), (3000, 1, 0, 0, 0)]
        );
        assert_eq!(history[0].upstream_ms, Some(Spread { p50: 0.75, p99: 0.995 }));
        assert_eq!(history[1].upstream_ms, None);
        (6..1000).for_each(look);
        assert_eq!(observer.history().len(), 150);
    }

    #[test]
    fn what_repeats_itself_is_counted_and_the_memory_is_bounded() {
        let observer = memory();
        for text in ["a", "b", "a", "a"] {
            observer.memory().tell(event(text));
        }
        let told: Vec<_> = observer.events().into_iter().map(|it| (it.text, it.times)).collect();
        assert_eq!(told, [("a".to_owned(), 3), ("b".to_owned(), 1)]);
        (0..1000).for_each(|number| observer.memory().tell(event(&number.to_string())));
        assert_eq!(observer.events().len(), 100);
        assert_eq!(observer.events()[0].text, "999");
    }

    #[test]
    fn refusals_are_one_event_per_code_and_look() {
        let (observer, traffic) = (memory(), Traffic::new(1, 0));
        for _ in 0..1000 {
            traffic.tally(0).refused("RBR-302", "cannot connect".to_owned());
            traffic.tally(0).refused("RBR-106", "no identity".to_owned());
        }
        observer.memory().look_at_traffic(traffic.totals(), NOW);
        let told = observer.events();
        let told: Vec<_> = told.iter().map(|it| (it.what, it.level, it.times)).collect();
        assert_eq!(told, [("RBR-302", Level::Error, 1000), ("RBR-106", Level::Warning, 1000)]);
    }

    #[test]
    fn reloads_are_told_but_not_those_before_its_time() {
        let observer = Observer::after((3, 1), Totals::default(), &Clock::manual(NOW));
        for reloads in [(3, 1), (4, 1), (4, 3), (4, 3)] {
            observer.memory().look_at_reloads(reloads, NOW);
        }
        let told = observer.events();
        let told: Vec<_> = told.iter().map(|it| (it.level, &*it.text, it.times)).collect();
        let refused = "the configuration was refused and the old one stays: the log says why";
        let loaded = "the configuration was read anew and is in use";
        assert_eq!(told, [(Level::Error, refused, 2), (Level::Info, loaded, 1)]);
    }

    #[test]
    fn a_store_that_goes_and_comes_is_told_twice() {
        let observer = memory();
        let down = Seen { fault: Some("check the disk".into()), budgets: Vec::new() };
        for seen in [&Seen::default(), &down, &down, &Seen::default()] {
            observer.memory().look_at_store(seen, NOW);
        }
        let told = observer.events();
        let told: Vec<_> = told.iter().map(|it| (it.level, &*it.text)).collect();
        assert_eq!(
            told,
            [(Level::Info, "the store answers again"), (Level::Error, "check the disk")]
        );
    }
}
