//! Coarse deadlines for one worker thread.
//!
//! A request has half a dozen deadlines and nearly none of them comes to pass. A runtime timer for
//! each costs a lock, a place in the wheel and a changed wake-up of the thread; here a deadline is a
//! number in a slab, and one tick, only while there is any, looks for those that have passed.
//! Deadlines of seconds do not mind being half a second late.

pub mod stall;

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;

use crate::clock::{Clock, Timestamp};

/// How often deadlines are looked at: the most that one comes late. None comes early.
pub const TICK: Duration = Duration::from_millis(500);

/// The time given to a future is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the time is over")]
pub struct Elapsed;

/// The deadlines of one worker thread. Clones share them.
#[derive(Clone, Debug)]
pub struct Timers(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    clock: Clock,
    /// The time of the last tick.
    ticked: Cell<Timestamp>,
    waiting: RefCell<Slab<Waiting>>,
    some_waiting: Notify,
}

#[derive(Debug)]
struct Waiting {
    deadline: Timestamp,
    waker: Waker,
}

impl Timers {
    /// No deadlines yet. They pass only while [`Timers::run`] is running.
    pub fn new(clock: Clock) -> Self {
        let ticked = Cell::new(clock.now());
        let (waiting, some_waiting) = (RefCell::default(), Notify::new());
        Self(Rc::new(Inner { clock, ticked, waiting, some_waiting }))
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    /// Ticks for ever, while anything is waiting.
    pub async fn run(&self) {
        loop {
            if self.0.waiting.borrow().is_empty() {
                self.0.some_waiting.notified().await;
                continue;
            }
            self.0.clock.sleep(TICK).await;
            self.tick();
        }
    }

    fn tick(&self) {
        let now = self.0.clock.now();
        self.0.ticked.set(now);
        let waiting = self.0.waiting.borrow();
        for (_, late) in waiting.iter().filter(|(_, waiting)| waiting.deadline <= now) {
            late.waker.wake_by_ref();
        }
    }

    /// Drives `future` for at most `limit`.
    pub async fn within<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut deadline = self.deadline(limit);
        poll_fn(|cx| match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => deadline.poll(cx).map(|()| Err(Elapsed)),
        })
        .await
    }

    /// A deadline `limit` from now.
    pub fn deadline(&self, limit: Duration) -> Deadline {
        // By the clock, not by the last tick: a thread that was held up would set its next deadlines
        // in the past, and they would all pass at once.
        Deadline { timers: self.clone(), at: self.now() + limit, key: None }
    }
}

impl Timers {
    /// A deadline `limit` from the last tick, for whoever looks again when it has passed: no clock is
    /// read for it, and on a thread that was held up it comes early.
    fn rough_deadline(&self, limit: Duration) -> Deadline {
        Deadline { timers: self.clone(), at: self.0.ticked.get() + limit, key: None }
    }
}

/// Becomes ready at the first tick after its time; moving it is one store.
#[derive(Debug)]
pub struct Deadline {
    timers: Timers,
    at: Timestamp,
    key: Option<usize>,
}

impl Deadline {
    /// Ready once the time is over.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<()> {
        let inner = &self.timers.0;
        if self.at <= inner.ticked.get() {
            return Poll::Ready(());
        }
        let mut waiting = inner.waiting.borrow_mut();
        if let Some(key) = self.key {
            let entry = &mut waiting[key];
            entry.deadline = self.at;
            entry.waker.clone_from(cx.waker());
        } else {
            if waiting.is_empty() {
                inner.some_waiting.notify_one();
            }
            let entry = Waiting { deadline: self.at, waker: cx.waker().clone() };
            self.key = Some(waiting.insert(entry));
        }
        Poll::Pending
    }

    /// Moves the deadline to `limit` from now.
    pub fn reset(&mut self, limit: Duration) {
        self.at = self.timers.now() + limit;
        if let Some(key) = self.key {
            self.timers.0.waiting.borrow_mut()[key].deadline = self.at;
        }
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.timers.0.waiting.borrow_mut().remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::runtime::LocalRuntime;
    use tokio::task::{spawn_local, yield_now};

    use super::*;

    const START: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

    pub(super) fn with_timers<F: Future<Output = ()>>(test: impl FnOnce(Timers, Clock) -> F) {
        LocalRuntime::new().unwrap().block_on(async {
            let clock = Clock::manual(START);
            let timers = Timers::new(clock.clone());
            let run = spawn_local({
                let timers = timers.clone();
                async move { timers.run().await }
            });
            test(timers, clock).await;
            run.abort();
        });
    }

    pub(super) async fn settle() {
        for _ in 0..10 {
            yield_now().await;
        }
    }

    #[test]
    fn a_future_that_is_ready_registers_nothing() {
        with_timers(async |timers, _| {
            let output = timers.within(Duration::from_secs(1), async { 7 }).await;
            assert_eq!(output, Ok(7));
            assert!(timers.0.waiting.borrow().is_empty());
        });
    }

    #[test]
    fn a_deadline_passes_at_the_first_tick_after_it_and_never_early() {
        with_timers(async |timers, clock| {
            let waiting = spawn_local({
                let timers = timers.clone();
                async move { timers.within(Duration::from_secs(2), pending::<()>()).await }
            });
            settle().await;
            for _ in 0..3 {
                clock.advance(TICK);
                settle().await;
                assert!(!waiting.is_finished());
            }
            clock.advance(TICK);
            settle().await;
            assert!(waiting.is_finished());
            assert_eq!(waiting.await.unwrap(), Err(Elapsed));
            assert!(timers.0.waiting.borrow().is_empty());
        });
    }

    #[test]
    fn a_deadline_that_moves_is_not_met_at_its_old_place() {
        with_timers(async |timers, clock| {
            let mut deadline = timers.deadline(TICK);
            assert!(poll_fn(|cx| Poll::Ready(deadline.poll(cx))).await.is_pending());
            deadline.reset(TICK * 4);
            settle().await;
            clock.advance(TICK * 3);
            settle().await;
            assert!(poll_fn(|cx| Poll::Ready(deadline.poll(cx))).await.is_pending());
            clock.advance(TICK);
            settle().await;
            assert!(poll_fn(|cx| Poll::Ready(deadline.poll(cx))).await.is_ready());
        });
    }

    #[test]
    fn a_thread_that_was_held_up_sets_no_deadline_in_the_past() {
        with_timers(async |timers, clock| {
            let mut earlier = timers.deadline(TICK * 1000);
            assert!(poll_fn(|cx| Poll::Ready(earlier.poll(cx))).await.is_pending());
            settle().await;
            clock.advance(TICK * 100);
            // The tick has not come yet, because this thread was busy.
            let mut deadline = timers.deadline(TICK * 50);
            assert!(poll_fn(|cx| Poll::Ready(deadline.poll(cx))).await.is_pending());
            settle().await;
            assert!(poll_fn(|cx| Poll::Ready(deadline.poll(cx))).await.is_pending());
        });
    }
}
