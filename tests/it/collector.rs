//! Traces of our own: what RingCentral is told, and what a collector gets.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::support::{ECHO, Environment, Wishes, settle};
use crate::traces::{SPAN, TRACE, arrived};
use crate::wire::Wire;

/// Takes spans, and keeps the texts that came.
struct Collector {
    url: String,
    taken: Arc<Mutex<Vec<String>>>,
    serving: JoinHandle<()>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let taken = Arc::<Mutex<Vec<String>>>::default();
        let serving = tokio::spawn({
            let taken = Arc::clone(&taken);
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let mut wire = Wire::over(stream);
                    let Some(head) = wire.head().await else { continue };
                    assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n"), "{head}");
                    let content = wire.content(&head).await;
                    taken.lock().unwrap().push(String::from_utf8(content).unwrap());
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\
                                   Content-Length: 2\r\nConnection: close\r\n\r\n{}";
                    wire.stream.write_all(answer).await.unwrap();
                }
            }
        });
        Self { url, taken, serving }
    }

    fn texts(&self) -> Vec<String> {
        self.taken.lock().unwrap().clone()
    }

    /// All spans so far.
    fn spans(&self) -> Vec<Value> {
        let mut spans = Vec::new();
        for text in self.texts() {
            let content: Value = serde_json::from_str(&text).unwrap();
            for resource in content["resourceSpans"].as_array().unwrap() {
                let names = &resource["resource"]["attributes"];
                assert_eq!(attribute(names, "service.name"), "ringbearer");
                for scope in resource["scopeSpans"].as_array().unwrap() {
                    spans.extend(scope["spans"].as_array().unwrap().iter().cloned());
                }
            }
        }
        spans
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn attribute(attributes: &Value, key: &str) -> String {
    let found = attributes.as_array().unwrap().iter().find(|it| it["key"] == key);
    let Some(found) = found else { return String::new() };
    let value = found["value"].as_object().unwrap().values().next().unwrap();
    value.as_str().unwrap().to_owned()
}

/// A proxy that tells this collector.
async fn environment(collector: &str, more: &str) -> Environment {
    let identity = format!("jwt = \"sandbox-jwt\"\n[trace]\notlp_url = \"{collector}\"\n{more}");
    Environment::with(Wishes { identity, ..Wishes::default() }).await
}

#[tokio::test]
async fn a_traced_request_is_two_spans_and_ringcentral_is_told_the_second() {
    let collector = Collector::start().await;
    let environment = environment(&collector.url, "").await;
    environment.rest().await;
    let target = format!("{ECHO}?secret=canary-query");
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let fields = [
        ("traceparent", &*parent),
        ("tracestate", "a=1"),
        ("authorization", "Bearer canary-client"),
    ];
    environment.control().expire_access_tokens();
    let echoed = environment.traced(&target, &fields).await;
    let told = arrived(&echoed, "traceparent");
    assert_eq!((told.len(), arrived(&echoed, "tracestate")), (1, vec!["a=1".to_owned()]));

    // Nobody traces this one so far; a trace of its own begins.
    let fields = [("traceparent", "00-NONSENSE"), ("tracestate", "lost=1")];
    let echoed = environment.traced(ECHO, &fields).await;
    assert_eq!(arrived(&echoed, "tracestate"), [""; 0]);
    // Its caller does not want this one to be traced.
    let unwanted = format!("00-{TRACE}-{SPAN}-00");
    let passed = environment.traced(ECHO, &[("traceparent", &unwanted)]).await;
    assert_eq!(arrived(&passed, "traceparent"), [unwanted]);
    let own = arrived(&echoed, "traceparent");

    environment.finish().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 4, "{spans:#?}");
    let (request, wait) = (&spans[0], &spans[1]);
    assert_eq!(
        (&request["traceId"], &request["parentSpanId"], &request["kind"], &request["name"]),
        (&TRACE.into(), &SPAN.into(), &2.into(), &"GET".into())
    );
    assert_eq!(request["traceState"], "a=1");
    assert_eq!((&wait["parentSpanId"], &wait["kind"]), (&request["spanId"], &3.into()));
    let id = |span: &Value, key: &str| span[key].as_str().unwrap().to_owned();
    assert_eq!(told[0], format!("00-{TRACE}-{}-01", id(wait, "spanId")));
    for (key, value) in [
        ("http.request.method", "GET"),
        ("url.path", ECHO),
        ("http.response.status_code", "200"),
        ("ringbearer.identity", "test"),
        ("error.type", ""),
    ] {
        assert_eq!(attribute(&request["attributes"], key), value, "{key}");
    }
    assert!(!attribute(&request["attributes"], "ringcentral.request_id").is_empty());
    assert_eq!(attribute(&wait["attributes"], "http.request.resend_count"), "1");
    assert_eq!(attribute(&wait["attributes"], "ringbearer.token.generation"), "2");
    let nanos = |span: &Value, key: &str| id(span, key).parse::<u64>().unwrap();
    assert_eq!(nanos(request, "startTimeUnixNano"), 1_700_000_000_000_000_000);
    assert!(nanos(wait, "startTimeUnixNano") >= nanos(request, "startTimeUnixNano"));
    assert!(nanos(wait, "endTimeUnixNano") <= nanos(request, "endTimeUnixNano"));
    assert_eq!(own[0], format!("00-{}-{}-01", id(&spans[2], "traceId"), id(&spans[3], "spanId")));
    assert_eq!(spans[2]["parentSpanId"], "");
    let all = collector.texts().join("\n");
    for secret in ["canary", "Bearer", "sandbox-secret", "sandbox-jwt"] {
        assert!(!all.contains(secret), "{secret} in {all}");
    }
}

#[tokio::test]
async fn a_refusal_is_traced_with_its_code() {
    let collector = Collector::start().await;
    let environment = environment(&collector.url, "").await;
    let refused = environment.traced(ECHO, &[("X-Ringbearer-Identity", "nobody")]).await;
    assert_eq!(refused["errorCode"], "RBR-105");
    environment.finish().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 1, "RingCentral was not asked");
    assert_eq!(attribute(&spans[0]["attributes"], "error.type"), "RBR-105");
    assert_eq!(attribute(&spans[0]["attributes"], "http.response.status_code"), "403");
}

#[tokio::test]
async fn a_collector_that_is_away_holds_nothing_up() {
    let environment = environment("http://127.0.0.1:1", "sample_one_in = 2").await;
    for _ in 0..50 {
        assert_eq!(environment.get(ECHO).await.status(), 200);
    }
    // A batch is tried in vain meanwhile.
    environment.clock.advance(std::time::Duration::from_secs(2));
    settle().await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    environment.finish().await;
}
