//! Ringbearer: a transparent authenticating reverse proxy for the RingCentral API.

pub mod clock;
pub mod oauth;
pub mod secret;
pub mod settings;
pub mod store;
pub mod token;
