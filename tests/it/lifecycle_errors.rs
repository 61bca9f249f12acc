//! What goes wrong with tokens: 401 for ever, a token endpoint that hangs, refuses, limits or
//! talks nonsense, a store that cannot be written.

use std::fs;
use std::time::Duration;

use ringbearer::sandbox::{Fault, FaultKind, Garbage, Place, Rules};
use ringbearer::service::Service;
use ringbearer::telemetry::chain;
use ringbearer::token::Generation;
use ringbearer::token::lifecycle::{Lost, Standing};
use serde_json::json;
use socket2::{Domain, Socket, Type};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::support::{ECHO, Environment, START, Wishes, json, sends, sessions};

/// A target that RingCentral dislikes, whatever the token.
const DISLIKED: &str = "/restapi/v1.0/sandbox/echo?disliked";
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn one_disliked_operation_starts_four_renewals_in_five_minutes_and_harms_nobody() {
    let environment = Environment::new().await;
    let refuse = FaultKind::Unauthorized { code: None };
    environment.control().inject(Fault::always(Place::Api, refuse).under(DISLIKED));
    for n in 0..200 {
        assert_eq!(environment.get(&format!("{ECHO}?n={n}")).await.status(), 200);
        let refused = environment.get(&format!("{DISLIKED}&n={n}")).await;
        assert_eq!(refused.status(), 401);
        let replay = if n == 0 { "yes" } else { "no; no newer token to be had" };
        assert_eq!(refused.headers()["x-ringbearer-replay"], replay);
    }
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests, counts.api_401), (2, 401, 201));

    for n in 200..500 {
        environment.pass(SECOND).await;
        assert_eq!(environment.get(&format!("{ECHO}?n={n}")).await.status(), 200);
        assert_eq!(environment.get(&format!("{DISLIKED}&n={n}")).await.status(), 401);
    }
    let counts = environment.control().counts();
    assert_eq!(counts.token_requests, 5, "at 0, 10, 40 and 130 s, and the first");
    assert_eq!((counts.api_requests, counts.api_401), (1004, 504));
    assert!(sends(&environment.control().log()).values().all(|sends| sends.len() <= 2));
    environment.finish().await;
}

#[tokio::test]
async fn when_everything_is_refused_tokens_are_requested_ever_more_slowly() {
    // Hours pass by this clock while the answers travel by the machine's.
    let upstream = "connect_timeout = \"5m\"\nresponse_timeout = \"1h\"\n".into();
    let environment = Environment::with(Wishes { upstream, ..Wishes::default() }).await;
    let control = environment.control();
    control.inject(Fault::always(Place::Api, FaultKind::Unauthorized { code: None }));
    let first = environment.get(&format!("{ECHO}?n=first")).await;
    assert_eq!(first.status(), 401);
    assert_eq!(first.headers()["x-ringbearer-replay"], "yes");
    let mut callers = JoinSet::new();
    for n in 0..200 {
        let request = environment.client.get(environment.url(&format!("{ECHO}?n={n}")));
        callers.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    let mut statuses = Vec::new();
    while statuses.len() < 200 {
        environment.pass(SECOND).await;
        while let Some(status) = callers.try_join_next() {
            statuses.push(status.unwrap());
        }
    }
    // Refused by RingCentral, or not sent because every token so far had been refused.
    assert!(statuses.iter().all(|status| [401, 503].contains(status)), "{statuses:?}");
    let log = control.log();
    assert!(sends(&log).values().all(|sends| sends.len() <= 2));
    assert_eq!(sends(&log)[&*format!("{ECHO}?n=first")], [Some(401), Some(401)]);
    let tokens = log.iter().filter(|arrival| arrival.target == "/restapi/oauth/token");
    let at: Vec<_> = tokens.map(|token| token.at_unix_millis - START.unix_millis()).collect();
    for (at, earliest) in at.iter().zip([0, 0, 10, 40, 130, 400, 1210, 2110]) {
        assert!(*at >= earliest * 1000, "a token request after {at} ms, not {earliest} s");
    }
    environment.finish().await;
}

#[tokio::test]
async fn a_401_that_no_token_cures_is_sent_once_and_renews_nothing() {
    for code in ["OAU-136", "OAU-141", "OAU-142", "OAU-151"] {
        let environment = Environment::new().await;
        let refuse = FaultKind::Unauthorized { code: Some(code.into()) };
        environment.control().inject(Fault::always(Place::Api, refuse));
        for _ in 0..10 {
            let answer = environment.get(ECHO).await;
            assert_eq!(answer.status(), 401);
            let why = &answer.headers()["x-ringbearer-replay"];
            assert_eq!(why, "no; a new token cures no such error");
            assert_eq!(json(answer).await["errors"][0]["errorCode"], code);
        }
        environment.pass(MINUTE).await;
        let counts = environment.control().counts();
        assert_eq!((counts.token_requests, counts.api_requests), (1, 10), "{code}");
        environment.finish().await;
    }
}

#[tokio::test]
async fn a_request_waits_for_the_first_token_but_not_for_ever() {
    let environment = Environment::new().await;
    environment.control().inject(Fault::once(Place::Token, FaultKind::Hang));
    environment.control().wait_until(|counts| counts.token_requests == 1).await;
    let answer = environment.get_in_time(ECHO).await;
    assert_eq!(answer.headers()["retry-after"], "1");
    let cause = "no token has been obtained yet: one is on its way";
    assert_unavailable(answer, "RBR-201", cause).await;
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests), (1, 0));
}

#[tokio::test]
async fn a_token_endpoint_that_hangs_is_said_and_forgotten_when_it_answers() {
    // The one limit that is kept by the machine's clock whatever the proxy's says.
    let upstream = "response_timeout = \"1s\"".into();
    let environment = Environment::with(Wishes { upstream, ..Wishes::default() }).await;
    environment.control().inject(Fault::always(Place::Token, FaultKind::Hang));
    environment.until(|status| status.last_error.is_some()).await;
    let answer = environment.get_in_time(ECHO).await;
    let cause = "the token endpoint's answer was lost: the same request is safe to send again: ";
    assert_unavailable(answer, "RBR-201", cause).await;

    environment.control().clear_faults();
    while !environment.status().usable {
        environment.pass(SECOND).await;
    }
    assert_eq!(environment.get(ECHO).await.status(), 200);
    assert!(environment.status().last_error.is_none());
    environment.finish().await;
}

#[tokio::test]
async fn a_refused_request_waits_while_a_lost_answer_is_asked_for_again() {
    let environment = Environment::refreshing().await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    environment.control().inject(Fault::once(Place::Token, FaultKind::DropAfter));
    environment.control().revoke_access_tokens();
    let refused = tokio::spawn(environment.client.get(environment.url(ECHO)).send());
    environment.until(|status| status.last_error.is_some()).await;
    environment.pass(10 * SECOND).await;
    let answer = refused.await.unwrap().unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["x-ringbearer-replay"], "yes");
    let counts = environment.control().counts();
    assert_eq!((counts.token_repeats, counts.api_401, counts.sessions_alive), (1, 1, 1));
    environment.finish().await;
}

#[tokio::test]
async fn a_token_endpoint_that_cannot_be_reached_is_found_again_within_half_a_minute() {
    // Bound, so that nobody else gets it, but not listening.
    let closed = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    closed.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    let address = closed.local_addr().unwrap().as_socket().unwrap();
    let application = format!("token_url = \"http://{address}/restapi/oauth/token\"");
    let environment = Environment::with(Wishes { application, ..Wishes::default() }).await;
    let answer = environment.get_in_time(ECHO).await;
    let cause = "the token endpoint cannot be reached: check token_url, the network and its proxy";
    assert_unavailable(answer, "RBR-201", cause).await;
    assert_eq!(environment.control().counts().requests, 0);

    closed.listen(8).unwrap();
    closed.set_nonblocking(true).unwrap();
    let forwarder = tokio::spawn(forward(closed.into(), environment.direct("")));
    environment.pass(40 * SECOND).await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    assert_eq!(environment.control().counts().token_requests, 1);
    forwarder.abort();
    environment.finish().await;
}

#[tokio::test]
async fn a_wrong_client_secret_is_said_and_not_tried_again() {
    let mut rules = Rules::unlimited();
    rules.applications[0].client_secret = Some("another".into());
    let environment = Environment::with(Wishes { rules, ..Wishes::default() }).await;
    let answer = environment.get(ECHO).await;
    assert_eq!(answer.headers()["retry-after"], "60");
    let cause = "the token endpoint refused the application (invalid_client, OAU-121): \
                 correct client_id and client_secret, then reload";
    assert_unavailable(answer, "RBR-202", cause).await;
    environment.pass(5 * MINUTE).await;
    assert_eq!(environment.status().state, Standing::NeedsLogin(Lost::ClientRefused));
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests), (1, 0));
    environment.finish().await;
}

#[tokio::test]
async fn a_refused_credential_is_said_and_not_tried_again() {
    let identity = "jwt = \"nobody's\"".into();
    let environment = Environment::with(Wishes { identity, ..Wishes::default() }).await;
    let cause = "the token endpoint refused the credential (invalid_grant, OAU-251): \
                 log in again, or configure another one";
    assert_unavailable(environment.get(ECHO).await, "RBR-202", cause).await;
    environment.pass(5 * MINUTE).await;
    assert_eq!(environment.control().counts().token_requests, 1);
    environment.finish().await;
}

#[tokio::test]
async fn nothing_is_sent_to_the_token_endpoint_before_retry_after_is_over() {
    let environment = Environment::new().await;
    let limit = FaultKind::Status { code: 429, body: None, retry_after: Some(120) };
    environment.control().inject(Fault::once(Place::Token, limit));
    environment.rest().await;
    let answer = environment.get_in_time(ECHO).await;
    let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((2..=110).contains(&wait), "{wait}");
    let cause = "the token endpoint answered 429 Too Many Requests and asked for 120 s of silence: \
                 nothing is sent till then";
    assert_unavailable(answer, "RBR-201", cause).await;

    environment.pass(environment.clock.now().until(START + 119 * SECOND)).await;
    // Whatever was left below a second.
    let end = environment.clock.now().until(START + 120 * SECOND);
    assert_eq!(environment.control().counts().token_requests, 1);
    environment.clock.advance(end);
    environment.rest().await;
    assert_eq!(environment.control().counts().token_requests, 2);
    assert_eq!(environment.get(ECHO).await.status(), 200);
    environment.finish().await;
}

#[tokio::test]
async fn a_500_is_tried_again_three_times_ten_seconds_apart() {
    let environment = Environment::new().await;
    environment.control().inject(Fault::once(Place::Token, FaultKind::status(500)).times(3));
    environment.rest().await;
    environment.pass(30 * SECOND).await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let log = environment.control().log();
    let tokens = log.iter().filter(|arrival| arrival.target == "/restapi/oauth/token");
    let at: Vec<_> = tokens.map(|token| token.at_unix_millis - START.unix_millis()).collect();
    assert_eq!(at, [0, 10_000, 20_000, 30_000]);
    environment.finish().await;
}

#[tokio::test]
async fn garbage_from_the_token_endpoint_never_replaces_a_good_token() {
    for garbage in garbage() {
        let environment = Environment::new().await;
        assert_eq!(environment.get(ECHO).await.status(), 200);
        suffer_at_renewal(&environment, &garbage, 2).await;
        let status = environment.status();
        assert!(status.usable, "{garbage:?}");
        assert_eq!(status.generation.map(Generation::number), Some(1));
        let error = chain(&*status.last_error.expect("it failed"));
        let expected = "the token endpoint's answer is not a token set: ";
        assert!(error.starts_with(expected), "{garbage:?}: {error}");
        assert_eq!(environment.get(ECHO).await.status(), 200);
        assert_eq!(sessions(&environment.control().log()), [1], "{garbage:?}");

        environment.pass(MINUTE).await;
        assert_eq!(environment.get(ECHO).await.status(), 200);
        assert_eq!(sessions(&environment.control().log()), [1, 3], "{garbage:?}");
        let counts = environment.control().counts();
        assert_eq!((counts.token_requests, counts.api_401), (3, 0), "{garbage:?}");
        environment.finish().await;
    }
}

#[tokio::test]
async fn garbage_in_answer_to_a_refresh_costs_no_session() {
    for garbage in garbage() {
        let environment = Environment::refreshing().await;
        assert_eq!(environment.get(ECHO).await.status(), 200);
        suffer_at_renewal(&environment, &garbage, 3).await;
        environment.pass(MINUTE).await;
        assert_eq!(environment.get(ECHO).await.status(), 200);
        let counts = environment.control().counts();
        assert_eq!((counts.token_requests, counts.token_repeats), (4, 1), "{garbage:?}");
        assert_eq!(sessions(&environment.control().log()), [1], "{garbage:?}");
        environment.finish().await;
    }
}

#[tokio::test]
async fn garbage_in_place_of_the_first_token_is_said_until_a_good_one_comes() {
    let environment = Environment::new().await;
    let html = FaultKind::Garbage(Garbage::Html);
    environment.control().inject(Fault::always(Place::Token, html));
    let cause = "the token endpoint's answer is not a token set: it is not a JSON object; \
                 check token_url";
    assert_unavailable(environment.get_in_time(ECHO).await, "RBR-201", cause).await;
    environment.control().clear_faults();
    environment.pass(2 * MINUTE).await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    environment.finish().await;
}

#[tokio::test]
async fn without_a_store_no_token_is_requested_and_the_cached_one_is_used_to_its_end() {
    let environment = Environment::new().await;
    let (store, away) = (environment.store(), environment.store().with_extension("away"));
    let lose = || {
        fs::rename(&store, &away).unwrap();
        fs::write(&store, "in the way").unwrap();
    };
    let give_back = || {
        fs::remove_file(&store).unwrap();
        fs::rename(&away, &store).unwrap();
    };
    let file_in_it = format!("{:?}", store.join("")).trim_end_matches('"').to_owned();
    outlive_the_store(environment, lose, give_back, &format!("cannot open {file_in_it}")).await;
}

#[tokio::test]
async fn a_session_file_that_is_a_directory_is_not_overwritten_and_stops_renewals() {
    let environment = Environment::new().await;
    let file = environment.store().join("test.json");
    let lose = || {
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
    };
    let give_back = || fs::remove_dir(&file).unwrap();
    let cause =
        format!("{file:?} is not safe to keep tokens in: it is not a regular file; remove it");
    outlive_the_store(environment, lose, give_back, &cause).await;
}

#[tokio::test]
async fn a_proxy_whose_store_is_no_directory_does_not_start() {
    let mut environment = Environment::new().await;
    environment.rest().await;
    environment.stop_proxy().await;
    fs::remove_dir_all(environment.store()).unwrap();
    fs::write(environment.store(), "in the way").unwrap();
    let error = Service::start(environment.settings(), &environment.clock).unwrap_err();
    let expected = format!(
        "{:?} is not safe to keep tokens in: it is not a directory; \
         remove it, or name another path",
        environment.store()
    );
    assert_eq!(chain(&error), expected);
    assert_eq!(environment.control().counts().token_requests, 1);
}

async fn outlive_the_store(
    environment: Environment,
    lose: impl Fn(),
    give_back: impl Fn(),
    cause: &str,
) {
    assert_eq!(environment.get(ECHO).await.status(), 200);
    lose();
    environment.pass(3500 * SECOND).await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let error = environment.status().last_error.expect("the renewal was due");
    let expected = format!("the token store failed, and without it no token is requested: {cause}");
    assert!(chain(&*error).starts_with(&expected), "{}", chain(&*error));
    environment.pass(100 * SECOND).await;
    assert_unavailable(environment.get_in_time(ECHO).await, "RBR-201", &expected).await;
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests, counts.api_401), (1, 2, 0));

    give_back();
    environment.pass(40 * SECOND).await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    assert_eq!(environment.control().counts().token_requests, 2);
    environment.finish().await;
}

/// Lets time pass until the renewal that is to bring the `answer`th token answer has met garbage.
async fn suffer_at_renewal(environment: &Environment, garbage: &Garbage, answer: u64) {
    let fault = Fault::once(Place::Token, FaultKind::Garbage(garbage.clone()));
    environment.control().inject(fault);
    while environment.control().counts().token_answers < answer {
        environment.pass(10 * SECOND).await;
    }
}

fn garbage() -> Vec<Garbage> {
    let lifetimes = [json!(0), json!(-1), json!("soon"), json!(null), json!(1e300), json!(0.5)];
    let lifetimes = lifetimes.into_iter().map(Garbage::ExpiresIn);
    let others = [
        Garbage::Html,
        Garbage::TruncatedJson,
        Garbage::Huge { bytes: 200_000 },
        Garbage::MissingAccessToken,
    ];
    lifetimes.chain(others).collect()
}

/// 503 in RingCentral's shape, naming the identity and the cause.
async fn assert_unavailable(answer: reqwest::Response, code: &str, cause: &str) {
    assert_eq!(answer.status(), 503);
    assert_eq!(answer.headers()["x-ringbearer-error"], code);
    assert_eq!(answer.headers()["content-type"], "application/json");
    assert!(answer.headers().contains_key("retry-after"));
    let body = json(answer).await;
    assert_eq!(body["errorCode"], code);
    assert_eq!(body["errors"], json!([{"errorCode": code, "message": body["message"]}]));
    let expected = format!("identity \"test\" has no usable access token: {cause}");
    let message = body["message"].as_str().unwrap();
    assert!(message.starts_with(&expected), "{message}\ninstead of\n{expected}");
}

/// Carries every connection on to `origin`.
async fn forward(listener: std::net::TcpListener, origin: String) {
    let listener = TcpListener::from_std(listener).unwrap();
    loop {
        let (mut inbound, _) = listener.accept().await.unwrap();
        let authority = origin.trim_start_matches("http://");
        let mut outbound = TcpStream::connect(authority).await.unwrap();
        tokio::spawn(async move {
            let _ = copy_bidirectional(&mut inbound, &mut outbound).await;
        });
    }
}
