//! The notification socket: one connection per token, a greeting, and an echo.

use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Request, StatusCode, request};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::head::unauthorized;
use super::list::parameter;
use super::reply::{Reply, empty, refusal, with};
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

/// Greets, then sends back every message until the peer leaves.
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
                Some(Ok(message)) if message.is_text() || message.is_binary() => {
                    break Some(message);
                }
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
