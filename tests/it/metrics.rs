//! What the worker threads count, as Prometheus reads it: figures, bounds, and the files that use them.

#![allow(clippy::float_cmp, reason = "counts are whole numbers")]

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::process::{Command, Stdio};

use reqwest::Method;
use ringbearer::sandbox::{Fault, FaultKind, Place};

use tempfile::TempDir;

use crate::exposition::{Exposition, parsed};
use crate::support::{ECHO, Environment, Wishes, settle};
use crate::wire::Wire;

/// Families that there are where proxies share limits through a store, or speak TLS with their apps.
const ELSEWHERE: [&str; 6] = [
    "ringbearer_throttle_shared",
    "ringbearer_throttle_replicas",
    "ringbearer_throttle_exchanges_total",
    "ringbearer_throttle_penalties_heard_total",
    "ringbearer_tls_reloads_total",
    "ringbearer_tls_stale",
];

/// `[identity.test]` and `[identity.other]`, and an admin listener.
async fn environment() -> Environment {
    environment_with("").await
}

async fn environment_with(more: &str) -> Environment {
    let identity = format!(
        "jwt = \"sandbox-jwt\"\n[identity.other]\njwt = \"sandbox-jwt-2\"\n\
         [admin]\nlisten = \"127.0.0.1:0\"\n{more}"
    );
    let environment = Environment::with(Wishes { identity, ..Wishes::default() }).await;
    environment.rest().await;
    environment
}

impl Environment {
    async fn page(&self) -> String {
        let address = self.proxy().admin_addresses()[0];
        let asked = self.client.get(format!("http://{address}/metrics")).send().await;
        asked.unwrap().text().await.unwrap()
    }

    async fn figures(&self) -> Exposition {
        parsed(&self.page().await)
    }

    /// The figures once they are so: an answer's end reaches its client before the counters.
    async fn figures_with(&self, series: &str, value: f64) -> HashMap<String, f64> {
        let mut last = None;
        for _ in 0..1000 {
            let samples = self.figures().await.samples;
            last = samples.get(series).copied();
            if last == Some(value) {
                return samples;
            }
            settle().await;
        }
        panic!("{series} is {last:?}, never {value}");
    }

    async fn call(&self, method: Method, target: &str, identity: &str) -> u16 {
        let request = self.client.request(method, self.url(target));
        let answer = request.header("X-Ringbearer-Identity", identity).send().await.unwrap();
        let status = answer.status().as_u16();
        answer.bytes().await.unwrap();
        status
    }
}

fn requests(identity: &str, method: &str, status: &str) -> String {
    format!(
        "ringbearer_requests_total{{identity=\"{identity}\",method=\"{method}\",status=\"{status}\"}}"
    )
}

fn fault(code: u16) -> Fault {
    Fault::once(Place::Api, FaultKind::Status { code, body: None, retry_after: None })
}

#[tokio::test]
async fn each_request_is_counted_once_by_identity_method_and_answer() {
    let environment = environment().await;
    for _ in 0..3 {
        assert_eq!(environment.call(Method::GET, ECHO, "test").await, 200);
    }
    assert_eq!(environment.call(Method::POST, ECHO, "other").await, 200);
    for code in [404, 503, 429] {
        environment.control().inject(fault(code));
        assert_eq!(environment.call(Method::PUT, ECHO, "other").await, code);
    }
    assert_eq!(environment.call(Method::GET, ECHO, "nobody").await, 403);
    environment.control().expire_access_tokens();
    assert_eq!(environment.call(Method::GET, ECHO, "test").await, 200, "healed");
    let samples = environment.figures_with("ringbearer_upstream_connections_idle", 1.0).await;
    for (series, value) in [
        (requests("test", "read", "2xx"), 4.0),
        (requests("test", "write", "2xx"), 0.0),
        (requests("test", "read", "401"), 0.0),
        (requests("other", "write", "2xx"), 1.0),
        (requests("other", "write", "4xx"), 1.0),
        (requests("other", "write", "429"), 1.0),
        (requests("other", "write", "5xx"), 1.0),
        (requests("_none", "read", "4xx"), 1.0),
        (requests("_other", "read", "2xx"), 0.0),
        ("ringbearer_refusals_total{code=\"RBR-105\"}".into(), 1.0),
        ("ringbearer_replays_total{outcome=\"replayed\"}".into(), 1.0),
        ("ringbearer_replays_total{outcome=\"content_too_long\"}".into(), 0.0),
        ("ringbearer_upstream_seconds_count".into(), 8.0),
        ("ringbearer_added_seconds_count".into(), 9.0),
        ("ringbearer_requests_in_progress".into(), 0.0),
        ("ringbearer_requests_abandoned_total".into(), 0.0),
        ("ringbearer_upstream_connections".into(), 1.0),
        ("ringbearer_upstream_connections_opened_total".into(), 1.0),
        ("ringbearer_websockets".into(), 0.0),
        ("ringbearer_replay_memory_bytes".into(), 0.0),
        ("ringbearer_replay_memory_limit_bytes".into(), 67_108_864.0),
    ] {
        assert_eq!(samples.get(&series), Some(&value), "{series} in {samples:#?}");
    }
    // The client keeps one connection, or a second one.
    let (open, ever) = (
        samples["ringbearer_client_connections"],
        samples["ringbearer_client_connections_accepted_total"],
    );
    assert!((1.0..=2.0).contains(&open) && ever == open, "{open} of {ever}");
    environment.finish().await;
}

#[tokio::test]
async fn a_request_under_way_is_in_progress_and_a_client_that_leaves_abandons_it() {
    let environment = environment().await;
    environment.control().inject(Fault::once(Place::Api, FaultKind::Hang));
    let before = environment.control().counts().api_requests;
    let call =
        environment.client.get(environment.url(ECHO)).header("X-Ringbearer-Identity", "test");
    let call = tokio::spawn(call.send());
    environment.control().wait_until(|counts| counts.api_requests == before + 1).await;
    let samples = environment.figures().await.samples;
    assert_eq!(samples["ringbearer_requests_in_progress"], 1.0);
    assert_eq!(samples["ringbearer_upstream_connections_idle"], 0.0);
    call.abort();
    let samples = environment.figures_with("ringbearer_requests_abandoned_total", 1.0).await;
    assert_eq!(samples["ringbearer_requests_in_progress"], 0.0);
    assert_eq!(samples[&requests("test", "read", "2xx")], 0.0, "nothing was answered");
}

/// Threat 37.
#[tokio::test]
async fn a_hundred_thousand_paths_have_as_many_series_as_one() {
    let environment = environment().await;
    environment.control().set_rules(|rules| rules.log_capacity = 0);
    let mut wire = Wire::open(environment.address()).await;
    // Of a hundred one is RingCentral's to answer; the others name as many identities as paths.
    let request = |number: usize| {
        let identity = match number % 100 {
            0 => "test".to_owned(),
            _ => format!("stranger-{number}"),
        };
        format!(
            "GET {ECHO}/{number}?page={number} HTTP/1.1\r\nHost: proxy.test\r\n\
             X-Ringbearer-Identity: {identity}\r\n\r\n"
        )
    };
    let series = |page: Exposition| page.samples.into_keys().collect::<BTreeSet<_>>();
    let mut before = None;
    for hundred in 0..1000 {
        let requests: String = (hundred * 100..hundred * 100 + 100).map(request).collect();
        wire.send(requests).await;
        for _ in 0..100 {
            wire.answer().await;
        }
        if before.is_none() {
            before = Some(series(environment.figures().await));
        }
    }
    let after = environment.figures().await;
    let asked = ["read", "write"].map(|method| {
        let of = |identity, status| after.samples[&requests(identity, method, status)];
        of("test", "2xx") + of("test", "4xx") + of("_none", "4xx") + of("_other", "4xx")
    });
    assert_eq!(asked, [100_000.0, 0.0]);
    assert_eq!(after.samples["ringbearer_refusals_total{code=\"RBR-105\"}"], 99_000.0);
    assert_eq!(Some(series(after)), before, "to the letter");
    environment.finish().await;
}

#[tokio::test]
async fn prometheus_own_parser_reads_the_page() {
    let has_parser = Command::new("python3").args(["-c", "import prometheus_client"]).output();
    if !has_parser.is_ok_and(|output| output.status.success()) {
        assert!(std::env::var_os("CI").is_none(), "apt-get install python3-prometheus-client");
        return;
    }
    let environment = environment().await;
    environment.call(Method::GET, ECHO, "test").await;
    let page = environment.page().await;
    let program = "import sys\n\
        from prometheus_client.parser import text_string_to_metric_families as read\n\
        for family in read(sys.stdin.read()):\n\
        \x20   print(family.name, family.type, len(family.samples), bool(family.documentation))";
    let mut python = Command::new("python3");
    python.args(["-c", program]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut python = python.spawn().unwrap();
    python.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let read = String::from_utf8(output.stdout).unwrap();
    // It calls a counter by its name without `_total`.
    let ours: BTreeSet<_> = parsed(&page)
        .families
        .into_iter()
        .map(|(name, kind)| (name.trim_end_matches("_total").to_owned(), kind))
        .collect();
    let theirs: BTreeSet<_> = read
        .lines()
        .map(|line| {
            let words: Vec<_> = line.split(' ').collect();
            assert_eq!(words[3], "True", "{line}");
            (words[0].to_owned(), words[1].to_owned())
        })
        .collect();
    assert_eq!(ours, theirs);
    for line in ["ringbearer_added_seconds histogram 24 True", "ringbearer_store_up gauge 1 True"] {
        assert!(read.lines().any(|it| it == line), "{line} in {read}");
    }
    environment.finish().await;
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| word.starts_with("ringbearer_") || word.starts_with("process_"))
        .collect()
}

#[tokio::test]
async fn dashboard_and_alerts_ask_for_nothing_but_what_is_there() {
    let files = TempDir::new().unwrap();
    let audit = format!("[audit]\nfile = '{}'\n", files.path().join("audit").display());
    let environment = environment_with(&audit).await;
    environment.call(Method::GET, ECHO, "nobody").await;
    let there = environment.figures().await;
    let names: BTreeSet<_> = there
        .families
        .iter()
        .flat_map(|(name, kind)| match &**kind {
            "histogram" => {
                ["_bucket", "_sum", "_count"].map(|suffix| format!("{name}{suffix}")).to_vec()
            }
            _ => vec![name.clone()],
        })
        .collect();
    let dashboard = include_str!("../../packaging/grafana-dashboard.json");
    let alerts = include_str!("../../packaging/prometheus-alerts.yaml");
    for (file, text) in [("the dashboard", dashboard), ("the alerts", alerts)] {
        for name in named(text) {
            let is_there = names.contains(name) || ELSEWHERE.contains(&name);
            assert!(is_there, "{file} asks for {name}, which there is not");
        }
    }
    // What nobody looks at need not be counted.
    let shown: BTreeSet<_> = named(dashboard).union(&named(alerts)).copied().collect();
    for family in there.families.keys().map(String::as_str).chain(ELSEWHERE) {
        assert!(shown.iter().any(|name| name.starts_with(family)), "{family} is shown nowhere");
    }
    let board: serde_json::Value = serde_json::from_str(dashboard).unwrap();
    let panels = board["panels"].as_array().unwrap();
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        let targets = panel["targets"].as_array().unwrap();
        assert!(!targets.is_empty() && panel["title"].is_string(), "{panel}");
        assert!(
            targets.iter().all(|it| !named(it["expr"].as_str().unwrap()).is_empty()),
            "{panel}"
        );
    }
    let mut ids: Vec<_> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), panels.len());
    let names: Vec<_> =
        alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    let wanted = [
        "RingbearerIdentityNeedsLogin",
        "RingbearerSessionDying",
        "RingbearerTokenGone",
        "RingbearerStoreDown",
        "RingbearerBudgetExhausted",
        "RingbearerThrottled",
        "RingbearerUpstreamFailing",
        "RingbearerConfigurationStale",
        "RingbearerDescriptorsShort",
        "RingbearerLimitReached",
        "RingbearerAuditLinesLost",
    ];
    assert_eq!(names, wanted);
    environment.finish().await;
}
