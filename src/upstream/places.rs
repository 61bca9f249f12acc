//! How many connections there may be at once, and who waits for one to end.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// Room for the connections of one pool. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Places(Rc<Room>);

#[derive(Debug)]
struct Room {
    most: usize,
    taken: Cell<usize>,
    /// One may be free, or a connection that has one.
    changed: Notify,
}

/// One connection's, until it is dropped.
#[derive(Debug)]
pub(super) struct Place(Places);

impl Places {
    pub(super) fn new(most: usize) -> Self {
        Self(Rc::new(Room { most, taken: Cell::new(0), changed: Notify::new() }))
    }

    /// A place, if there is one.
    pub(super) fn take(&self) -> Option<Place> {
        let taken = self.0.taken.get();
        (taken < self.0.most).then(|| {
            self.0.taken.set(taken + 1);
            Place(self.clone())
        })
    }

    /// Says that a connection can be used again. The word is kept for whoever comes next.
    pub(super) fn note(&self) {
        self.0.changed.notify_one();
    }

    /// Returns when somebody has said so.
    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let room = &self.0.0;
        room.taken.set(room.taken.get() - 1);
        room.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn there_are_as_many_places_as_there_may_be() {
        let places = Places::new(2);
        let (one, two) = (places.take(), places.take());
        assert!(one.is_some() && two.is_some() && places.take().is_none());
        assert!(places.changed().now_or_never().is_none());
        drop(one);
        assert!(places.changed().now_or_never().is_some(), "the word is kept");
        assert!(places.take().is_some());
    }
}
