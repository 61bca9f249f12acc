//! Redirects are the client's affair: following one would carry the token to where it leads (threat 30).

use tokio::net::TcpListener;

use crate::support::{ECHO, Environment, Wishes};
use crate::wire::{Wire, get};

#[tokio::test]
async fn no_redirect_of_ringcentrals_is_followed_with_the_token() {
    let [upstream, trap] = [
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    let url = format!("http://{}", upstream.local_addr().unwrap());
    let elsewhere = format!("http://{}{ECHO}", trap.local_addr().unwrap());
    let wishes = Wishes { upstream_url: Some(url), ..Wishes::default() };
    let environment = Environment::with(wishes).await;
    environment.control().wait_until(|counts| counts.token_answers == 1).await;
    let statuses = [301, 302, 303, 307, 308];
    let location = elsewhere.clone();
    let answering = tokio::spawn(async move {
        let (stream, _) = upstream.accept().await.unwrap();
        let mut wire = Wire::over(stream);
        for status in statuses {
            let head = wire.head().await.unwrap();
            assert!(head.contains("\r\nauthorization: Bearer "), "{head}");
            wire.send(format!(
                "HTTP/1.1 {status} Elsewhere\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n"
            ))
            .await;
        }
        // Nobody asks again: a followed redirect back to this host would.
        assert!(wire.is_closed().await);
    });
    let mut wire = Wire::open(environment.address()).await;
    for status in statuses {
        let answer = wire.ask(get(ECHO)).await;
        assert_eq!((answer.status, answer.field("location")), (status, Some(&*elsewhere)));
    }
    environment.finish().await;
    answering.await.unwrap();
    let followed = tokio::select! {
        biased;
        _ = trap.accept() => true,
        () = std::future::ready(()) => false,
    };
    assert!(!followed, "somebody went where the redirect led");
}
