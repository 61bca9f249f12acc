//! A token endpoint that answers from a script, for tests of everything behind it.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio::sync::Semaphore;

use super::{TokenEndpoint, Transport};
use crate::oauth::TokenError;

/// One scripted answer.
pub(crate) enum Line {
    /// Status, `Retry-After` and content.
    Answer(u16, Option<u64>, String),
    /// The request arrives, the answer does not.
    Lost,
    /// Nothing arrives.
    Unreachable,
}

/// Answers in order; without a line left, a new session with a token lifetime of an hour.
pub(crate) struct Script {
    lines: Mutex<VecDeque<Line>>,
    received: Mutex<Vec<String>>,
    gate: Semaphore,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

impl Script {
    /// A script whose gate is open or shut.
    pub(crate) fn new(lines: Vec<Line>, open: bool) -> std::sync::Arc<Self> {
        let gate = Semaphore::new(if open { Semaphore::MAX_PERMITS } else { 0 });
        let (lines, received) = (Mutex::new(lines.into()), Mutex::default());
        std::sync::Arc::new(Self { lines, received, gate })
    }

    /// The endpoint that follows it.
    pub(crate) fn endpoint(self: &std::sync::Arc<Self>) -> TokenEndpoint {
        TokenEndpoint(Transport::Scripted(self.clone()))
    }

    /// Lets one answer out.
    pub(crate) fn release(&self) {
        self.gate.add_permits(1);
    }

    /// Adds a line.
    pub(crate) fn answer_next(&self, line: Line) {
        self.lines.lock().unwrap().push_back(line);
    }

    /// The token requests that arrived; revocations always succeed and are not among them.
    pub(crate) fn received(&self) -> Vec<String> {
        self.received.lock().unwrap().clone()
    }

    pub(super) async fn answer(
        &self,
        path: &str,
        form: &str,
    ) -> Result<(StatusCode, HeaderMap, Bytes), TokenError> {
        if path.ends_with("revoke") {
            return Ok((StatusCode::OK, HeaderMap::new(), Bytes::new()));
        }
        let number = {
            let mut received = self.received.lock().unwrap();
            received.push(form.to_owned());
            received.len()
        };
        self.gate.acquire().await.unwrap().forget();
        let line = self.lines.lock().unwrap().pop_front();
        let granted = || Line::Answer(200, None, granted(number, 3600));
        let lost = || io::Error::from(io::ErrorKind::ConnectionReset);
        match line.unwrap_or_else(granted) {
            Line::Lost => Err(TokenError::NoAnswer(lost())),
            Line::Unreachable => Err(TokenError::Unreachable(lost())),
            Line::Answer(status, retry_after, content) => {
                let mut fields = HeaderMap::new();
                if let Some(secs) = retry_after {
                    fields.insert(header::RETRY_AFTER, HeaderValue::from(secs));
                }
                Ok((StatusCode::from_u16(status).unwrap(), fields, content.into()))
            }
        }
    }
}

/// A good answer, its tokens numbered.
pub(crate) fn granted(number: usize, expires_in: u64) -> String {
    format!(
        r#"{{"access_token":"access-{number}","token_type":"bearer","expires_in":{expires_in},
        "refresh_token":"refresh-{number}","refresh_token_expires_in":604800}}"#
    )
}

/// A refusal with this code.
pub(crate) fn refused(code: &str) -> String {
    format!(r#"{{"error":"{code}","error_description":"secret-looking text"}}"#)
}
