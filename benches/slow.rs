//! Thousands of attackers that cost nothing but patience, in the manner of slowhttptest, while a good
//! client goes on: what it notices, and whether each attacker is gone in its time.
//!
//! `cargo bench --bench slow -- --attackers 2000`. Without `--bench`, as in a test, there are 50 of
//! each kind. The proxy's timers are set to five seconds; its program is a process of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringbearer::clock::Stopwatch;
use ringbearer::sandbox::{Rules, Sandbox, SandboxOptions};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

/// What each timer of the proxy is set to.
const LIMIT: Duration = Duration::from_secs(5);
/// How long a good client is measured in peace.
const PEACE: Duration = Duration::from_secs(5);
/// Beyond the quarter by which timers come late: the machine is busy.
const SLACK: Duration = Duration::from_secs(10);

const ECHO: &str = "/restapi/v1.0/sandbox/echo";
const FILE: &str = "/restapi/v1.0/account/~/extension/~/message-store/1/content/2?size=100000000";

/// What an attacker sends at once, and what it adds every second.
struct Kind {
    name: &'static str,
    opening: String,
    trickle: &'static str,
    /// Whether it reads nothing, or everything.
    reads: bool,
}

fn kinds() -> Vec<Kind> {
    let kind = |name, opening: String, trickle, reads| Kind { name, opening, trickle, reads };
    let head = format!("GET {ECHO} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-a: b\r\n");
    let post = format!("POST {ECHO} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 8192\r\n\r\n");
    let get = format!("GET {FILE} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
    vec![
        kind("silent", String::new(), "", true),
        kind("slow head (-H)", head, "a", true),
        kind("half a preface", "PRI * HTTP/2.0\r\n\r\nSM".into(), "", true),
        kind("slow content (-B)", post, "a", true),
        kind("slow reader (-X)", get, "", false),
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let given = arguments.iter().position(|argument| argument == "--attackers");
    let given = given.map(|at| arguments[at + 1].parse().expect("--attackers takes a number"));
    let attackers = given.unwrap_or(if is_bench { 2000 } else { 50 });
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("as many files as may be");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(run(attackers, is_bench));
}

#[allow(clippy::print_stdout, reason = "it is there to be read")]
async fn run(attackers: usize, is_bench: bool) {
    println!("| {attackers} attackers | p50 | p99 | requests | gone in time | last gone after |");
    println!("|---|---|---|---|---|---|");
    let site = Site::start().await;
    let peace = Good::start(site.proxy).measure(PEACE).await;
    println!("| none | {} | {} | {} | – | – |", peace.at(50), peace.at(99), peace.0.len());
    for kind in kinds() {
        let attack = attack(&site, &kind, attackers);
        let (good, (last, in_time)) = tokio::join!(Good::start(site.proxy).measure(LIMIT), attack);
        let last = last.as_secs_f64();
        println!(
            "| {} | {} | {} | {} | {in_time} of {attackers} | {last:.1} s |",
            kind.name,
            good.at(50),
            good.at(99),
            good.0.len()
        );
        // As a test it only has to run: how long anything takes is for a quiet machine.
        assert!(!is_bench || in_time == attackers, "{}", kind.name);
    }
}

/// Opens all the attackers; when the last one was sent away, and how many were in time.
async fn attack(site: &Site, kind: &Kind, attackers: usize) -> (Duration, usize) {
    let mut sockets = Vec::new();
    for _ in 0..attackers {
        let mut stream = tokio::net::TcpStream::connect(site.proxy).await.expect("it listens");
        stream.write_all(kind.opening.as_bytes()).await.expect("it takes some bytes");
        sockets.push(stream);
    }
    let watch = Stopwatch::start();
    let mut every = tokio::time::interval(Duration::from_millis(250));
    for tick in 0_u32.. {
        every.tick().await;
        for socket in sockets.iter().filter(|_| tick.is_multiple_of(4)) {
            // Those that were sent away are no more interested.
            let _ = socket.try_write(kind.trickle.as_bytes());
            if !kind.reads {
                let _ = socket.try_read(&mut [0]);
            }
        }
        // The good client's is one of them.
        let left = site.connections().await.saturating_sub(1);
        let late = watch.elapsed() > LIMIT * 5 / 4 + SLACK;
        if left == 0 || late {
            return (watch.elapsed(), attackers - left);
        }
    }
    unreachable!("it ends in time")
}

/// A client that asks one thing after the other.
struct Good(SocketAddr);

impl Good {
    fn start(proxy: SocketAddr) -> Self {
        Self(proxy)
    }

    /// How long each answer took, for so long.
    async fn measure(self, time: Duration) -> Latencies {
        let measured = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(self.0).expect("it listens");
            stream.set_nodelay(true).expect("a socket");
            let request = format!("GET {ECHO} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
            let (whole, mut latencies) = (Stopwatch::start(), Vec::new());
            let mut answer = vec![0; 64 * 1024];
            while whole.elapsed() < time {
                let watch = Stopwatch::start();
                stream.write_all(request.as_bytes()).expect("it takes requests");
                let size = stream.read(&mut answer).expect("it answers");
                assert!(answer[..size].starts_with(b"HTTP/1.1 200 "), "an answer");
                latencies.push(watch.elapsed());
            }
            latencies.sort_unstable();
            latencies
        });
        Latencies(measured.await.expect("it measures"))
    }
}

/// In order.
struct Latencies(Vec<Duration>);

impl Latencies {
    fn at(&self, percent: usize) -> String {
        let at = self.0[(self.0.len() * percent / 100).min(self.0.len() - 1)];
        format!("{:.0} µs", at.as_secs_f64() * 1e6)
    }
}

/// The stand-in for RingCentral, and the proxy, which is killed when this is dropped.
struct Site {
    _sandbox: Sandbox,
    program: Child,
    proxy: SocketAddr,
    metrics: String,
    client: reqwest::Client,
    _files: TempDir,
}

impl Site {
    async fn start() -> Self {
        let rules = Rules { log_capacity: 0, ..Rules::unlimited() };
        let options = SandboxOptions { rules, ..SandboxOptions::default() };
        let sandbox = Sandbox::start(options).await.expect("the sandbox starts");
        let files = TempDir::new().expect("a directory");
        let config = files.path().join("proxy.toml");
        let limit = format!("\"{}s\"", LIMIT.as_secs());
        let text = format!(
            "[proxy]\nlisten = \"127.0.0.1:0\"\nworkers = 2\nh2c = true\n\
             client_idle_timeout = {limit}\nrequest_head_timeout = {limit}\n\
             handshake_timeout = {limit}\n\
             client_stall_timeout = {limit}\nmax_in_flight = 100000\n\
             [upstream]\nurl = \"{}\"\nmax_connections = 100000\n\
             [application.bench]\nclient_id = \"sandbox-client\"\n\
             client_secret = \"sandbox-secret\"\n[identity.bench]\njwt = \"sandbox-jwt\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n[store]\nmemory = true\n\
             [log]\nformat = \"json\"\nrequests = false\n",
            sandbox.url(),
        );
        fs::write(&config, text).expect("written");
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringbearer"));
        command.args(["serve", "--config"]).arg(&config).stderr(Stdio::piped());
        let mut program = command.spawn().expect("it starts");
        let stderr = program.stderr.take().expect("it is piped");
        let mut lines = BufReader::new(stderr).lines();
        let mut says = |what: &str| loop {
            let line = lines.next().expect("it starts").expect("text");
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            if line["message"] == what {
                break line["url"].as_str().expect("an address").to_owned();
            }
        };
        let (proxy, metrics) = (says("listening"), says("operators are served"));
        std::thread::spawn(move || lines.map_while(Result::ok).for_each(drop));
        let trust = ringbearer::upstream::client_config(&ringbearer::upstream::Trust::Nobody);
        let client = reqwest::Client::builder().tls_backend_preconfigured(trust.expect("no roots"));
        let client = client.no_proxy().build().expect("a client");
        let proxy = proxy.trim_start_matches("http://").parse().expect("an address");
        let metrics = format!("{metrics}/metrics");
        Self { _sandbox: sandbox, program, proxy, metrics, client, _files: files }
    }

    /// How many clients are connected.
    async fn connections(&self) -> usize {
        let page = self.client.get(&self.metrics).send().await.expect("an answer");
        let page = page.text().await.expect("a whole answer");
        let line = page.lines().find_map(|it| it.strip_prefix("ringbearer_client_connections "));
        line.expect("it is on the page").parse().expect("a number")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
