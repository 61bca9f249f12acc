//! Sockets in: listeners, one runtime per core, and a graceful end.
//!
//! Every worker thread has its own listening socket (`SO_REUSEPORT`), runtime and [`Proxy`], so that
//! a request never crosses threads. [`Server::stop`] drains: for a moment new connections are still
//! taken and every answer says `Connection: close`, so that clients go by themselves; then idle
//! connections are closed and requests in flight finish.
//!
//! [`Proxy`]: crate::proxy::Proxy

mod connection;
mod listen;
mod tls;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

use rustls::ClientConfig;
use tokio::sync::{oneshot, watch};

pub use listen::ListenError;
pub use tls::TlsFilesError;

use crate::clock::Clock;
use crate::metrics::traffic::Traffic;
use crate::proxy::body::{KeepLimit, ReplayMemory};
use crate::proxy::cors::Cors;
use crate::proxy::facade::Facade;
use crate::proxy::hostnames::Hostnames;
use crate::proxy::selection::Selection;
use crate::proxy::{Admission, Audience, Entry, Limits, Links, Names};
use crate::settings::{ProxySettings, Settings};
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
    phase: watch::Sender<Phase>,
    workers: Vec<Running>,
    traffic: Arc<Traffic>,
    replay_memory: ReplayMemory,
}

#[derive(Debug)]
struct Running {
    thread: thread::JoinHandle<()>,
    ended: oneshot::Receiver<()>,
}

impl Server {
    /// Binds every address and starts the workers. `tls` is for connections to RingCentral.
    pub fn start(
        settings: &Settings,
        identities: &Arc<Identities>,
        tls: &Arc<ClientConfig>,
        #[cfg(feature = "otlp")] tracer: Option<crate::trace::Tracer>,
        clock: &Clock,
    ) -> Result<Self, ServerError> {
        let admission = Arc::new(admission(settings));
        let traffic = Traffic::new(settings.proxy.workers.get(), settings.identities.len());
        let traffic = Arc::new(traffic);
        let limits = limits(&settings.proxy);
        let replay_memory = limits.keep.memory.clone();
        let blueprint = Blueprint {
            upstream: settings.upstream.clone(),
            tls: Arc::clone(tls),
            identities: Arc::clone(identities),
            limits,
            names: Names::new(format!("ringbearer-{:08x}", fastrand::u32(..))),
            admission: Arc::clone(&admission),
            inbound_tls: settings.proxy.tls.as_ref().map(tls::acceptor).transpose()?,
            h2c: settings.proxy.h2c,
            client_idle_timeout: settings.proxy.client_idle_timeout,
            drain_timeout: settings.proxy.drain_timeout,
            links: Links {
                are_rewritten: settings.proxy.rewrite_links,
                public_url: settings.proxy.public_url.clone(),
                tls: settings.proxy.tls.is_some(),
            },
            audience: Audience {
                tally: Arc::clone(traffic.tally(0)),
                log: settings.log.requests,
                #[cfg(feature = "otlp")]
                tracer,
            },
            clock: clock.clone(),
        };
        let entrances = entrances(settings, identities, &admission.hosts);
        let (addresses, entries): (Vec<_>, Vec<_>) = entrances.unzip();
        let sockets = listen::bind(&addresses, settings.proxy.workers)?;
        let phase = watch::Sender::new(Phase::Serving);
        let spawn = |(index, listeners): (usize, Vec<_>)| {
            let entrances = listeners.into_iter().zip(entries.iter().copied());
            let entrances = entrances.map(|(listener, entry)| Entrance { listener, entry });
            let entrances = entrances.collect();
            let (mut blueprint, phase) = (blueprint.clone(), phase.subscribe());
            blueprint.audience.tally = Arc::clone(traffic.tally(index));
            let (at_end, ended) = oneshot::channel();
            let run = move || {
                Worker::run(blueprint, entrances, phase);
                drop(at_end);
            };
            let name = format!("worker-{index}");
            let thread = thread::Builder::new().name(name).spawn(run);
            Ok(Running { thread: thread.map_err(ServerError::Thread)?, ended })
        };
        let workers = sockets.per_worker.into_iter().enumerate().map(spawn);
        let workers = workers.collect::<Result<_, ServerError>>()?;
        Ok(Self { addresses: sockets.addresses, phase, workers, traffic, replay_memory })
    }

    /// What its threads count.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// The memory of kept requests.
    pub const fn replay_memory(&self) -> &ReplayMemory {
        &self.replay_memory
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
        self.phase.send_replace(Phase::Draining);
        for worker in self.workers {
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
    all.map(|(address, identity)| (address, Entry { identity, is_guarded: hosts.guard(address) }))
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

fn limits(settings: &ProxySettings) -> Limits {
    let memory = ReplayMemory::new(settings.replay_memory);
    let keep = KeepLimit { max_bytes: settings.max_replay_bytes, memory };
    Limits {
        token_wait: settings.token_wait,
        keep,
        websocket_idle: settings.websocket_idle_timeout,
    }
}
