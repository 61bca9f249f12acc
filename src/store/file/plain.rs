//! Single files, opened so that nobody else has a hand in them: no link is followed, nothing is waited
//! for, and what others could read or write is refused.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::store::StoreError;

/// No session comes near this.
const MAX_FILE_BYTES: u64 = 256 * 1024;

/// The file that is locked, made if it is not there.
pub(super) fn lock_file(path: &Path) -> Result<File, StoreError> {
    let file = opened(path, private().write(true).create(true).open(path))?;
    check(path, &file)?;
    let mode = attempt("examine", path, file.metadata())?.mode();
    if mode & 0o600 != 0o600 {
        // A umask took the rights away, and the next process could not open it.
        attempt("open", path, file.set_permissions(Permissions::from_mode(0o600)))?;
    }
    Ok(file)
}

pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => attempt("remove", path, result),
    }
}

/// For this user only, to be read. Without `NONBLOCK` the opening of a FIFO waits for a writer.
pub(super) fn private() -> OpenOptions {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).mode(0o600);
    options.custom_flags(i32::try_from(flags.bits()).expect("flags are small"));
    options
}

/// The content, `None` where there is no file. Nothing is asked of the file but to be read, which a
/// file system that was made read-only still allows.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match private().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        result => opened(path, result)?,
    };
    check(path, &file)?;
    let mut content = Vec::new();
    attempt("read", path, file.take(MAX_FILE_BYTES).read_to_end(&mut content))?;
    Ok(Some(content))
}

fn opened(path: &Path, result: io::Result<File>) -> Result<File, StoreError> {
    let errno = |error: &io::Error| error.raw_os_error().map(rustix::io::Errno::from_raw_os_error);
    let fault = match result.as_ref().map_err(errno) {
        Err(Some(rustix::io::Errno::LOOP)) => "is a symbolic link",
        // A directory, a socket, or a FIFO that nobody reads, to be written.
        Err(Some(rustix::io::Errno::ISDIR | rustix::io::Errno::NXIO)) => NOT_REGULAR,
        _ => return attempt("open", path, result),
    };
    Err(StoreError::Unsafe { path: path.to_owned(), fault, cure: "remove it" })
}

/// A file that others could read has leaked; one that they could write, they may have written.
fn check(path: &Path, file: &File) -> Result<(), StoreError> {
    let metadata = attempt("examine", path, file.metadata())?;
    let (fault, cure) = match () {
        () if !metadata.is_file() => (NOT_REGULAR, "remove it"),
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

pub(super) fn attempt<T>(
    action: &'static str,
    path: &Path,
    result: io::Result<T>,
) -> Result<T, StoreError> {
    result.map_err(|source| StoreError::Io { action, path: path.to_owned(), source })
}

const NOT_REGULAR: &str = "is not a regular file";
