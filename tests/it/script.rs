//! One run of a client's script, in `tests/conformance`, through the proxy, and how it is judged.
//!
//! A script knows one address, a [`Tap`] before the proxy. It says each step with what came of it, and
//! has the test end tokens between two of them. Afterwards the sandbox's log has to hold exactly the
//! requests of those steps, each with the proxy's token, and the tap no trace of that token.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use ringbearer::key::KeyDigest;
use ringbearer::sandbox::{Arrival, Rules, media_byte};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;

use crate::support::{Environment, Wishes};
use crate::tap::Tap;

/// Far more than any script takes.
const BOUND: Duration = Duration::from_secs(120);
/// One script at a time.
static TURN: Mutex<()> = Mutex::const_new(());

const EXTENSION: &str = "/restapi/v1.0/account/~/extension/~";
const RECORDING: &str = "/restapi/v1.0/account/401190149008/recording/401547458008/content";
/// The documented example's.
const EXTENSION_ID: u64 = 871_817_004;
/// What no client may ever get to see, nor the proxy's own tokens RingCentral.
const CANARIES: [&str; 5] =
    ["sandbox-access", "sandbox-refresh", "sandbox-secret", "sandbox-client", "sandbox-jwt"];
/// What a client is known by, where the proxy demands it.
pub(crate) const KEY: &str = "the-key-of-the-app";
const OWN_TOKEN: &str = "rbx1_";

/// What everybody does. `tap-ringcentral` cannot.
const CALLS: &[&str] = &["extension", "pages", "sms", "fax", "recording", "attachment"];

/// One run of one client.
pub(crate) struct Run {
    /// What is started with the base URL and these arguments.
    pub(crate) command: Vec<String>,
    /// The steps that have to be done, in this order; `calls` are [`CALLS`].
    pub(crate) steps: &'static str,
    /// A field of its requests, and a part of what it says, which names library and version.
    pub(crate) agent: (&'static str, String),
    /// What it sends, and others would stumble over.
    pub(crate) habits: &'static [&'static str],
    /// Whether the proxy demands a key, which is [`KEY`].
    pub(crate) needs_key: bool,
}

impl Run {
    fn steps(&self) -> Vec<&'static str> {
        let words = self.steps.split(' ');
        words.flat_map(|word| if word == "calls" { CALLS.to_vec() } else { vec![word] }).collect()
    }
}

/// What a step comes to.
fn outcome(step: &str, log: &[Arrival]) -> Value {
    match step {
        "login" => json!({ "token": OWN_TOKEN }),
        "client-info" => json!({ "loggedIn": true }),
        "pages" => json!({ "pages": 3, "records": 95 }),
        "sms" => json!({ "text": "hi" }),
        "fax" => json!({ "pages": 1 }),
        "socket" => json!({ "event": "/message-store" }),
        "thrown" => json!({ "status": 401 }),
        "logout" => json!({ "status": 200 }),
        "recording" => content(RECORDING),
        "attachment" => content(attachment(log)),
        // Of `tap-ringcentral`, which pages by number, a hundred at once.
        "contacts" => json!({ "records": 250 }),
        "call-log" => json!({ "records": 95 }),
        "rotated" => json!({ "distinct": true }),
        "without-login" | "extension" | "expired" | "over" | "refresh" => {
            json!({ "id": EXTENSION_ID })
        }
        _ => panic!("{step} is no step"),
    }
}

/// What RingCentral gets to see of a step.
fn requests(step: &str) -> &'static [&'static str] {
    match step {
        "client-info" => &["GET /restapi/v1.0/client-info"],
        "pages" => &["GET EXTENSION/message-store"; 3],
        "sms" => &["POST EXTENSION/sms"],
        "fax" => &["POST EXTENSION/fax"],
        "recording" => &["GET EXTENSION/call-log/IXPCm_tIkCduk4I", "GET media"],
        "attachment" => &["GET attachment"],
        "socket" => &["GET /ws", "POST /restapi/oauth/wstoken"],
        "contacts" => &["GET /restapi/v1.0/account/~/directory/entries"; 3],
        "call-log" => &["GET /restapi/v1.0/account/~/call-log"],
        // Refused with the token that has ended, and sent again with the next.
        "expired" => &["GET EXTENSION", "GET EXTENSION"],
        "without-login" | "extension" | "over" | "refresh" => &["GET EXTENSION"],
        // The proxy's own business.
        "login" | "logout" | "thrown" | "rotated" => &[],
        _ => panic!("{step} is no step"),
    }
}

/// Length and digest of the sandbox's file at `path`.
fn content(path: &str) -> Value {
    let length = Rules::default().media_size;
    let bytes: Vec<_> = (0..length).map(|at| media_byte(path, at)).collect();
    let sha256 = Sha256::digest(bytes).iter().fold(String::new(), |mut hex, byte| {
        write!(hex, "{byte:02x}").expect("a string takes it");
        hex
    });
    json!({ "bytes": length, "sha256": sha256 })
}

fn attachment(log: &[Arrival]) -> &str {
    let is_one = |arrival: &&Arrival| arrival.target.contains("/content/");
    &log.iter().find(is_one).expect("an attachment was asked for").target
}

/// Method and place of a request, in short.
fn shown(arrival: &Arrival) -> String {
    let path = arrival.target.split('?').next().expect("it has a first part");
    let place = match path {
        RECORDING => "media".to_owned(),
        path if path.contains("/content/") => "attachment".to_owned(),
        path => path.replace(EXTENSION, "EXTENSION"),
    };
    format!("{} {place}", arrival.method)
}

/// Runs a client, and judges it, RingCentral's log, and what passed on the wire.
pub(crate) async fn conforms(run: Run) {
    let _turn = TURN.lock().await;
    let environment = environment(run.needs_key).await;
    let tap = Tap::before(environment.address()).await;
    let said = tokio::time::timeout(BOUND, converse(&environment, &tap.url(), &run)).await;
    let said = said.unwrap_or_else(|_| panic!("{:?} takes too long", run.command));

    let log = environment.control().log();
    let expected: Vec<_> =
        run.steps().into_iter().map(|step| (step, outcome(step, &log))).collect();
    let said: Vec<_> = said.iter().map(|(step, values)| (step.as_str(), values.clone())).collect();
    assert_eq!(said, expected);
    judge_arrivals(&environment, &log, &run);
    judge_wire(&tap, &run);
    environment.finish().await;
}

/// Media and WebSockets are under another name than the platform. The proxy's own tokens live ten
/// minutes, those of the sandbox an hour.
async fn environment(needs_key: bool) -> Environment {
    let mut tables = String::from(
        "jwt = \"sandbox-jwt\"\n[host.media]\nurl = \"http://localhost:{port}\"\n\
                  [host.ws]\nurl = \"ws://127.0.0.1:{port}\"\n[facade]\naccess_token_ttl = \"10m\"\n",
    );
    if needs_key {
        let digest = KeyDigest::of(KEY);
        write!(tables, "[client.app]\nkey_sha256 = \"{digest}\"\nidentities = \"*\"\n").unwrap();
    }
    let rules = Rules { media_host: Some("localhost".into()), ..Rules::unlimited() };
    Environment::with(Wishes { rules, identity: tables, ..Wishes::default() }).await
}

/// What the script says, step by step, while it is done what it asks for.
async fn converse(environment: &Environment, base: &str, run: &Run) -> Vec<(String, Value)> {
    let mut child = start(base, &run.command);
    let mut input = child.stdin.take().expect("it is piped");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let mut trouble = child.stderr.take().expect("it is piped");
    let trouble = tokio::spawn(async move {
        let mut text = String::new();
        trouble.read_to_string(&mut text).await.map(|_| text)
    });
    let mut said = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        let mut values: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}"));
        let members = values.as_object_mut().expect("it is an object");
        match (members.remove("step"), members.remove("ask")) {
            (Some(step), None) => said.push((step.as_str().unwrap().to_owned(), values)),
            (None, Some(wish)) => grant(environment, &wish, &mut input).await,
            _ => panic!("{line}"),
        }
    }
    let trouble = trouble.await.unwrap().unwrap();
    assert!(child.wait().await.unwrap().success(), "after {said:?}\n{trouble}");
    said
}

/// In an environment that leads to no other proxy.
fn start(base: &str, command: &[String]) -> Child {
    let (program, arguments) = command.split_first().expect("it has a program");
    let mut child = Command::new(program);
    child.arg(&arguments[0]).arg(base).args(&arguments[1..]);
    child.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    child.current_dir(directory()).kill_on_drop(true);
    child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    child.spawn().unwrap_or_else(|error| panic!("{program}: {error}"))
}

async fn grant(environment: &Environment, wish: &Value, input: &mut ChildStdin) {
    match wish.as_str() {
        Some("expire") => environment.control().expire_access_tokens(),
        // The proxy's own token is over then, and RingCentral's is far from it.
        Some("end") => environment.clock.advance(Duration::from_secs(11 * 60)),
        Some("longer lists") => environment.control().set_rules(|rules| rules.list_total = 250),
        Some("short lists") => environment.control().set_rules(|rules| rules.list_total = 95),
        _ => panic!("nobody grants {wish}"),
    }
    input.write_all(b"done\n").await.unwrap();
}

/// Every request came from the proxy, with its token; there are those of the steps, and no others.
fn judge_arrivals(environment: &Environment, log: &[Arrival], run: &Run) {
    let (tokens, api): (Vec<_>, Vec<_>) =
        log.iter().partition(|arrival| arrival.target == "/restapi/oauth/token");
    let steps = run.steps();
    let mut arrived: Vec<_> = api.iter().map(|arrival| shown(arrival)).collect();
    let mut expected: Vec<_> = steps.iter().flat_map(|step| requests(step)).copied().collect();
    arrived.sort_unstable();
    expected.sort_unstable();
    assert_eq!(arrived, expected);

    let count = |wanted: &[&str]| steps.iter().filter(|step| wanted.contains(step)).count();
    let expired = count(&["expired"]);
    assert_eq!(tokens.len(), 1 + expired, "the proxy's own, and one for each end of a token");
    let (field, name) = &run.agent;
    for arrival in &api {
        let via = arrival.field("via").expect("it came from the proxy");
        assert!(via.starts_with("1.1 ringbearer-"), "{arrival:?}");
        let is_socket = arrival.target.starts_with("/ws?");
        let token = arrival.field("authorization");
        let is_real = token.is_some_and(|token| token.starts_with("Bearer sandbox-access-"));
        assert!(if is_socket { token.is_none() } else { is_real }, "{arrival:?}");
        let is_named = arrival.field(field).is_some_and(|said| said.contains(name));
        assert!(is_named || is_socket, "{field}: {name} in {arrival:?}");
        for meant_for_the_proxy in ["expect", "http2-settings", "client_secret"] {
            assert_eq!(arrival.field(meant_for_the_proxy), None, "{arrival:?}");
        }
        assert_eq!(arrival.user, (!is_socket && arrival.refused.is_none()).then_some(1));
        let is_media = arrival.target == RECORDING;
        let host = arrival.field("host").unwrap();
        assert_eq!(host.starts_with("localhost:"), is_media, "{arrival:?}");
    }
    let refused = api.iter().filter(|arrival| arrival.status == Some(401)).count();
    assert_eq!(refused, expired);
    let well = |arrival: &&&Arrival| matches!(arrival.status, Some(101 | 200));
    assert_eq!(api.iter().filter(well).count(), api.len() - expired);
    assert!(!format!("{log:?}").contains(OWN_TOKEN), "the proxy's own tokens go no further");

    let counts = environment.control().counts();
    assert_eq!(counts.messages_sent, count(&["sms", "fax"]) as u64);
    assert_eq!(counts.websockets, count(&["socket"]) as u64);
}

/// Nothing of the proxy's reached the client but what is meant for it.
fn judge_wire(tap: &Tap, run: &Run) {
    let (sent, received) = (tap.sent(), tap.received());
    let steps = run.steps();
    let logs_in = steps.contains(&"login");
    assert_eq!(received.contains(OWN_TOKEN), logs_in, "what passes is seen");
    assert_eq!(received.contains("ConnectionDetails"), steps.contains(&"socket"));
    assert!(received.contains("x-ringbearer-replay: yes"), "the end of a token was met");
    for canary in CANARIES {
        assert!(!received.contains(canary), "{canary} was received");
        assert!(!sent.contains(canary), "{canary} was sent");
    }
    for habit in run.habits {
        assert!(sent.contains(habit), "it does not send {habit} any more");
    }
}

pub(crate) fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}
