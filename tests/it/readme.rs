//! The README against the code: what it lists exists, what exists is listed, what it shows parses.

use std::collections::BTreeSet;
use std::fs;

use clap::Parser;
use ringbearer::cli::Cli;
use ringbearer::settings::{ConfigSource, Overrides, Settings};
use ringbearer::telemetry::chain;

use crate::authority::Authority;

const README: &str = include_str!("../../README.md");
const ERRORS: &str = concat!(
    include_str!("../../src/proxy/error.rs"),
    include_str!("../../src/proxy/facade/fault.rs"),
    include_str!("../../src/proxy/malformed.rs"),
);
const ADMIN_ERRORS: &str = include_str!("../../src/admin/error.rs");
const REPLAY: &str = include_str!("../../src/proxy/replay.rs");

#[test]
fn every_error_code_is_explained_and_every_explained_one_exists() {
    let mut exist = codes(ERRORS);
    exist.extend(codes(ADMIN_ERRORS));
    assert_eq!(codes(README), exist);
}

#[test]
fn every_reason_against_a_replay_is_explained() {
    let values = REPLAY.lines().filter_map(|line| line.split_once("=> \"no; "));
    let values: Vec<_> = values.map(|(_, value)| value.trim_end_matches("\",")).collect();
    assert_eq!(values.len(), 6, "{values:?}");
    for value in values {
        assert!(README.contains(&format!("`no; {value}`")), "{value}");
    }
}

#[test]
fn every_configuration_is_one() {
    let shown = blocks("toml");
    assert!(!shown.is_empty());
    // Those that name certificates find them beside themselves.
    let authority = Authority::new();
    let server = authority.server();
    let beside = |name: &str| server.chain.with_file_name(name);
    fs::rename(&server.chain, beside("proxy.pem")).unwrap();
    fs::rename(&server.key, beside("proxy.key")).unwrap();
    fs::rename(authority.file(), beside("client-ca.pem")).unwrap();
    for toml in shown {
        let environment = |_: &str| Some("/tmp".to_owned());
        let file = beside("proxy.toml");
        fs::write(&file, &toml).unwrap();
        let source = ConfigSource::File(file);
        if let Err(error) = Settings::load(&source, Overrides::default(), &environment) {
            panic!("{}\n{toml}", chain(&error));
        }
    }
}

#[test]
fn each_way_to_be_known_has_a_configuration_of_its_own() {
    let section = README.split("## Who may call").nth(1).unwrap().split("\n## ").next().unwrap();
    let shown = section.split("```toml\n").skip(1).map(|part| part.split("```").next().unwrap());
    let ways = ["key_sha256", "tls_subject", "uid", "networks"];
    let has =
        |toml: &str, way: &&str| toml.lines().any(|line| line.starts_with(&format!("{way} =")));
    let found: Vec<Vec<_>> =
        shown.map(|toml| ways.into_iter().filter(|way| has(toml, way)).collect()).collect();
    assert_eq!(found, ways.map(|way| vec![way]));
}

#[test]
fn every_command_line_is_understood() {
    let shown: Vec<_> = blocks("sh").iter().flat_map(|block| commands(block)).collect();
    assert!(shown.len() > 5, "{shown:?}");
    for words in shown {
        if let Err(error) = Cli::try_parse_from(&words) {
            panic!("{words:?}: {error}");
        }
    }
}

fn codes(text: &str) -> BTreeSet<&str> {
    text.match_indices("RBR-")
        .filter_map(|(at, _)| text.get(at..at + 7))
        .filter(|code| code[4..].bytes().all(|byte| byte.is_ascii_digit()))
        .collect()
}

/// What stands between ```` ```language ```` and the next fence.
fn blocks(language: &str) -> Vec<String> {
    blocks_of(README, language)
}

/// The same of another text.
pub(crate) fn blocks_of(text: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    let parts = text.split(&opening).skip(1);
    parts.map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

/// What a shell takes for the words of a line: what stands in quotation marks is one.
fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate().flat_map(|(number, part)| {
        let is_quoted = number % 2 == 1;
        let words: Vec<_> = if is_quoted { vec![part] } else { part.split_whitespace().collect() };
        words.into_iter().map(str::to_owned)
    });
    parts.collect()
}

/// The lines that run this program, in words: without comments and without assignments before it.
pub(crate) fn commands(block: &str) -> Vec<Vec<String>> {
    let joined = block.replace("\\\n", " ");
    let line = |line: &str| {
        let line = line.split(" #").next().unwrap();
        let line = line.replace("cargo run --release --", "ringbearer");
        let words = words(&line).into_iter().skip_while(|word| word.contains('='));
        let words: Vec<_> = words.collect();
        (words.first().is_some_and(|first| first == "ringbearer")).then_some(words)
    };
    joined.lines().filter_map(line).collect()
}
