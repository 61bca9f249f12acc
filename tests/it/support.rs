//! Everything a test of the proxy needs: a sandbox, a proxy in front of it, a client, one clock.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringbearer::clock::{Clock, Timestamp};
use ringbearer::sandbox::{Control, Rules, Sandbox, SandboxOptions};
use ringbearer::service::Service;
use ringbearer::settings::{ConfigSource, Overrides, Settings};
use ringbearer::token::keeper::KeeperStatus;
use tempfile::TempDir;

/// When every test starts.
pub(crate) const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
/// The sandbox's resource that answers with what arrived.
pub(crate) const ECHO: &str = "/restapi/v1.0/sandbox/echo";

/// A sandbox and a proxy in front of it.
pub(crate) struct Environment {
    pub(crate) sandbox: Sandbox,
    pub(crate) proxy: Option<Service>,
    pub(crate) client: reqwest::Client,
    pub(crate) clock: Clock,
    settings: Settings,
    _files: Arc<TempDir>,
}

/// What a test wants to be different.
pub(crate) struct Wishes {
    pub(crate) rules: Rules,
    /// Lines of TOML for `[proxy]`, `[upstream]`, `[identity.test]`.
    pub(crate) proxy: String,
    pub(crate) upstream: String,
    pub(crate) identity: String,
    /// Somewhere else for API requests to go; the tokens are the sandbox's all the same.
    pub(crate) upstream_url: Option<String>,
    /// Whether proxy and sandbox speak TLS with each other.
    pub(crate) tls_upstream: bool,
    /// Whether time stands still until the test moves it.
    pub(crate) manual_clock: bool,
}

impl Default for Wishes {
    fn default() -> Self {
        Self {
            rules: Rules::unlimited(),
            proxy: String::new(),
            upstream: String::new(),
            identity: r#"jwt = "sandbox-jwt""#.into(),
            upstream_url: None,
            tls_upstream: false,
            manual_clock: true,
        }
    }
}

impl Environment {
    /// A JWT identity, a sandbox without limits, a clock that stands still.
    pub(crate) async fn new() -> Self {
        Self::with(Wishes::default()).await
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
        let settings = settings(&wishes, &sandbox, &files);
        let proxy = Service::start(&settings, &clock).unwrap();
        let client = client();
        Self { sandbox, proxy: Some(proxy), client, clock, settings, _files: files }
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

    /// Ends the proxy gracefully.
    pub(crate) async fn stop_proxy(&mut self) {
        self.proxy.take().expect("the proxy runs").stop().await;
    }

    /// Starts the proxy again, on the same files.
    pub(crate) fn start_proxy(&mut self) {
        self.proxy = Some(Service::start(&self.settings, &self.clock).unwrap());
    }

    /// Moves the clock second by second, so that everything that waits gets its turn.
    pub(crate) async fn pass(&self, time: Duration) {
        for _ in 0..time.as_secs() {
            self.clock.advance(Duration::from_secs(1));
            settle().await;
        }
    }
}

impl Environment {
    /// Moves the clock for ever, for whoever waits for something else meanwhile.
    pub(crate) async fn keep_passing(&self) {
        loop {
            self.pass(Duration::from_secs(1)).await;
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
}

/// A client that follows nothing and pools nothing it was not told to.
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
            (url, format!("ca_file = \"{}\"\n", ca.display()))
        }
        None => (sandbox.url(), String::new()),
    };
    let api = wishes.upstream_url.as_ref().unwrap_or(&url);
    let store = files.path().join("store");
    let text = format!(
        "[proxy]\nlisten = \"127.0.0.1:0\"\nworkers = 1\n{}\n\
         [upstream]\nurl = \"{api}\"\n{ca}{}\n\
         [application.test]\nclient_id = \"sandbox-client\"\nclient_secret = \"sandbox-secret\"\n\
         token_requests_per_minute = 1000\ntoken_url = \"{url}/restapi/oauth/token\"\n\
         revoke_url = \"{url}/restapi/oauth/revoke\"\n\
         [identity.test]\n{}\n\
         [store]\ndirectory = \"{}\"\n",
        wishes.proxy,
        wishes.upstream,
        wishes.identity,
        store.display(),
    );
    match Settings::load(&ConfigSource::Text(text), Overrides::default(), &|_| None) {
        Ok((settings, _)) => settings,
        Err(error) => panic!("{}", ringbearer::telemetry::chain(&error)),
    }
}

/// Whether a program that a test needs is there. On CI it must be; elsewhere the test says what to
/// install and is passed over.
pub(crate) fn has_program(program: &str, install: &str) -> bool {
    match std::process::Command::new(program).arg("--version").output() {
        Ok(_) => true,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            assert!(std::env::var_os("CI").is_none(), "{program} is missing: {install}");
            writeln_stderr(&format!("passed over: {program} is missing: {install}"));
            false
        }
        Err(error) => panic!("{program} does not start: {error}"),
    }
}

fn writeln_stderr(line: &str) {
    use std::io::Write;
    writeln!(std::io::stderr(), "{line}").unwrap();
}
