//! Everything that needs sockets: one binary, a module per subject.

mod clients;
mod commands;
mod connections;
mod crash;
mod drain;
mod fidelity;
mod fleet;
#[allow(dead_code, reason = "each subject uses its part")]
mod forwarder;
mod framing;
mod herd;
mod http2;
mod identities;
mod lifecycle_errors;
mod main_path;
mod outages;
mod process;
mod program;
mod readme;
mod redis;
mod redis_cluster;
mod redis_failover;
#[allow(dead_code, reason = "each subject uses its part")]
mod redis_server;
mod redis_tls;
mod renewal;
mod replay;
mod replicas;
mod sandbox_api;
mod sandbox_faults;
mod sandbox_oauth;
mod sandbox_support;
mod sandbox_wire;
mod streaming;
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
mod tokens;
#[allow(dead_code, reason = "each subject uses its part")]
mod wire;
