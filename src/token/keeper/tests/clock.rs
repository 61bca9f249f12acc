//! The wall clock is put forward and back, and the machine sleeps.

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Moves the clock back, and gives whoever looks after it the time to notice.
async fn set_back(process: &Process, by: Duration) {
    process.clock.set_back(by);
    settle().await;
}

#[tokio::test]
async fn a_clock_set_back_makes_no_token_live_longer_and_delays_no_renewal() {
    let (process, _, script) = process_of(jwt("sales"), Vec::new()).await;
    process.keeper("sales").accepted(Generation::new(1));
    process.advance(1000).await;
    set_back(&process, 10 * HOUR).await;
    // Of the 2700 to 3060 s to its renewal, 1000 are over, and 15 more to notice.
    process.advance(1600).await;
    assert_eq!(script.received().len(), 1, "not yet");
    process.advance(475).await;
    assert_eq!(script.received().len(), 2);
    assert_eq!(process.token("sales").as_deref(), Some("Bearer access-2"));
}

#[tokio::test]
async fn without_a_renewal_a_token_ends_when_it_would_have_had_the_clock_not_been_set_back() {
    let (process, store, _) = process_of(jwt("sales"), Vec::new()).await;
    FlakyStore::set(&store.unreadable, true);
    process.keeper("sales").accepted(Generation::new(1));
    process.advance(1000).await;
    set_back(&process, 10 * HOUR).await;
    process.advance(2599).await;
    assert!(process.token("sales").is_some());
    process.advance(1).await;
    assert!(process.token("sales").is_none(), "an hour after it was issued");
}

#[tokio::test]
async fn a_penalty_lasts_as_long_as_was_asked_when_the_clock_is_set_back_in_it() {
    let lines = vec![Line::Answer(429, Some(60), String::new())];
    let (process, _, script) = process_of(jwt("sales"), lines).await;
    process.advance(20).await;
    set_back(&process, 10 * HOUR).await;
    for _ in 0..39 {
        process.advance(1).await;
        assert_eq!(script.received().len(), 1, "silent");
    }
    // The accounts know how far the clock went since they were last looked at, 20 s before.
    process.advance(21).await;
    assert_eq!(script.received().len(), 2, "not silent for ten hours");
    assert!(process.token("sales").is_some());
}

#[tokio::test]
async fn who_waits_for_a_turn_waits_no_longer_when_the_clock_is_set_back() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let script = Script::new(Vec::new(), true);
    let names = ["a", "b", "c", "d", "e", "f"];
    let process = Process::start(&names.map(jwt), &store, &script, &clock).await;
    assert_eq!(script.received().len(), 5);
    set_back(&process, 10 * HOUR).await;
    process.advance(76).await;
    assert_eq!(script.received().len(), 6, "a window later");
}

#[tokio::test]
async fn after_a_suspend_no_dead_token_is_handed_out_before_anybody_has_noticed() {
    let (process, _, script) = process_of(jwt("sales"), Vec::new()).await;
    process.keeper("sales").accepted(Generation::new(1));
    process.advance(100).await;
    // The timers of all tasks slept, too: none has run yet.
    process.clock.advance(8 * HOUR);
    assert!(process.token("sales").is_none());
    process.keeper("sales").wait_usable().await.expect("renewed at once");
    assert_eq!(script.received().len(), 2);
    assert_eq!(process.token("sales").as_deref(), Some("Bearer access-2"));
}

#[tokio::test]
async fn a_clock_put_forward_and_right_again_costs_one_token_request() {
    let (process, _, script) = process_of(jwt("sales"), Vec::new()).await;
    process.keeper("sales").accepted(Generation::new(1));
    process.clock.advance(24 * HOUR);
    settle().await;
    process.keeper("sales").accepted(Generation::new(2));
    settle().await;
    assert_eq!(script.received().len(), 2, "the old one seems to have ended");
    set_back(&process, 24 * HOUR).await;
    assert!(process.token("sales").is_some());
    process.advance(2600).await;
    assert_eq!(script.received().len(), 2, "no more than that");
    process.advance(475).await;
    assert_eq!(script.received().len(), 3, "and not a day late");
}

#[tokio::test]
async fn a_stored_session_from_the_future_is_believed_for_its_own_lifetime_only() {
    let (store, script) = (Arc::new(FlakyStore::default()), Script::new(Vec::new(), true));
    let settings = jwt("sales");
    store.put("sales", stored(&settings, 7, 3600));
    // It was stored by a clock that was a year ahead.
    let clock = Clock::manual(NOW - Duration::from_secs(365 * 24 * 3600));
    let process = Process::start(&[settings], &store, &script, &clock).await;
    assert_eq!(process.token("sales").as_deref(), Some("Bearer stored-7"));
    process.advance(3599).await;
    assert!(process.token("sales").is_some());
    process.advance(1).await;
    assert!(process.token("sales").is_none());
}
