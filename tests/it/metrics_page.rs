//! `docs/metrics.md`: every family with its type, its labels and its meaning, as a scrape of everything has them.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use ringbearer::sandbox::Rules;

use crate::authority::{Authority, https};
use crate::redis_server::RedisServer;
use crate::support::{Environment, REFRESH_IDENTITY, Wishes};

/// Set, it has the page written.
const WRITE: &str = "RINGBEARER_WRITE";

const INTRODUCTION: &str = "\
# Every metric

Made from a scrape of `/metrics` by `RINGBEARER_WRITE=1 cargo test --test it metrics_page::`, which needs
`redis-server`. A test fails while this page is behind.

`GET /metrics` is on the [admin listener](operation.md#the-admin-listener), in Prometheus' text format. Labels are
bounded: `identity` is each configured identity and the first hundred that were added; all others are `_other`. No label
holds a path, a query or anything that a client has made up.

| family | type | labels | meaning |
|---|---|---|---|
";

const END: &str = "
Some families are there only where there is something to say: `ringbearer_throttle_shared`, `_replicas`, `_exchanges_total`
and `_penalties_heard_total` with `store.redis`, `ringbearer_tls_…` with `[proxy.tls]`, `ringbearer_audit_lines_total` with
`[audit]`, all of `ringbearer_throttle_…` and `ringbearer_rate_limit_remaining` unless `proxy.throttle = false`.
What a reload does to counters is said under [Change the configuration](operation.md#change-the-configuration).

`packaging/prometheus-alerts.yaml` has the alerts that are worth being woken for, `packaging/grafana-dashboard.json` draws
the rest; a test compares both with what there is.
";

/// Labels whose values are all there from the start, so that they can be listed.
const CLOSED: [&str; 6] = ["outcome", "reason", "limit", "origin", "method", "status"];

/// One family of a scrape.
struct Family {
    name: String,
    kind: String,
    help: String,
    /// Each label with its values, in the order of their first appearance.
    labels: Vec<(String, Vec<String>)>,
}

/// What a proxy says in which everything is turned on.
async fn scrape() -> Option<String> {
    let server = RedisServer::start().await?;
    let authority = Authority::new();
    let own = authority.server();
    let proxy = format!("client_idle_timeout = \"1h\"\npacing = true\n{}", own.tls(""));
    let audit = authority.file().with_file_name("audit.jsonl");
    let admin = "[admin]\nlisten = \"127.0.0.1:0\"";
    let identity = format!("{REFRESH_IDENTITY}\n{admin}\n[audit]\nfile = \"{}\"", audit.display());
    let store = Some(format!("redis = {:?}", server.url()));
    let rules = Rules::default();
    let environment =
        Environment::with(Wishes { rules, proxy, identity, store, ..Wishes::default() }).await;
    let client = https(authority.client(None), environment.address());
    // An answer that says what is left of a limit.
    let extension = "/restapi/v1.0/account/~/extension/~";
    let url = format!("https://localhost:{}{extension}", environment.address().port());
    assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    let refused = client.get(&url).header("X-Ringbearer-Identity", "nobody").send().await;
    assert_eq!(refused.unwrap().status(), 403);
    let admin = environment.proxy().admin_addresses()[0];
    let page = environment.client.get(format!("http://{admin}/metrics")).send().await.unwrap();
    let page = page.text().await.unwrap();
    drop(client);
    environment.finish().await;
    Some(page)
}

fn families(page: &str) -> Vec<Family> {
    let mut families = Vec::<Family>::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            let (name, help) = (name.to_owned(), help.to_owned());
            families.push(Family { name, kind: String::new(), help, labels: Vec::new() });
            continue;
        }
        let family = families.last_mut().unwrap();
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            rest.split_once(' ').unwrap().1.clone_into(&mut family.kind);
        } else if let Some((_, labels)) = line.rsplit_once(' ').unwrap().0.split_once('{') {
            for label in labels.trim_end_matches('}').split(',') {
                let (label, value) = label.split_once('=').unwrap();
                family.has(label, value.trim_matches('"'));
            }
        }
    }
    families
}

impl Family {
    fn has(&mut self, label: &str, value: &str) {
        if !self.labels.iter().any(|(known, _)| known == label) {
            self.labels.push((label.to_owned(), Vec::new()));
        }
        let (_, values) = self.labels.iter_mut().find(|(known, _)| known == label).unwrap();
        if !values.iter().any(|known| known == value) {
            values.push(value.to_owned());
        }
    }

    /// A histogram's `le` is no label of its own.
    fn labels(&self) -> String {
        let labels = self.labels.iter().filter(|(label, _)| label != "le");
        let labels: Vec<_> = labels
            .map(|(label, values)| {
                let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
                let is_closed = CLOSED.contains(&label.as_str());
                if is_closed {
                    format!("`{label}` ({})", values.join(", "))
                } else {
                    format!("`{label}`")
                }
            })
            .collect();
        if labels.is_empty() { "–".to_owned() } else { labels.join(", ") }
    }
}

fn rendered(families: &[Family]) -> String {
    let mut page = INTRODUCTION.to_owned();
    for family in families {
        let Family { name, kind, help, .. } = family;
        writeln!(page, "| `{name}` | {kind} | {} | {help} |", family.labels()).unwrap();
    }
    page + END
}

#[tokio::test]
async fn the_page_is_what_prometheus_gets() {
    let Some(scraped) = scrape().await else { return };
    let families = families(&scraped);
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    if std::env::var_os(WRITE).is_some() {
        fs::write(&page, rendered(&families)).unwrap();
    }
    let written = fs::read_to_string(page).unwrap();
    assert!(
        written == rendered(&families),
        "docs/metrics.md is behind: {WRITE}=1 cargo test --test it metrics_page::"
    );
    for family in &families {
        assert!(
            ["counter", "gauge", "histogram"].contains(&family.kind.as_str()),
            "{}",
            family.name
        );
    }
    // Nothing in the code is left out of that scrape.
    let scraped = families.into_iter().map(|family| family.name);
    // Those of the process have the names that all programs give them.
    let scraped: BTreeSet<_> = scraped.filter(|name| !name.starts_with("process_")).collect();
    assert_eq!(in_the_code(), scraped);
}

/// The names of families in `src`, but for those of tests.
fn in_the_code() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(path) = left.pop() {
        if path.is_dir() {
            left.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let code = text.split("#[cfg(test)]").next().unwrap();
        for rest in code.split("\"ringbearer_").skip(1) {
            let name = rest.split('"').next().unwrap();
            if name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
                names.insert(format!("ringbearer_{name}"));
            }
        }
    }
    names
}
