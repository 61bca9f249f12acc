//! Answers and their contents: the one body type that the sandbox's listeners send.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, IntoHeaderName};
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use serde_json::{Value, json};

/// An answer on its way out.
pub(super) type Reply = Response<Content>;

/// What reading a request or streaming an answer may fail with.
pub(super) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// The content of an answer.
pub(super) enum Content {
    /// All there at once.
    Whole(Option<Bytes>),
    /// Made while it is sent.
    Stream(UnsyncBoxBody<Bytes, BodyError>),
}

impl Content {
    pub(super) fn stream<B>(body: B) -> Self
    where
        B: Body<Data = Bytes, Error = BodyError> + Send + 'static,
    {
        Self::Stream(body.boxed_unsync())
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Stream(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(body) => body.size_hint(),
        }
    }
}

/// An answer without content.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Content::Whole(None));
    *reply.status_mut() = status;
    reply
}

/// An answer with content of the given type.
pub(super) fn text(status: StatusCode, media_type: &str, content: impl Into<Bytes>) -> Reply {
    let content = content.into();
    let mut reply = Response::new(Content::Whole(Some(content).filter(|bytes| !bytes.is_empty())));
    *reply.status_mut() = status;
    with(reply, CONTENT_TYPE, media_type)
}

/// A JSON answer.
pub(super) fn json(status: StatusCode, value: &Value) -> Reply {
    text(status, JSON, value.to_string())
}

/// A refusal in RingCentral's shape.
pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Reply {
    json(status, &error_body(code, code, message))
}

/// RingCentral's error body; `top` is the code outside the list, `code` the one inside.
pub(super) fn error_body(top: &str, code: &str, message: &str) -> Value {
    json!({
        "errorCode": top,
        "message": message,
        "errors": [{"errorCode": code, "message": message}],
    })
}

/// The answer with one more field; a value that no field can hold is left out.
pub(super) fn with(mut reply: Reply, name: impl IntoHeaderName, value: &str) -> Reply {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(name, value);
    }
    reply
}

/// The media type of JSON, as RingCentral writes it.
pub(super) const JSON: &str = "application/json;charset=utf-8";
