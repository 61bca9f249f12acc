//! Secrets leak nowhere: each is a canary, and every byte that the real program prints, logs, stores,
//! or answers by itself is searched for all of them, at `trace`, in good days and bad (threat 38).

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use reqwest::{Method, RequestBuilder};
use ringbearer::clock::Clock;
use ringbearer::key::KeyDigest;
use ringbearer::sandbox::{Fault, FaultKind, Garbage, Place, Rules, Sandbox, SandboxOptions};
use ringbearer::secret::Secret;
use ringbearer::store::file::FileStore;
use ringbearer::store::seal::Seal;
use ringbearer::store::{Entry, TokenStore};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::{ECHO, client, json};
use crate::wire::Wire;

const PROGRAM: &str = env!("CARGO_BIN_EXE_ringbearer");
const API: &str = "/restapi/v1.0/account/~/extension/~";
const SMS: &str = "/restapi/v1.0/account/~/extension/~/sms";

/// With characters that each encoding writes in its own way.
/// Of characters that are the same in every form: the sandbox takes Basic to the letter.
const CLIENT_SECRET: &str = "canary-client-secret-1";
const JWT: &str = "canary\"jwt/+=2";
const CLIENT_KEY: &str = "canary\"client-key/+=3";
const WRONG_KEY: &str = "canary\"wrong-key/+=4";
const ADMIN_KEY: &str = "canary\"admin-key/+=5";
const QUERY_TOKEN: &str = "canary\"query/+=6";
const CONTENT: &str = "canary\"content/+=7";
const COOKIE: &str = "canary\"cookie/+=8";
const ADDED_JWT: &str = "canary\"added-jwt/+=9";
const REDIS_PASSWORD: &str = "canary-redis-password-10";
const STORE_KEY: &str = "Q0FOQVJZLXN0b3JlLWtleS1DQU5BUlktc3RvcmUta2U=";
const FACADE_KEY: &str = "Q0FOQVJZLWZhY2FkZS1rZXktQ0FOQVJZLWZhY2FkZS0=";
const ARCHIVE_KEY: &str = "Q0FOQVJZLWFyY2hpdmUta2V5LUNBTkFSWS1hcmNoaXY=";

/// What must be found nowhere.
#[derive(Clone)]
struct Canaries(BTreeSet<String>);

impl Canaries {
    fn all() -> Self {
        let known = [
            CLIENT_SECRET,
            JWT,
            CLIENT_KEY,
            WRONG_KEY,
            ADMIN_KEY,
            QUERY_TOKEN,
            CONTENT,
            COOKIE,
            ADDED_JWT,
            REDIS_PASSWORD,
            STORE_KEY,
            FACADE_KEY,
            ARCHIVE_KEY,
        ];
        Self(known.map(str::to_owned).into())
    }

    fn add(&mut self, secret: &str) {
        assert!(secret.len() >= 12, "{secret} would be found by accident");
        self.0.insert(secret.to_owned());
    }

    /// Which of them stand in it, and in which form.
    fn hits(&self, text: &[u8]) -> Vec<String> {
        let found = |needle: &Vec<u8>| memchr::memmem::find(text, needle).is_some();
        let of = |secret: &String| {
            let forms = forms(secret).into_iter().filter(|(_, needle)| found(needle));
            forms.map(|(form, _)| format!("{secret} ({form})")).collect::<Vec<_>>()
        };
        self.0.iter().flat_map(of).collect()
    }
}

/// How a secret may be written.
fn forms(secret: &str) -> Vec<(&'static str, Vec<u8>)> {
    let bytes = secret.as_bytes();
    let json = serde_json::to_string(secret).unwrap();
    let percent = |all: bool| -> String {
        let keep = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        let one = |byte: &u8| match *byte {
            byte if !all && keep(byte) => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        };
        bytes.iter().map(one).collect()
    };
    let hex = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from_digit(digit.into(), 16).unwrap())
        .collect::<String>();
    let mut forms = vec![
        ("plain", bytes.to_vec()),
        ("JSON", json.trim_matches('"').as_bytes().to_vec()),
        ("Debug", format!("{:?}", json.trim_matches('"')).trim_matches('"').as_bytes().to_vec()),
        ("percent", percent(false).into_bytes()),
        ("percent, lower case", percent(false).to_ascii_lowercase().into_bytes()),
        ("percent, all", percent(true).into_bytes()),
        ("hexadecimal", hex.into_bytes()),
        ("a list of bytes", format!("{bytes:?}").trim_matches(['[', ']']).as_bytes().to_vec()),
    ];
    // In base64 what stands before shifts it; the first and the last characters are mixed with
    // the neighbours' bits.
    for shift in 0..3 {
        let shifted = [&b"\0\0"[..shift], bytes].concat();
        let whole = shifted.len() / 3 * 4;
        let from = if shift == 0 { 0 } else { 4 };
        for (name, engine) in
            [("base64", &BASE64_STANDARD_NO_PAD), ("base64url", &BASE64_URL_SAFE_NO_PAD)]
        {
            forms.push((name, engine.encode(&shifted).as_bytes()[from..whole].to_vec()));
        }
    }
    forms
}

/// Everything that was said where nobody's secret belongs, by whom.
#[derive(Default)]
struct Heard(Vec<(String, Vec<u8>)>);

impl Heard {
    fn note(&mut self, who: impl Into<String>, text: impl Into<Vec<u8>>) {
        self.0.push((who.into(), text.into()));
    }

    fn last(&self) -> String {
        let (who, text) = self.0.last().expect("something was heard");
        format!("{who}: {}", String::from_utf8_lossy(text))
    }

    /// Head and content of an answer that the proxy has made itself.
    async fn answer(&mut self, request: RequestBuilder) -> u16 {
        let answer = request.send().await.unwrap();
        let status = answer.status().as_u16();
        let head = format!("{status} {:?}", answer.headers());
        let url = answer.url().path().to_owned();
        let content = answer.bytes().await.unwrap_or_default();
        self.note(format!("answer to {url}"), [head.as_bytes(), &content].concat());
        status
    }

    async fn command(&mut self, arguments: &[&str], config: &Path) -> (Option<i32>, Vec<u8>) {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--config").arg(config).stdin(Stdio::null());
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let whole = [&output.stdout[..], &output.stderr].concat();
        self.note(arguments.join(" "), whole.clone());
        (output.status.code(), whole)
    }

    fn files(&mut self, directory: &Path) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                self.files(&path);
            } else {
                self.note(path.display().to_string(), fs::read(&path).unwrap());
            }
        }
    }

    fn assert_clean_of(&self, canaries: &Canaries) {
        let found = |(who, text): &(String, Vec<u8>)| {
            canaries.hits(text).into_iter().map(|hit| format!("{who}: {hit}")).collect::<Vec<_>>()
        };
        let found: Vec<_> = self.0.iter().flat_map(found).collect();
        assert!(found.is_empty(), "{} leaks:\n{}", found.len(), found.join("\n"));
    }
}

/// The program, every byte of whose standard error is kept.
struct Serving {
    child: Child,
    said: Arc<Mutex<Vec<u8>>>,
    lines: UnboundedReceiver<String>,
    proxy: SocketAddr,
    admin: SocketAddr,
}

impl Serving {
    async fn start(config: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (sender, lines) = unbounded_channel();
        let (mut stderr, kept) = (BufReader::new(child.stderr.take().unwrap()), Arc::clone(&said));
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
                kept.lock().unwrap().extend_from_slice(&line);
                // The test may have heard enough.
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut serving = Self { child, said, lines, proxy: nowhere, admin: nowhere };
        serving.proxy = serving.address("listening").await;
        serving.admin = serving.address("operators are served").await;
        serving
    }

    async fn says(&mut self, words: &str) -> String {
        loop {
            let line = self.lines.recv().await.expect("it goes on until it says so");
            if line.contains(words) {
                return line;
            }
        }
    }

    async fn address(&mut self, words: &str) -> SocketAddr {
        let line = self.says(words).await;
        let rest = line.split_once("http://").expect("a URL").1;
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
        rest[..end.unwrap_or(rest.len())].parse().unwrap()
    }

    async fn end(mut self) -> Vec<u8> {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        while self.lines.recv().await.is_some() {}
        assert!(self.child.wait().unwrap().success());
        self.said.lock().unwrap().clone()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Scene {
    sandbox: Sandbox,
    files: TempDir,
    canaries: Canaries,
    heard: Heard,
}

impl Scene {
    async fn new() -> Self {
        let mut rules = Rules::unlimited();
        rules.applications[0].client_secret = Some(CLIENT_SECRET.to_owned());
        rules.users[0].jwt = Some(JWT.to_owned());
        let options = SandboxOptions {
            tls_listen: Some(SocketAddr::from(([127, 0, 0, 1], 0))),
            rules,
            ..SandboxOptions::default()
        };
        let sandbox = Sandbox::start(options).await.unwrap();
        let files = TempDir::new().unwrap();
        Self { sandbox, files, canaries: Canaries::all(), heard: Heard::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    /// A refresh token of a session of its own.
    async fn log_in(&mut self) -> String {
        let request = client().post(format!("{}/restapi/oauth/token", self.sandbox.url()));
        let request = request.basic_auth("sandbox-client", Some(CLIENT_SECRET)).form(&[
            ("grant_type", "password"),
            ("username", "+15551230001"),
            ("password", "sandbox-password"),
        ]);
        let answer = json(request.send().await.unwrap()).await;
        for name in ["access_token", "refresh_token"] {
            self.canaries.add(answer[name].as_str().unwrap());
        }
        answer["refresh_token"].as_str().unwrap().to_owned()
    }

    /// Everything is configured; h2 is spoken with RingCentral if `http2`.
    async fn configure(&mut self, format: &str, http2: bool) -> PathBuf {
        let refresh_token = self.log_in().await;
        let ca = self.path("ca.pem");
        fs::write(&ca, self.sandbox.ca_pem().unwrap()).unwrap();
        let (client, admin) = (KeyDigest::of(CLIENT_KEY), KeyDigest::of(ADMIN_KEY));
        let upstream = if http2 {
            format!(
                "url = '{}'\nca_file = '{}'\nhttp2 = true",
                self.sandbox.tls_url().unwrap(),
                ca.display()
            )
        } else {
            format!("url = '{}'", self.sandbox.url())
        };
        let text = format!(
            "[proxy]\nlisten = '127.0.0.1:0'\nworkers = 1\nh2c = true\nhosts = '*'\ntoken_wait = '2s'\n\
             [upstream]\n{upstream}\nresponse_timeout = '2s'\n\
             [application.test]\nclient_id = 'sandbox-client'\nclient_secret = '{CLIENT_SECRET}'\n\
             token_requests_per_minute = 1000\n\
             [identity.test]\njwt = '{JWT}'\n\
             [identity.person]\nrefresh_token = '{refresh_token}'\n\
             [host.ws]\nurl = '{}'\n\
             [client.app]\nkey_sha256 = '{client}'\nidentities = ['test', 'person']\n\
             [facade]\nkeys = ['{FACADE_KEY}']\n\
             [store]\ndirectory = 'store'\nencryption_keys = ['{STORE_KEY}']\n\
             [admin]\nlisten = '127.0.0.1:0'\nkey_sha256 = '{admin}'\n\
             [audit]\nfile = 'audit.jsonl'\n\
             [log]\nfilter = 'trace'\nformat = '{format}'\n",
            self.sandbox.url().replacen("http", "ws", 1),
        );
        // Not among the files that are searched: who writes secrets into it has them there.
        let config = self.files.path().join("proxy.toml");
        fs::write(&config, text).unwrap();
        config
    }

    /// The tokens of RingCentral that passed by.
    fn learn_bearers(&mut self) {
        for arrival in self.sandbox.control().log() {
            let bearer = arrival.field("authorization").and_then(|it| it.strip_prefix("Bearer "));
            if let Some(token) = bearer {
                self.canaries.add(token);
            }
        }
    }

    async fn learn_stored(&mut self) {
        let seal = Seal::new(&[Secret::new(STORE_KEY)]).unwrap();
        let store = FileStore::open(self.path("store"), seal, Clock::system()).unwrap();
        for identity in ["test", "person"] {
            if let Entry::Session(stored) = store.load(identity).await.unwrap() {
                self.canaries.add(stored.set.access_token.expose());
                let tokens = stored.set.refresh.iter().map(|it| &it.token);
                tokens.chain(&stored.set.previous_refresh).for_each(|it| {
                    self.canaries.add(it.expose());
                });
            }
        }
    }

    /// What apps do, and what they get wrong.
    async fn call(&mut self, proxy: SocketAddr) {
        let client = client();
        let url = |target: &str| format!("http://{proxy}{target}");
        let keyed =
            |method, target: &str| client.request(method, url(target)).bearer_auth(CLIENT_KEY);
        // Good days. What RingCentral answers is the app's.
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("access_token", QUERY_TOKEN)
            .finish();
        for request in [
            keyed(Method::GET, &format!("{ECHO}?{query}")).header("cookie", COOKIE),
            keyed(Method::POST, ECHO).body(CONTENT),
            client.get(url(API)).header("x-api-key", CLIENT_KEY),
            client.get(url(API)).basic_auth("app", Some(CLIENT_KEY)),
            keyed(Method::GET, API).header("x-ringbearer-identity", "person"),
        ] {
            assert_eq!(request.send().await.unwrap().status(), 200);
        }
        self.learn_bearers();
        // The facade's tokens and codes.
        let login = client.post(url("/restapi/oauth/token")).basic_auth("app", Some(CLIENT_KEY));
        let login = login.form(&[("grant_type", "client_credentials"), ("assertion", JWT)]);
        let pair = json(login.send().await.unwrap()).await;
        for name in ["access_token", "refresh_token"] {
            self.canaries.add(pair[name].as_str().unwrap());
        }
        let token = pair["access_token"].as_str().unwrap();
        assert_eq!(client.get(url(API)).bearer_auth(token).send().await.unwrap().status(), 200);
        let authorize = "/restapi/oauth/authorize?response_type=code&client_id=a&redirect_uri=http://localhost/";
        let led = client.get(url(authorize)).send().await.unwrap();
        let code = led.headers()["location"].to_str().unwrap().split_once("code=").unwrap().1;
        self.canaries.add(code.split('&').next().unwrap());
        // What is refused here is told by us.
        let heard = &mut self.heard;
        for (request, status) in [
            (client.get(url(&format!("{API}?{query}"))), 401),
            (client.get(url(API)).bearer_auth(WRONG_KEY), 401),
            (client.get(url(API)).header("x-api-key", WRONG_KEY), 401),
            (client.get(url(API)).bearer_auth(format!("rbx1_{}", &token[9..])), 401),
            (keyed(Method::GET, API).header("x-ringbearer-identity", "nobody"), 403),
            (keyed(Method::GET, API).header("origin", "https://evil.test"), 403),
            (keyed(Method::GET, &format!("/.ringbearer/none/?{query}")), 404),
            (keyed(Method::GET, &format!("/.ringbearer/ws/?{query}")), 426),
            (
                client.post(url("/restapi/oauth/token")).form(&[
                    ("grant_type", "authorization_code"),
                    ("code", code),
                    ("client_secret", WRONG_KEY),
                ]),
                401,
            ),
            (
                client
                    .post(url("/restapi/oauth/token"))
                    .basic_auth("a", Some(CLIENT_KEY))
                    .form(&[("grant_type", "refresh_token"), ("refresh_token", QUERY_TOKEN)]),
                400,
            ),
            (
                client
                    .post(url("/restapi/oauth/token"))
                    .basic_auth("a", Some(CLIENT_KEY))
                    .form(&[("grant_type", QUERY_TOKEN)]),
                400,
            ),
            (
                client.get(url(&format!(
                    "{}&{query}",
                    authorize.replace("http://localhost/", "https://evil.test/")
                ))),
                400,
            ),
        ] {
            assert_eq!(heard.answer(request).await, status, "{}", heard.last());
        }
        for broken in [
            format!(
                "GET {API} HTTP/1.1\r\nHost: a\r\nHost: b\r\nAuthorization: Bearer {CLIENT_KEY}\r\n\r\n"
            ),
            format!("GET {API}?{QUERY_TOKEN} HTTP/1.1\r\nHost: a\r\n\r\n"),
            format!("GET {API} HTTP/1.1\r\nHost: a\r\nCookie {COOKIE}\r\n\r\n"),
            format!("POST {API} HTTP/1.1\r\nHost: a\r\nContent-Length: x{CONTENT}\r\n\r\n"),
            format!("{CONTENT}\r\n\r\n"),
        ] {
            let mut wire = Wire::open(proxy).await;
            wire.send(broken).await;
            wire.stream.shutdown().await.unwrap();
            let mut answer = Vec::new();
            // It may be cut off.
            let _ = wire.stream.read_to_end(&mut answer).await;
            heard.note("answer to what is no request", answer);
        }
        over_h2(proxy, &query).await;
    }

    /// Everything that may go wrong behind the proxy.
    async fn suffer(&mut self, proxy: SocketAddr) {
        let (client, control) = (client(), self.sandbox.control().clone());
        let call = |identity: &str| {
            let request = client.post(format!("http://{proxy}{SMS}")).bearer_auth(CLIENT_KEY);
            request.header("x-ringbearer-identity", identity.to_owned()).body(CONTENT)
        };
        let telling = serde_json::json!({
            "error": "invalid_request", "error_description": format!("{JWT} {CLIENT_SECRET}"),
            "errorCode": JWT, "message": JWT,
            "errors": [{"errorCode": QUERY_TOKEN, "message": CLIENT_SECRET}],
        })
        .to_string();
        let status = |code, body: &str| FaultKind::Status {
            code,
            body: Some(body.to_owned()),
            retry_after: None,
        };
        // A 401 that heals, and those that do not.
        for token in [
            None,
            Some(status(400, &telling)),
            Some(status(401, &telling)),
            Some(status(403, &telling)),
            Some(status(500, &telling)),
            Some(status(200, &telling)),
            Some(status(200, &format!("<html>{JWT}"))),
            Some(status(200, &format!("{{\"access_token\":\"{JWT}\n\"}}"))),
            Some(FaultKind::Garbage(Garbage::TruncatedJson)),
            Some(FaultKind::Garbage(Garbage::MissingAccessToken)),
            Some(FaultKind::Garbage(Garbage::Huge { bytes: 100_000 })),
            Some(FaultKind::DropBefore),
            Some(FaultKind::DropAfter),
        ] {
            control.revoke_access_tokens();
            if let Some(kind) = token {
                control.inject(Fault::once(Place::Token, kind));
            }
            for identity in ["test", "person"] {
                self.heard.answer(call(identity)).await;
            }
        }
        control.clear_faults();
        for kind in [
            status(401, &telling),
            FaultKind::Unauthorized { code: Some("OAU-151".into()) },
            FaultKind::DropBefore,
            FaultKind::DropAfter,
            FaultKind::Hang,
        ] {
            control.inject(Fault::once(Place::Api, kind.clone()));
            let answer = call("test").send().await.unwrap();
            if answer.headers().contains_key("x-ringbearer-error") {
                let head = format!("{:?}", answer.headers());
                let content = answer.bytes().await.unwrap();
                self.heard.note(format!("{kind:?}"), [head.as_bytes(), &content].concat());
            }
            control.clear_faults();
        }
        self.learn_bearers();
    }

    /// What operators do, and what they get wrong.
    async fn operate(&mut self, admin: SocketAddr) {
        let client = client();
        let ask = |method, target: &str| client.request(method, format!("http://{admin}{target}"));
        let new = |jwt: &str| {
            serde_json::json!({"name": "added", "application": "test", "jwt": jwt}).to_string()
        };
        let change = |method, target: &str| ask(method, target).bearer_auth(ADMIN_KEY);
        for (request, status) in [
            (change(Method::POST, "/identities").body(new(ADDED_JWT)), 201),
            (change(Method::POST, "/identities").body(new(&format!("{ADDED_JWT} "))), 400),
            (change(Method::POST, "/identities").body(format!("{{\"name\":{ADDED_JWT}")), 400),
            (
                change(Method::POST, "/identities")
                    .body(format!("{{\"{ADDED_JWT}\":1}}").replace("y\"", "y")),
                400,
            ),
            (ask(Method::POST, "/identities").bearer_auth(WRONG_KEY).body(new(ADDED_JWT)), 401),
            (change(Method::POST, "/identities/added/renew"), 503),
            (ask(Method::GET, "/identities"), 200),
            (ask(Method::GET, "/identities/added"), 200),
            (ask(Method::GET, "/metrics"), 200),
            (ask(Method::GET, "/healthz"), 200),
            (ask(Method::GET, &format!("/identities?{}", "canary-query")), 400),
            (change(Method::DELETE, "/identities/added"), 200),
        ] {
            assert_eq!(self.heard.answer(request).await, status, "{}", self.heard.last());
        }
        self.heard.answer(ask(Method::GET, "/readyz")).await;
    }
}

/// h2's own crate logs frames.
async fn over_h2(proxy: SocketAddr, query: &str) {
    let tcp = TcpStream::connect(proxy).await.unwrap();
    let io = TokioIo::new(tcp);
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
    let (mut sender, connection) = shaken.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{proxy}{ECHO}?{query}"))
        .header("authorization", format!("Bearer {CLIENT_KEY}"))
        .header("cookie", COOKIE)
        .body(Full::new(Bytes::from(CONTENT)))
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.unwrap();
}

async fn nothing_leaks(format: &str, http2: bool) {
    let mut scene = Scene::new().await;
    let config = scene.configure(format, http2).await;
    let serving = Serving::start(&config).await;
    scene.call(serving.proxy).await;
    scene.learn_stored().await;
    scene.operate(serving.admin).await;
    scene.suffer(serving.proxy).await;
    scene.learn_stored().await;
    let key = scene.path("archive.key");
    fs::write(&key, ARCHIVE_KEY).unwrap();
    let (key, archive) = (key.display().to_string(), scene.path("archive").display().to_string());
    for arguments in [
        &["check"][..],
        &["check", "--online"],
        &["status"],
        &["status", "--json"],
        &["export", "--all", "--key-file", &key, "--output", &archive],
        &["import", "--key-file", &key, &archive],
        &["logout", "person"],
    ] {
        scene.heard.command(arguments, &config).await;
    }
    scene.learn_stored().await;
    let said = serving.end().await;
    assert!(!http2 || memchr::memmem::find(&said, b"h2::").is_some(), "h2 logs too");
    let lines = memchr::memchr_iter(b'\n', &said).count();
    assert!(lines > 100, "it logs at trace: {lines}");
    scene.heard.note("the log", said);
    fs::remove_file(&config).unwrap();
    fs::remove_file(scene.path("archive.key")).unwrap();
    scene.heard.files(scene.files.path());
    let names: Vec<_> = scene.heard.0.iter().map(|(who, _)| who.as_str()).collect();
    for file in ["audit.jsonl", "archive", "store/test.json"] {
        assert!(names.iter().any(|name| name.ends_with(file)), "{file} of {names:?}");
    }
    // 13 of the configuration, and tokens of RingCentral's and of our own.
    assert!(scene.canaries.0.len() >= 13 + 8, "{}", scene.canaries.0.len());
    scene.heard.assert_clean_of(&scene.canaries);
    scene.sandbox.stop().await;
}

#[tokio::test]
async fn no_secret_leaves_by_text_logs_answers_commands_or_files() {
    nothing_leaks("text", false).await;
}

#[tokio::test]
async fn no_secret_leaves_by_json_logs_or_over_h2() {
    nothing_leaks("json", true).await;
}

#[tokio::test]
async fn a_secret_in_the_wrong_place_of_a_configuration_is_not_repeated() {
    let (files, mut heard, canaries) = (TempDir::new().unwrap(), Heard::default(), Canaries::all());
    let config = files.path().join("proxy.toml");
    let application = "[application.test]\nclient_id = 'id'\n";
    for text in [
        format!("[identity.test]\njwt = '{JWT}\n"),
        format!("[identity.test]\njwt = {JWT}\n"),
        format!("[identity.test]\njwt = ['{JWT}']\n"),
        format!("[identity.test]\njwt = {{ text = '{JWT}' }}\n"),
        format!("[identity.test]\njwt = '{JWT}'\njwt = '{JWT}'\n"),
        format!("[identity.test]\njwt = '{JWT} \\u0007'\nlogin = '{JWT}'\n"),
        format!("[identity.test]\naccess_token_ttl = '{JWT}'\n"),
        format!(
            "{application}client_secret = \"{}\\n2\"\n[identity.test]\njwt = 'x'\n",
            CLIENT_SECRET.replace('"', "\\\"")
        ),
        format!("{application}token_url = 'https://me:{CLIENT_SECRET}@a.test/'\n"),
        format!("{application}token_requests_per_minute = '{CLIENT_SECRET}'\n"),
        format!("{application}[upstream]\nurl = 'https://me:{CLIENT_SECRET}@a.test'\n"),
        format!("{application}[upstream]\nhttp_proxy = 'http://me:{CLIENT_SECRET}@a.test'\n"),
        format!("{application}[proxy]\nlisten = '{CLIENT_SECRET}'\n"),
        format!("{application}[proxy]\ncors_origins = '{CLIENT_SECRET}'\n"),
        format!("{application}[client.a]\nkey_sha256 = '{CLIENT_KEY}'\nidentities = '*'\n"),
        format!("{application}[admin]\nlisten = '127.0.0.1:0'\nkey_sha256 = '{ADMIN_KEY}'\n"),
        format!("{application}[facade]\nkeys = ['{}']\n", &FACADE_KEY[..40]),
        format!("{application}[facade]\nkeys = ['{FACADE_KEY}{FACADE_KEY}']\n"),
        format!("{application}[store]\nencryption_keys = ['{STORE_KEY}{STORE_KEY}']\n"),
        format!("{application}[store]\nredis = 'rediss://me:{REDIS_PASSWORD}@a b'\n"),
        format!("{application}[store]\nredis = 'redis://me:{REDIS_PASSWORD}@a.test'\n"),
        format!(
            "{application}[store]\nredis = 'rediss://me:{REDIS_PASSWORD}@a.test/?x={REDIS_PASSWORD}'\n"
        ),
        format!("{application}[log]\nformat = '{JWT}'\n"),
        format!("{application}[log]\nfilter = '=={JWT}'\n"),
    ] {
        fs::write(&config, &text).unwrap();
        for command in ["check", "serve"] {
            let (code, _) = heard.command(&[command], &config).await;
            assert_eq!(code, Some(2), "{command}\n{text}\n{}", heard.last());
        }
    }
    heard.assert_clean_of(&canaries);
}

#[tokio::test]
async fn the_password_of_a_store_that_refuses_it_is_not_repeated() {
    let (files, mut heard, canaries) = (TempDir::new().unwrap(), Heard::default(), Canaries::all());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut asked = [0; 1024];
            let _ = stream.read(&mut asked).await;
            let _ = stream.write_all(b"-WRONGPASS invalid username-password pair\r\n").await;
        }
    });
    let config = files.path().join("proxy.toml");
    for port in [1, refusing] {
        let url = format!("redis://me:{REDIS_PASSWORD}@127.0.0.1:{port}");
        let text = format!(
            "[application.test]\nclient_id = 'id'\nclient_secret = '{CLIENT_SECRET}'\n\
             [identity.test]\njwt = '{JWT}'\n[store]\nredis = '{url}'\n[log]\nfilter = 'trace'\n"
        );
        fs::write(&config, text).unwrap();
        let (code, said) = heard.command(&["check"], &config).await;
        assert_eq!(code, Some(0), "{}", String::from_utf8_lossy(&said));
        for command in ["status", "token"] {
            let (code, said) = heard.command(&[command], &config).await;
            assert_eq!(code, Some(1), "{}", String::from_utf8_lossy(&said));
        }
    }
    server.abort();
    heard.assert_clean_of(&canaries);
}

#[tokio::test]
async fn the_search_would_find_them() {
    let mut scene = Scene::new().await;
    let config = scene.configure("text", false).await;
    let mut heard = Heard::default();
    let (code, printed) = heard.command(&["token", "test"], &config).await;
    assert_eq!(code, Some(0));
    scene.learn_stored().await;
    let hits = scene.canaries.hits(&printed);
    assert!(hits.iter().any(|hit| hit.ends_with("(plain)")), "`token` is to print it: {hits:?}");
    let found = |text: &str| !scene.canaries.hits(text.as_bytes()).is_empty();
    assert!(!found("canary"));
    for before in ["", "a", "ab"] {
        let basic = BASE64_STANDARD_NO_PAD.encode(format!("{before}{CLIENT_SECRET}:more"));
        assert!(found(&basic), "{basic}");
    }
    let form = form_urlencoded::byte_serialize(JWT.as_bytes()).collect::<String>();
    for text in [
        form,
        format!("{JWT:?}"),
        serde_json::json!({"a": JWT}).to_string(),
        format!("{:?}", JWT.as_bytes()),
    ] {
        assert!(found(&text), "{text}");
    }
    scene.sandbox.stop().await;
}
