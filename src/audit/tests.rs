use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::clock::Timestamp;

const NOW: Timestamp = Timestamp::from_unix_millis(1_700_000_000_000);

fn opened(path: &Path, queue: usize) -> AuditLog {
    AuditLog::to(path.to_owned(), queue, &Clock::manual(NOW)).unwrap()
}

fn note(log: &AuditLog, identity: &str) {
    log.note(&Event::Token(Printed { identity }));
}

fn read(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Written, and lost.
fn counts(log: &AuditLog) -> (u64, u64) {
    let counts = log.counts().unwrap();
    (counts.written, counts.lost)
}

#[test]
fn the_file_is_its_owners_alone_and_only_grows() {
    let files = TempDir::new().unwrap();
    let path = files.path().join("audit.jsonl");
    for run in 1..=2 {
        let log = opened(&path, 8);
        note(&log, "sales");
        log.close();
        assert_eq!(counts(&log), (1, 0));
        assert_eq!(read(&path).len(), run);
    }
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    opened(&path, 8).close();
    let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o640, "whoever opens it to a group means that");
}

#[test]
fn a_file_that_cannot_be_appended_to_is_named() {
    let path = PathBuf::from("/nonexistent/audit.jsonl");
    let settings = AuditSettings { file: path };
    let error = AuditLog::open(Some(&settings), &Clock::system()).unwrap_err();
    assert_eq!(
        crate::telemetry::chain(&error),
        "audit.file \"/nonexistent/audit.jsonl\" cannot be opened for appending: no such file or directory"
    );
}

#[test]
fn without_a_file_nothing_is_noted() {
    let log = AuditLog::open(None, &Clock::system()).unwrap();
    note(&log, "sales");
    log.reopen();
    log.close();
    assert_eq!((log.is_on(), log.counts()), (false, None));
}

#[test]
fn renaming_it_away_under_load_loses_no_line() {
    let files = TempDir::new().unwrap();
    let path = files.path().join("audit.jsonl");
    let log = opened(&path, 20_000);
    let threads: Vec<_> = (0..4)
        .map(|thread| {
            let log = log.clone();
            thread::spawn(move || {
                for number in 0..2000 {
                    note(&log, &format!("{thread}-{number}"));
                }
            })
        })
        .collect();
    let mut rotated = Vec::new();
    while threads.iter().any(|thread| !thread.is_finished()) || rotated.is_empty() {
        let away = files.path().join(format!("audit.{}", rotated.len()));
        if fs::rename(&path, &away).is_ok() {
            rotated.push(away);
            log.reopen();
        }
    }
    for thread in threads {
        thread.join().unwrap();
    }
    log.close();
    if path.exists() {
        rotated.push(path);
    }
    let lines: Vec<_> = rotated.iter().flat_map(|file| read(file)).collect();
    let mut names: Vec<_> = lines.iter().map(|it| it["identity"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!((lines.len(), names.len(), counts(&log)), (8000, 8000, (8000, 0)));
}

#[test]
fn whoever_is_told_of_a_rename_goes_on_in_a_new_file_at_once() {
    let files = TempDir::new().unwrap();
    let (path, away) = (files.path().join("audit.jsonl"), files.path().join("audit.1"));
    let log = opened(&path, 8);
    fs::rename(&path, &away).unwrap();
    log.reopen();
    log.close();
    assert_eq!((read(&path).len(), read(&away).len()), (0, 0));
}

#[test]
fn lines_that_a_full_disk_does_not_take_are_counted() {
    let log = opened(Path::new("/dev/full"), 4);
    for _ in 0..50 {
        note(&log, "sales");
    }
    log.close();
    assert_eq!(counts(&log), (0, 50));
    note(&log, "sales");
    assert_eq!(counts(&log), (0, 51), "after its end too");
}

#[test]
fn what_was_lost_leaves_a_line_that_says_so() {
    let files = TempDir::new().unwrap();
    let path = files.path().join("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RWXU, 0).unwrap();
    // For reading and writing: it opens before anybody else has.
    let mut reader = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let log = opened(&path, 4);
    let mut noted = 0;
    while log.counts().unwrap().lost == 0 {
        note(&log, "sales");
        noted += 1;
    }
    let (mut text, mut told) = (String::new(), 0);
    while told < noted {
        let mut bytes = [0; 4096];
        let count = reader.read(&mut bytes).unwrap();
        text.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        told = whole
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap())
            .map(|line| line["lines"].as_u64().unwrap_or(1))
            .sum();
    }
    let gap = r#"{"time":"2023-11-14T22:13:20.000Z","event":"lost","lines":1}"#;
    assert!(text.contains(gap), "{}", &text[text.len().saturating_sub(500)..]);
    assert_eq!(told, noted);
    log.close();
}

#[test]
fn a_log_that_nobody_closes_is_written_all_the_same() {
    let files = TempDir::new().unwrap();
    let path = files.path().join("audit.jsonl");
    let log = opened(&path, 8);
    note(&log, "sales");
    drop(log);
    while read(&path).is_empty() {
        thread::park_timeout(Duration::from_millis(1));
    }
}
