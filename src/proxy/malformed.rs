//! What is wrong with a request that HTTP/1.1 as RFC 9112 has it does not know. PURE.
//!
//! Two readers who differ about where such a request ends can be made to see different requests
//! (smuggling). So none of these is mended: each is answered with an error of its own, and ends the
//! connection.

use std::sync::atomic::{AtomicU64, Ordering};

use http::StatusCode;

/// Why a request is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A bare LF, or a bare CR.
    #[error("a line of the request head does not end in CRLF (RFC 9112 section 2.2)")]
    LineEnd,
    /// Anything but method, target and version.
    #[error(
        "the request line is not a method, a target and a version with one space between each \
         (RFC 9112 section 3)"
    )]
    RequestLine,
    /// A version that is written well, and not spoken here.
    #[error("HTTP/1.1 and HTTP/1.0 are spoken here; HTTP/2 where it was agreed on")]
    Version,
    /// A folded line, a blank before the colon, a control character.
    #[error(
        "a field line is not a name, a colon and a value: no folding, no blank before the colon, no \
         control characters (RFC 9112 section 5)"
    )]
    Field,
    /// None or several.
    #[error("an HTTP/1.1 request has exactly one Host field (RFC 9112 section 3.2)")]
    Hosts,
    /// Userinfo, a path, a list.
    #[error("Host is not a host, with or without a port (RFC 9112 section 3.2)")]
    HostValue,
    /// A sign, a list, a leading zero, a second one, more than fits.
    #[error("Content-Length is not said once, as a plain decimal number (RFC 9112 section 6.2)")]
    ContentLength,
    /// Both ways of framing.
    #[error("a request has Content-Length or Transfer-Encoding, not both (RFC 9112 section 6.1)")]
    TwoLengths,
    /// A transfer coding where there is none.
    #[error("HTTP/1.0 has no Transfer-Encoding (RFC 9112 section 6.1)")]
    OldCoding,
    /// Anything but `chunked`, once.
    #[error("no transfer coding but chunked passes this proxy")]
    Coding,
    /// A chunk whose size, extension, end or trailer is none.
    #[error(
        "the chunked content is not chunks with their sizes in hexadecimal (RFC 9112 section 7.1)"
    )]
    Chunk,
    /// A request line beyond the bound.
    #[error("the request line is longer than 32 KiB")]
    LongTarget,
    /// A head beyond the bounds.
    #[error("the request head is larger than 64 KiB or has more than 100 fields")]
    LargeHead,
    /// A head that did not come to its end in time.
    #[error("the request head did not come in time: see proxy.request_head_timeout")]
    Slow,
}

impl Malformed {
    /// Each of them.
    pub const ALL: [Self; 14] = [
        Self::LineEnd,
        Self::RequestLine,
        Self::Version,
        Self::Field,
        Self::Hosts,
        Self::HostValue,
        Self::ContentLength,
        Self::TwoLengths,
        Self::OldCoding,
        Self::Coding,
        Self::Chunk,
        Self::LongTarget,
        Self::LargeHead,
        Self::Slow,
    ];

    /// Status and code.
    pub const fn status_and_code(self) -> (StatusCode, &'static str) {
        match self {
            Self::Hosts => (StatusCode::BAD_REQUEST, "RBR-101"),
            Self::Coding => (StatusCode::BAD_REQUEST, "RBR-108"),
            Self::HostValue => (StatusCode::BAD_REQUEST, "RBR-130"),
            Self::LineEnd => (StatusCode::BAD_REQUEST, "RBR-131"),
            Self::RequestLine => (StatusCode::BAD_REQUEST, "RBR-132"),
            Self::Field => (StatusCode::BAD_REQUEST, "RBR-133"),
            Self::ContentLength | Self::TwoLengths | Self::OldCoding => {
                (StatusCode::BAD_REQUEST, "RBR-134")
            }
            Self::Chunk => (StatusCode::BAD_REQUEST, "RBR-135"),
            Self::Version => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "RBR-136"),
            Self::LongTarget => (StatusCode::URI_TOO_LONG, "RBR-137"),
            Self::LargeHead => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "RBR-138"),
            Self::Slow => (StatusCode::REQUEST_TIMEOUT, "RBR-139"),
        }
    }

    /// As a label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::LineEnd => "line_end",
            Self::RequestLine => "request_line",
            Self::Version => "version",
            Self::Field => "field",
            Self::Hosts => "hosts",
            Self::HostValue => "host_value",
            Self::ContentLength => "content_length",
            Self::TwoLengths => "two_lengths",
            Self::OldCoding => "old_coding",
            Self::Coding => "coding",
            Self::Chunk => "chunk",
            Self::LongTarget => "long_target",
            Self::LargeHead => "large_head",
            Self::Slow => "slow",
        }
    }
}

/// How many there were since the start, of each.
#[derive(Debug, Default)]
pub struct MalformedCounts([AtomicU64; Malformed::ALL.len()]);

impl MalformedCounts {
    /// One more.
    pub fn count(&self, malformed: Malformed) {
        self.0[malformed as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self, malformed: Malformed) -> u64 {
        self.0[malformed as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_is_counted_apart_and_labelled_apart() {
        let counts = MalformedCounts::default();
        for (times, malformed) in Malformed::ALL.into_iter().enumerate() {
            (0..times).for_each(|_| counts.count(malformed));
        }
        let counted: Vec<_> = Malformed::ALL.into_iter().map(|it| counts.get(it)).collect();
        assert_eq!(counted, (0..14).collect::<Vec<_>>());
        let labels: BTreeSet<_> = Malformed::ALL.map(Malformed::as_str).into();
        assert_eq!(labels.len(), 14);
    }

    #[test]
    fn no_code_has_two_statuses() {
        let all = Malformed::ALL.map(Malformed::status_and_code);
        let pairs: BTreeSet<_> = all.map(|(status, code)| (code, status.as_u16())).into();
        let codes: BTreeSet<_> = pairs.iter().map(|(code, _)| code).collect();
        assert_eq!((codes.len(), pairs.len()), (12, 12));
    }
}
