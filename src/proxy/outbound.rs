//! The content of an answer on its way to the client.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::body::Outgoing;
use super::in_flight::InFlight;
use super::links::body::Rewritten;
use crate::upstream::{AnswerError, Content};

type Upstream = Content<Outgoing<Incoming>>;

/// RingCentral's content, perhaps with its beginning read already; or the proxy's own.
#[allow(missing_debug_implementations, reason = "content is not for logs")]
pub struct Outbound {
    prefix: Bytes,
    rest: Rest,
    /// Until all of it has been passed on.
    in_flight: Option<InFlight>,
}

/// What follows the prefix.
enum Rest {
    Nothing,
    Upstream(Rewritten<Upstream>),
    /// The connection broke while the prefix was read: so must ours.
    Broken(Option<AnswerError>),
}

impl Outbound {
    /// The proxy's own content.
    pub(super) fn local(content: Bytes) -> Self {
        Self { prefix: content, rest: Rest::Nothing, in_flight: None }
    }

    /// RingCentral's content, none of which has been read.
    pub(super) fn upstream(content: Rewritten<Upstream>) -> Self {
        Self { prefix: Bytes::new(), rest: Rest::Upstream(content), in_flight: None }
    }

    /// Reads `content` up to its end, or until `limit` bytes are there.
    pub(super) async fn read_prefix(mut content: Upstream, limit: usize) -> Self {
        let mut prefix = BytesMut::new();
        while prefix.len() < limit && !content.is_end_stream() {
            match content.frame().await {
                Some(Ok(frame)) => prefix.extend_from_slice(frame.data_ref().map_or(&[], |d| d)),
                Some(Err(error)) => {
                    let rest = Rest::Broken(Some(error));
                    return Self { prefix: prefix.freeze(), rest, in_flight: None };
                }
                None => break,
            }
        }
        // What refuses a request leads nowhere.
        let rest = Rest::Upstream(Rewritten::untouched(content));
        Self { prefix: prefix.freeze(), rest, in_flight: None }
    }

    /// The request counts as in flight while this is being passed on.
    pub(super) fn keeps(&mut self, in_flight: Option<InFlight>) {
        self.in_flight = in_flight;
    }

    /// What has been read.
    pub(super) fn prefix(&self) -> &[u8] {
        &self.prefix
    }
}

impl Body for Outbound {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if !self.prefix.is_empty() {
            let prefix = std::mem::take(&mut self.prefix);
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        match &mut self.rest {
            Rest::Nothing => Poll::Ready(None),
            Rest::Upstream(content) => Pin::new(content).poll_frame(cx),
            Rest::Broken(error) => Poll::Ready(error.take().map(Err)),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.prefix.is_empty()
            && match &self.rest {
                Rest::Nothing => true,
                Rest::Upstream(content) => content.is_end_stream(),
                Rest::Broken(error) => error.is_none(),
            }
    }

    fn size_hint(&self) -> SizeHint {
        let prefix = self.prefix.len() as u64;
        let mut hint = match &self.rest {
            Rest::Nothing => return SizeHint::with_exact(prefix),
            Rest::Upstream(content) => content.size_hint(),
            Rest::Broken(_) => SizeHint::new(),
        };
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + prefix);
        }
        hint.set_lower(hint.lower() + prefix);
        hint
    }
}
