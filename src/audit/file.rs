//! The file: appended to, followed when it is renamed away, and never left in the middle of a line.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags};

/// A file that only grows.
#[derive(Debug)]
pub(super) struct Appended {
    path: PathBuf,
    file: File,
    /// Which file that is.
    inode: (u64, u64),
    /// Whether the last line is not whole yet.
    midway: bool,
}

impl Appended {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let (file, inode) = opened(&path)?;
        Ok(Self { path, file, inode, midway: false })
    }

    pub(super) fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Goes on in a new file if the path leads to another one by now, or to none.
    pub(super) fn follow(&mut self) -> io::Result<()> {
        let there = fs::metadata(&self.path).ok().map(|it| (it.dev(), it.ino()));
        if there == Some(self.inode) || self.midway {
            return Ok(());
        }
        (self.file, self.inode) = opened(&self.path)?;
        Ok(())
    }

    /// Writes `lines`, and takes from them what was written, which is not all of it if it fails.
    pub(super) fn write(&mut self, lines: &mut Vec<u8>) -> io::Result<()> {
        let (mut done, mut outcome) = (0, Ok(()));
        while done < lines.len() && outcome.is_ok() {
            match self.file.write(&lines[done..]) {
                Ok(0) => outcome = Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => outcome = Err(error),
            }
        }
        if done > 0 {
            self.midway = lines[done - 1] != b'\n';
            lines.drain(..done);
        }
        outcome
    }
}

/// `NONBLOCK`, so that a FIFO without a reader is an error and not a wait; files know no such thing.
fn opened(path: &std::path::Path) -> io::Result<(File, (u64, u64))> {
    let flags =
        OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR)?);
    let metadata = file.metadata()?;
    Ok((file, (metadata.dev(), metadata.ino())))
}
