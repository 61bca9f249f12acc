//! Connections that die, stall or never come, on either side.

use std::time::Duration;

use ringbearer::sandbox::{Fault, FaultKind, Place, Rules};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::support::{ECHO, Environment, LONG_IDLE, START, Wishes};
use crate::wire::{Wire, get};

const SMS: &str = "/restapi/v1.0/account/~/extension/~/sms";
const FILE: &str = "/restapi/v1.0/account/~/extension/~/message-store/1/content/2?size=10000000000";

fn sms() -> String {
    let content = r#"{"to":[{"phoneNumber":"+15551230002"}],"text":"hi"}"#;
    let length = content.len();
    format!("POST {SMS} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{content}")
}

/// An upstream that does as the test says, byte by byte.
async fn scripted(upstream: &str) -> (Environment, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream_url = Some(format!("http://{}", listener.local_addr().unwrap()));
    let wishes = Wishes { upstream_url, upstream: upstream.into(), ..Wishes::default() };
    (Environment::with(wishes).await, listener)
}

/// Ten thousand messages from four clients; the figures are (sent, not sent).
async fn ten_thousand_posts(kind: FaultKind) -> (u64, u64) {
    let rules = Rules { log_capacity: 0, ..Rules::unlimited() };
    let environment = Environment::with(Wishes { rules, ..Wishes::default() }).await;
    environment.control().inject(Fault::always(Place::Api, kind));
    let address = environment.address();
    let clients = (0..4).map(|_| {
        tokio::spawn(async move {
            let (mut wire, request, read) = (Wire::open(address).await, sms(), get(ECHO));
            let (mut sent, mut failed) = (0_u64, 0_u64);
            for number in 0..2500 {
                let answer = wire.ask(&request).await;
                match (answer.status, answer.error()) {
                    (200, None) => sent += 1,
                    (502, Some("RBR-304")) => failed += 1,
                    other => panic!("{other:?}"),
                }
                if number % 10 == 0 {
                    assert_eq!(wire.ask(&read).await.status, 200, "a GET is sent again");
                }
            }
            (sent, failed)
        })
    });
    let (mut sent, mut failed) = (0, 0);
    for client in clients.collect::<Vec<_>>() {
        let (more_sent, more_failed) = client.await.unwrap();
        (sent, failed) = (sent + more_sent, failed + more_failed);
    }
    let counts = environment.control().counts();
    assert_eq!(counts.messages_sent, sent);
    assert!(counts.connections_accepted > counts.api_requests, "none was used twice");
    (sent, failed)
}

#[tokio::test]
async fn ten_thousand_posts_over_connections_that_close_unannounced_send_no_message_twice() {
    let (sent, failed) = ten_thousand_posts(FaultKind::CloseAfter).await;
    assert_eq!(sent + failed, 10_000);
    assert!(sent > 0, "{failed} failed");
}

#[tokio::test]
async fn ten_thousand_posts_over_connections_that_announce_their_end_are_all_sent() {
    assert_eq!(ten_thousand_posts(FaultKind::AnnounceClose).await, (10_000, 0));
}

#[tokio::test]
async fn a_post_whose_connection_drops_is_never_sent_again() {
    for (kind, messages) in [(FaultKind::DropBefore, 0), (FaultKind::DropAfter, 1)] {
        for warm in [false, true] {
            let environment = Environment::new().await;
            let mut wire = Wire::open(environment.address()).await;
            if warm {
                assert_eq!(wire.ask(get(ECHO)).await.status, 200);
            }
            environment.control().inject(Fault::once(Place::Api, kind.clone()));
            let answer = wire.ask(sms()).await;
            assert_eq!((answer.status, answer.error()), (502, Some("RBR-304")));
            let counts = environment.control().counts();
            assert_eq!(counts.messages_sent, messages);
            assert_eq!(counts.api_requests, 1 + u64::from(warm));
        }
    }
}

#[tokio::test]
async fn a_get_is_sent_again_once_if_a_kept_connection_died() {
    for (drops, status, sends) in [(1, 200, 2), (2, 502, 2)] {
        let environment = Environment::new().await;
        let mut wire = Wire::open(environment.address()).await;
        assert_eq!(wire.ask(get(ECHO)).await.status, 200);
        let fault = Fault::once(Place::Api, FaultKind::DropBefore).times(drops);
        environment.control().inject(fault);
        assert_eq!(wire.ask(get(ECHO)).await.status, status);
        assert_eq!(environment.control().counts().api_requests, 1 + sends);
    }
}

#[tokio::test]
async fn the_second_send_of_a_get_is_not_lost_on_another_dead_connection() {
    let (environment, upstream) = scripted("").await;
    let address = environment.address();
    let ask = || tokio::spawn(async move { Wire::open(address).await.ask(get("/a")).await });
    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    // Three at once leave three kept connections.
    let (clients, mut kept) = ([ask(), ask(), ask()], Vec::new());
    for _ in 0..3 {
        kept.push(Wire::over(upstream.accept().await.unwrap().0));
    }
    for wire in &mut kept {
        wire.head().await.unwrap();
        wire.send(answer).await;
    }
    for client in clients {
        assert_eq!(client.await.unwrap().status, 200);
    }
    // Each dies as soon as it is used again; a new one does not.
    let dying = kept.into_iter().map(|mut wire| tokio::spawn(async move { wire.head().await }));
    let dying: Vec<_> = dying.collect();
    let mut client = ask();
    let fresh = tokio::select! {
        accepted = upstream.accept() => accepted.unwrap().0,
        answer = &mut client => panic!("answered without a new connection: {answer:?}"),
    };
    let mut fresh = Wire::over(fresh);
    assert!(fresh.head().await.unwrap().starts_with("GET /a "));
    fresh.send(answer).await;
    assert_eq!(client.await.unwrap().status, 200);
    let used = dying.iter().filter(|wire| wire.is_finished()).count();
    assert_eq!(used, 1, "one try on a kept connection");
}

#[tokio::test]
async fn a_truncated_content_does_not_look_whole() {
    let environment = Environment::exact().await;
    for target in [FILE, "/restapi/v1.0/account/~/extension"] {
        let fault = Fault::once(Place::Api, FaultKind::Truncate { after: 100 });
        environment.control().inject(fault);
        let answer = Wire::open(environment.address()).await.ask(get(target)).await;
        assert_eq!((answer.status, answer.content.len(), answer.complete), (200, 100, false));
    }
    let (environment, upstream) = scripted("").await;
    let mut client = Wire::open(environment.address()).await;
    client.send(get("/a")).await;
    let mut wire = Wire::over(upstream.accept().await.unwrap().0);
    wire.head().await.unwrap();
    wire.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    drop(wire);
    let answer = client.answer().await;
    assert_eq!((&answer.content[..], answer.complete), (&b"hello"[..], false));
    // Neither does what is rewritten on the way.
    let environment = Environment::new().await;
    environment.control().inject(Fault::once(Place::Api, FaultKind::Truncate { after: 100 }));
    let target = "/restapi/v1.0/account/~/extension";
    let answer = Wire::open(environment.address()).await.ask(get(target)).await;
    assert_eq!((answer.status, answer.complete), (200, false));
}

#[tokio::test]
async fn a_compressed_content_passes_untouched() {
    let (environment, upstream) = scripted("").await;
    let mut client = Wire::open(environment.address()).await;
    // Who refuses plain content gets what it asks for.
    let fields = "Host: a\r\nAccept-Encoding: gzip, br, identity;q=0";
    client.send(format!("GET /a HTTP/1.1\r\n{fields}\r\n\r\n")).await;
    let mut wire = Wire::over(upstream.accept().await.unwrap().0);
    let head = wire.head().await.unwrap();
    assert!(head.contains("accept-encoding: gzip, br, identity;q=0"), "{head}");
    let content = b"\x1f\x8b\x08\x00 not for us to judge \x00\xff";
    let length = content.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nVary: A\r\nVary: B\r\nContent-Length: {length}\r\n\r\n"
    );
    wire.send([head.as_bytes(), content].concat()).await;
    let answer = client.answer().await;
    assert_eq!(answer.content, content);
    assert_eq!(answer.field("content-encoding"), Some("gzip"));
    assert_eq!(answer.field("x-ringbearer-links"), Some("no; content is compressed"));
    let vary: Vec<_> = answer.fields.iter().filter(|(name, _)| name == "vary").collect();
    assert_eq!(vary.len(), 2);
}

#[tokio::test]
async fn clients_that_go_away_or_never_read_cost_only_their_own_connection() {
    let environment = Environment::new().await;
    let mut others = Wire::open(environment.address()).await;
    let mut lazy = Vec::new();
    for _ in 0..5 {
        let mut wire = Wire::open(environment.address()).await;
        wire.send(get(FILE)).await;
        assert_eq!(wire.answer_without_content().await.status, 200);
        lazy.push(wire);
    }
    for _ in 0..5 {
        let mut wire = Wire::open(environment.address()).await;
        let head = format!("POST {ECHO} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf");
        wire.send(head).await;
        lazy.push(wire);
    }
    environment.control().wait_until(|counts| counts.in_flight == 5).await;
    for _ in 0..100 {
        assert_eq!(others.ask(get(ECHO)).await.status, 200);
    }
    assert!(environment.control().counts().connections_open >= 11);
    drop(lazy);
    let gone = |counts: &ringbearer::sandbox::Counts| {
        counts.in_flight == 0 && counts.connections_open == 1
    };
    environment.control().wait_until(gone).await;
    assert_eq!(others.ask(get(ECHO)).await.status, 200);
    assert_eq!(environment.control().counts().connections_open, 1);
}

#[tokio::test]
async fn a_client_that_breaks_its_upload_off_leaves_nothing_behind() {
    let environment = Environment::new().await;
    let mut wire = Wire::open(environment.address()).await;
    let request = sms();
    wire.send(&request[..request.len() - 5]).await;
    environment.control().wait_until(|counts| counts.in_flight == 1).await;
    drop(wire);
    let counts = environment.control().wait_until(|counts| counts.in_flight == 0).await;
    assert_eq!((counts.api_requests, counts.messages_sent), (1, 0));
}

#[tokio::test]
async fn an_upstream_that_is_not_there_is_named() {
    let (environment, upstream) = scripted("").await;
    let origin = format!("http://{}", upstream.local_addr().unwrap());
    drop(upstream);
    let answer = Wire::open(environment.address()).await.ask(get("/a")).await;
    assert_eq!((answer.status, answer.error()), (502, Some("RBR-302")));
    assert_eq!(answer.field("retry-after"), Some("5"));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    assert!(message.starts_with(&format!("{origin} cannot be reached: ")), "{message}");
    assert!(message.to_lowercase().contains("connection refused"), "{message}");
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_given_up() {
    let upstream = r#"response_timeout = "30s""#.to_owned();
    let environment = Environment::with(Wishes { upstream, ..Wishes::default() }).await;
    environment.control().inject(Fault::once(Place::Api, FaultKind::Hang));
    let mut wire = Wire::open(environment.address()).await;
    wire.send(get(ECHO)).await;
    environment.control().wait_until(|counts| counts.in_flight == 1).await;
    let answer = tokio::select! {
        answer = wire.answer() => answer,
        () = environment.keep_passing() => unreachable!(),
    };
    assert_eq!((answer.status, answer.error()), (504, Some("RBR-303")));
    assert_eq!(answer.json()["message"], "no answer within 30 s");
    assert!(START.until(environment.clock.now()) >= Duration::from_secs(30));
    environment.control().wait_until(|counts| counts.in_flight == 0).await;
    assert_eq!(wire.ask(get(ECHO)).await.status, 200, "the client's connection goes on");
}

#[tokio::test]
async fn an_upload_that_is_slow_but_progresses_is_not_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream_url = Some(format!("http://{}", listener.local_addr().unwrap()));
    let (upstream, proxy) = ("response_timeout = \"30s\"", "client_stall_bytes = \"1B\"");
    let (upstream, proxy) = (upstream.into(), format!("{LONG_IDLE}{proxy}"));
    let wishes = Wishes { proxy, upstream, upstream_url, ..Wishes::default() };
    let (environment, upstream) = (Environment::with(wishes).await, listener);
    let mut client = Wire::open(environment.address()).await;
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").await;
    let mut wire = Wire::over(upstream.accept().await.unwrap().0);
    wire.head().await.unwrap();
    for piece in 0..10_u8 {
        environment.pass(Duration::from_secs(20)).await;
        client.send([piece]).await;
        assert_eq!(wire.stream.read_u8().await.unwrap(), piece);
    }
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert_eq!(client.answer().await.status, 200);
    assert_eq!(START.until(environment.clock.now()), Duration::from_secs(200));
}
