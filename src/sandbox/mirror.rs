//! The resource that sends every content back, frame by frame, trailers included.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, TRAILER};
use http::{HeaderMap, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::reply::{BodyError, Content, Reply};
use super::upload::Meter;
use super::visit::Visit;

/// Answers with the content itself; the visit is over when the stream is.
pub(super) fn reply(mut visit: Visit, fields: &HeaderMap, body: Incoming) -> Reply {
    let mut reply = Response::new(Content::Whole(None));
    for name in [CONTENT_TYPE, TRAILER] {
        if let Some(value) = fields.get(&name) {
            reply.headers_mut().insert(name, value.clone());
        }
    }
    let reply = visit.answered(reply);
    let mirror = Mirror { body, meter: Meter::default(), visit };
    reply.map(|_| Content::stream(mirror))
}

struct Mirror {
    body: Incoming,
    meter: Meter,
    visit: Visit,
}

impl Body for Mirror {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                this.meter.data(data);
            }
            if let Some(trailers) = frame.trailers_ref() {
                this.meter.trailers(trailers.clone());
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        let meter = std::mem::take(&mut self.meter);
        self.visit.uploaded(&meter.finish(Bytes::new()));
    }
}
