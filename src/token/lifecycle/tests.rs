use std::time::Duration;

use super::pace::{LEASE_POLL, RECHECK_WHEN_LOST};
use super::*;

mod fallback;
mod history;

const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
const HOUR: Duration = Duration::from_secs(3600);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// A machine with a clock that moves only forward.
struct Bench {
    machine: Lifecycle,
    now: Timestamp,
    generation: u64,
}

impl Bench {
    fn new(means: Means) -> Self {
        Self::with(means, false)
    }

    fn with(means: Means, fallback: bool) -> Self {
        let machine = Lifecycle::new(means, fallback, Pace::of("sales"), NOW);
        Self { machine, now: NOW, generation: 0 }
    }

    /// Of an identity with a second credential, its first session in use.
    fn with_fallback(means: Means) -> Self {
        let mut bench = Self::with(means, true);
        bench.step(Event::Time);
        let stored = bench.next(HOUR);
        bench.step(Event::Read(Some(stored)));
        bench.note(Signal::Accepted(bench.latest()));
        bench
    }

    /// With the store read and nothing in it.
    fn empty(means: Means) -> Self {
        let mut bench = Self::new(means);
        assert_eq!(bench.step(Event::Time), Action::Read);
        assert_eq!(bench.step(Event::Read(None)), Action::Renew(Source::Open));
        bench
    }

    /// With a token of an hour, in use.
    fn live(means: Means) -> Self {
        let mut bench = Self::empty(means);
        bench.obtain(HOUR);
        bench.note(Signal::Accepted(bench.latest()));
        bench
    }

    /// With a renewal under way that is due by the clock.
    fn renewing(means: Means) -> (Self, Source) {
        let mut bench = Self::live(means);
        let source = bench.until_renewal();
        (bench, source)
    }

    fn step(&mut self, event: Event) -> Action {
        self.machine.step(event, self.now)
    }

    fn note(&mut self, signal: Signal) {
        self.machine.note(signal, self.now);
    }

    fn next(&mut self, life: Duration) -> Known {
        self.generation += 1;
        Known {
            generation: Generation::new(self.generation),
            issued_at: self.now,
            expires_at: self.now + life,
            refresh: (self.machine.means != Means::Reopens).then_some(Some(self.now + WEEK)),
            previous_refresh: self.generation > 1,
        }
    }

    /// What is obtained now: a second credential's session has no refresh token.
    fn next_obtained(&mut self, life: Duration) -> Known {
        let known = self.next(life);
        match self.machine.phase {
            Phase::Renewing(Source::Fallback) => {
                Known { refresh: None, previous_refresh: false, ..known }
            }
            _ => known,
        }
    }

    fn obtain(&mut self, life: Duration) -> Action {
        let known = self.next_obtained(life);
        self.step(Event::Obtained(known))
    }

    fn fail(&mut self, failure: Failure) -> Action {
        self.step(Event::Failed(failure))
    }

    fn latest(&self) -> Generation {
        Generation::new(self.generation)
    }

    /// Fails, then waits as told; returns how long that was, with a renewal under way again.
    fn sleep_off(&mut self, failure: Failure) -> Duration {
        let before = self.now;
        match self.fail(failure) {
            Action::Rest(Some(until)) => self.now = until,
            other => panic!("expected a rest, got {other:?}"),
        }
        assert!(matches!(self.step(Event::Time), Action::Renew(_)));
        before.until(self.now)
    }

    fn until_renewal(&mut self) -> Source {
        let mut action = self.step(Event::Time);
        loop {
            action = match action {
                Action::Renew(source) => return source,
                Action::Rest(Some(until)) => {
                    self.now = until;
                    self.step(Event::Time)
                }
                // The store has nothing newer.
                Action::Read => self.step(Event::Read(None)),
                other => panic!("expected a renewal, got {other:?}"),
            };
        }
    }

    fn secs(&self) -> u64 {
        NOW.until(self.now).as_secs()
    }
}

#[test]
fn goes_on_with_a_live_stored_session_without_a_request() {
    let mut bench = Bench::new(Means::Reopens);
    bench.step(Event::Time);
    let stored = bench.next(HOUR);
    assert_eq!(bench.step(Event::Read(Some(stored))), Action::Rest(None), "idle: nothing to do");
    assert_eq!(bench.machine.offered(bench.now), Some(stored));
}

#[test]
fn obtains_a_first_token_unasked_and_lets_it_lapse_if_nobody_asks() {
    let mut bench = Bench::empty(Means::Reopens);
    assert_eq!(bench.machine.class(NOW), Class::Idle);
    assert_eq!(bench.obtain(HOUR), Action::Rest(None));
    bench.now = NOW + 2 * HOUR;
    assert_eq!(bench.step(Event::Time), Action::Rest(None));
    assert_eq!(bench.machine.offered(bench.now), None);
    bench.note(Signal::Wanted);
    assert_eq!(bench.machine.class(bench.now), Class::Waiting);
    assert_eq!(bench.step(Event::Time), Action::Renew(Source::Open));
}

#[test]
fn renews_a_token_in_use_ahead_of_its_end() {
    let mut bench = Bench::live(Means::Reopens);
    assert_eq!(bench.until_renewal(), Source::Open);
    assert!((2700..=3060).contains(&bench.secs()), "renewed after {} s of 3600", bench.secs());
    assert!(matches!(bench.machine.class(bench.now), Class::Expiring(_)));
    assert!(bench.machine.offered(bench.now).is_some(), "make before break");
}

#[test]
fn renews_in_time_whatever_the_lifetime() {
    for (life, soonest, latest) in [
        (1, 700, 850),
        (20, 15_000, 17_000),
        (600, 450_000, 510_000),
        (86_400, 85_500_000, 85_860_000),
    ] {
        for name in 0..200 {
            let spread = Pace::of(&format!("identity-{name}")).spread(0);
            let at = renew_at(NOW, NOW + Duration::from_secs(life), spread);
            let millis = NOW.until(at).as_millis();
            assert!((soonest..=latest).contains(&millis), "{life} s: renewed after {millis} ms");
        }
    }
}

#[test]
fn keeps_an_idle_session_alive_by_its_refresh_token_only() {
    let mut bench = Bench::empty(Means::Once);
    let Action::Rest(Some(at)) = bench.obtain(HOUR) else { panic!("a session to keep alive") };
    let share = NOW.until(at).as_secs() * 100 / WEEK.as_secs();
    assert!((75..=85).contains(&share), "refreshed after {share} % of a week");
    bench.now = at;
    assert_eq!(bench.step(Event::Time), Action::Renew(Source::Refresh));
    let (end, deadline) = (NOW + WEEK, NOW + WEEK - 6 * HOUR);
    let class = |now| bench.machine.class(now);
    assert_eq!(class(at), Class::Expiring(deadline), "behind every token in use");
    assert_eq!(class(end - HOUR), Class::Waiting, "a session that ends costs a login");
}

#[test]
fn a_means_that_reopens_never_refreshes_and_another_opens_once() {
    assert_eq!(Bench::renewing(Means::Reopens).1, Source::Open);
    assert_eq!(Bench::renewing(Means::Once).1, Source::Refresh);
}

#[test]
fn a_refused_grant_is_looked_up_in_the_store_before_the_identity_is_lost() {
    let (mut bench, _) = Bench::renewing(Means::Once);
    assert_eq!(bench.fail(Failure::GrantRefused), Action::Read);
    let newer = bench.next(HOUR);
    assert!(matches!(bench.step(Event::Read(Some(newer))), Action::Rest(_)), "adopted");
    assert_eq!(bench.machine.offered(bench.now), Some(newer));
    assert_eq!(bench.machine.standing(bench.now), Standing::Resting);
}

#[test]
fn falls_back_to_the_previous_refresh_token_then_needs_a_login_then_adopts_one() {
    let mut bench = Bench::live(Means::Once);
    bench.until_renewal();
    bench.obtain(HOUR);
    bench.note(Signal::Wanted);
    bench.until_renewal();
    assert_eq!(bench.fail(Failure::GrantRefused), Action::Read);
    assert_eq!(bench.step(Event::Read(None)), Action::Renew(Source::PreviousRefresh));
    assert_eq!(bench.fail(Failure::GrantRefused), Action::Read);
    let lost = bench.step(Event::Read(None));
    assert_eq!(lost, Action::Rest(Some(bench.now + RECHECK_WHEN_LOST)));
    let standing = bench.machine.standing(bench.now);
    assert_eq!(standing, Standing::NeedsLogin(Lost::GrantRefused));
    assert!(bench.machine.offered(bench.now).is_some(), "a live token serves to its end");

    bench.now = bench.now + RECHECK_WHEN_LOST;
    assert_eq!(bench.step(Event::Time), Action::Read);
    let login = bench.next(HOUR);
    bench.step(Event::Read(Some(login)));
    assert_eq!(bench.machine.standing(bench.now), Standing::Resting);
}

#[test]
fn wrong_client_credentials_and_forbidden_grants_are_not_repeated() {
    for (failure, lost) in [
        (Failure::ClientRefused, Lost::ClientRefused),
        (Failure::GrantNotAllowed, Lost::GrantNotAllowed),
        (Failure::GrantRefused, Lost::GrantRefused),
    ] {
        let mut bench = Bench::empty(Means::Reopens);
        let mut action = bench.fail(failure);
        for _ in 0..100 {
            action = match action {
                Action::Read => bench.step(Event::Read(None)),
                Action::Rest(Some(until)) => {
                    bench.now = until;
                    bench.note(Signal::Wanted);
                    bench.step(Event::Time)
                }
                other => panic!("{failure:?} led to {other:?}"),
            };
        }
        assert_eq!(bench.machine.standing(bench.now), Standing::NeedsLogin(lost));
    }
}

#[test]
fn a_session_that_cannot_be_refreshed_is_lost_only_when_it_is_due() {
    let mut bench = Bench::empty(Means::Once);
    let known = Known { refresh: None, ..bench.next(HOUR) };
    assert_eq!(bench.step(Event::Obtained(known)), Action::Rest(None));
    bench.note(Signal::Accepted(bench.latest()));
    let Action::Rest(Some(due)) = bench.step(Event::Time) else { panic!("due some time") };
    bench.now = due;
    bench.step(Event::Time);
    assert_eq!(bench.machine.standing(due), Standing::NeedsLogin(Lost::NothingLeft));
    assert_eq!(bench.machine.offered(due), Some(known));
}

#[test]
fn silence_is_kept_to_the_second() {
    let (mut bench, _) = Bench::renewing(Means::Reopens);
    let silence = Duration::from_secs(47);
    let until = bench.now + silence;
    assert_eq!(bench.fail(Failure::Penalty(silence)), Action::Rest(Some(until)));
    bench.note(Signal::Wanted);
    bench.note(Signal::Refused(bench.latest()));
    bench.now = until - Duration::from_millis(1);
    assert_eq!(bench.step(Event::Time), Action::Rest(Some(until)));
    assert_eq!(bench.machine.standing(bench.now), Standing::Penalised(until));
    bench.now = until;
    assert_eq!(bench.step(Event::Time), Action::Renew(Source::Open));
}

#[test]
fn an_unanswered_request_is_repeated_as_it_was_three_times_ten_seconds_apart() {
    let (mut bench, source) = Bench::renewing(Means::Once);
    assert_eq!(source, Source::Refresh);
    let waits: Vec<u64> = (0..9).map(|_| bench.sleep_off(Failure::Unanswered).as_secs()).collect();
    assert_eq!(waits[..3], [10, 10, 10]);
    for (wait, base) in waits[3..].iter().zip([20, 40, 80, 160, 300, 300]) {
        assert!((base..=base * 5 / 4).contains(wait), "{waits:?}");
    }
    assert_eq!(bench.machine.phase, Phase::Renewing(Source::Refresh), "the same token again");
}

#[test]
fn backs_off_in_proportion_to_what_failed() {
    for (failure, bases) in [
        (Failure::Unreachable, [1, 2, 4, 8, 16, 30, 30]),
        (Failure::Store, [1, 2, 4, 8, 16, 30, 30]),
        (Failure::Unexpected, [10, 20, 40, 80, 160, 300, 300]),
    ] {
        let (mut bench, _) = Bench::renewing(Means::Reopens);
        for base in bases {
            let wait = bench.sleep_off(failure).as_millis();
            let room = base * 1000..=base * 1250;
            assert!(room.contains(&wait), "{failure:?}: waited {wait} ms, not {base} s");
        }
    }
}

#[test]
fn a_store_that_cannot_be_read_at_start_is_read_again_before_anything_is_sent() {
    let mut bench = Bench::new(Means::Reopens);
    assert_eq!(bench.step(Event::Time), Action::Read);
    let Action::Rest(Some(until)) = bench.fail(Failure::Store) else { panic!("a rest") };
    assert_eq!(bench.machine.standing(bench.now), Standing::BackingOff(until));
    bench.note(Signal::Wanted);
    bench.now = until;
    assert_eq!(bench.step(Event::Time), Action::Read);
}

#[test]
fn another_processs_renewal_is_awaited() {
    let (mut bench, _) = Bench::renewing(Means::Once);
    let until = bench.now + LEASE_POLL;
    assert_eq!(bench.fail(Failure::LeaseHeld), Action::Rest(Some(until)));
    assert_eq!(bench.machine.standing(bench.now), Standing::Renewing);
}

#[test]
fn a_refused_token_is_withdrawn_and_renewed_once() {
    let mut bench = Bench::live(Means::Reopens);
    let refused = bench.latest();
    bench.note(Signal::Refused(refused));
    assert_eq!(bench.machine.offered(bench.now), None);
    assert_eq!(bench.step(Event::Time), Action::Renew(Source::Open));
    bench.note(Signal::Refused(refused));
    bench.note(Signal::Accepted(refused));
    assert_eq!(bench.step(Event::Time), Action::Continue);
    bench.obtain(HOUR);
    bench.note(Signal::Refused(refused));
    assert!(bench.machine.offered(bench.now).is_some(), "an older generation's refusal is no news");
}

#[test]
fn new_tokens_that_are_refused_are_replaced_ever_more_slowly() {
    let mut bench = Bench::live(Means::Reopens);
    let mut waits = Vec::new();
    for _ in 0..8 {
        let before = bench.now;
        bench.note(Signal::Refused(bench.latest()));
        assert_eq!(bench.machine.offered(bench.now), None, "refused and never accepted");
        bench.until_renewal();
        waits.push(before.until(bench.now).as_secs());
        bench.obtain(HOUR);
    }
    assert_eq!(waits, [0, 10, 30, 90, 270, 810, 900, 900]);
}

#[test]
fn inside_the_cool_down_a_token_that_works_for_others_is_kept() {
    let mut bench = Bench::live(Means::Reopens);
    bench.note(Signal::Refused(bench.latest()));
    bench.until_renewal();
    bench.obtain(HOUR);
    bench.note(Signal::Accepted(bench.latest()));
    bench.note(Signal::Refused(bench.latest()));
    assert!(bench.machine.offered(bench.now).is_some());
    assert_eq!(bench.step(Event::Time), Action::Read);
    assert!(matches!(bench.step(Event::Read(None)), Action::Rest(_)));
    bench.now = bench.machine.cool_until();
    bench.note(Signal::Refused(bench.latest()));
    assert_eq!(bench.step(Event::Time), Action::Renew(Source::Open), "after it, one more");
}

#[test]
fn a_refusal_inside_the_cool_down_waits_for_a_look_at_the_store() {
    let mut bench = Bench::live(Means::Once);
    bench.note(Signal::Refused(bench.latest()));
    bench.until_renewal();
    bench.obtain(HOUR);
    bench.note(Signal::Accepted(bench.latest()));
    for is_news in [false, true] {
        assert_eq!(bench.machine.standing(bench.now), Standing::Resting);
        bench.note(Signal::Refused(bench.latest()));
        assert_eq!(bench.step(Event::Time), Action::Read);
        assert_eq!(bench.machine.standing(bench.now), Standing::Renewing, "there is hope");
        let found = is_news.then(|| bench.next(HOUR));
        assert!(matches!(bench.step(Event::Read(found)), Action::Rest(_)));
        let offered = bench.machine.offered(bench.now).map(|known| known.generation);
        assert_eq!(offered, Some(bench.latest()), "another process's, if there is one");
    }
    assert_eq!(bench.machine.standing(bench.now), Standing::Resting);
}

#[test]
fn a_clock_set_back_moves_the_deadlines_with_it() {
    let mut bench = Bench::live(Means::Reopens);
    bench.now = NOW - HOUR;
    bench.note(Signal::ClockSetBack(HOUR));
    let Action::Rest(Some(until)) = bench.step(Event::Time) else { panic!("a rest") };
    assert!(bench.now.until(until) < HOUR, "renewed within the token's real life");
}

#[test]
fn adopts_at_once_what_the_store_is_said_to_have() {
    let mut bench = Bench::live(Means::Once);
    bench.note(Signal::Changed);
    assert_eq!(bench.step(Event::Time), Action::Read);
    let newer = bench.next(HOUR);
    bench.step(Event::Read(Some(newer)));
    assert_eq!(bench.machine.offered(bench.now), Some(newer));
    // Nothing newer: nothing changes.
    bench.note(Signal::Changed);
    assert_eq!(bench.step(Event::Time), Action::Read);
    assert!(matches!(bench.step(Event::Read(None)), Action::Rest(Some(_))));
    assert_eq!(bench.machine.offered(bench.now), Some(newer));
}

#[test]
fn a_look_at_the_store_neither_shortens_nor_ends_a_penalty() {
    let (mut bench, _) = Bench::renewing(Means::Once);
    let silence = Duration::from_secs(60);
    let until = bench.now + silence;
    assert_eq!(bench.fail(Failure::Penalty(silence)), Action::Rest(Some(until)));
    bench.note(Signal::Changed);
    assert_eq!(bench.step(Event::Time), Action::Read);
    assert_eq!(bench.machine.standing(bench.now), Standing::Penalised(until));
    assert_eq!(bench.step(Event::Read(None)), Action::Rest(Some(until)));
    bench.note(Signal::Changed);
    assert_eq!(bench.step(Event::Time), Action::Read);
    assert_eq!(bench.fail(Failure::Store), Action::Rest(Some(until)), "the store is down");
}

#[test]
fn a_session_of_another_process_does_not_end_a_penalty_either() {
    let (mut bench, _) = Bench::renewing(Means::Once);
    let silence = Duration::from_secs(60);
    let until = bench.now + silence;
    assert_eq!(bench.fail(Failure::Penalty(silence)), Action::Rest(Some(until)));
    bench.note(Signal::Changed);
    assert_eq!(bench.step(Event::Time), Action::Read);
    let known = bench.next(Duration::from_secs(3600));
    bench.step(Event::Read(Some(known)));
    bench.note(Signal::Refused(bench.latest()));
    assert_eq!(bench.step(Event::Time), Action::Rest(Some(until)), "it was revoked at once");
    assert_eq!(bench.machine.standing(bench.now), Standing::Penalised(until));
    bench.now = until;
    assert!(matches!(bench.step(Event::Time), Action::Renew(_)));
}

#[test]
fn a_logout_ends_the_session_and_a_login_revives_it() {
    for means in [Means::Once, Means::Login] {
        let mut bench = Bench::live(Means::Once);
        bench.machine.means = means;
        bench.note(Signal::Changed);
        assert_eq!(bench.step(Event::Time), Action::Read);
        bench.generation += 1;
        assert!(matches!(bench.step(Event::Erased(bench.latest())), Action::Rest(Some(_))));
        assert_eq!(bench.machine.offered(bench.now), None);
        let lost = Standing::NeedsLogin(Lost::LoggedOut);
        assert_eq!(bench.machine.standing(bench.now), lost);
        bench.now = bench.now + RECHECK_WHEN_LOST;
        assert_eq!(bench.step(Event::Time), Action::Read);
        let known = bench.next(HOUR);
        bench.step(Event::Read(Some(known)));
        assert_eq!(bench.machine.offered(bench.now), Some(known));
    }
}

#[test]
fn after_a_logout_a_jwt_opens_the_next_session_when_somebody_asks() {
    let mut bench = Bench::live(Means::Reopens);
    bench.note(Signal::Changed);
    assert_eq!(bench.step(Event::Time), Action::Read);
    bench.generation += 1;
    assert_eq!(bench.step(Event::Erased(bench.latest())), Action::Rest(None));
    bench.note(Signal::Wanted);
    assert_eq!(bench.step(Event::Time), Action::Renew(Source::Open));
}

#[test]
fn a_session_goes_on_by_its_refresh_token_when_the_jwt_is_refused() {
    let mut bench = Bench::empty(Means::Reopens);
    let known = Known { refresh: Some(Some(bench.now + WEEK)), ..bench.next(HOUR) };
    bench.step(Event::Obtained(known));
    bench.note(Signal::Accepted(bench.latest()));
    assert_eq!(bench.until_renewal(), Source::Open);
    assert_eq!(bench.fail(Failure::GrantRefused), Action::Read);
    assert_eq!(bench.step(Event::Read(None)), Action::Renew(Source::Refresh));
}

#[test]
fn an_identity_of_a_login_sends_nothing_before_somebody_has_logged_in() {
    let mut bench = Bench::new(Means::Login);
    assert_eq!(bench.step(Event::Time), Action::Read);
    let recheck = bench.now + RECHECK_WHEN_LOST;
    assert_eq!(bench.step(Event::Read(None)), Action::Rest(Some(recheck)));
    bench.note(Signal::Wanted);
    assert_eq!(bench.step(Event::Time), Action::Rest(Some(recheck)));
    assert_eq!(bench.machine.standing(bench.now), Standing::NeedsLogin(Lost::NothingLeft));
}

#[test]
fn a_clock_set_back_lengthens_no_wait() {
    let silence = Duration::from_secs(60);
    let (mut bench, _) = Bench::renewing(Means::Once);
    bench.fail(Failure::Penalty(silence));
    bench.now = bench.now - HOUR;
    bench.note(Signal::ClockSetBack(HOUR));
    let until = bench.now + silence;
    assert_eq!(bench.step(Event::Time), Action::Rest(Some(until)), "a penalty");
    // Also while a look at the store interrupts it.
    bench.note(Signal::Changed);
    assert_eq!(bench.step(Event::Time), Action::Read);
    bench.now = bench.now - HOUR;
    bench.note(Signal::ClockSetBack(HOUR));
    assert_eq!(bench.step(Event::Read(None)), Action::Rest(Some(until - HOUR)));

    let mut bench = Bench::live(Means::Reopens);
    bench.note(Signal::Refused(bench.latest()));
    bench.until_renewal();
    let cool = bench.now.until(bench.machine.cool_until());
    bench.now = bench.now - HOUR;
    bench.note(Signal::ClockSetBack(HOUR));
    assert_eq!(bench.now.until(bench.machine.cool_until()), cool, "a cool-down");

    let mut bench = Bench::empty(Means::Once);
    bench.fail(Failure::ClientRefused);
    bench.now = bench.now - HOUR;
    bench.note(Signal::ClockSetBack(HOUR));
    let recheck = bench.now + RECHECK_WHEN_LOST;
    assert_eq!(bench.step(Event::Time), Action::Rest(Some(recheck)), "a look for a login");
}

#[test]
fn a_clock_put_forward_ends_a_token_at_once_and_brings_the_next() {
    let mut bench = Bench::live(Means::Reopens);
    bench.now = bench.now + 5 * HOUR;
    assert_eq!(bench.machine.offered(bench.now), None);
    assert_eq!(bench.step(Event::Time), Action::Renew(Source::Open));
    bench.obtain(HOUR);
    // Put right again: the new token's deadlines go with it.
    bench.now = bench.now - 5 * HOUR;
    bench.note(Signal::ClockSetBack(5 * HOUR));
    bench.note(Signal::Accepted(bench.latest()));
    let Action::Rest(Some(until)) = bench.step(Event::Time) else { panic!("a rest") };
    assert!(bench.now.until(until) < HOUR);
}

#[test]
fn an_order_renews_a_token_that_is_not_due() {
    for means in [Means::Reopens, Means::Once] {
        let mut bench = Bench::live(means);
        assert!(matches!(bench.step(Event::Time), Action::Rest(Some(_))));
        bench.note(Signal::Ordered);
        assert!(bench.machine.is_ordered());
        assert!(matches!(bench.step(Event::Time), Action::Renew(_)), "{means:?}");
        bench.obtain(HOUR);
        assert!(!bench.machine.is_ordered(), "carried out");
        assert!(matches!(bench.step(Event::Time), Action::Rest(_)), "and not repeated");
    }
}

#[test]
fn an_order_is_kept_while_the_store_is_read_and_while_another_process_renews() {
    let mut bench = Bench::new(Means::Reopens);
    bench.note(Signal::Ordered);
    assert_eq!(bench.step(Event::Time), Action::Read);
    let stored = bench.next(HOUR);
    assert_eq!(bench.step(Event::Read(Some(stored))), Action::Renew(Source::Open));
    assert_eq!(bench.fail(Failure::LeaseHeld), Action::Rest(Some(bench.now + LEASE_POLL)));
    assert!(bench.machine.is_ordered());
    bench.now = bench.now + LEASE_POLL;
    assert_eq!(bench.step(Event::Time), Action::Renew(Source::Open));
    bench.obtain(HOUR);
    assert!(!bench.machine.is_ordered());
}

#[test]
fn an_order_cuts_a_back_off_short_and_is_one_attempt() {
    let mut bench = Bench::live(Means::Reopens);
    bench.note(Signal::Ordered);
    bench.step(Event::Time);
    let Action::Rest(Some(_)) = bench.fail(Failure::Unreachable) else { panic!("it backs off") };
    assert!(!bench.machine.is_ordered(), "it has failed");
    assert!(matches!(bench.machine.standing(bench.now), Standing::BackingOff(_)));
    bench.note(Signal::Ordered);
    assert_eq!(bench.step(Event::Time), Action::Renew(Source::Open));
}

#[test]
fn an_order_inside_a_penalty_sends_nothing_and_is_not_kept() {
    let mut bench = Bench::renewing(Means::Reopens).0;
    let silence = Duration::from_secs(30);
    let rest = Action::Rest(Some(bench.now + silence));
    assert_eq!(bench.fail(Failure::Penalty(silence)), rest);
    bench.note(Signal::Ordered);
    assert!(!bench.machine.is_ordered());
    assert_eq!(bench.step(Event::Time), rest);
}

#[test]
fn an_order_tries_once_more_what_was_refused_for_good() {
    for (failure, lost) in [
        (Failure::ClientRefused, Lost::ClientRefused),
        (Failure::GrantRefused, Lost::GrantRefused),
        (Failure::GrantNotAllowed, Lost::GrantNotAllowed),
    ] {
        let mut bench = Bench::empty(Means::Reopens);
        let refuse = |bench: &mut Bench| {
            if bench.fail(failure) == Action::Read {
                bench.step(Event::Read(None));
            }
            assert_eq!(bench.machine.standing(bench.now), Standing::NeedsLogin(lost));
        };
        refuse(&mut bench);
        bench.note(Signal::Ordered);
        assert_eq!(bench.step(Event::Time), Action::Renew(Source::Open), "{lost:?}");
        refuse(&mut bench);
        assert!(!bench.machine.is_ordered());
        bench.note(Signal::Ordered);
        bench.step(Event::Time);
        bench.obtain(HOUR);
        assert!(bench.machine.offered(bench.now).is_some(), "{lost:?}");
    }
}

#[test]
fn an_order_presents_no_single_use_credential_twice_but_looks_at_the_store() {
    let mut bench = Bench::live(Means::Once);
    bench.until_renewal();
    assert_eq!(bench.fail(Failure::GrantRefused), Action::Read);
    bench.step(Event::Read(None));
    // The refresh token is used up, and so is what it came from.
    assert_eq!(bench.machine.standing(bench.now), Standing::NeedsLogin(Lost::GrantRefused));
    bench.note(Signal::Ordered);
    assert_eq!(bench.step(Event::Time), Action::Read);
    assert!(matches!(bench.step(Event::Read(None)), Action::Rest(Some(_))));
    assert!(!bench.machine.is_ordered());
}

#[test]
fn only_an_identity_without_anything_else_lives_by_its_refresh_token() {
    assert_eq!(Bench::live(Means::Reopens).machine.lives_by(), None);
    let bench = Bench::live(Means::Once);
    let life = bench.machine.lives_by().expect("it has nothing else");
    assert_eq!(life.ends(), NOW + WEEK);
}
