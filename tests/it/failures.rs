//! `docs/failures.md`: each row is shown by tests; and the failures that belong to no other subject.

use std::time::Duration;

use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::authority::{Authority, connect};
use crate::process::Site;
use crate::support::{ECHO, Environment, Wishes};
use crate::threats;
use crate::wire::{Wire, get};

const PAGE: &str = include_str!("../../docs/failures.md");

#[test]
fn every_row_names_its_tests() {
    let rows =
        PAGE.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what fails"));
    let mut named = 0;
    for row in rows {
        let shown = row.trim_end_matches(" |").rsplit_once(" | ").unwrap().1;
        for test in shown.split(", ") {
            threats::assert_exists(test.trim_matches('`'));
            named += 1;
        }
    }
    assert!(named > 70, "{named}");
}

/// Takes connections until its queue is full, and none out of it: what comes then gets no answer.
struct Swallowing {
    _listener: Socket,
    _queued: Vec<Socket>,
    url: String,
}

impl Swallowing {
    fn new() -> Self {
        let stream = || Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let listener = stream();
        listener.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        listener.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while queued.len() < 100 {
            let socket = stream();
            let is_full = socket.connect_timeout(&address, Duration::from_millis(200)).is_err();
            queued.push(socket);
            if is_full {
                let url = format!("http://{}", address.as_socket().unwrap());
                return Self { _listener: listener, _queued: queued, url };
            }
        }
        panic!("its queue has no end");
    }
}

#[tokio::test]
async fn a_network_that_swallows_what_goes_to_ringcentral_costs_connect_timeout() {
    let nowhere = Swallowing::new();
    let (upstream, upstream_url) = ("connect_timeout = \"30s\"".into(), Some(nowhere.url.clone()));
    let environment =
        Environment::with(Wishes { upstream, upstream_url, ..Wishes::default() }).await;
    environment.until(|status| status.usable).await;
    let mut wire = Wire::open(environment.address()).await;
    wire.send(get(ECHO)).await;
    let answer = tokio::select! {
        answer = wire.answer() => answer,
        () = environment.keep_passing() => unreachable!(),
    };
    assert_eq!((answer.status, answer.error()), (504, Some("RBR-301")));
    assert_eq!(answer.field("retry-after"), Some("5"));
    let message = format!("no connection to {} within 30 s", nowhere.url);
    assert_eq!(answer.json()["message"], message);
}

#[tokio::test]
async fn an_expired_certificate_of_ringcentrals_is_refused_and_said_so() {
    let authority = Authority::new();
    let acceptor = authority.expired("old", "DNS:localhost").acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    let accepting =
        tokio::spawn(
            async move { acceptor.accept(listener.accept().await.unwrap().0).await.is_err() },
        );
    let upstream = format!("ca_file = {:?}", authority.file());
    let wishes = Wishes { upstream, upstream_url: Some(url.clone()), ..Wishes::default() };
    let environment = Environment::with(wishes).await;
    let answer = Wire::open(environment.address()).await.ask(get(ECHO)).await;
    assert_eq!((answer.status, answer.error()), (502, Some("RBR-302")));
    let message = answer.json()["message"].as_str().unwrap().to_owned();
    let said = format!("the TLS handshake with {url} failed: ");
    assert!(message.starts_with(&said) && message.contains("expired"), "{message}");
    assert!(accepting.await.unwrap(), "nothing was sent over it");
}

#[tokio::test]
async fn an_expired_certificate_of_its_own_is_replaced_without_a_restart() {
    let authority = Authority::new();
    let own = authority.expired("own", "DNS:localhost");
    let proxy = format!("client_idle_timeout = \"1h\"\n{}", own.tls(""));
    let environment = Environment::with(Wishes { proxy, ..Wishes::default() }).await;
    let refused = connect(authority.client(None), environment.address()).await.unwrap_err();
    assert!(refused.to_string().contains("expired"), "{refused}");
    own.replace_by(&authority.issue("new", &["DNS:localhost"]));
    while connect(authority.client(None), environment.address()).await.is_err() {
        environment.advance(Duration::from_secs(1)).await;
    }
}

#[tokio::test]
async fn out_of_open_files_a_proxy_serves_whom_it_has_and_takes_the_others_later() {
    let site = Site::new().await;
    let mut process = site.start_after("ulimit -n 64", false).await;
    let request = format!("GET {ECHO} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut inside = Wire::open(process.address()).await;
    assert_eq!(inside.ask(&request).await.status, 200);
    let mut others = Vec::new();
    for _ in 0..80 {
        others.push(TcpStream::connect(process.address()).await.unwrap());
    }
    let line = process.says("a connection could not be accepted").await;
    assert!(line["error"].as_str().unwrap().contains("Too many open files"), "{line}");
    assert_eq!(inside.ask(&request).await.status, 200, "over the connections that it has");
    // The last one waits to be accepted, and is when there is room.
    let last = others.pop().unwrap();
    drop(others);
    assert_eq!(Wire::over(last).ask(&request).await.status, 200);
}
