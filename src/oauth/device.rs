//! A login on a device without a browser (RFC 8628): what the server hands out, and how often it may be
//! asked whether somebody has agreed. PURE.
//!
//! Every question is a token request of the application's, so it is asked more seldom than the server
//! allows where the budget is small: one request a minute at least is left to everybody else.

use std::num::NonZeroU32;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value};

use super::TokenError;
use super::response::{self, Answer};
use crate::clock::Timestamp;
use crate::secret::Secret;

/// The codes of a login that has begun (RFC 8628 §3.2).
#[derive(Clone, Debug)]
pub struct DeviceCodes {
    /// What the token endpoint is asked with.
    pub device_code: Secret,
    /// What the person types in.
    pub user_code: String,
    /// Where.
    pub verification_uri: String,
    /// The same with the code in it.
    pub verification_uri_complete: Option<String>,
    /// When the codes end.
    pub expires_at: Timestamp,
    /// How long the server wants to be left alone between two questions.
    pub interval: Duration,
}

/// Reads the answer of the device authorization endpoint, which was asked at `now`.
pub fn read(answer: &Answer<'_>, now: Timestamp) -> Result<DeviceCodes, TokenError> {
    if answer.status != StatusCode::OK {
        return Err(response::refused(answer, now));
    }
    let malformed = |fault| TokenError::Malformed { fault };
    let object: Map<String, Value> = serde_json::from_slice(answer.content)
        .map_err(|_| malformed("what the device authorization endpoint sent is no JSON object"))?;
    let text = |name: &str| {
        let text = object.get(name).and_then(Value::as_str)?;
        let shown = !text.is_empty() && !text.contains(char::is_control);
        shown.then(|| text.to_owned())
    };
    let seconds = |name: &str| object.get(name).and_then(response::seconds);
    let life = seconds("expires_in").filter(|life| !life.is_zero()).unwrap_or(USUAL_LIFE);
    Ok(DeviceCodes {
        device_code: text("device_code")
            .map(Secret::new)
            .ok_or(malformed("it has no device_code"))?,
        user_code: text("user_code").ok_or(malformed("it has no user_code"))?,
        verification_uri: text("verification_uri")
            .ok_or(malformed("it has no verification_uri"))?,
        verification_uri_complete: text("verification_uri_complete"),
        expires_at: now + life.min(LONGEST_LIFE),
        interval: seconds("interval").unwrap_or(USUAL_INTERVAL).min(LONGEST_INTERVAL),
    })
}

/// How often the server is asked.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    interval: Duration,
}

impl Pace {
    /// As the server wants it, and never so often that the application's budget is used up by it.
    pub fn new(wanted: Duration, per_minute: NonZeroU32) -> Self {
        let others_too = per_minute.get().saturating_sub(1).max(1);
        Self { interval: wanted.max(Duration::from_secs(60) / others_too) }
    }

    /// How long to wait before the next question.
    pub const fn interval(&self) -> Duration {
        self.interval
    }

    /// Whether it makes sense to ask again after this answer (RFC 8628 §3.5).
    pub fn goes_on_after(&mut self, error: &TokenError) -> bool {
        match error {
            TokenError::Pending { slow_down: false } => {}
            TokenError::Pending { slow_down: true } => self.interval += SLOWER,
            // "On encountering a connection timeout, clients MUST unilaterally reduce".
            TokenError::NoAnswer(_)
            | TokenError::Unreachable(_)
            | TokenError::ServerFault { .. }
            | TokenError::Penalty { .. } => {
                self.interval = (self.interval * 2).min(LONGEST_INTERVAL);
            }
            _ => return false,
        }
        true
    }
}

/// RFC 8628 §3.2.
const USUAL_INTERVAL: Duration = Duration::from_secs(5);
const SLOWER: Duration = Duration::from_secs(5);
const LONGEST_INTERVAL: Duration = Duration::from_secs(120);
const USUAL_LIFE: Duration = Duration::from_secs(300);
/// Nobody looks at a terminal for longer.
const LONGEST_LIFE: Duration = Duration::from_secs(1800);

#[cfg(test)]
mod tests {
    use std::io;

    use http::HeaderMap;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    fn answered(status: u16, content: &str) -> Result<DeviceCodes, TokenError> {
        let (status, fields) = (StatusCode::from_u16(status).unwrap(), HeaderMap::new());
        read(&Answer { status, fields: &fields, content: content.as_bytes() }, NOW)
    }

    fn pace(wanted: u64, per_minute: u32) -> Pace {
        Pace::new(Duration::from_secs(wanted), per_minute.try_into().unwrap())
    }

    #[test]
    fn the_codes_are_read_with_the_defaults_of_the_rfc() {
        let least =
            r#"{"device_code":"d","user_code":"WDJB-MJHT","verification_uri":"https://x/y"}"#;
        let codes = answered(200, least).unwrap();
        assert_eq!((codes.device_code.expose(), &*codes.user_code), ("d", "WDJB-MJHT"));
        assert_eq!((codes.interval, NOW.until(codes.expires_at)), (USUAL_INTERVAL, USUAL_LIFE));
        let whole = least.replace(
            '}',
            r#","expires_in":600,"interval":"7","verification_uri_complete":"https://x/y?c"}"#,
        );
        let codes = answered(200, &whole).unwrap();
        assert_eq!(codes.verification_uri_complete.as_deref(), Some("https://x/y?c"));
        assert_eq!(codes.interval, Duration::from_secs(7));
        assert_eq!(NOW.until(codes.expires_at), Duration::from_secs(600));
    }

    #[test]
    fn what_is_missing_or_would_move_the_cursor_is_refused() {
        for (content, fault) in [
            ("<html>", "what the device authorization endpoint sent is no JSON object"),
            (r#"{"user_code":"u","verification_uri":"v"}"#, "it has no device_code"),
            (r#"{"device_code":"d","verification_uri":"v"}"#, "it has no user_code"),
            (
                r#"{"device_code":"d","user_code":"a\u001b[2J","verification_uri":"v"}"#,
                "it has no user_code",
            ),
            (r#"{"device_code":"d","user_code":"u"}"#, "it has no verification_uri"),
        ] {
            let error = answered(200, content).unwrap_err();
            assert!(
                matches!(error, TokenError::Malformed { fault: said } if said == fault),
                "{error}"
            );
        }
        let error = answered(404, "").unwrap_err();
        assert!(matches!(error, TokenError::Unexpected { status, .. } if status == 404), "{error}");
    }

    #[test]
    fn a_budget_of_five_a_minute_is_asked_four_times_a_minute_at_most() {
        for (wanted, per_minute, interval) in
            [(5, 5, 15), (30, 5, 30), (5, 1, 60), (5, 2, 60), (5, 1000, 5)]
        {
            let expected = Duration::from_secs(interval);
            assert_eq!(pace(wanted, per_minute).interval(), expected, "{wanted} {per_minute}");
        }
    }

    #[test]
    fn slow_down_and_silence_make_it_slower_and_a_refusal_ends_it() {
        let mut pace = pace(5, 1000);
        assert!(pace.goes_on_after(&TokenError::Pending { slow_down: false }));
        assert_eq!(pace.interval(), Duration::from_secs(5));
        assert!(pace.goes_on_after(&TokenError::Pending { slow_down: true }));
        assert_eq!(pace.interval(), Duration::from_secs(10));
        let lost = io::Error::from(io::ErrorKind::TimedOut);
        assert!(pace.goes_on_after(&TokenError::NoAnswer(lost)));
        assert_eq!(pace.interval(), Duration::from_secs(20));
        let denied = TokenError::GrantRefused { code: "access_denied".into() };
        assert!(!pace.goes_on_after(&denied));
    }
}
