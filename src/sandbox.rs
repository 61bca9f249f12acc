//! A stand-in for RingCentral that behaves as RingCentral does, rule by rule.
//!
//! It issues and ends tokens, refuses what RingCentral refuses and in the same words, counts rate
//! limits, answers with the documented examples, and fails on order. Applications and the proxy
//! are developed and tested against it without an account and without a network.
//!
//! Three layers: pure rules (`session`, `oauth`, `codes`, `limits`, `routes`, `list`, `media`,
//! `send`, `fault`) that are given the time; `state`, which joins them behind one lock that no IO
//! holds; and the shells (`listen`, `visit`, `websocket`) that carry bytes. It shares nothing with
//! the proxy's own token code, so that one misreading cannot hide on both sides.
//!
//! It keeps no secrets: the tokens are worth nothing, and the log shows them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use http::Request;
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::clock::Clock;

mod api;
mod breakage;
mod codes;
mod consent;
mod control;
mod endpoints;
mod examples;
mod fault;
mod head;
mod limits;
mod list;
mod listen;
mod media;
mod mirror;
mod oauth;
mod prepared;
mod reply;
mod routes;
mod rules;
mod send;
mod session;
mod state;
mod surface;
mod tls;
mod upload;
mod visit;
mod websocket;

pub use control::Control;
pub use fault::{Fault, FaultKind, Garbage, Place};
pub use media::media_byte;
pub use rules::{Application, Rules, User};
pub use state::{Arrival, Counts};

/// Where a sandbox listens, and what it believes at the start.
#[derive(Clone, Debug)]
pub struct SandboxOptions {
    /// The time by which tokens live and die.
    pub clock: Clock,
    /// Where plain HTTP is served; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Where HTTPS is served, if at all.
    pub tls_listen: Option<SocketAddr>,
    /// Where the control surface is served, if at all.
    pub control_listen: Option<SocketAddr>,
    /// Lifetimes, limits, switches, credentials.
    pub rules: Rules,
    /// The origin that links lead to, instead of the one that the caller used.
    pub public_base: Option<String>,
}

impl Default for SandboxOptions {
    /// Plain HTTP on any free loopback port, by the machine's clock and RingCentral's rules.
    fn default() -> Self {
        Self {
            clock: Clock::system(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls_listen: None,
            control_listen: None,
            rules: Rules::default(),
            public_base: None,
        }
    }
}

/// Why a sandbox does not start.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// Somebody else has the port.
    #[error(
        "{0} is in use: end the process that has it, or choose another with --listen, --tls-listen \
         or --control"
    )]
    InUse(SocketAddr),
    /// An address cannot be listened on.
    #[error("the sandbox cannot listen on {address}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The certificates of the HTTPS listener cannot be made.
    #[error("the sandbox cannot make its certificates")]
    Certificate(#[from] rcgen::Error),
    /// The HTTPS listener cannot be configured.
    #[error("the sandbox cannot set up TLS")]
    Tls(#[from] rustls::Error),
    /// The authority's certificate cannot be written.
    #[error("the sandbox cannot write its CA certificate to {}", file.display())]
    CaFile {
        /// The file that was asked for.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The URLs cannot be printed.
    #[error("the sandbox cannot print where it listens")]
    Print(#[source] io::Error),
}

/// A running sandbox. It ends when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    tls: Option<(SocketAddr, String)>,
    control_address: Option<SocketAddr>,
    control: Control,
    listeners: Listeners,
}

impl Sandbox {
    /// Binds all addresses and serves them on the current tokio runtime.
    pub async fn start(options: SandboxOptions) -> Result<Self, SandboxError> {
        let control = Control::new(options.rules, options.clock);
        let site = Arc::new(visit::Site::new(control.clone(), options.public_base));
        let mut listeners = Listeners::default();
        let (listener, address) = bind(options.listen).await?;
        listeners.spawn(listen::accept(listener, None, Face(site.clone())));
        let mut tls = None;
        if let Some(wanted) = options.tls_listen {
            let identity = tls::Identity::make()?;
            let (listener, address) = bind(wanted).await?;
            listeners.spawn(listen::accept(listener, Some(identity.acceptor), Face(site)));
            tls = Some((address, identity.ca_pem));
        }
        let mut control_address = None;
        if let Some(wanted) = options.control_listen {
            let (listener, address) = bind(wanted).await?;
            listeners.spawn(listen::accept(listener, None, Levers(control.clone())));
            control_address = Some(address);
        }
        Ok(Self { address, tls, control_address, control, listeners })
    }

    /// The origin of the plain listener: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The origin of the TLS listener, by the name in its certificate: `https://localhost:PORT`.
    pub fn tls_url(&self) -> Option<String> {
        self.tls.as_ref().map(|(address, _)| format!("https://localhost:{}", address.port()))
    }

    /// The certificate that a client of [`Sandbox::tls_url`] has to trust.
    pub fn ca_pem(&self) -> Option<&str> {
        self.tls.as_ref().map(|(_, pem)| pem.as_str())
    }

    /// The origin of the control surface.
    pub fn control_url(&self) -> Option<String> {
        self.control_address.map(|address| format!("http://{address}"))
    }

    /// The levers, for tests in the same process.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Ends every listener and connection, and passes on the panic of any that panicked.
    pub async fn stop(self) {
        let Self { mut listeners, .. } = self;
        listeners.abort();
        for listener in std::mem::take(&mut listeners.0) {
            listen::pass_panic_on(listener.await);
        }
    }
}

/// The tasks of the listeners, which own those of their connections.
#[derive(Debug, Default)]
struct Listeners(Vec<JoinHandle<()>>);

impl Listeners {
    fn spawn(&mut self, listener: impl Future<Output = ()> + Send + 'static) {
        self.0.push(tokio::spawn(listener));
    }

    fn abort(&self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.abort();
    }
}

/// The face towards applications.
#[derive(Clone)]
struct Face(Arc<visit::Site>);

impl listen::Host for Face {
    fn came(&self) -> u64 {
        self.0.control.change(|state, _| {
            state.counts.connections_accepted += 1;
            state.counts.connections_open += 1;
            state.counts.connections_accepted
        })
    }

    fn went(&self) {
        self.0.control.change(|state, _| state.counts.connections_open -= 1);
    }

    async fn answer(&self, link: Arc<listen::Link>, request: Request<Incoming>) -> reply::Reply {
        visit::visit(self.0.clone(), link, request).await
    }
}

/// The face towards whoever runs the sandbox.
#[derive(Clone)]
struct Levers(Control);

impl listen::Host for Levers {
    fn came(&self) -> u64 {
        0
    }

    fn went(&self) {}

    async fn answer(&self, _: Arc<listen::Link>, request: Request<Incoming>) -> reply::Reply {
        let (parts, body) = request.into_parts();
        let content = upload::read(body).await.map(|upload| upload.head).unwrap_or_default();
        surface::answer(&self.0, parts.method.as_str(), parts.uri.path(), &content)
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), SandboxError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => SandboxError::InUse(address),
        _ => SandboxError::Listen { address, source },
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}
