//! Recordings and attachments: deterministic bytes of any size, whole or in parts.
//!
//! Pure but for being polled: what to send is decided from the fields alone (RFC 9110 §13, §14),
//! and a file of ten gigabytes takes no more memory than one of ten bytes.

use std::convert::Infallible;
use std::ops::Range;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE, ETAG, IF_NONE_MATCH,
    IF_RANGE, RANGE,
};
use http::{HeaderMap, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use super::reply::{Content, Reply, empty, refusal, with};

/// What of a file is to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Selection {
    Whole,
    Part(Range<u64>),
    Unsatisfiable,
    NotModified,
}

/// Answers a request for the file that lives at `path`.
pub(super) fn answer(path: &str, size: u64, media_type: &str, fields: &HeaderMap) -> Reply {
    if size > LARGEST {
        let message = format!("Parameter [size] value is invalid: at most {LARGEST} bytes");
        return refusal(StatusCode::BAD_REQUEST, "CMN-101", &message);
    }
    let seed = seed(path);
    let etag = format!("\"{seed:016x}-{size}\"");
    let reply = match select(size, &etag, fields) {
        Selection::NotModified => empty(StatusCode::NOT_MODIFIED),
        Selection::Unsatisfiable => {
            let reply = refusal(StatusCode::RANGE_NOT_SATISFIABLE, "CMN-101", "Invalid range");
            with(reply, CONTENT_RANGE, &format!("bytes */{size}"))
        }
        Selection::Whole => file(StatusCode::OK, seed, 0..size, media_type),
        Selection::Part(part) => {
            let range = format!("bytes {}-{}/{size}", part.start, part.end - 1);
            let reply = file(StatusCode::PARTIAL_CONTENT, seed, part, media_type);
            with(reply, CONTENT_RANGE, &range)
        }
    };
    with(with(reply, ETAG, &etag), ACCEPT_RANGES, "bytes")
}

/// The byte at `index` of the file that lives at `path`, for whoever checks a download.
pub fn media_byte(path: &str, index: u64) -> u8 {
    PATTERN[offset(seed(path), index)]
}

fn file(status: StatusCode, seed: u64, part: Range<u64>, media_type: &str) -> Reply {
    let length = part.end - part.start;
    let pattern = Pattern { seed, part };
    let mut reply = Response::new(Content::stream(pattern.map_err(|never| match never {})));
    *reply.status_mut() = status;
    let reply = with(reply, http::header::CONTENT_TYPE, media_type);
    let reply = with(reply, CONTENT_DISPOSITION, "attachment;filename=sandbox.bin");
    with(reply, CONTENT_LENGTH, &length.to_string())
}

fn select(size: u64, etag: &str, fields: &HeaderMap) -> Selection {
    let text = |name| fields.get(name).and_then(|value| value.to_str().ok());
    let same = |list: &str| list.split(',').any(|tag| ["*", etag].contains(&weak(tag)));
    if text(IF_NONE_MATCH).is_some_and(same) {
        return Selection::NotModified;
    }
    match text(RANGE).filter(|_| text(IF_RANGE).is_none_or(|tag| tag == etag)) {
        Some(range) => part(range, size),
        None => Selection::Whole,
    }
}

fn weak(tag: &str) -> &str {
    let tag = tag.trim();
    tag.strip_prefix("W/").unwrap_or(tag)
}

/// One range. Several at once, or what cannot be understood, are ignored (RFC 9110 §14.2).
fn part(range: &str, size: u64) -> Selection {
    let Some((first, last)) = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'))
    else {
        return Selection::Whole;
    };
    let part = match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), Ok(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Ok(first), Err(_)) if last.trim().is_empty() => first..size,
        (Err(_), Ok(suffix)) if first.trim().is_empty() => size.saturating_sub(suffix)..size,
        _ => return Selection::Whole,
    };
    if part.start < part.end { Selection::Part(part) } else { Selection::Unsatisfiable }
}

/// A part of a file as a body. It is cut from one static block, so nothing is copied.
struct Pattern {
    seed: u64,
    part: Range<u64>,
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let left = self.part.end - self.part.start;
        if left == 0 {
            return Poll::Ready(None);
        }
        let from = offset(self.seed, self.part.start);
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK).min(PRIME - from);
        self.part.start += length as u64;
        Poll::Ready(Some(Ok(Frame::data(PATTERN.slice(from..from + length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.part.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.part.end - self.part.start)
    }
}

/// Where in the block the byte at `index` of a file stands.
fn offset(seed: u64, index: u64) -> usize {
    let at = (index % PRIME as u64 + seed % PRIME as u64) % PRIME as u64;
    usize::try_from(at).expect("less than PRIME")
}

/// FNV-1a: files differ by their path.
fn seed(path: &str) -> u64 {
    path.bytes().fold(0xCBF2_9CE4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    })
}

/// A prime length, so that no buffer size divides it and a misplaced chunk is noticed.
const PRIME: usize = 262_139;
const CHUNK: usize = 64 * 1024;
/// The largest file: 10 GiB.
const LARGEST: u64 = 10 * 1024 * 1024 * 1024;

static PATTERN: LazyLock<Bytes> = LazyLock::new(|| {
    let mut word = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(PRIME).collect::<Vec<u8>>().into()
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ranges_are_read_as_rfc_9110_says() {
        let cases = [
            ("bytes=0-0", Selection::Part(0..1)),
            ("bytes=5-", Selection::Part(5..10)),
            ("bytes=-3", Selection::Part(7..10)),
            ("bytes=-30", Selection::Part(0..10)),
            ("bytes=8-99", Selection::Part(8..10)),
            ("bytes=10-", Selection::Unsatisfiable),
            ("bytes=-0", Selection::Unsatisfiable),
            ("bytes=5-4", Selection::Whole),
            ("bytes=0-1,3-4", Selection::Whole),
            ("lines=0-1", Selection::Whole),
        ];
        for (range, expected) in cases {
            assert_eq!(part(range, 10), expected, "{range}");
        }
    }

    proptest! {
        #[test]
        fn a_part_holds_the_bytes_of_the_whole(start in 0u64..1_000_000, length in 0u64..600_000) {
            let mut body = Pattern { seed: seed("/a"), part: start..start + length };
            let mut bytes = Vec::new();
            let mut cx = Context::from_waker(std::task::Waker::noop());
            while let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut cx) {
                bytes.extend_from_slice(frame.data_ref().unwrap());
            }
            prop_assert_eq!(bytes.len() as u64, length);
            for (index, byte) in (start..).zip(&bytes).step_by(997) {
                prop_assert_eq!(*byte, media_byte("/a", index));
            }
        }
    }
}
