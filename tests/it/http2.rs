//! HTTP/2 and TLS on both sides, and the way out through another proxy.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{HandshakeKind, RootCertStore};
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::program::{Program, sandbox};
use crate::support::{ECHO, Environment, Wishes};
use crate::wire::{Wire, get};

/// A certificate for `localhost` and its key, as files.
pub(crate) struct Certificate {
    _files: TempDir,
    chain: PathBuf,
    key: PathBuf,
}

impl Certificate {
    pub(crate) fn make() -> Self {
        let files = TempDir::new().unwrap();
        let (chain, key) = (files.path().join("chain.pem"), files.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        std::fs::write(&chain, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        Self { _files: files, chain, key }
    }

    /// `[proxy.tls]` with it.
    pub(crate) fn table(&self) -> String {
        let (chain, key) = (self.chain.display(), self.key.display());
        format!("[proxy.tls]\ncertificate_file = \"{chain}\"\nkey_file = \"{key}\"")
    }

    fn chain(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(&self.chain).unwrap()
    }

    /// TLS towards the proxy, with an offer of `alpn`.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        alpn: &str,
    ) -> tokio_rustls::client::TlsStream<TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(self.chain()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        let tcp = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap()
    }

    fn acceptor(&self) -> TlsAcceptor {
        let key = PrivateKeyDer::from_pem_file(&self.key).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        TlsAcceptor::from(Arc::new(config.with_single_cert(vec![self.chain()], key).unwrap()))
    }
}

type H2 = SendRequest<Full<Bytes>>;

async fn h2_over(
    io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> H2 {
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(h2: &mut H2, method: &str, url: String, content: &str) -> (u16, serde_json::Value) {
    let request =
        Request::builder().method(method).uri(url).header("cookie", "a=1").header("cookie", "b=2");
    let request = request.header("te", "trailers").body(Full::from(content.to_owned())).unwrap();
    let answer = h2.send_request(request).await.unwrap();
    assert_eq!(answer.version(), Version::HTTP_2);
    assert!(answer.headers().get("connection").is_none());
    let status = answer.status().as_u16();
    let content = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&content).unwrap())
}

#[tokio::test]
async fn a_client_gets_http2_or_http1_over_tls_as_it_asks() {
    let certificate = Certificate::make();
    let proxy = certificate.table();
    let environment = Environment::with(Wishes { proxy, ..Wishes::default() }).await;
    let io = certificate.connect(environment.address(), "h2").await;
    assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let mut h2 = h2_over(io).await;
    let url = |target: &str| format!("https://evil.test{target}");
    for n in 0..100 {
        let (status, body) = ask(&mut h2, "POST", url(&format!("{ECHO}?n={n}")), "hello").await;
        assert_eq!((status, &body["bodyBytes"]), (200, &5.into()));
    }
    let arrived = environment.control().log().pop().unwrap();
    assert_eq!(
        (arrived.target.as_str(), arrived.version.as_str()),
        ("/restapi/v1.0/sandbox/echo?n=99", "HTTP/1.1")
    );
    assert_eq!(arrived.field("cookie"), Some("a=1; b=2"));
    assert_eq!(arrived.field("host"), Some(&environment.sandbox.url()[7..]));
    assert!(arrived.field("via").unwrap().starts_with("2 ringbearer-"));
    let (status, refused) = ask(&mut h2, "POST", url("/restapi/oauth/token"), "").await;
    assert_eq!((status, &refused["errorCode"]), (400, &"RBR-116".into()));
    let io = certificate.connect(environment.address(), "http/1.1").await;
    assert_eq!(io.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    assert_eq!(environment.control().counts().api_requests, 100);
}

#[tokio::test]
async fn clear_text_http2_is_taken_only_if_configured() {
    let proxy = "h2c = true".to_owned();
    let open = Environment::with(Wishes { proxy, ..Wishes::default() }).await;
    let mut h2 = h2_over(TcpStream::connect(open.address()).await.unwrap()).await;
    assert_eq!(ask(&mut h2, "POST", open.url(ECHO), "hello").await.0, 200);
    assert_eq!(Wire::open(open.address()).await.ask(get(ECHO)).await.status, 200);
    let closed = Environment::new().await;
    let mut wire = Wire::open(closed.address()).await;
    wire.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(wire.is_closed().await, "nothing is said in a version that was not agreed");
    assert_eq!(closed.control().counts().api_requests, 0);
}

#[tokio::test]
async fn http2_upstream_carries_all_requests_over_one_connection() {
    let upstream = "http2 = true".to_owned();
    let environment =
        Environment::with(Wishes { upstream, tls_upstream: true, ..Wishes::default() }).await;
    let mut wires = Vec::new();
    for _ in 0..10 {
        wires.push(Wire::open(environment.address()).await);
    }
    for wire in &mut wires {
        wire.send(format!("POST {ECHO} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")).await;
    }
    for wire in &mut wires {
        let answer = wire.answer().await;
        assert_eq!((answer.status, &answer.json()["bodyBytes"]), (200, &5.into()));
    }
    environment.control().revoke_access_tokens();
    let answer = wires[0].ask(get(ECHO)).await;
    assert_eq!((answer.status, answer.field("x-ringbearer-replay")), (200, Some("yes")));
    let log = environment.control().log();
    let api: Vec<_> = log.iter().filter(|arrival| arrival.target == ECHO).collect();
    assert_eq!(api.len(), 12);
    for arrival in api {
        assert_eq!((arrival.version.as_str(), arrival.connection), ("HTTP/2.0", log[1].connection));
        for name in ["host", "connection", "transfer-encoding"] {
            assert_eq!(arrival.field(name), None);
        }
    }
}

#[tokio::test]
async fn tls_upstream_is_http1_unless_configured_and_a_custom_ca_is_trusted() {
    let environment = Environment::with(Wishes { tls_upstream: true, ..Wishes::default() }).await;
    assert_eq!(Wire::open(environment.address()).await.ask(get(ECHO)).await.status, 200);
    let arrived = environment.control().log().pop().unwrap();
    assert_eq!(arrived.version, "HTTP/1.1");
    let authority = environment.sandbox.tls_url().unwrap();
    assert_eq!(arrived.field("host"), authority.strip_prefix("https://"));
}

/// An upstream of its own that speaks TLS with `certificate`, and a proxy that trusts `trusted`.
async fn own_tls(trusted: &Certificate) -> (Environment, TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let upstream = format!("ca_file = \"{}\"", trusted.chain.display());
    let wishes = Wishes { upstream_url: Some(url.clone()), upstream, ..Wishes::default() };
    (Environment::with(wishes).await, listener, url)
}

#[tokio::test]
async fn tls_sessions_upstream_are_resumed() {
    let certificate = Certificate::make();
    let acceptor = certificate.acceptor();
    let (environment, listener, _) = own_tls(&certificate).await;
    let mut client = Wire::open(environment.address()).await;
    let mut kinds = Vec::new();
    for _ in 0..3 {
        client.send(get("/a")).await;
        let mut io = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
        kinds.push(io.get_ref().1.handshake_kind().unwrap());
        let mut head = vec![0; 4096];
        assert!(tokio::io::AsyncReadExt::read(&mut io, &mut head).await.unwrap() > 0);
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut io, answer).await.unwrap();
        assert_eq!(client.answer().await.status, 200);
        tokio::io::AsyncWriteExt::shutdown(&mut io).await.unwrap();
    }
    assert_eq!(kinds, [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed]);
}

#[tokio::test]
async fn an_unknown_ca_is_refused_and_said_so() {
    let acceptor = Certificate::make().acceptor();
    let (environment, listener, url) = own_tls(&Certificate::make()).await;
    let accepting =
        tokio::spawn(
            async move { acceptor.accept(listener.accept().await.unwrap().0).await.is_err() },
        );
    let answer = Wire::open(environment.address()).await.ask(get("/a")).await;
    assert_eq!((answer.status, answer.error()), (502, Some("RBR-302")));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    let said = format!("the TLS handshake with {url} failed: ");
    assert!(message.starts_with(&said) && message.contains("certificate"), "{message}");
    assert!(accepting.await.unwrap(), "nothing was sent over it");
}

/// Tunnels for ever; the request lines of what it was asked for are the result.
async fn connect_proxy(listener: TcpListener, asked: tokio::sync::mpsc::UnboundedSender<String>) {
    loop {
        let mut wire = Wire::over(listener.accept().await.unwrap().0);
        let asked = asked.clone();
        tokio::spawn(async move {
            let head = wire.head().await.unwrap();
            let line = head.lines().next().unwrap().to_owned();
            let address = line.split(' ').nth(1).unwrap().to_owned();
            // Nobody counts any more once the test is over.
            let _ = asked.send(line);
            wire.send("HTTP/1.1 200 Connected\r\n\r\n").await;
            let mut server =
                TcpStream::connect(address.replace("localhost", "127.0.0.1")).await.unwrap();
            // How a tunnel ends is no concern of its.
            let _ = copy_bidirectional(&mut wire.stream, &mut server).await;
        });
    }
}

#[tokio::test]
async fn an_outbound_proxy_sees_one_connect_for_tokens_and_one_for_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http_proxy = \"http://{}\"", listener.local_addr().unwrap());
    let (asked, mut seen) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(connect_proxy(listener, asked));
    let environment =
        Environment::with(Wishes { upstream, tls_upstream: true, ..Wishes::default() }).await;
    let mut wire = Wire::open(environment.address()).await;
    for _ in 0..20 {
        assert_eq!(wire.ask(get(ECHO)).await.status, 200);
    }
    let authority = environment.sandbox.tls_url().unwrap().replace("https://", "");
    for _ in 0..2 {
        assert_eq!(seen.recv().await.unwrap(), format!("CONNECT {authority} HTTP/1.1"));
    }
    assert!(seen.try_recv().is_err(), "a third tunnel");
    assert_eq!(environment.control().counts().connections_accepted, 2);
}

#[tokio::test]
async fn proxies_in_the_environment_are_ignored() {
    let trap = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", trap.local_addr().unwrap());
    let names =
        ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"];
    let sandbox = sandbox().await;
    // What the machine that tests exempts must not hide what this is about.
    let exempt = ["NO_PROXY", "no_proxy"].map(|name| (name, String::new()));
    let set = names.map(|name| (name, url.clone()));
    let program = Program::start(&sandbox, "", &[&set[..], &exempt].concat()).await;
    assert_eq!(Wire::open(program.address).await.ask(get(ECHO)).await.status, 200);
    let asked = tokio::select! {
        biased;
        _ = trap.accept() => true,
        () = std::future::ready(()) => false,
    };
    assert!(!asked, "the proxy of the environment was asked");
    assert_eq!(sandbox.control().counts().token_requests, 1);
}
