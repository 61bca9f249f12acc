//! Tens of thousands of identities in one process: how long the program takes to its first answer,
//! what memory it needs with all of them idle and after each was called once, and that nobody is
//! ever answered as somebody else.
//!
//! `cargo bench --bench identities -- --identities 50000`. Without `--bench`, as in a test, there are
//! 2,000 of them, and the same bounds are asserted.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use ringbearer::clock::{Clock, Stopwatch};
use ringbearer::sandbox::{Rules, Sandbox, SandboxOptions};
use ringbearer::secret::Secret;
use ringbearer::settings::{ConfigSource, IdentitySettings, Overrides, Settings, StoreSettings};
use ringbearer::store::file::FileStore;
use ringbearer::store::redis::RedisStore;
use ringbearer::store::{Enrolment, Provenance, Stored, TokenStore};
use ringbearer::token::{AccessToken, Generation, TokenSet};
use tempfile::TempDir;
use tokio::task::JoinSet;

/// As long as a usual RingCentral access token.
const TOKEN_LENGTH: usize = 900;
const LIFE: Duration = Duration::from_secs(3600);
const STARTS: usize = 5;
const CLIENTS: usize = 16;
/// What the peak must not exceed, with [`MEANT_FOR`] identities or fewer.
const MOST_MEMORY_MIB: f64 = 256.0;
const MEANT_FOR: usize = 50_000;
/// The start may take so much longer with all identities than with one; a busy machine's noise.
const SLACK: Duration = Duration::from_millis(250);

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let given = arguments.iter().position(|argument| argument == "--identities");
    let given = given.map(|at| arguments[at + 1].parse().expect("--identities takes a number"));
    let count = given.unwrap_or(if is_bench { MEANT_FOR } else { 2000 });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run(count));
}

#[allow(clippy::print_stdout, reason = "it is there to be read")]
async fn run(count: usize) {
    println!("| store, identities | first answer | idle | each called once | peak |");
    println!("|---|---|---|---|---|");
    let sandbox = sandbox().await;
    for shared in [false, true] {
        let redis = if shared { Redis::start().await } else { None };
        if shared && redis.is_none() {
            println!("(Redis: passed over, because redis-server is missing)");
            return;
        }
        let few = measure(&sandbox, redis.as_ref(), 1).await;
        let many = measure(&sandbox, redis.as_ref(), count).await;
        let name = if shared { "Redis" } else { "files" };
        for (count, figures) in [(1, &few), (count, &many)] {
            let Figures { first, idle, called, peak } = figures;
            let ms = first.as_secs_f64() * 1e3;
            println!(
                "| {name}, {count} | {ms:.0} ms | {idle:.1} MiB | {called:.1} MiB | {peak:.1} MiB |"
            );
        }
        assert!(many.first <= few.first + SLACK, "{:?}, not {:?}", many.first, few.first);
        let bound = MOST_MEMORY_MIB;
        assert!(count > MEANT_FOR || many.peak <= bound, "{} MiB, not {bound}", many.peak);
    }
    sandbox.stop().await;
}

/// Memory in MiB.
struct Figures {
    first: Duration,
    idle: f64,
    called: f64,
    peak: f64,
}

async fn sandbox() -> Sandbox {
    let rules = Rules {
        log_capacity: 0,
        max_sessions: usize::MAX,
        access_token_length: TOKEN_LENGTH,
        ..Rules::unlimited()
    };
    let options = SandboxOptions { rules, ..SandboxOptions::default() };
    Sandbox::start(options).await.expect("the sandbox starts")
}

async fn measure(sandbox: &Sandbox, redis: Option<&Redis>, count: usize) -> Figures {
    let site = Site::fill(sandbox, redis, count).await;
    let asked = sandbox.control().counts().token_requests;
    let client = client();
    let mut firsts = Vec::new();
    for _ in 0..STARTS {
        let watch = Stopwatch::start();
        let mut program = Program::start(&site.config);
        call(&client, &program.url, 1).await;
        firsts.push(watch.elapsed());
        program.end();
    }
    firsts.sort_unstable();

    let program = Arc::new(Program::start(&site.config));
    program.says("the store was searched").await;
    let idle = program.memory("VmRSS");
    let next = Arc::new(AtomicU64::new(1));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (next, client, url) = (Arc::clone(&next), client.clone(), program.url.clone());
        clients.spawn(async move {
            loop {
                let user = next.fetch_add(1, Ordering::Relaxed);
                if user > count as u64 {
                    return;
                }
                call(&client, &url, user).await;
            }
        });
    }
    clients.join_all().await;
    assert_eq!(sandbox.control().counts().token_requests, asked, "all had a token already");
    let (called, peak) = (program.memory("VmRSS"), program.memory("VmHWM"));
    Figures { first: firsts[STARTS / 2], idle, called, peak }
}

/// One API request, as the identity of this user, which has to be answered as this user's.
async fn call(client: &reqwest::Client, url: &str, user: u64) {
    let request = client.get(format!("{url}/restapi/v1.0/sandbox/echo"));
    let request = request.header("X-Ringbearer-Identity", name(user));
    let answer = request.send().await.expect("an answer").bytes().await.expect("a whole answer");
    let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
    assert_eq!(answer["user"], user, "{answer}");
}

fn name(user: u64) -> String {
    format!("user-{user}")
}

fn client() -> reqwest::Client {
    let trust = ringbearer::upstream::client_config(&ringbearer::upstream::Trust::Nobody);
    let client = reqwest::Client::builder().tls_backend_preconfigured(trust.expect("no roots"));
    client.no_proxy().build().expect("a client")
}

/// A store that has everybody's session, and the configuration of a proxy on it.
struct Site {
    config: std::path::PathBuf,
    _files: TempDir,
}

impl Site {
    async fn fill(sandbox: &Sandbox, redis: Option<&Redis>, count: usize) -> Self {
        // Where it is to be had, a directory in memory: a disk's syncs are not what is measured.
        let memory = Path::new("/dev/shm");
        let files =
            if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let files = files.expect("a directory");
        let store = match redis {
            Some(redis) => {
                format!("redis = \"{}\"\nredis_prefix = \"bench-{count}:\"", redis.url())
            }
            None => format!("directory = '{}'", files.path().join("store").display()),
        };
        let text = format!(
            "[proxy]\nlisten = \"127.0.0.1:0\"\nworkers = 2\n[upstream]\nurl = \"{}\"\n\
             [application.bench]\nclient_id = \"sandbox-client\"\n\
             client_secret = \"sandbox-secret\"\ntoken_requests_per_minute = 1000\n\
             [identity.user-1]\njwt = \"sandbox-jwt-1\"\n[store]\n{store}\n\
             [log]\nformat = \"json\"\nrequests = false\n\
             filter = \"info,ringbearer::token::identities=debug\"\n",
            sandbox.url(),
        );
        let config = files.path().join("proxy.toml");
        fs::write(&config, &text).expect("written");
        let settings = Settings::load(&ConfigSource::Text(text), Overrides::default(), &|_| None);
        let settings = settings.expect("a good configuration").0;
        let store = open(&settings.store);
        let client = client();
        let all = stream::iter(1..=count as u64)
            .map(|user| keep(sandbox, &client, &*store, &settings.identities[0], user));
        all.buffer_unordered(2 * CLIENTS).collect::<()>().await;
        Self { config, _files: files }
    }
}

fn open(store: &StoreSettings) -> Box<dyn TokenStore> {
    match store {
        StoreSettings::File { directory, seal } => {
            let opened = FileStore::open(directory, seal.clone(), Clock::system());
            Box::new(opened.expect("a directory"))
        }
        StoreSettings::Redis { server, seal } => {
            Box::new(RedisStore::open(server, seal.clone()).expect("a good address"))
        }
        StoreSettings::Memory => {
            unreachable!("what ends with this process is of no use to another")
        }
    }
}

/// Opens the session of a user and puts it into the store, as the proxy would have.
async fn keep(
    sandbox: &Sandbox,
    client: &reqwest::Client,
    store: &dyn TokenStore,
    first: &IdentitySettings,
    user: u64,
) {
    let jwt = format!("sandbox-jwt-{user}");
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", &jwt),
        ("refresh_token_ttl", "0"),
    ];
    let request = client.post(format!("{}/restapi/oauth/token", sandbox.url())).form(&form);
    let request = request.basic_auth("sandbox-client", Some("sandbox-secret"));
    let answer = request.send().await.expect("an answer").bytes().await.expect("a whole answer");
    let answer: serde_json::Value = serde_json::from_slice(&answer).expect("JSON");
    let (application, secret) = (Arc::clone(&first.application), Secret::new(jwt.clone()));
    let identity = IdentitySettings::enrolled(&name(user), application, Some(secret));
    let text = |field: &str| answer[field].as_str().map(str::to_owned);
    let now = Clock::system().now();
    let set = TokenSet {
        generation: Generation::new(1),
        access_token: AccessToken::new(text("access_token").expect("a token")),
        issued_at: now,
        expires_at: now + LIFE,
        refresh: None,
        previous_refresh: None,
        scope: text("scope"),
        owner_id: text("owner_id"),
        endpoint_id: text("endpoint_id"),
    };
    let stored = Stored { set, provenance: Provenance::of(&identity) };
    let lease = store.lease(&identity.name).await.expect("a store").expect("a free lease");
    store.save(&lease, &stored, Generation::NONE).await.expect("room");
    if user > 1 {
        let client_id = first.application.client_id.clone();
        let enrolment = Enrolment { client_id, jwt: Some(Secret::new(jwt)) };
        store.enrol(&identity.name, Some(&enrolment)).await.expect("room");
    }
}

/// The program itself. It is killed when it is dropped.
struct Program {
    child: Child,
    url: String,
    log: tokio::sync::Mutex<tokio::sync::mpsc::UnboundedReceiver<String>>,
}

impl Program {
    fn start(config: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringbearer"));
        command.args(["serve", "--config"]).arg(config).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it starts");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let url = loop {
            let line = lines.next().expect("it listens").expect("text");
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            if line["message"] == "listening" {
                break line["url"].as_str().expect("an address").to_owned();
            }
        };
        let (tell, log) = tokio::sync::mpsc::unbounded_channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                // Nobody may be interested any more.
                let _ = tell.send(line);
            }
        });
        Self { child, url, log: tokio::sync::Mutex::new(log) }
    }

    /// Waits for a line of the log.
    async fn says(&self, what: &str) {
        let mut log = self.log.lock().await;
        while let Some(line) = log.recv().await {
            if line.contains(what) {
                return;
            }
        }
        panic!("it ended before it said {what:?}");
    }

    /// A line of its status, in MiB.
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    fn memory(&self, field: &str) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("Linux");
        let kib: u64 = line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
        kib as f64 / 1024.0
    }

    fn end(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.end();
    }
}

/// A real Redis in memory only. It is killed when it is dropped.
struct Redis {
    child: Child,
    port: u16,
}

impl Redis {
    /// `None` where there is no Redis.
    async fn start() -> Option<Self> {
        let free = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        let child = command.stdout(Stdio::null()).spawn().ok()?;
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::task::yield_now().await;
        }
        Some(Self { child, port })
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
