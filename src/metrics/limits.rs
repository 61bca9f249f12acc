//! How often each limit was reached, and how many connections there are.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// A limit that a client, or RingCentral, may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `proxy.max_connections`.
    Connections,
    /// `proxy.handshake_timeout`.
    Handshake,
    /// `proxy.request_head_timeout`.
    RequestHead,
    /// `proxy.client_idle_timeout`.
    Idle,
    /// `proxy.max_request_bytes`.
    RequestBytes,
    /// `proxy.client_stall_timeout`, while a client sends.
    RequestStall,
    /// The same, while it takes an answer.
    AnswerStall,
    /// `proxy.max_in_flight`.
    InFlight,
    /// `proxy.max_replay_bytes`, where it kept a 401 from being replayed.
    ReplayBytes,
    /// `proxy.replay_memory`, likewise.
    ReplayMemory,
    /// `upstream.max_connections`.
    UpstreamConnections,
    /// `upstream.stall_timeout`.
    UpstreamStall,
}

impl Limit {
    /// Each of them.
    pub const ALL: [Self; 12] = [
        Self::Connections,
        Self::Handshake,
        Self::RequestHead,
        Self::Idle,
        Self::RequestBytes,
        Self::RequestStall,
        Self::AnswerStall,
        Self::InFlight,
        Self::ReplayBytes,
        Self::ReplayMemory,
        Self::UpstreamConnections,
        Self::UpstreamStall,
    ];

    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Handshake => "handshake",
            Self::RequestHead => "request_head",
            Self::Idle => "idle",
            Self::RequestBytes => "request_bytes",
            Self::RequestStall => "request_stall",
            Self::AnswerStall => "answer_stall",
            Self::InFlight => "in_flight",
            Self::ReplayBytes => "replay_bytes",
            Self::ReplayMemory => "replay_memory",
            Self::UpstreamConnections => "upstream_connections",
            Self::UpstreamStall => "upstream_stall",
        }
    }
}

/// What the worker threads tell of their limits.
#[derive(Debug, Default)]
pub struct Meters {
    reached: [AtomicU64; Limit::ALL.len()],
    /// Client connections that are open now.
    pub(crate) connections: AtomicUsize,
}

impl Meters {
    /// A limit was reached once more.
    pub fn count(&self, limit: Limit) {
        self.reached[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How often it was since the start.
    pub fn get(&self, limit: Limit) -> u64 {
        self.reached[limit as usize].load(Ordering::Relaxed)
    }

    /// How many client connections are open.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_counted_apart_and_has_a_label_of_its_own() {
        let meters = Meters::default();
        for (times, limit) in Limit::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| meters.count(limit));
        }
        assert_eq!(Limit::ALL.map(|limit| meters.get(limit)), std::array::from_fn(|n| n as u64));
        let mut labels = Limit::ALL.map(Limit::as_str).to_vec();
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Limit::ALL.len());
    }
}
