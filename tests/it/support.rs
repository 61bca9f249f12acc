//! Everything a test of the proxy needs: a sandbox, a proxy in front of it, a client, one clock.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ringbearer::clock::{Clock, Timestamp};
use ringbearer::sandbox::{Arrival, Control, Rules, Sandbox, SandboxOptions};
use ringbearer::service::Service;
use ringbearer::settings::{ConfigSource, Overrides, Settings};
use ringbearer::token::keeper::KeeperStatus;
use ringbearer::token::lifecycle::Standing;
use tempfile::TempDir;

/// When every test starts.
pub(crate) const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
/// The sandbox's resource that answers with what arrived.
pub(crate) const ECHO: &str = "/restapi/v1.0/sandbox/echo";

/// An identity that has nothing but a refresh token, from a login made at the sandbox itself.
pub(crate) const REFRESH_IDENTITY: &str = "refresh_token = \"{refresh_token}\"";
/// The clock jumps, and nobody should lose a kept connection to that.
pub(crate) const LONG_IDLE: &str = "client_idle_timeout = \"1h\"\n";
/// For `[upstream]` where the clock moves faster than connections come about.
pub(crate) const PATIENT: &str = "connect_timeout = \"5m\"\nresponse_timeout = \"5m\"\n";

/// A sandbox and a proxy in front of it.
pub(crate) struct Environment {
    pub(crate) sandbox: Sandbox,
    pub(crate) proxy: Option<Service>,
    pub(crate) client: reqwest::Client,
    pub(crate) clock: Clock,
    settings: Settings,
    files: Arc<TempDir>,
}

/// What a test wants to be different.
pub(crate) struct Wishes {
    pub(crate) rules: Rules,
    /// Lines of TOML for `[proxy]`, `[upstream]`, `[application.test]`, `[identity.test]`.
    pub(crate) proxy: String,
    pub(crate) upstream: String,
    pub(crate) application: String,
    pub(crate) identity: String,
    /// Somewhere else for API requests to go; the tokens are the sandbox's all the same.
    pub(crate) upstream_url: Option<String>,
    /// Whether proxy and sandbox speak TLS with each other.
    pub(crate) tls_upstream: bool,
    /// Lines of TOML for `[store]` instead of a directory.
    pub(crate) store: Option<String>,
    /// Whether time stands still until the test moves it.
    pub(crate) manual_clock: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            rules: Rules::unlimited(),
            proxy: LONG_IDLE.into(),
            upstream: String::new(),
            application: String::new(),
            identity: r#"jwt = "sandbox-jwt""#.into(),
            upstream_url: None,
            tls_upstream: false,
            store: None,
            manual_clock: true,
        }
    }
}

impl Environment {
    /// A JWT identity, a sandbox without limits, a clock that stands still.
    pub(crate) async fn new() -> Self {
        Self::with(Wishes::default()).await
    }

    /// The same before a proxy that leaves links alone, so that every byte can be compared.
    pub(crate) async fn exact() -> Self {
        let proxy = format!("{LONG_IDLE}rewrite_links = false\n");
        Self::with(Wishes { proxy, ..Wishes::default() }).await
    }

    pub(crate) async fn with(wishes: Wishes) -> Self {
        let clock = if wishes.manual_clock { Clock::manual(START) } else { Clock::system() };
        let files = Arc::new(TempDir::new().unwrap());
        let options = SandboxOptions {
            clock: clock.clone(),
            tls_listen: wishes.tls_upstream.then(|| SocketAddr::from(([127, 0, 0, 1], 0))),
            rules: wishes.rules.clone(),
            ..SandboxOptions::default()
        };
        let sandbox = Sandbox::start(options).await.unwrap();
        let client = client();
        let mut identity = wishes.identity.clone();
        if identity.contains("{refresh_token}") {
            let token = log_in(&client, &sandbox).await;
            identity = identity.replace("{refresh_token}", &token);
        }
        let port = sandbox.url().rsplit_once(':').expect("it has one").1.to_owned();
        let identity = identity.replace("{port}", &port);
        let settings = settings(&Wishes { identity, ..wishes }, &sandbox, &files);
        let proxy = Service::start(&settings, &clock).unwrap();
        Self { sandbox, proxy: Some(proxy), client, clock, settings, files }
    }

    /// An identity that lives in one session, which has to be refreshed.
    pub(crate) async fn refreshing() -> Self {
        Self::with(Wishes { identity: REFRESH_IDENTITY.into(), ..Wishes::default() }).await
    }

    pub(crate) fn proxy(&self) -> &Service {
        self.proxy.as_ref().expect("the proxy runs")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.proxy().addresses()[0]
    }

    /// Where `target` is through the proxy.
    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address())
    }

    /// Where `target` is at the sandbox itself.
    pub(crate) fn direct(&self, target: &str) -> String {
        format!("{}{target}", self.sandbox.url())
    }

    pub(crate) async fn get(&self, target: &str) -> reqwest::Response {
        self.client.get(self.url(target)).send().await.unwrap()
    }

    pub(crate) fn control(&self) -> &Control {
        self.sandbox.control()
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// How the identity is doing.
    pub(crate) fn status(&self) -> KeeperStatus {
        let identities = self.proxy().identities();
        identities.keeper(identities.only().unwrap()).status()
    }

    /// Where the sessions are kept.
    pub(crate) fn store(&self) -> PathBuf {
        self.files.path().join("store")
    }

    /// The stored session as it is in its file.
    pub(crate) fn stored(&self) -> String {
        std::fs::read_to_string(self.store().join("test.json")).unwrap()
    }

    /// Ends the proxy gracefully. A manual clock goes on meanwhile, because the end takes time.
    pub(crate) async fn stop_proxy(&mut self) {
        let mut stop = pin!(self.proxy.take().expect("the proxy runs").stop());
        let patience = async || {
            for _ in 0..100 {
                settle().await;
            }
        };
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return,
                () = patience() => {}
            }
            if self.clock.is_manual() {
                self.clock.advance(Duration::from_millis(500));
            }
        }
    }

    /// Starts the proxy again, on the same files.
    pub(crate) fn start_proxy(&mut self) {
        self.proxy = Some(Service::start(&self.settings, &self.clock).unwrap());
    }

    /// Ends everything, and passes on the panic of any task that panicked.
    pub(crate) async fn finish(mut self) {
        if self.proxy.is_some() {
            self.stop_proxy().await;
        }
        self.sandbox.stop().await;
    }

    /// Moves the clock second by second, and lets everything come to rest after each.
    pub(crate) async fn pass(&self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.clock.advance(Duration::from_secs(1));
            self.rest().await;
        }
    }

    /// Returns when no keeper can go on without time passing or somebody asking. Not to be called
    /// while the sandbox holds a token request back.
    pub(crate) async fn rest(&self) {
        let busy =
            |status: KeeperStatus| matches!(status.state, Standing::Starting | Standing::Renewing);
        loop {
            settle().await;
            let identities = self.proxy().identities();
            if !identities.iter().any(|(_, keeper)| busy(keeper.status())) {
                return;
            }
        }
    }

    /// The answer to a request that is answered only when its time is over.
    pub(crate) async fn get_in_time(&self, target: &str) -> reqwest::Response {
        let waiting = tokio::spawn(self.client.get(self.url(target)).send());
        self.until(|status| status.waiting > 0).await;
        while !waiting.is_finished() {
            self.clock.advance(Duration::from_millis(500));
            for _ in 0..50 {
                settle().await;
            }
        }
        waiting.await.unwrap().unwrap()
    }

    /// Moves the clock to where 85 % of the token's life are over: by now a renewal is due.
    pub(crate) fn go_to_renewal(&self) {
        let ends = self.status().expires_at.expect("it has a token");
        let left = self.clock.now().until(ends);
        self.clock.advance(left * 85 / 100);
    }

    /// Lets time pass until it is so, within `seconds`; a busy machine may need more of them.
    pub(crate) async fn pass_until(&self, seconds: u64, wanted: impl Fn(&KeeperStatus) -> bool) {
        for _ in 0..seconds {
            // Time must not outrun a renewal under way, nor stand still for one that waits for its turn.
            for round in 0..5000 {
                let status = self.status();
                if wanted(&status) {
                    return;
                }
                if round >= 100 && status.state != Standing::Renewing {
                    break;
                }
                settle().await;
            }
            self.clock.advance(Duration::from_secs(1));
        }
        panic!("not within {seconds} s: {:?}", self.status());
    }

    /// Like [`pass`](Self::pass), where a keeper may have to wait for its turn, which time alone
    /// brings: it is given a while after each second, not all it wants.
    pub(crate) async fn pass_in_penalty(&self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.clock.advance(Duration::from_secs(1));
            for _ in 0..500 {
                settle().await;
                if !matches!(self.status().state, Standing::Starting | Standing::Renewing) {
                    break;
                }
            }
        }
    }

    /// The answer as soon as there is a token again, which takes no more than `seconds`.
    pub(crate) async fn get_after(&self, seconds: u64, target: &str) -> reqwest::Response {
        for _ in 0..seconds {
            if self.status().usable {
                return self.get(target).await;
            }
            self.pass_in_penalty(Duration::from_secs(1)).await;
        }
        panic!("no token came in {seconds} s: {:?}", self.status());
    }

    /// Returns when the identity's status is as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&KeeperStatus) -> bool) -> KeeperStatus {
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            settle().await;
        }
    }
}

impl Environment {
    /// Moves the clock for ever, for whoever waits for something else meanwhile.
    pub(crate) async fn keep_passing(&self) {
        loop {
            self.advance(Duration::from_secs(1)).await;
        }
    }

    /// Moves the clock second by second, whoever still has something to do. For when a token
    /// request is held back, or the proxy is ending.
    pub(crate) async fn advance(&self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.clock.advance(Duration::from_secs(1));
            settle().await;
        }
    }

    /// Waits until the sandbox has granted `answers` token requests, and the proxy knows of it.
    pub(crate) async fn pass_until_renewed(&self, answers: u64) {
        self.control().wait_until(|counts| counts.token_answers == answers).await;
        while self.status().generation.is_none_or(|generation| generation.number() < answers) {
            settle().await;
        }
    }
}

/// Lets every task that can go on do so, those of other threads too: a round trip through each
/// worker is not needed, only that this thread gives way often.
pub(crate) async fn settle() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
    std::thread::yield_now();
}

/// The refresh token of a new session, had at the sandbox itself.
pub(crate) async fn log_in(client: &reqwest::Client, sandbox: &Sandbox) -> String {
    let request = client.post(format!("{}/restapi/oauth/token", sandbox.url()));
    let request = request.basic_auth("sandbox-client", Some("sandbox-secret")).form(&[
        ("grant_type", "password"),
        ("username", "+15551230001"),
        ("password", "sandbox-password"),
    ]);
    let answer = json(request.send().await.unwrap()).await;
    answer["refresh_token"].as_str().expect("the login is granted").to_owned()
}

/// The content of an answer.
pub(crate) async fn json(answer: reqwest::Response) -> serde_json::Value {
    serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
}

/// What became of each send, by request target: a target that carries a number names one request
/// of one client.
pub(crate) fn sends(log: &[Arrival]) -> BTreeMap<&str, Vec<Option<u16>>> {
    let mut sends = BTreeMap::<_, Vec<_>>::new();
    for arrival in log.iter().filter(|arrival| arrival.target.starts_with(ECHO)) {
        sends.entry(arrival.target.as_str()).or_default().push(arrival.status);
    }
    sends
}

/// The sessions that API requests were let in with.
pub(crate) fn sessions(log: &[Arrival]) -> Vec<u64> {
    let api = log.iter().filter(|arrival| arrival.target.starts_with(ECHO));
    let mut sessions: Vec<_> = api.filter_map(|arrival| arrival.session).collect();
    sessions.sort_unstable();
    sessions.dedup();
    sessions
}

/// A client that follows nothing. Each has connections of its own.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .tls_backend_preconfigured(trusting_nobody())
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build()
        .unwrap()
}

/// A token for whoever talks to the sandbox directly, as the user that the proxy is.
pub(crate) async fn access_token(sandbox: &Sandbox) -> String {
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", "sandbox-jwt"),
    ];
    let request = client().post(format!("{}/restapi/oauth/token", sandbox.url()));
    let request = request.basic_auth("sandbox-client", Some("sandbox-secret")).form(&form);
    let body = request.send().await.unwrap().text().await.unwrap();
    let body: serde_json::Value = serde_json::from_str(&body).unwrap();
    body["access_token"].as_str().unwrap().to_owned()
}

fn trusting_nobody() -> rustls::ClientConfig {
    ringbearer::upstream::client_config(&ringbearer::upstream::Trust::Nobody).unwrap()
}

fn settings(wishes: &Wishes, sandbox: &Sandbox, files: &TempDir) -> Settings {
    let (url, ca) = match sandbox.tls_url() {
        Some(url) => {
            let ca = files.path().join("ca.pem");
            std::fs::write(&ca, sandbox.ca_pem().unwrap()).unwrap();
            (url, format!("ca_file = {:?}\n", ca.to_str().unwrap()))
        }
        None => (sandbox.url(), String::new()),
    };
    let (api, elsewhere) = match &wishes.upstream_url {
        Some(api) => (api, format!("token_url = \"{url}/restapi/oauth/token\"\n")),
        None => (&url, String::new()),
    };
    // Tests call by hosts of their own; which ones may be is the subject of one of them.
    let hosts = if wishes.proxy.contains("hosts = ") { "" } else { "hosts = \"*\"\n" };
    // Other tables may follow.
    let mut own = wishes.proxy.lines().take_while(|line| !line.starts_with('['));
    let listens = own.any(|line| line.starts_with("listen = "));
    let listen = if listens { "" } else { "listen = \"127.0.0.1:0\"\n" };
    let store = files.path().join("store");
    let store = format!("directory = {:?}", store.to_str().unwrap());
    let store = wishes.store.as_ref().unwrap_or(&store);
    let text = format!(
        "[proxy]\n{listen}workers = 1\n{hosts}{}\n\
         [upstream]\nurl = \"{api}\"\n{ca}{}\n\
         [application.test]\nclient_id = \"sandbox-client\"\nclient_secret = \"sandbox-secret\"\n\
         token_requests_per_minute = 1000\n{elsewhere}{}\n\
         [identity.test]\n{}\n\
         [store]\n{store}\n",
        wishes.proxy, wishes.upstream, wishes.application, wishes.identity,
    );
    match Settings::load(&ConfigSource::Text(text), Overrides::default(), &|_| None) {
        Ok((settings, _)) => settings,
        Err(error) => panic!("{}", ringbearer::telemetry::chain(&error)),
    }
}

/// Whether a program that a test needs is there. On CI it must be; elsewhere the test says what to
/// install and is passed over.
#[allow(clippy::print_stderr, reason = "whoever runs the tests is to see it")]
pub(crate) fn has_program(program: &str, install: &str) -> bool {
    match std::process::Command::new(program).arg("--version").output() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none(), "{program} is missing: {install}");
            eprintln!("passed over: {program} is missing: {install}");
            false
        }
        Err(error) => panic!("{program} does not start: {error}"),
    }
}
