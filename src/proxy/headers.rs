//! Which fields pass through the proxy, in both directions. PURE: field maps in, field maps out.
//!
//! Hop-by-hop fields end here (RFC 9110 §7.6.1), and so do those that only the proxy may set: the
//! client's credentials, forwarding fields and this proxy's own `X-Ringbearer-*`. The order matters:
//! fields that `Connection` nominates are stripped *before* the bearer is injected, or a client's
//! `Connection: authorization` would take the token away again. Names are compared with `_` read as
//! `-`, because some servers behind RingCentral's edge may do the same.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue,
    TE, TRAILER, VIA,
};

/// What the proxy puts on a request in place of what it took off.
#[derive(Clone, Copy, Debug)]
pub struct Injected<'a> {
    /// `Bearer …`, marked sensitive.
    pub bearer: &'a HeaderValue,
    /// The upstream's authority; `None` where `:authority` carries it (HTTP/2).
    pub host: Option<&'a HeaderValue>,
    /// This hop's entry for `Via`.
    pub via: &'a HeaderValue,
}

/// Makes a client's fields fit to be sent to RingCentral.
pub fn to_upstream(fields: &mut HeaderMap, injected: Injected<'_>) {
    let trailers = Trailers::of(fields);
    strip(fields, ends_before_upstream);
    join_cookies(fields);
    match injected.host {
        Some(host) => fields.insert(HOST, host.clone()),
        None => fields.remove(HOST),
    };
    fields.insert(AUTHORIZATION, injected.bearer.clone());
    fields.append(VIA, injected.via.clone());
    trailers.restore(fields);
}

/// Makes RingCentral's fields fit to be sent to a client.
pub fn to_client(fields: &mut HeaderMap, via: &HeaderValue) {
    let trailers = Trailers { wanted: false, ..Trailers::of(fields) };
    strip(fields, ends_before_client);
    fields.append(VIA, via.clone());
    trailers.restore(fields);
}

/// Whether a request has been through this very proxy before (`pseudonym` is unique to it).
pub fn has_looped(fields: &HeaderMap, pseudonym: &str) -> bool {
    fields
        .get_all(VIA)
        .iter()
        .any(|value| memchr::memmem::find(value.as_bytes(), pseudonym.as_bytes()).is_some())
}

/// Removes the fields that `ends_here` names and those that `Connection` nominates.
fn strip(fields: &mut HeaderMap, ends_here: fn(&str) -> bool) {
    let mut doomed: [Option<HeaderName>; 8] = [const { None }; 8];
    let mut count = 0;
    let mut rest = Vec::new();
    let mut doom = |name: HeaderName| match doomed.get_mut(count) {
        Some(place) => {
            *place = Some(name);
            count += 1;
        }
        None => rest.push(name),
    };
    for nominated in fields.get_all(CONNECTION) {
        nominations(nominated).filter(|name| !is_framing(name)).for_each(&mut doom);
    }
    fields.keys().filter(|name| ends_here(name.as_str())).cloned().for_each(&mut doom);
    for name in doomed.into_iter().flatten().chain(rest) {
        fields.remove(name);
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

fn ends_before_upstream(name: &str) -> bool {
    let reserved = |name: &str| {
        is_hop_by_hop(name)
            || matches!(name, "authorization" | "expect" | "forwarded" | "host" | "x-real-ip")
            || name.starts_with("x-forwarded-")
            || name.starts_with("x-ringbearer-")
    };
    // `Host` and `Authorization` in their proper spelling are replaced, which is cheaper.
    !matches!(name, "authorization" | "host") && (reserved(name) || underscored(name, reserved))
}

fn ends_before_client(name: &str) -> bool {
    // `Alt-Svc` would send the client past the proxy, to a port where nobody is.
    let reserved =
        |name: &str| is_hop_by_hop(name) || name == "alt-svc" || name.starts_with("x-ringbearer-");
    reserved(name)
}

/// RFC 9110 §7.6.1, with the historic ones.
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "http2-settings"
            | "keep-alive"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    ) || name.starts_with("proxy-") && name != "proxy-status"
}

/// Applies `test` to `name` with every `_` turned into `-`, if there is one.
#[inline]
fn underscored(name: &str, test: impl Fn(&str) -> bool) -> bool {
    name.as_bytes().contains(&b'_') && test(&name.replace('_', "-"))
}

/// HTTP/2 splits `Cookie` for compression; HTTP/1.1 knows one line (RFC 9113 §8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let mut crumbs = fields.get_all(COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let joined: Vec<&[u8]> = fields.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&joined.join(&b"; "[..])) {
        fields.insert(COOKIE, cookie);
    }
}

/// What was said of trailers on the hop that ends here, to be said anew on the next.
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
        .filter(|name| !ends_before_upstream(name.as_str()))
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
        to_upstream(
            &mut map,
            Injected {
                bearer: &HeaderValue::from_static("Bearer good"),
                host: Some(&HeaderValue::from_static("platform.test")),
                via: &HeaderValue::from_static("1.1 us"),
            },
        );
        lines_of(&map)
    }

    fn received(lines: &[(&'static str, &'static str)]) -> Vec<String> {
        let mut map = fields(lines);
        to_client(&mut map, &HeaderValue::from_static("1.1 us"));
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
        to_client(&mut map, &HeaderValue::from_static("1.1 us"));
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
        let expected = ["date: Mon, 01 Jan 2024 00:00:00 GMT", "via: 1.1 edge", "via: 1.1 us"];
        assert_eq!(received(&lines), expected);
    }

    #[test]
    fn a_loop_is_told_from_another_proxy() {
        let looped = fields(&[("via", "1.1 edge, 1.1 ringbearer-0af3")]);
        assert!(has_looped(&looped, "ringbearer-0af3"));
        assert!(!has_looped(&looped, "ringbearer-ffff"));
        assert!(!has_looped(&HeaderMap::new(), "ringbearer-0af3"));
    }
}
