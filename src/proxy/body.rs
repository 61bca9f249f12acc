//! The content of a request on its way upstream, kept while it streams so that it can be sent again.
//!
//! Nothing is held back: every piece is passed on as it comes, and kept beside. Content that
//! outgrows its limit goes on streaming and merely becomes impossible to replay. A later
//! [`Attempt`] takes the source over from an earlier one at any point, so an early 401 does not have
//! to wait for the rest of an upload.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::replay::Content;
use crate::upstream::{Stage, Upload};

/// The memory that all kept content of a process may use together.
#[derive(Clone, Debug)]
pub struct ReplayMemory(Arc<Account>);

#[derive(Debug)]
struct Account {
    used: AtomicUsize,
    cap: usize,
}

impl ReplayMemory {
    /// An account of `cap` bytes.
    pub fn new(cap: usize) -> Self {
        Self(Arc::new(Account { used: AtomicUsize::new(0), cap }))
    }

    /// Bytes in use now.
    pub fn used(&self) -> usize {
        self.0.used.load(Ordering::Relaxed)
    }

    /// Bytes that may be in use.
    pub fn cap(&self) -> usize {
        self.0.cap
    }

    fn take(&self, bytes: usize) -> bool {
        let cap = self.0.cap;
        let grow = |used: usize| used.checked_add(bytes).filter(|after| *after <= cap);
        self.0.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grow).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.0.used.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// How much of one request's content is kept, and on whose account.
#[derive(Clone, Debug)]
pub struct KeepLimit {
    /// Bytes of one request.
    pub max_bytes: usize,
    /// Bytes of one request that may pass at all.
    pub max_request_bytes: u64,
    /// The account that all requests share.
    pub memory: ReplayMemory,
}

/// The least that a kept piece is charged for: content in many small ones takes more memory than its
/// bytes.
const PIECE: usize = 64;

/// The content of one client request; hands out one [`Outgoing`] per send.
pub enum Replayable<S> {
    /// There is none.
    Empty,
    /// It streams past once: its length is known to be over the limit.
    Once(Option<S>, Progress),
    /// It is kept as it streams.
    Kept(Rc<RefCell<Kept<S>>>),
}

impl<S: Body<Data = Bytes> + Unpin> Replayable<S> {
    /// Decides by the announced length how `source` is to be treated.
    pub fn new(source: S, limit: &KeepLimit) -> Self {
        if source.is_end_stream() {
            return Self::Empty;
        }
        let hint = source.size_hint();
        if hint.lower() > limit.max_bytes as u64 {
            return Self::Once(Some(source), Progress::default());
        }
        Self::Kept(Rc::new(RefCell::new(Kept::new(source, hint, limit.clone()))))
    }

    /// The content from its beginning; `None` if that is gone. Earlier attempts end with an error,
    /// which makes the connection they are on close rather than look finished.
    pub fn attempt(&mut self) -> Option<Outgoing<S>> {
        match self {
            Self::Empty => Some(Outgoing::Empty),
            Self::Once(source, progress) => {
                source.take().map(|source| Outgoing::Once(source, Rc::clone(progress)))
            }
            Self::Kept(kept) => Kept::attempt(kept).map(Outgoing::Kept),
        }
    }

    /// Whether another [`Replayable::attempt`] would get the content.
    pub fn state(&self) -> Content {
        match self {
            Self::Empty | Self::Once(Some(_), _) => Content::Kept,
            Self::Once(None, _) => Content::TooLong,
            Self::Kept(kept) => kept.borrow().state,
        }
    }

    /// How much has passed, over all attempts, and who has to do something about the rest.
    pub fn progress(&self) -> Upload {
        match self {
            Self::Empty => Upload { bytes: 0, stage: Stage::Over },
            Self::Once(_, progress) => {
                Upload { bytes: progress.bytes.get(), stage: progress.stage.get() }
            }
            Self::Kept(kept) => kept.borrow().progress(),
        }
    }
}

type Progress = Rc<Passing>;

/// How far content has come that streams past once.
#[derive(Debug, Default)]
pub struct Passing {
    bytes: Cell<u64>,
    stage: Cell<Stage>,
}

impl Passing {
    fn note<S: Body<Data = Bytes>>(&self, piece: Option<&Frame<Bytes>>, source: &S) {
        let size = piece.and_then(Frame::data_ref).map_or(0, Bytes::len);
        self.bytes.set(self.bytes.get() + size as u64);
        let is_over = piece.is_none() || source.is_end_stream();
        self.stage.set(if is_over { Stage::Over } else { Stage::There });
    }
}

type Piece<E> = Result<Frame<Bytes>, ContentError<E>>;

/// What one send reads.
pub enum Outgoing<S> {
    /// No content.
    Empty,
    /// Straight from the client, counting pieces.
    Once(S, Progress),
    /// From what was kept, then on from the client.
    Kept(Attempt<S>),
}

/// Why the content of a send ended early.
#[derive(Debug, thiserror::Error)]
pub enum ContentError<E> {
    /// The client broke off.
    #[error("the client broke its request off")]
    Client(#[source] E),
    /// A later attempt took over.
    #[error("the request is being sent again")]
    Superseded,
    /// No request may be as long.
    #[error("the request is longer than proxy.max_request_bytes")]
    OverLimit,
}

/// Content that is kept as it streams past.
pub struct Kept<S> {
    source: S,
    hint: SizeHint,
    limit: KeepLimit,
    /// The pieces so far; empty once `state` is no longer `Content::Kept`.
    pieces: Vec<Bytes>,
    size: usize,
    /// What is on the account for them.
    charged: usize,
    trailers: Option<HeaderMap>,
    finished: bool,
    state: Content,
    /// The number of the attempt that may read.
    current: u8,
    started: bool,
    /// Bytes that have come from the client.
    received: u64,
    /// Bytes that have passed, over all attempts.
    passed: u64,
    /// Whether the client has to send more before anything can go on.
    awaited: bool,
    reader: Option<Waker>,
}

impl<S: Body<Data = Bytes> + Unpin> Kept<S> {
    fn new(source: S, hint: SizeHint, limit: KeepLimit) -> Self {
        Self {
            source,
            hint,
            limit,
            pieces: Vec::new(),
            size: 0,
            charged: 0,
            trailers: None,
            finished: false,
            state: Content::Kept,
            current: 0,
            started: false,
            received: 0,
            passed: 0,
            awaited: false,
            reader: None,
        }
    }

    fn attempt(this: &Rc<RefCell<Self>>) -> Option<Attempt<S>> {
        let mut kept = this.borrow_mut();
        if kept.state != Content::Kept {
            return None;
        }
        if kept.started {
            kept.current += 1;
        }
        kept.started = true;
        if let Some(superseded) = kept.reader.take() {
            superseded.wake();
        }
        Some(Attempt { kept: Rc::clone(this), number: kept.current, next: 0 })
    }

    fn progress(&self) -> Upload {
        let stage = match self.awaited {
            _ if self.finished || self.source.is_end_stream() => Stage::Over,
            true => Stage::Awaited,
            false => Stage::There,
        };
        Upload { bytes: self.passed, stage }
    }

    fn poll_source(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece<S::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.source).poll_frame(cx) else {
            self.awaited = true;
            self.remember_reader(cx);
            return Poll::Pending;
        };
        self.awaited = false;
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                self.received += frame.data_ref().map_or(0, Bytes::len) as u64;
                if self.received > self.limit.max_request_bytes {
                    self.drop_kept(Content::OverLimit);
                    self.state = Content::OverLimit;
                    return Poll::Ready(Some(Err(ContentError::OverLimit)));
                }
                self.keep(&frame);
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                self.drop_kept(Content::Broken);
                Some(Err(ContentError::Client(error)))
            }
            None => {
                self.finished = true;
                None
            }
        })
    }

    fn remember_reader(&mut self, cx: &Context<'_>) {
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.state != Content::Kept {
            return;
        }
        match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => self.keep_piece(data),
            (None, Some(trailers)) => self.trailers = Some(trailers.clone()),
            (None, None) => {}
        }
    }

    fn keep_piece(&mut self, piece: &Bytes) {
        if piece.is_empty() {
            return;
        }
        if self.size + piece.len() > self.limit.max_bytes {
            self.drop_kept(Content::TooLong);
        } else if !self.limit.memory.take(piece.len().max(PIECE)) {
            self.drop_kept(Content::MemoryFull);
        } else {
            self.size += piece.len();
            self.charged += piece.len().max(PIECE);
            // A copy, not a clone: a clone would pin the whole read buffer the piece is part of,
            // which the account knows nothing of, and make the next read allocate a new one.
            self.pieces.push(Bytes::copy_from_slice(piece));
        }
    }

    fn drop_kept(&mut self, state: Content) {
        if self.state == Content::Kept {
            self.state = state;
        }
        (self.pieces, self.size) = (Vec::new(), 0);
        self.limit.memory.give_back(std::mem::take(&mut self.charged));
    }
}

impl<S> Drop for Kept<S> {
    fn drop(&mut self) {
        self.limit.memory.give_back(self.charged);
    }
}

/// One reading of kept content, from its beginning.
pub struct Attempt<S> {
    kept: Rc<RefCell<Kept<S>>>,
    number: u8,
    /// The kept piece to read next; past the last, the source is next.
    next: usize,
}

impl<S: Body<Data = Bytes> + Unpin> Attempt<S> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Piece<S::Error>>> {
        let mut kept = self.kept.borrow_mut();
        if kept.current != self.number {
            return Poll::Ready(Some(Err(ContentError::Superseded)));
        }
        if let Some(piece) = kept.pieces.get(self.next) {
            let piece = piece.clone();
            self.next += 1;
            kept.passed += piece.len() as u64;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if let Some(trailers) = kept.trailers.clone().filter(|_| self.next == kept.pieces.len()) {
            self.next += 1;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        if kept.finished {
            return Poll::Ready(None);
        }
        let frame = loop {
            let frame = ready!(kept.poll_source(cx));
            match &frame {
                // Nothing is kept of it either.
                Some(Ok(piece)) if piece.data_ref().is_some_and(Bytes::is_empty) => {}
                _ => break frame,
            }
        };
        let size = frame.as_ref().and_then(|it| it.as_ref().ok()).and_then(Frame::data_ref);
        kept.passed += size.map_or(0, Bytes::len) as u64;
        self.next += 1;
        Poll::Ready(frame)
    }
}

impl<S> Body for Outgoing<S>
where
    S: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = ContentError<S::Error>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Once(source, progress) => {
                let Poll::Ready(frame) = Pin::new(&mut *source).poll_frame(cx) else {
                    progress.stage.set(Stage::Awaited);
                    return Poll::Pending;
                };
                progress.note(frame.as_ref().and_then(|it| it.as_ref().ok()), source);
                Poll::Ready(frame.map(|frame| frame.map_err(ContentError::Client)))
            }
            Self::Kept(attempt) => attempt.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Once(source, _) => source.is_end_stream(),
            // Asked by hyper after each piece; without it a body of known length costs one more poll.
            Self::Kept(attempt) => {
                let kept = attempt.kept.borrow();
                attempt.next >= kept.pieces.len() + usize::from(kept.trailers.is_some())
                    && (kept.finished || kept.source.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Once(source, _) => source.size_hint(),
            // hyper asks once, before it sends the head.
            Self::Kept(attempt) => attempt.kept.borrow().hint,
        }
    }
}

impl<S> fmt::Debug for Outgoing<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Outgoing::Empty",
            Self::Once(..) => "Outgoing::Once",
            Self::Kept(_) => "Outgoing::Kept",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use futures_util::FutureExt;
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    /// Content that comes in the given pieces, with nothing known of its length.
    struct Pieces(VecDeque<Frame<Bytes>>);

    impl Pieces {
        fn of(pieces: &[&'static str]) -> Self {
            Self(
                pieces
                    .iter()
                    .map(|piece| Frame::data(Bytes::from_static(piece.as_bytes())))
                    .collect(),
            )
        }
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn limit(max_bytes: usize, cap: usize) -> KeepLimit {
        KeepLimit { max_bytes, max_request_bytes: u64::MAX, memory: ReplayMemory::new(cap) }
    }

    fn next(body: &mut Outgoing<Pieces>) -> Option<Frame<Bytes>> {
        let frame = body.frame().now_or_never().expect("pieces are always ready");
        frame.map(|frame| frame.expect("not superseded"))
    }

    fn text(body: &mut Outgoing<Pieces>) -> String {
        let mut text = String::new();
        while let Some(frame) = next(body) {
            text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
        text
    }

    #[test]
    fn a_second_attempt_reads_the_same_from_the_beginning() {
        let limit = limit(100, 1000);
        let mut content = Replayable::new(Pieces::of(&["one ", "two ", "three"]), &limit);
        assert_eq!(text(&mut content.attempt().unwrap()), "one two three");
        assert_eq!(content.state(), Content::Kept);
        assert_eq!(limit.memory.used(), 3 * PIECE);
        assert_eq!(text(&mut content.attempt().unwrap()), "one two three");
        drop(content);
        assert_eq!(limit.memory.used(), 0);
    }

    #[test]
    fn a_second_attempt_takes_over_in_the_middle() {
        let mut content =
            Replayable::new(Pieces::of(&["one ", "two ", "three"]), &limit(100, 1000));
        let mut first = content.attempt().unwrap();
        assert_eq!(next(&mut first).unwrap().into_data().unwrap(), "one ");
        let mut second = content.attempt().unwrap();
        let superseded = first.frame().now_or_never().unwrap().unwrap();
        assert!(matches!(superseded, Err(ContentError::Superseded)));
        assert_eq!(text(&mut second), "one two three");
    }

    #[test]
    fn content_over_the_limit_streams_on_and_gives_its_memory_back() {
        let limit = limit(7, 1000);
        let mut content = Replayable::new(Pieces::of(&["one ", "two ", "three"]), &limit);
        assert_eq!(text(&mut content.attempt().unwrap()), "one two three");
        assert_eq!(content.state(), Content::TooLong);
        assert!(content.attempt().is_none());
        assert_eq!(limit.memory.used(), 0);
    }

    #[test]
    fn the_shared_account_is_never_overdrawn() {
        let limit = limit(100, 10 + PIECE);
        let mut one = Replayable::new(Pieces::of(&["12345678"]), &limit);
        let mut two = Replayable::new(Pieces::of(&["12345678"]), &limit);
        assert_eq!(text(&mut one.attempt().unwrap()), "12345678");
        assert_eq!(text(&mut two.attempt().unwrap()), "12345678");
        assert_eq!((one.state(), two.state()), (Content::Kept, Content::MemoryFull));
        assert_eq!(limit.memory.used(), PIECE);
    }

    #[test]
    fn announced_length_over_the_limit_is_not_even_tried() {
        let source = http_body_util::Full::new(Bytes::from_static(b"12345678"));
        let mut content = Replayable::new(source, &limit(7, 100));
        assert!(matches!(content.attempt(), Some(Outgoing::Once(..))));
        assert_eq!(content.state(), Content::TooLong);
        assert!(content.attempt().is_none());
    }

    #[test]
    fn trailers_are_replayed_too() {
        let mut source = Pieces::of(&["data"]);
        let trailers = HeaderMap::from_iter([(http::header::ETAG, "x".parse().unwrap())]);
        source.0.push_back(Frame::trailers(trailers.clone()));
        let mut content = Replayable::new(source, &limit(100, 1000));
        for _ in 0..2 {
            let mut attempt = content.attempt().unwrap();
            assert_eq!(next(&mut attempt).unwrap().into_data().unwrap(), "data");
            assert_eq!(next(&mut attempt).unwrap().into_trailers().unwrap(), trailers);
            assert!(next(&mut attempt).is_none());
        }
    }

    proptest! {
        /// However the content is cut and wherever the attempts break off, the last one that is
        /// read to its end gives all of it, and the account is settled afterwards.
        #[test]
        fn any_attempt_reads_everything(
            pieces in prop::collection::vec("[a-z]{1,9}", 1..8),
            breaks in prop::collection::vec(0_usize..9, 0..4),
        ) {
            let limit = limit(1000, 1000);
            let frames = pieces.iter().cloned().map(|piece| Frame::data(Bytes::from(piece)));
            let mut content = Replayable::new(Pieces(frames.collect()), &limit);
            for stop in breaks {
                let mut attempt = content.attempt().unwrap();
                for _ in 0..stop {
                    next(&mut attempt);
                }
            }
            prop_assert_eq!(text(&mut content.attempt().unwrap()), pieces.concat());
            drop(content);
            prop_assert_eq!(limit.memory.used(), 0);
        }
    }
}
