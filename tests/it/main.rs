//! Everything that needs sockets: one binary, a module per subject.

mod commands;
mod main_path;
mod readme;
mod sandbox_api;
mod sandbox_faults;
mod sandbox_oauth;
mod sandbox_support;
mod sandbox_wire;
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
mod tokens;
