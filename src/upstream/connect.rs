//! How a connection to the origin comes about: TCP, then the outbound proxy's tunnel if one is
//! configured, then TLS, then HTTP/1.1 or HTTP/2 as ALPN says.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use hyper::rt::{Read, Write};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use crate::settings::{Origin, UpstreamSettings};

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Name resolution, TCP, or the outbound proxy.
    #[error("{origin} cannot be reached")]
    Unreachable {
        /// Where the connection was to go.
        origin: String,
        /// What stood in the way.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The TLS handshake.
    #[error("the TLS handshake with {origin} failed")]
    Tls {
        /// Where the connection was to go.
        origin: String,
        /// What rustls said.
        #[source]
        source: std::io::Error,
    },
    /// The HTTP handshake.
    #[error("{origin} does not speak HTTP as agreed")]
    Http {
        /// Where the connection was to go.
        origin: String,
        /// What hyper said.
        #[source]
        source: hyper::Error,
    },
    /// All of it together took too long.
    #[error("no connection to {origin} within {} s", limit.as_secs())]
    Timeout {
        /// Where the connection was to go.
        origin: String,
        /// `upstream.connect_timeout`.
        limit: Duration,
    },
    /// All that there may be were in use all the time.
    #[error("all connections to {origin} (upstream.max_connections) were in use for {} s", limit.as_secs())]
    NoneFree {
        /// Where the connections lead.
        origin: String,
        /// `upstream.connect_timeout`.
        limit: Duration,
    },
}

/// A connection that nobody has spoken HTTP on yet.
#[allow(clippy::large_enum_variant, reason = "it lives for one call")]
pub(super) enum Connection {
    Plain(TokioIo<TcpStream>),
    Tls { io: TokioIo<TlsStream<TcpStream>>, h2: bool },
}

/// Opens connections to one origin.
#[derive(Clone)]
pub struct Connector {
    origin: Origin,
    uri: Uri,
    tcp: HttpConnector,
    http_proxy: Option<Uri>,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// `upstream.connect_timeout`, for everything up to the HTTP handshake.
    pub(super) timeout: Duration,
    /// `upstream.response_timeout`.
    pub(super) response_timeout: Duration,
}

impl Connector {
    /// Prepares connections to `origin`, as configured. `tls` is used if the origin's scheme asks for it.
    ///
    /// # Panics
    /// If the origin's host is no valid server name; the settings have checked that it is.
    pub fn new(origin: &Origin, settings: &UpstreamSettings, tls: &ClientConfig) -> Self {
        let origin = origin.clone();
        let scheme = if origin.tls { "https" } else { "http" };
        let authority = format!("{}:{}", origin.authority.host(), origin.port());
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query("/").build();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(60)));
        let tls = origin.tls.then(|| {
            let mut tls = tls.clone();
            tls.alpn_protocols = alpn(settings.http2);
            let name = ServerName::try_from(origin.host().to_owned());
            (TlsConnector::from(Arc::new(tls)), name.expect("checked by the settings"))
        });
        Self {
            origin,
            uri: uri.expect("made of a checked origin"),
            tcp,
            http_proxy: settings.http_proxy.clone(),
            tls,
            timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
        }
    }

    /// The same for connections that change their protocol, which HTTP/2 has no way to do.
    #[must_use]
    pub fn without_h2(mut self) -> Self {
        if let Some((connector, _)) = &mut self.tls {
            let mut tls = ClientConfig::clone(connector.config());
            tls.alpn_protocols = alpn(false);
            *connector = TlsConnector::from(Arc::new(tls));
        }
        self
    }

    /// How long the other side may take to answer.
    pub fn response_timeout(&self) -> Duration {
        self.response_timeout
    }

    /// Whether the other side may choose HTTP/2.
    pub(super) fn may_be_h2(&self) -> bool {
        self.tls.as_ref().is_some_and(|(tls, _)| tls.config().alpn_protocols.len() > 1)
    }

    pub(super) async fn connect(&self) -> Result<Connection, ConnectError> {
        let tcp = self
            .reach()
            .await
            .map_err(|source| ConnectError::Unreachable { origin: self.name(), source })?;
        let Some((tls, name)) = &self.tls else { return Ok(Connection::Plain(tcp)) };
        let io = tls.connect(name.clone(), tcp.into_inner()).await;
        let io = io.map_err(|source| ConnectError::Tls { origin: self.name(), source })?;
        let h2 = io.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Connection::Tls { io: TokioIo::new(io), h2 })
    }

    async fn reach(&self) -> Result<TokioIo<TcpStream>, Box<dyn std::error::Error + Send + Sync>> {
        let mut tcp = self.tcp.clone();
        match &self.http_proxy {
            None => Ok(tcp.call(self.uri.clone()).await?),
            Some(proxy) => Ok(Tunnel::new(proxy.clone(), tcp).call(self.uri.clone()).await?),
        }
    }

    /// For errors: scheme and authority.
    pub(super) fn name(&self) -> String {
        let scheme = if self.origin.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.origin.authority)
    }

    /// What HTTP/2 requests are addressed to.
    pub(super) fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").field("origin", &self.name()).finish_non_exhaustive()
    }
}

fn alpn(h2: bool) -> Vec<Vec<u8>> {
    let offered: &[&[u8]] = if h2 { &[b"h2", b"http/1.1"] } else { &[b"http/1.1"] };
    offered.iter().map(|protocol| protocol.to_vec()).collect()
}

/// What hyper needs of a stream.
pub(super) trait Io: Read + Write + Unpin + 'static {}
impl<T: Read + Write + Unpin + 'static> Io for T {}
