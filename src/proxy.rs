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
pub mod links;
mod login;
pub mod malformed;
mod outbound;
pub mod peers;
mod public;
mod record;
pub mod replay;
pub mod routes;
pub mod selection;
pub mod upgrade;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{HeaderValue, LOCATION, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use rustls::ClientConfig;

pub use admission::{Admission, Entry};
pub use heal::REPLAY_FIELD;
pub use outbound::Outbound;
pub use record::Audience;

use crate::metrics::traffic::Tally;
use crate::settings::{Origin, UpstreamSettings};
use crate::timers::Timers;
use crate::token::Generation;
use crate::token::identities::{Identities, IdentityId};
use crate::token::slot::LocalBearer;
use crate::upstream::{Choice, Connector, SendError, Upstream};
use admission::Whose;
use body::{KeepLimit, Outgoing, Replayable};
use bytes::Bytes;
use cors::{Cors, Visitor};
use error::ProxyError;
use exchange::{Exchange, Route};
use headers::{Found, Injected};
use links::LinkMap;
use links::body::Rewritten;
use login::Call;
use malformed::Malformed;
use public::Public;
use record::Record;
use routes::{Routes, Site};
use selection::API_KEY;
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
    /// There is no token yet.
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
        links: &Links,
        audience: Audience,
    ) -> Self {
        let local = RefCell::default();
        let routes = Routes::new(&upstream.hosts);
        let hosts = hosts(upstream, tls, &timers, &audience.tally);
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
        let mut record = Record::begin(&mut request, &self.audience);
        let mut visitor = Visitor::App;
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
                error.into_response().map(Outbound::local)
            });
            self.admission.cors.tell(visitor, answer.headers_mut());
            record.end(&self.audience, &answer);
            answer
        }
    }

    /// Answers a request that could not be read. `request` stands in its place.
    pub fn refuse<B>(&self, request: &mut Request<B>, malformed: Malformed) -> Response<Outbound> {
        let mut record = Record::begin(request, &self.audience);
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
                self.identity(&head, &found, entry, path.as_deref(), pass.as_ref())?;
            }
            if !upgrade::is_websocket(&head) {
                return Err(ProxyError::Refused(access::Refusal::WebSocketOnly));
            }
            self.forget_key(&mut head);
            return Ok(Prepared::Socket(Some(Box::new(Socket { head, found, site }))));
        }
        let (identity, rewrites) =
            self.identity(&head, &found, entry, path.as_deref(), pass.as_ref())?;
        let links = links.filter(|_| rewrites && self.hosts[site.index()].rewrite_links);
        self.forget_key(&mut head);
        let token = match &identity {
            Whose::Known(id) => {
                record.identified(*id, self.identities.keeper(*id).name());
                self.current_token(*id).map(|token| (*id, token))
            }
            Whose::Stranger(_) | Whose::Sealed(_) => None,
        };
        let early = Early { site, path, links, head, content, found, identity };
        Ok(match token {
            Some((id, token)) => {
                Prepared::Ready(self.exchange(id, early, token.value), token.generation)
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
        if answer.status() == StatusCode::UNAUTHORIZED {
            // Boxed: rare, and large.
            return Box::pin(self.heal(exchange, generation, answer, record)).await;
        }
        self.note_accepted(exchange.identity(), generation);
        Ok(self.to_client(answer, exchange))
    }

    /// The request came before the token did.
    async fn relay_in_time(
        &self,
        early: Early,
        record: &mut Record,
    ) -> Result<Response<Outbound>, ProxyError> {
        let identity = self.known(&early.identity, record).await?;
        let token = self.awaited_token(identity).await?;
        let mut exchange = self.exchange(identity, early, token.value);
        self.relay(&mut exchange, token.generation, record).await
    }

    fn current_token(&self, identity: IdentityId) -> Option<Token> {
        let mut local = self.local.borrow_mut();
        if local.len() <= identity.index() {
            local.resize_with(identity.index() + 1, Local::default);
        }
        let slot = self.identities.keeper(identity).slot();
        let bearer = local[identity.index()].bearer.current(slot, self.timers.now())?;
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

    fn exchange(&self, identity: IdentityId, early: Early, bearer: HeaderValue) -> Exchange {
        let Early { site, path, links, head, content, found, identity: _ } = early;
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
            Route { site, identity, path, links },
            head.method,
            head.uri,
            fields,
            bearer,
            content,
        )
    }

    /// Sends the request, and once more if a kept-alive connection died under an idempotent one.
    async fn send(&self, exchange: &mut Exchange) -> Result<Answer, ProxyError> {
        let mut choice = Choice::Any;
        loop {
            let Some(request) = exchange.request() else { return Err(ProxyError::ClientBroke) };
            let Towards::Requests(upstream) = &self.hosts[exchange.site().index()].towards else {
                unreachable!("what goes to a host for sockets becomes no exchange");
            };
            match upstream.send(request, choice, || exchange.progress()).await {
                Ok(answer) => return Ok(answer),
                Err(_) if exchange.content() == replay::Content::Broken => {
                    return Err(ProxyError::ClientBroke);
                }
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
    tally: &Arc<Tally>,
) -> Vec<Host> {
    let host = |origin: &Origin, websocket, rewrite_links| {
        let authority = HeaderValue::from_str(origin.authority.as_str());
        let connector = Connector::new(origin, settings, tls);
        let towards = if websocket {
            Towards::Sockets(Box::new(connector.without_h2()))
        } else {
            let (timers, tally) = (timers.clone(), Arc::clone(tally));
            Towards::Requests(Upstream::new(connector, timers, settings.idle_timeout, tally))
        };
        let authority = authority.expect("an authority is a field value");
        Host { authority, towards, rewrite_links }
    };
    let others = settings.hosts.iter();
    let others = others.map(|other| host(&other.origin, other.websocket, other.rewrite_links));
    std::iter::once(host(&settings.origin, false, true)).chain(others).collect()
}
