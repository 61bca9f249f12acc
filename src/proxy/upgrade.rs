//! WebSocket tunnels: the client's bytes and RingCentral's, in both directions, unread.
//!
//! Nothing is passed on before RingCentral has agreed by 101. A socket carries a token of its own in
//! its target (RingCentral's `wstoken`), so no access token is injected; that of the target passes.
//! A tunnel ends when either side does, when nothing has passed for too long, or when the proxy ends.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue, UPGRADE};
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::{BodyExt, Collected, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf, copy_bidirectional};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tracing::debug;

use super::error::ProxyError;
use super::headers::{self, Found, Injected};
use super::outbound::Outbound;
use crate::clock::Timestamp;
use crate::metrics::traffic::Tally;
use crate::timers::Timers;
use crate::upstream::{Connector, upgrade};

/// Of an answer that is no 101, so much is passed on.
const MAX_REFUSAL: usize = 64 * 1024;

/// How long the last bytes may take when a tunnel is ended from here.
const FAREWELL: Duration = Duration::from_secs(1);

/// The open tunnels of one worker thread. Clones share them.
#[derive(Clone, Debug)]
pub struct Tunnels(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    open: Cell<usize>,
    tally: Arc<Tally>,
    closing: Cell<bool>,
    close: Notify,
    all_gone: Notify,
}

impl Tunnels {
    /// None, on the thread of `tally`.
    pub fn new(tally: Arc<Tally>) -> Self {
        let (open, closing) = (Cell::default(), Cell::default());
        let (close, all_gone) = (Notify::new(), Notify::new());
        Self(Rc::new(Shared { open, tally, closing, close, all_gone }))
    }

    /// How many are open.
    pub fn count(&self) -> usize {
        self.0.open.get()
    }

    /// Ends every tunnel, and each that is opened from now on.
    pub fn close(&self) {
        self.0.closing.set(true);
        self.0.close.notify_waiters();
    }

    /// Returns when none is open.
    pub async fn all_gone(&self) {
        while self.count() > 0 {
            self.0.all_gone.notified().await;
        }
    }

    async fn closing(&self) {
        let close = self.0.close.notified();
        if !self.0.closing.get() {
            close.await;
        }
    }
}

/// Counts a tunnel while it is open.
struct Open(Tunnels);

impl Open {
    fn new(tunnels: &Tunnels) -> Self {
        tunnels.0.open.set(tunnels.0.open.get() + 1);
        tunnels.0.tally.websockets.add(1);
        Self(tunnels.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let shared = &self.0.0;
        shared.open.set(shared.open.get() - 1);
        shared.tally.websockets.sub(1);
        if shared.open.get() == 0 {
            shared.all_gone.notify_one();
        }
    }
}

/// Whether a request asks for a WebSocket (RFC 6455 §4.1).
pub fn is_websocket(head: &Parts) -> bool {
    let asks = |name, word: &str| {
        head.headers.get_all(name).iter().any(|line| {
            let words = line.as_bytes().split(|byte| *byte == b',');
            words.map(<[u8]>::trim_ascii).any(|it| it.eq_ignore_ascii_case(word.as_bytes()))
        })
    };
    head.method == Method::GET
        && head.version == Version::HTTP_11
        && asks(CONNECTION, "upgrade")
        && asks(UPGRADE, "websocket")
}

/// Whether a target carries a token of the socket's own, as RingCentral's `wstoken` gives it.
pub fn has_token(target: &Uri) -> bool {
    let query = target.query().unwrap_or_default();
    let mut pairs = form_urlencoded::parse(query.as_bytes());
    pairs.any(|(name, value)| name == "access_token" && !value.is_empty())
}

/// What a tunnel needs of its worker.
pub(super) struct Opener<'a> {
    pub(super) connector: &'a Connector,
    pub(super) timers: &'a Timers,
    pub(super) tunnels: &'a Tunnels,
    pub(super) idle_timeout: Duration,
}

impl Opener<'_> {
    /// Asks the other side for a socket. If it agrees, the tunnel is open from then on.
    pub(super) async fn open(
        &self,
        mut head: Parts,
        found: &Found,
        host: &HeaderValue,
        via: &HeaderValue,
    ) -> Result<Response<Outbound>, ProxyError> {
        let mut fields = std::mem::take(&mut head.headers);
        headers::to_upstream(&mut fields, found, Injected { bearer: None, host: Some(host), via });
        ask_for_websocket(&mut fields);
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = head.uri.clone();
        *request.headers_mut() = fields;
        let client = hyper::upgrade::on(Request::from_parts(head, ()));
        let answer = upgrade(self.connector, request, self.timers).await;
        let mut answer = answer.map_err(ProxyError::Upstream)?;
        headers::to_client(answer.headers_mut());
        if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            return self.refused(answer).await;
        }
        let server = hyper::upgrade::on(&mut answer);
        self.carry(client, server);
        ask_for_websocket(answer.headers_mut());
        Ok(answer.map(|_| Outbound::local(Bytes::new())))
    }

    async fn refused(&self, answer: Response<Incoming>) -> Result<Response<Outbound>, ProxyError> {
        let (head, content) = answer.into_parts();
        let content = Limited::new(content, MAX_REFUSAL).collect();
        let content = self.timers.within(self.connector.response_timeout(), content).await;
        // What broke off is left out; the status says what matters.
        let content =
            content.ok().and_then(Result::ok).map_or_else(Bytes::new, Collected::to_bytes);
        Ok(Response::from_parts(head, Outbound::local(content)))
    }

    fn carry(&self, client: OnUpgrade, server: OnUpgrade) {
        let (timers, idle) = (self.timers.clone(), self.idle_timeout);
        let open = Open::new(self.tunnels);
        spawn_local(async move {
            let both = async { tokio::try_join!(client, server) };
            match timers.within(idle, both).await {
                Ok(Ok((client, server))) => carry(&open.0, &timers, idle, client, server).await,
                Ok(Err(error)) => debug!(%error, "a WebSocket was not taken over"),
                Err(_) => debug!("a WebSocket was not taken over in time"),
            }
        });
    }
}

fn ask_for_websocket(fields: &mut HeaderMap) {
    fields.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    fields.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

async fn carry(
    tunnels: &Tunnels,
    timers: &Timers,
    idle_timeout: Duration,
    client: Upgraded,
    server: Upgraded,
) {
    let activity = Activity::new(timers);
    let (mut client, mut server) = (activity.watch(client), activity.watch(server));
    let why = {
        let mut copying = pin!(copy_bidirectional(&mut client, &mut server));
        tokio::select! {
            ended = &mut copying => if ended.is_ok() { "closed" } else { "broken off" },
            () = activity.idled(idle_timeout) => "idle",
            () = tunnels.closing() => "the proxy ends",
        }
    };
    let farewell = async { tokio::join!(client.shutdown(), server.shutdown()) };
    // Whoever does not take the last bytes goes without.
    let _ = timers.within(FAREWELL, farewell).await;
    debug!(why, bytes = activity.bytes.get(), "WebSocket tunnel ended");
}

/// What has passed through a tunnel.
#[derive(Clone, Debug)]
struct Activity {
    timers: Timers,
    bytes: Rc<Cell<u64>>,
    last: Rc<Cell<Timestamp>>,
}

impl Activity {
    fn new(timers: &Timers) -> Self {
        let last = Rc::new(Cell::new(timers.now()));
        Self { timers: timers.clone(), bytes: Rc::default(), last }
    }

    fn note(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.last.set(self.timers.now());
    }

    fn watch(&self, io: Upgraded) -> Watched {
        Watched { io: TokioIo::new(io), activity: self.clone() }
    }

    /// Returns when nothing has passed for `limit`.
    async fn idled(&self, limit: Duration) {
        let left = || self.timers.now().until(self.last.get() + limit);
        while !left().is_zero() {
            let mut deadline = self.timers.deadline(left());
            poll_fn(|cx| deadline.poll(cx)).await;
        }
    }
}

/// One side of a tunnel.
struct Watched {
    io: TokioIo<Upgraded>,
    activity: Activity,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buffer);
        if read.is_ready() {
            self.activity.note(buffer.filled().len() - before);
        }
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_of_the_sockets_own_stands_in_its_query() {
        for target in ["/ws?access_token=x", "/ws?wsc=1&access_token=x", "/ws?acc%65ss_token=x"] {
            assert!(has_token(&Uri::from_static(target)), "{target}");
        }
        for target in
            ["/ws", "/ws?access_token=", "/ws?access_token", "/ws?token=x", "/access_token=x"]
        {
            assert!(!has_token(&Uri::from_static(target)), "{target}");
        }
    }
}
