//! The token endpoint's errors, row by row of RingCentral's guide, for an identity that has only its
//! session and for one that has a JWT besides: what is sent in ten minutes, what state is shown, what
//! clients get, and that the next good answer heals.

use std::time::Duration;

use ringbearer::sandbox::{Fault, FaultKind, Place};
use ringbearer::token::Generation;
use ringbearer::token::lifecycle::{Lost, Standing};
use tokio::task::JoinSet;

use crate::support::{ECHO, Environment, REFRESH_IDENTITY, Wishes};

/// One answer, and what it is to lead to while it is the only one.
#[derive(Clone)]
struct Row {
    name: &'static str,
    fault: FaultKind,
    state: State,
    /// Token requests in ten minutes: of a session alone, and with a JWT beside it.
    requests: [u64; 2],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    NeedsLogin(Lost),
    Penalised,
    BackingOff,
}

impl State {
    fn of(standing: Standing) -> Option<Self> {
        match standing {
            Standing::NeedsLogin(lost) => Some(Self::NeedsLogin(lost)),
            Standing::Penalised(_) => Some(Self::Penalised),
            Standing::BackingOff(_) => Some(Self::BackingOff),
            _ => None,
        }
    }
}

#[tokio::test]
async fn every_row_of_the_guides_table_is_kept_to() {
    let rows = rows();
    // A few at a time: each has a sandbox, a proxy and a clock of its own.
    for rows in rows.chunks(6) {
        let mut running = JoinSet::new();
        for row in rows {
            for with_jwt in [false, true] {
                running.spawn(suffer(row.clone(), with_jwt));
            }
        }
        running.join_all().await;
    }
}

fn rows() -> Vec<Row> {
    let row = |name, fault, state, requests| Row { name, fault, state, requests };
    let refused = State::NeedsLogin(Lost::GrantRefused);
    let not_allowed = State::NeedsLogin(Lost::GrantNotAllowed);
    let client = State::NeedsLogin(Lost::ClientRefused);
    let (slow, silent) = (State::BackingOff, State::Penalised);
    vec![
        row("400 invalid_grant", oauth(400, "invalid_grant", "OAU-213"), refused, [1, 2]),
        row("400 invalid_request", oauth(400, "invalid_request", "OAU-100"), refused, [1, 2]),
        row("400 without error", json(400, r#"{"errorCode":"OAU-251"}"#), refused, [1, 2]),
        row(
            "400 unauthorized_client",
            oauth(400, "unauthorized_client", "OAU-112"),
            not_allowed,
            [1, 2],
        ),
        row(
            "400 unsupported_grant_type",
            oauth(400, "unsupported_grant_type", "OAU-250"),
            not_allowed,
            [1, 2],
        ),
        row("400 invalid_client", oauth(400, "invalid_client", "OAU-121"), client, [1, 1]),
        row("401 OAU-120", oauth(401, "invalid_client", "OAU-120"), client, [1, 1]),
        row("401 OAU-146", oauth(401, "invalid_client", "OAU-146"), client, [1, 1]),
        row("401 of an intermediary", json(401, "<html>"), client, [1, 1]),
        row("403 OAU-112", oauth(403, "unauthorized_client", "OAU-112"), not_allowed, [1, 2]),
        row("403 OAU-116", json(403, r#"{"errorCode":"OAU-116"}"#), not_allowed, [1, 2]),
        // Nothing to give a credential up for: 10, 20, 40, 80, 160 s apart, up to a quarter more.
        row("400 of an intermediary", json(400, "<html>"), slow, [6, 6]),
        row("403 of an intermediary", json(403, "<html>"), slow, [6, 6]),
        row("404", json(404, "{}"), slow, [6, 6]),
        row("418", json(418, "{}"), slow, [6, 6]),
        row("302", json(302, ""), slow, [6, 6]),
        row("502", json(502, "<html>"), slow, [6, 6]),
        row("504", json(504, ""), slow, [6, 6]),
        // At 0, 120, 240, 360 and 480 s; every 30 s.
        row("429 with Retry-After", silence(429, Some(120)), silent, [5, 5]),
        row("503 with Retry-After", silence(503, Some(120)), silent, [5, 5]),
        row("429 without", silence(429, None), silent, [20, 20]),
        row("503 without", silence(503, None), silent, [20, 20]),
        // Three more, 10 s apart; then 20, 40, 80 and 160 s; or the JWT at once, then 40, 80 and 160 s.
        row("408", json(408, ""), slow, [8, 8]),
        row("500", json(500, "<html>"), slow, [8, 8]),
        row("no answer", FaultKind::DropBefore, slow, [8, 8]),
    ]
}

async fn suffer(row: Row, with_jwt: bool) {
    let name = format!("{}, {}", row.name, if with_jwt { "with a JWT" } else { "alone" });
    let mut environment = refreshed(with_jwt).await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let before = environment.control().counts().token_requests;
    environment.control().inject(Fault::always(Place::Token, row.fault));
    until_due(&environment, before).await;
    environment.pass_in_penalty(Duration::from_secs(590)).await;
    let sent = environment.control().counts().token_requests - before;
    let expected = row.requests[usize::from(with_jwt)];
    if row.state == State::Penalised {
        // A turn in the budget may take another second or two, each time, but never one less.
        assert!((expected * 3 / 4..=expected).contains(&sent), "{name}: {sent} requests");
        assert_silent_between_requests(&environment, before, &row.name[..3], 590 / expected);
    } else {
        assert_eq!(sent, expected, "{name}: token requests");
    }
    let status = environment.until(|status| State::of(status.state).is_some()).await;
    assert_eq!(State::of(status.state), Some(row.state), "{name}");
    assert!(status.last_error.is_some(), "{name}");

    // What clients get: the old token to its end, then the reason.
    if status.usable {
        assert_eq!(environment.get(ECHO).await.status(), 200, "{name}");
    }
    let left = environment.clock.now().until(status.expires_at.expect("a token"));
    environment.clock.advance(left);
    let (answer, code) = match row.state {
        State::NeedsLogin(_) => (environment.get(ECHO).await, "RBR-202"),
        State::Penalised | State::BackingOff => (environment.get_in_time(ECHO).await, "RBR-201"),
    };
    assert_eq!(answer.status(), 503, "{name}");
    assert_eq!(answer.headers()["x-ringbearer-error"], code, "{name}");

    environment.control().clear_faults();
    if code == "RBR-202" {
        // Nothing is tried again before somebody has put it right and says so.
        environment.pass_in_penalty(Duration::from_secs(60)).await;
        let sent_now = environment.control().counts().token_requests - before;
        assert_eq!(sent_now, sent, "{name}");
        environment.stop_proxy().await;
        environment.start_proxy();
    }
    let healed = environment.get_after(400, ECHO).await;
    assert_eq!(healed.status(), 200, "{name}");
    assert!(environment.status().last_error.is_none(), "{name}");
    environment.finish().await;
}

/// No request came inside a penalty: they are at least `secs` apart.
fn assert_silent_between_requests(environment: &Environment, before: u64, name: &str, secs: u64) {
    let log = environment.control().log();
    let tokens = log.iter().filter(|arrival| arrival.target == "/restapi/oauth/token");
    let skipped = usize::try_from(before).unwrap();
    let at: Vec<_> = tokens.map(|arrival| arrival.at_unix_millis).skip(skipped).collect();
    for pair in at.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart >= secs.next_multiple_of(30) * 1000, "{name}: {apart} ms apart");
    }
}

/// An identity in a session of its own, and perhaps with a JWT.
async fn refreshed(with_jwt: bool) -> Environment {
    let jwt = if with_jwt { "\njwt = \"sandbox-jwt\"" } else { "" };
    let identity = format!("{REFRESH_IDENTITY}{jwt}");
    Environment::with(Wishes { identity, ..Wishes::default() }).await
}

/// Lets time pass until the renewal's first request is sent.
async fn until_due(environment: &Environment, before: u64) {
    environment.clock.advance(Duration::from_secs(2690));
    while environment.control().counts().token_requests == before {
        environment.pass_in_penalty(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn a_good_answer_in_the_middle_heals_at_once_and_the_next_failure_counts_as_the_first() {
    let environment = refreshed(false).await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    for generation in 2..=4 {
        let before = environment.control().counts().token_requests;
        environment.control().inject(Fault::once(Place::Token, FaultKind::status(500)).times(2));
        until_due(&environment, before).await;
        // 20 s, and what the wire takes meanwhile.
        environment.pass(Duration::from_secs(25)).await;
        let status = environment.status();
        assert_eq!(status.generation.map(Generation::number), Some(generation));
        assert_eq!((status.state, status.last_error.is_none()), (Standing::Resting, true));
        assert_eq!(environment.control().counts().token_requests, before + 3);
        assert_eq!(environment.get(ECHO).await.status(), 200);
    }
    environment.finish().await;
}

fn json(code: u16, body: &str) -> FaultKind {
    FaultKind::Status { code, body: Some(body.to_owned()), retry_after: None }
}

fn oauth(code: u16, error: &str, nested: &str) -> FaultKind {
    json(code, &format!(r#"{{"error":"{error}","errors":[{{"errorCode":"{nested}"}}]}}"#))
}

fn silence(code: u16, retry_after: Option<u64>) -> FaultKind {
    FaultKind::Status { code, body: None, retry_after }
}
