//! The side that operators and monitoring talk to: health, readiness, metrics, identities, and a page
//! that shows them.
//!
//! A listener of its own on the control thread, so that no probe competes with requests and no app
//! reaches it by accident. It refuses web pages (threats 33 and 37), and changes without the key. It
//! stays until everything else has ended: while the proxy drains, readiness says so.

mod access;
mod content;
mod desk;
mod error;
mod figures;
mod health;
mod observer;
mod page;
mod readiness;
mod state;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::select_all;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, warn};

use crate::clock::Clock;
use crate::metrics::traffic::Traffic;
use crate::proxy::body::ReplayMemory;
use crate::settings::AdminSettings;
use crate::token::identities::Identities;
use access::Gate;
use desk::Desk;

/// How long a request head may take, and how long a connection may idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// More than probes, Prometheus and some operators need.
const MOST_CONNECTIONS: usize = 64;

/// How long the end waits for answers under way.
const LINGER: Duration = Duration::from_secs(2);

/// No head comes near it.
const BUFFER: usize = 16 * 1024;

/// Why the admin listener did not start.
#[derive(Debug, thiserror::Error)]
pub enum AdminStartError {
    /// Somebody else has the port.
    #[error("{0} is in use: end the process that has it, or choose another admin.listen")]
    InUse(SocketAddr),
    /// Anything else.
    #[error("cannot listen on {address} (admin.listen)")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
    Ended,
}

/// What it tells of the worker threads.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What they count.
    pub traffic: Arc<Traffic>,
    /// The memory of requests that are kept for a replay.
    pub replay_memory: ReplayMemory,
}

/// A running admin listener.
#[derive(Debug)]
pub struct Admin {
    addresses: Vec<SocketAddr>,
    phase: watch::Sender<Phase>,
    serving: JoinHandle<()>,
}

impl Admin {
    /// Binds every address and serves. Wants to be called on a tokio runtime, which has to keep
    /// running.
    pub fn start(
        settings: &AdminSettings,
        identities: &Arc<Identities>,
        watched: Watched,
        clock: &Clock,
    ) -> Result<Self, AdminStartError> {
        let (mut addresses, mut listeners) = (Vec::new(), Vec::new());
        for &address in &settings.listen {
            let listener = bind(address).map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => AdminStartError::InUse(address),
                _ => AdminStartError::Bind { address, source },
            })?;
            addresses.push(listener.local_addr().unwrap_or(address));
            listeners.push(listener);
        }
        let phase = watch::Sender::new(Phase::Serving);
        let gate = Gate::new(settings);
        let identities = Arc::clone(identities);
        let desk = Desk::new(identities, watched, gate, clock.clone(), phase.subscribe());
        let serving = tokio::spawn(serve(Arc::new(desk), listeners, phase.subscribe()));
        Ok(Self { addresses, phase, serving })
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// From now on readiness says that the proxy is ending.
    pub fn drain(&self) {
        self.phase.send_replace(Phase::Draining);
    }

    /// Finishes the answers under way, within a bound, and ends.
    ///
    /// # Panics
    /// If a task of its own did.
    pub async fn stop(self) {
        self.phase.send_replace(Phase::Ended);
        self.serving.await.expect("the admin listener does not panic");
    }
}

fn bind(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

async fn serve(
    desk: Arc<Desk>,
    listeners: Vec<tokio::net::TcpListener>,
    phase: watch::Receiver<Phase>,
) {
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    let mut watching = pin!(desk.watch());
    let mut ended = pin!(ended(phase.clone()));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("it is never closed");
            let accepting = listeners.iter().map(|listener| Box::pin(listener.accept()));
            (select_all(accepting).await.0, place)
        };
        tokio::select! {
            biased;
            () = &mut ended => break,
            Some(ended) = connections.join_next() => ended.expect("an answer does not panic"),
            (accepted, place) = accepted => match accepted {
                Ok((stream, _)) => {
                    let (desk, phase) = (Arc::clone(&desk), phase.clone());
                    connections.spawn(async move {
                        converse(desk, stream, phase).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "an admin connection could not be accepted");
                    desk.pause().await;
                }
            },
            () = &mut watching => unreachable!("it never returns"),
        }
    }
    let gone = async {
        while let Some(ended) = connections.join_next().await {
            ended.expect("an answer does not panic");
        }
    };
    tokio::select! {
        () = gone => {}
        () = desk.clock().sleep(LINGER) => debug!("admin connections are cut"),
        () = &mut watching => unreachable!("it never returns"),
    }
}

/// Returns at the end; also if nobody is left who could order it.
async fn ended(mut phase: watch::Receiver<Phase>) {
    let _ = phase.wait_for(|phase| *phase == Phase::Ended).await;
}

async fn converse(desk: Arc<Desk>, stream: TcpStream, phase: watch::Receiver<Phase>) {
    let Ok(local) = stream.local_addr() else { return };
    let service = service_fn(|request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(request, local).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_PATIENCE).max_buf_size(BUFFER);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let result = tokio::select! {
        result = &mut connection => result,
        () = ended(phase) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        debug!(%error, "an admin connection ended");
    }
}
