//! Who may call, as which identity, and what may pass at all. PURE over the request's parts.
//!
//! Everything is judged on the bytes that will be sent. The endpoints that hand out or end tokens
//! never pass with an injected identity: whoever could reach `/restapi/oauth/revoke` through the
//! proxy could end the session of everybody behind it.

use std::borrow::Cow;

use http::header::HeaderMap;
use http::{Method, Uri, Version};

use super::headers::Found;

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// CONNECT and TRACE are for other intermediaries.
    Method,
    /// HTTP/1.1 asks for exactly one `Host` (RFC 9112 §3.2).
    Host,
    /// A transfer coding besides `chunked`, which would end here and leave the content encoded.
    TransferCoding,
    /// The target is neither a path nor an absolute URI.
    Target,
    /// An endpoint that hands out or ends tokens.
    TokenManagement(Endpoint),
    /// `/.ringbearer/…` with a name that no host has.
    UnknownHost,
    /// A host for WebSockets was asked for something else.
    WebSocketOnly,
    /// `Host` names none by which the proxy may be called.
    StrangeHost,
    /// A web page that may not call.
    CrossSite,
}

/// The endpoints that hand out or end tokens: those under `/restapi/oauth/`, and two of the proxy's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `token`
    Token,
    /// `revoke`
    Revoke,
    /// `authorize`
    Authorize,
    /// `introspect`
    Introspect,
    /// `device_authorization`
    DeviceAuthorization,
    /// `/authorize`, where RingCentral Embeddable begins behind a proxy that carries the token.
    WidgetLogin,
    /// `/logout`, where it ends.
    WidgetLogout,
}

impl Endpoint {
    /// Where RingCentral Embeddable logs in and out with `authProxy`; RingCentral itself has no such
    /// paths.
    pub fn of_widget(path: &str) -> Option<Self> {
        match path {
            "/authorize" => Some(Self::WidgetLogin),
            "/logout" => Some(Self::WidgetLogout),
            _ => None,
        }
    }

    /// Whether a person's browser is sent there from another site.
    pub fn is_for_travellers(self) -> bool {
        matches!(self, Self::Authorize | Self::WidgetLogin)
    }
}

/// Judges the request line, `Host` and the framing.
pub fn admit(
    method: &Method,
    uri: &Uri,
    version: Version,
    fields: &HeaderMap,
    found: &Found,
) -> Result<(), Refusal> {
    if *method == Method::CONNECT || *method == Method::TRACE {
        return Err(Refusal::Method);
    }
    if version == Version::HTTP_11 && found.hosts(fields) != 1 {
        return Err(Refusal::Host);
    }
    if found.has_odd_coding(fields) {
        return Err(Refusal::TransferCoding);
    }
    let path = uri.path();
    let is_asterisk = path == "*" && *method == Method::OPTIONS;
    if !path.starts_with('/') && !is_asterisk {
        return Err(Refusal::Target);
    }
    match token_endpoint(path) {
        Some(endpoint) => Err(Refusal::TokenManagement(endpoint)),
        None => Ok(()),
    }
}

/// The endpoint that hands out or ends tokens to which any reading of `path` leads.
///
/// Servers differ in how often they decode, whether they fold `\`, `//` and dot segments, and what
/// they do with `;parameters`, so the path is judged after all of it.
fn token_endpoint(path: &str) -> Option<Endpoint> {
    let bytes = path.as_bytes();
    // One pass over a few dozen bytes: less than the set-up of a vectorised search.
    let suspicious = bytes.iter().enumerate().any(|(at, byte)| match byte {
        b'%' | b'\\' | b';' => true,
        b'o' | b'O' => bytes[at..].get(..5).is_some_and(|s| s.eq_ignore_ascii_case(b"oauth")),
        _ => false,
    });
    if suspicious { endpoint_at(&canonical(path)) } else { None }
}

fn endpoint_at(canonical: &str) -> Option<Endpoint> {
    let rest = canonical.strip_prefix("/restapi/")?;
    // `/restapi/v1.0/oauth/…` is not documented, and not worth finding out about.
    let mut segments = rest.split('/').skip_while(|segment| *segment != "oauth").skip(1);
    match segments.next()? {
        "token" => Some(Endpoint::Token),
        "revoke" => Some(Endpoint::Revoke),
        "authorize" => Some(Endpoint::Authorize),
        "introspect" => Some(Endpoint::Introspect),
        "device_authorization" => Some(Endpoint::DeviceAuthorization),
        _ => None,
    }
}

/// The lower-case path after every kind of decoding and folding a server might do.
fn canonical(path: &str) -> String {
    let mut decoded = Cow::Borrowed(path.as_bytes());
    while decoded.contains(&b'%') {
        let again = percent_decode(&decoded);
        if again == *decoded {
            break;
        }
        decoded = Cow::Owned(again);
    }
    let text = String::from_utf8_lossy(&decoded).to_ascii_lowercase().replace('\\', "/");
    let mut segments = Vec::new();
    for segment in text.split('/') {
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

fn percent_decode(bytes: &[u8]) -> Vec<u8> {
    let hex = |byte: u8| char::from(byte).to_digit(16);
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let [first, tail @ ..] = rest {
        if let (b'%', [high, low, after @ ..]) = (first, tail)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            decoded.push(u8::try_from(high * 16 + low).expect("two hex digits"));
            rest = after;
        } else {
            decoded.push(*first);
            rest = tail;
        }
    }
    decoded
}

/// `query` without the parameters named `access_token`; `None` if there are none.
///
/// RingCentral takes a token from there too (RFC 6750 §2.3), so one that an app left in a link would
/// contradict the injected one. The rest keeps its bytes.
pub fn without_access_token(query: &str) -> Option<String> {
    let is_token = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        name == "access_token"
            || name.contains(['%', '+']) && percent_decode(name.as_bytes()) == b"access_token"
    };
    let suspicious = memchr::memmem::find(query.as_bytes(), b"token").is_some()
        || memchr::memchr(b'%', query.as_bytes()).is_some();
    if !suspicious || !query.split('&').any(|pair| is_token(&pair)) {
        return None;
    }
    Some(query.split('&').filter(|pair| !is_token(pair)).collect::<Vec<_>>().join("&"))
}

#[cfg(test)]
mod tests {
    use http::header::{HOST, TRANSFER_ENCODING};

    use super::*;

    fn admitted(method: &Method, target: &str, hosts: &[&'static str]) -> Result<(), Refusal> {
        let mut fields = HeaderMap::new();
        for host in hosts {
            fields.append(HOST, http::HeaderValue::from_static(host));
        }
        let found = Found::in_request(&fields);
        admit(method, &target.parse().unwrap(), Version::HTTP_11, &fields, &found)
    }

    #[test]
    fn ordinary_calls_pass() {
        for target in [
            "/restapi/v1.0/account/~/extension/~",
            "/restapi/oauth/wstoken",
            "/restapi/v1.0/account/~/call-log?dateFrom=2024-01-01T00%3A00%3A00Z",
            "/restapi/v1.0/client-info",
            "/restapi/v1.0/Account/~/a%2Fb",
            "http://elsewhere.test/restapi/v1.0/status",
        ] {
            assert_eq!(admitted(&Method::GET, target, &["localhost"]), Ok(()), "{target}");
        }
        assert_eq!(admitted(&Method::OPTIONS, "*", &["localhost"]), Ok(()));
    }

    #[test]
    fn no_spelling_of_a_token_endpoint_passes() {
        for target in [
            "/restapi/oauth/token",
            "/restapi/oauth/revoke?x=1",
            "/restapi/oauth/authorize",
            "/restapi/oauth/introspect/",
            "/restapi/OAuth/Token",
            "/RESTAPI/oauth/token",
            "/restapi//oauth///token",
            "/restapi/./oauth/token",
            "/restapi/v1.0/../oauth/token",
            "/restapi/v1.0/oauth/token",
            "/restapi/%6fauth/token",
            "/restapi/oauth%2Ftoken",
            "/restapi/oauth%252ftoken",
            "/restapi/v1.0/%2e%2e/oauth/token",
            "/restapi;a=b/oauth;c/token;d",
            "/restapi/oauth/%74oken",
            "/x/%5c..%5crestapi/oauth/token",
            "http://elsewhere.test/restapi/oauth/token",
        ] {
            let verdict = admitted(&Method::POST, target, &["localhost"]);
            assert!(matches!(verdict, Err(Refusal::TokenManagement(_))), "{target}: {verdict:?}");
        }
    }

    #[test]
    fn each_token_endpoint_is_told_from_the_others() {
        for (target, endpoint) in [
            ("/restapi/oauth/token", Endpoint::Token),
            ("/restapi/OAuth/revoke/", Endpoint::Revoke),
            ("/restapi/oauth/%61uthorize?x=token", Endpoint::Authorize),
            ("/restapi/oauth//introspect/token", Endpoint::Introspect),
            ("/restapi/oauth/device_authorization", Endpoint::DeviceAuthorization),
        ] {
            let verdict = admitted(&Method::POST, target, &["localhost"]);
            assert_eq!(verdict, Err(Refusal::TokenManagement(endpoint)), "{target}");
        }
    }

    #[test]
    fn hosts_and_methods_are_checked() {
        assert_eq!(admitted(&Method::GET, "/", &[]), Err(Refusal::Host));
        assert_eq!(admitted(&Method::GET, "/", &["a", "a"]), Err(Refusal::Host));
        assert_eq!(admitted(&Method::TRACE, "/", &["a"]), Err(Refusal::Method));
        assert_eq!(admitted(&Method::CONNECT, "a:443", &["a"]), Err(Refusal::Method));
        let none = HeaderMap::new();
        let uri = Uri::from_static("/");
        assert_eq!(admit(&Method::GET, &uri, Version::HTTP_10, &none, &Found::default()), Ok(()));
    }

    #[test]
    fn a_transfer_coding_that_would_stay_on_the_content_is_refused() {
        let uri = Uri::from_static("/");
        for (codings, refused) in [
            (&["chunked"][..], false),
            (&[" Chunked "], false),
            (&["gzip, chunked"], true),
            (&["gzip", "chunked"], true),
            (&["chunked, chunked"], true),
        ] {
            let mut fields = HeaderMap::new();
            fields.insert(HOST, http::HeaderValue::from_static("localhost"));
            for coding in codings {
                fields.append(TRANSFER_ENCODING, http::HeaderValue::from_static(coding));
            }
            let found = Found::in_request(&fields);
            let verdict = admit(&Method::POST, &uri, Version::HTTP_11, &fields, &found);
            assert_eq!(verdict == Err(Refusal::TransferCoding), refused, "{codings:?}");
        }
    }

    #[test]
    fn a_token_in_the_query_is_taken_out_and_the_rest_kept_to_the_byte() {
        let cases = [
            ("access_token=abc", Some("")),
            ("a=1&access_token=abc&b=%20x+y", Some("a=1&b=%20x+y")),
            ("access%5Ftoken=abc&access_token&z", Some("z")),
            ("a=access_token", None),
            ("my_access_token=1&x=%41", None),
            ("", None),
        ];
        for (query, expected) in cases {
            assert_eq!(without_access_token(query).as_deref(), expected, "{query}");
        }
    }
}
