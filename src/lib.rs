//! Ringbearer: a transparent authenticating reverse proxy for the RingCentral API.

pub mod cli;
pub mod clock;
pub mod config;
pub mod oauth;
pub mod secret;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod token;
