//! What others may have put into the directory, or done to it.

use std::os::unix::fs::{chown, symlink};
use std::os::unix::net::UnixListener;

use super::*;

/// A user that is not the one who runs the tests.
const STRANGER: u32 = 65_534;

impl Bench {
    /// With one session stored.
    async fn stored() -> Self {
        let bench = Self::new();
        bench.save(1, 0).await.unwrap();
        bench
    }

    /// The refusal to load, without the path it begins with.
    async fn refusal(&self) -> String {
        let error = self.store.load("sales").await.unwrap_err().to_string();
        let path = format!("{:?} is not safe to keep tokens in: it ", self.file("sales.json"));
        let told = error.strip_prefix(&path);
        told.unwrap_or_else(|| panic!("{error} does not begin with {path}")).to_owned()
    }
}

/// The refusal to open a directory, without the path it begins with.
fn refusal(path: &Path) -> String {
    let error = FileStore::open(path, Seal::none(), Clock::manual(NOW)).unwrap_err().to_string();
    let begin = format!("{path:?} is not safe to keep tokens in: it ");
    error.strip_prefix(&begin).unwrap_or_else(|| panic!("{error}")).to_owned()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn has_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn a_session_that_others_may_read_or_write_is_refused() {
    for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777] {
        let bench = Bench::stored().await;
        has_mode(&bench.file("sales.json"), mode);
        let expected = "may be read or written by others; set its mode to 0600";
        assert_eq!(bench.refusal().await, expected, "{mode:o}");
    }
}

#[tokio::test]
async fn a_link_in_place_of_a_session_is_refused_wherever_it_leads() {
    let bench = Bench::stored().await;
    let path = bench.file("sales.json");
    fs::rename(&path, bench.file("target")).unwrap();
    for target in ["target", "nothing", "sales.json", "/dev/zero"] {
        symlink(target, &path).unwrap();
        assert_eq!(bench.refusal().await, "is a symbolic link; remove it", "{target}");
        fs::remove_file(&path).unwrap();
    }
}

#[tokio::test]
async fn whatever_else_is_in_place_of_a_session_is_refused_and_waited_for_by_nobody() {
    let expected = "is not a regular file; remove it";
    let bench = Bench::new();
    let path = bench.file("sales.json");
    fs::create_dir(&path).unwrap();
    assert_eq!(bench.refusal().await, expected, "a directory");
    fs::remove_dir(&path).unwrap();
    let fifo = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&path).status();
    assert!(fifo.unwrap().success());
    assert_eq!(bench.refusal().await, expected, "a FIFO that nobody writes");
    fs::remove_file(&path).unwrap();
    let _socket = UnixListener::bind(&path).unwrap();
    assert_eq!(bench.refusal().await, expected, "a socket");
}

#[tokio::test]
async fn neither_is_a_lock_taken_on_anything_but_a_file_of_ours() {
    let bench = Bench::new();
    let path = bench.file("sales.lock");
    let told = async || bench.store.lease("sales").await.unwrap_err().to_string();
    fs::create_dir(&path).unwrap();
    let not_regular =
        format!("{path:?} is not safe to keep tokens in: it is not a regular file; remove it");
    assert_eq!(told().await, not_regular, "a directory");
    fs::remove_dir(&path).unwrap();
    let fifo = std::process::Command::new("mkfifo").args(["-m", "600"]).arg(&path).status();
    assert!(fifo.unwrap().success());
    assert_eq!(told().await, not_regular, "a FIFO");
    fs::remove_file(&path).unwrap();
    symlink("elsewhere", &path).unwrap();
    let link = format!("{path:?} is not safe to keep tokens in: it is a symbolic link; remove it");
    assert_eq!(told().await, link);
    assert!(!bench.file("elsewhere").exists(), "not written through");
}

#[tokio::test]
async fn another_users_file_and_directory_are_refused() {
    let ours = "belongs to another user; give it to the user that runs this program";
    let nested = "belongs to another user; \
                  name a directory inside it instead, and it is created with mode 0700";
    if !is_root() {
        // Nobody else can give a file away; but the root directory is somebody else's.
        assert_eq!(refusal(Path::new("/")), nested);
        return;
    }
    let bench = Bench::stored().await;
    chown(bench.file("sales.json"), Some(STRANGER), None).unwrap();
    assert_eq!(bench.refusal().await, ours);
    chown(bench.file(""), Some(STRANGER), None).unwrap();
    assert_eq!(refusal(&bench.root.path().join("state")), nested);
}

#[tokio::test]
async fn a_directory_that_others_may_write_is_refused_also_later() {
    let root = tempfile::tempdir().unwrap();
    let expected = "may be written by others; \
                    name a directory inside it instead, and it is created with mode 0700";
    for mode in [0o720, 0o702, 0o777, 0o1777] {
        has_mode(root.path(), mode);
        assert_eq!(refusal(root.path()), expected, "{mode:o}");
    }
    has_mode(root.path(), 0o755);
    let store = open(root.path());
    store.check().await.unwrap();
    has_mode(root.path(), 0o777);
    assert!(store.check().await.unwrap_err().to_string().ends_with(expected));
}

#[tokio::test]
async fn a_link_to_the_directory_is_followed_only_if_nobody_else_can_turn_it() {
    let root = tempfile::tempdir().unwrap();
    let (real, link) = (root.path().join("real"), root.path().join("link"));
    open(&real);
    symlink(&real, &link).unwrap();
    open(&link);
    if is_root() {
        rustix::fs::chownat(
            rustix::fs::CWD,
            &link,
            Some(rustix::process::Uid::from_raw(STRANGER)),
            None,
            rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
        )
        .unwrap();
        let expected = "is another user's symbolic link; name the directory that it leads to";
        assert_eq!(refusal(&link), expected);
    }
    // What it leads to has to be fit, too.
    has_mode(&real, 0o777);
    fs::remove_file(&link).unwrap();
    symlink(&real, &link).unwrap();
    assert!(refusal(&link).starts_with("may be written by others; "));
}

#[tokio::test]
async fn strange_files_in_the_directory_are_let_alone() {
    let bench = Bench::stored().await;
    let strange =
        ["README", "notes.json", "other.json", "%zz.json", ".json", "x.previous", "a.tmp"];
    for name in strange {
        fs::write(bench.file(name), "not ours").unwrap();
        has_mode(&bench.file(name), if name == "other.json" { 0o644 } else { 0o600 });
    }
    fs::create_dir(bench.file("folder.json")).unwrap();
    assert_eq!(bench.generation().await, Some(1));
    bench.save(2, 1).await.unwrap();
    let found = bench.store.survey().await.unwrap();
    assert_eq!(found.iter().map(|it| it.identity.as_str()).collect::<Vec<_>>(), ["sales"]);
    bench.store.check().await.unwrap();
    for name in strange {
        assert_eq!(fs::read_to_string(bench.file(name)).unwrap(), "not ours", "{name}");
    }
}

#[tokio::test]
async fn a_planted_link_is_replaced_not_written_through() {
    let bench = Bench::new();
    let victim = bench.root.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    symlink(&victim, bench.file("sales.tmp")).unwrap();
    bench.save(1, 0).await.unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_eq!(bench.generation().await, Some(1));
}
