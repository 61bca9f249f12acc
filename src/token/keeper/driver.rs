//! The task of one identity: ask the [`Lifecycle`], do it, report back. It decides nothing.
//!
//! What is published has been stored before. A renewal that has begun to send is never abandoned,
//! not even by the end of the process.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::renewal::{Obtained, Renewal, ended, newer};
use super::retire::retire;
use super::{Keeper, Seen, View};
use crate::audit::{self, AuditLog, SessionChange};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Outcome;
use crate::oauth::TokenError;
use crate::oauth::endpoint::TokenEndpoint;
use crate::store::{Entry, Lease, Provenance, Stored, TokenStore};
use crate::telemetry::chain;
use crate::token::lifecycle::{
    Action, Event, Failure, Known, Lifecycle, Means, Notices, Pace, Signal, Source, Standing,
};
use crate::token::queue::{Held, Progress, Queue};
use crate::token::slot::Bearer;
use crate::token::{Generation, TokenSet};

/// What all drivers of a process share.
#[derive(Clone)]
pub(in crate::token) struct Surroundings {
    pub(in crate::token) store: Arc<dyn TokenStore>,
    pub(in crate::token) endpoint: TokenEndpoint,
    pub(in crate::token) queue: Arc<Queue>,
    pub(in crate::token) clock: Clock,
    pub(in crate::token) audit: Auditor,
    /// Turns true when the process is about to end.
    pub(in crate::token) ending: watch::Receiver<bool>,
}

/// Where sessions are noted, and who does that.
#[derive(Clone, Debug)]
pub(in crate::token) struct Auditor {
    pub(in crate::token) log: AuditLog,
    pub(in crate::token) command: &'static str,
}

/// The task's state.
pub(in crate::token) struct Driver {
    keeper: Arc<Keeper>,
    around: Surroundings,
    provenance: Provenance,
    machine: Lifecycle,
    /// Whether it stays when nobody needs it.
    stays: bool,
    /// The latest set, of the generation that the machine calls latest.
    set: Option<TokenSet>,
    /// Obtained, but not yet stored, and therefore not used.
    unsaved: Option<Box<TokenSet>>,
    /// The lease that it keeps.
    lease: Option<Lease>,
    /// The highest generation ever seen, other credentials' included.
    floor: Generation,
    published: Option<Known>,
    seen: Seen,
    notices: Notices,
    error: Option<Arc<TokenError>>,
}

impl Driver {
    pub(in crate::token) fn new(keeper: Arc<Keeper>, around: Surroundings, stays: bool) -> Self {
        let means = Means::of(&keeper.settings.credential);
        let (fallback, pace) =
            (keeper.settings.fallback.is_some(), Pace::of(&keeper.settings.name));
        // What a driver before this one has done is not done again.
        let orders = keeper.view.look().orders;
        Self {
            provenance: Provenance::of(&keeper.settings),
            machine: Lifecycle::new(means, fallback, pace, around.clock.now()),
            keeper,
            around,
            stays,
            set: None,
            unsaved: None,
            lease: None,
            floor: Generation::NONE,
            published: None,
            seen: Seen { orders, ..Seen::default() },
            notices: Notices::default(),
            error: None,
        }
    }

    /// Keeps the identity's token until the process is about to end.
    ///
    /// Boxed, because a future has room for what it is given and for what it moves that to.
    pub(in crate::token) async fn run(mut self: Box<Self>) {
        let mut event = Event::Time;
        loop {
            self.heed_signals();
            let action = self.machine.step(event, self.now());
            self.publish();
            event = match action {
                // Boxed: a driver rests nearly always, and tens of thousands may do so at a time.
                Action::Read => Box::pin(self.read()).await,
                Action::Renew(source) => match Box::pin(self.renew(source)).await {
                    Some(event) => event,
                    None => return,
                },
                Action::Rest(_) if self.is_idle() => return self.keeper.leave(),
                Action::Rest(until) if self.rest(until).await => Event::Time,
                Action::Rest(_) => return,
                Action::Continue => unreachable!("a finished action was reported"),
            };
        }
    }

    /// Whether the driver may go, and another start from the store when somebody comes.
    ///
    /// Not while a token lives, which may be refused, and not while there is a failure to remember.
    fn is_idle(&self) -> bool {
        let keeper = &self.keeper;
        let abolished = keeper.post.abolished.load(Ordering::Relaxed);
        let resting = self.machine.standing(self.now()) == Standing::Resting;
        let unused = self.published.is_none() && self.unsaved.is_none() && self.error.is_none();
        let waiting = keeper.signals.waiting.load(Ordering::Relaxed) > 0;
        abolished || (!self.stays && resting && unused && !waiting)
    }

    fn now(&self) -> Timestamp {
        self.around.clock.now()
    }

    /// Passes on what was reported.
    fn heed_signals(&mut self) -> Heard {
        let (signals, seen) = self.keeper.signals.collect(self.seen);
        self.seen = seen;
        let (now, mut heard) = (self.now(), Heard::default());
        for signal in signals {
            if let Signal::ClockSetBack(by) = signal {
                heard.clock_set_back = true;
                self.set.iter_mut().for_each(|set| set.set_back(by));
            }
            self.machine.note(signal, now);
            heard.store_changed |= signal == Signal::Changed;
        }
        heard
    }

    /// Shows the world what the machine offers, the slot first: who sees the view finds the token.
    fn publish(&mut self) {
        let now = self.now();
        let offered = self.machine.offered(now);
        if offered != self.published {
            let bearer = self.set.as_ref().filter(|_| offered.is_some()).and_then(Bearer::of);
            if self.set.is_some() {
                self.keeper.set_particulars(self.set.as_ref());
            }
            self.keeper.slot.publish(bearer);
            self.published = offered;
        }
        let view = View {
            standing: self.machine.standing(now),
            offered,
            latest: self.machine.latest(),
            lives_by: self.machine.lives_by(),
            cool_until: self.machine.cool_until(),
            refusals: self.seen.refusals,
            orders: self.seen.orders,
            ordered: self.machine.is_ordered(),
            error: self.error.clone(),
            opens_at: self.around.queue.opens_at(),
        };
        self.keeper.view.show(view);
    }

    /// Says that the refresh token is about to die, and returns when there is more to say.
    fn forewarn(&mut self) -> Option<Timestamp> {
        let (life, now) = (self.machine.lives_by()?, self.now());
        let dying = life.dying(now).filter(|dying| self.notices.is_news(dying));
        if let Some(dying) = dying {
            let identity = self.keeper.name();
            warn!(identity, dies_in_s = dying.left.as_secs(), "{}", dying.of(identity));
        }
        life.next_notice(now)
    }

    /// Waits; false if the process is about to end. Who does not stay looks up when its token ends,
    /// to take it away and leave.
    async fn rest(&mut self, until: Option<Timestamp>) -> bool {
        let lapses = self.published.filter(|_| !self.stays).map(|known| known.expires_at);
        let until = until.into_iter().chain(self.forewarn()).chain(lapses).min();
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
        let there = match self.around.store.load(self.keeper.name()).await {
            Ok(there) => there,
            Err(error) => return self.failed(error.into()),
        };
        self.floor = self.floor.max(there.generation());
        if let Some(generation) = ended(&there, self.set.as_ref()) {
            return self.forget(generation);
        }
        if self.is_ahead_of(&there) {
            self.put_back().await;
        }
        let newer = newer(there.session(), self.provenance, self.set.as_ref());
        Event::Read(newer.map(|set| self.keep(set)))
    }

    /// Whether the store has lost our set: it was flushed, or a stale copy took over.
    fn is_ahead_of(&self, there: &Entry) -> bool {
        let foreign =
            matches!(there, Entry::Session(stored) if stored.provenance != self.provenance);
        let ours = self.set.as_ref().map(|set| set.generation);
        !foreign && ours.is_some_and(|ours| ours > there.generation())
    }

    /// Writes our set back, so that it does not die with this process. If that fails, the next
    /// change or renewal brings another chance.
    async fn put_back(&self) {
        let Some(set) = self.set.clone() else { return };
        let (name, generation) = (self.keeper.name(), set.generation.number());
        let stored = Stored { set, provenance: self.provenance };
        let written = async {
            let store = &self.around.store;
            let Some(lease) = store.lease(name).await? else { return Ok(false) };
            let there = store.load(name).await?;
            if !self.is_ahead_of(&there) {
                return Ok(false);
            }
            store.save(&lease, &stored, there.generation()).await.map(|()| true)
        };
        match written.await {
            Ok(true) => {
                warn!(identity = name, generation, "the store had lost the session; it is back");
            }
            Ok(false) => {}
            Err(error) => {
                let cause = chain(&error);
                warn!(
                    identity = name,
                    generation,
                    cause,
                    "the store has lost the session, and it cannot be put back yet"
                );
            }
        }
    }

    fn forget(&mut self, generation: Generation) -> Event {
        info!(identity = self.keeper.name(), "the session was ended by a logout");
        self.note(SessionChange::Ended, None, None);
        self.floor = self.floor.max(generation);
        (self.set, self.unsaved, self.lease) = (None, None, None);
        Event::Erased(generation)
    }

    fn keep(&mut self, set: TokenSet) -> Known {
        let set = set.not_after(self.now());
        let known = Known::of(&set);
        self.floor = self.floor.max(set.generation);
        (self.set, self.unsaved, self.error) = (Some(set), None, None);
        self.lease = None;
        known
    }

    /// One renewal; `None` if the process ends before it was our turn. Signals are heeded meanwhile,
    /// so that a token refused now is not handed out until the answer comes.
    async fn renew(&mut self, source: Source) -> Option<Event> {
        let queue = Arc::clone(&self.around.queue);
        let held = match self.unsaved {
            Some(_) => None,
            None => match self.turn(&queue).await {
                Wait::Over(held) => Some(held),
                Wait::Pointless(event) => return Some(event),
                Wait::Ending => return None,
            },
        };
        let begun = self.now();
        let mut renewal = self.renewal();
        let ended = {
            let mut running = pin!(renewal.run(source, held));
            loop {
                tokio::select! {
                    biased;
                    ended = &mut running => break ended,
                    () = self.keeper.signals.wake.notified() => {}
                }
                self.heed_signals();
                self.publish();
            }
        };
        (self.unsaved, self.floor) = (renewal.unsaved.map(Box::new), renewal.floor);
        self.lease = renewal.lease;
        Some(self.conclude(ended, source, begun))
    }

    fn renewal(&mut self) -> Renewal {
        Renewal {
            around: self.around.clone(),
            settings: Arc::clone(&self.keeper.settings),
            provenance: self.provenance,
            latest: self.set.clone(),
            unsaved: self.unsaved.take().map(|set| *set),
            lease: self.lease.take(),
            floor: self.floor,
        }
    }

    fn conclude(
        &mut self,
        ended: Result<Obtained, TokenError>,
        source: Source,
        begun: Timestamp,
    ) -> Event {
        match ended {
            Ok(Obtained::New(set)) => {
                self.keeper.renewals.count(Outcome::Renewed);
                self.tell_of_renewal(&set, source, begun);
                self.retire_replaced(source);
                Event::Obtained(self.keep(set))
            }
            Ok(Obtained::Newer(set)) => {
                self.keeper.renewals.count(Outcome::Adopted);
                let generation = set.generation.number();
                info!(
                    identity = self.keeper.name(),
                    generation, "adopted another process's renewal"
                );
                Event::Obtained(self.keep(set))
            }
            Ok(Obtained::Ended(generation)) => self.forget(generation),
            Err(error) => self.failed(error),
        }
    }

    /// Waits for our turn in the application's budget, keeping the class up to date. Nobody needs
    /// the turn any more if another process has renewed meanwhile.
    async fn turn<'q>(&mut self, queue: &'q Queue) -> Wait<'q> {
        let mut place = queue.join(self.machine.class(self.now()));
        loop {
            let class = self.machine.class(self.now());
            let mut progress = pin!(place.progress(class));
            loop {
                let came = tokio::select! {
                    biased;
                    _ = self.around.ending.wait_for(|ending| *ending) => return Wait::Ending,
                    progress = &mut progress => Some(progress),
                    () = self.keeper.signals.wake.notified() => None,
                };
                match came {
                    Some(Progress::Turn(held)) => return Wait::Over(held),
                    Some(Progress::Down(error)) => {
                        return Wait::Pointless(self.failed(error.into()));
                    }
                    Some(Progress::Again) => break,
                    None => {}
                }
                let heard = self.heed_signals();
                if heard.store_changed
                    && let Some(event) = self.look().await
                {
                    return Wait::Pointless(event);
                }
                self.publish();
                // A caller who only waits too changes nothing, and must not cost us our place.
                if heard.clock_set_back || self.machine.class(self.now()) != class {
                    break;
                }
            }
        }
    }

    /// Whether the store has something newer, or the mark of a logout.
    async fn look(&mut self) -> Option<Event> {
        let there = self.around.store.load(self.keeper.name()).await.ok()?;
        self.floor = self.floor.max(there.generation());
        if let Some(generation) = ended(&there, self.set.as_ref()) {
            return Some(self.forget(generation));
        }
        let newer = newer(there.session(), self.provenance, self.set.as_ref())?;
        Some(Event::Obtained(self.keep(newer)))
    }

    /// A new session replaces the latest one, which may have to be ended.
    fn retire_replaced(&self, source: Source) {
        let replaced = self.set.as_ref().filter(|_| source == Source::Open);
        let Some((set, refresh)) = replaced.and_then(|set| Some((set, set.refresh.as_ref()?)))
        else {
            return;
        };
        // A token that is not published is not in flight either.
        let drained = self.published.map_or(self.now(), |_| set.expires_at);
        let settings = Arc::clone(&self.keeper.settings);
        tokio::spawn(retire(self.around.clone(), settings, refresh.token.clone(), drained));
    }

    fn failed(&mut self, error: TokenError) -> Event {
        let failure = failure(&error);
        let name = self.keeper.name();
        if failure == Failure::LeaseHeld {
            debug!(identity = name, "{error}");
        } else {
            let cause = std::error::Error::source(&error).map(chain);
            warn!(identity = name, cause, "{error}");
            self.keeper.renewals.count(outcome(failure));
        }
        self.error = Some(Arc::new(error));
        Event::Failed(failure)
    }

    fn note(&self, change: SessionChange, grant: Option<&str>, generation: Option<u64>) {
        let Auditor { log, command } = &self.around.audit;
        let (identity, by) = (self.keeper.name(), *command);
        let session = audit::Session { identity, change, grant, generation, by };
        log.note(&audit::Event::Session(session));
    }

    fn tell_of_renewal(&self, set: &TokenSet, source: Source, begun: Timestamp) {
        let settings = &self.keeper.settings;
        let grant = match (source, &settings.fallback) {
            (Source::Fallback, Some(fallback)) => fallback.grant_type(),
            (Source::Open | Source::Fallback, _) => settings.credential.grant_type(),
            (Source::Refresh | Source::PreviousRefresh, _) => "refresh_token",
        };
        if source == Source::Fallback && self.set.as_ref().is_none_or(|set| set.refresh.is_some()) {
            warn!(
                identity = settings.name,
                "there is no session to go on with: the second credential has opened a new one"
            );
        }
        let now = self.now();
        let expires_in_s = now.until(set.expires_at).as_secs();
        let took_ms = u64::try_from(begun.until(now).as_millis()).unwrap_or(u64::MAX);
        let (identity, generation) = (self.keeper.name(), set.generation.number());
        let change = match source {
            Source::Open | Source::Fallback => SessionChange::Opened,
            Source::Refresh | Source::PreviousRefresh => SessionChange::Renewed,
        };
        self.note(change, Some(grant), Some(generation));
        info!(identity, generation, grant, expires_in_s, took_ms, "renewed");
    }
}

/// What was among the signals that the driver itself has to act on.
#[derive(Clone, Copy, Default)]
struct Heard {
    store_changed: bool,
    clock_set_back: bool,
}

/// What came of waiting for a turn.
enum Wait<'q> {
    /// It is ours.
    Over(Held<'q>),
    /// It is not needed, or cannot be had.
    Pointless(Event),
    /// The process ends.
    Ending,
}

/// Under which head a failure is counted.
const fn outcome(failure: Failure) -> Outcome {
    match failure {
        Failure::GrantRefused | Failure::ClientRefused | Failure::GrantNotAllowed => {
            Outcome::Refused
        }
        Failure::Penalty(_) => Outcome::Penalty,
        Failure::Unanswered => Outcome::Unanswered,
        Failure::Unreachable => Outcome::Unreachable,
        Failure::Store => Outcome::Store,
        Failure::Unexpected | Failure::LeaseHeld => Outcome::Unexpected,
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
        TokenError::Unexpected { .. }
        | TokenError::Malformed { .. }
        | TokenError::CoolingDown
        | TokenError::NothingLeft
        | TokenError::LoggedOut
        | TokenError::NotLoggedIn
        | TokenError::Pending { .. }
        | TokenError::Starting => Failure::Unexpected,
    }
}
