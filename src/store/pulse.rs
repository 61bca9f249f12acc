//! How long a lease keeps others out, and whether it still does.
//!
//! A holder shows life every [`HEARTBEAT`]. Whoever wants the lease waits until none was shown for
//! [`LEASE`]. Where the holder cannot look who has it, it stops relying on it [`MARGIN`] earlier, so
//! that the two never overlap.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Stopwatch;

/// A lease lapses so long after its last extension.
///
/// Whoever is killed while it renews leaves its lease in Redis for so long, and whoever is stopped
/// in either store. A shorter one lapses under a holder that is only slow, which costs a second
/// token request.
pub(super) const LEASE: Duration = Duration::from_secs(6);
/// How often it is extended.
pub(super) const HEARTBEAT: Duration = Duration::from_millis(1500);
/// So long before it lapses, its holder does not rely on it any more.
const MARGIN: Duration = Duration::from_secs(2);

/// When a lease was last extended.
#[derive(Debug)]
pub(super) struct Pulse {
    watch: Stopwatch,
    /// When the last extension that succeeded was asked for, in milliseconds of `watch`.
    extended: AtomicU64,
}

impl Pulse {
    /// Of a lease that is about to be asked for.
    pub(super) fn start() -> Self {
        Self { watch: Stopwatch::start(), extended: AtomicU64::new(0) }
    }

    /// The present moment, to be told to [`extended`](Self::extended) if the extension succeeds.
    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.watch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The extension that was asked for at `asked` has succeeded.
    pub(super) fn extended(&self, asked: u64) {
        self.extended.store(asked, Ordering::Relaxed);
    }

    /// Whether nobody else can have the lease by now.
    pub(super) fn is_live(&self) -> bool {
        let age = self.now().saturating_sub(self.extended.load(Ordering::Relaxed));
        Duration::from_millis(age) < LEASE.saturating_sub(MARGIN)
    }
}
