//! Threat 35: identities never mix, whatever shares a connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ringbearer::key::KeyDigest;
use ringbearer::sandbox::Rules;
use tokio::net::TcpStream;

use crate::support::{ECHO, Environment, LONG_IDLE, Wishes};

/// The identities, whose users at the sandbox are 1, 2 and 3.
const IDENTITIES: [&str; 3] = ["test", "sales", "hr"];
/// Of each.
const CALLS: usize = 10_000;
const CONNECTIONS: usize = 4;

/// How a request says as whom it calls.
#[derive(Clone, Copy, Debug)]
enum Way {
    Field,
    Path,
    Host,
    Key,
}

const WAYS: [Way; 4] = [Way::Field, Way::Path, Way::Host, Way::Key];

/// A request as `identity`, which says so in `way`. Its target names the identity, so that what arrives
/// can be compared with what was meant.
fn request(identity: &str, way: Way, is_h2: bool) -> Request<Empty<Bytes>> {
    let target = format!("{ECHO}?for={identity}");
    let target = match way {
        Way::Path => format!("/.ringbearer/as/{identity}{target}"),
        _ => target,
    };
    let host = match way {
        Way::Host => format!("{identity}.example"),
        _ => "proxy.example".to_owned(),
    };
    let key = match way {
        Way::Key => format!("key-of-{identity}"),
        _ => "key-of-operator".to_owned(),
    };
    let uri = if is_h2 { format!("http://{host}{target}") } else { target };
    let mut request = Request::builder().uri(uri).header("x-api-key", key);
    if !is_h2 {
        request = request.header("host", host);
    }
    if let Way::Field = way {
        request = request.header("x-ringbearer-identity", identity);
    }
    request.body(Empty::new()).unwrap()
}

async fn environment() -> Environment {
    let client = |name: &str, identities: &str| {
        let digest = KeyDigest::of(format!("key-of-{name}"));
        format!("[client.{name}]\nkey_sha256 = \"{digest}\"\nidentities = \"{identities}\"\n")
    };
    let clients: String = IDENTITIES.iter().map(|name| client(name, name)).collect();
    let identity = format!(
        "jwt = \"sandbox-jwt-1\"\nhosts = \"test.example\"\n\
         [identity.sales]\njwt = \"sandbox-jwt-2\"\nhosts = \"sales.example\"\n\
         [identity.hr]\njwt = \"sandbox-jwt-3\"\nhosts = \"hr.example\"\n{clients}{}",
        client("operator", "*")
    );
    let rules = Rules { log_capacity: 2 * 3 * CALLS, ..Rules::unlimited() };
    let proxy = format!("{LONG_IDLE}h2c = true\n");
    Environment::with(Wishes { rules, proxy, identity, ..Wishes::default() }).await
}

/// The requests of one connection, in an order in which each identity and way follows each other.
fn calls(connection: usize) -> impl Iterator<Item = (&'static str, Way)> {
    let mut random = fastrand::Rng::with_seed(connection as u64);
    let mut calls = Vec::new();
    for identity in IDENTITIES {
        let count = CALLS / CONNECTIONS;
        calls.extend((0..count).map(|number| (identity, WAYS[number % WAYS.len()])));
    }
    random.shuffle(&mut calls);
    calls.into_iter()
}

async fn over_h1(address: SocketAddr, connection: usize) {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (mut sender, driver) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(driver);
    for (identity, way) in calls(connection) {
        sender.ready().await.expect("the connection is kept");
        let answer = sender.send_request(request(identity, way, false)).await.unwrap();
        assert_eq!(answer.status().as_u16(), 200, "{identity} {way:?}");
        answer.into_body().collect().await.unwrap();
    }
}

async fn over_h2(address: SocketAddr, connection: usize) {
    let tcp = TcpStream::connect(address).await.unwrap();
    tcp.set_nodelay(true).unwrap();
    let (mut sender, driver) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(driver);
    let calls: Vec<_> = calls(connection).collect();
    for together in calls.chunks(20) {
        // All of them are under way at once.
        let mut answers = Vec::new();
        for (identity, way) in together {
            sender.ready().await.expect("the connection is kept");
            answers.push((identity, way, sender.send_request(request(identity, *way, true))));
        }
        for (identity, way, answer) in answers {
            let answer = answer.await.unwrap();
            assert_eq!(answer.status().as_u16(), 200, "{identity} {way:?}");
            answer.into_body().collect().await.unwrap();
        }
    }
}

#[tokio::test]
async fn thirty_thousand_calls_over_shared_connections_carry_each_their_own_identitys_token() {
    let environment = environment().await;
    environment.rest().await;
    environment.control().clear_log();
    let address = environment.address();
    let all = (0..CONNECTIONS).map(|connection| match connection % 2 {
        0 => tokio::spawn(over_h1(address, connection)),
        _ => tokio::spawn(over_h2(address, connection)),
    });
    for connection in all.collect::<Vec<_>>() {
        connection.await.unwrap();
    }
    let mut arrived = BTreeMap::<_, usize>::new();
    for arrival in environment.control().log() {
        if let Some((_, meant)) = arrival.target.split_once("?for=") {
            *arrived.entry((meant.to_owned(), arrival.user)).or_default() += 1;
        }
    }
    let expected =
        IDENTITIES.iter().zip(1..).map(|(name, user)| (((*name).to_owned(), Some(user)), CALLS));
    assert_eq!(arrived, expected.collect());
    environment.finish().await;
}
