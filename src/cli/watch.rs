//! Whether files are other than they were.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The files that a configuration was read from.
pub(super) struct Files {
    paths: Vec<PathBuf>,
    known: Vec<Option<Mark>>,
    seen: Vec<Option<Mark>>,
}

/// What changes with a file, through all links to it: an editor puts a new one in its place, Kubernetes
/// turns a link to another directory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Mark {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            length: file.len(),
            changed: (file.mtime(), file.mtime_nsec()),
        })
    }
}

impl Files {
    /// As they are now.
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let mut files = Self { paths, known: Vec::new(), seen: Vec::new() };
        files.look();
        files
    }

    /// Takes them for known as they are now.
    pub(super) fn look(&mut self) {
        self.known = self.marks();
        self.seen.clone_from(&self.known);
    }

    /// From now on others count. Those that were there before are known as they were last looked at.
    pub(super) fn replace(&mut self, paths: Vec<PathBuf>) {
        let known = |path: &PathBuf| match self.paths.iter().position(|known| known == path) {
            Some(at) => self.known[at].clone(),
            None => Mark::of(path),
        };
        self.known = paths.iter().map(known).collect();
        self.seen.clone_from(&self.known);
        self.paths = paths;
    }

    /// Whether they are other than known, and no other than at the last call: nobody is writing. Then
    /// they are known.
    pub(super) fn have_settled_otherwise(&mut self) -> bool {
        let now = self.marks();
        let settled = now == self.seen && now != self.known;
        if settled {
            self.known.clone_from(&now);
        }
        self.seen = now;
        settled
    }

    fn marks(&self) -> Vec<Option<Mark>> {
        self.paths.iter().map(|path| Mark::of(path)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_counts_once_it_has_settled_and_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&first, "1").unwrap();
        let mut files = Files::new(vec![first.clone(), second.clone()]);
        assert!(!files.have_settled_otherwise());
        fs::write(&first, "12").unwrap();
        assert!(!files.have_settled_otherwise(), "it may still be written");
        fs::write(&first, "123").unwrap();
        assert!(!files.have_settled_otherwise(), "it is still written");
        assert!(files.have_settled_otherwise());
        assert!(!files.have_settled_otherwise());
        fs::write(&second, "").unwrap();
        assert!(!files.have_settled_otherwise());
        assert!(files.have_settled_otherwise(), "one that was not there counts too");
        fs::remove_file(&first).unwrap();
        fs::write(&first, "123").unwrap();
        files.look();
        assert!(!files.have_settled_otherwise(), "what has been looked at is known");
    }

    #[test]
    fn another_file_behind_the_same_link_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name| directory.path().join(name);
        fs::write(path("one"), "x").unwrap();
        fs::write(path("two"), "x").unwrap();
        std::os::unix::fs::symlink("one", path("data")).unwrap();
        let mut files = Files::new(vec![path("data")]);
        std::os::unix::fs::symlink("two", path("new")).unwrap();
        fs::rename(path("new"), path("data")).unwrap();
        assert!(!files.have_settled_otherwise());
        assert!(files.have_settled_otherwise());
        fs::write(path("other"), "x").unwrap();
        files.replace(vec![path("data"), path("other")]);
        assert!(!files.have_settled_otherwise());
        assert!(!files.have_settled_otherwise());
    }
}
