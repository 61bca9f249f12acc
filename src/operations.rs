//! RingCentral's operations, as its OpenAPI descriptions name them. PURE.
//!
//! One table for everybody who has to know what a request means to RingCentral. It is not complete:
//! whole parts of the API (Team Messaging, Video, Webinar) have descriptions of their own.

use std::sync::LazyLock;

/// Method, path, rate-limit group, operation and summary, tab-separated, after one line of titles.
pub const TABLE: &str = include_str!("operations/operations.tsv");

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// `GET` and the like.
    pub method: &'static str,
    /// Its path, with parameters as `{name}`.
    pub path: &'static str,
    /// The rate-limit group, such as `Light`.
    pub group: &'static str,
    /// Its name, such as `readUserCallLog`. A few have several paths.
    pub name: &'static str,
    /// What it does, in a few words.
    pub summary: &'static str,
}

/// All of them, in the order of the table.
pub fn all() -> &'static [Operation] {
    static ALL: LazyLock<Vec<Operation>> = LazyLock::new(|| read(TABLE));
    &ALL
}

/// The operation that a method and a path mean. `HEAD` means what `GET` does, and a literal segment
/// beats a parameter (OpenAPI, 4.8.8.2).
pub fn find(method: &str, path: &str) -> Option<&'static Operation> {
    let method = if method == "HEAD" { "GET" } else { method };
    let fits = all().iter().filter(|it| it.method == method && leads_to(it.path, path));
    fits.min_by_key(|it| it.path.matches('{').count())
}

/// The operations of this name, in whatever case.
pub fn named(name: &str) -> impl Iterator<Item = &'static Operation> {
    all().iter().filter(move |it| it.name.eq_ignore_ascii_case(name))
}

/// The operations of this rate-limit group, in whatever case.
pub fn in_group(group: &str) -> impl Iterator<Item = &'static Operation> {
    all().iter().filter(move |it| it.group.eq_ignore_ascii_case(group))
}

/// The operation that somebody may have meant by a name that is none: by what it does ("sendSMS" for
/// "Send SMS"), else by how it is spelt.
pub fn nearest(name: &str) -> Option<&'static Operation> {
    let wanted = name.to_ascii_lowercase();
    let said = |it: &&Operation| it.summary.replace(' ', "").eq_ignore_ascii_case(name);
    all().iter().find(said).or_else(|| {
        let distance =
            |it: &Operation| strsim::damerau_levenshtein(&wanted, &it.name.to_ascii_lowercase());
        let near = all().iter().min_by_key(|it| distance(it))?;
        (distance(near) <= 1 + near.name.len() / 4).then_some(near)
    })
}

fn read(table: &'static str) -> Vec<Operation> {
    let operation = |line: &'static str| {
        let mut columns = line.split('\t');
        let mut column = || columns.next().unwrap_or_default();
        let (method, path, group) = (column(), column(), column());
        Operation { method, path, group, name: column(), summary: column() }
    };
    table.lines().skip(1).map(operation).collect()
}

fn leads_to(template: &str, path: &str) -> bool {
    let mut segments = path.split('/');
    let fits = template.split('/').all(|part| {
        let segment = segments.next();
        segment.is_some_and(|it| it == part || part.starts_with('{') && !it.is_empty())
    });
    fits && segments.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_is_found_by_its_own_path_and_name() {
        assert_eq!(all().len(), 395);
        for operation in all() {
            assert_eq!(find(operation.method, operation.path), Some(operation));
            assert!(named(operation.name).any(|it| it == operation));
            assert!(operation.name.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
        assert_eq!(in_group("heavy").count(), 80);
    }

    #[test]
    fn a_literal_beats_a_parameter_and_a_head_is_a_get() {
        let name = |method, path| find(method, path).map(|it| it.name);
        assert_eq!(
            name("GET", "/restapi/v1.0/account/~/user-role/default"),
            Some("readDefaultRole")
        );
        assert_eq!(name("HEAD", "/restapi/v1.0/account/~/user-role/7"), Some("readUserRole"));
        assert_eq!(name("GET", "/restapi/v1.0/account//user-role"), None);
        assert_eq!(name("GET", "/restapi/v1.0/account/~/user-role/7/"), None);
        assert_eq!(name("PATCH", "/restapi/v1.0/account/~/user-role"), None);
    }

    #[test]
    fn a_name_that_is_none_leads_to_the_one_that_was_meant() {
        let meant = |name| nearest(name).map(|it| it.name);
        assert_eq!(meant("sendSMS"), Some("createSMSMessage"));
        assert_eq!(meant("readUserCallLogs"), Some("readUserCallLog"));
        assert_eq!(meant("makeRingOutCall"), Some("createRingOutCall"));
        assert_eq!(meant("everything"), None);
    }
}
