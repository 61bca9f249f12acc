//! Answers made wrong on purpose.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, RETRY_AFTER};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;

use super::fault::Garbage;
use super::listen::Link;
use super::reply::{BodyError, Content, JSON, Reply, refusal, text, with};

/// The status on order.
pub(super) fn status(code: u16, body: Option<String>, retry_after: Option<u64>) -> Reply {
    let code = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reply = match body {
        Some(body) => text(code, JSON, body),
        None => refusal(code, "CMN-211", "Out of order by order"),
    };
    match retry_after {
        Some(secs) => with(reply, RETRY_AFTER, &secs.to_string()),
        None => reply,
    }
}

/// Something else in place of a good answer; refusals are left as they are.
pub(super) fn garbage(reply: Reply, garbage: Garbage) -> Reply {
    match garbage {
        Garbage::Html => text(StatusCode::OK, "text/html", PAGE),
        Garbage::Huge { bytes } => huge(bytes),
        Garbage::TruncatedJson => change(reply, |content| content.slice(..content.len() / 2)),
        Garbage::ExpiresIn(value) => change_json(reply, |body| body["expires_in"] = value),
        Garbage::MissingAccessToken => change_json(reply, |body| {
            body.as_object_mut().map(|members| members.remove("access_token"));
        }),
    }
}

/// The answer with its length announced, of which only the beginning arrives.
pub(super) fn truncate(reply: Reply, after: u64) -> Reply {
    let length = reply.body().size_hint().exact();
    let reply =
        reply.map(|inner| Content::stream(Truncated { inner, left: after, flushed: false }));
    match length {
        Some(length) => with(reply, CONTENT_LENGTH, &length.to_string()),
        None => reply,
    }
}

/// The answer, after which the connection is closed without a word.
pub(super) fn close_after(reply: Reply, link: Arc<Link>) -> Reply {
    reply.map(|inner| Content::stream(Closing { inner, link }))
}

/// The head of the answer, with the length of the content that stays away (RFC 9110 §9.3.2).
pub(super) fn head_only(reply: Reply) -> Reply {
    let length = reply.body().size_hint().exact();
    let reply = reply.map(|_| Content::Whole(None));
    match length {
        Some(length) if length > 0 => with(reply, CONTENT_LENGTH, &length.to_string()),
        _ => reply,
    }
}

fn change(reply: Reply, change: impl FnOnce(Bytes) -> Bytes) -> Reply {
    let good = reply.status().is_success();
    reply.map(|content| match content {
        Content::Whole(Some(bytes)) if good => Content::Whole(Some(change(bytes))),
        other => other,
    })
}

fn change_json(reply: Reply, alter: impl FnOnce(&mut Value)) -> Reply {
    change(reply, |content| match serde_json::from_slice(&content) {
        Ok(mut body) => {
            alter(&mut body);
            body.to_string().into()
        }
        Err(_) => content,
    })
}

/// A JSON string that never seems to end, sent as it is made.
fn huge(bytes: u64) -> Reply {
    let reply = Response::new(Content::stream(Huge { left: bytes }));
    let reply = with(reply, http::header::CONTENT_TYPE, JSON);
    with(reply, CONTENT_LENGTH, &bytes.to_string())
}

struct Huge {
    left: u64,
}

impl Body for Huge {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let length = usize::try_from(self.left).unwrap_or(FILLER.len()).min(FILLER.len());
        self.left -= length as u64;
        let frame = (length > 0).then(|| Ok(Frame::data(Bytes::from_static(&FILLER[..length]))));
        Poll::Ready(frame)
    }
}

struct Truncated {
    inner: Content,
    left: u64,
    flushed: bool,
}

impl Body for Truncated {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.left == 0 && !self.flushed {
            // An error makes hyper discard what it has not written yet; a pause makes it write.
            self.flushed = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.left == 0 {
            // Given way once, so that what there is gets sent before the connection ends.
            if !std::mem::replace(&mut self.flushed, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Some(Err("truncated by order".into())));
        }
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        let Some(Ok(Ok(mut data))) = frame.map(|frame| frame.map(Frame::into_data)) else {
            return Poll::Ready(Some(Err("truncated by order".into())));
        };
        data.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= data.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(data))))
    }
}

struct Closing {
    inner: Content,
    link: Arc<Link>,
}

impl Body for Closing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        self.link.close.notify_one();
    }
}

const PAGE: &str = "<!DOCTYPE html><html><body><h1>Service portal</h1></body></html>\n";
static FILLER: [u8; 16 * 1024] = [b' '; 16 * 1024];
