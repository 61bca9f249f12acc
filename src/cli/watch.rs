//! Whether files are other than they were.

use std::path::PathBuf;

use crate::mark::{Mark, Marked};

/// The files that a configuration was read from.
pub(super) struct Files {
    paths: Vec<PathBuf>,
    known: Vec<Option<Mark>>,
    seen: Vec<Option<Mark>>,
}

impl Files {
    /// Known as they were when they were read.
    pub(super) fn new(files: Vec<Marked>) -> Self {
        let (paths, known): (Vec<_>, Vec<_>) = files.into_iter().unzip();
        Self { paths, seen: known.clone(), known }
    }

    /// Takes them for known as they are now.
    pub(super) fn look(&mut self) {
        self.known = self.marks();
        self.seen.clone_from(&self.known);
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
    use std::fs;

    use super::*;

    fn files(paths: &[PathBuf]) -> Files {
        Files::new(paths.iter().map(|path| (path.clone(), Mark::of(path))).collect())
    }

    #[test]
    fn a_change_counts_once_it_has_settled_and_only_once() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("a"), directory.path().join("b"));
        fs::write(&first, "1").unwrap();
        let mut files = files(&[first.clone(), second.clone()]);
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
        let mut files = files(&[path("data")]);
        std::os::unix::fs::symlink("two", path("new")).unwrap();
        fs::rename(path("new"), path("data")).unwrap();
        assert!(!files.have_settled_otherwise());
        assert!(files.have_settled_otherwise());
    }

    #[test]
    fn what_changes_while_it_is_read_is_a_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a");
        fs::write(&path, "1").unwrap();
        let mark = Mark::of(&path);
        fs::write(&path, "12").unwrap();
        let mut files = Files::new(vec![(path, mark)]);
        assert!(!files.have_settled_otherwise());
        assert!(files.have_settled_otherwise());
    }
}
