//! `serve`: run the proxy until it is told to end.

use std::future::pending;
use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use super::Failure;
use crate::clock::Clock;
use crate::service::Service;
use crate::settings::{Settings, Warning};
use crate::telemetry;

pub(super) fn run(settings: &Settings, warnings: &[Warning]) -> Result<(), Failure> {
    telemetry::start(&settings.log);
    for warning in warnings {
        warn!("{warning}");
    }
    runtime()?.block_on(async {
        let service = Service::start(settings, &Clock::system())?;
        for address in service.addresses() {
            let scheme = if settings.proxy.tls.is_some() { "https" } else { "http" };
            info!(url = %format_args!("{scheme}://{address}"), upstream = %settings.upstream.origin, "listening");
        }
        let signal = asked_to_end().await.map_err(Failure::Signals)?;
        info!(signal, "draining; once more to end at once");
        tokio::select! {
            () = service.stop() => {}
            _ = asked_to_end() => return Err(Failure::Cut),
        }
        info!("ended");
        Ok(())
    })
}

/// The control thread's runtime: keepers and signals, no requests.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Runtime)
}

/// Returns on SIGTERM or SIGINT, with its name.
pub(super) async fn asked_to_end() -> io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        Some(()) = terminate.recv() => Ok("SIGTERM"),
        Some(()) = interrupt.recv() => Ok("SIGINT"),
        else => pending().await,
    }
}
