//! `proxy.example.toml` shows every key, and every default as it is.

use super::*;
use crate::config::{Config, keys};

const EXAMPLE: &str = include_str!("../../../proxy.example.toml");

/// The example's application and identity, and nothing else.
const BARE: &str = r#"
[application.crm]
client_id = "your-client-id"
client_secret = { env = "RC_APP_CLIENT_SECRET" }
[identity.sales]
jwt = { env = "RC_USER_JWT" }
"#;

/// Lines that are commented out but would be TOML: `# key = value` and `# [table]`.
pub(super) fn commented_out(line: &str) -> Option<&str> {
    let line = line.strip_prefix("# ")?;
    let (key, _) = line.split_once(" = ").unwrap_or((line, ""));
    let is_key = key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    (is_key || line.starts_with('[')).then_some(line)
}

fn with_secrets(name: &str) -> Option<String> {
    if name.starts_with("RC_") { Some("a-secret".to_owned()) } else { environment(name) }
}

fn everything(toml: &str) -> String {
    let source = ConfigSource::Text(toml.to_owned());
    let (settings, warnings) = Settings::load(&source, Overrides::default(), &with_secrets)
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    format!("{settings:#?} {warnings:#?}")
}

#[test]
fn the_example_shows_the_defaults() {
    assert_eq!(everything(EXAMPLE), everything(BARE));
}

#[test]
fn the_example_shows_every_key_in_its_table() {
    let shown: String = EXAMPLE
        .lines()
        .map(|line| commented_out(line).unwrap_or(line))
        .fold(String::new(), |all, line| all + line + "\n");
    // Everything at once: too many credentials for settings, but each key known and of its type.
    Config::parse(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    let table: toml::Table = toml::from_str(&shown).unwrap();
    for (path, keys) in keys::tables() {
        let name = |part: &&str| match (part, path[0]) {
            (&"*", "application") => "crm".to_owned(),
            (&"*", "client") => "billing".to_owned(),
            (&"*", "host") => "media".to_owned(),
            (&"*", _) => "sales".to_owned(),
            (part, _) => (*part).to_owned(),
        };
        let place = path.iter().map(name).fold(&table, |table, part| {
            table[&part].as_table().unwrap_or_else(|| panic!("{part} is no table"))
        });
        for key in keys {
            assert!(place.contains_key(*key), "[{}] of the example lacks {key}", path.join("."));
        }
    }
}

#[test]
fn each_key_of_the_example_has_its_line_of_why() {
    let mut before = "";
    for line in EXAMPLE.lines() {
        let key = commented_out(line).unwrap_or(line);
        if key.contains(" = ") && !key.starts_with('#') {
            let is_said = before.starts_with("# ") && commented_out(before).is_none();
            assert!(is_said, "nothing says why before: {line}");
        }
        before = line;
    }
}
