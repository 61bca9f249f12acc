use super::*;
use crate::oauth::endpoint::scripted::{Line, Script, granted, refused};
use crate::store::memory::MemoryStore;
use crate::token::identities::Identities;

mod clock;
mod fallback;
mod orders;
mod stage;

use stage::{FlakyStore, NOW, Process, jwt, process_of, refreshing, settle, stored};

#[tokio::test]
async fn a_thousand_callers_cost_one_token_request() {
    let (store, script) = (Arc::new(FlakyStore::default()), Script::new(Vec::new(), false));
    let process = Process::start(&[jwt("sales")], &store, &script, &Clock::manual(NOW)).await;
    let callers: Vec<_> = (0..1000)
        .map(|_| {
            let identities = Arc::clone(&process.identities);
            tokio::spawn(async move {
                let id = identities.only().expect("one identity");
                identities.keeper(id).wait_usable().await
            })
        })
        .collect();
    settle().await;
    script.release();
    for caller in callers {
        caller.await.unwrap().expect("a token");
    }
    assert_eq!(script.received().len(), 1, "token requests");
    assert_eq!(process.token("sales").as_deref(), Some("Bearer access-1"));
}

#[tokio::test]
async fn five_hundred_refusals_of_a_generation_cost_one_renewal() {
    let (process, _, script) = process_of(jwt("sales"), Vec::new()).await;
    let first = Generation::new(1);
    let callers: Vec<_> = (0..500)
        .map(|_| {
            let identities = Arc::clone(&process.identities);
            tokio::spawn(async move {
                let id = identities.find("sales").unwrap();
                identities.keeper(id).rejected(first).await
            })
        })
        .collect();
    for caller in callers {
        caller.await.unwrap().expect("a later token");
    }
    assert_eq!(script.received().len(), 2, "one to begin with, one for all refusals");
    process.keeper("sales").rejected(first).await.expect("there is one already");
    settle().await;
    assert_eq!(script.received().len(), 2, "a late refusal starts none");
    assert_eq!(process.token("sales").as_deref(), Some("Bearer access-2"));
}

#[tokio::test]
async fn a_caller_that_goes_away_ends_no_renewal() {
    let (store, script) = (Arc::new(FlakyStore::default()), Script::new(Vec::new(), false));
    let process = Process::start(&[jwt("sales")], &store, &script, &Clock::manual(NOW)).await;
    let caller = tokio::spawn({
        let identities = Arc::clone(&process.identities);
        async move { identities.keeper(identities.only().unwrap()).wait_usable().await }
    });
    settle().await;
    caller.abort();
    settle().await;
    script.release();
    settle().await;
    assert_eq!(store.get("sales").expect("stored").set.access_token.expose(), "access-1");
    assert!(process.token("sales").is_some());
}

#[tokio::test]
async fn a_live_stored_token_is_used_without_a_request() {
    let (store, script) = (Arc::new(FlakyStore::default()), Script::new(Vec::new(), true));
    let settings = jwt("sales");
    store.put("sales", stored(&settings, 7, 600));
    let process = Process::start(&[settings], &store, &script, &Clock::manual(NOW)).await;
    assert_eq!(process.token("sales").as_deref(), Some("Bearer stored-7"));
    assert_eq!(script.received().len(), 0);
}

#[tokio::test]
async fn a_changed_credential_opens_a_new_session_of_a_later_generation() {
    let (store, script) = (Arc::new(FlakyStore::default()), Script::new(Vec::new(), true));
    store.put("sales", stored(&jwt("another user's"), 7, 600));
    let process = Process::start(&[jwt("sales")], &store, &script, &Clock::manual(NOW)).await;
    assert_eq!(process.token("sales").as_deref(), Some("Bearer access-1"));
    assert_eq!(process.keeper("sales").status().generation, Some(Generation::new(8)));
}

#[tokio::test]
async fn renews_in_use_make_before_break() {
    let (process, _, script) = process_of(jwt("sales"), Vec::new()).await;
    process.keeper("sales").accepted(Generation::new(1));
    process.advance(2600).await;
    assert_eq!(script.received().len(), 1, "not yet");
    process.advance(500).await;
    assert_eq!(script.received().len(), 2, "ahead of the end at 3600 s");
    assert_eq!(process.token("sales").as_deref(), Some("Bearer access-2"));
}

#[tokio::test]
async fn an_invalid_grant_is_looked_up_in_the_store_and_a_newer_session_adopted() {
    let (store, script) = (Arc::new(FlakyStore::default()), Script::new(Vec::new(), false));
    let settings = refreshing("sales");
    store.put("sales", stored(&settings, 1, 0));
    let clock = Clock::manual(NOW);
    let process = Process::start(&[Arc::clone(&settings)], &store, &script, &clock).await;
    assert_eq!(script.received().len(), 1, "asked, not answered yet");
    // A process that knows of no lease renews meanwhile; our refresh token is used up.
    store.put("sales", stored(&settings, 2, 600));
    script.answer_next(Line::Answer(400, None, refused("invalid_grant")));
    script.release();
    settle().await;
    assert_eq!(process.token("sales").as_deref(), Some("Bearer stored-2"));
    assert_eq!(script.received().len(), 1);
}

#[tokio::test]
async fn a_lost_identity_says_so_at_once_and_leaves_the_others_alone() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let refusal = Line::Answer(400, None, refused("invalid_grant"));
    let script = Script::new(vec![refusal], true);
    let process = Process::start(&[refreshing("lost"), jwt("fine")], &store, &script, &clock).await;
    let why = process.keeper("lost").wait_usable().await.expect_err("nothing left");
    assert!(why.terminal);
    assert_eq!(
        why.reason.to_string(),
        "the token endpoint refused the credential (invalid_grant): log in again, or configure another one"
    );
    process.keeper("fine").wait_usable().await.expect("another identity");
    let asked = script.received().len();
    process.advance(3000).await;
    assert_eq!(script.received().len(), asked, "what was refused is not repeated");
    // Somebody logs in.
    store.put("lost", stored(&refreshing("lost"), 1, 7200));
    process.advance(20).await;
    process.keeper("lost").wait_usable().await.expect("the login is found");
}

#[tokio::test]
async fn nothing_is_sent_for_the_application_inside_a_penalty() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let script = Script::new(vec![Line::Answer(429, Some(47), String::new())], true);
    let process = Process::start(&[jwt("a"), jwt("b")], &store, &script, &clock).await;
    assert_eq!(script.received().len(), 1);
    let why = process.keeper("a").rejected(Generation::NONE).await.expect_err("in a penalty");
    assert_eq!((why.retry_after, why.terminal), (Duration::from_secs(47), false));
    for _ in 0..46 {
        process.advance(1).await;
        assert_eq!(script.received().len(), 1, "silent");
    }
    process.advance(1).await;
    assert!(process.token("a").is_some() && process.token("b").is_some());
    assert_eq!(script.received().len(), 3);
}

#[tokio::test]
async fn six_identities_send_five_requests_in_the_first_minute() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let script = Script::new(Vec::new(), true);
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let process = Process::start(&names.map(jwt), &store, &script, &clock).await;
    assert_eq!(script.received().len(), 5);
    process.advance(30).await;
    let waiting = process.keeper("g").wait_usable();
    tokio::pin!(waiting);
    assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_none());
    settle().await;
    process.advance(29).await;
    assert_eq!(script.received().len(), 5);
    process.advance(1).await;
    waiting.await.expect("its turn came");
    assert!(script.received()[5].contains("jwt-g"), "who has requests waiting goes first");
}

#[tokio::test]
async fn nothing_is_requested_while_the_store_cannot_be_written() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    FlakyStore::set(&store.unwritable, true);
    let script = Script::new(Vec::new(), true);
    let process = Process::start(&[jwt("sales")], &store, &script, &clock).await;
    for _ in 0..600 {
        process.advance(1).await;
    }
    assert_eq!(script.received().len(), 0);
    let why = process.keeper("sales").unavailable();
    assert!(matches!(*why.reason, TokenError::Store(_)), "{:?}", why.reason);
    FlakyStore::set(&store.unwritable, false);
    process.advance(40).await;
    process.keeper("sales").wait_usable().await.expect("the store has recovered");
}

#[tokio::test]
async fn an_unreachable_store_leaves_the_cached_token_to_its_end() {
    let (process, store, script) = process_of(jwt("sales"), Vec::new()).await;
    process.keeper("sales").accepted(Generation::new(1));
    FlakyStore::set(&store.unreadable, true);
    process.advance(3599).await;
    assert!(process.token("sales").is_some(), "served from memory");
    process.advance(1).await;
    assert!(process.token("sales").is_none(), "never beyond its end");
    assert_eq!(script.received().len(), 1, "never renewed blindly");
}

#[tokio::test]
async fn a_set_that_could_not_be_stored_is_not_used_and_not_asked_for_again() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    FlakyStore::set(&store.full, true);
    let script = Script::new(Vec::new(), true);
    let process = Process::start(&[jwt("sales")], &store, &script, &clock).await;
    process.advance(60).await;
    assert!(process.token("sales").is_none(), "store before use");
    FlakyStore::set(&store.full, false);
    process.advance(40).await;
    assert_eq!(process.token("sales").as_deref(), Some("Bearer access-1"));
    assert_eq!(script.received().len(), 1);
}

/// Otherwise another process would send the same refresh token, which ends the session of a strict
/// server: tests/protocol found it.
#[tokio::test]
async fn a_set_that_cannot_be_stored_keeps_its_lease_until_it_is() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let settings = refreshing("sales");
    store.put("sales", stored(&settings, 1, 0));
    FlakyStore::set(&store.full, true);
    let script = Script::new(Vec::new(), true);
    let process = Process::start(&[settings], &store, &script, &clock).await;
    let held = || store.held.load(Ordering::Relaxed);
    for second in 0..60 {
        assert_eq!((held(), script.received().len()), (1, 1), "after {second} s");
        FlakyStore::set(&store.unreadable, second % 10 == 9);
        process.advance(1).await;
    }
    FlakyStore::set(&store.unreadable, false);
    FlakyStore::set(&store.full, false);
    process.advance(40).await;
    assert_eq!(store.get("sales").unwrap().set.generation, Generation::new(2));
    assert_eq!((held(), script.received().len()), (0, 1), "stored, and asked for once");
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_with_the_same_refresh_token() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let settings = refreshing("sales");
    store.put("sales", stored(&settings, 1, 0));
    let script = Script::new(vec![Line::Lost], true);
    let process = Process::start(&[settings], &store, &script, &clock).await;
    process.advance(10).await;
    let forms = script.received();
    assert_eq!(forms, ["grant_type=refresh_token&refresh_token=stored-refresh-1"; 2]);
    let set = store.get("sales").unwrap().set;
    assert_eq!(set.generation, Generation::new(2));
    assert_eq!(set.previous_refresh.unwrap().expose(), "stored-refresh-1", "kept until accepted");
}

#[tokio::test]
async fn a_kill_between_answer_and_store_costs_nothing() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let settings = refreshing("sales");
    store.put("sales", stored(&settings, 1, 0));
    FlakyStore::set(&store.full, true);
    let script = Script::new(Vec::new(), true);
    let process = Process::start(&[Arc::clone(&settings)], &store, &script, &clock).await;
    assert_eq!(script.received().len(), 1, "answered, not stored");
    process.kill().await;
    FlakyStore::set(&store.full, false);
    let process = Process::start(&[settings], &store, &script, &clock).await;
    process.keeper("sales").wait_usable().await.expect("recovered");
    let forms = script.received();
    assert_eq!(forms, ["grant_type=refresh_token&refresh_token=stored-refresh-1"; 2]);
}

#[tokio::test]
async fn another_processs_renewal_is_awaited_and_adopted() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let settings = refreshing("sales");
    store.put("sales", stored(&settings, 1, 0));
    FlakyStore::set(&store.leased, true);
    let script = Script::new(Vec::new(), true);
    let process = Process::start(&[Arc::clone(&settings)], &store, &script, &clock).await;
    process.advance(5).await;
    store.put("sales", stored(&settings, 2, 600));
    FlakyStore::set(&store.leased, false);
    process.advance(1).await;
    assert_eq!(process.token("sales").as_deref(), Some("Bearer stored-2"));
    assert_eq!(script.received().len(), 0);
}

#[tokio::test]
async fn the_end_waits_for_a_renewal_under_way_and_stores_it() {
    let (store, script) = (Arc::new(FlakyStore::default()), Script::new(Vec::new(), false));
    let clock = Clock::manual(NOW);
    let process = Process::start(&[jwt("a"), jwt("b")], &store, &script, &clock).await;
    assert_eq!(script.received().len(), 2);
    process.end.send(()).unwrap();
    settle().await;
    assert!(!process.running.is_finished(), "a renewal is under way");
    script.release();
    script.release();
    process.running.await.unwrap();
    assert!(store.get("a").is_some() && store.get("b").is_some());
}

#[tokio::test]
async fn the_end_begins_nothing_new() {
    let (process, _, script) = process_of(jwt("sales"), Vec::new()).await;
    process.keeper("sales").accepted(Generation::new(1));
    process.end.send(()).unwrap();
    process.running.await.unwrap();
    process.clock.advance(Duration::from_secs(3600));
    settle().await;
    assert_eq!(script.received().len(), 1);
}

#[tokio::test]
async fn refusals_for_ever_cost_a_handful_of_requests_an_hour() {
    let (process, _, script) = process_of(jwt("sales"), Vec::new()).await;
    let keeper = process.keeper("sales");
    let mut told_to_wait = 0;
    for second in 0..3600 {
        let latest = keeper.status().generation.unwrap();
        if keeper.status().usable {
            let refused = keeper.rejected(latest);
            tokio::pin!(refused);
            // Answered at once, or after the one renewal it is entitled to.
            let outcome = refused.await;
            told_to_wait += u32::from(outcome.is_err());
            let cooling = outcome.is_err_and(|why| matches!(*why.reason, TokenError::CoolingDown));
            assert!(cooling || second == 0 || told_to_wait < 10, "at {second} s");
        }
        process.advance(1).await;
    }
    let sent = script.received().len();
    assert!((6..=9).contains(&sent), "{sent} token requests in an hour");
}

#[tokio::test]
async fn a_malformed_answer_replaces_nothing() {
    let (process, store, script) = process_of(
        jwt("sales"),
        vec![
            Line::Answer(200, None, granted(1, 3600)),
            Line::Answer(200, None, "<html>".into()),
            Line::Unreachable,
        ],
    )
    .await;
    process.keeper("sales").accepted(Generation::new(1));
    process.advance(3100).await;
    assert_eq!(script.received().len(), 2);
    assert_eq!(process.token("sales").as_deref(), Some("Bearer access-1"));
    assert_eq!(store.get("sales").unwrap().set.generation, Generation::new(1));
    process.advance(30).await;
    process.advance(30).await;
    assert!(script.received().len() >= 4, "tried again");
    assert_ne!(process.token("sales").as_deref(), Some("Bearer access-1"));
}

#[tokio::test]
async fn a_token_refused_while_it_is_being_renewed_is_withdrawn_at_once() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let script = Script::new(Vec::new(), false);
    let process = Process::start(&[jwt("sales")], &store, &script, &clock).await;
    script.release();
    settle().await;
    process.keeper("sales").accepted(Generation::new(1));
    process.advance(3100).await;
    assert_eq!(script.received().len(), 2, "renewing");
    assert!(process.token("sales").is_some());
    let caller = tokio::spawn({
        let identities = Arc::clone(&process.identities);
        let id = identities.only().unwrap();
        async move { identities.keeper(id).rejected(Generation::new(1)).await }
    });
    settle().await;
    assert!(process.token("sales").is_none(), "dead, and said so");
    script.release();
    caller.await.unwrap().expect("the renewal under way serves the refusal, too");
    assert_eq!(script.received().len(), 2);
}

#[tokio::test]
async fn a_holder_that_stalled_past_its_lease_adopts_what_others_stored() {
    let (store, clock) = (Arc::new(FlakyStore::default()), Clock::manual(NOW));
    let settings = refreshing("sales");
    store.put("sales", stored(&settings, 1, 0));
    let script = Script::new(Vec::new(), false);
    let process = Process::start(&[Arc::clone(&settings)], &store, &script, &clock).await;
    assert_eq!(script.received().len(), 1, "stalled in the middle of its request");
    store.put("sales", stored(&settings, 2, 600));
    script.release();
    settle().await;
    assert_eq!(process.token("sales").as_deref(), Some("Bearer stored-2"));
    assert_eq!(
        store.get("sales").unwrap().set.access_token.expose(),
        "stored-2",
        "not overwritten"
    );
}

#[tokio::test]
async fn the_driver_of_an_added_identity_leaves_when_its_token_has_lapsed() {
    let (clock, script) = (Clock::manual(NOW), Script::new(Vec::new(), true));
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let identities = Identities::new(&[jwt("sales")], store, script.endpoint(), clock.clone());
    let identities = Arc::new(identities);
    let running = tokio::spawn({
        let identities = Arc::clone(&identities);
        async move { identities.run(std::future::pending()).await }
    });
    let enrolment = Enrolment { client_id: "client".into(), jwt: Some(Secret::new("guest-jwt")) };
    identities.enrol("guest", enrolment).await.unwrap();
    let guest = identities.keeper(identities.find("guest").unwrap());
    guest.wait_usable().await.expect("a token");
    let taken = || guest.post.taken.load(Ordering::Relaxed);
    assert!(taken() && guest.slot().generation().is_some());
    clock.advance(Duration::from_secs(3600));
    settle().await;
    assert_eq!((taken(), guest.slot().generation()), (false, None), "nobody asked meanwhile");
    guest.wait_usable().await.expect("another token");
    assert!(taken());
    running.abort();
}
