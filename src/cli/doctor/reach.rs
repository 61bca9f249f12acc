//! A look at one host: its name, a connection, TLS, and the date that it goes by. Thin: what it means
//! is judged in `network`. One `HEAD /` without any token is all that is asked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::header::{CONNECTION, DATE, HOST};
use http::{Method, Request, Uri};
use http_body_util::Empty;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tower_service::Service;

use super::certificate::end_of;
use crate::clock::{Clock, Stopwatch, Timestamp};
use crate::settings::Origin;
use crate::telemetry::chain;

/// How hosts are reached.
pub(super) struct Way<'a> {
    pub(super) tls: Arc<ClientConfig>,
    pub(super) http_proxy: Option<&'a Uri>,
    pub(super) patience: Duration,
    pub(super) clock: &'a Clock,
}

/// What a host has shown.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    /// How many addresses its name has; none is asked for where a proxy does that.
    pub(super) addresses: usize,
    /// How long a connection took, TLS included.
    pub(super) took: Duration,
    pub(super) tls: Option<Tls>,
    pub(super) date: Option<Dated>,
}

#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) version: String,
    pub(super) ends: Option<Timestamp>,
}

/// A `Date`, and when it was asked for and had, by our clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dated {
    pub(super) theirs: Timestamp,
    pub(super) asked: Timestamp,
    pub(super) had: Timestamp,
}

/// How far it went.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// The name has no address.
    Name(String),
    /// No connection, to the host or to the proxy before it.
    Connection(String),
    /// The TLS handshake; what rustls says, if it was its verdict.
    Tls(Option<rustls::Error>, String),
    /// Something else than HTTP is spoken there.
    Http(String),
    /// Nothing came in time.
    Late,
}

impl Way<'_> {
    pub(super) async fn look(&self, origin: &Origin) -> Result<Seen, Trouble> {
        let watch = Stopwatch::start();
        let (tcp, addresses) = self.within(self.connect(origin)).await?;
        if !origin.tls {
            let took = watch.elapsed();
            let date = self.within(self.date(origin, TokioIo::new(tcp))).await?;
            return Ok(Seen { addresses, took, tls: None, date });
        }
        let name = ServerName::try_from(origin.host().to_owned())
            .map_err(|_| Trouble::Name("it is no host name".to_owned()))?;
        let handshake = async {
            let connector = TlsConnector::from(Arc::clone(&self.tls));
            connector.connect(name, tcp).await.map_err(|error| distrust(&error))
        };
        let stream = self.within(handshake).await?;
        let took = watch.elapsed();
        let session = stream.get_ref().1;
        let version = session.protocol_version().map_or("TLS", |version| match version {
            rustls::ProtocolVersion::TLSv1_3 => "TLS 1.3",
            rustls::ProtocolVersion::TLSv1_2 => "TLS 1.2",
            _ => "TLS",
        });
        let own = session.peer_certificates().and_then(|chain| chain.first());
        let ends = own.and_then(|own| end_of(own));
        let tls = Some(Tls { version: version.to_owned(), ends });
        let date = self.within(self.date(origin, TokioIo::new(stream))).await?;
        Ok(Seen { addresses, took, tls, date })
    }

    async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, Trouble>>,
    ) -> Result<T, Trouble> {
        timeout(self.patience, work).await.unwrap_or(Err(Trouble::Late))
    }

    async fn connect(&self, origin: &Origin) -> Result<(TcpStream, usize), Trouble> {
        if let Some(proxy) = self.http_proxy {
            let mut tcp = HttpConnector::new();
            tcp.enforce_http(false);
            let target = format!("https://{}:{}/", origin.authority.host(), origin.port());
            let target: Uri = target.parse().map_err(|_| Trouble::Name("it is no URL".into()))?;
            let tunnel = Tunnel::new(proxy.clone(), tcp).call(target).await;
            let tunnel = tunnel.map_err(|error| Trouble::Connection(chain(&error)))?;
            return Ok((tunnel.into_inner(), 0));
        }
        let found = lookup_host((origin.host(), origin.port())).await;
        let found: Vec<SocketAddr> = found.map_err(|error| Trouble::Name(chain(&error)))?.collect();
        if found.is_empty() {
            return Err(Trouble::Name("it has no address".to_owned()));
        }
        let tcp = TcpStream::connect(&found[..]).await;
        Ok((tcp.map_err(|error| Trouble::Connection(chain(&error)))?, found.len()))
    }

    /// The `Date` of whatever is answered to `HEAD /`.
    async fn date(
        &self,
        origin: &Origin,
        io: impl Read + Write + Unpin + Send + 'static,
    ) -> Result<Option<Dated>, Trouble> {
        let failed = |error: hyper::Error| Trouble::Http(chain(&error));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(io).await.map_err(failed)?;
        let request = Request::builder()
            .method(Method::HEAD)
            .uri("/")
            .header(HOST, origin.authority.as_str())
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .expect("it is made of a checked origin");
        let asked = self.clock.now();
        // It ends with the connection.
        tokio::spawn(connection);
        let answer = sender.send_request(request).await.map_err(failed)?;
        let had = self.clock.now();
        let date = answer.headers().get(DATE).and_then(|date| date.to_str().ok());
        let theirs = date.and_then(|date| httpdate::parse_http_date(date).ok());
        Ok(theirs.map(|theirs| Dated { theirs: stamp(theirs), asked, had }))
    }
}

fn stamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_millis(since.as_secs() * 1000)
}

fn distrust(error: &std::io::Error) -> Trouble {
    let verdict = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    Trouble::Tls(verdict.cloned(), chain(error))
}
