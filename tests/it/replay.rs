//! A 401 heals by one replay with the same bytes, or is passed on with the reason.

use std::time::Duration;

use ringbearer::sandbox::{Arrival, Fault, FaultKind, Place, Rules};

use tokio::net::TcpListener;

use crate::support::{ECHO, Environment, Wishes};
use crate::wire::{Answer, Wire, get};

const SMS: &str = "/restapi/v1.0/account/~/extension/~/sms";

/// An environment whose access token has just died.
async fn with_dead_token(wishes: Wishes) -> (Environment, Wire) {
    let environment = Environment::with(wishes).await;
    let mut wire = Wire::open(environment.address()).await;
    assert_eq!(wire.ask(get(ECHO)).await.status, 200);
    environment.control().clear_log();
    environment.control().revoke_access_tokens();
    (environment, wire)
}

fn chunked(target: &str, fields: &str, pieces: &[&str], tail: &str) -> String {
    let pieces = pieces.iter().map(|piece| format!("{:x}\r\n{piece}\r\n", piece.len()));
    let pieces = pieces.collect::<Vec<_>>().concat();
    format!(
        "POST {target} HTTP/1.1\r\nHost: a\r\n{fields}Transfer-Encoding: chunked\r\n\r\n{pieces}0\r\n{tail}\r\n"
    )
}

fn sends(environment: &Environment, target: &str) -> Vec<Arrival> {
    let mut log = environment.control().log();
    log.retain(|arrival| arrival.target == target);
    log
}

fn assert_same_content_twice(sends: &[Arrival]) {
    let [first, second] = sends else { panic!("sent {} times", sends.len()) };
    assert_eq!((first.status, second.status), (Some(401), Some(200)));
    assert_eq!(first.body_sha256, second.body_sha256);
    assert_eq!(first.trailers, second.trailers);
    assert_ne!(first.field("authorization"), second.field("authorization"));
    let others = |arrival: &Arrival| {
        let mut fields = arrival.fields.clone();
        fields.retain(|(name, _)| name != "authorization");
        fields
    };
    assert_eq!(others(first), others(second));
}

fn replayed(answer: &Answer) -> &str {
    answer.field("x-ringbearer-replay").unwrap_or("nothing said")
}

#[tokio::test]
async fn replays_a_chunked_post_once_with_its_trailers() {
    let (environment, mut wire) = with_dead_token(Wishes::default()).await;
    let request = chunked(ECHO, "Trailer: X-Sum\r\n", &["one ", "two ", "three"], "X-Sum: 7\r\n");
    let answer = wire.ask(request).await;
    assert_eq!((answer.status, replayed(&answer)), (200, "yes"));
    let sends = sends(&environment, ECHO);
    assert_same_content_twice(&sends);
    assert_eq!(sends[1].trailers, [("x-sum".to_owned(), "7".to_owned())]);
    assert_eq!(sends[1].body_bytes, 13);
}

#[tokio::test]
async fn replays_a_multipart_post_once() {
    let (environment, mut wire) = with_dead_token(Wishes::default()).await;
    let content = "--b\r\nContent-Type: application/json\r\n\r\n\
        {\"to\":[{\"phoneNumber\":\"+15551230002\"}],\"text\":\"hi\"}\r\n--b--\r\n";
    let length = content.len();
    let answer = wire
        .ask(format!(
            "POST {SMS} HTTP/1.1\r\nHost: a\r\nContent-Type: multipart/mixed; boundary=b\r\n\
             Content-Length: {length}\r\n\r\n{content}"
        ))
        .await;
    assert_eq!((answer.status, replayed(&answer)), (200, "yes"));
    assert_same_content_twice(&sends(&environment, SMS));
    assert_eq!(environment.control().counts().messages_sent, 1);
}

#[tokio::test]
async fn an_early_401_is_healed_while_the_upload_is_still_coming() {
    let rules = Rules { early_refusal: true, ..Rules::unlimited() };
    let (environment, mut wire) = with_dead_token(Wishes { rules, ..Wishes::default() }).await;
    wire.send(format!("POST {ECHO} HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\nhello ")).await;
    // The replay is under way before the rest is there.
    environment.control().wait_until(|counts| counts.api_requests == 3).await;
    let answer = wire.ask("world").await;
    assert_eq!((answer.status, replayed(&answer)), (200, "yes"));
    let sends = sends(&environment, ECHO);
    assert_eq!((sends.len(), sends[0].status, sends[1].body_bytes), (2, Some(401), 11));
    assert_eq!(environment.control().counts().token_requests, 2);
}

#[tokio::test]
async fn content_over_the_limit_streams_once_and_the_renewal_happens_meanwhile() {
    let proxy = r#"max_replay_bytes = "8B""#.to_owned();
    let (environment, mut wire) = with_dead_token(Wishes { proxy, ..Wishes::default() }).await;
    let announced =
        format!("POST {ECHO} HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123456789");
    let streamed = chunked(ECHO, "", &["12345", "6789"], "");
    for request in [announced, streamed] {
        let before = environment.control().counts();
        environment.control().revoke_access_tokens();
        let answer = wire.ask(request).await;
        let why = "no; request content is longer than max_replay_bytes";
        assert_eq!((answer.status, replayed(&answer)), (401, why));
        assert_eq!(answer.json()["errors"][0]["errorCode"], "OAU-129");
        environment.pass_until_renewed(before.token_answers + 1).await;
        assert_eq!(wire.ask(get(ECHO)).await.status, 200);
        let counts = environment.control().counts();
        assert_eq!(counts.api_401 - before.api_401, 1);
        assert_eq!(counts.api_requests - before.api_requests, 2);
        assert_eq!(counts.token_requests - before.token_requests, 1);
        // Beyond the cool-down of this renewal.
        environment.pass(Duration::from_secs(60)).await;
    }
}

#[tokio::test]
async fn an_upload_that_outgrows_the_limit_during_the_renewal_gets_its_401() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream_url = Some(format!("http://{}", listener.local_addr().unwrap()));
    let proxy = r#"max_replay_bytes = "8B""#.to_owned();
    let environment = Environment::with(Wishes { proxy, upstream_url, ..Wishes::default() }).await;
    environment.pass_until_renewed(1).await;
    let delay = FaultKind::delay(Duration::from_secs(3));
    environment.control().inject(Fault::once(Place::Token, delay));
    let request = chunked(ECHO, "", &["12345", "6789"], "");
    let (begun, rest) = request.split_at(request.find("4\r\n6789").unwrap());
    let mut client = Wire::open(environment.address()).await;
    client.send(begun).await;
    let mut upstream = Wire::over(listener.accept().await.unwrap().0);
    upstream.head().await.unwrap();
    upstream.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}").await;
    environment.control().wait_until(|counts| counts.token_requests == 2).await;
    client.send(rest).await;
    assert!(upstream.reads_past("0\r\n\r\n").await, "the first send goes on to its end");
    environment.advance(Duration::from_secs(3)).await;
    let answer = client.answer().await;
    let why = "no; request content is longer than max_replay_bytes";
    assert_eq!((answer.status, replayed(&answer)), (401, why));
    assert_eq!(answer.content, b"{}");
}

#[tokio::test]
async fn content_beyond_the_memory_of_all_requests_is_not_replayed() {
    // The last piece is charged for 64 bytes.
    let proxy = "max_replay_bytes = \"100B\"\nreplay_memory = \"140B\"".to_owned();
    let (environment, mut wire) = with_dead_token(Wishes { proxy, ..Wishes::default() }).await;
    let mut holder = Wire::open(environment.address()).await;
    let head = format!("POST {ECHO} HTTP/1.1\r\nHost: a\r\nContent-Length: 71\r\n\r\n");
    holder.send(head.clone() + &"a".repeat(70)).await;
    environment.control().wait_until(|counts| counts.in_flight == 1).await;
    let answer = wire.ask(head + &"a".repeat(71)).await;
    let why = "no; replay_memory is used up";
    assert_eq!((answer.status, replayed(&answer)), (401, why));
    let first = holder.ask("6").await;
    assert_eq!((first.status, replayed(&first)), (200, "yes"), "who came first is not affected");
}

#[tokio::test]
async fn a_401_that_no_token_cures_is_passed_on_and_renews_nothing() {
    let environment = Environment::new().await;
    let mut wire = Wire::open(environment.address()).await;
    let target = "/restapi/v1.0/sandbox/status/401?errorCode=OAU-142";
    let answer = wire.ask(get(target)).await;
    let why = "no; a new token cures no such error";
    assert_eq!((answer.status, replayed(&answer)), (401, why));
    let counts = environment.control().counts();
    assert_eq!((counts.api_requests, counts.token_requests), (1, 1));
}

#[tokio::test]
async fn a_401_for_ever_costs_two_sends_and_one_renewal() {
    let environment = Environment::new().await;
    let mut wire = Wire::open(environment.address()).await;
    let refused = FaultKind::Unauthorized { code: None };
    environment.control().inject(Fault::always(Place::Api, refused));
    let answer = wire.ask(get(ECHO)).await;
    assert_eq!((answer.status, replayed(&answer)), (401, "yes"));
    let counts = environment.control().counts();
    assert_eq!((counts.api_requests, counts.token_requests), (2, 2));
}
