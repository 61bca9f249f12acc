//! Another configuration while requests are under way: nothing is lost, and what is wrong changes
//! nothing.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ringbearer::key::KeyDigest;
use ringbearer::sandbox::{Fault, FaultKind, Place, Sandbox};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::process::Process;
use crate::program::sandbox;
use crate::support::{ECHO, client};
use crate::wire::{Wire, get};

const KEY: &str = "the-key-of-the-tests";
const CLIENT_KEY: &str = "the-key-of-a-client";
const FILE: &str = "/restapi/v1.0/account/~/extension/~/message-store/1/content/2?size=50000000";

/// A sandbox, and a configuration that the test changes.
struct Site {
    sandbox: Sandbox,
    files: TempDir,
    admin: SocketAddr,
}

/// A port that nobody has just now.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Site {
    async fn new() -> Self {
        Self { sandbox: sandbox().await, files: TempDir::new().unwrap(), admin: free() }
    }

    fn config(&self) -> PathBuf {
        self.files.path().join("proxy.toml")
    }

    /// Writes the configuration, with more lines for `[proxy]` and more tables.
    fn configure(&self, proxy: &str, tables: &str) {
        let (url, admin, digest) = (self.sandbox.url(), self.admin, KeyDigest::of(KEY));
        let store = self.files.path().join("store");
        let text = format!(
            "[proxy]\nhosts = \"*\"\n{proxy}\n[upstream]\nurl = \"{url}\"\n\
             [application.test]\nclient_id = \"sandbox-client\"\nclient_secret = \"sandbox-secret\"\n\
             [identity.test]\njwt = \"sandbox-jwt\"\n[store]\ndirectory = \"{}\"\n\
             [admin]\nlisten = \"{admin}\"\nkey_sha256 = \"{digest}\"\n\
             [log]\nformat = \"json\"\nrequests = false\n{tables}",
            store.display()
        );
        fs::write(self.config(), text).unwrap();
    }

    /// The usual one, read again only when somebody asks.
    async fn start(&self) -> Process {
        self.configure(USUAL, "");
        Process::start(&self.config()).await
    }

    /// Asks at the admin listener.
    async fn reload(&self) -> (u16, Value) {
        let url = format!("http://{}/reload", self.admin);
        let answer = client().post(url).bearer_auth(KEY).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    }

    /// Of `/metrics`, by name and labels.
    async fn figures<const N: usize>(&self, names: [&str; N]) -> [u64; N] {
        let url = format!("http://{}/metrics", self.admin);
        let page = client().get(url).send().await.unwrap().text().await.unwrap();
        names.map(|name| {
            let value = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
            page.lines().find_map(value).unwrap_or_else(|| panic!("no {name} in {page}"))
        })
    }

    /// A request is over a moment after its client has the answer.
    async fn until<const N: usize>(&self, names: [&str; N], wanted: [u64; N]) {
        while self.figures(names).await != wanted {
            tokio::task::yield_now().await;
        }
    }

    /// Asks until the status page has told so.
    async fn until_told(&self, level: &str, text: &str, times: u64) {
        let url = format!("http://{}/state", self.admin);
        let wanted = |event: &Value| {
            (&event["what"], &event["level"], &event["text"], &event["times"])
                == (&"reload".into(), &level.into(), &text.into(), &times.into())
        };
        loop {
            let answer = client().get(&url).send().await.unwrap().text().await.unwrap();
            let state: Value = serde_json::from_str(&answer).unwrap();
            if state["events"].as_array().unwrap().iter().any(wanted) {
                return;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn metrics(&self) -> String {
        let url = format!("http://{}/metrics", self.admin);
        client().get(url).bearer_auth(KEY).send().await.unwrap().text().await.unwrap()
    }

    /// Asks as an operator at a terminal does.
    async fn reload_by_command(&self, key: Option<&str>) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringbearer"));
        command.args(["reload", "--config"]).arg(self.config()).env_remove("RINGBEARER_ADMIN_KEY");
        command.envs(key.map(|key| ("RINGBEARER_ADMIN_KEY", key)));
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

/// How often the configuration was read anew and refused, and whether it is stale.
const RELOADS: [&str; 3] = [
    "ringbearer_reloads_total{outcome=\"loaded\"}",
    "ringbearer_reloads_total{outcome=\"refused\"}",
    "ringbearer_configuration_stale",
];

const USUAL: &str = "listen = \"127.0.0.1:0\"\nworkers = 2\nreload_on_change = false";

async fn status(address: SocketAddr, more: &str) -> u16 {
    let request = format!("GET {ECHO} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{more}\r\n");
    Wire::open(address).await.ask(request).await.status
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// Asks again and again, on a new connection whenever the old one is closed; counts the answers.
pub(crate) async fn keep_asking(address: SocketAddr, enough: Arc<AtomicBool>) -> u64 {
    let mut wire = Wire::open(address).await;
    let mut answered = 0;
    while !enough.load(Ordering::Relaxed) {
        let answer = wire.ask(get(ECHO)).await;
        assert_eq!((answer.status, answer.complete), (200, true));
        answered += 1;
        if answer.field("connection") == Some("close") {
            wire = Wire::open(address).await;
        }
    }
    answered
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_reloads_under_load_lose_nothing() {
    let site = Site::new().await;
    let process = site.start().await;
    let address = process.address();
    let enough = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> =
        (0..8).map(|_| tokio::spawn(keep_asking(address, Arc::clone(&enough)))).collect();
    for round in 0..100 {
        // Other numbers of workers: sockets come and go, and none may keep a connection for itself.
        let workers = [2, 1, 3][round % 3];
        let proxy = USUAL.replace("workers = 2", &format!("workers = {workers}"));
        site.configure(&proxy, "");
        assert_eq!(site.reload().await.0, 200, "round {round}");
    }
    enough.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap();
    }
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0));
    let counts = site.sandbox.control().counts();
    assert_eq!(counts.api_requests, answered, "each request came once");
    assert_eq!(counts.token_requests, 1, "every successor found the session in the store");
}

#[tokio::test]
async fn a_download_goes_on_through_a_reload_and_new_requests_do_not_wait_for_it() {
    let site = Site::new().await;
    let mut process = site.start().await;
    let mut download = Wire::open(process.address()).await;
    download.send(get(FILE)).await;
    let head = download.answer_without_content().await;
    let mut idle = Wire::open(process.address()).await;
    assert_eq!(idle.ask(get(ECHO)).await.status, 200);
    let client = format!(
        "[client.only]\nidentities = \"*\"\nkey_sha256 = \"{}\"\n",
        KeyDigest::of(CLIENT_KEY)
    );
    site.configure(USUAL, &client);
    process.hang_up();
    let line = process.says("reloaded").await;
    assert_eq!(line["by"], "SIGHUP");
    assert_eq!(status(process.address(), "").await, 401, "the new configuration is in force");
    assert_eq!(status(process.address(), &format!("X-Api-Key: {CLIENT_KEY}\r\n")).await, 200);
    assert!(idle.is_closed().await, "nobody stays with the old one for ever");
    let mut length = 0;
    let complete = download.pour(&head, |piece| length += piece.len()).await;
    assert_eq!((length, complete), (50_000_000, true));
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn traffic_is_counted_on_with_what_the_old_proxy_finishes() {
    let site = Site::new().await;
    let process = site.start().await;
    let mut download = Wire::open(process.address()).await;
    download.send(get(FILE)).await;
    let head = download.answer_without_content().await;
    assert_eq!(status(process.address(), "").await, 200);
    let done = "ringbearer_requests_total{identity=\"test\",method=\"read\",status=\"2xx\"}";
    let others = "ringbearer_requests_total{identity=\"another\",method=\"read\",status=\"2xx\"}";
    let under_way = "ringbearer_requests_in_progress";
    let accepted = "ringbearer_client_connections_accepted_total";
    let open = "ringbearer_client_connections";
    site.until([done, under_way, accepted], [2, 1, 2]).await;
    // It comes before the other in every order.
    site.configure(USUAL, "[identity.another]\njwt = \"sandbox-jwt\"\n");
    assert_eq!(site.reload().await.0, 200);
    assert_eq!(status(process.address(), "X-Ringbearer-Identity: test\r\n").await, 200);
    let names = [done, others, under_way, accepted];
    site.until(names, [3, 0, 1, 3]).await;
    assert!(download.pour(&head, |_| {}).await);
    drop(download);
    site.until([under_way, open], [0, 0]).await;
    assert_eq!(site.figures(names).await, [3, 0, 0, 3]);
    site.configure(USUAL, "");
    assert_eq!(site.reload().await.0, 200);
    site.until([done, under_way, accepted], [3, 0, 3]).await;
}

#[tokio::test]
async fn a_successor_has_no_more_room_for_clients_than_its_predecessor_leaves() {
    let site = Site::new().await;
    site.configure(&format!("{USUAL}\nmax_connections = 1"), "");
    let process = Process::start(&site.config()).await;
    let mut download = Wire::open(process.address()).await;
    download.send(get(FILE)).await;
    let head = download.answer_without_content().await;
    assert_eq!(site.reload().await.0, 200);
    let mut outside = Wire::open(process.address()).await;
    let answer = outside.answer().await;
    assert_eq!(
        (answer.status, answer.error()),
        (503, Some("RBR-143")),
        "the first one has it still"
    );
    assert!(outside.is_closed().await);
    let page = site.metrics().await;
    assert!(page.contains("\nringbearer_client_connections 1\n"), "{page}");
    assert!(page.contains("\nringbearer_limit_reached_total{limit=\"connections\"} 1\n"), "{page}");
    let mut length = 0;
    let complete = download.pour(&head, |piece| length += piece.len()).await;
    assert_eq!((length, complete), (50_000_000, true));
    // Its place is free a moment after the connection is.
    while !site.metrics().await.contains("\nringbearer_client_connections 0\n") {}
    assert_eq!(status(process.address(), "").await, 200);
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn what_is_wrong_is_told_and_changes_nothing() {
    let site = Site::new().await;
    let mut process = site.start().await;
    let path = site.config();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let in_use =
        format!("{taken} is in use: end the process that has it, or choose another with --listen");
    let unknown = format!(
        "configuration file {path:?}: line 4: unknown key `proxy.listne`: did you mean `listen`?"
    );
    for (proxy, expected) in [
        (format!("listen = [\"127.0.0.1:0\", \"{taken}\"]\nworkers = 2"), in_use.as_str()),
        (format!("{USUAL}\nlistne = 1"), unknown.split(": unknown").next().unwrap()),
    ] {
        site.configure(&proxy, "");
        let (status_code, answer) = site.reload().await;
        assert_eq!((status_code, &answer["errorCode"]), (409, &"RBR-453".into()), "{answer}");
        let message = answer["message"].as_str().unwrap();
        assert!(
            message.starts_with("the old configuration stays: ")
                && (message.contains(expected) || message.contains("listne")),
            "{message}"
        );
        let line = process.says("not reloaded").await;
        assert_eq!(line["by"], "an operator");
        assert_eq!(status(process.address(), "").await, 200);
    }
    assert_eq!(site.figures(RELOADS).await, [0, 2, 1]);
    let refused = "the configuration was refused and the old one stays: the log says why";
    site.until_told("error", refused, 2).await;
    site.configure(USUAL, "");
    assert_eq!(site.reload().await.0, 200);
    assert_eq!(site.figures(RELOADS).await, [1, 2, 0]);
    site.until_told("info", "the configuration was read anew and is in use", 1).await;
    assert_eq!(status(process.address(), "").await, 200);
    assert_eq!(site.sandbox.control().counts().token_requests, 1);
}

#[tokio::test]
async fn a_credential_that_is_refused_does_not_replace_one_that_works() {
    let site = Site::new().await;
    let process = site.start().await;
    assert_eq!(status(process.address(), "").await, 200);
    let text = fs::read_to_string(site.config()).unwrap();
    // Another store, in which no session is found.
    fs::write(site.config(), text.replace("/store\"", "/other-store\"")).unwrap();
    let refusal = "{\"error\":\"invalid_grant\"}".to_owned();
    let refusal = FaultKind::Status { code: 400, body: Some(refusal), retry_after: None };
    site.sandbox.control().inject(Fault::once(Place::Token, refusal).times(10));
    let (code, answer) = site.reload().await;
    let message = answer["message"].as_str().unwrap();
    let expected =
        "the old configuration stays: identity \"test\" has a token now and would have none: ";
    assert!(code == 409 && message.starts_with(expected), "{code} {message}");
    assert_eq!(status(process.address(), "").await, 200);
}

#[tokio::test]
async fn addresses_come_and_go() {
    let site = Site::new().await;
    let process = site.start().await;
    let second = free();
    let both = format!("listen = [\"127.0.0.1:0\", \"{second}\"]\nworkers = 1");
    site.configure(&both, "");
    assert_eq!(site.reload().await.0, 200);
    assert_eq!((status(process.address(), "").await, status(second, "").await), (200, 200));
    site.configure(USUAL, "");
    assert_eq!(site.reload().await.0, 200);
    assert_eq!(status(process.address(), "").await, 200);
    // The old workers let go of it in their own time, at most half a second.
    while TcpStream::connect(second).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_changed_file_is_noticed() {
    let site = Site::new().await;
    let secret = site.files.path().join("secret");
    fs::write(&secret, "sandbox-secret\n").unwrap();
    let proxy = USUAL.replace("reload_on_change = false", "");
    site.configure(&proxy, "");
    let text = fs::read_to_string(site.config()).unwrap();
    let text = text.replace("\"sandbox-secret\"", &format!("{{ file = {secret:?} }}"));
    fs::write(site.config(), text).unwrap();
    let mut process = Process::start(&site.config()).await;
    put(&secret, "");
    let line = process.says("not reloaded").await;
    assert!(line["error"].as_str().unwrap().contains("is empty"), "{line}");
    put(&secret, "sandbox-secret");
    assert_eq!(process.says("reloaded").await["by"], "a changed file");
    assert_eq!(status(process.address(), "").await, 200);
}

/// Puts another file in its place, as editors do.
fn put(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn the_audit_log_outlives_it_and_says_what_came_of_it() {
    let site = Site::new().await;
    let file = site.files.path().join("audit.jsonl");
    let audit = format!("[audit]\nfile = '{}'", file.display());
    site.configure(USUAL, &audit);
    let mut process = Process::start(&site.config()).await;
    for _ in 0..3 {
        assert_eq!(site.reload().await.0, 200);
        assert_eq!(status(process.address(), "").await, 200);
    }
    site.configure("listne = 1", &audit);
    let away = site.files.path().join("audit.1");
    fs::rename(&file, &away).unwrap();
    process.hang_up();
    process.says("not reloaded").await;
    process.terminate();
    assert_eq!(process.ended().await.code(), Some(0));
    let lines = |file: &Path| -> Vec<Value> {
        let text = fs::read_to_string(file).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    // A line that was on its way while the file was renamed stands in the new one.
    let (before, after) = (lines(&away), lines(&file));
    let all = || before.iter().chain(&after);
    let count = |is: fn(&Value) -> bool| all().filter(|line| is(line)).count();
    assert_eq!(count(|line| line["event"] == "request"), 3);
    assert_eq!(count(|line| line["event"] == "operation" && line["path"] == "/reload"), 3);
    let reloaded = |line: &Value| {
        line["event"] == "operation"
            && line["what"] == "reload"
            && line["by"] == "an operator"
            && line["decision"] == "allowed"
    };
    assert_eq!(count(reloaded), 3);
    let last = without_time(after.last().unwrap().clone());
    let failed =
        "{\"event\":\"operation\",\"what\":\"reload\",\"by\":\"SIGHUP\",\"decision\":\"failed\"}";
    assert_eq!(last, serde_json::from_str::<Value>(failed).unwrap());
}

fn without_time(mut line: Value) -> Value {
    assert!(line.as_object_mut().unwrap().remove("time").is_some());
    line
}

#[tokio::test]
async fn the_command_says_what_came_of_it() {
    let site = Site::new().await;
    let process = site.start().await;
    let done = site.reload_by_command(Some(KEY)).await;
    assert_eq!((done.status.code(), stderr(&done)), (Some(0), String::new()));
    let refused = site.reload_by_command(Some("another")).await;
    let message =
        "ringbearer: changes need the key of admin.key_sha256: send Authorization: Bearer KEY\n";
    assert_eq!((refused.status.code(), stderr(&refused).as_str()), (Some(1), message));
    let keyless = site.reload_by_command(None).await;
    let message = "ringbearer: the admin listener wants its key: give it by --key-file or in RINGBEARER_ADMIN_KEY\n";
    assert_eq!((keyless.status.code(), stderr(&keyless).as_str()), (Some(1), message));
    process.kill();
    let silent = site.reload_by_command(Some(KEY)).await;
    let start = format!(
        "ringbearer: no proxy answers at http://{} (admin.listen): is it running?",
        site.admin
    );
    assert!(silent.status.code() == Some(1) && stderr(&silent).starts_with(&start));
}
