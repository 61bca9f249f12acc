//! Attacks that cost their maker nothing but patience, in the manner of slowhttptest: silent sockets,
//! slow heads, half a preface, slow contents, slow readers. `benches/slow.rs` has thousands of them.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpSocket;

use crate::limits::{figure, reached};
use crate::support::{ECHO, Environment, START, Wishes, settle};
use crate::wire::{Wire, get};

const FILE: &str = "/restapi/v1.0/account/~/extension/~/message-store/1/content/2?size=10000000000";
/// Attackers of each kind.
const EACH: u64 = 5;

const IDLE: Duration = Duration::from_secs(120);
const HEAD: Duration = Duration::from_secs(15);
/// For whoever has its answer and does not close.
const LATE: Duration = Duration::from_secs(5);
const STALL: Duration = Duration::from_secs(60);

/// A proxy as it comes, but for HTTP/2 in clear text and an admin listener.
async fn environment() -> Environment {
    let proxy = "h2c = true\n[admin]\nlisten = \"127.0.0.1:0\"\n".to_owned();
    Environment::with(Wishes { proxy, ..Wishes::default() }).await
}

/// Attackers that have sent this.
async fn attack(environment: &Environment, what: &str) -> Vec<Wire> {
    let before = figure(environment, "ringbearer_client_connections").await;
    let mut wires = Vec::new();
    for _ in 0..EACH {
        let mut wire = Wire::open(environment.address()).await;
        wire.send(what).await;
        wires.push(wire);
    }
    while figure(environment, "ringbearer_client_connections").await < before + EACH {
        settle().await;
    }
    wires
}

/// Lets the time pass, up to a quarter beyond `limit`, and returns when the last one was gone. A good
/// client is served all the while.
async fn until_gone(environment: &Environment, limit: Duration) -> Duration {
    let start = environment.clock.now();
    let mut good = None;
    loop {
        let passed = start.until(environment.clock.now());
        let served = async {
            let mut wire = match good.take() {
                Some(wire) => wire,
                None => Wire::open(environment.address()).await,
            };
            assert_eq!(wire.ask(get(ECHO)).await.status, 200);
            wire
        };
        good = Some(served.await);
        if figure(environment, "ringbearer_client_connections").await == 1 {
            return passed;
        }
        assert!(passed <= limit * 5 / 4 + LATE + Duration::from_secs(2), "they are still there");
        environment.pass(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn silent_sockets_go_when_they_have_idled() {
    let environment = environment().await;
    let mut wires = attack(&environment, "").await;
    let passed = until_gone(&environment, IDLE).await;
    assert!(passed >= IDLE, "{passed:?}");
    for wire in &mut wires {
        assert!(wire.is_closed().await, "without a word");
    }
    assert_eq!(reached(&environment, "idle").await, EACH);
}

#[tokio::test]
async fn half_a_preface_is_not_waited_for_longer_than_a_head() {
    let environment = environment().await;
    let mut wires = attack(&environment, "PRI * HTTP/2.0\r\n\r\nSM").await;
    let passed = until_gone(&environment, HEAD).await;
    assert!(passed >= HEAD, "{passed:?}");
    for wire in &mut wires {
        assert!(wire.is_closed().await, "without a word");
    }
    assert_eq!(reached(&environment, "request_head").await, EACH);
}

#[tokio::test]
async fn slow_heads_get_408_and_their_makers_are_not_kept() {
    let environment = environment().await;
    let mut wires = attack(&environment, "GET / HTTP/1.1\r\nHost: a\r\nX-Slow:").await;
    let passed = until_gone(&environment, HEAD).await;
    assert!(passed >= HEAD, "{passed:?}");
    for wire in &mut wires {
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.error()), (408, Some("RBR-139")));
        assert!(wire.is_closed().await);
    }
    assert_eq!(reached(&environment, "request_head").await, EACH);
}

#[tokio::test]
async fn a_whole_preface_without_a_request_idles() {
    let environment = environment().await;
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let wires = attack(&environment, preface).await;
    let passed = until_gone(&environment, IDLE).await;
    assert!(passed >= IDLE, "{passed:?}");
    assert_eq!(reached(&environment, "idle").await, EACH);
    drop(wires);
}

#[tokio::test]
async fn slow_contents_get_408_and_reach_nobody_whole() {
    let environment = environment().await;
    let sms = "/restapi/v1.0/account/~/extension/~/sms";
    let post = format!("POST {sms} HTTP/1.1\r\nHost: a\r\nContent-Length: 8192\r\n\r\nfoo=");
    let mut wires = attack(&environment, &post).await;
    environment.control().wait_until(|counts| counts.in_flight == EACH).await;
    let passed = until_gone(&environment, STALL).await;
    assert!(passed >= STALL, "{passed:?}");
    for wire in &mut wires {
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.error()), (408, Some("RBR-140")));
        assert!(wire.is_closed().await);
    }
    let counts = environment.control().wait_until(|counts| counts.in_flight == 0).await;
    assert_eq!(counts.messages_sent, 0);
    assert_eq!(reached(&environment, "request_stall").await, EACH);
}

#[tokio::test]
async fn slow_readers_are_cut_off_on_both_sides() {
    let environment = environment().await;
    let mut wires = attack(&environment, &get(FILE)).await;
    for wire in &mut wires {
        assert_eq!(wire.answer_without_content().await.status, 200);
    }
    let passed = until_gone(&environment, STALL).await;
    assert!(passed >= STALL, "{passed:?}");
    // The good client's is left.
    environment.control().wait_until(|counts| counts.connections_open == 1).await;
    assert_eq!(reached(&environment, "answer_stall").await, EACH);
    for mut wire in wires {
        let mut rest = Vec::new();
        // The end may be an abort.
        let _ = wire.stream.read_to_end(&mut rest).await;
    }
    assert!(START.until(environment.clock.now()) < STALL * 2);
}

/// A client that takes next to nothing: the kernel keeps little for it.
async fn narrow(environment: &Environment) -> Wire {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    Wire::over(socket.connect(environment.address()).await.unwrap())
}

#[tokio::test]
async fn readers_that_stop_at_any_place_of_pipelined_answers_are_cut_off() {
    const STEP: usize = 150 * 1024;
    let environment = environment().await;
    let file = FILE.trim_end_matches(char::is_numeric);
    let mut wires = Vec::new();
    // One of the first answers leaves the proxy only in part though RingCentral's part is over: the
    // step is shorter than what is buffered here, and the last one longer than all that the kernel keeps.
    for step in 1..=40 {
        let mut wire = narrow(&environment).await;
        wire.send(get(&format!("{file}{}", step * STEP)) + &get(FILE)).await;
        wires.push(wire);
    }
    environment.control().wait_until(|counts| counts.api_requests >= 40).await;
    let passed = until_gone(&environment, STALL).await;
    assert!(passed >= STALL, "{passed:?}");
    assert_eq!(reached(&environment, "answer_stall").await, 40);
}

#[tokio::test]
async fn nothing_is_kept_for_a_reader_that_is_cut_off() {
    let environment = environment().await;
    let mut wire = narrow(&environment).await;
    wire.send(get(FILE)).await;
    assert_eq!(wire.answer_without_content().await.status, 200);
    until_gone(&environment, STALL).await;
    // An end that waits for its turn behind megabytes would let the kernel keep those.
    let mut rest = Vec::new();
    let error = wire.stream.read_to_end(&mut rest).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert!(rest.len() < 100_000, "{} bytes", rest.len());
}
