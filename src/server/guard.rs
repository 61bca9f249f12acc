//! What stands between a client's socket and hyper on an HTTP/1 connection.
//!
//! A [`Guard`] passes on what [`Framing`] finds sound, in place where a read brought whole heads. A head
//! that is refused is replaced by one that hyper reads ([`SUBSTITUTE`]), so that the answer comes in its
//! turn, behind those to earlier requests; a content that is broken ends in an error. After either,
//! nothing is read any more. What a guard and the tasks around it have to tell each other stands in a
//! [`Post`].
//!
//! A connection that ends while the client is still sending would be reset, and the reset may overtake
//! the answer. So a guard shuts its side down first, and takes in what still comes, within bounds.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use http::header::HOST;
use http::{Request, Version};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use super::framing::{Framing, Stage, Verdict};
use super::seated::Outlet;
use crate::proxy::malformed::{Malformed, MalformedCounts};

/// In place of a head that is refused. No other that says HTTP/1.1 and has no `Host` gets past a guard.
const SUBSTITUTE: &[u8] = b"GET * HTTP/1.1\r\n\r\n";
/// The same where the answer must have no content.
const SUBSTITUTE_WITHOUT_CONTENT: &[u8] = b"HEAD * HTTP/1.1\r\n\r\n";
/// So HTTP/2 begins. Nothing is said to it in a version that was not agreed on.
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n";

/// What is read at once into what is held back.
const PIECE: usize = 4 * 1024;
/// What may come before the answer to a request to speak something else.
const MOST_EARLY: usize = 64 * 1024;
/// What is taken in from a client that goes on sending after its answer.
const MOST_LATE: usize = 16 * 1024 * 1024;

/// What a guard waits for, as the timers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// For nothing that has to come soon.
    Not,
    /// For the rest of a head; the number tells one from the next.
    Head(u32),
    /// For the client to close, which has its answer.
    Late,
}

/// Notes between a connection's guard, its stream and the tasks that serve it. All on one thread, but hyper wants
/// what it may hand on to be [`Send`].
#[derive(Debug, Default)]
pub(super) struct Post {
    /// [`Waits`]: the kind in the two lowest bits, 0 for none.
    waits: AtomicU32,
    /// What was malformed: its place in [`Malformed::ALL`], counted from one.
    malformed: AtomicU8,
    /// Whether the request under way may end HTTP here.
    may_switch: AtomicBool,
    /// Whether it did.
    switched: AtomicBool,
    /// Whether the client has been given up.
    is_late: AtomicBool,
    /// What the stream beneath has to tell.
    pub(super) outlet: Outlet,
}

/// What a request is to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Ordinary,
    /// Something else may be spoken after it; if not, nothing.
    MaySwitch,
    /// It stands for one that is refused.
    Substitute(Malformed),
}

impl Post {
    pub(super) fn waits(&self) -> Waits {
        let packed = self.waits.load(Ordering::Relaxed);
        match packed & 3 {
            0 | 1 => Waits::Not,
            2 => Waits::Head(packed >> 2),
            _ => Waits::Late,
        }
    }

    /// The head has not come to its end in time.
    pub(super) fn give_up(&self) {
        self.is_late.store(true, Ordering::Relaxed);
    }

    /// What was malformed, if anything was.
    pub(super) fn malformed(&self) -> Option<Malformed> {
        let number = usize::from(self.malformed.load(Ordering::Relaxed));
        number.checked_sub(1).map(|place| Malformed::ALL[place])
    }

    /// What `request` is.
    pub(super) fn standing<B>(&self, request: &Request<B>) -> Standing {
        if let Some(malformed) = self.malformed()
            && request.version() == Version::HTTP_11
            && !request.headers().contains_key(HOST)
        {
            return Standing::Substitute(malformed);
        }
        let may_switch = self.may_switch.load(Ordering::Relaxed)
            && (request.method() == http::Method::CONNECT
                || request.headers().contains_key(http::header::UPGRADE));
        if may_switch { Standing::MaySwitch } else { Standing::Ordinary }
    }

    /// Something else is spoken from now on.
    pub(super) fn switch(&self) {
        self.switched.store(true, Ordering::Relaxed);
    }
}

/// A client's stream, of which only what is sound can be read.
#[derive(Debug)]
pub(super) struct Guard<S> {
    io: S,
    framing: Framing,
    /// What has come and not gone on.
    held: BytesMut,
    /// So much of it may go on.
    free: usize,
    next: Next,
    heads: u32,
    noted: Waits,
    late: usize,
    post: Arc<Post>,
    counts: Arc<MalformedCounts>,
}

/// What comes after what may go on.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// More.
    Bytes,
    Substitute(&'static [u8]),
    Error(Malformed),
    /// As if the client had closed.
    End,
    Nothing,
}

/// How a head begins, as far as its answer depends on it.
#[derive(Clone, Copy, Debug)]
enum Beginning {
    Head,
    Http2,
    Other,
}

impl Beginning {
    fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(b"HEAD ") {
            Self::Head
        } else if bytes.starts_with(HTTP2) {
            Self::Http2
        } else {
            Self::Other
        }
    }
}

impl<S> Guard<S> {
    pub(super) fn new(
        io: S,
        framing: Framing,
        post: Arc<Post>,
        counts: Arc<MalformedCounts>,
    ) -> Self {
        Self {
            io,
            framing,
            held: BytesMut::new(),
            free: 0,
            next: Next::Bytes,
            heads: 0,
            noted: Waits::Not,
            late: 0,
            post,
            counts,
        }
    }

    fn note(&mut self, waits: Waits) {
        if self.noted == waits {
            return;
        }
        self.noted = waits;
        let packed = match waits {
            Waits::Not => 0,
            Waits::Head(number) => number << 2 | 2,
            Waits::Late => 3,
        };
        self.post.waits.store(packed, Ordering::Relaxed);
    }

    /// Says what the client is to send now, having sent nothing more.
    fn note_pending(&mut self) {
        match (self.framing.stage(self.held.len()), self.noted) {
            (Stage::Head, Waits::Head(_)) => {}
            (Stage::Head, _) => {
                self.heads = self.heads.wrapping_add(1) & (u32::MAX >> 2);
                self.note(Waits::Head(self.heads));
            }
            _ => self.note(Waits::Not),
        }
    }

    /// `begins` is how the head begins, if it is one that the verdict is about.
    fn follow(&mut self, verdict: Verdict, begins: Beginning) {
        let malformed = match verdict {
            Verdict::Sound => {
                if self.framing.may_switch() {
                    self.post.may_switch.store(true, Ordering::Relaxed);
                }
                return;
            }
            Verdict::Refused(malformed) => {
                self.next = match begins {
                    Beginning::Head => Next::Substitute(SUBSTITUTE_WITHOUT_CONTENT),
                    Beginning::Http2 => Next::End,
                    Beginning::Other => Next::Substitute(SUBSTITUTE),
                };
                malformed
            }
            Verdict::Broken(malformed) => {
                self.next = Next::Error(malformed);
                malformed
            }
        };
        self.counts.count(malformed);
        let place = Malformed::ALL.iter().position(|it| *it == malformed);
        let number = place.map_or(0, |place| place + 1);
        self.post.malformed.store(u8::try_from(number).unwrap_or(0), Ordering::Relaxed);
    }

    /// Looks at what is held back, of which nothing may go on yet.
    fn judge_held(&mut self) {
        let judged = self.framing.judge(&self.held);
        self.free = judged.passed;
        let begins = Beginning::of(&self.held[judged.passed..]);
        self.follow(judged.verdict, begins);
        if judged.verdict != Verdict::Sound {
            self.held.truncate(self.free);
        }
    }

    /// Looks at what was read into `buffer` behind its first `before` bytes, and takes out of it what may
    /// not go on.
    fn judge_in_place(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let new = &buffer.filled()[before..];
        let judged = self.framing.judge(new);
        let rest = &new[judged.passed..];
        if !rest.is_empty() && judged.verdict == Verdict::Sound {
            self.held.extend_from_slice(rest);
        }
        let begins = Beginning::of(rest);
        self.follow(judged.verdict, begins);
        buffer.set_filled(before + judged.passed);
    }

    fn give_up(&mut self) {
        let begins = Beginning::of(&self.held);
        self.framing.give_up();
        self.held.clear();
        self.follow(Verdict::Refused(Malformed::Slow), begins);
    }

    /// Whether the client may be sending still when its last answer has gone out.
    fn is_owed_more(&self) -> bool {
        !matches!(self.framing.stage(self.held.len()), Stage::Between | Stage::Other)
    }
}

impl<S: AsyncRead + Unpin> Guard<S> {
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.held.len() >= MOST_EARLY && self.framing.stage(1) == Stage::Answer {
            return Poll::Pending;
        }
        self.held.reserve(PIECE);
        pin!(self.io.read_buf(&mut self.held)).poll(cx)
    }

    /// Reads into `buffer`, perhaps nothing that may go on. Whether the end has come.
    fn poll_new(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        if !self.held.is_empty() {
            let read = ready!(self.poll_more(cx))?;
            if read > 0 {
                self.judge_held();
            }
            return Poll::Ready(Ok(read == 0));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        if buffer.filled().len() == before {
            return Poll::Ready(Ok(true));
        }
        self.judge_in_place(buffer, before);
        Poll::Ready(Ok(false))
    }

    /// Takes in what still comes, until the client closes or it is too much.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.note(Waits::Late);
        while self.late < MOST_LATE {
            self.held.clear();
            self.held.reserve(PIECE);
            match ready!(pin!(self.io.read_buf(&mut self.held)).poll(cx)) {
                Ok(read @ 1..) => self.late += read,
                Ok(0) | Err(_) => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        loop {
            if this.free > 0 {
                let there = this.free.min(buffer.remaining());
                buffer.put_slice(&this.held[..there]);
                this.held.advance(there);
                this.free -= there;
                if this.held.is_empty() {
                    // Whatever it took to be held: connections last.
                    this.held = BytesMut::new();
                }
            }
            if buffer.filled().len() > before || buffer.remaining() == 0 {
                this.note(Waits::Not);
                return Poll::Ready(Ok(()));
            }
            match std::mem::replace(&mut this.next, Next::Nothing) {
                Next::Bytes => this.next = Next::Bytes,
                Next::Substitute(head) => {
                    this.held.extend_from_slice(head);
                    this.free = head.len();
                    continue;
                }
                Next::Error(malformed) => {
                    this.note(Waits::Not);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, malformed)));
                }
                Next::End => {
                    // Whoever finds out the version first asks twice.
                    this.next = Next::End;
                    this.note(Waits::Not);
                    return Poll::Ready(Ok(()));
                }
                // Nobody will wake this up: what happens next is an answer, and then the end.
                Next::Nothing => return Poll::Pending,
            }
            let stage = this.framing.stage(this.held.len());
            if stage == Stage::Head && this.post.is_late.load(Ordering::Relaxed) {
                this.give_up();
                continue;
            }
            if stage == Stage::Answer && this.post.switched.load(Ordering::Relaxed) {
                this.framing.switch();
                this.free = this.held.len();
                continue;
            }
            match this.poll_new(cx, buffer) {
                Poll::Ready(Ok(false)) => {}
                Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    this.note_pending();
                    return Poll::Pending;
                }
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.noted != Waits::Late {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            if !self.is_owed_more() {
                return Poll::Ready(Ok(()));
            }
        }
        self.poll_late(cx).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }
}
