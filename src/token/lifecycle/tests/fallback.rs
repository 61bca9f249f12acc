//! An identity with a second credential.

use super::*;

#[test]
fn a_lost_session_is_replaced_by_the_second_credential_and_then_by_nothing_else() {
    for means in [Means::Once, Means::Login] {
        let mut bench = Bench::with_fallback(means);
        assert_eq!(bench.until_renewal(), Source::Refresh, "while the session lives");
        bench.obtain(HOUR);
        bench.note(Signal::Accepted(bench.latest()));
        assert_eq!(bench.until_renewal(), Source::Refresh);
        assert_eq!(bench.fail(Failure::GrantRefused), Action::Read, "perhaps somebody renewed");
        assert_eq!(bench.step(Event::Read(None)), Action::Renew(Source::Fallback));
        assert!(bench.machine.offered(bench.now).is_some(), "make before break");
        bench.obtain(HOUR);
        for _ in 0..3 {
            bench.note(Signal::Accepted(bench.latest()));
            assert_eq!(bench.until_renewal(), Source::Fallback, "an identity with a JWT now");
            bench.obtain(HOUR);
        }
        // Somebody logs in again: that session is refreshed.
        bench.note(Signal::Changed);
        assert_eq!(bench.step(Event::Time), Action::Read);
        let login = bench.next(HOUR);
        bench.step(Event::Read(Some(login)));
        bench.note(Signal::Accepted(bench.latest()));
        assert_eq!(bench.until_renewal(), Source::Refresh);
    }
}

#[test]
fn the_previous_refresh_token_comes_before_the_second_credential() {
    let mut bench = Bench::with_fallback(Means::Once);
    bench.until_renewal();
    bench.obtain(HOUR);
    bench.note(Signal::Wanted);
    bench.until_renewal();
    assert_eq!(bench.fail(Failure::GrantRefused), Action::Read);
    assert_eq!(bench.step(Event::Read(None)), Action::Renew(Source::PreviousRefresh));
    assert_eq!(bench.fail(Failure::GrantRefused), Action::Read);
    assert_eq!(bench.step(Event::Read(None)), Action::Renew(Source::Fallback));
}

#[test]
fn a_used_up_first_credential_leads_to_the_second_one() {
    let mut bench = Bench::with(Means::Once, true);
    bench.step(Event::Time);
    assert_eq!(bench.step(Event::Read(None)), Action::Renew(Source::Open));
    assert_eq!(bench.fail(Failure::GrantRefused), Action::Read);
    assert_eq!(bench.step(Event::Read(None)), Action::Renew(Source::Fallback));
    // Nobody has logged in yet.
    let mut bench = Bench::with(Means::Login, true);
    bench.step(Event::Time);
    assert_eq!(bench.step(Event::Read(None)), Action::Renew(Source::Fallback));
}

#[test]
fn a_session_without_a_refresh_token_is_followed_by_the_second_credential() {
    let mut bench = Bench::with(Means::Once, true);
    bench.step(Event::Time);
    let known = Known { refresh: None, ..bench.next(HOUR) };
    bench.step(Event::Read(Some(known)));
    bench.note(Signal::Accepted(bench.latest()));
    assert_eq!(bench.until_renewal(), Source::Fallback);
}

#[test]
fn only_when_both_credentials_are_refused_a_login_is_needed() {
    let mut bench = Bench::with_fallback(Means::Once);
    bench.until_renewal();
    bench.fail(Failure::GrantRefused);
    assert_eq!(bench.step(Event::Read(None)), Action::Renew(Source::Fallback));
    assert_eq!(bench.fail(Failure::GrantNotAllowed), Action::Read);
    let recheck = bench.now + RECHECK_WHEN_LOST;
    assert_eq!(bench.step(Event::Read(None)), Action::Rest(Some(recheck)));
    let standing = bench.machine.standing(bench.now);
    assert_eq!(standing, Standing::NeedsLogin(Lost::GrantNotAllowed));
}

#[test]
fn after_three_repetitions_without_an_answer_the_second_credential_is_tried_at_once() {
    let mut bench = Bench::with_fallback(Means::Once);
    assert_eq!(bench.until_renewal(), Source::Refresh);
    let waits: Vec<_> = (0..3).map(|_| bench.sleep_off(Failure::Unanswered).as_secs()).collect();
    assert_eq!(waits, [10, 10, 10]);
    assert_eq!(bench.machine.phase, Phase::Renewing(Source::Refresh));
    assert_eq!(bench.fail(Failure::Unanswered), Action::Renew(Source::Fallback));
    // No answer to that either: ever more slowly, and it stays with it.
    for base in [40, 80, 160, 300, 300] {
        let wait = bench.sleep_off(Failure::Unanswered).as_secs();
        assert!((base..=base * 5 / 4).contains(&wait), "{wait} s, not {base}");
        assert_eq!(bench.machine.phase, Phase::Renewing(Source::Fallback));
    }
    // Refused, it leaves the first one another chance.
    assert_eq!(bench.fail(Failure::GrantRefused), Action::Read);
    assert_eq!(bench.step(Event::Read(None)), Action::Renew(Source::Refresh));
}

#[test]
fn trouble_with_network_or_store_is_no_reason_for_the_second_credential() {
    for failure in [Failure::Unreachable, Failure::Store, Failure::Unexpected] {
        let mut bench = Bench::with_fallback(Means::Once);
        bench.until_renewal();
        for _ in 0..20 {
            bench.sleep_off(failure);
            assert_eq!(bench.machine.phase, Phase::Renewing(Source::Refresh), "{failure:?}");
        }
    }
}

#[test]
fn after_a_logout_the_second_credential_opens_the_next_session_when_somebody_asks() {
    let mut bench = Bench::with_fallback(Means::Login);
    bench.note(Signal::Changed);
    assert_eq!(bench.step(Event::Time), Action::Read);
    bench.generation += 1;
    assert_eq!(bench.step(Event::Erased(bench.latest())), Action::Rest(None));
    bench.note(Signal::Wanted);
    assert_eq!(bench.step(Event::Time), Action::Renew(Source::Fallback));
}
