//! `docs/settings.md`: every key with what may be written, its default, its bounds, and what it is for. Made
//! from `proxy.example.toml`, which has the words, and from the code, which has the rest.

use std::fmt::Write as _;
use std::path::Path;

use super::example::commented_out;
use super::*;
use crate::config::{Config, keys};

const EXAMPLE: &str = include_str!("../../../proxy.example.toml");
/// Set, it has the page written.
const WRITE: &str = "RINGBEARER_WRITE";

const INTRODUCTION: &str = "\
# Every setting

Made from `proxy.example.toml` and the code by `RINGBEARER_WRITE=1 cargo test --lib settings::`. A test fails
while this page is behind.

An unknown key is an error, and the nearest known one is named. `ringbearer check --config FILE` says what a
file means, without starting anything. A change is in force within seconds, without a restart
([how](operation.md#change-the-configuration)).

| written | is |
|---|---|
| duration | `\"5s\"`, `\"2m\"`, `\"1h 30m\"` |
| size | `\"64KiB\"`, `\"1MiB\"`; `\"0B\"` is nothing |
| text, path | in quotes; a relative path starts at the directory of the file |
| several | one text, or an array of them |
| address | `\"127.0.0.1:8080\"`, `\"[::1]:8080\"`, `\"unix:/run/ringbearer.sock\"`, or an array of them |
| secret | text, `{ file = \"PATH\" }`, `{ env = \"NAME\" }` or `{ credential = \"NAME\" }` (systemd's) |

`NAME` is yours to choose. Flags win over the file: `--listen`, `--log`, `--log-format`,
`--allow-remote-clients`. Without a file the variables `RC_SERVER_URL`, `RC_APP_CLIENT_ID`, `RC_APP_CLIENT_SECRET` and
`RC_USER_JWT` are a configuration of one identity; `RINGBEARER_CONFIG` names a file.
";

/// One key of the example.
#[derive(Default)]
struct Entry {
    key: String,
    /// As it is written there.
    value: String,
    /// Whether that is the default, or only what it might be.
    is_default: bool,
    words: String,
}

/// One table of the example.
#[derive(Default)]
struct Table {
    name: String,
    words: String,
    entries: Vec<Entry>,
}

/// The example's own application and identity, whose values are nobody's default.
const SAMPLES: [&str; 3] = ["client_id", "client_secret", "jwt"];

fn tables() -> Vec<Table> {
    let (mut tables, mut words) = (Vec::<Table>::new(), Vec::new());
    // What comes before the first blank line is about the file.
    let body = EXAMPLE.split_once("\n\n# The side that apps talk to").unwrap().1;
    let body = format!("# The side that apps talk to{body}");
    for line in body.lines() {
        let code = commented_out(line);
        let shown = code.unwrap_or(line);
        if shown.starts_with('[') {
            let name = shown.trim_matches(['[', ']']).to_owned();
            tables.push(Table { name, words: words.join(" "), entries: Vec::new() });
            words.clear();
        } else if let Some((key, value)) = shown.split_once(" = ").filter(|_| is_code(line)) {
            let is_default = code.is_none() && !SAMPLES.contains(&key);
            let (key, value) = (key.to_owned(), value.to_owned());
            let entry = Entry { key, value, is_default, words: words.join(" ") };
            tables.last_mut().unwrap().entries.push(entry);
            words.clear();
        } else if let Some(said) = line.strip_prefix("# ") {
            words.push(said.to_owned());
        } else {
            assert!(line.is_empty(), "{line}");
            words.clear();
        }
    }
    tables
}

fn is_code(line: &str) -> bool {
    !line.starts_with('#') || commented_out(line).is_some()
}

/// The path of a table, with `*` for what the user names.
fn path_of(name: &str) -> Vec<&str> {
    let mut path: Vec<_> = name.split('.').collect();
    if ["host", "application", "identity", "client"].contains(&path[0]) {
        path[1] = "*";
    }
    path
}

fn header(name: &str) -> String {
    let path = path_of(name);
    path.join(".").replace('*', "NAME")
}

/// A configuration in which this line may stand where it belongs.
fn with(name: &str, key: &str, line: &str) -> String {
    let rest = "[application.a]\nclient_id = 'a'\n[identity.b]\njwt = 'a'\n";
    match path_of(name)[0] {
        "application" => {
            format!("[application.a]\nclient_id = 'a'\n{line}\n[identity.b]\njwt = 'a'\n")
        }
        "identity" => format!("{rest}{line}\n"),
        "client" => {
            let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
            let client = format!("[client.c]\nkey_sha256 = '{digest}'\nidentities = 'b'");
            format!("{rest}{client}\n{line}\n")
        }
        "host" => format!("{rest}[host.media]\nurl = 'https://media.ringcentral.com'\n{line}\n"),
        "store" if key.contains("redis") => {
            format!("{rest}[store]\nredis = 'rediss://a.test'\n{line}\n")
        }
        "proxy" if key == "max_wait" || key == "max_queue" => {
            format!("{rest}[proxy]\npacing = true\n{line}\n")
        }
        _ => format!("{rest}[{name}]\n{line}\n"),
    }
}

/// Whether a file says the same with a key as without: then what it has is the default.
fn is_no_change(name: &str, key: &str, value: &str) -> bool {
    let line = format!("{key} = {value}");
    let (without, with) = (load(&with(name, key, "")), load(&with(name, key, &line)));
    without.is_ok() && with.is_ok() && format!("{without:?}") == format!("{with:?}")
}

/// What may be written for a key: the code refuses a fraction, and says what it had expected.
fn kind(name: &str, key: &str) -> &'static str {
    let error =
        Config::parse(&format!("[{}]\n{key} = 1.5\n", header(name))).unwrap_err().to_string();
    let expected = error.rsplit_once(" needs ").unwrap_or_else(|| panic!("{error}")).1;
    match expected {
        "true or false" => "true or false",
        "text in quotes" if key.ends_with("file") || key == "directory" => "path",
        "text in quotes" => "text",
        "text in quotes, or an array of such" => "several",
        "a duration such as \"5s\" or \"2m\"" => "duration",
        "a size such as \"64KiB\" or \"1MiB\"" => "size",
        "a whole number, at least 1" | "u32" => "number",
        "a number such as `id -u NAME` prints, or an array of such" => "number, or several",
        "a sequence" => "array of secrets",
        _ if expected.starts_with("the secret as text") => "secret",
        _ if expected.starts_with("an IP address and port") => "address",
        other => panic!("[{name}] {key} needs {other}: tell this test what that is"),
    }
}

/// The bounds of a key, as the code tells whoever goes beyond.
fn bounds(name: &str, key: &str, kind: &str) -> Option<String> {
    let beyond = match kind {
        "duration" => "\"3000000days\"",
        "size" => "\"8000PiB\"",
        "number" => "4294967295",
        _ => return None,
    };
    let toml = with(name, key, &format!("{key} = {beyond}"));
    // Whoever is named in front of it, the end of the message is the same.
    let told = chain(&load(&toml).err()?);
    let (min, max) = told.rsplit_once(": it must be between ")?.1.split_once(" and ")?;
    Some(format!("{min} to {max}"))
}

fn row(name: &str, entry: &Entry) -> String {
    let kind = kind(name, &entry.key);
    let bounds = bounds(name, &entry.key, kind).map_or(String::new(), |it| format!(", {it}"));
    let is_default = entry.is_default || is_no_change(name, &entry.key, &entry.value);
    let (default, such_as) = if is_default {
        (format!("`{}`", entry.value), String::new())
    } else {
        ("–".to_owned(), format!(", as in `{}`", entry.value))
    };
    // A bar ends a cell.
    let words = entry.words.replace('|', "\\|");
    format!("| `{}` | {kind}{bounds}{such_as} | {default} | {words} |", entry.key)
}

fn rendered() -> String {
    let mut page = INTRODUCTION.to_owned();
    for table in tables() {
        writeln!(page, "\n## {}\n\n{}\n", header(&table.name), table.words).unwrap();
        page.push_str("| key | value | default | what it is for |\n|---|---|---|---|\n");
        for entry in &table.entries {
            writeln!(page, "{}", row(&table.name, entry)).unwrap();
        }
    }
    page
}

#[test]
fn the_page_has_every_key_with_its_default_and_bounds() {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/settings.md");
    if std::env::var_os(WRITE).is_some() {
        std::fs::write(&page, rendered()).unwrap();
    }
    let written = std::fs::read_to_string(page).unwrap();
    assert!(
        written == rendered(),
        "docs/settings.md is behind: {WRITE}=1 cargo test --lib settings::"
    );
    for (path, known) in keys::tables() {
        if path.is_empty() {
            continue;
        }
        let name = path.join(".").replace('*', "NAME");
        let section = written.split(&format!("\n## {name}\n")).nth(1);
        let section = section.unwrap_or_else(|| panic!("no section {name}"));
        let section = section.split("\n## ").next().unwrap();
        for key in known.iter().filter(|key| !path.is_empty() && !is_table(&name, key)) {
            let rows = section.lines().filter(|line| line.starts_with(&format!("| `{key}` |")));
            assert_eq!(rows.count(), 1, "[{name}] {key}");
        }
    }
}

/// `[proxy]` has tables of its own among its keys.
fn is_table(name: &str, key: &str) -> bool {
    name == "proxy" && (key == "tls" || key == "http2")
}
