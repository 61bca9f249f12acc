//! Each limit: what its client is told, what is counted, and that RingCentral sees nothing of it, or
//! nothing more.

use std::time::Duration;

use ringbearer::clock::Timestamp;
use ringbearer::sandbox::{Fault, FaultKind, Place};
use ringbearer::settings::{ConfigSource, Overrides, Settings};
use ringbearer::telemetry::chain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::http2::Certificate;
use crate::support::{ECHO, Environment, LONG_IDLE, START, Wishes, settle};
use crate::wire::{Answer, Wire, get};

const SMS: &str = "/restapi/v1.0/account/~/extension/~/sms";
const FILE: &str = "/restapi/v1.0/account/~/extension/~/message-store/1/content/2?size=10000000000";
const ADMIN: &str = "[admin]\nlisten = \"127.0.0.1:0\"\n";

/// A proxy with these lines in `[proxy]` and an admin listener.
async fn limited(proxy: &str) -> Environment {
    let proxy = format!("{LONG_IDLE}{proxy}\n{ADMIN}");
    Environment::with(Wishes { proxy, ..Wishes::default() }).await
}

/// The same with an upstream that does as the test says, and lines for `[upstream]`.
async fn scripted(proxy: &str, upstream: &str) -> (Environment, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream_url = Some(format!("http://{}", listener.local_addr().unwrap()));
    let (proxy, upstream) = (format!("{LONG_IDLE}{proxy}\n{ADMIN}"), upstream.to_owned());
    let wishes = Wishes { proxy, upstream, upstream_url, ..Wishes::default() };
    (Environment::with(wishes).await, listener)
}

/// A figure of the metrics page.
pub(crate) async fn figure(environment: &Environment, name: &str) -> u64 {
    let url = format!("http://{}/metrics", environment.proxy().admin_addresses()[0]);
    let page = environment.client.get(url).send().await.unwrap().text().await.unwrap();
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name}: {page}")).trim().parse().unwrap()
}

/// How often a limit was reached.
pub(crate) async fn reached(environment: &Environment, limit: &str) -> u64 {
    let name = format!("ringbearer_limit_reached_total{{limit=\"{limit}\"}}");
    figure(environment, &name).await
}

fn told(answer: &Answer) -> (u16, Option<&str>, Option<&str>) {
    (answer.status, answer.error(), answer.field("retry-after"))
}

/// What comes while the clock goes on.
async fn in_time<T>(environment: &Environment, coming: impl Future<Output = T>) -> T {
    tokio::select! {
        it = coming => it,
        () = environment.keep_passing() => unreachable!(),
    }
}

/// How long that took by the clock.
fn passed(environment: &Environment, since: Timestamp) -> Duration {
    since.until(environment.clock.now())
}

#[tokio::test]
async fn a_request_that_says_it_is_too_long_is_refused_before_anything_is_sent() {
    let environment = limited("max_request_bytes = \"10KiB\"").await;
    let mut wire = Wire::open(environment.address()).await;
    wire.send(format!("POST {SMS} HTTP/1.1\r\nHost: a\r\nContent-Length: 10241\r\n\r\n")).await;
    let answer = wire.answer().await;
    assert_eq!(told(&answer), (413, Some("RBR-141"), None));
    assert_eq!(answer.field("connection"), Some("close"));
    let message = "the request's content is longer than proxy.max_request_bytes";
    assert_eq!(answer.json()["message"], message);
    assert!(wire.is_closed().await);
    assert_eq!(environment.control().counts().api_requests, 0);
    assert_eq!(reached(&environment, "request_bytes").await, 1);
    let fits = "a".repeat(10_240);
    let request = format!("POST {ECHO} HTTP/1.1\r\nHost: a\r\nContent-Length: 10240\r\n\r\n{fits}");
    assert_eq!(Wire::open(environment.address()).await.ask(request).await.status, 200);
}

#[tokio::test]
async fn a_request_that_turns_out_too_long_is_cut_off_and_never_completed() {
    for replay in ["", "max_replay_bytes = \"0B\"\n"] {
        let proxy = format!("{replay}max_request_bytes = \"10KiB\"");
        let environment = limited(&proxy).await;
        let mut wire = Wire::open(environment.address()).await;
        let head = format!("POST {SMS} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let chunk = format!("1400\r\n{}\r\n", "a".repeat(0x1400));
        wire.send(format!("{head}{chunk}{chunk}")).await;
        environment.control().wait_until(|counts| counts.in_flight == 1).await;
        wire.send("1\r\na\r\n0\r\n\r\n").await;
        let answer = wire.answer().await;
        assert_eq!(told(&answer), (413, Some("RBR-141"), None));
        assert_eq!(answer.field("connection"), Some("close"));
        let counts = environment.control().wait_until(|counts| counts.in_flight == 0).await;
        assert_eq!((counts.api_requests, counts.messages_sent), (1, 0));
        assert_eq!(reached(&environment, "request_bytes").await, 1);
    }
}

#[tokio::test]
async fn one_more_request_than_may_be_under_way_is_told_when_to_come_again() {
    let environment = limited("max_in_flight = 2").await;
    environment.control().inject(Fault::once(Place::Api, FaultKind::Hang).times(2));
    let mut hanging = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::open(environment.address()).await;
        wire.send(get(ECHO)).await;
        hanging.push(wire);
    }
    environment.control().wait_until(|counts| counts.in_flight == 2).await;
    let mut wire = Wire::open(environment.address()).await;
    let answer = wire.ask(get(ECHO)).await;
    assert_eq!(told(&answer), (503, Some("RBR-142"), Some("1")));
    let message = "identity \"test\" has as many requests under way as proxy.max_in_flight allows";
    assert_eq!(answer.json()["message"], message);
    assert_eq!(environment.control().counts().api_requests, 2, "nothing was sent");
    assert_eq!(reached(&environment, "in_flight").await, 1);
    drop(hanging.pop());
    environment.control().wait_until(|counts| counts.in_flight == 1).await;
    assert_eq!(wire.ask(get(ECHO)).await.status, 200);
}

#[tokio::test]
async fn an_answer_that_is_still_being_read_is_under_way() {
    let environment = limited("max_in_flight = 1").await;
    let mut reading = Wire::open(environment.address()).await;
    reading.send(get(FILE)).await;
    assert_eq!(reading.answer_without_content().await.status, 200);
    let mut wire = Wire::open(environment.address()).await;
    assert_eq!(told(&wire.ask(get(ECHO)).await), (503, Some("RBR-142"), Some("1")));
    drop(reading);
    environment.control().wait_until(|counts| counts.connections_open == 0).await;
    assert_eq!(wire.ask(get(ECHO)).await.status, 200);
}

#[tokio::test]
async fn requests_that_wait_for_a_token_are_bounded_with_the_others() {
    let environment = limited("max_in_flight = 2\ntoken_wait = \"10m\"").await;
    let delay = FaultKind::delay(Duration::from_secs(5));
    environment.control().inject(Fault::once(Place::Token, delay));
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::open(environment.address()).await;
        wire.send(get(ECHO)).await;
        waiting.push(wire);
    }
    environment.until(|status| status.waiting == 2).await;
    let answer = Wire::open(environment.address()).await.ask(get(ECHO)).await;
    assert_eq!(told(&answer), (503, Some("RBR-142"), Some("1")));
    for mut wire in waiting {
        assert_eq!(in_time(&environment, wire.answer()).await.status, 200);
    }
    assert_eq!(environment.control().counts().api_requests, 2);
}

#[tokio::test]
async fn one_more_connection_than_there_is_room_for_is_told_so_and_closed() {
    let environment = limited("max_connections = 2").await;
    let mut inside = Vec::new();
    for _ in 0..2 {
        let mut wire = Wire::open(environment.address()).await;
        assert_eq!(wire.ask(get(ECHO)).await.status, 200);
        inside.push(wire);
    }
    let mut outside = Wire::open(environment.address()).await;
    let answer = outside.answer().await;
    assert_eq!(told(&answer), (503, Some("RBR-143"), Some("1")));
    let message = "as many connections are open as proxy.max_connections allows";
    assert_eq!((answer.json()["message"].as_str(), answer.complete), (Some(message), true));
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(outside.is_closed().await);
    assert_eq!(reached(&environment, "connections").await, 1);
    assert_eq!(figure(&environment, "ringbearer_client_connections").await, 2);
    assert_eq!(inside[0].ask(get(ECHO)).await.status, 200, "those inside notice nothing");
    drop(inside.pop());
    while figure(&environment, "ringbearer_client_connections").await > 1 {
        settle().await;
    }
    assert_eq!(Wire::open(environment.address()).await.ask(get(ECHO)).await.status, 200);
    assert_eq!(environment.control().counts().api_requests, 4);
}

/// How a content comes to its end that its client has begun to send.
async fn stops_in_its_content(proxy: &str, head: &str, trickle: bool) {
    let environment = limited(proxy).await;
    let mut wire = Wire::open(environment.address()).await;
    wire.send(format!("POST {SMS} HTTP/1.1\r\nHost: a\r\n{head}")).await;
    environment.control().wait_until(|counts| counts.in_flight == 1).await;
    let answer = if trickle {
        let mut second = 0;
        // It never stops for more than five seconds.
        loop {
            environment.pass(Duration::from_secs(5)).await;
            second += 5;
            assert!(second <= 90, "it goes on and on");
            if wire.stream.write_all(b"a").await.is_err() || is_readable(&wire.stream) {
                break wire.answer().await;
            }
        }
    } else {
        in_time(&environment, wire.answer()).await
    };
    assert_eq!(told(&answer), (408, Some("RBR-140"), None));
    assert_eq!(answer.field("connection"), Some("close"));
    let message = "the request's content came too slowly: see proxy.client_stall_timeout";
    assert_eq!(answer.json()["message"], message);
    assert!(passed(&environment, START) >= Duration::from_secs(60));
    let counts = environment.control().wait_until(|counts| counts.in_flight == 0).await;
    assert_eq!((counts.api_requests, counts.messages_sent), (1, 0));
    assert_eq!(reached(&environment, "request_stall").await, 1);
    let answer = Wire::open(environment.address()).await.ask(get(ECHO)).await;
    assert_eq!(answer.status, 200);
}

fn is_readable(stream: &TcpStream) -> bool {
    stream.try_read(&mut []).is_ok()
}

#[tokio::test]
async fn a_client_that_stops_in_its_content_gets_408_and_nothing_is_completed() {
    stops_in_its_content("", "Content-Length: 100\r\n\r\nhalf", false).await;
    stops_in_its_content("", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", false).await;
    // The same for what is not kept.
    let once = "max_replay_bytes = \"1B\"";
    stops_in_its_content(once, "Content-Length: 100\r\n\r\nhalf", false).await;
}

#[tokio::test]
async fn a_client_that_trickles_gets_408_too() {
    stops_in_its_content("", "Content-Length: 10000\r\n\r\n", true).await;
}

#[tokio::test]
async fn a_login_that_stops_in_the_middle_gets_408() {
    let environment = limited("").await;
    let mut wire = Wire::open(environment.address()).await;
    let head = "POST /restapi/oauth/token HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf";
    wire.send(head).await;
    let answer = in_time(&environment, wire.answer()).await;
    assert_eq!(told(&answer), (408, Some("RBR-140"), None));
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off_on_both_sides() {
    let environment = limited("").await;
    let mut wire = Wire::open(environment.address()).await;
    wire.send(get(FILE)).await;
    assert_eq!(wire.answer_without_content().await.status, 200);
    let start = environment.clock.now();
    let gone = environment.control().wait_until(|counts| counts.connections_open == 0);
    in_time(&environment, gone).await;
    assert!(passed(&environment, start) >= Duration::from_secs(60));
    assert_eq!(reached(&environment, "answer_stall").await, 1);
    let mut rest = Vec::new();
    // The end may be an abort.
    let _ = wire.stream.read_to_end(&mut rest).await;
    assert!(rest.len() < 100_000_000, "{} bytes", rest.len());
}

#[tokio::test]
async fn a_client_that_reads_slowly_but_reads_is_not_cut_off() {
    let environment = limited("").await;
    let mut wire = Wire::open(environment.address()).await;
    wire.send(get(FILE)).await;
    assert_eq!(wire.answer_without_content().await.status, 200);
    // More than fits into all buffers between: each time, something has to pass the proxy.
    let mut some = vec![0; 24 * 1024 * 1024];
    for _ in 0..6 {
        environment.pass(Duration::from_secs(40)).await;
        wire.stream.read_exact(&mut some).await.unwrap();
    }
    assert_eq!(passed(&environment, START), Duration::from_secs(240));
    assert_eq!(reached(&environment, "answer_stall").await, 0);
    assert_eq!(environment.control().counts().connections_open, 1);
}

#[tokio::test]
async fn an_answer_that_stands_still_is_cut_off_and_one_that_moves_is_not() {
    let (environment, upstream) = scripted("", "stall_timeout = \"5m\"").await;
    let mut client = Wire::open(environment.address()).await;
    client.send(get("/a")).await;
    let mut wire = Wire::over(upstream.accept().await.unwrap().0);
    wire.head().await.unwrap();
    wire.send("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n").await;
    assert_eq!(client.answer_without_content().await.status, 200);
    for piece in 0..5_u8 {
        environment.pass(Duration::from_secs(280)).await;
        wire.send([piece]).await;
        assert_eq!(client.stream.read_u8().await.unwrap(), piece);
    }
    assert_eq!(reached(&environment, "upstream_stall").await, 0);
    let start = environment.clock.now();
    assert!(in_time(&environment, client.is_closed()).await);
    assert!(passed(&environment, start) >= Duration::from_secs(300));
    assert_eq!(reached(&environment, "upstream_stall").await, 1);
    assert!(wire.head().await.is_none(), "the other side is let go, too");
}

#[tokio::test]
async fn an_early_answer_does_not_leave_a_silent_client_connected() {
    let (environment, upstream) = scripted("", "").await;
    let mut client = Wire::open(environment.address()).await;
    client.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf").await;
    let mut wire = Wire::over(upstream.accept().await.unwrap().0);
    wire.head().await.unwrap();
    wire.send("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    assert_eq!(client.answer().await.status, 403);
    assert!(in_time(&environment, client.is_closed()).await);
}

#[tokio::test]
async fn a_tls_handshake_that_stops_is_ended_in_its_time() {
    let certificate = Certificate::make();
    let tls = certificate.table();
    let proxy = format!("{LONG_IDLE}handshake_timeout = \"7s\"\n{tls}\n{ADMIN}");
    let environment = Environment::with(Wishes { proxy, ..Wishes::default() }).await;
    let mut silent = Wire::open(environment.address()).await;
    let mut half = Wire::open(environment.address()).await;
    half.send([22, 3, 1, 2, 0, 1, 0]).await;
    for wire in [&mut silent, &mut half] {
        assert!(in_time(&environment, wire.is_closed()).await);
    }
    assert!(passed(&environment, START) >= Duration::from_secs(7));
    assert_eq!(reached(&environment, "handshake").await, 2);
}

#[tokio::test]
async fn a_client_that_chose_http2_has_to_begin_it() {
    let certificate = Certificate::make();
    let proxy = format!("{LONG_IDLE}{}\n{ADMIN}", certificate.table());
    let environment = Environment::with(Wishes { proxy, ..Wishes::default() }).await;
    let mut io = certificate.connect(environment.address(), "h2").await;
    io.write_all(b"PRI * HTTP").await.unwrap();
    let mut rest = Vec::new();
    // Its own settings, and then the end, orderly or not.
    let _ = in_time(&environment, io.read_to_end(&mut rest)).await;
    assert!(rest.len() < 100);
    let time = passed(&environment, START);
    assert!(time >= Duration::from_secs(10) && time < Duration::from_secs(3600), "{time:?}");
    assert_eq!(reached(&environment, "handshake").await, 1);
}

#[tokio::test]
async fn requests_wait_for_an_upstream_connection_and_then_are_told() {
    let (environment, upstream) = scripted("", "max_connections = 1").await;
    let mut first = Wire::open(environment.address()).await;
    first.send(get("/first")).await;
    let mut wire = Wire::over(upstream.accept().await.unwrap().0);
    assert!(wire.head().await.unwrap().starts_with("GET /first "));
    let mut second = Wire::open(environment.address()).await;
    second.send(get("/second")).await;
    let answer = in_time(&environment, second.answer()).await;
    assert_eq!(told(&answer), (503, Some("RBR-144"), Some("1")));
    let origin = format!("http://{}", upstream.local_addr().unwrap());
    let message =
        format!("all connections to {origin} (upstream.max_connections) were in use for 5 s");
    assert_eq!(answer.json()["message"], message);
    assert_eq!(reached(&environment, "upstream_connections").await, 1);
    // Another one waits, and gets the connection when it is free.
    second.send(get("/third")).await;
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    wire.send(answer).await;
    assert_eq!(first.answer().await.status, 200);
    assert!(wire.head().await.unwrap().starts_with("GET /third "), "on the same connection");
    wire.send(answer).await;
    assert_eq!(second.answer().await.status, 200);
    // And a new one, when that has ended.
    first.send(get("/fourth")).await;
    assert!(wire.head().await.unwrap().starts_with("GET /fourth "));
    second.send(get("/fifth")).await;
    drop(wire);
    // A read is sent again over a new connection, which the two of them share.
    let mut wire = Wire::over(upstream.accept().await.unwrap().0);
    for _ in 0..2 {
        wire.head().await.unwrap();
        wire.send(answer).await;
    }
    assert_eq!((first.answer().await.status, second.answer().await.status), (200, 200));
}

#[tokio::test]
async fn a_401_that_was_not_replayed_for_want_of_memory_is_counted() {
    let proxy = "max_replay_bytes = \"1KiB\"\nreplay_memory = \"1KiB\"";
    let environment = limited(proxy).await;
    let head = format!("POST {ECHO} HTTP/1.1\r\nHost: a\r\n");
    let long = format!("{head}Content-Length: 1025\r\n\r\n{}", "a".repeat(1025));
    // Each is charged for more than its byte.
    let pieces = "1\r\na\r\n".repeat(100);
    let pieces = format!("{head}Transfer-Encoding: chunked\r\n\r\n{pieces}0\r\n\r\n");
    let mut wire = Wire::open(environment.address()).await;
    for (request, reason, limit) in [
        (long, "no; request content is longer than max_replay_bytes", "replay_bytes"),
        (pieces, "no; replay_memory is used up", "replay_memory"),
    ] {
        // The renewal that the last 401 has caused is over.
        environment.rest().await;
        assert_eq!(wire.ask(get(ECHO)).await.status, 200);
        environment.control().revoke_access_tokens();
        let answer = wire.ask(request).await;
        assert_eq!((answer.status, answer.field("x-ringbearer-replay")), (401, Some(reason)));
        assert_eq!(reached(&environment, limit).await, 1);
    }
}

/// A line of `[proxy]` or of another table, and what its user is told.
const OUT_OF_RANGE: &[(&str, &str)] = &[
    (
        "max_connections = 1000001",
        "proxy.max_connections is 1000001: it must be between 1 and 1000000",
    ),
    ("max_in_flight = 1000001", "proxy.max_in_flight is 1000001: it must be between 1 and 1000000"),
    (
        "max_request_bytes = '0B'",
        "proxy.max_request_bytes is 0 B: it must be between 1 B and 1.0 TiB",
    ),
    ("handshake_timeout = '6m'", "proxy.handshake_timeout is 6m: it must be between 1ms and 5m"),
    (
        "client_stall_timeout = '0s'",
        "proxy.client_stall_timeout is 0s: it must be between 1ms and 1h",
    ),
    (
        "client_stall_bytes = '0B'",
        "proxy.client_stall_bytes is 0 B: it must be between 1 B and 1.0 MiB",
    ),
    (
        "[proxy.http2]\nmax_streams = 10001",
        "proxy.http2.max_streams is 10001: it must be between 1 and 10000",
    ),
    (
        "[proxy.http2]\nmax_header_bytes = '1023B'",
        "proxy.http2.max_header_bytes is 1023 B: it must be between 1.0 KiB and 1.0 MiB",
    ),
    (
        "[proxy.http2]\nmax_pending_resets = 1001",
        "proxy.http2.max_pending_resets is 1001: it must be between 1 and 1000",
    ),
    (
        "[proxy.http2]\nmax_error_resets = 100001",
        "proxy.http2.max_error_resets is 100001: it must be between 1 and 100000",
    ),
    (
        "[proxy.http2]\nping_interval = '0s'",
        "proxy.http2.ping_interval is 0s: it must be between 1ms and 1h",
    ),
    (
        "[proxy.http2]\nping_timeout = '2h'",
        "proxy.http2.ping_timeout is 2h: it must be between 1ms and 1h",
    ),
    (
        "[upstream]\nstall_timeout = '2h'",
        "upstream.stall_timeout is 2h: it must be between 1ms and 1h",
    ),
    (
        "[upstream]\nmax_connections = 100001",
        "upstream.max_connections is 100001: it must be between 1 and 100000",
    ),
    (
        "max_connections = 0",
        "configuration: line 2: `proxy.max_connections` needs a whole number, at least 1",
    ),
    (
        "[proxy.http2]\nmax_stream = 1",
        "configuration: line 3: unknown key `proxy.http2.max_stream`: did you mean `max_streams`?",
    ),
    ("http2 = true", "configuration: line 2: `proxy.http2` needs a table"),
];

#[test]
fn whoever_sets_a_limit_out_of_its_range_is_told_the_range() {
    for (lines, expected) in OUT_OF_RANGE {
        let source = ConfigSource::Text(format!("[proxy]\n{lines}\n"));
        let state = |_: &str| Some("/state".to_owned());
        let error = Settings::load(&source, Overrides::default(), &state).unwrap_err();
        assert_eq!(chain(&error), *expected, "{lines}");
    }
}
