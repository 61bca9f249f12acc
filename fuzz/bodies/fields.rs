//! Whatever fields come, in either direction: the token is the only credential that goes on, what ends
//! at an intermediary ends here, and what the client says of its identity or peers goes no further.

use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, HOST, TE, TRAILER, VIA};
use http::{HeaderMap, HeaderName, HeaderValue};
use ringbearer::proxy::headers::{Found, Injected, to_client, to_upstream};

pub(crate) fn run(input: &[u8]) {
    let fields = fields(input);
    let (bearer, host, via) = (
        HeaderValue::from_static("Bearer good"),
        HeaderValue::from_static("platform.test"),
        HeaderValue::from_static("1.1 us"),
    );
    let mut sent = fields.clone();
    let found = Found::in_request(&fields);
    to_upstream(
        &mut sent,
        &found,
        Injected { bearer: Some(&bearer), host: Some(&host), via: &via },
    );
    assert!(sent.get_all(AUTHORIZATION).iter().eq([&bearer]), "{sent:?}");
    assert!(sent.get_all(HOST).iter().eq([&host]), "{sent:?}");
    assert!(sent.get_all(VIA).iter().any(|value| value == via), "{sent:?}");
    for name in sent.keys() {
        let folded = name.as_str().replace('_', "-");
        assert!(!ends_here(&folded) && !is_reserved(&folded), "{name} goes on");
        assert!(folded != "host" && folded != "authorization" || name.as_str() == folded, "{name}");
    }
    assert_nominated_are_gone(&fields, &sent, &[AUTHORIZATION, HOST, VIA, CONTENT_LENGTH]);
    let mut answer = fields.clone();
    to_client(&mut answer);
    for name in answer.keys() {
        assert!(!ends_here(name.as_str()) && *name != "alt-svc", "{name} goes on");
        assert!(!name.as_str().starts_with("x-ringbearer-"), "{name} goes on");
    }
    assert_nominated_are_gone(&fields, &answer, &[HOST, CONTENT_LENGTH]);
}

/// Lines of a head, without those that are none.
fn fields(input: &[u8]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    for line in input.split(|byte| *byte == b'\n').take(100) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            fields.append(name, value);
        }
    }
    fields
}

fn ends_here(name: &str) -> bool {
    let hop_by_hop = ["keep-alive", "upgrade", "http2-settings", "transfer-encoding"];
    hop_by_hop.contains(&name) || name.starts_with("proxy-") && name != "proxy-status"
}

fn is_reserved(name: &str) -> bool {
    ["forwarded", "x-real-ip", "expect", "origin"].contains(&name)
        || name.starts_with("x-forwarded-")
        || name.starts_with("x-ringbearer-")
}

/// `Connection` itself goes on only where it says anew that trailers are taken.
fn assert_nominated_are_gone(before: &HeaderMap, after: &HeaderMap, set_anew: &[HeaderName]) {
    let trailers = [TE, TRAILER, CONNECTION];
    for line in before.get_all(CONNECTION) {
        for name in line.as_bytes().split(|byte| *byte == b',') {
            let Ok(name) = HeaderName::from_bytes(name.trim_ascii()) else { continue };
            let stays = set_anew.contains(&name) || trailers.contains(&name);
            assert!(stays || !after.contains_key(&name), "{name} was nominated");
        }
    }
    for line in after.get_all(CONNECTION) {
        assert!(line == "te" && after[TE] == "trailers", "{after:?}");
    }
}
