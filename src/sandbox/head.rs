//! What the head of a request says: its token, its true method, its target.
//!
//! Pure; and how a token is refused.

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, Method, Request, StatusCode};

use super::list::parameter;
use super::reply::{Reply, error_body, json, with};
use super::session::Lost;

/// 401 as RingCentral says it.
pub(super) fn unauthorized(top: &str, code: &str, message: &str) -> Reply {
    let reply = json(StatusCode::UNAUTHORIZED, &error_body(top, code, message));
    let challenge = "Bearer realm=\"RingCentral REST API\", error=\"invalid_token\", \
                     error_description=\"";
    with(reply, WWW_AUTHENTICATE, &format!("{challenge}{message}\""))
}

/// The code outside the list, the one inside, the message.
pub(super) type Said = (&'static str, &'static str, &'static str);

pub(super) const fn said_of(lost: Lost) -> Said {
    match lost {
        Lost::Expired => ("TokenExpired", "OAU-128", "Access token expired"),
        Lost::Corrupted => ("TokenInvalid", "OAU-129", "Access token corrupted"),
        Lost::NotFound => ("TokenInvalid", "OAU-213", "Token not found"),
        Lost::Unparsable => ("OAU-149", "OAU-149", "Unparsable access token"),
    }
}

/// The access token of a request: the Bearer field, else the query parameter.
pub(super) fn bearer(fields: &HeaderMap, query: &str) -> Result<String, Said> {
    let Some(field) = fields.get(AUTHORIZATION) else {
        let login = ("CMN-405", "CMN-405", "Login to API required");
        return parameter(query, "access_token").ok_or(login);
    };
    let field = String::from_utf8_lossy(field.as_bytes());
    let bearer = field.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    let invalid = ("AGW-402", "AGW-402", "Invalid Authorization header");
    bearer.map(|(_, token)| token.trim().to_owned()).ok_or(invalid)
}

/// A POST may mean another method: `X-HTTP-Method-Override`, or `_method` in the query.
pub(super) fn effective_method(sent: &Method, fields: &HeaderMap, query: &str) -> String {
    if sent != Method::POST {
        return sent.as_str().to_owned();
    }
    let field = text(fields, "x-http-method-override").map(str::to_owned);
    let meant = field.or_else(|| parameter(query, "_method")).map(|name| name.to_ascii_uppercase());
    let meant = meant.filter(|name| ["GET", "PUT", "PATCH", "DELETE"].contains(&name.as_str()));
    meant.unwrap_or_else(|| sent.as_str().to_owned())
}

/// The target as it was written: `Uri` keeps the bytes of the path and query (but no fragment).
pub(super) fn target<B>(request: &Request<B>) -> String {
    let uri = request.uri();
    if request.version() < http::Version::HTTP_2 {
        return uri.to_string();
    }
    uri.path_and_query().map_or_else(|| uri.to_string(), ToString::to_string)
}

pub(super) fn fields(fields: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    fields.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

pub(super) fn text<'a>(fields: &'a HeaderMap, name: &str) -> Option<&'a str> {
    fields.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect()
    }

    #[test]
    fn only_a_post_means_another_method() {
        let post = |pairs: &[_], query| effective_method(&Method::POST, &fields(pairs), query);
        let over = ("x-http-method-override", "delete");
        assert_eq!(post(&[], ""), "POST");
        assert_eq!(post(&[over], ""), "DELETE");
        assert_eq!(post(&[], "a=1&_method=Put"), "PUT");
        assert_eq!(post(&[], "%5fmethod=%44ELETE"), "DELETE");
        assert_eq!(post(&[], "_method=TRACE"), "POST");
        assert_eq!(effective_method(&Method::GET, &fields(&[over]), ""), "GET");
    }

    #[test]
    fn the_field_beats_the_query_and_other_schemes_are_invalid() {
        let of = |value, query| bearer(&fields(&[("authorization", value)]), query);
        assert_eq!(of("bearer x", "access_token=y").as_deref(), Ok("x"));
        assert_eq!(bearer(&fields(&[]), "access_token=y").as_deref(), Ok("y"));
        assert_eq!(of("Basic eDp5", "").unwrap_err().0, "AGW-402");
        assert_eq!(bearer(&fields(&[]), "").unwrap_err().0, "CMN-405");
    }
}
