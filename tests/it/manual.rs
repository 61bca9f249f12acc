//! Manual pages and completions, read by the programs that they are for.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::has_program;

fn ringbearer(arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_ringbearer")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    output.stdout
}

/// Feeds a program, and gives what it prints.
fn fed(mut command: Command, text: &[u8]) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    text
}

#[test]
fn there_is_a_page_for_each_command_and_nothing_to_complain_of_in_any() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().to_str().unwrap();
    assert!(ringbearer(&["man", "--all", path]).is_empty());
    let pages = fs::read_dir(directory.path()).unwrap().map(|it| it.unwrap().path());
    let pages: Vec<_> = pages.collect();
    let names = |name: &str| pages.iter().any(|page| page.ends_with(name));
    for name in ["ringbearer.1", "ringbearer-serve.1", "ringbearer-doctor.1", "ringbearer-man.1"] {
        assert!(names(name), "{name} in {pages:?}");
    }
    assert_eq!(fs::read(directory.path().join("ringbearer.1")).unwrap(), ringbearer(&["man"]));
    if !has_program("mandoc", "apt-get install mandoc") {
        return;
    }
    for page in &pages {
        let lint = Command::new("mandoc").args(["-Tlint", "-Wwarning"]).arg(page).output().unwrap();
        // A page without a date is the same whenever it is made.
        let said = String::from_utf8(lint.stdout).unwrap();
        // The generator breaks lines before it skips some, which shows nowhere.
        let harmless = ["missing date", "skipping paragraph macro"];
        let is_harmless = |line: &&str| harmless.iter().any(|words| line.contains(words));
        let said: Vec<_> = said.lines().filter(|line| !is_harmless(line)).collect();
        assert!(said.is_empty(), "{page:?}: {said:#?}");
    }
}

#[test]
fn the_page_shows_its_examples_line_by_line() {
    if !has_program("mandoc", "apt-get install mandoc") {
        return;
    }
    let mut mandoc = Command::new("mandoc");
    mandoc.args(["-Tascii", "-O", "width=120"]);
    let shown = fed(mandoc, &ringbearer(&["man"]));
    // Bold letters are struck twice.
    let mut plain = String::new();
    for letter in shown.chars() {
        if letter == '\u{8}' {
            plain.pop();
        } else {
            plain.push(letter);
        }
    }
    for line in [
        "ringbearer demo                                   see it work, without an account",
        "ringbearer-doctor(1)",
        "2  the command line or the configuration is refused; the message says how to cure it",
        "RINGBEARER_CONFIG",
    ] {
        assert!(plain.contains(line), "{line:?} in\n{plain}");
    }
}

#[test]
fn bash_completes_commands_flags_and_values() {
    if !has_program("bash", "apt-get install bash") {
        return;
    }
    let script = ringbearer(&["completions", "bash"]);
    let completed = |words: &[&str]| {
        let (last, line) = (words.len() - 1, words.join(" "));
        let mut bash = Command::new("bash");
        bash.args(["--norc", "--noprofile", "-c"]).arg(format!(
            "source /dev/stdin; COMP_WORDS=({line}); COMP_CWORD={last}; \
             _ringbearer ringbearer '{}' '{}'; echo \"${{COMPREPLY[*]}}\"",
            words[last],
            words[last - 1]
        ));
        fed(bash, &script).trim_end().to_owned()
    };
    assert_eq!(completed(&["ringbearer", "doc"]), "doctor");
    assert_eq!(completed(&["ringbearer", "check", "--onl"]), "--online");
    assert_eq!(completed(&["ringbearer", "serve", "--log-format", "j"]), "json");
}
