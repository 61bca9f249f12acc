//! The end: whatever was asked is answered, and idle connections do not hold it up.

use std::time::Duration;

use tokio::io::AsyncReadExt;

use crate::program::{Program, sandbox};
use crate::support::{ECHO, Environment, START, Wishes};
use crate::wire::{Wire, get};

const FILE: &str = "/restapi/v1.0/account/~/extension/~/message-store/1/content/2?size=50000000";

#[tokio::test]
async fn sigterm_under_load_leaves_no_request_unanswered() {
    let sandbox = sandbox().await;
    let program = Program::start(&sandbox, "", &[]).await;
    let address = program.address;
    let clients: Vec<_> = (0..16)
        .map(|_| {
            tokio::spawn(async move {
                let mut wire = Wire::open(address).await;
                for answered in 1_u64.. {
                    let answer = wire.ask(get(ECHO)).await;
                    assert_eq!((answer.status, answer.complete), (200, true));
                    if answer.field("connection") == Some("close") {
                        assert!(wire.is_closed().await);
                        return answered;
                    }
                }
                unreachable!("the connections outlive the program")
            })
        })
        .collect();
    let mut download = Wire::open(address).await;
    download.send(get(FILE)).await;
    sandbox.control().wait_until(|counts| counts.api_requests > 500).await;
    program.terminate();
    let mut answered = 1;
    for client in clients {
        answered += client.await.unwrap();
    }
    let download = download.answer().await;
    assert_eq!((download.content.len(), download.complete), (50_000_000, true));
    assert_eq!(program.ended().await.code(), Some(0));
    assert_eq!(sandbox.control().counts().api_requests, answered);
}

#[tokio::test]
async fn the_end_waits_for_a_download_but_not_for_idle_connections() {
    // By the machine's clock: time that a test moves would run ahead of the closing connections.
    let wishes = Wishes { manual_clock: false, ..Wishes::default() };
    let mut environment = Environment::with(wishes).await;
    let address = environment.address();
    let (mut kept, mut unused, mut half) =
        (Wire::open(address).await, Wire::open(address).await, Wire::open(address).await);
    assert_eq!(kept.ask(get(ECHO)).await.status, 200);
    half.send("GET / HT").await;
    let mut download = Wire::open(address).await;
    download.send(get(FILE)).await;
    let head = download.answer_without_content().await;
    assert_eq!((head.status, head.field("connection")), (200, None));
    let proxy = environment.proxy.take().unwrap();
    let stopping = tokio::spawn(proxy.stop());
    assert!(kept.is_closed().await, "a kept connection");
    assert!(unused.is_closed().await, "a connection that was never used");
    assert!(half.is_closed().await, "a request that never came to an end");
    assert!(!stopping.is_finished(), "the download is still in progress");
    let mut left = 50_000_000 - download.take_unread();
    let mut buffer = vec![0; 1024 * 1024];
    while left > 0 {
        let read = download.stream.read(&mut buffer).await.unwrap();
        assert!(read > 0, "{left} bytes are missing");
        left -= read;
    }
    stopping.await.unwrap();
    assert!(download.is_closed().await);
}

#[tokio::test]
async fn an_answer_during_the_end_says_so() {
    let mut environment = Environment::new().await;
    let mut wire = Wire::open(environment.address()).await;
    assert_eq!(wire.ask(get(ECHO)).await.field("connection"), None);
    let stopping = tokio::spawn(environment.proxy.take().unwrap().stop());
    // Time stands still, so the end lingers for as long as it takes to say so.
    let mut asked = 0;
    loop {
        let answer = wire.ask(get(ECHO)).await;
        asked += 1;
        assert_eq!(answer.status, 200);
        if answer.field("connection") == Some("close") {
            break;
        }
    }
    assert!(wire.is_closed().await);
    let ended = async {
        stopping.await.unwrap();
    };
    tokio::select! {
        () = ended => {}
        () = environment.keep_passing() => unreachable!(),
    }
    assert_eq!(environment.control().counts().api_requests, 1 + asked);
    assert!(environment.clock.now() > START + Duration::from_millis(500));
}
