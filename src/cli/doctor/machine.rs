//! What this machine says: limits, files, the disk, ports. Thin: what it means is judged elsewhere.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Resource, geteuid, getrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::telemetry::chain;

/// Who runs here, and with how much.
#[derive(Clone, Copy, Debug)]
pub(super) struct Process {
    pub(super) user: u32,
    /// Descriptors that it may have, and that it may raise this to; `None` for any number.
    pub(super) descriptors: Option<u64>,
    pub(super) most_descriptors: Option<u64>,
}

/// A file that is meant to hold a secret.
#[derive(Clone, Debug)]
pub(super) struct SecretFile {
    pub(super) mode: u32,
    pub(super) owner: u32,
    /// A pipe or `/dev/stdin` is nobody's to read twice.
    pub(super) is_file: bool,
    pub(super) readable: Result<(), String>,
}

/// The directory that sessions are kept in.
#[derive(Clone, Debug)]
pub(super) enum Directory {
    /// It is made at the first start, in this directory, if that can be written.
    Missing {
        parent: PathBuf,
        writable: Result<(), String>,
    },
    There(DirectoryThere),
    Unknown(String),
}

#[derive(Clone, Debug)]
pub(super) struct DirectoryThere {
    pub(super) is_directory: bool,
    pub(super) mode: u32,
    pub(super) owner: u32,
    pub(super) writable: Result<(), String>,
    pub(super) free_bytes: u64,
    pub(super) free_files: u64,
    /// `f_type` of statfs(2).
    pub(super) filesystem: u64,
}

/// What has become of an attempt to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Free,
    Taken { by_ringbearer: bool },
    Forbidden,
    Unusable(String),
}

pub(super) fn process() -> Process {
    let limit = getrlimit(Resource::Nofile);
    Process {
        user: geteuid().as_raw(),
        descriptors: limit.current,
        most_descriptors: limit.maximum,
    }
}

pub(super) fn secret_file(path: &Path) -> Result<SecretFile, String> {
    let metadata = fs::metadata(path).map_err(|error| chain(&error))?;
    let readable = if metadata.is_file() {
        File::open(path).map(drop).map_err(|error| chain(&error))
    } else {
        Ok(())
    };
    let (mode, owner) = (metadata.mode() & 0o7777, metadata.uid());
    Ok(SecretFile { mode, owner, is_file: metadata.is_file(), readable })
}

/// Leaves nothing behind: what is written there to see whether it can be is gone again.
pub(super) fn directory(path: &Path) -> Directory {
    match fs::metadata(path) {
        Ok(metadata) => there(path, &metadata),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let parent = path.ancestors().skip(1).find(|it| it.exists());
            let parent = parent.unwrap_or(Path::new(".")).to_owned();
            let writable = writable(&parent);
            Directory::Missing { parent, writable }
        }
        Err(error) => Directory::Unknown(chain(&error)),
    }
}

fn there(path: &Path, metadata: &fs::Metadata) -> Directory {
    let disk = match rustix::fs::statvfs(path) {
        Ok(disk) => disk,
        Err(error) => return Directory::Unknown(chain(&io::Error::from(error))),
    };
    let kind = rustix::fs::statfs(path).map(|it| it.f_type);
    Directory::There(DirectoryThere {
        is_directory: metadata.is_dir(),
        mode: metadata.mode() & 0o7777,
        owner: metadata.uid(),
        writable: if metadata.is_dir() { writable(path) } else { Ok(()) },
        free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        free_files: disk.f_favail,
        // The C library decides whether it is signed.
        #[allow(clippy::unnecessary_fallible_conversions, clippy::useless_conversion)]
        filesystem: kind.map_or(0, |kind| u64::try_from(kind).unwrap_or(0)),
    })
}

fn writable(directory: &Path) -> Result<(), String> {
    let made = tempfile::Builder::new().prefix(".doctor-").tempfile_in(directory);
    let synced = made.and_then(|file| file.as_file().sync_all());
    synced.map_err(|error| chain(&error))
}

/// Tries to listen as `serve` does, and asks whoever is there already.
pub(super) async fn port(address: SocketAddr) -> Port {
    match listen(address) {
        Ok(()) => Port::Free,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            Port::Taken { by_ringbearer: is_ringbearer(address).await }
        }
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Port::Forbidden,
        Err(error) => Port::Unusable(chain(&error)),
    }
}

fn listen(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

/// Whether a request that goes no further is refused with one of our codes.
async fn is_ringbearer(address: SocketAddr) -> bool {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let ask = async {
        let mut stream = TcpStream::connect(SocketAddr::new(ip, address.port())).await?;
        stream
            .write_all(b"TRACE / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        // Whoever closes at once may do so by a reset, after its answer.
        let _ = stream.take(MOST).read_to_end(&mut answer).await;
        io::Result::Ok(answer)
    };
    let answer = timeout(PATIENCE, ask).await.ok().and_then(Result::ok).unwrap_or_default();
    answer.windows(CODE.len()).any(|part| part == CODE)
}

/// What every code of ours begins with.
const CODE: &[u8] = b"RBR-";
const MOST: u64 = 16 * 1024;
const PATIENCE: Duration = Duration::from_secs(2);
