//! A request end to end, direct to the sandbox and through the proxy, in one run, at 1 and at 64
//! connections; and what it costs to keep a body for a replay.

use std::convert::Infallible;
use std::hint::black_box;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use futures_util::FutureExt;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Request};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use ringbearer::clock::{Clock, Stopwatch};
use ringbearer::proxy::body::{KeepLimit, ReplayMemory, Replayable};
use ringbearer::sandbox::{Rules, Sandbox, SandboxOptions};
use ringbearer::service::Service;
use ringbearer::settings::{ConfigSource, Overrides, Settings};
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

/// A real RingCentral example: about 4 KiB of JSON.
const TARGET: &str = "/restapi/v1.0/account/~/extension/~";

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Sandbox and proxy, each on a thread of its own.
struct Stage {
    sandbox: String,
    proxy: String,
    token: String,
    _store: tempfile::TempDir,
}

impl Stage {
    fn set() -> Self {
        let sandbox = on_a_thread(|| async {
            let rules = Rules { log_capacity: 0, ..Rules::unlimited() };
            let sandbox = Sandbox::start(SandboxOptions { rules, ..Default::default() }).await;
            let sandbox = sandbox.expect("the sandbox starts");
            (sandbox.url().replace("http://", ""), sandbox)
        });
        let store = tempfile::tempdir().expect("a directory");
        let settings = settings(&sandbox, store.path());
        let proxy = on_a_thread(move || async move {
            let service = Service::start(&settings, &Clock::system()).expect("the proxy starts");
            (service.addresses()[0].to_string(), service)
        });
        let token = runtime().block_on(token(&sandbox));
        Self { sandbox, proxy, token, _store: store }
    }
}

/// Runs what `start` starts for as long as the process lives, and gives its address.
fn on_a_thread<F, T>(start: impl FnOnce() -> F + Send + 'static) -> String
where
    F: Future<Output = (String, T)>,
{
    let (send, receive) = oneshot::channel();
    thread::spawn(move || {
        runtime().block_on(async {
            let (address, running) = start().await;
            send.send(address).expect("somebody waits");
            std::future::pending::<()>().await;
            drop(running);
        });
    });
    receive.blocking_recv().expect("it started")
}

fn settings(sandbox: &str, store: &std::path::Path) -> Settings {
    let text = format!(
        "[proxy]\nlisten = \"127.0.0.1:0\"\nworkers = 1\n[upstream]\nurl = \"http://{sandbox}\"\n\
         [application.bench]\nclient_id = \"sandbox-client\"\nclient_secret = \"sandbox-secret\"\n\
         [identity.bench]\njwt = \"sandbox-jwt\"\n[store]\ndirectory = '{}'\n\
         [log]\nrequests = false\n",
        store.display(),
    );
    let settings = Settings::load(&ConfigSource::Text(text), Overrides::default(), &|_| None);
    settings.expect("a good configuration").0
}

async fn token(sandbox: &str) -> String {
    let tls = ringbearer::upstream::client_config(&ringbearer::upstream::Trust::Nobody);
    let client = reqwest::Client::builder().tls_backend_preconfigured(tls.expect("no roots"));
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", "sandbox-jwt"),
    ];
    let request = client.no_proxy().build().expect("a client");
    let request = request.post(format!("http://{sandbox}/restapi/oauth/token")).form(&form);
    let answer = request.basic_auth("sandbox-client", Some("sandbox-secret")).send().await;
    let answer: serde_json::Value =
        serde_json::from_slice(&answer.expect("an answer").bytes().await.expect("a whole answer"))
            .expect("JSON");
    answer["access_token"].as_str().expect("a token").to_owned()
}

/// Open connections to one server.
struct Connections(Vec<SendRequest<Empty<Bytes>>>, HeaderValue);

impl Connections {
    async fn open(address: &str, count: usize, token: &str) -> Self {
        let mut senders = Vec::new();
        for _ in 0..count {
            let stream = TcpStream::connect(address).await.expect("a connection");
            stream.set_nodelay(true).expect("nodelay");
            let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
            tokio::spawn(connection);
            senders.push(sender);
        }
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).expect("visible");
        Self(senders, bearer)
    }

    /// Shares `rounds` requests among the connections, all at work at once.
    async fn exchange(&mut self, rounds: u64) -> Duration {
        let each = rounds.div_ceil(self.0.len() as u64);
        let bearer = &self.1;
        let watch = Stopwatch::start();
        let work = self.0.iter_mut().map(|sender| async move {
            for _ in 0..each {
                let request = Request::get(TARGET)
                    .header(HOST, "localhost")
                    .header(AUTHORIZATION, bearer)
                    .body(Empty::new());
                let answer = sender.send_request(request.expect("a request")).await;
                let answer = answer.expect("an answer");
                assert_eq!(answer.status(), 200);
                let content = answer.into_body().collect().await.expect("whole content");
                assert!(content.to_bytes().starts_with(b"{"));
            }
        });
        futures_util::future::join_all(work).await;
        let took = watch.elapsed().as_secs_f64();
        Duration::from_secs_f64(took * to_f64(rounds) / to_f64(each * self.0.len() as u64))
    }
}

fn to_f64(count: u64) -> f64 {
    f64::from(u32::try_from(count).expect("few"))
}

fn requests(c: &mut Criterion) {
    let stage = Stage::set();
    let client = runtime();
    let mut group = c.benchmark_group("request");
    group.throughput(Throughput::Elements(1));
    for connections in [1, 64] {
        // The proxy gets what an app without a login sends; the sandbox wants a good token.
        let servers = [
            ("direct", &stage.sandbox, stage.token.as_str()),
            ("proxied", &stage.proxy, "undefined"),
        ];
        for (name, address, token) in servers {
            let mut open = client.block_on(Connections::open(address, connections, token));
            group.bench_function(BenchmarkId::new(name, connections), |b| {
                b.iter_custom(|rounds| client.block_on(open.exchange(rounds)));
            });
        }
    }
    group.finish();
}

/// Content in pieces of the size that a socket gives.
struct Pieces {
    piece: Bytes,
    left: usize,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(self.piece.clone()))))
    }
}

fn keeping(c: &mut Criterion) {
    const PIECE: usize = 16 * 1024;
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let mut group = c.benchmark_group("keep");
    for size in [PIECE, 256 * 1024, 1024 * 1024] {
        group.throughput(Throughput::Bytes(size as u64));
        for (name, max_bytes) in [("kept", size), ("streamed", 0)] {
            let memory = ReplayMemory::new(2 * size);
            let limit = KeepLimit { max_bytes, max_request_bytes: u64::MAX, memory };
            group.bench_function(BenchmarkId::new(name, size), |b| {
                let content = || Pieces { piece: piece.clone(), left: size / PIECE };
                let pass = |content| {
                    let mut content = Replayable::new(content, &limit);
                    let mut attempt = content.attempt().expect("the first");
                    let mut passed = 0;
                    while let Some(frame) = attempt.frame().now_or_never().expect("ready") {
                        passed += frame.expect("no error").data_ref().map_or(0, Bytes::len);
                    }
                    assert_eq!(black_box(passed), size);
                };
                b.iter_batched(content, pass, BatchSize::SmallInput);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, requests, keeping);
criterion_main!(benches);
