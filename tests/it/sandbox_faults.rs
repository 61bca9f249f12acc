//! What goes wrong on order.

use std::time::Duration;

use reqwest::Method;
use ringbearer::sandbox::{Fault, FaultKind, Garbage, Place};
use serde_json::json;

use crate::sandbox_support::{ECHO, JWT, Stage, answer, text};

const LOGIN: [(&str, &str); 2] = [("grant_type", JWT), ("assertion", "sandbox-jwt")];

#[tokio::test]
async fn a_status_comes_as_often_as_ordered_and_nothing_is_processed() {
    let stage = Stage::unlimited().await;
    let kind = FaultKind::Status { code: 503, body: None, retry_after: Some(7) };
    stage.control().inject(Fault::once(Place::Token, kind).times(2));
    for _ in 0..2 {
        assert_eq!(stage.token(&LOGIN).await.0, 503);
    }
    assert_eq!(stage.control().counts().sessions_alive, 0);
    assert_eq!(stage.token(&LOGIN).await.0, 200);
    assert_eq!(stage.control().counts().faults, 2);
}

#[tokio::test]
async fn a_request_that_hangs_is_noticed_and_ends_with_its_client() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    stage.control().inject(Fault::once(Place::Api, FaultKind::Hang));
    let hanging = tokio::spawn(stage.get(ECHO, &token).send());
    stage.control().wait_until(|counts| counts.in_flight == 1).await;
    hanging.abort();
    stage.control().wait_until(|counts| counts.in_flight == 0).await;
    let log = stage.control().log();
    assert_eq!((log.len(), log[1].status), (2, None));
}

#[tokio::test]
async fn a_delay_is_over_when_the_clock_says_so() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let delay = FaultKind::delay(Duration::from_secs(30));
    stage.control().inject(Fault::once(Place::Api, delay));
    let delayed = tokio::spawn(stage.get(ECHO, &token).send());
    stage.control().wait_until(|counts| counts.in_flight == 1).await;
    stage.pass(30);
    assert_eq!(delayed.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn a_connection_dropped_before_changes_nothing_and_after_loses_only_the_answer() {
    let stage = Stage::unlimited().await;
    let first = stage.login(1).await;
    let refresh = || {
        let token = text(&first, "refresh_token");
        let form = [("grant_type", "refresh_token".to_owned()), ("refresh_token", token)];
        let request = stage.request(Method::POST, "/restapi/oauth/token");
        request.basic_auth("sandbox-client", Some("sandbox-secret")).form(&form).send()
    };
    stage.control().inject(Fault::once(Place::Token, FaultKind::DropBefore));
    refresh().await.expect_err("the connection is dropped before");
    assert_eq!(stage.use_access(&first).await, "200");
    stage.control().inject(Fault::once(Place::Token, FaultKind::DropAfter));
    refresh().await.expect_err("the connection is dropped after");
    assert_eq!(stage.use_access(&first).await, "OAU-129");
    let (status, second) = answer(refresh().await.unwrap()).await;
    assert_eq!(status, 200, "the old refresh token is RingCentral's remedy: {second}");
    assert_eq!(stage.use_access(&second).await, "200");
    assert_eq!(stage.control().counts().token_repeats, 1);
}

#[tokio::test]
async fn garbage_comes_in_all_its_kinds() {
    let stage = Stage::unlimited().await;
    for value in [json!(0), json!(-5), json!("3600"), json!(null)] {
        let garbage = FaultKind::Garbage(Garbage::ExpiresIn(value.clone()));
        stage.control().inject(Fault::once(Place::Token, garbage));
        assert_eq!(stage.token(&LOGIN).await.1["expires_in"], value);
    }
    let order = |garbage| {
        stage.control().inject(Fault::once(Place::Token, FaultKind::Garbage(garbage)));
        stage.token(&LOGIN)
    };
    let (_, body) = order(Garbage::MissingAccessToken).await;
    assert!(body.get("access_token").is_none() && body.get("refresh_token").is_some(), "{body}");
    let (status, body) = order(Garbage::Html).await;
    assert!(status == 200 && body.as_str().unwrap().starts_with("<!DOCTYPE"), "{body}");
    assert!(order(Garbage::TruncatedJson).await.1.as_str().unwrap().starts_with("{\"access"));
    let (_, body) = order(Garbage::Huge { bytes: 3_000_000 }).await;
    assert_eq!(body.as_str().unwrap().len(), 3_000_000);
}

#[tokio::test]
async fn a_truncated_content_ends_in_an_error() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    stage.control().inject(Fault::once(Place::Api, FaultKind::Truncate { after: 20 }));
    let response = stage.get(ECHO, &token).send().await.unwrap();
    assert_eq!(response.status(), 200);
    response.bytes().await.expect_err("only 20 bytes arrive");
}

#[tokio::test]
async fn connections_close_after_their_answer_with_and_without_a_word() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    for (kind, announced) in [(FaultKind::CloseAfter, false), (FaultKind::AnnounceClose, true)] {
        let before = stage.control().counts().connections_accepted;
        stage.control().inject(Fault::once(Place::Api, kind));
        let response = stage.get(ECHO, &token).send().await.unwrap();
        assert_eq!(response.headers().contains_key("connection"), announced);
        response.bytes().await.unwrap();
        stage.control().wait_until(|counts| counts.connections_open == 0).await;
        assert_eq!(stage.get(ECHO, &token).send().await.unwrap().status(), 200);
        assert_eq!(stage.control().counts().connections_accepted, before + 1);
    }
}

#[tokio::test]
async fn a_connection_may_serve_three_requests_and_no_more() {
    let stage = Stage::unlimited().await;
    stage.control().set_rules(|rules| rules.requests_per_connection = Some(3));
    let pair = stage.login(1).await;
    for connection in [1, 1, 2, 2, 2, 3] {
        assert_eq!(stage.use_access(&pair).await, "200");
        assert_eq!(stage.control().counts().connections_accepted, connection);
        let served = stage.control().counts().requests;
        if served.is_multiple_of(3) {
            stage.control().wait_until(|counts| counts.connections_open == 0).await;
        }
    }
}

#[tokio::test]
async fn an_early_refusal_does_not_wait_for_the_content() {
    let stage = Stage::unlimited().await;
    stage.control().set_rules(|rules| rules.early_refusal = true);
    let address = stage.sandbox.url().replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!("POST {ECHO} HTTP/1.1\r\nHost: s\r\nContent-Length: 1000000\r\n\r\n");
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    tokio::io::AsyncReadExt::read_exact(&mut stream, &mut status).await.unwrap();
    assert_eq!(&status, b"HTTP/1.1 401");
}

#[tokio::test]
async fn a_good_token_may_be_refused_for_ever_under_one_path_only() {
    let stage = Stage::unlimited().await;
    let pair = stage.login(1).await;
    let kind = FaultKind::Unauthorized { code: None };
    stage.control().inject(Fault::always(Place::Api, kind).under(ECHO));
    for _ in 0..3 {
        assert_eq!(stage.use_access(&pair).await, "OAU-129");
    }
    let token = text(&pair, "access_token");
    let other = stage.get("/restapi/v1.0/account/~", &token).send().await.unwrap();
    assert_eq!(other.status(), 200);
    stage.control().clear_faults();
    assert_eq!(stage.use_access(&pair).await, "200");
}
