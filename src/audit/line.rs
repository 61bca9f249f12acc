//! PURE: what a line says.

#![allow(clippy::ref_option, clippy::ref_option_ref, reason = "serde wants it so")]

use std::net::SocketAddr;
use std::time::SystemTime;

use serde::Serialize;

use crate::clock::Timestamp;

/// Longer paths are cut, and end in an ellipsis then.
const MOST_PATH: usize = 2048;

/// The same for methods, names and ids.
const MOST_NAME: usize = 128;

/// What has happened.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(untagged)]
pub enum Event<'a> {
    /// An app has called.
    Request(Request<'a>),
    /// An operator has called, and has changed something or was refused.
    Operation(Operation<'a>),
    /// The configuration was read again.
    Reload(Reconfiguration<'a>),
    /// A session of an identity's has begun, goes on, or is over.
    Session(Session<'a>),
    /// Somebody had RingCentral's token printed.
    Token(Printed<'a>),
    /// Lines are missing here.
    Lost(Lost),
}

/// One request of an app's.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Request<'a> {
    /// What it was for.
    #[serde(rename = "event")]
    pub kind: Kind,
    /// The name of the client, known by its key or by its connection.
    pub client: Option<&'a str>,
    /// Where it came from, if that has an address.
    pub peer: Option<SocketAddr>,
    /// As whom it was sent.
    pub identity: Option<&'a str>,
    /// Its method.
    #[serde(serialize_with = "name")]
    pub method: &'a str,
    /// Its path as it came, without the query.
    #[serde(serialize_with = "path")]
    pub path: &'a str,
    /// What was decided.
    pub decision: Decision,
    /// The proxy's own error code, if it answered itself.
    pub code: Option<&'a str>,
    /// The answer's status; none if the client went before it.
    pub status: Option<u16>,
    /// Whether it was sent a second time.
    pub replayed: bool,
    /// RingCentral's `RCRequestId`.
    #[serde(serialize_with = "optional_name")]
    pub request_id: Option<&'a str>,
    /// Milliseconds until the answer began.
    pub ms: f64,
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// RingCentral, or an endpoint of the proxy's that changes nothing.
    Request,
    /// Tokens of the proxy's own.
    Login,
    /// The end of those.
    Logout,
}

/// What was decided about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It went on, or was answered here as asked.
    Allowed,
    /// It must not pass.
    Refused,
    /// It might have passed, but there was no token or no answer.
    Failed,
    /// The client went before an answer came; RingCentral may have got it.
    Abandoned,
}

/// What an operator has asked for at the admin listener.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "event", rename = "operation")]
pub struct Operation<'a> {
    /// Where from.
    pub peer: Option<SocketAddr>,
    /// Whom it concerns, if that is known.
    #[serde(serialize_with = "optional_name")]
    pub identity: Option<&'a str>,
    /// The method.
    #[serde(serialize_with = "name")]
    pub method: &'a str,
    /// The path without the query.
    #[serde(serialize_with = "path")]
    pub path: &'a str,
    /// What was decided.
    pub decision: Decision,
    /// The error code, if it was refused or failed.
    pub code: Option<&'a str>,
    /// The answer's status.
    pub status: u16,
}

/// An order to read the configuration again, and what came of it.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "event", rename = "operation")]
pub struct Reconfiguration<'a> {
    /// `reload`.
    pub what: &'a str,
    /// What it was ordered by.
    pub by: &'a str,
    /// `failed` if the old configuration stays.
    pub decision: Decision,
}

/// What became of a session with RingCentral.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "event", rename = "session")]
pub struct Session<'a> {
    /// Whose.
    pub identity: &'a str,
    /// What.
    pub change: SessionChange,
    /// The grant type that did it.
    pub grant: Option<&'a str>,
    /// The generation of the token set, where there is one now.
    pub generation: Option<u64>,
    /// Which command.
    pub by: &'a str,
}

/// What becomes of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionChange {
    /// A new one.
    Opened,
    /// A newer token set of the same one.
    Renewed,
    /// A logout.
    Ended,
    /// A copy left for another store.
    Exported,
    /// It came from another store.
    Imported,
}

/// `ringbearer token`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "event", rename = "token")]
pub struct Printed<'a> {
    /// Whose.
    pub identity: &'a str,
}

/// A gap.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(tag = "event", rename = "lost")]
pub struct Lost {
    /// How many lines.
    pub lines: u64,
}

/// The line, its end included.
pub(super) fn of(at: Timestamp, event: &Event<'_>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Line<'l> {
        time: String,
        #[serde(flatten)]
        event: &'l Event<'l>,
    }
    let time = humantime::format_rfc3339_millis(SystemTime::from(at)).to_string();
    let mut line = Vec::with_capacity(320);
    serde_json::to_writer(&mut line, &Line { time, event }).expect("a Vec takes everything");
    line.push(b'\n');
    line
}

fn name<S: serde::Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    cut(text, MOST_NAME, to)
}

fn path<S: serde::Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    cut(text, MOST_PATH, to)
}

fn optional_name<S: serde::Serializer>(text: &Option<&str>, to: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => name(text, to),
        None => to.serialize_none(),
    }
}

fn cut<S: serde::Serializer>(text: &str, most: usize, to: S) -> Result<S::Ok, S::Error> {
    if text.len() <= most {
        return to.serialize_str(text);
    }
    let end = (0..=most).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    to.collect_str(&format_args!("{}…", &text[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Timestamp = Timestamp::from_unix_millis(1_700_000_000_007);

    fn written(event: &Event<'_>) -> String {
        String::from_utf8(of(AT, event)).unwrap()
    }

    fn request() -> Request<'static> {
        Request {
            kind: Kind::Request,
            client: Some("billing"),
            peer: Some("127.0.0.1:4711".parse().unwrap()),
            identity: Some("sales"),
            method: "POST",
            path: "/restapi/v1.0/account/~/extension/~/sms",
            decision: Decision::Allowed,
            code: None,
            status: Some(200),
            replayed: true,
            request_id: Some("abc"),
            ms: 12.5,
        }
    }

    #[test]
    fn each_kind_of_line_is_an_object_that_begins_with_its_time() {
        let operation = Operation {
            peer: None,
            identity: Some("bot"),
            method: "DELETE",
            path: "/identities/bot",
            decision: Decision::Refused,
            code: Some("RBR-401"),
            status: 401,
        };
        let session = Session {
            identity: "sales",
            change: SessionChange::Renewed,
            grant: Some("refresh_token"),
            generation: Some(7),
            by: "serve",
        };
        for (event, expected) in [
            (
                Event::Request(request()),
                r#""event":"request","client":"billing","peer":"127.0.0.1:4711","identity":"sales","method":"POST","path":"/restapi/v1.0/account/~/extension/~/sms","decision":"allowed","code":null,"status":200,"replayed":true,"request_id":"abc","ms":12.5"#,
            ),
            (
                Event::Operation(operation),
                r#""event":"operation","peer":null,"identity":"bot","method":"DELETE","path":"/identities/bot","decision":"refused","code":"RBR-401","status":401"#,
            ),
            (
                Event::Session(session),
                r#""event":"session","identity":"sales","change":"renewed","grant":"refresh_token","generation":7,"by":"serve""#,
            ),
            (Event::Token(Printed { identity: "sales" }), r#""event":"token","identity":"sales""#),
            (Event::Lost(Lost { lines: 3 }), r#""event":"lost","lines":3"#),
        ] {
            let line = format!("{{\"time\":\"2023-11-14T22:13:20.007Z\",{expected}}}\n");
            assert_eq!(written(&event), line);
        }
    }

    #[test]
    fn what_a_client_makes_long_is_cut_at_a_character() {
        let long = "/ä".repeat(2000);
        let method = "M".repeat(200);
        let request = Request { path: &long, method: &method, ..request() };
        let line: serde_json::Value =
            serde_json::from_str(&written(&Event::Request(request))).unwrap();
        let (path, method) = (line["path"].as_str().unwrap(), line["method"].as_str().unwrap());
        assert_eq!((path.len() > 2040, path.len() < 2052), (true, true));
        assert!(path.ends_with("ä/…") || path.ends_with("/ä…"), "{path}");
        assert_eq!(method.len(), 128 + "…".len());
    }

    #[test]
    fn a_line_is_one_whatever_stands_in_it() {
        let request = Request { path: "/a\nb\"\u{1}", request_id: Some("\r\n"), ..request() };
        let line = written(&Event::Request(request));
        assert_eq!(line.matches('\n').count(), 1, "{line}");
        assert!(line.contains(r#""path":"/a\nb\"\u0001""#), "{line}");
    }
}
