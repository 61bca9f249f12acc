//! What a client may ask for, over raw sockets, before an upstream that notes every byte it is asked.
//!
//! What may arrive is decided here by the test's own reading of a request, which shares nothing with
//! the proxy's.

mod reading;
mod variants;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use ringbearer::key::KeyDigest;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{Environment, Wishes, json};
use reading::{effective, is_allowed, is_denied, names_a_method};
use variants::{is_well_formed, variant};

const EXTENSION: &str = "/restapi/v1.0/account/~/extension/~";

/// What is allowed to the client `listed`; [`is_allowed`] is the same, in other words.
const LISTED: &str = r#"
allow = [
    "readUserCallLog",
    "createSMSMessage",
    "GET /restapi/v1.0/account/{accountId}/recording/*",
    "GET /team-messaging/v1/**",
]
deny = ["GET /team-messaging/v1/chats/{chatId}/notes"]
"#;

/// Requests as they arrived: the head's lines, the request line first.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<Vec<Vec<String>>>>);

impl Arrivals {
    fn take(&self) -> Vec<Vec<String>> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    /// Notes every request on every connection, and answers it.
    async fn serve(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(self.clone().connection(stream));
        }
    }

    async fn connection(self, mut stream: TcpStream) {
        let mut unread = Vec::new();
        loop {
            let end = loop {
                match unread.windows(4).position(|window| window == b"\r\n\r\n") {
                    Some(end) => break end,
                    None if stream.read_buf(&mut unread).await.is_ok_and(|read| read > 0) => {}
                    None => return,
                }
            };
            let head: Vec<u8> = unread.drain(..end + 4).collect();
            let head = String::from_utf8_lossy(&head[..end]).into_owned();
            let lines: Vec<String> = head.split("\r\n").map(str::to_owned).collect();
            let content = if lines[0].starts_with("HEAD ") { "" } else { "ok" };
            self.0.lock().unwrap().push(lines);
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{content}");
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
        }
    }
}

/// Clients by their keys: `listed` by "listed", `denied` by "denied", and `free`, who has no policy.
async fn world(more: &str) -> (Environment, Arrivals) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let upstream = format!("http://{}", listener.local_addr().unwrap());
    let arrivals = Arrivals::default();
    tokio::spawn(arrivals.clone().serve(listener));
    let client = |name: &str, policy: &str| {
        let digest = KeyDigest::of(name.as_bytes());
        format!("[client.{name}]\nkey_sha256 = \"{digest}\"\nidentities = \"*\"\n{policy}\n")
    };
    let clients = [
        client("listed", LISTED),
        client("denied", "preset = [\"no-sms\", \"no-recordings\"]"),
        client("free", ""),
    ];
    let identity = format!(
        "jwt = \"sandbox-jwt\"\n[host.media]\nurl = \"{upstream}\"\n{}\n{more}",
        clients.concat()
    );
    let wishes = Wishes { identity, upstream_url: Some(upstream), ..Wishes::default() };
    let environment = Environment::with(wishes).await;
    environment.control().wait_until(|counts| counts.token_answers == 1).await;
    (environment, arrivals)
}

/// Status and the proxy's own code.
async fn ask(
    environment: &Environment,
    line: &[u8],
    fields: &str,
) -> (Option<u16>, Option<String>) {
    let mut stream = TcpStream::connect(environment.address()).await.unwrap();
    let rest = format!("Host: a\r\nConnection: close\r\nContent-Length: 0\r\n{fields}\r\n");
    let request = [line, b" HTTP/1.1\r\n", rest.as_bytes()].concat();
    // Whoever is refused in the middle of a request may be cut off.
    let _ = stream.write_all(&request).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let code = answer.split("x-ringbearer-error: ").nth(1);
    (status, code.map(|code| code[..7].to_owned()))
}

#[tokio::test]
async fn of_two_thousand_variants_only_what_is_allowed_arrives_and_all_of_that() {
    let (environment, arrivals) = world("").await;
    let mut random = Rng::with_seed(7);
    let variants: Vec<_> = (0..2000).map(|_| variant(&mut random)).collect();
    let mut allowed = 0;
    for (number, line) in variants.iter().enumerate() {
        let shown = String::from_utf8_lossy(line);
        let marker = format!("X-Api-Key: listed\r\nX-Marker: {number}\r\n");
        let (status, code) = ask(&environment, line, &marker).await;
        let arrived = arrivals.take();
        let wanted = effective(line).filter(|(method, target)| is_allowed(method, target));
        match (&arrived[..], wanted) {
            ([], None) => assert_ne!(status, Some(200), "{shown}"),
            ([], Some(_)) => {
                assert!(!is_well_formed(line), "{shown} is refused: {status:?} {code:?}");
            }
            ([head], Some((method, target))) => {
                let target = match target.split_once('?') {
                    Some((path, "access_token=x")) => path.to_owned(),
                    _ => target,
                };
                assert_eq!(head[0], format!("{method} {target} HTTP/1.1"), "to the byte");
                assert!(head.contains(&format!("x-marker: {number}")));
                allowed += usize::from(is_well_formed(line));
            }
            (_, None) => panic!("a bypass: {shown} arrives as {:?}", arrived[0][0]),
            (_, Some(_)) => panic!("{shown} arrives {} times", arrived.len()),
        }
    }
    assert_eq!(allowed, 266);
    environment.finish().await;
}

#[tokio::test]
async fn of_two_thousand_variants_none_that_means_what_is_denied_arrives() {
    let (environment, arrivals) = world("").await;
    let mut random = Rng::with_seed(11);
    let mut told = BTreeMap::new();
    for number in 0..2000 {
        let line = variant(&mut random);
        let (status, code) = ask(&environment, &line, "X-Api-Key: denied\r\n").await;
        let arrived = arrivals.take();
        assert!(arrived.len() < 2, "{number}");
        for head in &arrived {
            let words: Vec<_> = head[0].split(' ').collect();
            assert!(!is_denied(words[0], words[1]), "a bypass: {:?}", head[0]);
            assert!(!names_a_method(words[1].split_once('?').map_or("", |(_, query)| query)));
        }
        let what = if arrived.is_empty() { code.unwrap_or_default() } else { "arrives".to_owned() };
        *told.entry((status.unwrap_or_default(), what)).or_insert(0) += 1;
    }
    let count = |status, what: &str| told.get(&(status, what.to_owned())).copied().unwrap_or(0);
    assert!(count(200, "arrives") > 300, "{told:?}");
    assert!(count(403, "RBR-150") > 100, "{told:?}");
    assert!(count(403, "RBR-151") > 50, "{told:?}");
    assert!(count(400, "RBR-152") > 300, "{told:?}");
    environment.finish().await;
}

/// Ways to say that a POST is a DELETE: a field and a query, either of them empty.
fn tunnels() -> Vec<(String, String)> {
    let names = [
        "X-HTTP-Method-Override",
        "x-http-method-override",
        "X_HTTP_METHOD_OVERRIDE",
        "X-HTTP_Method-Override",
        "X-HTTP-Method",
        "X-Http-Method",
        "x_http_method",
        "X-Method-Override",
        "X_METHOD_OVERRIDE",
        "X-Method",
        "HTTP-Method-Override",
        "Method-Override",
        "_method",
        "X-Original-Method",
        "X-Override-Method",
        "X-Original-URL",
        "X-Rewrite-URL",
        "x_original_url",
    ];
    let fields = names.map(|name| (format!("{name}: DELETE\r\n"), String::new()));
    let queries = [
        "_method=DELETE",
        "_method=delete",
        "_METHOD=DELETE",
        "a=b&_method=DELETE",
        "_method=DELETE&_method=POST",
        "%5Fmethod=DELETE",
        "%5fmethod=DELETE",
        "_%6dethod=DELETE",
        "%5F%6D%65%74%68%6F%64=DELETE",
        "%255Fmethod=DELETE",
        "%25255Fmethod=DELETE",
        "a=b;_method=DELETE",
        "a=b%26_method=DELETE",
        "a=b%2526_method=DELETE",
        "_method%00=DELETE",
        "_method[]=DELETE",
        "_me%00thod=DELETE",
        "_method",
        "x-http-method-override=DELETE",
        "access_token=x&_method=DELETE",
        "_method=DELETE&access_token=x",
        "%_method=DELETE",
    ];
    let queries = queries.map(|query| (String::new(), format!("?{query}")));
    fields.into_iter().chain(queries).collect()
}

#[tokio::test]
async fn forty_ways_to_mean_another_method_are_refused_by_a_policy_and_pass_without() {
    let (environment, arrivals) = world("").await;
    let tunnels = tunnels();
    assert_eq!(tunnels.len(), 40);
    for (field, query) in &tunnels {
        let line = format!("POST {EXTENSION}/sms{query}");
        for client in ["listed", "denied"] {
            let line = line.replace("/sms", if client == "listed" { "/sms" } else { "/ring-out" });
            let fields = format!("X-Api-Key: {client}\r\n{field}");
            let (status, code) = ask(&environment, line.as_bytes(), &fields).await;
            let expected = (Some(403), Some("RBR-151".to_owned()));
            assert_eq!((status, code), expected, "{client} {field}{query}");
        }
        assert_eq!(arrivals.take().len(), 0, "{field}{query}");
        let fields = format!("X-Api-Key: free\r\n{field}");
        let (status, _) = ask(&environment, line.as_bytes(), &fields).await;
        assert_eq!((status, arrivals.take().len()), (Some(200), 1), "{field}{query}");
    }
    environment.finish().await;
}

#[tokio::test]
async fn recordings_are_kept_on_every_host_and_under_every_prefix() {
    let (environment, arrivals) = world("").await;
    let content = "/restapi/v1.0/account/~/recording/7/content";
    for prefix in
        ["", "/.ringbearer/media", "/.ringbearer/as/test", "/.ringbearer/as/test/.ringbearer/media"]
    {
        for (client, expected) in
            [("denied", Some(403)), ("listed", Some(403)), ("free", Some(200))]
        {
            let line = format!("GET {prefix}{content}?access_token=stolen&x=1");
            let key = format!("X-Api-Key: {client}\r\n");
            let (status, code) = ask(&environment, line.as_bytes(), &key).await;
            assert_eq!(status, expected, "{client} {prefix}");
            assert_eq!(code.as_deref(), (client != "free").then_some("RBR-150"));
            let arrived = arrivals.take();
            let lines: Vec<_> = arrived.iter().map(|head| head[0].as_str()).collect();
            let passed = [format!("GET {content}?x=1 HTTP/1.1")];
            assert_eq!(lines, if client == "free" { &passed[..] } else { &[] });
        }
    }
    environment.finish().await;
}

#[tokio::test]
async fn a_refusal_names_the_client_and_its_rule_and_nobody_elses() {
    let (environment, arrivals) = world("").await;
    let send = async |key: &str, method: reqwest::Method, path: &str| {
        let request = environment.client.request(method, environment.url(path));
        request.header("x-api-key", key).send().await.unwrap()
    };
    for (key, path, message) in [
        (
            "denied",
            format!("{EXTENSION}/sms"),
            "client \"denied\" may not send this request: it is refused by \"POST /restapi/**/sms/**\" of preset no-sms",
        ),
        (
            "listed",
            format!("{EXTENSION}/fax"),
            "client \"listed\" may not send this request: it may do only what its rules allow, and none allows this",
        ),
    ] {
        let refused = send(key, reqwest::Method::POST, &path).await;
        assert_eq!(refused.status(), 403);
        assert_eq!(refused.headers()["x-ringbearer-error"], "RBR-150");
        let told = json(refused).await;
        let error = serde_json::json!({ "errorCode": "RBR-150", "message": message });
        let mut expected = error.clone();
        expected["errors"] = Value::Array(vec![error]);
        assert_eq!(told, expected);
    }
    assert_eq!(
        send("listed", reqwest::Method::POST, &format!("{EXTENSION}/sms")).await.status(),
        200
    );
    assert_eq!(arrivals.take().len(), 1);
    environment.finish().await;
}

#[tokio::test]
async fn a_login_at_the_proxy_is_as_bound_as_its_key_and_gets_no_socket_either() {
    let (environment, arrivals) = world("").await;
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", "any"),
        ("client_id", "any"),
        ("client_secret", "denied"),
    ];
    let login = environment.client.post(environment.url("/restapi/oauth/token")).form(&form);
    let granted = json(login.send().await.unwrap()).await;
    let bearer = granted["access_token"].as_str().expect("a login is no operation");
    let send = async |method: reqwest::Method, path: &str| {
        let request = environment.client.request(method, environment.url(path));
        let answer = request.bearer_auth(bearer).send().await.unwrap();
        let code = answer.headers().get("x-ringbearer-error");
        (answer.status().as_u16(), code.map(|code| code.to_str().unwrap().to_owned()))
    };
    let refused = (403, Some("RBR-150".to_owned()));
    assert_eq!(send(reqwest::Method::GET, EXTENSION).await, (200, None));
    assert_eq!(send(reqwest::Method::POST, &format!("{EXTENSION}/sms")).await, refused);
    assert_eq!(send(reqwest::Method::POST, "/restapi/oauth/wstoken").await, refused);
    assert_eq!(arrivals.take().len(), 1);
    environment.finish().await;
}

#[tokio::test]
async fn everybodys_policy_holds_with_clients_and_without() {
    let everybody = "[policy]\ndeny = \"GET /restapi/v1.0/account/{accountId}/call-log\"\n";
    let (environment, arrivals) = world(everybody).await;
    let call_log = b"GET /restapi/v1.0/account/~/call-log".as_slice();
    for client in ["free", "listed"] {
        let key = format!("X-Api-Key: {client}\r\n");
        let told = ask(&environment, call_log, &key).await;
        assert_eq!(told, (Some(403), Some("RBR-150".to_owned())), "{client}");
    }
    let extension = format!("GET {EXTENSION}");
    let told = ask(&environment, extension.as_bytes(), "X-Api-Key: free\r\n").await;
    assert_eq!((told.0, arrivals.take().len()), (Some(200), 1));
    environment.finish().await;

    let identity = format!("jwt = \"sandbox-jwt\"\n{everybody}");
    let environment = Environment::with(Wishes { identity, ..Wishes::default() }).await;
    let refused = environment.get("/restapi/v1.0/account/~/call-log").await;
    assert_eq!(refused.status(), 403);
    assert_eq!(
        json(refused).await["message"],
        "whoever calls this proxy may not send this request: it is refused by \"GET /restapi/v1.0/account/{accountId}/call-log\" of deny"
    );
    assert_eq!(environment.get(EXTENSION).await.status(), 200);
    environment.finish().await;
}
