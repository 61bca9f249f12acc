//! What the log says of a request: one line, with names and figures, nothing that was said in it.

use http::{Method, Request, Response, Uri};

use super::error::ProxyError;
use crate::clock::Stopwatch;
use crate::telemetry::REQUEST_TARGET;
use crate::token::Generation;

/// Collects what the line will say, unless nobody listens.
#[derive(Debug)]
pub(super) struct Record(Option<Box<Line>>);

#[derive(Debug)]
struct Line {
    method: Method,
    target: Uri,
    watch: Stopwatch,
    identity: String,
    generation: Generation,
    upstream_ms: Option<f64>,
    refused: Option<String>,
    replayed: bool,
    error: Option<String>,
}

impl Record {
    pub(super) fn begin<B>(request: &Request<B>, wanted: bool) -> Self {
        if !wanted || !tracing::enabled!(target: REQUEST_TARGET, tracing::Level::INFO) {
            return Self(None);
        }
        Self(Some(Box::new(Line {
            method: request.method().clone(),
            target: request.uri().clone(),
            watch: Stopwatch::start(),
            identity: String::new(),
            generation: Generation::NONE,
            upstream_ms: None,
            refused: None,
            replayed: false,
            error: None,
        })))
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
            line.error = Some(error.to_string());
        }
    }

    pub(super) fn end<B>(self, answer: &Response<B>) {
        let Some(line) = self.0 else { return };
        let request_id = answer.headers().get("rcrequestid").and_then(|id| id.to_str().ok());
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
            refused = line.refused,
            error = line.error,
        );
    }
}

/// Milliseconds to the microsecond.
fn millis(watch: Stopwatch) -> f64 {
    (watch.elapsed().as_secs_f64() * 1e6).round() / 1e3
}
