//! Locks on files: free at once when their holder dies, free after a while when it stands still.
//!
//! `flock` gives the first: the kernel lets go for the dead. A process that was stopped keeps it
//! for ever, though. So a holder shows life by touching its file, and whoever has seen no sign of
//! life for long enough puts a new file into the place of the held one. The former holder finds out
//! when it goes on: its file is not the one in place any more. That look and the deed after it are
//! two steps, which is why what a lock guards is compared by generation as well.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT};

use super::StoreError;
use super::plain::{attempt, lock_file, private, remove};
use crate::clock::Stopwatch;

/// Who looks more rarely than this cannot tell whether it was the holder that stood still, or itself.
const ATTENTIVE: Duration = Duration::from_secs(5);

/// After so many looks, that is: a machine so busy that time passes between two has not given the
/// holder any either.
const LOOKS: u32 = 8;

/// A lock that is ours.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
    path: PathBuf,
}

/// The locks of others that were wanted, and since when they have shown no life.
#[derive(Debug, Default)]
pub(super) struct Locks(Mutex<HashMap<PathBuf, Watched>>);

#[derive(Debug)]
struct Watched {
    sign: Sign,
    since: Stopwatch,
    looked: Stopwatch,
    looks: u32,
}

/// Changes when the file is touched or replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sign {
    inode: u64,
    modified: (i64, i64),
}

impl Locks {
    /// The lock, if nobody has it, or if its holder has shown no life for `patience`. Never waits.
    pub(super) fn take(&self, path: &Path, patience: Duration) -> Result<Option<Lock>, StoreError> {
        let file = lock_file(path)?;
        if flock(path, &file)? {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
            let lock = Lock { file, path: path.to_owned() };
            // The file may have been replaced between opening and locking.
            return Ok((lock.show_life() && lock.is_ours()).then_some(lock));
        }
        let sign = Sign::of(&attempt("examine", path, file.metadata())?);
        if self.stands_still(path, sign, patience) { replace(path) } else { Ok(None) }
    }

    fn stands_still(&self, path: &Path, sign: Sign, patience: Duration) -> bool {
        let mut watched = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Stopwatch::start();
        let fresh = || Watched { sign, since: now, looked: now, looks: 0 };
        let Some(seen) = watched.get_mut(path) else {
            watched.insert(path.to_owned(), fresh());
            return false;
        };
        if seen.sign != sign || seen.looked.elapsed() > ATTENTIVE {
            *seen = fresh();
            return false;
        }
        (seen.looked, seen.looks) = (now, seen.looks + 1);
        seen.looks >= LOOKS && seen.since.elapsed() >= patience
    }
}

impl Lock {
    /// Whether it is still the one that counts.
    pub(super) fn is_ours(&self) -> bool {
        is_in_place(&self.file, &self.path)
    }

    /// Touches the file, so that nobody takes the lock over. False if that was not possible.
    pub(super) fn show_life(&self) -> bool {
        let time = |nanos| Timespec { tv_sec: 0, tv_nsec: nanos };
        let now = Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) };
        rustix::fs::futimens(&self.file, &now).is_ok()
    }
}

impl Sign {
    fn of(metadata: &fs::Metadata) -> Self {
        let modified = (metadata.mtime(), metadata.mtime_nsec());
        Self { inode: metadata.ino(), modified }
    }
}

/// Puts a locked file into the place of the one that its holder does not give back. Of several who
/// do so at once, at most the last one has it; the others find theirs replaced before they use it.
fn replace(path: &Path) -> Result<Option<Lock>, StoreError> {
    let next = beside(path);
    remove(&next)?;
    let lock = match private().write(true).create_new(true).open(&next) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
        opened => Lock { file: attempt("open", &next, opened)?, path: path.to_owned() },
    };
    if !flock(&next, &lock.file)? {
        return Ok(None);
    }
    match fs::rename(&next, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        renamed => attempt("rename", &next, renamed)?,
    }
    tracing::warn!(?path, "its holder stands still: the lock is taken over");
    Ok(lock.is_ours().then_some(lock))
}

/// Whether this open file is the one that is found at `path`.
pub(super) fn is_in_place(file: &File, path: &Path) -> bool {
    match (fs::metadata(path), file.metadata()) {
        (Ok(there), Ok(ours)) => there.ino() == ours.ino() && there.dev() == ours.dev(),
        _ => false,
    }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push("-next");
    name.into()
}

/// Locks an open file for this process; false if another has it.
pub(super) fn flock(path: &Path, file: &File) -> Result<bool, StoreError> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
        Err(error) => attempt("lock", path, Err(error.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    /// A directory, and two processes that want the same lock.
    struct Bench {
        root: tempfile::TempDir,
        one: Locks,
        other: Locks,
    }

    impl Bench {
        fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            Self { root, one: Locks::default(), other: Locks::default() }
        }

        fn path(&self) -> PathBuf {
            self.root.path().join("sales.lock")
        }
    }

    #[test]
    fn a_lock_is_had_once_and_again_after_its_holder_is_gone() {
        let bench = Bench::new();
        let lock = bench.one.take(&bench.path(), LONG).unwrap().expect("free");
        for _ in 0..3 {
            assert!(bench.other.take(&bench.path(), LONG).unwrap().is_none(), "held");
        }
        drop(lock);
        assert!(bench.other.take(&bench.path(), LONG).unwrap().is_some(), "given back");
    }

    #[test]
    fn a_holder_that_shows_no_life_loses_its_lock_and_can_tell() {
        let bench = Bench::new();
        let lock = bench.one.take(&bench.path(), LONG).unwrap().expect("free");
        for look in 0..LOOKS {
            let early = bench.other.take(&bench.path(), Duration::ZERO).unwrap();
            assert!(early.is_none(), "look {look}");
        }
        assert!(lock.is_ours());
        let theirs = bench.other.take(&bench.path(), Duration::ZERO).unwrap().expect("taken over");
        assert!(theirs.is_ours());
        assert!(!lock.is_ours());
        drop(lock);
        assert!(bench.one.take(&bench.path(), LONG).unwrap().is_none(), "theirs all the same");
        assert!(!beside(&bench.path()).exists());
    }

    #[test]
    fn a_holder_that_shows_life_keeps_its_lock() {
        let bench = Bench::new();
        let lock = bench.one.take(&bench.path(), LONG).unwrap().expect("free");
        for _ in 0..2 * LOOKS {
            assert!(bench.other.take(&bench.path(), Duration::ZERO).unwrap().is_none());
            let before = Sign::of(&lock.file.metadata().unwrap());
            // The file system's clock has a coarse tick.
            while Sign::of(&lock.file.metadata().unwrap()) == before {
                assert!(lock.show_life());
            }
        }
        assert!(lock.is_ours());
    }
}
