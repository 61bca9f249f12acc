//! Sockets in: listeners, one runtime per core, and a graceful end.
//!
//! Every worker thread has its own listening socket (`SO_REUSEPORT`; Unix sockets are shared), runtime
//! and [`Proxy`], so that a request never crosses threads. Who is at the other end of a connection, as
//! far as that itself tells, is found out when it is made and holds for its requests. [`Server::stop`] drains: for a moment new connections are still
//! taken and every answer says `Connection: close`, so that clients go by themselves; then idle
//! connections are closed and requests in flight finish. [`Server::retire`] does the same where a successor has taken the
//! listening sockets over, and cuts nothing.
//!
//! [`Proxy`]: crate::proxy::Proxy

mod activation;
mod answering;
mod arrival;
mod connection;
pub mod framing;
mod guard;
mod listen;
mod opening;
mod patience;
mod places;
mod seated;
mod subject;
mod tls;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::thread;

use rustls::ClientConfig;
use tokio::sync::{oneshot, watch};

pub use activation::{Passed, PassedError};
pub use listen::ListenError;
use listen::Sockets;
pub use tls::{InboundCertificates, TlsFilesError};

use crate::audit::AuditLog;
use crate::clock::Clock;
use crate::metrics::limits::Meters;
use crate::metrics::traffic::Traffic;
use crate::proxy::body::{KeepLimit, ReplayMemory};
use crate::proxy::cors::Cors;
use crate::proxy::facade::Facade;
use crate::proxy::hostnames::Hostnames;
use crate::proxy::malformed::MalformedCounts;
use crate::proxy::peers::Caller;
use crate::proxy::selection::Selection;
use crate::proxy::throttle::Throttle;
use crate::proxy::{Admission, Audience, Entry, Limits, Links, Names};
use crate::settings::Settings;
use crate::token::identities::Identities;
use worker::{Blueprint, Entrance, Phase, Worker};

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// `[proxy.tls]` is unusable.
    #[error(transparent)]
    Tls(#[from] TlsFilesError),
    /// The system gives no thread or no runtime.
    #[error("a worker thread could not be started")]
    Thread(#[source] io::Error),
}

/// Running worker threads.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<SocketAddr>,
    certificates: Option<InboundCertificates>,
    sockets: Sockets,
    phase: watch::Sender<Phase>,
    workers: Vec<Running>,
}

/// What the worker threads count, and how much they keep.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Requests that HTTP/1.1 does not know.
    pub malformed: Arc<MalformedCounts>,
    /// Everything else that they count.
    pub traffic: Arc<Traffic>,
    /// Limits that were reached, and how many clients are connected: their room is one for a proxy and
    /// its successors.
    pub meters: Arc<Meters>,
    /// The memory of requests that are kept for a replay.
    pub replay_memory: ReplayMemory,
}

impl Counters {
    /// Nothing yet. One server at a time counts with them.
    pub fn new(settings: &Settings) -> Self {
        let traffic = Traffic::new(settings.proxy.workers.get(), settings.identities.len());
        Self {
            malformed: Arc::default(),
            traffic: Arc::new(traffic),
            meters: Arc::default(),
            replay_memory: ReplayMemory::new(settings.proxy.replay_memory),
        }
    }

    /// For a successor of the server that counts with these for `identities`. The sums go on.
    #[must_use]
    pub fn succeed(&self, identities: &Identities, settings: &Settings) -> Self {
        let (workers, configured) = (settings.proxy.workers.get(), settings.identities.len());
        let all = identities.configured().chain(identities.added());
        let names = all.map(|(id, keeper)| (id.index(), keeper.name()));
        let cap = settings.proxy.replay_memory;
        let is_same = self.replay_memory.cap() == cap;
        Self {
            malformed: Arc::clone(&self.malformed),
            meters: Arc::clone(&self.meters),
            traffic: Arc::new(self.traffic.succeed(workers, configured, names)),
            replay_memory: if is_same {
                self.replay_memory.clone()
            } else {
                ReplayMemory::new(cap)
            },
        }
    }
}

/// What a server has from elsewhere.
#[derive(Clone, Debug)]
pub struct Parts {
    /// For whom it sends.
    pub identities: Arc<Identities>,
    /// For connections to RingCentral.
    pub tls: Arc<ClientConfig>,
    /// What apps are shown, if they speak TLS.
    pub certificates: Option<InboundCertificates>,
    /// RingCentral's limits, if they are kept.
    pub throttle: Option<Arc<Throttle>>,
    /// What it counts.
    pub counters: Counters,
    /// Where it is noted who did what.
    pub audit: AuditLog,
    /// Who traces.
    #[cfg(feature = "otlp")]
    pub tracer: Option<crate::trace::Tracer>,
    /// What it takes the time from.
    pub clock: Clock,
}

#[derive(Debug)]
struct Running {
    thread: thread::JoinHandle<()>,
    /// Ends when it has left its listeners to a successor.
    ceded: Option<oneshot::Receiver<()>>,
    ended: oneshot::Receiver<()>,
}

impl Server {
    /// Binds every address and starts the workers. Sockets that were `passed` and those that
    /// `predecessor` listens on are taken over; it goes on listening until it is stopped or retired.
    pub fn start(
        settings: &Settings,
        parts: &Parts,
        passed: &mut Passed,
        predecessor: Option<&Self>,
    ) -> Result<Self, ServerError> {
        let Parts { identities, counters, .. } = parts;
        let admission = Arc::new(admission(settings));
        let blueprint = Blueprint {
            upstream: settings.upstream.clone(),
            tls: Arc::clone(&parts.tls),
            identities: Arc::clone(identities),
            limits: limits(settings, counters),
            names: Names::new(format!("ringbearer-{:08x}", fastrand::u32(..))),
            admission: Arc::clone(&admission),
            throttle: parts.throttle.clone(),
            inbound_tls: parts.certificates.clone(),
            h2c: settings.proxy.h2c,
            client_idle_timeout: settings.proxy.client_idle_timeout,
            client_limits: settings.proxy.limits,
            meters: Arc::clone(&counters.meters),
            request_head_timeout: settings.proxy.request_head_timeout,
            malformed: Arc::clone(&counters.malformed),
            drain_timeout: settings.proxy.drain_timeout,
            links: Links {
                are_rewritten: settings.proxy.rewrite_links,
                public_url: settings.proxy.public_url.clone(),
            },
            audience: Audience {
                tally: Arc::clone(counters.traffic.tally(0)),
                log: settings.log.requests,
                audit: parts.audit.clone(),
                #[cfg(feature = "otlp")]
                tracer: parts.tracer.clone(),
            },
            clock: parts.clock.clone(),
        };
        let entrances = entrances(settings, identities, &admission.hosts);
        let (addresses, mut entries): (Vec<_>, Vec<_>) = entrances.unzip();
        entries.extend(socket_entries(settings, identities, &admission.hosts));
        let (files, count) = (&settings.proxy.sockets, settings.proxy.workers);
        let inherited = predecessor.map(|server| &server.sockets);
        let sockets = Sockets::bind(&addresses, files, count, passed, inherited)?;
        let phase = watch::Sender::new(Phase::Serving);
        let spawn = |(index, listeners): (usize, Vec<_>)| {
            let entrances = listeners.into_iter();
            let entrances =
                entrances.map(|(at, listener)| Entrance { listener, entry: entries[at] });
            let entrances = entrances.collect();
            let (mut blueprint, phase) = (blueprint.clone(), phase.subscribe());
            blueprint.audience.tally = Arc::clone(counters.traffic.tally(index));
            let (at_end, ended) = oneshot::channel();
            let (when_ceded, ceded) = oneshot::channel();
            let run = move || {
                Worker::run(blueprint, entrances, phase, when_ceded);
                drop(at_end);
            };
            let name = format!("worker-{index}");
            let thread = thread::Builder::new().name(name).spawn(run);
            Ok(Running { thread: thread.map_err(ServerError::Thread)?, ceded: Some(ceded), ended })
        };
        let workers = sockets.per_worker(count)?.into_iter().enumerate().map(spawn);
        let workers = workers.collect::<Result<_, ServerError>>()?;
        let certificates = parts.certificates.clone();
        Ok(Self { addresses: sockets.addresses(), sockets, certificates, phase, workers })
    }

    /// The Unix sockets where it listens.
    pub fn sockets(&self) -> impl Iterator<Item = &Path> {
        self.sockets.paths()
    }

    /// What apps are shown, if they speak TLS.
    pub fn certificates(&self) -> Option<&InboundCertificates> {
        self.certificates.as_ref()
    }

    /// Where it listens, with the ports that the system chose for port 0.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Takes no new work, finishes what has been accepted, and returns when all of it is done or
    /// `proxy.drain_timeout` is over.
    ///
    /// # Panics
    /// If a worker thread did.
    pub async fn stop(self) {
        drop(self.sockets);
        self.phase.send_replace(Phase::Draining);
        Self::ended(self.workers).await;
    }

    /// Leaves new connections to a successor, from now on.
    pub async fn cede(&mut self) {
        self.phase.send_replace(Phase::Retiring);
        for ceded in self.workers.iter_mut().filter_map(|worker| worker.ceded.take()) {
            // An error says that the sender is gone, which is what is waited for.
            let _ = ceded.await;
        }
    }

    /// Leaves new connections to a successor and returns when everything accepted has been answered,
    /// however long that takes; once `hasten` is over, [`stop`](Self::stop)s.
    ///
    /// # Panics
    /// If a worker thread did.
    pub async fn retire(self, hasten: impl Future<Output = ()>) {
        self.phase.send_replace(Phase::Retiring);
        drop(self.sockets);
        let mut ended = pin!(Self::ended(self.workers));
        tokio::select! {
            () = &mut ended => return,
            () = hasten => {}
        }
        self.phase.send_replace(Phase::Draining);
        ended.await;
    }

    async fn ended(workers: Vec<Running>) {
        for worker in workers {
            // An error says that the sender is gone, which is what is waited for.
            let _ = worker.ended.await;
            if let Err(panic) = worker.thread.join() {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

/// Where it listens, and what holds for whoever comes in there.
fn entrances<'a>(
    settings: &'a Settings,
    identities: &'a Identities,
    hosts: &'a Hostnames,
) -> impl Iterator<Item = (SocketAddr, Entry)> + 'a {
    let anybodys = settings.proxy.listen.iter().map(|address| (*address, None));
    let all = anybodys.chain(settings.identities.iter().flat_map(|identity| {
        let id = identities.find(&identity.name);
        identity.listen.iter().map(move |address| (*address, id))
    }));
    let tls = settings.proxy.tls.is_some();
    all.map(move |(address, identity)| {
        let is_guarded = hosts.guard(address);
        (address, Entry { identity, is_guarded, tls, peer: None, caller: Caller::Unknown })
    })
}

/// The same for Unix sockets, in their order.
fn socket_entries(
    settings: &Settings,
    identities: &Identities,
    hosts: &Hostnames,
) -> impl Iterator<Item = Entry> {
    settings.proxy.sockets.iter().map(|socket| Entry {
        identity: socket.identity.as_deref().and_then(|name| identities.find(name)),
        is_guarded: hosts.guard_sockets(),
        tls: false,
        peer: None,
        caller: Caller::Unknown,
    })
}

fn admission(settings: &Settings) -> Admission {
    let identities = settings.identities.iter().map(Arc::as_ref);
    Admission {
        selection: Selection::new(&settings.clients, identities),
        facade: Facade::new(settings.facade.clone()),
        hosts: Hostnames::new(settings),
        cors: Cors::new(&settings.proxy),
        policy: settings.policy.clone(),
    }
}

/// What holds for one worker thread. Threads share the memory for replays and nothing else: of the
/// rest, each has its part.
fn limits(Settings { proxy, upstream, .. }: &Settings, counters: &Counters) -> Limits {
    let keep = KeepLimit {
        max_bytes: proxy.max_replay_bytes,
        max_request_bytes: proxy.limits.max_request_bytes.unwrap_or(u64::MAX),
        memory: counters.replay_memory.clone(),
    };
    Limits {
        token_wait: proxy.token_wait,
        keep,
        websocket_idle: proxy.websocket_idle_timeout,
        in_flight: proxy.limits.max_in_flight.div_ceil(proxy.workers.get()),
        pace: proxy.limits.pace,
        upstream_connections: upstream.max_connections.div_ceil(proxy.workers.get()),
        meters: Arc::clone(&counters.meters),
    }
}
