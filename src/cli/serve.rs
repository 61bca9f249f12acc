//! `serve`: run the proxy until it is told to end.

use std::fmt::{self, Display};
use std::future::pending;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use super::reign::{Reading, Reign};
use super::{Failure, open_files};
use crate::clock::Clock;
use crate::secret::Environment;
use crate::server::Passed;
use crate::service::{Service, StartError};
use crate::settings::{ConfigSource, Overrides, Settings, Warning};
use crate::telemetry;

mod supervisor;

use supervisor::Supervisor;

pub(super) fn run(
    settings: &Settings,
    warnings: &[Warning],
    source: &ConfigSource,
    overrides: Overrides,
    environment: Environment<'_>,
) -> Result<(), Failure> {
    telemetry::start(&settings.log);
    announce(settings, source);
    open_files::raise(settings);
    for warning in warnings {
        warn!("{warning}");
    }
    let clock = Clock::system();
    let passed = Passed::from_environment().map_err(StartError::from)?;
    runtime()?.block_on(async {
        let signals = Signals::listen()?;
        let service = Service::start_on(settings, &clock, passed)?;
        tell_where(&service, settings);
        let supervisor = Supervisor::of(environment);
        supervisor.ready(&addresses(&service, scheme(settings)));
        let reading = Reading { source, overrides, environment };
        let reign = Reign::new(service, settings, reading, clock);
        tokio::select! {
            ended = reign.until_asked_to_end(signals, || supervisor.stopping()) => ended,
            () = supervisor.show_life() => unreachable!("it never returns"),
        }
    })
}

fn tell_where(service: &Service, settings: &Settings) {
    let scheme = scheme(settings);
    for address in service.addresses() {
        info!(url = %format_args!("{scheme}://{address}"), "listening");
    }
    for path in service.sockets() {
        info!(url = %format_args!("unix:{}", path.display()), "listening");
    }
    for path in service.admin_sockets() {
        info!(url = %format_args!("unix:{}", path.display()), "operators are served");
    }
    for address in service.admin_addresses() {
        info!(url = %format_args!("http://{address}"), "operators are served");
    }
}

/// Whoever reads the log at night has neither the command line nor the file at hand.
fn announce(settings: &Settings, source: &ConfigSource) {
    info!(
        version = env!("CARGO_PKG_VERSION"),
        configuration = %Origin(source),
        upstream = %settings.upstream.origin,
        identities = %Names(settings),
        store = %settings.store,
        "starting"
    );
}

const fn scheme(settings: &Settings) -> &'static str {
    if settings.proxy.tls.is_some() { "https" } else { "http" }
}

/// Where it listens, for a line of text.
fn addresses(service: &Service, scheme: &str) -> String {
    let urls = service.addresses().iter().map(|address| format!("{scheme}://{address}"));
    urls.collect::<Vec<_>>().join(", ")
}

/// Serves until a signal, then ends in the order that loses nothing; at once on a second signal.
/// Calls `draining` in between.
pub(super) async fn until_asked_to_end(
    service: Service,
    draining: impl FnOnce(),
) -> Result<(), Failure> {
    let mut signals = Signals::listen()?;
    let signal = signals.end().await;
    draining();
    info!(signal, "draining: what is under way is finished; once more to end at once");
    tokio::select! {
        () = service.stop() => {}
        _ = signals.end() => return Err(Failure::Cut),
    }
    info!("ended");
    Ok(())
}

/// The control thread's runtime: keepers and signals, no requests.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)
}

/// The signals that a proxy heeds, listened for from one end of its life to the other: one that came
/// while nobody listened would be lost.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    pub(super) fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(Failure::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hang_up: listen(SignalKind::hangup())?,
        })
    }

    /// Returns on SIGTERM or SIGINT, with its name.
    pub(super) async fn end(&mut self) -> &'static str {
        tokio::select! {
            Some(()) = self.terminate.recv() => "SIGTERM",
            Some(()) = self.interrupt.recv() => "SIGINT",
            else => pending().await,
        }
    }

    /// The same, and on SIGHUP.
    pub(super) async fn any(&mut self) -> Asked {
        let Self { terminate, interrupt, hang_up } = self;
        tokio::select! {
            biased;
            Some(()) = terminate.recv() => Asked::ToEnd("SIGTERM"),
            Some(()) = interrupt.recv() => Asked::ToEnd("SIGINT"),
            Some(()) = hang_up.recv() => Asked::ToReload,
            else => pending().await,
        }
    }
}

/// What a signal asks for.
pub(super) enum Asked {
    ToEnd(&'static str),
    ToReload,
}

/// Where the configuration came from.
struct Origin<'a>(&'a ConfigSource);

impl Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ConfigSource::File(path) => path.display().fmt(f),
            ConfigSource::Text(_) => f.write_str("built in"),
            ConfigSource::Environment => f.write_str("environment variables"),
        }
    }
}

/// The identities' names, as many as a line bears.
struct Names<'a>(&'a Settings);

impl Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        let identities = &self.0.identities;
        if identities.is_empty() {
            return f.write_str("none");
        }
        for (index, identity) in identities.iter().take(SHOWN).enumerate() {
            write!(f, "{}{}", if index > 0 { ", " } else { "" }, identity.name)?;
        }
        match identities.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}
