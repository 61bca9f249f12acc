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
use super::opening::{Opening, State};
use super::patience::Patience;
use crate::metrics::limits::{Limit, Meters};
use crate::metrics::traffic::Tally;
use crate::timers::stall::{Pace, Watch};
use crate::timers::{Deadline, Timers};
use crate::upstream::LocalExecutor;

/// How long the end waits for a request on a connection that has had none.
const FIRST_REQUEST: Duration = Duration::from_millis(500);

/// How long a client may take for what.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) idle_timeout: Duration,
    pub(super) handshake_timeout: Duration,
    /// How slowly it may take answers.
    pub(super) pace: Pace,
    pub(super) meters: Arc<Meters>,
}

/// The connections of one worker.
#[derive(Clone, Debug)]
pub(super) struct Connections(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    timers: Timers,
    rules: Rules,
    /// How many there are, from the moment of their acceptance.
    guests: Cell<usize>,
    /// The task of every connection that has begun.
    tasks: RefCell<Slab<Waker>>,
    /// Whether connections are to end as soon as they can.
    closing: Cell<bool>,
    all_gone: tokio::sync::Notify,
}

impl Connections {
    pub(super) fn new(timers: Timers, rules: Rules) -> Self {
        let (guests, tasks, closing, all_gone) = Default::default();
        Self(Rc::new(Shared { timers, rules, guests, tasks, closing, all_gone }))
    }

    /// What holds for each of them.
    pub(super) fn rules(&self) -> &Rules {
        &self.0.rules
    }

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
    /// Whether there has been any.
    has_begun: Cell<bool>,
    /// Set when the connection falls idle, cleared when its deadline has been moved.
    fell_idle: Cell<bool>,
    /// Answers that the client has to take more of before they can go on.
    owed: Cell<u32>,
    /// Bytes that answers have given.
    given: Cell<u64>,
    post: Arc<Post>,
}

impl Activity {
    /// None yet, on the thread of `tally`. `post` is what the connection's guard has to say.
    pub(super) fn new(tally: &Arc<Tally>, post: Arc<Post>) -> Rc<Self> {
        let (requests, has_begun, fell_idle, owed, given) = Default::default();
        let tally = Arc::clone(tally);
        Rc::new(Self { tally, requests, has_begun, fell_idle, owed, given, post })
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
        activity.has_begun.set(true);
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

    /// An answer waits for its client, or does so no more.
    pub(super) fn owe(&self, is_owed: bool) {
        let owed = self.activity.owed.get();
        self.activity.owed.set(if is_owed { owed + 1 } else { owed - 1 });
    }

    /// An answer has given a piece.
    pub(super) fn gave(&self, size: usize) {
        self.activity.given.set(self.activity.given.get() + size as u64);
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
    /// Until it has begun.
    opening: Option<Box<Opening>>,
    /// Whether answers are taken.
    taking: Watch,
    /// Whether what has left them is.
    flushing: Watch,
    idle: Deadline,
    idle_timeout: Duration,
    patience: Patience,
    connections: Connections,
    key: Option<usize>,
    farewell: Farewell,
}

/// How a connection has come to know that the server is draining.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Farewell {
    #[default]
    Not,
    /// It has had no request yet: hyper would close it though one may be on its way.
    Awaiting,
    Told,
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
        opening: Option<Box<Opening>>,
        patience: Patience,
        connections: Connections,
    ) -> Self {
        activity.tally.accepted.add(1);
        let (taking, flushing, key, farewell) = Default::default();
        let idle_timeout = connections.rules().idle_timeout;
        let idle = connections.0.timers.deadline(idle_timeout);
        Self {
            connection,
            activity,
            opening,
            taking,
            flushing,
            idle,
            idle_timeout,
            patience,
            connections,
            key,
            farewell,
        }
    }

    fn register(&mut self, cx: &Context<'_>) {
        if self.key.is_none() {
            self.key = Some(self.connections.0.tasks.borrow_mut().insert(cx.waker().clone()));
        }
    }

    /// The limit that the client has reached by doing nothing.
    fn reached(&mut self, cx: &Context<'_>) -> Option<Limit> {
        if self.opens_late(cx) {
            Some(Limit::Handshake)
        } else if self.takes_too_slowly(cx) {
            Some(Limit::AnswerStall)
        } else if self.has_idled_out(cx) {
            Some(Limit::Idle)
        } else {
            None
        }
    }

    fn opens_late(&mut self, cx: &Context<'_>) -> bool {
        let Some(opening) = &mut self.opening else { return false };
        let has_asked = self.activity.requests.get() > 0 || self.activity.fell_idle.get();
        let Shared { timers, rules, .. } = &*self.connections.0;
        match opening.poll(timers, rules.handshake_timeout, cx) {
            State::Opening if !has_asked => false,
            State::Late => true,
            State::Opening | State::Open => {
                self.opening = None;
                false
            }
        }
    }

    /// Either may stand still alone: an answer that waits for the window of its stream, and the end of
    /// one that waits for the socket.
    fn takes_too_slowly(&mut self, cx: &Context<'_>) -> bool {
        let (activity, pace) = (&self.activity, self.connections.rules().pace);
        let asked_for = (activity.owed.get() > 0).then(|| activity.given.get());
        let taken = activity.post.outlet.backed_up_at();
        let timers = &self.connections.0.timers;
        let is_late = |watch: &mut Watch, progress: Option<u64>| {
            let Some(progress) = progress else {
                watch.rest();
                return false;
            };
            watch.poll(timers, pace, progress, cx).is_ready()
        };
        is_late(&mut self.taking, asked_for) || is_late(&mut self.flushing, taken)
    }

    fn has_idled_out(&mut self, cx: &Context<'_>) -> bool {
        let has_begun_one = self.farewell == Farewell::Not && self.patience.is_for_a_head();
        if self.activity.requests.get() > 0 || has_begun_one {
            return false;
        }
        if self.activity.fell_idle.replace(false) {
            self.idle.reset(self.idle_timeout);
        }
        self.idle.poll(cx).is_ready()
    }

    /// Tells the connection to take no further request, once it has had one. Whether it was told now.
    fn say_farewell(&mut self) -> bool {
        if !self.connections.0.closing.get() || self.farewell == Farewell::Told {
            return false;
        }
        if self.farewell == Farewell::Not {
            let limit = self.idle_timeout.min(FIRST_REQUEST);
            self.idle_timeout = limit;
            self.idle.reset(limit);
        }
        let has_begun = self.activity.has_begun.get();
        self.farewell = if has_begun { Farewell::Told } else { Farewell::Awaiting };
        if has_begun {
            self.connection.as_mut().drain();
        }
        has_begun
    }

    /// Drives the connection, and again once it has been told that its client has been given up: what
    /// it waits for then, the client's going away, has a deadline too.
    fn drive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), C::Error>> {
        loop {
            let driven = self.connection.as_mut().poll(cx);
            if driven.is_ready() {
                return driven;
            }
            match self.patience.poll_end(cx) {
                None | Some(Waits::Not) => return Poll::Pending,
                Some(Waits::Late) => return Poll::Ready(Ok(())),
                Some(Waits::Head(_)) => {
                    self.connections.rules().meters.count(Limit::RequestHead);
                    self.patience.give_up();
                }
            }
        }
    }
}

impl<C: Drainable> Future for Serving<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.register(cx);
        let mut driven = self.drive(cx);
        // Afterwards: what the kernel has of a request already is a request.
        if driven.is_pending() && self.say_farewell() {
            driven = self.drive(cx);
        }
        match driven {
            Poll::Pending => match self.reached(cx) {
                None => Poll::Pending,
                Some(limit) => {
                    self.connections.rules().meters.count(limit);
                    if limit == Limit::AnswerStall {
                        self.activity.post.outlet.cut();
                    }
                    tracing::debug!(limit = limit.as_str(), "client connection ended");
                    Poll::Ready(())
                }
            },
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
        if let Some(key) = self.key {
            self.connections.0.tasks.borrow_mut().remove(key);
        }
    }
}
