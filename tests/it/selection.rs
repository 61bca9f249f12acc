//! As whom a request is sent: by client key, listener, field and host.

use reqwest::StatusCode;
use ringbearer::key::KeyDigest;

use crate::support::{ECHO, Environment, LONG_IDLE, Wishes};

/// `test` is user 1, `sales` is user 2 and `hr` is user 3.
async fn environment(clients: &str) -> Environment {
    let identity = format!(
        "jwt = \"sandbox-jwt-1\"\n\
         [identity.sales]\njwt = \"sandbox-jwt-2\"\nhosts = \"sales.test\"\nlisten = \"127.0.0.1:0\"\n\
         [identity.hr]\njwt = \"sandbox-jwt-3\"\nhosts = [\"hr.test\", \"hr2.test\"]\n{clients}"
    );
    Environment::with(Wishes { identity, proxy: LONG_IDLE.into(), ..Wishes::default() }).await
}

fn client_table(name: &str, key: &str, identities: &str) -> String {
    let digest = KeyDigest::of(key).to_string();
    format!("[client.{name}]\nkey_sha256 = \"{digest}\"\nidentities = {identities}\n")
}

/// Status, the proxy's own code, and the user that the request was sent as.
async fn ask(
    environment: &Environment,
    url: &str,
    fields: &[(&str, &str)],
) -> (u16, String, Option<u64>) {
    environment.control().clear_log();
    let mut request = environment.client.get(url);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let answer = request.send().await.unwrap();
    let code = answer.headers().get("x-ringbearer-error");
    let code = code.map_or_else(String::new, |code| code.to_str().unwrap().to_owned());
    let log = environment.control().log();
    let sent = log.iter().find(|arrival| arrival.target.starts_with(ECHO));
    if let Some(sent) = sent {
        for kept in ["x-api-key", "x-ringbearer-identity"] {
            assert_eq!(sent.field(kept), None, "{kept} went on");
        }
    }
    (answer.status().as_u16(), code, sent.and_then(|sent| sent.user))
}

#[tokio::test]
async fn a_listener_a_field_or_a_host_says_as_whom() {
    let environment = environment("").await;
    let anybodys = environment.url(ECHO);
    let sales = format!("http://{}{ECHO}", environment.proxy().addresses()[1]);
    let ok = |user| (200, String::new(), Some(user));
    for (url, fields, expected) in [
        (&anybodys, &[("host", "sales.test")][..], ok(2)),
        (&anybodys, &[("host", "HR2.test:80")], ok(3)),
        (&anybodys, &[("host", "sales.test"), ("x-ringbearer-identity", "test")], ok(1)),
        (&anybodys, &[("x-ringbearer-identity", "hr")], ok(3)),
        (&sales, &[], ok(2)),
        (&sales, &[("host", "hr.test")], ok(2)),
        (&sales, &[("x-ringbearer-identity", "sales")], ok(2)),
        (&sales, &[("x-ringbearer-identity", "hr")], (403, "RBR-111".into(), None)),
        (&anybodys, &[("host", "nobody.test")], (400, "RBR-106".into(), None)),
    ] {
        assert_eq!(ask(&environment, url, fields).await, expected, "{fields:?}");
    }
    environment.finish().await;
}

#[tokio::test]
async fn with_clients_every_request_shows_a_key_and_acts_as_no_other_than_it_may() {
    let clients = client_table("billing", "key-1", "[\"sales\", \"test\"]")
        + &client_table("operator", "key-2", "\"*\"");
    let environment = environment(&clients).await;
    let url = environment.url(ECHO);
    let ok = |user| (200, String::new(), Some(user));
    let refused = |status, code: &str| (status, code.to_owned(), None);
    for (fields, expected) in [
        (&[][..], refused(401, "RBR-109")),
        (&[("authorization", "Bearer undefined")], refused(401, "RBR-110")),
        (&[("authorization", "Bearer key-1")], ok(2)),
        (&[("x-api-key", "key-1"), ("x-ringbearer-identity", "test")], ok(1)),
        (&[("x-api-key", "key-1"), ("x-ringbearer-identity", "hr")], refused(403, "RBR-111")),
        (&[("x-api-key", "key-1"), ("host", "hr.test")], refused(403, "RBR-111")),
        (&[("x-api-key", "key-2"), ("host", "hr.test")], ok(3)),
        (&[("x-api-key", "key-2")], refused(400, "RBR-106")),
    ] {
        assert_eq!(ask(&environment, &url, fields).await, expected, "{fields:?}");
    }
    let answer =
        environment.client.get(&url).basic_auth("any", Some("key-1")).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let denied = environment.client.get(&url).send().await.unwrap();
    assert_eq!(denied.headers()["www-authenticate"], "Bearer realm=\"ringbearer\"");
    environment.finish().await;
}
