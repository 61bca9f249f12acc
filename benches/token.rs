//! Reading the current token while a writer rotates it: 1, 2 and 8 reading threads; for scale, a value
//! shared by all threads behind a lock, without a writer.

use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier, RwLock};
use std::thread;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use http::HeaderValue;
use ringbearer::clock::{Clock, Stopwatch};
use ringbearer::token::slot::{Bearer, LocalBearer, TokenSlot};
use ringbearer::token::{AccessToken, Generation, TokenSet};

/// A usual RingCentral access token is a JWT of about this length.
const TOKEN_LENGTH: usize = 900;
/// Far more often than any real rotation.
const ROTATION: Duration = Duration::from_millis(1);

fn set(generation: u64) -> TokenSet {
    let now = Clock::system().now();
    TokenSet {
        generation: Generation::new(generation),
        access_token: AccessToken::new("t".repeat(TOKEN_LENGTH)),
        issued_at: now,
        expires_at: now + Duration::from_secs(3600),
        refresh: None,
        previous_refresh: None,
        scope: None,
        owner_id: None,
        endpoint_id: None,
    }
}

/// Publishes a new token every [`ROTATION`] until it is dropped.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Writer {
    fn start(slot: Arc<TokenSlot>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            for generation in 2.. {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                slot.publish(Bearer::of(&set(generation)));
                thread::park_timeout(ROTATION);
            }
        });
        Self { stop, thread: Some(thread) }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("joined once").join().expect("the writer does not panic");
    }
}

/// The time that `threads` threads take for `rounds` calls each, all at once, per thread.
fn on_threads(threads: usize, rounds: u64, work: impl Fn() + Sync) -> Duration {
    let start = Barrier::new(threads);
    let took = thread::scope(|scope| {
        let run = || {
            start.wait();
            let watch = Stopwatch::start();
            for _ in 0..rounds {
                work();
            }
            watch.elapsed()
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum::<Duration>()
    });
    took / u32::try_from(threads).expect("few")
}

fn reading(c: &mut Criterion) {
    let mut group = c.benchmark_group("token");
    group.throughput(Throughput::Elements(1));
    let clock = Clock::system();
    let slot = Arc::new(TokenSlot::default());
    slot.publish(Bearer::of(&set(1)));

    let mut local = LocalBearer::default();
    group.bench_function("quiet", |b| {
        b.iter(|| {
            let bearer = local.current(&slot, clock.now()).expect("published");
            assert_eq!(black_box(bearer.value.clone()).len(), TOKEN_LENGTH + "Bearer ".len());
        });
    });

    for threads in [1, 2, 8] {
        let writer = Writer::start(Arc::clone(&slot));
        group.bench_function(BenchmarkId::new("rotating", threads), |b| {
            b.iter_custom(|rounds| {
                on_threads(threads, rounds, || {
                    thread_local! {
                        static LOCAL: std::cell::RefCell<LocalBearer> = std::cell::RefCell::default();
                    }
                    LOCAL.with_borrow_mut(|local| {
                        let bearer = local.current(&slot, clock.now()).expect("published");
                        black_box(bearer.value.clone());
                    });
                })
            });
        });
        drop(writer);
    }

    let shared = RwLock::new(HeaderValue::from_str(&"t".repeat(TOKEN_LENGTH)).expect("visible"));
    for threads in [1, 2, 8] {
        group.bench_function(BenchmarkId::new("shared value behind a lock", threads), |b| {
            b.iter_custom(|rounds| {
                on_threads(threads, rounds, || {
                    black_box(shared.read().expect("not poisoned").clone());
                })
            });
        });
    }
    group.finish();
}

criterion_group!(benches, reading);
criterion_main!(benches);
