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
use super::routes::{identity_path, path_of};
use crate::settings::{Origin, UpstreamSettings};

/// So many hosts are remembered; there is one, or a handful.
const REMEMBERED: usize = 16;

/// The link maps of one worker thread, by the host that clients used.
pub(super) struct Public {
    /// Origins of RingCentral's, and the path that leads to each.
    origins: Vec<(String, String)>,
    fixed: Option<(String, Base)>,
    seen: RefCell<Vec<Seen>>,
}

/// A link map that was made before.
struct Seen {
    tls: bool,
    host: Box<[u8]>,
    identity: Box<str>,
    base: Base,
}

/// Where links lead to; `None` if it cannot be the base of a URL.
type Base = Option<Arc<LinkMap>>;

impl fmt::Debug for Public {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Public").field("origins", &self.origins).finish_non_exhaustive()
    }
}

impl Public {
    /// `url` is `proxy.public_url`.
    pub(super) fn new(upstream: &UpstreamSettings, url: Option<&Origin>) -> Self {
        let mut origins = vec![(upstream.origin.to_string(), String::new())];
        for host in upstream.hosts.iter().filter(|host| host.rewrite_links) {
            let origin = host.origin.to_string();
            let origin = if host.websocket { origin.replacen("http", "ws", 1) } else { origin };
            if origins.iter().all(|(known, _)| *known != origin) {
                origins.push((origin, path_of(&host.name)));
            }
        }
        let mut public = Self { origins, fixed: None, seen: RefCell::default() };
        public.fixed = url.map(|url| (url.to_string(), public.map_to(&url.to_string())));
        public
    }

    /// Where the links of an answer to this request lead, under the prefix of the identity that its
    /// path has named; `None` if nobody could say. `tls` says how it came.
    pub(super) fn links(
        &self,
        head: &Parts,
        identity: Option<&str>,
        tls: bool,
    ) -> Option<Arc<LinkMap>> {
        let host = match (&self.fixed, identity) {
            (Some((_, fixed)), None) => return fixed.clone(),
            (Some((url, _)), Some(_)) => url.as_bytes(),
            (None, _) => {
                let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
                authority.or_else(|| head.headers.get(HOST).map(HeaderValue::as_bytes))?
            }
        };
        let name = identity.unwrap_or_default();
        let mut seen = self.seen.borrow_mut();
        let is_same =
            |seen: &&Seen| *seen.host == *host && *seen.identity == *name && seen.tls == tls;
        if let Some(seen) = seen.iter().find(is_same) {
            return seen.base.clone();
        }
        let base = std::str::from_utf8(host).ok().and_then(|host| {
            let scheme = match &self.fixed {
                Some(_) => "",
                None if tls => "https://",
                None => "http://",
            };
            let prefix = identity.map(identity_path).unwrap_or_default();
            self.map_to(&format!("{scheme}{host}{prefix}"))
        });
        if seen.len() == REMEMBERED {
            seen.remove(0);
        }
        seen.push(Seen { tls, host: host.into(), identity: name.into(), base: base.clone() });
        base
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
            rewrite_links: true,
        };
        UpstreamSettings {
            origin: Origin::parse("https://platform.ringcentral.com").unwrap(),
            hosts: vec![
                host("media", "https://media.ringcentral.com", false),
                host("ws", "https://ws-api.ringcentral.com", true),
                host("again", "https://platform.ringcentral.com", false),
            ],
            ca_file: None,
            client_certificate: None,
            tls_key_log_file: None,
            http_proxy: None,
            http2: false,
            stall_timeout: Duration::from_secs(1),
            max_connections: 1,
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
        }
    }

    fn led_back(public: &Public, host: &str, link: &str) -> Option<String> {
        led_back_by(public, false, host, link)
    }

    fn led_back_by(public: &Public, tls: bool, host: &str, link: &str) -> Option<String> {
        let request = Request::builder().uri("/restapi").header("host", host).body(()).unwrap();
        let links = public.links(&request.into_parts().0, None, tls)?;
        let rewritten = links.rewrite(link.as_bytes())?;
        Some(String::from_utf8(rewritten.to_vec()).unwrap())
    }

    #[test]
    fn links_lead_to_where_the_client_has_come_to() {
        let public = Public::new(&upstream(), None);
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
        for (tls, expected) in [
            (true, "wss://a.test/.ringbearer/ws/ws"),
            (false, "ws://a.test/.ringbearer/ws/ws"),
            (true, "wss://a.test/.ringbearer/ws/ws"),
        ] {
            let socket = led_back_by(&public, tls, "a.test", "wss://ws-api.ringcentral.com/ws");
            assert_eq!(socket.as_deref(), Some(expected), "one host, both ways");
        }
    }

    #[test]
    fn a_configured_url_counts_whatever_the_client_says() {
        let url = Origin::parse("https://rc.example.com").unwrap();
        let public = Public::new(&upstream(), Some(&url));
        let link = led_back(&public, "evil.test", "https://platform.ringcentral.com/a");
        assert_eq!(link.as_deref(), Some("https://rc.example.com/a"));
    }

    #[test]
    fn under_an_identitys_prefix_links_stay_there() {
        let link = |public: &Public, identity, link: &str| {
            let request = Request::builder().uri("/a").header("host", "a.test").body(()).unwrap();
            let links = public.links(&request.into_parts().0, Some(identity), false).unwrap();
            String::from_utf8(links.rewrite(link.as_bytes()).unwrap().to_vec()).unwrap()
        };
        let url = Origin::parse("https://rc.example.com").unwrap();
        let configured = Public::new(&upstream(), Some(&url));
        let plain = Public::new(&upstream(), None);
        for (public, base) in [(&configured, "https://rc.example.com"), (&plain, "http://a.test")] {
            for identity in ["sales", "hr", "sales"] {
                assert_eq!(
                    link(public, identity, "https://platform.ringcentral.com/a"),
                    format!("{base}/.ringbearer/as/{identity}/a")
                );
                assert_eq!(
                    link(public, identity, "wss://ws-api.ringcentral.com/ws"),
                    format!(
                        "{}/.ringbearer/as/{identity}/.ringbearer/ws/ws",
                        base.replacen("http", "ws", 1)
                    )
                );
            }
            assert_eq!(public.seen.borrow().len(), 2);
        }
    }

    #[test]
    fn links_to_a_host_that_is_to_be_left_alone_stay() {
        let mut upstream = upstream();
        upstream.hosts[0].rewrite_links = false;
        let public = Public::new(&upstream, None);
        assert_eq!(led_back(&public, "a.test", "https://media.ringcentral.com/a"), None);
        let socket = led_back(&public, "a.test", "wss://ws-api.ringcentral.com/a");
        assert_eq!(socket.as_deref(), Some("ws://a.test/.ringbearer/ws/a"));
    }

    #[test]
    fn a_host_that_is_none_leaves_links_alone_and_hosts_do_not_pile_up() {
        let public = Public::new(&upstream(), None);
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
