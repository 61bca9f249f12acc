//! Whatever the token endpoint answers: what is taken for a token set can be sent and has an end, and an
//! error repeats no more than codes.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use ringbearer::clock::Timestamp;
use ringbearer::oauth::response::{Answer, read};

const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
const STATUSES: [u16; 10] = [200, 200, 200, 200, 400, 401, 403, 429, 500, 503];

pub(crate) fn run(input: &[u8]) {
    let Some((choice, content)) = input.split_first() else { return };
    let status = STATUSES[usize::from(*choice) % STATUSES.len()];
    let mut fields = HeaderMap::new();
    // A line of its own before the content.
    let wait = content.iter().position(|byte| *byte == b'\n').map(|end| &content[..end]);
    if let Some(Ok(value)) = wait.map(HeaderValue::from_bytes) {
        fields.insert(header::RETRY_AFTER, value);
    }
    let status = StatusCode::from_u16(status).expect("it is one");
    match read(&Answer { status, fields: &fields, content }, NOW) {
        Ok(set) => {
            assert_eq!(status, StatusCode::OK);
            let life = NOW.until(set.expires_at);
            assert!(!life.is_zero() && life <= Duration::from_secs(24 * 3600), "{life:?}");
            assert!(is_token(set.access_token.expose()));
            assert!(set.refresh.is_none_or(|refresh| is_token(refresh.token.expose())));
        }
        Err(error) => {
            let told = error.to_string();
            assert!(told.len() < 400 && !told.contains(char::is_control), "{told:?}");
        }
    }
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic())
}
