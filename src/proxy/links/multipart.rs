//! Links in `multipart/mixed`, which is how RingCentral answers bulk requests (207). PURE.
//!
//! The parts that are JSON are rewritten, each as a text of its own; their `Content-Length` goes,
//! as it would be wrong. All else passes, also what follows a part with more than [`MAX_FIELDS`]
//! bytes of fields. Lines may end without a carriage return.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use memchr::{memchr, memmem, memrchr};

use super::LinkMap;
use super::fields::is_json;
use super::json::JsonRewriter;

/// How long the fields of a part may be.
pub const MAX_FIELDS: usize = 16 * 1024;

/// How much white space may follow a boundary on its line.
const MAX_PADDING: usize = 64;

/// The line between parts, from its two hyphens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary(Bytes);

/// Rewrites the links in one multipart content.
#[derive(Debug)]
pub struct MultipartRewriter {
    links: Arc<LinkMap>,
    boundary: Boundary,
    place: Place,
    /// What came last, and may be the beginning of a boundary or is one of fields.
    held: BytesMut,
    /// Whether a line begins with what comes next.
    is_line_start: bool,
}

/// Where in the content the text stands.
#[derive(Debug)]
enum Place {
    /// Ahead of all parts, or in one that is not JSON.
    Other,
    /// In a part's fields.
    Fields,
    /// In a part that is JSON.
    Json(JsonRewriter),
    /// Where nothing is rewritten any more.
    Over,
}

/// What was found of the next boundary.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    /// It is there, with the line break before it.
    Line {
        start: usize,
        end: usize,
        is_last: bool,
    },
    /// What may be one begins there.
    Perhaps(usize),
    Nothing,
}

impl Boundary {
    /// That of a `multipart/mixed` content type (RFC 2046 §5.1.1).
    pub(super) fn of_mixed(content_type: &[u8]) -> Option<Self> {
        let (essence, mut parameters) = split_at(content_type, b';')?;
        if !essence.trim_ascii().eq_ignore_ascii_case(b"multipart/mixed") {
            return None;
        }
        loop {
            let (name, rest) = split_at(parameters, b'=')?;
            let (value, rest) = parameter_value(rest)?;
            if name.trim_ascii().eq_ignore_ascii_case(b"boundary") {
                let is_valid = (1..=70).contains(&value.len());
                return is_valid.then(|| Self([b"--", &*value].concat().into()));
            }
            parameters = split_at(rest, b';')?.1;
        }
    }

    /// The next line that is this boundary. `is_line_start`: whether a line begins at `from`.
    fn find(&self, text: &[u8], from: usize, is_line_start: bool) -> Found {
        let begins_line = |at: usize| match at.checked_sub(1).filter(|before| *before >= from) {
            Some(before) => text[before] == b'\n',
            None => is_line_start,
        };
        for hit in memmem::find_iter(&text[from..], &self.0) {
            let hit = from + hit;
            if !begins_line(hit) {
                continue;
            }
            let (start, after) = (before_break(text, from, hit), hit + self.0.len());
            match Rest::of(&text[after..]) {
                Rest::Line(len) => return Found::Line { start, end: after + len, is_last: false },
                Rest::Last => return Found::Line { start, end: after + 2, is_last: true },
                Rest::Missing => return Found::Perhaps(start),
                Rest::Other => {}
            }
        }
        let line = memrchr(b'\n', &text[from..]).map_or(from, |at| from + at + 1);
        if begins_line(line) && self.0.starts_with(&text[line..]) {
            return Found::Perhaps(before_break(text, from, line));
        }
        if text[from..].ends_with(b"\r") { Found::Perhaps(text.len() - 1) } else { Found::Nothing }
    }
}

/// What follows a boundary on its line.
enum Rest {
    /// Nothing, for so many bytes: a part begins behind them.
    Line(usize),
    /// Two hyphens: there are no more parts.
    Last,
    /// It has not come yet.
    Missing,
    /// More: it is no boundary.
    Other,
}

impl Rest {
    fn of(text: &[u8]) -> Self {
        if text.starts_with(b"--") {
            return Self::Last;
        }
        let padding = text.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        match &text[padding..] {
            _ if padding > MAX_PADDING => Self::Other,
            [b'\n', ..] => Self::Line(padding + 1),
            [b'\r', b'\n', ..] => Self::Line(padding + 2),
            [] | b"\r" => Self::Missing,
            b"-" if padding == 0 => Self::Missing,
            _ => Self::Other,
        }
    }
}

impl MultipartRewriter {
    /// At the beginning of content with such a boundary.
    pub fn new(links: Arc<LinkMap>, boundary: Boundary) -> Self {
        let held = BytesMut::new();
        Self { links, boundary, place: Place::Other, held, is_line_start: true }
    }

    /// Takes the next piece of the content and gives what can be sent.
    pub fn feed(&mut self, chunk: Bytes) -> Bytes {
        let text = if self.held.is_empty() {
            chunk
        } else {
            self.held.extend_from_slice(&chunk);
            self.held.split().freeze()
        };
        self.scan(&text, false)
    }

    /// Gives what was held back when the content ended.
    pub fn finish(&mut self) -> Bytes {
        let text = self.held.split().freeze();
        self.scan(&text, true)
    }

    /// Whether nothing is held back.
    pub fn is_idle(&self) -> bool {
        self.held.is_empty() && !matches!(&self.place, Place::Json(json) if !json.is_idle())
    }

    fn scan(&mut self, text: &Bytes, is_last: bool) -> Bytes {
        if matches!(self.place, Place::Over) {
            return text.clone();
        }
        let mut out = BytesMut::with_capacity(text.len() + text.len() / 16);
        let mut at = 0;
        loop {
            let done = match self.place {
                Place::Over => None,
                Place::Fields => self.pass_fields(text, at, &mut out, is_last),
                Place::Other | Place::Json(_) => self.pass_content(text, at, &mut out, is_last),
            };
            let Some(next) = done else { break };
            at = next;
        }
        if matches!(self.place, Place::Over) {
            // Where that began is behind what `out` has.
            let rest = self.held.split();
            out.extend_from_slice(&rest);
        }
        out.freeze()
    }

    /// Passes content on up to the next boundary and that too; `None` if it goes on in the next
    /// piece.
    fn pass_content(
        &mut self,
        text: &Bytes,
        from: usize,
        out: &mut BytesMut,
        is_last: bool,
    ) -> Option<usize> {
        let found = self.boundary.find(text, from, from > 0 || self.is_line_start);
        let (end, next) = match found {
            Found::Line { start, end, is_last } => (start, Some((end, is_last))),
            Found::Perhaps(start) if !is_last => (start, None),
            Found::Perhaps(_) | Found::Nothing => (text.len(), None),
        };
        let content = text.slice(from..end);
        if let Place::Json(json) = &mut self.place {
            out.extend_from_slice(&json.feed(content));
            if is_last || next.is_some() {
                out.extend_from_slice(&json.finish());
            }
        } else {
            out.extend_from_slice(&content);
        }
        let Some((after, is_end)) = next else {
            if end > from {
                self.is_line_start = text[end - 1] == b'\n';
            } else if from > 0 {
                self.is_line_start = true;
            }
            self.held.extend_from_slice(&text[end..]);
            return None;
        };
        out.extend_from_slice(&text[end..after]);
        if is_end {
            self.place = Place::Over;
            self.held.extend_from_slice(&text[after..]);
            return None;
        }
        self.place = Place::Fields;
        Some(after)
    }

    /// Passes a part's fields on; `None` if they are not all there.
    fn pass_fields(
        &mut self,
        text: &Bytes,
        from: usize,
        out: &mut BytesMut,
        is_last: bool,
    ) -> Option<usize> {
        let known = &text[from..text.len().min(from + MAX_FIELDS)];
        let Some(len) = length_of_fields(known) else {
            if known.len() == MAX_FIELDS || is_last {
                self.place = Place::Over;
            }
            self.held.extend_from_slice(&text[from..]);
            return None;
        };
        let fields = &known[..len];
        let is_json = is_readable_json(fields);
        for field in fields_of(fields) {
            self.pass_field(field, is_json, out);
        }
        self.place = if is_json {
            Place::Json(JsonRewriter::new(Arc::clone(&self.links)))
        } else {
            Place::Other
        };
        Some(from + len)
    }

    fn pass_field(&self, field: &[u8], is_json: bool, out: &mut BytesMut) {
        let (name, value) = name_and_value(field);
        let is =
            |names: &[&str]| names.iter().any(|known| name.eq_ignore_ascii_case(known.as_bytes()));
        if is_json && is(&["content-length", "content-md5", "content-digest", "digest"]) {
            return;
        }
        let led_back =
            if is(&["location", "content-location"]) { self.links.rewrite(value) } else { None };
        match led_back {
            Some(led_back) => {
                out.extend_from_slice(name);
                out.extend_from_slice(b": ");
                out.extend_from_slice(&led_back);
                out.extend_from_slice(line_break(field));
            }
            None => out.extend_from_slice(field),
        }
    }
}

/// Where the line break before `at` begins, but not ahead of `from`.
fn before_break(text: &[u8], from: usize, at: usize) -> usize {
    let line = &text[from..at];
    at - line_break(line).len()
}

/// The line break that `line` ends with.
fn line_break(line: &[u8]) -> &[u8] {
    if line.ends_with(b"\r\n") {
        b"\r\n"
    } else if line.ends_with(b"\n") {
        b"\n"
    } else {
        b""
    }
}

/// Up to behind the empty line that ends a part's fields.
fn length_of_fields(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let end = at + memchr(b'\n', &text[at..])? + 1;
        if matches!(&text[at..end], b"\n" | b"\r\n") {
            return Some(end);
        }
        at = end;
    }
}

/// Each field with its folded lines (RFC 5322 §2.2.3) and line breaks; the empty line is one too.
fn fields_of(mut text: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let mut end = 0;
        while end < text.len() {
            end = memchr(b'\n', &text[end..]).map_or(text.len(), |at| end + at + 1);
            if !matches!(text.get(end), Some(b' ' | b'\t')) {
                break;
            }
        }
        let (field, rest) = text.split_at(end);
        text = rest;
        (!field.is_empty()).then_some(field)
    })
}

fn name_and_value(field: &[u8]) -> (&[u8], &[u8]) {
    let (name, value) = split_at(field, b':').unwrap_or((field, b""));
    (name.trim_ascii(), value.trim_ascii())
}

/// Whether the fields are those of JSON that can be read as it is.
fn is_readable_json(fields: &[u8]) -> bool {
    let value = |wanted: &str| {
        fields_of(fields)
            .map(name_and_value)
            .find(|(name, _)| name.eq_ignore_ascii_case(wanted.as_bytes()))
            .map(|(_, value)| value.to_ascii_lowercase())
    };
    value("content-type").is_some_and(|content_type| is_json(&content_type))
        && value("content-encoding").is_none_or(|coding| coding == b"identity")
        && value("content-transfer-encoding")
            .is_none_or(|coding| matches!(&*coding, b"7bit" | b"8bit" | b"binary"))
}

fn split_at(text: &[u8], mark: u8) -> Option<(&[u8], &[u8])> {
    let at = memchr(mark, text)?;
    Some((&text[..at], &text[at + 1..]))
}

/// A parameter's value, quoted or not, and what follows it.
fn parameter_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let text = text.trim_ascii_start();
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let end = memchr(b';', text).unwrap_or(text.len());
        return Some((text[..end].trim_ascii_end().to_vec(), &text[end..]));
    };
    let mut value = Vec::new();
    let mut bytes = quoted.iter().enumerate();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => return Some((value, &quoted[at + 1..])),
            b'\\' => value.push(*bytes.next()?.1),
            _ => value.push(*byte),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::links;
    use super::*;

    fn boundary(content_type: &str) -> Option<String> {
        let boundary = Boundary::of_mixed(content_type.as_bytes())?;
        Some(String::from_utf8(boundary.0[2..].to_vec()).unwrap())
    }

    fn rewrite_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let boundary = Boundary::of_mixed(b"multipart/mixed; boundary=b_1").unwrap();
        let mut rewriter = MultipartRewriter::new(Arc::new(links()), boundary);
        let mut out = Vec::new();
        for piece in pieces {
            out.extend_from_slice(&rewriter.feed(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&rewriter.finish());
        assert!(rewriter.is_idle());
        String::from_utf8(out).expect("text stays text")
    }

    /// At once and byte by byte.
    fn rewrite(text: &str) -> String {
        let whole = rewrite_pieces([text.as_bytes()]);
        assert_eq!(rewrite_pieces(text.as_bytes().chunks(1)), whole, "byte by byte");
        whole
    }

    #[test]
    fn the_boundary_is_read_from_the_content_type() {
        for (content_type, expected) in [
            ("multipart/mixed;boundary=Boundary_28_61155598", Some("Boundary_28_61155598")),
            ("Multipart/Mixed; charset=utf-8; BOUNDARY=\"a b;\\\"c\" ; x=y", Some("a b;\"c")),
            ("multipart/mixed; x=\"boundary=no\"; boundary = yes", Some("yes")),
            ("multipart/mixed", None),
            ("multipart/mixed; boundary=", None),
            ("multipart/mixed; boundary=\"open", None),
            ("multipart/form-data; boundary=a", None),
        ] {
            assert_eq!(boundary(content_type).as_deref(), expected, "{content_type}");
        }
        assert_eq!(boundary(&format!("multipart/mixed; boundary={}", "a".repeat(71))), None);
    }

    #[test]
    fn parts_that_are_json_are_rewritten_and_lose_their_length() {
        let text = "preamble \"https://platform.ringcentral.com/\"\r\n\
            --b_1\r\n\
            Content-Type: application/json;charset=utf-8\r\n\
            content-length: 46\r\n\
            Location: https://platform.ringcentral.com/a\r\n\
            \r\n\
            {\"uri\":\"https://platform.ringcentral.com/a\"}\r\n\
            --b_1 \t\r\n\
            Content-Type: text/plain\r\n\
            Content-Length: 1\r\n\
            \r\n\
            \"https://platform.ringcentral.com/\"\r\n\
            --b_1\n\
            Content-Type:\n application/problem+json\n\
            \n\
            [\"https://media.ringcentral.com/a\"]\n\
            --b_1\r\n\
            Content-Type: application/json\r\n\
            \r\n\
            --b_1--\r\n\
            \"https://platform.ringcentral.com/\"";
        let expected = "preamble \"https://platform.ringcentral.com/\"\r\n\
            --b_1\r\n\
            Content-Type: application/json;charset=utf-8\r\n\
            Location: http://127.0.0.1:8080/a\r\n\
            \r\n\
            {\"uri\":\"http://127.0.0.1:8080/a\"}\r\n\
            --b_1 \t\r\n\
            Content-Type: text/plain\r\n\
            Content-Length: 1\r\n\
            \r\n\
            \"https://platform.ringcentral.com/\"\r\n\
            --b_1\n\
            Content-Type:\n application/problem+json\n\
            \n\
            [\"http://127.0.0.1:8080/.ringbearer/media/a\"]\n\
            --b_1\r\n\
            Content-Type: application/json\r\n\
            \r\n\
            --b_1--\r\n\
            \"https://platform.ringcentral.com/\"";
        assert_eq!(rewrite(text), expected);
    }

    #[test]
    fn each_part_is_a_text_of_its_own() {
        let part = "Content-Type: application/json\r\n\r\n";
        let broken = format!("--b_1\r\n{part}\"a\" \"http\r\n--b_1\r\n{part}");
        let link = "{\"a\":\"https://platform.ringcentral.com/\"}\r\n--b_1--";
        let expected = format!("{broken}{{\"a\":\"http://127.0.0.1:8080/\"}}\r\n--b_1--");
        assert_eq!(rewrite(&format!("{broken}{link}")), expected);
    }

    #[test]
    fn what_only_looks_like_a_boundary_is_content() {
        let start = "--b_1\r\nContent-Type: application/json\r\n\r\n[\"--b_1\r\n";
        let end = "\r\n--b_12\r\n--b_1-\r\n--b_1 x\r\n--b_\r\n--b_1\r";
        let text = format!("{start}\", \"https://platform.ringcentral.com\"]{end}");
        assert_eq!(rewrite(&text), format!("{start}\", \"http://127.0.0.1:8080\"]{end}"));
    }

    #[test]
    fn encoded_parts_and_those_without_end_of_fields_stay() {
        for text in [
            "--b_1\r\nContent-Type: application/json\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\"https://platform.ringcentral.com/\"\r\n--b_1--",
            "--b_1\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\n\r\n\"https://platform.ringcentral.com/\"\r\n--b_1--",
            "--b_1\r\nLocation: https://platform.ringcentral.com/",
            "--b_1\r\n\"https://platform.ringcentral.com/\"\r\n--b_1--",
            "--b_1",
            "",
        ] {
            assert_eq!(rewrite(text), text);
        }
    }

    #[test]
    fn fields_longer_than_16_kib_end_the_rewriting() {
        let part = |padding: usize| {
            format!(
                "--b_1\r\nContent-Type: application/json\r\nx: {}\r\n\r\n\"https://platform.ringcentral.com\"\r\n--b_1--",
                "a".repeat(padding)
            )
        };
        let room = MAX_FIELDS - "Content-Type: application/json\r\nx: \r\n\r\n".len();
        let led_back =
            part(room).replace("https://platform.ringcentral.com", "http://127.0.0.1:8080");
        assert_eq!(rewrite_pieces([part(room).as_bytes()]), led_back);
        assert_eq!(rewrite_pieces(part(room).as_bytes().chunks(1000)), led_back);
        assert_eq!(rewrite_pieces([part(room + 1).as_bytes()]), part(room + 1));
        assert_eq!(rewrite_pieces(part(room + 1).as_bytes().chunks(1000)), part(room + 1));
    }

    #[test]
    fn every_documented_bulk_answer_is_led_back() {
        let (mut bulk, mut links_found) = (0, 0);
        for line in include_str!("../../sandbox/data/examples.jsonl").lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let response = line["response"].as_str().unwrap();
            let (_, content) = response.split_once("\n\n").unwrap_or_default();
            if !content.starts_with("--") {
                continue;
            }
            bulk += 1;
            let name = content.lines().next().unwrap().trim_end().trim_start_matches("--");
            let content_type = format!("multipart/mixed; boundary={name}");
            let boundary = Boundary::of_mixed(content_type.as_bytes()).unwrap();
            let mut rewriter = MultipartRewriter::new(Arc::new(links()), boundary);
            let mut out = rewriter.feed(Bytes::from(content.to_owned())).to_vec();
            out.extend_from_slice(&rewriter.finish());
            let expected = content
                .replace("\"https://platform.ringcentral.com/", "\"http://127.0.0.1:8080/")
                .replace(
                    "https://media.ringcentral.com",
                    "http://127.0.0.1:8080/.ringbearer/media",
                );
            links_found += expected.matches("\"http://127.0.0.1:8080/").count();
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
        assert_eq!((bulk, links_found), (5, 40));
    }

    proptest! {
        /// However it is cut, the same becomes of it; without a link nothing.
        #[test]
        fn content_is_rewritten_alike_however_it_is_cut(
            words in prop::collection::vec(prop::sample::select(vec![
                "\r\n", "\n", "\r", "--b_1", "--b_1\r\n", "--b_1--", "-", " ", "x",
                "Content-Type: application/json\r\n\r\n", "Content-Length: 3\r\n", "text\r\n\r\n",
                "{\"a\":\"https://platform.ringcentral.com/\"}", "\"https://media.ringcentral.com\"",
            ]), 0..30),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let text = words.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|ends| &text.as_bytes()[ends[0]..ends[1]]);
            let whole = rewrite(&text);
            prop_assert_eq!(&rewrite_pieces(pieces), &whole);
            if !text.contains("\"https") && !text.contains("Content-Length") {
                prop_assert_eq!(&whole, &text);
            }
        }
    }
}
