//! `/.ringbearer/as/NAME/` as a base URL: the identity by path.

use ringbearer::key::KeyDigest;
use ringbearer::sandbox::Rules;
use serde_json::Value;

use crate::support::{ECHO, Environment, Wishes, json};

const MESSAGES: &str = "/restapi/v1.0/account/~/extension/~/message-store?perPage=40";

/// `test` is user 1, `sales` is user 2, with a listener of its own, and `hr` is user 3.
async fn environment(more: &str) -> Environment {
    let identity = format!(
        "jwt = \"sandbox-jwt-1\"\n\
         [identity.sales]\njwt = \"sandbox-jwt-2\"\nlisten = \"127.0.0.1:0\"\n\
         [identity.hr]\njwt = \"sandbox-jwt-3\"\n\
         [host.media]\nurl = \"http://localhost:{{port}}\"\n\
         [host.ws]\nurl = \"ws://127.0.0.1:{{port}}\"\n{more}"
    );
    let rules = Rules { own_links: true, ..Rules::unlimited() };
    Environment::with(Wishes { rules, identity, ..Wishes::default() }).await
}

/// Status, the proxy's own code, and the user that it was sent as.
async fn ask(url: &str, fields: &[(&str, &str)], at: &Environment) -> (u16, String, Option<u64>) {
    at.control().clear_log();
    let request = at.client.get(url);
    let request =
        fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let answer = request.send().await.unwrap();
    let code = answer.headers().get("x-ringbearer-error");
    let code = code.map_or_else(String::new, |code| code.to_str().unwrap().to_owned());
    let sent = at.control().log().into_iter().find(|arrival| arrival.target.starts_with(ECHO));
    if let Some(sent) = &sent {
        assert_eq!(sent.target, ECHO, "the prefix is taken off");
    }
    (answer.status().as_u16(), code, sent.and_then(|sent| sent.user))
}

#[tokio::test]
async fn a_path_says_as_whom_and_agrees_with_what_else_does() {
    let environment = environment("").await;
    let under = |name: &str| environment.url(&format!("/.ringbearer/as/{name}{ECHO}"));
    let sales = environment.proxy().addresses()[1];
    let ok = |user| (200, String::new(), Some(user));
    let refused = |status, code: &str| (status, code.to_owned(), None);
    for (url, fields, expected) in [
        (under("test"), &[][..], ok(1)),
        (under("hr"), &[], ok(3)),
        (under("hr"), &[("x-ringbearer-identity", "hr")], ok(3)),
        (under("hr"), &[("x-ringbearer-identity", "test")], refused(403, "RBR-111")),
        (format!("http://{sales}/.ringbearer/as/sales{ECHO}"), &[], ok(2)),
        (format!("http://{sales}/.ringbearer/as/hr{ECHO}"), &[], refused(403, "RBR-111")),
        (under("nobody"), &[], refused(403, "RBR-105")),
        (under("no%62ody"), &[], refused(403, "RBR-105")),
        (under("hr/.ringbearer/as/test"), &[], refused(404, "RBR-112")),
    ] {
        assert_eq!(ask(&url, fields, &environment).await, expected, "{url} {fields:?}");
    }
    environment.finish().await;
}

#[tokio::test]
async fn a_client_is_bound_whatever_the_path_says() {
    let digest = KeyDigest::of(b"key");
    let client =
        format!("[client.app]\nkey_sha256 = \"{digest}\"\nidentities = [\"test\", \"hr\"]\n");
    let environment = environment(&client).await;
    let under = |name: &str| environment.url(&format!("/.ringbearer/as/{name}{ECHO}"));
    let key = [("x-api-key", "key")];
    assert_eq!(ask(&under("hr"), &key, &environment).await, (200, String::new(), Some(3)));
    assert_eq!(ask(&under("sales"), &key, &environment).await, (403, "RBR-111".into(), None));
    assert_eq!(ask(&under("hr"), &[], &environment).await, (401, "RBR-109".into(), None));
    environment.finish().await;
}

#[tokio::test]
async fn links_lead_back_under_the_same_path_to_the_last_page() {
    let environment = environment("").await;
    let base = environment.url("/.ringbearer/as/hr");
    let (mut next, mut records) = (format!("{base}{MESSAGES}"), 0);
    loop {
        let page = json(environment.client.get(&next).send().await.unwrap()).await;
        records += page["records"].as_array().unwrap().len();
        match page["navigation"]["nextPage"]["uri"].as_str() {
            Some(uri) => uri.clone_into(&mut next),
            None => break,
        }
        assert!(next.starts_with(&base), "{next}");
    }
    assert_eq!(records, 95);
    let log = environment.control().log();
    let pages = log.iter().filter(|arrival| arrival.target.contains("/message-store"));
    let users: Vec<_> = pages.filter_map(|page| page.user).collect();
    assert_eq!(users, [3, 3, 3]);
    let socket = environment.client.post(format!("{base}/restapi/oauth/wstoken"));
    let socket = json(socket.send().await.unwrap()).await;
    let expected = format!("{}/.ringbearer/ws/ws", base.replacen("http", "ws", 1));
    assert_eq!(socket["uri"], expected);
    environment.finish().await;
}

#[tokio::test]
async fn a_login_under_a_path_is_for_its_identity() {
    let environment = environment("").await;
    let base = environment.url("/.ringbearer/as/hr");
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", "any"),
        ("client_id", "any"),
    ];
    let login = environment.client.post(format!("{base}/restapi/oauth/token")).form(&form);
    let granted: Value = json(login.send().await.unwrap()).await;
    let bearer = format!("Bearer {}", granted["access_token"].as_str().unwrap());
    let fields = [("authorization", &*bearer)];
    for url in [format!("{base}{ECHO}"), environment.url(ECHO)] {
        assert_eq!(ask(&url, &fields, &environment).await, (200, String::new(), Some(3)), "{url}");
    }
    let elsewhere = environment.url(&format!("/.ringbearer/as/test{ECHO}"));
    assert_eq!(ask(&elsewhere, &fields, &environment).await, (403, "RBR-111".into(), None));
    environment.finish().await;
}
