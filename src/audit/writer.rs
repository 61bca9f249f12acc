//! The thread that writes: many lines at once if many wait, and again and again while the disk fails.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::Duration;

use super::Progress;
use super::file::Appended;
use super::line::{self, Event, Lost};
use crate::clock::Clock;
use crate::telemetry::chain;

/// So much is written at once.
const BATCH: usize = 64 * 1024;

/// How long after a failure the next attempt is made.
const RETRY: Duration = Duration::from_secs(1);

/// The same where a reader is slow.
const BUSY: Duration = Duration::from_millis(20);

/// What the writer is to do.
#[derive(Debug)]
pub(super) enum Order {
    Line(Vec<u8>),
    Follow,
    End,
}

pub(super) struct Writer {
    orders: Receiver<Order>,
    file: Appended,
    progress: Arc<Progress>,
    clock: Clock,
    pending: Vec<u8>,
    /// How many lost lines the file tells of.
    told: u64,
    is_failing: bool,
    is_astray: bool,
}

impl Writer {
    pub(super) fn new(
        orders: Receiver<Order>,
        file: Appended,
        progress: Arc<Progress>,
        clock: Clock,
    ) -> Self {
        let pending = Vec::new();
        Self {
            orders,
            file,
            progress,
            clock,
            pending,
            told: 0,
            is_failing: false,
            is_astray: false,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            // An error says that nobody is left who could order anything.
            let mut goes_on = self.orders.recv().is_ok_and(|order| self.take(order));
            while goes_on && self.pending.len() < BATCH {
                match self.orders.try_recv() {
                    Ok(order) => goes_on = self.take(order),
                    Err(_) => break,
                }
            }
            self.follow();
            self.write();
            self.tell_of_lost();
            if !goes_on {
                return self.say_goodbye();
            }
        }
    }

    /// Whether there is more to come.
    fn take(&mut self, order: Order) -> bool {
        match order {
            Order::Line(line) => self.pending.extend_from_slice(&line),
            Order::Follow => {}
            Order::End => return false,
        }
        true
    }

    fn follow(&mut self) {
        match self.file.follow() {
            Ok(()) => self.is_astray = false,
            Err(error) if !self.is_astray => {
                self.is_astray = true;
                let (file, cause) = (self.file.path().display(), chain(&error));
                tracing::error!(%file, cause, "the audit log was renamed away, and goes on there");
            }
            Err(_) => {}
        }
    }

    fn tell_of_lost(&mut self) {
        let lost = self.progress.lost.load(Ordering::Relaxed);
        if lost > self.told && !self.is_failing {
            let gap = Event::Lost(Lost { lines: lost - self.told });
            self.pending.extend_from_slice(&line::of(self.clock.now(), &gap));
            self.told = lost;
            self.write();
        }
    }

    /// Writes what is pending, however long it takes, unless it is to end.
    fn write(&mut self) {
        while !self.pending.is_empty() {
            let before = lines(&self.pending);
            let outcome = self.file.write(&mut self.pending);
            let written = before - lines(&self.pending);
            self.progress.written.fetch_add(written, Ordering::Relaxed);
            let Err(error) = outcome else {
                self.recover();
                continue;
            };
            let pause = if error.kind() == ErrorKind::WouldBlock { BUSY } else { RETRY };
            if pause == RETRY && !self.is_failing {
                self.is_failing = true;
                let (file, cause) = (self.file.path().display(), chain(&error));
                tracing::error!(%file, cause, "the audit log cannot be written: lines wait, and are lost when too many do");
            }
            if self.progress.ending.load(Ordering::Relaxed) {
                self.is_failing = true;
                self.progress.lost.fetch_add(lines(&self.pending), Ordering::Relaxed);
                return self.pending.clear();
            }
            thread::park_timeout(pause);
            self.follow();
        }
    }

    fn recover(&mut self) {
        if self.is_failing {
            self.is_failing = false;
            let lost = self.progress.lost.load(Ordering::Relaxed);
            tracing::warn!(file = %self.file.path().display(), lost, "the audit log is written again");
        }
    }

    fn say_goodbye(&self) {
        let lost = self.progress.lost.load(Ordering::Relaxed);
        if lost > 0 {
            tracing::error!(file = %self.file.path().display(), lost, "the audit log is not complete");
        }
    }
}

/// How many lines end in it.
fn lines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}
