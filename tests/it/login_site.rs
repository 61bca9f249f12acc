//! A sandbox, a configuration for it, and the commands of a person beside a proxy that runs in the test.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ringbearer::clock::Clock;
use ringbearer::sandbox::{Control, Rules, Sandbox, SandboxOptions};
use ringbearer::service::Service;
use ringbearer::settings::{ConfigSource, Overrides, Settings};
use tempfile::TempDir;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::{ECHO, client, settle};

/// Generous: a test that succeeds waits for no more than it must.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Site {
    pub(crate) sandbox: Sandbox,
    pub(crate) client: reqwest::Client,
    pub(crate) redirect_uri: String,
    files: TempDir,
}

impl Site {
    /// With these tables after `[application.test]`.
    pub(crate) async fn new(rules: Rules, tables: &str) -> Self {
        let options = SandboxOptions { rules, ..SandboxOptions::default() };
        let sandbox = Sandbox::start(options).await.unwrap();
        let redirect_uri = format!("http://127.0.0.1:{}/callback", free_port());
        let site = Self { sandbox, client: client(), redirect_uri, files: TempDir::new().unwrap() };
        site.configure("proxy", &format!("{tables}\n[store]\ndirectory = 'store'\n"));
        site
    }

    pub(crate) async fn unlimited(tables: &str) -> Self {
        Self::new(Rules::unlimited(), tables).await
    }

    /// Writes the configuration `name`, which ends with these tables.
    pub(crate) fn configure(&self, name: &str, tables: &str) {
        let text = format!(
            "[proxy]\nlisten = '127.0.0.1:0'\nworkers = 1\n[upstream]\nurl = '{}'\n\
             [application.test]\nclient_id = 'sandbox-client'\nclient_secret = 'sandbox-secret'\n\
             redirect_uri = '{}'\ntoken_requests_per_minute = 1000\n{tables}",
            self.sandbox.url(),
            self.redirect_uri
        );
        self.write(&format!("{name}.toml"), &text);
    }

    /// Writes a file that only this user can read, and gives its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.files.path().join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn control(&self) -> &Control {
        self.sandbox.control()
    }

    pub(crate) fn settings(&self, name: &str) -> Settings {
        let source = ConfigSource::File(self.path(&format!("{name}.toml")).into());
        Settings::load(&source, Overrides::default(), &|_| None).unwrap().0
    }

    /// A proxy with the configuration `name`.
    pub(crate) fn serve(&self, name: &str) -> Service {
        Service::start(&self.settings(name), &Clock::system()).unwrap()
    }

    /// Starts a command with the configuration `proxy`.
    pub(crate) fn start(&self, words: &str) -> Running {
        self.start_with(words, "proxy", "", &[])
    }

    /// Starts it with another configuration, with this on its standard input, with these variables.
    pub(crate) fn start_with(
        &self,
        words: &str,
        configuration: &str,
        input: &str,
        environment: &[(&str, &str)],
    ) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringbearer"));
        command.args(words.split(' ').filter(|word| !word.is_empty()));
        command.arg("--config").arg(self.path(&format!("{configuration}.toml")));
        command.env_clear().env("HOME", self.files.path()).envs(environment.iter().copied());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let stdin = if input.is_empty() {
            // Somebody may still paste.
            Some(stdin)
        } else {
            // It may end without having read anything.
            let _ = stdin.write_all(input.as_bytes());
            None
        };
        let said = lines(child.stdout.take().unwrap());
        let errors = lines(child.stderr.take().unwrap());
        Running { child, stdin, lines: said, errors }
    }

    /// A command from its start to its end.
    pub(crate) async fn run(&self, words: &str) -> Ended {
        self.start_with(words, "proxy", "\n", &[]).ended().await
    }

    /// What the proxy answers to a request of this identity, or of the only one: status, code, content.
    pub(crate) async fn ask(&self, proxy: &Service, identity: Option<&str>) -> Answered {
        let url = format!("http://{}{ECHO}", proxy.addresses()[0]);
        let mut request = self.client.get(url);
        if let Some(identity) = identity {
            request = request.header("X-Ringbearer-Identity", identity);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let code = answer.headers().get("x-ringbearer-error");
        let code = code.map(|code| code.to_str().unwrap().to_owned()).unwrap_or_default();
        (status, code, answer.text().await.unwrap())
    }

    /// Asks until the proxy, which hears of the store in its own time, answers with this status.
    pub(crate) async fn ask_until(
        &self,
        proxy: &Service,
        identity: Option<&str>,
        status: u16,
    ) -> Answered {
        for _ in 0..2000 {
            let answered = self.ask(proxy, identity).await;
            if answered.0 == status {
                return answered;
            }
            settle().await;
        }
        panic!("never {status}, but {:?}", self.ask(proxy, identity).await);
    }

    /// The session that the last request was let in with.
    pub(crate) fn last_session(&self) -> Option<u64> {
        let log = self.control().log();
        log.iter().rev().find(|arrival| arrival.target.starts_with(ECHO))?.session
    }

    /// As a browser does it whose user agrees: the status and the page at the end.
    pub(crate) async fn agree(&self, url: &str) -> (u16, String) {
        let back = self.sent_back_to(url).await;
        let page = self.client.get(back).send().await.unwrap();
        (page.status().as_u16(), page.text().await.unwrap())
    }

    /// Where RingCentral sends the browser.
    pub(crate) async fn sent_back_to(&self, url: &str) -> String {
        let answer = self.client.get(url).send().await.unwrap();
        assert_eq!(answer.status(), 302, "{url}");
        answer.headers()["location"].to_str().unwrap().to_owned()
    }
}

pub(crate) type Answered = (u16, String, String);

/// A command that runs. It is killed when it is dropped.
pub(crate) struct Running {
    child: Child,
    stdin: Option<std::process::ChildStdin>,
    lines: UnboundedReceiver<String>,
    errors: UnboundedReceiver<String>,
}

/// One that has ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Running {
    /// The next line of its output that has `part` in it, without the space around it.
    pub(crate) async fn says(&mut self, part: &str) -> String {
        let mut seen = Vec::new();
        while let Some(line) = next(&mut self.lines).await {
            if line.contains(part) {
                return line.trim().to_owned();
            }
            seen.push(line);
        }
        let err = next(&mut self.errors).await;
        panic!("it ended before it said {part:?}, after {seen:?}, with {err:?}");
    }

    /// The address of the login that it prints.
    pub(crate) async fn address(&mut self) -> String {
        self.says("/restapi/oauth/authorize?").await
    }

    /// Types a line.
    pub(crate) fn paste(&mut self, text: &str) {
        let mut stdin = self.stdin.take().expect("once");
        writeln!(stdin, "{text}").unwrap();
    }

    pub(crate) async fn ended(mut self) -> Ended {
        drop(self.stdin.take());
        let (mut out, mut err) = (String::new(), String::new());
        while let Some(line) = next(&mut self.lines).await {
            out += &(line + "\n");
        }
        while let Some(line) = next(&mut self.errors).await {
            err += &(line + "\n");
        }
        Ended { code: self.child.wait().unwrap().code(), out, err }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn next(lines: &mut UnboundedReceiver<String>) -> Option<String> {
    tokio::time::timeout(PATIENCE, lines.recv()).await.expect("it says something or ends")
}

fn lines(from: impl Read + Send + 'static) -> UnboundedReceiver<String> {
    let (sender, receiver) = unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // The test may have seen enough.
            let _ = sender.send(line);
        }
    });
    receiver
}

/// A port that nobody has at the moment.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}
