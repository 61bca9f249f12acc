//! Kills real proxies with SIGKILL at random instants while their tokens hardly live, and counts
//! what it costs. The session must not be lost: else it exits with 1.
//!
//! ```text
//! cargo bench --bench crash -- --kills 1000 --seed 7
//! ```
//!
//! Four lanes run side by side: sessions in files and in Redis, each with a server that answers
//! reliably and with one that loses many answers to token requests. Both answer an old refresh
//! token again, as RingCentral does. A process that is killed in the middle of a renewal leaves its
//! lease in Redis, and the next one waits for that to lapse: those lanes come to fewer kills.

#[path = "../tests/it/process.rs"]
#[allow(dead_code, reason = "the integration tests use the rest")]
mod process;
#[path = "../tests/it/redis_server.rs"]
#[allow(dead_code, reason = "the integration tests use the rest")]
mod redis_server;
#[path = "../tests/it/support.rs"]
#[allow(dead_code, reason = "the integration tests use the rest")]
mod support;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use ringbearer::clock::{Clock, Stopwatch};
use ringbearer::sandbox::{Fault, FaultKind, Place, Rules};
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};

use process::{Process, Site};
use redis_server::RedisServer;
use support::{ECHO, sessions};

/// A renewal begins after 1.5 to 1.7 s of it, or when the bench ends it.
const TOKEN_LIFE: Duration = Duration::from_secs(2);
/// Clients of each lane, one request after the other.
const CLIENTS: usize = 2;
/// Far more than it takes.
const BOUND: Duration = Duration::from_secs(120);
const BOUND_PER_KILL: Duration = Duration::from_secs(1);

/// Sessions kept in one place, before one kind of server.
struct Lane {
    name: &'static str,
    redis: Option<RedisServer>,
    loses_answers: bool,
}

/// What became of a lane.
struct Figures {
    name: &'static str,
    kills: u64,
    renewals: u64,
    requests: u64,
    repeats: u64,
    refusals: u64,
    answered: u64,
    cut: u64,
    failed: BTreeMap<String, u64>,
    kept: bool,
}

fn main() -> ExitCode {
    let (kills, seed) = (argument("--kills").unwrap_or(100), argument("--seed"));
    let seed = seed.unwrap_or_else(|| fastrand::u64(..));
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(run(kills, seed))
}

fn argument(name: &str) -> Option<u64> {
    let mut arguments = std::env::args().skip_while(|argument| argument != name).skip(1);
    arguments.next().map(|value| value.parse().expect("a number"))
}

#[allow(clippy::print_stdout, reason = "this is what it is for")]
async fn run(kills: u64, seed: u64) -> ExitCode {
    let watch = Stopwatch::start();
    println!("{kills} kills in all, --seed {seed}");
    let lanes = lanes().await;
    let left = Arc::new(AtomicU64::new(kills));
    let bound = BOUND + BOUND_PER_KILL * u32::try_from(kills).expect("not so many");
    let lanes = lanes.into_iter().enumerate().map(|(number, lane)| {
        let (name, left) = (lane.name, Arc::clone(&left));
        let random = fastrand::Rng::with_seed(seed.wrapping_add(number as u64));
        async move { tokio::time::timeout(bound, lane.run(&left, random)).await.map_err(|_| name) }
    });
    let figures = join_all(lanes).await;
    println!(
        "{:<22}{:>6}{:>10}{:>10}{:>9}{:>10}{:>10}{:>6}{:>8}  session",
        "", "kills", "renewals", "requests", "repeats", "refusals", "answered", "cut", "failed"
    );
    let mut all_kept = true;
    for lane in figures {
        match lane {
            Ok(lane) => {
                println!("{lane}");
                all_kept &= lane.kept;
            }
            Err(name) => {
                println!("{name:<22} did not end in time");
                all_kept = false;
            }
        }
    }
    println!("{:.1} s", watch.elapsed().as_secs_f64());
    if all_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn lanes() -> Vec<Lane> {
    let lane = |name, redis, loses_answers| Lane { name, redis, loses_answers };
    let mut lanes = vec![lane("files", None, false), lane("files, lost answers", None, true)];
    for (name, loses_answers) in [("Redis", false), ("Redis, lost answers", true)] {
        // Where it is missing, that has been said.
        if let Some(server) = RedisServer::start().await {
            lanes.push(lane(name, Some(server), loses_answers));
        }
    }
    lanes
}

impl Lane {
    /// Kills for as long as there are any left to be shared among the lanes.
    async fn run(self, left: &AtomicU64, mut random: fastrand::Rng) -> Figures {
        let rules = Rules {
            access_token_ttl: TOKEN_LIFE,
            access_token_ttl_min: TOKEN_LIFE,
            log_capacity: 1000,
            ..Rules::unlimited()
        };
        let mut site = Site::with(Clock::system(), rules).await;
        if let Some(server) = &self.redis {
            site.store = format!("redis = {:?}", server.url());
        }
        let (tell, place) = watch::channel(None);
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            clients.spawn(call(site.client.clone(), place.clone()));
        }
        let (mut known, mut kills) = (Vec::new(), 0);
        let one_less = |left: u64| left.checked_sub(1);
        while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok() {
            kills += 1;
            let process = site.start().await;
            tell.send_replace(Some(process.address()));
            self.until_some_instant(&site, &mut random).await;
            known.extend(sessions(&site.control().log()));
            // First the clients are told: what fails from now on is the kill's.
            tell.send_replace(None);
            process.kill();
        }
        drop(tell);
        let mut outcomes = BTreeMap::new();
        for (outcome, times) in clients.join_all().await.into_iter().flatten() {
            *outcomes.entry(outcome).or_insert(0) += times;
        }
        known.extend(aftermath(&site, &mut outcomes).await);
        self.figures(&site, kills, outcomes, &known)
    }

    /// Half of the instants are in the middle of a renewal, the others anywhere.
    async fn until_some_instant(&self, site: &Site, random: &mut fastrand::Rng) {
        let control = site.control();
        let begun = control.counts();
        if self.loses_answers && random.u8(..3) == 0 {
            let cut = FaultKind::Truncate { after: random.u64(..300) };
            let lost = if random.bool() { FaultKind::DropAfter } else { cut };
            control.inject(Fault::once(Place::Token, lost));
        }
        if random.bool() {
            control.expire_access_tokens();
            control.wait_until(|counts| counts.token_requests > begun.token_requests).await;
            for _ in 0..random.u32(..4000) {
                yield_now().await;
            }
        } else {
            // After a lost answer the proxy waits for 10 s, as RingCentral's guide has it.
            let requests = begun.api_requests + random.u64(..400);
            let over =
                |lost: u64, requests_now: u64| lost > begun.faults || requests_now > requests;
            control.wait_until(|counts| over(counts.faults, counts.api_requests)).await;
        }
    }

    fn figures(
        &self,
        site: &Site,
        kills: u64,
        mut outcomes: BTreeMap<String, u64>,
        known: &[u64],
    ) -> Figures {
        let counts = site.control().counts();
        let logins = counts.token_requests_by_grant.get("password").copied();
        let requests = counts.token_requests - logins.unwrap_or(0);
        let one = known.iter().all(|session| *session == 1);
        Figures {
            name: self.name,
            kills,
            renewals: counts.token_answers - logins.unwrap_or(0) - counts.token_repeats,
            requests,
            repeats: counts.token_repeats,
            refusals: counts.token_refusals,
            answered: outcomes.remove("200").unwrap_or(0),
            cut: outcomes.remove("cut").unwrap_or(0),
            failed: outcomes,
            kept: one && logins == Some(1) && counts.sessions_alive == 1,
        }
    }
}

/// The session goes on after all that: three more renewals. Returns the sessions that served.
async fn aftermath(site: &Site, outcomes: &mut BTreeMap<String, u64>) -> Vec<u64> {
    let control = site.control();
    control.clear_faults();
    control.clear_log();
    let process: Process = site.start().await;
    let answers = control.counts().token_answers;
    let mut status = 0;
    while control.counts().token_answers < answers + 3 || status != 200 {
        status = site.get(&process, ECHO).send().await.map_or(0, |answer| answer.status().as_u16());
        *outcomes.entry(status.to_string()).or_insert(0) += 1;
    }
    sessions(&control.log())
}

/// Sends one request after the other to whoever is alive. Returns what became of them.
async fn call(
    client: reqwest::Client,
    mut place: watch::Receiver<Option<SocketAddr>>,
) -> BTreeMap<String, u64> {
    let mut outcomes = BTreeMap::new();
    loop {
        let Ok(address) = place.wait_for(Option::is_some).await.map(|it| *it) else {
            return outcomes;
        };
        let url = format!("http://{}{ECHO}", address.expect("it was waited for"));
        let answer = client.get(url).send().await;
        let killed = *place.borrow() != address;
        let outcome = match answer {
            Err(_) if killed => "cut".to_owned(),
            Err(error) => error.without_url().to_string(),
            Ok(answer) => answer.status().as_u16().to_string(),
        };
        *outcomes.entry(outcome).or_insert(0) += 1;
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let failed: u64 = self.failed.values().sum();
        write!(
            f,
            "{:<22}{:>6}{:>10}{:>10}{:>9}{:>10}{:>10}{:>6}{failed:>8}  {}",
            self.name,
            self.kills,
            self.renewals,
            self.requests,
            self.repeats,
            self.refusals,
            self.answered,
            self.cut,
            if self.kept { "kept" } else { "LOST" },
        )?;
        if failed > 0 { write!(f, "  {:?}", self.failed) } else { Ok(()) }
    }
}
