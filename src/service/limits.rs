//! RingCentral's limits, as far as they have shown, from one configuration to the next.
//!
//! A reload within a penalty must not send into it, and two proxies side by side must not use a limit
//! up twice. So a successor goes on with the board of the one before, and with those who wait there;
//! only its settings are its own. The board's task ends with the last of them.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::StartError;
use crate::clock::Clock;
use crate::proxy::throttle::Throttle;
use crate::proxy::throttle::board::Board;
use crate::settings::{RedisSettings, Settings, StoreSettings};
use crate::store::redis::limits::SharedLimits;
use crate::token::names::Names;

/// What is kept from one configuration to the next.
#[derive(Debug)]
pub(super) struct Lasting {
    board: Arc<Board>,
    /// By which it shares.
    server: Option<RedisSettings>,
    task: JoinHandle<()>,
}

impl Lasting {
    /// What goes on from `before`, if there is anything. It stays when nothing keeps to limits any
    /// more, for a configuration that does again.
    ///
    /// With another server there is a new board, which begins with the penalties of the old one.
    pub(super) fn with(
        settings: &Settings,
        names: &Arc<Names>,
        clock: &Clock,
        before: Option<&Arc<Self>>,
    ) -> Result<Option<Arc<Self>>, StartError> {
        let server = match &settings.store {
            StoreSettings::Redis { server, .. } => Some(&**server),
            StoreSettings::File { .. } | StoreSettings::Memory => None,
        };
        match before {
            None if settings.proxy.throttle.is_none() => return Ok(None),
            Some(before) if before.shares_by(server) => return Ok(Some(Arc::clone(before))),
            _ => {}
        }
        let mut board = Board::new(Arc::clone(names), clock.clone());
        if let Some(server) = server {
            board = board.shared(SharedLimits::open(server)?);
        }
        let board = Arc::new(board);
        if let Some(before) = before {
            board.inherit(&before.board);
        }
        let running = Arc::clone(&board);
        let task = tokio::spawn(async move { running.run().await });
        Ok(Some(Arc::new(Self { board, server: server.cloned(), task })))
    }

    pub(super) const fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// What keeps to the limits as `settings` say, if they do.
    pub(super) fn throttle(&self, settings: &Settings) -> Option<Arc<Throttle>> {
        let throttle = settings.proxy.throttle.as_ref()?;
        Some(Arc::new(Throttle::new(throttle, Arc::clone(&self.board))))
    }

    /// Ends the task, if nobody else goes on with it.
    ///
    /// # Panics
    /// If it did.
    pub(super) async fn stop(self: Arc<Self>) {
        let Some(mut last) = Arc::into_inner(self) else { return };
        last.task.abort();
        if let Err(error) = (&mut last.task).await
            && let Ok(panic) = error.try_into_panic()
        {
            std::panic::resume_unwind(panic);
        }
    }

    fn shares_by(&self, server: Option<&RedisSettings>) -> bool {
        match (&self.server, server) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => ours.is_same(theirs),
            _ => false,
        }
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.task.abort();
    }
}
