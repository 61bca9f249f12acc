//! One request head: the line that asks, and the fields that say how its content is framed.

use http::Uri;

use super::chars::{NAME, PATH, QUERY, TOKEN, plain, run};
use crate::proxy::malformed::Malformed;

/// What a request line may take.
pub(super) const MAX_REQUEST_LINE: usize = 32 * 1024;
/// What a head may take.
pub(super) const MAX_HEAD: usize = 64 * 1024;
/// hyper's own bound.
pub(super) const MAX_FIELDS: u8 = 100;
/// Empty lines before a request line: some clients send one after a content (RFC 9112 §2.2).
const MAX_EMPTY_LINES: u8 = 4;

/// A head that has been read up to somewhere.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each says that something was said")]
pub(super) struct Head {
    /// Where the line begins that is being read.
    line: usize,
    /// So far that line has no end.
    searched: usize,
    empty_lines: u8,
    fields: u8,
    has_request_line: bool,
    is_http_11: bool,
    has_host: bool,
    is_chunked: bool,
    length: Option<u64>,
    may_switch: bool,
}

/// How far a look at the bytes has come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// The head goes on.
    More,
    /// An empty line before it.
    Skipped(usize),
    /// Its length, and what it says.
    Whole(usize, Request),
}

/// What a head says of what follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) content: Content,
    /// Whether something else may be spoken once it is answered: a WebSocket, or a `CONNECT`.
    pub(super) may_switch: bool,
}

/// How its content is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    None,
    Length(u64),
    Chunked,
}

impl Head {
    /// Reads on in `bytes`, which begins where the head does.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Progress, Malformed> {
        loop {
            let end = self.searched + plain(&bytes[self.searched..]);
            self.searched = end;
            // First of all, or it would matter in which pieces too much comes.
            self.check_size(end)?;
            match bytes[end..] {
                [] | [b'\r'] => return Ok(Progress::More),
                [b'\r', b'\n', ..] => {}
                [b'\r' | b'\n', ..] => return Err(Malformed::LineEnd),
                _ if self.has_request_line => return Err(Malformed::Field),
                _ => return Err(Malformed::RequestLine),
            }
            let line = &bytes[self.line..end];
            let after = end + 2;
            (self.line, self.searched) = (after, after);
            match (self.has_request_line, line.is_empty()) {
                (true, false) => self.read_field(line)?,
                (true, true) => return Ok(Progress::Whole(after, self.request()?)),
                (false, false) => self.read_request_line(line)?,
                (false, true) => return self.skip_empty_line(),
            }
        }
    }

    fn check_size(&self, end: usize) -> Result<(), Malformed> {
        if !self.has_request_line && end > MAX_REQUEST_LINE {
            Err(Malformed::LongTarget)
        } else if end > MAX_HEAD {
            Err(Malformed::LargeHead)
        } else {
            Ok(())
        }
    }

    fn skip_empty_line(&mut self) -> Result<Progress, Malformed> {
        if self.empty_lines == MAX_EMPTY_LINES {
            return Err(Malformed::RequestLine);
        }
        *self = Self { empty_lines: self.empty_lines + 1, ..Self::default() };
        Ok(Progress::Skipped(2))
    }

    fn read_request_line(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let (method, rest) = line.split_at(run(TOKEN, line));
        let [b' ', rest @ ..] = rest else { return Err(Malformed::RequestLine) };
        if method.is_empty() {
            return Err(Malformed::RequestLine);
        }
        let target = length_of_target(rest).ok_or(Malformed::RequestLine)?;
        self.is_http_11 = match &rest[target..] {
            b" HTTP/1.1" => true,
            b" HTTP/1.0" => false,
            [b' ', b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
                return Err(Malformed::Version);
            }
            _ => return Err(Malformed::RequestLine),
        };
        self.has_request_line = true;
        self.may_switch = method == b"CONNECT";
        Ok(())
    }

    #[inline]
    fn read_field(&mut self, line: &[u8]) -> Result<(), Malformed> {
        let length = run(TOKEN, line);
        let (name, rest) = line.split_at(length);
        let [b':', value @ ..] = rest else { return Err(Malformed::Field) };
        if length == 0 {
            return Err(Malformed::Field);
        }
        if self.fields == MAX_FIELDS {
            return Err(Malformed::LargeHead);
        }
        self.fields += 1;
        match length {
            4 if name.eq_ignore_ascii_case(b"host") => self.read_host(value.trim_ascii()),
            7 if name.eq_ignore_ascii_case(b"upgrade") => {
                self.may_switch |= self.is_http_11 && names_websocket(value);
                Ok(())
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.read_length(value.trim_ascii())
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.read_coding(value.trim_ascii())
            }
            _ => Ok(()),
        }
    }

    fn read_host(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.has_host {
            return Err(Malformed::Hosts);
        }
        self.has_host = true;
        if is_host(value) { Ok(()) } else { Err(Malformed::HostValue) }
    }

    /// No leading zeros either: some read them as octal.
    fn read_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.is_chunked {
            return Err(Malformed::TwoLengths);
        }
        let is_number = value.iter().all(u8::is_ascii_digit)
            && matches!(value, [b'0'] | [b'1'..=b'9', ..])
            && value.len() <= 18;
        if self.length.is_some() || !is_number {
            return Err(Malformed::ContentLength);
        }
        let digits = value.iter().map(|digit| u64::from(digit - b'0'));
        self.length = Some(digits.fold(0, |number, digit| number * 10 + digit));
        Ok(())
    }

    fn read_coding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if !self.is_http_11 {
            return Err(Malformed::OldCoding);
        }
        if self.length.is_some() {
            return Err(Malformed::TwoLengths);
        }
        if self.is_chunked || !value.eq_ignore_ascii_case(b"chunked") {
            return Err(Malformed::Coding);
        }
        self.is_chunked = true;
        Ok(())
    }

    fn request(&self) -> Result<Request, Malformed> {
        if self.is_http_11 && !self.has_host {
            return Err(Malformed::Hosts);
        }
        let content = match self.length {
            _ if self.is_chunked => Content::Chunked,
            None | Some(0) => Content::None,
            Some(length) => Content::Length(length),
        };
        Ok(Request { content, may_switch: self.may_switch })
    }
}

/// How long the target is that `rest` of a request line begins with.
#[inline]
fn length_of_target(rest: &[u8]) -> Option<usize> {
    match rest {
        [b'/', ..] => {
            let path = run(PATH, rest);
            Some(match rest.get(path) {
                Some(b'?') => path + 1 + run(QUERY, &rest[path + 1..]),
                _ => path,
            })
        }
        [b'*', ..] => Some(1),
        _ => length_of_uri(rest),
    }
}

/// The absolute form, and that of `CONNECT`. Neither says where the request goes; whatever it is, the
/// library that reads it next is to understand it.
fn length_of_uri(rest: &[u8]) -> Option<usize> {
    let length = memchr::memchr(b' ', rest)?;
    let target = &rest[..length];
    let is_visible = target.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#');
    (is_visible && Uri::try_from(target).is_ok()).then_some(length)
}

/// `uri-host [ ":" port ]` of RFC 9112 §3.2, without what no host has: nothing at all, a list, userinfo,
/// percent signs.
fn is_host(value: &[u8]) -> bool {
    let (has_name, rest) = if let [b'[', rest @ ..] = value {
        let Some(end) = memchr::memchr(b']', rest) else { return false };
        let is_literal = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
        (end > 0 && rest[..end].iter().all(is_literal), &rest[end + 1..])
    } else {
        let end = run(NAME, value);
        (end > 0, &value[end..])
    };
    let is_port = match rest {
        [] => true,
        [b':', port @ ..] => port.len() <= 5 && port.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    has_name && is_port
}

/// More is taken for it than is: nothing is lost but the connection, if it was none.
fn names_websocket(value: &[u8]) -> bool {
    value.windows(9).any(|window| window.eq_ignore_ascii_case(b"websocket"))
}
