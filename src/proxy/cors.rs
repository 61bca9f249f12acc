//! Web pages: which may call, and what their browser is told of it (CORS, Fetch §3.2). PURE.
//!
//! A page can send requests to any address that its browser reaches, this proxy's on loopback
//! included, and whoever reaches that acts as the identity. So a request that says that it comes from
//! a page passes only if that page's origin is configured, or is the proxy's own. Browsers say so in
//! `Origin` and `Sec-Fetch-Site`, which no page can take away; apps send neither.

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, HOST, HeaderMap, HeaderName,
    HeaderValue, ORIGIN, VARY,
};
use http::request::Parts;
use http::{Method, Response, StatusCode};

use super::headers::{FETCH_SITE, Found};
use crate::settings::{Origin, ProxySettings};

/// What the methods may be that a page asks for; `TRACE` and `CONNECT` no browser sends.
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE");

/// What scripts may read besides what every script may.
const EXPOSED: HeaderValue = HeaderValue::from_static(
    "Retry-After, X-Rate-Limit-Group, X-Rate-Limit-Limit, X-Rate-Limit-Remaining, \
     X-Rate-Limit-Window, RCRequestId, ETag, Location, Link, Content-Range, Content-Disposition, \
     X-Ringbearer-Error, X-Ringbearer-Links, X-Ringbearer-Replay",
);

/// How long a browser may remember a preflight: as long as any does.
const REMEMBERED: HeaderValue = HeaderValue::from_static("7200");

const YES: HeaderValue = HeaderValue::from_static("true");
const FETCH_MODE: &str = "sec-fetch-mode";
const FETCH_DEST: &str = "sec-fetch-dest";
/// <https://wicg.github.io/private-network-access/>
const REQUEST_PRIVATE_NETWORK: &str = "access-control-request-private-network";
const ALLOW_PRIVATE_NETWORK: HeaderName =
    HeaderName::from_static("access-control-allow-private-network");

/// The web pages that may call.
#[derive(Clone, Debug)]
pub struct Cors {
    allowed: Vec<HeaderValue>,
    /// The proxy's own origin, if it is configured.
    public: Option<HeaderValue>,
    /// What its origin begins with as clients reach it without that.
    scheme: &'static str,
}

/// On whose behalf a request comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visitor {
    /// No page's, or a page's of the proxy itself.
    App,
    /// An allowed page's, by the place of its origin.
    Page(usize),
    /// A person's, whom some page has sent here in a window of its own. No script sees the answer; a
    /// login begins so.
    Traveller,
}

/// A page that may not call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrossSite;

impl Cors {
    /// From the configuration.
    pub fn new(settings: &ProxySettings) -> Self {
        let value = |origin: &Origin| {
            HeaderValue::from_str(&origin.to_string()).expect("an origin is a field value")
        };
        Self {
            allowed: settings.cors_origins.iter().map(value).collect(),
            public: settings.public_url.as_ref().map(value),
            scheme: if settings.tls.is_some() { "https://" } else { "http://" },
        }
    }

    /// On whose behalf a request comes.
    pub fn judge(&self, head: &Parts, found: &Found) -> Result<Visitor, CrossSite> {
        if let Some(mut origins) = found.origins(&head.headers) {
            let (Some(origin), None) = (origins.next(), origins.next()) else {
                return Err(CrossSite);
            };
            return match self.allowed.iter().position(|allowed| allowed == origin) {
                Some(place) => Ok(Visitor::Page(place)),
                None if self.is_own(origin, head) => Ok(Visitor::App),
                None => Err(CrossSite),
            };
        }
        if !found.has_fetch_site() {
            return Ok(Visitor::App);
        }
        let mut sites = head.headers.get_all(FETCH_SITE).iter();
        match (sites.next().map(HeaderValue::as_bytes), sites.next()) {
            // `none`: a person typed the address.
            (Some(b"same-origin" | b"none"), None) => Ok(Visitor::App),
            _ if is_navigation(head) => Ok(Visitor::Traveller),
            _ => Err(CrossSite),
        }
    }

    /// The answer to a page's question whether it may send a request, if this is one.
    pub fn preflight(head: &Parts) -> Option<Response<Bytes>> {
        if head.method != Method::OPTIONS
            || !head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        {
            return None;
        }
        let mut response = Response::new(Bytes::new());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let fields = response.headers_mut();
        fields.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        fields.insert(ACCESS_CONTROL_MAX_AGE, REMEMBERED);
        let wanted = head.headers.get_all(ACCESS_CONTROL_REQUEST_HEADERS).iter();
        for names in wanted.filter(|names| are_names(names.as_bytes())) {
            fields.append(ACCESS_CONTROL_ALLOW_HEADERS, names.clone());
        }
        if head.headers.get(REQUEST_PRIVATE_NETWORK).is_some_and(|value| value == YES) {
            fields.insert(ALLOW_PRIVATE_NETWORK, YES);
        }
        fields.append(VARY, HeaderValue::from_name(ACCESS_CONTROL_REQUEST_METHOD));
        fields.append(VARY, HeaderValue::from_name(ACCESS_CONTROL_REQUEST_HEADERS));
        Some(response)
    }

    /// Tells a browser what the page of `visitor` may see. What RingCentral has said of that held for
    /// another origin.
    pub fn tell(&self, visitor: Visitor, fields: &mut HeaderMap) {
        if self.allowed.is_empty() {
            return;
        }
        if let Visitor::Page(place) = visitor {
            for name in [
                ACCESS_CONTROL_ALLOW_ORIGIN,
                ACCESS_CONTROL_ALLOW_CREDENTIALS,
                ACCESS_CONTROL_EXPOSE_HEADERS,
            ] {
                fields.remove(name);
            }
            fields.insert(ACCESS_CONTROL_ALLOW_ORIGIN, self.allowed[place].clone());
            fields.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, YES);
            fields.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        }
        fields.append(VARY, HeaderValue::from_name(ORIGIN));
    }

    /// Whether it is the origin by which the client has just reached the proxy. The host in there was
    /// judged before.
    fn is_own(&self, origin: &HeaderValue, head: &Parts) -> bool {
        if let Some(public) = &self.public {
            return public == origin;
        }
        let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = authority.or_else(|| head.headers.get(HOST).map(HeaderValue::as_bytes));
        let rest = origin.as_bytes().strip_prefix(self.scheme.as_bytes());
        rest.zip(host).is_some_and(|(rest, host)| rest.eq_ignore_ascii_case(host))
    }
}

/// Whether a browser shows the answer in a window of its own.
fn is_navigation(head: &Parts) -> bool {
    let is = |name, value: &str| head.headers.get(name).is_some_and(|it| it == value);
    let reads = matches!(head.method, Method::GET | Method::HEAD);
    reads && is(FETCH_MODE, "navigate") && is(FETCH_DEST, "document")
}

/// Whether it is a list of field names and nothing else.
fn are_names(list: &[u8]) -> bool {
    let mut names = list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    names.all(|name| HeaderName::from_bytes(name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ConfigSource, Overrides, Settings};
    use http::Request;

    const APP: &str = "https://app.example.com";

    fn cors(proxy: &str) -> Cors {
        let toml = format!(
            "[proxy]\n{proxy}\n[application.a]\nclient_id = 'a'\nclient_secret = 'b'\n\
             [identity.i]\njwt = 'j'\n[store]\nmemory = true\n"
        );
        let source = ConfigSource::Text(toml);
        Cors::new(&Settings::load(&source, Overrides::default(), &|_| None).unwrap().0.proxy)
    }

    fn allowing() -> Cors {
        cors("cors_origins = ['HTTPS://App.example.com:443', 'http://localhost:3000']")
    }

    fn head(method: &str, lines: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri("/restapi");
        for (name, value) in [("host", "127.0.0.1:8080")].iter().chain(lines) {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn judged(cors: &Cors, lines: &[(&str, &str)]) -> Result<Visitor, CrossSite> {
        let head = head("GET", lines);
        cors.judge(&head, &Found::in_request(&head.headers))
    }

    #[test]
    fn apps_pass_and_pages_only_from_where_they_may() {
        let (app, refused) = (Ok(Visitor::App), Err(CrossSite));
        for (lines, expected) in [
            (&[][..], app),
            (&[("user-agent", "Mozilla/5.0"), ("sec-fetch-mode", "cors")], app),
            (&[("origin", APP)], Ok(Visitor::Page(0))),
            (&[("origin", APP), ("sec-fetch-site", "cross-site")], Ok(Visitor::Page(0))),
            (&[("origin", "http://localhost:3000")], Ok(Visitor::Page(1))),
            (&[("origin", "http://127.0.0.1:8080")], app),
            (&[("origin", "http://127.0.0.1:8080"), ("sec-fetch-site", "same-origin")], app),
            (&[("origin", "https://127.0.0.1:8080")], refused),
            (&[("origin", "http://127.0.0.1")], refused),
            (&[("origin", "http://localhost:8080")], refused),
            (&[("origin", "https://evil.test")], refused),
            (&[("origin", "https://app.example.com.evil.test")], refused),
            (&[("origin", "https://app.example.com/")], refused),
            (&[("origin", "http://app.example.com")], refused),
            (&[("origin", "https://app.example.com:8443")], refused),
            (&[("origin", "null")], refused),
            (&[("origin", "")], refused),
            (&[("origin", APP), ("origin", APP)], refused),
            (&[("sec-fetch-site", "none")], app),
            (&[("sec-fetch-site", "same-origin")], app),
            (&[("sec-fetch-site", "same-site")], refused),
            (&[("sec-fetch-site", "cross-site")], refused),
            (&[("sec-fetch-site", "none"), ("sec-fetch-site", "cross-site")], refused),
            (&[("sec-fetch-site", "")], refused),
        ] {
            assert_eq!(judged(&allowing(), lines), expected, "{lines:?}");
        }
        assert_eq!(judged(&cors(""), &[("origin", APP)]), refused, "none by default");
    }

    #[test]
    fn the_proxys_own_origin_is_the_configured_one_where_there_is_one() {
        let public = cors("public_url = 'https://rc.example.com'");
        assert_eq!(judged(&public, &[("origin", "https://rc.example.com")]), Ok(Visitor::App));
        assert_eq!(judged(&public, &[("origin", "http://127.0.0.1:8080")]), Err(CrossSite));
    }

    #[test]
    fn who_is_sent_here_in_a_window_of_their_own_is_told_from_what_a_page_embeds() {
        let arriving = |method, mode, dest| {
            let lines = [
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-mode", mode),
                ("sec-fetch-dest", dest),
            ];
            let head = head(method, &lines);
            allowing().judge(&head, &Found::in_request(&head.headers))
        };
        assert_eq!(arriving("GET", "navigate", "document"), Ok(Visitor::Traveller));
        assert_eq!(arriving("GET", "navigate", "iframe"), Err(CrossSite));
        assert_eq!(arriving("GET", "no-cors", "image"), Err(CrossSite));
        assert_eq!(arriving("POST", "navigate", "document"), Err(CrossSite));
    }

    fn preflight(lines: &[(&str, &str)]) -> Vec<String> {
        let asked = [("access-control-request-method", "PUT")];
        let lines: Vec<_> = asked.iter().chain(lines).copied().collect();
        let mut response = Cors::preflight(&head("OPTIONS", &lines)).unwrap();
        assert_eq!(response.status(), 204);
        allowing().tell(Visitor::Page(0), response.headers_mut());
        listed(response.headers())
    }

    fn listed(fields: &HeaderMap) -> Vec<String> {
        let line = |(name, value): (&HeaderName, &HeaderValue)| {
            format!("{name}: {}", value.to_str().unwrap())
        };
        let mut lines: Vec<_> = fields.iter().map(line).collect();
        lines.sort();
        lines
    }

    #[test]
    fn a_preflight_is_answered_with_what_was_asked_for() {
        let names = "authorization, x-custom,content-type";
        let answer = preflight(&[("access-control-request-headers", names)]);
        let expected = [
            "access-control-allow-credentials: true".to_owned(),
            format!("access-control-allow-headers: {names}"),
            "access-control-allow-methods: GET, HEAD, POST, PUT, PATCH, DELETE".to_owned(),
            format!("access-control-allow-origin: {APP}"),
            format!("access-control-expose-headers: {}", EXPOSED.to_str().unwrap()),
            "access-control-max-age: 7200".to_owned(),
            "vary: access-control-request-headers".to_owned(),
            "vary: access-control-request-method".to_owned(),
            "vary: origin".to_owned(),
        ];
        assert_eq!(answer, expected);
        for odd in ["x y", "a:b", "a, <b>", "a,,b", "\"a\""] {
            let answer = preflight(&[("access-control-request-headers", odd)]);
            assert!(!answer.iter().any(|line| line.contains("allow-headers")), "{odd}");
        }
        let private = preflight(&[(REQUEST_PRIVATE_NETWORK, "true")]);
        assert!(private.contains(&"access-control-allow-private-network: true".to_owned()));
    }

    #[test]
    fn options_that_is_no_preflight_is_ringcentrals() {
        assert!(Cors::preflight(&head("OPTIONS", &[])).is_none());
        let line = [("access-control-request-method", "PUT")];
        assert!(Cors::preflight(&head("GET", &line)).is_none());
    }

    #[test]
    fn what_ringcentral_says_of_origins_is_replaced_for_a_page_only() {
        let theirs = || {
            let mut fields = HeaderMap::new();
            for (name, value) in [
                ("access-control-allow-origin", "https://other.test"),
                ("access-control-allow-origin", "*"),
                ("access-control-expose-headers", "X-Other"),
                ("vary", "Accept"),
            ] {
                fields.append(name, HeaderValue::from_static(value));
            }
            fields
        };
        let told = |cors: &Cors, visitor| {
            let mut fields = theirs();
            cors.tell(visitor, &mut fields);
            listed(&fields)
        };
        let expected = [
            "access-control-allow-credentials: true".to_owned(),
            "access-control-allow-origin: http://localhost:3000".to_owned(),
            format!("access-control-expose-headers: {}", EXPOSED.to_str().unwrap()),
            "vary: Accept".to_owned(),
            "vary: origin".to_owned(),
        ];
        assert_eq!(told(&allowing(), Visitor::Page(1)), expected);
        assert_eq!(told(&cors(""), Visitor::App), listed(&theirs()));
        let varies = told(&allowing(), Visitor::App);
        assert_eq!(varies.last().unwrap(), "vary: origin", "a cache must not mix them up");
        assert_eq!(varies.len(), theirs().len() + 1);
    }
}
