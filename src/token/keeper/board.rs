//! Where the driver shows the [`View`] and callers wait for it to change: a lock and one list of
//! waiters. `tokio::sync::watch` has eight lists, which is 300 bytes for each of tens of thousands.

use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::View;

#[derive(Debug)]
pub(super) struct Board {
    view: Mutex<View>,
    changed: Notify,
}

impl Board {
    pub(super) const fn new(view: View) -> Self {
        Self { view: Mutex::new(view), changed: Notify::const_new() }
    }

    /// The view as it is. Not to be kept across anything that waits.
    pub(super) fn look(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows another view; wakes whoever waits if anybody could tell them apart.
    pub(super) fn show(&self, view: View) {
        let changed = {
            let mut seen = self.look();
            let changed = !seen.same(&view);
            *seen = view;
            changed
        };
        if changed {
            self.changed.notify_waiters();
        }
    }

    /// Looks at the view now and after each change, until there is an answer in it.
    pub(super) async fn until<T>(&self, mut answer: impl FnMut(&View) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            // Before the look: no change in between is missed.
            changed.as_mut().enable();
            let found = answer(&self.look());
            match found {
                Some(found) => return found,
                None => changed.await,
            }
        }
    }
}
