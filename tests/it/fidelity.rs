//! What arrives through the proxy is what arrives without it, and so is what comes back.
//!
//! Two sandboxes by the same clock are asked the same questions in the same order, one through the
//! proxy and one directly, so that even their made-up ids agree.

use ringbearer::sandbox::{Arrival, Rules, Sandbox, SandboxOptions};
use serde_json::Value;

use crate::support::{ECHO, Environment, LONG_IDLE, Wishes, access_token};
use crate::wire::{Answer, Wire, get};

const EXTENSION: &str = "/restapi/v1.0/account/~/extension/~";

/// A proxied sandbox and its twin, which is asked directly.
struct Twins {
    environment: Environment,
    twin: Sandbox,
    token: String,
    proxied: Wire,
    direct: Wire,
    rewrites: bool,
}

impl Twins {
    /// Behind a proxy that leaves links alone.
    async fn new() -> Self {
        Self::rewriting(false).await
    }

    async fn rewriting(rewrites: bool) -> Self {
        let proxy = format!("{LONG_IDLE}rewrite_links = {rewrites}\n");
        let environment = Environment::with(Wishes { proxy, ..Wishes::default() }).await;
        environment.control().wait_until(|counts| counts.token_answers == 1).await;
        let options = SandboxOptions {
            clock: environment.clock.clone(),
            rules: Rules::unlimited(),
            ..SandboxOptions::default()
        };
        let twin = Sandbox::start(options).await.unwrap();
        let token = access_token(&twin).await;
        let proxied = Wire::open(environment.address()).await;
        let direct = Wire::open(twin.url()[7..].parse().unwrap()).await;
        Self { environment, twin, token, proxied, direct, rewrites }
    }

    /// Sends the same request both ways and compares what arrived and what came back.
    async fn compare(&mut self, line: &str, fields: &[&str], content: &[u8]) -> Answer {
        let length = format!("Content-Length: {}", content.len());
        let length = (!content.is_empty()).then_some(length.as_str());
        let mut lines: Vec<_> = fields.iter().copied().chain(length).collect();
        lines.push("");
        let lines = lines.join("\r\n");
        let head = format!("{line} HTTP/1.1\r\nHost: proxy.test\r\n{lines}\r\n");
        let proxied = self.proxied.ask([head.as_bytes(), content].concat()).await;
        // By the same name, so that both make the same links.
        let twin = &self.environment.sandbox.url()[7..];
        let token = &self.token;
        let head = format!(
            "{line} HTTP/1.1\r\nHost: {twin}\r\nAuthorization: Bearer {token}\r\n{lines}\r\n"
        );
        let direct = self.direct.ask([head.as_bytes(), content].concat()).await;
        if self.rewrites {
            compare_all_but_links(line, &proxied, &direct, &format!("http://{twin}"));
        } else {
            compare_answers(line, &proxied, &direct);
        }
        self.compare_arrivals(line).await;
        proxied
    }

    async fn compare_arrivals(&self, line: &str) {
        let last = async |sandbox: &Sandbox| {
            let control = sandbox.control();
            control.wait_until(|counts| counts.in_flight == 0).await;
            control.log().pop().unwrap()
        };
        let (ours, theirs) = (last(&self.environment.sandbox).await, last(&self.twin).await);
        let essence = |arrival: &Arrival| {
            let mut fields = arrival.fields.clone();
            let ours = ["authorization", "via", "accept-encoding"];
            let ours = if self.rewrites { &ours[..] } else { &ours[..2] };
            fields.retain(|(name, _)| !ours.contains(&name.as_str()));
            fields.sort();
            let (bytes, digest) = (arrival.body_bytes, arrival.body_sha256.clone());
            (arrival.method.clone(), arrival.target.clone(), fields, bytes, digest)
        };
        assert_eq!(essence(&ours), essence(&theirs), "{line}");
        assert_eq!(ours.status, theirs.status, "{line}");
    }
}

fn compare_answers(line: &str, proxied: &Answer, direct: &Answer) {
    assert_eq!(proxied.status, direct.status, "{line}");
    // The echo tells the one from the other, by design.
    let echo = line.contains(ECHO);
    assert!(echo || proxied.content == direct.content, "{line}: the content differs");
    let comparable = |answer: &Answer| {
        let ignored = |name: &str| {
            ["date", "rcrequestid"].contains(&name) || echo && name == "content-length"
        };
        let mut fields = answer.fields.clone();
        fields.retain(|(name, _)| !ignored(name));
        fields.sort();
        fields
    };
    assert_eq!(comparable(proxied), comparable(direct), "{line}");
}

/// The content is the same but for the links to `origin`, and so is what is said of it.
fn compare_all_but_links(line: &str, proxied: &Answer, direct: &Answer, origin: &str) {
    assert_eq!(proxied.status, direct.status, "{line}");
    if line.contains(ECHO) {
        return;
    }
    match (std::str::from_utf8(&proxied.content), std::str::from_utf8(&direct.content)) {
        (Ok(proxied), Ok(direct)) => {
            assert_eq!(proxied, direct.replace(origin, "http://proxy.test"), "{line}");
        }
        _ => assert_eq!(proxied.content, direct.content, "{line}"),
    }
    let comparable = |answer: &Answer| {
        let ours = [
            "date",
            "rcrequestid",
            "content-length",
            "transfer-encoding",
            "etag",
            "accept-ranges",
            "location",
        ];
        let mut fields = answer.fields.clone();
        fields.retain(|(name, _)| !ours.contains(&name.as_str()));
        fields.sort();
        fields
    };
    assert_eq!(comparable(proxied), comparable(direct), "{line}");
    let place = |answer: &Answer| answer.field("location").map(str::to_owned);
    let expected = place(direct).map(|place| place.replace(origin, "http://proxy.test"));
    assert_eq!(place(proxied), expected, "{line}");
}

#[tokio::test]
async fn every_documented_example_differs_in_nothing_but_its_links() {
    let mut twins = Twins::rewriting(true).await;
    let (mut links, mut examples) = (0, 0);
    for line in include_str!("../../src/sandbox/data/examples.jsonl").lines() {
        let example: Value = serde_json::from_str(line).unwrap();
        let (line, content) = request_of(&example);
        let fields: &[&str] =
            if content.is_empty() { &[] } else { &["Content-Type: application/json"] };
        let answer = twins.compare(&line, fields, content.as_bytes()).await;
        links += String::from_utf8_lossy(&answer.content).matches("\"http://proxy.test").count();
        examples += 1;
    }
    assert_eq!((examples, links > 300), (227, true), "{links} links");
}

#[tokio::test]
async fn every_documented_example_gets_the_same_answer_with_and_without_the_proxy() {
    let mut twins = Twins::new().await;
    let mut replayed = 0;
    for line in include_str!("../../src/sandbox/data/examples.jsonl").lines() {
        let example: Value = serde_json::from_str(line).unwrap();
        let (line, content) = request_of(&example);
        let fields: &[&str] =
            if content.is_empty() { &[] } else { &["Content-Type: application/json"] };
        twins.compare(&line, fields, content.as_bytes()).await;
        replayed += 1;
    }
    assert_eq!(replayed, 227);
    let counts = twins.environment.control().counts();
    assert_eq!((counts.api_requests, counts.api_401, counts.token_requests), (227, 0, 1));
}

/// The request line without version, and the content. What the documentation garbles is mended as
/// its reader would.
fn request_of(example: &Value) -> (String, String) {
    let request = example["request"].as_str().unwrap();
    let (line, rest) = request.split_once('\n').unwrap_or((request, ""));
    let method = example["method"].as_str().unwrap();
    let target = line.strip_prefix(method).unwrap_or("").trim();
    let host_at = target.find("ringcentral.com/").map_or(0, |at| at + "ringcentral.com".len());
    let target = match &target[host_at..] {
        "" => example["path"].as_str().unwrap().replace(['{', '}'], ""),
        relative if !relative.starts_with('/') => format!("/{relative}"),
        absolute => absolute.replace(' ', "%20"),
    };
    let content = rest.find(['{', '[']).map_or("", |at| &rest[at..]);
    (format!("{method} {target}"), content.to_owned())
}

#[tokio::test]
async fn ordinary_methods_and_contents_pass_unchanged() {
    let mut twins = Twins::new().await;
    let json = br#"{"to":[{"phoneNumber":"+15551230002"}],"text":"hi"}"#;
    let form = b"--b\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\n+15551230002\r\n--b\r\n\
        Content-Disposition: form-data; name=\"attachment\"; filename=\"f\"\r\n\
        Content-Type: image/png\r\n\r\n\x89PNG\x00\r\n\xff\r\n--b--\r\n";
    let as_json = &["Content-Type: application/json"][..];
    let sms = format!("POST {EXTENSION}/sms");
    assert_eq!(twins.compare(&sms, as_json, json).await.status, 200);
    let mms = format!("POST {EXTENSION}/mms");
    let multipart = &["Content-Type: multipart/form-data; boundary=b"];
    assert_eq!(twins.compare(&mms, multipart, form).await.status, 200);
    for method in ["PUT", "PATCH", "POST", "DELETE", "GET"] {
        let line = format!("{method} {ECHO}?a=1&a=2&%C3%A4=%20+");
        let fields = ["X-Custom: a", "X-Custom: b", "Cookie: c=1", "Accept: */*", as_json[0]];
        assert_eq!(twins.compare(&line, &fields, json).await.status, 200);
    }
    assert_eq!(twins.compare(&format!("HEAD {EXTENSION}"), &[], b"").await.status, 200);
    assert_eq!(twins.compare(&format!("OPTIONS {EXTENSION}"), &[], b"").await.status, 405);
    assert_eq!(
        twins.compare(&format!("DELETE {EXTENSION}/message-store/7"), &[], b"").await.status,
        204
    );
    assert_eq!(twins.compare("POST /restapi/v1.0/sandbox/status/500", &[], b"").await.status, 500);
    let two = format!("GET {EXTENSION}/message-store/7,0");
    assert_eq!(twins.compare(&two, &[], b"").await.status, 207);
}

#[tokio::test]
async fn ranges_and_conditions_are_left_to_ringcentral() {
    let mut twins = Twins::new().await;
    let file = format!("{EXTENSION}/message-store/7/content/8?size=1000");
    let line = format!("GET {file}");
    let whole = twins.compare(&line, &[], b"").await;
    assert_eq!((whole.status, whole.content.len()), (200, 1000));
    let part = twins.compare(&line, &["Range: bytes=10-19"], b"").await;
    assert_eq!((part.status, part.content), (206, whole.content[10..20].to_vec()));
    assert_eq!(
        part.fields.iter().find(|(name, _)| name == "content-range").unwrap().1,
        "bytes 10-19/1000"
    );
    assert_eq!(twins.compare(&line, &["Range: bytes=1000-"], b"").await.status, 416);
    let etag = format!(
        "If-None-Match: {}",
        whole.fields.iter().find(|(name, _)| name == "etag").unwrap().1
    );
    let unchanged = twins.compare(&line, &[&etag], b"").await;
    assert_eq!((unchanged.status, unchanged.content.len()), (304, 0));
    let head = twins.compare(&format!("HEAD {file}"), &[], b"").await;
    assert_eq!(head.field("content-length"), Some("1000"));
}

#[tokio::test]
async fn a_list_is_read_to_its_last_page_through_the_proxy() {
    let mut twins = Twins::new().await;
    let mut records = 0;
    for page in 1.. {
        let line = format!("GET /restapi/v1.0/account/~/extension?page={page}&perPage=20");
        let answer = twins.compare(&line, &[], b"").await.json();
        records += answer["records"].as_array().unwrap().len();
        if answer["navigation"]["nextPage"].is_null() {
            assert_eq!(page, 5);
            break;
        }
    }
    assert_eq!(records, 95);
}

#[tokio::test]
async fn two_thousand_odd_targets_arrive_to_the_byte() {
    let identity = "jwt = \"sandbox-jwt\"\n[facade]\nmode = \"refuse\"".into();
    let environment = Environment::with(Wishes { identity, ..Wishes::default() }).await;
    let mut wire = Wire::open(environment.address()).await;
    let mut random = fastrand::Rng::with_seed(7);
    let (mut passed, mut refused) = (0_u64, 0);
    while passed < 2000 {
        let target = odd_target(&mut random);
        let answer = wire.ask(get(&target)).await;
        if answer.error() == Some("RBR-104") {
            refused += 1;
            continue;
        }
        assert_eq!(answer.error(), None, "{target}");
        passed += 1;
        let arrived = environment.control().log().pop().unwrap().target;
        assert_eq!(arrived, target);
        environment.control().clear_log();
    }
    let counts = environment.control().counts();
    assert_eq!(counts.requests - counts.token_requests, passed);
    assert!((1..200).contains(&refused), "{refused} token endpoints among them");
}

/// Anything that hyper takes for a path and query: every byte a URI may hold, and what it may not
/// in percent form.
pub(crate) fn odd_target(random: &mut fastrand::Rng) -> String {
    const PIECES: [&str; 38] = [
        "/",
        "//",
        ".",
        "..",
        "/../",
        "/./",
        "%2e%2e",
        "%2F",
        "%5c",
        "%00",
        "%",
        "%%",
        "%zz",
        "%C3%A4",
        "%F0%9F%92%8D",
        "%ff",
        ";",
        ";a=b",
        "~",
        "*",
        "'",
        "(",
        ")",
        "!",
        "$",
        ",",
        ":",
        "@",
        "+",
        "=",
        "&",
        "-",
        "_",
        "restapi",
        "v1.0",
        "oauth",
        "%6Fauth",
        "token",
    ];
    let piece = |random: &mut fastrand::Rng| match random.u8(..4) {
        0 => random.alphanumeric().to_string(),
        1 => format!("%{:02X}", random.u8(..)),
        _ => PIECES[random.usize(..PIECES.len())].to_owned(),
    };
    let mut target = "/".to_owned();
    if random.u8(..8) == 0 {
        target += ["restapi/oauth/", "restapi/oauth/token/"][random.usize(..2)];
    }
    for _ in 0..random.usize(..12) {
        target += &piece(random);
    }
    if random.bool() {
        target.push('?');
        for _ in 0..random.usize(..8) {
            target += &piece(random);
            target += ["", "?", "/", "{", "}", "|", "[", "]"][random.usize(..8)];
        }
    }
    target
}
