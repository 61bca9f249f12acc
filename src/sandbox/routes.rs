//! Which operation a method and a path mean.
//!
//! Pure: a tree over the path templates of the OpenAPI descriptions and of the examples. A literal
//! segment beats a parameter, as in OpenAPI (§4.8.8.2).

use std::collections::HashMap;

/// An operation of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) template: &'static str,
    /// The rate-limit group.
    pub(super) group: &'static str,
    /// The operation's name, such as `readExtension`; empty where only an example is known.
    pub(super) operation: &'static str,
}

/// What a method and a path lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Match {
    /// The operation with this index.
    Route(usize),
    /// The path is known, but not with this method.
    OtherMethods,
    /// The path is unknown.
    Nothing,
}

/// All operations.
#[derive(Debug, Default)]
pub(super) struct Routes {
    routes: Vec<Route>,
    root: Node,
}

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<&'static str, Node>,
    parameter: Option<Box<Node>>,
    methods: Vec<(&'static str, usize)>,
}

impl Routes {
    /// Reads the table of operations: method, path, group, operation and summary, tab-separated.
    pub(super) fn read(table: &'static str) -> Self {
        let mut routes = Self::default();
        for line in table.lines().skip(1) {
            let mut columns = line.split('\t');
            let mut column = || columns.next().unwrap_or_default();
            let (method, template, group, operation) = (column(), column(), column(), column());
            routes.add(Route { method, template, group, operation });
        }
        routes
    }

    /// Adds an operation unless its method and template are there already; answers its index.
    pub(super) fn add(&mut self, route: Route) -> usize {
        let mut node = &mut self.root;
        for segment in segments(route.template) {
            node = if segment.starts_with('{') {
                node.parameter.get_or_insert_default()
            } else {
                node.literal.entry(segment).or_default()
            };
        }
        if let Some((_, index)) = node.methods.iter().find(|(method, _)| *method == route.method) {
            return *index;
        }
        let index = self.routes.len();
        node.methods.push((route.method, index));
        self.routes.push(route);
        index
    }

    /// Which operation a request means. `HEAD` means what `GET` does.
    pub(super) fn find(&self, method: &str, path: &str) -> Match {
        let method = if method == "HEAD" { "GET" } else { method };
        let path: Vec<&str> = segments(path).collect();
        let mut known = false;
        let mut fits = |node: &Node| {
            known |= !node.methods.is_empty();
            node.methods.iter().find(|(name, _)| *name == method).map(|(_, index)| *index)
        };
        match self.root.find(&path, &mut fits) {
            Some(index) => Match::Route(index),
            None if known => Match::OtherMethods,
            None => Match::Nothing,
        }
    }

    pub(super) fn get(&self, index: usize) -> &Route {
        &self.routes[index]
    }

    /// The operation that reads one member of the collection `template`, if there is one.
    pub(super) fn member_of(&self, template: &str) -> Option<usize> {
        let depth = segments(template).count() + 1;
        self.routes.iter().position(|route| {
            route.method == "GET"
                && route.template.strip_prefix(template).is_some_and(|rest| rest.starts_with("/{"))
                && segments(route.template).count() == depth
        })
    }
}

impl Node {
    fn find<T>(&self, path: &[&str], fits: &mut impl FnMut(&Self) -> Option<T>) -> Option<T> {
        let Some((first, rest)) = path.split_first() else { return fits(self) };
        let literal = self.literal.get(first).and_then(|node| node.find(rest, fits));
        literal.or_else(|| {
            let node = self.parameter.as_ref().filter(|_| !first.is_empty())?;
            node.find(rest, fits)
        })
    }
}

fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').unwrap_or(path).split('/')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TABLE: &str = "method\tpath\tgroup\toperation\tsummary\n\
        GET\t/v1/account/{accountId}/extension\tLight\tlistExtensions\t\n\
        GET\t/v1/account/{accountId}/extension/{extensionId}\tMedium\treadExtension\t\n\
        POST\t/v1/account/{accountId}/extension/{extensionId}/sms\tHeavy\tcreateSMS\t\n\
        GET\t/v1/account/{accountId}/extension/search\tLight\tsearch\t\n";

    #[test]
    fn a_tilde_or_any_id_fills_a_parameter_and_a_literal_beats_it() {
        let routes = Routes::read(TABLE);
        let find = |method, path| routes.find(method, path);
        assert_eq!(find("GET", "/v1/account/~/extension/~"), Match::Route(1));
        assert_eq!(find("HEAD", "/v1/account/1/extension/2,3"), Match::Route(1));
        assert_eq!(find("GET", "/v1/account/~/extension/search"), Match::Route(3));
        assert_eq!(find("POST", "/v1/account/~/extension/7/sms"), Match::Route(2));
        assert_eq!(find("GET", "/v1/account/~/extension/7/sms"), Match::OtherMethods);
        assert_eq!(find("GET", "/v1/account//extension"), Match::Nothing);
        assert_eq!(find("GET", "/v1/account/~/extension/"), Match::Nothing);
        assert_eq!(routes.member_of("/v1/account/{accountId}/extension"), Some(1));
    }

    #[test]
    fn every_template_of_the_real_table_finds_itself() {
        let routes = Routes::read(crate::operations::TABLE);
        assert_eq!(routes.routes.len(), 395);
        for (index, route) in routes.routes.iter().enumerate() {
            assert_eq!(routes.find(route.method, route.template), Match::Route(index), "{route:?}");
        }
    }

    proptest! {
        #[test]
        fn no_path_makes_it_panic(path in "(/?[a-z~{}.]{0,4}){0,8}") {
            Routes::read(TABLE).find("GET", &path);
        }
    }
}
