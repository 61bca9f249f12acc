//! Everything that needs sockets: one binary, a module per subject.

mod admin;
mod clients;
mod commands;
mod connections;
mod crash;
mod drain;
mod fidelity;
mod framing;
mod herd;
mod http2;
mod identities;
mod lifecycle_errors;
mod main_path;
mod process;
mod program;
mod readme;
mod redis;
mod redis_server;
mod renewal;
mod replay;
mod replicas;
mod sandbox_api;
mod sandbox_faults;
mod sandbox_oauth;
mod sandbox_support;
mod sandbox_wire;
mod status;
mod streaming;
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
mod tokens;
#[allow(dead_code, reason = "each subject uses its part")]
mod wire;
