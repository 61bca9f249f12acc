//! What the throttle costs a request that nothing is held against: one glance. One answer in each
//! grain of the clock is looked at more closely: finding its operation, the look before the send, and
//! the look at the answer's fields. Beside another identity's penalty, inside its own, and where
//! requests are paced, each of them is.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};
use ringbearer::clock::{Clock, Timestamp};
use ringbearer::oauth::endpoint::{TokenEndpoint, http_client};
use ringbearer::proxy::throttle::board::Board;
use ringbearer::proxy::throttle::queue::Caller;
use ringbearer::proxy::throttle::{Throttle, Want};
use ringbearer::settings::{ConfigSource, Overrides, PacingSettings, Settings, ThrottleSettings};
use ringbearer::store::memory::MemoryStore;
use ringbearer::token::identities::Identities;
use ringbearer::token::names::IdentityNumber;
use ringbearer::upstream::{Trust, client_config};

/// One of the longer templates of the table.
const TARGET: &str = "/restapi/v1.0/account/~/extension/~/message-store/4711/content/4712";
const STRANGE: &str = "/restapi/v3/accounts/~/extensions/4711/new-things/4712";
const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let parse = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    lines.iter().map(parse).collect()
}

/// What RingCentral answers.
fn answer() -> HeaderMap {
    fields(&[
        ("server", "nginx"),
        ("date", "Mon, 23 Nov 2026 18:00:00 GMT"),
        ("content-type", "application/json;charset=utf-8"),
        ("rcrequestid", "0b9b9a3e-2f0a-4f4e-9b6a-1c2d3e4f5a6b"),
        ("x-rate-limit-group", "medium"),
        ("x-rate-limit-limit", "1000000"),
        ("x-rate-limit-remaining", "999999"),
        ("x-rate-limit-window", "60"),
        ("vary", "Accept-Encoding"),
    ])
}

/// Two identities, of whom nothing is asked.
fn identities() -> (Identities, IdentityNumber, IdentityNumber) {
    let text = "[application.bench]\nclient_id = 'bench'\nclient_secret = 'bench'\n\
                [identity.one]\njwt = 'bench'\n[identity.two]\njwt = 'bench'\n\
                [store]\nmemory = true\n";
    let source = ConfigSource::Text(text.to_owned());
    let settings = Settings::load(&source, Overrides::default(), &|_| None);
    let (settings, _) = settings.expect("a good configuration");
    let clock = Clock::manual(START);
    let tls = client_config(&Trust::Nobody).expect("no roots");
    let http = http_client(tls, None, Duration::from_secs(1)).expect("a client");
    let store = Arc::new(MemoryStore::new(clock.clone()));
    let all = Identities::new(&settings.identities, store, TokenEndpoint::new(http), clock);
    let [one, two] = ["one", "two"].map(|name| all.find(name).expect("configured").number());
    (all, one, two)
}

struct Stage {
    throttle: Arc<Throttle>,
    method: Method,
    target: Uri,
    request: HeaderMap,
    answer: HeaderMap,
    noted: Cell<Timestamp>,
}

impl Stage {
    fn set(pacing: Option<PacingSettings>) -> Self {
        let board = Board::new(Arc::default(), Clock::manual(START));
        let throttle = Throttle::new(&ThrottleSettings { pacing }, Arc::new(board));
        let request = fields(&[("host", "127.0.0.1:8080"), ("accept", "application/json")]);
        let (throttle, answer) = (Arc::new(throttle), answer());
        let (method, target, noted) = (Method::GET, Uri::from_static(TARGET), Cell::new(START));
        Self { throttle, method, target, request, answer, noted }
    }

    fn want(&self) -> Want {
        let operation = self.throttle.operation(&self.method, &self.target, &self.request);
        Want { operation, caller: Caller::ANYBODY, max_wait: Duration::ZERO }
    }

    /// All that the main path does for nearly every request.
    fn glance(&self, identity: IdentityNumber, now: Timestamp, status: StatusCode) {
        let is_quiet = self.throttle.is_quiet(identity, now) && self.noted.replace(now) == now;
        assert!(is_quiet && status != StatusCode::TOO_MANY_REQUESTS);
    }

    /// All that it does for the others.
    fn pass(&self, identity: IdentityNumber, now: Timestamp) {
        let want = self.want();
        let mut turn = self.throttle.at_once(identity, &want, now).expect("not held").expect("now");
        turn.depart();
        let (throttle, status) = (&self.throttle, StatusCode::OK);
        let begun = throttle.after(turn, identity, want.operation, status, &self.answer, now);
        assert!(black_box(begun).is_none());
    }

    fn penalise(&self, identity: IdentityNumber) {
        let want = self.want();
        let turn = self.throttle.at_once(identity, &want, START).expect("not held").expect("now");
        let status = StatusCode::TOO_MANY_REQUESTS;
        let (throttle, operation) = (&self.throttle, want.operation);
        let begun = throttle.after(turn, identity, operation, status, &self.answer, START);
        assert!(begun.is_some());
    }
}

fn passing(c: &mut Criterion) {
    let (_identities, one, two) = identities();
    let mut group = c.benchmark_group("throttle");
    group.throughput(Throughput::Elements(1));
    group.bench_function("build, once in a process", |b| b.iter(|| Stage::set(None)));

    let mut stage = Stage::set(None);
    group.bench_function("operation", |b| {
        b.iter(|| black_box(stage.want()));
    });
    group.bench_function("quiet", |b| {
        b.iter(|| stage.glance(black_box(one), black_box(START), black_box(StatusCode::OK)));
    });
    group.bench_function("quiet, and the answer is noted", |b| b.iter(|| stage.pass(one, START)));
    stage.penalise(two);
    group.bench_function("another identity is held", |b| b.iter(|| stage.pass(one, START)));
    stage.penalise(one);
    let held = stage.want();
    group.bench_function("held", |b| {
        b.iter(|| assert!(black_box(stage.throttle.at_once(one, &held, START)).is_err()));
    });
    stage.target = Uri::from_static(STRANGE);
    group.bench_function("operation that nobody describes", |b| {
        b.iter(|| black_box(stage.want()));
    });

    let (max_wait, max_queue) = (Duration::from_secs(10), 1000);
    let stage = Stage::set(Some(PacingSettings { max_wait, max_queue }));
    group.bench_function("paced, with room", |b| b.iter(|| stage.pass(one, START)));
    group.finish();
}

criterion_group!(benches, passing);
criterion_main!(benches);
