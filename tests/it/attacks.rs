//! Attacks on framing, through a real proxy to an upstream that notes what arrives.
//!
//! Each case is written to a connection of its own with a marker request right behind it, as an attacker
//! would place somebody else's request. What counts is that as many requests arrive as were answered from
//! there: one more, or one less, is a desynchronisation. `attacks/corpus.rs` has the cases and what each
//! is to come to.

mod chunked;
mod corpus;
mod lengths;
mod lines;
mod manners;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::raw::{Arrived, serve};
use crate::support::{Environment, LONG_IDLE, Wishes, settle};
use corpus::{Case, Says, corpus};

/// Far more than any case takes.
const BOUND: Duration = Duration::from_secs(60);

const MARKER: &str = "GET /marker HTTP/1.1\r\nHost: marker.test\r\nConnection: close\r\n\r\n";

/// A proxy before an upstream that tells what arrives.
struct Target {
    environment: Environment,
    arrivals: UnboundedReceiver<Arrived>,
    upstream: JoinHandle<()>,
}

/// How a case is sent.
#[derive(Clone, Copy, Debug)]
enum Manner {
    Whole,
    /// In two writes, cut so many bytes behind the beginning, counted round.
    CutAt(usize),
}

/// What all cases came to.
#[derive(Debug, Default, PartialEq)]
struct Tally {
    cases: usize,
    /// Answers from upstream, markers included.
    accepted: usize,
    /// Requests that came there.
    arrived: usize,
    markers: usize,
    refused: BTreeMap<String, usize>,
}

impl Target {
    async fn new(proxy: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let wishes = Wishes {
            upstream_url: Some(format!("http://{}", listener.local_addr().unwrap())),
            proxy: format!("{LONG_IDLE}{proxy}"),
            identity: "jwt = \"sandbox-jwt\"\n[facade]\nmode = \"refuse\"".into(),
            ..Wishes::default()
        };
        let environment = Environment::with(wishes).await;
        let (sender, arrivals) = unbounded_channel();
        let upstream = tokio::spawn(serve(listener, sender));
        Self { environment, arrivals, upstream }
    }

    async fn suffer(&mut self, cases: &[Case], manner: Manner) -> Tally {
        let mut tally = Tally { cases: cases.len(), ..Tally::default() };
        let mut wrong = Vec::new();
        for case in cases {
            let received = send(self.environment.address(), case, manner).await;
            let answers = answers(&received, &case.name);
            let said: Vec<_> = answers.iter().map(|(says, _)| *says).collect();
            let arrived = std::iter::from_fn(|| self.arrivals.try_recv().ok());
            let arrived: Vec<_> = arrived.map(|it| it.target).collect();
            let accepted = said.iter().filter(|says| **says == Says::Passes).count();
            if !case.is_met_by(&said, &arrived) {
                let bytes = String::from_utf8_lossy(&case.bytes[..case.bytes.len().min(300)]);
                wrong.push(format!("{} {manner:?}: {bytes:?}: {said:?} {arrived:?}", case.name));
            }
            let markers = arrived.iter().filter(|target| *target == "/marker").count();
            tally.accepted += accepted;
            tally.arrived += arrived.len();
            tally.markers += markers;
            for (says, status) in &answers {
                if let Says::Refused(code) = says {
                    *tally.refused.entry(format!("{status} {code}")).or_default() += 1;
                }
            }
        }
        assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
        tally
    }

    /// Whether nothing came later, either.
    async fn finish(mut self) {
        settle().await;
        assert!(!self.upstream.is_finished());
        let late = self.arrivals.try_recv().map(|it| it.target);
        assert!(late.is_err(), "{late:?}");
        self.upstream.abort();
        self.environment.finish().await;
    }
}

/// All that comes back until the proxy closes.
async fn send(address: SocketAddr, case: &Case, manner: Manner) -> Vec<u8> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (mut from, mut to) = stream.into_split();
    let bytes = [&case.bytes[..], MARKER.as_bytes()].concat();
    let writing = async {
        let cut = match manner {
            Manner::Whole => bytes.len(),
            Manner::CutAt(place) => place % bytes.len(),
        };
        // It may close before it has read everything.
        let _ = to.write_all(&bytes[..cut]).await;
        if cut < bytes.len() {
            for _ in 0..10 {
                settle().await;
            }
            let _ = to.write_all(&bytes[cut..]).await;
        }
    };
    let mut received = Vec::new();
    let reading = async { from.read_to_end(&mut received).await };
    let Ok((read, ())) = timeout(BOUND, async { tokio::join!(reading, writing) }).await else {
        panic!("{} {manner:?}: it stays open: {:?}", case.name, String::from_utf8_lossy(&received));
    };
    assert!(read.is_ok(), "{} {manner:?}: an answer may be lost: {read:?}", case.name);
    received
}

/// The answers in `received`, without interim ones: who answered, and with what status.
fn answers(mut received: &[u8], name: &str) -> Vec<(Says, u16)> {
    let mut answers = Vec::new();
    while !received.is_empty() {
        let end = received.windows(4).position(|window| window == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("{name}: half a head: {received:?}"));
        let head = std::str::from_utf8(&received[..end]).unwrap().to_ascii_lowercase();
        received = &received[end + 4..];
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        if status == 100 {
            continue;
        }
        let field = |name: &str| {
            let lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.filter(|(known, _)| *known == name).map(|(_, value)| value.to_owned()).next()
        };
        let length: usize = field("content-length").unwrap().parse().unwrap();
        let says = if let Some(code) = field("x-ringbearer-error") {
            let known = corpus::CODES.iter().find(|known| known.eq_ignore_ascii_case(&code));
            let code = *known.unwrap_or_else(|| panic!("{name}: {code}"));
            let content = &received[..length.min(received.len())];
            if let Ok(content) = serde_json::from_slice::<serde_json::Value>(content) {
                assert_eq!(content["errorCode"], code, "{name}");
            } else {
                assert!(received.is_empty(), "{name}: only HEAD has no content");
            }
            Says::Refused(code)
        } else {
            assert_eq!(status, 200, "{name}: {head}");
            Says::Passes
        };
        answers.push((says, status));
        received = &received[length.min(received.len())..];
    }
    answers
}

/// How many cases each subject has.
fn subjects(cases: &[Case]) -> Vec<(&'static str, usize)> {
    let mut subjects: Vec<(&'static str, usize)> = Vec::new();
    for case in cases {
        match subjects.last_mut() {
            Some((subject, count)) if *subject == case.subject => *count += 1,
            _ => subjects.push((case.subject, 1)),
        }
    }
    subjects
}

#[tokio::test]
async fn no_attack_on_framing_makes_two_sides_see_different_requests() {
    let cases = corpus();
    assert_eq!(subjects(&cases), corpus::SUBJECTS);
    let mut target = Target::new("").await;
    let tally = target.suffer(&cases, Manner::Whole).await;
    assert_eq!(tally.arrived, tally.accepted);
    assert_eq!(tally, expected());
    target.finish().await;
}

#[tokio::test]
async fn an_attack_in_two_pieces_comes_to_the_same() {
    let mut target = Target::new("").await;
    let cases = corpus();
    let (mut tally, mut random) = (Tally::default(), fastrand::Rng::with_seed(9112));
    for case in cases {
        let manner = Manner::CutAt(random.usize(..100_000));
        let one = target.suffer(&[case], manner).await;
        tally.cases += one.cases;
        tally.accepted += one.accepted;
        tally.arrived += one.arrived;
        tally.markers += one.markers;
        for (code, count) in one.refused {
            *tally.refused.entry(code).or_default() += count;
        }
    }
    assert_eq!(tally, expected());
    target.finish().await;
}

#[tokio::test]
async fn an_attack_where_http2_could_come_too_comes_to_the_same() {
    let mut target = Target::new("h2c = true\n").await;
    // The beginning of HTTP/2 is none there.
    let cases: Vec<_> = corpus().into_iter().filter(|case| case.subject != "HTTP/2").collect();
    let tally = target.suffer(&cases, Manner::Whole).await;
    let mut expected = expected();
    expected.cases -= 3;
    assert_eq!(tally, expected);
    target.finish().await;
}

fn expected() -> Tally {
    let refused = corpus::REFUSED.iter().map(|(code, count)| ((*code).to_owned(), *count));
    let refused: BTreeMap<_, _> = refused.collect();
    let [cases, accepted, markers] = corpus::TOTALS;
    Tally { cases, accepted, arrived: accepted, markers, refused }
}
