//! `serve`: run the proxy.

use tracing::warn;

use super::Failure;
use crate::settings::{Settings, Warning};
use crate::telemetry;

pub(super) fn run(settings: &Settings, warnings: &[Warning]) -> Result<(), Failure> {
    telemetry::start(&settings.log);
    for warning in warnings {
        warn!("{warning}");
    }
    Err(Failure::NoServer)
}
