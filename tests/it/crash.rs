//! kill -9 and SIGTERM at the worst moments: the session goes on.

use std::time::Duration;

use ringbearer::sandbox::{Fault, FaultKind, Place};
use tokio::net::TcpStream;
use tokio::task::yield_now;

use crate::process::{Process, Site};
use crate::support::{ECHO, sessions, settle};

#[tokio::test]
async fn a_kill_between_the_token_answer_and_its_storage_costs_no_session() {
    for fault in [FaultKind::DropAfter, FaultKind::Truncate { after: 40 }] {
        let site = Site::new().await;
        let process = site.start().await;
        assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
        let before = site.stored();
        site.control().inject(Fault::once(Place::Token, fault.clone()));
        site.control().expire_access_tokens();
        let cut = tokio::spawn(site.get(&process, ECHO).send());
        site.control().wait_until(|counts| counts.token_answers == 3).await;
        process.kill();
        drop(cut.await.unwrap());
        assert_eq!(site.stored(), before, "{fault:?}: the new pair was not stored");

        let process = site.start().await;
        assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
        let counts = site.control().counts();
        assert_eq!((counts.token_requests, counts.token_repeats), (4, 1), "{fault:?}");
        assert_eq!((counts.token_refusals, counts.sessions_alive), (0, 1), "{fault:?}");
        assert_eq!(sessions(&site.control().log()), [1], "{fault:?}");
    }
}

#[tokio::test]
async fn a_kill_right_after_storage_and_before_first_use_costs_no_token_request() {
    let site = Site::new().await;
    site.control().set_rules(|rules| {
        (rules.access_token_ttl, rules.access_token_ttl_min) = (SHORT, SHORT);
    });
    let mut process = site.start().await;
    assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
    let before = (site.stored(), site.control().counts());
    site.control().set_rules(|rules| rules.access_token_ttl = Duration::from_secs(3600));
    while site.control().counts().token_answers == before.1.token_answers {
        // Said after it has been stored, before it is published.
        process.says("renewed").await;
    }
    process.kill();
    let stored = site.stored();
    assert_ne!(stored, before.0);
    let counts = site.control().counts();
    assert_eq!(counts.api_requests, before.1.api_requests, "nobody has used it");

    let process = site.start().await;
    assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
    assert_eq!(site.stored(), stored);
    let after = site.control().counts();
    assert_eq!((after.token_requests, after.token_refusals), (counts.token_requests, 0));
    assert_eq!(sessions(&site.control().log()), [1]);
}

#[tokio::test]
async fn twenty_kills_at_random_instants_of_a_renewal_cost_no_session() {
    const KILLS: u64 = 20;
    let mut random = fastrand::Rng::with_seed(8);
    let site = Site::new().await;
    let process = site.start().await;
    assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
    process.kill();
    for kill in 1..=KILLS {
        site.control().expire_access_tokens();
        let process = site.start().await;
        let cut = tokio::spawn(site.get(&process, ECHO).send());
        site.control().wait_until(|counts| counts.token_requests == 2 + kill).await;
        for _ in 0..random.u32(0..4000) {
            yield_now().await;
        }
        process.kill();
        drop(cut.await.unwrap());
    }
    let process = site.start().await;
    assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
    let counts = site.control().counts();
    assert_eq!((counts.token_refusals, counts.sessions_alive), (0, 1));
    assert_eq!(counts.token_requests_by_grant["password"], 1);
    assert_eq!(sessions(&site.control().log()), [1]);
}

#[tokio::test]
async fn sigterm_lets_a_renewal_and_the_requests_in_flight_finish() {
    let site = Site::new().await;
    let mut process = site.start().await;
    assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
    let (control, minute) = (site.control(), FaultKind::delay(Duration::from_secs(60)));
    control
        .inject(Fault::once(Place::Api, minute.clone()).under("/restapi/v1.0/sandbox/echo?slow"));
    let slow = tokio::spawn(site.get(&process, &format!("{ECHO}?slow")).send());
    control.wait_until(|counts| counts.in_flight == 1).await;
    control.expire_access_tokens();
    control.inject(Fault::once(Place::Token, minute));
    let healed = tokio::spawn(site.get(&process, ECHO).send());
    control.wait_until(|counts| counts.token_requests == 3).await;
    process.terminate();
    process.says("draining").await;
    site.clock.advance(Duration::from_secs(60));

    // Healed as well: its token expired while it was held.
    assert_eq!(slow.await.unwrap().unwrap().status(), 200);
    assert_eq!(healed.await.unwrap().unwrap().status(), 200);
    assert_eq!(process.ended().await.code(), Some(0));
    goes_on(&site, 3).await;
}

#[tokio::test]
async fn sigterm_lets_a_renewal_finish_that_nobody_waits_for() {
    let site = Site::new().await;
    let mut process = site.start().await;
    assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
    let control = site.control();
    control.expire_access_tokens();
    let delay = FaultKind::delay(Duration::from_secs(60));
    control.inject(Fault::once(Place::Token, delay));
    let gone = tokio::spawn(site.get(&process, ECHO).send());
    control.wait_until(|counts| counts.token_requests == 3).await;
    gone.abort();
    process.terminate();
    process.says("draining").await;
    // The workers have ended when nobody listens any more; only the renewal is left.
    while TcpStream::connect(process.address()).await.is_ok() {
        settle().await;
    }
    site.clock.advance(Duration::from_secs(60));
    assert_eq!(process.ended().await.code(), Some(0));
    goes_on(&site, 3).await;
}

/// The next start needs no token request.
async fn goes_on(site: &Site, token_requests: u64) {
    let process: Process = site.start().await;
    assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
    let counts = site.control().counts();
    assert_eq!((counts.token_requests, counts.token_repeats), (token_requests, 0));
    assert_eq!(sessions(&site.control().log()), [1]);
}

/// The first access token's life, by the machine's clock.
const SHORT: Duration = Duration::from_secs(2);
