use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::clock::Timestamp;
use crate::store::Provenance;
use crate::token::{AccessToken, TokenSet};

mod hostile;

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

fn open(directory: &Path) -> FileStore {
    FileStore::open(directory, Seal::none(), Clock::manual(NOW)).unwrap()
}

/// A store in a directory of its own, with a clock that stands still.
struct Bench {
    root: TempDir,
    store: FileStore,
}

impl Bench {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = open(&root.path().join("state"));
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
    assert_eq!(document::parse(&previous).unwrap().generation().number(), 1, "the good copy");
}

#[tokio::test]
async fn a_previous_copy_that_was_cut_anywhere_is_no_session_and_does_no_harm() {
    let bench = Bench::new();
    bench.save(1, 0).await.unwrap();
    bench.save(2, 1).await.unwrap();
    let whole = fs::read(bench.file("sales.previous")).unwrap();
    let current = fs::read(bench.file("sales.json")).unwrap();
    for length in 0..whole.len() {
        fs::write(bench.file("sales.previous"), &whole[..length]).unwrap();
        assert_eq!(bench.generation().await, Some(2), "cut at {length}");
        fs::write(bench.file("sales.json"), &current[..length.min(current.len() - 1)]).unwrap();
        assert_eq!(bench.generation().await, None, "both cut at {length}");
        fs::write(bench.file("sales.json"), &current).unwrap();
    }
}

#[tokio::test]
async fn a_logout_is_remembered_for_thirty_days() {
    let bench = Bench::new();
    bench.save(1, 0).await.unwrap();
    let lease = bench.store.lease("sales").await.unwrap().unwrap();
    bench.store.erase(&lease, Generation::new(1)).await.unwrap();
    let month = Duration::from_secs(30 * 24 * 3600);
    bench.store.clock.advance(month.checked_sub(Duration::from_millis(1)).unwrap());
    assert_eq!(bench.store.load("sales").await.unwrap().generation().number(), 2);
    let error = bench.store.save(&lease, &stored(1), Generation::NONE).await.unwrap_err();
    let expected = "the stored session is of generation 2, not 0: somebody else has renewed";
    assert_eq!(error.to_string(), expected);
    bench.store.clock.advance(Duration::from_millis(1));
    assert!(matches!(bench.store.load("sales").await.unwrap(), Entry::Absent));
    bench.store.save(&lease, &stored(1), Generation::NONE).await.unwrap();
    assert_eq!(bench.generation().await, Some(1));
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
    let other = open(&bench.root.path().join("state"));
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
    for file in fs::read_dir(bench.file("")).unwrap() {
        let content = fs::read(file.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&content).contains("access-"), "a token is left");
    }
    let late = bench.store.save(&lease, &stored(3), Generation::new(2)).await.unwrap_err();
    assert!(matches!(late, StoreError::Conflict { .. }), "{late}");
    bench.store.save(&lease, &stored(4), Generation::new(3)).await.unwrap();
    assert_eq!(bench.generation().await, Some(4));
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

#[tokio::test]
async fn one_process_hears_what_another_saves() {
    let bench = Bench::new();
    let other = open(&bench.file(""));
    let mut changes = other.changes();
    bench.save(1, 0).await.unwrap();
    let heard = changes.recv().await;
    assert_eq!(heard, Some(Change::Identity("sales".into(), None)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_ledger_entry_of_many_processes_is_lost() {
    let bench = Bench::new();
    let posts = (0..8).map(|process| {
        let store = open(&bench.file(""));
        tokio::spawn(async move {
            for n in 0..25 {
                let request = format!("{process}-{n}");
                let mut change = |ledger: &mut Ledger, now| {
                    let class = crate::token::budget::Class::Waiting;
                    ledger.ask("all", &request, class, 1000, now);
                    ledger.settle(&request, true, now);
                };
                store.post("client", &mut change).await.unwrap();
            }
        })
    });
    for task in posts.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let mut left = 0;
    let mut look = |ledger: &mut Ledger, now| left = ledger.left(1000, now);
    bench.store.post("client", &mut look).await.unwrap();
    assert_eq!(left, 1000 - 8 * 25);
    let mut other = 0;
    let mut look = |ledger: &mut Ledger, now| other = ledger.left(1000, now);
    bench.store.post("another client", &mut look).await.unwrap();
    assert_eq!(other, 1000, "an account of its own");
}

#[tokio::test]
async fn a_damaged_ledger_counts_as_empty() {
    let bench = Bench::new();
    fs::write(bench.store.directory.ledger("client"), "{").unwrap();
    let mode = Permissions::from_mode(0o600);
    fs::set_permissions(bench.store.directory.ledger("client"), mode).unwrap();
    let mut left = 0;
    let mut look = |ledger: &mut Ledger, now| left = ledger.left(5, now);
    bench.store.post("client", &mut look).await.unwrap();
    assert_eq!(left, 5);
}

#[tokio::test]
async fn keeps_identities_that_were_added() {
    let bench = Bench::new();
    assert!(bench.store.enrolment("sales").await.unwrap().is_none());
    let jwt = Some(crate::secret::Secret::new("assertion"));
    let enrolment = Enrolment { client_id: "client".into(), jwt };
    bench.store.enrol("sales", Some(&enrolment)).await.unwrap();
    let there = bench.store.enrolment("sales").await.unwrap().unwrap();
    assert_eq!((there.client_id.as_str(), there.jwt.unwrap().expose()), ("client", "assertion"));
    assert_eq!(mode(&bench.file("sales.enrolment")), 0o600);
    bench.save(1, 0).await.unwrap();
    let lease = bench.store.lease("Other").await.unwrap().unwrap();
    bench.store.save(&lease, &stored(5), Generation::NONE).await.unwrap();
    let found = bench.store.survey().await.unwrap();
    let found: Vec<_> = found
        .iter()
        .map(|it| (it.identity.as_str(), it.session.unwrap().generation.number(), it.enrolled))
        .collect();
    assert_eq!(found, [("Other", 5, false), ("sales", 1, true)]);
    bench.store.enrol("sales", None).await.unwrap();
    bench.store.enrol("sales", None).await.unwrap();
    assert!(bench.store.enrolment("sales").await.unwrap().is_none());
}

#[tokio::test]
async fn sealed_files_survive_every_cut_and_show_no_token() {
    let root = tempfile::tempdir().unwrap();
    let key = crate::secret::Secret::new("AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
    let seal = Seal::new(&[key]).unwrap();
    let path = root.path().join("state");
    let store = FileStore::open(&path, seal, Clock::manual(NOW)).unwrap();
    let lease = store.lease("sales").await.unwrap().unwrap();
    store.save(&lease, &stored(1), Generation::NONE).await.unwrap();
    store.save(&lease, &stored(2), Generation::new(1)).await.unwrap();
    let whole = fs::read(path.join("sales.json")).unwrap();
    assert!(!String::from_utf8_lossy(&whole).contains("access-"));
    for length in 0..whole.len() {
        fs::write(path.join("sales.json"), &whole[..length]).unwrap();
        let found = store.load("sales").await.unwrap().generation().number();
        assert_eq!(found, 1, "cut at {length}");
    }
    let error = open(&path).load("sales").await.unwrap_err().to_string();
    assert!(error.contains("add that key to store.encryption_keys"), "{error}");
}

#[tokio::test]
async fn the_check_finds_what_is_wrong_with_the_directory() {
    let bench = Bench::new();
    bench.store.check().await.unwrap();
    fs::set_permissions(bench.file(""), Permissions::from_mode(0o777)).unwrap();
    let error = bench.store.check().await.unwrap_err().to_string();
    assert!(error.contains("it may be written by others"), "{error}");
}

#[tokio::test]
async fn all_who_ask_for_a_shared_key_get_the_same_one() {
    let bench = Bench::new();
    let stores: Vec<_> = (0..8).map(|_| open(&bench.file(""))).collect();
    let asked = stores.iter().map(|store| store.shared_key("facade"));
    let keys = futures_util::future::try_join_all(asked).await.unwrap();
    assert!(keys.iter().all(|key| key.expose() == keys[0].expose()));
    let file = bench.file("facade.key");
    assert_eq!(mode(&file), 0o600);
    assert!(bench.store.survey().await.unwrap().is_empty(), "it is nobody's session");
    let other = bench.store.shared_key("other").await.unwrap();
    assert_ne!(other.expose(), keys[0].expose());
    fs::write(&file, "torn").unwrap();
    let new = bench.store.shared_key("facade").await.unwrap();
    assert_ne!(new.expose(), keys[0].expose());
    assert_eq!(open(&bench.file("")).shared_key("facade").await.unwrap().expose(), new.expose());
}

#[tokio::test]
async fn a_sealed_shared_key_opens_with_the_key_that_sealed_it_and_shows_nothing() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("state");
    let seal = |text: &str| Seal::new(&[crate::secret::Secret::new(text)]).unwrap();
    let sealed = |seal| FileStore::open(&path, seal, Clock::manual(NOW)).unwrap();
    let one = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let key = sealed(seal(one)).shared_key("facade").await.unwrap();
    assert_eq!(sealed(seal(one)).shared_key("facade").await.unwrap().expose(), key.expose());
    let kept = fs::read_to_string(path.join("facade.key")).unwrap();
    assert!(kept.starts_with(r#"{"version":1,"sealed":"#), "{kept}");
    assert!(open(&path).shared_key("facade").await.is_err(), "it is not replaced");
}

#[tokio::test]
async fn of_two_who_hold_a_lease_one_after_the_other_the_late_one_overwrites_nothing() {
    let bench = Bench::new();
    bench.save(1, 0).await.unwrap();
    let directory = &bench.store.directory;
    // Wherever the late one stood still: before it began, with its file written, with the old
    // session moved aside.
    let late = directory.save("sales", &stored(2), Generation::NONE).unwrap_err();
    assert!(matches!(late, StoreError::Conflict { .. }), "{late}");

    let temporary = directory.temporary("sales", b"late").unwrap();
    bench.save(2, 1).await.unwrap();
    let late = directory.alone("sales", Generation::new(1)).unwrap_err();
    assert!(matches!(late, StoreError::Conflict { .. }), "{late}");
    assert!(!temporary.exists(), "the other one's file was written in its place");

    let path = bench.file("sales.json");
    let alone = directory.alone("sales", Generation::new(2)).unwrap().expect("there is a file");
    let error = directory.save("sales", &stored(3), Generation::new(2)).unwrap_err().to_string();
    assert!(error.starts_with("cannot lock "), "{error}");
    fs::rename(&path, bench.file("sales.previous")).unwrap();
    directory.save("sales", &stored(3), Generation::new(2)).unwrap();
    let temporary = directory.temporary("sales", b"late").unwrap();
    assert!(!lock::is_in_place(&alone, &path));
    assert!(!install(&temporary, &path, false).unwrap(), "the other one was faster");
    assert_eq!(bench.generation().await, Some(3));
}

#[tokio::test]
async fn a_lease_lives_for_as_long_as_its_file_is_in_place() {
    let bench = Bench::new();
    let lease = bench.store.lease("sales").await.unwrap().unwrap();
    let vigil = lease.vigil();
    assert!(lease.is_live() && vigil.is_live());
    fs::write(bench.file("theirs"), "").unwrap();
    fs::rename(bench.file("theirs"), bench.file("sales.lock")).unwrap();
    assert!(!lease.is_live() && !vigil.is_live(), "taken over");
    drop(lease);
    let lease = bench.store.lease("support").await.unwrap().unwrap();
    let vigil = lease.vigil();
    drop(lease);
    assert!(!vigil.is_live(), "given back");
}
