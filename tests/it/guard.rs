//! What becomes of connections whose client is slow, breaks off what it sends, or sends on after its
//! answer.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::{ECHO, Environment, LONG_IDLE, Wishes, settle};
use crate::wire::{Answer, Wire, get};

/// An upstream that does as the test says, byte by byte.
async fn scripted() -> (Environment, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream_url = Some(format!("http://{}", listener.local_addr().unwrap()));
    (Environment::with(Wishes { upstream_url, ..Wishes::default() }).await, listener)
}

fn assert_slow(answer: &Answer) {
    assert_eq!((answer.status, answer.error()), (408, Some("RBR-139")));
    assert_eq!(answer.field("connection"), Some("close"));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.ends_with("see proxy.request_head_timeout"), "{message}");
}

#[tokio::test]
async fn a_head_that_has_begun_comes_to_its_end_in_time_or_gets_408() {
    let environment = Environment::new().await;
    for beginning in ["G", "GET /a HTTP/1.1\r\n", "GET /a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r"] {
        let mut wire = Wire::open(environment.address()).await;
        wire.send(beginning).await;
        settle().await;
        let began = environment.clock.now();
        let answer = tokio::select! {
            answer = wire.answer() => answer,
            () = environment.keep_passing() => unreachable!(),
        };
        assert_slow(&answer);
        assert!(began.until(environment.clock.now()) >= Duration::from_secs(15));
        assert!(wire.is_closed().await);
    }
    assert_eq!(environment.control().counts().api_requests, 0);
}

#[tokio::test]
async fn a_head_that_drips_gets_no_more_time_and_the_next_one_all_of_it() {
    let proxy = format!("{LONG_IDLE}request_head_timeout = \"30s\"\n");
    let environment = Environment::with(Wishes { proxy, ..Wishes::default() }).await;
    let mut wire = Wire::open(environment.address()).await;
    for _ in 0..3 {
        let request = get(ECHO);
        let (first, last) = request.split_at(20);
        wire.send(first).await;
        environment.pass(Duration::from_secs(20)).await;
        wire.send(last).await;
        assert_eq!(wire.answer().await.status, 200);
        environment.pass(Duration::from_secs(100)).await;
    }
    let began = environment.clock.now();
    let dripping = async {
        wire.send("GET /").await;
        loop {
            environment.advance(Duration::from_secs(1)).await;
            if wire.stream.try_write(b"a").is_err() || wire.stream.peek(&mut [0]).now_or_never() {
                return;
            }
        }
    };
    dripping.await;
    assert_slow(&wire.answer().await);
    let took = began.until(environment.clock.now());
    assert!(took >= Duration::from_secs(30), "{took:?}");
    assert_eq!(environment.control().counts().api_requests, 3);
}

/// Whether something can be read at once.
trait NowOrNever {
    fn now_or_never(self) -> bool;
}

impl<F: Future<Output = std::io::Result<usize>>> NowOrNever for F {
    fn now_or_never(self) -> bool {
        futures_util::FutureExt::now_or_never(self).is_some()
    }
}

#[tokio::test]
async fn a_connection_that_was_opened_ahead_may_wait_for_its_first_request() {
    let environment = Environment::new().await;
    let mut resting = Wire::open(environment.address()).await;
    assert_eq!(resting.ask(get(ECHO)).await.status, 200);
    let mut ahead = Wire::open(environment.address()).await;
    environment.pass(Duration::from_secs(60)).await;
    assert_eq!(resting.ask(get(ECHO)).await.status, 200);
    assert_eq!(ahead.ask(get(ECHO)).await.status, 200);
    // A content may take longer than a head.
    let head = format!("POST {ECHO} HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe");
    resting.send(head).await;
    environment.pass(Duration::from_secs(25)).await;
    assert_eq!(resting.ask("llo").await.json()["bodyBytes"], 5);
}

#[tokio::test]
async fn a_head_behind_an_answer_that_takes_long_is_waited_for_all_the_same() {
    let (environment, upstream) = scripted().await;
    let mut client = Wire::open(environment.address()).await;
    let (second, third) = (get("/b"), get("/c"));
    let (begun, rest) = third.split_at(10);
    client.send(format!("{}{second}{begun}", get("/a"))).await;
    let mut wire = Wire::over(upstream.accept().await.unwrap().0);
    assert!(wire.head().await.unwrap().starts_with("GET /a "));
    client.send(rest).await;
    // Nobody reads it meanwhile: that is not the client's fault.
    environment.pass(Duration::from_secs(20)).await;
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    for target in ["/b", "/c"] {
        wire.send(answer).await;
        assert_eq!(client.answer().await.status, 200);
        assert!(wire.head().await.unwrap().starts_with(&format!("GET {target} ")));
    }
    wire.send(answer).await;
    assert_eq!(client.answer().await.status, 200);
}

#[tokio::test]
async fn a_broken_content_is_never_completed_upstream() {
    for (broken, passed) in [
        ("5\r\nhello\r\n3 \r\nabc\r\n0\r\n\r\n", "hello"),
        ("5\r\nhello\r\n0\r\nX : y\r\n\r\n", "hello"),
        ("5\r\nhel", "hel"),
    ] {
        let (environment, upstream) = scripted().await;
        let mut client = Wire::open(environment.address()).await;
        let head = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send(head).await;
        let mut wire = Wire::over(upstream.accept().await.unwrap().0);
        wire.head().await.unwrap();
        client.send(broken).await;
        if broken.ends_with("hel") {
            assert!(wire.reads_past(passed).await);
            client.send("lo!!\r\n0\r\n\r\n").await;
        }
        let mut arrived = Vec::new();
        // It ends, in whatever way, and without a last chunk.
        let _ = wire.stream.read_to_end(&mut arrived).await;
        let arrived = String::from_utf8(arrived).unwrap();
        assert!(!arrived.contains("0\r\n\r\n"), "{broken:?}: {arrived:?}");
        let answer = client.answer().await;
        assert_eq!((answer.status, answer.error()), (400, Some("RBR-135")), "{broken:?}");
        assert!(client.is_closed().await, "{broken:?}");
    }
}

#[tokio::test]
async fn an_answer_before_the_end_of_an_upload_is_not_lost() {
    let size = 4 * 1024 * 1024;
    let head =
        |target| format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n");
    // Of the proxy's own.
    let environment = Environment::new().await;
    let mut client = Wire::open(environment.address()).await;
    client.send(head("/restapi/oauth/device_authorization")).await;
    client.send(vec![b'x'; size]).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.error()), (403, Some("RBR-104")));
    assert!(client.is_closed().await, "what follows is no request");
    assert_eq!(environment.control().counts().api_requests, 0);
    // Of an upstream that has seen enough.
    let (environment, upstream) = scripted().await;
    let mut client = Wire::open(environment.address()).await;
    client.send(head("/a")).await;
    let mut wire = Wire::over(upstream.accept().await.unwrap().0);
    wire.head().await.unwrap();
    wire.send("HTTP/1.1 413 Content Too Large\r\ncontent-length: 2\r\nconnection: close\r\n\r\nno")
        .await;
    wire.stream.shutdown().await.unwrap();
    drop(wire);
    client.send(vec![b'x'; size]).await;
    let answer = client.answer().await;
    assert_eq!((answer.status, &answer.content[..]), (413, &b"no"[..]));
    assert!(client.is_closed().await, "what follows is no request");
    drop(environment);
}

#[tokio::test]
async fn a_client_that_sends_on_after_its_last_answer_is_cut_in_the_end() {
    let environment = Environment::new().await;
    let mut client = Wire::open(environment.address()).await;
    let answer = client.ask("GET /a HTTP/1.1\nHost: a\n\n").await;
    assert_eq!((answer.status, answer.error()), (400, Some("RBR-131")));
    assert!(client.is_closed().await, "its side is closed at once");
    let began = environment.clock.now();
    loop {
        environment.advance(Duration::from_secs(1)).await;
        if client.stream.write_all(b"x").await.is_err() {
            break;
        }
    }
    let took = began.until(environment.clock.now());
    assert!(took >= Duration::from_secs(5), "{took:?}");
}
