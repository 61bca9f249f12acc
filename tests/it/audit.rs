//! The audit log: exactly what each line says, and that none gets lost unsaid.

use std::fs;
use std::future::pending;
use std::path::{Path, PathBuf};

use reqwest::{Method, RequestBuilder};
use ringbearer::audit::{AuditLog, Event, Printed};
use ringbearer::key::KeyDigest;
use ringbearer::sandbox::{Fault, FaultKind, Place};
use ringbearer::settings::AuditSettings;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::Site;
use crate::support::{ECHO, Environment, REFRESH_IDENTITY, Wishes};
use crate::wire::Wire;

const SMS: &str = "/restapi/v1.0/account/~/extension/~/sms";
const TOKEN: &str = "/restapi/oauth/token";

/// A proxy with an audit log.
struct Audited {
    environment: Environment,
    files: TempDir,
}

impl Audited {
    /// With these lines after `[identity.test]`.
    async fn with(identity: &str) -> Self {
        let files = TempDir::new().unwrap();
        let file = files.path().join("audit.jsonl");
        let identity = format!("{identity}\n[audit]\nfile = '{}'\n", file.display());
        let environment = Environment::with(Wishes { identity, ..Wishes::default() }).await;
        environment.control().wait_until(|counts| counts.token_answers >= 1).await;
        Self { environment, files }
    }

    fn request(&self, method: Method, target: &str) -> RequestBuilder {
        self.environment.client.request(method, self.environment.url(target))
    }

    fn admin(&self, method: Method, target: &str) -> RequestBuilder {
        let address = self.environment.proxy().admin_addresses()[0];
        self.environment.client.request(method, format!("http://{address}{target}"))
    }

    /// Ends the proxy, and gives the lines without what differs from run to run, which is checked.
    async fn lines(mut self, events: &[&str]) -> Vec<Value> {
        self.environment.stop_proxy().await;
        let lines = read(&self.files.path().join("audit.jsonl"));
        self.environment.finish().await;
        let lines = lines.into_iter().map(tidied);
        lines.filter(|line| events.contains(&line["event"].as_str().unwrap())).collect()
    }
}

fn read(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn tidied(mut line: Value) -> Value {
    let fields = line.as_object_mut().unwrap();
    let time = fields.remove("time").unwrap();
    assert!(time.as_str().unwrap().starts_with("2023-11-14T22:"), "{time}");
    if let Some(ms) = fields.remove("ms") {
        assert!(ms.as_f64().unwrap() >= 0.0, "{ms}");
    }
    if let Some(peer) = fields.remove("peer") {
        assert!(peer.as_str().unwrap().starts_with("127.0.0.1:"), "{peer}");
    }
    if fields.get("request_id").is_some_and(|id| !id.is_null()) {
        fields.insert("request_id".into(), "an id".into());
    }
    line
}

fn clients() -> String {
    let digest = KeyDigest::of("key-1").to_string();
    format!(
        "jwt = \"sandbox-jwt\"\n[identity.hr]\njwt = \"sandbox-jwt-3\"\n\
         [client.billing]\nkey_sha256 = \"{digest}\"\nidentities = \"test\"\n"
    )
}

#[tokio::test]
async fn each_request_and_each_refusal_has_exactly_one_line() {
    let audited = Audited::with(&clients()).await;
    let control = audited.environment.control();
    control.wait_until(|counts| counts.token_answers == 2).await;
    audited.environment.rest().await;
    let keyed =
        |method, target: &str| audited.request(method, target).header("x-api-key", "key-1").send();
    let get = |target: &str| keyed(Method::GET, target);
    assert_eq!(get(&format!("{ECHO}?phone=canary")).await.unwrap().status(), 200);
    control.revoke_access_tokens();
    assert_eq!(keyed(Method::POST, ECHO).await.unwrap().status(), 200);
    assert_eq!(audited.request(Method::GET, ECHO).send().await.unwrap().status(), 401);
    let as_hr = audited.request(Method::GET, ECHO).header("x-api-key", "key-1");
    assert_eq!(as_hr.header("x-ringbearer-identity", "hr").send().await.unwrap().status(), 403);
    control.inject(Fault::once(Place::Api, FaultKind::DropBefore));
    assert_eq!(keyed(Method::POST, ECHO).await.unwrap().status(), 502);
    control.inject(Fault::once(
        Place::Api,
        FaultKind::Status { code: 429, body: None, retry_after: Some(30) },
    ));
    assert_eq!(get(ECHO).await.unwrap().status(), 429);
    let lines = audited.lines(&["request", "login", "logout"]).await;
    let line = |method: &str, path: &str| {
        json!({
            "event": "request", "client": "billing", "identity": "test", "method": method, "path": path,
            "decision": "allowed", "code": null, "status": 200, "replayed": false,
            "request_id": "an id",
        })
    };
    let but = |mut line: Value, changes: Value| {
        for (name, value) in changes.as_object().unwrap() {
            line[name] = value.clone();
        }
        line
    };
    let ours = |decision: &str, code: &str, status: u16| json!({"decision": decision, "code": code, "status": status, "request_id": null});
    assert_eq!(
        lines,
        [
            line("GET", ECHO),
            but(line("POST", ECHO), json!({"replayed": true})),
            but(
                but(line("GET", ECHO), json!({"client": null, "identity": null})),
                ours("refused", "RBR-109", 401)
            ),
            but(but(line("GET", ECHO), json!({"identity": null})), ours("refused", "RBR-111", 403)),
            but(line("POST", ECHO), ours("failed", "RBR-304", 502)),
            but(line("GET", ECHO), json!({"status": 429})),
        ]
    );
}

#[tokio::test]
async fn logins_and_logouts_at_the_facade_are_told_apart() {
    let audited = Audited::with(&clients()).await;
    let login = |secret: &str| {
        let form = [("grant_type", "client_credentials")];
        audited.request(Method::POST, TOKEN).basic_auth("app", Some(secret)).form(&form).send()
    };
    assert_eq!(login("key-1").await.unwrap().status(), 200);
    assert_eq!(login("wrong").await.unwrap().status(), 401);
    let revoke = audited.request(Method::POST, "/restapi/oauth/revoke");
    assert_eq!(revoke.form(&[("token", "rbx1_x")]).send().await.unwrap().status(), 200);
    let lines = audited.lines(&["request", "login", "logout"]).await;
    assert_eq!(
        lines,
        [
            json!({
                "event": "login", "client": "billing", "identity": "test", "method": "POST",
                "path": TOKEN, "decision": "allowed", "code": null, "status": 200,
                "replayed": false, "request_id": null,
            }),
            json!({
                "event": "login", "client": null, "identity": null, "method": "POST",
                "path": TOKEN, "decision": "refused", "code": "RBR-114", "status": 401,
                "replayed": false, "request_id": null,
            }),
            json!({
                "event": "logout", "client": null, "identity": null, "method": "POST",
                "path": "/restapi/oauth/revoke", "decision": "allowed", "code": null, "status": 200,
                "replayed": false, "request_id": null,
            }),
        ]
    );
}

#[tokio::test]
async fn operators_changes_and_refusals_are_noted_and_looks_are_not() {
    let digest = KeyDigest::of("admin-key").to_string();
    let audited = Audited::with(&format!(
        "jwt = \"sandbox-jwt\"\n[admin]\nlisten = \"127.0.0.1:0\"\nkey_sha256 = \"{digest}\"\n"
    ))
    .await;
    audited.environment.rest().await;
    let keyed =
        |method, target: &str| audited.admin(method, target).bearer_auth("admin-key").body("{}");
    let new = json!({"name": "bot", "application": "test", "jwt": "sandbox-jwt-2"}).to_string();
    for (request, status) in [
        (audited.admin(Method::GET, "/identities"), 200),
        (audited.admin(Method::GET, "/metrics").header("host", "evil.test"), 421),
        (keyed(Method::POST, "/identities").body(new.clone()), 201),
        (audited.admin(Method::POST, "/identities").bearer_auth("wrong").body(new), 401),
        (keyed(Method::POST, "/identities/test/renew"), 200),
        (keyed(Method::DELETE, "/identities/bot?why=canary"), 200),
        (keyed(Method::DELETE, "/identities/test"), 409),
    ] {
        assert_eq!(request.send().await.unwrap().status(), status);
    }
    let lines = audited.lines(&["operation"]).await;
    let line = |identity: Value, method: &str, path: &str, code: Value, status: u16| {
        let decision = if code.is_null() { "allowed" } else { "refused" };
        json!({
            "event": "operation", "identity": identity, "method": method, "path": path,
            "decision": decision, "code": code, "status": status,
        })
    };
    assert_eq!(
        lines,
        [
            line(json!(null), "GET", "/metrics", json!("RBR-421"), 421),
            line(json!("bot"), "POST", "/identities", json!(null), 201),
            line(json!(null), "POST", "/identities", json!("RBR-401"), 401),
            line(json!("test"), "POST", "/identities/test/renew", json!(null), 200),
            line(json!("bot"), "DELETE", "/identities/bot", json!(null), 200),
            line(json!("test"), "DELETE", "/identities/test", json!("RBR-409"), 409),
        ]
    );
}

#[tokio::test]
async fn sessions_are_noted_when_they_begin_and_go_on() {
    for (identity, grant, change, next) in [
        (
            "jwt = \"sandbox-jwt\"",
            "urn:ietf:params:oauth:grant-type:jwt-bearer",
            "opened",
            "urn:ietf:params:oauth:grant-type:jwt-bearer",
        ),
        (REFRESH_IDENTITY, "refresh_token", "renewed", "refresh_token"),
    ] {
        let files = TempDir::new().unwrap();
        let file = files.path().join("audit.jsonl");
        let identity = format!("{identity}\n[audit]\nfile = '{}'\n", file.display());
        let mut environment = Environment::with(Wishes { identity, ..Wishes::default() }).await;
        environment.rest().await;
        assert_eq!(environment.get(ECHO).await.status(), 200);
        environment.go_to_renewal();
        environment
            .pass_until(60, |status| status.generation.is_some_and(|it| it.number() == 2))
            .await;
        environment.stop_proxy().await;
        let lines: Vec<_> = read(&file).into_iter().filter(|it| it["event"] == "session").collect();
        environment.finish().await;
        let said: Vec<_> = lines
            .iter()
            .map(|it| {
                [&it["identity"], &it["grant"], &it["generation"], &it["by"]].map(Value::clone)
            })
            .collect();
        let expected = |grant: &str, generation: u64| {
            [json!("test"), json!(grant), json!(generation), json!("serve")]
        };
        assert_eq!(said, [expected(grant, 1), expected(next, 2)]);
        assert_eq!(lines[1]["change"], change);
    }
}

#[tokio::test]
async fn whoever_hangs_up_before_the_answer_leaves_a_line_all_the_same() {
    let audited = Audited::with("jwt = \"sandbox-jwt\"").await;
    audited.environment.rest().await;
    audited.environment.control().inject(Fault::once(Place::Api, FaultKind::Hang));
    let mut wire = Wire::open(audited.environment.address()).await;
    wire.send(format!("POST {SMS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")).await;
    audited.environment.control().wait_until(|counts| counts.api_requests == 1).await;
    drop(wire);
    let lines = audited.lines(&["request"]).await;
    assert_eq!(
        lines,
        [json!({
            "event": "request", "client": null, "identity": "test", "method": "POST", "path": SMS,
            "decision": "abandoned", "code": null, "status": null, "replayed": false,
            "request_id": null,
        })]
    );
}

/// Adds `[audit]` to what the site configures.
async fn site(file: &Path) -> Site {
    let mut site = Site::new().await;
    let file = file.display();
    let more = format!("\n[audit]\nfile = '{file}'\n[admin]\nlisten = \"127.0.0.1:0\"\n");
    site.store.push_str(&more);
    site
}

#[tokio::test]
async fn rotating_the_file_under_load_loses_no_line() {
    let files = TempDir::new().unwrap();
    let file = files.path().join("audit.jsonl");
    let site = site(&file).await;
    let mut process = site.start().await;
    let mut rotated: Vec<PathBuf> = Vec::new();
    let mut sent = 0;
    for round in 0..4 {
        let load =
            (0..50).map(|number| site.get(&process, &format!("{ECHO}?{round}-{number}")).send());
        let load = futures_util::future::join_all(load);
        let rotate = async {
            let away = files.path().join(format!("audit.{round}"));
            fs::rename(&file, &away).unwrap();
            rotated.push(away);
            // Every second time it has to notice by itself.
            if round % 2 == 0 {
                process.hang_up();
                process.says("the audit log goes on").await;
            }
        };
        let (answers, ()) = tokio::join!(load, rotate);
        sent += answers.iter().filter(|answer| answer.as_ref().unwrap().status() == 200).count();
        while !file.exists() {
            sent += 1;
            assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
        }
    }
    process.terminate();
    assert!(process.ended().await.success());
    rotated.push(file);
    let lines: Vec<_> = rotated.iter().flat_map(|file| read(file)).collect();
    let requests = lines.iter().filter(|line| line["event"] == "request").count();
    assert_eq!((sent >= 200, requests), (true, sent));
}

#[tokio::test]
async fn a_disk_that_is_full_holds_up_nobody_and_is_told_of() {
    let site = site(Path::new("/dev/full")).await;
    let mut process = site.start().await;
    let admin = process.says("operators are served").await["url"].as_str().unwrap().to_owned();
    for _ in 0..5 {
        assert_eq!(site.get(&process, ECHO).send().await.unwrap().status(), 200);
    }
    let told = process.says("the audit log cannot be written").await;
    assert_eq!(
        (&told["file"], &told["cause"]),
        (&json!("/dev/full"), &json!("no space left on device"))
    );
    let metrics = site.client.get(format!("{admin}/metrics")).send().await.unwrap();
    let metrics = metrics.text().await.unwrap();
    assert!(
        metrics.contains("\nringbearer_audit_lines_total{outcome=\"written\"} 0\n"),
        "{metrics}"
    );
    process.terminate();
    let lines = process.ended_with().await;
    let last = lines.iter().find(|line| line["message"] == "the audit log is not complete");
    // The session that was opened, and the requests.
    assert_eq!(last.expect("it is said at the end")["lost"], 6);
}

#[tokio::test]
async fn a_successor_goes_on_in_the_same_file_and_the_last_proxy_closes_it() {
    let audited = Audited::with("jwt = \"sandbox-jwt\"").await;
    let (files, mut environment) = (audited.files, audited.environment);
    let (file, other) = (files.path().join("audit.jsonl"), files.path().join("other.jsonl"));
    let note = |log: &AuditLog, identity| log.note(&Event::Token(Printed { identity }));
    let noted = |file: &Path| -> Vec<Value> {
        let lines = read(file).into_iter().filter(|line| line["event"] == "token");
        lines.map(|line| line["identity"].clone()).collect()
    };
    let mut settings = environment.settings().clone();
    let mut first = environment.proxy.take().unwrap();
    note(first.audit(), "first");
    let mut second = first.succeed(&settings, &environment.clock).await.unwrap();
    first.cede().await;
    first.retire(pending()).await;
    note(second.audit(), "second");
    settings.audit = Some(AuditSettings { file: other.clone() });
    let mut third = second.succeed(&settings, &environment.clock).await.unwrap();
    note(third.audit(), "third");
    note(second.audit(), "second, meanwhile");
    second.cede().await;
    second.retire(pending()).await;
    assert_eq!(noted(&file), ["first", "second", "second, meanwhile"]);
    settings.audit = None;
    let fourth = third.succeed(&settings, &environment.clock).await.unwrap();
    assert_eq!(fourth.audit().counts(), None);
    third.cede().await;
    third.retire(pending()).await;
    assert_eq!(noted(&other), ["third"]);
    environment.proxy = Some(fourth);
    environment.finish().await;
}

#[tokio::test]
async fn without_the_table_there_is_neither_file_nor_figure() {
    let environment = Environment::new().await;
    assert_eq!(environment.proxy().audit().counts(), None);
    assert_eq!(environment.get(ECHO).await.status(), 200);
    environment.finish().await;
}
