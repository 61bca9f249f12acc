//! Field rewriting of a realistic request and answer; for scale, what it costs to clone such a map. And
//! the look for a token of the facade's, which every request gets.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue};
use ringbearer::clock::Timestamp;
use ringbearer::proxy::facade::Facade;
use ringbearer::proxy::facade::pass::{Kind, Pass};
use ringbearer::proxy::headers::{Found, Injected, to_client, to_upstream};
use ringbearer::secret::SecretKey;
use ringbearer::settings::FacadeSettings;

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

/// What a request costs that may show a token of the facade's.
fn facade_token(c: &mut Criterion) {
    let keys = [SecretKey::parse(&SecretKey::generate()).expect("it is a key")];
    let facade = Facade::new(FacadeSettings {
        answers: true,
        keys: keys.to_vec(),
        access_token_ttl: Duration::from_secs(86_400),
        refresh_token_ttl: Duration::from_secs(604_800),
        redirect_uris: Vec::new(),
    });
    let keys = facade.keys().expect("one is configured");
    let pass = Pass {
        client: Some("billing".to_owned()),
        identity: "sales".to_owned(),
        expires_at: Timestamp::from_unix_millis(0),
    };
    let token = keys.issue(Kind::Access, &pass);
    let with = |bearer: &str| {
        let mut map = fields(&REQUEST);
        map.insert("authorization", format!("Bearer {bearer}").parse().expect("visible"));
        map
    };
    let (none, junk, ours) = (fields(&REQUEST[..5]), with("undefined"), with(token.expose()));

    let mut group = c.benchmark_group("facade");
    group.throughput(Throughput::Elements(1));
    for (name, map, is_shown) in
        [("no credential", &none, false), ("another credential", &junk, false)]
    {
        let found = Found::in_request(map);
        group.bench_function(name, |b| {
            b.iter(|| {
                let shown = facade.shown(black_box(map), &found);
                assert_eq!(shown.is_some(), is_shown);
            });
        });
    }
    let found = Found::in_request(&ours);
    group.bench_function("a token of its own", |b| {
        b.iter(|| {
            let shown = facade.shown(black_box(&ours), &found).expect("it is there");
            let read = keys.read(Kind::Access, shown);
            assert_eq!(read.as_ref(), Some(&pass));
            read
        });
    });
    group.finish();
}

criterion_group!(benches, rewriting, facade_token);
criterion_main!(benches);
