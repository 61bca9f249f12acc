//! Token life over hours of virtual time: renewals under load, restarts, lost answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Client;
use ringbearer::sandbox::{Fault, FaultKind, Place, Rules};
use tokio::task::JoinSet;

use crate::support::{
    ECHO, Environment, LONG_IDLE, PATIENT, REFRESH_IDENTITY, Wishes, client, sends, sessions,
    settle,
};

const JWT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const RENEWALS: u64 = 20;
const CONNECTIONS: usize = 4;
/// How far the clock jumps under load.
const STEP: Duration = Duration::from_secs(50);

#[tokio::test]
async fn twenty_refreshes_under_load_stay_in_one_session_and_show_no_client_a_401() {
    let environment = short_lived(REFRESH_IDENTITY).await;
    let most_sessions = renew_under_load(&environment).await;
    let counts = environment.control().counts();
    assert_eq!(counts.token_requests_by_grant["refresh_token"], RENEWALS + 1);
    assert_eq!(counts.token_requests_by_grant["password"], 1, "the login itself");
    assert_eq!((counts.token_refusals, counts.token_repeats), (0, 0));
    assert!(counts.api_401 > 0, "the old token died under some request, which was replayed");
    assert_eq!(most_sessions, 1);
    assert_eq!(sessions(&environment.control().log()), [1]);
    environment.finish().await;
}

#[tokio::test]
async fn twenty_jwt_renewals_under_load_let_no_request_meet_a_dead_token() {
    let environment = short_lived(r#"jwt = "sandbox-jwt""#).await;
    let most_sessions = renew_under_load(&environment).await;
    let counts = environment.control().counts();
    assert_eq!(counts.token_requests_by_grant[JWT], RENEWALS + 1);
    assert_eq!(counts.token_requests, RENEWALS + 1);
    assert_eq!(counts.api_401, 0, "the new token is there before the old one ends");
    assert_eq!(most_sessions, 2);
    assert_eq!(sessions(&environment.control().log()).len() as u64, RENEWALS + 1);
    environment.finish().await;
}

#[tokio::test]
async fn a_jwt_session_goes_on_after_a_restart_without_a_token_request() {
    goes_on_after_a_restart(Environment::new().await, 1).await;
}

#[tokio::test]
async fn a_refreshed_session_goes_on_after_a_restart_without_a_token_request() {
    // The login, and the first use of its refresh token.
    goes_on_after_a_restart(Environment::refreshing().await, 2).await;
}

#[tokio::test]
async fn a_token_answer_that_is_lost_costs_no_session() {
    let environment = Environment::refreshing().await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    environment.control().inject(Fault::once(Place::Token, FaultKind::DropAfter));
    let before = environment.stored();
    let lost = |counts: &ringbearer::sandbox::Counts| counts.token_answers == 3;
    while !lost(&environment.control().counts()) {
        environment.pass(Duration::from_secs(1)).await;
    }
    environment.until(|status| status.last_error.is_some()).await;
    assert_eq!(environment.stored(), before, "nothing came of it yet");

    environment.pass(Duration::from_secs(10)).await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.token_repeats, counts.token_refusals), (4, 1, 0));
    assert_eq!((counts.api_401, counts.sessions_alive), (0, 1));
    assert_eq!(sessions(&environment.control().log()), [1]);
    environment.finish().await;
}

#[tokio::test]
async fn a_proxy_that_ended_before_the_answer_came_sends_the_old_refresh_token_again() {
    let mut environment = Environment::refreshing().await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    environment.control().inject(Fault::once(Place::Token, FaultKind::DropAfter));
    while environment.control().counts().token_answers < 3 {
        environment.pass(Duration::from_secs(1)).await;
    }
    environment.until(|status| status.last_error.is_some()).await;
    environment.stop_proxy().await;
    environment.start_proxy();
    let answer = environment.get(ECHO).await;
    assert_eq!(answer.status(), 200, "the refresh killed the stored access token");
    let counts = environment.control().counts();
    assert_eq!((counts.token_repeats, counts.token_refusals, counts.sessions_alive), (1, 0, 1));
    assert_eq!(sessions(&environment.control().log()), [1]);
    environment.finish().await;
}

#[tokio::test]
async fn an_idle_session_is_not_renewed_until_somebody_calls() {
    let environment = Environment::new().await;
    environment.pass(Duration::from_secs(2 * 3600)).await;
    assert_eq!(environment.control().counts().token_requests, 1, "the one from the start");
    assert_eq!(environment.get(ECHO).await.status(), 200);
    assert_eq!(environment.control().counts().token_requests, 2);
    environment.finish().await;
}

async fn goes_on_after_a_restart(mut environment: Environment, token_requests: u64) {
    for _ in 0..3 {
        assert_eq!(environment.get(ECHO).await.status(), 200);
        environment.stop_proxy().await;
        environment.start_proxy();
    }
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let counts = environment.control().counts();
    assert_eq!((counts.token_requests, counts.api_requests), (token_requests, 4));
    let log = environment.control().log();
    let mut serials: Vec<_> = log.iter().filter_map(|arrival| arrival.token_serial).collect();
    let last = serials.pop();
    serials.retain(|serial| Some(*serial) != last);
    assert_eq!(serials.len() as u64, token_requests - 1, "one token for all four");
    environment.finish().await;
}

/// Access tokens of ten minutes; waits long enough for a clock that jumps.
async fn short_lived(identity: &str) -> Environment {
    let rules = Rules {
        access_token_ttl: Duration::from_secs(600),
        old_access_token_lives: false,
        log_capacity: 200_000,
        ..Rules::unlimited()
    };
    let proxy = format!("{LONG_IDLE}token_wait = \"5m\"\n");
    let (upstream, identity) = (PATIENT.into(), identity.into());
    Environment::with(Wishes { rules, proxy, upstream, identity, ..Wishes::default() }).await
}

/// Lets time pass under load until there have been twenty renewals; checks what clients saw, and
/// returns how many sessions there were at most.
async fn renew_under_load(environment: &Environment) -> u64 {
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let first = environment.control().counts().token_requests;
    let mut load = Load::start(&environment.url(ECHO));
    let mut most_sessions = 0;
    loop {
        let counts = environment.control().counts();
        most_sessions = most_sessions.max(counts.sessions_alive);
        if counts.token_requests == first + RENEWALS {
            break;
        }
        environment.clock.advance(STEP);
        environment.rest().await;
        load.turn().await;
    }
    let refused = load.stop().await;
    assert_eq!(refused, 0, "clients saw a 401 or another failure");
    for (target, statuses) in sends(&environment.control().log()) {
        // The first request and that of the load share no number.
        assert!(statuses.len() <= 2, "{target}: {statuses:?}");
    }
    most_sessions
}

/// Connections that are never idle.
struct Load {
    calling: Arc<AtomicBool>,
    answered: Vec<Arc<AtomicU64>>,
    tasks: JoinSet<u64>,
}

impl Load {
    fn start(url: &str) -> Self {
        let calling = Arc::new(AtomicBool::new(true));
        let (mut tasks, mut answered) = (JoinSet::new(), Vec::new());
        for connection in 0..CONNECTIONS {
            let count = Arc::new(AtomicU64::new(0));
            let url = format!("{url}?connection={connection}&n=");
            tasks.spawn(call_on(client(), url, calling.clone(), count.clone()));
            answered.push(count);
        }
        Self { calling, answered, tasks }
    }

    /// Returns when every connection has had an answer to a request that began after this call.
    async fn turn(&mut self) {
        let now = |count: &Arc<AtomicU64>| count.load(Ordering::Relaxed);
        let before: Vec<_> = self.answered.iter().map(now).collect();
        for (count, before) in self.answered.iter().zip(before) {
            while count.load(Ordering::Relaxed) < before + 2 {
                settle().await;
                // Nobody stops calling but by panicking.
                assert!(self.tasks.try_join_next().is_none());
            }
        }
    }

    /// How many answers were not 200.
    async fn stop(self) -> u64 {
        self.calling.store(false, Ordering::Relaxed);
        self.tasks.join_all().await.into_iter().sum()
    }
}

async fn call_on(
    client: Client,
    url: String,
    calling: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
) -> u64 {
    let mut failed = 0;
    while calling.load(Ordering::Relaxed) {
        let n = answered.load(Ordering::Relaxed);
        let url = format!("{url}{n}");
        let request =
            if n.is_multiple_of(2) { client.get(url) } else { client.put(url).body("content") };
        let answer = request.send().await.unwrap();
        failed += u64::from(answer.status() != 200);
        answer.bytes().await.unwrap();
        answered.fetch_add(1, Ordering::Relaxed);
    }
    failed
}
