//! The real program, as its user starts it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;

use ringbearer::sandbox::{Rules, Sandbox, SandboxOptions};
use tempfile::TempDir;

/// A running `ringbearer` in front of a sandbox. It is killed when it is dropped.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    _files: TempDir,
}

/// A sandbox by the machine's clock, without limits and without a log.
pub(crate) async fn sandbox() -> Sandbox {
    let rules = Rules { log_capacity: 0, ..Rules::unlimited() };
    Sandbox::start(SandboxOptions { rules, ..SandboxOptions::default() }).await.unwrap()
}

impl Program {
    /// Starts it with some more lines for `[proxy]` and more variables in its environment.
    pub(crate) async fn start(
        sandbox: &Sandbox,
        proxy: &str,
        environment: &[(&str, String)],
    ) -> Self {
        let files = TempDir::new().unwrap();
        let (file, store) = (files.path().join("proxy.toml"), files.path().join("store"));
        let url = sandbox.url();
        let text = format!(
            "[proxy]\nlisten = \"127.0.0.1:0\"\nworkers = 2\nhosts = \"*\"\n{proxy}\n[upstream]\nurl = \"{url}\"\n\
             [application.test]\nclient_id = \"sandbox-client\"\nclient_secret = \"sandbox-secret\"\n\
             [identity.test]\njwt = \"sandbox-jwt\"\n[store]\ndirectory = \"{}\"\n\
             [log]\nformat = \"json\"\nrequests = false\n",
            store.display()
        );
        fs::write(&file, text).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringbearer"));
        command.args(["serve", "--config"]).arg(&file).stderr(Stdio::piped());
        command.envs(environment.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().unwrap();
        let address = listening(&mut child).await;
        Self { child, address, _files: files }
    }

    pub(crate) fn terminate(&self) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(mut self) -> ExitStatus {
        tokio::task::spawn_blocking(move || self.child.wait().unwrap()).await.unwrap()
    }

    /// The most memory that it ever had, in KiB.
    pub(crate) fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has ended already is what the test wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads the log up to the address; the rest is read so that nothing blocks on it.
async fn listening(child: &mut Child) -> SocketAddr {
    let log = BufReader::new(child.stderr.take().unwrap());
    let (found, address) = mpsc::channel();
    thread::spawn(move || {
        for line in log.lines().map_while(Result::ok) {
            let Ok(line) = serde_json::from_str::<serde_json::Value>(&line) else { continue };
            if line["message"] == "listening" {
                let url = line["url"].as_str().unwrap().to_owned();
                // The test may be over already.
                let _ = found.send(url.strip_prefix("http://").unwrap().parse().unwrap());
            }
        }
    });
    let waiting = tokio::task::spawn_blocking(move || address.recv().expect("it starts"));
    waiting.await.unwrap()
}
