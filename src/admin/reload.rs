//! How an operator's order to read the configuration again reaches whoever can.

use std::future::pending;

use tokio::sync::{mpsc, oneshot};

/// Somebody waits for the configuration to be read again, and for what came of it.
#[derive(Debug)]
pub struct ReloadOrder(oneshot::Sender<Result<(), String>>);

impl ReloadOrder {
    /// Tells what came of it; the error says why the old configuration stays.
    pub fn answer(self, outcome: Result<(), String>) {
        // Who asked may have gone.
        let _ = self.0.send(outcome);
    }
}

/// Where orders come in.
#[derive(Debug)]
pub struct Orders(mpsc::Receiver<ReloadOrder>);

impl Orders {
    /// The next one. It does not return if nobody is left who could give any.
    pub async fn next(&mut self) -> ReloadOrder {
        match self.0.recv().await {
            Some(order) => order,
            None => pending().await,
        }
    }
}

/// Who orders are given to.
#[derive(Clone, Debug)]
pub struct Superior(mpsc::Sender<ReloadOrder>);

impl Superior {
    /// Orders a reload and waits for what comes of it; `None` if it is not carried out, because one
    /// is under way or nobody here can.
    pub(super) async fn order(&self) -> Option<Result<(), String>> {
        let (outcome, told) = oneshot::channel();
        self.0.try_send(ReloadOrder(outcome)).ok()?;
        told.await.ok()
    }
}

/// Both ends.
pub fn orders() -> (Superior, Orders) {
    let (orders, ordered) = mpsc::channel(1);
    (Superior(orders), Orders(ordered))
}
