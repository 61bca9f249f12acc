//! Sockets in, requests out: accepting, TLS, one task per connection.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::reply::Reply;

/// A connection, as its requests see it.
#[derive(Default)]
pub(super) struct Link {
    /// Counts connections, from 1.
    pub(super) number: u64,
    /// Whether it is encrypted.
    pub(super) secure: bool,
    /// Close when nothing is under way.
    pub(super) close: Notify,
    /// End now, whatever is under way.
    sever: Notify,
    /// How many requests it has served.
    served: AtomicU64,
    /// What goes on over the connection once HTTP has left it.
    upgraded: Mutex<Option<Pin<Box<dyn Future<Output = ()> + Send>>>>,
}

impl Link {
    /// Has `conversation` go on in the connection's task after an upgrade.
    pub(super) fn afterwards(&self, conversation: impl Future<Output = ()> + Send + 'static) {
        *self.upgraded() = Some(Box::pin(conversation));
    }

    /// Counts one more request served, and answers how many that makes.
    pub(super) fn served(&self) -> u64 {
        self.served.fetch_add(1, Ordering::Relaxed) + 1
    }

    fn upgraded(&self) -> MutexGuard<'_, Option<Pin<Box<dyn Future<Output = ()> + Send>>>> {
        self.upgraded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection. There is no return: the task that asks ends with it.
    pub(super) async fn sever(&self) -> Reply {
        self.sever.notify_one();
        std::future::pending().await
    }
}

/// What a listener does with its connections and their requests.
pub(super) trait Host: Clone + Send + Sync + 'static {
    /// A connection came; answers its number.
    fn came(&self) -> u64;

    /// A connection went.
    fn went(&self);

    /// Answers one request.
    fn answer(
        &self,
        link: Arc<Link>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Reply> + Send;
}

/// Accepts for ever. Dropping this future ends every connection.
pub(super) async fn accept<H: Host>(listener: TcpListener, tls: Option<TlsAcceptor>, host: H) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(done) = connections.join_next() => pass_panic_on(done),
            accepted = listener.accept() => {
                // An accept error concerns one peer that has gone again; the next may do better.
                let Ok((stream, _)) = accepted else { continue };
                connections.spawn(connection(stream, tls.clone(), host.clone()));
            }
        }
    }
}

async fn connection<H: Host>(stream: TcpStream, tls: Option<TlsAcceptor>, host: H) {
    let number = host.came();
    let _present = Present(&host);
    let _ = stream.set_nodelay(true);
    let link = Arc::new(Link { number, secure: tls.is_some(), ..Link::default() });
    match tls {
        None => serve(stream, link.clone(), &host).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                serve(stream, link.clone(), &host).await;
            }
        }
    }
    let conversation = link.upgraded().take();
    if let Some(conversation) = conversation {
        conversation.await;
    }
}

async fn serve<H, S>(stream: S, link: Arc<Link>, host: &H)
where
    H: Host,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new());
    builder.http2().timer(TokioTimer::new());
    let service = service_fn(|request| {
        let (host, link) = (host.clone(), link.clone());
        async move { Ok::<_, Infallible>(host.answer(link, request).await) }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            biased;
            () = link.sever.notified() => return,
            // What went wrong with a connection is its peer's concern, and in the peer's log.
            _ = &mut connection => return,
            () = link.close.notified() => connection.as_mut().graceful_shutdown(),
        }
    }
}

/// Says that a connection went, however that came about.
struct Present<'a, H: Host>(&'a H);

impl<H: Host> Drop for Present<'_, H> {
    fn drop(&mut self) {
        self.0.went();
    }
}

/// A panic in a connection is a bug: it ends the listener, so that its test sees it.
pub(super) fn pass_panic_on(done: Result<(), tokio::task::JoinError>) {
    if let Err(error) = done
        && error.is_panic()
    {
        std::panic::resume_unwind(error.into_panic());
    }
}
