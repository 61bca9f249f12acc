//! Everything that needs sockets: one binary, a module per subject.

mod admin;
mod attacks;
mod audit;
#[allow(dead_code, reason = "each subject uses its part")]
mod authority;
mod browsers;
mod canary;
mod chromium;
mod clients;
#[cfg(feature = "otlp")]
mod collector;
mod commands;
mod conformance;
mod connections;
mod crash;
mod detour;
mod doctor;
mod drain;
mod dumps;
mod exposition;
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
mod fuzzed;
mod guard;
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
mod manual;
mod metrics;
mod never_mixed;
mod outages;
mod outbound_tls;
mod packaging;
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
mod redirects;
mod redis;
mod redis_cluster;
mod redis_failover;
#[allow(dead_code, reason = "each subject uses its part")]
mod redis_server;
mod redis_tls;
mod registrar;
mod relay;
mod reload;
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
mod status_page;
mod stopped;
mod store_trouble;
mod streaming;
mod supervised;
#[allow(dead_code, reason = "each subject uses its part")]
mod support;
mod tap;
mod threats;
mod throttle;
mod throttle_reload;
mod throttle_shared;
mod token_errors;
mod tokens;
#[allow(dead_code, reason = "whoever collects traces uses the rest")]
mod traces;
mod transfer;
mod unix_sockets;
mod uploads;
#[allow(dead_code, reason = "each subject uses its part")]
mod wire;
