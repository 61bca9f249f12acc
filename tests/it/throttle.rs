//! RingCentral's limits on API requests: a penalty is met once and waited for, and where requests are
//! paced, none is met.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use reqwest::Client;
use ringbearer::key::KeyDigest;
use ringbearer::sandbox::{Arrival, Fault, FaultKind, Place, Rules};
use tokio::task::JoinSet;

use crate::support::{
    Environment, LONG_IDLE, PATIENT, START, Wishes, access_token, client, json, settle,
};

/// Ten a minute.
pub(crate) const HEAVY: &str = "/restapi/v1.0/account/~/call-log";
/// The same group.
pub(crate) const ALSO_HEAVY: &str = "/restapi/v1.0/account/~/active-calls";
/// Fifty a minute.
const LIGHT: &str = "/restapi/v1.0/account/~";
const CLIENTS: usize = 8;

/// RingCentral's limits on API requests, and none on tokens.
pub(crate) fn limited() -> Wishes {
    let rules = Rules { token_budget: false, log_capacity: 100_000, ..Rules::default() };
    let identity = "jwt = \"sandbox-jwt\"\n[identity.other]\njwt = \"sandbox-jwt-2\"\n\
                    application = \"test\"";
    let proxy = format!("{LONG_IDLE}token_wait = \"5m\"\n");
    let (identity, upstream) = (identity.to_owned(), PATIENT.to_owned());
    Wishes { rules, proxy, upstream, identity, ..Wishes::default() }
}

pub(crate) fn paced(more: &str) -> Wishes {
    let wishes = limited();
    Wishes { proxy: format!("{}pacing = true\n{more}", wishes.proxy), ..wishes }
}

pub(crate) async fn get(
    environment: &Environment,
    identity: &str,
    target: &str,
) -> reqwest::Response {
    let request = environment.client.get(environment.url(target));
    request.header("x-ringbearer-identity", identity).send().await.unwrap()
}

/// Uses up the limit of ten, and meets the 429 that follows.
pub(crate) async fn into_the_penalty(environment: &Environment) {
    for _ in 0..10 {
        assert_eq!(get(environment, "test", HEAVY).await.status(), 200);
    }
    let answer = get(environment, "test", HEAVY).await;
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["retry-after"]),
        (429, &"60".parse().unwrap())
    );
    assert!(answer.headers().get("x-ringbearer-error").is_none(), "RingCentral's own");
}

/// Seconds since the start, of each arrival at `target`, with what it was answered.
pub(crate) fn arrivals(log: &[Arrival], target: &str) -> Vec<(u64, u16)> {
    let at = |arrival: &Arrival| (arrival.at_unix_millis - START.unix_millis()) / 1000;
    let those = log.iter().filter(|arrival| arrival.target.split('?').next() == Some(target));
    let mut those: Vec<_> = those.map(|it| (at(it), it.status.unwrap_or(0))).collect();
    those.sort_unstable();
    those
}

/// Clients that know nothing of limits: each repeats a request that was refused, a second later.
struct Herd {
    tasks: JoinSet<()>,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    succeeded: Arc<AtomicU64>,
    clock: ringbearer::clock::Clock,
}

impl Herd {
    fn start(environment: &Environment, url: &str, token: Option<&str>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (rounds, succeeded) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let mut tasks = JoinSet::new();
        for _ in 0..CLIENTS {
            let (client, clock): (Client, _) = (client(), environment.clock.clone());
            let request = client.get(url).header("x-ringbearer-identity", "test");
            let request = match token {
                Some(token) => request.bearer_auth(token),
                None => request,
            };
            let (stop, rounds) = (Arc::clone(&stop), Arc::clone(&rounds));
            let succeeded = Arc::clone(&succeeded);
            tasks.spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let answer = request.try_clone().unwrap().send().await.unwrap();
                    let status = answer.status().as_u16();
                    assert!([200, 429].contains(&status), "{status}");
                    answer.bytes().await.unwrap();
                    succeeded.fetch_add(u64::from(status == 200), Ordering::Relaxed);
                    let next = clock.now() + Duration::from_secs(1);
                    rounds.fetch_add(1, Ordering::Relaxed);
                    clock.sleep_until(next).await;
                }
            });
        }
        Self { tasks, stop, rounds, succeeded, clock: environment.clock.clone() }
    }

    /// Lets `seconds` pass, in each of which each client sends one request.
    async fn run(&self, seconds: u64) {
        for _ in 0..seconds {
            self.all_sent().await;
            self.clock.advance(Duration::from_secs(1));
        }
        self.all_sent().await;
    }

    async fn all_sent(&self) {
        let seconds = START.until(self.clock.now()).as_secs();
        while self.rounds.load(Ordering::Relaxed) < (seconds + 1) * CLIENTS as u64 {
            settle().await;
        }
    }

    async fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.clock.advance(Duration::from_secs(1));
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
        self.succeeded.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn clients_that_repeat_at_once_never_leave_the_penalty_by_themselves() {
    let environment = Environment::with(limited()).await;
    let token = access_token(&environment.sandbox).await;
    let herd = Herd::start(&environment, &environment.direct(HEAVY), Some(&token));
    herd.run(600).await;
    assert_eq!(herd.end().await, 10, "the first ten, and not one in ten minutes after");
    environment.finish().await;
}

#[tokio::test]
async fn the_same_clients_leave_it_through_the_proxy_after_one_penalty_each_time() {
    let environment = Environment::with(limited()).await;
    let herd = Herd::start(&environment, &environment.url(HEAVY), None);
    herd.run(599).await;
    let succeeded = herd.end().await;
    let log = environment.control().log();
    let sent = arrivals(&log, HEAVY);
    let refused: Vec<_> =
        sent.iter().filter(|(_, status)| *status == 429).map(|(at, _)| *at).collect();
    for at in &refused {
        let inside = sent.iter().filter(|(other, _)| *other > *at && *other < at + 60);
        assert_eq!(
            inside.collect::<Vec<_>>(),
            Vec::<&(u64, u16)>::new(),
            "after the 429 at {at} s"
        );
    }
    // Two seconds of sending, a minute of silence, in ten minutes.
    assert!((90..=100).contains(&succeeded), "{succeeded}, of {refused:?}");
    assert!(refused.iter().all(|at| at % 61 <= 10), "one penalty follows the other: {refused:?}");
    environment.finish().await;
}

#[tokio::test]
async fn nothing_of_the_group_is_sent_until_the_very_end_of_the_penalty() {
    let environment = Environment::with(limited()).await;
    into_the_penalty(&environment).await;
    for (passes, left) in [(0, "60"), (1, "59"), (58, "1")] {
        environment.clock.advance(Duration::from_secs(passes));
        for target in [HEAVY, ALSO_HEAVY] {
            let answer = get(&environment, "test", target).await;
            assert_eq!(answer.status(), 429, "{left} s before the end");
            let of = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(
                (of("retry-after"), of("x-ringbearer-error")),
                (left.into(), "RBR-160".into())
            );
            assert_eq!(
                (of("x-rate-limit-group"), of("x-rate-limit-remaining")),
                ("heavy".into(), "0".into())
            );
            assert_eq!(json(answer).await["errorCode"], "CMN-301");
        }
    }
    assert_eq!(arrivals(&environment.control().log(), ALSO_HEAVY), []);
    environment.clock.advance(Duration::from_millis(1010));
    assert_eq!(get(&environment, "test", ALSO_HEAVY).await.status(), 200);
    assert_eq!(environment.control().counts().api_429, 1, "one penalty, met once");
    environment.finish().await;
}

#[tokio::test]
async fn another_group_and_another_identity_flow_on() {
    let environment = Environment::with(limited()).await;
    into_the_penalty(&environment).await;
    assert_eq!(get(&environment, "test", LIGHT).await.status(), 200);
    assert_eq!(get(&environment, "other", HEAVY).await.status(), 200);
    assert_eq!(get(&environment, "test", HEAVY).await.status(), 429);
    assert_eq!(environment.control().counts().api_429, 1);
    environment.finish().await;
}

#[tokio::test]
async fn a_global_limit_holds_all_groups_and_a_duplicate_holds_none() {
    let environment = Environment::with(limited()).await;
    let refuse = |code: &str| {
        let body = format!(
            r#"{{"errorCode":"{code}","message":"m","errors":[{{"errorCode":"{code}"}}]}}"#
        );
        let kind = FaultKind::Status { code: 429, body: Some(body), retry_after: Some(20) };
        environment.control().inject(Fault::once(Place::Api, kind));
    };
    refuse("CMN-304");
    assert_eq!(get(&environment, "test", HEAVY).await.status(), 429);
    assert_eq!(get(&environment, "test", HEAVY).await.status(), 200, "it was about that one");
    refuse("CMN-310");
    assert_eq!(get(&environment, "test", HEAVY).await.status(), 429);
    let answer = get(&environment, "test", LIGHT).await;
    assert_eq!(answer.headers()["x-ringbearer-error"], "RBR-160");
    assert_eq!(answer.headers()["retry-after"], "20");
    assert_eq!(get(&environment, "other", LIGHT).await.status(), 200, "another user");
    environment.finish().await;
}

#[tokio::test]
async fn a_503_with_retry_after_is_no_penalty_and_a_429_without_is_one_of_thirty_seconds() {
    let environment = Environment::with(limited()).await;
    let fail = |code, retry_after| {
        let kind = FaultKind::Status { code, body: None, retry_after };
        environment.control().inject(Fault::once(Place::Api, kind));
    };
    fail(503, Some(60));
    assert_eq!(get(&environment, "test", HEAVY).await.status(), 503);
    assert_eq!(get(&environment, "test", HEAVY).await.status(), 200);
    fail(429, None);
    assert_eq!(get(&environment, "test", HEAVY).await.status(), 429);
    assert_eq!(get(&environment, "test", HEAVY).await.headers()["retry-after"], "30");
    environment.finish().await;
}

#[tokio::test]
async fn a_replay_is_not_sent_into_a_penalty() {
    let environment = Environment::with(limited()).await;
    let send = |target: &str| {
        let request = environment.client.get(environment.url(target));
        tokio::spawn(request.header("x-ringbearer-identity", "test").send())
    };
    let control = environment.control();
    let at = |path: &str, kind| Fault {
        path_prefix: Some(path.into()),
        ..Fault::once(Place::Api, kind)
    };
    for _ in 0..10 {
        assert_eq!(get(&environment, "test", HEAVY).await.status(), 200);
    }
    // The eleventh takes two seconds to meet the limit, and the token that another waits for five.
    control.inject(at(ALSO_HEAVY, FaultKind::delay(Duration::from_secs(2))));
    let eleventh = send(ALSO_HEAVY);
    control.wait_until(|counts| counts.api_requests == 11).await;
    control.inject(at(HEAVY, FaultKind::Unauthorized { code: None }));
    control.inject(Fault::once(Place::Token, FaultKind::delay(Duration::from_secs(5))));
    let tokens = control.counts().token_requests;
    let replayed = send(HEAVY);
    control.wait_until(|counts| counts.token_requests > tokens).await;
    environment.clock.advance(Duration::from_secs(2));
    assert_eq!(eleventh.await.unwrap().unwrap().status(), 429);
    environment.clock.advance(Duration::from_secs(3));
    let answer = replayed.await.unwrap().unwrap();
    let of = |name: &str| answer.headers()[name].to_str().unwrap().to_owned();
    assert_eq!((of("x-ringbearer-error"), of("retry-after")), ("RBR-160".into(), "57".into()));
    let statuses: Vec<_> = arrivals(&control.log(), HEAVY).iter().map(|it| it.1).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 10);
    assert_eq!((statuses.len(), control.counts().api_429), (11, 1), "sent once, not replayed");
    environment.finish().await;
}

#[tokio::test]
async fn without_the_guard_every_request_is_sent() {
    let wishes = limited();
    let proxy = format!("{}throttle = false\n", wishes.proxy);
    let environment = Environment::with(Wishes { proxy, ..wishes }).await;
    into_the_penalty(&environment).await;
    assert_eq!(get(&environment, "test", HEAVY).await.status(), 429);
    assert_eq!(environment.control().counts().api_429, 2);
    environment.finish().await;
}

/// Sends `count` requests at once, and moves the clock by half seconds until all are answered.
async fn all_at_once(
    environment: &Environment,
    count: usize,
    target: &str,
    max_wait: &str,
) -> Vec<u16> {
    let mut requests = JoinSet::new();
    for n in 0..count {
        let request = environment.client.get(environment.url(&format!("{target}?n={n}")));
        let request = request.header("x-ringbearer-identity", "test");
        let request = request.header("x-ringbearer-max-wait", max_wait);
        requests.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    let mut statuses = Vec::new();
    let mut idle = 0;
    while !requests.is_empty() {
        match requests.try_join_next() {
            Some(status) => statuses.push(status.unwrap()),
            None if idle < 100 => {
                idle += 1;
                settle().await;
                continue;
            }
            None => environment.clock.advance(Duration::from_millis(500)),
        }
        idle = 0;
    }
    statuses.sort_unstable();
    statuses
}

#[tokio::test]
async fn five_hundred_requests_are_paced_into_the_limit_and_none_meets_a_429() {
    let environment = Environment::with(paced("")).await;
    let mut requests = JoinSet::new();
    for n in 0..500 {
        let request = environment.client.get(environment.url(&format!("{LIGHT}?n={n}")));
        let request = request.header("x-ringbearer-identity", "test");
        let request = request.header("x-ringbearer-max-wait", "600");
        requests.spawn(async move { request.send().await.unwrap().status().as_u16() });
    }
    // Fifty at once and fifty a minute: the last of ten lots goes after nine minutes at best.
    let almost_a_minute = Duration::from_millis(60_009);
    for lot in 1..=10 {
        for _ in 0..50 {
            assert_eq!(requests.join_next().await.unwrap().unwrap(), 200);
        }
        environment.clock.advance(almost_a_minute);
        for _ in 0..50 {
            settle().await;
        }
        assert_eq!(environment.control().counts().api_requests, lot * 50, "not one too early");
        environment.clock.advance(Duration::from_millis(1));
    }
    assert!(requests.is_empty());
    let sent = arrivals(&environment.control().log(), LIGHT);
    assert_eq!((sent.len(), environment.control().counts().api_429), (500, 0));
    assert_eq!(sent.last().unwrap().0, 540, "and 90 ms, 10 of them a minute for the clock's grain");
    environment.finish().await;
}

#[tokio::test]
async fn who_will_not_have_a_turn_in_time_is_told_at_once_and_a_full_queue_takes_no_more() {
    let environment = Environment::with(paced("max_queue = 5\n")).await;
    for _ in 0..10 {
        assert_eq!(get(&environment, "test", HEAVY).await.status(), 200);
    }
    let answer = get(&environment, "test", HEAVY).await;
    let of = |answer: &reqwest::Response, name: &str| {
        answer.headers()[name].to_str().unwrap().to_owned()
    };
    assert_eq!(
        (answer.status().as_u16(), of(&answer, "x-ringbearer-error")),
        (429, "RBR-161".into())
    );
    assert_eq!(of(&answer, "retry-after"), "61", "a minute and a grain");
    let request =
        environment.client.get(environment.url(HEAVY)).header("x-ringbearer-identity", "test");
    let bad = request.header("x-ringbearer-max-wait", "soon").send().await.unwrap();
    assert_eq!((bad.status().as_u16(), of(&bad, "x-ringbearer-error")), (400, "RBR-163".into()));

    let statuses = all_at_once(&environment, 8, HEAVY, "2m").await;
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429, 429, 429]);
    assert_eq!(environment.control().counts().api_429, 0);
    environment.finish().await;
}

#[tokio::test]
async fn paced_requests_wait_a_penalty_out_and_go_on() {
    let environment = Environment::with(paced("")).await;
    let kind = FaultKind::Status { code: 429, body: None, retry_after: Some(60) };
    assert_eq!(get(&environment, "test", LIGHT).await.status(), 200);
    environment.control().inject(Fault::once(Place::Api, kind));
    assert_eq!(get(&environment, "test", LIGHT).await.status(), 429);
    let answer = get(&environment, "test", LIGHT).await;
    assert_eq!(answer.headers()["x-ringbearer-error"], "RBR-160", "it waits for ten seconds only");
    let statuses = all_at_once(&environment, 20, LIGHT, "90").await;
    assert_eq!(statuses, [200; 20]);
    let log = environment.control().log();
    let late = arrivals(&log, LIGHT).iter().filter(|(at, _)| *at >= 60).count();
    assert_eq!(late, 20, "none was sent inside the penalty");
    environment.finish().await;
}

#[tokio::test]
async fn who_goes_away_while_waiting_leaves_its_place_to_the_next() {
    let environment = Environment::with(paced("max_queue = 1\n")).await;
    for _ in 0..10 {
        assert_eq!(get(&environment, "test", HEAVY).await.status(), 200);
    }
    let request = || {
        let request = environment.client.get(environment.url(HEAVY));
        let request = request.header("x-ringbearer-identity", "test");
        request.header("x-ringbearer-max-wait", "100").send()
    };
    // One of two has the only place, and the other is refused.
    let mut both = [tokio::spawn(request()), tokio::spawn(request())];
    let refused = loop {
        if let Some(refused) = both.iter().position(tokio::task::JoinHandle::is_finished) {
            break refused;
        }
        settle().await;
    };
    let answer = (&mut both[refused]).await.unwrap().unwrap();
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-ringbearer-error"]),
        (429, &"RBR-162".parse().unwrap())
    );
    both[1 - refused].abort();
    let next = loop {
        let waiting = tokio::spawn(request());
        for _ in 0..100 {
            settle().await;
        }
        if !waiting.is_finished() {
            break waiting;
        }
    };
    while !next.is_finished() {
        environment.clock.advance(Duration::from_millis(500));
        for _ in 0..20 {
            settle().await;
        }
    }
    assert_eq!(next.await.unwrap().unwrap().status(), 200);
    environment.finish().await;
}

/// Two clients' requests wait, `batch`'s 30 first; how many of each go in each lot of ten.
async fn lots(priority: u32, others: usize) -> Vec<(usize, usize)> {
    let digest = |key: &str| format!("{}", KeyDigest::of(key.as_bytes()));
    let clients = format!(
        "\n[client.batch]\nkey_sha256 = \"{}\"\nidentities = \"*\"\n\
         [client.person]\nkey_sha256 = \"{}\"\nidentities = \"*\"\npriority = {priority}\n",
        digest("batch"),
        digest("person")
    );
    let wishes = paced("");
    let identity = format!("{}{clients}", wishes.identity);
    let environment = Environment::with(Wishes { identity, ..wishes }).await;
    let throttle = environment.proxy().throttle().unwrap();
    let identity = environment.proxy().identities().find("test").unwrap().number();
    let request = |key: &str, n: usize| {
        let url = environment.url(&format!("{HEAVY}?{key}={n}"));
        let shown = if key == "person" { key } else { "batch" };
        let request = environment.client.get(url).header("x-api-key", shown);
        request.header("x-ringbearer-identity", "test").header("x-ringbearer-max-wait", "600")
    };
    for n in 0..10 {
        assert_eq!(request("first", n).send().await.unwrap().status(), 200);
    }
    let mut waiting = JoinSet::new();
    let total = 30 + others;
    for (key, upto) in [("batch", 30), ("person", total)] {
        for n in waiting.len()..upto {
            let request = request(key, n);
            waiting.spawn(async move { request.send().await.unwrap().status().as_u16() });
        }
        while throttle.figures(identity).unwrap().waiting() < upto as u64 {
            settle().await;
        }
    }
    let mut lots = Vec::new();
    while !waiting.is_empty() {
        environment.clock.advance(Duration::from_millis(60_010));
        for _ in 0..waiting.len().min(10) {
            assert_eq!(waiting.join_next().await.unwrap().unwrap(), 200);
        }
        let log = environment.control().log();
        let of =
            |key: &str| log.iter().filter(|it| it.target.contains(&format!("?{key}="))).count();
        let before = lots.iter().fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
        lots.push((of("batch") - before.0, of("person") - before.1));
    }
    assert_eq!(environment.control().counts().api_429, 0);
    environment.finish().await;
    lots
}

#[tokio::test]
async fn clients_take_turns_by_their_priorities() {
    assert_eq!(lots(1, 5).await, [(5, 5), (10, 0), (10, 0), (5, 0)], "as many as it, while it has");
    assert_eq!(lots(3, 12).await, [(3, 7), (5, 5), (10, 0), (10, 0), (2, 0)], "three for one");
}
