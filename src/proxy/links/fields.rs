//! The fields around content whose links are rewritten. PURE: field maps in, field maps out.
//!
//! What is compressed is not rewritten, so RingCentral is asked not to compress ([`to_upstream`]).
//! To decompress here would cost 0.9 µs per KiB of a long list and 6 µs per KiB of a short answer,
//! several times what rewriting does, and a library; what it would save lies between RingCentral and
//! the proxy only.
//! If RingCentral compresses all the same, content passes as it is and [`LINKS_FIELD`] says so.

use http::StatusCode;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_LOCATION,
    CONTENT_TYPE, ETAG, Entry, HeaderMap, HeaderName, HeaderValue, IF_MATCH, LINK, LOCATION,
};

use super::LinkMap;
use super::multipart::Boundary;

/// Says why links in an answer were left as they are.
pub const LINKS_FIELD: HeaderName = HeaderName::from_static("x-ringbearer-links");

/// Its value where the content is compressed.
const COMPRESSED: HeaderValue = HeaderValue::from_static("no; content is compressed");

/// Fields that hold for the very bytes they were made for (RFC 9530, RFC 1864).
const DIGESTS: [&str; 4] = ["content-digest", "repr-digest", "digest", "content-md5"];

/// What is done with an answer's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It has no links, or not for us: media, texts, parts of a whole.
    Pass,
    /// It may have links, but they cannot be read.
    PassCompressed,
    /// It is JSON.
    Json,
    /// It is parts between such boundaries, some of which may be JSON.
    Multipart(Boundary),
}

/// What one look at all names of an answer's fields has found: cheaper than to look each of them up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Present {
    links: bool,
    range: bool,
    coding: bool,
}

impl Present {
    pub(super) fn of(fields: &HeaderMap) -> Self {
        let mut present = Self::default();
        for name in fields.keys() {
            match name.as_str() {
                "location" | "content-location" | "link" => present.links = true,
                "content-range" => present.range = true,
                "content-encoding" => present.coding = true,
                _ => {}
            }
        }
        present
    }
}

impl Treatment {
    /// By status and fields.
    pub fn of(status: StatusCode, fields: &HeaderMap) -> Self {
        Self::knowing(Present::of(fields), status, fields)
    }

    /// The same where it is known which fields there are.
    pub(super) fn knowing(present: Present, status: StatusCode, fields: &HeaderMap) -> Self {
        // Of a partial answer nobody knows where in the text it begins; its length is promised.
        if status == StatusCode::PARTIAL_CONTENT || present.range {
            return Self::Pass;
        }
        let content_type = fields.get(CONTENT_TYPE).map_or(&[][..], HeaderValue::as_bytes);
        let treatment = if is_json(content_type) {
            Self::Json
        } else if let Some(boundary) = Boundary::of_mixed(content_type) {
            Self::Multipart(boundary)
        } else {
            return Self::Pass;
        };
        if !present.coding || fields.get_all(CONTENT_ENCODING).iter().all(is_identity) {
            treatment
        } else {
            Self::PassCompressed
        }
    }
}

/// Whether the content of an answer is rewritten.
pub fn wants_rewriting(status: StatusCode, fields: &HeaderMap) -> bool {
    matches!(Treatment::of(status, fields), Treatment::Json | Treatment::Multipart(_))
}

/// Takes back what the answer's fields say of bytes that may change.
pub fn adjust(fields: &mut HeaderMap) {
    fields.remove(CONTENT_LENGTH);
    fields.remove(ACCEPT_RANGES);
    drop_digests(fields);
    if let Some(weak) = fields.get(ETAG).and_then(weakened) {
        fields.insert(ETAG, weak);
    }
}

/// Says that links were left as they are because the content is compressed.
pub(super) fn note_compressed(fields: &mut HeaderMap) {
    fields.insert(LINKS_FIELD, COMPRESSED);
}

/// Takes digests out of fields or trailers.
pub(super) fn drop_digests(fields: &mut HeaderMap) {
    for name in DIGESTS {
        fields.remove(name);
    }
}

/// Makes a client's request one whose answer can be rewritten: asks for plain content, and gives the
/// tags in `If-Match` the strength that [`adjust`] took from them.
pub fn to_upstream(fields: &mut HeaderMap) {
    accept_encoding_for_upstream(fields);
    strengthen(fields);
}

/// Asks for content that is not compressed, unless the client refuses just that.
fn accept_encoding_for_upstream(fields: &mut HeaderMap) {
    let is_refused = fields.get_all(ACCEPT_ENCODING).iter().any(refuses_identity);
    if !is_refused {
        fields.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
}

/// A tag with `W/` never matches in `If-Match` (RFC 9110 §13.1.1). That it does not without, either,
/// if it was weak from the beginning, RingCentral knows.
fn strengthen(fields: &mut HeaderMap) {
    let Entry::Occupied(mut lines) = fields.entry(IF_MATCH) else { return };
    for line in lines.iter_mut() {
        let text = line.as_bytes();
        let mut strong = Vec::with_capacity(text.len());
        let mut is_quoted = false;
        for (at, byte) in text.iter().enumerate() {
            is_quoted ^= *byte == b'"';
            let rest = &text[at..];
            let is_mark =
                rest.starts_with(b"W/\"") || at > 0 && text[at - 1..].starts_with(b"W/\"");
            if is_quoted || !is_mark {
                strong.push(*byte);
            }
        }
        if strong.len() < text.len() {
            *line = HeaderValue::from_bytes(&strong).expect("bytes of a field value");
        }
    }
}

impl LinkMap {
    /// Leads the links in an answer's fields back: `Location`, `Content-Location`, `Link`.
    pub fn rewrite_fields(&self, fields: &mut HeaderMap) {
        self.rewrite_present(Present::of(fields), fields);
    }

    /// The same where it is known which fields there are.
    pub(super) fn rewrite_present(&self, present: Present, fields: &mut HeaderMap) {
        if !present.links {
            return;
        }
        for name in [LOCATION, CONTENT_LOCATION] {
            self.rewrite_lines(fields, name, Self::rewrite_location);
        }
        self.rewrite_lines(fields, LINK, Self::rewrite_link);
    }

    /// A `Location` that leads to the proxy; `None` if it stays as it is.
    pub fn rewrite_location(&self, location: &HeaderValue) -> Option<HeaderValue> {
        self.rewrite(location.as_bytes()).map(value)
    }

    /// A `Link` (RFC 8288) whose targets lead to the proxy; `None` if it stays as it is.
    pub fn rewrite_link(&self, link: &HeaderValue) -> Option<HeaderValue> {
        let text = link.as_bytes();
        let (mut out, mut taken, mut at) = (Vec::new(), 0, 0);
        while let Some(start) = start_of_target(text, at) {
            let end = start + memchr::memchr(b'>', &text[start..])?;
            if let Some(led_back) = self.rewrite(&text[start..end]) {
                out.extend_from_slice(&text[taken..start]);
                out.extend_from_slice(&led_back);
                taken = end;
            }
            at = end_of_parameters(text, end);
        }
        if taken == 0 {
            return None;
        }
        out.extend_from_slice(&text[taken..]);
        Some(value(out.into()))
    }

    fn rewrite_lines(
        &self,
        fields: &mut HeaderMap,
        name: HeaderName,
        rewrite: impl Fn(&Self, &HeaderValue) -> Option<HeaderValue>,
    ) {
        if let Entry::Occupied(mut lines) = fields.entry(name) {
            for line in lines.iter_mut() {
                if let Some(led_back) = rewrite(self, line) {
                    *line = led_back;
                }
            }
        }
    }
}

/// Where, past commas and white space, a `<` opens.
fn start_of_target(text: &[u8], at: usize) -> Option<usize> {
    let skipped = text[at..].iter().position(|byte| !b", \t".contains(byte))?;
    (text[at + skipped] == b'<').then_some(at + skipped + 1)
}

/// Where the comma is that ends a link's parameters, some of which may be quoted.
fn end_of_parameters(text: &[u8], from: usize) -> usize {
    let (mut is_quoted, mut is_escaped) = (false, false);
    for (at, byte) in text.iter().enumerate().skip(from) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b',' if !is_quoted => return at,
            _ => {}
        }
    }
    text.len()
}

fn value(text: bytes::Bytes) -> HeaderValue {
    HeaderValue::from_maybe_shared(text).expect("bytes of a field value and of a URL")
}

/// Whether it is `application/json` or any type with the suffix `+json` (RFC 6839).
pub(super) fn is_json(content_type: &[u8]) -> bool {
    let essence = content_type.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let suffix = essence.len().checked_sub(b"+json".len()).map(|at| &essence[at..]);
    essence.eq_ignore_ascii_case(b"application/json")
        || suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json"))
}

fn is_identity(coding: &HeaderValue) -> bool {
    let coding = coding.as_bytes().trim_ascii();
    coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")
}

/// A strong tag as a weak one.
fn weakened(tag: &HeaderValue) -> Option<HeaderValue> {
    let tag = tag.as_bytes();
    let is_strong = tag.starts_with(b"\"");
    is_strong
        .then(|| HeaderValue::from_bytes(&[b"W/", tag].concat()).expect("bytes of a field value"))
}

/// Whether `identity;q=0`, or `*;q=0` without a word on identity, stands there (RFC 9110 §12.5.3).
fn refuses_identity(line: &HeaderValue) -> bool {
    if memchr::memmem::find(line.as_bytes(), b"=0").is_none() {
        return false;
    }
    let line = String::from_utf8_lossy(line.as_bytes()).to_ascii_lowercase();
    let weight_is_zero = |name: &str| {
        line.split(',').filter_map(|member| member.split_once(';')).find_map(|(coding, weight)| {
            let zero = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse().ok());
            (coding.trim() == name).then_some(zero == Some(0.0_f32))
        })
    };
    let names_identity =
        line.split(',').any(|member| member.split(';').next().unwrap_or("").trim() == "identity");
    weight_is_zero("identity") == Some(true) || !names_identity && weight_is_zero("*") == Some(true)
}

#[cfg(test)]
mod tests {
    use super::super::tests::links;
    use super::*;

    fn fields(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut fields = HeaderMap::new();
        for (name, value) in lines {
            fields.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
        }
        fields
    }

    fn wants(status: u16, lines: &[(&'static str, &str)]) -> bool {
        wants_rewriting(StatusCode::from_u16(status).unwrap(), &fields(lines))
    }

    #[test]
    fn json_and_bulk_answers_are_rewritten_and_nothing_else() {
        for (content_type, is_wanted) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/problem+json", true),
            ("application/vnd.ringcentral.multipart+json", true),
            ("multipart/mixed; boundary=a", true),
            ("multipart/mixed", false),
            ("multipart/form-data; boundary=a", false),
            ("application/jsonp", false),
            ("application/json-seq", false),
            ("text/html", false),
            ("audio/mpeg", false),
            ("application/octet-stream", false),
        ] {
            assert_eq!(wants(200, &[("content-type", content_type)]), is_wanted, "{content_type}");
        }
        assert!(!wants(200, &[]));
    }

    #[test]
    fn parts_of_a_whole_and_compressed_content_are_not_rewritten() {
        let json = ("content-type", "application/json");
        assert!(wants(404, &[json]));
        assert!(!wants(206, &[json]));
        assert!(!wants(200, &[json, ("content-range", "bytes 0-1/2")]));
        assert!(wants(200, &[json, ("content-encoding", "identity")]));
        assert!(!wants(200, &[json, ("content-encoding", "identity"), ("content-encoding", "br")]));
        let compressed = fields(&[json, ("content-encoding", "gzip")]);
        assert_eq!(Treatment::of(StatusCode::OK, &compressed), Treatment::PassCompressed);
        let media = fields(&[("content-type", "audio/mpeg"), ("content-encoding", "gzip")]);
        assert_eq!(Treatment::of(StatusCode::OK, &media), Treatment::Pass);
    }

    #[test]
    fn fields_that_hold_for_the_old_bytes_go() {
        let mut before = fields(&[
            ("content-type", "application/json"),
            ("content-length", "10"),
            ("etag", "\"a\""),
            ("digest", "sha-256=a"),
            ("content-digest", "sha-256=:a:"),
            ("repr-digest", "sha-256=:a:"),
            ("content-md5", "a"),
            ("accept-ranges", "bytes"),
            ("rcrequestid", "1"),
        ]);
        adjust(&mut before);
        let after =
            [("content-type", "application/json"), ("etag", "W/\"a\""), ("rcrequestid", "1")];
        assert_eq!(before, fields(&after));
        adjust(&mut before);
        assert_eq!(before, fields(&after), "a weak tag stays");
    }

    #[test]
    fn plain_content_is_asked_for() {
        for (asked, sent) in [
            (&["gzip, deflate, br"][..], &["identity"][..]),
            (&["gzip", "br"], &["identity"]),
            (&[], &["identity"]),
            (&["gzip;q=0"], &["identity"]),
            (&["*;q=0, identity;q=0.1"], &["identity"]),
            (&["identity, *;q=0"], &["identity"]),
            (&["gzip, identity;q=0"], &["gzip, identity;q=0"]),
            (&["gzip, Identity ; Q=0.000"], &["gzip, Identity ; Q=0.000"]),
            (&["gzip, *;q=0"], &["gzip, *;q=0"]),
        ] {
            let line = |value: &&'static str| ("accept-encoding", *value);
            let mut request = fields(&asked.iter().map(line).collect::<Vec<_>>());
            to_upstream(&mut request);
            assert_eq!(request, fields(&sent.iter().map(line).collect::<Vec<_>>()), "{asked:?}");
        }
    }

    #[test]
    fn a_tag_that_was_weakened_here_matches_again() {
        let mut answer = fields(&[("etag", "\"W/a\"")]);
        adjust(&mut answer);
        let seen = answer[ETAG].to_str().unwrap();
        for (sent, expected) in
            [(seen, "\"W/a\""), ("W/\"a\", \"b\",W/\"cW/\"", "\"a\", \"b\",\"cW/\""), ("*", "*")]
        {
            let mut request = fields(&[("if-match", sent), ("if-none-match", sent)]);
            to_upstream(&mut request);
            assert_eq!(request[IF_MATCH], expected);
            assert_eq!(request["if-none-match"], sent, "compares weakly anyway");
        }
    }

    #[test]
    fn links_in_fields_lead_to_the_proxy() {
        let mut answer = fields(&[
            ("location", "https://platform.ringcentral.com/restapi/v1.0/a"),
            ("content-location", "https://media.ringcentral.com/a"),
            ("link", "<https://platform.ringcentral.com/a?page=2>; rel=next"),
            ("link", "<https://other.test/>; rel=other"),
            ("x-link", "https://platform.ringcentral.com/"),
        ]);
        links().rewrite_fields(&mut answer);
        let expected = fields(&[
            ("location", "http://127.0.0.1:8080/restapi/v1.0/a"),
            ("content-location", "http://127.0.0.1:8080/.ringbearer/media/a"),
            ("link", "<http://127.0.0.1:8080/a?page=2>; rel=next"),
            ("link", "<https://other.test/>; rel=other"),
            ("x-link", "https://platform.ringcentral.com/"),
        ]);
        assert_eq!(answer, expected);
    }

    #[test]
    fn only_the_targets_in_a_link_field_are_links() {
        for (link, expected) in [
            (
                "<https://platform.ringcentral.com/a,b>; rel=\"next, <https://platform.ringcentral.com/>\" ,, <https://media.ringcentral.com>;rel=up",
                "<http://127.0.0.1:8080/a,b>; rel=\"next, <https://platform.ringcentral.com/>\" ,, <http://127.0.0.1:8080/.ringbearer/media>;rel=up",
            ),
            (
                "</a>; title=\"\\\", <\", <https://platform.ringcentral.com>",
                "</a>; title=\"\\\", <\", <http://127.0.0.1:8080>",
            ),
        ] {
            let link = HeaderValue::from_static(link);
            assert_eq!(links().rewrite_link(&link).unwrap(), expected);
        }
        for link in [
            "https://platform.ringcentral.com/",
            "<https://platform.ringcentral.com/",
            "<https://platform.ringcentral.community/>",
            "",
        ] {
            assert_eq!(links().rewrite_link(&HeaderValue::from_static(link)), None, "{link}");
        }
    }
}
