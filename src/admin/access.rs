//! Who may ask and who may change something. PURE over the request's fields.
//!
//! A web page can make a browser send requests to this machine, but it can neither forge `Host` to an
//! address that is ours (after DNS rebinding it is the page's own name) nor keep the browser from
//! telling where the request comes from. So: an exact list of hosts, no `Origin` but that of our own
//! page, nothing cross-site. Only the page itself, which holds nothing, may be come to from anywhere.

use std::net::{IpAddr, SocketAddr};

use http::header::{AUTHORIZATION, HOST, HeaderMap, HeaderName, ORIGIN};
use http::uri::Authority;
use http::{HeaderValue, Uri};

use super::error::AdminError;
use crate::key::KeyDigest;
use crate::settings::AdminSettings;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
const SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// Who is let in.
#[derive(Clone, Debug)]
pub(super) struct Gate {
    hosts: Vec<String>,
    key: Option<KeyDigest>,
}

impl Gate {
    pub(super) fn new(settings: &AdminSettings) -> Self {
        Self { hosts: settings.hosts.clone(), key: settings.key }
    }

    /// Whether a request that arrived at `local` may be looked at.
    pub(super) fn admit(
        &self,
        uri: &Uri,
        fields: &HeaderMap,
        local: SocketAddr,
    ) -> Result<(), AdminError> {
        let mut hosts = fields.get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err(AdminError::Host);
        };
        let named = host.to_str().ok().is_some_and(|host| self.is_ours(host, local.ip()));
        let targeted = uri.authority().is_none_or(|it| self.is_ours(it.as_str(), local.ip()));
        if !(named && targeted) {
            return Err(AdminError::Host);
        }
        let mut sites = fields.get_all(SEC_FETCH_SITE).iter();
        let own = |site: &HeaderValue| site == "none" || site == "same-origin";
        let mut origins = fields.get_all(ORIGIN).iter();
        let is_own_page = origins.all(|origin| is_of(origin, host)) && sites.all(own);
        if is_own_page || is_visit(uri, fields) { Ok(()) } else { Err(AdminError::CrossSite) }
    }

    /// Whether anybody can change something.
    pub(super) const fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Whether the key that allows changes was presented.
    pub(super) fn allow_change(&self, fields: &HeaderMap) -> Result<(), AdminError> {
        let key = self.key.as_ref().ok_or(AdminError::ChangesOff)?;
        let mut given = fields.get_all(AUTHORIZATION).iter();
        let (Some(value), None) = (given.next(), given.next()) else {
            return Err(AdminError::Key);
        };
        let (scheme, presented) =
            value.to_str().ok().and_then(|it| it.split_once(' ')).unwrap_or_default();
        let is_it = scheme.eq_ignore_ascii_case("bearer") && key.is_of(presented.trim());
        if is_it { Ok(()) } else { Err(AdminError::Key) }
    }

    /// The port is left out of it: it says where a request went, not who made it.
    fn is_ours(&self, authority: &str, local: IpAddr) -> bool {
        let Ok(parsed) = authority.parse::<Authority>() else { return false };
        if authority.contains('@') {
            return false;
        }
        let (host, ip) = (parsed.host(), address(parsed.host()));
        ip.is_some_and(|ip| ip == local.to_canonical())
            || host.eq_ignore_ascii_case("localhost")
            || self.hosts.iter().any(|known| {
                known.eq_ignore_ascii_case(host) || ip.is_some() && address(known) == ip
            })
    }
}

/// Whether an origin is that of pages of this `Host`, over whatever leads here.
fn is_of(origin: &HeaderValue, host: &HeaderValue) -> bool {
    let (origin, host) = (origin.as_bytes(), host.as_bytes());
    let bare = origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"));
    bare.is_some_and(|bare| !bare.is_empty() && bare.eq_ignore_ascii_case(host))
}

/// Whether somebody follows a link to the page, in a window of its own.
fn is_visit(uri: &Uri, fields: &HeaderMap) -> bool {
    let is = |name: HeaderName, word: &str| {
        let mut values = fields.get_all(name).iter();
        values.next().is_some_and(|value| value == word) && values.next().is_none()
    };
    uri.path() == "/"
        && !fields.contains_key(ORIGIN)
        && is(SEC_FETCH_MODE, "navigate")
        && is(SEC_FETCH_DEST, "document")
}

fn address(host: &str) -> Option<IpAddr> {
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
    bare.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(key: Option<&str>) -> Gate {
        let hosts = vec!["ringbearer.internal".to_owned(), "10.1.2.3".to_owned()];
        Gate { hosts, key: key.map(KeyDigest::of) }
    }

    fn fields(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let value = |text: &str| HeaderValue::from_str(text).unwrap();
        let mut fields = HeaderMap::new();
        for (name, text) in pairs {
            fields.append(name, value(text));
        }
        fields
    }

    fn admitted(local: &str, target: &str, pairs: &[(HeaderName, &str)]) -> bool {
        let admitted =
            gate(None).admit(&target.parse().unwrap(), &fields(pairs), local.parse().unwrap());
        admitted.is_ok()
    }

    #[test]
    fn only_its_own_address_localhost_and_configured_names_are_hosts() {
        for (local, host, ours) in [
            ("127.0.0.1:9090", "127.0.0.1:9090", true),
            ("127.0.0.1:9090", "127.0.0.1", true),
            ("127.0.0.1:9090", "localhost:9090", true),
            ("127.0.0.1:9090", "LocalHost:18080", true),
            ("[::1]:9090", "[::1]:9090", true),
            ("[::ffff:127.0.0.1]:9090", "127.0.0.1:9090", true),
            ("127.0.0.1:9090", "Ringbearer.internal:9090", true),
            ("127.0.0.1:9090", "10.1.2.3:80", true),
            ("127.0.0.1:9090", "evil.test:9090", false),
            ("127.0.0.1:9090", "127.0.0.1.evil.test", false),
            ("127.0.0.1:9090", "localhost.evil.test", false),
            ("127.0.0.1:9090", "me@127.0.0.1:9090", false),
            ("127.0.0.1:9090", "127.0.0.2:9090", false),
            ("127.0.0.1:9090", "[::1]:9090", false),
            ("127.0.0.1:9090", "", false),
        ] {
            assert_eq!(admitted(local, "/healthz", &[(HOST, host)]), ours, "{host:?} at {local}");
        }
        assert!(!admitted("127.0.0.1:9090", "/healthz", &[]));
        let twice = [(HOST, "127.0.0.1"), (HOST, "127.0.0.1")];
        assert!(!admitted("127.0.0.1:9090", "/healthz", &twice));
        let absolute = "http://evil.test/healthz";
        assert!(!admitted("127.0.0.1:9090", absolute, &[(HOST, "127.0.0.1")]));
    }

    #[test]
    fn a_web_page_gets_in_nowhere() {
        for (name, value, in_) in [
            (ORIGIN, "https://evil.test", false),
            (ORIGIN, "null", false),
            (ORIGIN, "http://127.0.0.1:9090", false),
            (SEC_FETCH_SITE, "cross-site", false),
            (SEC_FETCH_SITE, "same-site", false),
            (SEC_FETCH_SITE, "", false),
            (SEC_FETCH_SITE, "none", true),
            (SEC_FETCH_SITE, "same-origin", true),
        ] {
            let pairs = [(HOST, "localhost"), (name, value)];
            assert_eq!(admitted("127.0.0.1:9090", "/metrics", &pairs), in_, "{pairs:?}");
        }
    }

    #[test]
    fn our_own_page_gets_in_by_the_host_that_it_was_loaded_from() {
        for (host, origin, site, in_) in [
            ("127.0.0.1:9090", "http://127.0.0.1:9090", "same-origin", true),
            ("Localhost:9090", "http://localhost:9090", "same-origin", true),
            ("ringbearer.internal", "https://ringbearer.internal", "same-origin", true),
            ("127.0.0.1:9090", "http://127.0.0.1:9091", "same-site", false),
            ("127.0.0.1:9090", "http://127.0.0.1:9090", "cross-site", false),
            ("127.0.0.1:9090", "http://localhost:9090", "same-origin", false),
            ("127.0.0.1:9090", "null", "same-origin", false),
            ("127.0.0.1:9090", "http://", "same-origin", false),
            // After DNS rebinding the page and the host have the same name, which is not ours.
            ("evil.test:9090", "http://evil.test:9090", "same-origin", false),
        ] {
            let pairs = [(HOST, host), (ORIGIN, origin), (SEC_FETCH_SITE, site)];
            let target = "/identities/a/renew";
            assert_eq!(admitted("127.0.0.1:9090", target, &pairs), in_, "{pairs:?}");
        }
        let twice = [
            (HOST, "127.0.0.1:9090"),
            (ORIGIN, "http://127.0.0.1:9090"),
            (ORIGIN, "https://evil.test"),
        ];
        assert!(!admitted("127.0.0.1:9090", "/", &twice));
    }

    #[test]
    fn a_link_leads_to_the_page_and_to_nothing_else() {
        for (target, mode, dest, in_) in [
            ("/", "navigate", "document", true),
            ("/?a", "navigate", "document", true),
            ("/", "navigate", "iframe", false),
            ("/", "no-cors", "document", false),
            ("/state", "navigate", "document", false),
            ("/identities", "navigate", "document", false),
        ] {
            let pairs = [
                (HOST, "localhost"),
                (SEC_FETCH_SITE, "cross-site"),
                (SEC_FETCH_MODE, mode),
                (SEC_FETCH_DEST, dest),
            ];
            assert_eq!(admitted("127.0.0.1:9090", target, &pairs), in_, "{target} {pairs:?}");
        }
        let rebound = [
            (HOST, "evil.test"),
            (SEC_FETCH_SITE, "none"),
            (SEC_FETCH_MODE, "navigate"),
            (SEC_FETCH_DEST, "document"),
        ];
        assert!(!admitted("127.0.0.1:9090", "/", &rebound));
    }

    #[test]
    fn changes_take_the_key_and_a_key() {
        let allowed = |gate: &Gate, pairs: &[(HeaderName, &str)]| gate.allow_change(&fields(pairs));
        let bearer = [(AUTHORIZATION, "Bearer the-key")];
        assert!(matches!(allowed(&gate(None), &bearer), Err(AdminError::ChangesOff)));
        let gate = gate(Some("the-key"));
        assert!(allowed(&gate, &bearer).is_ok());
        assert!(allowed(&gate, &[(AUTHORIZATION, "bearer  the-key")]).is_ok());
        for wrong in
            ["Bearer the-ke", "Bearer", "the-key", "Basic the-key", "Bearer the-key the-key"]
        {
            let refused = allowed(&gate, &[(AUTHORIZATION, wrong)]);
            assert!(matches!(refused, Err(AdminError::Key)), "{wrong}");
        }
        assert!(matches!(allowed(&gate, &[]), Err(AdminError::Key)));
        let twice = [(AUTHORIZATION, "Bearer the-key"), (AUTHORIZATION, "Bearer the-key")];
        assert!(matches!(allowed(&gate, &twice), Err(AdminError::Key)));
    }
}
