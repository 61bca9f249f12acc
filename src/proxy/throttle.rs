//! Holds RingCentral's line: after a 429 nothing of that identity and group is sent until the penalty
//! is over, and where requests are paced, nothing is sent that would meet one.
//!
//! All worker threads share one [`Throttle`], for the penalty holds whoever met it. A request that
//! nothing is held against takes no lock: it finds its operation, and looks at one number that tells
//! until when anything of its identity is held. What is remembered of an identity is pure and stands
//! in a [`Book`](book::Book), behind a lock that few identities share and no wait ever holds.
//! Where requests are paced, each of them looks into the book.

pub mod answer;
pub mod book;
pub mod groups;
pub mod operations;
pub mod penalties;
pub mod queue;
pub mod share;
mod sharing;
mod turn;
pub mod window;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::sync::{Notify, oneshot};

use crate::clock::{Clock, Timestamp};
use crate::metrics::{Hold, Throttling};
use crate::settings::ThrottleSettings;
use crate::store::redis::limits::SharedLimits;
use crate::token::identities::IdentityId;
use answer::Said;
use book::{Book, Obstacle, Pool};
use groups::{Group, Groups};
use operations::{Operation, Operations};
use penalties::{Begun, Scope};
use queue::Caller;
use share::Message;
use sharing::Sharing;
pub use sharing::SharingFigures;
pub use turn::{Turn, Waiting};
use window::Quota;

/// Locks that the identities share.
const WARDS: usize = 256;

/// Identities that have figures of their own.
const MOST_METERS: usize = 1024;

/// How often what is over is forgotten, where nothing else happens.
const SWEEP: Duration = Duration::from_secs(60);

/// The limits of all identities, as far as they have shown.
#[derive(Debug)]
pub struct Throttle {
    operations: Operations,
    groups: Groups,
    wards: Box<[Ward]>,
    meters: Box<[OnceLock<Box<Throttling>>]>,
    others: Throttling,
    pacing: Option<Pacing>,
    /// None where the store is this process's alone.
    sharing: Option<Sharing>,
    clock: Clock,
}

/// Some identities.
#[derive(Debug, Default)]
struct Ward {
    /// Until when anything of any of them is held, in milliseconds; it may be too late, never too
    /// early.
    until: AtomicU64,
    books: Mutex<Books>,
}

type Books = BTreeMap<IdentityId, Book<Waiter>>;

/// Who waits for a turn, and until when.
#[derive(Debug)]
struct Waiter {
    turn: oneshot::Sender<Turn>,
    deadline: Timestamp,
}

/// What waits.
#[derive(Debug)]
struct Pacing {
    max_wait: Duration,
    max_queue: usize,
    waiting: AtomicUsize,
    tickets: AtomicU64,
    /// There is somebody new who waits for time to pass.
    changed: Notify,
}

/// A request, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Want {
    /// What it asks for.
    pub operation: Operation,
    /// Whose it is.
    pub caller: Caller,
    /// How long it may wait for its turn.
    pub max_wait: Duration,
}

/// A request that is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Why.
    pub why: Hold,
    /// The group, if the operation is in one.
    pub group: Option<String>,
    /// When it may be otherwise.
    pub retry_after: Duration,
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Verdict {
    /// It may be sent.
    Send(Turn),
    /// It has a place in the queue.
    Wait(Waiting),
}

impl Throttle {
    /// Nothing is known yet but what RingCentral's descriptions say.
    pub fn new(settings: &ThrottleSettings, clock: Clock) -> Self {
        let operations = Operations::described();
        let groups = Groups::new(&operations);
        let pacing = settings.pacing.as_ref().map(|pacing| Pacing {
            max_wait: pacing.max_wait,
            max_queue: pacing.max_queue,
            waiting: AtomicUsize::new(0),
            tickets: AtomicU64::new(0),
            changed: Notify::new(),
        });
        let wards = (0..WARDS).map(|_| Ward::default()).collect();
        let meters = (0..MOST_METERS).map(|_| OnceLock::new()).collect();
        let (others, sharing) = (Throttling::default(), None);
        Self { operations, groups, wards, meters, others, pacing, sharing, clock }
    }

    /// The same, with what other processes know.
    #[must_use]
    pub fn shared(self, limits: SharedLimits) -> Self {
        Self { sharing: Some(Sharing::new(limits)), ..self }
    }

    /// Which operation a request asks for.
    pub fn operation(&self, method: &Method, target: &Uri, fields: &HeaderMap) -> Operation {
        self.operations.find(method, target, fields)
    }

    /// How long a request waits for its turn unless it says otherwise; `None` if none ever waits.
    pub fn max_wait(&self) -> Option<Duration> {
        self.pacing.as_ref().map(|pacing| pacing.max_wait)
    }

    /// Whether nothing is held against anything of this identity. Where requests are paced, each of
    /// them is looked at.
    #[inline]
    pub fn is_quiet(&self, identity: IdentityId, now: Timestamp) -> bool {
        self.pacing.is_none()
            && self.ward(identity).until.load(Ordering::Acquire) <= now.unix_millis()
    }

    /// Whether the request may be sent now; `None` if it may wait for that.
    pub fn at_once(
        self: &Arc<Self>,
        identity: IdentityId,
        want: &Want,
        now: Timestamp,
    ) -> Result<Option<Turn>, Held> {
        if self.pacing.is_some() {
            let groups = self.groups_of(want.operation);
            let entered = self.books(identity).entry(identity).or_default().enter(
                &groups,
                self.pool(now),
                now,
            );
            return Ok(entered.ok().map(|()| Turn::new(self, identity, groups[0])));
        }
        if self.is_quiet(identity, now) {
            return Ok(Some(Turn::free()));
        }
        self.unless_held(identity, want.operation, now).map(|()| Some(Turn::free()))
    }

    /// Whether the request may be sent, waits for that until `deadline`, or is not sent at all.
    pub fn before(
        self: &Arc<Self>,
        identity: IdentityId,
        want: &Want,
        deadline: Timestamp,
        now: Timestamp,
    ) -> Result<Verdict, Held> {
        let Some(pacing) = &self.pacing else {
            let turn = self.at_once(identity, want, now)?;
            return Ok(Verdict::Send(turn.expect("without pacing nobody waits")));
        };
        let groups = self.groups_of(want.operation);
        let mut books = self.books(identity);
        let book = books.entry(identity).or_default();
        let Err(obstacle) = book.enter(&groups, self.pool(now), now) else {
            drop(books);
            return Ok(Verdict::Send(Turn::new(self, identity, groups[0])));
        };
        let why = if obstacle.earliest.is_some_and(|earliest| earliest > deadline) {
            Some(if obstacle.penalty.is_some() { Hold::Penalty } else { Hold::Turn })
        } else if pacing.waiting.load(Ordering::Relaxed) >= pacing.max_queue {
            Some(Hold::Queue)
        } else {
            None
        };
        if let Some(why) = why {
            return Err(self.held(identity, why, groups[0], retry_after(&obstacle, now)));
        }
        let (number, (turn, given)) =
            (pacing.tickets.fetch_add(1, Ordering::Relaxed), oneshot::channel());
        book.wait(groups[0], want.caller, number, Waiter { turn, deadline });
        drop(books);
        pacing.waiting.fetch_add(1, Ordering::Relaxed);
        self.meter(identity).wait(true);
        pacing.changed.notify_one();
        Ok(Verdict::Wait(Waiting::new(self, identity, groups[0], number, given)))
    }

    /// The request's time is over, and it has had no turn.
    pub fn gave_up(&self, identity: IdentityId, want: &Want, now: Timestamp) -> Held {
        let groups = self.groups_of(want.operation);
        let mut books = self.books(identity);
        let book = books.entry(identity).or_default();
        let (why, retry_in) = match book.enter(&groups, self.pool(now), now) {
            Ok(()) => {
                book.give_back(groups[0]);
                (Hold::Turn, Duration::ZERO)
            }
            Err(obstacle) if obstacle.penalty.is_some() => {
                (Hold::Penalty, retry_after(&obstacle, now))
            }
            Err(obstacle) => (Hold::Turn, retry_after(&obstacle, now)),
        };
        drop(books);
        self.held(identity, why, groups[0], retry_in)
    }

    /// Whether a turn is still for the group that the operation is in.
    pub fn fits(&self, turn: &Turn, operation: Operation) -> bool {
        turn.group().is_none_or(|group| group == self.groups.of(operation))
    }

    /// An answer was read. A 429 begins a penalty, whose [scope](Self::rescope) its code decides.
    pub fn after(
        self: &Arc<Self>,
        turn: Turn,
        identity: IdentityId,
        operation: Operation,
        status: StatusCode,
        fields: &HeaderMap,
        now: Timestamp,
    ) -> Option<Box<Begun>> {
        let said = Said::read(fields);
        let group = match said.group {
            Some(name) => self.groups.learn(operation, name),
            None => self.groups.of(operation),
        };
        if let (Group::Named(id), Some(remaining)) = (group, said.remaining())
            && let Some(place) = self.meters.get(identity.index())
        {
            place.get_or_init(Box::default).remains(id.index(), remaining, now.unix_secs());
        }
        let refused = status == StatusCode::TOO_MANY_REQUESTS;
        let begun = refused.then(|| {
            let length = answer::silence(fields, now);
            Box::new(self.begin(identity, group, length, now))
        });
        if turn.group().is_some() {
            // A refused token or a failure says nothing of limits, unless it does.
            let is_answer = !status.is_server_error() && status != StatusCode::UNAUTHORIZED;
            let quota = said.quota();
            turn.answered(group, quota, refused || (quota.is_none() && !is_answer), now);
        }
        begun
    }

    /// The code of a 429 was read.
    pub fn rescope(
        self: &Arc<Self>,
        identity: IdentityId,
        begun: &Begun,
        scope: Scope,
        now: Timestamp,
    ) {
        let mut books = self.books(identity);
        let Some(book) = books.get_mut(&identity) else { return };
        book.penalties.rescope(begun, scope);
        drop(books);
        if let Some(sharing) = &self.sharing {
            sharing.tell(identity, begun, scope);
        }
        // A duplicate holds nobody, so somebody may go.
        self.hand_out(identity, now);
    }

    /// What is known of groups.
    pub fn groups(&self) -> &Groups {
        &self.groups
    }

    /// The figures of one identity, if it has any of its own.
    pub fn figures(&self, identity: IdentityId) -> Option<&Throttling> {
        self.meters.get(identity.index())?.get().map(|figures| &**figures)
    }

    /// The figures of all identities that can have none of their own.
    pub const fn other_figures(&self) -> &Throttling {
        &self.others
    }

    /// How it goes with what processes share, if they do.
    pub fn sharing_figures(&self) -> Option<SharingFigures> {
        self.sharing.as_ref().map(Sharing::figures)
    }

    fn pool(&self, now: Timestamp) -> Pool {
        self.sharing.as_ref().map_or(Pool::Alone, |sharing| sharing.pool(now))
    }

    /// Gives turns in one ward, and says when that is next to be done, and what to tell the store.
    fn pass(
        self: &Arc<Self>,
        ward: usize,
        now: Timestamp,
    ) -> (Option<Timestamp>, Vec<(IdentityId, Group, Message)>) {
        let pool = self.pool(now);
        let mut books = lock(&self.wards[ward].books);
        let mut due = Vec::new();
        books.retain(|identity, book| {
            due.extend(
                book.due(pool, now).into_iter().map(|(group, waiter)| (*identity, group, waiter)),
            );
            !book.is_over(now)
        });
        let (messages, settles) = self.words(&mut books, now);
        let hears = self.sharing.as_ref().is_some_and(Sharing::is_up);
        let next = books.values_mut().filter_map(|book| book.next(pool, hears, now)).min();
        drop(books);
        for (identity, group, waiter) in due {
            self.give(identity, group, waiter);
        }
        (next.into_iter().chain(settles).min(), messages)
    }

    /// Gives one identity's turns: a place has become free.
    fn hand_out(self: &Arc<Self>, identity: IdentityId, now: Timestamp) {
        let pool = self.pool(now);
        let mut books = self.books(identity);
        let due = books.get_mut(&identity).map(|book| book.due(pool, now)).unwrap_or_default();
        drop(books);
        for (group, waiter) in due {
            self.give(identity, group, waiter);
        }
        if let Some(pacing) = &self.pacing
            && pacing.waiting.load(Ordering::Relaxed) > 0
        {
            pacing.changed.notify_one();
        }
    }

    fn give(self: &Arc<Self>, identity: IdentityId, group: Group, waiter: Waiter) {
        // Whoever has gone meanwhile leaves the turn here, and dropping it gives it to the next.
        drop(waiter.turn.send(Turn::new(self, identity, group)));
    }

    /// An answer to a request that had its turn in `lane`, and belongs to `group`.
    fn answered(
        self: &Arc<Self>,
        identity: IdentityId,
        lane: Group,
        group: Group,
        quota: Option<Quota>,
        refused: bool,
        now: Timestamp,
    ) {
        let mut books = self.books(identity);
        books.entry(identity).or_default().answered(lane, group, quota, refused, now);
        drop(books);
        self.hand_out(identity, now);
    }

    /// A turn was not used up by an answer.
    fn vacate(self: &Arc<Self>, identity: IdentityId, group: Group, was_sent: bool) {
        let now = self.clock.now();
        let mut books = self.books(identity);
        let book = books.entry(identity).or_default();
        if was_sent {
            book.lose(group, now);
        } else {
            book.give_back(group);
        }
        drop(books);
        self.hand_out(identity, now);
    }

    /// Somebody waits no more.
    fn leave(&self, identity: IdentityId, group: Group, number: u64) {
        let mut books = self.books(identity);
        drop(books.get_mut(&identity).and_then(|book| book.leave(group, number)));
        drop(books);
        if let Some(pacing) = &self.pacing {
            pacing.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        self.meter(identity).wait(false);
    }

    fn unless_held(
        &self,
        identity: IdentityId,
        operation: Operation,
        now: Timestamp,
    ) -> Result<(), Held> {
        let groups = self.groups_of(operation);
        let mut books = self.books(identity);
        let end = books.get_mut(&identity).and_then(|book| book.penalties.end(&groups, now));
        drop(books);
        match end {
            Some(end) => Err(self.held(identity, Hold::Penalty, groups[0], now.until(end))),
            None => Ok(()),
        }
    }

    fn begin(&self, identity: IdentityId, group: Group, length: Duration, now: Timestamp) -> Begun {
        let ward = self.ward(identity);
        let mut books = lock(&ward.books);
        if self.pacing.is_none() {
            books.retain(|_, book| !book.is_over(now));
        }
        let book = books.entry(identity).or_default();
        let begun = book.penalties.begin(group, length, now);
        // Under the lock: whoever sees this number finds the penalty.
        let until = book.penalties.last_end(now).map_or(0, Timestamp::unix_millis);
        ward.until.fetch_max(until, Ordering::Release);
        drop(books);
        self.meter(identity).begin();
        begun
    }

    /// Another process has met a penalty, of one group or of all.
    fn hold(
        self: &Arc<Self>,
        identity: IdentityId,
        group: Option<Group>,
        length: Duration,
        now: Timestamp,
    ) {
        let ward = self.ward(identity);
        let mut books = lock(&ward.books);
        let book = books.entry(identity).or_default();
        match group {
            Some(group) => drop(book.penalties.begin(group, length, now)),
            None => book.penalties.begin_all(length, now),
        }
        let until = book.penalties.last_end(now).map_or(0, Timestamp::unix_millis);
        ward.until.fetch_max(until, Ordering::Release);
        drop(books);
        self.hand_out(identity, now);
    }

    fn held(&self, identity: IdentityId, why: Hold, group: Group, wait: Duration) -> Held {
        self.meter(identity).hold(why);
        Held { why, group: self.groups.name(group).map(str::to_owned), retry_after: wait }
    }

    fn groups_of(&self, operation: Operation) -> [Group; 2] {
        [self.groups.of(operation), Group::Own(operation)]
    }

    fn meter(&self, identity: IdentityId) -> &Throttling {
        match self.meters.get(identity.index()) {
            Some(place) => place.get_or_init(Box::default),
            None => &self.others,
        }
    }

    fn ward(&self, identity: IdentityId) -> &Ward {
        &self.wards[identity.index() % WARDS]
    }

    fn books(&self, identity: IdentityId) -> MutexGuard<'_, Books> {
        lock(&self.ward(identity).books)
    }
}

fn retry_after(obstacle: &Obstacle, now: Timestamp) -> Duration {
    obstacle.earliest.map_or(Duration::ZERO, |at| now.until(at)) + obstacle.ahead
}

/// A panic under the lock is a bug that shows by itself; the others may go on.
fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}
