//! The audit log: who did what as whom, and what was decided; a JSON object a line, in a file that
//! only grows.
//!
//! No request waits for it. A line goes into a queue that has an end, and a thread of its own writes.
//! While the disk fails, lines wait there; those beyond its end are lost, are counted, and leave a line
//! behind that says how many, so that a gap shows in the file itself. To refuse requests instead
//! would let a full disk end the service, and whoever can fill a disk could then do so.
//!
//! It holds names, paths and codes: no query, no field, no content.

mod file;
mod line;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

pub use line::{
    Decision, Event, Kind, Lost, Operation, Printed, Reconfiguration, Request, Session,
    SessionChange,
};

use crate::clock::Clock;
use crate::settings::AuditSettings;
use file::Appended;
use writer::{Order, Writer};

/// Lines that wait for the disk; each is at most 3 KiB long.
const QUEUE: usize = 8192;

/// Where what was done is noted; nowhere if there is no `[audit]`. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct AuditLog(Option<Arc<Shared>>);

/// Why there is no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file.
    #[error("audit.file {path:?} cannot be opened for appending")]
    Open {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("the thread that writes the audit log cannot be started")]
    Thread(#[source] io::Error),
}

/// What became of lines since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Written to the file.
    pub written: u64,
    /// Neither written nor waiting.
    pub lost: u64,
}

#[derive(Debug)]
struct Shared {
    orders: SyncSender<Order>,
    progress: Arc<Progress>,
    clock: Clock,
    path: PathBuf,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer and those who write to it tell each other.
#[derive(Debug, Default)]
struct Progress {
    written: AtomicU64,
    lost: AtomicU64,
    /// From now on nothing is tried a second time.
    ending: AtomicBool,
}

impl AuditLog {
    /// Nothing is noted.
    pub const fn off() -> Self {
        Self(None)
    }

    /// Opens the file, created with mode 0600 if it is not there, and starts the thread that writes.
    pub fn open(settings: Option<&AuditSettings>, clock: &Clock) -> Result<Self, AuditError> {
        settings.map_or(Ok(Self::off()), |settings| Self::to(settings.file.clone(), QUEUE, clock))
    }

    fn to(path: PathBuf, queue: usize, clock: &Clock) -> Result<Self, AuditError> {
        let file = match Appended::open(path.clone()) {
            Ok(file) => file,
            Err(source) => return Err(AuditError::Open { path, source }),
        };
        let (orders, taken) = sync_channel(queue);
        let progress = Arc::new(Progress::default());
        let writer = Writer::new(taken, file, Arc::clone(&progress), clock.clone());
        let thread = thread::Builder::new().name("audit".to_owned()).spawn(|| writer.run());
        let thread = Mutex::new(Some(thread.map_err(AuditError::Thread)?));
        let clock = clock.clone();
        Ok(Self(Some(Arc::new(Shared { orders, progress, clock, path, thread }))))
    }

    /// Whether it is what `settings` ask for.
    pub fn is_at(&self, settings: Option<&AuditSettings>) -> bool {
        self.0.as_ref().map(|shared| &shared.path) == settings.map(|settings| &settings.file)
    }

    /// Whether anything is noted.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Notes what has happened just now.
    pub fn note(&self, event: &Event<'_>) {
        let Some(shared) = &self.0 else { return };
        let line = line::of(shared.clock.now(), event);
        if shared.orders.try_send(Order::Line(line)).is_err() {
            shared.progress.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Goes on in a new file if the old one has been renamed away. The next line would do so too.
    pub fn reopen(&self) {
        if let Some(shared) = &self.0 {
            // Where the queue is full the next line that is written does it.
            let _ = shared.orders.try_send(Order::Follow);
        }
    }

    /// What became of lines; `None` if nothing is noted.
    pub fn counts(&self) -> Option<Counts> {
        let progress = &self.0.as_ref()?.progress;
        let figure = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        Some(Counts { written: figure(&progress.written), lost: figure(&progress.lost) })
    }

    /// Writes what waits, and ends; what is noted from now on is lost. It blocks for as long as the disk
    /// takes, but tries nothing twice.
    ///
    /// # Panics
    /// If the thread that writes did.
    pub fn close(&self) {
        let Some(shared) = &self.0 else { return };
        let thread = shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        shared.progress.ending.store(true, Ordering::Relaxed);
        thread.thread().unpark();
        // An error says that it has ended already.
        let _ = shared.orders.send(Order::End);
        thread.join().expect("the thread that writes the audit log does not panic");
    }
}

impl Drop for Shared {
    /// Whoever forgets to close it still has everything written that can be, only later.
    fn drop(&mut self) {
        self.progress.ending.store(true, Ordering::Relaxed);
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread {
            thread.thread().unpark();
        }
    }
}

#[cfg(test)]
mod tests;
