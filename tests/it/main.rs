//! Everything that needs sockets: one binary, a module per subject.

mod clients;
mod connections;
mod drain;
mod fidelity;
mod framing;
mod http2;
mod main_path;
mod program;
mod replay;
mod sandbox_api;
mod sandbox_faults;
mod sandbox_oauth;
mod sandbox_support;
mod sandbox_wire;
mod streaming;
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
#[allow(dead_code, reason = "each subject uses its part")]
mod wire;
