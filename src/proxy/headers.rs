//! Which fields pass through the proxy, in both directions. PURE: field maps in, field maps out.
//!
//! Hop-by-hop fields end here (RFC 9110 §7.6.1), and so do those that only the proxy may set: the
//! client's credentials, forwarding fields and this proxy's own `X-Ringbearer-*`. The order matters:
//! fields that `Connection` nominates are stripped *before* the bearer is injected, or a client's
//! `Connection: authorization` would take the token away again. Names are compared with `_` read as
//! `-`, because some servers behind RingCentral's edge may do the same.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue,
    ORIGIN, TE, TRAILER, TRANSFER_ENCODING, VIA,
};

/// What the proxy puts on a request in place of what it took off.
#[derive(Clone, Copy, Debug)]
pub struct Injected<'a> {
    /// `Bearer …`, marked sensitive; `None` where no token goes.
    pub bearer: Option<&'a HeaderValue>,
    /// The upstream's authority; `None` where `:authority` carries it (HTTP/2).
    pub host: Option<&'a HeaderValue>,
    /// This hop's entry for `Via`.
    pub via: &'a HeaderValue,
}

/// The field by which a client names the identity it wants, where there is more than one.
pub const IDENTITY_FIELD: &str = "x-ringbearer-identity";

/// The field by which a browser says whether a request comes from a page of another site (Fetch
/// Metadata).
pub const FETCH_SITE: &str = "sec-fetch-site";

/// Makes a client's fields fit to be sent to RingCentral.
pub fn to_upstream(fields: &mut HeaderMap, found: &Found, injected: Injected<'_>) {
    let trailers = found.trailers(fields);
    found.strip(fields);
    if found.cookie {
        join_cookies(fields);
    }
    match injected.host {
        Some(host) => fields.insert(HOST, host.clone()),
        None => fields.remove(HOST),
    };
    match injected.bearer {
        Some(bearer) => fields.insert(AUTHORIZATION, bearer.clone()),
        None => fields.remove(AUTHORIZATION),
    };
    fields.append(VIA, injected.via.clone());
    trailers.restore(fields);
}

/// Makes RingCentral's fields fit to be sent to a client.
///
/// It adds no `Via`: a gateway need not say on the way back that it is there (RFC 9110 §7.6.3).
pub fn to_client(fields: &mut HeaderMap) {
    let found = Found::by(fields, of_answer);
    let trailers = Trailers { wanted: false, ..found.trailers(fields) };
    found.strip(fields);
    trailers.restore(fields);
}

/// What a field means to an intermediary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Nothing: it passes.
    Ours,
    /// It ends here.
    Ends,
    /// It ends here, and names others that do.
    Connection,
    /// It ends here, and is said anew where it speaks of trailers.
    Trailers,
    /// It passes, in one line.
    Cookie,
    /// It passes, and says where the message has been.
    Via,
    /// It ends here, and says as whom the client calls.
    Identity,
    /// It ends here, and says from whose page the request comes.
    Origin,
    /// It passes, and says the same less exactly.
    FetchSite,
    /// It is replaced here.
    Host,
    /// It is replaced here, and may say who calls.
    Authorization,
    /// It ends here, and says how the content was framed.
    Coding,
}

/// What one look at all field names has found, so that what is not there costs no look-up.
#[derive(Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each says that a field is there")]
pub struct Found {
    doomed: Doomed,
    connection: bool,
    trailers: bool,
    cookie: bool,
    via: bool,
    identity: bool,
    origin: bool,
    fetch_site: bool,
    host: bool,
    authorization: bool,
    coding: bool,
}

impl Found {
    /// Looks at a client's fields.
    pub fn in_request(fields: &HeaderMap) -> Self {
        Self::by(fields, of_request)
    }

    /// Whether the request has been through this very proxy before (`pseudonym` is unique to it).
    pub fn has_looped(&self, fields: &HeaderMap, pseudonym: &str) -> bool {
        let is_ours = |value: &HeaderValue| {
            memchr::memmem::find(value.as_bytes(), pseudonym.as_bytes()).is_some()
        };
        self.via && fields.get_all(VIA).iter().any(is_ours)
    }

    /// How many `Host` fields there are.
    pub fn hosts(&self, fields: &HeaderMap) -> usize {
        let all_are_single = fields.len() == fields.keys_len();
        match (self.host, all_are_single) {
            (false, _) => 0,
            (true, true) => 1,
            (true, false) => fields.get_all(HOST).iter().count(),
        }
    }

    /// Whether the content is framed in another way than by its length or in chunks.
    pub fn has_odd_coding(&self, fields: &HeaderMap) -> bool {
        let is_odd =
            |coding: &HeaderValue| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked");
        self.coding && fields.get_all(TRANSFER_ENCODING).iter().any(is_odd)
    }

    /// Whether the client sent a credential.
    pub fn has_authorization(&self) -> bool {
        self.authorization
    }

    /// The identity that the client names.
    pub fn identity<'a>(&self, fields: &'a HeaderMap) -> Option<&'a HeaderValue> {
        if self.identity { fields.get(IDENTITY_FIELD) } else { None }
    }

    /// The origins of the page that a request comes from: one, or what is none.
    pub fn origins<'a>(
        &self,
        fields: &'a HeaderMap,
    ) -> Option<impl Iterator<Item = &'a HeaderValue> + use<'a>> {
        self.origin.then(|| fields.get_all(ORIGIN).iter())
    }

    /// Whether a browser says how the page that a request comes from is related to this server.
    pub fn has_fetch_site(&self) -> bool {
        self.fetch_site
    }

    fn by(fields: &HeaderMap, kind: impl Fn(&str) -> Kind) -> Self {
        let mut found = Self::default();
        for name in fields.keys() {
            match kind(name.as_str()) {
                Kind::Ours => continue,
                Kind::Cookie => {
                    found.cookie = true;
                    continue;
                }
                Kind::Via => {
                    found.via = true;
                    continue;
                }
                Kind::Host => {
                    found.host = true;
                    continue;
                }
                Kind::Authorization => {
                    found.authorization = true;
                    continue;
                }
                Kind::FetchSite => {
                    found.fetch_site = true;
                    continue;
                }
                Kind::Coding => found.coding = true,
                Kind::Origin => found.origin = true,
                Kind::Identity => found.identity = true,
                Kind::Ends => {}
                Kind::Connection => found.connection = true,
                Kind::Trailers => found.trailers = true,
            }
            found.doomed.add(name.clone());
        }
        found
    }

    fn trailers(&self, fields: &HeaderMap) -> Trailers {
        if self.trailers { Trailers::of(fields) } else { Trailers::default() }
    }

    /// Removes what ends here and what `Connection` nominates.
    fn strip(&self, fields: &mut HeaderMap) {
        if self.connection {
            let mut nominated = Doomed::default();
            for line in fields.get_all(CONNECTION) {
                nominations(line).filter(|name| !is_framing(name)).for_each(|n| nominated.add(n));
            }
            nominated.remove_from(fields);
        }
        self.doomed.remove_from(fields);
    }
}

/// Names of fields to be removed: few, so without allocation mostly.
#[derive(Debug, Default)]
struct Doomed {
    few: [Option<HeaderName>; 6],
    count: usize,
    more: Vec<HeaderName>,
}

impl Doomed {
    fn add(&mut self, name: HeaderName) {
        match self.few.get_mut(self.count) {
            Some(place) => *place = Some(name),
            None => self.more.push(name),
        }
        self.count += 1;
    }

    fn remove_from(&self, fields: &mut HeaderMap) {
        for name in self.few.iter().take(self.count).flatten().chain(&self.more) {
            fields.remove(name);
        }
    }
}

/// The field names in one `Connection` line.
fn nominations(line: &HeaderValue) -> impl Iterator<Item = HeaderName> {
    line.as_bytes()
        .split(|byte| *byte == b',')
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
}

/// Fields that frame or route the message, which no nomination may take away.
fn is_framing(name: &HeaderName) -> bool {
    *name == CONTENT_LENGTH || *name == HOST
}

/// What a client's field means. `Host` and `Authorization` are replaced later, which is cheaper.
#[inline]
fn of_request(name: &str) -> Kind {
    // Most names are done with after their first letter.
    match name.as_bytes().first() {
        Some(b'c') if name == "cookie" => Kind::Cookie,
        Some(b'v') if name == "via" => Kind::Via,
        Some(b'x') if name == IDENTITY_FIELD => Kind::Identity,
        Some(b'h') if name == "host" => Kind::Host,
        Some(b'o') if name == "origin" => Kind::Origin,
        Some(b's') if name == FETCH_SITE => Kind::FetchSite,
        Some(b'a') if name == "authorization" => Kind::Authorization,
        Some(b'c' | b'h' | b'k' | b'p' | b't' | b'u') => {
            hop_by_hop(name).unwrap_or_else(|| reserved(name))
        }
        Some(b'a' | b'e' | b'f' | b'x') => reserved(name),
        _ => Kind::Ours,
    }
}

/// Names that a client may not use, in any spelling.
fn reserved(name: &str) -> Kind {
    let spelled = |name: &str| {
        matches!(name, "authorization" | "expect" | "forwarded" | "host" | "x-real-ip")
            || name.starts_with("x-forwarded-")
            || name.starts_with("x-ringbearer-")
    };
    let underscored = || {
        let name = name.replace('_', "-");
        name == "content-length" || spelled(&name) || hop_by_hop(&name).is_some()
    };
    let ends = spelled(name) || (name.as_bytes().contains(&b'_') && underscored());
    if ends { Kind::Ends } else { Kind::Ours }
}

/// What a field of RingCentral's means. `Alt-Svc` would send the client past the proxy, to a port
/// where nobody is.
#[inline]
fn of_answer(name: &str) -> Kind {
    match name.as_bytes().first() {
        Some(b'a') if name == "alt-svc" => Kind::Ends,
        Some(b'c' | b'h' | b'k' | b'p' | b't' | b'u') => hop_by_hop(name).unwrap_or(Kind::Ours),
        Some(b'x') if name.starts_with("x-ringbearer-") => Kind::Ends,
        _ => Kind::Ours,
    }
}

/// RFC 9110 §7.6.1, with the historic ones.
#[inline]
fn hop_by_hop(name: &str) -> Option<Kind> {
    match name.as_bytes() {
        b"connection" => Some(Kind::Connection),
        b"te" | b"trailer" => Some(Kind::Trailers),
        b"proxy-status" => None,
        b"transfer-encoding" => Some(Kind::Coding),
        b"http2-settings"
        | b"keep-alive"
        | b"upgrade"
        | [b'p', b'r', b'o', b'x', b'y', b'-', ..] => Some(Kind::Ends),
        _ => None,
    }
}

/// HTTP/2 splits `Cookie` for compression; HTTP/1.1 knows one line (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() < 2 {
        return;
    }
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        fields.insert(COOKIE, cookie);
    }
}

/// What was said of trailers on the hop that ends here, to be said anew on the next.
#[derive(Default)]
struct Trailers {
    /// `TE: trailers`: whoever asks can take them.
    wanted: bool,
    /// `Trailer`: the names announced, but for those that only a head may carry.
    announced: Vec<HeaderValue>,
}

impl Trailers {
    fn of(fields: &HeaderMap) -> Self {
        let wanted = fields.get_all(TE).iter().any(|te| {
            te.as_bytes()
                .split(|byte| *byte == b',')
                .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
        });
        let announced = fields.get_all(TRAILER).iter().filter_map(announceable).collect();
        Self { wanted, announced }
    }

    fn restore(self, fields: &mut HeaderMap) {
        if self.wanted {
            fields.insert(TE, HeaderValue::from_static("trailers"));
            fields.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        for names in self.announced {
            fields.append(TRAILER, names);
        }
    }
}

/// A `Trailer` line without the fields that would mean something to routing, framing or trust.
fn announceable(line: &HeaderValue) -> Option<HeaderValue> {
    let names: Vec<String> = nominations(line)
        .filter(|name| !is_framing(name) && *name != AUTHORIZATION)
        .filter(|name| of_request(name.as_str()) == Kind::Ours)
        .map(|name| name.as_str().to_owned())
        .collect();
    if names.is_empty() { None } else { HeaderValue::from_str(&names.join(", ")).ok() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        map
    }

    fn sent(lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut map = fields(lines);
        let found = Found::in_request(&map);
        to_upstream(
            &mut map,
            &found,
            Injected {
                bearer: Some(&HeaderValue::from_static("Bearer good")),
                host: Some(&HeaderValue::from_static("platform.test")),
                via: &HeaderValue::from_static("1.1 us"),
            },
        );
        lines_of(&map)
    }

    fn received(lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut map = fields(lines);
        to_client(&mut map);
        lines_of(&map)
    }

    fn lines_of(map: &HeaderMap) -> Vec<String> {
        let mut lines: Vec<_> = map
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines
    }

    const OURS: [&str; 3] = ["authorization: Bearer good", "host: platform.test", "via: 1.1 us"];

    fn ours_and(more: &[&str]) -> Vec<String> {
        let mut lines: Vec<_> = OURS.iter().chain(more).map(ToString::to_string).collect();
        lines.sort();
        lines
    }

    #[test]
    fn every_credential_of_the_client_is_overwritten() {
        let lines = [
            ("authorization", "Bearer undefined"),
            ("authorization", "Basic aWQ6c2VjcmV0"),
            ("proxy-authorization", "Basic x"),
            ("accept", "application/json"),
        ];
        assert_eq!(sent(&lines), ours_and(&["accept: application/json"]));
    }

    #[test]
    fn a_nomination_cannot_take_the_injected_fields_away() {
        let lines = [
            ("connection", "keep-alive, Authorization"),
            ("connection", "via , host,x-secret, content-length"),
            ("x-secret", "hop"),
            ("content-length", "5"),
        ];
        assert_eq!(sent(&lines), ours_and(&["content-length: 5"]));
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let lines = [
            ("connection", "close"),
            ("proxy-connection", "keep-alive"),
            ("keep-alive", "timeout=5"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAMAAABkAAQAAP__"),
            ("expect", "100-continue"),
        ];
        assert_eq!(sent(&lines), ours_and(&[]));
    }

    #[test]
    fn forwarding_fields_and_our_own_are_not_taken_from_a_client_in_any_spelling() {
        let lines = [
            ("x-forwarded-for", "1.2.3.4"),
            ("x_forwarded_host", "evil.test"),
            ("forwarded", "for=1.2.3.4"),
            ("x-ringbearer-identity", "boss"),
            ("x_ringbearer-identity", "boss"),
            ("proxy_authorization", "Basic x"),
            ("transfer_encoding", "chunked"),
            ("content_length", "50"),
            ("x_custom", "kept"),
        ];
        assert_eq!(sent(&lines), ours_and(&["x_custom: kept"]));
    }

    #[test]
    fn more_doomed_fields_than_the_array_holds_are_still_stripped() {
        let mut lines = vec![("connection", "a1,a2,a3,a4,a5,a6,a7,a8,a9")];
        lines.extend([("a8", "x"), ("a9", "x"), ("b", "kept")]);
        assert_eq!(sent(&lines), ours_and(&["b: kept"]));
    }

    #[test]
    fn other_fields_keep_their_values_and_their_order() {
        let mut map = fields(&[("accept", "a"), ("accept", "b"), ("cookie", "x=1")]);
        to_client(&mut map);
        let accept: Vec<_> = map.get_all("accept").iter().collect();
        assert_eq!(accept, ["a", "b"]);
        assert_eq!(map["cookie"], "x=1");
    }

    #[test]
    fn cookie_crumbs_are_joined() {
        assert_eq!(sent(&[("cookie", "a=1"), ("cookie", "b=2")]), ours_and(&["cookie: a=1; b=2"]));
    }

    #[test]
    fn trailers_are_announced_anew_without_the_dangerous_ones() {
        let lines = [("te", "trailers, gzip"), ("trailer", "Digest, Authorization, Host, X-Sum")];
        let expected = ["connection: te", "te: trailers", "trailer: digest, x-sum"];
        assert_eq!(sent(&lines), ours_and(&expected));
    }

    #[test]
    fn a_response_loses_its_hop_by_hop_fields_and_alt_svc() {
        let lines = [
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("transfer-encoding", "chunked"),
            ("alt-svc", "h3=\":443\""),
            ("proxy-authenticate", "Basic"),
            ("x-ringbearer-error", "forged"),
            ("via", "1.1 edge"),
            ("date", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ];
        let expected = ["date: Mon, 01 Jan 2024 00:00:00 GMT", "via: 1.1 edge"];
        assert_eq!(received(&lines), expected);
    }

    #[test]
    fn the_identity_that_a_client_names_is_found_and_does_not_pass() {
        let lines = [(IDENTITY_FIELD, "sales")];
        let named = fields(&lines);
        assert_eq!(Found::in_request(&named).identity(&named).unwrap(), "sales");
        assert_eq!(sent(&lines), ours_and(&[]));
        assert!(Found::in_request(&HeaderMap::new()).identity(&HeaderMap::new()).is_none());
    }

    #[test]
    fn a_loop_is_told_from_another_proxy() {
        let has_looped =
            |fields: &HeaderMap, pseudonym| Found::in_request(fields).has_looped(fields, pseudonym);
        let looped = fields(&[("via", "1.1 first"), ("via", "1.1 edge, 1.1 ringbearer-0af3")]);
        assert!(has_looped(&looped, "ringbearer-0af3"));
        assert!(!has_looped(&looped, "ringbearer-ffff"));
        assert!(!has_looped(&HeaderMap::new(), "ringbearer-0af3"));
    }
}
