//! The file store when the disk is full or read-only, and under any umask: the real program on a file
//! system of its own.
//!
//! Mounting takes root; where that is not to be had, the tests that need it say so and are passed
//! over, and a limit on the size of files stands for the full disk.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use ringbearer::sandbox::{Fault, FaultKind, Place};

use crate::process::{Process, Site};
use crate::support::{ECHO, json};

/// A file system in memory of one megabyte, for the program alone.
const TMPFS: &str = "mkdir -p \"$store\"; mount -t tmpfs -o size=1m,mode=0700 none \"$store\"";

/// Whether a shell may mount. No package cures it where a container forbids it.
#[allow(clippy::print_stderr, reason = "whoever runs the tests is to see it")]
fn can_mount() -> bool {
    let script = "mount -t tmpfs none /mnt";
    let tried = Command::new("unshare").args(["-m", "sh", "-c", script]).output();
    let can = tried.is_ok_and(|tried| tried.status.success());
    if !can {
        eprintln!("passed over: unshare and mount are refused: run as root");
    }
    can
}

/// Takes all the room there is.
fn fill(directory: &Path) {
    let mut filler = fs::File::create(directory.join("filler")).unwrap();
    for size in [4096, 1] {
        while filler.write_all(&vec![b'x'; size]).is_ok() {}
    }
}

fn make_room(directory: &Path) {
    fs::remove_file(directory.join("filler")).unwrap();
}

/// The message of the next failure of the store in the log.
async fn complaint(process: &mut Process) -> String {
    let line = process.says("the token store failed").await;
    assert_eq!(line["message"], "the token store failed, and without it no token is requested");
    line["cause"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn on_a_full_disk_no_token_is_requested_until_there_is_room() {
    if !can_mount() {
        return;
    }
    let site = Site::new().await;
    let before = site.control().counts().token_requests;
    let full = format!("{TMPFS}; cat /dev/zero > \"$store/filler\" 2>&- || true");
    let mut process = site.start_after(&full, true).await;
    let cause = complaint(&mut process).await;
    assert!(cause.starts_with("cannot write "), "{cause}");
    let expected = ": check that it exists, belongs to this user and has room: \
                    no space left on device";
    assert!(cause.ends_with(expected), "{cause}\ninstead of\n{expected}");
    assert_eq!(site.control().counts().token_requests, before, "probed first");

    make_room(&process.sight_of(&site.directory()));
    assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
    assert_eq!(site.control().counts().token_requests, before + 1);
}

#[tokio::test]
async fn a_disk_that_fills_up_after_the_probe_costs_no_second_token_request() {
    if !can_mount() {
        return;
    }
    let site = Site::new().await;
    let before = site.control().counts().token_requests;
    let delay = FaultKind::delay(Duration::from_secs(60));
    site.control().inject(Fault::once(Place::Token, delay));
    let mut process = site.start_after(TMPFS, true).await;
    site.control().wait_until(|counts| counts.token_requests == before + 1).await;
    let directory = process.sight_of(&site.directory());
    fill(&directory);
    site.clock.advance(Duration::from_secs(60));
    let cause = complaint(&mut process).await;
    let file = format!("cannot write {:?}: ", site.directory().join("test.tmp"));
    assert!(cause.starts_with(&file), "{cause}");
    assert!(!directory.join("test.json").exists(), "not stored");
    let waiting = tokio::spawn(site.get(&process, ECHO).send());
    complaint(&mut process).await;
    let counts = site.control().counts();
    assert_eq!((counts.token_answers, counts.api_requests), (before + 1, 0), "not used");

    make_room(&directory);
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
    assert!(directory.join("test.json").exists());
    let counts = site.control().counts();
    assert_eq!((counts.token_requests, counts.token_answers), (before + 1, before + 1));
    assert_eq!((counts.api_requests, counts.api_401), (1, 0));
}

#[tokio::test]
async fn files_that_may_not_grow_stand_for_a_full_disk() {
    let site = Site::new().await;
    let before = site.control().counts().token_requests;
    // Blocks of 512 or 1024 bytes: less than a probe takes, more than a ledger.
    let mut process = site.start_after("trap '' XFSZ; ulimit -f 20", false).await;
    let cause = complaint(&mut process).await;
    let expected = format!(
        "cannot write {:?}: check that it exists, belongs to this user and has room: file too large",
        site.directory().join("test.tmp")
    );
    assert_eq!(cause, expected);
    assert_eq!(site.control().counts().token_requests, before);
    assert!(!site.directory().join("test.tmp").exists(), "nothing is left of the probe");
}

#[tokio::test]
async fn on_a_read_only_file_system_a_stored_token_serves_and_none_is_requested() {
    if !can_mount() {
        return;
    }
    let site = Site::new().await;
    let process = site.start().await;
    assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
    process.kill();
    let before = site.control().counts();
    let bound = "mount --bind \"$store\" \"$store\"; mount -o remount,bind,ro \"$store\"";
    let mut process = site.start_after(bound, true).await;
    assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
    site.control().expire_access_tokens();
    let refused = site.get(&process, ECHO).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["x-ringbearer-replay"], "no; no newer token to be had");
    let cause = complaint(&mut process).await;
    assert!(cause.starts_with("cannot "), "{cause}");
    assert!(cause.ends_with(": read-only file system"), "{cause}");
    assert_eq!(site.control().counts().token_requests, before.token_requests);
}

#[tokio::test]
async fn no_umask_makes_the_files_more_or_less_than_ours() {
    for umask in ["0", "0777"] {
        let site = Site::new().await;
        let process = site.start_after(&format!("umask {umask}"), false).await;
        assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&site.directory()), 0o700, "umask {umask}");
        let mut seen = 0;
        for entry in fs::read_dir(site.directory()).unwrap() {
            let path = entry.unwrap().path();
            assert_eq!(mode(&path), 0o600, "umask {umask}: {}", path.display());
            seen += 1;
        }
        assert!(seen >= 3, "session, lock and ledger: {seen}");
    }
}

#[tokio::test]
async fn a_fifo_in_place_of_the_session_stops_nobody_and_is_said() {
    let site = Site::new().await;
    let before = site.control().counts().token_requests;
    let fifo = "mkdir -m 700 \"$store\"; mkfifo -m 600 \"$store/test.json\"";
    let mut process = site.start_after(fifo, false).await;
    let cause = complaint(&mut process).await;
    let expected = format!(
        "{:?} is not safe to keep tokens in: it is not a regular file; remove it",
        site.directory().join("test.json")
    );
    assert_eq!(cause, expected);
    fs::remove_file(site.directory().join("test.json")).unwrap();
    let answer = site.get(&process, ECHO).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(json(answer).await.is_object());
    assert_eq!(site.control().counts().token_requests, before + 1);
}
