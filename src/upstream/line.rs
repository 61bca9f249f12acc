//! An HTTP/1.1 connection to the origin, and what wakes its task.
//!
//! hyper wakes the task of a connection whenever a piece of an answer is taken off its hands, so that it
//! reads the next. It does so for the last piece too, of which its task has let go before: a run in vain
//! for each answer. So the task has a waker here that can be muffled meanwhile. All of this happens on
//! one thread.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;

/// A connection that requests go out on.
pub(super) struct Line<B> {
    pub(super) sender: SendRequest<B>,
    bell: Arc<Bell>,
}

impl<B> Line<B> {
    /// `connection` is what drives it; to be driven by what is returned.
    pub(super) fn new<C: Future + Unpin>(
        sender: SendRequest<B>,
        mut connection: C,
    ) -> (Self, impl Future<Output = C::Output>) {
        let bell = Arc::<Bell>::default();
        let (line, waker) =
            (Self { sender, bell: Arc::clone(&bell) }, Waker::from(Arc::clone(&bell)));
        let driven = poll_fn(move |cx| {
            bell.task.get_or_init(|| cx.waker().clone());
            Pin::new(&mut connection).poll(&mut Context::from_waker(&waker))
        });
        (line, driven)
    }

    /// Takes a piece of the answer that comes on it.
    pub(super) fn poll_frame(
        &self,
        content: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.bell.is_muffled.store(true, Ordering::Relaxed);
        let frame = Pin::new(&mut *content).poll_frame(cx);
        self.bell.is_muffled.store(false, Ordering::Relaxed);
        if self.bell.has_rung.swap(false, Ordering::Relaxed) && !content.is_end_stream() {
            self.bell.ring();
        }
        frame
    }
}

/// Wakes the task of a connection.
#[derive(Debug, Default)]
struct Bell {
    /// Known once it has run.
    task: OnceLock<Waker>,
    is_muffled: AtomicBool,
    /// While it was muffled.
    has_rung: AtomicBool,
}

impl Bell {
    fn ring(&self) {
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.is_muffled.load(Ordering::Relaxed) {
            self.has_rung.store(true, Ordering::Relaxed);
        } else {
            self.ring();
        }
    }
}
