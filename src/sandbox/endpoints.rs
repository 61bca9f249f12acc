//! The OAuth endpoints: token, revocation, authorization, device authorization, WebSocket tokens.
//!
//! Pure: each is a function of the state, the time and what the request said.

use http::StatusCode;
use http::header::{LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use serde_json::json;

use super::codes::{Approval, DEVICE_TTL};
use super::consent;
use super::limits::Verdict;
use super::oauth::{Desk, Form, Refusal, authenticate_client, claimed_client, token_body};
use super::reply::{JSON, Reply, empty, json as json_reply, refusal, text, with};
use super::session::Granted;
use super::state::{Counted, State};
use crate::clock::Timestamp;

/// `POST /restapi/oauth/token`: the answer, and the pair in it.
pub(super) fn token(
    state: &mut State,
    now: Timestamp,
    authorization: Option<&str>,
    form: &Form,
) -> (Reply, Option<Granted>) {
    let grant = form.get("grant_type").unwrap_or("none").to_owned();
    *state.counts.token_requests_by_grant.entry(grant).or_default() += 1;
    let client_id = claimed_client(authorization, form);
    let counted = state.count_token(&client_id, now);
    if let Some(counted) = counted.filter(|counted| counted.verdict.is_refusal()) {
        state.counts.token_429 += 1;
        return (over_limit(&counted), None);
    }
    match granted(state, now, authorization, form) {
        Ok(granted) => {
            state.counts.token_answers += 1;
            let reply = json_reply(StatusCode::OK, &token_body(&granted, &state.rules));
            (no_store(reply), Some(granted))
        }
        Err(refused) => {
            state.counts.token_refusals += 1;
            (oauth_refusal(&refused), None)
        }
    }
}

fn granted(
    state: &mut State,
    now: Timestamp,
    authorization: Option<&str>,
    form: &Form,
) -> Result<Granted, Refusal> {
    let rules = state.rules.clone();
    let application = authenticate_client(&rules, authorization, form)?;
    let (sessions, codes) = (&mut state.sessions, &mut state.codes);
    let granted = Desk { sessions, codes, rules: &rules, now }.grant(application, form)?;
    state.counts.token_repeats += u64::from(granted.repeated);
    Ok(granted)
}

/// `POST /restapi/oauth/revoke`: ends the whole session that the token belongs to.
pub(super) fn revoke(
    state: &mut State,
    now: Timestamp,
    authorization: Option<&str>,
    form: &Form,
) -> Reply {
    let rules = state.rules.clone();
    if let Err(refused) = authenticate_client(&rules, authorization, form) {
        return oauth_refusal(&refused);
    }
    let Some(token) = form.get("token") else {
        let message = "Parameter [token] is not specified in request";
        return refusal(StatusCode::BAD_REQUEST, "CMN-101", message);
    };
    if state.sessions.revoke(token, now) {
        state.counts.revocations += 1;
    }
    json_reply(StatusCode::OK, &json!({}))
}

/// `/restapi/oauth/authorize`: the user agrees, at once or on a page, and the browser is sent back with
/// a code.
pub(super) fn authorize(state: &mut State, now: Timestamp, form: &Form) -> Reply {
    let page = |message: &str| text(StatusCode::BAD_REQUEST, "text/plain", message.to_owned());
    let Some(application) = form.get("client_id").and_then(|id| state.rules.application(id)) else {
        return page("client_id is missing or unknown");
    };
    let listed = &application.redirect_uris;
    let redirect = form.get("redirect_uri").or(listed.first().map(String::as_str));
    let Some(redirect) =
        redirect.filter(|uri| listed.is_empty() || listed.iter().any(|u| u == uri))
    else {
        return page("redirect_uri is missing or not registered for this application");
    };
    let redirect = redirect.to_owned();
    if form.get("response_type") != Some("code") {
        return back(&redirect, form, &[("error", "unsupported_response_type")]);
    }
    match form.get("consent") {
        Some("no") => return back(&redirect, form, &[("error", "access_denied")]),
        None if state.rules.consent_page => return consent::page(&application.client_id, form),
        _ => {}
    }
    let user = form.get("sandbox_user").and_then(|user| user.parse().ok());
    let first = state.rules.users.first().map_or(1, |user| user.id);
    let approval = Approval {
        application: application.client_id.clone(),
        user: user.unwrap_or(first),
        redirect_uri: form.get("redirect_uri").map(str::to_owned),
        challenge: form.get("code_challenge").map(str::to_owned),
        plain: form.get("code_challenge_method").is_none_or(|method| method == "plain"),
    };
    let code = state.codes.approve(approval, now);
    back(&redirect, form, &[("code", &code), ("expires_in", "60")])
}

/// `POST /restapi/oauth/device_authorization` (RFC 8628 §3.1).
pub(super) fn device_authorization(
    state: &mut State,
    now: Timestamp,
    authorization: Option<&str>,
    form: &Form,
    base: &str,
) -> Reply {
    let rules = state.rules.clone();
    let application = match authenticate_client(&rules, authorization, form) {
        Ok(application) => application,
        Err(refused) => return oauth_refusal(&refused),
    };
    let codes = state.codes.start_device(&application.client_id, now);
    let page = format!("{base}/restapi/oauth/device");
    let body = json!({
        "device_code": codes.device_code,
        "user_code": codes.user_code,
        "verification_uri": page,
        "verification_uri_complete": format!("{page}?user_code={}", codes.user_code),
        "expires_in": DEVICE_TTL.as_secs(),
        "interval": 5,
    });
    no_store(json_reply(StatusCode::OK, &body))
}

/// `/restapi/oauth/device`: whoever opens it with a user code approves that device.
pub(super) fn approve_device(state: &mut State, form: &Form) -> Reply {
    let user = form.get("sandbox_user").and_then(|user| user.parse().ok());
    let first = state.rules.users.first().map_or(1, |user| user.id);
    let code = form.get("user_code").unwrap_or_default();
    if state.codes.approve_device(code, user.unwrap_or(first)) {
        text(StatusCode::OK, "text/plain", "The device is approved.")
    } else {
        text(StatusCode::NOT_FOUND, "text/plain", "No device shows this user_code.")
    }
}

/// `POST /restapi/oauth/wstoken`, for a caller who has shown an access token.
pub(super) fn wstoken(state: &mut State, now: Timestamp, base: &str) -> Reply {
    let ttl = state.rules.ws_token_ttl;
    let token = state.codes.issue_socket(now + ttl, now);
    let base = base.replacen("http", "ws", 1);
    let uri = if state.rules.own_links { format!("{base}/ws") } else { WS.to_owned() };
    let body = json!({"uri": uri, "ws_access_token": token, "expires_in": ttl.as_secs()});
    no_store(json_reply(StatusCode::OK, &body))
}

/// 429 with the wait that the limit demands.
pub(super) fn over_limit(counted: &Counted) -> Reply {
    let reply = refusal(StatusCode::TOO_MANY_REQUESTS, "CMN-301", "Request rate exceeded");
    let wait = match counted.verdict {
        Verdict::Refused { retry_after } => retry_after.as_secs_f64().ceil(),
        Verdict::Pass { .. } => 0.0,
    };
    limit_fields(with(reply, RETRY_AFTER, &format!("{wait}")), counted)
}

/// The fields that tell how much of a limit is used.
pub(super) fn limit_fields(reply: Reply, counted: &Counted) -> Reply {
    let remaining = match counted.verdict {
        Verdict::Pass { remaining } => remaining,
        Verdict::Refused { .. } => 0,
    };
    let reply = with(reply, "x-rate-limit-group", &counted.group.to_lowercase());
    let reply = with(reply, "x-rate-limit-limit", &counted.limit.requests.to_string());
    let reply = with(reply, "x-rate-limit-remaining", &remaining.to_string());
    with(reply, "x-rate-limit-window", &counted.limit.window.as_secs().to_string())
}

fn oauth_refusal(refused: &Refusal) -> Reply {
    let reply = text(refused.status, JSON, refused.body().to_string());
    if refused.status == StatusCode::UNAUTHORIZED {
        return with(reply, WWW_AUTHENTICATE, "Basic realm=\"RingCentral REST API\"");
    }
    no_store(reply)
}

fn no_store(reply: Reply) -> Reply {
    with(reply, http::header::CACHE_CONTROL, "no-store")
}

/// Sends the browser back to the application (RFC 6749 §4.1.2).
fn back(redirect: &str, form: &Form, answer: &[(&str, &str)]) -> Reply {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(answer);
    if let Some(state) = form.get("state") {
        query.append_pair("state", state);
    }
    let mark = if redirect.contains('?') { '&' } else { '?' };
    let location = format!("{redirect}{mark}{}", query.finish());
    with(empty(StatusCode::FOUND), LOCATION, &location)
}

const WS: &str = "wss://ws-api.ringcentral.com/ws";
