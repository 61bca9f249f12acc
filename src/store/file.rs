//! One file per identity in one directory, safe against crashes, torn writes and other users.
//!
//! A save writes a temporary file, syncs it, keeps the replaced file as `.previous`, renames, and
//! syncs the directory: whenever the power goes, one whole copy is there, and RingCentral answers
//! the refresh token of the older one with the newer set again. The lease is a lock on a file beside
//! it, free at once when its holder dies and after a while when it stands still; what such a holder
//! writes when it goes on is refused by generation, in one step with the comparison. It refuses to
//! follow links, to read what others could have written, and to write where others could.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;

use self::lock::{Lock, Locks, flock};
use super::pulse::{HEARTBEAT, LEASE};
use super::seal::Seal;
use super::{
    Change, Enrolment, Entry, Hold, Lease, Outline, StoreError, StoreFuture, Stored, Surveyed,
    TokenStore, document,
};
use crate::clock::{Clock, Timestamp};
use crate::secret::SecretKey;
use crate::telemetry::chain;
use crate::token::Generation;
use crate::token::ledger::Ledger;

mod lock;
mod plain;
mod watch;

use plain::{attempt, private, read, remove};

/// As much as a session may take, to see whether there is room for one.
const PROBE_BYTES: usize = 64 * 1024;

/// So many threads wait for the disk at once; a thousand identities would each take one.
const PARALLEL: usize = 4;

/// How many sessions are looked at in one piece.
const SURVEYED_AT_ONCE: usize = 64;

/// How often a lock is tried that another process has at the moment, and how long apart.
const LOCK_TRIES: u32 = 800;
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// Nobody needs a ledger or a key for so long.
const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Token sets in the files of one directory.
#[derive(Debug)]
pub struct FileStore {
    directory: Directory,
    disk: Arc<Semaphore>,
    locks: Arc<Locks>,
    clock: Clock,
}

impl FileStore {
    /// Creates the directory with mode 0700 if it is not there, and checks that nobody else may
    /// write to it. The ledgers go by `clock`.
    pub fn open(
        directory: impl Into<PathBuf>,
        seal: Seal,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let directory = Directory { path: directory.into(), seal, clock: clock.clone() };
        directory.prepare()?;
        let (disk, locks) = (Arc::new(Semaphore::new(PARALLEL)), Arc::default());
        Ok(Self { directory, disk, locks, clock })
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

    /// The lock at `path`, if nobody else has it, or shows no life with it for `patience`.
    async fn lock(&self, path: PathBuf, patience: Duration) -> Result<Option<Lock>, StoreError> {
        let locks = Arc::clone(&self.locks);
        self.on_disk(move |_| locks.take(&path, patience)).await
    }

    /// The lock of what is kept for a moment only, as soon as it is free; a process that was stopped
    /// with it in its hands must not stop the others for ever.
    async fn brief_lock(&self, path: PathBuf) -> Result<Lock, StoreError> {
        for _ in 0..LOCK_TRIES {
            if let Some(lock) = self.lock(path.clone(), LOCK_PATIENCE).await? {
                return Ok(lock);
            }
            Clock::system().sleep(LOCK_PAUSE).await;
        }
        attempt("lock", &path, Err(io::ErrorKind::TimedOut.into()))
    }
}

impl TokenStore for FileStore {
    fn load<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Entry> {
        let identity = identity.to_owned();
        self.on_disk(move |directory| directory.load(&identity))
    }

    fn lease<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Lease>> {
        Box::pin(async move {
            let held = self.lock(self.directory.path(identity, "lock"), LEASE).await?;
            Ok(held.map(|lock| Lease::new(identity, Leased::new(lock))))
        })
    }

    fn probe_writable<'a>(&'a self, lease: &'a Lease) -> StoreFuture<'a, ()> {
        let identity = lease.identity().to_owned();
        self.on_disk(move |directory| directory.probe(&identity))
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

    fn erase<'a>(&'a self, lease: &'a Lease, expected: Generation) -> StoreFuture<'a, ()> {
        let identity = lease.identity().to_owned();
        self.on_disk(move |directory| directory.erase(&identity, expected))
    }

    fn changes(&self) -> UnboundedReceiver<Change> {
        let (tell, changes) = unbounded_channel();
        match watch::watch(&self.directory.path, tell.clone()) {
            Ok(watcher) => drop(tokio::spawn(async move {
                tell.closed().await;
                drop(watcher);
            })),
            Err(error) => {
                let (directory, cause) = (self.directory.path.display(), chain(&error));
                tracing::warn!(
                    %directory, cause,
                    "the directory cannot be watched, so what other processes on this host renew is \
                     noticed late: raise fs.inotify.max_user_instances"
                );
            }
        }
        changes
    }

    fn enrol<'a>(
        &'a self,
        identity: &'a str,
        enrolment: Option<&'a Enrolment>,
    ) -> StoreFuture<'a, ()> {
        let content = enrolment.map(document::write_enrolment);
        let identity = identity.to_owned();
        self.on_disk(move |directory| {
            directory.enrol(&identity, content.as_ref().map(|it| it.as_slice()))
        })
    }

    fn enrolment<'a>(&'a self, identity: &'a str) -> StoreFuture<'a, Option<Enrolment>> {
        let identity = identity.to_owned();
        self.on_disk(move |directory| directory.enrolment(&identity))
    }

    /// In pieces: whoever needs the disk meanwhile does not wait for tens of thousands of files.
    fn survey(&self) -> StoreFuture<'_, Vec<Surveyed>> {
        Box::pin(async move {
            let mut names = self.on_disk(Directory::names).await?.into_iter().peekable();
            let mut lines = Vec::new();
            while names.peek().is_some() {
                let piece: Vec<String> = names.by_ref().take(SURVEYED_AT_ONCE).collect();
                lines.extend(self.on_disk(move |directory| Ok(directory.survey(piece))).await?);
            }
            Ok(lines)
        })
    }

    fn post<'a>(
        &'a self,
        application: &'a str,
        change: &'a mut (dyn FnMut(&mut Ledger, Timestamp) + Send),
    ) -> StoreFuture<'a, ()> {
        Box::pin(async move {
            let path = self.directory.ledger(application);
            let held = self.brief_lock(path.with_extension("ledger-lock")).await?;
            let there = path.clone();
            let mut ledger = self.on_disk(move |_| read_ledger(&there)).await?;
            change(&mut ledger, self.clock.now());
            // The lock goes with the work: a caller that is gone must not free it too early.
            self.on_disk(move |_| {
                let held = held;
                // Whoever stood still for so long would undo what others have posted meanwhile.
                let lost = io::ErrorKind::TimedOut;
                let ours = if held.is_ours() { Ok(()) } else { Err(lost.into()) };
                attempt("lock", &path, ours)?;
                write_ledger(&path, &ledger)
            })
            .await
        })
    }

    fn shared_key<'a>(&'a self, name: &'a str) -> StoreFuture<'a, SecretKey> {
        let name = name.to_owned();
        Box::pin(async move {
            let held = self.brief_lock(self.directory.path(&name, "key-lock")).await?;
            self.on_disk(move |directory| directory.shared_key(&name, &held)).await
        })
    }

    /// Without the lock: a ledger is replaced as a whole.
    fn ledger<'a>(&'a self, application: &'a str) -> StoreFuture<'a, (Ledger, Timestamp)> {
        let path = self.directory.ledger(application);
        Box::pin(async move {
            let ledger = self.on_disk(move |_| read_ledger(&path)).await?;
            Ok((ledger, self.clock.now()))
        })
    }

    fn check(&self) -> StoreFuture<'_, ()> {
        self.on_disk(|directory| {
            directory.prepare()?;
            directory.probe(CHECK)
        })
    }
}

/// A lease that a heartbeat keeps.
struct Leased {
    lock: Arc<Lock>,
    heartbeat: JoinHandle<()>,
}

impl Leased {
    fn new(lock: Lock) -> Self {
        let lock = Arc::new(lock);
        // Weak: the lock goes with the lease, not with the end of this task.
        let held = Arc::downgrade(&lock);
        let heartbeat = tokio::spawn(async move {
            loop {
                Clock::system().sleep(HEARTBEAT).await;
                let Some(lock) = held.upgrade() else { return };
                // On a thread that may wait for the disk.
                let beat = move || lock.show_life() && lock.is_ours();
                if !matches!(tokio::task::spawn_blocking(beat).await, Ok(true)) {
                    return;
                }
            }
        });
        Self { lock, heartbeat }
    }
}

impl Hold for Leased {
    /// In this order: once life was shown, whoever waits for the lock waits anew.
    fn is_live(&self) -> bool {
        self.lock.show_life() && self.lock.is_ours()
    }
}

impl Drop for Leased {
    fn drop(&mut self) {
        self.heartbeat.abort();
    }
}

/// A name that no identity has, because they begin with a letter or a digit.
const CHECK: &str = "-check";

/// The blocking half: plain files.
#[derive(Clone, Debug)]
struct Directory {
    path: PathBuf,
    seal: Seal,
    /// Which says when a mark has lapsed.
    clock: Clock,
}

impl Directory {
    fn prepare(&self) -> Result<(), StoreError> {
        let path = &self.path;
        self.create()?;
        let link = attempt("examine", path, fs::symlink_metadata(path))?;
        let metadata = attempt("examine", path, fs::metadata(path))?;
        let us = rustix::process::geteuid().as_raw();
        let nested = "name a directory inside it instead, and it is created with mode 0700";
        let (fault, cure) = match () {
            // Whoever owns a link leads us where they like. systemd's StateDirectory= is one of root's.
            () if link.is_symlink() && link.uid() != us && link.uid() != 0 => {
                ("is another user's symbolic link", "name the directory that it leads to")
            }
            () if !metadata.is_dir() => ("is not a directory", "remove it, or name another path"),
            () if metadata.uid() != us => ("belongs to another user", nested),
            () if metadata.mode() & 0o022 != 0 => ("may be written by others", nested),
            () => return Ok(()),
        };
        Err(StoreError::Unsafe { path: path.clone(), fault, cure })
    }

    /// The directory and those above it, as far as they are missing: for us alone, whatever the umask.
    fn create(&self) -> Result<(), StoreError> {
        let missing = |path: &&Path| !path.as_os_str().is_empty() && !path.exists();
        let mut missing: Vec<_> = self.path.ancestors().take_while(missing).collect();
        while let Some(path) = missing.pop() {
            match DirBuilder::new().mode(0o700).create(path) {
                // Another process was faster.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => {
                    let private = |()| fs::set_permissions(path, Permissions::from_mode(0o700));
                    attempt("create", path, result.and_then(private))?;
                }
            }
        }
        Ok(())
    }

    fn load(&self, identity: &str) -> Result<Entry, StoreError> {
        let mut torn = None;
        for suffix in ["json", "previous"] {
            let path = self.path(identity, suffix);
            let Some(content) = self.read(identity, &path)? else { continue };
            match document::parse_at(&content, self.clock.now()) {
                Ok(entry) => {
                    if let Some(torn) = torn {
                        tracing::warn!(identity, ?torn, "damaged; the copy before it is used");
                    }
                    return Ok(entry);
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
        Ok(Entry::Absent)
    }

    fn save(
        &self,
        identity: &str,
        stored: &Stored,
        expected: Generation,
    ) -> Result<(), StoreError> {
        self.expect(identity, expected)?;
        let content = self.seal.close(identity, &document::write(stored));
        self.put(identity, &content, expected, |path| {
            // Neither a damaged file nor the mark of an end may push the good copy out.
            let there = self.read(identity, path)?;
            let now = self.clock.now();
            if there.is_some_and(|it| matches!(document::parse_at(&it, now), Ok(Entry::Session(_))))
            {
                attempt("rename", path, fs::rename(path, self.path(identity, "previous")))?;
            }
            Ok(())
        })
    }

    fn erase(&self, identity: &str, expected: Generation) -> Result<(), StoreError> {
        let mark = document::write_mark(expected.next(), self.clock.now());
        // The older copy first: on its own it would be taken for the current one.
        self.put(identity, &mark, expected, |_| remove(&self.path(identity, "previous")))
    }

    /// Puts `content` into the place of what is of generation `expected`, once `make_room` is done.
    fn put(
        &self,
        identity: &str,
        content: &[u8],
        expected: Generation,
        make_room: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let (path, temporary) = (self.path(identity, "json"), self.temporary(identity, content)?);
        let put = self.alone(identity, expected).and_then(|alone| {
            make_room(&path)?;
            // Whoever holds the lease by now may have begun a file of their own.
            let ours = read(&temporary)?.is_some_and(|it| it == content);
            let overwrites = alone.is_some_and(|file| lock::is_in_place(&file, &path));
            if ours && install(&temporary, &path, overwrites)? {
                return Ok(());
            }
            Err(StoreError::Conflict { expected, found: self.load(identity)?.generation() })
        });
        if put.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        put?;
        self.sync()
    }

    /// Keeps every other writer out while what is there is replaced, if it is still of generation
    /// `expected`. The lock is on the very file that gives way: whoever waits for it finds another
    /// one in its place. Where there is none, [`install`] sees to it that one writer wins.
    fn alone(&self, identity: &str, expected: Generation) -> Result<Option<File>, StoreError> {
        let path = self.path(identity, "json");
        let file = match private().open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            result => Some(attempt("open", &path, result)?),
        };
        if let Some(file) = &file {
            let held = if flock(&path, file)? { Ok(()) } else { Err(Errno::WOULDBLOCK.into()) };
            attempt("lock", &path, held)?;
            if !lock::is_in_place(file, &path) {
                let found = self.load(identity)?.generation();
                return Err(StoreError::Conflict { expected, found });
            }
        }
        self.expect(identity, expected)?;
        Ok(file)
    }

    fn expect(&self, identity: &str, expected: Generation) -> Result<(), StoreError> {
        let found = self.load(identity)?.generation();
        if found == expected { Ok(()) } else { Err(StoreError::Conflict { expected, found }) }
    }

    fn enrol(&self, identity: &str, content: Option<&[u8]>) -> Result<(), StoreError> {
        let path = self.path(identity, ENROLMENT);
        match content {
            None => remove(&path)?,
            Some(content) => {
                let sealed = self.seal.close(&enrolment_record(identity), content);
                let temporary = self.temporary(&format!("{identity}.enrol"), &sealed)?;
                attempt("rename", &temporary, fs::rename(&temporary, &path))?;
            }
        }
        self.sync()
    }

    fn enrolment(&self, identity: &str) -> Result<Option<Enrolment>, StoreError> {
        let path = self.path(identity, ENROLMENT);
        let Some(content) = self.read(&enrolment_record(identity), &path)? else { return Ok(None) };
        let enrolment = document::parse_enrolment(&content);
        if enrolment.is_none() {
            tracing::error!(identity, ?path, "damaged: add this identity again");
        }
        Ok(enrolment)
    }

    /// Under the lock, so that nobody makes another one meanwhile.
    fn shared_key(&self, name: &str, held: &Lock) -> Result<SecretKey, StoreError> {
        let (path, record) = (self.path(name, "key"), super::key_record(name));
        if let Some(content) = self.read(&record, &path)? {
            if let Some(key) = super::key_in(&content) {
                return Ok(key);
            }
            tracing::error!(
                ?path,
                "damaged: a new key is made, and what the old one sealed is void"
            );
        }
        let new = SecretKey::generate();
        let sealed = self.seal.close(&record, new.expose().as_bytes());
        let temporary = self.temporary(&format!("{name}.key"), &sealed)?;
        // Whoever stood still for so long would replace a key that others seal with by now.
        let lost = io::ErrorKind::TimedOut;
        attempt("lock", &path, if held.is_ours() { Ok(()) } else { Err(lost.into()) })?;
        attempt("rename", &temporary, fs::rename(&temporary, &path))?;
        self.sync()?;
        Ok(SecretKey::parse(&new).expect("it is a key"))
    }

    /// Whose sessions and enrolments are here, in order.
    fn names(&self) -> Result<BTreeSet<String>, StoreError> {
        let mut names = BTreeSet::new();
        for entry in attempt("list", &self.path, fs::read_dir(&self.path))? {
            let entry = attempt("list", &self.path, entry)?;
            names.extend(identity_of(Path::new(&entry.file_name())));
        }
        Ok(names)
    }

    fn survey(&self, names: Vec<String>) -> Vec<Surveyed> {
        let line = |identity: String| {
            let found = self.load(&identity).map(Entry::session);
            let session = found.unwrap_or_else(|error| {
                tracing::warn!(identity, cause = chain(&error), "passed over");
                None
            });
            let enrolled = self.path(&identity, ENROLMENT).exists();
            let session = session.map(|stored| Outline::of(&stored.set));
            Surveyed { identity, session, enrolled }
        };
        let lines = names.into_iter().map(line);
        lines.filter(|line| line.enrolled || line.session.is_some()).collect()
    }

    fn probe(&self, identity: &str) -> Result<(), StoreError> {
        let probe = self.temporary(identity, &vec![b' '; PROBE_BYTES])?;
        attempt("remove", &probe, fs::remove_file(&probe))
    }

    /// What is in a file, opened if it was sealed. What cannot be opened by the key that sealed it
    /// is damaged, and reads as such.
    fn read(
        &self,
        record: &str,
        path: &Path,
    ) -> Result<Option<zeroize::Zeroizing<Vec<u8>>>, StoreError> {
        let Some(content) = read(path)? else { return Ok(None) };
        Ok(Some(self.seal.open(record, &content)?))
    }

    fn ledger(&self, application: &str) -> PathBuf {
        let digest = Sha256::digest(application);
        let mut name = String::with_capacity(32);
        for byte in digest.iter().take(12) {
            write!(name, "{byte:02x}").expect("writing to a String cannot fail");
        }
        self.path.join(name).with_extension("ledger")
    }

    /// A synced file with this content, that only this user may read. The lease's holder is alone
    /// here, so what is left of an earlier one may go.
    fn temporary(&self, identity: &str, content: &[u8]) -> Result<PathBuf, StoreError> {
        let path = self.path(identity, "tmp");
        let _ = fs::remove_file(&path);
        let written = private().write(true).create_new(true).open(&path).and_then(|mut file| {
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
        let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
        attempt("sync", &self.path, synced)
    }

    fn path(&self, identity: &str, suffix: &str) -> PathBuf {
        self.path.join(format!("{}.{suffix}", encoded(identity)))
    }
}

/// Moves a file into place. False if one has come there since we looked, unless it is ours to
/// overwrite.
fn install(temporary: &Path, path: &Path, overwrites: bool) -> Result<bool, StoreError> {
    if !overwrites {
        match fs::hard_link(temporary, path) {
            Ok(()) => return remove(temporary).map(|()| true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(false),
            // Some file systems have no links.
            Err(_) => {}
        }
    }
    attempt("rename", temporary, fs::rename(temporary, path)).map(|()| true)
}

/// A ledger that is not whole is taken as empty: it is about the last minute.
fn read_ledger(path: &Path) -> Result<Ledger, StoreError> {
    let Some(content) = read(path)? else { return Ok(Ledger::default()) };
    Ok(serde_json::from_slice(&content).unwrap_or_else(|_| {
        tracing::warn!(?path, "damaged: the token requests of the last minute are forgotten");
        Ledger::default()
    }))
}

/// Not synced: after a crash of the whole machine, a minute has passed anyway.
fn write_ledger(path: &Path, ledger: &Ledger) -> Result<(), StoreError> {
    let content = serde_json::to_vec(ledger).expect("strings and numbers are JSON");
    let temporary = path.with_extension("ledger-tmp");
    remove(&temporary)?;
    let written = private().write(true).create_new(true).open(&temporary).and_then(|mut file| {
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(&content)?;
        fs::rename(&temporary, path)
    });
    attempt("write", path, written)
}

/// The suffix of what is kept of an identity that was added.
const ENROLMENT: &str = "enrolment";

/// What an enrolment is sealed as.
fn enrolment_record(identity: &str) -> String {
    format!("{identity}/enrolment")
}

/// Whose session or enrolment a file is.
fn identity_of(file: &Path) -> Option<String> {
    let suffix = file.extension()?.to_str()?;
    let stem = file.file_stem()?.to_str()?;
    let kept = suffix == "json" || suffix == "previous" || suffix == ENROLMENT;
    kept.then(|| percent_decoded(stem)).flatten()
}

/// The name that [`encoded`] made into `text`.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
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
