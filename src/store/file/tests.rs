use std::os::unix::fs::symlink;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::Timestamp;
use crate::store::Provenance;
use crate::token::{AccessToken, TokenSet};

const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

fn stored(generation: u64) -> Stored {
    let set = TokenSet {
        generation: Generation::new(generation),
        access_token: AccessToken::new(format!("access-{generation}")),
        issued_at: NOW,
        expires_at: NOW + Duration::from_secs(3600),
        refresh: None,
        previous_refresh: None,
        scope: None,
        owner_id: None,
        endpoint_id: None,
    };
    Stored { set, provenance: Provenance::from_bytes([1; 32]) }
}

/// A store in a directory of its own.
struct Bench {
    root: TempDir,
    store: FileStore,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = FileStore::open(root.path().join("state")).unwrap();
        Self { root, store }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.path().join("state").join(name)
    }

    async fn save(&self, generation: u64, expected: u64) -> Result<(), StoreError> {
        let lease = self.store.lease("sales").await.unwrap().expect("nobody holds it");
        self.store.save(&lease, &stored(generation), Generation::new(expected)).await
    }

    async fn generation(&self) -> Option<u64> {
        let there = self.store.load("sales").await.unwrap();
        there.session().map(|stored| stored.set.generation.number())
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o777
}

#[tokio::test]
async fn saves_and_loads_with_tight_modes() {
    let bench = Bench::new();
    assert_eq!(bench.generation().await, None);
    bench.save(1, 0).await.unwrap();
    assert_eq!(bench.generation().await, Some(1));
    assert_eq!(mode(&bench.root.path().join("state")), 0o700);
    assert_eq!(mode(&bench.file("sales.json")), 0o600);
    assert!(!bench.file("sales.tmp").exists());
}

#[tokio::test]
async fn refuses_a_late_write_by_generation() {
    let bench = Bench::new();
    bench.save(1, 0).await.unwrap();
    bench.save(2, 1).await.unwrap();
    let error = bench.save(2, 1).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the stored session is of generation 2, not 1: somebody else has renewed"
    );
}

#[tokio::test]
async fn falls_back_to_the_previous_copy_wherever_the_file_was_cut() {
    let bench = Bench::new();
    bench.save(1, 0).await.unwrap();
    bench.save(2, 1).await.unwrap();
    let whole = fs::read(bench.file("sales.json")).unwrap();
    for length in 0..whole.len() {
        fs::write(bench.file("sales.json"), &whole[..length]).unwrap();
        assert_eq!(bench.generation().await, Some(1), "cut at {length}");
    }
    bench.save(3, 1).await.unwrap();
    let previous = fs::read(bench.file("sales.previous")).unwrap();
    assert_eq!(document::parse(&previous).unwrap().set.generation.number(), 1, "the good copy");
}

#[tokio::test]
async fn survives_a_crash_between_the_two_renames() {
    let bench = Bench::new();
    bench.save(1, 0).await.unwrap();
    fs::rename(bench.file("sales.json"), bench.file("sales.previous")).unwrap();
    assert_eq!(bench.generation().await, Some(1));
    bench.save(2, 1).await.unwrap();
    assert_eq!(bench.generation().await, Some(2));
}

#[tokio::test]
async fn starts_anew_where_nothing_can_be_recovered() {
    let bench = Bench::new();
    bench.save(1, 0).await.unwrap();
    fs::write(bench.file("sales.json"), "{").unwrap();
    assert_eq!(bench.generation().await, None);
    bench.save(1, 0).await.unwrap();
}

#[tokio::test]
async fn leaves_a_later_versions_file_alone() {
    let bench = Bench::new();
    bench.save(1, 0).await.unwrap();
    fs::write(bench.file("sales.json"), r#"{"version":2}"#).unwrap();
    let error = bench.store.load("sales").await.unwrap_err().to_string();
    assert!(error.ends_with("has version 2, this program knows 1: run the later version"));
}

#[tokio::test]
async fn a_lease_is_held_once_and_comes_back() {
    let bench = Bench::new();
    let other = FileStore::open(bench.root.path().join("state")).unwrap();
    let lease = bench.store.lease("sales").await.unwrap().expect("free");
    assert!(other.lease("sales").await.unwrap().is_none(), "held");
    assert!(other.lease("support").await.unwrap().is_some(), "another identity's");
    drop(lease);
    assert!(other.lease("sales").await.unwrap().is_some(), "given back");
}

#[tokio::test]
async fn erases_every_copy() {
    let bench = Bench::new();
    bench.save(1, 0).await.unwrap();
    bench.save(2, 1).await.unwrap();
    let lease = bench.store.lease("sales").await.unwrap().unwrap();
    bench.store.erase(&lease, Generation::new(2)).await.unwrap();
    assert_eq!(bench.generation().await, None);
}

#[tokio::test]
async fn follows_no_link_and_reads_nothing_that_others_may() {
    let bench = Bench::new();
    bench.save(1, 0).await.unwrap();
    let path = bench.file("sales.json");
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    let error = bench.store.load("sales").await.unwrap_err().to_string();
    assert!(error.ends_with("it may be read or written by others; set its mode to 0600"));

    fs::rename(&path, bench.file("target")).unwrap();
    symlink(bench.file("target"), &path).unwrap();
    let error = bench.store.load("sales").await.unwrap_err().to_string();
    assert!(error.ends_with("it is a symbolic link; remove it"), "{error}");
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

#[tokio::test]
async fn refuses_a_directory_that_others_may_write() {
    let root = tempfile::tempdir().unwrap();
    fs::set_permissions(root.path(), Permissions::from_mode(0o777)).unwrap();
    let error = FileStore::open(root.path()).unwrap_err().to_string();
    assert!(error.contains("it may be written by others"), "{error}");
}

#[tokio::test]
async fn the_probe_fails_where_a_save_would() {
    let bench = Bench::new();
    let lease = bench.store.lease("sales").await.unwrap().unwrap();
    bench.store.probe_writable(&lease).await.unwrap();
    // A directory in the way stands for a disk that refuses, also where root runs the test.
    fs::create_dir(bench.file("sales.tmp")).unwrap();
    let error = bench.store.probe_writable(&lease).await.unwrap_err().to_string();
    assert!(error.starts_with("cannot write "), "{error}");
}

#[test]
fn no_name_leaves_the_directory_or_meets_another() {
    assert_eq!(encoded("sales-eu_1"), "sales-eu_1");
    assert_eq!(encoded("../../etc/passwd"), "%2e%2e%2f%2e%2e%2fetc%2fpasswd");
    assert_eq!(encoded("Sales"), "%53ales");
    assert_ne!(encoded("a%2f"), encoded("a/"));
    assert_eq!(encoded("ü"), "%c3%bc");
}
