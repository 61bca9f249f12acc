//! Everything that needs sockets: one binary, a module per subject.

mod sandbox_api;
mod sandbox_faults;
mod sandbox_oauth;
mod sandbox_support;
mod sandbox_wire;
mod tokens;
