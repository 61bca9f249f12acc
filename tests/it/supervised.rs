//! The program as a service manager runs it: sockets that are passed, and what is said in return.

use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ringbearer::sandbox::Sandbox;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::reload::keep_asking;
use crate::support::ECHO;
use crate::wire::{Wire, get};

/// A machine that builds besides is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// What systemd does: the socket becomes descriptor 3, and the variables name the process itself.
const PASS: &str = "exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\"";

struct Manager {
    sandbox: Sandbox,
    socket: TcpListener,
    notified: UnixDatagram,
    files: TempDir,
}

/// It is killed when it is dropped.
struct Service(Child);

impl Manager {
    async fn new() -> Self {
        let sandbox = crate::program::sandbox().await;
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let files = TempDir::new().unwrap();
        let notified = UnixDatagram::bind(files.path().join("notify")).unwrap();
        notified.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { sandbox, socket, notified, files }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }

    fn configured(&self, listen: SocketAddr) -> PathBuf {
        let path = self.files.path().join("proxy.toml");
        let text = format!(
            "[proxy]\nlisten = '{listen}'\nworkers = 2\nhosts = '*'\n[upstream]\nurl = '{}'\n\
             [application.test]\nclient_id = 'sandbox-client'\nclient_secret = 'sandbox-secret'\n\
             [identity.test]\njwt = 'sandbox-jwt'\n[store]\ndirectory = 'store'\n[log]\nrequests = false\n",
            self.sandbox.url()
        );
        fs::write(&path, text).unwrap();
        path
    }

    fn start(&self, listen: SocketAddr) -> Service {
        let mut command = Command::new("sh");
        command.args(["-c", PASS, "sh", env!("CARGO_BIN_EXE_ringbearer"), "serve", "--config"]);
        command.arg(self.configured(listen));
        command.env("NOTIFY_SOCKET", self.files.path().join("notify"));
        command.env("WATCHDOG_USEC", "100000");
        let socket = OwnedFd::from(self.socket.try_clone().unwrap());
        command.stdin(Stdio::from(socket)).stderr(Stdio::piped());
        Service(command.spawn().unwrap())
    }

    /// The next message but for signs of life, and how many of those came before it.
    async fn heard(&self) -> (String, usize) {
        let notified = self.notified.try_clone().unwrap();
        let hear = move || {
            let (mut message, mut alive) = ([0; 1000], 0);
            loop {
                let length = notified.recv(&mut message).expect("it says something in time");
                match std::str::from_utf8(&message[..length]).unwrap() {
                    "WATCHDOG=1" => alive += 1,
                    other => return (other.to_owned(), alive),
                }
            }
        };
        tokio::task::spawn_blocking(hear).await.unwrap()
    }

    /// Returns when one that was started says that it serves, whatever others say meanwhile.
    async fn ready(&self) {
        while !self.heard().await.0.starts_with("READY=1") {}
    }

    /// Returns after a sign of life.
    async fn alive(&self) {
        let notified = self.notified.try_clone().unwrap();
        let hear = move || {
            let mut message = [0; 1000];
            let length = notified.recv(&mut message).expect("it lives");
            assert_eq!(&message[..length], b"WATCHDOG=1");
        };
        tokio::task::spawn_blocking(hear).await.unwrap();
    }
}

impl Service {
    fn terminate(&self) {
        kill_process(Pid::from_child(&self.0), Signal::TERM).unwrap();
    }

    /// Its exit code and its log.
    async fn ended(mut self) -> (Option<i32>, String) {
        let end = move || {
            let mut log = String::new();
            self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
            (self.0.wait().unwrap().code(), log)
        };
        tokio::task::spawn_blocking(end).await.unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_service_manager_hears_when_it_is_ready_that_it_lives_and_that_it_stops() {
    let manager = Manager::new().await;
    let service = manager.start(manager.address());
    let ready = format!("READY=1\nSTATUS=serving http://{}", manager.address());
    assert_eq!(manager.heard().await, (ready, 0));
    for _ in 0..3 {
        manager.alive().await;
    }
    service.terminate();
    assert_eq!(manager.heard().await.0, "STOPPING=1\nSTATUS=draining");
    assert_eq!(service.ended().await.0, Some(0));
}

#[tokio::test]
async fn a_passed_socket_loses_no_connection_from_one_process_to_the_next() {
    let manager = Manager::new().await;
    for process in 1..=3 {
        // Nobody accepts yet: the kernel holds it.
        let stream = TcpStream::connect(manager.address()).await.unwrap();
        let mut early = Wire::over(stream);
        early.send(get(&format!("{ECHO}?early={process}"))).await;
        let service = manager.start(manager.address());
        assert_eq!(early.answer().await.status, 200);
        let mut late = Wire::open(manager.address()).await;
        assert_eq!(late.ask(get(&format!("{ECHO}?late={process}"))).await.status, 200);
        drop((early, late));
        service.terminate();
        let (code, log) = service.ended().await;
        assert_eq!(code, Some(0), "{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_upgrades_under_load_lose_nothing() {
    let manager = Manager::new().await;
    let mut serving = manager.start(manager.address());
    manager.ready().await;
    let enough = Arc::new(AtomicBool::new(false));
    let ask = || tokio::spawn(keep_asking(manager.address(), Arc::clone(&enough)));
    let clients: Vec<_> = (0..4).map(|_| ask()).collect();
    let mut ending = JoinSet::new();
    for _ in 0..100 {
        // The next one, another version perhaps, serves before this one is asked to end.
        let next = manager.start(manager.address());
        manager.ready().await;
        serving.terminate();
        ending.spawn(std::mem::replace(&mut serving, next).ended());
    }
    while let Some(ended) = ending.join_next().await {
        let (code, log) = ended.unwrap();
        assert_eq!(code, Some(0), "{log}");
    }
    enough.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for client in clients {
        answered += client.await.unwrap();
    }
    serving.terminate();
    assert_eq!(serving.ended().await.0, Some(0));
    let counts = manager.sandbox.control().counts();
    assert_eq!(counts.api_requests, answered, "each request came once");
    assert_eq!(counts.token_requests, 1, "every process found the session in the store");
}

#[tokio::test]
async fn a_passed_socket_that_nobody_listens_on_is_refused() {
    let manager = Manager::new().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (code, log) = manager.start(elsewhere).ended().await;
    let expected = format!(
        "ringbearer: a socket for {} was passed (LISTEN_FDS), but nothing is configured to listen \
         there: add it to proxy.listen, or remove it from the socket unit\n",
        manager.address()
    );
    assert_eq!(code, Some(1), "{log}");
    assert!(log.ends_with(&expected), "{log}");
}
