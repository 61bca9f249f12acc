//! What the guard before hyper costs: a head is read by hyper's parser alone, and with [`Framing`] before
//! it; likewise contents, which it looks through or counts.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringbearer::server::framing::{Framing, Judged, Stage, Verdict};

/// What an app's HTTP library sends: six fields.
const HEAD: &[u8] =
    b"GET /restapi/v1.0/account/~/extension/~/message-store?perPage=100&page=1 HTTP/1.1\r\n\
    Host: 127.0.0.1:8080\r\n\
    User-Agent: python-requests/2.32.3\r\n\
    Accept-Encoding: gzip, deflate, br\r\n\
    Accept: application/json\r\n\
    Connection: keep-alive\r\n\
    Authorization: Bearer undefined\r\n\r\n";

fn post(content: usize) -> Vec<u8> {
    let head = format!("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: {content}\r\n\r\n");
    [head.as_bytes(), &vec![b'x'; content]].concat()
}

/// In pieces of 4 KiB.
fn chunks(number: usize) -> Vec<u8> {
    let mut bytes = b"POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    for _ in 0..number {
        bytes.extend_from_slice(b"1000\r\n");
        bytes.extend_from_slice(&[b'x'; 4096]);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

fn parse(bytes: &[u8]) -> usize {
    let mut fields = [httparse::EMPTY_HEADER; 32];
    let mut request = httparse::Request::new(&mut fields);
    let end = request.parse(bytes).expect("it is well-formed").unwrap();
    black_box(request.headers.len());
    end
}

fn guard(framing: &mut Framing, bytes: &[u8]) {
    let judged = framing.judge(black_box(bytes));
    assert_eq!(judged, Judged { passed: bytes.len(), verdict: Verdict::Sound });
    assert_eq!(framing.stage(0), Stage::Between);
}

fn heads(c: &mut Criterion) {
    let mut group = c.benchmark_group("framing, a head of six fields");
    group.throughput(Throughput::Bytes(HEAD.len() as u64));
    group.bench_function("parser alone", |b| b.iter(|| assert_eq!(parse(HEAD), HEAD.len())));
    group.bench_function("guard alone", |b| {
        let mut framing = Framing::http1();
        b.iter(|| guard(&mut framing, HEAD));
    });
    group.bench_function("guard and parser", |b| {
        let mut framing = Framing::http1();
        b.iter(|| {
            guard(&mut framing, HEAD);
            assert_eq!(parse(HEAD), HEAD.len());
        });
    });
    group.finish();
}

fn contents(c: &mut Criterion) {
    let (long, chunked) = (post(256 * 1024), chunks(64));
    let mut group = c.benchmark_group("framing, a content of 256 KiB");
    for (name, bytes) in [("of known length", &long), ("in chunks of 4 KiB", &chunked)] {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |b| {
            let mut framing = Framing::http1();
            b.iter(|| guard(&mut framing, bytes));
        });
    }
    group.finish();
}

criterion_group!(benches, heads, contents);
criterion_main!(benches);
