//! The system's limit on open files, which most systems set far below what a proxy needs.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

use crate::settings::Settings;

/// Listeners, the store, logs.
const BESIDE_CONNECTIONS: u64 = 256;

/// Raises the limit as far as this process may, and warns if that is not even enough for the clients
/// of `proxy.max_connections`.
pub(super) fn raise(settings: &Settings) {
    let limit = getrlimit(Resource::Nofile);
    let wanted = wanted(settings.proxy.limits.max_connections);
    let to = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if limit.current.is_some_and(|current| current < to) {
        let raised = Rlimit { current: Some(to), maximum: limit.maximum };
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => debug!(to, "the limit on open files is raised"),
            Err(error) => warn!(%error, "the limit on open files could not be raised"),
        }
    }
    // Idle clients have no second connection, so only what is less than the first ones is worth a word.
    let least = settings.proxy.limits.max_connections as u64 + BESIDE_CONNECTIONS;
    if to < least {
        warn!(
            limit = to,
            least, "the system allows too few open files for proxy.max_connections: raise it"
        );
    }
}

/// One file for each client, and one for its connection to RingCentral.
fn wanted(max_connections: usize) -> u64 {
    2 * max_connections as u64 + BESIDE_CONNECTIONS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_may_need_a_second_connection() {
        assert_eq!(wanted(10_000), 20_256);
    }
}
