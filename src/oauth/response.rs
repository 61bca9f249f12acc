//! What the token endpoint answers (RFC 6749 §5.1, §5.2), checked in full before anything is
//! replaced by it. Pure: status, fields and content in, a token set or a [`TokenError`] out.
//!
//! RingCentral bends both shapes (a lifetime may be a string, errors come as `errors[]`), and what
//! stands in between may answer with HTML; hence nothing is taken on trust.

use std::fmt;
use std::time::{Duration, SystemTime};

use http::{HeaderMap, StatusCode, header};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use super::TokenError;
use crate::clock::Timestamp;
use crate::token::{AccessToken, Generation, Refresh, RefreshToken, TokenSet};

/// A longer answer is not read to its end.
pub const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// A longer token fits no field section.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

/// RingCentral's longest access token lives an hour. Whatever is promised, a token is looked after
/// once a day at least, and a deadline can never be absurd.
pub const MAX_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// A refresh token is planned for no longer than this; RingCentral's longest lives seven days.
const MAX_REFRESH_LIFETIME: Duration = Duration::from_secs(366 * 24 * 3600);

/// The silence that a 429 or 503 without `Retry-After` asks for, says RingCentral's guide.
const DEFAULT_PENALTY: Duration = Duration::from_secs(30);

/// A longer silence is a mistake of the server's.
const MAX_PENALTY: Duration = Duration::from_secs(3600);

/// An answer of the token endpoint, as it came.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub fields: &'a HeaderMap,
    /// Its content, of at most [`MAX_ANSWER_BYTES`].
    pub content: &'a [u8],
}

/// Reads an answer that arrived at `now`. The set's generation is [`Generation::NONE`]: only the
/// store's keeper can count.
pub fn read(answer: &Answer<'_>, now: Timestamp) -> Result<TokenSet, TokenError> {
    if answer.status != StatusCode::OK {
        return Err(refused(answer, now));
    }
    match serde_json::from_slice::<Members>(answer.content) {
        Err(_) => Err(malformed("it is not a JSON object")),
        Ok(Members { repeated: true, .. }) => Err(malformed("it names a member twice")),
        Ok(Members { map, .. }) => token_set(&map, now),
    }
}

/// What an answer with another status than 200 means.
pub fn refused(answer: &Answer<'_>, now: Timestamp) -> TokenError {
    let object = serde_json::from_slice::<Members>(answer.content).ok();
    refusal(answer.status, answer.fields, object.as_ref().map(|it| &it.map), now)
}

/// A JSON object, and whether a name in it occurs twice: which one counts, everybody sees
/// differently (RFC 8259 §4).
struct Members {
    map: Map<String, Value>,
    repeated: bool,
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members, A::Error> {
                let mut members = Members { map: Map::new(), repeated: false };
                while let Some((name, value)) = access.next_entry::<String, Value>()? {
                    members.repeated |= members.map.insert(name, value).is_some();
                }
                Ok(members)
            }
        }
        from.deserialize_map(Object)
    }
}

fn token_set(object: &Map<String, Value>, now: Timestamp) -> Result<TokenSet, TokenError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).filter(|s| !s.is_empty());
    let access_token = text("access_token").ok_or(malformed("it has no access_token"))?;
    if !is_token(access_token) {
        return Err(malformed("its access_token has bytes that no field may carry"));
    }
    if !text("token_type").is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")) {
        return Err(malformed("its token_type is not bearer"));
    }
    let lifetime = object.get("expires_in").and_then(seconds).filter(|life| !life.is_zero());
    let lifetime = lifetime.ok_or(malformed("its expires_in is not a positive number"))?;
    Ok(TokenSet {
        generation: Generation::NONE,
        access_token: AccessToken::new(access_token),
        issued_at: now,
        expires_at: now + lifetime.min(MAX_LIFETIME),
        refresh: refresh(object, now)?,
        previous_refresh: None,
        scope: text("scope").map(Into::into),
        owner_id: text("owner_id").map(Into::into),
        endpoint_id: text("endpoint_id").filter(|id| is_token(id)).map(Into::into),
    })
}

/// Without the member there is none. One that is there but is no token is not taken for absent: the
/// identity would be left with a refresh token that is used up.
fn refresh(object: &Map<String, Value>, now: Timestamp) -> Result<Option<Refresh>, TokenError> {
    let token = match object.get("refresh_token") {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(token)) if !token.is_empty() => token,
        Some(_) => return Err(malformed("its refresh_token is not a token")),
    };
    if !is_token(token) {
        return Err(malformed("its refresh_token has bytes that no form may carry"));
    }
    let lifetime = object.get("refresh_token_expires_in").and_then(seconds);
    let expires_at = lifetime.map(|life| now + life.min(MAX_REFRESH_LIFETIME));
    Ok(Some(Refresh { token: RefreshToken::new(token), expires_at }))
}

/// Visible ASCII: RFC 6749 appendix A.12 without the space, a superset of RFC 6750's `b64token`.
fn is_token(text: &str) -> bool {
    text.len() <= MAX_TOKEN_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic())
}

/// A number of seconds, which some servers send as a string.
pub(super) fn seconds(value: &Value) -> Option<Duration> {
    let secs = match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    };
    secs.map(Duration::from_secs)
}

const fn malformed(fault: &'static str) -> TokenError {
    TokenError::Malformed { fault }
}

/// RingCentral's table of errors. A status counts only with a JSON object, 401 excepted: a 400 or
/// 403 page of HTML is some intermediary's, and nothing to give a credential up for.
fn refusal(
    status: StatusCode,
    fields: &HeaderMap,
    object: Option<&Map<String, Value>>,
    now: Timestamp,
) -> TokenError {
    let code = object.map_or_else(|| "no code".to_owned(), codes);
    match (status.as_u16(), object) {
        (429 | 503, _) => TokenError::Penalty { status, retry_after: retry_after(fields, now) },
        (408 | 500, _) => TokenError::ServerFault { status },
        (401, _) => TokenError::ClientRefused { code },
        (400, Some(object)) => match object.get("error").and_then(Value::as_str) {
            Some("authorization_pending") => TokenError::Pending { slow_down: false },
            Some("slow_down") => TokenError::Pending { slow_down: true },
            Some("invalid_client") => TokenError::ClientRefused { code },
            Some("unauthorized_client" | "unsupported_grant_type") => {
                TokenError::GrantNotAllowed { code }
            }
            _ => TokenError::GrantRefused { code },
        },
        (403, Some(_)) => TokenError::GrantNotAllowed { code },
        _ => TokenError::Unexpected { status, code },
    }
}

/// The answer's codes, reduced to characters that carry no secret by accident.
fn codes(object: &Map<String, Value>) -> String {
    let nested = object.get("errors").and_then(Value::as_array).into_iter().flatten();
    let nested = nested.filter_map(|error| error.get("errorCode"));
    let all = ["error", "errorCode"].into_iter().filter_map(|name| object.get(name)).chain(nested);
    let mut codes: Vec<&str> = all.filter_map(Value::as_str).filter(|code| is_code(code)).collect();
    codes.dedup();
    codes.truncate(4);
    if codes.is_empty() { "no code".to_owned() } else { codes.join(", ") }
}

fn is_code(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=32).contains(&text.len()) && text.bytes().all(plain)
}

/// The silence that a 429 or 503 asks for: `Retry-After` in either form (RFC 9110 §10.2.3), within
/// reason, or RingCentral's 30 s.
pub fn retry_after(fields: &HeaderMap, now: Timestamp) -> Duration {
    let value = fields.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let asked = value.map(str::trim).and_then(|text| delta(text).or_else(|| date(text, now)));
    asked.unwrap_or(DEFAULT_PENALTY).min(MAX_PENALTY)
}

fn delta(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_secs)
}

fn date(text: &str, now: Timestamp) -> Option<Duration> {
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(SystemTime::from(now)).unwrap_or(Duration::ZERO))
}

#[cfg(test)]
mod tests;
