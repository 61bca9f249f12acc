//! Everything that needs sockets: one binary, a module per subject.

mod commands;
mod crash;
mod herd;
mod identities;
mod lifecycle_errors;
mod main_path;
mod process;
mod readme;
mod renewal;
mod sandbox_api;
mod sandbox_faults;
mod sandbox_oauth;
mod sandbox_support;
mod sandbox_wire;
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
mod tokens;
