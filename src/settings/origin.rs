//! URLs: parsed once, here, and never joined or parsed again (threat 26).

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use http::Uri;
use http::uri::{Authority, PathAndQuery, Scheme};

use super::UrlProblem;

/// Scheme and authority: where a connection goes and what `Host` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Whether the connection is TLS.
    pub tls: bool,
    /// Host in lower case, and port where it is not the scheme's own.
    pub authority: Authority,
}

impl Origin {
    /// An origin and nothing else: no path but `/`, no query, no user name.
    pub fn parse(text: &str) -> Result<Self, UrlProblem> {
        let (origin, target) = split(text)?;
        match target.as_ref().map_or("/", PathAndQuery::as_str) {
            "/" => Ok(origin),
            query if query.contains('?') => Err(UrlProblem::Query),
            _ => Err(UrlProblem::Path),
        }
    }

    /// The host without port and without the brackets of an IPv6 literal.
    pub fn host(&self) -> &str {
        self.authority.host().trim_matches(['[', ']'])
    }

    /// The port, the scheme's own if none is written.
    pub fn port(&self) -> u16 {
        self.authority.port_u16().unwrap_or(if self.tls { 443 } else { 80 })
    }

    /// The URL of `path` at this origin.
    ///
    /// # Panics
    /// If `path` is not a path.
    pub fn uri(&self, path: &'static str) -> Uri {
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(if self.tls { Scheme::HTTPS } else { Scheme::HTTP });
        parts.authority = Some(self.authority.clone());
        parts.path_and_query = Some(PathAndQuery::from_static(path));
        Uri::from_parts(parts).expect("scheme, authority and path make a URL")
    }

    /// Whether plain HTTP to it would leave this machine.
    pub(super) fn is_clear_text_to_another_machine(&self) -> bool {
        !self.tls && !self.is_loopback()
    }

    /// Whether a connection to it would arrive at `listener`. Names other than `localhost` are not
    /// looked up; a loop through DNS is cut by `Via`.
    pub(super) fn is_served_by(&self, listener: SocketAddr) -> bool {
        let wildcard = listener.ip().is_unspecified();
        let same_host = match self.ip() {
            Some(ip) if ip.is_unspecified() => wildcard || listener.ip().is_loopback(),
            Some(ip) => ip == listener.ip().to_canonical() || wildcard && ip.is_loopback(),
            None => self.is_loopback() && (wildcard || listener.ip().is_loopback()),
        };
        same_host && self.port() == listener.port()
    }

    /// Whether it is this machine.
    pub fn is_loopback(&self) -> bool {
        self.host() == "localhost" || self.ip().is_some_and(|ip| ip.is_loopback())
    }

    fn ip(&self) -> Option<IpAddr> {
        self.host().parse().ok().map(|ip: IpAddr| ip.to_canonical())
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.authority)
    }
}

/// A URL with a path, such as the token endpoint's, with its origin.
pub(super) fn endpoint(text: &str) -> Result<(Uri, Origin), UrlProblem> {
    let (origin, target) = split(text)?;
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if origin.tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(origin.authority.clone());
    parts.path_and_query = target;
    let uri = Uri::from_parts(parts).map_err(|_| UrlProblem::NotAbsolute)?;
    if uri.query().is_some() { Err(UrlProblem::Query) } else { Ok((uri, origin)) }
}

/// Whether a login may send the browser there: https, or http on this machine (RFC 8252 §7.3). A query
/// is allowed, a fragment is not (RFC 6749 §3.1.2).
pub(super) fn is_redirect(text: &str) -> bool {
    split(text).is_ok_and(|(origin, _)| !origin.is_clear_text_to_another_machine())
}

fn split(text: &str) -> Result<(Origin, Option<PathAndQuery>), UrlProblem> {
    if text.contains('#') {
        // `Uri` would drop it silently.
        return Err(UrlProblem::Query);
    }
    let parts = text.parse::<Uri>().map_err(|_| UrlProblem::NotAbsolute)?.into_parts();
    let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
        return Err(UrlProblem::NotAbsolute);
    };
    let tls = match scheme.as_str() {
        "https" => true,
        "http" => false,
        _ => return Err(UrlProblem::Scheme),
    };
    Ok((Origin { tls, authority: normal(&authority, tls)? }, parts.path_and_query))
}

/// Host in lower case, without the scheme's own port: what `Host` should say (RFC 9110 §4.2.3).
fn normal(authority: &Authority, tls: bool) -> Result<Authority, UrlProblem> {
    if authority.as_str().contains('@') {
        return Err(UrlProblem::UserInfo);
    }
    let host = authority.host().to_ascii_lowercase();
    let default = if tls { 443 } else { 80 };
    let text = match (authority.port_u16(), &authority.as_str()[host.len()..]) {
        (None, "") => host,
        (Some(port), _) if port == default => host,
        (Some(port), _) if port != 0 => format!("{host}:{port}"),
        _ => return Err(UrlProblem::Port),
    };
    text.parse().map_err(|_| UrlProblem::NotAbsolute)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(text: &str) -> Origin {
        Origin::parse(text).expect(text)
    }

    #[test]
    fn an_origin_is_lower_case_and_names_only_an_unusual_port() {
        for (text, expected) in [
            ("https://platform.ringcentral.com", "https://platform.ringcentral.com"),
            ("HTTPS://Platform.RingCentral.com:443/", "https://platform.ringcentral.com"),
            ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
            ("https://[::1]:8443", "https://[::1]:8443"),
        ] {
            assert_eq!(origin(text).to_string(), expected);
        }
        assert_eq!((origin("https://[::1]").host(), origin("https://[::1]").port()), ("::1", 443));
    }

    #[test]
    fn what_is_more_or_less_than_an_origin_is_refused() {
        for (text, problem) in [
            ("platform.ringcentral.com", UrlProblem::NotAbsolute),
            ("/restapi", UrlProblem::NotAbsolute),
            ("https://", UrlProblem::NotAbsolute),
            ("ftp://platform.ringcentral.com", UrlProblem::Scheme),
            ("https://me:canary@platform.ringcentral.com", UrlProblem::UserInfo),
            ("https://platform.ringcentral.com:0", UrlProblem::Port),
            ("https://platform.ringcentral.com:", UrlProblem::Port),
            ("https://platform.ringcentral.com/restapi", UrlProblem::Path),
            ("https://platform.ringcentral.com/?a=b", UrlProblem::Query),
            ("https://platform.ringcentral.com/#top", UrlProblem::Query),
        ] {
            assert_eq!(Origin::parse(text), Err(problem), "{text}");
        }
    }

    #[test]
    fn a_listener_serves_the_origins_that_lead_to_it() {
        for (listener, url, served) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080", true),
            ("127.0.0.1:8080", "http://localhost:8080", true),
            ("127.0.0.1:8080", "http://[::ffff:127.0.0.1]:8080", true),
            ("127.0.0.1:8080", "http://0.0.0.0:8080", true),
            ("0.0.0.0:443", "https://127.0.0.1", true),
            ("[::]:8080", "http://[::1]:8080", true),
            ("127.0.0.1:8080", "http://127.0.0.1:8081", false),
            ("10.0.0.1:8080", "http://localhost:8080", false),
            ("0.0.0.0:443", "https://platform.ringcentral.com", false),
        ] {
            assert_eq!(
                origin(url).is_served_by(listener.parse().unwrap()),
                served,
                "{listener} {url}"
            );
        }
    }
}
