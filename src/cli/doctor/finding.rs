//! What was found, and how it is told: a table for people, JSON for machines. PURE but for the writing.

use std::io::{self, Write};

use serde::Serialize;

/// How bad it is; the exit code of the whole is the worst of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Ok,
    Warning,
    Failure,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    pub(super) area: &'static str,
    pub(super) thing: String,
    pub(super) says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cure: Option<String>,
}

impl Finding {
    pub(super) fn ok(
        area: &'static str,
        thing: impl Into<String>,
        says: impl Into<String>,
    ) -> Self {
        let (thing, says) = (thing.into(), says.into());
        Self { level: Level::Ok, area, thing, says, cure: None }
    }

    pub(super) fn warning(
        area: &'static str,
        thing: impl Into<String>,
        says: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        let cure = Some(cure.into()).filter(|cure: &String| !cure.is_empty());
        Self { level: Level::Warning, cure, ..Self::ok(area, thing, says) }
    }

    pub(super) fn failure(
        area: &'static str,
        thing: impl Into<String>,
        says: impl Into<String>,
        cure: impl Into<String>,
    ) -> Self {
        Self { level: Level::Failure, ..Self::warning(area, thing, says, cure) }
    }
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "FAILURE",
        }
    }
}

/// The worst of them.
pub(super) fn worst(findings: &[Finding]) -> Level {
    findings.iter().map(|it| it.level).max().unwrap_or(Level::Ok)
}

pub(super) fn show(findings: &[Finding], json: bool, out: &mut impl Write) -> io::Result<()> {
    if json {
        as_json(findings, out)?;
    } else {
        as_table(findings, out)?;
    }
    out.flush()
}

fn as_json(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    #[derive(Serialize)]
    struct Report<'a> {
        worst: Level,
        findings: &'a [Finding],
    }
    serde_json::to_writer_pretty(&mut *out, &Report { worst: worst(findings), findings })?;
    writeln!(out)
}

/// The cure stands below what it is for; a line of text is never cut.
fn as_table(findings: &[Finding], out: &mut impl Write) -> io::Result<()> {
    let widest = |of: fn(&Finding) -> &str| {
        findings.iter().map(|it| of(it).chars().count()).max().unwrap_or(0)
    };
    let (area, thing) = (widest(|it| it.area), widest(|it| &it.thing));
    for it in findings {
        let level = it.level.word();
        writeln!(out, "{level:7}  {:area$}  {:thing$}  {}", it.area, it.thing, it.says)?;
        if let Some(cure) = &it.cure {
            writeln!(out, "{:7}  {:area$}  {:thing$}  → {cure}", "", "", "")?;
        }
    }
    writeln!(out, "{}", summary(findings))
}

fn summary(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|it| it.level == level).count();
    let said = |number, word| format!("{number} {word}{}", if number == 1 { "" } else { "s" });
    match (count(Level::Warning), count(Level::Failure)) {
        (0, 0) => "All is well.".to_owned(),
        (warnings, 0) => format!("{}, no failure.", said(warnings, "warning")),
        (0, failures) => format!("{}.", said(failures, "failure")),
        (warnings, failures) => {
            format!("{}, {}.", said(failures, "failure"), said(warnings, "warning"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> Vec<Finding> {
        vec![
            Finding::ok("store", "/var/lib/ringbearer", "2 GiB free"),
            Finding::warning("process", "user", "this is root", "run it as another"),
            Finding::failure("listen", "127.0.0.1:80", "another program has it", "end that"),
        ]
    }

    #[test]
    fn people_get_a_table_with_each_cure_below_its_finding() {
        let mut out = Vec::new();
        show(&findings(), false, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "\
ok       store    /var/lib/ringbearer  2 GiB free
warning  process  user                 this is root
                                       → run it as another
FAILURE  listen   127.0.0.1:80         another program has it
                                       → end that
1 failure, 1 warning.
"
        );
    }

    #[test]
    fn machines_get_the_same_and_the_worst() {
        let mut out = Vec::new();
        show(&findings()[..2], true, &mut out).unwrap();
        let report: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(report["worst"], "warning");
        assert_eq!(
            report["findings"][1],
            serde_json::json!({
                "level": "warning", "area": "process", "thing": "user",
                "says": "this is root", "cure": "run it as another"
            })
        );
        assert!(report["findings"][0].get("cure").is_none());
    }

    #[test]
    fn the_last_line_counts() {
        assert_eq!(summary(&findings()[..1]), "All is well.");
        assert_eq!(summary(&findings()[..2]), "1 warning, no failure.");
        assert_eq!(summary(&findings()[2..]), "1 failure.");
    }
}
