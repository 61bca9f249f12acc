//! What an answer's fields say of rate limits. PURE.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::window::Quota;
use crate::clock::Timestamp;
use crate::oauth::response::retry_after;

/// Names the group.
pub const GROUP: HeaderName = HeaderName::from_static("x-rate-limit-group");
/// Requests per window.
pub const LIMIT: HeaderName = HeaderName::from_static("x-rate-limit-limit");
/// Requests that are left in it.
pub const REMAINING: HeaderName = HeaderName::from_static("x-rate-limit-remaining");
/// Its length in seconds.
pub const WINDOW: HeaderName = HeaderName::from_static("x-rate-limit-window");

/// RingCentral's window, where an answer does not say.
const USUAL_WINDOW: u32 = 60;

/// A longer window is a mistake.
const LONGEST_WINDOW: u32 = 3600;

/// Silence of no time at all is none.
const LEAST_SILENCE: Duration = Duration::from_secs(1);

/// The fields of one answer.
#[derive(Clone, Copy, Debug)]
pub struct Said<'a> {
    /// The group that it names.
    pub group: Option<&'a [u8]>,
    fields: &'a HeaderMap,
}

impl<'a> Said<'a> {
    /// Looks for the group; the rest is read on demand.
    pub fn read(fields: &'a HeaderMap) -> Self {
        Self { group: fields.get(GROUP).map(http::HeaderValue::as_bytes), fields }
    }

    /// How many requests are left.
    pub fn remaining(&self) -> Option<u32> {
        self.number(&REMAINING)
    }

    /// The limit, if it is told whole.
    pub fn quota(&self) -> Option<Quota> {
        let (limit, remaining) = (self.number(&LIMIT)?, self.remaining()?);
        let window = self.number(&WINDOW).unwrap_or(USUAL_WINDOW).clamp(1, LONGEST_WINDOW);
        Some(Quota { limit, remaining, window: Duration::from_secs(window.into()) })
    }

    fn number(&self, name: &HeaderName) -> Option<u32> {
        self.fields.get(name)?.to_str().ok()?.trim().parse().ok()
    }
}

/// For how long a 429 asks for silence.
pub fn silence(fields: &HeaderMap, now: Timestamp) -> Duration {
    retry_after(fields, now).max(LEAST_SILENCE)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::RETRY_AFTER;

    use super::*;

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    fn fields(lines: &[(HeaderName, &str)]) -> HeaderMap {
        let value = |value| HeaderValue::from_str(value).unwrap();
        lines.iter().map(|(name, text)| (name.clone(), value(text))).collect()
    }

    #[test]
    fn a_limit_is_read_from_the_four_fields() {
        let whole = [(GROUP, "heavy"), (LIMIT, "10"), (REMAINING, "7"), (WINDOW, "120")];
        let all = fields(&whole);
        let said = Said::read(&all);
        assert_eq!(said.group, Some(&b"heavy"[..]));
        let window = Duration::from_secs(120);
        assert_eq!(said.quota(), Some(Quota { limit: 10, remaining: 7, window }));
        let short = fields(&whole[..3]);
        let window = Duration::from_secs(60);
        assert_eq!(Said::read(&short).quota(), Some(Quota { limit: 10, remaining: 7, window }));
        for nonsense in ["", "many", "-1", "4294967296"] {
            let fields = fields(&[(LIMIT, "10"), (REMAINING, nonsense)]);
            assert_eq!(Said::read(&fields).quota(), None, "{nonsense:?}");
        }
    }

    #[test]
    fn silence_is_what_retry_after_says_in_either_form_and_else_thirty_seconds() {
        let after = |value: &str| silence(&fields(&[(RETRY_AFTER, value)]), NOW).as_secs();
        assert_eq!(silence(&HeaderMap::new(), NOW).as_secs(), 30);
        assert_eq!((after("60"), after("0"), after("soon"), after("999999")), (60, 1, 30, 3600));
        let date = httpdate::fmt_http_date((NOW + Duration::from_secs(42)).into());
        assert_eq!(after(&date), 42);
    }
}
