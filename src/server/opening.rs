//! The first bytes of an HTTP/2 connection, which have to come in time.
//!
//! hyper waits for the preface for ever. Where clear text may be either version, a guard sees the first
//! bytes, and `patience` is for both; this is for whoever has chosen HTTP/2 in a TLS handshake.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::timers::{Deadline, Timers};

/// The preface of HTTP/2 (RFC 9113 §3.4); after as many bytes the version is known.
const PREFACE: usize = 24;

/// How much has come of a preface. Not longer than that takes, anything is counted.
type Arrived = Arc<AtomicUsize>;

/// Whether a connection has begun.
#[derive(Debug)]
pub(super) struct Opening {
    arrived: Arrived,
    deadline: Option<Deadline>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Opening,
    Open,
    Late,
}

impl Opening {
    /// For a client that has chosen HTTP/2.
    pub(super) fn of<S>(stream: S) -> (Self, Counted<S>) {
        let arrived = Arrived::default();
        let counted = Counted { stream, arrived: Arc::clone(&arrived) };
        (Self { arrived, deadline: None }, counted)
    }

    pub(super) fn poll(&mut self, timers: &Timers, limit: Duration, cx: &Context<'_>) -> State {
        if self.arrived.load(Ordering::Relaxed) >= PREFACE {
            return State::Open;
        }
        let deadline = self.deadline.get_or_insert_with(|| timers.deadline(limit));
        if deadline.poll(cx).is_ready() { State::Late } else { State::Opening }
    }
}

/// A stream that counts its first bytes.
#[derive(Debug)]
pub(super) struct Counted<S> {
    stream: S,
    arrived: Arrived,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let arrived = self.arrived.load(Ordering::Relaxed);
        if arrived < PREFACE {
            self.arrived.store(arrived + buffer.filled().len() - before, Ordering::Relaxed);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
