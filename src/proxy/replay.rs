//! What a 401 from RingCentral means: pass it on, or send the request once more with a newer token.
//! PURE.
//!
//! RFC 9110 §9.2.2 forbids an intermediary to repeat a request that is not idempotent on its own. A
//! 401 is the one answer after which it is sound: it says that the request was *refused*, before
//! anything was done. So a replay follows a complete 401 head, never a timeout, a broken connection
//! or a 5xx; and it follows once.

use serde::Deserialize;

/// Whether the request's content can be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// It was kept, or there was none.
    Kept,
    /// It is longer than the limit for one request.
    TooLong,
    /// All kept content together reached its limit.
    MemoryFull,
    /// The client itself broke off.
    Broken,
    /// It is longer than any request may be, and was broken off here.
    OverLimit,
}

/// What to do with a 401.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Get a newer token and send the request again.
    Replay,
    /// The token is to blame, but the request cannot be sent again: get a newer token for the
    /// next one meanwhile, and pass the 401 on.
    RenewAndRelay(Reason),
    /// Pass the 401 on.
    Relay(Reason),
}

/// Why a 401 was passed on; the value of `X-Ringbearer-Replay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The content was too long to be kept.
    TooLong,
    /// There was no memory left to keep the content.
    MemoryFull,
    /// The client broke off its own request.
    Broken,
    /// A new token would not help.
    NotCurable,
    /// No newer token could be had.
    NoNewerToken,
    /// A dead connection had made a second send necessary already.
    AlreadyResent,
}

impl Reason {
    /// As it stands in the field.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TooLong => "no; request content is longer than max_replay_bytes",
            Self::MemoryFull => "no; replay_memory is used up",
            Self::Broken => "no; request content ended early",
            Self::NotCurable => "no; a new token cures no such error",
            Self::NoNewerToken => "no; no newer token to be had",
            Self::AlreadyResent => "no; the request has been sent twice already",
        }
    }
}

/// Decides about the first 401 of a request.
pub fn verdict(refusal: &Refusal, content: Content) -> Verdict {
    if !refusal.is_curable() {
        return Verdict::Relay(Reason::NotCurable);
    }
    match content {
        Content::Kept => Verdict::Replay,
        Content::TooLong => Verdict::RenewAndRelay(Reason::TooLong),
        Content::MemoryFull => Verdict::RenewAndRelay(Reason::MemoryFull),
        Content::Broken | Content::OverLimit => Verdict::RenewAndRelay(Reason::Broken),
    }
}

/// What RingCentral said in a 401.
#[derive(Debug, Default)]
pub struct Refusal {
    codes: Vec<String>,
}

/// The codes of a 401 that no new token cures: the account's or extension's state, or a way of
/// authorising that the operation does not take (RingCentral's error reference).
const NOT_CURABLE: [&str; 4] = ["OAU-136", "OAU-141", "OAU-142", "OAU-151"];

impl Refusal {
    /// Reads as much of the content as there is. What cannot be read is not held against the
    /// request: an unknown 401 counts as token trouble. `WWW-Authenticate` is not asked, because
    /// RingCentral says `invalid_token` there whatever the code.
    pub fn read(content: &[u8]) -> Self {
        let body: ErrorBody = serde_json::from_slice(content).unwrap_or_default();
        let codes = body.errors.into_iter().chain([body.first]).filter_map(|e| e.error_code);
        Self { codes: codes.collect() }
    }

    /// The code to log, if there was one. Whatever else stands in its place may repeat what was sent.
    pub fn code(&self) -> Option<&str> {
        self.codes.iter().map(String::as_str).find(|code| is_code(code))
    }

    fn is_curable(&self) -> bool {
        !self.codes.iter().any(|code| NOT_CURABLE.contains(&code.as_str()))
    }
}

/// Whether a text is as RingCentral's codes are, and too short and plain for a secret.
fn is_code(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=32).contains(&text.len()) && text.bytes().all(plain)
}

#[derive(Default, Deserialize)]
struct ErrorBody {
    #[serde(flatten)]
    first: ErrorCode,
    #[serde(default)]
    errors: Vec<ErrorCode>,
}

#[derive(Default, Deserialize)]
struct ErrorCode {
    #[serde(rename = "errorCode")]
    error_code: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(content: &str) -> Refusal {
        Refusal::read(content.as_bytes())
    }

    #[test]
    fn what_is_no_code_is_not_told() {
        let told = |content: &str| refusal(content).code().map(str::to_owned);
        assert_eq!(told(r#"{"errorCode":"OAU-213"}"#), Some("OAU-213".to_owned()));
        let long = "a".repeat(33);
        for secret in ["eyJ.a.b", "", "two words", &long] {
            let content = serde_json::json!({"errors": [{"errorCode": secret}]}).to_string();
            assert_eq!(told(&content), None, "{secret}");
        }
    }

    #[test]
    fn token_trouble_is_replayed() {
        for code in ["TokenInvalid", "TokenExpired", "OAU-128", "OAU-129", "OAU-213", "CMN-405"] {
            let body = format!(r#"{{"errorCode":"{code}","message":"m","errors":[]}}"#);
            assert_eq!(verdict(&refusal(&body), Content::Kept), Verdict::Replay, "{code}");
        }
    }

    #[test]
    fn what_no_token_cures_is_passed_on_wherever_the_code_stands() {
        for code in NOT_CURABLE {
            let outer = format!(r#"{{"errorCode":"{code}","message":"m"}}"#);
            let inner = format!(r#"{{"message":"m","errors":[{{"errorCode":"{code}"}}]}}"#);
            for body in [outer, inner] {
                let expected = Verdict::Relay(Reason::NotCurable);
                assert_eq!(verdict(&refusal(&body), Content::Kept), expected, "{body}");
            }
        }
    }

    #[test]
    fn an_unreadable_401_counts_as_token_trouble() {
        for body in ["", "<html>Unauthorized</html>", "[]", r#"{"errorCode":7}"#, "\x1f\x08"] {
            assert_eq!(verdict(&refusal(body), Content::Kept), Verdict::Replay, "{body:?}");
        }
    }

    #[test]
    fn content_that_is_gone_renews_but_is_not_replayed() {
        let refused = refusal(r#"{"errorCode":"TokenExpired"}"#);
        for (content, reason) in [
            (Content::TooLong, Reason::TooLong),
            (Content::MemoryFull, Reason::MemoryFull),
            (Content::Broken, Reason::Broken),
        ] {
            assert_eq!(verdict(&refused, content), Verdict::RenewAndRelay(reason));
        }
    }

    #[test]
    fn the_first_code_is_the_one_to_log() {
        let body = r#"{"errorCode":"TokenInvalid","errors":[{"errorCode":"OAU-129"}]}"#;
        assert_eq!(refusal(body).code(), Some("OAU-129"));
        assert_eq!(refusal("").code(), None);
    }
}
