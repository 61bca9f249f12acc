//! What a caller may ask RingCentral for. PURE: a request's method, target and fields go in, a verdict
//! comes out.
//!
//! What is denied is matched widely and what is allowed narrowly, because a server may read a path in
//! more ways than one: a rule of `deny` overlooks letter case, the API's version and what may hang on
//! a segment; a rule of `allow` takes its own bytes and nothing else. A path that servers are known to
//! read differently, and a request that names a second method, are refused before any rule is asked.
//! So whatever passes is one operation, and the one that was judged.
//!
//! Some requests carry others: a WebSocket of RingCentral's takes whole API requests. Whoever has a
//! policy gets none, unless a rule of `allow` names it without a wildcard.

mod carrier;
mod path;
pub mod preset;
mod review;
mod rule;
mod tree;
mod tunnel;

#[cfg(test)]
mod tests;

use std::fmt;

use http::{HeaderMap, Method, Uri};

pub use path::Oddity;
pub use review::Remark;
pub use rule::{RuleError, Verb};

use path::Segments;
use preset::Preset;
use rule::Rule;
use tree::Tree;

/// The rules of one client, or of everybody, made for matching.
#[derive(Clone, Debug)]
pub struct Policy {
    rules: Vec<Named>,
    allow: Option<Tree>,
    deny: Tree,
    counts: (usize, usize),
}

/// A policy as it is written.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// `preset`
    pub presets: Vec<String>,
    /// `allow`
    pub allow: Option<Vec<String>>,
    /// `deny`
    pub deny: Vec<String>,
}

/// A rule as it is written, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// The rule.
    pub text: String,
    /// Where it stands.
    pub origin: Source,
}

/// Where a rule stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// In `allow`.
    Allow,
    /// In `deny`.
    Deny,
    /// In the preset of this name.
    Preset(&'static str),
    /// In no configuration: it is for requests that carry others.
    Carrier,
}

/// Why a request goes no further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A rule denies it.
    #[error("it is refused by {0}")]
    Denied(Named),
    /// No rule allows it.
    #[error("it may do only what its rules allow, and none allows this")]
    NotAllowed,
    /// Besides its method it names another one, or another path.
    #[error("a request may not name another method or path than its own, as {0} does")]
    Tunnel(String),
    /// The API has no such method, and a server may take it for one that it has.
    #[error("the API has no such method: write GET, HEAD, POST, PUT, PATCH, DELETE or OPTIONS")]
    Verb,
    /// Servers may read the path in several ways.
    #[error("{0}")]
    Path(#[from] Oddity),
}

/// What is wrong with a policy as it is written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "each message says what its fields are")]
pub enum PolicyError {
    #[error("{key} has {rule:?}, {problem}")]
    Rule { key: &'static str, rule: String, problem: RuleError },
    #[error("preset {name:?} is none: {cure}")]
    Preset { name: String, cure: String },
    #[error("allow is empty, so that nothing would be allowed: name rules or remove it")]
    NothingAllowed,
    #[error("it has more than {MOST_RULES} rules: write wider ones")]
    TooMany,
}

/// More than anybody writes; presets count by their rules.
const MOST_RULES: usize = 1000;

impl Policy {
    /// Makes a policy for matching; `None` if nothing is written. What works but ought to be changed is
    /// told beside it.
    pub fn compile(written: &Written) -> Result<Option<(Self, Vec<Remark>)>, PolicyError> {
        let Written { presets, allow, deny } = written;
        let presets: Vec<&Preset> =
            presets.iter().map(|name| preset::find(name)).collect::<Result<_, _>>()?;
        if allow.as_ref().is_some_and(Vec::is_empty) {
            return Err(PolicyError::NothingAllowed);
        }
        let of_presets = |rules: fn(&Preset) -> &'static [&'static str]| -> Vec<Rule> {
            let each = |preset: &&Preset| {
                let source = Source::Preset(preset.name);
                rules(preset).iter().map(move |text| Rule::known(text, source))
            };
            presets.iter().flat_map(each).collect()
        };
        let mut allowing = parsed("allow", allow.as_deref().unwrap_or_default(), Source::Allow)?;
        let mut denying = parsed("deny", deny, Source::Deny)?;
        allowing.extend(of_presets(|preset| preset.allow));
        denying.extend(of_presets(|preset| preset.deny));
        if allowing.is_empty() && denying.is_empty() {
            return Ok(None);
        }
        if allowing.len() + denying.len() > MOST_RULES {
            return Err(PolicyError::TooMany);
        }
        let remarks = review::remarks(&allowing, &denying);
        let counts = (allowing.len(), denying.len());
        denying.extend(carrier::rules(&allowing));
        Ok(Some((Self::of(&allowing, &denying, counts), remarks)))
    }

    fn of(allowing: &[Rule], denying: &[Rule], counts: (usize, usize)) -> Self {
        let mut policy = Self { rules: Vec::new(), allow: None, deny: Tree::wide(), counts };
        for rule in denying {
            let number = policy.name(rule);
            policy.deny.add(rule, number);
        }
        for rule in allowing {
            let number = policy.name(rule);
            policy.allow.get_or_insert_with(Tree::narrow).add(rule, number);
        }
        policy
    }

    fn name(&mut self, rule: &Rule) -> u16 {
        self.rules.push(rule.named());
        u16::try_from(self.rules.len() - 1).expect("there are not so many")
    }

    /// Judges a request by the target that is sent. Says which rule allows it, where one has to.
    ///
    /// It allocates only for a refusal, and where a query is encoded twice.
    pub fn judge(
        &self,
        method: &Method,
        target: &Uri,
        fields: &HeaderMap,
    ) -> Result<Option<&Named>, Refusal> {
        if let Some(culprit) = tunnel::field(fields) {
            return Err(Refusal::Tunnel(format!("the field {culprit}")));
        }
        if target.query().is_some_and(tunnel::is_in_query) {
            return Err(Refusal::Tunnel("a parameter of the query".to_owned()));
        }
        let verb = Verb::of(method).ok_or(Refusal::Verb)?;
        let path = Segments::of(target.path())?;
        if let Some(rule) = self.deny.find(verb, &path) {
            return Err(Refusal::Denied(self.rules[usize::from(rule)].clone()));
        }
        match &self.allow {
            None => Ok(None),
            Some(allow) => {
                let rule = allow.find(verb, &path).ok_or(Refusal::NotAllowed)?;
                Ok(Some(&self.rules[usize::from(rule)]))
            }
        }
    }

    /// How many rules of the configuration and of its presets allow, and how many deny.
    pub const fn counts(&self) -> (usize, usize) {
        self.counts
    }
}

fn parsed(key: &'static str, texts: &[String], origin: Source) -> Result<Vec<Rule>, PolicyError> {
    let rule = |text: &String| {
        Rule::parse(text, origin).map_err(|problem| PolicyError::Rule {
            key,
            rule: text.clone(),
            problem,
        })
    };
    texts.iter().map(rule).collect()
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.origin {
            Source::Allow => write!(f, "\"{}\" of allow", self.text),
            Source::Deny => write!(f, "\"{}\" of deny", self.text),
            Source::Preset(name) => write!(f, "\"{}\" of preset {name}", self.text),
            Source::Carrier => {
                write!(
                    f,
                    "\"{}\": what carries other requests has to be allowed by name",
                    self.text
                )
            }
        }
    }
}
