//! Where requests begin and end on an HTTP/1 connection, by RFC 9112 and not more leniently. PURE.
//!
//! [`Framing`] is shown every byte before hyper is, and says how many of them may go on. hyper reads
//! what two readers may read differently: lines that end in a bare LF, `Content-Length` beside
//! `Transfer-Encoding` (of which it drops the one without a trace), any number of `Host`s with any
//! value, blanks behind a chunk's size, `chunked` behind other codings. Whoever comes after it cannot
//! see that any more. Here each of these is [`Malformed`].
//!
//! A head goes on as a whole or not at all: what is incomplete is held back and shown again with more
//! behind it. What is said does not depend on how the bytes were cut.

mod chars;
mod chunked;
mod head;
#[cfg(test)]
mod tests;

use crate::proxy::malformed::Malformed;
use chunked::Chunked;
use head::{Content, Head, Progress, Request};

/// How a client of HTTP/2 begins that knows beforehand that it is spoken (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What comes on one connection, up to where it has been read.
#[derive(Debug)]
pub struct Framing {
    state: State,
    /// Whether the request under way may end HTTP on this connection.
    may_switch: bool,
}

#[derive(Debug)]
enum State {
    /// HTTP/2 may come, or HTTP/1.
    Undecided,
    Head(Head),
    /// So much is left of a content of known length.
    Length(u64),
    Chunked(Chunked),
    /// What follows depends on the answer to a request to speak something else.
    Answer,
    /// Something else is spoken.
    Other,
    /// Something was malformed, and nothing is read any more.
    Over,
}

/// What has been found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// So many of the bytes may go on. Those behind them are to be shown again, with more.
    pub passed: usize,
    /// Whether that is all for now.
    pub verdict: Verdict,
}

/// Whether something was malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It was not.
    Sound,
    /// The head that begins after what has passed is malformed.
    Refused(Malformed),
    /// The content under way is malformed after what has passed.
    Broken(Malformed),
}

/// What is being waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A request's first byte.
    Between,
    /// The rest of its head.
    Head,
    /// The rest of its content.
    Content,
    /// The proxy's answer: until then nothing goes on.
    Answer,
    /// Nothing: all that comes goes on.
    Other,
    /// Nothing: nothing goes on.
    Over,
}

impl Framing {
    /// For a connection on which HTTP/1 is spoken.
    pub fn http1() -> Self {
        Self { state: State::Head(Head::default()), may_switch: false }
    }

    /// For a connection on which HTTP/1 is spoken, or HTTP/2 from the beginning.
    pub fn either() -> Self {
        Self { state: State::Undecided, may_switch: false }
    }

    /// Reads on. `bytes` begins with those that have been shown and did not pass.
    pub fn judge(&mut self, bytes: &[u8]) -> Judged {
        let mut passed = 0;
        loop {
            let rest = &bytes[passed..];
            let step = match &mut self.state {
                _ if rest.is_empty() => return Judged { passed, verdict: Verdict::Sound },
                State::Undecided => self.decide(rest),
                State::Head(head) => match head.read(rest) {
                    Ok(Progress::More) => None,
                    Ok(Progress::Skipped(length)) => Some(length),
                    Ok(Progress::Whole(length, request)) => {
                        self.begin(request);
                        Some(length)
                    }
                    Err(malformed) => {
                        self.state = State::Over;
                        return Judged { passed, verdict: Verdict::Refused(malformed) };
                    }
                },
                State::Length(left) => {
                    let there = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    *left -= there as u64;
                    if *left == 0 {
                        self.end_message();
                    }
                    Some(there)
                }
                State::Chunked(chunked) => {
                    let (length, end) = chunked.read(rest);
                    match end {
                        Ok(true) => self.end_message(),
                        Ok(false) => {}
                        Err(malformed) => {
                            self.state = State::Over;
                            let verdict = Verdict::Broken(malformed);
                            return Judged { passed: passed + length, verdict };
                        }
                    }
                    Some(length)
                }
                State::Answer | State::Over => None,
                State::Other => Some(rest.len()),
            };
            match step {
                Some(length) => passed += length,
                None => return Judged { passed, verdict: Verdict::Sound },
            }
        }
    }

    /// What is being waited for, if `held` bytes were shown and have not passed.
    pub fn stage(&self, held: usize) -> Stage {
        match &self.state {
            State::Undecided | State::Head(_) if held == 0 => Stage::Between,
            State::Undecided | State::Head(_) => Stage::Head,
            State::Length(_) | State::Chunked(_) => Stage::Content,
            State::Answer => Stage::Answer,
            State::Other => Stage::Other,
            State::Over => Stage::Over,
        }
    }

    /// Whether the request that passed last asks to speak something else.
    pub fn may_switch(&self) -> bool {
        self.may_switch
    }

    /// The request to speak something else was granted. Other requests never are.
    pub fn switch(&mut self) {
        if matches!(self.state, State::Answer) {
            self.state = State::Other;
        }
    }

    /// Reads nothing any more.
    pub fn give_up(&mut self) {
        self.state = State::Over;
    }

    fn decide(&mut self, bytes: &[u8]) -> Option<usize> {
        let there = bytes.len().min(PREFACE.len());
        if bytes[..there] != PREFACE[..there] {
            self.state = State::Head(Head::default());
            return Some(0);
        }
        (there == PREFACE.len()).then(|| {
            self.state = State::Other;
            there
        })
    }

    fn begin(&mut self, request: Request) {
        self.may_switch = request.may_switch;
        match request.content {
            Content::None => self.end_message(),
            Content::Length(length) => self.state = State::Length(length),
            Content::Chunked => self.state = State::Chunked(Chunked::default()),
        }
    }

    fn end_message(&mut self) {
        self.state = if self.may_switch { State::Answer } else { State::Head(Head::default()) };
    }
}
