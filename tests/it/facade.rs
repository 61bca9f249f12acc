//! SDKs log in to the proxy, unchanged, and get tokens of its own.

use std::time::Duration;

use reqwest::{RequestBuilder, Response};
use ringbearer::key::KeyDigest;
use ringbearer::service::Service;
use ringbearer::settings::StoreSettings;
use ringbearer::store::seal::Seal;
use serde_json::{Value, json};

use crate::redis_server::RedisServer;
use crate::support::{ECHO, Environment, Wishes, client, json as content};

const TOKEN: &str = "/restapi/oauth/token";
const JWT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";
const DEVICE: &str = "urn:ietf:params:oauth:grant-type:device_code";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// `sales` is user 2 and `hr` is user 3; `test` is user 1.
const OTHERS: &str = "jwt = \"sandbox-jwt-1\"\n[identity.sales]\njwt = \"sandbox-jwt-2\"\n\
                      hosts = \"sales.test\"\n[identity.hr]\njwt = \"sandbox-jwt-3\"\n";

/// What a call of the token endpoint is made of: Basic or not, and a form.
type Login<'a> = (Option<(&'a str, &'a str)>, &'a [(&'a str, &'a str)]);

async fn with_identities(tables: &str) -> Environment {
    Environment::with(Wishes { identity: tables.to_owned(), ..Wishes::default() }).await
}

/// `billing` is the client of `sales` and `test`, with `key-1`; `operator` is everybody's, with
/// `key-2` and the client id `the-app`.
async fn with_clients() -> Environment {
    let [one, two] = ["key-1", "key-2"].map(|key| KeyDigest::of(key).to_string());
    let clients = format!(
        "[client.billing]\nkey_sha256 = \"{one}\"\nidentities = [\"sales\", \"test\"]\n\
         [client.operator]\nkey_sha256 = \"{two}\"\nidentities = \"*\"\nclient_id = \"the-app\"\n"
    );
    with_identities(&format!("{OTHERS}{clients}")).await
}

fn log_in(environment: &Environment, (basic, form): Login<'_>) -> RequestBuilder {
    let request = environment.client.post(environment.url(TOKEN)).form(form);
    match basic {
        Some((id, secret)) => request.basic_auth(id, Some(secret)),
        None => request,
    }
}

async fn pair(request: RequestBuilder) -> (String, String) {
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let pair = content(answer).await;
    let token = |name: &str| pair[name].as_str().unwrap().to_owned();
    (token("access_token"), token("refresh_token"))
}

/// Status, the proxy's code, and what OAuth calls the error.
async fn refusal(request: RequestBuilder) -> (u16, String, Value) {
    let answer = request.send().await.unwrap();
    let status = answer.status().as_u16();
    let code = code(&answer);
    (status, code, content(answer).await["error"].take())
}

fn code(answer: &Response) -> String {
    let code = answer.headers().get("x-ringbearer-error");
    code.map_or_else(String::new, |code| code.to_str().unwrap().to_owned())
}

/// Status, code and user of a request with that token.
async fn call(environment: &Environment, base: &str, token: &str) -> (u16, String, Option<u64>) {
    environment.control().clear_log();
    let url = format!("{base}{ECHO}");
    let answer = environment.client.get(url).bearer_auth(token).send().await.unwrap();
    let log = environment.control().log();
    let sent = log.iter().find(|arrival| arrival.target.starts_with(ECHO));
    if let Some(sent) = sent {
        assert!(!sent.field("authorization").unwrap().contains("rbx1_"), "it went on");
    }
    (answer.status().as_u16(), code(&answer), sent.and_then(|sent| sent.user))
}

/// Moves the clock, and opens new connections: those that are open have idled out.
fn later(environment: &mut Environment, by: Duration) {
    environment.clock.advance(by);
    environment.client = client();
}

fn ok(user: u64) -> (u16, String, Option<u64>) {
    (200, String::new(), Some(user))
}

fn refused(status: u16, code: &str) -> (u16, String, Option<u64>) {
    (status, code.to_owned(), None)
}

#[tokio::test]
async fn every_sdk_logs_in_as_it_does_at_ringcentral_and_never_sees_its_token() {
    let environment = Environment::new().await;
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let log = environment.control().log();
    let bearer = log.last().unwrap().field("authorization").unwrap();
    let real = bearer.strip_prefix("Bearer ").unwrap().to_owned();
    let before = environment.control().counts();
    let basic = Some(("their-id", "their-secret"));
    let junk = ("access_token_ttl", "-1");
    let rows: [(&str, Login<'_>); 10] = [
        ("@ringcentral/sdk", (basic, &[("grant_type", JWT), ("assertion", "x")])),
        (
            "@rc-ex/core",
            (basic, &[("grant_type", JWT), ("assertion", "undefined"), ("client_id", "their-id")]),
        ),
        (
            "ringcentral, PHP and .NET",
            (
                basic,
                &[
                    ("grant_type", JWT),
                    ("assertion", "x"),
                    ("access_token_ttl", "0"),
                    ("scope", ""),
                ],
            ),
        ),
        (
            "password",
            (basic, &[("grant_type", "password"), ("username", "+1"), ("password", "x"), junk]),
        ),
        (
            "tap-ringcentral",
            (basic, &[("grant_type", "refresh_token"), ("refresh_token", "left-over")]),
        ),
        ("nothing left over", (None, &[("grant_type", "refresh_token"), ("refresh_token", "")])),
        ("client credentials", (basic, &[("grant_type", "client_credentials")])),
        ("a device", (None, &[("grant_type", DEVICE), ("device_code", "x"), ("client_id", "x")])),
        (
            "a code of somebody else's",
            (basic, &[("grant_type", "authorization_code"), ("code", "x")]),
        ),
        ("a public client", (None, &[("grant_type", JWT), ("assertion", "x"), ("client_id", "i")])),
    ];
    for (sdk, login) in rows {
        let answer = log_in(&environment, login).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{sdk}");
        assert_eq!(answer.headers()["cache-control"], "no-store", "{sdk}");
        let text = answer.text().await.unwrap();
        assert!(!text.contains(&real) && !text.contains("sandbox-access"), "{sdk}: {text}");
        let pair: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&pair["token_type"], &pair["expires_in"], &pair["refresh_token_expires_in"]),
            (&json!("bearer"), &json!(86_400), &json!(604_800)),
            "{sdk}"
        );
        for name in ["scope", "owner_id", "endpoint_id"] {
            assert!(pair[name].as_str().is_some_and(|said| !said.is_empty()), "{sdk}: {name}");
        }
        let (access, refresh) = (pair["access_token"].as_str(), pair["refresh_token"].as_str());
        assert_eq!(call(&environment, &environment.url(""), access.unwrap()).await, ok(1), "{sdk}");
        let form = [("grant_type", "refresh_token"), ("refresh_token", refresh.unwrap()), junk];
        let (access, _) = self::pair(log_in(&environment, (login.0, &form))).await;
        let url = environment.url("/restapi/oauth/revoke");
        let revoke = environment.client.post(url).form(&[("token", &access)]).send().await.unwrap();
        assert_eq!(revoke.status(), 200);
        assert_eq!(content(revoke).await, json!({}), "{sdk}");
        let after = call(&environment, &environment.url(""), &access).await;
        assert_eq!(after, ok(1), "{sdk}: one process's logout ends nobody else's session");
    }
    let counts = environment.control().counts();
    assert_eq!(counts.token_requests, before.token_requests, "RingCentral was asked nothing");
    assert_eq!(counts.requests - before.requests, 20, "the API calls, and no more");
    environment.finish().await;
}

#[tokio::test]
async fn with_clients_the_secret_is_the_key_and_the_token_is_worth_what_it_is() {
    let environment = with_clients().await;
    let jwt: &[_] = &[("grant_type", JWT), ("assertion", "x")];
    let base = environment.url("");
    for (login, user) in [
        ((Some(("billing", "key-1")), jwt), 2),
        ((Some(("anything", "key-1")), jwt), 2),
        ((Some(("test", "key-1")), jwt), 1),
        ((Some(("hr", "key-1")), jwt), 2),
        ((None, &[jwt[0], jwt[1], ("client_id", "x"), ("client_secret", "key-1")][..]), 2),
    ] {
        let (access, _) = pair(log_in(&environment, login)).await;
        assert_eq!(call(&environment, &base, &access).await, ok(user), "{login:?}");
    }
    for login in [
        (Some(("billing", "key-9")), jwt),
        (Some(("operator", "key-2")), jwt),
        (None, &[jwt[0], jwt[1], ("client_id", "billing")][..]),
        (None, jwt),
    ] {
        let answer = refusal(log_in(&environment, login)).await;
        assert_eq!(answer, (401, "RBR-114".into(), json!("invalid_client")), "{login:?}");
    }
    let operator = log_in(&environment, (Some(("the-app", "key-2")), jwt));
    assert_eq!(refusal(operator).await, (400, "RBR-106".into(), json!("invalid_request")));
    let operator = || log_in(&environment, (Some(("the-app", "key-2")), jwt));
    let (access, refresh) = pair(operator().header("x-ringbearer-identity", "hr")).await;
    assert_eq!(call(&environment, &base, &access).await, ok(3));
    let billing = log_in(&environment, (Some(("x", "key-1")), jwt));
    let denied = refusal(billing.header("x-ringbearer-identity", "hr")).await;
    assert_eq!(denied, (403, "RBR-111".into(), json!("unauthorized_client")));
    // A refresh token is its own client's.
    let form = [("grant_type", "refresh_token"), ("refresh_token", &*refresh)];
    let own = log_in(&environment, (Some(("the-app", "key-2")), &form));
    assert_eq!(call(&environment, &base, &pair(own).await.0).await, ok(3));
    let invalid_grant = (400, "RBR-115".to_owned(), json!("invalid_grant"));
    let form = [("grant_type", "refresh_token"), ("refresh_token", &*refresh)];
    let others = log_in(&environment, (Some(("x", "key-1")), &form));
    assert_eq!(refusal(others).await, invalid_grant);
    for text in ["left-over", &access, ""] {
        let form = [("grant_type", "refresh_token"), ("refresh_token", text)];
        let request = log_in(&environment, (Some(("the-app", "key-2")), &form));
        assert_eq!(refusal(request).await, invalid_grant, "{text}");
    }
    // No other kind passes for an access token, and no other text for a token.
    for token in [&*refresh, "rbx1_", &format!("{access}A"), &access[..access.len() - 1]] {
        assert_eq!(call(&environment, &base, token).await, refused(401, "RBR-120"), "{token}");
    }
    assert_eq!(call(&environment, &base, "key-1").await, ok(2), "a key itself does as before");
    environment.finish().await;
}

#[tokio::test]
async fn a_token_that_is_over_is_told_so_and_refreshed() {
    let mut environment = with_clients().await;
    let basic = Some(("billing", "key-1"));
    let login: Login<'_> = (basic, &[("grant_type", JWT), ("assertion", "x")]);
    let (access, refresh) = pair(log_in(&environment, login)).await;
    later(&mut environment, Duration::from_secs(86_399));
    let url = environment.url("");
    let introspect = |environment: &Environment| {
        let url = environment.url("/restapi/oauth/introspect");
        let request = environment.client.post(url).basic_auth("x", Some("key-1"));
        request.form(&[("token", &access)])
    };
    let said = content(introspect(&environment).send().await.unwrap()).await;
    assert_eq!(
        (&said["active"], &said["sub"], &said["client_id"]),
        (&json!(true), &json!("sales"), &json!("billing"))
    );
    assert_eq!(call(&environment, &url, &access).await, ok(2));
    later(&mut environment, Duration::from_secs(1));
    let request = environment.client.get(environment.url(ECHO)).bearer_auth(&access);
    let answer = request.send().await.unwrap();
    assert_eq!((answer.status().as_u16(), code(&answer)), (401, "RBR-119".to_owned()));
    let challenge = "Bearer realm=\"ringbearer\", error=\"invalid_token\"";
    assert_eq!(answer.headers()["www-authenticate"], challenge);
    assert_eq!(content(answer).await["errorCode"], "TokenExpired");
    assert_eq!(
        content(introspect(&environment).send().await.unwrap()).await,
        json!({ "active": false })
    );
    let form = [("grant_type", "refresh_token"), ("refresh_token", &*refresh)];
    let again = pair(log_in(&environment, (basic, &form))).await.0;
    assert_eq!(call(&environment, &url, &again).await, ok(2));
    later(&mut environment, 6 * DAY);
    let over = refusal(log_in(&environment, (basic, &form))).await;
    assert_eq!(over, (400, "RBR-115".into(), json!("invalid_grant")));
    environment.finish().await;
}

#[tokio::test]
async fn replicas_and_restarts_know_each_others_tokens() {
    replicas_know_each_others_tokens(Wishes::default()).await;
    let Some(redis) = RedisServer::start().await else { return };
    let store = Some(format!("redis = \"{}\"", redis.url()));
    replicas_know_each_others_tokens(Wishes { store, ..Wishes::default() }).await;
}

async fn replicas_know_each_others_tokens(wishes: Wishes) {
    let mut environment = Environment::with(wishes).await;
    let login: Login<'_> = (None, &[("grant_type", JWT), ("assertion", "x")]);
    let (access, _) = pair(log_in(&environment, login)).await;
    let replica = Service::start(environment.settings(), &environment.clock).unwrap();
    let there = format!("http://{}", replica.addresses()[0]);
    assert_eq!(call(&environment, &there, &access).await, ok(1), "before any login there");
    let request = environment.client.post(format!("{there}{TOKEN}")).form(login.1);
    let (others, _) = pair(request).await;
    assert_eq!(call(&environment, &environment.url(""), &others).await, ok(1));
    drop(replica);
    environment.stop_proxy().await;
    environment.start_proxy();
    assert_eq!(call(&environment, &environment.url(""), &access).await, ok(1));
    assert_eq!(
        call(&environment, &environment.url(""), "rbx1_AAAA").await,
        refused(401, "RBR-120")
    );
    environment.finish().await;
}

#[tokio::test]
async fn a_client_that_is_gone_or_unbound_logs_in_again_or_not_at_all() {
    let environment = with_clients().await;
    let login: Login<'_> = (Some(("hr", "key-2")), &[("grant_type", JWT), ("assertion", "x")]);
    let billing: Login<'_> = (Some(("x", "key-1")), login.1);
    let (access, _) = pair(log_in(&environment, billing)).await;
    let mut settings = environment.settings().clone();
    let restarted = async |settings| {
        let proxy = Service::start(&settings, &environment.clock).unwrap();
        let base = format!("http://{}", proxy.addresses()[0]);
        let answer = call(&environment, &base, &access).await;
        drop(proxy);
        answer
    };
    assert_eq!(restarted(settings.clone()).await, ok(2));
    settings.clients[0].identities = ringbearer::settings::Bound::To(vec!["test".into()]);
    assert_eq!(restarted(settings.clone()).await, refused(401, "RBR-120"));
    settings.clients.remove(0);
    assert_eq!(restarted(settings.clone()).await, refused(401, "RBR-120"));
    settings.clients.clear();
    assert_eq!(restarted(settings).await, refused(401, "RBR-120"), "nobody shows a key any more");
    environment.finish().await;
}

#[tokio::test]
async fn of_several_identities_listener_field_host_or_client_id_chooses() {
    let environment = with_identities(OTHERS).await;
    let form: &[_] = &[("grant_type", JWT), ("assertion", "x")];
    let base = environment.url("");
    let login = |id| log_in(&environment, (Some((id, "secret")), form));
    assert_eq!(
        refusal(login("their-id")).await,
        (400, "RBR-106".into(), json!("invalid_request")),
        "the client id names nobody"
    );
    for (request, user) in [
        (login("hr"), 3),
        (login("hr").header("host", "sales.test"), 2),
        (login("hr").header("x-ringbearer-identity", "test"), 1),
    ] {
        let (access, refresh) = pair(request).await;
        assert_eq!(call(&environment, &base, &access).await, ok(user));
        let form = [("grant_type", "refresh_token"), ("refresh_token", &*refresh)];
        let again = pair(log_in(&environment, (Some(("their-id", "x")), &form))).await.0;
        assert_eq!(call(&environment, &base, &again).await, ok(user), "it stays the same");
    }
    let (access, _) = pair(login("hr")).await;
    let request = environment.client.get(environment.url(ECHO)).bearer_auth(access);
    let other = request.header("x-ringbearer-identity", "sales").send().await.unwrap();
    assert_eq!((other.status().as_u16(), code(&other)), (403, "RBR-111".to_owned()));
    assert_eq!(call(&environment, &base, "undefined").await, refused(400, "RBR-106"));
    environment.finish().await;
}

#[tokio::test]
async fn a_login_needs_neither_ringcentral_nor_a_token() {
    let environment = Environment::new().await;
    let mut settings = environment.settings().clone();
    let files = tempfile::tempdir().unwrap();
    let directory = files.path().join("empty");
    settings.store = StoreSettings::File { directory, seal: Seal::none() };
    let Environment { sandbox, client, clock, proxy, .. } = environment;
    sandbox.stop().await;
    let alone = Service::start(&settings, &clock).unwrap();
    let request = client.post(format!("http://{}{TOKEN}", alone.addresses()[0]));
    let answer = request.form(&[("grant_type", JWT), ("assertion", "x")]).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let pair = content(answer).await;
    assert!(pair["access_token"].as_str().unwrap().starts_with("rbx1_"));
    assert_eq!((&pair["owner_id"], &pair["endpoint_id"]), (&json!("~"), &json!("test")));
    drop((alone, proxy));
}

#[tokio::test]
async fn a_browsers_login_ends_at_the_app_that_began_it() {
    let environment = with_clients().await;
    let begin = async |more: &str| {
        let query = "/restapi/oauth/authorize?response_type=code&client_id=billing&state=s%26t";
        let url = environment.url(&format!("{query}&redirect_uri={more}"));
        environment.client.get(url).send().await.unwrap()
    };
    let evil = begin("https%3A%2F%2Fevil.test%2F").await;
    assert_eq!((evil.status().as_u16(), code(&evil)), (400, "RBR-118".to_owned()));
    assert!(evil.headers().get("location").is_none());
    let local = "http://127.0.0.1:5000/oauth";
    // RFC 7636, appendix B.
    let pkce =
        "&code_challenge_method=S256&code_challenge=E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";
    let sent = begin(&format!("{local}{pkce}")).await;
    assert_eq!(sent.status(), 302);
    let to = sent.headers()["location"].to_str().unwrap();
    let code = to.strip_prefix(&format!("{local}?code=")).unwrap();
    let code = code.strip_suffix("&state=s%26t").unwrap();
    let redeem = |secret: &'static str, verifier: &'static str| {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", local),
            ("code_verifier", verifier),
        ];
        log_in(&environment, (Some(("billing", secret)), &form))
    };
    let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let invalid_grant = (400, "RBR-115".to_owned(), json!("invalid_grant"));
    assert_eq!(refusal(redeem("key-1", "another")).await, invalid_grant);
    assert_eq!(refusal(redeem("key-9", verifier)).await.1, "RBR-114");
    let (access, _) = pair(redeem("key-1", verifier)).await;
    assert_eq!(call(&environment, &environment.url(""), &access).await, ok(2));
    assert_eq!(refusal(redeem("key-1", verifier)).await, invalid_grant, "a code is good once");
    environment.finish().await;
}

#[tokio::test]
async fn what_is_no_login_is_refused_in_oauths_words() {
    let environment = Environment::new().await;
    let post = |body: Vec<u8>| environment.client.post(environment.url(TOKEN)).body(body);
    let invalid = (400, "RBR-116".to_owned(), json!("invalid_request"));
    let fits = |length: usize| {
        let mut form = b"grant_type=client_credentials&x=".to_vec();
        form.resize(length, b'x');
        form
    };
    assert_eq!(post(fits(64 * 1024)).send().await.unwrap().status(), 200);
    for body in [Vec::new(), b"\xff\x00%zz".to_vec(), b"{}".to_vec(), fits(64 * 1024 + 1)] {
        assert_eq!(refusal(post(body)).await, invalid);
    }
    let implicit = refusal(post(b"grant_type=implicit".to_vec())).await;
    assert_eq!(implicit, (400, "RBR-116".into(), json!("unsupported_grant_type")));
    let get = environment.client.get(environment.url(TOKEN)).send().await.unwrap();
    assert_eq!((get.status().as_u16(), &get.headers()["allow"]), (405, &"POST".parse().unwrap()));
    let info = environment.get("/restapi/v1.0/client-info").await;
    assert_eq!(info.headers().get("x-ringbearer-error"), None, "it passes");
    environment.finish().await;
}
