//! One worker thread: its runtime, its listeners, its proxy, and its end.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::rt::{Read, Write};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::server::conn::auto;
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::watch;
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use super::connection::{Activity, Busy, Connections, Drainable, Serving};
use crate::clock::Clock;
use crate::metrics::traffic::Tally;
use crate::proxy::{Admission, Audience, Entry, Limits, Links, Names, Outbound, Proxy};
use crate::settings::UpstreamSettings;
use crate::timers::Timers;
use crate::token::identities::Identities;
use crate::upstream::LocalExecutor;

/// How long clients get to go by themselves before idle connections are closed.
const LINGER: Duration = Duration::from_millis(500);

/// How often old upstream connections are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// How long a TLS handshake with a client may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What hyper may buffer of one request before it is passed on, and of one answer before it is
/// written. Measured: see the pool's.
const BUFFER: usize = 256 * 1024;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    Draining,
}

/// What a worker is made of; sent to its thread.
#[derive(Clone)]
pub(super) struct Blueprint {
    pub(super) upstream: UpstreamSettings,
    pub(super) tls: Arc<ClientConfig>,
    pub(super) identities: Arc<Identities>,
    pub(super) limits: Limits,
    pub(super) names: Names,
    pub(super) admission: Arc<Admission>,
    pub(super) links: Links,
    pub(super) inbound_tls: Option<TlsAcceptor>,
    pub(super) h2c: bool,
    pub(super) client_idle_timeout: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) audience: Audience,
    pub(super) clock: Clock,
}

/// A listener, and what holds for whoever comes in by it.
pub(super) struct Entrance {
    pub(super) listener: TcpListener,
    pub(super) entry: Entry,
}

/// What every connection of one worker shares.
pub(super) struct Worker {
    proxy: Rc<Proxy>,
    timers: Timers,
    connections: Connections,
    phase: watch::Receiver<Phase>,
    /// Asked once per answer, where a look at `phase` would be a lock that all workers share.
    is_draining: Cell<bool>,
    inbound_tls: Option<TlsAcceptor>,
    h2c: bool,
    client_idle_timeout: Duration,
    drain_timeout: Duration,
    tally: Arc<Tally>,
    clock: Clock,
}

impl Worker {
    /// Serves until the phase changes and everything accepted has been answered.
    pub(super) fn run(
        blueprint: Blueprint,
        entrances: Vec<Entrance>,
        phase: watch::Receiver<Phase>,
    ) {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let runtime = runtime.expect("the system has resources for an event queue");
        runtime.block_on(async {
            let worker = Rc::new(Self::new(blueprint, phase));
            worker.serve(entrances).await;
        });
    }

    fn new(blueprint: Blueprint, phase: watch::Receiver<Phase>) -> Self {
        let timers = Timers::new(blueprint.clock.clone());
        let tally = Arc::clone(&blueprint.audience.tally);
        let proxy = Proxy::new(
            blueprint.identities,
            &blueprint.upstream,
            &blueprint.tls,
            timers.clone(),
            blueprint.limits,
            blueprint.names,
            blueprint.admission,
            &blueprint.links,
            blueprint.audience,
        );
        Self {
            proxy: Rc::new(proxy),
            timers,
            connections: Connections::default(),
            phase,
            is_draining: Cell::new(false),
            inbound_tls: blueprint.inbound_tls,
            h2c: blueprint.h2c,
            client_idle_timeout: blueprint.client_idle_timeout,
            drain_timeout: blueprint.drain_timeout,
            tally,
            clock: blueprint.clock,
        }
    }

    async fn serve(self: Rc<Self>, entrances: Vec<Entrance>) {
        let timers = self.timers.clone();
        spawn_local(async move { timers.run().await });
        spawn_local(Rc::clone(&self).sweep());
        let accepting: Vec<_> =
            entrances.into_iter().map(|it| spawn_local(Rc::clone(&self).accept(it))).collect();
        self.draining().await;
        self.is_draining.set(true);
        if self.connections.count() + self.proxy.tunnels().count() > 0 {
            self.clock.sleep(LINGER).await;
        }
        for acceptor in accepting {
            // It ends by itself, once the backlog is empty.
            let _ = acceptor.await;
        }
        self.connections.close();
        let tunnels = self.proxy.tunnels();
        tunnels.close();
        let all_gone = async { tokio::join!(self.connections.all_gone(), tunnels.all_gone()) };
        let drained = self.timers.within(self.drain_timeout, all_gone).await;
        if drained.is_err() {
            let left = self.connections.count() + self.proxy.tunnels().count();
            tracing::warn!(left, "drain_timeout is over: cutting the remaining connections");
        }
    }

    async fn draining(&self) {
        let mut phase = self.phase.clone();
        // An error says that the server was dropped, which ends everything too.
        let _ = phase.wait_for(|phase| *phase == Phase::Draining).await;
    }

    async fn sweep(self: Rc<Self>) {
        loop {
            self.clock.sleep(SWEEP).await;
            self.proxy.sweep();
        }
    }

    /// Accepts until draining has lingered, then whatever the kernel has accepted already.
    async fn accept(self: Rc<Self>, Entrance { listener, entry }: Entrance) {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "a listener cannot be used"),
        };
        let lingered = async {
            self.draining().await;
            self.clock.sleep(LINGER).await;
        };
        tokio::pin!(lingered);
        loop {
            tokio::select! {
                biased;
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.take(stream, peer, entry),
                    Err(error) => self.accept_failed(&error).await,
                },
                () = &mut lingered => return,
            }
        }
    }

    /// Out of descriptors, mostly: let some connections end first.
    async fn accept_failed(&self, error: &std::io::Error) {
        tracing::warn!(%error, "a connection could not be accepted");
        self.clock.sleep(Duration::from_millis(100)).await;
    }

    fn take(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, entry: Entry) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %peer, "nodelay refused");
        }
        match self.inbound_tls.clone() {
            None if self.h2c => drop(spawn_local(self.either(TokioIo::new(stream), entry))),
            None => drop(spawn_local(self.h1(TokioIo::new(stream), entry))),
            Some(tls) => drop(spawn_local(Rc::clone(self).shake_hands(tls, stream, peer, entry))),
        }
    }

    async fn shake_hands(
        self: Rc<Self>,
        tls: TlsAcceptor,
        stream: TcpStream,
        peer: SocketAddr,
        entry: Entry,
    ) {
        match self.timers.within(HANDSHAKE, tls.accept(stream)).await {
            Ok(Ok(io)) if io.get_ref().1.alpn_protocol() == Some(b"h2") => {
                self.h2(TokioIo::new(io), entry).await;
            }
            Ok(Ok(io)) => self.h1(TokioIo::new(io), entry).await,
            Ok(Err(error)) => tracing::debug!(%error, %peer, "TLS handshake failed"),
            Err(error) => tracing::debug!(%error, %peer, "TLS handshake took too long"),
        }
    }

    fn h1<I: Io>(self: &Rc<Self>, io: I, entry: Entry) -> impl Future<Output = ()> + use<I> {
        let activity = Activity::new(&self.tally);
        let service = self.service(&activity, entry);
        let connection = http1::Builder::new().max_buf_size(BUFFER).serve_connection(io, service);
        self.serving(Box::pin(connection.with_upgrades()), activity)
    }

    fn h2<I: Io>(self: &Rc<Self>, io: I, entry: Entry) -> impl Future<Output = ()> + use<I> {
        let activity = Activity::new(&self.tally);
        let service = self.service(&activity, entry);
        let connection = http2::Builder::new(LocalExecutor).serve_connection(io, service);
        self.serving(Box::pin(connection), activity)
    }

    /// Clear text, HTTP/1.1 or HTTP/2 by prior knowledge.
    fn either<I: Io>(self: &Rc<Self>, io: I, entry: Entry) -> impl Future<Output = ()> + use<I> {
        let activity = Activity::new(&self.tally);
        let service = self.service(&activity, entry);
        let mut builder = auto::Builder::new(LocalExecutor);
        builder.http1().max_buf_size(BUFFER);
        let connection = builder.serve_connection_with_upgrades(io, service).into_owned();
        self.serving(Box::pin(connection), activity)
    }

    fn serving<C>(&self, connection: Pin<Box<C>>, activity: Rc<Activity>) -> Serving<C>
    where
        C: Drainable,
    {
        let connections = self.connections.clone();
        let idle = self.timers.deadline(self.client_idle_timeout);
        Serving::new(connection, activity, connections, idle, self.client_idle_timeout)
    }

    fn service(
        self: &Rc<Self>,
        activity: &Rc<Activity>,
        entry: Entry,
    ) -> impl Service<
        Request<Incoming>,
        Response = Response<Answering>,
        Error = Infallible,
        Future: 'static,
    > + use<> {
        let (worker, activity) = (Rc::clone(self), Rc::clone(activity));
        service_fn(move |request: Request<Incoming>| {
            let (worker, busy) = (Rc::clone(&worker), Busy::new(&activity));
            let version = request.version();
            let answer = Rc::clone(&worker.proxy).handle(request, entry);
            answer.map(move |answer| Ok(worker.pass_on(answer, version, busy)))
        })
    }

    fn pass_on(
        &self,
        mut answer: Response<Outbound>,
        version: Version,
        mut busy: Busy,
    ) -> Response<Answering> {
        busy.answered();
        let ends = answer.status() != StatusCode::SWITCHING_PROTOCOLS;
        if ends && version < Version::HTTP_2 && self.is_draining.get() {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer.map(|content| Answering { content, _busy: busy })
    }
}

/// A client's stream of bytes.
trait Io: Read + Write + Unpin + Send + 'static {}
impl<T: Read + Write + Unpin + Send + 'static> Io for T {}

/// An answer on its way; the connection is busy until it is dropped.
pub(super) struct Answering {
    content: Outbound,
    _busy: Busy,
}

impl Body for Answering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        Pin::new(&mut self.content).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
