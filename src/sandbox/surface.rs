//! The control surface: the levers of [`Control`] as JSON over HTTP, on a listener of its own.
//!
//! Pure but for the control it pulls: method, path and content go in, an answer comes out.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use super::control::Control;
use super::fault::Fault;
use super::reply::{Reply, json as json_reply};

/// Why an order is not understood.
#[derive(Debug, thiserror::Error)]
enum OrderError {
    #[error("{0} {1} is no order; GET / lists them all")]
    Unknown(String, String),
    #[error("the content is not the JSON that {order} takes: {source}")]
    Json { order: &'static str, source: serde_json::Error },
    #[error(
        "the clock is the machine's and nobody can move it; start the sandbox with a manual one"
    )]
    SystemClock,
    #[error("\"secs\" is not a length of time: {0}")]
    Length(std::time::TryFromFloatSecsError),
}

/// Carries out one order.
pub(super) fn answer(control: &Control, method: &str, path: &str, content: &[u8]) -> Reply {
    match obey(control, method, path, content) {
        Ok(body) => json_reply(StatusCode::OK, &body),
        Err(error) => {
            let status = match error {
                OrderError::Unknown(..) => StatusCode::NOT_FOUND,
                OrderError::Json { .. } | OrderError::Length(_) => StatusCode::BAD_REQUEST,
                OrderError::SystemClock => StatusCode::CONFLICT,
            };
            json_reply(status, &json!({"error": error.to_string()}))
        }
    }
}

fn obey(control: &Control, method: &str, path: &str, content: &[u8]) -> Result<Value, OrderError> {
    match (method, path) {
        ("GET", "/") => return Ok(help()),
        ("POST", "/expire") => control.expire_access_tokens(),
        ("POST", "/revoke") => control.revoke_access_tokens(),
        ("POST", "/end-sessions") => control.end_sessions(),
        ("GET", "/rules") => return Ok(json!(control.rules())),
        ("POST" | "PATCH", "/rules") => return change_rules(control, content),
        ("GET", "/faults") => return Ok(json!(control.faults())),
        ("POST", "/faults") => {
            let fault: Fault = read("POST /faults", content)?;
            control.inject(fault);
        }
        ("DELETE", "/faults") => control.clear_faults(),
        ("GET", "/counts") => return Ok(json!(control.counts())),
        ("GET", "/log") => return Ok(json!(control.log())),
        ("DELETE", "/log") => control.clear_log(),
        ("POST", "/clock/advance") => return advance(control, content),
        _ => return Err(OrderError::Unknown(method.to_owned(), path.to_owned())),
    }
    Ok(json!({"done": true}))
}

fn change_rules(control: &Control, content: &[u8]) -> Result<Value, OrderError> {
    let order = "POST /rules";
    let patch: Value = read(order, content)?;
    let rules = control.rules().patched(&patch);
    let rules = rules.map_err(|source| OrderError::Json { order, source })?;
    control.set_rules(|current| *current = rules);
    Ok(json!(control.rules()))
}

fn advance(control: &Control, content: &[u8]) -> Result<Value, OrderError> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct By {
        secs: f64,
    }
    let by: By = read("POST /clock/advance", content)?;
    let by = Duration::try_from_secs_f64(by.secs).map_err(OrderError::Length)?;
    if !control.advance(by) {
        return Err(OrderError::SystemClock);
    }
    Ok(json!({"now_unix_millis": control.clock().now().unix_millis()}))
}

fn read<T: serde::de::DeserializeOwned>(
    order: &'static str,
    content: &[u8],
) -> Result<T, OrderError> {
    serde_json::from_slice(content).map_err(|source| OrderError::Json { order, source })
}

fn help() -> Value {
    json!({
        "GET /": "this list",
        "POST /expire": "every access token expires now",
        "POST /revoke": "every access token is dead now; refresh tokens live on",
        "POST /end-sessions": "every session ends",
        "GET /rules": "the rules as they are",
        "POST /rules": "changes the rules named, such as {\"access_token_ttl\": 20}; lengths in seconds",
        "GET /faults": "the faults still to come",
        "POST /faults": "orders a fault: {\"at\": \"token\" or \"api\", \"path_prefix\"?, \"kind\", \"times\"?}; \
            kinds: \"hang\", \"drop_before\", \"drop_after\", \"close_after\", \"announce_close\", \
            {\"status\": {\"code\", \"body\"?, \"retry_after\"?}}, {\"delay\": {\"secs\"}}, \
            {\"truncate\": {\"after\"}}, {\"unauthorized\": {\"code\"?}}, {\"garbage\": \"html\" or \
            \"truncated_json\" or \"missing_access_token\" or {\"huge\": {\"bytes\"}} or {\"expires_in\": value}}",
        "DELETE /faults": "takes all orders back",
        "GET /counts": "what has happened since the start",
        "GET /log": "the last arrivals, with everything that arrived",
        "DELETE /log": "empties the log",
        "POST /clock/advance": "moves a manual clock by {\"secs\"}",
    })
}

#[cfg(test)]
mod tests {
    use http_body::Body;

    use super::*;
    use crate::clock::{Clock, Timestamp};
    use crate::sandbox::reply::Content;
    use crate::sandbox::rules::Rules;

    fn ask(control: &Control, method: &str, path: &str, content: &str) -> (u16, Value) {
        let reply = answer(control, method, path, content.as_bytes());
        assert!(reply.body().size_hint().exact().is_some());
        let status = reply.status().as_u16();
        let Content::Whole(Some(content)) = reply.into_body() else { panic!("no content") };
        (status, serde_json::from_slice(&content).unwrap())
    }

    fn control(clock: Clock) -> Control {
        Control::new(Rules::default(), clock)
    }

    #[test]
    fn rules_change_in_part_and_a_wrong_one_is_named() {
        let control = control(Clock::system());
        let (status, rules) = ask(&control, "POST", "/rules", r#"{"max_sessions":2}"#);
        assert_eq!((status, &rules["max_sessions"]), (200, &json!(2)));
        assert_eq!(control.rules(), Rules { max_sessions: 2, ..Rules::default() });
        let (status, refused) = ask(&control, "POST", "/rules", r#"{"max_session":2}"#);
        assert_eq!(status, 400);
        assert!(refused["error"].as_str().unwrap().contains("max_session"), "{refused}");
    }

    #[test]
    fn only_a_manual_clock_moves() {
        let (status, refused) =
            ask(&control(Clock::system()), "POST", "/clock/advance", r#"{"secs":1}"#);
        assert_eq!(status, 409, "{refused}");
        let manual = control(Clock::manual(Timestamp::from_unix_millis(1000)));
        let (_, now) = ask(&manual, "POST", "/clock/advance", r#"{"secs":1.5}"#);
        assert_eq!(now["now_unix_millis"], 2500);
    }

    #[test]
    fn an_unknown_order_points_to_the_list() {
        let (status, refused) = ask(&control(Clock::system()), "POST", "/explode", "");
        assert_eq!(status, 404);
        assert_eq!(refused["error"], "POST /explode is no order; GET / lists them all");
    }
}
