//! README.md and `docs/` against the code: what they list exists, what exists is listed, what they show parses,
//! and where they lead there is something.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use http::StatusCode;
use ringbearer::cli::Cli;
use ringbearer::settings::{ConfigSource, Overrides, Settings};
use ringbearer::telemetry::chain;

use crate::authority::Authority;
use crate::threats;

const README: &str = include_str!("../../README.md");
const CALLERS: &str = include_str!("../../docs/callers.md");
const ERRORS_PAGE: &str = include_str!("../../docs/errors.md");
const REPLAY_PAGE: &str = include_str!("../../docs/replay.md");
const LIMITS_PAGE: &str = include_str!("../../docs/limits.md");
const ERRORS: &str = concat!(
    include_str!("../../src/proxy/error.rs"),
    include_str!("../../src/proxy/facade/fault.rs"),
    include_str!("../../src/proxy/malformed.rs"),
    include_str!("../../src/admin/error.rs"),
);
const RESOURCES: &str = include_str!("../../src/admin/resource.rs");
const OPERATION: &str = include_str!("../../docs/operation.md");
const REPLAY: &str = include_str!("../../src/proxy/replay.rs");
const LIMITS: &str = include_str!("../../src/metrics/limits.rs");
const CRATE: &str = include_str!("../../src/lib.rs");

#[test]
fn every_error_code_is_explained_with_its_status_and_cure() {
    let exist = statuses(ERRORS);
    assert_eq!(codes(ERRORS), exist.keys().copied().collect(), "each stands beside its status");
    let mut explained = BTreeMap::new();
    for row in ERRORS_PAGE.lines().filter(|line| line.starts_with("| `RBR-")) {
        let cells: Vec<_> = row.trim_matches(['|', ' ']).split(" | ").collect();
        let [code, status, meaning, cure] = cells[..] else { panic!("{row}") };
        assert!(meaning.len() > 5 && cure.len() > 5, "{row}");
        explained.insert(code.trim_matches('`'), status.parse().unwrap());
    }
    assert_eq!(explained, exist);
    for (name, page) in pages() {
        let unknown: Vec<_> =
            codes(&page).into_iter().filter(|it| !exist.contains_key(it)).collect();
        assert_eq!(unknown, Vec::<&str>::new(), "{name}");
    }
}

#[test]
fn every_resource_for_operators_is_listed() {
    let table = OPERATION.split_once("| request | answer |\n|---|---|\n").unwrap().1;
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let first = rows.map(|row| row.split(" | ").next().unwrap());
    let listed = first.flat_map(quoted).filter_map(|request| {
        let path = request.split_once(" /")?.1.split(['?', '/']).next()?;
        Some(path.to_owned())
    });
    let listed: BTreeSet<_> = listed.collect();
    let code = RESOURCES.split("#[cfg(test)]").next().unwrap();
    let exist = code.lines().filter_map(|line| line.trim().strip_prefix("(\""));
    let exist: BTreeSet<_> = exist.map(|rest| rest.split('"').next().unwrap().to_owned()).collect();
    assert!(exist.len() >= 8, "{exist:?}");
    assert_eq!(listed, exist);
}

#[test]
fn every_reason_against_a_replay_is_explained() {
    let values = REPLAY.lines().filter_map(|line| line.split_once("=> \"no; "));
    let values: Vec<_> = values.map(|(_, value)| value.trim_end_matches("\",")).collect();
    assert_eq!(values.len(), 6, "{values:?}");
    for value in values {
        assert!(REPLAY_PAGE.contains(&format!("| `no; {value}` |")), "{value}");
    }
}

#[test]
fn every_limit_has_its_row() {
    let labels = LIMITS.lines().filter_map(|line| line.trim().strip_prefix("Self::"));
    let labels = labels.filter_map(|line| line.split_once(" => \""));
    let labels: BTreeSet<_> = labels.map(|(_, label)| label.trim_end_matches("\",")).collect();
    let table = LIMITS_PAGE.split_once("| then | `limit` |\n").unwrap().1;
    let rows = table.lines().take_while(|line| line.starts_with('|'));
    let last = rows.filter_map(|row| row.trim_end_matches(" |").rsplit_once(" | "));
    let shown: BTreeSet<_> = last.flat_map(|(_, cell)| quoted(cell)).collect();
    assert_eq!(shown, labels);
}

#[test]
fn every_command_is_listed() {
    let section = README.split("\n## Commands\n").nth(1).unwrap();
    let listed = section.split_once("`ringbearer help").unwrap().0;
    let listed: BTreeSet<_> = quoted(listed).collect();
    let command = Cli::command();
    let exist: BTreeSet<_> = command.get_subcommands().map(clap::Command::get_name).collect();
    assert_eq!(listed, exist);
    let row = CRATE.lines().find(|line| line.starts_with("//! | [`cli`]")).unwrap();
    let in_map: BTreeSet<_> = quoted(row).collect();
    for name in exist {
        assert!(in_map.contains(name), "the crate map lacks the command {name}");
    }
}

#[test]
fn the_crate_map_has_every_room_and_no_other() {
    let map = CRATE.split_once("//! | module |").unwrap().1;
    let rows: Vec<_> = map.lines().skip(1).take_while(|line| line.starts_with("//! |")).collect();
    let mut named = BTreeSet::new();
    for row in &rows[1..] {
        for name in quoted(row.trim_start_matches("//! | ").split(" | ").next().unwrap()) {
            let file = source(name.trim_matches(['[', ']', '`']));
            assert!(
                file.exists(),
                "the crate map names {name}, and there is no {}",
                file.display()
            );
        }
        named.extend(quoted(row).map(|name| name.trim_matches(['[', ']', '`']).to_owned()));
    }
    let modules = CRATE.lines().filter_map(|line| {
        let module = line.trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(module.trim_end_matches(';'))
    });
    for module in modules {
        assert!(named.contains(module), "the crate map lacks {module}");
    }
    // Each of these has files that nobody finds by the name of their room alone.
    let rooms = [
        "admin", "audit", "login", "oauth", "policy", "proxy", "server", "service", "store",
        "token", "upstream",
    ];
    for room in rooms {
        for file in files(&root().join("src").join(room)) {
            let is_named = named.contains(&format!("{room}::{file}"))
                || rows
                    .iter()
                    .any(|row| row.contains(room) && quoted(row).any(|name| name == file));
            assert!(is_named || file == "tests", "the crate map lacks {room}::{file}");
        }
    }
}

/// Where a module is.
fn source(module: &str) -> PathBuf {
    root().join(format!("src/{}.rs", module.replace("::", "/")))
}

fn files(of: &Path) -> Vec<String> {
    let names = fs::read_dir(of).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| Some(name.to_str()?.strip_suffix(".rs")?.to_owned())).collect()
}

#[test]
fn every_configuration_is_one() {
    // Those that name certificates find them beside themselves.
    let authority = Authority::new();
    let server = authority.server();
    let beside = |name: &str| server.chain.with_file_name(name);
    fs::rename(&server.chain, beside("proxy.pem")).unwrap();
    fs::rename(&server.key, beside("proxy.key")).unwrap();
    fs::rename(authority.file(), beside("client-ca.pem")).unwrap();
    let mut shown = 0;
    for (name, page) in pages() {
        // That one's name places of a server; `packaging` loads it.
        if name == "docs/deployment.md" {
            continue;
        }
        for toml in blocks_of(&page, "toml") {
            let environment = |_: &str| Some("/tmp".to_owned());
            let file = beside("proxy.toml");
            fs::write(&file, &toml).unwrap();
            let source = ConfigSource::File(file);
            if let Err(error) = Settings::load(&source, Overrides::default(), &environment) {
                panic!("{name}: {}\n{toml}", chain(&error));
            }
            shown += 1;
        }
    }
    assert!(shown > 8, "{shown}");
}

#[test]
fn each_way_to_be_known_has_a_configuration_of_its_own() {
    let section = CALLERS.split("## Who may call").nth(1).unwrap().split("\n## ").next().unwrap();
    let shown = blocks_of(section, "toml");
    let ways = ["key_sha256", "tls_subject", "uid", "networks"];
    let has =
        |toml: &str, way: &&str| toml.lines().any(|line| line.starts_with(&format!("{way} =")));
    let found: Vec<Vec<_>> =
        shown.iter().map(|toml| ways.into_iter().filter(|way| has(toml, way)).collect()).collect();
    assert_eq!(found, ways.map(|way| vec![way]));
}

#[test]
fn every_command_line_is_understood() {
    let mut shown = 0;
    for (name, page) in pages() {
        for words in blocks_of(&page, "sh").iter().flat_map(|block| commands(block)) {
            if let Err(error) = Cli::try_parse_from(&words) {
                panic!("{name}: {words:?}: {error}");
            }
            shown += 1;
        }
    }
    assert!(shown > 20, "{shown}");
}

#[test]
fn every_link_leads_somewhere() {
    let mut followed = 0;
    for (name, page) in pages() {
        for target in page.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if target.contains("://") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let here = root().join(&name);
            let file = if path.is_empty() { here } else { here.with_file_name(path) };
            // From docs/ to the root.
            let text = fs::read(&file).unwrap_or_else(|_| panic!("{name} leads to {target}"));
            if !anchor.is_empty() {
                let text = String::from_utf8(text).unwrap();
                assert!(anchors(&text).contains(anchor), "{name} leads to {target}");
            }
            followed += 1;
        }
    }
    assert!(followed > 40, "{followed}");
}

#[test]
fn every_page_is_found_from_the_readme() {
    let pages = pages();
    let mut found = BTreeSet::from(["README.md".to_owned()]);
    for (name, _) in &pages {
        let is_led_to = README.contains(&format!("]({name})"));
        // A page of a page is enough for what has grown out of one.
        let of_another = pages.iter().any(|(other, text)| {
            let file = name.trim_start_matches("docs/");
            other != name && other.starts_with("docs/") && text.contains(&format!("]({file})"))
        });
        if is_led_to || of_another {
            found.insert(name.clone());
        }
    }
    assert_eq!(found, pages.iter().map(|(name, _)| name.clone()).collect());
}

#[test]
fn every_test_that_is_named_exists() {
    let mut named = 0;
    for (name, page) in pages() {
        // That one has a test of its own.
        if name == "docs/threats.md" {
            continue;
        }
        for test in quoted(&page.replace("```", "")) {
            let of_it = test.split_once("::").is_some_and(|(module, function)| {
                !function.contains(['(', ' ', ':'])
                    && root().join(format!("tests/it/{module}.rs")).exists()
            });
            let elsewhere = test.starts_with("src/") && test.contains("/tests/");
            if of_it || elsewhere {
                threats::assert_exists(test);
                named += 1;
            }
        }
    }
    assert!(named > 80, "{named}");
}

/// Every page by its path, and its text.
fn pages() -> Vec<(String, String)> {
    let mut names = vec!["README.md".to_owned(), "SECURITY.md".to_owned()];
    for entry in fs::read_dir(root().join("docs")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        names.extend(name.strip_suffix(".md").map(|page| format!("docs/{page}.md")));
    }
    names.sort();
    let read = |name: String| {
        let text = fs::read_to_string(root().join(&name)).unwrap();
        (name, text)
    };
    names.into_iter().map(read).collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// What headings are called in a link.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

fn codes(text: &str) -> BTreeSet<&str> {
    text.match_indices("RBR-")
        .filter_map(|(at, _)| text.get(at..at + 7))
        .filter(|code| code[4..].bytes().all(|byte| byte.is_ascii_digit()))
        .collect()
}

/// The codes that stand beside a status: `(StatusCode::NOT_FOUND, "RBR-…")`.
fn statuses(source: &str) -> BTreeMap<&str, u16> {
    let names: BTreeMap<_, _> = (400..600)
        .filter_map(|number| {
            let name = StatusCode::from_u16(number).ok()?.canonical_reason()?;
            Some((name.to_uppercase().replace([' ', '-'], "_"), number))
        })
        .collect();
    let pairs = source.split("(StatusCode::").skip(1).filter_map(|rest| {
        let (name, rest) = rest.split_once(", \"")?;
        let code = rest.get(..7).filter(|code| code.starts_with("RBR-"))?;
        Some((code, *names.get(name).unwrap_or_else(|| panic!("no status {name}"))))
    });
    let mut statuses = BTreeMap::new();
    for (code, status) in pairs {
        assert_eq!(*statuses.entry(code).or_insert(status), status, "{code}");
    }
    statuses
}

/// What stands in backticks.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// What stands between ```` ```language ```` and the next fence.
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
