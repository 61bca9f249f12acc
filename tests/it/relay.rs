//! A TCP relay in front of the token endpoint that can hold one connection at a chosen point, so
//! that a test can stop a process exactly there.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where a connection is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    /// It is accepted, and nothing passes. Over TLS, no request can be sent then.
    Accepted,
    /// What the client sends passes, and no answer does.
    Sent,
}

/// The relay. It ends when it is dropped.
pub(crate) struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    next: Mutex<Option<Gate>>,
    seen: watch::Sender<Seen>,
    open: watch::Sender<bool>,
}

/// What the relay has seen of connections that were held.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    held: bool,
    /// The client has closed the held connection, having read all.
    closed: bool,
}

impl Relay {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (next, seen, open) = Default::default();
        let shared = Arc::new(Shared { next, seen, open });
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                loop {
                    let (client, _) = listener.accept().await.unwrap();
                    tokio::spawn(relay(client, server, Arc::clone(&shared)));
                }
            }
        });
        Self { address, shared, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection, and no other, is held at `gate`.
    pub(crate) fn hold_next(&self, gate: Gate) {
        self.shared.seen.send_replace(Seen::default());
        self.shared.open.send_replace(false);
        *self.shared.next.lock().unwrap() = Some(gate);
    }

    /// Waits until a connection is held.
    pub(crate) async fn holds(&self) {
        self.shared.seen.subscribe().wait_for(|seen| seen.held).await.unwrap();
    }

    /// Lets the held connection go on.
    pub(crate) fn release(&self) {
        self.shared.open.send_replace(true);
    }

    /// Waits until the client has closed the connection that was held.
    pub(crate) async fn closed(&self) {
        self.shared.seen.subscribe().wait_for(|seen| seen.closed).await.unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Carries one connection. Either side may break off at any time, which ends it.
async fn relay(client: TcpStream, server: SocketAddr, shared: Arc<Shared>) {
    let gate = shared.next.lock().unwrap().take();
    let mut open = shared.open.subscribe();
    if gate.is_some() {
        shared.seen.send_modify(|seen| seen.held = true);
    }
    if gate == Some(Gate::Accepted) {
        open.wait_for(|open| *open).await.unwrap();
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let up = async {
        let _ = copy(&mut from_client, &mut to_server).await;
        if gate.is_some() {
            shared.seen.send_modify(|seen| seen.closed = true);
        }
        let _ = to_server.shutdown().await;
    };
    let down = async {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = from_server.read(&mut chunk).await {
            if gate == Some(Gate::Sent) {
                open.wait_for(|open| *open).await.unwrap();
            }
            if to_client.write_all(&chunk[..length]).await.is_err() {
                return;
            }
        }
        let _ = to_client.shutdown().await;
    };
    tokio::join!(up, down);
}
