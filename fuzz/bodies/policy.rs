//! Whatever a policy lets pass is what it allows to the letter, and nothing that any reading of its
//! path would take for what it denies.

use std::sync::LazyLock;

use http::{HeaderMap, Method, Uri};
use percent_encoding::percent_decode;
use ringbearer::policy::{Policy, Written};

static ALLOWING: LazyLock<Policy> = LazyLock::new(|| {
    let allow = Some(vec!["createSMSMessage".to_owned(), "GET /team-messaging/v1/**".to_owned()]);
    compiled(&Written { allow, ..Written::default() })
});

static DENYING: LazyLock<Policy> = LazyLock::new(|| {
    let presets = vec!["no-sms".to_owned(), "no-recordings".to_owned()];
    compiled(&Written { presets, ..Written::default() })
});

fn compiled(written: &Written) -> Policy {
    Policy::compile(written).expect("its rules are rules").expect("it has some").0
}

/// A first byte that says by which method, the target, and in a line below a rule.
pub(crate) fn run(input: &[u8]) {
    let Some((choice, text)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let (target, rule) = text.split_once('\n').unwrap_or((text, ""));
    let posts = choice % 2 == 1;
    let method = if posts { Method::POST } else { Method::GET };
    let (Ok(uri), fields) = (target.parse::<Uri>(), HeaderMap::new()) else { return };
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    if ALLOWING.judge(&method, &uri, &fields).is_ok() {
        let segments: Vec<_> = path.split('/').collect();
        let is_allowed = match segments[..] {
            ["", "restapi", "v1.0", "account", account, "extension", extension, "sms"] => {
                posts && !account.is_empty() && !extension.is_empty()
            }
            ["", "team-messaging", "v1", ..] => !posts,
            _ => false,
        };
        assert!(is_allowed && !names_a_method(query), "{method} {target}");
        let is_plain =
            |segment: &&str| !segment.is_empty() && !segment.trim_matches('.').is_empty();
        assert!(segments[1..segments.len() - 1].iter().all(is_plain), "{target}");
    }
    if DENYING.judge(&method, &uri, &fields).is_ok() {
        let denied: &[&str] = if posts {
            &["sms", "mms", "fax", "company-pager"]
        } else {
            &["recording", "recordings", "meeting-recordings"]
        };
        let folded = folded(path);
        let below = if posts { folded.iter().position(|it| it == "restapi") } else { Some(0) };
        let rest = if below == Some(0) { &folded[..] } else { &[] };
        assert!(!rest.iter().any(|it| denied.contains(&&**it)), "{method} {target}");
        assert!(!names_a_method(query), "{target}");
    }
    // Any rule is one or is told not to be.
    let written = Written { deny: vec![rule.to_owned()], ..Written::default() };
    if let Ok(Some((policy, _))) = Policy::compile(&written) {
        let _ = policy.judge(&method, &uri, &fields);
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    loop {
        let again: Vec<u8> = percent_decode(&bytes).collect();
        if again == bytes {
            return String::from_utf8_lossy(&bytes).to_lowercase();
        }
        bytes = again;
    }
}

fn names_a_method(query: &str) -> bool {
    let query = decoded(query);
    query
        .split(['&', ';'])
        .any(|pair| pair.split('=').next().is_some_and(|name| name.contains("method")))
}

fn folded(path: &str) -> Vec<String> {
    let mut segments: Vec<String> = Vec::new();
    for segment in decoded(path).replace('\\', "/").split('/') {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        match segment.split(';').next().unwrap_or_default() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.extend(name.split(|c| !is_part(c)).next().map(str::to_owned)),
        }
    }
    segments
}
