//! An authorization server of somebody else's, which ends a grant when a refresh token comes twice:
//! npm's oidc-provider, in `tests/foreign`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::process::Process;
use crate::redis_server::RedisServer;
use crate::support::{client, has_program, json};

const REPLICAS: usize = 4;
const GRANTS: usize = 20;
/// Of all grants together, the first of each not counted.
const RENEWALS: u64 = 100;
/// In seconds. The server counts whole ones, so that a token lives up to one less than it says.
const ACCESS_TOKEN_LIFE: u32 = 7;
/// Far more than it takes.
const BOUND: Duration = Duration::from_secs(180);

/// The running server. It is killed when it is dropped.
struct Foreign {
    child: Child,
    told: Value,
}

impl Foreign {
    /// `None` where Node.js is missing, and need not be there.
    fn start() -> Option<Self> {
        let cure = "apt-get install nodejs npm";
        if !has_program("node", cure) || !has_program("npm", cure) {
            return None;
        }
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign");
        install(&directory);
        let mut child = Command::new("node")
            .arg("server.js")
            .args([GRANTS.to_string(), ACCESS_TOKEN_LIFE.to_string()])
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        let told = loop {
            // It warns of its keys being those of an example.
            let line = lines.next().expect("it says where it listens").unwrap();
            if let Ok(told) = serde_json::from_str(&line) {
                break told;
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child, told })
    }

    fn text(&self, name: &str) -> &str {
        self.told[name].as_str().unwrap()
    }

    async fn stats(&self, client: &reqwest::Client) -> Value {
        json(client.get(format!("{}/stats", self.text("url"))).send().await.unwrap()).await
    }

    fn config(&self, store: &str) -> String {
        let (url, id, secret) =
            (self.text("url"), self.text("clientId"), self.text("clientSecret"));
        let mut config = format!(
            "[proxy]\nlisten = \"127.0.0.1:0\"\nworkers = 1\n\
             [upstream]\nurl = \"{url}\"\n\
             [application.foreign]\nclient_id = \"{id}\"\nclient_secret = \"{secret}\"\n\
             token_url = \"{url}/token\"\nrevoke_url = \"{url}/token/revocation\"\n\
             token_requests_per_minute = 1000\n\
             [store]\n{store}\n[log]\nformat = \"json\"\n",
        );
        for (name, token) in self.told["refreshTokens"].as_object().unwrap() {
            writeln!(config, "[identity.{name}]\nrefresh_token = {token}").unwrap();
        }
        config
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// On CI it has been done before the tests.
fn install(directory: &Path) {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        if !directory.join("node_modules/oidc-provider").exists() {
            let mut npm = Command::new("npm");
            let npm = npm.args(["ci", "--no-audit", "--no-fund"]).current_dir(directory);
            assert!(npm.status().unwrap().success(), "npm ci in {}", directory.display());
        }
    });
}

/// One client of one replica, which asks for every identity in turn. Returns what it was told.
async fn call(
    client: reqwest::Client,
    url: String,
    ended: Arc<AtomicBool>,
) -> BTreeMap<String, u64> {
    let mut outcomes = BTreeMap::new();
    while !ended.load(Ordering::Relaxed) {
        for grant in 0..GRANTS {
            let name = format!("user-{grant}");
            let request = client.get(&url).header("x-ringbearer-identity", &name);
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let is_right = status == 200 && json(answer).await["account"] == name;
            let outcome = if is_right { "right".into() } else { status.to_string() };
            *outcomes.entry(outcome).or_insert(0) += 1;
        }
    }
    outcomes
}

async fn renew_a_hundred_times(foreign: Foreign, store: &str, files: PathBuf) {
    let config = files.join("proxy.toml");
    std::fs::write(&config, foreign.config(store)).unwrap();
    let mut replicas = Vec::new();
    for _ in 0..REPLICAS {
        replicas.push(Process::start(&config).await);
    }
    let (http, ended) = (client(), Arc::new(AtomicBool::new(false)));
    let clients: Vec<_> = replicas
        .iter()
        .map(|replica| {
            tokio::spawn(call(http.clone(), replica.url("/restapi/v1.0/me"), ended.clone()))
        })
        .collect();
    let granted = |stats: &Value| -> u64 {
        stats["granted"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
    };
    while granted(&foreign.stats(&http).await) < RENEWALS + GRANTS as u64 {}
    ended.store(true, Ordering::Relaxed);
    let mut outcomes = BTreeMap::new();
    for client in clients {
        for (outcome, times) in client.await.unwrap() {
            *outcomes.entry(outcome).or_insert(0) += times;
        }
    }
    // Nothing more is begun, and what has been begun is stored, before it is counted.
    let mut generations = BTreeMap::<String, u64>::new();
    for replica in &mut replicas {
        replica.terminate();
    }
    for replica in replicas {
        for line in replica.ended_with().await {
            let Some(generation) = line["generation"].as_u64() else { continue };
            let identity = line["identity"].as_str().unwrap().to_owned();
            let latest = generations.entry(identity).or_default();
            *latest = generation.max(*latest);
        }
    }
    let stats = foreign.stats(&http).await;
    let right = outcomes.remove("right").unwrap_or(0);
    assert_eq!(outcomes, BTreeMap::new(), "beside {right} that were right");
    assert!(right > RENEWALS, "{right}");
    assert_eq!(stats["refused"], Value::Array(Vec::new()), "no refresh token came twice");
    assert_eq!(stats["revoked"], 0, "no grant was ended");
    assert_eq!(stats["requests"].as_u64(), Some(granted(&stats)), "each request was granted");
    let spent: BTreeMap<String, u64> = serde_json::from_value(stats["granted"].clone()).unwrap();
    assert_eq!(spent, generations, "one token request per generation");
}

#[tokio::test]
async fn four_processes_renew_a_hundred_times_before_a_server_that_detects_reuse() {
    let Some(foreign) = Foreign::start() else { return };
    let files = TempDir::new().unwrap();
    let test = renew_a_hundred_times(foreign, "directory = \"store\"", files.path().into());
    tokio::time::timeout(BOUND, test).await.expect("in time");
}

#[tokio::test]
async fn four_processes_on_one_redis_renew_a_hundred_times_before_such_a_server() {
    let Some(server) = RedisServer::start().await else { return };
    let Some(foreign) = Foreign::start() else { return };
    let (files, store) = (TempDir::new().unwrap(), format!("redis = {:?}", server.url()));
    let test = renew_a_hundred_times(foreign, &store, files.path().into());
    tokio::time::timeout(BOUND, test).await.expect("in time");
}
