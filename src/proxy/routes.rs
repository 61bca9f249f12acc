//! Which of RingCentral's hosts a request is for. PURE: a target goes in, a host and the target to
//! send there come out.
//!
//! Everything is the platform's but `/.ringbearer/NAME/…`, which is that of `[host.NAME]`. The name
//! has to stand there letter by letter; what follows it goes on byte for byte, and is what the
//! access rules see. No target ever names a host that is not configured.
//!
//! Before all that may stand `/.ringbearer/as/NAME`, for clients that keep the path of their base URL:
//! it says as which identity, and is taken off first ([`take_identity`]).

use http::Uri;
use http::uri::PathAndQuery;

use crate::settings::{HostSettings, IdentitySettings};

/// The first segment of every path that leads to another host than the platform.
pub const PREFIX: &str = "/.ringbearer/";

/// What stands before the name of an identity.
pub const AS: &str = "/.ringbearer/as/";

/// The hosts, by name.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    names: Vec<String>,
}

/// Which host, as an index: the platform first, then those of [`Routes::new`] in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site(usize);

impl Site {
    /// Where API requests go.
    pub const PLATFORM: Self = Self(0);

    /// Its place among all hosts.
    pub const fn index(self) -> usize {
        self.0
    }
}

/// There is no host of the name that a target has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownHost;

impl Routes {
    /// To the platform and these hosts.
    pub fn new(hosts: &[HostSettings]) -> Self {
        Self { names: hosts.iter().map(|host| host.name.clone()).collect() }
    }

    /// The host that `target` is for. The prefix is taken off it.
    pub fn find(&self, target: &mut Uri) -> Result<Site, UnknownHost> {
        let Some(rest) = target.path().strip_prefix(PREFIX) else { return Ok(Site::PLATFORM) };
        let name = &rest[..rest.find('/').ok_or(UnknownHost)?];
        let place = self.names.iter().position(|known| known == name).ok_or(UnknownHost)?;
        let taken = PREFIX.len() + name.len();
        take_off(target, taken).ok_or(UnknownHost)?;
        Ok(Site(place + 1))
    }

    /// A `Location` or the like that is a path only (RFC 9110 §10.2.2): from the host of `site` it leads
    /// to that host, which the client finds under a prefix, `identity`'s before it. `None` if it stays
    /// as it is.
    pub fn led_back(
        &self,
        site: Site,
        identity: Option<&str>,
        reference: &[u8],
    ) -> Option<Vec<u8>> {
        let host = site.0.checked_sub(1).and_then(|place| self.names.get(place));
        if host.is_none() && identity.is_none() {
            return None;
        }
        let is_path = reference.starts_with(b"/") && !reference.starts_with(b"//");
        let identity = identity.map(identity_path).unwrap_or_default();
        let host = host.map(|name| path_of(name)).unwrap_or_default();
        is_path.then(|| [identity.as_bytes(), host.as_bytes(), reference].concat())
    }
}

/// The identity that the path of `target` names. The prefix is taken off it. A name that no identity
/// can have is an error, which says it.
pub fn take_identity(target: &mut Uri) -> Result<Option<Box<str>>, String> {
    let Some(rest) = target.path().strip_prefix(AS) else { return Ok(None) };
    let name = rest.split('/').next().unwrap_or_default();
    if name.len() == rest.len() || !IdentitySettings::is_name(name) {
        return Err(name.to_owned());
    }
    let (name, taken): (Box<str>, _) = (name.into(), AS.len() + name.len());
    take_off(target, taken).ok_or_else(|| name.to_string())?;
    Ok(Some(name))
}

/// Where everything is that `identity` is to be asked for.
pub fn identity_path(identity: &str) -> String {
    format!("{AS}{identity}")
}

/// Takes so many bytes off the path; what follows goes on byte for byte.
fn take_off(target: &mut Uri, taken: usize) -> Option<()> {
    let whole = target.path_and_query().map_or("/", PathAndQuery::as_str);
    *target = whole[taken..].parse().ok()?;
    Some(())
}

/// Where the host of this name is found through the proxy.
pub fn path_of(name: &str) -> String {
    format!("{PREFIX}{name}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Origin;

    fn found(target: &str) -> Result<(usize, String), UnknownHost> {
        let host = |name: &str, websocket| HostSettings {
            name: name.into(),
            origin: Origin::parse("https://h.test").unwrap(),
            websocket,
            rewrite_links: true,
        };
        let routes = Routes::new(&[host("media", false), host("ws", true)]);
        let mut target = target.parse().unwrap();
        routes.find(&mut target).map(|site| (site.index(), target.to_string()))
    }

    #[test]
    fn a_prefix_leads_to_its_host_and_the_rest_keeps_its_bytes() {
        for (target, expected) in [
            ("/restapi/v1.0/a?b", (0, "/restapi/v1.0/a?b")),
            ("/.ringbearer", (0, "/.ringbearer")),
            ("/.ringbearer/media/restapi/%7Ea%2Fb?x=%20&y", (1, "/restapi/%7Ea%2Fb?x=%20&y")),
            ("/.ringbearer/ws/ws?access_token=t", (2, "/ws?access_token=t")),
            ("http://evil.test/.ringbearer/media/a?b", (1, "/a?b")),
            ("/.ringbearer/media//evil.test/a", (1, "//evil.test/a")),
            ("/%2eringbearer/media/a", (0, "/%2eringbearer/media/a")),
        ] {
            assert_eq!(found(target), Ok((expected.0, expected.1.to_owned())), "{target}");
        }
    }

    #[test]
    fn a_relative_reference_of_another_host_stays_with_it() {
        let host = HostSettings {
            name: "media".into(),
            origin: Origin::parse("https://h.test").unwrap(),
            websocket: false,
            rewrite_links: true,
        };
        let routes = Routes::new(&[host]);
        let led_back = |site, reference: &str| {
            let led_back = routes.led_back(Site(site), None, reference.as_bytes());
            led_back.map(|path| String::from_utf8(path).unwrap())
        };
        assert_eq!(led_back(1, "/a?b").as_deref(), Some("/.ringbearer/media/a?b"));
        for (site, reference) in
            [(0, "/a"), (1, "//evil.test/a"), (1, "https://h.test/a"), (1, "a"), (2, "/a")]
        {
            assert_eq!(led_back(site, reference), None, "{site} {reference}");
        }
    }

    #[test]
    fn a_relative_reference_stays_under_the_identitys_prefix() {
        let host = HostSettings {
            name: "media".into(),
            origin: Origin::parse("https://h.test").unwrap(),
            websocket: false,
            rewrite_links: true,
        };
        let routes = Routes::new(&[host]);
        let led_back = |site, reference: &str| {
            let led_back = routes.led_back(Site(site), Some("sales"), reference.as_bytes());
            led_back.map(|path| String::from_utf8(path).unwrap())
        };
        assert_eq!(led_back(0, "/a?b").as_deref(), Some("/.ringbearer/as/sales/a?b"));
        assert_eq!(led_back(1, "/a").as_deref(), Some("/.ringbearer/as/sales/.ringbearer/media/a"));
        assert_eq!(led_back(1, "https://h.test/a"), None);
        assert_eq!(led_back(0, "//evil.test/a"), None);
    }

    #[test]
    fn an_identitys_prefix_is_taken_off_and_the_rest_keeps_its_bytes() {
        let taken = |target: &str| {
            let mut target = target.parse().unwrap();
            let name = take_identity(&mut target)?;
            Ok((name.as_deref().unwrap_or_default().to_owned(), target.to_string()))
        };
        for (target, name, rest) in [
            ("/restapi/v1.0/a?b", "", "/restapi/v1.0/a?b"),
            ("/.ringbearer/media/a", "", "/.ringbearer/media/a"),
            (
                "/.ringbearer/as/sales/restapi/%7Ea%2Fb?x=%20&y",
                "sales",
                "/restapi/%7Ea%2Fb?x=%20&y",
            ),
            ("/.ringbearer/as/sales/", "sales", "/"),
            ("/.ringbearer/as/a-b_1/.ringbearer/media/a", "a-b_1", "/.ringbearer/media/a"),
            ("http://evil.test/.ringbearer/as/sales/a", "sales", "/a"),
            ("/.ringbearer/as/sales//evil.test/a", "sales", "//evil.test/a"),
            ("/.ringbearer/as/a/.ringbearer/as/b/c", "a", "/.ringbearer/as/b/c"),
            ("/%2eringbearer/as/sales/a", "", "/%2eringbearer/as/sales/a"),
        ] {
            assert_eq!(taken(target), Ok((name.to_owned(), rest.to_owned())), "{target}");
        }
        for (target, name) in [
            ("/.ringbearer/as/", ""),
            ("/.ringbearer/as/sales", "sales"),
            ("/.ringbearer/as/sales?a", "sales"),
            ("/.ringbearer/as//a", ""),
            ("/.ringbearer/as/../a", ".."),
            ("/.ringbearer/as/sal%65s/a", "sal%65s"),
        ] {
            assert_eq!(taken(target), Err(name.to_owned()), "{target}");
        }
    }

    #[test]
    fn no_target_names_a_host_that_is_not_configured() {
        for target in [
            "/.ringbearer/",
            "/.ringbearer/media",
            "/.ringbearer/evil.test/a",
            "/.ringbearer/Media/a",
            "/.ringbearer/med%69a/a",
            "/.ringbearer//media/a",
            "/.ringbearer/../media/a",
        ] {
            assert_eq!(found(target), Err(UnknownHost), "{target}");
        }
    }
}
