//! One client connection: how long it may idle, and how it learns that the server is draining.

use std::cell::{Cell, RefCell};
use std::error::Error;
use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::HttpService;
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use slab::Slab;

use super::guard::{Post, Waits};
use super::patience::Patience;
use crate::metrics::traffic::Tally;
use crate::timers::Deadline;
use crate::upstream::LocalExecutor;

/// How long the end waits for a request on a connection that has had none.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// The connections of one worker.
#[derive(Clone, Debug, Default)]
pub(super) struct Connections(Rc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// How many there are, from the moment of their acceptance.
    guests: Cell<usize>,
    /// The task of every connection that has begun.
    tasks: RefCell<Slab<Waker>>,
    /// Whether connections are to end as soon as they can.
    closing: Cell<bool>,
    all_gone: tokio::sync::Notify,
}

impl Connections {
    /// One that has just been accepted. Its task may be a while in coming, and the end waits for it.
    pub(super) fn guest(&self) -> Guest {
        self.0.guests.set(self.0.guests.get() + 1);
        Guest(self.clone())
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.0.guests.get()
    }

    /// Tells every connection to finish the request in progress and end.
    pub(super) fn close(&self) {
        self.0.closing.set(true);
        self.0.tasks.borrow().iter().for_each(|(_, task)| task.wake_by_ref());
    }

    /// Returns when none is open.
    pub(super) async fn all_gone(&self) {
        while self.count() > 0 {
            self.0.all_gone.notified().await;
        }
    }
}

/// A connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Guest(Connections);

impl Drop for Guest {
    fn drop(&mut self) {
        let Shared { guests, all_gone, .. } = &*self.0.0;
        guests.set(guests.get() - 1);
        if guests.get() == 0 {
            all_gone.notify_one();
        }
    }
}

/// Whether requests are in progress on one connection.
#[derive(Debug)]
pub(super) struct Activity {
    tally: Arc<Tally>,
    requests: Cell<u32>,
    /// Set when the connection falls idle, cleared when its deadline has been moved.
    fell_idle: Cell<bool>,
    post: Arc<Post>,
}

impl Activity {
    /// None yet, on the thread of `tally`. `post` is what the connection's guard has to say.
    pub(super) fn new(tally: &Arc<Tally>, post: Arc<Post>) -> Rc<Self> {
        let (requests, fell_idle) = (Cell::default(), Cell::default());
        Rc::new(Self { tally: Arc::clone(tally), requests, fell_idle, post })
    }

    pub(super) fn post(&self) -> &Arc<Post> {
        &self.post
    }
}

/// A request in progress, until it is dropped.
#[derive(Debug)]
pub(super) struct Busy {
    activity: Rc<Activity>,
    is_answered: bool,
}

impl Busy {
    pub(super) fn new(activity: &Rc<Activity>) -> Self {
        activity.requests.set(activity.requests.get() + 1);
        activity.tally.in_progress.add(1);
        Self { activity: Rc::clone(activity), is_answered: false }
    }

    /// Its answer has begun.
    pub(super) fn answered(&mut self) {
        self.is_answered = true;
    }

    pub(super) fn post(&self) -> &Post {
        &self.activity.post
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Activity { tally, requests, fell_idle, .. } = &*self.activity;
        requests.set(requests.get() - 1);
        fell_idle.set(true);
        tally.in_progress.sub(1);
        if !self.is_answered {
            tally.abandoned.add(1);
        }
    }
}

/// Drives `connection` until it ends, has idled for longer than allowed, or is told to close.
pub(super) struct Serving<C> {
    connection: Pin<Box<C>>,
    activity: Rc<Activity>,
    idle: Deadline,
    idle_timeout: Duration,
    patience: Patience,
    connections: Connections,
    key: Option<usize>,
    told: bool,
}

/// A connection that can be told to end when it has answered. hyper-util's trait of this kind leaves
/// connections out that may become WebSockets.
pub(super) trait Drainable: Future<Output = Result<(), Self::Error>> {
    type Error: Display;

    /// Takes no further request.
    fn drain(self: Pin<&mut Self>);
}

impl<I, B, S> Drainable for http1::UpgradeableConnection<I, S>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    I: Read + Write + Unpin + Send + 'static,
    B: Body + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Error = hyper::Error;

    fn drain(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<I, B, S> Drainable for http2::Connection<I, S, LocalExecutor>
where
    S: HttpService<Incoming, ResBody = B>,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    Self: GracefulConnection<Error = hyper::Error>,
{
    type Error = hyper::Error;

    fn drain(self: Pin<&mut Self>) {
        GracefulConnection::graceful_shutdown(self);
    }
}

impl<I, B, S> Drainable for auto::UpgradeableConnection<'_, I, S, LocalExecutor>
where
    S: HttpService<Incoming, ResBody = B>,
    Self: GracefulConnection<Error = Box<dyn Error + Send + Sync>>,
{
    type Error = Box<dyn Error + Send + Sync>;

    fn drain(self: Pin<&mut Self>) {
        GracefulConnection::graceful_shutdown(self);
    }
}

impl<C: Drainable> Serving<C> {
    /// The connection comes boxed, because a future that is moved from call to call leaves a copy
    /// of itself in each, for as long as the connection lives.
    pub(super) fn new(
        connection: Pin<Box<C>>,
        activity: Rc<Activity>,
        connections: Connections,
        idle: Deadline,
        idle_timeout: Duration,
        patience: Patience,
    ) -> Self {
        activity.tally.accepted.add(1);
        activity.tally.connections.add(1);
        let (key, told) = (None, false);
        Self { connection, activity, idle, idle_timeout, patience, connections, key, told }
    }

    fn register(&mut self, cx: &Context<'_>) {
        if self.key.is_none() {
            self.key = Some(self.connections.0.tasks.borrow_mut().insert(cx.waker().clone()));
        }
    }

    fn has_idled_out(&mut self, cx: &Context<'_>) -> bool {
        if self.activity.requests.get() > 0 || self.patience.is_for_a_head() {
            return false;
        }
        if self.activity.fell_idle.replace(false) {
            self.idle.reset(self.idle_timeout);
        }
        self.idle.poll(cx).is_ready()
    }

    /// Drives the connection, and again once it has been told that its client has been given up.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        let driven = self.connection.as_mut().poll(cx);
        if driven.is_ready() {
            return driven;
        }
        match self.patience.poll_end(cx) {
            None | Some(Waits::Not) => Poll::Pending,
            Some(Waits::First | Waits::Late) => Poll::Ready(Ok(())),
            Some(Waits::Head(_)) => {
                self.patience.give_up();
                self.connection.as_mut().poll(cx)
            }
        }
    }
}

impl<C: Drainable> Future for Serving<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.register(cx);
        if self.connections.0.closing.get() && !self.told {
            self.told = true;
            self.connection.as_mut().drain();
            // hyper goes on waiting for the first request of a connection that has had none.
            let limit = self.idle_timeout.min(FIRST_REQUEST);
            self.idle_timeout = limit;
            self.idle.reset(limit);
        }
        match self.drive(cx) {
            Poll::Pending if self.has_idled_out(cx) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(()),
            Poll::Ready(Err(error)) => {
                tracing::debug!(%error, "client connection ended");
                Poll::Ready(())
            }
        }
    }
}

impl<C> Drop for Serving<C> {
    fn drop(&mut self) {
        self.activity.tally.connections.sub(1);
        if let Some(key) = self.key {
            self.connections.0.tasks.borrow_mut().remove(key);
        }
    }
}
