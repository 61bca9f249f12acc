//! Everything that needs sockets: one binary, a module per subject.

mod connections;
mod fidelity;
mod framing;
mod main_path;
mod replay;
mod sandbox_api;
mod sandbox_faults;
mod sandbox_oauth;
mod sandbox_support;
mod sandbox_wire;
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
#[allow(dead_code, reason = "each subject uses its part")]
mod wire;
