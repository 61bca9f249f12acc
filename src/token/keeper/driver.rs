//! The task of one identity: ask the [`Lifecycle`], do it, report back. It decides nothing.
//!
//! The order that everything rests on: permit, lease, look again, probe the store, send, store,
//! publish. A renewal that has begun to send is never abandoned, not even by the end of the process.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{Keeper, View};
use crate::clock::{Clock, Timestamp};
use crate::oauth::TokenError;
use crate::oauth::endpoint::TokenEndpoint;
use crate::oauth::grant::Grant;
use crate::store::{Lease, Provenance, StoreError, Stored, TokenStore};
use crate::telemetry::chain;
use crate::token::lifecycle::{
    Action, Event, Failure, Known, Lifecycle, Means, Pace, Signal, Source,
};
use crate::token::queue::{Held, Progress, Queue};
use crate::token::slot::Bearer;
use crate::token::{Generation, RefreshToken, TokenSet};

/// What all drivers of a process share.
#[derive(Clone)]
pub(in crate::token) struct Surroundings {
    pub(in crate::token) store: Arc<dyn TokenStore>,
    pub(in crate::token) endpoint: TokenEndpoint,
    pub(in crate::token) queue: Arc<Queue>,
    pub(in crate::token) clock: Clock,
    /// Turns true when the process is about to end.
    pub(in crate::token) ending: watch::Receiver<bool>,
}

/// The task's state.
pub(in crate::token) struct Driver {
    keeper: Arc<Keeper>,
    around: Surroundings,
    provenance: Provenance,
    machine: Lifecycle,
    /// The latest set, of the generation that the machine calls latest.
    set: Option<TokenSet>,
    /// Obtained, but not yet stored, and therefore not used.
    unsaved: Option<TokenSet>,
    /// The highest generation ever seen, other credentials' included.
    floor: Generation,
    published: Option<Known>,
    refusals: u64,
    error: Option<Arc<TokenError>>,
}

/// A set that is in the store.
enum Obtained {
    /// Of our own making.
    New(TokenSet),
    /// Of another process.
    Newer(TokenSet),
}

impl Driver {
    pub(in crate::token) fn new(keeper: Arc<Keeper>, around: Surroundings) -> Self {
        let reopens = keeper.settings.credential.reopens();
        let means = if reopens { Means::Reopens } else { Means::Once };
        let pace = Pace::of(&keeper.settings.name);
        Self {
            provenance: Provenance::of(&keeper.settings),
            machine: Lifecycle::new(means, pace, around.clock.now()),
            keeper,
            around,
            set: None,
            unsaved: None,
            floor: Generation::NONE,
            published: None,
            refusals: 0,
            error: None,
        }
    }

    /// Keeps the identity's token until the process is about to end.
    pub(in crate::token) async fn run(mut self) {
        let mut event = Event::Time;
        loop {
            self.heed_signals();
            let action = self.machine.step(event, self.now());
            self.publish();
            event = match action {
                Action::Read => self.read().await,
                Action::Renew(source) => match self.renew(source).await {
                    Some(event) => event,
                    None => return,
                },
                Action::Rest(until) if self.rest(until).await => Event::Time,
                Action::Rest(_) | Action::Continue => return,
            };
        }
    }

    fn now(&self) -> Timestamp {
        self.around.clock.now()
    }

    fn heed_signals(&mut self) {
        let (signals, refusals) = self.keeper.signals.collect(self.refusals);
        self.refusals = refusals;
        let now = self.now();
        for signal in signals {
            if let (Signal::ClockSetBack(by), Some(set)) = (signal, &mut self.set) {
                set.issued_at = set.issued_at - by;
                set.expires_at = set.expires_at - by;
            }
            self.machine.note(signal, now);
        }
    }

    /// Shows the world what the machine offers, the slot first: who sees the view finds the token.
    fn publish(&mut self) {
        let now = self.now();
        let offered = self.machine.offered(now);
        if offered != self.published {
            let bearer = self.set.as_ref().filter(|_| offered.is_some()).and_then(Bearer::of);
            self.keeper.slot.publish(bearer);
            self.published = offered;
        }
        let view = View {
            standing: self.machine.standing(now),
            offered,
            latest: self.machine.latest(),
            cool_until: self.machine.cool_until(),
            refusals: self.refusals,
            error: self.error.clone(),
        };
        self.keeper.view.send_if_modified(|seen| {
            let changed = !seen.same(&view);
            *seen = view;
            changed
        });
    }

    /// Waits; false if the process is about to end.
    async fn rest(&mut self, until: Option<Timestamp>) -> bool {
        let due = async {
            match until {
                Some(until) => self.around.clock.sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = self.around.ending.wait_for(|ending| *ending) => false,
            () = self.keeper.signals.wake.notified() => true,
            () = due => true,
        }
    }

    async fn read(&mut self) -> Event {
        match self.around.store.load(self.keeper.name()).await {
            Ok(there) => Event::Read(self.newer(there).map(|set| self.keep(set))),
            Err(error) => self.failed(error.into()),
        }
    }

    /// The stored set, if it is later than ours and of the configured credential.
    fn newer(&mut self, there: Option<Stored>) -> Option<TokenSet> {
        let Stored { set, provenance } = there?;
        let ours = self.set.as_ref().map_or(Generation::NONE, |set| set.generation);
        self.floor = self.floor.max(set.generation);
        (provenance == self.provenance && set.generation > ours).then_some(set)
    }

    fn keep(&mut self, set: TokenSet) -> Known {
        let known = Known::of(&set);
        self.floor = self.floor.max(set.generation);
        (self.set, self.unsaved, self.error) = (Some(set), None, None);
        known
    }

    /// One renewal; `None` if the process ends before it was our turn.
    async fn renew(&mut self, source: Source) -> Option<Event> {
        let queue = Arc::clone(&self.around.queue);
        let held = match self.unsaved {
            Some(_) => None,
            None => Some(self.turn(&queue).await?),
        };
        let begun = self.now();
        Some(match self.obtain(source, held).await {
            Ok(Obtained::New(set)) => {
                self.tell_of_renewal(&set, source, begun);
                Event::Obtained(self.keep(set))
            }
            Ok(Obtained::Newer(set)) => {
                debug!(
                    identity = self.keeper.name(),
                    generation = set.generation.number(),
                    "adopted"
                );
                Event::Obtained(self.keep(set))
            }
            Err(error) => self.failed(error),
        })
    }

    /// Waits for our turn in the application's budget, keeping the class up to date.
    async fn turn<'q>(&mut self, queue: &'q Queue) -> Option<Held<'q>> {
        let mut place = queue.join(self.machine.class(self.now()));
        loop {
            let class = self.machine.class(self.now());
            tokio::select! {
                biased;
                _ = self.around.ending.wait_for(|ending| *ending) => return None,
                progress = place.progress(class) => {
                    if let Progress::Turn(held) = progress {
                        return Some(held);
                    }
                }
                () = self.keeper.signals.wake.notified() => {}
            }
            self.heed_signals();
            self.publish();
        }
    }

    async fn obtain(
        &mut self,
        source: Source,
        held: Option<Held<'_>>,
    ) -> Result<Obtained, TokenError> {
        let store = Arc::clone(&self.around.store);
        let keeper = Arc::clone(&self.keeper);
        let lease = store.lease(keeper.name()).await?.ok_or(TokenError::LeaseHeld)?;
        let there = store.load(keeper.name()).await?;
        let expected = there.as_ref().map_or(Generation::NONE, |stored| stored.set.generation);
        if let Some(newer) = self.newer(there) {
            return Ok(Obtained::Newer(newer));
        }
        let set = match (self.unsaved.take(), held) {
            (Some(set), _) => set,
            (None, Some(held)) => {
                store.probe_writable(&lease).await?;
                self.request(source, held).await?
            }
            (None, None) => unreachable!("a turn was waited for unless a set was unsaved"),
        };
        self.save(&lease, set, expected).await
    }

    /// Sends the one request. The old refresh token stays in the store meanwhile: should the answer
    /// or this process be lost, RingCentral answers it with the same set again.
    async fn request(&self, source: Source, mut held: Held<'_>) -> Result<TokenSet, TokenError> {
        let settings = &self.keeper.settings;
        let token = self.refresh_token(source);
        let grant = token.map_or(Grant::Open(&settings.credential), Grant::Refresh);
        held.sending();
        let answer = self.around.endpoint.request(settings, grant, &self.around.clock).await;
        match &answer {
            Err(TokenError::Unreachable(_)) => held.not_sent(),
            Err(TokenError::Penalty { retry_after, .. }) => held.silence(*retry_after),
            _ => {}
        }
        let mut set = answer?;
        if let Some(token) = token {
            // RFC 6749 §6: without a new refresh token, the old one goes on.
            set.refresh = set.refresh.or_else(|| self.set.as_ref()?.refresh.clone());
            set.previous_refresh = Some(token.clone());
        }
        Ok(set)
    }

    fn refresh_token(&self, source: Source) -> Option<&RefreshToken> {
        let set = self.set.as_ref()?;
        match source {
            Source::Open => None,
            Source::Refresh => set.refresh.as_ref().map(|refresh| &refresh.token),
            Source::PreviousRefresh => set.previous_refresh.as_ref(),
        }
    }

    async fn save(
        &mut self,
        lease: &Lease,
        mut set: TokenSet,
        expected: Generation,
    ) -> Result<Obtained, TokenError> {
        set.generation = self.floor.next();
        let stored = Stored { set, provenance: self.provenance };
        match self.around.store.save(lease, &stored, expected).await {
            Ok(()) => Ok(Obtained::New(stored.set)),
            Err(error @ StoreError::Conflict { .. }) => {
                let there = self.around.store.load(lease.identity()).await?;
                Ok(Obtained::Newer(self.newer(there).ok_or(error)?))
            }
            Err(error) => {
                self.unsaved = Some(stored.set);
                Err(error.into())
            }
        }
    }

    fn failed(&mut self, error: TokenError) -> Event {
        let failure = failure(&error);
        let name = self.keeper.name();
        if failure == Failure::LeaseHeld {
            debug!(identity = name, "{error}");
        } else {
            let cause = std::error::Error::source(&error).map(chain);
            warn!(identity = name, cause, "{error}");
        }
        self.error = Some(Arc::new(error));
        Event::Failed(failure)
    }

    fn tell_of_renewal(&self, set: &TokenSet, source: Source, begun: Timestamp) {
        let credential = &self.keeper.settings.credential;
        let grant = match source {
            Source::Open => Grant::Open(credential).grant_type(),
            Source::Refresh | Source::PreviousRefresh => "refresh_token",
        };
        let now = self.now();
        let expires_in_s = now.until(set.expires_at).as_secs();
        let took_ms = u64::try_from(begun.until(now).as_millis()).unwrap_or(u64::MAX);
        let (identity, generation) = (self.keeper.name(), set.generation.number());
        info!(identity, generation, grant, expires_in_s, took_ms, "renewed");
    }
}

/// What a failure calls for.
fn failure(error: &TokenError) -> Failure {
    match error {
        TokenError::GrantRefused { .. } => Failure::GrantRefused,
        TokenError::ClientRefused { .. } => Failure::ClientRefused,
        TokenError::GrantNotAllowed { .. } => Failure::GrantNotAllowed,
        TokenError::Penalty { retry_after, .. } => Failure::Penalty(*retry_after),
        TokenError::ServerFault { .. } | TokenError::NoAnswer(_) => Failure::Unanswered,
        TokenError::Unreachable(_) => Failure::Unreachable,
        TokenError::Store(_) => Failure::Store,
        TokenError::LeaseHeld => Failure::LeaseHeld,
        TokenError::Unexpected { .. } | TokenError::Malformed { .. } => Failure::Unexpected,
        TokenError::CoolingDown | TokenError::NothingLeft | TokenError::Starting => {
            Failure::Unexpected
        }
    }
}
