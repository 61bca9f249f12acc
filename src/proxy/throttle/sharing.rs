//! What the proxies on one store tell each other: penalties as they are met, and where requests are
//! paced, how many of a window's places each of them has.
//!
//! All of it happens on the control thread, and no request speaks to the store. While the store is
//! away each process keeps to its own part of a limit, by the number of processes that there were and
//! by what RingCentral's answers say is left. When it is back, all of them tell what they have sent
//! before any of them asks for more.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tracing::{debug, info, warn};

use super::board::{Board, Books, SWEEP, WARDS};
use super::book::Pool;
use super::groups::Group;
use super::operations::Operation;
use super::penalties::{Begun, Scope};
use super::share::Message;
use crate::clock::{Clock, Timestamp};
use crate::store::StoreError;
use crate::store::redis::limits::{Contact, Heard, SharedLimits, Silence};
use crate::telemetry::chain;
use crate::token::names::IdentityNumber;

/// How often a process says that it is there.
const BEAT: Duration = Duration::from_secs(5);

/// How often a store that is away is asked whether it is back, and others are told of what it missed.
const KNOCK: Duration = Duration::from_secs(1);

/// For how long after that nobody asks for places: others may not have noticed yet.
const SETTLE: Duration = Duration::from_secs(3);

/// Stands for no time at all.
const AWAY: u64 = u64::MAX;

/// Stands for all groups.
const EVERYTHING: &str = "*";

/// How the store is spoken to.
#[derive(Debug)]
pub(super) struct Sharing {
    limits: SharedLimits,
    /// Since when, in milliseconds, places are had from the store; [`AWAY`] while it does not answer.
    settled_at: AtomicU64,
    /// Counts how often it came back.
    session: AtomicU32,
    replicas: AtomicU32,
    tell: UnboundedSender<Told>,
    told: Mutex<UnboundedReceiver<Told>>,
    asked: AtomicU64,
    exchanges: [AtomicU64; 2],
    heard: AtomicU64,
}

/// A penalty that others are to know of.
#[derive(Clone, Copy, Debug)]
struct Told {
    identity: IdentityNumber,
    /// None for all of them.
    group: Option<Group>,
    until: Timestamp,
}

/// How sharing goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharingFigures {
    /// Whether the store answers.
    pub is_up: bool,
    /// Processes that share.
    pub replicas: u32,
    /// How often it was spoken to about windows.
    pub asked: u64,
    /// How often it has answered.
    pub answered: u64,
    /// How often it has not.
    pub failed: u64,
    /// Penalties that others have met.
    pub heard: u64,
}

impl Sharing {
    pub(super) fn new(limits: SharedLimits) -> Self {
        let (tell, told) = unbounded_channel();
        Self {
            limits,
            settled_at: AtomicU64::new(0),
            session: AtomicU32::new(0),
            replicas: AtomicU32::new(1),
            tell,
            told: Mutex::new(told),
            asked: AtomicU64::new(0),
            exchanges: [AtomicU64::new(0), AtomicU64::new(0)],
            heard: AtomicU64::new(0),
        }
    }

    /// Whose windows are at this time.
    pub(super) fn pool(&self, now: Timestamp) -> Pool {
        if self.settled_at.load(Ordering::Acquire) <= now.unix_millis() {
            Pool::Shared
        } else {
            Pool::Part(self.replicas.load(Ordering::Relaxed))
        }
    }

    /// Others shall know of a penalty.
    pub(super) fn tell(&self, identity: IdentityNumber, begun: &Begun, scope: Scope) {
        let group = match scope {
            Scope::Group => Some(begun.group()),
            Scope::Everything => None,
            Scope::Request => return,
        };
        // An error says that the process is ending.
        let _ = self.tell.send(Told { identity, group, until: begun.until() });
    }

    pub(super) fn figures(&self) -> SharingFigures {
        let [answered, failed] = [0, 1].map(|at| self.exchanges[at].load(Ordering::Relaxed));
        let replicas = self.replicas.load(Ordering::Relaxed);
        let heard = self.heard.load(Ordering::Relaxed);
        let asked = self.asked.load(Ordering::Relaxed);
        SharingFigures { is_up: self.is_up(), replicas, asked, answered, failed, heard }
    }

    pub(super) fn is_up(&self) -> bool {
        self.settled_at.load(Ordering::Acquire) != AWAY
    }

    fn went_away(&self, error: &StoreError) {
        if self.settled_at.swap(AWAY, Ordering::AcqRel) != AWAY {
            let replicas = self.replicas.load(Ordering::Relaxed);
            let cause = chain(error);
            warn!(cause, replicas, "limits are not shared: each proxy keeps to its own part");
        }
    }

    fn came_back(&self, now: Timestamp) {
        if self.is_up() {
            return;
        }
        self.session.fetch_add(1, Ordering::Relaxed);
        self.settled_at.store((now + SETTLE).unix_millis(), Ordering::Release);
        info!("limits are shared again");
    }
}

impl Board {
    /// Gives those who wait their turns as time passes, and hears of what others have met. It never
    /// returns.
    pub async fn run(self: &Arc<Self>) {
        tokio::join!(self.give_turns(), self.share_penalties(), self.beat());
    }

    async fn give_turns(self: &Arc<Self>) {
        while !self.is_paced.load(Ordering::Acquire) {
            self.changed.notified().await;
        }
        let mut contacts = FuturesUnordered::new();
        loop {
            let now = self.clock.now();
            let mut until = now + SWEEP;
            for ward in 0..WARDS {
                let (next, messages) = self.pass(ward, now);
                until = until.min(next.unwrap_or(until));
                contacts.extend(
                    messages
                        .into_iter()
                        .map(|(identity, group, message)| self.speak(identity, group, message)),
                );
            }
            tokio::select! {
                biased;
                Some(()) = contacts.next(), if !contacts.is_empty() => {}
                () = self.changed.notified() => {}
                () = self.clock.sleep_until(until) => {}
            }
        }
    }

    /// What is to be told to the store, and when there is next something to do.
    pub(super) fn words(
        &self,
        books: &mut Books,
        now: Timestamp,
    ) -> (Vec<(IdentityNumber, Group, Message)>, Option<Timestamp>) {
        let Some(sharing) = self.sharing.as_ref().filter(|sharing| sharing.is_up()) else {
            return (Vec::new(), None);
        };
        let (pool, session) = (sharing.pool(now), sharing.session.load(Ordering::Relaxed));
        let mut all = Vec::new();
        for (identity, book) in books {
            let messages = book.messages(session, pool == Pool::Shared, now);
            all.extend(messages.into_iter().map(|(group, message)| (*identity, group, message)));
        }
        let settled = Timestamp::from_unix_millis(sharing.settled_at.load(Ordering::Acquire));
        (all, Some(settled).filter(|at| *at > now))
    }

    async fn speak(self: &Arc<Self>, identity: IdentityNumber, group: Group, message: Message) {
        let Some(sharing) = &self.sharing else { return };
        let contact = Contact {
            identity: self.heard.name(identity).to_owned(),
            group: self.wire(group),
            life: message.life,
            now: self.clock.is_manual().then_some(message.at),
            held: message.held,
            first: message.first,
            ages: message.ages.clone(),
            told: message.told,
            need: message.need,
            spare: message.spare,
        };
        sharing.asked.fetch_add(1, Ordering::Relaxed);
        let granted = sharing.limits.exchange(&contact).await;
        sharing.exchanges[usize::from(granted.is_err())].fetch_add(1, Ordering::Relaxed);
        if let Err(error) = &granted {
            sharing.went_away(error);
        }
        let now = self.clock.now();
        let grant = granted.as_ref().ok();
        let missing = self.books(identity).get_mut(&identity).map(|book| {
            book.heard(group, &message, grant, |waiter, opens| waiter.deadline < opens, now)
        });
        // Who is let go of here asks again, and is told.
        drop(missing);
        self.hand_out(identity, now);
    }

    async fn share_penalties(self: &Arc<Self>) {
        let Some(sharing) = &self.sharing else { return pending().await };
        let (mut told, mut heard) = (sharing.told.lock().await, sharing.limits.listen());
        let (mut tellings, mut asks) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            tokio::select! {
                Some(penalty) = told.recv() => tellings.push(self.pass_on(penalty)),
                Some(heard) = heard.recv() => match heard {
                    Heard::Silence(silence) => self.hush(&silence),
                    Heard::Anew => asks.push(self.ask_for_silences()),
                    Heard::Nothing => {}
                },
                Some(()) = tellings.next(), if !tellings.is_empty() => {}
                Some(()) = asks.next(), if !asks.is_empty() => {}
            }
        }
    }

    /// Tells of a penalty, as long as it lasts.
    async fn pass_on(&self, told: Told) {
        let Some(sharing) = &self.sharing else { return };
        let group = told.group.map_or_else(|| EVERYTHING.to_owned(), |group| self.wire(group));
        let identity = self.heard.name(told.identity).to_owned();
        let mut silence = Silence { identity, group, length: Duration::ZERO };
        loop {
            silence.length = self.clock.now().until(told.until);
            if silence.length.is_zero() {
                return;
            }
            match sharing.limits.silence(&silence).await {
                Ok(()) => return,
                Err(error) => debug!(cause = chain(&error), "nobody was told of a penalty"),
            }
            self.clock.sleep(KNOCK).await;
        }
    }

    async fn ask_for_silences(self: &Arc<Self>) {
        let Some(sharing) = &self.sharing else { return };
        loop {
            match sharing.limits.silences().await {
                Ok(all) => return all.iter().for_each(|silence| self.hush(silence)),
                Err(error) => debug!(cause = chain(&error), "nobody tells of penalties"),
            }
            Clock::system().sleep(KNOCK).await;
        }
    }

    /// Another process has met a penalty.
    fn hush(self: &Arc<Self>, silence: &Silence) {
        let Some(identity) = self.heard.find(&silence.identity) else { return };
        let group = match &*silence.group {
            EVERYTHING => None,
            name => match self.unwire(name) {
                Some(group) => Some(group),
                None => return,
            },
        };
        if let Some(sharing) = &self.sharing {
            sharing.heard.fetch_add(1, Ordering::Relaxed);
        }
        self.hold(identity, group, silence.length, self.clock.now());
    }

    async fn beat(&self) {
        let Some(sharing) = &self.sharing else { return pending().await };
        loop {
            match sharing.limits.beat().await {
                Ok(replicas) => {
                    sharing.replicas.store(replicas.max(1), Ordering::Relaxed);
                    sharing.came_back(self.clock.now());
                }
                Err(error) => sharing.went_away(&error),
            }
            self.changed.notify_one();
            self.clock.sleep(if sharing.is_up() { BEAT } else { KNOCK }).await;
        }
    }

    /// A group as other processes know it. What has no name is known by its number, and to those of
    /// this version only, whose table of operations is the same.
    pub(super) fn wire(&self, group: Group) -> String {
        match (group, self.groups.name(group)) {
            (_, Some(name)) => name.to_owned(),
            (Group::Own(operation), None) => format!("{OWN}{:x}", operation.number()),
            (Group::Named(_), None) => unreachable!("a name was heard"),
        }
    }

    pub(super) fn unwire(&self, name: &str) -> Option<Group> {
        match name.strip_prefix(OWN) {
            Some(number) => {
                let number = u64::from_str_radix(number, 16).ok()?;
                Operation::of_number(number, self.operations.count()).map(Group::Own)
            }
            None => self.groups.named(name.as_bytes()).map(Group::Named),
        }
    }
}

const OWN: &str = concat!("#", env!("CARGO_PKG_VERSION"), "#");
