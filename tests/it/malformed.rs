//! Answers of the token endpoint that are no token set although they look like success: each leaves
//! the old one in use, and the next good answer heals.

use ringbearer::telemetry::chain;
use ringbearer::token::Generation;
use ringbearer::token::keeper::KeeperStatus;
use ringbearer::token::lifecycle::Standing;

use crate::detour::Detour;
use crate::support::{ECHO, Environment, REFRESH_IDENTITY, Wishes};

/// An answer, and what is said about it.
struct Case {
    name: String,
    bytes: Vec<u8>,
    error: String,
}

#[tokio::test]
async fn no_malformed_answer_to_a_jwt_replaces_the_token_in_use() {
    suffer_every_case(r#"jwt = "sandbox-jwt""#).await;
}

#[tokio::test]
async fn no_malformed_answer_to_a_refresh_costs_the_session() {
    suffer_every_case(REFRESH_IDENTITY).await;
}

async fn suffer_every_case(identity: &str) {
    let mut detour = Detour::new().await;
    let (identity, application) = (identity.to_owned(), detour.token_url());
    let environment =
        Environment::with(Wishes { application, identity, ..Wishes::default() }).await;
    detour.lead_to(&environment.direct(""));
    assert_eq!(environment.get(ECHO).await.status(), 200);
    let first = environment.control().counts().token_answers;
    let cases = cases(&detour);
    assert!(cases.len() >= 60, "{} cases", cases.len());
    for (before, case) in (1..).zip(&cases) {
        suffer(&environment, &detour, case, before).await;
        heal(&environment, case, before + 1).await;
    }
    let counts = environment.control().counts();
    assert_eq!(counts.token_answers, first + cases.len() as u64, "a good one after each");
    assert_eq!((counts.api_401, counts.token_refusals, counts.token_repeats), (0, 0, 0));
    let met = detour.met();
    assert_eq!(met.len(), cases.len(), "one request for each, and none to {}", detour.elsewhere());
    assert!(met.iter().all(|line| line == "POST /restapi/oauth/token HTTP/1.1"), "{met:?}");
    environment.finish().await;
}

/// The renewal of the `generation`th token set meets the case.
async fn suffer(environment: &Environment, detour: &Detour, case: &Case, generation: u64) {
    let name = &case.name;
    let met = detour.met().len();
    detour.answer_next(case.bytes.clone());
    environment.go_to_renewal();
    environment.pass_until(60, |_| detour.met().len() > met).await;
    let status = environment.until(|status| status.last_error.is_some()).await;
    assert!(status.usable, "{name}: the old token is given up");
    assert_eq!(status.generation.map(Generation::number), Some(generation), "{name}");
    let state = environment.until(|status| status.state != Standing::Renewing).await.state;
    assert!(matches!(state, Standing::BackingOff(_)), "{name}: {state:?}");
    let error = chain(&*status.last_error.expect("waited for"));
    assert!(error.starts_with(&case.error), "{name}: {error}\ninstead of\n{}", case.error);
    assert_eq!(environment.get(ECHO).await.status(), 200, "{name}");
}

async fn heal(environment: &Environment, case: &Case, generation: u64) {
    let next = |status: &KeeperStatus| status.generation == Some(Generation::new(generation));
    environment.pass_until(60, next).await;
    let status = environment.status();
    assert!(status.last_error.is_none() && status.state == Standing::Resting, "{}", case.name);
    assert_eq!(environment.get(ECHO).await.status(), 200, "{}", case.name);
}

fn cases(detour: &Detour) -> Vec<Case> {
    let mut cases = not_json();
    cases.extend(odd_members());
    cases.extend(odd_statuses(detour));
    cases.extend(odd_framing());
    cases
}

/// A token set that would do.
const GOOD: &str = r#"{"access_token":"a","token_type":"bearer","expires_in":3600}"#;

fn malformed(name: impl Into<String>, content: impl Into<Vec<u8>>, fault: &str) -> Case {
    let error = format!("the token endpoint's answer is not a token set: {fault}; check token_url");
    Case { name: name.into(), bytes: ok(&content.into(), ""), error }
}

fn ok(content: &[u8], fields: &str) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{fields}Content-Length: {}\r\n\r\n",
        content.len()
    );
    [head.as_bytes(), content].concat()
}

fn not_json() -> Vec<Case> {
    let utf16 =
        |unit: fn(u16) -> [u8; 2]| -> Vec<u8> { GOOD.encode_utf16().flat_map(unit).collect() };
    let with_bom = |bom: &[u8], content: Vec<u8>| [bom, &content].concat();
    let deep = format!(r#"{{"a":{}"#, "[".repeat(10_000));
    let deep_and_closed =
        format!(r#"{{"a":{}{},{}"#, "[".repeat(10_000), "]".repeat(10_000), &GOOD[1..]);
    let spaces = " ".repeat(70_000);
    let contents: [(&str, Vec<u8>); 23] = [
        ("HTML", "<!DOCTYPE html><html><body>Service portal</body></html>".into()),
        ("nothing", Vec::new()),
        ("half", GOOD[..GOOD.len() / 2].into()),
        ("all but the last byte", GOOD[..GOOD.len() - 1].into()),
        ("longer than 64 KiB", format!("{spaces}{GOOD}").into()),
        ("nesting without end", deep.into()),
        ("nesting with an end", deep_and_closed.into()),
        ("an array", format!("[{GOOD}]").into()),
        ("a string", r#""access_token""#.into()),
        ("null", "null".into()),
        ("a number", "3600".into()),
        ("true", "true".into()),
        ("something behind it", format!("{GOOD}x").into()),
        ("two of them", format!("{GOOD}{GOOD}").into()),
        ("a byte order mark", with_bom(b"\xef\xbb\xbf", GOOD.into())),
        ("UTF-16", utf16(u16::to_le_bytes)),
        ("UTF-16 with its mark", with_bom(b"\xfe\xff", utf16(u16::to_be_bytes))),
        (
            "no UTF-8",
            GOOD.replace("bearer", "b\u{1}r")
                .into_bytes()
                .iter()
                .map(|b| if *b == 1 { 0xff } else { *b })
                .collect(),
        ),
        ("a NUL at the end", format!("{GOOD}\0").into()),
        ("a comment", GOOD.replacen('{', "{/* token */", 1).into()),
        ("single quotes", GOOD.replace('"', "'").into()),
        ("NaN", GOOD.replace("3600", "NaN").into()),
        ("a form", "access_token=a&token_type=bearer&expires_in=3600".into()),
    ];
    let fault = "it is not a JSON object";
    let mut cases: Vec<_> =
        contents.into_iter().map(|(name, content)| malformed(name, content, fault)).collect();
    let mut gzip = malformed("gzip that nobody asked for", "", fault);
    gzip.bytes = ok(&gzipped(GOOD.as_bytes()), "Content-Encoding: gzip\r\n");
    let mut endless = malformed("a megabyte of unstated length", "", fault);
    endless.bytes = format!("HTTP/1.1 200 OK\r\n\r\n{}", spaces.repeat(15)).into_bytes();
    cases.extend([gzip, endless]);
    cases
}

/// Members that are missing, of the wrong type, or out of bounds.
fn odd_members() -> Vec<Case> {
    let set = |member: &str, value: &str| match member {
        "access_token" => GOOD.replace(r#""a""#, value),
        "token_type" => GOOD.replace(r#""bearer""#, value),
        "expires_in" => GOOD.replace("3600", value),
        _ => GOOD.replace('}', &format!(r#","{member}":{value}}}"#)),
    };
    let long = format!("\"{}\"", "x".repeat(17 * 1024));
    let values: [(&str, &str, &[&str]); 6] = [
        ("access_token", "it has no access_token", &[r#""""#, "null", "17", "true", "[]", "{}"]),
        (
            "access_token",
            "its access_token has bytes that no field may carry",
            &[r#""a\u0000b""#, r#""a\r\nX-Evil: 1""#, r#""a b""#, r#""ü""#, r#""\u007f""#, &long],
        ),
        ("token_type", "its token_type is not bearer", &[r#""mac""#, r#""""#, "null", "1"]),
        (
            "expires_in",
            "its expires_in is not a positive number",
            &[
                "0",
                "-1",
                "0.5",
                "3600.5",
                "1e300",
                "-0",
                r#""soon""#,
                r#""""#,
                r#""-5""#,
                "null",
                "true",
                "[3600]",
                "18446744073709551616",
            ],
        ),
        (
            "refresh_token",
            "its refresh_token is not a token",
            &[r#""""#, "17", "false", "[]", "{}"],
        ),
        (
            "refresh_token",
            "its refresh_token has bytes that no form may carry",
            &[r#""a b""#, r#""a\nb""#, &long],
        ),
    ];
    let mut cases: Vec<_> = values
        .into_iter()
        .flat_map(|(member, fault, values)| {
            values.iter().map(move |value| {
                let name = format!("{member} {}", &value[..value.len().min(24)]);
                malformed(name, set(member, value), fault)
            })
        })
        .collect();
    let without = |member: &str| GOOD.replace(member, "another");
    let twice = |member: &str| GOOD.replace('}', &format!(",{member}}}"));
    cases.extend([
        malformed("no access_token", without("access_token"), "it has no access_token"),
        malformed("no token_type", without("token_type"), "its token_type is not bearer"),
        malformed(
            "no expires_in",
            without("expires_in"),
            "its expires_in is not a positive number",
        ),
        malformed("an inner object", format!(r#"{{"data":{GOOD}}}"#), "it has no access_token"),
        malformed("an error", r#"{"error":"invalid_grant"}"#, "it has no access_token"),
        malformed("two tokens", twice(r#""access_token":"b""#), "it names a member twice"),
        malformed("two lives", twice(r#""expires_in":1"#), "it names a member twice"),
    ]);
    cases
}

/// A token set with a status that is not 200.
fn odd_statuses(detour: &Detour) -> Vec<Case> {
    let elsewhere = format!("Location: {}\r\n", detour.elsewhere());
    let case = |status: &str, fields: &str, content: &str| Case {
        name: status.to_owned(),
        bytes: format!(
            "HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n\r\n{content}",
            content.len()
        )
        .into_bytes(),
        error: format!(
            "the token endpoint answered {status} (no code): check token_url; \
             it is tried again, ever more slowly"
        ),
    };
    vec![
        case("201 Created", &elsewhere, GOOD),
        case("202 Accepted", "", GOOD),
        case("203 Non Authoritative Information", "", GOOD),
        case("206 Partial Content", "Content-Range: bytes 0-9/10\r\n", GOOD),
        case("226 IM Used", "", GOOD),
        case("300 Multiple Choices", &elsewhere, GOOD),
        case("301 Moved Permanently", &elsewhere, GOOD),
        case("302 Found", &elsewhere, GOOD),
        case("303 See Other", &elsewhere, ""),
        case("307 Temporary Redirect", &elsewhere, GOOD),
        case("308 Permanent Redirect", &elsewhere, GOOD),
        Case {
            name: "204 No Content".into(),
            bytes: b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            error: "the token endpoint answered 204 No Content (no code): check token_url".into(),
        },
    ]
}

/// An answer that does not arrive as it was announced. It counts as lost: the request may have had
/// its effect, and is repeated as it was.
fn odd_framing() -> Vec<Case> {
    let lost = |name: &str, answer: String| Case {
        name: name.to_owned(),
        bytes: answer.into_bytes(),
        error: "the token endpoint's answer was lost: the same request is safe to send again"
            .to_owned(),
    };
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let length = GOOD.len();
    let mut short = malformed("a length that is too short", "", "it is not a JSON object");
    short.bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{GOOD}").into_bytes();
    vec![
        short,
        lost(
            "a length that is too long",
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{GOOD}", length + 1),
        ),
        lost(
            "two lengths",
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: {length}\r\n\r\n{GOOD}"
            ),
        ),
        lost("a length of letters", format!("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n{GOOD}")),
        lost("chunks of garbage", format!("{chunked}zz\r\n{GOOD}\r\n0\r\n\r\n")),
        lost("chunks that end early", format!("{chunked}{length:x}\r\n{GOOD}\r\n")),
        lost("a chunk that is cut", format!("{chunked}{:x}\r\n{GOOD}", length + 1)),
        lost("a head that is cut", "HTTP/1.1 200 OK\r\nContent-Le".to_owned()),
        lost("a field without a name", format!("HTTP/1.1 200 OK\r\n: x\r\n\r\n{GOOD}")),
        lost("no head", GOOD.to_owned()),
        lost("no answer", String::new()),
    ]
}

/// In the format of RFC 1952, uncompressed.
fn gzipped(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap();
    let mut crc = !0_u32;
    for byte in content {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff, 1];
    let lengths = [length.to_le_bytes(), (!length).to_le_bytes()].concat();
    let tail = [(!crc).to_le_bytes(), u32::from(length).to_le_bytes()].concat();
    [&head[..], &lengths, content, &tail].concat()
}
