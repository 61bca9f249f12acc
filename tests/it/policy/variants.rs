//! Request lines near what is allowed or denied, in every disguise that servers are known to see through.

use fastrand::Rng;

fn any<'a>(random: &mut Rng, of: &[&'a str]) -> &'a str {
    of[random.usize(..of.len())]
}

/// A request line near one that is allowed or denied.
pub(super) fn variant(random: &mut Rng) -> Vec<u8> {
    let (account, extension) = (any(random, &IDS), any(random, &IDS));
    let (usual, path) = match random.u8(..8) {
        0 => ("GET", format!("/restapi/v1.0/account/{account}/extension/{extension}/call-log")),
        1 | 2 => ("POST", format!("/restapi/v1.0/account/{account}/extension/{extension}/sms")),
        3 => ("GET", format!("/restapi/v1.0/account/{account}/recording/{extension}")),
        4 => ("GET", format!("/restapi/v1.0/account/{account}/recording/{extension}/content")),
        5 => ("GET", format!("/team-messaging/v1/chats/{account}/posts")),
        6 => ("GET", format!("/team-messaging/v1/chats/{account}/notes")),
        _ => ("POST", format!("/restapi/v1.0/account/{account}/extension/{extension}/fax")),
    };
    let mut path = path.into_bytes();
    for _ in 0..random.u8(..4).saturating_sub(1) {
        mutate(random, &mut path);
    }
    let method = if random.u8(..4) > 0 { usual } else { any(random, &METHODS) };
    let prefix = if random.u8(..3) > 0 { "" } else { any(random, &PREFIXES) };
    let end = if random.u8(..3) > 0 { "" } else { any(random, &ENDS) };
    [method.as_bytes(), b" ", prefix.as_bytes(), &path, end.as_bytes()].concat()
}

const IDS: [&str; 14] =
    ["~", "~", "~", "102", "102", "103", "%7E", "%2B1650", "1,2", "a..b", "*", "@x", "..", ""];
const METHODS: [&str; 9] =
    ["GET", "POST", "HEAD", "DELETE", "PUT", "get", "Post", "OPTIONS", "QUERY"];
const PREFIXES: [&str; 7] = [
    "/.ringbearer/as/test",
    "/.ringbearer/media",
    "/.ringbearer/as/test/.ringbearer/media",
    "/.ringbearer/media/.ringbearer/media",
    "/.ringbearer/as/nobody",
    "/%2eringbearer/media",
    "http://evil.test",
];
const ENDS: [&str; 11] = [
    "?page=1",
    "?access_token=x",
    "?a=..%2f",
    "?a=b&_method=DELETE",
    "?%5Fmethod=PUT",
    "#x",
    "#/../sms",
    "/",
    "/x",
    "/..",
    "?",
];

fn mutate(random: &mut Rng, path: &mut Vec<u8>) {
    let slashes: Vec<_> = (0..path.len()).filter(|at| path[*at] == b'/').collect();
    let slash = if slashes.is_empty() { 0 } else { slashes[random.usize(..slashes.len())] };
    let letter = random.usize(..path.len());
    let (byte, length) = (path[letter], path.len());
    let (range, instead) = match random.u8(..9) {
        0 => (letter..letter + 1, format!("%{byte:02x}")),
        1 => (letter..letter + 1, format!("%25{byte:02X}")),
        2 => (slash..slash + 1, any(random, &INSTEAD_OF_SLASHES).to_owned()),
        3 => (slash..slash, any(random, &AFTER_NAMES).to_owned()),
        4 if byte.is_ascii_lowercase() => {
            (letter..letter + 1, char::from(byte.to_ascii_uppercase()).to_string())
        }
        4 => (letter..letter + 1, char::from(byte.to_ascii_lowercase()).to_string()),
        5 => (letter..letter, any(random, &BETWEEN_LETTERS).to_owned()),
        6 => (letter..letter + 1, String::new()),
        7 => (0..length, String::from_utf8_lossy(path).to_ascii_uppercase()),
        _ => (length..length, any(random, &AT_THE_END).to_owned()),
    };
    path.splice(range, instead.into_bytes());
}

const INSTEAD_OF_SLASHES: [&str; 13] = [
    "//", "/./", "/x/../", "/%2e%2e/", "/.%2e/", "\\", "%2f", "%5C", "%252f", "/..;/", "/%2e/",
    "%c0%af", "/.../",
];
const AFTER_NAMES: [&str; 13] =
    [";", ";a=b", "%3ba", ".", ".json", "%00", "%20", "%0a", "+", ",", "%", "%zz", "~"];
const BETWEEN_LETTERS: [&str; 7] = ["\u{e9}", "\u{2024}", "%ff", "%e2%80%a4", "%u002e", "|", "^"];
const AT_THE_END: [&str; 12] =
    [";", ".", ".json", ",", "+", "%00", "%20", "%2f", "%5c..%5csms", ";/../sms", "!", "="];

/// Whether nothing but a policy may refuse it.
pub(super) fn is_well_formed(line: &[u8]) -> bool {
    line.is_ascii() && !line.contains(&b'#') && !line.windows(5).any(|window| window == b" http")
}
