//! The side that RingCentral is on: a pool of connections per worker thread and origin.
//!
//! [`Upstream::send`] sends a request once. It takes another connection on its own only where nobody
//! can tell the difference: a kept-alive one turned out dead before a byte was written. Anything else
//! is an error that says whether the connection had been kept; the proxy judges by the method.

mod connect;
mod key_log;
mod patience;
mod places;
mod pool;
mod socket;
mod tls;

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;

pub use connect::{ConnectError, Connector};
pub use patience::{Stage, Upload};
pub(crate) use pool::LocalExecutor;
pub use pool::{AnswerError, Choice, Content, Pool};
pub use socket::upgrade;
pub use tls::{TlsError, Trust, client_config, with_settings};

use crate::metrics::limits::{Limit, Meters};
use crate::metrics::traffic::Tally;
use crate::timers::Timers;
use crate::timers::stall::Pace;
use patience::{Late, Patience};
use pool::SendFailure;

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// There is no connection to be had.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// No answer began in time.
    #[error("no answer within {} s", .0.as_secs())]
    Timeout(Duration),
    /// The client sent the content of its request too slowly.
    #[error("the client sends too slowly")]
    SlowClient,
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

/// What holds for the connections of one worker thread to one origin.
#[derive(Clone, Debug)]
pub struct Rules {
    /// How long an unused connection is kept.
    pub idle_timeout: Duration,
    /// How long nothing may come of an answer that has begun.
    pub stall_timeout: Duration,
    /// How many there may be.
    pub max_connections: usize,
    /// How slowly a client may send.
    pub client_pace: Pace,
    /// Where limits are counted that were reached.
    pub meters: Arc<Meters>,
    /// What this thread counts.
    pub tally: Arc<Tally>,
}

/// Sends requests to one origin, from one worker thread.
#[derive(Debug)]
pub struct Upstream<B: Body + 'static> {
    pool: Rc<Pool<B>>,
    timers: Timers,
    response_timeout: Duration,
    rules: Rules,
}

impl<B> Upstream<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// An empty pool in front of `connector`.
    pub fn new(connector: Connector, timers: Timers, rules: Rules) -> Self {
        let response_timeout = connector.response_timeout;
        let pool = Rc::new(Pool::new(connector, timers.clone(), rules.clone()));
        Self { pool, timers, response_timeout, rules }
    }

    /// Sends `request` and waits for the head of the answer.
    ///
    /// The request must be in origin-form with `Host`; the version is the connection's affair.
    /// `progress` tells how much of the content has passed: the time to answer begins when that
    /// stands still, unless it is the client who holds it up.
    pub fn send<'a>(
        &'a self,
        request: Request<B>,
        choice: Choice,
        progress: impl Fn() -> Upload + 'a,
    ) -> impl Future<Output = Result<Response<Content<B>>, SendError>> + 'a {
        let mut begun = match self.pool.kept(choice) {
            Some(sender) => Begun::Sent(sender.is_reused(), sender.send(request, &self.pool)),
            None => Begun::Unconnected(Box::new(request)),
        };
        async move {
            loop {
                let (reused, answer) = match begun {
                    Begun::Sent(reused, answer) => (reused, answer),
                    Begun::Unconnected(request) => {
                        let sender = self.pool.checkout(choice).await?;
                        (sender.is_reused(), sender.send(*request, &self.pool))
                    }
                };
                match self.answered(answer, &progress).await? {
                    Ok(response) => return Ok(response),
                    // Not one byte of it was written.
                    Err(SendFailure { unsent: Some(unsent), .. }) if reused => {
                        begun = Begun::Unconnected(unsent);
                    }
                    Err(SendFailure { error, .. }) => {
                        return Err(SendError::Broken { source: error, reused });
                    }
                }
            }
        }
    }

    async fn answered<T>(
        &self,
        answer: impl Future<Output = T>,
        progress: &impl Fn() -> Upload,
    ) -> Result<T, SendError> {
        let mut answer = pin!(answer);
        let mut patience = Patience::new(self.response_timeout, self.rules.client_pace, progress());
        loop {
            let look = patience.next_look(progress());
            match self.timers.within(look, answer.as_mut()).await {
                Ok(answer) => return Ok(answer),
                Err(_) => match patience.look(look, progress()) {
                    Ok(()) => {}
                    Err(Late::Answer) => return Err(SendError::Timeout(self.response_timeout)),
                    Err(Late::Upload) => {
                        self.rules.meters.count(Limit::RequestStall);
                        return Err(SendError::SlowClient);
                    }
                },
            }
        }
    }

    /// Drops the connections that have idled too long; wants to be called now and then.
    pub fn sweep(&self) {
        self.pool.sweep();
    }
}

/// How far a send has come.
enum Begun<B, F> {
    /// A connection has the request; whether it had carried others.
    Sent(bool, F),
    /// Rare, therefore boxed: every client connection has room for this enum.
    Unconnected(Box<Request<B>>),
}
