//! All identities: from a name to its [`Keeper`], and the task that drives every one of them.
//!
//! Identities of one application share its budget of token requests; apart from that, the trouble
//! of one is none of the others'.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::keeper::Keeper;
use super::keeper::driver::{Driver, Surroundings};
use super::queue::Queue;
use crate::clock::{Clock, RECHECK, Timestamp};
use crate::oauth::endpoint::TokenEndpoint;
use crate::settings::{ApplicationSettings, IdentitySettings};
use crate::store::TokenStore;

/// Which identity, as an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IdentityId(u32);

impl IdentityId {
    /// The position in the configuration, from 0.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// All identities of the process.
pub struct Identities {
    keepers: Vec<Arc<Keeper>>,
    queues: Vec<Arc<Queue>>,
    names: HashMap<String, IdentityId>,
    store: Arc<dyn TokenStore>,
    endpoint: TokenEndpoint,
    clock: Clock,
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.keepers.iter().map(|keeper| keeper.name())).finish()
    }
}

impl Identities {
    /// Prepares the identities; nothing happens before [`run`](Self::run).
    pub fn new(
        settings: &[Arc<IdentitySettings>],
        store: Arc<dyn TokenStore>,
        endpoint: TokenEndpoint,
        clock: Clock,
    ) -> Self {
        let keepers = settings.iter().map(|s| Arc::new(Keeper::new(Arc::clone(s), clock.clone())));
        let names = settings.iter().zip(0..).map(|(s, id)| (s.name.clone(), IdentityId(id)));
        Self {
            keepers: keepers.collect(),
            queues: queues(settings, &clock),
            names: names.collect(),
            store,
            endpoint,
            clock,
        }
    }

    /// The identity of that name.
    pub fn find(&self, name: &str) -> Option<IdentityId> {
        self.names.get(name).copied()
    }

    /// The identity, if there is exactly one.
    pub fn only(&self) -> Option<IdentityId> {
        (self.keepers.len() == 1).then_some(IdentityId(0))
    }

    /// Its keeper.
    pub fn keeper(&self, id: IdentityId) -> &Keeper {
        &self.keepers[id.index()]
    }

    /// All of them, in the order of the configuration.
    pub fn iter(&self) -> impl Iterator<Item = (IdentityId, &Keeper)> {
        (0..).map(IdentityId).zip(self.keepers.iter().map(Arc::as_ref))
    }

    /// Keeps all tokens until `shutdown`; then begins nothing new, finishes and stores what is under
    /// way, and returns.
    ///
    /// # Panics
    /// If an identity's task panicked.
    pub async fn run(&self, shutdown: impl Future<Output = ()>) {
        let (end, ending) = watch::channel(false);
        let mut drivers = JoinSet::new();
        for (keeper, queue) in self.keepers.iter().zip(&self.queues) {
            let around = Surroundings {
                store: Arc::clone(&self.store),
                endpoint: self.endpoint.clone(),
                queue: Arc::clone(queue),
                clock: self.clock.clone(),
                ending: ending.clone(),
            };
            drivers.spawn(Driver::new(Arc::clone(keeper), around).run());
        }
        let driven = async {
            while let Some(ended) = drivers.join_next().await {
                ended.expect("an identity's task does not panic");
            }
        };
        tokio::pin!(driven);
        tokio::select! {
            () = shutdown => {}
            () = self.watch_clock() => {}
            () = &mut driven => {}
        }
        end.send_replace(true);
        driven.await;
    }

    /// Notices when the wall clock is set back, which no deadline would. It never returns.
    async fn watch_clock(&self) {
        let mut before = self.clock.now();
        loop {
            self.clock.sleep_until(before + RECHECK).await;
            let now = self.clock.now();
            if let Some(by) = set_back(before, now) {
                for keeper in &self.keepers {
                    keeper.clock_set_back(by);
                }
            }
            before = now;
        }
    }
}

/// The queue of each identity, one and the same for all of an application.
fn queues(settings: &[Arc<IdentitySettings>], clock: &Clock) -> Vec<Arc<Queue>> {
    let mut of_application = HashMap::new();
    let mut queue = |application: &ApplicationSettings| {
        let limit = application.token_requests_per_minute.get() as usize;
        let new = || Arc::new(Queue::new(limit, clock.clone()));
        // The server counts by client id; two applications of the configuration may share one.
        let key = (application.client_id.clone(), application.token_url.to_string());
        Arc::clone(of_application.entry(key).or_insert_with(new))
    };
    settings.iter().map(|s| queue(&s.application)).collect()
}

/// By how much the clock went backwards, beyond what a time daemon does in its ordinary work.
fn set_back(before: Timestamp, now: Timestamp) -> Option<Duration> {
    let by = now.until(before);
    (by >= Duration::from_secs(1)).then_some(by)
}
