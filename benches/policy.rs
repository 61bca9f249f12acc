//! What a policy costs a request: cutting up its path and walking the rules. For scale, the same for
//! fields and query, which have to be looked at for a second method.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use ringbearer::policy::{Policy, Written};

/// What Python's `requests` sends.
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

const CALL_LOG: &str = "/restapi/v1.0/account/~/extension/~/call-log";
const QUERY: &str = "?dateFrom=2024-01-01T00%3A00%3A00Z&perPage=100&view=Detailed";
const SMS: &str = "/restapi/v1.0/account/~/extension/~/sms";

fn policy(presets: &[&str], allow: &[&str], deny: &[&str]) -> Policy {
    let strings = |rules: &[&str]| rules.iter().map(|rule| (*rule).to_owned()).collect::<Vec<_>>();
    let allow = (!allow.is_empty()).then(|| strings(allow));
    let written = Written { presets: strings(presets), allow, deny: strings(deny) };
    Policy::compile(&written).expect("its rules are rules").expect("it has some").0
}

fn judging(c: &mut Criterion) {
    let parse = |(name, value): &(&'static str, &'static str)| {
        (HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    let (none, fields) = (HeaderMap::new(), REQUEST.iter().map(parse).collect::<HeaderMap>());
    let one = policy(&[], &["readUserCallLog"], &[]);
    let read_only = policy(&["read-only"], &[], &[]);
    let all = policy(
        &["read-only", "no-sms", "no-recordings", "no-calls", "no-webhooks"],
        &["createSMSMessage"],
        &[],
    );
    let groups = policy(&[], &["Light", "Medium", "Heavy"], &["DELETE *"]);
    let with_query = format!("{CALL_LOG}{QUERY}");

    let mut group = c.benchmark_group("policy");
    group.throughput(Throughput::Elements(1));
    for (name, policy, method, target, fields, passes) in [
        ("one operation", &one, Method::GET, CALL_LOG, &none, true),
        ("read-only", &read_only, Method::GET, CALL_LOG, &none, true),
        ("five presets", &all, Method::GET, CALL_LOG, &none, true),
        ("385 operations", &groups, Method::POST, SMS, &none, true),
        ("one operation, nine fields", &one, Method::GET, CALL_LOG, &fields, true),
        ("one operation, nine fields and a query", &one, Method::GET, &with_query, &fields, true),
        ("refused", &all, Method::POST, SMS, &none, false),
    ] {
        let target: Uri = target.parse().expect("a path");
        group.bench_function(name, |b| {
            b.iter(|| {
                let judged = policy.judge(black_box(&method), black_box(&target), fields);
                assert_eq!(judged.is_ok(), passes);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, judging);
criterion_main!(benches);
