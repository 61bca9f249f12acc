//! Reading a request's content: hashed to the last byte, kept only as far as anyone will look.

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use sha2::{Digest, Sha256};

use super::reply::BodyError;

/// What is known of a content after its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Upload {
    /// Its first [`KEPT`] bytes.
    pub(super) head: Bytes,
    /// Its length.
    pub(super) bytes: u64,
    /// Its SHA-256 digest in hex.
    pub(super) sha256: String,
    /// Its trailer fields.
    pub(super) trailers: HeaderMap,
}

/// Counts and hashes a content that passes by.
#[derive(Debug, Default)]
pub(super) struct Meter {
    bytes: u64,
    digest: Sha256,
    trailers: HeaderMap,
}

impl Meter {
    pub(super) fn data(&mut self, data: &[u8]) {
        self.bytes += data.len() as u64;
        self.digest.update(data);
    }

    pub(super) fn trailers(&mut self, trailers: HeaderMap) {
        self.trailers = trailers;
    }

    pub(super) fn finish(self, head: Bytes) -> Upload {
        let sha256 = if self.bytes == 0 { EMPTY.to_owned() } else { hex(&self.digest.finalize()) };
        Upload { head, bytes: self.bytes, sha256, trailers: self.trailers }
    }
}

/// Reads a content to its end.
pub(super) async fn read(mut body: Incoming) -> Result<Upload, BodyError> {
    let (mut meter, mut head) = (Meter::default(), BytesMut::new());
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                meter.data(&data);
                let room = KEPT.saturating_sub(head.len()).min(data.len());
                head.extend_from_slice(&data[..room]);
            }
            Err(frame) => meter.trailers(frame.into_trailers().unwrap_or_default()),
        }
    }
    Ok(meter.finish(head.freeze()))
}

/// Bytes as lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// How much of a content is kept: more than any form or message, less than any recording.
const KEPT: usize = 1024 * 1024;
/// The digest of nothing.
pub(super) const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_of_nothing_is_the_real_one() {
        assert_eq!(hex(&Sha256::digest(b"")), EMPTY);
    }
}
