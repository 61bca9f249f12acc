//! A client's stream with its place, and what it takes of its answers.
//!
//! hyper keeps up to [`BUFFER`] of an answer that is over for RingCentral, and a request behind it waits
//! unheard until that is written. Whether the client takes it only the stream sees.
//!
//! [`BUFFER`]: super::worker

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::guard::Post;
use super::places::Place;

/// Notes between a stream and the task that serves its connection. On one thread, as all of [`Post`].
#[derive(Debug, Default)]
pub(super) struct Outlet {
    written: AtomicU64,
    is_full: AtomicBool,
    is_cut: AtomicBool,
}

impl Outlet {
    fn note(&self, wrote: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(size)) = wrote {
            let written = self.written.load(Ordering::Relaxed) + *size as u64;
            self.written.store(written, Ordering::Relaxed);
        }
        self.is_full.store(wrote.is_pending(), Ordering::Relaxed);
    }

    /// What has been written while more is waiting to be; nothing if none is.
    pub(super) fn backed_up_at(&self) -> Option<u64> {
        let is_full = self.is_full.load(Ordering::Relaxed);
        is_full.then(|| self.written.load(Ordering::Relaxed))
    }

    /// The end is to be an abort.
    pub(super) fn cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }
}

/// A stream whose end can be an abort.
pub(super) trait Abort {
    /// What was written and not taken is to be forgotten.
    fn abort(&self);
}

impl Abort for TcpStream {
    fn abort(&self) {
        // An orderly end waits behind megabytes that the kernel would keep for whoever takes none.
        if let Err(error) = self.set_zero_linger() {
            tracing::debug!(%error, "an abort was refused");
        }
    }
}

impl Abort for UnixStream {
    /// There is no such end, and what the kernel keeps is little.
    fn abort(&self) {}
}

/// A stream that has a place, for as long as anybody has it: a WebSocket, too.
#[derive(Debug)]
pub(super) struct Seated<S: Abort> {
    stream: S,
    post: Arc<Post>,
    _place: Place,
}

impl<S: Abort> Seated<S> {
    pub(super) fn new(stream: S, place: Place, post: Arc<Post>) -> Self {
        Self { stream, post, _place: place }
    }
}

impl<S: Abort> Drop for Seated<S> {
    fn drop(&mut self) {
        if self.post.outlet.is_cut.load(Ordering::Relaxed) {
            self.stream.abort();
        }
    }
}

impl<S: Abort + AsyncRead + Unpin> AsyncRead for Seated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Abort + AsyncWrite + Unpin> AsyncWrite for Seated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.post.outlet.note(&wrote);
        wrote
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.post.outlet.note(&wrote);
        wrote
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
