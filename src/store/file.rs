//! One file per identity in one directory, safe against crashes, torn writes and other users.
//!
//! A save writes a temporary file, syncs it, keeps the replaced file as `.previous`, renames, and
//! syncs the directory: whenever the power goes, one whole copy is there, and RingCentral answers
//! the refresh token of the older one with the newer set again. The lease is `flock` on a file
//! beside it, which the kernel gives back when its holder dies. It refuses to follow links, to read
//! what others could have written, and to write where others could.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags};
use tokio::sync::Semaphore;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::{
    Change, Enrolment, Entry, Hold, Lease, StoreError, StoreFuture, Stored, Surveyed, TokenStore,
    document,
};
use crate::clock::Timestamp;
use crate::token::Generation;
use crate::token::ledger::Ledger;

/// No session comes near this.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// As much as a session may take, to see whether there is room for one.
const PROBE_BYTES: usize = 64 * 1024;

/// So many threads wait for the disk at once; a thousand identities would each take one.
const PARALLEL: usize = 4;

/// Token sets in the files of one directory.
#[derive(Debug)]
pub struct FileStore {
    directory: Directory,
    disk: Arc<Semaphore>,
}

impl FileStore {
    /// Creates the directory with mode 0700 if it is not there, and checks that nobody else may
    /// write to it.
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let directory = Directory(directory.into());
        directory.prepare()?;
        Ok(Self { directory, disk: Arc::new(Semaphore::new(PARALLEL)) })
    }

    /// Does `work` on a thread that may wait for the disk.
    fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Directory) -> Result<T, StoreError> + Send + 'static,
    ) -> StoreFuture<'_, T> {
        let (directory, disk) = (self.directory.clone(), Arc::clone(&self.disk));
        Box::pin(async move {
            let _permit = disk.acquire().await.map_err(|_| StoreError::Stopped)?;
            let work = tokio::task::spawn_blocking(move || work(&directory));
            work.await.map_err(|_| StoreError::Stopped)?
        })
    }
}

impl TokenStore for FileStore {
    fn load<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Entry> {
        let identity = identity.to_owned();
        self.on_disk(move |directory| {
            Ok(directory.load(&identity)?.map_or(Entry::Absent, Entry::Session))
        })
    }

    fn lease<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Lease>> {
        let identity = identity.to_owned();
        self.on_disk(move |directory| {
            Ok(directory.lock(&identity)?.map(|file| Lease::new(identity, file)))
        })
    }

    fn probe_writable<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, ()> {
        let identity = lease.identity().to_owned();
        self.on_disk(move |directory| {
            let probe = directory.temporary(&identity, &vec![b' '; PROBE_BYTES])?;
            attempt("remove", &probe, fs::remove_file(&probe))
        })
    }

    fn save<'a>(
        &'a self,
        lease: &'a Lease,
        stored: &'a Stored,
        expected: Generation,
    ) -> StoreFuture<'a, ()> {
        let (identity, stored) = (lease.identity().to_owned(), stored.clone());
        self.on_disk(move |directory| directory.save(&identity, &stored, expected))
    }

    fn erase<'a>(&'a self, lease: &'a Lease, _expected: Generation) -> StoreFuture<'a, ()> {
        let identity = lease.identity().to_owned();
        self.on_disk(move |directory| directory.erase(&identity))
    }

    fn changes(&self) -> UnboundedReceiver<Change> {
        unbounded_channel().1
    }

    fn enrol<'a>(
        &'a self,
        _identity: &'a str,
        _enrolment: Option<&'a Enrolment>,
    ) -> StoreFuture<'a, ()> {
        Box::pin(async { Err(StoreError::Stopped) })
    }

    fn enrolment<'a>(&'a self, _identity: &'a str) -> StoreFuture<'a, Option<Enrolment>> {
        Box::pin(async { Ok(None) })
    }

    fn survey(&self) -> StoreFuture<'_, Vec<Surveyed>> {
        Box::pin(async { Ok(Vec::new()) })
    }

    fn post<'a>(
        &'a self,
        _application: &'a str,
        _change: &'a mut (dyn FnMut(&mut Ledger, Timestamp) + Send),
    ) -> StoreFuture<'a, ()> {
        Box::pin(async { Err(StoreError::Stopped) })
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        Box::pin(async { Ok(()) })
    }
}

impl Hold for File {}

/// The blocking half: plain files.
#[derive(Clone, Debug)]
struct Directory(PathBuf);

impl Directory {
    fn prepare(&self) -> Result<(), StoreError> {
        let path = &self.0;
        if !path.exists() {
            let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
            attempt("create", path, made)?;
        }
        let metadata = attempt("examine", path, fs::metadata(path))?;
        let nested = "name a directory inside it instead, and it is created with mode 0700";
        let (fault, cure) = match () {
            () if !metadata.is_dir() => ("is not a directory", "remove it, or name another path"),
            () if metadata.uid() != rustix::process::geteuid().as_raw() => {
                ("belongs to another user", nested)
            }
            () if metadata.mode() & 0o022 != 0 => ("may be written by others", nested),
            () => return Ok(()),
        };
        Err(StoreError::Unsafe { path: path.clone(), fault, cure })
    }

    fn load(&self, identity: &str) -> Result<Option<Stored>, StoreError> {
        let mut torn = None;
        for suffix in ["json", "previous"] {
            let path = self.path(identity, suffix);
            let Some(content) = read(&path)? else { continue };
            match document::parse(&content) {
                Ok(stored) => {
                    if let Some(torn) = torn {
                        tracing::warn!(identity, ?torn, "damaged; the copy before it is used");
                    }
                    return Ok(Some(stored));
                }
                Err(document::Fault::Version(version)) => {
                    return Err(StoreError::Version { path, version });
                }
                Err(document::Fault::Damaged) => torn = Some(path),
            }
        }
        if let Some(torn) = torn {
            tracing::error!(identity, ?torn, "damaged beyond recovery; a new session is needed");
        }
        Ok(None)
    }

    fn save(
        &self,
        identity: &str,
        stored: &Stored,
        expected: Generation,
    ) -> Result<(), StoreError> {
        let found = self.load(identity)?.map_or(Generation::NONE, |there| there.set.generation);
        if found != expected {
            return Err(StoreError::Conflict { expected, found });
        }
        let temporary = self.temporary(identity, &document::write(stored))?;
        let (path, previous) = (self.path(identity, "json"), self.path(identity, "previous"));
        // A damaged file must not push the good copy out.
        if read(&path)?.is_some_and(|content| document::parse(&content).is_ok()) {
            attempt("rename", &path, fs::rename(&path, &previous))?;
        }
        attempt("rename", &temporary, fs::rename(&temporary, &path))?;
        self.sync()
    }

    fn erase(&self, identity: &str) -> Result<(), StoreError> {
        // The older copy first: on its own it would be taken for the current one.
        for suffix in ["previous", "json", "tmp"] {
            let path = self.path(identity, suffix);
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => attempt("remove", &path, result)?,
            }
        }
        self.sync()
    }

    /// The lock, if nobody else has it. The file stays: removing it would let two hold "it".
    fn lock(&self, identity: &str) -> Result<Option<File>, StoreError> {
        let path = self.path(identity, "lock");
        let file = attempt("open", &path, private().create(true).open(&path))?;
        check(&path, &file)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => attempt("lock", &path, Err(error.into())),
        }
    }

    /// A synced file with this content, that only this user may read. The lease's holder is alone
    /// here, so what is left of an earlier one may go.
    fn temporary(&self, identity: &str, content: &[u8]) -> Result<PathBuf, StoreError> {
        let path = self.path(identity, "tmp");
        let _ = fs::remove_file(&path);
        let written = private().create_new(true).open(&path).and_then(|mut file| {
            // The umask can only have taken rights away, the owner's included.
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(content)?;
            file.sync_all()
        });
        if written.is_err() {
            let _ = fs::remove_file(&path);
        }
        attempt("write", &path, written)?;
        Ok(path)
    }

    fn sync(&self) -> Result<(), StoreError> {
        attempt("sync", &self.0, File::open(&self.0).and_then(|directory| directory.sync_all()))
    }

    fn path(&self, identity: &str, suffix: &str) -> PathBuf {
        self.0.join(format!("{}.{suffix}", encoded(identity)))
    }
}

/// Opens without following a link, for this user only.
fn private() -> OpenOptions {
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).expect("flags are small");
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(0o600).custom_flags(no_follow);
    options
}

fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match private().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            let (fault, cure) = ("is a symbolic link", "remove it");
            return Err(StoreError::Unsafe { path: path.to_owned(), fault, cure });
        }
        result => attempt("open", path, result)?,
    };
    check(path, &file)?;
    let mut content = Vec::new();
    attempt("read", path, file.take(MAX_FILE_BYTES).read_to_end(&mut content))?;
    Ok(Some(content))
}

/// A file that others could read has leaked; one that they could write, they may have written.
fn check(path: &Path, file: &File) -> Result<(), StoreError> {
    let metadata = attempt("examine", path, file.metadata())?;
    let (fault, cure) = match () {
        () if !metadata.is_file() => ("is not a regular file", "remove it"),
        () if metadata.uid() != rustix::process::geteuid().as_raw() => {
            ("belongs to another user", "give it to the user that runs this program")
        }
        () if metadata.mode() & 0o077 != 0 => {
            ("may be read or written by others", "set its mode to 0600")
        }
        () => return Ok(()),
    };
    Err(StoreError::Unsafe { path: path.to_owned(), fault, cure })
}

fn attempt<T>(action: &'static str, path: &Path, result: io::Result<T>) -> Result<T, StoreError> {
    result.map_err(|source| StoreError::Io { action, path: path.to_owned(), source })
}

/// A name as a file name: everything but lower-case letters, digits, `-` and `_` is
/// percent-encoded. Capitals are, too, because some file systems do not tell them apart.
fn encoded(name: &str) -> String {
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => encoded.push(char::from(byte)),
            _ => write!(encoded, "%{byte:02x}").expect("writing to a String cannot fail"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests;
