//! By which hosts the proxy may be called. PURE.
//!
//! A web page can make a name of its own lead to this machine (DNS rebinding). Its browser then takes
//! the proxy for a part of that site: no `Origin` comes, scripts read the answers, and only `Host` tells.
//! So where whoever reaches a listener may call, and that is on loopback, a request has to name a host
//! that is known; and so it has to where a client is known by its network, for the page's browser is in
//! that, too. An IP address in `Host` is no name that anybody could lead elsewhere.

use std::net::{IpAddr, SocketAddr};

use http::HeaderValue;
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;

use crate::settings::{HostNames as Configured, Settings};

/// The hosts by which clients may call.
#[derive(Clone, Debug)]
pub struct Hostnames {
    /// In lower case, with or without a port.
    known: Vec<String>,
    addresses: Vec<IpAddr>,
    /// Whether it listens on every address of this machine.
    is_everywhere: bool,
    demanded: Demanded,
}

/// Where one of them is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Demanded {
    Nowhere,
    /// Of clients that are known by their network.
    OfNetworks,
    /// On loopback, where nobody shows a key.
    WhereAnybodyCalls,
    Everywhere,
}

impl Hostnames {
    /// From the configuration.
    pub fn new(settings: &Settings) -> Self {
        let (configured, demanded) = match &settings.proxy.hosts {
            Configured::AndThese(hosts) => (&hosts[..], Demanded::Everywhere),
            Configured::Usual if settings.clients.is_empty() => {
                (&[][..], Demanded::WhereAnybodyCalls)
            }
            Configured::Usual => (&[][..], Demanded::OfNetworks),
            Configured::Any => (&[][..], Demanded::Nowhere),
        };
        let identities = settings.identities.iter();
        let public = settings.proxy.public_url.iter().map(|url| url.authority.as_str().to_owned());
        let known = std::iter::once("localhost".to_owned()).chain(public);
        let known = known.chain(identities.clone().flat_map(|identity| identity.hosts.clone()));
        let listen = identities.flat_map(|identity| &identity.listen).chain(&settings.proxy.listen);
        let listen = listen.map(SocketAddr::ip);
        Self {
            known: known.chain(configured.iter().cloned()).collect(),
            is_everywhere: listen.clone().any(|ip| ip.is_unspecified()),
            addresses: listen.collect(),
            demanded,
        }
    }

    /// Whether requests that come in by `listener` have to name one of them.
    pub fn guard(&self, listener: SocketAddr) -> bool {
        match self.demanded {
            Demanded::Nowhere | Demanded::OfNetworks => false,
            Demanded::WhereAnybodyCalls => listener.ip().to_canonical().is_loopback(),
            Demanded::Everywhere => true,
        }
    }

    /// Whether they have to where they come in by a Unix socket, which no browser opens.
    pub fn guard_sockets(&self) -> bool {
        self.demanded == Demanded::Everywhere
    }

    /// Whether they have to where the client is known by its network.
    pub fn guard_networks(&self) -> bool {
        self.demanded != Demanded::Nowhere
    }

    /// Whether every host that a request names is one of them. HTTP/1.0 may name none, and no browser
    /// speaks it.
    pub fn include(&self, head: &Parts) -> bool {
        let mut fields = head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
        let authority = head.uri.authority().map(Authority::as_str);
        authority.is_none_or(|host| self.includes(host))
            && fields.all(|host| std::str::from_utf8(host).is_ok_and(|host| self.includes(host)))
    }

    fn includes(&self, host: &str) -> bool {
        let bare = match host.strip_prefix('[') {
            Some(rest) => rest.split_once(']').map_or("", |(literal, _)| literal),
            None => host.split_once(':').map_or(host, |(bare, _)| bare),
        };
        if let Ok(address) = bare.parse::<IpAddr>() {
            // Not the canonical form: to a browser `[::ffff:127.0.0.1]` is any machine in clear text,
            // and an image from there says nothing of the page that shows it.
            return self.is_everywhere
                || address.is_loopback()
                || self.addresses.contains(&address);
        }
        let is =
            |known: &String| known.eq_ignore_ascii_case(host) || known.eq_ignore_ascii_case(bare);
        self.known.iter().any(is)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::{ConfigSource, Overrides};
    use http::Request;

    fn hostnames(proxy: &str, more: &str) -> Hostnames {
        let toml = format!(
            "[proxy]\nlisten = ['127.0.0.1:8080', '10.0.0.7:80']\nallow_remote_clients = true\n{proxy}\n\
             [application.a]\nclient_id = 'a'\nclient_secret = 'b'\n[identity.i]\njwt = 'j'\n\
             hosts = ['Sales.test', 'hr.test:8080']\n{more}\n[store]\nmemory = true\n"
        );
        let source = ConfigSource::Text(toml);
        Hostnames::new(&Settings::load(&source, Overrides::default(), &|_| None).unwrap().0)
    }

    fn included(hostnames: &Hostnames, hosts: &[&str]) -> bool {
        let mut request = Request::builder().uri("/restapi");
        for host in hosts {
            request = request.header("host", *host);
        }
        hostnames.include(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn a_request_names_this_machine_an_identitys_host_or_a_configured_one() {
        let configured =
            "public_url = 'https://rc.example.com'\nhosts = ['Proxy.test', 'a.test:81']";
        let hostnames = hostnames(configured, "");
        for (host, is_known) in [
            ("localhost", true),
            ("LOCALHOST:1234", true),
            ("127.0.0.1:8080", true),
            ("127.0.0.1", true),
            ("127.9.9.9:1", true),
            ("[::1]", true),
            ("[::1]:8080", true),
            ("[::ffff:127.0.0.1]:80", false),
            ("10.0.0.7:80", true),
            ("sales.test", true),
            ("sales.test:99", true),
            ("hr.test:8080", true),
            ("hr.test", false),
            ("hr.test:80", false),
            ("rc.example.com", true),
            ("rc.example.com:443", true),
            ("proxy.TEST:5", true),
            ("a.test:81", true),
            ("a.test:82", false),
            ("10.0.0.8", false),
            ("evil.test", false),
            ("evil.test:8080", false),
            ("localhost.evil.test", false),
            ("127.0.0.1.evil.test", false),
            ("localhost.", false),
            ("[::1", false),
            ("[evil.test]", false),
            ("evil.test:80@localhost", false),
            ("", false),
        ] {
            assert_eq!(included(&hostnames, &[host]), is_known, "{host}");
        }
        assert!(included(&hostnames, &[]), "HTTP/1.0");
        assert!(!included(&hostnames, &["localhost", "evil.test"]));
    }

    #[test]
    fn the_target_may_name_no_other_host_than_the_field_could() {
        let hostnames = hostnames("", "");
        let named = |uri: &str, host: &str| {
            let request = Request::builder().uri(uri).header("host", host).body(()).unwrap();
            hostnames.include(&request.into_parts().0)
        };
        assert!(named("http://localhost:8080/a", "localhost:8080"));
        assert!(!named("http://evil.test/a", "localhost:8080"));
        assert!(!named("http://localhost:8080/a", "evil.test"));
    }

    #[test]
    fn a_known_host_is_demanded_where_anybody_may_call_or_some_are_configured() {
        let client = "[client.c]\nidentities = '*'\n\
             key_sha256 = 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad'";
        let guards = |proxy, more| {
            let hostnames = hostnames(proxy, more);
            ["127.0.0.1:8080", "[::1]:1", "10.0.0.7:80"]
                .map(|it| hostnames.guard(it.parse().unwrap()))
        };
        assert_eq!(guards("", ""), [true, true, false]);
        assert_eq!(guards("", client), [false; 3]);
        assert_eq!(guards("hosts = 'a.test'", ""), [true; 3]);
        assert_eq!(guards("hosts = 'a.test'", client), [true; 3]);
        assert_eq!(guards("hosts = '*'", ""), [false; 3]);
        let sockets_and_networks = |proxy, more| {
            let hostnames = hostnames(proxy, more);
            (hostnames.guard_sockets(), hostnames.guard_networks())
        };
        assert_eq!(sockets_and_networks("", client), (false, true));
        assert_eq!(sockets_and_networks("hosts = 'a.test'", client), (true, true));
        assert_eq!(sockets_and_networks("hosts = '*'", client), (false, false));
    }

    #[test]
    fn where_it_listens_everywhere_every_address_may_be_its_own() {
        let some = hostnames("", "");
        assert!(!included(&some, &["10.0.0.8:80"]));
        let everywhere = Hostnames { is_everywhere: true, ..some };
        assert!(included(&everywhere, &["10.0.0.8:80"]));
        assert!(!included(&everywhere, &["evil.test"]));
    }
}
