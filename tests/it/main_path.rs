//! A plain request in, an authenticated one out; a 401 healed by one replay.

use crate::support::{ECHO, Environment, Wishes};

#[tokio::test]
async fn a_plain_request_arrives_authenticated() {
    let environment = Environment::new().await;
    let answer = environment.get(ECHO).await;
    assert_eq!(answer.status(), 200);
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests, counts.api_401), (1, 1, 0));
}

#[tokio::test]
async fn a_revoked_token_is_healed_by_one_renewal_and_one_replay() {
    let environment = Environment::new().await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    environment.control().revoke_access_tokens();
    let answer = environment.client.post(environment.url(ECHO)).body("hello").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-ringbearer-replay"], "yes");
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests, counts.api_401), (2, 3, 1));
}

#[tokio::test]
async fn a_store_in_memory_serves_as_long_as_the_process_lives() {
    let wishes = Wishes { store: Some("memory = true".into()), ..Wishes::default() };
    let mut environment = Environment::with(wishes).await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    assert!(!environment.store().exists(), "no file");
    environment.stop_proxy().await;
    environment.start_proxy();
    assert_eq!(environment.get(ECHO).await.status(), 200);
    assert_eq!(environment.control().counts().token_requests, 2, "a new session each time");
    environment.finish().await;
}
