//! Rules as a tree over the segments of paths: one walk finds the rule that fits, without allocation.

use super::path::Segments;
use super::rule::{Part, Rule, Verb, Verbs};

/// A tree of rules.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    nodes: Vec<Node>,
    is_wide: bool,
}

#[derive(Clone, Debug, Default)]
struct Node {
    literals: Vec<Literal>,
    /// After any one segment.
    any: Option<u32>,
    /// After any segments, or none.
    deep: Option<u32>,
    /// For a path that ends here.
    here: Ends,
    /// For a path that ends here or anywhere below.
    below: Ends,
}

#[derive(Clone, Debug)]
struct Literal {
    text: Box<[u8]>,
    /// In a wide tree, a number: an id, which may be written in other ways.
    is_id: bool,
    next: u32,
}

/// The first rule for each method.
#[derive(Clone, Debug, Default)]
struct Ends([Option<u16>; Verb::COUNT]);

impl Tree {
    /// For what is allowed: segments fit to the letter.
    pub(super) fn narrow() -> Self {
        Self { nodes: vec![Node::default()], is_wide: false }
    }

    /// For what is denied: whatever a server might take for the same fits.
    pub(super) fn wide() -> Self {
        Self { nodes: vec![Node::default()], is_wide: true }
    }

    /// Adds a rule, of which `number` is what will be found.
    pub(super) fn add(&mut self, rule: &Rule, number: u16) {
        let widened;
        let rule = if self.is_wide {
            widened = rule.widened();
            &widened
        } else {
            rule
        };
        for pattern in &rule.patterns {
            let (parts, is_below) = match &pattern.parts[..] {
                [parts @ .., Part::Deep] => (parts, true),
                parts => (parts, false),
            };
            let at = parts.iter().fold(0, |at, part| self.step(at, part));
            let node = &mut self.nodes[at];
            let ends = if is_below { &mut node.below } else { &mut node.here };
            ends.add(pattern.verbs, number);
        }
    }

    /// The number of a rule that fits, the more literal one first.
    pub(super) fn find(&self, verb: Verb, path: &Segments<'_>) -> Option<u16> {
        self.find_below(0, 0, verb, path)
    }

    fn find_below(&self, at: usize, index: usize, verb: Verb, path: &Segments<'_>) -> Option<u16> {
        let node = &self.nodes[at];
        if index == path.count() {
            let here = if path.is_open && !self.is_wide { None } else { node.here.of(verb) };
            if here.is_some() {
                return here;
            }
        } else {
            let segment = path.get(index);
            let next = |next: u32| self.find_below(next as usize, index + 1, verb, path);
            let literals = node.literals.iter();
            let mut fitting = literals.filter(|literal| literal.fits(segment, self.is_wide));
            let found = fitting.find_map(|literal| next(literal.next));
            if let Some(found) = found.or_else(|| next(node.any?)) {
                return Some(found);
            }
        }
        if let Some(deep) = node.deep {
            let from = |from| self.find_below(deep as usize, from, verb, path);
            if let Some(found) = (index..=path.count()).find_map(from) {
                return Some(found);
            }
        }
        node.below.of(verb)
    }

    fn step(&mut self, at: usize, part: &Part) -> usize {
        let new = u32::try_from(self.nodes.len()).expect("rules are few");
        let is_wide = self.is_wide;
        let node = &mut self.nodes[at];
        let next = match part {
            Part::Any => *node.any.get_or_insert(new),
            Part::Deep => *node.deep.get_or_insert(new),
            Part::Literal(text) => {
                let known = node.literals.iter().find(|it| *it.text == *text.as_bytes());
                let known = known.map(|it| it.next);
                if known.is_none() {
                    node.literals.push(Literal::new(text, is_wide, new));
                }
                known.unwrap_or(new)
            }
        };
        if next == new {
            self.nodes.push(Node::default());
        }
        next as usize
    }
}

impl Literal {
    fn new(text: &str, is_wide: bool, next: u32) -> Self {
        let is_id = is_wide && text.bytes().all(|byte| byte.is_ascii_digit());
        Self { text: text.as_bytes().into(), is_id, next }
    }

    #[inline]
    fn fits(&self, segment: &[u8], is_wide: bool) -> bool {
        if is_wide { self.fits_widely(segment) } else { *self.text == *segment }
    }

    /// Letter case does not count, nor what hangs on a name (`sms.json`). An id is meant by `~`, by a
    /// list and by whatever else is no plain number, too.
    #[inline]
    fn fits_widely(&self, segment: &[u8]) -> bool {
        if self.is_id {
            let bare = |digits: &[u8]| digits.iter().position(|byte| *byte != b'0');
            let (ours, theirs) = (bare(&self.text), bare(segment));
            return segment.iter().any(|byte| !byte.is_ascii_digit())
                || ours.map(|at| &self.text[at..]) == theirs.map(|at| &segment[at..]);
        }
        // Nearly every name is told from another by its first letter.
        if segment[0].to_ascii_lowercase() != self.text[0] {
            return false;
        }
        let Some((name, rest)) = segment.split_at_checked(self.text.len()) else { return false };
        let is_part_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        name.eq_ignore_ascii_case(&self.text) && !rest.first().is_some_and(is_part_of_name)
    }
}

impl Ends {
    fn add(&mut self, verbs: Verbs, number: u16) {
        for verb in Verb::ALL {
            if verbs.include(verb) {
                self.0[verb as usize].get_or_insert(number);
            }
        }
    }

    fn of(&self, verb: Verb) -> Option<u16> {
        self.0[verb as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Source;

    fn tree(mut tree: Tree, rules: &[&str]) -> Tree {
        for (number, text) in rules.iter().enumerate() {
            let rule = Rule::parse(text, Source::Allow).unwrap();
            tree.add(&rule, u16::try_from(number).unwrap());
        }
        tree
    }

    fn find(tree: &Tree, verb: Verb, path: &str) -> Option<u16> {
        tree.find(verb, &Segments::of(path).unwrap())
    }

    #[test]
    fn what_is_allowed_fits_to_the_letter() {
        let tree = tree(
            Tree::narrow(),
            &["GET /a/{b}/c", "POST /a/x", "GET /a/x/**", "DELETE /l/*", "PUT /**/end", "GET /"],
        );
        for (verb, path, expected) in [
            (Verb::Get, "/a/1/c", Some(0)),
            (Verb::Head, "/a/1/c", Some(0)),
            (Verb::Post, "/a/1/c", None),
            (Verb::Get, "/a/x/c", Some(2)),
            (Verb::Get, "/a/x", Some(2)),
            (Verb::Get, "/a/x/", Some(2)),
            (Verb::Get, "/a/x/y/z", Some(2)),
            (Verb::Post, "/a/x", Some(1)),
            (Verb::Post, "/a/x/", None),
            (Verb::Post, "/A/x", None),
            (Verb::Post, "/a/x.json", None),
            (Verb::Get, "/a/1/c/", None),
            (Verb::Get, "/a/1/c/d", None),
            (Verb::Delete, "/l/1", Some(3)),
            (Verb::Delete, "/l", None),
            (Verb::Delete, "/l/1/2", None),
            (Verb::Put, "/end", Some(4)),
            (Verb::Put, "/a/b/end", Some(4)),
            (Verb::Put, "/end/end", Some(4)),
            (Verb::Put, "/end/x", None),
            (Verb::Get, "/", Some(5)),
        ] {
            assert_eq!(find(&tree, verb, path), expected, "{verb:?} {path}");
        }
    }

    #[test]
    fn what_is_denied_fits_whatever_may_mean_the_same() {
        let tree = tree(
            Tree::wide(),
            &["POST /restapi/v1.0/account/~/sms", "* /x/101/**", "GET /**/recordings/**"],
        );
        for (verb, path, expected) in [
            (Verb::Post, "/restapi/v1.0/account/~/sms", Some(0)),
            (Verb::Post, "/RestApi/v2/account/123/SMS/", Some(0)),
            (Verb::Post, "/restapi/v1.0/account/~/sms.json", Some(0)),
            (Verb::Post, "/restapi/v1.0/account/~/sms+", Some(0)),
            (Verb::Post, "/restapi/v1.0/account/~/sms%2C", Some(0)),
            (Verb::Post, "/restapi/v1.0/account/~/sms-x", None),
            (Verb::Post, "/restapi/v1.0/account/~/sms/x", None),
            (Verb::Get, "/restapi/v1.0/account/~/sms", None),
            (Verb::Put, "/x/101", Some(1)),
            (Verb::Put, "/x/00101/y", Some(1)),
            (Verb::Put, "/x/~/y", Some(1)),
            (Verb::Put, "/x/7,101/y", Some(1)),
            (Verb::Put, "/x/1010/y", None),
            (Verb::Get, "/a/b/Recordings", Some(2)),
            (Verb::Get, "/recordings/1/content", Some(2)),
            (Verb::Delete, "/recordings/1/content", None),
        ] {
            assert_eq!(find(&tree, verb, path), expected, "{verb:?} {path}");
        }
    }
}
