//! The queue of one application's keepers before its [`Budget`]: the async shell that waits for a
//! turn and hands the permit back when the holder is done, whatever becomes of it.
//!
//! The budget orders the identities of this process; whoever is first there asks the store's
//! [`Ledger`](super::ledger) for all processes.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tracing::debug;

use super::budget::{Budget, Class, Permit, Ticket, Turn};
use super::ledger::{ASK_AGAIN, Leave, Ledger};
use crate::clock::{Clock, Timestamp};
use crate::settings::ApplicationSettings;
use crate::store::{StoreError, TokenStore};

/// Token requests of one application, shared by all its identities.
pub struct Queue {
    budget: Mutex<Budget>,
    moved: Notify,
    clock: Clock,
    shared: Arc<Shared>,
}

/// The application's accounts over all processes.
struct Shared {
    store: Arc<dyn TokenStore>,
    application: String,
    client_id: String,
    limit: usize,
    /// This process and application, by a name that no other has.
    process: String,
    requests: AtomicU64,
}

impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queue").field("process", &self.shared.process).finish_non_exhaustive()
    }
}

/// Whether to go on waiting.
#[derive(Debug)]
pub enum Progress<'a> {
    /// It is our turn.
    Turn(Held<'a>),
    /// Something changed: reconsider the class and call again.
    Again,
    /// The ledger cannot be had, and without it nothing is sent.
    Down(StoreError),
}

impl Queue {
    /// Of `application`, whose ledger is in `store`.
    pub fn new(
        application: &ApplicationSettings,
        store: Arc<dyn TokenStore>,
        clock: Clock,
    ) -> Self {
        let limit = application.token_requests_per_minute.get() as usize;
        let shared = Shared {
            store,
            application: application.name.clone(),
            client_id: application.client_id.clone(),
            limit,
            process: format!("{:016x}", fastrand::u64(..)),
            requests: AtomicU64::new(0),
        };
        let budget = Mutex::new(Budget::new(limit));
        Self { budget, moved: Notify::new(), clock, shared: Arc::new(shared) }
    }

    /// Whose it is, by its name in the configuration.
    pub fn application(&self) -> &str {
        &self.shared.application
    }

    /// Takes a place. Dropping it gives it up.
    pub fn join(&self, class: Class) -> Place<'_> {
        let ticket = self.budget().join(class);
        Place { queue: self, ticket }
    }

    /// When the application may send again, if it is silent or out of budget now.
    pub fn opens_at(&self) -> Option<Timestamp> {
        self.budget().opens_at(self.clock.now())
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the queue has moved or the time has come.
    async fn wait(&self, until: Timestamp) {
        tokio::select! {
            () = self.moved.notified() => {}
            () = self.clock.sleep_until(until) => {}
        }
    }
}

impl Shared {
    /// Asks in a task of its own: what is granted to a caller that is gone is given back.
    async fn ask(self: &Arc<Self>, class: Class) -> Result<Answer, StoreError> {
        let (tell, told) = oneshot::channel();
        let shared = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(Ok(Answer::Granted(request))) = tell.send(shared.post(class).await) {
                drop(shared.tell(move |ledger, now| ledger.settle(&request, false, now)));
            }
        });
        told.await.unwrap_or(Err(StoreError::Stopped))
    }

    async fn post(&self, class: Class) -> Result<Answer, StoreError> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let request = format!("{}-{number}", self.process);
        let mut answer = (Leave::Behind, Timestamp::from_unix_millis(0));
        let mut change = |ledger: &mut Ledger, now| {
            answer = (ledger.ask(&self.process, &request, class, self.limit, now), now);
        };
        self.store.post(&self.client_id, &mut change).await?;
        Ok(match answer {
            (Leave::Granted, _) => Answer::Granted(request),
            (Leave::At(at), now) => Answer::AskIn(now.until(at).min(ASK_AGAIN)),
            (Leave::Behind, _) => Answer::AskIn(ASK_AGAIN),
        })
    }

    /// Tells the ledger, in a task of its own: who is gone cannot wait. An account that is never
    /// settled lapses by itself.
    fn tell(
        &self,
        mut change: impl FnMut(&mut Ledger, Timestamp) + Send + 'static,
    ) -> JoinHandle<()> {
        let (store, client_id) = (Arc::clone(&self.store), self.client_id.clone());
        tokio::spawn(async move {
            if let Err(error) = store.post(&client_id, &mut change).await {
                debug!(%error, "the ledger of token requests was not told");
            }
        })
    }
}

/// What the ledger said.
enum Answer {
    /// The request that may be sent.
    Granted(String),
    /// How long to wait before asking again.
    AskIn(Duration),
}

/// A place in the queue.
#[derive(Debug)]
pub struct Place<'a> {
    queue: &'a Queue,
    ticket: Ticket,
}

impl<'a> Place<'a> {
    /// Changes the class if need be, then waits for the turn or for the queue to move.
    pub async fn progress(&mut self, class: Class) -> Progress<'a> {
        let queue = self.queue;
        let mut moved = std::pin::pin!(queue.moved.notified());
        moved.as_mut().enable();
        let blocked = {
            let mut budget = queue.budget();
            if budget.reclass(&mut self.ticket, class) {
                queue.moved.notify_waiters();
                // Our own call, too; harmless, the next look sees no change.
            }
            budget.blocked(&self.ticket, queue.clock.now())
        };
        match blocked {
            None => return self.ask(class).await,
            Some(Turn::At(at)) => tokio::select! {
                () = moved => {}
                () = queue.clock.sleep_until(at) => {}
            },
            Some(_) => moved.await,
        }
        Progress::Again
    }

    /// We are first in this process; perhaps in all.
    async fn ask(&self, class: Class) -> Progress<'a> {
        let queue = self.queue;
        match queue.shared.ask(class).await {
            Ok(Answer::Granted(request)) => {
                let permit = queue.budget().grant(&self.ticket);
                queue.moved.notify_waiters();
                return Progress::Turn(Held { queue, request, permit: Some(permit), sent: false });
            }
            Ok(Answer::AskIn(wait)) => queue.wait(queue.clock.now() + wait).await,
            Err(error) => return Progress::Down(error),
        }
        Progress::Again
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.queue.budget().leave(&self.ticket);
        self.queue.moved.notify_waiters();
    }
}

/// A permit that finds its way back.
#[derive(Debug)]
pub struct Held<'a> {
    queue: &'a Queue,
    request: String,
    permit: Option<Permit>,
    sent: bool,
}

impl Held<'_> {
    /// The request is about to be sent.
    pub fn sending(&mut self) {
        self.sent = true;
    }

    /// It turned out that it never left.
    pub fn not_sent(&mut self) {
        self.sent = false;
    }

    /// The server asked for silence.
    pub fn silence(&self, silence: Duration) {
        self.queue.budget().silence(self.queue.clock.now() + silence);
        drop(self.queue.shared.tell(move |ledger, now| ledger.silence(now + silence)));
    }

    /// Gives the permit back, and returns when all processes can know.
    pub async fn settle(mut self) {
        if let Some(told) = self.give_back() {
            // It ends, whatever comes of it.
            let _ = told.await;
        }
    }

    fn give_back(&mut self) -> Option<JoinHandle<()>> {
        let permit = self.permit.take()?;
        let (request, sent) = (std::mem::take(&mut self.request), self.sent);
        let mut budget = self.queue.budget();
        if sent {
            budget.settle_sent(permit, self.queue.clock.now());
        } else {
            budget.settle_unsent(permit);
        }
        drop(budget);
        let told = self.queue.shared.tell(move |ledger, now| ledger.settle(&request, sent, now));
        self.queue.moved.notify_waiters();
        Some(told)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        drop(self.give_back());
    }
}
