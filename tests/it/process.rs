//! The real program as a child process, before a sandbox whose clock the test moves.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use ringbearer::clock::Clock;
use ringbearer::sandbox::{Control, Rules, Sandbox, SandboxOptions};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::{START, client, log_in};

/// A sandbox, and the configuration of a proxy before it whose identity has only a refresh token.
pub(crate) struct Site {
    pub(crate) sandbox: Sandbox,
    pub(crate) clock: Clock,
    pub(crate) client: reqwest::Client,
    /// Lines of TOML for `[upstream]` and `[application.test]`; what stands in `[store]`.
    pub(crate) upstream: String,
    pub(crate) application: String,
    pub(crate) store: String,
    refresh_token: String,
    files: TempDir,
}

/// A running proxy. It is killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    address: SocketAddr,
    log: UnboundedReceiver<String>,
}

impl Site {
    pub(crate) async fn new() -> Self {
        Self::with(Clock::manual(START), Rules::unlimited()).await
    }

    /// A sandbox with these rules, on plain HTTP and on TLS. The proxies go by the machine's clock.
    pub(crate) async fn with(clock: Clock, rules: Rules) -> Self {
        let options = SandboxOptions {
            clock: clock.clone(),
            tls_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            rules,
            ..SandboxOptions::default()
        };
        let sandbox = Sandbox::start(options).await.unwrap();
        let (client, files) = (client(), TempDir::new().unwrap());
        let refresh_token = log_in(&client, &sandbox).await;
        let (upstream, application) = Default::default();
        let store = "directory = \"store\"".to_owned();
        Self { sandbox, clock, client, upstream, application, store, refresh_token, files }
    }

    pub(crate) fn control(&self) -> &Control {
        self.sandbox.control()
    }

    /// The stored session as it is in its file.
    pub(crate) fn stored(&self) -> String {
        std::fs::read_to_string(self.directory().join("test.json")).unwrap()
    }

    /// Where a store of files keeps them.
    pub(crate) fn directory(&self) -> PathBuf {
        self.files.path().join("store")
    }

    /// A file of this test's own.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// Starts the program, and returns when it listens.
    pub(crate) async fn start(&self) -> Process {
        Process::start(&self.configured()).await
    }

    /// The same after a shell has done `preparations`, in a mount namespace of its own if `apart`.
    /// They find the store's directory in `$store`.
    pub(crate) async fn start_after(&self, preparations: &str, apart: bool) -> Process {
        let mut command = Command::new(if apart { "unshare" } else { "sh" });
        if apart {
            command.args(["-m", "sh"]);
        }
        let script = format!("set -e; {preparations}\nexec \"$@\"");
        command.args(["-c", &script, "sh", PROGRAM]).env("store", self.directory());
        Process::start_by(command, &self.configured()).await
    }

    /// The file with the configuration.
    fn configured(&self) -> PathBuf {
        self.configured_with("listen = \"127.0.0.1:0\"")
    }

    /// The same with another line for where to listen.
    pub(crate) fn configured_with(&self, listen: &str) -> PathBuf {
        let config = self.file("proxy.toml");
        let text = self.config().replace("listen = \"127.0.0.1:0\"", listen);
        std::fs::write(&config, text).unwrap();
        config
    }

    fn config(&self) -> String {
        format!(
            "[proxy]\nlisten = \"127.0.0.1:0\"\nworkers = 1\ntoken_wait = \"2m\"\n\
             [upstream]\nurl = \"{}\"\n{}\n\
             [application.test]\nclient_id = \"sandbox-client\"\n\
             client_secret = \"sandbox-secret\"\ntoken_requests_per_minute = 1000\n{}\n\
             [identity.test]\nrefresh_token = \"{}\"\n\
             [store]\n{}\n\
             [log]\nformat = \"json\"\n",
            self.sandbox.url(),
            self.upstream,
            self.application,
            self.refresh_token,
            self.store,
        )
    }

    /// A request through the proxy.
    pub(crate) fn get(&self, process: &Process, target: &str) -> reqwest::RequestBuilder {
        self.client.get(process.url(target))
    }
}

impl Process {
    /// Starts the program with a configuration whose log is JSON, and returns when it listens.
    pub(crate) async fn start(config: &Path) -> Self {
        Self::start_by(Command::new(PROGRAM), config).await
    }

    /// The same with more variables in its environment.
    pub(crate) async fn start_with(config: &Path, variables: &[(&str, &OsStr)]) -> Self {
        let mut command = Command::new(PROGRAM);
        command.envs(variables.iter().copied());
        Self::start_by(command, config).await
    }

    async fn start_by(mut command: Command, config: &Path) -> Self {
        let mut child = command
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let (lines, log) = unbounded_channel();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // The test may have seen enough.
                let _ = lines.send(line);
            }
        });
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut process = Self { child, address, log };
        let line = process.says("listening").await;
        let url = line["url"].as_str().unwrap().trim_start_matches("http://");
        process.address = url.parse().unwrap();
        process
    }

    /// Where this process sees `path`, whatever is mounted there for it alone.
    pub(crate) fn sight_of(&self, path: &Path) -> PathBuf {
        let root = format!("/proc/{}/root", self.child.id());
        Path::new(&root).join(path.strip_prefix("/").expect("it is absolute"))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where `target` is through this proxy.
    pub(crate) fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for the line of the log with this message.
    pub(crate) async fn says(&mut self, message: &str) -> serde_json::Value {
        let mut before = Vec::new();
        while let Some(line) = self.log.recv().await {
            let Ok(json) = serde_json::from_str::<serde_json::Value>(&line) else {
                before.push(line);
                continue;
            };
            if json["message"].as_str().is_some_and(|said| said.starts_with(message)) {
                return json;
            }
            before.push(line);
        }
        panic!("it ended before it said {message:?}, after\n{}", before.join("\n"));
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGHUP.
    pub(crate) fn hang_up(&self) {
        self.signal(Signal::HUP);
    }

    /// SIGSTOP.
    pub(crate) fn stand_still(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until it has ended by itself, and returns the lines that it had logged and nobody had
    /// read.
    pub(crate) async fn ended_with(mut self) -> Vec<serde_json::Value> {
        let mut lines = Vec::new();
        while let Some(line) = self.log.recv().await {
            lines.extend(serde_json::from_str::<serde_json::Value>(&line));
        }
        lines
    }

    /// Waits until it has ended by itself: its standard error closes.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        while self.log.recv().await.is_some() {}
        self.child.wait().unwrap()
    }
}

/// What Cargo has built.
const PROGRAM: &str = env!("CARGO_BIN_EXE_ringbearer");

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
