//! The notification socket: one connection per token, a greeting, subscriptions, and else an echo.
//!
//! Nothing happens in the sandbox that could be notified of. A client that sends a notification gets
//! it back, and has its event.

use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Request, StatusCode, request};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::head::unauthorized;
use super::list::parameter;
use super::reply::{Reply, empty, error_body, refusal, with};
use super::visit::Visit;

/// `GET /ws?access_token=…`: spends the token and takes the connection over.
pub(super) fn open(visit: &Visit, parts: request::Parts) -> Reply {
    let field =
        |name| parts.headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let wants = field(UPGRADE).is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"));
    let Some(key) = field(SEC_WEBSOCKET_KEY).filter(|_| wants) else {
        let message = "A WebSocket upgrade is required here";
        return refusal(StatusCode::UPGRADE_REQUIRED, "WSG-901", message);
    };
    let token =
        parameter(parts.uri.query().unwrap_or_default(), "access_token").unwrap_or_default();
    let control = &visit.site.control;
    if !control.change(|state, now| state.codes.spend_socket(&token, now)) {
        return unauthorized(
            "TokenInvalid",
            "WSG-902",
            "WebSocket token is unknown, spent or expired",
        );
    }
    control.change(|state, _| state.counts.websockets += 1);
    let reply = empty(StatusCode::SWITCHING_PROTOCOLS);
    let reply = with(reply, SEC_WEBSOCKET_ACCEPT, &derive_accept_key(key.as_bytes()));
    let reply = with(with(reply, CONNECTION, "Upgrade"), UPGRADE, "websocket");
    let reply = match field(SEC_WEBSOCKET_PROTOCOL) {
        Some(list) => with(reply, SEC_WEBSOCKET_PROTOCOL, list.split(',').next().unwrap_or(list)),
        None => reply,
    };
    let upgrade = hyper::upgrade::on(Request::from_parts(parts, ()));
    visit.link.afterwards(converse(upgrade, token));
    reply
}

/// Greets, then answers every message until the peer leaves.
async fn converse(upgrade: OnUpgrade, token: String) {
    let Ok(upgraded) = upgrade.await else { return };
    let io: TokioIo<Upgraded> = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    let mut next = Some(Message::text(greeting(&token)));
    while let Some(message) = next {
        if socket.send(message).await.is_err() {
            return;
        }
        next = loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let answer = answer(&text).map(Message::text);
                    break Some(answer.unwrap_or(Message::Text(text)));
                }
                Some(Ok(message)) if message.is_binary() => break Some(message),
                // Pings and closes are answered by the library itself.
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break None,
            }
        };
    }
}

/// What RingCentral's gateway says first.
fn greeting(token: &str) -> String {
    let head = json!({
        "type": "ConnectionDetails",
        "messageId": format!("sandbox-{token}"),
        "status": 200,
        "wsc": {"token": format!("wsc-{token}"), "sequence": 1},
    });
    let body = json!({
        "recoveryState": "Successful",
        "recoveryErrorCode": null,
        "recoveryBufferSize": 100,
        "recoveryTimeout": 180,
        "idleTimeout": 600,
        "absoluteTimeout": 86_400,
        "maxConnectionsPerSession": 5,
        "maxActiveConnections": 5,
    });
    json!([head, body]).to_string()
}

/// What a request over the socket is answered with; other messages are no request. Only
/// subscriptions are there: they are the one thing that clients ask for here.
fn answer(message: &str) -> Option<String> {
    let Ok(Value::Array(parts)) = serde_json::from_str(message) else { return None };
    let head = parts.first().filter(|head| head["type"] == "ClientRequest")?;
    let (method, path) = (head["method"].as_str()?, head["path"].as_str()?);
    let mut meta = json!({"type": "ClientRequest", "messageId": head["messageId"], "headers": {}});
    let Some(rest) = path.trim_end_matches('/').strip_prefix(SUBSCRIPTION) else {
        meta["status"] = 404.into();
        let missing = error_body("CMN-101", "CMN-101", "Only subscriptions are here");
        return Some(json!([meta, missing]).to_string());
    };
    if method == "DELETE" {
        meta["status"] = 204.into();
        return Some(json!([meta]).to_string());
    }
    let known = rest.strip_prefix('/').map(str::to_owned);
    let id =
        known.unwrap_or_else(|| format!("sandbox-{}", head["messageId"].as_str().unwrap_or("")));
    meta["status"] = 200.into();
    meta["headers"]["WSG-SubscriptionId"] = id.as_str().into();
    let mut subscription = json!({
        "id": id,
        "status": "Active",
        "expiresIn": 86_400,
        "deliveryMode": {"transportType": "WebSocket", "encryption": false},
    });
    subscription["eventFilters"] =
        parts.get(1).map_or_else(|| json!([]), |asked| asked["eventFilters"].clone());
    Some(json!([meta, subscription]).to_string())
}

const SUBSCRIPTION: &str = "/restapi/v1.0/subscription";

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(message: &Value) -> Value {
        serde_json::from_str(&answer(&message.to_string()).expect("it is a request")).unwrap()
    }

    #[test]
    fn a_subscription_is_made_changed_and_ended() {
        let request = |method, path| {
            json!([
                {"type": "ClientRequest", "messageId": "m", "method": method, "path": path},
                {"eventFilters": ["/presence"]},
            ])
        };
        for path in [SUBSCRIPTION, "/restapi/v1.0/subscription/"] {
            let made = ask(&request("POST", path));
            assert_eq!(made[0]["messageId"], "m");
            assert_eq!((&made[0]["status"], &made[1]["id"]), (&json!(200), &json!("sandbox-m")));
            assert_eq!(made[0]["headers"]["WSG-SubscriptionId"], "sandbox-m");
            assert_eq!(made[1]["eventFilters"], json!(["/presence"]));
        }
        let one = format!("{SUBSCRIPTION}/7");
        assert_eq!(ask(&request("PUT", &one))[1]["id"], "7");
        let ended = ask(&request("DELETE", &one));
        assert_eq!((&ended[0]["status"], ended.as_array().unwrap().len()), (&json!(204), 1));
        assert_eq!(ask(&request("GET", "/restapi/v1.0/account/~"))[0]["status"], 404);
    }

    #[test]
    fn what_is_no_request_has_no_answer_of_its_own() {
        let notification = json!([{"type": "ServerNotification"}, {}]).to_string();
        for message in [&notification, "x", "[]", "[[]]", "{}", r#"[{"type":"ClientRequest"}]"#] {
            assert_eq!(answer(message), None, "{message}");
        }
    }
}
