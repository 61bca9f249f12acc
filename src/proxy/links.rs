//! Absolute links in answers, led back to the proxy while they stream past. PURE.
//!
//! RingCentral's answers name its own hosts: `uri`, `navigation.nextPage.uri`, `contentUri`,
//! `attachments[].uri`, `Location`. An app that follows such a link leaves the proxy and arrives
//! there without a token. A [`LinkMap`] knows which origins lead to which URL of the proxy;
//! [`json`] and [`multipart`] rewrite content, [`fields`] what goes before it, [`body`] streams.
//!
//! Only a string value that *begins* with a whole origin is a link: so it is in all of RingCentral's
//! 227 documented examples, where no link stands within a longer text. A message that somebody
//! wrote is theirs and stays as it is, and a longer host that begins alike is another host.

pub mod body;
pub mod fields;
pub mod json;
pub mod multipart;

use bytes::{Bytes, BytesMut};
use http::Uri;
use memchr::memmem::Finder;

use crate::settings::{Origin, UrlProblem};

/// From origins to what stands in for them.
#[derive(Debug)]
pub struct LinkMap {
    targets: Vec<Target>,
    http: Option<Finder<'static>>,
    web_socket: Option<Finder<'static>>,
}

/// Why there can be no such map.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum LinkError {
    #[error("the origin {origin:?} {problem}")]
    Origin {
        origin: String,
        #[source]
        problem: UrlProblem,
    },
    #[error(
        "{base:?} cannot stand in for an origin: write scheme, host and perhaps a path, such as \
         http://127.0.0.1:8080"
    )]
    Base { base: String },
    #[error(
        "links to {origin} cannot lead to {base}: a WebSocket's address stays one, so pair ws or \
         wss with ws or wss, http or https with http or https"
    )]
    Scheme { origin: String, base: String },
    #[error("{origin} is to be replaced twice: leave one of them out")]
    Twice { origin: String },
}

/// One origin and its replacement.
#[derive(Debug)]
struct Target {
    /// In lower case, without the scheme's own port.
    origin: Box<str>,
    /// The scheme's own port, which may be written all the same; empty if the origin has another.
    port: &'static str,
    /// What stands in for it, without a slash at its end.
    base: Box<str>,
}

/// One character of a link, however it is written.
enum Character {
    /// It is this one, and the next is there.
    Is(u8, usize),
    /// The link ends before it.
    End,
    /// It is none that an origin has.
    Other,
    /// It has not come yet.
    Missing,
}

/// What has come of a link is too little to tell.
struct Missing;

/// Whether a link begins with an origin.
enum Found<'a> {
    /// With that of the target; it ends there.
    Origin(&'a Target, usize),
    Nothing,
    /// What has come is too little to tell.
    Undecided,
}

impl LinkMap {
    /// From pairs of an origin (`https://media.ringcentral.com`) and the URL that its links are to
    /// begin with instead (`http://127.0.0.1:8080/media`).
    ///
    /// Origins with `ws` or `wss` need a replacement of their kind.
    pub fn new<O, B>(pairs: impl IntoIterator<Item = (O, B)>) -> Result<Self, LinkError>
    where
        O: AsRef<str>,
        B: AsRef<str>,
    {
        let mut targets: Vec<Target> = Vec::new();
        for (origin, base) in pairs {
            let target = Target::parse(origin.as_ref(), base.as_ref())?;
            if targets.iter().any(|known| known.origin == target.origin) {
                return Err(LinkError::Twice { origin: target.origin.into() });
            }
            targets.push(target);
        }
        let trigger = |scheme: &str, trigger: &'static str| {
            let is_needed = targets.iter().any(|target| target.origin.starts_with(scheme));
            is_needed.then(|| Finder::new(trigger))
        };
        let (http, web_socket) = (trigger("http", json::HTTP), trigger("ws", json::WEB_SOCKET));
        Ok(Self { targets, http, web_socket })
    }

    /// `link` with its origin replaced, if it begins with one that is known.
    pub fn rewrite(&self, link: &[u8]) -> Option<Bytes> {
        let Found::Origin(target, end) = self.find(link, 0, plain) else { return None };
        let mut rewritten = BytesMut::with_capacity(target.base.len() + link.len() - end);
        rewritten.extend_from_slice(target.base.as_bytes());
        rewritten.extend_from_slice(&link[end..]);
        Some(rewritten.freeze())
    }

    /// The origin that the link at `at` begins with, its characters read by `read`.
    fn find(
        &self,
        text: &[u8],
        at: usize,
        read: impl Fn(&[u8], usize) -> Character + Copy,
    ) -> Found<'_> {
        let mut is_undecided = false;
        for target in &self.targets {
            match target.end_of(text, at, read) {
                Ok(Some(end)) => return Found::Origin(target, end),
                Ok(None) => {}
                Err(Missing) => is_undecided = true,
            }
        }
        if is_undecided { Found::Undecided } else { Found::Nothing }
    }
}

impl Target {
    fn parse(origin: &str, base: &str) -> Result<Self, LinkError> {
        let is_web_socket = is_web_socket(origin);
        let as_http = if is_web_socket { format!("http{}", &origin[2..]) } else { origin.into() };
        let parsed = Origin::parse(&as_http)
            .map_err(|problem| LinkError::Origin { origin: origin.to_owned(), problem })?;
        let normal = parsed.to_string();
        let normal = if is_web_socket { normal.replacen("http", "ws", 1) } else { normal };
        if !is_base(base) {
            return Err(LinkError::Base { base: base.to_owned() });
        }
        let base = base.trim_end_matches('/');
        if is_web_socket != self::is_web_socket(base) {
            return Err(LinkError::Scheme { origin: normal, base: base.to_owned() });
        }
        let port = match (parsed.authority.port(), parsed.tls) {
            (Some(_), _) => "",
            (None, true) => ":443",
            (None, false) => ":80",
        };
        Ok(Self { origin: normal.into(), port, base: base.into() })
    }

    /// Where the origin at `at` ends; `None` if it is another one.
    fn end_of(
        &self,
        text: &[u8],
        at: usize,
        read: impl Fn(&[u8], usize) -> Character + Copy,
    ) -> Result<Option<usize>, Missing> {
        let spelled = |word: &str, mut at: usize| {
            for expected in word.bytes() {
                match read(text, at) {
                    Character::Is(byte, next) if byte.eq_ignore_ascii_case(&expected) => at = next,
                    Character::Missing => return Err(Missing),
                    _ => return Ok(None),
                }
            }
            Ok(Some(at))
        };
        let Some(mut end) = spelled(&self.origin, at)? else { return Ok(None) };
        if matches!(read(text, end), Character::Is(b':', _)) && !self.port.is_empty() {
            let Some(port) = spelled(self.port, end)? else { return Ok(None) };
            end = port;
        }
        match read(text, end) {
            // Browsers take a backslash for a slash.
            Character::End | Character::Is(b'/' | b'?' | b'#' | b'\\', _) => Ok(Some(end)),
            Character::Missing => Err(Missing),
            _ => Ok(None),
        }
    }

    /// Whether `text` begins with the origin as it is usually written, and where it ends.
    fn literal(&self, text: &[u8]) -> Option<usize> {
        let end = self.origin.len();
        let is_whole = matches!(text.get(end), Some(b'/' | b'?' | b'#' | b'"'));
        let is_same = is_whole && text[..end].eq_ignore_ascii_case(self.origin.as_bytes());
        is_same.then_some(end)
    }
}

/// A link that is written as it is.
fn plain(text: &[u8], at: usize) -> Character {
    text.get(at).map_or(Character::End, |byte| Character::Is(*byte, at + 1))
}

fn is_web_socket(url: &str) -> bool {
    let starts = |scheme: &str| {
        url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    };
    starts("ws://") || starts("wss://")
}

/// Whether it is a URL that a path can be put behind, in characters that need no escape anywhere.
fn is_base(base: &str) -> bool {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:/[]%!$&()*+,;=".contains(&byte);
    let Ok(url) = base.parse::<Uri>() else { return false };
    base.bytes().all(is_safe)
        && url.authority().is_some()
        && matches!(url.scheme_str(), Some("http" | "https" | "ws" | "wss"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What a proxy on loopback would have.
    pub(crate) fn links() -> LinkMap {
        LinkMap::new([
            ("https://platform.ringcentral.com", "http://127.0.0.1:8080"),
            ("https://media.ringcentral.com", "http://127.0.0.1:8080/.ringbearer/media"),
            ("wss://ws-api.ringcentral.com", "ws://127.0.0.1:8080/.ringbearer/ws"),
            ("http://127.0.0.1:9000", "http://127.0.0.1:8080/"),
        ])
        .unwrap()
    }

    #[test]
    fn a_link_to_a_known_origin_leads_to_the_proxy() {
        for (link, expected) in [
            ("https://platform.ringcentral.com", "http://127.0.0.1:8080"),
            ("https://platform.ringcentral.com/restapi?a=b", "http://127.0.0.1:8080/restapi?a=b"),
            ("https://platform.ringcentral.com?a", "http://127.0.0.1:8080?a"),
            ("https://platform.ringcentral.com#a", "http://127.0.0.1:8080#a"),
            ("https://platform.ringcentral.com\\a", "http://127.0.0.1:8080\\a"),
            ("https://platform.ringcentral.com:443/a", "http://127.0.0.1:8080/a"),
            ("HTTPS://Platform.RINGCENTRAL.com/A", "http://127.0.0.1:8080/A"),
            ("https://media.ringcentral.com/a", "http://127.0.0.1:8080/.ringbearer/media/a"),
            ("wss://ws-api.ringcentral.com/ws", "ws://127.0.0.1:8080/.ringbearer/ws/ws"),
            ("wss://ws-api.ringcentral.com:443/ws", "ws://127.0.0.1:8080/.ringbearer/ws/ws"),
            ("http://127.0.0.1:9000/a", "http://127.0.0.1:8080/a"),
        ] {
            let rewritten = links().rewrite(link.as_bytes());
            assert_eq!(rewritten.as_deref(), Some(expected.as_bytes()), "{link}");
        }
    }

    #[test]
    fn what_only_looks_like_a_known_origin_stays() {
        for link in [
            "https://platform.ringcentral.com.evil.test/",
            "https://platform.ringcentral.community/",
            "https://platform.ringcentral.com@evil.test/",
            "https://platform.ringcentral.com:443@evil.test/",
            "https://platform.ringcentral.com:8443/",
            "https://platform.ringcentral.com:4430/",
            "https://platform.ringcentral.com:44",
            "https://platform.ringcentral.com:/",
            "https://platform.ringcentral.com is down",
            "https://platform.ringcentral.co",
            "https://xplatform.ringcentral.com/",
            "xhttps://platform.ringcentral.com/",
            " https://platform.ringcentral.com/",
            "http://platform.ringcentral.com/",
            "https:/platform.ringcentral.com/",
            "//platform.ringcentral.com/",
            "ws://ws-api.ringcentral.com/",
            "http://127.0.0.1:9000:443/",
            "http://127.0.0.1:90001/",
            "/restapi",
            "",
        ] {
            assert_eq!(links().rewrite(link.as_bytes()), None, "{link}");
        }
    }

    #[test]
    fn a_map_that_makes_no_sense_is_refused() {
        for (origin, base, message) in [
            (
                "platform.ringcentral.com",
                "http://a",
                r#"the origin "platform.ringcentral.com" is not an absolute URL: write it like https://platform.ringcentral.com"#,
            ),
            (
                "wss://a/b",
                "ws://a",
                r#"the origin "wss://a/b" has a path: apps send whole paths, so write scheme, host and port only"#,
            ),
            (
                "https://a",
                "/restapi",
                r#""/restapi" cannot stand in for an origin: write scheme, host and perhaps a path, such as http://127.0.0.1:8080"#,
            ),
            (
                "https://a",
                "http://b/\"",
                r#""http://b/\"" cannot stand in for an origin: write scheme, host and perhaps a path, such as http://127.0.0.1:8080"#,
            ),
            (
                "https://a",
                "http://b?c",
                r#""http://b?c" cannot stand in for an origin: write scheme, host and perhaps a path, such as http://127.0.0.1:8080"#,
            ),
            (
                "wss://a",
                "http://b",
                "links to wss://a cannot lead to http://b: a WebSocket's address stays one, so pair ws or wss with ws or wss, http or https with http or https",
            ),
        ] {
            assert_eq!(LinkMap::new([(origin, base)]).unwrap_err().to_string(), message);
        }
        let twice = LinkMap::new([("https://A:443", "http://b"), ("https://a", "http://c")]);
        let message = "https://a is to be replaced twice: leave one of them out";
        assert_eq!(twice.unwrap_err().to_string(), message);
    }
}
