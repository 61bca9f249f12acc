//! Unix sockets as files: bound, replaced after a crash, removed at the end.
//!
//! A process that is killed leaves its socket's file behind, and nobody can bind there again before it
//! is gone. Whether somebody listens is told by connecting; who finds nobody removes the file and
//! binds, while the lock of the directory keeps the next one out, who could otherwise remove what has
//! just been bound. Nobody can connect before the socket has its mode, because only then it listens.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::settings::SocketSettings;

/// Connections that the kernel may hold while a worker is busy.
const BACKLOG: i32 = 4096;

/// How often the directory's lock is tried, and how long is waited in between.
const TRIES: usize = 100;
const PAUSE: Duration = Duration::from_millis(5);

/// Why a socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody listens there.
    #[error(
        "unix:{} is in use: end the process that listens there, or choose another path", .0.display()
    )]
    InUse(PathBuf),
    /// Something else has the name.
    #[error("{} is there and is no socket: remove it, or choose another path", .0.display())]
    Occupied(PathBuf),
    /// The process may not give it away.
    #[error("unix:{} cannot be given to group {group} (proxy.socket_group)", path.display())]
    Group {
        /// The socket.
        path: PathBuf,
        /// The group.
        group: u32,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Anything else.
    #[error("cannot listen on unix:{}", path.display())]
    Bind {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The file of a socket that is listened on. It is removed when this is dropped, unless somebody else
/// has put another in its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// Listens at a path. The listener does not block.
    pub(crate) fn bind(settings: &SocketSettings) -> Result<(UnixListener, Self), SocketError> {
        let path = &settings.path;
        let failed = |source| SocketError::Bind { path: path.clone(), source };
        let _turn = lock(path).map_err(failed)?;
        make_room(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        socket.bind(&SockAddr::unix(path).map_err(failed)?).map_err(failed)?;
        let (device, inode) = identity(path).map_err(failed)?;
        let file = Self { path: path.clone(), device, inode };
        make_accessible(settings)?;
        socket.listen(BACKLOG).map_err(failed)?;
        Ok((socket.into(), file))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _turn = lock(&self.path);
        if identity(&self.path).is_ok_and(|now| now == (self.device, self.inode))
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the socket's file is left behind");
        }
    }
}

/// A socket that is listened on by one proxy and, after a reload, by its successor.
#[derive(Clone, Debug)]
pub(crate) struct SharedSocket(Arc<(UnixListener, SocketFile)>);

impl SharedSocket {
    /// Listens at a path, or takes the socket over that one of `others` has there.
    pub(crate) fn bind(settings: &SocketSettings, others: &[Self]) -> Result<Self, SocketError> {
        match others.iter().find(|other| other.path() == settings.path) {
            Some(other) => {
                make_accessible(settings)?;
                Ok(other.clone())
            }
            None => Ok(Self(Arc::new(SocketFile::bind(settings)?))),
        }
    }

    /// It once more, to accept from.
    pub(crate) fn listener(&self) -> Result<UnixListener, SocketError> {
        let failed = |source| SocketError::Bind { path: self.path().to_owned(), source };
        self.0.0.try_clone().map_err(failed)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        self.0.1.path()
    }
}

/// Gives a socket its group and its mode.
fn make_accessible(settings: &SocketSettings) -> Result<(), SocketError> {
    let path = &settings.path;
    if let Some(group) = settings.group {
        chown(path, None, Some(group)).map_err(|source| SocketError::Group {
            path: path.clone(),
            group,
            source,
        })?;
    }
    let failed = |source| SocketError::Bind { path: path.clone(), source };
    fs::set_permissions(path, Permissions::from_mode(settings.mode)).map_err(failed)
}

/// The right to change what stands at a path. A proxy keeps it for a moment only; but whoever may read
/// the directory could keep it for ever, so it is not waited for without a bound.
fn lock(path: &Path) -> io::Result<File> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = File::open(directory.unwrap_or(Path::new(".")))?;
    for _ in 0..TRIES {
        match flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => std::thread::park_timeout(PAUSE),
            locked => return locked.map(|()| directory).map_err(Into::into),
        }
    }
    Err(io::Error::other("somebody keeps its directory locked"))
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let found = fs::symlink_metadata(path)?;
    Ok((found.dev(), found.ino()))
}

/// Removes the file that a dead process has left.
fn make_room(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Bind { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(found) if !found.file_type().is_socket() => Err(SocketError::Occupied(path.to_owned())),
        Ok(_) if is_live(path).map_err(failed)? => Err(SocketError::InUse(path.to_owned())),
        Ok(_) => fs::remove_file(path).map_err(failed),
    }
}

/// Whether somebody listens there. A full backlog is somebody's, and so is a socket of another kind.
fn is_live(path: &Path) -> io::Result<bool> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&SockAddr::unix(path)?) {
        Ok(()) => Ok(true),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::CONNREFUSED) => Ok(false),
            Some(Errno::AGAIN | Errno::INPROGRESS | Errno::PROTOTYPE) => Ok(true),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use tempfile::TempDir;

    use super::*;

    fn settings(files: &TempDir, mode: u32) -> SocketSettings {
        let path = files.path().join("a.sock");
        SocketSettings { path, mode, group: None, identity: None }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn a_socket_has_its_mode_whatever_the_umask_and_goes_when_it_is_dropped() {
        let files = TempDir::new().unwrap();
        for wanted in [0o660, 0o600, 0o777] {
            let (listener, file) = SocketFile::bind(&settings(&files, wanted)).unwrap();
            assert_eq!(mode(file.path()), wanted);
            UnixStream::connect(file.path()).unwrap();
            listener.accept().unwrap();
            drop(file);
            assert_eq!(fs::read_dir(files.path()).unwrap().count(), 0, "nothing is left");
        }
    }

    #[test]
    fn what_a_dead_process_has_left_is_replaced() {
        let files = TempDir::new().unwrap();
        let settings = settings(&files, 0o660);
        drop(UnixListener::bind(&settings.path).unwrap());
        assert!(settings.path.exists(), "a listener leaves its file");
        let (_listener, file) = SocketFile::bind(&settings).unwrap();
        UnixStream::connect(file.path()).unwrap();
    }

    #[test]
    fn what_somebody_listens_on_is_left_to_them() {
        let files = TempDir::new().unwrap();
        let settings = settings(&files, 0o660);
        let (listener, file) = SocketFile::bind(&settings).unwrap();
        let path = settings.path.display();
        let in_use = format!(
            "unix:{path} is in use: end the process that listens there, or choose another path"
        );
        assert_eq!(SocketFile::bind(&settings).unwrap_err().to_string(), in_use);
        UnixStream::connect(file.path()).unwrap();
        // One that had been asked whether it lives, and one that wanted something.
        let accepted = std::iter::from_fn(|| listener.accept().ok()).count();
        assert_eq!(accepted, 2);
    }

    #[test]
    fn a_successor_has_the_very_same_socket() {
        let files = TempDir::new().unwrap();
        let first = SharedSocket::bind(&settings(&files, 0o660), &[]).unwrap();
        let _waiting = UnixStream::connect(first.path()).unwrap();
        let second =
            SharedSocket::bind(&settings(&files, 0o600), std::slice::from_ref(&first)).unwrap();
        drop(first);
        assert_eq!(mode(second.path()), 0o600);
        second.listener().unwrap().accept().unwrap();
        drop(second);
        assert_eq!(fs::read_dir(files.path()).unwrap().count(), 0);
    }

    #[test]
    fn another_kind_of_file_is_never_removed() {
        let files = TempDir::new().unwrap();
        let settings = settings(&files, 0o660);
        let path = settings.path.display();
        let target = files.path().join("target.sock");
        let _target = UnixListener::bind(&target).unwrap();
        let occupied =
            format!("{path} is there and is no socket: remove it, or choose another path");
        fs::write(&settings.path, "precious").unwrap();
        assert_eq!(SocketFile::bind(&settings).unwrap_err().to_string(), occupied);
        assert_eq!(fs::read(&settings.path).unwrap(), b"precious");
        fs::remove_file(&settings.path).unwrap();
        std::os::unix::fs::symlink(&target, &settings.path).unwrap();
        assert_eq!(SocketFile::bind(&settings).unwrap_err().to_string(), occupied);
        fs::remove_file(&settings.path).unwrap();
        let _datagrams = UnixDatagram::bind(&settings.path).unwrap();
        let error = SocketFile::bind(&settings).unwrap_err();
        assert!(matches!(error, SocketError::InUse(_)), "{error}");
    }

    #[test]
    fn a_successors_file_is_left_alone() {
        let files = TempDir::new().unwrap();
        let settings = settings(&files, 0o660);
        let (_listener, file) = SocketFile::bind(&settings).unwrap();
        fs::remove_file(&settings.path).unwrap();
        let _other = UnixListener::bind(&settings.path).unwrap();
        drop(file);
        UnixStream::connect(&settings.path).unwrap();
    }

    #[test]
    fn a_directory_that_somebody_keeps_locked_is_told_and_not_waited_for() {
        let files = TempDir::new().unwrap();
        let settings = settings(&files, 0o660);
        let kept = lock(&settings.path).unwrap();
        let error = crate::telemetry::chain(&SocketFile::bind(&settings).unwrap_err());
        let path = settings.path.display();
        assert_eq!(
            error,
            format!("cannot listen on unix:{path}: somebody keeps its directory locked")
        );
        drop(kept);
        SocketFile::bind(&settings).unwrap();
    }

    #[test]
    fn a_directory_that_is_not_there_is_told() {
        let files = TempDir::new().unwrap();
        let path = files.path().join("absent/a.sock");
        let settings = SocketSettings { path, ..settings(&files, 0o660) };
        let error = crate::telemetry::chain(&SocketFile::bind(&settings).unwrap_err());
        let path = settings.path.display();
        assert_eq!(error, format!("cannot listen on unix:{path}: no such file or directory"));
    }
}
