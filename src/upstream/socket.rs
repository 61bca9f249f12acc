//! Connections that change their protocol: each is opened for one request and never kept.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use tokio::task::spawn_local;

use super::SendError;
use super::connect::{ConnectError, Connection, Connector, Io};
use crate::timers::Timers;

/// Sends a request that asks for another protocol, and waits for the head of the answer. After 101
/// the connection is had by [`hyper::upgrade::on`] it.
pub async fn upgrade(
    connector: &Connector,
    request: Request<Empty<Bytes>>,
    timers: &Timers,
) -> Result<Response<Incoming>, SendError> {
    let limit = connector.timeout;
    let connected = timers.within(limit, connector.connect()).await;
    let late = |_| ConnectError::Timeout { origin: connector.name(), limit };
    match connected.map_err(late)?? {
        Connection::Plain(io) => exchange(connector, io, request, timers).await,
        Connection::Tls { io, .. } => exchange(connector, io, request, timers).await,
    }
}

async fn exchange(
    connector: &Connector,
    io: impl Io + Send,
    request: Request<Empty<Bytes>>,
    timers: &Timers,
) -> Result<Response<Incoming>, SendError> {
    let origin = || connector.name();
    let (mut sender, connection) = http1::handshake(io)
        .await
        .map_err(|source| ConnectError::Http { origin: origin(), source })?;
    spawn_local(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "upstream connection ended");
        }
    });
    let limit = connector.response_timeout;
    match timers.within(limit, sender.send_request(request)).await {
        Ok(answer) => answer.map_err(|source| SendError::Broken { source, reused: false }),
        Err(_) => Err(SendError::Timeout(limit)),
    }
}
