//! What looks at hosts mean: names, connections, certificates, and our clock against theirs. PURE.

use std::time::Duration;

use rustls::CertificateError::{
    self, BadSignature, Expired, ExpiredContext, NotValidForName, NotValidForNameContext,
    NotValidYet, NotValidYetContext, UnknownIssuer,
};

use super::finding::Finding;
use super::reach::{Dated, Seen, Trouble};
use crate::clock::Timestamp;
use crate::settings::{Origin, Settings};

/// Tokens are dated to the second, and a `Date` is up to one second old.
const SKEW: Duration = Duration::from_secs(5);

/// Long enough to get another one.
const SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// A host that requests go to, and what for.
#[derive(Clone, Debug)]
pub(super) struct Host {
    pub(super) origin: Origin,
    pub(super) roles: Vec<String>,
}

/// What the judge has to know of the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Means {
    pub(super) ca_file: bool,
    pub(super) http_proxy: bool,
}

/// Every host that the proxy itself calls, once.
pub(super) fn hosts(settings: &Settings) -> Vec<Host> {
    let mut hosts: Vec<Host> = Vec::new();
    let mut add =
        |origin: Origin, role: String| match hosts.iter_mut().find(|host| host.origin == origin) {
            Some(host) => host.roles.push(role),
            None => hosts.push(Host { origin, roles: vec![role] }),
        };
    add(settings.upstream.origin.clone(), "upstream.url".to_owned());
    for application in &settings.applications {
        let endpoints =
            [("token_url", &application.token_url), ("revoke_url", &application.revoke_url)];
        for (key, url) in endpoints {
            if let Some(origin) = origin_of(url) {
                add(origin, format!("{key} of {}", application.name));
            }
        }
    }
    for host in &settings.upstream.hosts {
        add(host.origin.clone(), format!("host {}", host.name));
    }
    hosts
}

fn origin_of(url: &http::Uri) -> Option<Origin> {
    Some(Origin { tls: url.scheme_str() == Some("https"), authority: url.authority()?.clone() })
}

/// Everything that one look has shown.
pub(super) fn judge(
    host: &Host,
    seen: &Result<Seen, Trouble>,
    means: Means,
    now: Timestamp,
) -> Vec<Finding> {
    let name = host.origin.to_string();
    match seen {
        Ok(seen) => {
            let mut findings = vec![Finding::ok("network", &name, reached(host, seen, means))];
            findings.extend(seen.tls.as_ref().map(|tls| certificate(&name, tls.ends, now)));
            findings.push(clock(&name, seen.date));
            findings
        }
        Err(trouble) => {
            let (finding, cure) = trouble_with(host, trouble, means);
            vec![Finding::failure("network", name, finding, cure)]
        }
    }
}

fn reached(host: &Host, seen: &Seen, means: Means) -> String {
    let tls = seen.tls.as_ref().map_or("plain HTTP", |tls| &tls.version);
    let way = match (means.http_proxy, seen.addresses) {
        (true, _) => "through upstream.http_proxy".to_owned(),
        (false, 1) => "1 address".to_owned(),
        (false, many) => format!("{many} addresses"),
    };
    let roles = host.roles.join(", ");
    format!("{tls} in {} ms, {way} ({roles})", seen.took.as_millis())
}

fn certificate(name: &str, ends: Option<Timestamp>, now: Timestamp) -> Finding {
    let Some(ends) = ends else {
        return Finding::ok("network", name, "its certificate is trusted");
    };
    let days = now.until(ends).as_secs() / 86_400;
    let finding = format!("its certificate is trusted, and ends in {days} days");
    if now.until(ends) < SOON {
        let cure = "whoever runs it has to renew it; nothing is reached after that";
        return Finding::warning("network", name, finding, cure);
    }
    Finding::ok("network", name, finding)
}

/// Compares our clock with a host's. An answer takes its time, and a `Date` has no fractions.
fn clock(name: &str, date: Option<Dated>) -> Finding {
    let Some(Dated { theirs, asked, had }) = date else {
        return Finding::ok("clock", name, "it tells no date to compare with");
    };
    let (ahead, behind) = ((theirs + Duration::from_secs(1)).until(asked), had.until(theirs));
    let (by, way) = if ahead > behind { (ahead, "ahead of") } else { (behind, "behind") };
    if by <= SKEW {
        return Finding::ok("clock", name, "agrees with the clock of this machine");
    }
    let by = humantime::format_duration(Duration::from_secs(by.as_secs()));
    let finding = format!("this machine's clock is {by} {way} its clock");
    let cure =
        "tokens and certificates are dated: let NTP set the clock (timedatectl set-ntp true)";
    Finding::warning("clock", name, finding, cure)
}

fn trouble_with(host: &Host, trouble: &Trouble, means: Means) -> (String, String) {
    let key = &host.roles[0];
    match trouble {
        Trouble::Name(why) => (
            format!("its name has no address ({why})"),
            format!("check {key}, and the resolver in /etc/resolv.conf"),
        ),
        Trouble::Connection(why) if means.http_proxy => (
            format!("no tunnel through upstream.http_proxy ({why})"),
            "check the proxy's address, and that it allows CONNECT to this host".to_owned(),
        ),
        Trouble::Connection(why) => (
            format!("no connection ({why})"),
            format!(
                "check {key} and the firewall; where only a proxy leads out, set upstream.http_proxy"
            ),
        ),
        Trouble::Tls(Some(rustls::Error::InvalidCertificate(error)), _) => {
            let (finding, cure) = refused(error, means);
            (finding, cure.to_owned())
        }
        Trouble::Tls(_, why) => (
            format!("no TLS ({why})"),
            "check scheme and port; something between may break TLS open".to_owned(),
        ),
        Trouble::Http(why) => {
            (format!("it does not speak HTTP ({why})"), format!("check scheme and port of {key}"))
        }
        Trouble::Late => (
            "no answer within upstream.connect_timeout".to_owned(),
            format!("check {key} and the firewall, which may drop without a word"),
        ),
    }
}

fn refused(error: &CertificateError, means: Means) -> (String, &'static str) {
    let unknown = match means {
        Means { ca_file: true, .. } => {
            "upstream.ca_file does not hold the authority that issued it: add that"
        }
        _ => {
            "install the platform's ca-certificates, or name the authority in upstream.ca_file; \
             a firewall that breaks TLS open has one of its own"
        }
    };
    let (finding, cure) = match error {
        UnknownIssuer => ("its certificate is from an authority that is not trusted", unknown),
        BadSignature => (
            "its certificate is from an authority that only has the name of a trusted one",
            unknown,
        ),
        Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. } => (
            "its certificate is over or not valid yet, by the clock of this machine",
            "correct that clock, or have the certificate renewed",
        ),
        NotValidForName | NotValidForNameContext { .. } => (
            "its certificate has another name",
            "another host answers there: check the URL, and what the name resolves to",
        ),
        _ => return (format!("its certificate is refused ({error})"), "have it replaced"),
    };
    (finding.to_owned(), cure)
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::super::reach::Tls;
    use super::*;
    use crate::settings::{ConfigSource, Overrides};

    const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);
    const PLAIN: Means = Means { ca_file: false, http_proxy: false };

    fn host() -> Host {
        let origin = Origin::parse("https://rc.test").unwrap();
        Host { origin, roles: vec!["upstream.url".into(), "token_url of crm".into()] }
    }

    #[allow(clippy::unnecessary_wraps, reason = "it is what a look gives")]
    fn seen(ends: Timestamp, theirs: Timestamp) -> Result<Seen, Trouble> {
        let (asked, had) = (NOW, NOW + Duration::from_millis(40));
        Ok(Seen {
            addresses: 2,
            took: Duration::from_millis(12),
            tls: Some(Tls { version: "TLS 1.3".into(), ends: Some(ends) }),
            date: Some(Dated { theirs, asked, had }),
        })
    }

    #[test]
    fn a_host_that_is_well_is_told_with_its_figures() {
        let ends = NOW + Duration::from_secs(90 * 86_400);
        assert_eq!(
            judge(&host(), &seen(ends, NOW), PLAIN, NOW),
            [
                Finding::ok(
                    "network",
                    "https://rc.test",
                    "TLS 1.3 in 12 ms, 2 addresses (upstream.url, token_url of crm)"
                ),
                Finding::ok(
                    "network",
                    "https://rc.test",
                    "its certificate is trusted, and ends in 90 days"
                ),
                Finding::ok("clock", "https://rc.test", "agrees with the clock of this machine"),
            ]
        );
    }

    #[test]
    fn a_certificate_that_ends_within_two_weeks_is_a_warning() {
        let level = |days: u64| {
            judge(&host(), &seen(NOW + Duration::from_secs(days * 86_400), NOW), PLAIN, NOW)[1]
                .level
        };
        assert_eq!((level(15), level(13), level(0)), (Level::Ok, Level::Warning, Level::Warning));
    }

    #[test]
    fn the_clock_is_judged_with_what_a_date_cannot_say() {
        let far = NOW + Duration::from_secs(90 * 86_400);
        let said = |theirs| judge(&host(), &seen(far, theirs), PLAIN, NOW)[2].says.clone();
        let agrees = "agrees with the clock of this machine";
        // The date of an answer may be a second old.
        assert_eq!(said(NOW - Duration::from_secs(6)), agrees);
        assert_eq!(said(NOW + Duration::from_secs(5)), agrees);
        assert_eq!(
            said(NOW - Duration::from_secs(91)),
            "this machine's clock is 1m 30s ahead of its clock"
        );
        assert_eq!(
            said(NOW + Duration::from_secs(3700)),
            "this machine's clock is 1h 1m 39s behind its clock"
        );
    }

    #[test]
    fn each_trouble_has_its_cure() {
        let proxy = Means { http_proxy: true, ..PLAIN };
        let own = Means { ca_file: true, ..PLAIN };
        let bad = |error| Trouble::Tls(Some(rustls::Error::InvalidCertificate(error)), "x".into());
        for (trouble, means, finding, cure) in [
            (
                Trouble::Name("no such name".into()),
                PLAIN,
                "its name has no address (no such name)",
                "check upstream.url, and the resolver in /etc/resolv.conf",
            ),
            (
                Trouble::Connection("connection refused".into()),
                PLAIN,
                "no connection (connection refused)",
                "check upstream.url and the firewall; where only a proxy leads out, set upstream.http_proxy",
            ),
            (
                Trouble::Connection("connection refused".into()),
                proxy,
                "no tunnel through upstream.http_proxy (connection refused)",
                "check the proxy's address, and that it allows CONNECT to this host",
            ),
            (
                bad(UnknownIssuer),
                own,
                "its certificate is from an authority that is not trusted",
                "upstream.ca_file does not hold the authority that issued it: add that",
            ),
            (
                bad(Expired),
                PLAIN,
                "its certificate is over or not valid yet, by the clock of this machine",
                "correct that clock, or have the certificate renewed",
            ),
            (
                Trouble::Late,
                PLAIN,
                "no answer within upstream.connect_timeout",
                "check upstream.url and the firewall, which may drop without a word",
            ),
        ] {
            let findings = judge(&host(), &Err(trouble), means, NOW);
            let expected = Finding::failure("network", "https://rc.test", finding, cure);
            assert_eq!(findings, [expected]);
        }
    }

    #[test]
    fn each_host_is_looked_at_once() {
        let text = "[application.crm]\nclient_id = 'id'\ntoken_url = 'https://login.test/token'\n\
                    [identity.sales]\njwt = 'canary'\n[upstream]\nurl = 'https://rc.test'\n\
                    [host.media]\nurl = 'https://media.test'";
        let source = ConfigSource::Text(text.to_owned());
        let environment = |name: &str| (name == "HOME").then(|| "/home/me".to_owned());
        let (settings, _) = Settings::load(&source, Overrides::default(), &environment).unwrap();
        let found: Vec<_> = hosts(&settings)
            .into_iter()
            .map(|host| (host.origin.to_string(), host.roles.join(", ")))
            .collect();
        let expected = [
            ("https://rc.test", "upstream.url, revoke_url of crm"),
            ("https://login.test", "token_url of crm"),
            ("https://media.test", "host media"),
        ];
        assert_eq!(found, expected.map(|(origin, roles)| (origin.to_owned(), roles.to_owned())));
    }
}
