//! What is known of RingCentral's limits goes on through a reload, whatever else changes by it.

use std::future::ready;
use std::time::Duration;

use ringbearer::service::Service;
use ringbearer::settings::{PacingSettings, Settings, ThrottleSettings};
use tokio::task::JoinSet;

use crate::support::{Environment, START, settle};
use crate::throttle::{ALSO_HEAVY, HEAVY, arrivals, get, into_the_penalty, limited, paced};

/// Another proxy in this one's place; the old one finishes what it has begun.
async fn reload(environment: &mut Environment, settings: &Settings) -> Service {
    let old = environment.proxy.take().expect("the proxy runs");
    let new = old.succeed(settings, &environment.clock).await.unwrap();
    environment.proxy = Some(new);
    old
}

/// Reads `settings` anew and returns when the old proxy has ended.
pub(crate) async fn reload_and_end(environment: &mut Environment, settings: &Settings) {
    let old = reload(environment, settings).await;
    let mut ended = std::pin::pin!(old.retire(ready(())));
    // The end takes time.
    let mut rounds = 0_u32;
    loop {
        tokio::select! {
            biased;
            () = &mut ended => return,
            () = settle() => rounds += 1,
        }
        if rounds.is_multiple_of(100) {
            environment.clock.advance(Duration::from_millis(500));
        }
    }
}

#[tokio::test]
async fn a_reload_within_a_penalty_sends_nothing_until_it_is_over() {
    let mut environment = Environment::with(limited()).await;
    into_the_penalty(&environment).await;
    // Between two seconds, where it does not matter how fine the proxy's clock is.
    environment.clock.advance(Duration::from_millis(250));
    let usual = environment.settings().clone();
    // The identities change places, as they do when one is put before another.
    let mut turned = usual.clone();
    turned.identities.reverse();
    let mut unkept = usual.clone();
    unkept.proxy.throttle = None;
    let mut pacing = turned.clone();
    let paced = PacingSettings { max_wait: Duration::from_secs(10), max_queue: 1000 };
    pacing.proxy.throttle = Some(ThrottleSettings { pacing: Some(paced) });
    let over = START + Duration::from_secs(60);
    for (name, next) in [
        ("the same", &usual),
        ("turned", &turned),
        ("pacing", &pacing),
        ("without a throttle", &unkept),
        ("pacing again", &pacing),
        ("the same again", &usual),
    ] {
        reload_and_end(&mut environment, next).await;
        if next.proxy.throttle.is_none() {
            continue;
        }
        let left = environment.clock.now().until(over).as_millis().div_ceil(1000);
        for target in [HEAVY, ALSO_HEAVY] {
            let answer = get(&environment, "test", target).await;
            let of = |name: &str| answer.headers()[name].to_str().unwrap();
            assert_eq!((answer.status().as_u16(), of("x-ringbearer-error")), (429, "RBR-160"));
            assert_eq!(of("retry-after"), left.to_string(), "{name}");
        }
        environment.clock.advance(Duration::from_secs(3));
    }
    assert_eq!(arrivals(&environment.control().log(), ALSO_HEAVY), [], "none was sent into it");
    assert_eq!(get(&environment, "other", HEAVY).await.status(), 200, "it is test's alone");
    let test = environment.proxy().identities().find("test").unwrap().number();
    let penalties = environment.proxy().throttle().unwrap().figures(test).unwrap().penalties();
    assert_eq!(penalties, 1, "figures are counted on with");
    environment.clock.advance(environment.clock.now().until(over) + Duration::from_millis(11));
    assert_eq!(get(&environment, "test", ALSO_HEAVY).await.status(), 200);
    assert_eq!(environment.control().counts().api_429, 1);
    environment.finish().await;
}

#[tokio::test]
async fn those_who_wait_before_and_after_a_reload_share_one_limit() {
    let mut environment = Environment::with(paced("")).await;
    for _ in 0..10 {
        assert_eq!(get(&environment, "test", HEAVY).await.status(), 200);
    }
    let mut waiting = JoinSet::new();
    let mut wait = |environment: &Environment, n: usize| {
        // Each on a connection of its own, or it would be closed with the old proxy.
        let client = crate::support::client();
        let request = client.get(environment.url(&format!("{HEAVY}?n={n}")));
        let request = request.header("x-ringbearer-identity", "test");
        let request = request.header("x-ringbearer-max-wait", "600");
        waiting.spawn(async move { request.send().await.unwrap().status().as_u16() });
    };
    let test = environment.proxy().identities().find("test").unwrap().number();
    let waits = async |environment: &Environment, count: u64| {
        let throttle = environment.proxy().throttle().unwrap();
        while throttle.figures(test).unwrap().waiting() < count {
            settle().await;
        }
    };
    (0..8).for_each(|n| wait(&environment, n));
    waits(&environment, 8).await;
    let mut settings = environment.settings().clone();
    settings.identities.reverse();
    let old = reload(&mut environment, &settings).await;
    let retired = tokio::spawn(old.retire(std::future::pending()));
    environment.client = crate::support::client();
    for _ in 0..1000 {
        // The old workers leave the socket in their own time.
        settle().await;
    }
    (8..16).for_each(|n| wait(&environment, n));
    waits(&environment, 16).await;
    for (lot, sent) in [(10, 20), (6, 26)] {
        environment.clock.advance(Duration::from_millis(60_009));
        for _ in 0..50 {
            settle().await;
        }
        assert_eq!(environment.control().counts().api_requests, sent - lot, "not one too early");
        environment.clock.advance(Duration::from_millis(1));
        for _ in 0..lot {
            let status = waiting.join_next().await.unwrap().unwrap();
            assert_eq!(status, 200);
        }
        assert_eq!(environment.control().counts().api_requests, sent);
    }
    assert_eq!(environment.control().counts().api_429, 0);
    while !retired.is_finished() {
        environment.clock.advance(Duration::from_millis(500));
        settle().await;
    }
    retired.await.unwrap();
    environment.finish().await;
}
