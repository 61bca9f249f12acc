//! The test's own reading of a request: what it means, and to whom it is allowed or denied.

use percent_encoding::percent_decode;

/// Method and target that a request line means behind the prefixes, if they can be told.
pub(super) fn effective(line: &[u8]) -> Option<(String, String)> {
    let line = std::str::from_utf8(line).ok()?;
    let (method, target) = line.split_once(' ')?;
    let target = target.split('#').next()?;
    let path = target.strip_prefix("http://evil.test").unwrap_or(target);
    let path =
        path.strip_prefix("/.ringbearer/as/test").filter(|it| it.starts_with('/')).unwrap_or(path);
    let path =
        path.strip_prefix("/.ringbearer/media").filter(|it| it.starts_with('/')).unwrap_or(path);
    Some((method.to_owned(), path.to_owned()))
}

/// Whether every server reads this path alike.
fn is_plain(path: &str) -> bool {
    let mut text = path.to_owned();
    for harmless in "~!$&'()*+,=:@".bytes() {
        text = text.replace(&format!("%{harmless:02x}"), "x");
        text = text.replace(&format!("%{harmless:02X}"), "x");
    }
    let segments: Vec<_> = text.split('/').skip(1).collect();
    let (last, middle) = segments.split_last().unwrap();
    text.starts_with('/')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "/-._~!$&'()*+,=:@".contains(c))
        && !middle.iter().any(|it| it.is_empty())
        && !segments.iter().any(|it| !it.is_empty() && it.trim_matches('.').is_empty())
        && (!last.is_empty() || segments.len() > 1)
        && segments.len() <= 32
}

/// [`LISTED`](super::LISTED) in the test's own words.
pub(super) fn is_allowed(method: &str, target: &str) -> bool {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let segments: Vec<_> = path.split('/').collect();
    let reads = ["GET", "HEAD"].contains(&method);
    let is_listed = match segments[..] {
        ["", "restapi", "v1.0", "account", a, "extension", e, last] => {
            let is_call = reads && last == "call-log" || method == "POST" && last == "sms";
            !a.is_empty() && !e.is_empty() && is_call
        }
        ["", "restapi", "v1.0", "account", a, "recording", r] => {
            reads && !a.is_empty() && !r.is_empty()
        }
        ["", "team-messaging", "v1", ..] => reads && !are_notes(path),
        _ => false,
    };
    is_listed && is_plain(path) && !names_a_method(query)
}

/// What the rule about notes may mean to a server.
fn are_notes(path: &str) -> bool {
    let folded = folded(path);
    folded.len() == 5 && folded[2] == "chats" && folded[4] == "notes"
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

pub(super) fn names_a_method(query: &str) -> bool {
    let query = decoded(query);
    query.split(['&', ';']).any(|pair| pair.split('=').next().unwrap().contains("method"))
}

/// The segments of a path after everything that some server does to it.
fn folded(path: &str) -> Vec<String> {
    let mut segments: Vec<String> = Vec::new();
    for segment in decoded(path).replace('\\', "/").split('/') {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
        match segment.split(';').next().unwrap() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.split(|c| !is_part(c)).next().unwrap().to_owned()),
        }
    }
    segments
}

/// Whether the client `denied` must not have sent it.
pub(super) fn is_denied(method: &str, target: &str) -> bool {
    let folded = folded(target.split('?').next().unwrap());
    if folded.is_empty() {
        return false;
    }
    let has = |word: &str| folded.iter().any(|segment| segment == word);
    match method.to_ascii_uppercase().as_str() {
        "POST" => folded[0] == "restapi" && (has("sms") || has("fax")),
        "GET" | "HEAD" => has("recording"),
        _ => false,
    }
}
