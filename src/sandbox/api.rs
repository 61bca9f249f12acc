//! What the API answers to a request that was let in.
//!
//! Pure: the documented example of the operation if there is one, a list that pages if it is a
//! list, a file if it is a file, else something plausible. Links lead back to where the caller
//! came in, so that an application that follows them stays in the sandbox.

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::examples::{Catalog, Documented, Example};
use super::list::{self, Asked, Page, parameter};
use super::oauth::owner_id;
use super::reply::{Reply, empty, json as json_reply, refusal, text, with};
use super::routes::{Match, Route};
use super::rules::Rules;
use super::upload::{Upload, hex};
use super::{media, send};
use crate::clock::Timestamp;

/// A request that was let in.
pub(super) struct Call<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) rules: &'a Rules,
    /// The method that was meant, overrides considered.
    pub(super) method: &'a str,
    /// The method that was sent.
    pub(super) sent_method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) fields: &'a HeaderMap,
    pub(super) upload: &'a Upload,
    /// Scheme and authority for links.
    pub(super) hosts: &'a Hosts,
    pub(super) user: u64,
    pub(super) now: Timestamp,
    /// A number that no other request has.
    pub(super) serial: u64,
}

/// The origins that links lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hosts {
    pub(super) platform: String,
    pub(super) media: String,
}

impl Hosts {
    /// Links to where the caller came in, or to RingCentral itself.
    pub(super) fn new(base: &str, rules: &Rules) -> Self {
        if rules.own_links {
            let media = rules.media_host.as_ref().map(|host| with_host(base, host));
            let platform = base.to_owned();
            Self { media: media.unwrap_or_else(|| platform.clone()), platform }
        } else {
            Self { platform: PLATFORM.to_owned(), media: MEDIA.to_owned() }
        }
    }

    /// A documented text with its links led to these hosts.
    pub(super) fn rewrite(&self, text: &str) -> String {
        text.replace(PLATFORM, &self.platform)
            .replace(PLATFORM_PLAIN, &self.platform)
            .replace(MEDIA, &self.media)
    }
}

/// Answers a request.
pub(super) fn answer(call: &Call<'_>, found: Match) -> Reply {
    let index = match found {
        Match::Route(index) => index,
        Match::OtherMethods => {
            let message = format!("Method {} is not allowed for {}", call.method, call.path);
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "CMN-102", &message);
        }
        Match::Nothing => return not_found(call.path),
    };
    let route = call.catalog.routes.get(index);
    if let Some(reply) = own(call, route) {
        return reply;
    }
    if let Some(number) = parameter(call.query, EXAMPLE) {
        return chosen(call, index, &number);
    }
    if is_file(call, index) {
        return file(call);
    }
    let last = call.path.rsplit('/').next().unwrap_or_default();
    if last.contains(',') && route.template.ends_with('}') {
        return bulk(call, index, last);
    }
    ordinary(call, index)
}

/// The answer to an ordinary request for one resource or list.
fn ordinary(call: &Call<'_>, index: usize) -> Reply {
    let route = call.catalog.routes.get(index);
    if let Some(kind) = send::Kind::of(route.operation) {
        return send::answer(call, kind);
    }
    let example = call.catalog.ordinary(index);
    if route.method == "GET"
        && let Some(reply) = paged(call, index, example)
    {
        return reply;
    }
    match example {
        Some(example) => documented(call, example),
        None => plausible(call, index),
    }
}

/// A page, if the operation is a list.
fn paged(call: &Call<'_>, index: usize, example: Option<&Example>) -> Option<Reply> {
    let route = call.catalog.routes.get(index);
    let (pattern, by_token) = match example.and_then(Example::json) {
        Some(list) => (list.clone(), list::pages(list)?),
        None if example.is_some() => return None,
        None => (json!({"records": [member(call, route)?]}), false),
    };
    let page = if by_token { Page::read_token(call.query) } else { Page::read(call.query) };
    let page = match page {
        Ok(page) => page,
        Err(name) => return Some(invalid(name)),
    };
    let pattern: Value = serde_json::from_str(&call.hosts.rewrite(&pattern.to_string()))
        .expect("hosts hold no quotation marks");
    let (base, total) = (call.hosts.platform.as_str(), call.rules.list_total);
    let asked = Asked { base, path: call.path, query: call.query, total };
    Some(json_reply(StatusCode::OK, &list::page(&pattern, page, by_token, &asked)))
}

/// The likeness of one member of a collection that has no example of its own.
fn member(call: &Call<'_>, route: &Route) -> Option<Value> {
    let member = call.catalog.routes.member_of(route.template)?;
    let documented = call.catalog.ordinary(member).and_then(Example::json).cloned();
    let fallback = || {
        let id = "400129284008";
        json!({"uri": format!("{}{}/{id}", call.hosts.platform, call.path), "id": id})
    };
    Some(documented.filter(Value::is_object).unwrap_or_else(fallback))
}

/// The n-th example of the operation, as documented.
fn chosen(call: &Call<'_>, index: usize, number: &str) -> Reply {
    let examples = call.catalog.examples(index);
    match number.parse::<usize>().ok().and_then(|number| examples.get(number)) {
        Some(example) => documented(call, example),
        None => invalid(EXAMPLE),
    }
}

fn documented(call: &Call<'_>, example: &Example) -> Reply {
    let media_type = example.media_type.as_deref().unwrap_or("application/octet-stream");
    match &example.content {
        Documented::Nothing => empty(example.status),
        Documented::File => file(call),
        Documented::Json(content, _) | Documented::Text(content) => {
            text(example.status, media_type, call.hosts.rewrite(content))
        }
    }
}

/// What an operation without example answers.
fn plausible(call: &Call<'_>, index: usize) -> Reply {
    let route = call.catalog.routes.get(index);
    let example = call.catalog.examples(index).first();
    let documented = example.map(|example| example.status).filter(|status| status.as_u16() != 207);
    let status = documented.unwrap_or(match route.method {
        "DELETE" => StatusCode::NO_CONTENT,
        "POST" if route.operation.starts_with("create") => StatusCode::CREATED,
        _ => StatusCode::OK,
    });
    if status == StatusCode::NO_CONTENT {
        return empty(status);
    }
    json_reply(status, &resource(call, route.method == "POST"))
}

/// An object with a place, an id, and what the request said about it.
fn resource(call: &Call<'_>, created: bool) -> Value {
    let sent = serde_json::from_slice::<Value>(&call.upload.head).ok();
    let mut body = sent.filter(Value::is_object).unwrap_or_else(|| json!({}));
    let last = call.path.rsplit('/').next().unwrap_or_default();
    let (id, place) = if created {
        let id = (400_000_000_000 + call.serial).to_string();
        let place = format!("{}/{id}", call.path);
        (id, place)
    } else {
        let id = if last == "~" { owner_id(call.user) } else { last.to_owned() };
        (id, call.path.to_owned())
    };
    body["uri"] = format!("{}{place}", call.hosts.platform).into();
    body["id"] = id.into();
    body
}

/// One answer per id, each with its own status. The id `0` is never found.
fn bulk(call: &Call<'_>, index: usize, ids: &str) -> Reply {
    let parts: Vec<Value> = ids.split(',').map(|id| bulk_part(call, index, id)).collect();
    json_reply_as(StatusCode::MULTI_STATUS, BULK, &Value::Array(parts))
}

fn bulk_part(call: &Call<'_>, index: usize, id: &str) -> Value {
    let parent = call.path.rsplit_once('/').map_or("", |(parent, _)| parent);
    let href = format!("{}{parent}/{id}", call.hosts.platform);
    if id == "0" {
        let message = "Resource for parameter [id] is not found";
        let body = super::reply::error_body("CMN-102", "CMN-102", message);
        return json!({"href": href, "resourceId": id, "status": 404, "body": body});
    }
    if call.method == "DELETE" {
        return json!({"href": href, "resourceId": id, "status": 204});
    }
    let example = call.catalog.ordinary(index).and_then(Example::json).cloned();
    let mut body = example.filter(Value::is_object).unwrap_or_else(|| json!({}));
    body["id"] = id.into();
    body["uri"] = href.clone().into();
    json!({"href": href, "resourceId": id, "status": 200, "body": body})
}

fn is_file(call: &Call<'_>, index: usize) -> bool {
    let route = call.catalog.routes.get(index);
    let by_path = route.template.ends_with("/content") || route.template.contains("/content/");
    let by_example = || {
        let example = call.catalog.ordinary(index);
        example.is_some_and(|example| matches!(example.content, Documented::File))
    };
    route.method == "GET" && (by_path || by_example())
}

fn file(call: &Call<'_>) -> Reply {
    let media_type = if call.path.contains("profile-image") { "image/jpeg" } else { "audio/mpeg" };
    let size = match parameter(call.query, "size").map(|size| size.parse()) {
        None => call.rules.media_size,
        Some(Ok(size)) => size,
        Some(Err(_)) => return invalid("size"),
    };
    media::answer(call.path, size, media_type, call.fields)
}

/// The resources of the sandbox itself.
fn own(call: &Call<'_>, route: &Route) -> Option<Reply> {
    match route.operation {
        "readClientInfo" => Some(json_reply(StatusCode::OK, &client_info(call))),
        "sandboxEcho" => Some(json_reply(StatusCode::OK, &echo(call))),
        "sandboxStatus" => Some(status(call)),
        _ => None,
    }
}

fn client_info(call: &Call<'_>) -> Value {
    let agent = call.fields.get(http::header::USER_AGENT).and_then(|value| value.to_str().ok());
    json!({
        "uri": format!("{}/restapi/v1.0/client-info", call.hosts.platform),
        "client": {"detected": true, "userAgent": agent, "appId": "sandbox", "appName": "Sandbox"},
        "provisioning": {"voip": "Enabled"},
    })
}

/// What arrived, as it arrived; the value of `Authorization` stays here.
fn echo(call: &Call<'_>) -> Value {
    let fields = call.fields.iter().map(|(name, value)| {
        let value = if name == http::header::AUTHORIZATION {
            "***".into()
        } else {
            String::from_utf8_lossy(value.as_bytes())
        };
        json!([name.as_str(), value])
    });
    let fields: Vec<Value> = fields.collect();
    let trailers = call.upload.trailers.iter();
    let trailers: Vec<Value> = trailers
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    json!({
        "method": call.sent_method,
        "effectiveMethod": call.method,
        "path": call.path,
        "query": call.query,
        "fields": fields,
        "bodyBytes": call.upload.bytes,
        "bodySha256": call.upload.sha256,
        "trailers": trailers,
        "user": call.user,
    })
}

/// Any status on demand; `?errorCode=` names the error, `?retryAfter=` the wait.
fn status(call: &Call<'_>) -> Reply {
    let code = call.path.rsplit('/').next().and_then(|code| code.parse::<StatusCode>().ok());
    let Some(code) = code.filter(|code| code.as_u16() >= 200) else { return invalid("code") };
    let error = parameter(call.query, "errorCode").unwrap_or_else(|| "CMN-100".into());
    let reply = match code.as_u16() {
        204 | 205 | 304 => empty(code),
        200..=399 => json_reply(code, &json!({"status": code.as_u16()})),
        401 => super::head::unauthorized(&error, &error, "Refused on demand"),
        _ => refusal(code, &error, "Refused on demand"),
    };
    match parameter(call.query, "retryAfter") {
        Some(wait) => with(reply, http::header::RETRY_AFTER, &wait),
        None => reply,
    }
}

/// The refusal of a parameter that makes no sense.
pub(super) fn invalid(name: &str) -> Reply {
    let message = format!("Parameter [{name}] value is invalid");
    refusal(StatusCode::BAD_REQUEST, "CMN-101", &message)
}

/// An origin with another name for its host.
fn with_host(origin: &str, host: &str) -> String {
    let (scheme, authority) = origin.split_once("://").unwrap_or(("http", origin));
    match authority.rsplit_once(':') {
        Some((_, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            format!("{scheme}://{host}:{port}")
        }
        _ => format!("{scheme}://{host}"),
    }
}

fn not_found(path: &str) -> Reply {
    let message = format!("Resource [{path}] is not found");
    refusal(StatusCode::NOT_FOUND, "CMN-101", &message)
}

fn json_reply_as(status: StatusCode, media_type: &str, value: &Value) -> Reply {
    text(status, media_type, value.to_string())
}

/// The identifier that every answer bears, for RingCentral's support.
pub(super) fn request_id(connection: u64, serial: u64) -> String {
    let words = [connection.to_be_bytes(), serial.to_be_bytes()].concat();
    let hex = hex(&words);
    let part = |range: std::ops::Range<usize>| &hex[range];
    [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)].join("-")
}

const PLATFORM: &str = "https://platform.ringcentral.com";
const PLATFORM_PLAIN: &str = "http://platform.ringcentral.com";
const MEDIA: &str = "https://media.ringcentral.com";
const BULK: &str = "application/vnd.ringcentral.multipart+json";
/// Chooses an example of the operation by its number, and serves it as documented.
const EXAMPLE: &str = "sandboxExample";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_may_be_on_a_host_of_its_own() {
        let hosts = |base, host: Option<&str>| {
            let rules = Rules { media_host: host.map(str::to_owned), ..Rules::default() };
            Hosts::new(base, &rules).media
        };
        assert_eq!(hosts("http://127.0.0.1:81", None), "http://127.0.0.1:81");
        assert_eq!(hosts("http://127.0.0.1:81", Some("media.test")), "http://media.test:81");
        assert_eq!(hosts("https://rc.test", Some("media.test")), "https://media.test");
        assert_eq!(hosts("http://[::1]:81", Some("localhost")), "http://localhost:81");
    }
}
