//! What is told of a request: to the counters of its thread, to the log and the audit log in one line
//! each with names and figures, and to a collector of traces; nothing that was said in it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, Uri};

use super::access::Endpoint;
use super::admission::Entry;
use super::error::ProxyError;
use super::replay::Reason;
use crate::audit::{self, AuditLog, Decision, Event, Kind};
use crate::clock::Stopwatch;
use crate::metrics::traffic::{MethodClass, Replay, Tally};
use crate::settings::ClientSettings;
use crate::telemetry::REQUEST_TARGET;
use crate::token::Generation;
use crate::token::identities::IdentityId;

/// To whom requests are told.
#[derive(Clone, Debug)]
pub struct Audience {
    /// The counters of this thread.
    pub tally: Arc<Tally>,
    /// The log, unless its filter leaves them out.
    pub log: bool,
    /// The audit log.
    pub audit: AuditLog,
    /// Who is traced.
    #[cfg(feature = "otlp")]
    pub tracer: Option<crate::trace::Tracer>,
}

/// Collects what is to be told.
#[derive(Debug)]
pub(super) struct Record {
    method: MethodClass,
    identity: Option<IdentityId>,
    timing: Timing,
    outcome: Option<Replay>,
    refused: Option<Box<Refused>>,
    line: Option<Box<Line>>,
    #[cfg(feature = "otlp")]
    trace: Option<Box<crate::trace::Trace>>,
}

/// How the time was spent. Each reading of the clock costs as much as all the counting, so none is
/// made twice: an answer's arrival is also the end, unless something goes on after it.
#[derive(Clone, Copy, Debug)]
struct Timing {
    began: Stopwatch,
    /// When the request under way was sent.
    sent: Option<Stopwatch>,
    waited: Option<Duration>,
    /// The latest answer, if nothing has followed it.
    arrived: Option<Stopwatch>,
}

/// The proxy's own error: rare, therefore boxed.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    code: &'static str,
    why: String,
}

/// What the lines of the log and of the audit log will say, if anybody listens.
#[derive(Debug)]
struct Line {
    method: Method,
    target: Uri,
    peer: Option<SocketAddr>,
    kind: Kind,
    client: Option<String>,
    identity: String,
    generation: Generation,
    upstream_ms: Option<f64>,
    refused: Option<String>,
    replayed: bool,
    error: Option<String>,
    is_logged: bool,
    audit: AuditLog,
}

impl Record {
    /// A request that is traced leaves with our span as its caller's.
    #[cfg_attr(not(feature = "otlp"), allow(clippy::needless_pass_by_ref_mut))]
    pub(super) fn begin<B>(request: &mut Request<B>, entry: Entry, audience: &Audience) -> Self {
        let timing = Timing { began: Stopwatch::start(), sent: None, waited: None, arrived: None };
        let is_safe = request.method().is_safe();
        let method = if is_safe { MethodClass::Read } else { MethodClass::Write };
        Self {
            method,
            identity: None,
            timing,
            outcome: None,
            refused: None,
            line: Line::begin(request, entry, audience),
            #[cfg(feature = "otlp")]
            trace: audience.tracer.as_ref().and_then(|tracer| tracer.begin(request)),
        }
    }

    /// It is for the proxy itself.
    pub(super) fn calls(&mut self, endpoint: Endpoint) {
        if let Some(line) = &mut self.line {
            line.kind = match endpoint {
                Endpoint::Token => Kind::Login,
                Endpoint::Revoke | Endpoint::WidgetLogout => Kind::Logout,
                _ => Kind::Request,
            };
        }
    }

    pub(super) fn called_by(&mut self, client: Option<&ClientSettings>) {
        if let Some(line) = &mut self.line {
            line.client = client.map(|client| client.name.clone());
        }
    }

    pub(super) fn identified(&mut self, id: IdentityId, name: &str) {
        self.identity = Some(id);
        if let Some(line) = &mut self.line {
            name.clone_into(&mut line.identity);
        }
        #[cfg(feature = "otlp")]
        if let Some(trace) = &mut self.trace {
            trace.identified(name);
        }
    }

    /// The request is handed to RingCentral now.
    pub(super) fn sending(&mut self) {
        self.timing.sent = Some(Stopwatch::start());
        self.timing.arrived = None;
        #[cfg(feature = "otlp")]
        if let (Some(trace), Some(sent)) = (&mut self.trace, self.timing.sent) {
            trace.sent(sent.since(self.timing.began));
        }
    }

    pub(super) fn answered(&mut self, generation: Generation) {
        let since_began = self.timing.arrive();
        #[cfg(feature = "otlp")]
        if let Some(trace) = &mut self.trace {
            trace.answered(since_began, generation.number());
        }
        if let Some(line) = &mut self.line {
            line.generation = generation;
            line.upstream_ms = Some(millis(since_began));
        }
    }

    /// By a 401; what follows takes time.
    pub(super) fn refused(&mut self, code: Option<&str>) {
        self.timing.arrived = None;
        if let Some(line) = &mut self.line {
            line.refused = Some(code.unwrap_or("unknown").to_owned());
        }
    }

    pub(super) fn not_replayed(&mut self, why: Reason) {
        self.outcome = Some(why.into());
    }

    pub(super) fn replayed(&mut self, generation: Generation) {
        self.outcome = Some(Replay::Replayed);
        self.answered(generation);
        if let Some(line) = &mut self.line {
            line.replayed = true;
        }
    }

    pub(super) fn failed(&mut self, error: &ProxyError) {
        let ((status, code), why) = (error.status_and_code(), error.in_own_words());
        self.refused = Some(Box::new(Refused { status, code, why }));
        if let Some(line) = &mut self.line {
            line.error = line.is_logged.then(|| error.to_string());
        }
    }

    pub(super) fn end<B>(mut self, audience: &Audience, answer: &Response<B>) {
        let tally = &audience.tally;
        let status = answer.status();
        tally.answered(self.identity.map(IdentityId::index), self.method, status.as_u16());
        let (waited, took) = self.timing.end();
        if let Some(waited) = waited {
            tally.upstream.observe(waited);
        }
        tally.added.observe(took.saturating_sub(waited.unwrap_or_default()));
        if let Some(outcome) = self.outcome {
            tally.replay(outcome);
        }
        #[cfg(feature = "otlp")]
        if let Some(trace) = self.trace.take() {
            let code = self.refused.as_ref().map(|refused| refused.code);
            trace.end(took, status, request_id(answer), code);
        }
        let refused = self.refused.take();
        if let Some(line) = self.line.take() {
            line.note(Some(status), request_id(answer), refused.as_deref(), took);
            line.tell(answer);
        }
        if let Some(refused) = refused {
            tally.refused(refused.code, refused.why);
        }
    }
}

/// Whoever goes before the answer comes may have done something all the same.
impl Drop for Record {
    fn drop(&mut self) {
        if let Some(line) = &self.line {
            line.note(None, None, self.refused.as_deref(), self.timing.began.elapsed());
        }
    }
}

impl Timing {
    /// An answer is there: the time since the beginning.
    fn arrive(&mut self) -> Duration {
        let now = Stopwatch::start();
        self.stop_waiting(now);
        self.arrived = Some(now);
        now.since(self.began)
    }

    fn stop_waiting(&mut self, now: Stopwatch) {
        if let Some(sent) = self.sent.take() {
            self.waited = Some(self.waited.unwrap_or_default() + now.since(sent));
        }
    }

    /// The time spent waiting for RingCentral, if it was asked, and the whole.
    fn end(mut self) -> (Option<Duration>, Duration) {
        let end = self.arrived.unwrap_or_else(Stopwatch::start);
        self.stop_waiting(end);
        (self.waited, end.since(self.began))
    }
}

impl From<Reason> for Replay {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::TooLong => Self::TooLong,
            Reason::MemoryFull => Self::MemoryFull,
            Reason::Broken => Self::ClientBroke,
            Reason::NotCurable => Self::NotCurable,
            Reason::NoNewerToken => Self::NoNewerToken,
            Reason::AlreadyResent => Self::AlreadyResent,
        }
    }
}

impl Line {
    fn begin<B>(request: &Request<B>, entry: Entry, audience: &Audience) -> Option<Box<Self>> {
        let is_logged =
            audience.log && tracing::enabled!(target: REQUEST_TARGET, tracing::Level::INFO);
        if !is_logged && !audience.audit.is_on() {
            return None;
        }
        Some(Box::new(Self {
            method: request.method().clone(),
            target: request.uri().clone(),
            peer: entry.peer,
            kind: Kind::Request,
            client: None,
            identity: String::new(),
            generation: Generation::NONE,
            upstream_ms: None,
            refused: None,
            replayed: false,
            error: None,
            is_logged,
            audit: audience.audit.clone(),
        }))
    }

    /// Tells the audit log.
    fn note(
        &self,
        status: Option<StatusCode>,
        request_id: Option<&str>,
        refused: Option<&Refused>,
        took: Duration,
    ) {
        if !self.audit.is_on() {
            return;
        }
        self.audit.note(&Event::Request(audit::Request {
            kind: self.kind,
            client: self.client.as_deref(),
            peer: self.peer,
            identity: Some(&*self.identity).filter(|name| !name.is_empty()),
            method: self.method.as_str(),
            path: self.target.path(),
            decision: match (status, refused) {
                (None, _) => Decision::Abandoned,
                (_, None) => Decision::Allowed,
                (_, Some(refused)) if refused.status.is_client_error() => Decision::Refused,
                (_, Some(_)) => Decision::Failed,
            },
            code: refused.map(|refused| refused.code),
            status: status.map(|status| status.as_u16()),
            replayed: self.replayed,
            request_id,
            ms: millis(took),
        }));
    }

    /// Tells the log.
    fn tell<B>(self, answer: &Response<B>) {
        if !self.is_logged {
            return;
        }
        tracing::info!(
            target: REQUEST_TARGET,
            identity = self.identity,
            method = %self.method,
            path = self.target.path(),
            status = answer.status().as_u16(),
            upstream_ms = self.upstream_ms,
            replayed = self.replayed,
            generation = self.generation.number(),
            request_id = request_id(answer),
            refused = self.refused,
            error = self.error,
        );
    }
}

/// What RingCentral calls the request.
fn request_id<B>(answer: &Response<B>) -> Option<&str> {
    answer.headers().get("rcrequestid").and_then(|id| id.to_str().ok())
}

/// Milliseconds to the microsecond.
fn millis(took: Duration) -> f64 {
    (took.as_secs_f64() * 1e6).round() / 1e3
}
