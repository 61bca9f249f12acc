//! The levers of a running sandbox, for tests in the same process.
//!
//! The HTTP control surface pulls the same ones. All calls are synchronous and short; only
//! [`Control::wait_until`] waits, for a condition and never for time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::fault::Fault;
use super::rules::Rules;
use super::state::{Arrival, Counts, State};
use crate::clock::{Clock, Timestamp};

/// The levers. Clones pull the same ones.
#[derive(Clone, Debug)]
pub struct Control(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

impl Control {
    pub(super) fn new(rules: Rules, clock: Clock) -> Self {
        static SANDBOXES: AtomicU64 = AtomicU64::new(1);
        let seed = clock.now().unix_millis() ^ (SANDBOXES.fetch_add(1, Ordering::Relaxed) << 44);
        let state = Mutex::new(State::new(rules, seed));
        Self(Arc::new(Inner { clock, state, changed: watch::Sender::new(()) }))
    }

    /// Every access token expires now; sessions and refresh tokens live on.
    pub fn expire_access_tokens(&self) {
        self.change(|state, now| state.sessions.expire_access(now));
    }

    /// Every access token is dead now; sessions and refresh tokens live on.
    pub fn revoke_access_tokens(&self) {
        self.change(|state, now| state.sessions.kill_access(now));
    }

    /// Every session ends, with all its tokens.
    pub fn end_sessions(&self) {
        self.change(|state, now| state.sessions.end_all(now));
    }

    /// The rules as they are now.
    pub fn rules(&self) -> Rules {
        (*self.lock().rules).clone()
    }

    /// Changes the rules; rate-limit windows and penalties start anew.
    pub fn set_rules(&self, change: impl FnOnce(&mut Rules)) {
        self.change(|state, _| {
            let mut rules = (*state.rules).clone();
            change(&mut rules);
            state.set_rules(rules);
        });
    }

    /// Orders a fault. Orders are served oldest first.
    pub fn inject(&self, fault: Fault) {
        self.change(|state, _| state.faults.order(fault));
    }

    /// The faults that are still to come.
    pub fn faults(&self) -> Vec<Fault> {
        self.lock().faults.list().to_vec()
    }

    /// Takes all orders for faults back. Requests that hang go on hanging.
    pub fn clear_faults(&self) {
        self.change(|state, _| state.faults.clear());
    }

    /// What has happened since the start.
    pub fn counts(&self) -> Counts {
        let now = self.0.clock.now();
        self.lock().counts(now)
    }

    /// The arrivals that the log still holds, in the order in which they ended.
    pub fn log(&self) -> Vec<Arrival> {
        self.lock().log.iter().cloned().collect()
    }

    /// Empties the log; the counters go on.
    pub fn clear_log(&self) {
        self.change(|state, _| state.log.clear());
    }

    /// Returns as soon as `condition` holds, with the counts for which it did.
    pub async fn wait_until(&self, condition: impl Fn(&Counts) -> bool) -> Counts {
        let mut changed = self.0.changed.subscribe();
        loop {
            let counts = self.counts();
            if condition(&counts) {
                return counts;
            }
            changed.changed().await.expect("self holds the sender");
        }
    }

    /// The sandbox's clock.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Moves a manual clock; false on the machine's, which stays as it is.
    pub(super) fn advance(&self, by: Duration) -> bool {
        let manual = self.0.clock.is_manual();
        if manual {
            self.0.clock.advance(by);
        }
        manual
    }

    /// Changes the state at the present time and wakes those who wait for a condition.
    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State, Timestamp) -> T) -> T {
        let now = self.0.clock.now();
        let value = change(&mut self.lock(), now);
        if self.0.changed.receiver_count() > 0 {
            self.0.changed.send_replace(());
        }
        value
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock is a bug that its own test reports; the others may go on.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
