//! Everything that needs sockets: one binary, a module per subject.

mod clients;
mod commands;
mod connections;
mod crash;
mod drain;
mod facade;
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
mod run;
mod sandbox_api;
mod sandbox_faults;
mod sandbox_oauth;
mod sandbox_support;
mod sandbox_wire;
mod selection;
mod streaming;
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
mod tokens;
#[allow(dead_code, reason = "each subject uses its part")]
mod wire;
