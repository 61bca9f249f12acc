//! Spans on their way to the collector: OTLP over HTTP, as JSON, in batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};
use tokio::sync::mpsc::Receiver;
use tracing::warn;

use super::Finished;
use crate::clock::Clock;

/// How long a span waits for others to go with.
const EVERY: Duration = Duration::from_secs(1);

/// Requests in a batch; each has up to two spans.
const BATCH: usize = 256;

/// OTLP's numbers for kinds of spans and for a failure.
const SERVER: u8 = 2;
const CLIENT: u8 = 3;
const ERROR: u8 = 2;

pub(super) struct Exporter {
    pub(super) client: reqwest::Client,
    pub(super) url: String,
    /// Spans that found no room.
    pub(super) lost: Arc<AtomicU64>,
    pub(super) clock: Clock,
}

impl Exporter {
    /// Sends what comes, until nothing can come any more.
    pub(super) async fn run(self, mut spans: Receiver<Finished>) {
        let mut failing = false;
        while let Some(first) = spans.recv().await {
            let mut batch = vec![first];
            let ripe = self.clock.sleep(EVERY);
            tokio::pin!(ripe);
            while batch.len() < BATCH {
                tokio::select! {
                    biased;
                    more = spans.recv() => match more {
                        Some(more) => batch.push(more),
                        None => break,
                    },
                    () = &mut ripe => break,
                }
            }
            let sent = self.send(&batch).await;
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                warn!(lost, "traces were lost: the collector is slower than requests come");
            }
            match sent {
                Ok(()) => failing = false,
                // One line for a collector that is away, however long.
                Err(cause) if !failing => {
                    failing = true;
                    warn!(cause, "the collector of traces takes none: they are lost meanwhile");
                }
                Err(_) => {}
            }
        }
    }

    async fn send(&self, batch: &[Finished]) -> Result<(), String> {
        let request = self.client.post(&self.url).header(CONTENT_TYPE, "application/json");
        let answer = request.body(content(batch).to_string()).send().await;
        let answer = answer.map_err(|error| error.without_url().to_string())?;
        if answer.status().is_success() { Ok(()) } else { Err(answer.status().to_string()) }
    }
}

fn content(batch: &[Finished]) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let resource = [text("service.name", "ringbearer"), text("service.version", version)];
    let spans: Vec<_> = batch.iter().flat_map(Finished::spans).collect();
    json!({ "resourceSpans": [{
        "resource": { "attributes": resource },
        "scopeSpans": [{ "scope": { "name": "ringbearer", "version": version }, "spans": spans }],
    }] })
}

fn text(key: &str, value: &str) -> Value {
    json!({ "key": key, "value": { "stringValue": value } })
}

fn number(key: &str, value: u64) -> Value {
    // Its 64-bit numbers are texts in JSON.
    json!({ "key": key, "value": { "intValue": value.to_string() } })
}

impl Finished {
    /// The request, and what it waited for.
    fn spans(&self) -> Vec<Value> {
        let mut attributes = vec![
            text("http.request.method", self.method.as_str()),
            text("url.path", &self.path),
            number("http.response.status_code", self.status.as_u16().into()),
        ];
        attributes.extend(self.identity.as_ref().map(|name| text("ringbearer.identity", name)));
        let outcome = self.code.map(|code| text("error.type", code));
        attributes.extend(outcome.or_else(|| {
            self.status.is_server_error().then(|| text("error.type", self.status.as_str()))
        }));
        attributes.extend(self.request_id.as_ref().map(|id| text("ringcentral.request_id", id)));
        let parent = self.parent.map(|it| it.to_string()).unwrap_or_default();
        let mut spans = vec![self.span(
            &self.span.to_string(),
            &parent,
            SERVER,
            (Duration::ZERO, self.took),
            &attributes,
        )];
        if let Some(sent) = self.sent {
            let mut attributes = vec![text("http.request.method", self.method.as_str())];
            if self.answered.is_some() {
                attributes.push(number("ringbearer.token.generation", self.generation));
            }
            if self.sends > 1 {
                attributes.push(number("http.request.resend_count", u64::from(self.sends - 1)));
            }
            let until = self.answered.unwrap_or(self.took);
            let parent = self.span.to_string();
            spans.push(self.span(
                &self.waiting.to_string(),
                &parent,
                CLIENT,
                (sent, until),
                &attributes,
            ));
        }
        spans
    }

    fn span(
        &self,
        id: &str,
        parent: &str,
        kind: u8,
        (from, until): (Duration, Duration),
        attributes: &[Value],
    ) -> Value {
        let at = |since: Duration| {
            let nanos = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
            self.began.saturating_add(nanos).to_string()
        };
        let status =
            if self.status.is_server_error() { json!({ "code": ERROR }) } else { json!({}) };
        json!({
            "traceId": self.trace.to_string(),
            "spanId": id,
            "parentSpanId": parent,
            "traceState": self.state.clone().unwrap_or_default(),
            "name": self.method.as_str(),
            "kind": kind,
            "startTimeUnixNano": at(from),
            "endTimeUnixNano": at(until),
            "attributes": attributes,
            "status": status,
        })
    }
}
