//! Ringbearer: a transparent authenticating reverse proxy for the RingCentral API.

/// The commands.
pub mod cli {
    pub mod sandbox;
}
pub mod clock;
pub mod sandbox;
pub mod secret;
pub mod settings;
pub mod token;
