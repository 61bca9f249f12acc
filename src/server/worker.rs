//! One worker thread: its runtime, its listeners, its proxy, and its end.

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{Either, ready};
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use rustls::ClientConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_local;
use tokio_rustls::TlsAcceptor;

use super::answering::Answering;
use super::arrival::{self, Arrival, Listener};
use super::connection::{Activity, Busy, Connections, Drainable, Rules, Serving};
use super::framing::Framing;
use super::guard::{Guard, Post, Standing};
use super::opening::Opening;
use super::patience::Patience;
use super::places::{Places, turn_away};
use super::seated::Seated;
use super::tls::InboundCertificates;
use crate::clock::Clock;
use crate::metrics::limits::{Limit, Meters};
use crate::metrics::traffic::Tally;
use crate::proxy::error;
use crate::proxy::malformed::MalformedCounts;
use crate::proxy::throttle::Throttle;
use crate::proxy::{Admission, Audience, Entry, Limits, Links, Names, Outbound, Proxy};
use crate::settings::{ClientLimits, Http2Limits, UpstreamSettings};
use crate::timers::Timers;
use crate::token::identities::Identities;
use crate::upstream::LocalExecutor;

/// How long clients get to go by themselves before idle connections are closed.
const LINGER: Duration = Duration::from_millis(500);

/// How often old upstream connections are looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// What hyper may buffer of one request before it is passed on, and of one answer before it is
/// written. Measured: see the pool's.
const BUFFER: usize = 256 * 1024;

/// How far the end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Serving,
    /// A successor has the listeners; what was accepted is answered in its own time.
    Retiring,
    /// The end is near.
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
    pub(super) throttle: Option<Arc<Throttle>>,
    pub(super) links: Links,
    pub(super) inbound_tls: Option<InboundCertificates>,
    pub(super) h2c: bool,
    pub(super) client_idle_timeout: Duration,
    pub(super) client_limits: ClientLimits,
    pub(super) meters: Arc<Meters>,
    pub(super) request_head_timeout: Duration,
    pub(super) malformed: Arc<MalformedCounts>,
    pub(super) drain_timeout: Duration,
    pub(super) audience: Audience,
    pub(super) clock: Clock,
}

/// A listener, and what holds for whoever comes in by it.
pub(super) struct Entrance {
    pub(super) listener: Listener,
    pub(super) entry: Entry,
}

/// What every connection of one worker shares.
pub(super) struct Worker {
    proxy: Rc<Proxy>,
    timers: Timers,
    connections: Connections,
    places: Places,
    http2: Http2Limits,
    phase: watch::Receiver<Phase>,
    /// Asked once per answer, where a look at `phase` would be a lock that all workers share.
    is_draining: Cell<bool>,
    inbound_tls: Option<InboundCertificates>,
    admission: Arc<Admission>,
    h2c: bool,
    request_head_timeout: Duration,
    malformed: Arc<MalformedCounts>,
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
        ceded: oneshot::Sender<()>,
    ) {
        let runtime =
            Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let runtime = runtime.expect("the system has resources for an event queue");
        runtime.block_on(async {
            let worker = Rc::new(Self::new(blueprint, phase));
            worker.serve(entrances, ceded).await;
        });
    }

    fn new(blueprint: Blueprint, phase: watch::Receiver<Phase>) -> Self {
        let timers = Timers::new(blueprint.clock.clone());
        let tally = Arc::clone(&blueprint.audience.tally);
        let ClientLimits { max_connections, handshake_timeout, pace, http2, .. } =
            blueprint.client_limits;
        let (idle_timeout, meters) = (blueprint.client_idle_timeout, blueprint.meters);
        let places = Places::new(max_connections, Arc::clone(&meters));
        let rules = Rules { idle_timeout, handshake_timeout, pace, meters };
        let proxy = Proxy::new(
            blueprint.identities,
            &blueprint.upstream,
            &blueprint.tls,
            timers.clone(),
            blueprint.limits,
            blueprint.names,
            Arc::clone(&blueprint.admission),
            blueprint.throttle,
            &blueprint.links,
            blueprint.audience,
        );
        Self {
            proxy: Rc::new(proxy),
            connections: Connections::new(timers.clone(), rules),
            timers,
            places,
            http2,
            phase,
            is_draining: Cell::new(false),
            inbound_tls: blueprint.inbound_tls,
            admission: blueprint.admission,
            h2c: blueprint.h2c,
            request_head_timeout: blueprint.request_head_timeout,
            malformed: blueprint.malformed,
            drain_timeout: blueprint.drain_timeout,
            tally,
            clock: blueprint.clock,
        }
    }

    /// `ceded` ends when new connections are a successor's.
    async fn serve(self: Rc<Self>, entrances: Vec<Entrance>, ceded: oneshot::Sender<()>) {
        let timers = self.timers.clone();
        spawn_local(async move { timers.run().await });
        spawn_local(Rc::clone(&self).sweep());
        let accepting: Vec<_> =
            entrances.into_iter().map(|it| spawn_local(Rc::clone(&self).accept(it))).collect();
        self.leaving().await;
        self.is_draining.set(true);
        let no_more = async {
            for acceptor in accepting {
                // It ends by itself, once the backlog is empty.
                let _ = acceptor.await;
            }
            drop(ceded);
        };
        let is_retiring = *self.phase.borrow() == Phase::Retiring;
        if is_retiring {
            no_more.await;
            self.linger().await;
        } else {
            self.linger().await;
            no_more.await;
        }
        self.connections.close();
        let tunnels = self.proxy.tunnels();
        let all_gone = async { tokio::join!(self.connections.all_gone(), tunnels.all_gone()) };
        let mut all_gone = pin!(all_gone);
        tokio::select! {
            biased;
            _ = &mut all_gone => return,
            () = self.draining() => {}
        }
        tunnels.close();
        let drained = self.timers.within(self.drain_timeout, all_gone).await;
        if drained.is_err() {
            let left = self.connections.count() + self.proxy.tunnels().count();
            tracing::warn!(left, "drain_timeout is over: cutting the remaining connections");
        }
    }

    /// Gives whoever is here time to go.
    async fn linger(&self) {
        if self.connections.count() + self.proxy.tunnels().count() > 0 {
            self.clock.sleep(LINGER).await;
        }
    }

    async fn leaving(&self) {
        let mut phase = self.phase.clone();
        // As below.
        let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
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

    /// Accepts until draining has lingered, then whatever the kernel has accepted already; where there
    /// is a successor, leaves that to it.
    async fn accept(self: Rc<Self>, Entrance { listener, entry }: Entrance) {
        let door = match listener.open() {
            Ok(door) => door,
            Err(error) => return tracing::error!(%error, "a listener cannot be used"),
        };
        let lingered = async {
            self.leaving().await;
            if *self.phase.borrow() == Phase::Draining {
                self.clock.sleep(LINGER).await;
            }
        };
        tokio::pin!(lingered);
        loop {
            tokio::select! {
                biased;
                accepted = door.accept() => match accepted {
                    Ok(arrival) => self.take(arrival, entry),
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

    fn take(self: &Rc<Self>, arrival: Arrival, entry: Entry) {
        let (place, post) = (self.places.take(), Arc::<Post>::default());
        let (stream, place, peer) = match (arrival, place) {
            (Arrival::Tcp(stream, peer), Some(place)) => (stream, place, peer),
            (Arrival::Tcp(stream, _), None) => {
                return turn_away(stream, self.inbound_tls.is_none());
            }
            (Arrival::Unix(stream), Some(place)) => {
                let entry = arrival::from_socket(entry, &stream, &self.admission);
                let stream = Seated::new(stream, place, Arc::clone(&post));
                return self.talk(stream, post, entry);
            }
            (Arrival::Unix(_), None) => return,
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %peer, "nodelay refused");
        }
        let entry = Entry { peer: Some(peer), ..entry };
        let stream = Seated::new(stream, place, Arc::clone(&post));
        match &self.inbound_tls {
            None => {
                let entry = arrival::from_address(entry, peer, &self.admission);
                self.talk(stream, post, entry);
            }
            Some(tls) => {
                let tls = tls.acceptor();
                self.entertain(Rc::clone(self).shake_hands(tls, stream, post, peer, entry));
            }
        }
    }

    /// Clear text.
    fn talk<I: Io>(self: &Rc<Self>, io: I, post: Arc<Post>, entry: Entry) {
        if self.h2c {
            self.entertain(self.either(io, post, entry));
        } else {
            self.entertain(self.h1(io, post, entry));
        }
    }

    fn entertain(&self, connection: impl Future<Output = ()> + 'static) {
        let guest = self.connections.guest();
        spawn_local(async move {
            connection.await;
            drop(guest);
        });
    }

    async fn shake_hands(
        self: Rc<Self>,
        tls: TlsAcceptor,
        stream: Seated<TcpStream>,
        post: Arc<Post>,
        peer: SocketAddr,
        entry: Entry,
    ) {
        let Rules { handshake_timeout, meters, .. } = self.connections.rules();
        match self.timers.within(*handshake_timeout, tls.accept(stream)).await {
            Ok(Ok(io)) => {
                let tls = io.get_ref().1;
                let entry = arrival::from_tls(entry, peer, tls, &self.admission);
                if tls.alpn_protocol() == Some(b"h2") {
                    self.h2(io, post, entry).await;
                } else {
                    self.h1(io, post, entry).await;
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, %peer, "TLS handshake failed"),
            Err(error) => {
                meters.count(Limit::Handshake);
                tracing::debug!(%error, %peer, "TLS handshake took too long");
            }
        }
    }

    fn h1<I: Io>(
        self: &Rc<Self>,
        io: I,
        post: Arc<Post>,
        entry: Entry,
    ) -> impl Future<Output = ()> + use<I> {
        let (io, activity) = self.guarded(io, post, Framing::http1());
        let service = self.service(&activity, entry);
        let mut builder = http1::Builder::new();
        let connection = builder.max_buf_size(BUFFER).serve_connection(io, service);
        self.serving(Box::pin(connection.with_upgrades()), activity, None)
    }

    fn h2<I: Io>(
        self: &Rc<Self>,
        io: I,
        post: Arc<Post>,
        entry: Entry,
    ) -> impl Future<Output = ()> + use<I> {
        let activity = Activity::new(&self.tally, post);
        let service = self.service(&activity, entry);
        let (opening, io) = Opening::of(io);
        let limits = self.http2;
        let mut builder = http2::Builder::new(LocalExecutor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(limits.max_header_bytes)
            .max_pending_accept_reset_streams(limits.max_pending_resets)
            .max_local_error_reset_streams(limits.max_error_resets)
            .keep_alive_interval(limits.ping_interval)
            .keep_alive_timeout(limits.ping_timeout);
        let connection = builder.serve_connection(TokioIo::new(io), service);
        self.serving(Box::pin(connection), activity, Some(opening))
    }

    /// Clear text, HTTP/1.1 or HTTP/2 by prior knowledge.
    fn either<I: Io>(
        self: &Rc<Self>,
        io: I,
        post: Arc<Post>,
        entry: Entry,
    ) -> impl Future<Output = ()> + use<I> {
        let (io, activity) = self.guarded(io, post, Framing::either());
        let service = self.service(&activity, entry);
        let (limits, mut builder) = (self.http2, auto::Builder::new(LocalExecutor));
        builder.http1().max_buf_size(BUFFER);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(limits.max_header_bytes)
            .max_pending_accept_reset_streams(limits.max_pending_resets)
            .max_local_error_reset_streams(limits.max_error_resets)
            .keep_alive_interval(limits.ping_interval)
            .keep_alive_timeout(limits.ping_timeout);
        let connection = builder.serve_connection_with_upgrades(io, service);
        self.serving(Box::pin(connection.into_owned()), activity, None)
    }

    fn guarded<I>(
        &self,
        io: I,
        post: Arc<Post>,
        framing: Framing,
    ) -> (TokioIo<Guard<I>>, Rc<Activity>) {
        let guard = Guard::new(io, framing, Arc::clone(&post), Arc::clone(&self.malformed));
        (TokioIo::new(guard), Activity::new(&self.tally, post))
    }

    fn serving<C: Drainable>(
        &self,
        connection: Pin<Box<C>>,
        activity: Rc<Activity>,
        opening: Option<Opening>,
    ) -> Serving<C> {
        let opening = opening.map(Box::new);
        let post = Arc::clone(activity.post());
        let patience = Patience::new(post, self.timers.clone(), self.request_head_timeout);
        Serving::new(connection, activity, opening, patience, self.connections.clone())
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
        service_fn(move |mut request: Request<Incoming>| {
            let (worker, busy) = (Rc::clone(&worker), Busy::new(&activity));
            let (version, standing) = (request.version(), busy.post().standing(&request));
            let answer = match standing {
                Standing::Substitute(malformed) => {
                    Either::Left(ready(worker.proxy.refuse(&mut request, entry, malformed)))
                }
                _ => Either::Right(Rc::clone(&worker.proxy).handle(request, entry)),
            };
            answer.map(move |answer| Ok(worker.pass_on(answer, version, standing, busy)))
        })
    }

    fn pass_on(
        &self,
        mut answer: Response<Outbound>,
        version: Version,
        standing: Standing,
        mut busy: Busy,
    ) -> Response<Answering> {
        busy.answered();
        if let Some(malformed) = busy.post().malformed()
            && error::blames_the_content(&answer)
        {
            answer = self.proxy.refused(malformed);
        }
        let is_last = standing != Standing::Ordinary || self.is_draining.get();
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
            busy.post().switch();
        } else if version < Version::HTTP_2 && is_last {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer.map(|content| Answering::new(content, busy))
    }
}

/// A client's stream of bytes.
trait Io: AsyncRead + AsyncWrite + Unpin + Send + 'static {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send + 'static> Io for T {}
