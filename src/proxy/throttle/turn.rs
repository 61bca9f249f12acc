//! The right to send one request, and the wait for it.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::board::Board;
use super::groups::Group;
use super::window::Quota;
use crate::clock::Timestamp;
use crate::token::names::IdentityNumber;

/// The right to send one request. Only a [`Board`] gives one, and an answer uses it up; whoever
/// drops it instead gives its place to the next, or leaves it taken if the request was sent.
#[derive(Debug)]
#[must_use = "the next waits for it"]
pub struct Turn(Option<Box<Place>>);

#[derive(Debug)]
struct Place {
    board: Arc<Board>,
    identity: IdentityNumber,
    group: Group,
    was_sent: bool,
}

impl Turn {
    /// Where nothing is paced.
    pub const fn free() -> Self {
        Self(None)
    }

    pub(super) fn new(board: &Arc<Board>, identity: IdentityNumber, group: Group) -> Self {
        let board = Arc::clone(board);
        Self(Some(Box::new(Place { board, identity, group, was_sent: false })))
    }

    /// The group that it is for; none where nothing is paced.
    pub(super) fn group(&self) -> Option<Group> {
        self.0.as_ref().map(|place| place.group)
    }

    /// The request is being sent.
    pub fn depart(&mut self) {
        if let Some(place) = &mut self.0 {
            place.was_sent = true;
        }
    }

    pub(super) fn answered(
        mut self,
        group: Group,
        quota: Option<Quota>,
        refused: bool,
        now: Timestamp,
    ) {
        let Some(place) = self.0.take() else { return };
        place.board.answered(place.identity, place.group, group, quota, refused, now);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(place) = self.0.take() {
            place.board.vacate(place.identity, place.group, place.was_sent);
        }
    }
}

/// A place in the queue; whoever drops it leaves.
#[derive(Debug)]
pub struct Waiting {
    given: oneshot::Receiver<Turn>,
    board: Arc<Board>,
    identity: IdentityNumber,
    group: Group,
    number: u64,
}

impl Waiting {
    pub(super) fn new(
        board: &Arc<Board>,
        identity: IdentityNumber,
        group: Group,
        number: u64,
        given: oneshot::Receiver<Turn>,
    ) -> Self {
        Self { given, board: Arc::clone(board), identity, group, number }
    }

    /// The turn, when it comes; `None` says to ask again.
    pub async fn turn(mut self) -> Option<Turn> {
        (&mut self.given).await.ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.board.leave(self.identity, self.group, self.number);
    }
}
