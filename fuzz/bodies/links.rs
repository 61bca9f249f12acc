//! Links are led back alike however the content is cut; JSON stays JSON and changes in links only;
//! text in which no link can begin stays as it is.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use ringbearer::proxy::links::LinkMap;
use ringbearer::proxy::links::fields::Treatment;
use ringbearer::proxy::links::json::JsonRewriter;
use ringbearer::proxy::links::multipart::MultipartRewriter;
use serde_json::Value;

static LINKS: LazyLock<Arc<LinkMap>> = LazyLock::new(|| {
    let links = LinkMap::new([
        ("https://a.test", "http://127.0.0.1:8080"),
        ("wss://b.test", "ws://127.0.0.1:8080/b"),
    ]);
    Arc::new(links.expect("origins"))
});

pub(crate) fn run(input: &[u8]) {
    let Some((size, text)) = input.split_first() else { return };
    let size = usize::from(*size) + 1;
    let whole = json(text, text.len() + 1);
    assert_eq!(json(text, size), whole);
    if !text.windows(2).any(|pair| matches!(pair, b"\"h" | b"\"w")) {
        assert_eq!(whole, text);
    }
    if let Ok(before) = serde_json::from_slice(text) {
        compare(&before, &serde_json::from_slice(&whole).expect("JSON stays JSON"));
    }
    assert_eq!(multipart(text, size), multipart(text, text.len() + 1));
}

fn json(text: &[u8], size: usize) -> Vec<u8> {
    let mut rewriter = JsonRewriter::new(Arc::clone(&LINKS));
    let mut out = Vec::new();
    for piece in text.chunks(size) {
        out.extend_from_slice(&rewriter.feed(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&rewriter.finish());
    out
}

fn multipart(text: &[u8], size: usize) -> Vec<u8> {
    let content_type = HeaderValue::from_static("multipart/mixed; boundary=b");
    let fields = HeaderMap::from_iter([(CONTENT_TYPE, content_type)]);
    let Treatment::Multipart(boundary) = Treatment::of(StatusCode::MULTI_STATUS, &fields) else {
        unreachable!("it has a boundary")
    };
    let mut rewriter = MultipartRewriter::new(Arc::clone(&LINKS), boundary);
    let mut out = Vec::new();
    for piece in text.chunks(size) {
        out.extend_from_slice(&rewriter.feed(Bytes::copy_from_slice(piece)));
    }
    out.extend_from_slice(&rewriter.finish());
    out
}

/// Names and all values but links are the same; no link is left.
fn compare(before: &Value, after: &Value) {
    match (before, after) {
        (Value::Array(before), Value::Array(after)) => {
            assert_eq!(before.len(), after.len());
            before.iter().zip(after).for_each(|(before, after)| compare(before, after));
        }
        (Value::Object(before), Value::Object(after)) => {
            assert!(before.keys().eq(after.keys()));
            before.values().zip(after.values()).for_each(|(before, after)| compare(before, after));
        }
        (Value::String(before), Value::String(after)) => {
            let led_back = LINKS.rewrite(before.as_bytes());
            let is_lower = before.starts_with("http") || before.starts_with("ws");
            // Schemes are found in lower case, written plainly, and long strings only behind a colon.
            if led_back.is_none() || !is_lower {
                assert_eq!(before, after);
            } else if before != after {
                assert_eq!(led_back.as_deref(), Some(after.as_bytes()));
            }
        }
        _ => assert_eq!(before, after),
    }
}
