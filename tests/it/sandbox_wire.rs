//! The sandbox's sockets: TLS, h2, WebSocket, trailers, the control surface, the log.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::{HeaderMap, Request};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::Method;
use ringbearer::sandbox::{Counts, Rules, Sandbox, SandboxOptions};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::Message;

use crate::sandbox_support::{ECHO, Stage, answer, text};

async fn tls(stage: &Stage, protocol: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    let authority = CertificateDer::from_pem_slice(stage.sandbox.ca_pem().unwrap().as_bytes());
    roots.add(authority.unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    let url = stage.sandbox.tls_url().unwrap();
    let port = url.rsplit(':').next().unwrap().parse().unwrap();
    let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test]
async fn h2_over_tls_is_served_and_links_say_https() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let stream = TokioIo::new(tls(&stage, b"h2").await);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let base = stage.sandbox.tls_url().unwrap();
    let uri = format!("{base}/restapi/v1.0/account/~/call-log?perPage=1");
    let request = Request::get(uri).header("authorization", format!("Bearer {token}"));
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert!(text(&body, "uri").starts_with(&format!("{base}/restapi/")), "{body}");
    let arrival = stage.control().log().pop().unwrap();
    assert_eq!(arrival.version, "HTTP/2.0");
    assert_eq!(arrival.target, "/restapi/v1.0/account/~/call-log?perPage=1");
    drop(sender);
    connection.await.unwrap().unwrap();
}

#[tokio::test]
async fn http1_over_tls_is_served_too() {
    let stage = Stage::unlimited().await;
    let stream = TokioIo::new(tls(&stage, b"http/1.1").await);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::get(ECHO).header("host", "localhost");
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 401);
    connection.abort();
}

#[tokio::test]
async fn the_mirror_sends_content_and_trailers_back_as_they_come() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let address = stage.sandbox.url().replace("http://", "");
    let stream = TokioIo::new(TcpStream::connect(&address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let (frames, body) = tokio::sync::mpsc::unbounded_channel::<Result<Frame<Bytes>, Infallible>>();
    let body = futures_util::stream::unfold(body, |mut body| async {
        body.recv().await.map(|frame| (frame, body))
    });
    let request = Request::post("/restapi/v1.0/sandbox/mirror")
        .header("host", &address)
        .header("te", "trailers")
        .header("trailer", "x-sum")
        .header("authorization", format!("Bearer {token}"));
    let request = request.body(StreamBody::new(Box::pin(body))).unwrap();
    frames.send(Ok(Frame::data(Bytes::from_static(b"one")))).unwrap();
    let mut response = sender.send_request(request).await.unwrap();
    let first = response.body_mut().frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "one", "before the request has ended");
    frames.send(Ok(Frame::data(Bytes::from_static(b" ring")))).unwrap();
    let sum = HeaderMap::from_iter([("x-sum".parse().unwrap(), "8".parse().unwrap())]);
    frames.send(Ok(Frame::trailers(sum))).unwrap();
    drop(frames);
    let rest = response.into_body().collect().await.unwrap();
    assert_eq!(rest.trailers().unwrap()["x-sum"], "8");
    assert_eq!(rest.to_bytes(), " ring");
    stage.control().wait_until(|counts| counts.in_flight == 0).await;
    let arrival = stage.control().log().pop().unwrap();
    assert_eq!((arrival.body_bytes, arrival.status), (8, Some(200)));
    assert_eq!(arrival.trailers, [("x-sum".to_owned(), "8".to_owned())]);
    connection.abort();
}

#[tokio::test]
async fn a_websocket_token_opens_one_socket_that_greets_and_echoes() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let wstoken = stage.post("/restapi/oauth/wstoken", &token);
    let (status, granted) = answer(wstoken.send().await.unwrap()).await;
    assert_eq!((status, &granted["expires_in"]), (200, &json!(30)));
    let uri = text(&granted, "uri");
    assert_eq!(uri, stage.sandbox.url().replace("http", "ws") + "/ws");
    let url = format!("{uri}?access_token={}", text(&granted, "ws_access_token"));
    let connect = || async {
        let stream = TcpStream::connect(stage.sandbox.url().replace("http://", "")).await.unwrap();
        tokio_tungstenite::client_async(&url, stream).await
    };
    let (mut socket, _) = connect().await.unwrap();
    let greeting = socket.next().await.unwrap().unwrap().into_text().unwrap();
    let greeting: Value = serde_json::from_str(&greeting).unwrap();
    assert_eq!(greeting[0]["type"], "ConnectionDetails");
    socket.send(Message::text("ring")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("ring"));
    let refused = connect().await.map(|_| ()).unwrap_err();
    assert!(refused.to_string().contains("401"), "{refused}");
    assert_eq!(stage.control().counts().websockets, 1);
}

#[tokio::test]
async fn the_control_surface_does_what_control_does() {
    let stage = Stage::unlimited().await;
    let base = stage.sandbox.control_url().unwrap();
    let order = |method: Method, path: &str, body: Value| {
        let request = stage.client.request(method, format!("{base}{path}"));
        request.body(body.to_string()).send()
    };
    let pair = stage.login(1).await;
    order(Method::POST, "/expire", Value::Null).await.unwrap();
    assert_eq!(stage.use_access(&pair).await, "OAU-128");
    let (_, pair) = stage.refresh(&pair).await;
    order(
        Method::POST,
        "/faults",
        json!({"at": "api", "kind": {"status": {"code": 418}}, "times": 1}),
    )
    .await
    .unwrap();
    assert_eq!(stage.use_access(&pair).await, "CMN-211");
    order(Method::POST, "/clock/advance", json!({"secs": 3600})).await.unwrap();
    assert_eq!(stage.use_access(&pair).await, "OAU-128");
    let counts = answer(order(Method::GET, "/counts", Value::Null).await.unwrap()).await.1;
    assert_eq!((&counts["faults"], &counts["api_401"]), (&json!(1), &json!(2)));
    let log = answer(order(Method::GET, "/log", Value::Null).await.unwrap()).await.1;
    assert_eq!(log.as_array().unwrap().len(), 5);
    let (status, refused) =
        answer(order(Method::POST, "/faults", json!({"at": "moon"})).await.unwrap()).await;
    assert_eq!(status, 400);
    let message = text(&refused, "error");
    assert!(message.contains("moon") && message.contains("POST /faults"), "{message}");
}

#[tokio::test]
async fn the_log_holds_what_arrived_to_the_byte() {
    let stage = Stage::unlimited().await;
    let pair = stage.login(1).await;
    stage.control().clear_log();
    let token = text(&pair, "access_token");
    let target = "/restapi/v1.0/sandbox/echo/../%2e%2E//x;y?a=%20&&b=+";
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: sandbox\r\nX-B: 2\r\nX-A: 1\r\nX-B: 3\r\n\
         Authorization: Bearer {token}\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc"
    );
    let address = stage.sandbox.url().replace("http://", "");
    let mut stream = TcpStream::connect(address).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let mut response = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut response).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 404"), "{response}");
    let arrival = stage.control().log().pop().unwrap();
    assert_eq!((arrival.method.as_str(), arrival.target.as_str()), ("POST", target));
    let names: Vec<&str> = arrival.fields.iter().map(|(name, _)| name.as_str()).collect();
    let expected = ["host", "x-b", "x-b", "x-a", "authorization", "content-length", "connection"];
    assert_eq!(names, expected);
    assert_eq!(arrival.field("authorization"), Some(format!("Bearer {token}").as_str()));
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!((arrival.body_bytes, arrival.body_sha256.as_str()), (3, abc));
    assert_eq!(
        (arrival.session, arrival.token_serial, arrival.status),
        (Some(1), Some(1), Some(404))
    );
}

#[tokio::test]
async fn the_log_is_bounded_and_the_counters_are_not() {
    let stage = Stage::with(Rules { log_capacity: 3, ..Rules::unlimited() }).await;
    for _ in 0..5 {
        stage.login(1).await;
    }
    assert_eq!(stage.control().log().len(), 3);
    assert_eq!(stage.control().counts().token_requests, 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_hundred_calls_at_once_on_two_threads_are_all_counted() {
    let stage = Stage::unlimited().await;
    let token = text(&stage.login(1).await, "access_token");
    let target = "/restapi/v1.0/account/~/extension/~";
    let calls = (0..400).map(|_| stage.get(target, &token).send());
    for response in futures_util::future::join_all(calls).await {
        assert_eq!(response.unwrap().status(), 200);
    }
    let Counts { api_requests, in_flight, .. } = stage.control().counts();
    assert_eq!((api_requests, in_flight), (400, 0));
    stage.sandbox.stop().await;
}

#[tokio::test]
async fn a_taken_address_is_named_with_the_cure() {
    let stage = Stage::unlimited().await;
    let taken: std::net::SocketAddr = stage.sandbox.url()[7..].parse().unwrap();
    let options = SandboxOptions { listen: taken, ..SandboxOptions::default() };
    let error = Sandbox::start(options).await.unwrap_err().to_string();
    let cure =
        "end the process that has it, or choose another with --listen, --tls-listen or --control";
    assert_eq!(error, format!("{taken} is in use: {cure}"));
}
