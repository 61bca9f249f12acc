//! Ringbearer: a transparent authenticating reverse proxy for the RingCentral API.

pub mod cli;
pub mod clock;
mod config;
pub mod oauth;
pub mod proxy;
pub mod sandbox;
pub mod secret;
pub mod server;
pub mod service;
pub mod settings;
pub mod store;
pub mod telemetry;
pub mod timers;
pub mod token;
pub mod upstream;
