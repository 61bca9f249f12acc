//! Content that is rewritten as it streams past: memory for one piece at a time, whatever its length.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use super::LinkMap;
use super::fields::{self, Present, Treatment};
use super::json::JsonRewriter;
use super::multipart::MultipartRewriter;

/// Leads the links in an answer back to the proxy: those in its fields at once, those in its content
/// as it is read. What says of the content what no longer holds is taken out of the fields.
///
/// Where all of the content has come with the head, which is usual, its new length is known, and an
/// answer without links keeps every field.
///
/// Comes behind [`headers::to_client`](crate::proxy::headers::to_client), which would take
/// [`fields::LINKS_FIELD`] away as RingCentral's.
pub fn rewrite<B>(links: &Arc<LinkMap>, answer: Response<B>) -> Response<Rewritten<B>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let (mut head, mut content) = answer.into_parts();
    let present = Present::of(&head.headers);
    links.rewrite_present(present, &mut head.headers);
    let mut rewriter = match Treatment::knowing(present, head.status, &head.headers) {
        Treatment::Pass => return Response::from_parts(head, Rewritten::untouched(content)),
        Treatment::PassCompressed => {
            fields::note_compressed(&mut head.headers);
            return Response::from_parts(head, Rewritten::untouched(content));
        }
        Treatment::Json => Rewriter::Json(JsonRewriter::new(Arc::clone(links))),
        Treatment::Multipart(boundary) => {
            Rewriter::Multipart(MultipartRewriter::new(Arc::clone(links), boundary))
        }
    };
    let first = match at_hand(&mut content) {
        Some(Ok(frame)) if frame.is_data() && content.is_end_stream() => {
            let content_then = frame.into_data().unwrap_or_default();
            let place = content_then.as_ptr_range();
            let whole = rewriter.feed_all(content_then);
            if whole.as_ptr_range() != place {
                fields::adjust(&mut head.headers);
                head.headers.insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
            }
            return Response::from_parts(head, Rewritten { content, whole, work: None });
        }
        first => first,
    };
    fields::adjust(&mut head.headers);
    let work = Some(Box::new(Work { rewriter, first, end: End::NotYet }));
    Response::from_parts(head, Rewritten { content, whole: Bytes::new(), work })
}

/// What can be had of `content` without waiting.
fn at_hand<B: Body<Data = Bytes> + Unpin>(
    content: &mut B,
) -> Option<Result<Frame<Bytes>, B::Error>> {
    if content.is_end_stream() { None } else { content.frame().now_or_never().flatten() }
}

/// Content, perhaps with its links led back.
pub struct Rewritten<B: Body> {
    content: B,
    /// All of the content, rewritten, if it came with the head.
    whole: Bytes,
    /// Boxed: every connection has room for an answer.
    work: Option<Box<Work<B::Error>>>,
}

struct Work<E> {
    rewriter: Rewriter,
    /// What came with the head.
    first: Option<Result<Frame<Bytes>, E>>,
    end: End,
}

/// How the content came to its end.
#[derive(Debug)]
enum End {
    NotYet,
    Trailers(HeaderMap),
    Over,
}

#[derive(Debug)]
enum Rewriter {
    Json(JsonRewriter),
    Multipart(MultipartRewriter),
}

impl<B: Body> Rewritten<B> {
    /// Content that stays as it is.
    pub fn untouched(content: B) -> Self {
        Self { content, whole: Bytes::new(), work: None }
    }
}

impl<B: Body> fmt::Debug for Rewritten<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rewritten").field("whole", &self.whole.len()).finish_non_exhaustive()
    }
}

impl Rewriter {
    fn feed(&mut self, chunk: Bytes) -> Bytes {
        match self {
            Self::Json(json) => json.feed(chunk),
            Self::Multipart(multipart) => multipart.feed(chunk),
        }
    }

    fn finish(&mut self) -> Bytes {
        match self {
            Self::Json(json) => json.finish(),
            Self::Multipart(multipart) => multipart.finish(),
        }
    }

    /// A whole content: the same piece of memory if nothing had to be replaced.
    fn feed_all(&mut self, content: Bytes) -> Bytes {
        let (begin, rest) = (self.feed(content), self.finish());
        if rest.is_empty() { begin } else { [begin, rest].concat().into() }
    }

    fn is_idle(&self) -> bool {
        match self {
            Self::Json(json) => json.is_idle(),
            Self::Multipart(multipart) => multipart.is_idle(),
        }
    }
}

impl<E> Work<E> {
    /// What a frame becomes; `None` if all of it is held back.
    fn take(&mut self, frame: Frame<Bytes>) -> Option<Frame<Bytes>> {
        let piece = match frame.into_data() {
            Ok(data) => self.rewriter.feed(data),
            Err(frame) => {
                let mut trailers = frame.into_trailers().unwrap_or_default();
                fields::drop_digests(&mut trailers);
                self.end = End::Trailers(trailers);
                self.rewriter.finish()
            }
        };
        (!piece.is_empty()).then(|| Frame::data(piece))
    }

    /// What is left when the content has ended.
    fn end(&mut self) -> Option<Frame<Bytes>> {
        match std::mem::replace(&mut self.end, End::Over) {
            End::NotYet => {
                let rest = self.rewriter.finish();
                (!rest.is_empty()).then(|| Frame::data(rest))
            }
            End::Trailers(trailers) => Some(Frame::trailers(trailers)),
            End::Over => None,
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Rewritten<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let Self { content, whole, work } = &mut *self;
        if !whole.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(whole)))));
        }
        let Some(work) = work else { return Pin::new(content).poll_frame(cx) };
        while matches!(work.end, End::NotYet) {
            let next = match work.first.take() {
                Some(first) => Some(first),
                None => ready!(Pin::new(&mut *content).poll_frame(cx)),
            };
            match next {
                Some(Ok(frame)) => {
                    if let Some(frame) = work.take(frame) {
                        return Poll::Ready(Some(Ok(frame)));
                    }
                }
                // What is held back is lost with the rest.
                Some(Err(error)) => {
                    work.end = End::Over;
                    return Poll::Ready(Some(Err(error)));
                }
                None => break,
            }
        }
        Poll::Ready(work.end().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        match &self.work {
            None => self.whole.is_empty() && self.content.is_end_stream(),
            Some(work) => match work.end {
                End::NotYet => {
                    work.first.is_none() && self.content.is_end_stream() && work.rewriter.is_idle()
                }
                End::Trailers(_) => false,
                End::Over => true,
            },
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.work {
            None if self.whole.is_empty() => self.content.size_hint(),
            // Nothing is behind it.
            None => SizeHint::with_exact(self.whole.len() as u64),
            Some(_) if self.is_end_stream() => SizeHint::with_exact(0),
            // Links may grow and shrink.
            Some(_) => SizeHint::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http::header::{CONTENT_TYPE, ETAG, LOCATION};
    use http_body_util::{Empty, Full};

    use super::super::tests::links;
    use super::*;

    const JSON: &str = "application/json;charset=utf-8";

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    struct Broke;

    /// Content that comes in the given pieces.
    struct Pieces(VecDeque<Result<Frame<Bytes>, Broke>>);

    impl Pieces {
        fn of(pieces: &[&'static str]) -> Self {
            Self(pieces.iter().map(|piece| Ok(Frame::data(Bytes::from(*piece)))).collect())
        }

        fn then(mut self, end: Result<Frame<Bytes>, Broke>) -> Self {
            self.0.push_back(end);
            self
        }
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Broke;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Broke>>> {
            Poll::Ready(self.0.pop_front())
        }

        fn is_end_stream(&self) -> bool {
            self.0.is_empty()
        }
    }

    fn answer<B>(content_type: &str, content: B) -> Response<B> {
        Response::builder().header(CONTENT_TYPE, content_type).body(content).unwrap()
    }

    fn rewritten<B: Body<Data = Bytes> + Unpin>(answer: Response<B>) -> Response<Rewritten<B>> {
        rewrite(&Arc::new(links()), answer)
    }

    fn next<B: Body<Data = Bytes> + Unpin>(
        body: &mut Rewritten<B>,
    ) -> Option<Result<Frame<Bytes>, B::Error>> {
        body.frame().now_or_never().expect("pieces are always ready")
    }

    fn text<B: Body<Data = Bytes> + Unpin>(body: &mut Rewritten<B>) -> String {
        let frame = next(body).expect("a frame").ok().expect("no error");
        String::from_utf8(frame.into_data().expect("data").to_vec()).unwrap()
    }

    #[test]
    fn an_answer_is_rewritten_as_it_streams() {
        let pieces =
            Pieces::of(&["{\"uri\":\"https://platform.ring", "central.com/a\"", ",\"b\":1}"]);
        let mut answer = answer(JSON, pieces);
        for (name, value) in [
            (LOCATION, "https://platform.ringcentral.com/a"),
            (CONTENT_LENGTH, "49"),
            (ETAG, "\"a\""),
        ] {
            answer.headers_mut().insert(name, value.parse().unwrap());
        }
        let answer = rewritten(answer);
        assert_eq!(answer.headers()[LOCATION], "http://127.0.0.1:8080/a");
        assert_eq!(answer.headers()[ETAG], "W/\"a\"");
        assert!(!answer.headers().contains_key(CONTENT_LENGTH));
        let mut body = answer.into_body();
        assert_eq!(body.size_hint().exact(), None);
        assert_eq!(text(&mut body), "{\"uri\":");
        assert_eq!(text(&mut body), "\"http://127.0.0.1:8080/a");
        assert!(!body.is_end_stream(), "the quote is held back");
        assert_eq!(text(&mut body), "\",\"b\":1}");
        assert!(body.is_end_stream());
        assert!(next(&mut body).is_none());
    }

    #[test]
    fn content_that_came_with_the_head_keeps_a_length() {
        let linked = "{\"uri\":\"https://platform.ringcentral.com/a\",\"note\":\"http";
        for (content, expected, etag) in [
            ("{\"a\":\"https://elsewhere.test/\"}", None, "\"a\""),
            (linked, Some("{\"uri\":\"http://127.0.0.1:8080/a\",\"note\":\"http"), "W/\"a\""),
        ] {
            let mut answer = answer(JSON, Full::new(Bytes::from(content)));
            answer.headers_mut().insert(CONTENT_LENGTH, content.len().into());
            answer.headers_mut().insert(ETAG, "\"a\"".parse().unwrap());
            let answer = rewritten(answer);
            let expected = expected.unwrap_or(content);
            assert_eq!(answer.headers()[CONTENT_LENGTH], expected.len().to_string());
            assert_eq!(answer.headers()[ETAG], etag);
            let mut body = answer.into_body();
            assert_eq!(body.size_hint().exact(), Some(expected.len() as u64));
            assert!(!body.is_end_stream());
            assert_eq!(text(&mut body), expected);
            assert!(body.is_end_stream());
            assert!(next(&mut body).is_none());
        }
    }

    #[test]
    fn what_is_held_back_comes_when_the_content_ends() {
        let mut body = rewritten(answer(JSON, Pieces::of(&["\"", "http"]))).into_body();
        assert_eq!(text(&mut body), "\"http");
        assert!(body.is_end_stream());
        assert!(next(&mut body).is_none());
    }

    #[test]
    fn trailers_follow_what_was_held_back_and_lose_their_digests() {
        let mut trailers = HeaderMap::new();
        trailers.insert("repr-digest", "sha-256=:AA==:".parse().unwrap());
        trailers.insert("x-checked", "yes".parse().unwrap());
        let pieces = Pieces::of(&["1, \"ht"]).then(Ok(Frame::trailers(trailers.clone())));
        let mut body = rewritten(answer(JSON, pieces)).into_body();
        assert_eq!(text(&mut body), "1, ");
        assert_eq!(text(&mut body), "\"ht");
        assert!(!body.is_end_stream());
        let last = next(&mut body).unwrap().unwrap().into_trailers().unwrap();
        trailers.remove("repr-digest");
        assert_eq!(last, trailers);
        assert!(body.is_end_stream());
        assert!(next(&mut body).is_none());
    }

    #[test]
    fn an_error_is_passed_on_and_ends_it() {
        let pieces = Pieces::of(&["[\"https"]).then(Err(Broke));
        let mut body = rewritten(answer(JSON, pieces)).into_body();
        assert_eq!(text(&mut body), "[");
        assert_eq!(next(&mut body).unwrap().unwrap_err(), Broke);
        assert!(next(&mut body).is_none());
    }

    #[test]
    fn bulk_answers_are_rewritten_part_by_part() {
        let content = "--b\r\nContent-Type: application/json\r\n\r\n[\"https://platform.ringcentral.com/\"]\r\n--b--\r\n";
        let answer = answer("multipart/mixed; boundary=b", Full::new(Bytes::from(content)));
        let collected = rewritten(answer).into_body().collect().now_or_never().unwrap();
        let expected = content.replace("https://platform.ringcentral.com", "http://127.0.0.1:8080");
        assert_eq!(collected.unwrap().to_bytes(), expected);
    }

    #[test]
    fn other_content_keeps_its_length_and_bytes() {
        let content = Bytes::from("\"https://platform.ringcentral.com/\"");
        for (content_type, coding, note) in [
            ("text/plain", "identity", None),
            ("audio/mpeg", "identity", None),
            (JSON, "gzip", Some("no; content is compressed")),
        ] {
            let mut answer = answer(content_type, Full::new(content.clone()));
            answer.headers_mut().insert("content-encoding", coding.parse().unwrap());
            answer.headers_mut().insert(CONTENT_LENGTH, "35".parse().unwrap());
            let answer = rewritten(answer);
            let said = answer.headers().get(fields::LINKS_FIELD);
            assert_eq!(said.map(|note| note.to_str().unwrap()), note);
            assert_eq!(answer.headers()[CONTENT_LENGTH], "35");
            let mut body = answer.into_body();
            assert_eq!(body.size_hint().exact(), Some(35));
            let data = next(&mut body).unwrap().unwrap().into_data().unwrap();
            assert_eq!(data.as_ptr(), content.as_ptr());
        }
    }

    #[test]
    fn an_empty_answer_is_known_to_be_empty() {
        let body = rewritten(answer(JSON, Empty::<Bytes>::new())).into_body();
        assert!(body.is_end_stream());
        assert_eq!(body.size_hint().exact(), Some(0));
        let body = Rewritten::untouched(Full::new(Bytes::from("a")));
        assert_eq!(body.size_hint().exact(), Some(1));
    }
}
