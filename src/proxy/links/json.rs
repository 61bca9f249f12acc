//! Links in JSON. PURE.
//!
//! Nothing is parsed. In JSON a quote with an `h` behind it can only begin a string, unless a
//! backslash stands before it: so a search for `"http` finds every link, and what stands before the
//! quote tells a value (`:`, `[`) from a name (`{`). After a comma it may be either; then the colon
//! behind a name decides. This costs a fifth of what a parser would, a third where there are many
//! links, and asks for nothing that came earlier but one byte.
//!
//! Where something else stands before the quote the content is no JSON, and all of the rest stays as
//! it is. Other faults are not looked for. Schemes are found in lower case only, which is how
//! everybody writes them; behind them any character may be escaped, and the case of the host does
//! not matter.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use memchr::memmem::Finder;

use super::{Character, Found, LinkMap, Target};

/// What a link to a web server begins with.
pub(super) const HTTP: &str = "\"http";
/// What a link to a WebSocket begins with.
pub(super) const WEB_SOCKET: &str = "\"ws";

/// Behind a comma, how far from its beginning a string is looked at to tell a name from a value.
/// What is longer stays as it is. No server takes longer links, and so much may be held back.
pub const MAX_LOOK_AHEAD: usize = 8 * 1024;

/// Rewrites the links of one JSON text.
#[derive(Debug)]
pub struct JsonRewriter {
    links: Arc<LinkMap>,
    /// What came last, and may be the beginning of a link.
    held: BytesMut,
    /// The last byte before `held` that is no white space.
    before: Option<u8>,
    is_broken: bool,
}

/// What to do about a quote.
enum Verdict<'a> {
    /// Nothing.
    Keep,
    /// It begins a link to the target, whose origin ends there.
    Replace(&'a Target, usize),
    /// More of the text is needed.
    Wait,
    /// The text is no JSON.
    Broken,
}

impl JsonRewriter {
    /// At the beginning of a text.
    pub fn new(links: Arc<LinkMap>) -> Self {
        Self { links, held: BytesMut::new(), before: None, is_broken: false }
    }

    /// Takes the next piece of the text and gives what can be sent: `chunk` itself, uncopied, if
    /// nothing had to be replaced.
    ///
    /// One piece comes out, not one before, one for and one behind each link: to copy 16 KiB costs
    /// less than to send a second piece.
    pub fn feed(&mut self, chunk: Bytes) -> Bytes {
        let text = if self.held.is_empty() {
            chunk
        } else {
            self.held.extend_from_slice(&chunk);
            self.held.split().freeze()
        };
        if self.is_broken { text } else { self.scan(text, false) }
    }

    /// Gives what was held back when the text ended.
    pub fn finish(&mut self) -> Bytes {
        if self.held.is_empty() {
            return Bytes::new();
        }
        let text = self.held.split().freeze();
        if self.is_broken { text } else { self.scan(text, true) }
    }

    /// Whether nothing is held back.
    pub fn is_idle(&self) -> bool {
        self.held.is_empty()
    }

    fn scan(&mut self, mut text: Bytes, is_last: bool) -> Bytes {
        let links = &*self.links;
        let mut out = Rewritten::default();
        let mut end = None;
        for quote in Quotes::new(links, &text) {
            let before = last_mark(&text[..quote]).or(self.before);
            match judge(links, &text, quote, before) {
                Verdict::Keep => {}
                Verdict::Replace(target, after) => out.replace(&text, quote + 1, after, target),
                Verdict::Wait if is_last => {}
                Verdict::Wait => {
                    end = Some(quote);
                    break;
                }
                Verdict::Broken => {
                    self.is_broken = true;
                    break;
                }
            }
        }
        let whole = is_last || self.is_broken;
        let end = end.unwrap_or(if whole { text.len() } else { links.end_of_decided(&text) });
        self.before = last_mark(&text[..end]).or(self.before);
        self.held.extend_from_slice(&text[end..]);
        text.truncate(end);
        out.with_rest(text)
    }
}

impl LinkMap {
    /// Up to where `text` is, if all its quotes are judged: what begins one is not there yet.
    fn end_of_decided(&self, text: &[u8]) -> usize {
        let from = text.len().saturating_sub(HTTP.len() - 1);
        let begins = |tail: &[u8]| {
            self.http.is_some() && HTTP.as_bytes().starts_with(tail)
                || self.web_socket.is_some() && WEB_SOCKET.as_bytes().starts_with(tail)
        };
        (from..text.len()).find(|at| begins(&text[*at..])).unwrap_or(text.len())
    }
}

/// What the quote, behind `before` and white space, begins.
fn judge<'a>(links: &'a LinkMap, text: &[u8], quote: usize, before: Option<u8>) -> Verdict<'a> {
    match before {
        None | Some(b':' | b'[' | b',') => {}
        Some(b'{' | b'\\') => return Verdict::Keep,
        Some(_) => return Verdict::Broken,
    }
    let start = quote + 1;
    let literal = |target: &'a Target| target.literal(&text[start..]).map(|len| (target, len));
    let found = match links.targets.iter().find_map(literal) {
        Some((target, len)) => Found::Origin(target, start + len),
        None => links.find(text, start, character),
    };
    match found {
        Found::Nothing => Verdict::Keep,
        Found::Undecided => Verdict::Wait,
        Found::Origin(target, end) if before == Some(b',') => match is_name(text, quote, end) {
            Some(true) => Verdict::Keep,
            Some(false) => Verdict::Replace(target, end),
            None => Verdict::Wait,
        },
        Found::Origin(target, end) => Verdict::Replace(target, end),
    }
}

/// The quotes that may begin a link.
struct Quotes<'a> {
    text: &'a [u8],
    http: Next<'a>,
    web_socket: Next<'a>,
}

/// Where one search stands.
struct Next<'a> {
    finder: Option<&'a Finder<'static>>,
    at: Option<usize>,
}

impl<'a> Quotes<'a> {
    fn new(links: &'a LinkMap, text: &'a [u8]) -> Self {
        let next = |finder: &'a Option<Finder<'static>>| {
            let finder = finder.as_ref();
            Next { finder, at: finder.and_then(|finder| finder.find(text)) }
        };
        Self { text, http: next(&links.http), web_socket: next(&links.web_socket) }
    }
}

impl Iterator for Quotes<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let is_http = match (self.http.at, self.web_socket.at) {
            (Some(http), Some(web_socket)) => http < web_socket,
            (http, _) => http.is_some(),
        };
        let next = if is_http { &mut self.http } else { &mut self.web_socket };
        let (quote, finder) = (next.at?, next.finder?);
        next.at = finder.find(&self.text[quote + 1..]).map(|at| quote + 1 + at);
        Some(quote)
    }
}

/// A text in which links are replaced.
#[derive(Default)]
struct Rewritten {
    out: BytesMut,
    /// How much of the old text is in `out`.
    taken: usize,
}

impl Rewritten {
    /// Puts the target's base in the place of the origin from `start` to `end`.
    fn replace(&mut self, text: &[u8], start: usize, end: usize, target: &Target) {
        let origin = &text[start..end];
        if self.out.is_empty() {
            // Room for some that grow; where more do, it grows too.
            self.out.reserve(text.len() + text.len() / 16 + target.base.len());
        }
        self.out.extend_from_slice(&text[self.taken..start]);
        if origin.contains(&b'\\') {
            write_escaped(&mut self.out, &target.base, origin);
        } else {
            self.out.extend_from_slice(target.base.as_bytes());
        }
        self.taken = end;
    }

    fn with_rest(mut self, text: Bytes) -> Bytes {
        if self.taken == 0 {
            return text;
        }
        self.out.extend_from_slice(&text[self.taken..]);
        self.out.freeze()
    }
}

/// Writes `base` with its colons and slashes as they are in `origin`.
fn write_escaped(out: &mut BytesMut, base: &str, origin: &[u8]) {
    let as_written = |wanted: u8| {
        let mut at = 0;
        while let Character::Is(byte, next) = character(origin, at) {
            if byte == wanted {
                return &origin[at..next];
            }
            at = next;
        }
        &[]
    };
    let (colon, slash) = (as_written(b':'), as_written(b'/'));
    for byte in base.bytes() {
        match byte {
            b':' => out.extend_from_slice(colon),
            b'/' => out.extend_from_slice(slash),
            _ => out.extend_from_slice(&[byte]),
        }
    }
}

/// One character of a JSON string (RFC 8259 §7).
fn character(text: &[u8], at: usize) -> Character {
    let byte = |at: usize| text.get(at).copied();
    match byte(at) {
        None => Character::Missing,
        Some(b'"') => Character::End,
        Some(b'\\') => match byte(at + 1) {
            None => Character::Missing,
            Some(escaped @ (b'/' | b'\\')) => Character::Is(escaped, at + 2),
            Some(b'u') => code_point(&text[at + 2..], at + 6),
            Some(_) => Character::Other,
        },
        Some(other) => Character::Is(other, at + 1),
    }
}

/// The character whose four digits `text` begins with.
fn code_point(text: &[u8], next: usize) -> Character {
    let mut code = 0;
    for place in 0..4 {
        let Some(byte) = text.get(place) else { return Character::Missing };
        let Some(digit) = char::from(*byte).to_digit(16) else { return Character::Other };
        code = code * 16 + digit;
    }
    match u8::try_from(code) {
        Ok(byte) if byte.is_ascii() => Character::Is(byte, next),
        _ => Character::Other,
    }
}

/// Whether the string at `quote`, of which all up to `from` is known, is an object's name; `None` if
/// more of the text is needed.
fn is_name(text: &[u8], quote: usize, from: usize) -> Option<bool> {
    let limit = quote + MAX_LOOK_AHEAD;
    let known = &text[..text.len().min(limit)];
    // If in doubt, as a name: it stays as it is.
    let undecided = if text.len() < limit { None } else { Some(true) };
    let mut at = from;
    loop {
        let rest = known.get(at..).unwrap_or_default();
        let Some(found) = memchr::memchr2(b'"', b'\\', rest) else { return undecided };
        at += found + 1;
        if rest[found] == b'"' {
            break;
        }
        // What is escaped.
        at += 1;
    }
    let next = known[at..].iter().find(|byte| !is_white_space(**byte));
    next.map_or(undecided, |next| Some(*next == b':'))
}

/// The last byte that is no white space.
fn last_mark(text: &[u8]) -> Option<u8> {
    text.iter().rev().copied().find(|byte| !is_white_space(*byte))
}

fn is_white_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r')
}

#[cfg(test)]
mod tests;
