//! Leading links back in JSON, in pieces of 16 KiB as they come from a socket: a documented answer and
//! a list of 1 MiB, with links and without. For scale, what it costs to copy the same and to parse it.

use std::hint::black_box;
use std::sync::Arc;

use bytes::Bytes;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringbearer::proxy::links::LinkMap;
use ringbearer::proxy::links::json::JsonRewriter;
use serde::de::IgnoredAny;
use serde_json::Value;

const PIECE: usize = 16 * 1024;

/// A documented answer of about 4 KiB.
fn answer() -> String {
    let lines = include_str!("../src/sandbox/data/examples.jsonl").lines();
    let contents = lines.filter_map(|line| {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        let (_, content) = line["response"].as_str()?.split_once("\n\n")?;
        Some(content.to_owned())
    });
    contents
        .filter(|content| serde_json::from_str::<IgnoredAny>(content).is_ok())
        .min_by_key(|content| content.len().abs_diff(4096))
        .expect("there are examples")
}

/// An entry of a call log as RingCentral prints it, but for its id.
const ENTRY: &str = r#"{
    "uri" : "https://platform.ringcentral.com/restapi/v1.0/account/1477660004/extension/1477660004/call-log/ID?view=Detailed",
    "id" : "ID",
    "sessionId" : "4504330004",
    "startTime" : "2018-09-11T14:48:31.000Z",
    "duration" : 28,
    "type" : "Voice",
    "direction" : "Inbound",
    "action" : "Phone Call",
    "result" : "Accepted",
    "to" : {
      "phoneNumber" : "+18662019836",
      "name" : "John Smith"
    },
    "from" : {
      "phoneNumber" : "+16316761623",
      "location" : "Ronkonkoma, NY"
    },
    "recording" : {
      "contentUri" : "https://media.ringcentral.com/restapi/v1.0/account/1477660004/recording/ID/content"
    }
  }"#;

/// A call log of about `len` bytes.
fn list(len: usize) -> String {
    let entries: Vec<String> =
        (0..len / ENTRY.len()).map(|id| ENTRY.replace("ID", &format!("X2IF{id:06}"))).collect();
    format!("{{\n  \"records\" : [ {} ]\n}}", entries.join(", "))
}

fn pieces(text: &str) -> Vec<Bytes> {
    let text = Bytes::from(text.to_owned());
    (0..text.len()).step_by(PIECE).map(|at| text.slice(at..text.len().min(at + PIECE))).collect()
}

fn rewrite(links: &Arc<LinkMap>, pieces: &[Bytes]) -> usize {
    let mut rewriter = JsonRewriter::new(Arc::clone(links));
    let mut len = 0;
    for piece in pieces {
        len += black_box(rewriter.feed(piece.clone())).len();
    }
    len + rewriter.finish().len()
}

fn rewriting(c: &mut Criterion) {
    let links = LinkMap::new([
        ("https://platform.ringcentral.com", "http://127.0.0.1:8080"),
        ("https://media.ringcentral.com", "http://127.0.0.1:8080/.ringbearer/media"),
        ("wss://ws-api.ringcentral.com", "ws://127.0.0.1:8080/.ringbearer/ws"),
    ]);
    let links = Arc::new(links.expect("origins"));
    for (name, text) in [("4 KiB", answer()), ("1 MiB", list(1024 * 1024))] {
        let without = text.replace("https://", "path://");
        let led_back = text
            .replace("https://platform.ringcentral.com", "http://127.0.0.1:8080")
            .replace("https://media.ringcentral.com", "http://127.0.0.1:8080/.ringbearer/media");
        assert_ne!(led_back, text);
        let (with, plain) = (pieces(&text), pieces(&without));

        let mut group = c.benchmark_group(format!("links, {name}"));
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function("with links", |b| {
            b.iter(|| assert_eq!(rewrite(&links, &with), led_back.len()));
        });
        group.bench_function("without", |b| {
            b.iter(|| assert_eq!(rewrite(&links, &plain), without.len()));
        });
        group.bench_function("copying, for scale", |b| {
            b.iter(|| with.iter().map(|piece| black_box(piece.to_vec()).len()).sum::<usize>());
        });
        group.bench_function("parsing, for scale", |b| {
            b.iter(|| serde_json::from_str::<IgnoredAny>(&text).expect("JSON"));
        });
        group.finish();
    }
}

criterion_group!(benches, rewriting);
criterion_main!(benches);
