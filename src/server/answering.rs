//! An answer on its way, and whether its client takes it.
//!
//! hyper asks for the next piece when there is room for it. An answer that has given one, and is not
//! asked again, waits for its client: the socket is full, or the window of an HTTP/2 stream is. This
//! sees both, where a look at the socket would see the first only.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::connection::Busy;
use crate::proxy::Outbound;
use crate::upstream::AnswerError;

/// The connection is busy until it is dropped.
pub(super) struct Answering {
    content: Outbound,
    busy: Busy,
    /// Whether it is the client who has to go on.
    is_owed: bool,
}

impl Answering {
    pub(super) fn new(content: Outbound, busy: Busy) -> Self {
        let mut answering = Self { content, busy, is_owed: false };
        answering.owe(!answering.content.is_end_stream());
        answering
    }

    fn owe(&mut self, is_owed: bool) {
        if is_owed != self.is_owed {
            self.is_owed = is_owed;
            self.busy.owe(is_owed);
        }
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.owe(false);
    }
}

impl Body for Answering {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let frame = Pin::new(&mut self.content).poll_frame(cx);
        match &frame {
            Poll::Ready(Some(Ok(frame))) => {
                let size = frame.data_ref().map_or(0, Bytes::len);
                self.busy.gave(size);
                self.owe(true);
            }
            Poll::Pending | Poll::Ready(_) => self.owe(false),
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.content.size_hint()
    }
}
