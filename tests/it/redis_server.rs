//! Real Redis servers and sentinels, each in a directory of its own. They are killed when dropped.

use std::fs;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use redis::{AsyncConnectionConfig, Client, Value};
use ringbearer::settings::{ConfigSource, Overrides, Settings, StoreSettings};
use ringbearer::store::redis::RedisStore;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{has_program, settle};

/// The machine may have much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

/// A key for `store.encryption_keys`.
const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

/// What a server keeps through its death.
const DURABLE: &str = "appendonly yes\nappendfsync always\n";

pub(crate) struct RedisServer {
    program: &'static str,
    child: Child,
    port: u16,
    files: Arc<TempDir>,
}

impl RedisServer {
    /// `None` where there is no Redis, and need not be one.
    pub(crate) async fn start() -> Option<Self> {
        Self::with(DURABLE).await
    }

    /// With these lines of configuration too; `PORT` and `DIRECTORY` stand for its own.
    pub(crate) async fn with(lines: &str) -> Option<Self> {
        if !has_program("redis-server", "apt-get install redis-server") {
            return None;
        }
        Some(Self::launch("redis-server", &format!("save \"\"\n{lines}")).await)
    }

    /// A sentinel; `None` where there is none, and need not be one.
    pub(crate) async fn sentinel(lines: &str) -> Option<Self> {
        if !has_program("redis-sentinel", "apt-get install redis-sentinel") {
            return None;
        }
        Some(Self::launch("redis-sentinel", lines).await)
    }

    /// In a cluster that is still to be formed.
    pub(crate) async fn cluster_node() -> Option<Self> {
        let bus = free_port();
        let lines = "cluster-enabled yes\ncluster-config-file nodes.conf\n\
                     cluster-node-timeout 1000\ncluster-require-full-coverage no\n";
        Self::with(&format!("{DURABLE}{lines}cluster-port {bus}\n")).await
    }

    async fn launch(program: &'static str, lines: &str) -> Self {
        let (port, files) = (free_port(), Arc::new(TempDir::new().unwrap()));
        let directory = files.path().to_str().unwrap();
        let lines = lines.replace("PORT", &port.to_string()).replace("DIRECTORY", directory);
        let ours = if lines.contains("tls-port") { 0 } else { port };
        let text = format!("port {ours}\nbind 127.0.0.1\ndir {directory}\n{lines}");
        fs::write(files.path().join("server.conf"), text).unwrap();
        let mut server = Self { program, child: spawn(program, &files), port, files };
        server.answers().await;
        server
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Stands still, connections open.
    pub(crate) fn pause(&self) {
        kill_process(self.pid(), Signal::STOP).unwrap();
    }

    pub(crate) fn go_on(&self) {
        kill_process(self.pid(), Signal::CONT).unwrap();
    }

    /// Dies.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Dies, and comes back with what it had synced.
    pub(crate) async fn restart(&mut self) {
        self.kill();
        self.revive().await;
    }

    /// Comes back with what it had synced.
    pub(crate) async fn revive(&mut self) {
        self.child = spawn(self.program, &self.files);
        self.answers().await;
    }

    /// Runs one command.
    pub(crate) async fn run(&self, command: &[&str]) -> Value {
        let client = Client::open(self.url()).unwrap();
        let patient = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        let connection = client.get_multiplexed_async_connection_with_config(&patient).await;
        let mut connection = connection.unwrap();
        let mut all = redis::cmd(command[0]);
        all.arg(&command[1..]);
        all.query_async(&mut connection).await.unwrap()
    }

    /// The text that a command answers with.
    pub(crate) async fn text(&self, command: &[&str]) -> String {
        redis::from_redis_value(self.run(command).await).unwrap()
    }

    /// Returns when the text that a command answers with contains this.
    pub(crate) async fn until(&self, command: &[&str], wanted: &str) {
        while !self.text(command).await.contains(wanted) {
            settle().await;
        }
    }

    async fn answers(&mut self) {
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "{} has ended", self.program);
            tokio::task::yield_now().await;
        }
        // It may still be reading its data.
        while !self.is_tls() && self.ping().await.is_err() {
            settle().await;
        }
    }

    fn is_tls(&self) -> bool {
        let text = fs::read_to_string(self.files.path().join("server.conf")).unwrap();
        text.contains("tls-port")
    }

    async fn ping(&self) -> redis::RedisResult<Value> {
        let client = Client::open(self.url())?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        redis::cmd("PING").query_async(&mut connection).await
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port that nobody listens on.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// The store that these lines of `[store]` describe, sealed, its keys beginning with `test:`.
pub(crate) fn open_store(lines: &str) -> RedisStore {
    let sealed = format!("redis_prefix = \"test:\"\nencryption_keys = [\"{KEY}\"]\n{lines}");
    open_store_of_proxies(&sealed)
}

/// The store that these lines of `[store]` describe, and nothing else.
pub(crate) fn open_store_of_proxies(lines: &str) -> RedisStore {
    let text = format!(
        "[application.a]\nclient_id = \"a\"\n[identity.i]\njwt = \"j\"\n[store]\n{lines}\n"
    );
    let loaded = Settings::load(&ConfigSource::Text(text), Overrides::default(), &|_| None);
    match loaded.unwrap().0.store {
        StoreSettings::Redis { server, seal } => RedisStore::open(&server, seal).unwrap(),
        other => panic!("{other:?}"),
    }
}

fn spawn(program: &str, files: &TempDir) -> Child {
    Command::new(program)
        .arg(files.path().join("server.conf"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}
