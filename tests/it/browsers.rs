//! What web pages may do, and by which names the proxy may be called (threat 33).

use reqwest::{Method, Response, StatusCode};
use ringbearer::key::KeyDigest;
use ringbearer::sandbox::Rules;

use crate::support::{ECHO, Environment, LONG_IDLE, Wishes, json};
use crate::wire::Wire;

const APP: &str = "https://app.example.com";
const SMS: &str = "/restapi/v1.0/account/~/extension/~/sms";

/// Only the usual hosts are known, and the pages of one site may call.
async fn environment(proxy: &str, more: &str) -> Environment {
    let proxy = format!("{LONG_IDLE}{proxy}\n");
    let identity = format!(
        "jwt = \"sandbox-jwt\"\nhosts = \"sales.test\"\n\
         [host.ws]\nurl = \"ws://localhost:{{port}}\"\n{more}"
    );
    let environment = Environment::with(Wishes { proxy, identity, ..Wishes::default() }).await;
    environment.control().wait_until(|counts| counts.token_answers == 1).await;
    environment
}

async fn send(
    environment: &Environment,
    method: Method,
    target: &str,
    fields: &[(&str, &str)],
) -> Response {
    let request = environment.client.request(method, environment.url(target));
    let request =
        fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    request.send().await.unwrap()
}

fn outcome(answer: &Response) -> (u16, Option<&str>) {
    let code = answer.headers().get("x-ringbearer-error");
    (answer.status().as_u16(), code.map(|code| code.to_str().unwrap()))
}

fn field<'a>(answer: &'a Response, name: &str) -> Option<&'a str> {
    let mut values = answer.headers().get_all(name).iter();
    let value = values.next().map(|value| value.to_str().unwrap());
    assert!(values.next().is_none(), "{name} twice");
    value
}

#[tokio::test]
async fn nothing_that_another_sites_page_can_send_goes_on() {
    let environment = environment(&format!("hosts = \"*\"\ncors_origins = \"{APP}\""), "").await;
    let before = environment.control().counts().requests;
    let (evil, cross) = (("origin", "https://evil.test"), ("sec-fetch-site", "cross-site"));
    let form = ("content-type", "text/plain");
    for (method, target, fields) in [
        // A form that posts an SMS, a script, an image, a frame, a page in the same network.
        (Method::POST, SMS, &[evil, cross, form][..]),
        (Method::POST, SMS, &[("origin", "null"), cross, form]),
        (Method::GET, ECHO, &[evil]),
        (Method::GET, ECHO, &[cross, ("sec-fetch-mode", "no-cors"), ("sec-fetch-dest", "image")]),
        (Method::GET, ECHO, &[cross, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "iframe")]),
        (
            Method::GET,
            ECHO,
            &[cross, ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")],
        ),
        (Method::GET, ECHO, &[("sec-fetch-site", "same-site")]),
        (Method::OPTIONS, ECHO, &[evil, ("access-control-request-method", "POST")]),
        (Method::POST, "/restapi/oauth/token", &[evil, cross]),
        (Method::POST, "/logout", &[evil, cross]),
    ] {
        let answer = send(&environment, method.clone(), target, fields).await;
        assert_eq!(outcome(&answer), (403, Some("RBR-122")), "{method} {target} {fields:?}");
        assert_eq!(field(&answer, "access-control-allow-origin"), None);
    }
    let mut socket = Wire::open(environment.address()).await;
    let asked = format!(
        "GET /.ringbearer/ws/ws?access_token=x HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nOrigin: https://evil.test\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        environment.address()
    );
    let answer = socket.ask(asked).await;
    assert_eq!((answer.status, answer.error()), (403, Some("RBR-122")));
    assert_eq!(environment.control().counts().requests, before);
    let refused = send(&environment, Method::GET, ECHO, &[evil]).await;
    let message = json(refused).await["message"].as_str().unwrap().to_owned();
    assert!(message.contains("proxy.cors_origins"), "{message}");
    environment.finish().await;
}

#[tokio::test]
async fn a_person_may_be_sent_here_to_log_in_from_anywhere() {
    let environment = environment("", "").await;
    let arriving = [
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-mode", "navigate"),
        ("sec-fetch-dest", "document"),
    ];
    let back = "redirect_uri=http://localhost:3000/back&client_id=a&response_type=code&state=s";
    for (path, leads) in [
        ("/restapi/oauth/authorize", "http://localhost:3000/back?code=rbx1_"),
        ("/authorize", "http://localhost:3000/back?result=success&state=s"),
    ] {
        let answer = send(&environment, Method::GET, &format!("{path}?{back}"), &arriving).await;
        assert_eq!(answer.status(), StatusCode::FOUND);
        let to = field(&answer, "location").unwrap();
        assert!(to.starts_with(leads), "{to}");
    }
    environment.finish().await;
}

#[tokio::test]
async fn an_allowed_page_asks_first_and_then_reads_every_answer() {
    let environment = environment(&format!("cors_origins = [\"{APP}\"]"), "").await;
    let origin = ("origin", APP);
    let before = environment.control().counts().requests;
    let asks = [
        origin,
        ("access-control-request-method", "PUT"),
        ("access-control-request-headers", "authorization,x-custom"),
    ];
    let told = send(&environment, Method::OPTIONS, ECHO, &asks).await;
    assert_eq!(told.status(), StatusCode::NO_CONTENT);
    let methods = "GET, HEAD, POST, PUT, PATCH, DELETE";
    for (name, value) in [
        ("access-control-allow-origin", APP),
        ("access-control-allow-credentials", "true"),
        ("access-control-allow-methods", methods),
        ("access-control-allow-headers", "authorization,x-custom"),
        ("access-control-max-age", "7200"),
    ] {
        assert_eq!(field(&told, name), Some(value));
    }
    assert_eq!(environment.control().counts().requests, before, "the proxy has answered");

    let from_there = [origin, ("sec-fetch-site", "cross-site")];
    let theirs = send(&environment, Method::PUT, ECHO, &from_there).await;
    let arrived = environment.control().log().pop().unwrap();
    assert_eq!((theirs.status(), arrived.field("origin")), (StatusCode::OK, None));
    let ours = send(&environment, Method::GET, "/.ringbearer/none/", &[origin]).await;
    assert_eq!(outcome(&ours), (404, Some("RBR-112")));
    for answer in [&theirs, &ours] {
        assert_eq!(field(answer, "access-control-allow-origin"), Some(APP));
        assert_eq!(field(answer, "access-control-allow-credentials"), Some("true"));
        assert_eq!(field(answer, "vary"), Some("origin"));
        let exposed = field(answer, "access-control-expose-headers").unwrap();
        for name in ["Retry-After", "X-Rate-Limit-Remaining", "RCRequestId", "X-Ringbearer-Error"] {
            assert!(exposed.split(", ").any(|it| it == name), "{name}");
        }
    }
    let app = send(&environment, Method::GET, ECHO, &[]).await;
    assert_eq!(field(&app, "access-control-allow-origin"), None);
    assert_eq!(field(&app, "vary"), Some("origin"));
    environment.finish().await;
}

#[tokio::test]
async fn a_page_shows_a_key_like_anybody_but_asks_without() {
    let digest = KeyDigest::of(b"key");
    let client = format!("[client.page]\nkey_sha256 = \"{digest}\"\nidentities = \"test\"\n");
    let environment = environment(&format!("cors_origins = \"{APP}\""), &client).await;
    let origin = ("origin", APP);
    let asks = [origin, ("access-control-request-method", "POST")];
    assert_eq!(send(&environment, Method::OPTIONS, ECHO, &asks).await.status(), 204);
    let keyless = send(&environment, Method::POST, ECHO, &[origin]).await;
    assert_eq!(outcome(&keyless), (401, Some("RBR-109")));
    assert_eq!(field(&keyless, "access-control-allow-origin"), Some(APP), "the page can read why");
    let keyed = send(&environment, Method::POST, ECHO, &[origin, ("x-api-key", "key")]).await;
    assert_eq!(outcome(&keyed), (200, None));
    environment.finish().await;
}

#[tokio::test]
async fn a_name_that_leads_here_is_not_enough() {
    let environment = environment("hosts = [\"rc.test\", \"other.test:81\"]", "").await;
    let before = environment.control().counts().requests;
    let port = environment.address().port();
    // What a page sees that has made its own name lead here: no Origin, its own Host.
    for host in [&*format!("evil.test:{port}"), "evil.test", "other.test", "localhost.evil.test"] {
        let answer = send(&environment, Method::GET, ECHO, &[("host", host)]).await;
        assert_eq!(outcome(&answer), (421, Some("RBR-121")), "{host}");
        let message = json(answer).await["message"].as_str().unwrap().to_owned();
        assert!(message.contains("proxy.hosts"), "{message}");
    }
    let mut wire = Wire::open(environment.address()).await;
    let absolute = format!("GET http://evil.test{ECHO} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    assert_eq!(wire.ask(absolute).await.error(), Some("RBR-121"));
    assert_eq!(environment.control().counts().requests, before);
    for host in
        ["localhost", "127.0.0.1:1", "[::1]:8080", "SALES.test", "rc.test:99", "other.test:81"]
    {
        let answer = send(&environment, Method::GET, ECHO, &[("host", host)]).await;
        assert_eq!(outcome(&answer), (200, None), "{host}");
    }
    environment.finish().await;
}

#[tokio::test]
async fn the_usual_names_are_demanded_where_anybody_may_call() {
    let usual = Wishes::default().proxy + "cors_origins = []\n#hosts = \n";
    let ask = async |identity: &str| {
        let wishes = Wishes {
            proxy: usual.clone(),
            identity: format!("jwt = \"sandbox-jwt\"\n{identity}"),
            rules: Rules::unlimited(),
            ..Wishes::default()
        };
        let environment = Environment::with(wishes).await;
        let fields = [("host", "any.test"), ("x-api-key", "key")];
        let answer = send(&environment, Method::GET, ECHO, &fields).await;
        let outcome = (answer.status().as_u16(), outcome(&answer).1.map(str::to_owned));
        environment.finish().await;
        outcome
    };
    assert_eq!(ask("").await, (421, Some("RBR-121".to_owned())));
    let digest = KeyDigest::of(b"key");
    let client = format!("[client.a]\nkey_sha256 = \"{digest}\"\nidentities = \"test\"\n");
    assert_eq!(ask(&client).await, (200, None), "a page has no key");
}

#[tokio::test]
async fn embeddable_logs_in_and_out_at_a_proxy_that_carries_the_token() {
    let facade = "[facade]\nredirect_uris = [\"https://app.example.com/redirect.html\"]\n";
    let environment = environment(&format!("cors_origins = \"{APP}\""), facade).await;
    let before = environment.control().counts().requests;
    let login = |uri: &str| {
        let query = form(&[("response_type", "code"), ("redirect_uri", uri), ("state", "a b")]);
        format!("/authorize?{query}")
    };
    let allowed = login("https://app.example.com/redirect.html");
    let answer = send(&environment, Method::GET, &allowed, &[]).await;
    assert_eq!(answer.status(), StatusCode::FOUND);
    let back = "https://app.example.com/redirect.html?result=success&state=a+b";
    assert_eq!(field(&answer, "location"), Some(back));
    let elsewhere = send(&environment, Method::GET, &login("https://evil.test/"), &[]).await;
    assert_eq!(outcome(&elsewhere), (400, Some("RBR-118")));
    for (method, expected) in [
        (Method::POST, (200, None)),
        (Method::GET, (200, None)),
        (Method::PUT, (405, Some("RBR-117"))),
    ] {
        let answer = send(&environment, method, "/logout", &[("origin", APP)]).await;
        assert_eq!(outcome(&answer), expected);
        assert_eq!(field(&answer, "access-control-allow-origin"), Some(APP));
        if expected.0 == 200 {
            assert_eq!(json(answer).await, serde_json::json!({ "result": "success" }));
        }
    }
    assert_eq!(environment.control().counts().requests, before, "nobody is asked");
    let info =
        send(&environment, Method::GET, "/restapi/v1.0/client-info", &[("origin", APP)]).await;
    assert_eq!(outcome(&info), (200, None));
    let arrived = environment.control().log().pop().unwrap();
    assert_eq!((&*arrived.target, arrived.status), ("/restapi/v1.0/client-info", Some(200)));
    environment.finish().await;
}

fn form(pairs: &[(&str, &str)]) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}
