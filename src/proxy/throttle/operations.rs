//! Which operation of the API a request is. PURE: a tree over the path templates of the OpenAPI
//! descriptions, built once.
//!
//! `~` and ids fill a parameter, and a literal segment beats one (OpenAPI §4.8.8.2). A path that no
//! template fits is an operation all the same: by its shape, in which everything that looks like an
//! id counts as one, so that a million messages are not a million operations.

use std::hash::{DefaultHasher, Hash, Hasher};

use http::header::HeaderName;
use http::{HeaderMap, Method, Uri};

/// Method, path, group, operation and summary of what the descriptions name.
const TABLE: &str = crate::operations::TABLE;

/// The group of what has no limit.
const NO_LIMIT: &str = "NoThrottling";

/// Turns a POST into another method, at RingCentral.
const OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");

/// Set in an operation that no template names.
const STRANGE: u64 = 1 << 63;

/// So much of a path tells its shape.
const MOST_SEGMENTS: usize = 16;

/// A longer segment is no word.
const LONGEST_WORD: usize = 40;

/// An operation: the place of its template, or a digest of its shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Operation(u64);

impl Operation {
    /// Its place in the table, if it is there.
    pub(super) fn place(self) -> Option<usize> {
        if self.0 & STRANGE == 0 { usize::try_from(self.0).ok() } else { None }
    }

    /// The one of this number, where `count` are in the table.
    pub(super) fn of_number(number: u64, count: usize) -> Option<Self> {
        let operation = Self(number);
        operation.place().is_none_or(|place| place < count).then_some(operation)
    }

    /// Tells it from every other.
    pub(super) const fn number(self) -> u64 {
        self.0
    }
}

/// All operations that the descriptions name.
#[derive(Debug)]
pub struct Operations {
    nodes: Vec<Node>,
    groups: Vec<&'static str>,
}

/// What may follow one beginning of a path.
#[derive(Debug, Default)]
struct Node {
    /// Sorted.
    words: Vec<(&'static str, usize)>,
    parameter: Option<usize>,
    operations: Vec<(Method, u64)>,
}

impl Operations {
    /// Those of RingCentral's descriptions.
    pub fn described() -> Self {
        Self::of(TABLE)
    }

    fn of(table: &'static str) -> Self {
        let mut all = Self { nodes: vec![Node::default()], groups: Vec::new() };
        for line in table.lines().skip(1) {
            let mut columns = line.split('\t');
            let mut column = || columns.next().unwrap_or_default();
            let (method, template, group) = (column(), column(), column());
            let method = Method::from_bytes(method.as_bytes()).expect("a table of ours");
            all.add(method, template, group);
        }
        all
    }

    fn add(&mut self, method: Method, template: &'static str, group: &'static str) {
        let node = template[1..].split('/').fold(0, |node, segment| self.child(node, segment));
        let operations = &mut self.nodes[node].operations;
        if operations.iter().all(|(known, _)| *known != method) {
            operations.push((method, self.groups.len() as u64));
            self.groups.push(group);
        }
    }

    fn child(&mut self, node: usize, segment: &'static str) -> usize {
        let new = self.nodes.len();
        let parent = &mut self.nodes[node];
        let child = if segment.starts_with('{') {
            *parent.parameter.get_or_insert(new)
        } else {
            match parent.words.binary_search_by_key(&segment, |(word, _)| word) {
                Ok(at) => parent.words[at].1,
                Err(at) => {
                    parent.words.insert(at, (segment, new));
                    new
                }
            }
        };
        if child == new {
            self.nodes.push(Node::default());
        }
        child
    }

    /// The operation that a request asks for.
    pub fn find(&self, method: &Method, target: &Uri, fields: &HeaderMap) -> Operation {
        let meant = (*method == Method::POST).then(|| overridden(fields, target.query())).flatten();
        let method = match meant.as_ref().unwrap_or(method) {
            head if *head == Method::HEAD => &Method::GET,
            method => method,
        };
        let path = target.path();
        let rest = path.strip_prefix('/').unwrap_or(path);
        self.under(0, Some(rest), method).map_or_else(|| strange(method, rest), Operation)
    }

    fn under(&self, node: usize, rest: Option<&str>, method: &Method) -> Option<u64> {
        let node = &self.nodes[node];
        let Some(rest) = rest else {
            return node.operations.iter().find(|(known, _)| known == method).map(|(_, at)| *at);
        };
        let (segment, rest) = match memchr::memchr(b'/', rest.as_bytes()) {
            Some(at) => (&rest[..at], Some(&rest[at + 1..])),
            None => (rest, None),
        };
        let word = node.words.binary_search_by_key(&segment, |(word, _)| word);
        let by_word = word.ok().and_then(|at| self.under(node.words[at].1, rest, method));
        by_word.or_else(|| {
            let parameter = node.parameter.filter(|_| !segment.is_empty())?;
            self.under(parameter, rest, method)
        })
    }

    /// How many there are.
    pub(super) const fn count(&self) -> usize {
        self.groups.len()
    }

    /// The group that the descriptions put each operation in, in their order; `None` for no limit.
    pub(super) fn groups(&self) -> impl Iterator<Item = Option<&'static str>> {
        self.groups.iter().map(|group| Some(*group).filter(|group| *group != NO_LIMIT))
    }
}

/// The method that a POST stands for.
fn overridden(fields: &HeaderMap, query: Option<&str>) -> Option<Method> {
    let named = |name: &str| match name.to_ascii_uppercase().as_str() {
        "GET" => Some(Method::GET),
        "PUT" => Some(Method::PUT),
        "PATCH" => Some(Method::PATCH),
        "DELETE" => Some(Method::DELETE),
        _ => None,
    };
    if let Some(field) = fields.get(OVERRIDE) {
        return field.to_str().ok().and_then(named);
    }
    let parameters = form_urlencoded::parse(query?.as_bytes());
    let value = parameters.into_iter().find(|(name, _)| name == "_method")?.1;
    named(&value)
}

fn strange(method: &Method, path: &str) -> Operation {
    // Its keys are always the same: nothing is gained by two shapes with one digest.
    let mut digest = DefaultHasher::new();
    method.hash(&mut digest);
    for segment in path.split('/').take(MOST_SEGMENTS) {
        if is_word(segment) { segment } else { "~" }.hash(&mut digest);
    }
    Operation(digest.finish() | STRANGE)
}

/// Whether a segment is part of an operation's name rather than of somebody's.
fn is_word(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    let is_letter = |byte: &u8| byte.is_ascii_alphabetic() || *byte == b'-' || *byte == b'_';
    let is_version = || {
        let number = bytes.strip_prefix(b"v").unwrap_or_default();
        number.first().is_some_and(u8::is_ascii_digit)
            && number.len() <= 4
            && number.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
    };
    bytes.len() <= LONGEST_WORD && (bytes.iter().all(is_letter) || is_version())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const SMALL: &str = "method\tpath\tgroup\toperation\tsummary\n\
        GET\t/v1/account/{accountId}/extension\tLight\tlist\t\n\
        GET\t/v1/account/{accountId}/extension/{extensionId}\tMedium\tread\t\n\
        POST\t/v1/account/{accountId}/extension/{extensionId}/sms\tHeavy\tsend\t\n\
        DELETE\t/v1/account/{accountId}/extension/{extensionId}/sms\tHeavy\tdelete\t\n\
        GET\t/v1/account/{accountId}/extension/search\tLight\tsearch\t\n";

    fn place(method: &str, target: &str) -> Option<usize> {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        Operations::of(SMALL).find(&method, &target.parse().unwrap(), &HeaderMap::new()).place()
    }

    #[test]
    fn a_tilde_or_any_id_fills_a_parameter_and_a_literal_beats_it() {
        assert_eq!(place("GET", "/v1/account/~/extension?page=2"), Some(0));
        assert_eq!(place("GET", "/v1/account/~/extension/~"), Some(1));
        assert_eq!(place("HEAD", "/v1/account/1/extension/2,3"), Some(1));
        assert_eq!(place("GET", "/v1/account/~/extension/search"), Some(4));
        assert_eq!(place("POST", "/v1/account/~/extension/search/sms"), Some(2), "an id after all");
        for (method, target) in [
            ("GET", "/v1/account/~/extension/7/sms"),
            ("GET", "/v1/account//extension"),
            ("GET", "/v1/account/~/extension/"),
            ("GET", "/v1/account"),
            ("OPTIONS", "*"),
        ] {
            assert_eq!(place(method, target), None, "{method} {target}");
        }
    }

    #[test]
    fn every_template_of_the_table_finds_itself() {
        let all = Operations::described();
        assert_eq!(all.groups.len(), 395);
        for (at, line) in TABLE.lines().skip(1).enumerate() {
            let mut columns = line.split('\t');
            let method = Method::from_bytes(columns.next().unwrap().as_bytes()).unwrap();
            // Braces stand for values, which no URI has.
            let path = columns.next().unwrap().replace(['{', '}'], "");
            let found = all.find(&method, &path.parse().unwrap(), &HeaderMap::new());
            assert_eq!(found.place(), Some(at), "{line}");
        }
    }

    #[test]
    fn a_post_that_stands_for_another_method_is_that() {
        let all = Operations::of(SMALL);
        let sms = "/v1/account/~/extension/~/sms";
        let mut fields = HeaderMap::new();
        let at = |target: &str, fields: &HeaderMap| {
            all.find(&Method::POST, &target.parse().unwrap(), fields).place()
        };
        assert_eq!(at(&format!("{sms}?a=1&%5fmethod=Delete"), &fields), Some(3));
        assert_eq!(at(&format!("{sms}?_method=TRACE"), &fields), Some(2));
        fields.insert(OVERRIDE, HeaderValue::from_static("delete"));
        assert_eq!(at(sms, &fields), Some(3));
        let get = all.find(&Method::GET, &"/v1/account/~/extension".parse().unwrap(), &fields);
        assert_eq!(get.place(), Some(0), "only a POST stands for others");
    }

    #[test]
    fn paths_that_nobody_describes_are_told_apart_by_their_shape() {
        let all = Operations::of(SMALL);
        let of = |path: &str| all.find(&Method::GET, &path.parse().unwrap(), &HeaderMap::new());
        let one = of("/new/v2/things/4711/parts/~");
        assert_eq!(one, of("/new/v2/things/0b9b9a3e-2f0a-4f4e-9b6a/parts/12?page=7"));
        for other in
            ["/new/v3/things/4711/parts/~", "/new/v2/things/4711", "/new/v2/wings/1/parts/2"]
        {
            assert_ne!(one, of(other), "{other}");
        }
        let post = all.find(
            &Method::POST,
            &"/new/v2/things/1/parts/2".parse().unwrap(),
            &HeaderMap::new(),
        );
        assert_ne!(one, post);
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "(/?[a-z~v1.]{0,4}){0,20}") {
            if let Ok(target) = format!("/{path}").parse() {
                Operations::of(SMALL).find(&Method::GET, &target, &HeaderMap::new());
            }
        }
    }
}
