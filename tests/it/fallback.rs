//! An identity that refreshes and keeps a JWT for the day on which its session is lost; how all
//! sessions of an identity are one instance of the application; sessions without refresh tokens.

use std::time::Duration;

use ringbearer::sandbox::{Fault, FaultKind, Place};
use tokio::task::JoinSet;

use crate::support::{
    ECHO, Environment, REFRESH_IDENTITY, Wishes, client, log_in, sends, sessions,
};

const JWT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

async fn with(identity: &str) -> Environment {
    Environment::with(Wishes { identity: identity.to_owned(), ..Wishes::default() }).await
}

async fn with_fallback() -> Environment {
    with(&format!("{REFRESH_IDENTITY}\njwt = \"sandbox-jwt\"")).await
}

fn granted(environment: &Environment, grant: &str) -> u64 {
    let counts = environment.control().counts();
    counts.token_requests_by_grant.get(grant).copied().unwrap_or_default()
}

/// Uses the token, then lets time pass until it has been renewed.
async fn renew(environment: &Environment) {
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let before = environment.status().generation;
    environment.go_to_renewal();
    environment.pass_until(60, |status| status.generation != before).await;
}

fn stored(environment: &Environment) -> serde_json::Value {
    let document: serde_json::Value = serde_json::from_str(&environment.stored()).unwrap();
    document["session"].clone()
}

#[tokio::test]
async fn a_session_that_was_ended_at_the_server_is_replaced_and_no_client_fails() {
    const CALLERS: usize = 50;
    let mut environment = with_fallback().await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    assert_eq!((granted(&environment, "refresh_token"), granted(&environment, JWT)), (1, 0));
    environment.control().end_sessions();
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        let request = environment.client.get(environment.url(&format!("{ECHO}?n={n}")));
        callers.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    assert_eq!(callers.join_all().await, [200; CALLERS]);
    let log = environment.control().log();
    assert!(sends(&log).values().all(|sends| sends.len() <= 2), "at most one replay each");
    // The refresh token was tried, refused, and never again.
    assert_eq!((granted(&environment, "refresh_token"), granted(&environment, JWT)), (2, 1));
    assert_eq!(environment.control().counts().token_refusals, 1);

    // From now on it is an identity with a JWT: make before break.
    let refused = environment.control().counts().api_401;
    for renewal in 2..=4 {
        renew(&environment).await;
        assert_eq!(environment.get(ECHO).await.status(), 200);
        assert_eq!(granted(&environment, JWT), renewal);
        assert!(environment.control().counts().sessions_alive <= 2);
        assert!(stored(&environment)["refresh_token"].is_null());
    }
    environment.stop_proxy().await;
    environment.start_proxy();
    assert_eq!(environment.get(ECHO).await.status(), 200);
    assert_eq!(granted(&environment, JWT), 4, "a restart costs no token request");
    renew(&environment).await;
    assert_eq!((granted(&environment, "refresh_token"), granted(&environment, JWT)), (2, 5));
    assert_eq!(environment.control().counts().api_401, refused);
    environment.finish().await;
}

#[tokio::test]
async fn while_the_session_lives_the_jwt_is_not_used() {
    let environment = with_fallback().await;
    for _ in 0..5 {
        renew(&environment).await;
    }
    assert_eq!((granted(&environment, "refresh_token"), granted(&environment, JWT)), (6, 0));
    assert_eq!(sessions(&environment.control().log()), [1]);
    environment.finish().await;
}

#[tokio::test]
async fn a_refresh_token_that_is_used_up_at_the_start_leads_to_the_jwt() {
    let environment = with("refresh_token = \"used up\"\njwt = \"sandbox-jwt\"").await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    assert_eq!((granted(&environment, "refresh_token"), granted(&environment, JWT)), (1, 1));
    environment.finish().await;
}

#[tokio::test]
async fn a_refresh_token_that_ended_while_the_machine_slept_leads_to_the_jwt() {
    let mut wishes = Wishes {
        identity: format!("{REFRESH_IDENTITY}\njwt = \"sandbox-jwt\""),
        ..Wishes::default()
    };
    wishes.rules.refresh_token_ttl = Duration::from_secs(5400);
    let environment = Environment::with(wishes).await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    environment.clock.advance(Duration::from_secs(7200));
    let request = client().get(environment.url(ECHO)).send();
    assert_eq!(request.await.unwrap().status(), 200);
    assert_eq!(granted(&environment, JWT), 1);
    assert_eq!(environment.control().counts().api_401, 0, "a dead token was not sent");
    environment.finish().await;
}

#[tokio::test]
async fn a_server_that_answers_no_refresh_is_asked_with_the_jwt_after_three_repetitions() {
    let environment = with_fallback().await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let before = environment.control().counts().token_requests;
    environment.control().inject(Fault::once(Place::Token, FaultKind::status(500)).times(4));
    environment.clock.advance(Duration::from_secs(2690));
    while environment.control().counts().token_requests == before {
        environment.pass(Duration::from_secs(1)).await;
    }
    environment.pass(Duration::from_secs(30)).await;
    assert_eq!(environment.control().counts().token_requests, before + 5);
    assert_eq!(granted(&environment, JWT), 1);
    assert_eq!(environment.get(ECHO).await.status(), 200);
    assert_eq!(environment.control().counts().api_401, 0);
    environment.finish().await;
}

#[tokio::test]
async fn a_hundred_jwt_renewals_and_restarts_are_one_instance_of_the_application() {
    let mut environment = with("jwt = \"sandbox-jwt\"\naccess_token_ttl = \"10m\"").await;
    environment.rest().await;
    let first = stored(&environment)["endpoint_id"].clone();
    assert_eq!(first, "sandbox-endpoint-1", "made up for the first session");
    for renewal in 1..=100 {
        renew(&environment).await;
        assert_eq!(stored(&environment)["endpoint_id"], first, "renewal {renewal}");
        if renewal % 25 == 0 {
            environment.stop_proxy().await;
            environment.start_proxy();
            environment.rest().await;
        }
    }
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.token_answers), (101, 101));
    assert_eq!(counts.api_401, 0);
    environment.finish().await;
}

#[tokio::test]
async fn the_jwt_of_a_lost_session_goes_on_as_the_same_instance() {
    let environment = with_fallback().await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let first = stored(&environment)["endpoint_id"].clone();
    assert_eq!(first, "sandbox-endpoint-1");
    // Somebody else's session lies between.
    log_in(&environment.client, &environment.sandbox).await;
    environment.control().end_sessions();
    assert_eq!(environment.get(ECHO).await.status(), 200);
    assert_eq!(granted(&environment, JWT), 1);
    assert_eq!(stored(&environment)["endpoint_id"], first);
    environment.finish().await;
}

#[tokio::test]
async fn a_session_without_refresh_token_and_with_a_short_life_is_opened_anew() {
    let identity = "jwt = \"sandbox-jwt\"\nrefresh_token_ttl = \"0s\"\naccess_token_ttl = \"10m\"";
    let environment = with(identity).await;
    for renewal in 1..=20 {
        assert_eq!(environment.get(ECHO).await.status(), 200);
        let session = stored(&environment);
        assert!(session["refresh_token"].is_null() && session["previous_refresh_token"].is_null());
        let life = |name: &str| session[name].as_u64().unwrap();
        assert_eq!(life("expires_at_ms") - life("issued_at_ms"), 600_000);
        renew(&environment).await;
        let counts = environment.control().counts();
        assert_eq!(counts.sessions_alive, 2, "the old one drains");
        assert_eq!((counts.token_requests, counts.revocations), (renewal + 1, 0));
        environment.clock.advance(Duration::from_secs(150));
        environment.rest().await;
        assert_eq!(environment.control().counts().sessions_alive, 1, "and ends by itself");
    }
    assert_eq!(granted(&environment, JWT), 21);
    assert_eq!(granted(&environment, "refresh_token"), 0);
    assert_eq!(environment.control().counts().api_401, 0);
    environment.finish().await;
}
