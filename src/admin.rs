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
pub mod reload;
mod resource;
mod state;

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::select_all;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, JoinSet};
use tracing::{debug, warn};

use crate::audit::AuditLog;
use crate::clock::Clock;
use crate::metrics::Reloads;
use crate::proxy::throttle::board::Board;
use crate::server::{Counters, Passed};
use crate::settings::AdminSettings;
use crate::socket_file::{SharedSocket, SocketError};
use crate::token::identities::Identities;
use access::Gate;
use desk::Desk;
use reload::Superior;

/// How long a request head may take, and how long a connection may idle.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

/// More than probes, Prometheus and some operators need.
const MOST_CONNECTIONS: usize = 64;

/// How long the end waits for answers under way.
const LINGER: Duration = Duration::from_secs(2);

/// No head comes near it.
const BUFFER: usize = 16 * 1024;

const THIS_MACHINE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

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
    /// A Unix socket.
    #[error("admin.listen: {0}")]
    Socket(#[from] SocketError),
}

/// What is counted elsewhere and shown here.
#[derive(Clone, Debug)]
pub struct Instruments {
    /// What the worker threads count.
    pub counters: Counters,
    /// How often certificates were read anew, if there are any.
    pub certificates: Option<Arc<Reloads>>,
    /// How often the configuration was read anew in this process.
    pub configuration: Arc<Reloads>,
    /// What became of the audit log's lines, which is where operations are noted, too.
    pub audit: AuditLog,
    /// RingCentral's limits, if they are kept.
    pub limits: Option<Arc<Board>>,
    /// Whether an operator wants requests to go elsewhere. A reload does not change that.
    pub is_drained: Arc<AtomicBool>,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
    Ended,
}

/// A running admin listener.
#[derive(Debug)]
pub struct Admin {
    addresses: Vec<SocketAddr>,
    /// As they were asked for, each with the socket, for a successor.
    sockets: Vec<(SocketAddr, TcpListener)>,
    files: Vec<SharedSocket>,
    phase: watch::Sender<Phase>,
    serving: JoinHandle<()>,
}

impl Admin {
    /// Binds every address, or takes it over from `predecessor`, and serves. Orders to reload go to
    /// `superior`. Wants to be called on a tokio runtime, which has to keep running.
    pub fn start(
        settings: &AdminSettings,
        identities: &Arc<Identities>,
        instruments: Instruments,
        clock: &Clock,
        superior: Superior,
        passed: &mut Passed,
        predecessor: Option<&Self>,
    ) -> Result<Self, AdminStartError> {
        let inherited = predecessor.map_or(&[][..], |admin| &admin.sockets);
        let (mut addresses, mut sockets, mut listeners) = (Vec::new(), Vec::new(), Vec::new());
        for &address in &settings.listen {
            let inherited = inherited.iter().find(|(wanted, _)| *wanted == address);
            let (socket, listener) = bind(address, inherited.map(|(_, socket)| socket), passed)
                .map_err(|source| match source.kind() {
                    io::ErrorKind::AddrInUse => AdminStartError::InUse(address),
                    _ => AdminStartError::Bind { address, source },
                })?;
            addresses.push(listener.local_addr().unwrap_or(address));
            sockets.push((address, socket));
            listeners.push(Door::Tcp(listener));
        }
        let mut files = Vec::new();
        for socket in &settings.sockets {
            let known = predecessor.map_or(&[][..], |admin| &admin.files);
            let file = SharedSocket::bind(socket, known)?;
            let listener = tokio::net::UnixListener::from_std(file.listener()?);
            let path = || socket.path.clone();
            let failed = |source| SocketError::Bind { path: path(), source };
            listeners.push(Door::Unix(listener.map_err(failed)?));
            files.push(file);
        }
        let phase = watch::Sender::new(Phase::Serving);
        let gate = Gate::new(settings);
        let identities = Arc::clone(identities);
        let desk =
            Desk::new(identities, instruments, gate, clock.clone(), phase.subscribe(), superior);
        let serving = tokio::spawn(serve(Arc::new(desk), listeners, phase.subscribe()));
        Ok(Self { addresses, sockets, files, phase, serving })
    }

    /// The Unix sockets where it listens.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(SharedSocket::path)
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

/// The socket, and the same once more to accept from.
fn bind(
    address: SocketAddr,
    inherited: Option<&TcpListener>,
    passed: &mut Passed,
) -> io::Result<(TcpListener, tokio::net::TcpListener)> {
    let socket = match (inherited, passed.take(address)?) {
        (Some(socket), _) => socket.try_clone()?,
        (None, Some(socket)) => socket,
        (None, None) => TcpListener::bind(address)?,
    };
    socket.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(socket.try_clone()?)?;
    Ok((socket, listener))
}

async fn serve(desk: Arc<Desk>, listeners: Vec<Door>, phase: watch::Receiver<Phase>) {
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
                Ok(arrival) => {
                    let (desk, phase) = (Arc::clone(&desk), phase.clone());
                    connections.spawn(async move {
                        greet(desk, arrival, phase).await;
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

/// Where somebody comes in.
enum Door {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

enum Arrival {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Door {
    async fn accept(&self) -> io::Result<Arrival> {
        Ok(match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Arrival::Tcp(stream, peer)
            }
            Self::Unix(listener) => Arrival::Unix(listener.accept().await?.0),
        })
    }
}

async fn greet(desk: Arc<Desk>, arrival: Arrival, phase: watch::Receiver<Phase>) {
    match arrival {
        Arrival::Tcp(stream, peer) => {
            let Ok(local) = stream.local_addr() else { return };
            converse(desk, stream, local, Some(peer), phase).await;
        }
        // It has no address, so it goes by that of this machine.
        Arrival::Unix(stream) => converse(desk, stream, THIS_MACHINE, None, phase).await,
    }
}

async fn converse(
    desk: Arc<Desk>,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    local: SocketAddr,
    peer: Option<SocketAddr>,
    phase: watch::Receiver<Phase>,
) {
    let service = service_fn(|request| {
        let desk = Arc::clone(&desk);
        async move { Ok::<_, Infallible>(desk.answer(request, local, peer).await) }
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
