//! Requests that carry others past any rule.
//!
//! `wstoken` opens a WebSocket, and that takes API requests as messages (RingCentral's SDKs have a
//! switch for it, `restOverWebSocket`); the proxy tunnels it unread. A batch carries requests in its
//! content. Whoever has a policy gets neither, unless a rule of `allow` names it without a wildcard.

use super::Source;
use super::rule::Rule;

const CARRIERS: [&str; 3] = [
    "* /restapi/**/wstoken/**",
    "* /restapi/{version}/batch/**",
    "* /restapi/{version}/batch-requests/**",
];

/// What is denied besides, where these rules allow.
pub(super) fn rules(allowing: &[Rule]) -> impl Iterator<Item = Rule> {
    let all = CARRIERS.iter().map(|text| Rule::known(text, Source::Carrier));
    all.filter(|carrier| !allowing.iter().any(|rule| names(rule, carrier)))
}

/// Whether a rule allows something that carries requests.
pub(super) fn is_named_by(rule: &Rule) -> bool {
    CARRIERS.iter().any(|text| names(rule, &Rule::known(text, Source::Carrier)))
}

fn names(rule: &Rule, carrier: &Rule) -> bool {
    let is_literal = rule.patterns.iter().all(super::rule::Pattern::is_literal);
    rule.source == Source::Allow && is_literal && carrier.covers(rule)
}
