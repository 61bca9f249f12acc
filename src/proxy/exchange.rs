//! A client's request while it is being answered: what has to be kept to send it a second time.

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use hyper::body::Incoming;

use super::access;
use super::body::{Outgoing, Replayable};
use super::replay::Content;
use crate::token::identities::IdentityId;

/// One request of a client's, ready to be sent, twice if need be.
pub(super) struct Exchange {
    identity: IdentityId,
    method: Method,
    target: Uri,
    fields: Fields,
    content: Replayable<Incoming>,
    sends: u8,
}

/// hyper consumes the fields of what it sends. A second set is needed once in an hour, so what is
/// kept is the cheapest that it can be made from.
enum Fields {
    Unsent(HeaderMap),
    Sent(Vec<(HeaderName, HeaderValue)>),
}

impl Exchange {
    pub(super) fn new(
        identity: IdentityId,
        method: Method,
        target: Uri,
        fields: HeaderMap,
        content: Replayable<Incoming>,
    ) -> Self {
        let (target, fields) = (origin_form(target), Fields::Unsent(fields));
        Self { identity, method, target, fields, content, sends: 0 }
    }

    pub(super) fn identity(&self) -> IdentityId {
        self.identity
    }

    /// How often it has been sent.
    pub(super) fn sends(&self) -> u8 {
        self.sends
    }

    /// Whether its content can be sent again.
    pub(super) fn content(&self) -> Content {
        self.content.state()
    }

    /// How much of its content has passed.
    pub(super) fn progress(&self) -> u64 {
        self.content.progress()
    }

    /// The next send; `None` if the content is gone.
    pub(super) fn request(&mut self) -> Option<Request<Outgoing<Incoming>>> {
        let mut request = Request::new(self.content.attempt()?);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.fields.take();
        self.sends += 1;
        Some(request)
    }

    /// Replaces the token for the next send.
    pub(super) fn authorize(&mut self, bearer: HeaderValue) {
        let mut fields = self.fields.take();
        fields.insert(AUTHORIZATION, bearer);
        self.fields = Fields::Unsent(fields);
    }

    /// Whether sending it again does no harm, and it has not been sent twice.
    pub(super) fn may_be_resent(&self) -> bool {
        self.sends < 2 && self.method.is_idempotent() && self.content() == Content::Kept
    }
}

impl Fields {
    /// The fields for a send, of which a copy stays.
    fn take(&mut self) -> HeaderMap {
        match self {
            Self::Unsent(fields) => {
                let fields = std::mem::take(fields);
                let pair =
                    |(name, value): (&HeaderName, &HeaderValue)| (name.clone(), value.clone());
                *self = Self::Sent(fields.iter().map(pair).collect());
                fields
            }
            Self::Sent(copy) => {
                let mut fields = HeaderMap::with_capacity(copy.len());
                for (name, value) in copy {
                    fields.append(name.clone(), value.clone());
                }
                fields
            }
        }
    }
}

/// The client's own path and query, to the byte; whatever else the target named is dropped.
fn origin_form(target: Uri) -> Uri {
    let query = target.query().and_then(access::without_access_token);
    if target.authority().is_none() && query.is_none() {
        return target;
    }
    let path = target.path();
    let path_and_query = match query.as_deref() {
        None => return target.path_and_query().cloned().map(Uri::from).unwrap_or_default(),
        Some("") => path.to_owned(),
        Some(query) => format!("{path}?{query}"),
    };
    Uri::from(PathAndQuery::try_from(path_and_query).expect("parts of a checked target"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_set_of_fields_is_the_first() {
        let mut first = HeaderMap::new();
        for (name, value) in [("accept", "a"), ("x-b", "1"), ("accept", "b"), ("x-b", "2")] {
            first.append(name, HeaderValue::from_static(value));
        }
        let mut fields = Fields::Unsent(first.clone());
        for _ in 0..3 {
            assert_eq!(fields.take(), first);
        }
    }

    #[test]
    fn only_path_and_query_of_a_target_remain_and_keep_their_bytes() {
        for (target, expected) in [
            ("/a/%7E/b%2fc;d?x=%20&y", "/a/%7E/b%2fc;d?x=%20&y"),
            ("http://evil.test/a?b", "/a?b"),
            ("https://user:pass@evil.test:1/", "/"),
            ("//evil.test/a", "//evil.test/a"),
            ("/a?access_token=x&b=1", "/a?b=1"),
            ("http://evil.test/a?access_token=x", "/a"),
            ("*", "*"),
        ] {
            assert_eq!(origin_form(target.parse().unwrap()).to_string(), expected, "{target}");
        }
    }
}
