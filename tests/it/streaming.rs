//! Contents stream: memory stays small, and who reads slowly slows the other side down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringbearer::sandbox::{Rules, Sandbox, SandboxOptions, media_byte};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::program::{Program, sandbox};
use crate::support::{ECHO, Environment, Wishes};
use crate::wire::{Wire, get};

const FILE: &str = "/restapi/v1.0/account/~/extension/~/message-store/1/content/2";
/// How much is sent, unless `RINGBEARER_STREAM_BYTES` says another number.
const USUAL: usize = 100_000_000;
/// How much more memory the program may need for all of it than for one request.
const MAX_GROWTH_KIB: u64 = 16 * 1024;
/// What the kernel's and the proxy's buffers of two connections may hold together.
const MAX_UNDERWAY: u64 = 48 * 1024 * 1024;

fn amount() -> usize {
    let wanted = std::env::var_os("RINGBEARER_STREAM_BYTES");
    wanted.map_or(USUAL, |number| number.to_str().unwrap().parse().unwrap())
}

/// Compares what comes with a text that repeats itself, and holds none of it.
struct Repeated {
    period: Vec<u8>,
    at: usize,
}

impl Repeated {
    fn take(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() {
            let from = self.at % self.period.len();
            let there = piece.len().min(self.period.len() - from);
            assert!(
                piece[..there] == self.period[from..from + there],
                "other bytes at {}",
                self.at
            );
            (piece, self.at) = (&piece[there..], self.at + there);
        }
    }
}

fn pattern() -> Vec<u8> {
    (0..1_000_003_u32).map(|n| u8::try_from((n * 31 + n / 251) % 256).unwrap()).collect()
}

#[tokio::test]
async fn what_goes_up_is_the_same_bytes_in_little_memory() {
    let sandbox =
        Sandbox::start(SandboxOptions { rules: Rules::unlimited(), ..SandboxOptions::default() })
            .await
            .unwrap();
    let program = Program::start(&sandbox, "", &[]).await;
    let mut wire = Wire::open(program.address).await;
    assert_eq!(wire.ask(get(ECHO)).await.status, 200);
    let (before, pattern, amount) = (program.peak_memory(), pattern(), amount());
    wire.send(format!("POST {ECHO} HTTP/1.1\r\nHost: a\r\nContent-Length: {amount}\r\n\r\n")).await;
    let (mut digest, mut left) = (Sha256::new(), amount);
    while left > 0 {
        let piece = &pattern[..left.min(pattern.len())];
        digest.update(piece);
        wire.send(piece).await;
        left -= piece.len();
    }
    let answer = wire.answer().await;
    let expected = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>();
    assert_eq!((answer.status, &answer.json()["bodyBytes"]), (200, &amount.into()));
    assert_eq!(answer.json()["bodySha256"], expected.concat());
    let growth = program.peak_memory() - before;
    assert!(growth < MAX_GROWTH_KIB, "{growth} KiB more");
}

#[tokio::test]
async fn what_comes_down_is_the_same_bytes_in_little_memory() {
    let sandbox = sandbox().await;
    let program = Program::start(&sandbox, "", &[]).await;
    let mut wire = Wire::open(program.address).await;
    assert_eq!(wire.ask(get(ECHO)).await.status, 200);
    let (before, amount) = (program.peak_memory(), amount());
    wire.send(get(&format!("{FILE}?size={amount}"))).await;
    let answer = wire.answer_without_content().await;
    // The file repeats itself after a prime number of bytes.
    let period = (0..262_139).map(|index| media_byte(FILE, index)).collect();
    let mut file = Repeated { period, at: 0 };
    assert!(wire.pour(&answer, |piece| file.take(piece)).await);
    assert_eq!((answer.status, file.at), (200, amount));
    let growth = program.peak_memory() - before;
    assert!(growth < MAX_GROWTH_KIB, "{growth} KiB more");
}

/// A record of a list, with links to `origin` and texts that only mention it.
fn record(origin: &str, mentioned: &str) -> String {
    let filler = "word \\u00e4\\n".repeat(30);
    format!(
        "{{\"id\":1,\"uri\":\"{origin}/restapi/v1.0/a?b=c\",\"text\":\"see {mentioned}/x: {filler}\",\
         \"attachments\":[{{\"uri\":\"{origin}/restapi/v1.0/a/b\"}}]}},"
    )
}

/// Answers one request with a JSON list of at least so many bytes, in chunks that end anywhere.
async fn send_list(listener: TcpListener, record: String, count: usize) {
    let mut upstream = Wire::over(listener.accept().await.unwrap().0);
    upstream.head().await.unwrap();
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    upstream.send(format!("{head}1\r\n[\r\n")).await;
    let records = record.repeat(101);
    let (mut left, size) = (count, 65_521);
    let mut piece = Vec::<u8>::new();
    while left > 0 {
        let some = left.min(101);
        piece.extend(&records.as_bytes()[..some * record.len()]);
        left -= some;
        while piece.len() >= size || left == 0 && !piece.is_empty() {
            let end = piece.len().min(size);
            let mut chunk = format!("{end:x}\r\n").into_bytes();
            chunk.extend(piece.drain(..end));
            chunk.extend(b"\r\n");
            upstream.send(chunk).await;
        }
    }
    upstream.send("3\r\n{}]\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn a_long_list_is_led_back_in_little_memory() {
    let sandbox = sandbox().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let program = Program::start(&sandbox, &format!("[host.big]\nurl = \"{origin}\""), &[]).await;
    let mut wire = Wire::open(program.address).await;
    assert_eq!(wire.ask(get(ECHO)).await.status, 200);
    let before = program.peak_memory();
    let sent = record(&origin, &origin);
    let count = amount() / sent.len() + 1;
    let upstream = tokio::spawn(send_list(listener, sent, count));
    wire.send(get("/.ringbearer/big/list")).await;
    let answer = wire.answer_without_content().await;
    let period = record("http://proxy.test/.ringbearer/big", &origin).into_bytes();
    let length = period.len() * count;
    let (mut list, mut begin, mut tail) = (Repeated { period, at: 0 }, None, Vec::new());
    let whole = wire.pour(&answer, |mut piece| {
        if begin.is_none() {
            begin = Some(piece[0]);
            piece = &piece[1..];
        }
        let end = piece.len().min(length - list.at);
        list.take(&piece[..end]);
        tail.extend_from_slice(&piece[end..]);
    });
    assert!(whole.await);
    assert_eq!((answer.status, begin, list.at, &tail[..]), (200, Some(b'['), length, &b"{}]"[..]));
    upstream.await.unwrap();
    let growth = program.peak_memory() - before;
    assert!(growth < MAX_GROWTH_KIB, "{growth} KiB more");
}

/// Writes for ever, counting what the other side takes.
async fn pour(mut stream: TcpStream, poured: Arc<AtomicU64>) {
    let block = vec![0; 64 * 1024];
    // It ends when the other side goes.
    while let Ok(written) = stream.write(&block).await {
        poured.fetch_add(written as u64, Ordering::Relaxed);
    }
}

/// The count once it has stood still for as long as 300 other requests take.
async fn settled(counter: &AtomicU64, others: &mut Wire) -> u64 {
    loop {
        let before = counter.load(Ordering::Relaxed);
        for _ in 0..300 {
            others.ask(get("/restapi/oauth/token")).await;
        }
        if counter.load(Ordering::Relaxed) == before {
            return before;
        }
        assert!(before < MAX_UNDERWAY, "{before} bytes under way, and still more");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream_url = Some(format!("http://{}", listener.local_addr().unwrap()));
    let environment = Environment::with(Wishes { upstream_url, ..Wishes::default() }).await;
    let mut lazy = Wire::open(environment.address()).await;
    lazy.send(get("/endless")).await;
    let mut upstream = Wire::over(listener.accept().await.unwrap().0);
    upstream.head().await.unwrap();
    upstream.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n").await;
    let poured = Arc::new(AtomicU64::new(0));
    let pouring = tokio::spawn(pour(upstream.stream, Arc::clone(&poured)));
    let mut others = Wire::open(environment.address()).await;
    let taken = settled(&poured, &mut others).await;
    assert!(taken < MAX_UNDERWAY, "{taken} bytes were taken from upstream");
    // It goes on as soon as the client does.
    assert_eq!(lazy.answer_without_content().await.status, 200);
    let mut buffer = vec![0; 1024 * 1024];
    while poured.load(Ordering::Relaxed) < taken + 10_000_000 {
        assert!(lazy.stream.read(&mut buffer).await.unwrap() > 0);
    }
    drop(lazy);
    pouring.await.unwrap();
}

#[tokio::test]
async fn an_upstream_that_does_not_read_stops_the_client() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream_url = Some(format!("http://{}", listener.local_addr().unwrap()));
    let environment = Environment::with(Wishes { upstream_url, ..Wishes::default() }).await;
    let mut eager = Wire::open(environment.address()).await;
    eager.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000000\r\n\r\n").await;
    let mut upstream = Wire::over(listener.accept().await.unwrap().0);
    upstream.head().await.unwrap();
    let poured = Arc::new(AtomicU64::new(0));
    let pouring = tokio::spawn(pour(eager.stream, Arc::clone(&poured)));
    let mut others = Wire::open(environment.address()).await;
    let taken = settled(&poured, &mut others).await;
    assert!(taken < MAX_UNDERWAY, "{taken} bytes were taken from the client");
    let mut buffer = vec![0; 1024 * 1024];
    while poured.load(Ordering::Relaxed) < taken + 10_000_000 {
        assert!(upstream.stream.read(&mut buffer).await.unwrap() > 0);
    }
    drop(upstream);
    pouring.await.unwrap();
}
