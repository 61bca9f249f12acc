//! What is known of all identities' limits, and who waits. All worker threads share it, and so do a
//! proxy and its successor: a reload forgets nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::sync::{Notify, oneshot};

use super::answer::{self, Said};
use super::book::{Book, Obstacle, Pool};
use super::groups::{Group, Groups};
use super::operations::{Operation, Operations};
use super::penalties::{Begun, Scope};
use super::share::Message;
use super::sharing::{Sharing, SharingFigures};
use super::turn::Turn;
use super::window::Quota;
use super::{Held, Want};
use crate::clock::{Clock, Timestamp};
use crate::metrics::{Hold, Throttling};
use crate::store::redis::limits::SharedLimits;
use crate::token::names::{IdentityNumber, Names};

/// Locks that the identities share.
pub(super) const WARDS: usize = 256;

/// Identities that have figures of their own.
const MOST_METERS: usize = 1024;

/// How often what is over is forgotten, where nothing else happens.
pub(super) const SWEEP: Duration = Duration::from_secs(60);

/// The limits of all identities, as far as they have shown.
#[derive(Debug)]
pub struct Board {
    pub(super) operations: Operations,
    pub(super) groups: Groups,
    pub(super) wards: Box<[Ward]>,
    meters: Box<[OnceLock<Box<Throttling>>]>,
    others: Throttling,
    /// Whether requests are or were paced: then somebody may wait.
    pub(super) is_paced: AtomicBool,
    pub(super) waiting: AtomicUsize,
    pub(super) tickets: AtomicU64,
    /// There is somebody new who waits for time to pass.
    pub(super) changed: Notify,
    /// None where the store is this process's alone.
    pub(super) sharing: Option<Sharing>,
    pub(super) heard: Arc<Names>,
    pub(super) clock: Clock,
}

/// Some identities.
#[derive(Debug, Default)]
pub(super) struct Ward {
    /// Until when anything of any of them is held, in milliseconds; it may be too late, never too
    /// early.
    pub(super) until: AtomicU64,
    books: Mutex<Books>,
}

pub(super) type Books = BTreeMap<IdentityNumber, Book<Waiter>>;

/// Who waits for a turn, and until when.
#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) turn: oneshot::Sender<Turn>,
    pub(super) deadline: Timestamp,
}

impl Board {
    /// Nothing is known yet but what RingCentral's descriptions say. Whose numbers stand for whom is in
    /// the names `heard`.
    pub fn new(heard: Arc<Names>, clock: Clock) -> Self {
        let operations = Operations::described();
        Self {
            groups: Groups::new(&operations),
            operations,
            wards: (0..WARDS).map(|_| Ward::default()).collect(),
            meters: (0..MOST_METERS).map(|_| OnceLock::new()).collect(),
            others: Throttling::default(),
            is_paced: AtomicBool::new(false),
            waiting: AtomicUsize::new(0),
            tickets: AtomicU64::new(0),
            changed: Notify::new(),
            sharing: None,
            heard,
            clock,
        }
    }

    /// The same, with what other processes know.
    #[must_use]
    pub fn shared(self, limits: SharedLimits) -> Self {
        Self { sharing: Some(Sharing::new(limits)), ..self }
    }

    /// Holds what another board holds now, by the same names.
    pub fn inherit(self: &Arc<Self>, other: &Self) {
        let now = self.clock.now();
        for ward in &other.wards {
            let held: Vec<_> = lock(&ward.books)
                .iter_mut()
                .flat_map(|(identity, book)| {
                    book.penalties.ends(now).into_iter().map(|(group, end)| (*identity, group, end))
                })
                .collect();
            for (identity, group, end) in held {
                let group = match group.map(|group| self.unwire(&other.wire(group))) {
                    Some(None) => continue,
                    Some(group) => group,
                    None => None,
                };
                self.hold(identity, group, now.until(end), now);
            }
        }
    }

    /// From now on somebody may wait.
    pub(super) fn pace(&self) {
        self.is_paced.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    /// Which operation a request asks for.
    pub fn operation(&self, method: &Method, target: &Uri, fields: &HeaderMap) -> Operation {
        self.operations.find(method, target, fields)
    }

    /// The request's time is over, and it has had no turn.
    pub fn gave_up(&self, identity: IdentityNumber, want: &Want, now: Timestamp) -> Held {
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
        identity: IdentityNumber,
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
            let figures = place.get_or_init(Box::default);
            figures.remains(id.index(), remaining, now.unix_secs());
            if let Some(Quota { limit, window, .. }) = said.quota() {
                figures.is_limited(id.index(), limit, window.as_secs());
            }
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
        identity: IdentityNumber,
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
    pub fn figures(&self, identity: IdentityNumber) -> Option<&Throttling> {
        self.meters.get(identity.index())?.get().map(|figures| &**figures)
    }

    /// The figures of all identities that can have none of their own.
    pub const fn other_figures(&self) -> &Throttling {
        &self.others
    }

    /// What this identity must not send now, and until when; no group stands for everything.
    pub fn silences(
        &self,
        identity: IdentityNumber,
        now: Timestamp,
    ) -> Vec<(Option<Group>, Timestamp)> {
        if self.ward(identity).until.load(Ordering::Acquire) <= now.unix_millis() {
            return Vec::new();
        }
        let mut books = self.books(identity);
        books.get_mut(&identity).map_or_else(Vec::new, |book| book.penalties.ends(now))
    }

    /// How it goes with what processes share, if they do.
    pub fn sharing_figures(&self) -> Option<SharingFigures> {
        self.sharing.as_ref().map(Sharing::figures)
    }

    pub(super) fn pool(&self, now: Timestamp) -> Pool {
        self.sharing.as_ref().map_or(Pool::Alone, |sharing| sharing.pool(now))
    }

    /// Gives turns in one ward, and says when that is next to be done, and what to tell the store.
    pub(super) fn pass(
        self: &Arc<Self>,
        ward: usize,
        now: Timestamp,
    ) -> (Option<Timestamp>, Vec<(IdentityNumber, Group, Message)>) {
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
    pub(super) fn hand_out(self: &Arc<Self>, identity: IdentityNumber, now: Timestamp) {
        let pool = self.pool(now);
        let mut books = self.books(identity);
        let due = books.get_mut(&identity).map(|book| book.due(pool, now)).unwrap_or_default();
        drop(books);
        for (group, waiter) in due {
            self.give(identity, group, waiter);
        }
        if self.waiting.load(Ordering::Relaxed) > 0 {
            self.changed.notify_one();
        }
    }

    fn give(self: &Arc<Self>, identity: IdentityNumber, group: Group, waiter: Waiter) {
        // Whoever has gone meanwhile leaves the turn here, and dropping it gives it to the next.
        drop(waiter.turn.send(Turn::new(self, identity, group)));
    }

    /// An answer to a request that had its turn in `lane`, and belongs to `group`.
    pub(super) fn answered(
        self: &Arc<Self>,
        identity: IdentityNumber,
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
    pub(super) fn vacate(self: &Arc<Self>, identity: IdentityNumber, group: Group, was_sent: bool) {
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
    pub(super) fn leave(&self, identity: IdentityNumber, group: Group, number: u64) {
        let mut books = self.books(identity);
        drop(books.get_mut(&identity).and_then(|book| book.leave(group, number)));
        drop(books);
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        self.meter(identity).wait(false);
    }

    pub(super) fn unless_held(
        &self,
        identity: IdentityNumber,
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

    fn begin(
        &self,
        identity: IdentityNumber,
        group: Group,
        length: Duration,
        now: Timestamp,
    ) -> Begun {
        let ward = self.ward(identity);
        let mut books = lock(&ward.books);
        if !self.is_paced.load(Ordering::Acquire) {
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
    pub(super) fn hold(
        self: &Arc<Self>,
        identity: IdentityNumber,
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

    pub(super) fn held(
        &self,
        identity: IdentityNumber,
        why: Hold,
        group: Group,
        wait: Duration,
    ) -> Held {
        self.meter(identity).hold(why);
        Held { why, group: self.groups.name(group).map(str::to_owned), retry_after: wait }
    }

    pub(super) fn groups_of(&self, operation: Operation) -> [Group; 2] {
        [self.groups.of(operation), Group::Own(operation)]
    }

    pub(super) fn meter(&self, identity: IdentityNumber) -> &Throttling {
        match self.meters.get(identity.index()) {
            Some(place) => place.get_or_init(Box::default),
            None => &self.others,
        }
    }

    pub(super) fn ward(&self, identity: IdentityNumber) -> &Ward {
        &self.wards[identity.index() % WARDS]
    }

    pub(super) fn books(&self, identity: IdentityNumber) -> MutexGuard<'_, Books> {
        lock(&self.ward(identity).books)
    }
}

pub(super) fn retry_after(obstacle: &Obstacle, now: Timestamp) -> Duration {
    obstacle.earliest.map_or(Duration::ZERO, |at| now.until(at)) + obstacle.ahead
}

/// A panic under the lock is a bug that shows by itself; the others may go on.
fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_board_holds_what_the_one_before_held_and_for_no_longer() {
        const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
        let (names, clock) = (Arc::<Names>::default(), Clock::manual(NOW));
        let board = || Arc::new(Board::new(Arc::clone(&names), clock.clone()));
        let old = board();
        let want = |board: &Board, path: &str| {
            let target = path.parse().unwrap();
            board.operation(&Method::GET, &target, &HeaderMap::new())
        };
        let [sales, support] = ["sales", "support"].map(|name| names.enter(name));
        let (heavy, light) = ("/restapi/v1.0/account/~/call-log", "/restapi/v1.0/account/~");
        let mut fields = HeaderMap::new();
        // The old board has heard of a group that the new one has not.
        fields.insert("x-rate-limit-group", "analytics".parse().unwrap());
        fields.insert("retry-after", "60".parse().unwrap());
        let (strange, refused) = (want(&old, "/new/v2/things"), StatusCode::TOO_MANY_REQUESTS);
        old.after(Turn::free(), sales, strange, refused, &fields, NOW).unwrap();
        fields.insert("x-rate-limit-group", "heavy".parse().unwrap());
        let begun = old.after(Turn::free(), support, want(&old, heavy), refused, &fields, NOW);
        old.rescope(support, &begun.unwrap(), Scope::Everything, NOW);

        clock.advance(Duration::from_secs(20));
        let (new, now) = (board(), clock.now());
        new.inherit(&old);
        let analytics = want(&new, "/new/v2/things");
        new.groups.learn(analytics, b"analytics");
        let left = |identity, operation| {
            new.unless_held(identity, operation, now).err().map(|held| held.retry_after.as_secs())
        };
        assert_eq!(left(sales, analytics), Some(40));
        assert_eq!(left(sales, want(&new, light)), None);
        assert_eq!(left(support, want(&new, light)), Some(40), "everything");
        let over = NOW + Duration::from_millis(60_011);
        assert_eq!(new.unless_held(support, want(&new, light), over), Ok(()));
    }
}
