//! Many uploads that meet a 401 at once: what is kept of them stays under its cap, and each is replayed
//! or passed on with the reason; none is sent twice for nothing.
//!
//! `RINGBEARER_UPLOADS` and `RINGBEARER_UPLOAD_BYTES` say other numbers.

use std::collections::BTreeMap;

use ringbearer::sandbox::{Rules, Sandbox, SandboxOptions};

use crate::program::Program;
use crate::support::{ECHO, sends};
use crate::wire::{Wire, get};

/// So many of the uploads fit into the memory for replays.
const FIT: usize = 8;
/// What the buffers of one connection on either side of the proxy may hold.
const BUFFERS_KIB: u64 = 2 * 1024;

fn wanted(name: &str, usual: usize) -> usize {
    let wanted = std::env::var_os(name);
    wanted.map_or(usual, |number| number.to_str().unwrap().parse().unwrap())
}

#[tokio::test]
async fn uploads_that_are_refused_together_stay_within_the_memory_for_replays() {
    let uploads = wanted("RINGBEARER_UPLOADS", 20);
    let bytes = wanted("RINGBEARER_UPLOAD_BYTES", 4_000_000);
    let rules = Rules { log_capacity: 10 * uploads, ..Rules::unlimited() };
    let options = SandboxOptions { rules, ..SandboxOptions::default() };
    let sandbox = Sandbox::start(options).await.unwrap();
    let limits = format!("max_replay_bytes = \"{bytes}B\"\nreplay_memory = \"{}B\"", FIT * bytes);
    let program = Program::start(&sandbox, &limits, &[]).await;
    assert_eq!(Wire::open(program.address).await.ask(get(ECHO)).await.status, 200);
    let before = program.peak_memory();
    sandbox.control().revoke_access_tokens();
    let content = std::sync::Arc::new(vec![b'a'; bytes]);
    let each = (0..uploads).map(|n| {
        let (address, content) = (program.address, std::sync::Arc::clone(&content));
        tokio::spawn(async move {
            let mut wire = Wire::open(address).await;
            let head = format!("POST {ECHO}?n={n} HTTP/1.1\r\nHost: a\r\n");
            wire.send(format!("{head}Content-Length: {}\r\n\r\n", content.len())).await;
            wire.send(&*content).await;
            let answer = wire.answer().await;
            let replay = answer.field("x-ringbearer-replay").map(str::to_owned);
            (n, answer.status, replay)
        })
    });
    let mut outcomes = BTreeMap::<_, usize>::new();
    let mut answers = Vec::new();
    for one in each.collect::<Vec<_>>() {
        let (n, status, replay) = one.await.unwrap();
        *outcomes.entry((status, replay.clone())).or_default() += 1;
        answers.push((n, status, replay));
    }
    let growth = program.peak_memory() - before;
    let log = sandbox.control().log();
    let sends = sends(&log);
    for (n, status, replay) in answers {
        let sent = &sends[format!("{ECHO}?n={n}").as_str()];
        match (status, replay.as_deref()) {
            (200, Some("yes")) => assert_eq!(*sent, [Some(401), Some(200)]),
            // It came when there was a new token already.
            (200, None) => assert_eq!(*sent, [Some(200)]),
            (401, Some("no; replay_memory is used up")) => assert_eq!(*sent, [Some(401)]),
            other => panic!("{other:?}"),
        }
    }
    let kept = outcomes.get(&(200, Some("yes".to_owned()))).copied().unwrap_or_default();
    assert!(kept > 0, "{outcomes:?}");
    let (cap, buffers) = ((FIT * bytes / 1024) as u64, BUFFERS_KIB * uploads as u64);
    assert!(growth < cap + buffers, "{growth} KiB more: {outcomes:?}");
    if std::env::var_os("RINGBEARER_UPLOADS").is_some() {
        #[allow(clippy::print_stderr, reason = "whoever asks for a number wants to read it")]
        {
            eprintln!("{uploads} uploads of {bytes} bytes: {growth} KiB more, {outcomes:?}");
        }
    }
}
