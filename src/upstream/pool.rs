//! One worker thread's connections to the origin.
//!
//! HTTP/1.1 connections are taken out for one exchange and come back when the answer's content has
//! been read to its end; the freshest is taken first, so that the others can grow old and go. An
//! HTTP/2 connection is shared.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::Either;
use http::{Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1, http2};
use tokio::task::spawn_local;

use super::Rules;
use super::connect::{ConnectError, Connection, Connector, Io};
use super::line::Line;
use super::places::{Place, Places};
use crate::clock::Timestamp;
use crate::metrics::limits::Limit;
use crate::metrics::traffic::Tally;
use crate::timers::Timers;
use crate::timers::stall::{Pace, Watch};

/// What hyper may buffer of an answer before its reader takes it; also the most that one read asks
/// for. Measured: 256 KiB instead of 64 saves a third of the CPU per MiB.
const READ_BUFFER: usize = 256 * 1024;

/// Which connection a request may go out on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// A kept one, if there is any.
    Any,
    /// None that has been kept for itself alone: such a one has just let the request down, and the
    /// others may be as old.
    New,
}

/// The connections of one worker thread.
pub struct Pool<B> {
    connector: Connector,
    timers: Timers,
    rules: Rules,
    places: Places,
    idle: RefCell<Vec<Idle<B>>>,
    shared: RefCell<Option<http2::SendRequest<B>>>,
    /// Held while a connection is opened that may turn out to be one for all.
    opening: tokio::sync::Mutex<()>,
}

struct Idle<B> {
    line: Line<B>,
    since: Timestamp,
}

impl<B> Pool<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    pub(super) fn new(connector: Connector, timers: Timers, rules: Rules) -> Self {
        Self {
            connector,
            timers,
            places: Places::new(rules.max_connections),
            rules,
            idle: RefCell::default(),
            shared: RefCell::default(),
            opening: tokio::sync::Mutex::default(),
        }
    }

    /// A connection that is ready for a request.
    pub(super) async fn checkout(&self, choice: Choice) -> Result<Sender<B>, ConnectError> {
        if let Some(kept) = self.kept(choice) {
            return Ok(kept);
        }
        let (limit, has_place) = (self.connector.timeout, Cell::new(false));
        // Boxed: rare, and its state is ten times that of the rest of a request.
        let opened = Box::pin(self.open(choice, &has_place));
        let late = |_| {
            let origin = self.connector.name();
            if has_place.get() {
                return ConnectError::Timeout { origin, limit };
            }
            self.rules.meters.count(Limit::UpstreamConnections);
            ConnectError::NoneFree { origin, limit }
        };
        self.timers.within(limit, opened).await.map_err(late)?
    }

    /// A kept connection that is ready for a request.
    pub(super) fn kept(&self, choice: Choice) -> Option<Sender<B>> {
        if let Some(sender) = self.shared.borrow().as_ref().filter(|sender| sender.is_ready()) {
            return Some(Sender::H2 { sender: sender.clone(), reused: true });
        }
        if choice == Choice::New {
            return None;
        }
        // One that is not ready is closed, or its task has yet to notice that the exchange is over,
        // or it still carries an upload that nobody reads: not worth waiting for.
        let mut idle = self.idle.borrow_mut();
        let freshest = idle.iter().rposition(|idle| idle.line.sender.is_ready())?;
        self.rules.tally.idle.sub(1);
        Some(Sender::H1 { line: idle.remove(freshest).line, reused: true })
    }

    async fn open(
        &self,
        choice: Choice,
        has_place: &Cell<bool>,
    ) -> Result<Sender<B>, ConnectError> {
        let _one_at_a_time = if self.connector.may_be_h2() {
            let opening = self.opening.lock().await;
            if let Some(kept) = self.kept(choice) {
                return Ok(kept);
            }
            Some(opening)
        } else {
            None
        };
        let place = loop {
            if let Some(place) = self.places.take() {
                break place;
            }
            // Of those that are there, none was ready at once.
            match self.spare() {
                Some(mut line) if choice == Choice::Any => {
                    if line.sender.ready().await.is_ok() {
                        return Ok(Sender::H1 { line, reused: true });
                    }
                }
                // Dropped, it makes room for a new one.
                Some(_) | None => self.places.changed().await,
            }
        };
        has_place.set(true);
        match self.connector.connect().await? {
            Connection::Plain(io) => self.handshake_h1(io, place).await,
            Connection::Tls { io, h2: false } => self.handshake_h1(io, place).await,
            Connection::Tls { io, h2: true } => self.handshake_h2(io, place).await,
        }
    }

    /// The freshest of those that are kept.
    fn spare(&self) -> Option<Line<B>> {
        let line = self.idle.borrow_mut().pop()?.line;
        self.rules.tally.idle.sub(1);
        Some(line)
    }

    async fn handshake_h1(&self, io: impl Io, place: Place) -> Result<Sender<B>, ConnectError> {
        let mut builder = http1::Builder::new();
        let handshake = builder.max_buf_size(READ_BUFFER).handshake(io).await;
        let (sender, connection) = handshake.map_err(|source| self.no_http(source))?;
        let (line, connection) = Line::new(sender, connection);
        spawn_local(ended(connection, place, Arc::clone(&self.rules.tally)));
        Ok(Sender::H1 { line, reused: false })
    }

    async fn handshake_h2(&self, io: impl Io, place: Place) -> Result<Sender<B>, ConnectError> {
        let handshake = http2::Builder::new(LocalExecutor).handshake(io).await;
        let (sender, connection) = handshake.map_err(|source| self.no_http(source))?;
        spawn_local(ended(connection, place, Arc::clone(&self.rules.tally)));
        self.shared.replace(Some(sender.clone()));
        Ok(Sender::H2 { sender, reused: false })
    }

    fn no_http(&self, source: hyper::Error) -> ConnectError {
        ConnectError::Http { origin: self.connector.name(), source }
    }

    /// What has come over `line`, or over the connection that all share.
    pub(super) fn answered(
        self: &Rc<Self>,
        answer: Response<Incoming>,
        line: Option<Line<B>>,
    ) -> Response<Content<B>> {
        answer.map(|incoming| Content::new(incoming, line, Rc::clone(self)))
    }

    fn put_back(&self, line: Line<B>) {
        if !line.sender.is_closed() {
            self.rules.tally.idle.add(1);
            self.idle.borrow_mut().push(Idle { line, since: self.timers.now() });
            self.places.note();
        }
    }

    /// Drops what has idled too long, and what the other side has closed.
    pub(super) fn sweep(&self) {
        let oldest = self.timers.now() - self.rules.idle_timeout;
        let mut idle = self.idle.borrow_mut();
        let before = idle.len();
        idle.retain(|idle| idle.since > oldest && !idle.line.sender.is_closed());
        self.rules.tally.idle.sub((before - idle.len()) as u64);
    }
}

impl<B> fmt::Debug for Pool<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("idle", &self.idle.borrow().len()).finish_non_exhaustive()
    }
}

/// Drives a connection. Its errors reach whoever waits for an answer on it.
async fn ended(
    connection: impl Future<Output = hyper::Result<()>>,
    place: Place,
    tally: Arc<Tally>,
) {
    tally.opened.add(1);
    tally.open.add(1);
    let ended = connection.await;
    tally.open.sub(1);
    if let Err(error) = ended {
        tracing::debug!(%error, "upstream connection ended");
    }
    drop(place);
}

/// A connection taken out for one exchange.
pub(super) enum Sender<B> {
    H1 { line: Line<B>, reused: bool },
    H2 { sender: http2::SendRequest<B>, reused: bool },
}

/// A request that was handed over to a connection.
pub(super) struct Sent<B, F> {
    /// What hyper has to say to it.
    pub(super) answer: F,
    /// Whether the connection had carried others.
    pub(super) reused: bool,
    /// The connection, if it is this answer's alone.
    pub(super) line: Option<Line<B>>,
}

impl<B> Sender<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Hands the request over at once, so that nothing as large as a request is kept for it.
    pub(super) fn send(
        self,
        mut request: Request<B>,
        pool: &Pool<B>,
    ) -> Sent<B, impl Future<Output = Result<Response<Incoming>, TrySendError<Request<B>>>> + use<B>>
    {
        match self {
            Self::H1 { mut line, reused } => {
                *request.version_mut() = Version::HTTP_11;
                let answer = Either::Left(line.sender.try_send_request(request));
                Sent { answer, reused, line: Some(line) }
            }
            Self::H2 { mut sender, reused } => {
                address(&mut request, pool.connector.origin());
                let answer = Either::Right(sender.try_send_request(request));
                Sent { answer, reused, line: None }
            }
        }
    }
}

/// HTTP/2 has scheme and authority in the target, and neither `Host` nor connection fields.
fn address<B>(request: &mut Request<B>, origin: &crate::settings::Origin) {
    *request.version_mut() = Version::HTTP_2;
    request.headers_mut().remove(http::header::HOST);
    request.headers_mut().remove(http::header::CONNECTION);
    request.headers_mut().remove(http::header::TRANSFER_ENCODING);
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTPS);
    parts.authority = Some(origin.authority.clone());
    *request.uri_mut() = Uri::from_parts(parts).expect("a path, an authority and a scheme");
}

/// The content of an answer; its connection goes back to the pool when it has been read.
pub struct Content<B: Body<Data = Bytes> + Unpin + 'static>
where
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    incoming: Incoming,
    /// To be put back.
    line: Option<Line<B>>,
    pool: Rc<Pool<B>>,
    /// Bytes that have come.
    passed: u64,
    watch: Watch,
}

/// Why an answer that had begun did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The connection ended.
    #[error("the connection broke in the middle of an answer")]
    Broken(#[source] hyper::Error),
    /// Nothing more came.
    #[error("nothing came of an answer for {} s (upstream.stall_timeout)", .0.as_secs())]
    Stalled(Duration),
}

impl<B> Content<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn new(incoming: Incoming, line: Option<Line<B>>, pool: Rc<Pool<B>>) -> Self {
        let (passed, watch) = (0, Watch::default());
        let mut content = Self { incoming, line, pool, passed, watch };
        content.release_at_end();
        content
    }

    fn release_at_end(&mut self) {
        if self.incoming.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(line) = self.line.take() {
            self.pool.put_back(line);
        }
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        match &self.line {
            Some(line) => line.poll_frame(&mut self.incoming, cx),
            None => Pin::new(&mut self.incoming).poll_frame(cx),
        }
    }

    /// It has to wait: not for ever.
    fn wait(&mut self, cx: &Context<'_>) -> Poll<AnswerError> {
        let Rules { stall_timeout: timeout, meters, .. } = &self.pool.rules;
        let pace = Pace { timeout: *timeout, bytes: 1 };
        self.watch.poll(&self.pool.timers, pace, self.passed, cx).map(|()| {
            meters.count(Limit::UpstreamStall);
            tracing::warn!(
                origin = self.pool.connector.name(),
                "an answer stands still: it is cut off"
            );
            AnswerError::Stalled(*timeout)
        })
    }
}

impl<B> Body for Content<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        Poll::Ready(match self.poll_incoming(cx) {
            Poll::Pending => Some(Err(ready!(self.wait(cx)))),
            Poll::Ready(None) => {
                self.release();
                None
            }
            Poll::Ready(Some(Ok(frame))) => {
                self.passed += frame.data_ref().map_or(0, Bytes::len) as u64;
                self.release_at_end();
                Some(Ok(frame))
            }
            Poll::Ready(Some(Err(error))) => Some(Err(AnswerError::Broken(error))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// Runs hyper's HTTP/2 tasks on the worker's own thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}
