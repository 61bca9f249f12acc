//! One identity's token, as the threads that serve requests see it: a slot to read, a way to wait,
//! and the two reports that matter, "refused" and "accepted".
//!
//! The renewing itself happens elsewhere, in the identity's own `driver` task. A caller only
//! leaves a mark and watches: a thousand callers cost one renewal, and one that goes away ends none.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use super::identities::IdentityId;
use super::lifecycle::{Dying, Known, Lost, RefreshLife, Signal, Standing};
use super::slot::TokenSlot;
use super::{Generation, Particulars, TokenSet};
use crate::clock::{Clock, Timestamp};
use crate::metrics::Renewals;
use crate::oauth::TokenError;
use crate::secret::Secret;
use crate::settings::{Credential, IdentitySettings};
use crate::store::Enrolment;

mod board;
pub(super) mod driver;
mod renewal;
mod retire;

use board::Board;

/// One identity's token. Its methods may be called from any thread and any runtime.
#[derive(Debug)]
pub struct Keeper {
    settings: Arc<IdentitySettings>,
    clock: Clock,
    slot: TokenSlot,
    /// Only while a driver is at work: idle identities are to take little room.
    particulars: Mutex<Option<Box<Particulars>>>,
    view: Board,
    signals: Signals,
    renewals: Renewals,
    post: Post,
}

/// Whether a driver is at work, and where one is had.
#[derive(Debug)]
struct Post {
    id: IdentityId,
    agency: UnboundedSender<IdentityId>,
    taken: AtomicBool,
    abolished: AtomicBool,
}

/// Why there is no usable token, and when to ask again.
#[derive(Clone, Debug)]
pub struct Unavailable {
    /// Why.
    pub reason: Arc<TokenError>,
    /// When it may be otherwise.
    pub retry_after: Duration,
    /// Whether it stays so until somebody logs in or corrects the configuration.
    pub terminal: bool,
}

/// One identity's line in the status output.
#[derive(Clone, Debug)]
pub struct KeeperStatus {
    /// Where it stands.
    pub state: Standing,
    /// Whether there is a token to send now.
    pub usable: bool,
    /// Its latest token set, usable or not.
    pub generation: Option<Generation>,
    /// When that set was issued.
    pub issued_at: Option<Timestamp>,
    /// When that set's access token ends.
    pub expires_at: Option<Timestamp>,
    /// When that set's refresh token ends, if it has one and the server said so.
    pub refresh_expires_at: Option<Timestamp>,
    /// The end of the refresh token, if everything hangs on it and it is near.
    pub dying: Option<Dying>,
    /// How many requests wait for a token.
    pub waiting: usize,
    /// The last failure since that set was obtained.
    pub last_error: Option<Arc<TokenError>>,
}

/// What the driver lets be seen.
#[derive(Clone, Debug)]
struct View {
    standing: Standing,
    offered: Option<Known>,
    latest: Option<Known>,
    /// The refresh token that everything hangs on, if it is so.
    lives_by: Option<RefreshLife>,
    /// When a refusal may next force a renewal.
    cool_until: Timestamp,
    /// How many refusals and orders have been looked at.
    refusals: u64,
    orders: u64,
    /// Whether an order is still being carried out.
    ordered: bool,
    error: Option<Arc<TokenError>>,
    /// When the application may send again, if it may not now.
    opens_at: Option<Timestamp>,
}

/// What callers leave for the driver.
#[derive(Debug, Default)]
struct Signals {
    wake: Notify,
    waiting: AtomicUsize,
    /// How many refusals were reported, and the latest generation among them.
    refusals: AtomicU64,
    refused: AtomicU64,
    /// How many renewals were ordered.
    orders: AtomicU64,
    accepted: AtomicU64,
    /// Milliseconds by which the wall clock was set back.
    set_back: AtomicU64,
    /// The store may have something else than we believe.
    changed: AtomicBool,
}

/// How many refusals and orders a driver has looked at.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    refusals: u64,
    orders: u64,
}

/// A look at the view: there it is, there will be none, or look again.
enum Sight {
    Usable,
    Never(Unavailable),
    Later,
}

impl Keeper {
    /// `agency` is told when the identity needs a driver.
    pub(super) fn new(
        settings: Arc<IdentitySettings>,
        clock: Clock,
        id: IdentityId,
        agency: UnboundedSender<IdentityId>,
    ) -> Self {
        let view = Board::new(View::starting());
        let (taken, abolished) = (AtomicBool::new(false), AtomicBool::new(false));
        let post = Post { id, agency, taken, abolished };
        let (slot, signals) = (TokenSlot::default(), Signals::default());
        let particulars = Mutex::default();
        let renewals = Renewals::default();
        Self { settings, clock, slot, particulars, view, signals, renewals, post }
    }

    /// Which identity.
    pub const fn id(&self) -> IdentityId {
        self.post.id
    }

    /// The identity's name.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// What it was made from.
    pub fn settings(&self) -> &Arc<IdentitySettings> {
        &self.settings
    }

    /// What came of its renewals so far.
    pub const fn renewals(&self) -> &Renewals {
        &self.renewals
    }

    /// Where to read the token, request by request.
    pub fn slot(&self) -> &TokenSlot {
        &self.slot
    }

    /// What is known of its session besides the tokens; before the first one, what was asked for.
    pub fn particulars(&self) -> Particulars {
        let known = self.particulars.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.as_deref().cloned().unwrap_or_default();
        Particulars {
            scope: known.scope.or_else(|| self.settings.scope.clone()),
            owner_id: known.owner_id,
            endpoint_id: known.endpoint_id.or_else(|| self.settings.endpoint_id.clone()),
        }
    }

    fn set_particulars(&self, set: Option<&TokenSet>) {
        let new = set.map(|set| Particulars {
            scope: set.scope.clone(),
            owner_id: set.owner_id.clone(),
            endpoint_id: set.endpoint_id.clone(),
        });
        *self.particulars.lock().unwrap_or_else(PoisonError::into_inner) = new.map(Box::new);
    }

    /// Waits until a usable token is published, or says at once why none will come. It waits
    /// through back-off and penalties; the caller bounds it.
    pub async fn wait_usable(&self) -> Result<(), Unavailable> {
        self.watch(View::sight_of_usable).await
    }

    /// Waits for a usable token or for the first failure to get one, whichever comes first; for
    /// those who would rather know than wait.
    pub async fn first_outcome(&self) -> Result<(), Unavailable> {
        self.watch(View::sight_of_outcome).await
    }

    /// Returns once there is a usable token, without hurrying anybody to get one.
    pub async fn became_usable(&self) {
        self.view.until(|view| view.usable(self.clock.now()).then_some(())).await;
    }

    /// Reports that RingCentral refused the token of `generation`, and waits for a later one.
    ///
    /// If there is one already, no renewal is started. The error says that none can be had now:
    /// terminal, or after a failed renewal, or within a penalty or cool-down.
    pub async fn rejected(&self, generation: Generation) -> Result<(), Unavailable> {
        let signals = &self.signals;
        if self.view.look().has_after(generation, self.clock.now()) {
            return Ok(());
        }
        signals.refused.fetch_max(generation.number(), Ordering::Relaxed);
        // Release: who sees the count sees the generation.
        let ours = signals.refusals.fetch_add(1, Ordering::Release) + 1;
        self.watch(|view, now| view.sight_after(generation, ours, now)).await
    }

    /// Has the token renewed now, whether or not that is due, and waits for what comes of it.
    ///
    /// Budget, lease and penalty are obeyed; back-off and cool-down are not waited for. The error
    /// says why there is no later token; the one there was may be good still.
    pub async fn renew(&self) -> Result<(), Unavailable> {
        let before = self.view.look().latest.map(|known| known.generation);
        let ours = self.signals.orders.fetch_add(1, Ordering::Release) + 1;
        self.watch(|view, now| view.sight_of_order(before, ours, now)).await
    }

    /// Reports that a request with this generation was let in. Cheap, but once per generation and
    /// thread is enough.
    pub fn accepted(&self, generation: Generation) {
        let before = self.signals.accepted.fetch_max(generation.number(), Ordering::Relaxed);
        if before < generation.number() {
            self.signals.wake.notify_one();
        }
    }

    /// Why there is no usable token now, and when to ask again.
    pub fn unavailable(&self) -> Unavailable {
        self.view.look().unavailable(self.clock.now())
    }

    /// How the identity is doing.
    pub fn status(&self) -> KeeperStatus {
        let (view, now) = (self.view.look(), self.clock.now());
        KeeperStatus {
            state: view.standing,
            usable: view.usable(now),
            generation: view.latest.map(|known| known.generation),
            issued_at: view.latest.map(|known| known.issued_at),
            expires_at: view.latest.map(|known| known.expires_at),
            refresh_expires_at: view.latest.and_then(|known| known.refresh.flatten()),
            dying: view.lives_by.and_then(|life| life.dying(now)),
            waiting: self.signals.waiting.load(Ordering::Relaxed),
            last_error: view.error.clone(),
        }
    }

    /// Tells the driver that every deadline has moved.
    pub(super) fn clock_set_back(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.signals.set_back.fetch_add(millis, Ordering::Relaxed);
        self.signals.wake.notify_one();
    }

    /// Tells the driver that another process has changed the stored session, to `generation` if
    /// that is known. What we have ourselves is no news.
    pub(super) fn changed(&self, generation: Option<Generation>) {
        let latest = self.view.look().latest.map(|known| known.generation);
        if generation.is_none() || generation > latest {
            self.signals.changed.store(true, Ordering::Relaxed);
            self.signals.wake.notify_one();
        }
    }

    /// The store has a session of this generation; anything but ours is news.
    pub(super) fn compared(&self, stored: Generation) {
        let latest = self.view.look().latest.map(|known| known.generation);
        if stored != latest.unwrap_or(Generation::NONE) {
            self.changed(None);
        }
    }

    /// Whose budget its token requests belong to.
    pub(super) fn client_id(&self) -> &str {
        &self.settings.application.client_id
    }

    /// Sees to it that a driver is at work.
    pub(super) fn hire(&self) {
        let post = &self.post;
        if !post.abolished.load(Ordering::Relaxed) && !post.taken.swap(true, Ordering::AcqRel) {
            // An error says that the process is ending.
            let _ = post.agency.send(post.id);
        }
    }

    /// The driver is about to leave, because nobody needs it.
    fn leave(&self) {
        self.set_particulars(None);
        self.post.taken.store(false, Ordering::Release);
        // Somebody may have come in the meantime, and taken the post for taken.
        if self.signals.waiting.load(Ordering::Acquire) > 0 {
            self.hire();
        }
    }

    /// The identity was removed: its driver leaves, and none comes after it.
    pub(super) fn dismiss(&self) {
        self.post.abolished.store(true, Ordering::Relaxed);
        self.signals.wake.notify_one();
    }

    /// Whether it was removed.
    pub(super) fn is_dismissed(&self) -> bool {
        self.post.abolished.load(Ordering::Relaxed)
    }

    /// Whether it was made from this enrolment.
    pub(super) fn has_enrolment(&self, enrolment: Option<&Enrolment>) -> bool {
        let jwt = match &self.settings.credential {
            Credential::Jwt(jwt) => Some(jwt.expose()),
            _ => None,
        };
        enrolment.is_some_and(|there| {
            there.client_id == self.client_id() && there.jwt.as_ref().map(Secret::expose) == jwt
        })
    }

    async fn watch(&self, look: impl Fn(&View, Timestamp) -> Sight) -> Result<(), Unavailable> {
        let _waiting = Waiting::of(&self.signals.waiting);
        let outcome = self.view.until(|view| match look(view, self.clock.now()) {
            Sight::Usable => Some(Ok(())),
            Sight::Never(why) => Some(Err(why)),
            Sight::Later => {
                self.hire();
                self.signals.wake.notify_one();
                None
            }
        });
        outcome.await
    }
}

/// Counts a caller for as long as it waits, also when it is dropped in the middle.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Signals {
    /// Everything reported since `seen`, and what to remember as seen.
    fn collect(&self, seen: Seen) -> (Vec<Signal>, Seen) {
        let mut signals = Vec::new();
        if self.changed.swap(false, Ordering::Relaxed) {
            signals.push(Signal::Changed);
        }
        let set_back = self.set_back.swap(0, Ordering::Relaxed);
        if set_back > 0 {
            signals.push(Signal::ClockSetBack(Duration::from_millis(set_back)));
        }
        signals.push(Signal::Accepted(Generation::new(self.accepted.load(Ordering::Relaxed))));
        let refusals = self.refusals.load(Ordering::Acquire);
        if refusals != seen.refusals {
            let generation = Generation::new(self.refused.load(Ordering::Relaxed));
            signals.push(Signal::Refused(generation));
        }
        if self.waiting.load(Ordering::Relaxed) > 0 {
            signals.push(Signal::Wanted);
        }
        let orders = self.orders.load(Ordering::Acquire);
        if orders != seen.orders {
            signals.push(Signal::Ordered);
        }
        (signals, Seen { refusals, orders })
    }
}

impl View {
    const fn starting() -> Self {
        Self {
            standing: Standing::Starting,
            offered: None,
            latest: None,
            lives_by: None,
            cool_until: Timestamp::from_unix_millis(0),
            refusals: 0,
            orders: 0,
            ordered: false,
            error: None,
            opens_at: None,
        }
    }

    fn usable(&self, now: Timestamp) -> bool {
        self.offered.is_some_and(|known| now < known.expires_at)
    }

    fn has_after(&self, generation: Generation, now: Timestamp) -> bool {
        self.usable(now) && self.offered.is_some_and(|known| known.generation > generation)
    }

    fn sight_of_usable(&self, now: Timestamp) -> Sight {
        match self.standing {
            _ if self.usable(now) => Sight::Usable,
            Standing::NeedsLogin(_) => Sight::Never(self.unavailable(now)),
            _ => Sight::Later,
        }
    }

    fn sight_of_outcome(&self, now: Timestamp) -> Sight {
        let elsewhere = |error: &Arc<TokenError>| matches!(**error, TokenError::LeaseHeld);
        match &self.error {
            _ if self.usable(now) => Sight::Usable,
            Some(error) if !elsewhere(error) => Sight::Never(self.unavailable(now)),
            _ => self.sight_of_usable(now),
        }
    }

    /// What the `ours`th refusal, of `generation`, may expect.
    fn sight_after(&self, generation: Generation, ours: u64, now: Timestamp) -> Sight {
        if self.has_after(generation, now) {
            return Sight::Usable;
        }
        let lapsed = self.latest.is_some_and(|known| known.generation > generation);
        match self.standing {
            _ if self.refusals < ours => Sight::Later,
            // The guide: requests queue while a lost answer or a failing server is tried again.
            Standing::Starting | Standing::Renewing | Standing::BackingOff(_) => Sight::Later,
            Standing::Resting if lapsed => Sight::Later,
            _ => Sight::Never(self.unavailable(now)),
        }
    }

    /// What the `ours`th order, given while `before` was the latest, has come to.
    fn sight_of_order(&self, before: Option<Generation>, ours: u64, now: Timestamp) -> Sight {
        let latest = self.latest.map(|known| known.generation);
        match () {
            () if self.orders < ours || self.ordered => Sight::Later,
            () if self.usable(now) && latest > before && self.error.is_none() => Sight::Usable,
            () => Sight::Never(self.unavailable(now)),
        }
    }

    fn unavailable(&self, now: Timestamp) -> Unavailable {
        let (until, fallback) = match self.standing {
            Standing::Starting | Standing::Renewing => {
                (self.opens_at.unwrap_or(now), TokenError::Starting)
            }
            Standing::Penalised(until) | Standing::BackingOff(until) => {
                (until, TokenError::Starting)
            }
            Standing::CoolingDown(until) => (until, TokenError::CoolingDown),
            Standing::Resting => (self.cool_until, TokenError::CoolingDown),
            Standing::NeedsLogin(Lost::LoggedOut) => (now + RETRY_WHEN_LOST, TokenError::LoggedOut),
            // What opens sessions itself was tried, and refused; a login there never was.
            Standing::NeedsLogin(Lost::NothingLeft) if self.latest.is_none() => {
                (now + RETRY_WHEN_LOST, TokenError::NotLoggedIn)
            }
            Standing::NeedsLogin(_) => (now + RETRY_WHEN_LOST, TokenError::NothingLeft),
        };
        let cooling = matches!(self.standing, Standing::CoolingDown(_) | Standing::Resting);
        let exhausted =
            matches!(self.standing, Standing::NeedsLogin(Lost::NothingLeft | Lost::LoggedOut));
        let error = self.error.clone().filter(|_| !cooling && !exhausted);
        Unavailable {
            reason: error.unwrap_or_else(|| Arc::new(fallback)),
            retry_after: now.until(until).max(Duration::from_secs(1)),
            terminal: matches!(self.standing, Standing::NeedsLogin(_)),
        }
    }

    /// Whether nobody could tell them apart.
    fn same(&self, other: &Self) -> bool {
        let error = |view: &Self| view.error.as_ref().map(Arc::as_ptr);
        self.standing == other.standing
            && self.offered == other.offered
            && self.latest == other.latest
            && self.lives_by == other.lives_by
            && self.cool_until == other.cool_until
            && self.refusals == other.refusals
            && self.orders == other.orders
            && self.ordered == other.ordered
            && self.opens_at == other.opens_at
            && error(self) == error(other)
    }
}

/// A login takes a person; asking more often than this helps nobody.
const RETRY_WHEN_LOST: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
