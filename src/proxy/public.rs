//! Where the proxy is, as its clients see it: what links in answers are made to begin with.
//!
//! That is `proxy.public_url`, or else the very host that the client has just reached the proxy by. A
//! client that makes that up misleads nobody but itself: its answer goes to no other.

use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;

use http::header::{HOST, HeaderValue};
use http::request::Parts;

use super::links::LinkMap;
use super::routes::path_of;
use crate::settings::{Origin, UpstreamSettings};

/// So many hosts are remembered; there is one, or a handful.
const REMEMBERED: usize = 16;

/// The link maps of one worker thread, by the host that clients used.
pub(super) struct Public {
    /// Origins of RingCentral's, and the path that leads to each.
    origins: Vec<(String, String)>,
    scheme: &'static str,
    fixed: Option<Base>,
    seen: RefCell<Vec<(Box<[u8]>, Base)>>,
}

/// Where links lead to; `None` if it cannot be the base of a URL.
type Base = Option<Arc<LinkMap>>;

impl fmt::Debug for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Public").field("origins", &self.origins).finish_non_exhaustive()
    }
}

impl Public {
    /// `url` is `proxy.public_url`; `tls` says how clients reach the proxy without one.
    pub(super) fn new(upstream: &UpstreamSettings, url: Option<&Origin>, tls: bool) -> Self {
        let mut origins = vec![(upstream.origin.to_string(), String::new())];
        for host in &upstream.hosts {
            let origin = host.origin.to_string();
            let origin = if host.websocket { origin.replacen("http", "ws", 1) } else { origin };
            if origins.iter().all(|(known, _)| *known != origin) {
                origins.push((origin, path_of(&host.name)));
            }
        }
        let mut public = Self {
            origins,
            scheme: if tls { "https" } else { "http" },
            fixed: None,
            seen: RefCell::default(),
        };
        public.fixed = url.map(|url| public.map_to(&url.to_string()));
        public
    }

    /// Where the links of an answer to this request lead; `None` if nobody could say.
    pub(super) fn links(&self, head: &Parts) -> Option<Arc<LinkMap>> {
        if let Some(fixed) = &self.fixed {
            return fixed.clone();
        }
        let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        let host = authority.or_else(|| head.headers.get(HOST).map(HeaderValue::as_bytes))?;
        let mut seen = self.seen.borrow_mut();
        if let Some((_, links)) = seen.iter().find(|(known, _)| **known == *host) {
            return links.clone();
        }
        let text = std::str::from_utf8(host).ok();
        let links = text.and_then(|host| self.map_to(&format!("{}://{host}", self.scheme)));
        if seen.len() == REMEMBERED {
            seen.remove(0);
        }
        seen.push((host.into(), links.clone()));
        links
    }

    /// `None` if `base` is no base of a URL: then links stay as they are.
    fn map_to(&self, base: &str) -> Option<Arc<LinkMap>> {
        let socket_base = base.replacen("http", "ws", 1);
        let pairs = self.origins.iter().map(|(origin, path)| {
            let base = if origin.starts_with("ws") { &socket_base } else { base };
            (origin.as_str(), format!("{base}{path}"))
        });
        LinkMap::new(pairs).ok().map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::Request;

    use super::*;
    use crate::settings::HostSettings;

    fn upstream() -> UpstreamSettings {
        let host = |name: &str, url, websocket| HostSettings {
            name: name.into(),
            origin: Origin::parse(url).unwrap(),
            websocket,
        };
        UpstreamSettings {
            origin: Origin::parse("https://platform.ringcentral.com").unwrap(),
            hosts: vec![
                host("media", "https://media.ringcentral.com", false),
                host("ws", "https://ws-api.ringcentral.com", true),
                host("again", "https://platform.ringcentral.com", false),
            ],
            ca_file: None,
            http_proxy: None,
            http2: false,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
        }
    }

    fn led_back(public: &Public, host: &str, link: &str) -> Option<String> {
        let request = Request::builder().uri("/restapi").header("host", host).body(()).unwrap();
        let links = public.links(&request.into_parts().0)?;
        let rewritten = links.rewrite(link.as_bytes())?;
        Some(String::from_utf8(rewritten.to_vec()).unwrap())
    }

    #[test]
    fn links_lead_to_where_the_client_has_come_to() {
        let public = Public::new(&upstream(), None, false);
        for (host, link, expected) in [
            ("127.0.0.1:8080", "https://platform.ringcentral.com/a", "http://127.0.0.1:8080/a"),
            (
                "sales.test",
                "https://media.ringcentral.com/a",
                "http://sales.test/.ringbearer/media/a",
            ),
            ("[::1]:80", "wss://ws-api.ringcentral.com/ws", "ws://[::1]:80/.ringbearer/ws/ws"),
        ] {
            assert_eq!(led_back(&public, host, link).as_deref(), Some(expected));
        }
        let tls = Public::new(&upstream(), None, true);
        let socket = led_back(&tls, "a.test", "wss://ws-api.ringcentral.com/ws");
        assert_eq!(socket.as_deref(), Some("wss://a.test/.ringbearer/ws/ws"));
    }

    #[test]
    fn a_configured_url_counts_whatever_the_client_says() {
        let url = Origin::parse("https://rc.example.com").unwrap();
        let public = Public::new(&upstream(), Some(&url), false);
        let link = led_back(&public, "evil.test", "https://platform.ringcentral.com/a");
        assert_eq!(link.as_deref(), Some("https://rc.example.com/a"));
    }

    #[test]
    fn a_host_that_is_none_leaves_links_alone_and_hosts_do_not_pile_up() {
        let public = Public::new(&upstream(), None, false);
        for host in ["a\"b", "", "a b", "a/../b?c"] {
            assert_eq!(
                led_back(&public, host, "https://platform.ringcentral.com/"),
                None,
                "{host}"
            );
        }
        for n in 0..100 {
            led_back(&public, &format!("host-{n}.test"), "https://a.test/");
        }
        assert_eq!(public.seen.borrow().len(), REMEMBERED);
    }
}
