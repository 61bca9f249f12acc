//! Traces by OTLP (feature `otlp`): a span for each request that is traced, and one for what it waited
//! for at RingCentral, whose id is what RingCentral is told in `traceparent`.
//!
//! Spans hold names, paths and figures, never a token, a query or content. A worker thread puts them
//! into a bounded queue and goes on; a queue that is full loses them, not the request. Where a request
//! is not traced, its `traceparent` and `tracestate` pass to the byte.

mod context;
mod export;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderValue, Method, Request, StatusCode};
use rustls::ClientConfig;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;

use crate::clock::Clock;
use crate::oauth::endpoint::{ClientError, http_client};
use crate::settings::TraceSettings;
use context::{Caller, SpanId, TRACEPARENT, TRACESTATE, TraceId};

/// Spans that wait to be sent.
const QUEUE: usize = 4096;

/// How long the collector may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Begins traces. Clones share the queue.
#[derive(Clone, Debug)]
pub struct Tracer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    queue: Sender<Finished>,
    lost: Arc<AtomicU64>,
    one_in: NonZeroU32,
    clock: Clock,
}

/// A request that is traced.
#[derive(Debug)]
pub struct Trace {
    tracer: Tracer,
    told: Finished,
}

/// All that is told of it.
#[derive(Debug)]
struct Finished {
    trace: TraceId,
    parent: Option<SpanId>,
    state: Option<String>,
    /// Our span, and that of the wait for RingCentral.
    span: SpanId,
    waiting: SpanId,
    method: Method,
    path: String,
    began: u64,
    /// From the beginning to the first send, to the latest answer, to the end.
    sent: Option<Duration>,
    answered: Option<Duration>,
    took: Duration,
    sends: u32,
    identity: Option<String>,
    generation: u64,
    status: StatusCode,
    request_id: Option<String>,
    code: Option<&'static str>,
}

/// Starts what sends spans, if they are to go anywhere. It ends when every [`Tracer`] is gone. Wants to
/// be called on a tokio runtime.
pub fn start(
    settings: Option<&TraceSettings>,
    tls: &ClientConfig,
    clock: &Clock,
) -> Result<Option<(Tracer, JoinHandle<()>)>, ClientError> {
    let Some(TraceSettings { collector, sample_one_in }) = settings else { return Ok(None) };
    let client = http_client(tls.clone(), None, PATIENCE)?;
    let ((queue, spans), lost) = (channel(QUEUE), Arc::new(AtomicU64::new(0)));
    let url = collector.uri("/v1/traces").to_string();
    let exporter = export::Exporter { client, url, lost: Arc::clone(&lost), clock: clock.clone() };
    let inner = Inner { queue, lost, one_in: *sample_one_in, clock: clock.clone() };
    Ok(Some((Tracer(Arc::new(inner)), tokio::spawn(exporter.run(spans)))))
}

impl Tracer {
    /// Begins a trace or goes on with the caller's, unless the request is not to be traced. Then it is
    /// left as it is; otherwise it leaves with our span for the wait as its caller.
    pub fn begin<B>(&self, request: &mut Request<B>) -> Option<Box<Trace>> {
        let caller = Caller::of(request.headers());
        let is_wanted = match &caller {
            Some(caller) => caller.sampled,
            None => fastrand::u32(0..self.0.one_in.get()) == 0,
        };
        if !is_wanted {
            return None;
        }
        let (span, waiting) = (SpanId::random(), SpanId::random());
        let trace = caller.as_ref().map_or_else(TraceId::random, |caller| caller.trace);
        let fields = request.headers_mut();
        if caller.is_none() {
            // It belongs to a trace that nobody can read.
            fields.remove(TRACESTATE);
        }
        let told = format!("00-{trace}-{waiting}-01");
        fields.insert(TRACEPARENT, HeaderValue::try_from(told).expect("hexadecimal digits"));
        let (parent, state) = caller.map(|it| (it.span, it.state)).unzip();
        let told = Finished {
            trace,
            parent,
            state: state.flatten(),
            span,
            waiting,
            method: request.method().clone(),
            path: request.uri().path().to_owned(),
            began: self.0.clock.unix_nanos(),
            sent: None,
            answered: None,
            took: Duration::ZERO,
            sends: 0,
            identity: None,
            generation: 0,
            status: StatusCode::OK,
            request_id: None,
            code: None,
        };
        Some(Box::new(Trace { tracer: self.clone(), told }))
    }
}

impl Trace {
    /// As whom it is sent.
    pub fn identified(&mut self, name: &str) {
        self.told.identity = Some(name.to_owned());
    }

    /// It goes to RingCentral, so long after its beginning.
    pub fn sent(&mut self, since_began: Duration) {
        self.told.sent.get_or_insert(since_began);
        self.told.sends += 1;
    }

    /// RingCentral has answered.
    pub fn answered(&mut self, since_began: Duration, generation: u64) {
        self.told.answered = Some(since_began);
        self.told.generation = generation;
    }

    /// It is over. `code` is that of the proxy's own error.
    pub fn end(
        mut self: Box<Self>,
        took: Duration,
        status: StatusCode,
        request_id: Option<&str>,
        code: Option<&'static str>,
    ) {
        self.told.took = took;
        self.told.status = status;
        self.told.request_id = request_id.map(str::to_owned);
        self.told.code = code;
        let tracer = &self.tracer.0;
        if tracer.queue.try_send(self.told).is_err() {
            tracer.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}
