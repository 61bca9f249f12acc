//! The real answers: RingCentral's documented examples, by operation.
//!
//! The catalogue joins the table of operations with the examples. What an example's text holds is
//! settled when it is read: JSON, another text, a file, nothing. Some of the documented JSON is not
//! JSON (comments, dots, missing commas); it is kept as text and served only when asked for.

use std::sync::LazyLock;

use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::routes::{Match, Route, Routes};

/// All operations and their examples.
#[derive(Debug)]
pub(super) struct Catalog {
    pub(super) routes: Routes,
    examples: Vec<Vec<Example>>,
}

/// One documented answer.
#[derive(Clone, Debug)]
pub(super) struct Example {
    pub(super) status: StatusCode,
    pub(super) media_type: Option<String>,
    pub(super) content: Documented,
}

/// What the content of a documented answer is.
#[derive(Clone, Debug)]
pub(super) enum Documented {
    /// Nothing.
    Nothing,
    /// JSON, as written and as read.
    Json(String, Value),
    /// Something else: multipart, or JSON that is none.
    Text(String),
    /// A placeholder for a file.
    File,
}

#[derive(Deserialize)]
struct Line {
    method: String,
    path: String,
    group: String,
    response: String,
}

/// The catalogue of the embedded tables.
pub(super) fn catalog() -> &'static Catalog {
    static CATALOG: LazyLock<Catalog> = LazyLock::new(|| {
        Catalog::read(crate::operations::TABLE, include_str!("data/examples.jsonl"))
    });
    &CATALOG
}

impl Catalog {
    fn read(operations: &'static str, examples: &'static str) -> Self {
        let mut catalog = Self { routes: Routes::read(operations), examples: Vec::new() };
        for (method, template, operation) in OWN {
            catalog.routes.add(Route { method, template, group: "NoThrottling", operation });
        }
        for line in examples.lines() {
            let line: Line = serde_json::from_str(line).expect("the embedded examples are JSON");
            catalog.add(line);
        }
        catalog
    }

    /// The examples of an operation, in the order of the documentation.
    pub(super) fn examples(&self, route: usize) -> &[Example] {
        self.examples.get(route).map_or(&[], Vec::as_slice)
    }

    /// The example that answers an ordinary request: readable, and not about several resources.
    pub(super) fn ordinary(&self, route: usize) -> Option<&Example> {
        self.examples(route).iter().find(|example| {
            example.status != StatusCode::MULTI_STATUS
                && example.status != StatusCode::NOT_MODIFIED
                && !matches!(example.content, Documented::Text(_))
        })
    }

    /// The examples are known by method and template alone; their text lives as long as we do.
    fn add(&mut self, line: Line) {
        let found = self.routes.find(&line.method, &line.path);
        let index = match found {
            Match::Route(index) if self.routes.get(index).template == line.path => index,
            _ => self.routes.add(Route {
                method: line.method.leak(),
                template: line.path.leak(),
                group: line.group.leak(),
                operation: "",
            }),
        };
        if self.examples.len() <= index {
            self.examples.resize_with(index + 1, Vec::new);
        }
        self.examples[index].push(Example::read(&line.response));
    }
}

impl Example {
    /// Reads a status line, perhaps fields, perhaps a blank line, and the content.
    fn read(response: &str) -> Self {
        let (status_line, mut rest) = response.split_once('\n').unwrap_or((response, ""));
        let status = status_line.split(' ').nth(1).and_then(|code| code.parse().ok());
        let mut media_type = None;
        loop {
            rest = rest.trim_start();
            let line = rest.lines().next().unwrap_or_default();
            let Some((name, value)) = line.split_once(':').filter(|(name, _)| is_token(name))
            else {
                break;
            };
            if name.eq_ignore_ascii_case("content-type") {
                media_type = Some(value.trim().to_owned());
            }
            rest = &rest[line.len()..];
        }
        let content = Documented::read(rest.trim_end());
        let media_type = media_type.or_else(|| content.media_type());
        Self { status: status.unwrap_or(StatusCode::OK), media_type, content }
    }

    /// The content as JSON, if it is.
    pub(super) fn json(&self) -> Option<&Value> {
        match &self.content {
            Documented::Json(_, value) => Some(value),
            _ => None,
        }
    }
}

impl Documented {
    fn read(text: &str) -> Self {
        match text {
            "" => Self::Nothing,
            "[binary data]" | "<media data>" => Self::File,
            text => match serde_json::from_str(text) {
                Ok(value) => Self::Json(text.to_owned(), value),
                Err(_) => Self::Text(text.to_owned()),
            },
        }
    }

    fn media_type(&self) -> Option<String> {
        match self {
            Self::Nothing | Self::File => None,
            Self::Text(text) if text.starts_with("--") => {
                let boundary = text.lines().next().unwrap_or_default().trim();
                Some(format!("multipart/mixed;boundary={}", &boundary[2..]))
            }
            Self::Json(..) | Self::Text(_) => Some(super::reply::JSON.to_owned()),
        }
    }
}

/// Whether this can be the name of a field, rather than the beginning of a content.
fn is_token(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

/// Resources of the sandbox itself, and those that every client asks for but no table names.
const OWN: [(&str, &str, &str); 13] = [
    ("GET", "/restapi/v1.0/client-info", "readClientInfo"),
    ("POST", "/restapi/oauth/wstoken", "createWsToken"),
    ("GET", "/restapi/v1.0/sandbox/echo", "sandboxEcho"),
    ("POST", "/restapi/v1.0/sandbox/echo", "sandboxEcho"),
    ("PUT", "/restapi/v1.0/sandbox/echo", "sandboxEcho"),
    ("PATCH", "/restapi/v1.0/sandbox/echo", "sandboxEcho"),
    ("DELETE", "/restapi/v1.0/sandbox/echo", "sandboxEcho"),
    ("POST", "/restapi/v1.0/sandbox/mirror", "sandboxMirror"),
    ("PUT", "/restapi/v1.0/sandbox/mirror", "sandboxMirror"),
    ("GET", "/restapi/v1.0/sandbox/status/{code}", "sandboxStatus"),
    ("POST", "/restapi/v1.0/sandbox/status/{code}", "sandboxStatus"),
    ("PUT", "/restapi/v1.0/sandbox/status/{code}", "sandboxStatus"),
    ("DELETE", "/restapi/v1.0/sandbox/status/{code}", "sandboxStatus"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_documented_answers_are_read() {
        let all: Vec<&Example> = catalog().examples.iter().flatten().collect();
        assert_eq!(all.len(), 227);
        let count = |kind: fn(&Documented) -> bool| {
            all.iter().filter(|example| kind(&example.content)).count()
        };
        assert_eq!(count(|c| matches!(c, Documented::File)), 5, "files");
        assert_eq!(count(|c| matches!(c, Documented::Text(_))), 28, "texts");
        assert_eq!(count(|c| matches!(c, Documented::Nothing)), 35, "empty");
    }

    #[test]
    fn fields_between_status_and_content_are_not_content() {
        let example = Example::read("HTTP 207 Multi-Status\nContent-Type: a/b\n{\n  \"x\": 1}");
        assert_eq!(example.status, StatusCode::MULTI_STATUS);
        assert_eq!(example.media_type.as_deref(), Some("a/b"));
        assert_eq!(example.json(), Some(&serde_json::json!({"x": 1})));
    }
}
