//! Everything that needs sockets: one binary, a module per subject.

mod admin;
#[allow(dead_code, reason = "each subject uses its part")]
mod authority;
mod browsers;
mod chromium;
mod clients;
mod commands;
mod conformance;
mod connections;
mod crash;
mod detour;
mod drain;
mod facade;
mod fallback;
mod fidelity;
mod fleet;
mod floods;
mod foreign;
#[allow(dead_code, reason = "each subject uses its part")]
mod forwarder;
#[allow(dead_code, reason = "each subject uses its part")]
mod frames;
mod framing;
mod herd;
mod hosts;
mod http2;
mod identities;
mod inbound_tls;
mod lifecycle_errors;
mod limits;
mod links;
mod login;
mod login_site;
mod main_path;
mod malformed;
mod never_mixed;
mod outages;
mod outbound_tls;
mod pages;
mod paths;
mod peers;
mod policy;
mod process;
mod processes;
mod program;
mod random_requests;
mod raw;
mod readme;
mod redis;
mod redis_cluster;
mod redis_failover;
#[allow(dead_code, reason = "each subject uses its part")]
mod redis_server;
mod redis_tls;
mod registrar;
mod relay;
mod renewal;
mod replay;
mod replicas;
mod run;
mod sandbox_api;
mod sandbox_faults;
mod sandbox_oauth;
mod sandbox_support;
mod sandbox_wire;
mod script;
mod selection;
mod slow;
mod status;
mod stopped;
mod store_trouble;
mod streaming;
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
mod tap;
mod token_errors;
mod tokens;
mod transfer;
mod unix_sockets;
mod uploads;
#[allow(dead_code, reason = "each subject uses its part")]
mod wire;
