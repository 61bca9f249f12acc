//! Many callers at once: one token request, one renewal, nothing sent more than twice.

use std::time::Duration;

use reqwest::Client;
use ringbearer::sandbox::{Fault, FaultKind, Place, Rules};
use ringbearer::token::Generation;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::support::{ECHO, Environment, Wishes, client, sends, settle};

/// Clients of the cold start.
const CALLERS: u64 = 1000;
/// Connections under load, and requests on each.
const CONNECTIONS: u64 = 64;
const REQUESTS: u64 = 50;

#[tokio::test]
async fn a_thousand_callers_of_a_cold_start_cost_one_token_request() {
    // A connection in, a connection out, both ends in this process.
    raise_open_files(CALLERS * 4 + 200);
    let environment = Environment::new().await;
    let delay = FaultKind::delay(Duration::from_secs(5));
    environment.control().inject(Fault::once(Place::Token, delay));
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        let request = environment.client.get(environment.url(&format!("{ECHO}?n={n}")));
        callers.spawn(async move { request.send().await.unwrap().status() });
    }
    environment.until(|status| status.waiting == 1000).await;
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.token_answers, counts.api_requests), (1, 0, 0));

    environment.clock.advance(Duration::from_secs(5));
    let statuses = callers.join_all().await;
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1000);
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests, counts.api_401), (1, 1000, 0));
    environment.finish().await;
}

#[tokio::test]
async fn a_token_revoked_under_load_costs_one_renewal_and_no_client_notices() {
    let rules = Rules { log_capacity: 20_000, ..Rules::unlimited() };
    let environment = Environment::with(Wishes { rules, ..Wishes::default() }).await;
    let mut load = JoinSet::new();
    for connection in 0..CONNECTIONS {
        let url = environment.url(ECHO);
        load.spawn(calls(client(), url, connection * REQUESTS));
    }
    let total = CONNECTIONS * REQUESTS;
    environment.control().wait_until(|counts| counts.api_requests >= total / 2).await;
    environment.control().revoke_access_tokens();
    let statuses = load.join_all().await.concat();

    assert_eq!(statuses, [200; 3200]);
    let counts = environment.control().counts();
    assert_eq!(counts.token_requests, 2, "the first token and one renewal");
    assert_eq!(counts.api_requests, total + counts.api_401);
    assert!((1..=CONNECTIONS).contains(&counts.api_401), "{} were refused", counts.api_401);
    let log = environment.control().log();
    let sends = sends(&log);
    assert_eq!(sends.len(), 3200);
    for (target, statuses) in sends {
        let once_or_replayed = [&[Some(200)][..], &[Some(401), Some(200)]];
        assert!(once_or_replayed.contains(&&statuses[..]), "{target}: {statuses:?}");
    }
    environment.finish().await;
}

#[tokio::test]
async fn the_renewal_goes_on_when_the_client_that_caused_it_goes_away() {
    let mut environment = Environment::new().await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    environment.control().revoke_access_tokens();
    let delay = FaultKind::delay(Duration::from_secs(5));
    environment.control().inject(Fault::once(Place::Token, delay));
    let request = environment.client.get(environment.url(ECHO)).send();
    let client = tokio::spawn(async move { drop(request.await) });
    environment.control().wait_until(|counts| counts.token_requests == 2).await;
    environment.until(|status| status.waiting == 1).await;
    client.abort();
    environment.until(|status| status.waiting == 0).await;

    environment.clock.advance(Duration::from_secs(5));
    let status = environment.until(|status| status.usable).await;
    assert_eq!(status.generation.map(Generation::number), Some(2));
    environment.stop_proxy().await;
    environment.start_proxy();
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.api_401), (2, 1), "the renewal was stored");
    environment.finish().await;
}

/// Requests one after the other on a connection of their own, each with a number; half of them with
/// content.
async fn calls(client: Client, url: String, from: u64) -> Vec<u16> {
    let mut statuses = Vec::new();
    for n in from..from + REQUESTS {
        let url = format!("{url}?n={n}");
        let request =
            if n.is_multiple_of(2) { client.get(url) } else { client.post(url).body("content") };
        let answer = request.send().await.unwrap();
        statuses.push(answer.status().as_u16());
        answer.bytes().await.unwrap();
        settle().await;
    }
    statuses
}

fn raise_open_files(wanted: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised)
            .unwrap_or_else(|error| panic!("ulimit -n {wanted} is needed: {error}"));
    }
}
