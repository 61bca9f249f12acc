//! Random histories: whatever happens, the promises are kept, and the end is a token.

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Weather {
    Fine,
    Fails(Failure),
}

fn weather() -> impl Strategy<Value = Weather> {
    prop_oneof![
        4 => Just(Weather::Fine),
        1 => (1_u64..120).prop_map(|s| Weather::Fails(Failure::Penalty(Duration::from_secs(s)))),
        1 => Just(Weather::Fails(Failure::Unanswered)),
        1 => Just(Weather::Fails(Failure::Unreachable)),
        1 => Just(Weather::Fails(Failure::Unexpected)),
        1 => Just(Weather::Fails(Failure::Store)),
        1 => Just(Weather::Fails(Failure::LeaseHeld)),
        1 => Just(Weather::Fails(Failure::GrantRefused)),
        1 => Just(Weather::Fails(Failure::GrantNotAllowed)),
        1 => Just(Weather::Fails(Failure::ClientRefused)),
    ]
}

/// What happens between two steps of the machine.
#[derive(Clone, Copy, Debug)]
enum Happening {
    Nothing,
    Wanted,
    Accepted,
    Refused,
    Changed,
    SetBack,
    /// The store has another process's renewal, should it be read now.
    Newer,
    /// Somebody has logged out.
    Erased,
    /// An operator has ordered a renewal.
    Ordered,
}

fn happening() -> impl Strategy<Value = Happening> {
    use Happening::{Accepted, Changed, Erased, Newer, Nothing, Ordered, Refused, SetBack, Wanted};
    prop_oneof![
        2 => Just(Nothing),
        2 => Just(Wanted),
        3 => Just(Accepted),
        2 => Just(Refused),
        2 => Just(Changed),
        1 => Just(SetBack),
        1 => Just(Newer),
        1 => Just(Erased),
        1 => Just(Ordered),
    ]
}

/// A history of the machine, and everything that was promised about it.
struct History {
    bench: Bench,
    life: Duration,
    action: Action,
    silent_until: Timestamp,
    /// No token of this one or an earlier one is offered any more.
    dead: Generation,
    /// The latest generation there ever was.
    newest: Generation,
    /// Credentials that were refused in this session.
    refused: Vec<Source>,
}

impl History {
    fn new(means: Means, fallback: bool, life: Duration) -> Self {
        let mut bench = Bench::with(means, fallback);
        let action = bench.step(Event::Time);
        let (silent_until, dead, newest) = (NOW, Generation::NONE, Generation::NONE);
        Self { bench, life, action, silent_until, dead, newest, refused: Vec::new() }
    }

    /// One step, then every promise is looked at.
    fn go(
        &mut self,
        weather: Weather,
        pause: Duration,
        happening: Happening,
    ) -> Result<(), TestCaseError> {
        self.look_at_the_action()?;
        if matches!(happening, Happening::Refused | Happening::SetBack | Happening::Changed) {
            // These come in the middle of an action, too.
            self.happen(happening)?;
        }
        self.action = match self.action {
            Action::Read => self.read(weather, happening),
            Action::Renew(source) => self.renew(source, weather),
            Action::Rest(until) => {
                let by = self.bench.now + pause;
                self.bench.now = self.bench.now.max(until.unwrap_or(by).min(by));
                self.happen(happening)?;
                self.bench.step(Event::Time)
            }
            Action::Continue => unreachable!("looked at above"),
        };
        self.look_at_the_offer()
    }

    fn look_at_the_action(&mut self) -> Result<(), TestCaseError> {
        if let Action::Renew(source) = self.action {
            prop_assert!(self.bench.now >= self.silent_until, "sent inside a penalty");
            prop_assert!(!self.refused.contains(&source), "{source:?} was refused before");
        }
        if matches!(self.action, Action::Read | Action::Renew(_)) {
            let meanwhile = self.bench.step(Event::Time);
            prop_assert_eq!(meanwhile, Action::Continue, "one thing at a time");
        }
        Ok(())
    }

    fn look_at_the_offer(&mut self) -> Result<(), TestCaseError> {
        let now = self.bench.now;
        if let Some(latest) = self.bench.machine.latest() {
            prop_assert!(latest.generation >= self.newest, "a generation fell");
            self.newest = latest.generation;
        }
        if let Some(offered) = self.bench.machine.offered(now) {
            prop_assert!(now < offered.expires_at, "offered an expired token");
            prop_assert!(offered.issued_at <= now, "offered a token of the future");
            prop_assert!(offered.generation > self.dead, "offered a dead token");
        }
        Ok(())
    }

    fn happen(&mut self, happening: Happening) -> Result<(), TestCaseError> {
        let latest = self.bench.latest();
        match happening {
            Happening::Wanted => self.bench.note(Signal::Wanted),
            Happening::Accepted => self.bench.note(Signal::Accepted(latest)),
            Happening::Changed | Happening::Newer | Happening::Erased => {
                self.bench.note(Signal::Changed);
            }
            Happening::Ordered => {
                let before = self.bench.machine.standing(self.bench.now);
                self.bench.note(Signal::Ordered);
                if let Standing::NeedsLogin(lost) = before {
                    // What may have been cured is tried again; what was used up never is.
                    let is_curable = |source: &Source| match source {
                        Source::Refresh => lost == Lost::GrantNotAllowed,
                        source => matches!(source, Source::Open | Source::Fallback),
                    };
                    self.refused.retain(|source| !is_curable(source));
                }
            }
            Happening::SetBack => {
                let by = Duration::from_secs(1000);
                self.bench.now = self.bench.now - by;
                self.silent_until = self.silent_until - by;
                self.bench.note(Signal::ClockSetBack(by));
            }
            Happening::Refused => {
                self.bench.note(Signal::Refused(latest));
                match self.bench.machine.offered(self.bench.now) {
                    // Others were let in with it, and a renewal was forced a moment ago.
                    Some(kept) => {
                        prop_assert!(self.bench.now < self.bench.machine.cool_until());
                        prop_assert!(self.bench.machine.accepted(), "kept {:?}", kept);
                    }
                    None => self.dead = self.dead.max(latest),
                }
            }
            Happening::Nothing => {}
        }
        Ok(())
    }

    fn read(&mut self, weather: Weather, happening: Happening) -> Action {
        match (weather, happening) {
            (Weather::Fails(Failure::Store), _) => self.bench.fail(Failure::Store),
            (Weather::Fine, Happening::Newer) => {
                self.refused.clear();
                let known = self.bench.next(self.life);
                self.bench.step(Event::Read(Some(known)))
            }
            (Weather::Fine, Happening::Erased) => {
                self.refused.clear();
                self.bench.generation += 1;
                self.dead = self.bench.latest();
                self.bench.step(Event::Erased(self.bench.latest()))
            }
            _ => self.bench.step(Event::Read(self.bench.machine.latest())),
        }
    }

    fn renew(&mut self, source: Source, weather: Weather) -> Action {
        let Weather::Fails(failure) = weather else {
            self.refused.clear();
            return self.bench.obtain(self.life);
        };
        match failure {
            Failure::Penalty(silence) => self.silent_until = self.bench.now + silence,
            Failure::GrantRefused | Failure::GrantNotAllowed => self.refused.push(source),
            _ => {}
        }
        self.bench.fail(failure)
    }

    /// The server recovers, a request waits, and where only a login helps, somebody logs in: how
    /// long it takes to a token.
    fn recover(&mut self) -> Result<Duration, TestCaseError> {
        let began = self.bench.now;
        self.bench.note(Signal::Wanted);
        if matches!(self.action, Action::Rest(_)) {
            // A signal ends a rest; the machine thinks again.
            self.action = self.bench.step(Event::Time);
        }
        while self.bench.machine.offered(self.bench.now).is_none() {
            let now = self.bench.now;
            prop_assert!(began.until(now) < 2 * HOUR, "no progress: {:?}", self.bench.machine);
            self.look_at_the_action()?;
            let lost = matches!(self.bench.machine.standing(now), Standing::NeedsLogin(_));
            self.action = match self.action {
                Action::Read if lost => self.read(Weather::Fine, Happening::Newer),
                Action::Read => self.read(Weather::Fine, Happening::Nothing),
                Action::Renew(source) => self.renew(source, Weather::Fine),
                Action::Rest(until) => {
                    prop_assert!(until.is_some(), "asleep for ever: {:?}", self.bench.machine);
                    self.bench.now = now.max(until.unwrap_or(now));
                    self.bench.step(Event::Time)
                }
                Action::Continue => unreachable!("looked at above"),
            };
            self.look_at_the_offer()?;
        }
        Ok(began.until(self.bench.now))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Any weather, anything happening at any time: and then the server recovers.
    #[test]
    fn no_history_breaks_the_promises(
        means in prop_oneof![Just(Means::Once), Just(Means::Reopens), Just(Means::Login)],
        fallback in any::<bool>(),
        life in 1_u64..7200,
        history in prop::collection::vec((weather(), 0_u64..400_000, happening()), 1..120),
    ) {
        let fallback = fallback && means != Means::Reopens;
        let mut course = History::new(means, fallback, Duration::from_secs(life));
        for (weather, pause, happening) in history {
            course.go(weather, Duration::from_millis(pause), happening)?;
        }
        let took = course.recover()?;
        // The longest cool-down is a quarter of an hour, the longest back-off 375 s.
        prop_assert!(took <= Duration::from_secs(16 * 60), "a token only after {took:?}");
    }
}
