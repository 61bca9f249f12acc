//! What a client can do with the framing and routing of HTTP/1.1, and what it cannot.

use crate::support::{ECHO, Environment, Wishes};
use crate::wire::{Wire, get};

const EXTENSION: &str = "/restapi/v1.0/account/~/extension/~";
const MIRROR: &str = "/restapi/v1.0/sandbox/mirror";

async fn environment_and_wire() -> (Environment, Wire) {
    let environment = Environment::new().await;
    let wire = Wire::open(environment.address()).await;
    (environment, wire)
}

#[tokio::test]
async fn fifty_pipelined_requests_are_answered_in_order_over_one_upstream_connection() {
    let (environment, mut wire) = environment_and_wire().await;
    assert_eq!(wire.ask(get(ECHO)).await.status, 200);
    let before = environment.control().counts().connections_accepted;
    let all: String = (0..50).map(|n| get(&format!("{ECHO}?n={n}"))).collect();
    wire.send(all).await;
    for n in 0..50 {
        assert_eq!(wire.answer().await.json()["query"], format!("n={n}"));
    }
    let counts = environment.control().counts();
    assert_eq!((counts.api_requests, counts.connections_accepted - before), (51, 0));
}

#[tokio::test]
async fn the_content_is_asked_for_before_it_is_sent() {
    let (environment, mut wire) = environment_and_wire().await;
    let head = |target| {
        format!(
            "POST {target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        )
    };
    assert_eq!(wire.ask(head(ECHO)).await.status, 100);
    let answer = wire.ask("hello").await;
    assert_eq!((answer.status, &answer.json()["bodyBytes"]), (200, &5.into()));
    assert_eq!(environment.control().log().pop().unwrap().field("expect"), None);
    let refused = wire.ask(head("/restapi/oauth/device_authorization")).await;
    assert_eq!(refused.error(), Some("RBR-104"), "nobody asks for what nobody will read");
}

#[tokio::test]
async fn an_old_client_gets_an_old_answer() {
    let (environment, mut wire) = environment_and_wire().await;
    let request = format!("POST {MIRROR} HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello");
    let answer = wire.ask(request).await;
    assert_eq!((answer.status, &answer.content[..]), (200, &b"hello"[..]));
    assert_eq!(answer.field("transfer-encoding"), None);
    let arrived = environment.control().log().pop().unwrap();
    assert_eq!(arrived.version, "HTTP/1.1");
    let kept = format!("GET {ECHO} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let mut wire = Wire::open(environment.address()).await;
    for _ in 0..2 {
        assert_eq!(wire.ask(&kept).await.status, 200);
    }
}

#[tokio::test]
async fn anything_but_one_host_is_refused() {
    let environment = Environment::new().await;
    for hosts in ["", "Host: a\r\nHost: b\r\n", "Host: a\r\nHost: a\r\n"] {
        let mut wire = Wire::open(environment.address()).await;
        let answer = wire.ask(format!("GET {ECHO} HTTP/1.1\r\n{hosts}\r\n")).await;
        assert_eq!((answer.status, answer.error()), (400, Some("RBR-101")), "{hosts}");
        assert!(wire.is_closed().await, "{hosts}");
    }
    assert_eq!(environment.control().counts().api_requests, 0);
}

#[tokio::test]
async fn no_target_and_no_host_chooses_another_upstream() {
    let (environment, mut wire) = environment_and_wire().await;
    let upstream = environment.sandbox.url()[7..].to_owned();
    for (target, arriving) in [
        ("http://evil.test/restapi/v1.0/sandbox/echo?a=1", "/restapi/v1.0/sandbox/echo?a=1"),
        ("https://evil.test:1/a", "/a"),
        ("http://user:secret@evil.test/a", "/a"),
        ("http://evil.test", "/"),
        ("http://evil.test?a=1", "/?a=1"),
        ("//evil.test/a", "//evil.test/a"),
        ("//user:secret@evil.test/a", "//user:secret@evil.test/a"),
        ("/@evil.test/a", "/@evil.test/a"),
        ("/http://evil.test/a", "/http://evil.test/a"),
        ("/?url=http://evil.test", "/?url=http://evil.test"),
    ] {
        let answer = wire.ask(format!("GET {target} HTTP/1.1\r\nHost: evil.test\r\n\r\n")).await;
        assert_eq!(answer.error(), None, "{target}");
        let arrived = environment.control().log().pop().unwrap();
        assert_eq!((arrived.target.as_str(), arrived.field("host")), (arriving, Some(&*upstream)));
    }
    let answer = wire.ask("GET evil.test:80 HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!((answer.status, answer.error()), (400, Some("RBR-102")));
    assert_eq!(environment.control().counts().api_requests, 10);
}

#[tokio::test]
async fn no_nomination_removes_what_the_proxy_sets() {
    let (environment, mut wire) = environment_and_wire().await;
    let answer = wire
        .ask(format!(
            "POST {ECHO} HTTP/1.1\r\nHost: a\r\nConnection: authorization\r\n\
             Connection: host, VIA, content-length,x-hop , keep-alive\r\nX-Hop: 1\r\n\
             Authorization: Bearer undefined\r\nAuthorization: Basic aTpz\r\nAUTHORIZATION: x\r\n\
             Proxy-Authorization: Basic x\r\nX-Kept: 1\r\nContent-Length: 2\r\n\r\nhi"
        ))
        .await;
    assert_eq!((answer.status, &answer.json()["bodyBytes"]), (200, &2.into()));
    let arrived = environment.control().log().pop().unwrap();
    let mut names: Vec<_> = arrived.fields.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["accept-encoding", "authorization", "content-length", "host", "via", "x-kept"]
    );
    assert!(arrived.field("authorization").unwrap().starts_with("Bearer sandbox-access-"));
}

#[tokio::test]
async fn trace_and_connect_are_refused() {
    let environment = Environment::new().await;
    for request in
        ["TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"]
    {
        let mut wire = Wire::open(environment.address()).await;
        let answer = wire.ask(request).await;
        assert_eq!((answer.status, answer.error()), (405, Some("RBR-103")), "{request}");
        assert_eq!(answer.field("allow"), Some("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"));
    }
    assert_eq!(environment.control().counts().api_requests, 0);
}

#[tokio::test]
async fn an_offer_of_h2c_is_dropped_and_what_follows_is_the_next_request() {
    let (environment, mut wire) = environment_and_wire().await;
    let offer =
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n";
    let first = format!("GET {ECHO}?n=1 HTTP/1.1\r\nHost: a\r\n{offer}\r\n");
    wire.send(first + &get(&format!("{ECHO}?n=2"))).await;
    for query in ["n=1", "n=2"] {
        let answer = wire.answer().await;
        assert_eq!((answer.status, &answer.json()["query"]), (200, &query.into()));
    }
    for arrived in environment.control().log() {
        for name in ["upgrade", "http2-settings", "connection"] {
            assert_eq!(arrived.field(name), None);
        }
    }
}

#[tokio::test]
async fn a_request_that_comes_back_is_cut() {
    let (environment, mut wire) = environment_and_wire().await;
    wire.ask(get(ECHO)).await;
    let arrived = environment.control().log().pop().unwrap();
    let via = arrived.field("via").unwrap();
    let request =
        format!("GET {ECHO} HTTP/1.1\r\nHost: a\r\nVia: 1.0 edge\r\nVia: {via}, 1.1 b\r\n\r\n");
    let answer = wire.ask(request).await;
    assert_eq!((answer.status, answer.error()), (508, Some("RBR-305")));
    let other = format!("GET {ECHO} HTTP/1.1\r\nHost: a\r\nVia: 1.1 ringbearer-another\r\n\r\n");
    assert_eq!(wire.ask(other).await.status, 200);
    assert_eq!(environment.control().counts().api_requests, 2);
}

#[tokio::test]
async fn no_spelling_of_a_token_endpoint_reaches_ringcentral_but_wstoken_does() {
    for mode in ["refuse", "answer"] {
        no_spelling_of_a_token_endpoint_reaches_ringcentral(mode).await;
    }
    let (_environment, mut wire) = environment_and_wire().await;
    let request = "POST /restapi/oauth/wstoken HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    let answer = wire.ask(request).await;
    assert_eq!(answer.status, 200);
    assert!(answer.json()["ws_access_token"].is_string());
}

async fn no_spelling_of_a_token_endpoint_reaches_ringcentral(mode: &str) {
    let identity = format!("jwt = \"sandbox-jwt\"\n[facade]\nmode = \"{mode}\"");
    let environment = Environment::with(Wishes { identity, ..Wishes::default() }).await;
    let mut wire = Wire::open(environment.address()).await;
    environment.control().wait_until(|counts| counts.token_answers == 1).await;
    let before = environment.control().counts().requests;
    let mut answered = 0;
    for endpoint in ["token", "revoke", "authorize", "introspect", "device_authorization"] {
        let encoded = format!("%{:02x}{}", endpoint.as_bytes()[0], &endpoint[1..]);
        let upper = endpoint.to_uppercase();
        for target in [
            format!("/restapi/oauth/{endpoint}"),
            format!("/restapi/oauth/{endpoint}?grant_type=x"),
            format!("/restapi/oauth/{endpoint}/"),
            format!("/restapi/oauth/{encoded}"),
            format!("/RestAPI/OAuth/{upper}"),
            format!("//restapi//oauth//{endpoint}"),
            format!("/restapi/./oauth/{endpoint}"),
            format!("/restapi/v1.0/../oauth/{endpoint}"),
            format!("/restapi/v1.0/%2e%2E/oauth/{endpoint}"),
            format!("/restapi/oauth%2f{endpoint}"),
            format!("/restapi/oauth%252F{endpoint}"),
            format!("/restapi/oauth%5c{endpoint}"),
            format!("/restapi;v=1/oauth;x/{endpoint};y"),
            format!("http://platform.ringcentral.com/restapi/oauth/{endpoint}"),
        ] {
            for method in ["GET", "POST"] {
                let answer =
                    wire.ask(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
                let expected = match (mode, endpoint, method) {
                    ("refuse", ..) | (_, "device_authorization", _) => (403, Some("RBR-104")),
                    (_, "revoke", _) => (200, None),
                    (_, "authorize", "GET") | (_, "token" | "introspect", "POST") => {
                        (400, Some("RBR-116"))
                    }
                    _ => (405, Some("RBR-117")),
                };
                assert_eq!((answer.status, answer.error()), expected, "{mode} {method} {target}");
                answered += 1;
            }
        }
    }
    assert_eq!(answered, 140);
    assert_eq!(environment.control().counts().requests, before);
}

#[tokio::test]
async fn a_token_in_the_query_is_taken_out() {
    let (environment, mut wire) = environment_and_wire().await;
    for (query, arriving) in [
        ("?access_token=leaked", ""),
        ("?a=%20+&access_token=leaked&b", "?a=%20+&b"),
        ("?access%5ftoken=leaked&x=access_token", "?x=access_token"),
        ("?my_access_token=1", "?my_access_token=1"),
    ] {
        assert_eq!(wire.ask(get(&format!("{ECHO}{query}"))).await.status, 200);
        let arrived = environment.control().log().pop().unwrap();
        assert_eq!(arrived.target, format!("{ECHO}{arriving}"));
    }
}

#[tokio::test]
async fn content_is_framed_anew_and_never_by_two_rules() {
    let environment = Environment::new().await;
    let post = |fields: &str| format!("POST {ECHO} HTTP/1.1\r\nHost: a\r\n{fields}\r\n");
    for (refused, code) in [
        ("Transfer-Encoding: gzip, chunked\r\n", "RBR-108"),
        ("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "RBR-108"),
        ("Transfer-Encoding: gzip\r\n", "RBR-108"),
        ("Content-Length: 100\r\nTransfer-Encoding: chunked\r\n", "RBR-134"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "RBR-134"),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", "RBR-134"),
        ("Content-Length: 5, 6\r\n", "RBR-134"),
        ("Content-Length: +5\r\n", "RBR-134"),
    ] {
        let mut wire = Wire::open(environment.address()).await;
        let smuggled = post(refused) + "5\r\nhello\r\n0\r\n\r\n" + &get("/smuggled");
        let answer = wire.ask(smuggled).await;
        assert_eq!((answer.status, answer.error()), (400, Some(code)), "{refused}");
        assert_eq!(answer.field("connection"), Some("close"), "{refused}");
        assert!(wire.is_closed().await, "{refused}");
    }
    assert_eq!(environment.control().counts().api_requests, 0);
}

#[tokio::test]
async fn a_get_keeps_its_content_however_that_is_framed() {
    let (environment, mut wire) = environment_and_wire().await;
    for (framing, content) in [
        ("Content-Length: 5", "hello"),
        ("Transfer-Encoding: chunked", "2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"),
    ] {
        let answer =
            wire.ask(format!("GET {ECHO} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{content}")).await;
        assert_eq!(answer.json()["bodyBytes"], 5, "{framing}");
    }
    assert_eq!(environment.control().counts().api_requests, 2);
}

#[tokio::test]
async fn trailers_pass_in_both_directions() {
    let (environment, mut wire) = environment_and_wire().await;
    let answer = wire
        .ask(format!(
            "POST {MIRROR} HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum, Authorization\r\n\
             Transfer-Encoding: chunked\r\n\r\n\
             5\r\nhello\r\n0\r\nX-Sum: 7\r\nAuthorization: Bearer evil\r\nX-Other: 1\r\n\r\n"
        ))
        .await;
    assert_eq!((answer.status, &answer.content[..]), (200, &b"hello"[..]));
    let expected = [("x-sum".to_owned(), "7".to_owned())];
    assert_eq!(answer.trailers, expected);
    environment.control().wait_until(|counts| counts.in_flight == 0).await;
    assert_eq!(environment.control().log().pop().unwrap().trailers, expected);
}

#[tokio::test]
async fn links_and_answers_of_the_proxy_itself_look_like_ringcentrals() {
    let (environment, mut wire) = environment_and_wire().await;
    let answer = wire.ask(get(&format!("{EXTENSION}/nothing/here"))).await;
    assert_eq!((answer.status, answer.error()), (404, None));
    let ours = wire.ask(get("/restapi/oauth/device_authorization")).await;
    let (theirs, ours) = (answer.json(), ours.json());
    let members =
        |body: &serde_json::Value| body.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(members(&theirs), members(&ours));
    assert_eq!(environment.control().counts().api_requests, 1);
}
