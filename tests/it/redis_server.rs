//! A real Redis server in a directory of its own. It is killed when it is dropped.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::has_program;

pub(crate) struct RedisServer {
    child: Child,
    port: u16,
    files: TempDir,
}

impl RedisServer {
    /// `None` where there is no Redis, and need not be one.
    pub(crate) async fn start() -> Option<Self> {
        if !has_program("redis-server", "apt-get install redis-server") {
            return None;
        }
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let files = TempDir::new().unwrap();
        let mut server = Self { child: spawn(port, &files), port, files };
        server.answers().await;
        Some(server)
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

    /// Dies, and comes back with what it had synced.
    pub(crate) async fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.port, &self.files);
        self.answers().await;
    }

    /// Runs one command.
    pub(crate) async fn run(&self, command: &[&str]) {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let mut all = redis::cmd(command[0]);
        all.arg(&command[1..]);
        all.query_async::<redis::Value>(&mut connection).await.unwrap();
    }

    async fn answers(&mut self) {
        while tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_err() {
            assert!(self.child.try_wait().unwrap().is_none(), "redis-server has ended");
            tokio::task::yield_now().await;
        }
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

fn spawn(port: u16, files: &TempDir) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "yes", "--appendfsync", "always"])
        .arg("--dir")
        .arg(files.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}
