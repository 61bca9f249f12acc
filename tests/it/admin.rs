//! The admin listener: health, readiness, metrics, identities, and who gets in.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response};
use ringbearer::key::KeyDigest;
use ringbearer::sandbox::{Fault, FaultKind, Place};
use serde_json::{Value, json};

use crate::exposition;
use crate::redis_server::RedisServer;
use crate::support::{ECHO, Environment, REFRESH_IDENTITY, Wishes, settle};
use crate::throttle_reload::reload_and_end;

const KEY: &str = "the-key-of-the-tests";
const SECOND: Duration = Duration::from_secs(1);

/// `[identity.test]` with these lines, and an admin listener with a key.
fn operated(identity: &str) -> Wishes {
    let digest = KeyDigest::of(KEY).to_string();
    let admin = format!("[admin]\nlisten = \"127.0.0.1:0\"\nkey_sha256 = \"{digest}\"");
    Wishes { identity: format!("{identity}\n{admin}"), ..Wishes::default() }
}

async fn environment() -> Environment {
    Environment::with(operated("jwt = \"sandbox-jwt\"")).await
}

impl Environment {
    fn admin(&self, method: Method, target: &str) -> RequestBuilder {
        let address = self.proxy().admin_addresses()[0];
        self.client.request(method, format!("http://{address}{target}"))
    }

    async fn look(&self, target: &str) -> (u16, Value) {
        answer(self.admin(Method::GET, target).send().await.unwrap()).await
    }

    /// A change with the key.
    async fn change(&self, method: Method, target: &str, content: Value) -> (u16, Value) {
        let request = self.admin(method, target).bearer_auth(KEY).body(content.to_string());
        answer(request.send().await.unwrap()).await
    }
}

async fn answer(response: Response) -> (u16, Value) {
    let (status, code) =
        (response.status().as_u16(), response.headers().get("x-ringbearer-error").cloned());
    let text = response.text().await.unwrap();
    let content: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
    if let Some(code) = code {
        assert_eq!(content["errorCode"], code.to_str().unwrap());
        assert_eq!(content["message"], content["errors"][0]["message"]);
    }
    (status, content)
}

#[tokio::test]
async fn a_drained_proxy_is_unready_and_serves_until_it_is_put_back() {
    let mut environment = environment().await;
    environment.rest().await;
    let request = environment.admin(Method::POST, "/drain");
    assert_eq!(request.send().await.unwrap().status(), 401, "without the key");
    let refused = environment.admin(Method::GET, "/drain").send().await.unwrap();
    assert_eq!(refused.status(), 405);
    assert_eq!(refused.headers()["allow"], "POST, DELETE");
    assert_eq!(environment.look("/readyz").await.0, 200);
    let drained = (200, json!({"status": "drained"}));
    for _ in 0..2 {
        assert_eq!(environment.change(Method::POST, "/drain", Value::Null).await, drained);
    }
    let why = "an operator has drained this proxy: DELETE /drain puts it back into service";
    let unready = (503, json!({"status": "unready", "reasons": [why]}));
    assert_eq!(environment.look("/readyz").await, unready);
    let (_, state) = environment.look("/state").await;
    let event = &state["events"][0];
    let begun = "an operator has drained this proxy: /readyz answers 503, requests are served";
    assert_eq!((&event["text"], &event["times"]), (&begun.into(), &1.into()));
    assert_eq!(environment.look("/healthz").await.0, 200, "it lives");
    let answer = environment.client.get(environment.url(ECHO)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "it serves");
    let settings = environment.settings().clone();
    reload_and_end(&mut environment, &settings).await;
    assert_eq!(environment.look("/readyz").await, unready, "after a reload");
    let answer = environment.client.get(environment.url(ECHO)).send().await.unwrap();
    assert_eq!(answer.status(), 200, "it serves");
    let serving = (200, json!({"status": "serving"}));
    assert_eq!(environment.change(Method::DELETE, "/drain", Value::Null).await, serving);
    assert_eq!(environment.look("/readyz").await, (200, json!({"status": "ready"})));
    let (_, state) = environment.look("/state").await;
    let told = |text: &str| {
        let events = state["events"].as_array().unwrap();
        events.iter().filter(|it| it["text"] == text && it["identity"].is_null()).count()
    };
    assert_eq!(told("an operator has put this proxy back into service"), 1, "{state:#}");
    environment.finish().await;
}

#[tokio::test]
async fn a_proxy_that_serves_is_healthy_and_ready() {
    let environment = environment().await;
    environment.rest().await;
    assert_eq!(environment.look("/healthz").await, (200, json!({"status": "ok"})));
    assert_eq!(environment.look("/readyz").await, (200, json!({"status": "ready"})));
    let head = environment.admin(Method::HEAD, "/readyz").send().await.unwrap();
    assert_eq!(
        (head.status().as_u16(), head.headers()["cache-control"].as_bytes()),
        (200, &b"no-store"[..])
    );
    // An hour later nobody has asked for anything: the token has lapsed, and that is no trouble.
    environment.pass(3700 * SECOND).await;
    assert!(!environment.status().usable);
    // The clock has outrun the disk; what was seen meanwhile is left to lapse.
    environment.look("/readyz").await;
    environment.clock.advance(5 * SECOND);
    assert_eq!(environment.look("/readyz").await, (200, json!({"status": "ready"})));
    environment.finish().await;
}

#[tokio::test]
async fn without_the_table_nobody_listens_for_operators() {
    let environment = Environment::new().await;
    assert!(environment.proxy().admin_addresses().is_empty());
    environment.finish().await;
}

#[tokio::test]
async fn an_unusable_store_degrades_and_heals_while_cached_tokens_serve() {
    let environment = environment().await;
    environment.rest().await;
    assert_eq!(environment.look("/readyz").await.1, json!({"status": "ready"}));
    let mode =
        |mode| fs::set_permissions(environment.store(), Permissions::from_mode(mode)).unwrap();
    mode(0o777);
    assert_eq!(
        environment.look("/readyz").await.1,
        json!({"status": "ready"}),
        "seen a moment ago"
    );
    environment.clock.advance(5 * SECOND);
    let reason = format!(
        "store: {:?} is not safe to keep tokens in: it may be written by others; name a directory inside it \
         instead, and it is created with mode 0700; tokens that live are used to their end meanwhile",
        environment.store()
    );
    let degraded = json!({"status": "degraded", "reasons": [reason]});
    assert_eq!(environment.look("/readyz").await, (200, degraded));
    assert!(environment.metrics().await.contains("\nringbearer_store_up 0\n"));
    assert_eq!(environment.get(ECHO).await.status(), 200);
    mode(0o700);
    environment.clock.advance(5 * SECOND);
    assert_eq!(environment.look("/readyz").await, (200, json!({"status": "ready"})));
    assert!(environment.metrics().await.contains("\nringbearer_store_up 1\n"));
    environment.finish().await;
}

#[tokio::test]
async fn a_store_that_hangs_is_told_within_seconds_and_hangs_no_probe() {
    let Some(server) = RedisServer::start().await else { return };
    let store = format!("redis = \"{}\"", server.url());
    let environment =
        Environment::with(Wishes { store: Some(store), ..operated("jwt = \"sandbox-jwt\"") }).await;
    environment.rest().await;
    assert_eq!(environment.look("/readyz").await.1, json!({"status": "ready"}));
    server.pause();
    environment.clock.advance(5 * SECOND);
    let (status, content) = environment.look("/readyz").await;
    assert_eq!((status, &content["status"]), (200, &json!("degraded")));
    let reason = content["reasons"][0].as_str().unwrap();
    assert!(reason.starts_with("store: the store at 127.0.0.1:"), "{reason}");
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let (_, listed) = environment.look("/identities").await;
    assert_eq!(listed["identities"][0]["state"], "live", "{listed}");
    assert!(listed["store_error"].as_str().unwrap().starts_with("the store failed: "), "{listed}");
    server.go_on();
    let mut last = content;
    while last["status"] != "ready" {
        environment.clock.advance(5 * SECOND);
        last = environment.look("/readyz").await.1;
    }
    environment.finish().await;
}

#[tokio::test]
async fn one_lost_identity_degrades_and_all_of_them_are_unready() {
    let cure = "the token endpoint refused the credential (invalid_grant, OAU-251): log in again, or configure another one";
    let one = "jwt = \"sandbox-jwt\"\n[identity.other]\njwt = \"wrong\"";
    let environment = Environment::with(operated(one)).await;
    environment.rest().await;
    let reasons = json!([format!("identity other: {cure}")]);
    let degraded = json!({"status": "degraded", "reasons": reasons});
    assert_eq!(environment.look("/readyz").await, (200, degraded));
    environment.finish().await;

    let environment = Environment::with(operated("jwt = \"wrong\"")).await;
    environment.rest().await;
    let reasons = json!([format!("identity test: {cure}")]);
    let unready = json!({"status": "unready", "reasons": reasons});
    assert_eq!(environment.look("/readyz").await, (503, unready));
    assert_eq!(environment.look("/healthz").await.0, 200, "it is not restarted for that");
    environment.finish().await;
}

#[tokio::test]
async fn readiness_goes_before_the_last_request_is_answered_and_health_stays() {
    let mut environment = environment().await;
    environment.rest().await;
    environment.control().inject(Fault::once(Place::Api, FaultKind::Hang));
    let waiting = tokio::spawn(environment.client.get(environment.url(ECHO)).send());
    environment.control().wait_until(|counts| counts.api_requests == 1).await;
    let address = environment.proxy().admin_addresses()[0];
    let stop = tokio::spawn(environment.proxy.take().unwrap().stop());
    let ask = async |path: &str| {
        let request = environment.client.get(format!("http://{address}{path}"));
        answer(request.send().await.unwrap()).await
    };
    let reasons = json!(["this proxy is ending: it takes no new work"]);
    while ask("/readyz").await != (503, json!({"status": "unready", "reasons": reasons})) {
        settle().await;
    }
    assert_eq!(ask("/healthz").await.0, 200);
    assert!(!waiting.is_finished());
    while !stop.is_finished() {
        environment.clock.advance(SECOND);
        for _ in 0..50 {
            settle().await;
        }
    }
    stop.await.unwrap();
    let gone = environment.client.get(format!("http://{address}/healthz")).send().await;
    assert!(gone.unwrap_err().is_connect());
    environment.sandbox.stop().await;
}

#[tokio::test]
async fn strangers_and_web_pages_are_refused_whatever_they_ask_for() {
    let environment = environment().await;
    environment.rest().await;
    for path in [
        "/",
        "/state",
        "/healthz",
        "/readyz",
        "/metrics",
        "/identities",
        "/identities/test",
        "/nothing",
    ] {
        for (field, value, status, code) in [
            ("host", "evil.test", 421, "RBR-421"),
            ("origin", "https://evil.test", 403, "RBR-422"),
            ("sec-fetch-site", "cross-site", 403, "RBR-422"),
        ] {
            let request = environment.admin(Method::GET, path).header(field, value);
            let (refused, content) = answer(request.send().await.unwrap()).await;
            assert_eq!((refused, &content["errorCode"]), (status, &json!(code)), "{path} {field}");
        }
    }
    for (method, path, status, code) in [
        (Method::GET, "/nothing", 404, "RBR-404"),
        (Method::GET, "/identities/nobody", 404, "RBR-404"),
        (Method::GET, "/identities/..%2f", 404, "RBR-404"),
        (Method::POST, "/healthz", 405, "RBR-405"),
        (Method::PUT, "/identities/test", 405, "RBR-405"),
        (Method::GET, "/identities?limit=5000", 400, "RBR-400"),
        (Method::POST, "/identities", 401, "RBR-401"),
        (Method::DELETE, "/identities/test", 401, "RBR-401"),
        (Method::POST, "/identities/test/renew", 401, "RBR-401"),
    ] {
        let request = environment.admin(method, path);
        let (refused, content) = answer(request.send().await.unwrap()).await;
        assert_eq!((refused, &content["errorCode"]), (status, &json!(code)), "{path}");
    }
    let wrong = environment.admin(Method::DELETE, "/identities/test").bearer_auth("wrong");
    assert_eq!(answer(wrong.send().await.unwrap()).await.0, 401);
    assert_eq!(environment.control().counts().token_requests, 1);
    environment.finish().await;
}

#[tokio::test]
async fn without_a_key_every_change_is_refused_and_the_cure_named() {
    let identity = "jwt = \"sandbox-jwt\"\n[admin]\nlisten = \"127.0.0.1:0\"".into();
    let environment = Environment::with(Wishes { identity, ..Wishes::default() }).await;
    for (method, path) in [
        (Method::POST, "/identities"),
        (Method::DELETE, "/identities/test"),
        (Method::POST, "/identities/test/renew"),
    ] {
        let (status, content) = environment.change(method, path, json!({})).await;
        assert_eq!((status, &content["errorCode"]), (403, &json!("RBR-403")), "{path}");
        assert_eq!(
            content["message"],
            "changes are refused: set admin.key_sha256; `ringbearer keygen` prints a key and its digest"
        );
    }
    environment.finish().await;
}

#[tokio::test]
async fn an_identity_is_added_used_and_removed_without_a_restart() {
    let environment = environment().await;
    environment.rest().await;
    let bot = json!({"name": "bot", "application": "test", "jwt": "sandbox-jwt-2"});
    let (status, added) = environment.change(Method::POST, "/identities", bot.clone()).await;
    assert_eq!(
        (status, &added["origin"], &added["application"]),
        (201, &json!("added"), &json!("test"))
    );
    assert_eq!(environment.change(Method::POST, "/identities", bot).await.0, 200, "replaced");

    let call = |name: &'static str| {
        environment.client.get(environment.url(ECHO)).header("X-Ringbearer-Identity", name).send()
    };
    assert_eq!(call("bot").await.unwrap().status(), 200);
    assert_eq!(environment.control().log().last().unwrap().user, Some(2));
    let (_, shown) = environment.look("/identities/bot").await;
    assert_eq!((&shown["state"], &shown["generation"]), (&json!("live"), &json!(1)));
    assert_eq!(shown["expires_at"], "2023-11-14T23:13:20Z");
    let (_, listed) = environment.look("/identities?limit=1").await;
    assert_eq!((&listed["next"], &listed["identities"][0]), (&json!("bot"), &shown));
    let (_, rest) = environment.look("/identities?after=bot").await;
    assert_eq!((&rest["next"], &rest["identities"][0]["name"]), (&json!(null), &json!("test")));
    assert!(
        !listed.to_string().contains("sandbox-jwt") && !added.to_string().contains("sandbox-jwt")
    );

    let removed = environment.change(Method::DELETE, "/identities/bot", json!({})).await;
    assert_eq!(removed, (200, json!({"name": "bot", "removed": true})));
    assert_eq!(call("bot").await.unwrap().headers()["x-ringbearer-error"], "RBR-105");
    assert_eq!(environment.look("/identities/bot").await.1["origin"], "left-over");
    let again = environment.change(Method::DELETE, "/identities/bot", json!({})).await;
    assert_eq!((again.0, &again.1["errorCode"]), (404, &json!("RBR-404")));
    environment.finish().await;
}

#[tokio::test]
async fn an_identity_without_a_jwt_waits_for_a_login() {
    let environment = environment().await;
    let guest = json!({"name": "guest", "application": "test"});
    assert_eq!(environment.change(Method::POST, "/identities", guest).await.0, 201);
    let (status, content) =
        environment.change(Method::POST, "/identities/guest/renew", json!({})).await;
    assert_eq!((status, &content["errorCode"]), (503, &json!("RBR-452")), "{content}");
    assert_eq!(environment.look("/identities/guest").await.1["state"], "needs-login");
    environment.finish().await;
}

#[tokio::test]
async fn what_cannot_be_added_is_refused_with_the_cure_and_not_repeated() {
    let environment = environment().await;
    for (content, status, code, message) in [
        (
            json!({"name": "no name", "application": "test", "jwt": "canary"}),
            400,
            "RBR-400",
            "a name is at most 64 letters, digits, - and _, and begins with a letter or a digit",
        ),
        (
            json!({"name": "bot", "application": "other", "jwt": "canary"}),
            400,
            "RBR-400",
            "no identity of the configuration uses an application of that name: there are test",
        ),
        (
            json!({"name": "test", "application": "test", "jwt": "canary"}),
            409,
            "RBR-409",
            "this identity stands in the configuration file: change it there",
        ),
        (
            json!({"name": "bot", "application": "test", "jwt": "x".repeat(70_000)}),
            413,
            "RBR-413",
            "the content is longer than 64 KiB",
        ),
        (
            json!({"nam": "canary"}),
            400,
            "RBR-400",
            "the content is not {\"name\", \"application\", \"jwt\"}, each a text, jwt optional (line 1, column 6)",
        ),
    ] {
        let (refused, answer) = environment.change(Method::POST, "/identities", content).await;
        assert_eq!(
            (refused, answer["errorCode"].as_str(), answer["message"].as_str()),
            (status, Some(code), Some(message))
        );
    }
    let (_, listed) = environment.look("/identities").await;
    assert_eq!(listed["identities"].as_array().unwrap().len(), 1);
    environment.finish().await;
}

#[tokio::test]
async fn a_renewal_is_ordered_and_its_outcome_answered() {
    let environment = environment().await;
    environment.rest().await;
    let order = || environment.change(Method::POST, "/identities/test/renew", json!({}));
    let renewed = json!({
        "name": "test", "outcome": "renewed", "generation": 2, "expires_at": "2023-11-14T23:13:20Z"
    });
    assert_eq!(order().await, (200, renewed));
    assert_eq!(environment.control().counts().token_requests, 2);

    let slow = FaultKind::Status { code: 429, body: None, retry_after: Some(20) };
    environment.control().inject(Fault::once(Place::Token, slow));
    for _ in 0..2 {
        let request = environment.admin(Method::POST, "/identities/test/renew").bearer_auth(KEY);
        let refused = request.send().await.unwrap();
        assert_eq!(refused.headers()["retry-after"], "20");
        let (status, content) = answer(refused).await;
        assert_eq!((status, &content["errorCode"]), (503, &json!("RBR-451")));
        let message = "no later token for \"test\": the token endpoint answered 429 Too Many Requests \
                       and asked for 20 s of silence: nothing is sent till then";
        assert_eq!(content["message"], message);
    }
    assert_eq!(environment.control().counts().token_requests, 3, "the penalty is kept");
    let (_, shown) = environment.look("/identities/test").await;
    assert_eq!(
        (&shown["state"], &shown["live"]["until"]),
        (&json!("live"), &json!("2023-11-14T22:13:40Z"))
    );
    assert_eq!(environment.get(ECHO).await.status(), 200, "generation 2 lives");
    environment.finish().await;
}

#[tokio::test]
async fn a_renewal_that_takes_long_is_answered_and_goes_on() {
    let environment = environment().await;
    environment.rest().await;
    environment.control().inject(Fault::once(Place::Token, FaultKind::Hang));
    let request = environment.admin(Method::POST, "/identities/test/renew").bearer_auth(KEY);
    let order = tokio::spawn(request.send());
    environment.control().wait_until(|counts| counts.token_requests == 2).await;
    environment.clock.advance(30 * SECOND);
    let (status, content) = answer(order.await.unwrap().unwrap()).await;
    assert_eq!((status, &content["outcome"]), (202, &json!("pending")));
}

impl Environment {
    async fn metrics(&self) -> String {
        let response = self.admin(Method::GET, "/metrics").send().await.unwrap();
        assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
        response.text().await.unwrap()
    }
}

#[tokio::test]
async fn metrics_are_what_prometheus_reads_and_say_what_happened() {
    let environment = Environment::with(operated(REFRESH_IDENTITY)).await;
    environment.rest().await;
    environment.change(Method::POST, "/identities/test/renew", json!({})).await;
    assert_eq!(environment.look("/readyz").await.0, 200);
    environment.clock.advance(600 * SECOND);
    environment.rest().await;
    let page = environment.metrics().await;
    let samples = exposition::parsed(&page).samples;
    for (series, value) in [
        ("ringbearer_identity_usable{identity=\"test\"}", 1.0),
        ("ringbearer_identity_needs_login{identity=\"test\"}", 0.0),
        ("ringbearer_identity_token_expires_seconds{identity=\"test\"}", 3000.0),
        ("ringbearer_identity_refresh_token_expires_seconds{identity=\"test\"}", 604_200.0),
        ("ringbearer_identity_last_renewal_timestamp_seconds{identity=\"test\"}", 1_700_000_000.0),
        ("ringbearer_identity_generation{identity=\"test\"}", 2.0),
        ("ringbearer_identity_waiting{identity=\"test\"}", 0.0),
        ("ringbearer_renewals_total{identity=\"test\",outcome=\"renewed\"}", 2.0),
        ("ringbearer_renewals_total{identity=\"test\",outcome=\"refused\"}", 0.0),
        ("ringbearer_identities{origin=\"configured\"}", 1.0),
        ("ringbearer_store_up", 1.0),
        ("ringbearer_budget_left{application=\"test\"}", 1000.0),
    ] {
        assert_eq!(samples.get(series), Some(&value), "{series} in\n{page}");
    }
    environment.finish().await;
}
