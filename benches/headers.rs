//! Field rewriting of a realistic request and answer; for scale, what it costs to clone such a map.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use ringbearer::proxy::headers::{Found, Injected, to_client, to_upstream};

/// What Python's `requests` sends through an app that has its own junk credential.
const REQUEST: [(&str, &str); 9] = [
    ("host", "127.0.0.1:8080"),
    ("user-agent", "python-requests/2.32.3"),
    ("accept-encoding", "gzip, deflate, br"),
    ("accept", "application/json"),
    ("connection", "keep-alive"),
    ("authorization", "Bearer undefined"),
    ("content-type", "application/json"),
    ("content-length", "182"),
    ("x-user-agent", "MyApp/1.0 RCPYTHONSDK/0.9.2"),
];

/// What RingCentral answers.
const ANSWER: [(&str, &str); 13] = [
    ("server", "nginx"),
    ("date", "Mon, 23 Nov 2026 18:00:00 GMT"),
    ("content-type", "application/json;charset=utf-8"),
    ("transfer-encoding", "chunked"),
    ("connection", "keep-alive"),
    ("rcrequestid", "0b9b9a3e-2f0a-4f4e-9b6a-1c2d3e4f5a6b"),
    ("x-rate-limit-group", "light"),
    ("x-rate-limit-limit", "50"),
    ("x-rate-limit-remaining", "49"),
    ("x-rate-limit-window", "60"),
    ("content-language", "en-US"),
    ("vary", "Accept-Encoding"),
    ("strict-transport-security", "max-age=31536000"),
];

fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let parse = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    lines.iter().map(parse).collect()
}

fn rewriting(c: &mut Criterion) {
    let bearer = HeaderValue::from_str(&format!("Bearer {}", "t".repeat(900))).expect("visible");
    let (host, via) = (HeaderValue::from_static("platform.ringcentral.com"), "1.1 ringbearer-0");
    let via = HeaderValue::from_static(via);
    let (request, answer) = (fields(&REQUEST), fields(&ANSWER));

    let mut group = c.benchmark_group("headers");
    group.throughput(Throughput::Elements(1));
    group.bench_function("to_upstream", |b| {
        let rewrite = |mut fields: HeaderMap| {
            let found = Found::in_request(&fields);
            to_upstream(
                &mut fields,
                &found,
                Injected { bearer: Some(&bearer), host: Some(&host), via: &via },
            );
            assert_eq!(fields.len(), REQUEST.len());
            fields
        };
        b.iter_batched(|| request.clone(), rewrite, BatchSize::SmallInput);
    });
    group.bench_function("to_client", |b| {
        let rewrite = |mut fields: HeaderMap| {
            to_client(&mut fields);
            assert_eq!(fields.len(), ANSWER.len() - 2);
            fields
        };
        b.iter_batched(|| answer.clone(), rewrite, BatchSize::SmallInput);
    });
    group.bench_function("clone, for scale", |b| b.iter(|| black_box(request.clone())));
    group.finish();
}

criterion_group!(benches, rewriting);
criterion_main!(benches);
