//! How long a client may take over a request head, and over going away.

use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use super::guard::{Post, Waits};
use crate::timers::{Deadline, Timers};

/// How long the last bytes of a client may take that has its answer and goes on sending.
const LATE: Duration = Duration::from_secs(5);

/// The deadline of what one connection's guard waits for, while it waits for anything.
#[derive(Debug)]
pub(super) struct Patience {
    post: Arc<Post>,
    timers: Timers,
    head_timeout: Duration,
    current: Option<(Waits, Deadline)>,
}

impl Patience {
    /// `head_timeout` is for each head as a whole, once it has begun. Clients open connections ahead of
    /// their requests, so the first byte may take as long as a connection may idle.
    pub(super) fn new(post: Arc<Post>, timers: Timers, head_timeout: Duration) -> Self {
        Self { post, timers, head_timeout, current: None }
    }

    /// Whether a head is being waited for that has begun.
    pub(super) fn is_for_a_head(&self) -> bool {
        matches!(self.post.waits(), Waits::Head(_))
    }

    /// What has been waited for too long.
    pub(super) fn poll_end(&mut self, cx: &Context<'_>) -> Option<Waits> {
        let waits = self.post.waits();
        let limit = match waits {
            Waits::Not => {
                self.current = None;
                return None;
            }
            Waits::Head(_) => self.head_timeout,
            Waits::Late => LATE,
        };
        if self.current.as_ref().is_none_or(|(known, _)| *known != waits) {
            self.current = Some((waits, self.timers.deadline(limit)));
        }
        let (_, deadline) = self.current.as_mut()?;
        deadline.poll(cx).is_ready().then(|| {
            self.current = None;
            waits
        })
    }

    /// The head under way is to be answered with 408.
    pub(super) fn give_up(&self) {
        self.post.give_up();
    }
}
