//! The side that RingCentral is on: one pool of connections per worker thread, to one origin.
//!
//! [`Upstream::send`] sends a request once. It repeats a send on its own only where nobody can tell
//! the difference: when a kept-alive connection turned out dead and not one byte had been written,
//! or when the method is idempotent (RFC 9110 §9.2.2). Anything else is an error for the client to
//! judge, because RingCentral may have done what was asked.

mod connect;
mod pool;
mod tls;

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

pub use connect::{ConnectError, Connector};
pub(crate) use pool::LocalExecutor;
pub use pool::{Choice, Content, Pool};
pub use tls::{TlsError, Trust, client_config};

use crate::timers::Timers;
use pool::{SendFailure, Sender};

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection to be had.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No answer began in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The connection ended, or what came was not HTTP, before an answer began.
    #[error("the connection broke before an answer came")]
    Broken {
        /// What the connection said.
        #[source]
        source: hyper::Error,
        /// Whether the request may be sent again without harm: a kept-alive connection died under it.
        reused: bool,
    },
}

/// Sends requests to the one origin, from one worker thread.
#[derive(Debug)]
pub struct Upstream<B: Body + 'static> {
    pool: Rc<Pool<B>>,
    timers: Timers,
    response_timeout: Duration,
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool in front of `connector`.
    pub fn new(
        connector: Connector,
        timers: Timers,
        response_timeout: Duration,
        idle_timeout: Duration,
    ) -> Self {
        let pool = Rc::new(Pool::new(connector, timers.clone(), idle_timeout));
        Self { pool, timers, response_timeout }
    }

    /// Sends `request` and waits for the head of the answer.
    ///
    /// The request must be in origin-form with `Host`; the version is the connection's affair.
    /// `progress` tells how much of the content has passed: the time to answer begins when that
    /// stands still.
    pub async fn send(
        &self,
        mut request: Request<B>,
        choice: Choice,
        progress: impl Fn() -> u64,
    ) -> Result<Response<Content<B>>, SendError> {
        loop {
            let sender = self.pool.checkout(choice).await?;
            let reused = sender.is_reused();
            match self.send_on(sender, request, &progress).await? {
                Ok(response) => return Ok(response),
                // Not one byte of it was written.
                Err(SendFailure { unsent: Some(unsent), .. }) if reused => request = *unsent,
                Err(SendFailure { error, .. }) => {
                    return Err(SendError::Broken { source: error, reused });
                }
            }
        }
    }

    async fn send_on(
        &self,
        sender: Sender<B>,
        request: Request<B>,
        progress: &impl Fn() -> u64,
    ) -> Result<Result<Response<Content<B>>, SendFailure<B>>, SendError> {
        let mut answer = pin!(sender.send(request, &self.pool));
        let mut seen = progress();
        loop {
            match self.timers.within(self.response_timeout, answer.as_mut()).await {
                Ok(answer) => return Ok(answer),
                Err(_) if progress() != seen => seen = progress(),
                Err(_) => return Err(SendError::Timeout(self.response_timeout)),
            }
        }
    }

    /// Drops the connections that have idled too long; wants to be called now and then.
    pub fn sweep(&self) {
        self.pool.sweep();
    }
}
