//! The main path: a plain request in, an authenticated one out, a 401 healed by one replay.
//!
//! One [`Proxy`] serves one worker thread and shares nothing with the others but the tokens, so
//! nothing on this path waits for another thread. [`Proxy::handle`] reads from top to bottom in the
//! order in which things happen.

pub mod access;
mod admission;
pub mod body;
pub mod cors;
pub mod error;
mod exchange;
pub mod facade;
pub mod headers;
mod heal;
pub mod hostnames;
mod in_flight;
pub mod links;
mod login;
pub mod malformed;
mod outbound;
mod pace;
pub mod peers;
mod public;
mod record;
pub mod replay;
pub mod routes;
pub mod selection;
pub mod throttle;
pub mod upgrade;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue, LOCATION, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use rustls::ClientConfig;

pub use admission::{Admission, Entry};
pub use heal::REPLAY_FIELD;
pub use outbound::Outbound;
pub use record::Audience;

use crate::clock::Timestamp;
use crate::metrics::limits::{Limit, Meters};
use crate::metrics::traffic::Tally;
use crate::settings::{Origin, UpstreamSettings};
use crate::timers::Timers;
use crate::timers::stall::Pace;
use crate::token::Generation;
use crate::token::identities::{Identities, IdentityId};
use crate::token::slot::LocalBearer;
use crate::upstream::{Choice, Connector, Rules, SendError, Upstream};
use admission::Whose;
use body::{KeepLimit, Outgoing, Replayable};
use bytes::Bytes;
use cors::{Cors, Visitor};
use error::ProxyError;
use exchange::{Exchange, Route};
use headers::{Found, Injected};
use in_flight::{Count, InFlight};
use links::LinkMap;
use links::body::Rewritten;
use login::Call;
use malformed::Malformed;
use public::Public;
use record::Record;
use routes::{Routes, Site};
use selection::API_KEY;
use throttle::{Throttle, Turn, Want};
use upgrade::{Opener, Tunnels};

/// An answer of RingCentral's.
type Answer = Response<crate::upstream::Content<Outgoing<Incoming>>>;

/// The proxy of one worker thread.
#[derive(Debug)]
pub struct Proxy {
    identities: Arc<Identities>,
    routes: Routes,
    /// RingCentral's hosts, in the order of `routes`.
    hosts: Vec<Host>,
    /// Where the proxy is for clients; `None` if links in answers are left alone.
    public: Option<Public>,
    tunnels: Tunnels,
    timers: Timers,
    local: RefCell<Vec<Local>>,
    limits: Limits,
    names: Names,
    admission: Arc<Admission>,
    audience: Audience,
    /// Shared by all threads; `None` if limits are RingCentral's affair.
    throttle: Option<Arc<Throttle>>,
    /// When an answer was last looked at for its limits.
    noted: Cell<Timestamp>,
}

/// One of RingCentral's hosts.
#[derive(Debug)]
struct Host {
    /// `Host` there.
    authority: HeaderValue,
    towards: Towards,
    /// Whether links in its answers are led back.
    rewrite_links: bool,
}

/// What a host is for.
#[derive(Debug)]
enum Towards {
    /// Requests with a token, and their answers.
    Requests(Upstream<Outgoing<Incoming>>),
    /// WebSockets, which need none.
    Sockets(Box<Connector>),
}

/// How long and how much.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long a request may wait for a token.
    pub token_wait: Duration,
    /// What is kept for a replay.
    pub keep: KeepLimit,
    /// How long a WebSocket may be silent.
    pub websocket_idle: Duration,
    /// Requests of one identity that may be under way on one thread.
    pub in_flight: usize,
    /// How slowly clients may send.
    pub pace: Pace,
    /// Connections to each host, of one thread.
    pub upstream_connections: usize,
    /// Where limits are counted that were reached.
    pub meters: Arc<Meters>,
}

/// What is done about links in answers.
#[derive(Clone, Debug)]
pub struct Links {
    /// Whether they are led back.
    pub are_rewritten: bool,
    /// Where to; else to the host that the client has used.
    pub public_url: Option<Origin>,
}

/// What the proxy calls itself.
#[derive(Clone, Debug)]
pub struct Names {
    /// This process in `Via`: unique, so that a loop shows.
    pub pseudonym: String,
    via_h1: HeaderValue,
    via_h2: HeaderValue,
}

impl Names {
    /// `pseudonym` must be a token (RFC 9110 §5.6.2).
    pub fn new(pseudonym: String) -> Self {
        let via = |version| HeaderValue::from_str(&format!("{version} {pseudonym}"));
        let (via_h1, via_h2) = (via("1.1").expect("a token"), via("2").expect("a token"));
        Self { pseudonym, via_h1, via_h2 }
    }

    fn via(&self, received: Version) -> &HeaderValue {
        if received == Version::HTTP_2 { &self.via_h2 } else { &self.via_h1 }
    }
}

/// What this thread knows of one identity.
#[derive(Debug, Default)]
struct Local {
    bearer: LocalBearer,
    /// The newest generation that this thread has seen work.
    accepted: Generation,
    in_flight: Count,
}

/// The token of one send.
struct Token {
    value: HeaderValue,
    generation: Generation,
}

/// A request that may pass. It is used in place: to move it would be to have room for it twice.
#[allow(clippy::large_enum_variant, reason = "nearly every request is ready")]
enum Prepared {
    /// With a token in it.
    Ready(Exchange, Generation),
    /// There is no token yet, or it is not its turn.
    Early(Option<Box<Early>>),
    /// It is for the proxy itself.
    Call(Option<Box<Call>>),
    /// It shows a token of the facade's, whose key is not known yet.
    Keyless(Option<Box<Request<Incoming>>>),
    /// It asks for a WebSocket.
    Socket(Option<Box<Socket>>),
    /// A browser's question, with the answer.
    Told(Option<Box<Response<Bytes>>>),
    /// It may not pass after all.
    Refused(Option<ProxyError>),
}

/// A request for a WebSocket, as it came.
struct Socket {
    head: Parts,
    found: Found,
    site: Site,
}

/// A request that may pass, as it came.
struct Early {
    site: Site,
    /// The identity that its path has named.
    path: Option<Box<str>>,
    links: Option<Arc<LinkMap>>,
    head: Parts,
    content: Incoming,
    found: Found,
    identity: Whose,
    want: Option<Want>,
    in_flight: Option<InFlight>,
}

impl Proxy {
    /// A proxy for the thread that `timers` belong to. `tls` is for connections to RingCentral.
    #[allow(clippy::too_many_arguments, reason = "each is a part of its own, and none is optional")]
    pub fn new(
        identities: Arc<Identities>,
        upstream: &UpstreamSettings,
        tls: &ClientConfig,
        timers: Timers,
        limits: Limits,
        names: Names,
        admission: Arc<Admission>,
        throttle: Option<Arc<Throttle>>,
        links: &Links,
        audience: Audience,
    ) -> Self {
        let local = RefCell::default();
        let routes = Routes::new(&upstream.hosts);
        let hosts = hosts(upstream, tls, &timers, &limits, &audience.tally);
        let public = || Public::new(upstream, links.public_url.as_ref());
        let public = links.are_rewritten.then(public);
        let tunnels = Tunnels::new(Arc::clone(&audience.tally));
        Self {
            identities,
            routes,
            hosts,
            public,
            tunnels,
            timers,
            local,
            limits,
            names,
            admission,
            audience,
            throttle,
            noted: Cell::new(Timestamp::from_unix_millis(0)),
        }
    }

    /// Answers one request: RingCentral's answer, or an error of the proxy's own.
    ///
    /// What can be done at once is done before the future is made. A future has room for all that
    /// it may have to keep, and every open connection has room for its future.
    pub fn handle(
        self: Rc<Self>,
        mut request: Request<Incoming>,
        entry: Entry,
    ) -> impl Future<Output = Response<Outbound>> {
        let mut record = Record::begin(&mut request, entry, &self.audience);
        let mut visitor = Visitor::App;
        let version = request.version();
        let mut prepared = match self.prepare(request, entry, &mut record, &mut visitor) {
            Ok(prepared) => prepared,
            Err(error) => Prepared::Refused(Some(error)),
        };
        async move {
            if let Prepared::Keyless(request) = &mut prepared {
                let request = request.take().expect("a future is run once");
                let preparing = self.prepare_with_key(*request, entry, &mut record, &mut visitor);
                prepared = Box::pin(preparing).await;
            }
            let answer = match &mut prepared {
                Prepared::Call(call) => {
                    let call = call.take().expect("a future is run once");
                    Ok(Box::pin(self.answer_call(*call, &mut record)).await)
                }
                Prepared::Keyless(_) => Err(ProxyError::NoFacadeKey),
                Prepared::Ready(exchange, generation) => {
                    self.relay(exchange, *generation, &mut record).await
                }
                Prepared::Early(early) => {
                    let early = early.take().expect("a future is run once");
                    Box::pin(self.relay_in_time(*early, &mut record)).await
                }
                Prepared::Socket(socket) => {
                    let socket = socket.take().expect("a future is run once");
                    record.sending();
                    Box::pin(self.open_tunnel(*socket)).await
                }
                Prepared::Told(answer) => {
                    Ok(answer.take().expect("a future is run once").map(Outbound::local))
                }
                Prepared::Refused(error) => Err(error.take().expect("a future is run once")),
            };
            let mut answer = answer.unwrap_or_else(|error| {
                record.failed(&error);
                let ends = version < Version::HTTP_2 && error.ends_connection();
                let mut answer = error.into_response().map(Outbound::local);
                if ends {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                answer
            });
            self.admission.cors.tell(visitor, answer.headers_mut());
            record.end(&self.audience, &answer);
            answer
        }
    }

    /// Answers a request that could not be read. `request` stands in its place.
    pub fn refuse<B>(
        &self,
        request: &mut Request<B>,
        entry: Entry,
        malformed: Malformed,
    ) -> Response<Outbound> {
        let mut record = Record::begin(request, entry, &self.audience);
        record.failed(&ProxyError::Malformed(malformed));
        let answer = self.refused(malformed);
        record.end(&self.audience, &answer);
        answer
    }

    /// The answer to a request that could not be read to its end.
    pub fn refused(&self, malformed: Malformed) -> Response<Outbound> {
        ProxyError::Malformed(malformed).into_response().map(Outbound::local)
    }

    /// Drops the upstream connections that have idled too long.
    pub fn sweep(&self) {
        for host in &self.hosts {
            if let Towards::Requests(upstream) = &host.towards {
                upstream.sweep();
            }
        }
    }

    /// Its WebSocket tunnels.
    pub fn tunnels(&self) -> &Tunnels {
        &self.tunnels
    }

    /// Judges a request and makes it ready to be sent, if there is a token.
    fn prepare(
        &self,
        request: Request<Incoming>,
        entry: Entry,
        record: &mut Record,
        visitor: &mut Visitor,
    ) -> Result<Prepared, ProxyError> {
        let (mut head, content) = request.into_parts();
        let found = Found::in_request(&head.headers);
        *visitor = self.judge(&head, &found, entry)?;
        if matches!(visitor, Visitor::Page(_))
            && let Some(answer) = Cors::preflight(&head)
        {
            return Ok(Prepared::Told(Some(Box::new(answer))));
        }
        let shown = self.admission.facade.shown(&head.headers, &found).is_some();
        if shown && self.admission.facade.keys().is_none() {
            // As it came: it is looked at anew.
            return Ok(Prepared::Keyless(Some(Box::new(Request::from_parts(head, content)))));
        }
        let path = routes::take_identity(&mut head.uri).map_err(ProxyError::UnknownIdentity)?;
        let public = self.public.as_ref();
        let links = public.and_then(|public| public.links(&head, path.as_deref(), entry.tls));
        let unknown_host = |_| ProxyError::Refused(access::Refusal::UnknownHost);
        let site = self.routes.find(&mut head.uri).map_err(unknown_host)?;
        if let Some(endpoint) = self.admit(&head, &found, site, *visitor)? {
            let (fixed, by) = (entry.identity, entry.caller);
            let call = Call { endpoint, head, content, found, fixed, by, path };
            return Ok(Prepared::Call(Some(Box::new(call))));
        }
        if found.has_looped(&head.headers, &self.names.pseudonym) {
            return Err(ProxyError::Loop);
        }
        let pass = if shown { self.pass(&head, &found)? } else { None };
        if matches!(self.hosts[site.index()].towards, Towards::Sockets(_)) {
            // SDKs open a socket with its own token and nothing else. RingCentral gave it to somebody
            // who was let in here, and lets nobody in without.
            if !upgrade::has_token(&head.uri) {
                self.identity(&head, &found, entry, path.as_deref(), pass.as_ref(), record)?;
            }
            if !upgrade::is_websocket(&head) {
                return Err(ProxyError::Refused(access::Refusal::WebSocketOnly));
            }
            self.forget_key(&mut head);
            return Ok(Prepared::Socket(Some(Box::new(Socket { head, found, site }))));
        }
        let (identity, caller) =
            self.identity(&head, &found, entry, path.as_deref(), pass.as_ref(), record)?;
        let rewrites = caller.is_none_or(|client| client.rewrite_links);
        let links = links.filter(|_| rewrites && self.hosts[site.index()].rewrite_links);
        let now = self.timers.now();
        let want = self.want(&head, &identity, caller, now)?;
        self.forget_key(&mut head);
        if content.size_hint().lower() > self.limits.keep.max_request_bytes {
            self.limits.meters.count(Limit::RequestBytes);
            return Err(ProxyError::TooLong);
        }
        let (ready, in_flight) = match &identity {
            Whose::Known(id) => {
                record.identified(*id, self.identities.keeper(*id).name());
                let in_flight = self.enter(*id)?;
                let token = self.token_at(*id, now);
                let turn = token.is_some().then(|| self.turn_at_once(*id, want.as_ref(), now));
                let ready = turn.transpose()?.flatten().zip(token);
                (ready.map(|(turn, token)| (*id, token, turn)), Some(in_flight))
            }
            Whose::Stranger(_) | Whose::Sealed(_) => (None, None),
        };
        let early = Early { site, path, links, head, content, found, identity, want, in_flight };
        Ok(match ready {
            Some((id, token, turn)) => {
                Prepared::Ready(self.exchange(id, early, token.value, turn), token.generation)
            }
            None => Prepared::Early(Some(Box::new(early))),
        })
    }

    /// A client's key goes no further.
    fn forget_key(&self, head: &mut Parts) {
        if self.admission.selection.asks_for_key() {
            head.headers.remove(API_KEY);
        }
    }

    /// Once in the life of the process, and that only if a request with a token comes before a login.
    async fn prepare_with_key(
        &self,
        request: Request<Incoming>,
        entry: Entry,
        record: &mut Record,
        visitor: &mut Visitor,
    ) -> Prepared {
        let prepared = match self.facade_keys().await {
            Ok(_) => self.prepare(request, entry, record, visitor),
            Err(error) => Err(error),
        };
        prepared.unwrap_or_else(|error| Prepared::Refused(Some(error)))
    }

    async fn relay(
        &self,
        exchange: &mut Exchange,
        generation: Generation,
        record: &mut Record,
    ) -> Result<Response<Outbound>, ProxyError> {
        record.sending();
        let answer = self.send(exchange).await?;
        record.answered(generation);
        let mut answer = if answer.status() == StatusCode::UNAUTHORIZED {
            // Boxed: rare, and large.
            Box::pin(self.heal(exchange, generation, answer, record)).await?
        } else {
            self.note_accepted(exchange.identity(), generation);
            if exchange.is_penalised() {
                Box::pin(self.relay_penalty(exchange, answer)).await?
            } else {
                self.to_client(answer, exchange)
            }
        };
        answer.body_mut().keeps(exchange.take_in_flight());
        Ok(answer)
    }

    /// The request came before the token did, or before its turn.
    async fn relay_in_time(
        &self,
        mut early: Early,
        record: &mut Record,
    ) -> Result<Response<Outbound>, ProxyError> {
        let identity = self.known(&early.identity, record).await?;
        if early.in_flight.is_none() {
            early.in_flight = Some(self.enter(identity)?);
        }
        // First, for nobody queues for what cannot be sent; again, because the turn may take its time.
        self.awaited_token(identity).await?;
        let want = early.want.or_else(|| self.plain_want(&early.head));
        let turn = self.turn(identity, want.as_ref()).await?;
        let token = self.awaited_token(identity).await?;
        let mut exchange = self.exchange(identity, early, token.value, turn);
        self.relay(&mut exchange, token.generation, record).await
    }

    /// Counts a request of `identity`, unless too many are under way.
    fn enter(&self, identity: IdentityId) -> Result<InFlight, ProxyError> {
        let mut local = self.local.borrow_mut();
        if local.len() <= identity.index() {
            local.resize_with(identity.index() + 1, Local::default);
        }
        local[identity.index()].in_flight.enter(self.limits.in_flight).ok_or_else(|| {
            self.limits.meters.count(Limit::InFlight);
            ProxyError::InFlight(self.identities.keeper(identity).name().to_owned())
        })
    }

    fn current_token(&self, identity: IdentityId) -> Option<Token> {
        self.token_at(identity, self.timers.now())
    }

    /// Wants the request to have been counted.
    fn token_at(&self, identity: IdentityId, now: Timestamp) -> Option<Token> {
        let mut local = self.local.borrow_mut();
        let slot = self.identities.keeper(identity).slot();
        let bearer = local[identity.index()].bearer.current(slot, now)?;
        Some(Token { value: bearer.value.clone(), generation: bearer.generation })
    }

    /// The request came before the token did: wait for it, but not for ever.
    async fn awaited_token(&self, identity: IdentityId) -> Result<Token, ProxyError> {
        let keeper = self.identities.keeper(identity);
        let waited = self.timers.within(self.limits.token_wait, keeper.wait_usable()).await;
        let why = match waited {
            Ok(Ok(())) => match self.current_token(identity) {
                Some(token) => return Ok(token),
                None => keeper.unavailable(),
            },
            Ok(Err(why)) => why,
            Err(_) => keeper.unavailable(),
        };
        Err(ProxyError::NoToken { identity: keeper.name().to_owned(), why })
    }

    fn exchange(
        &self,
        identity: IdentityId,
        early: Early,
        bearer: HeaderValue,
        turn: Turn,
    ) -> Exchange {
        let Early { site, path, links, head, content, found, identity: _, want, in_flight } = early;
        let mut fields = head.headers;
        let host = Some(&self.hosts[site.index()].authority);
        let (injected, via) = (Some(&bearer), self.names.via(head.version));
        headers::to_upstream(&mut fields, &found, Injected { bearer: injected, host, via });
        if links.is_some() {
            links::fields::to_upstream(&mut fields);
        }
        if !content.is_end_stream() && content.size_hint().exact().is_none() {
            // Unless told so, hyper sends a GET without its content.
            fields.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let content = Replayable::new(content, &self.limits.keep);
        Exchange::new(
            Route { site, identity, path, links, want, in_flight },
            turn,
            head.method,
            head.uri,
            fields,
            bearer,
            content,
        )
    }

    /// Sends the request when it is its turn, and once more if a kept-alive connection died under an
    /// idempotent one.
    async fn send(&self, exchange: &mut Exchange) -> Result<Answer, ProxyError> {
        let mut choice = Choice::Any;
        loop {
            let mut turn = match exchange.take_turn() {
                Some(turn) => turn,
                // Boxed: only a second send comes here.
                None => Box::pin(self.next_turn(exchange)).await?,
            };
            let Some(request) = exchange.request() else { return Err(ProxyError::ClientBroke) };
            turn.depart();
            let Towards::Requests(upstream) = &self.hosts[exchange.site().index()].towards else {
                unreachable!("what goes to a host for sockets becomes no exchange");
            };
            match upstream.send(request, choice, || exchange.progress()).await {
                Ok(answer) => {
                    self.note_limits(exchange, turn, &answer);
                    return Ok(answer);
                }
                Err(_) if exchange.content() == replay::Content::Broken => {
                    return Err(ProxyError::ClientBroke);
                }
                Err(_) if exchange.content() == replay::Content::OverLimit => {
                    self.limits.meters.count(Limit::RequestBytes);
                    return Err(ProxyError::TooLong);
                }
                Err(SendError::SlowClient) => return Err(ProxyError::SlowClient),
                Err(SendError::Broken { reused: true, .. }) if exchange.may_be_resent() => {
                    self.audience.tally.resent.add(1);
                    choice = Choice::New;
                }
                Err(error) => return Err(ProxyError::Upstream(error)),
            }
        }
    }

    async fn open_tunnel(&self, socket: Socket) -> Result<Response<Outbound>, ProxyError> {
        let Socket { head, found, site } = socket;
        let Host { authority, towards: Towards::Sockets(connector), .. } =
            &self.hosts[site.index()]
        else {
            unreachable!("it was prepared for a host for sockets");
        };
        let opener = Opener {
            connector,
            timers: &self.timers,
            tunnels: &self.tunnels,
            idle_timeout: self.limits.websocket_idle,
        };
        let via = self.names.via(head.version);
        opener.open(head, &found, authority, via).await
    }

    /// RingCentral's answer, as it is passed on.
    fn to_client(&self, mut answer: Answer, exchange: &Exchange) -> Response<Outbound> {
        let fields = answer.headers_mut();
        headers::to_client(fields);
        let (site, path) = (exchange.site(), exchange.path());
        if (site != Site::PLATFORM || path.is_some())
            && let Some(location) = fields.get(LOCATION)
            && let Some(path) = self.routes.led_back(site, path, location.as_bytes())
        {
            fields.insert(LOCATION, HeaderValue::from_bytes(&path).expect("two field values"));
        }
        let answer = match exchange.links() {
            Some(links) => links::body::rewrite(links, answer),
            None => answer.map(Rewritten::untouched),
        };
        answer.map(Outbound::upstream)
    }

    fn note_accepted(&self, identity: IdentityId, generation: Generation) {
        let known = &mut self.local.borrow_mut()[identity.index()].accepted;
        if *known < generation {
            *known = generation;
            self.identities.keeper(identity).accepted(generation);
        }
    }
}

/// The platform, then the other hosts in their order.
fn hosts(
    settings: &UpstreamSettings,
    tls: &ClientConfig,
    timers: &Timers,
    limits: &Limits,
    tally: &Arc<Tally>,
) -> Vec<Host> {
    let rules = Rules {
        idle_timeout: settings.idle_timeout,
        stall_timeout: settings.stall_timeout,
        max_connections: limits.upstream_connections,
        client_pace: limits.pace,
        meters: Arc::clone(&limits.meters),
        tally: Arc::clone(tally),
    };
    let host = |origin: &Origin, websocket, rewrite_links| {
        let authority = HeaderValue::from_str(origin.authority.as_str());
        let connector = Connector::new(origin, settings, tls);
        let towards = if websocket {
            Towards::Sockets(Box::new(connector.without_h2()))
        } else {
            Towards::Requests(Upstream::new(connector, timers.clone(), rules.clone()))
        };
        let authority = authority.expect("an authority is a field value");
        Host { authority, towards, rewrite_links }
    };
    let others = settings.hosts.iter();
    let others = others.map(|other| host(&other.origin, other.websocket, other.rewrite_links));
    std::iter::once(host(&settings.origin, false, true)).chain(others).collect()
}
