//! Absolute links in answers lead back to the proxy.

use ringbearer::key::KeyDigest;
use ringbearer::sandbox::Rules;
use serde_json::Value;

use crate::support::{Environment, Wishes, json};

const MESSAGES: &str = "/restapi/v1.0/account/~/extension/~/message-store?perPage=40";

/// RingCentral's own hosts stand in the answers, and are the sandbox in truth.
async fn ringcentrals_links(rewrite: bool) -> Environment {
    let rules = Rules { own_links: true, ..Rules::unlimited() };
    let identity = "jwt = \"sandbox-jwt\"\n[host.media]\nurl = \"http://localhost:{port}\"\n\
                    [host.ws]\nurl = \"ws://127.0.0.1:{port}\"\n";
    let proxy = format!("client_idle_timeout = \"1h\"\nrewrite_links = {rewrite}\n");
    let wishes = Wishes { rules, identity: identity.into(), proxy, ..Wishes::default() };
    Environment::with(wishes).await
}

/// Every string of a JSON value.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().flat_map(strings).collect(),
        Value::Object(members) => members.values().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

fn links(value: &Value) -> Vec<&str> {
    strings(value).into_iter().filter(|text| text.contains("://")).collect()
}

#[tokio::test]
async fn an_app_that_follows_links_never_leaves_the_proxy() {
    let environment = ringcentrals_links(true).await;
    let (mut next, mut pages, mut records) = (environment.url(MESSAGES), 0, 0);
    let mut attachments = Vec::new();
    loop {
        let answer = environment.client.get(&next).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{next}");
        let page = json(answer).await;
        pages += 1;
        records += page["records"].as_array().unwrap().len();
        let own = environment.url("/");
        let strays: Vec<_> = links(&page).into_iter().filter(|l| !l.starts_with(&own)).collect();
        assert_eq!(strays, Vec::<&str>::new());
        attachments.extend(page["records"][0]["attachments"][0]["uri"].as_str().map(str::to_owned));
        match page["navigation"]["nextPage"]["uri"].as_str() {
            Some(uri) => uri.clone_into(&mut next),
            None => break,
        }
    }
    assert_eq!((pages, records), (3, 95));
    for uri in &attachments {
        assert_eq!(environment.client.get(uri).send().await.unwrap().status(), 200, "{uri}");
    }
    // Each of them came with the proxy's token, through the proxy.
    let log = environment.control().log();
    assert!(
        log.iter()
            .all(|arrival| arrival.field("via").is_some() || arrival.target.contains("oauth"))
    );
    assert_eq!(environment.control().counts().api_401, 0);
    environment.finish().await;
}

#[tokio::test]
async fn what_is_rewritten_is_the_same_but_for_its_links() {
    let environment = ringcentrals_links(true).await;
    let direct = environment.direct(MESSAGES);
    let token = crate::support::access_token(&environment.sandbox).await;
    let original = environment.client.get(direct).bearer_auth(token).send().await.unwrap();
    let through = environment.get(MESSAGES).await;
    assert_eq!(through.headers().get("content-length"), None, "it is not known beforehand");
    assert_eq!(through.headers()["content-type"], original.headers()["content-type"]);
    let (original, through) = (original.text().await.unwrap(), through.text().await.unwrap());
    assert!(original.contains(&environment.sandbox.url()));
    let (from, to) = (environment.sandbox.url(), environment.url(""));
    assert_eq!(through, original.replace(&from, &to));
    environment.finish().await;
}

#[tokio::test]
async fn a_socket_is_found_through_the_proxy() {
    let environment = ringcentrals_links(true).await;
    let request = environment.client.post(environment.url("/restapi/oauth/wstoken"));
    let granted = json(request.send().await.unwrap()).await;
    let expected = format!("ws://{}/.ringbearer/ws/ws", environment.address());
    assert_eq!(granted["uri"], expected);
    environment.finish().await;
}

#[tokio::test]
async fn links_are_left_alone_where_that_is_wanted() {
    let environment = ringcentrals_links(false).await;
    let answer = environment.get(MESSAGES).await;
    assert!(answer.headers().contains_key("content-length"));
    let page = json(answer).await;
    let uri = page["navigation"]["firstPage"]["uri"].as_str().unwrap();
    assert!(uri.starts_with(&environment.sandbox.url()), "{uri}");
    environment.finish().await;
}

#[tokio::test]
async fn links_lead_to_the_host_by_which_the_client_came() {
    let environment = ringcentrals_links(true).await;
    let request = environment.client.get(environment.url(MESSAGES)).header("host", "rc.test:99");
    let page = json(request.send().await.unwrap()).await;
    let uri = page["navigation"]["firstPage"]["uri"].as_str().unwrap();
    assert!(uri.starts_with("http://rc.test:99/restapi/"), "{uri}");
    environment.finish().await;
}

/// The links in the first page of messages, as whoever shows this key sees them.
async fn first_page(environment: &Environment, key: &str) -> Vec<String> {
    let request = environment.client.get(environment.url(MESSAGES)).header("x-api-key", key);
    let page = json(request.send().await.unwrap()).await;
    links(&page).into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn a_client_may_have_its_links_left_alone() {
    let [tidy, raw] = ["tidy", "raw"].map(|key| KeyDigest::of(key.as_bytes()).to_string());
    let identity = format!(
        "jwt = \"sandbox-jwt\"\n\
         [client.tidy]\nkey_sha256 = \"{tidy}\"\nidentities = \"test\"\n\
         [client.raw]\nkey_sha256 = \"{raw}\"\nidentities = \"test\"\nrewrite_links = false\n"
    );
    let rules = Rules { own_links: true, ..Rules::unlimited() };
    let environment = Environment::with(Wishes { rules, identity, ..Wishes::default() }).await;
    let tidy = first_page(&environment, "tidy").await;
    let sandbox = environment.sandbox.url();
    assert!(tidy.iter().all(|link| !link.starts_with(&sandbox)), "{tidy:?}");
    let encodings = || {
        let log = environment.control().log();
        let last = log.iter().rfind(|arrival| arrival.target == MESSAGES).unwrap();
        last.field("accept-encoding").map(str::to_owned)
    };
    assert_eq!(encodings().as_deref(), Some("identity"));
    let raw = first_page(&environment, "raw").await;
    assert!(raw.iter().any(|link| link.starts_with(&sandbox)), "{raw:?}");
    assert_eq!(encodings(), None, "it may be compressed");
    assert_eq!(tidy.len(), raw.len());
    environment.finish().await;
}

#[tokio::test]
async fn links_to_a_host_may_be_left_alone() {
    let rules = Rules { own_links: true, ..Rules::unlimited() };
    let identity = "jwt = \"sandbox-jwt\"\n[host.ws]\nurl = \"ws://127.0.0.1:{port}\"\n\
                    rewrite_links = false\n[host.twin]\nurl = \"http://127.0.0.1:{port}\"\n\
                    rewrite_links = false\n";
    let wishes = Wishes { rules, identity: identity.into(), ..Wishes::default() };
    let environment = Environment::with(wishes).await;
    let socket = environment.client.post(environment.url("/restapi/oauth/wstoken"));
    let socket = json(socket.send().await.unwrap()).await;
    assert_eq!(socket["uri"], environment.sandbox.url().replacen("http", "ws", 1) + "/ws");
    let (own, sandbox) = (environment.url("/"), environment.sandbox.url());
    let page = json(environment.get(MESSAGES).await).await;
    assert!(links(&page).iter().any(|link| link.starts_with(&own)), "the platform's are led back");
    let answer = environment.get(&format!("/.ringbearer/twin{MESSAGES}")).await;
    let page = json(answer).await;
    let found = links(&page);
    assert!(!found.is_empty() && found.iter().all(|link| link.starts_with(&sandbox)), "{found:?}");
    environment.finish().await;
}
