//! A lease: a key that lapses unless its owner's heartbeat extends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::debug;

use super::{RedisStore, millis, scripts};
use crate::clock::{Clock, Stopwatch};
use crate::store::{Hold, StoreError};
use crate::telemetry::chain;

/// A lease lapses so long after its last extension.
const LEASE: Duration = Duration::from_secs(15);
const HEARTBEAT: Duration = Duration::from_secs(4);
/// So long before it lapses, its holder does not rely on it any more.
const MARGIN: Duration = Duration::from_secs(3);

/// Between two attempts to give it back.
const RELEASE_AGAIN: Duration = Duration::from_secs(1);

/// A lease that a heartbeat keeps.
pub(super) struct Leased {
    store: RedisStore,
    key: String,
    owner: String,
    watch: Stopwatch,
    /// When the last extension that succeeded was asked for, in milliseconds of `watch`.
    extended: Arc<AtomicU64>,
    heartbeat: JoinHandle<()>,
}

impl Leased {
    /// Takes it, unless somebody else has it.
    pub(super) async fn take(store: &RedisStore, key: String) -> Result<Option<Self>, StoreError> {
        let owner = format!("{:032x}", fastrand::u128(..));
        let watch = Stopwatch::start();
        let term = millis(LEASE).to_string();
        let arguments = [owner.as_bytes(), term.as_bytes()];
        let taken: bool = store.script("lease a session", scripts::TAKE, &key, &arguments).await?;
        Ok(taken.then(|| Self::keep(store.clone(), key, owner, watch)))
    }

    fn keep(store: RedisStore, key: String, owner: String, watch: Stopwatch) -> Self {
        let extended = Arc::new(AtomicU64::new(0));
        let heartbeat = tokio::spawn({
            let (store, key) = (store.clone(), key.clone());
            let (owner, extended) = (owner.clone(), Arc::clone(&extended));
            async move {
                loop {
                    Clock::system().sleep(HEARTBEAT).await;
                    let asked = millis(watch.elapsed());
                    let term = millis(LEASE).to_string();
                    let arguments = [owner.as_bytes(), term.as_bytes()];
                    let kept =
                        store.script("extend a lease", scripts::EXTEND, &key, &arguments).await;
                    match kept {
                        Ok(true) => extended.store(asked, Ordering::Relaxed),
                        // Somebody else may have it: nothing is extended any more.
                        Ok(false) => return,
                        Err(error) => debug!(cause = chain(&error), "a lease was not extended"),
                    }
                }
            }
        });
        Self { store, key, owner, watch, extended, heartbeat }
    }
}

impl Hold for Leased {
    fn is_live(&self) -> bool {
        let age = millis(self.watch.elapsed()) - self.extended.load(Ordering::Relaxed);
        age < millis(LEASE.saturating_sub(MARGIN))
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.heartbeat.abort();
        let (store, key, owner) = (self.store.clone(), self.key.clone(), self.owner.clone());
        // Without a runtime the process is ending, and the lease lapses.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(release(store, key, owner));
        }
    }
}

/// Gives it back, before it lapses if the server is there again by then.
async fn release(store: RedisStore, key: String, owner: String) {
    let watch = Stopwatch::start();
    let arguments = [owner.as_bytes()];
    while watch.elapsed() < LEASE {
        let freed = store.script::<i64>("free a lease", scripts::RELEASE, &key, &arguments).await;
        let Err(error) = freed else { return };
        debug!(cause = chain(&error), "a lease was not freed");
        Clock::system().sleep(RELEASE_AGAIN).await;
    }
}
