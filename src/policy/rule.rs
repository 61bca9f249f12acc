//! A rule, from its text: an operation's name, a rate-limit group's, or a method and a path.

use http::Method;

use super::{Named, Source};
use crate::operations::{self, Operation};

/// A method of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// GET
    Get,
    /// HEAD, which is allowed and denied with GET.
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// PATCH
    Patch,
    /// DELETE
    Delete,
    /// OPTIONS
    Options,
}

impl Verb {
    pub(super) const COUNT: usize = 7;

    pub(super) const ALL: [Self; Self::COUNT] =
        [Self::Get, Self::Head, Self::Post, Self::Put, Self::Patch, Self::Delete, Self::Options];

    /// The method, to the letter: another spelling is another method, but not to every server.
    pub fn of(method: &Method) -> Option<Self> {
        match *method {
            Method::GET => Some(Self::Get),
            Method::HEAD => Some(Self::Head),
            Method::POST => Some(Self::Post),
            Method::PUT => Some(Self::Put),
            Method::PATCH => Some(Self::Patch),
            Method::DELETE => Some(Self::Delete),
            Method::OPTIONS => Some(Self::Options),
            _ => None,
        }
    }
}

/// Methods, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verbs(u8);

impl Verbs {
    const ALL: Self = Self((1 << Verb::COUNT) - 1);

    /// What a word of a rule means, in whatever case.
    fn read(word: &str) -> Option<Self> {
        if word == "*" {
            return Some(Self::ALL);
        }
        let verb = Verb::of(&word.to_ascii_uppercase().parse().ok()?)?;
        let head = if verb == Verb::Get { 1 << Verb::Head as u8 } else { 0 };
        Some(Self(1 << verb as u8 | head))
    }

    pub(super) const fn include(self, verb: Verb) -> bool {
        self.0 & 1 << verb as u8 != 0
    }

    const fn covers(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A part of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// This segment.
    Literal(Box<str>),
    /// Any one segment.
    Any,
    /// Any segments, or none.
    Deep,
}

/// A method and a path with places to be filled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    pub(super) verbs: Verbs,
    pub(super) parts: Vec<Part>,
}

/// A rule: what is written, and what it means.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) text: String,
    pub(super) source: Source,
    pub(super) patterns: Vec<Pattern>,
}

/// Why a rule is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message explains its variant")]
pub enum RuleError {
    #[error(
        "which is neither an operation nor a rate-limit group: did you mean {name:?} ({summary})?"
    )]
    Misspelt { name: &'static str, summary: &'static str },
    #[error(
        "which is neither an operation nor a rate-limit group: write the name from RingCentral's API \
         reference, such as \"readUserCallLog\", or method and path, such as \"GET /restapi/v1.0/account/{{accountId}}/call-log\""
    )]
    Unknown,
    #[error("which has no method: write \"GET {path}\", or \"* {path}\" for every one")]
    NoMethod { path: String },
    #[error("which has no path: write \"{method} *\" for every one")]
    NoPath { method: String },
    #[error(
        "whose method is none: write GET, POST, PUT, PATCH, DELETE, OPTIONS, or * for every one"
    )]
    Method,
    #[error("which is neither a name nor a method and a path, one space between them")]
    Words,
    #[error("whose path does not begin with /: write it without scheme and host")]
    Relative,
    #[error(
        "whose path has {segment:?}: write letters, digits and -._ or {{name}} for any one segment; ~ stands alone"
    )]
    Segment { segment: String },
    #[error("whose path has an empty segment: write one slash, and none at the end")]
    Empty,
    #[error("whose path has * in the middle: write {{name}} for any one segment")]
    Star,
    #[error("whose path has ** in the middle more than once")]
    Deep,
    #[error("whose path is longer than any of RingCentral's")]
    Long,
}

/// More than any path of RingCentral's has.
const MOST_PARTS: usize = 32;

impl Rule {
    /// Reads a rule.
    pub(super) fn parse(text: &str, source: Source) -> Result<Self, RuleError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let patterns = match words[..] {
            [word] => named(word)?,
            [method, path] => {
                let verbs = Verbs::read(method).ok_or(RuleError::Method)?;
                vec![Pattern { verbs, parts: parts(path)? }]
            }
            _ => return Err(RuleError::Words),
        };
        Ok(Self { text: words.join(" "), source, patterns })
    }

    /// A rule of this program's own.
    pub(super) fn known(text: &str, source: Source) -> Self {
        Self::parse(text, source).expect("a test reads every one")
    }

    pub(super) fn named(&self) -> Named {
        Named { text: self.text.clone(), origin: self.source }
    }

    /// Whether it means everything that `other` does.
    pub(super) fn covers(&self, other: &Self) -> bool {
        other.patterns.iter().all(|theirs| self.patterns.iter().any(|ours| ours.covers(theirs)))
    }

    /// The same as a rule of `deny`.
    pub(super) fn widened(&self) -> Self {
        let patterns = self.patterns.iter().map(Pattern::widened).collect();
        Self { patterns, ..self.clone() }
    }
}

impl Pattern {
    /// What an operation means.
    pub(super) fn of(operation: &Operation) -> Self {
        let verbs = Verbs::read(operation.method).expect("the table has no other methods");
        Self { verbs, parts: parts(operation.path).expect("the table has no other paths") }
    }

    /// Whether it fits everything that `other` does.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.verbs.covers(other.verbs) && covers(&self.parts, &other.parts)
    }

    /// Whether some request fits both; `other` is an operation's.
    pub(super) fn meets(&self, other: &Self) -> bool {
        self.verbs.0 & other.verbs.0 != 0 && meets(&self.parts, &other.parts)
    }

    /// Whether it fits one path only.
    pub(super) fn is_literal(&self) -> bool {
        self.parts.iter().all(|part| matches!(part, Part::Literal(_)))
    }

    /// Without what may be written in several ways: `~` is an id as well, and a version has others.
    pub(super) fn widened(&self) -> Self {
        let widen = |part: &Part| match part {
            Part::Literal(text) if &**text == "~" || is_version(text) => Part::Any,
            Part::Literal(text) => Part::Literal(text.to_ascii_lowercase().into()),
            other => other.clone(),
        };
        Self { verbs: self.verbs, parts: self.parts.iter().map(widen).collect() }
    }
}

fn covers(ours: &[Part], theirs: &[Part]) -> bool {
    match (ours, theirs) {
        ([], []) => true,
        ([Part::Deep, rest @ ..], _) => {
            covers(rest, theirs) || !theirs.is_empty() && covers(ours, &theirs[1..])
        }
        ([Part::Any, rest @ ..], [Part::Any | Part::Literal(_), others @ ..]) => {
            covers(rest, others)
        }
        ([Part::Literal(our), rest @ ..], [Part::Literal(their), others @ ..]) => {
            our == their && covers(rest, others)
        }
        _ => false,
    }
}

fn meets(ours: &[Part], theirs: &[Part]) -> bool {
    match (ours, theirs) {
        ([], []) => true,
        ([Part::Deep, rest @ ..], _) => {
            meets(rest, theirs) || !theirs.is_empty() && meets(ours, &theirs[1..])
        }
        ([Part::Literal(our), rest @ ..], [Part::Literal(their), others @ ..]) => {
            our.eq_ignore_ascii_case(their) && meets(rest, others)
        }
        ([_, rest @ ..], [_, others @ ..]) => meets(rest, others),
        _ => false,
    }
}

/// `v1.0`, `v2`
fn is_version(segment: &str) -> bool {
    let rest = segment.strip_prefix('v').unwrap_or_default();
    rest.starts_with(|c: char| c.is_ascii_digit())
        && rest.chars().all(|c| c.is_ascii_digit() || c == '.')
}

fn named(word: &str) -> Result<Vec<Pattern>, RuleError> {
    let mut patterns: Vec<_> = operations::named(word).map(Pattern::of).collect();
    if patterns.is_empty() {
        patterns = operations::in_group(word).map(Pattern::of).collect();
    }
    if !patterns.is_empty() {
        return Ok(patterns);
    }
    Err(if word.starts_with('/') {
        RuleError::NoMethod { path: word.to_owned() }
    } else if Verbs::read(word).is_some() {
        RuleError::NoPath { method: word.to_owned() }
    } else {
        match operations::nearest(word) {
            Some(it) => RuleError::Misspelt { name: it.name, summary: it.summary },
            None => RuleError::Unknown,
        }
    })
}

fn parts(path: &str) -> Result<Vec<Part>, RuleError> {
    if path == "*" {
        return Ok(vec![Part::Deep]);
    }
    let rest = path.strip_prefix('/').ok_or(RuleError::Relative)?;
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    let parts: Vec<_> = rest.split('/').map(part).collect::<Result<_, _>>()?;
    let middle = &parts[..parts.len() - 1];
    if rest.split('/').take(middle.len()).any(|segment| segment == "*") {
        return Err(RuleError::Star);
    }
    if middle.iter().filter(|part| **part == Part::Deep).count() > 1 {
        return Err(RuleError::Deep);
    }
    if parts.len() > MOST_PARTS {
        return Err(RuleError::Long);
    }
    Ok(parts)
}

fn part(segment: &str) -> Result<Part, RuleError> {
    let is_plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
    };
    let parameter = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    match segment {
        "" => Err(RuleError::Empty),
        "**" => Ok(Part::Deep),
        "*" => Ok(Part::Any),
        "~" => Ok(Part::Literal("~".into())),
        _ if parameter.is_some_and(is_plain) => Ok(Part::Any),
        _ if is_plain(segment) && !segment.bytes().all(|byte| byte == b'.') => {
            Ok(Part::Literal(segment.into()))
        }
        _ => Err(RuleError::Segment { segment: segment.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        Rule::parse(text, Source::Allow).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_rule_is_an_operation_a_group_or_a_method_and_a_path() {
        assert_eq!(rule("READUSERCALLLOG").patterns, rule("readUserCallLog").patterns);
        assert_eq!(rule("createA2PSMS").patterns.len(), 2);
        assert_eq!(rule("light").patterns.len(), 146);
        let path = rule("get  /restapi/{version}/**/sms/*");
        assert_eq!(path.text, "get /restapi/{version}/**/sms/*");
        let literal = |text: &str| Part::Literal(text.into());
        let parts = [literal("restapi"), Part::Any, Part::Deep, literal("sms"), Part::Any];
        let [Pattern { verbs, parts: found }] = &path.patterns[..] else { panic!("one") };
        assert_eq!(found[..], parts);
        assert!(verbs.include(Verb::Get) && verbs.include(Verb::Head));
        assert!(!verbs.include(Verb::Post));
        assert_eq!(rule("POST *").patterns, rule("POST /**").patterns);
        assert_eq!(rule("* /").patterns[0].parts, []);
    }

    #[test]
    fn what_is_none_is_told_with_its_cure() {
        for (text, message) in [
            (
                "sendSMS",
                "which is neither an operation nor a rate-limit group: did you mean \"createSMSMessage\" (Send SMS)?",
            ),
            (
                "frobnicate",
                "which is neither an operation nor a rate-limit group: write the name from RingCentral's API reference, such as \"readUserCallLog\", or method and path, such as \"GET /restapi/v1.0/account/{accountId}/call-log\"",
            ),
            (
                "/restapi",
                "which has no method: write \"GET /restapi\", or \"* /restapi\" for every one",
            ),
            ("DELETE", "which has no path: write \"DELETE *\" for every one"),
            (
                "FETCH /a",
                "whose method is none: write GET, POST, PUT, PATCH, DELETE, OPTIONS, or * for every one",
            ),
            ("", "which is neither a name nor a method and a path, one space between them"),
            (
                "GET /a /b",
                "which is neither a name nor a method and a path, one space between them",
            ),
            (
                "GET https://platform.ringcentral.com/restapi",
                "whose path does not begin with /: write it without scheme and host",
            ),
            (
                "GET /a?b",
                "whose path has \"a?b\": write letters, digits and -._ or {name} for any one segment; ~ stands alone",
            ),
            (
                "GET /a/..",
                "whose path has \"..\": write letters, digits and -._ or {name} for any one segment; ~ stands alone",
            ),
            (
                "GET /a/~b",
                "whose path has \"~b\": write letters, digits and -._ or {name} for any one segment; ~ stands alone",
            ),
            ("GET /a//b", "whose path has an empty segment: write one slash, and none at the end"),
            ("GET /a/", "whose path has an empty segment: write one slash, and none at the end"),
            ("GET /a/*/b", "whose path has * in the middle: write {name} for any one segment"),
            ("GET /**/a/**/b", "whose path has ** in the middle more than once"),
        ] {
            let error = Rule::parse(text, Source::Allow).expect_err(text);
            assert_eq!(error.to_string(), message, "{text}");
        }
        let long = format!("GET {}", "/a".repeat(33));
        assert_eq!(Rule::parse(&long, Source::Deny).unwrap_err(), RuleError::Long);
    }

    #[test]
    fn a_wider_rule_covers_a_narrower_one() {
        for (wide, narrow, expected) in [
            ("GET *", "readUserCallLog", true),
            ("GET *", "Light", false),
            ("* /restapi/**", "GET /restapi/v1.0/account/~", true),
            ("GET /a/{b}", "GET /a/c", true),
            ("GET /a/{b}", "GET /a/**", false),
            ("GET /a/**", "GET /a", true),
            ("GET /**/c", "GET /a/b/c", true),
            ("GET /**/c", "GET /a/**/c", true),
            ("GET /a/b", "GET /a/{b}", false),
            ("GET /a", "* /a", false),
            ("createA2PSMS", "POST /restapi/v1.0/account/~/a2p-sms/batch", true),
        ] {
            assert_eq!(rule(wide).covers(&rule(narrow)), expected, "{wide} covers {narrow}");
        }
        let wide = rule("DELETE /restapi/v1.0/account/~/Thing").widened();
        assert!(wide.covers(&rule("DELETE /restapi/v2/account/1/thing")));
    }
}
