//! A lease: a key that lapses unless its owner's heartbeat extends it.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tracing::debug;

use super::{RedisStore, millis, scripts};
use crate::clock::{Clock, Stopwatch};
use crate::store::pulse::{HEARTBEAT, LEASE, Pulse};
use crate::store::{Hold, StoreError};
use crate::telemetry::chain;

/// Between two attempts to give it back.
const RELEASE_AGAIN: Duration = Duration::from_secs(1);

/// A lease that a heartbeat keeps.
pub(super) struct Leased {
    store: RedisStore,
    key: String,
    owner: String,
    pulse: Arc<Pulse>,
    heartbeat: JoinHandle<()>,
}

impl Leased {
    /// Takes it, unless somebody else has it.
    pub(super) async fn take(store: &RedisStore, key: String) -> Result<Option<Self>, StoreError> {
        let owner = format!("{:032x}", fastrand::u128(..));
        let pulse = Arc::new(Pulse::start());
        let term = millis(LEASE).to_string();
        let arguments = [owner.as_bytes(), term.as_bytes()];
        let taken: bool = store.script("lease a session", scripts::TAKE, &key, &arguments).await?;
        Ok(taken.then(|| Self::keep(store.clone(), key, owner, pulse)))
    }

    fn keep(store: RedisStore, key: String, owner: String, pulse: Arc<Pulse>) -> Self {
        let heartbeat = tokio::spawn({
            let (store, key) = (store.clone(), key.clone());
            let (owner, pulse) = (owner.clone(), Arc::clone(&pulse));
            async move {
                loop {
                    Clock::system().sleep(HEARTBEAT).await;
                    let asked = pulse.now();
                    let term = millis(LEASE).to_string();
                    let arguments = [owner.as_bytes(), term.as_bytes()];
                    let kept =
                        store.script("extend a lease", scripts::EXTEND, &key, &arguments).await;
                    match kept {
                        Ok(true) => pulse.extended(asked),
                        // Somebody else may have it: nothing is extended any more.
                        Ok(false) => return,
                        Err(error) => debug!(cause = chain(&error), "a lease was not extended"),
                    }
                }
            }
        });
        Self { store, key, owner, pulse, heartbeat }
    }
}

impl Hold for Leased {
    fn is_live(&self) -> bool {
        self.pulse.is_live()
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
