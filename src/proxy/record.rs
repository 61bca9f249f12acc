//! What the log and the audit log say of a request: one line each, with names and figures, nothing
//! that was said in it.

use std::net::SocketAddr;

use http::{Method, Request, Response, StatusCode, Uri};

use super::access::Endpoint;
use super::admission::Entry;
use super::error::ProxyError;
use crate::audit::{self, AuditLog, Decision, Event, Kind};
use crate::clock::Stopwatch;
use crate::settings::ClientSettings;
use crate::telemetry::REQUEST_TARGET;
use crate::token::Generation;

/// Who is told of requests.
#[derive(Clone, Debug)]
pub struct Records {
    /// The log, unless its filter leaves them out.
    pub log: bool,
    /// The audit log.
    pub audit: AuditLog,
}

/// Collects what the lines will say, unless nobody listens.
#[derive(Debug)]
pub(super) struct Record(Option<Box<Line>>);

#[derive(Debug)]
struct Line {
    method: Method,
    target: Uri,
    watch: Stopwatch,
    peer: Option<SocketAddr>,
    kind: Kind,
    client: Option<String>,
    identity: String,
    generation: Generation,
    upstream_ms: Option<f64>,
    refused: Option<String>,
    replayed: bool,
    error: Option<String>,
    failure: Option<(StatusCode, &'static str)>,
    is_logged: bool,
    audit: AuditLog,
}

impl Record {
    pub(super) fn begin<B>(request: &Request<B>, entry: Entry, records: &Records) -> Self {
        let is_logged =
            records.log && tracing::enabled!(target: REQUEST_TARGET, tracing::Level::INFO);
        if !is_logged && !records.audit.is_on() {
            return Self(None);
        }
        Self(Some(Box::new(Line {
            method: request.method().clone(),
            target: request.uri().clone(),
            watch: Stopwatch::start(),
            peer: entry.peer,
            kind: Kind::Request,
            client: None,
            identity: String::new(),
            generation: Generation::NONE,
            upstream_ms: None,
            refused: None,
            replayed: false,
            error: None,
            failure: None,
            is_logged,
            audit: records.audit.clone(),
        })))
    }

    /// It is for the proxy itself.
    pub(super) fn calls(&mut self, endpoint: Endpoint) {
        if let Some(line) = &mut self.0 {
            line.kind = match endpoint {
                Endpoint::Token => Kind::Login,
                Endpoint::Revoke | Endpoint::WidgetLogout => Kind::Logout,
                _ => Kind::Request,
            };
        }
    }

    pub(super) fn called_by(&mut self, client: Option<&ClientSettings>) {
        if let Some(line) = &mut self.0 {
            line.client = client.map(|client| client.name.clone());
        }
    }

    pub(super) fn identified(&mut self, identity: &str) {
        if let Some(line) = &mut self.0 {
            identity.clone_into(&mut line.identity);
        }
    }

    pub(super) fn answered(&mut self, generation: Generation) {
        if let Some(line) = &mut self.0 {
            line.generation = generation;
            line.upstream_ms = Some(millis(line.watch));
        }
    }

    pub(super) fn refused(&mut self, code: Option<&str>) {
        if let Some(line) = &mut self.0 {
            line.refused = Some(code.unwrap_or("unknown").to_owned());
        }
    }

    pub(super) fn replayed(&mut self, generation: Generation) {
        if let Some(line) = &mut self.0 {
            line.generation = generation;
            line.replayed = true;
            line.upstream_ms = Some(millis(line.watch));
        }
    }

    pub(super) fn failed(&mut self, error: &ProxyError) {
        if let Some(line) = &mut self.0 {
            line.error = line.is_logged.then(|| error.to_string());
            line.failure = Some(error.status_and_code());
        }
    }

    pub(super) fn end<B>(mut self, answer: &Response<B>) {
        let Some(mut line) = self.0.take() else { return };
        let request_id = answer.headers().get("rcrequestid").and_then(|id| id.to_str().ok());
        line.note(Some(answer.status()), request_id);
        if !line.is_logged {
            return;
        }
        tracing::info!(
            target: REQUEST_TARGET,
            identity = line.identity,
            method = %line.method,
            path = line.target.path(),
            status = answer.status().as_u16(),
            upstream_ms = line.upstream_ms,
            replayed = line.replayed,
            generation = line.generation.number(),
            request_id,
            refused = line.refused.take(),
            error = line.error.take(),
        );
    }
}

/// Whoever goes before the answer comes may have done something all the same.
impl Drop for Record {
    fn drop(&mut self) {
        if let Some(line) = &self.0 {
            line.note(None, None);
        }
    }
}

impl Line {
    fn note(&self, status: Option<StatusCode>, request_id: Option<&str>) {
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
            decision: match (status, self.failure) {
                (None, _) => Decision::Abandoned,
                (_, None) => Decision::Allowed,
                (_, Some((status, _))) if status.is_client_error() => Decision::Refused,
                (_, Some(_)) => Decision::Failed,
            },
            code: self.failure.map(|(_, code)| code),
            status: status.map(|status| status.as_u16()),
            replayed: self.replayed,
            request_id,
            ms: millis(self.watch),
        }));
    }
}

/// Milliseconds to the microsecond.
fn millis(watch: Stopwatch) -> f64 {
    (watch.elapsed().as_secs_f64() * 1e6).round() / 1e3
}
