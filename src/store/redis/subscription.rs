//! Hearing what other processes change: a subscription that is renewed when it breaks.

use std::time::Duration;

use futures_util::StreamExt;
use redis::RedisError;
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

/// What is listened for.
pub(super) struct Subject<T, F> {
    pub(super) channel: String,
    /// In the log.
    pub(super) what: &'static str,
    /// Understands a message.
    pub(super) read: F,
    /// Says that something may have been missed.
    pub(super) anew: T,
}

/// Tells of every message until nobody wants to know. `at_first` what was told before it listened may
/// have been missed too.
pub(super) async fn follow<T: Clone, F: Fn(&str) -> T>(
    link: Link,
    address: String,
    subject: Subject<T, F>,
    at_first: bool,
    tell: UnboundedSender<T>,
) {
    let (mut away, mut missed) = (false, at_first);
    while !tell.is_closed() {
        if let Err(error) = listen(&link, &subject, &tell, missed).await {
            debug!(address, cause = chain(&error), "not subscribed");
        }
        if !away {
            let what = subject.what;
            warn!(address, "the store does not tell of {what}: it is asked until it does");
        }
        (away, missed) = (true, true);
        Clock::system().sleep(RESUBSCRIBE).await;
    }
}

/// Listens until the connection breaks or nobody wants to know.
async fn listen<T: Clone, F: Fn(&str) -> T>(
    link: &Link,
    subject: &Subject<T, F>,
    tell: &UnboundedSender<T>,
    missed: bool,
) -> Result<(), RedisError> {
    let (mut sink, mut messages) = link.subscribe(&subject.channel).await?.split();
    if missed {
        // An error says that nobody listens.
        let _ = tell.send(subject.anew.clone());
    }
    let clock = Clock::system();
    loop {
        tokio::select! {
            message = messages.next() => {
                let Some(message) = message else { return Ok(()) };
                let text: String = message.get_payload()?;
                let _ = tell.send((subject.read)(&text));
            }
            () = tell.closed() => return Ok(()),
            () = clock.sleep(PROOF) => {
                let late = |_| std::io::Error::from(std::io::ErrorKind::TimedOut);
                timeout(PATIENCE, sink.ping::<redis::Value>()).await.map_err(late)??;
            }
        }
    }
}

/// A session or an identity has changed.
pub(super) fn change(text: &str) -> Change {
    match text.split_once(' ') {
        Some((generation, name)) => {
            let generation = generation.parse().ok().map(Generation::new);
            Change::Identity(name.to_owned(), generation)
        }
        None => Change::Identity(text.to_owned(), None),
    }
}
