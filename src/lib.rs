//! Ringbearer: a transparent authenticating reverse proxy for the RingCentral API.

pub mod cli;
pub mod clock;
mod config;
pub mod secret;
pub mod settings;
pub mod telemetry;
pub mod token;
