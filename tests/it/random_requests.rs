//! Ten thousand made-up requests arrive as they were sent, but for what docs/passing.md lists.
//!
//! The list is read from the page itself: a field that is changed without standing there fails, and
//! so does one that stands there and is never changed.

use std::collections::BTreeSet;

use fastrand::Rng;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::fidelity::odd_target;
use crate::raw::{Arrived, serve};
use crate::support::{Environment, LONG_IDLE, Wishes};
use crate::wire::Wire;

const REQUESTS: usize = 10_000;
const APP: &str = "https://app.example.com";

/// What the page says is done about some fields.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    Replaced,
    Removed,
    PlainAskedFor,
    Strengthened,
    Joined,
    Added,
    SaidAnew,
}

/// One row of its table.
struct Row {
    names: Vec<String>,
    exceptions: Vec<String>,
    rule: Rule,
}

/// The table "Towards RingCentral", row by row.
fn listed() -> Vec<Row> {
    let page = include_str!("../../docs/passing.md");
    let table = page.split_once("Towards RingCentral:\n\n| fields | |\n|---|---|\n").unwrap().1;
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let rows: Vec<_> = rows.filter_map(row).collect();
    assert!(rows.len() >= 8, "{} rows", rows.len());
    rows
}

fn row(line: &str) -> Option<Row> {
    let (fields, said) = line.trim_matches(['|', ' ']).split_once(" | ").unwrap();
    if fields.starts_with("the same names") {
        return None;
    }
    let outside = fields.split('(').map(|part| part.rsplit_once(')').map_or(part, |it| it.1));
    let inside = fields.split('(').skip(1).map(|part| part.split_once(')').unwrap().0);
    let rule = match said.split([' ', ':']).next().unwrap() {
        "replaced" => Rule::Replaced,
        "removed" => Rule::Removed,
        "`identity`," => Rule::PlainAskedFor,
        "without" => Rule::Strengthened,
        "joined" => Rule::Joined,
        "one" => Rule::Added,
        "said" => Rule::SaidAnew,
        other => panic!("the page says something new of {fields}: {other}"),
    };
    let names = outside.flat_map(quoted).collect();
    Some(Row { names, exceptions: inside.flat_map(quoted).collect(), rule })
}

/// The names in backticks, in lower case, without values.
fn quoted(text: &str) -> Vec<String> {
    let words = text.split('`').skip(1).step_by(2);
    words.map(|word| word.split(':').next().unwrap().to_ascii_lowercase()).collect()
}

/// The entry that a field falls under, and what is done about it. The last row that has it counts.
fn entry<'a>(rows: &'a [Row], name: &str) -> Option<(&'a str, Rule)> {
    let fits = |entry: &String| match entry.strip_suffix('*') {
        Some(start) => name.starts_with(start),
        None => name == entry,
    };
    let in_row = |row: &'a Row| {
        let is_excepted = row.exceptions.iter().any(|it| it == name);
        let entry = row.names.iter().find(|it| fits(it)).filter(|_| !is_excepted)?;
        Some((entry.as_str(), row.rule))
    };
    rows.iter().rev().find_map(in_row)
}

/// A request as it is sent.
struct Sent {
    method: String,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
    content: Content,
}

enum Content {
    None,
    Length(Vec<u8>),
    Chunked(Vec<Vec<u8>>, Vec<(String, Vec<u8>)>),
}

impl Sent {
    fn bytes(&self, random: &mut Rng) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.fields {
            line(&mut bytes, name, value);
        }
        match &self.content {
            Content::None => bytes.extend(b"\r\n"),
            Content::Length(content) => {
                line(&mut bytes, "Content-Length", content.len().to_string().as_bytes());
                bytes.extend(b"\r\n");
                bytes.extend(content);
            }
            Content::Chunked(chunks, trailers) => {
                line(&mut bytes, "Transfer-Encoding", b"chunked");
                bytes.extend(b"\r\n");
                for chunk in chunks {
                    let extension = if random.u8(..8) == 0 { ";a=b" } else { "" };
                    bytes.extend(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
                    bytes.extend(chunk);
                    bytes.extend(b"\r\n");
                }
                bytes.extend(b"0\r\n");
                for (name, value) in trailers {
                    line(&mut bytes, name, value);
                }
                bytes.extend(b"\r\n");
            }
        }
        bytes
    }

    fn values(&self, name: &str) -> Vec<&[u8]> {
        let same = self.fields.iter().filter(|(it, _)| it.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.as_slice()).collect()
    }

    fn words(&self, name: &str) -> Vec<String> {
        let values = self.values(name).into_iter().map(String::from_utf8_lossy);
        let text = values.collect::<Vec<_>>().join(",").to_ascii_lowercase();
        text.split(',').map(|word| word.trim().to_owned()).filter(|it| !it.is_empty()).collect()
    }
}

fn line(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
}

fn any<T: Copy>(random: &mut Rng, of: &[T]) -> T {
    of[random.usize(..of.len())]
}

/// Methods that have a meaning, and some that have none.
const METHODS: [&str; 11] = [
    "GET", "GET", "POST", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "PROPFIND",
    "X!#$%&'*",
];

/// Fields that mean nothing to a proxy.
const ORDINARY: [&str; 20] = [
    "Accept",
    "ACCEPT-LANGUAGE",
    "User-Agent",
    "x-custom",
    "X_Custom",
    "X-!#$%&'*+.^`|~",
    "Content-Type",
    "Range",
    "If-None-Match",
    "If-Modified-Since",
    "X-Request-Id",
    "Prefer",
    "Sec-Fetch-Mode",
    "Priority",
    "Proxy-Status",
    "X-User-Agent",
    "RCRequestId",
    "Cache-Control",
    "Pragma",
    "1",
];

/// Fields that the page lists, with values that set what is done about them in motion.
const LISTED: [(&str, &str); 36] = [
    ("Authorization", "Bearer undefined"),
    ("authorization", "Basic aWQ6c2VjcmV0"),
    ("Connection", "keep-alive, X-Custom"),
    ("Connection", "authorization, via , host,Content-Length"),
    ("Connection", "Upgrade, HTTP2-Settings"),
    ("Keep-Alive", "timeout=5"),
    ("TE", "trailers, gzip"),
    ("TE", "gzip;q=0.5"),
    ("Trailer", "X-Sum"),
    ("Trailer", "X-Sum, Authorization, Host"),
    ("Upgrade", "h2c"),
    ("HTTP2-Settings", "AAMAAABkAAQAAP__"),
    ("Proxy-Authorization", "Basic x"),
    ("Proxy-Connection", "keep-alive"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Accept-Encoding", "gzip, identity;q=0"),
    ("If-Match", "\"a\", \"b\""),
    ("If-Match", "W/\"a\",\"W/b\""),
    ("Expect", "100-continue"),
    ("Origin", APP),
    ("Forwarded", "for=1.2.3.4"),
    ("X-Forwarded-For", "1.2.3.4"),
    ("X-Forwarded-Host", "evil.test"),
    ("X-Real-IP", "1.2.3.4"),
    ("X-Ringbearer-Error", "RBR-101"),
    ("X-Ringbearer-Any", "x"),
    ("X_Forwarded_Proto", "https"),
    ("X_Ringbearer-Identity", "boss"),
    ("Transfer_Encoding", "gzip"),
    ("Proxy_Authorization", "Basic x"),
    ("X_Real_IP", "1.2.3.4"),
    ("Cookie", "a=1"),
    ("cookie", "b=2; c=3"),
    ("Cookie", "d=\"4\""),
    ("Via", "1.0 edge, 1.1 other (cache)"),
    ("Via", "2 front"),
];

fn request(random: &mut Rng) -> Sent {
    let mut fields = vec![("Host".to_owned(), b"proxy.test".to_vec())];
    for _ in 0..random.usize(..8) {
        let name = any(random, &ORDINARY);
        for _ in 0..any(random, &[1, 1, 1, 2, 3]) {
            fields.push((name.to_owned(), value(random)));
        }
    }
    for _ in 0..random.usize(..7) {
        let (name, value) = any(random, &LISTED);
        // Two origins are no page's.
        let is_there = fields.iter().any(|(known, _): &(String, _)| known == name);
        if !(is_there && ["Origin", "Expect"].contains(&name)) {
            fields.push((name.to_owned(), value.as_bytes().to_vec()));
        }
    }
    random.shuffle(&mut fields);
    let method = any(random, &METHODS).to_owned();
    Sent { content: content(random), target: odd_target(random), method, fields }
}

/// What a field may hold: visible characters, others of eight bits, blanks in between.
fn value(random: &mut Rng) -> Vec<u8> {
    let mut value: Vec<u8> = (0..random.usize(..30))
        .map(|_| match random.u8(..10) {
            0 => b' ',
            1 => b'\t',
            2 => random.u8(0x80..),
            _ => random.u8(0x21..0x7f),
        })
        .collect();
    value = value.trim_ascii().to_vec();
    value
}

fn content(random: &mut Rng) -> Content {
    let piece = |random: &mut Rng| {
        let most = any(random, &[10, 100, 1000, 20_000]);
        (0..random.usize(..most)).map(|_| random.u8(..)).collect::<Vec<u8>>()
    };
    match random.u8(..4) {
        0 => Content::Length(piece(random)),
        1 => {
            let chunks = (0..random.usize(..5)).map(|_| piece(random));
            let chunks = chunks.filter(|chunk| !chunk.is_empty()).collect();
            let trailers = [("X-Sum", "7"), ("Authorization", "Bearer evil"), ("X-Other", "1")];
            let trailers = trailers.iter().filter(|_| random.bool());
            let trailers =
                trailers.map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()));
            Content::Chunked(chunks, trailers.collect())
        }
        _ => Content::None,
    }
}

/// Compares, and notes which entries of the page's list have been seen at work.
fn compare(sent: &Sent, arrived: &Arrived, rows: &[Row], seen: &mut BTreeSet<String>) {
    assert_eq!((&arrived.method, &arrived.target), (&sent.method, &sent.target));
    let mut names: BTreeSet<String> =
        arrived.fields.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.extend(sent.fields.iter().map(|(name, _)| name.to_ascii_lowercase()));
    for name in
        names.iter().filter(|name| !["content-length", "transfer-encoding"].contains(&&***name))
    {
        let (before, after) = (sent.values(name), arrived.values(name));
        let context = || format!("{name}: {before:?} became {after:?} in {:?}", sent.fields);
        let spelled = name.replace('_', "-");
        let entry = entry(rows, name).or(match entry(rows, &spelled) {
            Some((entry, _)) if spelled != *name => Some((entry, Rule::Removed)),
            _ => None,
        });
        let is_nominated = sent.words("connection").contains(name);
        match entry {
            None if is_nominated => assert!(after.is_empty(), "{}", context()),
            None => assert_eq!(before, after, "{}", context()),
            Some((entry, rule)) => {
                assert!(keeps(rule, name, sent, arrived), "{rule:?} of {entry}: {}", context());
                if before != after {
                    seen.insert(entry.to_owned());
                }
            }
        }
    }
    compare_contents(sent, arrived);
}

/// Whether a field was dealt with as the page says.
fn keeps(rule: Rule, name: &str, sent: &Sent, arrived: &Arrived) -> bool {
    let (before, after) = (sent.values(name), arrived.values(name));
    let wants_trailers = sent.words("te").iter().any(|word| word == "trailers");
    match rule {
        Rule::Replaced => after.len() == 1 && !before.contains(&after[0]),
        Rule::Removed if name == "connection" && wants_trailers => after == [b"te"],
        Rule::Removed => after.is_empty(),
        Rule::PlainAskedFor => {
            let is_refused = before.iter().any(|value| value.ends_with(b"identity;q=0"));
            if is_refused { after == before } else { after == [b"identity"] }
        }
        Rule::Strengthened => {
            let text = |values: Vec<&[u8]>| String::from_utf8(values.join(&b'\n')).unwrap();
            text(after) == text(before).replace("W/\"a\"", "\"a\"")
        }
        Rule::Joined => after == [before.join(&b"; "[..])],
        Rule::Added => {
            let kept =
                if sent.words("connection").contains(&name.to_owned()) { vec![] } else { before };
            after.len() == kept.len() + 1 && after.starts_with(&kept)
        }
        Rule::SaidAnew if name == "te" => {
            if wants_trailers {
                after == [b"trailers"]
            } else {
                after.is_empty()
            }
        }
        Rule::SaidAnew => after.len() == before.len() && after.iter().all(|it| it == b"x-sum"),
    }
}

fn compare_contents(sent: &Sent, arrived: &Arrived) {
    let told = || format!("{} {} {:?}", sent.method, sent.target, sent.fields);
    let length = arrived.values("content-length");
    match &sent.content {
        Content::None => {
            assert!(arrived.content.is_empty() && !arrived.is_chunked, "{}", told());
        }
        Content::Length(content) => {
            assert_eq!(length, [content.len().to_string().as_bytes()], "{}", told());
            assert!(arrived.content == *content, "{}", told());
        }
        Content::Chunked(chunks, trailers) => {
            assert!(arrived.is_chunked && length.is_empty(), "{}", told());
            assert!(arrived.content == chunks.concat(), "{}", told());
            let is_announced = sent.words("trailer").contains(&"x-sum".to_owned());
            let passing = trailers.iter().filter(|(name, _)| is_announced && name == "X-Sum");
            let passing: Vec<_> = passing.map(|(_, value)| value.as_slice()).collect();
            let values: Vec<_> =
                arrived.trailers.iter().map(|(_, value)| value.as_slice()).collect();
            assert_eq!(values, passing, "{}", told());
        }
    }
}

#[tokio::test]
async fn ten_thousand_random_requests_change_in_nothing_that_the_page_does_not_list() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let wishes = Wishes {
        upstream_url: Some(format!("http://{}", listener.local_addr().unwrap())),
        proxy: format!("{LONG_IDLE}cors_origins = \"{APP}\"\n"),
        identity: "jwt = \"sandbox-jwt\"\n[facade]\nmode = \"refuse\"".into(),
        ..Wishes::default()
    };
    let environment = Environment::with(wishes).await;
    let (arrivals, mut arrived) = mpsc::unbounded_channel();
    let upstream = tokio::spawn(serve(listener, arrivals));
    let mut wire = Wire::open(environment.address()).await;
    let mut random = Rng::with_seed(20_251_125);
    let (rows, mut seen, mut passed) = (listed(), BTreeSet::new(), 0);
    while passed < REQUESTS {
        let sent = request(&mut random);
        wire.send(sent.bytes(&mut random)).await;
        let mut answer = wire.answer_to(&sent.method).await;
        while answer.status == 100 {
            answer = wire.answer_to(&sent.method).await;
        }
        if answer.error() == Some("RBR-104") {
            wire = Wire::open(environment.address()).await;
            continue;
        }
        assert_eq!(answer.status, 200, "{} {} {:?}", sent.method, sent.target, sent.fields);
        compare(&sent, &arrived.recv().await.unwrap(), &rows, &mut seen);
        passed += 1;
    }
    let all: BTreeSet<String> = rows.into_iter().flat_map(|row| row.names).collect();
    let unseen: Vec<_> = all.difference(&seen).filter(|it| *it != "transfer-encoding").collect();
    assert_eq!(unseen, Vec::<&String>::new(), "listed, but never changed");
    upstream.abort();
}

/// A `GET` as sent and as it arrived, with these fields more.
fn pair(sent: &[(&str, &str)], arrived: &[(&str, &str)]) -> (Sent, Arrived) {
    let lines = |lines: &[(&str, &str)]| -> Vec<_> {
        lines.iter().map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec())).collect()
    };
    let (method, target) = ("GET".to_owned(), "/".to_owned());
    let arrived = Arrived { fields: lines(arrived), ..Arrived::default() };
    let arrived = Arrived { method: method.clone(), target: target.clone(), ..arrived };
    (Sent { method, target, fields: lines(sent), content: Content::None }, arrived)
}

#[test]
#[should_panic(expected = "x-new")]
fn a_field_that_is_added_without_being_listed_is_noticed() {
    let (sent, arrived) = pair(&[("X-A", "1")], &[("x-a", "1"), ("x-new", "1")]);
    compare(&sent, &arrived, &listed(), &mut BTreeSet::new());
}

#[test]
#[should_panic(expected = "x-a")]
fn a_field_that_changes_without_being_listed_is_noticed() {
    let (sent, arrived) = pair(&[("X-A", "1"), ("X-A", "2")], &[("x-a", "2"), ("x-a", "1")]);
    compare(&sent, &arrived, &listed(), &mut BTreeSet::new());
}

#[test]
#[should_panic(expected = "Removed of x-forwarded-*")]
fn a_listed_field_that_is_not_changed_is_noticed() {
    let (sent, arrived) = pair(&[("X_Forwarded-For", "1")], &[("x_forwarded-for", "1")]);
    compare(&sent, &arrived, &listed(), &mut BTreeSet::new());
}
