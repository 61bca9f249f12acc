//! Hearing what other processes change: a subscription that is renewed when it breaks.

use std::time::Duration;

use futures_util::StreamExt;
use redis::{Msg, RedisError};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::connect::Link;
use crate::clock::Clock;
use crate::store::Change;
use crate::telemetry::chain;
use crate::token::Generation;

/// Between two attempts to subscribe.
const RESUBSCRIBE: Duration = Duration::from_secs(1);

/// How often the server has to show that it is still there, and within which time.
const PROOF: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(2);

/// Tells of every change until nobody wants to know.
pub(super) async fn follow(
    link: Link,
    address: String,
    channel: String,
    tell: UnboundedSender<Change>,
) {
    let mut away = false;
    while !tell.is_closed() {
        if let Err(error) = listen(&link, &channel, &tell, away).await {
            debug!(address, cause = chain(&error), "not subscribed");
        }
        if !away {
            warn!(address, "the store does not tell of changes: it is asked until it does");
        }
        away = true;
        Clock::system().sleep(RESUBSCRIBE).await;
    }
}

/// Listens until the connection breaks or nobody wants to know.
async fn listen(
    link: &Link,
    channel: &str,
    tell: &UnboundedSender<Change>,
    away: bool,
) -> Result<(), RedisError> {
    let (mut sink, mut messages) = link.subscribe(channel).await?.split();
    if away {
        // An error says that nobody listens.
        let _ = tell.send(Change::Anything);
    }
    let clock = Clock::system();
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                let _ = tell.send(change(&message)?);
            }
            () = tell.closed() => return Ok(()),
            () = clock.sleep(PROOF) => {
                let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
                timeout(PATIENCE, sink.ping::<redis::Value>()).await.map_err(late)??;
            }
        }
    }
}

fn change(message: &Msg) -> Result<Change, RedisError> {
    let text: String = message.get_payload()?;
    Ok(match text.split_once(' ') {
        Some((generation, name)) => {
            let generation = generation.parse().ok().map(Generation::new);
            Change::Identity(name.to_owned(), generation)
        }
        None => Change::Identity(text, None),
    })
}
