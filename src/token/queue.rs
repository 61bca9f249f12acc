//! The queue of one application's keepers before its [`Budget`]: the async shell that waits for a
//! turn and hands the permit back when the holder is done, whatever becomes of it.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::budget::{Budget, Class, Permit, Ticket, Turn};
use crate::clock::{Clock, Timestamp};

/// Token requests of one application, shared by all its identities.
#[derive(Debug)]
pub struct Queue {
    budget: Mutex<Budget>,
    moved: Notify,
    clock: Clock,
}

/// Whether to go on waiting.
#[derive(Debug)]
pub enum Progress<'a> {
    /// It is our turn.
    Turn(Held<'a>),
    /// Something changed: reconsider the class and call again.
    Again,
}

impl Queue {
    /// Of an application that may send `limit` token requests a minute.
    pub fn new(limit: usize, clock: Clock) -> Self {
        Self { budget: Mutex::new(Budget::new(limit)), moved: Notify::new(), clock }
    }

    /// Takes a place. Dropping it gives it up.
    pub fn join(&self, class: Class) -> Place<'_> {
        let ticket = self.budget().join(class);
        Place { queue: self, ticket }
    }

    /// Sends nothing until then.
    pub fn silence(&self, until: Timestamp) {
        self.budget().silence(until);
    }

    /// When the application may send again, if it is silent or out of budget now.
    pub fn opens_at(&self) -> Option<Timestamp> {
        self.budget().opens_at(self.clock.now())
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        let turn = {
            let mut budget = queue.budget();
            if budget.reclass(&mut self.ticket, class) {
                queue.moved.notify_waiters();
                // Our own call, too; harmless, the next look sees no change.
            }
            budget.take(&self.ticket, queue.clock.now())
        };
        match turn {
            Turn::Go(permit) => {
                queue.moved.notify_waiters();
                return Progress::Turn(Held { queue, permit: Some(permit), sent: false });
            }
            Turn::At(at) => tokio::select! {
                () = moved => {}
                () = queue.clock.sleep_until(at) => {}
            },
            Turn::Behind => moved.await,
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
        self.queue.silence(self.queue.clock.now() + silence);
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let permit = self.permit.take().expect("taken here only");
        let mut budget = self.queue.budget();
        if self.sent {
            budget.settle_sent(permit, self.queue.clock.now());
        } else {
            budget.settle_unsent(permit);
        }
        drop(budget);
        self.queue.moved.notify_waiters();
    }
}
