//! A TCP relay that keeps what it carries, each way apart.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The relay. It ends when it is dropped.
pub(crate) struct Tap {
    address: SocketAddr,
    sent: Track,
    received: Track,
    task: JoinHandle<()>,
}

/// What every connection carried one way, as it passed.
#[derive(Clone, Default)]
pub(crate) struct Track(Arc<Mutex<Vec<Vec<u8>>>>);

impl Tap {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sent, received) = <(Track, Track)>::default();
        let tracks = (sent.clone(), received.clone());
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let (sent, received) = tracks.clone();
                tokio::spawn(relay(client, server, sent, received));
            }
        });
        Self { address, sent, received, task }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// By the client.
    pub(crate) const fn sent(&self) -> &Track {
        &self.sent
    }

    /// By the client.
    pub(crate) const fn received(&self) -> &Track {
        &self.received
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Track {
    /// Whether these words were carried, in whatever case.
    pub(crate) fn contains(&self, words: &str) -> bool {
        let found = |bytes: &Vec<u8>| {
            bytes.windows(words.len()).any(|here| here.eq_ignore_ascii_case(words.as_bytes()))
        };
        self.0.lock().unwrap().iter().any(found)
    }

    /// Carries one way of a connection until either side breaks off.
    async fn carry(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let number = {
            let mut connections = self.0.lock().unwrap();
            connections.push(Vec::new());
            connections.len() - 1
        };
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            self.0.lock().unwrap()[number].extend_from_slice(&buffer[..length]);
            if to.write_all(&buffer[..length]).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    }
}

/// Carries one connection.
async fn relay(client: TcpStream, server: SocketAddr, sent: Track, received: Track) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    tokio::join!(sent.carry(from_client, to_server), received.carry(from_server, to_client));
}
