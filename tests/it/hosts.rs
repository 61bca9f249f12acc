//! RingCentral's other hosts through the proxy: media, and WebSockets.

use futures_util::{SinkExt, StreamExt};
use ringbearer::key::KeyDigest;
use ringbearer::sandbox::media_byte;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::{ECHO, Environment, Wishes, json};
use crate::wire::Wire;

const WSTOKEN: &str = "/restapi/oauth/wstoken";
const RECORDING: &str = "/restapi/v1.0/account/~/recording/401/content";

/// `media` and `ws` are the sandbox too, under another name than the platform's.
async fn environment() -> Environment {
    with("").await
}

async fn with(tables: &str) -> Environment {
    let hosts = "jwt = \"sandbox-jwt\"\n[host.media]\nurl = \"http://localhost:{port}\"\n\
                 [host.ws]\nurl = \"ws://localhost:{port}\"\n";
    let identity = format!("{hosts}{tables}");
    Environment::with(Wishes { identity, ..Wishes::default() }).await
}

async fn socket_token(environment: &Environment) -> String {
    let request = environment.client.post(environment.url(WSTOKEN));
    let answer = json(request.send().await.unwrap()).await;
    answer["ws_access_token"].as_str().unwrap().to_owned()
}

async fn connect(
    environment: &Environment,
    token: &str,
) -> Result<WebSocketStream<TcpStream>, Error> {
    let stream = TcpStream::connect(environment.address()).await.unwrap();
    let url = format!("ws://{}/.ringbearer/ws/ws?access_token={token}", environment.address());
    client_async(url, stream).await.map(|(socket, _)| socket)
}

async fn text(socket: &mut WebSocketStream<TcpStream>) -> String {
    socket.next().await.expect("it is open").unwrap().into_text().unwrap().to_string()
}

#[tokio::test]
async fn media_comes_with_the_token_from_its_own_host() {
    let environment = environment().await;
    let url = environment.url(&format!("/.ringbearer/media{RECORDING}"));
    let answer =
        environment.client.get(url).header("range", "bytes=1000-1999").send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.content_length()), (206, Some(1000)));
    let content = answer.bytes().await.unwrap();
    assert!((1000..2000).zip(content).all(|(at, byte)| media_byte(RECORDING, at) == byte));
    let log = environment.control().log();
    let arrival = log.iter().find(|arrival| arrival.target == RECORDING).expect("it arrived");
    let port = environment.sandbox.url().rsplit_once(':').unwrap().1.to_owned();
    assert_eq!(arrival.field("host"), Some(&*format!("localhost:{port}")));
    assert_eq!(arrival.status, Some(206));
    // A path that says another name reaches nobody.
    let stranger = environment.get("/.ringbearer/evil.test/restapi").await;
    assert_eq!(stranger.headers()["x-ringbearer-error"], "RBR-112");
    let managed = environment.get("/.ringbearer/media/restapi/oauth/token?managed").await;
    let code = &managed.headers()["x-ringbearer-error"];
    assert_eq!((managed.status().as_u16(), code), (403, &"RBR-104".parse().unwrap()));
    let arrived = environment.control().log().iter().any(|it| it.target.contains("?managed"));
    assert!(!arrived, "what is sent is what is judged");
    environment.finish().await;
}

#[tokio::test]
async fn a_websocket_passes_both_ways_and_its_own_token_with_it() {
    let environment = environment().await;
    let token = socket_token(&environment).await;
    let mut socket = connect(&environment, &token).await.unwrap();
    assert!(text(&mut socket).await.contains(&token), "the greeting");
    for size in [1, 1000, 300_000] {
        let message = "x".repeat(size);
        socket.send(Message::text(message.clone())).await.unwrap();
        assert_eq!(text(&mut socket).await, message);
    }
    let log = environment.control().log();
    let opened = log.iter().find(|arrival| arrival.target.starts_with("/ws")).expect("it arrived");
    assert_eq!(opened.field("authorization"), None, "it needs no access token, and gets none");
    socket.close(None).await.unwrap();
    while socket.next().await.is_some() {}
    environment.finish().await;
}

#[tokio::test]
async fn a_refused_websocket_is_an_answer_and_no_tunnel() {
    let environment = environment().await;
    let Err(Error::Http(refused)) = connect(&environment, "stranger").await else {
        panic!("the token is unknown");
    };
    assert_eq!(refused.status(), 401);
    let plain = environment.get("/.ringbearer/ws/ws?access_token=x").await;
    assert_eq!(plain.status(), 426);
    assert_eq!(plain.headers()["x-ringbearer-error"], "RBR-113");
    assert_eq!(environment.control().counts().websockets, 0);
    environment.finish().await;
}

#[tokio::test]
async fn a_socket_with_a_token_of_its_own_needs_no_key_and_no_identity() {
    let digest = KeyDigest::of("key-1");
    let client = format!("[client.app]\nkey_sha256 = \"{digest}\"\nidentities = \"*\"\n");
    let environment = with(&format!("[identity.other]\njwt = \"sandbox-jwt-2\"\n{client}")).await;
    let ask = async |key: Option<&str>| {
        let request = environment.client.post(environment.url(WSTOKEN));
        let request = request.header("x-ringbearer-identity", "test");
        let request = key.iter().fold(request, |request, key| request.header("x-api-key", *key));
        request.send().await.unwrap()
    };
    assert_eq!(ask(None).await.headers()["x-ringbearer-error"], "RBR-109");
    let granted = json(ask(Some("key-1")).await).await;
    let token = granted["ws_access_token"].as_str().unwrap();
    let mut socket = connect(&environment, token).await.unwrap();
    assert!(text(&mut socket).await.contains(token), "the greeting");
    for no_token in ["", "&more=1"] {
        let Err(Error::Http(refused)) = connect(&environment, no_token).await else {
            panic!("nobody knows who that is");
        };
        assert_eq!(refused.headers()["x-ringbearer-error"], "RBR-109");
    }
    assert_eq!(environment.control().counts().websockets, 1);
    environment.finish().await;
}

#[tokio::test]
async fn what_is_sent_before_the_agreement_is_never_taken_for_a_request() {
    let environment = environment().await;
    let mut stream = TcpStream::connect(environment.address()).await.unwrap();
    let early = format!(
        "GET /.ringbearer/ws/ws?access_token=stranger HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\
         GET {ECHO}?smuggled HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(early.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    let log = environment.control().log();
    let to_socket = log.iter().filter(|arrival| arrival.target.starts_with("/ws")).count();
    assert_eq!(to_socket, 1);
    assert!(!log.iter().any(|arrival| arrival.target.contains("smuggled")));
    environment.finish().await;
}

#[tokio::test]
async fn what_is_sent_before_the_agreement_is_the_sockets_once_it_comes() {
    let environment = environment().await;
    let token = socket_token(&environment).await;
    let mut wire = Wire::open(environment.address()).await;
    let head = format!(
        "GET /.ringbearer/ws/ws?access_token={token} HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    // A frame of text, under a mask of zeros.
    let frame = [b"\x81\x85\0\0\0\0", &b"early"[..]].concat();
    wire.send([head.into_bytes(), frame].concat()).await;
    assert!(wire.head().await.unwrap().starts_with("HTTP/1.1 101 "));
    assert!(wire.reads_past("\x05early").await, "it is echoed");
    let log = environment.control().log();
    assert_eq!(log.iter().filter(|arrival| arrival.target.starts_with("/ws")).count(), 1);
    drop(wire);
    environment.finish().await;
}

#[tokio::test]
async fn a_silent_websocket_ends_and_one_that_speaks_does_not() {
    let environment = environment().await;
    let (first, second) = (socket_token(&environment).await, socket_token(&environment).await);
    let mut silent = connect(&environment, &first).await.unwrap();
    let mut speaking = connect(&environment, &second).await.unwrap();
    text(&mut silent).await;
    text(&mut speaking).await;
    for _ in 0..12 {
        environment.pass(Duration::from_secs(60)).await;
        speaking.send(Message::text("alive")).await.unwrap();
        assert_eq!(text(&mut speaking).await, "alive");
    }
    let ended = silent.next().await.is_none_or(|end| end.is_err());
    assert!(ended, "ten minutes of silence");
    speaking.send(Message::text("still")).await.unwrap();
    assert_eq!(text(&mut speaking).await, "still");
    environment.finish().await;
}

#[tokio::test]
async fn the_end_of_the_proxy_is_the_end_of_its_websockets() {
    let mut environment = environment().await;
    let token = socket_token(&environment).await;
    let mut socket = connect(&environment, &token).await.unwrap();
    text(&mut socket).await;
    let began = environment.clock.now();
    environment.stop_proxy().await;
    assert!(began.until(environment.clock.now()) < Duration::from_secs(10), "no drain_timeout");
    while socket.next().await.is_some_and(|message| message.is_ok()) {}
    environment.finish().await;
}
