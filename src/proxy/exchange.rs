//! A client's request while it is being answered: what has to be kept to send it a second time.

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use hyper::body::Incoming;

use super::access;
use super::body::{Outgoing, Replayable};
use super::in_flight::InFlight;
use super::links::LinkMap;
use super::replay::Content;
use super::routes::Site;
use super::throttle::penalties::Begun;
use super::throttle::{Turn, Want};
use crate::token::identities::IdentityId;
use crate::upstream::Upload;

/// One request of a client's, ready to be sent, twice if need be.
pub(super) struct Exchange {
    route: Route,
    method: Method,
    target: Uri,
    fields: Fields,
    bearer: HeaderValue,
    content: Replayable<Incoming>,
    sends: u8,
    /// The right to the next send.
    turn: Option<Turn>,
    /// What the last answer has begun.
    penalty: Option<Box<Begun>>,
}

/// Where a request goes, as whom, and where the links in its answer are to lead.
pub(super) struct Route {
    pub(super) site: Site,
    pub(super) identity: IdentityId,
    /// The identity that the request's path has named.
    pub(super) path: Option<Box<str>>,
    pub(super) links: Option<Arc<LinkMap>>,
    /// What matters to the throttle, if there is one.
    pub(super) want: Option<Want>,
    pub(super) in_flight: Option<InFlight>,
}

/// hyper consumes the fields of what it sends. A second set is needed once in an hour, so a copy is
/// kept in a form that costs little to make and to drop: one piece of memory, where a list of shared
/// values has a reference count each.
enum Fields {
    Unsent(HeaderMap),
    Sent(Copied),
}

/// Names and values, after the lengths of both. Without the bearer.
struct Copied(Vec<u8>);

impl Exchange {
    pub(super) fn new(
        route: Route,
        turn: Turn,
        method: Method,
        target: Uri,
        fields: HeaderMap,
        bearer: HeaderValue,
        content: Replayable<Incoming>,
    ) -> Self {
        let (target, fields) = (origin_form(target), Fields::Unsent(fields));
        let turn = Some(turn);
        Self { route, method, target, fields, bearer, content, sends: 0, turn, penalty: None }
    }

    /// Where it goes.
    pub(super) fn site(&self) -> Site {
        self.route.site
    }

    /// The identity that its path has named.
    pub(super) fn path(&self) -> Option<&str> {
        self.route.path.as_deref()
    }

    /// Where links in its answer are to lead.
    pub(super) fn links(&self) -> Option<&Arc<LinkMap>> {
        self.route.links.as_ref()
    }

    /// What counts it; whoever passes its answer on keeps that.
    pub(super) fn take_in_flight(&mut self) -> Option<InFlight> {
        self.route.in_flight.take()
    }

    pub(super) fn identity(&self) -> IdentityId {
        self.route.identity
    }

    /// What matters to the throttle.
    pub(super) fn want(&self) -> Option<&Want> {
        self.route.want.as_ref()
    }

    /// The same, found out late: `find` is given method, target and fields.
    pub(super) fn want_or(
        &mut self,
        find: impl FnOnce(&Method, &Uri, &HeaderMap) -> Want,
    ) -> &Want {
        let (method, target, fields) = (&self.method, &self.target, &self.fields);
        self.route.want.get_or_insert_with(|| match fields {
            Fields::Unsent(fields) => find(method, target, fields),
            Fields::Sent(copied) => find(method, target, &copied.restore()),
        })
    }

    /// The right to send it, once.
    pub(super) fn take_turn(&mut self) -> Option<Turn> {
        self.turn.take()
    }

    /// Its answer has begun a penalty, or none.
    pub(super) fn penalise(&mut self, begun: Option<Box<Begun>>) {
        self.penalty = begun;
    }

    /// Whether its answer has begun a penalty.
    pub(super) fn is_penalised(&self) -> bool {
        self.penalty.is_some()
    }

    /// The penalty that its answer has begun.
    pub(super) fn take_penalty(&mut self) -> Option<Box<Begun>> {
        self.penalty.take()
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
    pub(super) fn progress(&self) -> Upload {
        self.content.progress()
    }

    /// The next send; `None` if the content is gone.
    pub(super) fn request(&mut self) -> Option<Request<Outgoing<Incoming>>> {
        let mut request = Request::new(self.content.attempt()?);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone();
        *request.headers_mut() = self.fields.take(&self.bearer);
        self.sends += 1;
        Some(request)
    }

    /// Replaces the token for the next send.
    pub(super) fn authorize(&mut self, bearer: HeaderValue) {
        self.bearer = bearer;
    }

    /// Whether sending it again does no harm, and it has not been sent twice.
    pub(super) fn may_be_resent(&self) -> bool {
        self.sends < 2 && self.method.is_idempotent() && self.content() == Content::Kept
    }
}

impl Fields {
    /// The fields for a send with `bearer`, of which a copy stays.
    fn take(&mut self, bearer: &HeaderValue) -> HeaderMap {
        match self {
            Self::Unsent(fields) => {
                let fields = std::mem::take(fields);
                *self = Self::Sent(Copied::of(&fields));
                fields
            }
            Self::Sent(copied) => {
                let mut fields = copied.restore();
                fields.insert(AUTHORIZATION, bearer.clone());
                fields
            }
        }
    }
}

impl Copied {
    /// Enough for the fields of most requests.
    const USUAL: usize = 512;

    fn of(fields: &HeaderMap) -> Self {
        let mut bytes = Vec::with_capacity(Self::USUAL);
        for (name, value) in fields.iter().filter(|(name, _)| *name != AUTHORIZATION) {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            let lengths = [name.len(), value.len()].map(usize::to_le_bytes);
            bytes.extend_from_slice(lengths.as_flattened());
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(value);
        }
        Self(bytes)
    }

    fn restore(&self) -> HeaderMap {
        let mut fields = HeaderMap::new();
        let mut rest = &self.0[..];
        while !rest.is_empty() {
            let [name, value] = [length(&mut rest), length(&mut rest)];
            let (name, after) = rest.split_at(name);
            let (value, after) = after.split_at(value);
            let name = HeaderName::from_bytes(name).expect("copied from a name");
            fields.append(name, HeaderValue::from_bytes(value).expect("copied from a value"));
            rest = after;
        }
        fields
    }
}

/// Takes a length off `rest`.
fn length(rest: &mut &[u8]) -> usize {
    let (length, after) = rest.split_first_chunk().expect("two lengths before each field");
    *rest = after;
    usize::from_le_bytes(*length)
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
        let bearer = HeaderValue::from_static("Bearer token");
        first.insert(AUTHORIZATION, bearer.clone());
        let mut fields = Fields::Unsent(first.clone());
        for _ in 0..3 {
            assert_eq!(fields.take(&bearer), first);
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
