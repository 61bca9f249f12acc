//! Many clients, four real processes, one store of files, tokens that hardly live.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringbearer::clock::Clock;
use ringbearer::sandbox::Rules;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::process::{Process, Site};
use crate::relay::{Gate, Relay};
use crate::support::{ECHO, sessions, settle};

const PROCESSES: usize = 4;
const CLIENTS: usize = 500;
const EXPIRIES: u64 = 20;
/// Of these renewals, the process that does it is killed in the middle.
const KILL_EACH: u64 = 5;

/// Where the processes listen; a killed one is none any more before it is killed.
type Addresses = Arc<Mutex<[Option<SocketAddr>; PROCESSES]>>;

/// Sends a request in every round, to another process if its own was killed under it.
async fn call(
    client: reqwest::Client,
    number: usize,
    addresses: Addresses,
    mut rounds: watch::Receiver<u64>,
) -> BTreeMap<String, u64> {
    let mut outcomes = BTreeMap::new();
    let mut at = number % PROCESSES;
    while rounds.changed().await.is_ok() {
        loop {
            let Some(address) = addresses.lock().unwrap()[at] else {
                at = (at + 1) % PROCESSES;
                continue;
            };
            let answer = client.get(format!("http://{address}{ECHO}")).send().await;
            let killed = addresses.lock().unwrap()[at] != Some(address);
            let outcome = match answer {
                Err(_) if killed => "killed".to_owned(),
                Err(error) => error.to_string(),
                Ok(answer) => answer.status().as_u16().to_string(),
            };
            let again = outcome == "killed";
            *outcomes.entry(outcome).or_insert(0) += 1;
            if !again {
                break;
            }
        }
    }
    outcomes
}

/// What is stored; for an instant of every save, nothing is.
fn generation(site: &Site) -> Option<u64> {
    let stored = std::fs::read(site.directory().join("test.json")).ok()?;
    let stored: serde_json::Value = serde_json::from_slice(&stored).ok()?;
    stored["session"]["generation"].as_u64()
}

/// Who has the lease, by the kernel's list of locks.
fn holder(site: &Site) -> Option<u32> {
    let inode = std::fs::metadata(site.directory().join("test.lock")).ok()?.ino();
    let locks = std::fs::read_to_string("/proc/locks").unwrap();
    let held = |line: &&str| line.contains("FLOCK") && line.contains(&format!(":{inode} "));
    locks.lines().find(held)?.split_whitespace().nth(4)?.parse().ok()
}

/// Kills the process that renews just now, whose answer is held back, and starts another.
async fn kill_holder(site: &Site, processes: &mut Vec<Process>, addresses: &Addresses) {
    let at = loop {
        let found = holder(site);
        if let Some(at) = processes.iter().position(|process| Some(process.id()) == found) {
            break at;
        }
        settle().await;
    };
    addresses.lock().unwrap()[at] = None;
    processes.swap_remove(at).kill();
    let replacement = site.start().await;
    // The last one has moved into its place.
    processes.push(replacement);
    let last = processes.len() - 1;
    processes.swap(at, last);
    addresses.lock().unwrap()[at] = Some(processes[at].address());
}

#[tokio::test]
async fn five_hundred_clients_of_four_processes_notice_neither_twenty_expiries_nor_kills() {
    let test = run();
    tokio::time::timeout(Duration::from_secs(180), test).await.expect("in time");
}

async fn run() {
    let life = Duration::from_secs(2);
    let rules = Rules { access_token_ttl: life, access_token_ttl_min: life, ..Rules::unlimited() };
    let mut site = Site::with(Clock::system(), rules).await;
    let port = site.sandbox.url().rsplit(':').next().unwrap().parse().unwrap();
    let relay = Relay::before(([127, 0, 0, 1], port).into()).await;
    site.application = format!("token_url = \"http://{}/restapi/oauth/token\"", relay.address());
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(site.start().await);
    }
    let addresses: Addresses = Arc::default();
    for (at, process) in processes.iter().enumerate() {
        addresses.lock().unwrap()[at] = Some(process.address());
        assert_eq!(site.get(process, ECHO).send().await.unwrap().status(), 200);
    }
    let (round, rounds) = watch::channel(0);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(call(site.client.clone(), number, addresses.clone(), rounds.clone()));
    }
    let control = site.control();
    for expiry in 1..=EXPIRIES {
        let is_fatal = expiry % KILL_EACH == 0;
        if is_fatal {
            relay.hold_next(Gate::Sent);
        }
        let answers = control.counts().token_answers;
        let before = generation(&site);
        round.send_replace(2 * expiry);
        control.wait_until(|counts| counts.token_answers > answers).await;
        round.send_replace(2 * expiry + 1);
        if is_fatal {
            kill_holder(&site, &mut processes, &addresses).await;
            relay.release();
        }
        while generation(&site) <= before {
            settle().await;
        }
    }
    drop(round);
    let mut outcomes = BTreeMap::new();
    while let Some(client) = clients.join_next().await {
        for (outcome, times) in client.unwrap() {
            *outcomes.entry(outcome).or_insert(0) += times;
        }
    }
    outcomes.remove("killed");
    let answered = outcomes.remove("200").unwrap_or(0);
    assert_eq!(outcomes, BTreeMap::new(), "beside {answered} that were answered");
    assert!(answered >= EXPIRIES * CLIENTS as u64, "{answered}");
    // Nothing more is begun, and what has been begun is stored, before it is counted.
    for process in &processes {
        process.terminate();
    }
    for process in processes {
        assert_eq!(process.ended().await.code(), Some(0));
    }
    let (counts, kills) = (control.counts(), EXPIRIES / KILL_EACH);
    let generations = generation(&site).unwrap();
    assert!(generations > EXPIRIES, "{generations}");
    let asked = counts.token_requests_by_grant["refresh_token"];
    assert_eq!(asked, generations + kills, "one token request per generation and kill");
    assert!(counts.token_repeats <= kills, "{} of {kills}", counts.token_repeats);
    assert_eq!((counts.token_refusals, counts.sessions_alive), (0, 1));
    assert_eq!(sessions(&control.log()), [1]);
}
