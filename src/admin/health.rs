//! How the store is: looked at every five seconds, and on demand no more often. A probe never hangs
//! on it: a look that takes too long counts as no answer, and goes on alone until it is over.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::clock::{Clock, Timestamp};
use crate::telemetry::chain;
use crate::token::identities::Identities;

/// How long a look counts.
const EVERY: Duration = Duration::from_secs(5);

/// How long a look may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// What the store said last.
pub(super) struct Health {
    identities: Arc<Identities>,
    clock: Clock,
    looks: Mutex<Looks>,
}

#[derive(Default)]
struct Looks {
    last: Option<(Timestamp, Seen)>,
    /// One at a time: a store that hangs does not get ever more of them.
    running: Option<JoinHandle<Seen>>,
}

/// What a look has shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Why it does not answer, if it does not.
    pub(super) fault: Option<String>,
    /// What each application has left.
    pub(super) budgets: Vec<Budget>,
}

/// An application's token requests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Budget {
    /// Its name.
    #[serde(rename = "name")]
    pub(super) application: String,
    /// How many are left in this minute.
    pub(super) left: usize,
    /// How many there are in any.
    pub(super) limit: usize,
}

impl Health {
    pub(super) fn new(identities: Arc<Identities>, clock: Clock) -> Self {
        Self { identities, clock, looks: Mutex::default() }
    }

    /// Looks again and again. It never returns.
    pub(super) async fn watch(&self) {
        loop {
            self.look().await;
            self.clock.sleep(EVERY).await;
        }
    }

    /// What the store has said last; that it is well, before it was asked.
    pub(super) fn seen(&self) -> Seen {
        let looks = self.looks.try_lock();
        looks
            .ok()
            .and_then(|looks| looks.last.as_ref().map(|(_, seen)| seen.clone()))
            .unwrap_or_default()
    }

    /// What the store has said within five seconds, or says now.
    pub(super) async fn look(&self) -> Seen {
        let mut looks = self.looks.lock().await;
        let now = self.clock.now();
        if let Some((at, seen)) = &looks.last
            && *at <= now
            && at.until(now) < EVERY
        {
            return seen.clone();
        }
        let identities = || Arc::clone(&self.identities);
        let running = looks.running.get_or_insert_with(|| tokio::spawn(ask(identities())));
        let seen = tokio::select! {
            biased;
            seen = running => {
                looks.running = None;
                seen.expect("a look does not panic")
            }
            () = self.clock.sleep(PATIENCE) => Seen::silence(),
        };
        tell(looks.last.as_ref().map(|(_, seen)| seen), &seen);
        looks.last = Some((self.clock.now(), seen.clone()));
        seen
    }
}

impl Seen {
    fn silence() -> Self {
        let fault = format!("it does not answer within {} s: check it", PATIENCE.as_secs());
        Self { fault: Some(fault), budgets: Vec::new() }
    }
}

async fn ask(identities: Arc<Identities>) -> Seen {
    let fault = identities.check_store().await.err().map(|error| chain(&error));
    let mut budgets = Vec::new();
    for application in identities.applications().iter().filter(|_| fault.is_none()) {
        if let Ok((ledger, now)) = identities.store().ledger(&application.client_id).await {
            let limit = application.token_requests_per_minute.get() as usize;
            let (application, left) = (application.name.clone(), ledger.left(limit, now));
            budgets.push(Budget { application, left, limit });
        }
    }
    Seen { fault, budgets }
}

fn tell(before: Option<&Seen>, now: &Seen) {
    let before = before.and_then(|seen| seen.fault.as_ref());
    match (before, &now.fault) {
        (None, Some(cause)) => warn!(cause, "the store does not answer"),
        (Some(_), None) => info!("the store answers again"),
        _ => {}
    }
}
