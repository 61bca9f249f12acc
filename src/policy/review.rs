//! What is odd about rules that work.

use super::rule::{Part, Pattern, Rule};
use super::{Named, Source, carrier};
use crate::operations;

/// Something that ought to be changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum Remark {
    #[error("{0} is no operation that is known here: is the path misspelt?")]
    Stranger(Named),
    #[error("{rule} allows nothing, because {by} denies all of it")]
    Dead { rule: Named, by: Named },
    #[error("{rule} says nothing that {by} does not say as well")]
    Needless { rule: Named, by: Named },
    #[error("{0} lets API requests pass that no rule sees: what it opens carries others")]
    Carrier(Named),
}

/// About the rules of a configuration; those of presets are as they should be.
pub(super) fn remarks(allowing: &[Rule], denying: &[Rule]) -> Vec<Remark> {
    let denying: Vec<Rule> = denying.iter().map(Rule::widened).collect();
    let of_allow = allowing.iter().enumerate().filter(|(_, rule)| rule.source == Source::Allow);
    let of_allow = of_allow.flat_map(|(index, rule)| {
        let carries = carrier::is_named_by(rule).then(|| Remark::Carrier(rule.named()));
        let odd = || stranger(rule).or_else(|| dead(rule, &denying));
        [carries.or_else(odd), needless(index, allowing)]
    });
    let of_deny = denying.iter().enumerate().filter(|(_, rule)| rule.source == Source::Deny);
    let of_deny = of_deny.flat_map(|(index, rule)| [stranger(rule), needless(index, &denying)]);
    of_allow.chain(of_deny).flatten().collect()
}

/// Only in the parts of the API that the table knows.
fn stranger(rule: &Rule) -> Option<Remark> {
    let [pattern] = &rule.patterns[..] else { return None };
    let is_known_part = match &pattern.parts[..] {
        [Part::Literal(root), Part::Literal(_) | Part::Any, Part::Literal(_), ..] => {
            &**root == "restapi"
        }
        _ => false,
    };
    let meets_one = || operations::all().iter().any(|it| pattern.meets(&Pattern::of(it)));
    (is_known_part && !meets_one()).then(|| Remark::Stranger(rule.named()))
}

fn dead(rule: &Rule, denying: &[Rule]) -> Option<Remark> {
    let widened = rule.widened();
    let killers = widened.patterns.iter().map(|pattern| {
        denying.iter().find(|other| other.patterns.iter().any(|it| it.covers(pattern)))
    });
    let killers: Option<Vec<&Rule>> = killers.collect();
    let by = killers?.first()?.named();
    Some(Remark::Dead { rule: rule.named(), by })
}

fn needless(index: usize, rules: &[Rule]) -> Option<Remark> {
    let rule = &rules[index];
    let by = rules.iter().enumerate().find(|(other_index, other)| {
        let is_first = *other_index < index || other.source != rule.source;
        *other_index != index && other.covers(rule) && (is_first || !rule.covers(other))
    });
    by.map(|(_, by)| Remark::Needless { rule: rule.named(), by: by.named() })
}
